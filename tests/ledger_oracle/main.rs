//! The whole ledger against the naive oracle: random runs of two collectors, with series of all kinds that are shared out
//! over resources, users, components, factors and roundings, go through `Ledger::record` in random batches, late, twice
//! and corrected, through failed and partial runs, clocks that go back, restarts, resources that become known late and
//! plans that are switched; every line of every statement, exact and posted, is the oracle's. A failure prints shrunk
//! steps: keep them in named.rs under a name that says what was wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

mod case;
#[path = "../agent/engine.rs"]
mod engine;
mod events;
mod named;
#[path = "../oracle/mod.rs"]
mod oracle;
#[path = "../agent/rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use num_bigint::BigInt;
use num_traits::Zero;
use proptest::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;
use waldur_usage_agent::collectors::{Batch, Bearing};
use waldur_usage_agent::ledger::books::catalog::{KnownPlanPeriod, KnownResource};
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::sent::amount::{Amount, StatementKey};
use waldur_usage_agent::ledger::sent::record::{Intent, Outcome};
use waldur_usage_agent::ledger::sent::statement::Statement;
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::reading::{Epoch, Kind, Reading, Span};

use case::*;
use oracle::calendar::Calendar;
use oracle::ledger as naive;

/// What a run tells of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    takes: i64,
    failed: bool,
    partial: bool,
    quarantined: bool,
    lists_everything: bool,
}

/// The agent's ledger, the oracle's, and what is needed to draw the next step.
struct Bench<'a> {
    case: &'a Case,
    calendar: &'static Calendar,
    rulebook: Rulebook,
    ledger: Ledger,
    /// Where the file lies, if there is one.
    folder: Option<tempfile::TempDir>,
    naive: naive::Ledger<'static>,
    now: Micros,
    /// All readings that were drawn, to be seen again and corrected.
    drawn: Vec<(usize, Reading)>,
    levels: HashMap<(usize, u8), Decimal>,
    switches: u128,
}

fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

