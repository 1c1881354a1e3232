//! The `waldur:` part of the file: where the server is, whose token is used, and how patient to be.
//!
//! It never holds the token itself, only where the token is kept, and it never opens a file or a connection.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use reqwest::Url;
use reqwest::header::HeaderValue;

use super::duration::parse_duration;
use super::section::Section;

/// The first call of a month makes the customer's whole invoice and was seen to take 20 to 40 s, and whatever
/// waits behind it on the same token waits as long.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// It begins with one, and comes so far only where more are served in the same time.
const DEFAULT_IN_FLIGHT: usize = MOST_IN_FLIGHT;
const MOST_IN_FLIGHT: usize = 8;

/// How to reach Waldur.
#[derive(Debug, Clone)]
pub struct WaldurSettings {
    /// The address under which the API's collections live; it ends in `/api/`.
    pub api: Url,
    pub token: TokenOrigin,
    /// The zone whose calendar months the server bills by.
    pub billing_timezone: TimeZone,
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// A certificate to show and its key, both PEM.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// For a whole call, from asking for the connection to the last byte of the answer.
    pub timeout: Duration,
    /// How many calls may be under way at once.
    pub max_in_flight: usize,
}

/// Where the token is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenOrigin {
    File(PathBuf),
    Env(String),
    /// The file `token` among systemd's credentials, or else the environment's `WALDUR_TOKEN`.
    Usual,
}

impl TokenOrigin {
    /// The variable that the usual place falls back to.
    pub const USUAL_ENV: &str = "WALDUR_TOKEN";

    /// The environment variable that may hold the token: programs that collectors start must not inherit it.
    pub fn env_name(&self) -> Option<&str> {
        match self {
            TokenOrigin::File(_) => None,
            TokenOrigin::Env(name) => Some(name),
            TokenOrigin::Usual => Some(Self::USUAL_ENV),
        }
    }
}

impl WaldurSettings {
    /// Takes the keys of the section; `None` if any of them is wrong (the problems are recorded). The caller
    /// finishes the section.
    pub fn from_section(section: &mut Section) -> Option<Self> {
        let allow_http = section.flag("allow_http");
        let api =
            section.require_with("url", "the address of Waldur, such as https://waldur.example.com", |t| {
                read_url(t, allow_http.unwrap_or(false))
            });
        let token = read_origin(section);
        let billing_timezone = or_default(section, "billing_timezone", TimeZone::UTC, read_zone);
        let ca_file = section.text("ca_file").map(PathBuf::from);
        let certificate = section.text("client_cert_file").map(PathBuf::from);
        let key = section.text("client_key_file").map(PathBuf::from);
        let client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Some((certificate, key))),
            (None, None) => Some(None),
            (Some(_), None) => {
                section.problem("client_cert_file", "a certificate needs its key: add `client_key_file`");
                None
            }
            (None, Some(_)) => {
                section.problem("client_key_file", "a key needs its certificate: add `client_cert_file`");
                None
            }
        };
        let timeout = or_default(section, "timeout", DEFAULT_TIMEOUT, |text| match duration(text)? {
            timeout if timeout < Duration::from_secs(1) => Err("must be at least one second".to_owned()),
            timeout if timeout > Duration::from_secs(3600) => Err("must be at most an hour".to_owned()),
            timeout => Ok(timeout),
        });
        let max_in_flight =
            or_default(section, "max_in_flight", DEFAULT_IN_FLIGHT, |text| match text.parse::<usize>() {
                Ok(number) if (1..=MOST_IN_FLIGHT).contains(&number) => Ok(number),
                _ => Err(format!("must be a whole number from 1 to {MOST_IN_FLIGHT}, not `{text}`")),
            });
        Some(WaldurSettings {
            api: api?,
            token: token?,
            billing_timezone: billing_timezone?,
            ca_file,
            client_certificate: client_certificate?,
            timeout: timeout?,
            max_in_flight: max_in_flight?,
        })
    }

    /// Whether the server is on this machine: then no proxy is asked, whatever the environment says.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.api)
    }
}

/// The zone whose months are billed.
pub(super) fn read_zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("`{name}` is no time zone such as UTC or Europe/Tallinn"))
}

/// The value of an optional key; `None` only if it is there and wrong.
fn or_default<T>(
    section: &mut Section,
    key: &str,
    default: T,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    if !section.has(key) {
        // Asked for nevertheless, so that the key is known when others are compared with it.
        section.text(key);
        return Some(default);
    }
    section.parse_with(key, read)
}

fn read_origin(section: &mut Section) -> Option<TokenOrigin> {
    if section.has("token") {
        section.text("token");
        section.problem("token", "a secret must not stand in this file: use `token_file` or `token_env`");
    }
    let file = section.text("token_file");
    let env = section.parse_with("token_env", |name| {
        let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // The name is not repeated: somebody may have put the token itself here.
        if fine { Ok(name.to_owned()) } else { Err("must be the name of an environment variable".to_owned()) }
    });
    match (file, env) {
        (Some(_), Some(_)) => {
            section.problem("token_env", "give either `token_file` or `token_env`, not both");
            None
        }
        (Some(file), None) if file.is_empty() => {
            section.problem("token_file", "must be the path of a file");
            None
        }
        (Some(file), None) => Some(TokenOrigin::File(file.into())),
        (None, Some(name)) => Some(TokenOrigin::Env(name)),
        (None, None) if section.has("token_env") || section.has("token_file") || section.has("token") => None,
        (None, None) => Some(TokenOrigin::Usual),
    }
}

