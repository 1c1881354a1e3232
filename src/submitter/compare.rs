//! The ledger beside what Waldur holds, read now: by resource, component and user. It decides nothing and keeps nothing;
//! `diff` shows it, and `report: shadow` does nothing else.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use uuid::Uuid;

use super::writer::{OwnNames, writer};
use crate::ledger::sent::server::Writer;
use crate::ledger::sent::statement::Statement;
use crate::ledger::{Ledger, LedgerError, SharedLedger};
use crate::metering::period::BillingPeriod;
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::waldur::types::UserUsageRow;
use crate::waldur::usages::{Listing, UsageFilter};

/// Whose number it is: resource, component, and user ('' is the total). A month's plan periods are added up.
pub type Place = (Uuid, String, String);

/// What the two sides hold of one place; `None`: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AmountPair {
    pub ledger: Option<Decimal>,
    pub waldur: Option<Decimal>,
    /// How the ledger's number stands (`agreed`, `held`, ...).
    pub state: String,
    /// Whether some of it can't be posted: then the ledger's number is not all of it.
    pub unpostable: bool,
    /// Who wrote Waldur's number last, as its row says; shares don't say.
    pub writer: Writer,
    /// It is the user whose token this agent has.
    pub written_by_us: bool,
}

impl AmountPair {
    /// What was never reported and is zero need not be there.
    pub fn differ(&self) -> bool {
        self.unpostable || self.ledger.unwrap_or_default() != self.waldur.unwrap_or_default()
    }
}

/// Both sides of a month.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    pub sides: BTreeMap<Place, AmountPair>,
    /// What the resources are called.
    pub names: BTreeMap<Uuid, String>,
    /// Resources that could not be read, and why: nothing is said of them.
    pub unread: BTreeMap<Uuid, String>,
    /// Offerings whose month could not be listed whole, and why: what is there of resources that the ledger does not know
    /// is not seen.
    pub unlisted: BTreeMap<Uuid, String>,
    /// Rows of Waldur that are not ours to make: no meter makes their component.
    pub not_ours: usize,
}

impl Comparison {
    /// Whether all was read that is compared.
    pub fn is_whole(&self) -> bool {
        self.unread.is_empty() && self.unlisted.is_empty()
    }

    pub fn differing(&self) -> impl Iterator<Item = (&Place, &AmountPair)> {
        self.sides.iter().filter(|(_, sides)| sides.differ())
    }

    /// How many resources there are, and of how many something differs.
    pub fn resources(&self) -> (usize, usize) {
        let all: BTreeSet<Uuid> = self.sides.keys().map(|(resource, ..)| *resource).collect();
        let differ: BTreeSet<Uuid> = self.differing().map(|((resource, ..), _)| *resource).collect();
        (all.len(), differ.len())
    }
}

/// What is compared.
#[derive(Debug, Clone)]
pub struct Compare {
    pub period: BillingPeriod,
    /// Empty: all.
    pub only: BTreeSet<Uuid>,
    /// Users' shares, too.
    pub shares: bool,
}

/// What a collector's rules make, and of which resources.
#[derive(Debug)]
struct Scope {
    offering: Option<Uuid>,
    resource: Option<Uuid>,
    components: BTreeSet<String>,
}

/// The ledger's side.
#[derive(Debug)]
struct Books {
    statements: Vec<Statement>,
    scopes: Vec<Scope>,
    /// By resource: its offering and its name.
    known: BTreeMap<Uuid, (Uuid, String)>,
    own: OwnNames,
}

impl Books {
    fn of(ledger: &Ledger, period: BillingPeriod) -> Result<Books, LedgerError> {
        let statements = ledger.statements(Some(period))?;
        let rules = &ledger.in_force().in_month(period).rules;
        let scopes: Vec<Scope> = rules
            .iter()
            .map(|rules| Scope {
                offering: rules.offering(),
                resource: rules.fixed_resource(),
                components: rules.meters.iter().map(|meter| meter.component.clone()).collect(),
            })
            .collect();
        let mut known = BTreeMap::new();
        let fixed = scopes.iter().filter_map(|scope| scope.resource);
        for resource in statements.iter().map(|statement| statement.key.resource).chain(fixed) {
            if let Some(one) = ledger.resource(resource)? {
                known.insert(resource, (one.offering, one.name));
            }
        }
        Ok(Books { statements, scopes, known, own: OwnNames::of(ledger)? })
    }

