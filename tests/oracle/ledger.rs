//! A ledger as docs/metering.md and the laws have it, and no more: the list of all that ever came, from which every line
//! of every statement is made anew whenever one is asked for. It keeps nothing, it is never clever, and it shares no code
//! with src/ledger.

use std::collections::{BTreeMap, BTreeSet};

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, Zero};

use super::calendar::Calendar;
use super::{Instant, Observation, Rule, count, fraction};

const MINUTE: i64 = 60_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Delta,
    Total,
}

pub type Labels = BTreeMap<String, String>;

/// A reading as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub name: String,
    pub kind: Kind,
    pub labels: Labels,
    pub at: Instant,
    /// Where its interval began, if it has one.
    pub start: Option<Instant>,
    pub value: BigRational,
    pub id: Option<String>,
    pub life: Option<String>,
    pub began: Option<Instant>,
}

/// A run of a collector as it came.
#[derive(Debug, Clone)]
pub struct Run {
    pub collector: String,
    pub at: Instant,
    pub finished: Instant,
    pub failed: bool,
    /// Something could not be looked at.
    pub partial: bool,
    /// A line was quarantined.
    pub quarantined: bool,
    pub lists_everything: bool,
    pub scope: String,
    pub readings: Vec<Reading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    HalfEven,
    HalfUp,
    Down,
    Up,
}

#[derive(Debug, Clone)]
pub struct Meter {
    pub collector: String,
    pub reading: String,
    pub component: String,
    pub rule: Rule,
    /// An integral that is divided by the time it covers.
    pub mean: bool,
    pub factor: BigRational,
    pub rounding: Rounding,
}

/// Resource, month, first instant of the part, component, and user ('' is the total).
pub type Key = (String, (i16, i8), Instant, String, String);

#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub exact: BigRational,
    /// In cents; `None`: can't be posted.
    pub posted: Option<BigInt>,
}

pub type Lines = BTreeMap<Key, Line>;

pub struct Ledger<'a> {
    pub calendar: &'a Calendar,
    pub meters: Vec<Meter>,
    /// Collectors whose readings are all of one resource.
    pub fixed: BTreeMap<String, String>,
    /// The resources of the backend ids that Waldur is known to have; the label `account` names one.
    pub known: BTreeMap<String, String>,
    /// Where plans of each resource began, and when that was noticed.
    pub plans: BTreeMap<String, Vec<(Instant, Instant)>>,
    pub runs: Vec<Run>,
    /// Lines that have been reported: they become zero, but don't go.
    pub reported: BTreeSet<Key>,
}

/// What is known of a series at one instant, with whose it is.
#[derive(Debug, Clone)]
struct Entry {
    collector: String,
    name: String,
    kind: Kind,
    labels: Labels,
    id: Option<String>,
    seen: Observation,
}

impl Entry {
    fn is_of(&self, collector: &str, name: &str, labels: &Labels) -> bool {
        self.collector == collector && self.name == name && self.labels == *labels
    }

    /// The id makes it the same reading, and where there is none, series, start and end.
    fn is_the_same_as(&self, collector: &str, reading: &Reading) -> bool {
        match &reading.id {
            Some(_) => self.collector == collector && self.name == reading.name && self.id == reading.id,
            None => {
                self.id.is_none()
                    && self.is_of(collector, &reading.name, &reading.labels)
                    && (self.seen.at, self.seen.start) == (reading.at, reading.start)
            }
        }
    }
}

/// What one meter makes of one series: whose it is, how much, whether such shares sum to the total, and the rounding.
type Share = (Option<String>, BigRational, bool, Rounding);

/// Series of which a run concludes nothing: all, or those of a name that have these labels.
#[derive(Debug, Clone)]
enum Odd {
    All,
    Series(String, Labels),
}

impl Odd {
    fn covers(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Odd::All => true,
            Odd::Series(of, wanted) => of == name && wanted.iter().all(|(k, v)| labels.get(k) == Some(v)),
        }
    }
}

