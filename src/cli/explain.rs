//! `explain`: for a person in a billing dispute, from the posted number back to the readings it came from. It only reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use clap::Args;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::setup::Setup;
use super::text::nearest;
use crate::ledger::Ledger;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::db::event::Event;
use crate::ledger::sent::decision::Decided;
use crate::ledger::sent::statement::{Entry, Holds, Statement};
use crate::ledger::views::adjustments::Adjustment;
use crate::ledger::views::calls::Call;
use crate::ledger::views::explain::SeriesPart;
use crate::metering::exact::{Exact, Rounding, cents_to_decimal};
use crate::metering::period::{BillingPeriod, BillingZone};

mod days;
mod json;
mod text;

/// Explain an amount, down to the readings that it was made of.
///
/// It begins with tables that can be added up: by day, and by series where there are several. --readings goes down to
/// each reading.
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
    /// Show the readings, too.
    #[arg(long)]
    readings: bool,
    /// For machines: everything.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let ledger = setup.ledger_to_read()?;
        let period = self.period.unwrap_or_else(|| ledger.in_force().zone.period_of(setup.clock.now()));
        let (resource, known) = find(&ledger, &self.resource)?;
        let parts = ledger.explain(resource, &self.component, period, self.user.as_deref())?;
        let mut keys = ledger.parts_of(resource, period)?;
        keys.sort_unstable();
        let statements = ledger.statements_of(&keys)?;
        let shares = shares(&statements, &self.component);
        let there: BTreeSet<String> =
            statements.iter().flat_map(|statement| statement.components.keys().cloned()).collect();
        let mut decisions = Vec::new();
        for statement in &statements {
            decisions.extend(ledger.decided(statement.key, &self.component)?);
        }
        decisions.dedup();
        let (mut entries, mut holds) = (Vec::new(), Vec::new());
        for statement in &statements {
            let user = self.user.as_deref().unwrap_or_default();
            let Some(entry) = statement.entry(&self.component, user) else { continue };
            let rows = ledger.rows_read(statement.key)?;
            holds.push(entry.holds(rows.get(&self.component).filter(|_| user.is_empty())));
            entries.push(entry.clone());
        }
        if entries.is_empty() {
            let there = match (there.is_empty(), there.contains(&self.component)) {
                (true, _) => months_there(&ledger, resource)?,
                (false, true) => users_there(&shares),
                (false, false) => {
                    format!("it has some of {}", there.into_iter().collect::<Vec<_>>().join(", "))
                }
            };
            let whose = self.user.as_ref().map_or(String::new(), |user| format!(" of {user}"));
            let (component, resource) = (&self.component, &self.resource);
            return Err(Failed::new(
                Exit::Usage,
                format!("the ledger has no amount of {component}{whose} for {resource} in {period}; {there}"),
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
            holds,
            shares,
            adjustments,
            parts,
            calls,
            events,
            decisions,
            zone: ledger.in_force().zone.clone(),
            of: self,
        };
        if shown.of.json {
            writeln!(out, "{:#}", shown.json())?
        } else {
            text::write(out, &shown)?
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

/// So many names are told.
const NAMED: usize = 20;

/// The months that there is something in, in words.
fn months_there(ledger: &Ledger, resource: Uuid) -> Result<String, Failed> {
    let statements = ledger.statements(None)?.into_iter();
    let months: BTreeSet<BillingPeriod> =
        statements.filter(|one| one.key.resource == resource).map(|one| one.key.period).collect();
    Ok(match months.is_empty() {
        true => "it has none of it in any month".to_owned(),
        false => format!("it has some in {}", named(months.into_iter().rev().map(|month| month.to_string()))),
    })
}

/// Whose shares there are, in words.
fn users_there(shares: &[Share]) -> String {
    let users: Vec<String> = shares.iter().filter_map(|share| share.user.clone()).collect();
    match users.is_empty() {
        true => "no user has a share of it".to_owned(),
        false => format!("there are shares of {}", named(users.into_iter())),
    }
}

fn named(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.into_iter().take(NAMED).collect::<Vec<_>>().join(", "))
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
    cents.and_then(cents_to_decimal).map_or_else(|| exact.to_string(), |amount| format!("{amount:.2}"))
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
        (0, Err(_)) => {
            let resources = ledger.resources()?;
            let names = resources.iter().flat_map(|known| [known.backend_id.as_str(), known.name.as_str()]);
            let near = nearest(wanted, names.filter(|name| !name.is_empty()));
            let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            Err(Failed::new(
                Exit::Usage,
                format!("no known resource has the UUID, backend id or name `{wanted}`{near}"),
            ))
        }
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
    /// What Waldur holds of each.
    holds: Vec<Option<Holds>>,
    shares: Vec<Share>,
    adjustments: Vec<Adjustment>,
    parts: Vec<SeriesPart>,
    calls: Vec<Call>,
    events: Vec<Event>,
    decisions: Vec<Decided>,
    zone: BillingZone,
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
}
