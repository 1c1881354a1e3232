//! What a changed file, or a changed source, would change on the bill: everything is done as the daemon would do it, on a copy
//! of the ledger that is gone afterwards. Nothing is recorded in the real one, and nothing is sent. `check` sums it up, `diff
//! --config` shows it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use tempfile::TempDir;
use uuid::Uuid;

use super::exit::Failed;
use crate::collectors::spool::Spool;
use crate::config::place;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::ingest::Run;
use crate::ledger::db::event::Event;
use crate::ledger::sent::statement::Statement;
use crate::ledger::{Ledger, Rulebook};
use crate::metering::period::BillingPeriod;

/// A copy of the ledger, and what it says before anything is tried on it.
pub(super) struct DryRun {
    ledger: Ledger,
    before: Amounts,
    now: Timestamp,
    _folder: TempDir,
}

/// Whose amount it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) resource: Uuid,
    pub(super) period: BillingPeriod,
    pub(super) component: String,
    /// '' is the total.
    pub(super) user: String,
}

/// What is to be on the bill, over the plans of the month, and why it is held if it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Billed {
    pub(super) amount: Decimal,
    pub(super) held: Option<String>,
}

type Amounts = BTreeMap<Place, Billed>;

/// What would become of one amount.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) place: Place,
    /// The resource's name, if it is known.
    pub(super) name: Option<String>,
    pub(super) was: Billed,
    pub(super) is: Billed,
}

/// What the rehearsal came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What changes in the rules, in words.
    pub(super) rules: Vec<String>,
    /// What would be told in the log, with the resource's name.
    pub(super) events: Vec<(Event, Option<String>)>,
    pub(super) changes: Vec<Change>,
    /// How many amounts there are, and of how many resources.
    pub(super) amounts: usize,
}

impl DryRun {
    /// Of this ledger, under these rules. `None`: there is no ledger yet, so that nothing can change.
    pub(super) fn of(
        ledger: &place::Place,
        rulebook: &Rulebook,
        now: Timestamp,
    ) -> Result<Option<DryRun>, Failed> {
        if ledger.file().is_some_and(|path| !path.exists()) {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let copy = folder.path().join("ledger.db");
        let Ok(real) = Ledger::open_to_read(ledger, rulebook.clone()) else {
            return Ok(None); // What is wrong with it is told by whoever opens it.
        };
        real.copy_to(&copy)?;
        let mut ledger = Ledger::open(&copy, rulebook.clone())?;
        ledger.count_queued()?;
        ledger.state(now)?;
        ledger.untold()?;
        let before = amounts(&ledger)?;
        Ok(Some(DryRun { ledger, before, now, _folder: folder }))
    }

    /// What a collector said just now.
    pub(super) fn run(&mut self, run: Run, more: &mut Spool) -> Result<(), Failed> {
        self.ledger.append(run, more)?;
        Ok(())
    }

    /// What Waldur lists of an offering.
    pub(super) fn resources(&mut self, resources: Vec<KnownResource>) -> Result<(), Failed> {
        Ok(self.ledger.put_resources(resources, None, self.now)?)
    }

    /// Does what the daemon would do.
    pub(super) fn play(mut self) -> Result<Outcome, Failed> {
        let rules = self.ledger.apply_rules(self.now)?;
        self.ledger.count_queued()?;
        self.ledger.state(self.now)?;
        let events = self.ledger.untold()?;
        let mut after = amounts(&self.ledger)?;
        let mut changes = Vec::new();
        let places: BTreeSet<Place> = self.before.keys().chain(after.keys()).cloned().collect();
        let amounts = places.len();
        for place in places {
            let was = self.before.remove(&place).unwrap_or_default();
            let is = after.remove(&place).unwrap_or_default();
            if was != is {
                let name = self.ledger.resource(place.resource)?.map(|known| known.name);
                changes.push(Change { place, name, was, is });
            }
        }
        Ok(Outcome { rules, events, changes, amounts })
    }
}

fn amounts(ledger: &Ledger) -> Result<Amounts, Failed> {
    let mut found = Amounts::new();
    for Statement { key, components, users, .. } in ledger.statements(None)? {
        let totals = components.into_iter().map(|(component, entry)| (component, String::new(), entry));
        let shares = users.into_iter().map(|((component, user), entry)| (component, user, entry));
        for (component, user, entry) in totals.chain(shares) {
            let place = Place { resource: key.resource, period: key.period, component, user };
            let billed = found.entry(place).or_default();
            billed.amount += entry.posted.unwrap_or_default();
            let held = entry.block.filter(|block| block.state == "held").map(|block| block.words);
            billed.held = billed.held.take().or(held).or(entry.problem);
        }
    }
    Ok(found)
}
