//! The whole ledger against the naive oracle: random runs of two collectors, with series of all kinds that are shared out
//! over resources, users, components, factors and roundings, go through `Ledger::record` in random batches, late, twice
//! and corrected, through failed and partial runs, clocks that go back, restarts, resources that become known late and
//! plans that are switched; every line of every statement, exact and posted, is the oracle's. A failure prints shrunk
//! steps: keep them below under a name that says what was wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

mod oracle;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use num_bigint::BigInt;
use num_rational::BigRational;
use proptest::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;
use waldur_usage_agent::collectors::Quarantined;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::ledger::catalog::{KnownPlanPeriod, KnownResource};
use waldur_usage_agent::ledger::ingest::{Run, RunOutcome};
use waldur_usage_agent::ledger::outbox::{Amount, Statement};
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::meter::Rules;
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Epoch, Kind, Reading, Span};

use oracle::calendar::Calendar;
use oracle::ledger as naive;
use oracle::{Gauge, Rule};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

struct Zone {
    zone: BillingZone,
    calendar: Calendar,
}

static ZONES: LazyLock<Vec<Zone>> = LazyLock::new(|| {
    let names = [
        "UTC",
        "Europe/Tallinn",
        "America/New_York",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
    ];
    let zone = |name| Zone {
        zone: BillingZone::named(name).expect("a zone"),
        calendar: Calendar::walk(name, 2010..=2029),
    };
    names.into_iter().map(zone).collect()
});

/// Months near whose first instant runs are made: Apia's missing day, leap Februaries, clock changes, a turn of the year.
const MONTHS: [(i16, i8); 8] =
    [(2026, 11), (2012, 1), (2011, 12), (2024, 3), (2028, 2), (2026, 4), (2026, 10), (2027, 1)];

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";

