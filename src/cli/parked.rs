//! `parked`: what is held, parked or stranded, and what a person does with it: try it again, or give it up.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::{Exit, Failed};
use super::explain::find;
use super::setup::{Setup, count};
use super::text::{fold, moment, name_or, shorten};
use crate::ledger::Ledger;
use crate::ledger::sent::blocked::{Blocked, Dropped, GivenUp};
use crate::metering::period::BillingPeriod;
use crate::submitter::reason::{Reason, waits};

/// List, retry or drop what is held, parked or stranded.
#[derive(Debug, Args)]
pub(super) struct Parked {
    #[command(subcommand)]
    command: ParkedCommand,
}

#[derive(Debug, Subcommand)]
enum ParkedCommand {
    /// Show everything that is held, parked or stranded, with the server's words.
    List {
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// Send it again with the next submission, once the cause is mended. Conflicts stay: `resolve` is for them.
    Retry {
        /// Only of this resource, and then also what was dropped of it; otherwise of all.
        resource: Option<String>,
    },
    /// Give it up: what Waldur does not hold of it is settled otherwise (by hand, or with the customer), stays recorded, and
    /// only what comes after it counts. Conflicts stay: `resolve` is for them.
    Drop {
        /// The resource: its UUID, backend id or unique name.
        resource: String,
        /// Only this component.
        component: Option<String>,
        /// Only of this billing period, such as 2026-11.
        #[arg(long, value_name = "YYYY-MM")]
        period: Option<BillingPeriod>,
        /// Only this user's share.
        #[arg(long, value_name = "NAME", requires = "component")]
        user: Option<String>,
    },
}

impl Parked {
    pub(super) fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        match self.command {
            ParkedCommand::List { json } => list(setup, json, out),
            ParkedCommand::Retry { resource } => {
                let mut ledger = setup.ledger()?;
                let resource =
                    resource.map(|wanted| find(&ledger, &wanted)).transpose()?.map(|(uuid, _)| uuid);
                let again = decidable();
                for at in ledger.blocks()? {
                    let is_lifted = again.contains(&at.block.reason.as_str());
                    if is_lifted && resource.is_none_or(|resource| resource == at.resource) {
                        writeln!(out, "{}", fold(&again_line(&ledger, &at)?, 2))?;
                    }
                }
                let mut lifted = ledger.clear_blocks(resource, &again)?;
                if let Some(resource) = resource {
                    lifted += ledger.pick_up_dropped(resource)?;
                }
                writeln!(out, "{} will be tried again with the next submission.", count(lifted, "item"))?;
                Ok(Exit::Ok)
            }
            ParkedCommand::Drop { resource, component, period, user } => {
                let mut ledger = setup.ledger()?;
                let (resource, _) = find(&ledger, &resource)?;
                let dropped = Dropped { resource, period, component, user };
                let done = ledger.drop_blocked(&dropped, &decidable(), setup.clock.now())?;
                if done.is_empty() {
                    writeln!(
                        out,
                        "Nothing of it is held, parked or stranded (`parked list` shows what is)."
                    )?;
                    return Ok(Exit::Ok);
                }
                for GivenUp { period, component, user, amount, held } in &done {
                    let whose = if user.is_empty() { String::new() } else { format!(" of {user}") };
                    writeln!(
                        out,
                        "{period}, {component}{whose}: {amount:.2} given up, Waldur holds {held:.2}"
                    )?;
                }
                let line =
                    format!("Only what comes after it counts. `parked retry {resource}` takes it back.");
                writeln!(out, "{}", fold(&line, 2))?;
                Ok(Exit::Ok)
            }
        }
    }
}

