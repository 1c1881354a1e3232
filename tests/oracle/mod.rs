//! A deliberately naive second opinion on every amount, written from the formulas in docs/metering.md.
//!
//! It knows the whole list of observations of a series and looks at each pair of neighbours against each stretch of
//! time, in fractions. It shares no code with src/metering and is never clever: where the two differ, read the docs.

#![allow(unreachable_pub, dead_code, reason = "shared by tests that each use a part of it")]

pub mod calendar;
pub mod ledger;

use num_rational::BigRational;
use num_traits::{Signed, Zero};

use calendar::Stretch;

/// Microseconds since 1970.
pub type Instant = i64;

#[derive(Debug, Clone, Default)]
pub struct Observation {
    pub at: Instant,
    pub start: Option<Instant>,
    /// `None`: a complete run did not see the series.
    pub value: Option<BigRational>,
    pub life: Option<String>,
    pub began: Option<Instant>,
    pub previous_run: Option<Instant>,
    pub listed: Option<Instant>,
    pub usual_gap: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Gauge {
    pub linear: bool,
    pub max_gap: Option<i64>,
    pub hold: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum Rule {
    Increase,
    Sum,
    Integral(Gauge),
    Max(Gauge),
    Last,
    Total,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    pub stretch: Stretch,
    pub sum: BigRational,
    pub max: Option<BigRational>,
    pub last: Option<BigRational>,
    pub covered: i64,
    pub missed: i64,
    pub gaps: i64,
    pub resets: i64,
}

impl Tally {
    fn new(stretch: Stretch) -> Tally {
        let zero = BigRational::zero();
        Tally { stretch, sum: zero, max: None, last: None, covered: 0, missed: 0, gaps: 0, resets: 0 }
    }

    pub fn is_empty(&self) -> bool {
        *self == Tally::new(self.stretch)
    }
}

pub fn fraction(numerator: i64, denominator: i64) -> BigRational {
    BigRational::new(numerator.into(), denominator.into())
}

/// What the observations make over each of the stretches, which follow each other without a hole.
pub fn count(rule: Rule, seen: &[Observation], stretches: &[Stretch]) -> Vec<Tally> {
    let mut tallies: Vec<Tally> = stretches.iter().map(|stretch| Tally::new(*stretch)).collect();
    for index in 0..seen.len() {
        match rule {
            Rule::Increase => increase(seen, index, &mut tallies),
            Rule::Sum => sum(&seen[index], &mut tallies),
            Rule::Integral(gauge) => integral(gauge, seen, index, &mut tallies),
            Rule::Max(gauge) => max(gauge, seen, index, &mut tallies),
            Rule::Last => {
                let level = seen[index].value.clone().unwrap_or_else(BigRational::zero);
                find(&mut tallies, seen[index].at).last = Some(level);
            }
            Rule::Total => total(seen, index, &mut tallies),
        }
    }
    tallies
}

fn find(tallies: &mut [Tally], at: Instant) -> &mut Tally {
    tallies.iter_mut().find(|t| t.stretch.start <= at && at < t.stretch.end).expect("time is covered")
}

/// How much of `from..to` lies in the stretch.
fn overlap(stretch: &Stretch, from: Instant, to: Instant) -> i64 {
    (stretch.end.min(to) - stretch.start.max(from)).max(0)
}

fn cut_down(number: BigRational) -> BigRational {
    let scale = BigRational::from_integer(1_000_000_000_000_i64.into());
    (number * &scale).floor() / scale
}

/// Shares out by time; all but the last part are cut down to 1e-12, the last is what is left.
fn share_out(amount: &BigRational, from: Instant, to: Instant, tallies: &mut [Tally]) {
    if amount.is_zero() {
        return;
    }
    if from >= to {
        find(tallies, to).sum += amount;
        return;
    }
    let mut left = amount.clone();
    for tally in tallies.iter_mut() {
        let inside = overlap(&tally.stretch, from, to);
        if inside == 0 {
            continue;
        }
        let part = if tally.stretch.end >= to {
            left.clone()
        } else {
            cut_down(amount * fraction(inside, to - from))
        };
        left -= &part;
        tally.sum += part;
    }
    assert!(left.is_zero());
}

fn increase(seen: &[Observation], index: usize, tallies: &mut [Tally]) {
    let now = &seen[index];
    let Some(value) = &now.value else { return };
    let earlier = &seen[..index];
    let before = earlier.iter().rev().find(|o| o.value.is_some());
    let gone_between = earlier.last().is_some_and(|o| o.value.is_none());
    // The value counts from zero: is it known since when?
    let from_zero = |tallies: &mut [Tally]| {
        let mut beginnings = Vec::new();
        if let (Some(began), Some(run)) = (now.began, now.previous_run)
            && run <= began
            && began <= now.at
        {
            beginnings.push(began);
        }
        beginnings.extend(now.listed.filter(|listed| *listed <= now.at));
        if let Some(began) = beginnings.first() {
            // What was there before it had not ended by its last reading.
            let from = before.map_or(*began, |o| if *began < o.at { o.at } else { *began });
            share_out(value, from, now.at, tallies);
        }
    };
    let Some(before) = before else { return from_zero(tallies) };
    let level = before.value.as_ref().expect("it was seen");
    let restarted = match now.began {
        Some(began) => before.began != Some(began) && began >= before.at && began <= now.at,
        None => false,
    };
    let another = if restarted {
        true
    } else if before.life.is_some() && now.life.is_some() {
        before.life != now.life
    } else if gone_between {
        !(now.began.is_some() && now.began == before.began)
    } else {
        false
    };
    if !another && value >= level {
        share_out(&(value - level), before.at, now.at, tallies);
    } else if gone_between {
        from_zero(tallies);
    } else {
        let began = match now.began {
            None => before.at,
            Some(began) if began < before.at => before.at,
            Some(began) if began > now.at => now.at,
            Some(began) => began,
        };
        share_out(value, began, now.at, tallies);
        // A reset shows where the last of its usage is, or with the reading if it has none or took no time.
        let used = value.is_positive() && began < now.at;
        find(tallies, if used { now.at - 1 } else { now.at }).resets += 1;
    }
}

fn sum(now: &Observation, tallies: &mut [Tally]) {
    if let Some(value) = &now.value {
        share_out(value, now.start.unwrap_or(now.at), now.at, tallies);
    }
}

enum Between {
    Nothing,
    Gap,
    Held,
    Line,
}

fn between(gauge: Gauge, before: Option<&Observation>, now: &Observation) -> Between {
    let Some(before) = before.filter(|b| b.value.is_some()) else { return Between::Nothing };
    let limit = gauge.max_gap.or(now.usual_gap).unwrap_or(i64::MAX);
    let long = now.at - before.at > limit;
    match (long, gauge.hold, gauge.linear && now.value.is_some()) {
        (true, false, _) => Between::Gap,
        (true, true, _) | (false, _, false) => Between::Held,
        (false, _, true) => Between::Line,
    }
}

fn leave_out(from: Instant, to: Instant, tallies: &mut [Tally]) {
    for tally in tallies {
        let inside = overlap(&tally.stretch, from, to);
        tally.missed += inside;
        tally.gaps += i64::from(inside > 0);
    }
}

fn integral(gauge: Gauge, seen: &[Observation], index: usize, tallies: &mut [Tally]) {
    let now = &seen[index];
    let before = index.checked_sub(1).map(|i| &seen[i]);
    let way = between(gauge, before, now);
    let Some(before) = before else { return };
    let level = before.value.clone().unwrap_or_else(BigRational::zero);
    let second = 1_000_000;
    match way {
        Between::Nothing => {}
        Between::Gap => leave_out(before.at, now.at, tallies),
        Between::Held => {
            for tally in tallies {
                let inside = overlap(&tally.stretch, before.at, now.at);
                tally.covered += inside;
                tally.sum += &level * fraction(inside, second);
            }
        }
        Between::Line => {
            let next = now.value.clone().expect("a line has two ends");
            let height = |at: Instant| {
                let share = fraction(at - before.at, now.at - before.at);
                &level + (&next - &level) * share
            };
            let two = fraction(2, 1);
            let mut left = (&level + &next) / &two * fraction(now.at - before.at, second);
            for tally in tallies {
                let inside = overlap(&tally.stretch, before.at, now.at);
                if inside == 0 {
                    continue;
                }
                tally.covered += inside;
                let from = tally.stretch.start.max(before.at);
                let trapezium = (height(from) + height(from + inside)) / &two * fraction(inside, second);
                let part = if tally.stretch.end >= now.at { left.clone() } else { cut_down(trapezium) };
                left -= &part;
                tally.sum += part;
            }
        }
    }
}

fn max(gauge: Gauge, seen: &[Observation], index: usize, tallies: &mut [Tally]) {
    fn raise(tally: &mut Tally, level: &BigRational) {
        if tally.max.as_ref().is_none_or(|max| max < level) {
            tally.max = Some(level.clone());
        }
    }
    let now = &seen[index];
    let before = index.checked_sub(1).map(|i| &seen[i]);
    match (between(gauge, before, now), before) {
        (Between::Held | Between::Line, Some(Observation { at, value: Some(level), .. })) => {
            for tally in tallies.iter_mut() {
                let inside = overlap(&tally.stretch, *at, now.at);
                tally.covered += inside;
                if inside > 0 {
                    raise(tally, level);
                }
            }
        }
        (Between::Gap, Some(before)) => leave_out(before.at, now.at, tallies),
        _ => {}
    }
    if let Some(level) = &now.value {
        raise(find(tallies, now.at), level);
    }
}

fn total(seen: &[Observation], index: usize, tallies: &mut [Tally]) {
    let now = &seen[index];
    let Some(value) = &now.value else { return };
    let month_of =
        |o: &Observation, tallies: &mut [Tally]| find(tallies, o.start.unwrap_or(o.at)).stretch.month;
    let month = month_of(now, tallies);
    let opened = tallies.iter().find(|t| t.stretch.month == month).expect("it has a month").stretch.start;
    let closed = tallies.iter().rfind(|t| t.stretch.month == month).expect("it has a month").stretch.end;
    let before = seen[..index].iter().rev().find(|o| o.value.is_some());
    let before = before.filter(|before| month_of(before, tallies) == month);
    let (level, from) = match before {
        Some(before) => (before.value.clone().expect("it was seen"), before.at.max(opened)),
        None => (BigRational::zero(), opened),
    };
    let to = now.at.min(closed);
    if from < to {
        share_out(&(value - level), from, to, tallies);
    } else {
        find(tallies, now.start.unwrap_or(now.at)).sum += value - level;
    }
}
