//! Users' shares of a row: one at a time, in bulk, and how they are read (A §6, §7, B2).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::server::*;

/// A server with one row, and where its shares are posted.
fn with_row(server: Server) -> (Server, String, String) {
    server.report(A, "cpu_hours", "32");
    let address = server.row_address(A, "cpu_hours");
    (server, format!("{address}set_user_usage/"), format!("{address}set_user_usages/"))
}

fn shares(server: &Server) -> Value {
    server.held(A)["rows"][0]["users"].clone()
}

#[test]
fn a_user_is_created_then_replaced_and_the_sum_is_not_checked() {
    for server in [Server::classic(), Server::current()] {
        let (server, one, _) = with_row(server);
        for usage in ["3.00", "2.00", "500.00"] {
            let reply =
                server.post(&one, &json!({ "username": " alice ", "usage": usage, "description": "x" }));
            assert_eq!((reply.status, reply.body.as_str()), (201, ""));
            assert_eq!(shares(&server), json!({ "alice": { "usage": usage, "user": null } }));
        }
        server.post(&one, &json!({ "username": "Alice", "usage": "-1" }));
        assert_eq!(shares(&server).as_object().unwrap().len(), 2);
        assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "32.00")]);
    }
}

#[test]
fn a_user_link_is_checked_and_counts_only_when_the_row_is_new() {
    let (server, one, _) = with_row(Server::classic());
    let link = "/api/marketplace-offering-users/b0b00000000040008000000000000001/";
    let with = |user: Value| server.post(&one, &json!({ "username": "bob", "usage": 1, "user": user }));
    let errors = [
        (
            json!("/api/marketplace-offering-users/5e2f0000000040008000000000000001/"),
            "Object does not exist.",
        ),
        (json!("/api/users/b0b00000000040008000000000000001/"), "Incorrect URL match."),
        (json!("b0b00000000040008000000000000001"), "No URL match."),
    ];
    for (user, text) in errors {
        assert_eq!(with(user).pair(), (400, json!({ "user": [format!("Invalid hyperlink - {text}")] })));
    }
    assert_eq!(with(Value::Null).pair(), (400, json!({ "user": ["This field may not be null."] })));
    assert_eq!(with(json!(format!("http://elsewhere{link}"))).status, 201);
    let stored = shares(&server)["bob"]["user"].clone();
    assert!(stored.as_str().unwrap().ends_with(link), "{stored}");
    server.post(&one, &json!({ "username": "alice", "usage": 1 }));
    server.post(&one, &json!({ "username": "alice", "usage": 2, "user": link }));
    assert_eq!(shares(&server)["alice"], json!({ "usage": "2.00", "user": null }));
}

#[test]
fn a_bad_share_is_refused_in_the_servers_words() {
    let (server, one, _) = with_row(Server::classic());
    let refused = |body: Value| server.post(&one, &body).pair();
    assert_eq!(refused(json!({ "usage": 1 })), (400, json!({ "username": ["This field is required."] })));
    let blank = json!({ "username": ["This field may not be blank."] });
    assert_eq!(refused(json!({ "username": "  ", "usage": 1 })), (400, blank));
    let long = json!({ "username": ["Ensure this field has no more than 100 characters."] });
    assert_eq!(refused(json!({ "username": "x".repeat(101), "usage": 1 })), (400, long));
    let places = json!({ "usage": ["Ensure that there are no more than 2 decimal places."] });
    assert_eq!(refused(json!({ "username": "x", "usage": "0.001" })), (400, places));
    assert_eq!(refused(json!([])).0, 400);
    assert_eq!(shares(&server), json!({}));
}

#[test]
fn a_missing_usage_is_zero_for_a_new_user_and_a_500_for_a_known_one() {
    let (server, one, _) = with_row(Server::classic());
    assert_eq!(server.post(&one, &json!({ "username": "alice" })).status, 201);
    assert_eq!(shares(&server)["alice"]["usage"], "0.00");
    assert_eq!(server.post(&one, &json!({ "username": "alice" })).status, 500);
}

#[test]
fn permission_comes_before_validation_and_the_row_before_both() {
    let (server, one, many) = with_row(Server::current());
    assert_eq!(server.post_as("stranger", &one, &json!({})).status, 403);
    assert_eq!(server.post_as("stranger", &many, &json!({})).status, 403);
    let detail = json!({ "detail": "No ComponentUsage matches the given query." });
    for uuid in [A, "nonsense"] {
        let reply = server.post_as("stranger", &format!("{USAGES}{uuid}/set_user_usage/"), &json!({}));
        assert_eq!(reply.pair(), (404, detail.clone()));
    }
}

#[test]
fn rows_of_past_months_and_of_terminated_resources_still_take_shares() {
    let (server, one, _) = with_row(Server::classic());
    server.clock("2026-12-05T00:00:00Z");
    server.admin(&format!("/sandbox/resources/{A}"), &json!({ "state": "Terminated" }));
    assert_eq!(server.post(&one, &json!({ "username": "alice", "usage": 1 })).status, 201);
}

