//! `agents`: the hosts of a shared ledger. It changes no amount.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::{Exit, Failed};
use super::setup::{Setup, count};
use super::table::table;
use super::text::{cut, fold, moment, shorten};
use crate::ledger::views::agents::AgentReport;

/// See the hosts of a shared ledger, or retire one.
#[derive(Debug, Args)]
pub(super) struct Agents {
    #[command(subcommand)]
    command: AgentsCommand,
}

#[derive(Debug, Subcommand)]
enum AgentsCommand {
    /// When each host appended last, how far its clock is off, what waits, and what fails there.
    List {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// No longer tell of a host that is gone for good; what it measured stays.
    Retire {
        /// Its agent's name, as `agents list` has it.
        name: String,
    },
}

impl Agents {
    pub(super) fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        match self.command {
            AgentsCommand::List { json: true } => list_json(setup, out),
            AgentsCommand::List { json: false } => list(setup, out),
            AgentsCommand::Retire { name } => {
                let Some(levels) = setup.ledger()?.retire_agent(&name, setup.clock.now())? else {
                    let why = format!("there is no agent `{name}`; `agents list` names them");
                    return Err(Failed::new(Exit::Usage, why));
                };
                let ended = match levels {
                    0 => String::new(),
                    levels => format!(" {} end with its last look.", count(levels, "level")),
                };
                let words = format!(
                    "{name} is retired: no alert is raised for it any more, and what it measured stays.{ended} If it reports again, it \
                     counts again."
                );
                writeln!(out, "{}", fold(&words, 2))?;
                Ok(Exit::Ok)
            }
        }
    }
}

fn exit(agents: &[AgentReport], setup: &Setup) -> Exit {
    let now = setup.clock.now();
    match agents.iter().any(|agent| agent.is_away(now) || agent.fails()) {
        true => Exit::Collector,
        false => Exit::Ok,
    }
}

fn list(setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
    let agents = setup.ledger_to_read()?.agents()?;
    let now = setup.clock.now();
    if let Some(file) = setup.settings.ledger.file() {
        let words = format!(
            "The ledger {} is a file, which one agent has for itself: there are several only in a shared one (docs/many-hosts.md).",
            file.display()
        );
        writeln!(out, "{}", fold(&words, 2))?;
        return Ok(Exit::Ok);
    }
    if agents.is_empty() {
        writeln!(out, "No host has appended to this ledger yet.")?;
        return Ok(Exit::Ok);
    }
    let mut rows =
        table(["agent", "last look", "arrived", "clock off (s)", "waiting", "state"]).numbers(&[3, 4]);
    for agent in &agents {
        let state = match agent.retired {
            Some(_) => "retired",
            None if agent.is_twice => "twice",
            None if agent.is_away(now) => "away",
            None if agent.fails() => "fails",
            None => "ok",
        };
        rows.add_row([
            shorten(&agent.name, 30),
            moment(agent.looked, now),
            moment(agent.arrived, now),
            agent.skew.as_secs().to_string(),
            agent.waiting.to_string(),
            state.to_owned(),
        ]);
    }
    writeln!(out, "{rows}")?;
    for agent in agents.iter().filter(|agent| agent.retired.is_none()) {
        if agent.is_twice {
            let line = format!(
                "{}: two hosts use this name. What the second measures waits on it until one of them has another name \
                 (`agent:`)",
                agent.name
            );
            writeln!(out, "{}", fold(&line, 2))?;
        }
        for (collector, why) in &agent.failing {
            let line = format!("{}: collector {collector} failed: {}", agent.name, cut(why, 200));
            writeln!(out, "{}", fold(&line, 2))?;
        }
    }
    Ok(exit(&agents, setup))
}

fn list_json(setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
    let agents = setup.ledger_to_read()?.agents()?;
    let now = setup.clock.now();
    let exit = exit(&agents, setup);
    let agents: Vec<_> = agents.iter().map(|agent| agent_json(agent, now)).collect();
    writeln!(out, "{:#}", json!({ "agents": agents, "exit": exit.code() }))?;
    Ok(exit)
}

/// An agent as `agents list --json` and `status --json` have it.
pub(super) fn agent_json(agent: &AgentReport, now: jiff::Timestamp) -> serde_json::Value {
    let failing: Vec<_> =
        agent.failing.iter().map(|(name, why)| json!({ "collector": name, "message": why })).collect();
    json!({
        "name": agent.name, "last_look": agent.looked.to_string(), "arrived_at": agent.arrived.to_string(),
        "skew_seconds": agent.skew.as_secs(), "waiting": agent.waiting, "away": agent.is_away(now),
        "retired_at": agent.retired.map(|at| at.to_string()), "failing": failing, "name_is_taken_twice": agent.is_twice,
    })
}
