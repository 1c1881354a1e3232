//! Which month, which plan period, who may write the past, and what is billed twice (A §4, B1).

use serde_json::{Value, json};

use super::server::*;

fn dated(server: &Server, token: &str, kind: &str, amount: &str, date: &str) -> Reply {
    let usages = json!([{ "type": kind, "amount": amount }]);
    server.post_as(token, SET_USAGE, &json!({ "resource": A, "date": date, "usages": usages }))
}

#[test]
fn a_classic_server_counts_months_in_utc_whatever_its_time_zone() {
    let server = Server::start(&["--api", "classic", "--timezone", "Europe/Tallinn"], MARKETPLACE);
    server.clock("2026-10-31T22:30:00Z");
    dated(&server, "provider", "cpu_hours", "1", "2026-09-15T00:00:00Z");
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-10-01", "1.00")]);
    server.clock("2026-11-01T00:00:04Z");
    server.report(A, "cpu_hours", "2");
    assert_eq!(
        server.rows(A),
        [row("cpu_hours", "2026-10-01", "1.00"), row("cpu_hours", "2026-11-01", "2.00")]
    );
}

#[test]
fn a_current_server_counts_months_in_its_own_time_zone() {
    let server = Server::start(&["--timezone", "Europe/Tallinn"], MARKETPLACE);
    server.clock("2026-07-31T21:25:00Z");
    server.report(A, "cpu_hours", "1");
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-08-01", "1.00")]);
}

#[test]
fn a_current_server_takes_month_and_moment_from_the_date() {
    let server = Server::current();
    assert_eq!(dated(&server, "provider", "cpu_hours", "1", "2026-11-02T03:04:05.678901Z").status, 201);
    let list = server.get(USAGES).json();
    assert_eq!(list[0]["date"], "2026-11-02T03:04:05.678901Z");
    assert_eq!(list[0]["billing_period"], "2026-11-01");
    let reply = dated(&server, "staff", "cpu_hours", "1", "2026-11-10T12:05:00Z");
    assert_eq!(reply.pair(), (400, json!({ "date": ["Cannot submit usage for future dates"] })));
    assert_eq!(dated(&server, "provider", "cpu_hours", "1", "soon").status, 400);
}

#[test]
fn a_classic_server_ignores_the_date_and_stores_its_own() {
    let server = Server::classic();
    assert_eq!(dated(&server, "provider", "cpu_hours", "1", "2026-09-02T03:04:05.678901Z").status, 201);
    let list = server.get(USAGES).json();
    assert_eq!(list[0]["billing_period"], "2026-11-01");
    assert!(list[0]["date"].as_str().unwrap().starts_with("2026-11-10T12:00:"), "{list}");
}

#[test]
fn past_months_are_for_staff_and_for_what_is_not_billed_by_usage() {
    let server = Server::current();
    let october = "2026-10-15T00:00:00Z";
    let text = "Service providers can only specify date for limit-based or prepaid billing components when \
                backfilling past billing periods";
    assert_eq!(
        dated(&server, "provider", "cpu_hours", "1", october).pair(),
        (400, json!({ "date": [text] }))
    );
    let mixed = json!([{ "type": "storage_gb", "amount": 1 }, { "type": "cpu_hours", "amount": 1 }]);
    let body = json!({ "resource": A, "date": october, "usages": mixed });
    assert_eq!(server.post(SET_USAGE, &body).status, 400);
    let text = "Only staff users and service providers can specify date for backfilling";
    assert_eq!(
        dated(&server, "stranger", "storage_gb", "1", october).pair(),
        (400, json!({ "date": [text] }))
    );
    assert_eq!(server.rows(A), []);
    assert_eq!(dated(&server, "provider", "storage_gb", "1", october).status, 201);
    assert_eq!(dated(&server, "provider", "setup", "1", october).status, 201);
    assert_eq!(dated(&server, "staff", "cpu_hours", "3", october).status, 201);
    assert_eq!(server.rows(A).len(), 3);
    assert!(server.rows(A).iter().all(|(_, month, _)| month == "2026-10-01"));
    // What is current is not what was long ago.
    assert_eq!(server.held(A)["current_usages"], json!({}));
}

#[test]
fn how_the_month_of_a_date_is_taken_is_a_switch() {
    let instant = "2026-10-31T22:30:00Z";
    for (switch, month) in [("timezone", "2026-11-01"), ("utc", "2026-10-01")] {
        let marketplace = format!("{MARKETPLACE}\ndate_month: {switch}\n");
        let server = Server::start(&["--timezone", "Europe/Tallinn"], &marketplace);
        assert_eq!(dated(&server, "staff", "cpu_hours", "1", instant).status, 201);
        assert_eq!(server.rows(A), [row("cpu_hours", month, "1.00")], "{switch}");
    }
}

