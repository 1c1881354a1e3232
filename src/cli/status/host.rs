//! `status` on a host whose role may only append to a shared ledger: what waits here, what has arrived, and what fails. It says
//! nothing of amounts, which that role can't see.

use std::io::Write;

use serde_json::json;

use super::super::exit::{Exit, Failed};
use super::super::setup::{Setup, count};
use super::super::text::{cut, fold, moment};
use crate::collectors::definition::longest_gap;
use crate::config::place::Place;
use crate::daemon::instance;
use crate::ledger::queue::outbox::{Claim, Outbox};
use crate::ledger::{Ledger, LedgerErrorKind};

/// `None`: it is not such a role that keeps the ledger from being read.
pub(super) fn status(setup: &Setup, as_json: bool, out: &mut dyn Write) -> Result<Option<Exit>, Failed> {
    let Place::Database(database) = &setup.settings.ledger else { return Ok(None) };
    let rulebook = || (*setup.rulebook).clone();
    match Ledger::open_to_read(&setup.settings.ledger, rulebook()) {
        Err(error) if error.kind == LedgerErrorKind::Forbidden => {}
        _ => return Ok(None),
    }
    let Ok(agent) = setup.settings.agent_name() else { return Ok(None) };
    let queue = Ledger::open_to_read(setup.settings.first_place(), rulebook())?;
    let waiting = queue.not_sent()?;
    let planned = longest_gap(&setup.definitions);
    let claim = Claim { identities: queue.identities()?, last_look: queue.last_look()?, planned };
    let outbox = Outbox::connect(database, &agent, || setup.clock.now())?;
    let own = claim.identities.last();
    let arrived = own.map(|own| outbox.last(&own.file)).transpose()?.flatten();
    let is_name_taken = outbox.is_name_taken(&claim)?;
    let mut failing = Vec::new();
    for name in setup.collectors() {
        let last = queue.collector_report(&name)?.last.filter(|run| run.outcome == "failed");
        failing.extend(last.map(|run| (name, run.message.unwrap_or_default())));
    }
    let daemon = instance::running(queue.place());
    let refused = daemon.as_ref().and_then(|daemon| daemon.told.as_ref()?.refusal());
    let exit = match (failing.is_empty(), waiting) {
        _ if refused.is_some() => Exit::Config,
        (false, _) => Exit::Collector,
        (true, 0) => Exit::Ok,
        (true, _) => Exit::Pending,
    };
    let last_look = arrived.map(|(_, at)| at);
    if as_json {
        let failing: Vec<_> =
            failing.iter().map(|(name, why)| json!({ "collector": name, "message": why })).collect();
        let shown = json!({
            "daemon": super::json::daemon(daemon.as_ref()), "ledger": setup.settings.ledger.to_string(), "agent": agent, "appends_only": true, "waiting": waiting,
            "name_is_taken_twice": is_name_taken, "last_look": last_look.map(|at| at.to_string()), "failing": failing, "exit": exit.code(),
        });
        writeln!(out, "{shown:#}")?;
        return Ok(Some(exit));
    }
    let mut lines = vec![match daemon {
        Some(daemon) => format!("Daemon: {}.", daemon.name()),
        None => "Daemon: not running.".to_owned(),
    }];
    lines.extend(refused.map(|(at, words)| {
        format!("Reload refused at {}: {}", moment(at, setup.clock.now()), cut(&words, 300))
    }));
    lines.push(format!(
        "Agent {agent}: the role `{}` may only append to the ledger {}. Amounts, and what Waldur holds, are shown where a role \
         may read them.",
        database.role, setup.settings.ledger
    ));
    let arrived =
        last_look.map(|at| format!("the last look that arrived was {}", moment(at, setup.clock.now())));
    let arrived = arrived.unwrap_or_else(|| "nothing has arrived yet".to_owned());
    lines.push(format!("Sent: {arrived}; {} here.", waiting_in_words(waiting)));
    if is_name_taken {
        lines.push(format!(
            "Another host sends as the agent {agent}: name one of them otherwise (`agent:`); until then nothing of this one is \
             sent. One that was installed anew or put back waits until the other has been silent for longer than is usual, or \
             for `agents retire {agent}`."
        ));
    }
    for (name, why) in failing {
        lines.push(format!("Collector {name} failed: {}", cut(&why, 200)));
    }
    for line in lines {
        writeln!(out, "{}", fold(&line, 2))?;
    }
    Ok(Some(exit))
}

fn waiting_in_words(runs: i64) -> String {
    match usize::try_from(runs) {
        Ok(runs) if runs > 0 => format!("{} waiting", count(runs, "run")),
        _ => "nothing waits".to_owned(),
    }
}
