//! docs/metrics.md is a contract: what the program serves is what stands there, name by name, with type and labels; and
//! alert rules and dashboard speak of nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use agent::table::*;
use agent::*;

const PREFIX: &str = "waldur_usage_agent_";
/// Listed, and there only where there is something to tell.
const SOMETIMES: [&str; 8] = [
    "amount",
    "amount_held",
    "stranded",
    "collector_path_hangs",
    "host_last_look_timestamp_seconds",
    "host_away",
    "host_failing_collectors",
    "host_clock_skew_seconds",
];

/// By name: the type and the labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/metrics.md")).unwrap()
}

/// What is documented.
fn documented() -> Metrics {
    listed(&page())
}

/// Rows of the tables whose second column is a type.
fn listed(page: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, ..] = cells.as_slice() else { continue };
        if !["gauge", "counter", "histogram"].contains(kind) {
            continue;
        }
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let twice = metrics.insert(name.trim_matches('`').to_owned(), ((*kind).to_owned(), labels));
        assert!(twice.is_none(), "{name} stands twice in docs/metrics.md");
    }
    metrics
}

/// What a page of metrics has.
fn served(page: &str) -> Metrics {
    let mut kinds = BTreeMap::new();
    let mut metrics = Metrics::new();
    for line in page.lines() {
        if let Some(of) = line.strip_prefix("# TYPE ") {
            let (name, kind) = of.split_once(' ').unwrap();
            // OpenMetrics types a counter without the ending that its samples have.
            let ending = if kind == "counter" { "_total" } else { "" };
            kinds.insert(format!("{name}{ending}"), kind.to_owned());
        } else if !line.starts_with('#') && !line.is_empty() {
            let (sample, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = match sample.split_once('{') {
                Some((name, labels)) => (name, labels.trim_end_matches('}')),
                None => (sample, ""),
            };
            let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            let kind = kinds.get(name).unwrap_or_else(|| panic!("{name} has no type")).clone();
            let name = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{name}")).to_owned();
            metrics.entry(name).or_insert((kind, BTreeSet::new())).1.extend(labels);
        }
    }
    metrics
}

/// A daemon that has reported once, and where it serves.
fn daemon(world: &World) -> (Daemon, String) {
    daemon_with(world, "")
}

/// The same with more in its file.
fn daemon_with(world: &World, more: &str) -> (Daemon, String) {
    world.configure(&cpu_hours_by_user());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let rest = format!("listen: 127.0.0.1:0\nsubmit: {{ schedule: every 10s }}\n{more}");
    world.write("agent.yaml", &format!("{text}{rest}"));
    let mut lines = alice_and_bob();
    lines.push(serde_json::json!({ "name": "cpu_seconds", "kind": "counter", "value": "much" }));
    world.readings(&lines);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Health and metrics at http://");
    let log = daemon.log();
    let address =
        log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    world.in_time("the report", || {
        get(&address, "/metrics").1.contains(&format!("{PREFIX}amounts_reported_total 3\n"))
    });
    (daemon, address)
}

#[test]
fn what_is_served_is_what_is_documented() {
    let world = World::new(CURRENT);
    let (_daemon, address) = daemon(&world);
    let (served, mut documented) = (served(&get(&address, "/metrics").1), documented());
    documented.retain(|name, _| !SOMETIMES.contains(&name.as_str()) || served.contains_key(name));
    assert_eq!(served, documented);
}

/// Everybody on a login node can read the page.
#[test]
fn no_resource_and_no_amount_of_one_is_on_the_page_unless_asked_for() {
    let world = World::new(CURRENT);
    let (daemon, address) = daemon(&world);
    let page = get(&address, "/metrics").1;
    for word in ["Project A", "project-a", A, "alice", "cpu_hours", "amount{", "amount_held"] {
        assert!(!page.contains(word), "{word}\n{page}");
    }
    drop(daemon);
    let world = World::new(CURRENT);
    let (daemon, address) = daemon_with(&world, "metrics: { amounts: true }\n");
    let page = get(&address, "/metrics").1;
    // 90 s of alice and 20 s of bob.
    let labels = format!("{{resource=\"{A}\",name=\"Project A\",component=\"cpu_hours\"}}");
    for metric in ["amount", "amount_held"] {
        assert!(page.contains(&format!("{PREFIX}{metric}{labels} 0.03\n")), "{metric}{labels}\n{page}");
    }
    assert!(!page.contains("alice"), "no user is on it\n{page}");
    let (served, mut documented) = (served(&page), documented());
    documented.retain(|name, _| !SOMETIMES.contains(&name.as_str()) || served.contains_key(name));
    assert_eq!(served, documented);
    drop(daemon);
}

#[test]
fn the_numbers_are_those_of_what_happened() {
    let world = World::new(CURRENT);
    let (mut daemon, address) = daemon(&world);
    let page = get(&address, "/metrics").1;
    for line in [
        "collector_runs_total{collector=\"source\"} 1",
        "collector_run_failures_total{collector=\"source\"} 0",
        "collector_runs_missed_total{collector=\"source\"} 0",
        "collector_readings_total{collector=\"source\"} 6",
        "collector_quarantined_total{collector=\"source\"} 1",
        "config_last_reload_successful 1",
        "waldur_requests_total{outcome=\"token\"} 0",
        "start_timestamp_seconds 1794312000",
    ] {
        assert!(page.contains(&format!("{PREFIX}{line}\n")), "{line}\n{page}");
    }
    let number = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{PREFIX}{name} ")));
        line.unwrap_or_else(|| panic!("{name}\n{page}")).parse().unwrap()
    };
    assert!(number("waldur_requests_total{outcome=\"ok\"}") >= 5.0);
    assert!(number("waldur_request_seconds_total") > 0.0);
    assert!(number("waldur_clock_skew_seconds").abs() <= 3.0, "one clock moves both");
    // From noon of the 10th, and some seconds, to the end of the 30th: 20 days and a half.
    let remaining = number("period_remaining_seconds");
    assert!((1_771_000.0..=1_771_200.0).contains(&remaining), "{remaining}");
    assert!(number("ledger_size_bytes") >= 4096.0 && number("ledger_free_bytes") > 0.0);
    // A reload that is refused is told where people and machines look.
    world.write("agent.yaml", "waldur: {}\n");
    daemon.signal("HUP");
    daemon.until_it_says("The new configuration is not used");
    until("the metric", || {
        get(&address, "/metrics").1.contains(&format!("{PREFIX}config_last_reload_successful 0\n"))
    });
    daemon.kill();
}

