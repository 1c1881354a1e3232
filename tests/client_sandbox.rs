//! The client against the sandbox: both generations of the API, and the faults between us and them.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "agent/in_process.rs"]
mod in_process;

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Parser;
use uuid::Uuid;
use waldur_usage_agent::cli::usages::Usages;
use waldur_usage_agent::config::clock::SystemClock;
use waldur_usage_agent::waldur::client::Client;
use waldur_usage_agent::waldur::refusal::Refusal;
use waldur_usage_agent::waldur::report::{ComponentAmount, SetUsage, UserAmount};
use waldur_usage_agent::waldur::types::{Plan, UsageRow};
use waldur_usage_agent::waldur::usages::UsageFilter;

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
const PROJECT_A: &str = "5e2f0000-0000-4000-8000-000000000001";
const PROJECT_B: &str = "5e2f0000-0000-4000-8000-000000000002";

struct Sandbox {
    server: in_process::Sandbox,
    _folder: tempfile::TempDir,
    client: Client,
}

impl Sandbox {
    fn start(api: &str) -> Sandbox {
        Sandbox::with_token(api, "sandbox-token")
    }

    fn with_token(api: &str, token: &str) -> Sandbox {
        let server = in_process::Sandbox::start(&["--api", api, "--now", "2026-11-10T12:00:00Z"]);
        let folder = tempfile::tempdir().unwrap();
        let settings = in_process::settings_with(token, &server.url, folder.path(), "timeout: 2s\n");
        let client = Client::new(&settings, Arc::new(SystemClock)).unwrap();
        Sandbox { server, _folder: folder, client }
    }

    async fn admin(&self, path: &str, body: &str) {
        self.server.post(path, serde_json::from_str(body).unwrap()).await;
    }

    async fn fault(&self, fault: &str) {
        self.admin("faults", &format!("{{\"faults\":[{fault}]}}")).await;
    }

    async fn rows(&self) -> BTreeMap<String, UsageRow> {
        let filter = UsageFilter { offering: Some(id(OFFERING)), ..UsageFilter::of_month(november()) };
        let rows = self.client.list_usages(&filter).await.unwrap();
        rows.rows.into_iter().map(|row| (row.component.clone(), row)).collect()
    }

    async fn usages(&self, arguments: &str) -> String {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            usages: Usages,
        }
        let line = Line::try_parse_from(["usages"].into_iter().chain(arguments.split_whitespace())).unwrap();
        let mut out = Vec::new();
        line.usages.run(&self.client, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }
}

fn id(text: &str) -> Uuid {
    text.parse().unwrap()
}

fn november() -> jiff::civil::Date {
    "2026-11-01".parse().unwrap()
}

fn report(amounts: &[(&str, &str)]) -> SetUsage {
    let usages = amounts.iter().map(|(component, amount)| ComponentAmount {
        component: (*component).to_owned(),
        amount: amount.parse().unwrap(),
        description: Some("as measured".to_owned()),
        recurring: None,
        missing_usage_policy: None,
    });
    SetUsage { resource: id(PROJECT_A), plan_period: None, date: None, usages: usages.collect() }
}

fn user(name: &str, amount: &str) -> UserAmount {
    UserAmount { username: name.to_owned(), amount: amount.parse().unwrap(), user_url: None, date: None }
}

#[tokio::test]
async fn what_is_reported_is_read_back() {
    for api in ["classic", "current"] {
        let sandbox = Sandbox::start(api);
        sandbox.client.set_usage(&report(&[("gpu_hours", "1.5"), ("cpu_hours", "12.3")])).await.unwrap();
        let rows = sandbox.rows().await;
        assert_eq!(rows.len(), 2, "{api}: {rows:?}");
        let cpu = &rows["cpu_hours"];
        assert_eq!((cpu.usage.to_string().as_str(), cpu.description.as_str()), ("12.30", "as measured"));
        assert_eq!((cpu.billing_period, cpu.resource_uuid), (november(), id(PROJECT_A)));
        assert_eq!(sandbox.client.get_usage(cpu.uuid).await.unwrap(), *cpu);
        // Its clock was set far from ours, and is known to be.
        let skew = sandbox.client.measured_skew().unwrap();
        let there = skew.measured.checked_add(skew.offset).unwrap();
        let expected: jiff::Timestamp = "2026-11-10T12:00:00Z".parse().unwrap();
        assert!(there.duration_since(expected).abs().as_secs() < 30, "{there}");
    }
}

