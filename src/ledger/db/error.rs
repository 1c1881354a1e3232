//! What can be wrong with the ledger, in words for the operator: what happened, what was kept, what to do.

use std::path::Path;

use rusqlite::ErrorCode;

use super::sql;
use crate::config::place::Place;
use crate::wire::tls::innermost;
use crate::wire::words::clean;

/// Why the ledger could not be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct LedgerError {
    pub kind: LedgerErrorKind,
    pub cause: Cause,
    message: String,
}

/// What keeps the ledger from being used, as a metric tells it: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No space is left.
    Full,
    /// The file, its directory or its file system can't be written by this user.
    ReadOnly,
    /// What is in the file is not what was written.
    Damaged,
    /// Another program holds it.
    Locked,
    /// The disk did not do what it was asked.
    Disk,
    /// The database is not reached, or refuses.
    Database,
    Other,
}

impl Cause {
    pub const ALL: [Cause; 7] = [
        Cause::Full,
        Cause::ReadOnly,
        Cause::Damaged,
        Cause::Locked,
        Cause::Disk,
        Cause::Database,
        Cause::Other,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Cause::Full => "full",
            Cause::ReadOnly => "read_only",
            Cause::Damaged => "damaged",
            Cause::Locked => "locked",
            Cause::Disk => "disk",
            Cause::Database => "database",
            Cause::Other => "other",
        }
    }
}

/// What the caller may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerErrorKind {
    /// Not our file, a newer one, a damaged one, no permission: a person has to act before anything can work.
    Unusable,
    /// The database lets this role do something else, but not that.
    Forbidden,
    /// The disk is full, or another program holds the file: it passes.
    Passing,
    /// Another process submits for this ledger since; what this one still had under way is in doubt.
    Superseded,
}

/// What to do where each transaction has another connection of the server.
const POOLED: &str = "is a pooler (PgBouncer) between, whose pool_mode is `transaction` or `statement`? The ledger needs one \
    connection for a whole session: set `pool_mode = session` for this database, or name the server itself in `ledger:`";

