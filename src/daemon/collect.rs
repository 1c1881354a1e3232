//! One collector's task: it looks on its schedule, at moments that matter, and again soon after a failure. It knows nothing of
//! what other collectors do.

use jiff::Timestamp;
use tokio::time::Instant;

use super::due::{Next, next_look, next_run};
use super::missed::MissedRuns;
use super::stats::LedgerWork;
use super::told::Told;
use super::wait::WakeReason;
use super::{Part, retry, sample};
use crate::collectors::definition::{Definition, secret_env};
use crate::config::schedule::Schedule;
use crate::ledger::books::ingest::Recorded;
use crate::submitter::closing::Closing;

impl Part {
    /// Runs one collector on its schedule, for ever.
    pub(super) async fn collect(mut self, index: usize) {
        let definitions = self.agent.definitions.clone();
        let definition = &definitions[index];
        // The first look is at once: what began while the agent was away is seen as early as can be.
        let mut next = Next { at: self.agent.clock.now(), closes: false };
        let mut planned = next.at;
        let mut told = Told::default();
        let mut missing = MissedRuns::Away;
        loop {
            self.due.send_modify(|due| due[index] = next.at);
            let matters = match self.wait_until(next.at, planned).await {
                WakeReason::Stopped => return,
                WakeReason::Due => next.closes,
                WakeReason::RunNow => true,
            };
            missing = self.note_missed(definition, missing).await;
            let looked = self.agent.clock.now();
            self.sample(definition, &mut told).await;
            if matters {
                self.sampled.notify_one();
            }
            next = self.next_look(definition, looked).await;
            planned = looked;
        }
    }

    /// When a schedule is next due.
    pub(super) async fn next(&self, schedule: &Schedule) -> Next {
        let now = self.agent.clock.now();
        next_run(schedule, &self.closing(now).await, &self.agent.rulebook.zone, now)
    }

    /// When a collector that began its last look at `looked` is next due: by its schedule, or as it failed.
    async fn next_look(&self, definition: &Definition, looked: Timestamp) -> Next {
        let pace = self.pace(definition).await;
        let again = retry::retry_of(&definition.name, &definition.schedule, &pace);
        let by_rule = || definition.schedule.next_after(self.agent.clock.now()).unwrap_or(Timestamp::MAX);
        let planned = again.unwrap_or_else(by_rule);
        next_look(planned, &self.closing(looked).await, &self.agent.rulebook.zone, looked)
    }

    async fn closing(&self, now: Timestamp) -> Closing {
        let closing = self.ledger.with(move |ledger| Closing::of(ledger, now)).await;
        // Where the ledger can't tell, nothing is known that would make it take longer.
        closing.unwrap_or_else(|_| Closing::usual(&self.agent.rulebook.zone, now))
    }

    async fn sample(&self, definition: &Definition, told: &mut Told) {
        let zone = &self.agent.rulebook.zone;
        let since = definition.since.unwrap_or_else(|| zone.start(zone.period_of(self.agent.clock.now())));
        let withhold = secret_env(self.agent.settings.token_env(), &self.agent.definitions);
        let name = &definition.name;
        let began = Instant::now();
        let ended = sample::sample(definition, &self.ledger, &self.agent.clock, since, withhold).await;
        self.recorded.notify_one();
        self.stats.note_runs(name, |runs| {
            runs.runs += 1;
            runs.last = began.elapsed();
            runs.unrecorded = ended.is_err();
            runs.failures += u64::from(ended.as_ref().map_or(true, Recorded::is_failure));
            if let Ok(recorded) = &ended {
                runs.readings += recorded.new as u64;
                runs.quarantined += (recorded.quarantined.len() + recorded.refused) as u64;
            }
        });
        self.stats.note_ledger(LedgerWork::Record, ended.as_ref().err());
        let problem = match &ended {
            Ok(recorded) => {
                if recorded.corrected > 0 {
                    tracing::info!(
                        collector = %name,
                        "Collector {name}: its source has corrected readings: {}.",
                        recorded.corrected
                    );
                }
                let partly = (!recorded.problems.is_empty()).then(|| {
                    let problems = recorded.problems.join("; ");
                    format!("could not read all: {problems}. What it read counts; of the rest the last known amounts stand")
                });
                let failed = recorded.failed.as_ref();
                failed.map(|why| format!("fails, its last known amounts stand: {why}")).or(partly)
            }
            Err(error) => Some(format!("could not be recorded, its last known amounts stand: {error}")),
        };
        told.note(name, problem.as_deref(), ended.as_ref().ok());
    }
}
