//! Health and metrics over HTTP: `/health`, `/ready`, `/metrics`; `/healthz` and `/readyz` as Kubernetes has them. It only
//! reads, and serves nothing else.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::JoinHandle;

use super::health::{self, Shared};
use super::{Agent, Pulse, metrics};
use crate::ledger::SharedLedger;

/// The server, until it is dropped.
#[derive(Debug)]
pub(super) struct Server(Option<JoinHandle<()>>);

impl Server {
    /// None: after a reload whose address can't be had.
    pub(super) fn none() -> Self {
        Server(None)
    }

    /// Serves until it ends; what it is called, for the log.
    pub(super) fn of(
        served: impl Future<Output = std::io::Result<()>> + Send + 'static,
        what: &'static str,
    ) -> Self {
        Server(Some(tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!("{what} is no longer served: {error}");
            }
        })))
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
        .route("/health", get(alive))
        .route("/healthz", get(alive))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .with_state(shared);
    Ok(Server::of(async move { axum::serve(listener, app).await }, "Health and metrics"))
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
    match metrics::gather(&shared).await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
