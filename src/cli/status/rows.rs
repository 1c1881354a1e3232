//! Every amount: by resource and month a table, what was adjusted, and what keeps something back, with the remedy.

use std::io::Write;

use super::brief;
use super::entry::{entries, state, told};
use super::view::{Month, Resource, View};
use crate::cli::exit::Failed;
use crate::cli::table::table;
use crate::cli::text::{fold, moment, seconds, shorten, soon};
use crate::ledger::Ledger;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::metering::exact::Exact;
use crate::submitter::reason::Reason;

pub(super) fn write(
    out: &mut dyn Write,
    ledger: &Ledger,
    view: &View,
    chosen: &[(&Resource, Vec<&Month>)],
    users: bool,
) -> Result<(), Failed> {
    brief::shadow(out, view)?;
    brief::daemon(out, view)?;
    brief::disk(out, view)?;
    brief::server(out, view)?;
    collectors(out, view)?;
    brief::agents(out, view)?;
    brief::readings(out, view)?;
    for (resource, months) in chosen {
        for month in months {
            if let Some(statement) = ledger.statement(month.key)? {
                writeln!(out)?;
                amounts(out, ledger, view, resource, &statement, users)?;
            }
        }
        if let Some(retry) = &resource.put_off {
            let next = soon(retry.next, view.now);
            writeln!(out, "{}", fold(&format!("  tried again after {next}: {}", retry.words), 4))?;
        }
    }
    unassigned(out, view)?;
    writeln!(out)?;
    brief::by_the_clock(out, ledger, view)?;
    brief::summary(out, view)
}

fn collectors(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    let mut rows = table(["collector", "schedule", "last run", "outcome", "readings", "last success"]);
    for one in &view.collectors {
        let last = one.report.last.as_ref();
        let at = |at: Option<jiff::Timestamp>| at.map_or("never".to_owned(), |at| moment(at, view.now));
        rows.add_row([
            shorten(&one.report.name, 20),
            one.schedule.clone(),
            at(last.map(|last| last.at)),
            last.map_or("-".to_owned(), |last| last.outcome.clone()),
            last.map_or("-".to_owned(), |last| last.readings.to_string()),
            at(one.report.last_success),
        ]);
    }
    writeln!(out, "{rows}")?;
    for one in &view.collectors {
        brief::troubles_of(out, one, view)?;
    }
    for one in view.collectors.iter().filter(|one| !one.quarantined.is_empty()) {
        writeln!(out, "Quarantined of {}, not billed, the latest first:", one.report.name)?;
        for bad in &one.quarantined {
            let line = format!("  {} {}: {}", moment(bad.at, view.now), bad.reason, bad.what);
            writeln!(out, "{}", fold(&line, 4))?;
        }
    }
    Ok(())
}

fn amounts(
    out: &mut dyn Write,
    ledger: &Ledger,
    view: &View,
    resource: &Resource,
    statement: &Statement,
    users: bool,
) -> Result<(), Failed> {
    let key = statement.key;
    let id =
        if resource.backend_id.is_empty() { key.resource.to_string() } else { resource.backend_id.clone() };
    let from = match key.part == ledger.in_force().zone.start(key.period) {
        true => String::new(),
        false => format!(", plan period from {}", seconds(key.part)),
    };
    let how_far = view.closing.state_of(statement, view.now).name();
    let ended = if resource.terminated { ", terminated" } else { "" };
    writeln!(
        out,
        "{}",
        fold(&format!("{} ({id}{ended}), {} {how_far}{from}", resource.name, key.period), 2)
    )?;
    let mut rows =
        table(["component", "user", "used", "to post", "Waldur holds", "since", "state"]).numbers(&[2, 3, 4]);
    let rows_read = ledger.rows_read(key)?;
    for (component, user, entry) in entries(statement, users) {
        let row = rows_read.get(component).filter(|_| user.is_empty());
        let holds = entry.holds(row);
        rows.add_row([
            shorten(component, 20),
            shorten(user, 14),
            approximately(&entry.exact),
            entry.posted.map_or("-".to_owned(), |posted| format!("{posted:.2}")),
            holds.as_ref().map_or("-".to_owned(), |holds| format!("{:.2}", holds.amount)),
            holds.map_or("-".to_owned(), |holds| moment(holds.at, view.now)),
            state(entry, None).0.name().to_owned(),
        ]);
    }
    writeln!(out, "{rows}")?;
    for one in ledger.adjustments(key.resource, key.period)? {
        let whose = if one.user.is_empty() { String::new() } else { format!(" of {}", one.user) };
        if users || one.user.is_empty() {
            writeln!(out, "{}", fold(&format!("  {}{whose}: {}", one.component, told(&one)), 4))?;
        }
    }
    let handle = resource.handle(ledger)?;
    for (component, user, entry) in entries(statement, true) {
        // What keeps back all of a component is said once.
        let of_component = statement.components.get(component).and_then(|entry| entry.block.as_ref());
        if user.is_empty() || entry.block.as_ref() != of_component {
            kept_back(out, (component, user), entry, &handle)?;
        }
    }
    // What is too much elsewhere is beside what a line says of itself.
    let blocks = resource.months.iter().filter(|month| month.key == key).flat_map(|month| &month.blocks);
    for at in blocks.filter(|at| at.block.reason == Reason::TooMuch.name()) {
        let amount = at.amount.map_or(String::new(), |amount| format!("{amount:.2} "));
        let line = format!("  {}: {amount}{}: {}", at.component, at.block.state, at.block.words);
        let remedy = format!("    {}", Reason::TooMuch.remedy());
        writeln!(out, "{}\n{}", fold(&line, 4), fold(&remedy, 4))?;
    }
    Ok(())
}

fn kept_back(
    out: &mut dyn Write,
    (component, user): (&str, &str),
    entry: &Entry,
    handle: &str,
) -> Result<(), Failed> {
    let whose = if user.is_empty() { String::new() } else { format!(" of {user}") };
    if let Some(block) = &entry.block {
        let left = entry.stranded().map_or(String::new(), |left| format!("{left:.2} "));
        let line = format!("  {component}{whose}: {left}{}: {}", block.state, block.words);
        let remedy = Reason::named(&block.reason).map_or("", Reason::remedy).replace("RESOURCE", handle);
        writeln!(out, "{}\n{}", fold(&line, 4), fold(&format!("    {remedy}"), 4))?;
    } else if let Some(problem) = &entry.problem {
        writeln!(out, "{}", fold(&format!("  {component}{whose}: {problem}"), 4))?;
    }
    Ok(())
}

fn unassigned(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    if view.left.unassigned.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nNo resource (kept, and reported once they have one):")?;
    for one in &view.left.unassigned {
        let id = if one.backend_id.is_empty() { "(no backend id)" } else { &one.backend_id };
        let line = format!("  {id}: collector {}, {} series: {}", one.collector, one.series, one.why.words());
        writeln!(out, "{}", fold(&line, 4))?;
    }
    Ok(())
}

fn approximately(exact: &str) -> String {
    exact.parse::<Exact>().map_or_else(|_| exact.to_owned(), |exact| exact.approximate(6))
}
