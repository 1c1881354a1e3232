//! What was kept back because of its resource (its state, or no plan) is tried again by itself when the resource takes reports
//! again. It asks how the resource is, and sends nothing.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::discover::{RESOURCES_FOR, age};
use super::reason::Reason;
use super::{Cycle, CycleError};
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::targets::takes_reports;
use crate::ledger::db::event::EventKind;
use crate::metering::period::BillingPeriod;

/// A terminated resource is looked at by itself so seldom, because hardly one lives again; a listing shows it anyway.
const TERMINATED_FOR: SignedDuration = SignedDuration::from_hours(6);

impl Cycle {
    /// Looks again at resources that are held for their state or for want of a plan, or were terminated; what has become
    /// reportable is tried again. False: the server is paused.
    pub(super) async fn lift_what_passed(&self, now: Timestamp) -> Result<bool, CycleError> {
        for reason in [Reason::ResourceState, Reason::NoPlan, Reason::Terminated] {
            let looked_at_after = if reason == Reason::Terminated { TERMINATED_FOR } else { RESOURCES_FOR };
            let blocks = self.ledger(|ledger| ledger.blocks()).await?;
            let mut held: BTreeMap<Uuid, (Timestamp, BillingPeriod)> = BTreeMap::new();
            for at in blocks.into_iter().filter(|at| at.block.reason == reason.name()) {
                let last = held.entry(at.resource).or_insert((at.block.since, at.period));
                *last = (*last).max((at.block.since, at.period));
            }
            for (resource, (since, period)) in held {
                let known = self.ledger(move |ledger| ledger.resource_seen(resource)).await?;
                if known.is_none_or(|at| age(now, at) >= looked_at_after)
                    && let Err(failure) = self.look_at_resource(resource, now).await?
                {
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
                let running = self.running_month().await?;
                self.ledger(move |ledger| {
                    let words = match reason {
                        Reason::NoPlan => {
                            ledger.forget_plan_look(resource, running)?;
                            "it has a plan again: what was held is reported".to_owned()
                        }
                        reason => format!(
                            "it is {} again in Waldur: what was {} is tried again",
                            known.state,
                            reason.state().name()
                        ),
                    };
                    ledger.clear_blocks(Some(resource), &[reason.name()])?;
                    ledger.tell(resource, period, "", EventKind::Resource, &words, now)
                })
                .await?;
            }
        }
        Ok(true)
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
