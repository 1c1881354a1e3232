//! Progress of long work, on stderr: a line that moves at a terminal that can, a plain line of the log now and then elsewhere.
//! Short work says nothing there. It never writes to stdout.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::text::{colours, thousands};

/// A plain line comes so often, and not before.
const PLAIN: Duration = Duration::from_secs(10);
/// The line at a terminal moves so often.
const TICK: Duration = Duration::from_millis(120);

/// The line that moves now, if there is one: what else goes to the terminal goes above it.
static MOVING: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Shows how far something is until it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    state: Arc<Mutex<State>>,
    bar: Option<ProgressBar>,
    /// Its end is the end of the plain lines.
    _plain: Option<Sender<()>>,
}

#[derive(Debug)]
struct State {
    what: String,
    done: usize,
    /// 0: nobody knows.
    total: usize,
}

impl State {
    fn shown(&self) -> String {
        match self.total {
            0 => self.what.clone(),
            total => format!("{}: {} of {}", self.what, thousands(self.done), thousands(total)),
        }
    }
}

impl Progress {
    pub(super) fn of(what: &str) -> Progress {
        let state = State { what: what.to_owned(), done: 0, total: 0 };
        let shown = state.shown();
        let state = Arc::new(Mutex::new(state));
        if !colours(std::io::stderr().is_terminal()) {
            let plain = tell_plainly(state.clone());
            return Progress { state, bar: None, _plain: Some(plain) };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(shown);
        bar.enable_steady_tick(TICK);
        *moving() = Some(bar.clone());
        Progress { state, bar: Some(bar), _plain: None }
    }

    /// Beside rows on the same terminal there is no room for it.
    pub(super) fn beside_output(what: &str) -> Option<Progress> {
        (!std::io::stdout().is_terminal()).then(|| Progress::of(what))
    }

    pub(super) fn at(&self, what: &str, done: usize, total: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { what: what.to_owned(), done, total };
        if let Some(bar) = &self.bar {
            bar.set_message(state.shown());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            *moving() = None;
            bar.finish_and_clear();
        }
    }
}

/// A line of the log every ten seconds, until the sender is dropped.
fn tell_plainly(state: Arc<Mutex<State>>) -> Sender<()> {
    let (alive, ended) = channel::<()>();
    std::thread::spawn(move || {
        let began = Instant::now();
        while ended.recv_timeout(PLAIN) == Err(RecvTimeoutError::Timeout) {
            let shown = state.lock().unwrap_or_else(PoisonError::into_inner).shown();
            tracing::info!("{shown} ({} s)", began.elapsed().as_secs());
        }
    });
    alive
}

fn moving() -> MutexGuard<'static, Option<ProgressBar>> {
    MOVING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stderr for whoever writes lines while something moves there.
#[derive(Debug)]
pub(super) struct AboveProgress;

impl Write for AboveProgress {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let write = || std::io::stderr().lock().write(bytes);
        let bar = moving().clone();
        bar.map_or_else(write, |bar| bar.suspend(write))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
