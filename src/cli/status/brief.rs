//! What is wrong, on one screen: the daemon, the server, what fails, resources with trouble, and how many are agreed.

use std::io::Write;

use jiff::Timestamp;

use super::amount_state::AmountState;
use super::collector::Collector;
use super::trouble::{put_off, trouble};
use super::view::View;
use crate::cli::exit::Failed;
use crate::cli::setup::count;
use crate::cli::standing;
use crate::cli::text::{cut, fold, moment, name, soon, span, thousands};
use crate::daemon::health::LOW_DISK_BYTES;
use crate::daemon::instance::{DaemonState, Running};
use crate::ledger::Ledger;
use crate::ledger::db::clock::CLOCKS_AGREE;
use crate::ledger::views::report::UnassignedSeries;
use crate::submitter::left::UNMATCHED_REMEDY;
use crate::submitter::pause::{Cause, SKEW_SHOWN_US};

/// So many resources with trouble are shown, of all states together.
const SHOWN: usize = 5;
/// So many of anything else.
const FEW: usize = 3;

/// Worst first, in the order of exit codes (`cli/exit.rs`): what keeps anything from being recorded (78), or reported (77); what is
/// not measured (69); then what of it waits, by how much it needs a person (`AmountState`), and what belongs to nobody. Here is the
/// one place that says so.
pub(super) fn write(out: &mut dyn Write, ledger: &Ledger, view: &View) -> Result<(), Failed> {
    shadow(out, view)?;
    daemon(out, view)?;
    disk(out, view)?;
    server(out, view)?;
    collectors(out, view)?;
    agents(out, view)?;
    readings(out, view)?;
    troubles(out, ledger, view)?;
    by_the_clock(out, ledger, view)?;
    unmatched(out, view)?;
    summary(out, view)
}

/// What a person decided and is not carried out yet, and what is of a month that has not begun or is about to end.
pub(super) fn by_the_clock(out: &mut dyn Write, ledger: &Ledger, view: &View) -> Result<(), Failed> {
    let undone = &view.server.undone;
    standing::show_undone(undone, &standing::names_of_undone(undone, ledger)?, out)?;
    standing::show_by_the_clock(&view.next, out)
}

/// A ledger that can't be written, or soon can't.
pub(super) fn disk(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    if let Some((since, words)) = &view.failing {
        let since = since.map_or(String::new(), |at| format!(" since {}", moment(at, view.now)));
        let line = format!("Ledger: it can't be written{since}, so nothing is recorded or reported: {words}");
        writeln!(out, "{}", fold(&line, 2))?;
    }
    // Of one fault one line.
    let free = view.free.filter(|free| *free < LOW_DISK_BYTES && view.failing.is_none());
    if let Some(free) = free {
        let free = thousands(usize::try_from(free / 1_000_000).unwrap_or(0));
        let words = format!(
            "Ledger: {free} MB are free on the disk of {}; without room nothing can be recorded.",
            view.ledger
        );
        writeln!(out, "{}", fold(&words, 2))?;
    }
    Ok(())
}

/// What explains everything else, if it is so.
pub(super) fn shadow(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    if view.shadow {
        writeln!(out, "report: shadow: nothing is posted (`diff` compares with Waldur).")?;
    }
    Ok(())
}

pub(super) fn daemon(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    let Some(daemon) = &view.daemon else {
        let words = "Daemon: none is running. Only `flush --collect` (by hand, cron or a timer) measures and reports.";
        writeln!(out, "{}", fold(words, 2))?;
        return Ok(());
    };
    running(out, daemon, view.now)?;
    if let Some(words) = &view.differs {
        writeln!(out, "{}", fold(&format!("  {words}"), 2))?;
    }
    Ok(())
}

/// A daemon that runs, and whether its last reload was refused.
pub(super) fn running(out: &mut dyn Write, daemon: &Running, now: Timestamp) -> Result<(), Failed> {
    let since = daemon.told.as_ref().map(|told| format!(", since {}", moment(told.since, now)));
    writeln!(out, "{}", fold(&format!("Daemon: {}{}.", daemon.name(), since.unwrap_or_default()), 2))?;
    if let Some((at, words)) = daemon.told.as_ref().and_then(DaemonState::refusal) {
        let words = cut(&words, 300);
        writeln!(out, "{}", fold(&format!("  Reload refused at {}: {words}", moment(at, now)), 4))?;
    }
    Ok(())
}

