//! `POST set_usage/`: a month's totals of one resource (A §1 to §4, B1).
//!
//! Two steps that never mix: `validate` decides from a read-only world, `write` changes it. The real server's
//! one mixture is kept on purpose: a limit refuses in the middle of writing, and what came before it stays (A §2).

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::amount;
use crate::answer::Answer;
use crate::billing::{self, Broken};
use crate::clock;
use crate::fields::{self, Field, NULL, REQUIRED, Wording, refuse};
use crate::json::Json;
use crate::marketplace::plan_of;
use crate::world::{Api, Billing, LimitPeriod, Missing, PlanPeriod, Resource, Row, World};

/// Who calls: what of a token the rules ask for.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) id: i64,
    pub(crate) staff: bool,
    pub(crate) everything: bool,
    pub(crate) offerings: BTreeSet<Uuid>,
}

impl Caller {
    pub(crate) fn provides(&self, offering: Uuid) -> bool {
        self.everything || self.offerings.contains(&offering)
    }

    pub(crate) fn manages(&self, offering: Uuid) -> bool {
        self.staff || self.provides(offering)
    }
}

/// A call that has passed every check.
struct Report {
    home: usize,
    /// Asked for by the caller; `None`: by the resource.
    plan_period: Option<Uuid>,
    date: Option<Timestamp>,
    month: Date,
    items: Vec<Item>,
}

struct Item {
    kind: String,
    amount: Decimal,
    description: String,
    missing: Missing,
}

pub(crate) fn set_usage(world: &mut World, caller: &Caller, body: &Json) -> Answer {
    let report = match validate(world, caller, body) {
        Ok(report) => report,
        Err(answer) => return answer,
    };
    // Only now permission (A, other statuses): a user without rights gets 400s about foreign resources.
    let resource = world.resources.get(report.home);
    let offering = resource.and_then(|r| world.offering_of(r));
    if !offering.is_some_and(|offering| caller.manages(offering.uuid)) {
        return Answer::forbidden();
    }
    write(world, caller, &report)
}

/// Whether a body's call would be the first of the month for its customer, which builds an invoice (A §11).
pub(crate) fn is_first_of_month(world: &World, body: &Json) -> bool {
    let target = body.get("plan_period").or_else(|| body.get("resource")).map(Json::display);
    let uuid = target.and_then(|text| text.trim().parse::<Uuid>().ok());
    let home = uuid.and_then(|uuid| world.resource_at(uuid).or_else(|| world.plan_period_home(uuid)));
    let resource = home.and_then(|home| world.resources.get(home));
    resource.is_some_and(|r| !world.invoices.contains(&(r.customer.uuid, world.month_now())))
}

fn validate(world: &World, caller: &Caller, body: &Json) -> Result<Report, Answer> {
    let dictionary = |name: &str| format!("Invalid data. Expected a dictionary, but got {name}.");
    match body {
        Json::Object(_) => {}
        Json::Null => return Err(Answer::field("non_field_errors", "No data provided")),
        other => return Err(Answer::field("non_field_errors", &dictionary(other.type_name()))),
    }
    let mut errors = Map::new();
    let items = keep(&mut errors, "usages", usages(world, body));
    let period = body.get("plan_period").map(|v| reference(v, |uuid| world.plan_period_home(uuid)));
    let period = keep(&mut errors, "plan_period", period.transpose().and_then(|found| open(world, found)));
    let resource = body.get("resource").map(|v| reference(v, |uuid| world.resource_at(uuid)));
    let resource = keep(&mut errors, "resource", resource.transpose());
    let date = keep(&mut errors, "date", date(world, body));
    let (Some(items), Some(period), Some(resource), Some(date), true) =
        (items, period, resource, date, errors.is_empty())
    else {
        return Err(Answer::refused(&Value::Object(errors)));
    };

    // Both given: the plan period wins (A §4).
    let Some((home, _)) = period.or(resource) else {
        return Err(Answer::field("non_field_errors", "Either plan_period or resource should be provided."));
    };
    let (Some(target), Some(offering)) =
        (world.resources.get(home), world.resources.get(home).and_then(|r| world.offering_of(r)))
    else {
        return Err(Answer::broken());
    };
    if target.plan.is_none() {
        return Err(match world.api {
            Api::Classic => Answer::broken(),
            Api::Current => Answer::field("resource", "Resource must have a plan to report usage"),
        });
    }
    if !matches!(target.state.as_str(), "OK" | "Updating" | "Terminating") {
        return Err(Answer::field("resource", "Resource is not in valid state."));
    }
    let billing_of = |item: &Item| offering.component(&item.kind).map(|c| c.billing);
    let reportable = |billing| match billing {
        Some(Billing::Usage | Billing::Limit) => true,
        Some(Billing::One) => world.api == Api::Current,
        _ => false,
    };
    let invalid: BTreeSet<&str> =
        items.iter().filter(|item| !reportable(billing_of(item))).map(|item| item.kind.as_str()).collect();
    if !invalid.is_empty() {
        let names = invalid.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Answer::field("non_field_errors", &format!("These components are invalid: {names}.")));
    }
    let month = date.map_or_else(|| world.month_now(), |date| world.month_of_date(date));
    let usage_based = items.iter().any(|item| billing_of(item) == Some(Billing::Usage));
    may_backfill(world, caller, offering.uuid, month, usage_based)?;
    Ok(Report { home, plan_period: period.map(|(_, uuid)| uuid), date, month, items })
}

