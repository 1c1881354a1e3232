//! From the points of one series to its quantities, by segment.
//!
//! `SeriesState::advance` is the definition: it takes the points of a series in the order of time, from the first one on, and
//! says what each adds. Adding up what it says over all points is a recount; adding what it says of one new last point is
//! the cheap way to the same numbers, and a trail may be kept as text meanwhile. It never looks at anything but the points:
//! no clock, no configuration, no ledger.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::counter::{Lives, Step};
use super::exact::Exact;
use super::measure::{AtMost, Hold, Interpolation, Measure, OnGap, Point, Quantity, Seen, is_default};
use super::period::{Piece, Segment, Timeline, micros_between};
use super::reading::VALUE_PLACES;

/// What the points of a series add, by segment.
pub type Parts = Vec<(Segment, Quantity)>;

/// How far a series has been read: all that the next point needs to know of those before it. It is the same whichever
/// measure of the series' kind reads it, and as text it is small and stays the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesState {
    /// The point before, present or absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Seen>,
    /// The last point that has a value, where that is an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    present: Option<Seen>,
    /// What is known of a counter beside its last value.
    #[serde(default, skip_serializing_if = "is_default")]
    lives: Lives,
}

impl SeriesState {
    /// Takes the next point of the series and says what it adds, by segment.
    pub fn advance(&mut self, measure: Measure, point: Point, timeline: &Timeline) -> Parts {
        let parts = match measure {
            Measure::Increase(at_most) => self.increase(at_most, &point, timeline),
            Measure::Sum(at_most) => sum(at_most, &point, timeline),
            Measure::Integral(hold, at_most) => self.integral(hold, at_most, &point, timeline),
            Measure::Mean(hold) => self.integral(hold, None, &point, timeline),
            Measure::Max(hold) => self.max(hold, &point, timeline),
            Measure::Level => vec![(
                timeline.segment_at(point.at),
                Quantity { last: Some(point.value.unwrap_or(Decimal::ZERO)), ..Quantity::default() },
            )],
            Measure::Total(at_most) => self.total(at_most, &point, timeline),
        };
        let Point { at, start, value, epoch, run: _ } = point;
        let before = self.last.replace(Seen { at, start, value, epoch });
        self.present = match value {
            Some(_) => None,
            None => before.filter(|before| before.value.is_some()).or_else(|| self.present.take()),
        };
        parts
    }

    /// The last point that has a value.
    fn present(&self) -> Option<(&Seen, Decimal)> {
        let present = self.last.as_ref().filter(|last| last.value.is_some()).or(self.present.as_ref())?;
        Some((present, present.value?))
    }

    /// The last point, if it has a value.
    fn level(&self) -> Option<(Timestamp, Decimal)> {
        self.last.as_ref().and_then(|last| Some((last.at, last.value?)))
    }

    fn increase(&mut self, at_most: Option<AtMost>, point: &Point, timeline: &Timeline) -> Parts {
        let Some(value) = point.value else { return Vec::new() };
        let ended = self.last.as_ref().is_some_and(|last| last.value.is_none());
        let mut lives = std::mem::take(&mut self.lives);
        let Step { counted, from, held, resets, dips } = lives.step(self.present(), ended, point, value);
        self.lives = lives;
        let mut parts = limited(at_most, counted, from, point.at, timeline);
        if let Some(held) = held {
            parts.extend(hold_back(spread(held, from, point.at, timeline), point.at, timeline));
        }
        if resets + dips > 0 {
            let (_, last) = last_of(&mut parts, point.at, timeline);
            last.resets += resets;
            last.dips += dips;
        }
        parts
    }

    fn total(&self, at_most: Option<AtMost>, point: &Point, timeline: &Timeline) -> Parts {
        let Some(value) = point.value else { return Vec::new() };
        // An interval names the period by where it begins: its end may be the first instant of the next.
        let anchor = point.start.unwrap_or(point.at);
        let period = timeline.segment_at(anchor).period;
        let start = timeline.zone().start(period);
        let same_period = self.present().and_then(|(present, level)| {
            let anchor = present.start.unwrap_or(present.at);
            (timeline.segment_at(anchor).period == period).then_some((level, present.at.max(start)))
        });
        let (level, from) = same_period.unwrap_or((Decimal::ZERO, start));
        let to = point.at.min(timeline.zone().end(period));
        let rise = Exact::from(value) - Exact::from(level);
        if from < to {
            return limited(at_most, rise, from, to, timeline);
        }
        let held = at_most.is_some_and(|at_most| at_most.is_passed(&rise, 0));
        let part = vec![(timeline.segment_at(anchor), Quantity::of(rise))];
        if held { hold_back(part, anchor, timeline) } else { part }
    }

    fn integral(&self, hold: Hold, at_most: Option<AtMost>, point: &Point, timeline: &Timeline) -> Parts {
        let Some((from, level)) = self.level() else { return Vec::new() };
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
        let parts: Parts = parts
            .map(|(piece, sum)| (piece.segment, Quantity { covered: piece.micros(), ..Quantity::of(sum) }))
            .collect();
        let Some(at_most) = at_most else { return parts };
        let whole: Exact = parts.iter().map(|(_, part)| part.sum.clone()).sum();
        let hours = whole.checked_div(&Exact::from(3600)).unwrap_or_else(Exact::zero);
        match at_most.is_passed(&hours, micros_between(from, point.at)) {
            true => hold_back(parts, point.at, timeline),
            false => parts,
        }
    }

    fn max(&self, hold: Hold, point: &Point, timeline: &Timeline) -> Parts {
        let peak = |level| Quantity { max: Some(level), ..Quantity::default() };
        let mut parts = Vec::new();
        if let Some((from, level)) = self.level() {
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
pub fn sum(at_most: Option<AtMost>, point: &Point, timeline: &Timeline) -> Parts {
    let Some(value) = point.value else { return Vec::new() };
    limited(at_most, Exact::from(value), point.start.unwrap_or(point.at), point.at, timeline)
}

/// `amount` shared out over `from..to`, and held as a whole if it is more than may be.
fn limited(
    at_most: Option<AtMost>,
    amount: Exact,
    from: Timestamp,
    to: Timestamp,
    timeline: &Timeline,
) -> Parts {
    let held = at_most.is_some_and(|at_most| at_most.is_passed(&amount, micros_between(from, to)));
    let parts = spread(amount, from, to, timeline);
    if held { hold_back(parts, to, timeline) } else { parts }
}

/// What would be counted, held instead: once, whatever it is cut into.
fn hold_back(parts: Parts, at: Timestamp, timeline: &Timeline) -> Parts {
    let mut parts: Parts = parts.into_iter().map(|(segment, part)| (segment, part.into_held())).collect();
    last_of(&mut parts, at, timeline).1.holds += 1;
    parts
}

/// The last part, which tells what happened once; where nothing was counted, an empty one at the instant.
fn last_of<'a>(parts: &'a mut Parts, at: Timestamp, timeline: &Timeline) -> &'a mut (Segment, Quantity) {
    let last = match parts.pop() {
        Some(last) => last,
        None => (timeline.segment_at(at), Quantity::default()),
    };
    parts.push(last);
    let end = parts.len() - 1;
    &mut parts[end]
}

/// Shares `amount` out over `from..to` by time: each part is cut to 1e-12, the last takes what remains, so that the
/// parts sum to the whole (law 5). All of it belongs to the instant if the interval is empty.
fn spread(amount: Exact, from: Timestamp, to: Timestamp, timeline: &Timeline) -> Parts {
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

fn gap(from: Timestamp, to: Timestamp, timeline: &Timeline) -> Parts {
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
