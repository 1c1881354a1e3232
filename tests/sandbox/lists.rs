//! Reading: filters, pages, headers, and what a provider's agent finds its way by (A §5, §8, B3).

use serde_json::{Value, json};

use super::server::*;

const RESOURCES: &str = "/api/marketplace-provider-resources/";
const OFFERINGS: &str = "/api/marketplace-provider-offerings/";

fn count(server: &Server, query: &str) -> usize {
    let reply = server.get(&format!("{USAGES}?page_size=300&{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.body);
    reply.json().as_array().unwrap().len()
}

/// Rows of two resources in two months.
fn filled(server: Server) -> Server {
    for (resource, kind, month) in [
        ("a", "cpu_hours", "2026-10-01"),
        ("a", "cpu_hours", "2026-11-01"),
        ("a", "gpu_hours", "2026-11-01"),
        ("b", "cpu_hours", "2026-11-01"),
    ] {
        let date = format!("{}T00:00:00Z", month.replace("-01", "-05"));
        let row = json!({ "resource": resource, "type": kind, "usage": "1.00", "billing_period": month, "date": date });
        server.admin("/sandbox/rows", &row);
    }
    server
}

#[test]
fn a_row_has_every_field_and_no_plan_period() {
    let server = Server::classic();
    server.report(A, "cpu_hours", "32");
    let list = server.get_as("stranger", USAGES).json();
    let row = list[0].as_object().unwrap();
    let mut fields: Vec<&str> = row.keys().map(String::as_str).collect();
    fields.sort_unstable();
    let all = [
        "billing_period",
        "created",
        "customer_name",
        "customer_uuid",
        "date",
        "description",
        "measured_unit",
        "modified_by",
        "name",
        "offering_name",
        "offering_uuid",
        "project_name",
        "project_uuid",
        "recurring",
        "resource_name",
        "resource_uuid",
        "type",
        "usage",
        "uuid",
    ];
    assert_eq!(fields, all);
    assert_eq!(row["usage"], "32.00");
    assert_eq!(row["resource_uuid"], A.replace('-', ""));
    assert_eq!(row["billing_period"], "2026-11-01");
    assert!(row["modified_by"].is_i64());
    let detail = server.get(&server.row_address(A, "cpu_hours")).json();
    assert_eq!(&detail, &list[0]);
    let missing = json!({ "detail": "No ComponentUsage matches the given query." });
    assert_eq!(server.get(&format!("{USAGES}nonsense/")).pair(), (404, missing));
}

#[test]
fn filters_narrow_the_list_or_are_refused() {
    for server in [filled(Server::classic()), filled(Server::current())] {
        for (query, rows) in [
            ("", 4),
            ("billing_period=2026-11-01", 3),
            ("billing_period=2026-11-15", 0),
            ("type=gpu_hours", 1),
            ("type=gpu_hours&type=cpu_hours", 3),
            ("type=nope", 0),
            ("date_after=2026-11-05", 3),
            ("date_before=2026-11-04", 1),
            ("foo=1&backend_id=a&username=x", 4),
            ("resource_uuid=5e2f00000000400080000000000000ff", 0),
            ("resource=5e2f0000000040008000000000000001", 0),
            ("resource=/api/marketplace-resources/5e2f0000000040008000000000000001/", 3),
            ("resource=http://x/api/marketplace-provider-resources/5e2f0000000040008000000000000001/", 0),
        ] {
            assert_eq!(count(&server, query), rows, "{query}");
        }
        assert_eq!(count(&server, &format!("resource_uuid={A}")), 3);
        assert_eq!(count(&server, &format!("resource_uuid={}", B.replace('-', ""))), 1);
        assert_eq!(count(&server, &format!("offering_uuid={OFFERING}")), 4);
        for bad in ["2026-11", "2026-11-01T00:00:00Z", "soon"] {
            let reply = server.get(&format!("{USAGES}?billing_period={bad}"));
            assert_eq!(reply.pair(), (400, json!({ "billing_period": ["Enter a valid date."] })));
        }
        let reply = server.get(&format!("{USAGES}?resource_uuid={A},{B}"));
        assert_eq!(reply.pair(), (400, json!({ "resource_uuid": ["Enter a valid UUID."] })));
    }
}

#[test]
fn newer_filters_are_ignored_by_a_classic_server() {
    let classic = filled(Server::classic());
    assert_eq!(count(&classic, "billing_period_month=10&billing_period_year=2026&o=nonsense"), 4);
    let current = filled(Server::current());
    assert_eq!(count(&current, "billing_period_month=10&billing_period_year=2026"), 1);
    assert_eq!(count(&current, "billing_period_month=10.0"), 1);
    assert_eq!(count(&current, "billing_period_year=2025"), 0);
    assert_eq!(count(&current, "missing_usage_policy=zero"), 0);
    let months = |order: &str| -> Vec<Value> {
        let list = current.get(&format!("{USAGES}?o={order}")).json();
        list.as_array().unwrap().iter().map(|row| row["billing_period"].clone()).collect()
    };
    assert_eq!(months("billing_period")[0], "2026-10-01");
    assert_eq!(months("-billing_period")[3], "2026-10-01");
}

#[test]
fn fields_are_chosen_by_repeating_them() {
    let server = filled(Server::classic());
    let list = server.get(&format!("{USAGES}?resource_uuid={B}&field=type&field=usage")).json();
    assert_eq!(list, json!([{ "type": "cpu_hours", "usage": "1.00" }]));
    let list = server.get(&format!("{USAGES}?resource_uuid={B}&field=type,usage")).json();
    assert_eq!(list, json!([{}]));
}

#[test]
fn pages_have_counts_and_links() {
    let server = Server::classic();
    for day in 1..=12 {
        let row = json!({ "resource": "a", "type": "cpu_hours", "usage": day, "billing_period": format!("2025-{day:02}-01") });
        server.admin("/sandbox/rows", &row);
    }
    let base = format!("http://{}{USAGES}", server.address);
    let reply = server.get(USAGES);
    assert_eq!(reply.json().as_array().unwrap().len(), 10);
    assert_eq!(reply.headers["x-result-count"], "12");
    let links =
        format!("<{base}>; rel=\"first\", <{base}?page=2>; rel=\"next\", <{base}?page=2>; rel=\"last\"");
    assert_eq!(reply.headers["link"], links);
    let reply = server.get(&format!("{USAGES}?page=2&page_size=5"));
    let links = format!(
        "<{base}?page_size=5>; rel=\"first\", <{base}?page_size=5>; rel=\"prev\", \
         <{base}?page=3&page_size=5>; rel=\"next\", <{base}?page=3&page_size=5>; rel=\"last\""
    );
    assert_eq!(reply.headers["link"], links);
    for (query, rows) in
        [("page=last", 2), ("page_size=0", 10), ("page_size=abc", 10), ("page_size=1000", 12)]
    {
        assert_eq!(
            server.get(&format!("{USAGES}?{query}")).json().as_array().unwrap().len(),
            rows,
            "{query}"
        );
    }
    for page in ["0", "3", "abc"] {
        let reply = server.get(&format!("{USAGES}?page={page}"));
        assert_eq!(reply.pair(), (404, json!({ "detail": "Invalid page." })));
    }
    let head = server.send("HEAD", USAGES, &[("Authorization", "Token provider")], b"");
    assert_eq!((head.status, head.body.as_str(), head.headers["x-result-count"].as_str()), (200, "", "12"));
}

#[test]
fn no_page_holds_more_than_300() {
    let server = Server::classic();
    for n in 0..301 {
        let month = format!("{}-{:02}-01", 1990 + n / 12, n % 12 + 1);
        let row = json!({ "resource": "a", "type": "cpu_hours", "usage": 1, "billing_period": month });
        server.admin("/sandbox/rows", &row);
    }
    let reply = server.get(&format!("{USAGES}?page_size=1000"));
    assert_eq!(reply.json().as_array().unwrap().len(), 300);
    assert_eq!(reply.headers["x-result-count"], "301");
}

#[test]
fn resources_are_found_by_their_filters() {
    let server = Server::current();
    let names = |token: &str, query: &str| -> Vec<String> {
        let reply = server.get_as(token, &format!("{RESOURCES}?{query}"));
        assert_eq!(reply.status, 200, "{query}: {}", reply.body);
        let list = reply.json();
        list.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("provider", "").len(), 4);
    assert_eq!(names("provider", "backend_id=a"), ["A"]);
    assert_eq!(names("provider", "backend_id=A"), [""; 0]);
    assert_eq!(names("provider", "backend_id=").len(), 4);
    assert_eq!(names("provider", "state=OK&state=Erred&o=name"), ["A", "B", "Broken", "Planless"]);
    assert_eq!(names("provider", "state=Erred"), ["Broken"]);
    assert_eq!(names("provider", &format!("offering_uuid={OFFERING}")).len(), 4);
    // A lost role looks like an empty list.
    assert_eq!(names("stranger", ""), [""; 0]);
    assert_eq!(server.get(&format!("{RESOURCES}?state=ok")).status, 400);
    assert_eq!(server.get(&format!("{RESOURCES}?o=size")).status, 400);
    assert_eq!(server.get("/api/marketplace-resources/").pair(), (200, json!([])));
    let missing = json!({ "detail": "No Resource matches the given query." });
    assert_eq!(
        server.get(&format!("/api/marketplace-resources/{A}/plan_periods/")).pair(),
        (404, missing.clone())
    );
    assert_eq!(server.get_as("stranger", &format!("{RESOURCES}{A}/")).pair(), (404, missing.clone()));
    assert_eq!(server.get(&format!("{RESOURCES}nonsense/plan_periods/")).pair(), (404, missing));
    let detail = server.get(&format!("{RESOURCES}5e2f0000-0000-4000-8000-000000000003/")).json();
    assert_eq!((&detail["plan_uuid"], &detail["backend_id"]), (&Value::Null, &json!("n")));
    assert_eq!(
        server.get(&format!("{RESOURCES}5e2f0000-0000-4000-8000-000000000003/plan_periods/")).json(),
        json!([])
    );
}

#[test]
fn a_backend_id_can_be_set() {
    let server = Server::current();
    let reply = server.post(&format!("{RESOURCES}{A}/set_backend_id/"), &json!({ "backend_id": "new" }));
    assert_eq!(reply.pair(), (200, json!({ "status": "Resource backend_id has been changed." })));
    assert_eq!(server.held(A)["backend_id"], "new");
}

#[test]
fn offerings_show_their_components_to_those_with_a_role_and_publicly_to_anyone() {
    let server = Server::current();
    let list = server.get(OFFERINGS).json();
    let kinds: Vec<(&str, &str)> = list[0]["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["type"].as_str().unwrap(), c["billing_type"].as_str().unwrap()))
        .collect();
    assert!(kinds.contains(&("cpu_hours", "usage")) && kinds.contains(&("setup", "one")), "{kinds:?}");
    assert_eq!(list[0]["components"][2]["limit_period"], "annual");
    // A float in newer servers.
    assert_eq!(list[0]["components"][2]["limit_amount"], json!(100.0));
    assert_eq!(Server::classic().get(OFFERINGS).json()[0]["components"][2]["limit_amount"], 100);
    assert_eq!(list[0]["state"], "Active");
    assert_eq!(server.get_as("stranger", OFFERINGS).pair(), (200, json!([])));
    assert_eq!(server.get_as("stranger", &format!("{OFFERINGS}{OFFERING}/")).status, 404);
    let public = server.get_as("stranger", &format!("/api/marketplace-public-offerings/{OFFERING}/"));
    assert_eq!(public.json()["components"], list[0]["components"]);
    let users = server.get(&format!("/api/marketplace-offering-users/?offering_uuid={OFFERING}")).json();
    assert_eq!((&users[0]["username"], &users[1]["username"]), (&json!("alice"), &json!("bob")));
    assert_eq!(users[1]["uuid"], "b0b00000000040008000000000000001");
}

#[test]
fn a_user_sees_itself_and_only_staff_sees_the_version() {
    let server = Server::classic();
    let me = server.get("/api/users/me/").json();
    assert_eq!((&me["username"], &me["token_lifetime"]), (&json!("provider"), &Value::Null));
    assert_eq!(me["permissions"][0]["role_name"], "OFFERING.MANAGER");
    assert_eq!(me["permissions"][0]["scope_uuid"], OFFERING.replace('-', ""));
    assert_eq!(server.get_as("stranger", "/api/users/me/").json()["permissions"], json!([]));
    assert_eq!(server.get_as("brief", "/api/users/me/").json()["token_lifetime"], 3600);
    assert_eq!(server.get("/api/version/").status, 403);
    assert_eq!(server.get_as("staff", "/api/version/").pair(), (200, json!({ "version": "unknown" })));
    assert_eq!(server.send("GET", "/api/version/", &[], b"").status, 401);
    assert_eq!(server.send("GET", "/api/configuration/", &[], b"").status, 200);
}
