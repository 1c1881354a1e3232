//! Which of a month's rows are of which of its parts. Rows don't say which plan period they are of (observed); only the plan
//! periods do, and only of the month that runs at the server. So they are asked where the month is split, and where something
//! is in another row than it was known to be. What they don't list stays what it was known to be: they are asked some time
//! after the rows, and the server's month may have ended meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use uuid::Uuid;

use super::adopt::evidence;
use super::part::Part;
use super::reason::Reason;
use super::reconcile::{Held, Row};
use super::strays::is_unanswered;
use super::writer::{OwnNames, by_server, writer};
use super::{About, Cycle, CycleError};
use crate::ledger::books::catalog::KnownPlanPeriod;
use crate::ledger::sent::amount::Amount;
use crate::ledger::sent::record::Outcome;
use crate::ledger::sent::statement::Statement;
use crate::ledger::{Ledger, LedgerError};
use crate::waldur::failure::Failure;
use crate::waldur::types::{PlanPeriod, UsageRow};

/// What a resource's plan periods say of its rows.
#[derive(Debug)]
pub(super) struct Listed {
    /// The plan period that a row is of.
    of_row: BTreeMap<Uuid, Uuid>,
    /// Whether none of them is open: then a report that names none is billed nowhere (observed).
    none_is_open: bool,
}

impl Listed {
    fn of(periods: &[PlanPeriod]) -> Listed {
        let rows =
            periods.iter().flat_map(|period| period.components.iter().map(|row| (row.uuid, period.uuid)));
        Listed { of_row: rows.collect(), none_is_open: periods.iter().all(|period| period.end.is_some()) }
    }

    fn has(&self, row: &UsageRow) -> bool {
        self.of_row.contains_key(&row.uuid)
    }
}

/// The rows of a part of a month, by component.
#[derive(Debug, Default)]
pub(super) struct RowsOfPart {
    pub(super) rows: BTreeMap<String, Row>,
    /// Components with a row of which nothing tells whose it is.
    pub(super) unclear: BTreeSet<String>,
}

/// The newest row of each component and its amount: the one that was written last.
pub(super) fn newest_rows(rows: &[UsageRow]) -> BTreeMap<String, (Uuid, Decimal)> {
    let mut all: Vec<&UsageRow> = rows.iter().collect();
    all.sort_by_key(|row| row.date);
    all.into_iter().map(|row| (row.component.clone(), (row.uuid, row.usage))).collect()
}

/// Whether the plan periods are to be asked of which part the rows are: of a split month, of one that no plan period is known
/// to cover, and where our own report is in another row than before (`looked`: at these resources' plans it was looked just now,
/// so that a first row is as it should be).
pub(super) fn is_part_unclear(
    ledger: &Ledger,
    (statement, part): (&Statement, Part),
    newest: &BTreeMap<String, (Uuid, Decimal)>,
    looked: &BTreeSet<Uuid>,
) -> Result<bool, LedgerError> {
    let key = statement.key;
    if part.split {
        return Ok(part.plan_period.is_some());
    }
    if newest.is_empty() {
        return Ok(false);
    }
    match ledger.open_plan_periods(key.resource, key.period)? {
        // This token may not see them.
        Some(-1) => return Ok(false),
        Some(0) => return Ok(true),
        _ => {}
    }
    let known = ledger.rows_read(key)?;
    let is_elsewhere = |(component, (row, amount)): (&String, &(Uuid, Decimal))| {
        let is_ours = statement.components.get(component).is_some_and(|entry| {
            let accepted = entry.acknowledged.as_ref().filter(|known| known.how == "accepted");
            accepted.is_some_and(|known| known.amount == *amount)
                || entry.open.iter().any(|open| open.amount == *amount)
        });
        is_ours
            && match known.get(component) {
                Some(known) => known.uuid != *row,
                None => !looked.contains(&key.resource),
            }
    };
    Ok(newest.iter().any(is_elsewhere))
}

