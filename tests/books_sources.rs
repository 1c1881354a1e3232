//! What a source tells is odd: a counter falls, one identity has two values, a kind or the form of the ids changes, a query
//! gets other labels, two collectors spell ids differently. What is sure counts, what is not is held or quarantined, and told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "collectors_http/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is another test's server, of which a part is used")]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// One collector `source` with these keys on 10 November.
fn source(api: &str, keys: &str) -> World {
    let world = world(api, NOON);
    configure(&world, "late: hold", "", &[("source", keys.to_owned())]);
    world
}

/// One observation a run, each five minutes later, of a counter that is told in these words.
fn observe(world: &World, minute: u32, line: Value) -> Done {
    lines(world, "source", &[line]);
    world.now(&format!("2026-11-10T{:02}:{:02}:00Z", 12 + minute / 60, minute % 60));
    world.flush()
}

#[test]
fn a_counter_that_falls_by_one_counts_on_from_its_old_level() {
    let lives = [json!({}), json!({ "epoch": "boot-1", "began": "2026-11-10T00:00:00Z" })];
    for (api, life) in BOTH.into_iter().flat_map(|api| lives.iter().map(move |life| (api, life))) {
        let world = source(api, &keys(CPU));
        let at = |minute, value: &str| {
            let mut line = seen("counter", value);
            line.as_object_mut().unwrap().extend(life.as_object().unwrap().clone());
            observe(&world, minute, line)
        };
        at(0, "1000000000");
        // Where a life is known, its first level is usage.
        let before = held_hours(&world);
        at(5, "1000000360");
        at(10, "1000000359").names_a().tells(&["1000000360", "1000000359"]);
        // +360 from where it fell to: 359 s beyond the level before the fall.
        at(15, "1000000719").exits(0);
        // With the 360 s before it 719 s, which is 0.1997 h.
        assert_eq!(held_hours(&world) - before, rust_decimal::Decimal::new(20, 2), "{api} {life}");
        if life == &json!({}) {
            assert_eq!(world.rows(A), ["cpu 2026-11 0.20"], "{api}");
            assert_eq!(world.shares(A), ["alice cpu 2026-11 0.20"], "{api}");
        }
        world.agent(&["recount"]).exits(0);
    }
}

fn held_hours(world: &World) -> rust_decimal::Decimal {
    let rows = world.rows(A);
    let amounts = rows.iter().map(|row| row.rsplit(' ').next().unwrap().parse().unwrap());
    amounts.fold(rust_decimal::Decimal::ZERO, |sum, one: rust_decimal::Decimal| sum + one)
}

