//! What is counted over a series, what it is counted from, and what the count is. The formulas are in docs/metering.md;
//! `trail` carries them out. Nothing here counts.

use std::borrow::Cow;

use jiff::fmt::serde::timestamp::microsecond as micros;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::exact::Exact;
use super::reading::Epoch;
use super::text;

/// What is counted over a series. Two meters that count the same way share the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// How much a counter rose, through its resets. Unit of the reading.
    Increase(Option<AtMost>),
    /// The deltas. Unit of the reading.
    Sum(Option<AtMost>),
    /// A gauge over time. Unit-seconds.
    Integral(Hold, Option<AtMost>),
    /// A gauge's time-weighted mean over the time that is covered.
    Mean(Hold),
    /// A gauge's highest level.
    Max(Hold),
    /// A gauge's last level; 0 once the series has ended.
    Level,
    /// What the source says is the sum of the period so far.
    Total(Option<AtMost>),
}

/// The most that one reading may add for each hour of its interval, in the unit of the quantity's value (an integral's
/// is unit-hours). What is beyond it is held as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AtMost {
    /// In lowest terms, so that one limit is one value.
    numerator: i128,
    denominator: i128,
}

impl AtMost {
    /// `None` where 128 bits don't hold it.
    pub fn new(an_hour: &Exact) -> Option<AtMost> {
        let (numerator, denominator) = an_hour.parts()?;
        Some(AtMost { numerator, denominator })
    }

    fn an_hour(self) -> Exact {
        Exact::ratio(self.numerator, self.denominator).unwrap_or_else(Exact::zero)
    }

    /// Whether so much over this time is more, up or down. What takes no time may add as much as an hour may.
    pub(super) fn is_passed(self, amount: &Exact, micros: i64) -> bool {
        let micros = if micros > 0 { micros } else { HOUR };
        let hours = Exact::ratio(micros.into(), HOUR.into()).unwrap_or_else(Exact::zero);
        let size = if amount.is_negative() { -amount.clone() } else { amount.clone() };
        size > self.an_hour() * hours
    }
}

/// In microseconds.
const HOUR: i64 = 3_600_000_000;

/// How a gauge is carried from one reading to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Hold {
    #[serde(default, skip_serializing_if = "is_default")]
    pub interpolation: Interpolation,
    /// A longer distance between readings is a gap. `None`: what was usual for the collector when it ran.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_gap: Option<SignedDuration>,
    #[serde(default, skip_serializing_if = "is_default")]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The level holds until the next reading.
    #[default]
    Step,
    /// The level moves in a straight line to the next reading.
    Linear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
        let (name, at_most): (Cow<'static, str>, _) = match self {
            Measure::Increase(at_most) => ("increase".into(), *at_most),
            Measure::Sum(at_most) => ("sum".into(), *at_most),
            Measure::Total(at_most) => ("total".into(), *at_most),
            Measure::Level => ("level".into(), None),
            Measure::Integral(hold, at_most) => (hold.name("integral").into(), *at_most),
            Measure::Mean(hold) => (hold.name("mean").into(), None),
            Measure::Max(hold) => (hold.name("max").into(), None),
        };
        match at_most {
            None => name,
            Some(at_most) => format!("{name} at most {}", at_most.an_hour()).into(),
        }
    }

    /// The same over a series that counts so much: what one of its readings may add at most is less the more that counts.
    /// What counts nothing has no limit.
    pub fn weighed(self, weight: &Exact) -> Measure {
        let by_weight = |at_most: Option<AtMost>| {
            let at_most = at_most.filter(|_| !weight.is_zero())?;
            let limit = at_most.an_hour().checked_div(weight);
            Some(limit.as_ref().and_then(AtMost::new).unwrap_or(at_most))
        };
        match self {
            Measure::Increase(at_most) => Measure::Increase(by_weight(at_most)),
            Measure::Sum(at_most) => Measure::Sum(by_weight(at_most)),
            Measure::Total(at_most) => Measure::Total(by_weight(at_most)),
            Measure::Integral(hold, at_most) => Measure::Integral(hold, by_weight(at_most)),
            Measure::Mean(_) | Measure::Max(_) | Measure::Level => self,
        }
    }

    /// Whether it has a limit, which is another for each weight.
    pub fn is_limited(&self) -> bool {
        matches!(
            self,
            Measure::Increase(Some(_))
                | Measure::Sum(Some(_))
                | Measure::Total(Some(_))
                | Measure::Integral(_, Some(_))
        )
    }

    /// The first and the last name that it can have, in the order of bytes, whatever the weight.
    pub fn names_by_weight(&self) -> (Cow<'static, str>, Cow<'static, str>) {
        let plain = self.weighed(&Exact::zero()).name();
        match self.is_limited() {
            true => (plain.clone(), format!("{plain} at most ~").into()),
            false => (plain.clone(), plain),
        }
    }

    /// Whether what several series, or several parts of one, make of it adds up: a level and a highest level don't.
    pub fn adds_up(&self) -> bool {
        !matches!(self, Measure::Max(_) | Measure::Level)
    }
}

