//! What becomes of amounts when the configuration changes under them.

use super::*;
use crate::metering::period::BillingPeriod;

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
    let period = super::super::books::catalog::KnownPlanPeriod {
        uuid: Uuid::from_u128(3),
        start: minutes(start, 10),
        end: None,
    };
    let resource = Uuid::parse_str(RESOURCE).unwrap();
    ledger.put_plan_periods(resource, &[period], ("2026-11", ""), minutes(start, 16)).unwrap();
    ledger.state(minutes(start, 16)).unwrap();
    let parts: Vec<_> = ledger.statements(None).unwrap().iter().map(|s| s.key.part.to_string()).collect();
    assert_eq!(parts, ["2026-11-01T00:00:00Z"]);
}

const OTHER: &str = "5e2f0000-0000-4000-8000-000000000001";

#[test]
fn what_a_removed_collector_measured_is_held_though_another_makes_that_component_elsewhere() {
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
    let key = ledger.pending(start).unwrap()[0];
    accept(&mut ledger, key, &[total("cpu_hours", "10.00")], time);
    ledger.change_rules(drafts(&format!("collectors:\n{rest}")), time).unwrap();
    for (minute, value) in [(10, 0), (15, 7)] {
        let time = minutes(start, minute);
        let ram = Reading::new("ram", Kind::Counter, value.into(), time);
        ledger.record(Run { collector: "d".to_owned(), ..seen(time, vec![ram]) }).unwrap();
    }
    // Waldur holds 10.00 that no rule makes any more (law 13): it stands there until a person decides; the rest goes on.
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "0 Some(0.00)");
    assert_eq!(amounts(&mut ledger)["2026-11 ram"], "7 Some(7.00)");
    let statement = ledger.statement(key).unwrap().unwrap();
    let reason =
        |component: &str| statement.components[component].block.as_ref().map(|block| block.reason.clone());
    assert_eq!((reason("cpu_hours"), reason("ram")), (Some("rules_changed".to_owned()), None));
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
    let key = ledger.pending(start).unwrap()[0];
    accept(&mut ledger, key, &[total("cpu_hours", "100.00")], start);
    ledger.change_rules(named("d"), minutes(start, 6)).unwrap();
    for (minute, value) in [(10, 105), (15, 110)] {
        let time = minutes(start, minute);
        ledger.record(Run { collector: "d".to_owned(), ..seen(time, vec![plain(value, time)]) }).unwrap();
        ledger.recount_all(None, time).unwrap();
    }
    // It makes 5 where Waldur holds 100.00 of the collector `c`: held, and told with the way on (law 13).
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "5 Some(5.00)");
    let block = ledger.statement(key).unwrap().unwrap().components["cpu_hours"].block.clone().unwrap();
    assert_eq!(block.reason, "rules_changed");
    assert!(
        block.words.contains("made from the collector c, which is no longer configured"),
        "{}",
        block.words
    );
    assert!(block.words.contains("`continues: c`"), "{}", block.words);
    assert_eq!(ledger.pending(start).unwrap(), []);
    // With both of them there it goes on, and all that was measured counts.
    let both = format!("  c:\n{}  d:\n{}", one_user_less(RESOURCE, "1"), one_user_less(RESOURCE, "1"));
    ledger.change_rules(drafts(&format!("collectors:\n{both}")), minutes(start, 16)).unwrap();
    let time = minutes(start, 20);
    ledger.record(Run { collector: "d".to_owned(), ..seen(time, vec![plain(115, time)]) }).unwrap();
    assert_eq!(amounts(&mut ledger)["2026-11 cpu_hours"], "110 Some(110.00)");
    assert_eq!(ledger.statement(key).unwrap().unwrap().components["cpu_hours"].block, None);
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
    let key = ledger.pending(start).unwrap()[0];
    accept(&mut ledger, key, &[total("cpu_hours", "100.00")], start);
    let zone = BillingZone::named("Europe/Tallinn").unwrap();
    ledger.change_rules(Rulebook { zone, ..rules() }, minutes(start, 6)).unwrap();
    assert_eq!(ledger.pending(start).unwrap(), []);
    let statements = ledger.statements(None).unwrap();
    let parts: Vec<_> = statements.iter().map(|s| s.key.part.to_string()).collect();
    // It holds from December on, which begins where November ends (law 7).
    assert_eq!(parts, ["2026-11-01T00:00:00Z"]);
    let zone = &ledger.in_force().zone;
    let (november, december): (BillingPeriod, BillingPeriod) =
        ("2026-11".parse().unwrap(), "2026-12".parse().unwrap());
    assert_eq!(zone.end(november), at("2026-12-01T00:00:00Z"));
    assert_eq!(zone.end(december), at("2026-12-31T22:00:00Z"));
}
