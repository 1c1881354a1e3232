//! `check` of what Waldur has: offerings and their components, resources, and whose months it bills by.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::findings::{Findings, tell_failure};
use super::reports::Reports;
use crate::cli::exit::Exit;
use crate::cli::setup::{Setup, count};
use crate::cli::text::name;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::targets::takes_reports;
use crate::metering::meter::Target;
use crate::submitter::discover::known_resource;
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::waldur::types::{Me, Offering, Plan, Resource};
use crate::waldur::usages::UsageFilter;

pub(super) async fn check_offerings(
    setup: &Setup,
    client: &Client,
    me: &Me,
    reports: &mut Reports,
    found: &mut Findings,
) -> Vec<KnownResource> {
    let mut listed = Vec::new();
    let seen = reports.backend_ids();
    let offerings: BTreeSet<Uuid> =
        setup.rulebook.rules.iter().filter_map(|rules| rules.offering()).collect();
    for offering in offerings {
        let known = match client.offering(offering).await {
            Ok(known) => known,
            Err(Failure::Missing { .. }) => {
                found.problem(
                    Exit::Stuck,
                    format!(
                        "offering {offering}: Waldur has none with this UUID, or user {} may not see it",
                        me.username
                    ),
                );
                continue;
            }
            Err(failure) => {
                tell_failure(found, &failure);
                continue;
            }
        };
        check_role(me, offering, &known, found);
        let meters = setup.rulebook.rules.iter().filter(|rules| rules.offering() == Some(offering));
        let folding = meters.clone().find(|rules| rules.ignores_case());
        let fold = |id: &str| folding.map_or_else(|| id.to_owned(), |rules| rules.fold(id));
        let components: BTreeSet<&str> =
            meters.flat_map(|rules| rules.meters.iter().map(|meter| meter.component.as_str())).collect();
        check_components(&known, &components, found);
        reports.offering(&known);
        match client.resources(offering).await {
            Ok(resources) => {
                if resources.is_empty() {
                    found.warning(format!(
                        "offering {} lists no resources: it has none, or the token has no role on it",
                        known.name
                    ));
                } else {
                    found.good(format!("offering {}: {}", known.name, count(resources.len(), "resource")));
                }
                reports.listed(offering);
                for resource in &resources {
                    let target = Target::BackendId { offering, backend_id: fold(&resource.backend_id) };
                    reports.resource(target, &resource.name, offering);
                }
                let mut ids: BTreeMap<String, Vec<&Resource>> = BTreeMap::new();
                for resource in &resources {
                    ids.entry(fold(&resource.backend_id)).or_default().push(resource);
                }
                for (_, backend_id) in seen.iter().filter(|(of, _)| *of == offering) {
                    if let Some(found_here) = ids.get(&fold(backend_id)) {
                        check_backend_id(&known.name, backend_id, found_here, found);
                    }
                }
                for (_, backend_id) in
                    seen.iter().filter(|(of, id)| *of == offering && !ids.contains_key(&fold(id)))
                {
                    found.warning(format!(
                        "offering {}: no resource has the backend id {}: unmatched",
                        known.name,
                        name(backend_id)
                    ));
                }
                listed.extend(resources.into_iter().map(|resource| known_resource(resource, offering)));
            }
            Err(failure) => tell_failure(found, &failure),
        }
    }
    listed
}

fn check_role(me: &Me, uuid: Uuid, offering: &Offering, found: &mut Findings) {
    if me.may_report(uuid, offering.customer_uuid) == Some(false) {
        found.problem(
            Exit::Token,
            format!(
                "offering {}: user {} has no role there, and Waldur takes no report of it: make it OFFERING.MANAGER of the \
                 offering",
                offering.name, me.username
            ),
        );
    }
}

/// Whether Waldur would take and bill a report for the resource that a backend id stands for.
fn check_backend_id(offering: &str, backend_id: &str, resources: &[&Resource], found: &mut Findings) {
    let lives = |resource: &&&Resource| takes_reports(&resource.state);
    let named = |resource: &Resource| format!("{} ({})", resource.name, resource.uuid);
    let head = format!("offering {offering}, backend id {backend_id}");
    let living: Vec<&&Resource> = resources.iter().filter(lives).collect();
    match living.as_slice() {
        [] => {
            let states =
                resources.iter().map(|resource| format!("{} is {}", named(resource), resource.state));
            let states: Vec<String> = states.collect();
            found.problem(
                Exit::Stuck,
                format!("{head}: {}: Waldur refuses reports for it", states.join(", ")),
            );
        }
        [one] if one.plan == Plan::None => found.problem(
            Exit::Stuck,
            format!("{head}: {} has no plan: Waldur can't bill it; give it one", named(one)),
        ),
        [_] => {}
        several => {
            let names: Vec<String> = several.iter().map(|resource| named(resource)).collect();
            found.problem(
                Exit::Stuck,
                format!(
                    "{head}: it is that of {}, and nobody can say which is meant: change all but one in Waldur",
                    names.join(" and of ")
                ),
            );
        }
    }
}

