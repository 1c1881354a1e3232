//! Brings Waldur to agree with the ledger: compares statements with what the server was last known to hold, and
//! closes the difference. Level-triggered: it may be stopped anywhere and started again.
//!
//! One cycle: count what is queued, get to know the server, find resources; then, some statements at a time: read what is
//! there, send whole statements, read them back, send the users' shares. It never measures anything and never changes an
//! amount.

#![deny(clippy::float_arithmetic, clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::config::clock::SharedClock;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::lock::{SubmitLock, this_process};
use crate::ledger::sent::server::Retry;
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
pub mod discover;
mod ended;
pub mod guard;
mod late;
pub mod left;
mod lift;
pub mod next_try;
pub mod notes;
mod part;
pub mod pause;
pub mod progress;
pub mod reason;
pub mod reconcile;
mod rows;
mod send;
mod settle;
mod shadow;
mod shares;
pub mod told;
mod totals;
mod users;
pub mod writer;

use call_time::CallTime;
use guard::ServerTime;
use notes::{Note, Untold};
use progress::Progress;
pub use rows::ROWS_READ;

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

/// What the tasks of one cycle share.
#[derive(Debug)]
struct Cycle {
    submitter: Submitter,
    /// How many requests the server had answered when it began.
    answered_before: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    report: CycleReport,
    /// Totals that changed a bill.
    changes: told::Changes,
    /// Resources in a row whose call had no clear outcome: a server in trouble, not a resource.
    unclear_in_a_row: u32,
    /// Resources in a row of which something could not be read.
    unread_in_a_row: u32,
    forbidden: Vec<(Uuid, Failure)>,
    /// When rows of statements were read in this cycle.
    read: BTreeMap<StatementKey, Timestamp>,
    /// Rows that could not be read: resource, month, component.
    odd: BTreeSet<(Uuid, BillingPeriod, String)>,
    /// Resources that the server keeps in other rows than before.
    moved: BTreeSet<Uuid>,
    /// Resources that were put off in this cycle; and those of them that a call has put off, not a read: what became of it may
    /// not be known.
    put_off_now: BTreeSet<Uuid>,
    put_off_by_a_call: BTreeSet<Uuid>,
    /// How many rows a month of an offering had when it was listed.
    rows_of_offering: BTreeMap<Uuid, usize>,
    /// The token has no role for these offerings.
    no_role: BTreeSet<Uuid>,
    /// Resources that failed for the first time.
    put_off: Vec<Note>,
    /// What is to be told of resources.
    untold: Untold,
    /// Calls that were accepted and are not concluded in the ledger yet: resource and number; and since when the first is
    /// not.
    accepted: Vec<(Uuid, i64)>,
    accepted_since: Option<tokio::time::Instant>,
    /// The latest of them with a `date` of which it is to be learnt whether the server honours it.
    probe: Option<String>,
    /// Statements that may have more to send.
    again: BTreeSet<StatementKey>,
    /// Statements that met one server error too many, and its words.
    broken: Vec<(StatementKey, String)>,
    answered: bool,
    /// Components of calls that were refused for a limit: each goes alone from here on.
    limited: BTreeSet<(Uuid, String)>,
    /// Components whose amount a limit refused after they were lowered for it: what goes back, and the refusal.
    put_back: BTreeMap<(StatementKey, String), (Decimal, String)>,
    /// How long calls take.
    call_time: CallTime,
    /// The same as the ledger knows it.
    kept_call_time: CallTime,
    /// Resources of which totals were accepted since their plans were last looked at.
    reported: BTreeSet<Uuid>,
    /// Statements of months that are over, read back in this cycle.
    read_back: BTreeSet<StatementKey>,
    /// What a person decided and could not be carried out, because users' shares could not be read.
    undone: pause::Undone,
}

