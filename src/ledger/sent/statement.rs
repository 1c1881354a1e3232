//! A statement beside what is known of the server's side: what should be, what is, what was about to be, and what keeps the
//! rest back. What is pending follows from these, each time that it is asked for.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::amount::{StatementKey, key};
use super::blocked::{Block, blocks_of_all};
use super::known::{Acknowledged, Known, Open, Scope, each_of, has_shares, known_of_all};
use super::server::RowRead;
use crate::ledger::db::columns::{decimal_in, instant};
use crate::ledger::db::sql::{self, Connection, ToSql};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// A statement with what is known of the server's side.
#[derive(Debug, Clone)]
pub struct Statement {
    pub key: StatementKey,
    pub changed: Timestamp,
    /// When, after its month, what was posted last had been read back equal.
    pub closed: Option<Timestamp>,
    /// The last run that is counted in it.
    pub counted: i64,
    /// Its month is only compared (`report: shadow`).
    pub shadow: bool,
    /// By component.
    pub components: BTreeMap<String, Entry>,
    /// By component and user.
    pub users: BTreeMap<(String, String), Entry>,
}

/// One number of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// What was used.
    pub exact: String,
    pub used: Option<Decimal>,
    /// What the server should hold: what was used, with what was moved between months.
    pub posted: Option<Decimal>,
    /// Why it can't be posted.
    pub problem: Option<String>,
    pub acknowledged: Option<Acknowledged>,
    /// Sent, with outcomes that are not known.
    pub open: Vec<Open>,
    /// Of a share: what belongs to the total that was sent last.
    pub planned: Option<Decimal>,
    pub block: Option<Block>,
    /// Its month is only compared: nothing of it is to be sent.
    pub shadow: bool,
}

/// What the server holds, as far as is known, and how and when that became known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holds {
    pub amount: Decimal,
    /// `accepted` or `read`.
    pub how: &'static str,
    pub at: Timestamp,
}

impl Statement {
    /// Whether anything of it was ever accepted.
    pub fn was_reported(&self) -> bool {
        self.components.values().any(|entry| entry.acknowledged.is_some())
    }
}

impl Statement {
    /// Shares that changed by themselves: their total is what was accepted, so that none that is still to be sent takes them
    /// along. Each with what it was to be until then.
    pub fn late_shares(&self) -> impl Iterator<Item = (&(String, String), &Entry, Decimal)> {
        self.users.iter().filter_map(|(place, entry)| {
            let total = self.components.get(&place.0)?;
            let before = entry.accepted();
            let is_free = entry.block.is_none() && !entry.is_unclear() && !entry.shadow;
            let is_late = is_free && !total.differs() && entry.posted.is_some_and(|posted| posted != before);
            is_late.then_some((place, entry, before))
        })
    }

    /// The number of a component, or of one of its users.
    pub fn entry(&self, component: &str, user: &str) -> Option<&Entry> {
        match user.is_empty() {
            true => self.components.get(component),
            false => self.users.get(&(component.to_owned(), user.to_owned())),
        }
    }
}

impl Entry {
    /// Whether the server is not known to hold what it should. What was never posted and is zero need not be, and of a month
    /// that is only compared nothing.
    pub fn differs(&self) -> bool {
        if self.shadow {
            return false;
        }
        if self.is_unclear() {
            return true;
        }
        match (self.posted, &self.acknowledged) {
            (None, _) => self.problem.is_some(),
            (Some(posted), None) => !posted.is_zero(),
            (Some(posted), Some(acknowledged)) => posted != acknowledged.amount,
        }
    }

    /// Whether something was sent after what was accepted last, and its outcome is not known. What was sent before that may
    /// still arrive late, but is no reason to wait.
    pub fn is_unclear(&self) -> bool {
        let accepted = self.acknowledged.as_ref().map_or(0, |known| known.id);
        self.open.iter().any(|open| open.id > accepted)
    }

    pub fn to_send(&self) -> bool {
        self.differs() && self.block.is_none()
    }

    /// What the server holds of it, as far as is known.
    pub fn held(&self) -> Decimal {
        self.acknowledged.as_ref().map_or(Decimal::ZERO, |known| known.amount)
    }

    /// Whether what the server holds of it is our doing: accepted from us, or just what it should be.
    pub fn is_ours(&self) -> bool {
        let is_ours = |known: &Acknowledged| known.how == "accepted" || self.posted == Some(known.amount);
        self.acknowledged.as_ref().is_some_and(is_ours)
    }

    /// The same of a share, or what it is still to be completed to.
    pub fn accepted(&self) -> Decimal {
        self.planned.unwrap_or_else(|| self.held())
    }

