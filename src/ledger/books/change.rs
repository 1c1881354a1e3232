//! A changed configuration: what it means is recorded, with the month from which it holds (laws 7 and 13).
//!
//! Rules hold from the running month on; the billing time zone from the next. Months before keep theirs, whatever becomes
//! known of them. It changes no number that was posted; what the new rules make of the running month is stated anew, and
//! what would leave more on the bill than was used is held there (`claims`).

use jiff::Timestamp;

use super::count::{Changed, recount_from};
use super::place::{Unplaced, place, placed};
use super::unstated::{all_of_month, changed_components};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::{self, InForce, Rulebook, Version};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::meter::Rules;
use crate::metering::period::{BillingPeriod, BillingZone};

impl Ledger {
    /// Takes over new rules, of a configuration that was read again. Returns what changed, in words.
    pub fn change_rules(&mut self, rulebook: Rulebook, now: Timestamp) -> Result<Vec<String>, LedgerError> {
        self.rulebook = rulebook;
        self.apply_rules(now)
    }

    /// Records what has changed in the rules since they were last recorded. Returns what changed, in words.
    pub fn apply_rules(&mut self, now: Timestamp) -> Result<Vec<String>, LedgerError> {
        let configured = self.rulebook.clone();
        let changes = self.transact(|connection, in_force| apply(connection, in_force, &configured, now))?;
        if !changes.is_empty() {
            let reloaded = self.transact(|_, in_force| Ok(in_force.clone()))?;
            self.in_force = reloaded;
        }
        Ok(changes)
    }

    /// What recording this configuration now would change, in words; nothing is kept.
    pub fn changes_of(&self, configured: &Rulebook, now: Timestamp) -> Vec<String> {
        let month = self.in_force.zone.period_of(now);
        let mut changes = rule_changes(&self.in_force.latest().rules, &configured.rules, month);
        changes.extend(zone_change(&self.in_force.zone, &configured.zone, month));
        changes
    }
}

fn apply(
    connection: &Connection,
    in_force: &InForce,
    configured: &Rulebook,
    now: Timestamp,
) -> sql::Result<Vec<String>> {
    let month = in_force.zone.period_of(now);
    let mut changes = Vec::new();
    if let Some(words) = zone_change(&in_force.zone, &configured.zone, month) {
        rules::record_zone(connection, Some(month.next()), configured.zone.name(), now)?;
        changes.push(words);
    }
    let (before, after) = (rules::text(&in_force.latest().rules)?, rules::text(&configured.rules)?);
    if before != after {
        for rules in &configured.rules {
            if let Some(old) = &rules.continues {
                changes.extend(go_on(connection, (old, &rules.collector), month)?);
            }
        }
        changes.extend(rule_changes(&in_force.latest().rules, &configured.rules, month));
        rules::record(connection, Some(month), &configured.rules, now)?;
    }
    let recorded = rules::load(connection, configured)?;
    if before != after {
        carry_out(connection, in_force, &recorded, month, now)?;
    }
    let since = month.to_string();
    for words in &changes {
        let words = format!("the rules were changed: {words}");
        tell(connection, About { period: &since, ..About::default() }, EventKind::Rules, &words, now)?;
    }
    Ok(changes)
}

