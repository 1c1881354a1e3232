//! `POST {row}/set_user_usage/` and, on a current server, `POST {row}/set_user_usages/`: who used how much of a
//! row (A §6, B2).
//!
//! Unlike `set_usage`, permission comes before validation, and rows of past months and of terminated resources
//! are open. The sum of the users is never compared with the row's total.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::answer::Answer;
use crate::billing::{self, Broken};
use crate::fields::{self, Field, NULL, REQUIRED, Wording, refuse};
use crate::json::Json;
use crate::report::{date, each, keep, may_backfill};
use crate::set_usage::{add, new_row};
use crate::world::{Api, Billing, Caller, UserLimit, UserRow, World};

struct Share {
    username: String,
    usage: Option<Decimal>,
    user: Option<Uuid>,
    date: Option<Timestamp>,
}

pub(crate) fn no_row() -> Answer {
    Answer::detail(404, "No ComponentUsage matches the given query.")
}

pub(crate) fn set_one(world: &mut World, caller: &Caller, row: &str, body: &Json) -> Answer {
    let (home, row) = match find(world, caller, row) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let dictionary = |name: &str| format!("Invalid data. Expected a dictionary, but got {name}.");
    let share = match body {
        Json::Object(_) => share(world, body),
        Json::Null => Err(json!({ "non_field_errors": ["No data provided"] })),
        other => Err(json!({ "non_field_errors": [dictionary(other.type_name())] })),
    };
    let share = match share {
        Ok(share) => share,
        Err(errors) => return Answer::refused(&errors),
    };
    if let Err(answer) = allowed(world, caller, home, row, &share) {
        return answer;
    }
    if over_limit(world, home, row, &share) {
        return Answer::field("non_field_errors", OVER_LIMIT);
    }
    store(world, caller, home, row, vec![share])
}

pub(crate) fn set_many(world: &mut World, caller: &Caller, row: &str, body: &Json) -> Answer {
    let (home, row) = match find(world, caller, row) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let list = match (body, body.get("usages")) {
        (Json::Object(_), Some(Json::List(list))) if list.is_empty() => {
            Err(json!({ "non_field_errors": ["This list may not be empty."] }))
        }
        (Json::Object(_), Some(Json::List(list))) => each(list, |value| share(world, value)),
        (Json::Object(_), Some(Json::Null)) => refuse(NULL),
        (Json::Object(_), Some(other)) => {
            let text = format!("Expected a list of items but got type \"{}\".", other.type_name());
            Err(json!({ "non_field_errors": [text] }))
        }
        (Json::Object(_), None) => refuse(REQUIRED),
        (other, _) => {
            let text = format!("Invalid data. Expected a dictionary, but got {}.", other.type_name());
            return Answer::field("non_field_errors", &text);
        }
    };
    let shares = match list {
        Ok(shares) => shares,
        Err(errors) => return Answer::refused(&json!({ "usages": errors })),
    };
    for share in &shares {
        if let Err(answer) = allowed(world, caller, home, row, share) {
            return answer;
        }
    }
    if shares.iter().any(|share| over_limit(world, home, row, share)) {
        return Answer::field("non_field_errors", OVER_LIMIT);
    }
    store(world, caller, home, row, shares)
}

/// The row, then the permission, then nothing else (A §6).
fn find(world: &World, caller: &Caller, row: &str) -> Result<(usize, Uuid), Answer> {
    let (home, row) = row.parse::<Uuid>().ok().and_then(|uuid| world.row(uuid)).ok_or_else(no_row)?;
    let offering = world.resources.get(home).and_then(|r| world.offering_of(r));
    if offering.is_some_and(|offering| caller.manages(offering)) {
        Ok((home, row.uuid))
    } else {
        Err(Answer::forbidden())
    }
}

fn share(world: &World, value: &Json) -> Field<Share> {
    let mut errors = Map::new();
    let name = Wording { blank: false, longest: Some(100) };
    let username = fields::required(value, "username").and_then(|v| fields::text(v, name));
    let username = keep(&mut errors, "username", username);
    let usage = keep(&mut errors, "usage", value.get("usage").map(fields::amount).transpose());
    let user = keep(&mut errors, "user", value.get("user").map(|v| offering_user(world, v)).transpose());
    let date = keep(&mut errors, "date", date(world, value));
    match (username, usage, user, date) {
        (Some(username), Some(usage), Some(user), Some(date)) => Ok(Share { username, usage, user, date }),
        _ => Err(Value::Object(errors)),
    }
}

/// A link to an offering user: an address or a path (A §6). Which offering's is not asked.
fn offering_user(world: &World, value: &Json) -> Field<Uuid> {
    let link = match value {
        Json::Null => return refuse(NULL),
        Json::Text(text) => text.value.as_str(),
        other => {
            return refuse(format!("Incorrect type. Expected URL string, received {}.", other.type_name()));
        }
    };
    let path = match link.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None => link,
    };
    if !path.starts_with("/api/") {
        return refuse("Invalid hyperlink - No URL match.");
    }
    let Some(uuid) = path.strip_prefix("/api/marketplace-offering-users/").and_then(|p| p.strip_suffix('/'))
    else {
        return refuse("Invalid hyperlink - Incorrect URL match.");
    };
    let uuid = uuid.parse::<Uuid>().ok();
    let known = |uuid: &Uuid| world.offerings.iter().any(|o| o.users.iter().any(|u| u.uuid == *uuid));
    let found = uuid.filter(known);
    found.map_or_else(|| refuse("Invalid hyperlink - Object does not exist."), Ok)
}

