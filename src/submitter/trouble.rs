//! What fails: when a resource is put off, when the server itself is left alone, and when either is over.

use uuid::Uuid;

use super::notes::{self, Note};
use super::{About, Cycle, CycleError, backoff, pause};
use crate::ledger::sent::lock::this_process;
use crate::ledger::{Ledger, LedgerError};
use crate::waldur::failure::Failure;

/// After so many unclear outcomes in a row the server itself is left alone for a while.
const UNCLEAR_IN_A_ROW: u32 = 3;

/// After so many that could not be read it is left alone although it answers otherwise.
const UNREAD_IN_A_ROW: u32 = 10 * UNCLEAR_IN_A_ROW;

/// The server fact that has the look-ups that failed, in the words that they were told in, a line each.
const FAILED_LOOK_UPS: &str = "failed_look_ups";

fn concerns_all(failure: &Failure) -> bool {
    failure.concerns_every_call() || failure.retry_after().is_some()
}

/// `GET users of offering 91ab...`, of what was said of it.
fn call_of(words: &str) -> &str {
    words.split_once(": ").map_or(words, |(call, _)| call)
}

fn failed_look_ups(ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let fact = ledger.server_fact(FAILED_LOOK_UPS)?;
    Ok(fact.iter().flat_map(|(words, _)| words.lines()).map(ToOwned::to_owned).collect())
}

impl Cycle {
    pub(super) async fn conclude_cycle(&self) -> Result<(), CycleError> {
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
    pub(super) async fn note_refused(&self, failure: Failure) -> Result<(), CycleError> {
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

    /// Whether a look-up that failed leaves the rest to go on: it does, unless every other call would fail like it. It is asked
    /// again in the next cycle, and told once.
    pub(super) async fn look_up_goes_on(&self, failure: Failure) -> Result<bool, CycleError> {
        if concerns_all(&failure) {
            self.pause(failure).await?;
            return Ok(false);
        }
        self.tell_failed_look_up(failure.to_string()).await?;
        Ok(true)
    }

    /// The same of one that is made seldom, and told each time.
    pub(super) async fn goes_on(&self, failure: Failure) -> Result<bool, CycleError> {
        if concerns_all(&failure) {
            self.pause(failure).await?;
            return Ok(false);
        }
        tracing::warn!("A look-up failed, the last known answer is used: {failure}");
        Ok(true)
    }

    /// A look-up that failed leaves what was known before: told once, however many cycles it fails in, and again when it fails for
    /// another reason.
    async fn tell_failed_look_up(&self, words: String) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        let words = words.replace('\n', " ");
        self.state().failed_look_ups.insert(words.clone());
        let told = words.clone();
        let is_new = self
            .ledger(move |ledger| {
                let mut known = failed_look_ups(ledger)?;
                let is_new = !known.contains(&words);
                if is_new {
                    known.push(words);
                    ledger.put_server_fact(FAILED_LOOK_UPS, &known.join("\n"), now)?;
                }
                Ok(is_new)
            })
            .await?;
        if is_new {
            tracing::warn!("A look-up failed, the last known answer is used: {told}");
        }
        Ok(())
    }

    /// Tells of those that fail no more: each was asked again, or is not needed any more.
    pub(super) async fn tell_look_ups_that_are_well(&self) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        let failed = std::mem::take(&mut self.state().failed_look_ups);
        let well = self
            .ledger(move |ledger| {
                let known = failed_look_ups(ledger)?;
                let (fails, mut well): (Vec<String>, Vec<String>) =
                    known.into_iter().partition(|words| failed.contains(words));
                let is_gone = !well.is_empty();
                // One that fails for another reason is not well.
                well.retain(|words| !fails.iter().any(|other| call_of(other) == call_of(words)));
                if is_gone {
                    ledger.put_server_fact(FAILED_LOOK_UPS, &fails.join("\n"), now)?;
                }
                Ok(well)
            })
            .await?;
        for words in well {
            tracing::info!("A look-up that had failed fails no more: {words}");
        }
        Ok(())
    }

    /// Leaves the server alone for a while: nothing else of this cycle is tried.
    pub(super) async fn pause(&self, failure: Failure) -> Result<(), CycleError> {
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
    pub(super) async fn put_off(&self, resource: Uuid, failure: Failure) -> Result<(), CycleError> {
        let in_a_row = {
            let mut state = self.state();
            state.put_off_by_a_call.insert(resource);
            state.unclear_in_a_row += 1;
            state.unclear_in_a_row
        };
        self.put_off_alone(resource, failure.clone(), false).await?;
        let asked = failure.retry_after().is_some();
        if asked || in_a_row >= UNCLEAR_IN_A_ROW { self.pause(failure).await } else { Ok(()) }
    }

    /// The same where something of it could not be read. While the server answers otherwise it is the resource's own trouble.
    pub(super) async fn put_off_unread(&self, resource: Uuid, failure: Failure) -> Result<(), CycleError> {
        let in_a_row = {
            let mut state = self.state();
            state.unread_in_a_row += 1;
            state.unread_in_a_row
        };
        self.put_off_alone(resource, failure.clone(), true).await?;
        let asked = failure.retry_after().is_some() || failure.concerns_every_call();
        let doubtful = !asked && in_a_row.is_multiple_of(UNCLEAR_IN_A_ROW);
        let stops =
            asked || doubtful && (in_a_row >= UNREAD_IN_A_ROW || self.submitter.client.me().await.is_err());
        if stops { self.pause(failure).await } else { Ok(()) }
    }

    async fn put_off_alone(&self, resource: Uuid, failed: Failure, unread: bool) -> Result<(), CycleError> {
        self.state().put_off_now.insert(resource);
        let now = self.submitter.clock.now();
        let chance = fastrand::u64(0..1000);
        let first = self
            .ledger(move |ledger| {
                let mut retry = backoff::retry(ledger.retry(Some(resource))?, &failed, chance, now);
                retry.words = notes::without_resource(&retry.words, resource);
                retry.unread = unread;
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
    pub(super) fn was_read(&self) {
        self.state().unread_in_a_row = 0;
    }

    /// A clear answer: neither the server nor the resource is in trouble.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        state.unclear_in_a_row = 0;
        state.answered = true;
    }
}
