//! How far a billing period of a resource has come: open, closing, unreported, agreed or closed (law 6). What could not be
//! reported before its end is a quantity of its own beside that, stranded.
//!
//! Only "closed" is kept, because only it is an event: after the month's end, what was posted last, shares too, was read
//! back equal. The rest follows from the statement and the clock. Nothing here asks the server.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::amount::{StatementKey, key};
use super::statement::{Entry, Statement};
use crate::ledger::books::sourced_meters::meters_of;
use crate::ledger::db::columns::{decimal, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::params;
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// What is told later than this after it was measured is no rest of a closing.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// How far a billing period has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeriodState {
    /// It runs.
    Open,
    /// Its end is near or past, and something is still to be sent or to be learnt.
    Closing,
    /// It is over, and nothing of it was ever accepted.
    Unreported,
    /// All that can be reported was accepted.
    Agreed,
    /// And was read back equal after its end.
    Closed,
}

impl PeriodState {
    pub const ALL: [PeriodState; 5] = [
        PeriodState::Open,
        PeriodState::Closing,
        PeriodState::Unreported,
        PeriodState::Agreed,
        PeriodState::Closed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            PeriodState::Open => "open",
            PeriodState::Closing => "closing",
            PeriodState::Unreported => "unreported",
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
        } else if entries().any(|entry| entry.differs() && !entry.is("stranded") || entry.is("held")) {
            PeriodState::Closing
        } else if !entries().any(|entry| entry.acknowledged.is_some()) {
            PeriodState::Unreported
        } else {
            PeriodState::Agreed
        }
    }
}

impl Entry {
    fn is(&self, state: &str) -> bool {
        self.block.as_ref().is_some_and(|block| block.state == state)
    }

    /// What of it was used and can no longer be reported: nothing, unless it is stranded.
    pub fn stranded(&self) -> Option<Decimal> {
        let posted = self.posted.filter(|_| self.is("stranded") && self.differs())?;
        posted.checked_sub(self.accepted())
    }
}

