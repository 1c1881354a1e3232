//! What the page shows, read once from the ledger.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::curve::Curve;
use super::days::{Day, days};
use crate::config::settings::Report;
use crate::daemon::stats::Stats;
use crate::daemon::{Agent, health};
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::sent::blocked::Blocked;
use crate::ledger::sent::server::RowRead;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::views::calls::Call;
use crate::ledger::views::explain::SeriesPart;
use crate::ledger::views::report::CollectorReport;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::exact::Exact;
use crate::metering::period::{BillingPeriod, BillingZone};
use crate::submitter::left::Outstanding;
use crate::submitter::pause::ServerStatus;
use crate::submitter::reason::waits;
use crate::submitter::writer::OwnNames;

/// Resources on a page.
pub(super) const ROWS_PER_PAGE: usize = 50;

/// The first page.
#[derive(Debug)]
pub(super) struct Overview {
    pub(super) now: Timestamp,
    pub(super) period: BillingPeriod,
    pub(super) running: BillingPeriod,
    pub(super) api: String,
    pub(super) shadow: bool,
    pub(super) server: ServerStatus,
    pub(super) collectors: Vec<CollectorReport>,
    /// What waits for a person, of all months, with the resource's name.
    pub(super) blocked: Vec<(String, Blocked)>,
    /// What else is wrong, each in a sentence.
    pub(super) troubles: Vec<String>,
    pub(super) pending: usize,
    pub(super) resources: Vec<Row>,
    /// How many there are in all, and the number of the first that is shown.
    pub(super) total: usize,
    pub(super) from: usize,
}

/// One resource's month.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) customer: String,
    pub(super) project: String,
    pub(super) numbers: Vec<Number>,
}

/// One component's month, over its plan periods.
#[derive(Debug, Default)]
pub(super) struct Number {
    pub(super) component: String,
    pub(super) unit: String,
    pub(super) used: Exact,
    pub(super) posted: Option<Decimal>,
    pub(super) holds: Option<Decimal>,
    pub(super) state: String,
    pub(super) why: Option<String>,
    /// Who wrote what Waldur holds, and when, in words.
    pub(super) written: Option<String>,
    pub(super) curve: Curve,
}

impl Overview {
    pub(super) fn of(
        ledger: &Ledger,
        agent: &Agent,
        stats: &Stats,
        (period, from): (Option<BillingPeriod>, usize),
    ) -> Result<Overview, LedgerError> {
        let now = agent.clock.now();
        let running = ledger.in_force().zone.period_of(now);
        let period = period.unwrap_or(running);
        let mut rows = rows(ledger, ledger.statements(Some(period))?)?;
        rows.sort_by_cached_key(|row| {
            let worst = row.numbers.iter().map(|number| rank(&number.state)).min();
            (worst, row.name.to_lowercase(), row.uuid)
        });
        let total = rows.len();
        let mut resources: Vec<Row> = rows.into_iter().skip(from).take(ROWS_PER_PAGE).collect();
        for row in &mut resources {
            reported(ledger, row, period, now)?;
        }
        let mut blocked = Vec::new();
        for one in ledger.blocks()?.into_iter().filter(|one| waits(&one.block)) {
            let name = name(ledger.resource(one.resource)?.as_ref(), one.resource);
            blocked.push((name, one));
        }
        let collectors = agent.definitions.iter().map(|definition| ledger.collector_report(&definition.name));
        let names: Vec<String> = agent.definitions.iter().map(|definition| definition.name.clone()).collect();
        let left = Outstanding::of(ledger, &names)?;
        Ok(Overview {
            now,
            period,
            running,
            api: agent.client.as_ref().map_or_else(String::new, |client| client.api().to_string()),
            shadow: agent.settings.report == Report::Shadow,
            server: ServerStatus::of(ledger, agent.settings.api())?,
            collectors: collectors.collect::<Result<_, _>>()?,
            blocked,
            troubles: of_the_agent(agent, stats).into_iter().chain(of_readings(&left)).collect(),
            pending: left.pending,
            resources,
            total,
            from,
        })
    }
}

