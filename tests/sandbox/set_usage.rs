//! `set_usage`: what is accepted, what is refused, in which words, and what is left behind (A §1 to §3).

use serde_json::{Value, json};

use super::server::*;

fn refused(server: &Server, body: &Value) -> Value {
    let reply = server.post(SET_USAGE, body);
    assert_eq!(reply.status, 400, "{}", reply.body);
    reply.json()
}

/// The errors of one item with this amount, written literally.
fn amount_error(server: &Server, literal: &str) -> Value {
    let body = format!(r#"{{"resource":"{A}","usages":[{{"type":"cpu_hours","amount":{literal}}}]}}"#);
    let reply = server.post_text("provider", SET_USAGE, &body);
    match reply.status {
        201 => Value::Null,
        400 => reply.json()["usages"][0]["amount"].clone(),
        other => panic!("{literal}: {other} {}", reply.body),
    }
}

#[test]
fn a_success_is_201_with_nothing_in_it() {
    for server in [Server::classic(), Server::current()] {
        let reply = server.report(A, "cpu_hours", "7");
        assert_eq!((reply.status, reply.body.as_str()), (201, ""));
        assert_eq!(reply.headers.get("content-length").map(String::as_str), Some("0"));
        assert_eq!(reply.headers.get("content-type"), None);
        assert_eq!(reply.headers.get("connection").map(String::as_str), Some("close"));
        assert_eq!(reply.headers.get("date").map(String::as_str), Some("Tue, 10 Nov 2026 12:00:00 GMT"));
        assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "7.00")]);
    }
}

#[test]
fn a_report_replaces_the_total_also_downwards_and_keeps_the_row() {
    let server = Server::classic();
    server.report(A, "cpu_hours", "7");
    let first = server.row_address(A, "cpu_hours");
    server.report(A, "cpu_hours", "5.5");
    assert_eq!(server.row_address(A, "cpu_hours"), first);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "5.50")]);
    assert_eq!(server.billed(A, "cpu_hours"), ["5.50"]);
}

#[test]
fn current_usages_become_exactly_what_was_sent() {
    let server = Server::classic();
    let usages = json!([{ "type": "cpu_hours", "amount": 1 }, { "type": "gpu_hours", "amount": 2 }]);
    server.post(SET_USAGE, &json!({ "resource": A, "usages": usages }));
    server.report(A, "cpu_hours", "7");
    assert_eq!(server.held(A)["current_usages"], json!({ "cpu_hours": "7.00" }));
    assert_eq!(server.rows(A).len(), 2);
    assert_eq!(server.post(SET_USAGE, &json!({ "resource": A, "usages": [] })).status, 201);
    assert_eq!(server.held(A)["current_usages"], json!({}));
    assert_eq!(server.rows(A).len(), 2);
}

#[test]
fn the_last_of_one_type_wins_and_unknown_fields_are_ignored() {
    let server = Server::classic();
    let usages =
        json!([{ "type": "cpu_hours", "amount": 1, "usage": 9 }, { "type": " cpu_hours ", "amount": 2 }]);
    let body =
        json!({ "resource": A, "usages": usages, "date": "never", "billing_period": 7, "user_usages": [] });
    assert_eq!(server.post(SET_USAGE, &body).status, 201);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "2.00")]);
}

#[test]
fn an_absent_description_clears_and_an_absent_recurring_resets() {
    let server = Server::classic();
    let item = json!({ "type": "cpu_hours", "amount": "1", "description": "why", "recurring": true });
    server.post(SET_USAGE, &json!({ "resource": A, "usages": [item] }));
    let held = server.held(A)["rows"][0].clone();
    assert_eq!((&held["description"], &held["recurring"]), (&json!("why"), &json!(true)));
    server.report(A, "cpu_hours", "1");
    let held = server.held(A)["rows"][0].clone();
    assert_eq!((&held["description"], &held["recurring"]), (&json!(""), &json!(false)));
}

