//! Sending the users' shares, once the server holds the total: one bulk call a component where the server has it, else
//! one call a user. Only users whose share changed are sent. A month that is over has the shares of the total that was
//! accepted completed, and no others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rust_decimal::Decimal;
use uuid::Uuid;

use super::closing::has_ended;
use super::guard::ServerTime;
use super::part::Part;
use super::reason::Reason;
use super::{Cycle, CycleError, Shares, in_turns};
use crate::ledger::sent::amount::{Amount, StatementKey};
use crate::ledger::sent::record::{Intent, Outcome};
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::{Ledger, LedgerError};
use crate::waldur::failure::Failure;
use crate::waldur::refusal::Refusal;
use crate::waldur::report::UserAmount;

/// The server fact that says whether the server has the bulk call.
const BULK: &str = "bulk";

/// One call with users' shares of a component's row: of several, or of one.
#[derive(Debug, Clone)]
struct ShareCall {
    key: StatementKey,
    /// The last run that is counted in its shares.
    counted: i64,
    component: String,
    row: Uuid,
    call: &'static str,
    users: Vec<UserAmount>,
    /// Their numbers in the ledger, once it is written down.
    ids: Vec<i64>,
}

/// Statements that are read together.
const READ_TOGETHER: usize = 16;
/// The same, of which only the totals are read.
const TOTALS_TOGETHER: usize = 256;
/// Calls that are written down together at the most: their shares are in memory until the last of them was made.
const MOST_CALLS: usize = 300;
const ALL_AT_ONCE: &str = "set_user_usages";
const ONE_BY_ONE: &str = "set_user_usage";

/// Calls that were written down together.
#[derive(Debug)]
struct Batch {
    calls: Vec<ShareCall>,
    progress: Mutex<BatchState>,
}

#[derive(Debug, Default)]
struct BatchState {
    /// Whether the server has the bulk call, as far as is known.
    bulk: Option<bool>,
    /// Resources of which nothing more is sent now.
    left_alone: BTreeSet<Uuid>,
    /// What was written down and not sent.
    not_sent: Vec<i64>,
}

impl Batch {
    fn progress(&self) -> MutexGuard<'_, BatchState> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cycle {
    /// Sends the shares of components whose total goes to nothing, before it does. Of most statements none does: their shares,
    /// which are many, are not looked up.
    pub(super) async fn send_users_to_nothing(
        self: Arc<Self>,
        due: &[StatementKey],
    ) -> Result<(), CycleError> {
        let due = due.to_vec();
        let falling = self
            .ledger(move |ledger| {
                let mut falling = Vec::new();
                for some in due.chunks(TOTALS_TOGETHER) {
                    let totals = ledger.totals_of(some)?.into_iter();
                    let falls = |statement: &Statement| statement.components.values().any(goes_to_nothing);
                    falling.extend(totals.filter(falls));
                }
                Ok(falling)
            })
            .await?;
        let mut sent = Vec::with_capacity(falling.len());
        for statement in falling {
            // Where the total is not sent (its month or plan is over, say), its shares stay as well.
            if self.send_window(&statement).await?.is_some() {
                sent.push(statement.key);
            }
        }
        self.send_users(sent, Shares::BeforeTotals).await
    }

    pub(super) async fn send_users(
        self: Arc<Self>,
        due: Vec<StatementKey>,
        which: Shares,
    ) -> Result<(), CycleError> {
        let mut left = due.as_slice();
        while !left.is_empty() && !self.stopped() {
            let (taken, batch) = self.plan_batch(left, which).await?;
            left = left.get(taken.max(1)..).unwrap_or_default();
            if batch.calls.is_empty() {
                continue;
            }
            let batch = Arc::new(batch);
            let calls =
                batch.calls.iter().enumerate().map(|(place, call)| (call.key.resource, place)).collect();
            let of_batch = batch.clone();
            let sent = in_turns(self.clone(), "Reporting users' shares", calls, move |cycle, place| {
                let batch = of_batch.clone();
                async move { cycle.send_shares(&batch, place).await }
            })
            .await;
            let not_sent = std::mem::take(&mut batch.progress().not_sent);
            if !not_sent.is_empty() {
                let now = self.submitter.clock.now();
                self.ledger(move |ledger| ledger.conclude(&not_sent, Outcome::Refused, "not sent", now))
                    .await?;
            }
            sent?;
            self.conclude_accepted().await?;
            crate::fail_point("after shares are acknowledged");
        }
        Ok(())
    }

