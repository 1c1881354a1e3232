//! One call to Waldur: connection, headers, time and size limits, and the server's clock.
//!
//! It never retries a call that may have been applied, never follows a redirect, never sends the token anywhere
//! but to the configured address, and never logs it. When to call again is the caller's to decide.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use super::answer::{Answer, Wanted};
use super::failure::{Failure, NO_TLS};
use super::pace::{Pace, Permit};
use super::skew::{Skew, SkewMeter};
use super::tally::Tally;
use super::token;
use crate::config::clock::SharedClock;
use crate::config::waldur::WaldurSettings;
use crate::wire::secret::{NoSecret, Secret};
use crate::wire::tls::{File, Trust, Unusable, innermost, tls_error};
use crate::wire::words::clean;

/// A page of 300 full rows is some 300 KB.
const LARGEST_READ: usize = 32 << 20;
/// What is written is answered with nothing, and an error with a sentence or a page.
const LARGEST_OTHER: usize = 64 << 10;

/// An answer to a keep-alive connection that the server has just closed is lost, and such a loss is `Unknown`:
/// connections are given up before a usual server (65 to 75 s) gives them up.
const IDLE: Duration = Duration::from_secs(30);

const USER_AGENT: &str = concat!("waldur-usage-agent/", env!("CARGO_PKG_VERSION"));

/// Talks to one Waldur with one token. Share it: it has one pool of connections and one measure of the clock.
pub struct Client {
    http: reqwest::Client,
    api: Url,
    token: Secret,
    /// The last token that was refused.
    refused: Mutex<Option<Arc<SecretString>>>,
    clock: SharedClock,
    skew: SkewMeter,
    pace: Pace,
    sent: AtomicU64,
    tally: Tally,
    timeout: Duration,
    /// Nothing is written, whatever is asked for.
    read_only: bool,
}

/// Why no client could be made: a matter of the configuration, not of the network.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Token(#[from] NoSecret),
    #[error("waldur.{key}: {words}")]
    Certificate { key: &'static str, words: String },
    #[error("the HTTP client cannot be made: {0}")]
    Http(String),
}

/// One request, before it is sent.
pub(super) struct Call<'a> {
    /// What operators read: "POST set_usage for resource 5e2f…".
    what: &'a str,
    method: Method,
    url: Url,
    body: Option<Vec<u8>>,
    wanted: Wanted,
}

impl Client {
    pub fn new(settings: &WaldurSettings, clock: SharedClock) -> Result<Client, SetupError> {
        let token = token::open(&settings.token)?;
        Ok(Client {
            http: connect(settings)?,
            api: settings.api.clone(),
            token,
            refused: Mutex::default(),
            clock,
            skew: SkewMeter::default(),
            pace: Pace::new(settings.max_in_flight),
            sent: AtomicU64::new(0),
            tally: Tally::default(),
            timeout: settings.timeout,
            read_only: false,
        })
    }

    /// A client that reads and never writes: what `report: shadow` uses.
    pub fn read_only(self) -> Client {
        Client { read_only: true, ..self }
    }

    fn may_write(&self, what: &str) -> Result<(), Failure> {
        if self.read_only {
            let words = "`report: shadow`: nothing is posted".to_owned();
            return Err(Failure::NotSent { call: what.to_owned(), words });
        }
        Ok(())
    }

    /// The server's clock minus ours, once an answer has told it.
    pub fn skew(&self) -> Option<SignedDuration> {
        self.skew.current().map(|skew| skew.offset)
    }

    /// The same with its uncertainty and when it was measured.
    pub fn measured_skew(&self) -> Option<Skew> {
        self.skew.current()
    }

    /// How many calls may be under way at once just now; more than these wait their turn.
    pub fn calls_at_once(&self) -> usize {
        self.pace.allowed()
    }

    /// Whether more calls at once than now may be tried.
    pub fn may_try_more_at_once(&self, may: bool) {
        self.pace.may_try_more(may);
    }

    /// How long a whole call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether the token is another than the one that was refused last; also where this process has seen none refused.
    pub fn token_was_replaced(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let same =
            |refused: &Arc<SecretString>| refused.expose_secret() == self.token.current().expose_secret();
        !refused.as_ref().is_some_and(same)
    }

    /// How many requests were sent so far.
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many of them the server answered, if only with a refusal.
    pub fn answered(&self) -> u64 {
        self.tally.answered()
    }

    /// How many of them ended in which way.
    pub fn outcomes(&self) -> Vec<(&'static str, u64)> {
        self.tally.outcomes()
    }

