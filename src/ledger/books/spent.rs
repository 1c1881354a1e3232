//! Readings that are no longer kept: their identities, so that history which is read again never counts twice, and what is
//! needed to take back what a delta added. It never counts anything.

use uuid::Uuid;

use super::row::Row;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};

/// A reading that is no longer kept, with the series that it was counted in.
pub(super) fn find(
    connection: &Connection,
    owner: (i64, &str),
    series: i64,
    row: &Row,
) -> sql::Result<Option<(i64, CompactedReading)>> {
    if row.id.is_empty() {
        return connection
            .prepare_cached(
                "SELECT value FROM compacted_sample WHERE series = ?1 AND at = ?2 AND start = ?3",
            )?
            .query_row([series, row.at, row.start], |found| {
                Ok((series, CompactedReading(Row { value: found.get(0)?, ..row.clone() })))
            })
            .optional();
    }
    connection
        .prepare_cached(
            "SELECT series, at, start, value FROM compacted_id WHERE identity = ?1 AND agent = ?2",
        )?
        .query_row(params![identity(owner.0, &row.id), owner.1], |found| {
            let (at, start, value) = (found.get(1)?, found.get(2)?, found.get(3)?);
            Ok((found.get(0)?, CompactedReading(Row { at, start, value, ..row.clone() })))
        })
        .optional()
}

/// What is left of a reading.
#[derive(Debug, Clone)]
pub(super) struct CompactedReading(Row);

impl CompactedReading {
    /// Whether a reading says the same.
    pub(super) fn is_same(&self, row: &Row) -> bool {
        (self.0.at, self.0.start, &self.0.value) == (row.at, row.start, &row.value)
    }

    pub(super) fn into_row(self) -> Row {
        self.0
    }

    pub(super) fn row(&self) -> &Row {
        &self.0
    }
}

/// Keeps the identity of a reading that goes.
pub(super) fn spend(
    connection: &Connection,
    (owner, series): ((i64, &str), i64),
    (at, start, id, value): (i64, i64, &str, &str),
) -> sql::Result<()> {
    if id.is_empty() {
        connection
            .prepare_cached(
                "INSERT INTO compacted_sample (series, at, start, value) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (series, at, start) DO UPDATE SET value = ?4",
            )?
            .execute(params![series, at, start, value])?;
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO compacted_id (identity, series, at, start, value, agent) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (identity, agent) DO UPDATE SET series = ?2, at = ?3, start = ?4, value = ?5",
        )?
        .execute(params![identity(owner.0, id), series, at, start, value, owner.1])?;
    connection
        .prepare_cached("DELETE FROM identity WHERE source = ?1 AND id = ?2 AND agent = ?3")?
        .execute(params![owner.0, id, owner.1])?;
    Ok(())
}

/// A reading that is counted otherwise from now on, and kept.
pub(super) fn forget(connection: &Connection, owner: (i64, &str), series: i64, row: &Row) -> sql::Result<()> {
    if row.id.is_empty() {
        connection
            .prepare_cached("DELETE FROM compacted_sample WHERE series = ?1 AND at = ?2 AND start = ?3")?
            .execute([series, row.at, row.start])?;
    } else {
        connection
            .prepare_cached("DELETE FROM compacted_id WHERE identity = ?1 AND agent = ?2")?
            .execute(params![identity(owner.0, &row.id), owner.1])?;
    }
    Ok(())
}

/// Stable over versions of this program and of the compiler.
const NAMESPACE: Uuid = Uuid::from_u128(0x8a1f_6f0e_52a4_4c0f_9d0b_6c1d_2f7e_91b3);

/// The identity of a reading with an id of its own (law 2), wide enough that no two of an agent ever share it.
pub(super) fn identity(source: i64, id: &str) -> [u8; 16] {
    Uuid::new_v5(&NAMESPACE, format!("{source} {id}").as_bytes()).into_bytes()
}