impl Cycle {
    /// Asks a resource's plan periods which rows are theirs, and takes over what they tell anew: a switch of plan, also one that
    /// left the plan the same. `None`: this token may not see them, then the month is taken to be whole.
    pub(super) async fn ask_of_rows(
        &self,
        resource: Uuid,
        split: bool,
    ) -> Result<Result<Option<Listed>, Failure>, CycleError> {
        let periods = match self.submitter.client.plan_periods(resource).await {
            Ok(periods) => periods,
            Err(Failure::Missing { .. } | Failure::Forbidden { .. } | Failure::Endpoint { .. }) if !split => {
                return Ok(Ok(None));
            }
            Err(failure) => return Ok(Err(failure)),
        };
        let listed = Listed::of(&periods);
        let (now, month) = (self.submitter.clock.now(), self.running_month().await?.to_string());
        let told: Vec<KnownPlanPeriod> = periods.into_iter().filter_map(known_plan_period).collect();
        let is_news = self.ledger(move |ledger| {
            let known = ledger.plan_periods(resource)?;
            if told.iter().all(|period| known.iter().any(|known| is_same(known, period))) {
                return Ok(false);
            }
            let plan = ledger.resource(resource)?.and_then(|known| known.plan);
            let plan = plan.map(|plan| plan.to_string()).unwrap_or_default();
            ledger.put_plan_periods(resource, &told, (&month, &plan), now)?;
            ledger.state(now)?;
            Ok(true)
        });
        if is_news.await? {
            self.state().moved.insert(resource);
            if !split {
                let words = "Waldur keeps it in other rows than before: its plan was switched, or has ended";
                self.note_of(About::resource(resource), words.to_owned()).await?;
            }
        }
        Ok(Ok(Some(listed)))
    }

    /// The rows that belong to the statement's part of the month.
    pub(super) async fn rows_of_part(
        &self,
        statement: &Statement,
        rows: &[UsageRow],
        (part, own, ended): (Part, &OwnNames, bool),
        listed: Option<&Listed>,
    ) -> Result<RowsOfPart, CycleError> {
        let key = statement.key;
        let (known, of_others) = match part.split || ended || listed.is_some() {
            true => {
                self.ledger(move |ledger| {
                    Ok((ledger.rows_read(key)?, ledger.usage_rows_of_other_parts(key)?))
                })
                .await?
            }
            // The newest is the one that was written.
            false => Default::default(),
        };
        let is_known = |row: &UsageRow| known.get(&row.component).is_some_and(|known| known.uuid == row.uuid);
        let mut all: Vec<&UsageRow> = rows.iter().collect();
        all.sort_by_key(|row| row.date);
        let mut found = RowsOfPart::default();
        let split = part.plan_period.filter(|_| part.split);
        if let Some(plan_period) = split {
            let together = all.clone();
            // An answer that lists none of the month's rows may be of the next month.
            let of_month = listed.is_some_and(|listed| all.iter().any(|row| listed.has(row)));
            for row in all {
                let of_period = listed.and_then(|listed| listed.of_row.get(&row.uuid));
                if of_period.map_or(is_known(row), |of_period| *of_period == plan_period) {
                    found.rows.insert(row.component.clone(), as_row(row, &together, own));
                } else if of_period.is_none() && !of_month && !ended && !of_others.contains(&row.uuid) {
                    found.unclear.insert(row.component.clone());
                }
            }
            return Ok(found);
        }
        if ended {
            // A switch of plan that nobody saw in its month; and rows that were found to be of no plan period while it ran.
            let has_no_plan = |row: &UsageRow| {
                let entry = statement.components.get(&row.component);
                entry.is_some_and(|entry| entry.is_blocked_for(Reason::NoPlan.name()))
            };
            all.retain(|row| !of_others.contains(&row.uuid) && (is_known(row) || !has_no_plan(row)));
        } else if let Some(listed) = listed {
            if listed.none_is_open {
                all.retain(|row| listed.has(row) || is_known(row));
            }
            // A row of no plan period, which is billed nowhere, is not the one that counts.
            all.sort_by_key(|row| (listed.has(row), row.date));
        }
        let together = all.clone();
        found.rows = all.iter().map(|row| (row.component.clone(), as_row(row, &together, own))).collect();
        if !ended {
            return Ok(found);
        }
        for (component, row) in &mut found.rows {
            let several: Vec<&&UsageRow> = all.iter().filter(|row| row.component == *component).collect();
            if several.len() < 2 {
                continue;
            }
            let others: Vec<Decimal> =
                several.iter().filter(|row| !is_known(row)).map(|row| row.usage).collect();
            let of_component = component.clone();
            let unanswered: BTreeSet<Decimal> = self
                .ledger(move |ledger| {
                    let mut unanswered = BTreeSet::new();
                    for amount in others {
                        let outcomes =
                            ledger.outcomes_of(key.resource, key.period, (&of_component, amount))?;
                        if is_unanswered(&outcomes) && !outcomes.contains("accepted") {
                            unanswered.insert(amount);
                        }
                    }
                    Ok(unanswered)
                })
                .await?;
            match known.get(component) {
                // A call of ours that was not answered went beside it: together they are what the server holds of ours.
                Some(_) if !unanswered.is_empty() => {
                    let ours = several.iter().filter(|row| is_known(row) || unanswered.contains(&row.usage));
                    row.held.amount = ours.map(|row| row.usage).sum();
                    row.one_of_several = true;
                }
                // The one that was written; a switch of plan that nobody saw in its month has made the others.
                Some(known) => {
                    if let Some(ours) = several.iter().find(|row| row.uuid == known.uuid) {
                        *row = as_row(ours, &together, own);
                    }
                }
                None => {
                    // Plans were switched before this ledger was there, and the server no longer lists the earlier
                    // ones: all of the rows together are what it holds of the month.
                    row.held.amount = several.iter().map(|row| row.usage).sum();
                    row.one_of_several = true;
                }
            }
        }
        Ok(found)
    }

