//! `explain`: for a person in a billing dispute, from the posted number back to the readings it came from.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::setup::Setup;
use super::status::entry::{adjustment_json, told};
use super::table::table;
use crate::ledger::Ledger;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::db::event::Event;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::views::adjustments::{Adjustment, Kind};
use crate::ledger::views::explain::SeriesPart;
use crate::metering::exact::{Exact, Rounding, cents_to_decimal};
use crate::metering::period::BillingPeriod;

/// Explain an amount, down to the readings that it was made of.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The resource: its UUID in any form, its backend id, or its name if only one has it.
    resource: String,
    /// The component's type.
    component: String,
    /// The billing period, such as 2026-11; otherwise the current one.
    #[arg(long, value_name = "YYYY-MM")]
    period: Option<BillingPeriod>,
    /// One user's share instead of the total.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let ledger = setup.ledger_to_read()?;
        let period = self.period.unwrap_or_else(|| ledger.in_force().zone.period_of(setup.clock.now()));
        let (resource, known) = find(&ledger, &self.resource)?;
        let parts = ledger.explain(resource, &self.component, period, self.user.as_deref())?;
        let mut statements = ledger.statements(Some(period))?;
        statements.retain(|statement| statement.key.resource == resource);
        let shares = shares(&statements, &self.component);
        let entries: Vec<Entry> = statements
            .into_iter()
            .filter_map(|mut statement| match &self.user {
                None => statement.components.remove(&self.component),
                Some(user) => statement.users.remove(&(self.component.clone(), user.clone())),
            })
            .collect();
        if entries.is_empty() {
            return Err(Failed::new(
                Exit::Usage,
                format!("the ledger has no amount of {} for {} in {period}", self.component, self.resource),
            ));
        }
        let unit = known.as_ref().and_then(|known| {
            let components = ledger.components(known.offering).ok()?;
            components.into_iter().find(|c| c.component == self.component).map(|c| c.measured_unit)
        });
        let adjustments = ledger.adjustments(resource, period)?.into_iter().filter(|one| {
            one.component == self.component && one.user == self.user.as_deref().unwrap_or_default()
        });
        let adjustments = adjustments.collect();
        let calls = ledger.calls(resource, period)?;
        let calls: Vec<_> = calls.into_iter().filter(|call| call.amounts.contains(&self.component)).collect();
        let events = ledger.events_of(resource, period)?.into_iter();
        let events =
            events.filter(|event| event.component.is_empty() || event.component == self.component).collect();
        let shown = Shown {
            resource,
            known,
            period,
            unit,
            entries,
            shares,
            adjustments,
            parts,
            calls,
            events,
            of: self,
        };
        if shown.of.json {
            writeln!(out, "{:#}", shown.json())?
        } else {
            shown.text(out)?
        }
        Ok(Exit::Ok)
    }
}

/// A user's part of a total, or what carries no user.
struct Share {
    /// `None`: unattributed.
    user: Option<String>,
    exact: Exact,
    posted: Option<Decimal>,
    /// What rounding it by itself would give. Where that differs, the rest of a hundredth went to the largest
    /// remainders, so that the shares sum to the total.
    alone: String,
}

/// The shares of a component, from all parts of the month.
fn shares(statements: &[Statement], component: &str) -> Vec<Share> {
    let mut shares: BTreeMap<Option<String>, (Exact, Option<Decimal>)> = BTreeMap::new();
    for statement in statements {
        let Some(total) = statement.components.get(component) else { continue };
        let mut rest = (total.exact.parse::<Exact>().unwrap_or_else(|_| Exact::zero()), total.posted);
        for ((_, user), entry) in statement.users.iter().filter(|((of, _), _)| of == component) {
            let Ok(exact) = entry.exact.parse::<Exact>() else { continue };
            rest.0 -= exact.clone();
            rest.1 = rest.1.zip(entry.posted).map(|(rest, posted)| rest - posted);
            let share =
                shares.entry(Some(user.clone())).or_insert_with(|| (Exact::zero(), Some(Decimal::ZERO)));
            share.0 += exact;
            share.1 = share.1.zip(entry.posted).map(|(share, posted)| share + posted);
        }
        let share = shares.entry(None).or_insert_with(|| (Exact::zero(), Some(Decimal::ZERO)));
        share.0 += rest.0;
        share.1 = share.1.zip(rest.1).map(|(share, rest)| share + rest);
    }
    shares
        .into_iter()
        .filter(|(user, (exact, _))| user.is_some() || !exact.is_zero())
        .map(|(user, (exact, posted))| Share { user, alone: two_places(&exact), exact, posted })
        .collect()
}

