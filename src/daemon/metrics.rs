//! The page of metrics. docs/metrics.md lists every one of them, with type and labels, and tests/metrics.rs compares. It only
//! reads; no amount of a customer is on it unless that is asked for, nor any name that is not in the configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use uuid::Uuid;

use super::health::{self, Shared};
use super::retry;
use super::stats::Runs;
use crate::ledger::LedgerError;
use crate::ledger::db::error::Cause;
use crate::submitter::closing::Closing;
use crate::submitter::left::Outstanding;
use crate::submitter::pause::{self, ServerStatus};

/// Labels and their values.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels(Vec<(&'static str, String)>);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let pairs: Vec<(&str, &str)> = self.0.iter().map(|(name, value)| (*name, value.as_str())).collect();
        EncodeLabelSet::encode(&pairs, encoder)
    }
}

type Gauges = Family<Labels, Gauge>;
type Floats = Family<Labels, Gauge<f64, AtomicU64>>;

/// A page in the making.
struct Page(Registry);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: i64) {
        let metric: Gauge = Gauge::default();
        metric.set(value);
        self.0.register(name, help, metric);
    }

    fn float(&mut self, name: &str, help: &str, value: f64) {
        let metric: Gauge<f64, AtomicU64> = Gauge::default();
        metric.set(value);
        self.0.register(name, help, metric);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    /// One label, and a value for each of its values.
    fn gauges(&mut self, name: &str, help: &str, label: &'static str, values: Vec<(String, i64)>) {
        let family = Gauges::default();
        for (of, value) in values {
            family.get_or_create(&Labels(vec![(label, of)])).set(value);
        }
        self.0.register(name, help, family);
    }

    fn floats(&mut self, name: &str, help: &str, label: &'static str, values: Vec<(String, f64)>) {
        let family = Floats::default();
        for (of, value) in values {
            family.get_or_create(&Labels(vec![(label, of)])).set(value);
        }
        self.0.register(name, help, family);
    }

    fn counters(&mut self, name: &str, help: &str, label: &'static str, values: Vec<(String, u64)>) {
        let family: Family<Labels, Counter> = Family::default();
        for (of, value) in values {
            family.get_or_create(&Labels(vec![(label, of)])).inc_by(value);
        }
        self.0.register(name, help, family);
    }
}

/// The whole page, in the OpenMetrics text format. Where the ledger can't be read, what is not in it is told all the same, and
/// why it can't.
pub(super) async fn gather(shared: &Shared) -> String {
    let mut page = Page(Registry::with_prefix("waldur_usage_agent"));
    let now = shared.agent.clock.now();
    process(&mut page, shared);
    let read = async {
        collectors(&mut page, shared, now).await?;
        ledger(&mut page, shared, now).await?;
        if shared.agent.settings.metrics_amounts {
            amounts(&mut page, shared, now).await?;
        }
        agents(&mut page, shared, now).await
    };
    let read: Result<(), LedgerError> = read.await;
    // What a server's database takes on its disks is the server's to tell.
    if let Some(path) = shared.agent.settings.ledger.file() {
        file(&mut page, path);
    }
    failing(&mut page, shared.stats.ledger_error().or(read.err()).as_ref());
    server(&mut page, shared);
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = encode(&mut text, &page.0);
    in_order(&text)
}

/// The lines of each family in the order of their labels, so that two pages can be compared.
fn in_order(text: &str) -> String {
    let mut ordered = String::with_capacity(text.len());
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for some in lines.chunk_by(|a, b| a.starts_with('#') == b.starts_with('#')) {
        let mut some = some.to_vec();
        if some.first().is_some_and(|line| !line.starts_with('#')) {
            some.sort_unstable();
        }
        ordered.extend(some);
    }
    ordered
}

/// The program and its configuration.
fn process(page: &mut Page, shared: &Shared) {
    let build = Gauges::default();
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("WALDUR_USAGE_AGENT_COMMIT"));
    let commit = commit.trim_start_matches("commit ");
    build.get_or_create(&Labels(vec![("version", version.to_owned()), ("commit", commit.to_owned())])).set(1);
    page.0.register("build_info", "Which version this is, and the commit that it was built of", build);
    let stats = &shared.stats;
    let seconds = |at: &AtomicU64| i64::try_from(at.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
    page.gauge("start_timestamp_seconds", "When the daemon started", seconds(&stats.started));
    page.gauge(
        "config_last_reload_timestamp_seconds",
        "When the configuration was last read, at the start or by SIGHUP",
        seconds(&stats.reloaded),
    );
    page.gauge(
        "config_last_reload_successful",
        "0 if the configuration that was last read had a mistake, and an older one is at work",
        i64::from(stats.reload_refused().is_none()),
    );
}

