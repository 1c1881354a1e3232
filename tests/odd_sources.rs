//! Odd input beside sound one, as it is billed: one odd thing costs only what it could bear on. The real binary looks twice or
//! more at groups, directories, pages, answers and programs that have something odd in them; the amounts are worked out by hand.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
#[path = "odd_inputs/mod.rs"]
mod inputs;
#[path = "collectors_http/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is another test's server, of which a part is used")]
mod server;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::books::*;
use agent::*;
use serde_json::{Value, json};

/// The file, with this below `collectors:`.
fn collectors(world: &World, text: &str) {
    world.write("agent.yaml", &format!("{}collectors:\n{text}", world.head("")));
}

/// Collects and submits so many minutes after noon.
fn look(world: &World, minute: u32) -> Done {
    world.now(&format!("2026-11-10T{:02}:{:02}:00Z", 12 + minute / 60, minute % 60));
    world.flush()
}

/// An hour in the kernel's microseconds.
const HOUR: u64 = 3_600_000_000;

/// Groups of version 2 in a folder, as the kernel shows them.
fn groups(world: &World) {
    let root = world.path("cgroup");
    fs::create_dir(&root).unwrap();
    for (file, text) in [
        ("cgroup.controllers", "cpu io memory pids\n"),
        ("cgroup.procs", "1\n"),
        ("cpu.stat", "usage_usec 1\n"),
    ] {
        fs::write(root.join(file), text).unwrap();
    }
}

fn group(world: &World, path: &str, usage: u64, io: &str) {
    let folder = world.path("cgroup").join(path);
    fs::create_dir_all(&folder).unwrap();
    let cpu = format!("usage_usec {usage}\nuser_usec {usage}\nsystem_usec 0\n");
    for (file, text) in [("cpu.stat", cpu.as_str()), ("io.stat", io), ("cgroup.procs", "1\n")] {
        fs::write(folder.join(file), text).unwrap();
    }
}

/// A collector of groups of project A.
fn of_groups(world: &World, name: &str, slices: &str, more: &str) -> String {
    format!(
        "  {name}:\n    plugin: cgroup\n    schedule: \"*/5 * * * *\"\n    root: {}\n    slices: {slices}\n    resource: {A}\n    \
         meters:\n      cpu: {{ reading: cpu_seconds, factor: 1/3600 }}\n{more}",
        world.path("cgroup").display()
    )
}

const USERS: &str = "user.slice/user-*.slice";