    /// Writes down the next calls, in one transaction: no more than can be made in a minute, so that what was decided is not
    /// old when it is sent. Returns of how many statements they are.
    async fn plan_batch(&self, due: &[StatementKey], which: Shares) -> Result<(usize, Batch), CycleError> {
        let (due, skew, now) = (due.to_vec(), self.submitter.client.skew(), self.submitter.clock.now());
        let mean = usize::try_from(self.state().call_time.mean).unwrap_or(0).max(1);
        let most = (60_000 / mean).clamp(16, MOST_CALLS);
        crate::fail_point("before shares are intended");
        let planned = self
            .ledger(move |ledger| {
                let server = ServerTime::of(ledger, skew, now)?;
                let bulk = ledger.server_fact(BULK)?.map(|(value, _)| value == "yes");
                let (mut calls, mut taken) = (Vec::new(), 0);
                let mut offerings = Offerings::default();
                'all: for some in due.chunks(READ_TOGETHER) {
                    let mut statements = ledger.statements_of(some)?.into_iter().peekable();
                    for key in some {
                        if calls.len() >= most {
                            break 'all;
                        }
                        taken += 1;
                        if let Some(statement) = statements.next_if(|statement| statement.key == *key) {
                            let bulk = bulk != Some(false);
                            calls.extend(calls_of(
                                (ledger, &mut offerings),
                                &statement,
                                which,
                                (&server, bulk),
                            )?);
                        }
                    }
                }
                ledger.together(|ledger| {
                    for call in &mut calls {
                        call.ids = ledger.intend(call.intent(&call.amounts()), now)?;
                    }
                    Ok(())
                })?;
                let progress = BatchState { bulk, ..BatchState::default() };
                Ok((taken, Batch { calls, progress: Mutex::new(progress) }))
            })
            .await?;
        Ok(planned)
    }

    /// Makes a call of a batch, unless its resource is left alone.
    async fn send_shares(&self, batch: &Batch, place: usize) -> Result<(), CycleError> {
        let Some(call) = batch.calls.get(place) else { return Ok(()) };
        let resource = call.key.resource;
        let left_alone = batch.progress().left_alone.contains(&resource);
        if self.stopped() || left_alone || !self.ledger(|ledger| ledger.has_turn()).await? {
            batch.progress().not_sent.extend(&call.ids);
            return Ok(());
        }
        let goes_on = match call.call {
            ALL_AT_ONCE => self.send_bulk(batch, call.clone()).await?,
            _ => self.send_one(call.clone()).await?,
        };
        if !goes_on {
            batch.progress().left_alone.insert(resource);
        }
        Ok(())
    }

    /// Sends the shares of one component's users in one call, or one by one where the server has no such call or does not
    /// take it. False: nothing more for this resource now.
    async fn send_bulk(&self, batch: &Batch, mut call: ShareCall) -> Result<bool, CycleError> {
        while !call.users.is_empty() {
            let bulk = batch.progress().bulk;
            if bulk == Some(false) {
                batch.progress().not_sent.append(&mut call.ids);
                break;
            }
            if call.ids.is_empty() {
                call.ids = self.intend_shares(&call).await?;
            }
            match self.make(&mut call).await? {
                Ok(()) => {
                    self.learn_bulk(batch, true).await?;
                    return Ok(true);
                }
                Err(Failure::Endpoint { .. }) => {
                    self.learn_bulk(batch, false).await?;
                    break;
                }
                Err(Failure::Refused { refusal: Refusal::Items(items), .. }) => {
                    // All or nothing (documented): without the ones it names, the rest goes through.
                    let named: Vec<(String, String)> = items
                        .iter()
                        .filter_map(|(index, why)| {
                            Some((call.users.get(*index)?.username.clone(), why.clone()))
                        })
                        .collect();
                    for (user, why) in &named {
                        self.park_user(&call, user, Reason::Amount, why.clone()).await?;
                    }
                    let before = call.users.len();
                    call.users.retain(|user| !named.iter().any(|(named, _)| *named == user.username));
                    if call.users.len() == before {
                        break; // It named nobody: one by one.
                    }
                }
                // It does not say whose: one by one. Or it may be a server that has no such call, behind something that
                // answers in its place.
                Err(Failure::Refused { .. }) => break,
                Err(Failure::Unknown { status: Some(_), retry_after: None, .. }) if bulk.is_none() => break,
                Err(failure) => return self.user_call_failed(call.key, failure).await,
            }
        }
        for user in std::mem::take(&mut call.users) {
            let mut one = ShareCall { call: ONE_BY_ONE, users: vec![user], ids: Vec::new(), ..call.clone() };
            one.ids = self.intend_shares(&one).await?;
            if !self.send_one(one).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends one user's share. False: nothing more for this resource now.
    async fn send_one(&self, mut call: ShareCall) -> Result<bool, CycleError> {
        match self.make(&mut call).await? {
            Ok(()) => Ok(true),
            Err(Failure::Refused { refusal, .. }) => {
                let reason = match refusal {
                    Refusal::UserLimit(_) => Reason::Limit,
                    _ => Reason::Refused,
                };
                for user in &call.users {
                    self.park_user(&call, &user.username, reason, refusal.to_string()).await?;
                }
                Ok(true)
            }
            Err(failure) => self.user_call_failed(call.key, failure).await,
        }
    }

    async fn learn_bulk(&self, batch: &Batch, there: bool) -> Result<(), CycleError> {
        if batch.progress().bulk.replace(there) == Some(there) {
            return Ok(());
        }
        let (value, now) = (if there { "yes" } else { "no" }, self.submitter.clock.now());
        Ok(self.ledger(move |ledger| ledger.put_server_fact(BULK, value, now)).await?)
    }

    /// Writes down what is about to be sent: whatever comes of it, what the server was known to hold is no longer known,
    /// also if the share should come back to that very amount.
    async fn intend_shares(&self, call: &ShareCall) -> Result<Vec<i64>, CycleError> {
        let (call, now) = (call.clone(), self.submitter.clock.now());
        Ok(self.ledger(move |ledger| ledger.intend(call.intent(&call.amounts()), now)).await?)
    }

    /// Makes a call that was written down, and notes what came of it. Shares are replaced by name, so that after an unclear
    /// outcome they are simply sent again; only what was accepted is kept as known.
    async fn make(&self, call: &mut ShareCall) -> Result<Result<(), Failure>, CycleError> {
        let mut outcome = match (call.call, call.users.as_slice()) {
            (ONE_BY_ONE, [user]) => {
                crate::fail_point("before set_user_usage");
                let outcome = self.submitter.client.set_user_usage(call.row, user).await;
                crate::fail_point("after set_user_usage");
                outcome
            }
            (_, users) => {
                crate::fail_point("before set_user_usages");
                let outcome = self.submitter.client.set_user_usages(call.row, users).await;
                crate::fail_point("after set_user_usages");
                outcome
            }
        };
        if matches!(outcome, Err(Failure::Unknown { status: Some(_), .. }))
            && self.holds_shares(call.key, &call.component, call.row, &call.users).await?
        {
            // Something on the way did not wait for the answer: it was done.
            outcome = Ok(());
        }
        let ids = std::mem::take(&mut call.ids);
        match &outcome {
            Ok(()) => {
                self.answered();
                self.state().report.sent += call.users.len();
                crate::fail_point("before shares are acknowledged");
                self.accepted(call.key.resource, &ids).await?;
            }
            Err(failure) => {
                let unknown = failure.may_be_applied();
                let became = if unknown { Outcome::Unknown } else { Outcome::Refused };
                let (words, now) = (failure.to_string(), self.submitter.clock.now());
                self.ledger(move |ledger| ledger.conclude(&ids, became, &words, now)).await?;
            }
        }
        Ok(outcome)
    }

    async fn user_call_failed(&self, key: StatementKey, failure: Failure) -> Result<bool, CycleError> {
        match failure {
            Failure::Unknown { .. } => self.put_off(key.resource, failure).await?,
            Failure::Forbidden { .. } => {
                self.state().forbidden.push((key.resource, failure.clone()));
                self.put_off(key.resource, failure).await?;
            }
            Failure::Missing { .. } => {
                // The row has another UUID now (a new plan period, a row made anew): look again next time.
                let running = self.running_month().await?;
                self.ledger(move |ledger| ledger.forget_plan_look(key.resource, running)).await?;
                self.put_off(key.resource, failure).await?;
            }
            failure => self.pause(failure).await?,
        }
        Ok(false)
    }

    async fn park_user(
        &self,
        call: &ShareCall,
        user: &str,
        reason: Reason,
        words: String,
    ) -> Result<(), CycleError> {
        let what = format!("{} of user {user}", call.component);
        self.keep_back(call.key, &what, (&call.component, user), reason, words, None).await
    }
}

impl ShareCall {
    fn intent<'a>(&self, amounts: &'a [Amount]) -> Intent<'a> {
        Intent { key: self.key, call: self.call, amounts, planned: &[], counted: self.counted }
    }

    fn amounts(&self) -> Vec<Amount> {
        let share = |user: &UserAmount| Amount {
            component: self.component.clone(),
            user: user.username.clone(),
            amount: user.amount,
        };
        self.users.iter().map(share).collect()
    }
}

