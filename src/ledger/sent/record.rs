//! One record of what was sent, of what the server holds, and of how that is known.
//!
//! A number is written before it is sent (open), and that row takes the outcome: accepted, refused, or not there when it
//! was looked for. What is found in the server's rows stands beside it (read). What is pending is the difference between
//! lines and this record; it is never kept. Nothing here decides what to do about a difference; the submitter does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::lock::is_current;
use crate::ledger::books::unstated::changed_components;
use crate::ledger::db::columns::{decimal_in, instant, micros, period_column, two_decimals, uuid_column};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, Row, ToSql, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// Which statement: one resource, one billing period, and the part of it that one plan period covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementKey {
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// The first instant of the part.
    pub part: Timestamp,
}

/// An amount of a component ('' as user) or of one of its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    pub component: String,
    pub user: String,
    pub amount: Decimal,
}

/// What is about to be sent in one call.
#[derive(Debug, Clone, Copy)]
pub struct Intent<'a> {
    pub key: StatementKey,
    /// `set_usage`, `set_user_usage` or `set_user_usages`.
    pub call: &'a str,
    pub amounts: &'a [Amount],
    /// The shares that belong to these totals.
    pub planned: &'a [Amount],
    /// The last run that is counted in the totals.
    pub counted: i64,
}

/// What the server is known to hold, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub id: i64,
    pub amount: Decimal,
    /// `accepted` or `read`.
    pub how: &'static str,
    pub at: Timestamp,
    /// The last run that is counted in it; 0 where it was found in the server's rows.
    pub counted: i64,
}

/// A number that was sent and whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub id: i64,
    pub amount: Decimal,
    pub at: Timestamp,
}

/// What is known of one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) acknowledged: Option<Acknowledged>,
    pub(super) open: Vec<Open>,
    /// A share that belongs to the total that was sent last.
    pub(super) planned: Option<Decimal>,
}

impl Known {
    /// What of it is the server's: accepted, or still to be completed as part of what was.
    pub(super) fn held(&self) -> Decimal {
        let accepted = self.acknowledged.as_ref().map(|known| known.amount);
        self.planned.or(accepted).unwrap_or_default()
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    /// Certainly not applied.
    Refused,
    /// It may have been applied: to be looked for in the server's rows.
    Unknown,
}

impl Ledger {
    /// Writes down what is about to be sent, and the shares that belong to it; returns the numbers of what is sent.
    pub fn intend(&mut self, intent: Intent<'_>, now: Timestamp) -> Result<Vec<i64>, LedgerError> {
        let Intent { key, call, amounts, planned, counted } = intent;
        self.transact_in_turn(|connection, _, turn| {
            let new =
                |amounts, outcome| New { key, amounts, call, at: now, turn, outcome, words: "", counted };
            // What was planned with an earlier total of these components is not any more.
            for total in amounts.iter().filter(|amount| amount.user.is_empty()) {
                unplan(connection, key, (&total.component, None))?;
            }
            insert(connection, new(planned, "planned"))?;
            insert(connection, new(amounts, "open"))
        })
    }

    /// Notes what became of what was sent. Of a process whose turn is over, an acceptance is not believed but stays open: a
    /// later holder may have sent newer amounts before or since.
    pub fn conclude(
        &mut self,
        ids: &[i64],
        outcome: Outcome,
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, _| {
            let current = is_current(connection, turn)?;
            match outcome {
                Outcome::Accepted if current => accept(connection, ids, words, now)?,
                Outcome::Refused if current => refuse(connection, ids, words)?,
                _ => note_outcome(connection, ids, ("open", words, true))?,
            }
            if !current && outcome == Outcome::Accepted {
                // It landed after what was accepted since: whatever stands now is to be looked for.
                ids.iter().try_for_each(|id| put_last(connection, *id))?;
            }
            Ok(current.then_some(()))
        })?;
        self.in_turn(done)
    }

