//! What servers of metrics do wrong, and what the operator then reads: `prometheus` and `openmetrics` against a server
//! that answers as it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use waldur_usage_agent::collectors::{
    Batch, Bearing, Collector, CollectorError, Request, SeriesFilter, openmetrics, prometheus, texts,
};
use waldur_usage_agent::config::section::Section;

/// Answers each request with what the function makes of its first line, and remembers the requests.
struct Server {
    address: String,
    heard: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// One that always says the same, whatever bytes it is made of.
    fn of_bytes(bytes: Vec<u8>) -> Server {
        Server::answering(move |_| bytes.clone())
    }

    fn new(answer: impl Fn(&str) -> String + Send + 'static) -> Server {
        Server::answering(move |line| answer(line).into_bytes())
    }

    fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let seen = heard.clone();
        let serve = move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
                let mut request = Vec::new();
                let mut chunk = [0; 4096];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut chunk) {
                        Ok(read) if read > 0 => request.extend_from_slice(&chunk[..read]),
                        _ => break,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let line = request.lines().next().unwrap_or_default().to_owned();
                if line == "GET /end HTTP/1.0" {
                    return;
                }
                seen.lock().unwrap().push(request);
                let answer = answer(&line);
                // Silence is an answer, too: nothing comes, and the connection stays open until the other side goes.
                if answer.is_empty() {
                    let _ = stream.read(&mut chunk);
                    continue;
                }
                let _ = stream.write_all(&answer);
                let _ = stream.shutdown(Shutdown::Write);
            }
        };
        Server { address, heard, thread: Some(std::thread::spawn(serve)) }
    }

    /// The first lines of the requests so far.
    fn lines(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|request| request.lines().next().unwrap().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut stream) = std::net::TcpStream::connect(&self.address) {
            let _ = stream.write_all(b"GET /end HTTP/1.0\r\n\r\n");
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn json(body: &str) -> String {
    answer("200 OK", "application/json", body)
}

fn matrix(series: &str) -> String {
    json(&format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{series}]}}}}"#))
}

