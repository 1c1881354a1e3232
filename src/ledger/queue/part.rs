//! Readings as they wait: many in one row, as JSON; each an array, because names would be longer than what they name. It is one
//! form in a host's own file, on the way to a shared ledger, and in the queue of the ledger that counts them.
//!
//! What is read of a queue was checked when it was put there; what comes from a host is checked by `packed_run`.

use serde::{Deserialize, Serialize, Serializer};

use super::labels_text;
use crate::ledger::db::columns::micros;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::metering::reading::{Reading, Span};

/// Readings in one part.
pub(in crate::ledger) const READINGS_IN_A_PART: usize = if cfg!(test) { 3 } else { 1_000 };

/// A reading as it is queued: an array of these, in this order, the last four only where it has one of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::ledger) struct Queued {
    pub(in crate::ledger) name: String,
    pub(in crate::ledger) kind: String,
    pub(in crate::ledger) value: String,
    pub(in crate::ledger) at: i64,
    pub(in crate::ledger) labels: String,
    /// 0: an instant.
    pub(in crate::ledger) start: i64,
    pub(in crate::ledger) id: String,
    #[serde(default)]
    pub(in crate::ledger) unit: Option<String>,
    #[serde(default)]
    pub(in crate::ledger) epoch: Option<String>,
    #[serde(default)]
    pub(in crate::ledger) began: Option<i64>,
    #[serde(default)]
    pub(in crate::ledger) shared: bool,
}

impl Serialize for Queued {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Queued { name, kind, value, at, labels, start, id, unit, epoch, began, shared } = self;
        match (unit, epoch, began, shared) {
            (None, None, None, false) => (name, kind, value, at, labels, start, id).serialize(serializer),
            _ => (name, kind, value, at, labels, start, id, unit, epoch, began, shared).serialize(serializer),
        }
    }
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
            at: micros(at),
            labels: labels_text(&reading.labels),
            start,
            id: reading.id.unwrap_or_default(),
            unit: reading.unit,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_an_array_and_may_end_behind_its_id() {
        let plain = Queued {
            name: "cpu_seconds".to_owned(),
            kind: "delta".to_owned(),
            value: "1.5".to_owned(),
            at: 7,
            labels: "{}".to_owned(),
            start: 0,
            id: String::new(),
            unit: None,
            epoch: None,
            began: None,
            shared: false,
        };
        let job = Queued { start: 3, id: "1/cpu".to_owned(), ..plain.clone() };
        let counter = Queued { epoch: Some("a".to_owned()), began: Some(2), shared: true, ..plain.clone() };
        for (queued, text) in [
            (plain, r#"["cpu_seconds","delta","1.5",7,"{}",0,""]"#),
            (job, r#"["cpu_seconds","delta","1.5",7,"{}",3,"1/cpu"]"#),
            (counter, r#"["cpu_seconds","delta","1.5",7,"{}",0,"",null,"a",2,true]"#),
        ] {
            assert_eq!(serde_json::to_string(&queued).unwrap(), text);
            assert_eq!(serde_json::from_str::<Queued>(text).unwrap(), queued);
        }
    }
}