    /// Notes what the server's rows hold, where that is taken for what it should: our own number, or one that was decided
    /// upon.
    pub fn note_read(
        &mut self,
        key: StatementKey,
        amounts: &[Amount],
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, turn| {
            for amount in amounts {
                note_read(connection, key, amount, (words, turn), now)?;
            }
            Ok(())
        })
    }

    /// Notes another writer's total, and what the server holds of its users.
    pub fn take_theirs(
        &mut self,
        key: StatementKey,
        amounts: &[Amount],
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, turn| note_theirs(connection, key, amounts, (words, turn), now))
    }

    /// Notes what the server holds of users' shares that are to be overwritten (`found`), and what they are to be: those of the
    /// total that it holds (`wanted`).
    pub fn overwrite_shares(
        &mut self,
        key: StatementKey,
        (found, wanted): (&[Amount], &[Amount]),
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, turn| {
            note_theirs(connection, key, found, (OVERWRITTEN, turn), now)?;
            plan(connection, (key, turn), wanted, now)
        })
    }

    /// Whether shares of a component were taken to be overwritten since then.
    pub fn were_shares_overwritten_since(
        &self,
        key: StatementKey,
        component: &str,
        since: Timestamp,
    ) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT 1 FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                     AND username <> '' AND call = 'read' AND words = ?5 AND at >= ?6",
                )?
                .exists(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    micros(key.part),
                    component,
                    OVERWRITTEN,
                    micros(since)
                ])
        })
    }

    /// Notes shares that are to be completed, beside a total that the server holds.
    pub fn plan_shares(
        &mut self,
        key: StatementKey,
        shares: &[Amount],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, turn| plan(connection, (key, turn), shares, now))
    }

    /// Ends what is open: the server's row was read after the longest time that a call may take, or it is one of them
    /// (`there`) that the row holds.
    pub fn close_open(
        &mut self,
        open: &[i64],
        there: Option<i64>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, _| {
            for &id in open {
                if Some(id) == there {
                    accept(connection, &[id], "found when it was looked for", now)?;
                } else {
                    connection
                        .prepare_cached("UPDATE sent SET outcome = 'not there', current = 0 WHERE id = ?")?
                        .execute([id])?;
                    let (key, component, user) = line_of(connection, id)?;
                    if user.is_empty() {
                        plan_as_before(connection, key, &component, id)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Whether the server has ever accepted a report of another resource.
    pub fn has_accepted_of_others(&self, resource: Uuid) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM sent WHERE outcome = 'accepted' AND resource <> ?1)",
                )?
                .query_row([resource.to_string()], |row| row.get(0))
        })
    }

    /// Whether this amount was ever sent for this month with an outcome that was not learnt at once.
    pub fn was_in_doubt(
        &self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
    ) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT 1 FROM sent WHERE resource = ?1 AND period = ?2 AND component = ?3 AND username = ''
                     AND amount = ?4 AND (outcome IN ('open', 'not there') OR words <> '')",
                )?
                .exists(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    component,
                    two_decimals(amount)
                ])
        })
    }
}

/// New rows of the record.
struct New<'a> {
    key: StatementKey,
    amounts: &'a [Amount],
    call: &'a str,
    at: Timestamp,
    turn: i64,
    outcome: &'a str,
    words: &'a str,
    counted: i64,
}

/// Returns their numbers.
fn insert(connection: &Connection, new: New<'_>) -> sql::Result<Vec<i64>> {
    let New { key, amounts, call, at, turn, outcome, words, counted } = new;
    let (resource, period, part, at) =
        (key.resource.to_string(), key.period.to_string(), micros(key.part), micros(at));
    let texts: Vec<String> = amounts.iter().map(|amount| two_decimals(amount.amount)).collect();
    let rows: Vec<[&dyn ToSql; 13]> = amounts
        .iter()
        .zip(&texts)
        .map(|(Amount { component, user, .. }, amount)| {
            let place: [&dyn ToSql; 5] = [&resource, &period, &part, component, user];
            let [resource, period, part, component, user] = place;
            [
                resource, period, part, component, user, amount, &call, &at, &turn, &outcome, &words, &true,
                &counted,
            ]
        })
        .collect();
    let mut ids = Vec::with_capacity(amounts.len());
    connection.query_rows(
        "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words, current,
                           counted)
         VALUES {rows} RETURNING id",
        &rows,
        |row| {
            ids.push(row.get(0)?);
            Ok(())
        },
    )?;
    Ok(ids)
}

