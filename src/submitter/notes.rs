//! What a cycle has to tell of resources, a line a cause: what is the same of some hundred resources is one line with how many
//! they are and the first of them; the rest is in `status`. It decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rust_decimal::Decimal;
use tracing::Level;
use tracing::field::display;
use uuid::Uuid;

use super::reason::Reason;
use super::{About, Cycle};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::blocked::Block;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::wire::numbers::count_many;

/// Up to so many of one cause have a line each; of more, so many are named.
const NAMED: usize = 3;
/// A cycle may take an hour: what it has to tell does not wait longer than this for more of its kind.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// Something to be told.
#[derive(Debug, Clone)]
pub(super) struct Note {
    pub(super) resource: Option<Uuid>,
    pub(super) component: Option<String>,
    pub(super) period: Option<BillingPeriod>,
    /// What of the resource it is about, where that is not just its component.
    pub(super) what: Option<String>,
    /// The resource as people know it.
    pub(super) name: String,
    pub(super) words: String,
    /// What to do, where something is to be done.
    pub(super) remedy: &'static str,
    pub(super) level: Level,
    /// What it has in common with others of its kind.
    pub(super) cause: String,
}

/// What a cycle has not told yet.
#[derive(Debug, Default)]
pub(super) struct Untold {
    notes: Vec<Note>,
    since: Option<tokio::time::Instant>,
    /// All that was noted, each once a cycle.
    noted: BTreeSet<String>,
}

/// One line of the log.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// What it is about, if that is one.
    pub(super) note: Option<&'a Note>,
    pub(super) level: Level,
    pub(super) text: String,
}

impl Note {
    pub(super) fn new(about: About<'_>, name: String, words: String) -> Note {
        let component = about.component.unwrap_or_default();
        let cause = format!("{component} {}", gist(&words, &name, about.resource));
        Note {
            resource: about.resource,
            component: about.component.map(ToOwned::to_owned),
            period: about.period,
            what: None,
            name,
            words,
            remedy: "",
            level: Level::WARN,
            cause,
        }
    }

    /// `Project A (5e2f...), cpu_hours, 2026-11`.
    fn place(&self) -> String {
        let period = self.period.map(|period| period.to_string());
        let what = self.what.as_deref().or(self.component.as_deref());
        let parts = [Some(self.name.as_str()), what, period.as_deref()];
        parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn text(&self, and: &str) -> String {
        let place = self.place();
        let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
        let what_to_do =
            if self.remedy.is_empty() { String::new() } else { format!(" What to do: {}", self.remedy) };
        let end = if and.is_empty() && what_to_do.is_empty() { "" } else { "." };
        let words = if end.is_empty() { self.words.as_str() } else { self.words.trim_end_matches('.') };
        format!("{place}{words}{end}{and}{what_to_do}")
    }
}

/// A line a note, or a line a cause where there are many of it; `rest`: the command that shows the others.
pub(super) fn lines<'a>(notes: &'a [Note], rest: &str) -> Vec<Line<'a>> {
    let mut groups: Vec<(&str, Vec<&Note>)> = Vec::new();
    let mut places: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for note in notes {
        // What is about no resource is one of its kind.
        let place = match note.resource {
            Some(_) => *places.entry(&note.cause).or_insert(groups.len()),
            None => groups.len(),
        };
        match groups.get_mut(place) {
            Some((_, group)) => group.push(note),
            None => groups.push((&note.cause, vec![note])),
        }
    }
    let mut lines = Vec::new();
    for (_, group) in groups {
        match group.as_slice() {
            [first, others @ ..] if others.len() >= NAMED => {
                lines.push(Line { note: None, level: first.level, text: many(first, others, rest) })
            }
            few => lines.extend(few.iter().map(|&note| Line {
                note: Some(note),
                level: note.level,
                text: note.text(""),
            })),
        }
    }
    lines
}

fn many(first: &Note, others: &[&Note], rest: &str) -> String {
    let resources: BTreeSet<_> = others.iter().map(|note| note.resource).chain([first.resource]).collect();
    let (number, resources) = (others.len() + 1, resources.len());
    let heading = match first.component {
        Some(_) => format!("{} of {}", count_many(number, "amount"), count_many(resources, "resource")),
        None if number > resources => {
            format!("{} of {}", count_many(number, "month"), count_many(resources, "resource"))
        }
        None => count_many(resources, "resource"),
    };
    let named: Vec<String> = others.iter().take(NAMED - 1).map(|note| note.place()).collect();
    let and = format!(" Then {}; the rest: `{rest}`.", named.join("; "));
    format!("{heading}, first {}", first.text(&and))
}

/// What is parked for its number, by statement, component and user.
pub(super) type Refused = BTreeMap<(StatementKey, String, String), (Block, Option<Decimal>)>;

pub(super) fn refused_for_amounts(ledger: &Ledger) -> Result<Refused, LedgerError> {
    let refused = ledger.blocks()?.into_iter().filter(|at| at.block.reason == Reason::Amount.name());
    Ok(refused.map(|at| ((at.key(), at.component, at.user), (at.block, at.amount))).collect())
}

