//! How far clocks are from each other, as they were last measured: Waldur's, the database's, and those of hosts.

use jiff::{SignedDuration, Timestamp};

use super::columns::{instant, micros};
use super::server::NOW;
use super::sql::{self, Connection, OptionalExtension, params};
use super::{Ledger, LedgerError};

/// The fact that keeps how far the database's clock is from that of the agent that counts, and that agent's name.
const DATABASE: &str = "database_skew_us";

/// Two clocks that agree may be so far apart.
pub const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(60);

/// What is recorded for a time so far ahead of two clocks that agree was recorded by a wrong one.
pub(in crate::ledger) const AHEAD: SignedDuration = SignedDuration::from_mins(10);

/// A distance that differs by less is the same, in microseconds.
const SAME: u64 = 1_000_000;

/// The database's clock.
pub(in crate::ledger) fn of_database(connection: &Connection) -> sql::Result<Timestamp> {
    connection.query_row(&format!("SELECT {NOW}"), [], |row| row.get(0).map(instant))
}

impl Ledger {
    /// Measures how far the database's clock is from ours, and keeps it where that has changed.
    pub fn measure_database_clock(
        &mut self,
        agent: &str,
        now: impl Fn() -> Timestamp,
    ) -> Result<(), LedgerError> {
        if self.place.file().is_some() {
            return Ok(());
        }
        let (skew, ours, known) = self.look(|connection| {
            let (theirs, ours) = (of_database(connection)?, now());
            Ok((theirs.duration_since(ours), ours, of_counting(connection)?))
        })?;
        let skew = skew.as_micros() as i64;
        if known.is_some_and(|(name, known)| name == agent && known.abs_diff(skew) < SAME) {
            return Ok(());
        }
        self.transact(|connection, _| {
            let skew = format!("{skew} {agent}");
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

/// How long the distance of two clocks is believed.
const MEASURED_FOR: SignedDuration = SignedDuration::from_hours(4);

/// Waldur's clock minus that of a host when it made a run: by way of the database's, which all have seen. `made`: the
/// database's clock less the host's then, where it is known; else the newest is as good as any, for a while.
pub(in crate::ledger) fn skew_of_run(
    connection: &Connection,
    (agent, at): (&str, Timestamp),
    made: Option<i64>,
) -> sql::Result<Option<SignedDuration>> {
    let Some((skew, measured)) = skew(connection)? else { return Ok(None) };
    if let Some((made, (_, ours))) = made.zip(of_counting(connection)?) {
        return Ok(Some(skew.saturating_add(SignedDuration::from_micros(made.saturating_sub(ours)))));
    }
    // What was measured by another setting of the clock says nothing of this run.
    if at.duration_since(measured).abs() >= MEASURED_FOR {
        return Ok(None);
    }
    let of_host: Option<i64> = connection
        .prepare_cached(
            "SELECT skew FROM agent WHERE name = ?1 AND name <> '' ORDER BY arrived DESC LIMIT 1",
        )?
        .query_row([agent], |row| row.get(0))
        .optional()?;
    let between = match of_host.zip(of_counting(connection)?) {
        // Its clock is ours, whenever either was measured.
        Some((_, (name, _))) if name == agent => 0,
        Some((host, (_, ours))) => host.saturating_sub(ours),
        None => 0,
    };
    Ok(Some(skew.saturating_add(SignedDuration::from_micros(between))))
}

/// The agent that counts, and the database's clock less its own, in microseconds.
pub(in crate::ledger) fn of_counting(connection: &Connection) -> sql::Result<Option<(String, i64)>> {
    let kept: Option<String> = connection
        .prepare_cached("SELECT value FROM server WHERE key = ?")?
        .query_row([DATABASE], |row| row.get(0))
        .optional()?;
    Ok(kept.and_then(|text| {
        let (skew, agent) = text.split_once(' ')?;
        Some((agent.to_owned(), skew.parse().ok()?))
    }))
}

/// The server's clock minus ours, and when that was measured; `None` if it never was.
pub(in crate::ledger) fn skew(connection: &Connection) -> sql::Result<Option<(SignedDuration, Timestamp)>> {
    let measured: Option<(String, i64)> = connection
        .prepare_cached("SELECT value, at FROM server WHERE key = 'skew_us'")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(measured.and_then(|(text, at)| Some((SignedDuration::from_micros(text.parse().ok()?), instant(at)))))
}
