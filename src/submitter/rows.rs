//! Reading the server's rows: before anything is written over them, once after, and at least once an hour (law 8).
//!
//! What is read (`listing`) is compared with what the ledger knows, finds other writers, and brings the rows' UUIDs, which
//! users' shares need. Of what could not be read nothing is concluded.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::listing::{Rows, of_statement};
use super::part::Part;
use super::reconcile::Row;
use super::rows_of_part::{is_part_unclear, newest_rows};
use super::strays::Unclear;
use super::writer::writer;
use super::{About, Cycle, CycleError, DATE_PROBE, closing};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::server::{Retry, RowRead};
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::types::UsageRow;

/// Rows are never older than this when something is written over them.
const ROWS_FOR: SignedDuration = SignedDuration::from_mins(5);
/// So near to a month's end what can't be read does not wait.
pub(super) const LAST_HOUR: SignedDuration = SignedDuration::from_hours(1);
/// All rows are compared at least so often, even if nothing changes.
pub(super) const COMPARED_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// Statements that are settled with one look into the ledger and one transaction.
const SETTLED_TOGETHER: usize = 256;
/// The server fact that says when all rows of the running month were last compared.
pub const ROWS_READ: &str = "rows_read";
/// What is closed is compared once a day for a month: only a person changes it, and is to be told.
const CLOSED_COMPARED_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// The server fact that says when that was last done.
const CLOSED_ROWS_READ: &str = "closed_rows_read";
impl Cycle {
    /// Reads what the server holds of these statements, unless that was done just now. Returns those that may be written.
    pub(super) async fn read_before(&self, due: &[StatementKey]) -> Result<Vec<StatementKey>, CycleError> {
        let now = self.submitter.clock.now();
        let unread: Vec<StatementKey> = {
            let state = self.state();
            let fresh = |key: &&StatementKey| {
                state.read.get(key).is_some_and(|at| now.duration_since(*at).abs() < ROWS_FOR)
            };
            due.iter().filter(|key| !fresh(key)).copied().collect()
        };
        let failed = self.read_and_settle(&unread).await?;
        let mut may_be_written = Vec::with_capacity(due.len());
        for &key in due {
            if !failed.contains(&key) || self.goes_unread(key).await? {
                may_be_written.push(key);
            }
        }
        Ok(may_be_written)
    }

    /// Whether a statement whose rows can't be read is written all the same, over the last known ones: in the last hour of
    /// its month, because there is no later.
    async fn goes_unread(&self, key: StatementKey) -> Result<bool, CycleError> {
        let (end, server) =
            (self.submitter.zone().await?.end(key.period), self.submitter.server_time().await?);
        if self.stopped() || server.now >= end || end.duration_since(server.now) > LAST_HOUR {
            return Ok(false);
        }
        let Some(statement) = self.ledger(move |ledger| ledger.totals(key)).await? else {
            return Ok(false);
        };
        let known = |entry: &Entry| !entry.to_send() || entry.acknowledged.is_some();
        if !statement.components.values().all(known) {
            return Ok(false);
        }
        let words = "Waldur's rows can't be read, and the month ends within the hour: it is reported over what Waldur was \
                     last known to hold";
        self.note_of(About::of(key, None), words.to_owned()).await?;
        Ok(true)
    }

    /// Compares all rows that were not compared for long: of the running month for an hour, of the one before it, as far as it
    /// is closed or in conflict, for a day. A call that was followed by another and may still arrive is looked for in each
    /// cycle, until it can't any more.
    pub(super) async fn compare_regularly(&self) -> Result<(), CycleError> {
        let overtaken = self.ledger(|ledger| ledger.overtaken()).await?;
        self.read_and_settle(&overtaken).await?;
        for (fact, period, keys) in self.due_to_compare().await? {
            let failed = self.read_and_settle(&keys).await?;
            let of_read: Vec<StatementKey> =
                keys.iter().filter(|key| !failed.contains(key)).copied().collect();
            self.compare_shares(&of_read).await?;
            if self.stopped() {
                continue;
            }
            self.end_put_off(&of_read).await?;
            if let Some(fact) = fact {
                let now = self.submitter.clock.now();
                self.ledger(move |ledger| ledger.put_server_fact(fact, &period.to_string(), now)).await?;
            }
        }
        Ok(())
    }