pub(super) fn server(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    let server = &view.server;
    if let Some(other) = &server.other {
        writeln!(out, "{}", fold(&format!("Waldur: {}.", other.words()), 2))?;
        writeln!(out, "{}", fold(&format!("  {}", Cause::OtherServer.remedy()), 2))?;
        return Ok(());
    }
    if let Some(paused) = &server.paused {
        let since = paused.since.map_or(String::new(), |at| format!(" since {}", moment(at, view.now)));
        let tries = match paused.retry.failures {
            1 => "1 try".to_owned(),
            number => format!("{number} tries"),
        };
        let (cause, next) = (paused.cause.words(), soon(paused.retry.next, view.now));
        let words = cut(&paused.retry.words, 250);
        let line = format!("Waldur: {cause}{since} ({tries}), paused until {next}: {words}");
        writeln!(out, "{}\n{}", fold(&line, 2), fold(&format!("  {}", paused.cause.remedy()), 2))?;
    }
    for one in server.without_role.iter().take(FEW) {
        let (offering, since) = (one.words(), moment(one.since, view.now));
        let line = format!("Waldur: the token has no role for offering {offering}, known since {since}.");
        writeln!(out, "{}\n{}", fold(&line, 2), fold(&format!("  {}", Cause::Role.remedy()), 2))?;
    }
    if let Some((since, words)) = &server.reports_refused {
        let (since, words) = (moment(*since, view.now), cut(words, 250));
        let line = format!("Waldur: all that is posted is refused since {since}: {words}");
        writeln!(out, "{}\n{}", fold(&line, 2), fold(&format!("  {}", Cause::Role.remedy()), 2))?;
    }
    if server.paused.is_none() && !server.is_refused() {
        let answered = server.answered.map(|at| format!("answered at {}", moment(at, view.now)));
        let answered = answered.unwrap_or_else(|| "not asked yet".to_owned());
        writeln!(out, "{}", fold(&format!("Waldur: {} {answered}.", view.url), 2))?;
    }
    if let Some(skew) = server.skew.filter(|skew| skew.abs() > SKEW_SHOWN_US) {
        let (apart, way) = (span(skew.abs() / 1_000_000), if skew > 0 { "ahead of" } else { "behind" });
        writeln!(out, "  Its clock is {apart} {way} ours; synchronise them.")?;
    }
    Ok(())
}

pub(super) fn collectors(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    let mut left = 0;
    let is_told = |one: &&Collector| {
        one.is_in_trouble(view.failing.is_some()) || view.daemon.is_some() && one.missed_lately(view.now)
    };
    for (index, collector) in view.collectors.iter().filter(is_told).enumerate() {
        match index < FEW {
            true => troubles_of(out, collector, view)?,
            false => left += 1,
        }
    }
    if left > 0 {
        writeln!(out, "  and {}: `status --all`", count(left, "more collector"))?;
    }
    Ok(())
}

/// Hosts of which nothing comes, and what fails on others.
pub(super) fn agents(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    let mut lines = Vec::new();
    for agent in &view.agents {
        if agent.is_away(view.now) {
            lines.push(format!("{}: nothing since {}", agent.name, moment(agent.looked, view.now)));
        } else if agent.fails() {
            for (collector, why) in &agent.failing {
                lines.push(format!("{}: collector {collector} failed: {}", agent.name, cut(why, 120)));
            }
        }
        if agent.retired.is_none() && agent.is_twice {
            let name = &agent.name;
            lines.push(format!(
                "{name}: two hosts use this name; what the second measures waits on it (`agent:`)"
            ));
        }
        if agent.retired.is_none() && agent.skew.abs() > CLOCKS_AGREE {
            let apart = span(agent.skew.abs().as_secs());
            lines.push(format!("{}: its clock is {apart} from the database's", agent.name));
        }
    }
    for line in lines.iter().take(SHOWN) {
        writeln!(out, "{}", fold(&format!("Host {line}"), 2))?;
    }
    if let Some(left) = lines.len().checked_sub(SHOWN).filter(|left| *left > 0) {
        writeln!(out, "  and {} more: `agents list`", thousands(left))?;
    }
    view.of_hosts.write(out, view.now)
}

/// What is wrong with a collector, in one sentence.
pub(super) fn troubles_of(out: &mut dyn Write, one: &Collector, view: &View) -> Result<(), Failed> {
    let troubles = one.troubles(view.now, (view.daemon.is_some(), view.failing.is_some())).join("; ");
    if !troubles.is_empty() {
        writeln!(out, "{}", fold(&format!("Collector {}: {troubles}", one.report.name), 2))?;
    }
    Ok(())
}

