//! Adds up a directory with everything in it. A sum with something left out is never returned: a directory that can't
//! be read through has no sum.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use walkdir::{DirEntry, WalkDir};

use super::mounts::Mounts;
use crate::collectors::CollectorError;
use crate::collectors::blocking::Stop;

/// What a directory holds, itself included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// Allocated on disk.
    pub(super) bytes: u128,
    /// The lengths of regular files and symbolic links.
    pub(super) apparent_bytes: u128,
    pub(super) inodes: u64,
}

/// What became of the walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walked {
    Whole(Usage),
    /// The directory was deleted meanwhile.
    Gone,
    /// Why there is no sum.
    Broken(String),
}

/// Walks `real` (a path without links). Hard links within it count once; symbolic links are not followed; what is
/// mounted below it is left out, wherever it comes from.
pub(super) fn measure(real: &Path, mounts: &Mounts, stop: &Stop) -> Result<Walked, CollectorError> {
    let device = match std::fs::symlink_metadata(real) {
        Ok(about) => about.dev(),
        Err(error) if is_gone(&error) => return Ok(Walked::Gone),
        Err(error) => return Ok(Walked::Broken(unreadable(real, &error))),
    };
    let is_mounted =
        |entry: &DirEntry| entry.depth() > 0 && entry.file_type().is_dir() && mounts.has(entry.path());
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let walk = WalkDir::new(real).follow_root_links(false).same_file_system(true).into_iter();
    for entry in walk.filter_entry(|entry| !is_mounted(entry)) {
        stop.check()?;
        let about = match entry.and_then(|entry| entry.metadata()) {
            Ok(about) => about,
            Err(error) => match (error.path(), error.io_error()) {
                // Deleted while we were on the way to it.
                (_, Some(cause)) if is_gone(cause) => {
                    if error.depth() == 0 {
                        return Ok(Walked::Gone);
                    }
                    continue;
                }
                (Some(path), Some(cause)) => return Ok(Walked::Broken(unreadable(path, cause))),
                _ => return Ok(Walked::Broken(error.to_string())),
            },
        };
        if about.dev() != device || (!about.is_dir() && about.nlink() > 1 && !linked.insert(about.ino())) {
            continue;
        }
        usage.inodes += 1;
        usage.bytes += u128::from(about.blocks()) * 512;
        if about.is_file() || about.is_symlink() {
            usage.apparent_bytes += u128::from(about.size());
        }
    }
    Ok(Walked::Whole(usage))
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "; give the agent CAP_DAC_READ_SEARCH",
        _ => "",
    };
    format!("{} can't be read: {error}{remedy}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_that_nobody_waits_for_ends_at_its_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = Mounts::default();
        assert!(matches!(measure(dir.path(), &mounts, &Stop::default()), Ok(Walked::Whole(_))));
        assert!(measure(dir.path(), &mounts, &Stop::already()).is_err());
    }

    #[test]
    fn a_directory_that_was_deleted_is_gone_and_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let walked = measure(&dir.path().join("was here"), &Mounts::default(), &Stop::default()).unwrap();
        assert_eq!(walked, Walked::Gone);
    }
}
