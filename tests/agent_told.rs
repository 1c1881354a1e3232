//! A table of faults, each with what an operator sees of it: a line of `status` and its exit code, a metric, a line of the
//! log; that what was measured before is kept; and that it goes on when the fault is gone. The disk that is full is in
//! tests/agent_disk.rs, the second daemon in tests/agent_two.rs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

/// Another hour, used up on the 9th.
fn hours(id: &str, seconds: &str) -> Value {
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, &[])
}

/// A daemon that looks and submits every ten seconds and has reported 1.50 hours.
struct At {
    /// Ends before its folder goes.
    daemon: Daemon,
    world: World,
    address: String,
}

/// What is seen while something is wrong.
struct Seen<'a> {
    exit: i32,
    status: &'a [&'a str],
    metrics: &'a [&'a str],
    log: &'a str,
    /// What `/ready` answers.
    ready: (u16, &'a str),
}

fn begin(collector: &str) -> At {
    begin_with(collector, &[hours("1", "5400")])
}

/// From the first run on it sees these.
fn begin_with(collector: &str, lines: &[Value]) -> At {
    let world = World::new(CURRENT);
    world.write(
        "agent.yaml",
        &format!(
            "{}listen: 127.0.0.1:0\npage: {{ listen: \"unix:FOLDER/page.sock\" }}\nsubmit: {{ schedule: every 10s \
             }}\ncollectors:\n{collector}",
            world.head("")
        )
        .replace("FOLDER", world.folder.path().to_str().unwrap()),
    );
    world.readings(lines);
    world.write("script", &format!("cat {}", world.path("readings").display()));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: ");
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let address = address.to_owned();
    At { daemon, world, address }
}

/// A script that may be exchanged, and prints the file of readings to begin with.
fn script(meters: &str) -> String {
    format!(
        "  source:\n    plugin: exec\n    schedule: every 10s\n    command: [sh, FOLDER/script]\n    timeout: 60s\n    resource: {A}\n    \
         meters: {meters}\n    since: {LONG_AGO}\n"
    )
}

fn cpu() -> String {
    script("{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }")
}

impl At {
    fn reported(self) -> At {
        self.world.in_time("the first report", || self.world.rows(A) == ["cpu_hours 2026-11 1.50"]);
        // Read back, too, and noted: what happens next does not happen in the middle of it.
        self.world.in_time("its end", || self.daemon.log().contains("Reported "));
        self
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(&self.address, path)
    }

    fn number(&self, metric: &str) -> u64 {
        let page = self.get("/metrics").1;
        let found = page.lines().find_map(|line| line.strip_prefix(&format!("waldur_usage_agent_{metric} ")));
        found.unwrap_or_else(|| panic!("no {metric}: {page}")).parse().unwrap()
    }

    fn failures(&self, collector: &str) -> u64 {
        self.number(&format!("collector_failures_since_success{{collector=\"{collector}\"}}"))
    }

    fn posted(&self) -> Value {
        self.world.agent(&["status", "--json"]).json()["statements"][0]["components"][0]["posted"].clone()
    }

    /// All that is to be seen comes to be seen, and what was measured is kept.
    #[track_caller]
    fn shows(&self, seen: &Seen<'_>) {
        let metric = |line: &&str| self.get("/metrics").1.contains(&format!("waldur_usage_agent_{line}\n"));
        for line in seen.metrics {
            self.world.in_time(line, || metric(line));
        }
        self.world.in_time(seen.log, || self.daemon.log().contains(seen.log));
        self.world.in_time(seen.status[0], || {
            self.world
                .agent(&["status"])
                .out
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(seen.status[0])
        });
        let mut status = self.world.agent(&["status"]).exits(seen.exit);
        for words in seen.status {
            status = status.says(words);
        }
        assert!(
            status.out.lines().all(|line| line.chars().count() <= 80 || !line.trim().contains(' ')),
            "{status:#?}"
        );
        self.comes_to_be_as_kept();
        let (code, words) = self.get("/ready");
        assert!(code == seen.ready.0 && words.contains(seen.ready.1), "{code} {words}");
        assert_eq!(self.get("/health").0, 200);
        self.world.agent(&["recount"]).exits(0);
        assert!(self.posted().as_str().unwrap() >= "1.50", "what was measured is kept");
    }