/// Lets a collector go on where another ended, in all months, as `continues` would (`renamed`). What it has brought of months
/// that are over, which had no rules for it until now, is counted as what comes late.
pub(super) fn go_on_as(
    connection: &Connection,
    in_force: &InForce,
    configured: &Rulebook,
    (old, new): (&str, &str),
    now: Timestamp,
) -> sql::Result<()> {
    let month = in_force.zone.period_of(now);
    let Some(words) = go_on(connection, (old, new), month)? else { return Ok(()) };
    // Recorded once more, so that whoever has the ledger open reads them again.
    rules::record(connection, Some(month), &in_force.latest().rules, now)?;
    let recorded = rules::load(connection, configured)?;
    let series: Vec<(i64, String, i64)> = connection
        .prepare(
            "SELECT series.id, series.labels, source.id FROM series JOIN source ON source.id = series.source
             WHERE source.collector = ?",
        )?
        .query_map([new], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    let unplaced: Vec<Unplaced<'_>> = series
        .iter()
        .map(|(series, labels, source)| Unplaced { series: *series, source: *source, collector: new, labels })
        .collect();
    for version in recorded.effective() {
        place(connection, (&recorded.zone, version), &unplaced, now)?;
    }
    carry_out(connection, in_force, &recorded, month, now)?;
    let series: Vec<i64> = series.into_iter().map(|(series, ..)| series).collect();
    let mut changed = Changed::new();
    recount_from(connection, &recorded, &series, Some(month.previous()), &mut changed)?;
    changed_components(connection, changed)?;
    let since = month.to_string();
    let words = format!("{words}: its rules, its readings and its amounts are the same");
    tell(connection, About { period: &since, ..About::default() }, EventKind::Rules, &words, now)
}

/// Places all series by the new rules, and counts anew what is counted otherwise in the running month.
fn carry_out(
    connection: &Connection,
    before: &InForce,
    recorded: &InForce,
    month: BillingPeriod,
    now: Timestamp,
) -> sql::Result<()> {
    let version = recorded.latest();
    let series: Vec<(i64, String, String, i64)> = connection
        .prepare(
            "SELECT series.id, source.collector, series.labels, source.id FROM series
             JOIN source ON source.id = series.source",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<sql::Result<_>>()?;
    // What another collector's readings were put beside is counted anew.
    let changed_hands = version.rules.iter().any(|rules| rules.continues.is_some());
    let mut otherwise = Vec::new();
    let unplaced: Vec<Unplaced<'_>> = series
        .iter()
        .map(|(series, collector, labels, source)| Unplaced {
            series: *series,
            source: *source,
            collector,
            labels,
        })
        .collect();
    place(connection, (&recorded.zone, version), &unplaced, now)?;
    for (series, collector, ..) in &series {
        let (was, is) = (before.in_month(month).of(collector), version.of(collector));
        if changed_hands
            || was.map(counting) != is.map(counting)
            || !same_place(connection, before.in_month(month), version, *series)?
        {
            otherwise.push(*series);
        }
    }
    let mut changed = Changed::new();
    recount_from(connection, recorded, &otherwise, Some(month), &mut changed)?;
    changed_components(connection, changed)?;
    // What the old rules made must be stated without it, and what was held may be no more.
    all_of_month(connection, None, &month.to_string())
}

/// What decides how series are counted.
fn counting(rules: &Rules) -> Vec<(&str, String, &str)> {
    let meters = rules.meters.iter();
    let counted = meters.map(|meter| {
        let mut how = format!("{:?} {:?} {:?} {}", meter.aggregate, meter.hold, meter.at_most, meter.factor);
        if meter.at_most.is_some() {
            how += &meter.weighing.to_string();
        }
        (meter.reading.as_str(), how, meter.component.as_str())
    });
    counted.collect()
}

fn same_place(connection: &Connection, was: &Version, is: &Version, series: i64) -> sql::Result<bool> {
    Ok(placed(connection, was, series)?.target == placed(connection, is, series)?.target)
}

/// Gives the series and the checkpoint of a collector to the one that goes on in its place, in all months; in words. `None`:
/// it was done before, or there is nothing to give.
fn go_on(
    connection: &Connection,
    (old, new): (&str, &str),
    month: BillingPeriod,
) -> sql::Result<Option<String>> {
    let known: bool = connection.prepare("SELECT 1 FROM source WHERE collector = ?")?.exists([old])?;
    // One that has not measured anything yet goes on as well: months before have rules for it.
    if !known && !has_rules(connection, old, new)? {
        return Ok(None);
    }
    if let Some(over) = counted_before(connection, (old, new), month)? {
        return Ok(Some(format!(
            "the collector {new} does not go on where {old} ended (`continues: {old}`): it has counted {over} by itself, which is \
             over. Each keeps what it has measured"
        )));
    }
    let named: Vec<(i64, String, String)> = connection
        .prepare("SELECT id, name, kind FROM source WHERE collector = ?")?
        .query_map([old], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    for (source, name, kind) in named {
        // Readings of another kind stand beside them: they are no more of the same series.
        let newer: Option<i64> = connection
            .prepare("SELECT id FROM source WHERE collector = ?1 AND name = ?2 AND kind = ?3")?
            .query_row([new, &name, &kind], |row| row.get(0))
            .optional()?;
        if let Some(newer) = newer {
            merge(connection, source, newer)?;
        }
        let continued = newer.is_none();
        connection.execute(
            "UPDATE source SET collector = ?2, continued = ?3 WHERE id = ?1",
            params![source, new, continued],
        )?;
    }
    connection.execute(
        "INSERT INTO collector (agent, name, checkpoint, since, read_to, settled, changed_in)
         SELECT agent, ?2, checkpoint, since, read_to, settled, changed_in FROM collector WHERE name = ?1
         ON CONFLICT (name, agent) DO UPDATE SET checkpoint = coalesce(collector.checkpoint, excluded.checkpoint),
            since = CASE WHEN collector.since < excluded.since THEN collector.since ELSE excluded.since END",
        params![old, new],
    )?;
    connection.execute("UPDATE run SET collector = ?2 WHERE collector = ?1", params![old, new])?;
    // The rules of months before speak of it by the name that it has now.
    let recorded: Vec<(i64, String)> = connection
        .prepare("SELECT id, rules FROM rules")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    for (id, text) in recorded {
        let Ok(mut rules) = serde_json::from_str::<Vec<Rules>>(&text) else { continue };
        if rules.iter().any(|rules| rules.collector == new) {
            continue;
        }
        for rules in rules.iter_mut().filter(|rules| rules.collector == old) {
            rules.collector = new.to_owned();
        }
        connection.execute("UPDATE rules SET rules = ?2 WHERE id = ?1", params![id, rules::text(&rules)?])?;
    }
    Ok(Some(format!("the collector {new} goes on where {old} ended")))
}

/// A month that is over in which the newer of two collectors has counted what the older measures, too: what became of it then
/// is settled, and can't be put together with the other's any more (law 7).
fn counted_before(
    connection: &Connection,
    (old, new): (&str, &str),
    month: BillingPeriod,
) -> sql::Result<Option<String>> {
    connection
        .prepare(
            "SELECT max(quantity.period) FROM quantity JOIN series ON series.id = quantity.series
             JOIN source ON source.id = series.source
             JOIN source older ON older.collector = ?1 AND older.name = source.name AND older.kind = source.kind
             WHERE source.collector = ?2 AND quantity.period < ?3",
        )?
        .query_row(params![old, new, month.to_string()], |row| row.get(0))
}

/// Whether rules were recorded for the one collector that are to be the other's.
fn has_rules(connection: &Connection, old: &str, new: &str) -> sql::Result<bool> {
    let recorded: Vec<String> = connection
        .prepare("SELECT rules FROM rules")?
        .query_map([], |row| row.get(0))?
        .collect::<sql::Result<_>>()?;
    let recorded = recorded.iter().filter_map(|text| serde_json::from_str::<Vec<Rules>>(text).ok());
    let names = |rules: &[Rules], name: &str| rules.iter().any(|rules| rules.collector == name);
    Ok(recorded.into_iter().any(|rules| names(&rules, old) && !names(&rules, new)))
}

/// Puts what a newer source has read beside what the one has that it continues. What both have read is one reading.
fn merge(connection: &Connection, source: i64, newer: i64) -> sql::Result<()> {
    let series: Vec<(i64, String, String)> = connection
        .prepare("SELECT id, labels, agent FROM series WHERE source = ?")?
        .query_map([newer], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    for (from, labels, agent) in series {
        let into: Option<i64> = connection
            .prepare("SELECT id FROM series WHERE source = ?1 AND labels = ?2 AND agent = ?3")?
            .query_row(params![source, labels, agent], |row| row.get(0))
            .optional()?;
        let Some(into) = into else {
            connection.execute("UPDATE series SET source = ?2 WHERE id = ?1", [from, source])?;
            connection.execute("UPDATE placed SET source = ?2 WHERE series = ?1", [from, source])?;
            continue;
        };
        connection.execute(
            "DELETE FROM reading WHERE series = ?1 AND (value IS NULL OR id <> '' AND EXISTS (
                SELECT 1 FROM identity WHERE identity.source = ?2 AND identity.id = reading.id AND identity.agent = ?4)
             OR EXISTS (SELECT 1 FROM reading known WHERE known.series = ?3 AND known.at = reading.at
                AND known.start = reading.start AND known.id = reading.id))",
            params![from, source, into, agent],
        )?;
        connection.execute("UPDATE reading SET series = ?2 WHERE series = ?1", [from, into])?;
        connection.execute("UPDATE identity SET series = ?2 WHERE series = ?1", [from, into])?;
        for table in ["quantity", "month_state", "placed"] {
            connection.execute(&format!("DELETE FROM {table} WHERE series = ?1"), [from])?;
        }
        connection.execute("DELETE FROM series WHERE id = ?1", [from])?;
        connection.execute(
            "UPDATE series SET live = 1, last = (SELECT max(at) FROM reading WHERE series = ?1) WHERE id = ?1",
            [into],
        )?;
    }
    connection.execute(
        "DELETE FROM identity WHERE source = ?1 AND EXISTS (
            SELECT 1 FROM identity known WHERE known.source = ?2 AND known.id = identity.id
                AND known.agent = identity.agent)",
        [newer, source],
    )?;
    connection.execute("UPDATE identity SET source = ?2 WHERE source = ?1", [newer, source])?;
    connection
        .execute("DELETE FROM same_ids WHERE source IN (?1, ?2) OR other IN (?1, ?2)", [source, newer])?;
    connection.execute("DELETE FROM source WHERE id = ?1", [newer])?;
    Ok(())
}

fn zone_change(known: &BillingZone, configured: &BillingZone, month: BillingPeriod) -> Option<String> {
    (known.name() != configured.name()).then(|| {
        format!(
            "billing_timezone is {} instead of {}: it holds from {} on, which begins where {month} ends",
            configured.name(),
            known.name(),
            month.next()
        )
    })
}

/// What is otherwise in new rules, collector by collector and component by component.
fn rule_changes(before: &[Rules], after: &[Rules], month: BillingPeriod) -> Vec<String> {
    let mut changes = Vec::new();
    for old in before {
        let Some(new) = after.iter().find(|new| new.collector == old.collector) else {
            changes.push(format!("the collector {} is no longer configured, from {month} on", old.collector));
            continue;
        };
        let name = &old.collector;
        if old.placement() != new.placement() {
            changes.push(format!("{name}: `resource`, `user` or `ignore` changed, from {month} on"));
        }
        for meter in &old.meters {
            let same = |other: &&crate::metering::meter::Meter| {
                other.component == meter.component && other.reading == meter.reading
            };
            match new.meters.iter().find(same) {
                None => changes.push(format!(
                    "{name}: no rule makes {} of {} any more, from {month} on",
                    meter.component, meter.reading
                )),
                Some(now) if now.factor != meter.factor => changes.push(format!(
                    "{name}: the factor of {} is {} instead of {}, from {month} on",
                    meter.component,
                    now.factor_as_written(),
                    meter.factor_as_written()
                )),
                Some(now) if !now.is_same_rule(meter) => {
                    changes
                        .push(format!("{name}: the rule for {} changed, from {month} on", meter.component));
                }
                Some(_) => {}
            }
        }
        let known = |meter: &&crate::metering::meter::Meter| {
            !old.meters
                .iter()
                .any(|other| other.component == meter.component && other.reading == meter.reading)
        };
        for meter in new.meters.iter().filter(known) {
            changes
                .push(format!("{name}: {} is made of {}, from {month} on", meter.component, meter.reading));
        }
    }
    for new in after.iter().filter(|new| !before.iter().any(|old| old.collector == new.collector)) {
        changes.push(format!("the collector {} counts from {month} on", new.collector));
    }
    changes
}