#[test]
fn amounts_are_judged_by_their_written_text() {
    let server = Server::classic();
    let good = [
        "5",
        "\"5\"",
        "\" 5 \"",
        "\"1e3\"",
        "1e3",
        "\"٣\"",
        "0.30",
        "\"-4.25\"",
        "\".5\"",
        "999999999999.99",
    ];
    for literal in good {
        assert_eq!(amount_error(&server, literal), Value::Null, "{literal}");
    }
    let places = json!(["Ensure that there are no more than 2 decimal places."]);
    for literal in ["0.30000000000000004", "\"1.230\"", "1.001", "\"1e-3\""] {
        assert_eq!(amount_error(&server, literal), places, "{literal}");
    }
    let whole = json!(["Ensure that there are no more than 18 digits before the decimal point."]);
    for literal in ["\"1234567890123456789\"", "1000000000000000000", "1e18", "\"12345678901234567890\""] {
        assert_eq!(amount_error(&server, literal), whole, "{literal}");
    }
    let total = json!(["Ensure that there are no more than 20 digits in total."]);
    for literal in ["\"123456789012345678901\"", "1e20", "\"1e999999999\""] {
        assert_eq!(amount_error(&server, literal), total, "{literal}");
    }
    assert_eq!(
        amount_error(&server, &format!("\"{}\"", "1".repeat(1001))),
        json!(["String value too large."])
    );
    let invalid = json!(["A valid number is required."]);
    for literal in ["\"NaN\"", "\"Infinity\"", "\"\"", "\"abc\"", "true", "\"1,5\"", "[1]", "{}"] {
        assert_eq!(amount_error(&server, literal), invalid, "{literal}");
    }
    assert_eq!(amount_error(&server, "null"), json!(["This field may not be null."]));
}

#[test]
fn every_accepted_amount_is_stored_exactly() {
    let server = Server::classic();
    let cases =
        [("\"1e3\"", "1000.00"), ("\"٣\"", "3.00"), ("0.1", "0.10"), ("999999999999.99", "999999999999.99")];
    for (literal, stored) in cases {
        assert_eq!(amount_error(&server, literal), Value::Null);
        assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", stored)]);
    }
    server.report(A, "storage_gb", "999999999999999999.99");
    assert!(server.rows(A).contains(&row("storage_gb", "2026-11-01", "999999999999999999.99")));
}

#[test]
fn errors_stand_at_the_position_of_their_item_and_nothing_is_written() {
    for server in [Server::classic(), Server::current()] {
        let usages = json!([{ "type": "cpu_hours", "amount": 1 }, { "type": "gpu_hours", "amount": "x" }]);
        let errors = refused(&server, &json!({ "resource": A, "usages": usages }));
        assert_eq!(errors, json!({ "usages": [{}, { "amount": ["A valid number is required."] }] }));
        assert_eq!(server.rows(A), []);
    }
}

#[test]
fn usages_must_be_a_list_of_dictionaries() {
    let server = Server::classic();
    let with = |usages: Value| refused(&server, &json!({ "resource": A, "usages": usages }));
    assert_eq!(refused(&server, &json!({ "resource": A })), json!({ "usages": ["This field is required."] }));
    assert_eq!(with(Value::Null), json!({ "usages": ["This field may not be null."] }));
    let list =
        json!({ "usages": { "non_field_errors": ["Expected a list of items but got type \"dict\"."] } });
    assert_eq!(with(json!({})), list);
    let text = "Invalid data. Expected a dictionary, but got str.";
    assert_eq!(with(json!(["x"])), json!({ "usages": [{ "non_field_errors": [text] }] }));
    let missing =
        json!({ "usages": [{ "type": ["This field is required."], "amount": ["This field is required."] }] });
    assert_eq!(with(json!([{}])), missing);
    let text = "Invalid data. Expected a dictionary, but got list.";
    assert_eq!(refused(&server, &json!([])), json!({ "non_field_errors": [text] }));
}

#[test]
fn invalid_components_are_named_sorted_and_refuse_the_whole_call() {
    let kinds =
        |names: &[&str]| -> Value { names.iter().map(|n| json!({ "type": n, "amount": 1 })).collect() };
    let server = Server::classic();
    let body = json!({ "resource": A, "usages": kinds(&["nope", "cpu_hours", "abc", "nope"]) });
    let text = "These components are invalid: abc, nope.";
    assert_eq!(refused(&server, &body), json!({ "non_field_errors": [text] }));
    let body = json!({ "resource": A, "usages": kinds(&["CPU_HOURS", "fee", "setup"]) });
    let text = "These components are invalid: CPU_HOURS, fee, setup.";
    assert_eq!(refused(&server, &body), json!({ "non_field_errors": [text] }));
    assert_eq!(server.rows(A), []);
    // One-time components came to be accepted later; fixed ones never.
    let server = Server::current();
    let text = "These components are invalid: CPU_HOURS, fee.";
    assert_eq!(refused(&server, &body), json!({ "non_field_errors": [text] }));
    assert_eq!(server.report(A, "setup", "1").status, 201);
}

