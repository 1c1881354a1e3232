//! `check` of what a changed file, or a changed source, would change on the bill: each change once, and of very many what they
//! come to.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;

use super::findings::Findings;
use crate::cli::exit::Failed;
use crate::cli::rehearsal::{Change, DryRun, Place};
use crate::cli::setup::count;
use crate::cli::text::thousands;

/// More changes of a component are summed up, too.
const FEW: usize = 8;

pub(super) fn tell(rehearsal: DryRun, found: &mut Findings) -> Result<(), Failed> {
    let outcome = rehearsal.play()?;
    let rules_changed = !outcome.rules.is_empty();
    let is_usual = |change: &Change| {
        let (was, is) = (change.was.amount, change.is.amount);
        let grows = is > was && is < was.saturating_mul(Decimal::TWO);
        was != is && !rules_changed && (grows || was.is_zero())
    };
    let (usual, changes): (Vec<Change>, Vec<Change>) = outcome.changes.into_iter().partition(is_usual);
    let held: BTreeSet<Place> =
        changes.iter().filter(|change| is_newly_held(change)).map(|change| change.place.clone()).collect();
    let told: Vec<&Change> = changes.iter().filter(|change| is_told(change, &held)).collect();
    // What an amount becomes says what its events would.
    let places: BTreeSet<(String, String, &str)> = told.iter().map(|change| key(&change.place)).collect();
    for (event, name) in &outcome.events {
        let about = (event.resource.clone(), event.period.clone(), event.component.as_str());
        let line = format!("would be told: {}", event.sentence(name.as_deref()));
        match event.resource.is_empty() {
            true => found.warning(line),
            false if places.contains(&about) => {}
            false => found.warning_of_many("changes that would be logged", line),
        }
    }
    sums(&told, found);
    for change in told {
        found.warning_of_many("amounts that would change", line(change, held.contains(&change.place)));
    }
    if !usual.is_empty() {
        found.good(format!(
            "{} would grow by what was measured since the last run",
            count(usual.len(), "amount")
        ));
    }
    Ok(())
}

fn is_newly_held(change: &Change) -> bool {
    change.is.held.is_some() && change.was.held.is_none()
}

/// Whether it is a change of its own: users' shares of what would be held are held with it.
fn is_told(change: &Change, held: &BTreeSet<Place>) -> bool {
    let total = Place { user: String::new(), ..change.place.clone() };
    let with_total = !change.place.user.is_empty() && held.contains(&total);
    !with_total && (held.contains(&change.place) || change.was.amount != change.is.amount)
}

fn key(place: &Place) -> (String, String, &str) {
    (place.resource.to_string(), place.period.to_string(), place.component.as_str())
}

/// `Project A (5e2f...), 2026-11, cpu_hours, of alice: 1.50 becomes 3.00`
fn line(change: &Change, held: bool) -> String {
    let Change { place, name, was, is } = change;
    let resource = place.resource;
    let name = name.as_ref().map_or_else(|| resource.to_string(), |name| format!("{name} ({resource})"));
    let whose = if place.user.is_empty() { String::new() } else { format!(", of {}", place.user) };
    let what = match is.held.as_ref().filter(|_| held) {
        Some(why) => format!("would be held: {why}"),
        None => format!("{:.2} becomes {:.2}", was.amount, is.amount),
    };
    format!("{name}, {}, {}{whose}: {what}", place.period, place.component)
}

/// What the totals of a component come to, where many of them change.
fn sums(told: &[&Change], found: &mut Findings) {
    let mut sums: BTreeMap<(String, &str), (usize, Decimal, Decimal)> = BTreeMap::new();
    for Change { place, was, is, .. } in told.iter().filter(|change| change.place.user.is_empty()) {
        let sum = sums.entry((place.period.to_string(), &place.component)).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(was.amount), sum.2.saturating_add(is.amount));
    }
    for ((period, component), (resources, was, is)) in sums.into_iter().filter(|(_, sum)| sum.0 > FEW) {
        let of = thousands(resources);
        found.warning(format!("{period}, {component} of {of} resources: {was:.2} becomes {is:.2} in all"));
    }
}
