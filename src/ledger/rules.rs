//! Keeps the placing of series in step with the configuration: which target and user each belongs to, and what is
//! counted over it. A changed rule is carried out on all that is known, in one transaction.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::ingest::Restate;
use super::{Ledger, LedgerError, Rulebook, micros, quantify, statements};
use crate::metering::meter::{Place, Rules, Target};
use crate::metering::reading::{Kind, Labels};

/// Where a series belongs, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub target: Option<i64>,
    pub user: Option<String>,
    pub nowhere: Option<String>,
}

impl Placed {
    pub(super) fn nowhere(why: &str) -> Self {
        Placed { target: None, user: None, nowhere: Some(why.to_owned()) }
    }
}

/// Asks the rules where labels belong, and makes a row for a target that is new.
pub(super) fn place(
    connection: &Connection,
    rules: &Rules,
    labels: &Labels,
    now: Timestamp,
) -> rusqlite::Result<Placed> {
    let (target, user) = match rules.place(labels) {
        Place::At { target, user } => (target, user),
        Place::Ignored => return Ok(Placed::nowhere("")),
        Place::Nowhere(why) => return Ok(Placed::nowhere(&why)),
    };
    let (offering, backend_id, resource) = match target {
        Target::Resource(uuid) => (String::new(), uuid.to_string(), Some(uuid.to_string())),
        Target::BackendId { offering, backend_id } => {
            let known = super::catalog::resource_of(connection, offering, &backend_id, rules.ignores_case())?;
            (offering.to_string(), backend_id, known)
        }
    };
    let unmatched_since = resource.is_none().then(|| micros(now));
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO target (offering, backend_id, resource, unmatched_since) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![offering, backend_id, resource, unmatched_since])?;
    let id = connection
        .prepare_cached("SELECT id FROM target WHERE offering = ?1 AND backend_id = ?2")?
        .query_row(params![offering, backend_id], |row| row.get(0))?;
    Ok(Placed { target: Some(id), user, nowhere: None })
}

impl Ledger {
    /// Takes over new rules, of a configuration that was read again.
    pub fn change_rules(&mut self, rulebook: Rulebook, now: Timestamp) -> Result<(), LedgerError> {
        self.rulebook = rulebook;
        self.apply_rules(now)
    }

    /// Carries out what has changed in the rules since the ledger was last written.
    pub fn apply_rules(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        self.transact(|connection, rulebook| {
            let mut restate = Restate::new();
            for rules in &rulebook.rules {
                apply(connection, rulebook, rules, now, &mut restate)?;
            }
            // Months that are over were billed by the rules of their time.
            let current = rulebook.zone.period_of(now).to_string();
            restate.retain(|(_, period, _)| *period >= current);
            statements::restate_all(connection, rulebook, &restate, now)?;
            Ok(())
        })
    }
}

fn apply(
    connection: &Connection,
    rulebook: &Rulebook,
    rules: &Rules,
    now: Timestamp,
    restate: &mut Restate,
) -> rusqlite::Result<()> {
    let (placement, measures) = (rules.placement(), measures_text(rulebook, rules));
    let known: Option<(String, String)> = connection
        .query_row("SELECT placement, measures FROM collector WHERE name = ?", [&rules.collector], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    if known.as_ref() == Some(&(placement.clone(), measures.clone())) {
        return Ok(());
    }
    connection.execute(
        "INSERT INTO collector (name, placement, measures) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET placement = ?2, measures = ?3",
        params![rules.collector, placement, measures],
    )?;
    let Some((old_placement, _)) = known else { return Ok(()) };
    let series: Vec<(i64, String)> = connection
        .prepare(
            "SELECT series.id, series.labels FROM series JOIN source ON source.id = series.source
             WHERE source.collector = ?",
        )?
        .query_map([&rules.collector], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (series, labels) in series {
        // What the old place held must be restated without it.
        statements_of(connection, series, restate)?;
        if old_placement != placement {
            let labels: Labels = serde_json::from_str(&labels).unwrap_or_default();
            let placed = place(connection, rules, &labels, now)?;
            connection.execute(
                "UPDATE series SET target = ?2, user = ?3, nowhere = ?4 WHERE id = ?1",
                params![series, placed.target, placed.user, placed.nowhere],
            )?;
        }
        quantify::recount(connection, rulebook, series, restate)?;
    }
    Ok(())
}

/// Adds the statements that a series is part of: all their components, because what it used to make is not told by the
/// new rules.
pub(super) fn statements_of(
    connection: &Connection,
    series: i64,
    restate: &mut Restate,
) -> rusqlite::Result<()> {
    let mut query = connection.prepare_cached(
        "SELECT DISTINCT line.resource, line.period, line.component FROM series
         JOIN target ON target.id = series.target JOIN line ON line.resource = target.resource
         WHERE series.id = ? AND line.user = ''",
    )?;
    for row in query.query_map([series], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))? {
        restate.insert(row?);
    }
    Ok(())
}

/// All that decides what is counted and how it becomes amounts.
fn measures_text(rulebook: &Rulebook, rules: &Rules) -> String {
    let kinds = [Kind::Counter, Kind::Gauge, Kind::Delta, Kind::Total];
    let mut text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    text.insert("billing_timezone".to_owned(), vec![rulebook.zone.name().to_owned()]);
    for meter in &rules.meters {
        let measures: Vec<String> = kinds
            .iter()
            .filter_map(|kind| meter.measure(*kind).ok())
            .map(|measure| measure.name().into_owned())
            .collect();
        // Several meters may make one component.
        let mut how =
            format!("{} {:?} x {} {}", meter.reading, measures, meter.factor, meter.rounding.name());
        if !meter.weighing.is_even() {
            how += &format!(" {:?}", meter.weighing);
        }
        text.entry(meter.component.clone()).or_default().push(how);
    }
    serde_json::to_string(&text).unwrap_or_default()
}

/// Whether rules, as the ledger keeps them, make this component.
pub(super) fn made(measures: &str, component: &str) -> bool {
    let kept: BTreeMap<String, serde_json::Value> = serde_json::from_str(measures).unwrap_or_default();
    kept.contains_key(component)
}