#[test]
fn an_unknown_device_costs_a_new_session_none_of_its_cpu_time() {
    let disk = "      disk: { reading: io_read_bytes, factor: 1/1000000 }\n";
    for (api, more) in BOTH.into_iter().flat_map(|api| ["", disk].map(|more| (api, more))) {
        let world = world(api, NOON);
        groups(&world);
        collectors(&world, &of_groups(&world, "login", USERS, more));
        let io = |bytes: u64| {
            format!(
                "8:0 rbytes={bytes} wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n(unknown) rbytes=7 wbytes=0 rios=1 wios=0\n"
            )
        };
        group(&world, "user.slice/user-1000.slice", 100 * HOUR, &io(1_000_000));
        look(&world, 0).exits(0);
        group(&world, "user.slice/user-1000.slice", 101 * HOUR, &io(5_000_000));
        group(&world, "user.slice/user-1001.slice", 2 * HOUR, "");
        look(&world, 5).exits(0);
        let right: &[&str] =
            if more.is_empty() { &["cpu 2026-11 3.00"] } else { &["cpu 2026-11 3.00", "disk 2026-11 4.00"] };
        assert_eq!(world.rows(A), right, "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn a_groups_processor_time_that_is_a_little_lower_is_no_new_life() {
    for api in BOTH {
        let world = world(api, NOON);
        groups(&world);
        collectors(&world, &of_groups(&world, "login", USERS, ""));
        let see = |minute: u32, usage: u64| {
            group(&world, "user.slice/user-1000.slice", usage, "");
            look(&world, minute)
        };
        see(0, 1000 * HOUR).exits(0);
        see(5, 1001 * HOUR).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        // Ten milliseconds.
        see(10, 1001 * HOUR - 10_000);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        see(15, 1001 * HOUR).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        see(20, 1003 * HOUR).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

#[test]
fn an_odd_line_on_a_page_costs_a_new_user_nothing() {
    // What stands beside the two, and how the second look ends.
    let cases = [
        ("# TYPE app_load gauge\napp_load NaN\n", 0),
        ("# TYPE \"http.server.requests\" counter\n{\"http.server.requests\",code=\"200\"} 7\n", 0),
        ("app_units_total{user=\"carol\"} NaN\n", 65),
    ];
    for (api, (odd, code)) in BOTH.into_iter().flat_map(|api| cases.map(|case| (api, case))) {
        let page = Arc::new(Mutex::new(String::new()));
        let shown = page.clone();
        let server = server::Server::start(move |_| {
            (
                "200 OK",
                "Content-Type: text/plain; version=0.0.4\r\n".to_owned(),
                shown.lock().unwrap().clone(),
            )
        });
        let world = world(api, NOON);
        let text = format!(
            "  app:\n    plugin: openmetrics\n    schedule: every 5m\n    url: http://{}/metrics\n    metrics: [app_units_total]\n    \
             epoch: process_start_time_seconds\n    resource: {A}\n    meters:\n      cpu: {{ reading: app_units_total }}\n",
            server.address
        );
        collectors(&world, &text);
        let show = |users: &str| {
            // 4 November.
            let start = "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1793800000\n";
            *page.lock().unwrap() = format!("{start}# TYPE app_units_total counter\n{users}{odd}");
        };
        show("app_units_total{user=\"alice\"} 100\n");
        look(&world, 0).exits(code);
        show("app_units_total{user=\"alice\"} 101\napp_units_total{user=\"bob\"} 30\n");
        look(&world, 5).exits(code);
        assert_eq!(world.rows(A), ["cpu 2026-11 31.00"], "{api} {odd}");
        world.agent(&["recount"]).exits(0);
    }
}

/// A collector of a JSON answer: how many GB each project has.
fn of_volumes(server: &server::Server) -> String {
    format!(
        "  volumes:\n    plugin: http\n    schedule: \"@hourly\"\n    url: http://{}\n    requests:\n      volumes:\n        \
         each: {{ row: answer }}\n        labels: {{ project: row.project }}\n        \
         readings: {{ gb: {{ kind: gauge, value: row.gb }} }}\n    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters:\n      \
         ram: {{ reading: gb, aggregate: integral }}\n",
        server.address
    )
}

#[test]
fn a_row_of_nobody_does_not_keep_a_deleted_project_billed() {
    for (api, orphan) in BOTH
        .into_iter()
        .flat_map(|api| [json!({ "gb": 7 }), json!({ "project": null, "gb": 7 })].map(|row| (api, row)))
    {
        let rows = Arc::new(Mutex::new(Value::Null));
        let shown = rows.clone();
        let server = server::Server::start(move |_| server::json(shown.lock().unwrap().to_string()));
        let world = world(api, NOON);
        collectors(&world, &of_volumes(&server));
        let volume = |project: &str, gb: u32| json!({ "project": project, "gb": gb });
        *rows.lock().unwrap() = json!([volume("project-a", 2), volume("project-b", 3), orphan]);
        look(&world, 0);
        *rows.lock().unwrap() = json!([volume("project-a", 2), orphan]);
        look(&world, 60);
        look(&world, 120);
        look(&world, 180);
        // Three hours, and the one until it was seen to be gone.
        assert_eq!(world.rows(A), ["ram 2026-11 6.00"], "{api} {orphan}");
        assert_eq!(world.rows(B), ["ram 2026-11 3.00"], "{api} {orphan}");
    }
}

#[test]
fn a_compressed_answer_is_billed_as_its_plain_one() {
    for api in BOTH {
        let server = server::Server::of_bytes(|_| {
            let mut body = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            body.write_all(br#"[{"project":"project-a","gb":7}]"#).unwrap();
            ("200 OK", "Content-Encoding: gzip\r\n".to_owned(), body.finish().unwrap())
        });
        let world = world(api, NOON);
        collectors(&world, &of_volumes(&server));
        look(&world, 0).exits(0);
        look(&world, 60).exits(0);
        assert_eq!(world.rows(A), ["ram 2026-11 7.00"], "{api}");
        assert!(server.heard()[0].has("Accept-Encoding: gzip"), "{:?}", server.heard()[0]);
    }
}

#[test]
fn a_place_that_is_away_does_not_keep_anothers_deleted_directory_billed() {
    for api in BOTH {
        let world = world(api, NOON);
        let (one, other) = (world.path("one"), world.path("other"));
        for home in [one.join("alice"), one.join("carol"), other.join("bob")] {
            fs::create_dir_all(&home).unwrap();
            fs::write(home.join("file"), [b'x'; 5000]).unwrap();
        }
        let text = format!(
            "  homes:\n    plugin: filesystem\n    schedule: every 5m\n    directories: [{}/*, {}/*]\n    resource: {A}\n    \
             meters:\n      disk: {{ reading: directory_apparent_bytes, aggregate: last, factor: 1/1000 }}\n",
            one.display(),
            other.display()
        );
        collectors(&world, &text);
        look(&world, 0).exits(0);
        assert_eq!(world.rows(A), ["disk 2026-11 15.00"], "{api}");
        // Bob's can't be looked at: it stands.
        fs::rename(&other, world.path("away")).unwrap();
        look(&world, 5).tells(&[other.to_str().unwrap()]);
        assert_eq!(world.rows(A), ["disk 2026-11 15.00"], "{api}");
        fs::remove_dir_all(one.join("alice")).unwrap();
        for minute in [10, 15, 20] {
            look(&world, minute);
        }
        assert_eq!(world.rows(A), ["disk 2026-11 10.00"], "{api}");
        // It is back without bob: now it is known.
        fs::create_dir(&other).unwrap();
        look(&world, 25).exits(0);
        assert_eq!(world.rows(A), ["disk 2026-11 5.00"], "{api}");
    }
}

#[test]
fn what_a_program_says_on_stderr_is_shown_though_it_ended_well() {
    let world = world(CURRENT, NOON);
    lines(&world, "source", &[five()]);
    let script = format!("cat {}; echo 'the licence ends soon' >&2", world.path("source.lines").display());
    world.write("script", &script);
    let text = format!(
        "  source:\n    plugin: exec\n    schedule: \"@hourly\"\n    command: [sh, {}]\n    since: {LONG_AGO}\n{}",
        world.path("script").display(),
        keys(CPU)
    );
    collectors(&world, &text);
    let said = "it said on stderr: the licence ends soon";
    world.agent(&["check"]).exits(0).says(said);
    world.agent(&["collect", "--dry-run"]).exits(0).says(said);
    // The log of every day is spared it.
    world.flush().exits(0).says_not("licence");
    world.now("2026-11-10T13:00:00Z");
    world.agent(&["flush", "--collect", "--deadline", "3s", "--log", "debug"]).exits(0).says(said);
    assert_eq!(world.rows(A), ["cpu 2026-11 5.00"]);
}

#[test]
fn names_that_look_like_numbers_are_names_as_they_are_written() {
    for api in BOTH {
        let world = world(api, NOON);
        let rule = "cpu: { reading: sec, factor: 1/3600, only_if: { part: [1030e0, 1.10, 0x1F] } }";
        configure(&world, "late: hold", "", &[("source", keys(rule))]);
        let parts = [
            ("1030e0", "0.2"),
            ("1.10", "0.3"),
            ("0x1F", "0.5"),
            ("1030", "2"),
            ("1.1", "4"),
            ("31", "8"),
            ("1030.0", "16"),
            ("1.03e3", "32"),
        ];
        let job = |(part, amount): (&str, &str)| {
            let mut line = hours(part, "11-05T00:00", "11-07T00:00", amount);
            line["labels"]["part"] = json!(part);
            line
        };
        lines(&world, "source", &parts.map(job));
        world.flush().exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
    }
}

#[test]
fn a_group_beside_the_one_that_holds_it_is_told_as_counted_twice() {
    let world = world(CURRENT, NOON);
    groups(&world);
    group(&world, "user.slice", 3 * HOUR, "");
    group(&world, "user.slice/user-1000.slice", 2 * HOUR, "");
    let two = of_groups(&world, "all", "user.slice", "") + &of_groups(&world, "each", USERS, "");
    collectors(&world, &two);
    world
        .agent(&["check"])
        .line_with(&["warning", "collectors all and each both count `cpu_seconds` into cpu"])
        .says("count the same twice: `user.slice/user-1000.slice` is part of `user.slice`");
    // So it is where one collector reads both.
    collectors(&world, &of_groups(&world, "both", &format!("[user.slice, {USERS}]"), ""));
    world.agent(&["check"]).exits(0).says(
        "warning  collector both: `user.slice/user-1000.slice` is listed beside `user.slice`, which holds it: its usage is \
         counted twice wherever both are added up",
    );
    // Each for itself is sound.
    collectors(&world, &of_groups(&world, "each", USERS, ""));
    world.agent(&["check"]).exits(0).says_not("twice");
}

#[test]
fn check_says_what_a_source_lists_that_nobody_bills() {
    let world = world(CURRENT, NOON);
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    let mut other = hours("2", "11-05T00:00", "11-05T01:00", "1");
    other["name"] = json!("gpu_sec");
    let stray = on("project-z", "alice", "3", "11-05T00:00", "11-05T01:00", "1");
    lines(&world, "source", &[five(), other, stray]);
    world
        .agent(&["check"])
        .exits(0)
        .says("no meter wants gpu_sec: what they say is billed to nobody")
        .says("no resource has the backend id project-z: unmatched");
}

/// Adds a program to a folder of the world's.
fn program(world: &World, name: &str, script: &str) {
    let folder = world.path("bin");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", world.folder.path().display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

const HEADER: &str =
    "JobIDRaw|Submit|Start|End|ElapsedRaw|State|Account|User|Partition|QOS|Cluster|Reservation|AllocTRES\n";

/// A SLURM that lists what the file `answer` says, and of the jobs that it is asked for what `jobs` says.
fn slurm(world: &World) {
    program(world, "sacct", "case \"$*\" in *--jobs=*) exec cat jobs ;; esac\nexec cat answer");
    program(world, "sacctmgr", "case \"$*\" in *'list cluster'*) echo alpha ;; esac");
    world.write("jobs", HEADER);
}

/// A job that ended at 10:00 on the 10th, after so many seconds.
fn slurm_job(number: u32, who: &str, seconds: i64, partition: &str, state: &str, tres: &str) -> String {
    let end = 1_794_304_800;
    let start = end - seconds;
    format!("{number}|{start}|{start}|{end}|{seconds}|{state}|{who}|{partition}|normal|alpha||{tres}\n")
}

#[test]
fn the_configuration_for_slurm_bills_processors_gpus_and_memory() {
    for api in BOTH {
        let world = World::new(api);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/slurm.yaml");
        let folder = world.folder.path().display().to_string();
        let text = fs::read_to_string(file)
            .unwrap()
            .replace("https://waldur.example.com", &world.url())
            .replace("/etc/waldur-usage-agent", &folder)
            .replace("91ab1c7a-9d3b-4c60-a1b2-c3d4e5f60718", OFFERING);
        world.write("agent.yaml", &format!("{text}ledger: {folder}/ledger.db\n"));
        slurm(&world);
        let jobs = [
            // 4 h, 1 GPU for an hour, 16 GiB for an hour.
            slurm_job(
                1,
                "project-a|alice",
                3600,
                "gpu",
                "COMPLETED",
                "billing=4,cpu=4,gres/gpu=1,mem=16384M,node=1",
            ),
            // Half an hour of 2 processors and 2 GiB, whatever became of it.
            slurm_job(2, "project-a|bob", 1800, "cpu", "CANCELLED by 0", "billing=2,cpu=2,mem=2048M,node=1"),
            // An account that is nobody's.
            slurm_job(3, "root|root", 3600, "cpu", "COMPLETED", "billing=8,cpu=8,mem=8192M,node=1"),
            // An hour and a half of 8 processors, 2 GPUs, 4 GiB.
            slurm_job(
                4,
                "project-b|alice",
                5400,
                "gpu-long",
                "TIMEOUT",
                "billing=8,cpu=8,gres/gpu:a100=2,gres/gpu=2,mem=4096M,node=1",
            ),
        ];
        world.write("answer", &(HEADER.to_owned() + &jobs.concat()));
        let found = format!("{folder}/bin:{}", std::env::var("PATH").unwrap());
        let mut flush = world.command(&["flush", "--collect", "--deadline", "3s"]);
        Done::from(flush.env("PATH", found).output().unwrap()).exits(0);
        let a = ["cpu_hours 2026-11 5.00", "gpu_hours 2026-11 1.00", "ram_gb_hours 2026-11 17.00"];
        assert_eq!(world.rows(A), a, "{api}");
        let b = ["cpu_hours 2026-11 12.00", "gpu_hours 2026-11 3.00", "ram_gb_hours 2026-11 6.00"];
        assert_eq!(world.rows(B), b, "{api}");
        assert_eq!(world.shares(A)[0], "alice cpu_hours 2026-11 4.00", "{api}");
    }
}

#[test]
fn a_job_that_is_given_up_is_told_once() {
    for api in BOTH {
        let world = world(api, NOON);
        slurm(&world);
        let text = format!(
            "  source:\n    plugin: slurm\n    schedule: \"@hourly\"\n    programs: {}\n    \
             resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n    meters:\n      \
             cpu: {{ reading: cpu_seconds, factor: 1/3600 }}\n",
            world.path("bin").display()
        );
        collectors(&world, &text);
        let sound = slurm_job(1, "project-a|alice", 3600, "cpu", "COMPLETED", "cpu=4,mem=1M,node=1");
        let odd = slurm_job(2, "project-a|alice", 3600, "cpu", "COMPLETED", "cpu=many,mem=1M,node=1");
        world.write("answer", &format!("{HEADER}{sound}{odd}"));
        let first = world.with_status(look(&world, 0)).exits(65);
        first.tells(&["`cpu=many` has no plain count"]).says_not("given up");
        assert_eq!(world.rows(A), ["cpu 2026-11 4.00"], "{api}");
        // SLURM has forgotten it.
        world.write("answer", &format!("{HEADER}{sound}"));
        let told = "jobs that could not be read are given up and not billed: 2.";
        look(&world, 60).says(told);
        world.agent(&["status"]).says(told);
        let last = look(&world, 120);
        world.with_status(last).exits(0).says_not("given up");
        assert_eq!(world.rows(A), ["cpu 2026-11 4.00"], "{api}");
    }
}

/// Noon of a day of November.
fn on_day(world: &World, day: u32) -> Done {
    world.now(&format!("2026-11-{day}T12:00:00Z"));
    world.flush()
}

/// What each day of two weeks comes to for something of the 10th that could not be read: it is asked for once a day (`asked`: how
/// often it was), and is told as given up on the 24th, once.
fn is_given_up_after_two_weeks(
    world: &World,
    asked: impl Fn() -> usize,
    words: &str,
    used: impl Fn(u32) -> String,
) {
    on_day(world, 10).exits(65).says_not("given up");
    on_day(world, 11).says_not("given up");
    for day in 12..24 {
        let before = asked();
        on_day(world, day).says_not("given up");
        world.now(&format!("2026-11-{day}T13:00:00Z"));
        world.flush().says_not("given up");
        assert_eq!(asked(), before + 1, "{day}");
        assert_eq!(world.rows(A), [used(day)]);
    }
    let before = asked();
    on_day(world, 24).says(words);
    world.agent(&["status", "--all"]).says(words);
    on_day(world, 25).says_not("given up");
    on_day(world, 26).says_not("given up");
    assert!(asked() <= before + 1, "{before} {}", asked());
}

/// A collector of an API that says how many seconds a project has used on each day.
fn of_days(server: &server::Server) -> String {
    format!(
        "  api:\n    plugin: http\n    schedule: \"@hourly\"\n    url: http://{}\n    since: 2026-11-10T00:00:00Z\n    \
         requests:\n      days:\n        step: 1d\n        query: {{ from: \"{{start:date}}\" }}\n        \
         each: {{ row: answer }}\n        labels: {{ project: row.project }}\n        \
         readings: {{ sec: {{ kind: delta, value: row.sec }} }}\n    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters:\n      \
         cpu: {{ reading: sec, aggregate: sum, factor: 1/3600 }}\n",
        server.address
    )
}

/// An hour a day of project A; of the 10th one of project B, too, which can't be read while it is `odd`.
fn days(odd: Arc<Mutex<bool>>) -> server::Server {
    server::Server::start(move |heard| {
        let is_odd = heard.line.contains("from=2026-11-10");
        let bad = if *odd.lock().unwrap() { json!("soon") } else { json!(3600) };
        let mut rows = vec![json!({ "project": "project-a", "sec": 3600 })];
        rows.extend(is_odd.then(|| json!({ "project": "project-b", "sec": bad })));
        server::json(Value::from(rows).to_string())
    })
}

#[test]
fn a_row_of_an_api_that_stays_odd_is_asked_for_each_day_for_two_weeks_and_then_given_up() {
    let world = world(CURRENT, NOON);
    let server = days(Arc::new(Mutex::new(true)));
    collectors(&world, &of_days(&server));
    let asked = || server.lines().iter().filter(|line| line.contains("from=2026-11-10")).count();
    let words = "request days: between 2026-11-10T00:00:00Z and 2026-11-11T00:00:00Z there are rows that could not be read";
    is_given_up_after_two_weeks(&world, asked, words, |day| format!("cpu 2026-11 {}.00", day - 9));
    assert_eq!(world.rows(B), [""; 0]);
}

#[test]
fn a_row_of_an_api_that_is_mended_days_later_counts_then() {
    for api in BOTH {
        let world = world(api, NOON);
        let odd = Arc::new(Mutex::new(true));
        let server = days(odd.clone());
        collectors(&world, &of_days(&server));
        on_day(&world, 10).exits(65);
        on_day(&world, 13);
        assert_eq!((world.rows(A), world.rows(B)), (vec!["cpu 2026-11 4.00".to_owned()], vec![]), "{api}");
        *odd.lock().unwrap() = false;
        on_day(&world, 15).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 6.00"], "{api}");
        assert_eq!(world.rows(B), ["cpu 2026-11 1.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

/// A Prometheus that has a counter's samples of the 10th: 0 h, 2 h (which is no number while `odd`), 0 h after a restart, and 1 h.
fn samples(odd: Arc<Mutex<bool>>) -> server::Server {
    server::Server::start(answer_of_samples(odd))
}

fn answer_of_samples(odd: Arc<Mutex<bool>>) -> impl Fn(&server::Heard) -> server::Said + Send + 'static {
    move |heard| {
        let asked = |name: &str| {
            let value = heard.line.split(&format!("{name}=")).nth(1).unwrap();
            value.split(['&', ' ']).next().unwrap().to_owned()
        };
        let last: f64 = asked("time").parse().unwrap();
        let query = asked("query");
        let range = query.split("%5B").nth(1).unwrap().split("ms").next().unwrap();
        let first = last - range.parse::<f64>().unwrap() / 1000.0;
        let second = if *odd.lock().unwrap() { "NaN" } else { "7200" };
        // 11:00, 11:10, 11:20 and 11:30 of the 10th.
        let all =
            [(1_794_308_400, "0"), (1_794_309_000, second), (1_794_309_600, "0"), (1_794_310_200, "3600")];
        let there: Vec<Value> = all
            .iter()
            .filter(|(at, _)| (first..=last).contains(&f64::from(*at)))
            .map(|(at, value)| json!([at, value]))
            .collect();
        let series = json!({ "metric": { "__name__": "sec" }, "values": there });
        let result = if there.is_empty() { json!([]) } else { json!([series]) };
        server::json(
            json!({ "status": "success", "data": { "resultType": "matrix", "result": result } }).to_string(),
        )
    }
}

fn of_samples(server: &server::Server) -> String {
    format!(
        "  prometheus:\n    plugin: prometheus\n    schedule: \"@hourly\"\n    url: http://{}\n    since: 2026-11-10T00:00:00Z\n    \
         queries:\n      sec: {{ query: sec, kind: counter }}\n    resource: {A}\n    meters:\n      \
         cpu: {{ reading: sec, factor: 1/3600 }}\n",
        server.address
    )
}

#[test]
fn a_sample_that_stays_no_number_is_asked_for_each_day_for_two_weeks_and_then_given_up() {
    let world = world(CURRENT, NOON);
    let server = samples(Arc::new(Mutex::new(true)));
    collectors(&world, &of_samples(&server));
    // The last question of the 10th reached to noon.
    let asked = || server.lines().iter().filter(|line| line.ends_with("time=1794312000.000")).count();
    let words = "was not whole, or has samples that can't be read; it was asked for again for 14 days and is given up";
    is_given_up_after_two_weeks(&world, asked, words, |_| "cpu 2026-11 1.00".to_owned());
}

#[test]
fn a_sample_that_is_mended_days_later_counts_then() {
    for api in BOTH {
        let world = world(api, NOON);
        let odd = Arc::new(Mutex::new(true));
        let server = samples(odd.clone());
        collectors(&world, &of_samples(&server));
        on_day(&world, 10).exits(65).says("NaN");
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        *odd.lock().unwrap() = false;
        world.now("2026-11-11T11:00:00Z");
        world.flush();
        assert_eq!(world.rows(A), ["cpu 2026-11 1.00"], "{api}");
        // Two hours up to the restart, and one after it.
        on_day(&world, 11).exits(0);
        assert_eq!(world.rows(A), ["cpu 2026-11 3.00"], "{api}");
        world.agent(&["recount"]).exits(0);
    }
}

/// A Prometheus does not answer a question about more than two hours: it is asked about less, and none of it is lost.
#[test]
fn a_question_that_is_not_answered_in_time_is_asked_in_halves() {
    let world = world(CURRENT, NOON);
    let answers = answer_of_samples(Arc::new(Mutex::new(false)));
    let server = server::Server::start(move |heard| {
        let range = heard.line.split("%5B").nth(1).unwrap().split("ms").next().unwrap();
        // Said by nobody: the connection stays open.
        if range.parse::<u64>().unwrap() > 7_200_001 { server::silence() } else { answers(heard) }
    });
    collectors(&world, &of_samples(&server).replace("schedule:", "timeout: 1s\n    schedule:"));
    on_day(&world, 10).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-11 3.00"]);
    let ranges = server.lines().into_iter().map(|line| line.split("time=").nth(1).unwrap()[..10].to_owned());
    // The ends of: one hour, two, four (no answer), and by two to noon.
    let ends = [
        "1794272400",
        "1794279600",
        "1794294000",
        "1794286800",
        "1794294000",
        "1794301200",
        "1794308400",
        "1794312000",
    ];
    assert_eq!(ranges.collect::<Vec<_>>(), ends);
}

/// A mount whose server can be stopped, as a dead NFS server is.
struct Mount<'a> {
    at: &'a Path,
    server: Child,
}

impl Mount<'_> {
    fn signal(&self, name: &str) {
        let pid = self.server.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        self.signal("CONT");
        let _ = Command::new("umount").arg(self.at).status();
        let _ = self.server.wait();
    }
}

#[test]
fn a_single_flush_ends_in_time_though_a_path_hangs() {
    if !Command::new("bindfs").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("a_single_flush_ends_in_time_though_a_path_hangs", "no bindfs");
    }
    let folder = tempfile::tempdir().unwrap();
    let (store, dead) = (folder.path().join("store"), folder.path().join("dead"));
    fs::create_dir_all(store.join("alice")).unwrap();
    fs::create_dir_all(&dead).unwrap();
    let server = Command::new("bindfs")
        .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
        .args([&store, &dead])
        .spawn()
        .unwrap();
    let mount = Mount { at: &dead, server };
    until("the mount", || {
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dead.to_str().unwrap())
    });
    let world = world(CURRENT, NOON);
    let homes = format!(
        "  homes:\n    plugin: filesystem\n    schedule: \"@hourly\"\n    directories: {0}/*\n    mounts: {0}\n    resource: {B}\n    \
         meters: {{ disk: {{ reading: directory_inodes, aggregate: last }} }}\n",
        dead.display()
    );
    collectors(&world, &(world.collector("source", "source.lines", &keys(CPU)) + &homes));
    lines(&world, "source", &[five()]);
    look(&world, 0).exits(0);
    assert_eq!(
        (world.rows(A), world.rows(B)),
        (vec!["cpu 2026-11 5.00".to_owned()], vec!["disk 2026-11 1.00".to_owned()])
    );
    mount.signal("STOP");
    lines(&world, "source", &[five(), hours("2", "11-06T00:00", "11-06T02:00", "2")]);
    let begun = Instant::now();
    let done = look(&world, 60);
    let took = begun.elapsed();
    mount.signal("CONT");
    // What hangs is given 10 s beyond the deadline; the machine may be slow.
    assert!(took < Duration::from_secs(25), "{took:?}: {done:#?}");
    done.exits(69).tells(&["collector homes: ", "Sent 2 amounts of 1 resource."]);
    assert_eq!(
        (world.rows(A), world.rows(B)),
        (vec!["cpu 2026-11 7.00".to_owned()], vec!["disk 2026-11 1.00".to_owned()])
    );
    // It answers again.
    look(&world, 120).exits(0);
}

/// What is wrong with the token costs no measurement: that is recorded first, and reported once there is a token again.
#[test]
fn a_token_that_is_not_to_be_had_costs_no_measurement() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[job("cpu_seconds", "1", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "5400", &[])]);
    fs::remove_file(world.path("token")).unwrap();
    world.flush().exits(78).says("token cannot be read").says("What was measured is kept");
    // A pipe that nobody writes to.
    assert!(Command::new("mkfifo").arg(world.path("token")).status().unwrap().success());
    world.readings(&[job("cpu_seconds", "2", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "3600", &[])]);
    world.flush().exits(78).says("is no regular file");
    world.agent(&["flush"]).exits(78).says_not("What was measured");
    fs::remove_file(world.path("token")).unwrap();
    world.write("token", TOKEN);
    world.agent(&["flush"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.50"]);
}

#[test]
fn a_token_on_a_mount_that_hangs_costs_no_measurement() {
    const TEST: &str = "a_token_on_a_mount_that_hangs_costs_no_measurement";
    if !Command::new("bindfs").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip(TEST, "no bindfs");
    }
    let world = World::new(CURRENT);
    let (store, dead) = (world.path("store"), world.path("dead"));
    fs::create_dir_all(&store).unwrap();
    fs::create_dir_all(&dead).unwrap();
    fs::write(store.join("token"), TOKEN).unwrap();
    let server = Command::new("bindfs")
        .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
        .args([&store, &dead])
        .spawn()
        .unwrap();
    let mount = Mount { at: &dead, server };
    until("the mount", || dead.join("token").exists());
    world.configure(&cpu_hours_of_a());
    let text = fs::read_to_string(world.path("agent.yaml")).unwrap();
    let (own, there) = (world.path("token"), dead.join("token"));
    world.write("agent.yaml", &text.replace(own.to_str().unwrap(), there.to_str().unwrap()));
    world.readings(&[job("cpu_seconds", "1", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "5400", &[])]);
    mount.signal("STOP");
    world.flush().exits(75).says("does not answer").says("What was measured is kept");
    world.readings(&[]);
    mount.signal("CONT");
    world.agent(&["flush"]).exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.50"]);
}
