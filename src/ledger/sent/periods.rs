//! How far a billing period of a resource has come: open, closing, agreed or closed (law 6). What could not be
//! reported before its end is a quantity of its own beside that, stranded.
//!
//! Only "closed" is kept, because only it is an event: after the month's end, what was posted last was read back equal.
//! The rest follows from the statement and the clock. Nothing here asks the server.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use rust_decimal::Decimal;

use super::lock::is_current;
use super::outbox::{Entry, Statement, StatementKey, decimal, key};
use super::{Ledger, LedgerError, micros};
use crate::metering::period::BillingPeriod;

/// How far a billing period has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeriodState {
    /// It runs.
    Open,
    /// Its end is near or past, and something is still to be sent or to be learnt.
    Closing,
    /// All that can be reported was accepted.
    Agreed,
    /// And was read back equal after its end.
    Closed,
}

impl PeriodState {
    pub const ALL: [PeriodState; 4] =
        [PeriodState::Open, PeriodState::Closing, PeriodState::Agreed, PeriodState::Closed];

    pub fn name(self) -> &'static str {
        match self {
            PeriodState::Open => "open",
            PeriodState::Closing => "closing",
            PeriodState::Agreed => "agreed",
            PeriodState::Closed => "closed",
        }
    }
}

impl Statement {
    /// How far it has come; `closes` is when the closing of its month begins.
    pub fn period_state(&self, closes: Timestamp, now: Timestamp) -> PeriodState {
        let entries = || self.components.values().chain(self.users.values());
        if self.closed.is_some() {
            PeriodState::Closed
        } else if now < closes {
            PeriodState::Open
        } else if entries()
            .any(|entry| entry.differs() && !entry.is("stranded") && !entry.is("dropped") || entry.is("held"))
        {
            PeriodState::Closing
        } else {
            PeriodState::Agreed
        }
    }
}

impl Entry {
    fn is(&self, state: &str) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.state == state)
    }

    /// What of it was used and can no longer be reported: nothing, unless it is stranded.
    pub fn stranded(&self) -> Option<Decimal> {
        let posted = self.posted.filter(|_| self.is("stranded") && self.differs())?;
        let held = self.acknowledged.as_ref().map_or(Decimal::ZERO, |acknowledged| acknowledged.amount);
        posted.checked_sub(held)
    }
}

impl Ledger {
    /// Statements of months before this one that are not closed, though nothing of them is left to send.
    pub fn unclosed(&self, before: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement INDEXED BY statement_unclosed
                     WHERE closed IS NULL AND period < ?1 AND revision <= agreed ORDER BY resource, period, part",
                )?
                .query_map([before.to_string()], |row| key(row, 0))?
                .collect()
        })
    }

    /// Closes a period: all that the server is believed to hold of it was read back just now.
    pub fn close(&mut self, key: StatementKey, now: Timestamp) -> Result<(), LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, _| {
            if !is_current(connection, turn)? {
                return Ok(None);
            }
            let (resource, period) = (key.resource.to_string(), key.period.to_string());
            connection
                .prepare_cached(
                    "UPDATE statement SET closed = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3",
                )?
                .execute(params![resource, period, micros(key.part), micros(now)])?;
            connection
                .prepare_cached(
                    "UPDATE acknowledgement SET how = 'read back'
                     WHERE resource = ?1 AND period = ?2 AND part = ?3 AND user = ''",
                )?
                .execute(params![resource, period, micros(key.part)])?;
            Ok(Some(()))
        })?;
        self.in_turn(done)
    }

    /// How many statements have come how far, all months together; `closing`: whether this month closes.
    pub fn periods(
        &self,
        current: BillingPeriod,
        closing: bool,
    ) -> Result<BTreeMap<PeriodState, i64>, LedgerError> {
        let count = |sql: &str| {
            let over = if closing { "period <= ?1" } else { "period < ?1" };
            self.look(|connection| {
                connection
                    .prepare_cached(&sql.replace("OVER", over))?
                    .query_row([current.to_string()], |row| row.get::<_, i64>(0))
            })
        };
        let waits = "(revision > agreed OR EXISTS (
            SELECT 1 FROM trouble WHERE trouble.resource = statement.resource AND trouble.period = statement.period
            AND trouble.part = statement.part AND trouble.state NOT IN ('stranded', 'dropped')))";
        let unclosed = "SELECT count(*) FROM statement WHERE closed IS NULL AND";
        Ok([
            (PeriodState::Open, count(&format!("{unclosed} NOT (OVER)"))?),
            (PeriodState::Closing, count(&format!("{unclosed} OVER AND {waits}"))?),
            (PeriodState::Agreed, count(&format!("{unclosed} OVER AND NOT {waits}"))?),
            (
                PeriodState::Closed,
                count("SELECT count(*) FROM statement WHERE closed IS NOT NULL AND ?1 = ?1")?,
            ),
        ]
        .into())
    }

    /// What was used and can no longer be reported, by component, all months together.
    pub fn stranded_amounts(&self) -> Result<BTreeMap<String, Decimal>, LedgerError> {
        self.look(|connection| {
            let mut stranded: BTreeMap<String, Decimal> = BTreeMap::new();
            let mut query = connection.prepare_cached(
                "SELECT line.component, line.posted, acknowledgement.amount FROM trouble
                 JOIN line ON line.resource = trouble.resource AND line.period = trouble.period
                    AND line.part = trouble.part AND line.user = '' AND trouble.component IN ('', line.component)
                 LEFT JOIN acknowledgement ON acknowledgement.resource = line.resource
                    AND acknowledgement.period = line.period AND acknowledgement.part = line.part
                    AND acknowledgement.component = line.component AND acknowledgement.user = ''
                 WHERE trouble.state = 'stranded' AND trouble.user = ''",
            )?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let held = decimal(row.get(2)?).unwrap_or_default();
                if let Some(left) = decimal(row.get(1)?).and_then(|posted| posted.checked_sub(held)) {
                    let sum = stranded.entry(row.get(0)?).or_default();
                    *sum = sum.saturating_add(left);
                }
            }
            Ok(stranded)
        })
    }

    /// How many resources have a statement of this month: as many calls report all of it once more.
    pub fn resources_in(&self, period: BillingPeriod) -> Result<u32, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(DISTINCT resource) FROM statement INDEXED BY statement_unclosed
                     WHERE closed IS NULL AND period = ?",
                )?
                .query_row([period.to_string()], |row| row.get(0))
        })
    }
}

/// Something was posted again, so it is to be read back again.
pub(super) fn reopen(connection: &Connection, key: StatementKey) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE statement SET closed = NULL
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND closed IS NOT NULL",
        )?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])?;
    Ok(())
}
