//! The tasks that run: collectors on their schedules, the submitter on its own, signals, systemd, health and metrics.
//!
//! One task a collector, so that none waits for another and none overlaps itself; one for the submitter. They share
//! nothing but the ledger. A reload ends the tasks and starts new ones from the new file; the ledger stays open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt;

use crate::collectors::definition::{Definition, longest_gap, secret_env};
use crate::config::clock::SharedClock;
use crate::config::place::Place;
use crate::config::schedule::Schedule;
use crate::config::settings::{Report, Settings};
use crate::ledger::books::ingest::Recorded;
use crate::ledger::{Ledger, LedgerError, LedgerErrorKind, Rulebook, SharedLedger};
use crate::submitter::closing::Closing;
use crate::submitter::progress::Progress;
use crate::submitter::{CycleError, CycleOptions, Submitter};
use crate::waldur::client::Client;

use due::{Next, next_look, next_run};
use forward::Forwarder;
use instance::Instance;
use metrics::Runs;
use missed::Missing;

mod due;
pub mod forward;
pub mod health;
mod hosts;
pub mod instance;
mod metrics;
mod missed;
mod page;
mod registration;
pub mod retry;
pub mod sample;
mod serve;
mod systemd;
mod turn;

/// What one configuration file makes.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What it is called in a shared ledger.
    pub name: String,
    pub settings: Arc<Settings>,
    pub definitions: Arc<Vec<Definition>>,
    pub rulebook: Arc<Rulebook>,
    pub clock: SharedClock,
    /// Of one that may submit.
    pub client: Option<Arc<Client>>,
}

/// Reads the configuration file again; the error is for the operator.
pub type Loader = Box<dyn Fn() -> Result<Agent, String> + Send + Sync>;

/// How long what is under way may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);
/// What is to be done again is not done again at once.
const SOON: SignedDuration = SignedDuration::from_secs(1);
/// A clock that goes back by more was set, not adjusted.
const SET_BACK: SignedDuration = SignedDuration::from_secs(2);

/// What can't be done without the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LedgerWork {
    /// A collector's run is recorded.
    Record,
    /// A cycle is carried out.
    Submit,
    /// What was recorded on this host is sent on.
    Forward,
}

/// What the tasks tell of themselves; the watchdog is fed by it, not by a timer.
#[derive(Debug, Default)]
pub struct Stats {
    /// Passes of the tasks' loops.
    ticks: AtomicU64,
    pub cycles: AtomicU64,
    pub sent: AtomicU64,
    /// By collector.
    runs: Mutex<BTreeMap<String, Runs>>,
    /// Seconds since 1970.
    started: AtomicU64,
    reloaded: AtomicU64,
    /// When a new configuration was last refused, and why, if the last one was.
    reload_refused: Mutex<Option<(Timestamp, String)>>,
    /// What the ledger said when this was last tried, where it could not be done.
    ledger_errors: Mutex<BTreeMap<LedgerWork, LedgerError>>,
    /// Those may have changed.
    ledger_noted: Notify,
    /// The shared ledger, while this agent counts and submits for it.
    books: Mutex<Option<SharedLedger>>,
    /// The database's clock less ours, in milliseconds.
    skew: AtomicI64,
}

impl Stats {
    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    fn note_runs(&self, collector: &str, note: impl FnOnce(&mut Runs)) {
        // A count that another thread left half done is still a count.
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        note(runs.entry(collector.to_owned()).or_default());
    }

    fn runs_of(&self, collector: &str) -> Runs {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.get(collector).cloned().unwrap_or_default()
    }

