//! The shared ledger's side: runs that hosts have sent are taken into its queue, those of one file in their order. From there
//! on they are counted as any others.
//!
//! Only whoever may write the books takes them, and gives them the number by which they are counted: so the order in which
//! they were committed by their hosts does not matter. What can't be read stops nothing else: it is a run that failed.

use jiff::{SignedDuration, Timestamp};

use super::levels::{end_levels, former_names};
use super::packed_run::{INSTANTS, Manifest, check_part};
use super::{Head, NO_RUN, Spans, insert_end, insert_run, keep_quarantined, part};
use crate::collectors::{Bearing, Quarantined};
use crate::ledger::db::clock::of_database;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};

/// Hosts of which runs are taken in one transaction,
const HOSTS_AT_ONCE: i64 = 10;
/// and how many of each.
const OF_ONE_AT_ONCE: i64 = 5;

const ORPHANS_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A host's clock is believed not to have been set for so long.
const SENT_SOON: SignedDuration = SignedDuration::from_hours(4);

const QUIET: SignedDuration = SignedDuration::from_hours(24);

/// Where a run came from: agent, file and number.
type Origin = (String, String, i64);

/// From where a collector of an agent was first read, as a run tells it, where that is news.
pub(in crate::ledger) type Since = (String, String, Timestamp);

impl Ledger {
    /// Takes some of the runs that have arrived; returns how many, and from where their collectors were first read. None:
    /// there are no more.
    pub(in crate::ledger) fn take_arrived(&mut self) -> Result<(usize, Vec<Since>), LedgerError> {
        if self.place().file().is_some() {
            return Ok((0, Vec::new()));
        }
        let mut arrived = self.look(arrived)?;
        // What says that a name is taken twice is noted beside whoever has it.
        arrived.sort_by_key(|(_, _, number)| *number == NO_RUN);
        if arrived.is_empty() {
            return Ok((0, Vec::new()));
        }
        let mut is_of_the_data = false;
        let together = self.transact(|connection, _| {
            let mut since = Vec::new();
            for origin in &arrived {
                let taken = take(connection, origin, None);
                since.extend(taken.inspect_err(|error| is_of_the_data = error.is_of_the_data())?);
            }
            crate::fail_point("before arrived runs are taken");
            Ok(since)
        });
        let since = match together {
            Err(_) if is_of_the_data && self.is_between_transactions() => self.take_each(&arrived)?,
            taken => taken?,
        };
        Ok((arrived.len(), since))
    }

    /// Takes runs one by one, because there is one among them that can't be recorded: that one has failed.
    fn take_each(&mut self, arrived: &[Origin]) -> Result<Vec<Since>, LedgerError> {
        let mut since = Vec::new();
        for origin in arrived {
            let mut why = None;
            let taken = self.transact(|connection, _| {
                take(connection, origin, None)
                    .inspect_err(|error| why = error.is_of_the_data().then(|| error.to_string()))
            });
            since.extend(match &why {
                Some(why) => self.transact(|connection, _| take(connection, origin, Some(why)))?,
                None => taken?,
            });
        }
        Ok(since)
    }

    /// Takes out parts of runs whose beginning never came: no agent sends them so, because all of a run arrives or nothing.
    pub fn sweep_inbox(&mut self) -> Result<(), LedgerError> {
        if self.place().file().is_some() {
            return Ok(());
        }
        self.transact(|connection, _| {
            let until = of_database(connection)?.saturating_sub(ORPHANS_KEPT).unwrap_or(Timestamp::MIN);
            let swept = connection.execute(
                "DELETE FROM inbox WHERE part > 0 AND arrived < ?1 AND NOT EXISTS (
                    SELECT 1 FROM inbox cover WHERE cover.agent = inbox.agent AND cover.file = inbox.file
                        AND cover.number = inbox.number AND cover.part = 0)",
                [micros(until)],
            )?;
            if swept > 0 {
                let words =
                    format!("{swept} parts of runs are deleted whose beginning no host has sent in 7 days");
                tell(connection, About::default(), EventKind::Readings, &words, until)?;
            }
            Ok(())
        })
    }

    /// Whether runs of hosts wait to be taken.
    pub(in crate::ledger) fn has_arrived(&self) -> Result<bool, LedgerError> {
        self.look(|connection| {
            connection.prepare_cached("SELECT 1 FROM inbox WHERE part = 0 LIMIT 1")?.exists([])
        })
    }
}

