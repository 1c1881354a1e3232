//! How a month's totals came about in Waldur, for whoever draws them. It only reads.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::ledger::db::columns::{decimal, instant};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// A total that Waldur took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedTotal {
    pub component: String,
    pub at: Timestamp,
    pub amount: Decimal,
}

impl Ledger {
    /// The totals that Waldur took of a resource's month, the oldest first.
    pub fn reported_totals(
        &self,
        resource: Uuid,
        period: BillingPeriod,
    ) -> Result<Vec<ReportedTotal>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT component, at, amount FROM sent
                     WHERE resource = ?1 AND period = ?2 AND username = '' AND outcome = 'accepted' ORDER BY id",
                )?
                .query_map([resource.to_string(), period.to_string()], |row| {
                    Ok(ReportedTotal {
                        component: row.get(0)?,
                        at: instant(row.get(1)?),
                        amount: decimal(row.get(2)?).unwrap_or_default(),
                    })
                })?
                .collect()
        })
    }
}
