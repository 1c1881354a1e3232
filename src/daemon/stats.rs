//! What the tasks tell of themselves: for health, metrics, the watchdog and the file that `status` reads. It decides nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::ledger::{LedgerError, SharedLedger};

/// What can't be done without the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LedgerWork {
    /// A collector's run is recorded.
    Record,
    /// A cycle is carried out.
    Submit,
    /// What was recorded on this host is sent on.
    Forward,
}

/// What one collector did since the start.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) runs: u64,
    pub(super) failures: u64,
    /// Runs that were due and did not take place.
    pub(super) missed: u64,
    pub(super) readings: u64,
    pub(super) quarantined: u64,
    pub(super) last: Duration,
    /// Whether the ledger could not be written when the last one ended.
    pub(super) unrecorded: bool,
}

/// What the tasks tell of themselves; the watchdog is fed by it, not by a timer.
#[derive(Debug, Default)]
pub(super) struct Stats {
    /// Passes of the tasks' loops.
    pub(super) ticks: AtomicU64,
    pub(super) cycles: AtomicU64,
    pub(super) sent: AtomicU64,
    /// By collector.
    pub(super) runs: Mutex<BTreeMap<String, Runs>>,
    /// Seconds since 1970.
    pub(super) started: AtomicU64,
    pub(super) reloaded: AtomicU64,
    /// When a new configuration was last refused, and why, if the last one was.
    pub(super) reload_refused: Mutex<Option<(Timestamp, String)>>,
    /// What the ledger said when this was last tried, where it could not be done.
    pub(super) ledger_errors: Mutex<BTreeMap<LedgerWork, LedgerError>>,
    /// Those may have changed.
    pub(super) ledger_noted: Notify,
    /// The shared ledger, while this agent counts and submits for it.
    pub(super) books: Mutex<Option<SharedLedger>>,
    /// The database's clock less ours, in milliseconds.
    pub(super) skew: AtomicI64,
}

impl Stats {
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this process began after that instant.
    pub(super) fn started_after(&self, at: Timestamp) -> bool {
        i64::try_from(self.started.load(Ordering::Relaxed)).is_ok_and(|started| started > at.as_second())
    }

    pub(super) fn note_runs(&self, collector: &str, note: impl FnOnce(&mut Runs)) {
        // A count that another thread left half done is still a count.
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        note(runs.entry(collector.to_owned()).or_default());
    }

    pub(super) fn runs_of(&self, collector: &str) -> Runs {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(collector).cloned().unwrap_or_default()
    }

    pub(super) fn note_ledger(&self, work: LedgerWork, error: Option<&LedgerError>) {
        let mut errors = self.ledger_errors.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => drop(errors.insert(work, error.clone())),
            None => drop(errors.remove(&work)),
        }
        drop(errors);
        self.ledger_noted.notify_one();
    }

    /// What keeps the ledger from being written, if anything does.
    pub(super) fn ledger_error(&self) -> Option<LedgerError> {
        let errors = self.ledger_errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.values().next().cloned()
    }

    pub(super) fn set_books(&self, books: Option<SharedLedger>) {
        *self.books.lock().unwrap_or_else(PoisonError::into_inner) = books;
    }

    pub(super) fn books(&self) -> Option<SharedLedger> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note_skew(&self, skew: SignedDuration) {
        self.skew.store(i64::try_from(skew.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    pub(super) fn note_reload(&self, now: Timestamp, refused: Option<String>) {
        self.reloaded.store(u64::try_from(now.as_second()).unwrap_or(0), Ordering::Relaxed);
        *self.reload_refused.lock().unwrap_or_else(PoisonError::into_inner) =
            refused.map(|words| (now, words));
    }

    pub(super) fn reload_refused(&self) -> Option<(Timestamp, String)> {
        self.reload_refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
