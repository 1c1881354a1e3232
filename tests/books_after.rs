//! What makes a month be computed anew, after its rules have changed: `recount --write`, a plan switch, an adopted number,
//! an id that Waldur comes to know. October is over: none of them may bill anything of it again, in October or elsewhere.
//! October of project A is closed with 12 h, November has 5 h, the rules change on the 10th.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;
use serde_json::json;

/// A change of the rules, and what it leaves in November: of project A, of project B.
struct Change {
    collectors: Vec<(&'static str, String)>,
    waldur: &'static str,
    a: &'static [&'static str],
    b: &'static [&'static str],
    /// Nothing is counted into the component any more.
    is_dropped: bool,
}

fn change(meters: &str, a: &'static [&'static str]) -> Change {
    Change { collectors: vec![("source", keys(meters))], waldur: "", a, b: &[], is_dropped: false }
}

/// Every change of the table; those that are held are resolved by `overwrite`.
fn changes() -> Vec<Change> {
    let plain = "cpu: { reading: sec, factor: 1/3600 }";
    let fixed = format!("    resource: {B}\n    user: \"{{user}}\"\n    meters:\n      {CPU}\n");
    let renamed = keys(CPU) + "    continues: source\n";
    let of = |collectors, a| Change { collectors, waldur: "", a, b: &[], is_dropped: false };
    vec![
        change("cpu: { reading: sec, factor: 1/1800 }", &["cpu 10.00"]),
        change(
            &format!("{plain}\n      cpu2: {{ reading: sec, factor: 1/3600 }}"),
            &["cpu 5.00", "cpu2 5.00"],
        ),
        change("cpu2: { reading: sec, factor: 1/3600 }", &["cpu 0.00", "cpu2 5.00"]),
        change("cpu: { reading: sec, factor: 1/3600, not_if: { part: x } }", &["cpu 0.00"]),
        Change {
            collectors: vec![("source", fixed)],
            waldur: "",
            a: &["cpu 0.00"],
            b: &["cpu 5.00"],
            is_dropped: false,
        },
        Change {
            collectors: vec![("source", targeted("{moved}", "{user}", CPU))],
            waldur: "",
            a: &["cpu 0.00"],
            b: &["cpu 5.00"],
            is_dropped: false,
        },
        of(vec![("source", targeted("{project}", "{team}", CPU))], &["cpu 5.00"]),
        of(vec![("renamed", renamed)], &["cpu 5.00"]),
        // It has the same history under its new name, and goes on without being told to.
        of(vec![("renamed", keys(CPU))], &["cpu 5.00"]),
        // The same jobs twice: a person says that it is right.
        of(vec![("source", keys(CPU)), ("second", keys(CPU))], &["cpu 10.00"]),
        // Nothing takes its place.
        Change { is_dropped: true, ..change("ram: { reading: mem, factor: 1/3600 }", &["cpu 0.00"]) },
        Change { waldur: "billing_timezone: Europe/Tallinn", ..change(plain, &["cpu 5.00"]) },
    ]
}

/// Each change in each world; `event` happens on the 11th.
#[track_caller]
fn after_each(event: impl Fn(&Books, &Change)) {
    for (api, late) in LATE {
        for change in changes() {
            let books = Books::of(api, late, &keys(CPU));
            books.rules_with(change.waldur, &change.collectors);
            books.at(CHANGE, &[]);
            books.world.agent(&["resolve", "--all", "overwrite"]).exits(0);
            books.at("2026-11-10T13:00:00Z", &[]).exits(0);
            books.november(A, change.a);
            books.november(B, change.b);
            books.world.now("2026-11-11T12:00:00Z");
            event(&books, &change);
            books.october_is_over();
            // It stays so.
            let mark = books.world.mark();
            books.at(LATER, &[]).exits(0).says("Nothing was sent.");
            assert_eq!(books.world.posts_since(mark).len(), 0);
        }
    }
}

impl Books {
    #[track_caller]
    fn october_is_over(&self) {
        let case = format!("{} {}", self.api, self.late);
        assert_eq!(self.month(A, "2026-10"), ["cpu 12.00"], "{case}");
        assert_eq!(self.shares(A, "2026-10"), ["alice cpu 12.00"], "{case}");
        assert_eq!(self.month(B, "2026-10"), [""; 0], "{case}");
    }
}

