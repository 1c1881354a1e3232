//! Comparing the users' shares that the server holds with what was reported: hourly, before a month is closed, and after a
//! call with an unclear outcome. A share that is not as it was reported is another writer's.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use uuid::Uuid;

use super::reason::Reason;
use super::{About, Cycle, CycleError};
use crate::ledger::sent::decision::Decision;
use crate::ledger::sent::record::{Amount, StatementKey};
use crate::ledger::sent::statement::Statement;
use crate::metering::period::BillingPeriod;
use crate::waldur::report::UserAmount;
use crate::waldur::types::UserUsageRow;

/// Up to so many statements are asked for one by one; more, by a listing of their offering.
const SINGLY: usize = 3;

/// By row and user.
type Found = BTreeMap<(Uuid, String), Decimal>;

impl Cycle {
    /// Compares the shares of these statements. Returns those that differ or could not be read.
    pub(super) async fn compare_shares(
        &self,
        keys: &[StatementKey],
    ) -> Result<BTreeSet<StatementKey>, CycleError> {
        let mut groups: BTreeMap<(BillingPeriod, Option<Uuid>), Vec<Statement>> = BTreeMap::new();
        for &key in keys {
            let (statement, known) = self
                .ledger(move |ledger| Ok((ledger.statement(key)?, ledger.resource(key.resource)?)))
                .await?;
            let Some(statement) = statement else { continue };
            if statement.users.values().any(|entry| entry.acknowledged.is_some()) {
                let offering = known.map(|known| known.offering).filter(|offering| !offering.is_nil());
                groups.entry((key.period, offering)).or_default().push(statement);
            }
        }
        let mut differ = BTreeSet::new();
        for ((period, offering), statements) in groups {
            let listed = match offering.filter(|_| statements.len() > SINGLY) {
                None => None,
                Some(offering) => {
                    match self.of.client.list_user_usages_of(offering, period.first_day()).await {
                        Ok(rows) => Some(by_row(rows)),
                        Err(failure) => {
                            tracing::warn!(
                                "Users' shares of {period} of offering {offering} are not compared now: {failure}"
                            );
                            differ.extend(statements.iter().map(|statement| statement.key));
                            continue;
                        }
                    }
                }
            };
            for statement in statements {
                if self.stopped() {
                    return Ok(differ);
                }
                if !self.compare_shares_of(&statement, listed.as_ref()).await? {
                    differ.insert(statement.key);
                }
            }
        }
        Ok(differ)
    }

    async fn compare_shares_of(
        &self,
        statement: &Statement,
        listed: Option<&Found>,
    ) -> Result<bool, CycleError> {
        let key = statement.key;
        let mut agree = true;
        for (component, total) in &statement.components {
            let reported: Vec<(&String, Decimal)> = statement
                .users
                .iter()
                .filter(|((of, _), entry)| {
                    of == component && entry.acknowledged.is_some() && !entry.is_unclear()
                })
                .map(|((_, user), entry)| (user, entry.held()))
                .collect();
            let of_component = component.clone();
            let row = self.ledger(move |ledger| ledger.usage_row(key, &of_component)).await?;
            let Some((row, _)) = row.filter(|_| !reported.is_empty()) else { continue };
            let read;
            let found = match listed {
                Some(listed) => listed,
                None => {
                    let rows =
                        self.of.client.list_user_usages(key.resource, component, key.period.first_day());
                    match rows.await {
                        Ok(rows) => read = by_row(rows),
                        Err(failure) => {
                            self.put_off(key.resource, failure).await?;
                            return Ok(false);
                        }
                    }
                    &read
                }
            };
            let differs = reported.iter().find(|(user, amount)| {
                found.get(&(row, (*user).clone())).copied().unwrap_or_default() != *amount
            });
            match differs {
                Some((user, amount)) => {
                    agree = false;
                    let held = found.get(&(row, (*user).clone())).copied().unwrap_or_default();
                    let words = format!(
                        "Waldur holds {held:.2} of {user}, but this agent last reported {amount:.2}: another writer changed it"
                    );
                    if self.is_decided_share(key, component, total.held()).await? {
                        self.take_shares(key, component, row, (&reported, found)).await?;
                    } else if !total.is_blocked_for(Reason::Conflict.name()) {
                        // Where the total is in conflict, that is to be decided, and the shares with it.
                        self.block(key, component, Reason::Shares, words, Some(total.held())).await?;
                    }
                }
                None if total.is_blocked_for(Reason::Shares.name()) => {
                    let of_component = component.clone();
                    self.ledger(move |ledger| ledger.clear_block(key, &of_component, Reason::Shares.name()))
                        .await?;
                }
                None => {}
            }
        }
        Ok(agree)
    }

