//! A counter's life (law 14): whether a value is the same life's next one, a new life's first, or noise.
//!
//! A counter that falls has started anew, or its source was wrong for a moment; taking the one for the other bills the
//! whole of it once more, or nothing. Where the source tells of lives, they decide; else the size of the fall does, and
//! how fast the counter was ever seen to rise. This only says what a value is worth; where the time goes is the trail's.

use jiff::fmt::serde::timestamp::microsecond as micros;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::exact::Exact;
use super::measure::{Point, Seen, is_default};
use super::period::micros_between;
use super::text;

/// How long a counter may stay below its old level before it is taken to go on from where it is.
const LONGEST_DIP: SignedDuration = SignedDuration::from_hours(24);
/// How much faster than ever seen a counter may have risen since it started anew.
const FASTER: i64 = 10;

/// What must be known of a counter's past beside its last value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lives {
    #[serde(default, skip_serializing_if = "is_default")]
    fall: Option<Fall>,
    /// The highest rate that it has shown, kept for good.
    #[serde(default, skip_serializing_if = "is_default")]
    fastest: Option<Rate>,
    /// What was counted of a new life that was none: the next rises go without it.
    #[serde(default, skip_serializing_if = "is_default")]
    owed: Option<Exact>,
    /// How the start that its source tells has behaved.
    #[serde(default, skip_serializing_if = "is_default")]
    start: Start,
    /// How long before the look at which the present start was seen first it lay, in microseconds, if that was not the last
    /// look and more is not known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age: Option<i64>,
}

/// How the start of a life behaves from look to look. A source that does not know it and prints the time of the look tells a
/// new life each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Start {
    #[default]
    Unknown,
    /// One stayed while the counter rose.
    Stays,
    /// It moved to after the last look, though the counter had not fallen.
    Moves,
}

/// A fall that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fall {
    /// The level from which it fell, and when that was read.
    #[serde(with = "text")]
    level: Decimal,
    #[serde(with = "micros::required")]
    at: Timestamp,
    /// When it was first seen to be lower, and how low it then was.
    #[serde(with = "micros::required")]
    since: Timestamp,
    #[serde(with = "text")]
    low: Decimal,
    /// Whether it was too deep for noise: a new life, whose rises count, unless it leaps back. Then it was noise after all.
    #[serde(default, skip_serializing_if = "is_default")]
    deep: bool,
    /// Of a deep one: whether the new level was believed, and counted.
    #[serde(default, skip_serializing_if = "is_default")]
    counted: bool,
}

/// A rise, and the time that it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rate {
    rise: Exact,
    micros: i64,
}

/// What a value of a counter adds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Usage between `from` and the point.
    pub(super) counted: Exact,
    pub(super) from: Timestamp,
    /// What is not believed, and so not counted.
    pub(super) held: Option<Exact>,
    pub(super) resets: i64,
    pub(super) dips: i64,
}

impl Step {
    fn of(counted: Exact, from: Timestamp) -> Step {
        Step { counted, from, held: None, resets: 0, dips: 0 }
    }
}

/// What two points of a counter say of its life, as far as the source tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Same,
    Another,
    Untold,
}

impl Lives {
    /// Takes the next value. `before`: the last point that has one; `ended`: a complete run since did not see the series.
    pub(super) fn step(
        &mut self,
        before: Option<(&Seen, Decimal)>,
        ended: bool,
        point: &Point,
        value: Decimal,
    ) -> Step {
        let Some((seen, level)) = before else { return first(None, point, value, true) };
        let is_doubted = self.doubts_start(seen, level, ended, point, value);
        self.watch_start(seen, level, point, value, is_doubted);
        let step = self.step_from((seen, level), ended, is_doubted, point, value);
        if !is_doubted {
            return step;
        }
        // Of a new life all of it would count.
        let rest = Exact::from(value) - step.counted.clone();
        let held = step.held.unwrap_or_else(Exact::zero).max(rest);
        Step { held: (!held.is_zero()).then_some(held), ..step }
    }