#[test]
fn resources_are_found_by_any_form_of_their_uuid_and_missed_with_400() {
    let server = Server::classic();
    for uuid in [A.to_owned(), A.replace('-', ""), A.to_uppercase()] {
        assert_eq!(server.report(&uuid, "cpu_hours", "1").status, 201, "{uuid}");
    }
    let with = |resource: Value| refused(&server, &json!({ "resource": resource, "usages": [] }));
    for bad in ["not-a-uuid", "5e2f0000-0000-4000-8000-0000000000ff"] {
        assert_eq!(
            with(json!(bad)),
            json!({ "resource": [format!("Object with uuid={bad} does not exist.")] })
        );
    }
    assert_eq!(with(json!(5)), json!({ "resource": ["Object with uuid=5 does not exist."] }));
    for nothing in [json!(""), Value::Null] {
        assert_eq!(with(nothing), json!({ "resource": ["This field may not be null."] }));
    }
    let text = "Either plan_period or resource should be provided.";
    assert_eq!(refused(&server, &json!({ "usages": [] })), json!({ "non_field_errors": [text] }));
}

#[test]
fn only_ok_updating_and_terminating_resources_take_reports() {
    let server = Server::current();
    for (state, good) in [
        ("OK", true),
        ("Updating", true),
        ("Terminating", true),
        ("Creating", false),
        ("Erred", false),
        ("Terminated", false),
    ] {
        server.admin(&format!("/sandbox/resources/{A}"), &json!({ "state": state }));
        let reply = server.report(A, "cpu_hours", "1");
        assert_eq!(reply.status, if good { 201 } else { 400 }, "{state}");
        if !good {
            assert_eq!(reply.json(), json!({ "resource": ["Resource is not in valid state."] }));
        }
    }
}

#[test]
fn permission_is_asked_only_after_validation() {
    let server = Server::classic();
    let good = json!({ "resource": A, "usages": [{ "type": "cpu_hours", "amount": 1 }] });
    let forbidden = json!({ "detail": "You do not have permission to perform this action." });
    assert_eq!(server.post_as("stranger", SET_USAGE, &good).pair(), (403, forbidden));
    let bad = json!({ "resource": A, "usages": [{ "type": "nope", "amount": 1 }] });
    assert_eq!(server.post_as("stranger", SET_USAGE, &bad).status, 400);
    assert_eq!(server.post_as("staff", SET_USAGE, &good).status, 201);
}

#[test]
fn a_resource_without_plan_breaks_a_classic_server_and_is_refused_by_a_current_one() {
    let planless = "5e2f0000-0000-4000-8000-000000000003";
    let reply = Server::classic().report(planless, "cpu_hours", "1");
    assert_eq!((reply.status, reply.body.len()), (500, 145));
    assert!(reply.body.contains("<h1>Server Error (500)</h1>"), "{}", reply.body);
    let reply = Server::current().report(planless, "cpu_hours", "1");
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Resource must have a plan to report usage"), "{}", reply.body);
}

#[test]
fn what_overflows_a_real_server_is_a_500_that_leaves_nothing() {
    for server in [Server::classic(), Server::current()] {
        server.report(A, "gpu_hours", "1");
        let both =
            |last: Value| json!({ "resource": A, "usages": [{ "type": "gpu_hours", "amount": 2 }, last] });
        let huge = both(json!({ "type": "cpu_hours", "amount": "1000000000000" }));
        let wordy = both(json!({ "type": "cpu_hours", "amount": 1, "description": "x".repeat(2001) }));
        for body in [huge, wordy] {
            let reply = server.post(SET_USAGE, &body);
            assert_eq!((reply.status, reply.body.len()), (500, 145));
            assert_eq!(server.rows(A), [row("gpu_hours", "2026-11-01", "1.00")]);
            assert_eq!(server.billed(A, "gpu_hours"), ["1.00"]);
        }
        let fits = both(
            json!({ "type": "cpu_hours", "amount": "999999999999.99", "description": "x".repeat(2000) }),
        );
        assert_eq!(server.post(SET_USAGE, &fits).status, 201);
        assert_eq!(server.report(A, "storage_gb", "1000000000000").status, 201);
    }
}