/// A run that did not fail, as it went.
struct Past {
    collector: String,
    at: Instant,
    finished: Instant,
    /// Nothing at all was odd about it.
    complete: bool,
    odd: Vec<Odd>,
    listed_everything: bool,
    scope: String,
}

/// What was known of a collector's earlier runs when one came in.
#[derive(Clone)]
struct Facts {
    last: (Option<Instant>, Option<Instant>),
    last_complete: (Option<Instant>, Option<Instant>),
    doubtful: Vec<Odd>,
    usual_gap: Option<i64>,
}

fn facts(past: &[Past], run: &Run) -> Facts {
    let mut before: Vec<&Past> =
        past.iter().filter(|p| p.collector == run.collector && p.at < run.at).collect();
    before.sort_by_key(|p| p.at);
    let mut instants: Vec<Instant> = before.iter().map(|p| p.at).collect();
    instants.push(run.at);
    let recent = &instants[instants.len().saturating_sub(11)..];
    let mut distances: Vec<i64> = recent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    distances.sort_unstable();
    let of = |found: Option<&&Past>| {
        let listed = found.filter(|p| p.listed_everything && p.scope == run.scope).map(|p| p.at);
        (found.map(|p| p.at), listed)
    };
    Facts {
        last: of(before.last()),
        last_complete: of(before.iter().rfind(|p| p.complete)),
        doubtful: before.last().map(|p| p.odd.clone()).unwrap_or_default(),
        usual_gap: (distances.len() > 1).then(|| 3 * distances[distances.len() / 2]),
    }
}

/// What is judged of a run before anything else: what is left of its readings, and what was odd. `None`: it has failed.
fn judge(run: &Run) -> Option<(Vec<Reading>, Vec<Odd>)> {
    if run.failed {
        return None;
    }
    let mut bad = if run.quarantined { vec![Odd::All] } else { Vec::new() };
    let mut plausible: Vec<&Reading> = Vec::new();
    for reading in &run.readings {
        let began = reading.began.unwrap_or(reading.at).min(reading.start.unwrap_or(reading.at));
        if reading.at > run.finished + 5 * MINUTE || began < YEAR_2010 {
            bad.push(Odd::Series(reading.name.clone(), reading.labels.clone()));
        } else {
            plausible.push(reading);
        }
    }
    let identity = |r: &Reading| match &r.id {
        Some(id) => (r.name.clone(), Some(id.clone()), Labels::new(), 0, 0),
        None => (r.name.clone(), None, r.labels.clone(), r.start.unwrap_or(r.at), r.at),
    };
    let mut left: Vec<Reading> = Vec::new();
    for (place, reading) in plausible.iter().enumerate() {
        let same: Vec<&&Reading> = plausible.iter().filter(|r| identity(r) == identity(reading)).collect();
        if same.iter().any(|other| **other != *reading) {
            bad.push(Odd::Series(reading.name.clone(), reading.labels.clone()));
        } else if !plausible[..place].iter().any(|r| identity(r) == identity(reading)) {
            left.push((*reading).clone());
        }
    }
    if !bad.is_empty() && left.is_empty() {
        return None;
    }
    if run.partial {
        bad.push(Odd::All);
    }
    Some((left, bad))
}

const YEAR_2010: Instant = 1_262_304_000_000_000;

