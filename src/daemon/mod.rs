//! The tasks that run: collectors on their schedules, the submitter on its own, signals, systemd, health and metrics.
//!
//! One task a collector, so that none waits for another and none overlaps itself; one for the submitter. They share
//! nothing but the ledger. A reload ends the tasks and starts new ones from the new file; the ledger stays open.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use crate::collectors::definition::Definition;
use crate::config::clock::SharedClock;
use crate::config::place::Place;
use crate::config::settings::{Report, Settings};
use crate::ledger::{Ledger, Rulebook, SharedLedger};
use crate::submitter::told::tell_events;
use crate::waldur::client::Client;
use crate::wire::numbers::count;

use forward::Forwarder;
use instance::Instance;
use stats::Stats;

mod collect;
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
mod stats;
mod submit;
mod systemd;
mod told;
mod turn;
mod wait;

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

impl Agent {
    /// What sends on what is recorded; `None` where the ledger is a file.
    fn forwarder(&self) -> Option<Forwarder> {
        Forwarder::of(&self.settings, &self.name, &self.definitions, &self.clock)
    }
}

/// Reads the configuration file again; the error is for the operator.
pub type Loader = Box<dyn Fn() -> Result<Agent, String> + Send + Sync>;

/// How long what is under way may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs until a signal ends it.
pub async fn run(load: Loader) -> Result<(), String> {
    let mut signals = signal_hook_tokio::Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1])
        .map_err(|error| format!("can't listen to signals: {error}"))?;
    let agent = load()?;
    let place = agent.settings.ledger.clone();
    let first = agent.settings.first_place();
    let mut instance = match first.file() {
        Some(path) => Instance::start(path, &agent.settings, agent.clock.now())?,
        None => return Err(format!("{first} is no file")),
    };
    let rulebook = (*agent.rulebook).clone();
    let opened = match agent.forwarder() {
        None => Ledger::open(&first, rulebook),
        Some(forwarder) => forwarder.open_queue(rulebook),
    };
    let mut ledger = opened.map_err(|error| error.to_string())?;
    ledger.apply_rules(agent.clock.now()).map_err(|error| error.to_string())?;
    tell_events(&mut ledger).map_err(|error| error.to_string())?;
    let ledger = SharedLedger::new(ledger);
    let stats = Arc::new(Stats::default());
    stats.note_reload(agent.clock.now(), None);
    stats.started.store(stats.reloaded.load(Ordering::Relaxed), Ordering::Relaxed);
    let mut tasks = Tasks::start(&agent, &ledger, &stats);
    let mut served = serve::start(&agent, &ledger, &stats).await?;
    let mut page = page::start(&agent, &stats).await?;
    let collectors = count(agent.definitions.len(), "collector");
    let server = agent.client.as_ref().map_or_else(|| "none".to_owned(), |client| client.api().to_string());
    tracing::info!("Ready: {collectors}, ledger {place}, Waldur {server}.");
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
    systemd::ready(&format!("{collectors}; {doing}"));
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
                        let applied = ledger.with(move |ledger| {
                            ledger.change_rules(rulebook, now)?;
                            Ok(tell_events(ledger))
                        });
                        match applied.await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::warn!("What changed can't be told: {error}"),
                            Err(error) => tracing::error!("The new rules could not be applied yet: {error}"),
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
                        tracing::info!("Reloaded: {}.", count(agent.definitions.len(), "collector"));
                        stats.note_reload(now, None);
                        instance.note_settings(&agent.settings);
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
                systemd::ready(&instance::in_one_line(&status));
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

/// Whether a configuration names another ledger, or another file in which runs wait for it, or another agent as whose.
fn other_ledger(new: &Agent, current: &Agent) -> bool {
    let places = |agent: &Agent| {
        let name = agent.forwarder().map(|forwarder| forwarder.agent);
        (agent.settings.ledger.clone(), agent.settings.first_place(), name)
    };
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
                if let Some(forwarder) = agent.forwarder() {
                    set.spawn(part.clone().forward(forwarder));
                }
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
