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

/// An amount as it is posted and compared: always two decimals.
pub(in crate::ledger) fn two_decimals(amount: Decimal) -> String {
    format!("{amount:.2}")
}

pub(in crate::ledger) fn decimal(text: Option<String>) -> Option<Decimal> {
    text.and_then(|text| text.parse().ok())
}

/// A posted amount in whole cents; they have at most 18 digits before the point.
pub(in crate::ledger) fn to_cents(amount: Decimal) -> i64 {
    let cents = amount.checked_mul(Decimal::ONE_HUNDRED).unwrap_or_default();
    i64::try_from(cents.trunc()).unwrap_or(if cents.is_sign_negative() { i64::MIN } else { i64::MAX })
}

pub(in crate::ledger) fn from_cents(cents: i64) -> Decimal {
    Decimal::new(cents, 2)
}

/// A row that is not as this program writes it.
pub(in crate::ledger) fn unreadable(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> sql::Error {
    sql::Error::unreadable(format!("column {column}: {}", error.into()))
}

pub(in crate::ledger) fn exact_column(row: &Row<'_>, column: usize) -> sql::Result<Exact> {
    row.get::<_, String>(column)?.parse().map_err(|error: String| unreadable(column, error))
}

pub(in crate::ledger) fn uuid_column(row: &Row<'_>, column: usize) -> sql::Result<Uuid> {
    let text: String = row.get(column)?;
    Uuid::parse_str(&text).map_err(|error| unreadable(column, error))
}

pub(in crate::ledger) fn period_column(row: &Row<'_>, column: usize) -> sql::Result<BillingPeriod> {
    row.get::<_, String>(column)?.parse().map_err(|error: String| unreadable(column, error))
}