/// What is tried again: what Waldur holds of it, and what the ledger has.
fn again_line(ledger: &Ledger, at: &Blocked) -> Result<String, Failed> {
    let name = ledger.resource(at.resource)?.map(|known| known.name).unwrap_or_default();
    let name = name_or(&shorten(&name, 40), at.resource);
    let statement = ledger.statement(at.key())?;
    let entry = statement.as_ref().and_then(|statement| statement.entry(&at.component, &at.user));
    let component = if at.component.is_empty() { "all of it" } else { &at.component };
    let whose = if at.user.is_empty() { String::new() } else { format!(" of {}", at.user) };
    let numbers = entry.map_or(String::new(), |entry| {
        let posted = entry.posted.map_or("nothing".to_owned(), |posted| format!("{posted:.2}"));
        format!(": Waldur holds {:.2}, the ledger has {posted}", entry.held())
    });
    Ok(format!("{name}, {}, {component}{whose}, {}{numbers}", at.period, at.block.state))
}

/// The reasons that are not for `resolve`.
fn decidable() -> Vec<&'static str> {
    let for_resolve = [
        Reason::Conflict,
        Reason::Unadoptable,
        Reason::RulesChanged,
        Reason::SameIds,
        Reason::SeveralResources,
        Reason::Shares,
    ];
    let reasons = Reason::ALL.into_iter().filter(|reason| !for_resolve.contains(reason));
    reasons.map(Reason::name).collect()
}

fn list(setup: &Setup, json: bool, out: &mut dyn Write) -> Result<Exit, Failed> {
    let ledger = setup.ledger_to_read()?;
    let blocks = ledger.blocks()?;
    let held = ledger.held_readings()?;
    let left = !held.is_empty() || blocks.iter().any(|at| waits(&at.block));
    let exit = if left { Exit::Stuck } else { Exit::Ok };
    let remedy = |reason: &str| Reason::named(reason).map_or("", Reason::remedy);
    if json {
        let items: Vec<_> = blocks
            .iter()
            .map(|at| {
                let none = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
                json!({
                    "resource": at.resource, "period": at.period.to_string(), "component": none(&at.component),
                    "user": none(&at.user), "amount": at.amount.map(|amount| format!("{amount:.2}")),
                    "state": at.block.state, "reason": at.block.reason, "words": at.block.words,
                    "since": at.block.since.to_string(), "remedy": remedy(&at.block.reason),
                })
            })
            .collect();
        writeln!(out, "{:#}", json!(items))?;
        return Ok(exit);
    }
    for event in &held {
        writeln!(out, "{}", fold(&format!("held: {}", event.sentence(None)), 2))?;
    }
    if blocks.is_empty() {
        if held.is_empty() {
            writeln!(out, "Nothing is held, parked or stranded.")?;
        }
        return Ok(exit);
    }
    let now = setup.clock.now();
    let mut named = Vec::with_capacity(blocks.len());
    for at in &blocks {
        let name = ledger.resource(at.resource)?.map(|known| known.name).unwrap_or_default();
        named.push((name, at));
    }
    named.sort_by(|(a, x), (b, y)| (a, x.resource, x.period).cmp(&(b, y.resource, y.period)));
    let mut before = None;
    for (name, at) in named {
        let name = if name.is_empty() { String::new() } else { format!("{} ", shorten(&name, 40)) };
        let component = if at.component.is_empty() { "all of it" } else { &at.component };
        let whose = if at.user.is_empty() { String::new() } else { format!(" of {}", at.user) };
        let (resource, period, state) = (at.resource, at.period, &at.block.state);
        if before != Some((resource, period)) {
            writeln!(out, "{}", fold(&format!("{name}({resource}), {period}"), 2))?;
            before = Some((resource, period));
        }
        let amount = at.amount.map_or(String::new(), |amount| format!(" {amount:.2}"));
        let since = moment(at.block.since, now);
        let what = format!("{component}{whose}{amount}, {state} since {since}, {}", at.block.reason);
        writeln!(out, "{}", fold(&format!("  {what}: {}", at.block.words), 4))?;
    }
    let reasons: std::collections::BTreeSet<&str> =
        blocks.iter().map(|at| at.block.reason.as_str()).collect();
    for reason in reasons {
        writeln!(out, "{}", fold(&format!("{reason}: {}", remedy(reason)), 2))?;
    }
    Ok(exit)
}