fn two_places(exact: &Exact) -> String {
    let cents = exact.round(2, Rounding::HalfEven);
    cents_to_decimal(&cents).map_or_else(|| exact.to_string(), |amount| format!("{amount:.2}"))
}

/// The unit of a series' quantity: that of its readings, but for an integral, which is of levels over hours.
fn unit_of_quantity(part: &SeriesPart) -> String {
    let unit = part.unit.clone().unwrap_or_default();
    if part.measure.starts_with("integral") && !unit.is_empty() { format!("{unit}*h") } else { unit }
}

/// The resource that a person means.
pub(super) fn find(ledger: &Ledger, wanted: &str) -> Result<(Uuid, Option<KnownResource>), Failed> {
    let mut found = ledger.find_resources(wanted)?;
    match (found.len(), Uuid::parse_str(wanted)) {
        (1, _) => {
            let known = found.remove(0);
            Ok((known.uuid, Some(known)))
        }
        (0, Ok(uuid)) => Ok((uuid, None)),
        (0, Err(_)) => Err(Failed::new(
            Exit::Usage,
            format!("no known resource has the UUID, backend id or name `{wanted}`"),
        )),
        _ => {
            let which: Vec<_> =
                found.iter().map(|known| format!("{} ({})", known.uuid, known.name)).collect();
            Err(Failed::new(
                Exit::Usage,
                format!("`{wanted}` may be any of: {}; name it by its UUID", which.join(", ")),
            ))
        }
    }
}

struct Shown {
    resource: Uuid,
    known: Option<KnownResource>,
    period: BillingPeriod,
    unit: Option<String>,
    entries: Vec<Entry>,
    shares: Vec<Share>,
    adjustments: Vec<Adjustment>,
    parts: Vec<SeriesPart>,
    calls: Vec<crate::ledger::sent::record::Call>,
    events: Vec<Event>,
    of: Explain,
}

impl Shown {
    /// The exact amount of the whole month: plan periods together.
    fn amount(&self) -> Exact {
        self.entries.iter().filter_map(|entry| entry.exact.parse::<Exact>().ok()).sum()
    }

    fn posted(&self) -> Option<String> {
        let posted: Option<Vec<_>> = self.entries.iter().map(|entry| entry.posted).collect();
        posted.map(|posted| format!("{:.2}", posted.into_iter().sum::<rust_decimal::Decimal>()))
    }

