//! What an agent finds its way by: resources, plan periods, offerings, their users, itself, the server (A §8).
//!
//! A lost role looks like an empty list, never like a refusal. The one write here is `set_backend_id`.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::amount;
use crate::answer::Answer;
use crate::clock;
use crate::json::Json;
use crate::lists::{Page, Query, only};
use crate::usage_lists::{base, usage_in_period};
use crate::world::{Api, Billing, Caller, Named, Offering, Resource, Token, World, hex};

const STATES: [&str; 6] = ["Creating", "OK", "Erred", "Updating", "Terminating", "Terminated"];

fn no_resource() -> Answer {
    Answer::detail(404, "No Resource matches the given query.")
}

fn visible<'a>(world: &'a World, caller: &Caller, uuid: &str) -> Option<&'a Resource> {
    let home = uuid.parse::<Uuid>().ok().and_then(|uuid| world.resource_at(uuid))?;
    let resource = world.resources.get(home)?;
    world.offering_of(resource).is_some_and(|o| caller.manages(o)).then_some(resource)
}

pub(crate) fn resources(world: &World, caller: &Caller, query: &Query) -> Result<Answer, Answer> {
    let states = query.choices("state", &STATES)?;
    let offerings: Vec<Uuid> = match query.uuid("offering_uuid")? {
        None => Vec::new(),
        Some(_) => query.all("offering_uuid").filter_map(|text| text.parse().ok()).collect(),
    };
    let (project, customer) = (query.uuid("project_uuid")?, query.uuid("customer_uuid")?);
    let provider = query.uuid("provider_uuid")?;
    let (backend_id, name) = (query.last("backend_id"), query.last("name_exact"));
    let words = query.last("query").map(str::to_lowercase);
    let modified = match query.last("modified") {
        None => None,
        Some(text) => match crate::fields::parse_instant(text, &world.zone) {
            Some(at) => Some(at),
            None => return Err(Answer::field("modified", "Enter a valid date/time.")),
        },
    };
    let orders = query.choices("o", &["name", "-name", "created", "-created"])?;
    let wanted = |resource: &&Resource| {
        let Some(offering) = world.offering_of(resource) else { return false };
        caller.manages(offering)
            && (states.is_empty() || states.contains(&resource.state))
            && (offerings.is_empty() || offerings.contains(&offering.uuid))
            && project.is_none_or(|uuid| resource.project.uuid == uuid)
            && customer.is_none_or(|uuid| resource.customer.uuid == uuid)
            && provider.is_none_or(|uuid| offering.customer.uuid == uuid)
            && backend_id.is_none_or(|id| resource.backend_id == id)
            && name.is_none_or(|name| resource.name == name)
            && modified.is_none_or(|at| resource.modified >= at)
            && words.as_ref().is_none_or(|words| {
                let text =
                    [&resource.name, &resource.backend_id, &hex(resource.uuid)].map(|t| t.to_lowercase());
                text.iter().any(|t| t.contains(words))
            })
    };
    let mut found: Vec<&Resource> = world.resources.iter().filter(wanted).collect();
    for by in orders.iter().rev() {
        found.sort_by(|a, b| match by.as_str() {
            "name" => a.name.cmp(&b.name),
            "-name" => b.name.cmp(&a.name),
            "-created" => b.created.cmp(&a.created),
            _ => a.created.cmp(&b.created),
        });
    }
    let page = Page::of(query, found.len())?;
    let base = base(query);
    Ok(page.answer(query, page.cut(found).into_iter().map(|r| resource(world, r, &base)).collect()))
}

pub(crate) fn one_resource(world: &World, caller: &Caller, query: &Query, uuid: &str) -> Answer {
    match visible(world, caller, uuid) {
        Some(found) => {
            let fields: Vec<&str> = query.all("field").collect();
            Answer::json(200, &only(resource(world, found, &base(query)), &fields))
        }
        None => no_resource(),
    }
}

/// Not paginated; periods not ended before this month, with this month's rows only (A §4).
pub(crate) fn plan_periods(world: &World, caller: &Caller, uuid: &str) -> Answer {
    let Some(resource) = visible(world, caller, uuid) else { return no_resource() };
    let month = world.month_now();
    let month_start = clock::month_start(month, &world.month_zone());
    let open = resource.plan_periods.iter().filter(|p| p.end.is_none_or(|end| end >= month_start));
    let shown: Vec<Value> = open
        .map(|period| {
            let rows =
                resource.rows.iter().filter(|r| r.plan_period == Some(period.uuid) && r.month == month);
            json!({
                "uuid": hex(period.uuid),
                "plan_name": period.plan.name,
                "plan_uuid": hex(period.plan.uuid),
                "start": clock::show(period.start),
                "end": period.end.map(clock::show),
                "components": rows.map(|row| usage_in_period(world, resource, row)).collect::<Vec<_>>(),
            })
        })
        .collect();
    Answer::json(200, &Value::Array(shown))
}

