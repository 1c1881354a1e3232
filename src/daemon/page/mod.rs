//! The page for people: the server, what is wrong, and each resource's month. Off unless the configuration says where.
//!
//! It only reads, each time through a ledger that is opened to read, and has no script. It shows all customers' bills: what
//! may see it is decided before anything is made (a Unix socket's mode, or a token), and nothing of it is served beside
//! health and metrics.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as InPath, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use maud::Markup;
use nix::sys::stat::{Mode, umask};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Agent;
use super::serve::Server;
use super::stats::Stats;
use crate::config::page::PageSettings;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::wire::secret::{Place, Secret, Sort};
use crate::wire::words::printable;

mod curve;
mod days;
mod html;
mod view;

/// What an answer is made of.
#[derive(Clone)]
struct Shared {
    agent: Agent,
    stats: Arc<Stats>,
    /// Without one, whoever could open the socket may look.
    token: Option<Arc<Secret>>,
}

const STYLE: &str = include_str!("style.css");
const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><path d=\"M1 14h3V8H1zm5 0h3V2H6zm5 \
                    0h3V5h-3z\" fill=\"#2a6f97\"/></svg>";
/// Everything is from here, nothing runs, and nobody may put it into a frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Starts to listen, if the configuration says where.
pub(super) async fn start(agent: &Agent, stats: &Arc<Stats>) -> Result<Server, String> {
    let shared = Shared { agent: agent.clone(), stats: stats.clone(), token: None };
    let refused = |where_: &str, why: String| format!("can't serve the page at {where_} (`page:`): {why}");
    match &agent.settings.page {
        None => Ok(Server::none()),
        Some(PageSettings::Socket(path)) => {
            let shown = format!("unix:{}", path.display());
            let listener = bind(path).await.map_err(|error| refused(&shown, error.to_string()))?;
            tracing::info!("The page for people at {shown}.");
            Ok(Server::of(listener, router(Shared { token: None, ..shared })))
        }
        Some(PageSettings::Address(address, token)) => {
            let token = Secret::open(Place::File(token.clone()), Sort::Token)
                .map_err(|error| refused(&address.to_string(), error.to_string()))?;
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| refused(&address.to_string(), error.to_string()))?;
            let address = listener.local_addr().unwrap_or(*address);
            tracing::info!("The page is at http://{address}/ (its token is required).");
            Ok(Server::of(listener, router(Shared { token: Some(Arc::new(token)), ..shared })))
        }
    }
}

/// A socket for its owner and group. One that nobody listens at any more is taken away; anything else stays, and is told.
async fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket());
    if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path)?;
    }
    // So that it never is another's, not even for a moment.
    let before = umask(Mode::from_bits_truncate(0o117));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

fn router(shared: Shared) -> Router {
    let text = |kind: &'static str, text: &'static str| {
        move || async move { ([(header::CONTENT_TYPE, kind)], text) }
    };
    Router::new()
        .route("/", get(overview))
        .route("/resource/{uuid}", get(resource))
        .route("/style.css", get(text("text/css; charset=utf-8", STYLE)))
        .route("/icon.svg", get(text("image/svg+xml", ICON)))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page\n") })
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets nobody in without the token, and says with every answer what a browser may do with it.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let mut answer = match &shared.token {
        Some(token) if !is_admitted(request.headers(), token) => {
            let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"waldur-usage-agent\", charset=\"UTF-8\"")];
            (StatusCode::UNAUTHORIZED, ask, "the page's token is needed\n").into_response()
        }
        // Whatever is asked for: here nothing can be changed.
        _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            let allow = [(header::ALLOW, "GET, HEAD")];
            (StatusCode::METHOD_NOT_ALLOWED, allow, "this page can only be read\n").into_response()
        }
        _ => next.run(request).await,
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// `Bearer TOKEN`, or `Basic` as browsers ask for it, with the token as the password and any name.
fn is_admitted(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let given = match given.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim().as_bytes().to_vec(),
        Some((scheme, login)) if scheme.eq_ignore_ascii_case("basic") => {
            let login = base64::engine::general_purpose::STANDARD.decode(login.trim()).unwrap_or_default();
            login.iter().position(|byte| *byte == b':').map_or(Vec::new(), |at| login[at + 1..].to_vec())
        }
        _ => return false,
    };
    // Of digests, so that the time that it takes tells nothing of the token.
    let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
    let wanted = token.current();
    digest(&given).as_ref() == digest(wanted.expose_secret().as_bytes()).as_ref()
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    period: Option<String>,
    /// The number of the first resource that is shown.
    from: Option<usize>,
}

impl PageQuery {
    /// `Err`: there is no such month.
    fn period(&self) -> Result<Option<BillingPeriod>, Box<Response>> {
        let period = self.period.as_ref().map(|text| text.parse()).transpose();
        period.map_err(|why: String| {
            Box::new((StatusCode::BAD_REQUEST, format!("{}\n", printable(&why))).into_response())
        })
    }
}

async fn overview(State(shared): State<Shared>, Query(asked): Query<PageQuery>) -> Response {
    let (agent, stats) = (shared.agent.clone(), shared.stats.clone());
    let period = match asked.period() {
        Ok(period) => period,
        Err(refused) => return *refused,
    };
    answer(&shared, move |ledger| {
        let view = view::Overview::of(ledger, &agent, &stats, (period, asked.from.unwrap_or(0)))?;
        Ok(Some(html::overview(&view)))
    })
    .await
}

async fn resource(
    State(shared): State<Shared>,
    InPath(uuid): InPath<String>,
    Query(asked): Query<PageQuery>,
) -> Response {
    let agent = shared.agent.clone();
    let period = match asked.period() {
        Ok(period) => period,
        Err(refused) => return *refused,
    };
    answer(&shared, move |ledger| {
        let Ok(uuid) = uuid.parse::<Uuid>() else { return Ok(None) };
        let view = view::ResourceDetail::of(ledger, &agent, uuid, period)?;
        Ok(view.as_ref().map(html::resource))
    })
    .await
}

/// Makes a page on a thread of its own, of a ledger that can't be written to.
async fn answer(
    shared: &Shared,
    make: impl FnOnce(&Ledger) -> Result<Option<Markup>, LedgerError> + Send + 'static,
) -> Response {
    // What somebody reloads again and again waits here, and not for what the agent itself is to do.
    static AT_ONCE: Semaphore = Semaphore::const_new(2);
    let Ok(_turn) = AT_ONCE.acquire().await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "try again later\n").into_response();
    };
    let (place, rulebook) = (shared.agent.settings.ledger.clone(), shared.agent.rulebook.clone());
    let made = tokio::task::spawn_blocking(move || {
        let ledger = Ledger::open_to_read(&place, (*rulebook).clone())?;
        make(&ledger)
    });
    match made.await {
        Ok(Ok(Some(page))) => {
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
        }
        Ok(Ok(None)) => (StatusCode::NOT_FOUND, "there is no such page\n").into_response(),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the page can't be made\n").into_response(),
    }
}