/// What words say whatever the resource and its numbers are.
pub(super) fn gist(words: &str, name: &str, resource: Option<Uuid>) -> String {
    let mut words = words.to_owned();
    if let Some(resource) = resource {
        let name = name.strip_suffix(&format!(" ({resource})")).unwrap_or(name);
        for own in [resource.to_string(), resource.as_simple().to_string(), name.to_owned()] {
            if !own.is_empty() {
                words = words.replace(&own, "");
            }
        }
    }
    words.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// A call's words name a resource by its UUID: beside the resource's own name nothing needs to.
pub(super) fn without_resource(words: &str, resource: Uuid) -> String {
    let mut words = words.to_owned();
    for uuid in [resource.as_simple().to_string(), resource.to_string()] {
        words =
            words.replace(&format!(" for resource {uuid}"), "").replace(&format!(" of resource {uuid}"), "");
    }
    words
}

/// The same where they stand alone: a resource is named as people know it.
pub fn with_names(ledger: &Ledger, words: &str) -> Result<String, LedgerError> {
    const BEFORE: &str = "resource ";
    let mut named = String::new();
    let mut left = words;
    while let Some(place) = left.find(BEFORE) {
        let (before, after) = left.split_at(place + BEFORE.len());
        let end = after.find(|c: char| !c.is_ascii_hexdigit() && c != '-').unwrap_or(after.len());
        let (text, rest) = after.split_at(end);
        let uuid: Option<Uuid> = text.parse().ok();
        let known = uuid
            .map(|uuid| ledger.resource(uuid))
            .transpose()?
            .flatten()
            .filter(|known| !known.name.is_empty());
        match known {
            Some(known) => {
                named.push_str(before.strip_suffix(BEFORE).unwrap_or(before));
                named.push_str(&format!("{} ({})", known.name, known.uuid));
            }
            None => {
                named.push_str(before);
                named.push_str(text);
            }
        }
        left = rest;
    }
    named.push_str(left);
    Ok(named)
}

impl Cycle {
    /// A note of no resource.
    pub(super) fn note(&self, words: String) {
        self.add_note(Note::new(About::default(), String::new(), words));
    }

    /// A note of a resource, which begins with its name.
    pub(super) async fn note_of(&self, about: About<'_>, words: String) -> Result<(), LedgerError> {
        let name = match about.resource {
            Some(resource) => self.name_of(resource).await?,
            None => String::new(),
        };
        self.add_note(Note::new(about, name, words));
        Ok(())
    }

    pub(super) fn add_note(&self, note: Note) {
        let is_time = {
            let untold = &mut self.state().untold;
            if !untold.noted.insert(note.text("")) {
                return;
            }
            untold.notes.push(note);
            untold.since.get_or_insert_with(tokio::time::Instant::now).elapsed() > TOLD_WITHIN
        };
        if is_time {
            self.tell_notes();
        }
    }

    /// Tells what was not told yet.
    pub(super) fn tell_notes(&self) {
        let notes = {
            let untold = &mut self.state().untold;
            untold.since = None;
            std::mem::take(&mut untold.notes)
        };
        let mut told = tell(&notes, "status");
        self.state().report.notes.append(&mut told);
    }
}

/// Tells notes in the log, and returns the lines.
pub(super) fn tell(notes: &[Note], rest: &str) -> Vec<String> {
    let lines = lines(notes, rest).into_iter().map(|Line { note, level, text }| {
        let (resource, component, period) =
            note.map_or((None, None, None), |note| (note.resource, note.component.as_deref(), note.period));
        let (resource, period) = (resource.map(display), period.map(display));
        match level {
            Level::WARN => tracing::warn!(resource, component, period, "{text}"),
            _ => tracing::info!(resource, component, period, "{text}"),
        }
        text
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(number: u128, component: Option<&str>, words: &str) -> Note {
        let resource = Uuid::from_u128(number);
        let about = About { resource: Some(resource), component, period: "2026-11".parse().ok() };
        Note::new(about, format!("T{number} ({resource})"), words.to_owned())
    }

    fn told(notes: &[Note]) -> Vec<String> {
        lines(notes, "status").into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn few_have_a_line_each_and_many_of_one_cause_have_one() {
        let gone = |number: u128| {
            let words = format!("parked: {number}.00: refused: invalid: cpu of T{number}.");
            Note { remedy: "correct it", ..note(number, Some("cpu"), &words) }
        };
        let id = |number: u128| Uuid::from_u128(number).to_string();
        let few: Vec<Note> = (1..=3).map(gone).collect();
        let of = |number: u128| {
            format!(
                "T{number} ({}), cpu, 2026-11: parked: {number}.00: refused: invalid: cpu of T{number}. What to do: correct it",
                id(number)
            )
        };
        assert_eq!(told(&few), [of(1), of(2), of(3)]);
        let mut many: Vec<Note> = (1..=1200).map(gone).collect();
        many.insert(1, note(7, None, "its plan was switched"));
        assert_eq!(
            told(&many),
            [
                format!(
                    "1,200 amounts of 1,200 resources, first T1 ({}), cpu, 2026-11: parked: 1.00: refused: invalid: cpu of T1. \
                     Then T2 ({}), cpu, 2026-11; T3 ({}), cpu, 2026-11; the rest: `status`. What to do: correct it",
                    id(1),
                    id(2),
                    id(3)
                ),
                format!("T7 ({}), 2026-11: its plan was switched", id(7)),
            ]
        );
    }

    #[test]
    fn what_is_about_no_resource_is_one_of_its_kind() {
        let one = |words: &str| Note::new(About::default(), String::new(), words.to_owned());
        let notes: Vec<Note> = (1..=5).map(|number| one(&format!("list {number} failed"))).collect();
        assert_eq!(told(&notes).len(), 5);
    }

    #[test]
    fn a_call_does_not_name_its_resource_beside_its_name() {
        let resource = Uuid::from_u128(1);
        let words = format!("POST set_usage for resource {}: refused", resource.as_simple());
        assert_eq!(without_resource(&words, resource), "POST set_usage: refused");
        assert_eq!(without_resource(&words, Uuid::from_u128(2)), words);
    }
}