    /// What the server holds, for people: the number that was last accepted from us or taken for ours, or another one that was
    /// read since, whoever wrote it. `row`: its row as it was last read; shares have none.
    pub fn holds(&self, row: Option<&RowRead>) -> Option<Holds> {
        let known = self.acknowledged.as_ref();
        let is_later =
            |row: &&RowRead| known.is_none_or(|known| known.amount != row.amount && row.at > known.at);
        match (row.filter(is_later), known) {
            (Some(row), _) => Some(Holds { amount: row.amount, how: "read", at: row.at }),
            (None, Some(known)) => Some(Holds { amount: known.amount, how: known.how, at: known.at }),
            (None, None) => None,
        }
    }

    /// A share that belongs to what was accepted, and is not there yet.
    pub fn to_complete(&self) -> Option<Decimal> {
        self.planned.filter(|planned| self.acknowledged.as_ref().map(|known| known.amount) != Some(*planned))
    }

    /// What was moved from other months, less what was moved to others or given up.
    pub fn carried(&self) -> Option<Decimal> {
        self.posted?.checked_sub(self.used?)
    }

    /// How the number stands, in a word.
    pub fn state(&self) -> &str {
        match &self.block {
            _ if self.shadow => "shadow",
            Some(block) if self.differs() || block.state == "held" => &block.state,
            _ if self.problem.is_some() => "held",
            _ if self.to_send() => "pending",
            _ => "agreed",
        }
    }

    pub fn is_blocked_for(&self, reason: &str) -> bool {
        self.block.as_ref().is_some_and(|block| block.reason == reason)
    }
}

impl Ledger {
    /// Statements of which something is to be sent, or to be learnt.
    pub fn pending(&mut self, now: Timestamp) -> Result<Vec<StatementKey>, LedgerError> {
        self.state(now)?;
        self.pending_as_stated()
    }

    /// The same, of months before this one.
    pub fn pending_before(
        &mut self,
        month: BillingPeriod,
        now: Timestamp,
    ) -> Result<Vec<StatementKey>, LedgerError> {
        let mut pending = self.pending(now)?;
        pending.retain(|key| key.period < month);
        Ok(pending)
    }

    /// What `pending` found when statements were last made.
    pub fn pending_as_stated(&self) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            // Before anything is read: what is written meanwhile is news the next time.
            let stamp = connection.stamp()?;
            if let (Some(stamp), Some((of, known))) = (stamp, &*self.pending.borrow())
                && *of == stamp
            {
                let keys =
                    known.iter().map(|&(resource, period, part)| StatementKey { resource, period, part });
                return Ok(keys.collect());
            }
            let keys = pending(connection)?;
            let known = keys.iter().map(|key| (key.resource, key.period, key.part)).collect();
            *self.pending.borrow_mut() = stamp.map(|stamp| (stamp, known));
            Ok(keys)
        })
    }

    /// The earliest instant at which something that was put off may be tried again: the server, or a resource of which
    /// there is something to send.
    pub fn next_retry(&self) -> Result<Option<Timestamp>, LedgerError> {
        let waiting: BTreeSet<String> =
            self.pending_as_stated()?.into_iter().map(|key| key.resource.to_string()).collect();
        self.look(|connection| {
            let retries: Vec<(String, i64)> = connection
                .prepare_cached("SELECT resource, next FROM retry ORDER BY next")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<sql::Result<_>>()?;
            let due = |(resource, _): &&(String, i64)| resource.is_empty() || waiting.contains(resource);
            Ok(retries.iter().find(due).map(|(_, next)| instant(*next)))
        })
    }

    /// All statements of a period, of resources that were found in Waldur.
    pub fn keys_of_known_resources(&self, period: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT statement.resource, period, part FROM statement
                     JOIN resource ON resource.uuid = statement.resource WHERE period = ?1",
                )?
                .query_map([period.to_string()], |row| key(row, 0))?
                .collect()
        })
    }

    pub fn statement(&self, key: StatementKey) -> Result<Option<Statement>, LedgerError> {
        self.look(|connection| statements(connection, &[key], Scope::Whole).map(|mut found| found.pop()))
    }

    /// These statements, in their order, as far as they are there.
    pub fn statements_of(&self, keys: &[StatementKey]) -> Result<Vec<Statement>, LedgerError> {
        self.look(|connection| statements(connection, keys, Scope::Whole))
    }

    /// A statement without the shares of its users: most of what is to be known of one does not take them.
    pub fn totals(&self, key: StatementKey) -> Result<Option<Statement>, LedgerError> {
        self.look(|connection| statements(connection, &[key], Scope::Totals).map(|mut found| found.pop()))
    }

    /// The same of several statements, in their order, as far as they are there.
    pub fn totals_of(&self, keys: &[StatementKey]) -> Result<Vec<Statement>, LedgerError> {
        self.look(|connection| statements(connection, keys, Scope::Totals))
    }

    /// Whether the server is known to hold shares of users.
    pub fn has_shares(&self, key: StatementKey) -> Result<bool, LedgerError> {
        self.look(|connection| has_shares(connection, key))
    }

    /// All statements of this period, or of all periods.
    pub fn statements(&self, period: Option<BillingPeriod>) -> Result<Vec<Statement>, LedgerError> {
        self.look(|connection| {
            let keys: Vec<StatementKey> = connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement WHERE ?1 IS NULL OR period = ?1
                     ORDER BY period, resource, part",
                )?
                .query_map([period.map(|period| period.to_string())], |row| self::key(row, 0))?
                .collect::<sql::Result<_>>()?;
            statements(connection, &keys, Scope::Whole)
        })
    }

    /// The parts of these resources' month.
    pub fn parts_of_all(
        &self,
        resources: &[uuid::Uuid],
        period: BillingPeriod,
    ) -> Result<Vec<StatementKey>, LedgerError> {
        let (resources, period): (Vec<String>, String) =
            (resources.iter().map(uuid::Uuid::to_string).collect(), period.to_string());
        let rows: Vec<[&dyn ToSql; 2]> =
            resources.iter().map(|resource| [resource as &dyn ToSql, &period]).collect();
        let mut keys = Vec::with_capacity(resources.len());
        self.look(|connection| {
            connection.query_rows(
                "SELECT resource, period, part FROM (VALUES {rows}) v CROSS JOIN statement
                 WHERE resource = v.column1 AND period = v.column2",
                &rows,
                |row| {
                    keys.push(key(row, 0)?);
                    Ok(())
                },
            )
        })?;
        Ok(keys)
    }

    /// The parts of a resource's month.
    pub fn parts_of(
        &self,
        resource: uuid::Uuid,
        period: BillingPeriod,
    ) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement WHERE resource = ?1 AND period = ?2",
                )?
                .query_map([resource.to_string(), period.to_string()], |row| key(row, 0))?
                .collect()
        })
    }
}