impl Ledger {
    /// Statements of months before this one that are not closed.
    pub fn unclosed(&self, before: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        // In order here: asked for in order, all that was ever stated would be gone through.
        let mut keys: Vec<StatementKey> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement WHERE closed IS NULL AND period < ?1",
                )?
                .query_map([before.to_string()], |row| key(row, 0))?
                .collect()
        })?;
        keys.sort_unstable();
        Ok(keys)
    }

    /// Statements of this month that were closed before this instant, or were in conflict by then and still are.
    pub fn closed_before(
        &self,
        at: Timestamp,
        period: BillingPeriod,
    ) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part FROM statement WHERE period = ?1 AND (closed < ?2
                        OR closed IS NULL AND EXISTS (SELECT 1 FROM blocked WHERE blocked.resource = statement.resource
                            AND blocked.period = statement.period AND blocked.part = statement.part
                            AND blocked.since < ?2
                            AND blocked.reason IN ('conflict', 'conflict_overwrite', 'conflict_shares', 'unreadable')))
                     ORDER BY resource, period, part",
                )?
                .query_map(params![period.to_string(), micros(at)], |row| key(row, 0))?
                .collect()
        })
    }

    /// Statements of which a call that may still arrive was followed by one that was accepted: it would put the older number
    /// back.
    pub fn overtaken(&self) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT resource, period, part FROM sent WHERE outcome = 'open' AND EXISTS (
                        SELECT 1 FROM sent later WHERE later.resource = sent.resource AND later.period = sent.period
                            AND later.part = sent.part AND later.component = sent.component
                            AND later.username = sent.username AND later.id > sent.id AND later.outcome = 'accepted'
                            AND later.current = 1)
                     ORDER BY resource, period, part",
                )?
                .query_map([], |row| key(row, 0))?
                .collect()
        })
    }

    /// Closes a period: all that the server is believed to hold of it was read back just now.
    pub fn close(&mut self, key: StatementKey, now: Timestamp) -> Result<(), LedgerError> {
        self.transact_in_turn(|connection, _, _| {
            let (resource, period) = (key.resource.to_string(), key.period.to_string());
            connection
                .prepare_cached(
                    "UPDATE statement SET closed = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3",
                )?
                .execute(params![resource, period, micros(key.part), micros(now)])?;
            let about = About { resource: &resource, period: &period, component: "" };
            tell(connection, about, EventKind::Closed, "closed: it was read back as it was reported", now)?;
            Ok(())
        })
    }

    /// How many statements have come how far, all months together; `pending`: those of which something is to be sent,
    /// `closing`: whether this month closes.
    pub fn periods(
        &self,
        pending: &[StatementKey],
        current: BillingPeriod,
        closing: bool,
    ) -> Result<BTreeMap<PeriodState, i64>, LedgerError> {
        let pending: BTreeSet<&StatementKey> = pending.iter().collect();
        let mut states: BTreeMap<PeriodState, i64> =
            PeriodState::ALL.into_iter().map(|state| (state, 0)).collect();
        let unclosed: Vec<(StatementKey, bool, bool)> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part, EXISTS (
                        SELECT 1 FROM blocked WHERE blocked.resource = statement.resource
                        AND blocked.period = statement.period AND blocked.part = statement.part
                        AND blocked.state <> 'stranded'), EXISTS (
                        SELECT 1 FROM sent WHERE sent.resource = statement.resource
                        AND sent.period = statement.period AND sent.part = statement.part
                        AND sent.current = 1 AND sent.outcome IN ('accepted', 'read'))
                     FROM statement WHERE closed IS NULL",
                )?
                .query_map([], |row| Ok((key(row, 0)?, row.get(3)?, row.get(4)?)))?
                .collect()
        })?;
        for (key, blocked, accepted) in unclosed {
            let over = key.period < current || closing && key.period == current;
            let state = match (over, blocked || pending.contains(&key)) {
                (false, _) => PeriodState::Open,
                (true, true) => PeriodState::Closing,
                (true, false) if !accepted => PeriodState::Unreported,
                (true, false) => PeriodState::Agreed,
            };
            *states.entry(state).or_default() += 1;
        }
        let closed = self.look(|connection| {
            connection
                .prepare_cached("SELECT count(*) FROM statement WHERE closed IS NOT NULL")?
                .query_row([], |row| row.get(0))
        })?;
        states.insert(PeriodState::Closed, closed);
        Ok(states)
    }

    /// What was used and can no longer be reported, by component, all months together.
    pub fn stranded_amounts(&self) -> Result<BTreeMap<String, Decimal>, LedgerError> {
        self.look(|connection| {
            let mut stranded: BTreeMap<String, Decimal> = BTreeMap::new();
            let mut query = connection.prepare_cached(
                "SELECT line.component, line.posted, sent.amount FROM blocked
                 JOIN line ON line.resource = blocked.resource AND line.period = blocked.period
                    AND line.part = blocked.part AND line.username = '' AND blocked.component IN ('', line.component)
                 LEFT JOIN sent ON sent.resource = line.resource
                    AND sent.period = line.period AND sent.part = line.part
                    AND sent.component = line.component AND sent.username = '' AND sent.current = 1
                    AND sent.outcome IN ('accepted', 'read')
                 WHERE blocked.state = 'stranded' AND blocked.username = ''",
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

    /// Whether something was counted into a component's month after a run, and all of it was used after `from` and told soon
    /// after: the rest that every closing leaves, and not a job that was reported late or corrected.
    pub fn is_all_used_after(
        &self,
        key: StatementKey,
        component: &str,
        run: i64,
        from: Timestamp,
    ) -> Result<bool, LedgerError> {
        let version = self.in_force.in_month(key.period);
        let zone = &self.in_force.zone;
        let (start, end) = (micros(zone.start(key.period)), micros(zone.end(key.period)));
        self.look(|connection| {
            let mut found = false;
            for maker in &meters_of(connection, version, component)?.meters {
                let (first, waited): (Option<i64>, Option<i64>) = connection
                    .prepare_cached(
                        "SELECT min(later.begun), max(later.waited) FROM (
                            SELECT coalesce((SELECT run.at FROM run WHERE run.id = reading.run), reading.at)
                                - reading.at AS waited, CASE WHEN reading.start <> 0 THEN reading.start
                                ELSE coalesce((SELECT max(before.at) FROM reading before WHERE
                                    before.series = reading.series AND before.at < reading.at), reading.at) END AS begun
                            FROM placed JOIN reading ON reading.series = placed.series
                            WHERE placed.rules = ?1 AND placed.source = ?2 AND reading.run > ?4 AND reading.at > ?5
                                AND placed.target IN (SELECT target FROM target_resource WHERE resource = ?3)
                         ) AS later WHERE later.begun < ?6",
                    )?
                    .query_row(
                        params![version.id, maker.source, key.resource.to_string(), run, start, end],
                        |row| Ok((row.get(0)?, row.get(1)?)),
                    )?;
                let is_late = waited.is_some_and(|waited| i128::from(waited) > TOLD_WITHIN.as_micros());
                if is_late || first.is_some_and(|first| first < micros(from)) {
                    return Ok(false);
                }
                found |= first.is_some();
            }
            Ok(found)
        })
    }

    /// How many resources have a statement of this month: as many calls report all of it once more.
    pub fn resources_in(&self, period: BillingPeriod) -> Result<u32, LedgerError> {
        let resources: i64 = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(DISTINCT resource) FROM statement WHERE closed IS NULL AND period = ?",
                )?
                .query_row([period.to_string()], |row| row.get(0))
        })?;
        Ok(u32::try_from(resources).unwrap_or(u32::MAX))
    }
}
