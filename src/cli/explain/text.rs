//! `explain` for people: the posted number, tables that can be added up, and what else went into it. Amounts are decimals;
//! where a decimal is not exact, the fraction stands beside it.

use std::io::Write;

use super::days::{Group, Line, groups};
use super::{SeriesPart, Shown};
use crate::cli::exit::Failed;
use crate::cli::setup::count;
use crate::cli::status::entry::told;
use crate::cli::table::table;
use crate::cli::text::{exactly, fold, number, seconds, shorten, thousands};
use crate::ledger::sent::decision::Decision;
use crate::ledger::sent::statement::Entry;
use crate::ledger::views::adjustments::Kind;
use crate::ledger::views::explain::ReadingPart;
use crate::metering::exact::Exact;
use crate::metering::measure::Measure;

/// Rows of readings and of calls, the last ones.
const SHOWN: usize = 40;

pub(super) fn write(out: &mut dyn Write, shown: &Shown) -> Result<(), Failed> {
    head(out, shown)?;
    shares(out, shown)?;
    let groups = groups(&shown.parts);
    for group in &groups {
        meter(out, shown, group)?;
    }
    if groups.len() > 1 {
        let sum: Exact = groups.iter().map(Group::amount).sum();
        writeln!(out, "\nall together {} {}", number(&sum), unit(shown))?;
    }
    if shown.of.readings {
        for part in &shown.parts {
            readings(out, part)?;
        }
    } else if shown.parts.iter().any(|part| !part.readings.is_empty()) {
        let all: usize = shown.parts.iter().map(|part| part.readings.len()).sum();
        let noun = if all == 1 { "reading" } else { "readings" };
        writeln!(out, "\n{} {noun}: --readings shows them", thousands(all))?;
    }
    events(out, shown)?;
    calls(out, shown)
}

fn unit(shown: &Shown) -> &str {
    shown.unit.as_deref().unwrap_or_default()
}

/// What Waldur is not known to hold is not posted yet.
fn label(shown: &Shown) -> &'static str {
    let is_there = |entry: &Entry| match (entry.posted, &entry.acknowledged) {
        (Some(posted), Some(acknowledged)) => posted == acknowledged.amount && !entry.differs(),
        (posted, None) => posted.is_none_or(|posted| posted.is_zero()),
        (None, Some(_)) => false,
    };
    if shown.entries.iter().all(is_there) { "posted" } else { "to post" }
}

fn head(out: &mut dyn Write, shown: &Shown) -> Result<(), Failed> {
    let known = shown.known.as_ref();
    let name = known.map_or_else(|| shown.resource.to_string(), |k| format!("{} ({})", k.name, k.uuid));
    let of = &shown.of;
    let whose = of.user.as_ref().map_or(String::new(), |user| format!(", share of {user}"));
    writeln!(out, "{}", fold(&format!("{} of {name}, {}{whose}", of.component, shown.period), 2))?;
    let mut line = |text: String| writeln!(out, "{}", fold(&text, 12));
    let (posted, amount) = (shown.posted(), shown.amount());
    let posted = posted.unwrap_or_else(|| "nothing: it can't be posted".to_owned());
    line(format!("  {:<9} {posted} {}", label(shown), unit(shown)))?;
    let rounding = shown.parts.first().map_or("half_even", |part| part.rounding.name());
    line(format!("  used      {} {}, rounded {rounding}", exactly(&amount), unit(shown)))?;
    for (entry, holds) in shown.entries.iter().zip(&shown.holds) {
        match holds {
            Some(held) => line(format!("  Waldur    {:.2}, {} {}", held.amount, held.how, seconds(held.at)))?,
            None => line("  Waldur    not known to hold it yet".to_owned())?,
        }
        if let Some(block) = &entry.block {
            line(format!("  {:<9} {}: {}", block.state, block.reason, block.words))?;
        }
    }
    for decided in &shown.decisions {
        let who = if decided.by_itself { "`on_conflict`" } else { "a person" };
        let held = format!("Waldur's {:.2}", decided.held);
        let what = match decided.decision {
            Decision::Overwrite => format!("{held} is replaced by the ledger's number"),
            Decision::Adopt { .. } => format!("{held} is the opening balance"),
        };
        line(format!("  decided   by {who}, {}: {what}", seconds(decided.at)))?;
    }
    for one in &shown.adjustments {
        let sign = if matches!(one.kind, Kind::CarriedTo(_) | Kind::GivenUp) { "less" } else { "with" };
        line(format!("  {sign}      {}", told(one)))?;
        if matches!(one.kind, Kind::Opening(_)) {
            line("            usage before that instant is not counted again".to_owned())?;
        }
    }
    Ok(())
}

