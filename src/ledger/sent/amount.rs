//! Which number of a bill: a statement, and an amount of it.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::ledger::db::columns::{instant, period_column, uuid_column};
use crate::ledger::db::sql::{self, Row};
use crate::metering::period::BillingPeriod;

/// Which statement: one resource, one billing period, and the part of it that one plan period covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementKey {
    pub resource: Uuid,
    pub period: BillingPeriod,
    /// The first instant of the part.
    pub part: Timestamp,
}

/// An amount of a component ('' as user) or of one of its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amount {
    pub component: String,
    pub user: String,
    pub amount: Decimal,
}

impl Amount {
    /// Of all users.
    pub fn total(component: String, amount: Decimal) -> Amount {
        Amount { component, user: String::new(), amount }
    }
}

pub(in crate::ledger) fn key(row: &Row<'_>, first: usize) -> sql::Result<StatementKey> {
    Ok(StatementKey {
        resource: uuid_column(row, first)?,
        period: period_column(row, first + 1)?,
        part: instant(row.get(first + 2)?),
    })
}
