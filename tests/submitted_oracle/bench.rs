//! Agent and server in one process, with one clock that stands still until it is set; and what each event does to them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::ledger::sent::amount::StatementKey;
use waldur_usage_agent::ledger::{Ledger, Rulebook, SharedLedger};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::submitter::{CycleOptions, CycleReport, OnConflict, Report, Submitter};
use waldur_usage_agent::waldur::client::Client;

use crate::account::{Account, Month};
use crate::app::App;
use crate::case::{Case, Setting};
use crate::engine;
use crate::in_process;
use crate::laws::Seen;
use crate::marketplace::{self, Overrides};
use crate::wire::{Cut, Wire};
use crate::world::Api;

pub(crate) const RESOURCES: [&str; 2] =
    ["5e2f0000-0000-4000-8000-000000000001", "5e2f0000-0000-4000-8000-000000000002"];
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

/// What the agent's file says.
#[derive(Debug, Clone)]
pub(crate) struct Configured {
    pub(crate) collector: String,
    pub(crate) continues: Option<String>,
    pub(crate) factors: [i64; 2],
}

pub(crate) struct Bench {
    pub(crate) setting: Setting,
    pub(crate) app: Arc<App>,
    pub(crate) account: Account,
    pub(crate) now: Timestamp,
    /// What Waldur held when the agent last rested, and which month ran then.
    pub(crate) rested: Option<(Seen, Month)>,
    /// Somebody changed a month that was over, since the agent last rested.
    pub(crate) wrote_into_the_past: bool,
    /// What waits for something to be taken away from.
    pub(crate) waiting: Vec<StatementKey>,
    pub(crate) configured: Configured,
    clock: Arc<ManualClock>,
    /// Where the ledger is.
    home: tempfile::TempDir,
    /// A copy of the ledger, its collector and what the account was then.
    copy: Option<(PathBuf, String, Account)>,
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

fn rulebook(rules: &Configured) -> Rulebook {
    let Configured { collector, continues, factors: [cpu, ram] } = rules;
    let continues = continues.as_ref().map(|old| format!("    continues: {old}\n")).unwrap_or_default();
    let text = format!(
        "collectors:
  {collector}:
{continues}    resource: \"{{r}}\"
    user: \"{{user}}\"
    meters:
      \
         cpu_hours: {{ reading: cpu, factor: {cpu}/100 }}
      ram_gb_hours: {{ reading: ram, factor: {ram}/100 }}
"
    );
    in_process::rulebook(&text, BillingZone::utc())
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
        let folder = in_process::folder();
        let settings = in_process::settings(&url, folder.path(), "timeout: 5s\n");
        let mut bench = Bench {
            setting: setting.clone(),
            app,
            account: Account::new(TimeZone::UTC),
            now,
            rested: None,
            wrote_into_the_past: false,
            waiting: Vec::new(),
            configured: Configured { collector: "c".to_owned(), continues: None, factors: [1, 1] },
            clock: Arc::new(ManualClock::at(now)),
            home: in_process::folder(),
            copy: None,
            folder,
            settings,
            submitter: None,
        };
        bench.start();
        bench
    }

    /// The agent starts, with nothing but its ledger.
    pub(crate) fn start(&mut self) {
        self.submitter = None;
        let mut ledger = Ledger::open(engine::place(self.home.path()), rulebook(&self.configured)).unwrap();
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

    /// Only of a ledger in a file.
    pub(crate) fn copy_ledger(&mut self) {
        if engine::is_shared() {
            return;
        }
        let to = self.folder.path().join(format!("copy-{}.db", self.now.as_second()));
        let _ = std::fs::remove_file(&to);
        let ledger = rusqlite::Connection::open(self.home.path().join("ledger.db")).unwrap();
        ledger.execute("VACUUM INTO ?1", [to.display().to_string()]).unwrap();
        self.copy = Some((to, self.configured.collector.clone(), self.account.clone()));
    }

    /// The agent goes on with the copy, if its collector is still known by its name. What the account was then.
    pub(crate) fn restore_ledger(&mut self) -> Option<Account> {
        let (copy, collector, account) = self.copy.clone()?;
        let Configured { collector: name, continues, .. } = &self.configured;
        if collector != *name && Some(&collector) != continues.as_ref() {
            return None;
        }
        let home = in_process::folder();
        std::fs::copy(copy, home.path().join("ledger.db")).unwrap();
        self.submitter = None;
        self.home = home;
        self.start();
        Some(account)
    }

    pub(crate) fn ledger(&self) -> SharedLedger {
        self.submitter.as_ref().unwrap().ledger.clone()
    }

    pub(crate) fn set(&mut self, now: Timestamp) {
        self.now = now;
        self.clock.set(now);
        self.app.world().clock.set(now);
    }

    pub(crate) fn pass(&mut self, minutes: i64) {
        self.set(self.now + SignedDuration::from_mins(minutes));
    }

    pub(crate) fn month(&self) -> Month {
        self.account.month(self.now)
    }

    pub(crate) async fn cycle(&mut self) -> Result<CycleReport, String> {
        let cycle = self.submitter.as_ref().unwrap().cycle(CycleOptions { ignore_backoff: true });
        cycle.await.map_err(|error| format!("the cycle failed: {error}"))
    }

    /// In the order of time.
    pub(crate) fn plans(&self, resource: usize) -> Vec<(Uuid, Timestamp)> {
        let (world, uuid): (_, Uuid) = (self.app.world(), RESOURCES[resource].parse().unwrap());
        let resource = world.resources.iter().find(|one| one.uuid == uuid).unwrap();
        resource.plan_periods.iter().map(|period| (period.uuid, period.start)).collect()
    }

    /// The calls that wrote since this one, and the number of the next.
    pub(crate) fn posts(&self, since: u64) -> (Vec<Value>, u64) {
        let notes = self.app.notes().since(since, None);
        let posts = notes["requests"].as_array().unwrap().iter().filter(|note| note["method"] == "POST");
        (posts.cloned().collect(), notes["next"].as_u64().unwrap())
    }

    /// The agent runs, an hour after the other, until nothing is left to do.
    pub(crate) async fn rest(&mut self) -> Result<(), String> {
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
                let waiting = pending.clone();
                let statements =
                    self.ledger().with(move |ledger| ledger.statements_of(&waiting)).await.unwrap();
                return Err(format!(
                    "it never comes to rest: pending {statements:#?}, paused {:?}, last calls {:#?}",
                    report.paused,
                    calls.iter().rev().take(3).collect::<Vec<_>>()
                ));
            }
        }
        self.sent_once(&calls)?;
        self.adopted().await;
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
