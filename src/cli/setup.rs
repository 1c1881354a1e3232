//! From a configuration file to the parts that a command needs; every mistake in the file is told at once.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::exit::{Exit, Failed};
use crate::collectors::definition::{Definition, secret_env};
use crate::config::clock::{SharedClock, process_clock};
use crate::config::place::Place;
use crate::config::section::Problem;
use crate::config::settings::{Loaded, Report, Settings};
use crate::daemon::health::free;
use crate::ledger::sent::lock::{note_live, refuse_shadow};
use crate::ledger::{Ledger, Rulebook, SharedLedger};
use crate::metering::period::BillingZone;
use crate::submitter::Submitter;
use crate::submitter::other_server::OtherServer;
use crate::submitter::progress::Progress;
use crate::submitter::told::tell_events;
use crate::waldur::client::{Client, SetupError};
pub use crate::wire::numbers::count;
use crate::wire::secret::NoSecret;

/// All parts, made of a file without mistakes.
#[derive(Debug, Clone)]
pub struct Setup {
    pub settings: Arc<Settings>,
    pub definitions: Arc<Vec<Definition>>,
    pub rulebook: Arc<Rulebook>,
    pub clock: SharedClock,
}

/// What a file says, with its mistakes.
#[derive(Debug)]
pub struct Read {
    pub origin: String,
    pub settings: Option<Settings>,
    pub definitions: Vec<Definition>,
    pub problems: Vec<Problem>,
}

/// Reads and checks the whole file.
pub fn read(path: Option<&Path>) -> Result<Read, Failed> {
    let loaded = Loaded::find(path).map_err(|message| Failed::new(Exit::Config, message))?;
    let zone = loaded.settings.as_ref().map(|settings| settings.billing_timezone.clone());
    let zone = zone.unwrap_or(jiff::tz::TimeZone::UTC);
    let definitions: Vec<Definition> = loaded
        .collectors
        .into_iter()
        .filter_map(|section| Definition::from_section(section, &zone))
        .collect();
    let mut problems = loaded.problems.list();
    if loaded.settings.as_ref().is_some_and(|settings| settings.ledger.file().is_none()) {
        problems.extend(definitions.iter().filter_map(unsaid_once));
    }
    Ok(Read { origin: loaded.origin, settings: loaded.settings, definitions, problems })
}

/// Where collectors' runs are recorded first, if the file says so, whatever else is wrong with it.
pub(super) fn first_place(path: Option<&Path>) -> Option<Place> {
    Loaded::find(path).ok()?.first_place
}

/// A file with mistakes as far as it says where the ledger is: to look at it, without a collector.
pub(super) fn to_look(path: Option<&Path>) -> Option<Setup> {
    Some(Setup::of(Loaded::find(path).ok()?.settings?, Vec::new()))
}

/// Two hosts that read one source would each count it.
fn unsaid_once(definition: &Definition) -> Option<Problem> {
    (definition.may_be_shared && !definition.elsewhere).then(|| Problem {
        path: format!("collectors.{}.once", definition.name),
        line: None,
        message: format!(
            "is missing: several hosts of a shared ledger can reach what `{}` reads, and each would count it. `once: true` if one \
             of them is to read it for all, `once: false` if only this host reads it",
            definition.plugin.name
        ),
    })
}

impl Setup {
    /// Reads the file; if anything is wrong with it, says all of it.
    pub fn load(path: Option<&Path>) -> Result<Setup, Failed> {
        let read = read(path)?;
        match (read.settings, read.problems.as_slice()) {
            (Some(settings), []) => Ok(Setup::of(settings, read.definitions)),
            (_, problems) => {
                let mut message = format!("{} has {}:", read.origin, count(problems.len(), "mistake"));
                for problem in problems {
                    message += &format!("\n  {problem}");
                }
                Err(Failed::new(Exit::Config, message))
            }
        }
    }

