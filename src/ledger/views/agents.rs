//! The agents that append to a shared ledger: when each looked last, what it says of itself, and which are away. A host that
//! is away changes no amount; one that is gone for good can be retired, and is told of no longer.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::ledger::db::clock::{CLOCKS_AGREE, of_counting};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell, tell_if_new};
use crate::ledger::db::rules::digest;
use crate::ledger::db::sql::params;
use crate::ledger::db::{Ledger, LedgerError};
use crate::ledger::queue::levels::end_levels;

/// An agent is away after so long, or three times its usual distance where that is longer.
const AWAY: SignedDuration = SignedDuration::from_mins(15);
/// Where it is not known yet how often it looks.
const AWAY_IF_NEW: SignedDuration = SignedDuration::from_hours(1);

/// Agents of which nothing has come since they were retired, from no file: one that was installed anew has another.
const RETIRED: &str = "SELECT name FROM agent GROUP BY name HAVING count(*) = count(retired)";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentReport {
    pub name: String,
    /// When its last run that arrived looked.
    pub looked: Timestamp,
    /// When that arrived, by the database's clock.
    pub arrived: Timestamp,
    /// The database's clock less the host's.
    pub skew: SignedDuration,
    /// Runs that have arrived and are not taken yet.
    pub waiting: i64,
    /// What is usual for it to say nothing.
    pub patience: SignedDuration,
    /// Its collectors whose last run failed, and why.
    pub failing: Vec<(String, String)>,
    pub retired: Option<Timestamp>,
    /// Whether another host wants to send under its name.
    pub is_twice: bool,
}

impl AgentReport {
    /// Whether nothing has come of it for longer than is usual.
    pub fn is_away(&self, now: Timestamp) -> bool {
        self.retired.is_none() && now.duration_since(self.looked) > self.patience
    }

    /// Whether a collector of it failed when it looked last, or its name is another host's, too.
    pub fn fails(&self) -> bool {
        self.retired.is_none() && (self.is_twice || !self.failing.is_empty())
    }
}

/// When a collector of an agent has looked last: until then its usage is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    pub agent: String,
    pub collector: String,
    /// By its own clock, or when it arrived, where that clock is ahead.
    pub until: Timestamp,
    /// What is usual between two.
    patience: SignedDuration,
}

impl LastRun {
    /// Whether nothing has come of it for longer than is usual.
    pub fn is_away(&self, now: Timestamp) -> bool {
        now.duration_since(self.until) > self.patience
    }
}

/// Whether an agent that looked at `looked` has not run a collector for so much longer than is usual (`gap`, in microseconds) that
/// it was taken out of its file.
fn is_gone(looked: Timestamp, last_run: Timestamp, gap: Option<i64>) -> bool {
    let usual = gap.map_or(AWAY_IF_NEW, SignedDuration::from_micros).max(AWAY_IF_NEW);
    looked.duration_since(last_run) > usual
}

impl Ledger {
    /// The last looks that did not fail of all collectors of agents that are not retired, and are counted.
    pub fn looks(&self) -> Result<Vec<LastRun>, LedgerError> {
        self.look(|connection| {
            let ours = of_counting(connection)?;
            let mut query = connection.prepare_cached(&format!(
                "SELECT collector.agent, collector.name, run.at, run.arrived, run.max_gap FROM collector
                 JOIN run ON run.id = (
                    SELECT last.id FROM run last WHERE last.collector = collector.name AND last.agent = collector.agent
                        AND last.outcome <> 'failed' AND last.counted = 1
                    ORDER BY last.id DESC LIMIT 1)
                 WHERE collector.agent <> ''
                   AND collector.agent NOT IN ({RETIRED})
                 ORDER BY collector.agent, collector.name"
            ))?;
            query
                .query_map([], |row| {
                    let (at, arrived): (i64, Option<i64>) = (row.get(2)?, row.get(3)?);
                    // By our clock, which may be a little off the database's.
                    let agree = CLOCKS_AGREE.as_micros() as i64;
                    let latest = arrived.zip(ours).map(|(arrived, ours)| arrived.saturating_sub(ours) + agree);
                    let patience = match row.get(4)? {
                        Some(gap) => SignedDuration::from_micros(gap).max(AWAY),
                        None => AWAY_IF_NEW,
                    };
                    Ok(LastRun {
                        agent: row.get(0)?,
                        collector: row.get(1)?,
                        until: instant(latest.map_or(at, |latest| at.min(latest))),
                        patience,
                    })
                })?
                .collect()
        })
    }