/// Who may write a past month (B1). The same for users' usages (B2).
pub(crate) fn may_backfill(
    world: &World,
    caller: &Caller,
    offering: Uuid,
    month: Date,
    usage_based: bool,
) -> Result<(), Answer> {
    if month >= world.month_now() || caller.staff {
        return Ok(());
    }
    if !caller.provides(offering) {
        let text = "Only staff users and service providers can specify date for backfilling";
        return Err(Answer::field("date", text));
    }
    if usage_based {
        let text = "Service providers can only specify date for limit-based or prepaid billing components when \
                    backfilling past billing periods";
        return Err(Answer::field("date", text));
    }
    Ok(())
}

/// The `date` of a call; a classic server knows no such field (A §1: silently ignored).
pub(crate) fn date(world: &World, body: &Json) -> Field<Option<Timestamp>> {
    let Some(value) = body.get("date").filter(|_| world.api == Api::Current) else { return Ok(None) };
    let date = fields::instant(value, &world.zone)?;
    if date > world.clock.now() {
        return refuse("Cannot submit usage for future dates");
    }
    Ok(Some(date))
}

pub(crate) fn keep<T>(errors: &mut Map<String, Value>, name: &str, field: Field<T>) -> Option<T> {
    match field {
        Ok(value) => Some(value),
        Err(error) => {
            errors.insert(name.into(), error);
            None
        }
    }
}

/// A UUID of something that exists; anything else is a 400, not a 404 (A §1).
fn reference(value: &Json, find: impl Fn(Uuid) -> Option<usize>) -> Field<(usize, Uuid)> {
    let written = value.display();
    if matches!(value, Json::Null) || written.is_empty() {
        return refuse(NULL);
    }
    let uuid = written.trim().parse::<Uuid>().ok();
    let found = uuid.and_then(|uuid| Some((find(uuid)?, uuid)));
    found.map_or_else(|| refuse(format!("Object with uuid={written} does not exist.")), Ok)
}

fn open(world: &World, found: Option<(usize, Uuid)>) -> Field<Option<(usize, Uuid)>> {
    let Some((home, uuid)) = found else { return Ok(None) };
    let period = world.resources.get(home).and_then(|r| r.period(uuid));
    let month_start = clock::month_start(world.month_now(), &world.month_zone());
    if period.and_then(|p| p.end).is_some_and(|end| end < month_start) {
        return refuse("Billing period is closed.");
    }
    Ok(found)
}

fn usages(world: &World, body: &Json) -> Field<Vec<Item>> {
    let list = match body.get("usages") {
        None => return refuse(REQUIRED),
        Some(Json::Null) => return refuse(NULL),
        Some(Json::List(list)) => list,
        Some(other) => {
            let text = format!("Expected a list of items but got type \"{}\".", other.type_name());
            return Err(json!({ "non_field_errors": [text] }));
        }
    };
    each(list, |value| item(world, value))
}

/// Reads every item; the errors stand in the order of the items, `{}` for a good one (A §1).
pub(crate) fn each<T>(list: &[Json], read: impl Fn(&Json) -> Field<T>) -> Field<Vec<T>> {
    let (mut good, mut errors) = (Vec::new(), Vec::new());
    for value in list {
        let result = match value {
            Json::Object(_) => read(value),
            Json::Null => refuse(NULL),
            other => {
                let text = format!("Invalid data. Expected a dictionary, but got {}.", other.type_name());
                Err(json!({ "non_field_errors": [text] }))
            }
        };
        errors.push(match result {
            Ok(item) => {
                good.push(item);
                json!({})
            }
            Err(error) => error,
        });
    }
    if good.len() == list.len() { Ok(good) } else { Err(Value::Array(errors)) }
}