    /// What was accepted and is of no plan period, because the last one has ended and none followed, is billed nowhere: what
    /// counts is what Waldur holds under the one that ended. True: there was such a thing.
    pub(super) async fn take_back_unbilled(
        &self,
        statement: &Statement,
        rows: &[UsageRow],
        (listed, of_part): (&Listed, &BTreeMap<String, Row>),
    ) -> Result<bool, CycleError> {
        let (key, now) = (statement.key, self.submitter.clock.now());
        let mut any = false;
        for (component, entry) in statement.components.iter().filter(|_| listed.none_is_open) {
            let Some(accepted) = entry.acknowledged.as_ref().filter(|known| known.how == "accepted") else {
                continue;
            };
            let counts = of_part.get(component);
            let is_it = |row: &UsageRow| {
                row.component == *component
                    && row.usage == accepted.amount
                    && !listed.has(row)
                    && counts.is_none_or(|counts| counts.uuid != row.uuid)
            };
            let billed = counts.map(|row| row.held.amount).unwrap_or_default();
            if billed == accepted.amount || !rows.iter().any(is_it) {
                continue;
            }
            any = true;
            let words = format!(
                "{:.2} was accepted under no plan period, which is billed nowhere: the last one has ended. {billed:.2} is billed",
                accepted.amount
            );
            self.note_of(About::of(key, Some(component)), words.clone()).await?;
            let (id, is_billed) = (accepted.id, counts.is_some());
            let amounts = [Amount::total(component.clone(), billed)];
            self.ledger(move |ledger| match is_billed {
                true => ledger.note_read(key, &amounts, &words, now),
                // Under the plan period that ended there is nothing yet: a first report of it is still taken.
                false => ledger.conclude(&[id], Outcome::Refused, &words, now),
            })
            .await?;
            self.state().moved.insert(key.resource);
        }
        Ok(any)
    }
}

fn as_row(row: &UsageRow, together: &[&UsageRow], own: &OwnNames) -> Row {
    Row {
        uuid: row.uuid,
        one_of_several: false,
        writer: writer(row),
        held: Held { amount: row.usage, by_server: by_server(row), evidence: evidence(row, together, own) },
    }
}

/// A plan period as the ledger keeps it; one that does not tell when it began cuts nothing.
pub(super) fn known_plan_period(period: PlanPeriod) -> Option<KnownPlanPeriod> {
    Some(KnownPlanPeriod { uuid: period.uuid, start: period.start?, end: period.end })
}

/// To the microsecond, as they are kept.
fn is_same(one: &KnownPlanPeriod, other: &KnownPlanPeriod) -> bool {
    let of = |period: &KnownPlanPeriod| {
        (period.uuid, period.start.as_microsecond(), period.end.map(|end| end.as_microsecond()))
    };
    of(one) == of(other)
}
