//! What changes around a row: plan periods, roles, users, how a row reads, and calls that arrive late (A §4, §8, C).

use serde_json::{Value, json};

use super::server::*;

const ME: &str = "/api/users/me/";
const OFFERINGS: &str = "/api/marketplace-provider-offerings/";

fn plan_periods(server: &Server, resource: &str) -> Value {
    server.get(&format!("/api/marketplace-provider-resources/{resource}/plan_periods/")).json()
}

#[test]
fn a_plan_period_can_be_new_under_the_same_plan() {
    let server = Server::classic();
    server.report(A, "cpu_hours", "10");
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "renew_plan": true }));
    let periods = plan_periods(&server, A);
    assert_eq!(periods.as_array().unwrap().len(), 2);
    assert_eq!(periods[0]["plan_uuid"], periods[1]["plan_uuid"]);
    assert_ne!(periods[0]["uuid"], periods[1]["uuid"]);
    assert_eq!((&periods[0]["end"], &periods[1]["end"]), (&periods[1]["start"], &Value::Null));
    server.report(A, "cpu_hours", "0.60");
    assert_eq!(server.billed(A, "cpu_hours"), ["0.60", "10.00"]);
}

#[test]
fn plan_periods_can_be_given_as_they_were() {
    let server = Server::classic();
    let periods = json!([{ "start": "2020-01-01T00:00:00Z", "end": "2026-11-03T00:00:00Z" }]);
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "plan_periods": periods }));
    assert_eq!(plan_periods(&server, A).as_array().unwrap().len(), 1);
    assert_eq!(server.report(A, "cpu_hours", "5").status, 201);
    assert_eq!(server.held(A)["rows"][0]["plan_period"], Value::Null);
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "plan_periods": [] }));
    assert_eq!(plan_periods(&server, A), json!([]));
}

#[test]
fn the_first_total_of_an_ended_plan_period_is_billed_once() {
    let server = Server::classic();
    let old = server.held(A)["plan_periods"][0]["uuid"].clone();
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "switch_plan": true }));
    let usages = json!([{ "type": "cpu_hours", "amount": "7" }]);
    assert_eq!(server.post(SET_USAGE, &json!({ "plan_period": old, "usages": usages })).status, 201);
    assert_eq!(server.held(A)["rows"][0]["plan_period"], old);
    assert_eq!(server.billed(A, "cpu_hours"), ["7.00"]);
}

#[test]
fn a_resource_that_is_given_a_plan_has_a_plan_period_from_then_on() {
    let server = Server::current();
    let planless = "5e2f0000-0000-4000-8000-000000000003";
    assert_eq!(plan_periods(&server, planless), json!([]));
    assert_eq!(server.report(planless, "cpu_hours", "1").status, 400);
    server.admin(&format!("/sandbox/resources/{planless}"), &json!({ "plan": true }));
    assert!(plan_periods(&server, planless)[0]["start"].as_str().unwrap().starts_with("2026-11-10T12:0"));
    assert_eq!(server.report(planless, "cpu_hours", "1").status, 201);
}

#[test]
fn where_no_plan_period_covers_the_date_the_rows_of_the_month_become_one() {
    let server = Server::current();
    let periods = json!([{ "start": "2020-01-01T00:00:00Z", "end": "2026-10-10T00:00:00Z" }]);
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "plan_periods": periods }));
    let body = |date: &str, amount: &str| json!({ "resource": A, "date": date, "usages": [{ "type": "cpu_hours", "amount": amount }] });
    assert_eq!(server.post_as("staff", SET_USAGE, &body("2026-10-05T00:00:00Z", "4")).status, 201);
    assert_eq!(server.billed(A, "cpu_hours"), ["4.00"]);
    assert_eq!(server.post_as("staff", SET_USAGE, &body("2026-10-20T00:00:00Z", "1")).status, 201);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-10-01", "1.00")]);
    assert_eq!(server.billed(A, "cpu_hours"), [""; 0]);
}

#[test]
fn a_dated_share_finds_any_row_of_the_month() {
    let server = Server::current();
    server.report(A, "cpu_hours", "5");
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "switch_plan": true }));
    server.report(A, "cpu_hours", "2");
    let second = server.held(A)["rows"][1]["uuid"].as_str().unwrap().to_owned();
    let address = format!("{USAGES}{second}/set_user_usages/");
    let share = json!({ "username": "alice", "usage": "2.00", "date": "2026-11-10T12:00:00Z" });
    assert_eq!(server.post(&address, &json!({ "usages": [share] })).status, 201);
    assert_eq!(server.held(A)["rows"][0]["users"]["alice"]["usage"], "2.00");
    let share = json!({ "username": "alice", "usage": "2.00" });
    assert_eq!(server.post(&address, &json!({ "usages": [share] })).status, 201);
    assert_eq!(server.held(A)["rows"][1]["users"]["alice"]["usage"], "2.00");
}

