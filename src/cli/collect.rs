//! `collect`: sample now, and show the readings and the amounts they make.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::exit::{Exit, Failed};
use super::progress::Progress;
use super::recorder::{Recorder, ledger_or_keep};
use super::setup::{Setup, count};
use super::table::table;
use super::text::{fold, name as shown_name, name_or, number, seconds, shorten};
use super::values::instant;
use crate::collectors::definition::Definition;
use crate::collectors::spool::Spool;
use crate::daemon::sample::{CollectedRun, Since, collect_once};
use crate::ledger::books::ingest::{Recorded, Run};
use crate::ledger::sent::statement::Statement;
use crate::ledger::views::report::Why;
use crate::ledger::{Ledger, SharedLedger};
use crate::metering::exact::Exact;
use crate::metering::meter::Meter;
use crate::metering::reading::{Reading, Span};

/// Measure now, and show the readings and the amounts they make.
///
/// The readings are recorded like those of a scheduled run; nothing is sent. With --dry-run nothing is recorded
/// either: it shows which amounts the readings would change, and how.
#[derive(Debug, Args)]
pub(super) struct Collect {
    /// Collectors to run; all if none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Record nothing; only show what would change.
    #[arg(long)]
    dry_run: bool,
    /// Read sources with history again from here, e.g. 2026-11-01T00:00:00Z; else they go on where they left off.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    since: Option<Timestamp>,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Collect {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let chosen = choose(setup, &self.names)?;
        let may_count = setup.settings.submits;
        let books = match may_count {
            true => {
                let kept = if self.dry_run { &[] } else { chosen.as_slice() };
                Some(SharedLedger::new(ledger_or_keep(setup, kept, None).await?))
            }
            false => None,
        };
        let recorder = Recorder::of(setup, books.as_ref())?;
        let mut exit = Exit::Ok;
        let mut shown = Vec::new();
        // Where the shared ledger can't be reached, all are measured and kept here, and then it is told.
        let mut away: Option<Failed> = None;
        for definition in chosen {
            let recording = match recorder.at(setup, definition) {
                Ok(Ok(recording)) => recording,
                Ok(Err(other)) => {
                    let why = format!("the collector {} is run by {other}", definition.name);
                    away.get_or_insert(Failed::new(Exit::Pending, why));
                    continue;
                }
                Err(failed) => {
                    away.get_or_insert(failed);
                    continue;
                }
            };
            let ledger = recording.ledger.clone();
            if let Some(since) = self.since {
                self.leaves_nothing_out(definition, &ledger, since).await?;
            }
            let mut from = self.since.unwrap_or_else(|| setup.since(definition));
            if !self.dry_run {
                let name = definition.name.clone();
                from = ledger.with(move |ledger| ledger.reads_from(&name, from)).await?;
            }
            let since = if self.since.is_some() { Since::Again(from) } else { Since::Checkpoint(from) };
            let progress = Progress::of(&format!("Collector {}: measuring", definition.name));
            let CollectedRun { run, readings, mut more, notes, .. } =
                collect_once(definition, &ledger, &setup.clock, since, setup.withhold()).await?;
            progress.at(&format!("Collector {}: counting", definition.name), 0, 0);
            let (dry_run, now) = (self.dry_run, setup.clock.now());
            let name = definition.name.clone();
            let agent = recording.agent.clone();
            let mut sent = None;
            let before = match &books {
                Some(books) => {
                    books
                        .with(move |books| {
                            books.append_as(&agent);
                            amounts(books, now)
                        })
                        .await
                }
                None => Ok(Amounts::new()),
            };
            if recorder.is_shared() && !dry_run {
                let (recorded, kept) = record(&ledger, run.clone(), more).await?;
                more = kept;
                sent = Some(recorded);
            }
            let before = match before {
                Ok(before) => before,
                Err(error) if recorder.is_shared() => {
                    away.get_or_insert(error.into());
                    Amounts::new()
                }
                Err(error) => return Err(error.into()),
            };
            // Once: each try may take as long as a server is waited for.
            if sent.is_some()
                && away.is_none()
                && let Err(failed) = recorder.send().await
            {
                away = Some(failed);
            }
            let (recorded, (after, unknown), more) = match books.as_ref().filter(|_| away.is_none()) {
                Some(books) => {
                    books
                        .with(move |books| {
                            let made =
                                |books: &mut Ledger| Ok((amounts(books, now)?, Unknown::of(books, &name)?));
                            let (recorded, made) = match sent {
                                _ if dry_run => books.rehearse_and(run, &mut more, made)?,
                                Some(sent) => (books.count_sent(&run, sent)?, made(books)?),
                                None => (books.record_all(run, &mut more)?, made(books)?),
                            };
                            Ok((recorded, made, more))
                        })
                        .await?
                }
                None => {
                    // On a host that only collects: what becomes of it is the business of the agent that submits.
                    let recorded = sent.unwrap_or_else(|| Recorded::of(&run, more.len()));
                    (recorded, (Amounts::new(), Unknown::default()), more)
                }
            };
            drop(progress);
            let mut sampled = Sampled { readings, more: more.len(), notes, recorded, unknown };
            if sampled.recorded.is_failure() {
                exit = exit.min(Exit::Collector);
            }
            let changes = changes(&before, &after);
            if self.json {
                sampled.readings.extend(all(more, definition)?);
                shown.push(as_json(definition, &sampled, &changes));
            } else {
                let names = names(books.as_ref().unwrap_or(&ledger)).await?;
                show(out, definition, &sampled, (&changes, &names), self.dry_run)?;
            }
        }
        if self.json {
            writeln!(out, "{:#}", json!({ "dry_run": self.dry_run, "collectors": shown }))?;
        }
        away.map_or(Ok(exit), Err)
    }

    /// The run's end becomes the collector's checkpoint: a start after the last one would leave a hole before it.
    async fn leaves_nothing_out(
        &self,
        definition: &Definition,
        ledger: &SharedLedger,
        since: Timestamp,
    ) -> Result<(), Failed> {
        let name = definition.name.clone();
        let last = ledger.with(move |ledger| Ok(ledger.collector_report(&name)?.last_success)).await?;
        match last.filter(|last| *last < since) {
            Some(last) if !self.dry_run => Err(Failed::new(
                Exit::Usage,
                format!(
                    "the collector `{}` last looked at {last}: what lies between that and {since} would be left out. \
                     Name an earlier instant, or leave --since away to go on from there",
                    definition.name
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Records a run, and gives back the readings that were too many for memory.
async fn record(ledger: &SharedLedger, run: Run, mut more: Spool) -> Result<(Recorded, Spool), Failed> {
    let done = ledger.with(move |ledger| Ok((ledger.record_all(run, &mut more)?, more))).await?;
    Ok(done)
}

/// Readings from outside of memory.
fn all(mut more: Spool, definition: &Definition) -> Result<Vec<Reading>, Failed> {
    let read = more.read().and_then(|readings| readings.collect::<std::io::Result<Vec<_>>>());
    read.map_err(|error| Failed::new(Exit::Collector, format!("collector {}: {error}", definition.name)))
}

/// What one collector said and what it changed.
#[derive(Debug)]
struct Sampled {
    readings: Vec<Reading>,
    /// Readings beside those.
    more: usize,
    notes: Vec<String>,
    recorded: Recorded,
    unknown: Unknown,
}

/// Backend ids of a collector's readings that no resource is known for: nothing of them is an amount yet.
#[derive(Debug, Default)]
struct Unknown {
    /// Waldur was not asked for them yet.
    not_asked: Vec<String>,
    /// Waldur knows none.
    unmatched: Vec<String>,
    /// Nobody can say whose they are, each in a sentence.
    others: Vec<String>,
}

impl Unknown {
    fn of(ledger: &Ledger, collector: &str) -> Result<Unknown, crate::ledger::LedgerError> {
        let mut unknown = Unknown::default();
        for one in ledger.unassigned()?.into_iter().filter(|one| one.collector == collector) {
            match one.why {
                Why::NotAsked => unknown.not_asked.push(one.backend_id),
                Why::Unmatched => unknown.unmatched.push(one.backend_id),
                Why::Several(_) | Why::Unplaced(_) => {
                    unknown.others.push(format!("  {} series: {}", one.series, one.why.words()));
                }
            }
        }
        Ok(unknown)
    }

    fn lines(&self) -> Vec<String> {
        let named = |ids: &[String]| {
            let more = if ids.len() > 5 { ", ..." } else { "" };
            let named: Vec<_> = ids.iter().take(5).map(|id| shown_name(id)).collect();
            format!("{} ({}{more})", count(ids.len(), "backend id"), named.join(", "))
        };
        let mut lines = Vec::new();
        if !self.not_asked.is_empty() {
            let ids = named(&self.not_asked);
            lines.push(format!(
                "  {ids}: Waldur was not asked for them yet, so that they are no amounts; `flush` asks"
            ));
        }
        if !self.unmatched.is_empty() {
            lines.push(format!("  {}: Waldur knows no resource for them", named(&self.unmatched)));
        }
        lines.extend(self.others.iter().cloned());
        lines
    }
}

fn choose<'a>(setup: &'a Setup, names: &[String]) -> Result<Vec<&'a Definition>, Failed> {
    let known =
        || setup.definitions.iter().map(|definition| definition.name.as_str()).collect::<Vec<_>>().join(", ");
    for name in names {
        if !setup.definitions.iter().any(|definition| definition.name == *name) {
            return Err(Failed::new(
                Exit::Usage,
                format!("there is no collector `{name}`; there are: {}", known()),
            ));
        }
    }
    let asked = |d: &&Definition| if names.is_empty() { !d.elsewhere } else { names.contains(&d.name) };
    let chosen = setup.definitions.iter().filter(asked);
    Ok(chosen.collect())
}

/// (resource, period, component, user) to (exact, posted).
type Amounts = BTreeMap<(String, String, String, String), (String, String)>;

fn amounts(ledger: &mut Ledger, now: Timestamp) -> Result<Amounts, crate::ledger::LedgerError> {
    ledger.state(now)?;
    let mut found = Amounts::new();
    for Statement { key, components, users, .. } in ledger.statements(None)? {
        let place = |component: &str, user: &str| {
            (key.resource.to_string(), key.period.to_string(), component.to_owned(), user.to_owned())
        };
        let posted =
            |posted: Option<rust_decimal::Decimal>| posted.map_or("-".to_owned(), |p| format!("{p:.2}"));
        for (component, entry) in components {
            found.insert(place(&component, ""), (entry.exact, posted(entry.posted)));
        }
        for ((component, user), entry) in users {
            found.insert(place(&component, &user), (entry.exact, posted(entry.posted)));
        }
    }
    Ok(found)
}

type Change = ((String, String, String, String), Option<(String, String)>, Option<(String, String)>);

fn changes(before: &Amounts, after: &Amounts) -> Vec<Change> {
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .map(|key| (key.clone(), before.get(key).cloned(), after.get(key).cloned()))
        .filter(|(_, before, after)| before != after)
        .collect()
}

/// What resources are called, by their UUIDs.
async fn names(ledger: &SharedLedger) -> Result<BTreeMap<String, String>, Failed> {
    let known = ledger.with(|ledger| ledger.resources()).await?.into_iter();
    Ok(known.map(|known| (known.uuid.to_string(), name_or(&known.name, known.uuid))).collect())
}

fn show(
    out: &mut dyn Write,
    definition: &Definition,
    sampled: &Sampled,
    (changes, names): (&[Change], &BTreeMap<String, String>),
    dry_run: bool,
) -> Result<(), Failed> {
    let recorded = &sampled.recorded;
    writeln!(out, "{} ({})", definition.name, definition.plugin.name)?;
    if let Some(error) = &recorded.failed {
        let line = fold(&format!("  failed: {error}"), 4);
        writeln!(out, "{line}\n  Its last known amounts stand as they are.")?;
        return Ok(());
    }
    for problem in &recorded.problems {
        writeln!(out, "{}", fold(&format!("  problem: {problem}"), 4))?;
    }
    for note in &sampled.notes {
        writeln!(out, "{}", fold(&format!("  note: {note}"), 4))?;
    }
    if !sampled.readings.is_empty() {
        for reading in sampled.readings.iter().take(SHOWN) {
            writeln!(out, "{}", fold(&format!("  {}", one_line(reading)), 6))?;
            let labels = labels(reading);
            if !labels.is_empty() {
                writeln!(out, "{}", fold(&format!("    {labels}"), 6))?;
            }
        }
        let others = (sampled.readings.len() + sampled.more).saturating_sub(SHOWN);
        if others > 0 {
            writeln!(out, "  ... and {others} more (--json shows all)")?;
        }
    }
    for meter in definition.rules.meters.iter().filter(|meter| !meter.weighing.is_even()) {
        let (counted, of) = weighed(meter, &sampled.readings);
        let first = if sampled.more > 0 { "the first " } else { "" };
        let (component, reading, rule) = (&meter.component, &meter.reading, &meter.weighing);
        let line = format!("  {component} counts {counted} of {first}{of} readings of {reading}: {rule}");
        writeln!(out, "{}", fold(&line, 4))?;
    }
    for bad in &recorded.quarantined {
        let line = format!("  quarantined, not billed: {}: {}", bad.reason, bad.what);
        writeln!(out, "{}", fold(&line, 4))?;
    }
    let verb = if dry_run { "would be" } else { "were" };
    let counted = count(recorded.readings, "reading");
    writeln!(out, "  {counted}: {} {verb} new, {} {verb} corrected", recorded.new, recorded.corrected)?;
    for line in sampled.unknown.lines() {
        writeln!(out, "{}", fold(&line, 4))?;
    }
    if changes.is_empty() {
        if sampled.unknown.not_asked.is_empty() {
            writeln!(out, "  no amount {}", if dry_run { "would change" } else { "changed" })?;
        }
        return Ok(());
    }
    // By resource, so that its name is said once.
    let mut changes = changes.iter().peekable();
    while let Some(((resource, period, ..), ..)) = changes.peek() {
        writeln!(out, "{}", fold(&format!("  {}, {period}", names.get(resource).unwrap_or(resource)), 4))?;
        let mut rows = table(["component", "user", "before", "after", "to post"]).numbers(&[2, 3, 4]);
        let same = |one: &&Change| one.0.0 == *resource && one.0.1 == *period;
        while let Some(((_, _, component, user), before, after)) = changes.next_if(same) {
            let amount = |side: &Option<(String, String)>| {
                let exact = side.as_ref().and_then(|(exact, _)| exact.parse::<Exact>().ok());
                exact.map_or("-".to_owned(), |exact| number(&exact))
            };
            let posted = after.as_ref().map_or("-".to_owned(), |(_, posted)| posted.clone());
            let user = if user.is_empty() { "(total)".to_owned() } else { shorten(user, 24) };
            rows.add_row([shorten(component, 24), user, amount(before), amount(after), posted]);
        }
        writeln!(out, "{rows}")?;
    }
    Ok(())
}

/// How many readings a meter with rules about labels counts, of how many.
fn weighed(meter: &Meter, readings: &[Reading]) -> (usize, usize) {
    let of_meter = || readings.iter().filter(|reading| reading.name == meter.reading);
    let counted = of_meter().filter(|reading| meter.weighing.weigh(&reading.labels).is_some()).count();
    (counted, of_meter().count())
}

/// Readings shown to a person.
const SHOWN: usize = 50;

/// `cpu_seconds 5400 s (delta), 2026-11-09 00:00:00Z to 2026-11-09 02:00:00Z, id 7`
fn one_line(reading: &Reading) -> String {
    let when = match reading.span {
        Span::At(at) => seconds(at),
        Span::Interval { start, end } => format!("{} to {}", seconds(start), seconds(end)),
    };
    let unit = reading.unit.as_ref().filter(|unit| *unit != "1");
    let unit = unit.map_or(String::new(), |unit| format!(" {unit}"));
    let id = reading.id.as_ref().map_or(String::new(), |id| format!(", id {id}"));
    format!("{} {}{unit} ({}), {when}{id}", reading.name, reading.value.normalize(), reading.kind)
}

fn labels(reading: &Reading) -> String {
    reading
        .labels
        .iter()
        .map(|(name, value)| format!("{}={}", shown_name(name), shown_name(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn as_json(definition: &Definition, sampled: &Sampled, changes: &[Change]) -> serde_json::Value {
    let recorded = &sampled.recorded;
    let readings: Vec<_> = sampled
        .readings
        .iter()
        .map(|reading| {
            json!({
                "name": reading.name, "kind": reading.kind.name(), "value": reading.value.normalize().to_string(),
                "unit": reading.unit, "start": reading.span.start().to_string(), "end": reading.span.end().to_string(),
                "labels": reading.labels, "id": reading.id,
            })
        })
        .collect();
    let quarantined: Vec<_> =
        recorded.quarantined.iter().map(|bad| json!({ "what": bad.what, "reason": bad.reason })).collect();
    let changes: Vec<_> = changes
        .iter()
        .map(|((resource, period, component, user), before, after)| {
            let side = |side: &Option<(String, String)>| {
                side.as_ref().map(|(exact, posted)| json!({ "amount": exact, "posted": posted }))
            };
            json!({
                "resource": resource, "period": period, "component": component,
                "user": if user.is_empty() { None } else { Some(user) },
                "before": side(before), "after": side(after),
            })
        })
        .collect();
    let meters = definition.rules.meters.iter().filter(|meter| !meter.weighing.is_even());
    let weighing: BTreeMap<_, _> =
        meters.map(|meter| (meter.component.clone(), meter.weighing.to_string())).collect();
    json!({
        "name": definition.name,
        "outcome": if recorded.failed.is_some() { "failed" } else if recorded.problems.is_empty() { "ok" } else { "partial" },
        "error": recorded.failed, "problems": recorded.problems, "notes": sampled.notes,
        "weighing": weighing, "readings": readings, "new": recorded.new, "corrected": recorded.corrected,
        "quarantined": quarantined, "changes": changes, "not_asked": sampled.unknown.not_asked,
        "unmatched": sampled.unknown.unmatched,
    })
}