    /// All agents that ever appended to this ledger, by name.
    pub fn agents(&self) -> Result<Vec<AgentReport>, LedgerError> {
        self.look(|connection| {
            let mut agents: BTreeMap<String, AgentReport> = BTreeMap::new();
            // The same agent may have had several files: the last counts.
            let mut query = connection.prepare_cached(
                "SELECT name, at, arrived, skew, retired, second FROM agent WHERE name <> '' ORDER BY name, arrived",
            )?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let arrived = instant(row.get(2)?);
                let second = row.get::<_, Option<i64>>(5)?.map(instant);
                let report = AgentReport {
                    name: name.clone(),
                    looked: instant(row.get(1)?),
                    arrived,
                    is_twice: second.is_some_and(|second| arrived.duration_since(second) < AWAY_IF_NEW),
                    skew: SignedDuration::from_micros(row.get(3)?),
                    waiting: 0,
                    patience: AWAY_IF_NEW,
                    failing: Vec::new(),
                    retired: row.get::<_, Option<i64>>(4)?.map(instant),
                };
                agents.insert(name, report);
            }
            let mut query = connection
                .prepare_cached("SELECT agent, count(*) FROM inbox WHERE part = 0 GROUP BY agent")?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                if let Some(agent) = agents.get_mut(&row.get::<_, String>(0)?) {
                    agent.waiting = row.get(1)?;
                }
            }
            let mut query = connection.prepare_cached(
                "SELECT collector.agent, name, outcome = 'failed', message, max_gap, run.at FROM collector
                 JOIN run ON run.id = (
                    SELECT last.id FROM run last WHERE last.collector = name AND last.agent = collector.agent
                    ORDER BY last.id DESC LIMIT 1)
                 WHERE collector.agent <> '' ORDER BY collector.agent, name",
            )?;
            let mut rows = query.query([])?;
            let mut usual: BTreeMap<String, i64> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let Some(agent) = agents.get_mut(&name) else { continue };
                let gap = row.get::<_, Option<i64>>(4)?;
                let is_gone = is_gone(agent.looked, instant(row.get(5)?), gap);
                if row.get::<_, bool>(2)? && !is_gone {
                    agent.failing.push((row.get(1)?, row.get::<_, Option<String>>(3)?.unwrap_or_default()));
                }
                if let Some(gap) = gap.filter(|_| !is_gone) {
                    usual.entry(name).and_modify(|least| *least = gap.min(*least)).or_insert(gap);
                }
            }
            for (name, gap) in usual {
                if let Some(agent) = agents.get_mut(&name) {
                    agent.patience = SignedDuration::from_micros(gap).max(AWAY);
                }
            }
            Ok(agents.into_values().collect())
        })
    }

    /// Collectors for which hosts have other rules in their own files than this ledger's reader has in its: those count
    /// nothing. By collector, which hosts.
    pub fn other_rules(&self) -> Result<BTreeMap<String, Vec<String>>, LedgerError> {
        self.look(|connection| {
            let mut query = connection.prepare(&format!(
                "SELECT name, agent, rules FROM collector WHERE agent <> '' AND rules IS NOT NULL
                   AND collector.agent NOT IN ({RETIRED})
                 ORDER BY name, agent"
            ))?;
            let mut rows = query.query([])?;
            let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let (name, agent, rules): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                if self.rulebook.of(&name).map(digest).transpose()? != Some(rules) {
                    others.entry(name).or_default().push(agent);
                }
            }
            Ok(others)
        })
    }

    /// Tells of collectors of hosts that the file of the agent that submits does not have: nothing of them is billed. Once each.
    pub fn log_unknown(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        let unknown = self.unknown_collectors()?;
        if unknown.is_empty() {
            return Ok(());
        }
        self.transact(|connection, _| {
            let kind = EventKind::Hosts;
            for (collector, words) in unknown {
                let mark = format!("the collector {collector} of ");
                tell_if_new(connection, About::default(), (kind, &mark), &words, now)?;
            }
            Ok(())
        })
    }

    /// Collectors that hosts still run and the rules of this ledger's reader do not know, each with a sentence.
    pub fn unknown_collectors(&self) -> Result<Vec<(String, String)>, LedgerError> {
        let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        self.look(|connection| {
            let mut query = connection.prepare_cached(&format!(
                "SELECT collector.name, collector.agent, run.at, run.max_gap,
                        (SELECT max(agent.at) FROM agent WHERE agent.name = collector.agent)
                 FROM collector JOIN run ON run.id = (
                    SELECT last.id FROM run last WHERE last.collector = collector.name AND last.agent = collector.agent
                    ORDER BY last.id DESC LIMIT 1)
                 WHERE collector.agent <> '' AND collector.agent NOT IN ({RETIRED}) ORDER BY 1, 2"
            ))?;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let looked = row.get::<_, Option<i64>>(4)?.map(instant);
                let (at, gap) = (instant(row.get(2)?), row.get::<_, Option<i64>>(3)?);
                let is_gone = looked.is_none_or(|looked| is_gone(looked, at, gap));
                if !is_gone && !name.is_empty() && self.rulebook.of(&name).is_none() {
                    hosts.entry(name).or_default().push(row.get(1)?);
                }
            }
            Ok(())
        })?;
        let words = hosts.into_iter().map(|(collector, hosts)| {
            let more = hosts.len().saturating_sub(1);
            let first = hosts.into_iter().next().unwrap_or_default();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let words = format!(
                "the collector {collector} of {first}{more} counts nothing: the file of the agent that submits does not have it (its \
                 rules, with `elsewhere: true`)"
            );
            (collector, words)
        });
        Ok(words.collect())
    }

    /// No longer tells of an agent that is gone for good; what it measured stays, and its levels end with its last look. It is back
    /// when something comes of it. Returns how many levels end; `None`: there is no agent of this name.
    pub fn retire_agent(&mut self, name: &str, now: Timestamp) -> Result<Option<usize>, LedgerError> {
        self.transact(|connection, _| {
            let changed = connection.execute(
                "UPDATE agent SET retired = ?2, second = NULL WHERE name = ?1",
                params![name, micros(now)],
            )?;
            if changed == 0 || name.is_empty() {
                return Ok(None);
            }
            let levels = end_levels(connection, name, i64::MIN, micros(now))?;
            if levels > 0 {
                let words = format!(
                    "{name} is retired: {levels} of its levels (gauges) end with its last look, and no longer count beside what \
                     other hosts measure"
                );
                tell(connection, About::default(), EventKind::Hosts, &words, now)?;
            }
            Ok(Some(levels))
        })
    }
}
