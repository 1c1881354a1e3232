//! The month's end on simulated time: every cell of the table in docs/month-end.md, the order of the closing pass, how
//! many calls are under way, and an agent that comes back after weeks.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "agent/engine.rs"]
mod engine;
#[path = "agent/in_process.rs"]
mod in_process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::ledger::Ledger;
use waldur_usage_agent::ledger::books::ingest::Run;
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading, Span};
use waldur_usage_agent::submitter::closing::Closing;
use waldur_usage_agent::submitter::{CycleOptions, CycleReport, Late, Submitter};

use in_process::{Sandbox, at, rulebook};

const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
const A: &str = "5e2f0000-0000-4000-8000-000000000001";
/// Seconds of a counter, or of jobs, as minutes.
const METERS: &str = "collectors:
  c:
    resource: \"{r}\"
    meters:
      cpu_hours: { reading: cpu, factor: 1/60 }
";

struct World {
    server: Sandbox,
    _folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    submitter: Submitter,
}

impl World {
    /// Both clocks stand still until they are set. A classic server bills by UTC's months, whatever its time zone.
    async fn new(api: &str, server_zone: &str, now: &str) -> World {
        World::with(api, server_zone, now, 4).await
    }

    /// With at most so many calls at once.
    async fn with(api: &str, server_zone: &str, now: &str, at_once: usize) -> World {
        let server = Sandbox::start(&["--api", api, "--timezone", server_zone, "--now", now]);
        let folder = tempfile::tempdir().unwrap();
        let more = format!("timeout: 10s\nmax_in_flight: {at_once}\n");
        let settings = in_process::settings(&server.url, folder.path(), &more);
        let clock = Arc::new(ManualClock::at(at(now)));
        let zone = BillingZone::named(if api == "classic" { "UTC" } else { server_zone }).unwrap();
        let mut ledger = Ledger::open(engine::place(folder.path()), rulebook(METERS, zone)).unwrap();
        ledger.apply_rules(Timestamp::UNIX_EPOCH).unwrap();
        let submitter = in_process::submitter(&settings, &clock, ledger);
        let world = World { server, _folder: folder, clock, submitter };
        world.set(at(now)).await;
        world
    }

    /// The true time; the server's clock has its skew beside it.
    async fn set(&self, now: Timestamp) {
        self.clock.set(now);
        self.server.set(now).await;
    }

    /// No connection comes to an answer, and no call is applied.
    async fn is_down(&self, down: bool) {
        let faults = if down { json!([{ "when": "before", "action": "drop" }]) } else { json!([]) };
        self.server.post("faults", json!({ "faults": faults })).await;
    }

    async fn record(&self, readings: Vec<Reading>) {
        let run = Run::seen("c", self.submitter.clock.now(), readings);
        self.submitter.ledger.with(move |ledger| ledger.record(run)).await.unwrap();
    }

    /// At this time the counter of each of these resources stands there.
    async fn see(&self, now: Timestamp, counters: &[(&str, i64)]) {
        self.set(now).await;
        let reading = |(resource, value): &(&str, i64)| {
            Reading::new("cpu", Kind::Counter, (*value).into(), now).label("r", *resource)
        };
        self.record(counters.iter().map(reading).collect()).await;
    }

    async fn cycle(&self) -> CycleReport {
        self.submitter.cycle(CycleOptions { ignore_backoff: true }).await.unwrap()
    }

    async fn closing(&self) -> Closing {
        let now = self.submitter.clock.now();
        self.submitter.ledger.with(move |ledger| Closing::of(ledger, now)).await.unwrap()
    }

    /// What the server holds of a resource in a month; several rows are added up.
    async fn held(&self, resource: &str, month: &str) -> Decimal {
        let state = self.server.get("state").await;
        let wanted: Uuid = resource.parse().unwrap();
        let resources = state["resources"].as_array().unwrap();
        let one =
            resources.iter().find(|one| one["uuid"].as_str().unwrap().parse::<Uuid>() == Ok(wanted)).unwrap();
        let rows = one["rows"].as_array().unwrap().iter();
        rows.filter(|row| row["billing_period"].as_str().unwrap().starts_with(month))
            .map(|row| row["usage"].as_str().unwrap().parse::<Decimal>().unwrap())
            .sum()
    }

