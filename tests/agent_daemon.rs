//! The daemon: its schedules, its signals, what it tells systemd and whoever scrapes it, and others beside it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use agent::*;
use serde_json::json;

/// With schedules of a second; the clock moves only when a test moves it.
fn ready(waldur: &str, more: &str) -> World {
    let world = World::new(CURRENT);
    configure(&world, waldur, more, &cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world
}

fn configure(world: &World, waldur: &str, more: &str, keys: &str) {
    let collector = world.collector("source", "readings", keys).replace("\"@hourly\"", "every 1s");
    let head = world.head(waldur);
    world.write(
        "agent.yaml",
        &format!("{head}submit: {{ schedule: every 1s }}\n{more}collectors:\n{collector}"),
    );
}

fn http(address: &str, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Where the daemon says that it serves health and metrics.
fn address(daemon: &Daemon) -> String {
    daemon.until_it_says("Health and metrics at http://");
    let log = daemon.log();
    log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap().to_owned()
}

#[test]
fn it_collects_and_submits_on_its_schedules() {
    let world = ready("", "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: 1 collector");
    world.in_time("the first report", || world.shares(A).len() == 2);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
    let mut lines = alice_and_bob();
    lines.extend(counter(&["0", "7200"], &[("user", "carol")]));
    world.readings(&lines);
    world.in_time("the second report", || world.shares(A).len() == 3);
    // 110 + 7200 s
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.03"]);
}

#[test]
fn sigusr1_collects_and_submits_what_was_collected() {
    let world = ready("", "");
    world.readings(&[]);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let looks = || world.agent(&["status", "--json"]).json()["collectors"][0]["last_run"].clone();
    until("the first look", || looks() == NOON);
    world.readings(&alice_and_bob());
    // Once is enough, and the clock stands still.
    daemon.signal("USR1");
    until("the report", || world.shares(A).len() == 2);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
}

#[test]
fn sigterm_lets_the_call_under_way_finish_and_ends_with_0() {
    let world = ready("", "");
    world.post("settings", json!({ "latency_ms": 400 }));
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    until("the first look", || world.agent(&["status", "--all"]).out.contains("cpu_hours"));
    daemon.signal("USR1");
    until("a report under way", || world.requests_since(0).iter().any(|r| r.path.ends_with("/set_usage/")));
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0, "{}", daemon.log());
    assert!(daemon.log().contains("Stopping"), "{}", daemon.log());
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
    // Its outcome was learnt, so nothing is asked or sent again for it.
    world.post("settings", json!({ "latency_ms": 0 }));
    let total = world.agent(&["status", "--json"]).json()["statements"][0]["components"][0].clone();
    assert_eq!(total["acknowledged"], "0.03", "{total:#}");
    world.flush().exits(0);
    let reports = world.posts_since(0).iter().filter(|r| r.path.ends_with("/set_usage/")).count();
    assert_eq!(reports, 1);
}

#[test]
fn sigterm_does_not_wait_for_ever_for_a_server_that_hangs() {
    let world = ready("", "");
    world
        .fault(json!({ "match": { "path": "/set_usage/" }, "when": "after", "action": { "hang": 120_000 } }));
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    until("the first look", || world.agent(&["status", "--all"]).out.contains("cpu_hours"));
    daemon.signal("USR1");
    until("a report under way", || world.requests_since(0).iter().any(|r| r.path.ends_with("/set_usage/")));
    let begun = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0);
    // After ten seconds, and not with the call or the program, which take longer than this.
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
    world.no_faults();
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
    assert_eq!(world.shares(A).len(), 2);
}

