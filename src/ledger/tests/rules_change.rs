//! What becomes of amounts when the configuration changes under them.

use super::*;

fn one_user_less(resource: &str, factor: &str) -> String {
    format!(
        "    resource: {resource}\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: {factor} }}\n"
    )
}

#[test]
fn the_first_plan_period_of_a_resource_is_no_switch() {
    let folder = tempfile::tempdir().unwrap();
    let rules = drafts(&format!("collectors:\n  c:\n{}", one_user_less(RESOURCE, "1")));
    let mut ledger = open(&folder, rules);
    let start = at("2026-11-10T12:00:00Z");
    for (minute, value) in [(0, 0), (5, 100), (15, 130)] {
        let time = minutes(start, minute);
        ledger.record(seen(time, vec![plain(value, time)])).unwrap();
    }
    let period = super::super::catalog::KnownPlanPeriod {
        uuid: Uuid::from_u128(3),
        start: minutes(start, 10),
        end: None,
    };
    let resource = Uuid::parse_str(RESOURCE).unwrap();
    ledger.put_plan_periods(resource, vec![period], ("2026-11", ""), minutes(start, 16)).unwrap();
    let parts: Vec<_> = ledger.statements(None).unwrap().iter().map(|s| s.key.part.to_string()).collect();
    assert_eq!(parts, ["2026-11-01T00:00:00Z"]);
}

const OTHER: &str = "5e2f0000-0000-4000-8000-000000000001";

#[test]
fn what_a_removed_collector_measured_stands_though_another_makes_that_component_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let c = format!("  c:\n{}", one_user_less(RESOURCE, "1"));
    let rest = format!(
        "  d:\n    resource: {RESOURCE}\n    meters: {{ ram: {{ reading: ram, factor: 1 }} }}\n  e:\n{}",
        one_user_less(OTHER, "1")
    );
    let mut ledger = open(&folder, drafts(&format!("collectors:\n{c}{rest}")));
    let start = at("2026-11-10T12:00:00Z");
    ledger.record(seen(start, vec![plain(0, start)])).unwrap();
    let time = minutes(start, 5);
    ledger.record(seen(time, vec![plain(10, time)])).unwrap();
    let key = ledger.pending().unwrap()[0];
    let amount = super::super::outbox::Amount {
        component: "cpu_hours".to_owned(),
        user: String::new(),
        amount: "10.00".parse().unwrap(),
    };
    ledger.acknowledge(key, vec![amount], "accepted", time).unwrap();
    ledger.change_rules(drafts(&format!("collectors:\n{rest}")), time).unwrap();
    for (minute, value) in [(10, 0), (15, 7)] {
        let time = minutes(start, minute);
        let ram = Reading::new("ram", Kind::Counter, value.into(), time);
        ledger.record(Run { collector: "d".to_owned(), ..seen(time, vec![ram]) }).unwrap();
    }
    assert_eq!(amounts(&ledger)["2026-11 cpu_hours"], "10 Some(10.00)");
    assert_eq!(amounts(&ledger)["2026-11 ram"], "7 Some(7.00)");
}

#[test]
fn a_renamed_collector_takes_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| drafts(&format!("collectors:\n  {name}:\n{}", one_user_less(RESOURCE, "1")));
    let mut ledger = open(&folder, named("c"));
    let start = at("2026-11-10T12:00:00Z");
    for (minute, value) in [(0, 0), (5, 100)] {
        let time = minutes(start, minute);
        ledger.record(seen(time, vec![plain(value, time)])).unwrap();
    }
    let key = ledger.pending().unwrap()[0];
    let amount = super::super::outbox::Amount {
        component: "cpu_hours".to_owned(),
        user: String::new(),
        amount: "100.00".parse().unwrap(),
    };
    ledger.acknowledge(key, vec![amount], "accepted", start).unwrap();
    ledger.change_rules(named("d"), minutes(start, 6)).unwrap();
    for (minute, value) in [(10, 105), (15, 110)] {
        let time = minutes(start, minute);
        ledger.record(Run { collector: "d".to_owned(), ..seen(time, vec![plain(value, time)]) }).unwrap();
        ledger.recount_all(time).unwrap();
    }
    // Nothing is sent, and why is told.
    assert_eq!(amounts(&ledger)["2026-11 cpu_hours"], "5 None");
    let problem = ledger.statement(key).unwrap().unwrap().components["cpu_hours"].problem.clone().unwrap();
    assert!(problem.contains("measured by the collector `c`, which is no longer configured"), "{problem}");
    // With both of them there it goes on, and all that was measured counts.
    let both = format!("  c:\n{}  d:\n{}", one_user_less(RESOURCE, "1"), one_user_less(RESOURCE, "1"));
    ledger.change_rules(drafts(&format!("collectors:\n{both}")), minutes(start, 16)).unwrap();
    let time = minutes(start, 20);
    ledger.record(Run { collector: "d".to_owned(), ..seen(time, vec![plain(115, time)]) }).unwrap();
    assert_eq!(amounts(&ledger)["2026-11 cpu_hours"], "110 Some(110.00)");
}

#[test]
fn another_billing_time_zone_changes_no_amount_that_stands() {
    let folder = tempfile::tempdir().unwrap();
    let rules = || drafts(&format!("collectors:\n  c:\n{}", one_user_less(RESOURCE, "1")));
    let mut ledger = open(&folder, rules());
    let start = at("2026-11-10T12:00:00Z");
    for (minute, value) in [(0, 0), (5, 100)] {
        let time = minutes(start, minute);
        ledger.record(seen(time, vec![plain(value, time)])).unwrap();
    }
    let key = ledger.pending().unwrap()[0];
    let amount = super::super::outbox::Amount {
        component: "cpu_hours".to_owned(),
        user: String::new(),
        amount: "100.00".parse().unwrap(),
    };
    ledger.acknowledge(key, vec![amount], "accepted", start).unwrap();
    let zone = BillingZone::named("Europe/Tallinn").unwrap();
    ledger.change_rules(Rulebook { zone, ..rules() }, minutes(start, 6)).unwrap();
    assert_eq!(ledger.pending().unwrap(), []);
    let statements = ledger.statements(None).unwrap();
    let parts: Vec<_> = statements.iter().map(|s| s.key.part.to_string()).collect();
    assert_eq!(parts, ["2026-10-31T22:00:00Z"]);
}