pub(crate) fn set_backend_id(world: &mut World, caller: &Caller, uuid: &str, body: &Json) -> Answer {
    let Some(uuid) = visible(world, caller, uuid).map(|r| r.uuid) else { return no_resource() };
    let wording = crate::fields::Wording { blank: true, longest: Some(255) };
    let backend_id = match crate::fields::required(body, "backend_id")
        .and_then(|value| crate::fields::text(value, wording))
    {
        Ok(backend_id) => backend_id,
        Err(error) => return Answer::refused(&json!({ "backend_id": error })),
    };
    let now = world.clock.now();
    if let Some(resource) = world.resource_at(uuid).and_then(|home| world.resources.get_mut(home)) {
        resource.backend_id = backend_id;
        resource.modified = now;
    }
    Answer::json(200, &json!({ "status": "Resource backend_id has been changed." }))
}

pub(crate) fn offerings(world: &World, caller: &Caller, query: &Query) -> Result<Answer, Answer> {
    let seen = world.offerings.iter().filter(|o| caller.manages(o));
    let name = query.last("name");
    let seen = seen.filter(|o| name.is_none_or(|name| o.name.to_lowercase().contains(&name.to_lowercase())));
    let found: Vec<&Offering> = seen.collect();
    let page = Page::of(query, found.len())?;
    let base = base(query);
    Ok(page.answer(query, page.cut(found).into_iter().map(|o| offering(world, o, &base)).collect()))
}

/// `caller`: only what it manages; without one, the public view that anyone has (A §8).
pub(crate) fn one_offering(world: &World, caller: Option<&Caller>, query: &Query, uuid: &str) -> Answer {
    let found = uuid.parse::<Uuid>().ok().and_then(|uuid| world.offering_at(uuid));
    let found = found.and_then(|at| world.offerings.get(at));
    match found.filter(|o| caller.is_none_or(|caller| caller.manages(o))) {
        Some(found) => {
            let fields: Vec<&str> = query.all("field").collect();
            Answer::json(200, &only(offering(world, found, &base(query)), &fields))
        }
        None => Answer::detail(404, "No Offering matches the given query."),
    }
}

pub(crate) fn offering_users(world: &World, caller: &Caller, query: &Query) -> Result<Answer, Answer> {
    let wanted = query.uuid("offering_uuid")?;
    let name = query.last("username");
    let mine = world.offerings.iter().filter(|o| caller.manages(o));
    let mine = mine.filter(|o| wanted.is_none_or(|uuid| o.uuid == uuid));
    let base = base(query);
    let users = mine.flat_map(|offering| offering.users.iter().map(move |user| (offering, user)));
    let users = users.filter(|(_, user)| name.is_none_or(|name| user.username == name));
    let rows: Vec<Value> = users
        .map(|(offering, user)| {
            let person = crate::world::derived_uuid("user", &user.username);
            json!({
                "url": format!("{base}/api/marketplace-offering-users/{}/", hex(user.uuid)),
                "uuid": hex(user.uuid),
                "user": format!("{base}/api/users/{}/", hex(person)),
                "user_uuid": hex(person),
                "user_username": user.username,
                "username": user.username,
                "offering": format!("{base}/api/marketplace-public-offerings/{}/", hex(offering.uuid)),
                "offering_uuid": hex(offering.uuid),
                "offering_name": offering.name,
                "customer_uuid": hex(offering.customer.uuid),
                "customer_name": offering.customer.name,
                "created": clock::show(offering.created),
                "modified": clock::show(offering.created),
                "state": "OK",
            })
        })
        .collect();
    let page = Page::of(query, rows.len())?;
    Ok(page.answer(query, page.cut(rows)))
}

pub(crate) fn me(world: &World, key: &str, token: &Token, query: &Query) -> Answer {
    let caller = token.caller();
    let uuid = crate::world::derived_uuid("user", &token.username);
    let mut permissions = Vec::new();
    let mut permit = |role: &str, scope: &str, of: (Uuid, &str), customer: &Named| {
        permissions.push(json!({
            "role_name": role,
            "scope_type": scope,
            "scope_uuid": hex(of.0),
            "scope_name": of.1,
            "expiration_time": null,
            "customer_uuid": hex(customer.uuid),
            "customer_name": customer.name,
        }));
    };
    let managed = |o: &&Offering| caller.everything || caller.offerings.contains(&o.uuid);
    for offering in world.offerings.iter().filter(managed) {
        let provider = &offering.customer;
        permit("OFFERING.MANAGER", "offering", (offering.uuid, &offering.name), provider);
        // The offering's role brings the provider's with it (A §8).
        permit("CUSTOMER.MANAGER", "customer", (provider.uuid, &provider.name), provider);
    }
    for customer in world.customers.iter().filter(|customer| caller.owns.contains(&customer.uuid)) {
        permit("CUSTOMER.OWNER", "customer", (customer.uuid, &customer.name), customer);
    }
    let body = json!({
        "url": format!("{}/api/users/{}/", base(query), hex(uuid)),
        "uuid": hex(uuid),
        "username": token.username,
        "full_name": token.username,
        "email": "",
        "token": key,
        "token_lifetime": token.lifetime,
        "is_staff": token.staff,
        "is_support": false,
        "is_active": token.active,
        "permissions": permissions,
    });
    Answer::json(200, &only(body, &query.all("field").collect::<Vec<_>>()))
}

