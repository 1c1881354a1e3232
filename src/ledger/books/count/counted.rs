//! How the readings of a source are counted: by which measures, and for which components.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::metering::measure::{AtMost, Measure};
use crate::metering::meter::Meter;
use crate::metering::reading::{Kind, Labels};
use crate::metering::weighing::Weighing;

/// What is counted over the readings of one source, by the rules of one month.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub(super) measures: Vec<Measure>,
    /// Of meters that limit what a series may add by what it counts.
    pub(super) by_weight: Vec<(Measure, Weighing)>,
    pub(super) components: Vec<String>,
}

impl Counted {
    /// Those of a meter.
    pub(super) fn add(&mut self, meter: &Meter, measure: Measure) {
        match measure.is_limited() && !meter.weighing.is_even() {
            true => self.by_weight.push((measure, meter.weighing.clone())),
            false => self.measures.push(measure),
        }
    }

    /// How a series with these labels is counted.
    pub(super) fn of<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = Measure> + 'a {
        let by_weight = self.by_weight.iter();
        let weighed =
            by_weight.filter_map(|(measure, weighing)| Some(measure.weighed(&weighing.weigh(labels)?)));
        self.measures.iter().copied().chain(weighed)
    }
}

/// What one reading of a delta may be at most.
pub(super) fn limit(measure: Measure) -> Option<AtMost> {
    match measure {
        Measure::Sum(at_most) => at_most,
        _ => None,
    }
}

/// These ways to count a series, or the plain one.
pub(super) fn at_least(kind: Kind, measures: impl Iterator<Item = Measure>) -> Rc<[Measure]> {
    let mut all: BTreeSet<Measure> = measures.collect();
    if all.is_empty() {
        all.insert(plain(kind));
    }
    all.into_iter().collect()
}

/// How a series is followed that no meter counts.
fn plain(kind: Kind) -> Measure {
    match kind {
        Kind::Counter => Measure::Increase(None),
        Kind::Delta => Measure::Sum(None),
        Kind::Total => Measure::Total(None),
        Kind::Gauge => Measure::Level,
    }
}