    fn note_ledger(&self, work: LedgerWork, error: Option<&LedgerError>) {
        let mut errors = self.ledger_errors.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) => drop(errors.insert(work, error.clone())),
            None => drop(errors.remove(&work)),
        }
        drop(errors);
        self.ledger_noted.notify_one();
    }

    /// What keeps the ledger from being written, if anything does.
    fn ledger_error(&self) -> Option<LedgerError> {
        let errors = self.ledger_errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.values().next().cloned()
    }

    fn set_books(&self, books: Option<SharedLedger>) {
        *self.books.lock().unwrap_or_else(PoisonError::into_inner) = books;
    }

    fn books(&self) -> Option<SharedLedger> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_skew(&self, skew: SignedDuration) {
        self.skew.store(i64::try_from(skew.as_millis()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    fn note_reload(&self, now: Timestamp, refused: Option<String>) {
        self.reloaded.store(u64::try_from(now.as_second()).unwrap_or(0), Ordering::Relaxed);
        *self.reload_refused.lock().unwrap_or_else(PoisonError::into_inner) =
            refused.map(|words| (now, words));
    }

    fn reload_refused(&self) -> Option<(Timestamp, String)> {
        self.reload_refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs until a signal ends it.
pub async fn run(load: Loader) -> Result<(), String> {
    let mut signals = signal_hook_tokio::Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])
        .map_err(|error| format!("can't listen to signals: {error}"))?;
    let agent = load()?;
    let place = agent.settings.ledger.clone();
    let first = agent.settings.first_place();
    let mut instance = match first.file() {
        Some(path) => Instance::start(path, agent.clock.now())?,
        None => return Err(format!("{first} is no file")),
    };
    let rulebook = (*agent.rulebook).clone();
    let opened = match place == first {
        true => Ledger::open(&first, rulebook),
        false => Ledger::open_queue(&first, rulebook, &agent.clock),
    };
    let mut ledger = opened.map_err(|error| error.to_string())?;
    for change in ledger.apply_rules(agent.clock.now()).map_err(|error| error.to_string())? {
        tracing::warn!("The rules were changed: {change}.");
    }
    let ledger = SharedLedger::new(ledger);
    let stats = Arc::new(Stats::default());
    stats.note_reload(agent.clock.now(), None);
    stats.started.store(stats.reloaded.load(Ordering::Relaxed), Ordering::Relaxed);
    let mut tasks = Tasks::start(&agent, &ledger, &stats);
    let mut served = serve::start(&agent, &ledger, &stats).await?;
    let mut page = page::start(&agent, &stats).await?;
    let collectors = agent.definitions.len();
    let server = agent.client.as_ref().map_or_else(|| "none".to_owned(), |client| client.api().to_string());
    tracing::info!("Ready: {collectors} collectors, ledger {place}, Waldur {server}.");
    let shadow = agent.settings.report == Report::Shadow;
    if shadow {
        tracing::warn!(
            "report: shadow: nothing is posted, the ledger is only compared with what Waldur holds."
        );
    }
    let doing = match agent.settings.submits {
        true if shadow => format!("report: shadow, nothing is posted to {server}"),
        true => format!("reporting to {server}"),
        false => format!("sending to {place}"),
    };
    systemd::ready(&format!("{collectors} collectors; {doing}"));
    let mut watchdog = systemd::Watchdog::new();
    let mut current = agent;
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = watchdog.wait() => {
                watchdog.feed(&stats, tasks.alive());
                continue;
            }
            () = stats.ledger_noted.notified() => {
                instance.note_ledger(stats.ledger_error(), current.clock.now());
                continue;
            }
        };
        match signal {
            Some(SIGHUP) => {
                systemd::reloading();
                let mut status = "reloaded".to_owned();
                let now = current.clock.now();
                match load() {
                    Ok(agent) if other_ledger(&agent, &current) => {
                        status = format!(
                            "The new configuration names another ledger ({}); that takes a restart. The old one stays at work.",
                            agent.settings.ledger
                        );
                        tracing::error!("{status}");
                        stats.note_reload(now, Some(status.clone()));
                        instance.note_reload(stats.reload_refused());
                    }
                    Ok(agent) => {
                        tasks.stop(DRAIN).await;
                        served.close().await;
                        page.close().await;
                        let (rulebook, now) = ((*agent.rulebook).clone(), agent.clock.now());
                        let applied = ledger.with(move |ledger| ledger.change_rules(rulebook, now)).await;
                        match applied {
                            Ok(changes) => {
                                for change in changes {
                                    tracing::warn!("The rules were changed: {change}.");
                                }
                            }
                            Err(error) => tracing::error!("The new rules are not carried out yet: {error}"),
                        }
                        tasks = Tasks::start(&agent, &ledger, &stats);
                        // Reporting goes on without health and metrics rather than not at all.
                        served = serve::start(&agent, &ledger, &stats).await.unwrap_or_else(|error| {
                            tracing::error!("Health and metrics are not served: {error}");
                            serve::Server::none()
                        });
                        page = page::start(&agent, &stats).await.unwrap_or_else(|error| {
                            tracing::error!("{error}");
                            serve::Server::none()
                        });
                        tracing::info!("Reloaded: {} collectors.", agent.definitions.len());
                        stats.note_reload(now, None);
                        instance.note_reload(stats.reload_refused());
                        current = agent;
                    }
                    Err(error) => {
                        status =
                            format!("The new configuration is not used, the old one stays at work: {error}");
                        tracing::error!("{status}");
                        stats.note_reload(now, Some(status.clone()));
                        instance.note_reload(stats.reload_refused());
                    }
                }
                // One line: systemd shows no more.
                systemd::ready(&status.replace('\n', ";"));
            }
            Some(SIGUSR1) => tasks.run_now.send_modify(|times| *times += 1),
            _ => break,
        }
    }
    tracing::info!("Stopping: finishing what is under way.");
    systemd::stopping();
    tasks.stop(DRAIN).await;
    served.close().await;
    drop(page);
    Ok(())
}