    /// How long they took, all together.
    pub fn waited(&self) -> Duration {
        self.tally.waited()
    }

    /// The address of the API, with a slash at its end.
    pub fn api(&self) -> &Url {
        &self.api
    }

    /// GETs `path` (below the API's address, with its trailing slash: without one the server redirects).
    pub(super) async fn get(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Answer, Failure> {
        let mut url = self.address(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.call(Call { what, method: Method::GET, url, body: None, wanted: Wanted::Read }).await
    }

    /// GETs one object or a list that is not paged.
    pub(super) async fn read<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T, Failure> {
        let answer = self.get(what, path, &[]).await?;
        self.decode(what, &answer)
    }

    /// POSTs `body` as JSON; the answer to success is empty.
    pub(super) async fn post(&self, what: &str, path: &str, body: &impl Serialize) -> Result<(), Failure> {
        self.may_write(what)?;
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::NotSent { call: what.to_owned(), words: error.to_string() })?;
        let url = self.address(path);
        let call = Call { what, method: Method::POST, url, body: Some(body), wanted: Wanted::Created };
        self.call(call).await.map(drop)
    }

    /// Sends `body` as JSON, and reads what became of it.
    pub(super) async fn write<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.may_write(what)?;
        let body = serde_json::to_vec(body)
            .map_err(|error| Failure::NotSent { call: what.to_owned(), words: error.to_string() })?;
        let call = Call { what, method, url: self.address(path), body: Some(body), wanted: Wanted::Written };
        let answer = self.call(call).await?;
        self.decode(what, &answer)
    }

    pub(super) fn decode<T: DeserializeOwned>(&self, what: &str, answer: &Answer) -> Result<T, Failure> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            // The message may quote a value, and the answer of `users/me/` holds the token.
            let words = scrub(error.to_string().into_bytes(), &self.token.current());
            let words = clean(&String::from_utf8_lossy(&words));
            Failure::unreadable(what, format!("the answer is not as expected: {words}"))
        })
    }

    fn address(&self, path: &str) -> Url {
        let mut url = self.api.clone();
        url.set_path(&format!("{}{path}", self.api.path()));
        url
    }

    /// Sends a call. A refused token is read again where it is kept: if it was replaced, the call is made once
    /// more with the new one (the refused call was certainly not applied).
    async fn call(&self, call: Call<'_>) -> Result<Answer, Failure> {
        let permit = self.pace.permit().await;
        let token = self.token.current();
        let first = self.send(&call, &token, &permit).await;
        if matches!(first, Err(Failure::Token { .. }))
            && let Some(token) = self.token.after_refusal(&token)
        {
            return self
                .send(&call, &token, &permit)
                .await
                .map_err(|failure| self.name_token(failure, token));
        }
        first.map_err(|failure| self.name_token(failure, token))
    }

    /// Whoever reads that the token was refused wants to know which: where it is kept.
    fn name_token(&self, failure: Failure, token: Arc<SecretString>) -> Failure {
        match failure {
            Failure::Token { call, words } => {
                *self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(token);
                Failure::Token { call, words: format!("{words} (the token of {})", self.token.place()) }
            }
            failure => failure,
        }
    }

    async fn send(
        &self,
        call: &Call<'_>,
        token: &SecretString,
        permit: &Permit<'_>,
    ) -> Result<Answer, Failure> {
        let began = Instant::now();
        let ended = self.send_once(call, token, permit).await;
        self.tally.note(began.elapsed(), &ended);
        ended
    }

    async fn send_once(
        &self,
        call: &Call<'_>,
        token: &SecretString,
        permit: &Permit<'_>,
    ) -> Result<Answer, Failure> {
        let (what, kind) = (call.what, kind(&call.url));
        let mut request = self
            .http
            .request(call.method.clone(), call.url.clone())
            .header(AUTHORIZATION, authorization(token));
        if let Some(body) = &call.body {
            // Bytes, so that they go with a Content-Length: the server sees a chunked body as an empty one
            // (observed), and would take an empty one for a report of nothing.
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        let (began, since) = (self.clock.now(), Instant::now());
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let failure = self.network(what, error);
                permit.learn(kind, since.elapsed(), failure.may_be_applied());
                return Err(failure);
            }
        };
        let answered = self.clock.now();
        let unclear = response.status().as_u16() == 429 || response.status().is_server_error();
        permit.learn(kind, since.elapsed(), unclear);

        let (status, headers) = (response.status(), response.headers().clone());
        let success = status.is_success();
        let limit = if success && call.wanted == Wanted::Read { LARGEST_READ } else { LARGEST_OTHER };
        let mut answer = Answer { status, headers, body: Vec::new() };
        if let Some(date) = answer.date() {
            self.skew.observe(began, answered, date);
        }
        debug!(call = what, status = status.as_u16(), "Answered.");
        // Whatever is not the data that was asked for may end in a message.
        let is_data = success && call.wanted == Wanted::Read && answer.is_json();
        answer.body = match self.body(what, response, limit).await {
            Ok(body) if is_data => body,
            Ok(body) => scrub(body, token),
            Err(failure) => return Err(failure),
        };
        answer.judge(what, call.wanted, self.server_now(answered))
    }

    /// Reads the body bit by bit, so that an endless one costs no more memory than its limit.
    async fn body(&self, what: &str, mut response: Response, limit: usize) -> Result<Vec<u8>, Failure> {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.network(what, error))? {
            if body.len() + chunk.len() > limit {
                let words = format!("an answer of more than {limit} bytes");
                let (call, status) = (what.to_owned(), Some(status));
                return Err(Failure::Unknown { call, status, words, retry_after: None });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn server_now(&self, now: Timestamp) -> Timestamp {
        self.skew().and_then(|skew| now.checked_add(skew).ok()).unwrap_or(now)
    }

    /// What an error without an answer means: whether the request can have reached the server.
    fn network(&self, what: &str, error: reqwest::Error) -> Failure {
        let call = what.to_owned();
        let error = error.without_url();
        let connecting = error.is_connect();
        if let Some(tls) = tls_error(&error)
            && (connecting || matches!(tls, rustls::Error::AlertReceived(_)))
        {
            // A server that wants a certificate of ours says so only after TLS 1.3 lets us begin to send.
            let words = match tls {
                rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
                    NO_TLS.to_owned()
                }
                tls => clean(&tls.to_string()),
            };
            return Failure::Certificate { call, words };
        }
        if connecting || error.is_builder() {
            let (host, port) = (self.api.host_str().unwrap_or_default(), self.api.port_or_known_default());
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            return Failure::NotSent { call, words: format!("{host}{port}: {}", innermost(&error)) };
        }
        let words = match error.is_timeout() {
            true => format!("no whole answer within {} s", self.timeout.as_secs()),
            false => innermost(&error),
        };
        Failure::Unknown { call, status: None, words, retry_after: None }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("api", &self.api.as_str()).finish_non_exhaustive()
    }
}