/// The server fact that holds the latest accepted report with a `date` of which it is not known whether the server
/// honours it: its resource and the instant in microseconds.
const DATE_PROBE: &str = "date_probe";
/// How long a server is believed not to honour dates: it may be a newer one tomorrow.
const UNDATED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// A cycle sends once more if a plan was switched while it sent, to repair what was filed under the new one.
const ROUNDS: usize = 2;
/// After so many unclear outcomes in a row the server itself is left alone for a while.
const UNCLEAR_IN_A_ROW: u32 = 3;
/// After so many that could not be read it is left alone although it answers otherwise.
const UNREAD_IN_A_ROW: u32 = 10 * UNCLEAR_IN_A_ROW;
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
                ledger.lift_what_passed()?;
                SubmitLock::try_take(ledger.place())
            })
            .await?;
        let Some(_lock) = lock else {
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
            notes::tell(&put_off, tracing::Level::WARN, "status");
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

impl Cycle {
    async fn run(self: Arc<Self>, options: CycleOptions) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        if self.is_shadow() {
            self.mark_months().await?;
        }
        let resting = self.ledger(|ledger| ledger.retry(None)).await?;
        // A token that was replaced is used at once.
        let replaced = |retry: &Retry| retry.cause == "token" && self.submitter.client.token_was_replaced();
        let waits = |retry: &Retry| retry.waits(now, options.ignore_backoff) && !replaced(retry);
        if let Some(retry) = resting.filter(waits) {
            self.state().report.paused_until = Some(retry.next);
            return Ok(());
        }
        if self.is_shadow() {
            return self.only_compare(options).await;
        }
        self.strand_what_is_over().await?;
        let goes_live = self.was_shadow().await?;
        let asking = goes_live || self.has_work(options).await?;
        if !self.check_clock_and_token(asking).await? {
            return Ok(());
        }
        if goes_live {
            self.go_live().await?;
        }
        if !self.discover().await? || !self.lift_what_passed(now).await? {
            return Ok(());
        }
        if !self.has_work(options).await? {
            // Where everything that is pending was put off, nothing shows that the trouble has passed.
            let nothing_waits = self.ledger(move |ledger| Ok(ledger.pending(now)?.is_empty())).await?;
            return if nothing_waits { self.conclude_cycle().await } else { Ok(()) };
        }
        self.ledger(move |ledger| ledger.take_turn(now)).await?;
        crate::fail_point("after discovery");
        for _ in 0..ROUNDS {
            if !self.clone().round(options).await? || !self.plans_were_switched().await? {
                break;
            }
        }
        self.compare_regularly().await?;
        self.close_what_ended().await?;
        if self.stopped() { Ok(()) } else { self.conclude_cycle().await }
    }

    /// Whether there is anything to ask the server for.
    async fn has_work(&self, options: CycleOptions) -> Result<bool, CycleError> {
        Ok(!self.due(options).await?.is_empty()
            || !self.to_close().await?.is_empty()
            || self.something_is_late().await?
            || self.comparing_is_due().await?)
    }

    /// Sends what is due. False: nothing more is to be sent now.
    async fn round(self: Arc<Self>, options: CycleOptions) -> Result<bool, CycleError> {
        let due = self.due(options).await?;
        self.try_more_at_once().await?;
        if !self.look_at_plans(&due, options).await? {
            return Ok(false);
        }
        if due.is_empty() && self.due(options).await?.is_empty() && !self.something_is_late().await? {
            return Ok(false);
        }
        crate::fail_point("after plans are known");
        self.settle_late().await?;
        // A look at the plans, or what was carried, may have made statements anew.
        let mut due = self.due(options).await?;
        if self.settle_ended_parts(&due).await? {
            due = self.due(options).await?;
        }
        let due = self.order(due).await?;
        for some in due.chunks(self.at_once()) {
            if self.stopped() || !self.clone().send_some(some).await? {
                return Ok(false);
            }
        }
        self.backfill_if_learnt(&due).await?;
        Ok(!self.stopped())
    }

    /// Reads, sends and reads back some statements: no more than can be written before what was read is old. False: nothing
    /// else is to be sent now.
    async fn send_some(self: Arc<Self>, some: &[StatementKey]) -> Result<bool, CycleError> {
        self.try_more_at_once().await?;
        let mut some = self.read_before(some).await?;
        if self.stopped() || !self.month_is_right(&some).await? {
            return Ok(false);
        }
        // Where a month's probe met trouble, its outcome is not known: that one waits.
        let put_off = self.state().put_off_by_a_call.clone();
        some.retain(|key| !put_off.contains(&key.resource));
        self.compare_before_completing(&mut some).await?;
        // What goes to nothing takes its users' shares there first.
        self.clone().send_users_to_nothing(&some).await?;
        self.clone().send_totals(some.clone()).await?;
        if self.stopped() {
            return Ok(false);
        }
        self.read_back(&some).await?;
        self.hold_broken().await?;
        self.clone().send_users(some, Shares::AfterTotals).await?;
        self.tell_notes();
        Ok(!self.stopped())
    }

    /// More calls at once are tried only while a month is far from its end: then it is to be reported, not measured.
    async fn try_more_at_once(&self) -> Result<(), CycleError> {
        let (server, zone) = (self.submitter.server_time().await?, self.submitter.zone().await?);
        let left = zone.end(zone.period_of(server.now)).duration_since(server.now);
        self.submitter.client.may_try_more_at_once(left > rows::LAST_HOUR);
        Ok(())
    }

    /// How many statements are read and written together: what can be written in four minutes.
    fn at_once(&self) -> usize {
        let mean = usize::try_from(self.state().call_time.mean).unwrap_or(0).max(1);
        (240_000 / mean).clamp(16, 1000)
    }

    /// Statements to work on now: pending, and not put off by an earlier failure.
    async fn due(&self, options: CycleOptions) -> Result<Vec<StatementKey>, CycleError> {
        let (now, no_role) = (self.submitter.clock.now(), self.state().no_role.clone());
        let waiting = self.waiting(options).await?;
        let keys = self
            .ledger(move |ledger| {
                let mut due = ledger.pending(now)?;
                due.retain(|key| !waiting.contains(&key.resource));
                if !no_role.is_empty() {
                    let mut may_go = Vec::with_capacity(due.len());
                    for key in due {
                        let known = ledger.resource(key.resource)?;
                        if known.is_none_or(|known| !no_role.contains(&known.offering)) {
                            may_go.push(key);
                        }
                    }
                    due = may_go;
                }
                Ok(due)
            })
            .await?;
        Ok(keys)
    }

    /// Resources that an earlier failure has put off.
    async fn waiting(&self, options: CycleOptions) -> Result<BTreeSet<Uuid>, CycleError> {
        let now = self.submitter.clock.now();
        let waits = move |retry: &Retry| retry.waits(now, options.ignore_backoff);
        let mut waiting = self.state().put_off_now.clone();
        let put_off = self.ledger(|ledger| ledger.put_off()).await?;
        waiting.extend(put_off.into_iter().filter(|(_, retry)| waits(retry)).map(|(resource, _)| resource));
        Ok(waiting)
    }

    async fn conclude_cycle(&self) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        let undone = std::mem::take(&mut self.state().undone);
        self.ledger(move |ledger| undone.keep(ledger, now)).await?;
        let forbidden = std::mem::take(&mut self.state().forbidden);
        if let Some((one, failure)) = forbidden.last().cloned()
            && !self.state().answered
        {
            let alone = forbidden.iter().all(|(resource, _)| *resource == one);
            // Refused everywhere: it is the token, not the resources. For one resource, where others were accepted before,
            // the others go on.
            if !(alone && self.ledger(move |ledger| ledger.has_accepted_of_others(one)).await?) {
                return self.pause(failure).await;
            }
            self.note_refused(failure).await?;
        } else if self.state().answered {
            self.ledger(move |ledger| ledger.put_server_fact(pause::REFUSED, "", now)).await?;
        }
        let resting = self.ledger(|ledger| ledger.retry(None)).await?;
        let is_in_doubt = resting.is_some() || !self.state().put_off_now.is_empty();
        // However few resources there are: where it answers nothing at all, it is the server.
        if is_in_doubt
            && !self.was_answered()
            && let Err(failure) = self.submitter.client.me().await
            && !self.was_answered()
        {
            return self.pause(failure).await;
        }
        if resting.is_some() {
            tracing::info!("Waldur answers again.");
            self.ledger(|ledger| ledger.set_retry(None, None)).await?;
        }
        Ok(())
    }

    /// All that was posted was refused. Told once, until something is taken again.
    async fn note_refused(&self, failure: Failure) -> Result<(), CycleError> {
        let (now, words) = (self.submitter.clock.now(), failure.to_string());
        let first = self
            .ledger(move |ledger| {
                let known = ledger.server_fact(pause::REFUSED)?.filter(|(known, _)| !known.is_empty());
                if known.is_none() {
                    ledger.put_server_fact(pause::REFUSED, &words, now)?;
                }
                Ok(known.is_none())
            })
            .await?;
        if first {
            tracing::warn!(
                "Waldur refuses every report: {}. What to do: {}",
                failure.to_string().trim_end_matches('.'),
                pause::Cause::Role.remedy()
            );
        }
        self.state().report.refused = Some(failure);
        Ok(())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether the server has answered anything in this cycle.
    fn was_answered(&self) -> bool {
        self.submitter.client.answered() > self.answered_before
    }

    fn stopped(&self) -> bool {
        self.state().report.paused.is_some()
    }

    async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.submitter.ledger.with(work).await
    }

    /// The month that runs by the server's clock.
    async fn running_month(&self) -> Result<BillingPeriod, LedgerError> {
        let (zone, server) = (self.submitter.zone().await?, self.submitter.server_time().await?);
        Ok(zone.period_of(server.now))
    }

    /// A resource as people know it.
    async fn name_of(&self, resource: Uuid) -> Result<String, LedgerError> {
        let known = self.ledger(move |ledger| ledger.resource(resource)).await?;
        let name = known.map(|known| known.name).filter(|name| !name.is_empty());
        Ok(name.map_or_else(|| resource.to_string(), |name| format!("{name} ({resource})")))
    }

    /// Leaves the server alone for a while: nothing else of this cycle is tried.
    async fn pause(&self, failure: Failure) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        let (chance, failed) = (fastrand::u64(0..1000), failure.clone());
        let until = self
            .ledger(move |ledger| {
                let before = ledger.retry(None)?;
                let cause_before = before.as_ref().map(pause::Cause::of);
                let mut retry = backoff::retry(before, &failed, chance, now);
                retry.words = notes::with_names(ledger, &retry.words)?;
                if ledger.place().file().is_none() {
                    // Of several agents: whose token, network and proxy these words are about.
                    retry.words = format!("{}: {}", this_process(), retry.words);
                }
                let (next, cause) = (retry.next, pause::Cause::of(&retry));
                // One log line a change of state, not one a try (the rest is in the counters).
                if retry.failures == 1 {
                    tracing::warn!(
                        "Reporting is paused until {next:.0}: {}. What to do: {}",
                        retry.words.trim_end_matches('.'),
                        cause.remedy()
                    );
                }
                if cause_before != Some(cause) {
                    ledger.put_server_fact(pause::SINCE, cause.name(), now)?;
                }
                ledger.set_retry(None, Some(retry))?;
                Ok(next)
            })
            .await?;
        let mut state = self.state();
        state.report.paused_until = Some(until);
        state.report.paused.get_or_insert(failure);
        Ok(())
    }

    /// Puts one resource off, and pauses the server if it is not only this resource.
    async fn put_off(&self, resource: Uuid, failure: Failure) -> Result<(), CycleError> {
        let in_a_row = {
            let mut state = self.state();
            state.put_off_by_a_call.insert(resource);
            state.unclear_in_a_row += 1;
            state.unclear_in_a_row
        };
        self.put_off_alone(resource, failure.clone()).await?;
        let asked = failure.retry_after().is_some();
        if asked || in_a_row >= UNCLEAR_IN_A_ROW { self.pause(failure).await } else { Ok(()) }
    }

    /// The same where something of it could not be read. While the server answers otherwise it is the resource's own trouble.
    async fn put_off_unread(&self, resource: Uuid, failure: Failure) -> Result<(), CycleError> {
        let in_a_row = {
            let mut state = self.state();
            state.unread_in_a_row += 1;
            state.unread_in_a_row
        };
        self.put_off_alone(resource, failure.clone()).await?;
        let asked = failure.retry_after().is_some() || failure.concerns_every_call();
        let doubtful = !asked && in_a_row.is_multiple_of(UNCLEAR_IN_A_ROW);
        let stops =
            asked || doubtful && (in_a_row >= UNREAD_IN_A_ROW || self.submitter.client.me().await.is_err());
        if stops { self.pause(failure).await } else { Ok(()) }
    }

    async fn put_off_alone(&self, resource: Uuid, failed: Failure) -> Result<(), CycleError> {
        self.state().put_off_now.insert(resource);
        let now = self.submitter.clock.now();
        let chance = fastrand::u64(0..1000);
        let first = self
            .ledger(move |ledger| {
                let mut retry = backoff::retry(ledger.retry(Some(resource))?, &failed, chance, now);
                retry.words = notes::without_resource(&retry.words, resource);
                let first = (retry.failures == 1).then(|| {
                    format!(
                        "it is not reported for now, it is tried again from {:.0} on: {}",
                        retry.next, retry.words
                    )
                });
                ledger.set_retry(Some(resource), Some(retry))?;
                Ok(first)
            })
            .await?;
        if let Some(words) = first {
            let note = Note::new(About::resource(resource), self.name_of(resource).await?, words);
            self.state().put_off.push(note);
        }
        Ok(())
    }

    /// Something of a single resource was read.
    fn was_read(&self) {
        self.state().unread_in_a_row = 0;
    }

    /// A clear answer: neither the server nor the resource is in trouble.
    fn answered(&self) {
        let mut state = self.state();
        state.unclear_in_a_row = 0;
        state.answered = true;
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

/// Which shares of users are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shares {
    /// Those of components whose total goes to nothing.
    BeforeTotals,
    AfterTotals,
}

