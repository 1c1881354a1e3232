//! What was told of the hosts of a shared ledger lately, so that it is seen by who does not read the log, and what of them is not
//! billed.

use std::io::Write;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cli::exit::Failed;
use crate::cli::setup::Setup;
use crate::cli::text::{cut, fold, moment, thousands};
use crate::ledger::Ledger;
use crate::ledger::db::event::Event;

/// For so long it is shown.
const SHOWN_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
/// So many are.
const SHOWN: usize = 3;

#[derive(Debug)]
pub(super) struct OfHosts {
    told: Vec<Event>,
    /// Collectors of hosts that the rules of the agent that submits do not know, each in a sentence.
    unknown: Vec<String>,
    /// Whether something that hosts have measured is not billed.
    pub(super) is_not_billed: bool,
}

impl OfHosts {
    pub(super) fn of(ledger: &Ledger, setup: &Setup) -> Result<OfHosts, Failed> {
        let since = setup.clock.now().saturating_sub(SHOWN_FOR).unwrap_or(Timestamp::MIN);
        let (mut told, is_lost) = ledger.told_of_hosts(since)?;
        // A file that does not submit may have its own host's collectors only.
        let unknown = match setup.settings.submits {
            true => ledger.unknown_collectors()?.into_iter().map(|(_, words)| words).collect(),
            false => Vec::new(),
        };
        told.retain(|event| !unknown.contains(&event.words));
        let is_not_billed = !unknown.is_empty() || is_lost;
        Ok(OfHosts { told, unknown, is_not_billed })
    }

    /// For machines, all of it: what is so now has no time.
    pub(super) fn json(&self) -> Vec<Value> {
        let unknown = self.unknown.iter().map(|words| json!({ "at": null, "words": words }));
        let told = self.told.iter().map(|event| json!({ "at": event.at.to_string(), "words": event.words }));
        unknown.chain(told).collect()
    }

    pub(super) fn write(&self, out: &mut dyn Write, now: Timestamp) -> Result<(), Failed> {
        for words in self.unknown.iter().take(SHOWN) {
            writeln!(out, "{}", fold(&format!("Hosts: {words}"), 2))?;
        }
        for event in self.told.iter().take(SHOWN) {
            let line = format!("Hosts, {}: {}", moment(event.at, now), cut(&event.words, 250));
            writeln!(out, "{}", fold(&line, 2))?;
        }
        let left = self.unknown.len().saturating_sub(SHOWN) + self.told.len().saturating_sub(SHOWN);
        if left > 0 {
            writeln!(out, "  and {} more: the log has them", thousands(left))?;
        }
        Ok(())
    }
}
