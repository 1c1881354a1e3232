//! The submission lock: of all processes that share a ledger, one at a time talks to Waldur for it.
//!
//! It is a lock on a file beside the ledger, so it dies with its process. It protects no data of the ledger, which
//! SQLite does; it keeps a daemon and a `flush` beside it from sending the same statement at once.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::LedgerError;

/// Held while submitting; released when dropped or when the process ends.
#[derive(Debug)]
pub struct SubmitLock {
    _held: Flock<File>,
}

/// Whoever owns the ledger can open its lock, too, even if it was root who first submitted by hand: as SQLite does
/// with its files.
fn give_to_owner(file: &File, ledger: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    if let Ok(owner) = ledger.metadata() {
        let done = fchown(file, Some(owner.uid()), Some(owner.gid()));
        drop(done);
    }
}

impl SubmitLock {
    /// The lock, if nobody holds it.
    pub fn try_take(ledger: &Path) -> Result<Option<SubmitLock>, LedgerError> {
        let mut name = ledger.as_os_str().to_owned();
        name.push(".lock");
        let path = Path::new(&name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| LedgerError::from_io(path, "create the lock file of", &error))?;
        give_to_owner(&file, ledger);
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => Ok(Some(SubmitLock { _held: held })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(LedgerError::from_io(path, "lock", &error.into())),
        }
    }
}