#[test]
fn recount_with_write_changes_nothing() {
    after_each(|books, change| {
        books.world.agent(&["recount"]).exits(0);
        books.world.agent(&["recount", "--write"]).exits(0);
        books.at("2026-11-11T12:00:00Z", &[]).exits(0);
        books.november(A, change.a);
        books.november(B, change.b);
        assert_eq!(books.world.billed(A), books.world.rows(A));
    });
}

#[test]
fn a_plan_switch_changes_nothing_of_what_was_used_before_it() {
    after_each(|books, change| {
        for resource in [A, B] {
            books.world.post(&format!("resources/{resource}"), json!({ "switch_plan": true }));
        }
        books.at("2026-11-11T13:00:00Z", &[]).exits(0);
        // Under the new plan nothing was used yet; a row that says so is no usage.
        let used = |resource: &str| -> Vec<String> {
            let november = |item: &String| item.contains("2026-11") && !item.ends_with(" 0.00");
            let items = books.world.billed(resource).into_iter().filter(november);
            items.map(|item| item.replace(" 2026-11", "")).collect()
        };
        let wanted = |rows: &[&str]| -> Vec<String> {
            rows.iter().filter(|row| !row.ends_with(" 0.00")).map(|row| (*row).to_owned()).collect()
        };
        assert_eq!(used(A), wanted(change.a), "{} {}", books.api, books.late);
        assert_eq!(used(B), wanted(change.b), "{} {}", books.api, books.late);
    });
}

#[test]
fn an_adopted_number_changes_nothing_of_october() {
    after_each(|books, change| {
        // Another writer's number on the resource that is billed now.
        let resource = if change.b.is_empty() { A } else { B };
        let (component, _) = change.a.last().unwrap().split_once(' ').unwrap();
        let component = if change.b.is_empty() { component } else { "cpu" };
        books.world.post("rows", json!({ "resource": resource, "type": component, "usage": "20.00" }));
        books.at("2026-11-11T13:00:00Z", &[]).exits(65).tells(&[component, "20.00"]);
        // No rule makes it any more, so that nothing can go on from that number.
        let code = if change.is_dropped { 65 } else { 0 };
        books.world.agent(&["resolve", resource, "adopt"]).exits(code);
        if change.is_dropped {
            let done = books.at("2026-11-11T14:00:00Z", &[]).exits(65);
            books.world.with_status(done).says("it can't go on from what Waldur holds");
            assert_eq!(books.month(resource, "2026-11"), ["cpu 20.00"]);
            books.world.agent(&["resolve", resource, "overwrite"]).exits(0);
            books.at("2026-11-11T15:00:00Z", &[]).exits(0);
            books.november(resource, change.a);
            return;
        }
        books.at("2026-11-11T14:00:00Z", &[]).exits(0);
        let held = books.month(resource, "2026-11");
        assert!(held.contains(&format!("{component} 20.00")), "{held:?}");
    });
}

#[test]
fn an_id_that_waldur_comes_to_know_changes_nothing_of_october() {
    const N: &str = "5e2f0000-0000-4000-8000-000000000009";
    for (api, late) in LATE {
        for change in changes() {
            let books = Books::with(
                api,
                late,
                &keys(CPU),
                &[on("project-n", "bob", "u1", "11-06T00:00", "11-06T02:00", "2")],
            );
            books.rules_with(change.waldur, &change.collectors);
            books.at(CHANGE, &[]);
            books.world.agent(&["resolve", "--all", "overwrite"]).exits(0);
            books.at("2026-11-10T13:00:00Z", &[]).exits(0);
            let spec =
                json!({ "uuid": N, "name": "Project N", "backend_id": "project-n", "offering": "Cluster" });
            books.world.post("resources", spec);
            let before = (books.world.rows(A), books.world.rows(B));
            // That two collectors count the same jobs of it is to be decided for each resource.
            let twice = change.collectors.len() > 1;
            let done = books.at("2026-11-11T12:00:00Z", &[]).exits(if twice { 65 } else { 0 });
            if twice {
                done.tells(&["Project N", "source", "second", "4.00", "0.00"]);
            }
            assert_eq!((books.world.rows(A), books.world.rows(B)), before, "{api} {late}");
            assert_eq!(books.month(N, "2026-10"), [""; 0], "{api} {late}");
            books.october_is_over();
        }
    }
}