/// Finds meters for components that Waldur would refuse, before the first night does.
fn check_components(offering: &Offering, meters: &BTreeSet<&str>, found: &mut Findings) {
    for meter in meters {
        match offering.components.iter().find(|component| component.component == *meter) {
            None => {
                let known: Vec<_> = offering.components.iter().map(|c| c.component.as_str()).collect();
                found.problem(
                    Exit::Stuck,
                    format!(
                        "offering {} has no component `{meter}`; it has {}",
                        offering.name,
                        known.join(", ")
                    ),
                );
            }
            Some(component) if ["usage", "limit"].contains(&component.billing_type.as_str()) => {
                let unit = &component.measured_unit;
                let words = format!(
                    "component {meter} of {}: billed by {}, in {unit}",
                    offering.name, component.billing_type
                );
                found.good_of_many("components", words);
                if let (Some(period), true) = (&component.limit_period, component.billing_type == "usage") {
                    found.good(format!(
                        "component {meter} of {} has a limit ({period}), and is reported in a call of its own: what Waldur shows as \
                         `current_usages` of a resource is what the last call said, of some components only",
                        offering.name
                    ));
                }
            }
            Some(component) if component.billing_type == "one" => found.warning(format!(
                "component {meter} of {} is a one-time one: only newer servers take reports for it",
                offering.name
            )),
            Some(component) => found.problem(
                Exit::Stuck,
                format!(
                    "component {meter} of {} is billed as `{}`: Waldur refuses usage reports for it",
                    offering.name, component.billing_type
                ),
            ),
        }
    }
}

pub(super) async fn check_resources(
    setup: &Setup,
    client: &Client,
    me: &Me,
    reports: &mut Reports,
    found: &mut Findings,
) -> Vec<KnownResource> {
    let mut seen = Vec::new();
    let mut offerings: BTreeMap<Uuid, Option<Offering>> = BTreeMap::new();
    let resources: BTreeSet<Uuid> =
        setup.rulebook.rules.iter().filter_map(|rules| rules.fixed_resource()).collect();
    for uuid in resources {
        match client.resource(uuid).await {
            Ok(resource) => {
                let name = format!("resource {} ({uuid})", resource.name);
                if resource.plan == Plan::None {
                    found.problem(Exit::Stuck, format!("{name} has no plan: Waldur can't bill it; give it one"));
                }
                let state = &resource.state;
                match takes_reports(state) {
                    true => found.good_of_many("resources", format!("{name}: {state}")),
                    false => found.problem(Exit::Stuck, format!("{name} is {state}: Waldur refuses reports for it")),
                }
                if let Some(offering) = resource.offering_uuid
                    && let Entry::Vacant(unknown) = offerings.entry(offering)
                {
                    let known = unknown.insert(client.public_offering(offering).await.ok());
                    known.iter().for_each(|known| check_role(me, offering, known, found));
                }
                if let Some(offering) = resource.offering_uuid
                    && let Some(Some(known)) = offerings.get(&offering)
                {
                    let meters = setup.rulebook.rules.iter().filter(|rules| rules.fixed_resource() == Some(uuid));
                    let components: BTreeSet<&str> =
                        meters.flat_map(|rules| rules.meters.iter().map(|meter| meter.component.as_str())).collect();
                    check_components(known, &components, found);
                    reports.offering(known);
                    reports.resource(Target::Resource(uuid), &resource.name, offering);
                }
                let offering = resource.offering_uuid.unwrap_or(Uuid::nil());
                seen.push(known_resource(resource, offering));
            }
            Err(Failure::Missing { .. }) => found.problem(
                Exit::Stuck,
                format!("resource {uuid}: Waldur has none with this UUID, or the token has no role on its offering"),
            ),
            Err(failure) => tell_failure(found, &failure),
        }
    }
    seen
}

/// A row of this month that was written today tells whose months the server bills by.
pub(super) async fn check_time_zone(setup: &Setup, client: &Client, found: &mut Findings) {
    let zone = &setup.rulebook.zone;
    let now = setup.clock.now();
    let targets: BTreeSet<(Option<Uuid>, Option<Uuid>)> =
        setup.rulebook.rules.iter().map(|rules| (rules.fixed_resource(), rules.offering())).collect();
    for target in targets {
        let filter = match target {
            (Some(resource), _) => UsageFilter { resource: Some(resource), ..UsageFilter::default() },
            (None, Some(offering)) => UsageFilter {
                offering: Some(offering),
                ..UsageFilter::of_month(zone.period_of(now).first_day())
            },
            (None, None) => continue,
        };
        let Ok(rows) = client.list_usages(&filter).await.map(|listing| listing.rows) else { return };
        for row in rows {
            let Some(date) = row.date else { continue };
            let meant = zone.period_of(date).first_day();
            // A dated report may carry a date at the very edge; only a whole month apart is a wrong zone.
            if meant != row.billing_period {
                found.warning(format!(
                    "a row of {} that was written at {date} is in {}: `billing_timezone: {}` may not be the server's time zone",
                    row.resource_name,
                    row.billing_period,
                    zone.name()
                ));
                return;
            }
        }
    }
}
