//! Usage that is left over when its month is over at the server: held (stranded), reported into its own month, or
//! carried forward to the month that runs, as `submit: { late: ... }` says.
//!
//! What is dealt with is a difference: used by that month's rules, less what was accepted from us, in posted cents. Before
//! anything is done what the server holds of that month is read, and nothing is done twice: a report into a past month is an
//! absolute total, and what is carried is a row of the ledger that both months are made with.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::closing::has_ended;
use super::guard::{self, ServerTime};
use super::plans::Again;
use super::reason::Reason;
use super::totals::{Intended, PLAN_ENDED, TOO_MUCH, amount, is_usage_billed};
use super::{About, Cycle, CycleError, Late};
use crate::ledger::sent::amount::{Amount, StatementKey};
use crate::ledger::sent::record::Intent;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::metering::period::BillingZone;
use crate::waldur::report::{ComponentAmount, SetUsage};

/// The server fact that this token may not report what is billed by use into a past month, with the server's words.
const NO_BACKFILL: &str = "no_backfill";
/// How long that is believed: the token's role may be another tomorrow.
const NO_BACKFILL_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Why something of a month that is over was left, which may still be reported into it.
const LEFT_OVER: [Reason; 3] = [Reason::PeriodEnded, Reason::ClosingRest, Reason::LateShare];

impl Cycle {
    /// Whether there may be something to do for months that are over, although nothing else is due.
    pub(super) async fn something_is_late(&self) -> Result<bool, CycleError> {
        let server = self.submitter.server_time().await?;
        if self.submitter.late == Late::Backfill && server.dated == Some(true) {
            return Ok(!self.left_over(&server).await?.is_empty());
        }
        let (now, new) = (self.submitter.clock.now(), self.submitter.late == Late::CarryForward);
        let changes = self.ledger(move |ledger| ledger.carry_forward(server.now, (new, false), now)).await?;
        Ok(!changes.is_empty())
    }

    /// Deals with months that are over. What it leaves is stranded when its turn to be sent has come.
    pub(super) async fn settle_late(self: &Arc<Self>) -> Result<(), CycleError> {
        let server = self.submitter.server_time().await?;
        if self.submitter.late == Late::Backfill && server.dated == Some(true) {
            // A switch of plan that nobody has seen would have a report land beside the row that it is meant for; after a renewal, in
            // a plan period that has ended.
            let resources = self.left_over(&server).await?.into_iter().map(|key| key.resource).collect();
            if !self.look_at_plans_of(resources, Again::Must).await? {
                return Ok(());
            }
            let mut keys = self.left_over(&server).await?;
            let put_off = self.state().put_off_now.clone();
            keys.retain(|key| !put_off.contains(&key.resource));
            self.ledger(|ledger| ledger.clear_blocks(None, &LEFT_OVER.map(Reason::name))).await?;
            return self.backfill_all(keys, &server).await;
        }
        self.carry_all(server.now).await
    }

    /// Where this cycle's reports have shown that the server honours dates, what has just been stranded can be reported.
    pub(super) async fn backfill_if_learnt(self: &Arc<Self>, due: &[StatementKey]) -> Result<(), CycleError> {
        let server = self.submitter.server_time().await?;
        let zone = self.submitter.zone().await?;
        let late = due.iter().any(|key| zone.end(key.period) <= server.now);
        if self.submitter.late == Late::Backfill && server.dated == Some(true) && late && !self.stopped() {
            self.settle_late().await?;
        }
        Ok(())
    }

