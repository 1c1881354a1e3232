//! What a collector asks for is changed: a command, a query, a step, the columns. What it has read stays, unless it reads the
//! same again as a whole, and a month that is over stays in any case; a name that a directory does not know for an hour changes
//! nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "collectors_http/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is another test's server, of which a part is used")]
mod server;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// A collector `source` with these keys, metered by the hour.
fn ask(world: &World, late: &str, asked: &str) {
    let text = format!(
        "{}submit: {{ late: {late} }}\ncollectors:\n  source:\n    schedule: \"@hourly\"\n{asked}{}",
        world.head(""),
        keys(CPU)
    );
    world.write("agent.yaml", &text);
}

fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_second()
}

/// A parameter of a question, in the address or in the body.
fn parameter(heard: &server::Heard, name: &str) -> String {
    let asked = heard.line.split_once('?').map_or("", |(_, query)| query);
    let all = format!("{asked}&{}", heard.body);
    let found = all.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")).map(str::to_owned));
    found.unwrap_or_default().replace("%3A", ":").replace("%5B", "[").replace("%5D", "]")
}

#[test]
fn a_script_that_moved_takes_nothing_away_of_what_it_does_not_print_again() {
    for api in BOTH {
        let world = world(api, NOON);
        let of = |file: &str| {
            let command = format!("    plugin: exec\n    command: [cat, {}]\n", world.path(file).display());
            ask(&world, "hold", &format!("{command}    since: 2026-01-01T00:00:00Z\n"));
        };
        let without_id = |mut line: Value| {
            line.as_object_mut().unwrap().remove("id");
            line
        };
        let print = |file: &str, line: &Value| world.write(file, &format!("{line}\n"));
        print("one", &without_id(on("project-b", "bob", "", "11-05T00:00", "11-05T05:00", "5")));
        of("one");
        world.flush().exits(0);
        print("two", &without_id(hours("", "11-01T00:00", "11-09T00:00", "8")));
        of("two");
        world.now("2026-11-10T13:00:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(B), ["cpu 2026-11 5.00"], "{api}");
        assert_eq!(world.rows(A), ["cpu 2026-11 8.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

/// A Prometheus with a counter of both projects that rises by an hour an hour from this instant on, twice as fast where it is
/// asked for by `prod`; of project B only while it is whole.
fn prometheus(begin: &'static str, whole: Arc<AtomicBool>) -> server::Server {
    server::Server::start(move |heard| {
        let (query, end) = (parameter(heard, "query"), parameter(heard, "time"));
        let end: i64 = end.split('.').next().unwrap().parse().unwrap();
        let range = query.rsplit_once('[').map_or("0", |(_, range)| range).trim_end_matches("ms]");
        let first = end - range.parse::<i64>().unwrap() / 1000;
        let (begin, is_prod) = (at(begin), query.contains("prod"));
        let is_whole = whole.load(Ordering::Relaxed);
        let series = |project: &str, user: &str| {
            let mut metric = json!({ "project": project, "user": user });
            if query.contains("by_env") {
                metric["env"] = json!("prod");
            }
            let rise = if is_prod { 2 } else { 1 };
            let hours = (begin..=end).step_by(3600).filter(|at| *at >= first);
            let values: Vec<Value> = hours.map(|at| json!([at, ((at - begin) * rise).to_string()])).collect();
            json!({ "metric": metric, "values": values })
        };
        let mut result = vec![series("project-a", "alice")];
        if is_whole {
            result.push(series("project-b", "bob"));
        }
        let mut answer = json!({ "status": "success", "data": { "resultType": "matrix", "result": result } });
        if !is_whole {
            answer["warnings"] = json!(["a store is away"]);
        }
        server::json(answer.to_string())
    })
}

fn query(server: &server::Server, text: &str, since: &str) -> String {
    format!(
        "    plugin: prometheus\n    url: http://{}\n    since: {since}\n    queries: {{ sec: {{ query: {text}, kind: counter }} }}\n",
        server.address
    )
}

#[test]
fn a_query_that_is_answered_in_part_takes_nothing_away_of_the_rest() {
    for api in BOTH {
        let whole = Arc::new(AtomicBool::new(true));
        let prometheus = prometheus("2026-11-01T00:00:00Z", whole.clone());
        let world = world(api, "2026-11-20T20:00:00Z");
        let november = "2026-11-01T00:00:00Z";
        ask(&world, "hold", &query(&prometheus, "seconds", november));
        world.flush().exits(0);
        // 19 days and 20 hours.
        assert_eq!(
            (world.rows(A), world.rows(B)),
            (vec!["cpu 2026-11 476.00".to_owned()], vec!["cpu 2026-11 476.00".to_owned()]),
            "{api}"
        );
        // What it is asked for now has other labels, and a store is away.
        ask(&world, "hold", &query(&prometheus, "by_env", november));
        whole.store(false, Ordering::Relaxed);
        world.now("2026-11-20T21:00:00Z");
        world.flush().exits(69).tells(&["sec", "was changed"]);
        assert_eq!(world.rows(B), ["cpu 2026-11 476.00"], "{api}");
        assert_eq!(world.rows(A), ["cpu 2026-11 477.00"], "{api}");
        whole.store(true, Ordering::Relaxed);
        world.now("2026-11-21T23:30:00Z");
        world.flush().exits(0);
        // To 23:00 of the 21st: 503 h. Of the hour in which B was away from the new labels nothing tells where it began.
        assert_eq!(world.rows(A), ["cpu 2026-11 503.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn a_query_that_says_something_else_changes_no_month_that_is_over() {
    for (text, november) in [("prod_by_env", "cpu 2026-11 228.00"), ("prod", "cpu 2026-11 228.00")] {
        for late in ["backfill", "hold"] {
            let prometheus = prometheus("2026-10-01T00:00:00Z", Arc::new(AtomicBool::new(true)));
            let world = world(CURRENT, "2026-10-10T12:00:00Z");
            world.write("token", "staff-token");
            let october = "2026-10-01T00:00:00Z";
            ask(&world, late, &query(&prometheus, "seconds", october));
            for now in ["2026-10-31T23:55:00Z", "2026-11-01T01:10:00Z", "2026-11-10T12:00:00Z"] {
                world.now(now);
                world.flush();
            }
            let before = world.rows(A);
            assert!(before.contains(&november.to_owned()), "{before:?}");
            ask(&world, late, &query(&prometheus, text, october));
            world.agent(&["check"]).tells(&["sec", "was", "changed"]);
            for (now, amount) in [("2026-11-10T13:00:00Z", "230.00"), ("2026-11-10T14:00:00Z", "232.00")] {
                world.now(now);
                world.flush();
                // Two hours an hour from the change on; October is as it was.
                let after: Vec<String> = before.iter().map(|row| row.replace("228.00", amount)).collect();
                assert_eq!(world.rows(A), after, "{text} {late}");
            }
            world.agent(&["recount"]).exits(0);
        }
    }
}

#[test]
fn another_step_of_a_request_counts_nothing_twice() {
    for (api, (before, after)) in
        BOTH.into_iter().flat_map(|api| [("1h", "1d"), ("1d", "1h")].map(|steps| (api, steps)))
    {
        // The server says an hour each hour.
        let source = server::Server::start(|heard| {
            let used = at(&parameter(heard, "to")) - at(&parameter(heard, "from"));
            server::json(json!([{ "project": "project-a", "user": "alice", "used": used }]).to_string())
        });
        let world = world(api, "2026-11-09T12:00:00Z");
        let request = |step: &str| {
            format!(
                "    plugin: http\n    url: http://{}\n    requests:\n      usage:\n        step: {step}\n        \
                 query: {{ from: \"{{start}}\", to: \"{{end}}\" }}\n        each: {{ row: answer }}\n        \
                 labels: {{ project: row.project, user: row.user }}\n        \
                 readings: {{ sec: {{ kind: delta, value: row.used }} }}\n",
                source.address
            )
        };
        ask(&world, "hold", &request(before));
        world.flush().exits(0);
        world.now("2026-11-10T10:00:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 226.00"], "{api}");
        ask(&world, "hold", &request(after));
        world.now("2026-11-10T11:00:00Z");
        world.agent(&["check"]).tells(&["sec", "was", "changed"]);
        world.flush().exits(0).tells(&["sec", "was changed"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 227.00"], "{api} {before} {after}");
        world.now("2026-11-10T12:00:00Z");
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 228.00"], "{api} {before} {after}");
        world.agent(&["recount"]).exits(0);
    }
}

/// A sacct that prints the file `allocated` or `requested`, as it is asked.
fn sacct(world: &World) -> std::path::PathBuf {
    let folder = world.path("programs");
    std::fs::create_dir(&folder).unwrap();
    let shown = |name: &str| world.path(name).display().to_string();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *ReqTRES*) exec cat {} ;; *) exec cat {} ;; esac\n",
        shown("requested"),
        shown("allocated")
    );
    for (name, script) in [("sacct", script.as_str()), ("sacctmgr", "#!/bin/sh\nexit 1\n")] {
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The jobs of project A, by number, start, end (none: it runs) and seconds; of 8 processors each, where 4 were asked for.
fn jobs_are(world: &World, jobs: &[(u32, &str, Option<&str>, i64)]) {
    let head = "JobIDRaw|Submit|Start|End|ElapsedRaw|State|Account|User|Partition|QOS|Cluster|Reservation|";
    for (file, column, count) in [("allocated", "AllocTRES", 8), ("requested", "ReqTRES", 4)] {
        let lines = jobs.iter().map(|(number, start, end, seconds)| {
            let (start, state) = (at(start), if end.is_some() { "COMPLETED" } else { "RUNNING" });
            let end = end.map_or("Unknown".to_owned(), |end| at(end).to_string());
            format!("{number}|{start}|{start}|{end}|{seconds}|{state}|project-a|alice|main|normal|c1||cpu={count}\n")
        });
        world.write(file, &format!("{head}{column}\n{}", lines.collect::<String>()));
    }
}

#[test]
fn what_is_asked_of_jobs_changes_no_month_that_is_over_and_a_late_job_counts() {
    let world = world(CURRENT, "2026-10-31T23:57:00Z");
    world.write("token", "staff-token");
    let programs = sacct(&world);
    let of = |keys: &str| {
        let text = format!("    plugin: slurm\n    programs: {}\n{keys}", programs.display());
        ask(&world, "backfill", &text.replace("\n\n", "\n"));
    };
    // The reading's name is slurm's.
    let renamed = |world: &World| {
        let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
        let text = text.replace("reading: sec", "reading: cpu_seconds").replace("{project}", "{account}");
        world.write("agent.yaml", &text);
    };
    of("");
    renamed(&world);
    let (begin, end) = ("2026-10-31T00:00:00Z", "2026-11-02T00:00:00Z");
    jobs_are(&world, &[(17, begin, None, 86_220)]);
    world.flush().exits(0);
    // 8 processors for 23.95 hours.
    assert_eq!(world.rows(A), ["cpu 2026-10 191.60"]);
    let done = (17, begin, Some(end), 172_800);
    jobs_are(&world, &[done]);
    world.now("2026-11-03T12:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-10 192.00", "cpu 2026-11 192.00"]);
    of("    tres: requested\n");
    renamed(&world);
    world.now("2026-11-10T12:00:00Z");
    world.flush().exits(0).tells(&["cpu_seconds", "was changed", "2026-11-01T00:00:00Z"]);
    // October by what was allocated, November's day by what was requested.
    assert_eq!(world.rows(A), ["cpu 2026-10 192.00", "cpu 2026-11 96.00"]);
    world.now("2026-11-10T13:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-10 192.00", "cpu 2026-11 96.00"]);
    // An hour of October's on 4 processors, which comes late.
    jobs_are(&world, &[done, (18, "2026-10-20T00:00:00Z", Some("2026-10-20T01:00:00Z"), 3_600)]);
    world.now("2026-11-10T14:00:00Z");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-10 196.00", "cpu 2026-11 96.00"]);
    world.agent(&["recount"]).exits(0);
}

/// A counter of a user's, told under the name that the directory gives or under the number.
#[test]
fn a_user_whom_the_directory_does_not_know_for_an_hour_is_billed_once() {
    for api in BOTH {
        let world = world(api, NOON);
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        let look = |hour: u32, user: &str, level: u32| {
            let counter = |user: &str, epoch: &str, level: u32| {
                json!({ "name": "sec", "kind": "counter", "value": (level * 3600).to_string(), "epoch": epoch,
                        "began": "2026-11-10T10:00:00Z", "labels": { "project": "project-a", "user": user } })
            };
            lines(&world, "source", &[counter("root", "boot/1", 7), counter(user, "boot/2", level)]);
            world.now(&format!("2026-11-10T{hour}:00:00Z"));
            world.flush()
        };
        look(12, "bob", 100).exits(0);
        let before: rust_decimal::Decimal = amount(&world);
        look(13, "bob", 101).exits(0);
        look(14, "1234", 102).exits(0).tells(&["other labels", "1234"]);
        look(15, "bob", 103).exits(0).tells(&["other labels"]);
        assert_eq!(amount(&world) - before, rust_decimal::Decimal::from(3), "{api}");
        // `usermod -l`
        look(16, "robert", 105).exits(0);
        assert_eq!(amount(&world) - before, rust_decimal::Decimal::from(5), "{api}");
        let shares = world.shares(A);
        assert!(shares.contains(&"robert cpu 2026-11 2.00".to_owned()), "{shares:?}");
        world.agent(&["recount"]).exits(0);
    }
}

fn amount(world: &World) -> rust_decimal::Decimal {
    world
        .rows(A)
        .iter()
        .map(|row| row.rsplit(' ').next().unwrap().parse::<rust_decimal::Decimal>().unwrap())
        .sum()
}

/// What a changed command says first of a month that is over is no correction; what it says otherwise later is one.
#[test]
fn what_a_changed_command_has_repeated_is_corrected_by_what_it_says_later() {
    for (api, late) in LATE {
        let world = world(api, "2026-10-15T12:00:00Z");
        if late == "backfill" {
            world.write("token", "staff-token");
        }
        let command = |cat: &str| {
            let command =
                format!("    plugin: exec\n    command: [{cat}, {}]\n", world.path("source.lines").display());
            ask(&world, late, &command);
        };
        let october = |one: &str, two: &str, three: &str| {
            [
                hours("1", "10-10T00:00", "10-10T10:00", one),
                hours("2", "10-12T00:00", "10-12T02:00", two),
                hours("3", "10-14T00:00", "10-14T01:00", three),
            ]
        };
        command("cat");
        for now in ["2026-10-15T12:00:00Z", "2026-11-01T00:30:00Z", "2026-11-09T12:00:00Z"] {
            jobs(&world, now, &october("10", "2", "1")).exits(0);
        }
        // The third is told otherwise from the first look on: that is how it is told now, and not how much it was.
        command("cat, -u");
        jobs(&world, "2026-11-10T12:00:00Z", &october("10", "2", "60")).exits(0);
        jobs(&world, "2026-11-11T12:00:00Z", &october("10", "2", "60")).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-10 13.00"], "{api} {late}");
        let code = if late == "hold" { 65 } else { 0 };
        jobs(&world, "2026-11-12T12:00:00Z", &october("11", "2", "60")).exits(code);
        jobs(&world, "2026-11-13T12:00:00Z", &october("11", "3.5", "60")).exits(code);
        let rows: &[&str] = match late {
            "hold" => &["cpu 2026-10 13.00"],
            "carry_forward" => &["cpu 2026-10 13.00", "cpu 2026-11 2.50"],
            _ => &["cpu 2026-10 15.50"],
        };
        assert_eq!(world.rows(A), rows, "{api} {late}");
        if late == "hold" {
            world.agent(&["parked", "list"]).exits(65).tells(&["2.50", "2026-10", "stranded"]);
        }
        world.agent(&["recount"]).exits(0);
    }
}

/// A job that runs since 31 October is told to have twice as many processors after the command was changed, in each look: what
/// was counted of October stays 24 h, of which 20 were reported in time.
#[test]
fn a_job_from_before_the_month_of_a_change_counts_its_old_part_once() {
    for api in BOTH {
        let world = world(api, "2026-10-31T20:00:00Z");
        let command = |cat: &str| {
            let command =
                format!("    plugin: exec\n    command: [{cat}, {}]\n", world.path("source.lines").display());
            ask(&world, "hold", &command);
        };
        let job = |end: &str, used: &str| hours("long", "10-31T00:00", end, used);
        command("cat");
        jobs(&world, "2026-10-31T20:00:00Z", &[job("10-31T20:00", "20")]).exits(0);
        jobs(&world, "2026-11-02T00:00:00Z", &[job("11-02T00:00", "48")]).exits(65);
        command("cat, -u");
        for (day, used, november) in
            [("10", "480", "432.00"), ("11", "528", "480.00"), ("12", "576", "528.00")]
        {
            let now = format!("11-{day}T00:00");
            jobs(&world, &format!("2026-{now}:00Z"), &[job(&now, used)]).exits(65);
            let rows = ["cpu 2026-10 20.00".to_owned(), format!("cpu 2026-11 {november}")];
            assert_eq!(world.rows(A), rows, "{api} {day}");
            let listed = world.agent(&["parked", "list", "--json"]).json();
            assert_eq!(listed[0]["amount"], "4.00", "{api} {day}: {listed:#}");
        }
        world.agent(&["recount"]).exits(0);
    }
}
