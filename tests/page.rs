//! The page for people: who may see it, what it says, and that nothing on it is anybody's code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;
mod docs_commands;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use agent::books::*;
use agent::*;
use serde_json::json;

const PAGE_TOKEN: &str = "the-pages-0wn-token";

/// Status, head and body.
fn ask(stream: impl Read + Write, path: &str, more: &str) -> (u16, String, String) {
    request(stream, "GET", path, more)
}

fn request(mut stream: impl Read + Write, method: &str, path: &str, more: &str) -> (u16, String, String) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: page\r\nConnection: close\r\n{more}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn with_page(world: &World, page: &str, more: &str) {
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("{more}page: {{ {page} }}\n{text}"));
}

/// Where the daemon says that something is served.
fn address(daemon: &Daemon, before: &str) -> String {
    daemon.until_it_says(before);
    let log = daemon.log();
    log.split(before).nth(1).unwrap().split(['/', ' ', '\n']).next().unwrap().to_owned()
}

fn reported(market: &str) -> World {
    let world = World::of(Setting { api: CURRENT, now: NOON, zone: "UTC", marketplace: market.to_owned() });
    configure(&world, "late: hold", "", &[("source", keys(CPU))]);
    jobs(&world, NOON, &[five(), hours("2", "11-07T00:00", "11-07T02:00", "2.5")]).exits(0);
    world
}

#[test]
fn a_socket_is_for_its_owner_and_group() {
    let world = reported(&market());
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "");
    for _ in 0..2 {
        let mut daemon = world.daemon(&[], &[]);
        until("the page", || UnixStream::connect(&socket).is_ok());
        let data = std::fs::symlink_metadata(&socket).unwrap();
        assert!(data.file_type().is_socket());
        assert_eq!(data.permissions().mode() & 0o777, 0o660);
        let (status, head, body) = ask(UnixStream::connect(&socket).unwrap(), "/", "");
        assert_eq!(status, 200, "{body}");
        for words in [
            "content-security-policy: default-src 'none'; style-src 'self'",
            "cache-control: no-store",
            "nosniff",
        ] {
            assert!(head.contains(words), "`{words}` in {head}");
        }
        for words in
            ["<html lang=\"en\">", "Usage in 2026-11", "Project A", "7.50", "agreed", "<svg role=\"img\""]
        {
            assert!(body.contains(words), "`{words}` in {body}");
        }
        assert!(!body.contains("<script") && !body.contains("style=") && !body.contains(TOKEN), "{body}");
        let (status, _, body) = ask(UnixStream::connect(&socket).unwrap(), &format!("/resource/{A}"), "");
        assert_eq!(status, 200);
        // Five hours on the 5th, two and a half on the 7th, by hand.
        for row in [
            "<th scope=\"row\">2026-11-05</th><td>5</td><td>5</td><td>1</td>",
            "<th scope=\"row\">2026-11-07</th><td>2.5</td><td>7.5</td><td>1</td>",
            "<th scope=\"row\">alice</th><td>7.50</td><td>7.50</td>",
            "<td>1/3600</td>",
            "set_usage",
        ] {
            assert!(body.contains(row), "`{row}` in {body}");
        }
        for path in ["/resource/5e2f0000-0000-4000-8000-00000000ffff", "/resource/x", "/metrics", "/health"] {
            assert_eq!(ask(UnixStream::connect(&socket).unwrap(), path, "").0, 404, "{path}");
        }
        // What is left of it by a daemon that was killed is no hindrance.
        daemon.kill();
        assert!(socket.exists());
    }
    // What is no socket stays as it is, and is told.
    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "not yours").unwrap();
    world.agent(&["run"]).exits(78).says("can't serve the page");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "not yours");
}

/// It shows all customers' bills: nobody gets it who did not ask for it.
#[test]
fn there_is_none_unless_it_is_asked_for() {
    let world = reported(&market());
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("listen: 127.0.0.1:0\n{text}"));
    let daemon = world.daemon(&[], &[]);
    let metrics = address(&daemon, "Health and metrics at http://");
    daemon.until_it_says("Ready: ");
    assert!(!daemon.log().contains("page"), "{}", daemon.log());
    for path in ["/", "/style.css", "/icon.svg", &format!("/resource/{A}")] {
        assert_eq!(ask(TcpStream::connect(&metrics).unwrap(), path, "").0, 404, "{path}");
    }
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(ask(TcpStream::connect(&metrics).unwrap(), path, "").0, 200, "{path}");
        assert_eq!(request(TcpStream::connect(&metrics).unwrap(), "POST", path, "").0, 405, "{path}");
    }
    // Of sockets and other files beside the ledger's there are none.
    let mut files: Vec<String> = std::fs::read_dir(world.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_socket())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(files, [""; 0]);
    drop(daemon);
    // Nor without `listen`.
    world.write("agent.yaml", &text);
    std::fs::remove_file(world.path("daemon.log")).unwrap();
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: ");
    assert!(!daemon.log().contains("http://127.0.0.1:0") && !daemon.log().contains("Health and metrics at"));
}

