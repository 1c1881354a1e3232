//! Why the server is left alone, and since when: what an operator does about each of them differs. It only reads what the
//! ledger keeps.

use std::collections::BTreeSet;

use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::other_server::{self, OtherServer};
use crate::ledger::sent::server::{Retry, WithoutRole};
use crate::ledger::{Ledger, LedgerError};

/// The server fact that holds for what cause the server was first left alone, and when.
pub(super) const SINCE: &str = "paused_since";
/// The server fact that holds when a cycle last had the answers that it asked for.
pub(super) const ANSWERED: &str = "answered";

/// The server fact that holds the server's words where it refuses all that is posted, though it was not left alone; since
/// when. Empty: it takes something.
pub(super) const REFUSED: &str = "reports_refused";

/// Clocks that are further apart are shown, in microseconds.
pub const SKEW_SHOWN_US: i64 = 2_000_000;
/// Further apart they are a line of the log: an answer's time is known to a second, and this does not come and go. The alert
/// fires there, too.
pub(super) const SKEW_LOGGED_US: i64 = 30_000_000;

/// The server fact that holds what a person decided and could not be carried out in the last cycle.
const UNDONE: &str = "decisions_undone";

/// Resources of which a person decided to overwrite something, which was not done because the users' shares could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    pub resources: BTreeSet<Uuid>,
    /// What the server said last.
    pub words: String,
}

impl Undone {
    pub(super) fn add(&mut self, resource: Uuid, words: String) {
        self.resources.insert(resource);
        self.words = words;
    }

    pub(super) fn keep(&self, ledger: &mut Ledger, now: Timestamp) -> Result<(), LedgerError> {
        if Undone::of(ledger)? == *self {
            return Ok(());
        }
        let text = serde_json::to_string(self).unwrap_or_default();
        ledger.put_server_fact(UNDONE, &text, now)
    }

    fn of(ledger: &Ledger) -> Result<Undone, LedgerError> {
        let fact = ledger.server_fact(UNDONE)?;
        Ok(fact.and_then(|(text, _)| serde_json::from_str(&text).ok()).unwrap_or_default())
    }
}

/// Every cause there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The token was refused.
    Token,
    /// The token is good, and its user may not report.
    Role,
    /// No connection, no answer, or one that proves nothing.
    Unreachable,
    /// The server asked for rest.
    Throttled,
    /// It is another server than the ledger's.
    OtherServer,
}

impl Cause {
    pub const ALL: [Cause; 5] =
        [Cause::Token, Cause::Role, Cause::Unreachable, Cause::Throttled, Cause::OtherServer];

    pub fn name(self) -> &'static str {
        match self {
            Cause::Token => "token",
            Cause::Role => "role",
            Cause::Unreachable => "unreachable",
            Cause::Throttled => "throttled",
            Cause::OtherServer => "other_server",
        }
    }

    /// What happened, for people.
    pub fn words(self) -> &'static str {
        match self {
            Cause::Token => "the token was refused",
            Cause::Role => "the token may not report",
            Cause::Unreachable => "no usable answer",
            Cause::Throttled => "the server is rate limiting (HTTP 429)",
            Cause::OtherServer => "the ledger reports to another server",
        }
    }

    pub fn remedy(self) -> &'static str {
        match self {
            Cause::Token => {
                "put a valid token in its place: a `token_file` is read again at once, a credential of the service \
                 with `systemctl restart waldur-usage-agent`"
            }
            Cause::Role => "make its user OFFERING.MANAGER of the offering, or an owner of its organisation",
            Cause::Unreachable => {
                "look at what it says, then at `waldur.url`, the network, the proxy, the certificate and the server's log; it is \
                 tried again by itself"
            }
            Cause::Throttled => "no action needed: the agent retries by itself",
            Cause::OtherServer => other_server::REMEDY,
        }
    }

    pub fn of(retry: &Retry) -> Cause {
        match retry.cause.as_str() {
            "token" => Cause::Token,
            "forbidden" => Cause::Role,
            "answered 429" => Cause::Throttled,
            _ if retry.asked.is_some() => Cause::Throttled,
            _ => Cause::Unreachable,
        }
    }
}

/// The server, as the last cycle left it.
#[derive(Debug, Clone, Default)]
pub struct ServerStatus {
    /// It is not the ledger's: nothing else that is said here is of it.
    pub other: Option<OtherServer>,
    /// Until when it is left alone, and why.
    pub paused: Option<Paused>,
    pub without_role: Vec<WithoutRole>,
    /// Whether those are all that there are.
    pub no_role_at_all: bool,
    /// Since when it refuses all that is posted for want of a role, and its words.
    pub reports_refused: Option<(Timestamp, String)>,
    /// When it last answered all that it was asked.
    pub answered: Option<Timestamp>,
    /// Its clock minus ours, in microseconds.
    pub skew: Option<i64>,
    pub undone: Undone,
}

#[derive(Debug, Clone)]
pub struct Paused {
    pub cause: Cause,
    pub since: Option<Timestamp>,
    pub retry: Retry,
}

impl ServerStatus {
    /// `api`: where the configuration says that it is, if it does.
    pub fn of(ledger: &Ledger, api: Option<&Url>) -> Result<ServerStatus, LedgerError> {
        let first = ledger.server_fact(SINCE)?;
        let paused = ledger.retry(None)?.map(|retry| {
            let cause = Cause::of(&retry);
            let since = first.filter(|(known, _)| known == cause.name()).map(|(_, at)| at);
            Paused { cause, since, retry }
        });
        // What was refused may have gone since, or be as Waldur holds it.
        let is_waiting = ledger.put_off()?.iter().any(|(_, retry)| Cause::of(retry) == Cause::Role);
        let refused = ledger.server_fact(REFUSED)?.filter(|(words, _)| is_waiting && !words.is_empty());
        Ok(ServerStatus {
            other: OtherServer::of(ledger, api)?,
            paused,
            reports_refused: refused.map(|(words, at)| (at, words)),
            without_role: ledger.without_role()?,
            no_role_at_all: ledger.has_no_role()?,
            answered: ledger.server_fact(ANSWERED)?.map(|(_, at)| at),
            skew: ledger.server_fact("skew_us")?.and_then(|(micros, _)| micros.parse().ok()),
            undone: Undone::of(ledger)?,
        })
    }

    /// Whether nothing can be reported for this cause.
    pub fn is_paused_for(&self, cause: Cause) -> bool {
        let no_role =
            cause == Cause::Role && (!self.without_role.is_empty() || self.reports_refused.is_some());
        let is_other = cause == Cause::OtherServer && self.other.is_some();
        is_other || no_role || self.paused.as_ref().is_some_and(|paused| paused.cause == cause)
    }

    /// Whether the token, or its user's role, is what keeps reports back.
    pub fn is_refused(&self) -> bool {
        self.is_paused_for(Cause::Token) || self.is_paused_for(Cause::Role)
    }
}