/// Whether a configuration names another ledger, or another file in which runs wait for it.
fn other_ledger(new: &Agent, current: &Agent) -> bool {
    let places = |agent: &Agent| (agent.settings.ledger.clone(), agent.settings.first_place());
    places(new) != places(current)
}

/// The running tasks of one configuration.
struct Tasks {
    set: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// Wakes everything at once, also what is busy, as soon as it is not.
    run_now: watch::Sender<u64>,
}

impl Tasks {
    fn start(agent: &Agent, ledger: &SharedLedger, stats: &Arc<Stats>) -> Tasks {
        let (stop, stopped) = watch::channel(false);
        let (run_now, run_now_asked) = watch::channel(0);
        let sampled = Arc::new(Notify::new());
        let due =
            agent.definitions.iter().map(|of| if of.elsewhere { Timestamp::MAX } else { Timestamp::MIN });
        let due = Arc::new(watch::Sender::new(due.collect()));
        let recorded = Arc::new(Notify::new());
        let mut set = JoinSet::new();
        let part = Part {
            agent: agent.clone(),
            ledger: ledger.clone(),
            stats: stats.clone(),
            stopped,
            run_now: run_now_asked,
            sampled,
            recorded,
            due,
        };
        for (index, definition) in agent.definitions.iter().enumerate() {
            match &agent.settings.ledger {
                _ if definition.elsewhere => continue,
                Place::Database(database) if definition.once => {
                    set.spawn(part.clone().collect_in_turn(index, database.clone()))
                }
                _ => set.spawn(part.clone().collect(index)),
            };
        }
        match &agent.settings.ledger {
            Place::File(_) => drop(set.spawn(part.submit())),
            Place::Database(database) => {
                let forwarder = Forwarder {
                    database: database.clone(),
                    agent: agent.name.clone(),
                    keep: agent.settings.queue.keep,
                    planned: longest_gap(&agent.definitions),
                    clock: agent.clock.clone(),
                };
                set.spawn(part.clone().forward(forwarder));
                if agent.settings.submits {
                    set.spawn(part.submit_in_turn(database.clone()));
                }
            }
        }
        Tasks { set, stop, run_now }
    }

    /// Whether no task has ended by itself.
    fn alive(&mut self) -> bool {
        self.set.try_join_next().is_none()
    }