    /// All of `status` comes to be as it is kept for this test in tests/golden/told/, but for times, how often something was
    /// tried, and how it is folded. `UPDATE_GOLDEN=1 cargo test --test agent_told` writes them anew, to be looked at.
    #[track_caller]
    fn comes_to_be_as_kept(&self) {
        let case = std::thread::current().name().unwrap().to_owned();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/told").join(case);
        let unfolded = |text: &str| {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            // Whichever call met it first, and once or more often.
            let calls =
                ["GET component usages:", "GET resources of offering 91ab0000000040008000000000000001:"];
            let text = calls.iter().fold(text, |text, call| text.replace(call, "GET ...:"));
            text.replace("(n try)", "(n tries)").replace("(n run ", "(n runs ").replace("(n run)", "(n runs)")
        };
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, self.status_of_any_day()).unwrap();
        }
        let kept = unfolded(&std::fs::read_to_string(&file).unwrap_or_default());
        // At once where it is so already: what is told may pass by itself.
        if unfolded(&self.status_of_any_day()) == kept {
            return;
        }
        let begun = std::time::Instant::now();
        self.world.in_time("status as it is kept", || {
            let said = unfolded(&self.status_of_any_day());
            let is_so = said == kept;
            assert!(
                is_so || begun.elapsed() < PATIENCE / 2,
                "{}: it says\n{said}\nand is kept as\n{kept}",
                file.display()
            );
            is_so
        });
    }

    fn status_of_any_day(&self) -> String {
        let folder = self.world.folder.path().to_str().unwrap();
        let status = self.world.agent(&["status"]).out;
        let process = format!("process {},", self.daemon.id());
        let text = status.replace(&self.world.address, "WALDUR").replace(folder, "FOLDER");
        let text = text.replace(&process, "process n,");
        let plain = |word: &str| {
            let bare = word.trim_matches(['(', ',']);
            let is_number = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit());
            match word.find('Z').filter(|_| bare.starts_with("12:")) {
                Some(end) => format!("12:mm{}", &word[end..]),
                // Processes, and how often something was tried.
                None if is_number && (bare.len() > 3 || word.starts_with('(')) => word.replace(bare, "n"),
                None => word.to_owned(),
            }
        };
        let line = |line: &str| line.split(' ').map(plain).collect::<Vec<_>>().join(" ");
        text.lines().map(|text| line(text) + "\n").collect()
    }

    /// And it goes on by itself.
    #[track_caller]
    fn goes_on(&self, rows: &[&str]) {
        self.world.in_time("it goes on", || self.world.rows(A) == rows);
        self.world.in_time("it is ready", || self.get("/ready").0 == 200);
        self.world.in_time("nothing is wrong", || self.world.agent(&["status"]).code == 0);
        self.world
            .agent(&["status"])
            .says("1 resource: 1 agreed.")
            .says_not("left alone")
            .says_not("Collector");
    }
}

#[test]
fn a_server_that_is_away() {
    let mut at = begin(&cpu()).reported();
    at.world.server_goes_away();
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    // The agent's clock goes on, and the server's where there is one.
    let second = std::cell::Cell::new(0);
    let goes_on = |world: &World| {
        second.set(second.get() + 2);
        let now = after("2026-11-10T12:10:00Z", second.get());
        world.agent_clock(&now);
        if world.sandbox.is_some() {
            world.sandbox_clock(&now);
        }
        pause(std::time::Duration::from_millis(50));
    };
    until("the pause", || {
        goes_on(&at.world);
        at.get("/metrics").1.contains("waldur_paused_reason{reason=\"unreachable\"} 1\n")
    });
    at.world
        .agent(&["status"])
        .exits(75)
        .says("Waldur: no usable answer since")
        .says("paused until")
        .says("the network, the proxy")
        .says("1 resource: 1 pending.");
    // Whoever reports by hand is told why nothing is reported, however often it was tried before.
    let flushed = at.world.agent(&["flush", "--deadline", "2s"]).exits(75);
    flushed.says("Waldur is left alone for now: ").says("cannot reach the server");
    assert!(at.daemon.log().contains("Reporting is paused until"), "{}", at.daemon.log());
    let (code, words) = at.get("/ready");
    assert!(code == 503 && words.starts_with("Waldur: no usable answer since"), "{code} {words}");
    assert_eq!(at.posted(), "2.50");
    at.world.server_comes_back();
    until("it goes on", || {
        goes_on(&at.world);
        at.world.rows(A) == ["cpu_hours 2026-11 2.50"] && at.get("/ready").0 == 200
    });
    assert!(at.daemon.log().contains("Waldur answers again."));
}

/// What Waldur holds can't be compared then: nothing says that all is well, though nothing waits to be sent.
#[test]
fn a_server_that_is_away_while_nothing_is_pending() {
    let mut world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    world.agent(&["status"]).exits(0).says("1 resource: 1 agreed.");
    // Two hours later the rows are to be compared.
    world.now("2026-11-10T14:00:00Z");
    world.server_goes_away();
    world.flush_once().exits(75);
    let status = world.agent(&["status"]).exits(75).says("Waldur: no usable answer since 14:00Z");
    status.says("1 resource: 1 agreed.").says_not("pending.");
    assert_eq!(world.agent(&["status", "--json"]).exits(75).json()["exit"], 75);
    world.server_comes_back();
    world.now("2026-11-10T14:10:00Z");
    world.flush().exits(0);
    world.agent(&["status"]).exits(0);
}