fn item(world: &World, value: &Json) -> Field<Item> {
    let mut errors = Map::new();
    let word = Wording { blank: false, longest: None };
    let kind = keep(&mut errors, "type", fields::required(value, "type").and_then(|v| fields::text(v, word)));
    let amount = keep(&mut errors, "amount", fields::required(value, "amount").and_then(fields::amount));
    // Absent clears what is stored (A §1); 2,000 characters is the column's width, not the field's.
    let free = Wording { blank: true, longest: None };
    let description = value.get("description").map_or(Ok(String::new()), |v| fields::text(v, free));
    let description = keep(&mut errors, "description", description);
    let recurring = match value.get("recurring") {
        None => Ok(false),
        // The official client of the current API may send null.
        Some(Json::Null) if world.api == Api::Current => Ok(false),
        Some(value) => fields::boolean(value),
    };
    let recurring = keep(&mut errors, "recurring", recurring);
    let policy =
        value.get("missing_usage_policy").filter(|_| world.api == Api::Current).map(policy).transpose();
    let policy = keep(&mut errors, "missing_usage_policy", policy);
    match (kind, amount, description, recurring, policy) {
        (Some(kind), Some(amount), Some(description), Some(recurring), Some(policy)) => {
            let deprecated = if recurring { Missing::Reuse } else { Missing::None };
            Ok(Item { kind, amount, description, missing: policy.unwrap_or(deprecated) })
        }
        _ => Err(Value::Object(errors)),
    }
}

fn policy(value: &Json) -> Field<Missing> {
    match value.display().as_str() {
        _ if *value == Json::Null => refuse(NULL),
        "none" => Ok(Missing::None),
        "reuse" => Ok(Missing::Reuse),
        "zero" => Ok(Missing::Zero),
        other => refuse(format!("\"{other}\" is not a valid choice.")),
    }
}

/// One database transaction of the real server: a 500 leaves nothing, a limit's 400 leaves half (A §2).
fn write(world: &mut World, caller: &Caller, report: &Report) -> Answer {
    let now_month = world.month_now();
    let Some(customer) = world.resources.get(report.home).map(|r| r.customer.uuid) else {
        return Answer::broken();
    };
    let first = !world.invoices.contains(&(customer, report.month));
    let saved: Vec<(usize, Resource)> = world
        .resources
        .iter()
        .enumerate()
        .filter(|(at, r)| *at == report.home || (first && r.customer.uuid == customer))
        .map(|(at, r)| (at, r.clone()))
        .collect();
    match write_items(world, caller, report) {
        Ok(Ok(())) => {}
        Ok(Err(over_limit)) => return over_limit,
        Err(Broken) => {
            for (at, resource) in saved {
                if let Some(slot) = world.resources.get_mut(at) {
                    *slot = resource;
                }
            }
            if first {
                world.invoices.remove(&(customer, report.month));
            }
            return Answer::broken();
        }
    }
    let now = world.clock.now();
    if let Some(resource) = world.resources.get_mut(report.home) {
        resource.modified = now;
        // Replaced by exactly what was sent (A §1). A report of a past month is not what is current.
        if report.month == now_month {
            resource.current_usages =
                report.items.iter().map(|item| (item.kind.clone(), amount::show(item.amount))).collect();
        }
    }
    Answer::done()
}

/// `Err`: roll back. `Ok(Err)`: refused by a limit, what is written stays.
fn write_items(world: &mut World, caller: &Caller, report: &Report) -> Result<Result<(), Answer>, Broken> {
    let (now, home) = (world.clock.now(), report.home);
    let plan_period = match report.plan_period {
        Some(given) => Some(given),
        None => plan_period(world, report),
    };
    let kinds: Vec<String> = report.items.iter().map(|item| item.kind.clone()).collect();
    let lost = if report.month == world.month_now() && !kinds.is_empty() {
        billing::make_invoice(world, report.month, home, &kinds)
    } else {
        Vec::new()
    };
    for item in &report.items {
        if let Err(refusal) = within_limit(world, home, item) {
            return Ok(Err(refusal));
        }
        // A column of 2,000 characters: the database refuses, nobody catches it (A §1, the 500s).
        if item.description.chars().count() > 2000 {
            return Err(Broken);
        }
        let api = world.api;
        let Some(resource) = world.resources.get_mut(home) else { return Err(Broken) };
        if api == Api::Current {
            consolidate(resource, &item.kind, report.month, plan_period, &world.zone);
        }
        let key = |row: &&mut Row| {
            row.kind == item.kind && row.month == report.month && row.plan_period == plan_period
        };
        let (uuid, changed) = match resource.rows.iter_mut().find(key) {
            Some(row) => {
                let kept = lost.contains(&item.kind);
                let changed = !kept && row.usage != item.amount;
                row.usage = if kept { row.usage } else { item.amount };
                row.description.clone_from(&item.description);
                row.missing = item.missing;
                row.date = report.date.unwrap_or(now);
                row.modified_by = Some(caller.id);
                (row.uuid, changed)
            }
            None => {
                let mut row = new_row(
                    &item.kind,
                    report.month,
                    plan_period,
                    item.amount,
                    report.date.unwrap_or(now),
                    now,
                );
                row.description.clone_from(&item.description);
                row.missing = item.missing;
                row.modified_by = Some(caller.id);
                let uuid = row.uuid;
                resource.rows.push(row);
                (uuid, true)
            }
        };
        billing::try_bill(world, home, uuid, changed)?;
    }
    billing::wreck(world, home, report.month, &lost);
    world.index(home);
    Ok(Ok(()))
}