    /// Whether a person decided to overwrite a component whose total is as it was reported: then it is about its shares.
    async fn is_decided_share(
        &self,
        key: StatementKey,
        component: &str,
        total: Decimal,
    ) -> Result<bool, CycleError> {
        let component = component.to_owned();
        let decided = self.ledger(move |ledger| ledger.decided(key, &component)).await?;
        Ok(decided.is_some_and(|decided| {
            decided.decision == Decision::Overwrite && !decided.by_itself && decided.held == Some(total)
        }))
    }

    /// What goes over another writer's total takes its users' shares along: they are looked at, so that those that differ are
    /// sent again.
    pub(super) async fn retake_shares(
        &self,
        statement: &Statement,
        component: &str,
        row: Uuid,
    ) -> Result<(), CycleError> {
        let reported: Vec<(&String, Decimal)> = statement
            .users
            .iter()
            .filter(|((of, _), entry)| of == component && entry.acknowledged.is_some())
            .map(|((_, user), entry)| (user, entry.held()))
            .collect();
        if reported.is_empty() {
            return Ok(());
        }
        let month = statement.key.period.first_day();
        match self.of.client.list_user_usages(statement.key.resource, component, month).await {
            Ok(rows) => self.take_shares(statement.key, component, row, (&reported, &by_row(rows))).await,
            Err(failure) => {
                self.note_of(About::of(statement.key, Some(component)), format!(
                    "resource {}, {component}, {}: the total is overwritten, the users' shares could not be read, so that \
                     those that another writer changed are found only by the next comparison: {failure}",
                    self.name_of(statement.key.resource).await?,
                    statement.key.period
                ));
                Ok(())
            }
        }
    }

    /// Notes what the server holds of these shares, so that those that differ are sent again.
    async fn take_shares(
        &self,
        key: StatementKey,
        component: &str,
        row: Uuid,
        (reported, found): (&[(&String, Decimal)], &Found),
    ) -> Result<(), CycleError> {
        let mut amounts = Vec::new();
        for (user, amount) in reported {
            let held = found.get(&(row, (*user).clone())).copied().unwrap_or_default();
            if held != *amount {
                let (component, user) = (component.to_owned(), (*user).clone());
                amounts.push(Amount { component, user, amount: held });
            }
        }
        let now = self.of.clock.now();
        Ok(self.ledger(move |ledger| ledger.note_read(key, &amounts, "overwritten", now)).await?)
    }

    /// Whether the server holds these shares: looked up after a call whose outcome is not clear.
    pub(super) async fn holds_shares(
        &self,
        key: StatementKey,
        component: &str,
        row: Uuid,
        users: &[UserAmount],
    ) -> Result<bool, CycleError> {
        let rows = self.of.client.list_user_usages(key.resource, component, key.period.first_day()).await;
        let Ok(found) = rows.map(by_row) else { return Ok(false) };
        Ok(users.iter().all(|user| found.get(&(row, user.username.clone())) == Some(&user.amount)))
    }
}

/// What a share does not tell is taken for the row that is asked for.
fn by_row(rows: Vec<UserUsageRow>) -> Found {
    rows.into_iter().filter_map(|share| Some(((share.row()?, share.username), share.usage))).collect()
}
