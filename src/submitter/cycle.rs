//! One cycle: in which order it reads, sends, reads back and closes. What each step does has a file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::call_time::CallTime;
use super::notes::{Note, Refused, Untold};
use super::{CycleError, CycleOptions, CycleReport, Submitter, pause, rows, told};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::server::Retry;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::failure::Failure;

/// What the tasks of one cycle share.
#[derive(Debug)]
pub(super) struct Cycle {
    pub(super) submitter: Submitter,
    /// How many requests the server had answered when it began.
    pub(super) answered_before: u64,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) report: CycleReport,
    /// Totals that changed a bill.
    pub(super) changes: told::Changes,
    /// Resources in a row whose call had no clear outcome: a server in trouble, not a resource.
    pub(super) unclear_in_a_row: u32,
    /// Resources in a row of which something could not be read.
    pub(super) unread_in_a_row: u32,
    pub(super) forbidden: Vec<(Uuid, Failure)>,
    /// When rows of statements were read in this cycle.
    pub(super) read: BTreeMap<StatementKey, Timestamp>,
    /// Rows that could not be read: resource, month, component.
    pub(super) odd: BTreeSet<(Uuid, BillingPeriod, String)>,
    /// Resources that the server keeps in other rows than before, or whose plans turned out to be others when rows were read.
    pub(super) moved: BTreeSet<Uuid>,
    /// Resources whose plan periods were looked at in this cycle.
    pub(super) looked: BTreeSet<Uuid>,
    /// Resources that were put off in this cycle; and those of them that a call has put off, not a read: what became of it may
    /// not be known.
    pub(super) put_off_now: BTreeSet<Uuid>,
    pub(super) put_off_by_a_call: BTreeSet<Uuid>,
    /// How many rows a month of an offering had when it was listed.
    pub(super) rows_of_offering: BTreeMap<Uuid, usize>,
    /// The token has no role for these offerings.
    pub(super) no_role: BTreeSet<Uuid>,
    /// Look-ups that failed in this cycle, in words.
    pub(super) failed_look_ups: BTreeSet<String>,
    /// What had been refused for its number before this cycle: another number is tried, and is no news if it meets the same.
    pub(super) refused_before: Refused,
    /// Resources that failed for the first time.
    pub(super) put_off: Vec<Note>,
    /// What is to be told of resources.
    pub(super) untold: Untold,
    /// Calls that were accepted and are not concluded in the ledger yet: resource and number; and since when the first is
    /// not.
    pub(super) accepted: Vec<(Uuid, i64)>,
    pub(super) accepted_since: Option<tokio::time::Instant>,
    /// The latest of them with a `date` of which it is to be learnt whether the server honours it.
    pub(super) probe: Option<String>,
    /// Statements that may have more to send.
    pub(super) again: BTreeSet<StatementKey>,
    /// Statements that met one server error too many, and its words.
    pub(super) broken: Vec<(StatementKey, String)>,
    pub(super) answered: bool,
    /// Components of calls that were refused for a limit: each goes alone from here on.
    pub(super) limited: BTreeSet<(Uuid, String)>,
    /// Statements of which a component was lowered for its limit in this wave.
    pub(super) lowered: BTreeSet<StatementKey>,
    /// Components whose amount a limit refused after they were lowered for it: what goes back, and the refusal.
    pub(super) put_back: BTreeMap<(StatementKey, String), (Decimal, String)>,
    /// How long calls take.
    pub(super) call_time: CallTime,
    /// The same as the ledger knows it.
    pub(super) kept_call_time: CallTime,
    /// Resources of which totals were accepted since their plans were last looked at.
    pub(super) reported: BTreeSet<Uuid>,
    /// Statements of months that are over, read back in this cycle.
    pub(super) read_back: BTreeSet<StatementKey>,
    /// What a person decided and could not be carried out, because users' shares could not be read.
    pub(super) undone: pause::Undone,
}

/// A cycle sends once more if a plan was switched while it sent, to repair what was filed under the new one.
const ROUNDS: usize = 2;

impl Cycle {
    pub(super) async fn run(self: Arc<Self>, options: CycleOptions) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        if self.is_of_another_server().await? {
            return Ok(());
        }
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
    pub(super) async fn due(&self, options: CycleOptions) -> Result<Vec<StatementKey>, CycleError> {
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
    pub(super) async fn waiting(&self, options: CycleOptions) -> Result<BTreeSet<Uuid>, CycleError> {
        let now = self.submitter.clock.now();
        let waits = move |retry: &Retry| retry.waits(now, options.ignore_backoff);
        let mut waiting = self.state().put_off_now.clone();
        let put_off = self.ledger(|ledger| ledger.put_off()).await?;
        waiting.extend(put_off.into_iter().filter(|(_, retry)| waits(retry)).map(|(resource, _)| resource));
        Ok(waiting)
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether the server has answered anything in this cycle.
    pub(super) fn was_answered(&self) -> bool {
        self.submitter.client.answered() > self.answered_before
    }

    pub(super) fn stopped(&self) -> bool {
        self.state().report.paused.is_some()
    }

    pub(super) async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.submitter.ledger.with(work).await
    }

    /// The month that runs by the server's clock.
    pub(super) async fn running_month(&self) -> Result<BillingPeriod, LedgerError> {
        let (zone, server) = (self.submitter.zone().await?, self.submitter.server_time().await?);
        Ok(zone.period_of(server.now))
    }

    /// A resource as people know it.
    pub(super) async fn name_of(&self, resource: Uuid) -> Result<String, LedgerError> {
        let known = self.ledger(move |ledger| ledger.resource(resource)).await?;
        let name = known.map(|known| known.name).filter(|name| !name.is_empty());
        Ok(name.map_or_else(|| resource.to_string(), |name| format!("{name} ({resource})")))
    }
}

/// Which shares of users are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shares {
    /// Those of components whose total goes to nothing.
    BeforeTotals,
    AfterTotals,
}
