//! `POST set_usage/`: a month's totals of one resource, written as one database transaction of the real server
//! (A §1 to §4, B1).
//!
//! What is refused before writing is in `report`. The one refusal in the middle is kept on purpose: a limit
//! answers 400, and what came before it stays (A §2).

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde_json::json;
use uuid::Uuid;

use crate::amount;
use crate::answer::Answer;
use crate::billing::{self, Broken};
use crate::clock;
use crate::json::Json;
use crate::marketplace::plan_of;
use crate::report::{Item, Report, validate};
use crate::world::{Api, Billing, Caller, LimitPeriod, Missing, PlanPeriod, Resource, Row, World};

pub(crate) fn set_usage(world: &mut World, caller: &Caller, body: &Json) -> Answer {
    let report = match validate(world, caller, body) {
        Ok(report) => report,
        Err(answer) => return answer,
    };
    // Only now permission (A, other statuses): a user without rights gets 400s about foreign resources.
    let resource = world.resources.get(report.home);
    let offering = resource.and_then(|r| world.offering_of(r));
    if !offering.is_some_and(|offering| caller.manages(offering)) {
        return Answer::forbidden();
    }
    write(world, caller, &report)
}

/// One database transaction of the real server: a 500 leaves nothing, a limit's 400 leaves half (A §2).
fn write(world: &mut World, caller: &Caller, report: &Report) -> Answer {
    let now_month = world.month_now();
    let Some(customer) = world.resources.get(report.home).map(|r| r.customer.uuid) else {
        return Answer::broken();
    };
    let first = !world.invoices.contains(&(customer, report.month));
    // The first report of a month makes an invoice, which may touch every resource of the customer.
    let touched = if first { 0..world.resources.len() } else { report.home..report.home + 1 };
    let saved: Vec<(usize, Resource)> = touched
        .filter_map(|at| Some((at, world.resources.get(at)?)))
        .filter(|(_, resource)| resource.customer.uuid == customer)
        .map(|(at, resource)| (at, resource.clone()))
        .collect();
    let written = write_items(world, caller, report);
    world.index(report.home);
    match written {
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
    billing::wreck(world, home, report.month, &lost);
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
        let moved =
            api == Api::Current && consolidate(resource, &item.kind, report.month, plan_period, &world.zone);
        let key = |row: &&mut Row| {
            row.kind == item.kind && row.month == report.month && row.plan_period == plan_period
        };
        let (uuid, changed) = match resource.rows.iter_mut().find(key) {
            Some(row) => {
                let kept = lost.contains(&item.kind);
                let changed = !kept && (moved || row.usage != item.amount);
                row.usage = if kept { row.usage } else { item.amount };
                row.description.clone_from(&item.description);
                row.missing = item.missing;
                row.date = report.date.unwrap_or(now);
                row.modified_by = Some(caller.id);
                row.as_read.clear();
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
        as_read: serde_json::Map::new(),
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
/// period that has nothing to do with the month (B1). Rows of earlier periods in the month stay, unless no plan period
/// covers the date: then all are merged into one (C). Tells whether a row was moved, which makes it billable.
fn consolidate(
    resource: &mut Resource,
    kind: &str,
    month: Date,
    plan_period: Option<Uuid>,
    zone: &TimeZone,
) -> bool {
    let (start, end) = (clock::month_start(month, zone), clock::month_start(clock::month_after(month), zone));
    let touching: Vec<Option<Uuid>> = resource
        .plan_periods
        .iter()
        .filter(|p| p.start < end && p.end.is_none_or(|ended| ended > start))
        .map(|p| Some(p.uuid))
        .collect();
    let here = |row: &Row| row.kind == kind && row.month == month;
    let right = resource.rows.iter().any(|row| here(row) && row.plan_period == plan_period);
    let stray = resource.rows.iter_mut().find(|row| here(row) && row.plan_period.is_none());
    let moved = match stray.filter(|_| !right) {
        Some(stray) => {
            stray.plan_period = plan_period;
            true
        }
        None => false,
    };
    let stays =
        |period: Option<Uuid>| period == plan_period || (plan_period.is_some() && touching.contains(&period));
    resource.rows.retain(|row| !here(row) || stays(row.plan_period));
    resource.items.retain(|item| item.kind != kind || item.month != month || stays(Some(item.plan_period)));
    moved
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
        LimitPeriod::Quarterly | LimitPeriod::Annual | LimitPeriod::Total => resource
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