    /// Whether a start is not believed that says that a new life began since the last look: it moves with each look, or this
    /// life can't have come so far since.
    fn doubts_start(&self, seen: &Seen, level: Decimal, ended: bool, point: &Point, value: Decimal) -> bool {
        let Some(began) = point.epoch.began.filter(|_| has_moved_since(seen, point)) else { return false };
        if has_another_id(seen, point) {
            return false;
        }
        let is_young = || self.age_before(seen).is_some_and(|age| age <= micros_between(seen.at, point.at));
        let is_too_fast = || self.is_too_fast(&value.into(), micros_between(began, point.at));
        match self.start {
            Start::Moves => true,
            _ if ended || value < level => false,
            Start::Unknown => is_young() || is_too_fast(),
            Start::Stays => is_too_fast(),
        }
    }

    fn age_before(&self, seen: &Seen) -> Option<i64> {
        let began = seen.epoch.began?;
        Some(self.age.unwrap_or_else(|| micros_between(began, seen.at)))
    }

    fn watch_start(&mut self, seen: &Seen, level: Decimal, point: &Point, value: Decimal, is_doubted: bool) {
        let before = self.age_before(seen);
        if has_moved_since(seen, point) {
            let may_go_on = value >= level || (is_doubted && keeps_half(level, value));
            self.start = match self.start {
                _ if may_go_on => Start::Moves,
                // It fell, and its source is known to keep a start.
                Start::Stays => Start::Stays,
                Start::Unknown | Start::Moves => Start::Unknown,
            };
        } else if seen.epoch.began.is_some() && seen.epoch.began == point.epoch.began && value > level {
            self.start = Start::Stays;
        }
        let is_same = seen.epoch.began == point.epoch.began;
        self.age = before.filter(|_| is_same && self.start == Start::Unknown);
    }

    fn step_from(
        &mut self,
        (seen, level): (&Seen, Decimal),
        ended: bool,
        is_doubted: bool,
        point: &Point,
        value: Decimal,
    ) -> Step {
        let life = if is_doubted { Life::Untold } else { life(seen, point) };
        let is_elsewhere = point.run.anew.is_some_and(|anew| seen.at < anew);
        if is_elsewhere && !ended && life != Life::Same {
            return self.begin_elsewhere((seen, level), life, point, value);
        }
        // What went away and came back is not known to be what it was, unless its source still runs and it is no lower.
        let goes_on = match life {
            Life::Same => true,
            Life::Another => false,
            Life::Untold => !ended || (one_source(seen, point) && value >= level),
        };
        if goes_on {
            return self.go_on(seen, level, life == Life::Same, point, value);
        }
        self.fall = None;
        if ended {
            return first(Some(seen), point, value, !is_doubted);
        }
        // A new life while we watched: all it counts is usage.
        Step { resets: 1, ..Step::of(value.into(), beginning(seen, point)) }
    }

    /// The next value where nothing says that a new life began; `same`: the source says that none did.
    fn go_on(&mut self, seen: &Seen, level: Decimal, same: bool, point: &Point, value: Decimal) -> Step {
        let (base, held) = self.base(seen.at, level, point.at, value);
        if value >= base.level {
            self.fall = self.fall.take().filter(|fall| fall.deep && value < fall.level);
            let rise = difference(value, base.level);
            self.show(&rise, micros_between(base.at, point.at));
            let (rise, paid) = self.pay(rise);
            let held = paid.map_or(held.clone(), |paid| Some(held.unwrap_or_else(Exact::zero) + paid));
            return Step { held, ..Step::of(rise, base.at) };
        }
        if same || keeps_half(base.level, value) {
            let dips = i64::from(self.fall.as_ref().is_none_or(|fall| fall.deep));
            if dips > 0 {
                let (since, low) = (point.at, value);
                let (deep, counted) = (false, false);
                self.fall = Some(Fall { level: base.level, at: base.at, since, low, deep, counted });
            }
            return Step { held, dips, ..Step::of(Exact::zero(), base.at) };
        }
        let from = beginning(seen, point);
        let counted = !self.is_too_fast(&value.into(), micros_between(seen.at, point.at));
        let (since, low, deep) = (point.at, value, true);
        self.fall = Some(Fall { level: base.level, at: base.at, since, low, deep, counted });
        if counted {
            return Step { held, resets: 1, ..Step::of(value.into(), from) };
        }
        let held = Some(held.unwrap_or_else(Exact::zero) + value.into());
        Step { held, resets: 1, ..Step::of(Exact::zero(), from) }
    }