#[test]
fn the_names_that_kubernetes_asks_for_answer_alike() {
    let world = World::new(CURRENT);
    let (_daemon, address) = daemon(&world);
    assert_eq!(get(&address, "/healthz"), get(&address, "/health"));
    assert_eq!(get(&address, "/readyz"), get(&address, "/ready"));
    assert_eq!(get(&address, "/readyz").0, 200);
}

#[test]
fn alert_rules_and_dashboard_speak_of_documented_metrics_alone() {
    let documented = documented();
    let mut used = BTreeSet::new();
    for file in ["alerts.yaml", "alerts_test.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(root().join("monitoring").join(file)).unwrap();
        for (at, _) in text.match_indices(PREFIX) {
            let rest = &text[at + PREFIX.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = &rest[..end];
            assert!(documented.contains_key(name), "{file}: {name} is not in docs/metrics.md");
            used.insert(name.to_owned());
        }
    }
    assert!(used.len() >= 15, "{used:?}");
    // And what is to be done about each alert stands there, too.
    let page = page();
    let rules = std::fs::read_to_string(root().join("monitoring/alerts.yaml")).unwrap();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("| `{alert}` |")), "{alert} is not in docs/metrics.md");
    }
}

/// What Waldur does not hold has an age: since the last number of it that was accepted, or since the first reading.
#[test]
fn usage_that_is_not_reported_has_an_age_and_backend_ids_a_collector() {
    let world = World::new(CURRENT);
    world.configure(&format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters:\n      \
         cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n"
    ));
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{text}listen: 127.0.0.1:0\nsubmit: {{ schedule: every 10s }}\n"));
    let hours = |id, project| {
        let (start, end) = ("2026-11-10T09:00:00Z", "2026-11-10T10:00:00Z");
        job("cpu_seconds", id, start, end, "3600", &[("project", project)])
    };
    world.fault(serde_json::json!({ "match": { "path": "/set_usage/" }, "action": { "status": 503 } }));
    world.readings(&[hours("1", "project-a"), hours("2", "newcomer"), hours("3", "newcomer-2")]);
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Health and metrics at http://");
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let number = |name: &str| -> Option<i64> {
        let page = get(address, "/metrics").1;
        page.lines().find_map(|line| line.strip_prefix(&format!("{PREFIX}{name} "))?.parse().ok())
    };
    let id = "collector_unmatched_backend_ids{collector=\"source\"}";
    world.in_time("the look-up", || number(id) == Some(2));
    assert_eq!(number("unmatched_backend_ids"), Some(2));
    // Never reported, and the reading is of ten o'clock: two hours, and the seconds since noon.
    world.in_time("its age", || number("oldest_unreported_seconds").is_some_and(|age| age >= 7200));
    assert!(number("oldest_unreported_seconds").unwrap() < 7320);
    world.no_faults();
    world.in_time("the report", || number("oldest_unreported_seconds") == Some(0));
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    // Of what comes later the age is that of the last report, at a minute past noon at most, and not four hours.
    world.fault(serde_json::json!({ "match": { "path": "/set_usage/" }, "action": { "status": 503 } }));
    world.readings(&[hours("1", "project-a"), hours("4", "project-a")]);
    let mut seconds = 0;
    until("its age", || {
        seconds += 2;
        world.now(&after("2026-11-10T13:00:00Z", seconds));
        number("oldest_unreported_seconds").is_some_and(|age| age > 0)
    });
    let age = number("oldest_unreported_seconds").unwrap();
    assert!((3540..=3600 + seconds).contains(&age), "{age} after {seconds}");
}