async fn collectors(page: &mut Page, shared: &Shared, now: Timestamp) -> Result<(), LedgerError> {
    let here = shared.agent.definitions.iter().filter(|definition| !definition.elsewhere);
    let names: Vec<String> = here.map(|definition| definition.name.clone()).collect();
    let of_ledger = names.clone();
    let reports = shared
        .ledger
        .with(move |ledger| {
            let report = |name: &String| Ok((ledger.collector_report(name)?, ledger.pace(name, now)?));
            of_ledger.iter().map(report).collect::<Result<Vec<_>, LedgerError>>()
        })
        .await?;
    let runs: BTreeMap<String, Runs> = names
        .into_iter()
        .map(|name| {
            let runs = shared.stats.runs_of(&name);
            (name, runs)
        })
        .collect();
    let each =
        |value: fn(&Runs) -> u64| runs.iter().map(|(name, runs)| (name.clone(), value(runs))).collect();
    page.counters(
        "collector_runs",
        "Runs of the collector since the start",
        "collector",
        each(|runs| runs.runs),
    );
    page.counters(
        "collector_run_failures",
        "Runs that failed, wholly or in part",
        "collector",
        each(|runs| runs.failures),
    );
    page.counters(
        "collector_runs_missed",
        "Runs that were due and did not take place",
        "collector",
        each(|runs| runs.missed),
    );
    page.counters(
        "collector_readings",
        "Readings that were recorded and not known before",
        "collector",
        each(|runs| runs.readings),
    );
    page.counters(
        "collector_quarantined",
        "Lines and values that were not billed because they can't be readings",
        "collector",
        each(|runs| runs.quarantined),
    );
    page.floats(
        "collector_run_duration_seconds",
        "How long the last run took",
        "collector",
        runs.iter().map(|(name, runs)| (name.clone(), runs.last.as_secs_f64())).collect(),
    );
    let (mut success, mut failing, mut retries) = (Vec::new(), Vec::new(), Vec::new());
    for (collector, pace) in reports {
        let definition = shared.agent.definitions.iter().find(|known| known.name == collector.name);
        let again =
            definition.and_then(|definition| retry::retry_of(&definition.name, &definition.schedule, &pace));
        let name = collector.name;
        retries.push((name.clone(), again.map_or(0, |at| at.as_second())));
        success.push((name.clone(), collector.last_success.map_or(0, |at| at.as_second())));
        failing.push((name, collector.failures_since));
    }
    page.gauges(
        "collector_last_success_timestamp_seconds",
        "When the collector last succeeded; 0 if never",
        "collector",
        success,
    );
    page.gauges(
        "collector_failures_since_success",
        "Failed runs since the last success",
        "collector",
        failing,
    );
    page.gauges(
        "collector_retry_timestamp_seconds",
        "When a collector that failed is tried again; 0 if it did not fail",
        "collector",
        retries,
    );
    let hangs = Gauges::default();
    for (collector, path, _) in health::hanging(&shared.agent) {
        hangs.get_or_create(&Labels(vec![("collector", collector), ("path", path)])).set(1);
    }
    page.0.register("collector_path_hangs", "1 for a path that does not answer", hangs);
    Ok(())
}

/// The hosts of a shared ledger, as the agent that counts for it sees them.
async fn agents(page: &mut Page, shared: &Shared, now: Timestamp) -> Result<(), LedgerError> {
    let agents = shared.books().with(|ledger| ledger.agents()).await?;
    let agents = || agents.iter().filter(|agent| agent.retired.is_none());
    if agents().next().is_none() {
        return Ok(());
    }
    page.gauges(
        "host_last_look_timestamp_seconds",
        "When the last run of the host that arrived has looked",
        "agent",
        agents().map(|agent| (agent.name.clone(), agent.looked.as_second())).collect(),
    );
    page.gauges(
        "host_away",
        "1 while nothing has come from the host for longer than is usual for it",
        "agent",
        agents().map(|agent| (agent.name.clone(), i64::from(agent.is_away(now)))).collect(),
    );
    page.gauges(
        "host_failing_collectors",
        "Collectors of the host whose last run failed",
        "agent",
        agents().map(|agent| (agent.name.clone(), agent.failing.len() as i64)).collect(),
    );
    page.gauges(
        "host_clock_skew_seconds",
        "The database's clock minus the host's",
        "agent",
        agents().map(|agent| (agent.name.clone(), agent.skew.as_secs())).collect(),
    );
    Ok(())
}