    /// What of a rise counts, once what is owed is taken off; and what is.
    fn pay(&mut self, rise: Exact) -> (Exact, Option<Exact>) {
        let Some(owed) = self.owed.take() else { return (rise, None) };
        let left = owed.clone() - rise.clone();
        if left.is_negative() || left.is_zero() {
            return (-left, Some(owed));
        }
        self.owed = Some(left);
        (Exact::zero(), (!rise.is_zero()).then_some(rise))
    }

    /// The first value of what may be another machine: it may have counted for long, and been billed elsewhere. Only what
    /// goes on as the last one did counts, and the rises after it.
    fn begin_elsewhere(
        &mut self,
        (seen, level): (&Seen, Decimal),
        life: Life,
        point: &Point,
        value: Decimal,
    ) -> Step {
        let rises = life == Life::Untold && value >= level;
        let rise = if rises { difference(value, level) } else { value.into() };
        let is_usual = self.fastest.is_some() && !self.is_too_fast(&rise, micros_between(seen.at, point.at));
        if rises && (rise.is_zero() || is_usual) {
            return self.go_on(seen, level, false, point, value);
        }
        self.fall = None;
        let held = (!rise.is_zero()).then_some(rise);
        Step { held, resets: i64::from(!rises), ..Step::of(Exact::zero(), beginning(seen, point)) }
    }

    /// What a value is to be compared with: the last one, or the level from which the counter fell before; and what is
    /// given up for good because that is decided now.
    fn base(
        &mut self,
        seen_at: Timestamp,
        level: Decimal,
        at: Timestamp,
        value: Decimal,
    ) -> (Base, Option<Exact>) {
        let last = Base { at: seen_at, level };
        let Some(fall) = &self.fall else { return (last, None) };
        let old = Base { at: fall.at, level: fall.level };
        let over = fall.since + LONGEST_DIP < at;
        match fall.deep {
            false if value >= fall.level || !over => (old, None),
            // It goes on from where it is. What it rose meanwhile was not counted.
            false => {
                let risen = (level > fall.low).then(|| difference(level, fall.low));
                self.fall = None;
                (last, risen)
            }
            true if over => {
                self.fall = None;
                (last, None)
            }
            // It leapt back: it was the old life all the time. What was counted since is owed.
            true if self.leaps_back(fall, (seen_at, level), (at, value)) => {
                let back = difference(value.min(fall.level), level);
                let counted = if fall.counted { level.into() } else { difference(level, fall.low) };
                self.fall = None;
                if !counted.is_zero() {
                    self.owed = Some(self.owed.take().unwrap_or_else(Exact::zero) + counted);
                }
                (old, Some(back))
            }
            true => (last, None),
        }
    }

    /// Whether a counter that fell deep is back where it was, and can't have risen to it since. A new life that was believed may
    /// rise in a burst: then it must be where the old life would be by now.
    fn leaps_back(
        &self,
        fall: &Fall,
        (last_at, last): (Timestamp, Decimal),
        (at, value): (Timestamp, Decimal),
    ) -> bool {
        let is_too_fast = self.is_too_fast(&difference(value, last), micros_between(last_at, at));
        if !fall.counted {
            return is_too_fast && keeps_half(fall.level, value);
        }
        if self.fastest.is_none() {
            // It was idle, and is again.
            return value == fall.level && value > last;
        }
        let goes_on = || !self.is_too_fast(&difference(value, fall.level), micros_between(fall.at, at));
        is_too_fast && value >= fall.level && goes_on()
    }