#[test]
fn a_deep_fall_without_a_life_holds_the_new_level_and_counts_what_rises_after_it() {
    for api in BOTH {
        let world = source(api, &keys(CPU));
        observe(&world, 0, seen("counter", "180000000000")).exits(0);
        // 7.25 h in 15 minutes: 29 at once.
        observe(&world, 15, seen("counter", "180000026100")).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 7.25"], "{api}");
        let done = world.with_status(observe(&world, 30, seen("counter", "18000000000"))).exits(65);
        done.names_a().tells(&["cpu", "180000026100", "18000000000"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 7.25"], "{api}");
        observe(&world, 45, seen("counter", "18000003600"));
        assert_eq!(world.rows(A), ["cpu 2026-11 8.25"], "{api}");
        world.agent(&["parked", "list"]).exits(65).names_a().tells(&["18000000000"]);
    }
}

#[test]
fn a_deep_fall_that_rose_no_faster_than_before_is_a_reset_and_told() {
    for api in BOTH {
        let world = source(api, &keys(CPU));
        observe(&world, 0, seen("counter", "100000")).exits(0);
        observe(&world, 15, seen("counter", "103600")).exits(0);
        observe(&world, 30, seen("counter", "1800")).exits(0).names_a().tells(&["103600", "1800"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.50"], "{api}");
    }
}

#[test]
fn what_is_beyond_at_most_is_held_as_a_whole_and_what_comes_later_counts() {
    for api in BOTH {
        let world = source(api, &keys("cpu: { reading: sec, factor: 1/3600, at_most: 4 }"));
        observe(&world, 0, seen("counter", "0")).exits(0);
        observe(&world, 60, seen("counter", "14400")).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 4.00"], "{api}");
        // 5 h in an hour.
        let done = world.with_status(observe(&world, 120, seen("counter", "32400"))).exits(65);
        done.names_a().tells(&["cpu", "held", "at_most"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 4.00"], "{api}");
        observe(&world, 180, seen("counter", "36000"));
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
    }
}

#[test]
fn two_values_of_one_id_in_one_run_count_neither_and_an_earlier_one_stands() {
    for api in BOTH {
        let world = source(api, &keys(CPU));
        let five = hours("1", "11-05T00:00", "11-05T05:00", "5");
        let three = on("project-a", "bob", "1", "11-05T00:00", "11-05T05:00", "3");
        let good = hours("2", "11-06T00:00", "11-06T01:00", "1");
        lines(&world, "source", &[five.clone(), three.clone(), good.clone()]);
        world.flush().exits(65).tells(&["quarantined"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        assert_eq!(world.shares(A), ["alice cpu 2026-11 1.00"], "{api}");
        world.agent(&["collect"]).tells(&["quarantined"]);
        // Told once and clearly, it counts.
        world.now("2026-11-10T13:00:00Z");
        lines(&world, "source", &[five.clone(), good.clone()]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
        // And what is known stands when it is contradicted again.
        world.now("2026-11-10T14:00:00Z");
        lines(&world, "source", &[five, three, good]);
        world.flush().exits(65).tells(&["quarantined"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
    }
}

#[test]
fn without_ids_the_start_belongs_to_the_identity() {
    for api in BOTH {
        let world = source(api, &keys(CPU));
        let mut one = hours("", "11-10T09:00", "11-10T10:00", "1");
        let mut two = hours("", "11-10T08:00", "11-10T10:00", "2");
        for line in [&mut one, &mut two] {
            line.as_object_mut().unwrap().remove("id");
        }
        lines(&world, "source", &[one.clone(), two.clone()]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00"], "{api}");
        // Seen again they change nothing, whatever their order.
        lines(&world, "source", &[two, one]);
        world.now("2026-11-10T13:00:00Z");
        world.flush().exits(0).says("Nothing was sent.");
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00"], "{api}");
    }
}

#[test]
fn a_months_total_and_the_zero_at_its_end_are_two() {
    let world = world(CURRENT, "2026-10-31T13:00:00Z");
    world.write("token", "staff-token");
    configure(&world, "late: backfill", "", &[("source", keys("cpu: { reading: sec }"))]);
    let total = |value: &str, times: Value| {
        let mut line = seen("total", value);
        line.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
        line
    };
    lines(&world, "source", &[total("90", json!({ "at": "2026-10-31T12:00:00Z" }))]);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-10 90.00"]);
    world.now("2026-11-10T13:00:00Z");
    lines(
        &world,
        "source",
        &[
            total("100", json!({ "start": "2026-10-01T00:00:00Z", "end": "2026-11-01T00:00:00Z" })),
            total("0", json!({ "at": "2026-11-01T00:00:00Z" })),
        ],
    );
    world.flush().exits(0);
    let october: Vec<String> = world.rows(A).into_iter().filter(|row| row.contains("2026-10")).collect();
    assert_eq!(october, ["cpu 2026-10 100.00"]);
}

#[test]
fn a_reading_whose_kind_changes_is_told_with_the_way_on() {
    for (api, is_first_renamed) in BOTH.into_iter().flat_map(|api| [false, true].map(|first| (api, first))) {
        let meters = keys(&format!("{CPU}\n      ram: {{ reading: mem, factor: 1/3600 }}"));
        let world = source(api, &meters);
        let mut ram = hours("r", "11-05T00:00", "11-05T01:00", "1");
        ram["name"] = json!("mem");
        let look = |now: &str, line: Value| {
            lines(&world, "source", &[line, ram.clone()]);
            world.now(now);
            world.flush()
        };
        look("2026-11-10T12:00:00Z", seen("counter", "0")).exits(0);
        look("2026-11-10T12:05:00Z", seen("counter", "3600")).exits(0);
        let delta = hours("1", "11-10T12:05", "11-10T12:10", "1");
        let done = world.with_status(look("2026-11-10T12:10:00Z", delta)).exits(65);
        done.tells(&["sec", "counter", "delta", "continues"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00", "ram 2026-11 1.00"], "{api}");
        world.agent(&["status"]).exits(65);
        // The way on, taken at once, or after a run under a new name.
        let renamed = |keys: &str| configure(&world, "late: hold", "", &[("jobs", keys.to_owned())]);
        let both =
            [hours("1", "11-10T12:06", "11-10T12:10", "1"), hours("2", "11-10T12:10", "11-10T12:14", "1")];
        let told = |at: &str| {
            lines(&world, "jobs", &both);
            world.now(at);
            world.flush()
        };
        if is_first_renamed {
            renamed(&meters);
            told("2026-11-10T12:15:00Z").exits(65);
        }
        renamed(&(meters.clone() + "    continues: source\n"));
        told("2026-11-10T12:16:00Z");
        told("2026-11-10T12:17:00Z").exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00", "ram 2026-11 1.00"], "{api}");
        world.agent(&["recount"]).exits(0);
        // What the counter has measured already is not counted once more.
        let earlier = hours("0", "11-10T11:00", "11-10T12:04", "1");
        lines(&world, "jobs", &[both[0].clone(), both[1].clone(), earlier]);
        world.now("2026-11-10T12:18:00Z");
        let done = world.flush().exits(65);
        world.with_status(done).tells(&["2026-11-10T12:05:0", "twice"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00", "ram 2026-11 1.00"], "{api}");
    }
}

#[test]
fn ids_that_change_their_form_are_told_as_a_jump() {
    for api in BOTH {
        let world = source(api, &keys(CPU));
        let jobs = |prefix: &str| -> Vec<Value> {
            let day = |n: u32| (format!("11-0{n}T00:00"), format!("11-0{n}T01:00"));
            (1..=5).map(|n| hours(&format!("{prefix}{n}"), &day(n).0, &day(n).1, "1")).collect()
        };
        lines(&world, "source", &jobs(""));
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 5.00"], "{api}");
        // The source keeps its history and tells each job again, under another id.
        lines(&world, "source", &jobs("cluster-"));
        world.now("2026-11-10T13:00:00Z");
        world.agent(&["check"]).exits(0).names_a().tells(&["cpu", "5.00", "10.00"]);
        let done = world.flush().exits(0).names_a();
        done.says("5 of 5 new readings of the collector source say what earlier ones said under other ids")
            .says("the same usage is counted twice")
            .line_with(&["cpu", "grows from 5.00 to 10.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 10.00"], "{api}");
        let told = world.agent(&["explain", A, "cpu"]).exits(0);
        told.says("grows from 5.00 to 10.00");
    }
}

/// A Prometheus that has had a level of 60 of project A since 03:00, under other labels once the query is another.
fn prometheus() -> server::Server {
    server::Server::start(|heard| {
        let text = format!("{}&{}", heard.line.split_once('?').map_or("", |(_, query)| query), heard.body);
        let parameter = |name: &str| -> Option<String> {
            let found = text.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            found.map(str::to_owned)
        };
        let instant = |name: &str| -> i64 {
            let text = parameter(name).unwrap_or_default().replace("%3A", ":").replace("%2B", "+");
            let parsed = text.parse::<jiff::Timestamp>().map(|at| at.as_second());
            parsed.or_else(|_| text.split('.').next().unwrap().parse()).unwrap_or(0)
        };
        let (start, end) = (instant("start"), instant("end"));
        let step: i64 = parameter("step").and_then(|s| s.trim_end_matches('s').parse().ok()).unwrap_or(300);
        let began = "2026-11-10T03:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second();
        let mut metric = json!({ "project": "project-a", "user": "alice" });
        if text.contains("by_pod") {
            metric["pod"] = json!("web-0");
        }
        let values: Vec<Value> = (0..)
            .map(|n| start + n * step)
            .take_while(|at| *at <= end)
            .filter(|at| *at >= began)
            .map(|at| json!([at, "60"]))
            .collect();
        let result =
            if values.is_empty() { json!([]) } else { json!([{ "metric": metric, "values": values }]) };
        server::json(
            json!({ "status": "success", "data": { "resultType": "matrix", "result": result } }).to_string(),
        )
    })
}

#[test]
fn a_prometheus_query_with_other_labels_replaces_its_old_series_for_what_is_read_again() {
    for api in BOTH {
        let (prometheus, world) = (prometheus(), world(api, "2026-11-10T11:00:00Z"));
        let ask = |query: &str| {
            let keys = keys("ram: { reading: level, aggregate: integral }");
            let text = format!(
                "{}collectors:\n  source:\n    plugin: prometheus\n    schedule: \"@hourly\"\n    url: http://{}\n    \
                 since: 2026-11-01T00:00:00Z\n    queries: {{ level: {{ query: {query}, kind: gauge }} }}\n{keys}",
                world.head(""),
                prometheus.address,
            );
            world.write("agent.yaml", &text);
        };
        ask("by_project");
        world.flush().exits(0);
        // 60 for 8 hours, and for 9.
        assert_eq!(world.rows(A), ["ram 2026-11 480.00"], "{api}");
        ask("by_pod");
        world.now("2026-11-10T12:00:00Z");
        world.flush().exits(0).tells(&["level", "query"]);
        assert_eq!(world.rows(A), ["ram 2026-11 540.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn an_http_request_with_other_labels_replaces_its_old_series_for_what_is_read_again() {
    for api in BOTH {
        let more = Arc::new(AtomicBool::new(false));
        let later = more.clone();
        // 60 an hour of project A since 03:00: eight hours, then nine.
        let source = server::Server::start(move |_| {
            let hours = if later.load(Ordering::Relaxed) { 9 } else { 8 };
            let row = |hour: u32| {
                json!({ "project": "project-a", "user": "alice", "pod": "web-0", "used": 60,
                        "from": format!("2026-11-10T{:02}:00:00Z", 3 + hour), "to": format!("2026-11-10T{:02}:00:00Z", 4 + hour) })
            };
            server::json(json!((0..hours).map(row).collect::<Vec<_>>()).to_string())
        });
        let world = world(api, "2026-11-10T11:00:00Z");
        let ask = |labels: &str| {
            let keys = keys("ram: { reading: used }");
            let text = format!(
                "{}collectors:\n  source:\n    plugin: http\n    schedule: \"@hourly\"\n    url: http://{}\n    \
                 since: 2026-11-01T00:00:00Z\n    requests:\n      usage:\n        each: {{ row: answer }}\n        \
                 labels: {{ {labels} }}\n        start: row.from\n        end: row.to\n        \
                 readings: {{ used: {{ kind: delta, value: row.used }} }}\n{keys}",
                world.head(""),
                source.address,
            );
            world.write("agent.yaml", &text);
        };
        ask("project: row.project, user: row.user");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["ram 2026-11 480.00"], "{api}");
        ask("project: row.project, user: row.user, pod: row.pod");
        more.store(true, Ordering::Relaxed);
        world.now("2026-11-10T12:00:00Z");
        world.flush().exits(0).tells(&["used"]);
        assert_eq!(world.rows(A), ["ram 2026-11 540.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn ignore_case_holds_for_its_own_collector_only() {
    for api in BOTH {
        let world = world(api, NOON);
        let blind = keys(CPU).replace("\"{project}\"", "\"{project}\", ignore_case: true");
        configure(
            &world,
            "late: hold",
            "",
            &[("blind", blind), ("exact", keys("ram: { reading: sec, factor: 1/3600 }"))],
        );
        let spelt = |project: &str, id: &str| on(project, "alice", id, "11-05T00:00", "11-05T02:00", "2");
        lines(&world, "blind", &[spelt("PROJECT-A", "1")]);
        lines(&world, "exact", &[spelt("PROJECT-A", "2"), spelt("project-a", "3")]);
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 2.00", "ram 2026-11 2.00"], "{api}");
        world.agent(&["status"]).tells(&["PROJECT-A"]);
    }
}

#[test]
fn ignore_case_knows_the_letters_of_all_scripts() {
    for api in BOTH {
        let marketplace = market().replace("backend_id: project-b", "backend_id: PROJEKT-Õ");
        let world = World::of(Setting { api, now: NOON, zone: "UTC", marketplace });
        let blind = keys(CPU).replace("\"{project}\"", "\"{project}\", ignore_case: true");
        configure(&world, "late: hold", "", &[("source", blind)]);
        lines(&world, "source", &[on("projekt-õ", "alice", "1", "11-05T00:00", "11-05T07:00", "7")]);
        world.flush().exits(0);
        assert_eq!(world.rows(B), ["cpu 2026-11 7.00"], "{api}");
    }
}
