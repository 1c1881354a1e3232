//! The rules in force: the metering part of the configuration as it was recorded, with the months that it holds in.
//!
//! A month is counted by the rules that were recorded last for it, whatever the configuration says today (laws 3 and 7).
//! The first that were ever recorded hold for all months before them, too. It decides nothing about what a change of
//! rules means for a bill; `books/change.rs` does.

use jiff::Timestamp;

use super::columns::{instant, micros, unreadable};
use super::sql::{self, Connection, OptionalExtension, params};
use crate::config::digest::sha256;
use crate::metering::meter::Rules;
use crate::metering::period::{BillingPeriod, BillingZone};

/// The rules by which readings become amounts, all collectors' together, as a configuration states them.
#[derive(Debug, Clone)]
pub struct Rulebook {
    pub zone: BillingZone,
    pub rules: Vec<Rules>,
}

impl Rulebook {
    pub fn of(&self, collector: &str) -> Option<&Rules> {
        of(&self.rules, collector)
    }
}

/// Rules that were recorded, and the first month that they hold in.
#[derive(Debug, Clone)]
pub struct Version {
    pub id: i64,
    /// `None`: from the beginning of time.
    pub from: Option<BillingPeriod>,
    pub recorded: Timestamp,
    pub rules: Vec<Rules>,
}

impl Version {
    pub fn of(&self, collector: &str) -> Option<&Rules> {
        of(&self.rules, collector)
    }
}

/// All rules that were ever recorded, and the billing time zones.
#[derive(Debug, Clone)]
pub struct InForce {
    pub zone: BillingZone,
    /// In the order in which they were recorded; never empty.
    versions: Vec<Version>,
    /// The last rows that were read.
    latest: (i64, i64),
}

impl InForce {
    /// The rules that hold in this month.
    pub fn in_month(&self, period: BillingPeriod) -> &Version {
        let holds = |version: &&Version| version.from.is_none_or(|from| from <= period);
        let last = self.versions.iter().filter(holds).max_by_key(|version| (version.from, version.id));
        last.unwrap_or(&self.versions[0])
    }

    /// The rules that were recorded last.
    pub fn latest(&self) -> &Version {
        &self.versions[self.versions.len() - 1]
    }

    /// The rules that held in this month before those that hold now, if they were changed under way: all of them, the
    /// latest first.
    pub fn before_in_month(&self, period: BillingPeriod) -> Vec<&Version> {
        let now = self.in_month(period);
        if now.from != Some(period) {
            return Vec::new();
        }
        let earlier = |version: &&Version| version.id < now.id && version.from == Some(period);
        let mut before: Vec<&Version> = self.versions.iter().rev().filter(earlier).collect();
        before.push(self.in_month(period.previous()));
        before
    }

    /// When the rules were changed that this version is of.
    pub fn recorded_after(&self, version: &Version) -> Timestamp {
        let next = self.versions.iter().find(|later| later.id > version.id);
        next.map_or(Timestamp::MAX, |next| next.recorded)
    }

    /// The rules that held in this month before this version was recorded; `None`: it made no difference to the month.
    pub fn before(&self, period: BillingPeriod, version: i64) -> Option<&Version> {
        if self.in_month(period).id < version {
            return None;
        }
        let before = self.before_in_month(period);
        before.iter().find(|earlier| earlier.id < version).or(before.last()).copied()
    }

    /// Versions that hold in some month: those that no later one for the same month has replaced.
    pub fn effective(&self) -> Vec<&Version> {
        let replaced =
            |version: &Version| self.versions.iter().any(|v| v.from == version.from && v.id > version.id);
        let mut versions: Vec<&Version> = self.versions.iter().filter(|version| !replaced(version)).collect();
        versions.sort_by_key(|version| version.from);
        versions
    }

    /// From when until when a version holds.
    pub fn span(&self, version: &Version) -> (Timestamp, Timestamp) {
        let start = |from: BillingPeriod| self.zone.start(from);
        let after = self.effective().into_iter().find(|later| later.from > version.from);
        (
            version.from.map_or(Timestamp::MIN, start),
            after.and_then(|later| later.from).map_or(Timestamp::MAX, start),
        )
    }
}

fn of<'a>(rules: &'a [Rules], collector: &str) -> Option<&'a Rules> {
    rules.iter().find(|rules| rules.collector == collector)
}

/// What makes a component by these rules; not what is only sent along with it.
pub(in crate::ledger) fn of_component(version: &Version, component: &str) -> sql::Result<String> {
    let mut rules = version.rules.clone();
    for rules in &mut rules {
        rules.meters.retain(|meter| meter.component == component);
        for meter in &mut rules.meters {
            (meter.description, meter.recurring, meter.missing_usage_policy) = (None, None, None);
        }
    }
    rules.retain(|rules| !rules.meters.is_empty());
    text(&rules)
}

