//! Runs work that blocks (walking directories, asking for user names) beside the one thread that everything runs
//! on. Dropping the future asks the work to stop, and the work looks often. Work that can't look, because the system does
//! not come back from a call, keeps nobody waiting: neither the future nor the program's end.

use std::any::Any;
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

    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
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
        self.0.ask();
    }
}

/// Runs `work` on a thread of its own. The work must look at its `Stop` before each step that takes time.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce(&Stop) -> Result<T, CollectorError> + Send + 'static,
) -> Result<T, CollectorError> {
    let stop = Stop::default();
    let _guard = StopOnDrop(stop.clone());
    let (done, is_done) = tokio::sync::oneshot::channel();
    // Not one of the runtime's: it waits for those at its end, for ever where a server is dead.
    let thread = std::thread::Builder::new()
        .name("collector".to_owned())
        .spawn(move || {
            let _ = done.send(work(&stop));
        })
        .map_err(|error| CollectorError(format!("no thread can be started: {error}")))?;
    match is_done.await {
        Ok(result) => result,
        Err(_) => Err(CollectorError(broke_off(thread.join().err()))),
    }
}

/// What to say of work that panicked.
pub(super) fn broke_off(why: Option<Box<dyn Any + Send>>) -> String {
    let why = why.unwrap_or_else(|| Box::new("no reason is known"));
    let text = why.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| why.downcast_ref::<String>().cloned()).unwrap_or_default();
    format!("the collector broke off: {text}; please report this")
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

    #[tokio::test]
    async fn work_that_panics_is_an_error_with_its_words() {
        let error = run(|_| -> Result<(), CollectorError> { panic!("of {}", "a test") }).await.unwrap_err();
        assert_eq!(error.0, "the collector broke off: of a test; please report this");
    }

    /// A call that never comes back must not keep the program from ending.
    #[test]
    fn a_runtime_ends_while_work_hangs() {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (started, is_started) = tokio::sync::oneshot::channel();
        runtime.block_on(async {
            let mut future = Box::pin(run(move |_| {
                let _ = started.send(());
                let _ = wait.recv();
                Ok(())
            }));
            tokio::select! {
                biased;
                _ = &mut future => panic!("it hangs"),
                started = is_started => started.unwrap(),
            }
        });
        drop(runtime);
        drop(release);
    }
}