impl Ledger<'_> {
    /// All readings that count, and the ends of series, after all runs.
    fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut past: Vec<Past> = Vec::new();
        // The series that were seen since they last ended.
        let mut live: Vec<(String, String, Kind, Labels)> = Vec::new();
        for run in &self.runs {
            let Some((readings, odd)) = judge(run) else { continue };
            let of_this = |p: &&Past| p.collector == run.collector;
            let clock_went_back =
                past.iter().filter(of_this).any(|p| p.at > run.at - DAY && p.finished > run.at);
            let facts = facts(&past, run);
            let mut refused = false;
            let mut seen: Vec<(String, String, Kind, Labels)> = Vec::new();
            for reading in &readings {
                let momentary =
                    reading.start.is_none() && reading.at == run.at && reading.kind != Kind::Delta;
                if clock_went_back && momentary {
                    continue;
                }
                if self.is_of_two_months(reading) {
                    refused = true;
                    continue;
                }
                seen.push((
                    run.collector.clone(),
                    reading.name.clone(),
                    reading.kind,
                    reading.labels.clone(),
                ));
                put(&mut entries, &run.collector, reading, &facts);
            }
            for series in &seen {
                if !live.contains(series) {
                    live.push(series.clone());
                }
            }
            if !clock_went_back && !refused {
                let (missed, rest): (Vec<_>, Vec<_>) = live.into_iter().partition(|series| {
                    series.0 == run.collector
                        && !seen.contains(series)
                        && !odd.iter().any(|odd| odd.covers(&series.1, &series.3))
                });
                live = rest;
                for (collector, name, kind, labels) in missed {
                    let later =
                        entries.iter().any(|e| e.is_of(&collector, &name, &labels) && e.seen.at >= run.at);
                    if later || !matches!(kind, Kind::Counter | Kind::Gauge) {
                        continue;
                    }
                    let seen = observation(run.at, &facts, &name, &labels);
                    entries.push(Entry { collector, name, kind, labels, id: None, seen });
                }
            }
            past.push(Past {
                collector: run.collector.clone(),
                at: run.at,
                finished: run.finished,
                complete: odd.is_empty() && !clock_went_back && !refused,
                odd,
                listed_everything: run.lists_everything,
                scope: run.scope.clone(),
            });
        }
        entries
    }

    /// The readings of a collector that count.
    pub fn kept(&self, collector: &str) -> Vec<Reading> {
        let of_it = self.entries().into_iter().filter(|e| e.collector == collector);
        let readings = of_it.filter_map(|e| {
            let Observation { at, start, value, life, began, .. } = e.seen;
            Some(Reading {
                name: e.name,
                kind: e.kind,
                labels: e.labels,
                at,
                start,
                value: value?,
                id: e.id,
                life,
                began,
            })
        });
        readings.collect()
    }

    fn is_of_two_months(&self, reading: &Reading) -> bool {
        let Some(start) = reading.start.filter(|_| reading.kind == Kind::Total) else { return false };
        let months = self.calendar.stretches(start, start, &[]);
        let month = months.iter().find(|m| m.start <= start && start < m.end).expect("it has a month");
        reading.at > month.end
    }

    fn place(&self, collector: &str, labels: &Labels) -> Option<String> {
        match self.fixed.get(collector) {
            Some(resource) => Some(resource.clone()),
            None => self.known.get(labels.get("account")?).cloned(),
        }
    }

    /// Where the months of a resource are cut: at each beginning of a plan but the first that is known, if it was noticed
    /// before its month was over.
    fn cuts(&self, resource: &str) -> Vec<Instant> {
        let Some(plans) = self.plans.get(resource) else { return Vec::new() };
        let first = plans.iter().map(|(start, _)| *start).min();
        let in_time = |(start, noticed): &&(Instant, Instant)| {
            let months = self.calendar.stretches(*start, *start, &[]);
            let month = months.iter().find(|m| m.start <= *start && *start < m.end).expect("it has a month");
            Some(*start) > first && *noticed < month.end
        };
        plans.iter().filter(in_time).map(|(start, _)| *start).collect()
    }

    /// Every line of every statement.
    pub fn lines(&self) -> Lines {
        let entries = self.entries();
        let mut all: Vec<(String, String, Labels)> =
            entries.iter().map(|e| (e.collector.clone(), e.name.clone(), e.labels.clone())).collect();
        all.sort();
        all.dedup();
        type Part = (String, (i16, i8), Instant, String);
        let mut shares: BTreeMap<Part, Vec<Share>> = BTreeMap::new();
        for (collector, name, labels) in all {
            let Some(resource) = self.place(&collector, &labels) else { continue };
            let mut series: Vec<&Entry> =
                entries.iter().filter(|e| e.is_of(&collector, &name, &labels)).collect();
            // Of one instant, what speaks of the time before it comes first, and of that what began first.
            let place = |e: &Entry| (e.seen.at, e.seen.start.is_none(), e.seen.start, e.id.clone());
            series.sort_by_key(|e| place(e));
            let seen: Vec<Observation> = series.iter().map(|e| e.seen.clone()).collect();
            let first = |o: &Observation| {
                let began = o.began.filter(|began| *began < o.at);
                [o.start, o.listed, began].into_iter().flatten().fold(o.at, i64::min)
            };
            let from = seen.iter().map(first).min().expect("a series has a reading");
            let to = seen[seen.len() - 1].at + 1;
            let stretches = self.calendar.stretches(from - 32 * DAY, to, &self.cuts(&resource));
            let user = labels.get("user").filter(|user| !user.is_empty());
            for meter in self.meters.iter().filter(|m| m.collector == collector && m.reading == name) {
                for tally in count(meter.rule, &seen, &stretches) {
                    let quantity = match meter.rule {
                        _ if tally.is_empty() => continue,
                        Rule::Integral(_) if meter.mean && tally.covered == 0 => continue,
                        Rule::Integral(_) if meter.mean => &tally.sum / fraction(tally.covered, 1_000_000),
                        Rule::Integral(_) => &tally.sum / fraction(3600, 1),
                        Rule::Max(_) => match tally.max {
                            Some(max) => max,
                            None => continue,
                        },
                        Rule::Last => match tally.last {
                            Some(last) => last,
                            None => continue,
                        },
                        Rule::Increase | Rule::Sum | Rule::Total => tally.sum,
                    };
                    // A level or a mean is of the whole month: under each plan it counts for that plan's share of it.
                    let whole = self.calendar.start(tally.stretch.month.0, tally.stretch.month.1);
                    let after = self.calendar.stretches(whole, whole, &[]);
                    let month = after.iter().find(|m| m.start == whole).map_or(1, |m| m.end - m.start);
                    let share = fraction(tally.stretch.end - tally.stretch.start, month);
                    let quantity = if meter.mean || matches!(meter.rule, Rule::Max(_) | Rule::Last) {
                        quantity * share
                    } else {
                        quantity
                    };
                    let additive = !matches!(meter.rule, Rule::Max(_) | Rule::Last);
                    let part =
                        (resource.clone(), tally.stretch.month, tally.stretch.start, meter.component.clone());
                    let share = (user.cloned(), quantity * &meter.factor, additive, meter.rounding);
                    shares.entry(part).or_default().push(share);
                }
            }
        }
        let mut lines = Lines::new();
        for (part, shares) in shares {
            for (user, line) in statement(&shares) {
                lines.insert((part.0.clone(), part.1, part.2, part.3.clone(), user), line);
            }
        }
        for key in &self.reported {
            let zero = Line { exact: BigRational::zero(), posted: Some(BigInt::zero()) };
            lines.entry(key.clone()).or_insert(zero);
        }
        lines
    }
}

