//! What can be wrong with the ledger, in words for the operator: what happened, what was kept, what to do.

use std::path::Path;

use rusqlite::ErrorCode;

use super::sql;

/// Why the ledger could not be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LedgerError {
    pub kind: LedgerTrouble,
    message: String,
}

/// What the caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerTrouble {
    /// Not our file, a newer one, a damaged one, no permission: a person has to act before anything can work.
    Unusable,
    /// The disk is full, or another program holds the file: it passes.
    Passing,
    /// Another process submits for this ledger since; what this one still had under way is in doubt.
    Superseded,
}

impl LedgerError {
    pub(in crate::ledger) fn newer(path: &Path, version: i64) -> Self {
        Self::unusable(format!(
            "the ledger {} was written by a newer waldur-usage-agent (format {version}; this one knows up to {}). \
             It was left untouched: install the newer version again, or name another file in `ledger:`.",
            path.display(),
            super::schema::VERSION,
        ))
    }

    pub(in crate::ledger) fn foreign(path: &Path, why: &str) -> Self {
        Self::unusable(format!(
            "{} is not a ledger of waldur-usage-agent: {why}. It was left untouched: name another file in `ledger:`.",
            path.display()
        ))
    }

    pub(in crate::ledger) fn damaged(path: &Path, what: &str) -> Self {
        let path = path.display();
        Self::unusable(format!(
            "the ledger {path} is damaged ({what}). It was left as it is. To go on: stop the agent, keep a copy of \
             {path} and its -wal file, and try `sqlite3 {path} .recover | sqlite3 recovered.db`; or move the file \
             away: the agent then starts a new ledger, reads its sources' history again, and holds what differs from \
             Waldur until you decide."
        ))
    }

    pub(in crate::ledger) fn absent(path: &Path) -> Self {
        Self::unusable(format!(
            "there is no ledger at {}: nothing has been collected with this configuration yet (`waldur-usage-agent \
             collect` does, and `run` on its schedules)",
            path.display()
        ))
    }

    pub(in crate::ledger) fn interrupted(what: String) -> Self {
        Self { kind: LedgerTrouble::Passing, message: format!("work on the ledger was interrupted: {what}") }
    }

    pub(in crate::ledger) fn superseded(ours: i64) -> Self {
        let message = format!(
            "another process has taken over submitting for this ledger (this one had turn {ours}): what it still had \
             under way is read back before it is believed"
        );
        Self { kind: LedgerTrouble::Superseded, message }
    }

    pub(in crate::ledger) fn from_io(path: &Path, what: &str, error: &std::io::Error) -> Self {
        let shown = path.display();
        let remedy = match error.kind() {
            std::io::ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(Path::new("/")).display();
                format!("create the directory {parent}, or name another file in `ledger:`")
            }
            std::io::ErrorKind::PermissionDenied => {
                "run as the user that owns it, or name another file in `ledger:`".to_owned()
            }
            std::io::ErrorKind::StorageFull => return Self::full(path),
            _ => "check the disk and the path in `ledger:`".to_owned(),
        };
        Self::unusable(format!("can't {what} the ledger {shown}: {error}; {remedy}"))
    }

    pub(in crate::ledger) fn from_sql(path: &Path, error: sql::Error) -> Self {
        match error {
            sql::Error::Sqlite(error) => Self::from_sqlite(path, error),
            sql::Error::NoRow | sql::Error::Unreadable(_) => {
                Self::unusable(format!("the ledger {} can't be used: {error}", path.display()))
            }
        }
    }

    fn from_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let shown = path.display();
        match error.sqlite_error_code() {
            _ if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Self::full(path),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::damaged(path, &error.to_string())
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::passing(format!(
                "the ledger {shown} is locked by another program (a backup, a sqlite3 shell?) for longer than 10 s; \
                 nothing was lost, it is tried again"
            )),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::read_only(path, &error),
            // So SQLite calls it where it can't make its log.
            Some(ErrorCode::CannotOpen) if is_read_only(path) => Self::read_only(path, &error),
            // Where SQLite can't grow its shared memory or its log it does not say why.
            Some(ErrorCode::SystemIoFailure) if has_no_room(path) => Self::full(path),
            Some(ErrorCode::SystemIoFailure) => Self::passing(format!(
                "the disk failed under the ledger {shown} ({error}); what was committed before is kept, and it is tried \
                 again. If this stays, check the disk."
            )),
            Some(ErrorCode::CannotOpen) => Self::unusable(format!("can't open the ledger {shown}: {error}")),
            _ => Self::unusable(format!("the ledger {shown} can't be used: {error}")),
        }
    }

    fn read_only(path: &Path, error: &rusqlite::Error) -> Self {
        Self::unusable(format!(
            "the ledger {} can't be written ({error}): it, its directory or its file system is read-only for this user. \
             Nothing was collected or sent.",
            path.display()
        ))
    }

    fn full(path: &Path) -> Self {
        Self::passing(format!(
            "no space left on the disk of the ledger {}: what was just to be written is not kept, everything before it is. \
             Free some space; the agent goes on by itself.",
            path.display()
        ))
    }

    fn passing(message: String) -> Self {
        Self { kind: LedgerTrouble::Passing, message }
    }

    fn unusable(message: String) -> Self {
        Self { kind: LedgerTrouble::Unusable, message }
    }
}

/// Whether the file system of the ledger can't be written at all.
fn is_read_only(path: &Path) -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let folder = path.parent().unwrap_or(Path::new("/"));
    statvfs(folder).is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether the file system of the ledger has no block left.
fn has_no_room(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(folder).is_ok_and(|disk| disk.blocks_available() == 0)
}
