//! Getting to know the server: its clock, the token, offerings, resources and plan periods, with as few requests as it
//! takes. What is learnt is kept in the ledger, so that the next run asks nothing that is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::guard::{self, ServerTime};
use super::reason::Reason;
use super::rows_of_part::known_plan_period;
use super::writer::OWN_USER;
use super::{About, CHECKED_FOR, Cycle, CycleError, CycleOptions, in_turns};
use crate::ledger::books::catalog::{KnownComponent, KnownPlanPeriod, KnownResource};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::server::offering_in_words;
use crate::waldur::failure::Failure;
use crate::waldur::types::{Component, Offering, Plan, Resource};

/// How long a listing of resources serves before an unmatched backend id asks for another.
pub(super) const RESOURCES_FOR: SignedDuration = SignedDuration::from_mins(10);
/// How long they serve while something is to be sent: a report after a plan switch that was not noticed would bill the
/// whole month once more under the new plan. So there is a listing, which is cheap, before the reports of each cycle.
const RESOURCES_IN_USE_FOR: SignedDuration = SignedDuration::from_secs(60);
/// How long a measure of the server's clock serves.
const CLOCK_FOR: SignedDuration = SignedDuration::from_mins(10);
/// How long the components and users of an offering serve.
const OFFERING_FOR: SignedDuration = SignedDuration::from_hours(6);

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

/// The server fact that says when the server was last asked who this token's user is.
const ASKED: &str = "asked";

impl Cycle {
    /// Makes sure that the server's clock is known and that the token works. Before anything is sent the clock is
    /// measured by this very process: in which month a report lands depends on it, and our own may have been set.
    /// False: the server is paused.
    pub(super) async fn check_clock_and_token(&self, sending: bool) -> Result<bool, CycleError> {
        let now = self.submitter.clock.now();
        let (asked, lifetime) = self
            .ledger(|ledger| Ok((ledger.server_fact(ASKED)?, ledger.server_fact("token_lifetime")?)))
            .await?;
        let lifetime = lifetime.and_then(|(text, _)| text.parse().ok()).map(SignedDuration::from_secs);
        // A token with a lifetime dies without a call (observed): a call each third of it keeps it alive.
        let good_for = lifetime.map_or(CHECKED_FOR, |lifetime| (lifetime / 3).min(CHECKED_FOR));
        let measured = self.submitter.client.measured_skew();
        let clock_known = measured.is_some_and(|skew| age(now, skew.measured) < CLOCK_FOR);
        let is_known =
            asked.is_some_and(|(_, at)| age(now, at) < good_for) && self.knows_its_server().await?;
        if is_known && (clock_known || !sending) {
            return Ok(true);
        }
        match self.submitter.client.me().await {
            Ok(me) => {
                let lifetime = me.token_lifetime.map(|seconds| seconds.to_string()).unwrap_or_default();
                let own = format!("{}\n{}", me.uuid, me.username);
                self.ledger(move |ledger| {
                    ledger.put_server_fact(ASKED, "", now)?;
                    ledger.put_server_fact(OWN_USER, &own, now)?;
                    ledger.put_server_fact("token_lifetime", &lifetime, now)
                })
                .await?;
                self.keep_server().await?;
                self.submitter.remember_clock().await?;
                Ok(!self.is_of_another_server().await?)
            }
            Err(failure) => {
                self.pause(failure).await?;
                Ok(false)
            }
        }
    }

    /// Finds the resources of backend ids, what offerings sell, and who their users are. What is known goes on serving where
    /// a look-up fails. False: the server is paused.
    pub(super) async fn discover(&self) -> Result<bool, CycleError> {
        let goes_on = self.look_up_all().await?;
        if goes_on {
            self.tell_look_ups_that_are_well().await?;
        }
        Ok(goes_on)
    }