/// The hosts whose first has waited longest come first. Of the files of one (it was installed anew) the older one goes before
/// the newer one, and the runs of a file in their order. It looks at the first runs of each file, however many wait.
fn arrived(connection: &Connection) -> sql::Result<Vec<Origin>> {
    connection
        .prepare_cached(
            "WITH RECURSIVE file (agent, file) AS (
                (SELECT agent, file FROM inbox ORDER BY agent, file LIMIT 1)
                UNION ALL SELECT next.agent, next.file FROM file, LATERAL (
                    SELECT agent, file FROM inbox WHERE (inbox.agent, inbox.file) > (file.agent, file.file)
                    ORDER BY agent, file LIMIT 1) next),
             first AS (
                SELECT DISTINCT ON (file.agent) file.agent, file.file, run.arrived FROM file, LATERAL (
                    SELECT arrived FROM inbox WHERE agent = file.agent AND inbox.file = file.file AND part = 0
                    ORDER BY number LIMIT 1) run
                ORDER BY file.agent, run.arrived)
             SELECT first.agent, first.file, run.number FROM
                (SELECT * FROM first ORDER BY arrived LIMIT ?1) first, LATERAL (
                    SELECT number FROM inbox WHERE agent = first.agent AND inbox.file = first.file AND part = 0
                    ORDER BY number LIMIT ?2) run
             ORDER BY first.arrived, first.agent, run.number",
        )?
        .query_map([HOSTS_AT_ONCE, OF_ONE_AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// `unrecordable`: why what it says can't be recorded.
fn take(connection: &Connection, origin: &Origin, unrecordable: Option<&str>) -> sql::Result<Option<Since>> {
    let (sender, file, number) = origin;
    let parts: Vec<(String, i64, i64)> = connection
        .prepare_cached(
            "SELECT body, sent, arrived FROM inbox WHERE agent = ?1 AND file = ?2 AND number = ?3 ORDER BY part",
        )?
        .query_map(params![sender, file, number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    connection
        .prepare_cached("DELETE FROM inbox WHERE agent = ?1 AND file = ?2 AND number = ?3")?
        .execute(params![sender, file, number])?;
    let Some((body, sent, arrived)) = parts.first() else { return Ok(None) };
    let sent = if INSTANTS.contains(sent) { *sent } else { *arrived };
    if *number == NO_RUN {
        note_second(connection, sender, *arrived)?;
        return Ok(None);
    }
    let bodies: Vec<&str> = parts.iter().map(|(body, ..)| body.as_str()).collect();
    let unpacked = match unrecordable {
        Some(why) => Err(why.to_owned()),
        None => unpack(body, bodies.get(1..).unwrap_or_default()),
    };
    let was = unpacked.as_ref().ok().and_then(|cover| cover.was.clone());
    let known = Known::of(connection, (sender, file), was.as_deref())?;
    let agent = known.owner.as_deref().unwrap_or(sender);
    known.tell_of_copy(connection, sender, *arrived)?;
    if *number <= known.number {
        // Sent again: its host did not know that it had arrived, or another has sent it from a copy of the file.
        known.note_again(connection, (sender, file), (*number, sent, *arrived))?;
        return Ok(None);
    }
    let (mut cover, bodies) = match unpacked {
        Ok(cover) => (cover, bodies.get(1..).unwrap_or_default()),
        Err(why) => {
            let words = format!(
                "run {number} of the host {agent} can't be read, and what it measured is not billed: {why}"
            );
            tell(connection, About::default(), EventKind::Readings, &words, instant(*arrived))?;
            (unreadable(sent, &why, number - 1), [].as_slice())
        }
    };
    // What was sent under another id of its file did not get lost.
    let missing = number.saturating_sub(known.number.max(cover.base)).saturating_sub(1);
    if missing > 0 {
        let words = format!(
            "{missing} runs of the agent {agent} are missing: this ledger has lost them, or never had them, and the host no \
             longer keeps them"
        );
        tell(connection, About::default(), EventKind::Lost, &words, instant(*arrived))?;
    }
    cover.head.skew = cover.head.skew.or_else(|| skew_when_sent(cover.head.at, sent, *arrived));
    if agent == sender {
        end_former(connection, agent, cover.head.at, *arrived)?;
    }
    let run = insert_run(connection, (agent, false, Some((file, *arrived))), &cover.head)?;
    for (number, body) in (1..).zip(bodies) {
        part::insert(connection, (run, number), body)?;
    }
    for end in &cover.ends {
        insert_end(connection, run, end)?;
    }
    let quarantined = cover.quarantined.into_iter().map(|(what, reason)| {
        // What they bear on stands in the run.
        Quarantined { what, reason, bears_on: Bearing::nothing() }
    });
    let quarantined: Vec<Quarantined> = quarantined.collect();
    let Head { collector, at, .. } = &cover.head;
    keep_quarantined(connection, (agent, collector), instant(*at), &quarantined)?;
    let taken = (*number, *at, (sent, *arrived));
    if agent != sender {
        note_taken(connection, (sender, file), taken)?;
    }
    note_taken(connection, (agent, file), taken)?;
    if agent == sender {
        // It is here: it is missed no more for having been retired.
        connection
            .prepare_cached("UPDATE agent SET retired = NULL, patience = ?3 WHERE name = ?1 AND file = ?2")?
            .execute(params![agent, file, patience(connection, agent)?])?;
        if let Some(rules) = &cover.rules {
            connection
                .prepare_cached(
                    "UPDATE collector SET rules = ?3 WHERE name = ?1 AND agent = ?2 AND coalesce(rules, '') <> ?3",
                )?
                .execute([collector, agent, rules])?;
        }
    }
    let Some(since) = cover.since else { return Ok(None) };
    let known: Option<i64> = connection
        .prepare_cached("SELECT since FROM collector WHERE name = ?1 AND agent = ?2")?
        .query_row([collector.as_str(), agent], |row| row.get(0))?;
    let earlier = known.is_none_or(|known| since < known);
    Ok(earlier.then(|| (agent.to_owned(), collector.clone(), instant(since))))
}

/// A host that goes on under another name sees the same things: under the old one their levels end.
fn end_former(connection: &Connection, agent: &str, at: i64, arrived: i64) -> sql::Result<()> {
    for former in former_names(connection, agent, arrived)? {
        let levels = end_levels(connection, &former, at, arrived)?;
        let words = format!(
            "{agent} measures where {former} did: {former} is retired, and {levels} of its levels (gauges) end with the first look \
             of {agent}. If {former} is there still, it is back with its next look"
        );
        tell(connection, About::default(), EventKind::Hosts, &words, instant(arrived))?;
    }
    Ok(())
}

/// What is known of a file from which a run comes.
struct Known {
    /// The last of its runs that was taken, whoever sent it.
    number: i64,
    /// Whose its runs are, where that is not who sends this one: its host had another name when they were recorded, or it is
    /// a copy of that one's. Only what that one itself has sent from the file says so: nobody sends in another's name.
    owner: Option<String>,
    /// Another who has sent from it.
    other: Option<String>,
    /// Whether this one has.
    is_known: bool,
}

impl Known {
    fn of(connection: &Connection, (sender, file): (&str, &str), was: Option<&str>) -> sql::Result<Known> {
        let senders: Vec<(String, i64)> = connection
            .prepare_cached("SELECT name, number FROM agent WHERE file = ? ORDER BY name")?
            .query_map([file], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<sql::Result<_>>()?;
        let named = |name: &str| senders.iter().map(|(of, _)| of).find(|of| *of == name);
        Ok(Known {
            number: senders.iter().map(|(_, number)| *number).max().unwrap_or(0),
            owner: was.and_then(named).filter(|owner| *owner != sender).cloned(),
            other: senders.iter().map(|(name, _)| name).find(|name| *name != sender).cloned(),
            is_known: named(sender).is_some(),
        })
    }

    /// Tells that somebody else begins to send from a file: once.
    fn tell_of_copy(&self, connection: &Connection, sender: &str, arrived: i64) -> sql::Result<()> {
        let Some(other) = self.other.as_ref().filter(|_| !self.is_known) else { return Ok(()) };
        let words = format!(
            "{sender} and {other} send from one file: a host was renamed, or its disk was copied. What both have is counted \
             once"
        );
        tell(connection, About::default(), EventKind::Readings, &words, instant(arrived))
    }

    /// Notes how far a sender has got with what was taken before.
    fn note_again(
        &self,
        connection: &Connection,
        (sender, file): (&str, &str),
        (number, sent, arrived): (i64, i64, i64),
    ) -> sql::Result<()> {
        if self.other.is_none() {
            return Ok(());
        }
        connection
            .prepare_cached(
                "INSERT INTO agent (name, file, number, at, arrived, skew) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (name, file) DO UPDATE SET number = greatest(agent.number, ?3)",
            )?
            .execute(params![sender, file, number, sent, arrived, arrived.saturating_sub(sent)])
            .map(drop)
    }
}

/// Notes that a run was taken, with when it looked, when it was sent, and when it arrived.
fn note_taken(
    connection: &Connection,
    (name, file): (&str, &str),
    (number, at, (sent, arrived)): (i64, i64, (i64, i64)),
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO agent (name, file, number, at, arrived, skew) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (name, file) DO UPDATE SET number = ?3, at = ?4, arrived = ?5, skew = ?6",
        )?
        .execute(params![name, file, number, at, arrived, arrived.saturating_sub(sent)])
        .map(drop)
}

/// The database's clock less the host's when it sent a run, for one that says nothing of it. What waited for long may have
/// been made by another setting of the clock.
fn skew_when_sent(at: i64, sent: i64, arrived: i64) -> Option<i64> {
    let waited = sent.saturating_sub(at).saturating_abs();
    (waited < SENT_SOON.as_micros() as i64).then(|| arrived.saturating_sub(sent))
}

/// The longest of what is usual for the collectors of an agent.
fn patience(connection: &Connection, agent: &str) -> sql::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT max(gap) FROM (
                SELECT (SELECT max_gap FROM run WHERE run.collector = collector.name AND run.agent = collector.agent
                        AND counted = 1 ORDER BY at DESC LIMIT 1) AS gap
                FROM collector WHERE agent = ?) usual",
        )?
        .query_row([agent], |row| row.get(0))
}

/// Notes that a second host has the name of this agent; told once, until it has been quiet for a day.
fn note_second(connection: &Connection, agent: &str, now: i64) -> sql::Result<()> {
    let before: Option<i64> = connection
        .prepare_cached("SELECT max(second) FROM agent WHERE name = ?")?
        .query_row([agent], |row| row.get(0))?;
    connection
        .prepare_cached("UPDATE agent SET second = ?2 WHERE name = ?1")?
        .execute(params![agent, now])?;
    if before.is_none_or(|before| now.saturating_sub(before) > QUIET.as_micros() as i64) {
        let words = format!(
            "two hosts are called {agent}: what the second measures waits there. Name one of them otherwise (`agent:`), unless \
             the host was installed anew or put back"
        );
        tell(connection, About::default(), EventKind::Hosts, &words, instant(now))?;
    }
    Ok(())
}

fn unpack(cover: &str, parts: &[&str]) -> Result<Manifest, String> {
    let cover = Manifest::read(cover)?;
    if usize::try_from(cover.parts) != Ok(parts.len()) {
        return Err(format!("it has {} parts with readings instead of {}", parts.len(), cover.parts));
    }
    parts.iter().try_for_each(|part| check_part(part))?;
    Ok(cover)
}

/// A run of which nothing can be read.
fn unreadable(sent: i64, why: &str, base: i64) -> Manifest {
    let at = micros(instant(sent));
    let head = Head {
        collector: String::new(),
        at,
        finished: at,
        outcome: super::FAILED.to_owned(),
        message: Some(format!("what its host has sent can't be read: {why}")),
        quarantined: 0,
        lists_everything: false,
        scope: String::new(),
        withheld: "[]".to_owned(),
        history: Spans::new(),
        skew: None,
    };
    let (quarantined, ends) = (Vec::new(), Vec::new());
    Manifest { head, quarantined, ends, since: None, parts: 0, rules: None, base, was: None }
}
