//! Reading the server's rows: before the first word of a month, and after whatever left doubt.
//!
//! One listing of an offering's month serves all its resources; only one or two resources are asked for singly. What is
//! read settles intents, finds other hands, and brings the rows' UUIDs, which users' amounts need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::adopt::evidence;
use super::reconcile::{Finding, Held, reconcile};
use super::trouble::Reason;
use super::{Cycle, CycleError, DATE_PROBE, OnConflict, closing};
use crate::ledger::catalog::KnownPlanPeriod;
use crate::ledger::outbox::{Amount, Entry, Statement, StatementKey};
use crate::ledger::trouble::Decision;
use crate::metering::period::BillingPeriod;
use crate::waldur::failure::Failure;
use crate::waldur::types::UsageRow;
use crate::waldur::usages::UsageFilter;

/// The server's rows of some months, by resource.
pub(super) type Rows = BTreeMap<(Uuid, BillingPeriod), Vec<UsageRow>>;

/// Up to so many resources are asked for one by one; more, by a listing of their offering.
const SINGLY: usize = 2;

/// How long what is known of the server's rows is believed. After that they are looked at once more before anything is
/// written over them: a person may have corrected one, or another agent may report beside this one.
const ROWS_FOR: SignedDuration = SignedDuration::from_hours(6);
/// The server fact that says when that was.
pub const ROWS_READ: &str = "rows_read";

impl Cycle {
    /// Reads what the server holds of components of which nothing is known yet, or nothing new for hours, or of which
    /// something was sent and no outcome learnt. Returns the statements that may go on.
    pub(super) async fn read_first(
        self: Arc<Self>,
        due: Vec<StatementKey>,
    ) -> Result<Vec<StatementKey>, CycleError> {
        let now = self.of.clock.now();
        let stale = self.rows_are_stale().await?;
        let mut unread = Vec::new();
        for &key in &due {
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
            // Component by component: one that a meter brings in mid-month may be another hand's until then.
            let never_read = |entry: &Entry| entry.acknowledged.is_none() && entry.to_send();
            let unknown = statement.components.values().any(never_read);
            let unclear = statement.components.values().any(|entry| entry.intended.is_some());
            if unknown || unclear || stale {
                unread.push(key);
            }
        }
        if stale {
            // All of the month, not only what is due: what is not looked at now is believed for as long again.
            let server = self.of.server_time().await?;
            let period = self.of.rulebook.zone.period_of(server.now);
            let all = self.ledger(move |ledger| ledger.keys_of_known_resources(period)).await?;
            unread.extend(all.into_iter().filter(|key| !due.contains(key)));
        }
        let failed = self.read_and_settle(&unread).await?;
        if stale && failed.is_empty() && !unread.is_empty() {
            self.ledger(move |ledger| ledger.put_server_fact(ROWS_READ, &machine(), now)).await?;
        }
        Ok(due.into_iter().filter(|key| !failed.contains(key)).collect())
    }

    /// Whether nothing was read for so long that another hand may have been at work; or not since this machine started:
    /// then the ledger may be an older one than it seems, restored from a snapshot or a backup.
    pub(super) async fn rows_are_stale(&self) -> Result<bool, CycleError> {
        let now = self.of.clock.now();
        let looked = self.ledger(|ledger| ledger.server_fact(ROWS_READ)).await?;
        let old =
            |(seen_on, at): (String, _)| now.duration_since(at).abs() >= ROWS_FOR || seen_on != machine();
        Ok(looked.is_none_or(old))
    }

