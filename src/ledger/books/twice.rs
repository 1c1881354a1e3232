//! Readings without ids that two agents seem to take of one source. What two hosts measure adds up, as it should; where they
//! read the same, it is counted twice. Those with ids tell it by those (`same_ids`), these by what can't be chance: several
//! values, or a life (its beginning, or a random id of it), that are the same under the same labels. It holds nothing: it is
//! a sign, no proof.

use jiff::{SignedDuration, Timestamp};

use crate::ledger::db::columns::micros;
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};

/// How far back it looks.
const WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// A value of so few characters may be the same by chance.
const SHORTEST: i64 = 4;
/// The id of a life that is so long has something random in it: of a machine's start, of a container.
const RANDOM: i64 = 32;
/// So many values that are the same are no chance.
const ENOUGH: i64 = 3;

/// The same readings of one collector, by two agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateSeries {
    pub collector: String,
    pub reading: String,
    /// Of one of the series.
    pub labels: String,
    pub agents: [String; 2],
}

impl std::fmt::Display for DuplicateSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let DuplicateSeries { collector, reading, labels, agents: [one, other] } = self;
        let one = if one.is_empty() { "the agent that runs it once for all" } else { one };
        write!(
            f,
            "the collector {collector} reads the same `{reading}` on {one} and on {other} (such as {labels}): if that is one \
             source, its usage is counted twice. Have one of them read it, or `once: true` under a new name"
        )
    }
}

impl Ledger {
    /// What two agents seem to read of one source, one of each collector and reading.
    pub fn duplicate_series(&self, now: Timestamp) -> Result<Vec<DuplicateSeries>, LedgerError> {
        if self.place().file().is_some() {
            return Ok(Vec::new());
        }
        self.look(|connection| twice(connection, now))
    }

    /// Collectors of which two agents have sent the same ids, each in a sentence.
    pub fn same_ids(&self) -> Result<Vec<String>, LedgerError> {
        let found: Vec<(String, String, String)> = self.look(|connection| {
            connection
                .prepare(
                    "SELECT source.collector, source.name, same_ids.id FROM same_ids
                     JOIN source ON source.id = same_ids.source WHERE same_ids.source = same_ids.other ORDER BY 1, 2",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        // One that was given another name is mended.
        let read = found.into_iter().filter(|(collector, ..)| self.rulebook.of(collector).is_some());
        let words = read.map(|(collector, name, id)| {
            format!(
                "`{name}` of the collector {collector} has come from two hosts with the same ids (such as `{id}`): what one source \
                 has is counted twice. Under a new name with `once: true` one of them reads it"
            )
        });
        Ok(words.collect())
    }

    /// Tells of what two agents seem to read of one source, once each.
    pub fn log_duplicate_series(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        let found = self.duplicate_series(now)?;
        if found.is_empty() {
            return Ok(());
        }
        self.transact(|connection, _| {
            for words in found.iter().map(DuplicateSeries::to_string) {
                if !connection.prepare("SELECT 1 FROM event WHERE words = ?")?.exists([&words])? {
                    tell(connection, About::default(), EventKind::Hosts, &words, now)?;
                }
            }
            Ok(())
        })
    }
}

fn twice(connection: &Connection, now: Timestamp) -> sql::Result<Vec<DuplicateSeries>> {
    let since = micros(now.saturating_sub(WITHIN).unwrap_or(Timestamp::MIN));
    connection
        .prepare(
            "WITH recent AS (
                SELECT series.source, series.labels, series.agent, reading.value, reading.began, reading.epoch,
                       CASE source.kind WHEN 'delta' THEN reading.at ELSE 0 END AS at, reading.start
                FROM reading JOIN series ON series.id = reading.series JOIN source ON source.id = series.source
                WHERE reading.at >= ?1 AND reading.value IS NOT NULL AND reading.id = ''),
             same AS (
                SELECT source, labels, value, min(agent) AS one, max(agent) AS other FROM recent
                WHERE length(value) >= ?2 
                GROUP BY source, labels, value, at, start HAVING count(DISTINCT agent) > 1),
             found AS (
                SELECT source, labels, one, other FROM same GROUP BY source, labels, one, other
                HAVING count(DISTINCT value) >= ?3
                UNION SELECT source, labels, min(agent), max(agent) FROM recent
                WHERE began IS NOT NULL GROUP BY source, labels, began HAVING count(DISTINCT agent) > 1
                UNION SELECT source, labels, min(agent), max(agent) FROM recent
                WHERE length(epoch) >= ?4 GROUP BY source, labels, epoch HAVING count(DISTINCT agent) > 1)
             SELECT source.collector, source.name, min(found.labels), min(one), min(other)
             FROM found JOIN source ON source.id = found.source
             GROUP BY source.collector, source.name ORDER BY source.collector, source.name",
        )?
        .query_map(params![since, SHORTEST, ENOUGH, RANDOM], |row| {
            Ok(DuplicateSeries {
                collector: row.get(0)?,
                reading: row.get(1)?,
                labels: row.get(2)?,
                agents: [row.get(3)?, row.get(4)?],
            })
        })?
        .collect()
}
