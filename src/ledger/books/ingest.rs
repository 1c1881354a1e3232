//! Queued runs become part of the books: their readings, and what follows from them.
//!
//! Counting a run is one transaction, and may be repeated or put off: it asks nothing but the ledger. A reading seen again
//! changes nothing; seen again in a later run with another value it replaces what was there and is counted as a correction
//! (law 2). It never judges whether a value is plausible; `metering` and the collectors do.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::before;
use super::changed;
use super::count::{self, Changed, SeriesChanges};
use super::identity::{Head, Queued, ReadingOutcome, Store, ends_of, take_former_ids, withheld};
use super::quantities::RunRow;
use super::reach::Reach;
use super::unstated::{changed_components, counted_from};
use crate::collectors::Quarantined;
use crate::collectors::spool::Spool;
use crate::ledger::db::clock::{CLOCKS_AGREE, skew_of_run};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
pub use crate::ledger::queue::{Run, RunOutcome, Seen};
use crate::ledger::queue::{keep_quarantined, know, part};

/// What a run changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    pub readings: usize,
    /// Readings that were not known before.
    pub new: usize,
    /// Readings whose value, interval or labels replaced known ones.
    pub corrected: usize,
    /// Readings for months that are compacted and can't be counted any more: recorded.
    pub late: usize,
    pub quarantined: Vec<Quarantined>,
    pub problems: Vec<String>,
    pub failed: Option<String>,
    /// Lines and values that could not be read, where it failed for that and keeps none of them.
    pub refused: usize,
    /// It saw nothing at all for the second time, so that what there was has ended.
    pub fell_silent: bool,
    /// Components of resources' months that may have changed.
    pub restated: usize,
}

impl Recorded {
    /// What is known of a run before it is counted; `more`: how many readings it has beside its own.
    pub fn of(run: &Run, more: usize) -> Recorded {
        match &run.outcome {
            RunOutcome::Failed(message) => Recorded { failed: Some(message.clone()), ..Recorded::default() },
            RunOutcome::Seen(Seen { readings, quarantined, problems, .. }) => Recorded {
                readings: readings.len() + more,
                quarantined: quarantined.clone(),
                problems: problems.iter().map(|problem| problem.text.clone()).collect(),
                ..Recorded::default()
            },
        }
    }

    /// Whether the collector failed, wholly or in part.
    pub fn is_failure(&self) -> bool {
        self.failed.is_some() || !self.problems.is_empty()
    }
}

/// Runs that are counted before other work has its turn.
const COUNTED_TOGETHER: usize = 50;

impl Ledger {
    /// Appends a run to the queue, and counts it and all that waited before it.
    pub fn record(&mut self, run: Run) -> Result<Recorded, LedgerError> {
        self.record_all(run, &mut Spool::default())
    }

    /// Like `record`, of a run with more readings than memory should hold.
    pub fn record_all(&mut self, run: Run, more: &mut Spool) -> Result<Recorded, LedgerError> {
        let before = Recorded::of(&run, more.len());
        if before.failed.is_some() || self.only_appends {
            self.append(run, more)?;
            return Ok(before);
        }
        let refused = before.quarantined;
        let number = self.append(run, more)?;
        let mut recorded = Recorded::default();
        while let Some((run, counted)) = self.count_next()? {
            if run == number {
                recorded = counted;
            }
        }
        recorded.quarantined.splice(0..0, refused);
        Ok(recorded)
    }

    /// Counts all runs that are queued, in the order in which they came; each in a transaction of its own. Those that hosts
    /// have sent are taken into the queue first.
    pub fn count_queued(&mut self) -> Result<(), LedgerError> {
        while self.count_some()? {}
        Ok(())
    }

    /// Counts some of what is queued, so that other work has its turn; returns whether there may be more.
    pub fn count_some(&mut self) -> Result<bool, LedgerError> {
        let (taken, since) = self.take_arrived()?;
        for (agent, collector, since) in since {
            self.transact(|connection, in_force| {
                note_since(connection, in_force, (&agent, &collector), since)
            })?;
        }
        for _ in 0..COUNTED_TOGETHER {
            if self.count_next()?.is_none() {
                return Ok(taken > 0);
            }
        }
        Ok(true)
    }

    /// Counts all that is queued, and says what became of a run of this agent's that has been sent here.
    pub fn count_sent(&mut self, run: &Run, sent: Recorded) -> Result<Recorded, LedgerError> {
        self.count_queued()?;
        let counted = self.look(|connection| {
            connection
                .query_row(
                    "SELECT readings, changed FROM run WHERE collector = ?1 AND agent = ?2 AND at = ?3
                     ORDER BY id DESC LIMIT 1",
                    params![run.collector, self.agent, micros(run.at)],
                    |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
                )
                .optional()
        })?;
        let number = |number: i64| usize::try_from(number).unwrap_or(0);
        Ok(match counted {
            Some((readings, new)) => Recorded { readings: number(readings), new: number(new), ..sent },
            None => sent,
        })
    }

