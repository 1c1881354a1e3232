//! For which reasons a component of a month is held no more (claims.rs): a person decided, or what the rules make is just what
//! Waldur holds. It judges nothing.

use jiff::Timestamp;

use crate::ledger::db::columns::micros;
use crate::ledger::db::sql::{self, Connection, params};

/// From now on it is not held for this reason; as long as the rules of its month are not changed.
pub(in crate::ledger) fn free(
    connection: &Connection,
    (resource, period, component): (&str, &str, &str),
    reason: &str,
    now: Timestamp,
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO freed (resource, period, component, reason, at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (resource, period, component, reason) DO UPDATE SET at = ?5",
        )?
        .execute(params![resource, period, component, reason, micros(now)])
        .map(drop)
}

/// Whether it is held for this reason no more; `recorded`: when the rules of its month were.
pub(super) fn is_freed(
    connection: &Connection,
    recorded: Timestamp,
    (resource, period, component): (&str, &str, &str),
    reason: &str,
) -> sql::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM freed WHERE resource = ?1 AND period = ?2 AND component = ?3 AND reason = ?4 AND at >= ?5",
        )?
        .exists(params![resource, period, component, reason, micros(recorded)])
}

/// The same of any resource.
pub(super) fn is_freed_anywhere(
    connection: &Connection,
    recorded: Timestamp,
    (period, component): (&str, &str),
    reason: &str,
) -> sql::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM freed WHERE period = ?1 AND component = ?2 AND reason = ?3 AND at >= ?4",
        )?
        .exists(params![period, component, reason, micros(recorded)])
}