/// Statements of which something is to be sent, or to be learnt.
fn pending(connection: &Connection) -> sql::Result<Vec<StatementKey>> {
    let mut keys: Vec<StatementKey> = connection
        .prepare_cached(
            "SELECT resource, period, part FROM statement
             WHERE closed IS NULL AND period NOT IN (SELECT period FROM shadow) AND EXISTS (
                SELECT 1 FROM line
                LEFT JOIN sent ON sent.resource = line.resource AND sent.period = line.period AND sent.part = line.part
                    AND sent.component = line.component AND sent.username = line.username AND sent.current = 1
                WHERE line.resource = statement.resource AND line.period = statement.period AND line.part = statement.part
                    AND line.held IS NULL
                    AND (sent.outcome = 'planned' OR sent.outcome = 'open' AND NOT EXISTS (
                            SELECT 1 FROM sent later WHERE later.resource = line.resource AND later.period = line.period
                            AND later.part = line.part AND later.component = line.component
                            AND later.username = line.username AND later.current = 1
                            AND later.outcome IN ('accepted', 'read') AND later.id > sent.id)
                        OR line.posted IS NULL AND line.problem IS NOT NULL
                        OR sent.id IS NULL AND line.posted <> '0.00'
                        OR sent.outcome IN ('accepted', 'read') AND sent.amount <> line.posted)
                    AND NOT EXISTS (SELECT 1 FROM blocked WHERE blocked.resource = line.resource
                        AND blocked.period = line.period AND blocked.part = line.part
                        AND (blocked.component = '' OR blocked.component = line.component
                             AND blocked.username IN ('', line.username))
                        -- The shares of an accepted total are completed all the same.
                        AND NOT (blocked.state = 'stranded' AND line.username <> '' AND sent.id IS NOT NULL
                             AND sent.outcome IN ('planned', 'open') AND EXISTS (SELECT 1 FROM sent total
                                WHERE total.resource = line.resource AND total.period = line.period
                                AND total.part = line.part AND total.component = line.component
                                AND total.username = '' AND total.current = 1
                                AND total.outcome IN ('accepted', 'read'))))
                    AND NOT EXISTS (SELECT 1 FROM line total WHERE total.resource = line.resource
                        AND total.period = line.period AND total.part = line.part AND total.component = line.component
                        AND total.username = '' AND total.held IS NOT NULL))",
        )?
        .query_map([], |row| key(row, 0))?
        .collect::<sql::Result<_>>()?;
    // In order here: asked for in order, all that was ever stated would be gone through.
    keys.sort_unstable();
    Ok(keys)
}

