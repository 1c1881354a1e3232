//! Lists what the server holds with as few requests as it takes: of an offering's month by the page, or of each resource by
//! itself where that is less. A listing that fails falls back to single resources; one that can't be read waits alone. What
//! the rows say is not judged here.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::reason::Reason;
use super::{About, Cycle, CycleError};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;
use crate::waldur::failure::Failure;
use crate::waldur::types::UsageRow;
use crate::waldur::usages::{Listing, UsageFilter};

/// The server's rows of some months, by resource; what could not be read is not there.
pub(super) type Rows = BTreeMap<(Uuid, BillingPeriod), Vec<UsageRow>>;

/// Rows on a page of the server's.
const PAGE: usize = 300;
/// Resources that are looked up in the ledger together.
const LOOKED_UP_TOGETHER: usize = 256;

impl Cycle {
    /// Lists the rows of these statements with as few requests as it takes.
    pub(super) async fn rows_of(
        &self,
        keys: &[StatementKey],
    ) -> Result<(Rows, BTreeSet<StatementKey>), CycleError> {
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
        let stage = self.submitter.progress.stage("Reading what Waldur holds", groups.len());
        for ((period, offering), resources) in groups {
            let mut single = resources.clone();
            if let Some(offering) = offering
                && resources.len() > self.pages_of(offering).await?
            {
                let filter =
                    UsageFilter { offering: Some(offering), ..UsageFilter::of_month(period.first_day()) };
                let filter = filter.to_compare();
                match self.submitter.client.list_usages(&filter).await {
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
                    // While the server is tried again it has been told that it answers nothing of use.
                    Err(failure) if self.ledger(|ledger| ledger.retry(None)).await?.is_some() => {
                        tracing::debug!("A listing failed; its resources are read one by one: {failure}");
                    }
                    Err(failure) => {
                        tracing::warn!("A listing failed; its resources are read one by one: {failure}");
                    }
                }
            }
            for resource in single {
                let filter =
                    UsageFilter { resource: Some(resource), ..UsageFilter::of_month(period.first_day()) };
                let filter = filter.to_compare();
                match self.submitter.client.list_usages(&filter).await {
                    Ok(listing) => {
                        self.was_read();
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
                        self.put_off_unread(resource, failure).await?;
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
                // Of each resource there are few, and of all of an offering very many.
                let of_resource = found.entry(row.resource_uuid).or_default();
                of_resource.reserve_exact(1);
                of_resource.push(row);
            }
        }
        for odd in listing.odd {
            let Some(resource) = odd.resource.filter(|resource| resources.contains(resource)) else {
                let about = About {
                    resource: odd.resource,
                    component: odd.component.as_deref(),
                    period: Some(period),
                };
                self.note_of(about, format!("Waldur's row can't be read: {}", odd.words)).await?;
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
            alone = self.ledger(move |ledger| missing_one(ledger, period, &listed)).await?;
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
}

/// The rows of a statement's month.
pub(super) fn of_statement(rows: &Rows, key: StatementKey) -> &[UsageRow] {
    rows.get(&(key.resource, key.period)).map(Vec::as_slice).unwrap_or_default()
}

/// The resources of which the ledger knows a row that is not among the components that were listed of it.
fn missing_one(
    ledger: &Ledger,
    period: BillingPeriod,
    listed: &[(Uuid, BTreeSet<String>)],
) -> Result<BTreeSet<Uuid>, LedgerError> {
    let mut missing = BTreeSet::new();
    for some in listed.chunks(LOOKED_UP_TOGETHER) {
        let resources: Vec<Uuid> = some.iter().map(|(resource, _)| *resource).collect();
        let of: BTreeMap<Uuid, &BTreeSet<String>> = some.iter().map(|(uuid, found)| (*uuid, found)).collect();
        for totals in ledger.totals_of(&ledger.parts_of_all(&resources, period)?)? {
            let resource = totals.key.resource;
            let is_listed = |component| of.get(&resource).is_some_and(|found| found.contains(component));
            if totals.components.iter().any(|(of, entry)| !entry.held().is_zero() && !is_listed(of)) {
                missing.insert(resource);
            }
        }
    }
    Ok(missing)
}
