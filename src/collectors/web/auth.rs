//! The login that goes with a request: a token, a name and a password, a signature, or a token that a server gives for a
//! secret (OAuth2, or a login request of the API's own).
//!
//! Secrets are read where they are kept at the beginning of each run, and are in no message.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::aws::Signer;
use super::{Answer, Ask, Session, Trouble};
use crate::config::clock::{Clock, SystemClock};
use crate::config::template::Template;
use crate::metering::reading::Labels;
use crate::wire::secret::{NoSecret, Place, Secret, Sort};

/// A token is not used in the last part of its life: clocks differ, and requests take time.
const MARGIN: Duration = Duration::from_secs(30);

/// What the section says.
#[derive(Debug)]
pub(super) enum Auth {
    Nobody,
    Token { place: Place, header: HeaderName, scheme: String },
    Basic { username: String, place: Place },
    OAuth2(Box<OAuth2>),
    Login(Box<Login>),
    Aws { signer: Signer, place: Place },
}

#[derive(Debug)]
pub(super) struct OAuth2 {
    pub(super) token_url: Url,
    pub(super) client_id: String,
    pub(super) place: Place,
    pub(super) scope: Option<String>,
    /// The client's name and secret stand in the form, not in a header.
    pub(super) in_body: bool,
    /// The token that is in use, and how long; runs share it.
    pub(super) token: Mutex<Option<Kept>>,
}

/// A request that is answered with a token.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) url: Url,
    /// Posted, with the secret put into its texts where `{secret}` stands.
    pub(super) body: serde_json::Value,
    pub(super) place: Place,
    pub(super) found: Found,
    pub(super) header: HeaderName,
    pub(super) scheme: String,
    pub(super) token: Mutex<Option<Kept>>,
}

/// Where the answer to a login has the token.
#[derive(Debug)]
pub(super) enum Found {
    Header(HeaderName),
    /// A JSON pointer (RFC 6901) into the body.
    Pointer(String),
}

/// A token that was fetched.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    token: SecretString,
    /// Without it, it is used until it is refused.
    until: Option<Instant>,
}

