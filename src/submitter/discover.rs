//! Getting to know the server: its clock, the token, offerings, resources and plan periods, with as few requests as it
//! takes. What is learnt is kept in the ledger, so that the next run asks nothing that is known.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::adopt::OWN_USER;
use super::trouble::Reason;
use super::{ACQUAINTED_FOR, Cycle, CycleError};
use crate::ledger::catalog::{KnownComponent, KnownPlanPeriod, KnownResource};
use crate::ledger::outbox::StatementKey;
use crate::waldur::failure::Failure;
use crate::waldur::types::{Component, Offering, Plan, Resource};

/// How long a listing of resources serves before an unmatched backend id asks for another.
const RESOURCES_FOR: SignedDuration = SignedDuration::from_mins(10);
/// How long they serve while something is to be sent: a report after a plan switch that was not noticed would bill the
/// whole month once more under the new plan. So there is a listing, which is cheap, before the reports of each cycle.
const RESOURCES_IN_USE_FOR: SignedDuration = SignedDuration::from_secs(60);
/// How long a measure of the server's clock serves.
const CLOCK_FOR: SignedDuration = SignedDuration::from_mins(10);
/// How long the components and users of an offering serve.
const OFFERING_FOR: SignedDuration = SignedDuration::from_hours(6);

impl Cycle {
    /// Makes sure that the server's clock is known and that the token works. Before anything is sent the clock is
    /// measured by this very process: in which month a report lands depends on it, and our own may have been set.
    /// False: the server is paused.
    pub(super) async fn acquaint(&self, sending: bool) -> Result<bool, CycleError> {
        let now = self.of.clock.now();
        let (skew, lifetime) = self
            .ledger(|ledger| Ok((ledger.server_fact("skew_us")?, ledger.server_fact("token_lifetime")?)))
            .await?;
        let lifetime = lifetime.and_then(|(text, _)| text.parse().ok()).map(SignedDuration::from_secs);
        // A token with a lifetime dies without a call (observed): a call each third of it keeps it alive.
        let good_for = lifetime.map_or(ACQUAINTED_FOR, |lifetime| (lifetime / 3).min(ACQUAINTED_FOR));
        let measured = self.of.client.measured_skew();
        let clock_known = measured.is_some_and(|skew| age(now, skew.measured) < CLOCK_FOR);
        if skew.is_some_and(|(_, at)| age(now, at) < good_for) && (clock_known || !sending) {
            return Ok(true);
        }
        match self.of.client.me().await {
            Ok(me) => {
                let lifetime = me.token_lifetime.map(|seconds| seconds.to_string()).unwrap_or_default();
                let own = format!("{}\n{}", me.uuid, me.username);
                self.ledger(move |ledger| {
                    ledger.put_server_fact(OWN_USER, &own, now)?;
                    ledger.put_server_fact("token_lifetime", &lifetime, now)
                })
                .await?;
                self.of.remember_clock().await?;
                Ok(true)
            }
            Err(failure) => self.give_up(failure).await,
        }
    }

    /// Finds the resources of backend ids, what offerings sell, and who their users are. False: the server is paused.
    pub(super) async fn discover(&self) -> Result<bool, CycleError> {
        let now = self.of.clock.now();
        let (unmatched, unknown, pending) = self
            .ledger(|ledger| {
                Ok((ledger.offerings_with_unmatched()?, ledger.unknown_resources()?, ledger.pending()?))
            })
            .await?;
        for offering in unmatched {
            let known = self.ledger(move |ledger| ledger.freshness(offering)).await?;
            if known.resources.is_none_or(|at| age(now, at) >= RESOURCES_FOR)
                && let Err(failure) = self.list_resources(offering, now).await?
            {
                return self.give_up(failure).await;
            }
        }
        for resource in unknown {
            if let Err(failure) = self.look_at_resource(resource, now).await? {
                return self.give_up(failure).await;
            }
        }
        let resources: BTreeSet<Uuid> = pending.into_iter().map(|key| key.resource).collect();
        let offerings: BTreeSet<Uuid> = self
            .ledger(move |ledger| {
                let mut offerings = BTreeSet::new();
                for resource in resources {
                    offerings.extend(ledger.resource(resource)?.map(|known| known.offering));
                }
                Ok(offerings)
            })
            .await?;
        for offering in offerings {
            let known = self.ledger(move |ledger| ledger.freshness(offering)).await?;
            if known.resources.is_none_or(|at| age(now, at) >= RESOURCES_IN_USE_FOR)
                && let Err(failure) = self.list_resources(offering, now).await?
            {
                return self.give_up(failure).await;
            }
            if let Err(failure) = self.look_at_offering(offering, now).await? {
                return self.give_up(failure).await;
            }
        }
        self.lift_what_passed(now).await
    }

