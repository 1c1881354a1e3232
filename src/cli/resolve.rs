//! `resolve`: a person's decision about numbers that Waldur holds and that this agent did not write.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use jiff::Timestamp;

use super::exit::{Exit, Failed};
use super::explain::find;
use super::setup::Setup;
use crate::ledger::Ledger;
use crate::ledger::sent::blocked::Blocked;
use crate::ledger::sent::decision::{Decided, Decision};
use crate::metering::period::BillingPeriod;
use crate::submitter::reason::Reason;
use rust_decimal::Decimal;
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
        ledger.state(now)?;
        let concerned = undecided(&ledger)?;
        let chosen: Vec<Uuid> = match (self.all, self.words.as_slice()) {
            (true, []) => concerned.keys().copied().collect(),
            (false, wanted @ [_, ..]) => wanted
                .iter()
                .map(|wanted| Ok(find(&ledger, wanted)?.0))
                .collect::<Result<Vec<_>, Failed>>()?,
            _ => return Err(usage("name resources, or say --all; not both".to_owned())),
        };
        for resource in chosen {
            let name = name_of(&ledger, resource)?;
            if !concerned.contains_key(&resource) {
                writeln!(out, "{name}: nothing of it is in conflict")?;
                continue;
            }
            let Some(decision) = decision else {
                writeln!(out, "{name}: stays held")?;
                continue;
            };
            if let Decision::Adopt { at } = decision {
                check_instant(&ledger, resource, at)?;
            }
            for decided in ledger.decide(resource, decision, now)? {
                let Decided { component, period, held, .. } = decided;
                let posted = posted(&ledger, resource, period, &component)?;
                let held = held.map_or_else(|| "what Waldur holds".to_owned(), |held| format!("{held:.2}"));
                match decision {
                    Decision::Adopt { .. } => {
                        writeln!(out, "{name}, {period}, {component}: {held} becomes the opening balance")?;
                    }
                    Decision::Overwrite | Decision::Agreed => {
                        writeln!(out, "{name}, {period}, {component}: {held} becomes {posted}")?;
                    }
                }
            }
        }
        writeln!(out, "The next submission carries it out.")?;
        Ok(Exit::Ok)
    }
}

/// Resources with something to decide, and the reasons.
fn undecided(ledger: &Ledger) -> Result<BTreeMap<Uuid, Vec<Blocked>>, Failed> {
    let reasons = [
        Reason::Conflict,
        Reason::Unadoptable,
        Reason::Shares,
        Reason::RulesChanged,
        Reason::SameIds,
        Reason::Limit,
    ]
    .map(Reason::name);
    let mut concerned: BTreeMap<Uuid, Vec<Blocked>> = BTreeMap::new();
    for one in ledger.blocks()? {
        if reasons.contains(&one.block.reason.as_str()) {
            concerned.entry(one.resource).or_default().push(one);
        }
    }
    Ok(concerned)
}

/// What the ledger has of a component's month.
fn posted(ledger: &Ledger, resource: Uuid, period: BillingPeriod, component: &str) -> Result<String, Failed> {
    let mut sum = Some(Decimal::ZERO);
    for key in ledger.parts_of(resource, period)? {
        let Some(statement) = ledger.statement(key)? else { continue };
        let Some(entry) = statement.components.get(component) else { continue };
        sum = sum.zip(entry.posted).and_then(|(sum, posted)| sum.checked_add(posted));
    }
    Ok(sum.map_or_else(|| "nothing: it can't be posted".to_owned(), |sum| format!("{sum:.2}")))
}

fn name_of(ledger: &Ledger, resource: Uuid) -> Result<String, Failed> {
    let name = ledger.resource(resource)?.map(|known| known.name).filter(|name| !name.is_empty());
    Ok(name.map_or_else(|| resource.to_string(), |name| format!("{name} ({resource})")))
}

/// An instant that a person names must lie in the month that is in conflict.
fn check_instant(ledger: &Ledger, resource: Uuid, at: Option<Timestamp>) -> Result<(), Failed> {
    let Some(at) = at else { return Ok(()) };
    let named = ledger.in_force().zone.period_of(at);
    for conflict in ledger.blocks()? {
        if conflict.resource != resource || conflict.block.reason != Reason::Conflict.name() {
            continue;
        }
        if conflict.period != named {
            let words =
                format!("--at {at} lies in {named}, but {resource} is in conflict in {}", conflict.period);
            return Err(Failed::new(Exit::Usage, words));
        }
    }
    Ok(())
}