/// A daemon that looks every ten seconds at what a script prints: the numbers are those of what it saw.
#[test]
fn what_a_collector_did_is_in_numbers() {
    let mut at = begin(&cpu()).reported();
    // Which version: as it says itself.
    let version = at.world.agent(&["--version"]).exits(0).out;
    let (name, commit) = version.trim().split_once(" (").unwrap();
    let commit = commit.trim_end_matches(')').trim_start_matches("commit ");
    assert_eq!(name, "waldur-usage-agent 0.1.0");
    assert_eq!(at.number(&format!("build_info{{version=\"0.1.0\",commit=\"{commit}\"}}")), 1);
    // It began at noon of the 10th, by both clocks; so long after that as the clock has gone on it last looked.
    let noon = 1_794_312_000;
    let of = |metric: &str| at.number(&format!("{metric}{{collector=\"source\"}}"));
    let gone_on = || u64::try_from(at.world.seconds.get()).unwrap();
    assert_eq!(at.number("start_timestamp_seconds"), noon);
    assert_eq!(at.number("config_last_reload_timestamp_seconds"), noon);
    let success = of("collector_last_success_timestamp_seconds");
    assert!((noon..=noon + gone_on()).contains(&success), "{success}");
    assert_eq!(of("collector_run_failures_total"), 0);
    assert_eq!([of("collector_failures_since_success"), of("collector_retry_timestamp_seconds")], [0, 0]);
    // The same reading is seen again and again, and recorded once.
    at.world.in_time("three runs", || of("collector_runs_total") >= 3);
    assert_eq!(of("collector_readings_total"), 1);
    // How long the last run took, by the time that passes and not by what the clock says.
    let took = || {
        let page = at.get("/metrics").1;
        let of = format!("{PREFIX}collector_run_duration_seconds{{collector=\"source\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&of)).unwrap().parse::<f64>().unwrap()
    };
    assert!(took() > 0.0, "{}", took());
    at.world.write("script", &format!("sleep 1.5; cat {}", at.world.path("readings").display()));
    at.world.in_time("a long run", || took() >= 1.5);
    assert!(took() < 60.0, "{}", took());
    // It fails, and is tried again later than now; when it last succeeded stays.
    at.world.write("script", "exit 3");
    at.world.in_time("a failure", || of("collector_failures_since_success") >= 1);
    let success = of("collector_last_success_timestamp_seconds");
    at.world.in_time("another one", || of("collector_failures_since_success") >= 2);
    assert_eq!(of("collector_last_success_timestamp_seconds"), success);
    until("both counts", || of("collector_run_failures_total") == of("collector_failures_since_success"));
    assert!(of("collector_retry_timestamp_seconds") > success);
    assert!(of("collector_runs_total") >= 5);
    let failures = of("collector_run_failures_total");
    // It works again; how often it has failed is not forgotten.
    at.world.write("script", &format!("cat {}", at.world.path("readings").display()));
    at.world.in_time("its recovery", || of("collector_failures_since_success") == 0);
    assert!(of("collector_last_success_timestamp_seconds") > success);
    assert_eq!(of("collector_retry_timestamp_seconds"), 0);
    assert!(of("collector_run_failures_total") >= failures);
    // A reload is of when it was done; one that is refused leaves what was there.
    at.world.in_time("a quiet moment", || at.number("pending_statements") == 0);
    at.world.now("2026-11-10T16:00:00Z");
    at.daemon.signal("HUP");
    at.daemon.until_it_says("Reloaded: 1 collector.");
    // Any free port is another one then.
    let log = at.daemon.log();
    at.address =
        log.rsplit("Health and metrics at http://").next().unwrap().split('/').next().unwrap().to_owned();
    until("the reload", || at.number("config_last_reload_timestamp_seconds") == noon + 4 * 3600);
    assert_eq!(at.number("config_last_reload_successful"), 1);
    assert_eq!(at.number("start_timestamp_seconds"), noon);
}

/// A run that is recorded is in the queue until it is counted.
#[test]
fn the_queue_has_a_length() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{text}listen: 127.0.0.1:0\nsubmit: {{ schedule: \"0 3 * * *\" }}\n"));
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: ");
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let queue = || {
        let page = get(address, "/metrics").1;
        page.lines()
            .find_map(|line| line.strip_prefix(&format!("{PREFIX}queue_runs "))?.parse::<u64>().ok())
            .unwrap()
    };
    until("nothing in it", || queue() == 0);
    // Two commands that are killed before they count what they recorded.
    world.readings(&[job("cpu_seconds", "1", "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", "3600", &[])]);
    let killed = || {
        let mut command = world.command(&["collect"]);
        let done =
            command.env("WALDUR_USAGE_AGENT_FAIL_POINT", "before a count is committed").output().unwrap();
        Done::from(done).exits(137);
    };
    killed();
    assert_eq!(queue(), 1);
    killed();
    assert_eq!(queue(), 2);
    assert_eq!(world.rows(A), [""; 0]);
    daemon.signal("USR1");
    until("it is counted", || queue() == 0);
    until("it is reported", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
}