pub(super) fn readings(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    for (backend_id, names) in view.left.several.iter().take(FEW) {
        let line =
            format!("Held: the backend id {backend_id} is that of several resources that live: {names}");
        writeln!(out, "{}\n  correct the backend ids in Waldur", fold(&line, 2))?;
    }
    for event in view.held_readings.iter().take(FEW) {
        writeln!(out, "{}", fold(&format!("Held: {}", event.sentence(None)), 2))?;
    }
    let left = view.held_readings.len().saturating_sub(FEW) + view.left.several.len().saturating_sub(FEW);
    if left > 0 {
        writeln!(out, "  and {} more: `parked list`", thousands(left))?;
    }
    Ok(())
}

fn troubles(out: &mut dyn Write, ledger: &Ledger, view: &View) -> Result<(), Failed> {
    let troubled =
        |state: AmountState| view.resources.iter().filter(move |one| one.state == state).collect::<Vec<_>>();
    let put_off = put_off(view);
    let words = AmountState::ALL.into_iter().filter(|state| *state < AmountState::Pending);
    let states = words.clone().filter(|state| !troubled(*state).is_empty()).count();
    let shown = (SHOWN / (states + usize::from(!put_off.is_empty())).max(1)).max(1);
    for state in words {
        let resources = troubled(state);
        for resource in resources.iter().take(shown) {
            let Some((sentence, remedy)) = trouble(ledger, view, resource)? else { continue };
            writeln!(out, "{}", fold(&sentence, 2))?;
            if !remedy.is_empty() {
                writeln!(out, "{}", fold(&format!("  {remedy}"), 2))?;
            }
        }
        let left = resources.len().saturating_sub(shown);
        if left > 0 {
            writeln!(out, "  and {} more: `status --state {}`", thousands(left), state.name())?;
        }
    }
    for sentence in put_off.iter().take(shown) {
        writeln!(out, "{}", fold(sentence, 2))?;
    }
    if put_off.len() > shown {
        writeln!(out, "  and {} more: `status --state pending`", thousands(put_off.len() - shown))?;
    }
    Ok(())
}

fn unmatched(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    let kinds = [
        ("Unmatched", "that Waldur knows no resource for", view.left.unmatched(None)),
        ("New", "that Waldur was not asked for yet", view.left.not_asked()),
    ];
    for (heading, what, ids) in kinds.into_iter().filter(|(.., ids)| !ids.is_empty()) {
        let named: Vec<_> = ids.iter().take(FEW).map(|id| name(id)).collect();
        let more = if ids.len() > named.len() { " ... (`status --all`)" } else { "" };
        let ids = count(ids.len(), "backend id");
        writeln!(out, "{}", fold(&format!("{heading}: {ids} {what}: {}{more}", named.join(", ")), 2))?;
        if heading == "Unmatched" {
            let words =
                format!("  collector {}: {UNMATCHED_REMEDY}", view.left.collectors_of_unmatched().join(", "));
            writeln!(out, "{}", fold(&words, 2))?;
        }
    }
    let unplaced: Vec<&UnassignedSeries> = view.left.unplaced(None).collect();
    for one in unplaced.iter().take(FEW) {
        let words =
            format!("No resource: {} series of collector {}: {}", one.series, one.collector, one.why.words());
        writeln!(out, "{}", fold(&words, 2))?;
    }
    if unplaced.len() > FEW {
        writeln!(out, "  and {} more: `status --all`", thousands(unplaced.len() - FEW))?;
    }
    Ok(())
}

pub(super) fn summary(out: &mut dyn Write, view: &View) -> Result<(), Failed> {
    if view.resources.is_empty() {
        writeln!(out, "No amounts yet.")?;
        return Ok(());
    }
    let counts = view.summary();
    // What is well first: it is what most are.
    let order = [
        AmountState::Agreed,
        AmountState::Pending,
        AmountState::Held,
        AmountState::Parked,
        AmountState::Stranded,
        AmountState::Unused,
        AmountState::Shadow,
    ];
    let told = order.iter().filter_map(|state| {
        let number = counts.get(state)?;
        Some(format!("{} {}", thousands(*number), state.name()))
    });
    // By its exit code that is pending, too.
    let also = match view.also_pending() {
        0 => String::new(),
        number => format!(" {} of them with something pending, too.", thousands(number)),
    };
    let all = thousands(view.resources.len());
    let noun = if view.resources.len() == 1 { "resource" } else { "resources" };
    let rest = match view.left.rest {
        0 => String::new(),
        number => format!(" {} left by the closing of a month.", count(number, "amount")),
    };
    let line = format!("{all} {noun}: {}.{also}{rest}", told.collect::<Vec<_>>().join(", "));
    writeln!(out, "{}", fold(&line, 2))?;
    Ok(())
}