#[test]
fn after_a_plan_switch_the_next_total_makes_a_second_row_and_both_are_billed() {
    let server = Server::classic();
    server.report(A, "cpu_hours", "100");
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "switch_plan": true }));
    server.report(A, "cpu_hours", "150");
    assert_eq!(
        server.rows(A),
        [row("cpu_hours", "2026-11-01", "100.00"), row("cpu_hours", "2026-11-01", "150.00")]
    );
    assert_eq!(server.billed(A, "cpu_hours"), ["100.00", "150.00"]);
    let periods = server.get(&format!("/api/marketplace-provider-resources/{A}/plan_periods/")).json();
    let shown: Vec<_> = periods
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["end"].is_null(), p["components"][0]["usage"].clone()))
        .collect();
    assert_eq!(shown, [(false, json!("100.00")), (true, json!("150.00"))]);
}

#[test]
fn touching_an_ended_period_bills_its_usage_twice() {
    let server = Server::classic();
    server.report(A, "cpu_hours", "100");
    let old = server.held(A)["plan_periods"][0]["uuid"].clone();
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "switch_plan": true }));
    // Both given: the plan period wins.
    let usages = json!([{ "type": "cpu_hours", "amount": "121" }]);
    assert_eq!(
        server.post(SET_USAGE, &json!({ "plan_period": old, "resource": B, "usages": usages })).status,
        201
    );
    assert_eq!(server.rows(B), []);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "121.00")]);
    assert_eq!(server.billed(A, "cpu_hours"), ["100.00", "121.00"]);
    let usages = json!([{ "type": "cpu_hours", "amount": "130" }]);
    assert_eq!(server.post(SET_USAGE, &json!({ "plan_period": old, "usages": usages })).status, 201);
    assert_eq!(server.billed(A, "cpu_hours"), ["100.00", "130.00"]);
}

#[test]
fn a_plan_period_that_ended_before_this_month_is_closed() {
    let server = Server::current();
    let old = server.held(A)["plan_periods"][0]["uuid"].clone();
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "switch_plan": true }));
    let body = json!({ "plan_period": old, "usages": [{ "type": "cpu_hours", "amount": 1 }] });
    assert_eq!(server.post(SET_USAGE, &body).status, 201);
    server.clock("2026-12-01T00:00:01Z");
    assert_eq!(
        server.post(SET_USAGE, &body).pair(),
        (400, json!({ "plan_period": ["Billing period is closed."] }))
    );
    let periods = server.get(&format!("/api/marketplace-provider-resources/{A}/plan_periods/")).json();
    assert_eq!(periods.as_array().unwrap().len(), 1);
    assert_eq!(periods[0]["components"], json!([]));
    let unknown = json!({ "plan_period": "x", "usages": [] });
    let text = "Object with uuid=x does not exist.";
    assert_eq!(server.post(SET_USAGE, &unknown).pair(), (400, json!({ "plan_period": [text] })));
}

#[test]
fn without_a_valid_plan_period_a_classic_row_is_not_billed_and_a_current_server_makes_one() {
    let server = Server::classic();
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "end_plan": true }));
    assert_eq!(server.report(A, "cpu_hours", "1").status, 201);
    assert_eq!(server.held(A)["rows"][0]["plan_period"], Value::Null);
    assert_eq!(server.billed(A, "cpu_hours"), [""; 0]);
    let server = Server::current();
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "end_plan": true }));
    assert_eq!(server.report(A, "cpu_hours", "1").status, 201);
    assert_ne!(server.held(A)["rows"][0]["plan_period"], Value::Null);
    assert_eq!(server.billed(A, "cpu_hours"), ["1.00"]);
}

#[test]
fn a_resource_that_became_active_later_in_the_month_uses_the_later_plan_period() {
    let resource = "5e2f0000-0000-4000-8000-0000000000aa";
    let server = Server::current();
    let spec = json!({
        "uuid": resource, "offering": "Cluster", "backend_id": "late",
        "plan_periods": [{ "start": "2026-11-07T00:00:00Z" }],
    });
    server.admin("/sandbox/resources", &spec);
    let body = |date: &str, amount: u8| json!({ "resource": resource, "date": date, "usages": [{ "type": "cpu_hours", "amount": amount }] });
    assert_eq!(server.post(SET_USAGE, &body("2026-11-01T00:00:00Z", 5)).status, 201);
    let held = server.held(resource);
    assert_eq!(held["rows"][0]["plan_period"], held["plan_periods"][0]["uuid"]);
    // A past month without one stays without: stored, not billed.
    assert_eq!(server.post_as("staff", SET_USAGE, &body("2026-09-03T00:00:00Z", 9)).status, 201);
    let held = server.held(resource);
    assert_eq!(held["rows"][1]["plan_period"], Value::Null);
    assert_eq!(server.billed(resource, "cpu_hours"), ["5.00"]);
    assert_eq!(server.rows(resource).len(), 2);
}

