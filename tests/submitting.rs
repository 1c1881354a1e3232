//! The submitter against the sandbox: the same ledger and server, at the moments when a bill can go wrong.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "agent/engine.rs"]
mod engine;
#[path = "agent/in_process.rs"]
mod in_process;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;
use waldur_usage_agent::config::clock::{Clock, ManualClock};
use waldur_usage_agent::ledger::books::ingest::Run;
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading, Span};
use waldur_usage_agent::submitter::{CycleOptions, CycleReport, Submitter};

use in_process::{Sandbox, at};

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
const A: &str = "5e2f0000-0000-4000-8000-000000000001";
const ONE: &str = "
    meters:
      cpu_hours: { reading: cpu }
      ram_gb_hours: { reading: ram }
      gpu_hours: { reading: gpu }
";

/// A sandbox, and an agent's ledger and submitter that share its time: both clocks stand still until they are set.
struct World {
    server: Sandbox,
    _folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    submitter: Submitter,
}

/// `a` is measured under its resource's UUID, as are all others: the label `r` says which.
fn rulebook(meters: &str) -> Rulebook {
    let text = format!("collectors:\n  c:\n    resource: \"{{r}}\"\n    user: \"{{user}}\"{meters}");
    in_process::rulebook(&text, BillingZone::utc())
}

impl World {
    async fn new(now: &str, arguments: &[&str]) -> World {
        let server = Sandbox::start(&[&["--now", now], arguments].concat());
        let folder = tempfile::tempdir().unwrap();
        let settings = in_process::settings(&server.url, folder.path(), "timeout: 5s\n");
        let clock = Arc::new(ManualClock::at(at(now)));
        let mut ledger = Ledger::open(engine::place(folder.path()), rulebook(ONE)).unwrap();
        ledger.apply_rules(Timestamp::UNIX_EPOCH).unwrap();
        let submitter = in_process::submitter(&settings, &clock, ledger);
        let world = World { server, _folder: folder, clock, submitter };
        world.set(now).await;
        world
    }

    async fn admin(&self, path: &str, body: &str) {
        self.server.post(path, serde_json::from_str(body).unwrap()).await;
    }

    async fn set(&self, now: &str) {
        self.clock.set(at(now));
        self.server.set(at(now)).await;
    }

    /// A run that saw these counters: resource, reading, user, value.
    async fn see(&self, now: &str, counters: &[(&str, &str, &str, i64)]) {
        self.set(now).await;
        let readings = counters
            .iter()
            .map(|(resource, name, user, value)| {
                let reading =
                    Reading::new(name, Kind::Counter, (*value).into(), at(now)).label("r", *resource);
                if user.is_empty() { reading } else { reading.label("user", *user) }
            })
            .collect();
        let run = Run::seen("c", at(now), readings);
        self.submitter.ledger.with(move |ledger| ledger.record(run)).await.unwrap();
    }

    async fn cycle(&self) -> CycleReport {
        self.submitter.cycle(CycleOptions { ignore_backoff: true }).await.unwrap()
    }

    /// What the server holds, as `month component` or, of a part of a month, in the order in which it was made.
    async fn held(&self, resource: &str) -> BTreeMap<String, Vec<String>> {
        let state = self.server.get("state").await;
        let wanted: Uuid = resource.parse().unwrap();
        let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in state["resources"].as_array().unwrap() {
            if one["uuid"].as_str().and_then(|uuid| uuid.parse::<Uuid>().ok()) != Some(wanted) {
                continue;
            }
            for row in one["rows"].as_array().unwrap() {
                let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
                let usage: Decimal = text("usage").parse().unwrap();
                let month = text("billing_period").chars().take(7).collect::<String>();
                held.entry(format!("{month} {}", text("type"))).or_default().push(format!("{usage:.2}"));
            }
        }
        held
    }

    async fn blocks(&self) -> Vec<String> {
        let blocks = self.submitter.ledger.with(|ledger| ledger.blocks()).await.unwrap();
        blocks.into_iter().map(|at| format!("{} {} {}", at.period, at.component, at.block.reason)).collect()
    }
}

fn one(held: &BTreeMap<String, Vec<String>>, key: &str) -> String {
    held.get(key).map(|all| all.join(" ")).unwrap_or_default()
}

async fn many(world: &World, number: u32) -> Vec<String> {
    let mut resources = Vec::new();
    for n in 0..number {
        let uuid = format!("5e2f0000-0000-4000-8000-0000000001{n:02}");
        world
            .admin(
                "resources",
                &format!(
                    r#"{{"uuid": "{uuid}", "name": "r{n}", "backend_id": "r{n}", "offering": "{OFFERING}"}}"#
                ),
            )
            .await;
        resources.push(uuid);
    }
    resources
}

