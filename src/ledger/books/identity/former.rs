//! A host that goes on under another name reads again what it read under the old one: by its ids, that is known for what it is. Its
//! file tells whose it was.

use super::Head;
use crate::ledger::db::sql::{self, Connection, params};

/// Gives the ids that a run's host had under its former names to its own. With its first run from this file.
pub(in crate::ledger::books) fn take_former_ids(connection: &Connection, run: &Head) -> sql::Result<()> {
    if run.file.is_none() || run.known.follows_another() {
        return Ok(());
    }
    for former in former_names(connection, run)? {
        connection.execute(
            "UPDATE identity SET agent = ?1
             WHERE agent = ?2 AND source IN (SELECT id FROM source WHERE collector = ?3) AND NOT EXISTS (
                SELECT 1 FROM identity own WHERE own.source = identity.source AND own.id = identity.id AND own.agent = ?1)",
            params![run.agent, former, run.collector],
        )?;
        connection.execute(
            "UPDATE compacted_id SET agent = ?1
             WHERE agent = ?2 AND series IN (
                SELECT series.id FROM series JOIN source ON source.id = series.source WHERE source.collector = ?3)
             AND NOT EXISTS (
                SELECT 1 FROM compacted_id own WHERE own.identity = compacted_id.identity AND own.agent = ?1)",
            params![run.agent, former, run.collector],
        )?;
    }
    Ok(())
}

/// As whom its host ran this collector before: it has sent from the same file, and is there no more.
fn former_names(connection: &Connection, run: &Head) -> sql::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT DISTINCT former.name FROM agent own
             JOIN agent former ON former.file = own.file AND former.name <> own.name
             WHERE own.name = ?1 AND former.retired IS NOT NULL AND EXISTS (
                SELECT 1 FROM run WHERE run.collector = ?2 AND run.agent = former.name AND run.file = former.file)
             ORDER BY 1",
        )?
        .query_map(params![run.agent, run.collector], |row| row.get(0))?
        .collect()
}
