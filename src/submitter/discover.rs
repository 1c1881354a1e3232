//! Getting to know the server: its clock, the token, offerings and resources (`plans`: their plan periods), with as few requests as it
//! takes. What is learnt is kept in the ledger, so that the next run asks nothing that is known.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::guard::ServerTime;
use super::reason::Reason;
use super::writer::OWN_USER;
use super::{CHECKED_FOR, Cycle, CycleError};
use crate::ledger::books::catalog::{KnownComponent, KnownResource};
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

    pub(super) async fn list_resources(
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