    /// What was put off because it could not be read, and is read now (`read`), is so no more.
    pub(super) async fn end_put_off(&self, read: &[StatementKey]) -> Result<(), CycleError> {
        let mut read: BTreeSet<Uuid> = read.iter().map(|key| key.resource).collect();
        read.retain(|resource| !self.state().put_off_now.contains(resource));
        Ok(self
            .ledger(move |ledger| {
                let mut passed = ledger.put_off()?;
                passed.retain(|(resource, _)| read.contains(resource));
                if passed.is_empty() {
                    return Ok(());
                }
                let pending = pending_resources(ledger)?;
                for (resource, _) in passed.into_iter().filter(|(one, _)| !pending.contains(one)) {
                    ledger.set_retry(Some(resource), None)?;
                }
                Ok(())
            })
            .await?)
    }

    pub(super) async fn comparing_is_due(&self) -> Result<bool, CycleError> {
        let overtaken = self.ledger(|ledger| ledger.overtaken()).await?;
        Ok(!overtaken.is_empty() || !self.due_to_compare().await?.is_empty())
    }

    /// Months whose rows are to be compared, with the fact that will say when they were. What could not be read then is tried
    /// again by itself (no fact), and the others not with it.
    pub(super) async fn due_to_compare(
        &self,
    ) -> Result<Vec<(Option<&'static str>, BillingPeriod, Vec<StatementKey>)>, CycleError> {
        let (now, running) = (self.submitter.clock.now(), self.running_month().await?);
        let mut due = Vec::new();
        for (fact, period, every) in [
            (ROWS_READ, running, COMPARED_EVERY),
            (CLOSED_ROWS_READ, running.previous(), CLOSED_COMPARED_EVERY),
        ] {
            let (compared, keys) = self
                .ledger(move |ledger| {
                    let decided = ledger.last_decided(period)?;
                    let compared = ledger.server_fact(fact)?.is_some_and(|(of, at)| {
                        of == period.to_string() && now.duration_since(at).abs() < every
                            // What was decided since is carried out now, not within the hour.
                            && decided.is_none_or(|decided| decided < at)
                    });
                    let put_off: BTreeMap<Uuid, Retry> = ledger.put_off()?.into_iter().collect();
                    if compared && put_off.is_empty() {
                        return Ok((true, Vec::new()));
                    }
                    let mut keys = match period == running {
                        true => ledger.keys_of_known_resources(period)?,
                        false => ledger.closed_before(now - every, period)?,
                    };
                    let waits = |key: &StatementKey| {
                        put_off.get(&key.resource).is_some_and(|retry| retry.waits(now, false))
                    };
                    keys.retain(|key| !waits(key) && (!compared || put_off.contains_key(&key.resource)));
                    if compared && !keys.is_empty() {
                        // What is to be sent is read before that.
                        let pending = pending_resources(ledger)?;
                        keys.retain(|key| !pending.contains(&key.resource));
                    }
                    Ok((compared, keys))
                })
                .await?;
            if !keys.is_empty() {
                due.push(((!compared).then_some(fact), period, keys));
            }
        }
        Ok(due)
    }

    /// Reads the rows of these statements and settles what they say. Returns those that could not be read.
    pub(super) async fn read_and_settle(
        &self,
        keys: &[StatementKey],
    ) -> Result<BTreeSet<StatementKey>, CycleError> {
        if keys.is_empty() || self.stopped() {
            return Ok(if self.stopped() { keys.iter().copied().collect() } else { BTreeSet::new() });
        }
        let (rows, mut failed) = self.rows_of(keys).await?;
        crate::fail_point("after rows are read");
        let read: Vec<StatementKey> =
            keys.iter().filter(|key| rows.contains_key(&(key.resource, key.period))).copied().collect();
        // Of some at a time the ledger is asked, and what they say is kept, together.
        for some in read.chunks(SETTLED_TOGETHER) {
            failed.extend(self.settle_some(some, &rows).await?);
        }
        Ok(failed)
    }

