//! Whose file it is, found out before it is opened as a database, so that a foreign one stays untouched.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::error::LedgerError;
use super::schema;

/// How often to look whether a file without a mark gets one, before it is taken for a foreign one.
const LOOKS: u32 = 40;

/// Whether the file is a SQLite database that no program has marked as its own.
fn is_unmarked(path: &Path) -> bool {
    let mut header = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(100).read_to_end(&mut header));
    read.is_ok()
        && header.starts_with(b"SQLite format 3\0")
        && header.get(60..64) == Some(&[0; 4])
        && header.get(68..72) == Some(&[0; 4])
}

/// Looks at the first bytes of the file without opening it as a database, so that a foreign file stays untouched.
pub(super) fn inspect(path: &Path) -> Result<(), LedgerError> {
    for _ in 0..LOOKS {
        if !is_unmarked(path) {
            break;
        }
        // Most likely another process of ours is just making it: its pages come before its mark.
        #[expect(
            clippy::disallowed_methods,
            reason = "at most a second, for a file that is about to be refused"
        )]
        std::thread::sleep(Duration::from_millis(25));
    }
    let mut header = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(100).read_to_end(&mut header).map_err(|e| LedgerError::from_io(path, "read", &e))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LedgerError::from_io(path, "open", &error)),
    };
    if header.is_empty() {
        return Ok(());
    }
    let word = |at: usize| {
        header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes).unwrap_or(0)
    };
    if !header.starts_with(b"SQLite format 3\0") || header.len() < 100 {
        return Err(LedgerError::foreign(path, "it is not a SQLite database"));
    }
    let (pages, version, application) = (word(28), word(60), word(68));
    // Without a table yet, and nobody's: a ledger that another process is making now, or was killed while it did.
    if pages <= 1 && version == 0 && application == 0 {
        return Ok(());
    }
    if application != schema::APPLICATION_ID {
        return Err(LedgerError::foreign(path, "it is another program's SQLite database"));
    }
    if i64::from(version) > schema::VERSION {
        return Err(LedgerError::newer(&path.into(), version.into()));
    }
    Ok(())
}
