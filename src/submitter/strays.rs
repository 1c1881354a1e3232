//! Rows that stand beside those of a month's statements: another writer's under a plan under which nothing of ours was
//! measured, or our own of a call that nobody answered and that a switch of plan put elsewhere. They are on the bill, so they
//! are told, once an amount. Nothing is concluded of them, and nothing is sent because of them.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use uuid::Uuid;

use super::listing::Rows;
use super::{Cycle, CycleError};
use crate::ledger::db::event::EventKind;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::types::UsageRow;

/// Components of resources' months of which it is not known which row is whose.
pub(super) type Unclear = BTreeSet<(Uuid, BillingPeriod, String)>;

/// What marks these events, so that each is told once.
const MARK: &str = "beside what this agent's statement is in";

impl Cycle {
    /// Tells what the server holds of the components of these statements in rows that are none of theirs.
    pub(super) async fn tell_strays(
        &self,
        read: &[StatementKey],
        rows: &Rows,
        unclear: &Unclear,
    ) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        let months: BTreeSet<(Uuid, BillingPeriod)> =
            read.iter().map(|key| (key.resource, key.period)).collect();
        for (resource, period) in months {
            let mut candidates =
                several(rows.get(&(resource, period)).map(Vec::as_slice).unwrap_or_default());
            candidates.retain(|component, _| !unclear.contains(&(resource, period, component.clone())));
            if candidates.is_empty() {
                continue;
            }
            self.ledger(move |ledger| {
                for (component, words) in strays(ledger, (resource, period), candidates)? {
                    ledger.tell_once(
                        (resource, period, &component),
                        (EventKind::Stray, MARK),
                        &words,
                        now,
                    )?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Row, amount and who wrote it.
type Candidate = (Uuid, Decimal, String);

/// Components with several rows that hold something: only one of them is a statement's, but for a month that was split.
fn several(rows: &[UsageRow]) -> BTreeMap<String, Vec<Candidate>> {
    let mut of: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.usage.is_zero()) {
        let by = row.modified_by.clone().unwrap_or_else(|| "nobody named".to_owned());
        of.entry(row.component.clone()).or_default().push((row.uuid, row.usage, by));
    }
    of.retain(|_, rows| rows.len() > 1);
    of
}

/// Of these, those that are of no part of the month, though it is one of the month's components.
fn strays(
    ledger: &Ledger,
    (resource, period): (Uuid, BillingPeriod),
    candidates: BTreeMap<String, Vec<Candidate>>,
) -> Result<Vec<(String, String)>, LedgerError> {
    let mut known: BTreeMap<String, BTreeSet<Uuid>> = BTreeMap::new();
    for totals in ledger.totals_of(&ledger.parts_of(resource, period)?)? {
        let rows = ledger.rows_read(totals.key)?;
        for component in totals.components.into_keys() {
            let row = rows.get(&component).map(|row| row.uuid);
            known.entry(component).or_default().extend(row);
        }
    }
    let mut strays = Vec::new();
    for (component, rows) in candidates {
        let Some(known) = known.get(&component) else { continue };
        // What was accepted last and is of no part was told when that was found: it is of no plan period.
        let accepted = ledger.accepted_last(resource, period, &component)?;
        let mut others: Vec<&Candidate> = rows.iter().filter(|(row, ..)| !known.contains(row)).collect();
        others.sort();
        let mut beside = Vec::new();
        for (_, amount, by) in others.into_iter().filter(|(_, amount, _)| Some(*amount) != accepted) {
            let outcomes = ledger.outcomes_of(resource, period, (&component, *amount))?;
            beside.push(match is_unanswered(&outcomes) {
                true => format!("{amount:.2} (this agent's own, by a call that was not answered)"),
                false => format!("{amount:.2} (another writer's, modified by {by})"),
            });
        }
        if !beside.is_empty() {
            let words = format!(
                "Waldur also holds {} of it {MARK}, under another plan of the month. It stays as it is. What to do: where it is \
                 billed twice, have Waldur's staff credit it",
                beside.join(" and ")
            );
            strays.push((component, words));
        }
    }
    Ok(strays)
}

/// Whether a call that sent it had no answer: it may have been carried out.
pub(super) fn is_unanswered(outcomes: &BTreeSet<String>) -> bool {
    ["open", "not there"].iter().any(|one| outcomes.contains(*one))
}
