//! What follows from a call that failed, and why something is not sent: recorded, and said once by the name that people
//! know it by. It sends nothing itself.

use rust_decimal::Decimal;
use tracing::Level;

use super::notes::{Note, gist, without_resource};
use super::reason::Reason;
use super::totals::Intended;
use super::{About, Cycle, CycleError, SERVER_ERRORS};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::record::Outcome;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::waldur::failure::Failure;
use crate::waldur::refusal::Refusal;
use crate::waldur::report::ComponentAmount;

impl Cycle {
    pub(super) async fn after_failure(&self, call: Intended, failure: Failure) -> Result<(), CycleError> {
        let (statement, key, now) = (call.statement.as_ref(), call.statement.key, self.submitter.clock.now());
        let report = call.usages.as_slice();
        let (ids, words) = (call.ids.clone(), failure.to_string());
        // Of several totals some may be applied: those stay open until the rows have been read.
        let half = matches!(failure.refusal(), Some(Refusal::LimitExceeded(_))) && report.len() > 1;
        let unknown = failure.may_be_applied() && failure.refusal().is_none();
        let outcome = if half || unknown { Outcome::Unknown } else { Outcome::Refused };
        self.ledger(move |ledger| ledger.conclude(&ids, outcome, &words, now)).await?;
        if unknown {
            let failures = self.ledger(move |ledger| ledger.retry(Some(key.resource))).await?;
            if matches!(failure, Failure::Unknown { status: Some(500), .. })
                && failures.is_some_and(|retry| retry.failures + 1 >= SERVER_ERRORS)
            {
                self.state().broken.push((key, failure.to_string()));
            }
            // It may have gone through all the same: then the server is not in trouble.
            let unread = self.read_and_settle(&[key]).await?;
            let proven = unread.is_empty()
                && self.ledger(move |ledger| ledger.retry(Some(key.resource))).await?.is_none();
            let statement = self.ledger(move |ledger| ledger.totals(key)).await?;
            let unclear =
                statement.is_some_and(|statement| statement.components.values().any(Entry::is_unclear));
            if proven && !unclear {
                self.again(key);
                return Ok(());
            }
            if self.stopped() {
                return Ok(());
            }
            return self.put_off(key.resource, failure).await;
        }
        let Failure::Refused { refusal, .. } = &failure else {
            return match failure {
                Failure::Forbidden { .. } => {
                    self.state().forbidden.push((key.resource, failure.clone()));
                    self.put_off(key.resource, failure).await
                }
                Failure::Missing { .. } => {
                    self.block(key, "", Reason::UnknownResource, failure.to_string(), None).await
                }
                failure => self.pause(failure).await,
            };
        };
        self.answered();
        let words = failure.to_string();
        match refusal {
            Refusal::InvalidComponents(named) => {
                let ours: Vec<_> = report.iter().filter(|usage| named.contains(&usage.component)).collect();
                for usage in &ours {
                    self.block(
                        key,
                        &usage.component,
                        Reason::UnknownComponent,
                        words.clone(),
                        Some(usage.amount),
                    )
                    .await?;
                }
                if ours.is_empty() {
                    return self.block(key, "", Reason::Refused, words, None).await;
                }
                self.again(key);
                Ok(())
            }
            Refusal::Items(items) => {
                let mut parked = false;
                for (index, why) in items {
                    let Some(usage) = report.get(*index) else { continue };
                    let words = format!("{}: {why}", failure.call());
                    self.block(key, &usage.component, Reason::Amount, words, Some(usage.amount)).await?;
                    parked = true;
                }
                if !parked {
                    return self.block(key, "", Reason::Refused, words, None).await;
                }
                self.again(key);
                Ok(())
            }
            Refusal::LimitExceeded(_) => self.over_limit(key, report, words).await,
            Refusal::ResourceState(_) => {
                let state = match self.submitter.client.resource(key.resource).await {
                    Ok(resource) => resource.state,
                    Err(_) => String::new(),
                };
                if state == "Terminated" {
                    self.strand_for(statement, Reason::Terminated, words).await
                } else {
                    let words = if state.is_empty() { words } else { format!("{words} (it is {state})") };
                    self.block(key, "", Reason::ResourceState, words, None).await
                }
            }
            Refusal::UnknownResource(_) => self.block(key, "", Reason::UnknownResource, words, None).await,
            Refusal::NoPlan(_) => self.block(key, "", Reason::NoPlan, words, None).await,
            Refusal::PeriodClosed(_) => self.closed(statement, report, words).await,
            Refusal::FutureDate(_) => {
                // The clocks moved apart since they were compared; the answer's Date has told by how much.
                self.put_off(key.resource, failure.clone()).await
            }
            Refusal::UserLimit(_) | Refusal::Field { .. } | Refusal::Other(_) => {
                self.block(key, "", Reason::Refused, words, None).await
            }
        }
    }

    /// The statement goes on in the next wave.
    fn again(&self, key: StatementKey) {
        self.state().again.insert(key);
    }

