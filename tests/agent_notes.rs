//! What is told of many resources, and what is told again: one line of the log a cause, and what stands as it was told before is
//! a number.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

const MANY: usize = 8;

fn uuid(number: usize) -> String {
    format!("5e2f0000-0000-4000-8000-0000000000{number:02}")
}

/// `Tenant 3 (5e2f...), cpu_hours, 2026-11`.
fn place(number: usize, component: &str) -> String {
    format!("Tenant {number} ({}), {component}, 2026-11", uuid(number))
}

/// Tenants in an order that is not the one of their names.
fn world(meters: &str) -> World {
    let market = marketplace();
    let (head, _) = market.split_once("resources:").unwrap();
    let tenant = |number: usize| {
        format!(
            "  - {{ uuid: {}, name: Tenant {number}, backend_id: t{number}, offering: Cluster }}\n",
            uuid(number)
        )
    };
    let tenants: String = (1..=MANY).rev().map(tenant).collect();
    let world =
        World::of(Setting { marketplace: format!("{head}resources:\n{tenants}"), ..Setting::default() });
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {meters}\n"
    ));
    world.readings(&used(MANY));
    world
}

/// An hour of each.
fn used(tenants: usize) -> Vec<Value> {
    let of = |number: usize| {
        let (id, project) = (number.to_string(), format!("t{number}"));
        job(
            "cpu_seconds",
            &id,
            "2026-11-03T00:00:00Z",
            "2026-11-03T01:00:00Z",
            "3600",
            &[("project", &project)],
        )
    };
    (1..=tenants).map(of).collect()
}

const CPU: &str = "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }";

/// The lines of a log that have these words, without time and level.
fn lines<'a>(log: &'a str, words: &str) -> Vec<&'a str> {
    let lines = log.lines().filter(|line| line.contains(words));
    lines
        .map(|line| {
            line.split_once(" WARN ").or_else(|| line.split_once(" INFO ")).unwrap_or(("", line)).1.trim()
        })
        .collect()
}

#[test]
fn what_was_sent_is_shown_in_the_order_of_names() {
    let world = world(CPU);
    let sent = world.flush().exits(0);
    let names: Vec<&str> = sent
        .out
        .lines()
        .filter(|line| line.starts_with("Tenant"))
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    let expected: Vec<String> = (1..=MANY).map(|number| format!("Tenant {number}")).collect();
    assert_eq!(names, expected, "{}", sent.out);
}

#[test]
fn what_stands_as_it_was_told_before_is_a_number() {
    let world = world(CPU);
    world.flush().exits(0);
    for number in 1..=MANY {
        world.post(
            "rows",
            json!({ "resource": uuid(number), "type": "cpu_hours", "usage": "32.00", "modified_by": 77 }),
        );
    }
    world.now("2026-11-10T14:00:00Z");
    let first = world.flush().exits(65);
    let told = lines(&first.err, "held: ");
    assert_eq!(told.len(), 1, "{}", first.err);
    let begins = format!(
        "8 amounts of 8 resources, first {}: held: Waldur holds 32.00, written by another",
        place(1, "cpu_hours")
    );
    assert!(told[0].starts_with(&begins), "{}", told[0]);
    let then = format!(
        "Then {}; {}; the rest: `status`. What to do: ",
        place(2, "cpu_hours"),
        place(3, "cpu_hours")
    );
    assert!(told[0].contains(&then), "{}", told[0]);
    // Whoever comes next.
    for now in ["2026-11-10T16:00:00Z", "2026-11-10T18:00:00Z"] {
        world.now(now);
        let next = world.flush().exits(65);
        assert_eq!(lines(&next.err, "held"), ["8 amounts held as before: `status`"], "{}", next.err);
        next.says("8 amounts: held (`status` says why)");
    }
    // A daemon, and what is new to it.
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("8 amounts held as before: `status`");
    world.post(
        "rows",
        json!({ "resource": uuid(2), "type": "cpu_hours", "usage": "40.00", "modified_by": 77 }),
    );
    let minutes = std::cell::Cell::new(0);
    until("the new number", || {
        minutes.set(minutes.get() + 20);
        world.now(&after("2026-11-10T18:00:00Z", 60 * minutes.get()));
        pause(std::time::Duration::from_millis(200));
        daemon.log().contains("held: Waldur holds 40.00")
    });
    let log = daemon.log();
    assert_eq!(lines(&log, "held: ").len(), 1, "{log}");
    assert!(lines(&log, "held: ")[0].starts_with(&place(2, "cpu_hours")), "{log}");
    assert_eq!(log.matches("as before").count(), 1, "{log}");
}

