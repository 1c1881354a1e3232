//! The marketplace file: YAML in, a `World` out; and the same shapes in JSON for the admin API.
//!
//! Forgiving: everything has a default, names do where UUIDs are tedious, unknown keys are only warned of.
//! It checks that names refer to something; it never judges whether a marketplace makes sense.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::clock::Clock;
use crate::specs::{
    ComponentSpec, File, OfferingSpec, PeriodSpec, ResourceSpec, RowSpec, TokenSpec, UserSpec,
    warn_of_unknown_keys,
};
use crate::world::{
    Api, Billing, Component, Missing, Named, Offering, OfferingUser, PlanPeriod, Resource, Row, Token,
    UserLimit, UserRow, World, derived_uuid,
};

/// What the command line decides.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) api: Option<Api>,
    pub(crate) timezone: Option<String>,
    pub(crate) now: Option<Timestamp>,
}

/// Reads a file and builds what it describes.
pub(crate) fn build(yaml: &str, overrides: Overrides) -> Result<World, String> {
    warn_of_unknown_keys(yaml);
    let file: File = match serde_yaml::from_str::<Option<File>>(yaml) {
        Ok(file) => file.unwrap_or_default(),
        Err(error) => return Err(error.to_string()),
    };
    let zone_name = overrides.timezone.or(file.timezone).unwrap_or_else(|| "UTC".into());
    let zone = TimeZone::get(&zone_name).map_err(|error| format!("timezone {zone_name}: {error}"))?;
    let mut world = World {
        api: overrides.api.or(file.api).unwrap_or(Api::Current),
        zone,
        zone_name,
        date_month: file.date_month,
        clock: Clock::starting(overrides.now.or(file.now)),
        latency_ms: file.latency_ms,
        first_of_month_ms: file.first_of_month_ms,
        calls_at_once: file.calls_at_once.unwrap_or(1).max(1),
        tokens: BTreeMap::new(),
        customers: file
            .customers
            .into_iter()
            .map(|c| Named {
                uuid: c.uuid.unwrap_or_else(|| derived_uuid("customer", &c.name)),
                name: c.name,
            })
            .collect(),
        offerings: Vec::new(),
        resources: Vec::new(),
        invoices: BTreeSet::new(),
        row_home: HashMap::new(),
        resource_home: HashMap::new(),
    };
    for spec in file.offerings {
        add_offering(&mut world, spec);
    }
    for spec in file.tokens {
        put_token(&mut world, spec)?;
    }
    for spec in file.resources {
        add_resource(&mut world, spec)?;
    }
    for spec in file.rows {
        put_row(&mut world, spec)?;
    }
    Ok(world)
}

fn add_offering(world: &mut World, spec: OfferingSpec) {
    let uuid = spec.uuid.unwrap_or_else(|| derived_uuid("offering", &spec.name));
    let customer = customer(world, spec.customer.as_deref().unwrap_or("Provider"));
    let created = world.clock.now();
    let mut offering =
        Offering { uuid, name: spec.name, customer, components: Vec::new(), users: Vec::new(), created };
    for user in spec.users {
        put_user(&mut offering, user);
    }
    for component in spec.components {
        put_component(&mut offering, component);
    }
    world.offerings.push(offering);
}

/// Adds an offering user, unless there is one of that name.
pub(crate) fn put_user(offering: &mut Offering, spec: UserSpec) {
    let (username, given) = match spec {
        UserSpec::Name(username) => (username, None),
        UserSpec::Full { username, uuid } => (username, uuid),
    };
    if offering.users.iter().any(|user| user.username == username) {
        return;
    }
    let derived = derived_uuid("offering user", &format!("{} {username}", offering.uuid));
    offering.users.push(OfferingUser { uuid: given.unwrap_or(derived), username });
}

/// Adds a component or changes the one of that type.
pub(crate) fn put_component(offering: &mut Offering, spec: ComponentSpec) {
    let derived = derived_uuid("component", &format!("{} {}", offering.uuid, spec.kind));
    let old = offering.components.iter().position(|c| c.kind == spec.kind);
    let known = old.and_then(|at| offering.components.get(at)).cloned();
    let component = Component {
        uuid: spec.uuid.or(known.as_ref().map(|c| c.uuid)).unwrap_or(derived),
        name: spec.name.or(known.as_ref().map(|c| c.name.clone())).unwrap_or_else(|| spec.kind.clone()),
        unit: spec.measured_unit.or(known.as_ref().map(|c| c.unit.clone())).unwrap_or_default(),
        billing: spec.billing_type.or(known.as_ref().map(|c| c.billing)).unwrap_or(Billing::Usage),
        limit_amount: spec.limit_amount.or(known.as_ref().and_then(|c| c.limit_amount)),
        limit_period: spec.limit_period.or(known.as_ref().and_then(|c| c.limit_period)),
        kind: spec.kind,
    };
    match old.and_then(|at| offering.components.get_mut(at)) {
        Some(slot) => *slot = component,
        None => offering.components.push(component),
    }
}

