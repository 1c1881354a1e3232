//! Tokens, turns, faults, the clock and the sandbox's own API (A, other statuses, §9, §11).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::*;

const ME: &str = "/api/users/me/";

#[test]
fn a_bad_token_is_refused_with_the_right_words() {
    let server = Server::classic();
    let ask = |header: Option<&str>| {
        let headers: Vec<(&str, &str)> = header.map(|value| ("Authorization", value)).into_iter().collect();
        server.send("GET", ME, &headers, b"")
    };
    let cases = [
        (None, "Authentication credentials were not provided."),
        (Some("Bearer provider"), "Authentication credentials were not provided."),
        (Some("Token PROVIDER"), "Invalid token."),
        (Some("Token "), "Invalid token. No credentials provided."),
        (Some("Token a b"), "Invalid token. Token string should not contain spaces."),
        (Some("Token gone"), "User inactive or deleted."),
    ];
    for (header, text) in cases {
        let reply = ask(header);
        assert_eq!(reply.pair(), (401, json!({ "detail": text })));
        assert_eq!(reply.headers["www-authenticate"], "Token");
    }
    assert_eq!(ask(Some("token provider")).status, 200);
    assert_eq!(server.send("GET", &format!("{ME}?x-auth-token=provider"), &[], b"").status, 401);
}

#[test]
fn a_token_with_a_lifetime_dies_idle_and_slides_with_every_call() {
    let server = Server::classic();
    let advance = |seconds: u32| server.admin("/sandbox/clock", &json!({ "advance_seconds": seconds }));
    for _ in 0..3 {
        advance(3000);
        assert_eq!(server.get_as("brief", ME).status, 200);
    }
    advance(3700);
    assert_eq!(server.get_as("brief", ME).pair(), (401, json!({ "detail": "Token has expired." })));
    assert_eq!(server.get(ME).status, 200);
}

#[test]
fn roles_and_activity_of_a_token_can_be_changed() {
    let server = Server::current();
    server.admin("/sandbox/tokens", &json!({ "token": "provider", "offerings": [] }));
    assert_eq!(server.report(A, "cpu_hours", "1").status, 403);
    assert_eq!(server.get("/api/marketplace-provider-resources/").pair(), (200, json!([])));
    server.admin("/sandbox/tokens", &json!({ "token": "provider", "offerings": ["Cluster"] }));
    assert_eq!(server.report(A, "cpu_hours", "1").status, 201);
    server.admin("/sandbox/tokens", &json!({ "token": "provider", "active": false }));
    assert_eq!(server.get(ME).status, 401);
}

/// Whether something takes less than this, once in ten times: others may keep the machine busy.
fn quicker(than: Duration, timed: impl Fn() -> Duration) -> bool {
    (0..10).any(|_| timed() < than)
}

#[test]
fn one_token_is_served_one_call_at_a_time() {
    let server = Server::classic();
    server.admin("/sandbox/settings", &json!({ "latency_ms": 1000 }));
    let timed = |tokens: [&str; 2]| {
        let start = Instant::now();
        thread::scope(|scope| {
            for token in tokens {
                let server = &server;
                scope.spawn(move || assert_eq!(server.get_as(token, ME).status, 200));
            }
        });
        start.elapsed()
    };
    assert!(timed(["provider", "provider"]) >= Duration::from_millis(2000));
    assert!(quicker(Duration::from_millis(1950), || timed(["provider", "staff"])));
    // Or two, where that is asked for.
    server.admin("/sandbox/settings", &json!({ "calls_at_once": 2 }));
    assert!(quicker(Duration::from_millis(1950), || timed(["provider", "provider"])));
}

#[test]
fn the_first_report_of_a_month_is_slow_once_for_a_customer() {
    let server = Server::classic();
    server.admin("/sandbox/settings", &json!({ "first_of_month_ms": 1000 }));
    let timed = |resource: &str| {
        let start = Instant::now();
        assert_eq!(server.report(resource, "cpu_hours", "1").status, 201);
        start.elapsed()
    };
    assert!(timed(A) >= Duration::from_millis(1000));
    assert!(quicker(Duration::from_millis(950), || timed(B)));
    server.clock("2026-12-01T00:00:00Z");
    assert!(timed(B) >= Duration::from_millis(1000));
}

