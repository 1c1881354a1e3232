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
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::report::UserAmount;
use crate::waldur::types::{Share, UserUsageRow};

/// Statements whose shares are in memory at once.
const COMPARED_TOGETHER: usize = 256;

/// Up to so many statements are asked for one by one; more, by a listing of their offering.
const SINGLY: usize = 3;

/// What the server holds of shares, in the order of rows and users.
#[derive(Debug)]
struct Found(Vec<Share>);

impl Found {
    fn of(mut shares: Vec<Share>) -> Found {
        shares.sort_unstable_by(|one, other| (one.row, &one.username).cmp(&(other.row, &other.username)));
        Found(shares)
    }

    /// What a user has of a row. A share that does not tell its row is of none.
    fn held(&self, row: Uuid, user: &str) -> Option<Decimal> {
        let place =
            self.0.binary_search_by(|share| (share.row, &*share.username).cmp(&(Some(row), user))).ok()?;
        self.0.get(place).map(|share| share.usage)
    }
}

/// Statements that one listing serves: by month and offering.
type Groups = BTreeMap<(BillingPeriod, Option<Uuid>), Vec<StatementKey>>;

/// A statement whose shares are compared, with the rows that its components are in.
type Compared = (Statement, BTreeMap<String, Uuid>);

impl Cycle {
    /// Compares the shares of these statements. Returns those that differ or could not be read.
    pub(super) async fn compare_shares(
        &self,
        keys: &[StatementKey],
    ) -> Result<BTreeSet<StatementKey>, CycleError> {
        let keys = keys.to_vec();
        let groups = self.ledger(move |ledger| with_shares(ledger, &keys)).await?;
        let mut differ = BTreeSet::new();
        for ((period, offering), keys) in groups {
            let listed = match offering.filter(|_| keys.len() > SINGLY) {
                None => None,
                Some(offering) => {
                    match self.submitter.client.list_shares_of(offering, period.first_day()).await {
                        Ok(shares) => Some(Found::of(shares)),
                        Err(failure) => {
                            tracing::warn!(
                                "Users' shares of {period} of offering {offering} are not compared now: {failure}"
                            );
                            differ.extend(keys);
                            continue;
                        }
                    }
                }
            };
            // Of all resources at once, their shares would need more memory than all the rest.
            for some in keys.chunks(COMPARED_TOGETHER) {
                let some = some.to_vec();
                for compared in self.ledger(move |ledger| to_compare(ledger, some)).await? {
                    if self.stopped() {
                        return Ok(differ);
                    }
                    if !self.compare_shares_of(&compared, listed.as_ref()).await? {
                        differ.insert(compared.0.key);
                    }
                }
            }
        }
        Ok(differ)
    }

    async fn compare_shares_of(
        &self,
        (statement, rows): &Compared,
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
            let row = rows.get(component).copied();
            let Some(row) = row.filter(|_| !reported.is_empty()) else { continue };
            let read;
            let found = match listed {
                Some(listed) => listed,
                None => {
                    let rows = self.submitter.client.list_user_usages(
                        key.resource,
                        component,
                        key.period.first_day(),
                    );
                    match rows.await {
                        Ok(rows) => read = found(rows),
                        Err(failure) => {
                            self.put_off(key.resource, failure).await?;
                            return Ok(false);
                        }
                    }
                    &read
                }
            };
            let held = |user: &str| found.held(row, user).unwrap_or_default();
            let differs = reported.iter().find(|(user, amount)| held(user) != *amount);
            match differs {
                Some((user, amount)) => {
                    agree = false;
                    let held = held(user);
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
        key: StatementKey,
        component: &str,
        row: Uuid,
    ) -> Result<(), CycleError> {
        let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { return Ok(()) };
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
        match self.submitter.client.list_user_usages(statement.key.resource, component, month).await {
            Ok(rows) => self.take_shares(statement.key, component, row, (&reported, &found(rows))).await,
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
            let held = found.held(row, user).unwrap_or_default();
            if held != *amount {
                let (component, user) = (component.to_owned(), (*user).clone());
                amounts.push(Amount { component, user, amount: held });
            }
        }
        let now = self.submitter.clock.now();
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
        let rows =
            self.submitter.client.list_user_usages(key.resource, component, key.period.first_day()).await;
        let Ok(found) = rows.map(found) else { return Ok(false) };
        Ok(users.iter().all(|user| found.held(row, &user.username) == Some(user.amount)))
    }
}

fn found(rows: Vec<UserUsageRow>) -> Found {
    Found::of(rows.into_iter().map(Share::from).collect())
}

/// Those of which the server is known to hold shares, by month and offering.
fn with_shares(ledger: &Ledger, keys: &[StatementKey]) -> Result<Groups, LedgerError> {
    let mut groups = Groups::new();
    for &key in keys {
        if ledger.has_shares(key)? {
            let known = ledger.resource(key.resource)?.map(|known| known.offering);
            groups.entry((key.period, known.filter(|offering| !offering.is_nil()))).or_default().push(key);
        }
    }
    Ok(groups)
}

fn to_compare(ledger: &Ledger, keys: Vec<StatementKey>) -> Result<Vec<Compared>, LedgerError> {
    let mut compared = Vec::with_capacity(keys.len());
    for statement in ledger.statements_of(&keys)? {
        let mut rows = BTreeMap::new();
        for component in statement.components.keys() {
            rows.extend(ledger.usage_row(statement.key, component)?.map(|(row, _)| (component.clone(), row)));
        }
        compared.push((statement, rows));
    }
    Ok(compared)
}
