//! Agent and server in one process, with one clock that stands still until it is set; and what each event does to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome};
use waldur_usage_agent::ledger::sent::record::StatementKey;
use waldur_usage_agent::ledger::{Ledger, Rulebook, SharedLedger};
use waldur_usage_agent::metering::meter::Rules;
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading, Span};
use waldur_usage_agent::submitter::{CycleOptions, CycleReport, OnConflict, Report, Submitter};
use waldur_usage_agent::waldur::client::Client;

use crate::account::{Account, COMPONENTS, Job, Month, PLACES, Place, USERS, before};
use crate::app::App;
use crate::case::{Case, Event, Fault, Setting, What};
use crate::engine;
use crate::faults::Faults;
use crate::laws::Seen;
use crate::marketplace::{self, Overrides};
use crate::request::Request;
use crate::specs::RowSpec;
use crate::wire::{Cut, Wire};
use crate::world::Api;

pub(crate) const RESOURCES: [&str; 2] =
    ["5e2f0000-0000-4000-8000-000000000001", "5e2f0000-0000-4000-8000-000000000002"];
const READINGS: [&str; 2] = ["cpu", "ram"];
const MARKETPLACE: &str = "
offerings:
  - uuid: 91ab0000-0000-4000-8000-000000000001
    name: Cluster
    components: [{ type: cpu_hours }, { type: ram_gb_hours }, { type: gpu_hours }]
    users: [alice, bob]
resources:
  - { uuid: 5e2f0000-0000-4000-8000-000000000001, name: A, backend_id: a, offering: Cluster }
  - { uuid: 5e2f0000-0000-4000-8000-000000000002, name: B, backend_id: b, offering: Cluster }
";

pub(crate) struct Bench {
    pub(crate) setting: Setting,
    pub(crate) app: Arc<App>,
    pub(crate) account: Account,
    pub(crate) now: Timestamp,
    /// What Waldur held when the agent last rested, and which month ran then.
    pub(crate) rested: Option<(Seen, Month)>,
    /// Somebody changed a month that was over, since the agent last rested.
    wrote_into_the_past: bool,
    /// What waits for something to be taken away from.
    pub(crate) waiting: Vec<StatementKey>,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    settings: WaldurSettings,
    submitter: Option<Submitter>,
}

/// Carries a case out, and tells what Waldur holds in the end; the error says which law was broken.
pub(crate) fn run(case: &Case) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(async {
        let mut bench = Bench::new(&case.setting).await;
        for (number, event) in case.events.iter().enumerate() {
            tracing::info!("{} --- {event:?}", bench.now);
            bench.take(event).await.map_err(|words| format!("event {number}, {}: {words}", bench.now))?;
        }
        Ok(bench.held_in_words())
    });
    runtime.shutdown_background();
    outcome
}

fn rulebook() -> Rulebook {
    let text = "collectors:\n  c:\n    resource: \"{r}\"\n    user: \"{user}\"\n    meters:\n      \
                cpu_hours: { reading: cpu, factor: 1/100 }\n      ram_gb_hours: { reading: ram, factor: 1/100 }\n";
    let (mut root, problems) = Section::parse(text);
    let mut rules: Vec<Rules> = Vec::new();
    for mut section in root.named_sections("collectors") {
        rules.extend(Rules::from_section(&mut section));
        section.finish();
    }
    root.finish();
    assert_eq!(problems.list(), []);
    Rulebook { zone: BillingZone::utc(), rules }
}