/// Makes a row the last of the record.
fn put_last(connection: &Connection, id: i64) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
                current, counted)
             SELECT resource, period, part, component, username, amount, call, at, turn, outcome, words, current, counted
             FROM sent WHERE id = ?",
        )?
        .execute([id])?;
    connection.prepare_cached("DELETE FROM sent WHERE id = ?")?.execute([id])?;
    Ok(())
}

/// What is written beside a share that was read to be overwritten.
const OVERWRITTEN: &str = "overwritten";

/// Shares that belong to the total that the server holds, in place of what was planned of their lines.
fn plan(
    connection: &Connection,
    (key, turn): (StatementKey, i64),
    shares: &[Amount],
    now: Timestamp,
) -> sql::Result<()> {
    for Amount { component, user, .. } in shares {
        unplan(connection, key, (component, Some(user)))?;
    }
    let (call, outcome) = ("set_user_usages", "planned");
    insert(connection, New { key, amounts: shares, call, at: now, turn, outcome, words: "", counted: 0 })?;
    Ok(())
}

/// Notes what another writer put there: totals, in these words, and shares. The statement is looked at again.
fn note_theirs(
    connection: &Connection,
    key: StatementKey,
    amounts: &[Amount],
    (words, turn): (&str, i64),
    now: Timestamp,
) -> sql::Result<()> {
    let mut places = BTreeSet::new();
    for amount in amounts {
        let words = if amount.user.is_empty() { words } else { OVERWRITTEN };
        note_read(connection, key, amount, (words, turn), now)?;
        places.insert((key.resource.to_string(), key.period.to_string(), amount.component.clone()));
    }
    // Who was only another writer's user has a line from now on.
    changed_components(connection, places)?;
    reopen(connection, key)
}

/// The shares that were planned with a total of this component (all, or that of one user) are not any more.
pub(super) fn unplan(
    connection: &Connection,
    key: StatementKey,
    (component, user): (&str, Option<&str>),
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND (?5 IS NULL OR username = ?5) AND current = 1 AND outcome = 'planned'",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            user
        ])?;
    Ok(())
}

/// Another row takes the place of what was known of a line.
fn supersede(connection: &Connection, key: StatementKey, component: &str, user: &str) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND username = ?5 AND current = 1 AND outcome IN ('accepted', 'read')",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            user
        ])?;
    Ok(())
}

/// Numbers of which it is noted together that they were accepted: of a large site there are very many.
const ACCEPTED_TOGETHER: usize = if cfg!(test) { 3 } else { 512 };

/// Notes that these numbers were accepted. Of several of one line, the last one stands.
fn accept(connection: &Connection, ids: &[i64], words: &str, now: Timestamp) -> sql::Result<()> {
    ids.chunks(ACCEPTED_TOGETHER).try_for_each(|some| accept_some(connection, some, words, now))
}

