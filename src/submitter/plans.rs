//! Looking at resources' plan periods: once a month and plan; again after a report that a switch may have come before, and
//! before one whose date may lie in a plan period that has ended. What is learnt is kept in the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::guard;
use super::rows_of_part::known_plan_period;
use super::{About, Cycle, CycleError, CycleOptions, in_turns};
use crate::ledger::books::catalog::KnownPlanPeriod;
use crate::ledger::sent::amount::StatementKey;
use crate::waldur::failure::Failure;

/// A resource's plan periods; `None` where this token may not see them.
type Plans = Option<Vec<KnownPlanPeriod>>;

/// Whether plan periods are looked at in each cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// In a month's last day: where that fails, what is known serves, because there is no later.
    IfItCanBe,
    /// Before a month that is over is reported: it can wait.
    Must,
}

/// Resources whose plan periods are looked at together.
const PLANS_AT_ONCE: usize = 256;

impl Cycle {
    /// Looks once more at the plans of what was reported just now. A report that followed a switch of plan which nobody had
    /// seen yet is filed under the new plan, with the old one's usage in it: found now, it is repaired at once, even if
    /// nothing of the resource changes any more. True: some were switched.
    pub(super) async fn plans_were_switched(self: &Arc<Self>) -> Result<bool, CycleError> {
        let now = self.submitter.clock.now();
        let reported = std::mem::take(&mut self.state().reported);
        let mut offerings: BTreeMap<Uuid, BTreeSet<Uuid>> = BTreeMap::new();
        let known = self.ledger(move |ledger| {
            reported.into_iter().map(|resource| ledger.resource(resource)).collect::<Result<Vec<_>, _>>()
        });
        for known in known.await?.into_iter().flatten() {
            offerings.entry(known.offering).or_default().insert(known.uuid);
        }
        let mut switched = std::mem::take(&mut self.state().moved);
        for (offering, resources) in offerings {
            let looked = match resources.first() {
                Some(&one) if resources.len() == 1 => self.look_at_resource(one, now).await?,
                _ => self.list_resources(offering, now).await?,
            };
            if let Err(failure) = looked {
                self.pause(failure).await?;
                return Ok(false);
            }
            let others = self.ledger(move |ledger| {
                let mut others = Vec::new();
                for resource in resources {
                    let plan = ledger.resource(resource)?.and_then(|known| known.plan);
                    let plan = plan.map(|plan| plan.to_string()).unwrap_or_default();
                    if ledger.plan_look(resource)?.is_some_and(|(_, looked)| looked != plan) {
                        others.push(resource);
                    }
                }
                Ok(others)
            });
            switched.extend(others.await?);
        }
        Ok(!switched.is_empty() && self.look_at_plans_of(switched, Again::No).await?)
    }

    /// Looks at the plan periods of resources whose were not looked at for this month and plan: of what is due, and of what
    /// turned out to have another plan, or another's id. False: paused.
    pub(super) async fn look_at_plans(
        self: &Arc<Self>,
        due: &[StatementKey],
        options: CycleOptions,
    ) -> Result<bool, CycleError> {
        let month = self.running_month().await?;
        let mut resources: BTreeSet<Uuid> = self
            .ledger(move |ledger| {
                Ok(ledger
                    .provisional_resources()?
                    .into_iter()
                    .chain(ledger.switched_resources(month)?)
                    .collect())
            })
            .await?;
        let waiting = self.waiting(options).await?;
        resources.retain(|resource| !waiting.contains(resource));
        resources.extend(due.iter().filter(|key| key.period == month).map(|key| key.resource));
        self.look_again_at(resources).await
    }

    /// Looks at the plans of these resources; in a month's last day, in each cycle. False: the server is paused.
    pub(super) async fn look_again_at(
        self: &Arc<Self>,
        resources: BTreeSet<Uuid>,
    ) -> Result<bool, CycleError> {
        let (server, zone) = (self.submitter.server_time().await?, self.submitter.zone().await?);
        let again = if guard::dates_stay_behind(&zone, &server) { Again::IfItCanBe } else { Again::No };
        self.look_at_plans_of(resources, again).await
    }