fn shares(out: &mut dyn Write, shown: &Shown) -> Result<(), Failed> {
    if shown.of.user.is_some() || shown.shares.iter().all(|share| share.user.is_none()) {
        return Ok(());
    }
    writeln!(out, "\nshared out as")?;
    let mut rows = table(["user", "used", "rounded alone", label(shown), "note"]).numbers(&[2, 3]);
    for share in &shown.shares {
        let posted = share.posted.map_or("-".to_owned(), |posted| format!("{posted:.2}"));
        let note = if posted == share.alone { "" } else { "adjusted: the shares sum to the total" };
        let user = share.user.as_deref().map_or("(unattributed)".to_owned(), |user| shorten(user, 24));
        rows.add_row([&user, &exactly(&share.exact), &share.alone, &posted, note]);
    }
    writeln!(out, "{rows}")?;
    Ok(())
}

/// What one meter made, by day and by series.
fn meter(out: &mut dyn Write, shown: &Shown, group: &Group<'_>) -> Result<(), Failed> {
    let first = group.parts[0];
    let unit_of_readings = first.unit.as_ref().map_or(String::new(), |unit| format!(", {unit}"));
    let (kind, reading, factor) = (first.kind, &first.reading, &first.factor_as_written);
    let of = format!("collector {}, {kind} {reading}{unit_of_readings}", first.collector);
    writeln!(out, "\n{}", fold(&format!("from {of}: {}, x factor {factor}", first.measure), 2))?;
    let common = group.common();
    if !common.is_empty() {
        writeln!(out, "{}", fold(&format!("  of {}", common.join(", ")), 4))?;
    }
    if !first.weighing.is_empty() {
        writeln!(out, "{}", fold(&format!("  counts {}", first.weighing), 4))?;
    }
    let days = group.days(shown.period, &shown.zone);
    if !days.is_empty() {
        lines(out, shown, group, "day", &days)?;
    }
    if group.parts.len() > 1 || days.is_empty() || first.weight.is_none() {
        lines(out, shown, group, "series", &group.series())?;
    }
    let seconds =
        |micros: i64| jiff::SignedDuration::from_secs(jiff::SignedDuration::from_micros(micros).as_secs());
    let covered: i64 = group.parts.iter().map(|part| part.counted.covered).sum();
    let missed: i64 = group.parts.iter().map(|part| part.counted.missed).sum();
    if covered + missed > 0 {
        let gaps: i64 = group.parts.iter().map(|part| part.counted.gaps).sum();
        let gaps = count(usize::try_from(gaps).unwrap_or(0), "gap");
        let (covered, missed) = (seconds(covered), seconds(missed));
        writeln!(out, "  levels are known for {covered:#}; {missed:#} left out in {gaps}")?;
    }
    Ok(())
}

fn lines(
    out: &mut dyn Write,
    shown: &Shown,
    group: &Group<'_>,
    by: &str,
    lines: &[Line],
) -> Result<(), Failed> {
    let named = |name: &str, unit: &str| match unit.is_empty() {
        true => name.to_owned(),
        false => format!("{name} ({unit})"),
    };
    // A long unit would take the columns of the others.
    let (adds, amount) =
        (named("adds", &shorten(&group.unit(), 12)), named("makes", &shorten(unit(shown), 12)));
    let mut rows = table([by, &adds, &amount, "readings", "note"]).numbers(&[1, 2, 3]);
    let cell = |value: &Option<Exact>| value.as_ref().map_or("-".to_owned(), number);
    for line in lines {
        rows.add_row([
            line.name.clone(),
            cell(&line.adds),
            cell(&line.amount),
            line.readings.to_string(),
            line.notes.join("; "),
        ]);
    }
    let readings: usize = lines.iter().map(|line| line.readings).sum();
    rows.add_row([
        "total".to_owned(),
        number(&group.adds()),
        number(&group.amount()),
        readings.to_string(),
        String::new(),
    ]);
    writeln!(out, "{rows}")?;
    Ok(())
}

