//! Reads the keys that all collectors have that ask over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tokio::sync::Mutex;

use super::Web;
use super::auth::{Auth, Found, Login, OAuth2};
use super::aws::Signer;
use crate::collectors::exec::parse_size;
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::config::waldur::is_loopback;
use crate::wire::secret::Place;
use crate::wire::tls::Trust;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
const DEFAULT_MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Ends of the names of headers that hold a login.
const SECRET_HEADERS: [&str; 9] = [
    "authorization",
    "cookie",
    "token",
    "api-key",
    "apikey",
    "access-key",
    "secret",
    "password",
    "signature",
];

pub(super) fn read(section: &mut Section) -> Option<Web> {
    let allow_http = section.flag("allow_http").unwrap_or(false);
    let url = section.require_with("url", "the address to ask, such as https://host.example.com/", read_url);
    let headers = headers(section);
    let timeout = section.parse_with("timeout", parse_duration);
    let max_answer = section.parse_with("max_answer", parse_size);
    let trust = trust(section);
    let auth = match section.section("auth") {
        Some(mut keys) => {
            let auth = auth(&mut keys, allow_http);
            keys.finish();
            auth
        }
        None if section.has("auth") => None,
        None => Some(Auth::Nobody),
    };
    let (url, auth, trust) = (url?, auth?, trust?);
    let has_login = !matches!(auth, Auth::Nobody);
    if has_login && let Err(why) = may_carry_login(&url, allow_http) {
        section.problem("url", why);
        return None;
    }
    Some(Web {
        url,
        headers: headers?,
        auth,
        trust,
        timeout: timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.unsigned_abs()),
        max_answer: max_answer.unwrap_or(DEFAULT_MAX_ANSWER),
    })
}

