//! Usage that is left over when its month is over at the server: held (stranded), reported into its own month, or
//! carried forward to the month that runs, as `submit: { late: ... }` says.
//!
//! Whatever is done, what the server holds of that month is read first, and nothing is done twice: a report into a past
//! month is an absolute total, and what is carried is one row of the ledger that both months are made with.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::guard::{self, ServerTime};
use super::read::total;
use super::reconcile::Held;
use super::send::is_usage_billed;
use super::trouble::Reason;
use super::{Cycle, CycleError, Late};
use crate::ledger::Ledger;
use crate::ledger::adjustment::Adjustment;
use crate::ledger::outbox::{Entry, Statement, StatementKey};
use crate::metering::exact::{Exact, Rounding, cents_to_decimal};
use crate::waldur::report::SetUsage;

pub(super) const PLAN_ENDED: &str = "its plan period has ended; reporting it again would bill it twice";

/// The server fact that this token may not report what is billed by use into a past month, with the server's words.
const NO_BACKFILL: &str = "no_backfill";
/// How long that is believed: the token's role may be another tomorrow.
const NO_BACKFILL_FOR: SignedDuration = SignedDuration::from_hours(24);
/// A longer description is a permanent 500 (observed).
const LONGEST_DESCRIPTION: usize = 2000;

impl Cycle {
    /// Whether there may be something to do for months that are over, although nothing else is due.
    pub(super) async fn something_is_late(&self) -> Result<bool, CycleError> {
        let server = self.of.server_time().await?;
        let month = self.of.rulebook.zone.period_of(server.now);
        if self.of.late == Late::Hold || (self.of.late == Late::Backfill && server.dated != Some(true)) {
            return Ok(false);
        }
        let refused = self.of.late == Late::CarryForward;
        Ok(!self.ledger(move |ledger| ledger.left_over(month, refused)).await?.is_empty())
    }

    /// Deals with months that are over. What it leaves is stranded when its turn to be sent has come.
    pub(super) async fn settle_late(&self, due: &[StatementKey]) -> Result<(), CycleError> {
        let server = self.of.server_time().await?;
        let zone = &self.of.rulebook.zone;
        let month = zone.period_of(server.now);
        let ended = |key: &&StatementKey| zone.end(key.period) <= server.now;
        let mut keys: Vec<StatementKey> = due.iter().filter(ended).copied().collect();
        if self.of.late == Late::Backfill && server.dated == Some(true) {
            let waiting = self.ledger(move |ledger| ledger.left_over(month, false)).await?;
            let lifted = waiting.clone();
            self.ledger(move |ledger| ledger.lift_stranded(&lifted)).await?;
            keys.extend(waiting);
            keys.sort_unstable();
            keys.dedup();
            return self.backfill_all(keys, &server).await;
        }
        let new = self.of.late == Late::CarryForward;
        if new {
            keys.extend(self.ledger(move |ledger| ledger.left_over(month, true)).await?);
        }
        let carried = self.ledger(move |ledger| ledger.carried_to(month)).await?;
        if !due.is_empty() && self.rows_are_stale().await? {
            // It may have been mended in its own month since.
            self.read_and_settle(&carried).await?;
        }
        keys.extend(carried);
        keys.sort_unstable();
        keys.dedup();
        self.carry_all(keys, new, server.now).await
    }

    /// Where this cycle's reports have shown that the server honours dates, what has just been stranded can be reported.
    pub(super) async fn backfill_if_learnt(&self, due: &[StatementKey]) -> Result<(), CycleError> {
        let server = self.of.server_time().await?;
        let zone = &self.of.rulebook.zone;
        let late = due.iter().any(|key| zone.end(key.period) <= server.now);
        if self.of.late == Late::Backfill && server.dated == Some(true) && late && !self.stopped() {
            self.settle_late(&[]).await?;
        }
        Ok(())
    }

    async fn carry_all(&self, keys: Vec<StatementKey>, new: bool, to: Timestamp) -> Result<(), CycleError> {
        let now = self.of.clock.now();
        let mut changing = Vec::new();
        for key in keys {
            let changes = move |ledger: &mut Ledger| {
                let terminated =
                    ledger.resource(key.resource)?.is_some_and(|known| known.state == "Terminated");
                let statement = ledger.statement(key)?.filter(|_| !terminated);
                let Some(statement) = statement else { return Ok(false) };
                let unclear = statement.components.values().any(|entry| entry.intended.is_some());
                Ok(unclear || !ledger.carry_forward(key, to, (new, false), now)?.is_empty())
            };
            if self.ledger(changes).await? {
                changing.push(key);
            }
        }
        // What is carried is what the server does not hold; so what it holds is looked at, not remembered.
        let failed = self.read_and_settle(&changing).await?;
        for key in changing.into_iter().filter(|key| !failed.contains(key)) {
            let carried = self.ledger(move |ledger| ledger.carry_forward(key, to, (new, true), now)).await?;
            let target = self.of.rulebook.zone.period_of(to);
            for one in carried {
                let (before, amount) = (one.before.approximate(6), one.amount.approximate(6));
                let before =
                    if one.before == Exact::zero() { String::new() } else { format!(" (before: {before})") };
                self.note(format!(
                    "resource {}, {}: {amount}{before} of {} is carried forward to {target}",
                    key.resource, one.component, key.period
                ));
            }
            crate::fail_point("after something is carried forward");
        }
        Ok(())
    }