fn accept_some(connection: &Connection, ids: &[i64], words: &str, now: Timestamp) -> sql::Result<()> {
    let mut places: HashMap<i64, Line> = HashMap::with_capacity(ids.len());
    let sought: Vec<[&dyn ToSql; 1]> = ids.iter().map(|id| [id as &dyn ToSql]).collect();
    connection.query_rows(
        "SELECT sent.id, resource, period, part, component, username FROM (VALUES {rows}) v CROSS JOIN sent
         WHERE sent.id = v.column1",
        &sought,
        |row| {
            places.insert(row.get(0)?, (key(row, 1)?, row.get(4)?, row.get(5)?));
            Ok(())
        },
    )?;
    let mut last: BTreeMap<Line, i64> = BTreeMap::new();
    for id in ids {
        last.extend(places.remove(id).map(|line| (line, *id)));
    }
    let columns: Vec<(String, String, i64)> = last
        .keys()
        .map(|(key, ..)| (key.resource.to_string(), key.period.to_string(), micros(key.part)))
        .collect();
    let lines: Vec<[&dyn ToSql; 6]> = last
        .iter()
        .zip(&columns)
        .map(|(((_, component, user), id), (resource, period, part))| {
            [resource as &dyn ToSql, period, part, component, user, id]
        })
        .collect();
    // A share is replaced by name, so that one is as good as another; and what was planned is done. Of totals that are
    // under way it is not known which the server takes last.
    connection.execute_rows(
        "UPDATE sent SET current = 0 FROM (VALUES {rows}) v
         WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.part = v.column3
           AND sent.component = v.column4 AND sent.username = v.column5 AND sent.current = 1 AND sent.id <> v.column6
           AND (sent.username <> '' OR sent.outcome IN ('accepted', 'read'))",
        &lines,
    )?;
    let at = micros(now);
    let standing: BTreeSet<i64> = last.values().copied().collect();
    let rows: Vec<[&dyn ToSql; 4]> = ids
        .iter()
        .map(|id| {
            let current: &dyn ToSql = if standing.contains(id) { &true } else { &false };
            [id as &dyn ToSql, &words, current, &at]
        })
        .collect();
    connection.execute_rows(
        "UPDATE sent SET outcome = 'accepted', words = v.column2, current = v.column3, at = v.column4
         FROM (VALUES {rows}) v WHERE sent.id = v.column1",
        &rows,
    )?;
    let keys: BTreeSet<StatementKey> = last.into_keys().map(|(key, ..)| key).collect();
    keys.into_iter().try_for_each(|key| reopen(connection, key))
}

/// Notes that these numbers were certainly not applied.
fn refuse(connection: &Connection, ids: &[i64], words: &str) -> sql::Result<()> {
    for &id in ids {
        let (key, component, user) = line_of(connection, id)?;
        if user.is_empty() {
            plan_as_before(connection, key, &component, id)?;
        }
    }
    note_outcome(connection, ids, ("refused", words, false))
}

fn note_outcome(
    connection: &Connection,
    ids: &[i64],
    (outcome, words, current): (&str, &str, bool),
) -> sql::Result<()> {
    let mut update =
        connection.prepare_cached("UPDATE sent SET outcome = ?2, words = ?3, current = ?4 WHERE id = ?1")?;
    ids.iter().try_for_each(|id| update.execute(params![id, outcome, words, current]).map(drop))
}

/// One number that can be sent: of a component, or of a user of it.
type Line = (StatementKey, String, String);

fn line_of(connection: &Connection, id: i64) -> sql::Result<Line> {
    connection
        .prepare_cached("SELECT resource, period, part, component, username FROM sent WHERE id = ?")?
        .query_row([id], |row| Ok((key(row, 0)?, row.get(3)?, row.get(4)?)))
}

/// A total was not taken: the shares that belong to it are not planned, and those of the total that was accepted before are
/// again, as far as they are not there yet.
fn plan_as_before(
    connection: &Connection,
    key: StatementKey,
    component: &str,
    refused: i64,
) -> sql::Result<()> {
    let (resource, period, part) = (key.resource.to_string(), key.period.to_string(), micros(key.part));
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND outcome = 'planned' AND current = 1 AND id < ?5",
        )?
        .execute(params![resource, period, part, component, refused])?;
    let accepted: Option<i64> = connection
        .prepare_cached(
            "SELECT max(id) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ''
             AND outcome = 'accepted'",
        )?
        .query_row(params![resource, period, part, component], |row| row.get(0))?;
    let Some(accepted) = accepted.filter(|accepted| *accepted < refused) else { return Ok(()) };
    connection
        .prepare_cached(
            "UPDATE sent SET current = 1 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND outcome = 'planned' AND id < ?5
             AND id > (SELECT coalesce(max(id), 0) FROM sent before WHERE before.resource = ?1 AND before.period = ?2
                AND before.part = ?3 AND before.component = ?4 AND before.username = '' AND before.id < ?5)
             AND NOT EXISTS (SELECT 1 FROM sent done WHERE done.resource = ?1 AND done.period = ?2 AND done.part = ?3
                AND done.component = ?4 AND done.username = sent.username AND done.outcome = 'accepted' AND done.id > sent.id)",
        )?
        .execute(params![resource, period, part, component, accepted])?;
    Ok(())
}