    async fn give_up(&self, failure: Failure) -> Result<bool, CycleError> {
        self.pause(failure).await?;
        Ok(false)
    }

    async fn list_resources(
        &self,
        offering: Uuid,
        now: Timestamp,
    ) -> Result<Result<(), Failure>, CycleError> {
        let listed = match self.of.client.resources(offering).await {
            Ok(listed) => listed,
            Err(failure) => return Ok(Err(failure)),
        };
        if listed.is_empty() {
            // Without a role the server answers an empty list, not a refusal (observed).
            self.note(format!(
                "Waldur lists no resources of offering {offering}: either it has none, or the token has lost its role on it"
            ));
        }
        let known = listed.into_iter().map(|resource| known_resource(resource, offering)).collect();
        self.ledger(move |ledger| ledger.put_resources(known, Some(offering), now)).await?;
        Ok(Ok(()))
    }

    async fn look_at_resource(
        &self,
        resource: Uuid,
        now: Timestamp,
    ) -> Result<Result<(), Failure>, CycleError> {
        match self.of.client.resource(resource).await {
            Ok(found) => {
                let offering = found.offering_uuid.unwrap_or(Uuid::nil());
                let known = vec![known_resource(found, offering)];
                self.ledger(move |ledger| ledger.put_resources(known, None, now)).await?;
            }
            // It may exist all the same for set_usage; that call says so in its own words.
            Err(Failure::Missing { .. } | Failure::Forbidden { .. }) => {}
            Err(failure) => return Ok(Err(failure)),
        }
        Ok(Ok(()))
    }

