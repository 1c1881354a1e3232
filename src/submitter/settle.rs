//! What the server's row of a component says beside what the ledger knows of it: the same, an amount of ours that went
//! through after all, or another writer's, which is adopted, overwritten or held as was decided. It never writes to the server.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use rust_decimal::Decimal;

use super::notes::without_resource;
use super::reason::Reason;
use super::reconcile::{Finding, Row, reconcile};
use super::{About, Cycle, CycleError, OnConflict, closing};
use crate::ledger::sent::amount::{Amount, StatementKey};
use crate::ledger::sent::decision::{Decided, Decision};
use crate::ledger::sent::known::Open;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::waldur::failure::Failure;
use crate::waldur::usages::{Listing, UsageFilter};

/// A call that got no answer may still be carried out for so long after its own time-out: a proxy that hangs, a server
/// that works on.
const CARRIED_OUT_WITHIN: SignedDuration = SignedDuration::from_mins(10);

impl Cycle {
    /// Keeps what the rows say of one statement (of its totals; `ended`: its month is over).
    pub(super) async fn settle(
        &self,
        statement: &Statement,
        rows: &BTreeMap<String, Row>,
        ended: bool,
    ) -> Result<Result<(), Failure>, CycleError> {
        let key = statement.key;
        if self.state().odd.iter().all(|(resource, ..)| *resource != key.resource) {
            self.look_for_misfiled(statement, rows).await?;
        }
        let mut proven = false;
        let odd = self.state().odd.clone();
        let is_odd = |component: &str| odd.contains(&(key.resource, key.period, component.to_owned()));
        for (component, entry) in
            statement.components.iter().filter(|(component, _)| !is_odd(component) && !is_odd(""))
        {
            let row = rows.get(component);
            if self.end_open(entry, row).await? {
                proven = true;
                row.iter().for_each(|row| self.note_change(statement, component, row.held.amount));
            }
            match reconcile(entry, row.map(|row| &row.held)) {
                Finding::Same => self.pass(key, component, entry).await?,
                Finding::Known(amount) => {
                    let ours = entry.open.iter().any(|open| open.amount == amount);
                    let was_closed =
                        statement.closed.is_some() || entry.is_blocked_for(Reason::Conflict.name());
                    if !ours
                        && ended
                        && was_closed
                        && Some(amount) != entry.posted
                        && self.is_undecided(key, component, entry).await?
                    {
                        // Also a row that went to nothing: another writer has changed what was settled (law 7).
                        let by = row.map_or("its row is gone", |row| row.held.evidence.as_str());
                        let words = format!(
                            "Waldur holds {amount:.2} of a month that was closed at {:.2}: another writer has changed it ({by})",
                            entry.held()
                        );
                        self.block(key, component, Reason::Conflict, words, Some(amount)).await?;
                        continue;
                    }
                    if !ours {
                        let words = row.map_or_else(String::new, |row| row.held.evidence.clone());
                        self.note_read(key, component, amount, words).await?;
                        if row.is_none() {
                            self.note_shares_gone(key, component).await?;
                        }
                    }
                    self.pass(key, component, entry).await?;
                }
                Finding::Conflict(words) => {
                    let Some(row) = row else { continue };
                    if let Err(failure) = self.dispute(statement, component, row, words).await? {
                        return Ok(Err(failure));
                    }
                }
            }
        }
        if proven {
            // Where it went through after all, the failure is over, and the server was never in trouble.
            self.answered();
            self.ledger(move |ledger| ledger.set_retry(Some(key.resource), None)).await?;
        }
        Ok(Ok(()))
    }

    /// Whether no person has decided of a component since its total was accepted last.
    async fn is_undecided(
        &self,
        key: StatementKey,
        component: &str,
        entry: &Entry,
    ) -> Result<bool, CycleError> {
        let component = component.to_owned();
        let decided = self.ledger(move |ledger| ledger.decided(key, &component)).await?;
        Ok(!decided.is_some_and(|decided| stands(&decided, Some(entry))))
    }

