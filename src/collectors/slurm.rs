//! Reads what jobs used from SLURM's accounting database, through `sacct`: one call for all accounts and users of a
//! window, taken line by line as it comes.
//!
//! It asks for little each time: an hour that was read before, and three days once a day. A window that slurmdbd refuses is
//! read in halves. It takes whole records, never ones cut to the window (`--truncate`): a reading with the same identity replaces the
//! one before, so a cut one would take usage away. It reads no free text, so that no job's name can pass for a column.
//! It only asks; it changes nothing in SLURM.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::again::is_due;
use super::finish::AHEAD;
use super::{Batch, Bearing, Collector, CollectorError, Offered, Plugin, Request, Running};
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::metering::reading::Kind;
use accounts::Accounts;
use calls::{Calls, Source};
use checkpoint::{Checkpoint, Number};
use job::Options;
use known::Known;
use reader::{Reader, Setting};
use windows::Windows;

mod accounts;
mod calls;
mod checkpoint;
mod job;
mod known;
mod reader;
mod tres;
mod unread;
mod windows;

pub const PLUGIN: Plugin =
    Plugin { name: "slurm", about: "what SLURM jobs used, as sacct tells", is_shared: true, build };

const OFFERS: &[Offered] = &[
    Offered { name: "cpu_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "memory_byte_seconds", kind: Kind::Delta, unit: "B*s" },
    Offered { name: "node_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "gpu_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "billing_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "elapsed_seconds", kind: Kind::Delta, unit: "s" },
];

const LABELS: &[&str] = &["account", "user", "partition", "qos", "cluster", "state", "reservation"];
const LABELS_WITH_TOP: &[&str] =
    &["account", "user", "partition", "qos", "cluster", "state", "reservation", "top_account"];

const DEFAULT_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
const DEFAULT_OVERLAP: SignedDuration = SignedDuration::from_hours(1);
/// How far back is read once a day.
const DAYS: SignedDuration = SignedDuration::from_hours(3 * 24);

/// A configured collector.
#[derive(Debug)]
struct Slurm {
    source: Source,
    overlap: SignedDuration,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err(format!("`{text}` must be an absolute path")) }
    };
    let programs = section.parse_with("programs", absolute);
    let slurm_conf = section.parse_with("slurm_conf", absolute);
    let clusters = section.texts("clusters").unwrap_or_default();
    if let Some(odd) = clusters.iter().find(|name| !is_name(name)) {
        section.problem("clusters", format!("`{odd}` is not the name of a cluster"));
    }
    let requested = section.parse_with("tres", |text| match text {
        "allocated" => Ok(false),
        "requested" => Ok(true),
        other => Err(format!("`{other}` is neither `allocated` nor `requested`")),
    });
    let account_level = section.parse_with("account_level", |text| match text.parse::<usize>() {
        Ok(level @ 1..=50) => Ok(level),
        _ => Err(format!("`{text}` is no level: 1 is an account right below root, 2 one below that")),
    });
    let lower_case = section.flag("lower_case").unwrap_or(false);
    let overlap = section.parse_with("overlap", parse_duration);
    let timeout = section.parse_with("timeout", parse_duration);
    // Only what a meter wants is made: a month of a large site has millions of readings.
    let wanted: BTreeSet<String> =
        section.named_sections("meters").iter_mut().filter_map(|meter| meter.text("reading")).collect();
    let options = Options { wanted, requested: requested.unwrap_or(false), account_level, lower_case };
    Some(Box::new(Slurm {
        source: Source {
            programs,
            slurm_conf,
            clusters,
            options: Arc::new(options),
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        },
        overlap: overlap.unwrap_or(DEFAULT_OVERLAP),
    }))
}

/// Whether it can stand in an argument list that commas divide.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// What a run reads.
struct Spans {
    /// From here to now, in any case.
    start: Timestamp,
    /// From here to there, when that has been done.
    before: Option<Timestamp>,
}

