//! Law 3 on a real ledger: counts everything again from the facts and says where the kept numbers differed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::count::{Changed, recount_from};
use super::statements::state_all;
use super::unstated::changed_components;
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// A kept number that a recount does not give.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub resource: String,
    pub period: String,
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub kept: Option<String>,
    pub recounted: Option<String>,
}

impl Ledger {
    /// Counts everything again (or only from a month on) and keeps the result. Returns what differed.
    pub fn recount_all(
        &mut self,
        from: Option<BillingPeriod>,
        now: Timestamp,
    ) -> Result<Vec<Difference>, LedgerError> {
        self.count_queued()?;
        self.transact(|connection, in_force| recount(connection, in_force, from, now))
    }

    /// Counts everything again, says what differs, and takes it all back.
    pub fn recount_rehearsal(
        &mut self,
        from: Option<BillingPeriod>,
        now: Timestamp,
    ) -> Result<Vec<Difference>, LedgerError> {
        self.count_queued()?;
        self.rehearse(|ledger| ledger.recount_all(from, now))
    }
}

type Lines = BTreeMap<(String, String, String, String, i64), String>;

fn recount(
    connection: &Connection,
    in_force: &InForce,
    from: Option<BillingPeriod>,
    now: Timestamp,
) -> sql::Result<Vec<Difference>> {
    state_all(connection, in_force, now)?;
    let before = lines(connection)?;
    let series: Vec<i64> = connection
        .prepare("SELECT id FROM series ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut changed = Changed::new();
    recount_from(connection, in_force, &series, from, &mut changed)?;
    for (resource, period, component, ..) in before.keys() {
        changed.insert((resource.clone(), period.clone(), component.clone()));
    }
    changed_components(connection, changed)?;
    state_all(connection, in_force, now)?;
    let after = lines(connection)?;
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    // A line of nothing is the same as none.
    let amount = |lines: &Lines, key| lines.get(key).filter(|exact: &&String| *exact != "0").cloned();
    let differs = keys.into_iter().filter(|key| amount(&before, key) != amount(&after, key));
    Ok(differs
        .map(|key| Difference {
            resource: key.0.clone(),
            period: key.1.clone(),
            component: key.2.clone(),
            user: key.3.clone(),
            kept: before.get(key).cloned(),
            recounted: after.get(key).cloned(),
        })
        .collect())
}

fn lines(connection: &Connection) -> sql::Result<Lines> {
    connection
        .prepare("SELECT resource, period, component, username, part, exact FROM line")?
        .query_map([], |row| {
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?), row.get(5)?))
        })?
        .collect()
}
