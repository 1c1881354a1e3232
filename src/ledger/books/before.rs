//! What is known of a collector's earlier runs when one is counted, because it decides what that one's readings add: when it
//! was looked before, how long a gap is, and whether the same machine looked. It is kept with the run.

use jiff::{SignedDuration, Timestamp};

use super::identity::Head;
use super::quantities::{RunRow, bearings};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, params};
use crate::metering::measure::RunFacts;

/// How many of a collector's runs say what its usual distance is.
const RECENT_RUNS: usize = 11;

/// An earlier run of the collector, by the same agent.
struct Earlier {
    at: i64,
    lists_everything: bool,
    scope: String,
    is_complete: bool,
    withheld: String,
    file: Option<String>,
    anew: Option<i64>,
}

/// What is known now of the collector's earlier runs.
pub(super) fn facts(
    connection: &Connection,
    run: &Head,
    planned: &[(String, SignedDuration)],
) -> sql::Result<RunRow> {
    let mut query = connection.prepare_cached(
        "SELECT at, lists_everything, scope, outcome = 'ok' AND quarantined = 0, withheld, file, anew FROM run
         WHERE collector = ?1 AND agent = ?4 AND outcome <> 'failed' AND at < ?2 AND counted = 1
         ORDER BY at DESC LIMIT ?3",
    )?;
    let earlier: Vec<Earlier> = query
        .query_map(params![run.collector, micros(run.at), (RECENT_RUNS - 1) as i64, run.agent], |row| {
            Ok(Earlier {
                at: row.get(0)?,
                lists_everything: row.get(1)?,
                scope: row.get(2)?,
                is_complete: row.get(3)?,
                withheld: row.get(4)?,
                file: row.get(5)?,
                anew: row.get(6)?,
            })
        })?
        .collect::<sql::Result<_>>()?;
    let usual = usual_gap(micros(run.at), &earlier);
    let planned = planned.iter().find(|(name, _)| *name == run.collector).map(|(_, gap)| *gap);
    let max_gap = usual.max(planned);
    // A host that was installed anew or put back, or another machine under its name, has another file. What was not there
    // when the former one looked may have been here for long.
    let is_ours = |before: &&Earlier| match (&before.file, &run.file) {
        (Some(before), Some(file)) => before == file,
        _ => true,
    };
    let ours: Vec<&Earlier> = earlier.iter().take_while(is_ours).collect();
    let anew = match (earlier.first(), ours.first()) {
        (Some(_), None) => Some(run.at),
        (_, before) => before.and_then(|before| before.anew.map(instant)),
    };
    let of = |found: Option<&&Earlier>| RunFacts {
        previous: found.map(|before| instant(before.at)),
        listed: found
            .filter(|before| before.lists_everything && before.scope == run.scope)
            .map(|before| instant(before.at)),
        max_gap,
        anew,
    };
    let (last, complete) = (of(ours.first()), of(ours.iter().find(|before| before.is_complete)));
    let doubtful = ours.first().map_or("[]", |before| before.withheld.as_str());
    connection
        .prepare_cached(
            "UPDATE run SET previous = ?2, listed = ?3, previous_complete = ?4, listed_complete = ?5, max_gap = ?6,
                            doubtful = ?7, anew = ?8 WHERE id = ?1",
        )?
        .execute(params![
            run.id,
            last.previous.map(micros),
            last.listed.map(micros),
            complete.previous.map(micros),
            complete.listed.map(micros),
            max_gap.map(|gap| gap.as_micros() as i64),
            doubtful,
            anew.map(micros)
        ])?;
    if anew == Some(run.at) {
        let words = format!(
            "the collector {} of the host {} goes on from another file: the host was installed anew or put back, or it is \
             another machine. Its counters begin there; what they had counted before is not billed",
            run.collector, run.agent
        );
        tell(connection, About::default(), EventKind::Lost, &words, run.at)?;
    }
    Ok(RunRow::new(last, complete, bearings(doubtful)))
}

/// Three times the usual distance of runs; `earlier`: the latest first.
fn usual_gap(at: i64, earlier: &[Earlier]) -> Option<SignedDuration> {
    let mut at = at;
    let mut distances: Vec<i64> = Vec::new();
    for before in earlier {
        distances.push(at - before.at);
        at = before.at;
    }
    distances.sort_unstable();
    // Two distances are the least that can be called usual; before, the schedule says.
    match distances.as_slice() {
        [] | [_] => None,
        distances => Some(SignedDuration::from_micros(3 * distances[distances.len() / 2])),
    }
}

/// When a run that is already counted ended, if that was after this one began. Then the order of their instants is not the
/// order in which they looked.
pub(super) fn ended_later(connection: &Connection, run: &Head) -> sql::Result<Option<Timestamp>> {
    connection
        .prepare_cached(
            "SELECT max(finished) FROM run
             WHERE collector = ?1 AND agent = ?2 AND finished > ?3 AND outcome <> 'failed' AND id < ?4",
        )?
        .query_row(params![run.collector, run.agent, micros(run.at), run.id], |row| {
            Ok(row.get::<_, Option<i64>>(0)?.map(instant))
        })
}
