//! Comparing the users' shares that the server holds with what was reported: hourly, before a month is closed, and after a
//! call with an unclear outcome. A share that is not as it was reported is another writer's, and so is one of a user of whom
//! nothing was reported.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use uuid::Uuid;

use super::closing::has_ended;
use super::notes::without_resource;
use super::reason::Reason;
use super::reconcile::Row;
use super::{Cycle, CycleError};
use crate::ledger::sent::amount::{Amount, StatementKey};
use crate::ledger::sent::decision::Subject;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::failure::Failure;
use crate::waldur::report::UserAmount;
use crate::waldur::types::{Share, UserUsageRow};

/// Statements whose shares are in memory at once.
const COMPARED_TOGETHER: usize = 64;

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

    /// All shares of a row.
    fn of_row(&self, row: Uuid) -> impl Iterator<Item = &Share> {
        let first = self.0.partition_point(|share| share.row < Some(row));
        self.0.iter().skip(first).take_while(move |share| share.row == Some(row))
    }

    /// What of the shares of a component's row is not as this agent reported it.
    fn differences(&self, statement: &Statement, component: &str, row: Uuid) -> Vec<Difference> {
        let of_component = statement.users.iter().filter(|((of, _), _)| of == component);
        let of_component: BTreeMap<&str, &Entry> =
            of_component.map(|((_, user), entry)| (user.as_str(), entry)).collect();
        let reported =
            of_component.iter().filter(|(_, entry)| entry.acknowledged.is_some() && !entry.is_unclear());
        let mut differences: Vec<Difference> = reported
            .filter_map(|(user, entry)| {
                let found = self.held(row, user).unwrap_or_default();
                let differs = found != entry.held();
                differs.then(|| Difference { user: (*user).to_owned(), found, reported: Some(entry.held()) })
            })
            .collect();
        // Of whom nothing was reported, nothing is expected there; but for what is about to be, it makes no difference.
        let of_users = self.of_row(row).filter(|share| !share.usage.is_zero() && !share.username.is_empty());
        differences.extend(of_users.filter_map(|share| {
            let is_ours = of_component.get(&*share.username).is_some_and(|entry| {
                entry.acknowledged.is_some()
                    || !entry.open.is_empty()
                    || entry.planned.or(entry.posted) == Some(share.usage)
            });
            let (user, found) = (share.username.to_string(), share.usage);
            (!is_ours).then_some(Difference { user, found, reported: None })
        }));
        differences
    }

    /// The shares that the server holds just as the ledger has them by now, though otherwise or nothing was reported: what was
    /// reported of a ledger that was put back since, or what a person has set right.
    fn as_stated(&self, statement: &Statement, component: &str, row: Uuid) -> Vec<Amount> {
        let of_component = statement.users.iter().filter(|((of, _), _)| of == component);
        let stated = of_component.filter_map(|((_, user), entry)| {
            let found = self.held(row, user).unwrap_or_default();
            let is_news = entry.held() != found && entry.planned.is_none() && !entry.is_unclear();
            let is_stated = is_news && entry.posted == Some(found);
            is_stated.then(|| Amount { component: component.to_owned(), user: user.clone(), amount: found })
        });
        stated.collect()
    }

    /// What is there of the users of a component's row, as far as it is not known to be.
    fn unlike_known(&self, statement: &Statement, component: &str, row: Uuid) -> Vec<Amount> {
        let known = statement.users.iter().filter(|((of, _), _)| of == component);
        let known: BTreeMap<&str, &Entry> = known.map(|((_, user), entry)| (user.as_str(), entry)).collect();
        let there = self.of_row(row).filter(|share| !share.usage.is_zero()).map(|share| &*share.username);
        let users: BTreeSet<&str> =
            known.keys().copied().chain(there).filter(|user| !user.is_empty()).collect();
        let unlike = users.into_iter().filter_map(|user| {
            let (found, entry) = (self.held(row, user).unwrap_or_default(), known.get(user));
            let is_known = entry.map(|entry| entry.held()).unwrap_or_default() == found
                && !entry.is_some_and(|entry| entry.is_unclear());
            let (component, user) = (component.to_owned(), user.to_owned());
            (!is_known).then_some(Amount { component, user, amount: found })
        });
        unlike.collect()
    }
}