/// Adds a token or changes the one of that name.
pub(crate) fn put_token(world: &mut World, spec: TokenSpec) -> Result<(), String> {
    if spec.token.is_empty() {
        return Err("a token needs its `token`".into());
    }
    let known = world.tokens.remove(&spec.token);
    // The integer by which rows name their writer; far from 99, which is another writer.
    let fresh_id = 28 + i64::try_from(world.tokens.len()).unwrap_or_default();
    let mut token = known.unwrap_or_else(|| Token {
        id: if fresh_id >= 99 { fresh_id + 1 } else { fresh_id },
        username: spec.token.clone(),
        offerings: BTreeSet::new(),
        everything: spec.offerings.is_none() && spec.owner_of.is_none() && spec.staff != Some(true),
        owns: BTreeSet::new(),
        staff: false,
        active: true,
        lifetime: None,
        last_used: world.clock.now(),
        turn: Arc::new(Semaphore::new(world.calls_at_once)),
    });
    if let Some(names) = &spec.offerings {
        token.everything = names.iter().any(|name| name == "*");
        token.offerings.clear();
        for name in names.iter().filter(|name| *name != "*") {
            let offering = find_offering(world, name)?;
            token.offerings.extend(world.offerings.get(offering).map(|o| o.uuid));
        }
    }
    if let Some(names) = &spec.owner_of {
        token.owns = names.iter().map(|name| customer(world, name).uuid).collect();
    }
    if let Some(lifetime) = spec.lifetime {
        token.lifetime = lifetime;
        token.last_used = world.clock.now();
    }
    token.username = spec.username.unwrap_or(token.username);
    token.staff = spec.staff.unwrap_or(token.staff);
    token.active = spec.active.unwrap_or(token.active);
    world.tokens.insert(spec.token, token);
    Ok(())
}

/// Adds a resource; a UUID that exists already is refused.
pub(crate) fn add_resource(world: &mut World, spec: ResourceSpec) -> Result<Uuid, String> {
    let offering = match (spec.offering.is_empty(), world.offerings.len()) {
        (true, 1) => 0,
        (true, _) => return Err("a resource needs its `offering`".into()),
        (false, _) => find_offering(world, &spec.offering)?,
    };
    let name = spec.name.or_else(|| spec.backend_id.clone()).unwrap_or_else(|| "resource".into());
    let backend_id = spec.backend_id.unwrap_or_default();
    let uuid = spec.uuid.unwrap_or_else(|| derived_uuid("resource", &format!("{name} {backend_id}")));
    if world.resource_home.contains_key(&uuid) {
        return Err(format!("two resources with the UUID {uuid}"));
    }
    let customer = customer(world, spec.customer.as_deref().unwrap_or("Acme"));
    let project = spec.project.unwrap_or_else(|| "Project".into());
    let project =
        Named { uuid: derived_uuid("project", &format!("{} {project}", customer.uuid)), name: project };
    let created = spec.created.unwrap_or(LONG_AGO);
    let plan = spec.plan.unwrap_or(true).then(|| plan_of(offering, 1));
    let plan_periods = match (spec.plan_periods, &plan) {
        (Some(periods), plan) => {
            let plan = plan.clone().unwrap_or_else(|| plan_of(offering, 1));
            periods.into_iter().map(|period| plan_period(period, &plan)).collect()
        }
        (None, Some(plan)) => {
            let uuid = derived_uuid("plan period", &uuid.to_string());
            vec![PlanPeriod { uuid, plan: plan.clone(), start: created, end: None }]
        }
        (None, None) => Vec::new(),
    };
    let user_limits = spec.user_limits.into_iter();
    world.resources.push(Resource {
        uuid,
        name,
        backend_id,
        state: spec.state.unwrap_or_else(|| "OK".into()),
        offering,
        project,
        customer,
        plan,
        plan_periods,
        limits: spec.limits.into_iter().map(|(kind, limit)| (kind, limit.0)).collect(),
        user_limits: user_limits
            .map(|l| UserLimit { username: l.username, kind: l.kind, limit: l.limit.0 })
            .collect(),
        current_usages: BTreeMap::new(),
        rows: Vec::new(),
        items: Vec::new(),
        broken: BTreeSet::new(),
        created,
        modified: created,
    });
    world.index(world.resources.len() - 1);
    Ok(uuid)
}