    /// Lets what is under way finish, for so long; then ends it. The ledger makes either safe.
    async fn stop(&mut self, patience: Duration) {
        let _ = self.stop.send(true);
        let all = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!(
                "Some tasks did not finish in 10 s and are stopped; nothing that was recorded is lost."
            );
            self.set.shutdown().await;
        }
    }
}

/// What one task works with.
#[derive(Clone)]
struct Part {
    agent: Agent,
    /// Where runs are recorded; for submitting, where they are counted.
    ledger: SharedLedger,
    stats: Arc<Stats>,
    stopped: watch::Receiver<bool>,
    run_now: watch::Receiver<u64>,
    /// A collector has looked at a moment that matters, and what it saw is to be submitted at once.
    sampled: Arc<Notify>,
    /// A run was recorded.
    recorded: Arc<Notify>,
    /// When each collector is next due; in the past while it looks.
    due: Arc<watch::Sender<Vec<Timestamp>>>,
}

/// Submitting waits so long for what is due to be collected at the same instant.
const FOR_COLLECTORS: Duration = Duration::from_secs(10);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Due,
    RunNow,
    Stopped,
}

impl Part {
    /// Runs one collector on its schedule, for ever.
    async fn collect(mut self, index: usize) {
        let definitions = self.agent.definitions.clone();
        let definition = &definitions[index];
        // The first look is at once: what began while the agent was away is seen as early as can be.
        let mut next = Next { at: self.agent.clock.now(), closes: false };
        let mut planned = next.at;
        let mut failing = false;
        let mut missing = Missing::Away;
        loop {
            self.due.send_modify(|due| due[index] = next.at);
            let matters = match self.wait_until(next.at, planned).await {
                Woken::Stopped => return,
                Woken::Due => next.closes,
                Woken::RunNow => true,
            };
            missing = self.note_missed(definition, missing).await;
            let looked = self.agent.clock.now();
            failing = self.sample(definition, failing).await;
            if matters {
                self.sampled.notify_one();
            }
            next = self.next_look(definition, looked).await;
            planned = looked;
        }
    }

    /// When a schedule is next due.
    async fn next(&self, schedule: &Schedule) -> Next {
        let now = self.agent.clock.now();
        next_run(schedule, &self.closing(now).await, &self.agent.rulebook.zone, now)
    }

    /// When a collector that began its last look at `looked` is next due: by its schedule, or as it failed.
    async fn next_look(&self, definition: &Definition, looked: Timestamp) -> Next {
        let pace = self.pace(definition).await;
        let again = retry::retry_of(&definition.name, &definition.schedule, &pace);
        let by_rule = || definition.schedule.next_after(self.agent.clock.now()).unwrap_or(Timestamp::MAX);
        let planned = again.unwrap_or_else(by_rule);
        next_look(planned, &self.closing(looked).await, &self.agent.rulebook.zone, looked)
    }

    async fn closing(&self, now: Timestamp) -> Closing {
        let closing = self.ledger.with(move |ledger| Closing::of(ledger, now)).await;
        // Where the ledger can't tell, nothing is known that would make it take longer.
        closing.unwrap_or_else(|_| Closing::usual(&self.agent.rulebook.zone, now))
    }

