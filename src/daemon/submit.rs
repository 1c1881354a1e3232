//! The submitter's task: a cycle on its schedule, at a month's end, and when a failure's rest is over; and once a day what the
//! ledger no longer needs is put away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use super::Part;
use super::due::Next;
use super::registration;
use super::stats::LedgerWork;
use super::told::Unmatched;
use super::wait::WakeReason;
use crate::ledger::LedgerErrorKind;
use crate::submitter::progress::Progress;
use crate::submitter::told::{AsBefore, tell_changes, tell_events};
use crate::submitter::{CycleError, CycleOptions, Submitter};
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::wire::numbers::count;

/// Submitting waits so long for what is due to be collected at the same instant.
const FOR_COLLECTORS: Duration = Duration::from_secs(10);
/// A token that was refused is looked at again so often, whether there is another by now.
const NEW_TOKEN_EVERY: Duration = Duration::from_secs(2);
/// What hosts no longer say is looked for so often.
const MOVED_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// What is to be done again is not done again at once.
const SOON: SignedDuration = SignedDuration::from_secs(1);

/// Waits until there is another token than the one that was refused.
async fn new_token(client: &Client) {
    while !client.token_was_replaced() {
        tokio::time::sleep(NEW_TOKEN_EVERY).await;
    }
}

impl Part {
    /// Submits on its schedule, for ever.
    pub(super) async fn submit(mut self) {
        let Some(client) = self.agent.client.clone() else { return };
        let submitter = Submitter {
            client,
            ledger: self.ledger.clone(),
            clock: self.agent.clock.clone(),
            on_conflict: self.agent.settings.on_conflict,
            late: self.agent.settings.late,
            report: self.agent.settings.report,
            progress: Progress::default(),
        };
        let agent = self.agent.clone();
        let mut planned = agent.clock.now();
        let mut next = self.next(&agent.settings.submit).await;
        let mut compacted = Timestamp::MIN;
        let mut looked = Timestamp::MIN;
        let mut waiting = false;
        let mut of_another_server = false;
        // What the ledger said when the last cycle could not go on.
        let mut failing: Option<String> = None;
        let mut waited = Timestamp::MIN;
        let mut token_is_refused = false;
        let mut unmatched = Unmatched::default();
        // After a reload it was told. A ledger that can't be read is told of by the cycle.
        if self.stats.cycles.load(Ordering::Relaxed) == 0 {
            drop(self.ledger.with(|ledger| AsBefore::of(ledger)?.tell(ledger)).await);
        }
        // An agent that takes over tries for itself what was in vain for the one before.
        let mut takes_over = agent.settings.ledger.file().is_none()
            && matches!(self.ledger.with(|ledger| ledger.retry(None)).await, Ok(Some(_)));
        if takes_over {
            next = Next { at: planned, closes: false };
        }
        // Ends with this task.
        let mut registration = JoinSet::new();
        loop {
            let sampled = self.sampled.clone();
            let (woken, closes) = tokio::select! {
                woken = self.wait_until(next.at, planned) => (woken, next.closes),
                () = sampled.notified() => (WakeReason::Due, true),
                () = new_token(&submitter.client), if token_is_refused => (WakeReason::Due, false),
            };
            // What closes a month is tried even if the server was left alone: later there is no time any more.
            let ignore_backoff = match woken {
                WakeReason::Stopped => return,
                WakeReason::Due => closes || std::mem::take(&mut takes_over),
                WakeReason::RunNow => true,
            };
            if woken == WakeReason::Due {
                // Of all runs that are due by now: not only of those of its own instant, where the clock has jumped.
                self.wait_for_collectors(agent.clock.now()).await;
            }
            self.wait_for_hosts(&mut waited).await;
            let mut in_doubt = false;
            let ended = submitter.cycle(CycleOptions { ignore_backoff }).await;
            self.stats
                .note_ledger(LedgerWork::Submit, ended.as_ref().err().map(|CycleError::Ledger(error)| error));
            self.count_put_aside().await;
            match ended {
                Ok(report) => {
                    // One line a change of state.
                    match (report.busy, waiting) {
                        (true, false) => tracing::warn!(
                            "Nothing is submitted: {} is submitting for this ledger.",
                            report.busy_with
                        ),
                        (false, true) => tracing::info!("Submitting again."),
                        _ => {}
                    }
                    waiting = report.busy;
                    match (&report.other_server, of_another_server) {
                        (Some(other), false) => tracing::error!("{}.", other.words_and_remedy()),
                        (None, true) if !waiting => {
                            tracing::info!("Submitting again: the server is the ledger's.")
                        }
                        _ => {}
                    }
                    of_another_server = report.other_server.is_some() || of_another_server && waiting;
                    token_is_refused = matches!(report.paused, Some(Failure::Token { .. }))
                        || token_is_refused && report.paused_until.is_some();
                    // One token is served one call at a time: what is to be reported goes first.
                    if !waiting && !of_another_server && registration.is_empty() {
                        registration.spawn(registration::register(agent.clone()));
                    }
                    if failing.take().is_some() {
                        tracing::info!("Submission works again.");
                    }
                    self.stats.cycles.fetch_add(1, Ordering::Relaxed);
                    self.stats.sent.fetch_add(report.sent as u64, Ordering::Relaxed);
                    self.tell_unmatched(&mut unmatched).await;
                    tell_changes(&self.ledger, report.changes).await;
                    if report.sent > 0 {
                        tracing::info!(
                            "Reported {} in {}.",
                            count(report.sent, "amount"),
                            count(usize::try_from(report.requests).unwrap_or(usize::MAX), "request")
                        );
                    }
                }
                Err(error) => {
                    let CycleError::Ledger(cause) = &error;
                    in_doubt = cause.kind == LedgerErrorKind::Superseded;
                    let words = error.to_string();
                    if failing.as_ref() != Some(&words) {
                        tracing::error!("Submission failed: {words}");
                    }
                    failing = Some(words);
                }
            }
            self.look_for_moved(&mut looked).await;
            self.compact(&mut compacted).await;
            planned = agent.clock.now();
            next = self.next(&agent.settings.submit).await;
            let soon = self.agent.clock.now().saturating_add(SOON).unwrap_or(next.at);
            // What an earlier failure put off, or what is in doubt, is not left until the next round of the schedule.
            let retry = self.ledger.with(|ledger| ledger.next_retry()).await.ok().flatten();
            // Of two hosts one goes on within seconds where the other ends.
            let follows = waiting && agent.settings.ledger.file().is_none();
            let again = retry.map(|retry| retry.max(soon)).or((in_doubt || follows).then_some(soon));
            if let Some(again) = again.filter(|again| *again < next.at) {
                next = Next { at: again, closes: false };
            }
        }
    }

