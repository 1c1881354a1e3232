//! What each answer of the server comes to, as a table: tried again, the server left alone, the resource held, the item
//! parked, the month closed; how often the log says so while it lasts (once: a change of state is one line); and that
//! everything is right when it is over. Other resources go on in the meantime, unless it is the server itself.
//!
//! Elsewhere: a server that is away, a name nobody knows, https that is none, a wrong token, a token without a role, an
//! unknown component, a limit (tests/agent_words.rs); certificates (tests/client_tls.rs); a 500 that always comes back
//! for one resource (tests/submitting.rs); bytes that are lost on the way (tests/agent_network.rs).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::{Value, json};

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The resource is tried again later; others are not waiting for it.
    Again,
    /// The whole server is left alone for a while.
    Pause,
    /// Held, parked or stranded, for this reason: reason and component or user.
    Kept(&'static str, &'static str),
}

use Class::{Again, Kept, Pause};

struct Case {
    name: &'static str,
    /// What is answered, to reports on A or to all reports or to everything.
    of: &'static str,
    action: Value,
    class: Class,
    /// What the log says of it, once.
    words: &'static str,
}

const REPORTS_ON_A: &str = "reports on A";
const REPORTS: &str = "reports";
const ALL: &str = "everything";
const SHARES_OF_BOB: &str = "shares of bob";

fn json_answer(status: u16, body: Value) -> Value {
    json!({ "status": status, "body": body.to_string(), "headers": { "Content-Type": "application/json" } })
}

fn asked(status: u16, rest: &str) -> Value {
    json!({ "status": status, "body": "busy", "headers": { "Retry-After": rest } })
}

fn table() -> Vec<Case> {
    let case = |name, of, action, class, words| Case { name, of, action, class, words };
    let page = |status: u16| json!({ "status": status, "body": "<html><h1>Oops</h1></html>" });
    let closed = json!({ "plan_period": ["Billing period is closed."] });
    let state = json!({ "resource": ["Resource is not in valid state."] });
    let names_bob = json!({ "usages": [{}, { "username": ["No such user."] }] });
    let no_resource = json!({ "detail": "No Resource matches the given query." });
    let no_right = json!({ "detail": "You do not have permission to perform this action." });
    vec![
        case("the network", REPORTS_ON_A, json!("drop"), Again, "no answer to rely on"),
        case("408", REPORTS_ON_A, page(408), Again, "the server answered 408"),
        case("500", REPORTS_ON_A, page(500), Again, "the server answered 500"),
        case("502", REPORTS_ON_A, page(502), Again, "the server answered 502"),
        case("504", REPORTS_ON_A, page(504), Again, "the server answered 504"),
        case("500 for all", ALL, page(500), Pause, "the server answered 500"),
        case("429, seconds", REPORTS, asked(429, "2"), Pause, "asks for 2 s of rest"),
        case("503, a date", REPORTS, asked(503, "Tue, 10 Nov 2026 12:00:50 GMT"), Pause, "s of rest"),
        case(
            "503, an RFC 850 date",
            REPORTS,
            asked(503, "Tuesday, 10-Nov-26 12:00:50 GMT"),
            Pause,
            "s of rest",
        ),
        case("503, a date of C", REPORTS, asked(503, "Tue Nov 10 12:00:50 2026"), Pause, "s of rest"),
        case(
            "401",
            ALL,
            json_answer(401, json!({ "detail": "Invalid token." })),
            Pause,
            "the token was refused",
        ),
        case(
            "403 for one",
            REPORTS_ON_A,
            json_answer(403, no_right.clone()),
            Again,
            "the token may not do this",
        ),
        case("403 for all", REPORTS, json_answer(403, no_right), Pause, "the token may not do this"),
        case("404 of the address", REPORTS, page(404), Pause, "this server has no such call"),
        case(
            "404 of the resource",
            REPORTS_ON_A,
            json_answer(404, no_resource),
            Kept("unknown_resource", ""),
            "held",
        ),
        case("wrong state", REPORTS_ON_A, json_answer(400, state), Kept("resource_state", ""), "held"),
        case(
            "period closed",
            REPORTS_ON_A,
            json_answer(400, closed),
            Kept("period_ended", "cpu_hours"),
            "stranded",
        ),
        case(
            "400 that names a user",
            SHARES_OF_BOB,
            json_answer(400, names_bob),
            Kept("amount", "cpu_hours bob"),
            "parked",
        ),
    ]
}