/// Nothing can be changed by it, whatever it is asked, and it has nothing to press.
#[test]
fn it_can_only_be_read() {
    let world = reported(&market());
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("The page for people at");
    let connect = || UnixStream::connect(&socket).unwrap();
    let rows = world.rows(A);
    let (page, detail) = ("/".to_owned(), format!("/resource/{A}"));
    for path in [&page, &detail, &"/style.css".to_owned(), &"/nothing".to_owned()] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MKCOL"] {
            let (status, head, body) = request(connect(), method, path, "Content-Length: 0\r\n");
            assert_eq!((status, body.as_str()), (405, "this page can only be read\n"), "{method} {path}");
            assert!(head.contains("\r\nallow: get, head\r\n"), "{method} {path}: {head}");
            assert!(head.contains("content-security-policy"), "{head}");
        }
        let (status, _, body) = request(connect(), "HEAD", path, "");
        assert_eq!((status, body.as_str()), (if path == "/nothing" { 404 } else { 200 }, ""), "{path}");
    }
    for path in [&page, &detail] {
        let (status, _, body) = ask(connect(), path, "");
        assert_eq!(status, 200);
        for pressed in ["<form", "<button", "<input", "<select", "<textarea", "onclick", "<script"] {
            assert!(!body.contains(pressed), "{pressed} on {path}");
        }
    }
    assert_eq!(world.rows(A), rows);
}

#[test]
fn at_an_address_it_is_for_who_has_its_token() {
    let world = reported(&market());
    with_page(&world, "listen: \"127.0.0.1:0\"", "");
    world.agent(&["check", "--offline"]).exits(78).says("all customers' bills");
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let token = world.path("page-token");
    let page = format!(
        "page: {{ listen: \"127.0.0.1:0\", token_file: {} }}\nlisten: 127.0.0.1:0\n",
        token.display()
    );
    world.write("agent.yaml", &format!("{page}{}", text.split_once('\n').unwrap().1));
    world.agent(&["check", "--offline"]).exits(0);
    world.agent(&["run"]).exits(78).says("can't serve the page").says("page-token");
    world.write("page-token", PAGE_TOKEN);
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    world.agent(&["check"]).exits(0).line_with(&["page: every user of this machine can read"]);
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    world.agent(&["check"]).exits(0).says_not("page: every user");
    let daemon = world.daemon(&[], &[]);
    let page = address(&daemon, "The page is at http://");
    let metrics = address(&daemon, "Health and metrics at http://");
    let get = |path: &str, more: &str| ask(TcpStream::connect(&page).unwrap(), path, more);
    // base64 of `anybody:the-pages-0wn-token`, of `:wrong`, and of what has no colon.
    let basic = "Authorization: Basic YW55Ym9keTp0aGUtcGFnZXMtMHduLXRva2Vu\r\n";
    for refused in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic Ondyb25n\r\n",
        "Authorization: Basic dGhlLXBhZ2VzLTB3bi10b2tlbg==\r\n",
        "Authorization: Basic !!!\r\n",
        "Authorization: the-pages-0wn-token\r\n",
        &format!("Authorization: Bearer {TOKEN}\r\n"),
    ] {
        for path in ["/", "/style.css", &format!("/resource/{A}"), "/nothing"] {
            let (status, head, body) = get(path, refused);
            assert_eq!(status, 401, "{refused} {path}");
            assert!(head.contains("www-authenticate: basic realm="), "{head}");
            assert!(head.contains("content-security-policy"), "{head}");
            assert_eq!(body, "the page's token is needed\n");
        }
    }
    for accepted in [basic, &format!("Authorization: Bearer {PAGE_TOKEN}\r\n")] {
        assert_eq!(get("/", accepted).0, 200, "{accepted}");
        assert!(get(&format!("/resource/{A}"), accepted).2.contains("Project A"));
        assert_eq!(get("/style.css", accepted).0, 200);
    }
    // A token that is replaced is used at once.
    world.write("page-token", "another-one");
    assert_eq!(get("/", basic).0, 401);
    assert_eq!(get("/", "Authorization: Bearer another-one\r\n").0, 200);
    // And nothing of it is beside health and metrics.
    for path in ["/", "/style.css", &format!("/resource/{A}")] {
        assert_eq!(ask(TcpStream::connect(&metrics).unwrap(), path, "").0, 404, "{path}");
    }
    assert!(!daemon.log().contains(PAGE_TOKEN) && !daemon.log().contains("another-one"));
}

