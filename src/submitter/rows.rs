//! Reading the server's rows: before anything is written over them, once after, and at least once an hour (law 8).
//!
//! A listing of an offering's month serves all its resources; where that is more than asking for each, each is asked for.
//! What is read is compared with what the ledger knows, finds other writers, and brings the rows' UUIDs, which users'
//! shares need. A page that fails falls back to single resources, and a resource that can't be read waits alone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::adopt::evidence;
use super::reason::Reason;
use super::reconcile::{Finding, Held, Row, reconcile};
use super::{About, Cycle, CycleError, DATE_PROBE, OnConflict, closing};
use crate::ledger::books::catalog::KnownPlanPeriod;
use crate::ledger::sent::decision::{Decided, Decision};
use crate::ledger::sent::plans::UNDER_WAY;
use crate::ledger::sent::record::{Amount, Open, StatementKey};
use crate::ledger::sent::server::Writer;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::failure::Failure;
use crate::waldur::types::UsageRow;
use crate::waldur::usages::{Listing, UsageFilter};

/// The server's rows of some months, by resource; what could not be read is not there.
pub(super) type Rows = BTreeMap<(Uuid, BillingPeriod), Vec<UsageRow>>;

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
/// Rows on a page of the server's.
const PAGE: usize = 300;
/// A call that got no answer may still be carried out for so long after its own time-out: a proxy that hangs, a server
/// that works on.
const CARRIED_OUT_WITHIN: SignedDuration = SignedDuration::from_mins(10);

impl Cycle {
    /// Reads what the server holds of these statements, unless that was done just now. Returns those that may be written.
    pub(super) async fn read_before(&self, due: &[StatementKey]) -> Result<Vec<StatementKey>, CycleError> {
        let now = self.of.clock.now();
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
        let (end, server) = (self.of.zone().await?.end(key.period), self.of.server_time().await?);
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
        self.note_of(About::of(key, None), format!(
            "resource {}, {}: Waldur's rows can't be read, and the month ends within the hour: it is reported over what \
             Waldur was last known to hold",
            self.name_of(key.resource).await?,
            key.period
        ));
        Ok(true)
    }

