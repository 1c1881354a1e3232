//! What is not sent, and why: held, parked and stranded things, and a person's decisions about them.
//!
//! The reasons are the submitter's (submitter/reason.rs); here they are kept. What the books hold by themselves (changed
//! rules) is marked in the lines and shown beside them. Lifting a block never changes a number; giving something up is a
//! difference that is moved to nobody.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::{StatementKey, key};
use super::known::{Known, Scope, each_of, known};
use super::rows::{reopen, unplan};
use crate::ledger::books::lines;
use crate::ledger::books::unstated::{all_of_month, changed_components};
use crate::ledger::db::columns::{decimal, instant, micros, period_column, two_decimals, uuid_column};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// Why something is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// held, parked or stranded.
    pub state: String,
    pub reason: String,
    pub words: String,
    pub since: Timestamp,
}

/// A block and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// When the part of the month began.
    pub part: Timestamp,
    /// '' is all of the resource's statement.
    pub component: String,
    /// '' is the total.
    pub user: String,
    /// What was refused, or what the server holds.
    pub amount: Option<Decimal>,
    pub block: Block,
}

impl Blocked {
    /// The statement that it is of.
    pub fn key(&self) -> StatementKey {
        StatementKey { resource: self.resource, period: self.period, part: self.part }
    }
}

