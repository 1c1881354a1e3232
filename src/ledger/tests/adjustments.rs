//! Opening balances from inside: an amount is a function of what is recorded, whenever the balance was, and a naive count
//! gives the same.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::super::books::catalog::KnownPlanPeriod;
use super::super::books::ingest::{RunOutcome, Seen};
use super::super::sent::amount::StatementKey;
use super::super::sent::opening::Opening;
use super::{Ledger, RESOURCE, amounts, at, close_all, minutes, rulebook, seen};
use crate::metering::exact::Exact;
use crate::metering::reading::{Kind, Reading, Span};

fn ledger() -> Ledger {
    let rules = rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    user: '{{user}}'\n    meters:\n      \
         j: {{ reading: job }}\n      a: {{ reading: k, factor: 1/3600 }}\n      b: {{ reading: g, aggregate: integral }}\n      \
         m: {{ reading: g, aggregate: max }}\n      l: {{ reading: g, aggregate: last }}\n"
    ));
    let mut ledger = Ledger::in_memory(rules).unwrap();
    ledger.apply_rules(at("2026-11-01T00:00:00Z")).unwrap();
    ledger
}

fn key() -> StatementKey {
    StatementKey {
        resource: Uuid::parse_str(RESOURCE).unwrap(),
        period: "2026-11".parse().unwrap(),
        part: at("2026-11-01T00:00:00Z"),
    }
}

fn opening(component: &str, at: Timestamp, total: i64, alice: i64) -> Opening {
    let users = [("alice".to_owned(), Decimal::from(alice))].into_iter().collect();
    Opening {
        component: component.to_owned(),
        at,
        total: total.into(),
        users,
        words: "x".to_owned(),
        ours: false,
    }
}

/// What one thing that is recorded is.
#[derive(Clone)]
enum Fact {
    Read(Vec<Reading>),
    Adopt(Opening),
}

fn apply(ledger: &mut Ledger, fact: Fact, now: Timestamp) {
    match fact {
        // All runs at one time and none complete, so that order is the only difference.
        Fact::Read(readings) => {
            let mut run = seen(now, readings);
            if let RunOutcome::Seen(Seen { problems, .. }) = &mut run.outcome {
                problems.push(crate::collectors::Problem::of_all("x".to_owned()));
            }
            ledger.record(run).unwrap();
        }
        Fact::Adopt(opening) => ledger.adopt(key(), opening, now).unwrap(),
    }
}

#[test]
fn what_goes_on_from_a_balance_is_rounded_by_the_first_meter_whichever_is_looked_up_first() {
    let rules = rulebook(&format!(
        "collectors:\n  c:\n    resource: {RESOURCE}\n    meters:\n      \
         gpu: {{ reading: a, weights: {{ kind: {{ x: 2 }} }}, rounding: up }}\n  d:\n    resource: {RESOURCE}\n    meters:\n      \
         gpu: {{ reading: b }}\n"
    ));
    let mut ledger = Ledger::in_memory(rules).unwrap();
    ledger.apply_rules(at("2026-11-01T00:00:00Z")).unwrap();
    let (opened, time) = (at("2026-11-10T00:00:00Z"), at("2026-11-10T02:00:00Z"));
    for (collector, name, value) in [("c", "a", "6"), ("d", "b", "0.341")] {
        let reading = Reading {
            span: Span::Interval { start: at("2026-11-10T01:00:00Z"), end: time },
            ..Reading::new(name, Kind::Delta, value.parse().unwrap(), time).label("kind", "x")
        };
        let run = super::Run { collector: collector.to_owned(), ..seen(time, vec![reading]) };
        ledger.record(run).unwrap();
    }
    let users = Default::default();
    let balance = Opening {
        component: "gpu".to_owned(),
        at: opened,
        total: 100.into(),
        users,
        words: "x".to_owned(),
        ours: false,
    };
    ledger.adopt(key(), balance, time).unwrap();
    // 100.00, 6 at a weight of 2 and 0.341: 112.341, rounded up.
    assert_eq!(amounts(&mut ledger)["2026-11 gpu"], "112.341 Some(112.35)");
}

#[test]
fn whenever_the_balance_is_recorded_the_amounts_are_the_same_and_a_recount_agrees() {
    let (start, now) = (at("2026-10-31T12:00:00Z"), at("2026-11-06T00:00:00Z"));
    for seed in 0..15 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut facts = Vec::new();
        let mut naive = (Exact::zero(), Exact::zero());
        let opened = minutes(at("2026-11-01T00:00:00Z"), random.i64(0..5000));
        for id in 0..12 {
            let user = ["alice", "bob"][random.usize(0..2)];
            // Never two at one instant: those would be one reading, corrected.
            let time = minutes(start, random.i64(0..580) * 12 + id);
            let long = random.i64(0..3000);
            let value = random.i64(1..500);
            let from = time - SignedDuration::from_mins(long);
            facts.push(Fact::Read(vec![
                Reading {
                    id: Some(id.to_string()),
                    span: Span::Interval { start: from, end: time },
                    ..Reading::new("job", Kind::Delta, value.into(), time).label("user", user)
                },
                Reading::new("k", Kind::Counter, random.i64(0..50).into(), time).label("user", user),
                Reading::new("g", Kind::Gauge, random.i64(0..50).into(), time).label("user", user),
            ]));
            // How much of the job is after the balance, by minutes; an instant belongs to what begins there.
            let after = time.duration_since(from.max(opened)).as_mins().max(0);
            let share = match long {
                0 => Exact::from(if time >= opened { value } else { 0 }),
                long => Exact::ratio((value * after).into(), long.into()).unwrap(),
            };
            naive.0 += share.clone();
            if user == "alice" {
                naive.1 += share;
            }
        }
        for component in ["j", "a", "b", "m", "l"] {
            facts.push(Fact::Adopt(opening(component, opened, 40, 25)));
        }
        let mut first = None;
        for _ in 0..3 {
            random.shuffle(&mut facts);
            let mut ledger = ledger();
            for fact in facts.clone() {
                apply(&mut ledger, fact, now);
            }
            let found = amounts(&mut ledger);
            assert_eq!(ledger.recount_rehearsal(None, now).unwrap(), [], "seed {seed}");
            assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "seed {seed}");
            let counted = |name: &str| found[name].split(' ').next().unwrap().parse::<Exact>().unwrap();
            let near = |found: Exact, expected: Exact| {
                let (off, close) = (found - expected, Exact::ratio(1, 1_000_000_000).unwrap());
                off < close && -off < close
            };
            assert!(near(counted("2026-11 j"), naive.0.clone() + Exact::from(40)), "seed {seed} {found:#?}");
            assert!(near(counted("2026-11 j alice"), naive.1.clone() + Exact::from(25)), "seed {seed}");
        }
    }
}