    /// Reads back after sending: outcomes that are not clear, rows whose UUIDs users' amounts need, rows that were never
    /// seen (the first report of a month shows whether it landed there), and, once, whether the server honours `date`.
    pub(super) async fn read_back(self: Arc<Self>, due: &[StatementKey]) -> Result<(), CycleError> {
        let mut wanted = Vec::new();
        for &key in due {
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
            let unclear = statement.components.values().any(|entry| entry.intended.is_some());
            let mut rows_missing = false;
            let of_users = statement.users.iter().filter(|(_, e)| e.to_send()).map(|((c, _), _)| c);
            let accepted = statement.components.iter().filter(|(_, e)| was_accepted(e)).map(|(c, _)| c);
            let components: BTreeSet<String> = of_users.chain(accepted).cloned().collect();
            for component in components {
                let row = self.ledger(move |ledger| ledger.usage_row(key, &component)).await?;
                rows_missing |= row.is_none();
            }
            if unclear || rows_missing {
                wanted.push(key);
            }
        }
        let dated = self.of.server_time().await?.dated;
        if dated.is_none() {
            // The row of the report that was accepted last tells.
            let probe = self.date_probe().await?.map(|(resource, _)| resource);
            let probed = due.iter().find(|key| Some(key.resource) == probe && !wanted.contains(key));
            wanted.extend(probed);
        }
        self.read_and_settle(&wanted).await?;
        Ok(())
    }

    /// Reads the rows of these statements and settles what they say. Returns those that could not be read.
    pub(super) async fn read_and_settle(
        &self,
        keys: &[StatementKey],
    ) -> Result<BTreeSet<StatementKey>, CycleError> {
        let mut failed = BTreeSet::new();
        if keys.is_empty() || self.stopped() {
            return Ok(if self.stopped() { keys.iter().copied().collect() } else { failed });
        }
        let rows = match self.rows_of(keys).await? {
            Ok(rows) => rows,
            Err(failure) => {
                self.pause(failure).await?;
                return Ok(keys.iter().copied().collect());
            }
        };
        crate::fail_point("after rows are read");
        let server = self.of.server_time().await?;
        for &key in keys {
            let none = Vec::new();
            let of_key = rows.get(&(key.resource, key.period)).unwrap_or(&none);
            self.learn_dated(key, of_key).await?;
            let ended = closing::has_ended(&self.of.rulebook.zone, key.period, &server);
            if let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? {
                self.learn_own_hand(&statement, of_key).await?;
                if ended && !self.is_traceable(&statement).await? {
                    continue;
                }
            }
            let of_key = match self.rows_of_part(key, of_key).await? {
                Ok(rows) => rows,
                Err(failure) => {
                    self.put_off(key.resource, failure).await?;
                    failed.insert(key);
                    continue;
                }
            };
            if let Err(failure) = self.settle(key, &of_key).await? {
                self.put_off(key.resource, failure).await?;
                failed.insert(key);
            } else if ended {
                self.state().read_back.insert(key);
            }
        }
        Ok(failed)
    }

    /// Lists the rows of these statements with as few requests as it takes.
    async fn rows_of(&self, keys: &[StatementKey]) -> Result<Result<Rows, Failure>, CycleError> {
        let mut groups: BTreeMap<(BillingPeriod, Option<Uuid>), BTreeSet<Uuid>> = BTreeMap::new();
        for &key in keys {
            let known = self.ledger(move |ledger| ledger.resource(key.resource)).await?;
            let offering = known.map(|known| known.offering).filter(|offering| !offering.is_nil());
            groups.entry((key.period, offering)).or_default().insert(key.resource);
        }
        let mut rows = Rows::new();
        for ((period, offering), resources) in groups {
            let month = UsageFilter::of_month(period.first_day());
            let filters: Vec<UsageFilter> = match offering {
                Some(offering) if resources.len() > SINGLY => {
                    vec![UsageFilter { offering: Some(offering), ..month }]
                }
                _ => resources
                    .iter()
                    .map(|resource| UsageFilter { resource: Some(*resource), ..month.clone() })
                    .collect(),
            };
            for filter in filters {
                match self.of.client.list_usages(&filter).await {
                    Ok(found) => {
                        for row in found {
                            rows.entry((row.resource_uuid, period)).or_default().push(row);
                        }
                    }
                    Err(failure) => return Ok(Err(failure)),
                }
            }
        }
        Ok(Ok(rows))
    }

