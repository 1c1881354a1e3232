//! The model's own side: the real ledger, submitter and client, and what a schedule does to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use uuid::Uuid;
use waldur_usage_agent::config::clock::ManualClock;
use waldur_usage_agent::config::waldur::WaldurSettings;
use waldur_usage_agent::ledger::books::ingest::Run;
use waldur_usage_agent::ledger::{Ledger, Rulebook, SharedLedger};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading};
use waldur_usage_agent::submitter::{CycleOptions, Late, OnConflict, Report, Submitter};
use waldur_usage_agent::waldur::client::Client;

use crate::engine;
use crate::in_process;
use crate::server::{Cell, Fate, Model, Shared, USERS, listen, month};

const R1: &str = "5e2f0000-0000-4000-8000-000000000001";
const R2: &str = "5e2f0000-0000-4000-8000-000000000002";
/// Resource, component, the reading of it, and its user.
const SOURCES: [(&str, &str, &str, &str); PLACES] =
    [(R1, "cpu_hours", "cpu", USERS[0]), (R1, "ram_gb_hours", "ram", ""), (R2, "cpu_hours", "cpu", USERS[1])];
pub(crate) const PLACES: usize = 3;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A new job.
    Used {
        place: usize,
        cents: i64,
    },
    /// The latest job turns out to have used this much less, or nothing.
    Corrected {
        place: usize,
        cents: i64,
    },
    /// The submitter runs, and this becomes of its requests; perhaps it is cut off at one of them.
    Cycle {
        fates: Vec<Fate>,
        cut: Option<(u8, bool)>,
    },
    /// What was under way for long arrives.
    Arrival,
    AnotherWrites {
        place: usize,
        cents: i64,
    },
    Minutes(i64),
    MonthEnds,
}

pub(crate) struct Bench {
    runtime: Runtime,
    shared: Arc<Shared>,
    settings: WaldurSettings,
    rulebook: Rulebook,
    folder: tempfile::TempDir,
}

fn rulebook() -> Rulebook {
    let text = "collectors:\n  c:\n    resource: \"{r}\"\n    user: \"{user}\"\n    meters:\n      \
                cpu_hours: { reading: cpu, factor: 1/100 }\n      ram_gb_hours: { reading: ram, factor: 1/100 }\n";
    in_process::rulebook(text, BillingZone::utc())
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(listen(listener, shared.clone()));
        let folder = in_process::folder();
        let settings = in_process::settings(&url, folder.path(), "");
        Bench { runtime, shared, settings, rulebook: rulebook(), folder }
    }

    /// Carries a schedule out; the error says which law was broken, and when.
    pub(crate) fn run(&self, dated: bool, skew: i64, steps: &[Step]) -> Result<(), String> {
        self.runtime.block_on(async {
            let mut story = Story::new(self, dated, skew);
            for (number, step) in steps.iter().enumerate() {
                story.take(step).await;
                story.laws(&format!("step {number}, {step:?}"))?;
            }
            story.ends().await
        })
    }
}

struct Story<'a> {
    bench: &'a Bench,
    clock: Arc<ManualClock>,
    now: Timestamp,
    skew: SignedDuration,
    submitter: Option<Submitter>,
    /// By place, the jobs of this month: id, cents and instant.
    jobs: BTreeMap<usize, Vec<(String, i64, Timestamp)>>,
    count: usize,
}

/// Nothing of November happens after it.
fn closing() -> Timestamp {
    "2026-11-30T23:50:00Z".parse().unwrap()
}

