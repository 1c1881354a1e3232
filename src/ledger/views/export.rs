//! A month's statements with all that an accountant asks about them: whose they are, under which plan, and by which call Waldur
//! was told. It only reads, one statement at a time, however many there are.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::ledger::books::catalog::{KnownComponent, KnownPlanPeriod, KnownResource};
use crate::ledger::db::sql::OptionalExtension;
use crate::ledger::db::{Ledger, LedgerError};
use crate::ledger::sent::record::{StatementKey, key};
use crate::ledger::sent::statement::{Entry, Statement};
use crate::metering::period::BillingPeriod;

/// A statement as it is exported.
#[derive(Debug, Clone)]
pub struct Exported {
    pub key: StatementKey,
    pub plan_period: Option<Uuid>,
    /// `None`: Waldur was not asked for it yet.
    pub resource: Option<KnownResource>,
    /// By type.
    pub components: BTreeMap<String, KnownComponent>,
    /// In the order of components, of each the total first.
    pub amounts: Vec<ExportedAmount>,
}

/// One amount of it.
#[derive(Debug, Clone)]
pub struct ExportedAmount {
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub entry: Entry,
    /// The call that told Waldur what it holds; `read` where it was found there.
    pub call: Option<String>,
}

impl Ledger {
    /// Hands over the statements of a month, one by one, as they were at one instant.
    pub fn export<E: From<LedgerError>>(
        &self,
        period: BillingPeriod,
        mut take: impl FnMut(Exported) -> Result<(), E>,
    ) -> Result<(), E> {
        let handed = self.look(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT statement.resource, statement.period, statement.part FROM statement
                 LEFT JOIN resource ON resource.uuid = statement.resource WHERE statement.period = ?1
                 ORDER BY resource.customer, resource.project, resource.name, statement.resource, statement.part",
            )?;
            // As long as this is open, every look-up sees the ledger as it is now.
            let mut keys = query.query([period.to_string()])?;
            while let Some(row) = keys.next()? {
                let key = key(&row, 0)?;
                let handed = self.exported(key).map_err(E::from);
                if let Err(error) = handed.and_then(|one| one.map_or(Ok(()), &mut take)) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
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

    fn exported(&self, key: StatementKey) -> Result<Option<Exported>, LedgerError> {
        let Some(statement) = self.statement(key)? else { return Ok(None) };
        let resource = self.resource(key.resource)?;
        let components = match &resource {
            Some(known) => self.components(known.offering)?,
            None => Vec::new(),
        };
        let holds =
            |plan: &&KnownPlanPeriod| plan.start <= key.part && plan.end.is_none_or(|end| key.part < end);
        let plan_periods = self.plan_periods(key.resource)?;
        Ok(Some(Exported {
            key,
            plan_period: plan_periods.iter().rfind(holds).map(|plan| plan.uuid),
            resource,
            components: components.into_iter().map(|one| (one.component.clone(), one)).collect(),
            amounts: self.exported_amounts(statement)?,
        }))
    }

    fn exported_amounts(&self, statement: Statement) -> Result<Vec<ExportedAmount>, LedgerError> {
        let totals =
            statement.components.into_iter().map(|(component, entry)| ((component, String::new()), entry));
        let all: BTreeMap<(String, String), Entry> = totals.chain(statement.users).collect();
        let mut amounts = Vec::with_capacity(all.len());
        for ((component, user), entry) in all {
            let call = match &entry.acknowledged {
                Some(known) => self.call_of(known.id)?,
                None => None,
            };
            amounts.push(ExportedAmount { component, user, entry, call });
        }
        Ok(amounts)
    }

    fn call_of(&self, id: i64) -> Result<Option<String>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT call FROM sent WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()
        })
    }
}