/// What is wrong with the daemon itself and what it runs on.
fn of_the_agent(agent: &Agent, stats: &Stats) -> Vec<String> {
    let mut told = Vec::new();
    if let Some((at, words)) = stats.reload_refused() {
        told.push(format!("A reload was refused at {}: {words}", moment(at)));
    }
    told.extend(stats.ledger_error().map(|error| format!("The ledger can't be written: {error}")));
    let place = &agent.settings.ledger;
    if let Some(free) = place.file().and_then(health::free).filter(|free| *free < health::LOW_DISK_BYTES) {
        let free = free / 1_000_000;
        told.push(format!("{free} MB are free on the disk of {place}; without room nothing can be recorded"));
    }
    told.extend(health::hanging(agent).into_iter().map(|(collector, path, since)| {
        format!("Collector {collector}: {path} does not answer since {}", moment(since))
    }));
    told
}

/// What is not billed as it was read.
fn of_readings(left: &Outstanding) -> Vec<String> {
    let unplaced = usize::try_from(left.unplaced_series(None)).unwrap_or(0);
    let told = [
        ("Readings that are held, because they are not plausible", left.implausible),
        ("Backend ids that are those of several resources", left.several.len()),
        ("Lines or values that the last runs quarantined", left.quarantined),
        ("Backend ids that Waldur knows no resource of", left.unmatched(None).len()),
        ("Backend ids that Waldur was not asked for yet", left.not_asked().len()),
        ("Series whose labels don't identify a resource", unplaced),
    ];
    let mut told: Vec<String> = told
        .into_iter()
        .filter(|(_, number)| *number > 0)
        .map(|(what, number)| format!("{what}: {number}"))
        .collect();
    if left.wholly_unmatched {
        told.push("All that a collector measured is of no resource that Waldur knows".to_owned());
    }
    told
}

/// `2026-11-09 12:03:05Z`
pub(super) fn moment(at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::UTC);
    format!("{} {:02}:{:02}:{:02}Z", at.date(), at.hour(), at.minute(), at.second())
}

/// Worst first.
fn rank(state: &str) -> usize {
    ["held", "parked", "stranded", "pending"].iter().position(|one| *one == state).unwrap_or(4)
}

fn name(known: Option<&KnownResource>, uuid: Uuid) -> String {
    known.map(|known| known.name.clone()).filter(|name| !name.is_empty()).unwrap_or_else(|| uuid.to_string())
}

/// Statements by their resource.
fn rows(ledger: &Ledger, statements: Vec<Statement>) -> Result<Vec<Row>, LedgerError> {
    let mut resources: BTreeMap<Uuid, Vec<Statement>> = BTreeMap::new();
    for statement in statements {
        resources.entry(statement.key.resource).or_default().push(statement);
    }
    let own = OwnNames::of(ledger)?;
    let mut units: BTreeMap<Uuid, BTreeMap<String, String>> = BTreeMap::new();
    let mut rows = Vec::with_capacity(resources.len());
    for (uuid, statements) in resources {
        let known = ledger.resource(uuid)?;
        let offering = known.as_ref().map(|known| known.offering).unwrap_or_default();
        if let std::collections::btree_map::Entry::Vacant(new) = units.entry(offering) {
            let components = ledger.components(offering)?.into_iter();
            new.insert(components.map(|one| (one.component, one.measured_unit)).collect());
        }
        let mut numbers: BTreeMap<String, Number> = BTreeMap::new();
        for statement in &statements {
            let rows = ledger.rows_read(statement.key)?;
            for (component, entry) in &statement.components {
                let number = numbers.entry(component.clone()).or_default();
                number.component.clone_from(component);
                let unit = units.get(&offering).and_then(|of| of.get(component));
                number.unit = unit.cloned().unwrap_or_default();
                let row = rows.get(component);
                number.add(entry, row);
                let words = |row: &RowRead| row.writer.words(own.wrote(&row.writer), moment);
                number.written = row.and_then(words);
            }
        }
        let (customer, project) =
            known.as_ref().map(|known| (known.customer.clone(), known.project.clone())).unwrap_or_default();
        let numbers = numbers.into_values().collect();
        rows.push(Row { uuid, name: name(known.as_ref(), uuid), customer, project, numbers });
    }
    Ok(rows)
}

impl Number {
    fn add(&mut self, entry: &Entry, row: Option<&RowRead>) {
        let sum = |one: Option<Decimal>, other: Option<Decimal>| match (one, other) {
            (Some(one), Some(other)) => one.checked_add(other),
            (one, other) => one.or(other),
        };
        if let Ok(used) = entry.exact.parse::<Exact>() {
            self.used += used;
        }
        self.posted = sum(self.posted, entry.posted);
        self.holds = sum(self.holds, entry.holds(row).map(|holds| holds.amount));
        let state = entry.state();
        if self.state.is_empty() || rank(state) < rank(&self.state) {
            state.clone_into(&mut self.state);
            self.why = entry.block.as_ref().map(|block| block.words.clone()).or(entry.problem.clone());
        }
        self.curve.holds = self.holds;
    }
}