fn readings(out: &mut dyn Write, part: &SeriesPart) -> Result<(), Failed> {
    let labels: Vec<_> = part.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let user = part.user.as_ref().map_or(String::new(), |user| format!(", user {user}"));
    let host = if part.agent.is_empty() { String::new() } else { format!(", on {}", part.agent) };
    let of = format!("readings of {} {} {{{}}}{host}{user}", part.collector, part.reading, labels.join(", "));
    writeln!(out, "\n{}", fold(&of, 2))?;
    if part.weight.is_none() {
        writeln!(out, "{}", fold(&format!("  which do not count: {}", part.weighing), 4))?;
        return Ok(());
    }
    let mut rows = table(["read at", "from", "id", "value", "adds", "elsewhere", "note"]);
    let skipped = part.readings.len().saturating_sub(SHOWN);
    let counts = one_that_counts(part);
    for (index, reading) in part.readings.iter().enumerate().skip(skipped) {
        let note = match (&reading.value, reading.reset, reading.missed > 0) {
            _ if counts == Some(index) => "this one counts",
            _ if !reading.held.is_zero() => "held: more than can be believed",
            _ if reading.opened => "before the opening balance, which has it",
            (None, _, _) => "gone: a complete run did not see it",
            (_, true, _) => "reset: counted from zero",
            (_, _, true) => "gap before it left out",
            _ => "",
        };
        rows.add_row([
            seconds(reading.at),
            reading.start.map_or(String::new(), seconds),
            shorten(&reading.id, 16),
            reading.value.clone().unwrap_or_else(|| "-".to_owned()),
            match (part.counting, counts == Some(index)) {
                (Measure::Level | Measure::Max(_), true) => number(&part.quantity),
                (Measure::Level | Measure::Max(_), false) => "-".to_owned(),
                _ => number(&reading.added),
            },
            number(&reading.added_elsewhere),
            note.to_owned(),
        ]);
    }
    if skipped > 0 {
        let (shown, all) = (thousands(SHOWN), thousands(part.readings.len()));
        writeln!(out, "  the last {shown} of {all} readings; --json has all")?;
    }
    writeln!(out, "{rows}")?;
    Ok(())
}

/// Of a level or a maximum, which reading it is: the last one that has it.
fn one_that_counts(part: &SeriesPart) -> Option<usize> {
    if !matches!(part.counting, Measure::Level | Measure::Max(_)) {
        return None;
    }
    let is_it = |reading: &ReadingPart| {
        let value = reading.value.as_ref().and_then(|value| value.parse::<Exact>().ok());
        reading.held.is_zero() && value.as_ref() == Some(&part.quantity)
    };
    part.readings.iter().rposition(is_it)
}

fn events(out: &mut dyn Write, shown: &Shown) -> Result<(), Failed> {
    if shown.events.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nwhat happened beside readings")?;
    for event in &shown.events {
        let line = format!("  {} {}: {}", seconds(event.at), event.kind, event.words);
        writeln!(out, "{}", fold(&line, 4))?;
    }
    Ok(())
}

fn calls(out: &mut dyn Write, shown: &Shown) -> Result<(), Failed> {
    if shown.calls.is_empty() {
        return Ok(());
    }
    let skipped = shown.calls.len().saturating_sub(SHOWN);
    match skipped {
        0 => writeln!(out, "\nreported by")?,
        _ => writeln!(
            out,
            "\nreported by (the last {SHOWN} of {} calls; --json has all)",
            thousands(shown.calls.len())
        )?,
    }
    let mut rows = table(["at", "call", "amounts", "outcome"]);
    for call in shown.calls.iter().skip(skipped) {
        rows.add_row([&seconds(call.at), &call.call, &call.amounts, &call.outcome]);
    }
    writeln!(out, "{rows}")?;
    Ok(())
}