    /// Settles what the rows say of these statements. Returns those that could not be settled.
    async fn settle_some(
        &self,
        keys: &[StatementKey],
        rows: &Rows,
    ) -> Result<BTreeSet<StatementKey>, CycleError> {
        let now = self.submitter.clock.now();
        let (server, zone, own) =
            (self.submitter.server_time().await?, self.submitter.zone().await?, self.own_names().await?);
        let probe = if server.dated.is_none() { self.date_probe().await? } else { None };
        let of_keys: Vec<_> = keys.iter().map(|key| (*key, newest_rows(of_statement(rows, *key)))).collect();
        let looked = self.state().looked.clone();
        let known: Vec<(StatementKey, Option<Statement>, Part, bool)> = self
            .ledger(move |ledger| {
                let keys: Vec<StatementKey> = of_keys.iter().map(|(key, _)| *key).collect();
                let totals = ledger.totals_of(&keys)?.into_iter();
                let mut totals: BTreeMap<_, _> = totals.map(|totals| (totals.key, totals)).collect();
                let known = of_keys.into_iter();
                known
                    .map(|(key, newest)| {
                        let (statement, part) = (totals.remove(&key), Part::of(ledger, key)?);
                        let unclear = match &statement {
                            Some(statement) => is_part_unclear(ledger, (statement, part), &newest, &looked)?,
                            None => false,
                        };
                        Ok((key, statement, part, unclear))
                    })
                    .collect()
            })
            .await?;
        let mut failed = BTreeSet::new();
        let mut kept = Vec::new();
        let mut undecided = Unclear::new();
        for (key, mut statement, mut part, unclear) in known {
            let of_key = of_statement(rows, key);
            if kept.iter().any(|(before, _): &(StatementKey, _)| before.resource == key.resource) {
                // Of two parts of one month, the rows of the one are not the other's.
                self.keep_rows(std::mem::take(&mut kept)).await?;
            }
            if let Some((_, probe)) = probe.filter(|(resource, _)| *resource == key.resource) {
                self.learn_dated(probe, of_key).await?;
            }
            let mut ended = closing::has_ended(&zone, key.period, &server);
            let mut listed = None;
            if unclear && !ended {
                match self.ask_of_rows(key.resource, part.split).await? {
                    Ok(found) => listed = found,
                    Err(failure) => {
                        self.put_off_unread(key.resource, failure).await?;
                        failed.insert(key);
                        continue;
                    }
                }
                // What the plan periods tell may have made other parts of the month, and it may have ended meanwhile.
                (statement, part) =
                    self.ledger(move |ledger| Ok((ledger.totals(key)?, Part::of(ledger, key)?))).await?;
                ended = closing::has_ended(&zone, key.period, &self.submitter.server_time().await?);
            }
            if let Some(mut statement) = statement {
                self.learn_own_writer(&statement, of_key).await?;
                if ended {
                    if part.split {
                        self.claim_rows(&statement, of_key).await?;
                    }
                    if !self.is_traceable(&statement).await? {
                        continue;
                    }
                }
                let of_part =
                    self.rows_of_part(&statement, of_key, (part, &own, ended), listed.as_ref()).await?;
                if let Some(listed) = &listed
                    && self.take_back_unbilled(&statement, of_key, (listed, &of_part.rows)).await?
                    && let Some(again) = self.ledger(move |ledger| ledger.totals(key)).await?
                {
                    statement = again;
                }
                let several = of_part.rows.iter().filter(|(_, row)| row.one_of_several);
                let components = several.map(|(component, _)| component).chain(&of_part.unclear);
                undecided.extend(components.map(|component| (key.resource, key.period, component.clone())));
                // Of what may be in a row that is not known to be its own, nothing is concluded.
                statement.components.retain(|component, _| {
                    of_part.rows.contains_key(component) || !of_part.unclear.contains(component)
                });
                match self.settle(&statement, &of_part.rows, ended).await? {
                    Ok(()) => kept.push((key, of_part.rows)),
                    Err(failure) => {
                        self.put_off_unread(key.resource, failure).await?;
                        failed.insert(key);
                        continue;
                    }
                }
            }
            let mut state = self.state();
            state.read.insert(key, now);
            if ended {
                state.read_back.insert(key);
            }
        }
        self.keep_rows(kept).await?;
        let mut read = keys.to_vec();
        read.retain(|key| !failed.iter().any(|failed: &StatementKey| failed.resource == key.resource));
        self.tell_strays(&read, rows, &undecided).await?;
        Ok(failed)
    }