    /// Statements of months that are over of which something is left to report.
    async fn left_over(&self, server: &ServerTime) -> Result<Vec<StatementKey>, CycleError> {
        let (now, month) = (self.submitter.clock.now(), self.submitter.zone().await?.period_of(server.now));
        let (mut keys, mut ended) = self
            .ledger(move |ledger| {
                let mut keys = ledger.pending_before(month, now)?;
                for reason in LEFT_OVER {
                    keys.extend(ledger.blocked_for(reason.name())?);
                }
                keys.retain(|key| key.period < month);
                Ok((keys, ledger.blocked_for(Reason::PlanEnded.name())?))
            })
            .await?;
        // What a plan that ended did not take in its month is left over as far as a later plan of the month takes it.
        ended.retain(|key| key.period < month);
        for key in ended {
            let Some(later) = self.later_part(key, server.now).await? else { continue };
            let only_tried = (true, false);
            let taken = self
                .ledger(move |ledger| ledger.move_to_later_part(key, later.part, only_tried, now))
                .await?;
            if !taken.is_empty() {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    async fn carry_all(self: &Arc<Self>, to: Timestamp) -> Result<(), CycleError> {
        let (now, new) = (self.submitter.clock.now(), self.submitter.late == Late::CarryForward);
        let planned = self.ledger(move |ledger| ledger.carry_forward(to, (new, false), now)).await?;
        if planned.is_empty() {
            return Ok(());
        }
        // It goes under the plan period that runs: of what nothing else was to be sent, that may be a new one.
        if !self.look_again_at(planned.iter().map(|change| change.resource).collect()).await? {
            return Ok(());
        }
        // What is carried is what was not accepted; whether another has changed the month since is looked at first.
        let mut keys: Vec<StatementKey> = Vec::new();
        for change in planned {
            keys.extend(self.ledger(move |ledger| ledger.parts_of(change.resource, change.from)).await?);
        }
        keys.sort_unstable();
        keys.dedup();
        // One that can't be read waits alone.
        let unread: BTreeSet<Uuid> =
            self.read_and_settle(&keys).await?.into_iter().map(|key| key.resource).collect();
        if self.stopped() {
            return Ok(());
        }
        // Each is an event, and told as such.
        self.ledger(move |ledger| ledger.carry_forward_but(&unread, to, (new, true), now)).await?;
        crate::fail_point("after something is carried forward");
        Ok(())
    }

    /// Reports into months that are over. One after the other, and each is read back before the next: where one landed
    /// elsewhere, nothing else is sent.
    async fn backfill_all(&self, keys: Vec<StatementKey>, server: &ServerTime) -> Result<(), CycleError> {
        let misfiled = self.ledger(|ledger| ledger.blocked_for(Reason::WrongMonth.name())).await?;
        if let (Some(one), false) = (misfiled.first(), keys.is_empty()) {
            let words = "it is open in which month Waldur keeps what it accepted of it: until then nothing is reported into \
                         months that are over. `status` says what to do";
            self.note_of(About::of(*one, None), words.to_owned()).await?;
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
        if let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? {
            self.settle_late_shares(&statement).await?;
        }
        let (known, zone) = (self.components_of(key.resource).await?, self.submitter.zone().await?);
        // What is billed by use is refused to most tokens, and the whole call with it.
        for by_use in [false, true] {
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else {
                return Ok(true);
            };
            let part = self.part_of(key).await?;
            if part.end.is_some_and(|end| end <= server.now) && statement.was_reported() {
                return self.backfill_under_later_plan(statement, server).await;
            }
            self.park_unpostable(&statement).await?;
            let mut usages = Vec::new();
            let chosen = statement.components.iter().filter(|(component, entry)| {
                entry.to_send() && !entry.is_unclear() && is_usage_billed(known.get(*component)) == by_use
            });
            for (component, entry) in chosen {
                let Some(amount) = entry.posted else { continue };
                let of_component = component.clone();
                if !entry.held().is_zero()
                    && self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?.is_none()
                {
                    // It is in several rows, of plans that nobody lists any more; a report would go beside them.
                    let rest = amount.saturating_sub(entry.held());
                    self.block(key, component, Reason::PlanEnded, PLAN_ENDED.to_owned(), Some(rest)).await?;
                    continue;
                }
                if by_use && amount >= TOO_MUCH {
                    let words = format!(
                        "the amount {amount} is 1,000,000,000,000 or more, which the server can't bill"
                    );
                    self.block(key, component, Reason::Amount, words, Some(amount)).await?;
                    continue;
                }
                usages.push((component.clone(), amount));
            }
            if usages.is_empty() {
                continue;
            }
            let usages = self.with_options(key, usages).await?;
            if by_use && let Some(words) = self.no_backfill().await? {
                self.refuse_late(&statement, &usages, words).await?;
                continue;
            }
            let date = guard::within_past(&zone, key.period, key.part, part.end, server.now);
            let report = SetUsage {
                resource: key.resource,
                plan_period: None,
                date: Some(date),
                usages: usages.clone(),
            };
            if !self.report_late(statement, report, usages).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The plan period of this part has ended, and a total that was reported under it can't be changed: the server would bill
    /// the new one beside it (observed). What it has come to since is reported under the plan that the month ended with.
    async fn backfill_under_later_plan(
        &self,
        statement: Statement,
        server: &ServerTime,
    ) -> Result<bool, CycleError> {
        let (key, now) = (statement.key, self.submitter.clock.now());
        let later = self.later_part(key, server.now).await?;
        if let Some(later) = later {
            let all = (true, true);
            self.ledger(move |ledger| ledger.move_to_later_part(key, later.part, all, now)).await?;
        }
        if let Some(left) = self.ledger(move |ledger| ledger.statement(key)).await? {
            self.strand_for(&left, Reason::PlanEnded, PLAN_ENDED.to_owned()).await?;
        }
        match later {
            Some(later) => Box::pin(self.backfill(later, server)).await,
            None => Ok(true),
        }
    }

    /// Reports into a month that is over, reads it back, and completes its shares. False: it did not land there.
    async fn report_late(
        &self,
        statement: Statement,
        report: SetUsage,
        usages: Vec<ComponentAmount>,
    ) -> Result<bool, CycleError> {
        let (key, now) = (statement.key, self.submitter.clock.now());
        let amounts: Vec<_> = usages.iter().map(amount).collect();
        let planned = super::totals::shares_of(&statement, &usages);
        let counted = statement.counted;
        let ids = self
            .ledger(move |ledger| {
                let (amounts, planned) = (amounts.as_slice(), planned.as_slice());
                ledger.intend(Intent { key, call: "set_usage", amounts, planned, counted }, now)
            })
            .await?;
        let call = Intended { statement: statement.into(), usages: usages.clone(), ids };
        let accepted = self.post(call, report).await?;
        self.conclude_accepted().await?;
        if !accepted {
            return Ok(true);
        }
        if !self.read_and_settle(&[key]).await?.is_empty() {
            return Ok(false);
        }
        let Some(read) = self.ledger(move |ledger| ledger.statement(key)).await? else { return Ok(true) };
        let mut landed = true;
        for usage in &usages {
            let entry = read.components.get(&usage.component);
            let clear = entry.is_some_and(|entry| entry.block.is_none());
            if entry.map(Entry::held) == Some(usage.amount) && clear {
                continue;
            }
            landed = false;
            let words = format!(
                "Waldur accepted a report for {}, and its row of that month does not show it",
                key.period
            );
            self.block(key, &usage.component, Reason::WrongMonth, words, Some(usage.amount)).await?;
        }
        Ok(landed)
    }

    async fn no_backfill(&self) -> Result<Option<String>, CycleError> {
        let now = self.submitter.clock.now();
        let fact = self.ledger(|ledger| ledger.server_fact(NO_BACKFILL)).await?;
        let fresh = |at: Timestamp| now.duration_since(at).abs() < NO_BACKFILL_FOR;
        Ok(fact.filter(|(_, at)| fresh(*at)).map(|(words, _)| words))
    }

    /// The server says that a month or a plan period is closed.
    pub(super) async fn closed(
        &self,
        statement: &Statement,
        usages: &[ComponentAmount],
        words: String,
    ) -> Result<(), CycleError> {
        let server = self.submitter.server_time().await?;
        if self.submitter.zone().await?.end(statement.key.period) > server.now {
            return self.strand_for(statement, Reason::PeriodEnded, words).await;
        }
        let known = self.components_of(statement.key.resource).await?;
        if usages.iter().any(|usage| is_usage_billed(known.get(&usage.component))) {
            let (words, now) = (words.clone(), self.submitter.clock.now());
            self.ledger(move |ledger| ledger.put_server_fact(NO_BACKFILL, &words, now)).await?;
        }
        self.refuse_late(statement, usages, words).await
    }

    async fn refuse_late(
        &self,
        statement: &Statement,
        usages: &[ComponentAmount],
        words: String,
    ) -> Result<(), CycleError> {
        for usage in usages {
            let amount = Some(usage.amount);
            self.block(statement.key, &usage.component, Reason::LateRefused, words.clone(), amount).await?;
        }
        Ok(())
    }

    /// What is still to be sent of a month that is over is stranded, but for what waits to be reported into it.
    pub(super) async fn over(&self, statement: &Statement, server: &ServerTime) -> Result<(), CycleError> {
        let why = match self.submitter.late {
            Late::Backfill if server.dated == Some(true) => return Ok(()),
            Late::Backfill => {
                "; it can be reported into it as soon as the server has shown that it honours dates"
            }
            Late::Hold | Late::CarryForward => "",
        };
        let (key, zone) = (statement.key, self.submitter.zone().await?);
        for (component, entry) in statement.components.iter().filter(|(_, entry)| entry.to_send()) {
            let (Some(posted), true) = (entry.posted, !entry.is_unclear()) else { continue };
            let rest = posted.saturating_sub(entry.held());
            let reason =
                if rest.is_sign_positive() && self.is_closing_rest(key, component, entry, &zone).await? {
                    Reason::ClosingRest
                } else {
                    Reason::PeriodEnded
                };
            let words = match rest.is_sign_negative() {
                false => format!("{rest:.2} of {} was not reported before it ended{why}", key.period),
                true => format!(
                    "{:.2} more was reported for {} than its readings make by now{why}",
                    rest.abs(),
                    key.period
                ),
            };
            self.block(key, component, reason, words, Some(rest)).await?;
        }
        for ((component, user), entry, before) in statement.late_shares() {
            let Some(posted) = entry.posted else { continue };
            let words = format!(
                "{before:.2} was reported of {user} for {}, and its readings make {posted:.2} by now, of the same total{why}",
                key.period
            );
            let (what, place) = (format!("{component} of user {user}"), (component.as_str(), user.as_str()));
            let rest = Some(posted.saturating_sub(before));
            self.keep_back(key, &what, place, Reason::LateShare, words, rest).await?;
        }
        Ok(())
    }

    /// Shares that changed without their total, where that can't be reported again: of an earlier plan of the running month,
    /// or by `late: backfill`, they are completed by themselves, because the server takes them. Others are stranded.
    pub(super) async fn settle_late_shares(&self, statement: &Statement) -> Result<(), CycleError> {
        if statement.late_shares().next().is_none() {
            return Ok(());
        }
        let (key, now) = (statement.key, self.submitter.clock.now());
        let (server, zone) = (self.submitter.server_time().await?, self.submitter.zone().await?);
        if has_ended(&zone, key.period, &server) {
            if !(self.submitter.late == Late::Backfill && server.dated == Some(true)) {
                return self.over(statement, &server).await;
            }
        } else if !self.part_of(key).await?.has_ended(server.now) {
            return Ok(());
        }
        let shares: Vec<Amount> = statement
            .late_shares()
            .filter_map(|((component, user), entry, _)| {
                Some(Amount { component: component.clone(), user: user.clone(), amount: entry.posted? })
            })
            .collect();
        Ok(self.ledger(move |ledger| ledger.plan_shares(key, &shares, now)).await?)
    }

    /// Whether what is left is only what was used after the last report of the month.
    async fn is_closing_rest(
        &self,
        key: StatementKey,
        component: &str,
        entry: &Entry,
        zone: &BillingZone,
    ) -> Result<bool, CycleError> {
        let end = zone.end(key.period);
        let Some(accepted) = entry.acknowledged.as_ref() else {
            return Ok(false);
        };
        let (counted, component) = (accepted.counted, component.to_owned());
        Ok(self
            .ledger(move |ledger| ledger.is_all_used_after(key, &component, counted, end - CLOSING))
            .await?)
    }
}

/// What is used in the last minutes of a month, after its last report, every closing leaves: it is no alarm.
const CLOSING: SignedDuration = SignedDuration::from_mins(5);