/// Whether these are still the last that were recorded.
pub(super) fn is_latest(connection: &Connection, known: &InForce) -> sql::Result<bool> {
    Ok(latest(connection)? == known.latest)
}

fn latest(connection: &Connection) -> sql::Result<(i64, i64)> {
    connection
        .prepare_cached(
            "SELECT (SELECT coalesce(max(id), 0) FROM rules), (SELECT coalesce(max(id), 0) FROM zone)",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// What was recorded; where nothing is yet, what the configuration says.
pub(in crate::ledger) fn load(connection: &Connection, configured: &Rulebook) -> sql::Result<InForce> {
    let zones: Vec<(String, String)> = connection
        .prepare("SELECT period, name FROM zone ORDER BY id")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    let mut zone: Option<BillingZone> = None;
    for (period, name) in zones {
        let named = BillingZone::named(&name).map_err(|error| unreadable(1, error))?;
        zone = Some(match (zone, period.parse()) {
            (Some(zone), Ok(from)) => zone.changed_from(from, &named),
            _ => named,
        });
    }
    let recorded: Vec<(i64, String, String, i64)> = connection
        .prepare("SELECT id, period, rules, recorded FROM rules ORDER BY id")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<sql::Result<_>>()?;
    let mut versions = Vec::with_capacity(recorded.len());
    for (id, period, rules, recorded) in recorded {
        let rules: Vec<Rules> = serde_json::from_str(&rules).map_err(|error| unreadable(2, error))?;
        versions.push(Version { id, from: period.parse().ok(), recorded: instant(recorded), rules });
    }
    if versions.is_empty() {
        let (recorded, rules) = (Timestamp::UNIX_EPOCH, configured.rules.clone());
        versions.push(Version { id: 0, from: None, recorded, rules });
    }
    Ok(InForce {
        zone: zone.unwrap_or_else(|| configured.zone.clone()),
        versions,
        latest: latest(connection)?,
    })
}

/// The first rules by which no statements were made yet.
pub(in crate::ledger) fn first_unstated(connection: &Connection) -> sql::Result<Option<i64>> {
    connection.prepare_cached("SELECT min(id) FROM rules WHERE stated = 0")?.query_row([], |row| row.get(0))
}

/// Statements were made by all rules.
pub(in crate::ledger) fn are_stated(connection: &Connection) -> sql::Result<()> {
    connection.prepare_cached("UPDATE rules SET stated = 1 WHERE stated = 0")?.execute([]).map(drop)
}

/// What was recorded; a new ledger records what the configuration says.
pub(super) fn load_or_record(connection: &Connection, configured: &Rulebook) -> sql::Result<InForce> {
    let transaction = connection.transaction()?;
    let known = transaction.query_row("SELECT 1 FROM rules", [], |_| Ok(())).optional()?;
    if known.is_none() {
        record(&transaction, None, &configured.rules, Timestamp::UNIX_EPOCH)?;
        record_zone(&transaction, None, configured.zone.name(), Timestamp::UNIX_EPOCH)?;
    }
    let in_force = load(&transaction, configured)?;
    transaction.commit()?;
    Ok(in_force)
}

/// Records rules that hold from this month on.
pub(in crate::ledger) fn record(
    connection: &Connection,
    from: Option<BillingPeriod>,
    rules: &[Rules],
    now: Timestamp,
) -> sql::Result<()> {
    let text = text(rules)?;
    connection.execute(
        "INSERT INTO rules (period, recorded, rules) VALUES (?1, ?2, ?3)",
        params![from.map(|period| period.to_string()).unwrap_or_default(), micros(now), text],
    )?;
    Ok(())
}

/// Records that months are those of this zone from this one on.
pub(in crate::ledger) fn record_zone(
    connection: &Connection,
    from: Option<BillingPeriod>,
    name: &str,
    now: Timestamp,
) -> sql::Result<()> {
    connection.execute(
        "INSERT INTO zone (period, recorded, name) VALUES (?1, ?2, ?3)",
        params![from.map(|period| period.to_string()).unwrap_or_default(), micros(now), name],
    )?;
    Ok(())
}

/// Rules as they are recorded: without what only says how often a source is looked at.
pub(in crate::ledger) fn text(rules: &[Rules]) -> sql::Result<String> {
    let mut rules = rules.to_vec();
    for rules in &mut rules {
        rules.default_max_gap = None;
    }
    serde_json::to_string(&rules).map_err(|error| unreadable(0, error))
}

/// What tells the rules of one file from those of another, but for how often the source is looked at and what it was called.
pub(in crate::ledger) fn digest(rules: &Rules) -> sql::Result<String> {
    let mut rules = rules.clone();
    rules.continues = None;
    let text = text(&[rules])?;
    let mut digest = sha256(text.as_bytes());
    digest.truncate(32);
    Ok(digest)
}
