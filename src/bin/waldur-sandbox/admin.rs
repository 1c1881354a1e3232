//! The sandbox's own API, under /sandbox/: look into it, drive its clock, order faults, play other writers.
//!
//! It asks for no token, is never slow, never noted among the requests, and no part of Waldur.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::amount;
use crate::answer::Answer;
use crate::app::App;
use crate::clock;
use crate::faults::Faults;
use crate::lists::decode_form;
use crate::marketplace::{self, plan_of};
use crate::request::Request;
use crate::specs::{ComponentSpec, PeriodSpec, ResourceSpec, RowSpec, TokenSpec, UserSpec};
use crate::world::{InvoiceItem, Missing, PlanPeriod, Resource, Row, World, hex};

const PAGE: &str = include_str!("page.html");

pub(crate) fn serve(app: &App, request: &Request) -> Answer {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let done = match (request.method.as_str(), parts.as_slice()) {
        ("GET" | "HEAD", [""]) => {
            let headers = vec![("Content-Type".into(), "text/html; charset=utf-8".into())];
            return Answer { status: 200, headers, body: PAGE.as_bytes().to_vec() };
        }
        ("GET", ["sandbox", "state"]) => Ok(state(&app.world(), &format!("http://{}", request.host))),
        ("GET", ["sandbox", "requests"]) => Ok(requests(app, &request.query)),
        ("POST", ["sandbox", "clock"]) => read(request).and_then(|spec| set_clock(&mut app.world(), spec)),
        ("POST", ["sandbox", "faults"]) => read(request).and_then(Faults::build).map(|faults| {
            app.set_faults(faults);
            json!({})
        }),
        ("DELETE", ["sandbox", "faults"]) => {
            app.set_faults(Vec::new());
            Ok(json!({}))
        }
        ("POST", ["sandbox", "resources"]) => read(request)
            .and_then(|spec: ResourceSpec| marketplace::add_resource(&mut app.world(), spec))
            .map(|uuid| json!({ "uuid": uuid.to_string() })),
        ("POST", ["sandbox", "resources", name]) => {
            read(request).and_then(|spec| change_resource(&mut app.world(), name, spec))
        }
        ("POST", ["sandbox", "offerings", name, "components"]) => {
            read(request).and_then(|spec| component(&mut app.world(), name, spec))
        }
        ("DELETE", ["sandbox", "offerings", name, "components", kind]) => {
            remove_component(&mut app.world(), name, kind)
        }
        ("POST", ["sandbox", "offerings", name, "users"]) => {
            read(request).and_then(|spec| offering_user(&mut app.world(), name, spec))
        }
        ("POST", ["sandbox", "late"]) => Ok(json!({ "processed": app.process_late() })),
        ("POST", ["sandbox", "tokens"]) => read(request)
            .and_then(|spec: TokenSpec| marketplace::put_token(&mut app.world(), spec))
            .map(|()| json!({})),
        ("POST", ["sandbox", "rows"]) => read(request)
            .and_then(|spec: RowSpec| marketplace::put_row(&mut app.world(), spec))
            .map(|uuid| json!({ "uuid": uuid.to_string() })),
        ("POST", ["sandbox", "settings"]) => read(request).map(|spec| settings(&mut app.world(), &spec)),
        _ => return Answer::detail(404, "The sandbox has no such thing."),
    };
    match done {
        // People read these with curl.
        Ok(body) => Answer { body: format!("{body:#}\n").into_bytes(), ..Answer::json(200, &body) },
        Err(error) => Answer::detail(400, &error),
    }
}