#[test]
fn a_client_that_gives_up_does_not_stop_the_commit() {
    let server = Server::classic();
    server.admin("/sandbox/settings", &json!({ "latency_ms": 4000 }));
    let body = json!({ "resource": A, "usages": [{ "type": "cpu_hours", "amount": 7 }] }).to_string();
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = "Host: x\r\nAuthorization: Token provider\r\nContent-Type: application/json\r\n";
    let length = body.len();
    write!(stream, "POST {SET_USAGE} HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
    let patience = Instant::now();
    let begun = || {
        let notes = server.send("GET", "/sandbox/requests", &[], b"").json();
        !notes["requests"].as_array().unwrap().is_empty()
    };
    while !begun() && patience.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(20));
    }
    drop(stream);
    assert_eq!(server.rows(A), []);
    while server.rows(A).is_empty() && patience.elapsed() < Duration::from_secs(120) {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "7.00")]);
}

fn fault(server: &Server, when: &str, action: Value) {
    let matching = json!({ "method": "POST", "path": "set_usage", "body": "cpu_hours" });
    let faults = json!({ "faults": [{ "match": matching, "when": when, "action": action, "times": 1 }] });
    server.admin("/sandbox/faults", &faults);
}

/// The raw answer to a report.
fn raw_report(server: &Server) -> Vec<u8> {
    let body = json!({ "resource": A, "usages": [{ "type": "cpu_hours", "amount": 7 }] }).to_string();
    let head = "Host: x\r\nAuthorization: Token provider\r\nContent-Type: application/json\r\n";
    server.raw(
        format!("POST {SET_USAGE} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
    )
}

#[test]
fn an_answer_can_be_replaced_before_and_after_the_commit() {
    for (when, rows) in [("before", 0), ("after", 1)] {
        let server = Server::current();
        let action = json!({ "status": 429, "body": "slow down", "headers": { "Retry-After": "7" } });
        fault(&server, when, action);
        let reply = server.report(A, "cpu_hours", "7");
        assert_eq!((reply.status, reply.body.as_str()), (429, "slow down"));
        assert_eq!(reply.headers["retry-after"], "7");
        assert_eq!(server.rows(A).len(), rows, "{when}");
        assert_eq!(server.report(A, "cpu_hours", "7").status, 201, "once is once");
    }
}

#[test]
fn a_connection_can_be_dropped_before_and_after_the_commit() {
    for (when, rows) in [("before", 0), ("after", 1)] {
        let server = Server::current();
        fault(&server, when, json!("drop"));
        assert_eq!(raw_report(&server), b"");
        assert_eq!(server.rows(A).len(), rows, "{when}");
        let notes = server.send("GET", "/sandbox/requests", &[], b"").json();
        assert_eq!(notes["requests"][0]["status"], 0);
    }
}

#[test]
fn an_answer_can_be_cut_in_half() {
    let server = Server::current();
    fault(&server, "after", json!("truncate"));
    let half = raw_report(&server);
    assert!(half.starts_with(b"HTTP/1.1 201") && !half.ends_with(b"\r\n\r\n"), "{half:?}");
    server.admin(
        "/sandbox/faults",
        &json!({ "faults": [{ "match": { "path": "usages/?" }, "when": "after", "action": "truncate" }] }),
    );
    let request = format!("GET {USAGES}?x=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Token provider\r\n\r\n");
    let half = String::from_utf8(server.raw(request.as_bytes())).unwrap();
    let (head, body) = half.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
    assert!(body.len() < length.parse().unwrap(), "{half}");
}

#[test]
fn a_call_can_hang_until_the_faults_are_cleared() {
    let server = Server::current();
    fault(&server, "after", json!("hang"));
    thread::scope(|scope| {
        let hanging = scope.spawn(|| parse(&raw_report(&server)).map(|reply| reply.status));
        thread::sleep(Duration::from_millis(200));
        assert!(!hanging.is_finished());
        // Committed, and nobody else waits for it.
        assert_eq!(server.rows(A).len(), 1);
        assert_eq!(server.get(ME).status, 200);
        assert_eq!(server.send("DELETE", "/sandbox/faults", &[], b"").status, 200);
        assert_eq!(hanging.join().unwrap(), Some(201));
    });
    let start = Instant::now();
    fault(&server, "before", json!({ "hang": 200 }));
    assert_eq!(server.report(A, "cpu_hours", "8").status, 201);
    assert!(start.elapsed() >= Duration::from_millis(200));
}

#[test]
fn every_api_request_is_remembered_and_the_sandboxs_own_are_not() {
    let server = Server::current();
    server.report(A, "cpu_hours", "7");
    server.send("GET", "/api/users/me/?a=b", &[], b"");
    let notes = server.send("GET", "/sandbox/requests", &[], b"").json();
    assert_eq!(notes["next"], 2);
    let all = notes["requests"].as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["method"], "POST");
    assert_eq!(all[0]["token_user"], "provider");
    assert_eq!(all[0]["status"], 201);
    assert!(all[0]["body"].as_str().unwrap().contains("cpu_hours"));
    assert_eq!(all[1]["path"], "/api/users/me/?a=b");
    assert_eq!((&all[1]["token_user"], &all[1]["status"]), (&Value::Null, &json!(401)));
    let later = server.send("GET", "/sandbox/requests?since=1", &[], b"").json();
    assert_eq!(later["requests"].as_array().unwrap().len(), 1);
}