/// Works on items of resources in the order given: never on two of one resource at once, and on no more resources at once
/// than calls may be under way.
/// So what is decided before a call (the guard above all) is decided when its turn has come: in a queue behind ten
/// thousand others it would be hours old, and the call would land in the next month.
async fn in_turns<T, W>(
    cycle: Arc<Cycle>,
    what: &'static str,
    due: Vec<(Uuid, T)>,
    work: impl Fn(Arc<Cycle>, T) -> W + Clone + Send + 'static,
) -> Result<(), CycleError>
where
    T: Ord + Send + 'static,
    W: Future<Output = Result<(), CycleError>> + Send,
{
    let stage = cycle.submitter.progress.stage(what, due.len());
    let mut groups: BTreeMap<Uuid, BTreeSet<T>> = BTreeMap::new();
    let mut order = Vec::new();
    for (resource, item) in due {
        let group = groups.entry(resource).or_default();
        if group.is_empty() {
            order.push(resource);
        }
        group.insert(item);
    }
    let mut waiting = order.into_iter().filter_map(|resource| groups.remove(&resource));
    let mut tasks = JoinSet::new();
    let mut first = Ok(());
    loop {
        // As many as may be under way now: that changes with how the server answers.
        while tasks.len() < cycle.submitter.client.calls_at_once() {
            let Some(items) = waiting.next() else { break };
            let (cycle, work, stage) = (cycle.clone(), work.clone(), stage.clone());
            tasks.spawn(async move {
                let mut first = Ok(());
                for item in items {
                    first = first.and(work(cycle.clone(), item).await);
                    stage.step();
                }
                first
            });
        }
        match tasks.join_next().await {
            None => return first,
            Some(Ok(result)) => first = first.and(result),
            Some(Err(error)) => tracing::error!("A submission task ended unexpectedly: {error}"),
        }
    }
}