#[tokio::test]
async fn a_date_is_honoured_by_one_generation_and_ignored_by_the_other() {
    for (api, honoured) in [("classic", false), ("current", true)] {
        let sandbox = Sandbox::start(api);
        let date = "2026-11-10T11:59:30.123457Z".parse().unwrap();
        let dated = SetUsage { date: Some(date), ..report(&[("cpu_hours", "1")]) };
        sandbox.client.set_usage(&dated).await.unwrap();
        assert_eq!(sandbox.rows().await["cpu_hours"].date == Some(date), honoured, "{api}");
    }
}

#[tokio::test]
async fn the_shares_of_users_one_by_one_and_at_once() {
    for (api, at_once) in [("classic", false), ("current", true)] {
        let sandbox = Sandbox::start(api);
        sandbox.client.set_usage(&report(&[("cpu_hours", "10")])).await.unwrap();
        let row = sandbox.rows().await["cpu_hours"].uuid;
        sandbox.client.set_user_usage(row, &user("alice", "4")).await.unwrap();
        let bulk = sandbox.client.set_user_usages(row, &[user("alice", "5"), user("bob", "5")]).await;
        match bulk {
            Ok(()) => assert!(at_once, "{api}"),
            Err(failure) => assert!(!at_once && failure.name() == "endpoint", "{api}: {failure:?}"),
        }
        let shares = sandbox.client.list_user_usages(id(PROJECT_A), "cpu_hours", november()).await.unwrap();
        assert!(shares.iter().all(|share| share.row() == Some(row)), "{shares:?}");
        let shares: BTreeMap<_, _> =
            shares.iter().map(|s| (s.username.as_str(), s.usage.to_string())).collect();
        match at_once {
            true => assert_eq!(shares, BTreeMap::from([("alice", "5.00".into()), ("bob", "5.00".into())])),
            false => assert_eq!(shares, BTreeMap::from([("alice", "4.00".into())])),
        }
        let nowhere = sandbox.client.set_user_usage(Uuid::from_u128(1), &user("alice", "4")).await;
        assert_eq!(nowhere.unwrap_err().name(), "missing");
    }
}

#[tokio::test]
async fn what_is_compared_is_read_without_the_names_that_make_a_row_dear() {
    for api in ["classic", "current"] {
        let sandbox = Sandbox::start(api);
        sandbox.client.set_usage(&report(&[("cpu_hours", "10"), ("gpu_hours", "2.5")])).await.unwrap();
        let filter = UsageFilter { offering: Some(id(OFFERING)), ..UsageFilter::of_month(november()) };
        let whole = sandbox.client.list_usages(&filter).await.unwrap();
        let compared = sandbox.client.list_usages(&filter.to_compare()).await.unwrap();
        assert_eq!((compared.rows.len(), compared.odd.len()), (2, 0), "{api}");
        for (whole, compared) in whole.rows.into_iter().zip(compared.rows) {
            assert!(
                !whole.resource_name.is_empty() && compared.resource_name.is_empty(),
                "{api}: {compared:?}"
            );
            let expected =
                UsageRow { resource_name: String::new(), project_uuid: None, customer_uuid: None, ..whole };
            assert_eq!(compared, expected, "{api}");
        }
        let row = sandbox.rows().await["cpu_hours"].uuid;
        sandbox.client.set_user_usage(row, &user("alice", "4")).await.unwrap();
        let shares = sandbox.client.list_shares_of(id(OFFERING), november()).await.unwrap();
        let share = shares.iter().map(|share| (share.row, &*share.username, share.usage.to_string()));
        assert_eq!(share.collect::<Vec<_>>(), [(Some(row), "alice", "4.00".to_owned())], "{api}");
    }
}