    /// A limit was hit. Alone, it is this component's; in company, what stood before the culprit is committed and the rest is
    /// not (observed): the rows are read, and what is not there is sent again, a limited component alone.
    async fn over_limit(
        &self,
        key: StatementKey,
        usages: &[ComponentAmount],
        words: String,
    ) -> Result<(), CycleError> {
        if let [usage] = usages {
            let of_component = usage.component.clone();
            let held = self
                .ledger(move |ledger| ledger.totals(key))
                .await?
                .and_then(|statement| statement.components.get(&of_component).map(Entry::held))
                .unwrap_or_default();
            let amount = usage.amount;
            let lowered = self.lowered_from(key, &usage.component).await?;
            if let Some(before) = lowered.filter(|before| *before != amount) {
                let words = format!(
                    "{amount:.2}: {words}. It was refused after the {before:.2} that Waldur held was lowered to 0.00; the \
                     {before:.2} is put back"
                );
                self.state().put_back.insert((key, usage.component.clone()), (before, words));
                self.again(key);
                return Ok(());
            }
            let words = if held.is_zero() {
                format!("{amount:.2}: {words}")
            } else {
                format!(
                    "{amount:.2}: {words}. The server counts the {held:.2} that it holds already and this amount together; `resolve \
                     RESOURCE overwrite` lowers it to 0.00 first"
                )
            };
            return self.block(key, &usage.component, Reason::Limit, words, Some(usage.amount)).await;
        }
        // Where the token may not see which of them have a limit, any may be the one.
        let all = usages.iter().map(|usage| (key.resource, usage.component.clone()));
        self.state().limited.extend(all);
        if self.read_and_settle(&[key]).await?.is_empty() {
            self.again(key);
        }
        Ok(())
    }

    /// Holds resources that meet server errors again and again, if others got through: then it is not the server.
    pub(super) async fn hold_broken(&self) -> Result<(), CycleError> {
        let (broken, answered) = {
            let mut state = self.state();
            (std::mem::take(&mut state.broken), state.answered)
        };
        for (key, words) in broken.into_iter().filter(|_| answered) {
            let statement = self.ledger(move |ledger| ledger.totals(key)).await?;
            // Read back, it may have gone through all the same.
            if statement.is_some_and(|statement| statement.components.values().any(Entry::to_send)) {
                self.block(key, "", Reason::ServerError, words, None).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn strand_for(
        &self,
        statement: &Statement,
        reason: Reason,
        words: String,
    ) -> Result<(), CycleError> {
        let key = statement.key;
        // What became of a call is found out first: until then it is not known what is left.
        let is_left = |entry: &Entry| entry.to_send() && !entry.is_unclear();
        for (component, entry) in statement.components.iter().filter(|(_, entry)| is_left(entry)) {
            let rest = entry.posted.map(|posted| posted.saturating_sub(entry.held()));
            let left = rest.map(|rest| format!("{rest:.2} is left: ")).unwrap_or_default();
            self.block(key, component, reason, format!("{left}{words}"), rest).await?;
        }
        Ok(())
    }

    /// Records why something is not sent, and says so once.
    pub(super) async fn block(
        &self,
        key: StatementKey,
        component: &str,
        reason: Reason,
        words: String,
        amount: Option<Decimal>,
    ) -> Result<(), CycleError> {
        let what = if component.is_empty() { "all of it" } else { component };
        self.keep_back(key, what, (component, ""), reason, words, amount).await
    }

    /// Records why something of a statement is not sent, of a component or of a user of it.
    pub(super) async fn keep_back(
        &self,
        key: StatementKey,
        what: &str,
        (component, user): (&str, &str),
        reason: Reason,
        words: String,
        amount: Option<Decimal>,
    ) -> Result<(), CycleError> {
        let words = without_resource(&words, key.resource);
        let (component, user) = (component.to_owned(), user.to_owned());
        let (of_component, of_user) = (component.clone(), user.clone());
        let refused = self.state().refused_before.get(&(key, of_component.clone(), of_user.clone())).cloned();
        let before = self.ledger(move |ledger| ledger.blocked_at(key, &of_component, &of_user)).await?;
        let before = before.or(refused);
        let name = self.name_of(key.resource).await?;
        let of = |words: &str| gist(words, &name, Some(key.resource));
        let stands = before.is_some_and(|(block, of_amount)| {
            let is_the_same = match reason.grows() {
                true => of(&block.words) == of(&words),
                false => of_amount == amount && (amount.is_some() || of(&block.words) == of(&words)),
            };
            block.reason == reason.name() && is_the_same
        });
        // What stands as it was told before is in `status`.
        if !stands {
            let told = format!("{}: {}", reason.state().name(), words.trim_end_matches('.'));
            let mut note = Note::new(About::of(key, Some(&component)), name, told);
            (note.what, note.remedy) = (Some(what.to_owned()), reason.remedy());
            if reason == Reason::ClosingRest {
                // So much every closing leaves.
                note.level = Level::INFO;
            }
            if reason.is_of_another_writer() {
                // Each has numbers and a hand of its own.
                note.cause = format!("{component} {}", reason.name());
            }
            self.add_note(note);
        }
        let block = reason.block(words, self.submitter.clock.now());
        Ok(self.ledger(move |ledger| ledger.set_block(key, &component, &user, block, amount)).await?)
    }
}