    fn text(&self, out: &mut dyn Write) -> Result<(), Failed> {
        let name = self
            .known
            .as_ref()
            .map_or_else(|| self.resource.to_string(), |k| format!("{} ({})", k.name, k.uuid));
        let of = &self.of;
        let whose = of.user.as_ref().map_or(String::new(), |user| format!(", share of {user}"));
        writeln!(out, "{} of {name}, {}{whose}", of.component, self.period)?;
        let unit = self.unit.as_deref().unwrap_or_default();
        writeln!(
            out,
            "  posted    {} {unit}",
            self.posted().unwrap_or_else(|| "nothing: it can't be posted".to_owned())
        )?;
        let amount = self.amount();
        match amount.to_string() {
            // A decimal that never ends.
            fraction if fraction.contains('/') => {
                writeln!(out, "  exactly   {fraction}, about {}", amount.approximate(6))?;
            }
            decimal => writeln!(out, "  exactly   {decimal}")?,
        }
        for entry in &self.entries {
            match &entry.acknowledged {
                Some(held) => writeln!(out, "  Waldur    {:.2}, {} at {}", held.amount, held.how, held.at)?,
                None => writeln!(out, "  Waldur    not known to hold it yet")?,
            }
            if let Some(block) = &entry.block {
                writeln!(out, "  {}      {}: {}", block.state, block.reason, block.words)?;
            }
        }
        for one in &self.adjustments {
            let sign = if matches!(one.kind, Kind::CarriedTo(_) | Kind::GivenUp) { "less" } else { "with" };
            writeln!(out, "  {sign}      {}", told(one))?;
            if matches!(one.kind, Kind::Opening(_)) {
                writeln!(out, "            usage before that instant is not counted again")?;
            }
        }
        if self.of.user.is_none() && self.shares.iter().any(|share| share.user.is_some()) {
            writeln!(out, "\nshared out as")?;
            let mut rows = table(["user", "exactly", "rounded alone", "posted", "note"]);
            for share in &self.shares {
                let posted = share.posted.map_or("-".to_owned(), |posted| format!("{posted:.2}"));
                let note = if posted == share.alone { "" } else { "adjusted: the shares sum to the total" };
                let user = share.user.clone().unwrap_or_else(|| "(unattributed)".to_owned());
                rows.add_row([&user, &share.exact.to_string(), &share.alone, &posted, note]);
            }
            writeln!(out, "{rows}")?;
        }
        for part in &self.parts {
            let labels: Vec<_> = part.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(
                out,
                "\nfrom collector {}, {} {} {{{}}}{}",
                part.collector,
                part.kind,
                part.reading,
                labels.join(", "),
                part.user.as_ref().map_or(String::new(), |user| format!(", user {user}")),
            )?;
            write!(out, "  {} = {} {}, ", part.measure, part.quantity, unit_of_quantity(part))?;
            match &part.weight {
                None => {
                    writeln!(out, "which does not count: {}", part.weighing)?;
                    continue;
                }
                Some(_) if part.weighing.is_empty() => {
                    writeln!(out, "x factor {} = {}", part.factor, part.amount)?;
                }
                Some(weight) => {
                    writeln!(
                        out,
                        "x factor {} x weight {weight} = {} ({})",
                        part.factor, part.amount, part.weighing
                    )?;
                }
            }
            let counted = &part.counted;
            if counted.covered + counted.missed > 0 {
                let seconds = |micros: i64| {
                    Exact::ratio(micros.into(), 1_000_000).map_or_else(String::new, |s| s.to_string())
                };
                writeln!(
                    out,
                    "  covered {} s, left out {} s in {} gaps",
                    seconds(counted.covered),
                    seconds(counted.missed),
                    counted.gaps
                )?;
            }
            let mut rows = table(["read at", "from", "id", "value", "adds", "in other months", "note"]);
            let skipped = part.readings.len().saturating_sub(SHOWN);
            for reading in part.readings.iter().skip(skipped) {
                let note = match (&reading.value, reading.reset, reading.missed > 0) {
                    _ if !reading.held.is_zero() => "held: more than can be believed",
                    _ if reading.opened => "before the opening balance, which has it",
                    (None, _, _) => "gone: a complete run did not see it",
                    (_, true, _) => "reset: counted from zero",
                    (_, _, true) => "gap before it left out",
                    _ => "",
                };
                rows.add_row([
                    reading.at.to_string(),
                    reading.start.map_or(String::new(), |start| start.to_string()),
                    reading.id.clone(),
                    reading.value.clone().unwrap_or_else(|| "-".to_owned()),
                    reading.added.to_string(),
                    reading.added_elsewhere.to_string(),
                    note.to_owned(),
                ]);
            }
            if skipped > 0 {
                writeln!(out, "  ({skipped} earlier readings not shown; --json has all)")?;
            }
            writeln!(out, "{rows}")?;
        }
        if !self.events.is_empty() {
            writeln!(out, "\nwhat happened beside readings")?;
            for event in &self.events {
                writeln!(out, "  {} {}: {}", event.at, event.kind, event.words)?;
            }
        }
        if !self.calls.is_empty() {
            writeln!(out, "\nreported by")?;
            let skipped = self.calls.len().saturating_sub(SHOWN);
            let mut rows = table(["at", "call", "amounts", "outcome"]);
            for call in self.calls.iter().skip(skipped) {
                rows.add_row([&call.at.to_string(), &call.call, &call.amounts, &call.outcome]);
            }
            writeln!(out, "{rows}")?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let readings: Vec<Value> = self
            .parts
            .iter()
            .flat_map(|part| {
                part.readings.iter().map(move |reading| {
                    json!({
                        "collector": part.collector, "name": part.reading, "kind": part.kind.name(), "labels": part.labels,
                        "user": part.user, "at": reading.at.to_string(),
                        "start": reading.start.map(|start| start.to_string()),
                        "id": if reading.id.is_empty() { None } else { Some(&reading.id) },
                        "value": reading.value, "adds": reading.added.to_string(),
                        "adds_to_other_periods": reading.added_elsewhere.to_string(),
                        "reset": reading.reset, "held": reading.held.to_string(), "gap_microseconds": reading.missed,
                        "in_opening_balance": reading.opened,
                    })
                })
            })
            .collect();
        let series: Vec<Value> = self
            .parts
            .iter()
            .map(|part| {
                json!({
                    "collector": part.collector, "reading": part.reading, "kind": part.kind.name(), "unit": part.unit,
                    "labels": part.labels, "user": part.user, "measure": part.measure,
                    "quantity": part.quantity.to_string(), "factor": part.factor.to_string(),
                    "weight": part.weight.as_ref().map(ToString::to_string), "weighing": part.weighing,
                    "amount": part.amount.to_string(), "resets": part.counted.resets, "gaps": part.counted.gaps,
                    "covered_microseconds": part.counted.covered, "missed_microseconds": part.counted.missed,
                })
            })
            .collect();
        let calls: Vec<Value> = self
            .calls
            .iter()
            .map(|call| {
                json!({
                    "at": call.at.to_string(), "call": call.call, "amounts": call.amounts, "outcome": call.outcome,
                    "words": call.words,
                })
            })
            .collect();
        let shares: Vec<Value> = self
            .shares
            .iter()
            .map(|share| {
                let posted = share.posted.map(|posted| format!("{posted:.2}"));
                json!({
                    "user": share.user, "amount": share.exact.to_string(), "rounded_alone": share.alone,
                    "adjusted": posted.as_ref() != Some(&share.alone), "posted": posted,
                })
            })
            .collect();
        let first = self.parts.first();
        let held: Vec<_> = self.entries.iter().filter_map(|entry| entry.acknowledged.as_ref()).collect();
        json!({
            "resource": self.resource, "component": self.of.component, "period": self.period.to_string(),
            "user": self.of.user, "amount": self.amount().to_string(), "posted": self.posted(), "unit": self.unit,
            "factor": first.map(|part| part.factor.to_string()),
            "rounding": first.map_or("half_even", |part| part.rounding.name()),
            "acknowledged": held.iter().map(|held| format!("{:.2}", held.amount)).collect::<Vec<_>>(),
            "adjustments": self.adjustments.iter().map(adjustment_json).collect::<Vec<_>>(),
            "shares": shares, "series": series, "readings": readings, "calls": calls,
            "events": self.events.iter().map(|event| json!({
                "at": event.at.to_string(), "kind": event.kind, "component": event.component, "words": event.words,
            })).collect::<Vec<_>>(),
        })
    }
}

/// Rows shown to a person.
const SHOWN: usize = 40;
