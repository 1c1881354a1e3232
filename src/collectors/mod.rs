//! Collectors look at the world and return readings. They know nothing of Waldur, of money or of the ledger.
//!
//! A plugin is one file and one line in [`PLUGINS`]. It reads its own keys from its collector's section of the
//! configuration file, and then, each time it is asked, says what it sees. It never turns an error into zero: what
//! can't be read is a problem of the run, or, if nothing can be read, its error.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use jiff::{SignedDuration, Timestamp};

use crate::config::section::Section;
use crate::metering::reading::{Kind, Labels, Reading};
use spool::Spool;

mod blocking;
pub mod cgroup;
pub mod definition;
pub mod exec;
pub mod filesystem;
pub mod http;
mod names;
mod numbers;
pub mod openmetrics;
mod process;
pub mod prometheus;
pub mod slurm;
pub mod spool;
mod web;

/// Every plugin there is.
pub const PLUGINS: &[Plugin] = &[
    cgroup::PLUGIN,
    exec::PLUGIN,
    filesystem::PLUGIN,
    http::PLUGIN,
    openmetrics::PLUGIN,
    prometheus::PLUGIN,
    slurm::PLUGIN,
];

/// A kind of collector, as the registry knows it.
#[derive(Debug, Clone, Copy)]
pub struct Plugin {
    /// What `plugin:` says in the configuration file.
    pub name: &'static str,
    /// One line for `--help` and `check`.
    pub about: &'static str,
    /// Takes the plugin's own keys from the collector's section and checks them. Mistakes go to the section; `None`
    /// if no collector can be made of it.
    pub build: fn(&mut Section) -> Option<Box<dyn Collector>>,
}

/// What one run is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The instant of the run. Readings of what is seen now carry this time.
    pub now: Timestamp,
    /// For sources that keep history: the start of what is wanted (the current billing period, or `--since`).
    pub since: Timestamp,
    /// What this collector's last successful run left behind, in its own words.
    pub checkpoint: Option<String>,
    /// Names of environment variables that hold a secret (`token_env`). No program that a collector starts gets
    /// them; `exec` withholds some more of its own accord.
    pub withhold: Vec<String>,
}

/// What one run saw. It reaches the ledger in one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    /// The first thousands of readings.
    pub readings: Vec<Reading>,
    /// All others, out of memory.
    pub more: Spool,
    /// Single bad lines or values: not billed, counted and shown, the others count.
    pub quarantined: Vec<Quarantined>,
    /// What could not be looked at (a directory without permission). The readings count, but the run is not
    /// complete: nothing is concluded from what it did not see, and the collector counts as failed.
    pub problems: Vec<String>,
    /// What a person setting the collector up should know (a glob that matches nothing, a controller that is off).
    /// The run is complete all the same; `check` and `collect` show these, the daemon does not repeat them.
    pub notes: Vec<String>,
    /// Moves in the same transaction as the readings.
    pub checkpoint: Option<String>,
    /// Whether a complete run lists everything there is, so that a series seen for the first time began after the
    /// previous run (a cgroup), and is not merely newly visible.
    pub lists_everything: bool,
    /// Which gauges have ended, and when, by the name of their readings: for names whose source has history and so tells
    /// by itself. A counter of such a name goes on where it comes back. A series of any other name has ended where a
    /// complete run does not see it.
    pub ended: Ended,
}

/// By the name of the readings: the labels of a series, and the instant from which it is known not to be there.
pub type Ended = BTreeMap<String, Vec<(Labels, Timestamp)>>;

/// One line or value that can't be a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The offending text, cut to 200 characters.
    pub what: String,
    pub reason: String,
}

/// Readings of a run that are held in memory.
pub const IN_MEMORY: usize = 4096;

impl Batch {
    /// Keeps the reading if it is valid, else quarantines it.
    pub fn push(&mut self, reading: Reading) {
        // Said before, because checking takes it; only where it is needed, because there may be millions.
        let what = |reading: &Reading| format!("{} {} {:?}", reading.name, reading.value, reading.labels);
        match reading.clone().checked() {
            Ok(reading) => self.keep(reading),
            Err(reason) => self.quarantine(&what(&reading), reason),
        }
    }

    /// Keeps a reading that has been checked.
    pub fn keep(&mut self, reading: Reading) {
        if self.readings.len() < IN_MEMORY { self.readings.push(reading) } else { self.more.push(&reading) }
    }

    pub fn quarantine(&mut self, what: &str, reason: impl Into<String>) {
        let what = what.chars().take(200).collect();
        self.quarantined.push(Quarantined { what, reason: reason.into() });
    }
}

/// Why a run failed as a whole. The text is for the operator: what was tried, what happened, what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CollectorError(pub String);

/// What a collector can offer, for `check` and for mistakes in a meter's `reading`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
}

pub type Running<'a> = Pin<Box<dyn Future<Output = Result<Batch, CollectorError>> + Send + 'a>>;

/// A source of readings.
pub trait Collector: Send + Sync + Debug {
    /// The readings it can make; empty if only running it tells (`exec`).
    fn offers(&self) -> &[Offered];

    /// The readings it makes whose names the operator chose, each with its kind.
    fn named(&self) -> Vec<(&str, Kind)> {
        Vec::new()
    }

    /// The kind of a reading that it can make; of more than these two list where names are made of what a site has.
    fn kind_of(&self, reading: &str) -> Option<Kind> {
        let offers = self.offers().iter().map(|offered| (offered.name, offered.kind));
        offers.chain(self.named()).find(|(name, _)| *name == reading).map(|(_, kind)| kind)
    }

    /// Labels that its readings may carry (some only where they apply, such as the user of a user's slice), to check
    /// templates against; empty if only running it tells.
    fn labels(&self) -> &[&'static str];

    /// What decides which series a complete run lists (globs, roots). While it is unchanged, a series that was not
    /// there before has begun since.
    fn scope(&self) -> String;

    /// How far apart the readings of a series are by themselves, where that may be more than the runs are.
    fn distance(&self) -> Option<SignedDuration> {
        None
    }

    /// Environment variables that hold its secrets: no program that any collector starts gets them.
    fn secret_env(&self) -> Vec<String> {
        Vec::new()
    }

    /// Looks once. Blocking work belongs on a blocking thread; the caller sets the overall time limit
    /// and drops the future when it is over, which must stop whatever was started.
    fn collect(&self, request: Request) -> Running<'_>;
}
