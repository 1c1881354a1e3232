//! Statements are made many at a time, and each is as if it had been made alone.

use super::*;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::lines::SENT;

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";

#[test]
fn more_components_than_are_stated_together_each_have_their_own_amount() {
    let folder = tempfile::tempdir().unwrap();
    let rules = format!(
        "collectors:\n  c:\n    resource: {{ offering: {OFFERING}, backend_id: '{{account}}' }}\n    user: '{{user}}'\n    \
         meters:\n      cpu: {{ reading: cpu, factor: 1 }}\n      gpu: {{ reading: gpu, factor: 1 }}\n"
    );
    let mut ledger = open(&folder, rulebook(&rules));
    let start = at("2026-11-10T12:00:00Z");
    let offering = OFFERING.parse().unwrap();
    let known = (1..=300_u128).map(|n| KnownResource {
        uuid: Uuid::from_u128(n),
        offering,
        name: format!("resource {n}"),
        backend_id: format!("a{n}"),
        state: "OK".to_owned(),
        plan: None,
        customer: String::new(),
        project: String::new(),
    });
    ledger.put_resources(known.collect(), Some(offering), start).unwrap();
    for (minute, times) in [(0, 0), (5, 1)] {
        let time = minutes(start, minute);
        let reading = |name: &str, account: i64, user: &str, value: i64| {
            Reading::new(name, Kind::Counter, (value * times).into(), time)
                .label("account", format!("a{account}"))
                .label("user", user)
        };
        let of_resource = |n: i64| {
            [reading("cpu", n, "alice", n), reading("cpu", n, "bob", 1000), reading("gpu", n, "alice", 2 * n)]
        };
        ledger.record(seen(time, (1..=300).flat_map(of_resource).collect())).unwrap();
    }
    assert_eq!(ledger.state(minutes(start, 6)).unwrap(), 600);
    let statements = ledger.statements(None).unwrap();
    assert_eq!(statements.len(), 300);
    for (n, statement) in (1..).zip(&statements) {
        assert_eq!(statement.key.resource, Uuid::from_u128(n));
        let posted = |component: &str, user: &str| {
            statement.entry(component, user).and_then(|entry| entry.posted).unwrap().to_string()
        };
        assert_eq!(posted("cpu", ""), format!("{}.00", n + 1000));
        assert_eq!(posted("cpu", "alice"), format!("{n}.00"));
        assert_eq!(posted("cpu", "bob"), "1000.00");
        assert_eq!(posted("gpu", ""), format!("{}.00", 2 * n));
        assert_eq!(statement.users.len(), 3);
    }
    // Nothing is noted any more.
    assert_eq!(ledger.state(minutes(start, 7)).unwrap(), 0);
}

#[test]
fn of_each_component_it_is_told_that_its_rules_were_changed() {
    // Of so many users that the components of one month are stated one after the other, too.
    for users in [1, 5] {
        let folder = tempfile::tempdir().unwrap();
        let by = |factor: &str| {
            rulebook(&format!(
                "collectors:\n  c:\n    resource: {RESOURCE}\n    user: '{{user}}'\n    meters:\n      \
                 cpu: {{ reading: cpu, factor: {factor} }}\n      gpu: {{ reading: gpu, factor: {factor} }}\n"
            ))
        };
        let mut ledger = open(&folder, by("1"));
        let start = at("2026-11-10T12:00:00Z");
        for (minute, value) in [(0, 0), (5, 10)] {
            let time = minutes(start, minute);
            let reading = |name: &str, user: i64| {
                Reading::new(name, Kind::Counter, value.into(), time).label("user", format!("u{user}"))
            };
            let both = |user| [reading("cpu", user), reading("gpu", user)];
            ledger.record(seen(time, (0..users).flat_map(both).collect())).unwrap();
        }
        ledger.state(minutes(start, 6)).unwrap();
        ledger.change_rules(by("2"), minutes(start, 7)).unwrap();
        ledger.state(minutes(start, 8)).unwrap();
        let events = ledger.events_of(RESOURCE.parse().unwrap(), "2026-11".parse().unwrap()).unwrap();
        let mut told: Vec<(&str, &str)> = events
            .iter()
            .filter(|event| event.words.contains("becomes"))
            .map(|event| (event.component.as_str(), event.words.as_str()))
            .collect();
        told.sort_unstable();
        let words = match users {
            1 => "10.00 becomes 20.00, because the rules were changed",
            _ => "50.00 becomes 100.00, because the rules were changed",
        };
        assert_eq!(told, [("cpu", words), ("gpu", words)]);
    }
}

#[test]
fn what_is_current_is_found_without_all_that_was_ever_sent() {
    let ledger = Ledger::in_memory(cpu()).unwrap();
    let query = format!("EXPLAIN QUERY PLAN {}", SENT.replace("{rows}", "('', '', 0)"));
    let plan: Vec<String> = ledger
        .look(|connection| connection.prepare(&query)?.query_map([], |row| row.get(3))?.collect())
        .unwrap();
    assert!(
        plan.iter().any(|step| step
            .contains("sent USING COVERING INDEX sent_current (resource=? AND period=? AND part>?)")),
        "{plan:?}"
    );
}
