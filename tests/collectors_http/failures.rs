//! Every way to fail, with the words that the operator reads. Whatever it is, nothing is taken for zero.

use serde_json::Value;

use super::agent::*;
use super::server::*;

/// One collector that asks `server`, with these keys of its request.
fn world(server: &Server, request: &str) -> World {
    let world = World::new(CURRENT);
    let collector = format!(
        "collectors:\n  api:\n    plugin: http\n    schedule: \"@hourly\"\n    url: http://{}/v1?key=s3cret-key\n    \
         auth: {{ token_file: {} }}\n    max_answer: 4KiB\n    timeout: 5s\n    requests:\n      rows:\n{request}    \
         resource: {{ offering: {OFFERING}, backend_id: \"{{project}}\" }}\n    \
         meters: {{ cpu_hours: {{ reading: used, aggregate: last }} }}\n",
        server.address,
        world.path("api-token").display()
    );
    world.write("agent.yaml", &(world.head("") + &collector));
    world.write("api-token", "s3cret-of-the-api\n");
    world
}

const ROWS: &str = "        each: { row: answer.rows }\n        labels: { project: row.p }\n        readings:\n          \
                    used: { kind: gauge, value: row.v }\n";

fn paged(paging: &str) -> String {
    format!("        paging: {{ {paging} }}\n{ROWS}")
}

fn collect(world: &World, code: i32) -> Value {
    let done = world.agent(&["collect", "--json"]).exits(code);
    for secret in ["s3cret-of-the-api", "s3cret-key"] {
        assert!(!done.all().contains(secret), "{done:#?}");
    }
    done.json()["collectors"][0].clone()
}

/// What is said of a run that fails; nothing of it counts.
fn error(server: &Server, request: &str) -> String {
    let collector = collect(&world(server, request), 69);
    assert_eq!(
        (&collector["outcome"], &collector["readings"]),
        (&Value::from("failed"), &serde_json::json!([]))
    );
    collector["error"].as_str().unwrap().replace(&server.address, "HOST")
}

fn error_of(said: Said, request: &str) -> String {
    error(&Server::start(move |_| said.clone()), request)
}

