//! Asks over HTTP for the collectors that do: the keys that they have in common (`url`, `auth`, `tls` and so on), one
//! connection a run, answers bounded in time and bytes, and errors that say what to do.
//!
//! It never sends a login to another server than the operator named, never follows a redirect to one, never returns a
//! part of an answer, and no message of it holds a secret. What an answer means is its collector's business.

use std::time::Duration;

pub(super) use reqwest::Url;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;

use auth::{Auth, Held, Proof};
pub(super) use trouble::Trouble;

use super::blocking;
use crate::config::section::Section;
use crate::config::waldur::is_loopback;
use crate::wire::tls::{Trust, innermost};

mod auth;
mod aws;
mod coding;
mod settings;
mod trouble;

/// What is kept of the answer to a refused request: a sentence or a page.
const LARGEST_REFUSAL: u64 = 64 * 1024;

/// Redirects within one server that are followed for one request.
const MOST_HOPS: usize = 5;

/// Some servers write it before what they say in UTF-8. It says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const USER_AGENT: &str = concat!("waldur-usage-agent/", env!("CARGO_PKG_VERSION"));

/// Where a collector asks and how, as its section says. It opens no file and no connection until a run begins.
#[derive(Debug)]
pub(super) struct Web {
    url: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    auth: Auth,
    trust: Trust,
    timeout: Duration,
    max_answer: u64,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    url: Url,
    accept: &'static str,
    /// What is posted and its type; without it the request is a GET.
    body: Option<(&'static str, Vec<u8>)>,
}

impl Ask {
    pub(super) fn get(url: Url) -> Ask {
        Ask { url, accept: "application/json", body: None }
    }

    pub(super) fn post_json(url: Url, body: Vec<u8>) -> Ask {
        Ask { body: Some(("application/json", body)), ..Ask::get(url) }
    }

    pub(super) fn post_form<'a>(url: Url, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Ask {
        Ask { body: Some(("application/x-www-form-urlencoded", form(pairs))), ..Ask::get(url) }
    }

    /// What kind of answer is asked for, if not JSON.
    pub(super) fn accept(self, accept: &'static str) -> Ask {
        Ask { accept, ..self }
    }

    /// What a message calls it: the address without its query, which is long and may hold a key.
    pub(super) fn name(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        format!("{} {url}", self.method())
    }

    /// What is the same where the same is asked: a short form of it, since there may be many.
    pub(super) fn identity(&self) -> u128 {
        let body = self.body.as_ref().map(|(_, body)| body.as_slice()).unwrap_or_default();
        let text = [self.url.as_str().as_bytes(), b" ", body].concat();
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, &text).as_u128()
    }

    fn method(&self) -> Method {
        if self.body.is_some() { Method::POST } else { Method::GET }
    }
}

/// The pairs as a form or a query has them.
fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    // An address is at hand to encode them; what it addresses does not matter.
    let Ok(mut url) = Url::parse("http://localhost/") else { return Vec::new() };
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().as_bytes().to_vec()
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// What messages call the request.
    name: String,
    /// Where it came from, after redirects within the server.
    pub(super) url: Url,
    headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every header of that name, whatever bytes are in it.
    pub(super) fn all_headers(&self, name: &str) -> impl Iterator<Item = String> {
        self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// What messages call the request.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Every header that is text, by its name in small letters.
    pub(super) fn headers(&self) -> impl Iterator<Item = (String, String)> {
        self.headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
    }

    /// Says that the body is not what it should be.
    pub(super) fn garbage(&self, wanted: &str, words: &str) -> Trouble {
        let kind = self.header("content-type").unwrap_or("no content type");
        trouble::garbage(&self.name, wanted, kind, words, &self.body)
    }

    /// The body as JSON.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        serde_json::from_slice(&self.body).map_err(|error| self.garbage("JSON", &error.to_string()))
    }
}

impl Web {
    /// Takes the common keys of a collector's section. Mistakes go to the section; `None` if it can't be used.
    pub(super) fn from_section(section: &mut Section) -> Option<Web> {
        settings::read(section)
    }

    /// The address that the section names.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The address of `path` below the named one, with a query: `url: https://host/prefix` and `api/v1/query` make
    /// `https://host/prefix/api/v1/query`. The named one's own query is kept before it, and without a path it is that.
    pub(super) fn at<'a>(&self, path: &str, query: impl IntoIterator<Item = (&'a str, &'a str)>) -> Url {
        let mut url = self.url.clone();
        if !path.is_empty() {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/{}", path.trim_start_matches('/')));
        }
        let mut query = query.into_iter().peekable();
        if query.peek().is_some() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Environment variables that hold its secrets.
    pub(super) fn secret_env(&self) -> Vec<String> {
        self.auth.secret_env()
    }

    /// Gets ready for the requests of one run: reads the secret and the certificates where they are kept now.
    pub(super) fn open(&self) -> Result<Session<'_>, Trouble> {
        let held = self.auth.open().map_err(Trouble::setup)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_gzip()
            .timeout(self.timeout)
            .connect_timeout((self.timeout / 2).min(Duration::from_secs(20)))
            .pool_max_idle_per_host(1);
        if is_loopback(&self.url) {
            builder = builder.no_proxy();
        }
        let builder = self.trust.apply(builder, &self.url).map_err(Trouble::certificate)?;
        let http = builder.build().map_err(|error| Trouble::setup(innermost(&error)))?;
        Ok(Session { web: self, http, held })
    }
}

