//! `resolve`: a person's decision about numbers that Waldur holds and that this agent did not write.

use std::io::Write;

use clap::Args;
use jiff::Timestamp;

use super::exit::{Exit, Failed};
use super::explain::find;
use super::setup::Setup;
use crate::ledger::Ledger;
use crate::ledger::trouble::Decision;
use crate::metering::period::BillingPeriod;
use crate::submitter::ROWS_READ;
use crate::submitter::trouble::Reason;
use uuid::Uuid;

/// Decide where Waldur holds another writer's number.
///
/// `resolve RESOURCE... adopt` goes on from what Waldur holds: it becomes the opening balance, and what was used before is
/// not counted again, which is right for sources that only know what they saw. `overwrite` makes Waldur agree with the
/// ledger, which is right for sources with full history. `hold` goes on holding. With --all it is for every resource in
/// conflict. docs/takeover.md has the recipes.
#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// Resources (UUID, backend id or unique name), and last the decision: adopt, overwrite or hold.
    #[arg(value_name = "RESOURCE... DECISION", required = true)]
    words: Vec<String>,
    /// Every resource that is in conflict.
    #[arg(long)]
    all: bool,
    /// adopt: when the other reporter measured what Waldur holds, if you know it better than the row's date does.
    #[arg(long, value_name = "RFC3339")]
    at: Option<Timestamp>,
}

impl Resolve {
    pub(super) fn run(mut self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let usage = |words: String| Failed::new(Exit::Usage, words);
        let decision = match self.words.pop().as_deref() {
            Some("adopt") => Some(Decision::Adopt { at: self.at }),
            Some("overwrite") => Some(Decision::Overwrite),
            Some("hold") => None,
            other => {
                let said = other.unwrap_or_default();
                return Err(usage(format!("`{said}` is no decision; known: adopt, overwrite, hold")));
            }
        };
        if self.at.is_some() && !matches!(decision, Some(Decision::Adopt { .. })) {
            return Err(usage("--at is for `adopt` only".to_owned()));
        }
        let now = setup.clock.now();
        if let Some(at) = self.at.filter(|at| *at > now) {
            return Err(usage(format!("--at {at} lies in the future: it is {now}")));
        }
        let mut ledger = setup.ledger()?;
        let conflicts = ledger.resources_in_trouble(Reason::Conflict.name())?;
        let chosen = match (self.all, self.words.as_slice()) {
            (true, []) => conflicts.clone(),
            (false, wanted @ [_, ..]) => wanted
                .iter()
                .map(|wanted| Ok(find(&ledger, wanted)?.0))
                .collect::<Result<Vec<_>, Failed>>()?,
            _ => return Err(usage("name resources, or say --all; not both".to_owned())),
        };
        for resource in chosen {
            if !conflicts.contains(&resource) {
                writeln!(out, "{resource}: not in conflict")?;
                continue;
            }
            let Some(decision) = decision else {
                writeln!(out, "{resource}: stays held")?;
                continue;
            };
            if let Decision::Adopt { at } = decision {
                check_instant(setup, &ledger, resource, at)?;
            }
            ledger.decide(resource, Reason::Conflict.name(), decision, now)?;
            match decision {
                Decision::Adopt { .. } => {
                    // What stands there now is what is adopted, not what was read when the conflict was found.
                    ledger.put_server_fact(ROWS_READ, "", Timestamp::UNIX_EPOCH)?;
                    writeln!(
                        out,
                        "{resource}: what Waldur holds becomes the opening balance with the next submission"
                    )?;
                }
                Decision::Overwrite => writeln!(
                    out,
                    "{resource}: Waldur will be made to agree with the ledger by the next submission"
                )?,
            }
        }
        Ok(Exit::Ok)
    }
}

/// An instant that a person names must lie in the month that is in conflict.
fn check_instant(
    setup: &Setup,
    ledger: &Ledger,
    resource: Uuid,
    at: Option<Timestamp>,
) -> Result<(), Failed> {
    let Some(at) = at else { return Ok(()) };
    let named = setup.rulebook.zone.period_of(at);
    for conflict in ledger.troubles()? {
        if conflict.resource != resource || conflict.trouble.reason != Reason::Conflict.name() {
            continue;
        }
        if conflict.period.parse::<BillingPeriod>().is_ok_and(|period| period != named) {
            let words =
                format!("--at {at} lies in {named}, but {resource} is in conflict in {}", conflict.period);
            return Err(Failed::new(Exit::Usage, words));
        }
    }
    Ok(())
}