fn ledger(world: &World) -> rusqlite::Connection {
    let ledger = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    ledger.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    ledger
}

fn column(world: &World, query: &str) -> Vec<String> {
    let ledger = ledger(world);
    let mut query = ledger.prepare(query).unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// The class of what is left of A, or of the server.
fn classes(world: &World) -> Vec<String> {
    let kept = "SELECT DISTINCT trim(reason || ' ' || component || ' ' || username) FROM blocked";
    let retry = "SELECT CASE resource WHEN '' THEN 'pause' ELSE resource END FROM retry";
    [column(world, kept), column(world, retry)].concat()
}

fn shows(class: Class, classes: &[String]) -> bool {
    match class {
        Again => classes.contains(&A.to_owned()) && !classes.contains(&"pause".to_owned()),
        Pause => classes.contains(&"pause".to_owned()),
        Kept(reason, what) => classes.contains(&format!("{reason} {what}").trim().to_owned()),
    }
}

fn play(case: &Case) {
    let name = case.name;
    let world = World::new(CURRENT);
    let resource = format!("    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n");
    let keys = format!(
        "{resource}    user: \"{{user}}\"\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n"
    );
    let collector = world.collector("source", "readings", &keys).replace("\"@hourly\"", "every 1s");
    let head = world.head("timeout: 1s");
    world.write("agent.yaml", &format!("{head}submit: {{ schedule: every 1s }}\ncollectors:\n{collector}"));
    let (start, end) = ("2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z");
    let used = |account: &str, user: &str, id: &str| {
        job("cpu_seconds", id, start, end, "3600", &[("account", account), ("user", user)])
    };
    world.readings(&[
        used("project-a", "alice", "1"),
        used("project-a", "bob", "2"),
        used("project-b", "bob", "3"),
    ]);
    let a = A.replace('-', "");
    let matching = match case.of {
        REPORTS_ON_A => json!({ "path": "/set_usage/", "body": a }),
        REPORTS => json!({ "path": "/set_usage/" }),
        SHARES_OF_BOB => json!({ "path": "/set_user_usages/", "body": "alice" }),
        _ => json!({ "path": "/api/" }),
    };
    world.fault(json!({ "match": matching, "action": case.action }));
    let mut daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    world.in_time(&format!("{name}: its class"), || shows(case.class, &classes(&world)));
    if !matches!(case.class, Pause) {
        // One bad thing stops only itself.
        world.in_time(&format!("{name}: the other resource"), || world.rows(B) == ["cpu_hours 2026-11 1.00"]);
        assert!(!classes(&world).contains(&"pause".to_owned()), "{name}: {:?}", classes(&world));
    }
    // It lasts for a while; several tries on, where there are any.
    let begun = world.requests_since(0).len();
    let tried = |world: &World| match case.class {
        Kept(..) => column(world, "SELECT count(*) || '' FROM run")[0].parse::<usize>().unwrap() > 8,
        _ => world.requests_since(0).len() >= begun + 2,
    };
    world.in_time(&format!("{name}: more tries"), || tried(&world));
    // A cycle tells at its end what it kept before.
    daemon.until_it_says(case.words);
    let log = daemon.log();
    // That the test's own clock leaps over runs is told, too, and is not what this is about.
    let told = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR"));
    let told = told.filter(|line| !line.contains("of its runs w"));
    // As long as nothing but this one is left to be posted, all that is posted is refused: that has a line of its own.
    let is_second = |line: &&str| matches!(case.class, Again) && line.contains("Waldur refuses every report");
    let told = told.filter(|line| !is_second(line)).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains(case.words), "{name}: {told:#?}");
    world.no_faults();
    if let Kept(..) = case.class {
        world.agent(&["parked", "retry", A]);
    }
    world.in_time(&format!("{name}: the end"), || {
        world.rows(A) == ["cpu_hours 2026-11 2.00"] && world.shares(A).len() == 2
    });
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 1.00", "bob cpu_hours 2026-11 1.00"], "{name}");
    assert_eq!(world.billed(A), ["cpu_hours 2026-11 2.00"], "{name}");
    world.in_time(&format!("{name}: peace"), || classes(&world).is_empty());
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0, "{name}");
}