/// A `date` of a past month is only for those who may write it (B2).
fn allowed(world: &World, caller: &Caller, home: usize, row: Uuid, share: &Share) -> Result<(), Answer> {
    let Some(date) = share.date else { return Ok(()) };
    let resource = world.resources.get(home);
    let Some(offering) = resource.and_then(|r| world.offering_of(r)) else { return Ok(()) };
    let kind = world.row(row).map(|(_, row)| row.kind.as_str()).unwrap_or_default();
    let usage_based = offering.component(kind).is_some_and(|c| c.billing == Billing::Usage);
    may_backfill(world, caller, offering, world.month_of_date(date), usage_based)
}

const OVER_LIMIT: &str = "Usage limit exceeded.";

/// Whether the user's usage of the component, this share included, passes the limit set for that user (B2).
fn over_limit(world: &World, home: usize, row: Uuid, share: &Share) -> bool {
    let Some((resource, (_, named))) = world.resources.get(home).zip(world.row(row)) else { return false };
    let limits = |l: &&UserLimit| l.username == share.username && l.kind == named.kind;
    let Some(limit) = resource.user_limits.iter().find(limits).filter(|_| world.api == Api::Current) else {
        return false;
    };
    let month = share.date.map_or(named.month, |date| world.month_of_date(date));
    let others = resource.rows.iter().filter(|r| r.kind == named.kind && r.month != month);
    let shares = others.flat_map(|r| &r.users).filter(|u| u.username == share.username);
    let sum = shares.map(|u| u.usage).fold(share.usage.unwrap_or_default(), add);
    sum > limit.limit
}

fn store(world: &mut World, caller: &Caller, home: usize, row: Uuid, shares: Vec<Share>) -> Answer {
    let Some(saved) = world.resources.get(home).cloned() else { return Answer::broken() };
    match store_all(world, caller, home, row, shares) {
        Ok(()) => {
            world.index(home);
            Answer::done()
        }
        Err(Broken) => {
            if let Some(slot) = world.resources.get_mut(home) {
                *slot = saved;
            }
            Answer::broken()
        }
    }
}

fn store_all(
    world: &mut World,
    caller: &Caller,
    home: usize,
    row: Uuid,
    shares: Vec<Share>,
) -> Result<(), Broken> {
    let mut touched = BTreeSet::new();
    for share in shares {
        touched.insert(store_one(world, caller, home, row, share)?);
    }
    if world.api == Api::Classic {
        return Ok(());
    }
    for row in touched {
        let Some(holder) = world.resources.get_mut(home).and_then(|r| r.row_mut(row)) else { continue };
        // A total of nothing becomes the sum of its users; any other is left alone (B2).
        if holder.usage.is_zero() {
            holder.usage = holder.users.iter().map(|user| user.usage).fold(Decimal::ZERO, add);
            let changed = !holder.usage.is_zero();
            billing::try_bill(world, home, row, changed)?;
        }
    }
    Ok(())
}

/// Stores one share and tells which row holds it.
fn store_one(
    world: &mut World,
    caller: &Caller,
    home: usize,
    row: Uuid,
    share: Share,
) -> Result<Uuid, Broken> {
    let now = world.clock.now();
    let row = match share.date {
        Some(date) => row_of_month(world, caller, home, row, date)?,
        None => row,
    };
    let resource = world.resources.get_mut(home).ok_or(Broken)?;
    let holder = resource.row_mut(row).ok_or(Broken)?;
    match holder.users.iter_mut().find(|user| user.username == share.username) {
        // An existing user without a usage is a 500 (A §6); a `user` link is only taken when the row is new.
        Some(user) => {
            user.usage = share.usage.ok_or(Broken)?;
            user.modified = now;
        }
        None => holder.users.push(UserRow {
            uuid: Uuid::new_v4(),
            username: share.username,
            user: share.user,
            usage: share.usage.unwrap_or_default(),
            created: now,
            modified: now,
        }),
    }
    Ok(row)
}

/// The row of the month that a `date` lies in, whatever row the address names (B2).
fn row_of_month(
    world: &mut World,
    caller: &Caller,
    home: usize,
    named: Uuid,
    date: Timestamp,
) -> Result<Uuid, Broken> {
    let (now, month) = (world.clock.now(), world.month_of_date(date));
    let resource = world.resources.get_mut(home).ok_or(Broken)?;
    let named = resource.rows.iter().find(|row| row.uuid == named).ok_or(Broken)?;
    let kind = named.kind.clone();
    // It looks for the one row of the month; of several plan periods it finds any (C).
    let known = resource.rows.iter().find(|row| row.kind == kind && row.month == month);
    if let Some(row) = known {
        return Ok(row.uuid);
    }
    let period =
        resource.plan_periods.iter().filter(|p| p.holds(date)).max_by_key(|p| p.start).map(|p| p.uuid);
    let mut row = new_row(&kind, month, period, Decimal::ZERO, date, now);
    row.modified_by = Some(caller.id);
    let uuid = row.uuid;
    resource.rows.push(row);
    world.index(home);
    Ok(uuid)
}