/// An id is one id, however many collectors see it; what is of nobody is no unmatched id; and one that Waldur was not asked
/// for is not said to be unknown to it. `status`, metrics and the page agree.
#[test]
fn what_has_no_resource_is_counted_once_and_for_what_it_is() {
    let by_id = |name: &str| {
        format!(
            "  {name}:\n    plugin: exec\n    schedule: every 1h\n    command: [cat, FOLDER/readings]\n    resource: {{ offering: \
             {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ {name}: {{ reading: cpu_seconds }} }}\n    since: {LONG_AGO}\n"
        )
    };
    let world = World::new(CURRENT);
    let page = format!("unix:{}", world.path("page.sock").display());
    let collectors = format!("{}{}", by_id("cpu_hours"), by_id("gpu_hours"));
    let file = format!(
        "{}listen: 127.0.0.1:0\npage: {{ listen: \"{page}\" }}\ncollectors:\n{collectors}",
        world.head("")
    );
    world.write("agent.yaml", &file.replace("FOLDER", world.folder.path().to_str().unwrap()));
    let of = |id: &str, labels: &[(&str, &str)]| {
        job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "1", labels)
    };
    // Nobody's, and no meter counts it: nothing is to be told of it.
    let load = job("load", "9", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "1", &[("node", "n1")]);
    let mut lines = vec![
        load,
        of("1", &[("project", "project-a")]),
        of("2", &[("project", "gone")]),
        of("3", &[("user", "eve")]),
    ];
    world.readings(&lines);
    world
        .agent(&["collect"])
        .exits(0)
        .says("Waldur was not asked for them yet")
        .says_not("no amount changed");
    world
        .agent(&["status"])
        .says("New: 2 backend ids that Waldur was not asked for yet: gone, project-a")
        .says_not("Unmatched");
    world
        .flush()
        .exits(0)
        .says("1 backend id: unmatched: Waldur knows no such resource")
        .says("2 series: of no resource");
    let status = world
        .agent(&["status"])
        .exits(0)
        .says("Unmatched: 1 backend id that Waldur knows no resource for: gone")
        .says("collector cpu_hours, gpu_hours: give their resources these backend ids in Waldur");
    let status =
        status.says("No resource: 1 series of collector cpu_hours: its readings carry no label `project`");
    status.says("No resource: 1 series of collector gpu_hours: ").says_not("New:");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: ");
    daemon.signal("USR1");
    daemon.until_it_says(
        "Collector cpu_hours: 1 backend id that Waldur knows no resource for: gone. What was measured",
    );
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let metrics = get(address, "/metrics").1;
    for line in [
        "unmatched_backend_ids 1",
        "collector_unmatched_backend_ids{collector=\"gpu_hours\"} 1",
        "collector_unplaced_series{collector=\"cpu_hours\"} 1",
    ] {
        assert!(metrics.contains(&format!("waldur_usage_agent_{line}\n")), "{line}: {metrics}");
    }
    let shown = get_from_socket(&world.path("page.sock"), "/");
    for words in [
        "Backend ids that Waldur knows no resource of: 1<",
        "Series whose labels don't identify a resource: 2<",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    drop(daemon);
    // Where all of a collector's readings are of nobody, its rules are wrong: that is no success.
    lines.truncate(0);
    lines.push(of("4", &[("user", "eve")]));
    world.readings(&lines);
    world.write(
        "agent.yaml",
        &std::fs::read_to_string(world.path("agent.yaml")).unwrap().replace("{project}", "{account}"),
    );
    world.flush_once().exits(65).says("All that a collector measured is of no resource");
    world.agent(&["status"]).exits(65);
}

#[test]
fn a_server_that_answers_503() {
    let at = begin(&cpu()).reported();
    let out_of_order = json!({ "status": 503, "body": "out of order" });
    at.world.fault(json!({ "match": { "path": "/set_usage/" }, "action": out_of_order }));
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 75,
        status: &[
            "Project A, pending: tried again at 12:",
            "the server answered 503",
            "1 resource: 1 pending.",
        ],
        metrics: &["pending_statements 1"],
        log: "is not reported for now, it is tried again from 2026-11-10T12:",
        ready: (200, "ready, 1 statements pending"),
    });
    let log = at.daemon.log();
    let told = log.lines().find(|line| line.contains("is not reported for now")).unwrap();
    assert!(told.contains(&format!("Project A ({A}): it is not")) && told.contains("503"), "{told}");
    // Beside its name nothing needs its UUID.
    assert_eq!(told.matches("5e2f").count(), 1, "{told}");
    assert!(at.number("waldur_requests_total{outcome=\"unknown\"}") > 0);
    at.world.no_faults();
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
}

/// However few resources there are, and though each of them is put off by itself.
#[test]
fn a_server_that_answers_502_to_everything() {
    let at = begin(&cpu()).reported();
    at.world.fault(json!({ "action": { "status": 502, "body": "bad gateway" } }));
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 75,
        status: &["Waldur: no usable answer since 12:", "answered 502"],
        metrics: &["pending_statements 1", "waldur_paused_reason{reason=\"unreachable\"} 1"],
        log: "Reporting is paused until",
        ready: (503, "Waldur: no usable answer since"),
    });
    assert_eq!(at.daemon.log().matches("Waldur answers again").count(), 0, "{}", at.daemon.log());
    at.world.no_faults();
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
    assert_eq!(at.daemon.log().matches("Waldur answers again").count(), 1, "{}", at.daemon.log());
}

#[test]
fn a_server_that_asks_for_rest_is_no_trouble() {
    let at = begin(&cpu()).reported();
    at.world.fault(json!({ "action": { "status": 429, "headers": { "Retry-After": "20" } } }));
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 75,
        status: &["Waldur: the server is rate limiting (HTTP 429) since", "no action needed"],
        metrics: &["pending_statements 1", "waldur_paused_reason{reason=\"throttled\"} 1"],
        log: "Reporting is paused until",
        ready: (200, "ready, 1 statements pending"),
    });
    at.world.no_faults();
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
}