    /// `2026-11: 358.00 closed` and, beside it, what is stranded.
    async fn months(&self) -> Vec<String> {
        let (closing, now) = (self.closing().await, self.submitter.clock.now());
        let statements = self.submitter.ledger.with(|ledger| ledger.statements(None)).await.unwrap();
        let mut months = Vec::new();
        for statement in statements {
            let entry = &statement.components["cpu_hours"];
            let held = entry.acknowledged.as_ref().map_or(Decimal::ZERO, |known| known.amount);
            let left = entry.stranded().map_or(String::new(), |left| format!(" + {left:.2} stranded"));
            let state = closing.state_of(&statement, now).name();
            months.push(format!("{}: {held:.2}{left}, {state}", statement.key.period));
        }
        months
    }

    /// Paths of the API requests since a mark, and the next mark.
    async fn requests(&self, since: u64) -> (Vec<Value>, u64) {
        let answer = self.server.get(&format!("requests?since={since}")).await;
        (answer["requests"].as_array().unwrap().clone(), answer["next"].as_u64().unwrap())
    }
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// One cell of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    api: String,
    zone: String,
    skew: i64,
    down: bool,
    backfill: bool,
    may_backfill: bool,
}

/// Two hours of a counter that counts every second, sampled and submitted every quarter of an hour and when the closing
/// pass says so; then an hour of the next month.
async fn play(cell: &Cell) -> String {
    let zone = BillingZone::named(if cell.api == "classic" { "UTC" } else { &cell.zone }).unwrap();
    let end = zone.end("2026-11".parse().unwrap());
    let start = end - minutes(120);
    let mut world = World::new(&cell.api, &cell.zone, &start.to_string()).await;
    world.submitter.late = if cell.backfill { Late::Backfill } else { Late::Hold };
    world.server.post("clock", json!({ "skew_seconds": cell.skew })).await;
    if cell.may_backfill {
        world.server.post("tokens", json!({ "token": "sandbox-token", "staff": true })).await;
    }
    let round = async |now: Timestamp| {
        if cell.down {
            world.is_down(now >= end - minutes(10) && now < end + minutes(20)).await;
        }
        world.see(now, &[(A, now.duration_since(start).as_secs())]).await;
        world.cycle().await;
    };
    for quarter in 0..8 {
        round(start + minutes(15) * quarter).await;
    }
    let closing = world.closing().await;
    // The counter counts whole seconds.
    let whole = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap();
    let instants: BTreeSet<Timestamp> =
        [closing.begins, closing.last_call, closing.ends, end].map(whole).into();
    for now in instants {
        round(now).await;
    }
    for quarter in 1..=4 {
        round(end + minutes(15) * quarter).await;
    }
    // Nothing is left to ask, and what was used is booked in its month or stranded.
    let (_, mark) = world.requests(u64::MAX).await;
    world.cycle().await;
    assert_eq!(world.requests(mark).await.0, [Value::Null; 0], "{cell:?}");
    let months = world.months().await;
    for (month, shown) in [("2026-11", &months[0]), ("2026-12", &months[1])] {
        let held = world.held(A, month).await;
        assert!(shown.starts_with(&format!("{month}: {held:.2}")), "{cell:?}: {shown}, but {held}");
    }
    assert_eq!(months.len(), 2, "{cell:?}: {months:?}");
    format!("{} / {}", months[0].replace("2026-11: ", ""), months[1].replace("2026-12: ", ""))
}

