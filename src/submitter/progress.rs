//! How far a cycle has come, for whoever wants to watch: what it is at, and how much of that is done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Watcher = dyn Fn(&'static str, usize, usize) + Send + Sync;

/// Where it is told, if somebody wants to know.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Watcher>>);

/// One stage of a cycle.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    progress: Progress,
    what: &'static str,
    done: Arc<AtomicUsize>,
    total: usize,
}

impl Progress {
    /// Tells what is done, how much of it, and how much there is in all.
    pub fn to(watcher: impl Fn(&'static str, usize, usize) + Send + Sync + 'static) -> Progress {
        Progress(Some(Arc::new(watcher)))
    }

    pub(super) fn stage(&self, what: &'static str, total: usize) -> Stage {
        let stage = Stage { progress: self.clone(), what, done: Arc::default(), total };
        stage.tell(0);
        stage
    }
}

impl Stage {
    /// One more is done.
    pub(super) fn step(&self) {
        self.tell(self.done.fetch_add(1, Ordering::Relaxed) + 1);
    }

    fn tell(&self, done: usize) {
        if let Some(watcher) = &self.progress.0 {
            watcher(self.what, done, self.total);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.0.is_some()).finish()
    }
}
