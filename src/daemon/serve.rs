//! Health and metrics over HTTP: `/health`, `/ready`, `/metrics`. It only reads, and serves nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rust_decimal::prelude::ToPrimitive;
use tokio::task::JoinHandle;

use super::{Agent, Pulse, retry};
use crate::ledger::{LedgerError, SharedLedger};
use crate::submitter::closing::Closing;

/// The server, until it is dropped.
#[derive(Debug)]
pub(super) struct Server(Option<JoinHandle<()>>);

impl Server {
    /// None: after a reload whose address can't be had.
    pub(super) fn none() -> Self {
        Server(None)
    }

    /// Ends it, and gives its address free before it returns.
    pub(super) async fn close(mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct Shared {
    agent: Agent,
    ledger: SharedLedger,
    pulse: Arc<Pulse>,
}

/// Starts to listen, if the configuration says where.
pub(super) async fn start(
    agent: &Agent,
    ledger: &SharedLedger,
    pulse: &Arc<Pulse>,
) -> Result<Server, String> {
    let Some(address) = agent.settings.listen else { return Ok(Server(None)) };
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("can't listen on {address} (`listen:`): {error}"))?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!("Health and metrics at http://{address}/health, /ready and /metrics.");
    let shared = Shared { agent: agent.clone(), ledger: ledger.clone(), pulse: pulse.clone() };
    let app = Router::new()
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared);
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!("Health and metrics are no longer served: {error}");
        }
    });
    Ok(Server(Some(task)))
}

/// Ready: the ledger answers.
async fn ready(State(shared): State<Shared>) -> Response {
    match shared.ledger.with(|ledger| ledger.pending_as_stated()).await {
        Ok(pending) => format!("ready, {} statements pending\n", pending.len()).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match gather(&shared).await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Label(&'static str, String);

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelSet::encode(&[(self.0, self.1.as_str())], encoder)
    }
}

async fn gather(shared: &Shared) -> Result<String, LedgerError> {
    let names: Vec<String> =
        shared.agent.definitions.iter().map(|definition| definition.name.clone()).collect();
    let now = shared.agent.clock.now();
    let (pending, blocks, unmatched, collectors, paused, periods, left) = shared
        .ledger
        .with(move |ledger| {
            let closing = Closing::of(ledger, now)?;
            let collectors = names
                .iter()
                .map(|name| Ok((ledger.collector_report(name)?, ledger.pace(name, now)?)))
                .collect::<Result<Vec<_>, LedgerError>>()?;
            Ok((
                ledger.pending_as_stated()?.len(),
                ledger.blocks()?,
                ledger.unmatched()?.len(),
                collectors,
                ledger.retry(None)?,
                ledger.periods(closing.period, closing.begins <= now)?,
                ledger.stranded_amounts()?,
            ))
        })
        .await?;
    let mut registry = Registry::with_prefix("waldur_usage_agent");
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: i64| {
        let metric: Gauge = Gauge::default();
        metric.set(value);
        registry.register(name, help, metric);
    };
    gauge(
        &mut registry,
        "pending_statements",
        "Statements that Waldur is not known to agree with",
        pending as i64,
    );
    gauge(
        &mut registry,
        "unmatched_backend_ids",
        "Backend ids that Waldur knows no resource for",
        unmatched as i64,
    );
    gauge(
        &mut registry,
        "waldur_paused",
        "1 while the server is left alone after a failure",
        i64::from(paused.is_some()),
    );
    let states: Family<Label, Gauge> = Family::default();
    for state in ["held", "parked", "stranded"] {
        let number = blocks.iter().filter(|at| at.block.state == state).count();
        states.get_or_create(&Label("state", state.to_owned())).set(number as i64);
    }
    registry.register("troubles", "Amounts that wait for a person, by state", states);
    let by_state: Family<Label, Gauge> = Family::default();
    for (state, number) in periods {
        by_state.get_or_create(&Label("state", state.name().to_owned())).set(number);
    }
    registry.register("periods", "Billing periods of resources, by how far they have come", by_state);
    let stranded: Family<Label, Gauge<f64, AtomicU64>> = Family::default();
    for (component, amount) in left {
        let shown = amount.to_f64().unwrap_or(f64::NAN);
        stranded.get_or_create(&Label("component", component)).set(shown);
    }
    registry.register("stranded", "Usage of ended periods that can no longer be reported", stranded);
    let success: Family<Label, Gauge> = Family::default();
    let failing: Family<Label, Gauge> = Family::default();
    let retries: Family<Label, Gauge> = Family::default();
    for (collector, pace) in collectors {
        let definition = shared.agent.definitions.iter().find(|known| known.name == collector.name);
        let again =
            definition.and_then(|definition| retry::retry_of(&definition.name, &definition.schedule, &pace));
        let label = Label("collector", collector.name);
        retries.get_or_create(&label).set(again.map_or(0, |at| at.as_second()));
        success.get_or_create(&label).set(collector.last_success.map_or(0, |at| at.as_second()));
        failing.get_or_create(&label).set(collector.failures_since);
    }
    registry.register(
        "collector_last_success_timestamp_seconds",
        "When the collector last succeeded",
        success,
    );
    registry.register("collector_failures_since_success", "Failed runs since the last success", failing);
    registry.register(
        "collector_retry_timestamp_seconds",
        "When a collector that failed is tried again; 0 if it did not fail",
        retries,
    );
    let counts = [
        ("collector_runs", "Runs of collectors since the start", &shared.pulse.runs),
        ("collector_run_failures", "Failed runs of collectors since the start", &shared.pulse.run_failures),
        ("collector_runs_missed", "Runs that were due and did not take place", &shared.pulse.runs_missed),
        ("submission_cycles", "Submission cycles since the start", &shared.pulse.cycles),
        ("amounts_reported", "Amounts that Waldur accepted since the start", &shared.pulse.sent),
    ];
    for (name, help, count) in counts {
        registry.register(name, help, ConstCounter::new(count.load(Ordering::Relaxed)));
    }
    let requests = ConstCounter::new(shared.agent.client.requests());
    registry.register("waldur_requests", "Requests to Waldur since the start", requests);
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = encode(&mut text, &registry);
    Ok(text)
}