#[tokio::test]
async fn every_refusal_is_told_apart() {
    for api in ["classic", "current"] {
        let sandbox = Sandbox::start(api);
        let client = &sandbox.client;
        let refusal = async |report: SetUsage| match client.set_usage(&report).await {
            Ok(()) => panic!("{api}: taken"),
            Err(failure) => failure.refusal().cloned().unwrap_or_else(|| panic!("{api}: {failure:?}")),
        };
        let unknown = refusal(report(&[("nope", "1"), ("cpu_hours", "1"), ("abc", "1")])).await;
        assert_eq!(unknown, Refusal::InvalidComponents(vec!["abc".into(), "nope".into()]));
        let nowhere = SetUsage { resource: Uuid::from_u128(1), ..report(&[("cpu_hours", "1")]) };
        assert_eq!(refusal(nowhere).await.name(), "unknown_resource");
        sandbox.admin(&format!("resources/{PROJECT_A}"), "{\"state\":\"Erred\"}").await;
        assert_eq!(refusal(report(&[("cpu_hours", "1")])).await.name(), "resource_state");
    }
    let sandbox = Sandbox::start("current");
    let future =
        SetUsage { date: Some("2026-11-20T00:00:00Z".parse().unwrap()), ..report(&[("cpu_hours", "1")]) };
    let failure = sandbox.client.set_usage(&future).await.unwrap_err();
    assert_eq!(failure.refusal().map(Refusal::name), Some("future_date"), "{failure:?}");
    let past =
        SetUsage { date: Some("2026-10-20T00:00:00Z".parse().unwrap()), ..report(&[("cpu_hours", "1")]) };
    let failure = sandbox.client.set_usage(&past).await.unwrap_err();
    assert_eq!(failure.refusal().map(Refusal::name), Some("period_closed"), "{failure:?}");
    sandbox.admin(&format!("resources/{PROJECT_A}"), "{\"plan\":false}").await;
    let failure = sandbox.client.set_usage(&report(&[("cpu_hours", "1")])).await.unwrap_err();
    assert_eq!(failure.refusal().map(Refusal::name), Some("no_plan"), "{failure:?}");
}

#[tokio::test]
async fn a_limit_refuses_half_of_a_call() {
    let sandbox = Sandbox::start("classic");
    let limited =
        "{\"type\":\"gpu_hours\",\"limit_amount\":100,\"limit_period\":\"total\",\"billing_type\":\"usage\"}";
    sandbox.admin(&format!("offerings/{OFFERING}/components"), limited).await;
    let both = report(&[("ram_gb_hours", "1"), ("gpu_hours", "101"), ("cpu_hours", "1")]);
    let failure = sandbox.client.set_usage(&both).await.unwrap_err();
    assert_eq!(failure.refusal().map(Refusal::name), Some("limit_exceeded"), "{failure:?}");
    assert!(failure.may_be_applied());
    // What stood before it in the order sent has been written.
    assert_eq!(sandbox.rows().await.into_keys().collect::<Vec<_>>(), ["cpu_hours"]);
}

#[tokio::test]
async fn whatever_comes_between_us_and_the_server_leaves_the_outcome_unknown() {
    let sandbox = Sandbox::start("current");
    let path = "\"match\":{\"path\":\"set_usage\"},\"times\":1";
    for (fault, applied) in [
        (format!("{{{path},\"when\":\"after\",\"action\":\"drop\"}}"), true),
        (format!("{{{path},\"when\":\"after\",\"action\":\"truncate\"}}"), true),
        (format!("{{{path},\"when\":\"after\",\"action\":{{\"status\":502,\"body\":\"<h1>Bad Gateway</h1>\"}}}}"), true),
        (format!("{{{path},\"when\":\"before\",\"action\":\"drop\"}}"), false),
        (format!("{{{path},\"when\":\"before\",\"action\":{{\"status\":503,\"headers\":{{\"Retry-After\":\"7\"}}}}}}"), false),
        (format!("{{{path},\"when\":\"before\",\"action\":{{\"status\":400,\"body\":\"<h1>Bad Request</h1>\"}}}}"), false),
        (format!("{{{path},\"when\":\"after\",\"action\":\"hang\",\"ms\":4000}}"), true),
    ]
    .into_iter()
    .enumerate()
    .map(|(at, (fault, applied))| ((fault, at), applied))
    {
        let (fault, at) = fault;
        sandbox.fault(&fault).await;
        let amount = format!("{}", 10 + at);
        let failure = sandbox.client.set_usage(&report(&[("cpu_hours", &amount)])).await.unwrap_err();
        assert_eq!(failure.name(), "unknown", "{fault}: {failure:?}");
        let held = sandbox.rows().await.get("cpu_hours").map(|row| row.usage.to_string());
        assert_eq!(held == Some(format!("{amount}.00")), applied, "{fault}: {held:?}");
    }
}

