//! The one place that asks the system what time it is. Everything else is handed a `Clock`.
//!
//! It never sleeps and never decides anything; a test drives it through `ManualClock`, or, when it drives the
//! real binary, through a file named in `WALDUR_USAGE_AGENT_CLOCK_FILE` (debug builds only, so that no
//! environment variable can move the clock of an agent that bills people).

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Tells the time. Wall-clock time, because bills are made of calendar months.
pub trait Clock: Send + Sync + Debug {
    fn now(&self) -> Timestamp;

    /// What goes on however the clock is set, where that is known.
    fn steady(&self) -> Option<Steady> {
        None
    }

    /// How long at most to wait before it is looked at again: it may be set, and a machine may sleep.
    fn trusted_for(&self) -> Duration {
        Duration::from_secs(30)
    }
}

pub type SharedClock = Arc<dyn Clock>;

/// A random id that the machine has another of each time it starts.
pub fn boot_id() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// How long a machine has been up, sleep included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steady {
    /// Since which of its starts: a random id.
    pub boot: String,
    pub up: SignedDuration,
}

/// The system's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one Clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn steady(&self) -> Option<Steady> {
        let boot = boot_id()?;
        let up = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
        let nanoseconds = i32::try_from(up.tv_nsec()).ok()?;
        Some(Steady { boot, up: SignedDuration::new(up.tv_sec(), nanoseconds) })
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    pub fn at(now: Timestamp) -> Self {
        ManualClock(Mutex::new(now))
    }

    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The clock of this process: the system's, but for debug builds that are told of a file to read it from.
pub fn process_clock() -> SharedClock {
    #[cfg(debug_assertions)]
    if let Some(path) = std::env::var_os("WALDUR_USAGE_AGENT_CLOCK_FILE") {
        return Arc::new(FileClock { path: path.into() });
    }
    Arc::new(SystemClock)
}

/// Reads the time from a file each time it is asked, so that a test can move a running agent through a month.
#[cfg(debug_assertions)]
#[derive(Debug)]
struct FileClock {
    path: std::path::PathBuf,
}

#[cfg(debug_assertions)]
impl Clock for FileClock {
    fn now(&self) -> Timestamp {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| SystemClock.now())
    }

    /// Unknown unless a file beside it says how many seconds it is.
    fn steady(&self) -> Option<Steady> {
        let text = std::fs::read_to_string(self.path.with_extension("up")).ok()?;
        let up = SignedDuration::from_secs(text.trim().parse().ok()?);
        Some(Steady { boot: "a test's".to_owned(), up })
    }

    fn trusted_for(&self) -> Duration {
        Duration::from_millis(50)
    }
}
