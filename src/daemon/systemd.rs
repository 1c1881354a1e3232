//! What systemd is told: ready, reloading, stopping, alive. Without systemd (no NOTIFY_SOCKET) nothing is said.
//!
//! "Alive" means that the tasks get on: each pass of their loops, which wait at most half a minute, counts. A timer
//! alone would also tick for a process that does nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sd_notify::NotifyState;

use super::stats::Stats;

pub(super) fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd was not told {state:?}: {error}");
    }
}

/// Feeds systemd's watchdog as long as the tasks get on.
pub(super) struct Watchdog {
    every: Option<Duration>,
    seen: u64,
    quiet: u32,
}

/// Rounds without a tick before the watchdog goes hungry. Long work (a walk through a file system, a slow server)
/// ticks rarely; a hung process never does.
const PATIENCE: u32 = 20;

impl Watchdog {
    pub(super) fn new() -> Self {
        Watchdog { every: sd_notify::watchdog_enabled().map(|time| time / 3), seen: 0, quiet: 0 }
    }

    pub(super) async fn wait(&self) {
        match self.every {
            Some(every) => tokio::time::sleep(every).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn feed(&mut self, stats: &Stats, alive: bool) {
        let ticks = stats.ticks.load(Ordering::Relaxed);
        self.quiet = if ticks == self.seen { self.quiet + 1 } else { 0 };
        self.seen = ticks;
        if alive && self.quiet < PATIENCE {
            say(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "The tasks make no progress: the watchdog is no longer fed, and systemd will restart the agent."
            );
        }
    }
}