/// What is not agreed, and what the ledger itself needs.
async fn ledger(page: &mut Page, shared: &Shared, now: Timestamp) -> Result<(), LedgerError> {
    let names: Vec<String> =
        shared.agent.definitions.iter().map(|definition| definition.name.clone()).collect();
    let collectors = names.clone();
    let api = shared.agent.settings.api().cloned();
    let (left, queued, standing, periods, stranded, oldest, closing) = shared
        .books()
        .with(move |ledger| {
            let closing = Closing::of(ledger, now)?;
            let pending = ledger.pending_as_stated()?;
            Ok((
                Outstanding::of(ledger, &collectors)?,
                ledger.queue_length()?,
                ServerStatus::of(ledger, api.as_ref())?,
                ledger.periods(&pending, closing.period, closing.begins <= now)?,
                ledger.stranded_amounts()?,
                ledger.oldest_unreported()?,
                closing,
            ))
        })
        .await?;
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    page.gauge(
        "pending_statements",
        "Statements that Waldur is not known to agree with",
        number(left.pending),
    );
    page.gauge(
        "oldest_unreported_seconds",
        "Age of the oldest usage that Waldur does not hold; 0 if it holds all",
        oldest.map_or(0, |at| now.duration_since(at).as_secs().max(0)),
    );
    page.gauge(
        "unmatched_backend_ids",
        "Backend ids that Waldur knows no resource for",
        number(left.unmatched(None).len()),
    );
    page.gauges(
        "collector_unmatched_backend_ids",
        "Backend ids of the collector that Waldur knows no resource for",
        "collector",
        names.iter().map(|name| (name.clone(), number(left.unmatched(Some(name)).len()))).collect(),
    );
    page.gauges(
        "collector_unplaced_series",
        "Series of the collector whose labels don't identify a resource",
        "collector",
        names.iter().map(|name| (name.clone(), left.unplaced_series(Some(name)))).collect(),
    );
    page.gauge(
        "wholly_unmatched",
        "1 where nothing that some collector measured has a resource",
        i64::from(left.wholly_unmatched),
    );
    page.gauge(
        "waldur_paused",
        "1 while the server is left alone after a failure, or is not the ledger's",
        i64::from(standing.paused.is_some() || standing.other.is_some()),
    );
    page.gauges(
        "waldur_paused_reason",
        "1 for the reason for which nothing is reported",
        "reason",
        pause::Cause::ALL
            .map(|cause| (cause.name().to_owned(), i64::from(standing.is_paused_for(cause))))
            .to_vec(),
    );
    page.gauge("queue_runs", "Runs that are recorded and not counted yet", queued);
    page.gauge(
        "held_readings",
        "Readings beyond what can be believed, which wait for a person",
        number(left.implausible),
    );
    page.gauge(
        "ambiguous_backend_ids",
        "Backend ids that belong to several active resources, so that the target is ambiguous",
        number(left.several.len()),
    );
    page.gauges(
        "troubles",
        "Amounts that wait for a person, by state",
        "state",
        [("held", left.held), ("parked", left.parked), ("stranded", left.stranded)]
            .map(|(state, count)| (state.to_owned(), number(count)))
            .to_vec(),
    );
    page.gauges(
        "periods",
        "Billing periods of resources, by how far they have come",
        "state",
        periods.into_iter().map(|(state, number)| (state.name().to_owned(), number)).collect(),
    );
    page.floats(
        "stranded",
        "Usage of ended periods that can no longer be reported",
        "component",
        stranded
            .into_iter()
            .map(|(component, amount)| (component, amount.to_f64().unwrap_or(f64::NAN)))
            .collect(),
    );
    page.gauge(
        "period_remaining_seconds",
        "Until the running billing period ends at the server",
        closing.ends.duration_since(now).as_secs().max(0),
    );
    Ok(())
}