    /// Counts one run. What it says may be such that it can't be counted: then it has failed, others go on, and its readings
    /// stay in the queue for somebody to look at.
    fn count_next(&mut self) -> Result<Option<(i64, Recorded)>, LedgerError> {
        let planned = self.planned_gaps();
        let mut uncountable = None;
        let counted = self.transact(|connection, in_force| {
            let next: Option<i64> = connection
                .prepare_cached("SELECT id FROM run WHERE counted = 0 ORDER BY id LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(run) = next else { return Ok(None) };
            let recorded = count_run(connection, in_force, run, &planned).inspect_err(|error| {
                uncountable = error.is_of_the_data().then(|| (run, error.to_string()));
            })?;
            crate::fail_point("before a count is committed");
            Ok(Some((run, recorded)))
        });
        match uncountable {
            Some((run, why)) if self.is_between_transactions() => {
                let why = self.transact(|connection, _| set_aside(connection, run, &why))?;
                Ok(Some((run, Recorded { failed: Some(why), ..Recorded::default() })))
            }
            _ => counted,
        }
    }

    /// Where nothing is said and few runs are known, how long a gap is, by collector.
    fn planned_gaps(&self) -> Vec<(String, SignedDuration)> {
        let rules = self.rulebook.rules.iter();
        rules.filter_map(|rules| Some((rules.collector.clone(), rules.default_max_gap?))).collect()
    }

    /// Gives back the memory that a run or a cycle needed for a while: what was looked at once need not stay for weeks.
    pub fn release_memory(&self) -> Result<(), LedgerError> {
        self.look(|connection| connection.shrink_memory())
    }

    /// Counts all that is queued and a run after it, looks at what the ledger then says, and takes it all back.
    pub fn rehearse_and<T>(
        &mut self,
        run: Run,
        more: &mut Spool,
        look: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<(Recorded, T), LedgerError> {
        self.rehearse(|ledger| {
            let recorded = ledger.record_all(run, more)?;
            // A run that failed is counted by nobody, what waited before it is.
            ledger.count_queued()?;
            Ok((recorded, look(ledger)?))
        })
    }

    /// Notes from where a collector is read, if that is earlier than all before, and returns from where it is to be read
    /// now: until it has succeeded once, from the earliest.
    pub fn reads_from(&mut self, collector: &str, since: Timestamp) -> Result<Timestamp, LedgerError> {
        let agent = self.agent.clone();
        self.transact(|connection, in_force| {
            let earlier = note_since(connection, in_force, (&agent, collector), since)?;
            let succeeded = connection
                .prepare("SELECT 1 FROM run WHERE collector = ?1 AND agent = ?2 AND outcome <> 'failed'")?
                .exists([collector, &agent])?;
            Ok(earlier.filter(|earlier| !succeeded && *earlier < since).unwrap_or(since))
        })
    }
}

/// Notes from where a collector is read, if that is earlier than all before; returns from where it was before.
pub(super) fn note_since(
    connection: &Connection,
    in_force: &InForce,
    (agent, collector): (&str, &str),
    since: Timestamp,
) -> sql::Result<Option<Timestamp>> {
    know(connection, agent, collector)?;
    let earlier: Option<Timestamp> = connection
        .query_row("SELECT since FROM collector WHERE name = ?1 AND agent = ?2", [collector, agent], |row| {
            row.get(0)
        })
        .optional()?
        .flatten()
        .map(instant);
    if earlier.is_none_or(|earlier| since < earlier) {
        connection.execute(
            "UPDATE collector SET since = ?3 WHERE name = ?1 AND agent = ?2",
            params![collector, agent, micros(since)],
        )?;
        if earlier.is_some() {
            changed_components(connection, counted_from(connection, in_force, collector, since)?)?;
        }
    }
    Ok(earlier)
}

/// Notes that a run that can't be counted has failed.
fn set_aside(connection: &Connection, run: i64, why: &str) -> sql::Result<String> {
    let (agent, collector, finished): (String, String, i64) = connection
        .prepare_cached("SELECT agent, collector, finished FROM run WHERE id = ?")?
        .query_row([run], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let host = if agent.is_empty() { String::new() } else { format!(" of the host {agent}") };
    let words = format!(
        "run {run} of the collector {collector}{host} can't be counted and is set aside, its readings are not billed: {why}"
    );
    connection
        .prepare_cached("UPDATE run SET counted = 1, outcome = 'failed', message = ?2 WHERE id = ?1")?
        .execute(params![run, words])?;
    tell(connection, About::default(), EventKind::Readings, &words, instant(finished))?;
    Ok(words)
}

/// Counts a queued run.
fn count_run(
    connection: &Connection,
    in_force: &InForce,
    id: i64,
    planned: &[(String, SignedDuration)],
) -> sql::Result<Recorded> {
    let mut recorded = Recorded::default();
    let (collector, at, finished, scope, kept, message, agent, superseded, skew, history, file) = connection
        .prepare_cached(
            "SELECT collector, at, finished, scope, withheld, message, agent, superseded, skew, history,
                    file
             FROM run WHERE id = ?",
        )?
        .query_row([id], |row| {
            Ok((
                row.get::<_, String>(0)?,
                instant(row.get(1)?),
                instant(row.get(2)?),
                row.get::<_, String>(3)?,
                row.get::<_, String>(4)?,
                row.get::<_, Option<String>>(5)?,
                row.get::<_, String>(6)?,
                row.get::<_, bool>(7)?,
                row.get::<_, Option<i64>>(8)?,
                row.get::<_, String>(9)?,
                row.get::<_, Option<String>>(10)?,
            ))
        })?;
    recorded.problems.extend(message);
    let mut run = Head {
        id,
        agent,
        file,
        superseded,
        collector,
        at,
        finished,
        withheld: withheld(&kept),
        known: RunRow::default(),
        scope,
        change: None,
        history: serde_json::from_str(&history).unwrap_or_default(),
    };
    if !superseded {
        let whose = (run.agent.as_str(), run.collector.as_str());
        run.change = changed::Change::of(connection, in_force, whose, (id, at, &run.scope))?;
    }
    run.known = before::facts(connection, &run, planned)?;
    let ended_later = before::ended_later(connection, &run)?;
    if let Some(ended) = ended_later {
        let problem = format!(
            "the run began at {}, but an earlier run of this collector ended at {ended}: the clock was set back, or two \
             ran at once. What it saw of the moment is not used, because a counter would seem to have been reset; \
             counters catch up with the first run after {ended}",
            run.at
        );
        recorded.problems.push(problem);
    }
    let skew = skew_of_run(connection, run.at, skew)?;
    let unsure = skew.and_then(|skew| unsure_of_month(in_force, &run, skew));
    let mut changed = Changed::new();
    let mut touched = SeriesChanges::default();
    let mut late: Option<String> = None;
    take_former_ids(connection, &run)?;
    let mut store = Store::new(connection, in_force, &run)?;
    let mut reach = Reach::of(connection, in_force, &run)?;
    let mut next = part::after(connection, id, 0)?;
    // However many there are, memory holds only so many: amounts are the same in whatever batches they come.
    while let Some((number, readings)) = next {
        let mut some: Vec<Queued> = readings.into_iter().map(Queued::from).collect();
        some.retain(|queued| {
            let is_out = (unsure.is_some() || ended_later.is_some()) && queued.is_momentary(&run);
            if let Some(window) = unsure.as_ref().filter(|_| is_out) {
                recorded.quarantined.push(queued.quarantined(window.clone()));
            }
            !is_out
        });
        store.look_up(&some)?;
        for queued in some {
            let reaches = queued.used().filter(|used| reach.is_too_far(queued.name(), *used));
            match store.put(queued, &mut touched)? {
                ReadingOutcome::New => {
                    recorded.new += 1;
                    reaches.into_iter().for_each(|(began, _)| reach.note(began));
                }
                ReadingOutcome::Corrected => recorded.corrected += 1,
                ReadingOutcome::Late(what) => {
                    recorded.late += 1;
                    late.get_or_insert(what);
                }
                ReadingOutcome::Same => {}
                ReadingOutcome::Refused(bad) => {
                    recorded.quarantined.push(bad);
                    continue;
                }
            }
            recorded.readings += 1;
        }
        store.keep()?;
        next = part::after(connection, id, number)?;
        if next.is_none() {
            break;
        }
        count::update(connection, in_force, &touched, &mut changed)?;
        touched = SeriesChanges::default();
        store.counted();
    }
    if let Some(what) = late {
        let words = format!(
            "{} of the collector {} came for months whose readings are no longer kept, and are not counted: {what}. \
             What they change is to be billed by hand; a longer `retention` keeps months open for them",
            match recorded.late {
                1 => "1 reading".to_owned(),
                number => format!("{number} readings"),
            },
            run.collector
        );
        let running = in_force.zone.period_of(run.finished).to_string();
        tell(
            connection,
            About { period: &running, ..About::default() },
            EventKind::Held,
            &words,
            run.finished,
        )?;
    }
    reach.tell(connection, in_force, &run)?;
    let levels = store.take_levels();
    store.look_up(&levels)?;
    for level in levels {
        store.put(level, &mut touched)?;
    }
    let replaced = store.replace_unseen(&mut touched)?;
    store.end_former(&mut touched)?;
    store.keep()?;
    store.tell_of_lives()?;
    tell_of_change(connection, &run, &replaced, store.settled())?;
    let ends = ends_of(connection, id)?;
    // A reading that is refused here is no sign that its series has ended.
    if ended_later.is_none() && unsure.is_none() && recorded.quarantined.is_empty() && !superseded {
        store.end_unseen(&ends, &mut touched)?;
    }
    for (name, ends) in &ends {
        for (labels, at) in ends {
            store.end(name, labels, *at, &mut touched)?;
        }
    }
    store.keep()?;
    count::update(connection, in_force, &touched, &mut changed)?;
    if 2 * store.alike() > recorded.new {
        let words = format!(
            "{} of {} new readings of the collector {} say what earlier ones said under other ids: if its ids have \
             changed their form, the same usage is counted twice",
            store.alike(),
            recorded.new,
            run.collector
        );
        tell(connection, About::default(), EventKind::Readings, &words, run.finished)?;
    }
    recorded.restated = changed_components(connection, changed)?;
    keep_quarantined(connection, (&run.agent, &run.collector), run.at, &recorded.quarantined)?;
    let outcome = if recorded.problems.is_empty() { "ok" } else { "partial" };
    connection
        .prepare_cached(
            "UPDATE run SET counted = 1, outcome = ?2, message = ?3, readings = ?4, changed = ?5,
                            quarantined = quarantined + ?6 WHERE id = ?1",
        )?
        .execute(params![
            id,
            outcome,
            (!recorded.problems.is_empty()).then(|| recorded.problems.join("; ")),
            recorded.readings as i64,
            (recorded.new + recorded.corrected) as i64,
            recorded.quarantined.len() as i64
        ])?;
    if let Some(skew) = skew.filter(|_| unsure.is_some()) {
        // By the server's clock, so that runs of a clock that is set right are not taken for earlier ones.
        connection
            .prepare_cached("UPDATE run SET at = at + ?2, finished = finished + ?2 WHERE id = ?1")?
            .execute([id, skew.as_micros() as i64])?;
    }
    for table in ["queued", "queued_end"] {
        connection.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?"))?.execute([id])?;
    }
    Ok(recorded)
}

/// Tells what has become of readings since what their collector asks for was changed.
fn tell_of_change(
    connection: &Connection,
    run: &Head,
    replaced: &[(String, usize)],
    settled: &BTreeSet<String>,
) -> sql::Result<()> {
    let Some(change) = run.change else { return Ok(()) };
    let asked = format!("what the collector {} asks for (its query or request) was changed", run.collector);
    let replaced_by = replaced.iter().map(|(name, readings)| {
        format!("{asked}: {readings} readings of `{name}` are replaced by what was read again")
    });
    let goes_on = run.history.keys().filter(|_| change.is_new).map(|name| {
        let read_to = instant(change.read_to);
        format!("{asked}: `{name}` counts by it from {read_to} on, and before as far as it is read again as a whole")
    });
    let stays = settled.iter().filter(|name| !change.is_new || !run.history.contains_key(*name)).map(|name| {
        let before = instant(if run.history.contains_key(name) { change.read_to } else { change.settled });
        format!("{asked}: of before {before}, what was counted of `{name}` stays, also where it says something else now")
    });
    for words in replaced_by.chain(goes_on).chain(stays) {
        let is_told = connection
            .prepare_cached("SELECT 1 FROM event WHERE kind = ?1 AND words = ?2")?
            .exists(params![EventKind::Readings.name(), words])?;
        if !is_told {
            tell(connection, About::default(), EventKind::Readings, &words, run.finished)?;
        }
    }
    Ok(())
}

/// Why it is not sure in which month a run looked: its clock and the server's disagree (by so much) by more than the distance
/// to the month's boundary.
fn unsure_of_month(in_force: &InForce, run: &Head, skew: SignedDuration) -> Option<String> {
    if skew.abs() <= CLOCKS_AGREE {
        return None;
    }
    let at = run.at.saturating_add(skew).unwrap_or(run.at);
    let (ours, theirs) = (in_force.zone.period_of(run.at), in_force.zone.period_of(at));
    (ours != theirs).then(|| {
        format!(
            "{}'s clock says {}, the server's {at}: it is not sure whether it was used in {ours} or in {theirs}. \
             Set the clock right; what a counter rose is counted with the next reading",
            if run.agent.is_empty() { "this machine" } else { &run.agent },
            run.at
        )
    })
}