/// A share that another writer changed, or added (`reported` is none).
#[derive(Debug)]
struct Difference {
    user: String,
    found: Decimal,
    reported: Option<Decimal>,
}

impl Difference {
    fn words(&self) -> String {
        let Difference { user, found, reported } = self;
        match reported {
            Some(reported) => format!(
                "Waldur holds {found:.2} of {user}, but this agent last reported {reported:.2}: another writer changed it"
            ),
            None => format!(
                "Waldur holds {found:.2} of {user}, of whom this agent has reported nothing: another writer added it"
            ),
        }
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
        let mut groups = groups.into_iter();
        while let Some(((period, offering), keys)) = groups.next() {
            let listed = match offering.filter(|_| keys.len() > SINGLY) {
                None => None,
                Some(offering) => {
                    match self.submitter.client.list_shares_of(offering, period.first_day()).await {
                        Ok(shares) => Some(Found::of(shares)),
                        Err(failure) if failure.concerns_every_call() => {
                            self.note_undone(&keys, &failure).await?;
                            self.pause(failure).await?;
                            // What was not compared is not known to agree.
                            differ.extend(keys.into_iter().chain(groups.flat_map(|(_, keys)| keys)));
                            return Ok(differ);
                        }
                        Err(failure) => {
                            tracing::warn!(
                                "Users' shares of {period} can't be listed; they are read one by one: {failure}"
                            );
                            None
                        }
                    }
                }
            };
            // Of all resources at once, their shares would need more memory than all the rest.
            for some in keys.chunks(COMPARED_TOGETHER) {
                let some = some.to_vec();
                for compared in self.ledger(move |ledger| to_compare(ledger, some)).await? {
                    // What was not compared is not known to agree.
                    if self.stopped() || !self.compare_shares_of(&compared, listed.as_ref()).await? {
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
            let Some(&row) = rows.get(component).filter(|_| has_shares(statement, component)) else {
                continue;
            };
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
                        Ok(rows) => {
                            self.was_read();
                            read = found(rows);
                        }
                        Err(failure) => {
                            self.note_undone(&[key], &failure).await?;
                            self.put_off_unread(key.resource, failure).await?;
                            return Ok(false);
                        }
                    }
                    &read
                }
            };
            let mut differences = found.differences(statement, component, row);
            if !total.differs() {
                let stated = found.as_stated(statement, component, row);
                differences.retain(|one| !stated.iter().any(|stated| stated.user == one.user));
                self.note_stated(key, stated).await?;
            }
            match differences.first() {
                Some(first) => {
                    agree = false;
                    if self.is_decided_share(key, component, total).await? {
                        self.take_shares(statement, component, differences).await?;
                    } else if ![Reason::Conflict, Reason::Unadoptable]
                        .iter()
                        .any(|reason| total.is_blocked_for(reason.name()))
                    {
                        // Where the total is in conflict, that is to be decided, and the shares with it.
                        self.block(key, component, Reason::Shares, first.words(), Some(total.held())).await?;
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

    /// Before shares of a month that is over are completed, what is there of them is read, because nothing else is sent that
    /// would. Statements whose shares can't be read wait.
    pub(super) async fn compare_before_completing(
        &self,
        due: &mut Vec<StatementKey>,
    ) -> Result<(), CycleError> {
        let server = self.submitter.server_time().await?;
        let zone = self.submitter.zone().await?;
        let over: Vec<StatementKey> =
            due.iter().filter(|key| has_ended(&zone, key.period, &server)).copied().collect();
        if over.is_empty() {
            return Ok(());
        }
        self.compare_shares(&over).await?;
        let put_off = self.state().put_off_now.clone();
        due.retain(|key| !over.contains(key) || !put_off.contains(&key.resource));
        Ok(())
    }

    async fn note_stated(&self, key: StatementKey, shares: Vec<Amount>) -> Result<(), CycleError> {
        if shares.is_empty() {
            return Ok(());
        }
        let now = self.submitter.clock.now();
        Ok(self.ledger(move |ledger| ledger.note_read(key, &shares, "as the ledger has it", now)).await?)
    }

    /// Notes which of these statements a person's decision waits for that could not be carried out.
    async fn note_undone(&self, keys: &[StatementKey], failure: &Failure) -> Result<(), CycleError> {
        let of_keys = keys.to_vec();
        for statement in self.ledger(move |ledger| ledger.totals_of(&of_keys)).await? {
            let key = statement.key;
            for (component, total) in &statement.components {
                if self.is_decided_share(key, component, total).await? {
                    let words = without_resource(&failure.to_string(), key.resource);
                    self.state().undone.add(key.resource, words);
                }
            }
        }
        Ok(())
    }

    /// Whether a person decided to overwrite a component's shares, and its total is ours, as the person saw it or as it was
    /// reported since. What another writes after that was done is no longer what the person saw.
    async fn is_decided_share(
        &self,
        key: StatementKey,
        component: &str,
        total: &Entry,
    ) -> Result<bool, CycleError> {
        let (component, held) = (component.to_owned(), total.held());
        let known = total.acknowledged.as_ref();
        let of = |how: &str| known.filter(|known| known.how == how).map(|known| known.at);
        let (read, accepted) = (of("read"), of("accepted"));
        Ok(self
            .ledger(move |ledger| {
                let decided = ledger.decided(key, &component)?;
                let decided = decided.filter(|decided| {
                    decided.about == Subject::Shares
                        && (decided.held == held || accepted.is_some_and(|at| at > decided.at))
                        && read.is_none_or(|read| read <= decided.at)
                });
                let Some(decided) = decided else { return Ok(false) };
                Ok(!ledger.were_shares_overwritten_since(key, &component, decided.at)?)
            })
            .await?)
    }

    /// Notes another writer's total, whether it is to be overwritten or stays, together with what the server holds of its users:
    /// from then on none of the shares that were reported belongs to it.
    pub(super) async fn take_theirs(
        &self,
        key: StatementKey,
        component: &str,
        row: &Row,
        words: String,
    ) -> Result<Result<(), Failure>, CycleError> {
        let mut amounts = vec![Amount::total(component.to_owned(), row.held.amount)];
        let statement = self.ledger(move |ledger| ledger.statement(key)).await?;
        if let Some(statement) = statement.filter(|known| known.users.keys().any(|(of, _)| of == component)) {
            let month = key.period.first_day();
            match self.submitter.client.list_user_usages(key.resource, component, month).await {
                Ok(rows) => amounts.extend(found(rows).unlike_known(&statement, component, row.uuid)),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        let now = self.submitter.clock.now();
        self.ledger(move |ledger| ledger.take_theirs(key, &amounts, &words, now)).await?;
        Ok(Ok(()))
    }

    /// Notes what the server holds of these shares, so that they are sent again: as the total that it holds has them, which is
    /// not what the ledger makes by now where that total can't be changed any more. Beside another writer's total none is sent.
    async fn take_shares(
        &self,
        statement: &Statement,
        component: &str,
        differences: Vec<Difference>,
    ) -> Result<(), CycleError> {
        let (key, now) = (statement.key, self.submitter.clock.now());
        let (server, zone) = (self.submitter.server_time().await?, self.submitter.zone().await?);
        let ended = has_ended(&zone, key.period, &server) || self.part_of(key).await?.has_ended(server.now);
        let total = statement.components.get(component);
        let is_ours = total.is_some_and(Entry::is_ours);
        let is_current = !ended && total.is_some_and(|total| !total.differs());
        let (mut read, mut wanted) = (Vec::new(), Vec::new());
        for Difference { user, found, reported } in differences {
            let entry = statement.entry(component, &user);
            let posted = entry.filter(|_| is_current).and_then(|entry| entry.posted);
            let planned = entry.and_then(|entry| entry.planned);
            let of = |amount| Amount { component: component.to_owned(), user: user.clone(), amount };
            let amount = posted.or(planned).or(reported).unwrap_or_default();
            wanted.extend((is_ours && amount != found).then(|| of(amount)));
            read.push(of(found));
        }
        Ok(self.ledger(move |ledger| ledger.overwrite_shares(key, (&read, &wanted), now)).await?)
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

/// Whether shares of a component were reported, or are to be completed.
fn has_shares(statement: &Statement, component: &str) -> bool {
    let known = |entry: &Entry| entry.acknowledged.is_some() || entry.planned.is_some();
    statement.users.iter().any(|((of, _), entry)| of == component && known(entry))
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