    async fn sample(&self, definition: &Definition, was_failing: bool) -> bool {
        let zone = &self.agent.rulebook.zone;
        let since = definition.since.unwrap_or_else(|| zone.start(zone.period_of(self.agent.clock.now())));
        let withhold = secret_env(self.agent.settings.token_env(), &self.agent.definitions);
        let name = &definition.name;
        let began = Instant::now();
        let ended = sample::sample(definition, &self.ledger, &self.agent.clock, since, withhold).await;
        self.recorded.notify_one();
        self.stats.note_runs(name, |runs| {
            runs.runs += 1;
            runs.last = began.elapsed();
            runs.unrecorded = ended.is_err();
            runs.failures += u64::from(ended.as_ref().map_or(true, Recorded::is_failure));
            if let Ok(recorded) = &ended {
                runs.readings += recorded.new as u64;
                runs.quarantined += recorded.quarantined.len() as u64;
            }
        });
        self.stats.note_ledger(LedgerWork::Record, ended.as_ref().err());
        let problem = match ended {
            Ok(recorded) => {
                for bad in &recorded.quarantined {
                    tracing::warn!(
                        collector = %name,
                        "Collector {name}: a reading is quarantined and not billed: {}: {}",
                        bad.reason,
                        bad.what
                    );
                }
                if recorded.corrected > 0 {
                    tracing::info!(
                        collector = %name,
                        "Collector {name}: its source has corrected readings: {}.",
                        recorded.corrected
                    );
                }
                let partly = (!recorded.problems.is_empty()).then(|| {
                    let problems = recorded.problems.join("; ");
                    format!("could not read all: {problems}. What it read counts; of the rest the last known amounts stand")
                });
                recorded.failed.map(|why| format!("fails, its last known amounts stand: {why}")).or(partly)
            }
            Err(error) => Some(format!("could not be recorded, its last known amounts stand: {error}")),
        };
        // One line a change of state; `status` has the rest.
        match (&problem, was_failing) {
            (Some(problem), false) => {
                tracing::warn!(collector = %name, "Collector {name} {problem}");
            }
            (None, true) => tracing::info!(collector = %name, "Collector {name} works again."),
            _ => {}
        }
        problem.is_some()
    }

    /// Submits on its schedule, for ever.
    async fn submit(mut self) {
        let Some(client) = self.agent.client.clone() else { return };
        let submitter = Submitter {
            client,
            ledger: self.ledger.clone(),
            clock: self.agent.clock.clone(),
            on_conflict: self.agent.settings.on_conflict,
            late: self.agent.settings.late,
            report: self.agent.settings.report,
            progress: Progress::default(),
        };
        let agent = self.agent.clone();
        let mut planned = agent.clock.now();
        let mut next = self.next(&agent.settings.submit).await;
        let mut compacted = Timestamp::MIN;
        let mut waiting = false;
        // What the ledger said when the last cycle could not go on.
        let mut failing: Option<String> = None;
        let mut waited = Timestamp::MIN;
        // Ends with this task.
        let mut registration = JoinSet::new();
        loop {
            let sampled = self.sampled.clone();
            let (woken, closes) = tokio::select! {
                woken = self.wait_until(next.at, planned) => (woken, next.closes),
                () = sampled.notified() => (Woken::Due, true),
            };
            // What closes a month is tried even if the server was left alone: later there is no time any more.
            let ignore_backoff = match woken {
                Woken::Stopped => return,
                Woken::Due => closes,
                Woken::RunNow => true,
            };
            if woken == Woken::Due {
                // Of all runs that are due by now: not only of those of its own instant, where the clock has jumped.
                self.wait_for_collectors(agent.clock.now()).await;
            }
            self.wait_for_hosts(&mut waited).await;
            let mut in_doubt = false;
            let ended = submitter.cycle(CycleOptions { ignore_backoff }).await;
            self.stats
                .note_ledger(LedgerWork::Submit, ended.as_ref().err().map(|CycleError::Ledger(error)| error));
            match ended {
                Ok(report) => {
                    // One line a change of state.
                    match (report.busy, waiting) {
                        (true, false) => tracing::warn!(
                            "Nothing is submitted: {} is submitting for this ledger.",
                            report.busy_with
                        ),
                        (false, true) => tracing::info!("Submitting again."),
                        _ => {}
                    }
                    waiting = report.busy;
                    // One token is served one call at a time: what is to be reported goes first.
                    if !waiting && registration.is_empty() {
                        registration.spawn(registration::register(agent.clone()));
                    }
                    if failing.take().is_some() {
                        tracing::info!("Submission goes on.");
                    }
                    self.stats.cycles.fetch_add(1, Ordering::Relaxed);
                    self.stats.sent.fetch_add(report.sent as u64, Ordering::Relaxed);
                    if report.sent > 0 {
                        tracing::info!("Reported {} amounts in {} requests.", report.sent, report.requests);
                    }
                }
                Err(error) => {
                    let CycleError::Ledger(cause) = &error;
                    in_doubt = cause.kind == LedgerErrorKind::Superseded;
                    let words = error.to_string();
                    if failing.as_ref() != Some(&words) {
                        tracing::error!("Submission could not go on: {words}");
                    }
                    failing = Some(words);
                }
            }
            self.compact(&mut compacted).await;
            planned = agent.clock.now();
            next = self.next(&agent.settings.submit).await;
            let soon = self.agent.clock.now().saturating_add(SOON).unwrap_or(next.at);
            // What an earlier failure put off, or what is in doubt, is not left until the next round of the schedule.
            let retry = self.ledger.with(|ledger| ledger.next_retry()).await.ok().flatten();
            // Of two hosts one goes on within seconds where the other ends.
            let follows = waiting && agent.settings.ledger.file().is_none();
            let again = retry.map(|retry| retry.max(soon)).or((in_doubt || follows).then_some(soon));
            if let Some(again) = again.filter(|again| *again < next.at) {
                next = Next { at: again, closes: false };
            }
        }
    }

