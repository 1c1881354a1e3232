//! `check` of what a changed file, or a changed source, would change on the bill, in one line an amount.

use rust_decimal::Decimal;

use super::findings::Findings;
use crate::cli::exit::Failed;
use crate::cli::rehearsal::{Change, Rehearsal};
use crate::cli::setup::count;

/// Changes shown to a person.
const SHOWN: usize = 50;

pub(super) fn tell(rehearsal: Rehearsal, found: &mut Findings) -> Result<(), Failed> {
    let outcome = rehearsal.play()?;
    for event in outcome.events {
        found.warning(format!("would be told: {event}"));
    }
    let rules_changed = !outcome.rules.is_empty();
    let mut grown = 0;
    let mut told = Vec::new();
    for Change { place, name, was, is } in outcome.changes {
        let (was, is) = (was.amount, is.amount);
        if was == is {
            continue;
        }
        let usual = !rules_changed && is > was && is < was.saturating_mul(Decimal::TWO);
        if usual || (!rules_changed && was.is_zero()) {
            grown += 1;
            continue;
        }
        let resource = place.resource;
        let name = name.map_or_else(|| resource.to_string(), |name| format!("{name} ({resource})"));
        let whose = if place.user.is_empty() { String::new() } else { format!(", of {}", place.user) };
        let (month, component) = (place.period, place.component);
        told.push(format!("{name}, {month}, {component}{whose}: {was:.2} becomes {is:.2}"));
    }
    let others = told.len().saturating_sub(SHOWN);
    for line in told.into_iter().take(SHOWN) {
        found.warning(line);
    }
    if others > 0 {
        found.warning(format!("and {} more", count(others, "amount")));
    }
    if grown > 0 {
        found.good(format!("{} would grow by what was measured since the last run", count(grown, "amount")));
    }
    Ok(())
}