#[test]
fn an_answer_that_is_no_success_or_no_json_fails_the_run() {
    for (said, words) in [
        (
            (
                "401 Unauthorized",
                String::new(),
                r#"{"message":"Token s3cret-of-the-api expired"}"#.to_owned(),
            ),
            "request rows: GET http://HOST/v1: 401 Unauthorized: message: Token *** expired; the login is wrong or has \
             expired: look at the file ",
        ),
        (
            ("403 Forbidden", String::new(), String::new()),
            "request rows: GET http://HOST/v1: 403 Forbidden; the login may not read this: give it the permission (see \
             the collector's page)",
        ),
        (
            ("404 Not Found", String::new(), "404 page not found\n".to_owned()),
            "request rows: GET http://HOST/v1: 404 Not Found: 404 page not found; there is nothing to ask at this \
             address: correct it",
        ),
        (
            ("503 Service Unavailable", String::new(), "<html><title>Maintenance</title>".to_owned()),
            "request rows: GET http://HOST/v1: 503 Service Unavailable: Maintenance; the server has a problem of its \
             own: its log says more",
        ),
        (
            json("<html><title>Log in</title>"),
            "request rows: GET http://HOST/v1: the answer (application/json; charset=utf-8) is not JSON: expected value \
             at line 1 column 1; it says: Log in",
        ),
        (json(r#"{"rows":[{"p":"a","#), "is not JSON: EOF while parsing"),
        (json(""), "is not JSON: EOF while parsing a value at line 1 column 0; it is empty"),
        (
            json(format!("[{}]", "1,".repeat(3_000))),
            "the answer has more than 4096 bytes; nothing of it is used.",
        ),
        // An error that calls itself a success has no rows.
        (
            json(r#"{"error":"database is down"}"#),
            "request rows: GET http://HOST/v1: `answer.rows` yields nothing where a list was expected; it says: error: \
             database is down",
        ),
    ] {
        let error = error_of(said, ROWS);
        assert!(error.contains(words), "{error}\n  is not\n{words}");
    }
}

#[test]
fn what_is_expected_must_be_true() {
    let request = format!("        expect: answer.status == 'ok'\n{ROWS}");
    let error = error_of(json(r#"{"status":"failure","message":"no such user","rows":[]}"#), &request);
    let words = "request rows: GET http://HOST/v1: the answer is not as expected (`answer.status == 'ok'`); it says: \
                 message: no such user; status: failure";
    assert_eq!(error, words);
}

#[test]
fn a_row_without_a_value_is_quarantined_and_the_others_count() {
    let rows = r#"{"rows":[{"p":"project-a","v":0.1},{"p":"project-b"},{"p":null,"v":2},{"p":"c","v":"n/a"},
                           {"p":"d","v":0.1234567890123},{"p":"e","v":true},{"p":"project-b","v":"1.50"}]}"#;
    let collector = collect(&world(&Server::start(move |_| json(rows)), ROWS), 0);
    let values: Vec<_> =
        collector["readings"].as_array().unwrap().iter().map(|one| one["value"].clone()).collect();
    assert_eq!(values, ["0.1", "1.5"]);
    let reasons: Vec<_> =
        collector["quarantined"].as_array().unwrap().iter().map(|one| one["reason"].clone()).collect();
    assert_eq!(
        reasons,
        [
            "used: `row.v` yields nothing",
            "label project: `row.p` yields nothing (`... || 'none'` gives it a name)",
            "used: `n/a` is not a decimal number",
            "used: 0.1234567890123 has more digits after the point than are kept; if its source computes in floats, say \
             `round: 12`",
            "used: `row.v` yields true or false",
        ]
    );
    // If nothing at all can be read, the API has most likely changed.
    let collector = collect(&world(&Server::start(|_| json(r#"{"rows":[{"p":"a","value":1}]}"#)), ROWS), 69);
    assert_eq!(
        collector["error"],
        "the one line or value that it found could not be read: used: `row.v` yields nothing: {\"p\":\"a\",\"value\":1}. \
         Nothing of it counts; has its source changed?"
    );
}

#[test]
fn two_rows_that_are_one_reading_are_a_mistake_or_parts() {
    let rows = r#"{"rows":[{"p":"project-a","v":1},{"p":"project-b","v":7},{"p":"project-a","v":2},{"p":"project-b","v":7}]}"#;
    let collector = collect(&world(&Server::start(move |_| json(rows)), ROWS), 0);
    // Neither of two that differ, and one of two that are the same.
    assert_eq!(collector["readings"].as_array().unwrap().len(), 1, "{collector:#}");
    assert_eq!(collector["readings"][0]["labels"]["project"], "project-b");
    let reason = collector["quarantined"][0]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("this reading is there 2 times in one run, with the values 1 and 2: "),
        "{reason}"
    );
    assert!(
        reason.ends_with("what are different things need labels or an id that tell them apart"),
        "{reason}"
    );
    let request = format!("        repeats: add\n{ROWS}");
    let collector = collect(&world(&Server::start(move |_| json(rows)), &request), 0);
    let values: Vec<_> =
        collector["readings"].as_array().unwrap().iter().map(|one| one["value"].clone()).collect();
    assert_eq!(values, ["3", "14"]);
}

/// Whatever else stands in an answer, and however a server or a proxy writes it.
#[test]
fn an_answer_is_read_as_it_comes() {
    let rows =
        |more: &str| format!(r#"{{"rows":[{{"p":"project-a","v":1{more}}},{{"p":"project-b","v":2}}]}}"#);
    for (what, said) in [
        ("a byte order mark", json(format!("\u{feff}{}", rows("")))),
        ("half an emoji", json(rows(r#","name":"x\ud83d""#))),
        ("a number beyond all numbers", json(rows(r#","size":1e400"#))),
        ("a key twice, of no concern", json(rows(r#","x":{"a":1,"a":2}"#))),
    ] {
        let collector = collect(&world(&Server::start(move |_| said.clone()), ROWS), 0);
        let values: Vec<_> =
            collector["readings"].as_array().unwrap().iter().map(|one| one["value"].clone()).collect();
        assert_eq!(values, ["1", "2"], "{what}: {collector:#}");
        assert_eq!(collector["quarantined"], serde_json::json!([]), "{what}");
    }
    // In what is read, it costs its row: two names that differ in it alone are not one.
    let rows = r#"{"rows":[{"p":"x\ud83d","v":1},{"p":"x\udc00","v":2},{"p":"project-b","v":3}]}"#;
    let collector = collect(&world(&Server::start(move |_| json(rows)), ROWS), 0);
    let readings = collector["readings"].as_array().unwrap();
    assert_eq!((readings.len(), &readings[0]["value"]), (1, &serde_json::json!("3")), "{collector:#}");
    let quarantined = collector["quarantined"].as_array().unwrap();
    assert_eq!(quarantined.len(), 2, "{collector:#}");
    assert_eq!(
        quarantined[0]["reason"],
        "label project: `row.p` yields a text with what is no character in it (half a surrogate pair, or bytes that are not \
         UTF-8)"
    );
    // A form that nobody asked for is told by its name.
    let error = error_of(("200 OK", "Content-Encoding: br\r\n".to_owned(), "xyz".to_owned()), ROWS);
    assert_eq!(
        error,
        "request rows: GET http://HOST/v1: the answer is compressed as `br`, which was not asked for (gzip is understood); look \
         at what stands before the server"
    );
    // A list within a row that is none costs that row.
    let rows = r#"{"rows":[{"p":"a","users":[{"v":1}]},{"p":"b","users":null},{"p":"c","users":[{"v":3}]}]}"#;
    let request = "        each: { row: answer.rows, one: row.users }\n        labels: { project: row.p }\n        \
                   readings:\n          used: { kind: gauge, value: one.v }\n";
    let collector = collect(&world(&Server::start(move |_| json(rows)), request), 0);
    assert_eq!(collector["readings"].as_array().unwrap().len(), 2, "{collector:#}");
    assert_eq!(collector["quarantined"][0]["reason"], "`row.users` yields nothing where a list was expected");
}

/// (a row, the labels of the series that it could be; none: any).
#[tokio::test]
async fn a_row_that_can_not_be_read_bears_on_as_little_as_it_tells() {
    use waldur_usage_agent::collectors::{Bearing, Request, SeriesFilter, http};
    use waldur_usage_agent::config::section::Section;
    for (row, labels) in [
        (r#"{"p":"a","u":"x","v":null}"#, vec![("p", "a"), ("u", "x")]),
        (r#"{"p":"a","u":"x","v":1,"t":"soon"}"#, vec![("p", "a"), ("u", "x")]),
        // A row of nobody is no row of somebody who is missed.
        (r#"{"p":null,"u":"x","v":1}"#, vec![("p", ""), ("u", "x")]),
        (r#"{"u":"x","v":1}"#, vec![("p", ""), ("u", "x")]),
        // Whose it is can't be read.
        (r#"{"p":{},"u":"x","v":1}"#, vec![("u", "x")]),
    ] {
        let server = Server::start(move |_| json(format!(r#"{{"rows":[{row}]}}"#)));
        let keys = format!(
            "url: http://{}\nrequests: {{ r: {{ each: {{ row: answer.rows }}, labels: {{ p: row.p, u: row.u }}, at: \"row.t || \
             now\", readings: {{ used: {{ kind: gauge, value: row.v }} }} }} }}",
            server.address
        );
        let (mut section, problems) = Section::parse(&keys);
        let collector = (http::PLUGIN.build)(&mut section).unwrap();
        assert_eq!(problems.list(), vec![]);
        let now = "2026-11-10T12:00:00Z".parse().unwrap();
        let request = Request { now, since: now, checkpoint: None, withhold: Vec::new() };
        let batch = collector.collect(request).await.unwrap();
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let filter = SeriesFilter { name: Some("used".to_owned()), labels, ..SeriesFilter::default() };
        assert_eq!(batch.quarantined.len(), 1, "{row}");
        assert_eq!(batch.quarantined[0].bears_on, Bearing::Some(vec![filter]), "{row}");
    }
}

/// Two headers, blanks anywhere, and what is within quotes.
#[test]
fn every_link_header_leads_on() {
    for links in [
        "Link: </v1?page=1>; rel=\"self\"\r\nLink: </v1?page=2>; rel=\"next\"\r\n",
        "Link: </v1?page=2>; rel='next'\r\n",
        "Link: </v1?page=2>; rel=\"http://www.iana.org/assignments/relation/next\"\r\n",
        "Link: </v1?page=9>;title=\"a, <b>; rel=next\";rel=last  ,\t</v1?page=2>\t; REL = next\r\n",
        "link: </v1?page=2>; rel=\"prefetch NEXT\"; title=\"gr\u{fc}n\"\r\n",
    ] {
        let server = Server::start(move |heard| match heard.line.contains("page=2") {
            true => json(r#"{"rows":[{"p":"project-b","v":2}]}"#),
            false => ("200 OK", links.to_owned(), r#"{"rows":[{"p":"project-a","v":1}]}"#.to_owned()),
        });
        let collector = collect(&world(&server, &paged("link: true")), 0);
        assert_eq!(collector["readings"].as_array().unwrap().len(), 2, "{links}: {:?}", server.lines());
    }
}

/// What would be "no next page" without a word, and what would never end.
#[test]
fn a_link_that_can_not_be_read_and_a_circle_of_pages_fail_the_request() {
    let row = |p: &str, more: &str| format!(r#"{{"rows":[{{"p":"{p}","v":1}}]{more}}}"#);
    let odd = ("200 OK", "Link: /v1?page=2; rel=\"next\"\r\n".to_owned(), row("a", ""));
    let said = error_of(odd, &paged("link: true"));
    assert_eq!(
        said,
        "request rows: GET http://HOST/v1: its `Link` header speaks of a next page and can't be read: /v1?page=2; rel=\"next\""
    );
    let circle = |key: &'static str| {
        Server::start(move |heard| {
            let next = if heard.line.contains("=2") { 3 } else { 2 };
            json(row(&format!("project-{next}"), &format!(r#","next":"/v1?{key}={next}","cursor":"{next}""#)))
        })
    };
    for (paging, query) in
        [("next: answer.next", ""), ("cursor: answer.cursor", "        query: { c: \"{cursor}\" }\n")]
    {
        let server = circle("c");
        let said = error(&server, &format!("{query}{}", paged(paging)));
        assert_eq!(
            said,
            "request rows: GET http://HOST/v1: page 4 is one that was read before: its pages go round in a circle; nothing of \
             them is used"
        );
        assert_eq!(server.lines().len(), 3, "{paging}");
    }
}

/// A success is no answer yet where it says that there is more, or nothing.
#[test]
fn a_part_of_an_answer_is_none() {
    let rows = r#"{"rows":[{"p":"project-a","v":1}]}"#;
    for (status, words) in [
        ("202 Accepted", "; the answer is not made yet: nothing of this is used"),
        (
            "206 Partial Content",
            "; this is a part of the answer, and a part is not used: take away what asks for one (`Range` in `headers`), or \
             look at the cache before the server",
        ),
        ("207 Multi-Status", "; this is no whole answer, and nothing of it is used"),
    ] {
        let said = error_of((status, String::new(), rows.to_owned()), ROWS);
        assert!(said.starts_with(&format!("request rows: GET http://HOST/v1: {status}: ")), "{said}");
        assert!(said.ends_with(words), "{said}");
    }
    for status in ["200 OK", "201 Created", "203 Non-Authoritative Information"] {
        let server = Server::start(move |_| (status, String::new(), rows.to_owned()));
        assert_eq!(collect(&world(&server, ROWS), 0)["readings"].as_array().unwrap().len(), 1, "{status}");
    }
}

/// A row of a step that is over, which could not be read: its step is asked for again a day later, and counts then.
#[test]
fn a_step_with_a_row_that_could_not_be_read_is_asked_for_again() {
    let mended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_mended = mended.clone();
    let server = Server::start(move |heard| {
        let is_first = heard.line.contains("from=2026-11-03");
        let is_good = !is_first || is_mended.load(std::sync::atomic::Ordering::SeqCst);
        json(format!(r#"{{"rows":[{{"p":"project-a","v":{}}}]}}"#, if is_good { "1" } else { "\"soon\"" }))
    });
    let request = format!(
        "        step: 1d\n        query: {{ from: \"{{start:date}}\" }}\n{}",
        ROWS.replace("gauge", "delta")
    );
    let world = world(&server, &request);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &text.replace("aggregate: last", "aggregate: sum"));
    let collector = collect(&world, 0);
    assert_eq!(collector["quarantined"].as_array().unwrap().len(), 1, "{collector:#}");
    world.flush();
    // The world is at 10 November, so that there are ten days, of which one is missing.
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 9.00"]);
    mended.store(true, std::sync::atomic::Ordering::SeqCst);
    let before = server.lines().len();
    world.now("2026-11-10T18:00:00Z");
    world.flush();
    assert!(!server.lines()[before..].iter().any(|line| line.contains("from=2026-11-03")));
    world.now("2026-11-11T12:00:00Z");
    world.flush();
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 11.00"]);
}

/// One request that fails holds nothing of the others up.
#[test]
fn a_request_that_fails_is_that_requests_trouble() {
    let server = Server::start(|heard| match heard.line.contains("/v1/other") {
        true => ("503 Service Unavailable", String::new(), "busy".to_owned()),
        false => json(r#"{"rows":[{"p":"project-a","v":1}]}"#),
    });
    let request = |rows: &str| format!("{ROWS}      more:\n        path: other\n{rows}");
    let collector = collect(&world(&server, &request(ROWS)), 69);
    assert_eq!(collector["outcome"], "partial", "{collector:#}");
    assert_eq!(collector["readings"].as_array().unwrap().len(), 1);
    let said = collector["problems"][0].as_str().unwrap();
    assert!(said.starts_with("request more: GET http://") && said.contains("503"), "{said}");
    // Where no meter wants what it would have said, it is shown and changes no exit code.
    let collector = collect(&world(&server, &request(&ROWS.replace("used:", "more:"))), 0);
    let note = collector["notes"][0].as_str().unwrap();
    assert!(note.starts_with("no meter wants what this is about: request more: GET http://"), "{note}");
}

#[test]
fn a_page_that_does_not_come_fails_the_whole_run() {
    let row = |p: &str| format!(r#"{{"p":"{p}","v":1}}"#);
    let failing = move |heard: &Heard| match heard.line.contains("page=2") {
        false => json(format!(r#"{{"rows":[{}],"next":"/v1?page=2"}}"#, row("a"))),
        true => ("502 Bad Gateway", String::new(), String::new()),
    };
    let error_text = error(&Server::start(failing), &paged("next: answer.next"));
    assert!(error_text.starts_with("request rows: GET http://HOST/v1: 502 Bad Gateway"), "{error_text}");
    // The next page on another server, which is not to hear the token.
    let away = json(format!(r#"{{"rows":[{}],"next":"https://evil.example.com/v1"}}"#, row("a")));
    let said = error_of(away, &paged("next: answer.next"));
    assert!(
        said.ends_with("the next page is on another server, evil.example.com, which is not asked"),
        "{said}"
    );
    // A server that does not know the key, and says the same for ever.
    let same = json(format!(r#"{{"rows":[{}]}}"#, row("a")));
    let request = format!("        query: {{ p: \"{{page}}\" }}\n{}", paged("page: 1"));
    let said = error_of(same.clone(), &request);
    assert!(
        said.contains("page 2 is the same as the one before: does it know the key that `paging` fills in?"),
        "{said}"
    );
    let said = error_of(
        json(format!(r#"{{"rows":[{}],"next":"/v1?key=s3cret-key"}}"#, row("a"))),
        &paged("next: answer.next"),
    );
    assert!(said.contains("the next page is the same page"), "{said}");
    // Fewer rows than there are.
    let said = error_of(
        json(format!(r#"{{"rows":[{}],"count":2}}"#, row("a"))),
        &format!("        total: answer.count\n{ROWS}"),
    );
    assert!(said.ends_with("1 rows came where the server speaks of 2; nothing of them is used"), "{said}");
}

#[test]
fn each_way_of_paging_reads_all_pages() {
    let page = |rows: &[&str], rest: &str| {
        let rows: Vec<_> = rows.iter().map(|p| format!(r#"{{"p":"{p}","v":1}}"#)).collect();
        json(format!(r#"{{"rows":[{}]{rest}}}"#, rows.join(",")))
    };
    let ways: [(&str, &str, &[&str]); 4] = [
        ("next: answer.next", "", &["GET /v1?key=s3cret-key", "GET /v1/more?at=2", "GET /v1/more?at=3"]),
        ("cursor: answer.cursor", "c: \"{cursor}\"", &["&c=2", "&c=3"]),
        ("page: 1", "page: \"{page}\"", &["&page=1", "&page=2", "&page=3", "&page=4"]),
        ("offset: 10", "skip: \"{offset}\"", &["&skip=0", "&skip=10", "&skip=20", "&skip=30"]),
    ];
    for (paging, query, asked) in ways {
        let server = Server::start(move |heard| {
            let line = heard.line.as_str();
            let ends = |ends: &[&str]| ends.iter().any(|end| line.ends_with(end));
            match () {
                () if ends(&["at=2", "c=2", "page=2", "skip=10"]) => {
                    page(&["b"], r#","next":"http://127.0.0.1:1/v1/more?at=3","cursor":3"#)
                }
                () if ends(&["at=3", "c=3", "page=3", "skip=20"]) => {
                    page(&["c"], r#","next":null,"cursor":"""#)
                }
                () if ends(&["page=4", "skip=30"]) => page(&[], ""),
                // The address that a server behind a proxy names is asked where it was asked first.
                () => page(&["a"], r#","next":"more?at=2","cursor":"2""#),
            }
        });
        // `more?at=2` is relative to /v1.
        let request = format!(
            "        path: {}\n        query: {{ {query} }}\n{}",
            if query.is_empty() { "''" } else { "list" },
            paged(paging)
        );
        let collector = collect(&world(&server, &request), 0);
        assert_eq!(collector["readings"].as_array().unwrap().len(), 3, "{paging}: {:?}", server.lines());
        let lines = server.lines();
        for (line, end) in lines.iter().rev().zip(asked.iter().rev()) {
            assert!(line.ends_with(end) || end.starts_with("GET /v1/more"), "{paging}: {lines:?}");
        }
    }
}

#[test]
fn who_is_away_or_silent_is_told_and_what_was_known_stands() {
    let server = Server::start(|_| json(r#"{"rows":[{"p":"project-a","v":4}]}"#));
    let world = world(&server, ROWS);
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00"]);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap().replace(&server.address, &free);
    world.write("agent.yaml", &text);
    world.now("2026-11-10T12:10:00Z");
    let collector = collect(&world, 69);
    let error = format!(
        "request rows: GET http://{free}/v1: can't be reached: Connection refused (os error 111); is it running, and is \
         `url` right?"
    );
    assert_eq!(collector["error"], error);
    world.flush().exits(69).says("can't be reached");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00"]);
    // One that never answers is given as long as is said.
    let silent = Server::start(|_| silence());
    let text = text.replace(&free, &silent.address);
    world.write("agent.yaml", &text);
    world.flush().exits(69).says("no whole answer within 5 s; nothing of it is used");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 4.00"]);
}

#[test]
fn a_secret_that_a_collector_names_is_withheld_from_programs() {
    let server = Server::start(|_| json(r#"{"rows":[]}"#));
    let world = world(&server, ROWS);
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let text =
        text.replace(&format!("token_file: {}", world.path("api-token").display()), "token_env: API_TOKEN");
    let show = world.path("show");
    std::fs::write(&show, "#!/bin/sh\nenv >\"$1\"\n").unwrap();
    let program = format!(
        "  shown:\n    plugin: exec\n    schedule: \"@hourly\"\n    command: [sh, {}, {}]\n    resource: {A}\n    \
         meters: {{ gpu_hours: {{ reading: x }} }}\n",
        show.display(),
        world.path("environment").display()
    );
    world.write("agent.yaml", &(text + &program));
    let mut command = world.command(&["collect", "--json"]);
    let done = command.env("API_TOKEN", "s3cret-of-the-api").env("OTHER", "seen").output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(server.heard()[0].has("authorization: Bearer s3cret-of-the-api"), "{:?}", server.heard());
    let environment = std::fs::read_to_string(world.path("environment")).unwrap();
    assert!(
        environment.contains("OTHER=seen") && !environment.contains("s3cret-of-the-api"),
        "{environment}"
    );
}

#[test]
fn mistakes_in_the_file_are_told_all_at_once() {
    let server = Server::start(|_| json("{}"));
    let request = "        path: a?b\n        query: { start: \"{begin}\" }\n        each: { row: 'answer.rows[' }\n        \
                   paging: { page: 1, link: true }\n        step: 7h\n        totl: x\n        readings:\n          \
                   used: { kind: gauge, valu: x, round: 13 }\n";
    let mut said = world(&server, request).agent(&["check", "--offline"]).exits(78);
    for words in [
        "requests.rows.path: must not have a `?`: use `query`",
        "requests.rows.query: start: `{begin}` is nothing that can be filled in; known: {start}, {end} and {now}",
        "requests.rows.each: row: `answer.rows[` at character 13: ",
        "requests.rows.paging: say one way to the next page",
        "requests.rows.step: must be a part of a day, such as 1h or 1d",
        "requests.rows.totl: unknown key `totl`; did you mean `total`?",
        "readings.used: `value` is missing: an expression",
        "readings.used.valu: unknown key `valu`; did you mean `value`?",
        "readings.used.round: `13` is not a number of digits after the point, 0 to 12",
    ] {
        said = said.says(words);
    }
    let request = "        each: { row: answer.rows }\n        readings:\n          used: { kind: delta, value: row.v }\n";
    let said = world(&server, request).agent(&["check", "--offline"]).exits(78);
    said.says("used is a delta, so it must be said of when, or each run would count it again");
    let request = format!("        step: 1m\n        overlap: 1d\n{}", ROWS.replace("gauge", "delta"));
    let said = world(&server, &request).agent(&["check", "--offline"]).exits(78);
    said.says("requests.rows.overlap: is more than 500 steps: choose a longer `step`");
    let said = world(&server, &ROWS.replace("used:", "usd:")).agent(&["check", "--offline"]).exits(78);
    said.says("the meter cpu_hours wants a reading `used`, which this collector does not make; it makes usd");
}