impl Kept {
    fn is_usable(&self, refused: Option<&Proof>) -> bool {
        let spent = refused.is_some_and(|proof| proof.secret.expose_secret() == self.token.expose_secret());
        !spent && self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl Found {
    fn token(&self, answer: &Answer) -> Result<SecretString, Trouble> {
        let (token, place) = match self {
            Found::Header(name) => {
                (answer.header(name.as_str()).map(str::to_owned), format!("a header {name}"))
            }
            Found::Pointer(pointer) => {
                let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                (
                    body.pointer(pointer).and_then(|token| token.as_str()).map(str::to_owned),
                    format!("a text at {pointer}"),
                )
            }
        };
        let wrong = || {
            Trouble::setup(format!(
                "{}: the answer to the login has no token: {place} is missing",
                answer.name()
            ))
        };
        token.filter(|token| !token.is_empty()).map(SecretString::from).ok_or_else(wrong)
    }
}

/// The secret of a run.
#[derive(Debug)]
pub(super) struct Held(Option<Secret>);

impl Held {
    /// Where it is kept, for people; empty if there is none.
    pub(super) fn place(&self) -> String {
        self.0.as_ref().map(Secret::place).unwrap_or_default()
    }

    fn current(&self) -> SecretString {
        self.0.as_ref().map(|secret| (*secret.current()).clone()).unwrap_or_default()
    }

    /// Another secret than the refused one, if there is one by now.
    fn after_refusal(&self, refused: &SecretString) -> Option<SecretString> {
        Some((*self.0.as_ref()?.after_refusal(refused)?).clone())
    }
}

/// What shows who asks.
#[derive(Debug, Default)]
pub(super) struct Proof {
    header: Option<(HeaderName, HeaderValue)>,
    signer: Option<Signer>,
    /// What it is made of, to find it in what a server says.
    secret: SecretString,
}

impl Proof {
    fn new(header: HeaderName, text: &str, secret: SecretString) -> Result<Proof, Trouble> {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Trouble::setup("the login has characters that can't be sent in a header"))?;
        value.set_sensitive(true);
        Ok(Proof { header: Some((header, value)), signer: None, secret })
    }

    fn basic(username: &str, secret: SecretString) -> Result<Proof, Trouble> {
        let text =
            format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{}", secret.expose_secret())));
        Proof::new(AUTHORIZATION, &text, secret)
    }

    fn token(header: &HeaderName, scheme: &str, token: SecretString) -> Result<Proof, Trouble> {
        let blank = if scheme.is_empty() { "" } else { " " };
        let text = format!("{scheme}{blank}{}", token.expose_secret());
        Proof::new(header.clone(), &text, token)
    }

    /// Adds the login to a request. Signing brings the address into the form that is signed.
    pub(super) fn add_to(
        &self,
        method: &Method,
        url: &mut Url,
        body: &[u8],
        headers: &mut HeaderMap,
    ) -> Result<(), Trouble> {
        if let Some((name, value)) = self.header.clone() {
            headers.insert(name, value);
        }
        match &self.signer {
            Some(signer) => signer
                .sign(&self.secret, SystemClock.now(), (method, url, body), headers)
                .map_err(Trouble::setup),
            None => Ok(()),
        }
    }

    /// The body without the secret, should a server or something before it have echoed our request.
    pub(super) fn scrub(&self, body: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(body).into_owned();
        let sent = self.header.as_ref().and_then(|(_, value)| value.to_str().ok()).unwrap_or_default();
        let sent = sent.rsplit(' ').next().unwrap_or_default();
        for secret in [self.secret.expose_secret(), sent] {
            if !secret.is_empty() {
                text = text.replace(secret, "***");
            }
        }
        text.into_bytes()
    }
}

impl Auth {
    fn place(&self) -> Option<(&Place, Sort)> {
        match self {
            Auth::Nobody => None,
            Auth::Token { place, .. } => Some((place, Sort::Token)),
            Auth::Basic { place, .. } => Some((place, Sort::Password)),
            Auth::Aws { place, .. } => Some((place, Sort::Password)),
            Auth::OAuth2(oauth2) => Some((&oauth2.place, Sort::Password)),
            Auth::Login(login) => Some((&login.place, Sort::Password)),
        }
    }

    pub(super) fn secret_env(&self) -> Vec<String> {
        match self.place() {
            Some((Place::Env(name), _)) => vec![name.clone()],
            _ => Vec::new(),
        }
    }

    /// Reads the secret.
    pub(super) fn open(&self) -> Result<Held, String> {
        let opened = self.place().map(|(place, sort)| Secret::open(place.clone(), sort)).transpose();
        opened.map(Held).map_err(|why: NoSecret| why.to_string())
    }
}

impl Session<'_> {
    /// What to send with a request. With `refused`, what is not it.
    pub(super) async fn proof(&self, refused: Option<&Proof>) -> Result<Proof, Trouble> {
        let secret = self.held.current();
        match &self.web.auth {
            Auth::Nobody => Ok(Proof::default()),
            Auth::Token { header, scheme, .. } => Proof::token(header, scheme, secret),
            Auth::Basic { username, .. } => Proof::basic(username, secret),
            Auth::Aws { signer, .. } => Ok(Proof { signer: Some(signer.clone()), secret, header: None }),
            Auth::OAuth2(oauth2) => {
                let mut kept = oauth2.token.lock().await;
                let token = match kept.as_ref().filter(|kept| kept.is_usable(refused)) {
                    Some(kept) => kept.token.clone(),
                    None => kept.insert(self.fetch(oauth2, secret).await?).token.clone(),
                };
                Proof::token(&AUTHORIZATION, "Bearer", token)
            }
            Auth::Login(login) => {
                let mut kept = login.token.lock().await;
                let token = match kept.as_ref().filter(|kept| kept.is_usable(refused)) {
                    Some(kept) => kept.token.clone(),
                    None => kept.insert(self.log_in(login, secret).await?).token.clone(),
                };
                Proof::token(&login.header, &login.scheme, token)
            }
        }
    }

