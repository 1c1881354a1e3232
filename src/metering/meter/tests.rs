//! Tests of how meters and rules are read from the file, and of where series belong.

use super::*;

const OFFERING: &str = "91ab0f7e-1111-4222-8333-444455556666";
const RESOURCE: &str = "5e2f0f7e-1111-4222-8333-444455556666";

/// The rules of the collector `c` with these lines, and every problem with them.
fn read(lines: &str) -> (Option<Rules>, Vec<String>) {
    let indented: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    let (mut root, problems) = Section::parse(&format!("c:\n{indented}"));
    let mut section = root.section("c").unwrap();
    let rules = Rules::from_section(&mut section);
    section.finish();
    (rules, problems.list().iter().map(ToString::to_string).collect())
}

fn rules(lines: &str) -> Rules {
    let (rules, problems) = read(lines);
    assert_eq!(problems, [""; 0]);
    rules.unwrap()
}

fn meter(keys: &str) -> Meter {
    rules(&format!("resource: {RESOURCE}\nmeters: {{ m: {{ {keys} }} }}")).meters.remove(0)
}

/// The problems of one meter, without where they are.
fn problems(keys: &str) -> Vec<String> {
    let (_, problems) = read(&format!("resource: {RESOURCE}\nmeters: {{ m: {{ {keys} }} }}"));
    problems.iter().map(|p| p.replace("line 3: c.meters.m", "")).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_meter_says_little_and_means_the_usual() {
    let meter = meter("reading: cpu_seconds");
    assert_eq!((meter.component.as_str(), meter.reading.as_str()), ("m", "cpu_seconds"));
    assert_eq!(meter.factor, Exact::one());
    assert_eq!((meter.aggregate, meter.rounding, meter.hold), (None, Rounding::HalfEven, Hold::default()));
    assert_eq!((meter.description, meter.recurring, meter.missing_usage_policy), (None, None, None));
    let Hold { interpolation, max_gap, on_gap } = meter.hold;
    assert_eq!((interpolation, max_gap, on_gap), (Interpolation::Step, None, OnGap::LeaveOut));
}

#[test]
fn a_meter_may_say_everything() {
    let meter = meter(
        "component: ram, reading: bytes, aggregate: mean, factor: 1/1073741824, rounding: down, \
         interpolation: linear, max_gap: 1h30m, on_gap: hold, description: 'of {user}', recurring: false, \
         missing_usage_policy: reuse",
    );
    assert_eq!(meter.component, "ram");
    assert_eq!(meter.factor, Exact::ratio(1, 1_073_741_824).unwrap());
    assert_eq!(meter.rounding, Rounding::Down);
    let hold = Hold {
        interpolation: Interpolation::Linear,
        max_gap: Some(SignedDuration::from_mins(90)),
        on_gap: OnGap::Hold,
    };
    assert_eq!(meter.measure(Kind::Gauge), Ok(Measure::Mean(hold)));
    assert_eq!(meter.description.as_deref(), Some("of {user}"));
    assert_eq!(meter.recurring, Some(false));
    assert_eq!(meter.missing_usage_policy.as_deref(), Some("reuse"));
    for policy in ["none", "zero"] {
        let keys =
            format!("reading: r, missing_usage_policy: {policy}, interpolation: step, on_gap: leave_out");
        assert!(problems(&keys).is_empty());
    }
}

#[test]
fn every_mistake_in_a_meter_is_told_in_words() {
    let cases = [
        ("factor: 1", ": `reading` is missing: the name of the readings to meter"),
        ("reading: ''", ".reading: must not be empty"),
        (
            "reading: r, aggregate: avg",
            ".aggregate: `avg` is no aggregate; known: increase, sum, integral, mean, max, last",
        ),
        ("reading: r, factor: -1/3600", ".factor: must not be negative"),
        ("reading: r, factor: 1/0", ".factor: `1/0` divides by zero"),
        ("reading: r, at_most: 0", ".at_most: must be more than 0"),
        ("reading: r, at_most: -1", ".at_most: must be more than 0"),
        (
            "reading: r, at_most: 64 cores",
            ".at_most: `64 cores` is not a number such as 12, 0.25, 1e-3 or 1/3600",
        ),
        ("reading: r, at_most: 1e-40", ".at_most: has too many digits"),
        (
            "reading: r, aggregate: max, at_most: 64",
            ".at_most: `at_most` bounds what adds up, and a `max` does not",
        ),
        (
            "reading: r, factor: '1,5'",
            ".factor: `1,5` is not a number such as 12, 0.25, 1e-3 or 1/3600: a decimal has a point, `1.5`, and thousands have \
             no mark",
        ),
        ("reading: r, factor: much", ".factor: `much` is not a number such as 12, 0.25, 1e-3 or 1/3600"),
        ("reading: r, rounding: off", ".rounding: `off` is no rounding; known: half_even, half_up, down, up"),
        (
            "reading: r, aggregate: mean, interpolation: cubic",
            ".interpolation: `cubic` is no interpolation; known: step, linear",
        ),
        (
            "reading: r, aggregate: mean, max_gap: soon",
            ".max_gap: `soon` is not a length of time such as 30s, 5m, 1h30m or 2d",
        ),
        (
            "reading: r, aggregate: mean, on_gap: guess",
            ".on_gap: `guess` is no way to treat a gap; known: leave_out, hold",
        ),
        ("reading: r, recurring: perhaps", ".recurring: must be true or false, not `perhaps`"),
        (
            "reading: r, missing_usage_policy: guess",
            ".missing_usage_policy: `guess` is no policy; known: none, reuse, zero",
        ),
        (
            "reading: r, aggregate: increase, max_gap: 5m",
            ".max_gap: `max_gap` is only for the aggregates integral, mean and max",
        ),
        (
            "reading: r, aggregate: sum, on_gap: hold",
            ".on_gap: `on_gap` is only for the aggregates integral, mean and max",
        ),
        (
            "reading: r, aggregate: last, interpolation: linear",
            ".interpolation: `interpolation` is only for the aggregates integral, mean and max",
        ),
        (
            "reading: r, aggregate: max, interpolation: linear",
            ".interpolation: a `max` takes each level to hold until the next reading",
        ),
        ("reading: r, facter: 2", ".facter: unknown key `facter`; did you mean `factor`?"),
        ("reading: r, description: \"a\\0b\"", ".description: must not contain a NUL character"),
    ];
    for (keys, problem) in cases {
        assert_eq!(problems(keys), [problem], "{keys}");
    }
    let described = |length| format!("reading: r, description: {}", "é".repeat(length));
    assert!(problems(&described(2000)).is_empty());
    assert_eq!(problems(&described(2001)), [".description: must have at most 2,000 characters"]);
    for fits in ["integral", "mean"] {
        assert!(problems(&format!("reading: r, aggregate: {fits}, interpolation: linear")).is_empty());
    }
    assert!(problems("reading: r, aggregate: max, max_gap: 5m").is_empty());
}

#[test]
fn each_kind_has_the_aggregates_that_fit_it() {
    let hold = Hold::default();
    let fits = [
        (Kind::Counter, "increase", Measure::Increase(None)),
        (Kind::Delta, "sum", Measure::Sum(None)),
        (Kind::Total, "last", Measure::Total(None)),
        (Kind::Gauge, "integral", Measure::Integral(hold, None)),
        (Kind::Gauge, "mean", Measure::Mean(hold)),
        (Kind::Gauge, "max", Measure::Max(hold)),
        (Kind::Gauge, "last", Measure::Level),
    ];
    let all = ["increase", "sum", "integral", "mean", "max", "last"];
    for kind in [Kind::Counter, Kind::Delta, Kind::Total, Kind::Gauge] {
        for aggregate in all {
            let meter = meter(&format!("reading: r, aggregate: {aggregate}"));
            assert_eq!(meter.aggregate.unwrap().to_string(), aggregate);
            let expected = fits.iter().find(|(k, a, _)| *k == kind && *a == aggregate).map(|fit| fit.2);
            assert_eq!(meter.measure(kind).ok(), expected, "{kind} {aggregate}");
        }
    }
    let plain = meter("reading: r");
    assert_eq!(plain.measure(Kind::Counter), Ok(Measure::Increase(None)));
    assert_eq!(plain.measure(Kind::Delta), Ok(Measure::Sum(None)));
    assert_eq!(plain.measure(Kind::Total), Ok(Measure::Total(None)));
    assert_eq!(
        plain.measure(Kind::Gauge).unwrap_err(),
        "the meter m must say how the gauge r is to be billed: `aggregate: integral`, `mean`, `max` or `last`"
    );
    for (kind, aggregate, fit) in [
        (Kind::Counter, "mean", "`increase`"),
        (Kind::Delta, "increase", "`sum`"),
        (Kind::Total, "sum", "`last`"),
        (Kind::Gauge, "sum", "`integral`, `mean`, `max` or `last`"),
    ] {
        assert_eq!(
            meter(&format!("reading: r, aggregate: {aggregate}")).measure(kind).unwrap_err(),
            format!("the meter m can't take `aggregate: {aggregate}` of r, which is a {kind}; it fits {fit}")
        );
    }
    for (_, _, measure) in fits {
        let sums = !matches!(measure, Measure::Max(_) | Measure::Level);
        assert_eq!(measure.adds_up(), sums);
    }
}

#[test]
fn series_are_placed_by_their_labels() {
    let cluster = rules(&format!(
        "resource: {{ offering: {OFFERING}, backend_id: 'x-{{account}}' }}\nuser: '{{user}}'\n\
         ignore: [x-root, x-admin]\nmeters: {{ m: {{ reading: r }} }}"
    ));
    let offering = Uuid::parse_str(OFFERING).unwrap();
    let target = Target::BackendId { offering, backend_id: "x-p1".to_owned() };
    let place = |pairs| cluster.place(&labels(pairs));
    let at = |user: Option<&str>| Place::At { target: target.clone(), user: user.map(str::to_owned) };
    assert_eq!(place(&[("account", "p1"), ("user", " alice ")]), at(Some("alice")));
    // Without a user it is unattributed, not lost.
    assert_eq!(place(&[("account", "p1")]), at(None));
    assert_eq!(place(&[("account", "p1"), ("user", "  ")]), at(None));
    assert_eq!(place(&[("account", "root"), ("user", "alice")]), Place::Ignored);
    assert_eq!(place(&[("account", "admin")]), Place::Ignored);
    let nowhere = |why: &str| Place::Nowhere(why.to_owned());
    assert_eq!(place(&[("user", "alice")]), nowhere("its readings carry no label `account`"));
    assert_eq!(cluster.labels(), ["account", "user"]);
    assert_eq!(cluster.offering(), Some(offering));
    assert_eq!(cluster.fixed_resource(), None);
    assert_eq!(cluster.collector, "c");
    assert_eq!(cluster.default_max_gap, None);
    assert_eq!(target.to_string(), format!("backend id x-p1 of offering {OFFERING}"));
    let bare = rules(&format!(
        "resource: {{ offering: {OFFERING}, backend_id: '{{account}}' }}\nmeters: {{ m: {{ reading: r }} }}"
    ));
    assert_eq!(bare.place(&labels(&[("account", " ")])), nowhere("its backend id is empty"));
    assert_ne!(bare.placement(), cluster.placement());
}

#[test]
fn a_resource_is_named_outright_or_by_a_label() {
    let fixed = rules(&format!("resource: {RESOURCE}\nmeters: {{ m: {{ reading: r }} }}"));
    let uuid = Uuid::parse_str(RESOURCE).unwrap();
    let target = Target::Resource(uuid);
    assert_eq!(fixed.place(&Labels::new()), Place::At { target: target.clone(), user: None });
    assert_eq!(fixed.fixed_resource(), Some(uuid));
    assert_eq!(fixed.offering(), None);
    assert_eq!(fixed.labels(), [""; 0]);
    assert_eq!(target.to_string(), format!("resource {RESOURCE}"));
    let labelled = rules("resource: '{vm}'\nmeters: { m: { reading: r } }");
    assert_eq!(labelled.place(&labels(&[("vm", RESOURCE)])), Place::At { target, user: None });
    assert_eq!(
        labelled.place(&labels(&[("vm", "x")])),
        Place::Nowhere("`x` is not a resource's UUID".to_owned())
    );
    assert_eq!(labelled.place(&Labels::new()), Place::Nowhere("its readings carry no label `vm`".to_owned()));
    assert_eq!(labelled.fixed_resource(), None);
    assert_ne!(labelled.placement(), fixed.placement());
}

#[test]
fn every_mistake_in_the_rules_is_told_in_words() {
    let meters = "meters: { m: { reading: r } }";
    let cases = [
        (
            meters.to_owned(),
            "line 1: c: `resource` is missing: the UUID of the resource to bill, or { offering: UUID, backend_id: \
             \"{label}\" }",
        ),
        (format!("resource: mine\n{meters}"), "line 2: c.resource: `mine` is not a UUID"),
        (
            format!("resource: '{{vm'\n{meters}"),
            "line 2: c.resource: `{vm` has a `{` that is not followed by a label and `}`",
        ),
        (
            format!("resource: {{ offering: x, backend_id: y }}\n{meters}"),
            "line 2: c.resource.offering: `x` is not a UUID",
        ),
        (
            format!("resource: {{ backend_id: y }}\n{meters}"),
            "line 2: c.resource: `offering` is missing: the UUID of the offering",
        ),
        (
            format!("resource: {{ offering: {OFFERING} }}\n{meters}"),
            "line 2: c.resource: `backend_id` is missing: the resource's backend id, such as \"{account}\"",
        ),
        (
            format!("resource: {{ offering: {OFFERING}, backend_id: y, backendid: z }}\n{meters}"),
            "line 2: c.resource.backendid: unknown key `backendid`; did you mean `backend_id`?",
        ),
        (
            format!("resource: {RESOURCE}\nuser: '}}'\n{meters}"),
            "line 3: c.user: `}` has a `}` without a `{`",
        ),
        (
            format!("resource: {RESOURCE}"),
            "line 1: c: `meters` is missing: name each component and the reading that makes it",
        ),
        (
            format!("resource: {RESOURCE}\nmeters: {{}}"),
            "line 3: c.meters: is empty: name each component and the reading that makes it",
        ),
        (
            format!("resource: {RESOURCE}\nmeters:"),
            "line 3: c.meters: is empty: name each component and the reading that makes it",
        ),
        (format!("resource: {RESOURCE}\nmeters: 5"), "line 3: c.meters: must be a mapping of keys"),
    ];
    for (lines, problem) in cases {
        assert_eq!(read(&lines).1, [problem], "{lines}");
    }
}

/// 64 CPU hours an hour are 230,400 CPU seconds an hour, and 8 GiB are 8,589,934,592 bytes.
#[test]
fn at_most_is_taken_to_the_unit_of_the_reading() {
    let limit = |text: &str| AtMost::new(&text.parse().unwrap());
    let cpu = meter("reading: r, factor: 1/3600, at_most: 64");
    assert_eq!(cpu.measure(Kind::Counter), Ok(Measure::Increase(limit("230400"))));
    assert_eq!(cpu.measure(Kind::Delta), Ok(Measure::Sum(limit("230400"))));
    assert_eq!(cpu.measure(Kind::Total), Ok(Measure::Total(limit("230400"))));
    let ram = meter("reading: r, aggregate: integral, factor: 1/1073741824, at_most: 8");
    assert_eq!(ram.measure(Kind::Gauge), Ok(Measure::Integral(Hold::default(), limit("8589934592"))));
    // Nothing is made of anything: there is nothing to bound.
    assert_eq!(
        meter("reading: r, factor: 0, at_most: 8").measure(Kind::Counter),
        Ok(Measure::Increase(None))
    );
    assert_eq!(
        meter("reading: r, aggregate: last, at_most: 8").measure(Kind::Gauge).unwrap_err(),
        "the meter m can't take `at_most`: it bounds what adds up, and the last level of r does not"
    );
}

#[test]
fn a_collector_may_go_on_with_the_series_of_another() {
    let named =
        |name: &str| read(&format!("resource: {RESOURCE}\nmeters: {{ m: {{ reading: r }} }}\n{name}"));
    assert_eq!(named("continues: old-name").0.unwrap().continues.as_deref(), Some("old-name"));
    assert_eq!(named("").0.unwrap().continues, None);
    for (keys, problem) in [
        (
            "continues: ''",
            "line 4: c.continues: must not be empty: name the collector whose series go on under this name",
        ),
        ("continues: c", "line 4: c.continues: is this collector itself: name the one that it was before"),
    ] {
        assert_eq!(named(keys).1, [problem]);
    }
}

/// The ledger records the rules in force as JSON, where people can read them.
#[test]
fn rules_are_written_as_the_file_has_them_and_read_back_equal() {
    let few = rules(&format!("resource: {RESOURCE}\nmeters: {{ m: {{ reading: r, factor: 1/3600 }} }}"));
    let all = Rules {
        default_max_gap: Some(SignedDuration::from_secs(900)),
        ..rules(&format!(
            "resource: {{ offering: {OFFERING}, backend_id: 'x-{{account}}', ignore_case: true }}\nuser: '{{user}}'\n\
             ignore: [x-root]\ncontinues: old\nmeters:\n  gpu: {{ reading: g, aggregate: integral, factor: 2.50, \
             at_most: 64, only_if: {{ part: [b, a] }}, not_if: {{ state: '' }}, weights: {{ qos: {{ high: 1/3 }} }}, \
             rounding: half_up, interpolation: linear, max_gap: 1h30m, on_gap: hold, description: 'of {{user}}', \
             recurring: false, missing_usage_policy: zero }}"
        ))
    };
    for (rules, text) in [
        (
            few,
            format!(
                r#"{{"collector":"c","resource":"{RESOURCE}","meters":[{{"component":"m","reading":"r","factor":"1/3600"}}]}}"#
            ),
        ),
        (
            all,
            format!(
                r#"{{"collector":"c","continues":"old","resource":{{"offering":"{OFFERING}","backend_id":"x-{{account}}","ignore_case":true}},"user":"{{user}}","meters":[{{"component":"gpu","reading":"g","aggregate":"integral","interpolation":"linear","max_gap":"PT1H30M","on_gap":"hold","factor":"2.5","written_factor":"2.50","at_most":"64","only_if":{{"part":["a","b"]}},"not_if":{{"state":[""]}},"weights":{{"qos":{{"high":"1/3"}}}},"rounding":"half_up","description":"of {{user}}","recurring":false,"missing_usage_policy":"zero"}}],"ignore":["x-root"],"default_max_gap":"PT15M"}}"#
            ),
        ),
    ] {
        assert_eq!(serde_json::to_string(&rules).unwrap(), text);
        assert_eq!(serde_json::from_str::<Rules>(&text).unwrap(), rules);
    }
}

/// Numbers of any length come back, also such as the file would not take.
#[test]
fn a_factor_of_any_length_is_kept() {
    for text in ["1e-90", "1/3600", "123456789012345678901234567890.123456789012345678901234567890123456789"]
    {
        let factor: Exact = text.parse().unwrap();
        let json = serde_json::to_string(&factor).unwrap();
        assert_eq!(serde_json::from_str::<Exact>(&json).unwrap(), factor, "{json}");
    }
    for wrong in ["\"much\"", "1", "\"1/0\""] {
        assert!(serde_json::from_str::<Exact>(wrong).is_err(), "{wrong}");
    }
}
