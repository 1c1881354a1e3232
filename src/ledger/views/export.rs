//! A month's statements with all that an accountant asks about them: whose they are, under which plan, and by which call Waldur
//! was told. It only reads, and holds few of them at once, however many there are.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use uuid::Uuid;

use crate::ledger::books::catalog::{KnownComponent, KnownPlanPeriod, KnownResource};
use crate::ledger::db::sql::ToSql;
use crate::ledger::db::{Ledger, LedgerError};
use crate::ledger::sent::amount::{StatementKey, key};
use crate::ledger::sent::statement::{Entry as Number, Holds, Statement};
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
    pub call: Option<String>,
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
        let mut calls = self.calls_of(&statements)?;
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
            let totals = statement.components.into_iter();
            let totals = totals.map(|(component, entry)| ((component, String::new()), entry));
            let numbers: BTreeMap<(String, String), Number> = totals.chain(statement.users).collect();
            let amounts = numbers.into_iter().map(|((component, user), entry)| {
                let holds = entry.holds(rows.get(&component).filter(|_| user.is_empty()));
                let accepted = entry.acknowledged.as_ref().and_then(|known| calls.remove(&known.id));
                let call = match &holds {
                    Some(holds) if holds.how == "read" => Some(holds.how.to_owned()),
                    _ => accepted,
                };
                ExportedAmount { component, user, entry, holds, call }
            });
            let amounts = amounts.collect();
            all.push(Exported { key, plan_period, resource, components, amounts });
        }
        Ok(all)
    }

    /// The calls that told Waldur what it holds, by their numbers.
    fn calls_of(&self, statements: &[Statement]) -> Result<HashMap<i64, String>, LedgerError> {
        let entries = statements.iter().flat_map(|one| one.components.values().chain(one.users.values()));
        let rows: Vec<[&dyn ToSql; 1]> =
            entries.filter_map(|entry| Some([&entry.acknowledged.as_ref()?.id as &dyn ToSql])).collect();
        let mut calls = HashMap::with_capacity(rows.len());
        self.look(|connection| {
            connection.query_rows(
                "SELECT sent.id, sent.call FROM (VALUES {rows}) v CROSS JOIN sent WHERE sent.id = v.column1",
                &rows,
                |row| {
                    calls.insert(row.get(0)?, row.get(1)?);
                    Ok(())
                },
            )
        })?;
        Ok(calls)
    }
}

/// Statements that are in memory at once.
const READ_TOGETHER: usize = 64;