fn observation(at: Instant, facts: &Facts, name: &str, labels: &Labels) -> Observation {
    let doubtful = facts.doubtful.iter().any(|odd| odd.covers(name, labels));
    let (previous_run, listed) = if doubtful { facts.last_complete } else { facts.last };
    Observation { at, previous_run, listed, usual_gap: facts.usual_gap, ..Observation::default() }
}

fn put(entries: &mut Vec<Entry>, collector: &str, reading: &Reading, facts: &Facts) {
    let new = Entry {
        collector: collector.to_owned(),
        name: reading.name.clone(),
        kind: reading.kind,
        labels: reading.labels.clone(),
        id: reading.id.clone(),
        seen: Observation {
            start: reading.start,
            value: Some(reading.value.clone()),
            life: reading.life.clone(),
            began: reading.began,
            ..observation(reading.at, facts, &reading.name, &reading.labels)
        },
    };
    if let Some(known) = entries.iter().position(|e| e.is_the_same_as(collector, reading)) {
        let old = &entries[known];
        let content = |e: &Entry| {
            let Observation { at, start, value, life, began, .. } = e.seen.clone();
            (e.labels.clone(), at, start, value, life, began)
        };
        if content(old) == content(&new) {
            // Seen again: what was known when it first came in stays.
            return;
        }
        entries.remove(known);
    }
    entries.push(new);
}

