//! How instants, UUIDs, months and amounts stand in columns.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::sql::{self, Row};
use crate::metering::exact::Exact;
use crate::metering::period::BillingPeriod;

/// An instant as the ledger keeps it.
pub(in crate::ledger) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// An instant from the ledger.
pub(in crate::ledger) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// An amount as it is posted and compared: always two decimals, and nothing is nothing, whatever its sign.
pub(in crate::ledger) fn two_decimals(amount: Decimal) -> String {
    if amount.is_zero() { "0.00".to_owned() } else { format!("{amount:.2}") }
}

pub(in crate::ledger) fn decimal(text: Option<String>) -> Option<Decimal> {
    text.and_then(|text| text.parse().ok())
}

/// An amount that a row may have, without a copy of its text.
pub(in crate::ledger) fn decimal_in(row: &Row<'_>, column: usize) -> sql::Result<Option<Decimal>> {
    Ok(row.get_ref(column)?.as_str_or_null()?.and_then(|text| text.parse().ok()))
}

/// An amount that a row must have.
pub(in crate::ledger) fn decimal_column(row: &Row<'_>, column: usize) -> sql::Result<Decimal> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error: rust_decimal::Error| unreadable(column, error))
}

/// A row that is not as this program writes it.
pub(in crate::ledger) fn unreadable(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> sql::Error {
    sql::Error::unreadable(format!("column {column}: {}", error.into()))
}

pub(in crate::ledger) fn exact_column(row: &Row<'_>, column: usize) -> sql::Result<Exact> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error: String| unreadable(column, error))
}

pub(in crate::ledger) fn uuid_column(row: &Row<'_>, column: usize) -> sql::Result<Uuid> {
    let text = row.get_ref(column)?.as_str()?;
    Uuid::parse_str(text).map_err(|error| unreadable(column, error))
}

pub(in crate::ledger) fn period_column(row: &Row<'_>, column: usize) -> sql::Result<BillingPeriod> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error: String| unreadable(column, error))
}