#[test]
fn an_annual_limit_counts_the_replaced_row_twice_and_commits_half_of_the_call() {
    let server = Server::classic();
    assert_eq!(server.report(A, "capped", "60").status, 201);
    let text = "Total amount exceeds limit. Total amount: 120.00, limit: 100.";
    assert_eq!(server.report(A, "capped", "60").pair(), (400, json!([text])));
    assert_eq!(server.report(A, "capped", "40").status, 201);
    assert_eq!(server.report(A, "capped", "60").status, 201);
    assert_eq!(server.report(A, "capped", "-10").status, 201);
    server.report(A, "capped", "50");
    let usages = json!([
        { "type": "cpu_hours", "amount": 61 },
        { "type": "capped", "amount": 60 },
        { "type": "gpu_hours", "amount": 62 },
    ]);
    let text = "Total amount exceeds limit. Total amount: 110.00, limit: 100.";
    assert_eq!(
        server.post(SET_USAGE, &json!({ "resource": A, "usages": usages })).pair(),
        (400, json!([text]))
    );
    let november = |kind, usage| row(kind, "2026-11-01", usage);
    assert_eq!(server.rows(A), [november("capped", "50.00"), november("cpu_hours", "61.00")]);
    assert_eq!(server.held(A)["current_usages"], json!({ "capped": "50.00" }));
    assert_eq!(server.get(&server.row_address(A, "cpu_hours")).status, 200);
}

#[test]
fn a_monthly_limit_compares_only_the_amount_and_a_current_server_none_at_all() {
    let server = Server::classic();
    assert_eq!(server.report(A, "monthly", "100").status, 201);
    assert_eq!(server.report(A, "monthly", "100").status, 201);
    let text = "Total amount exceeds limit. Total amount: 100.01, limit: 100.";
    assert_eq!(server.report(A, "monthly", "100.01").pair(), (400, json!([text])));
    let server = Server::current();
    assert_eq!(server.report(A, "monthly", "500").status, 201);
    assert_eq!(server.report(A, "capped", "500").status, 201);
    assert_eq!(server.report(A, "capped", "500").status, 201);
}