    /// Notes how fast the counter rose.
    fn show(&mut self, rise: &Exact, micros: i64) {
        if !rise.is_zero()
            && micros > 0
            && self.fastest.as_ref().is_none_or(|fastest| fastest.is_below(rise, micros))
        {
            self.fastest = Some(Rate { rise: rise.clone(), micros });
        }
    }

    /// Whether so much in this time is more than the counter can be believed to have risen. One that was never seen to
    /// rise can't be judged.
    fn is_too_fast(&self, rise: &Exact, micros: i64) -> bool {
        let faster = |fastest: &Rate| Rate { rise: fastest.rise.clone() * Exact::from(FASTER), ..*fastest };
        self.fastest.as_ref().is_some_and(|fastest| faster(fastest).is_below(rise, micros))
    }
}

/// Where a value is counted from.
struct Base {
    at: Timestamp,
    level: Decimal,
}

impl Rate {
    /// Whether so much in this time is faster.
    fn is_below(&self, rise: &Exact, micros: i64) -> bool {
        self.rise.clone() * Exact::from(micros) < rise.clone() * Exact::from(self.micros)
    }
}

/// Not a difference of two decimals: of 28 digits each, it may need more, and would be rounded.
fn difference(value: Decimal, level: Decimal) -> Exact {
    Exact::from(value) - Exact::from(level)
}

fn keeps_half(old: Decimal, value: Decimal) -> bool {
    Exact::from(value) * Exact::from(2) >= old.into()
}

/// The first reading of a series, or of its next life after it had ended: a baseline, unless this life is known to have
/// begun after the collector's last successful run. It did not begin before the last reading of the life before it: so no
/// reading ever adds to what lies before the one that was present last.
fn first(before: Option<&Seen>, point: &Point, value: Decimal, is_told: bool) -> Step {
    match known_beginning(point, is_told) {
        Some(began) => Step::of(value.into(), before.map_or(began, |before| began.max(before.at))),
        None => Step::of(Exact::zero(), point.at),
    }
}

/// When a life began that was not there at the last look: then, or as the source says.
fn beginning(seen: &Seen, point: &Point) -> Timestamp {
    point.epoch.began.map_or(seen.at, |began| began.clamp(seen.at, point.at))
}

fn life(seen: &Seen, point: &Point) -> Life {
    let (was, is) = (&seen.epoch, &point.epoch);
    // Whatever its id: a container keeps its own through a restart.
    if has_moved_since(seen, point) || has_another_id(seen, point) {
        return Life::Another;
    }
    match (&was.id, &is.id) {
        // What all series of a source share says nothing of this one while it stays.
        _ if was.shared || is.shared => Life::Untold,
        (Some(_), Some(_)) => Life::Same,
        _ if was.began.is_some() && was.began == is.began => Life::Same,
        _ => Life::Untold,
    }
}

/// Whether another start is told that lies after the last look: a source may have only just learnt to tell. A start that
/// moved but lies before that look is one that the source computes anew each time (now less uptime): to believe it would
/// bill everything again each run.
fn has_moved_since(seen: &Seen, point: &Point) -> bool {
    let began = point.epoch.began.filter(|began| (seen.at..=point.at).contains(began));
    began.is_some() && began != seen.epoch.began
}

fn has_another_id(seen: &Seen, point: &Point) -> bool {
    matches!((&seen.epoch.id, &point.epoch.id), (Some(was), Some(is)) if was != is)
}

/// Whether the series' source is known to have run all the time.
fn one_source(seen: &Seen, point: &Point) -> bool {
    let (was, is) = (&seen.epoch, &point.epoch);
    (was.id.is_some() && was.id == is.id) || (was.began.is_some() && was.began == is.began)
}

/// When this life began, if that is known to be after the collector's last successful run; `is_told`: what the source says of
/// it is believed.
fn known_beginning(point: &Point, is_told: bool) -> Option<Timestamp> {
    let told = point.epoch.began.filter(|_| is_told);
    let since = |previous: Timestamp| told.filter(|began| (previous..=point.at).contains(began));
    point.run.previous.and_then(since).or(point.run.listed).filter(|began| *began <= point.at)
}