pub(crate) fn new_row(
    kind: &str,
    month: Date,
    plan_period: Option<Uuid>,
    usage: Decimal,
    date: Timestamp,
    now: Timestamp,
) -> Row {
    Row {
        uuid: Uuid::new_v4(),
        kind: kind.to_owned(),
        plan_period,
        month,
        usage,
        description: String::new(),
        date,
        created: now,
        modified_by: None,
        missing: Missing::None,
        users: Vec::new(),
    }
}

/// The plan period that a report by resource is filed under (A §4, B1).
fn plan_period(world: &mut World, report: &Report) -> Option<Uuid> {
    let now = world.clock.now();
    let at = report.date.unwrap_or(now);
    let (api, month, zone) = (world.api, world.month_now(), world.month_zone());
    let resource = world.resources.get_mut(report.home)?;
    let valid = resource.plan_periods.iter().filter(|p| p.holds(at)).max_by_key(|p| p.start);
    if api == Api::Classic || valid.is_some() {
        return valid.map(|p| p.uuid);
    }
    // Active only later in that month: the later period.
    let month_end = clock::month_start(clock::month_after(report.month), &zone);
    let later = resource.plan_periods.iter().filter(|p| p.start > at && p.start < month_end);
    if let Some(later) = later.min_by_key(|p| p.start) {
        return Some(later.uuid);
    }
    if report.month != month {
        return None;
    }
    let plan = resource.plan.clone().unwrap_or_else(|| plan_of(resource.offering, 1));
    let made = PlanPeriod { uuid: Uuid::new_v4(), plan, start: at, end: None };
    let uuid = made.uuid;
    resource.plan_periods.push(made);
    Some(uuid)
}

/// A resubmission moves a row without plan period to the right one and removes old duplicates: rows under a
/// period that has nothing to do with the month (B1). Rows of earlier periods in the month stay.
fn consolidate(
    resource: &mut Resource,
    kind: &str,
    month: Date,
    plan_period: Option<Uuid>,
    zone: &jiff::tz::TimeZone,
) {
    let (start, end) = (clock::month_start(month, zone), clock::month_start(clock::month_after(month), zone));
    let periods = resource.plan_periods.clone();
    let touches = |uuid: Uuid| {
        let period = periods.iter().find(|p| p.uuid == uuid);
        period.is_some_and(|p| p.start < end && p.end.is_none_or(|ended| ended > start))
    };
    let here = |row: &Row| row.kind == kind && row.month == month;
    let right = resource.rows.iter().any(|row| here(row) && row.plan_period == plan_period);
    if !right && let Some(stray) = resource.rows.iter_mut().find(|row| here(row) && row.plan_period.is_none())
    {
        stray.plan_period = plan_period;
    }
    resource
        .rows
        .retain(|row| !here(row) || row.plan_period == plan_period || row.plan_period.is_some_and(touches));
}

/// A classic server's limits, with its mistake: the row about to be replaced is counted too (A §3).
fn within_limit(world: &World, home: usize, item: &Item) -> Result<(), Answer> {
    // A current one refuses no report for its limit (B1).
    let Some(resource) = world.resources.get(home).filter(|_| world.api == Api::Classic) else {
        return Ok(());
    };
    let component = world.offering_of(resource).and_then(|o| o.component(&item.kind));
    let Some(component) = component.filter(|c| c.billing == Billing::Usage) else { return Ok(()) };
    let (Some(limit), Some(period)) = (component.limit_amount.filter(|l| *l != 0), component.limit_period)
    else {
        return Ok(());
    };
    let stored = match period {
        LimitPeriod::Month => Decimal::ZERO,
        LimitPeriod::Annual | LimitPeriod::Total => resource
            .rows
            .iter()
            .filter(|row| row.kind == item.kind)
            .map(|row| row.usage)
            .fold(Decimal::ZERO, add),
    };
    let total = add(stored, item.amount);
    if total <= Decimal::from(limit) {
        return Ok(());
    }
    let text = format!("Total amount exceeds limit. Total amount: {}, limit: {limit}.", amount::show(total));
    Err(Answer::refused(&json!([text])))
}

/// A sum that stays at the end of the scale instead of stopping the sandbox.
pub(crate) fn add(a: Decimal, b: Decimal) -> Decimal {
    a.saturating_add(b)
}