    /// Tells of backend ids that Waldur does not know when they appear.
    async fn tell_unmatched(&self, told: &mut Unmatched) {
        // A ledger that can't be read has been told of.
        if let Ok(unassigned) = self.ledger.with(|ledger| ledger.unassigned()).await {
            told.note(unassigned);
        }
    }

    /// What a cycle found to be recorded by a clock that was ahead is quarantined, too.
    async fn count_put_aside(&self) {
        let taken = self.ledger.with(|ledger| Ok(ledger.take_put_aside())).await.unwrap_or_default();
        for (collector, readings) in taken {
            self.stats.note_runs(&collector, |runs| runs.quarantined += readings as u64);
        }
    }

    /// Waits until what is due to be collected by now has been: else an amount would be reported twice within seconds.
    async fn wait_for_collectors(&self, now: Timestamp) {
        let mut due = self.due.subscribe();
        let collected = due.wait_for(|due| due.iter().all(|at| *at > now));
        // A collector that takes longer is not waited for.
        let _ = tokio::time::timeout(FOR_COLLECTORS, collected).await;
    }

    /// Once an hour, looks for what counts for two hosts since it has moved from one to the other.
    async fn look_for_moved(&self, last: &mut Timestamp) {
        let now = self.agent.clock.now();
        if now.duration_since(*last).abs() < MOVED_EVERY {
            return;
        }
        *last = now;
        let looked = self.ledger.with(move |ledger| {
            ledger.log_lingering(now)?;
            ledger.log_unknown(now)?;
            tell_events(ledger)
        });
        if let Err(error) = looked.await {
            tracing::warn!("What hosts no longer say is not looked for: {error}");
        }
    }

    /// Once a day, puts away the readings of a long past month.
    async fn compact(&self, last: &mut Timestamp) {
        let (now, keep) = (self.agent.clock.now(), self.agent.settings.retention);
        if now.duration_since(*last).abs() < SignedDuration::from_hours(24) {
            return;
        }
        *last = now;
        let compacted = self.ledger.with(move |ledger| {
            ledger.sweep_inbox()?;
            ledger.log_duplicate_series(now)?;
            ledger.compact(now, keep)
        });
        match compacted.await {
            Ok(done) if done.readings > 0 => {
                tracing::info!(
                    "Compacted: {} old readings of {} series are deleted; the amounts that they made are kept.",
                    done.readings,
                    done.series
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("Old readings are not compacted: {error}"),
        }
    }
}
