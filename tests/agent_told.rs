//! The table of faults (tests/agent/table.rs): what happens to the server, the file and the sources. What happens to the machine is
//! in tests/agent_told_machine.rs, to disks in tests/agent_disk.rs, and a second daemon in tests/agent_two.rs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::table::*;
use agent::*;
use serde_json::json;

#[test]
fn a_server_that_is_away() {
    let mut at = begin(&cpu()).reported();
    at.world.server_goes_away();
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 75,
        status: &["Waldur: no usable answer since 12:", "cannot reach the server", "the network, the proxy"],
        metrics: &["pending_statements 1", "waldur_paused_reason{reason=\"unreachable\"} 1"],
        log: "Reporting is paused until",
        ready: (503, "Waldur: no usable answer since"),
    });
    // Whoever reports by hand is told why nothing is reported, however often it was tried before.
    let flushed = at.world.agent(&["flush", "--deadline", "2s"]).exits(75);
    flushed.says("Waldur is left alone for now: ").says("cannot reach the server");
    assert_eq!(at.posted(), "2.50");
    at.world.server_comes_back();
    at.goes_on(&["cpu_hours 2026-11 2.50"]);
    assert_eq!(at.daemon.log().matches("Waldur answers again.").count(), 1);
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
        log: "the token has no role for offering",
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

/// It was reported, and then taken away from the offering: what Waldur holds of it stands, the other component goes on.
#[test]
fn a_component_that_is_removed() {
    let at = begin(&script(
        "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 }, gpu_hours: { reading: cpu_seconds, factor: 1/1800 } }",
    ));
    let first = ["cpu_hours 2026-11 1.50", "gpu_hours 2026-11 3.00"];
    at.world.in_time("the first report", || at.world.rows(A) == first);
    at.world.in_time("its end", || at.daemon.log().contains("Reported "));
    let component = format!("/sandbox/offerings/{OFFERING}/components/gpu_hours");
    at.world.admin("DELETE", &component, &json!({}));
    at.world.readings(&[hours("1", "5400"), hours("2", "3600")]);
    at.shows(&Seen {
        exit: 65,
        status: &["Project A, 2026-11, parked: gpu_hours 5.00:", "then `parked retry project-a`"],
        metrics: &["troubles{state=\"parked\"} 1", "pending_statements 0"],
        log: "gpu_hours, 2026-11: parked:",
        ready: (200, "ready"),
    });
    assert_eq!(at.world.rows(A), ["cpu_hours 2026-11 2.50", "gpu_hours 2026-11 3.00"]);
    at.world.post(
        &format!("offerings/{OFFERING}/components"),
        json!({ "type": "gpu_hours", "billing_type": "usage" }),
    );
    at.world.agent(&["parked", "retry", "project-a"]).exits(0).says("1 item will be tried again");
    at.goes_on(&["cpu_hours 2026-11 2.50", "gpu_hours 2026-11 5.00"]);
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
        metrics: &[
            "collector_failures_since_success{collector=\"source\"} n",
            "collector_unmatched_backend_ids{collector=\"source\"} 0",
        ],
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
        metrics: &[
            "collector_failures_since_success{collector=\"source\"} n",
            "waldur_paused_reason{reason=\"token\"} 0",
        ],
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
