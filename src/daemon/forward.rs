//! Sends on what a host of a shared ledger has recorded: it connects, appends and leaves, so that thousands of hosts need a
//! few connections. What can't be sent now waits in the host's own file; nothing is lost by it, and nothing waits for it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::spawn_blocking;

use super::Part;
use super::stats::LedgerWork;
use super::wait::Woken;
use crate::config::clock::SharedClock;
use crate::config::place::Database;
use crate::ledger::db::clock::CLOCKS_AGREE;
use crate::ledger::queue::outbox::{Identity, Outbox};
use crate::ledger::{LedgerError, SharedLedger};

/// After a failure, and to see whether the shared ledger has lost anything.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);

/// The shortest spread of tries after a failure; it doubles with each one more.
const SOONEST: SignedDuration = SignedDuration::from_secs(1);

/// Where to, and as whom.
#[derive(Debug, Clone)]
pub struct Forwarder {
    pub database: Database,
    pub agent: String,
    /// How long after it ended a run is kept.
    pub keep: SignedDuration,
    /// How long a gap is by this host's own schedules.
    pub planned: SignedDuration,
    pub clock: SharedClock,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    pub runs: usize,
    /// The database's clock less ours.
    pub skew: SignedDuration,
}

impl Forwarder {
    /// Sends all that the shared ledger does not have, in order.
    pub async fn send(&self, queue: &SharedLedger) -> Result<Forwarded, LedgerError> {
        let Forwarder { database, agent, clock, .. } = self.clone();
        let (named, own) = (agent.clone(), agent.clone());
        let (identity, last_look) =
            queue.with(move |queue| Ok((queue.identify(&named)?, queue.last_look()?))).await?;
        let Identity { file, base, was, previous } = identity;
        if let Some(was) = was {
            tracing::warn!(
                "The file in which this host's runs wait was that of the agent {was}. What {was} has sent stays its own; what was \
                 not sent yet and what comes is of the agent {agent}."
            );
        }
        let connect = move || {
            let outbox = Outbox::connect(&database, &agent, &file, || clock.now())?;
            Ok((outbox.last()?, outbox))
        };
        let (last, mut outbox) = blocking(connect).await?;
        let skew = outbox.skew;
        queue.with(move |queue| queue.note_database_clock(skew)).await?;
        let anew = queue.with(move |queue| queue.begin_anew_if_put_back(&own, last)).await?;
        let is_anew = anew.is_some();
        let mut number = match anew {
            None => last.map_or(base, |(number, _)| number),
            Some(anew) => {
                tracing::warn!(
                    "The file in which this host's runs wait was put back to an earlier state; what was recorded since is sent."
                );
                outbox.send_as(anew.file);
                anew.base
            }
        };
        // Where its file was put back just now, it is the only one that knows.
        if !is_anew {
            let planned = self.planned;
            let check = move || outbox.check_name(last_look, previous.as_deref(), planned).map(|()| outbox);
            outbox = blocking(check).await?;
        }
        let mut runs = 0;
        while let Some(parcel) = queue.with(move |queue| queue.parcel_after(number)).await? {
            number = parcel.number();
            let now = self.clock.now();
            outbox = blocking(move || outbox.send(&parcel, now).map(|()| outbox)).await?;
            runs += 1;
        }
        let now = self.clock.now();
        if skew.abs() <= CLOCKS_AGREE {
            let again = queue.with(move |queue| queue.forget_future(number, now)).await?;
            if !again.is_empty() {
                tracing::warn!(
                    "This host's clock was ahead, and agrees with the database's again. Where they have history, these are read \
                     again from the month's start: {}.",
                    again.join(", ")
                );
            }
        }
        // To a clock that is ahead all would be old, and a database that is restored would ask for it in vain.
        let kept_from = match skew.abs() <= CLOCKS_AGREE {
            true => now.saturating_sub(self.keep).unwrap_or(Timestamp::MIN),
            false => Timestamp::MIN,
        };
        queue.with(move |queue| queue.note_sent(number, kept_from)).await?;
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
                () = recorded.notified() => Woken::Due,
            };
            let run_now_asked = match woken {
                Woken::Stopped => return,
                Woken::RunNow => true,
                Woken::Due => false,
            };
            // Each host at another moment, and each time at another.
            let millis = fastrand::u64(..=u64::try_from(spread.as_millis()).unwrap_or(0));
            if !run_now_asked && self.pause(Duration::from_millis(millis)).await == Woken::Stopped {
                return;
            }
            let sent = forwarder.send(&self.ledger).await;
            self.stats.note_ledger(LedgerWork::Forward, sent.as_ref().err());
            match sent {
                Ok(Forwarded { skew, .. }) => {
                    spread = self.agent.settings.queue.jitter;
                    if !told.is_empty() {
                        tracing::info!("What was recorded is sent to the ledger again.");
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
                        tracing::warn!("What was recorded waits on this host, and is sent later: {words}");
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