#[test]
fn a_token_that_is_refused() {
    let at = begin(&cpu()).reported();
    at.world.write("token", "expired");
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 77,
        status: &["Waldur: the token was refused since 12:", "put a valid token in its place"],
        metrics: &["waldur_paused_reason{reason=\"token\"} 1", "waldur_paused_reason{reason=\"role\"} 0"],
        log: "the token was refused",
        ready: (503, "Waldur: the token was refused since 2026-11-10T12:"),
    });
    let server = at.world.agent(&["status", "--json"]).exits(77).json()["server"].clone();
    assert_eq!(server["paused_reason"], "token");
    assert!(server["paused_since"].as_str().unwrap().starts_with("2026-11-10T12:"), "{server}");
    at.world.write("token", TOKEN);
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
}

#[test]
fn a_token_without_a_role() {
    let by_id = cpu().replace(
        &format!("resource: {A}"),
        &format!("resource: {{ offering: {OFFERING}, backend_id: project-a }}"),
    );
    let at = begin(&by_id).reported();
    at.world.write("token", "stranger-token");
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 77,
        status: &["Waldur: the token", "OFFERING.MANAGER"],
        metrics: &["waldur_paused_reason{reason=\"role\"} 1"],
        log: "role",
        ready: (503, "Waldur: the token"),
    });
}

/// What the daemon works by is told, not what stands in the file meanwhile.
#[test]
fn a_file_that_was_changed_since_the_daemon_read_it() {
    let at = begin(&cpu()).reported();
    let live = std::fs::read_to_string(at.world.path("agent.yaml")).unwrap();
    at.world.agent(&["status"]).says_not("the file was changed");
    at.world.write("agent.yaml", &live.replace("submit: { ", "submit: { report: shadow, "));
    let status =
        at.world.agent(&["status"]).says("the file was changed since it was read: reload with SIGHUP");
    status.says_not("report: shadow");
    let machine = at.world.agent(&["status", "--json"]).json();
    assert_eq!(machine["report"], "live", "{machine}");
    assert!(machine["file_differs"].as_str().unwrap().contains("was changed"), "{machine}");
    at.daemon.signal("HUP");
    at.daemon.until_it_says("Reloaded: 1 collector.");
    until("the daemon's file", || !at.world.agent(&["status"]).out.contains("was changed"));
    at.world.agent(&["status"]).says("report: shadow: nothing is posted");
}

/// The same page twice has the same lines in the same order.
#[test]
fn metrics_come_in_one_order() {
    let at = begin(&cpu()).reported();
    let names = || -> Vec<String> {
        let page = at.get("/metrics").1;
        page.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let first = names();
    assert!(first.len() > 50, "{first:?}");
    for _ in 0..3 {
        assert_eq!(names(), first);
    }
    let answer = get_from_socket(&at.world.path("page.sock"), "/?period=foo");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("`foo` is not a billing period such as 2026-11"), "{answer}");
}

#[test]
fn a_component_that_the_offering_has_not() {
    let at = begin(&script(
        "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, removed: { reading: cpu_seconds, factor: 1/1800 } }",
    ));
    let at = at.reported();
    at.shows(&Seen {
        exit: 65,
        status: &[
            "Project A, 2026-11, parked: removed 3.00:",
            "then `parked retry project-a`",
            "1 resource: 1 parked.",
        ],
        metrics: &["troubles{state=\"parked\"} 1"],
        log: "removed, 2026-11: parked:",
        ready: (200, "ready"),
    });
    at.world.post(
        &format!("offerings/{OFFERING}/components"),
        json!({ "type": "removed", "billing_type": "usage" }),
    );
    at.world.agent(&["parked", "retry", "project-a"]).exits(0).says("1 item will be tried again");
    at.goes_on(&["cpu_hours 2026-11 1.50", "removed 2026-11 3.00"]);
}

/// What a source does, and what is said of it.
fn source(what: &str, words: &str) {
    source_of(&cpu(), what, words);
}

fn source_of(collector: &str, what: &str, words: &str) {
    let at = begin(collector).reported();
    at.world.write("script", what);
    at.shows(&Seen {
        exit: 69,
        status: &[
            &format!("Collector source: {words}"),
            "since it last succeeded, 12:",
            "the daemon tries it again at",
        ],
        metrics: &["collector_unmatched_backend_ids{collector=\"source\"} 0"],
        log: "Collector source fails, its last known amounts stand:",
        ready: (200, "ready"),
    });
    assert!(at.failures("source") >= 1);
    assert!(at.daemon.log().contains(words), "{}", at.daemon.log());
    assert_eq!(at.world.rows(A), ["cpu_hours 2026-11 1.50"]);
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.world.write("script", &format!("cat {}", at.world.path("readings").display()));
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
    assert!(at.daemon.log().contains("Collector source works again."));
}

#[test]
fn a_script_that_hangs() {
    let hasty = cpu().replace("timeout: 60s", "timeout: 1s");
    source_of(&hasty, "sleep 600", "`sh`: it did not end within 1s and was stopped");
}

#[test]
fn a_script_that_prints_garbage() {
    source(
        "echo garbage; echo more",
        "none of its 2 lines or values could be read; the first: line 1: it is not one JSON object",
    );
}

#[test]
fn a_script_that_fails() {
    source("echo no such table >&2; exit 3", "`sh`: it failed with exit code 3; stderr: no such table");
}