/// These statements, in their order, without those that there are none of.
fn statements(connection: &Connection, keys: &[StatementKey], which: Scope) -> sql::Result<Vec<Statement>> {
    let mut statements: Vec<Option<Statement>> = vec![None; keys.len()];
    each_of(
        connection,
        keys,
        "SELECT v.column4, changed, closed, EXISTS (SELECT 1 FROM shadow WHERE shadow.period = statement.period), counted
         FROM (VALUES {rows}) v CROSS JOIN statement
         WHERE statement.resource = v.column1 AND statement.period = v.column2 AND statement.part = v.column3",
        |place, row| {
            let (Some(key), Some(statement)) = (keys.get(place), statements.get_mut(place)) else { return Ok(()) };
            *statement = Some(Statement {
                key: *key,
                changed: instant(row.get(1)?),
                closed: row.get::<_, Option<i64>>(2)?.map(instant),
                shadow: row.get(3)?,
                counted: row.get(4)?,
                components: BTreeMap::new(),
                users: BTreeMap::new(),
            });
            Ok(())
        },
    )?;
    let mut lines: Vec<Vec<((String, String), Entry)>> = vec![Vec::new(); keys.len()];
    let mut held: BTreeMap<(usize, String), (String, String)> = BTreeMap::new();
    each_of(
        connection,
        keys,
        match which {
            Scope::Whole => {
                "SELECT v.column4, component, username, exact, used, posted, problem, held, held_words
                 FROM (VALUES {rows}) v CROSS JOIN line
                 WHERE line.resource = v.column1 AND line.period = v.column2 AND line.part = v.column3"
            }
            Scope::Totals => {
                "SELECT v.column4, component, username, exact, used, posted, problem, held, held_words
                 FROM (VALUES {rows}) v CROSS JOIN line
                 WHERE line.resource = v.column1 AND line.period = v.column2 AND line.part = v.column3
                   AND line.username = ''"
            }
        },
        |place, row| {
            let Some(lines) = lines.get_mut(place) else { return Ok(()) };
            let component: String = row.get(1)?;
            if let Some(reason) = row.get::<_, Option<String>>(7)? {
                let words = row.get::<_, Option<String>>(8)?.unwrap_or_default();
                held.insert((place, component.clone()), (reason, words));
            }
            let entry = Entry {
                exact: row.get(3)?,
                used: decimal_in(row, 4)?,
                posted: decimal_in(row, 5)?,
                problem: row.get(6)?,
                ..Entry::default()
            };
            lines.push(((component, row.get(2)?), entry));
            Ok(())
        },
    )?;
    let known = known_of_all(connection, keys, which)?;
    let mut whole = Vec::with_capacity(keys.len());
    let parts = statements.into_iter().zip(lines).zip(known).zip(blocks_of_all(connection, keys)?);
    for (place, (((statement, mut entries), mut known), blocks)) in parts.enumerate() {
        let Some(mut statement) = statement else { continue };
        for (line, entry) in &mut entries {
            if let Some(Known { acknowledged, open, planned }) = known.remove(line) {
                (entry.acknowledged, entry.open, entry.planned) = (acknowledged, open, planned);
            }
        }
        let of_no_line = known.into_iter().map(|(line, Known { acknowledged, open, planned })| {
            (line, Entry { acknowledged, open, planned, ..Entry::default() })
        });
        entries.extend(of_no_line);
        let of = |component: &str, user: &str| match blocks.is_empty() {
            true => None,
            false => blocks.get(&(component.to_owned(), user.to_owned())).map(|(block, _)| block.clone()),
        };
        let by_the_books = |component: &str| match held.is_empty() {
            true => None,
            false => {
                let (reason, words) = held.get(&(place, component.to_owned()))?.clone();
                Some(Block { state: "held".to_owned(), reason, words, since: statement.changed })
            }
        };
        for ((component, user), entry) in &mut entries {
            entry.block = of("", "")
                .or_else(|| of(component, ""))
                .or_else(|| by_the_books(component))
                .or_else(|| of(component, user));
            entry.shadow = statement.shadow;
        }
        // Made of lists, maps are as small as can be.
        let (totals, users): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|((_, user), _)| user.is_empty());
        statement.components = totals.into_iter().map(|((component, _), entry)| (component, entry)).collect();
        statement.users = users.into_iter().collect();
        whole.push(statement);
    }
    Ok(whole)
}