impl<'a> Bench<'a> {
    fn new(case: &'a Case) -> Bench<'a> {
        let calendar = &ZONES[usize::from(case.zone)].calendar;
        let (year, month) = MONTHS[usize::from(case.month)];
        let now = calendar.start(year, month) + i64::from(case.lead) * SECOND;
        let (rulebook, meters) = meters(case);
        let restarts = case.steps.iter().any(|step| matches!(step, Step::Restart));
        let folder = (restarts || engine::is_shared()).then(folder);
        let mut ledger = match &folder {
            Some(folder) => Ledger::open(engine::place(folder.path()), rulebook.clone()),
            None => Ledger::in_memory(rulebook.clone()),
        }
        .expect("a ledger");
        ledger.apply_rules(at(now)).expect("rules");
        let naive = naive::Ledger {
            calendar,
            meters,
            fixed: BTreeMap::from([("node".to_owned(), resource(0).to_string())]),
            known: BTreeMap::new(),
            plans: BTreeMap::new(),
            runs: Vec::new(),
            reported: BTreeSet::new(),
        };
        let (drawn, levels) = (Vec::new(), HashMap::new());
        let mut bench =
            Bench { case, calendar, rulebook, ledger, folder, naive, now, drawn, levels, switches: 0 };
        for number in 0..2 {
            bench.plan(number, now - 300 * DAY);
        }
        bench
    }

    fn go(mut self) -> Result<(), TestCaseError> {
        for step in &self.case.steps {
            match step {
                Step::Run { collector, distance, how, draws } => {
                    self.run(*collector, *distance, *how, draws);
                    continue;
                }
                Step::Restart => self.restart(),
                Step::Discover(number) => self.discover(number % 2),
                Step::Switch(number, when) if !self.case.reports => self.switch(number % 2, *when),
                Step::Report if self.case.reports => self.report(),
                Step::Switch(..) | Step::Report => continue,
            }
            self.compare()?;
        }
        self.compare()?;
        self.recount()?;
        self.compare()?;
        if self.case.compacts { self.compact() } else { Ok(()) }
    }

    /// Past months are compacted: no line changes, history that is read again counts nothing, a recount agrees, and what
    /// comes after it counts as if they were not.
    fn compact(&mut self) -> Result<(), TestCaseError> {
        self.report();
        close_all(&mut self.ledger, at(self.now));
        self.now = self.naive.runs.iter().map(|run| run.finished).fold(self.now, i64::max) + 1;
        let cut = self.calendar.stretches(self.now, self.now, &[])[0].start;
        while self.ledger.compact(at(self.now), SignedDuration::ZERO).expect("it is compacted").series > 0 {}
        self.compare()?;
        for collector in ["site", "node"] {
            let kept = self.naive.kept(collector);
            let all = self.drawn.iter().filter(|(source, _)| SOURCES[*source].0 == collector);
            let again =
                all.map(|(_, reading)| reading).filter(|reading| kept.contains(&naive_reading(reading)));
            self.record(collector, again.cloned().collect(), Told { partial: true, ..Told::default() });
        }
        self.compare()?;
        self.recount()?;
        for (collector, minutes) in [("site", 1), ("node", 2), ("site", 5), ("node", 3)] {
            self.now += minutes * MINUTE;
            let levels: Vec<_> = self.levels.iter().map(|(key, level)| (*key, *level)).collect();
            let readings = levels.into_iter().filter(|((source, _), _)| SOURCES[*source].0 == collector);
            let readings = readings.map(|((source, whose), level)| {
                let (_, name, kind) = SOURCES[source];
                let value = level + Decimal::from(minutes);
                Reading { labels: labels(whose), ..Reading::new(name, kind, value, at(self.now)) }
            });
            self.record(collector, readings.collect(), Told::default());
        }
        // In past months a series that had no reading there, and so nothing to compact, may still get something.
        let of_new = |lines: naive::Lines| lines.into_iter().filter(|(key, _)| key.2 >= cut).collect();
        same(&of_new(self.found()?), &of_new(self.naive.lines()))?;
        self.recount()
    }

    fn recount(&mut self) -> Result<(), TestCaseError> {
        let differences = self.ledger.recount_all(None, at(self.now)).expect("a recount");
        prop_assert_eq!(differences, [], "a recount agrees");
        Ok(())
    }

    fn run(&mut self, collector: u8, (far, by): (u8, u32), how: u8, draws: &[Draw]) {
        let collector = ["site", "site", "site", "node"][usize::from(collector) % 4];
        let by = i64::from(by);
        self.now += match far % 16 {
            0..=7 => 5 * MINUTE,
            8 | 9 => 1 + by % HOUR,
            10 | 11 => 1 + by * 1000 % DAY,
            12 => 1 + by * 1_000_000 % (40 * DAY),
            13 => 1 + by % 10,
            // Just before, at or after the end of the month.
            14 => {
                let end = self.calendar.stretches(self.now, self.now, &[])[0].end;
                (end - self.now + [0, -1, 1][far as usize / 16 % 3]).max(1)
            }
            // The clock was set back.
            _ => -(by % HOUR),
        };
        let readings: Vec<Reading> = draws.iter().filter_map(|draw| self.draw(collector, draw)).collect();
        let told = Told {
            takes: [0, 0, 0, SECOND, 7 * MINUTE][usize::from(how) % 5],
            failed: how >= 240,
            partial: (224..240).contains(&how),
            quarantined: (212..224).contains(&how),
            lists_everything: how & 8 != 0,
        };
        self.record(collector, readings, told);
    }

    fn record(&mut self, collector: &str, readings: Vec<Reading>, told: Told) {
        let finished = self.now + told.takes;
        self.naive.runs.push(naive::Run {
            collector: collector.to_owned(),
            at: self.now,
            finished,
            failed: told.failed,
            partial: told.partial,
            quarantined: told.quarantined,
            lists_everything: told.lists_everything,
            scope: String::new(),
            readings: readings.iter().map(naive_reading).collect(),
        });
        let mut batch = Batch { readings, lists_everything: told.lists_everything, ..Batch::default() };
        if told.quarantined {
            batch.quarantine_of("line 7", "it is no reading", Bearing::All);
        }
        if told.partial {
            batch.problem("a part was not read");
        }
        let outcome = match batch.finish(at(finished), &BTreeSet::new()) {
            Err(error) => RunOutcome::Failed(error.to_string()),
            Ok(()) if told.failed => RunOutcome::Failed("no answer".to_owned()),
            Ok(()) => RunOutcome::Seen(Seen {
                readings: batch.readings,
                quarantined: batch.quarantined,
                problems: batch.problems,
                lists_everything: batch.lists_everything,
                ended: batch.ended,
                history: batch.history,
                ..Seen::default()
            }),
        };
        let run = Run {
            collector: collector.to_owned(),
            at: at(self.now),
            finished: at(finished),
            scope: String::new(),
            outcome,
        };
        self.ledger.record(run).expect("a run is recorded");
    }

    fn draw(&mut self, collector: &str, draw: &Draw) -> Option<Reading> {
        let sources: Vec<usize> = (0..SOURCES.len()).filter(|s| SOURCES[*s].0 == collector).collect();
        let source = sources[usize::from(draw.source) % sources.len()];
        let (_, name, kind) = SOURCES[source];
        let (how, n) = (draw.when.0 % 16, i64::from(draw.when.1));
        let known: Vec<&Reading> = self.drawn.iter().filter(|(s, _)| *s == source).map(|(_, r)| r).collect();
        let some = || known.get(n as usize % known.len().max(1)).copied();
        let end = match (how, some()) {
            (7 | 8, _) => self.now - n % (2 * HOUR),
            (9, _) => self.now - n * 1000 % (3 * DAY),
            (10, _) => self.now - n * 1_000_000 % (40 * DAY),
            // At the instant of another, which it corrects if it is of that series.
            (11 | 12, Some(other)) => micros(other.span.end()),
            (13, _) => {
                let start = self.calendar.stretches(self.now, self.now, &[])[0].start;
                start + [0, -1, 1][n as usize % 3]
            }
            // Just what was seen before, or with another value.
            (14, Some(other)) => {
                let mut again = other.clone();
                if n % 2 == 1 {
                    again.value = (again.value + Decimal::ONE).min(Decimal::from(u32::MAX));
                }
                return Some(again);
            }
            // Ahead of its time: too far, and as far as may be.
            (15, _) if n % 4 == 0 => self.now + 11 * MINUTE + n / 4 % 3 * MINUTE,
            (15, _) if n % 4 == 1 => self.now + 5 * MINUTE,
            _ => self.now,
        };
        let level = self.levels.entry((source, draw.labels % LABELS.len() as u8)).or_default();
        let mut value = value_of(draw.value, kind, *level);
        if value.normalize().scale() > 12 || value > Decimal::from_i128_with_scale(i128::pow(10, 28) - 1, 0) {
            value = Decimal::ZERO;
        }
        *level = if kind == Kind::Delta { Decimal::ZERO } else { value.abs() };
        let (life, m) = (draw.life.0, i64::from(draw.life.1));
        let earlier = |distance: i64| Some(at(end - distance));
        let began = match life % 8 {
            _ if kind != Kind::Counter => None,
            0..=3 => None,
            4 => earlier(m % 3 * DAY),
            5 => earlier(m % HOUR),
            6 => known.last().and_then(|other| other.epoch.began),
            _ => earlier([0, 5 * MINUTE, -(m % HOUR)][m as usize % 3]),
        };
        let life_id = [None, None, Some("a"), Some("b")][usize::from(life / 8) % 4];
        let life_id = life_id.filter(|_| kind == Kind::Counter).map(str::to_owned);
        let span = match kind {
            Kind::Delta if life % 4 != 0 => {
                Span::Interval { start: at(end - m * 1_000_000 % (70 * DAY)), end: at(end) }
            }
            Kind::Total if life >= 128 => {
                Span::Interval { start: at(end - m * 100_000 % (10 * DAY)), end: at(end) }
            }
            _ => Span::At(at(end)),
        };
        let has_id = if kind == Kind::Delta { !draw.id.is_multiple_of(4) } else { draw.id > 232 };
        let reading = Reading {
            span,
            labels: labels(draw.labels),
            id: has_id.then(|| format!("j{}", draw.id / 4 % 5)),
            epoch: Epoch { id: life_id, began, ..Epoch::default() },
            ..Reading::new(name, kind, value, at(end))
        };
        // Collectors hand on nothing that is not.
        let reading = reading.checked().ok()?;
        self.drawn.push((source, reading.clone()));
        Some(reading)
    }

    fn restart(&mut self) {
        let Some(folder) = &self.folder else { return };
        let path = engine::place(folder.path());
        let gone = Ledger::in_memory(self.rulebook.clone()).expect("a ledger");
        drop(std::mem::replace(&mut self.ledger, gone));
        self.ledger = Ledger::open(path, self.rulebook.clone()).expect("the same ledger");
        self.ledger.apply_rules(at(self.now)).expect("rules");
    }

    fn discover(&mut self, number: u8) {
        let offering = Uuid::parse_str(OFFERING).expect("a UUID");
        let known = KnownResource {
            uuid: resource(number),
            offering,
            name: format!("resource {number}"),
            backend_id: format!("a{number}"),
            state: "OK".to_owned(),
            plan: None,
            customer: String::new(),
            project: String::new(),
        };
        self.ledger.put_resources(vec![known], None, at(self.now)).expect("it is taken");
        self.naive.known.insert(format!("a{number}"), resource(number).to_string());
    }

    fn switch(&mut self, number: u8, when: u32) {
        let start = self.now + i64::from(when) * 1000 % (25 * DAY) - 20 * DAY;
        self.plan(number, start);
    }

    /// A plan period of a resource becomes known.
    fn plan(&mut self, number: u8, start: Micros) {
        self.switches += 1;
        let period = KnownPlanPeriod { uuid: Uuid::from_u128(self.switches), start: at(start), end: None };
        self.ledger
            .put_plan_periods(resource(number), &[period], ("2026-11", "a plan"), at(self.now))
            .expect("it is taken");
        self.naive.plans.entry(resource(number).to_string()).or_default().push((start, self.now));
    }

    fn report(&mut self) {
        self.ledger.state(at(self.now)).expect("it is stated");
        for statement in self.ledger.statements(None).expect("statements") {
            let amounts = amounts_of(&statement);
            for amount in &amounts {
                let (component, user) = (amount.component.clone(), amount.user.clone());
                self.naive.reported.insert(key_of(&statement, component, user));
            }
            accept(&mut self.ledger, statement.key, &amounts, at(self.now));
        }
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        same(&self.found()?, &self.naive.lines())
    }

    /// The lines of the ledger.
    fn found(&mut self) -> Result<naive::Lines, TestCaseError> {
        self.ledger.state(at(self.now)).expect("it is stated");
        let mut found = naive::Lines::new();
        for statement in self.ledger.statements(None).expect("statements") {
            let totals = statement.components.iter().map(|(c, entry)| ((c.clone(), String::new()), entry));
            let users = statement.users.iter().map(|(key, entry)| (key.clone(), entry));
            for ((component, user), entry) in totals.chain(users) {
                let posted = entry.posted.map(|posted| {
                    assert_eq!(posted.scale(), 2);
                    BigInt::from(posted.mantissa())
                });
                prop_assert_eq!(posted.is_none(), entry.problem.is_some());
                let line = naive::Line { exact: number_of(&entry.exact), posted };
                found.insert(key_of(&statement, component, user), line);
            }
        }
        Ok(found)
    }
}

fn same(found: &naive::Lines, wanted: &naive::Lines) -> Result<(), TestCaseError> {
    let keys: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    for key in keys {
        let (found, wanted) = (found.get(key), wanted.get(key));
        // A line of zero where nothing ever was is never sent: it may stay of a reading that another one has taken back.
        if wanted.is_none() && found.is_some_and(|line| line.exact.is_zero()) {
            continue;
        }
        prop_assert_eq!(found, wanted, "left: the ledger's; right: the oracle's; {:?}", key);
    }
    Ok(())
}

/// Notes that the server has accepted these numbers.
fn accept(ledger: &mut Ledger, key: StatementKey, amounts: &[Amount], now: Timestamp) {
    let ids = ledger
        .intend(Intent { key, call: "set_usage", amounts, planned: &[], counted: 0 }, now)
        .expect("it is meant");
    ledger.conclude(&ids, Outcome::Accepted, "", now).expect("it is noted");
}

/// Everything is reported, and every month is closed.
fn close_all(ledger: &mut Ledger, now: Timestamp) {
    ledger.state(now).expect("it is stated");
    for statement in ledger.statements(None).expect("statements") {
        accept(ledger, statement.key, &amounts_of(&statement), now);
        ledger.close(statement.key, now).expect("it is closed");
    }
}

fn amounts_of(statement: &Statement) -> Vec<Amount> {
    let totals = statement.components.iter().map(|(component, entry)| (component, "", entry));
    let users = statement.users.iter().map(|((component, user), entry)| (component, user.as_str(), entry));
    let all = totals.chain(users).filter_map(|(component, user, entry)| {
        Some(Amount { component: component.clone(), user: user.to_owned(), amount: entry.posted? })
    });
    all.collect()
}

fn key_of(statement: &Statement, component: String, user: String) -> naive::Key {
    let month = statement.key.period.first_day();
    let part = micros(statement.key.part);
    (statement.key.resource.to_string(), (month.year(), month.month()), part, component, user)
}

fn micros(at: Timestamp) -> Micros {
    at.as_microsecond()
}

fn naive_reading(reading: &Reading) -> naive::Reading {
    naive::Reading {
        name: reading.name.clone(),
        kind: match reading.kind {
            Kind::Counter => naive::Kind::Counter,
            Kind::Gauge => naive::Kind::Gauge,
            Kind::Delta => naive::Kind::Delta,
            Kind::Total => naive::Kind::Total,
        },
        labels: reading.labels.clone(),
        at: micros(reading.span.end()),
        start: match reading.span {
            Span::At(_) => None,
            Span::Interval { start, .. } => Some(micros(start)),
        },
        value: rational(reading.value),
        id: reading.id.clone(),
        life: reading.epoch.id.clone(),
        began: reading.epoch.began.map(micros),
    }
}

/// `METERING_TIMES=20 cargo test --test ledger_oracle` looks twenty times as long.
fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("METERING_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    // In a database a case takes a hundred times as long.
    let cases = if engine::is_shared() { cases / 40 } else { cases };
    ProptestConfig { cases: cases * times, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(2_400))]

    #[test]
    fn every_line_is_the_oracles(case in case(false)) {
        Bench::new(&case).go()?;
    }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn every_line_is_the_oracles_through_restarts(case in case(true)) {
        Bench::new(&case).go()?;
    }
}

#[test]
fn the_oracle_shares_no_code_with_the_ledger() {
    let text = include_str!("../oracle/ledger.rs");
    assert!(!text.contains("waldur_usage_agent") && !text.contains("path ="));
}