    async fn look_at_offering(
        &self,
        offering: Uuid,
        now: Timestamp,
    ) -> Result<Result<(), Failure>, CycleError> {
        let known = self.ledger(move |ledger| ledger.freshness(offering)).await?;
        let stale = |at: Option<Timestamp>| {
            at.is_none_or(|at| at == Timestamp::UNIX_EPOCH || age(now, at) >= OFFERING_FOR)
        };
        if stale(known.components) {
            let found = match self.of.client.offering(offering).await {
                // Without a role the provider's view hides it; its components are public.
                Err(Failure::Missing { .. } | Failure::Forbidden { .. }) => {
                    self.of.client.public_offering(offering).await
                }
                found => found,
            };
            match found {
                Ok(Offering { name, components, .. }) => {
                    let components = components.into_iter().map(known_component).collect();
                    self.ledger(move |ledger| ledger.put_offering(offering, &name, components, now)).await?;
                }
                Err(Failure::Missing { .. } | Failure::Forbidden { .. } | Failure::Endpoint { .. }) => {}
                Err(failure) => return Ok(Err(failure)),
            }
        }
        if stale(known.users) {
            match self.of.client.offering_users(offering).await {
                Ok(users) => {
                    let users = users
                        .into_iter()
                        .filter(|user| !user.username.is_empty() && !user.url.is_empty())
                        .map(|user| (user.username, user.url))
                        .collect();
                    self.ledger(move |ledger| ledger.put_offering_users(offering, users, now)).await?;
                }
                // A nicety that not every server and role has; users are reported by name without it.
                Err(Failure::Missing { .. } | Failure::Forbidden { .. } | Failure::Endpoint { .. }) => {
                    self.ledger(move |ledger| ledger.put_offering_users(offering, Vec::new(), now)).await?;
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(Ok(()))
    }

    /// Looks again at resources that are held for their state; what has become reportable is tried again.
    async fn lift_what_passed(&self, now: Timestamp) -> Result<bool, CycleError> {
        let held = self.ledger(|ledger| ledger.resources_in_trouble(Reason::ResourceState.name())).await?;
        for resource in held {
            let known = self.ledger(move |ledger| ledger.resource_seen(resource)).await?;
            if known.is_some_and(|at| age(now, at) < RESOURCES_FOR) {
                continue;
            }
            if let Err(failure) = self.look_at_resource(resource, now).await? {
                return self.give_up(failure).await;
            }
            let state = self.ledger(move |ledger| ledger.resource(resource)).await?.map(|known| known.state);
            if state.is_some_and(|state| ["OK", "Updating", "Terminating"].contains(&state.as_str())) {
                self.ledger(move |ledger| {
                    ledger.clear_trouble(Some(resource), &[Reason::ResourceState.name()])
                })
                .await?;
            }
        }
        Ok(true)
    }

    /// Looks once more at the plans of what was reported just now. A report that followed a switch of plan which nobody had
    /// seen yet is filed under the new plan, with the old one's usage in it: found now, it is repaired at once, even if
    /// nothing of the resource changes any more. True: some were switched.
    pub(super) async fn plans_were_switched(&self) -> Result<bool, CycleError> {
        let now = self.of.clock.now();
        let reported = std::mem::take(&mut self.state().reported);
        let mut offerings: BTreeMap<Uuid, BTreeSet<Uuid>> = BTreeMap::new();
        for resource in reported {
            if let Some(known) = self.ledger(move |ledger| ledger.resource(resource)).await? {
                offerings.entry(known.offering).or_default().insert(resource);
            }
        }
        let mut switched = BTreeSet::new();
        for (offering, resources) in offerings {
            let looked = match resources.first() {
                Some(&one) if resources.len() == 1 => self.look_at_resource(one, now).await?,
                _ => self.list_resources(offering, now).await?,
            };
            if let Err(failure) = looked {
                self.pause(failure).await?;
                return Ok(false);
            }
            for resource in resources {
                let (known, look) = self
                    .ledger(move |ledger| Ok((ledger.resource(resource)?, ledger.plan_look(resource)?)))
                    .await?;
                let plan =
                    known.and_then(|known| known.plan).map(|plan| plan.to_string()).unwrap_or_default();
                if look.is_some_and(|(_, looked)| looked != plan) {
                    switched.insert(resource);
                }
            }
        }
        Ok(!switched.is_empty() && self.look_at_plans_of(switched).await?)
    }

    /// Looks at the plan periods of resources whose were not looked at for this month and plan. False: paused.
    pub(super) async fn look_at_plans(&self, due: &[StatementKey]) -> Result<bool, CycleError> {
        let server = self.of.server_time().await?;
        let month = self.of.rulebook.zone.period_of(server.now);
        self.look_at_plans_of(due.iter().filter(|key| key.period == month).map(|key| key.resource).collect())
            .await
    }

    async fn look_at_plans_of(&self, resources: BTreeSet<Uuid>) -> Result<bool, CycleError> {
        let now = self.of.clock.now();
        let server = self.of.server_time().await?;
        let month = self.of.rulebook.zone.period_of(server.now);
        for resource in resources {
            let (known, look) = self
                .ledger(move |ledger| Ok((ledger.resource(resource)?, ledger.plan_look(resource)?)))
                .await?;
            let plan = known.and_then(|known| known.plan).map(|plan| plan.to_string()).unwrap_or_default();
            if look == Some((month.to_string(), plan.clone())) {
                continue;
            }
            match self.of.client.plan_periods(resource).await {
                Ok(periods) => {
                    let periods = periods
                        .into_iter()
                        .filter_map(|period| {
                            Some(KnownPlanPeriod { uuid: period.uuid, start: period.start?, end: period.end })
                        })
                        .collect();
                    self.ledger(move |ledger| {
                        ledger.put_plan_periods(resource, periods, (&month.to_string(), &plan), now)
                    })
                    .await?;
                }
                // Not every token may see them; then the month is taken to be whole.
                Err(Failure::Missing { .. } | Failure::Forbidden { .. } | Failure::Endpoint { .. }) => {
                    self.ledger(move |ledger| {
                        ledger.put_plan_periods(resource, Vec::new(), (&month.to_string(), &plan), now)
                    })
                    .await?;
                }
                Err(failure) => return self.give_up(failure).await,
            }
        }
        Ok(true)
    }
}

fn age(now: Timestamp, at: Timestamp) -> SignedDuration {
    // A clock that was set back makes nothing fresh.
    now.duration_since(at).abs()
}

fn known_resource(resource: Resource, offering: Uuid) -> KnownResource {
    KnownResource {
        uuid: resource.uuid,
        offering: resource.offering_uuid.unwrap_or(offering),
        name: resource.name,
        backend_id: resource.backend_id,
        state: resource.state,
        plan: match resource.plan {
            Plan::Is(plan) => Some(plan),
            Plan::None | Plan::NotTold => None,
        },
        customer: resource.customer_name,
        project: resource.project_name,
    }
}

fn known_component(component: Component) -> KnownComponent {
    KnownComponent {
        name: component.name,
        component: component.component,
        billing_type: component.billing_type,
        measured_unit: component.measured_unit,
        limit_period: component.limit_period,
        limit_amount: component.limit_amount.map(|amount| amount.to_string()),
    }
}