/// The resource of a backend id: `a0` is also the one that the collector `node` measures.
fn resource(number: u8) -> Uuid {
    Uuid::from_u128(0x5e2f_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

/// Collector, reading, kind.
const SOURCES: [(&str, &str, Kind); 6] = [
    ("site", "cpu", Kind::Counter),
    ("site", "memory", Kind::Gauge),
    ("site", "jobs", Kind::Delta),
    ("site", "sum", Kind::Total),
    ("node", "cpu", Kind::Counter),
    ("node", "seats", Kind::Gauge),
];

/// Whose a series is: account, user, host.
const LABELS: [(&str, &str, &str); 7] = [
    ("a0", "alice", ""),
    ("a0", "bob", ""),
    ("a0", "", ""),
    ("a1", "alice", ""),
    ("a1", "bob", ""),
    ("a0", "alice", "h2"),
    // It belongs nowhere.
    ("", "alice", ""),
];

fn labels(number: u8) -> BTreeMap<String, String> {
    let (account, user, host) = LABELS[usize::from(number) % LABELS.len()];
    let pairs = [("account", account), ("user", user), ("host", host)];
    pairs.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A meter as it is drawn: everything simple is 0.
#[derive(Debug, Clone, Copy)]
struct MeterDraw {
    component: u8,
    how: u8,
    factor: u8,
    gap: u8,
}

#[derive(Debug, Clone)]
struct Draw {
    source: u8,
    labels: u8,
    when: (u8, u32),
    value: (u8, u32),
    life: (u8, u32),
    id: u8,
}

#[derive(Debug, Clone)]
enum Step {
    Run {
        collector: u8,
        distance: (u8, u32),
        how: u8,
        draws: Vec<Draw>,
    },
    /// The file is closed and opened again.
    Restart,
    /// A resource becomes known.
    Discover(u8),
    /// Its plan was switched.
    Switch(u8, u32),
    /// What is there is reported and accepted.
    Report,
}

#[derive(Debug, Clone)]
struct Case {
    zone: u8,
    month: u8,
    /// Distance of the beginning from the start of the month, in seconds.
    lead: i32,
    meters: Vec<MeterDraw>,
    roundings: [u8; 3],
    /// Whether lines are reported, or plans switched: what was reported before a switch that was not known of yet is of
    /// the new plan, which is no matter of amounts.
    reports: bool,
    /// Whether past months are compacted in the end.
    compacts: bool,
    steps: Vec<Step>,
}

fn draw() -> impl Strategy<Value = Draw> {
    let pair = || (any::<u8>(), any::<u32>());
    (any::<u8>(), any::<u8>(), pair(), pair(), pair(), any::<u8>())
        .prop_map(|(source, labels, when, value, life, id)| Draw { source, labels, when, value, life, id })
}

fn step() -> impl Strategy<Value = Step> {
    let run = (any::<u8>(), (any::<u8>(), any::<u32>()), any::<u8>(), prop::collection::vec(draw(), 0..8));
    prop_oneof![
        12 => run.prop_map(|(collector, distance, how, draws)| Step::Run { collector, distance, how, draws }),
        1 => any::<u8>().prop_map(Step::Discover),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(resource, at)| Step::Switch(resource, at)),
        1 => Just(Step::Report),
    ]
}

fn steps(restarts: bool) -> BoxedStrategy<Vec<Step>> {
    match restarts {
        true => prop::collection::vec(prop_oneof![4 => step(), 1 => Just(Step::Restart)], 1..12).boxed(),
        false => prop::collection::vec(step(), 1..12).boxed(),
    }
}

fn case(restarts: bool) -> impl Strategy<Value = Case> {
    let meter = (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>())
        .prop_map(|(component, how, factor, gap)| MeterDraw { component, how, factor, gap });
    let meters = prop::collection::vec(meter, SOURCES.len()..2 * SOURCES.len());
    let where_and_when = (0..6_u8, 0..8_u8, -300_000..300_000_i32);
    (where_and_when, meters, any::<[u8; 3]>(), any::<(bool, bool)>(), steps(restarts)).prop_map(
        |((zone, month, lead), meters, roundings, (reports, compacts), steps)| Case {
            zone,
            month,
            lead,
            meters,
            roundings,
            reports,
            compacts,
            steps,
        },
    )
}

const COMPONENTS: [&str; 3] = ["cpu", "ram", "sum"];
const ROUNDINGS: [(&str, naive::Rounding); 4] = [
    ("half_even", naive::Rounding::HalfEven),
    ("half_up", naive::Rounding::HalfUp),
    ("down", naive::Rounding::Down),
    ("up", naive::Rounding::Up),
];
const FACTORS: [&str; 7] = ["1", "1/3600", "0.25", "1/1073741824", "1000", "3/7", "0"];
const GAPS: [Option<(&str, i64)>; 5] =
    [None, Some(("15m", 15 * MINUTE)), Some(("1h", HOUR)), Some(("6h", 6 * HOUR)), Some(("3d", 3 * DAY))];

/// The meters as the operator writes them, and as the oracle takes them.
fn meters(case: &Case) -> (Rulebook, Vec<naive::Meter>) {
    let mut yaml: BTreeMap<&str, String> = BTreeMap::new();
    let mut naive_meters = Vec::new();
    for (number, draw) in case.meters.iter().enumerate() {
        let (collector, reading, kind) = SOURCES[number % SOURCES.len()];
        let component = usize::from(draw.component) % 3;
        let (rounding, naive_rounding) = ROUNDINGS[usize::from(case.roundings[component]) % 4];
        let component = COMPONENTS[component];
        let factor = FACTORS[usize::from(draw.factor) % FACTORS.len()];
        let mut text = format!(
            "m{number}: {{ component: {component}, reading: {reading}, factor: {factor}, rounding: {rounding}"
        );
        let mut mean = false;
        let rule = match kind {
            Kind::Counter => Rule::Increase,
            Kind::Delta => Rule::Sum,
            Kind::Total => Rule::Total,
            Kind::Gauge => {
                let gap = GAPS[usize::from(draw.gap) % GAPS.len()];
                let hold = draw.how & 64 != 0;
                let linear = draw.how & 128 != 0;
                let gauge = |linear| Gauge { linear, max_gap: gap.map(|gap| gap.1), hold };
                let (aggregate, rule) = match draw.how % 5 {
                    0 | 1 => ("integral", Rule::Integral(gauge(linear))),
                    2 => {
                        mean = true;
                        ("mean", Rule::Integral(gauge(linear)))
                    }
                    3 => ("max", Rule::Max(gauge(false))),
                    _ => ("last", Rule::Last),
                };
                text += &format!(", aggregate: {aggregate}");
                if !matches!(rule, Rule::Last) {
                    if let Some((gap, _)) = gap {
                        text += &format!(", max_gap: {gap}");
                    }
                    if hold {
                        text += ", on_gap: hold";
                    }
                    if linear && !matches!(rule, Rule::Max(_)) {
                        text += ", interpolation: linear";
                    }
                }
                rule
            }
        };
        *yaml.entry(collector).or_default() += &format!("      {text} }}\n");
        naive_meters.push(naive::Meter {
            collector: collector.to_owned(),
            reading: reading.to_owned(),
            component: component.to_owned(),
            rule,
            mean,
            factor: number_of(factor),
            rounding: naive_rounding,
        });
    }
    let (site, node) = (&yaml["site"], &yaml["node"]);
    let text = format!(
        "collectors:\n  site:\n    resource: {{ offering: {OFFERING}, backend_id: '{{account}}' }}\n    \
         user: '{{user}}'\n    meters:\n{site}  node:\n    resource: {}\n    user: '{{user}}'\n    meters:\n{node}",
        resource(0)
    );
    let (mut root, problems) = Section::parse(&text);
    let rules = root.named_sections("collectors").iter_mut().filter_map(Rules::from_section).collect();
    assert_eq!(problems.list(), []);
    let zone = ZONES[usize::from(case.zone)].zone.clone();
    (Rulebook { zone, rules }, naive_meters)
}

/// A number as the ledger writes it: `12`, `-0.25` or `1/3`.
fn number_of(text: &str) -> BigRational {
    let whole = |text: &str| text.parse::<BigInt>().expect("digits");
    match (text.split_once('/'), text.split_once('.')) {
        (Some((over, under)), _) => BigRational::new(whole(over), whole(under)),
        (None, Some((before, after))) => {
            let scale = BigInt::from(10).pow(after.len() as u32);
            BigRational::new(whole(&format!("{before}{after}")), scale)
        }
        (None, None) => BigRational::from_integer(whole(text)),
    }
}

fn rational(value: Decimal) -> BigRational {
    BigRational::new(value.mantissa().into(), BigInt::from(10).pow(value.scale()))
}

fn at(micros: Micros) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("in range")
}

type Micros = i64;

fn value_of((how, n): (u8, u32), kind: Kind, level: Decimal) -> Decimal {
    let n = i128::from(n);
    let scale = u32::from(how / 16) % 13;
    let value = match how % 16 {
        0..=6 => {
            return (level + Decimal::from_i128_with_scale(n % 100_000, u32::from(how / 16) % 4)).normalize();
        }
        7 => return level,
        8 => Decimal::ZERO,
        9 | 10 => Decimal::from_i128_with_scale(n, scale),
        11 => Decimal::from_i128_with_scale(n % 1000, 0),
        12 => Decimal::from_i128_with_scale(n * 1_000_000_007, scale),
        // The largest that a reading can be: 28 digits.
        13 if n % 4 == 0 => Decimal::from_i128_with_scale(9_999_999_999_999_999_999_999_999_999 - n, 12),
        14 if n % 16 == 0 => Decimal::from_i128_with_scale(n * 2_000_000_000_000_000_000 + n, 0),
        _ => Decimal::from_i128_with_scale(n % 1000, 2),
    };
    let negative = kind != Kind::Counter && how >= 232 && !value.is_zero();
    if negative { -value } else { value }
}

/// What a run tells of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    takes: i64,
    failed: bool,
    partial: bool,
    quarantined: bool,
    scope: &'static str,
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
        let folder = restarts.then(folder);
        let mut ledger = match &folder {
            Some(folder) => Ledger::open(&folder.path().join("ledger.db"), rulebook.clone()),
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
        Bench { case, calendar, rulebook, ledger, folder, naive, now, drawn, levels, switches: 0 }
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
        let differences = self.ledger.recount_all(at(self.now)).expect("a recount");
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
            scope: if (196..212).contains(&how) { "another" } else { "" },
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
            scope: told.scope.to_owned(),
            readings: readings.iter().map(naive_reading).collect(),
        });
        let bad = Quarantined { what: "line 7".to_owned(), reason: "it is no reading".to_owned() };
        let outcome = match told.failed {
            true => RunOutcome::Failed("no answer".to_owned()),
            false => RunOutcome::Seen {
                readings,
                quarantined: if told.quarantined { vec![bad] } else { Vec::new() },
                problems: if told.partial { vec!["a part was not read".to_owned()] } else { Vec::new() },
                checkpoint: None,
                lists_everything: told.lists_everything,
            },
        };
        let run = Run {
            collector: collector.to_owned(),
            at: at(self.now),
            finished: at(finished),
            scope: told.scope.to_owned(),
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
            // Just what was seen before.
            (14, Some(other)) => return Some(other.clone()),
            (15, _) if n % 4 == 0 => self.now + 11 * MINUTE + n / 4 % 3 * MINUTE,
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
            epoch: Epoch { id: life_id, began },
            ..Reading::new(name, kind, value, at(end))
        };
        // Collectors hand on nothing that is not.
        let reading = reading.checked().ok()?;
        self.drawn.push((source, reading.clone()));
        Some(reading)
    }

    fn restart(&mut self) {
        let Some(folder) = &self.folder else { return };
        let path = folder.path().join("ledger.db");
        let gone = Ledger::in_memory(self.rulebook.clone()).expect("a ledger");
        drop(std::mem::replace(&mut self.ledger, gone));
        self.ledger = Ledger::open(&path, self.rulebook.clone()).expect("the same ledger");
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
        self.switches += 1;
        let period = KnownPlanPeriod { uuid: Uuid::from_u128(self.switches), start: at(start), end: None };
        let look = ("2026-11", "a plan");
        self.ledger
            .put_plan_periods(resource(number), vec![period], look, at(self.now))
            .expect("it is taken");
        self.naive.plans.entry(resource(number).to_string()).or_default().insert(start);
    }

    fn report(&mut self) {
        for statement in self.ledger.statements(None).expect("statements") {
            let amounts = amounts_of(&statement);
            for amount in &amounts {
                let (component, user) = (amount.component.clone(), amount.user.clone());
                self.naive.reported.insert(key_of(&statement, component, user));
            }
            self.ledger.acknowledge(statement.key, amounts, "accepted", at(self.now)).expect("it is noted");
        }
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        same(&self.found()?, &self.naive.lines())
    }

    /// The lines of the ledger.
    fn found(&self) -> Result<naive::Lines, TestCaseError> {
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
        prop_assert_eq!(found, wanted, "left: the ledger's; right: the oracle's; {:?}", key);
    }
    Ok(())
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
    ProptestConfig { cases: cases * times, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(3_200))]

    #[test]
    fn every_line_is_the_oracles(case in case(false)) {
        Bench::new(&case).go()?;
    }
}