impl Ledger {
    /// Holds, parks or strands something of a statement: a component or user of it, or (both '') all of it. Only of
    /// this part: what an ended plan period can't take any more says nothing of the one that runs.
    pub fn set_block(
        &mut self,
        key: StatementKey,
        component: &str,
        user: &str,
        block: Block,
        amount: Option<Decimal>,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            connection
                .prepare_cached(
                    "INSERT INTO blocked (resource, period, component, username, state, reason, words, amount, since, part)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                     ON CONFLICT (resource, period, part, component, username)
                     DO UPDATE SET since = CASE WHEN blocked.reason = ?6 THEN blocked.since ELSE ?9 END,
                                   state = ?5, reason = ?6, words = ?7, amount = ?8",
                )?
                .execute(params![
                    key.resource.to_string(),
                    key.period.to_string(),
                    component,
                    user,
                    block.state,
                    block.reason,
                    block.words,
                    amount.map(two_decimals),
                    micros(block.since),
                    micros(key.part)
                ])?;
            Ok(())
        })
    }

    /// What is blocked at just this place, and the amount that it is about.
    pub fn blocked_at(
        &self,
        key: StatementKey,
        component: &str,
        user: &str,
    ) -> Result<Option<(Block, Option<Decimal>)>, LedgerError> {
        self.look(|connection| {
            let mut blocks = blocks_of_all(connection, &[key])?;
            Ok(blocks.pop().and_then(|mut blocks| blocks.remove(&(component.to_owned(), user.to_owned()))))
        })
    }

    /// Lifts blocks of a resource (of all, if `None`) that have one of these reasons, so that it is tried again. Returns how
    /// many.
    pub fn clear_blocks(&mut self, resource: Option<Uuid>, reasons: &[&str]) -> Result<usize, LedgerError> {
        self.clear(resource, None, reasons)
    }

    /// Lifts those of one month of a resource.
    pub fn clear_blocks_of(
        &mut self,
        resource: Uuid,
        period: BillingPeriod,
        reason: &str,
    ) -> Result<usize, LedgerError> {
        self.clear(Some(resource), Some(period), &[reason])
    }

    fn clear(
        &mut self,
        resource: Option<Uuid>,
        period: Option<BillingPeriod>,
        reasons: &[&str],
    ) -> Result<usize, LedgerError> {
        let (resource, period) =
            (resource.map(|uuid| uuid.to_string()), period.map(|period| period.to_string()));
        self.transact(|connection, _| {
            let mut cleared = 0;
            for reason in reasons {
                // Of a month that was closed as it was, there is something to send again.
                connection
                    .prepare_cached(
                        "UPDATE statement SET closed = NULL WHERE closed IS NOT NULL AND EXISTS (
                            SELECT 1 FROM blocked WHERE (?1 IS NULL OR resource = ?1) AND reason = ?2
                            AND (?3 IS NULL OR period = ?3)
                            AND blocked.resource = statement.resource AND blocked.period = statement.period
                            AND blocked.part = statement.part)",
                    )?
                    .execute(params![resource, reason, period])?;
                cleared += connection
                    .prepare_cached(
                        "DELETE FROM blocked WHERE (?1 IS NULL OR resource = ?1) AND reason = ?2
                         AND (?3 IS NULL OR period = ?3)",
                    )?
                    .execute(params![resource, reason, period])?;
            }
            Ok(cleared)
        })
    }

    /// Lifts one block of a statement.
    pub fn clear_block(
        &mut self,
        key: StatementKey,
        component: &str,
        reason: &str,
    ) -> Result<bool, LedgerError> {
        self.clear_block_of(key, (component, ""), reason)
    }

    fn clear_block_of(
        &mut self,
        key: StatementKey,
        (component, user): (&str, &str),
        reason: &str,
    ) -> Result<bool, LedgerError> {
        self.transact(|connection, _| {
            let (resource, period, part) =
                (key.resource.to_string(), key.period.to_string(), micros(key.part));
            let cleared = connection
                .prepare_cached(
                    "DELETE FROM blocked WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                     AND username = ?5 AND reason = ?6",
                )?
                .execute(params![resource, period, part, component, user, reason])?;
            if cleared > 0 {
                // It may have stood in the place of what was left over of a month that was closed as it was.
                reopen(connection, key)?;
            }
            Ok(cleared > 0)
        })
    }

    /// Lifts what was refused for the sake of a number that is another now, and what is blocked though nothing of it is left
    /// to send: its cause is gone.
    pub fn lift_what_passed(&mut self) -> Result<usize, LedgerError> {
        self.lift_changed_rests()?;
        let line =
            "line.resource = blocked.resource AND line.period = blocked.period AND line.part = blocked.part
                    AND line.component = blocked.component AND line.username = blocked.username";
        let known = "sent.resource = blocked.resource AND sent.period = blocked.period AND sent.part = blocked.part
                     AND sent.component = blocked.component AND sent.username = blocked.username AND sent.current = 1";
        self.transact(|connection, _| {
            let mut lifted = connection.prepare_cached(&format!(
                "DELETE FROM blocked WHERE reason = 'amount' AND EXISTS (
                    SELECT 1 FROM line WHERE {line} AND (line.posted IS NOT NULL AND line.posted IS DISTINCT FROM blocked.amount
                        OR line.problem IS NOT NULL AND line.problem IS DISTINCT FROM blocked.words))
                 OR reason = 'limit' AND EXISTS (
                    SELECT 1 FROM line WHERE {line} AND CAST(line.posted AS NUMERIC) < CAST(blocked.amount AS NUMERIC))"
            ))?.execute([])?;
            lifted += connection.prepare_cached(&format!(
                "DELETE FROM blocked WHERE component <> '' AND reason NOT IN ('conflict', 'conflict_overwrite', 'conflict_shares', 'wrong_month', 'unreadable')
                 AND (NOT EXISTS (SELECT 1 FROM line WHERE {line})
                   OR EXISTS (SELECT 1 FROM line WHERE {line} AND line.problem IS NULL AND line.posted = coalesce(
                        (SELECT amount FROM sent WHERE {known} AND outcome IN ('accepted', 'read')), '0.00')
                      AND NOT EXISTS (SELECT 1 FROM sent WHERE {known} AND outcome = 'open')))"
            ))?.execute([])?;
            // Where all of a statement is blocked, none of it may be left to send.
            lifted += connection.prepare_cached(
                "DELETE FROM blocked WHERE component = '' AND reason <> 'unreadable' AND NOT EXISTS (
                    SELECT 1 FROM line
                    LEFT JOIN sent ON sent.resource = line.resource AND sent.period = line.period AND sent.part = line.part
                        AND sent.component = line.component AND sent.username = line.username AND sent.current = 1
                    WHERE line.resource = blocked.resource AND line.period = blocked.period AND line.part = blocked.part
                        AND (line.problem IS NOT NULL OR sent.outcome IN ('open', 'planned')
                            OR line.posted IS DISTINCT FROM coalesce(sent.amount, '0.00')))"
            )?.execute([])?;
            Ok(lifted)
        })
    }

    /// Everything that is held, parked or stranded.
    pub fn blocks(&self) -> Result<Vec<Blocked>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, component, username, amount, state, reason, words, since, part FROM blocked
                     UNION ALL
                     SELECT line.resource, line.period, line.component, '', NULL, 'held', held, held_words,
                            statement.changed, line.part
                     FROM line JOIN statement ON statement.resource = line.resource AND statement.period = line.period
                        AND statement.part = line.part
                     WHERE held IS NOT NULL
                     UNION ALL
                     SELECT line.resource, line.period, line.component, '', '-' || too_much, 'stranded', ?1, too_much || ?2,
                            statement.changed, line.part
                     FROM line JOIN statement ON statement.resource = line.resource AND statement.period = line.period
                        AND statement.part = line.part
                     WHERE too_much IS NOT NULL AND username = ''
                     ORDER BY 1, 2, 10, 3, 4",
                )?
                .query_map([TOO_MUCH, &format!(" {}", lines::STAYS_ON_THE_BILL)], |row| {
                    Ok(Blocked {
                        resource: uuid_column(row, 0)?,
                        period: period_column(row, 1)?,
                        part: instant(row.get(9)?),
                        component: row.get(2)?,
                        user: row.get(3)?,
                        amount: decimal(row.get(4)?),
                        block: Block {
                            state: row.get(5)?,
                            reason: row.get(6)?,
                            words: row.get(7)?,
                            since: instant(row.get(8)?),
                        },
                    })
                })?
                .collect()
        })
    }

    /// Statements of which something is blocked for this reason.
    pub fn blocked_for(&self, reason: &str) -> Result<Vec<StatementKey>, LedgerError> {
        Ok(self.blocked_since(reason)?.into_iter().map(|(key, _)| key).collect())
    }

    /// The same, and since when the latest of it is.
    pub fn blocked_since(&self, reason: &str) -> Result<Vec<(StatementKey, Timestamp)>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part, MAX(since) FROM blocked WHERE reason = ?
                     GROUP BY resource, period, part ORDER BY resource, period, part",
                )?
                .query_map([reason], |row| Ok((key(row, 0)?, instant(row.get(3)?))))?
                .collect()
        })
    }

    /// Lifts what stands for the rest of a month where the rest is another now, so that it is judged anew; of a terminated
    /// resource it is only another number.
    fn lift_changed_rests(&mut self) -> Result<(), LedgerError> {
        let is_rest =
            |at: &Blocked| RESTS.contains(&at.block.reason.as_str()) || at.block.reason == TERMINATED;
        for at in self.blocks()?.into_iter().filter(is_rest) {
            let key = at.key();
            let statement = if at.user.is_empty() { self.totals(key)? } else { self.statement(key)? };
            let entry = statement.as_ref().and_then(|statement| statement.entry(&at.component, &at.user));
            let rest = entry.and_then(|entry| Some(entry.posted?.saturating_sub(entry.accepted())));
            let (Some(before), Some(rest)) = (at.amount.filter(|_| rest != at.amount), rest) else {
                continue;
            };
            if at.block.reason != TERMINATED {
                self.clear_block_of(key, (&at.component, &at.user), &at.block.reason)?;
                continue;
            }
            // The server takes nothing of it, whatever it comes to.
            let words = at.block.words.replacen(&format!("{before:.2}"), &format!("{rest:.2}"), 1);
            self.set_block(key, &at.component, &at.user, Block { words, ..at.block }, Some(rest))?;
        }
        Ok(())
    }

    /// A person gives up what is kept back (of a resource; of one of its months, components or users, if named): what was
    /// used and is not held by the server is settled, and only what comes after it counts. Returns how many numbers.
    pub fn drop_blocked(
        &mut self,
        dropped: &Dropped,
        reasons: &[&str],
        now: Timestamp,
    ) -> Result<Vec<GivenUp>, LedgerError> {
        let resource = dropped.resource.to_string();
        self.transact(|connection, _| {
            let chosen: Vec<(StatementKey, String, String, String)> = connection
                .prepare_cached(
                    "SELECT resource, period, part, component, username, reason FROM blocked
                     WHERE resource = ?1 AND (?2 IS NULL OR period = ?2) AND (?3 IS NULL OR component IN ('', ?3))
                     AND (?4 IS NULL OR username = ?4)
                     UNION ALL
                     SELECT resource, period, part, component, username, ?5 FROM line
                     WHERE resource = ?1 AND (?2 IS NULL OR period = ?2) AND (?3 IS NULL OR component = ?3)
                     AND ?4 IS NULL AND username = '' AND too_much IS NOT NULL AND NOT EXISTS (
                        SELECT 1 FROM blocked WHERE blocked.resource = line.resource AND blocked.period = line.period
                        AND blocked.part = line.part AND blocked.component IN ('', line.component) AND blocked.username = '')",
                )?
                .query_map(
                    params![
                        resource,
                        dropped.period.map(|period| period.to_string()),
                        dropped.component,
                        dropped.user,
                        TOO_MUCH
                    ],
                    |row| Ok((key(row, 0)?, row.get(3)?, row.get(4)?, row.get(5)?)),
                )?
                .collect::<sql::Result<_>>()?;
            let mut given_up = Vec::new();
            for (key, component, user, reason) in chosen {
                if !reasons.contains(&reason.as_str()) {
                    continue;
                }
                let wanted = dropped.component.as_deref().or(Some(component.as_str()).filter(|c| !c.is_empty()));
                given_up.extend(give_up(connection, key, (wanted, &user), now)?);
                connection.execute(
                    "DELETE FROM blocked WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ?5",
                    params![resource, key.period.to_string(), micros(key.part), component, user],
                )?;
                all_of_month(connection, Some(&resource), &key.period.to_string())?;
            }
            Ok(given_up)
        })
    }

    /// Takes back what a person gave up of a resource. Returns how many numbers.
    pub fn pick_up_dropped(&mut self, resource: Uuid) -> Result<usize, LedgerError> {
        let resource = resource.to_string();
        self.transact(|connection, _| {
            let places = connection
                .prepare("SELECT DISTINCT resource, from_period, component FROM moved WHERE resource = ? AND to_period = ''")?
                .query_map([&resource], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<sql::Result<_>>()?;
            changed_components(connection, places)?;
            connection.execute("DELETE FROM moved WHERE resource = ? AND to_period = ''", [&resource])
        })
    }
}

