//! A `set_usage` call as it is judged before anything is written: shape, references, state, components, months
//! (A §1, B1).
//!
//! It decides from a read-only world, so a refusal here never leaves a trace. Permission is not asked here: the
//! real server asks for it only after all of this.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::answer::Answer;
use crate::clock;
use crate::fields::{self, Field, NULL, REQUIRED, Wording, refuse};
use crate::json::Json;
use crate::world::{Api, Billing, Caller, Missing, Offering, World};

/// A call that has passed every check.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) home: usize,
    /// Asked for by the caller; `None`: by the resource.
    pub(crate) plan_period: Option<Uuid>,
    pub(crate) date: Option<Timestamp>,
    pub(crate) month: Date,
    pub(crate) items: Vec<Item>,
}

#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) kind: String,
    pub(crate) amount: Decimal,
    pub(crate) description: String,
    pub(crate) missing: Missing,
}

/// Whether a body's call would be the first of the month for its customer, which builds an invoice (A §11).
pub(crate) fn is_first_of_month(world: &World, body: &Json) -> bool {
    let target = body.get("plan_period").or_else(|| body.get("resource")).map(Json::display);
    let uuid = target.and_then(|text| text.trim().parse::<Uuid>().ok());
    let home = uuid.and_then(|uuid| world.resource_at(uuid).or_else(|| world.plan_period_home(uuid)));
    let resource = home.and_then(|home| world.resources.get(home));
    resource.is_some_and(|r| !world.invoices.contains(&(r.customer.uuid, world.month_now())))
}

pub(crate) fn validate(world: &World, caller: &Caller, body: &Json) -> Result<Report, Answer> {
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
    may_backfill(world, caller, offering, month, usage_based)?;
    Ok(Report { home, plan_period: period.map(|(_, uuid)| uuid), date, month, items })
}

/// Who may write a past month (B1). The same for users' usages (B2).
pub(crate) fn may_backfill(
    world: &World,
    caller: &Caller,
    offering: &Offering,
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