/// The lines that shares make: the total ('') and each user's.
fn statement(shares: &[Share]) -> BTreeMap<String, Line> {
    let mut users: BTreeMap<String, BigRational> = BTreeMap::new();
    let mut total = BigRational::zero();
    for (user, amount, _, _) in shares {
        total += amount;
        if let Some(user) = user {
            *users.entry(user.clone()).or_insert_with(BigRational::zero) += amount;
        }
    }
    let additive = shares.iter().all(|share| share.2);
    let posted = post(&total, &users, additive, shares[0].3);
    let mut lines = BTreeMap::new();
    let cents = |user: &str| posted.as_ref().map(|posted| posted[user].clone());
    lines.insert(String::new(), Line { exact: total, posted: cents("") });
    for (user, exact) in users {
        lines.insert(user.clone(), Line { exact, posted: cents(&user) });
    }
    lines
}

fn rounded(amount: &BigRational, rounding: Rounding) -> BigInt {
    let cents = amount * fraction(100, 1);
    let down = cents.floor();
    let rest = &cents - &down;
    let half = fraction(1, 2);
    let odd = !(down.to_integer() % BigInt::from(2)).is_zero();
    let up = match rounding {
        Rounding::Down => false,
        Rounding::Up => !rest.is_zero(),
        Rounding::HalfUp => rest >= half,
        Rounding::HalfEven => rest > half || (rest == half && odd),
    };
    down.to_integer() + BigInt::from(u8::from(up))
}

/// Cents by user ('' is the total), or `None` where something is negative or has more than 18 digits.
fn post(
    total: &BigRational,
    users: &BTreeMap<String, BigRational>,
    additive: bool,
    rounding: Rounding,
) -> Option<BTreeMap<String, BigInt>> {
    let most = BigInt::from(10).pow(20);
    let whole = rounded(total, rounding);
    let mut posted: BTreeMap<String, BigInt> = BTreeMap::new();
    let nobodys = total - users.values().sum::<BigRational>();
    if total.is_negative() || users.values().any(Signed::is_negative) || (additive && nobodys.is_negative()) {
        return None;
    }
    if additive {
        // What carries no user first, then the users by name; who has the largest remainder gets a cent first.
        let mut shares: Vec<(Option<&String>, BigInt, BigRational)> = Vec::new();
        let each =
            std::iter::once((None, &nobodys)).chain(users.iter().map(|(user, exact)| (Some(user), exact)));
        for (user, exact) in each {
            let cents = rounded(exact, Rounding::Down);
            let left = exact * fraction(100, 1) - BigRational::from_integer(cents.clone());
            shares.push((user, cents, left));
        }
        let mut missing = &whole - shares.iter().map(|share| &share.1).sum::<BigInt>();
        while missing.is_positive() {
            let largest = shares.iter().map(|share| share.2.clone()).max().expect("nobody has a share");
            let next = shares.iter_mut().find(|share| share.2 == largest).expect("it is one of them");
            next.1 += 1;
            next.2 = fraction(-1, 1);
            missing -= 1;
        }
        posted.extend(shares.into_iter().filter_map(|(user, cents, _)| Some((user?.clone(), cents))));
    } else {
        posted.extend(users.iter().map(|(user, exact)| (user.clone(), rounded(exact, rounding))));
    }
    posted.insert(String::new(), whole);
    posted.values().all(|cents| *cents < most).then_some(posted)
}