#[tokio::test]
async fn what_waits_for_its_turn_over_midnight_is_not_sent_into_the_next_month() {
    let world = World::new("2026-11-30T23:50:00Z", &["--api", "classic"]).await;
    let resources = many(&world, 12).await;
    let all = |value: i64| resources.iter().map(|r| (r.as_str(), "cpu", "", value)).collect::<Vec<_>>();
    world.see("2026-11-30T23:40:00Z", &all(0)).await;
    world.see("2026-11-30T23:50:00Z", &all(10)).await;
    world.admin("settings", r#"{"latency_ms": 300}"#).await;
    let midnight = async {
        // Until the first reports have arrived.
        for _ in 0..600 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            if one(&world.held(&resources[0]).await, "2026-11 cpu_hours") == "10.00" {
                break;
            }
        }
        world.set("2026-12-01T00:00:05Z").await;
    };
    tokio::join!(world.cycle(), midnight);
    let mut misfiled = Vec::new();
    for resource in &resources {
        misfiled.extend(world.held(resource).await.into_iter().filter(|(key, _)| key.starts_with("2026-12")));
    }
    // Those under way when the clock was set could not be called back; no other may follow.
    assert!(misfiled.len() <= 2, "{misfiled:?}");
}

#[tokio::test]
async fn a_component_that_appears_later_does_not_overwrite_another_writer() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world
        .admin(
            "rows",
            &format!(
                r#"{{"resource": "{A}", "type": "ram_gb_hours", "usage": "300.00", "billing_period": "2026-11-01"}}"#
            ),
        )
        .await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "", 100)]).await;
    world.cycle().await;
    world.see("2026-11-10T14:00:00Z", &[(A, "cpu", "", 110), (A, "ram", "", 0)]).await;
    world.see("2026-11-10T15:00:00Z", &[(A, "cpu", "", 120), (A, "ram", "", 5)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(A).await, "2026-11 ram_gb_hours"), "300.00");
    // Held is the component, and not what is right beside it.
    assert_eq!(world.blocks().await, ["2026-11 ram_gb_hours conflict"]);
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "120.00");
}

/// The share went down, nobody knows whether that arrived, and it came up again to what was last accepted.
#[tokio::test]
async fn a_share_in_doubt_is_sent_again_also_if_it_is_as_it_was() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world.see("2026-11-10T11:00:00Z", &[(A, "cpu", "alice", 0)]).await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "alice", 100)]).await;
    world.cycle().await;
    let lost = r#"{"faults": [{"match": {"path": "set_user_usages"}, "when": "after", "action": "drop", "times": 1}]}"#;
    world.admin("faults", lost).await;
    // The source corrects itself, and corrects the correction.
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "alice", 60)]).await;
    world.cycle().await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "alice", 100)]).await;
    world.cycle().await;
    let of = ("cpu_hours", "2026-11-01".parse().unwrap());
    let shares = world.submitter.client.list_user_usages(A.parse().unwrap(), of.0, of.1).await.unwrap();
    assert_eq!(shares.iter().map(|share| share.usage).collect::<Vec<_>>(), [Decimal::from(100)]);
    assert_eq!(
        world.submitter.ledger.with(move |ledger| ledger.pending(at("2026-11-10T12:00:00Z"))).await.unwrap(),
        []
    );
}

/// What Waldur holds is compared every hour, also of a resource of which nothing is to be sent (law 8).
#[tokio::test]
async fn another_writer_is_seen_within_an_hour_whoever_was_due_then() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    let other = "5e2f0000-0000-4000-8000-000000000002";
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0), (other, "cpu", "", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "", 100), (other, "cpu", "", 100)]).await;
    world.cycle().await;
    let row = format!(r#"{{"resource": "{other}", "type": "cpu_hours", "usage": "7.00"}}"#);
    world.admin("rows", &row).await;
    world.see("2026-11-10T14:01:00Z", &[(A, "cpu", "", 200), (other, "cpu", "", 100)]).await;
    world.cycle().await;
    assert_eq!(world.blocks().await, ["2026-11 cpu_hours conflict"]);
    world.see("2026-11-10T14:10:00Z", &[(A, "cpu", "", 200), (other, "cpu", "", 110)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(other).await, "2026-11 cpu_hours"), "7.00");
    assert_eq!(world.blocks().await, ["2026-11 cpu_hours conflict"]);
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "200.00");
}

