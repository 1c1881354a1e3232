//! Brings Waldur to agree with the ledger: compares statements with what the server was last known to hold, and
//! closes the difference. Level-triggered: it may be stopped anywhere and started again.
//!
//! One cycle: count what is queued, get to know the server, find resources; then, some statements at a time: read what is
//! there, send whole statements, read them back, send the users' shares. It never measures anything and never changes an
//! amount.

#![deny(clippy::float_arithmetic, clippy::float_cmp)]

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::config::clock::SharedClock;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::lock::SubmitLock;
use crate::ledger::{Ledger, LedgerError, SharedLedger};
use crate::metering::period::{BillingPeriod, BillingZone};
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;

pub mod adopt;
mod backoff;
mod call_time;
mod canary;
pub mod closing;
pub mod compare;
mod cycle;
pub mod discover;
mod ended;
pub mod guard;
mod late;
pub mod left;
mod lift;
mod limits;
mod listing;
pub mod next_try;
pub mod notes;
pub mod other_server;
mod part;
pub mod pause;
mod plans;
pub mod progress;
pub mod reason;
pub mod reconcile;
mod rows;
mod rows_of_part;
mod send;
mod settle;
mod shadow;
mod shares;
mod strays;
pub mod told;
mod totals;
mod trouble;
mod turns;
mod users;
pub mod writer;

use call_time::CallTime;
use cycle::{Cycle, Shares};
use guard::ServerTime;
use other_server::OtherServer;
use progress::Progress;
pub use rows::ROWS_READ;
use turns::in_turns;

pub use crate::config::settings::{Late, OnConflict, Report};

/// Brings one server to agree with one ledger.
#[derive(Debug, Clone)]
pub struct Submitter {
    pub client: Arc<Client>,
    pub ledger: SharedLedger,
    pub clock: SharedClock,
    pub on_conflict: OnConflict,
    pub late: Late,
    pub report: Report,
    pub progress: Progress,
}

/// How a cycle is to be run.
#[derive(Debug, Clone, Copy, Default)]
pub struct CycleOptions {
    /// Try now what an earlier failure put off.
    pub ignore_backoff: bool,
}

/// What a cycle did.
#[derive(Debug, Default)]
pub struct CycleReport {
    /// How many numbers were accepted; which, the ledger tells.
    pub sent: usize,
    /// The totals among them that changed a bill.
    pub changes: told::Changes,
    /// Requests of this cycle, of all kinds.
    pub requests: u64,
    /// The ledger reports to another server than the one that is configured: nothing was asked or sent.
    pub other_server: Option<OtherServer>,
    /// Why the server is left alone for now, if it is.
    pub paused: Option<Failure>,
    /// Until when.
    pub paused_until: Option<Timestamp>,
    /// Another process is submitting for this ledger.
    pub busy: bool,
    /// Which, for people.
    pub busy_with: String,
    /// What the operator should know: a name that matches nothing, a lost role, a conflict.
    pub notes: Vec<String>,
    /// The token has no role for an offering that is to be reported.
    pub no_role: bool,
    /// All that was posted was refused, for want of a role.
    pub refused: Option<Failure>,
    /// In shadow: how many resources were compared, and of how many something differs.
    pub compared: Option<(usize, usize)>,
}

/// A cycle could not go on because of our own side.
#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The server fact that holds the latest accepted report with a `date` of which it is not known whether the server
/// honours it: its resource and the instant in microseconds.
const DATE_PROBE: &str = "date_probe";
/// How long a server is believed not to honour dates: it may be a newer one tomorrow.
const UNDATED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// A resource that alone meets server errors is held after so many.
const SERVER_ERRORS: i64 = 6;
/// So near to the server's clock, and so lately compared with it, ours is taken to be right.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_mins(2);
/// How old what is known of the server's clock and of the token may be before a cheap call renews it.
const CHECKED_FOR: SignedDuration = SignedDuration::from_hours(4);

/// So often a cycle counts some of what is queued before it begins.
const COUNTED_BEFORE: usize = 100;

impl Submitter {
    /// Runs one cycle, unless another process is at it.
    pub async fn cycle(&self, options: CycleOptions) -> Result<CycleReport, CycleError> {
        let now = self.clock.now();
        // Not for ever: where hosts send faster than can be counted, what is counted is reported.
        for _ in 0..COUNTED_BEFORE {
            if !self.ledger.with(Ledger::count_some).await? {
                break;
            }
        }
        let lock = self
            .ledger
            .with(move |ledger| {
                ledger.state(now)?;
                let refused = notes::refused_for_amounts(ledger)?;
                ledger.lift_what_passed()?;
                Ok(SubmitLock::try_take(ledger.place())?.map(|lock| (lock, refused)))
            })
            .await?;
        let Some((_lock, refused)) = lock else {
            let busy_with = self.ledger.with(|ledger| Ok(SubmitLock::holder(ledger.place()))).await?;
            return Ok(CycleReport { busy: true, busy_with, ..CycleReport::default() });
        };
        let before = self.client.requests();
        let answered_before = self.client.answered();
        let cycle = Arc::new(Cycle { submitter: self.clone(), answered_before, state: Mutex::default() });
        let call_time = self.ledger.with(|ledger| CallTime::of(ledger)).await?;
        {
            let mut state = cycle.state();
            (state.call_time, state.kept_call_time) = (call_time, call_time);
            state.refused_before = refused;
        }
        let ended = self.carry_out(&cycle, options, before).await;
        if ended.is_err() {
            // What was posted before is on the bill all the same.
            let changes = std::mem::take(&mut cycle.state().changes);
            told::tell_changes(&self.ledger, changes).await;
        }
        ended
    }