fn read<T: DeserializeOwned>(request: &Request) -> Result<T, String> {
    let body: &[u8] = if request.body.is_empty() { b"{}" } else { &request.body };
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn requests(app: &App, query: &str) -> Value {
    let query = decode_form(query);
    let number = |name: &str| query.iter().find(|(k, _)| k == name).and_then(|(_, v)| v.parse::<u64>().ok());
    let last = number("last").and_then(|n| usize::try_from(n).ok());
    app.notes().since(number("since").unwrap_or_default(), last)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClockSpec {
    now: Option<Timestamp>,
    advance_seconds: Option<f64>,
    freeze: Option<bool>,
    skew_seconds: Option<f64>,
}

fn set_clock(world: &mut World, spec: ClockSpec) -> Result<Value, String> {
    let seconds = |s: f64| SignedDuration::try_from_secs_f64(s).map_err(|error| error.to_string());
    // First: a clock that stands is then at the very instant.
    if let Some(frozen) = spec.freeze {
        world.clock.freeze(frozen);
    }
    if let Some(now) = spec.now {
        world.clock.set(now);
    }
    if let Some(by) = spec.advance_seconds {
        world.clock.advance(seconds(by)?);
    }
    if let Some(by) = spec.skew_seconds {
        world.clock.skew(seconds(by)?);
    }
    Ok(json!({ "now": clock::show(world.clock.now()) }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    latency_ms: Option<u64>,
    first_of_month_ms: Option<u64>,
    calls_at_once: Option<usize>,
}

fn settings(world: &mut World, spec: &Settings) -> Value {
    world.latency_ms = spec.latency_ms.unwrap_or(world.latency_ms);
    world.first_of_month_ms = spec.first_of_month_ms.unwrap_or(world.first_of_month_ms);
    if let Some(at_once) = spec.calls_at_once {
        world.calls_at_once = at_once.max(1);
        for token in world.tokens.values_mut() {
            // Calls that wait keep their turn among themselves.
            token.turn = Arc::new(Semaphore::new(world.calls_at_once));
        }
    }
    json!({
        "latency_ms": world.latency_ms,
        "first_of_month_ms": world.first_of_month_ms,
        "calls_at_once": world.calls_at_once,
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ResourceChange {
    state: Option<String>,
    backend_id: Option<String>,
    name: Option<String>,
    plan: Option<bool>,
    /// A new plan period under another plan,
    switch_plan: bool,
    /// or under the same one.
    renew_plan: bool,
    end_plan: bool,
    plan_periods: Option<Vec<PeriodSpec>>,
}

fn change_resource(world: &mut World, name: &str, spec: ResourceChange) -> Result<Value, String> {
    let home = marketplace::find_resource(world, name)?;
    let now = world.clock.now();
    let Some(resource) = world.resources.get_mut(home) else { return Err(format!("no resource {name}")) };
    resource.state = spec.state.unwrap_or_else(|| resource.state.clone());
    resource.backend_id = spec.backend_id.unwrap_or_else(|| resource.backend_id.clone());
    resource.name = spec.name.unwrap_or_else(|| resource.name.clone());
    match spec.plan {
        Some(false) => resource.plan = None,
        Some(true) if resource.plan.is_none() => {
            let plan = plan_of(resource.offering, 1);
            resource.plan = Some(plan.clone());
            if !resource.plan_periods.iter().any(|p| p.holds(now)) {
                resource.plan_periods.push(PlanPeriod { uuid: Uuid::new_v4(), plan, start: now, end: None });
            }
        }
        _ => {}
    }
    if let Some(periods) = spec.plan_periods {
        let plan = resource.plan.clone().unwrap_or_else(|| plan_of(resource.offering, 1));
        resource.plan_periods = periods.into_iter().map(|one| marketplace::plan_period(one, &plan)).collect();
    }
    if spec.end_plan || spec.switch_plan || spec.renew_plan {
        for period in resource.plan_periods.iter_mut().filter(|p| p.end.is_none_or(|end| end > now)) {
            period.end = Some(now);
        }
    }
    if spec.switch_plan {
        let plan = plan_of(resource.offering, resource.plan_periods.len() + 1);
        resource.plan = Some(plan.clone());
        resource.plan_periods.push(PlanPeriod { uuid: Uuid::new_v4(), plan, start: now, end: None });
    }
    if let (true, Some(plan)) = (spec.renew_plan, resource.plan.clone()) {
        resource.plan_periods.push(PlanPeriod { uuid: Uuid::new_v4(), plan, start: now, end: None });
    }
    resource.modified = now;
    let periods: Vec<Value> = resource.plan_periods.iter().map(period).collect();
    Ok(json!({ "uuid": resource.uuid.to_string(), "plan_periods": periods }))
}

/// Its rows stay.
fn remove_component(world: &mut World, name: &str, kind: &str) -> Result<Value, String> {
    let at = marketplace::find_offering(world, name)?;
    if let Some(offering) = world.offerings.get_mut(at) {
        offering.components.retain(|one| one.kind != kind);
    }
    Ok(json!({}))
}

fn component(world: &mut World, name: &str, spec: ComponentSpec) -> Result<Value, String> {
    let at = marketplace::find_offering(world, name)?;
    if let Some(offering) = world.offerings.get_mut(at) {
        marketplace::put_component(offering, spec);
    }
    Ok(json!({}))
}

fn offering_user(world: &mut World, name: &str, spec: UserSpec) -> Result<Value, String> {
    let at = marketplace::find_offering(world, name)?;
    if let Some(offering) = world.offerings.get_mut(at) {
        marketplace::put_user(offering, spec);
    }
    Ok(json!({}))
}

fn state(world: &World, base: &str) -> Value {
    let resources: Vec<Value> = world.resources.iter().map(|resource| shown(world, resource, base)).collect();
    json!({
        "now": clock::show(world.clock.now()),
        "api": world.api.name(),
        "timezone": world.zone_name,
        "resources": resources,
    })
}

fn shown(world: &World, resource: &Resource, base: &str) -> Value {
    json!({
        "uuid": resource.uuid.to_string(),
        "name": resource.name,
        "backend_id": resource.backend_id,
        "state": resource.state,
        "offering": world.offering_of(resource).map(|o| o.name.clone()),
        "customer": resource.customer.name,
        "project": resource.project.name,
        "plan": resource.plan.as_ref().map(|plan| plan.name.clone()),
        "plan_periods": resource.plan_periods.iter().map(period).collect::<Vec<_>>(),
        "current_usages": resource.current_usages,
        "rows": resource.rows.iter().map(|r| row(r, base)).collect::<Vec<_>>(),
        "invoice_items": resource.items.iter().map(item).collect::<Vec<_>>(),
    })
}

fn period(period: &PlanPeriod) -> Value {
    json!({
        "uuid": period.uuid.to_string(),
        "plan": period.plan.name,
        "start": clock::show(period.start),
        "end": period.end.map(clock::show),
    })
}

fn row(row: &Row, base: &str) -> Value {
    let user = |uuid: Uuid| format!("{base}/api/marketplace-offering-users/{}/", hex(uuid));
    let users: BTreeMap<&str, Value> = row
        .users
        .iter()
        .map(|u| (u.username.as_str(), json!({ "usage": amount::show(u.usage), "user": u.user.map(user) })))
        .collect();
    json!({
        "uuid": row.uuid.to_string(),
        "type": row.kind,
        "usage": amount::show(row.usage),
        "billing_period": row.month.to_string(),
        "plan_period": row.plan_period.map(|uuid| uuid.to_string()),
        "description": row.description,
        "date": clock::show(row.date),
        "modified_by": row.modified_by,
        "recurring": row.missing == Missing::Reuse,
        "missing_usage_policy": row.missing.name(),
        "users": users,
    })
}

fn item(item: &InvoiceItem) -> Value {
    json!({
        "type": item.kind,
        "billing_period": item.month.to_string(),
        "plan_period": item.plan_period.to_string(),
        "quantity": amount::show(item.quantity),
    })
}
