//! Runs work that blocks (walking directories, asking for user names) beside the one thread that everything runs
//! on. It never leaves work behind: dropping the future asks the work to stop, and the work looks often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::CollectorError;

/// Tells blocking work that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn already() -> Stop {
        Stop(Arc::new(AtomicBool::new(true)))
    }

    /// For work that returns early: nobody will read this error.
    pub(super) fn check(&self) -> Result<(), CollectorError> {
        if self.asked() { Err(CollectorError("stopped before it was done".to_owned())) } else { Ok(()) }
    }
}

/// Asks for the stop when the future that owns it goes away, however it does.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a blocking thread. The work must look at its `Stop` before each step that takes time.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, CollectorError> + Send + 'static,
) -> Result<T, CollectorError> {
    let stop = Stop::default();
    let _guard = StopOnDrop(stop.clone());
    match tokio::task::spawn_blocking(move || work(&stop)).await {
        Ok(result) => result,
        Err(error) => Err(CollectorError(format!("the collector broke off: {error}; please report this"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropping_the_future_asks_the_work_to_stop() {
        let (started, is_started) = tokio::sync::oneshot::channel();
        let (stopped, is_stopped) = tokio::sync::oneshot::channel();
        let mut future = Box::pin(run(move |stop| {
            let _ = started.send(());
            while !stop.asked() {
                std::thread::yield_now();
            }
            let _ = stopped.send(());
            Ok(())
        }));
        tokio::select! {
            biased;
            _ = &mut future => panic!("the work waits to be stopped"),
            started = is_started => started.unwrap(),
        }
        drop(future);
        is_stopped.await.unwrap();
    }
}
