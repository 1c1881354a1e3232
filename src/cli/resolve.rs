//! `resolve`: a person's decision about numbers that Waldur holds and that this agent did not write.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::ask;
use super::exit::{Exit, Failed};
use super::explain::find;
use super::setup::{Setup, count};
use super::text::{fold, seconds};
use super::values::instant;
use crate::ledger::Ledger;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::blocked::Blocked;
use crate::ledger::sent::decision::Decision;
use crate::ledger::sent::opening::Opening;
use crate::ledger::sent::statement::Entry;
use crate::metering::adjustment::Onward;
use crate::submitter::adopt::opening_instant;
use crate::submitter::reason::Reason;
use crate::submitter::writer::OwnNames;

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
    /// Don't ask at a terminal before --all is carried out.
    #[arg(long)]
    yes: bool,
    /// adopt: when the other reporter measured what Waldur holds, if you know it better than the row's date does.
    #[arg(long, value_name = "RFC3339", value_parser = instant)]
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
            (false, []) => {
                let words = "of which resources? Name them (`resolve RESOURCE... adopt`), or say --all for every one that is in \
                             conflict (`status --state held` shows them)";
                return Err(usage(words.to_owned()));
            }
            (true, _) => return Err(usage("name resources, or say --all; not both".to_owned())),
        };
        let mut to_decide = Vec::new();
        let named = chosen.into_iter().map(|resource| Ok((name_of(&ledger, resource)?, resource)));
        let mut named = named.collect::<Result<Vec<(String, Uuid)>, Failed>>()?;
        named.sort();
        named.dedup();
        for (name, resource) in &named {
            let Some(blocks) = concerned.get(resource) else {
                writeln!(out, "{}", fold(&format!("{name}: nothing of it is in conflict"), 2))?;
                continue;
            };
            if let Some(Decision::Adopt { at }) = decision {
                check_instant(&ledger, *resource, at)?;
            }
            for line in before_and_after(&mut ledger, name, blocks, (decision, now))? {
                writeln!(out, "{}", fold(&line, 2))?;
            }
            if blocks.iter().any(|at| is_choice(decision, at)) {
                to_decide.push(*resource);
            }
        }
        // What was asked for and can't be done is held still.
        let refused = |at: &Blocked| !is_choice(decision, at);
        let of_chosen = named.iter().filter_map(|(_, resource)| concerned.get(resource));
        let done = if of_chosen.flatten().any(refused) { Exit::Stuck } else { Exit::Ok };
        let Some(decision) = decision.filter(|_| !to_decide.is_empty()) else {
            if to_decide.is_empty() {
                writeln!(out, "There is nothing to decide.")?;
            }
            return Ok(done);
        };
        if self.all && !self.yes && ask::somebody() {
            out.flush()?;
            let question = format!("Decide so for {}? (yes or no)", count(to_decide.len(), "resource"));
            if !["y", "yes"].contains(&ask::line(&question, Some("no"))?.to_lowercase().as_str()) {
                writeln!(out, "Nothing was decided.")?;
                return Ok(Exit::Ok);
            }
        }
        for resource in to_decide {
            ledger.decide(resource, decision, now)?;
        }
        writeln!(out, "The next submission carries it out.")?;
        Ok(done)
    }
}