    /// The rows that belong to the statement's part of the month. Rows do not say which plan period they are of
    /// (observed), so where the month is cut, the plan periods are asked.
    async fn rows_of_part(
        &self,
        key: StatementKey,
        rows: &[UsageRow],
    ) -> Result<Result<BTreeMap<String, Row>, Failure>, CycleError> {
        let cut = self.part_of(key).await?;
        let own = self.own_names().await?;
        // Where one component has several rows and we know of no switch of plan, the newest is the one that was written.
        let mut all: Vec<&UsageRow> = rows.iter().collect();
        all.sort_by_key(|row| row.date);
        let together = all.clone();
        let plain = |row: &UsageRow| Row {
            uuid: row.uuid,
            one_of_several: false,
            date: row.date,
            held: Held {
                amount: row.usage,
                by_server: row.recurring || row.missing_usage_policy.as_deref() == Some("reuse"),
                evidence: evidence(row, &together, &own),
            },
        };
        let zone = &self.of.rulebook.zone;
        let ended = closing::has_ended(zone, key.period, &self.of.server_time().await?);
        let Some(plan_period) = cut.plan_period.filter(|_| cut.split) else {
            let mut of_part: BTreeMap<String, Row> =
                all.iter().map(|row| (row.component.clone(), plain(row))).collect();
            if !ended {
                return Ok(Ok(of_part));
            }
            for (component, row) in &mut of_part {
                let several = all.iter().filter(|row| row.component == *component);
                let of_component = component.clone();
                if several.clone().count() > 1
                    && self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?.is_none()
                {
                    // Plans were switched before this ledger was there, and the server no longer lists the earlier ones:
                    // all of the rows together are what it holds of the month.
                    row.held.amount = several.map(|row| row.usage).sum();
                    row.one_of_several = true;
                }
            }
            return Ok(Ok(of_part));
        };
        if ended {
            // Of a past month they show nothing (observed); the rows are known by their UUIDs.
            let mut of_part = BTreeMap::new();
            for row in all {
                let component = row.component.clone();
                let known = self.ledger(move |ledger| ledger.usage_row(key, &component)).await?;
                if known == Some(row.uuid) {
                    of_part.insert(row.component.clone(), plain(row));
                }
            }
            return Ok(Ok(of_part));
        }
        let periods = match self.of.client.plan_periods(key.resource).await {
            Ok(periods) => periods,
            Err(failure) => return Ok(Err(failure)),
        };
        let ours = periods.iter().filter(|period| period.uuid == plan_period);
        let usages: BTreeSet<Uuid> =
            ours.flat_map(|period| period.components.iter().map(|usage| usage.uuid)).collect();
        let of_part = all.into_iter().filter(|row| usages.contains(&row.uuid));
        Ok(Ok(of_part.map(|row| (row.component.clone(), plain(row))).collect()))
    }

