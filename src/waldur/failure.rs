//! What became of a call that did not succeed, told apart by what its caller must do next.
//!
//! It never says more than is known: a call whose end was not seen is `Unknown`, whatever the reason.

use std::fmt;

use jiff::SignedDuration;

use super::refusal::Refusal;

/// What is said of an address that is https:// where the other side speaks no TLS: no certificate is missing.
pub const NO_TLS: &str = "the other side does not speak TLS; is its address http:// ?";

/// Every way in which a call can end badly. `call` says which call it was ("POST set_usage for resource …"),
/// `words` what the server (or the network) said, cleaned and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Certainly not applied: the request never left (no connection, no name, refused).
    NotSent { call: String, words: String },
    /// Perhaps applied: no answer, half an answer, or one that the server itself did not make. A server goes on
    /// and commits when its client has gone (observed), and a proxy may answer 5xx for what was done: the outcome
    /// must be read back. Of a reading call it only means that nothing was learnt.
    Unknown { call: String, status: Option<u16>, words: String, retry_after: Option<SignedDuration> },
    /// 401: the token is wrong, expired or missing. No call will fare better with it.
    Token { call: String, words: String },
    /// 403: the token is good, but may not do this.
    Forbidden { call: String, words: String },
    /// TLS: their certificate or ours was not accepted, or the other side does not speak TLS. Nothing was sent.
    Certificate { call: String, words: String },
    /// This server has no such endpoint (404 or 405 of the address itself).
    Endpoint { call: String, words: String },
    /// The endpoint is there, the object is not, or this token may not see it.
    Missing { call: String, words: String },
    /// The answer pointed elsewhere. It is never followed: a POST would become a GET, and the token would leave
    /// for a place that nobody configured.
    Redirected { call: String, words: String },
    /// The server's own validation would not take it.
    Refused { call: String, refusal: Refusal },
}

impl Failure {
    /// Which call it was.
    pub fn call(&self) -> &str {
        match self {
            Failure::NotSent { call, .. }
            | Failure::Unknown { call, .. }
            | Failure::Token { call, .. }
            | Failure::Forbidden { call, .. }
            | Failure::Certificate { call, .. }
            | Failure::Endpoint { call, .. }
            | Failure::Missing { call, .. }
            | Failure::Redirected { call, .. }
            | Failure::Refused { call, .. } => call,
        }
    }

    /// What was said.
    pub fn words(&self) -> String {
        match self {
            Failure::NotSent { words, .. }
            | Failure::Unknown { words, .. }
            | Failure::Token { words, .. }
            | Failure::Forbidden { words, .. }
            | Failure::Certificate { words, .. }
            | Failure::Endpoint { words, .. }
            | Failure::Missing { words, .. }
            | Failure::Redirected { words, .. } => words.clone(),
            Failure::Refused { refusal, .. } => refusal.to_string(),
        }
    }

    /// The name by which logs and metrics call it.
    pub fn name(&self) -> &'static str {
        match self {
            Failure::NotSent { .. } => "not_sent",
            Failure::Unknown { .. } => "unknown",
            Failure::Token { .. } => "token",
            Failure::Forbidden { .. } => "forbidden",
            Failure::Certificate { .. } => "certificate",
            Failure::Endpoint { .. } => "endpoint",
            Failure::Missing { .. } => "missing",
            Failure::Redirected { .. } => "redirected",
            Failure::Refused { .. } => "refused",
        }
    }

    /// What its repetitions are counted by: failures of another cause are counted anew.
    pub fn cause(&self) -> String {
        match self {
            Failure::Unknown { status: Some(status), .. } => format!("answered {status}"),
            Failure::Unknown { status: None, .. } => "no answer".to_owned(),
            other => other.name().to_owned(),
        }
    }

    /// How long the server asked to be left alone, counted from its answer.
    pub fn retry_after(&self) -> Option<SignedDuration> {
        match self {
            Failure::Unknown { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether a writing call may have been applied all the same, wholly or in part, so that the rows must be
    /// read back before anything is believed.
    pub fn may_be_applied(&self) -> bool {
        match self {
            Failure::Unknown { .. } => true,
            Failure::Refused { refusal, .. } => refusal.may_be_half_applied(),
            _ => false,
        }
    }

    /// Whether the whole server is meant, not this one call: the next call would end in the same way.
    pub fn concerns_every_call(&self) -> bool {
        matches!(
            self,
            Failure::NotSent { .. }
                | Failure::Token { .. }
                | Failure::Certificate { .. }
                | Failure::Redirected { .. }
        )
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Failure::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// For an answer to a call that does not say what it should.
    pub(super) fn unreadable(call: &str, words: impl Into<String>) -> Failure {
        Failure::Unknown { call: call.to_owned(), status: None, words: words.into(), retry_after: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, words) = (self.call(), self.words());
        let said = |f: &mut fmt::Formatter<'_>, what: &str| match words.is_empty() {
            true => write!(f, "{call}: {what}"),
            false => write!(f, "{call}: {what}: {words}"),
        };
        match self {
            Failure::NotSent { .. } => said(f, "cannot reach the server"),
            Failure::Unknown { status, retry_after, .. } => {
                match status {
                    Some(status) => said(f, &format!("the server answered {status}"))?,
                    None => said(f, "no answer to rely on")?,
                }
                match retry_after {
                    Some(wait) => write!(f, " (asks for {} s of rest)", wait.as_secs()),
                    None => Ok(()),
                }
            }
            Failure::Token { .. } => said(f, "the token was refused"),
            Failure::Forbidden { .. } => said(f, "the token may not do this"),
            Failure::Certificate { .. } => said(f, "no trusted connection"),
            Failure::Endpoint { .. } => said(f, "this server has no such call"),
            Failure::Missing { .. } => said(f, "not found"),
            Failure::Redirected { .. } => {
                write!(f, "{call}: the server points to {words}; set waldur.url to where the API really is")
            }
            Failure::Refused { .. } => said(f, "refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_one_sentence() {
        let call = "POST set_usage for resource 5e2f".to_owned();
        let refusal = Refusal::InvalidComponents(vec!["gpu".into()]);
        assert_eq!(
            Failure::Refused { call: call.clone(), refusal }.to_string(),
            "POST set_usage for resource 5e2f: refused: These components are invalid: gpu."
        );
        let unknown = Failure::Unknown {
            call: call.clone(),
            status: Some(503),
            words: String::new(),
            retry_after: Some(SignedDuration::from_secs(30)),
        };
        assert_eq!(
            unknown.to_string(),
            "POST set_usage for resource 5e2f: the server answered 503 (asks for 30 s of rest)"
        );
        assert!(unknown.may_be_applied() && !unknown.concerns_every_call());
    }
}