#[test]
fn what_others_wrote_is_text() {
    let evil = "<script>alert(1)</script>";
    let market = market().replace("name: Project A", &format!("name: '{evil}'"));
    let world = reported(&market);
    let job = json!({
        "name": "sec", "kind": "delta", "id": "9", "start": "2026-11-05T00:00:00Z", "end": "2026-11-05T01:00:00Z",
        "value": "3600", "labels": { "project": "project-a", "user": "\"><img src=x onerror=alert(2)>" },
    });
    jobs(&world, "2026-11-10T13:00:00Z", &[job]).exits(0);
    // Another writer, so that there is trouble to tell of by name.
    let period = &world.held(A)["plan_periods"][0]["uuid"];
    let usages = json!([{ "type": "cpu", "amount": "99" }]);
    let body = json!({ "plan_period": period, "resource": A, "usages": usages }).to_string();
    world.send_as("staff-token", "POST", "/api/marketplace-component-usages/set_usage/", &body);
    world.now("2026-11-10T15:00:00Z");
    world.flush().exits(65);
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    for path in ["/", &format!("/resource/{A}")] {
        let (status, _, body) = ask(UnixStream::connect(&socket).unwrap(), path, "");
        assert_eq!(status, 200, "{path}");
        assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{path}: {body}");
        assert!(!body.contains("<script") && !body.contains("<img"), "{path}: {body}");
    }
    let (_, _, body) = ask(UnixStream::connect(&socket).unwrap(), "/", "");
    assert!(
        body.contains("held") && body.contains("resolve RESOURCE adopt") && body.contains("99.00"),
        "{body}"
    );
}

/// A day ends where the bill's does: at Tallinn's midnight of November 6, five days of thirty, 166 of 1000 have passed.
#[test]
fn days_are_those_of_the_billing_zone() {
    let world = World::of(Setting { api: CURRENT, now: NOON, zone: "Europe/Tallinn", marketplace: market() });
    configure(&world, "late: hold", "billing_timezone: Europe/Tallinn", &[("source", keys(CPU))]);
    // The second ends at 00:30 of the 7th there, at 22:30 of the 6th by UTC.
    jobs(&world, NOON, &[five(), hours("2", "11-06T20:00", "11-06T22:30", "2.5")]).exits(0);
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let body = get_from_socket(&socket, &format!("/resource/{A}"));
    for row in
        ["<th scope=\"row\">2026-11-05</th><td>5</td>", "<th scope=\"row\">2026-11-07</th><td>2.5</td>"]
    {
        assert!(body.contains(row), "`{row}` in {body}");
    }
    assert!(body.contains("H166 V"), "{body}");
    // The date that this agent sent, a few seconds back, is not when it was written.
    assert!(body.contains("Waldur's number: dated 2026-11-10 11:59:"), "{body}");
    assert!(body.contains(", by this agent's user"), "{body}");
}

#[test]
fn what_is_wrong_with_the_daemon_is_on_it() {
    let world = reported(&market());
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    assert!(get_from_socket(&socket, "/").contains("Nothing."));
    let right = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", "waldur: {}\n");
    daemon.signal("HUP");
    daemon.until_it_says("The new configuration is not used, the old one stays at work:");
    until("it is on the page", || {
        get_from_socket(&socket, "/").contains("A reload was refused at 2026-11-10 12:00")
    });
    assert!(!get_from_socket(&socket, "/").contains("Nothing."));
    world.write("agent.yaml", &right);
    daemon.signal("HUP");
    daemon.until_it_says("Reloaded: 1 collector.");
    until("it is gone", || {
        UnixStream::connect(&socket).is_ok() && get_from_socket(&socket, "/").contains("Nothing.")
    });
}

/// Who has no token holds a connection for seconds, and all there are for no longer.
#[test]
fn connections_that_ask_for_nothing_are_closed() {
    let world = reported(&market());
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "listen: 127.0.0.1:0\n");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let metrics = address(&daemon, "Health and metrics at http://");
    let begun = std::time::Instant::now();
    // Half with the beginning of a request. More than are open at once.
    let mut idle: Vec<UnixStream> = (0..80).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut idle_there: Vec<TcpStream> = (0..80).map(|_| TcpStream::connect(&metrics).unwrap()).collect();
    for (one, other) in idle.iter_mut().zip(&mut idle_there).step_by(2) {
        one.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
        other.write_all(b"GET /health HTTP/1.1\r\nHost: ").unwrap();
    }
    // Those that wait behind them are served when these have been closed, without their doing.
    assert!(get_from_socket(&socket, "/").contains("Usage in 2026-11"));
    assert_eq!(get(&metrics, "/health"), (200, "ok\n".to_owned()));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    let mut left = Vec::new();
    idle[0].read_to_end(&mut left).unwrap();
    let mut left = Vec::new();
    idle_there[1].read_to_end(&mut left).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// Who asks and never reads the answer holds a connection, and keeps nobody else out: neither from the page nor from metrics,