    /// Looks at the plans of these resources, if that was not done in this month; or (`again`) in this cycle, where a report
    /// carries a date that lies before a plan period which nobody has seen. What can't be looked at and has to be is put off.
    /// False: the server is paused.
    pub(super) async fn look_at_plans_of(
        self: &Arc<Self>,
        resources: BTreeSet<Uuid>,
        again: Again,
    ) -> Result<bool, CycleError> {
        let now = self.submitter.clock.now();
        let month = self.running_month().await?.to_string();
        let looked = (again != Again::No).then(|| self.state().looked.clone());
        let of_month = month.clone();
        let unseen: Vec<(Uuid, String, bool)> = self
            .ledger(move |ledger| {
                let mut unseen = Vec::new();
                for resource in resources {
                    let plan = ledger.resource(resource)?.and_then(|known| known.plan);
                    let plan = plan.map(|plan| plan.to_string()).unwrap_or_default();
                    let look = ledger.plan_look(resource)?;
                    let is_current = look.is_some_and(|(month, of)| month == of_month && of == plan);
                    let is_due = looked.as_ref().is_some_and(|looked| !looked.contains(&resource));
                    if is_due || !is_current {
                        unseen.push((resource, plan, is_current && again != Again::Must));
                    }
                }
                Ok(unseen)
            })
            .await?;
        // Some at a time, so that what was learnt is soon kept.
        for some in unseen.chunks(PLANS_AT_ONCE) {
            let plans: Arc<Mutex<Vec<(Uuid, Plans)>>> = Arc::default();
            let found = plans.clone();
            let due = some.iter().map(|(resource, _, serves)| (*resource, (*resource, *serves))).collect();
            let looked =
                in_turns(self.clone(), "Looking at plans", due, move |cycle, (resource, may_serve)| {
                    let found = found.clone();
                    async move {
                        if let Some(plans) = cycle.plans_of(resource, may_serve).await? {
                            found.lock().unwrap_or_else(PoisonError::into_inner).push((resource, plans));
                        }
                        Ok(())
                    }
                })
                .await;
            let found = std::mem::take(&mut *plans.lock().unwrap_or_else(PoisonError::into_inner));
            let (plan_of, month): (BTreeMap<Uuid, String>, _) =
                (some.iter().map(|(resource, plan, _)| (*resource, plan.clone())).collect(), month.clone());
            self.state().looked.extend(found.iter().map(|(resource, _)| *resource));
            self.ledger(move |ledger| {
                ledger.together(|ledger| {
                    for (resource, periods) in found {
                        let plan = plan_of.get(&resource).map(String::as_str).unwrap_or_default();
                        match periods {
                            Some(periods) => {
                                ledger.put_plan_periods(resource, &periods, (&month, plan), now)?
                            }
                            None => ledger.put_unseen_plan_periods(resource, (&month, plan), now)?,
                        }
                    }
                    Ok(())
                })
            })
            .await?;
            looked?;
            if self.stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Asks for a resource's plan periods: `Some(None)` where this token may not see them (then the month is taken to be
    /// whole), `None` if it waits, or if what is known of it goes on serving (`may_serve`).
    async fn plans_of(&self, resource: Uuid, may_serve: bool) -> Result<Option<Plans>, CycleError> {
        if self.stopped() {
            return Ok(None);
        }
        match self.submitter.client.plan_periods(resource).await {
            Ok(periods) => {
                self.was_read();
                Ok(Some(Some(periods.into_iter().filter_map(known_plan_period).collect())))
            }
            Err(Failure::Missing { .. } | Failure::Forbidden { .. } | Failure::Endpoint { .. }) => {
                Ok(Some(None))
            }
            Err(failure) if failure.concerns_every_call() || failure.retry_after().is_some() => {
                self.pause(failure).await?;
                Ok(None)
            }
            // What is known goes on serving.
            Err(failure) if may_serve => {
                let words = format!("its plan periods can't be read, the last known are used: {failure}");
                self.note_of(About::resource(resource), words).await?;
                Ok(None)
            }
            // What it is to be filed under is not known: it waits alone.
            Err(failure) => {
                self.put_off_unread(resource, failure).await?;
                Ok(None)
            }
        }
    }
}