#[tokio::test]
async fn a_server_that_honours_dates_is_known_by_it_with_many_resources() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    let resources = many(&world, 6).await;
    let all = |value: i64| resources.iter().map(|r| (r.as_str(), "cpu", "", value)).collect::<Vec<_>>();
    world.see("2026-11-10T12:00:00Z", &all(0)).await;
    world.see("2026-11-10T13:00:00Z", &all(10)).await;
    world.cycle().await;
    world.see("2026-11-10T14:00:00Z", &all(20)).await;
    world.cycle().await;
    let dated = world.submitter.ledger.with(|ledger| ledger.server_fact("dated")).await.unwrap();
    assert_eq!(dated.map(|(value, _)| value).as_deref(), Some("yes"));
}

#[tokio::test]
async fn a_server_that_learns_to_honour_dates_is_known_by_it_a_day_later() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world
        .submitter
        .ledger
        .with(|ledger| ledger.put_server_fact("dated", "no", at("2026-11-10T12:00:00Z")))
        .await
        .unwrap();
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0)]).await;
    for (now, value, dated) in [
        ("2026-11-10T13:00:00Z", 10, "no"),
        ("2026-11-11T11:00:00Z", 20, "no"),
        ("2026-11-11T13:00:00Z", 30, "yes"),
    ] {
        world.see(now, &[(A, "cpu", "", value)]).await;
        world.cycle().await;
        let fact = world.submitter.ledger.with(|ledger| ledger.server_fact("dated")).await.unwrap();
        assert_eq!(fact.map(|(value, _)| value).as_deref(), Some(dated), "{now}");
    }
}

#[tokio::test]
async fn after_a_users_share_failed_and_went_through_nothing_is_waited_for() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world
        .admin(
            "faults",
            r#"{"faults": [{"match": {"path": "set_user_usages"}, "when": "before", "action": {"status": 503}, "times": 1}]}"#,
        )
        .await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "alice", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "alice", 100)]).await;
    world.cycle().await;
    world.cycle().await;
    let now = world.clock.now();
    let (pending, next) = world
        .submitter
        .ledger
        .with(move |ledger| Ok((ledger.pending(now)?, ledger.next_retry()?)))
        .await
        .unwrap();
    assert_eq!((pending, next), (vec![], None));
}

#[tokio::test]
async fn a_500_that_always_comes_back_for_one_resource_is_waited_for_ever_longer_and_then_held() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    let other = "5e2f0000-0000-4000-8000-000000000002";
    let broken = A.replace('-', "");
    world
        .admin(
            "faults",
            &format!(
                r#"{{"faults": [{{"match": {{"path": "set_usage", "body": "{broken}"}}, "when": "before", "action": {{"status": 500}}}}]}}"#
            ),
        )
        .await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0), (other, "cpu", "", 0)]).await;
    let mut failures = Vec::new();
    for minute in 1..=8 {
        let now = format!("2026-11-10T12:{minute:02}:00Z");
        world.see(&now, &[(A, "cpu", "", 10), (other, "cpu", "", minute)]).await;
        world.cycle().await;
        let retry =
            world.submitter.ledger.with(|ledger| ledger.retry(Some(A.parse().unwrap()))).await.unwrap();
        failures.push(retry.map_or(0, |retry| retry.failures));
    }
    assert_eq!(failures[..5], [1, 2, 3, 4, 5]);
    assert_eq!(world.blocks().await, ["2026-11  server_error"]);
    assert_eq!(one(&world.held(other).await, "2026-11 cpu_hours"), "8.00");
}

#[tokio::test]
async fn a_plan_switch_strands_the_last_bit_of_the_old_plan_and_nothing_of_the_new() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "", 100)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "100.00");
    world.set("2026-11-10T13:30:00Z").await;
    world.admin(&format!("resources/{A}"), r#"{"switch_plan": true}"#).await;
    world.see("2026-11-10T14:00:00Z", &[(A, "cpu", "", 200)]).await;
    // The listing of resources is older than an hour: the switch is seen before anything is sent.
    world.set("2026-11-10T14:30:00Z").await;
    world.cycle().await;
    world.see("2026-11-10T15:00:00Z", &[(A, "cpu", "", 260)]).await;
    world.cycle().await;
    // 13:30 to 15:00: 50 + 60.
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "100.00 110.00");
}

