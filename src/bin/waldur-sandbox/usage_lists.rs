//! The rows as they are read: component usages and users' usages, with the filters that each generation honours
//! and those it silently ignores (A §5, §7, B3).
//!
//! Nothing here changes a row. Every authenticated user sees all rows of all customers.

use std::cmp::Ordering;

use jiff::civil::Date;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::amount;
use crate::answer::Answer;
use crate::clock;
use crate::lists::{Page, Query, only};
use crate::user_usage::no_row;
use crate::world::{Api, Component, Missing, Offering, Resource, Row, UserRow, World, hex};

/// A row with all that it is described by.
#[derive(Clone, Copy)]
struct Seen<'a> {
    row: &'a Row,
    resource: &'a Resource,
    offering: &'a Offering,
    component: Option<&'a Component>,
}

pub(crate) fn usages(world: &World, query: &Query) -> Result<Answer, Answer> {
    let mut rows = matching(world, query, "billing_period")?;
    if world.api == Api::Current {
        let policies = query.choices("missing_usage_policy", &["none", "reuse", "zero"])?;
        if !policies.is_empty() {
            rows.retain(|seen| policies.iter().any(|p| p == seen.row.missing.name()));
        }
    }
    rows.sort_by(|a, b| b.row.date.cmp(&a.row.date).then_with(|| a.row.kind.cmp(&b.row.kind)));
    order(
        world,
        query,
        &mut rows,
        &["billing_period", "missing_usage_policy", "usage"],
        |a, b, by| match by {
            "billing_period" => a.row.month.cmp(&b.row.month),
            "usage" => a.row.usage.cmp(&b.row.usage),
            _ => a.row.missing.name().cmp(b.row.missing.name()),
        },
    )?;
    let page = Page::of(query, rows.len())?;
    let rows = page.cut(rows).into_iter().map(|seen| usage(world, seen)).collect();
    Ok(page.answer(query, rows))
}

pub(crate) fn one_usage(world: &World, query: &Query, uuid: &str) -> Answer {
    let found = uuid.parse::<Uuid>().ok().and_then(|uuid| world.row(uuid));
    let seen = found.and_then(|(home, row)| Some(see(world, world.resources.get(home)?, row)));
    match seen.flatten() {
        Some(seen) => Answer::json(200, &only(usage(world, seen), &query.all("field").collect::<Vec<_>>())),
        None => no_row(),
    }
}

pub(crate) fn user_usages(world: &World, query: &Query) -> Result<Answer, Answer> {
    let rows = matching(world, query, "component_usage__billing_period")?;
    let mut shares: Vec<(Seen<'_>, &UserRow)> =
        rows.into_iter().flat_map(|seen| seen.row.users.iter().map(move |user| (seen, user))).collect();
    let username = query.last("username").filter(|_| world.api == Api::Current);
    shares.retain(|(_, user)| username.is_none_or(|wanted| user.username == wanted));
    let page = Page::of(query, shares.len())?;
    // Users of one row tie in the order (date, type), and every request breaks the ties anew (A §7): seen only
    // by those who read in several pages.
    if page.size() < shares.len() {
        fastrand::shuffle(&mut shares);
    }
    shares.sort_by(|(a, _), (b, _)| b.row.date.cmp(&a.row.date).then_with(|| a.row.kind.cmp(&b.row.kind)));
    let known = ["component_usage__billing_period", "usage", "username"];
    order(world, query, &mut shares, &known, |(a, left), (b, right), by| match by {
        "usage" => left.usage.cmp(&right.usage),
        "username" => left.username.cmp(&right.username),
        _ => a.row.month.cmp(&b.row.month),
    })?;
    let base = base(query);
    let rows =
        page.cut(shares).into_iter().map(|(seen, user)| user_usage(world, seen, user, &base)).collect();
    let answer = page.answer(query, rows);
    Ok(answer)
}

pub(crate) fn one_user_usage(world: &World, query: &Query, uuid: &str) -> Answer {
    let wanted = uuid.parse::<Uuid>().ok();
    let base = base(query);
    for resource in &world.resources {
        for row in &resource.rows {
            let user = row.users.iter().find(|user| Some(user.uuid) == wanted);
            if let Some((user, seen)) = user.zip(see(world, resource, row)) {
                return Answer::json(200, &user_usage(world, seen, user, &base));
            }
        }
    }
    Answer::detail(404, "No ComponentUserUsage matches the given query.")
}

/// `http://host` of the address that was asked.
pub(crate) fn base(query: &Query) -> String {
    query.address.split("/api/").next().unwrap_or_default().to_owned()
}

fn see<'a>(world: &'a World, resource: &'a Resource, row: &'a Row) -> Option<Seen<'a>> {
    let offering = world.offering_of(resource)?;
    Some(Seen { row, resource, offering, component: offering.component(&row.kind) })
}

