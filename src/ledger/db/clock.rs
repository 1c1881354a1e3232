//! How far clocks are from each other, as they were last measured: Waldur's, the database's, and those of hosts.

use jiff::{SignedDuration, Timestamp};

use super::columns::{instant, micros};
use super::server::NOW;
use super::sql::{self, Connection, OptionalExtension, params};
use super::{Ledger, LedgerError};

/// The fact that keeps how far the database's clock is from that of the agent that counts.
const DATABASE: &str = "database_skew_us";

/// The database's clock.
pub(in crate::ledger) fn of_database(connection: &Connection) -> sql::Result<Timestamp> {
    connection.query_row(&format!("SELECT {NOW}"), [], |row| row.get(0).map(instant))
}

impl Ledger {
    /// Measures how far the database's clock is from ours.
    pub fn measure_database_clock(&mut self, now: impl Fn() -> Timestamp) -> Result<(), LedgerError> {
        if self.place.file().is_some() {
            return Ok(());
        }
        self.transact(|connection, _| {
            let (theirs, ours) = (of_database(connection)?, now());
            let skew = theirs.duration_since(ours).as_micros().to_string();
            connection
                .execute(
                    "INSERT INTO server (key, value, at) VALUES (?1, ?2, ?3)
                     ON CONFLICT (key) DO UPDATE SET value = ?2, at = ?3",
                    params![DATABASE, skew, micros(ours)],
                )
                .map(drop)
        })
    }
}

/// Waldur's clock minus that of a host, and when Waldur's was measured: by way of the database's, which both have seen.
pub(in crate::ledger) fn skew_of(
    connection: &Connection,
    agent: &str,
) -> sql::Result<Option<(SignedDuration, Timestamp)>> {
    let Some((skew, measured)) = skew(connection)? else { return Ok(None) };
    let of_host: Option<i64> = connection
        .prepare_cached(
            "SELECT skew FROM agent WHERE name = ?1 AND name <> '' ORDER BY arrived DESC LIMIT 1",
        )?
        .query_row([agent], |row| row.get(0))
        .optional()?;
    let ours: Option<String> = connection
        .prepare_cached("SELECT value FROM server WHERE key = ?")?
        .query_row([DATABASE], |row| row.get(0))
        .optional()?;
    let between = of_host.zip(ours.and_then(|text| text.parse::<i64>().ok()));
    let between = between.map_or(0, |(host, ours)| host.saturating_sub(ours));
    Ok(Some((skew.saturating_add(SignedDuration::from_micros(between)), measured)))
}

/// The server's clock minus ours, and when that was measured; `None` if it never was.
pub(in crate::ledger) fn skew(connection: &Connection) -> sql::Result<Option<(SignedDuration, Timestamp)>> {
    let measured: Option<(String, i64)> = connection
        .prepare_cached("SELECT value, at FROM server WHERE key = 'skew_us'")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(measured.and_then(|(text, at)| Some((SignedDuration::from_micros(text.parse().ok()?), instant(at)))))
}