    /// Of a month that is over and was cut by a switch of plan, a report that was carried out late, or not read back in time, may
    /// have made its row: the one row of its component that is of no part yet and holds just what was accepted, or sent without
    /// an answer.
    async fn claim_rows(&self, statement: &Statement, rows: &[UsageRow]) -> Result<(), CycleError> {
        let (key, now) = (statement.key, self.submitter.clock.now());
        let of_others = self.ledger(move |ledger| ledger.usage_rows_of_other_parts(key)).await?;
        for (component, entry) in &statement.components {
            let accepted = entry.acknowledged.as_ref().filter(|known| known.how == "accepted");
            let of_component = component.clone();
            if accepted.is_none() && entry.open.is_empty()
                || self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?.is_some()
            {
                continue;
            }
            let ours = |row: &&UsageRow| {
                let is_free = row.component == *component && !of_others.contains(&row.uuid);
                let is_sent = entry.open.iter().any(|open| open.amount == row.usage);
                is_free && (is_sent || accepted.is_some_and(|known| known.amount == row.usage))
            };
            let mut ours: Vec<&UsageRow> = rows.iter().filter(ours).collect();
            if ours.len() > 1 {
                // Of equal ones, a later plan's was not made before that plan began.
                ours.retain(|row| row.created.is_some_and(|created| created >= key.part));
            }
            let [row] = ours.as_slice() else { continue };
            let (of_component, read) = (component.clone(), read_now(row, now));
            self.ledger(move |ledger| ledger.put_usage_row(key, &of_component, &read)).await?;
        }
        Ok(())
    }

    /// Keeps which rows these statements are in. Where they are other ones than before, plans are looked at again.
    async fn keep_rows(&self, kept: Vec<(StatementKey, BTreeMap<String, Row>)>) -> Result<(), CycleError> {
        if kept.is_empty() {
            return Ok(());
        }
        crate::fail_point("before rows are kept");
        let (now, running) = (self.submitter.clock.now(), self.running_month().await?);
        let moved: BTreeSet<Uuid> = self
            .ledger(move |ledger| {
                ledger.together(|ledger| {
                    let mut moved = BTreeSet::new();
                    for (key, rows) in &kept {
                        for (component, row) in rows.iter().filter(|(_, row)| !row.one_of_several) {
                            let known = ledger.usage_row(*key, component)?;
                            if known.is_some_and(|(known, _)| known != row.uuid) {
                                moved.insert(key.resource);
                            }
                            let (amount, writer) = (row.held.amount, row.writer.clone());
                            let read = RowRead { uuid: row.uuid, amount, at: now, writer };
                            ledger.put_usage_row(*key, component, &read)?;
                        }
                    }
                    for resource in &moved {
                        ledger.forget_plan_look(*resource, running)?;
                    }
                    Ok(moved)
                })
            })
            .await?;
        for resource in moved {
            self.state().moved.insert(resource);
            let words =
                "Waldur keeps it in other rows than before: its plan may have been switched; looked up again";
            self.note_of(About::resource(resource), words.to_owned()).await?;
        }
        Ok(())
    }

    /// The latest accepted report of which it is to be learnt whether its date was honoured.
    pub(super) async fn date_probe(&self) -> Result<Option<(Uuid, i64)>, CycleError> {
        let fact = self.ledger(|ledger| ledger.server_fact(DATE_PROBE)).await?;
        Ok(fact.and_then(|(text, _)| {
            let (resource, micros) = text.split_once(' ')?;
            Some((resource.parse().ok()?, micros.parse().ok()?))
        }))
    }

    /// Whether the server took the instant that a report carried (`probe`): then it is a dated one. Only the rows of that
    /// very report tell: others carry other dates, and another writer's row its own.
    async fn learn_dated(&self, probe: i64, rows: &[UsageRow]) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        let dates: BTreeSet<i64> = rows.iter().filter_map(|row| Some(row.date?.as_microsecond())).collect();
        // A row that was written at or after the probe carries the server's own time instead.
        let verdict = match dates.contains(&probe) {
            true => "yes",
            false if dates.iter().any(|date| *date > probe - 1_000_000) => "no",
            false => return Ok(()),
        };
        Ok(self.ledger(move |ledger| ledger.put_server_fact("dated", verdict, now)).await?)
    }
}

/// Resources of which something is to be sent, or to be learnt.
fn pending_resources(ledger: &Ledger) -> Result<BTreeSet<Uuid>, LedgerError> {
    Ok(ledger.pending_as_stated()?.into_iter().map(|key| key.resource).collect())
}

fn read_now(row: &UsageRow, at: Timestamp) -> RowRead {
    RowRead { uuid: row.uuid, amount: row.usage, at, writer: writer(row) }
}
