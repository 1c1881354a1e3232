//! Collectors look at the world and return readings. They know nothing of Waldur, of money or of the ledger.
//!
//! A plugin is one file and one line in [`PLUGINS`]. It reads its own keys from its collector's section of the
//! configuration file, and then, each time it is asked, says what it sees. It never turns an error into zero: what
//! can't be read is a problem of the run, or, if nothing can be read, its error.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::section::Section;
use crate::metering::reading::{Kind, Labels, Reading};
use spool::Spool;

mod again;
mod blocking;
pub mod cgroup;
mod characters;
pub mod definition;
pub mod exec;
pub mod filesystem;
mod find;
mod finish;
pub mod http;
mod names;
mod numbers;
pub mod openmetrics;
mod process;
pub mod prometheus;
pub mod silence;
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
    /// Whether what it reads is usually the same from every host.
    pub is_shared: bool,
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
    /// What could not be looked at (a directory without permission). The readings count, the collector counts as failed
    /// in part, and nothing is concluded of the series that a problem bears on.
    pub problems: Vec<Problem>,
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
    /// Which readings are history that is read on from where the last run ended, whatever is asked for by then.
    pub history: History,
    /// What was there and is known already, so that it makes no reading again: lines that are the same as at the last look.
    pub known: u64,
    /// Bad things beyond those that are kept one by one; the last of `quarantined` sums them up.
    pub unshown: u64,
}

/// By the name of the readings: the labels of a series, and the instant from which it is known not to be there.
pub type Ended = BTreeMap<String, Vec<(Labels, Timestamp)>>;

/// By the name of the readings: the windows (from, to) that this run has read whole, all that is there and without trouble. What
/// an earlier run had read of them, when something else was asked for, is replaced.
pub type History = BTreeMap<String, Vec<(Timestamp, Timestamp)>>;

/// One line or value that can't be a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The offending text, cut to 200 characters.
    pub what: String,
    pub reason: String,
    pub bears_on: Bearing,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// For the operator: what, why, what to do.
    pub text: String,
    pub bears_on: Bearing,
}

impl Problem {
    /// A problem that may bear on any series.
    pub fn of_all(text: String) -> Problem {
        Problem { text, bears_on: Bearing::All }
    }
}

/// All problems, in one line.
pub fn texts(problems: &[Problem]) -> String {
    problems.iter().map(|problem| problem.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// Which series an odd thing could have been about. Of those alone nothing is concluded from a run that did not see
/// them: they don't end, and one that is new does not count from zero (law 10).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Bearing {
    /// Any series of the collector.
    #[default]
    All,
    /// Series that fit one of these; none at all if there are none.
    Some(Vec<SeriesFilter>),
}

/// Series with this name (any, if `None`), with all of these labels, and with labels that begin so.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeriesFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub prefixes: Labels,
}

impl SeriesFilter {
    fn fits(&self, name: &str, labels: &Labels) -> bool {
        let begins = |(label, prefix): (&String, &String)| {
            labels.get(label).is_some_and(|value| value.starts_with(prefix.as_str()))
        };
        self.name.as_ref().is_none_or(|wanted| wanted == name)
            && self.labels.iter().all(|(label, value)| labels.get(label) == Some(value))
            && self.prefixes.iter().all(begins)
    }
}

impl Bearing {
    /// Nothing that anybody meters.
    pub fn nothing() -> Bearing {
        Bearing::Some(Vec::new())
    }

    /// All series of these readings.
    pub fn readings<'a>(names: impl IntoIterator<Item = &'a str>) -> Bearing {
        Bearing::labelled(names, &Labels::new())
    }

    /// The series of these readings that have these labels.
    pub fn labelled<'a>(names: impl IntoIterator<Item = &'a str>, labels: &Labels) -> Bearing {
        let filter = |name: &str| SeriesFilter {
            name: Some(name.to_owned()),
            labels: labels.clone(),
            ..SeriesFilter::default()
        };
        Bearing::Some(names.into_iter().map(filter).collect())
    }

    /// All series that carry this label with this value.
    pub fn label(label: &str, value: &str) -> Bearing {
        let labels = Labels::from([(label.to_owned(), value.to_owned())]);
        Bearing::Some(vec![SeriesFilter { labels, ..SeriesFilter::default() }])
    }

    /// Makes it also what another one is about.
    pub fn join(&mut self, other: Bearing) {
        let (Bearing::Some(filters), Bearing::Some(others)) = (&mut *self, other) else {
            *self = Bearing::All;
            return;
        };
        for filter in others {
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        // So many are as good as all that have their names.
        if filters.len() > MOST_FILTERS {
            let names: BTreeSet<Option<String>> = filters.drain(..).map(|filter| filter.name).collect();
            let names: Option<Vec<String>> = names.into_iter().collect();
            *self = names.map_or(Bearing::All, |names| Bearing::readings(names.iter().map(String::as_str)));
        }
    }

    /// The one series that a reading belongs to.
    pub fn series(name: &str, labels: &Labels) -> Bearing {
        Bearing::labelled([name], labels)
    }

    /// Whether it is about readings alone that no meter wants. Where no meter is known, all are wanted.
    pub fn is_unmetered<T: Borrow<str> + Ord>(&self, metered: &BTreeSet<T>) -> bool {
        let Bearing::Some(filters) = self else { return false };
        let is_wanted = |name: &str| metered.is_empty() || metered.contains(name);
        !filters.is_empty() && !filters.iter().any(|filter| filter.name.as_deref().is_none_or(is_wanted))
    }

    /// Whether a series may be what it is about.
    pub fn covers(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Bearing::All => true,
            Bearing::Some(filters) => filters.iter().any(|filter| filter.fits(name, labels)),
        }
    }
}

