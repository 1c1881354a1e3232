//! A month's statements with all that an accountant asks about them: whose they are, under which plan, and by which call Waldur
//! was told. It only reads, and holds few of them at once, however many there are.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use uuid::Uuid;

use crate::ledger::books::catalog::{KnownComponent, KnownPlanPeriod, KnownResource};
use crate::ledger::db::{Ledger, LedgerError};
use crate::ledger::sent::amount::{StatementKey, key};
use crate::ledger::sent::statement::{Entry as Number, Holds};
use crate::metering::period::BillingPeriod;

/// A statement as it is exported.
#[derive(Debug, Clone)]
pub struct Exported {
    pub key: StatementKey,
    pub plan_period: Option<Uuid>,
    /// `None`: Waldur was not asked for it yet.
    pub resource: Option<KnownResource>,
    /// By type.
    pub components: Rc<BTreeMap<String, KnownComponent>>,
    /// In the order of components, of each the total first.
    pub amounts: Vec<ExportedAmount>,
}

/// One amount of it.
#[derive(Debug, Clone)]
pub struct ExportedAmount {
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub entry: Number,
    /// What Waldur holds, and since when that is known.
    pub holds: Option<Holds>,
    /// The call that told Waldur what it holds; `read` where it was found there.
    pub call: Option<&'static str>,
}

impl Ledger {
    /// Hands over the statements of a month, one by one, as they were at one instant; memory holds few of them.
    pub fn export<E: From<LedgerError>>(
        &self,
        period: BillingPeriod,
        mut take: impl FnMut(Exported) -> Result<(), E>,
    ) -> Result<(), E> {
        let handed = self.at_one_instant(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT statement.resource, statement.period, statement.part FROM statement
                 LEFT JOIN resource ON resource.uuid = statement.resource WHERE statement.period = ?1
                 ORDER BY resource.customer, resource.project, resource.name, statement.resource, statement.part",
            )?;
            let mut rows = query.query([period.to_string()])?;
            loop {
                let mut keys = Vec::with_capacity(READ_TOGETHER);
                while keys.len() < READ_TOGETHER
                    && let Some(row) = rows.next()?
                {
                    keys.push(key(&row, 0)?);
                }
                let some = match self.exported(&keys) {
                    Ok(some) => some,
                    Err(error) => return Ok(Err(E::from(error))),
                };
                if let Err(error) = some.into_iter().try_for_each(&mut take) {
                    return Ok(Err(error));
                }
                if keys.len() < READ_TOGETHER {
                    return Ok(Ok(()));
                }
            }
        });
        handed?
    }

    /// How many statements a month has.
    pub fn statements_in(&self, period: BillingPeriod) -> Result<i64, LedgerError> {
        self.look(|connection| {
            connection.query_row(
                "SELECT count(*) FROM statement WHERE period = ?1",
                [period.to_string()],
                |row| row.get(0),
            )
        })
    }

    fn exported(&self, keys: &[StatementKey]) -> Result<Vec<Exported>, LedgerError> {
        let statements = self.statements_of(keys)?;
        let mut components: BTreeMap<Uuid, Rc<BTreeMap<String, KnownComponent>>> = BTreeMap::new();
        let mut all = Vec::with_capacity(statements.len());
        for statement in statements {
            let key = statement.key;
            let resource = self.resource(key.resource)?;
            let components = match resource.as_ref().map(|known| known.offering) {
                None => Rc::default(),
                Some(offering) => match components.entry(offering) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => {
                        let of_offering = self.components(offering)?.into_iter();
                        new.insert(Rc::new(of_offering.map(|one| (one.component.clone(), one)).collect()))
                            .clone()
                    }
                },
            };
            let holds =
                |plan: &&KnownPlanPeriod| plan.start <= key.part && plan.end.is_none_or(|end| key.part < end);
            let plan_period = self.plan_periods(key.resource)?.iter().rfind(holds).map(|plan| plan.uuid);
            let rows = self.rows_read(key)?;
            let numbers = in_order(statement.components, statement.users).into_iter();
            let amounts = numbers.map(|((component, user), entry)| {
                let holds = entry.holds(rows.get(&component).filter(|_| user.is_empty()));
                let call = match &holds {
                    Some(holds) if holds.how == "read" => Some(holds.how),
                    _ => entry.acknowledged.as_ref().map(|known| known.call),
                };
                ExportedAmount { component, user, entry, holds, call }
            });
            let amounts = amounts.collect();
            all.push(Exported { key, plan_period, resource, components, amounts });
        }
        Ok(all)
    }
}

/// Numbers by component and user: of each component the total, which is the user '', before the shares.
fn in_order(
    totals: BTreeMap<String, Number>,
    shares: BTreeMap<(String, String), Number>,
) -> Vec<((String, String), Number)> {
    let mut all = Vec::with_capacity(totals.len() + shares.len());
    let mut shares = shares.into_iter().peekable();
    for (component, total) in totals {
        // Those of the component before, and of one that has no total.
        while let Some(share) = shares.next_if(|((of, _), _)| *of < component) {
            all.push(share);
        }
        all.push(((component, String::new()), total));
    }
    all.extend(shares);
    all
}

/// Statements that are in memory at once.
const READ_TOGETHER: usize = 64;
