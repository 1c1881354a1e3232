//! From the readings of one series to its quantities, by segment. The formulas are in docs/metering.md.
//!
//! `Trail::advance` is the definition: it takes the points of a series in the order of time and says what each adds.
//! Adding up what it says over all points is a recount; adding what it says of one new last point is the cheap way
//! to the same numbers. It never looks at anything but the points: no clock, no configuration, no ledger.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::exact::Exact;
use super::period::{Piece, Segment, Timeline, micros_between};
use super::reading::{Epoch, VALUE_PLACES};

/// What is counted over a series. Two meters that count the same way share the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// How much a counter rose, through its resets. Unit of the reading.
    Increase,
    /// The deltas. Unit of the reading.
    Sum,
    /// A gauge over time. Unit-seconds.
    Integral(Hold),
    /// A gauge's time-weighted mean over the time that is covered.
    Mean(Hold),
    /// A gauge's highest level.
    Max(Hold),
    /// A gauge's last level; 0 once the series has ended.
    Level,
    /// What the source says is the sum of the period so far.
    Total,
}

/// How a gauge is carried from one reading to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Hold {
    pub interpolation: Interpolation,
    /// A longer distance between readings is a gap. `None`: what was usual for the collector when it ran.
    pub max_gap: Option<SignedDuration>,
    pub on_gap: OnGap,
}

impl Hold {
    /// Without what makes no difference: a step that is held through gaps never asks how long one is. So meters that
    /// count the same way have the same measure, which is counted once.
    pub(super) fn as_counted(self) -> Hold {
        match (self.on_gap, self.interpolation) {
            (OnGap::Hold, Interpolation::Step) => Hold { max_gap: None, ..self },
            _ => self,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Interpolation {
    /// The level holds until the next reading.
    #[default]
    Step,
    /// The level moves in a straight line to the next reading.
    Linear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum OnGap {
    /// Nothing is guessed: the gap is left out and shown in the coverage.
    #[default]
    LeaveOut,
    /// The last level is taken to have held, even where levels are otherwise joined by lines.
    Hold,
}

impl Measure {
    /// Its name in the ledger: one text for one way of counting.
    pub fn name(&self) -> Cow<'static, str> {
        let (name, hold) = match self {
            Measure::Increase => return "increase".into(),
            Measure::Sum => return "sum".into(),
            Measure::Level => return "level".into(),
            Measure::Total => return "total".into(),
            Measure::Integral(hold) => ("integral", hold),
            Measure::Mean(hold) => ("mean", hold),
            Measure::Max(hold) => ("max", hold),
        };
        let interpolation = match hold.interpolation {
            Interpolation::Step => "step",
            Interpolation::Linear => "linear",
        };
        let limit = match hold.max_gap {
            None => "usual".to_owned(),
            Some(gap) => format!("{}us", gap.as_micros()),
        };
        match (hold.on_gap, hold.interpolation) {
            (OnGap::LeaveOut, _) => format!("{name} {interpolation} {limit}"),
            // A step that is held through gaps never asks how long one is.
            (OnGap::Hold, Interpolation::Step) => format!("{name} step hold"),
            (OnGap::Hold, Interpolation::Linear) => format!("{name} linear hold {limit}"),
        }
        .into()
    }
}

/// A reading as metering sees it, with what was recorded of the run that brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub at: Timestamp,
    /// Where an interval began (deltas).
    pub start: Option<Timestamp>,
    /// `None`: a complete run at `at` did not see the series; it has ended there.
    pub value: Option<Decimal>,
    pub epoch: Epoch,
    pub run: RunFacts,
}

/// What was recorded of a run when it came in, because it decides amounts (law 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunFacts {
    /// When the collector's last successful run before this one was.
    pub previous: Option<Timestamp>,
    /// That run, if it listed everything and what it looks at has not changed since: a series that is new in this run
    /// began after it.
    pub listed: Option<Timestamp>,
    /// Three times the usual distance of the collector's recent runs.
    pub max_gap: Option<SignedDuration>,
}

/// What was counted over one series in one segment, or what one point adds to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    /// Increase, sum, total: in the reading's unit. Integral and mean: unit-seconds. Else zero.
    pub sum: Exact,
    /// The highest level (`Measure::Max`).
    pub max: Option<Decimal>,
    /// The last level (`Measure::Level`).
    pub last: Option<Decimal>,
    /// Time for which a gauge's level is known, in microseconds.
    pub covered: i64,
    /// Time left out as gaps, in microseconds.
    pub missed: i64,
    pub gaps: i64,
    pub resets: i64,
}