    /// Keeps what the rows say of one statement.
    async fn settle(
        &self,
        key: StatementKey,
        rows: &BTreeMap<String, Row>,
    ) -> Result<Result<(), Failure>, CycleError> {
        let Some(mut statement) = self.ledger(move |ledger| ledger.statement(key)).await? else {
            return Ok(Ok(()));
        };
        let held: BTreeMap<String, Held> =
            rows.iter().map(|(c, row)| (c.clone(), row.held.clone())).collect();
        self.know_late_arrivals(&mut statement, &held).await?;
        self.look_for_misfiled(&statement, &held).await?;
        let decided = self.ledger(move |ledger| ledger.decided(key)).await?;
        // Of a part whose plan period has ended nothing is overwritten any more; what the server holds is what it is.
        let part = self.part_of(key).await?;
        let server = self.of.server_time().await?;
        let ended = part.split && part.end.is_some_and(|end| end <= server.now);
        let statement = self.with_mended(statement, &held).await?;
        let reported = |component: &str| statement.components.get(component)?.acknowledged.as_ref();
        let overwrite = |component: &str| {
            // What came after the decision is no longer what the person saw.
            let by_person = decided.is_some_and(|(decision, made)| {
                decision == Decision::Overwrite && reported(component).is_none_or(|known| known.at <= made)
            });
            by_person || ended || self.of.on_conflict == OnConflict::Overwrite
        };
        let findings = reconcile(&statement, &held, overwrite);
        // Where it went through after all, the failure is over. One that left nothing behind goes on being one: it is
        // waited for ever longer, until a call succeeds.
        let mut over = findings.iter().any(|finding| matches!(finding, Finding::Known { .. }));
        for finding in findings {
            if let Finding::Conflict { component, words } = &finding
                && let Some(row) = rows.get(component)
                && let Some(at) = self.may_adopt(&statement, component, row, decided).await?
            {
                match self.adopt(key, component, row, at).await? {
                    Ok(Ok(())) => over = true,
                    Ok(Err(why)) => {
                        let words = format!("{words}. It can't be adopted: {why}");
                        self.trouble(key, component, Reason::Conflict, words, Some(row.held.amount)).await?;
                    }
                    Err(failure) => return Ok(Err(failure)),
                }
                continue;
            }
            self.carry_out(&statement, finding).await?;
        }
        crate::fail_point("before rows are kept");
        let rows = rows.iter().filter(|(_, row)| !row.one_of_several);
        let rows: Vec<(String, Uuid)> = rows.map(|(c, row)| (c.clone(), row.uuid)).collect();
        let moved = self
            .ledger(move |ledger| {
                let mut moved = false;
                for (component, row) in rows {
                    let known = ledger.usage_row(key, &component)?;
                    moved |= known.is_some_and(|known| known != row);
                    ledger.put_usage_row(key, &component, row)?;
                }
                if moved {
                    ledger.forget_plan_look(key.resource)?;
                }
                ledger.settle(key)?;
                Ok(moved)
            })
            .await?;
        if moved {
            self.note(format!(
                "Waldur keeps resource {} in other rows than before: its plan may have been switched; looked up again",
                key.resource
            ));
        }
        if over {
            self.ledger(move |ledger| ledger.set_retry(Some(key.resource), None)).await?;
        }
        Ok(Ok(()))
    }

    /// Notes what was found of calls whose outcome was in doubt. Such a call may arrive, or arrive once more, after all (a
    /// proxy that hung, a machine that slept): then the server holds our own earlier number, and it is no other hand's.
    async fn know_late_arrivals(
        &self,
        statement: &mut Statement,
        held: &BTreeMap<String, Held>,
    ) -> Result<(), CycleError> {
        let (key, now) = (statement.key, self.of.clock.now());
        let doubted = self.ledger(move |ledger| ledger.doubted(key)).await?;
        for (component, entry) in &mut statement.components {
            let found = held.get(component).map(|held| held.amount);
            if let Some(intended) = entry.intended {
                let (component, is_there) = (component.clone(), found == Some(intended));
                self.ledger(move |ledger| ledger.note_doubt(key, &component, intended, is_there, now))
                    .await?;
            }
            let believed = entry.acknowledged.as_ref().map(|known| known.amount);
            if let Some(found) = found.filter(|found| Some(*found) != believed)
                && doubted.contains(&(component.clone(), found))
            {
                entry.intended = Some(found);
            }
        }
        Ok(())
    }