impl Hold {
    fn name(&self, measure: &str) -> String {
        let interpolation = match self.interpolation {
            Interpolation::Step => "step",
            Interpolation::Linear => "linear",
        };
        let limit = match self.max_gap {
            None => "usual".to_owned(),
            Some(gap) => format!("{}us", gap.as_micros()),
        };
        match (self.on_gap, self.interpolation) {
            (OnGap::LeaveOut, _) => format!("{measure} {interpolation} {limit}"),
            // A step that is held through gaps never asks how long one is.
            (OnGap::Hold, Interpolation::Step) => format!("{measure} step hold"),
            (OnGap::Hold, Interpolation::Linear) => format!("{measure} linear hold {limit}"),
        }
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

/// A point as those after it need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    #[serde(with = "micros::required")]
    pub(super) at: Timestamp,
    #[serde(with = "micros::optional", default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<Timestamp>,
    #[serde(with = "text::optional", default, skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Decimal>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) epoch: Epoch,
}

/// What was recorded of a run when it came in, because it decides amounts (law 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunFacts {
    /// When the collector's last successful run before this one was.
    #[serde(with = "micros::optional", default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Timestamp>,
    /// That run, if it listed everything and what it looks at has not changed since: a series that is new in this run
    /// began after it.
    #[serde(with = "micros::optional", default, skip_serializing_if = "Option::is_none")]
    pub listed: Option<Timestamp>,
    /// Three times the usual distance of the collector's recent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gap: Option<SignedDuration>,
    /// Since when its runs come from where this one came from, if they came from elsewhere before: what was read before that
    /// may be another machine's.
    #[serde(with = "micros::optional", default, skip_serializing_if = "Option::is_none")]
    pub anew: Option<Timestamp>,
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
    /// How often a counter started anew.
    pub resets: i64,
    /// What was not counted because it is not believed, in the unit of `sum`: a new level of a counter that it can't
    /// have reached, what a meter's `at_most` forbids. `sum` and this are what there would be otherwise.
    pub held: Exact,
    /// How often that was.
    pub holds: i64,
    /// How often a counter fell and had not started anew.
    pub dips: i64,
}

impl Default for Quantity {
    fn default() -> Self {
        let (sum, held) = (Exact::zero(), Exact::zero());
        let (max, last) = (None, None);
        Quantity { sum, max, last, covered: 0, missed: 0, gaps: 0, resets: 0, held, holds: 0, dips: 0 }
    }
}

impl Quantity {
    pub(super) fn of(sum: Exact) -> Self {
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
        self.held += part.held;
        self.holds += part.holds;
        self.dips += part.dips;
    }

    /// Takes back what a delta added.
    pub fn take_back(&mut self, part: Quantity) {
        self.sum -= part.sum;
        self.held -= part.held;
        self.holds -= part.holds;
    }

    /// The same, held instead of counted.
    pub(super) fn into_held(self) -> Quantity {
        Quantity { sum: Exact::zero(), held: self.held + self.sum, ..self }
    }

    /// The quantity in the unit that a meter's factor applies to; `None` where nothing was observed.
    pub fn value(&self, measure: Measure) -> Option<Exact> {
        match measure {
            Measure::Increase(_) | Measure::Sum(_) | Measure::Total(_) => Some(self.sum.clone()),
            Measure::Integral(..) => self.sum.checked_div(&Exact::from(3600)),
            Measure::Mean(_) => {
                let seconds = Exact::ratio(self.covered.into(), 1_000_000)?;
                self.sum.checked_div(&seconds)
            }
            Measure::Max(_) => self.max.map(Exact::from),
            Measure::Level => self.last.map(Exact::from),
        }
    }
}

/// Left out of a text where nobody said anything.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