/// Where in a month an instant is, in thousandths.
fn place(zone: &BillingZone, period: BillingPeriod, at: Timestamp) -> i64 {
    let (start, end) = (zone.start(period), zone.end(period));
    let length = end.duration_since(start).as_secs().max(1);
    (at.duration_since(start).as_secs().saturating_mul(1000) / length).clamp(0, 1000)
}

/// The curve of what was reported, and of what there is now.
fn reported(
    ledger: &Ledger,
    row: &mut Row,
    period: BillingPeriod,
    now: Timestamp,
) -> Result<(), LedgerError> {
    let zone = &ledger.in_force().zone;
    let told = ledger.reported_totals(row.uuid, period)?;
    for number in &mut row.numbers {
        let of_it = told.iter().filter(|one| one.component == number.component);
        number.curve.points = of_it.map(|one| (place(zone, period, one.at), one.amount)).collect();
        number.curve.points.extend(number.posted.map(|posted| (place(zone, period, now), posted)));
    }
    Ok(())
}

/// A resource's page.
#[derive(Debug)]
pub(super) struct ResourceDetail {
    pub(super) now: Timestamp,
    pub(super) period: BillingPeriod,
    pub(super) running: BillingPeriod,
    pub(super) known: Option<KnownResource>,
    pub(super) row: Row,
    pub(super) components: Vec<Explained>,
    pub(super) calls: Vec<Call>,
}

/// One component with how its amount came about.
#[derive(Debug)]
pub(super) struct Explained {
    /// Where it is in the row's numbers.
    pub(super) number: usize,
    pub(super) days: BTreeMap<jiff::civil::Date, Day>,
    /// What is of the whole month and of no day.
    pub(super) whole: Exact,
    pub(super) series: Vec<SeriesPart>,
    /// Of users: what is posted, and what Waldur holds.
    pub(super) users: BTreeMap<String, (Option<Decimal>, Option<Decimal>)>,
}

impl ResourceDetail {
    /// `None`: the ledger has nothing of it.
    pub(super) fn of(
        ledger: &Ledger,
        agent: &Agent,
        uuid: Uuid,
        period: Option<BillingPeriod>,
    ) -> Result<Option<ResourceDetail>, LedgerError> {
        let now = agent.clock.now();
        let zone = &ledger.in_force().zone;
        let running = zone.period_of(now);
        let period = period.unwrap_or(running);
        let known = ledger.resource(uuid)?;
        let mut statements = Vec::new();
        for key in ledger.parts_of(uuid, period)? {
            statements.extend(ledger.statement(key)?);
        }
        if statements.is_empty() && known.is_none() {
            return Ok(None);
        }
        let mut users: BTreeMap<(String, String), Number> = BTreeMap::new();
        for (place, entry) in statements.iter().flat_map(|statement| &statement.users) {
            users.entry(place.clone()).or_default().add(entry, None);
        }
        let empty = || {
            let (customer, project) = known
                .as_ref()
                .map(|known| (known.customer.clone(), known.project.clone()))
                .unwrap_or_default();
            Row { uuid, name: name(known.as_ref(), uuid), customer, project, numbers: Vec::new() }
        };
        let mut row = rows(ledger, statements)?.pop().unwrap_or_else(empty);
        let mut components = Vec::new();
        for (place_, number) in row.numbers.iter_mut().enumerate() {
            let series = ledger.explain(uuid, &number.component, period, None)?;
            let (days, whole) = days(&series, period, zone);
            let mut so_far = Exact::zero();
            for (date, day) in &days {
                so_far += day.added.clone();
                let at = place(zone, period, zone.end_of_day(*date).min(now));
                number.curve.points.extend(so_far.approximate(6).parse().ok().map(|amount| (at, amount)));
            }
            if days.is_empty() || !whole.is_zero() {
                number.curve.points.extend(number.posted.map(|posted| (place(zone, period, now), posted)));
            }
            let of_it = users.iter().filter(|((component, _), _)| *component == number.component);
            let users = of_it.map(|((_, user), one)| (user.clone(), (one.posted, one.holds))).collect();
            components.push(Explained { number: place_, days, whole, series, users });
        }
        let calls = ledger.calls(uuid, period)?;
        Ok(Some(ResourceDetail { now, period, running, known, row, components, calls }))
    }
}