/// An address as people write it. It is never repeated in a message: it may hold a password.
pub(super) fn read_url(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let mut url = Url::parse(text).map_err(|error| {
        let hint = if text.contains("://") { "" } else { "; begin with https:// or http://" };
        format!("not an address ({error}){hint}")
    })?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(format!("must begin with https:// or http://, not {}://", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password: use `auth`".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

/// Whether a login may be sent there. Without one, plain http is as usual within a site.
pub(super) fn may_carry_login(url: &Url, allow_http: bool) -> Result<(), String> {
    if url.scheme() == "https" || allow_http || is_loopback(url) {
        return Ok(());
    }
    Err("plain http would show the login to everyone on the way: use https, or say `allow_http: true` if you must"
        .to_owned())
}

fn headers(section: &mut Section) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Some(Vec::new());
    for (name, value) in section.named_texts("headers") {
        let lower = name.to_ascii_lowercase();
        let read = match (lower.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            _ if SECRET_HEADERS.iter().any(|end| lower.ends_with(end)) => {
                Err(format!("`{name}` looks like a login, which must not stand in this file: use `auth`"))
            }
            (Err(_), _) => Err(format!("`{name}` is no name of a header")),
            (_, Err(_)) => Err(format!("the value of `{name}` can't be sent in a header")),
            (Ok(name), Ok(value)) => Ok((name, value)),
        };
        match (read, &mut headers) {
            (Ok(header), Some(headers)) => headers.push(header),
            (Ok(_), None) => {}
            (Err(why), _) => {
                section.problem("headers", why);
                headers = None;
            }
        }
    }
    headers
}

fn trust(section: &mut Section) -> Option<Trust> {
    let Some(mut keys) = section.section("tls") else {
        return (!section.has("tls")).then(Trust::default);
    };
    let path = |keys: &mut Section, key: &str| keys.text(key).map(PathBuf::from);
    let ca_file = path(&mut keys, "ca_file");
    let client_certificate =
        match (path(&mut keys, "client_certificate_file"), path(&mut keys, "client_key_file")) {
            (Some(certificate), Some(key)) => Some(Some((certificate, key))),
            (None, None) => Some(None),
            (certificate, _) => {
                let (has, lacks) = match certificate {
                    Some(_) => ("client_certificate_file", "client_key_file"),
                    None => ("client_key_file", "client_certificate_file"),
                };
                keys.problem(has, format!("a certificate and its key go together: add `{lacks}`"));
                None
            }
        };
    keys.finish();
    Some(Trust { ca_file, client_certificate: client_certificate? })
}

fn auth(keys: &mut Section, allow_http: bool) -> Option<Auth> {
    let mut found = Vec::new();
    let scheme = keys.text("scheme");
    let header = keys.parse_with("header", |name| {
        name.parse::<HeaderName>().map_err(|_| format!("`{name}` is no name of a header"))
    });
    if let Some(place) = place(keys, "token") {
        let header = header.unwrap_or(AUTHORIZATION);
        // As most servers want it; in a header of its own a token stands alone.
        let usual = if header == AUTHORIZATION { "Bearer" } else { "" };
        found.push(place.map(|place| {
            let scheme = scheme.unwrap_or_else(|| usual.to_owned());
            Auth::Token { place, header, scheme }
        }));
    } else if scheme.is_some() || header.is_some() {
        keys.problem("", "`scheme` and `header` say how a token is sent: add `token_file` or `token_env`");
        found.push(None);
    }
    if keys.has("basic") {
        found.push(keys.section("basic").and_then(|mut keys| {
            let username = keys.require_with("username", "who logs in", |text| match text.contains(':') {
                true => Err("must not have a colon".to_owned()),
                false => Ok(text.to_owned()),
            });
            let place = required_place(&mut keys, "password");
            keys.finish();
            Some(Auth::Basic { username: username?, place: place? })
        }));
    }
    if keys.has("oauth2") {
        found.push(keys.section("oauth2").and_then(|mut keys| {
            let oauth2 = oauth2(&mut keys, allow_http);
            keys.finish();
            oauth2
        }));
    }
    if keys.has("login") {
        found.push(keys.section("login").and_then(|mut keys| {
            let login = login(&mut keys, allow_http);
            keys.finish();
            login
        }));
    }
    if keys.has("aws") {
        found.push(keys.section("aws").and_then(|mut keys| {
            let access_key = keys.require_with("access_key", "who signs", |text| Ok(text.to_owned()));
            let place = required_place(&mut keys, "secret_key");
            let region = keys.text("region").unwrap_or_else(|| "us-east-1".to_owned());
            let service = keys.text("service").unwrap_or_else(|| "s3".to_owned());
            keys.finish();
            Some(Auth::Aws { signer: Signer { access_key: access_key?, region, service }, place: place? })
        }));
    }
    // So that they are known when others are compared with them.
    for key in ["basic", "oauth2", "login", "aws"] {
        if !keys.has(key) {
            keys.text(key);
        }
    }
    if found.len() > 1 {
        keys.problem(
            "",
            "one login is enough: `token_file` or `token_env`, `basic`, `oauth2`, `login` or `aws`",
        );
        return None;
    }
    found.pop().unwrap_or_else(|| {
        keys.problem(
            "",
            "it says no login: add `token_file`, `token_env`, `basic`, `oauth2`, `login` or `aws`",
        );
        None
    })
}

fn oauth2(keys: &mut Section, allow_http: bool) -> Option<Auth> {
    let token_url = keys.require_with("token_url", "where tokens are given", |text| {
        let url = read_url(text)?;
        may_carry_login(&url, allow_http)?;
        Ok(url)
    });
    let client_id = keys.require_with("client_id", "who asks", |text| Ok(text.to_owned()));
    let place = required_place(keys, "client_secret");
    let scope = keys.text("scope");
    let in_body = keys.parse_with("send_secret_in", |text| match text {
        "header" => Ok(false),
        "body" => Ok(true),
        other => Err(format!("`{other}` is no place for the client's secret; known: header, body")),
    });
    Some(Auth::OAuth2(Box::new(OAuth2 {
        token_url: token_url?,
        client_id: client_id?,
        place: place?,
        scope,
        in_body: in_body.unwrap_or(false),
        token: Mutex::new(None),
    })))
}

fn login(keys: &mut Section, allow_http: bool) -> Option<Auth> {
    let url = keys.require_with("url", "where to log in", |text| {
        let url = read_url(text)?;
        may_carry_login(&url, allow_http)?;
        Ok(url)
    });
    let body = match keys.value("body").map(serde_json::to_value) {
        Some(Ok(body)) if body.to_string().contains("{secret}") => Some(body),
        Some(Err(error)) => {
            keys.problem("body", format!("can't be written as JSON: {error}"));
            None
        }
        _ => {
            keys.problem("body", "is what is posted to log in, with \"{secret}\" where the secret belongs");
            None
        }
    };
    let place = required_place(keys, "secret");
    let header = |name: &str| name.parse().map_err(|_| format!("`{name}` is no name of a header"));
    let found = match (keys.parse_with("token_header", header), keys.text("token_pointer")) {
        (Some(name), None) => Some(Found::Header(name)),
        (None, Some(pointer)) if pointer.starts_with('/') => Some(Found::Pointer(pointer)),
        _ => {
            let how = "say where the answer has the token: `token_header`, or `token_pointer` such as /access_token";
            keys.problem("", how);
            None
        }
    };
    let send = keys.parse_with("send_as", header).unwrap_or(AUTHORIZATION);
    let usual = if send == AUTHORIZATION { "Bearer" } else { "" };
    let scheme = keys.text("scheme").unwrap_or_else(|| usual.to_owned());
    Some(Auth::Login(Box::new(Login {
        url: url?,
        body: body?,
        place: place?,
        found: found?,
        header: send,
        scheme,
        token: Mutex::new(None),
    })))
}

fn required_place(keys: &mut Section, name: &str) -> Option<Place> {
    place(keys, name).unwrap_or_else(|| {
        keys.problem("", format!("`{name}_file` or `{name}_env` is missing: where the secret is kept"));
        None
    })
}

/// `NAME_file` or `NAME_env`; the inner `None` is a mistake that was told.
fn place(keys: &mut Section, name: &str) -> Option<Option<Place>> {
    let (file, env) = (format!("{name}_file"), format!("{name}_env"));
    if keys.has(name) {
        keys.text(name);
        keys.problem(name, format!("a secret must not stand in this file: use `{file}` or `{env}`"));
        return Some(None);
    }
    if !keys.has(&file) && !keys.has(&env) {
        // So that they are known when others are compared with them.
        keys.text(&file);
        keys.text(&env);
        return None;
    }
    let path = keys.parse_with(&file, |path| match path {
        "" => Err("must be the path of a file".to_owned()),
        path => Ok(Place::File(path.into())),
    });
    let variable = keys.parse_with(&env, |name| {
        let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // The name is not repeated: somebody may have put the secret itself here.
        let wrong = || "must be the name of an environment variable".to_owned();
        if fine { Ok(Place::Env(name.to_owned())) } else { Err(wrong()) }
    });
    if keys.has(&file) && keys.has(&env) {
        keys.problem(&env, format!("give either `{file}` or `{env}`, not both"));
        return Some(None);
    }
    Some(path.or(variable))
}