proptest! {
    #![proptest_config(config(800))]

    #[test]
    fn every_line_is_the_oracles_through_restarts(case in case(true)) {
        Bench::new(&case).go()?;
    }
}

/// A ledger in memory of one collector, `c`, with these meters.
fn ledger_of(meters: &str) -> Ledger {
    let text = format!("collectors:\n  c:\n    resource: {}\n    meters: {{ {meters} }}\n", resource(0));
    let (mut root, problems) = Section::parse(&text);
    let rules = root.named_sections("collectors").iter_mut().filter_map(Rules::from_section).collect();
    assert_eq!(problems.list(), []);
    let mut ledger = Ledger::in_memory(Rulebook { zone: BillingZone::utc(), rules }).unwrap();
    ledger.apply_rules(at(0)).unwrap();
    ledger
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record(ledger: &mut Ledger, now: &str, reading: Reading) {
    let outcome = RunOutcome::Seen {
        readings: vec![reading],
        quarantined: Vec::new(),
        problems: Vec::new(),
        checkpoint: None,
        lists_everything: false,
    };
    let (collector, scope) = ("c".to_owned(), String::new());
    ledger.record(Run { collector, at: time(now), finished: time(now), scope, outcome }).unwrap();
}

/// Month, component and exact amount of each total.
fn totals(ledger: &Ledger) -> Vec<String> {
    let statements = ledger.statements(None).unwrap();
    let of = |s: &Statement| {
        let period = s.key.period;
        let lines =
            s.components.iter().map(|(component, entry)| format!("{period} {component} {}", entry.exact));
        lines.collect::<Vec<_>>()
    };
    statements.iter().flat_map(of).collect()
}

/// Everything is reported, and all months that ended before `now` are compacted.
fn compact(ledger: &mut Ledger, now: &str) {
    for statement in ledger.statements(None).unwrap() {
        ledger.acknowledge(statement.key, amounts_of(&statement), "accepted", time(now)).unwrap();
    }
    while ledger.compact(time(now), SignedDuration::ZERO).unwrap().series > 0 {}
}

/// A step that is held through gaps never asks how long one is: both meters count one and the same, once.
#[test]
fn two_meters_that_hold_through_gaps_of_other_lengths_count_once() {
    let hold = "reading: seats, aggregate: integral, on_gap: hold";
    let mut ledger = ledger_of(&format!("a: {{ {hold} }}, b: {{ {hold}, max_gap: 15m }}"));
    for (at, seats) in [("2026-11-10T10:00:00Z", 6), ("2026-11-10T12:00:00Z", 0)] {
        record(&mut ledger, at, Reading::new("seats", Kind::Gauge, seats.into(), time(at)));
    }
    assert_eq!(totals(&ledger), ["2026-11 a 12", "2026-11 b 12"], "6 seats for 2 hours");
}

/// The next month starts from the last reading of a compacted one, also where readings have ids.
#[test]
fn a_gauge_whose_readings_have_ids_goes_on_after_its_month_was_compacted() {
    let mut ledger = ledger_of("a: { reading: seats, aggregate: integral }");
    let seats = |at: &str| Reading {
        id: Some(format!("look of {at}")),
        ..Reading::new("seats", Kind::Gauge, 6.into(), time(at))
    };
    record(&mut ledger, "2026-10-31T22:00:00Z", seats("2026-10-31T22:00:00Z"));
    record(&mut ledger, "2026-10-31T23:00:00Z", seats("2026-10-31T23:00:00Z"));
    compact(&mut ledger, "2026-11-01T00:30:00Z");
    record(&mut ledger, "2026-11-01T01:00:00Z", seats("2026-11-01T01:00:00Z"));
    // October: the hour from 22:00 on; what the reading of November adds to it came too late.
    assert_eq!(totals(&ledger), ["2026-10 a 6", "2026-11 a 6"]);
}

/// The last word on a month is its amount, also where the first on the next is of the same instant and comes before it.
#[test]
fn two_totals_of_the_instant_between_two_months_are_each_of_their_own() {
    let mut ledger = ledger_of("t: { reading: used }");
    let (middle, end) = ("2026-11-15T00:00:00Z", "2026-12-01T00:00:00Z");
    let total = |value: i64, at: &str| Reading::new("used", Kind::Total, value.into(), time(at));
    let span = Span::Interval { start: time("2026-11-01T00:00:00Z"), end: time(end) };
    let last_word = Reading { id: Some("november".to_owned()), span, ..total(100, end) };
    for reading in [total(60, middle), total(3, end), last_word] {
        record(&mut ledger, end, reading);
    }
    assert_eq!(totals(&ledger), ["2026-11 t 100", "2026-12 t 3"]);
    compact(&mut ledger, "2026-12-02T00:00:00Z");
    assert_eq!(ledger.recount_all(time("2026-12-02T00:00:00Z")).unwrap(), []);
    assert_eq!(totals(&ledger), ["2026-11 t 100", "2026-12 t 3"]);
}

/// What a month's jobs used in the month before, which has no reading of its own, is kept with theirs.
#[test]
fn a_job_that_reaches_back_into_a_month_without_readings_is_still_there_after_compaction() {
    let mut ledger = ledger_of("h: { reading: jobs, factor: 1/3600 }");
    let job = Reading {
        id: Some("7".to_owned()),
        span: Span::Interval { start: time("2026-09-30T23:00:00Z"), end: time("2026-10-01T02:00:00Z") },
        ..Reading::new("jobs", Kind::Delta, 10_800.into(), time("2026-10-01T02:00:00Z"))
    };
    record(&mut ledger, "2026-10-01T02:00:00Z", job);
    compact(&mut ledger, "2026-11-02T00:00:00Z");
    assert_eq!(ledger.recount_all(time("2026-11-02T00:00:00Z")).unwrap(), []);
    assert_eq!(totals(&ledger), ["2026-09 h 1", "2026-10 h 2"]);
}

#[test]
fn the_oracle_shares_no_code_with_the_ledger() {
    let text = include_str!("oracle/ledger.rs");
    assert!(!text.contains("waldur_usage_agent") && !text.contains("path ="));
}
