//! How far clocks are from each other, as they were last measured: Waldur's, the database's, and those of hosts.

use std::num::ParseIntError;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use super::columns::{instant, micros};
use super::server::NOW;
use super::sql::{self, Connection, OptionalExtension, params};
use super::{Ledger, LedgerError};
use crate::config::clock::{SharedClock, Steady};

/// The fact that keeps how far the database's clock is from that of the agent that counts, and, where that is known, since
/// when that one's machine is up: by which of its starts, and when by its clock.
const DATABASE: &str = "database_skew_us";

/// The fact that keeps how far Waldur's clock is from that of the agent that counts.
const WALDUR: &str = "skew_us";

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
    /// Measures how far the database's clock is from ours, and keeps it where that has changed. How far Waldur's is was
    /// measured by our clock as it then was: if that was set since, or another agent measured, it is told by the new one.
    pub fn measure_database_clock(&mut self, clock: &SharedClock) -> Result<(), LedgerError> {
        if self.place.file().is_some() {
            return Ok(());
        }
        let (now, ours, known, waldur) = self.look(|connection| {
            let (theirs, now, steady) = (of_database(connection)?, clock.now(), clock.steady());
            let booted = steady.map(|Steady { boot, up }| (boot, micros(now).saturating_sub(in_micros(up))));
            let ours = Ours { skew: in_micros(theirs.duration_since(now)), booted };
            Ok((now, ours, counting(connection)?, skew(connection)?))
        })?;
        if known.as_ref().is_some_and(|known| known.is_still(&ours)) {
            return Ok(());
        }
        let set = known.map_or(0, |known| ours.set_since(&known));
        self.transact(|connection, _| {
            put_fact(connection, DATABASE, &ours.to_string(), now)?;
            match waldur {
                Some((skew, measured)) if set != 0 => {
                    put_fact(connection, WALDUR, &in_micros(skew).saturating_sub(set).to_string(), measured)
                }
                _ => Ok(()),
            }
        })
    }
}

/// How long the distance of two clocks is believed.
const MEASURED_FOR: SignedDuration = SignedDuration::from_hours(4);

/// Waldur's clock minus that of a host when it made a run: by way of the database's, which all have seen. `made`: the
/// database's clock less the host's then. Where that is not known, the host's is taken to be ours, for a while.
pub(in crate::ledger) fn skew_of_run(
    connection: &Connection,
    at: Timestamp,
    made: Option<i64>,
) -> sql::Result<Option<SignedDuration>> {
    let Some((skew, measured)) = skew(connection)? else { return Ok(None) };
    if let Some((made, ours)) = made.zip(of_counting(connection)?) {
        return Ok(Some(skew.saturating_add(SignedDuration::from_micros(made.saturating_sub(ours)))));
    }
    // What was measured by another setting of the clock says nothing of this run.
    Ok((at.duration_since(measured).abs() < MEASURED_FOR).then_some(skew))
}

/// The database's clock less that of the agent that counts, in microseconds.
pub(in crate::ledger) fn of_counting(connection: &Connection) -> sql::Result<Option<i64>> {
    Ok(counting(connection)?.map(|ours| ours.skew))
}

fn counting(connection: &Connection) -> sql::Result<Option<Ours>> {
    let kept: Option<String> = connection
        .prepare_cached("SELECT value FROM server WHERE key = ?")?
        .query_row([DATABASE], |row| row.get(0))
        .optional()?;
    Ok(kept.and_then(|text| text.parse().ok()))
}

/// The clock of the agent that counts, beside the database's. In microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ours {
    /// The database's less it.
    skew: i64,
    /// Which start of its machine was the last, and when that was by it.
    booted: Option<(String, i64)>,
}

impl Ours {
    fn is_still(&self, now: &Ours) -> bool {
        let same = |one: i64, other: i64| one.abs_diff(other) < SAME;
        let booted = match (&self.booted, &now.booted) {
            (Some((boot, booted)), Some((of, at))) => boot == of && same(*booted, *at),
            (one, other) => one.is_none() && other.is_none(),
        };
        booted && same(self.skew, now.skew)
    }

    /// How far it is ahead of what it was: by how long the machine has been up; where it is another machine, or was started
    /// again, by the database's clock.
    fn set_since(&self, known: &Ours) -> i64 {
        match (&known.booted, &self.booted) {
            (Some((boot, booted)), Some((of, at))) if boot == of => at.saturating_sub(*booted),
            (_, Some(_)) => known.skew.saturating_sub(self.skew),
            (_, None) => 0,
        }
    }
}

impl std::fmt::Display for Ours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.booted {
            Some((boot, booted)) => write!(f, "{} {booted} {boot}", self.skew),
            None => write!(f, "{}", self.skew),
        }
    }
}

impl FromStr for Ours {
    type Err = ParseIntError;
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let mut parts = text.splitn(3, ' ');
        let skew = parts.next().unwrap_or_default().parse()?;
        let booted = match (parts.next(), parts.next()) {
            (Some(booted), Some(boot)) => Some((boot.to_owned(), booted.parse()?)),
            _ => None,
        };
        Ok(Ours { skew, booted })
    }
}

fn in_micros(time: SignedDuration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(if time.is_negative() { i64::MIN } else { i64::MAX })
}

fn put_fact(connection: &Connection, key: &str, value: &str, at: Timestamp) -> sql::Result<()> {
    connection
        .execute(
            "INSERT INTO server (key, value, at) VALUES (?1, ?2, ?3)
             ON CONFLICT (key) DO UPDATE SET value = ?2, at = ?3",
            params![key, value, micros(at)],
        )
        .map(drop)
}

/// The server's clock minus ours, and when that was measured; `None` if it never was.
pub(in crate::ledger) fn skew(connection: &Connection) -> sql::Result<Option<(SignedDuration, Timestamp)>> {
    let measured: Option<(String, i64)> = connection
        .prepare_cached("SELECT value, at FROM server WHERE key = ?")?
        .query_row([WALDUR], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(measured.and_then(|(text, at)| Some((SignedDuration::from_micros(text.parse().ok()?), instant(at)))))
}
