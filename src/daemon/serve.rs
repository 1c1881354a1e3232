//! Health and metrics over HTTP: `/health`, `/ready`, `/metrics`; `/healthz` and `/readyz` as Kubernetes has them; and how
//! everything is served that the daemon serves. It only reads, and serves nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::health::{self, Shared};
use super::stats::Stats;
use super::{Agent, metrics};
use crate::ledger::SharedLedger;

/// The server, until it is dropped.
#[derive(Debug)]
pub(super) struct Server(Option<JoinHandle<()>>);

impl Server {
    /// None: after a reload whose address can't be had.
    pub(super) fn none() -> Self {
        Server(None)
    }

    /// Serves whoever comes to this listener.
    pub(super) fn of(listener: impl Listener, app: Router) -> Self {
        Server(Some(tokio::spawn(serve(listener, app))))
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

/// So many connections are open at once; others wait until one is closed.
const CONNECTIONS: usize = 64;
/// How long a client may take until it has asked.
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection lasts, whatever its client does. It is for one request.
const CONNECTION: Duration = Duration::from_secs(60);

/// Whoever can reach the listener, without any token, takes neither memory nor descriptors without end, and holds a
/// connection for seconds.
async fn serve(mut listener: impl Listener, app: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok(place) = room.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        let (stream, _) = listener.accept().await;
        let service = TowerToHyperService::new(app.clone());
        connections.spawn(async move {
            let mut http = Builder::new(TokioExecutor::new()).http1_only();
            http.http1().timer(TokioTimer::new()).header_read_timeout(ASKED_WITHIN).keep_alive(false);
            // Of a client that went away, or asked for nothing, nothing is to be said.
            let _ = timeout(CONNECTION, http.serve_connection(TokioIo::new(stream), service)).await;
            drop(place);
        });
    }
}

/// Starts to listen, if the configuration says where.
pub(super) async fn start(
    agent: &Agent,
    ledger: &SharedLedger,
    stats: &Arc<Stats>,
) -> Result<Server, String> {
    let Some(address) = agent.settings.listen else { return Ok(Server(None)) };
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("can't listen on {address} (`listen:`): {error}"))?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!("Health and metrics at http://{address}/health, /ready and /metrics.");
    let shared = Shared { agent: agent.clone(), ledger: ledger.clone(), stats: stats.clone() };
    let app = Router::new()
        .route("/health", get(alive))
        .route("/healthz", get(alive))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .with_state(shared);
    Ok(Server::of(listener, app))
}

async fn alive(State(shared): State<Shared>) -> String {
    health::health(&shared)
}

/// Ready: something can be recorded, and reported.
async fn ready(State(shared): State<Shared>) -> Response {
    match health::readiness(&shared).await {
        Ok(pending) => format!("ready, {pending} statements pending\n").into_response(),
        Err(reasons) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
        }
    }
}

async fn page(State(shared): State<Shared>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::gather(&shared).await).into_response()
}
