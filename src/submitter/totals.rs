//! Sending totals: one `set_usage` with all components of a resource.
//!
//! What is about to be sent, with the users' shares that belong to it, is in the ledger before it is sent: of many
//! statements in one transaction, and so are the outcomes. Whether a call may go is decided again directly before it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::guard::{self, SendWindow, ServerTime};
use super::limits::is_limited;
use super::part::Part;
use super::reason::Reason;
use super::{Cycle, CycleError, DATE_PROBE, in_turns};
use crate::ledger::books::catalog::KnownComponent;
use crate::ledger::sent::amount::{Amount, StatementKey};
use crate::ledger::sent::moved::Moved;
use crate::ledger::sent::record::{Intent, Outcome};
use crate::ledger::sent::statement::{Entry, Statement};
use crate::metering::period::BillingPeriod;
use crate::waldur::report::{ComponentAmount, SetUsage};

/// A call that is written down.
#[derive(Debug, Clone)]
pub(super) struct Intended {
    /// Its totals.
    pub(super) statement: Arc<Statement>,
    pub(super) usages: Vec<ComponentAmount>,
    /// Their numbers in the ledger.
    pub(super) ids: Vec<i64>,
}

impl Cycle {
    /// Sends the totals of all these statements, call by call of each, until nothing of them is left to send.
    pub(super) async fn send_totals(self: Arc<Self>, mut due: Vec<StatementKey>) -> Result<(), CycleError> {
        // Each wave leaves at least one component less to send of each statement that goes on, or ends it.
        for _ in 0..64 {
            if due.is_empty() || self.stopped() {
                return Ok(());
            }
            let intended = self.intend_totals(&due).await?;
            crate::fail_point("before set_usage");
            self.state().again.clear();
            let calls: BTreeMap<StatementKey, Intended> =
                intended.into_iter().map(|call| (call.statement.key, call)).collect();
            let keys =
                due.iter().filter(|key| calls.contains_key(key)).map(|key| (key.resource, *key)).collect();
            let calls = Arc::new(calls);
            in_turns(self.clone(), "Reporting totals", keys, move |cycle, key| {
                let call = calls.get(&key).cloned();
                async move {
                    match call {
                        Some(call) => cycle.call(call).await,
                        None => Ok(()),
                    }
                }
            })
            .await?;
            self.conclude_accepted().await?;
            crate::fail_point("after totals are acknowledged");
            due = std::mem::take(&mut self.state().again).into_iter().collect();
            self.read_lowered(&mut due).await?;
        }
        Ok(())
    }

    /// Writes down the next call of each statement that has one, of some in one transaction.
    async fn intend_totals(&self, due: &[StatementKey]) -> Result<Vec<Intended>, CycleError> {
        let mut intended = Vec::with_capacity(due.len());
        for some in due.chunks(INTENDED_TOGETHER) {
            intended.extend(self.intend_some_totals(some).await?);
        }
        Ok(intended)
    }

    async fn intend_some_totals(&self, due: &[StatementKey]) -> Result<Vec<Intended>, CycleError> {
        let mut calls = Vec::new();
        let keys = due.to_vec();
        for mut statement in self.ledger(move |ledger| ledger.statements_of(&keys)).await? {
            if self.stopped() {
                break;
            }
            let key = statement.key;
            if !self.park_unpostable(&statement).await? {
                let Some(again) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
                statement = again;
            }
            self.settle_late_shares(&statement).await?;
            let Some(usages) = self.next_call(&statement).await? else { continue };
            if self.send_window(&statement).await?.is_some() {
                calls.push((statement, usages));
            }
        }
        crate::fail_point("before totals are intended");
        let now = self.submitter.clock.now();
        let intended = self
            .ledger(move |ledger| {
                ledger.together(|ledger| {
                    let mut intended = Vec::with_capacity(calls.len());
                    for (mut statement, usages) in calls {
                        let amounts: Vec<Amount> = usages.iter().map(amount).collect();
                        let planned = shares_of(&statement, &usages);
                        let intent = Intent {
                            key: statement.key,
                            call: "set_usage",
                            amounts: &amounts,
                            planned: &planned,
                            counted: statement.counted,
                        };
                        let ids = ledger.intend(intent, now)?;
                        // The shares, which are many, are looked up again when they are sent.
                        statement.users = BTreeMap::new();
                        intended.push(Intended { statement: Arc::new(statement), usages, ids });
                    }
                    Ok(intended)
                })
            })
            .await?;
        Ok(intended)
    }

