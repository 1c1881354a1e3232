//! How a collector keeps its schedule, as far as the ledger tells: when it is tried again, and which runs were missed.

use jiff::{SignedDuration, Timestamp};

use crate::cli::exit::Failed;
use crate::cli::setup::{Setup, count};
use crate::cli::text::{cut, moment, soon};
use crate::collectors::definition::Definition;
use crate::daemon::retry;
use crate::ledger::Ledger;
use crate::ledger::views::report::{CollectorReport, QuarantinedReport, RunReport};
use crate::wire::numbers::{count_many, thousands};

/// Fewer may be due, and the daemon just about to look.
const OVERDUE: usize = 3;
/// Runs that were missed are told without being asked for so long after.
const MISSED_LATELY: SignedDuration = SignedDuration::from_hours(24);
/// So many of the lines that it quarantined are shown.
const QUARANTINED: usize = 10;

/// How a collector keeps its schedule.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) report: CollectorReport,
    pub(super) schedule: String,
    /// When it is tried again after a failure.
    pub(super) retry: Option<Timestamp>,
    /// The last time in this period that runs were missed for so long that it may have left a gap: how many, and
    /// between which two.
    pub(super) missed: Option<(usize, Timestamp, Timestamp)>,
    /// Since when a source that may fall silent by mistake has shown nothing, where it showed counters or gauges before.
    pub(super) silent: Option<Timestamp>,
    /// How many runs were due since the last one.
    pub(super) overdue: usize,
    /// The newest lines that it quarantined in this period, the latest first.
    pub(super) quarantined: Vec<QuarantinedReport>,
}

impl Collector {
    pub(super) fn of(ledger: &Ledger, setup: &Setup, definition: &Definition) -> Result<Collector, Failed> {
        let (name, schedule) = (&definition.name, &definition.schedule);
        let now = setup.clock.now();
        let (report, pace) = (ledger.collector_report(name)?, ledger.pace(name, now)?);
        let long = definition.rules.default_max_gap.unwrap_or(schedule.usual_distance());
        let gaps = ledger.long_distances(name, (setup.period_start(), now), long)?;
        let missed = gaps.into_iter().map(|(from, to)| (retry::missed(schedule, from, to), from, to));
        let again = retry::retry_of(name, schedule, &pace);
        let overdue =
            pace.last.filter(|_| again.is_none()).map_or(0, |(at, _)| retry::missed(schedule, at, now));
        let missed = missed.filter(|(runs, _, _)| *runs > 0).max_by_key(|(_, from, _)| *from);
        let mut quarantined = ledger.quarantined(name, QUARANTINED)?;
        quarantined.retain(|bad| bad.at >= setup.period_start());
        let schedule = schedule.text().to_owned();
        let may_be_silent = definition.collector.may_fall_silent() && !definition.allow_empty;
        let is_empty = |last: &RunReport| last.outcome == "ok" && last.readings + last.quarantined == 0;
        let silent = match report.last.as_ref().is_some_and(is_empty) && may_be_silent {
            true => ledger.saw_something(name)?,
            false => None,
        };
        Ok(Collector { report, schedule, retry: again, missed, silent, overdue, quarantined })
    }

    /// Whether its last run failed, wholly or in part.
    pub(super) fn fails(&self) -> bool {
        self.report.last.as_ref().is_some_and(|last| last.outcome != "ok")
    }

    /// Whether it needs to be looked at now. Runs that were missed are past; where the ledger can't be written, which is told
    /// by itself, none can be recorded.
    pub(super) fn is_in_trouble(&self, unwritable: bool) -> bool {
        let quarantined = self.report.last.as_ref().is_some_and(|last| last.quarantined > 0);
        self.fails() || quarantined || self.silent.is_some() || !unwritable && self.overdue >= OVERDUE
    }

    /// Whether it needs nobody, but something of it may be missing since lately: a machine that slept, or a clock that was set.
    pub(super) fn missed_lately(&self, now: Timestamp) -> bool {
        self.missed.is_some_and(|(_, _, to)| now.duration_since(to) <= MISSED_LATELY)
    }

    /// Where it stands among others, the worst first: failed, read in part, otherwise in trouble, well.
    pub(super) fn severity(&self) -> usize {
        match self.report.last.as_ref().map(|last| last.outcome.as_str()) {
            Some("failed") => 0,
            Some(outcome) if outcome != "ok" => 1,
            _ if self.is_in_trouble(false) => 2,
            _ => 3,
        }
    }

    /// What is to be told of it; `daemon`: whether one is at work, `unwritable`: whether the ledger can't be written.
    pub(super) fn troubles(&self, now: Timestamp, (daemon, unwritable): (bool, bool)) -> Vec<String> {
        let mut troubles = Vec::new();
        let last = self.report.last.as_ref();
        if let Some(message) = last.and_then(|last| last.message.as_ref()) {
            let runs = count(usize::try_from(self.report.failures_since).unwrap_or(0), "run");
            let well = self.report.last_success;
            let well = well.map_or(format!("{runs}, and none succeeded"), |at| {
                format!("{runs} since it last succeeded, {}", moment(at, now))
            });
            troubles.push(format!("{} ({well})", cut(message, 400)));
        }
        if let Some(at) = self.silent {
            troubles.push(format!(
                "it has seen nothing since {}, which is believed: the counters and gauges that it saw are not billed on. See whether \
                 its source still answers; `allow_empty: true` if that is right",
                moment(at, now)
            ));
        }
        if let Some(at) = self.retry.filter(|_| daemon) {
            troubles.push(format!("the daemon tries it again at {}", soon(at, now)));
        }
        if let Some((runs, from, to)) = self.missed {
            let (from, to) = (moment(from, now), moment(to, now));
            troubles.push(format!("missed {} between {from} and {to}", count_many(runs, "run")));
        }
        if self.overdue >= OVERDUE && !unwritable {
            let overdue = thousands(self.overdue);
            troubles.push(match daemon {
                true => format!("{overdue} runs were due since, though the daemon is there: see its log"),
                false => format!("{overdue} runs were due since, and no daemon is running"),
            });
        }
        if let Some(last) = last.filter(|last| last.quarantined > 0) {
            let first = self.quarantined_last().map_or_else(String::new, |bad| {
                format!("; the first: {}: {}", cut(&bad.reason, 160), cut(&bad.what, 80))
            });
            troubles.push(format!(
                "{} quarantined in the last run, not billed{first}. Correct its source; `status --all` lists them",
                last.quarantined
            ));
        }
        troubles
    }

    /// The first that the last run quarantined, of those that are kept here.
    fn quarantined_last(&self) -> Option<&QuarantinedReport> {
        let last = self.report.last.as_ref()?;
        self.quarantined.iter().rev().find(|bad| bad.at == last.at)
    }
}