#[test]
fn texts_that_no_database_takes_are_refused() {
    let server = Server::classic();
    let errors = |item: &str| {
        let body = format!(r#"{{"resource":"{A}","usages":[{item}]}}"#);
        server.post_text("provider", SET_USAGE, &body).json()["usages"][0].clone()
    };
    let nul = errors(r#"{"type":"cpu_hours","amount":1,"description":"a\u0000b"}"#);
    assert_eq!(nul, json!({ "description": ["Null characters are not allowed."] }));
    let null = errors(r#"{"type":"cpu_hours","amount":1,"description":null}"#);
    assert_eq!(null, json!({ "description": ["This field may not be null."] }));
    let lone = errors(r#"{"type":"cpu_hours","amount":1,"description":"\ud800"}"#);
    assert_eq!(lone, json!({ "description": ["Surrogate characters are not allowed: U+D800."] }));
    let pair = format!(
        r#"{{"resource":"{A}","usages":[{{"type":"cpu_hours","amount":1,"description":"\ud83d\ude00"}}]}}"#
    );
    assert_eq!(server.post_text("provider", SET_USAGE, &pair).status, 201);
    assert_eq!(server.held(A)["rows"][0]["description"], "😀");
    let maybe = errors(r#"{"type":"cpu_hours","amount":1,"recurring":"maybe"}"#);
    assert_eq!(maybe, json!({ "recurring": ["Must be a valid boolean."] }));
    let null = errors(r#"{"type":"cpu_hours","amount":1,"recurring":null}"#);
    assert_eq!(null, json!({ "recurring": ["This field may not be null."] }));
}

#[test]
fn what_is_no_json_is_a_parse_error() {
    let server = Server::classic();
    let bodies: [&[u8]; 6] =
        [b"{", b"{\"usages\": NaN}", b"\xff\xfe", "\u{feff}{}".as_bytes(), b"\x1f\x8b\x08\x00", b"{} {}"];
    let headers = [("Authorization", "Token provider"), ("Content-Type", "application/json; charset=utf-8")];
    let long = format!("{{\"usages\": {}}}", "1".repeat(4301));
    for body in bodies.into_iter().chain([long.as_bytes()]) {
        let reply = server.send("POST", SET_USAGE, &headers, body);
        assert_eq!(reply.status, 400);
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("JSON parse error - "), "{detail}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(server.post_text("provider", SET_USAGE, &deep).status, 400);
}

#[test]
fn a_chunked_body_is_seen_as_empty() {
    let server = Server::classic();
    let headers = [
        ("Authorization", "Token provider"),
        ("Content-Type", "application/json"),
        ("Transfer-Encoding", "chunked"),
    ];
    let body = json!({ "resource": A, "usages": [] }).to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let reply = server.send("POST", SET_USAGE, &headers, chunked.as_bytes());
    assert_eq!(reply.pair(), (400, json!({ "usages": ["This field is required."] })));
}

#[test]
fn a_large_body_is_accepted() {
    let server = Server::classic();
    let padding = " ".repeat(15 << 20);
    let body = format!(r#"{{"resource":"{A}",{padding}"usages":[{{"type":"cpu_hours","amount":1}}]}}"#);
    assert_eq!(server.post_text("provider", SET_USAGE, &body).status, 201);
}

#[test]
fn a_plan_given_to_a_resource_lets_it_report() {
    let planless = "5e2f0000-0000-4000-8000-000000000003";
    let server = Server::classic();
    assert_eq!(server.report(planless, "cpu_hours", "1").status, 500);
    server.admin(&format!("/sandbox/resources/{planless}"), &json!({ "plan": true }));
    assert_eq!(server.report(planless, "cpu_hours", "1").status, 201);
    assert_eq!(server.billed(planless, "cpu_hours"), ["1.00"]);
    server.admin(&format!("/sandbox/resources/{planless}"), &json!({ "plan": false }));
    assert_eq!(server.report(planless, "cpu_hours", "2").status, 500);
    assert_eq!(server.rows(planless), [row("cpu_hours", "2026-11-01", "1.00")]);
}

#[test]
fn a_form_is_accepted_and_other_media_types_are_not() {
    let server = Server::classic();
    let send = |media: &str, body: &str| {
        let headers = [("Authorization", "Token provider"), ("Content-Type", media)];
        server.send("POST", SET_USAGE, &headers, body.as_bytes())
    };
    let form = format!("resource={A}&usages[0]type=cpu_hours&usages%5B0%5Damount=5");
    assert_eq!(send("application/x-www-form-urlencoded", &form).status, 201);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "5.00")]);
    let text = "Unsupported media type \"text/plain\" in request.";
    assert_eq!(send("text/plain", "{}").pair(), (415, json!({ "detail": text })));
    assert_eq!(send("application/vnd.api+json", "{}").status, 415);
}

#[test]
fn methods_slashes_and_accept_are_as_strict_as_the_real_thing() {
    let server = Server::classic();
    let reply = server.get(SET_USAGE);
    assert_eq!(reply.pair(), (405, json!({ "detail": "Method \"GET\" not allowed." })));
    server.report(A, "cpu_hours", "1");
    let address = server.row_address(A, "cpu_hours");
    for method in ["PUT", "PATCH", "DELETE"] {
        let reply = server.send(method, &address, &[("Authorization", "Token staff")], b"");
        assert_eq!(reply.pair(), (405, json!({ "detail": format!("Method \"{method}\" not allowed.") })));
    }
    let reply = server.post(SET_USAGE.trim_end_matches('/'), &json!({}));
    assert_eq!((reply.status, reply.headers.get("location").map(String::as_str)), (301, Some(SET_USAGE)));
    let headers = [("Authorization", "Token provider"), ("Accept", "text/html")];
    let reply = server.send("GET", USAGES, &headers, b"");
    assert_eq!(reply.pair(), (406, json!({ "detail": "Could not satisfy the request Accept header." })));
    assert_eq!(server.get("/api/no-such-thing/").status, 404);
}

#[test]
fn errors_come_in_the_language_that_is_asked_for() {
    let server = Server::classic();
    let ask = |language: &str, token: &str| {
        let headers =
            [("Authorization", token), ("Content-Type", "application/json"), ("Accept-Language", language)];
        server.send("POST", SET_USAGE, &headers, b"{}").json()
    };
    assert_eq!(ask("et", "Token provider"), json!({ "usages": ["Väli on kohustuslik."] }));
    assert_eq!(ask("en", "Token provider"), json!({ "usages": ["This field is required."] }));
    assert_eq!(ask("de-DE,de;q=0.9", "Token wrong"), json!({ "detail": "Ungültiges Token" }));
}
