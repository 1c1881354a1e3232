//! Which Waldur a ledger reports to. What it knows to be accepted, closed or carried, and of whom, is of that server, and says
//! nothing of another one: so nothing is sent to one that the configuration names instead, until a person has said that it is the
//! same under a new address.

use jiff::Timestamp;
use reqwest::Url;

use super::{Cycle, CycleError};
use crate::config::waldur::is_same_address;
use crate::ledger::{Ledger, LedgerError};

/// The server fact that holds the address of the server that the ledger reports to, and since when.
const REPORTS_TO: &str = "reports_to";
/// What was learnt of how the server works, and is learnt anew of what may be another one.
const LEARNT: [&str; 3] = ["dated", "month_proven", "asked"];

/// The configuration names another server than the one that the ledger reports to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherServer {
    /// That of the ledger.
    pub of_ledger: String,
    pub since: Timestamp,
    pub configured: String,
}

impl OtherServer {
    /// `api`: where the configuration says that Waldur is, if it does.
    pub fn of(ledger: &Ledger, api: Option<&Url>) -> Result<Option<OtherServer>, LedgerError> {
        let (Some(api), Some((of_ledger, since))) = (api, server_of(ledger)?) else { return Ok(None) };
        if of_ledger.parse().is_ok_and(|known| is_same_address(&known, api)) {
            return Ok(None);
        }
        Ok(Some(OtherServer { of_ledger, since, configured: api.to_string() }))
    }

    /// What is the matter, for people.
    pub fn words(&self) -> String {
        format!(
            "the ledger reports to {}, and `waldur.url` names {}: nothing is sent, what is measured is kept",
            self.of_ledger, self.configured
        )
    }

    /// And what to do about it.
    pub fn words_and_remedy(&self) -> String {
        format!("{}. What to do: {REMEDY}", self.words())
    }
}

/// What to do about it.
pub const REMEDY: &str = "if it is the same server under a new address: `waldur-usage-agent ledger server --renamed`; if it is \
                          another one, name a new ledger in `ledger:`, since this one's months are not its; else put \
                          `waldur.url` right";

/// The address of the server that the ledger reports to, and since when; `None`: it has been in contact with none.
pub fn server_of(ledger: &Ledger) -> Result<Option<(String, Timestamp)>, LedgerError> {
    ledger.server_fact(REPORTS_TO)
}

/// A person says that the server has this address now.
pub fn rename(ledger: &mut Ledger, api: &Url, now: Timestamp) -> Result<(), LedgerError> {
    ledger.together(|ledger| {
        ledger.put_server_fact(REPORTS_TO, api.as_str(), now)?;
        ledger.forget_server_facts(&LEARNT)
    })
}

impl Cycle {
    /// Whether nothing may be asked of, or sent to, the server that is configured; told in the report.
    pub(super) async fn is_of_another_server(&self) -> Result<bool, CycleError> {
        let api = self.submitter.client.api().clone();
        let other = self.ledger(move |ledger| OtherServer::of(ledger, Some(&api))).await?;
        let is_other = other.is_some();
        self.state().report.other_server = other;
        Ok(is_other)
    }

    /// Whether the ledger has been in contact with a server.
    pub(super) async fn knows_its_server(&self) -> Result<bool, CycleError> {
        Ok(self.ledger(|ledger| Ok(server_of(ledger)?.is_some())).await?)
    }

    /// The server has answered: it is the ledger's from now on, if that had none.
    pub(super) async fn keep_server(&self) -> Result<(), CycleError> {
        let (api, now) = (self.submitter.client.api().to_string(), self.submitter.clock.now());
        let kept = self.ledger(move |ledger| {
            ledger.together(|ledger| match server_of(ledger)? {
                Some(_) => Ok(()),
                None => ledger.put_server_fact(REPORTS_TO, &api, now),
            })
        });
        Ok(kept.await?)
    }
}