    /// What to send after `refused` was; `None` if there is nothing else.
    pub(super) async fn renewed(&self, refused: &Proof) -> Result<Option<Proof>, Trouble> {
        match &self.web.auth {
            Auth::Nobody => Ok(None),
            Auth::Token { .. } | Auth::Basic { .. } | Auth::Aws { .. } => {
                match self.held.after_refusal(&refused.secret) {
                    Some(_) => self.proof(Some(refused)).await.map(Some),
                    None => Ok(None),
                }
            }
            Auth::OAuth2(_) | Auth::Login(_) => self.proof(Some(refused)).await.map(Some),
        }
    }

    /// Makes the API's own login request.
    async fn log_in(&self, login: &Login, secret: SecretString) -> Result<Kept, Trouble> {
        let labels = Labels::from([("secret".to_owned(), secret.expose_secret().to_owned())]);
        let body = with_secret(&login.body, &labels).map_err(Trouble::setup)?;
        let ask = Ask::post_json(login.url.clone(), body.to_string().into_bytes());
        let proof = Proof { secret, ..Proof::default() };
        let (status, answer) = self.exchange(&ask, &[], &proof).await?;
        // A wrong password is refused with 400 or 401.
        let meant = if status == 400 { 401 } else { status };
        let answer = self.judge_as(status, answer, &proof, meant)?;
        let token = login.found.token(&answer)?;
        Ok(Kept { token, until: None })
    }

    /// Asks the OAuth2 server for a token (RFC 6749, section 4.4).
    async fn fetch(&self, oauth2: &OAuth2, secret: SecretString) -> Result<Kept, Trouble> {
        #[derive(Deserialize)]
        struct Given {
            access_token: String,
            #[serde(default)]
            token_type: String,
            expires_in: Option<serde_json::Value>,
        }
        let mut pairs = vec![("grant_type", "client_credentials")];
        pairs.extend(oauth2.scope.as_deref().map(|scope| ("scope", scope)));
        let proof = if oauth2.in_body {
            pairs.push(("client_id", &oauth2.client_id));
            pairs.push(("client_secret", secret.expose_secret()));
            Proof { secret: secret.clone(), ..Proof::default() }
        } else {
            // Both are encoded as in a form before they are put together.
            Proof {
                secret: secret.clone(),
                ..Proof::basic(&encoded(&oauth2.client_id), encoded(secret.expose_secret()).into())?
            }
        };
        let ask = Ask::post_form(oauth2.token_url.clone(), pairs);
        let began = Instant::now();
        let (status, answer) = self.exchange(&ask, &[], &proof).await?;
        // A wrong client is refused with 400 or 401.
        let meant = if status == 400 { 401 } else { status };
        let answer = self.judge_as(status, answer, &proof, meant)?;
        let given: Given = answer.json()?;
        if !given.token_type.is_empty() && !given.token_type.eq_ignore_ascii_case("bearer") {
            let words = format!("{}: it gives tokens of another type than Bearer", ask.name());
            return Err(Trouble::setup(words));
        }
        let seconds =
            given.expires_in.and_then(|value| value.to_string().trim_matches('"').parse::<u64>().ok());
        // One of which nobody says how long it lives is used for one request.
        let life = Duration::from_secs(seconds.unwrap_or(0)).min(Duration::from_secs(86_400));
        let until = Some(began + life.saturating_sub(MARGIN.min(life / 2)));
        Ok(Kept { token: given.access_token.into(), until })
    }
}

/// The body of a login with the secret in it.
fn with_secret(body: &serde_json::Value, secret: &Labels) -> Result<serde_json::Value, String> {
    use serde_json::Value;
    Ok(match body {
        Value::String(text) => Value::String(text.parse::<Template>()?.render(secret)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| with_secret(item, secret)).collect::<Result<_, _>>()?)
        }
        Value::Object(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| Ok((key.clone(), with_secret(value, secret)?)));
            Value::Object(pairs.collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

/// As in a form.
fn encoded(text: &str) -> String {
    let pair = String::from_utf8(super::form([("", text)])).unwrap_or_default();
    pair.trim_start_matches('=').to_owned()
}
