//! Sending the users' shares, once the server holds the total: one bulk call a component where the server has it, else
//! one call a user. Only users whose share changed are sent. A month that is over has the shares of the total that was
//! accepted completed, and no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use rust_decimal::Decimal;
use uuid::Uuid;

use super::closing::has_ended;
use super::reason::Reason;
use super::{Cycle, CycleError, Shares, in_turns};
use crate::ledger::sent::record::{Amount, Outcome, StatementKey};
use crate::ledger::sent::statement::{Entry, Statement};
use crate::waldur::failure::Failure;
use crate::waldur::refusal::Refusal;
use crate::waldur::report::UserAmount;

impl Cycle {
    pub(super) async fn send_users(
        self: Arc<Self>,
        due: Vec<StatementKey>,
        which: Shares,
    ) -> Result<(), CycleError> {
        if due.is_empty() {
            return Ok(());
        }
        in_turns(self, "Reporting users' shares", due, move |cycle, key| async move {
            cycle.users_of(key, which).await
        })
        .await
    }

    async fn users_of(&self, key: StatementKey, which: Shares) -> Result<(), CycleError> {
        let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { return Ok(()) };
        let server = self.of.server_time().await?;
        let part = self.part_of(key).await?;
        let ended = has_ended(&self.of.zone().await?, key.period, &server) || part.has_ended(server.now);
        if !self.users_are_known(key.resource).await? {
            // The server links a share to its user only when it is first made.
            return Ok(());
        }
        for (component, users) in wanted(&statement, which, ended) {
            if self.stopped() {
                return Ok(());
            }
            let of_component = component.clone();
            let row = self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?;
            let Some((row, _)) = row else { continue };
            if !self.component_users(key, &component, row, users).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the offering's users were listed, or can't be.
    async fn users_are_known(&self, resource: Uuid) -> Result<bool, CycleError> {
        let offering =
            self.ledger(move |ledger| ledger.resource(resource)).await?.map(|known| known.offering);
        let Some(offering) = offering.filter(|offering| !offering.is_nil()) else { return Ok(true) };
        Ok(self.ledger(move |ledger| ledger.freshness(offering)).await?.users.is_some())
    }

    /// Sends the shares of one component's users. False: nothing more for this resource now.
    async fn component_users(
        &self,
        key: StatementKey,
        component: &str,
        row: Uuid,
        mut users: Vec<(String, Decimal)>,
    ) -> Result<bool, CycleError> {
        let bulk = self.ledger(|ledger| ledger.server_fact("bulk")).await?.map(|(value, _)| value);
        while !users.is_empty() && bulk.as_deref() != Some("no") {
            let outcome = self.send_bulk(key, component, row, &users).await?;
            let now = self.of.clock.now();
            match outcome {
                Ok(()) => {
                    self.ledger(move |ledger| ledger.put_server_fact("bulk", "yes", now)).await?;
                    return Ok(true);
                }
                Err(Failure::Endpoint { .. }) => {
                    self.ledger(move |ledger| ledger.put_server_fact("bulk", "no", now)).await?;
                    break;
                }
                Err(Failure::Refused { refusal: Refusal::Items(items), .. }) => {
                    // All or nothing (documented): without the ones it names, the rest goes through.
                    let named: Vec<(String, String)> = items
                        .iter()
                        .filter_map(|(index, why)| Some((users.get(*index)?.0.clone(), why.clone())))
                        .collect();
                    for (user, why) in &named {
                        self.park_user(key, component, user, Reason::Amount, why.clone()).await?;
                    }
                    let before = users.len();
                    users.retain(|(user, _)| !named.iter().any(|(named, _)| named == user));
                    if users.len() == before {
                        break; // It named nobody: one by one.
                    }
                }
                // It does not say whose: one by one. Or it may be a server that has no such call, behind something that
                // answers in its place.
                Err(Failure::Refused { .. }) => break,
                Err(Failure::Unknown { status: Some(_), retry_after: None, .. }) if bulk.is_none() => break,
                Err(failure) => return self.user_call_failed(key, failure).await,
            }
        }
        for (user, amount) in users {
            match self.send_one(key, component, row, &user, amount).await? {
                Ok(()) => {}
                Err(Failure::Refused { refusal, .. }) => {
                    let reason = if matches!(refusal, Refusal::UserLimit(_)) {
                        Reason::Limit
                    } else {
                        Reason::Refused
                    };
                    self.park_user(key, component, &user, reason, refusal.to_string()).await?;
                }
                Err(failure) => return self.user_call_failed(key, failure).await,
            }
        }
        Ok(true)
    }

    async fn send_bulk(
        &self,
        key: StatementKey,
        component: &str,
        row: Uuid,
        users: &[(String, Decimal)],
    ) -> Result<Result<(), Failure>, CycleError> {
        let mut amounts = Vec::new();
        for (user, amount) in users {
            amounts.push(self.user_amount(key.resource, user, *amount).await?);
        }
        let ids = self.intend_shares(key, component, "set_user_usages", users).await?;
        crate::fail_point("before set_user_usages");
        let outcome = self.of.client.set_user_usages(row, &amounts).await;
        crate::fail_point("after set_user_usages");
        self.after_user_call(key, component, row, (ids, users), outcome).await
    }

    async fn send_one(
        &self,
        key: StatementKey,
        component: &str,
        row: Uuid,
        user: &str,
        amount: Decimal,
    ) -> Result<Result<(), Failure>, CycleError> {
        let share = self.user_amount(key.resource, user, amount).await?;
        let users = [(user.to_owned(), amount)];
        let ids = self.intend_shares(key, component, "set_user_usage", &users).await?;
        crate::fail_point("before set_user_usage");
        let outcome = self.of.client.set_user_usage(row, &share).await;
        crate::fail_point("after set_user_usage");
        self.after_user_call(key, component, row, (ids, &users), outcome).await
    }

    /// Writes down what is about to be sent: whatever comes of it, what the server was known to hold is no longer known,
    /// also if the share should come back to that very amount.
    async fn intend_shares(
        &self,
        key: StatementKey,
        component: &str,
        call: &'static str,
        users: &[(String, Decimal)],
    ) -> Result<Vec<i64>, CycleError> {
        let (amounts, now) = (shares(component, users), self.of.clock.now());
        crate::fail_point("before shares are intended");
        Ok(self.ledger(move |ledger| ledger.intend(key, call, &amounts, &[], now)).await?)
    }

    /// Shares are replaced by name, so that after an unclear outcome they are simply sent again; only what was
    /// accepted is kept as known.
    async fn after_user_call(
        &self,
        key: StatementKey,
        component: &str,
        row: Uuid,
        (ids, users): (Vec<i64>, &[(String, Decimal)]),
        mut outcome: Result<(), Failure>,
    ) -> Result<Result<(), Failure>, CycleError> {
        let now = self.of.clock.now();
        if matches!(outcome, Err(Failure::Unknown { status: Some(_), .. }))
            && self.holds_shares(key, component, row, users).await?
        {
            // Something on the way did not wait for the answer: it was done.
            outcome = Ok(());
        }
        let words = outcome.as_ref().err().map(Failure::to_string).unwrap_or_default();
        let became = match &outcome {
            Ok(()) => Outcome::Accepted,
            Err(failure) if failure.may_be_applied() => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        };
        if outcome.is_ok() {
            self.answered();
            if let Some(before) = self.ledger(move |ledger| ledger.statement(key)).await? {
                self.say_sent(&before, &shares(component, users));
            }
            crate::fail_point("before shares are acknowledged");
        }
        self.ledger(move |ledger| {
            ledger.together(|ledger| {
                if became == Outcome::Accepted {
                    ledger.set_retry(Some(key.resource), None)?;
                }
                ledger.conclude(&ids, became, &words, now)
            })
        })
        .await?;
        crate::fail_point("after shares are acknowledged");
        Ok(outcome)
    }

    async fn user_amount(
        &self,
        resource: Uuid,
        user: &str,
        amount: Decimal,
    ) -> Result<UserAmount, CycleError> {
        let username = user.to_owned();
        let user_url = self
            .ledger(move |ledger| match ledger.resource(resource)? {
                Some(known) => ledger.offering_user(known.offering, &username),
                None => Ok(None),
            })
            .await?;
        Ok(UserAmount { username: user.to_owned(), amount, user_url, date: None })
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
                self.ledger(move |ledger| ledger.forget_plan_look(key.resource)).await?;
                self.put_off(key.resource, failure).await?;
            }
            failure => self.pause(failure).await?,
        }
        Ok(false)
    }

