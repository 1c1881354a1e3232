//! The ledger as tasks share it: one piece of work at a time, on a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, current};

use tokio::sync::oneshot;

use super::{Ledger, LedgerError};

/// A piece of work for the ledger's thread.
type Work = Box<dyn FnOnce(&mut Ledger) + Send>;

/// The ledger as tasks share it: one piece of work at a time, in the order in which they were asked for, on a thread of
/// its own, so that a slow disk never stops the others. One thread and not whichever is free: each that ever worked for
/// SQLite would keep its own pool of memory.
#[derive(Debug, Clone)]
pub struct SharedLedger(Arc<Worker>);

#[derive(Debug)]
struct Worker {
    /// `None` only while it is dropped.
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// The last to go waits for what was asked for, and for the ledger to be closed.
impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != current().id()) {
            // A panic has been told where the work was waited for.
            let _ = thread.join();
        }
    }
}

impl SharedLedger {
    pub fn new(mut ledger: Ledger) -> Self {
        let (work, orders) = mpsc::channel::<Work>();
        let thread = std::thread::spawn(move || {
            for work in orders {
                // Work that panics has left its transaction, which is undone; the ledger is as before.
                if catch_unwind(AssertUnwindSafe(|| work(&mut ledger))).is_err() {
                    ledger.undo();
                }
            }
        });
        SharedLedger(Arc::new(Worker { work: Some(work), thread: Some(thread) }))
    }

    /// Does the work, even if nobody waits for it any more.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let interrupted =
            || LedgerError::interrupted("a bug; the log says where. Nothing of it was kept".to_owned());
        let (tell, answer) = oneshot::channel();
        let order: Work = Box::new(move |ledger| {
            // Whoever asked may have gone.
            let _ = tell.send(work(ledger));
        });
        let orders = self.0.work.as_ref().ok_or_else(interrupted)?;
        orders.send(order).map_err(|_| interrupted())?;
        answer.await.map_err(|_| interrupted())?
    }
}