/// Each number that Waldur holds, and what it becomes.
fn before_and_after(
    ledger: &mut Ledger,
    name: &str,
    blocks: &[Blocked],
    (decision, now): (Option<Decision>, Timestamp),
) -> Result<Vec<String>, Failed> {
    let mut lines = Vec::new();
    for at in blocks {
        let key = at.key();
        let statement = ledger.statement(key)?;
        let entry = statement.as_ref().and_then(|statement| statement.entry(&at.component, &at.user));
        // Of a limit the amount is what was refused.
        let refused = at.block.reason == Reason::Limit.name();
        let held = at.amount.filter(|_| !refused).or_else(|| entry.map(Entry::held)).unwrap_or_default();
        let posted = entry.and_then(|entry| entry.posted);
        let posted = posted.map_or_else(|| "nothing: it can't be posted".to_owned(), |p| format!("{p:.2}"));
        let whose = if at.user.is_empty() { String::new() } else { format!(" of {}", at.user) };
        let what = match decision {
            None => format!("{held:.2} stays; the ledger has {posted}"),
            Some(Decision::Adopt { .. }) if !is_choice(decision, at) => {
                let why = why_not_adopted(ledger, key, at)?;
                format!("{held:.2} can't be adopted, and stays held: {why}; the ledger has {posted}")
            }
            Some(Decision::Adopt { at: named }) => {
                let (what, users) = adopted(ledger, (key, &at.component), (held, named), now)?;
                lines.push(format!(
                    "{name}, {}, {}: {what}; the ledger has {posted}",
                    at.period, at.component
                ));
                lines.extend(users);
                continue;
            }
            Some(_) => format!("{held:.2} becomes {posted}"),
        };
        let held = if decision.is_none() { "stays held: " } else { "" };
        lines.push(format!("{name}, {}, {}{whose}: {held}{what}", at.period, at.component));
    }
    Ok(lines)
}

/// Whether a decision is one that there is for what is held there. Only another writer's total can be gone on from.
fn is_choice(decision: Option<Decision>, at: &Blocked) -> bool {
    match decision {
        Some(Decision::Adopt { .. }) => at.block.reason == Reason::Conflict.name(),
        Some(Decision::Overwrite) | None => true,
    }
}

fn why_not_adopted(ledger: &Ledger, key: StatementKey, at: &Blocked) -> Result<String, Failed> {
    if at.block.reason == Reason::Unadoptable.name()
        && let Err(why) = ledger.goes_on(key, &at.component)?
    {
        return Ok(why.to_string());
    }
    Ok("it is not another writer's total".to_owned())
}

/// What adopting a number comes to: of the total, and of each user.
fn adopted(
    ledger: &mut Ledger,
    (key, component): (StatementKey, &str),
    (held, named): (Decimal, Option<Timestamp>),
    now: Timestamp,
) -> Result<(String, Vec<String>), Failed> {
    let onward = match ledger.goes_on(key, component)? {
        Ok(onward) => onward,
        Err(why) => return Ok((format!("{held:.2} can't be adopted, and stays held: {why}"), Vec::new())),
    };
    let row = ledger.rows_read(key)?.remove(component);
    let own = OwnNames::of(ledger)?;
    let ours = row.as_ref().is_some_and(|row| own.wrote(&row.writer));
    let dated = row.and_then(|row| row.writer.dated);
    let at = opening_instant(ledger, key, (named, dated), now)?;
    let opening = Opening {
        component: component.to_owned(),
        at,
        total: held,
        users: BTreeMap::new(),
        words: String::new(),
        ours,
    };
    let Some(statement) = ledger.rehearse_adopting(key, opening, now)? else {
        return Ok((format!("{held:.2} becomes the opening balance"), Vec::new()));
    };
    let posted = |entry: Option<&Entry>| entry.and_then(|entry| entry.posted).unwrap_or_default();
    let is = posted(statement.entry(component, ""));
    let why = match onward {
        Onward::Adds => "with what was used since",
        Onward::Highest => "the higher of the two",
        Onward::Latest if is == held => "as nothing was read since",
        Onward::Latest => "which was read since",
    };
    let what =
        format!("{held:.2} becomes the opening balance of {}, and the bill {is:.2}, {why}", seconds(at));
    let users = statement.users.iter().filter(|((of, _), _)| of == component);
    let users = users.map(|((_, user), entry)| {
        let own = posted(Some(entry));
        let share = match onward {
            Onward::Adds => format!("what Waldur holds of it, and {own:.2} used since"),
            Onward::Highest => format!("what Waldur holds of it, or {own:.2} if that is more"),
            Onward::Latest if is == held => "what Waldur holds of it".to_owned(),
            Onward::Latest => format!("{own:.2}"),
        };
        format!("  of {user}: {share}")
    });
    Ok((what, users.collect()))
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