/// The table: a row for each server and clock, a column for each token.
fn expected() -> BTreeMap<Cell, String> {
    let text = include_str!("../docs/month-end.md");
    let mut cells = BTreeMap::new();
    let mut columns: Vec<String> = Vec::new();
    for line in text.lines() {
        let fields: Vec<String> =
            line.trim_matches('|').split('|').map(|field| field.trim().to_owned()).collect();
        let is_row = line.starts_with("| classic |") || line.starts_with("| current |");
        if line.starts_with("| API |") {
            columns = fields;
        } else if is_row {
            for (column, outcome) in columns.iter().zip(&fields).skip(4) {
                let cell = Cell {
                    api: fields[0].clone(),
                    zone: fields[1].clone(),
                    skew: fields[2].trim_end_matches(" s").parse().unwrap(),
                    down: match fields[3].as_str() {
                        "up" => false,
                        "down" => true,
                        other => panic!("{other}"),
                    },
                    backfill: column.starts_with("`late: backfill`"),
                    may_backfill: match column.as_str() {
                        "`late: hold`" | "`late: backfill`, token may" => true,
                        "`late: backfill`, token may not" => false,
                        other => panic!("{other}"),
                    },
                };
                cells.insert(cell, outcome.clone());
            }
        }
    }
    cells
}

#[tokio::test]
async fn every_cell_of_a_classic_server_is_as_the_docs_say() {
    check("classic").await;
}

#[tokio::test]
async fn every_cell_of_a_current_server_is_as_the_docs_say() {
    check("current").await;
}