/// The calls that send the shares of a statement, none of which is written down yet.
fn calls_of(
    (ledger, offerings): (&Ledger, &mut Offerings),
    statement: &Statement,
    which: Shares,
    (server, bulk): (&ServerTime, bool),
) -> Result<Vec<ShareCall>, LedgerError> {
    let key = statement.key;
    let part = Part::of(ledger, key)?;
    let ended = has_ended(&ledger.in_force().zone, key.period, server) || part.has_ended(server.now);
    let wanted = wanted(statement, which, ended);
    let offering = ledger.resource(key.resource)?.map(|known| known.offering);
    if let Some(offering) = offering.filter(|offering| !offering.is_nil())
        && (wanted.is_empty() || !offerings.is_listed(ledger, offering)?)
    {
        // The server links a share to its user only when it is first made: until the offering's users were listed, or can't
        // be, none is sent.
        return Ok(Vec::new());
    }
    let mut calls = Vec::new();
    for (component, users) in wanted {
        let Some((row, _)) = ledger.usage_row(key, &component)? else { continue };
        let mut amounts = Vec::with_capacity(users.len());
        for (username, amount) in users {
            let user_url = match offering {
                Some(offering) => offerings.user(ledger, offering, &username)?,
                None => None,
            };
            amounts.push(UserAmount { username, amount, user_url, date: None });
        }
        let call = |call, users| ShareCall {
            key,
            counted: statement.counted,
            component: component.clone(),
            row,
            call,
            users,
            ids: Vec::new(),
        };
        match bulk {
            true => calls.push(call(ALL_AT_ONCE, amounts)),
            false => calls.extend(amounts.into_iter().map(|user| call(ONE_BY_ONE, vec![user]))),
        }
    }
    Ok(calls)
}