    /// Parks numbers that can't be posted. True: there were none.
    pub(super) async fn park_unpostable(&self, statement: &Statement) -> Result<bool, CycleError> {
        let key = statement.key;
        let bad: Vec<(String, String)> = statement
            .components
            .iter()
            .filter(|(_, entry)| entry.block.is_none())
            .filter_map(|(component, entry)| Some((component.clone(), entry.problem.clone()?)))
            .collect();
        for (component, words) in &bad {
            self.block(key, component, Reason::Amount, words.clone(), None).await?;
        }
        Ok(bad.is_empty())
    }

    /// The components of the next call; `None` if nothing is left to send. A component under a limit that older
    /// servers count twice goes alone and only when it changed: repeated, it is refused, and in company it leaves the
    /// call half applied (observed).
    async fn next_call(&self, statement: &Statement) -> Result<Option<Vec<ComponentAmount>>, CycleError> {
        let known = self.components_of(statement.key.resource).await?;
        let learnt = self.state().limited.clone();
        let limited = |component: &String| {
            known.get(component).is_some_and(is_limited)
                || learnt.contains(&(statement.key.resource, component.clone()))
        };
        let to_send = |entry: &&Entry| entry.to_send();
        let alone = statement.components.iter().find(|(c, entry)| limited(c) && to_send(entry));
        let together = statement.components.iter().filter(|(c, entry)| !limited(c) && entry.block.is_none());
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
            if amount.is_zero() && entry.acknowledged.is_none() && !entry.is_unclear() {
                continue;
            }
            if is_usage_billed(known.get(component)) && amount >= TOO_MUCH {
                let words = format!(
                    "the amount {amount} is 1,000,000,000,000 or more, which the server can't bill; is the meter's factor right?"
                );
                self.block(statement.key, component, Reason::Amount, words, Some(amount)).await?;
                continue;
            }
            if let Some((before, words)) = self.put_back(statement.key, component) {
                if entry.held() == before && !entry.is_unclear() {
                    self.block(statement.key, component, Reason::Limit, words, Some(amount)).await?;
                } else {
                    usages.push((component.clone(), before));
                }
                continue;
            }
            let lowered = self.lowers_first(statement.key, component, entry).await?;
            if lowered {
                self.state().lowered.insert(statement.key);
            }
            usages.push((component.clone(), if lowered { Decimal::ZERO } else { amount }));
        }
        if usages.is_empty() { Ok(None) } else { self.with_options(statement.key, usages).await.map(Some) }
    }

    /// Components' amounts with what their meters want sent along.
    pub(super) async fn with_options(
        &self,
        key: StatementKey,
        amounts: Vec<(String, Decimal)>,
    ) -> Result<Vec<ComponentAmount>, CycleError> {
        let usages = self.ledger(move |ledger| {
            let moved = ledger.moved(key.resource, key.period)?;
            let with_options = |(component, amount): (String, Decimal)| {
                let options = ledger.report_options(key.resource, key.period, &component)?;
                Ok(ComponentAmount {
                    amount,
                    description: described(&moved, key.period, &component, options.description),
                    recurring: options.recurring,
                    missing_usage_policy: options.missing_usage_policy,
                    component,
                })
            };
            amounts.into_iter().map(with_options).collect()
        });
        Ok(usages.await?)
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

    /// Whether the statement may be sent now: the plan period to name and the date to send. `None`: it may not, and why is
    /// recorded.
    pub(super) async fn send_window(
        &self,
        statement: &Statement,
    ) -> Result<Option<(Option<Uuid>, Option<Timestamp>)>, CycleError> {
        let key = statement.key;
        let (skew, now) = (self.submitter.client.skew(), self.submitter.clock.now());
        let (zone, server, part) = self
            .ledger(move |ledger| {
                let server = ServerTime::of(ledger, skew, now)?;
                Ok((ledger.in_force().zone.clone(), server, Part::of(ledger, key)?))
            })
            .await?;
        let send_window = guard::send_window(&zone, key.period, key.part, part.end, &server);
        let date = match send_window {
            SendWindow::Open { date } => date,
            SendWindow::NotYet => return Ok(None),
            SendWindow::TooLate => {
                self.note(format!("{}: nothing more of it is sent: {}", key.period, guard::TOO_LATE));
                return Ok(None);
            }
            SendWindow::Ended => {
                self.over(statement, &server).await?;
                return Ok(None);
            }
        };
        if part.has_ended(server.now) && statement.was_reported() {
            // The server would make a second invoice item beside the first (observed).
            self.strand_ended(statement, server.now).await?;
            return Ok(None);
        }
        if !self.has_plan(key, &server).await? {
            return Ok(None);
        }
        let date = match server.dated {
            Some(true) => Some(date),
            Some(false) => None,
            None => guard::probe(&zone, key.period, date),
        };
        Ok(Some((part.plan_period.filter(|_| part.split), date)))
    }

    /// Sends a call that was written down.
    pub(super) async fn call(&self, call: Intended) -> Result<(), CycleError> {
        let (key, now) = (call.statement.key, self.submitter.clock.now());
        let stopped = self.stopped() || !self.ledger(|ledger| ledger.has_turn()).await?;
        let send_window = if stopped { None } else { self.send_window(&call.statement).await? };
        let Some((plan_period, date)) = send_window else {
            let ids = call.ids;
            return Ok(self
                .ledger(move |ledger| {
                    ledger.conclude(&ids, Outcome::Refused, "not sent: its time was over", now)
                })
                .await?);
        };
        let report = SetUsage { resource: key.resource, plan_period, date, usages: call.usages.clone() };
        self.post(call, report).await?;
        Ok(())
    }

    /// Makes the call, and notes what came of it. Returns whether it was accepted.
    pub(super) async fn post(&self, call: Intended, report: SetUsage) -> Result<bool, CycleError> {
        let key = call.statement.key;
        let unknown = self.submitter.server_time().await?.dated.is_none();
        {
            let mut state = self.state();
            state.read_back.remove(&key);
            state.read.remove(&key);
        }
        let outcome = self.timed(key, self.submitter.client.set_usage(&report)).await?;
        crate::fail_point("after set_usage");
        match outcome {
            Ok(()) => {
                self.answered();
                self.note_posted(&call.statement, &report.usages);
                {
                    let mut state = self.state();
                    state.report.sent += report.usages.len();
                    state.reported.insert(key.resource);
                    state.again.insert(key);
                }
                // Only a report that was accepted tells whether its date was honoured.
                if let Some(date) = report.date.filter(|_| unknown) {
                    self.state().probe = Some(format!("{} {}", key.resource, date.as_microsecond()));
                }
                crate::fail_point("before totals are acknowledged");
                self.accepted(key.resource, &call.ids).await?;
                Ok(true)
            }
            Err(failure) => {
                self.after_failure(call, failure).await?;
                Ok(false)
            }
        }
    }

    /// Notes that a call was accepted: with others in one transaction, but no later than a second after.
    pub(super) async fn accepted(&self, resource: Uuid, ids: &[i64]) -> Result<(), CycleError> {
        let since = {
            let mut state = self.state();
            state.accepted.extend(ids.iter().map(|id| (resource, *id)));
            *state.accepted_since.get_or_insert_with(tokio::time::Instant::now)
        };
        if since.elapsed() < CONCLUDED_WITHIN { Ok(()) } else { self.conclude_accepted().await }
    }

    /// Notes all calls that were accepted since this was done last.
    pub(super) async fn conclude_accepted(&self) -> Result<(), CycleError> {
        let (accepted, probe) = {
            let mut state = self.state();
            state.accepted_since = None;
            (std::mem::take(&mut state.accepted), state.probe.take())
        };
        let resources: BTreeSet<Uuid> = accepted.iter().map(|(resource, _)| *resource).collect();
        let ids: Vec<i64> = accepted.into_iter().map(|(_, id)| id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let now = self.submitter.clock.now();
        Ok(self
            .ledger(move |ledger| {
                ledger.together(|ledger| {
                    for (resource, _) in ledger.put_off()? {
                        if resources.contains(&resource) {
                            ledger.set_retry(Some(resource), None)?;
                        }
                    }
                    match probe {
                        Some(probe) => ledger.put_server_fact(DATE_PROBE, &probe, now),
                        None => Ok(()),
                    }
                })?;
                // By itself: of a turn that is over, what is noted stays although it fails.
                ledger.conclude(&ids, Outcome::Accepted, "", now)
            })
            .await?)
    }

    /// Reads back after sending: whether what was accepted is there, and the rows' UUIDs, which users' shares need.
    pub(super) async fn read_back(&self, some: &[StatementKey]) -> Result<(), CycleError> {
        let reported: BTreeSet<Uuid> = self.state().reported.clone();
        let (mut wanted, others): (Vec<StatementKey>, Vec<StatementKey>) =
            some.iter().partition(|key| reported.contains(&key.resource));
        let unclear = self
            .ledger(move |ledger| {
                let mut totals = ledger.totals_of(&others)?;
                totals.retain(|statement| statement.components.values().any(Entry::is_unclear));
                Ok(totals)
            })
            .await?;
        wanted.extend(unclear.iter().map(|statement| statement.key));
        self.read_and_settle(&wanted).await?;
        Ok(())
    }
}

/// Statements whose calls are written down together; more need memory, and no fewer waits for the disk that matter.
const INTENDED_TOGETHER: usize = 64;
/// A longer description is a permanent 500 (observed).
const LONGEST_DESCRIPTION: usize = 2000;

/// A component's description, with what was carried to its month from others (`moved`: of all its resource's month).
fn described(
    moved: &[Moved],
    period: BillingPeriod,
    component: &str,
    description: Option<String>,
) -> Option<String> {
    let mut carried: BTreeMap<BillingPeriod, Decimal> = BTreeMap::new();
    for one in moved.iter().filter(|one| one.to == Some(period)) {
        if one.component == component && one.user.is_empty() && one.from != period {
            *carried.entry(one.from).or_default() += one.amount;
        }
    }
    if carried.is_empty() {
        return description;
    }
    let shown: Vec<String> =
        carried.iter().map(|(from, amount)| format!("{amount:.2} carried forward from {from}")).collect();
    let words = format!("includes {}", shown.join(" and "));
    let whole = match description {
        Some(description) => format!("{description}; {words}"),
        None => words,
    };
    Some(whole.chars().take(LONGEST_DESCRIPTION).collect())
}

/// What was accepted is noted with others, and no later than this after.
const CONCLUDED_WITHIN: Duration = Duration::from_secs(1);
/// Why a part of a month stays as Waldur holds it.
pub(super) const PLAN_ENDED: &str = "its plan period has ended; reporting it again would bill it twice";
/// A component that is billed by use breaks its invoice at this amount (observed).
pub(super) const TOO_MUCH: Decimal = Decimal::from_parts(3_567_587_328, 232, 0, false, 0);

pub(super) fn amount(usage: &ComponentAmount) -> Amount {
    Amount::total(usage.component.clone(), usage.amount)
}

/// The shares that belong to these totals and are not known to be there. None belongs to a total that is lowered for its
/// limit, or put back.
pub(super) fn shares_of(statement: &Statement, usages: &[ComponentAmount]) -> Vec<Amount> {
    let posted = |component: &String| statement.components.get(component).and_then(|entry| entry.posted);
    let sent = |component: &String| {
        usages.iter().any(|usage| usage.component == *component && posted(component) == Some(usage.amount))
    };
    statement
        .users
        .iter()
        .filter(|((component, _), entry)| sent(component) && entry.block.is_none())
        .filter_map(|((component, user), entry)| {
            let amount = entry.posted?;
            let known = entry.acknowledged.as_ref().map(|known| known.amount);
            let there = known == Some(amount) || known.is_none() && amount.is_zero();
            (!there).then(|| Amount { component: component.clone(), user: user.clone(), amount })
        })
        .collect()
}

pub(super) fn is_usage_billed(component: Option<&KnownComponent>) -> bool {
    component.is_none_or(|component| component.billing_type == "usage")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_a_million_millions() {
        assert_eq!(TOO_MUCH, "1000000000000".parse().unwrap());
    }
}