/// Each cause of one fault is told once, also where it turns into another one, such as silence.
#[test]
fn a_collector_that_fails_for_another_reason() {
    let at = begin_with(&cpu(), &counter(&["0", "5400"], &[])).reported();
    let told = |words: &str| at.daemon.log().lines().filter(|line| line.contains(words)).count();
    for (script, words) in [
        ("echo no such table >&2; exit 3", "stderr: no such table"),
        ("echo garbage; echo more", "none of its 2 lines or values could be read"),
        ("true", "it saw nothing at all, where it saw"),
    ] {
        at.world.write("script", script);
        at.world.in_time(words, || told(words) > 0);
    }
    for words in ["stderr: no such table", "none of its 2 lines", "it saw nothing at all, where it saw"] {
        assert_eq!(told(words), 1, "{words}: {}", at.daemon.log());
    }
    // What could not be read is quarantined, also where it is all of a run.
    assert!(at.number("collector_quarantined_total{collector=\"source\"}") >= 2);
}

/// A line that stays bad is told once, not with each run.
#[test]
fn a_line_that_stays_bad() {
    let at = begin(&cpu()).reported();
    let good = hours("1", "5400");
    at.world.write("script", &format!("echo '{good}'; echo garbage"));
    at.world.in_time("three runs", || at.number("collector_quarantined_total{collector=\"source\"}") >= 3);
    let told = |words: &str| at.daemon.log().lines().filter(|line| line.contains(words)).count();
    assert_eq!(told("a reading is quarantined and not billed"), 1, "{}", at.daemon.log());
    at.world.write("script", &format!("echo '{good}'; echo garbage; echo other"));
    at.world.in_time("another", || told("a reading is quarantined and not billed") == 2);
}

#[test]
fn a_script_that_prints_nothing_where_counters_were() {
    let at = begin_with(&cpu(), &counter(&["0", "5400"], &[])).reported();
    at.world.readings(&[]);
    at.shows(&Seen {
        exit: 69,
        status: &["Collector source: it saw nothing at all"],
        metrics: &["waldur_paused_reason{reason=\"token\"} 0"],
        log: "Collector source could not read all: it saw nothing at all",
        ready: (200, "ready"),
    });
    assert!(at.failures("source") >= 1);
    at.world.in_time("the second run", || at.daemon.log().contains("saw nothing at all twice in a row"));
    let log = at.daemon.log();
    assert!(
        log.contains("Collector source saw nothing at all twice in a row: `cpu_seconds` (1 series) ended"),
        "{log}"
    );
    // It is believed, and nobody is to find that out from the next bill.
    let silent = "Collector source: it has seen nothing since 12:";
    at.world.in_time("its silence", || at.world.agent(&["status"]).out.contains(silent));
    at.world.agent(&["status"]).exits(0).says("the counters and gauges that it saw are not billed on");
    at.world.readings(&counter(&["0", "5400"], &[]));
    at.world.in_time("it is back", || at.daemon.log().contains("Collector source sees something again."));
    assert!(!at.daemon.log().contains("works again"), "silence is no recovery: {}", at.daemon.log());
    at.world.in_time("no silence", || !at.world.agent(&["status"]).out.contains(silent));
    assert_eq!(at.world.rows(A), ["cpu_hours 2026-11 1.50"]);
}

#[test]
fn a_directory_that_can_not_be_read() {
    let at = begin(&format!(
        "  homes:\n    plugin: filesystem\n    schedule: every 10s\n    directories: FOLDER/homes/*\n    resource: {A}\n    \
         meters: {{ storage_gb: {{ reading: directory_inodes, aggregate: last }} }}\n"
    ));
    let At { world, daemon, .. } = &at;
    world.in_time("the failure", || daemon.log().contains("Collector homes could not read all"));
    let status = world.agent(&["status"]).exits(69).says("Collector homes:").says("/homes");
    assert!(status.out.contains("none succeeded"), "{status:#?}");
    assert!(at.failures("homes") >= 1);
    let (homes, elsewhere) = (world.path("homes"), world.path("elsewhere"));
    std::fs::create_dir_all(homes.join("anna")).unwrap();
    world.in_time("it goes on", || daemon.log().contains("Collector homes works again."));
    world.in_time("the report", || world.rows(A) == ["storage_gb 2026-11 1.00"]);
    // A link to itself: nobody can read that, not even root. What was known stands.
    std::fs::rename(&homes, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&homes, &homes).unwrap();
    world.in_time("the second failure", || {
        daemon.log().matches("Collector homes could not read all").count() == 2
    });
    world
        .agent(&["status"])
        .exits(69)
        .says("Collector homes:")
        .says("/homes")
        .says("since it last succeeded, 12:");
    assert!(at.failures("homes") >= 1);
    assert_eq!(world.rows(A), ["storage_gb 2026-11 1.00"]);
    std::fs::remove_file(&homes).unwrap();
    std::fs::rename(&elsewhere, &homes).unwrap();
    world.in_time("nothing is wrong", || world.agent(&["status"]).code == 0);
    assert_eq!(daemon.log().matches("Collector homes works again.").count(), 2);
}

