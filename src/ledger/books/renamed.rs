//! A collector that goes on under another name although nobody said so (`continues`): its rules are the same, the ids of its
//! readings are the old one's, and its amounts are what Waldur holds (law 13). From then on it is the old one, so that what
//! it brings late of months before is counted by their rules. Where its amounts differ, a person decides.

use jiff::Timestamp;

use super::change::go_on_as;
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::meter::Rules;
use crate::metering::period::BillingPeriod;

impl Ledger {
    /// Lets collectors go on that were renamed; whether there was one.
    pub(super) fn follow_renamed(&mut self, now: Timestamp) -> Result<bool, LedgerError> {
        // Who has the rules of before and after in hand reads them again once the transaction is over.
        if !self.is_between_transactions() {
            return Ok(false);
        }
        let month = self.in_force.zone.period_of(now);
        let found = self.look(|connection| renamed(connection, &self.in_force, month))?;
        let Some((old, new)) = found else { return Ok(false) };
        let configured = self.rulebook.clone();
        self.transact(|connection, in_force| go_on_as(connection, in_force, &configured, (&old, &new), now))?;
        let reloaded = self.transact(|_, in_force| Ok(in_force.clone()))?;
        self.in_force = reloaded;
        Ok(true)
    }
}

/// A collector that ended in this month, and the one that does in its place what it did.
fn renamed(
    connection: &Connection,
    in_force: &InForce,
    month: BillingPeriod,
) -> sql::Result<Option<(String, String)>> {
    let of_same_ids: Vec<(String, String)> = connection
        .prepare_cached(
            "SELECT DISTINCT older.collector, newer.collector FROM same_ids
             JOIN source newer ON newer.id = same_ids.source JOIN source older ON older.id = same_ids.other
             WHERE newer.collector <> older.collector ORDER BY 1, 2",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    let now = in_force.latest();
    for (one, other) in of_same_ids {
        for (old, new) in [(&one, &other), (&other, &one)] {
            let (None, Some(rules)) = (now.of(old), now.of(new)) else { continue };
            let before = in_force.before_in_month(month);
            let Some(was) = before.iter().find(|version| version.of(new).is_none()).and_then(|v| v.of(old))
            else {
                continue;
            };
            let is_same = is_same(was, rules);
            if is_same && !is_doubtful(connection, rules, month)? {
                return Ok(Some((old.clone(), new.clone())));
            }
        }
    }
    Ok(None)
}

/// Whether these rules differ in the collector's name alone.
fn is_same(one: &Rules, other: &Rules) -> bool {
    let plain = |rules: &Rules| {
        let mut rules = rules.clone();
        rules.collector = String::new();
        (rules.continues, rules.default_max_gap) = (None, None);
        rules
    };
    plain(one) == plain(other)
}

/// Whether an amount of this collector's components is not what Waldur holds, or a person decided what it is to be.
fn is_doubtful(connection: &Connection, rules: &Rules, month: BillingPeriod) -> sql::Result<bool> {
    let month = month.to_string();
    for meter in &rules.meters {
        let is_doubtful = connection
            .prepare_cached(
                "SELECT 1 FROM line WHERE period = ?1 AND component = ?2 AND held IS NOT NULL
                 UNION ALL SELECT 1 FROM decision WHERE period = ?1 AND component = ?2",
            )?
            .exists(params![month, meter.component])?;
        if is_doubtful {
            return Ok(true);
        }
    }
    Ok(false)
}
