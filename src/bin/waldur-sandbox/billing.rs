//! Just enough of an invoice to show what double reports cost: items a component, plan period and month, the
//! months' invoices with what they copy forward, and the states from which a real server answers 500.
//!
//! Prices, taxes and payment do not exist here.

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::clock::month_before;
use crate::world::{Api, Billing, InvoiceItem, Missing, Row, World};

/// The first amount that overflows a real invoice item (A §1, the 500s).
const OVERFLOW: i64 = 1_000_000_000_000;

/// The server's own error: a page without a word of why.
#[derive(Debug)]
pub(crate) struct Broken;

/// Brings the invoice to agree with a row; for rows written past the rules.
pub(crate) fn bill(world: &mut World, home: usize, row: Uuid) {
    // The overflow of a row that somebody put there on purpose is not billed; nothing else can fail here.
    let _ = try_bill(world, home, row, true);
}

/// Brings the invoice to agree with a row that was just written. `changed`: its amount is new.
pub(crate) fn try_bill(world: &mut World, home: usize, row: Uuid, changed: bool) -> Result<(), Broken> {
    let now = world.clock.now();
    let Some(resource) = world.resources.get_mut(home) else { return Ok(()) };
    let Some(offering) = world.offerings.get(resource.offering) else { return Ok(()) };
    let Some(row) = resource.rows.iter().find(|r| r.uuid == row) else { return Ok(()) };
    // Only usage-based components are billed by usage, and only within a plan period (A §1, §4).
    let usage_based = offering.component(&row.kind).is_some_and(|c| c.billing == Billing::Usage);
    let (Some(period), true, true) = (row.plan_period, usage_based, changed) else { return Ok(()) };
    if row.usage.abs() >= Decimal::from(OVERFLOW) {
        return Err(Broken);
    }
    if resource.broken.contains(&(row.kind.clone(), row.month)) {
        return Err(Broken);
    }
    let (kind, month, quantity) = (row.kind.clone(), row.month, row.usage);
    let ended = resource.period(period).is_some_and(|p| p.end.is_some_and(|end| end <= now));
    let of_period =
        |item: &InvoiceItem| item.kind == kind && item.month == month && item.plan_period == period;
    let known = resource.items.iter().any(of_period);
    // A changed amount of an ended period misses its item and makes another: both are billed (A §4).
    let wanted = |item: &InvoiceItem| of_period(item) && (!ended || !known || item.after_end);
    match resource.items.iter_mut().find(|item| wanted(item)) {
        Some(item) => item.quantity = quantity,
        None => resource.items.push(InvoiceItem {
            kind: kind.clone(),
            month,
            plan_period: period,
            quantity,
            after_end: ended && known,
        }),
    }
    Ok(())
}

/// Makes the month's invoice of a customer unless it exists: last month's recurring values are copied into it.
///
/// `reported` is the resource and the components whose report is just being written. A classic server loses that
/// report to the copied value and can bill the component no more (A §4); a current one fills in only what nobody
/// reported (B1). Returns the components whose report is lost.
pub(crate) fn make_invoice(world: &mut World, month: Date, home: usize, reported: &[String]) -> Vec<String> {
    let Some(customer) = world.resources.get(home).map(|r| r.customer.uuid) else { return Vec::new() };
    if !world.invoices.insert((customer, month)) {
        return Vec::new();
    }
    let (now, api) = (world.clock.now(), world.api);
    let mut lost = Vec::new();
    for at in 0..world.resources.len() {
        let Some(resource) = world.resources.get(at).filter(|r| r.customer.uuid == customer) else {
            continue;
        };
        let forward: Vec<Row> = resource
            .rows
            .iter()
            .filter(|row| row.month == month_before(month) && row.missing != Missing::None)
            .filter(|row| !resource.rows.iter().any(|other| other.month == month && other.kind == row.kind))
            .map(|row| {
                copied(
                    row,
                    resource.plan_periods.iter().rev().find(|p| p.holds(now)).map(|p| p.uuid),
                    month,
                    now,
                )
            })
            .collect();
        for row in forward {
            let mine = at == home && reported.contains(&row.kind);
            if mine && api == Api::Current {
                continue;
            }
            if mine {
                lost.push(row.kind.clone());
            }
            let uuid = row.uuid;
            if let Some(resource) = world.resources.get_mut(at) {
                resource.rows.push(row);
            }
            bill(world, at, uuid);
            world.index(at);
        }
    }
    lost
}

/// The wreck that a classic server leaves of a first report over a recurring value: a second item (A §4).
pub(crate) fn wreck(world: &mut World, home: usize, month: Date, lost: &[String]) {
    let Some(resource) = world.resources.get_mut(home) else { return };
    for kind in lost {
        let twin = resource.items.iter().find(|item| &item.kind == kind && item.month == month).cloned();
        resource.items.extend(twin);
        resource.broken.insert((kind.clone(), month));
    }
}

fn copied(row: &Row, plan_period: Option<Uuid>, month: Date, now: Timestamp) -> Row {
    Row {
        uuid: Uuid::new_v4(),
        plan_period,
        month,
        usage: if row.missing == Missing::Zero { Decimal::ZERO } else { row.usage },
        date: now,
        created: now,
        modified_by: None,
        users: Vec::new(),
        as_read: serde_json::Map::new(),
        ..row.clone()
    }
}