/// Readings of a run that are held in memory.
pub const IN_MEMORY: usize = 1024;

/// Bad lines or values that are kept one by one. A source that says something else altogether must not fill the memory.
pub const MOST_QUARANTINED: usize = 1_000;

/// Filters that a summary keeps one by one.
const MOST_FILTERS: usize = 200;

impl Batch {
    /// Keeps the reading if it is valid, else quarantines it.
    pub fn push(&mut self, reading: Reading) {
        match reading.clone().checked() {
            Ok(reading) => self.keep(reading),
            Err(reason) => self.set_aside(&reading, reason),
        }
    }

    /// How much it holds now, to be able to go back to it.
    fn mark(&self) -> Mark {
        Mark {
            readings: self.readings.len(),
            more: self.more.height(),
            quarantined: self.quarantined.len(),
            rest: self.quarantined.get(MOST_QUARANTINED).cloned(),
            unshown: self.unshown,
            known: self.known,
        }
    }

    /// Takes back what came since: half an answer is none.
    fn back_to(&mut self, mark: Mark) -> Result<(), CollectorError> {
        self.readings.truncate(mark.readings);
        let failed =
            |error: std::io::Error| CollectorError(format!("its temporary file can't be used: {error}"));
        self.more.back_to(mark.more).map_err(failed)?;
        self.quarantined.truncate(mark.quarantined);
        if let (Some(rest), Some(place)) = (mark.rest, self.quarantined.get_mut(MOST_QUARANTINED)) {
            *place = rest;
        }
        (self.unshown, self.known) = (mark.unshown, mark.known);
        Ok(())
    }

    /// Keeps a reading that has been checked.
    pub fn keep(&mut self, reading: Reading) {
        if self.readings.len() < IN_MEMORY { self.readings.push(reading) } else { self.more.push(&reading) }
    }

    /// The names of all readings, with their kinds; a name may come more than once.
    fn kinds(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.readings.iter().map(|reading| (reading.name.as_str(), reading.kind)).chain(self.more.kinds())
    }

    /// Quarantines what may have been any series.
    pub fn quarantine(&mut self, what: &str, reason: impl Into<String>) {
        self.quarantine_of(what, reason, Bearing::All);
    }

    pub fn quarantine_of(&mut self, what: &str, reason: impl Into<String>, bears_on: Bearing) {
        if self.quarantined.len() < MOST_QUARANTINED {
            let what = what.trim().chars().take(200).collect();
            let reason = reason.into().chars().take(400).collect();
            self.quarantined.push(Quarantined { what, reason, bears_on });
            return;
        }
        self.unshown += 1;
        let reason = format!("and {} more", self.unshown);
        match self.quarantined.get_mut(MOST_QUARANTINED) {
            Some(rest) => {
                rest.reason = reason;
                rest.bears_on.join(bears_on);
            }
            None => self.quarantined.push(Quarantined { what: String::new(), reason, bears_on }),
        }
    }

    /// Quarantines a reading of which only its own series could have more to say.
    fn set_aside(&mut self, reading: &Reading, reason: impl Into<String>) {
        let what = format!("{} {} {:?}", reading.name, reading.value, reading.labels);
        self.quarantine_of(&what, reason, Bearing::series(&reading.name, &reading.labels));
    }

    /// Notes a problem that may bear on any series.
    pub fn problem(&mut self, text: impl Into<String>) {
        self.problem_of(text, Bearing::All);
    }

    pub fn problem_of(&mut self, text: impl Into<String>, bears_on: Bearing) {
        self.problems.push(Problem { text: text.into(), bears_on });
    }
}

/// How much a batch held.
#[derive(Debug, Clone, Default)]
struct Mark {
    readings: usize,
    more: spool::Height,
    quarantined: usize,
    rest: Option<Quarantined>,
    unshown: u64,
    known: u64,
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

    /// Whether it may see nothing at all by mistake and call that a success: then it takes two runs that agree to end
    /// what there was.
    fn may_fall_silent(&self) -> bool {
        false
    }

    /// What of an `old` checkpoint is kept in a `new` one that was made without looking at it, because a person wanted history
    /// again: what could not be read then is still to be asked for.
    fn carry_over(&self, _old: &str, new: String) -> String {
        new
    }

    /// How far apart the readings of a series are by themselves, where that may be more than the runs are.
    fn distance(&self) -> Option<SignedDuration> {
        None
    }

    /// Paths that don't answer now, and when that was found.
    fn hanging(&self) -> Vec<(PathBuf, Timestamp)> {
        Vec::new()
    }

    /// Environment variables that hold its secrets: no program that any collector starts gets them.
    fn secret_env(&self) -> Vec<String> {
        Vec::new()
    }

    /// Looks once. Blocking work belongs on a blocking thread; the caller sets the overall time limit
    /// and drops the future when it is over, which must stop whatever was started.
    fn collect(&self, request: Request) -> Running<'_>;
}

#[cfg(test)]
fn tests_texts(batch: &Batch) -> Vec<&str> {
    batch.problems.iter().map(|problem| problem.text.as_str()).collect()
}