    /// Runs a cycle, and tells what came of it.
    async fn carry_out(
        &self,
        cycle: &Arc<Cycle>,
        options: CycleOptions,
        before: u64,
    ) -> Result<CycleReport, CycleError> {
        let ran = cycle.clone().run(options).await;
        cycle.tell_notes();
        ran?;
        let (mut report, put_off) = {
            let mut state = cycle.state();
            state.report.no_role = !state.no_role.is_empty();
            (std::mem::take(&mut state.report), std::mem::take(&mut state.put_off))
        };
        // One log line a change of state, here too; where the server itself is left alone, that has been said.
        let is_told = report.paused.is_some() || report.refused.is_some();
        if !is_told {
            notes::tell(&put_off, "status");
        }
        report.requests = self.client.requests() - before;
        self.remember_clock().await?;
        if cycle.was_answered() && report.paused.is_none() {
            let now = self.clock.now();
            self.ledger.with(move |ledger| ledger.put_server_fact(pause::ANSWERED, "", now)).await?;
        }
        self.ledger.with(told::tell_events).await?;
        self.ledger.with(|ledger| ledger.release_memory()).await?;
        report.changes = std::mem::take(&mut cycle.state().changes);
        Ok(report)
    }

    /// The months that are billed, as they were recorded.
    pub(crate) async fn zone(&self) -> Result<BillingZone, LedgerError> {
        self.ledger.with(|ledger| Ok(ledger.in_force().zone.clone())).await
    }

    /// The server's clock, from the newest answer or from what an earlier run learnt.
    pub(crate) async fn server_time(&self) -> Result<ServerTime, LedgerError> {
        let (skew, now) = (self.client.skew(), self.clock.now());
        self.ledger.with(move |ledger| ServerTime::of(ledger, skew, now)).await
    }

    async fn remember_clock(&self) -> Result<(), LedgerError> {
        let Some(skew) = self.client.skew() else { return Ok(()) };
        let now = self.clock.now();
        let micros = i64::try_from(skew.as_micros()).unwrap_or(i64::MAX);
        let clock = self.clock.clone();
        let before = self
            .ledger
            .with(move |ledger| {
                // By the same clock: it may have been set since the last time.
                ledger.measure_database_clock(&clock)?;
                let before = ledger.server_fact("skew_us")?;
                ledger.put_server_fact("skew_us", &micros.to_string(), now)?;
                Ok(before.and_then(|(text, _)| text.parse::<i64>().ok()).unwrap_or(0))
            })
            .await?;
        match (
            before.saturating_abs() > pause::SKEW_LOGGED_US,
            micros.saturating_abs() > pause::SKEW_LOGGED_US,
        ) {
            (false, true) => {
                let way = if micros > 0 { "ahead of" } else { "behind" };
                let apart = SignedDuration::from_secs(micros.saturating_abs() / 1_000_000);
                tracing::warn!(
                    "Waldur's clock is {apart:#} {way} ours: synchronise them; at a month's end seconds decide."
                );
            }
            (true, false) => tracing::info!("Waldur's clock agrees with ours again."),
            _ => {}
        }
        let agree = self.client.measured_skew().is_some_and(|skew| {
            skew.offset.abs() < CLOCKS_AGREE && now.duration_since(skew.measured).abs() < CLOCKS_AGREE
        });
        if agree {
            // Two clocks vouch for the time, just now: what was recorded for a later one was recorded by a wrong clock.
            let taken = self.ledger.with(move |ledger| ledger.quarantine_future(now)).await?;
            if taken > 0 {
                tracing::warn!(
                    "{taken} readings are quarantined and not billed: they were recorded while the clock was ahead. Sources \
                     with history are read again, counters catch up, gauges have a gap (`status --all`)"
                );
            }
        }
        Ok(())
    }
}

impl ServerTime {
    /// `skew`: the server's clock minus ours, if this process has measured it.
    fn of(ledger: &Ledger, skew: Option<SignedDuration>, now: Timestamp) -> Result<ServerTime, LedgerError> {
        let known = || {
            let fact = ledger.server_fact("skew_us")?;
            Ok(fact.and_then(|(text, _)| text.parse().ok()).map(SignedDuration::from_micros))
        };
        let skew = skew.map_or_else(known, |skew| Ok(Some(skew)))?.unwrap_or_default();
        let dated = ledger.server_fact("dated")?;
        let call = CallTime::of(ledger)?;
        Ok(ServerTime {
            now: now.saturating_add(skew).unwrap_or(now),
            dated: dated
                .filter(|(value, at)| value == "yes" || now.duration_since(*at).abs() < UNDATED_FOR)
                .map(|(value, _)| value == "yes"),
            guard: call_time::guard_time(call),
            dated_guard: call_time::dated_guard(call),
        })
    }
}

/// What a note is about.
#[derive(Debug, Clone, Copy, Default)]
struct About<'a> {
    resource: Option<Uuid>,
    component: Option<&'a str>,
    period: Option<BillingPeriod>,
}

impl<'a> About<'a> {
    fn resource(resource: Uuid) -> About<'a> {
        About { resource: Some(resource), ..About::default() }
    }

    fn of(key: StatementKey, component: Option<&'a str>) -> About<'a> {
        let component = component.filter(|component| !component.is_empty());
        About { resource: Some(key.resource), component, period: Some(key.period) }
    }
}