#[tokio::test]
async fn offerings_resources_plan_periods_accounts_and_ourselves_are_found() {
    for api in ["classic", "current"] {
        let sandbox = Sandbox::start(api);
        let client = &sandbox.client;
        let before = client.requests();
        let me = client.me().await.unwrap();
        assert_eq!(me.username, "provider");
        assert!(me.permissions.iter().any(|role| role.scope_uuid == Some(id(OFFERING))), "{me:?}");
        let offerings = client.offerings().await.unwrap();
        assert_eq!(offerings.iter().map(|o| o.uuid).collect::<Vec<_>>(), [id(OFFERING)]);
        assert!(
            offerings[0].components.iter().any(|c| c.component == "cpu_hours" && c.billing_type == "usage")
        );
        assert_eq!(client.offering(id(OFFERING)).await.unwrap().components, offerings[0].components);
        let resources = client.resources(id(OFFERING)).await.unwrap();
        assert_eq!(resources.len(), 3);
        let a = resources.iter().find(|r| r.uuid == id(PROJECT_A)).unwrap();
        assert!(matches!(a.plan, Plan::Is(_)) && a.backend_id == "project-a" && a.state == "OK", "{a:?}");
        assert_eq!(client.resource(a.uuid).await.unwrap().backend_id, a.backend_id);
        let periods = client.plan_periods(a.uuid).await.unwrap();
        assert_eq!((periods.len(), periods[0].end), (1, None));
        let accounts = client.offering_users(id(OFFERING)).await.unwrap();
        assert!(accounts.iter().any(|account| account.username == "alice" && !account.url.is_empty()));
        assert_eq!(client.requests() - before, 7, "one request each");
        let found = client.resources_by_backend_id(id(OFFERING), "project-b").await.unwrap();
        assert_eq!(found.iter().map(|r| r.uuid).collect::<Vec<_>>(), [id(PROJECT_B)]);
        assert!(client.resources_by_backend_id(id(OFFERING), "").await.unwrap().is_empty());
        assert_eq!(client.resource(Uuid::from_u128(1)).await.unwrap_err().name(), "missing");
    }
}

#[tokio::test]
async fn the_named_plan_period_takes_the_report() {
    let sandbox = Sandbox::start("current");
    sandbox.client.set_usage(&report(&[("cpu_hours", "1")])).await.unwrap();
    sandbox.admin(&format!("resources/{PROJECT_A}"), "{\"switch_plan\":true}").await;
    let periods = sandbox.client.plan_periods(id(PROJECT_A)).await.unwrap();
    assert_eq!(periods.len(), 2, "{periods:?}");
    let open = periods.iter().find(|period| period.end.is_none()).unwrap();
    let later = SetUsage { plan_period: Some(open.uuid), ..report(&[("cpu_hours", "2")]) };
    sandbox.client.set_usage(&later).await.unwrap();
    let rows = sandbox.client.list_usages(&UsageFilter::of_month(november())).await.unwrap();
    assert_eq!(rows.rows.len(), 2, "one row a plan period: {rows:?}");
}