#[tokio::test]
async fn a_plan_switched_unseen_is_repaired() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "", 100)]).await;
    world.cycle().await;
    world.set("2026-11-10T13:10:00Z").await;
    world.admin(&format!("resources/{A}"), r#"{"switch_plan": true}"#).await;
    world.see("2026-11-10T13:20:00Z", &[(A, "cpu", "", 120)]).await;
    world.cycle().await;
    world.see("2026-11-10T15:20:00Z", &[(A, "cpu", "", 180)]).await;
    world.cycle().await;
    world.see("2026-11-10T16:20:00Z", &[(A, "cpu", "", 200)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "100.00 90.00");
}

#[tokio::test]
async fn usage_from_before_the_first_plan_period_does_not_undo_what_came_after() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    let uuid = "5e2f0000-0000-4000-8000-000000000199";
    world
        .admin(
            "resources",
            &format!(
                r#"{{"uuid": "{uuid}", "name": "late", "offering": "{OFFERING}", "created": "2026-11-10T12:30:00Z"}}"#
            ),
        )
        .await;
    world.see("2026-11-10T12:00:00Z", &[(uuid, "cpu", "", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(uuid, "cpu", "", 100)]).await;
    world.see("2026-11-10T14:00:00Z", &[(uuid, "cpu", "", 130)]).await;
    world.cycle().await;
    world.see("2026-11-10T15:00:00Z", &[(uuid, "cpu", "", 140)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(uuid).await, "2026-11 cpu_hours"), "140.00");
}

#[tokio::test]
async fn a_correction_by_another_writer_in_mid_month_is_not_overwritten() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "", 100)]).await;
    world.cycle().await;
    world
        .admin(
            "rows",
            &format!(
                r#"{{"resource": "{A}", "type": "cpu_hours", "usage": "7.00", "billing_period": "2026-11-01"}}"#
            ),
        )
        .await;
    world.see("2026-11-11T13:00:00Z", &[(A, "cpu", "", 110)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "7.00");
    assert_eq!(world.blocks().await, ["2026-11 cpu_hours conflict"]);
}

/// The operator left `billing_timezone` at UTC; the server's months are New York's. One report may have to show it: all
/// others of that cycle must not follow it into October, where each erases a month's bill.
#[tokio::test]
async fn one_report_of_a_new_month_is_read_back_before_the_others_follow() {
    let world = World::new("2026-10-31T22:00:00Z", &["--timezone", "America/New_York"]).await;
    let resources = many(&world, 5).await;
    let all = |value: i64| resources.iter().map(|r| (r.as_str(), "cpu", "", value)).collect::<Vec<_>>();
    world.see("2026-10-31T22:00:00Z", &all(0)).await;
    world.see("2026-10-31T23:00:00Z", &all(500)).await;
    world.cycle().await;
    world.see("2026-11-01T00:15:00Z", &all(500)).await;
    world.see("2026-11-01T00:30:00Z", &all(501)).await;
    world.cycle().await;
    world.cycle().await;
    let mut erased = 0;
    for resource in &resources {
        erased += u32::from(one(&world.held(resource).await, "2026-10 cpu_hours") != "500.00");
    }
    assert!(erased <= 1, "October of {erased} resources was overwritten by November's first hour");
    assert!(world.blocks().await.iter().any(|block| block.ends_with("wrong_month")));
}

/// The verdict on November's beginning says nothing of December's end, where the server may file reports rightly.
#[tokio::test]
async fn a_verdict_on_one_months_beginning_does_not_hold_what_is_reported_at_the_next_months_end() {
    let world = World::new("2026-10-31T22:00:00Z", &["--timezone", "America/New_York"]).await;
    let resources = many(&world, 2).await;
    let all = |value: i64| resources.iter().map(|r| (r.as_str(), "cpu", "", value)).collect::<Vec<_>>();
    world.see("2026-10-31T22:00:00Z", &all(0)).await;
    world.see("2026-10-31T23:00:00Z", &all(500)).await;
    world.cycle().await;
    world.see("2026-11-01T00:15:00Z", &all(500)).await;
    world.see("2026-11-01T00:30:00Z", &all(501)).await;
    world.cycle().await;
    world.cycle().await;
    assert_eq!(world.blocks().await, ["2026-10 cpu_hours conflict", "2026-11 cpu_hours wrong_month"]);
    let mut good = String::new();
    for resource in &resources {
        if one(&world.held(resource).await, "2026-10 cpu_hours") == "500.00" {
            good.clone_from(resource);
        }
    }
    // Ten a day from 15 November on: 751 at noon of the 30th, 756 at its midnight, 901 on 15 December.
    for (now, value, month, amount) in [
        ("2026-11-15T12:00:00Z", 601, "2026-11", "101.00"),
        ("2026-11-30T12:00:00Z", 751, "2026-11", "251.00"),
        ("2026-12-15T12:00:00Z", 901, "2026-12", "145.00"),
        ("2026-12-31T12:00:00Z", 951, "2026-12", "195.00"),
    ] {
        world.see(now, &all(value)).await;
        world.cycle().await;
        assert_eq!(one(&world.held(&good).await, &format!("{month} cpu_hours")), amount, "{now}");
        let misfiled = "2026-11 cpu_hours wrong_month".to_owned();
        assert!(world.blocks().await.contains(&misfiled), "nobody has decided about it: {now}");
    }
}

