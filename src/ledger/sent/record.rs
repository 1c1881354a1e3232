//! One record of what was sent, of what the server holds, and of how that is known.
//!
//! A number is written before it is sent (open), and that row takes the outcome: accepted, refused, or not there when it
//! was looked for. What is found in the server's rows stands beside it (read). What is pending is the difference between
//! lines and this record; it is never kept. Nothing here decides what to do about a difference; the submitter does.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::{Amount, StatementKey};
use super::lock::is_current;
use super::rows::{
    New, OVERWRITTEN, accept, insert, line_of, note_outcome, note_read, note_theirs, plan, plan_as_before,
    put_last, refuse, unplan,
};
use crate::ledger::db::columns::{micros, two_decimals};
use crate::ledger::db::sql::params;
use crate::ledger::db::{Ledger, LedgerError};

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