    /// Offerings whose whole month is listed, and resources that are asked for by themselves.
    fn to_read(&self, only: &BTreeSet<Uuid>) -> (BTreeSet<Uuid>, BTreeSet<Uuid>) {
        if !only.is_empty() {
            return (BTreeSet::new(), only.clone());
        }
        let offerings: BTreeSet<Uuid> = self.scopes.iter().filter_map(|scope| scope.offering).collect();
        let fixed = self.scopes.iter().filter_map(|scope| scope.resource);
        let all = self.statements.iter().map(|statement| statement.key.resource).chain(fixed);
        let single = all.filter(|resource| {
            self.known.get(resource).is_none_or(|(offering, _)| !offerings.contains(offering))
        });
        (offerings.clone(), single.collect())
    }

    /// Resources of an offering that the ledger has something of.
    fn resources_of(&self, offering: Uuid) -> BTreeSet<Uuid> {
        let all = self.statements.iter().map(|statement| statement.key.resource);
        all.filter(|resource| self.known.get(resource).is_some_and(|(of, _)| *of == offering)).collect()
    }

    /// Whether some meter makes this component of this resource.
    fn is_metered(&self, resource: Uuid, offering: Option<Uuid>, component: &str) -> bool {
        self.scopes.iter().any(|scope| {
            let of_it =
                scope.resource == Some(resource) || scope.offering.is_some() && scope.offering == offering;
            of_it && scope.components.contains(component)
        })
    }
}

/// Reads a month, and lays both sides beside each other. `Err`: nothing could be read at all.
pub async fn compare(
    client: &Client,
    ledger: &SharedLedger,
    wanted: Compare,
) -> Result<Result<Comparison, Failure>, LedgerError> {
    let period = wanted.period;
    let books = ledger.with(move |ledger| Books::of(ledger, period)).await?;
    let mut reading = Reading { client, wanted: &wanted, found: Found::default() };
    if let Err(failure) = reading.read(&books).await {
        return Ok(Err(failure));
    }
    Ok(Ok(build_comparison(&books, reading.found, &wanted)))
}

/// What Waldur holds.
#[derive(Debug, Default)]
struct Found {
    /// By resource and component, over all plan periods.
    totals: BTreeMap<(Uuid, String), Total>,
    shares: BTreeMap<Place, Decimal>,
    names: BTreeMap<Uuid, String>,
    /// The month's rows, and whose they are: a share does not always say, and those of other rows are of other months.
    rows: BTreeMap<Uuid, (Uuid, String)>,
    unread: BTreeMap<Uuid, String>,
    unlisted: BTreeMap<Uuid, String>,
}

/// What all rows of a component hold together.
#[derive(Debug, Default)]
struct Total {
    offering: Option<Uuid>,
    amount: Decimal,
    /// Of the row that was written last.
    writer: Writer,
}

struct Reading<'a> {
    client: &'a Client,
    wanted: &'a Compare,
    found: Found,
}

