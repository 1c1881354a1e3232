//! What was kept back because of its resource (its state, or no plan) is tried again by itself when the resource takes reports
//! again. It asks how the resource is, and sends nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::discover::{RESOURCES_FOR, age};
use super::reason::Reason;
use super::{Cycle, CycleError};
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::targets::takes_reports;
use crate::ledger::db::event::EventKind;
use crate::metering::period::BillingPeriod;
use crate::waldur::failure::Failure;

/// A terminated resource is looked at by itself so seldom, because hardly one lives again; a listing shows it anyway.
const TERMINATED_FOR: SignedDuration = SignedDuration::from_hours(6);

impl Cycle {
    /// Looks again at resources that are held for their state or for want of a plan, or were terminated; what has become
    /// reportable is tried again. False: the server is paused.
    pub(super) async fn lift_what_passed(&self, now: Timestamp) -> Result<bool, CycleError> {
        for reason in [Reason::ResourceState, Reason::NoPlan, Reason::Terminated] {
            let blocks = self.ledger(|ledger| ledger.blocks()).await?;
            let mut held: BTreeMap<Uuid, (Timestamp, BTreeSet<BillingPeriod>)> = BTreeMap::new();
            for at in blocks.into_iter().filter(|at| at.block.reason == reason.name()) {
                let of_resource = held.entry(at.resource).or_default();
                of_resource.0 = of_resource.0.max(at.block.since);
                of_resource.1.insert(at.period);
            }
            for (resource, (since, periods)) in held {
                if let Err(failure) = self.look_if_old(resource, reason, now).await? {
                    if !self.goes_on(failure).await? {
                        return Ok(false);
                    }
                    continue;
                }
                // What was seen before it was refused says nothing of what is now.
                let seen = self.ledger(move |ledger| ledger.resource_seen(resource)).await?;
                if reason != Reason::NoPlan && seen.is_none_or(|at| at <= since) {
                    continue;
                }
                let known = self.ledger(move |ledger| ledger.resource(resource)).await?;
                let Some(known) = known.filter(|known| has_passed(reason, known)) else { continue };
                let dated = self.submitter.server_time().await?.dated == Some(true);
                if reason == Reason::NoPlan && !dated && !self.has_open_plan_period(resource).await? {
                    continue;
                }
                self.lift(&known, reason, periods, now).await?;
            }
        }
        Ok(true)
    }

    /// Looks at a resource unless it was seen lately, or a look was tried lately: one that is gone for good is not asked for
    /// with each cycle.
    async fn look_if_old(
        &self,
        resource: Uuid,
        reason: Reason,
        now: Timestamp,
    ) -> Result<Result<(), Failure>, CycleError> {
        let looked_at_after = if reason == Reason::Terminated { TERMINATED_FOR } else { RESOURCES_FOR };
        let tried = format!("looked_at {resource}");
        let fact = tried.clone();
        let (seen, looked) = self
            .ledger(move |ledger| Ok((ledger.resource_seen(resource)?, ledger.server_fact(&fact)?)))
            .await?;
        let last = seen.into_iter().chain(looked.map(|(_, at)| at)).max();
        if last.is_some_and(|at| age(now, at) < looked_at_after) {
            return Ok(Ok(()));
        }
        self.ledger(move |ledger| ledger.put_server_fact(&tried, "", now)).await?;
        self.look_at_resource(resource, now).await
    }

    /// What is held is tried again, in whatever month. What was stranded is only in the month that runs: of one that is over
    /// somebody may have billed it by hand, so that it stays until a person says so.
    async fn lift(
        &self,
        known: &KnownResource,
        reason: Reason,
        periods: BTreeSet<BillingPeriod>,
        now: Timestamp,
    ) -> Result<(), CycleError> {
        let (resource, running, state) = (known.uuid, self.running_month().await?, known.state.clone());
        let lifted = self.ledger(move |ledger| {
            ledger.together(|ledger| {
                if reason == Reason::NoPlan {
                    ledger.forget_plan_look(resource, running)?;
                }
                for period in periods {
                    let stays = reason == Reason::Terminated && period != running;
                    let words = match reason {
                        Reason::NoPlan => "it has a plan again: what was held is reported".to_owned(),
                        _ if stays => format!(
                            "it is {state} again in Waldur; what of this month is stranded stays so, because it may have been \
                             billed by hand: `parked retry` reports it, `parked drop` gives it up"
                        ),
                        reason => format!(
                            "it is {state} again in Waldur: what was {} is tried again",
                            reason.state().name()
                        ),
                    };
                    if !stays {
                        ledger.clear_blocks_of(resource, period, reason.name())?;
                    } else if ledger.events_of(resource, period)?.iter().any(|event| event.words == words) {
                        continue;
                    }
                    ledger.tell(resource, period, "", EventKind::Resource, &words, now)?;
                }
                Ok(())
            })
        });
        Ok(lifted.await?)
    }

    async fn has_open_plan_period(&self, resource: Uuid) -> Result<bool, CycleError> {
        Ok(match self.submitter.client.plan_periods(resource).await {
            Ok(periods) => periods.iter().any(|period| period.end.is_none()),
            Err(_) => false,
        })
    }
}

fn has_passed(reason: Reason, known: &KnownResource) -> bool {
    match reason {
        Reason::NoPlan => known.plan.is_some(),
        _ => takes_reports(&known.state),
    }
}
