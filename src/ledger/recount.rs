//! Law 3 on a real ledger: counts everything again from the readings and says where the kept numbers differed.

use jiff::Timestamp;
use rusqlite::Connection;

use super::ingest::Restate;
use super::{Ledger, LedgerError, Rulebook, adjustment, quantify, statements};

/// A kept number that a recount does not give.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    pub resource: String,
    pub period: String,
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub kept: Option<String>,
    pub recounted: Option<String>,
}

impl Ledger {
    /// Counts everything again and keeps the result. Returns what differed.
    pub fn recount_all(&mut self, now: Timestamp) -> Result<Vec<Difference>, LedgerError> {
        self.transact(|connection, rulebook| recount(connection, rulebook, now))
    }

    /// Counts everything again, says what differs, and takes it all back.
    pub fn recount_rehearsal(&mut self, now: Timestamp) -> Result<Vec<Difference>, LedgerError> {
        let path = self.path.clone();
        let wrap = |error| LedgerError::from_sqlite(&path, error);
        let transaction = self.connection.transaction().map_err(wrap)?;
        let differences = recount(&transaction, &self.rulebook, now).map_err(wrap)?;
        transaction.rollback().map_err(wrap)?;
        Ok(differences)
    }
}

type Lines = std::collections::BTreeMap<(String, String, String, String, i64), String>;

fn recount(
    connection: &Connection,
    rulebook: &Rulebook,
    now: Timestamp,
) -> rusqlite::Result<Vec<Difference>> {
    let before = lines(connection)?;
    let series: Vec<i64> = connection
        .prepare("SELECT id FROM series ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut restate = Restate::new();
    for series in series {
        quantify::recount(connection, rulebook, series, &mut restate)?;
    }
    restate.extend(adjustment::places(connection)?);
    statements::restate_all(connection, rulebook, &restate, now)?;
    let after = lines(connection)?;
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differs = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    Ok(differs
        .map(|key| Difference {
            resource: key.0.clone(),
            period: key.1.clone(),
            component: key.2.clone(),
            user: key.3.clone(),
            kept: before.get(key).cloned(),
            recounted: after.get(key).cloned(),
        })
        .collect())
}

fn lines(connection: &Connection) -> rusqlite::Result<Lines> {
    connection
        .prepare("SELECT resource, period, component, user, part, exact FROM line")?
        .query_map([], |row| {
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?), row.get(5)?))
        })?
        .collect()
}