#[test]
fn a_plan_that_is_switched_later_begins_at_nothing_and_the_balance_stays_in_its_part() {
    let mut ledger = ledger();
    let (noon, now) = (at("2026-11-10T12:00:00Z"), at("2026-11-20T00:00:00Z"));
    let job = |start: &str, end: &str, value: i64| Reading {
        id: Some(start.to_owned()),
        span: Span::Interval { start: at(start), end: at(end) },
        ..Reading::new("job", Kind::Delta, value.into(), at(end)).label("user", "alice")
    };
    let readings = vec![
        job("2026-11-10T10:00:00Z", "2026-11-10T14:00:00Z", 4),
        job("2026-11-15T22:00:00Z", "2026-11-16T02:00:00Z", 4),
    ];
    ledger.record(seen(now, readings)).unwrap();
    ledger.adopt(key(), opening("j", noon, 40, 25), now).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 j"], "46 Some(46.00)");
    let period = |uuid, start: &str, end: Option<&str>| KnownPlanPeriod {
        uuid: Uuid::from_u128(uuid),
        start: at(start),
        end: end.map(at),
    };
    let periods = vec![
        period(1, "2026-01-01T00:00:00Z", Some("2026-11-16T00:00:00Z")),
        period(2, "2026-11-16T00:00:00Z", None),
    ];
    ledger.put_plan_periods(key().resource, &periods, ("2026-11", ""), now).unwrap();
    ledger.state(now).unwrap();
    let parts: Vec<_> = ledger.statements(None).unwrap();
    let of = |index: usize| parts[index].components["j"].exact.clone();
    // 40 + 2 + 2 under the old plan, 2 under the new one.
    assert_eq!((parts.len(), of(0), of(1)), (2, "44".to_owned(), "2".to_owned()));
    assert_eq!(ledger.recount_rehearsal(None, now).unwrap(), []);
}

#[test]
fn readings_of_an_adopted_month_may_be_compacted() {
    let mut ledger = ledger();
    let (noon, now) = (at("2026-11-10T12:00:00Z"), at("2026-11-20T00:00:00Z"));
    let readings = (0..100).map(|hour| {
        let time = at("2026-11-09T00:00:00Z") + SignedDuration::from_hours(hour);
        Reading::new("k", Kind::Counter, (hour * 3600).into(), time).label("user", "alice")
    });
    ledger.record(seen(now, readings.collect())).unwrap();
    ledger.adopt(key(), opening("a", noon, 40, 25), now).unwrap();
    // 99 h, of which 36 were before.
    assert_eq!(amounts(&mut ledger)["2026-11 a"], "103 Some(103.00)");
    close_all(&mut ledger, now);
    let later = at("2027-06-01T00:00:00Z");
    assert!(ledger.compact(later, SignedDuration::from_hours(24 * 90)).unwrap().readings > 0);
    assert_eq!(amounts(&mut ledger)["2026-11 a"], "103 Some(103.00)");
    assert_eq!(ledger.recount_rehearsal(None, later).unwrap(), []);
}

#[test]
fn readings_of_a_month_that_was_only_compared_may_be_compacted() {
    let mut ledger = ledger();
    let now = at("2026-11-20T00:00:00Z");
    let readings = (0..100).map(|hour| {
        let time = at("2026-11-09T00:00:00Z") + SignedDuration::from_hours(hour);
        Reading::new("k", Kind::Counter, (hour * 3600).into(), time).label("user", "alice")
    });
    ledger.record(seen(now, readings.collect())).unwrap();
    ledger.state(now).unwrap();
    assert_eq!(ledger.pending(now).unwrap().len(), 1);
    ledger.note_shadow("2026-11".parse().unwrap(), now).unwrap();
    assert_eq!(ledger.pending(now).unwrap(), []);
    let (later, keep) = (at("2027-06-01T00:00:00Z"), SignedDuration::from_hours(24 * 90));
    assert!(ledger.compact(later, keep).unwrap().readings > 0);
    // A month that runs loses its mark when the agent goes live; one that has ended keeps it.
    ledger.note_live("2026-12".parse().unwrap(), later).unwrap();
    assert!(ledger.is_shadow("2026-11".parse().unwrap()).unwrap());
    assert!(!ledger.is_shadow("2026-12".parse().unwrap()).unwrap());
}