/// The requests of one run.
#[derive(Debug)]
pub(super) struct Session<'a> {
    web: &'a Web,
    http: reqwest::Client,
    held: Held,
}

impl Session<'_> {
    /// Asks, and returns the whole answer if its status says that it is one. A login that is refused (401) is read or
    /// fetched anew, and if it has changed, the request is made once more.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answer, Trouble> {
        let proof = self.proof(None).await?;
        let (status, answer) = self.exchange(ask, &self.web.headers, &proof).await?;
        if status == 401
            && let Some(renewed) = self.renewed(&proof).await?
        {
            let (status, answer) = self.exchange(ask, &self.web.headers, &renewed).await?;
            return self.judge(status, answer, &renewed);
        }
        self.judge(status, answer, &proof)
    }

    fn judge(&self, status: u16, answer: Answer, proof: &Proof) -> Result<Answer, Trouble> {
        self.judge_as(status, answer, proof, status)
    }

    /// `meant`: the status that says best what to do, if it is no success.
    fn judge_as(&self, status: u16, answer: Answer, proof: &Proof, meant: u16) -> Result<Answer, Trouble> {
        match status {
            // Of the successes those that bring all there is: not one that is yet to be made (202), nor a part (206).
            200 | 201 | 203 => Ok(answer),
            status => {
                let body = proof.scrub(&answer.body);
                Err(trouble::refused(&answer.name, status, meant, &body, &self.held.place()))
            }
        }
    }

    /// Sends the request, and again where the same server says it is. The status is the answer's, whatever it is.
    async fn exchange(
        &self,
        ask: &Ask,
        also: &[(HeaderName, HeaderValue)],
        proof: &Proof,
    ) -> Result<(u16, Answer), Trouble> {
        let name = ask.name();
        let mut url = ask.url.clone();
        for _ in 0..=MOST_HOPS {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(ask.accept));
            headers.extend(also.iter().cloned());
            headers.entry(ACCEPT_ENCODING).or_insert(HeaderValue::from_static(coding::UNDERSTOOD));
            let body = ask.body.as_ref();
            if let Some((kind, _)) = body {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            let bytes = body.map(|(_, body)| body.clone()).unwrap_or_default();
            proof.add_to(&ask.method(), &mut url, &bytes, &mut headers)?;
            let mut request = self.http.request(ask.method(), url.clone());
            if body.is_some() {
                request = request.body(bytes);
            }
            let response = request.headers(headers).send().await;
            let response =
                response.map_err(|error| trouble::network(&name, error, self.web.timeout, None))?;
            let (status, mut headers) = (response.status(), response.headers().clone());
            if !status.is_redirection() {
                let limit = if status.is_success() { self.web.max_answer } else { LARGEST_REFUSAL };
                let layers = match coding::layers(&headers) {
                    Err(coding) if status.is_success() => return Err(trouble::compressed(&name, &coding)),
                    layers => layers.unwrap_or_default(),
                };
                let mut body = self.body(&name, response, limit, status.is_success()).await?;
                if layers > 0 {
                    let packed = std::mem::take(&mut body);
                    let undone = blocking::run(move |_| Ok(coding::undo(layers, packed, limit))).await;
                    let (plain, wrong) = undone.map_err(|error| Trouble::setup(error.0))?;
                    if let Some(wrong) = wrong.filter(|_| status.is_success()) {
                        return Err(trouble::torn(&name, &wrong, limit));
                    }
                    body = plain;
                    headers.remove(CONTENT_ENCODING);
                }
                if body.starts_with(BYTE_ORDER_MARK) {
                    body.drain(..BYTE_ORDER_MARK.len());
                }
                return Ok((status.as_u16(), Answer { name, url, headers, body }));
            }
            // A posted body is not sent a second time: what a server makes of it would be a guess.
            let target = headers.get(LOCATION).and_then(|to| url.join(to.to_str().ok()?).ok());
            match target {
                Some(to) if to.origin() == url.origin() && ask.body.is_none() => url = to,
                to => return Err(trouble::redirected(&name, status.as_u16(), to)),
            }
        }
        Err(trouble::redirected(&name, 302, None))
    }

    /// Reads the body bit by bit, so that an endless one costs no more memory than its limit.
    async fn body(
        &self,
        name: &str,
        mut response: Response,
        limit: u64,
        whole: bool,
    ) -> Result<Vec<u8>, Trouble> {
        let mut body = Vec::new();
        loop {
            let read = body.len();
            match response.chunk().await {
                Ok(None) => return Ok(body),
                Ok(Some(chunk)) if (read + chunk.len()) as u64 <= limit => body.extend_from_slice(&chunk),
                // Of a refusal the beginning says enough, however it goes on.
                _ if !whole => return Ok(body),
                Ok(Some(_)) => return Err(trouble::too_large(name, limit)),
                Err(error) => return Err(trouble::network(name, error, self.web.timeout, Some(read))),
            }
        }
    }
}

#[cfg(test)]
mod tests;
