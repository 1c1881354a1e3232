//! A collector that goes on under another name although nobody said so (`continues`): its rules are the same, so are the
//! readings that both have read by their ids, and its amounts are what Waldur holds (law 13). From then on it is the old one, so that what
//! it brings late of months before is counted by their rules. Where its amounts differ, a person decides.

use jiff::Timestamp;

use super::change::go_on_as;
use super::claims::RULES_CHANGED;
use super::freed::is_freed_anywhere;
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
            if is_same(was, rules)
                && makes_the_same(connection, rules, month, now.recorded)?
                && reads_the_same(connection, old, new)?
            {
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

/// Whether the rules make just what Waldur holds of all components (`claims` found so), and no person decided what it is to be.
fn makes_the_same(
    connection: &Connection,
    rules: &Rules,
    month: BillingPeriod,
    recorded: Timestamp,
) -> sql::Result<bool> {
    let month = month.to_string();
    let mut agreed = false;
    for meter in &rules.meters {
        let is_doubtful = connection
            .prepare_cached(
                "SELECT 1 FROM line WHERE period = ?1 AND component = ?2 AND held IS NOT NULL
                 UNION ALL SELECT 1 FROM decision WHERE period = ?1 AND component = ?2",
            )?
            .exists(params![month, meter.component])?;
        if is_doubtful {
            return Ok(false);
        }
        agreed |= is_freed_anywhere(connection, recorded, (&month, &meter.component), RULES_CHANGED)?;
    }
    Ok(agreed)
}

/// Whether all that both have read under one id is one reading.
fn reads_the_same(connection: &Connection, old: &str, new: &str) -> sql::Result<bool> {
    let exists = |which: &str| {
        let query = format!(
            "SELECT 1 FROM source older
             JOIN source newer ON newer.collector = ?2 AND newer.name = older.name AND newer.kind = older.kind
             JOIN identity o ON o.source = older.id
             JOIN identity n ON n.source = newer.id AND n.id = o.id AND n.agent = o.agent
             JOIN series so ON so.id = o.series JOIN series sn ON sn.id = n.series
             LEFT JOIN reading ro ON ro.series = o.series AND ro.at = o.at AND ro.start = o.start AND ro.id = o.id
             LEFT JOIN reading rn ON rn.series = n.series AND rn.at = n.at AND rn.start = n.start AND rn.id = n.id
             WHERE older.collector = ?1 AND {which} (so.labels = sn.labels AND o.at = n.at AND o.start = n.start
                AND ro.value IS NOT NULL AND rn.value IS NOT NULL AND ro.value = rn.value) LIMIT 1"
        );
        connection.prepare(&query)?.exists([old, new])
    };
    Ok(exists("")? && !exists("NOT")?)
}