async fn check(api: &str) {
    let mut expected = expected();
    assert_eq!(expected.len(), 144);
    expected.retain(|cell, _| cell.api == api);
    let mut all = BTreeSet::new();
    {
        for zone in ["UTC", "Europe/Tallinn", "America/New_York", "Asia/Kathmandu"] {
            for skew in [-90, 0, 90] {
                for down in [false, true] {
                    // A token that may backfill does not do so unless the operator chose it.
                    for (backfill, may_backfill) in [(false, true), (true, false), (true, true)] {
                        let (api, zone) = (api.to_owned(), zone.to_owned());
                        all.insert(Cell { api, zone, skew, down, backfill, may_backfill });
                    }
                }
            }
        }
    }
    assert_eq!(expected.keys().cloned().collect::<BTreeSet<_>>(), all);
    // Where each takes long, some of every kind: 7 shares no factor with the numbers of what varies.
    let every = std::env::var("MONTH_END_EVERY").map_or(1, |every| every.parse().unwrap());
    let mut waiting = all.into_iter().step_by(every);
    let mut tasks = tokio::task::JoinSet::new();
    let mut wrong = Vec::new();
    loop {
        while tasks.len() < 8 {
            let Some(cell) = waiting.next() else { break };
            tasks.spawn(async move { (play(&cell).await, cell) });
        }
        let Some(done) = tasks.join_next().await else { break };
        let (outcome, cell) = done.unwrap();
        if expected[&cell] != outcome {
            wrong.push(format!("{cell:?}: {outcome}, and not {}", expected[&cell]));
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// More resources of the offering, each with this many minutes.
async fn others(world: &World, number: u32) -> Vec<String> {
    let mut resources = Vec::new();
    for n in 0..number {
        let uuid = format!("5e2f0000-0000-4000-8000-0000000001{n:02}");
        let resource = json!({ "uuid": uuid, "name": format!("r{n}"), "backend_id": format!("r{n}"), "offering": OFFERING });
        world.server.post("resources", resource).await;
        resources.push(uuid);
    }
    resources
}

/// Which resources were reported since a mark, in order.
async fn reported(world: &World, since: u64) -> Vec<String> {
    let (requests, _) = world.requests(since).await;
    let posts = requests.iter().filter(|one| one["path"].as_str().unwrap().ends_with("/set_usage/"));
    posts
        .map(|one| {
            let body: Value = serde_json::from_str(one["body"].as_str().unwrap()).unwrap();
            body["resource"].as_str().unwrap().parse::<Uuid>().unwrap().to_string()
        })
        .collect()
}

#[tokio::test]
async fn the_largest_unreported_amounts_are_sent_last_or_first_where_the_time_is_short() {
    // Two calls at once may arrive in either order.
    let world = World::with("classic", "UTC", "2026-11-30T12:00:00Z", 1).await;
    let all = others(&world, 3).await;
    let minutes = |values: [i64; 3]| -> Vec<(&str, i64)> {
        all.iter().zip(values).map(|(resource, value)| (resource.as_str(), value * 60)).collect()
    };
    world.see(at("2026-11-30T12:00:00Z"), &minutes([0, 0, 0])).await;
    world.see(at("2026-11-30T13:00:00Z"), &minutes([1000, 1000, 1000])).await;
    world.cycle().await;
    // The largest is not the one that grew most.
    world.see(at("2026-11-30T23:56:00Z"), &minutes([1500, 1005, 1050])).await;
    let (_, mark) = world.requests(u64::MAX).await;
    world.cycle().await;
    assert_eq!(reported(&world, mark).await, [&all[1], &all[2], &all[0]].map(String::clone));
    // Three calls of 50 s do not fit into the minute before the guard.
    let slow = world
        .submitter
        .ledger
        .with(|ledger| ledger.put_server_fact("call_time_ms", "50000 50000", at("2026-11-30T23:57:00Z")));
    slow.await.unwrap();
    world.see(at("2026-11-30T23:58:00Z"), &minutes([1501, 1305, 1080])).await;
    let (_, mark) = world.requests(u64::MAX).await;
    world.cycle().await;
    assert_eq!(reported(&world, mark).await, [&all[1], &all[2], &all[0]].map(String::clone));
    // Far from the month's end nobody is preferred.
    world.set(at("2026-12-10T12:00:00Z")).await;
    world.cycle().await;
    world.see(at("2026-12-10T13:00:00Z"), &minutes([1900, 1306, 1700])).await;
    let (_, mark) = world.requests(u64::MAX).await;
    world.cycle().await;
    assert_eq!(reported(&world, mark).await, all);
}

/// The most calls that were under way at once while the cycle ran, as the server saw it.
async fn under_way(world: &World, since: u64) -> usize {
    let mut most = 0;
    let watched = async {
        loop {
            let (requests, _) = world.requests(since).await;
            most = most.max(requests.iter().filter(|one| one["status"] == 0).count());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = world.cycle() => {}
        () = watched => {}
    }
    most
}

/// Eight calls at one, eight at two: then four, unless the month ends within the hour. What is measured is how long calls take:
/// where others keep this machine busy, a second or third try shows it. To the call: src/waldur/pace.rs.
#[tokio::test]
async fn more_calls_at_once_are_tried_while_more_are_answered_and_not_in_a_months_last_hour() {
    for (now, at_once, most) in [
        ("2026-11-10T12:00:00Z", 8, 4),
        // Two are tried once, and gain nothing.
        ("2026-11-10T12:00:00Z", 1, 2),
        ("2026-11-30T23:10:00Z", 8, 1),
    ] {
        let mut tries = Vec::new();
        while tries.last() != Some(&most) {
            assert!(tries.len() < 10, "{now} {at_once}: {tries:?}");
            let world = World::new("current", "UTC", now).await;
            let all = others(&world, 24).await;
            let seen = |value: i64| -> Vec<(&str, i64)> {
                all.iter().map(|resource| (resource.as_str(), value)).collect()
            };
            world.see(at(now) - SignedDuration::from_hours(1), &seen(0)).await;
            world.see(at(now), &seen(600)).await;
            world.server.post("settings", json!({ "latency_ms": 100, "calls_at_once": at_once })).await;
            tries.push(under_way(&world, 0).await);
            assert_eq!(reported(&world, 0).await.len(), 24);
        }
    }
}

#[tokio::test]
async fn a_slow_server_is_met_with_fewer_calls_at_once_down_to_one() {
    let world = World::new("current", "UTC", "2026-11-10T12:00:00Z").await;
    let all = others(&world, 12).await;
    let seen = |values: std::ops::Range<usize>, value: i64| -> Vec<(&str, i64)> {
        all[values].iter().map(|resource| (resource.as_str(), value)).collect()
    };
    world.see(at("2026-11-10T12:00:00Z"), &seen(0..12, 0)).await;
    world.see(at("2026-11-10T13:00:00Z"), &seen(0..12, 600)).await;
    // Quick, it is asked more at once, up to `max_in_flight: 4` and no further.
    world.server.post("settings", json!({ "latency_ms": 20, "calls_at_once": 8 })).await;
    let quick = under_way(&world, 0).await;
    assert!((2..=4).contains(&quick), "{quick}");
    world.server.post("settings", json!({ "latency_ms": 1100 })).await;
    world.see(at("2026-11-10T13:10:00Z"), &seen(0..4, 1200)).await;
    let (_, mark) = world.requests(u64::MAX).await;
    let slowing = under_way(&world, mark).await;
    assert!(slowing <= 4, "{slowing}");
    world.see(at("2026-11-10T13:10:30Z"), &seen(0..3, 1800)).await;
    let (_, mark) = world.requests(u64::MAX).await;
    assert_eq!(under_way(&world, mark).await, 1);
    assert_eq!(world.held(&all[2], "2026-11").await, Decimal::from(30));
    // What it learnt of the time of a call stays in the ledger.
    let fact = world.submitter.ledger.with(|ledger| ledger.server_fact("call_time_ms")).await.unwrap();
    let slowest: i64 = fact.unwrap().0.split_once(' ').unwrap().1.parse().unwrap();
    assert!(slowest >= 1100, "{slowest}");
}

#[tokio::test]
async fn the_first_call_of_a_month_may_take_its_time() {
    let (mut section, _) = Section::parse("url: https://waldur.example.com\ntoken_env: TOKEN\n");
    let usual = WaldurSettings::from_section(&mut section).unwrap().timeout;
    // 20 to 40 s were observed, and what waits behind it on the same token waits as long.
    assert_eq!(usual.as_secs(), 120);
    let world = World::new("classic", "UTC", "2026-11-01T00:30:00Z").await;
    world.server.post("settings", json!({ "first_of_month_ms": 2500 })).await;
    world.see(at("2026-11-01T00:30:00Z"), &[(A, 0)]).await;
    world.see(at("2026-11-01T00:40:00Z"), &[(A, 600)]).await;
    let report = world.cycle().await;
    assert_eq!((report.sent, report.paused), (1, None));
    assert_eq!(reported(&world, 0).await.len(), 1);
    assert_eq!(world.held(A, "2026-11").await, Decimal::from(10));
}

fn job(id: &str, start: &str, end: &str, minutes: i64) -> Reading {
    let mut reading = Reading::new("cpu", Kind::Delta, (minutes * 60).into(), at(end)).label("r", A);
    reading.span = Span::Interval { start: at(start), end: at(end) };
    reading.id = Some(id.to_owned());
    reading
}

#[tokio::test]
async fn an_agent_that_was_down_for_five_weeks_does_the_right_thing_for_each_month() {
    let held = [
        "2026-10: 60.00 + 40.00 stranded, closed",
        // Nothing of it was accepted, so that there is nothing to read back.
        "2026-11: 0.00 + 160.00 stranded, unreported",
        "2026-12: 80.00, open",
    ];
    let backfilled = ["2026-10: 100.00, closed", "2026-11: 160.00, closed", "2026-12: 80.00, open"];
    for (api, late, months) in [
        ("classic", Late::Hold, held),
        ("current", Late::Hold, held),
        ("classic", Late::Backfill, held),
        ("current", Late::Backfill, backfilled),
    ] {
        let mut world = World::new(api, "UTC", "2026-10-20T12:00:00Z").await;
        world.submitter.late = late;
        world.server.post("tokens", json!({ "token": "sandbox-token", "staff": true })).await;
        let mut jobs = vec![job("1", "2026-10-20T09:00:00Z", "2026-10-20T10:00:00Z", 60)];
        world.record(jobs.clone()).await;
        world.cycle().await;
        world.set(at("2026-10-26T12:00:00Z")).await;
        jobs.push(job("2", "2026-10-26T10:00:00Z", "2026-10-26T11:00:00Z", 30));
        world.record(jobs.clone()).await;
        // Down from here on: the second job is recorded and not reported.
        world.set(at("2026-12-05T12:00:00Z")).await;
        jobs.extend([
            job("3", "2026-10-29T10:00:00Z", "2026-10-29T11:00:00Z", 10),
            job("4", "2026-11-11T10:00:00Z", "2026-11-11T12:00:00Z", 100),
            job("5", "2026-11-30T23:00:00Z", "2026-12-01T01:00:00Z", 120),
            job("6", "2026-12-03T10:00:00Z", "2026-12-03T11:00:00Z", 20),
        ]);
        world.record(jobs.clone()).await;
        let (_, mark) = world.requests(u64::MAX).await;
        world.cycle().await;
        let asked = world.requests(mark).await.0.len();
        // Each month's rows and shares before and after, and what gets to know the server again; a report into the past and
        // its reading back.
        let most = if months == backfilled { 22 } else { 16 };
        assert!(asked <= most, "{api}: {asked}");
        assert_eq!(world.months().await, months, "{api}");
        for (month, shown) in [("2026-10", months[0]), ("2026-11", months[1]), ("2026-12", months[2])] {
            let held = world.held(A, month).await;
            assert!(shown.starts_with(&format!("{month}: {held:.2}")), "{api}: {shown}, but {held}");
        }
        if late != Late::Hold {
            continue;
        }
        // What still comes in for a closed month is stranded, too; the month is read once more before it is closed again.
        jobs.push(job("7", "2026-10-30T10:00:00Z", "2026-10-30T11:00:00Z", 5));
        world.record(jobs).await;
        let (_, mark) = world.requests(u64::MAX).await;
        world.cycle().await;
        let (asked, mark) = world.requests(mark).await;
        let paths: Vec<&str> = asked.iter().map(|one| one["path"].as_str().unwrap()).collect();
        assert!(paths.len() == 1 && paths[0].contains("billing_period=2026-10-01"), "{api}: {paths:?}");
        assert_eq!(world.months().await[0], "2026-10: 60.00 + 45.00 stranded, closed", "{api}");
        world.cycle().await;
        assert_eq!(world.requests(mark).await.0, [Value::Null; 0], "{api}");
    }
}

/// 100 minutes of November, reported on its last day.
async fn reported_november(api: &str) -> World {
    let world = World::new(api, "UTC", "2026-11-30T12:00:00Z").await;
    world.record(vec![job("1", "2026-11-11T10:00:00Z", "2026-11-11T12:00:00Z", 100)]).await;
    world.cycle().await;
    world.set(at("2026-11-30T23:56:00Z")).await;
    assert_eq!(world.months().await, ["2026-11: 100.00, agreed"]);
    world.set(at("2026-12-01T00:00:05Z")).await;
    world
}

async fn written(world: &World, usage: &str) {
    let row = json!({ "resource": A, "type": "cpu_hours", "usage": usage, "billing_period": "2026-11-01" });
    world.server.post("rows", row).await;
}

#[tokio::test]
async fn a_month_is_closed_once_it_was_read_back_equal_and_is_read_again_once_a_day() {
    for api in ["classic", "current"] {
        let world = reported_november(api).await;
        world.is_down(true).await;
        world.cycle().await;
        assert_eq!(world.months().await, ["2026-11: 100.00, agreed"], "{api}");
        world.is_down(false).await;
        let (_, mark) = world.requests(u64::MAX).await;
        world.cycle().await;
        assert_eq!(world.months().await, ["2026-11: 100.00, closed"], "{api}");
        let (requests, mark) = world.requests(mark).await;
        let rows =
            requests.iter().filter(|one| one["path"].as_str().unwrap().contains("billing_period=2026-11-01"));
        assert_eq!(rows.count(), 1, "{api}");
        for hour in 1..4 {
            world.set(at(&format!("2026-12-01T0{hour}:00:00Z"))).await;
            world.cycle().await;
        }
        let (none, mark) = world.requests(mark).await;
        assert_eq!(none, [Value::Null; 0], "{api}");
        world.set(at("2026-12-02T00:01:00Z")).await;
        world.cycle().await;
        world.cycle().await;
        let rows = world.requests(mark).await.0;
        let rows =
            rows.iter().filter(|one| one["path"].as_str().unwrap().contains("billing_period=2026-11-01"));
        assert_eq!(rows.count(), 1, "{api}");
    }
}

#[tokio::test]
async fn a_month_that_another_writer_changed_is_not_closed() {
    // Nothing is a number like any other.
    for (api, amount) in
        ["classic", "current"].into_iter().flat_map(|api| ["70.00", "0.00"].map(|to| (api, to)))
    {
        let world = reported_november(api).await;
        written(&world, amount).await;
        world.cycle().await;
        assert_eq!(world.months().await, ["2026-11: 100.00, closing"], "{api} {amount}");
        let blocks = world.submitter.ledger.with(|ledger| ledger.blocks()).await.unwrap();
        assert_eq!(blocks.iter().map(|at| at.block.reason.as_str()).collect::<Vec<_>>(), ["conflict"]);
        // It waits for a person, and is not asked about meanwhile.
        let (_, mark) = world.requests(u64::MAX).await;
        world.cycle().await;
        assert_eq!(world.requests(mark).await.0, [Value::Null; 0]);
        assert_eq!(world.held(A, "2026-12").await, Decimal::ZERO);
    }
}

/// The last call of a month gets no answer, and the server is gone until the next: what became of it is read, not guessed.
#[tokio::test]
async fn an_outcome_that_was_never_learnt_before_midnight_is_read_back_after_it() {
    for api in ["classic", "current"] {
        for (when, month) in
            [("after", "2026-11: 130.00, closed"), ("before", "2026-11: 110.00 + 20.00 stranded, closed")]
        {
            let world = reported_november(api).await;
            world.set(at("2026-11-30T23:57:00Z")).await;
            world.record(vec![job("2", "2026-11-29T10:00:00Z", "2026-11-29T12:00:00Z", 10)]).await;
            world.cycle().await;
            world.set(at("2026-11-30T23:58:00Z")).await;
            world.record(vec![job("3", "2026-11-29T10:00:00Z", "2026-11-29T12:00:00Z", 20)]).await;
            let lost = json!([
                { "match": { "path": "set_usage/" }, "when": when, "action": "drop", "times": 1 },
                { "match": { "method": "GET", "path": "component-usages" }, "when": "before", "action": "drop" },
            ]);
            world.server.post("faults", json!({ "faults": lost })).await;
            world.cycle().await;
            // Rows that can't be read don't keep it back in the last hour of the month.
            assert_eq!(reported(&world, 0).await.len(), 3, "{api} {when}");
            assert_eq!(world.months().await, ["2026-11: 110.00, closing"], "{api} {when}");
            world.is_down(true).await;
            world.set(at("2026-12-01T00:00:05Z")).await;
            world.cycle().await;
            assert_eq!(world.months().await, ["2026-11: 110.00, closing"], "{api} {when}");
            world.is_down(false).await;
            world.cycle().await;
            if when == "before" {
                // It might still be carried out: 10 minutes after its time-out of 10 s it can't any more.
                assert_eq!(world.months().await, ["2026-11: 110.00, closing"], "{api} {when}");
                world.set(at("2026-12-01T00:08:11Z")).await;
                world.cycle().await;
            }
            world.cycle().await;
            assert_eq!(world.months().await, [month], "{api} {when}");
            assert_eq!(world.held(A, "2026-12").await, Decimal::ZERO, "{api} {when}");
        }
    }
}
