//! `check` of what a changed file, or a changed source, would change on the bill: everything is done as the daemon would do
//! it, on a copy of the ledger that is gone afterwards. Nothing is recorded in the real one, and nothing is sent.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use tempfile::TempDir;
use uuid::Uuid;

use super::findings::Findings;
use crate::cli::exit::Failed;
use crate::cli::setup::{Setup, count};
use crate::collectors::spool::Spool;
use crate::ledger::Ledger;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::ingest::Run;
use crate::ledger::sent::statement::Statement;

/// Changes shown to a person.
const SHOWN: usize = 50;

/// A copy of the ledger, and what it says before anything is tried on it.
pub(super) struct Rehearsal {
    ledger: Ledger,
    before: Amounts,
    now: Timestamp,
    _folder: TempDir,
}

/// What is to be on the bill, by resource, month, component and user ('' is the total), over the plans of the month.
type Amounts = BTreeMap<(Uuid, String, String, String), Decimal>;

impl Rehearsal {
    /// `None`: there is no ledger yet, so that nothing can change.
    pub(super) fn of(setup: &Setup) -> Result<Option<Rehearsal>, Failed> {
        let path = &setup.settings.ledger;
        let now = setup.clock.now();
        if !path.exists() {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        let copy = folder.path().join("ledger.db");
        let Ok(real) = Ledger::open_to_read(path, (*setup.rulebook).clone()) else {
            return Ok(None); // What is wrong with it was told.
        };
        real.copy_to(&copy)?;
        let mut ledger = Ledger::open(&copy, (*setup.rulebook).clone())?;
        ledger.count_queued()?;
        ledger.state(now)?;
        ledger.untold()?;
        let before = amounts(&ledger)?;
        Ok(Some(Rehearsal { ledger, before, now, _folder: folder }))
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

    /// Does what the daemon would do, and tells what it comes to.
    pub(super) fn tell(mut self, found: &mut Findings) -> Result<(), Failed> {
        let changed = self.ledger.apply_rules(self.now)?;
        let rules_changed = !changed.is_empty();
        self.ledger.count_queued()?;
        self.ledger.state(self.now)?;
        for event in self.ledger.untold()? {
            found.warning(format!("would be told: {event}"));
        }
        let after = amounts(&self.ledger)?;
        let mut grown = 0;
        let mut told = Vec::new();
        let keys: std::collections::BTreeSet<_> = self.before.keys().chain(after.keys()).collect();
        for key in keys {
            let of = |amounts: &Amounts| amounts.get(key).copied().unwrap_or_default();
            let (was, is) = (of(&self.before), of(&after));
            if was == is {
                continue;
            }
            let usual = !rules_changed && is > was && is < was.saturating_mul(Decimal::TWO);
            if usual || (!rules_changed && was.is_zero()) {
                grown += 1;
                continue;
            }
            let (resource, month, component, user) = key;
            let known = self.ledger.resource(*resource)?;
            let name =
                known.map_or_else(|| resource.to_string(), |known| format!("{} ({resource})", known.name));
            let whose = if user.is_empty() { String::new() } else { format!(", of {user}") };
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
            found.good(format!(
                "{} would grow by what was measured since the last run",
                count(grown, "amount")
            ));
        }
        Ok(())
    }
}

fn amounts(ledger: &Ledger) -> Result<Amounts, Failed> {
    let mut found = Amounts::new();
    for Statement { key, components, users, .. } in ledger.statements(None)? {
        let totals = components.into_iter().map(|(component, entry)| (component, String::new(), entry));
        let shares = users.into_iter().map(|((component, user), entry)| (component, user, entry));
        for (component, user, entry) in totals.chain(shares) {
            let place = (key.resource, key.period.to_string(), component, user);
            *found.entry(place).or_default() += entry.posted.unwrap_or_default();
        }
    }
    Ok(found)
}
