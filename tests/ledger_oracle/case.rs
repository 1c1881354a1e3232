//! What is drawn: where and when, the meters, and the steps that ledger and oracle go through. Everything simple is 0, so
//! that what is shrunk is simple.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jiff::Timestamp;
use num_bigint::BigInt;
use num_rational::BigRational;
use proptest::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;
use waldur_usage_agent::ledger::Rulebook;
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::Kind;

use crate::oracle::calendar::Calendar;
use crate::oracle::ledger as naive;
use crate::oracle::{Gauge, Rule};

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

pub(super) struct Zone {
    pub(super) zone: BillingZone,
    pub(super) calendar: Calendar,
}

pub(super) static ZONES: LazyLock<Vec<Zone>> = LazyLock::new(|| {
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
pub(super) const MONTHS: [(i16, i8); 8] =
    [(2026, 11), (2012, 1), (2011, 12), (2024, 3), (2028, 2), (2026, 4), (2026, 10), (2027, 1)];

pub(super) const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";

/// The resource of a backend id: `a0` is also the one that the collector `node` measures.
pub(super) fn resource(number: u8) -> Uuid {
    Uuid::from_u128(0x5e2f_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

/// Collector, reading, kind.
pub(super) const SOURCES: [(&str, &str, Kind); 6] = [
    ("site", "cpu", Kind::Counter),
    ("site", "memory", Kind::Gauge),
    ("site", "jobs", Kind::Delta),
    ("site", "sum", Kind::Total),
    ("node", "cpu", Kind::Counter),
    ("node", "seats", Kind::Gauge),
];

/// Whose a series is: account, user, host.
pub(super) const LABELS: [(&str, &str, &str); 7] = [
    ("a0", "alice", ""),
    ("a0", "bob", ""),
    ("a0", "", ""),
    ("a1", "alice", ""),
    ("a1", "bob", ""),
    ("a0", "alice", "h2"),
    // It belongs nowhere.
    ("", "alice", ""),
];

pub(super) fn labels(number: u8) -> BTreeMap<String, String> {
    let (account, user, host) = LABELS[usize::from(number) % LABELS.len()];
    let pairs = [("account", account), ("user", user), ("host", host)];
    pairs.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A meter as it is drawn: everything simple is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeterDraw {
    pub(super) component: u8,
    pub(super) how: u8,
    pub(super) factor: u8,
    pub(super) gap: u8,
}

#[derive(Debug, Clone)]
pub(super) struct Draw {
    pub(super) source: u8,
    pub(super) labels: u8,
    pub(super) when: (u8, u32),
    pub(super) value: (u8, u32),
    pub(super) life: (u8, u32),
    pub(super) id: u8,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
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
pub(super) struct Case {
    pub(super) zone: u8,
    pub(super) month: u8,
    /// Distance of the beginning from the start of the month, in seconds.
    pub(super) lead: i32,
    pub(super) meters: Vec<MeterDraw>,
    pub(super) roundings: [u8; 3],
    /// Whether lines are reported, or plans switched: what was reported before a switch that was not known of yet is of
    /// the new plan, which is no matter of amounts.
    pub(super) reports: bool,
    /// Whether past months are compacted in the end.
    pub(super) compacts: bool,
    pub(super) steps: Vec<Step>,
}

pub(super) fn draw() -> impl Strategy<Value = Draw> {
    let pair = || (any::<u8>(), any::<u32>());
    (any::<u8>(), any::<u8>(), pair(), pair(), pair(), any::<u8>())
        .prop_map(|(source, labels, when, value, life, id)| Draw { source, labels, when, value, life, id })
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let run = (any::<u8>(), (any::<u8>(), any::<u32>()), any::<u8>(), prop::collection::vec(draw(), 0..8));
    prop_oneof![
        12 => run.prop_map(|(collector, distance, how, draws)| Step::Run { collector, distance, how, draws }),
        1 => any::<u8>().prop_map(Step::Discover),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(resource, at)| Step::Switch(resource, at)),
        1 => Just(Step::Report),
    ]
}

pub(super) fn steps(restarts: bool) -> BoxedStrategy<Vec<Step>> {
    match restarts {
        true => prop::collection::vec(prop_oneof![4 => step(), 1 => Just(Step::Restart)], 1..12).boxed(),
        false => prop::collection::vec(step(), 1..12).boxed(),
    }
}

pub(super) fn case(restarts: bool) -> impl Strategy<Value = Case> {
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

pub(super) const COMPONENTS: [&str; 3] = ["cpu", "ram", "sum"];
pub(super) const ROUNDINGS: [(&str, naive::Rounding); 4] = [
    ("half_even", naive::Rounding::HalfEven),
    ("half_up", naive::Rounding::HalfUp),
    ("down", naive::Rounding::Down),
    ("up", naive::Rounding::Up),
];
pub(super) const FACTORS: [&str; 7] = ["1", "1/3600", "0.25", "1/1073741824", "1000", "3/7", "0"];
pub(super) const GAPS: [Option<(&str, i64)>; 5] =
    [None, Some(("15m", 15 * MINUTE)), Some(("1h", HOUR)), Some(("6h", 6 * HOUR)), Some(("3d", 3 * DAY))];

/// The meters as the operator writes them, and as the oracle takes them.
pub(super) fn meters(case: &Case) -> (Rulebook, Vec<naive::Meter>) {
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
    let zone = ZONES[usize::from(case.zone)].zone.clone();
    (super::rules::rulebook(&text, zone), naive_meters)
}

/// A number as the ledger writes it: `12`, `-0.25` or `1/3`.
pub(super) fn number_of(text: &str) -> BigRational {
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

pub(super) fn rational(value: Decimal) -> BigRational {
    BigRational::new(value.mantissa().into(), BigInt::from(10).pow(value.scale()))
}

pub(super) fn at(micros: Micros) -> Timestamp {
    Timestamp::from_microsecond(micros).expect("in range")
}

pub(super) type Micros = i64;

pub(super) fn value_of((how, n): (u8, u32), kind: Kind, level: Decimal) -> Decimal {
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
