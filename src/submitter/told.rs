//! What the log tells of a cycle: each bill that changed, up to so many, and what happened to the books, once. It decides
//! nothing and keeps nothing.

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use tracing::Level;
use tracing::field::display;
use uuid::Uuid;

use super::notes::{self, Note};
use super::reason::waits;
use super::{About, Cycle};
use crate::ledger::db::event::Event;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::blocked::Blocked;
use crate::ledger::sent::statement::Statement;
use crate::ledger::{Ledger, LedgerError, SharedLedger};
use crate::waldur::report::ComponentAmount;
use crate::wire::numbers::count_many;

/// So many bills are told of one by one in a cycle; what `export` and `status` show need not be in the log as well.
const TOLD: usize = 20;

/// Totals that Waldur took in a cycle and held otherwise before: the first of them, and how many there were.
#[derive(Debug, Default)]
pub struct Changes {
    fell: Vec<Change>,
    others: Vec<Change>,
    fallen: usize,
    all: usize,
}

#[derive(Debug)]
struct Change {
    key: StatementKey,
    component: String,
    was: Option<Decimal>,
    is: Decimal,
}

impl Changes {
    fn note(&mut self, change: Change) {
        let was = change.was.unwrap_or_default();
        if was == change.is {
            return;
        }
        self.all += 1;
        let fell = change.is < was;
        self.fallen += usize::from(fell);
        let kept = if fell { &mut self.fell } else { &mut self.others };
        if kept.len() < TOLD {
            kept.push(change);
        }
    }
}

impl Cycle {
    /// Notes what a call that was accepted changes.
    pub(super) fn note_posted(&self, statement: &Statement, usages: &[ComponentAmount]) {
        for usage in usages {
            self.note_change(statement, &usage.component, usage.amount);
        }
    }

    /// Notes a total that is known to have arrived.
    pub(super) fn note_change(&self, statement: &Statement, component: &str, is: Decimal) {
        let known = statement.components.get(component).and_then(|entry| entry.acknowledged.as_ref());
        let (key, was) = (statement.key, known.map(|known| known.amount));
        self.state().changes.note(Change { key, component: component.to_owned(), was, is });
    }
}

/// Tells of the bills that changed, those first that fell.
pub async fn tell_changes(ledger: &SharedLedger, changes: Changes) {
    let Changes { fell, others, fallen, all } = changes;
    let told = fell.len() + others.len().min(TOLD - fell.len());
    for Change { key, component, was, is } in fell.into_iter().chain(others).take(told) {
        let known = ledger.with(move |ledger| {
            let begins = ledger.in_force().zone.start(key.period);
            Ok((ledger.resource(key.resource)?.map(|known| known.name), begins))
        });
        // Where the ledger can't be read, it is told all the same.
        let (name, begins) = known.await.unwrap_or((None, key.part));
        let name = name.filter(|name| !name.is_empty());
        let name = name.map_or_else(|| key.resource.to_string(), |name| format!("{name} ({})", key.resource));
        let (resource, period) = (display(key.resource), display(key.period));
        let place = format!("{name}, {component}, {}", key.period);
        match was {
            None if key.part > begins => {
                tracing::info!(
                    resource,
                    component,
                    period,
                    "{place}: {is:.2} posted, the first of its plan period"
                );
            }
            None => tracing::info!(resource, component, period, "{place}: {is:.2} posted, the first"),
            Some(was) if is < was => {
                tracing::warn!(resource, component, period, "{place}: {was:.2} -> {is:.2} posted: it fell");
            }
            Some(was) => tracing::info!(resource, component, period, "{place}: {was:.2} -> {is:.2} posted"),
        }
    }
    let more = all - told;
    match fallen.saturating_sub(TOLD) {
        _ if more == 0 => {}
        0 => tracing::info!("{more} more amounts changed, none of which fell (`export` shows each)."),
        fell => tracing::warn!("{more} more amounts changed, of which {fell} fell (`export` shows each)."),
    }
}

/// Tells what happened to the books since it was told last.
pub fn tell_events(ledger: &mut Ledger) -> Result<(), LedgerError> {
    let notes: Vec<Note> = ledger.untold()?.into_iter().map(note_of).collect();
    notes::tell(&notes, "explain");
    Ok(())
}

fn note_of((event, name): (Event, Option<String>)) -> Note {
    let resource: Option<Uuid> = event.resource.parse().ok();
    let name = match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("{name} ({})", event.resource),
        None => event.resource.clone(),
    };
    let about = About {
        resource,
        component: Some(event.component.as_str()).filter(|component| !component.is_empty()),
        period: event.period.parse().ok(),
    };
    let mut note = Note::new(about, name, event.words.clone());
    note.cause = format!("{} {}", event.kind, note.cause);
    note.level = if event.is_warning() { Level::WARN } else { Level::INFO };
    note
}

/// What is held, parked or stranded in a ledger when a process begins with it: it was told by those before.
#[derive(Debug, Default)]
pub struct AsBefore(BTreeSet<Place>);

/// Statement, component, user and reason.
type Place = (StatementKey, String, String, String);

impl AsBefore {
    pub fn of(ledger: &Ledger) -> Result<AsBefore, LedgerError> {
        let blocks = ledger.blocks()?.into_iter().filter(|at| waits(&at.block));
        Ok(AsBefore(blocks.map(|at| place(at).0).collect()))
    }

    /// Tells how much of it is so still: one line.
    pub fn tell(self, ledger: &Ledger) -> Result<(), LedgerError> {
        let mut numbers = [("held", 0), ("parked", 0), ("stranded", 0)];
        for (place, state) in ledger.blocks()?.into_iter().map(place) {
            if let Some((_, number)) = numbers.iter_mut().find(|(name, _)| *name == state)
                && self.0.contains(&place)
            {
                *number += 1;
            }
        }
        let told = numbers.into_iter().filter(|(_, number)| *number > 0);
        let told: Vec<String> =
            told.map(|(state, number)| format!("{} {state}", count_many(number, "amount"))).collect();
        if !told.is_empty() {
            tracing::warn!("{} as before: `status`", told.join(", "));
        }
        Ok(())
    }
}

/// Where a block is, and its state.
fn place(at: Blocked) -> (Place, String) {
    let key = at.key();
    ((key, at.component, at.user, at.block.reason), at.block.state)
}