/// What is known of offerings' users, looked up once for the calls that are written down together: most of them are of the
/// same users.
#[derive(Debug, Default)]
struct Offerings {
    listed: HashMap<Uuid, bool>,
    users: HashMap<Uuid, HashMap<String, Option<String>>>,
}

impl Offerings {
    /// Whether its users were listed, or can't be.
    fn is_listed(&mut self, ledger: &Ledger, offering: Uuid) -> Result<bool, LedgerError> {
        if let Some(known) = self.listed.get(&offering) {
            return Ok(*known);
        }
        let listed = ledger.freshness(offering)?.users.is_some();
        self.listed.insert(offering, listed);
        Ok(listed)
    }

    /// The address of one of them.
    fn user(&mut self, ledger: &Ledger, offering: Uuid, name: &str) -> Result<Option<String>, LedgerError> {
        let users = self.users.entry(offering).or_default();
        if let Some(known) = users.get(name) {
            return Ok(known.clone());
        }
        let found = ledger.offering_user(offering, name)?;
        users.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

/// Whether a total that the server holds is to be lowered to nothing.
fn goes_to_nothing(total: &Entry) -> bool {
    total.posted.is_some_and(|posted| posted.is_zero()) && total.to_send() && !total.held().is_zero()
}

/// The shares to send now, by component.
fn wanted(statement: &Statement, which: Shares, ended: bool) -> BTreeMap<String, Vec<(String, Decimal)>> {
    let mut wanted: BTreeMap<String, Vec<(String, Decimal)>> = BTreeMap::new();
    for ((component, user), entry) in &statement.users {
        let Some(total) = statement.components.get(component) else { continue };
        let amount = match (which, ended) {
            (Shares::BeforeTotals, _) => {
                entry.posted.filter(|posted| goes_to_nothing(total) && posted.is_zero() && entry.to_send())
            }
            // A share only goes where its total went.
            (Shares::AfterTotals, false) => {
                let there = total.acknowledged.is_some() && !total.differs();
                entry.posted.filter(|_| there && entry.to_send())
            }
            (Shares::AfterTotals, true) => {
                let disputed = entry.block.as_ref().is_some_and(|block| block.state != "stranded");
                entry
                    .to_complete()
                    .or_else(|| open_again(entry, total))
                    .filter(|_| total.acknowledged.is_some() && !disputed)
            }
        };
        if let Some(amount) = amount {
            wanted.entry(component.clone()).or_default().push((user.clone(), amount));
        }
    }
    wanted
}

/// A share that was sent and whose outcome is not known: it is to be what belongs to the accepted total. What would have
/// gone to nothing before its total did is what it was; what was sent before that total is what it is now.
fn open_again(entry: &Entry, total: &Entry) -> Option<Decimal> {
    let sent = entry.open.last()?;
    if total.acknowledged.as_ref().is_some_and(|known| known.id > sent.id) && !total.differs() {
        return entry.posted;
    }
    let open = sent.amount;
    let before = entry.acknowledged.as_ref().map(|known| known.amount);
    Some(before.filter(|_| open.is_zero() && !total.held().is_zero()).unwrap_or(open))
}