impl LedgerError {
    pub(in crate::ledger) fn newer(place: &Place, version: i64) -> Self {
        Self::unusable(format!(
            "the ledger {place} was written by a newer waldur-usage-agent (format {version}; this one knows up to {}). \
             It was left untouched: install the newer version again, or name another one in `ledger:`.",
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
        // SQLite says it in several lines.
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        Self::unusable(format!(
            "the ledger {path} is damaged ({what}). It was left as it is. To go on: stop the agent, keep a copy of \
             {path} and its -wal file, and put a backup in its place (docs/operations.md, Restore); without one try \
             `sqlite3 {path} .recover | sqlite3 recovered.db`, or move the file away: the agent then starts a new ledger, \
             reads its sources' history again, and holds what differs from Waldur until you decide."
        ))
        .because(Cause::Damaged)
    }

    pub(in crate::ledger) fn absent(path: &Path) -> Self {
        Self::unusable(format!(
            "there is no ledger at {}: either nothing has been collected with this configuration yet (`waldur-usage-agent \
             collect` does, and `run` on its schedules), or `ledger:` names another path than the one that is in use",
            path.display()
        ))
    }

    pub(in crate::ledger) fn not_made(place: &Place) -> Self {
        Self::unusable(format!(
            "there is no ledger in {place}, or one of an older version: `waldur-usage-agent ledger init` makes its tables, \
             with the role that is to own them"
        ))
    }

    pub(in crate::ledger) fn followed(place: &Place) -> Self {
        let message = format!(
            "another agent is at work on the ledger {place} since: this one writes nothing more, and stands by"
        );
        Self { kind: LedgerErrorKind::Superseded, cause: Cause::Other, message }
    }

    pub(in crate::ledger) fn pooled(place: &Place) -> Self {
        Self::unusable(format!(
            "the ledger {place} can't be used: each transaction gets another connection of the server; {POOLED}"
        ))
    }

    pub(in crate::ledger) fn second_host(agent: &str, place: &Place) -> Self {
        Self::unusable(format!(
            "another host sends to the ledger {place} as the agent {agent}, too: nothing of this one is sent, so that neither \
             takes the other's place. Name one of them otherwise (`agent:`) and restart it; what waits here is sent under the \
             new name. If this host was installed anew or put back to an earlier state, it is sent once the other has been silent \
             for longer than is usual for it, or after `agents retire {agent}`"
        ))
    }

    pub(in crate::ledger) fn is_live(place: &Place, holder: &str) -> Self {
        Self::unusable(format!(
            "agents report from the ledger {place} (the last was {holder}), and one with `report: shadow` would stop them: it \
             does not take its turn. Compare with `diff`, or give the trial a ledger of its own (`ledger copy` into a file). If \
             nothing is to be reported from this one any more, stop the agents that do, and then in the database: \
             DELETE FROM lease WHERE name = 'report: live'"
        ))
    }

    pub(in crate::ledger) fn not_own(place: &Place, agent: &str, why: &LedgerError) -> Self {
        Self::unusable(format!(
            "agent {agent}: nothing can be appended to the ledger {place}: {why}. A role that only appends is called as its agent \
             is: CREATE ROLE \"{agent}\" LOGIN; GRANT appender TO \"{agent}\""
        ))
    }

    pub(in crate::ledger) fn at_work(place: &Place) -> Self {
        Self::passing(format!("another agent is connected to the ledger {place}: stop all of them first"))
    }

    pub(in crate::ledger) fn not_taken(place: &Place, waiting: i64) -> Self {
        Self::passing(format!(
            "{waiting} runs that hosts have sent to the ledger {place} are not counted yet, and a file takes none: `flush` there \
             counts them first"
        ))
    }

    pub fn interrupted(what: String) -> Self {
        Self::passing(format!("work on the ledger was interrupted: {what}"))
    }

    pub(in crate::ledger) fn superseded(ours: i64) -> Self {
        let message = format!(
            "another process has taken over submitting for this ledger (this one had turn {ours}): what it still had \
             under way is read back before it is believed"
        );
        Self { kind: LedgerErrorKind::Superseded, cause: Cause::Other, message }
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
        let cause = match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Cause::ReadOnly,
            _ => Cause::Disk,
        };
        Self::unusable(format!("can't {what} the ledger {shown}: {error}; {remedy}")).because(cause)
    }

    pub(in crate::ledger) fn from_sql(place: &Place, error: sql::Error) -> Self {
        match error {
            sql::Error::Sqlite(error) => {
                Self::from_sqlite(place.file().unwrap_or(Path::new(":memory:")), error)
            }
            sql::Error::Postgres(error) => Self::from_postgres(place, &error).because(Cause::Database),
            sql::Error::Lost | sql::Error::NoAnswer(_) => Self::away(place, &error),
            sql::Error::NoRow | sql::Error::Unreadable(_) | sql::Error::NoWay(_) => {
                Self::unusable(format!("the ledger {place} can't be used: {error}"))
            }
        }
    }

    /// By the server's code (SQLSTATE, in the appendix of PostgreSQL's manual), which is shown, too.
    fn from_postgres(place: &Place, error: &postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            // It did not come from the server: it is about reaching it.
            return match innermost(error).as_str() {
                "password missing" => Self::unusable(format!(
                    "the ledger {place} can't be used: the server asks for a password; name its file in \
                     `ledger_password_file`, or give a systemd credential `ledger-password` or a PGPASSFILE"
                )),
                _ if error.is_closed() => Self::away(place, &"it closed the connection"),
                why => Self::away(place, &why),
            };
        };
        let code = told.code().code();
        let said = format!("{} (SQLSTATE {code})", clean(told.message()));
        let role = match place {
            Place::Database(database) => database.role.as_str(),
            Place::File(_) => "",
        };
        let refused =
            |remedy: &str| Self::unusable(format!("the ledger {place} can't be used: {said}; {remedy}"));
        let passes = |what: &str| {
            Self::passing(format!(
                "the ledger {place} can't be used now: {said}; {what}; nothing was lost, it is tried again"
            ))
        };
        match code {
            "28P01" | "28000" => refused(&format!(
                "check the password of the role `{role}` (`ledger_password_file`, the systemd credential `ledger-password` or \
                 PGPASSFILE), and the server's pg_hba.conf"
            )),
            "3D000" => refused(
                "make it, `createdb -O ROLE DATABASE`, and its tables with `waldur-usage-agent ledger init`",
            ),
            "42P01" | "3F000" => refused("`waldur-usage-agent ledger init` makes its tables"),
            "42501" => {
                let remedy = format!(
                    "the role `{role}` may not do that: `waldur-usage-agent ledger init` says what to grant"
                );
                Self { kind: LedgerErrorKind::Forbidden, ..refused(&remedy) }
            }
            // What one transaction has prepared, the next looks for on another connection.
            "42P05" | "26000" => refused(POOLED),
            "08P01"
                if ["prepared statement", "pooling mode"].iter().any(|of| told.message().contains(of)) =>
            {
                refused(POOLED)
            }
            "25006" => passes("the server takes no writes (a standby, or one that is being moved?)"),
            "57014" => passes("it took longer than the server allows"),
            "55P03" => passes("another process writes it for longer than that"),
            "25P03" => passes("this process was held up in the middle of its work"),
            "53300" => passes("all its connections are taken (`max_connections`)"),
            "53100" => passes("no space is left on the server's disk"),
            "57P01" | "57P02" | "57P03" => passes("the server stops or starts"),
            _ => match &code[..2.min(code.len())] {
                "08" | "40" | "53" | "57" | "58" => passes("that passes"),
                _ => Self::unusable(format!("the ledger {place} can't be used: {said}")),
            },
        }
    }