impl Default for Quantity {
    fn default() -> Self {
        Quantity { sum: Exact::zero(), max: None, last: None, covered: 0, missed: 0, gaps: 0, resets: 0 }
    }
}

impl Quantity {
    fn of(sum: Exact) -> Self {
        Quantity { sum, ..Quantity::default() }
    }

    /// Adds what a later point adds.
    pub fn absorb(&mut self, part: Quantity) {
        self.sum += part.sum;
        self.max = self.max.max(part.max);
        self.last = part.last.or(self.last);
        self.covered += part.covered;
        self.missed += part.missed;
        self.gaps += part.gaps;
        self.resets += part.resets;
    }

    /// The quantity in the unit that a meter's factor applies to; `None` where nothing was observed.
    pub fn value(&self, measure: Measure) -> Option<Exact> {
        match measure {
            Measure::Increase | Measure::Sum | Measure::Total => Some(self.sum.clone()),
            Measure::Integral(_) => self.sum.checked_div(&Exact::from(3600)),
            Measure::Mean(_) => {
                let seconds = Exact::ratio(self.covered.into(), 1_000_000)?;
                self.sum.checked_div(&seconds)
            }
            Measure::Max(_) => self.max.map(Exact::from),
            Measure::Level => self.last.map(Exact::from),
        }
    }
}

/// How far a series has been read: what the next point needs to know of the points before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// The point before, present or absent.
    pub previous: Option<Point>,
    /// The last point that has a value.
    pub present: Option<Point>,
}

impl Trail {
    /// Takes the next point of the series and says what it adds, by segment.
    pub fn advance(
        &mut self,
        measure: Measure,
        point: Point,
        timeline: &Timeline,
    ) -> Vec<(Segment, Quantity)> {
        let parts = match measure {
            Measure::Increase => self.increase(&point, timeline),
            Measure::Sum => sum(&point, timeline),
            Measure::Integral(hold) | Measure::Mean(hold) => self.integral(hold, &point, timeline),
            Measure::Max(hold) => self.max(hold, &point, timeline),
            Measure::Level => vec![(
                timeline.segment_at(point.at),
                Quantity { last: Some(point.value.unwrap_or(Decimal::ZERO)), ..Quantity::default() },
            )],
            Measure::Total => self.total(&point, timeline),
        };
        if point.value.is_some() {
            self.present = Some(point.clone());
        }
        self.previous = Some(point);
        parts
    }

    fn increase(&self, point: &Point, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
        let Some(value) = point.value else { return Vec::new() };
        let ended = self.previous.as_ref().is_some_and(|previous| previous.value.is_none());
        let before = self.present.as_ref().and_then(|present| Some((present, present.value?)));
        // Not `value - level`: a difference of two decimals of 28 digits may need more, and would be rounded.
        let rise = before.map_or_else(Exact::zero, |(_, level)| Exact::from(value) - Exact::from(level));
        match before {
            Some((present, _)) if same_life(present, point, ended) && !rise.is_negative() => {
                spread(rise, present.at, point.at, timeline)
            }
            // A new life while we watched: all it counts is usage, since it began or since the last look.
            Some((present, _)) if !ended => {
                let from = point.epoch.began.map_or(present.at, |began| began.clamp(present.at, point.at));
                let mut parts = spread(Exact::from(value), from, point.at, timeline);
                match parts.last_mut() {
                    Some((_, part)) => part.resets += 1,
                    None => parts
                        .push((timeline.segment_at(point.at), Quantity { resets: 1, ..Quantity::default() })),
                }
                parts
            }
            // The first reading of a series, or of its next life after it had ended: a baseline, unless this life is
            // known to have begun after the collector's last successful run. It did not begin before the last reading of
            // the life before it: so no reading ever adds to what lies before the one that was present last.
            _ => match known_beginning(point) {
                Some(began) => {
                    let from = before.map_or(began, |(present, _)| began.max(present.at));
                    spread(Exact::from(value), from, point.at, timeline)
                }
                None => Vec::new(),
            },
        }
    }