/// A parameter of a request's line, decoded.
fn parameter(line: &str, name: &str) -> Option<String> {
    let query = line.split(' ').nth(1)?.split_once('?')?.1;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
    let mut decoded = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&hex, 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

fn build(plugin: &str, keys: &str) -> Box<dyn Collector> {
    let (mut section, problems) = Section::parse(keys);
    let plugin = if plugin == "prometheus" { prometheus::PLUGIN } else { openmetrics::PLUGIN };
    let collector = (plugin.build)(&mut section);
    section.finish();
    assert_eq!(problems.list(), vec![], "{keys}");
    collector.unwrap()
}

const NOW: &str = "2026-11-01T02:00:00Z";

fn request() -> Request {
    Request {
        now: NOW.parse().unwrap(),
        since: "2026-11-01T00:00:00Z".parse().unwrap(),
        checkpoint: None,
        withhold: Vec::new(),
    }
}

async fn run(server: &Server, plugin: &str, keys: &str) -> Result<Batch, CollectorError> {
    let collector = build(plugin, &format!("url: http://{}\n{keys}", server.address));
    collector.collect(request()).await
}

/// What the operator reads, with HOST for the server's address.
async fn error(server: &Server, plugin: &str, keys: &str) -> String {
    run(server, plugin, keys).await.unwrap_err().to_string().replace(&server.address, "HOST")
}

fn values(batch: &Batch) -> Vec<String> {
    let text = |reading: &waldur_usage_agent::metering::reading::Reading| {
        format!("{} {} {}", reading.name, reading.value, reading.span.end())
    };
    batch.readings.iter().map(text).collect()
}

const CPU: &str = "queries: { cpu: { query: cpu_seconds_total, kind: counter } }";
const MEMORY: &str = "queries: { memory: { query: memory_bytes, kind: gauge, step: 30m } }";

#[tokio::test]
async fn prometheus_refusals_and_broken_answers_are_told_for_what_they_are() {
    let page = "<html><head><title>Please log in</title></head></html>";
    for (answer, words) in [
        (
            answer("401 Unauthorized", "text/plain", "Unauthorized\n"),
            "GET http://HOST/api/v1/query: 401 Unauthorized: Unauthorized; it wants a login: add `auth`",
        ),
        (
            answer("404 Not Found", "text/plain", "404 page not found"),
            "GET http://HOST/api/v1/query: 404 Not Found: 404 page not found; there is nothing to ask at this address: correct it",
        ),
        (
            answer("200 OK", "text/html", page),
            "query `cpu`: the answer is not that of a Prometheus server (expected value at line 1 column 1)",
        ),
        (
            json(r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"val"#),
            "query `cpu`: the answer is cut off (EOF while parsing a string at line 1 column 77)",
        ),
        (
            json(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
            "query `cpu`: the result is a vector, not a matrix: only series of numbers can be billed",
        ),
        (
            answer(
                "400 Bad Request",
                "application/json",
                r#"{"status":"error","errorType":"bad_data","error":"no"}"#,
            ),
            "query `cpu`: GET http://HOST/api/v1/query: 400 Bad Request: error: no; errorType: bad_data; status: error",
        ),
        (
            String::new(),
            "query `cpu`: GET http://HOST/api/v1/query: no whole answer within 1 s; nothing of it is used. Ask for less at \
             a time, or raise `timeout`",
        ),
    ] {
        // As short a history as there can be, so that none is asked for twice.
        let keys = format!("{CPU}\ntimeout: 1s\nhistory: 1m");
        assert_eq!(error(&Server::new(move |_| answer.clone()), "prometheus", &keys).await, words);
    }
    let gone = Server::new(|_| String::new());
    let collector = build("prometheus", &format!("url: http://{}\n{CPU}", gone.address));
    drop(gone);
    let said = collector.collect(request()).await.unwrap_err().to_string();
    assert!(said.contains("can't be reached: "), "{said}");
}

#[tokio::test]
async fn nothing_is_a_valid_answer_and_is_noted() {
    let server = Server::new(|_| matrix(""));
    let batch = run(&server, "prometheus", CPU).await.unwrap();
    assert_eq!((batch.readings.len(), batch.problems.len(), batch.quarantined.len()), (0, 0, 0));
    assert_eq!(
        batch.notes,
        ["query `cpu` has no result between 2026-11-01T00:00:00Z and 2026-11-01T02:00:00Z"]
    );
    assert!(batch.checkpoint.unwrap().contains(r#""resume":"2026-11-01T01:55:00Z""#));
}

#[tokio::test]
async fn samples_are_asked_for_with_their_own_times_and_headers_go_along() {
    // Two samples within the hour, one at its very beginning; one before it, which is not asked for.
    let server = Server::new(|line| {
        if parameter(line, "time").unwrap() != "1793494800.000" {
            return matrix("");
        }
        matrix(
            r#"{"metric":{"user":"alice"},"values":[[1793491199.9,"9"],[1793491200,"10"],[1793494000.125,"12.5"]]}"#,
        )
    });
    let keys = format!("{CPU}\nheaders: {{ X-Scope-OrgID: tenant-1 }}");
    let batch = run(&server, "prometheus", &keys).await.unwrap();
    assert_eq!(values(&batch), ["cpu 10 2026-11-01T00:00:00Z", "cpu 12.5 2026-11-01T00:46:40.125Z"]);
    let lines = server.lines();
    let asked: Vec<_> = lines
        .iter()
        .map(|line| (parameter(line, "query").unwrap(), parameter(line, "time").unwrap()))
        .collect();
    assert_eq!(
        asked,
        [
            ("cpu_seconds_total[3600001ms]".to_owned(), "1793494800.000".to_owned()),
            ("cpu_seconds_total[3600001ms]".to_owned(), "1793498400.000".to_owned()),
        ]
    );
    assert!(server.heard.lock().unwrap()[0].to_ascii_lowercase().contains("x-scope-orgid: tenant-1"));
}

#[tokio::test]
async fn a_range_tells_where_a_series_ended_and_began_again() {
    let server = Server::new(|_| {
        matrix(
            r#"{"metric":{"pod":"a"},"values":[[1793491200,"1"],[1793496600,"2"]]},
               {"metric":{"pod":"b"},"values":[[1793491200,"1"],[1793493000,"1"],[1793494800,"1"],[1793496600,"1"],[1793498400,"NaN"]]}"#,
        )
    });
    let batch = run(&server, "prometheus", MEMORY).await.unwrap();
    let line = &server.lines()[0];
    assert_eq!(
        ["query", "start", "end", "step"].map(|name| parameter(line, name).unwrap()),
        ["memory_bytes", "1793491200.000", "1793494800.000", "1800"]
    );
    let ends: Vec<_> =
        batch.ended["memory"].iter().map(|(labels, at)| format!("{} {at}", labels["pod"])).collect();
    assert!(ends.contains(&"a 2026-11-01T00:30:00Z".to_owned()), "{ends:?}");
    assert!(ends.iter().all(|end| end.starts_with("a ")), "{ends:?}");
    // What is no number is no end either.
    assert_eq!(batch.quarantined.len(), 1);
    assert_eq!(batch.quarantined[0].reason, "its value is NaN, which is no number");
    assert_eq!(batch.quarantined[0].what, r#"memory {"pod": "b"}"#);
}

#[tokio::test]
async fn a_partial_answer_counts_but_ends_nothing_and_is_a_problem() {
    let server = Server::new(|_| {
        json(
            r#"{"status":"success","warnings":["store 2 is away"],"data":{"resultType":"matrix","result":[
                {"metric":{"pod":"a"},"values":[[1793491200,"1"]]}]}}"#,
        )
    });
    let batch = run(&server, "prometheus", MEMORY).await.unwrap();
    assert_eq!(values(&batch), ["memory 1 2026-11-01T00:00:00Z"]);
    assert!(batch.ended["memory"].is_empty());
    assert_eq!(
        texts(&batch.problems),
        "query `memory`: the server says that its answer may not be all: store 2 is away"
    );
}

/// Half an hour is fine, more is too much: too many bytes, too many samples, or too long.
#[tokio::test]
async fn a_server_that_can_not_take_it_all_at_once_is_asked_for_less() {
    let refusals = [
        answer(
            "422 Unprocessable Entity",
            "application/json",
            r#"{"error":"query processing would load too many samples"}"#,
        ),
        answer(
            "503 Service Unavailable",
            "application/json",
            r#"{"status":"error","errorType":"timeout","error":"slow"}"#,
        ),
        matrix(&format!(r#"{{"metric":{{"x":"{}"}},"values":[]}}"#, "x".repeat(2000))),
    ];
    for refusal in refusals {
        let server = Server::new(move |line| {
            let time: f64 = parameter(line, "time").unwrap().parse().unwrap();
            match parameter(line, "query").unwrap().as_str() {
                "cpu_seconds_total[1800001ms]" => matrix(&format!(
                    r#"{{"metric":{{}},"values":[[{},"{}"]]}}"#,
                    time - 1.0,
                    time - 1_793_491_200.0
                )),
                _ => refusal.clone(),
            }
        });
        let batch = run(&server, "prometheus", &format!("{CPU}\nmax_answer: 1KiB")).await.unwrap();
        assert_eq!(batch.problems, vec![]);
        assert_eq!(
            values(&batch),
            [
                "cpu 1800 2026-11-01T00:29:59Z",
                "cpu 3600 2026-11-01T00:59:59Z",
                "cpu 5400 2026-11-01T01:29:59Z",
                "cpu 7200 2026-11-01T01:59:59Z"
            ]
        );
        assert_eq!(server.lines().len(), 5);
    }
}

/// More than fits into one run is read by several, each from where the one before ended.
#[tokio::test]
async fn a_long_history_is_read_by_several_runs() {
    // A thousand series, a sample a minute; ten days would be 240,000 readings.
    let server = Server::new(|line| {
        let end: f64 = parameter(line, "time").unwrap().parse().unwrap();
        let query = parameter(line, "query").unwrap();
        let range: f64 =
            query.strip_prefix("cpu_seconds_total[").unwrap().strip_suffix("ms]").unwrap().parse().unwrap();
        let start = end - range / 1000.0;
        let (first, last) = ((start / 3600.0).ceil() as i64, (end / 3600.0).floor() as i64);
        let values: Vec<_> =
            (first..=last).map(|hour| format!(r#"[{},"{}"]"#, hour * 3600, hour - 498_000)).collect();
        let series = |n: usize| format!(r#"{{"metric":{{"n":"{n}"}},"values":[{}]}}"#, values.join(","));
        matrix(&(0..1000).map(series).collect::<Vec<_>>().join(","))
    });
    let collector = build("prometheus", &format!("url: http://{}\n{CPU}", server.address));
    let mut asked = Request { now: "2026-11-11T00:30:00Z".parse().unwrap(), ..request() };
    let mut all = std::collections::BTreeSet::new();
    let mut runs = 0;
    loop {
        let mut batch = collector.collect(asked.clone()).await.unwrap();
        assert!(batch.readings.len() + batch.more.len() < 100_000, "{}", batch.more.len());
        let more: Vec<_> = batch.more.read().unwrap().collect::<Result<_, _>>().unwrap();
        for reading in batch.readings.iter().chain(&more) {
            all.insert((reading.labels["n"].clone(), reading.span.end()));
        }
        runs += 1;
        asked.checkpoint = batch.checkpoint.clone();
        match batch.notes.iter().find(|note| note.contains("the next runs go on from there")) {
            Some(_) => assert!(runs < 20),
            None => break,
        }
    }
    // Every hour of ten days, both ends included, of each series, once.
    assert_eq!(all.len(), 241 * 1000);
    assert!(runs >= 3, "{runs}");
}

/// A run reads again what may have come in late; the same samples are then kept as before, so that nothing is new but
/// what is.
#[tokio::test]
async fn what_is_read_again_is_what_was_kept_before() {
    let server = Server::new(|line| {
        let end: f64 = parameter(line, "time").unwrap().parse().unwrap();
        let query = parameter(line, "query").unwrap();
        let range: f64 =
            query.strip_prefix("cpu_seconds_total[").unwrap().strip_suffix("ms]").unwrap().parse().unwrap();
        let (first, last) = (((end - range / 1000.0) / 15.0).ceil() as i64, (end / 15.0).floor() as i64);
        let values: Vec<_> =
            (first..=last).map(|n| format!(r#"[{}.5,"{}"]"#, n * 15, n - 119_566_080)).collect();
        matrix(&format!(r#"{{"metric":{{}},"values":[{}]}}"#, values.join(",")))
    });
    let collector = build("prometheus", &format!("url: http://{}\n{CPU}", server.address));
    let mut asked = request();
    let mut known = std::collections::BTreeSet::new();
    let mut before: jiff::Timestamp = asked.since;
    for minute in [7, 12, 18, 23, 46] {
        asked.now = format!("2026-11-01T03:{minute:02}:10Z").parse().unwrap();
        let batch = collector.collect(asked.clone()).await.unwrap();
        let times: Vec<_> = batch.readings.iter().map(|reading| reading.span.end()).collect();
        let (old, new): (Vec<_>, Vec<_>) = times.into_iter().partition(|at| *at <= before);
        assert!(old.iter().all(|at| known.contains(at)), "{minute}: {old:?}");
        assert!(!new.is_empty() && (known.is_empty() || new.len() <= 12), "{minute}: {new:?}");
        known.extend(new);
        (before, asked.checkpoint) = (asked.now, batch.checkpoint);
    }
}

#[tokio::test]
async fn an_instant_query_looks_at_the_moment_of_the_run() {
    let server = Server::new(|_| {
        json(
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1793498400,"7"]}]}}"#,
        )
    });
    let keys = "queries: { level: { query: 'max(x)', kind: gauge, mode: instant, unit: GB } }";
    let batch = run(&server, "prometheus", keys).await.unwrap();
    assert_eq!(values(&batch), ["level 7 2026-11-01T02:00:00Z"]);
    assert_eq!(batch.readings[0].unit.as_deref(), Some("GB"));
    // Nothing is known of its history, so whoever is missing has ended with the run.
    assert!(!batch.ended.contains_key("level"));
    assert_eq!(parameter(&server.lines()[0], "time").unwrap(), "1793498400.000");
}

#[tokio::test]
async fn a_long_query_is_posted() {
    let server = Server::new(|_| matrix(""));
    let keys = format!("queries: {{ x: {{ query: 'x{{a=~\"{}\"}}', kind: counter }} }}", "y|".repeat(600));
    run(&server, "prometheus", &keys).await.unwrap();
    assert_eq!(server.lines()[0], "POST /api/v1/query HTTP/1.1");
}

#[tokio::test]
async fn openmetrics_refusals_and_broken_pages_are_told_for_what_they_are() {
    for (answer, words) in [
        (
            answer("401 Unauthorized", "text/plain", ""),
            "GET http://HOST/: 401 Unauthorized; it wants a login: add `auth`",
        ),
        (
            answer("200 OK", "text/html", "<title>Log in</title>"),
            "http://HOST/: the answer is text/html, not metrics; is the address that of a /metrics page?",
        ),
        (
            answer("200 OK", "text/plain", "<title>Log in</title>"),
            "http://HOST/: the answer is no page of metrics: line 1: it does not begin with the name of a metric: \
             <title>Log in</title>",
        ),
        (
            answer("200 OK", "application/openmetrics-text; version=1.0.0", "# TYPE a counter\na_total 1\n"),
            "http://HOST/: the page is cut off: its last line is not `# EOF`",
        ),
        (
            answer("200 OK", "text/plain; version=0.0.4", "# TYPE a counter\na 1"),
            "http://HOST/: the page is cut off: its last line has no end",
        ),
        (
            answer("200 OK", "text/plain", "a 1\n").replace("Content-Length: 4", "Content-Length: 40"),
            "GET http://HOST/: the answer broke off after 4 bytes (end of file before message length reached); nothing of \
             it is used",
        ),
        (
            String::new(),
            "GET http://HOST/: no whole answer within 1 s; nothing of it is used. Ask for less at a time, or raise `timeout`",
        ),
    ] {
        let server = Server::new(move |_| answer.clone());
        assert_eq!(error(&server, "openmetrics", "metrics: a\ntimeout: 1s").await, words);
    }
}

/// A sidecar needs no file: the application's page, through the real binary.
#[test]
fn a_sidecar_reads_the_application_beside_it() {
    let page = "# TYPE app_cpu_seconds_total counter\napp_cpu_seconds_total{user=\"alice\"} 1.5e3\n\
                process_start_time_seconds 1793491200\n";
    let server = Server::new(|_| answer("200 OK", "text/plain; version=0.0.4", page));
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_waldur-usage-agent"))
        .args(["collect", "--json"])
        .env_clear()
        .env("WALDUR_URL", "https://waldur.example.com")
        .env("WALDUR_RESOURCE", "5e2f1c7a-9d3b-4c60-a1b2-c3d4e5f60718")
        .env("WALDUR_METERS", "{ cpu_hours: { reading: app_cpu_seconds_total, factor: 1/3600 } }")
        .env("WALDUR_USER", "{user}")
        .env("WALDUR_METRICS_URL", format!("http://{}/metrics", server.address))
        .env("WALDUR_METRICS", "[\"app_*\"]")
        .env("WALDUR_METRICS_EPOCH", "process_start_time_seconds")
        .env("WALDUR_LEDGER", folder.path().join("ledger.db"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let collector = &answer["collectors"][0];
    assert_eq!(
        (collector["name"].as_str(), collector["outcome"].as_str()),
        (Some("application"), Some("ok"))
    );
    let reading = &collector["readings"][0];
    assert_eq!(
        (reading["value"].as_str(), reading["labels"]["user"].as_str()),
        (Some("1500"), Some("alice"))
    );
    assert_eq!((reading["kind"].as_str(), reading["unit"].as_str()), (Some("counter"), Some("s")));
}

#[tokio::test]
async fn openmetrics_asks_for_what_tells_most_and_reads_what_it_gets() {
    let page = "# TYPE a counter\na_total{u=\"x\"} 1.5e3\na_created{u=\"x\"} 1793491200\n# EOF\n";
    let server =
        Server::new(|_| answer("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", page));
    let batch = run(&server, "openmetrics", "metrics: a_total").await.unwrap();
    assert_eq!(values(&batch), ["a_total 1500 2026-11-01T02:00:00Z"]);
    assert_eq!(batch.readings[0].epoch.began, Some("2026-11-01T00:00:00Z".parse().unwrap()));
    let heard = server.heard.lock().unwrap()[0].to_ascii_lowercase();
    assert!(heard.contains("accept: application/openmetrics-text;version=1.0.0,text/plain"), "{heard}");
}

/// One page after another, each judged as the agent does it: `name value` of what counts, and why the rest does not.
async fn page(metrics: &str, page: &[u8]) -> Result<(Vec<String>, Vec<String>), String> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
        page.len()
    );
    let server = Server::of_bytes([head.as_bytes(), page].concat());
    let mut batch =
        run(&server, "openmetrics", &format!("metrics: [{metrics}]")).await.map_err(|error| error.0)?;
    let metered = metrics.split(", ").collect();
    batch.finish(NOW.parse().unwrap(), &metered).map_err(|error| error.0)?;
    let values = batch.readings.iter().map(|reading| {
        let labels: Vec<_> = reading.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{}{{{}}} {}", reading.name, labels.join(","), reading.value.normalize())
    });
    let told = batch.quarantined.iter().map(|bad| format!("{} [{}]", bad.reason, bears_on(&bad.bears_on)));
    Ok((values.collect(), told.collect()))
}

fn bears_on(bearing: &Bearing) -> String {
    let Bearing::Some(filters) = bearing else { return "all".to_owned() };
    let text = |filter: &SeriesFilter| {
        let labels: Vec<_> = filter.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{} {}", filter.name.as_deref().unwrap_or("any"), labels.join(","))
    };
    filters.iter().map(|filter| text(filter).trim().to_owned()).collect::<Vec<_>>().join("; ")
}

/// (what stands on the page beside the wanted metric of bob's, what is read, what is told and what it bears on).
#[tokio::test]
async fn each_odd_line_of_a_page_costs_only_what_it_could_be() {
    const BOB: &str = "a{u=bob} 7";
    let nothing: &[&str] = &[];
    let cases: [(&[u8], &[&str], &[&str]); 19] = [
        // Of what nobody wants, whatever it is.
        (b"{\"http.requests\",code=\"200\"} 7\n# TYPE \"http.requests\" counter\n", nothing, nothing),
        (b"b NaN\nb{x=y} 1\nb{x=\"\xff\"} 1\nb 1 2 3 4\n# TYPE b meter\n# TYPE c counter\n# TYPE c gauge\n", nothing, nothing),
        (b"# HELP b \xff\xfe\n#\n# nonsense \xff\n# EOF\n", nothing, nothing),
        // As Prometheus 3 writes it.
        (b"{\"a\",u=\"eve\"} 5\n", &["a{u=eve} 5"], nothing),
        (b"{\"a\"} 5\n", &["a{} 5"], nothing),
        (b"{ \"a\" , \"service.name\" = \"x\" , u=\"eve\",} 5\n", &["a{service.name=x,u=eve} 5"], nothing),
        (b"a{\"service.name\"=\"x\\\"y\",u=\"eve\"} 5 1793498400000\n", &["a{service.name=x\"y,u=eve} 5"], nothing),
        // Windows' ends of lines, and tabs.
        (b"a{u=\"eve\"}\t5\r\n", &["a{u=eve} 5"], nothing),
        // TYPE before each series, where it says the same.
        (b"# TYPE a gauge\na{u=\"eve\"} 5\n", &["a{u=eve} 5"], nothing),
        // A value that is none is one of a series that is known.
        (b"a{u=\"eve\"} NaN\n", nothing, &["line 3: its value is NaN, which is no number [a u=eve]"]),
        (b"a{u=\"eve\"} 5 soon\n", nothing, &["line 3: its time: `soon` is not a decimal number [a u=eve]"]),
        (b"a{u=\"eve\"}\n", nothing, &["line 3: it has no value [a u=eve]"]),
        // Labels that can't be read are those of any series of that name.
        (b"a{u=eve} 5\n", nothing, &["line 3: the value of the label u is not in quotes [a]"]),
        (b"a{u=\"\xff\"} 5\n", nothing, &["line 3: it is not UTF-8: invalid utf-8 sequence of 1 bytes from index 5 [a]"]),
        (b"{\"a\",u=eve} 5\n", nothing, &["line 3: the value of the label u is not in quotes [a]"]),
        // And what has no name may be anything.
        (b"7up 5\n", nothing, &["line 3: it does not begin with the name of a metric [all]"]),
        (b"{u=\"eve\"} 5\n", nothing, &["line 3: it does not begin with the name of a metric [all]"]),
        (b"{\"a\xff\"} 5\n", nothing, &["line 3: it is not UTF-8: invalid utf-8 sequence of 1 bytes from index 3 [all]"]),
        // Twice, in whichever order.
        (
            b"a{u=\"eve\"} 5\na{u=\"eve\"} 5000\n",
            nothing,
            &["this reading is there 2 times in one run, with the values 5 and 5000: which is meant can't be known, so none \
               counts; what are different things need labels or an id that tell them apart [a u=eve]"],
        ),
    ];
    for (lines, read, told) in cases {
        let text = [b"# TYPE a gauge\na{u=\"bob\"} 7\n".as_slice(), lines].concat();
        let said = page("a", &text).await.unwrap();
        let mut right = vec![BOB.to_owned()];
        right.extend(read.iter().map(|text| (*text).to_owned()));
        assert_eq!(
            (said.0, said.1),
            (right, told.iter().map(|text| (*text).to_owned()).collect()),
            "{lines:?}"
        );
    }
    // A byte order mark before all else.
    let marked = page("a", b"\xef\xbb\xbf# TYPE a gauge\na 7\n").await.unwrap();
    assert_eq!(marked, (vec!["a{} 7".to_owned()], vec![]));
    // A name with dots is wanted as it is.
    let dotted =
        page("http.requests", b"# TYPE \"http.requests\" gauge\n{\"http.requests\"} 7\n").await.unwrap();
    assert_eq!(dotted, (vec!["http.requests{} 7".to_owned()], vec![]));
    // A page of which nothing that is wanted can be read is no success; an idle one is.
    let said = page("a", b"# TYPE a gauge\na NaN\nb 1\n").await.unwrap_err();
    assert!(
        said.starts_with("the one line or value that it found could not be read: line 2: its value is NaN"),
        "{said}"
    );
    assert_eq!(page("a", b"# TYPE a gauge\nb 1\n").await.unwrap(), (vec![], vec![]));
}

/// A store that stays away: what comes counts, the history goes on, and what was not whole is read again once a day.
#[tokio::test]
async fn a_warning_that_lasts_does_not_make_each_run_read_everything_again() {
    let warned = |words: &str| {
        json(&format!(
            r#"{{"status":"success","{words}":["PromQL info: not a counter","store 2 is away"],"data":{{"resultType":"matrix","result":[
                {{"metric":{{"pod":"a"}},"values":[[1793491200,"1"]]}}]}}}}"#
        ))
    };
    // Infos are none.
    let info = warned("infos");
    let batch = run(&Server::new(move |_| info.clone()), "prometheus", MEMORY).await.unwrap();
    assert_eq!((batch.problems.len(), batch.notes.len()), (0, 2), "{batch:?}");
    let warning = warned("warnings");
    let server = Server::new(move |_| warning.clone());
    let collector = build("prometheus", &format!("url: http://{}\n{MEMORY}", server.address));
    let mut asked = request();
    let mut windows = Vec::new();
    for (now, most) in [
        ("2026-11-01T02:00:00Z", 2),
        ("2026-11-01T02:10:00Z", 1),
        ("2026-11-01T12:00:00Z", 5),
        ("2026-11-01T12:10:00Z", 1),
        // A day later: what is new, and what was not whole.
        ("2026-11-02T13:00:00Z", 12),
        ("2026-11-02T13:10:00Z", 1),
    ] {
        asked.now = now.parse().unwrap();
        let batch = collector.collect(asked.clone()).await.unwrap();
        assert_eq!(
            texts(&batch.problems),
            "query `memory`: the server says that its answer may not be all: store 2 is away"
        );
        assert_eq!(batch.problems[0].bears_on, Bearing::readings(["memory"]));
        asked.checkpoint = batch.checkpoint;
        let lines = server.lines();
        let new: Vec<_> =
            lines[windows.len()..].iter().map(|line| parameter(line, "start").unwrap()).collect();
        assert!(!new.is_empty() && new.len() <= most, "{now}: {new:?}");
        let from_the_start = new.iter().any(|start| start == "1793491200.000");
        assert_eq!(
            from_the_start,
            ["2026-11-01T02:00:00Z", "2026-11-02T13:00:00Z"].contains(&now),
            "{now}: {new:?}"
        );
        windows = lines;
    }
}

/// The store is back: what was not whole is, and nobody asks for it any more.
#[tokio::test]
async fn what_was_not_whole_is_read_again_once_the_store_is_back() {
    let away = std::sync::atomic::AtomicBool::new(true);
    let away = Arc::new(away);
    let is_away = away.clone();
    let server = Server::new(move |line| {
        let start: f64 = parameter(line, "start").unwrap().parse().unwrap();
        let warning =
            if is_away.load(std::sync::atomic::Ordering::SeqCst) { r#""warnings":["away"],"# } else { "" };
        let value = if warning.is_empty() { 2 } else { 1 };
        json(&format!(
            r#"{{"status":"success",{warning}"data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[[{start},"{value}"]]}}]}}}}"#
        ))
    });
    let collector = build("prometheus", &format!("url: http://{}\n{MEMORY}", server.address));
    let mut asked = request();
    asked.checkpoint = collector.collect(asked.clone()).await.unwrap().checkpoint;
    away.store(false, std::sync::atomic::Ordering::SeqCst);
    asked.now = "2026-11-02T02:00:00Z".parse().unwrap();
    let mended = collector.collect(asked.clone()).await.unwrap();
    assert!(values(&mended).contains(&"memory 2 2026-11-01T00:00:00Z".to_owned()), "{:?}", values(&mended));
    assert_eq!(mended.problems, vec![]);
    (asked.checkpoint, asked.now) = (mended.checkpoint, "2026-11-03T02:00:00Z".parse().unwrap());
    let later = collector.collect(asked).await.unwrap();
    assert!(values(&later).iter().all(|value| !value.contains("2026-11-01")), "{:?}", values(&later));
}

/// How Prometheus, Mimir, Thanos and the proxies before them refuse a question for its length.
#[tokio::test]
async fn each_way_to_refuse_a_long_question_is_answered_with_a_shorter_one() {
    for (status, words) in [
        (
            "400 Bad Request",
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution",
        ),
        (
            "422 Unprocessable Entity",
            "the query time range exceeds the limit (query length: 2h, limit: 30m) (err-mimir-max-query-length)",
        ),
        ("400 Bad Request", "the query time range exceeds the limit (query length: 2h0m0s, limit: 30m0s)"),
        ("503 Service Unavailable", "query timed out in expression evaluation"),
        ("500 Internal Server Error", "expanding series: context deadline: query timed out"),
        ("500 Internal Server Error", "expanding series: the query hit the max number of chunks limit"),
        ("429 Too Many Requests", "the query exceeded the maximum number of chunks"),
        ("422 Unprocessable Entity", "duration is too big; cannot exceed -search.maxPointsPerTimeseries"),
        ("502 Bad Gateway", "<html><h1>502 Bad Gateway</h1></html>"),
        ("504 Gateway Timeout", "<html><h1>504 Gateway Time-out</h1></html>"),
    ] {
        let refusal =
            answer(status, "application/json", &format!(r#"{{"status":"error","error":"{words}"}}"#));
        let server = Server::new(move |line| match parameter(line, "query").unwrap().as_str() {
            "cpu_seconds_total[1800001ms]" => matrix(r#"{"metric":{},"values":[[1793492000,"1"]]}"#),
            _ => refusal.clone(),
        });
        let batch = run(&server, "prometheus", CPU).await.unwrap();
        assert_eq!(batch.problems, vec![], "{words}");
        assert_eq!(values(&batch), ["cpu 1 2026-11-01T00:13:20Z"], "{words}");
    }
}

/// A server that compresses says so, whether or not it was asked; an answer is bounded by what it is uncompressed.
#[tokio::test]
async fn a_compressed_page_is_read_and_bounded() {
    let gzip = |page: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(page).unwrap();
        encoder.finish().unwrap()
    };
    let answer = |body: Vec<u8>| {
        let head =
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n";
        let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    };
    let server = Server::of_bytes(answer(gzip(b"\xef\xbb\xbf# TYPE a gauge\na 7\n")));
    let batch = run(&server, "openmetrics", "metrics: a").await.unwrap();
    assert_eq!(values(&batch), ["a 7 2026-11-01T02:00:00Z"]);
    let heard = server.heard.lock().unwrap()[0].to_ascii_lowercase();
    assert!(heard.contains("accept-encoding: gzip\r\n"), "{heard}");
    // As many members as a server likes are one answer; its form is named in any case.
    let two = [gzip(b"# TYPE a gauge\na{b=\"c\"} 5\n"), gzip(b"a{b=\"d\"} 5\n")].concat();
    let mut said = answer(two.clone());
    let place = said.windows(22).position(|bytes| bytes == b"Content-Encoding: gzip").unwrap();
    said.splice(place..place + 22, *b"Content-Encoding: X-GZip");
    for said in [answer(two), said] {
        let batch = run(&Server::of_bytes(said), "openmetrics", "metrics: a").await.unwrap();
        assert_eq!(values(&batch), ["a 5 2026-11-01T02:00:00Z"; 2]);
    }
    // A megabyte in a kilobyte.
    let bomb = gzip(&b"#".repeat(1 << 20));
    assert!(bomb.len() < 2_048, "{}", bomb.len());
    let said = error(&Server::of_bytes(answer(bomb)), "openmetrics", "metrics: a\nmax_answer: 64KiB").await;
    assert_eq!(
        said,
        "GET http://HOST/: the answer has more than 65536 bytes; nothing of it is used. Ask for less at a time, or raise \
         `max_answer`"
    );
    // Half of one is none.
    let mut cut = gzip(b"# TYPE a gauge\na 7\n");
    cut.truncate(cut.len() - 12);
    let said = error(&Server::of_bytes(answer(cut)), "openmetrics", "metrics: a").await;
    assert!(said.contains("the answer broke off"), "{said}");
}