/// What is refused for the same reason is told once, however much of it is used meanwhile; `status` has the number of now.
#[test]
fn what_grows_while_it_is_parked_is_told_once() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}, nope: {{ reading: cpu_seconds, factor: \
         1/1800 }} }}\n"
    ));
    let of = |id: &str| job("cpu_seconds", id, "2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z", "3600", &[]);
    let mut used = vec![of("1")];
    world.readings(&used);
    let told = format!(
        "Project A ({A}), nope, 2026-11: parked: POST set_usage: refused: These components are invalid: nope. What to do: correct the \
         meter's name, or add the component to the offering in Waldur, then `parked retry`"
    );
    let first = world.flush().exits(65);
    assert_eq!(lines(&first.err, "parked: "), [told.as_str()], "{}", first.err);
    world.agent(&["status"]).exits(65).says("parked: nope 2.00: ");
    for (hour, amount) in [(14, "4.00"), (16, "6.00")] {
        used.push(of(&hour.to_string()));
        world.readings(&used);
        world.now(&format!("2026-11-10T{hour}:00:00Z"));
        let next = world.flush().exits(65);
        assert_eq!(lines(&next.err, "parked"), ["1 amount parked as before: `status`"], "{}", next.err);
        world.agent(&["status"]).exits(65).says(&format!("parked: nope {amount}: "));
    }
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
    // Tried again and refused in other words, it is news.
    world.agent(&["parked", "retry"]).exits(0);
    world.fault(json!({
        "match": { "path": "/set_usage/", "body": "nope" },
        "action": { "status": 400, "headers": { "Content-Type": "application/json" }, "body": "{\"non_field_errors\": [\"nope is closed.\"]}" },
    }));
    used.push(of("18"));
    world.readings(&used);
    world.now("2026-11-10T18:00:00Z");
    let other = world.flush().exits(65);
    assert_eq!(lines(&other.err, "parked: ").len(), 1, "{}", other.err);
    other.says("parked: POST set_usage: refused: nope is closed.");
}

/// A number that can't be billed is tried anew when it is another one, and is no news as long as it meets the same refusal.
#[test]
fn an_amount_that_grows_and_is_refused_each_time_is_told_once() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {A}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}, gpu_hours: {{ reading: cpu_seconds, \
         factor: 1000000000 }} }}\n"
    ));
    let mut used = Vec::new();
    for (hour, amount) in [(12, "3600000000000.00"), (14, "7200000000000.00"), (16, "10800000000000.00")] {
        let (start, end) = (format!("2026-11-03T{hour}:00:00Z"), format!("2026-11-03T{hour}:59:00Z"));
        used.push(job("cpu_seconds", &hour.to_string(), &start, &end, "3600", &[]));
        world.readings(&used);
        world.now(&format!("2026-11-10T{hour}:00:00Z"));
        let done = world.flush().exits(65);
        let told = lines(&done.err, "gpu_hours, 2026-11: parked: ");
        assert_eq!(told.len(), usize::from(hour == 12), "{}", done.err);
        // What stands is of now, and another amount is not said to be another trouble.
        world
            .agent(&["status"])
            .exits(65)
            .says(&format!("2026-11, parked: gpu_hours {amount}: the amount {amount} is"));
    }
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
}

/// Once, however many cycles it fails in; again when it fails for another reason; and when it is over.
#[test]
fn a_look_up_that_fails_is_told_once() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let fails = |words: &str| {
        world.fault(json!({
            "match": { "path": "/marketplace-offering-users/" }, "action": { "status": 500, "body": words },
        }));
    };
    let mut used = Vec::new();
    let mut next = |hour: usize| {
        let (start, end) = ("2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z");
        used.push(job("cpu_seconds", &hour.to_string(), start, end, "3600", &[]));
        world.readings(&used);
        world.now(&format!("2026-11-10T{hour}:00:00Z"));
        let done = world.flush().exits(0);
        let told = lines(&done.err, "look-up").into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {}.00", used.len())]);
        told
    };
    let failed = "A look-up failed, the last known answer is used: GET users of offering 91ab0000000040008000000000000001: the server answered";
    fails("out of order");
    assert_eq!(next(12), [format!("{failed} 500: out of order")]);
    assert_eq!(next(13), Vec::<String>::new());
    assert_eq!(next(14), Vec::<String>::new());
    fails("no room");
    assert_eq!(next(15), [format!("{failed} 500: no room")]);
    assert_eq!(next(16), Vec::<String>::new());
    world.no_faults();
    let over = "A look-up that had failed fails no more: GET users of offering 91ab0000000040008000000000000001: the server answered 500: no room";
    assert_eq!(next(17), [over]);
    assert_eq!(next(18), Vec::<String>::new());
}

