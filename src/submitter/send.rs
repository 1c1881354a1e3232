//! Sending totals: one `set_usage` with all components of a resource, and what follows from each answer.
//!
//! What is about to be sent is in the ledger before it is sent. A call whose outcome is not clear leaves it there, and
//! nothing is sent again for that resource until the rows have been read.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use uuid::Uuid;

use super::guard::{self, Passage};
use super::late::PLAN_ENDED;
use super::trouble::Reason;
use super::{Cycle, CycleError, DATE_PROBE, SERVER_ERRORS, Sent, in_turns};
use crate::ledger::catalog::KnownComponent;
use crate::ledger::outbox::{Amount, Call, Entry, Statement, StatementKey};
use crate::waldur::failure::Failure;
use crate::waldur::refusal::Refusal;
use crate::waldur::report::{ComponentAmount, SetUsage};

impl Cycle {
    /// Sends the totals of all these statements.
    pub(super) async fn send_all(self: Arc<Self>, due: Vec<StatementKey>) -> Result<(), CycleError> {
        let due = self.order(due).await?;
        in_turns(self, due, |cycle, key| async move { cycle.send_totals(key).await }).await
    }

    pub(super) async fn send_totals(&self, key: StatementKey) -> Result<(), CycleError> {
        // Each round leaves at least one component less to send, or ends.
        for _ in 0..64 {
            if self.stopped() {
                return Ok(());
            }
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else {
                return Ok(());
            };
            if !self.park_unpostable(&statement).await? {
                continue;
            }
            if statement.components.values().any(|entry| entry.intended.is_some()) {
                return Ok(()); // Not until it has been read.
            }
            let Some(usages) = self.next_call(&statement).await? else {
                return Ok(self.ledger(move |ledger| ledger.settle(key)).await?);
            };
            let Some(report) = self.address(&statement, usages).await? else { return Ok(()) };
            if !self.call(&statement, report).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Parks numbers that can't be posted. True: there were none.
    pub(super) async fn park_unpostable(&self, statement: &Statement) -> Result<bool, CycleError> {
        let (key, now) = (statement.key, self.of.clock.now());
        let bad: Vec<(String, String)> = statement
            .components
            .iter()
            .filter(|(_, entry)| entry.trouble.is_none())
            .filter_map(|(component, entry)| Some((component.clone(), entry.problem.clone()?)))
            .collect();
        for (component, words) in &bad {
            self.note(format!(
                "resource {}, {component}, {}: {words}; it is not sent",
                key.resource, key.period
            ));
            let (component, trouble) = (component.clone(), Reason::Amount.trouble(words, now));
            self.ledger(move |ledger| ledger.set_trouble(key, &component, "", trouble, None)).await?;
        }
        Ok(bad.is_empty())
    }

    /// The components of the next call; `None` if nothing is left to send. A component under a limit that older
    /// servers count twice goes alone and only when it changed: repeated, it is refused, and in company it leaves the
    /// call half applied (observed).
    async fn next_call(&self, statement: &Statement) -> Result<Option<Vec<ComponentAmount>>, CycleError> {
        let known = self.components_of(statement.key.resource).await?;
        let limited = |component: &String| known.get(component).is_some_and(is_limited);
        let to_send = |entry: &&Entry| entry.to_send();
        let alone = statement.components.iter().find(|(c, entry)| limited(c) && to_send(entry));
        let together =
            statement.components.iter().filter(|(c, entry)| !limited(c) && entry.trouble.is_none());
        let chosen: Vec<(&String, &Entry)> = match alone {
            Some(one) => vec![one],
            None if statement.components.iter().any(|(c, entry)| !limited(c) && to_send(&entry)) => {
                together.collect()
            }
            None => return Ok(None),
        };
        let mut usages = Vec::new();
        for (component, entry) in chosen {
            let Some(amount) = entry.posted else { continue };
            // Never posted and still zero: the row need not be made.
            if amount.is_zero() && entry.acknowledged.is_none() {
                continue;
            }
            if is_usage_billed(known.get(component)) && amount >= Decimal::from(1_000_000_000_000_i64) {
                let words = format!(
                    "the amount {amount} is 1,000,000,000,000 or more, which the server can't bill; is the meter's factor right?"
                );
                self.trouble(statement.key, component, Reason::Amount, words, Some(amount)).await?;
                continue;
            }
            usages.push(self.with_options(statement.key, component, amount).await?);
        }
        Ok((!usages.is_empty()).then_some(usages))
    }

    /// The component's amount with what its meter wants sent along.
    pub(super) async fn with_options(
        &self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
    ) -> Result<ComponentAmount, CycleError> {
        let resource = key.resource;
        let offering =
            self.ledger(move |ledger| ledger.resource(resource)).await?.map(|known| known.offering);
        let meters = self.of.rulebook.rules.iter().filter(|rules| {
            rules.fixed_resource() == Some(resource)
                || rules.offering().is_some() && rules.offering() == offering
                || rules.fixed_resource().is_none() && rules.offering().is_none()
        });
        let meters: Vec<_> = meters
            .flat_map(|rules| rules.meters.iter())
            .filter(|meter| meter.component == component)
            .collect();
        Ok(ComponentAmount {
            component: component.to_owned(),
            amount,
            description: self
                .described(key, component, meters.iter().find_map(|meter| meter.description.clone()))
                .await?,
            recurring: meters.iter().find_map(|meter| meter.recurring),
            missing_usage_policy: meters.iter().find_map(|meter| meter.missing_usage_policy.clone()),
        })
    }

    pub(super) async fn components_of(
        &self,
        resource: Uuid,
    ) -> Result<BTreeMap<String, KnownComponent>, CycleError> {
        let known = self
            .ledger(move |ledger| match ledger.resource(resource)? {
                Some(known) => ledger.components(known.offering),
                None => Ok(Vec::new()),
            })
            .await?;
        Ok(known.into_iter().map(|component| (component.component.clone(), component)).collect())
    }

    /// Makes the call's address: the resource, the plan period where the month is split, and the fence. `None`: it may
    /// not be sent now, and why is recorded.
    async fn address(
        &self,
        statement: &Statement,
        usages: Vec<ComponentAmount>,
    ) -> Result<Option<SetUsage>, CycleError> {
        let key = statement.key;
        let server = self.of.server_time().await?;
        let part = self.part_of(key).await?;
        let passage = guard::passage(&self.of.rulebook.zone, key.period, key.part, part.end, &server);
        let date = match passage {
            Passage::Open { date } => date,
            Passage::NotYet | Passage::TooLate => return Ok(None),
            Passage::Ended => {
                self.over(statement, &server).await?;
                return Ok(None);
            }
        };
        let ended = part.end.is_some_and(|end| end <= server.now);
        if ended && part.split && statement.components.values().any(|entry| entry.acknowledged.is_some()) {
            // The server would make a second invoice item beside the first (observed).
            self.strand_for(statement, Reason::PlanEnded, PLAN_ENDED.to_owned()).await?;
            return Ok(None);
        }
        let date = match server.dated {
            Some(true) => Some(date),
            Some(false) => None,
            None => {
                // A probe: if the row comes back with exactly this instant, the server honours dates.
                let whole = date.as_microsecond() - date.as_microsecond().rem_euclid(1_000_000);
                let probe = whole + fastrand::i64(1..1_000_000);
                jiff::Timestamp::from_microsecond(probe).ok()
            }
        };
        let plan_period = part.plan_period.filter(|_| part.split);
        Ok(Some(SetUsage { resource: key.resource, plan_period, date, usages }))
    }

    /// Sends the call. True: there may be more to send for this statement now.
    pub(super) async fn call(&self, statement: &Statement, report: SetUsage) -> Result<bool, CycleError> {
        let (key, now) = (statement.key, self.of.clock.now());
        let unknown = self.of.server_time().await?.dated.is_none();
        let amounts: Vec<Amount> = report
            .usages
            .iter()
            .map(|usage| Amount {
                component: usage.component.clone(),
                user: String::new(),
                amount: usage.amount,
            })
            .collect();
        let intents = amounts.clone();
        self.state().read_back.remove(&key);
        crate::fail_point("before totals are intended");
        self.ledger(move |ledger| ledger.intend(key, intents, now)).await?;
        crate::fail_point("before set_usage");
        let outcome = self.timed(key, self.of.client.set_usage(&report)).await?;
        crate::fail_point("after set_usage");
        self.note_call(key, "set_usage", &amounts, &outcome).await?;
        crate::fail_point("before totals are acknowledged");
        match outcome {
            Ok(()) => {
                self.answered();
                self.say_sent(key, &amounts);
                // Only a report that was accepted tells whether its date was honoured.
                let probe = report.date.map(|date| format!("{} {}", key.resource, date.as_microsecond()));
                self.state().reported.insert(key.resource);
                self.ledger(move |ledger| {
                    ledger.set_retry(Some(key.resource), None)?;
                    if let Some(probe) = probe.filter(|_| unknown) {
                        ledger.put_server_fact(DATE_PROBE, &probe, now)?;
                    }
                    ledger.acknowledge(key, amounts, "accepted", now)
                })
                .await?;
                crate::fail_point("after totals are acknowledged");
                Ok(true)
            }
            Err(failure) => self.after_failure(statement, &report, amounts, failure).await,
        }
    }

    async fn after_failure(
        &self,
        statement: &Statement,
        report: &SetUsage,
        amounts: Vec<Amount>,
        failure: Failure,
    ) -> Result<bool, CycleError> {
        let key = statement.key;
        if failure.may_be_applied() && failure.refusal().is_none() {
            // The intents stay: they are read back before anything else is sent for this resource.
            let failures = self.ledger(move |ledger| ledger.retry(Some(key.resource))).await?;
            if matches!(failure, Failure::Unknown { status: Some(500), .. })
                && failures.is_some_and(|retry| retry.failures + 1 >= SERVER_ERRORS)
            {
                self.state().broken.push((key, failure.to_string()));
            }
            self.put_off(key.resource, failure).await?;
            return Ok(false);
        }
        // Of several totals some may be applied: those stay in doubt until the rows have been read.
        let half = matches!(failure.refusal(), Some(Refusal::LimitExceeded(_))) && report.usages.len() > 1;
        if !half {
            self.ledger(move |ledger| ledger.take_back(key, amounts)).await?;
        }
        let Failure::Refused { refusal, .. } = &failure else {
            return match failure {
                Failure::Forbidden { .. } => {
                    self.state().forbidden.push((key.resource, failure.clone()));
                    self.put_off(key.resource, failure).await?;
                    Ok(false)
                }
                Failure::Missing { .. } => {
                    self.trouble(key, "", Reason::UnknownResource, failure.to_string(), None).await?;
                    Ok(false)
                }
                failure => {
                    self.pause(failure).await?;
                    Ok(false)
                }
            };
        };
        self.answered();
        let words = failure.to_string();
        match refusal {
            Refusal::InvalidComponents(named) => {
                let ours: Vec<_> =
                    report.usages.iter().filter(|usage| named.contains(&usage.component)).collect();
                for usage in &ours {
                    self.trouble(
                        key,
                        &usage.component,
                        Reason::UnknownComponent,
                        words.clone(),
                        Some(usage.amount),
                    )
                    .await?;
                }
                if ours.is_empty() {
                    self.trouble(key, "", Reason::Refused, words, None).await?;
                }
                Ok(!ours.is_empty())
            }
            Refusal::Items(items) => {
                let mut parked = false;
                for (index, why) in items {
                    let Some(usage) = report.usages.get(*index) else { continue };
                    let words = format!("{}: {why}", failure.call());
                    self.trouble(key, &usage.component, Reason::Amount, words, Some(usage.amount)).await?;
                    parked = true;
                }
                if !parked {
                    self.trouble(key, "", Reason::Refused, words, None).await?;
                }
                Ok(parked)
            }
            Refusal::LimitExceeded(_) => self.over_limit(statement, report, words).await,
            Refusal::ResourceState(_) => {
                let state = match self.of.client.resource(key.resource).await {
                    Ok(resource) => resource.state,
                    Err(_) => String::new(),
                };
                if state == "Terminated" {
                    self.strand_for(statement, Reason::Terminated, words).await?;
                } else {
                    self.trouble(key, "", Reason::ResourceState, words, None).await?;
                }
                Ok(false)
            }
            Refusal::UnknownResource(_) => {
                self.trouble(key, "", Reason::UnknownResource, words, None).await?;
                Ok(false)
            }
            Refusal::NoPlan(_) => {
                self.trouble(key, "", Reason::NoPlan, words, None).await?;
                Ok(false)
            }
            Refusal::PeriodClosed(_) => {
                self.closed(statement, report, words).await?;
                Ok(false)
            }
            Refusal::FutureDate(_) => {
                // The clocks moved apart since they were compared; the answer's Date has told by how much.
                self.put_off(key.resource, failure.clone()).await?;
                Ok(false)
            }
            Refusal::UserLimit(_) | Refusal::Field { .. } | Refusal::Other(_) => {
                self.trouble(key, "", Reason::Refused, words, None).await?;
                Ok(false)
            }
        }
    }

    /// A limit was hit. Alone, it is this component's; in company, what stood before the culprit is committed and the
    /// rest is not (observed). So it is read back, and what is not there is sent alone: a limited one that is there
    /// already would be refused the second time.
    async fn over_limit(
        &self,
        statement: &Statement,
        report: &SetUsage,
        words: String,
    ) -> Result<bool, CycleError> {
        let key = statement.key;
        if let [usage] = report.usages.as_slice() {
            self.trouble(key, &usage.component, Reason::Limit, words, Some(usage.amount)).await?;
            return Ok(true);
        }
        if !self.read_and_settle(&[key]).await?.is_empty() {
            return Ok(false);
        }
        let Some(now) = self.ledger(move |ledger| ledger.statement(key)).await? else { return Ok(false) };
        let left =
            |usage: &&ComponentAmount| now.components.get(&usage.component).is_some_and(Entry::to_send);
        for usage in report.usages.iter().filter(left) {
            // Each at its own time: the month may have come to its end meanwhile.
            let Some(alone) = self.address(statement, vec![usage.clone()]).await? else { return Ok(false) };
            if !Box::pin(self.call(statement, alone)).await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Holds resources that meet server errors again and again, if others got through: then it is not the server.
    pub(super) async fn hold_broken(&self) -> Result<(), CycleError> {
        let (broken, answered) = {
            let mut state = self.state();
            (std::mem::take(&mut state.broken), state.answered)
        };
        for (key, words) in broken.into_iter().filter(|_| answered) {
            let statement = self.ledger(move |ledger| ledger.statement(key)).await?;
            // Read back, it may have gone through all the same.
            if statement.is_some_and(|statement| statement.components.values().any(Entry::to_send)) {
                self.trouble(key, "", Reason::ServerError, words, None).await?;
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
        for (component, entry) in statement.components.iter().filter(|(_, entry)| entry.to_send()) {
            self.trouble(key, component, reason, words.clone(), entry.posted).await?;
        }
        Ok(())
    }

    /// Records why something is not sent, and says so once.
    pub(super) async fn trouble(
        &self,
        key: StatementKey,
        component: &str,
        reason: Reason,
        words: String,
        amount: Option<Decimal>,
    ) -> Result<(), CycleError> {
        let what = if component.is_empty() { "all of it".to_owned() } else { component.to_owned() };
        self.keep_back(key, what, (component, ""), reason, words, amount).await
    }

    /// Records why something of a statement is not sent, of a component or of a user of it, and says so by the name
    /// that people know it by.
    pub(super) async fn keep_back(
        &self,
        key: StatementKey,
        what: String,
        (component, user): (&str, &str),
        reason: Reason,
        words: String,
        amount: Option<Decimal>,
    ) -> Result<(), CycleError> {
        self.note(format!(
            "resource {}, {what}, {}: {}: {words}. What to do: {}",
            key.resource,
            key.period,
            reason.state().name(),
            reason.remedy()
        ));
        let (component, user) = (component.to_owned(), user.to_owned());
        let trouble = reason.trouble(words, self.of.clock.now());
        Ok(self.ledger(move |ledger| ledger.set_trouble(key, &component, &user, trouble, amount)).await?)
    }

    pub(super) fn say_sent(&self, key: StatementKey, amounts: &[Amount]) {
        let mut state = self.state();
        for amount in amounts {
            state.report.sent.push(Sent {
                resource: key.resource,
                period: key.period,
                component: amount.component.clone(),
                user: amount.user.clone(),
                amount: amount.amount,
            });
        }
    }

    /// Keeps the call for `explain`.
    pub(super) async fn note_call(
        &self,
        key: StatementKey,
        call: &str,
        amounts: &[Amount],
        outcome: &Result<(), Failure>,
    ) -> Result<(), CycleError> {
        let shown = amounts.iter().map(|amount| match amount.user.as_str() {
            "" => format!("{} {:.2}", amount.component, amount.amount),
            user => format!("{} of {user} {:.2}", amount.component, amount.amount),
        });
        let call = Call {
            at: self.of.clock.now(),
            resource: key.resource,
            period: key.period,
            call: call.to_owned(),
            amounts: shown.collect::<Vec<_>>().join(", "),
            outcome: outcome.as_ref().map_or_else(|failure| failure.name(), |()| "accepted").to_owned(),
            words: outcome.as_ref().map_or_else(|failure| failure.words(), |()| String::new()),
        };
        Ok(self.ledger(move |ledger| ledger.note_call(call)).await?)
    }
}

pub(super) fn is_usage_billed(component: Option<&KnownComponent>) -> bool {
    component.is_none_or(|component| component.billing_type == "usage")
}

fn is_limited(component: &KnownComponent) -> bool {
    let amount = component.limit_amount.as_deref().and_then(|text| text.parse::<Decimal>().ok());
    component.billing_type == "usage"
        && component.limit_period.is_some()
        && amount.is_some_and(|amount| !amount.is_zero())
}