/// Each resource's amounts of the running month.
async fn amounts(page: &mut Page, shared: &Shared, now: Timestamp) -> Result<(), LedgerError> {
    let (statements, names) = shared
        .books()
        .with(move |ledger| {
            let keys = ledger.keys_of_known_resources(Closing::of(ledger, now)?.period)?;
            let mut names = BTreeMap::new();
            for key in &keys {
                names.insert(
                    key.resource,
                    ledger.resource(key.resource)?.map_or_else(String::new, |known| known.name),
                );
            }
            Ok((ledger.totals_of(&keys)?, names))
        })
        .await?;
    let (posted, held) = (Floats::default(), Floats::default());
    // A month that a switch of plan cuts has several parts.
    let mut sums: BTreeMap<(Uuid, String), (Option<Decimal>, Decimal)> = BTreeMap::new();
    for statement in statements {
        for (component, entry) in statement.components {
            let holds = entry.held();
            let sum = sums
                .entry((statement.key.resource, component))
                .or_insert((Some(Decimal::ZERO), Decimal::ZERO));
            sum.0 = sum.0.zip(entry.posted).and_then(|(one, other)| one.checked_add(other));
            sum.1 = sum.1.saturating_add(holds);
        }
    }
    for ((resource, component), (amount, holds)) in sums {
        let name = names.get(&resource).cloned().unwrap_or_default();
        let labels =
            Labels(vec![("resource", resource.to_string()), ("name", name), ("component", component)]);
        if let Some(amount) = amount.and_then(|amount| amount.to_f64()) {
            posted.get_or_create(&labels).set(amount);
        }
        held.get_or_create(&labels).set(holds.to_f64().unwrap_or(f64::NAN));
    }
    page.0.register("amount", "What the ledger has of a resource's running month, as it is posted", posted);
    page.0.register("amount_held", "What Waldur is known to hold of it", held);
    Ok(())
}

/// Whether the ledger can be used, and why not.
fn failing(page: &mut Page, error: Option<&LedgerError>) {
    page.gauge("ledger_failing", "1 while the ledger can't be written", i64::from(error.is_some()));
    let of = |cause: Cause| i64::from(error.is_some_and(|error| error.cause == cause));
    page.gauges(
        "ledger_failing_reason",
        "1 for the reason for which the ledger can't be written",
        "reason",
        Cause::ALL.map(|cause| (cause.name().to_owned(), of(cause))).to_vec(),
    );
}

/// The ledger's file.
fn file(page: &mut Page, path: &Path) {
    let sizes = ["", "-wal", "-shm"].map(|end| {
        let file =
            path.with_file_name(format!("{}{end}", path.file_name().unwrap_or_default().to_string_lossy()));
        std::fs::metadata(file).map_or(0, |file| file.len())
    });
    page.gauge(
        "ledger_size_bytes",
        "Size of the ledger",
        i64::try_from(sizes.iter().sum::<u64>()).unwrap_or(i64::MAX),
    );
    if let Some(free) = health::free(path) {
        page.gauge("ledger_free_bytes", "Free space of the ledger's file system", free);
    }
}

/// Waldur, as the client saw it.
fn server(page: &mut Page, shared: &Shared) {
    let Some(client) = &shared.agent.client else { return };
    let stats = &shared.stats;
    let outcomes = client.outcomes().into_iter().map(|(name, count)| (name.to_owned(), count));
    page.counters("waldur_requests", "Requests to Waldur, by outcome", "outcome", outcomes.collect());
    let waited: Counter<f64, AtomicU64> = Counter::default();
    waited.inc_by(client.waited().as_secs_f64());
    page.0.register("waldur_request_seconds", "Time that was spent waiting for Waldur's answers", waited);
    if let Some(skew) = client.skew() {
        page.float(
            "waldur_clock_skew_seconds",
            "The server's clock minus this machine's",
            skew.as_secs_f64(),
        );
    }
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    page.counter("submission_cycles", "Submission cycles since the start", count(&stats.cycles));
    page.counter("amounts_reported", "Amounts that Waldur accepted since the start", count(&stats.sent));
}