impl Reading<'_> {
    async fn read(&mut self, books: &Books) -> Result<(), Failure> {
        let (offerings, mut single) = books.to_read(&self.wanted.only);
        for offering in offerings {
            match self.read_offering(offering).await {
                Ok(()) => {}
                Err(failure) if concerns_all(&failure) => return Err(failure),
                // A page that fails falls back to single resources: to those that are known.
                Err(failure) => {
                    self.found.unlisted.insert(offering, failure.to_string());
                    single.extend(books.resources_of(offering));
                }
            }
        }
        for resource in single {
            match self.read_resource(resource).await {
                Ok(()) => {}
                Err(failure) if concerns_all(&failure) => return Err(failure),
                Err(failure) => {
                    self.found.unread.insert(resource, failure.to_string());
                }
            }
        }
        Ok(())
    }

    async fn read_offering(&mut self, offering: Uuid) -> Result<(), Failure> {
        let month = self.wanted.period.first_day();
        let filter = UsageFilter { offering: Some(offering), ..UsageFilter::of_month(month) };
        let listing = self.client.list_usages(&filter).await?;
        let shares = match self.wanted.shares {
            true => self.client.list_user_usages_of(offering, month).await?,
            false => Vec::new(),
        };
        self.take(listing, Some(offering), None);
        self.take_shares(shares);
        Ok(())
    }

    async fn read_resource(&mut self, resource: Uuid) -> Result<(), Failure> {
        let month = self.wanted.period.first_day();
        let filter = UsageFilter { resource: Some(resource), ..UsageFilter::of_month(month) };
        let listing = self.client.list_usages(&filter).await?;
        let components: BTreeSet<String> = listing.rows.iter().map(|row| row.component.clone()).collect();
        let mut shares = Vec::new();
        for component in components.iter().filter(|_| self.wanted.shares) {
            shares.extend(self.client.list_user_usages(resource, component, month).await?);
        }
        self.take(listing, None, Some(resource));
        self.take_shares(shares);
        Ok(())
    }

    fn take(&mut self, listing: Listing, offering: Option<Uuid>, resource: Option<Uuid>) {
        for row in listing.rows {
            let whose = (row.resource_uuid, row.component.clone());
            if self.found.rows.insert(row.uuid, whose).is_some() {
                continue; // It was on two pages.
            }
            let writer = writer(&row);
            let total = self.found.totals.entry((row.resource_uuid, row.component)).or_default();
            total.offering = total.offering.or(row.offering_uuid).or(offering);
            total.amount = total.amount.saturating_add(row.usage);
            if writer.dated >= total.writer.dated {
                total.writer = writer;
            }
            if !row.resource_name.is_empty() {
                self.found.names.insert(row.resource_uuid, row.resource_name);
            }
        }
        for odd in listing.odd {
            match (odd.resource.or(resource), offering) {
                (Some(resource), _) => self.found.unread.insert(resource, odd.words),
                (None, Some(offering)) => self.found.unlisted.insert(offering, odd.words),
                (None, None) => None,
            };
        }
    }

    fn take_shares(&mut self, shares: Vec<UserUsageRow>) {
        for share in shares {
            let row = share.row().map(|row| self.found.rows.get(&row).cloned());
            let whose = match row {
                Some(of_month) => of_month,
                None => share.resource_uuid.map(|resource| (resource, share.component_type.clone())),
            };
            let Some((resource, component)) = whose else { continue };
            let known = self.found.shares.entry((resource, component, share.username)).or_default();
            *known = known.saturating_add(share.usage);
        }
    }
}

/// Whether other reads would fail like it.
fn concerns_all(failure: &Failure) -> bool {
    failure.concerns_every_call()
        || matches!(failure, Failure::Forbidden { .. })
        || failure.retry_after().is_some()
}

fn build_comparison(books: &Books, found: Found, wanted: &Compare) -> Comparison {
    let mut comparison =
        Comparison { unread: found.unread, unlisted: found.unlisted, ..Comparison::default() };
    comparison.names = books.known.iter().map(|(uuid, (_, name))| (*uuid, name.clone())).collect();
    comparison.names.extend(found.names);
    let is_wanted = |resource: &Uuid| wanted.only.is_empty() || wanted.only.contains(resource);
    let unread = comparison.unread.clone();
    let is_read = |resource: &Uuid| is_wanted(resource) && !unread.contains_key(resource);
    for statement in books.statements.iter().filter(|statement| is_read(&statement.key.resource)) {
        let resource = statement.key.resource;
        let totals =
            statement.components.iter().map(|(component, entry)| ((component.clone(), String::new()), entry));
        let shares =
            statement.users.iter().map(|(place, entry)| (place.clone(), entry)).filter(|_| wanted.shares);
        for ((component, user), entry) in totals.chain(shares) {
            let sides = comparison.sides.entry((resource, component, user)).or_default();
            sides.unpostable |= entry.posted.is_none() && entry.problem.is_some();
            let posted = entry.posted.unwrap_or_default();
            sides.ledger = Some(sides.ledger.unwrap_or_default().saturating_add(posted));
            if sides.state.is_empty() || sides.state == "agreed" {
                entry.state().clone_into(&mut sides.state);
            }
        }
    }
    let mut ours: BTreeSet<(Uuid, String)> =
        comparison.sides.keys().map(|(resource, component, _)| (*resource, component.clone())).collect();
    for ((resource, component), Total { offering, amount, writer }) in found.totals {
        if !is_read(&resource) {
            continue;
        }
        if !ours.contains(&(resource, component.clone())) && !books.is_metered(resource, offering, &component)
        {
            comparison.not_ours += 1;
            continue;
        }
        ours.insert((resource, component.clone()));
        let sides = comparison.sides.entry((resource, component, String::new())).or_default();
        sides.written_by_us = books.own.wrote(&writer);
        (sides.waldur, sides.writer) = (Some(amount), writer);
    }
    for ((resource, component, user), amount) in found.shares {
        if ours.contains(&(resource, component.clone())) && is_read(&resource) {
            comparison.sides.entry((resource, component, user)).or_default().waldur = Some(amount);
        }
    }
    comparison
}