/// A FUSE server that is stopped is the double of a dead NFS server.
#[test]
fn a_path_that_hangs() {
    let command = |name: &str| std::process::Command::new(name);
    if !command("bindfs").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skip("a_path_that_hangs", "no bindfs");
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, dead) = (folder.path().join("source"), folder.path().join("dead"));
    std::fs::create_dir_all(source.join("anna")).unwrap();
    std::fs::create_dir_all(&dead).unwrap();
    let mut server = command("bindfs")
        .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
        .args([&source, &dead])
        .spawn()
        .unwrap();
    until("the mount", || {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dead.to_str().unwrap())
    });
    let signal = |name: &str| {
        let pid = server.id().to_string();
        assert!(command("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    };
    let at = begin(&format!(
        "{}  homes:\n    plugin: filesystem\n    schedule: every 10s\n    directories: {dead}/*\n    mounts: {dead}\n    \
         resource: {B}\n    meters: {{ storage_gb: {{ reading: directory_inodes, aggregate: last }} }}\n",
        cpu(),
        dead = dead.display()
    ))
    .reported();
    at.world.in_time("the directory", || at.world.rows(B) == ["storage_gb 2026-11 1.00"]);
    signal("STOP");
    let told = format!("collector homes: {} does not answer since 2026-11-10T", dead.display());
    at.world.in_time("health names the path", || at.get("/health").1.contains(&told));
    let metric = format!("collector_path_hangs{{collector=\"homes\",path=\"{}\"}} 1\n", dead.display());
    assert!(at.get("/metrics").1.contains(&metric));
    let shown = format!("Collector homes: {} does not answer since 2026-11-10 ", dead.display());
    assert!(get_from_socket(&at.world.path("page.sock"), "/").contains(&shown));
    at.world.in_time("status names the path", || {
        let out = at.world.agent(&["status"]).out;
        out.contains("Collector homes") && out.contains("does not answer")
    });
    // The other collector's usage is reported meanwhile, and what was known of this one stands.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.world.in_time("the others go on", || at.world.rows(A) == ["cpu_hours 2026-11 2.50"]);
    assert_eq!(at.world.rows(B), ["storage_gb 2026-11 1.00"]);
    // A command beside the daemon ends as well, and has the others' usage reported.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600"), hours("3", "3600")]);
    at.world.agent(&["flush", "--collect", "--deadline", "20s"]).exits(69).says("does not answer");
    at.world.in_time("the third job", || at.world.rows(A) == ["cpu_hours 2026-11 3.50"]);
    signal("CONT");
    at.world.in_time("it answers again", || at.get("/health").1 == "ok\n");
    drop(at);
    assert!(command("umount").arg(&dead).status().unwrap().success());
    server.wait().unwrap();
}

#[test]
fn clocks_that_are_apart() {
    let at = begin(&cpu()).reported();
    // The server's clock jumps ahead by two minutes.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    let mut second = 0;
    until("the report", || {
        second += 2;
        at.world.sandbox_clock(&after("2026-11-10T12:10:00Z", second));
        at.world.agent_clock(&after("2026-11-10T12:08:00Z", second));
        pause(std::time::Duration::from_millis(100));
        at.world.rows(A) == ["cpu_hours 2026-11 2.50"]
    });
    let skew = || {
        let page = at.get("/metrics").1;
        let line =
            page.lines().find_map(|line| line.strip_prefix("waldur_usage_agent_waldur_clock_skew_seconds "));
        line.unwrap().parse::<f64>().unwrap()
    };
    assert!((115.0..=125.0).contains(&skew()), "{}", skew());
    until("status", || at.world.agent(&["status"]).out.contains("ahead of ours; synchronise them."));
    at.daemon.until_it_says("ahead of ours: synchronise them; at a month's end seconds decide.");
    assert_eq!(at.daemon.log().matches("synchronise them").count(), 1);
    assert_eq!(at.get("/ready").0, 200);
}

/// Both clocks are eight hours on at once, as after a sleep: the runs that did not take place are told, nothing that was used
/// is lost, and nothing is made up.
#[test]
fn a_clock_that_jumps() {
    let mut at = begin(&cpu()).reported();
    at.world.in_time("it is noted", || at.world.agent(&["status"]).code == 0);
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.world.seconds.set(8 * 3600);
    at.world.in_time("the log", || at.daemon.log().contains("of its runs were missed since"));
    assert!(at.daemon.log().contains("clock was set"), "{}", at.daemon.log());
    assert!(at.number("collector_runs_missed_total{collector=\"source\"}") > 0);
    // Once the run that found out is recorded.
    until("status", || at.world.agent(&["status", "--all"]).out.contains("Collector source: missed "));
    at.world.agent(&["recount"]).exits(0);
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
    at.daemon.kill();
}

#[test]
fn a_daemon_that_was_killed() {
    let mut at = begin(&cpu()).reported();
    // What was accepted is noted a moment later; until then it would be in doubt.
    at.world.in_time("it is noted", || at.world.agent(&["status"]).code == 0);
    at.daemon.kill();
    at.world.agent(&["status"]).exits(0).says("Daemon: none is running.").says("1 resource: 1 agreed.");
    at.comes_to_be_as_kept();
    at.world.now("2026-11-10T12:30:00Z");
    at.world.agent(&["status"]).exits(0).says("runs were due since, and no daemon is running");
    at.world.agent(&["recount"]).exits(0);
    // The next one tells what was missed, in its log, a metric and status; nothing that was recorded is lost.
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    let next = at.world.daemon(&[], &[]);
    until("the next one", || next.log().matches("Health and metrics at http://").count() == 2);
    let log = next.log();
    let address =
        log.rsplit("Health and metrics at http://").next().unwrap().split('/').next().unwrap().to_owned();
    next.until_it_says("of its runs were missed since");
    until("the metric", || {
        let page = get(&address, "/metrics").1;
        let missed = page.lines().find_map(|line| {
            line.strip_prefix("waldur_usage_agent_collector_runs_missed_total{collector=\"source\"} ")
        });
        missed.unwrap().parse::<u64>().unwrap() > 0
    });
    // Once the run that found out is recorded.
    until("status", || at.world.agent(&["status", "--all"]).out.contains("Collector source: missed "));
    let second = std::cell::Cell::new(0);
    until("its report", || {
        second.set(second.get() + 2);
        at.world.now(&after("2026-11-10T12:30:00Z", second.get()));
        at.world.rows(A) == ["cpu_hours 2026-11 2.50"]
    });
}

#[test]
fn a_reload_that_is_refused() {
    let at = begin(&cpu()).reported();
    let right = std::fs::read_to_string(at.world.path("agent.yaml")).unwrap();
    at.world.write("agent.yaml", "waldur: {}\n");
    at.daemon.signal("HUP");
    at.daemon.until_it_says("The new configuration is not used, the old one stays at work:");
    // The mistakes first, and what goes on all the same.
    at.world.write("agent.yaml", &right.replace("factor:", "facter:"));
    at.daemon.signal("HUP");
    at.daemon.until_it_says("did you mean `factor`?");
    until("the daemon's file", || at.world.agent(&["status"]).out.contains("has 1 mistake: line "));
    let mistaken = at.world.agent(&["status"]).exits(78);
    let order: Vec<_> =
        ["has 1 mistake:", "unknown key `facter`", "Daemon: process ", "Reload refused at 12:"]
            .map(|words| mistaken.out.find(words))
            .to_vec();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?} in {}", mistaken.out);
    // What is in the ledger is shown all the same.
    let mistaken = mistaken.says("answered at 12:").says("1 resource: 1 agreed.");
    // A reload is no remedy while the file has mistakes.
    mistaken.says_not("the file was changed since it was read");
    let machine = at.world.agent(&["status", "--json"]).exits(78).json();
    assert_eq!((&machine["daemon"]["running"], &machine["exit"]), (&json!(true), &json!(78)), "{machine}");
    // Of two things that are wrong with it, neither hides the other.
    at.world.write("agent.yaml", &format!("{right}# changed\n"));
    let changed = at.world.agent(&["status"]).exits(78).says("Reload refused at 12:");
    changed.says("the file was changed since it was read: reload with SIGHUP");
    at.world.write("agent.yaml", &right);
    let status = at.world.agent(&["status"]).exits(78);
    status
        .says("Reload refused at 12:")
        .says("The new configuration is not used, the old one stays at work:");
    let daemon = at.world.agent(&["status", "--json"]).json()["daemon"].clone();
    assert!(daemon["reload_refused"]["words"].as_str().unwrap().contains("not used"), "{daemon}");
    assert!(at.get("/metrics").1.contains("waldur_usage_agent_config_last_reload_successful 0\n"));
    at.daemon.signal("HUP");
    at.daemon.until_it_says("Reloaded: 1 collector.");
    until("no word of it", || !at.world.agent(&["status"]).out.contains("Reload refused"));
    assert!(at.world.agent(&["status", "--json"]).json()["daemon"]["reload_refused"].is_null());
}

/// Every name in the JSON of `status` is in docs/status.md.
#[test]
fn the_fields_for_machines_are_documented() {
    fn names(value: &Value, found: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.insert(name.clone());
                    names(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "32.00", "billing_period": "2026-11-01" }),
    );
    world.flush().exits(65);
    world.agent(&["resolve", A, "adopt"]).exits(0);
    world.flush();
    let mut found = std::collections::BTreeSet::new();
    let mut look = |world: &World| names(&world.agent(&["status", "--json"]).json(), &mut found);
    look(&world);
    // Ids that Waldur does not know and labels that are not there, a source that fails, a server that is away.
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ cpu_hours: {{ reading: cpu_seconds }} }}\n"
    ));
    let of = |id: &str, labels: &[(&str, &str)]| {
        job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "1", labels)
    };
    world.readings(&[of("1", &[("project", "gone")]), of("2", &[("user", "eve")])]);
    world.flush_once();
    look(&world);
    world.write("readings", "garbage\n");
    world.flush_once();
    look(&world);
    world.server_goes_away();
    world.agent_clock("2026-11-10T14:00:00Z");
    world.flush_once();
    look(&world);
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
    let page = std::fs::read_to_string(page).unwrap();
    let missing: Vec<_> = found.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty() && found.len() > 50, "{missing:?} of {found:?}");
}