impl Story<'_> {
    fn new(bench: &Bench, dated: bool, skew: i64) -> Story<'_> {
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let skew = SignedDuration::from_secs(skew);
        let resources: Vec<Uuid> = vec![R1.parse().unwrap(), R2.parse().unwrap()];
        {
            let mut model = bench.shared.model();
            let life = model.life + 1;
            *model = Model { dated, now: now + skew, resources, life, ..Model::default() };
        }
        let clock = Arc::new(ManualClock::at(now));
        engine::forget(bench.folder.path());
        let mut story = Story { bench, clock, now, skew, submitter: None, jobs: BTreeMap::new(), count: 0 };
        story.comes_back();
        story
    }

    /// The agent starts, with nothing but its ledger.
    fn comes_back(&mut self) {
        self.submitter = None;
        let mut ledger =
            Ledger::open(engine::place(self.bench.folder.path()), self.bench.rulebook.clone()).unwrap();
        ledger.apply_rules(self.now).unwrap();
        self.submitter = Some(Submitter {
            client: Arc::new(Client::new(&self.bench.settings, self.clock.clone()).unwrap()),
            ledger: SharedLedger::new(ledger),
            clock: self.clock.clone(),
            late: Late::Hold,
            on_conflict: OnConflict::Hold,
            report: Report::Live,
            progress: Default::default(),
        });
    }

    fn set(&mut self, now: Timestamp) {
        self.now = now;
        self.clock.set(now);
        self.bench.shared.model().now = now + self.skew;
    }

    fn cell(&self, place: usize) -> Cell {
        let (resource, component, ..) = SOURCES[place];
        ((resource.parse().unwrap(), component.to_owned()), month(self.now))
    }

    async fn record(&mut self, place: usize, id: String, cents: i64, at: Timestamp) {
        let (resource, _, name, user) = SOURCES[place];
        let mut reading = Reading::new(name, Kind::Delta, cents.into(), at).label("r", resource);
        if !user.is_empty() {
            reading = reading.label("user", user);
        }
        reading.id = Some(id);
        let run = Run::seen("c", self.now, vec![reading]);
        self.submitter.as_ref().unwrap().ledger.with(move |ledger| ledger.record(run)).await.unwrap();
    }

    /// Ours are even, another's are odd: they are never mistaken for each other.
    async fn used(&mut self, place: usize, cents: i64) {
        self.set(self.now + SignedDuration::from_secs(1));
        let (id, at) = (format!("job-{}", self.count), self.now);
        self.count += 1;
        self.jobs.entry(place).or_default().push((id.clone(), 2 * cents, at));
        self.add(place, 2 * cents);
        self.record(place, id, 2 * cents, at).await;
    }

    fn add(&self, place: usize, cents: i64) {
        let (cell, mut model) = (self.cell(place), self.bench.shared.model());
        let total = model.total.entry(cell.clone()).or_default();
        *total += cents;
        let total = *total;
        model.once.entry(cell).or_default().insert(total);
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Used { place, cents } => self.used(*place, *cents).await,
            Step::Corrected { place, cents } => {
                let jobs = self.jobs.entry(*place).or_default();
                let Some((id, was, at)) = jobs.last_mut() else { return };
                let less = (2 * cents).min(*was);
                *was -= less;
                let (id, left, at) = (id.clone(), *was, *at);
                self.set(self.now + SignedDuration::from_secs(1));
                self.add(*place, -less);
                self.record(*place, id, left, at).await;
            }
            Step::Cycle { fates, cut } => self.cycle(fates, *cut).await,
            Step::Arrival => {
                self.bench.shared.model().arrival();
            }
            Step::AnotherWrites { place, cents } => {
                let cell = self.cell(*place);
                self.bench.shared.model().another_writes(cell, 2 * cents + 1);
            }
            Step::Minutes(minutes) => {
                let now = self.now + SignedDuration::from_mins(*minutes);
                let november = month(self.now) == "2026-11";
                self.set(if november { now.min(closing().max(self.now)) } else { now });
            }
            Step::MonthEnds => {
                let begins: Timestamp = "2026-12-01T00:10:00Z".parse().unwrap();
                if self.now < begins {
                    self.bench.shared.model().nothing_is_under_way();
                    self.jobs.clear();
                    self.set(begins);
                }
            }
        }
    }

    async fn cycle(&mut self, fates: &[Fate], cut: Option<(u8, bool)>) {
        {
            let mut model = self.bench.shared.model();
            (model.fates, model.cut) = (fates.iter().copied().collect(), cut);
        }
        let submitter = self.submitter.clone().unwrap();
        let cut_off = tokio::select! {
            report = submitter.cycle(CycleOptions { ignore_backoff: true }) => {
                report.unwrap();
                false
            }
            () = self.bench.shared.cut.notified() => true,
        };
        drop(submitter);
        {
            let mut model = self.bench.shared.model();
            model.fates.clear();
            model.cut = None;
            if cut_off {
                model.agent_was_cut_off();
            }
        }
        if cut_off {
            self.comes_back();
        }
    }

    fn laws(&self, when: &str) -> Result<(), String> {
        let model = self.bench.shared.model();
        if model.broken.is_empty() { Ok(()) } else { Err(format!("{}; at {when}", model.broken.join("; "))) }
    }

    /// The faults are over; the month comes to its end, and the next one begins.
    async fn ends(&mut self) -> Result<(), String> {
        while self.bench.shared.model().arrival() {}
        for last in ["what is left", "the next month"] {
            // More than all before, so that no total comes back to what it once was: then nothing would be sent, and what
            // had arrived late would stand until the next look.
            for place in 0..PLACES {
                self.used(place, 1_000_000).await;
            }
            for _ in 0..3 {
                self.set(self.now + SignedDuration::from_mins(2));
                self.cycle(&[], None).await;
            }
            self.laws(last)?;
            self.agrees(last).await?;
            self.take(&Step::MonthEnds).await;
        }
        Ok(())
    }

    async fn agrees(&mut self, when: &str) -> Result<(), String> {
        let ledger = self.submitter.as_ref().unwrap().ledger.clone();
        let blocks = ledger.with(|ledger| ledger.blocks()).await.unwrap();
        let statements = ledger.with(|ledger| ledger.statements(None)).await.unwrap();
        let model = self.bench.shared.model();
        let this = month(self.now);
        for (resource, component, _, user) in SOURCES {
            let resource: Uuid = resource.parse().unwrap();
            let cell = ((resource, component.to_owned()), this.clone());
            let total = model.total[&cell];
            let statement = statements
                .iter()
                .find(|one| one.key.resource == resource && one.key.period.to_string() == this)
                .ok_or_else(|| format!("{when}: no statement of {cell:?}"))?;
            let stated = statement.components[component].posted.map(|posted| posted * Decimal::ONE_HUNDRED);
            if stated != Some(total.into()) {
                return Err(format!("law 5, {when}: the ledger says {stated:?}, used was {total}: {cell:?}"));
            }
            let row = model.rows.get(&cell);
            let share = row.and_then(|row| row.users.get(user)).copied();
            let agrees = row.map(|row| row.cents) == Some(total) && (user.is_empty() || share == Some(total));
            let touched = model.touched.contains(&cell);
            let held = blocks.iter().any(|at| {
                at.resource == resource
                    && at.period.to_string() == this
                    && at.component == component
                    && at.block.reason == "conflict"
            });
            // Rows are read before each is written, and all were written just now: what another wrote has been seen.
            let told = held && touched;
            let mistaken = held && !touched;
            if mistaken || !(agrees || told) {
                return Err(format!(
                    "law 5, {when}: {total} was used of {cell:?}, Waldur holds {row:?}; blocks {blocks:#?}"
                ));
            }
        }
        Ok(())
    }
}