/// A number that a person gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub period: BillingPeriod,
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub amount: Decimal,
    /// What the server holds, and goes on holding.
    pub held: Decimal,
}

/// What a person gives up: all that is kept back of a resource, or less.
#[derive(Debug, Clone)]
pub struct Dropped {
    pub resource: Uuid,
    pub period: Option<BillingPeriod>,
    pub component: Option<String>,
    pub user: Option<String>,
}

/// The reason of what a terminated resource can't take (submitter/reason.rs).
const TERMINATED: &str = "terminated";
/// The reason of what is too much on the bill, where no other line shows it (submitter/reason.rs).
const TOO_MUCH: &str = "too_much";
/// The reasons of what was left over when a month or a plan period ended (submitter/reason.rs).
const RESTS: [&str; 4] = ["period_ended", "closing_rest", "late_share", "plan_ended"];
/// Moves to nobody what the server does not hold of a component (of all, if `None`) and user ('': the total and all users).
fn give_up(
    connection: &Connection,
    key: StatementKey,
    (component, user): (Option<&str>, &str),
    now: Timestamp,
) -> sql::Result<Vec<GivenUp>> {
    let (resource, period) = (key.resource.to_string(), key.period.to_string());
    let known = known(connection, key, Scope::Whole)?;
    let lines: Vec<(String, String, Option<String>, Option<String>)> = connection
        .prepare_cached(
            "SELECT component, username, posted, too_much FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3",
        )?
        .query_map(params![resource, period, micros(key.part)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<sql::Result<_>>()?;
    let mut given_up = Vec::new();
    for (of, line_user, posted, too_much) in lines {
        let chosen = component.is_none_or(|wanted| wanted == of) && (user.is_empty() || user == line_user);
        let Some(posted) = decimal(posted).filter(|_| chosen) else { continue };
        let known = known.get(&(of.clone(), line_user.clone()));
        let held = if user.is_empty() {
            known.map_or(Decimal::ZERO, Known::held)
        } else {
            // A share that was not taken, also where the total that is there has it.
            unplan(connection, key, (&of, Some(&line_user)))?;
            known.and_then(|known| known.acknowledged.as_ref()).map_or(Decimal::ZERO, |known| known.amount)
        };
        let amount = posted - held - decimal(too_much).unwrap_or_default();
        if amount.is_zero() {
            continue;
        }
        let before: Option<String> = connection
            .prepare_cached(
                "SELECT amount FROM moved WHERE resource = ?1 AND component = ?2 AND username = ?3 AND from_period = ?4
                 AND from_part = ?5 AND to_period = ''",
            )?
            .query_row(params![resource, of, line_user, period, micros(key.part)], |row| row.get(0))
            .optional()?;
        let in_all = decimal(before).unwrap_or_default() + amount;
        connection
            .prepare_cached(
                "INSERT INTO moved (resource, component, username, from_period, from_part, to_period, to_part, amount, recorded,
                                    since)
                 VALUES (?1, ?2, ?3, ?4, ?5, '', 0, ?6, ?7, ?7)
                 ON CONFLICT (resource, component, username, from_period, from_part, to_period, to_part)
                 DO UPDATE SET amount = ?6, recorded = ?7",
            )?
            .execute(params![
                resource,
                of,
                line_user,
                period,
                micros(key.part),
                two_decimals(in_all),
                micros(now)
            ])?;
        if line_user.is_empty() {
            let about = About { resource: &resource, period: &period, component: &of };
            let words = format!("a person gave up {amount:.2} of it: Waldur holds {held:.2}");
            tell(connection, about, EventKind::Moved, &words, now)?;
        }
        given_up.push(GivenUp { period: key.period, component: of, user: line_user, amount, held });
    }
    Ok(given_up)
}

/// By component and user, with the amount that each is about.
pub(super) type Blocks = BTreeMap<(String, String), (Block, Option<Decimal>)>;

/// The blocks of each of these statements, in their order.
pub(super) fn blocks_of_all(connection: &Connection, keys: &[StatementKey]) -> sql::Result<Vec<Blocks>> {
    let mut all = vec![Blocks::new(); keys.len()];
    each_of(
        connection,
        keys,
        "SELECT v.column4, component, username, state, reason, words, since, amount
         FROM (VALUES {rows}) v CROSS JOIN blocked
         WHERE blocked.resource = v.column1 AND blocked.period = v.column2 AND blocked.part = v.column3",
        |place, row| {
            let Some(blocks) = all.get_mut(place) else { return Ok(()) };
            let block = Block {
                state: row.get(3)?,
                reason: row.get(4)?,
                words: row.get(5)?,
                since: instant(row.get(6)?),
            };
            blocks.insert((row.get(1)?, row.get(2)?), (block, decimal(row.get(7)?)));
            Ok(())
        },
    )?;
    Ok(all)
}