#[test]
fn a_resubmission_moves_a_row_without_plan_period_to_the_right_one_and_removes_strays() {
    let resource = "5e2f0000-0000-4000-8000-0000000000bb";
    let server = Server::current();
    let old = "2026-03-15T10:00:00Z";
    let body = |amount: u16| json!({ "resource": resource, "date": old, "usages": [{ "type": "cpu_hours", "amount": amount }] });
    // A row under no plan period, because none held in March; and one under a period that began in June.
    let spec = json!({
        "uuid": resource, "offering": "Cluster", "backend_id": "moved",
        "plan_periods": [{ "start": "2026-06-01T00:00:00Z" }],
    });
    server.admin("/sandbox/resources", &spec);
    assert_eq!(server.post_as("staff", SET_USAGE, &body(100)).status, 201);
    assert_eq!(server.billed(resource, "cpu_hours"), [""; 0]);
    let june = server.held(resource)["plan_periods"][0]["uuid"].clone();
    let moved = server.held(resource)["rows"][0]["uuid"].clone();
    let by_period =
        json!({ "plan_period": june, "date": old, "usages": [{ "type": "cpu_hours", "amount": 100 }] });
    assert_eq!(server.post_as("staff", SET_USAGE, &by_period).status, 201);
    let held = server.held(resource);
    assert_eq!(held["rows"].as_array().unwrap().len(), 1);
    assert_eq!((&held["rows"][0]["plan_period"], &held["rows"][0]["uuid"]), (&june, &moved));
    assert_eq!(server.billed(resource, "cpu_hours"), ["100.00"]);
    // By resource the right place is none again: the stray goes.
    assert_eq!(server.post_as("staff", SET_USAGE, &body(300)).status, 201);
    let held = server.held(resource);
    assert_eq!(held["rows"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&held["rows"][0]["plan_period"], &held["rows"][0]["usage"]),
        (&Value::Null, &json!("300.00"))
    );
}

#[test]
fn a_recurring_value_is_copied_into_the_next_month_and_wrecks_a_first_report_over_it() {
    let server = Server::classic();
    let recurring = json!([{ "type": "cpu_hours", "amount": "61", "recurring": true }]);
    for resource in [A, B] {
        server.post(SET_USAGE, &json!({ "resource": resource, "usages": recurring }));
    }
    server.clock("2026-12-01T00:05:00Z");
    assert_eq!(server.report(A, "cpu_hours", "5").status, 201);
    let december = |resource| server.rows(resource).into_iter().find(|(_, month, _)| month == "2026-12-01");
    assert_eq!(december(A), Some(row("cpu_hours", "2026-12-01", "61.00")));
    assert_eq!(december(B), Some(row("cpu_hours", "2026-12-01", "61.00")));
    assert_eq!(server.billed(A, "cpu_hours"), ["61.00", "61.00", "61.00"]);
    assert_eq!(server.report(A, "cpu_hours", "61").status, 201);
    for _ in 0..2 {
        assert_eq!(server.report(A, "cpu_hours", "6").status, 500);
    }
    assert_eq!(server.report(B, "cpu_hours", "7").status, 201);
}

#[test]
fn a_current_server_fills_in_only_what_nobody_reported() {
    let server = Server::current();
    for (resource, policy) in [(A, "reuse"), (B, "zero")] {
        let usages = json!([{ "type": "cpu_hours", "amount": "61", "missing_usage_policy": policy }]);
        assert_eq!(server.post(SET_USAGE, &json!({ "resource": resource, "usages": usages })).status, 201);
    }
    server.clock("2026-12-01T00:05:00Z");
    server.report(A, "cpu_hours", "5");
    assert!(server.rows(A).contains(&row("cpu_hours", "2026-12-01", "5.00")));
    assert!(server.rows(B).contains(&row("cpu_hours", "2026-12-01", "0.00")));
    let bad = json!([{ "type": "cpu_hours", "amount": "1", "missing_usage_policy": "guess" }]);
    let text = "\"guess\" is not a valid choice.";
    let errors = json!({ "usages": [{ "missing_usage_policy": [text] }] });
    assert_eq!(server.post(SET_USAGE, &json!({ "resource": A, "usages": bad })).pair(), (400, errors));
}