/// What 2,000 resources in conflict look like: one screen.
#[test]
fn two_thousand_resources_with_trouble_fit_one_screen() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hours("1", "5400")]);
    world.flush().exits(0);
    // Made in the ledger itself: it is what is shown that counts here.
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    ledger
        .execute_batch(&format!(
            "BEGIN;
             CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                SELECT i, printf('5e2f0000-0000-4000-9000-%012d', i) AS uuid FROM n;
             INSERT INTO resource SELECT n.uuid, offering, 'Tenant ' || i, 'tenant-' || i, 'tenant-' || i, state, plan, customer, project, refreshed
                FROM n, resource WHERE resource.uuid = '{A}';
             INSERT INTO statement SELECT n.uuid, period, part, changed, closed, counted FROM n, statement WHERE resource = '{A}';
             INSERT INTO line SELECT n.uuid, period, part, component, username, exact, used, posted, problem, held, held_words
                FROM n, line WHERE resource = '{A}';
             INSERT INTO blocked SELECT n.uuid, period, part, component, '', 'held', 'conflict', 'Waldur holds 32.00', '32.00', 0
                FROM n, line WHERE resource = '{A}' AND username = '';
             COMMIT;"
        ))
        .unwrap();
    let status = world.agent(&["status"]).exits(65);
    // A quarter of a second in a debug build. What others do on this machine meanwhile does not count.
    let seconds = processor_seconds(&world, "status");
    assert!(seconds < 1.0, "{seconds}");
    let lines: Vec<&str> = status.out.lines().collect();
    assert!(lines.len() <= 24, "{status:#?}");
    assert!(status.out.contains("Tenant 1, 2026-11, held: Waldur holds cpu_hours 32.00; the ledger has 1.50.\n  `resolve tenant-1 adopt | overwrite`\n"), "{status:#?}");
    assert_eq!(lines[lines.len() - 2], "  and 1,995 more: `status --state held`");
    assert_eq!(lines[lines.len() - 1], "2,001 resources: 1 agreed, 2,000 held.");
    let held = world.agent(&["status", "--state", "held"]).exits(65);
    assert_eq!(held.out.matches("2026-11 open\n").count(), 2000);
    assert!(!held.out.contains("Project A"), "the one that is agreed");
    world
        .agent(&["status", "tenant-7"])
        .exits(65)
        .says("Tenant 7 (tenant-7), 2026-11 open")
        .says_not("Tenant 8");
}

