//! What makes a component in a month: the meters of all collectors for it, by the rules in force then.

use jiff::Timestamp;
use uuid::Uuid;

use super::lines::Place;
use crate::ledger::db::columns::instant;
use crate::ledger::db::rules::Version;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::measure::Measure;
use crate::metering::meter::{Meter, Rules};
use crate::metering::period::BillingPeriod;

/// A meter, and the source whose series it meters.
#[derive(Clone, Copy)]
pub(in crate::ledger) struct SourcedMeter<'a> {
    pub(in crate::ledger) source: i64,
    pub(in crate::ledger) rules: &'a Rules,
    pub(in crate::ledger) meter: &'a Meter,
    pub(in crate::ledger) measure: Measure,
}

/// What makes a component.
pub(in crate::ledger) struct SourcedMeters<'a> {
    pub(in crate::ledger) meters: Vec<SourcedMeter<'a>>,
    /// From where the first of its collectors was read, on whichever host, if that is known of all.
    since: Option<Timestamp>,
    /// And from where the last, on the last host.
    all_since: Option<Timestamp>,
}

impl SourcedMeters<'_> {
    /// Whether all of a month that ends then was before anything was read: what reaches back into it (a job that began
    /// before) is only a part of what was used, and the whole is another's to report.
    pub(super) fn began_after(&self, end: Timestamp) -> bool {
        self.since.is_some_and(|since| end <= since)
    }

    /// Whether that may be so of some hosts, and not of others.
    pub(super) fn some_began_after(&self, end: Timestamp) -> bool {
        self.all_since.is_some_and(|since| end <= since)
    }

    /// The meters that may make the component of this resource.
    pub(in crate::ledger) fn of(
        &self,
        connection: &Connection,
        resource: &str,
    ) -> sql::Result<Vec<SourcedMeter<'_>>> {
        let offering = offering_of(connection, resource)?;
        let resource = Uuid::parse_str(resource).unwrap_or_default();
        let meters = self.meters.iter().copied();
        Ok(meters.filter(|maker| maker.rules.may_bill(resource, offering)).collect())
    }
}

/// Whether some meter of these rules may make a component of a resource, whether or not there are readings of it.
pub(super) fn may_be_made(connection: &Connection, version: &Version, place: Place<'_>) -> sql::Result<bool> {
    let offering = offering_of(connection, place.resource)?;
    let resource = Uuid::parse_str(place.resource).unwrap_or_default();
    let makes = |rules: &&Rules| rules.meters.iter().any(|meter| meter.component == place.component);
    Ok(version.rules.iter().filter(makes).any(|rules| rules.may_bill(resource, offering)))
}

fn offering_of(connection: &Connection, resource: &str) -> sql::Result<Option<Uuid>> {
    let offering: Option<String> = connection
        .prepare_cached("SELECT offering FROM resource WHERE uuid = ?")?
        .query_row([resource], |row| row.get(0))
        .optional()?;
    Ok(offering.and_then(|text| Uuid::parse_str(&text).ok()).filter(|uuid| !uuid.is_nil()))
}

/// What meters want sent along with a component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportOptions {
    pub description: Option<String>,
    pub recurring: Option<bool>,
    pub missing_usage_policy: Option<String>,
}

impl Ledger {
    /// What the meters of a component want sent along in this month.
    pub fn report_options(
        &self,
        resource: Uuid,
        period: BillingPeriod,
        component: &str,
    ) -> Result<ReportOptions, LedgerError> {
        let version = self.in_force.in_month(period);
        let says = |meter: &Meter| {
            meter.description.is_some() || meter.recurring.is_some() || meter.missing_usage_policy.is_some()
        };
        let meters = version.rules.iter().flat_map(|rules| &rules.meters);
        if !meters.filter(|meter| meter.component == component).any(says) {
            // As with most: nothing is to be looked up.
            return Ok(ReportOptions::default());
        }
        self.look(|connection| {
            let makers = meters_of(connection, version, component)?;
            let meters = makers.of(connection, &resource.to_string())?;
            let meters = || meters.iter().map(|maker| maker.meter);
            Ok(ReportOptions {
                description: meters().find_map(|meter| meter.description.clone()),
                recurring: meters().find_map(|meter| meter.recurring),
                missing_usage_policy: meters().find_map(|meter| meter.missing_usage_policy.clone()),
            })
        })
    }
}

/// All meters of a version of the rules that make a component, with their sources.
pub(in crate::ledger) fn meters_of<'a>(
    connection: &Connection,
    version: &'a Version,
    component: &str,
) -> sql::Result<SourcedMeters<'a>> {
    let mut meters = Vec::new();
    for rules in &version.rules {
        for meter in rules.meters.iter().filter(|meter| meter.component == component) {
            let sources: Vec<(i64, String)> = connection
                .prepare_cached("SELECT id, kind FROM source WHERE collector = ?1 AND name = ?2 ORDER BY id")?
                .query_map(params![rules.collector, meter.reading], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<sql::Result<_>>()?;
            for (source, kind) in sources {
                if let Some(measure) = kind.parse().ok().and_then(|kind| meter.measure(kind).ok()) {
                    meters.push(SourcedMeter { source, rules, meter, measure });
                }
            }
        }
    }
    let mut since = Some(Timestamp::MAX).filter(|_| !meters.is_empty());
    let mut all_since = None;
    for maker in &meters {
        let (first, last): (Option<i64>, Option<i64>) = connection
            .prepare_cached("SELECT min(since), max(since) FROM collector WHERE name = ?")?
            .query_row([&maker.rules.collector], |row| Ok((row.get(0)?, row.get(1)?)))?;
        since = since.zip(first).map(|(since, first)| since.min(instant(first)));
        all_since = all_since.max(last.map(instant));
    }
    Ok(SourcedMeters { meters, since, all_since })
}