    fn total(&self, point: &Point, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
        let Some(value) = point.value else { return Vec::new() };
        // An interval names the period by where it begins: its end may be the first instant of the next.
        let anchor = point.start.unwrap_or(point.at);
        let period = timeline.segment_at(anchor).period;
        let start = timeline.zone().start(period);
        let same_period = self.present.as_ref().and_then(|present| {
            let anchor = present.start.unwrap_or(present.at);
            (timeline.segment_at(anchor).period == period).then_some((present.value?, present.at.max(start)))
        });
        let (level, from) = same_period.unwrap_or((Decimal::ZERO, start));
        let to = point.at.min(timeline.zone().end(period));
        let rise = Exact::from(value) - Exact::from(level);
        if from < to {
            spread(rise, from, to, timeline)
        } else {
            vec![(timeline.segment_at(anchor), Quantity::of(rise))]
        }
    }

    fn integral(&self, hold: Hold, point: &Point, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
        let Some((from, level)) = self.previous.as_ref().and_then(|p| Some((p.at, p.value?))) else {
            return Vec::new();
        };
        let long = is_long(hold, from, point);
        if long && hold.on_gap == OnGap::LeaveOut {
            return gap(from, point.at, timeline);
        }
        let pieces = timeline.pieces(from, point.at);
        let sums = match (hold.interpolation, point.value) {
            (Interpolation::Linear, Some(next)) if !long => line(&pieces, level, next),
            // Also a series that ended: it held its last level until it was seen to be gone.
            _ => pieces.iter().map(|piece| Exact::from(level) * seconds(piece.micros())).collect(),
        };
        let parts = pieces.iter().zip(sums);
        parts
            .map(|(piece, sum)| (piece.segment, Quantity { covered: piece.micros(), ..Quantity::of(sum) }))
            .collect()
    }

    fn max(&self, hold: Hold, point: &Point, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
        let peak = |level| Quantity { max: Some(level), ..Quantity::default() };
        let mut parts = Vec::new();
        if let Some((from, level)) = self.previous.as_ref().and_then(|p| Some((p.at, p.value?))) {
            if hold.on_gap == OnGap::LeaveOut && is_long(hold, from, point) {
                parts.extend(gap(from, point.at, timeline));
            } else {
                let pieces = timeline.pieces(from, point.at);
                parts.extend(
                    pieces
                        .iter()
                        .map(|piece| (piece.segment, Quantity { covered: piece.micros(), ..peak(level) })),
                );
            }
        }
        if let Some(level) = point.value {
            parts.push((timeline.segment_at(point.at), peak(level)));
        }
        parts
    }
}

/// What one delta adds: it is shared out over its own interval and needs no neighbours.
pub fn sum(point: &Point, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
    let Some(value) = point.value else { return Vec::new() };
    spread(Exact::from(value), point.start.unwrap_or(point.at), point.at, timeline)
}