    fn away(place: &Place, why: &dyn std::fmt::Display) -> Self {
        Self::passing(format!(
            "the ledger {place} can't be reached: {why}; nothing was lost, it is tried again"
        ))
        .because(Cause::Database)
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
            ))
            .because(Cause::Locked),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::read_only(path, &error),
            // So SQLite calls it where it can't make its log, or write what it has open.
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) if is_read_only(path) => Self::read_only(path, &error),
            // Where SQLite can't grow its shared memory or its log it does not say why.
            Some(ErrorCode::SystemIoFailure) if has_no_room(path) => Self::full(path),
            Some(ErrorCode::SystemIoFailure) => Self::passing(format!(
                "the disk failed under the ledger {shown} ({error}); what was committed before is kept, and it is tried \
                 again. If this stays, check the disk."
            ))
            .because(Cause::Disk),
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
        .because(Cause::ReadOnly)
    }

    fn full(path: &Path) -> Self {
        Self::passing(format!(
            "no space left on the disk of the ledger {}: nothing can be recorded or reported, and what was recorded before \
             is kept. Free some space; a daemon goes on by itself.",
            path.display()
        ))
        .because(Cause::Full)
    }

    fn passing(message: String) -> Self {
        Self { kind: LedgerErrorKind::Passing, cause: Cause::Other, message }
    }

    fn unusable(message: String) -> Self {
        Self { kind: LedgerErrorKind::Unusable, cause: Cause::Other, message }
    }

    fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

/// Whether the file system of the ledger can't be written at all.
pub fn is_read_only(path: &Path) -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    let folder = path.parent().unwrap_or(Path::new("/"));
    statvfs(folder).is_ok_and(|disk| disk.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether the file system of the ledger has no block left.
pub(super) fn has_no_room(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(Path::new("/"));
    nix::sys::statvfs::statvfs(folder).is_ok_and(|disk| disk.blocks_available() == 0)
}