    async fn park_user(
        &self,
        key: StatementKey,
        component: &str,
        user: &str,
        reason: Reason,
        words: String,
    ) -> Result<(), CycleError> {
        let what = format!("{component} of user {user}");
        self.keep_back(key, what, (component, user), reason, words, None).await
    }
}

/// The shares to send now, by component.
fn wanted(statement: &Statement, which: Shares, ended: bool) -> BTreeMap<String, Vec<(String, Decimal)>> {
    let mut wanted: BTreeMap<String, Vec<(String, Decimal)>> = BTreeMap::new();
    for ((component, user), entry) in &statement.users {
        let Some(total) = statement.components.get(component) else { continue };
        let to_nothing =
            total.posted.is_some_and(|posted| posted.is_zero()) && total.to_send() && !total.held().is_zero();
        let amount = match (which, ended) {
            (Shares::BeforeTotals, _) => {
                entry.posted.filter(|posted| to_nothing && posted.is_zero() && entry.to_send())
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
                    .or_else(|| open_again(entry))
                    .filter(|_| total.acknowledged.is_some() && !disputed)
            }
        };
        if let Some(amount) = amount {
            wanted.entry(component.clone()).or_default().push((user.clone(), amount));
        }
    }
    wanted
}

/// A share that was sent and whose outcome is not known.
fn open_again(entry: &Entry) -> Option<Decimal> {
    entry.open.last().map(|open| open.amount)
}

fn shares(component: &str, users: &[(String, Decimal)]) -> Vec<Amount> {
    let share = |(user, amount): &(String, Decimal)| Amount {
        component: component.to_owned(),
        user: user.clone(),
        amount: *amount,
    };
    users.iter().map(share).collect()
}