    async fn look_up_all(&self) -> Result<bool, CycleError> {
        let now = self.submitter.clock.now();
        let (unmatched, unknown) = self
            .ledger(|ledger| Ok((ledger.offerings_with_unmatched()?, ledger.unknown_resources()?)))
            .await?;
        for offering in unmatched {
            let known = self.ledger(move |ledger| ledger.freshness(offering)).await?;
            if known.resources.is_none_or(|at| age(now, at) >= RESOURCES_FOR)
                && let Err(failure) = self.list_resources(offering, now).await?
                && !self.look_up_goes_on(failure).await?
            {
                return Ok(false);
            }
        }
        for resource in unknown {
            if let Err(failure) = self.look_at_resource(resource, now).await?
                && !self.look_up_goes_on(failure).await?
            {
                return Ok(false);
            }
        }
        // What was matched just now is to be sent, too, and its offering's users are to be known first.
        let resources = self.concerned().await?;
        let offerings: BTreeSet<Uuid> = self
            .ledger(move |ledger| {
                let mut offerings = BTreeSet::new();
                for resource in resources {
                    offerings.extend(ledger.resource(resource)?.map(|known| known.offering));
                }
                Ok(offerings)
            })
            .await?;
        for offering in offerings.into_iter().filter(|offering| !offering.is_nil()) {
            let known = self.ledger(move |ledger| ledger.freshness(offering)).await?;
            if known.resources.is_none_or(|at| age(now, at) >= RESOURCES_IN_USE_FOR)
                && let Err(failure) = self.list_resources(offering, now).await?
                && !self.look_up_goes_on(failure).await?
            {
                return Ok(false);
            }
            if let Err(failure) = self.look_at_offering(offering, now).await?
                && !self.look_up_goes_on(failure).await?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn list_resources(
        &self,
        offering: Uuid,
        now: Timestamp,
    ) -> Result<Result<(), Failure>, CycleError> {
        let listed = match self.submitter.client.resources(offering).await {
            Ok(listed) => listed,
            Err(failure) => return Ok(Err(failure)),
        };
        if listed.is_empty() {
            // Without a role the server answers an empty list, not a refusal (observed).
            let (has_role, name) = self.has_role(offering).await?;
            let named = offering_in_words(offering, &name);
            match has_role {
                Some(false) => {
                    self.state().no_role.insert(offering);
                    self.ledger(move |ledger| ledger.note_role(offering, (false, &name), now)).await?;
                    self.note(format!(
                        "the token has no role for offering {named}: Waldur lists none of its resources, and takes no report of \
                         them. What to do: make its user OFFERING.MANAGER of the offering, or an owner of its organisation"
                    ));
                    return Ok(Ok(()));
                }
                Some(true) => tracing::debug!("Offering {named} has no resources."),
                None => self.note(format!(
                    "Waldur lists no resources of offering {named}: either it has none, or the token has lost its role on it"
                )),
            }
        }
        let known = listed.into_iter().map(|resource| known_resource(resource, offering)).collect();
        self.ledger(move |ledger| {
            ledger.note_role(offering, (true, ""), now)?;
            ledger.put_resources(known, Some(offering), now)
        })
        .await?;
        Ok(Ok(()))
    }

    /// Whether the token may report an offering, as its user's roles tell; `None` where they don't. And what Waldur calls the
    /// offering, where it tells.
    async fn has_role(&self, offering: Uuid) -> Result<(Option<bool>, String), CycleError> {
        let (customer, name) = match self.submitter.client.public_offering(offering).await {
            Ok(found) => (found.customer_uuid, found.name),
            Err(_) => (None, String::new()),
        };
        let me = match self.submitter.client.me().await {
            Ok(me) => me,
            Err(failure) => {
                tracing::debug!("Roles are not known: {failure}");
                return Ok((None, name));
            }
        };
        Ok((me.may_report(offering, customer), name))
    }

    pub(super) async fn look_at_resource(
        &self,
        resource: Uuid,
        now: Timestamp,
    ) -> Result<Result<(), Failure>, CycleError> {
        match self.submitter.client.resource(resource).await {
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
            match self.submitter.client.offering(offering).await {
                Ok(Offering { name, components, .. }) => {
                    let components = components.into_iter().map(known_component).collect();
                    self.ledger(move |ledger| ledger.put_offering(offering, &name, components, now)).await?;
                }
                Err(Failure::Missing { .. } | Failure::Forbidden { .. } | Failure::Endpoint { .. }) => {}
                Err(failure) => return Ok(Err(failure)),
            }
        }
        if stale(known.users) {
            match self.submitter.client.offering_users(offering).await {
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

    /// Whether what is reported of a resource would be billed: it has a plan, and (where the server makes none) a plan period
    /// that is open. If not, it is held.
    pub(super) async fn has_plan(&self, key: StatementKey, server: &ServerTime) -> Result<bool, CycleError> {
        let (known, open) = self
            .ledger(move |ledger| {
                Ok((ledger.resource(key.resource)?, ledger.open_plan_periods(key.resource, key.period)?))
            })
            .await?;
        let (Some(known), Some(0)) = (known, open) else { return Ok(true) };
        let words = match known.plan {
            None => format!("the resource {} has no plan, so nothing of it can be billed", known.name),
            // A newer server makes a plan period with the first report.
            Some(_) if server.dated == Some(true) => return Ok(true),
            Some(_) => format!(
                "the resource {} has no open plan period: an older Waldur would take a report of it and bill it nowhere{}",
                known.name,
                if server.dated.is_none() {
                    " (whether this is an older one, the first report of another resource shows)"
                } else {
                    ""
                }
            ),
        };
        let statement = self.ledger(move |ledger| ledger.totals(key)).await?;
        for (component, entry) in statement.iter().flat_map(|statement| &statement.components) {
            if entry.to_send() {
                self.block(key, component, Reason::NoPlan, words.clone(), entry.posted).await?;
            }
        }
        Ok(false)
    }

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
        let (unseen, current): (Vec<(Uuid, String)>, BTreeSet<Uuid>) = self
            .ledger(move |ledger| {
                let (mut unseen, mut current) = (Vec::new(), BTreeSet::new());
                for resource in resources {
                    let plan = ledger.resource(resource)?.and_then(|known| known.plan);
                    let plan = plan.map(|plan| plan.to_string()).unwrap_or_default();
                    let look = ledger.plan_look(resource)?;
                    let is_current = look.is_some_and(|(month, of)| month == of_month && of == plan);
                    let is_due = looked.as_ref().is_some_and(|looked| !looked.contains(&resource));
                    if is_current {
                        current.insert(resource);
                    }
                    if is_due || !is_current {
                        unseen.push((resource, plan));
                    }
                }
                Ok((unseen, current))
            })
            .await?;
        let current = Arc::new(current);
        // Some at a time, so that what was learnt is soon kept.
        for some in unseen.chunks(PLANS_AT_ONCE) {
            let plans: Arc<Mutex<Vec<(Uuid, Plans)>>> = Arc::default();
            let (found, current) = (plans.clone(), current.clone());
            let due = some.iter().map(|(resource, _)| (*resource, *resource)).collect();
            let looked = in_turns(self.clone(), "Looking at plans", due, move |cycle, resource| {
                let (found, may_serve) = (found.clone(), again != Again::Must && current.contains(&resource));
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
                (some.iter().cloned().collect(), month.clone());
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

pub(super) fn age(now: Timestamp, at: Timestamp) -> SignedDuration {
    // A clock that was set back makes nothing fresh.
    now.duration_since(at).abs()
}

/// What the ledger keeps of a resource.
pub fn known_resource(resource: Resource, offering: Uuid) -> KnownResource {
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
