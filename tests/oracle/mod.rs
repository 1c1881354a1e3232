//! A deliberately naive second opinion on every amount, written from the formulas in docs/metering.md.
//!
//! It knows the whole list of observations of a series and looks at each pair of neighbours against each stretch of
//! time, in fractions. It shares no code with src/metering and is never clever: where the two differ, read the docs.

#![allow(unreachable_pub, dead_code, reason = "shared by tests that each use a part of it")]

pub mod calendar;
pub mod events;
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
    /// `life` and `began` are of all that the source shows.
    pub shared: bool,
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
    pub held: BigRational,
    pub holds: i64,
    pub dips: i64,
}

impl Tally {
    fn new(stretch: Stretch) -> Tally {
        let (sum, held) = (BigRational::zero(), BigRational::zero());
        let (max, last) = (None, None);
        let (covered, missed, gaps, resets, holds, dips) = (0, 0, 0, 0, 0, 0);
        Tally { stretch, sum, max, last, covered, missed, gaps, resets, held, holds, dips }
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
    count_at_most(rule, None, seen, stretches)
}

/// The same; what one observation adds is held if it is more than `limit` for each hour that it took.
pub fn count_at_most(
    rule: Rule,
    limit: Option<&BigRational>,
    seen: &[Observation],
    stretches: &[Stretch],
) -> Vec<Tally> {
    let mut tallies: Vec<Tally> = stretches.iter().map(|stretch| Tally::new(*stretch)).collect();
    if let Rule::Increase = rule {
        counter(seen, limit, &mut tallies);
        return tallies;
    }
    for index in 0..seen.len() {
        let before = tallies.clone();
        match rule {
            Rule::Increase => {}
            Rule::Sum => sum(&seen[index], &mut tallies),
            Rule::Integral(gauge) => integral(gauge, seen, index, &mut tallies),
            Rule::Max(gauge) => max(gauge, seen, index, &mut tallies),
            Rule::Last => {
                let level = seen[index].value.clone().unwrap_or_else(BigRational::zero);
                find(&mut tallies, seen[index].at).last = Some(level);
            }
            Rule::Total => total(seen, index, &mut tallies),
        }
        let Some(limit) = limit else { continue };
        let Observation { at, start, .. } = seen[index];
        let (took, where_it_ends) = match rule {
            Rule::Sum => (at - start.unwrap_or(at), at),
            Rule::Integral(_) if index > 0 => (at - seen[index - 1].at, at),
            Rule::Total => total_took(seen, index, &mut tallies),
            _ => continue,
        };
        hold_if_more(limit, matches!(rule, Rule::Integral(_)), took, where_it_ends, &before, &mut tallies);
    }
    tallies
}

/// What was added since `before` becomes held if all of it is more than the limit allows.
fn hold_if_more(
    limit: &BigRational,
    by_the_second: bool,
    took: i64,
    ends: Instant,
    before: &[Tally],
    tallies: &mut [Tally],
) {
    let mut all = BigRational::zero();
    for (was, is) in before.iter().zip(tallies.iter()) {
        all += &is.sum - &was.sum;
    }
    if by_the_second {
        all /= fraction(3600, 1);
    }
    let hour = 3_600_000_000;
    let allowed = limit * fraction(if took > 0 { took } else { hour }, hour);
    if all <= allowed && all >= -allowed {
        return;
    }
    for (was, is) in before.iter().zip(tallies.iter_mut()) {
        is.held += &is.sum - &was.sum;
        is.sum = was.sum.clone();
    }
    find(tallies, if took > 0 { ends - 1 } else { ends }).holds += 1;
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

/// All of a counter, from its first value to its last. Values are told apart by their places in the list.
fn counter(seen: &[Observation], limit: Option<&BigRational>, tallies: &mut [Tally]) {
    let value = |place: usize| seen[place].value.clone().expect("it was seen");
    let distance = |from: usize, to: usize| seen[to].at - seen[from].at;
    // How fast it was seen to rise, each time that it was.
    let mut rates: Vec<BigRational> = Vec::new();
    // It fell from the first of these and is not back; it was first seen low at the second.
    let mut low: Option<(usize, usize)> = None;
    // It fell deep from the first of these, to the second, which was believed or not.
    let mut doubted: Option<(usize, usize, bool)> = None;
    // What was counted while it was not what it seemed.
    let mut owed = BigRational::zero();
    // Whether the start has moved lately without a fall, or stayed through a rise, if either.
    let mut moves: Option<bool> = None;
    for now in (0..seen.len()).filter(|place| seen[*place].value.is_some()) {
        let before = tallies.to_vec();
        let Some(last) = (0..now).rev().find(|place| seen[*place].value.is_some()) else {
            let since = from_zero_since(seen, now, None, true);
            from_zero(seen, now, since, tallies);
            limit_it(limit, &before, tallies, seen, now, since);
            continue;
        };
        let gone_between = last + 1 < now;
        let (was, is) = (&seen[last], &seen[now]);
        let another_id = was.life.is_some() && is.life.is_some() && was.life != is.life;
        let new_start = is.began.filter(|began| moved_since(was, is, *began));
        // A new start is told, and not believed.
        let mut unbelieved = false;
        if let Some(began) = new_start {
            // Where the start before was seen first.
            let same = |place: &usize| seen[*place].began == was.began;
            let first = (0..=last).rev().filter(|place| seen[*place].value.is_some()).take_while(same).last();
            let first = first.map_or(was.at, |place| seen[place].at);
            let young = was.began.is_some_and(|began| first - began <= is.at - was.at);
            let ten_times = rates.iter().max().map(|rate| rate * fraction(10 * (is.at - began), 1));
            let impossible = ten_times.is_some_and(|most| value(now) > most);
            let rose = !gone_between && value(now) >= value(last);
            unbelieved = !another_id
                && match moves {
                    Some(true) => true,
                    None => rose && (young || impossible),
                    Some(false) => rose && impossible,
                };
            let half = value(now) * fraction(2, 1) >= value(last);
            moves = match moves {
                _ if value(now) >= value(last) || (unbelieved && half) => Some(true),
                Some(false) => Some(false),
                _ => None,
            };
        } else if was.began.is_some() && was.began == is.began && value(now) > value(last) {
            moves = Some(false);
        }
        let told = if unbelieved { None } else { told(was, is) };
        let same_source = (seen[now].life.is_some() && seen[now].life == seen[last].life)
            || (seen[now].began.is_some() && seen[now].began == seen[last].began);
        let unsure = told.is_none() && gone_between && !(same_source && value(now) >= value(last));
        if told == Some(false) || unsure {
            (low, doubted) = (None, None);
            if gone_between {
                let since = from_zero_since(seen, now, Some(last), !unbelieved);
                from_zero(seen, now, since, tallies);
                limit_it(limit, &before, tallies, seen, now, since);
                if unbelieved && since.is_none() && value(now).is_positive() {
                    hold_out(&value(now), seen[now].at, seen[now].at, tallies);
                }
            } else {
                let began = start_of_life(&seen[last], &seen[now]);
                share_out(&value(now), began, seen[now].at, tallies);
                limit_it(limit, &before, tallies, seen, now, Some(began));
                let used = value(now).is_positive() && began < seen[now].at;
                find(tallies, if used { seen[now].at - 1 } else { seen[now].at }).resets += 1;
            }
            continue;
        }
        let fastest = rates.iter().max().cloned();
        let too_much = |amount: BigRational, from: usize| {
            let ten_times = |rate| rate * fraction(10, 1) * fraction(distance(from, now), 1);
            fastest.clone().is_some_and(|rate| amount > ten_times(rate))
        };
        let mut level = last;
        let mut given_up = BigRational::zero();
        if let Some((high, first_low)) = low {
            if value(now) >= value(high) || distance(first_low, now) <= DAY {
                level = high;
            } else {
                low = None;
                given_up = (value(last) - value(first_low)).max(BigRational::zero());
            }
        }
        if let Some((high, fallen, believed)) = doubted {
            let rises_too_fast = too_much(value(now) - value(last), last);
            let leapt = match (believed, &fastest) {
                (false, _) => rises_too_fast && value(now) * fraction(2, 1) >= value(high),
                (true, None) => value(now) == value(high) && value(now) > value(last),
                (true, Some(_)) => {
                    rises_too_fast && value(now) >= value(high) && !too_much(value(now) - value(high), high)
                }
            };
            if distance(fallen, now) > DAY {
                doubted = None;
            } else if leapt {
                doubted = None;
                level = high;
                given_up = value(now).min(value(high)) - value(last);
                owed += if believed { value(last) } else { value(last) - value(fallen) };
            }
        }
        let mut counted = BigRational::zero();
        // Where the last of what is held lies, if anything is.
        let mut held_since = seen[level].at;
        if value(now) >= value(level) {
            low = None;
            doubted = doubted.filter(|(high, ..)| value(now) < value(*high));
            let mut rise = value(now) - value(level);
            if rise.is_positive() && distance(level, now) > 0 {
                rates.push(&rise / fraction(distance(level, now), 1));
            }
            let paid = rise.clone().min(owed.clone());
            (rise, owed) = (rise - &paid, owed - &paid);
            given_up += paid;
            share_out(&rise, seen[level].at, seen[now].at, tallies);
            limit_it(limit, &before, tallies, seen, now, Some(seen[level].at));
            counted = rise;
        } else if told == Some(true) || value(now) * fraction(2, 1) >= value(level) {
            if low.is_none() {
                low = Some((level, now));
                doubted = None;
                let aside = given_up.is_positive() || (unbelieved && value(now).is_positive());
                let shown = aside && held_since < seen[now].at;
                find(tallies, if shown { seen[now].at - 1 } else { seen[now].at }).dips += 1;
            }
        } else {
            let began = start_of_life(&seen[last], &seen[now]);
            low = None;
            held_since = began;
            let mut used = value(now).is_positive();
            let believed = !too_much(value(now), last);
            doubted = Some((level, now, believed));
            if !believed {
                given_up += value(now);
            } else {
                share_out(&value(now), began, seen[now].at, tallies);
                limit_it(limit, &before, tallies, seen, now, Some(began));
                counted = value(now);
                used |= given_up.is_positive();
            }
            find(tallies, if used && began < seen[now].at { seen[now].at - 1 } else { seen[now].at })
                .resets += 1;
        }
        if unbelieved {
            given_up = given_up.max(value(now) - counted);
        }
        if given_up.is_positive() {
            hold_out(&given_up, held_since, seen[now].at, tallies);
        }
    }
}

const DAY: i64 = 86_400_000_000;

/// Whether the source says that two values are of one life; `None` if it does not say.
fn told(before: &Observation, now: &Observation) -> Option<bool> {
    if now.began.is_some_and(|began| moved_since(before, now, began)) {
        return Some(false);
    }
    let alone = !before.shared && !now.shared;
    if before.life.is_some() && now.life.is_some() {
        let one = before.life == now.life;
        return (alone || !one).then_some(one);
    }
    (alone && now.began.is_some() && now.began == before.began).then_some(true)
}

/// Whether a start is another one than before, and lies between two looks.
fn moved_since(before: &Observation, now: &Observation, began: Instant) -> bool {
    before.began != Some(began) && began >= before.at && began <= now.at
}

/// When a life began that began between two looks.
fn start_of_life(before: &Observation, now: &Observation) -> Instant {
    match now.began {
        None => before.at,
        Some(began) if began < before.at => before.at,
        Some(began) if began > now.at => now.at,
        Some(began) => began,
    }
}

/// Since when a value is known to have counted from zero, if it is.
fn from_zero_since(seen: &[Observation], now: usize, last: Option<usize>, believed: bool) -> Option<Instant> {
    let Observation { at, began, previous_run, listed, .. } = seen[now];
    let mut beginnings = Vec::new();
    if let (Some(began), Some(run)) = (began, previous_run)
        && believed
        && run <= began
        && began <= at
    {
        beginnings.push(began);
    }
    beginnings.extend(listed.filter(|listed| *listed <= at));
    let began = *beginnings.first()?;
    // What was there before it had not ended by its last reading.
    Some(last.map_or(began, |last| if began < seen[last].at { seen[last].at } else { began }))
}

fn from_zero(seen: &[Observation], now: usize, since: Option<Instant>, tallies: &mut [Tally]) {
    if let Some(from) = since {
        share_out(seen[now].value.as_ref().expect("it was seen"), from, seen[now].at, tallies);
    }
}

fn limit_it(
    limit: Option<&BigRational>,
    before: &[Tally],
    tallies: &mut [Tally],
    seen: &[Observation],
    now: usize,
    from: Option<Instant>,
) {
    if let (Some(limit), Some(from)) = (limit, from) {
        hold_if_more(limit, false, seen[now].at - from, seen[now].at, before, tallies);
    }
}

/// Like `share_out`, of what is not counted.
fn hold_out(amount: &BigRational, from: Instant, to: Instant, tallies: &mut [Tally]) {
    let mut aside: Vec<Tally> = tallies.iter().map(|tally| Tally::new(tally.stretch)).collect();
    share_out(amount, from, to, &mut aside);
    for (tally, aside) in tallies.iter_mut().zip(aside) {
        tally.held += aside.sum;
    }
    find(tallies, if from < to { to - 1 } else { to }).holds += 1;
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

/// How long what a total adds took, and where that ended.
fn total_took(seen: &[Observation], index: usize, tallies: &mut [Tally]) -> (i64, Instant) {
    let now = &seen[index];
    let anchor = now.start.unwrap_or(now.at);
    let month = find(tallies, anchor).stretch.month;
    let opened = tallies.iter().find(|t| t.stretch.month == month).expect("it has a month").stretch.start;
    let closed = tallies.iter().rfind(|t| t.stretch.month == month).expect("it has a month").stretch.end;
    let before = seen[..index].iter().rev().find(|o| o.value.is_some());
    let before = before.filter(|o| find(tallies, o.start.unwrap_or(o.at)).stretch.month == month);
    let from = before.map_or(opened, |before| before.at.max(opened));
    let to = now.at.min(closed);
    if from < to { (to - from, to) } else { (0, anchor) }
}
