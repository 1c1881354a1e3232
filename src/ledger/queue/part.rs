//! Readings as they wait: many in one row, as JSON. It is one form in a host's own file, on the way to a shared ledger, and in
//! the queue of the ledger that counts them.
//!
//! What is read of a queue was checked when it was put there; what comes from a host is checked by `packed_run`.

use serde::{Deserialize, Serialize};

use super::labels_text;
use crate::ledger::db::columns::micros;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::metering::reading::{Reading, Span};

/// Readings in one part.
pub(in crate::ledger) const READINGS_IN_A_PART: usize = if cfg!(test) { 3 } else { 2_000 };

/// A reading as it is queued. What it has not is not written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::ledger) struct Queued {
    pub(in crate::ledger) name: String,
    pub(in crate::ledger) kind: String,
    pub(in crate::ledger) value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) unit: Option<String>,
    /// 0: an instant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(in crate::ledger) start: i64,
    pub(in crate::ledger) at: i64,
    pub(in crate::ledger) labels: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(in crate::ledger) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) epoch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::ledger) began: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::ledger) shared: bool,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl From<Reading> for Queued {
    fn from(reading: Reading) -> Queued {
        let (start, at) = match reading.span {
            Span::At(at) => (0, at),
            Span::Interval { start, end } => (micros(start), end),
        };
        Queued {
            name: reading.name,
            kind: reading.kind.name().to_owned(),
            // 1.50 and 1.5 are the same value.
            value: reading.value.normalize().to_string(),
            unit: reading.unit,
            start,
            at: micros(at),
            labels: labels_text(&reading.labels),
            id: reading.id.unwrap_or_default(),
            epoch: reading.epoch.id,
            began: reading.epoch.began.map(micros),
            shared: reading.epoch.shared,
        }
    }
}

/// Queues the readings of a run, one part after the other; memory holds one of them.
pub(super) struct Parts<'a> {
    connection: &'a Connection,
    run: i64,
    /// The number of the next part.
    next: i64,
    readings: usize,
    body: Vec<u8>,
}

impl<'a> Parts<'a> {
    pub(super) fn of(connection: &'a Connection, run: i64) -> Self {
        Parts { connection, run, next: 1, readings: 0, body: Vec::new() }
    }

    pub(super) fn push(&mut self, reading: Reading) -> sql::Result<()> {
        self.body.push(if self.readings == 0 { b'[' } else { b',' });
        serde_json::to_writer(&mut self.body, &Queued::from(reading)).map_err(sql::Error::unreadable)?;
        self.readings += 1;
        if self.readings == READINGS_IN_A_PART { self.end() } else { Ok(()) }
    }

    /// Queues what was put since the last part was.
    pub(super) fn end(&mut self) -> sql::Result<()> {
        if self.readings == 0 {
            return Ok(());
        }
        self.body.push(b']');
        let body = std::str::from_utf8(&self.body).map_err(sql::Error::unreadable)?;
        insert(self.connection, (self.run, self.next), body)?;
        self.next += 1;
        self.readings = 0;
        self.body.clear();
        Ok(())
    }
}

/// Queues a part.
pub(super) fn insert(connection: &Connection, (run, part): (i64, i64), body: &str) -> sql::Result<()> {
    connection
        .prepare_cached("INSERT INTO queued (run, part, readings) VALUES (?1, ?2, ?3)")?
        .execute(params![run, part, body])
        .map(drop)
}

/// The parts of a run, in order.
pub(super) fn bodies(connection: &Connection, run: i64) -> sql::Result<Vec<String>> {
    connection
        .prepare_cached("SELECT readings FROM queued WHERE run = ? ORDER BY part")?
        .query_map([run], |row| row.get(0))?
        .collect()
}

/// The readings of the first part after this one, with its number.
pub(in crate::ledger) fn after(
    connection: &Connection,
    run: i64,
    part: i64,
) -> sql::Result<Option<(i64, Vec<Queued>)>> {
    connection
        .prepare_cached(
            "SELECT part, readings FROM queued WHERE run = ?1 AND part > ?2 ORDER BY part LIMIT 1",
        )?
        .query_row([run, part], |row| {
            let readings = serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(sql::Error::unreadable)?;
            Ok((row.get(0)?, readings))
        })
        .optional()
}
