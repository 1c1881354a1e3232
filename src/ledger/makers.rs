//! What makes a component: the meters of all collectors for it, and those that the configuration no longer has.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::lines::Place;
use super::{Rulebook, instant};
use crate::metering::measure::Measure;
use crate::metering::meter::{Meter, Rules};

/// A meter, and the source whose series it meters.
#[derive(Clone, Copy)]
pub(super) struct Maker<'a> {
    pub(super) source: i64,
    rules: &'a Rules,
    pub(super) meter: &'a Meter,
    pub(super) measure: Measure,
}

/// What makes a component.
pub(super) struct Makers<'a> {
    pub(super) meters: Vec<Maker<'a>>,
    /// The rules that have a meter for it.
    rules: Vec<&'a Rules>,
    /// Collectors that made it, and that the configuration no longer has.
    gone: Vec<String>,
    /// From where the first of its collectors was read, if that is known of all.
    since: Option<Timestamp>,
}

impl Makers<'_> {
    /// Whether all of a month that ends then was before anything was read: what reaches back into it (a job that began
    /// before) is only a part of what was used, and the whole is another's to report.
    pub(super) fn began_after(&self, end: Timestamp) -> bool {
        self.since.is_some_and(|since| end <= since)
    }

    /// The meters that may make the component of this resource.
    pub(super) fn of(&self, connection: &Connection, resource: &str) -> rusqlite::Result<Vec<Maker<'_>>> {
        let offering = offering_of(connection, resource)?;
        let resource = Uuid::parse_str(resource).unwrap_or_default();
        let meters = self.meters.iter().copied();
        Ok(meters.filter(|maker| maker.rules.may_bill(resource, offering)).collect())
    }

    /// Whether some collector may make the component of this resource.
    pub(super) fn are_for(&self, connection: &Connection, resource: &str) -> rusqlite::Result<bool> {
        let offering = offering_of(connection, resource)?;
        let resource = Uuid::parse_str(resource).unwrap_or_default();
        Ok(self.rules.iter().any(|rules| rules.may_bill(resource, offering)))
    }

    /// A collector that is gone and has measured some of this.
    pub(super) fn gone_from(
        &self,
        connection: &Connection,
        place: Place<'_>,
    ) -> rusqlite::Result<Option<&str>> {
        for collector in &self.gone {
            let measured = connection
                .prepare_cached(
                    "SELECT 1 FROM target JOIN series ON series.target = target.id
                     JOIN source ON source.id = series.source JOIN quantity ON quantity.series = series.id
                     WHERE target.resource = ?1 AND quantity.period = ?2 AND source.collector = ?3",
                )?
                .exists(params![place.resource, place.period, collector])?;
            if measured {
                return Ok(Some(collector));
            }
        }
        Ok(None)
    }
}

fn offering_of(connection: &Connection, resource: &str) -> rusqlite::Result<Option<Uuid>> {
    let offering: Option<String> = connection
        .prepare_cached("SELECT offering FROM resource WHERE uuid = ?")?
        .query_row([resource], |row| row.get(0))
        .optional()?;
    Ok(offering.and_then(|text| Uuid::parse_str(&text).ok()).filter(|uuid| !uuid.is_nil()))
}

/// All meters that make a component, with their sources.
pub(super) fn makers_of<'a>(
    connection: &Connection,
    rulebook: &'a Rulebook,
    component: &str,
) -> rusqlite::Result<Makers<'a>> {
    let mut makers = Vec::new();
    for rules in &rulebook.rules {
        for meter in rules.meters.iter().filter(|meter| meter.component == component) {
            let source: Option<(i64, String)> = connection
                .prepare_cached("SELECT id, kind FROM source WHERE collector = ?1 AND name = ?2")?
                .query_row(params![rules.collector, meter.reading], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((source, kind)) = source else { continue };
            if let Some(measure) = kind.parse().ok().and_then(|kind| meter.measure(kind).ok()) {
                makers.push(Maker { source, rules, meter, measure });
            }
        }
    }
    let makes = |rules: &&Rules| rules.meters.iter().any(|meter| meter.component == component);
    let known: Vec<(String, String)> = connection
        .prepare_cached("SELECT name, measures FROM collector ORDER BY name")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let gone = known.into_iter().filter(|(name, _)| rulebook.of(name).is_none());
    let gone = gone.filter(|(_, measures)| super::rules::made(measures, component)).map(|(name, _)| name);
    let mut since = Some(Timestamp::MAX).filter(|_| !makers.is_empty());
    for maker in &makers {
        let of_this: Option<i64> = connection
            .prepare_cached("SELECT since FROM collector WHERE name = ?")?
            .query_row([&maker.rules.collector], |row| row.get(0))
            .optional()?
            .flatten();
        since = since.zip(of_this).map(|(since, of_this)| since.min(instant(of_this)));
    }
    let rules = rulebook.rules.iter().filter(makes).collect();
    Ok(Makers { meters: makers, rules, gone: gone.collect(), since })
}
