//! Sends on what a host of a shared ledger has recorded: it connects, appends and leaves, so that thousands of hosts need a
//! few connections. What can't be sent now waits in the host's own file; nothing is lost by it, and nothing waits for it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::spawn_blocking;

use super::Part;
use super::stats::LedgerWork;
use super::wait::WakeReason;
use crate::collectors::definition::{Definition, longest_gap};
use crate::config::clock::SharedClock;
use crate::config::place::{Database, Place};
use crate::config::settings::Settings;
use crate::ledger::db::clock::CLOCKS_AGREE;
use crate::ledger::queue::outbox::{Claim, Outbox};
use crate::ledger::{Ledger, LedgerError, Rulebook, SharedLedger};

/// After a failure, and to see whether the shared ledger has lost anything.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// The shortest spread of tries after a failure; it doubles with each one more.
const SOONEST: SignedDuration = SignedDuration::from_secs(1);

/// Where to, and as whom.
#[derive(Debug, Clone)]
pub struct Forwarder {
    pub database: Database,
    pub agent: String,
    /// The file in which runs wait.
    file: Place,
    /// How long after it ended a run is kept.
    keep: SignedDuration,
    /// How long a gap is by this host's own schedules.
    planned: SignedDuration,
    clock: SharedClock,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    pub runs: usize,
    /// The database's clock less ours.
    pub skew: SignedDuration,
}

impl Forwarder {
    /// `None`: the ledger is a file, and nothing is sent on.
    pub fn of(
        settings: &Settings,
        agent: &str,
        definitions: &[Definition],
        clock: &SharedClock,
    ) -> Option<Forwarder> {
        let Place::Database(database) = &settings.ledger else { return None };
        Some(Forwarder {
            database: database.clone(),
            agent: agent.to_owned(),
            file: settings.first_place(),
            keep: settings.queue.keep,
            planned: longest_gap(definitions),
            clock: clock.clone(),
        })
    }

    /// Opens the file in which runs wait.
    pub fn open_queue(&self, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let mut queue = Ledger::open_queue(&self.file, rulebook, &self.clock)?;
        let agent = &self.agent;
        if let Some(was) = queue.identify(agent)? {
            tracing::warn!(
                "The file in which this host's runs wait was that of the agent {was}. What it holds stays {was}'s where {was} \
                 has sent from it; what comes is of the agent {agent}."
            );
        }
        Ok(queue)
    }

    /// Sends all that the shared ledger does not have, in order.
    pub async fn send(&self, queue: &SharedLedger) -> Result<Forwarded, LedgerError> {
        let Forwarder { database, agent, clock, planned, .. } = self.clone();
        let own = queue.with(|queue| queue.identities()).await?.pop();
        let file = own.map(|own| own.file).unwrap_or_default();
        let of = file.clone();
        let connect = move || {
            let outbox = Outbox::connect(&database, &agent, || clock.now())?;
            Ok((outbox.last(&of)?, outbox))
        };
        let (last, outbox) = blocking(connect).await?;
        let skew = outbox.skew;
        queue.with(move |queue| queue.note_database_clock(skew)).await?;
        let put_back = queue.with(move |queue| queue.begin_anew_if_put_back(&file, last));
        if put_back.await? {
            tracing::warn!(
                "This host's queue file was put back to an earlier state, or another host sends from a copy of it. \
                 What was recorded since is sent once nothing has come from there for longer than is usual."
            );
        }
        let claim = queue.with(move |queue| {
            Ok(Claim { identities: queue.identities()?, last_look: queue.last_look()?, planned })
        });
        let claim = claim.await?;
        let identities = claim.identities.clone();
        let mut outbox = blocking(move || outbox.check_name(&claim).map(|()| outbox)).await?;
        let mut runs = 0;
        let mut number = 0;
        for identity in identities {
            let file = identity.file.clone();
            let last;
            (last, outbox) = blocking(move || Ok((outbox.last(&file)?, outbox))).await?;
            number = last.map_or(identity.base, |(number, _)| number);
            loop {
                let (of, agent) = (identity.clone(), self.agent.clone());
                let packed_run = queue.with(move |queue| queue.packed_run_after(number, &of, &agent)).await?;
                let Some(packed_run) = packed_run else { break };
                number = packed_run.number();
                let (file, now) = (identity.file.clone(), self.clock.now());
                outbox = blocking(move || outbox.send(&file, &packed_run, now).map(|()| outbox)).await?;
                runs += 1;
            }
            queue.with(move |queue| queue.note_sent(&identity, number)).await?;
        }
        let now = self.clock.now();
        // To a clock that is ahead all would be old, and a database that is restored would ask for it in vain.
        if skew.abs() <= CLOCKS_AGREE {
            let again = queue.with(move |queue| queue.forget_future(number, now)).await?;
            if !again.is_empty() {
                tracing::warn!(
                    "This host's clock was ahead, and agrees with the database's again. Where they have history, these are read \
                     again from the month's start: {}.",
                    again.join(", ")
                );
            }
            let kept_from = now.saturating_sub(self.keep).unwrap_or(Timestamp::MIN);
            queue.with(move |queue| queue.forget_sent(kept_from)).await?;
        }
        blocking(move || {
            drop(outbox);
            Ok(())
        })
        .await?;
        Ok(Forwarded { runs, skew })
    }
}

/// Does something that waits for the network on a thread where that stops nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(LedgerError::interrupted(error.to_string())))
}

impl Part {
    /// Sends on what collectors have recorded, for ever.
    pub(super) async fn forward(mut self, forwarder: Forwarder) {
        let mut told = String::new();
        let mut skewed = false;
        let mut spread = SignedDuration::ZERO;
        loop {
            let (now, recorded) = (self.agent.clock.now(), self.recorded.clone());
            let again = now.saturating_add(AGAIN).unwrap_or(Timestamp::MAX);
            let woken = tokio::select! {
                woken = self.wait_until(again, now) => woken,
                () = recorded.notified() => WakeReason::Due,
            };
            let run_now_asked = match woken {
                WakeReason::Stopped => return,
                WakeReason::RunNow => true,
                WakeReason::Due => false,
            };
            // Each host at another moment, and each time at another.
            let millis = fastrand::u64(..=u64::try_from(spread.as_millis()).unwrap_or(0));
            if !run_now_asked && self.pause(Duration::from_millis(millis)).await == WakeReason::Stopped {
                return;
            }
            let sent = forwarder.send(&self.ledger).await;
            self.stats.note_ledger(LedgerWork::Forward, sent.as_ref().err());
            match sent {
                Ok(Forwarded { skew, .. }) => {
                    spread = self.agent.settings.queue.jitter;
                    if !told.is_empty() {
                        tracing::info!("Sending to the shared ledger goes on.");
                        told.clear();
                    }
                    self.stats.note_skew(skew);
                    if (skew.abs() > CLOCKS_AGREE) != skewed {
                        skewed = !skewed;
                        tell_skew(skew, skewed);
                    }
                }
                Err(error) => {
                    spread = (spread * 2).clamp(SOONEST, AGAIN);
                    let words = error.to_string();
                    if told != words {
                        tracing::warn!(
                            "The shared ledger can't be reached: what is recorded waits on this host, and is sent later: {words}"
                        );
                        told = words;
                    }
                }
            }
        }
    }
}

fn tell_skew(skew: SignedDuration, skewed: bool) {
    match skewed {
        true => tracing::warn!(
            "The database's clock is {} s from this host's: readings may be filed under the wrong time. Set the clock right.",
            skew.as_secs()
        ),
        false => tracing::info!("The clocks of this host and of the database agree again."),
    }
}