/// Shares `amount` out over `from..to` by time: each part is cut to 1e-12, the last takes what remains, so that the
/// parts sum to the whole (law 5). All of it belongs to the instant if the interval is empty.
fn spread(amount: Exact, from: Timestamp, to: Timestamp, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
    if amount.is_zero() {
        return Vec::new();
    }
    let pieces = timeline.pieces(from, to);
    let whole = micros_between(from, to);
    let Some((last, earlier)) = pieces.split_last() else {
        return vec![(timeline.segment_at(to), Quantity::of(amount))];
    };
    let mut parts = Vec::with_capacity(pieces.len());
    let mut rest = amount.clone();
    for piece in earlier {
        let share = Exact::ratio(piece.micros().into(), whole.into()).unwrap_or_else(Exact::zero);
        let part = (amount.clone() * share).floor_to(VALUE_PLACES);
        rest -= part.clone();
        parts.push((piece.segment, Quantity::of(part)));
    }
    parts.push((last.segment, Quantity::of(rest)));
    parts
}

/// The integral of a straight line from `level` to `next` over the pieces, in unit-seconds; parts cut as in `spread`.
fn line(pieces: &[Piece], level: Decimal, next: Decimal) -> Vec<Exact> {
    let (Some(first), Some((last, earlier))) = (pieces.first(), pieces.split_last()) else {
        return Vec::new();
    };
    let whole = i128::from(micros_between(first.from, last.to));
    let (level, next) = (Exact::from(level), Exact::from(next));
    let half = Exact::short(5, 1);
    let mut rest = (level.clone() + next.clone()) * half * seconds(micros_between(first.from, last.to));
    let rise = next - level.clone();
    // The area under the line from its start to an instant.
    let area_to = |to: Timestamp| {
        let micros = micros_between(first.from, to);
        let half_way = Exact::ratio(micros.into(), 2 * whole).unwrap_or_else(Exact::zero);
        (level.clone() + rise.clone() * half_way) * seconds(micros)
    };
    let mut parts = Vec::with_capacity(pieces.len());
    for piece in earlier {
        let part = (area_to(piece.to) - area_to(piece.from)).floor_to(VALUE_PLACES);
        rest -= part.clone();
        parts.push(part);
    }
    parts.push(rest);
    parts
}

/// Whether the distance to the next point is longer than a gauge is believed to have stayed as it was.
fn is_long(hold: Hold, from: Timestamp, point: &Point) -> bool {
    let limit = hold.max_gap.or(point.run.max_gap);
    let distance = i128::from(micros_between(from, point.at));
    limit.is_some_and(|limit| distance > limit.as_micros())
}

fn gap(from: Timestamp, to: Timestamp, timeline: &Timeline) -> Vec<(Segment, Quantity)> {
    let pieces = timeline.pieces(from, to);
    pieces
        .iter()
        .map(|piece| (piece.segment, Quantity { missed: piece.micros(), gaps: 1, ..Quantity::default() }))
        .collect()
}

fn seconds(micros: i64) -> Exact {
    match micros % 1_000_000 {
        0 => Exact::from(micros / 1_000_000),
        _ => Exact::short(micros.into(), 6),
    }
}

/// Whether the counter went on from one point to the next, as far as lives tell. Where the source says nothing of
/// them, it did, unless a complete run in between did not see it.
fn same_life(before: &Point, after: &Point, ended: bool) -> bool {
    let (was, is) = (&before.epoch, &after.epoch);
    // A life that began since the last look is another one, whatever its id: a container keeps its own through a
    // restart, and a source may have only just learnt to tell. A beginning that moved but lies before that look is one
    // that the source computes anew each time (now less uptime): to believe it would bill everything again each run.
    let begun_since = is.began.is_some_and(|began| (before.at..=after.at).contains(&began));
    if begun_since && is.began != was.began {
        return false;
    }
    match (&was.id, &is.id) {
        (Some(was), Some(is)) => was == is,
        _ => !ended || (was.began.is_some() && was.began == is.began),
    }
}

/// When this life began, if that is known to be after the collector's last successful run.
fn known_beginning(point: &Point) -> Option<Timestamp> {
    let since = |previous: Timestamp| point.epoch.began.filter(|began| (previous..=point.at).contains(began));
    point.run.previous.and_then(since).or(point.run.listed).filter(|began| *began <= point.at)
}