#[test]
fn the_clock_runs_freezes_and_skews() {
    let server = Server::current();
    let now = || server.send("GET", "/sandbox/state", &[], b"").json()["now"].as_str().unwrap().to_owned();
    let first = now();
    thread::sleep(Duration::from_millis(20));
    assert_ne!(now(), first);
    server.admin("/sandbox/clock", &json!({ "now": "2026-12-31T23:59:59Z", "freeze": true }));
    assert_eq!((now(), now()), ("2026-12-31T23:59:59Z".into(), "2026-12-31T23:59:59Z".into()));
    server.admin("/sandbox/clock", &json!({ "skew_seconds": 2 }));
    assert_eq!(server.get(ME).headers["date"], "Fri, 01 Jan 2027 00:00:01 GMT");
    server.report(A, "cpu_hours", "1");
    assert_eq!(server.rows(A), [row("cpu_hours", "2027-01-01", "1.00")]);
}

#[test]
fn another_hand_writes_rows_past_every_rule() {
    let server = Server::current();
    let spec = json!({
        "resource": A, "type": "cpu_hours", "usage": "9.5", "billing_period": "2026-10-01",
        "users": { "alice": "3.00" },
    });
    server.admin("/sandbox/rows", &spec);
    let held = server.held(A)["rows"][0].clone();
    assert_eq!((&held["usage"], &held["modified_by"]), (&json!("9.50"), &json!(99)));
    assert_eq!(held["users"]["alice"]["usage"], "3.00");
    let component = json!({ "type": "cpu_hours", "billing_type": "fixed" });
    server.admin(&format!("/sandbox/offerings/{OFFERING}/components"), &component);
    assert_eq!(server.report(A, "cpu_hours", "1").status, 400);
}

#[test]
fn without_a_file_it_holds_a_small_marketplace_and_ends_with_0_on_sigterm() {
    let mut server = Server::launch(&[]);
    let reply =
        server.get_as("sandbox-token", "/api/marketplace-provider-resources/?backend_id=this-machine");
    assert_eq!(reply.json()[0]["uuid"], "5e2f0000000040008000000000000003");
    let id = i32::try_from(server.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_documented_example_is_a_marketplace() {
    let page = include_str!("../../docs/sandbox.md");
    let example = page.split("```yaml").nth(1).unwrap().split("```").next().unwrap();
    let server = Server::start(&["--now", "2026-11-10T12:00:00Z"], example);
    let list = server.get_as("secret", USAGES).json();
    assert_eq!((&list[0]["usage"], &list[0]["billing_period"]), (&json!("32.00"), &json!("2026-10-01")));
    assert_eq!(server.get_as("secret", SHARES).json()[0]["username"], "alice");
}

#[test]
fn a_file_that_refers_to_nothing_is_refused_with_its_reason() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "resources: [{ offering: Nowhere }]").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_waldur-sandbox"))
        .args(["--marketplace", file.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "waldur-sandbox: no offering Nowhere\n");
}

#[test]
fn garbage_does_not_stop_it_and_the_page_needs_nothing_from_elsewhere() {
    let server = Server::current();
    server.raw(b"\x16\x03\x01 nonsense\r\n\r\n");
    let page = server.send("GET", "/", &[], b"");
    assert_eq!(page.status, 200);
    assert!(page.headers["content-type"].starts_with("text/html"));
    assert!(!page.body.contains("innerHTML"), "reported texts could become markup");
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "an external address");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "POST {SET_USAGE} HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let chunk = vec![b' '; 1 << 20];
    // More than is taken; the server may hang up in the middle.
    for _ in 0..29 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(server.get(ME).status, 200);
}