    /// Compares all rows that were not compared for long: of the running month for an hour, of the closed one before it for
    /// a day.
    pub(super) async fn compare_regularly(&self) -> Result<(), CycleError> {
        for (fact, period, keys) in self.due_to_compare().await? {
            let failed = self.read_and_settle(&keys).await?;
            self.compare_shares(&keys).await?;
            if failed.is_empty() && !self.stopped() {
                let now = self.of.clock.now();
                self.ledger(move |ledger| ledger.put_server_fact(fact, &period.to_string(), now)).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn comparing_is_due(&self) -> Result<bool, CycleError> {
        Ok(!self.due_to_compare().await?.is_empty())
    }

    /// Months whose rows are to be compared, with the fact that will say when they were.
    async fn due_to_compare(
        &self,
    ) -> Result<Vec<(&'static str, BillingPeriod, Vec<StatementKey>)>, CycleError> {
        let now = self.of.clock.now();
        let server = self.of.server_time().await?;
        let running = self.of.zone().await?.period_of(server.now);
        let mut due = Vec::new();
        for (fact, period, every) in [
            (ROWS_READ, running, COMPARED_EVERY),
            (CLOSED_ROWS_READ, running.previous(), CLOSED_COMPARED_EVERY),
        ] {
            let keys = self
                .ledger(move |ledger| {
                    let compared = ledger.server_fact(fact)?.is_some_and(|(of, at)| {
                        of == period.to_string() && now.duration_since(at).abs() < every
                    });
                    match compared {
                        true => Ok(Vec::new()),
                        false if period == running => ledger.keys_of_known_resources(period),
                        false => ledger.closed_before(now - every, period),
                    }
                })
                .await?;
            if !keys.is_empty() {
                due.push((fact, period, keys));
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
        let now = self.of.clock.now();
        let (server, zone, own) =
            (self.of.server_time().await?, self.of.zone().await?, self.own_names().await?);
        let probe = if server.dated.is_none() { self.date_probe().await? } else { None };
        let of_keys = keys.to_vec();
        let known: Vec<(StatementKey, Option<Statement>, Part)> = self
            .ledger(move |ledger| {
                let totals = ledger.totals_of(&of_keys)?.into_iter();
                let mut totals: BTreeMap<_, _> = totals.map(|totals| (totals.key, totals)).collect();
                let known = of_keys.into_iter();
                known.map(|key| Ok((key, totals.remove(&key), Part::of(ledger, key)?))).collect()
            })
            .await?;
        let mut failed = BTreeSet::new();
        let mut kept = Vec::new();
        for (key, statement, part) in known {
            let of_key = rows.get(&(key.resource, key.period)).map(Vec::as_slice).unwrap_or_default();
            if kept.iter().any(|(before, _): &(StatementKey, _)| before.resource == key.resource) {
                // Of two parts of one month, the rows of the one are not the other's.
                self.keep_rows(std::mem::take(&mut kept)).await?;
            }
            if let Some((_, probe)) = probe.filter(|(resource, _)| *resource == key.resource) {
                self.learn_dated(probe, of_key).await?;
            }
            let ended = closing::has_ended(&zone, key.period, &server);
            if let Some(statement) = statement {
                self.learn_own_hand(&statement, of_key).await?;
                if ended && !self.is_traceable(&statement).await? {
                    continue;
                }
                let settled = match self.rows_of_part(key, of_key, (part, &own, ended)).await? {
                    Ok(rows) => match self.settle(&statement, &rows, ended).await? {
                        Ok(()) => {
                            kept.push((key, rows));
                            Ok(())
                        }
                        Err(failure) => Err(failure),
                    },
                    Err(failure) => Err(failure),
                };
                if let Err(failure) = settled {
                    self.put_off(key.resource, failure).await?;
                    failed.insert(key);
                    continue;
                }
            }
            let mut state = self.state();
            state.read.insert(key, now);
            if ended {
                state.read_back.insert(key);
            }
        }
        self.keep_rows(kept).await?;
        Ok(failed)
    }

    /// Lists the rows of these statements with as few requests as it takes.
    async fn rows_of(&self, keys: &[StatementKey]) -> Result<(Rows, BTreeSet<StatementKey>), CycleError> {
        let mut groups: BTreeMap<(BillingPeriod, Option<Uuid>), BTreeSet<Uuid>> = BTreeMap::new();
        let of_keys = keys.to_vec();
        let offerings: Vec<(StatementKey, Option<Uuid>)> = self
            .ledger(move |ledger| {
                let keys = of_keys.into_iter();
                keys.map(|key| Ok((key, ledger.resource(key.resource)?.map(|known| known.offering))))
                    .collect()
            })
            .await?;
        for (key, offering) in offerings {
            let offering = offering.filter(|offering| !offering.is_nil());
            groups.entry((key.period, offering)).or_default().insert(key.resource);
        }
        let mut rows = Rows::new();
        let mut failed = BTreeSet::new();
        let stage = self.of.progress.stage("Reading what Waldur holds", groups.len());
        for ((period, offering), resources) in groups {
            let mut single = resources.clone();
            if let Some(offering) = offering
                && resources.len() > self.pages_of(offering).await?
            {
                let filter =
                    UsageFilter { offering: Some(offering), ..UsageFilter::of_month(period.first_day()) };
                let filter = filter.to_compare();
                match self.of.client.list_usages(&filter).await {
                    Ok(listing) => {
                        self.state().rows_of_offering.insert(offering, listing.rows.len());
                        single = self.take(listing, period, &resources, &mut rows).await?;
                    }
                    Err(failure)
                        if failure.concerns_every_call() || matches!(failure, Failure::Forbidden { .. }) =>
                    {
                        self.pause(failure).await?;
                        return Ok((rows, keys.iter().copied().collect()));
                    }
                    Err(failure) => {
                        tracing::warn!("A listing failed, its resources are asked for one by one: {failure}")
                    }
                }
            }
            for resource in single {
                let filter =
                    UsageFilter { resource: Some(resource), ..UsageFilter::of_month(period.first_day()) };
                let filter = filter.to_compare();
                match self.of.client.list_usages(&filter).await {
                    Ok(listing) => {
                        self.take(listing, period, &BTreeSet::from([resource]), &mut rows).await?;
                        rows.entry((resource, period)).or_default();
                    }
                    Err(failure) if failure.concerns_every_call() => {
                        self.pause(failure).await?;
                        return Ok((rows, keys.iter().copied().collect()));
                    }
                    Err(failure) => {
                        failed.extend(
                            keys.iter().filter(|key| key.resource == resource && key.period == period),
                        );
                        self.put_off(resource, failure).await?;
                        if self.stopped() {
                            return Ok((rows, keys.iter().copied().collect()));
                        }
                    }
                }
            }
            stage.step();
        }
        Ok((rows, failed))
    }

    /// Takes a listing apart. Returns the resources that are to be asked for by themselves: those of which the ledger knows
    /// a row that the listing does not have.
    async fn take(
        &self,
        listing: Listing,
        period: BillingPeriod,
        resources: &BTreeSet<Uuid>,
        rows: &mut Rows,
    ) -> Result<BTreeSet<Uuid>, CycleError> {
        let mut found: BTreeMap<Uuid, Vec<UsageRow>> = BTreeMap::new();
        for row in listing.rows {
            if resources.contains(&row.resource_uuid) {
                found.entry(row.resource_uuid).or_default().push(row);
            }
        }
        for odd in listing.odd {
            self.note(format!(
                "Waldur's row of {} of resource {} in {period} can't be read: {}",
                odd.component.as_deref().unwrap_or("a component"),
                odd.resource
                    .map(|uuid| uuid.to_string())
                    .unwrap_or_else(|| "that it does not name".to_owned()),
                odd.words
            ));
            let Some(resource) = odd.resource.filter(|resource| resources.contains(resource)) else {
                continue;
            };
            self.state().odd.insert((resource, period, odd.component.clone().unwrap_or_default()));
            for key in self.ledger(move |ledger| ledger.parts_of(resource, period)).await? {
                let component = odd.component.as_deref().unwrap_or_default();
                self.block(key, component, Reason::Unreadable, odd.words.clone(), None).await?;
            }
        }
        let listed: Vec<(Uuid, BTreeSet<String>)> = resources
            .iter()
            .map(|resource| {
                let rows = found.get(resource).map(Vec::as_slice).unwrap_or_default();
                (*resource, rows.iter().map(|row| row.component.clone()).collect())
            })
            .collect();
        let mut alone = BTreeSet::new();
        if listed.len() > 1 {
            alone = self.ledger(move |ledger| missing_one(ledger, period, listed)).await?;
        }
        for &resource in resources.difference(&alone) {
            rows.insert((resource, period), found.remove(&resource).unwrap_or_default());
        }
        Ok(alone)
    }

    /// How many pages a listing of this offering's month takes, as far as is known.
    async fn pages_of(&self, offering: Uuid) -> Result<usize, CycleError> {
        let known = self.state().rows_of_offering.get(&offering).copied();
        let rows = match known {
            Some(rows) => rows,
            None => self.ledger(move |ledger| ledger.most_rows_of(offering)).await?,
        };
        Ok(rows.div_ceil(PAGE).max(1))
    }

    /// The rows that belong to the statement's part of the month. Rows do not say which plan period they are of
    /// (observed), so where the month is cut, the plan periods are asked.
    async fn rows_of_part(
        &self,
        key: StatementKey,
        rows: &[UsageRow],
        (cut, own, ended): (Part, &[String], bool),
    ) -> Result<Result<BTreeMap<String, Row>, Failure>, CycleError> {
        // Where one component has several rows and we know of no switch of plan, the newest is the one that was written.
        let of_others = if ended && !cut.split {
            self.ledger(move |ledger| ledger.usage_rows_of_other_parts(key)).await?
        } else {
            BTreeSet::new()
        };
        let mut all: Vec<&UsageRow> = rows.iter().filter(|row| !of_others.contains(&row.uuid)).collect();
        all.sort_by_key(|row| row.date);
        let together = all.clone();
        let plain = |row: &UsageRow| Row {
            uuid: row.uuid,
            one_of_several: false,
            date: row.date,
            by: row.modified_by.clone(),
            held: Held {
                amount: row.usage,
                by_server: row.recurring
                    || row
                        .missing_usage_policy
                        .as_deref()
                        .is_some_and(|policy| ["reuse", "zero"].contains(&policy)),
                evidence: evidence(row, &together, own),
            },
        };
        let Some(plan_period) = cut.plan_period.filter(|_| cut.split) else {
            let mut of_part: BTreeMap<String, Row> =
                all.iter().map(|row| (row.component.clone(), plain(row))).collect();
            if !ended {
                return Ok(Ok(of_part));
            }
            for (component, row) in &mut of_part {
                let several: Vec<&&UsageRow> = all.iter().filter(|row| row.component == *component).collect();
                let of_component = component.clone();
                if several.len() < 2 {
                    continue;
                }
                match self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await? {
                    // The one that was written; a switch of plan that nobody saw in its month has made the others.
                    Some((known, _)) => {
                        if let Some(ours) = several.iter().find(|row| row.uuid == known) {
                            *row = plain(ours);
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
            return Ok(Ok(of_part));
        };
        if ended {
            // Of a past month they show nothing (observed); the rows are known by their UUIDs.
            let mut of_part = BTreeMap::new();
            for row in all {
                let component = row.component.clone();
                let known = self.ledger(move |ledger| ledger.usage_row(key, &component)).await?;
                if known.is_some_and(|(known, _)| known == row.uuid) {
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

    /// Keeps what the rows say of one statement (of its totals; `ended`: its month is over).
    async fn settle(
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
            proven |= self.end_open(entry, row).await?;
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
        let accepted = entry.acknowledged.as_ref().map(|known| known.at);
        Ok(!decided.is_some_and(|decided| {
            !decided.by_itself && accepted.is_none_or(|accepted| accepted <= decided.at)
        }))
    }

    /// Keeps which rows these statements are in. Where they are other ones than before, plans are looked at again.
    async fn keep_rows(&self, kept: Vec<(StatementKey, BTreeMap<String, Row>)>) -> Result<(), CycleError> {
        if kept.is_empty() {
            return Ok(());
        }
        crate::fail_point("before rows are kept");
        let now = self.of.clock.now();
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
                            let writer = Writer { by: row.by.clone(), at: row.date };
                            ledger.put_usage_row(*key, component, (row.uuid, &writer), now)?;
                        }
                    }
                    for resource in &moved {
                        ledger.forget_plan_look(*resource)?;
                    }
                    Ok(moved)
                })
            })
            .await?;
        for resource in moved {
            self.state().moved.insert(resource);
            self.note_of(About::resource(resource), format!(
                "Waldur keeps resource {} in other rows than before: its plan may have been switched; looked up again",
                self.name_of(resource).await?
            ));
        }
        Ok(())
    }

    /// Ends what is open of a line that was looked for. True: it was carried out.
    async fn end_open(&self, entry: &Entry, row: Option<&Row>) -> Result<bool, CycleError> {
        if entry.open.is_empty() {
            return Ok(false);
        }
        let (now, found) = (self.of.clock.now(), row.map(|row| row.held.amount));
        let longest = SignedDuration::try_from(self.of.client.timeout())
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
                self.ledger(move |ledger| ledger.clear_block(key, &component, reason.name())).await?;
            }
        }
        Ok(())
    }

    async fn note_read(
        &self,
        key: StatementKey,
        component: &str,
        amount: Decimal,
        words: String,
    ) -> Result<(), CycleError> {
        let (now, amounts) = (self.of.clock.now(), vec![total(component.to_owned(), amount)]);
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
        let accepted = entry.and_then(|entry| entry.acknowledged.as_ref());
        // What came after the decision is no longer what the person saw.
        let holds = |decided: &Decided| {
            !decided.by_itself
                && accepted.is_none_or(|accepted| accepted.at <= decided.at)
                && decided.held.is_none_or(|held| held == row.held.amount)
        };
        let by_person = decided.as_ref().filter(|decided| holds(decided)).map(|decided| decided.decision);
        let server = self.of.server_time().await?;
        let part = self.part_of(key).await?;
        let ended = closing::has_ended(&self.of.zone().await?, key.period, &server);
        // Of a part whose plan period has ended nothing is overwritten any more; what the server holds is what it is. In a month
        // that is over it is a person's number, and told.
        if by_person == Some(Decision::Overwrite) || (part.has_ended(server.now) && !ended) {
            let words = format!("{}; overwritten", row.held.evidence);
            self.note_read(key, component, row.held.amount, words).await?;
            self.retake_shares(key, component, row.uuid).await?;
            if let Some(entry) = entry {
                self.pass(key, component, entry).await?;
            }
            return Ok(Ok(()));
        }
        if self.of.on_conflict == OnConflict::Overwrite && decided.is_none() && !ended {
            let (of_component, held, now) = (component.to_owned(), row.held.amount, self.of.clock.now());
            self.ledger(move |ledger| ledger.decided_by_itself(key, &of_component, held, now)).await?;
            self.note_of(About::of(key, Some(component)), format!(
                "resource {}, {component}, {}: {words}. It is overwritten, as `on_conflict` says; once a month",
                self.name_of(key.resource).await?,
                key.period
            ));
            let words = format!("{}; overwritten, as `on_conflict` says", row.held.evidence);
            self.note_read(key, component, held, words).await?;
            self.retake_shares(key, component, row.uuid).await?;
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
        let words = if self.of.on_conflict == OnConflict::Overwrite && decided.is_some_and(|d| d.by_itself) {
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
            let Ok(Listing { rows, .. }) = self.of.client.list_usages(&of_resource).await else { continue };
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
                self.of.zone().await?.name()
            );
            self.block(key, component, Reason::WrongMonth, words, entry.posted).await?;
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
        let now = self.of.clock.now();
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
        Ok(self.ledger(move |ledger| Part::of(ledger, key)).await?)
    }

    /// The last part of the statement's month that began later, if its total can still be changed there: under a plan period
    /// that has not ended, or that nothing was reported under yet.
    pub(super) async fn later_part(
        &self,
        key: StatementKey,
        now: Timestamp,
    ) -> Result<Option<StatementKey>, CycleError> {
        let end = self.of.zone().await?.end(key.period);
        let periods = self.ledger(move |ledger| ledger.plan_periods(key.resource)).await?;
        // What covers this part is not later than it, also where it began within the month.
        let began = Part::covering(&periods, key).map_or(key.part, |period| period.start.max(key.part));
        let starts = periods.iter().map(|period| period.start);
        let Some(start) = starts.filter(|start| *start > began && *start < end).max() else {
            return Ok(None);
        };
        let later = StatementKey { part: start, ..key };
        let (before, after) =
            self.ledger(move |ledger| Ok((ledger.totals(key)?, ledger.totals(later)?))).await?;
        // A report after a switch that nobody had seen is filed under the later plan already: its row is this part's.
        let sent_after =
            |entry: &Entry| entry.acknowledged.as_ref().is_some_and(|known| known.at >= start - UNDER_WAY);
        if after.is_none() && before.is_some_and(|before| before.components.values().any(sent_after)) {
            return Ok(None);
        }
        let open = self.part_of(later).await?.end.is_none_or(|end| end > now);
        Ok((open || !after.is_some_and(|statement| statement.was_reported())).then_some(later))
    }
}

/// The resources of which the ledger knows a row that is not among the components that were listed of it.
fn missing_one(
    ledger: &Ledger,
    period: BillingPeriod,
    listed: Vec<(Uuid, BTreeSet<String>)>,
) -> Result<BTreeSet<Uuid>, LedgerError> {
    let mut missing = BTreeSet::new();
    for (resource, components) in listed {
        for key in ledger.parts_of(resource, period)? {
            let statement = ledger.totals(key)?;
            let known = statement.iter().flat_map(|statement| &statement.components);
            if known.into_iter().any(|(of, entry)| !entry.held().is_zero() && !components.contains(of)) {
                missing.insert(resource);
            }
        }
    }
    Ok(missing)
}

pub(super) fn total(component: String, amount: Decimal) -> Amount {
    Amount { component, user: String::new(), amount }
}

/// Whether the server took a report that makes a row. What was only read back is a row already.
fn was_accepted(entry: &Entry) -> bool {
    entry.acknowledged.as_ref().is_some_and(|known| known.how == "accepted")
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub plan_period: Option<Uuid>,
    pub end: Option<Timestamp>,
    pub split: bool,
}

impl Part {
    /// The plan period that a part is filed under. What was used before the first one is filed under it, too.
    fn covering(periods: &[KnownPlanPeriod], key: StatementKey) -> Option<&KnownPlanPeriod> {
        let covers = |p: &&KnownPlanPeriod| p.start <= key.part && p.end.is_none_or(|end| end > key.part);
        periods.iter().rfind(covers).or(periods.first())
    }

    pub(super) fn of(ledger: &Ledger, key: StatementKey) -> Result<Part, LedgerError> {
        let (periods, cut) = (ledger.plan_periods(key.resource)?, ledger.is_cut(key.resource, key.period)?);
        let covering = Part::covering(&periods, key);
        // A plan period ends where the next begins, whatever the server writes into its end.
        let began = covering.map_or(key.part, |period| period.start.max(key.part));
        let next = periods.iter().map(|period| period.start).find(|start| *start > began);
        let ends = covering.and_then(|period| period.end).into_iter().chain(next).min();
        Ok(Part { plan_period: covering.map(|period| period.uuid), end: ends, split: cut })
    }

    /// Whether a switch of plan that cuts the month ended it: what was reported of it can't be reported again.
    pub(super) fn has_ended(&self, now: Timestamp) -> bool {
        self.split && self.end.is_some_and(|end| end <= now)
    }
}