/// The row that shares go to is remembered; after a plan switch that nobody has seen yet it is the old plan's.
#[tokio::test]
async fn after_an_unseen_plan_switch_shares_stand_on_the_rows_of_their_plans() {
    let world = World::new("2026-11-10T12:00:00Z", &[]).await;
    world.see("2026-11-10T12:00:00Z", &[(A, "cpu", "alice", 0)]).await;
    world.see("2026-11-10T13:00:00Z", &[(A, "cpu", "alice", 100)]).await;
    world.cycle().await;
    world.set("2026-11-10T13:10:00Z").await;
    world.admin(&format!("resources/{A}"), r#"{"switch_plan": true}"#).await;
    world.see("2026-11-10T13:20:00Z", &[(A, "cpu", "alice", 120)]).await;
    world.cycle().await;
    world.see("2026-11-10T15:20:00Z", &[(A, "cpu", "alice", 180)]).await;
    world.cycle().await;
    world.see("2026-11-10T16:20:00Z", &[(A, "cpu", "alice", 200)]).await;
    world.cycle().await;
    assert_eq!(one(&world.held(A).await, "2026-11 cpu_hours"), "100.00 90.00");
    let client = &world.submitter.client;
    let shares = client
        .list_user_usages(A.parse().unwrap(), "cpu_hours", "2026-11-01".parse().unwrap())
        .await
        .unwrap();
    let mut shares: Vec<String> =
        shares.iter().map(|share| format!("{} {:.2}", share.username, share.usage)).collect();
    shares.sort();
    assert_eq!(shares, ["alice 100.00", "alice 90.00"]);
}

/// A job of A's between these instants, and when it is told; whether that is all the rest of November's closing.
#[track_caller]
fn left_by_the_closing(start: &str, end: &str, told: &str) -> bool {
    let folder = in_process::folder();
    let mut ledger = Ledger::open(engine::place(folder.path()), rulebook(ONE)).unwrap();
    ledger.apply_rules(Timestamp::UNIX_EPOCH).unwrap();
    let job = |id: &str, start: &str, end: &str| Reading {
        id: Some(id.to_owned()),
        span: Span::Interval { start: at(start), end: at(end) },
        ..Reading::new("cpu", Kind::Delta, 4.into(), at(end)).label("r", A)
    };
    let first = job("1", "2026-11-20T00:00:00Z", "2026-11-20T01:00:00Z");
    ledger.record(Run::seen("c", at("2026-11-30T23:00:00Z"), vec![first])).unwrap();
    ledger.state(at("2026-11-30T23:00:00Z")).unwrap();
    let reported = ledger.statements(Some("2026-11".parse().unwrap())).unwrap().pop().unwrap();
    ledger.record(Run::seen("c", at(told), vec![job("2", start, end)])).unwrap();
    let from = at("2026-11-30T23:55:00Z");
    ledger.is_all_used_after(reported.key, "cpu_hours", reported.counted, from).unwrap()
}

#[test]
fn what_a_closing_leaves_was_used_in_the_last_five_minutes_and_told_within_an_hour() {
    let end = "2026-12-01T00:00:00Z";
    assert!(left_by_the_closing("2026-11-30T23:56:00Z", end, "2026-12-01T00:10:00Z"));
    assert!(left_by_the_closing("2026-11-30T23:55:00Z", end, "2026-12-01T00:10:00Z"));
    assert!(!left_by_the_closing("2026-11-30T23:54:59Z", end, "2026-12-01T00:10:00Z"));
    // It goes on into December.
    assert!(left_by_the_closing("2026-11-30T23:56:00Z", "2026-12-01T00:36:00Z", "2026-12-01T00:50:00Z"));
    assert!(!left_by_the_closing("2026-11-30T23:54:00Z", "2026-12-01T00:36:00Z", "2026-12-01T00:50:00Z"));
    // Told an hour after its end, and later.
    assert!(left_by_the_closing("2026-11-30T23:56:00Z", end, "2026-12-01T01:00:00Z"));
    assert!(!left_by_the_closing("2026-11-30T23:56:00Z", end, "2026-12-01T01:00:01Z"));
    // Nothing of it is November's.
    assert!(!left_by_the_closing(end, "2026-12-01T00:05:00Z", "2026-12-01T00:10:00Z"));
}