pub(super) fn note_read(
    connection: &Connection,
    key: StatementKey,
    amount: &Amount,
    (words, turn): (&str, i64),
    now: Timestamp,
) -> sql::Result<()> {
    supersede(connection, key, &amount.component, &amount.user)?;
    if amount.user.is_empty() {
        // They belong to another total.
        unplan(connection, key, (&amount.component, None))?;
    }
    // Where it is what is stated, it has what that has.
    let counted = connection
        .prepare_cached(
            "SELECT statement.counted FROM statement JOIN line ON line.resource = statement.resource
                AND line.period = statement.period AND line.part = statement.part
             WHERE statement.resource = ?1 AND statement.period = ?2 AND statement.part = ?3 AND line.component = ?4
                AND line.username = ?5 AND line.posted = ?6",
        )?
        .query_row(
            params![
                key.resource.to_string(),
                key.period.to_string(),
                micros(key.part),
                amount.component,
                amount.user,
                two_decimals(amount.amount)
            ],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0);
    let amounts = std::slice::from_ref(amount);
    insert(connection, New { key, amounts, call: "read", at: now, turn, outcome: "read", words, counted })?;
    Ok(())
}

/// Something was posted again, so it is to be read back again.
fn reopen(connection: &Connection, key: StatementKey) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE statement SET closed = NULL
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND closed IS NOT NULL",
        )?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])?;
    Ok(())
}

/// A plan was switched before it was known: what was reported since then, as a total of the whole part, the server has filed
/// under the new plan period. It is our own number, to be corrected there, and says nothing of the old one. Where it was
/// filed of a report that was under way then (`doubtful` to `since`), only the rows tell.
pub(in crate::ledger) fn file_under_new_part(
    connection: &Connection,
    resource: &str,
    period: &str,
    (old, new): (i64, i64),
    (doubtful, since): (i64, i64),
) -> sql::Result<()> {
    connection.execute(
        "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
            current, counted)
         SELECT resource, period, ?4, component, username, amount, call, at, turn, 'open', words, 1, counted FROM sent
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND at <= ?6 AND username = ''
           AND outcome IN ('open', 'accepted')",
        params![resource, period, old, new, doubtful, since],
    )?;
    connection.execute(
        "UPDATE sent SET outcome = 'open', current = 1
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?4 AND at <= ?5 AND username = ''
           AND outcome = 'accepted'",
        params![resource, period, old, doubtful, since],
    )?;
    // Shares go by the row that was known: the old one, until a total had made the new one.
    connection.execute(
        "UPDATE sent SET part = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND username <> ''
           AND (outcome = 'planned' OR EXISTS (SELECT 1 FROM sent total WHERE total.resource = sent.resource
                AND total.period = sent.period AND total.part = sent.part AND total.component = sent.component
                AND total.username = '' AND total.at > ?5 AND total.id < sent.id AND total.outcome <> 'refused'))",
        params![resource, period, old, new, since],
    )?;
    connection.execute(
        "UPDATE sent SET part = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND username = ''",
        params![resource, period, old, new, since],
    )?;
    // What is left of the old part is what was known of it before.
    connection.execute(
        "UPDATE sent SET current = 1 WHERE id IN (
            SELECT max(id) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND outcome IN ('accepted', 'read')
            GROUP BY component, username)",
        params![resource, period, old],
    )?;
    connection.execute(
        "INSERT INTO statement (resource, period, part, changed) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (resource, period, part) DO NOTHING",
        params![resource, period, new],
    )?;
    // Its row is the new part's, or was.
    connection.execute(
        "DELETE FROM usage_row WHERE resource = ?1 AND period = ?2 AND part IN (?3, ?4)",
        params![resource, period, old, new],
    )?;
    Ok(())
}

/// How a current row of the record stands.
#[derive(Debug, Clone, Copy)]
enum Standing {
    Open,
    Planned,
    /// `accepted` or `read`.
    Known(&'static str),
}

impl Standing {
    fn of(outcome: &str) -> Standing {
        match outcome {
            "open" => Standing::Open,
            "planned" => Standing::Planned,
            "read" => Standing::Known("read"),
            _ => Standing::Known("accepted"),
        }
    }
}

/// Which lines of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Whole,
    /// Not those of users.
    Totals,
}