/// The address of the API from what people write: with or without `/api`, with or without a slash.
fn read_url(text: &str, allow_http: bool) -> Result<Url, String> {
    let text = text.trim();
    // What was written is never repeated in a message: it may hold a password.
    let mut url = Url::parse(text).map_err(|error| {
        let hint = if text.contains("://") { "" } else { "; begin with https://" };
        format!("not an address ({error}){hint}")
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password: the token is all that is sent".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have anything after the path (no `?` or `#`)".to_owned());
    }
    match url.scheme() {
        "https" => {}
        "http" if allow_http || is_loopback(&url) => {}
        "http" => {
            return Err("plain http would show the token to everyone on the way: use https, or say \
                        `allow_http: true` if you must"
                .to_owned());
        }
        other => return Err(format!("must begin with https://, not {other}://")),
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/api").unwrap_or(path).trim_end_matches('/');
    let path = format!("{path}/api/");
    url.set_path(&path);
    Ok(url)
}

/// Whether two addresses of an API are those of one server: TLS before it, or none, makes no other one of it.
pub fn is_same_address(one: &Url, other: &Url) -> bool {
    let host = |url: &Url| url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
    let place = |url: &Url| (host(url), url.path().trim_end_matches('/').to_owned());
    // The port that goes without saying is another one with TLS.
    place(one) == place(other) && one.port() == other.port()
}

/// Whether an address is on this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// A length of time in the form that timers take.
fn duration(text: &str) -> Result<Duration, String> {
    Duration::try_from(parse_duration(text)?).map_err(|_| format!("`{text}` is too long"))
}

/// Whether a text can be sent as a token at all: not empty, without blanks, line breaks or NUL inside.
pub fn check_token(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    // A server answers a token with a blank in it with "Token string should not contain spaces" (observed: 401).
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has a blank, a line break or a control character inside");
    }
    if !text.is_ascii() || HeaderValue::from_str(text).is_err() {
        return Err("has characters that no token has");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::Problem;

    fn read(text: &str) -> (Option<WaldurSettings>, Vec<String>) {
        let (mut section, problems) = Section::parse(text);
        let settings = WaldurSettings::from_section(&mut section);
        section.finish();
        (settings, problems.list().iter().map(Problem::to_string).collect())
    }

    fn problem_of(text: &str) -> String {
        let (settings, problems) = read(text);
        assert!(settings.is_none() && problems.len() == 1, "{text}: {problems:?}");
        problems.into_iter().next().unwrap()
    }

    #[test]
    fn the_url_is_taken_with_and_without_api_and_slash() {
        for url in [
            "https://w.example.com",
            "https://w.example.com/",
            "https://w.example.com/api",
            "https://w.example.com/api/",
        ] {
            let (settings, problems) = read(&format!("url: {url}"));
            assert_eq!(problems, Vec::<String>::new());
            assert_eq!(settings.unwrap().api.as_str(), "https://w.example.com/api/");
        }
        let (settings, _) = read("url: https://example.com/waldur/");
        assert_eq!(settings.unwrap().api.as_str(), "https://example.com/waldur/api/");
    }

    #[test]
    fn the_defaults_are_patient_and_eight_at_once() {
        let settings = read("url: https://w.example.com").0.unwrap();
        assert_eq!(settings.timeout, Duration::from_secs(120));
        assert_eq!(settings.max_in_flight, 8);
        assert_eq!(settings.token, TokenOrigin::Usual);
        assert_eq!(settings.billing_timezone, TimeZone::UTC);
    }

    #[test]
    fn plain_http_needs_permission_unless_it_stays_on_this_machine() {
        assert!(problem_of("url: http://w.example.com").contains("allow_http: true"));
        assert!(read("url: http://w.example.com\nallow_http: true").0.is_some());
        for url in ["http://127.0.0.1:8000", "http://localhost:8000/api", "http://[::1]:8000"] {
            assert!(read(&format!("url: {url}")).0.unwrap().is_loopback(), "{url}");
        }
        assert!(problem_of("url: http://localhost.example.com").contains("plain http"));
        assert!(problem_of("url: ftp://w.example.com").contains("https://"));
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        let problem = problem_of("url: https://me:hunter2@w.example.com");
        assert!(problem.contains("user name or password") && !problem.contains("hunter2"), "{problem}");
        let problem = problem_of("url: https://w.example.com\ntoken: hunter2");
        assert!(problem.contains("token_file") && !problem.contains("hunter2"), "{problem}");
        let problem = problem_of("url: https://w.example.com\ntoken_env: hunter-2");
        assert!(!problem.contains("hunter"), "{problem}");
    }

    #[test]
    fn the_token_has_one_source() {
        let problem = problem_of("url: https://w.example.com\ntoken_file: /t\ntoken_env: T");
        assert!(problem.contains("not both"), "{problem}");
        let settings = read("url: https://w.example.com\ntoken_env: MY_TOKEN").0.unwrap();
        assert_eq!(settings.token.env_name(), Some("MY_TOKEN"));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let (settings, problems) = read(
            "url: w.example.com\nbilling_timezone: Mars/Phobos\ntimeout: soon\nmax_in_flight: 9\n\
             client_cert_file: /c\ntime_out: 3s\n",
        );
        assert!(settings.is_none());
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert!(problems[5].contains("did you mean `timeout`"), "{problems:#?}");
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_told_before_it_is_sent() {
        assert_eq!(check_token("0123456789abcdef0123456789abcdef01234567"), Ok(()));
        for wrong in ["", "a b", "a\0b", "a\nb", "tökén"] {
            assert!(check_token(wrong).is_err(), "{wrong:?}");
        }
    }
}