#[test]
fn each_answer_comes_to_what_the_table_says() {
    let (table, next) = (table(), std::sync::atomic::AtomicUsize::new(0));
    let only = std::env::var("CASE").ok();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(case) = table.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if only.as_ref().is_none_or(|only| only == case.name) {
                        play(case);
                    }
                }
            });
        }
    });
}

/// What a terminated resource used can no longer be reported, at once and for good; but rows that are there still take
/// their users' shares.
#[test]
fn of_a_terminated_resource_the_total_is_stranded_and_the_shares_still_go() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    world.readings(&alice_and_bob());
    world.fault(json!({ "match": { "path": "/set_user_usages/" }, "action": "drop" }));
    world.flush_once().exits(75);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
    world.no_faults();
    world.post(&format!("resources/{A}"), json!({ "state": "Terminated" }));
    world.flush();
    assert_eq!(world.shares(A), ["alice cpu_hours 2026-11 0.02", "bob cpu_hours 2026-11 0.01"]);
    let mut lines = alice_and_bob();
    lines.extend(counter(&["0", "3600"], &[("user", "carol")]));
    world.readings(&lines);
    let mark = world.mark();
    world.flush().exits(65).says("stranded");
    assert_eq!(world.posts_since(mark).len(), 1);
    world.flush().exits(65);
    assert_eq!(world.posts_since(mark).len(), 1, "it is not asked again");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
}

/// Two limited components in one call, because the agent may not see what the offering sells: the first is applied, the
/// second refused. The first is found when it is read back, and not sent twice, which a classic server would refuse.
#[test]
fn what_a_refused_call_has_applied_all_the_same_is_found_by_reading_back() {
    let limits = "      - { type: aa, billing_type: usage, limit_amount: 100, limit_period: annual }\n      \
                  - { type: zz, billing_type: usage, limit_amount: 10, limit_period: annual }\n";
    let marketplace = marketplace()
        .replace("    users: [{ username: alice", &format!("{limits}    users: [{{ username: alice"));
    let world = World::of(Setting { api: CLASSIC, marketplace, ..Setting::default() });
    world.configure(&format!(
        "    resource: {A}\n    meters:\n      aa: {{ reading: cpu_seconds, factor: 1/60 }}\n      \
         zz: {{ reading: cpu_seconds, factor: 1/180 }}\n"
    ));
    let hidden = json_answer(404, json!({ "detail": "No Offering matches the given query." }));
    let of = |path: &str| json!({ "match": { "method": "GET", "path": path }, "action": hidden });
    let faults = [of("/api/marketplace-provider-offerings/"), of("/api/marketplace-public-offerings/")];
    world.post("faults", json!({ "faults": faults }));
    world.readings(&counter(&["0", "3600"], &[]));
    world.flush().exits(65).says("zz");
    assert_eq!(world.rows(A), ["aa 2026-11 60.00"]);
    let status = world.agent(&["status", "--json"]).json();
    let components = status["statements"][0]["components"].as_array().unwrap().clone();
    let of = |name: &str| components.iter().find(|one| one["component"] == name).unwrap().clone();
    assert_eq!((&of("aa")["acknowledged"], &of("aa")["held"]), (&json!("60.00"), &Value::Null), "{status:#}");
    assert_eq!(column(&world, "SELECT reason || ' ' || component FROM blocked"), ["limit zz"]);
    let tried = world
        .posts_since(0)
        .iter()
        .map(|call| format!("{} {}", amounts(&call.body), call.status))
        .collect::<Vec<_>>();
    assert_eq!(tried, ["aa=60.00 zz=20.00 400", "zz=20.00 400"]);
}