    /// Ends what is open of a line that was looked for. True: it was carried out.
    async fn end_open(&self, entry: &Entry, row: Option<&Row>) -> Result<bool, CycleError> {
        if entry.open.is_empty() {
            return Ok(false);
        }
        let (now, found) = (self.submitter.clock.now(), row.map(|row| row.held.amount));
        let longest = SignedDuration::try_from(self.submitter.client.timeout())
            .unwrap_or(SignedDuration::ZERO)
            .saturating_add(CARRIED_OUT_WITHIN);
        // Where the same amount was accepted since, the row does not tell whether this call was carried out, too.
        let since = |open: &Open| {
            entry.acknowledged.as_ref().is_some_and(|known| Some(known.amount) == found && known.id > open.id)
        };
        let is_there = |open: &Open| found == Some(open.amount) && !since(open);
        let there = entry.open.iter().rev().find(|open| is_there(open)).map(|open| open.id);
        let over: Vec<i64> = entry
            .open
            .iter()
            .filter(|open| is_there(open) || now.duration_since(open.at).abs() > longest)
            .map(|open| open.id)
            .collect();
        if !over.is_empty() {
            self.ledger(move |ledger| ledger.close_open(&over, there, now)).await?;
        }
        Ok(there.is_some())
    }

    /// What held a component because of its row has passed.
    async fn pass(&self, key: StatementKey, component: &str, entry: &Entry) -> Result<(), CycleError> {
        for reason in [Reason::Conflict, Reason::Unadoptable, Reason::Unreadable] {
            if entry.is_blocked_for(reason.name()) {
                let component = component.to_owned();
                self.ledger(move |ledger| {
                    ledger.clear_block(key, "", reason.name())?;
                    ledger.clear_block(key, &component, reason.name())
                })
                .await?;
            }
        }
        Ok(())
    }

    /// A row that is gone has taken its users' shares along: they are to be sent again with it.
    async fn note_shares_gone(&self, key: StatementKey, component: &str) -> Result<(), CycleError> {
        let (component, now) = (component.to_owned(), self.submitter.clock.now());
        Ok(self
            .ledger(move |ledger| {
                let Some(statement) = ledger.statement(key)? else { return Ok(()) };
                let shares = statement
                    .users
                    .iter()
                    .filter(|((of, _), entry)| *of == component && !entry.held().is_zero());
                let gone: Vec<Amount> = shares
                    .map(|((component, user), _)| Amount {
                        component: component.clone(),
                        user: user.clone(),
                        amount: Decimal::ZERO,
                    })
                    .collect();
                ledger.note_read(key, &gone, "its row is gone", now)
            })
            .await?)
    }

    async fn note_read(
        &self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
        words: String,
    ) -> Result<(), CycleError> {
        let (now, amounts) = (self.submitter.clock.now(), vec![Amount::total(component.to_owned(), amount)]);
        Ok(self.ledger(move |ledger| ledger.note_read(key, &amounts, &words, now)).await?)
    }

