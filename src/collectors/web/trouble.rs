//! What went wrong with a request, in words for the operator: what was asked, what came of it, what to do.

use std::fmt;
use std::time::Duration;

use reqwest::{StatusCode, Url};

use super::coding::Wrong;
use crate::collectors::CollectorError;
use crate::wire::tls::{File, Unusable, innermost, tls_error};
use crate::wire::words::{clean, of_body};

/// Why there is no answer to work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::collectors) struct Trouble {
    /// The status, if the server answered with one that is no success.
    pub(in crate::collectors) status: Option<u16>,
    /// Whether an answer may come if less is asked for at a time.
    pub(in crate::collectors) too_much: bool,
    message: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Trouble> for CollectorError {
    fn from(trouble: Trouble) -> CollectorError {
        CollectorError(trouble.message)
    }
}

impl Trouble {
    fn new(message: String) -> Trouble {
        Trouble { status: None, too_much: false, message }
    }

    fn too_much(message: String) -> Trouble {
        Trouble { too_much: true, ..Trouble::new(message) }
    }

    /// Nothing could be asked: a file is missing, say.
    pub(super) fn setup(message: impl Into<String>) -> Trouble {
        Trouble::new(message.into())
    }

    pub(super) fn certificate(Unusable { file, words }: Unusable) -> Trouble {
        let key = match file {
            File::Authorities => "ca_file",
            File::Certificate => "client_certificate_file",
            File::Key => "client_key_file",
        };
        Trouble::new(format!("`tls.{key}` can't be used: {words}"))
    }
}

/// No answer, or only a part of one (`read` bytes of its body).
pub(super) fn network(name: &str, error: reqwest::Error, limit: Duration, read: Option<usize>) -> Trouble {
    let error = error.without_url();
    let words = innermost(&error);
    if let Some(tls) = tls_error(&error) {
        let words = clean(&tls.to_string());
        let remedy = match tls {
            rustls::Error::InvalidCertificate(_) => {
                "; if an authority of your own signed the server's certificate, name it in `tls.ca_file`, and use \
                 the host name that the certificate is for"
            }
            rustls::Error::AlertReceived(_) => {
                "; if the server asks for a certificate, name one in `tls.client_certificate_file`"
            }
            _ => "; does this port speak TLS?",
        };
        return Trouble::new(format!("{name}: TLS failed: {words}{remedy}"));
    }
    if error.is_timeout() {
        let limit = limit.as_secs();
        return match error.is_connect() {
            true => Trouble::new(format!(
                "{name}: no connection within the time limit; is the host up, and does a firewall \
                             let this one through?"
            )),
            false => Trouble::too_much(format!(
                "{name}: no whole answer within {limit} s; nothing of it is used. Ask for less at a \
                              time, or raise `timeout`"
            )),
        };
    }
    if error.is_connect() {
        return Trouble::new(format!(
            "{name}: can't be reached: {words}; is it running, and is `url` right?"
        ));
    }
    Trouble::new(match read {
        Some(read) => {
            format!("{name}: the answer broke off after {read} bytes ({words}); nothing of it is used")
        }
        None => format!("{name}: the connection ended before an answer came ({words})"),
    })
}

/// The body is in a form that nobody asked for.
pub(super) fn compressed(name: &str, coding: &str) -> Trouble {
    Trouble::new(format!(
        "{name}: the answer is compressed as `{}`, which was not asked for (gzip is understood); look at what stands before \
         the server",
        clean(coding)
    ))
}

/// The body can't be had from its compressed form.
pub(super) fn torn(name: &str, wrong: &Wrong, limit: u64) -> Trouble {
    match wrong {
        Wrong::TooLarge => too_large(name, limit),
        Wrong::BrokenOff => Trouble::new(format!(
            "{name}: the answer broke off in the middle of its compressed form (gzip); nothing of it is used"
        )),
        Wrong::Broken(words) => Trouble::new(format!(
            "{name}: the answer is said to be gzip, and is not, or not to its end ({}); nothing of it is used. Look at what \
             stands before the server",
            clean(words)
        )),
    }
}

pub(super) fn too_large(name: &str, limit: u64) -> Trouble {
    Trouble::too_much(format!(
        "{name}: the answer has more than {limit} bytes; nothing of it is used. Ask for less at a time, or raise \
         `max_answer`"
    ))
}

pub(super) fn redirected(name: &str, status: u16, to: Option<Url>) -> Trouble {
    let to = to.map(|mut to| {
        to.set_query(None);
        clean(to.as_str())
    });
    let message = match to {
        Some(to) => format!(
            "{name}: {status}, it is at {to} now, and a login is not sent where nobody named it; if that is right, \
             set `url` to it (a page for people to log in means that the login is wrong or missing)"
        ),
        None => format!("{name}: it redirects without end, or to nowhere; correct `url`"),
    };
    Trouble { status: Some(status), ..Trouble::new(message) }
}

/// An answer that is no success. `meant`: the status that says best what to do; `place`: where the secret that was
/// sent is kept.
pub(super) fn refused(name: &str, status: u16, meant: u16, body: &[u8], place: &str) -> Trouble {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
    let words = of_body(body);
    let words = if words.is_empty() { words } else { format!(": {words}") };
    let remedy = match meant {
        202 => "; the answer is not made yet: nothing of this is used".to_owned(),
        206 => "; this is a part of the answer, and a part is not used: take away what asks for one (`Range` in `headers`), or \
                look at the cache before the server"
            .to_owned(),
        200..=299 => "; this is no whole answer, and nothing of it is used".to_owned(),
        401 if place.is_empty() => "; it wants a login: add `auth`".to_owned(),
        401 => format!("; the login is wrong or has expired: look at {place}"),
        403 => "; the login may not read this: give it the permission (see the collector's page)".to_owned(),
        404 | 405 => "; there is nothing to ask at this address: correct it".to_owned(),
        429 => "; it is asked too often: ask less often (`schedule`)".to_owned(),
        500..=599 => "; the server has a problem of its own: its log says more".to_owned(),
        _ => String::new(),
    };
    let message = format!("{name}: {status}{reason}{words}{remedy}");
    Trouble { status: Some(status), ..Trouble::new(message) }
}

/// An answer that is not what it should be.
pub(super) fn garbage(name: &str, wanted: &str, kind: &str, words: &str, body: &[u8]) -> Trouble {
    let (kind, words) = (clean(kind), clean(words));
    let begins: String = of_body(body).chars().take(200).collect();
    let begins = if begins.is_empty() { "it is empty".to_owned() } else { format!("it says: {begins}") };
    Trouble::new(format!("{name}: the answer ({kind}) is not {wanted}: {words}; {begins}"))
}
