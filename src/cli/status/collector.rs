//! How a collector keeps its schedule, as far as the ledger tells: when it is tried again, and which runs were missed.

use jiff::Timestamp;

use crate::cli::exit::Failed;
use crate::cli::setup::Setup;
use crate::collectors::definition::Definition;
use crate::daemon::retry;
use crate::ledger::Ledger;
use crate::ledger::views::report::CollectorReport;

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
    /// How many runs were due since the last one.
    pub(super) overdue: usize,
}

impl Collector {
    pub(super) fn of(ledger: &Ledger, setup: &Setup, definition: &Definition) -> Result<Collector, Failed> {
        let (name, schedule) = (&definition.name, &definition.schedule);
        let now = setup.clock.now();
        let (report, pace) = (ledger.collector_report(name)?, ledger.pace(name, now)?);
        let long = definition.rules.default_max_gap.unwrap_or(schedule.usual_distance());
        let gaps = ledger.long_distances(name, setup.period_start(), long)?;
        let missed = gaps.into_iter().map(|(from, to)| (retry::missed(schedule, from, to), from, to));
        let again = retry::retry_of(name, schedule, &pace);
        let overdue =
            pace.last.filter(|_| again.is_none()).map_or(0, |(at, _)| retry::missed(schedule, at, now));
        let missed = missed.filter(|(runs, _, _)| *runs > 0).max_by_key(|(_, from, _)| *from);
        Ok(Collector { report, schedule: schedule.text().to_owned(), retry: again, missed, overdue })
    }
}