/// and the daemon goes on reporting.
#[test]
fn who_asks_and_does_not_read_keeps_nobody_out() {
    let world = reported(&market());
    let socket = world.path("page.sock");
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let text = text.replace("schedule: \"@hourly\"", "schedule: every 10s");
    world.write("agent.yaml", &text.replace("submit: { ", "submit: { schedule: every 10s, "));
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "listen: 127.0.0.1:0\n");
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    let metrics = address(&daemon, "Health and metrics at http://");
    let ask = |stream: &mut dyn Write, path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: page\r\n\r\n").unwrap();
    };
    // As many as may be open at once, less one.
    let mut pages: Vec<UnixStream> = (0..63).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    pages.iter_mut().for_each(|stream| ask(stream, &format!("/resource/{A}")));
    let mut scrapes: Vec<TcpStream> = (0..63).map(|_| TcpStream::connect(&metrics).unwrap()).collect();
    scrapes.iter_mut().for_each(|stream| ask(stream, "/metrics"));
    assert!(get_from_socket(&socket, "/").contains("Usage in 2026-11"));
    assert_eq!(get(&metrics, "/health"), (200, "ok\n".to_owned()));
    lines(
        &world,
        "source",
        &[
            five(),
            hours("2", "11-07T00:00", "11-07T02:00", "2.5"),
            hours("3", "11-08T00:00", "11-08T01:00", "1"),
        ],
    );
    world.in_time("the report", || world.rows(A) == ["cpu 2026-11 8.50"]);
    drop((pages, scrapes));
}

#[test]
fn mistakes_of_its_section_are_told() {
    let world = world(CURRENT, NOON);
    for (page, words) in [
        ("listen: 9465", "is neither an address such as 127.0.0.1:9465 nor unix:"),
        ("listen: \"unix:page.sock\"", "must be an absolute path"),
        ("listen: \"unix:/run/page.sock\", token_file: /token", "a Unix socket needs none"),
        ("token_file: /token", "`listen` is missing"),
        ("listen: \"127.0.0.1:9465\", token_file: token", "must be an absolute path"),
        ("listen: \"127.0.0.1:9465\", token_fil: /token", "did you mean `token_file`"),
    ] {
        configure(&world, "late: hold", "", &[("source", keys(CPU))]);
        with_page(&world, page, "");
        world.agent(&["check", "--offline"]).exits(78).says(words);
    }
}

/// The contrast of two colours, as WCAG 2 has it.
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |colour: &str| {
        let part = |at: usize| {
            let part = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
    one.max(other) / one.min(other)
}

#[test]
fn its_colours_can_be_read_by_light_and_by_dark() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let style = std::fs::read_to_string(root.join("src/daemon/page/style.css")).unwrap();
    let schemes: Vec<BTreeMap<&str, &str>> = style
        .split(":root {")
        .skip(1)
        .map(|block| {
            let lines = block.split('}').next().unwrap().lines();
            lines
                .filter_map(|line| line.trim().strip_prefix("--")?.trim_end_matches(';').split_once(": "))
                .collect()
        })
        .collect();
    assert_eq!(schemes.len(), 2);
    assert!((contrast("#ffffff", "#000000") - 21.0).abs() < 0.01);
    for scheme in schemes {
        for ground in [scheme["ground"], scheme["raised"]] {
            for text in ["text", "quiet", "link", "good", "bad"] {
                let found = contrast(scheme[text], ground);
                assert!(found >= 4.5, "{text} on {ground}: {found:.2}");
            }
            for shape in ["line", "holds", "border"] {
                let found = contrast(scheme[shape], ground);
                assert!(found >= 3.0, "{shape} on {ground}: {found:.2}");
            }
        }
    }
}

#[test]
fn the_commands_of_its_page_work() {
    let world = reported(&market());
    let socket = world.path("page.sock");
    with_page(&world, &format!("listen: \"unix:{}\"", socket.display()), "");
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        return skip("the_commands_of_its_page_work", "curl");
    }
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready");
    docs_commands::run("page.md", world.folder.path(), &[], "");
}