fn matching<'a>(world: &'a World, query: &Query, period: &str) -> Result<Vec<Seen<'a>>, Answer> {
    let (resource, link) = (query.uuid("resource_uuid")?, query.resource_link());
    let (offering, project) = (query.uuid("offering_uuid")?, query.uuid("project_uuid")?);
    let customer = query.uuid("customer_uuid")?;
    let month = query.date(period)?;
    let (after, before) = (query.date("date_after")?, query.date("date_before")?);
    let kind = query.last("type");
    // Filters of newer servers; in classic ones they are as good as unknown (A §5).
    let (month_number, year) = match world.api {
        Api::Classic => (None, None),
        Api::Current => (query.number("billing_period_month")?, query.number("billing_period_year")?),
    };
    let day = |row: &Row| world.zone.to_datetime(row.date).date();
    let wanted = |seen: &Seen<'_>| {
        let Seen { row, resource: of, offering: from, .. } = seen;
        resource.is_none_or(|uuid| of.uuid == uuid)
            && link.is_none_or(|uuid| uuid == Some(of.uuid))
            && offering.is_none_or(|uuid| from.uuid == uuid)
            && project.is_none_or(|uuid| of.project.uuid == uuid)
            && customer.is_none_or(|uuid| of.customer.uuid == uuid)
            && kind.is_none_or(|kind| row.kind == kind)
            && month.is_none_or(|month: Date| row.month == month)
            && month_number.is_none_or(|number| i64::from(row.month.month()) == number)
            && year.is_none_or(|year| i64::from(row.month.year()) == year)
            && after.is_none_or(|date| day(row) >= date)
            && before.is_none_or(|date| day(row) <= date)
    };
    let narrowed = resource.or(link.flatten()).map(|uuid| world.resource_at(uuid));
    let resources: Vec<&Resource> = match narrowed {
        Some(home) => home.and_then(|home| world.resources.get(home)).into_iter().collect(),
        None => world.resources.iter().collect(),
    };
    let all = resources.into_iter().flat_map(|r| r.rows.iter().filter_map(move |row| see(world, r, row)));
    Ok(all.filter(wanted).collect())
}

/// Sorts by `o=`, which classic servers ignore; the order there was decides the ties.
fn order<T>(
    world: &World,
    query: &Query,
    rows: &mut [T],
    known: &[&str],
    compare: impl Fn(&T, &T, &str) -> Ordering,
) -> Result<(), Answer> {
    if world.api == Api::Classic {
        return Ok(());
    }
    let both: Vec<String> = known.iter().flat_map(|name| [(*name).to_owned(), format!("-{name}")]).collect();
    let wanted = query.choices("o", &both.iter().map(String::as_str).collect::<Vec<_>>())?;
    rows.sort_by(|a, b| {
        let mut decided = wanted.iter().map(|by| match by.strip_prefix('-') {
            Some(name) => compare(b, a, name),
            None => compare(a, b, by),
        });
        decided.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    });
    Ok(())
}

fn usage(world: &World, seen: Seen<'_>) -> Value {
    let Seen { row, resource, offering, component } = seen;
    let mut value = json!({
        "uuid": hex(row.uuid),
        "created": clock::show(row.created),
        "description": row.description,
        "type": row.kind,
        "name": component.map_or(&row.kind, |c| &c.name),
        "measured_unit": component.map_or("", |c| &c.unit),
        "usage": amount::show(row.usage),
        "date": clock::show(row.date),
        "recurring": row.missing == Missing::Reuse,
        "resource_name": resource.name,
        "resource_uuid": hex(resource.uuid),
        "offering_name": offering.name,
        "offering_uuid": hex(offering.uuid),
        "project_name": resource.project.name,
        "project_uuid": hex(resource.project.uuid),
        "customer_name": resource.customer.name,
        "customer_uuid": hex(resource.customer.uuid),
        "billing_period": row.month.to_string(),
        "modified_by": row.modified_by,
    });
    if let (Api::Current, Value::Object(fields)) = (world.api, &mut value) {
        fields.insert("missing_usage_policy".into(), row.missing.name().into());
    }
    if let Value::Object(fields) = &mut value {
        fields.extend(row.as_read.clone());
    }
    value
}

/// A row as it stands in a plan period's `components` (A §4).
pub(crate) fn usage_in_period(world: &World, resource: &Resource, row: &Row) -> Value {
    let Some(seen) = see(world, resource, row) else { return Value::Null };
    let mut fields =
        vec!["uuid", "created", "description", "type", "name", "measured_unit", "usage", "date", "recurring"];
    if world.api == Api::Current {
        fields.push("missing_usage_policy");
    }
    only(usage(world, seen), &fields)
}

fn user_usage(world: &World, seen: Seen<'_>, user: &UserRow, base: &str) -> Value {
    let Seen { row, resource, offering, component } = seen;
    let mut value = json!({
        "uuid": hex(user.uuid),
        "user": user.user.map(|uuid| format!("{base}/api/marketplace-offering-users/{}/", hex(uuid))),
        "username": user.username,
        "component_usage": format!("{base}/api/marketplace-component-usages/{}/", hex(row.uuid)),
        "usage": amount::show(user.usage),
        "measured_unit": component.map_or("", |c| &c.unit),
        "description": "",
        "created": clock::show(user.created),
        "modified": clock::show(user.modified),
        "backend_id": "",
        "resource_name": resource.name,
        "resource_uuid": hex(resource.uuid),
        "offering_name": offering.name,
        "offering_uuid": hex(offering.uuid),
        "project_name": resource.project.name,
        "project_uuid": hex(resource.project.uuid),
        "customer_name": resource.customer.name,
        "customer_uuid": hex(resource.customer.uuid),
        "component_type": row.kind,
        "date": clock::show(row.date),
    });
    if let (Api::Current, Value::Object(fields)) = (world.api, &mut value) {
        fields.insert("billing_period".into(), row.month.to_string().into());
    }
    value
}