#[test]
fn bulk_is_unknown_to_a_classic_server_and_atomic_on_a_current_one() {
    let (server, _, many) = with_row(Server::classic());
    let good =
        json!({ "usages": [{ "username": "alice", "usage": 1 }, { "username": "bob", "usage": "2.50" }] });
    assert_eq!(server.post(&many, &good).status, 404);
    let (server, _, many) = with_row(Server::current());
    let bad = json!({ "usages": [{ "username": "alice", "usage": 1 }, { "username": "", "usage": 1 }] });
    let errors = json!({ "usages": [{}, { "username": ["This field may not be blank."] }] });
    assert_eq!(server.post(&many, &bad).pair(), (400, errors));
    assert_eq!(server.post(&many, &json!({ "usages": [] })).status, 400);
    assert_eq!(shares(&server), json!({}));
    let reply = server.post(&many, &good);
    assert_eq!((reply.status, reply.body.as_str()), (201, ""));
    assert_eq!(shares(&server)["bob"]["usage"], "2.50");
    // An item that breaks the server takes the others with it.
    let broken = json!({ "usages": [{ "username": "carl", "usage": 1 }, { "username": "bob" }] });
    assert_eq!(server.post(&many, &broken).status, 500);
    assert_eq!(shares(&server).as_object().unwrap().len(), 2);
}

#[test]
fn a_total_of_zero_becomes_the_sum_of_its_users_on_a_current_server() {
    let (server, _, many) = with_row(Server::current());
    let both =
        json!({ "usages": [{ "username": "alice", "usage": 1 }, { "username": "bob", "usage": "2.50" }] });
    server.post(&many, &both);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "32.00")]);
    server.report(A, "cpu_hours", "0");
    server.post(&many, &both);
    assert_eq!(server.rows(A), [row("cpu_hours", "2026-11-01", "3.50")]);
}

#[test]
fn a_share_dated_in_a_past_month_goes_to_the_row_of_that_month() {
    let (server, one, many) = with_row(Server::current());
    let october = json!({ "username": "alice", "usage": 4, "date": "2026-10-15T00:00:00Z" });
    let reply = server.post(&one, &october);
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Service providers can only specify date"), "{}", reply.body);
    assert_eq!(server.post_as("staff", &many, &json!({ "usages": [october] })).status, 201);
    assert_eq!(shares(&server), json!({}));
    assert_eq!(
        server.rows(A),
        [row("cpu_hours", "2026-10-01", "4.00"), row("cpu_hours", "2026-11-01", "32.00")]
    );
}

#[test]
fn a_users_own_limit_refuses() {
    let (server, one, _) = with_row(Server::current());
    assert_eq!(server.post(&one, &json!({ "username": "carol", "usage": 10 })).status, 201);
    let reply = server.post(&one, &json!({ "username": "carol", "usage": "10.01" }));
    assert_eq!(reply.status, 400);
    assert!(reply.json()["non_field_errors"][0].as_str().unwrap().starts_with("Usage limit exceeded"));
}

#[test]
fn pages_of_shares_are_unstable_unless_one_page_holds_them_all() {
    let (server, _, many) = with_row(Server::current());
    let users: Vec<Value> = (0..10).map(|n| json!({ "username": format!("user{n}"), "usage": n })).collect();
    server.post(&many, &json!({ "usages": users }));
    let read =
        |page: usize| server.get(&format!("{SHARES}?page_size=1&page={page}")).json()[0]["uuid"].clone();
    let mut torn = false;
    for _ in 0..20 {
        let seen: BTreeSet<String> = (1..=10).map(|page| read(page).to_string()).collect();
        torn |= seen.len() < 10;
    }
    assert!(torn, "twenty readings page by page never missed a row");
    let whole = |_| server.get(&format!("{SHARES}?page_size=300")).body;
    assert_eq!(whole(0), whole(1));
}

#[test]
fn shares_are_read_with_the_filters_of_their_generation() {
    for (server, narrowed) in [(Server::classic(), 2), (Server::current(), 1)] {
        let (server, one, _) = with_row(server);
        server.post(&one, &json!({ "username": "alice", "usage": 1 }));
        server.post(&one, &json!({ "username": "bob", "usage": 2 }));
        let count = |query: &str| {
            server.get_as("stranger", &format!("{SHARES}?{query}")).json().as_array().unwrap().len()
        };
        assert_eq!(count(""), 2);
        assert_eq!(count("username=alice"), narrowed);
        assert_eq!(count("billing_period=2020-01-01&component_usage=x"), 2);
        assert_eq!(count("component_usage__billing_period=2026-11-01"), 2);
        assert_eq!(count("component_usage__billing_period=2026-10-01"), 0);
        assert_eq!(count(&format!("resource_uuid={B}")), 0);
        assert_eq!(server.post(SHARES, &json!({})).status, 405);
    }
}