/// How long the processors worked for a command, as the shell tells of its children.
fn processor_seconds(world: &World, command: &str) -> f64 {
    let words = world.command(&[command]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "\"$@\" >/dev/null; times", "sh"]).arg(words.get_program()).args(words.get_args());
    for (name, value) in words.get_envs() {
        shell.env(name, value.unwrap());
    }
    let times = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    let seconds = |time: &str| {
        let (minutes, seconds) = time.trim_end_matches('s').split_once('m').unwrap();
        60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
    };
    times.lines().nth(1).unwrap().split(' ').map(seconds).sum()
}

#[test]
fn a_second_daemon_changes_nothing_of_what_is_told() {
    let at = begin(&cpu()).reported();
    let first = at.world.agent(&["status"]).exits(0).out;
    let second = at.world.agent(&["run"]).exits(78);
    let process = at.daemon.id().to_string();
    let second = second.says(&process);
    assert_eq!(second.out, "");
    let status = at.world.agent(&["status"]).exits(0);
    let of = |text: &str| text.lines().next().unwrap().to_owned();
    assert_eq!(of(&status.out), of(&first));
    status.says(&format!("Daemon: process {process}, since "));
    at.comes_to_be_as_kept();
    assert_eq!(at.get("/ready").0, 200);
}

/// https to a port without TLS is no authority that is missing.
#[test]
fn a_server_without_tls_where_it_is_expected() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("http://", "https://"));
    world.readings(&[hours("1", "5400")]);
    world
        .flush_once()
        .exits(75)
        .says("the other side does not speak TLS; is its address http:// ?")
        .says_not("ca_file");
    world.agent(&["status"]).says("does not speak TLS").says_not("authority");
    world.agent(&["check"]).exits(75).says("write http:// in `waldur.url`").says_not("ca_file");
}

/// One line each, with the resource's name, the old number and the new one.
#[test]
fn the_log_has_a_line_for_each_change_of_state() {
    let at = begin(&script(
        "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, gpu_hours: { reading: gpu_seconds, factor: 1/3600 } }",
    ));
    let at = at.reported();
    // 1.50 hours are corrected to 1.00; a counter rises by 7200, then starts anew at 1800.
    let mut lines = vec![hours("1", "3600")];
    lines.extend(series("gpu_seconds", "counter", &["100", "7300", "1800"], &[]));
    at.world.readings(&lines);
    let rows = ["cpu_hours 2026-11 1.00", "gpu_hours 2026-11 2.50"];
    at.world.in_time("the corrected report", || at.world.rows(A) == rows);
    let project = format!("Project A ({A})");
    at.daemon.until_it_says(&format!("{project}, cpu_hours, 2026-11: falls from 1.50 to 1.00"));
    at.daemon.until_it_says(&format!("{project}, gpu_hours, 2026-11: "));
    let log = at.daemon.log();
    let reset =
        log.lines().find(|line| line.contains("gpu_hours, 2026-11: ") && !line.contains(" posted")).unwrap();
    assert!(reset.contains("7300") && reset.contains("1800"), "{reset}");
    // The month ends.
    let minute = std::cell::Cell::new(0);
    until("its end", || {
        minute.set((minute.get() + 1).min(50));
        at.world.now(&format!("2026-12-01T00:{:02}:00Z", minute.get()));
        pause(std::time::Duration::from_millis(100));
        at.daemon.log().contains(&format!("{project}, 2026-11: closed: it was read back as it was reported"))
    });
    // Nothing is told twice.
    let log = at.daemon.log();
    let posted = ["1.50 -> 1.00 posted: it fell", "gpu_hours, 2026-11: 2.50 posted, the first"];
    let words = ["falls from 1.50 to 1.00", "goes from 7300 to 1800", "closed: it was read back"];
    for words in posted.into_iter().chain(words) {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
}