    /// Another writer's number: adopted or overwritten, if that was decided, or else held.
    async fn dispute(
        &self,
        statement: &Statement,
        component: &str,
        row: &Row,
        words: String,
    ) -> Result<Result<(), Failure>, CycleError> {
        let (key, of_component) = (statement.key, component.to_owned());
        let decided = self.ledger(move |ledger| ledger.decided(key, &of_component)).await?;
        let entry = statement.components.get(component);
        let holds = |decided: &Decided| stands(decided, entry) && decided.held == row.held.amount;
        let by_person = decided.as_ref().filter(|decided| holds(decided)).map(|decided| decided.decision);
        let server = self.submitter.server_time().await?;
        let part = self.part_of(key).await?;
        let ended = closing::has_ended(&self.submitter.zone().await?, key.period, &server);
        // Of a part whose plan period has ended nothing is overwritten any more; what the server holds is what it is. In a month
        // that is over it is a person's number, and told.
        if by_person == Some(Decision::Overwrite) || (part.has_ended(server.now) && !ended) {
            if by_person != Some(Decision::Overwrite) {
                let words = format!("{words}. The plan period that it is of has ended, so that it stays");
                self.note_of(About::of(key, Some(component)), words).await?;
            }
            let words = format!("{}; overwritten", row.held.evidence);
            if let Err(failure) = self.take_theirs(key, component, row, words).await? {
                if by_person.is_some() {
                    let words = without_resource(&failure.to_string(), key.resource);
                    self.state().undone.add(key.resource, words);
                }
                return Ok(Err(failure));
            }
            if let Some(entry) = entry {
                self.pass(key, component, entry).await?;
            }
            return Ok(Ok(()));
        }
        if self.submitter.on_conflict == OnConflict::Overwrite && decided.is_none() && !ended {
            let taken = format!("{}; overwritten, as `on_conflict` says", row.held.evidence);
            if let Err(failure) = self.take_theirs(key, component, row, taken).await? {
                return Ok(Err(failure));
            }
            let (of_component, held, now) =
                (component.to_owned(), row.held.amount, self.submitter.clock.now());
            self.ledger(move |ledger| ledger.decided_by_itself(key, &of_component, held, now)).await?;
            let words = format!("{words}. It is overwritten, as `on_conflict` says; once a month");
            self.note_of(About::of(key, Some(component)), words).await?;
            return Ok(Ok(()));
        }
        let of_component = component.to_owned();
        let reason = match self.ledger(move |ledger| ledger.can_open(key, &of_component)).await? {
            Ok(()) => Reason::Conflict,
            Err(_) => Reason::Unadoptable,
        };
        if let Some(at) = self.may_adopt(statement, component, row, by_person).await? {
            return Ok(match self.adopt(key, component, row, at).await? {
                Ok(Ok(())) => Ok(()),
                Ok(Err(why)) => {
                    let words = format!("{words}. It can't be adopted: {why}");
                    self.block(key, component, reason, words, Some(row.held.amount)).await?;
                    Ok(())
                }
                Err(failure) => Err(failure),
            });
        }
        let words =
            if self.submitter.on_conflict == OnConflict::Overwrite && decided.is_some_and(|d| d.by_itself) {
                format!("{words}; it was overwritten once in this month already: two writers report it")
            } else {
                words
            };
        self.block(key, component, reason, words, Some(row.held.amount)).await?;
        Ok(Ok(()))
    }

    /// What the server accepted and does not show in the month meant landed in another: the server bills by other
    /// months. It is not sent again, because each report overwrites the other month's amount.
    async fn look_for_misfiled(
        &self,
        statement: &Statement,
        rows: &BTreeMap<String, Row>,
    ) -> Result<(), CycleError> {
        let key = statement.key;
        for (component, entry) in statement.components.iter().filter(|(_, entry)| was_accepted(entry)) {
            let of_component = component.clone();
            if rows.contains_key(component)
                || self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?.is_some()
            {
                continue;
            }
            let of_resource = UsageFilter {
                resource: Some(key.resource),
                component: Some(component.clone()),
                ..UsageFilter::default()
            };
            // What can't be listed shows nothing.
            let Ok(Listing { rows, .. }) = self.submitter.client.list_usages(&of_resource).await else {
                continue;
            };
            if rows.iter().any(|row| row.billing_period == key.period.first_day()) {
                // It is in the month, under another plan.
                continue;
            }
            let there = rows.iter().max_by_key(|row| row.date).map_or_else(
                || "nor in any other (was it deleted?)".to_owned(),
                |row| format!("and the latest is in {}", row.billing_period.strftime("%Y-%m")),
            );
            let words = format!(
                "Waldur accepted it for {} but keeps no row of it in that month, {there}. If it was not deleted, Waldur's \
                 months are not those of `billing_timezone: {}`",
                key.period,
                self.submitter.zone().await?.name()
            );
            self.block(key, component, Reason::WrongMonth, words, entry.posted).await?;
        }
        Ok(())
    }
}

/// Whether a person's decision of a component still stands: what was accepted after it is no longer what the person saw.
fn stands(decided: &Decided, entry: Option<&Entry>) -> bool {
    let accepted = entry.and_then(|entry| entry.acknowledged.as_ref());
    !decided.by_itself && accepted.is_none_or(|accepted| accepted.at <= decided.at)
}

/// Whether the server took a report that makes a row. What was only read back is a row already.
fn was_accepted(entry: &Entry) -> bool {
    entry.acknowledged.as_ref().is_some_and(|known| known.how == "accepted")
}
