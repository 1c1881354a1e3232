//! Months that are another writer's to report: the agent only compares (`report: shadow`). They are marked while they run,
//! and keep the mark when they have ended; a month that runs when the agent goes live loses it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::ledger::books::unstated::changed_components;
use crate::ledger::db::columns::{micros, period_column};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// What was carried to a month that is not reported after all, and was not accepted there, is left over where it was used.
fn take_back_carried(connection: &sql::Connection, month: &str) -> sql::Result<()> {
    const CARRIED: &str = "FROM moved WHERE to_period = ?1 AND from_period <> ?1
        AND NOT EXISTS (SELECT 1 FROM sent WHERE sent.resource = moved.resource AND sent.period = ?1
            AND sent.component = moved.component AND sent.outcome = 'accepted')";
    let places: Vec<(String, String, String)> = connection
        .prepare(&format!("SELECT DISTINCT resource, from_period, component {CARRIED}"))?
        .query_map([month], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    connection.execute(&format!("DELETE {CARRIED}"), [month])?;
    let both = places.into_iter().flat_map(|(resource, from, component)| {
        [(resource.clone(), month.to_owned(), component.clone()), (resource, from, component)]
    });
    changed_components(connection, both.collect())?;
    Ok(())
}

impl Ledger {
    /// Marks the months from this one on (as far as the next), and those before it of which nothing was ever reported.
    pub fn note_shadow(&mut self, running: BillingPeriod, now: Timestamp) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            let month = running.to_string();
            let mut insert = connection.prepare_cached(
                "INSERT INTO shadow (period, at) VALUES (?1, ?2) ON CONFLICT (period) DO NOTHING",
            )?;
            let is_new = insert.execute(params![month, micros(now)])? > 0;
            // It is there in time, whenever the agent looks next.
            insert.execute(params![running.next().to_string(), micros(now)])?;
            let mut before = connection.prepare_cached(
                "SELECT DISTINCT period FROM statement WHERE period < ?1 AND closed IS NULL
                 AND period NOT IN (SELECT period FROM shadow)
                 AND period NOT IN (SELECT period FROM sent WHERE outcome = 'accepted')",
            )?;
            let before: Vec<String> =
                before.query_map([&month], |row| row.get(0))?.collect::<sql::Result<_>>()?;
            for period in before {
                insert.execute(params![period, micros(now)])?;
            }
            if is_new {
                take_back_carried(connection, &month)?;
                // Nothing is sent, so nothing is to be tried again.
                connection.execute("DELETE FROM retry WHERE resource <> ''", [])?;
                let about = About { resource: "", period: &month, component: "" };
                let words = "report: shadow: the month is only compared, nothing of it is posted";
                tell(connection, about, EventKind::Writer, words, now)?;
            }
            Ok(())
        })
    }

    /// Takes the mark from this month and those after it: they are reported from now on.
    pub fn note_live(&mut self, running: BillingPeriod, now: Timestamp) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            let month = running.to_string();
            let unmarked = connection.execute("DELETE FROM shadow WHERE period >= ?1", [&month])?;
            if unmarked > 0 {
                let about = About { resource: "", period: &month, component: "" };
                let words = "report: live: from this month on it is reported; months before stay as Waldur holds them";
                tell(connection, about, EventKind::Writer, words, now)?;
            }
            Ok(())
        })
    }

    /// The months that are, or were, only compared.
    pub fn shadow_months(&self) -> Result<BTreeSet<BillingPeriod>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT period FROM shadow")?
                .query_map([], |row| period_column(row, 0))?
                .collect()
        })
    }

    /// Whether the month is only compared.
    pub fn is_shadow(&self, period: BillingPeriod) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM shadow WHERE period = ?1)")?
                .query_row([period.to_string()], |row| row.get(0))
        })
    }
}