/// Whether anything of the users of a statement was accepted or read, or is to be completed.
pub(super) fn has_shares(connection: &Connection, key: StatementKey) -> sql::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND current = 1 AND username <> ''
             AND outcome IN ('accepted', 'read', 'planned') LIMIT 1",
        )?
        .exists(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])
}

/// What is known of the lines of a statement, by component and user.
pub(super) fn known(
    connection: &Connection,
    key: StatementKey,
    which: Scope,
) -> sql::Result<BTreeMap<(String, String), Known>> {
    known_of_all(connection, &[key], which).map(|mut known| known.pop().unwrap_or_default())
}

/// The same of each of these statements, in their order.
pub(super) fn known_of_all(
    connection: &Connection,
    keys: &[StatementKey],
    which: Scope,
) -> sql::Result<Vec<BTreeMap<(String, String), Known>>> {
    struct Found {
        id: i64,
        statement: usize,
        place: (String, String),
        amount: Decimal,
        outcome: Standing,
        at: Timestamp,
        counted: i64,
    }
    let mut found: Vec<Found> = Vec::new();
    each_of(
        connection,
        keys,
        match which {
            Scope::Whole => {
                "SELECT v.column4, component, username, amount, outcome, at, id, counted
                 FROM (VALUES {rows}) v CROSS JOIN sent
                 WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.part = v.column3
                   AND sent.current = 1"
            }
            Scope::Totals => {
                "SELECT v.column4, component, username, amount, outcome, at, id, counted
                 FROM (VALUES {rows}) v CROSS JOIN sent
                 WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.part = v.column3
                   AND sent.current = 1 AND sent.username = ''"
            }
        },
        |statement, row| {
            let Some(amount) = decimal_in(row, 3)? else { return Ok(()) };
            let (place, at) = ((row.get(1)?, row.get(2)?), instant(row.get(5)?));
            let outcome = Standing::of(row.get_ref(4)?.as_str()?);
            let (id, counted) = (row.get(6)?, row.get(7)?);
            found.push(Found { id, statement, place, amount, outcome, at, counted });
            Ok(())
        },
    )?;
    // In the order in which they were written down.
    found.sort_unstable_by_key(|found| found.id);
    let mut all = vec![BTreeMap::new(); keys.len()];
    for Found { id, statement, place, amount, outcome, at, counted } in found {
        let Some(lines) = all.get_mut(statement) else { continue };
        let known: &mut Known = lines.entry(place).or_default();
        match outcome {
            Standing::Open => known.open.push(Open { id, amount, at }),
            Standing::Planned => known.planned = Some(amount),
            Standing::Known(how) => known.acknowledged = Some(Acknowledged { id, amount, how, at, counted }),
        }
    }
    Ok(all)
}

/// Hands over what a query finds of each of these statements, with its place among them. In `FROM (VALUES {rows}) v` it has
/// resource, period, part, and that place, which is its first column.
pub(super) fn each_of(
    connection: &Connection,
    keys: &[StatementKey],
    sql: &str,
    mut take: impl FnMut(usize, &Row<'_>) -> sql::Result<()>,
) -> sql::Result<()> {
    let columns: Vec<(String, String, i64, i64)> = (0..)
        .zip(keys)
        .map(|(place, key)| (key.resource.to_string(), key.period.to_string(), micros(key.part), place))
        .collect();
    let rows: Vec<[&dyn ToSql; 4]> = columns
        .iter()
        .map(|(resource, period, part, place)| [resource as &dyn ToSql, period, part, place])
        .collect();
    connection
        .query_rows(sql, &rows, |row| take(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX), row))
}

pub(in crate::ledger) fn key(row: &Row<'_>, first: usize) -> sql::Result<StatementKey> {
    Ok(StatementKey {
        resource: uuid_column(row, first)?,
        period: period_column(row, first + 1)?,
        part: instant(row.get(first + 2)?),
    })
}