#[test]
fn sighup_takes_a_good_file_and_leaves_the_old_one_at_work_for_a_bad_one() {
    let world = ready("", "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let good = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &good.replace("factor", "factr"));
    daemon.signal("HUP");
    daemon.until_it_says("The new configuration is not used, the old one stays at work");
    daemon.until_it_says("did you mean `factor`?");
    world.in_time("the old rules' report", || world.rows(A) == ["cpu_hours 2026-11 0.03"]);
    // Another factor: 110/36.
    world.write("agent.yaml", &good.replace("1/3600", "1/36"));
    daemon.signal("HUP");
    daemon.until_it_says("Reloaded: 1 collector.");
    world.in_time("the new rules' report", || world.rows(A) == ["cpu_hours 2026-11 3.06"]);
    // Another ledger takes a restart.
    world.write("agent.yaml", &good.replace("ledger.db", "other.db"));
    daemon.signal("HUP");
    daemon.until_it_says("names another ledger");
}

#[test]
fn systemd_is_told_when_it_is_ready_alive_and_stopping() {
    let world = ready("", "");
    let socket = UnixDatagram::bind(world.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = |wanted: &str| {
        let mut buffer = [0; 1024];
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let place = world.path("notify").display().to_string();
    let mut daemon = world.daemon(&[], &[("NOTIFY_SOCKET", &place), ("WATCHDOG_USEC", "600000")]);
    assert!(hear("READY=1").contains("STATUS=1 collector"));
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");
    daemon.signal("HUP");
    hear("RELOADING=1");
    assert!(hear("READY=1").contains("STATUS=reloaded"));
    // One that is refused says so where `systemctl status` shows it, in one line.
    let right = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", "waldur: {}\n");
    daemon.signal("HUP");
    let refused = hear("STATUS=The new configuration is not used, the old one stays at work: ");
    assert!(refused.contains("`url` is missing") && refused.contains("READY=1"), "{refused}");
    world.write("agent.yaml", &right);
    daemon.signal("TERM");
    hear("STOPPING=1");
    assert_eq!(daemon.ends(), 0);
}

#[test]
fn health_readiness_and_metrics_are_served() {
    let world = ready("", "listen: 127.0.0.1:0\n");
    let daemon = world.daemon(&[], &[]);
    let address = address(&daemon);
    assert_eq!(http(&address, "/health"), (200, "ok\n".to_owned()));
    until("the first look", || {
        let (status, text) = http(&address, "/metrics");
        status == 200
            && text.contains("waldur_usage_agent_collector_failures_since_success{collector=\"source\"} 0\n")
    });
    world.in_time("the report", || http(&address, "/ready").1 == "ready, 0 statements pending\n");
    until("the cycle's end", || {
        http(&address, "/metrics").1.contains("waldur_usage_agent_amounts_reported_total 3\n")
    });
    let after = http(&address, "/metrics").1;
    for line in [
        "pending_statements 0",
        "waldur_paused 0",
        "troubles{state=\"held\"} 0",
        "troubles{state=\"stranded\"} 0",
        "unmatched_backend_ids 0",
    ] {
        assert!(after.contains(&format!("waldur_usage_agent_{line}\n")), "{line} in {after}");
    }
    assert!(after.ends_with("# EOF\n"), "{after}");
    assert_eq!(http(&address, "/token").0, 404);
}

#[test]
fn a_taken_port_is_told_and_ends_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let world = ready("", &format!("listen: 127.0.0.1:{port}\n"));
    world.agent(&["run"]).exits(78).says("can't listen on").says("`listen:`");
}

#[test]
fn status_and_flush_work_beside_a_running_daemon() {
    let world = ready("", "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    until("the first look", || world.agent(&["status", "--all"]).out.contains("cpu_hours"));
    world.agent(&["status"]).exits(75).says("pending");
    world.flush().exits(0).says("Sent 3 amounts of ");
    world.agent(&["status"]).exits(0).says("agreed");
    // The daemon knows: it sends nothing again.
    let mark = world.mark();
    let looks = || world.agent(&["status", "--json"]).json()["collectors"][0]["last_run"].clone();
    let (first, mut seen) = (looks(), std::collections::BTreeSet::new());
    world.in_time("three more looks", || {
        seen.insert(looks().to_string());
        seen.remove(&first.to_string());
        seen.len() >= 3
    });
    assert_eq!(world.posts_since(mark).len(), 0);
}

#[test]
fn a_flush_beside_a_submitting_daemon_waits_and_nothing_is_sent_twice() {
    let world = ready("", "");
    world.post("settings", json!({ "latency_ms": 300 }));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    until("the first look", || world.agent(&["status", "--all"]).out.contains("cpu_hours"));
    daemon.signal("USR1");
    until("the daemon's first call", || !world.requests_since(0).is_empty());
    world.agent(&["flush", "--collect", "--deadline", "20s"]).exits(0);
    let posts = world.posts_since(0);
    let reports = posts.iter().filter(|r| r.path.ends_with("/set_usage/")).count();
    let shares = posts.iter().filter(|r| r.path.ends_with("/set_user_usages/")).count();
    assert_eq!((reports, shares), (1, 1), "{posts:#?}");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
}

#[test]
fn two_flushes_at_once_send_everything_once() {
    let world = ready("", "");
    world.post("settings", json!({ "latency_ms": 100 }));
    let mut both = Vec::new();
    for _ in 0..2 {
        let mut command = world.command(&["flush", "--collect", "--deadline", "20s"]);
        both.push(
            command
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap(),
        );
    }
    let both = both.into_iter().map(|one| Done::from(one.wait_with_output().unwrap()).exits(0));
    let told = both.filter(|one| one.out.contains("Sent 3 amounts of 1 resource.")).count();
    assert_eq!(told, 1, "each tells of what it sent itself");
    let reports = world.posts_since(0).iter().filter(|r| r.path.ends_with("/set_usage/")).count();
    assert_eq!(reports, 1);
    assert_eq!(world.shares(A).len(), 2);
}

#[test]
fn it_lives_through_a_server_that_is_away_and_goes_on_by_itself() {
    let mut world = ready("", "");
    world.server_goes_away();
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let mut seconds = 0;
    until("the rest", || {
        seconds += 1;
        world.agent_clock(&format!("2026-11-10T12:00:{seconds:02}Z"));
        pause(Duration::from_millis(200));
        daemon.log().contains("Reporting is paused until")
    });
    world.server_comes_back();
    world.in_time("the report", || world.shares(A).len() == 2);
    daemon.until_it_says("Waldur answers again.");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
}

#[test]
fn a_new_token_is_used_without_a_restart() {
    let world = ready("", "");
    world.write("token", "wr0ng-0000");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    world.in_time("the refusal", || daemon.log().contains("the token was refused"));
    world.write("token", TOKEN);
    world.in_time("the report", || world.shares(A).len() == 2);
}

#[test]
fn one_failing_collector_does_not_keep_the_other_from_being_reported() {
    let world = World::new(CURRENT);
    let good = world.collector("good", "readings", &cpu_hours_of_a()).replace("\"@hourly\"", "every 1s");
    let bad = world.collector("bad", "nowhere", &cpu_hours_of_a()).replace("\"@hourly\"", "every 1s");
    let slow = format!(
        "  slow:\n    plugin: exec\n    schedule: every 1s\n    command: [sleep, \"3600\"]\n{}",
        cpu_hours_of_a()
    );
    let head = world.head("");
    world.write(
        "agent.yaml",
        &format!("{head}submit: {{ schedule: every 1s }}\ncollectors:\n{slow}{bad}{good}"),
    );
    world.readings(&counter(&["0", "3600"], &[]));
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Collector bad fails");
    until("the good one's amounts", || world.agent(&["status", "--all"]).out.contains("cpu_hours"));
    world.in_time("the good one's report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    // And the slow one does not keep it from ending.
    let begun = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0);
    // After ten seconds, and not with the call or the program, which take longer than this.
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
}

#[test]
fn it_is_registered_where_the_server_lists_agents_after_what_is_due_is_reported() {
    let world = ready("", "");
    let list = "/api/marketplace-site-agent-identities/";
    let answer = |method: &str, path: &str, status: u16, body: serde_json::Value| {
        json!({ "match": { "method": method, "path": path },
                "action": { "status": status, "headers": { "Content-Type": "application/json" }, "body": body.to_string() } })
    };
    let id = "1de00000000040008000000000000001";
    world.post(
        "faults",
        json!({ "faults": [
            answer("POST", "/register_service/", 201, json!({ "uuid": id })),
            answer("POST", "/register_processor/", 201, json!({ "uuid": id })),
            answer("GET", list, 200, json!([])),
            answer("POST", list, 201, json!({ "uuid": id })),
        ] }),
    );
    let daemon = world.daemon(&[], &[]);
    world.in_time("it is registered", || {
        daemon.log().contains("Registered with Waldur as waldur-usage-agent@")
    });
    world.readings(&counter(&["0", "7200"], &[("user", "carol")]));
    world.in_time("another report", || world.shares(A).len() == 3);
    let asked = world.requests_since(0);
    let first = |path: &str| asked.iter().position(|one| one.path.contains(path)).unwrap();
    assert!(first("/set_usage/") < first(list), "reporting goes first");
    let made: Vec<_> =
        asked.iter().filter(|one| one.is_post() && one.path.contains("agent-identities/")).collect();
    assert_eq!(made.len(), 2, "the identity and its service, once: {made:#?}");
    assert_eq!(made[0].body["offering"], OFFERING, "{made:#?}");
}
