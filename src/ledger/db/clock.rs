//! How far the server's clock is from ours, as it was last measured.

use jiff::{SignedDuration, Timestamp};

use super::columns::instant;
use super::sql::{self, Connection, OptionalExtension};

/// The server's clock minus ours, and when that was measured; `None` if it never was.
pub(in crate::ledger) fn skew(connection: &Connection) -> sql::Result<Option<(SignedDuration, Timestamp)>> {
    let measured: Option<(String, i64)> = connection
        .prepare_cached("SELECT value, at FROM server WHERE key = 'skew_us'")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(measured.and_then(|(text, at)| Some((SignedDuration::from_micros(text.parse().ok()?), instant(at)))))
}