#[test]
fn an_owner_of_the_provider_may_report_and_one_of_another_customer_sees_nothing() {
    let server = Server::current();
    server.admin("/sandbox/tokens", &json!({ "token": "owner", "owner_of": ["Provider"] }));
    server.admin("/sandbox/tokens", &json!({ "token": "other", "owner_of": ["Elsewhere"] }));
    let role = |token| {
        let permissions = server.get_as(token, ME).json()["permissions"].clone();
        assert_eq!(permissions.as_array().unwrap().len(), 1, "{permissions}");
        (permissions[0]["role_name"].clone(), permissions[0]["scope_name"].clone())
    };
    assert_eq!(role("owner"), (json!("CUSTOMER.OWNER"), json!("Provider")));
    assert_eq!(role("other"), (json!("CUSTOMER.OWNER"), json!("Elsewhere")));
    let body = json!({ "resource": A, "usages": [{ "type": "cpu_hours", "amount": "1" }] });
    assert_eq!(server.post_as("owner", SET_USAGE, &body).status, 201);
    assert_eq!(server.post_as("other", SET_USAGE, &body).status, 403);
    assert_eq!(server.get_as("owner", OFFERINGS).json().as_array().unwrap().len(), 1);
    assert_eq!(server.get_as("other", OFFERINGS).pair(), (200, json!([])));
    assert_eq!(server.get_as("other", "/api/marketplace-provider-resources/").pair(), (200, json!([])));
}

#[test]
fn an_offering_user_can_come_later() {
    let server = Server::current();
    server.admin(&format!("/sandbox/offerings/{OFFERING}/users"), &json!("dora"));
    server.admin(&format!("/sandbox/offerings/{OFFERING}/users"), &json!({ "username": "dora" }));
    let users = server.get("/api/marketplace-offering-users/").json();
    let names: Vec<_> =
        users.as_array().unwrap().iter().map(|u| u["username"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["alice", "bob", "dora"]);
}

#[test]
fn a_row_can_be_read_back_otherwise_than_it_is_until_it_is_written_again() {
    let server = Server::current();
    let odd = json!({ "usage": null, "billing_period": "2026-11-01T00:00:00Z" });
    server.admin(
        "/sandbox/rows",
        &json!({ "resource": "a", "type": "cpu_hours", "usage": "5", "as_read": odd }),
    );
    let read = server.get(USAGES).json()[0].clone();
    assert_eq!((&read["usage"], &read["billing_period"]), (&Value::Null, &json!("2026-11-01T00:00:00Z")));
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "5.00")]);
    server.report(A, "cpu_hours", "6");
    assert_eq!(server.get(USAGES).json()[0]["usage"], "6.00");
}

#[test]
fn a_row_of_another_plan_period_can_be_written_by_another_writer() {
    let server = Server::current();
    server.report(A, "cpu_hours", "5");
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "switch_plan": true }));
    let old = server.held(A)["plan_periods"][0]["uuid"].clone();
    server.admin(
        "/sandbox/rows",
        &json!({ "resource": "a", "type": "cpu_hours", "usage": "8", "plan_period": old }),
    );
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "8.00")]);
}

#[test]
fn a_late_call_is_answered_first_and_processed_when_it_is_let_through() {
    let server = Server::current();
    let fault =
        json!({ "match": { "path": "set_usage" }, "when": "late", "action": { "status": 504 }, "times": 1 });
    server.admin("/sandbox/faults", &json!({ "faults": [fault] }));
    assert_eq!(server.report(A, "cpu_hours", "5").status, 504);
    assert_eq!(server.rows(A), []);
    assert_eq!(server.report(A, "cpu_hours", "8").status, 201);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "8.00")]);
    assert_eq!(server.admin("/sandbox/late", &json!({})), json!({ "processed": [201] }));
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "5.00")]);
    assert_eq!(server.admin("/sandbox/late", &json!({})), json!({ "processed": [] }));
}

#[test]
fn a_quarterly_limit_counts_the_row_it_replaces_as_the_others_do() {
    let marketplace = MARKETPLACE.replace("limit_period: annual", "limit_period: quarterly");
    let server = Server::start(&["--api", "classic"], &marketplace);
    assert_eq!(server.report(A, "capped", "60").status, 201);
    let text = "Total amount exceeds limit. Total amount: 120.00, limit: 100.";
    assert_eq!(server.report(A, "capped", "60").pair(), (400, json!([text])));
}