fn connect(settings: &WaldurSettings) -> Result<reqwest::Client, SetupError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    // Its sentences are translated otherwise (observed), and refusals are known by their words.
    headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Collectors ask for it; here an answer that is cut short is to be seen as that, whatever stands before the server.
        .no_gzip()
        .timeout(settings.timeout)
        .connect_timeout((settings.timeout / 2).min(Duration::from_secs(20)))
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(settings.max_in_flight)
        .tcp_keepalive(IDLE);
    if settings.is_loopback() {
        builder = builder.no_proxy();
    }
    let trust =
        Trust { ca_file: settings.ca_file.clone(), client_certificate: settings.client_certificate.clone() };
    let builder = trust.apply(builder, &settings.api).map_err(|Unusable { file, words }| {
        let key = match file {
            File::Authorities => "ca_file",
            File::Certificate => "client_cert_file",
            File::Key => "client_key_file",
        };
        SetupError::Certificate { key, words }
    })?;
    builder.build().map_err(|error| SetupError::Http(innermost(&error)))
}

fn authorization(token: &SecretString) -> HeaderValue {
    // What was read as a token can be a header (`check_token`); an empty one would be answered with 401.
    let mut value = HeaderValue::from_str(&format!("Token {}", token.expose_secret()))
        .unwrap_or_else(|_| HeaderValue::from_static("Token"));
    value.set_sensitive(true);
    value
}

/// What calls to an address have in common: its last part that is no UUID.
fn kind(url: &Url) -> &str {
    let parts = url.path().rsplit('/');
    parts
        .into_iter()
        .find(|part| !part.is_empty() && uuid::Uuid::try_parse(part).is_err())
        .unwrap_or_default()
}

/// The body without the token, should a server or something before it have echoed our request.
fn scrub(body: Vec<u8>, token: &SecretString) -> Vec<u8> {
    let token = token.expose_secret();
    let text = String::from_utf8_lossy(&body);
    if token.is_empty() || !text.contains(token) { body } else { text.replace(token, "***").into_bytes() }
}