    /// What the server accepted and does not show in the month meant landed in another: the server bills by other
    /// months. It is not sent again, because each report overwrites the other month's amount.
    async fn look_for_misfiled(
        &self,
        statement: &Statement,
        held: &BTreeMap<String, Held>,
    ) -> Result<(), CycleError> {
        let key = statement.key;
        for (component, entry) in statement.components.iter().filter(|(_, entry)| was_accepted(entry)) {
            let of_component = component.clone();
            let seen = self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?.is_some();
            if seen || held.contains_key(component) {
                continue;
            }
            let of_resource = UsageFilter {
                resource: Some(key.resource),
                component: Some(component.clone()),
                ..UsageFilter::default()
            };
            let rows = self.of.client.list_usages(&of_resource).await.unwrap_or_default();
            let there = rows.iter().max_by_key(|row| row.date).map_or_else(
                || "and shows it in no other".to_owned(),
                |row| format!("the latest report is in {}", row.billing_period),
            );
            let words = format!(
                "Waldur accepted it for {} but keeps no row of it in that month, {there}: its months are not those of \
                 `billing_timezone: {}`",
                key.period,
                self.of.rulebook.zone.name()
            );
            self.trouble(key, component, Reason::WrongMonth, words, entry.posted).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, statement: &Statement, finding: Finding) -> Result<(), CycleError> {
        let (key, now) = (statement.key, self.of.clock.now());
        match finding {
            Finding::Known { component, amount } => {
                self.ledger(move |ledger| {
                    ledger.acknowledge(key, vec![total(component, amount)], "read back", now)
                })
                .await?;
            }
            Finding::NotSent { component, amount } => {
                self.ledger(move |ledger| ledger.take_back(key, vec![total(component, amount)])).await?;
            }
            Finding::Conflict { component, words } => {
                self.note(format!(
                    "resource {}, {component}, {}: {words}. It is held: nothing of it is sent until you decide",
                    key.resource, key.period
                ));
                let trouble = Reason::Conflict.trouble(words, now);
                self.ledger(move |ledger| ledger.set_trouble(key, "", "", trouble, None)).await?;
            }
        }
        Ok(())
    }

    /// The latest accepted report of which it is to be learnt whether its date was honoured.
    async fn date_probe(&self) -> Result<Option<(Uuid, i64)>, CycleError> {
        let fact = self.ledger(|ledger| ledger.server_fact(DATE_PROBE)).await?;
        Ok(fact.and_then(|(text, _)| {
            let (resource, micros) = text.split_once(' ')?;
            Some((resource.parse().ok()?, micros.parse().ok()?))
        }))
    }

    /// Whether the server took the instant that a report carried: then it is a dated one. Only the rows of that very
    /// report tell: others carry other dates, and another hand's row its own.
    async fn learn_dated(&self, key: StatementKey, rows: &[UsageRow]) -> Result<(), CycleError> {
        let now = self.of.clock.now();
        if self.of.server_time().await?.dated.is_some() {
            return Ok(());
        }
        let Some((_, probe)) = self.date_probe().await?.filter(|(resource, _)| *resource == key.resource)
        else {
            return Ok(());
        };
        let dates: BTreeSet<i64> = rows.iter().filter_map(|row| Some(row.date?.as_microsecond())).collect();
        // A row that was written at or after the probe carries the server's own time instead.
        let verdict = match dates.contains(&probe) {
            true => "yes",
            false if dates.iter().any(|date| *date > probe - 1_000_000) => "no",
            false => return Ok(()),
        };
        Ok(self.ledger(move |ledger| ledger.put_server_fact("dated", verdict, now)).await?)
    }

    /// Where the statement's part lies: the plan period that covers it, when that ends, and whether the month is split.
    pub(super) async fn part_of(&self, key: StatementKey) -> Result<Part, CycleError> {
        let zone = self.of.rulebook.zone.clone();
        let periods = self.ledger(move |ledger| ledger.plan_periods(key.resource)).await?;
        let (start, end) = (zone.start(key.period), zone.end(key.period));
        let covers = |p: &&KnownPlanPeriod| p.start <= key.part && p.end.is_none_or(|end| end > key.part);
        // What was used before the first plan period is filed under it.
        let covering = periods.iter().rfind(covers).or(periods.first());
        let first = periods.first().map(|period| period.start);
        Ok(Part {
            plan_period: covering.map(|period| period.uuid),
            end: covering.and_then(|period| period.end),
            split: periods.iter().any(|p| Some(p.start) > first && p.start > start && p.start < end),
        })
    }
}

/// What names this machine between two of its starts; nothing where the kernel does not say.
fn machine() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn total(component: String, amount: Decimal) -> Amount {
    Amount { component, user: String::new(), amount }
}

/// Whether the server took a report that makes a row. What was only read back is a row already.
fn was_accepted(entry: &Entry) -> bool {
    entry.acknowledged.as_ref().is_some_and(|known| known.how == "accepted")
}

/// A row of the server, as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) uuid: Uuid,
    /// Its amount is that of several rows together, none of which is the statement's alone.
    pub(super) one_of_several: bool,
    pub(super) date: Option<jiff::Timestamp>,
    pub(super) held: Held,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub plan_period: Option<Uuid>,
    pub end: Option<jiff::Timestamp>,
    pub split: bool,
}
