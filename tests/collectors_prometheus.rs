//! A real Prometheus server, a real exporter, the real binary and the sandbox: what was scraped is what is billed, to the
//! last digit, through outages, restarts and late starts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

mod agent;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use agent::{A, OFFERING, Setting, World, skip, until};
use jiff::Timestamp;
use serde_json::Value;

/// A server of its own for one test, with an exporter that it scrapes each second.
struct Prometheus {
    server: Child,
    exporter: Child,
    address: String,
    exporter_address: String,
    folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.exporter] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Prometheus {
    /// `None` where Debian's packages prometheus and prometheus-node-exporter are not installed.
    fn start(test: &str, history: &str) -> Option<Prometheus> {
        Prometheus::start_with(test, history, &[])
    }

    /// `more`: further arguments of the server's.
    fn start_with(test: &str, history: &str, more: &[&str]) -> Option<Prometheus> {
        for program in ["prometheus", "promtool", "prometheus-node-exporter"] {
            if Command::new(program).arg("--version").output().is_err() {
                skip(test, &format!("{program} is missing (Debian: prometheus, prometheus-node-exporter)"));
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(path("textfile")).unwrap();
        let (address, exporter_address) = (free_address(), free_address());
        let scrape = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n- job_name: test\n  static_configs: \
             [{{ targets: ['{exporter_address}'] }}]\n"
        );
        std::fs::write(path("prometheus.yml"), scrape).unwrap();
        if !history.is_empty() {
            std::fs::write(path("history"), history).unwrap();
            let made = Command::new("promtool")
                .args(["tsdb", "create-blocks-from", "openmetrics", &path("history"), &path("data")])
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        let quiet = |program: &str| {
            let mut command = Command::new(program);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let exporter = quiet("prometheus-node-exporter")
            .args(["--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory"])
            .arg(path("textfile"))
            .arg(format!("--web.listen-address={exporter_address}"))
            .spawn()
            .unwrap();
        let server = quiet("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={address}"))
            // History of a past month is not thrown away; a series that is not told to have gone holds for 30 s.
            .args(["--storage.tsdb.retention.time=50y", "--query.lookback-delta=30s"])
            .args(more)
            .spawn()
            .unwrap();
        let started = Prometheus { server, exporter, address, exporter_address, folder };
        until("prometheus is ready", || get(&started.address, "/-/ready").starts_with("HTTP/1.0 200"));
        until("the exporter is ready", || get(&started.exporter_address, "/").starts_with("HTTP/1.0 200"));
        Some(started)
    }

    /// What the exporter shows from now on.
    fn expose(&self, metrics: &str) {
        let textfile = self.folder.path().join("textfile");
        std::fs::write(textfile.join("new"), metrics).unwrap();
        std::fs::rename(textfile.join("new"), textfile.join("test.prom")).unwrap();
    }

    /// The result of an instant query.
    fn query(&self, query: &str, time: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let time = if time.is_empty() { String::new() } else { format!("&time={time}") };
        let answer = get(&self.address, &format!("/api/v1/query?query={encoded}{time}"));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let answer: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    }

    /// The value of the one series of an instant query.
    fn value(&self, query: &str, time: &str) -> Option<String> {
        Some(self.query(query, time).first()?["value"][1].as_str()?.to_owned())
    }

    /// Until the server has scraped this value.
    #[track_caller]
    fn until_scraped(&self, query: &str, value: &str) {
        until(&format!("{query} is {value}"), || self.value(query, "").as_deref() == Some(value));
    }
}

/// HTTP/1.0, so that the answer comes in one piece. Empty if there is none.
fn get(address: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let mut answer = String::new();
    let _ = write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Configures one collector that asks this server.
fn configure(world: &World, prometheus: &Prometheus, queries: &str, rest: &str) {
    let collector = format!(
        "collectors:\n  source:\n    plugin: prometheus\n    schedule: every 5m\n    url: http://{}\n    queries:\n\
         {queries}{rest}",
        prometheus.address
    );
    world.write("agent.yaml", &(world.head("") + &collector));
}

const CPU: &str = "      cpu_seconds: { query: 'cpu_seconds_total{project=\"project-a\"}', kind: counter }\n";
const CPU_SECONDS_OF_A: &str = "    meters: { cpu_hours: { reading: cpu_seconds } }\n    resource: ";

/// Sums up rises, and whole values after a fall: what a person would do with paper and the raw samples.
fn increase_by_hand(samples: &[i64]) -> i64 {
    samples.windows(2).map(|pair| if pair[1] < pair[0] { pair[1] } else { pair[1] - pair[0] }).sum()
}

fn exact(world: &World) -> String {
    let status = world.agent(&["explain", A, "cpu_hours", "--json"]).exits(0).json();
    status["amount"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned()
}

/// A counter that was scraped each minute, 17 seconds past: 60 a minute from 3600 on at 00:00:17 of 1 November, and
/// from October on before. It restarts before 01:32:17 and goes on from 10.
fn history() -> String {
    let start: Timestamp = "2026-10-31T23:00:17Z".parse().unwrap();
    let mut lines = "# TYPE cpu_seconds counter\n".to_owned();
    for minute in 0..180 {
        let value = if minute < 152 { 60 * minute } else { 10 + 60 * (minute - 152) };
        let at = start.as_second() + 60 * minute;
        lines += &format!("cpu_seconds_total{{project=\"project-a\",user=\"alice\"}} {value} {at}\n");
    }
    // Nine days later, the same process.
    let later: Timestamp = "2026-11-10T10:00:17Z".parse().unwrap();
    for minute in 0..60 {
        let (value, at) = (5000 + 7 * minute, later.as_second() + 60 * minute);
        lines += &format!("cpu_seconds_total{{project=\"project-a\",user=\"alice\"}} {value} {at}\n");
    }
    lines += "# TYPE memory_bytes gauge\n";
    for minute in 0..=10 {
        let at = later.as_second() - 17 + 60 * minute;
        lines += &format!("memory_bytes{{project=\"project-a\",pod=\"p1\"}} 2147483648 {at}\n");
    }
    lines + "# EOF\n"
}

/// By hand: 3600 at 00:00:17 to 9060 at 01:31:17 is 5460; 10 after the restart, to 1630 at 01:59:17 is 1630 in all; to
/// 5000 nine days later 3370 more, and 59 x 7 = 413 in its last hour: 10873. October's last hour is not asked for.
const NOVEMBER: &str = "10873";

#[test]
fn a_late_start_reads_from_the_start_of_the_month_and_not_before() {
    let Some(prometheus) = Prometheus::start("a_late_start", &history()) else { return };
    let world = World::new(agent::CURRENT);
    configure(&world, &prometheus, CPU, &format!("{CPU_SECONDS_OF_A}{A}\n    user: \"{{user}}\"\n"));
    world.flush().exits(0);
    assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {NOVEMBER}.00")]);
    assert_eq!(world.shares(A), [format!("alice cpu_hours 2026-11 {NOVEMBER}.00")]);
    assert_eq!(exact(&world), NOVEMBER);
    // Read again, it is the same, and the ledger agrees with itself.
    world.agent(&["collect"]).exits(0).says("0 were new, 0 were corrected");
}

/// The month's 178 samples are more than this server loads at once: it is asked for less at a time.
#[test]
fn a_server_that_loads_few_samples_at_once_is_read_by_halves() {
    let Some(prometheus) =
        Prometheus::start_with("few_samples_at_once", &history(), &["--query.max-samples=70"])
    else {
        return;
    };
    let refused =
        get(&prometheus.address, "/api/v1/query?query=cpu_seconds_total%5B2h%5D&time=2026-11-01T02:00:00Z");
    assert!(refused.contains("too many samples"), "{refused}");
    let world = World::new(agent::CURRENT);
    configure(&world, &prometheus, CPU, &format!("{CPU_SECONDS_OF_A}{A}\n    user: \"{{user}}\"\n"));
    world.flush().exits(0);
    assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {NOVEMBER}.00")]);
    assert_eq!(exact(&world), NOVEMBER);
}

#[test]
fn what_was_scraped_while_the_agent_was_away_is_filled_in() {
    let Some(prometheus) = Prometheus::start("an_outage_is_filled_in", &history()) else { return };
    let world = World::of(Setting { now: "2026-11-01T01:00:00Z", ..Setting::default() });
    configure(&world, &prometheus, CPU, &format!("{CPU_SECONDS_OF_A}{A}\n"));
    world.agent(&["collect"]).exits(0);
    // 3600 at 00:00:17 to 7140 at 00:59:17.
    assert_eq!(exact(&world), "3540");
    // The counter restarts while the agent is away, and rises beyond where it was seen last.
    world.now("2026-11-10T12:00:00Z");
    world.flush().exits(0);
    assert_eq!(exact(&world), NOVEMBER);
    assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {NOVEMBER}.00")]);
    world.agent(&["recount"]).exits(0);
    // Many short runs make the same amount as one long one.
    let other = World::of(Setting { now: "2026-11-01T00:00:00Z", ..Setting::default() });
    configure(&other, &prometheus, CPU, &format!("{CPU_SECONDS_OF_A}{A}\n"));
    for now in [
        "01T00:03:00",
        "01T00:30:10",
        "01T01:32:16",
        "01T01:32:18",
        "01T04:00:00",
        "10T10:30:17",
        "10T12:00:00",
    ] {
        other.now(&format!("2026-11-{now}Z"));
        other.agent(&["collect"]).exits(0);
    }
    assert_eq!(exact(&other), NOVEMBER);
}

#[test]
fn a_restart_is_metered_exactly_where_increase_only_estimates() {
    let Some(prometheus) = Prometheus::start("increase_only_estimates", &history()) else { return };
    let world = World::of(Setting { now: "2026-11-01T02:00:00Z", ..Setting::default() });
    configure(&world, &prometheus, CPU, &format!("{CPU_SECONDS_OF_A}{A}\n"));
    world.agent(&["collect"]).exits(0);
    let raw: Vec<i64> = prometheus.query("cpu_seconds_total[2h]", "1793498400")[0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample[1].as_str().unwrap().parse().unwrap())
        .collect();
    assert_eq!((raw.len(), increase_by_hand(&raw)), (120, 7090));
    assert_eq!(exact(&world), "7090");
    let estimate: f64 =
        prometheus.value("increase(cpu_seconds_total[2h])", "1793498400").unwrap().parse().unwrap();
    eprintln!("metered 7090, increase() {estimate}");
    assert!((estimate - 7090.0).abs() > 50.0, "{estimate}");
}

#[test]
fn a_gauge_counts_for_as_long_as_it_was_there() {
    let Some(prometheus) = Prometheus::start("a_gauge", &history()) else { return };
    let world = World::new(agent::CURRENT);
    let memory = "      memory: { query: 'sum by (pod, project) (memory_bytes)', kind: gauge, step: 1m }\n";
    let rest = format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters:\n      ram_gb_hours: \
         {{ reading: memory, aggregate: integral, factor: 1/1073741824 }}\n"
    );
    configure(&world, &prometheus, memory, &rest);
    world.flush().exits(0);
    // 2 GiB at 10:00 and each minute until 10:10, gone at 10:11; the agent looked at 12:00.
    assert_eq!(world.rows(A), ["ram_gb_hours 2026-11 0.37"]);
    let explained = world.agent(&["explain", A, "ram_gb_hours", "--json"]).exits(0).json();
    assert_eq!(explained["amount"], "11/30");
}

/// Levels an hour apart are no gaps, though the agent looks each five minutes.
#[test]
fn a_gauge_may_be_asked_for_less_often_than_the_collector_runs() {
    let Some(prometheus) = Prometheus::start("a_gauge_an_hour", &history()) else { return };
    let world = World::new(agent::CURRENT);
    let level = "      level: { query: 'last_over_time(cpu_seconds_total[2m])', kind: gauge, step: 1h }\n";
    let rest = format!(
        "    resource: {A}\n    meters: {{ cpu_hours: {{ reading: level, aggregate: integral }} }}\n"
    );
    configure(&world, &prometheus, level, &rest);
    world.agent(&["collect"]).exits(0);
    // An hour each: 3540 at midnight, 7140, 1630, gone at three; nine days later 5413, gone an hour later.
    assert_eq!(exact(&world), "17723");
}

/// Scraped each second: the agent looks before and after, and not in between.
#[test]
fn a_live_counter_is_metered_from_what_was_scraped() {
    let Some(prometheus) = Prometheus::start("a_live_counter", "") else { return };
    let show = |value: i64| {
        prometheus.expose(&format!(
            "# TYPE jobs_total counter\njobs_total{{project=\"project-a\"}} {value}\n# TYPE level gauge\nlevel 0.1\n"
        ));
        prometheus.until_scraped("jobs_total", &value.to_string());
    };
    let clock = waldur_usage_agent::config::clock::process_clock();
    let world = World::of(Setting { now: &clock.now().to_string(), ..Setting::default() });
    let collectors = format!(
        "collectors:\n  source:\n    plugin: prometheus\n    schedule: every 5m\n    since: 2026-01-01T00:00:00Z\n    url: http://{}\n    \
         queries: {{ jobs: {{ query: jobs_total, kind: counter }} }}\n    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ cpu_hours: {{ reading: jobs }} }}\n  \
         page:\n    plugin: openmetrics\n    schedule: every 5m\n    url: http://{}/metrics\n    metrics: [jobs_total, level]\n    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    meters: {{ gpu_hours: {{ reading: jobs_total }} }}\n",
        prometheus.address, prometheus.exporter_address
    );
    world.write("agent.yaml", &(world.head("") + &collectors));
    show(100);
    world.now(&clock.now().to_string());
    world.agent(&["collect"]).exits(0);
    for value in [160, 220, 5, 45] {
        show(value);
    }
    world.now(&clock.now().to_string());
    world.flush().exits(0);
    let raw: Vec<i64> = prometheus.query("jobs_total[10m]", "")[0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample[1].as_str().unwrap().parse().unwrap())
        .collect();
    // 60 + 60, and 5 + 40 after the restart.
    assert_eq!(increase_by_hand(&raw), 165);
    let month = &world.rows(A)[0]["cpu_hours ".len()..]["2026-11".len()..];
    assert_eq!(month, " 165.00");
    // Whoever looks only at the moment sees 100, then 45: a restart, and 45 of it.
    assert!(world.rows(A)[1].ends_with(" 45.00"), "{:?}", world.rows(A));
    // The page itself, as our parser and as Prometheus' own read it.
    let read = world.agent(&["collect", "page", "--json"]).exits(0).json();
    let values: Vec<String> = read["collectors"][0]["readings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reading| {
            format!("{} {}", reading["name"].as_str().unwrap(), reading["value"].as_str().unwrap())
        })
        .collect();
    for name in ["jobs_total", "level"] {
        let scraped = prometheus.value(name, "").unwrap();
        assert!(values.contains(&format!("{name} {scraped}")), "{name} {scraped}: {values:?}");
    }
}

/// Refused by the server, in its own words; the other query is answered, and nothing of it is lost.
#[test]
fn a_bad_query_is_told_in_the_servers_words_and_stops_only_itself() {
    let Some(prometheus) = Prometheus::start("a_bad_query", &history()) else { return };
    let world = World::new(agent::CURRENT);
    let bad = "      broken: { query: 'sum by (', kind: gauge }\n      \
               many: { query: 'vector(1) * on (x) (label_replace(vector(1), \"a\", \"b\", \"\", \"\") or vector(2))', kind: gauge, step: 1h }\n      \
               nobody: { query: no_such_metric, kind: counter }\n";
    configure(&world, &prometheus, &format!("{bad}{CPU}"), &format!("{CPU_SECONDS_OF_A}{A}\n"));
    // No meter wants them: it is told, and no failure of what is billed.
    let said = world.agent(&["collect"]).exits(0);
    let said = said
        .says("query `broken`: GET http://")
        .says("/api/v1/query_range: 400 Bad Request: error: ")
        .says("parse error: unclosed left parenthesis; errorType: bad_data")
        .says("query `many`: GET http://")
        .says("422 Unprocessable Entity: error: ")
        .says("many-to-many matching not allowed")
        .says("query `nobody` has no result between 2026-11-01T00:00:00Z and 2026-11-10T12:00:00Z");
    assert_eq!(exact(&world), NOVEMBER, "{said:?}");
    world.agent(&["check"]).says("query `broken`: ");
}