pub(crate) fn version(caller: &Caller) -> Answer {
    if caller.staff { Answer::json(200, &json!({ "version": "unknown" })) } else { Answer::forbidden() }
}

/// Open to everybody (A §8).
pub(crate) fn configuration() -> Answer {
    Answer::json(200, &json!({ "WALDUR_CORE": { "SITE_NAME": "Waldur sandbox" } }))
}

fn resource(world: &World, resource: &Resource, base: &str) -> Value {
    let Some(offering) = world.offering_of(resource) else { return Value::Null };
    let has = |billing| offering.components.iter().any(|c| c.billing == billing);
    let limits: Map<String, Value> =
        resource.limits.iter().map(|(kind, limit)| (kind.clone(), number(*limit))).collect();
    json!({
        "url": format!("{base}/api/marketplace-provider-resources/{}/", hex(resource.uuid)),
        "uuid": hex(resource.uuid),
        "name": resource.name,
        "slug": resource.name.to_lowercase().replace(' ', "-"),
        "description": "",
        "backend_id": resource.backend_id,
        "effective_id": "",
        "state": resource.state,
        "created": clock::show(resource.created),
        "modified": clock::show(resource.modified),
        "plan_uuid": resource.plan.as_ref().map(|plan| hex(plan.uuid)),
        "plan_name": resource.plan.as_ref().map(|plan| &plan.name),
        "limits": limits,
        "limit_usage": {},
        "current_usages": resource.current_usages,
        "is_usage_based": has(Billing::Usage),
        "is_limit_based": has(Billing::Limit),
        "offering": format!("{base}/api/marketplace-public-offerings/{}/", hex(offering.uuid)),
        "offering_uuid": hex(offering.uuid),
        "offering_name": offering.name,
        "offering_type": "Marketplace.Basic",
        "provider_uuid": hex(offering.customer.uuid),
        "provider_name": offering.customer.name,
        "project_uuid": hex(resource.project.uuid),
        "project_name": resource.project.name,
        "customer_uuid": hex(resource.customer.uuid),
        "customer_name": resource.customer.name,
        "attributes": {},
        "end_date": null,
        "paused": false,
        "downscaled": false,
        "backend_metadata": {},
    })
}

/// Limits are numbers on the wire.
fn number(limit: rust_decimal::Decimal) -> Value {
    let plain = limit.normalize().to_string();
    plain.parse::<i64>().map_or_else(|_| Value::String(amount::show(limit)), Value::from)
}

fn offering(world: &World, offering: &Offering, base: &str) -> Value {
    let components: Vec<Value> = offering
        .components
        .iter()
        .map(|c| {
            let mut value = json!({
                "uuid": hex(c.uuid),
                "billing_type": c.billing.name(),
                "type": c.kind,
                "name": c.name,
                "description": "",
                "measured_unit": c.unit,
                "limit_period": c.limit_period.map(crate::world::LimitPeriod::name),
                "limit_amount": c.limit_amount,
                "article_code": "",
                "min_value": null,
                "max_value": null,
                "is_boolean": false,
                "default_limit": null,
                "factor": 1,
                "is_builtin": false,
            });
            if let (Api::Current, Value::Object(fields)) = (world.api, &mut value) {
                // A float in newer servers (C).
                if let Some(limit) = c.limit_amount.and_then(|limit| format!("{limit}.0").parse().ok()) {
                    fields.insert("limit_amount".into(), Value::Number(limit));
                }
                fields.insert("offering_uuid".into(), hex(offering.uuid).into());
                fields.insert("is_prepaid".into(), (c.billing == Billing::One).into());
            }
            value
        })
        .collect();
    let at = world.offering_at(offering.uuid).unwrap_or_default();
    let plan = crate::marketplace::plan_of(at, 1);
    json!({
        "url": format!("{base}/api/marketplace-provider-offerings/{}/", hex(offering.uuid)),
        "uuid": hex(offering.uuid),
        "name": offering.name,
        "slug": offering.name.to_lowercase().replace(' ', "-"),
        "created": clock::show(offering.created),
        "description": "",
        "state": "Active",
        "type": "Marketplace.Basic",
        "shared": true,
        "billable": true,
        "customer_uuid": hex(offering.customer.uuid),
        "customer_name": offering.customer.name,
        "components": components,
        "plans": [{ "uuid": hex(plan.uuid), "name": plan.name, "prices": {}, "quotas": {}, "unit": "month" }],
    })
}