#[test]
fn a_component_that_is_gone_for_all_is_one_line() {
    let world = world("{ cpu_hour: { reading: cpu_seconds, factor: 1/3600 } }");
    let done = world.flush().exits(65);
    let told = lines(&done.err, "parked: ");
    assert_eq!(told.len(), 1, "{}", done.err);
    let begins = format!(
        "8 amounts of 8 resources, first {}: parked: POST set_usage: refused: ",
        place(1, "cpu_hour")
    );
    assert!(told[0].starts_with(&begins), "{}", told[0]);
    assert!(told[0].contains(&format!(
        "Then {}; {}; the rest: `status`.",
        place(2, "cpu_hour"),
        place(3, "cpu_hour")
    )));
    let machine = world.agent(&["flush", "--json", "--deadline", "1s"]).exits(65).json();
    assert_eq!((&machine["parked"], &machine["notes"]), (&json!(8), &json!([])), "{machine}");
    // Of few, each has its line.
    let few = self::world("{ cpu_hour: { reading: cpu_seconds, factor: 1/3600 } }");
    few.readings(&used(3));
    assert_eq!(lines(&few.flush().exits(65).err, "parked: ").len(), 3);
}

#[test]
fn an_opening_balance_is_logged_once() {
    let world = world(CPU);
    world.readings(&used(1));
    world.post(
        "rows",
        json!({ "resource": uuid(1), "type": "cpu_hours", "usage": "32.00", "modified_by": 77 }),
    );
    world.flush().exits(65);
    world.agent(&["resolve", "t1", "adopt"]).exits(0);
    let done = world.flush();
    assert_eq!(done.err.matches("32.00 is the opening balance of").count(), 1, "{}", done.err);
}

/// What Waldur refuses everywhere is named by the resource that it was met with.
#[test]
fn a_call_names_its_resource_as_people_do() {
    let world = world(CPU);
    world.fault(json!({ "match": { "path": "/set_usage/" }, "action": { "status": 503 } }));
    world.flush_once().exits(75);
    let status = world.agent(&["status"]).exits(75).out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.contains("POST set_usage for Tenant "), "{status}");
}

/// Also where one listing has the shares of all.
#[test]
fn an_overwrite_of_many_that_waits_for_their_shares_is_told_until_it_is_done() {
    let world = world(CPU);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("    meters:", "    user: alice\n    meters:"));
    world.flush().exits(0);
    for number in 1..=MANY {
        world.post(
            "rows",
            json!({ "resource": uuid(number), "type": "cpu_hours", "usage": "1.00", "modified_by": 77, "users": { "alice": "0.50" } }),
        );
    }
    world.now("2026-12-01T00:10:00Z");
    world.flush().exits(65).says("8 amounts: held");
    world.agent(&["resolve", "--all", "overwrite"]).exits(0);
    world.fault(json!({ "match": { "method": "GET", "path": "user-usages" }, "when": "before", "action": { "status": 500 } }));
    world.now("2026-12-01T00:20:00Z");
    let waits =
        "`resolve overwrite` of 8 resources is not carried out yet (Tenant 1, Tenant 2, Tenant 3 ...)";
    world.flush_once().exits(75).says(waits);
    let status = world.agent(&["status", "--json"]).exits(75).json();
    assert_eq!(status["server"]["overwrite_waits"].as_array().unwrap().len(), MANY, "{status}");
    world.no_faults();
    world.now("2026-12-01T02:30:00Z");
    world.flush().exits(0).says_not("not carried out");
    world.flush().exits(0);
    assert_eq!(world.shares(&uuid(8)), ["alice cpu_hours 2026-11 1.00"]);
}
