//! A run on its way from a host's queue to the shared ledger: what it was, and its readings in parts, as they wait. So a host
//! sends rows of one table, and needs a right to no other.
//!
//! What comes in may have been made by anybody who has a host's role: it is checked as a whole, and believed in nothing but
//! what that host's readings are.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::part::Queued;
use super::{Head, QueuedEnd};
use crate::ledger::db::columns::instant;
use crate::metering::reading::{Epoch, Kind, Labels, Reading, Span};

/// What a run was; the first part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) head: Head,
    /// Lines that were no readings, and why.
    pub(super) quarantined: Vec<(String, String)>,
    pub(super) ends: Vec<QueuedEnd>,
    /// From where its collector was first read there.
    pub(super) since: Option<i64>,
    /// How many parts with readings follow.
    pub(super) parts: i64,
    /// A digest of the rules that its host's own file has for it.
    #[serde(default)]
    pub(super) rules: Option<String>,
    /// The last run that was sent before its file had this id.
    #[serde(default)]
    pub(super) base: i64,
    /// As which agent's it was recorded, where its host has another name since.
    #[serde(default)]
    pub(super) was: Option<String>,
}

/// A run, packed.
#[derive(Debug, Clone)]
pub struct PackedRun {
    /// The number of the run in the file that it waited in.
    pub(super) number: i64,
    /// When it looked.
    pub(super) at: i64,
    /// Part by part, the cover first.
    pub(super) bodies: Vec<String>,
}

impl PackedRun {
    pub fn number(&self) -> i64 {
        self.number
    }
}

const LONGEST_NAME: usize = 500;
/// Parts of a run, and readings that were none.
const MOST: i64 = 1_000_000;

/// Nothing that an instant of a reading may be is beyond this: the years 1970 to 9999, in microseconds.
pub(super) const INSTANTS: std::ops::Range<i64> = 0..253_370_764_800_000_000;

impl Manifest {
    pub(super) fn read(body: &str) -> Result<Manifest, String> {
        let cover: Manifest = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let Head { at, finished, outcome, withheld, .. } = &cover.head;
        let windows = cover.head.history.values().flatten().flat_map(|(from, to)| [from, to]);
        let ends = cover.ends.iter().map(|(_, _, at)| at);
        let instants = ends.chain(windows).chain(&cover.since).chain([at, finished]);
        check_instants(instants)?;
        for (what, text) in [("digest of its rules", &cover.rules), ("former name of its host", &cover.was)] {
            if text.as_ref().is_some_and(|text| text.len() > LONGEST_NAME) {
                return Err(format!("the {what} is too long"));
            }
        }
        if cover.head.collector.len() > LONGEST_NAME {
            return Err(format!("the name of its collector has more than {LONGEST_NAME} bytes"));
        }
        for (what, number) in [("quarantined readings", cover.head.quarantined), ("parts", cover.parts)] {
            if !(0..=MOST).contains(&number) {
                return Err(format!("{number} is no number of {what}"));
            }
        }
        if !["ok", "partial", super::FAILED].contains(&outcome.as_str()) {
            return Err(format!("`{outcome}` is no outcome of a run"));
        }
        serde_json::from_str::<Vec<crate::collectors::Bearing>>(withheld)
            .map_err(|error| error.to_string())?;
        for (name, labels, _) in &cover.ends {
            check_end(name, labels, *at).map_err(|why| format!("an end: {why}"))?;
        }
        Ok(cover)
    }
}

/// Whether a part holds readings, and nothing else.
pub(super) fn check_part(body: &str) -> Result<(), String> {
    let readings: Vec<Queued> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    readings
        .iter()
        .try_for_each(|queued| check(queued).map_err(|why| format!("a reading of {}: {why}", queued.name)))
}

/// As strict as with the readings that it ends; without labels it says that its source tells ends.
fn check_end(name: &str, labels: &str, at: i64) -> Result<(), String> {
    let labels = if labels.is_empty() { Labels::new() } else { read_labels(labels)? };
    let reading = Reading { labels, ..Reading::new(name, Kind::Gauge, Decimal::ZERO, instant(at)) };
    reading.checked().map(drop)
}

fn read_labels(text: &str) -> Result<Labels, String> {
    serde_json::from_str(text).map_err(|error| format!("the labels `{text}`: {error}"))
}

/// As strict as with what a collector here reads.
fn check(queued: &Queued) -> Result<(), String> {
    let Queued { name, kind, value, unit, start, at, labels, id, epoch, began, .. } = queued;
    check_instants([start, at].into_iter().chain(began))?;
    let value: Decimal = value.parse().map_err(|error| format!("the value `{value}`: {error}"))?;
    let labels = read_labels(labels)?;
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let span = match *start {
        0 => Span::At(instant(*at)),
        start => Span::Interval { start: instant(start), end: instant(*at) },
    };
    let reading = Reading {
        labels,
        unit: unit.clone(),
        span,
        id: text(id),
        epoch: Epoch { id: epoch.clone(), ..Epoch::default() },
        ..Reading::new(name, kind.parse()?, value, instant(*at))
    };
    reading.checked().map(drop)
}

fn check_instants<'a>(instants: impl IntoIterator<Item = &'a i64>) -> Result<(), String> {
    match instants.into_iter().find(|at| !INSTANTS.contains(at)) {
        Some(at) => Err(format!("{at} is no instant")),
        None => Ok(()),
    }
}