/// A plan period as it is given.
pub(crate) fn plan_period(spec: PeriodSpec, plan: &Named) -> PlanPeriod {
    let uuid = spec.uuid.unwrap_or_else(Uuid::new_v4);
    PlanPeriod { uuid, plan: plan.clone(), start: spec.start, end: spec.end }
}

/// Resources that say nothing else have existed since then.
const LONG_AGO: Timestamp = Timestamp::constant(1_577_836_800, 0);

/// An offering's n-th plan.
pub(crate) fn plan_of(offering: usize, number: usize) -> Named {
    let name = if number == 1 { "Standard".to_owned() } else { format!("Standard {number}") };
    Named { uuid: derived_uuid("plan", &format!("{offering} {number}")), name }
}

/// Writes a row as another writer would: directly, past every rule.
pub(crate) fn put_row(world: &mut World, spec: RowSpec) -> Result<Uuid, String> {
    let home = find_resource(world, &spec.resource)?;
    let now = world.clock.now();
    let date = spec.date.unwrap_or(now);
    let month = match (spec.billing_period, spec.date) {
        (Some(day), _) => day.first_of_month(),
        (None, Some(date)) => world.month_of_date(date),
        (None, None) => world.month_now(),
    };
    let offering = world.resources.get(home).and_then(|r| world.offering_of(r));
    let users: Vec<UserRow> = spec
        .users
        .into_iter()
        .map(|(username, usage)| UserRow {
            uuid: Uuid::new_v4(),
            user: offering.and_then(|o| o.users.iter().find(|u| u.username == username)).map(|u| u.uuid),
            username,
            usage: usage.0,
            created: now,
            modified: now,
        })
        .collect();
    let missing = match spec.missing_usage_policy.as_deref() {
        None if spec.recurring => Missing::Reuse,
        None | Some("none") => Missing::None,
        Some("reuse") => Missing::Reuse,
        Some("zero") => Missing::Zero,
        Some(other) => return Err(format!("missing_usage_policy: {other}")),
    };
    let zone = world.month_zone();
    let Some(resource) = world.resources.get_mut(home) else { return Err("no such resource".into()) };
    let start = crate::clock::month_start(month, &zone);
    let end = crate::clock::month_start(crate::clock::month_after(month), &zone);
    let holding = resource.plan_periods.iter().rev().find(|p| p.holds(date.clamp(start, end)));
    let plan_period = spec.plan_period.or(holding.map(|p| p.uuid));
    let key = |row: &Row| row.kind == spec.kind && row.month == month && row.plan_period == plan_period;
    let old = resource.rows.iter().position(key);
    let kept = old.map(|at| resource.rows.remove(at));
    let row = Row {
        uuid: kept.as_ref().map_or_else(Uuid::new_v4, |row| row.uuid),
        kind: spec.kind,
        plan_period,
        month,
        usage: spec.usage.0,
        description: spec.description.unwrap_or_default(),
        date,
        created: kept.as_ref().map_or(now, |row| row.created),
        modified_by: Some(spec.modified_by.unwrap_or(99)),
        missing,
        users: if users.is_empty() { kept.map(|row| row.users).unwrap_or_default() } else { users },
        as_read: spec.as_read,
    };
    let uuid = row.uuid;
    resource.rows.push(row);
    let customer = resource.customer.uuid;
    // A month that somebody has reported in has its invoice.
    world.invoices.insert((customer, month));
    crate::billing::bill(world, home, uuid);
    world.index(home);
    Ok(uuid)
}

fn customer(world: &mut World, name: &str) -> Named {
    if let Some(known) = world.customers.iter().find(|c| c.name == name) {
        return known.clone();
    }
    let customer = Named { uuid: derived_uuid("customer", name), name: name.to_owned() };
    world.customers.push(customer.clone());
    customer
}

pub(crate) fn find_offering(world: &World, name: &str) -> Result<usize, String> {
    let uuid = name.parse::<Uuid>().ok();
    let found = world.offerings.iter().position(|o| Some(o.uuid) == uuid || o.name == name);
    found.ok_or_else(|| format!("no offering {name}"))
}

/// By UUID, backend id or name.
pub(crate) fn find_resource(world: &World, name: &str) -> Result<usize, String> {
    let uuid = name.parse::<Uuid>().ok();
    let found =
        world.resources.iter().position(|r| Some(r.uuid) == uuid || r.backend_id == name || r.name == name);
    found.ok_or_else(|| format!("no resource {name}"))
}