    pub fn of(settings: Settings, definitions: Vec<Definition>) -> Setup {
        let zone = BillingZone::of(settings.billing_timezone.clone());
        let rules = definitions.iter().map(|definition| definition.rules.clone()).collect();
        Setup {
            settings: Arc::new(settings),
            definitions: Arc::new(definitions),
            rulebook: Arc::new(Rulebook { zone, rules }),
            clock: process_clock(),
        }
    }

    /// Opens the ledger to write, and carries out what changed in the rules.
    pub fn ledger(&self) -> Result<Ledger, Failed> {
        let mut ledger = Ledger::open(&self.settings.ledger, (*self.rulebook).clone())?;
        if let Place::Database(database) = &self.settings.ledger
            && self.settings.submits
        {
            // Nor are its rules those of a ledger that reports elsewhere.
            if let Some(other) = OtherServer::of(&ledger, self.settings.api())? {
                return Err(Failed::new(Exit::Config, other.words_and_remedy()));
            }
            match self.settings.report {
                Report::Live => note_live(database)?,
                Report::Shadow => refuse_shadow(database)?,
            }
        }
        if self.settings.submits {
            ledger.apply_rules(self.clock.now())?;
            ledger.measure_database_clock(&self.clock)?;
        }
        tell_events(&mut ledger)?;
        Ok(ledger)
    }

    /// Opens the ledger to look. What was recorded and is not stated yet is stated first, where this user may.
    pub fn ledger_to_read(&self) -> Result<Ledger, Failed> {
        let ledger = Ledger::open_to_read(&self.settings.ledger, (*self.rulebook).clone())?;
        let may_write = self.settings.ledger.file().and_then(free) != Some(0);
        if may_write
            && ledger.is_behind()?
            && let Ok(mut writable) = Ledger::open(&self.settings.ledger, (*self.rulebook).clone())
        {
            // What hosts have sent is counted by the rules of the agent that submits.
            if self.settings.ledger.file().is_some() {
                writable.count_queued()?;
            }
            writable.state(self.clock.now())?;
        }
        Ok(ledger)
    }

    pub fn client(&self) -> Result<Client, Failed> {
        let Some(waldur) = &self.settings.waldur else {
            let why = "this agent only collects: its configuration names no server (`waldur: { url: ... }`)";
            return Err(Failed::new(Exit::Config, why.to_owned()));
        };
        let client = Client::new(waldur, self.clock.clone()).map_err(|error| {
            let exit = match error {
                SetupError::Token(NoSecret::NoAnswer(_)) => Exit::Pending,
                _ => Exit::Config,
            };
            Failed::new(exit, error.to_string())
        })?;
        Ok(if self.is_shadow() { client.read_only() } else { client })
    }

    pub fn submitter(&self, client: Arc<Client>, ledger: SharedLedger) -> Submitter {
        Submitter {
            client,
            ledger,
            clock: self.clock.clone(),
            on_conflict: self.settings.on_conflict,
            late: self.settings.late,
            report: self.settings.report,
            progress: Progress::default(),
        }
    }

    /// The names of the collectors.
    pub fn collectors(&self) -> Vec<String> {
        self.definitions.iter().map(|definition| definition.name.clone()).collect()
    }

    /// Whether nothing is ever posted.
    pub fn is_shadow(&self) -> bool {
        self.settings.report == Report::Shadow
    }

    /// The start of the billing period that is running.
    pub fn period_start(&self) -> Timestamp {
        let zone = &self.rulebook.zone;
        zone.start(zone.period_of(self.clock.now()))
    }

    /// From when on a collector reads that was never read: as it is configured, or the running period.
    pub(super) fn since(&self, definition: &Definition) -> Timestamp {
        definition.since.unwrap_or_else(|| self.period_start())
    }

    /// Environment variables that no program of a collector may see.
    pub fn withhold(&self) -> Vec<String> {
        secret_env(self.settings.token_env(), &self.definitions)
    }
}