#[tokio::test]
async fn a_wrong_token_and_a_missing_role_are_told_apart() {
    let wrong = Sandbox::with_token("current", "no-such-token");
    assert_eq!(wrong.client.me().await.unwrap_err().name(), "token");
    let stranger = Sandbox::with_token("current", "stranger");
    stranger.admin("tokens", "{\"token\":\"stranger\",\"username\":\"s\",\"offerings\":[]}").await;
    let failure = stranger.client.set_usage(&report(&[("cpu_hours", "1")])).await.unwrap_err();
    assert_eq!(failure.name(), "forbidden", "{failure:?}");
    assert!(stranger.client.resources(id(OFFERING)).await.unwrap().is_empty());
    // The provider's view hides it; its components are public.
    assert_eq!(stranger.client.offering(id(OFFERING)).await.unwrap().uuid, id(OFFERING));
    assert_eq!(stranger.client.public_offering(id(OFFERING)).await.unwrap().uuid, id(OFFERING));
}

#[tokio::test]
async fn usages_list_filters_and_orders_whatever_the_server_knows() {
    for api in ["classic", "current"] {
        let sandbox = Sandbox::start(api);
        let october = format!(
            "{{\"resource\":\"{PROJECT_B}\",\"type\":\"cpu_hours\",\"usage\":\"9\",\"billing_period\":\"2026-10-01\"}}"
        );
        sandbox.admin("rows", &october).await;
        sandbox.client.set_usage(&report(&[("gpu_hours", "1.5"), ("cpu_hours", "12.3")])).await.unwrap();
        let json = async |arguments: &str| -> serde_json::Value {
            serde_json::from_str(&sandbox.usages(&format!("list --json {arguments}")).await).unwrap()
        };
        let count = async |arguments: &str| json(arguments).await.as_array().unwrap().len();
        for (arguments, expected) in [
            ("", 3),
            ("--billing-period 2026-11", 2),
            ("--billing_period_month 10", 1),
            ("--billing-period-year 2026", 3),
            ("--billing-period-year 2025", 0),
            ("--billing-period-year 2026 --billing-period-month 11", 2),
            ("--type cpu_hours", 2),
            (&format!("--resource-uuid {PROJECT_B}"), 1),
            (&format!("--resource {PROJECT_B} --field usage"), 1),
            (&format!("--offering-uuid {OFFERING} --type gpu_hours"), 1),
            ("--customer-uuid 00000000000000000000000000000001", 0),
            ("--page 1 --page-size 2", 2),
            ("--page-size 1", 1),
            ("--page 2 --page-size 2", 1),
            ("--date-after 2027-01-01", 0),
        ] {
            assert_eq!(count(arguments).await, expected, "{api}: {arguments}");
        }
        let ordered = json("--o -usage --field usage --field type").await;
        let usages: Vec<_> =
            ordered.as_array().unwrap().iter().map(|row| row["usage"].as_str().unwrap()).collect();
        assert_eq!(usages, ["12.30", "9.00", "1.50"], "{api}");
        assert_eq!(ordered[0].as_object().unwrap().len(), 2);
        let whole = json("--type gpu_hours").await;
        assert!(whole[0].as_object().unwrap().len() > 15, "{whole}");

        let table = sandbox.usages("list --billing-period 2026-11 --o usage").await;
        let first = table.lines().find(|line| line.contains("Project A")).unwrap();
        assert!(first.contains("1.50"), "{table}");
        let uuid = sandbox.rows().await["cpu_hours"].uuid;
        let shown = sandbox.usages(&format!("show {uuid}")).await;
        assert!(shown.contains("12.30") && shown.contains("billing_period"), "{shown}");
        let shown: serde_json::Value =
            serde_json::from_str(&sandbox.usages(&format!("show {uuid} --json")).await).unwrap();
        assert_eq!(shown["usage"], "12.30");
    }
}

#[tokio::test]
async fn a_list_of_many_pages_is_read_whole() {
    let sandbox = Sandbox::start("classic");
    for at in 0..320 {
        let resource = format!("{{\"name\":\"r{at}\",\"offering\":\"{OFFERING}\",\"backend_id\":\"b{at}\"}}");
        sandbox.admin("resources", &resource).await;
    }
    let before = sandbox.client.requests();
    assert_eq!(sandbox.client.resources(id(OFFERING)).await.unwrap().len(), 323);
    assert_eq!(sandbox.client.requests() - before, 2);
}