impl Bench {
    async fn new(setting: &Setting) -> Bench {
        let now: Timestamp = "2026-11-27T08:00:00Z".parse().unwrap();
        let api = if setting.classic { Api::Classic } else { Api::Current };
        let token = format!(
            "tokens: [{{ token: sandbox-token, username: provider, offerings: [\"*\"], staff: {} }}]\n",
            setting.staff
        );
        let overrides = Overrides { api: Some(api), timezone: None, now: Some(now) };
        let mut world = marketplace::build(&format!("{token}{MARKETPLACE}"), overrides).unwrap();
        world.clock.freeze(true);
        world.clock.set(now);
        let app = Arc::new(App::new(world));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(crate::server::handle).with_state(app.clone());
        let service = router.into_make_service_with_connect_info::<Cut>();
        tokio::spawn(async move { axum::serve(Wire(listener), service).await });
        // In memory where there is such a place.
        let memory = std::path::Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "sandbox-token").unwrap();
        let (mut section, _) =
            Section::parse(&format!("url: {url}\ntoken_file: {}\ntimeout: 5s\n", token.display()));
        let settings = WaldurSettings::from_section(&mut section).unwrap();
        let mut bench = Bench {
            setting: setting.clone(),
            app,
            account: Account::new(TimeZone::UTC),
            now,
            rested: None,
            wrote_into_the_past: false,
            waiting: Vec::new(),
            clock: Arc::new(ManualClock::at(now)),
            folder,
            settings,
            submitter: None,
        };
        bench.start();
        bench
    }

    /// The agent starts, with nothing but its ledger.
    fn start(&mut self) {
        self.submitter = None;
        let mut ledger = Ledger::open(engine::place(self.folder.path()), rulebook()).unwrap();
        ledger.apply_rules(self.now).unwrap();
        self.submitter = Some(Submitter {
            client: Arc::new(Client::new(&self.settings, self.clock.clone()).unwrap()),
            ledger: SharedLedger::new(ledger),
            clock: self.clock.clone(),
            late: self.setting.late,
            on_conflict: OnConflict::Hold,
            report: Report::Live,
            progress: Default::default(),
        });
    }

    pub(crate) fn ledger(&self) -> SharedLedger {
        self.submitter.as_ref().unwrap().ledger.clone()
    }

    fn set(&mut self, now: Timestamp) {
        self.now = now;
        self.clock.set(now);
        self.app.world().clock.set(now);
    }

    fn pass(&mut self, minutes: i64) {
        self.set(self.now + SignedDuration::from_mins(minutes));
    }

    pub(crate) fn month(&self) -> Month {
        self.account.month(self.now)
    }

    async fn take(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Used { place, user, cents, ago } => self.used(PLACES[place], user, cents, ago).await,
            Event::Corrected { job, cents } => self.corrected(job, cents).await,
            Event::Reassigned { job, user } => self.reassigned(job, user).await,
            Event::Across { place, user, cents } => self.across(PLACES[place], user, cents).await,
            Event::Slow { times, minutes, cycle } => self.slow(times, minutes, cycle).await?,
            Event::Restart => self.start(),
            Event::Switch { resource } => {
                self.set(self.now + SignedDuration::from_secs(1));
                self.change(resource, json!({ "switch_plan": true }));
            }
            Event::Passes { minutes } => self.pass(minutes),
            Event::ToMonthEnd { minutes } => {
                let at = self.account.end(self.month()) + SignedDuration::from_mins(minutes);
                if at > self.now {
                    self.set(at);
                }
            }
            Event::Cycle { fault } => {
                self.fail(fault);
                self.cycle().await?;
                self.fail(None);
            }
            Event::Another { place, cents, months } => self.another(PLACES[place], cents, months),
            Event::Rest => self.rest().await?,
        }
        Ok(())
    }

    async fn used(&mut self, place: Place, user: usize, cents: i64, ago: i64) {
        self.set(self.now + SignedDuration::from_secs(1));
        let at = self.now - SignedDuration::from_mins(ago);
        self.account.jobs.push(Job { place, user, cents, at, across: false });
        self.record(self.account.jobs.len() - 1).await;
    }

    /// Where a plan began within the hour, nothing: how much of the job is whose would be no whole number.
    async fn across(&mut self, place: Place, user: usize, cents: i64) {
        let at = self.account.end(before(self.month()));
        let near =
            |(_, start): (Uuid, Timestamp)| at.duration_since(start).abs() < SignedDuration::from_mins(31);
        let is_cut = self.plans(place.0).into_iter().any(near);
        if self.now - SignedDuration::from_mins(31) > at && !is_cut {
            self.set(self.now + SignedDuration::from_secs(1));
            self.account.jobs.push(Job { place, user, cents, at, across: true });
            self.record(self.account.jobs.len() - 1).await;
        }
    }

    async fn reassigned(&mut self, job: usize, user: usize) {
        let count = self.account.jobs.len();
        if count > 0 {
            self.set(self.now + SignedDuration::from_secs(1));
            self.account.jobs[job % count].user = user;
            self.record(job % count).await;
        }
    }

    /// A call of a cycle arrives when its sender has given it up; never in another month, which a server without dates would
    /// file it under.
    async fn slow(&mut self, times: u64, minutes: i64, cycle: bool) -> Result<(), String> {
        if self.account.end(self.month()) - SignedDuration::from_mins(15) < self.now {
            return Ok(());
        }
        self.order(json!([{ "match": { "method": "POST", "path": "/set_usage/" }, "when": "late",
                            "action": { "status": 504 }, "times": times }]));
        self.cycle().await?;
        self.fail(None);
        self.pass(minutes);
        if cycle {
            self.cycle().await?;
        }
        self.app.process_late();
        Ok(())
    }

    /// Waldur's side of a resource changes.
    fn change(&self, resource: usize, what: Value) {
        let request = Request {
            method: "POST".to_owned(),
            path: format!("/sandbox/resources/{}", RESOURCES[resource]),
            query: String::new(),
            host: "localhost".to_owned(),
            authorization: None,
            accept: None,
            accept_language: None,
            content_type: None,
            has_length: true,
            body: what.to_string().into_bytes(),
        };
        let answer = crate::admin::serve(&self.app, &request);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }

    /// In the order of time.
    pub(crate) fn plans(&self, resource: usize) -> Vec<(Uuid, Timestamp)> {
        let (world, uuid): (_, Uuid) = (self.app.world(), RESOURCES[resource].parse().unwrap());
        let resource = world.resources.iter().find(|one| one.uuid == uuid).unwrap();
        resource.plan_periods.iter().map(|period| (period.uuid, period.start)).collect()
    }

    async fn corrected(&mut self, job: usize, cents: i64) {
        let count = self.account.jobs.len();
        if count > 0 {
            self.set(self.now + SignedDuration::from_secs(1));
            let number = job % count;
            let job = &mut self.account.jobs[number];
            job.cents = if job.across { cents / 2 * 2 } else { cents };
            self.record(number).await;
        }
    }

    async fn record(&mut self, number: usize) {
        self.account.since.get_or_insert(self.now);
        let job = self.account.jobs[number].clone();
        let (resource, component) = job.place;
        let mut reading = Reading::new(READINGS[component], Kind::Delta, job.cents.into(), job.at)
            .label("r", RESOURCES[resource]);
        if job.user > 0 {
            reading = reading.label("user", USERS[job.user]);
        }
        if job.across {
            let half = SignedDuration::from_mins(30);
            reading.span = Span::Interval { start: job.at - half, end: job.at + half };
        }
        reading.id = Some(format!("job-{number}"));
        let run = Run {
            collector: "c".to_owned(),
            at: self.now,
            finished: self.now,
            scope: String::new(),
            outcome: RunOutcome::Seen {
                readings: vec![reading],
                quarantined: Vec::new(),
                problems: Vec::new(),
                checkpoint: None,
                lists_everything: false,
                ended: Default::default(),
                history: Default::default(),
            },
        };
        self.ledger().with(move |ledger| ledger.record(run)).await.unwrap();
    }

    fn fail(&self, fault: Option<Fault>) {
        let faults = fault.map(|Fault { what, after, times }| {
            let (method, path) = match what {
                What::Totals => ("POST", "/set_usage/"),
                What::Shares => ("POST", "/set_user_usage"),
                What::Rows => ("GET", "/marketplace-component-usages/"),
                What::UserRows => ("GET", "/marketplace-component-user-usages/"),
                What::Resources => ("GET", "/marketplace-provider-resources/"),
                What::Plans => ("GET", "/plan_periods/"),
            };
            let when = if after { "after" } else { "before" };
            json!([{ "match": { "method": method, "path": path }, "when": when, "action": { "status": 504 },
                     "times": times }])
        });
        self.order(faults.unwrap_or(json!([])));
    }

    fn order(&self, faults: Value) {
        let faults: Faults = serde_json::from_value(json!({ "faults": faults })).unwrap();
        self.app.set_faults(faults.build().unwrap());
    }

    pub(crate) async fn cycle(&mut self) -> Result<CycleReport, String> {
        let cycle = self.submitter.as_ref().unwrap().cycle(CycleOptions { ignore_backoff: true });
        cycle.await.map_err(|error| format!("the cycle failed: {error}"))
    }

    fn another(&mut self, place: Place, cents: i64, months: i64) {
        let (year, month) = self.month();
        self.wrote_into_the_past |= months > 0;
        let first = jiff::civil::date(year, month, 1) - jiff::Span::new().months(months);
        self.account.disturbed.insert((place, (first.year(), first.month())));
        let spec: RowSpec = serde_json::from_value(json!({
            "resource": RESOURCES[place.0], "type": COMPONENTS[place.1], "billing_period": first.to_string(),
            "usage": Decimal::new(cents, 2).to_string(),
        }))
        .unwrap();
        marketplace::put_row(&mut self.app.world(), spec).unwrap();
    }

    /// The calls that wrote since this one, and the number of the next.
    pub(crate) fn posts(&self, since: u64) -> (Vec<Value>, u64) {
        let notes = self.app.notes().since(since, None);
        let posts = notes["requests"].as_array().unwrap().iter().filter(|note| note["method"] == "POST");
        (posts.cloned().collect(), notes["next"].as_u64().unwrap())
    }

    /// The agent runs, an hour after the other, until nothing is left to do.
    async fn rest(&mut self) -> Result<(), String> {
        // Months that are over are compared once a day.
        if std::mem::take(&mut self.wrote_into_the_past) {
            self.pass(25 * 60);
        }
        let (_, mut next) = self.posts(0);
        let mut calls: Vec<Value> = Vec::new();
        for round in 0.. {
            self.pass(61);
            let before = self.seen();
            let report = self.cycle().await?;
            let (posts, after) = self.posts(next);
            next = after;
            let now = self.now;
            let pending = self.ledger().with(move |ledger| ledger.pending(now)).await.unwrap();
            // What is too much under a plan that has ended waits until there is something under the next one.
            let waits = |key: &StatementKey| {
                let resource = RESOURCES.iter().position(|uuid| *uuid == key.resource.to_string()).unwrap();
                let end = self.account.end(self.account.month(key.part));
                self.plans(resource).into_iter().any(|(_, start)| key.part < start && start < end)
            };
            let idle = pending.iter().all(waits);
            let quiet = posts.is_empty() && idle && report.paused.is_none();
            self.waiting = pending.clone();
            calls.extend(posts);
            if quiet && round > 0 {
                self.same(&before, "a cycle that sent nothing changed something")?;
                break;
            }
            if round > 9 {
                return Err(format!(
                    "it never comes to rest: pending {pending:?}, paused {:?}, last calls {:#?}",
                    report.paused,
                    calls.iter().rev().take(3).collect::<Vec<_>>()
                ));
            }
        }
        self.sent_once(&calls)?;
        self.laws().await?;
        let before = self.seen();
        self.pass(2);
        self.cycle().await?;
        let (posts, _) = self.posts(next);
        if !posts.is_empty() {
            return Err(format!("one more cycle sends something: {posts:#?}"));
        }
        self.same(&before, "one more cycle changed something")
    }
}