impl Slurm {
    async fn run(&self, request: Request) -> Result<Batch, CollectorError> {
        let now = request.now;
        let mut left = Checkpoint::parse(request.checkpoint.as_deref().unwrap_or_default(), &self.scope());
        // One that lies ahead was left by a clock that was wrong: what has been read is not known.
        let ahead = now.saturating_add(AHEAD).unwrap_or(now);
        left.read_to = left.read_to.filter(|read_to| *read_to <= ahead);
        let is_first = left.read_to.is_none();
        let Spans { start, before } = self.spans(&mut left, &request);
        if start >= now {
            let note = format!("nothing is read before {start}, which lies ahead");
            return Ok(Batch { notes: vec![note], ..Batch::default() });
        }
        let calls = Calls::new(&self.source, &request);
        let mut notes = Vec::new();
        if is_first {
            notes.extend(calls.private_data().await);
            notes.extend(calls.uncounted().await);
        }
        if !self.source.clusters.is_empty() {
            calls.know_clusters().await?;
        }
        let accounts = match self.source.options.account_level {
            Some(_) => calls.accounts().await?,
            None => Accounts::default(),
        };
        let setting = Setting {
            options: self.source.options.clone(),
            accounts,
            now,
            from: left.from,
            known: Known::read(&left.known),
            unread: left.unread.iter().map(|job| job.number.clone()).collect(),
            is_local: self.source.clusters.is_empty(),
        };
        let mut reader = Reader::new(setting, std::mem::take(&mut left.running));
        reader.batch.notes = notes;
        let own = [String::new()];
        let clusters =
            if self.source.clusters.is_empty() { own.as_slice() } else { self.source.clusters.as_slice() };
        let mut windows = Windows::new(start, now, left.windows.cuts(start, now), left.window);
        reader = windows.read(&calls, clusters, reader).await?;
        if !windows.has_read() {
            // Not one call was answered.
            return Err(CollectorError(windows.troubles().join("; ")));
        }
        left.window = windows.next_length();
        let reached = windows.reached();
        for trouble in windows.troubles() {
            let text = format!("{trouble}. What lies behind {reached} is read by the next runs");
            reader.batch.problem_of(text, Bearing::nothing());
        }
        let mut looks = windows.into_looks();
        if let Some(first) = before.filter(|_| reached >= now) {
            // After what is new, so that nothing old can hold it up.
            let mut windows = Windows::new(first, start, left.windows.cuts(first, start), None);
            reader = windows.read(&calls, clusters, reader).await?;
            for trouble in windows.troubles() {
                let text = format!(
                    "{trouble}. What was to be read again, from {first} to {start}, is asked for later"
                );
                reader.batch.problem_of(text, Bearing::nothing());
            }
            looks.extend(windows.into_looks());
            left.days_at = Some(now);
        }
        if is_first {
            left.days_at = Some(now);
        }
        let asked = unread::to_ask(&left.unread, &reader, reached >= now);
        let (mut reader, gone) = self.by_number(&calls, &asked, reader, reached >= now).await?;
        reader.contradictions()?;
        left.windows.looked(&looks, now);
        let unread = unread::after(std::mem::take(&mut left.unread), &mut reader, &gone, now);
        unread::give_up(&mut left.windows, &mut reader.batch, now);
        let checkpoint = Checkpoint {
            // Where one window of several clusters was refused, what had been read before stays read.
            read_to: Some(left.read_to.map_or(reached, |read_to| read_to.max(reached))),
            running: reader.running,
            unread,
            known: known::write(&reader.hashes),
            ..left
        };
        reader.batch.checkpoint = Some(checkpoint.text());
        Ok(reader.batch)
    }

    /// What to read. SLURM is asked for little each time, and once a day for what reached its database late.
    fn spans(&self, left: &mut Checkpoint, request: &Request) -> Spans {
        let Some(read_to) = left.read_to else {
            left.from = Some(left.from.map_or(request.since, |from| from.min(request.since)));
            return Spans { start: request.since, before: None };
        };
        if left.from.is_some_and(|from| request.since < from) {
            // It is wanted from earlier than before.
            left.from = Some(request.since);
            return Spans { start: request.since, before: None };
        }
        let behind = |overlap| {
            let start = read_to.saturating_sub(overlap).unwrap_or(request.since);
            left.from.map_or(start, |from| start.max(from))
        };
        let start = behind(self.overlap);
        let now = request.now;
        let days = left.days_at.is_none_or(|at| is_due(at, now)).then(|| behind(DAYS));
        let unread = left.windows.due(now).first().map(|(from, _)| *from);
        let before = days.into_iter().chain(unread).min().filter(|before| *before < start);
        Spans { start, before }
    }

    /// Asks by number for jobs that ran at the last look and that no window lists, and for those that could not be read.
    /// Returns those of the latter that are not there any more.
    async fn by_number(
        &self,
        calls: &Calls<'_>,
        asked: &BTreeSet<Number>,
        mut reader: Reader,
        all_was_read: bool,
    ) -> Result<(Reader, BTreeSet<Number>), CollectorError> {
        if !all_was_read {
            // They may be listed yet.
            reader.running.extend(std::mem::take(&mut reader.open));
        }
        let mut numbers = asked.clone();
        let is_local = self.source.clusters.is_empty();
        numbers.extend(reader.open.iter().filter_map(|id| Number::of_id(id, is_local)));
        let (mut reader, trouble) = calls.numbers(&numbers, reader).await?;
        if let Some(trouble) = trouble {
            reader.running.extend(std::mem::take(&mut reader.open));
            let text =
                format!("{trouble}. Jobs that ran at the last look are asked for again by the next run");
            reader.batch.problem_of(text, Bearing::nothing());
            return Ok((reader, BTreeSet::new()));
        }
        let mut gone: Vec<String> = reader.open.drain().collect();
        gone.sort_unstable();
        for id in gone {
            let reason = "it ran at the last look, and slurmdbd no longer knows it; what was counted until then stands";
            reader.batch.known += 1;
            reader.batch.quarantine(&id, reason);
        }
        let unseen =
            asked.iter().filter(|number| !reader.bad.contains(number) && !reader.mended.contains(number));
        let unseen = unseen.cloned().collect();
        Ok((reader, unseen))
    }
}

impl Collector for Slurm {
    fn offers(&self) -> &[Offered] {
        OFFERS
    }

    fn kind_of(&self, reading: &str) -> Option<Kind> {
        let fixed = OFFERS.iter().any(|offered| offered.name == reading);
        (fixed || tres::is_reading(reading)).then_some(Kind::Delta)
    }

    fn labels(&self) -> &[&'static str] {
        if self.source.options.account_level.is_some() { LABELS_WITH_TOP } else { LABELS }
    }

    fn scope(&self) -> String {
        format!("{} {}", self.source.clusters.join(","), self.source.options.text())
    }

    fn carry_over(&self, old: &str, new: String) -> String {
        let old = Checkpoint::parse(old, &self.scope());
        let mut left = Checkpoint::parse(&new, &self.scope());
        left.windows.add(&old.windows);
        left.running.extend(old.running);
        let known: BTreeSet<Number> = left.unread.iter().map(|job| job.number.clone()).collect();
        left.unread.extend(old.unread.into_iter().filter(|job| !known.contains(&job.number)));
        left.text()
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(self.run(request))
    }
}
