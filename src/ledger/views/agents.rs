//! The agents that append to a shared ledger: when each looked last, what it says of itself, and which are away. A host that
//! is away changes no amount; one that is gone for good can be retired, and is told of no longer.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::ledger::db::clock::{CLOCKS_AGREE, of_counting};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::digest;
use crate::ledger::db::sql::params;
use crate::ledger::db::{Ledger, LedgerError};

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
                    ORDER BY last.at DESC, last.id DESC LIMIT 1)
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
                "SELECT collector.agent, name, outcome = 'failed', message, max_gap FROM collector
                 JOIN run ON run.id = (
                    SELECT last.id FROM run last WHERE last.collector = name AND last.agent = collector.agent
                    ORDER BY last.at DESC, last.id DESC LIMIT 1)
                 WHERE collector.agent <> '' ORDER BY collector.agent, name",
            )?;
            let mut rows = query.query([])?;
            let mut usual: BTreeMap<String, i64> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let Some(agent) = agents.get_mut(&name) else { continue };
                if row.get::<_, bool>(2)? {
                    agent.failing.push((row.get(1)?, row.get::<_, Option<String>>(3)?.unwrap_or_default()));
                }
                if let Some(gap) = row.get::<_, Option<i64>>(4)? {
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

    /// No longer tells of an agent that is gone for good; what it measured stays. It is back when something comes of it. False:
    /// there is none of this name.
    pub fn retire_agent(&mut self, name: &str, now: Timestamp) -> Result<bool, LedgerError> {
        self.transact(|connection, _| {
            let changed = connection.execute(
                "UPDATE agent SET retired = ?2, second = NULL WHERE name = ?1",
                params![name, micros(now)],
            )?;
            Ok(changed > 0 && !name.is_empty())
        })
    }
}