    /// Reports into months that are over. One after the other, and each is read back before the next: where one landed
    /// elsewhere, nothing else is sent.
    async fn backfill_all(&self, keys: Vec<StatementKey>, server: &ServerTime) -> Result<(), CycleError> {
        let misfiled = self.ledger(|ledger| ledger.resources_in_trouble(Reason::WrongMonth.name())).await?;
        if !misfiled.is_empty() {
            return Ok(());
        }
        for key in keys {
            if self.stopped() || !self.backfill(key, server).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False: nothing else is to be reported into the past.
    async fn backfill(&self, key: StatementKey, server: &ServerTime) -> Result<bool, CycleError> {
        if !self.read_and_settle(&[key]).await?.is_empty() {
            return Ok(true);
        }
        let known = self.components_of(key.resource).await?;
        // What is billed by use is refused to most tokens, and the whole call with it.
        for by_use in [false, true] {
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else {
                return Ok(true);
            };
            let part = self.part_of(key).await?;
            let ended = part.split && part.end.is_some_and(|end| end <= server.now);
            if ended && statement.components.values().any(|entry| entry.acknowledged.is_some()) {
                self.strand_for(&statement, Reason::PlanEnded, PLAN_ENDED.to_owned()).await?;
                return Ok(true);
            }
            self.park_unpostable(&statement).await?;
            let mut usages = Vec::new();
            let chosen = statement.components.iter().filter(|(component, entry)| {
                entry.to_send()
                    && entry.intended.is_none()
                    && is_usage_billed(known.get(*component)) == by_use
            });
            for (component, entry) in chosen {
                let Some(amount) = entry.posted else { continue };
                let held = entry.acknowledged.as_ref().is_some_and(|known| !known.amount.is_zero());
                let of_component = component.clone();
                if held && self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?.is_none() {
                    // It is in several rows, of plans that nobody lists any more; a report would go beside them.
                    self.trouble(key, component, Reason::PlanEnded, PLAN_ENDED.to_owned(), Some(amount))
                        .await?;
                    continue;
                }
                if by_use && amount >= Decimal::from(1_000_000_000_000_i64) {
                    let words = format!(
                        "the amount {amount} is 1,000,000,000,000 or more, which the server can't bill"
                    );
                    self.trouble(key, component, Reason::Amount, words, Some(amount)).await?;
                    continue;
                }
                usages.push(self.with_options(key, component, amount).await?);
            }
            if usages.is_empty() {
                continue;
            }
            let date = guard::within_past(&self.of.rulebook.zone, key.period, key.part, part.end, server.now);
            let report = SetUsage { resource: key.resource, plan_period: None, date: Some(date), usages };
            if by_use && let Some(words) = self.no_backfill().await? {
                self.refuse_late(&statement, &report, words).await?;
                continue;
            }
            let sent = report.clone();
            if self.call(&statement, report).await? && !self.landed(key, &sent).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads back a report into a past month: whether its rows are there and hold what was sent.
    async fn landed(&self, key: StatementKey, sent: &SetUsage) -> Result<bool, CycleError> {
        if !self.read_and_settle(&[key]).await?.is_empty() {
            return Ok(false);
        }
        let Some(read) = self.ledger(move |ledger| ledger.statement(key)).await? else { return Ok(true) };
        let mut landed = true;
        for usage in &sent.usages {
            let entry = read.components.get(&usage.component);
            let held = entry.and_then(|entry| entry.acknowledged.as_ref()).map(|known| known.amount);
            let clear = entry.is_some_and(|entry| entry.trouble.is_none());
            if held == Some(usage.amount) && clear {
                continue;
            }
            landed = false;
            let words = format!(
                "Waldur accepted a report for {}, and its row of that month does not show it",
                key.period
            );
            self.trouble(key, &usage.component, Reason::WrongMonth, words, Some(usage.amount)).await?;
        }
        Ok(landed)
    }

    async fn no_backfill(&self) -> Result<Option<String>, CycleError> {
        let now = self.of.clock.now();
        let fact = self.ledger(|ledger| ledger.server_fact(NO_BACKFILL)).await?;
        let fresh = |at: Timestamp| now.duration_since(at).abs() < NO_BACKFILL_FOR;
        Ok(fact.filter(|(_, at)| fresh(*at)).map(|(words, _)| words))
    }

    /// The server says that a month or a plan period is closed.
    pub(super) async fn closed(
        &self,
        statement: &Statement,
        report: &SetUsage,
        words: String,
    ) -> Result<(), CycleError> {
        let server = self.of.server_time().await?;
        if self.of.rulebook.zone.end(statement.key.period) > server.now {
            return self.strand_for(statement, Reason::PeriodEnded, words).await;
        }
        let known = self.components_of(statement.key.resource).await?;
        if report.usages.iter().any(|usage| is_usage_billed(known.get(&usage.component))) {
            let (words, now) = (words.clone(), self.of.clock.now());
            self.ledger(move |ledger| ledger.put_server_fact(NO_BACKFILL, &words, now)).await?;
        }
        self.refuse_late(statement, report, words).await
    }

    async fn refuse_late(
        &self,
        statement: &Statement,
        report: &SetUsage,
        words: String,
    ) -> Result<(), CycleError> {
        for usage in &report.usages {
            let amount = Some(usage.amount);
            self.trouble(statement.key, &usage.component, Reason::LateRefused, words.clone(), amount).await?;
        }
        Ok(())
    }

    /// What is still to be sent of a month that is over is stranded, but for what waits to be reported into it.
    pub(super) async fn over(&self, statement: &Statement, server: &ServerTime) -> Result<(), CycleError> {
        let why = match self.of.late {
            Late::Backfill if server.dated == Some(true) => return Ok(()),
            Late::Backfill => {
                "; it can be reported into it as soon as the server has shown that it honours dates"
            }
            Late::CarryForward if negative(statement) => {
                "; Waldur holds more than was used, and less than nothing is never carried forward"
            }
            _ => "",
        };
        let words = format!("the month {} ended before this was reported{why}", statement.key.period);
        self.strand_for(statement, Reason::PeriodEnded, words).await
    }

    /// Takes over what somebody has mended in a month that is over; the statement as it is then.
    pub(super) async fn with_mended(
        &self,
        statement: Statement,
        held: &BTreeMap<String, Held>,
    ) -> Result<Statement, CycleError> {
        let (key, now) = (statement.key, self.of.clock.now());
        let moved = self.ledger(move |ledger| ledger.adjustments(key.resource, key.period)).await?;
        let mended = held.iter().filter(|(component, held)| is_mended(&statement, component, held, &moved));
        let mended: Vec<_> = mended.map(|(component, held)| total(component.clone(), held.amount)).collect();
        if mended.is_empty() {
            return Ok(statement);
        }
        let known = self
            .ledger(move |ledger| {
                ledger.acknowledge(key, mended, "read back", now)?;
                ledger.statement(key)
            })
            .await?;
        Ok(known.unwrap_or(statement))
    }

    /// A component's description, with what was carried to its month from others.
    pub(super) async fn described(
        &self,
        key: StatementKey,
        component: &str,
        description: Option<String>,
    ) -> Result<Option<String>, CycleError> {
        let all = self.ledger(move |ledger| ledger.adjustments(key.resource, key.period)).await?;
        let carried = all.into_iter().filter_map(|one| {
            let here = one.component == component && one.user.is_empty() && one.period == key.period;
            let from = one.from.filter(|_| here)?;
            Some(format!("{} carried forward from {from}", two_places(&one.amount)))
        });
        let carried: Vec<String> = carried.collect();
        if carried.is_empty() {
            return Ok(description);
        }
        let words = format!("includes {}", carried.join(" and "));
        let whole = match description {
            Some(description) => format!("{description}; {words}"),
            None => words,
        };
        Ok(Some(whole.chars().take(LONGEST_DESCRIPTION).collect()))
    }
}

/// Whether somebody has put the whole usage of a month that is over into its row, of which a part was carried forward:
/// that is no other hand's number but ours, and what was carried is taken back where that is still possible.
fn is_mended(statement: &Statement, component: &str, held: &Held, moved: &[Adjustment]) -> bool {
    let Some(entry) = statement.components.get(component) else { return false };
    let out = moved.iter().filter(|one| one.from == Some(statement.key.period) && one.user.is_empty());
    let out: Exact = out.filter(|one| one.component == component).map(|one| one.amount.clone()).sum();
    let Ok(exact) = entry.exact.parse::<Exact>() else { return false };
    let off = exact + out.clone() - Exact::from(held.amount);
    let cent = Exact::from(Decimal::new(1, 2));
    let known = entry.acknowledged.as_ref().map(|known| known.amount);
    !out.is_zero() && known != Some(held.amount) && off < cent && -off.clone() < cent
}

/// Whether the server holds more of some component than was used.
fn negative(statement: &Statement) -> bool {
    let falls = |entry: &Entry| {
        let held = entry.acknowledged.as_ref().map(|held| held.amount);
        entry.posted.zip(held).is_some_and(|(posted, held)| posted < held)
    };
    statement.components.values().any(falls)
}

fn two_places(amount: &Exact) -> String {
    let cents = amount.round(2, Rounding::HalfEven);
    cents_to_decimal(&cents).map_or_else(|| amount.approximate(2), |amount| format!("{amount:.2}"))
}
