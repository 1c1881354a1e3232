//! `parked` and `resolve`: what the server refused and what is in conflict, and a person's decision about it.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;

use super::exit::{Exit, Failed};
use super::explain::find;
use super::setup::{Setup, count};
use super::table::table;
use crate::submitter::trouble::Reason;

/// What Waldur refused, and what to do with it.
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
        /// Only of this resource; otherwise of all.
        resource: Option<String>,
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
                let reasons: Vec<&str> = Reason::ALL
                    .into_iter()
                    .filter(|reason| *reason != Reason::Conflict)
                    .map(Reason::name)
                    .collect();
                let lifted = ledger.clear_trouble(resource, &reasons)?;
                writeln!(out, "{} will be tried again with the next submission.", count(lifted, "thing"))?;
                Ok(Exit::Ok)
            }
        }
    }
}

fn list(setup: &Setup, json: bool, out: &mut dyn Write) -> Result<Exit, Failed> {
    let ledger = setup.ledger_to_read()?;
    let troubles = ledger.troubles()?;
    let exit = if troubles.is_empty() { Exit::Ok } else { Exit::Stuck };
    let remedy = |reason: &str| Reason::named(reason).map_or("", Reason::remedy);
    if json {
        let items: Vec<_> = troubles
            .iter()
            .map(|at| {
                let none = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
                json!({
                    "resource": at.resource, "period": at.period, "component": none(&at.component),
                    "user": none(&at.user), "amount": at.amount.map(|amount| format!("{amount:.2}")),
                    "state": at.trouble.state, "reason": at.trouble.reason, "words": at.trouble.words,
                    "since": at.trouble.since.to_string(), "remedy": remedy(&at.trouble.reason),
                })
            })
            .collect();
        writeln!(out, "{:#}", json!(items))?;
        return Ok(exit);
    }
    if troubles.is_empty() {
        writeln!(out, "Nothing is held, parked or stranded.")?;
        return Ok(exit);
    }
    let mut rows = table(["resource", "period", "component", "user", "amount", "state", "reason", "words"]);
    for at in &troubles {
        let amount = at.amount.map_or("-".to_owned(), |amount| format!("{amount:.2}"));
        let component = if at.component.is_empty() { "(all)" } else { &at.component };
        let resource = at.resource.to_string();
        rows.add_row([
            &resource,
            &at.period,
            component,
            &at.user,
            &amount,
            &at.trouble.state,
            &at.trouble.reason,
            &at.trouble.words,
        ]);
    }
    writeln!(out, "{rows}")?;
    let reasons: std::collections::BTreeSet<&str> =
        troubles.iter().map(|at| at.trouble.reason.as_str()).collect();
    for reason in reasons {
        writeln!(out, "{reason}: {}", remedy(reason))?;
    }
    Ok(exit)
}

/// Decide what to do where Waldur holds a number that this agent did not write.
///
/// `resolve RESOURCE... overwrite` makes Waldur agree with the ledger, which is right for sources with full history;
/// `resolve RESOURCE... hold` goes on holding. With --all it is for every resource in conflict.
#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// Resources (UUID, backend id or unique name), and last the decision: overwrite or hold.
    #[arg(value_name = "RESOURCE... DECISION", required = true)]
    words: Vec<String>,
    /// Every resource that is in conflict.
    #[arg(long)]
    all: bool,
}

impl Resolve {
    pub(super) fn run(mut self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let overwrite = match self.words.pop().as_deref() {
            Some("overwrite") => true,
            Some("hold") => false,
            other => {
                let said = other.unwrap_or_default();
                return Err(Failed::new(
                    Exit::Usage,
                    format!("`{said}` is no decision; known: overwrite, hold"),
                ));
            }
        };
        let mut ledger = setup.ledger()?;
        let conflicts = ledger.resources_in_trouble(Reason::Conflict.name())?;
        let chosen = match (self.all, self.words.as_slice()) {
            (true, []) => conflicts.clone(),
            (false, wanted @ [_, ..]) => wanted
                .iter()
                .map(|wanted| Ok(find(&ledger, wanted)?.0))
                .collect::<Result<Vec<_>, Failed>>()?,
            _ => return Err(Failed::new(Exit::Usage, "name resources, or say --all; not both")),
        };
        for resource in chosen {
            if !conflicts.contains(&resource) {
                writeln!(out, "{resource}: not in conflict")?;
            } else if overwrite {
                ledger.decide_overwrite(resource, Reason::Conflict.name(), setup.clock.now())?;
                writeln!(
                    out,
                    "{resource}: Waldur will be made to agree with the ledger by the next submission"
                )?;
            } else {
                writeln!(out, "{resource}: stays held")?;
            }
        }
        Ok(Exit::Ok)
    }
}