    /// Waits until what is due to be collected by now has been: else an amount would be reported twice within seconds.
    async fn wait_for_collectors(&self, now: Timestamp) {
        let mut due = self.due.subscribe();
        let collected = due.wait_for(|due| due.iter().all(|at| *at > now));
        // A collector that takes longer is not waited for.
        let _ = tokio::time::timeout(FOR_COLLECTORS, collected).await;
    }

    /// Once a day, puts away the readings of a long past month.
    async fn compact(&self, last: &mut Timestamp) {
        let (now, keep) = (self.agent.clock.now(), self.agent.settings.retention);
        if now.duration_since(*last).abs() < SignedDuration::from_hours(24) {
            return;
        }
        *last = now;
        let compacted = self.ledger.with(move |ledger| {
            ledger.sweep_inbox()?;
            ledger.tell_read_twice(now)?;
            ledger.compact(now, keep)
        });
        match compacted.await {
            Ok(done) if done.readings > 0 => {
                tracing::info!(
                    "Compacted: {} old readings of {} series are deleted; what they added is kept.",
                    done.readings,
                    done.series
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!("Old readings are not compacted: {error}"),
        }
    }

    /// Waits for so long, whatever the wall clock says.
    async fn pause(&mut self, time: Duration) -> Woken {
        let until = Instant::now() + time;
        loop {
            self.stats.tick();
            if *self.stopped.borrow() {
                return Woken::Stopped;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Woken::Due,
                Ok(()) = self.run_now.changed() => return Woken::RunNow,
                changed = self.stopped.changed() => {
                    if changed.is_err() {
                        return Woken::Stopped;
                    }
                }
            }
        }
    }

    /// Waits for an instant of the wall clock, however it is set meanwhile. Where it is set back, the instant was chosen by
    /// a wrong clock and may be years away: then it is due now. `planned`: when it was chosen.
    async fn wait_until(&mut self, due: Timestamp, planned: Timestamp) -> Woken {
        let mut seen = planned;
        loop {
            self.stats.tick();
            if *self.stopped.borrow() {
                return Woken::Stopped;
            }
            let now = self.agent.clock.now();
            if now < seen.saturating_sub(SET_BACK).unwrap_or(seen) {
                return Woken::Due;
            }
            seen = now;
            let left = due.duration_since(now);
            let Ok(left) = Duration::try_from(left) else { return Woken::Due };
            if left.is_zero() {
                return Woken::Due;
            }
            let time = left.min(self.agent.clock.trusted_for()).max(Duration::from_millis(1));
            match self.pause(time).await {
                Woken::Due => {}
                woken => return woken,
            }
        }
    }
}
