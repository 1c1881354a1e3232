//! Adds up a directory with everything in it. A sum with something left out is never returned: a directory that can't
//! be read through has no sum.
//!
//! Memory does not grow with what there is: a few open listings, and the numbers of files with several links.

use std::collections::HashSet;
use std::fs::{DirEntry, ReadDir};
use std::io::Error;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::mounts::Mounts;
use super::workers::Progress;
use crate::collectors::find::is_gone;

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
#[derive(Debug)]
pub(super) enum Walked {
    Whole(Usage),
    /// The directory was deleted meanwhile.
    Gone,
    /// Where it broke off, and why.
    Broken(PathBuf, Error),
}

/// Listings that are open at once. A deeper one is read to its end first, and only its directories are kept in memory.
const OPEN: usize = 32;

/// A directory whose entries are being looked at.
struct Level {
    path: PathBuf,
    entries: Entries,
}

enum Entries {
    Open(ReadDir),
    /// The directories of a listing whose files are counted already.
    Directories(Vec<PathBuf>),
}

/// Walks `real` (a path without links). Hard links within it count once; symbolic links are not followed; what is
/// mounted below it is left out, wherever it comes from, and not even asked about. Only a directory marks a mount: the
/// files of an overlay may be of another device than their directory.
pub(super) fn measure(real: &Path, mounts: &Mounts, progress: &Progress) -> Walked {
    let about = match progress.touch(real).and_then(|()| std::fs::symlink_metadata(real)) {
        Ok(about) => about,
        Err(error) if is_gone(&error) => return Walked::Gone,
        Err(error) => return Walked::Broken(real.to_owned(), error),
    };
    let mut walk =
        Walk { mounts, progress, device: about.dev(), usage: Usage::default(), linked: HashSet::new() };
    walk.add(&about);
    if !about.is_dir() {
        return Walked::Whole(walk.usage);
    }
    match walk.below(real) {
        Ok(()) => Walked::Whole(walk.usage),
        Err((path, error)) if path == real && is_gone(&error) => Walked::Gone,
        Err((path, error)) => Walked::Broken(path, error),
    }
}

/// Longer paths than the system takes in one call (4096 bytes).
const LONGEST: usize = 4000;

/// Lists a directory, however deep it lies.
fn read_dir(path: &Path) -> Result<ReadDir, Error> {
    match std::fs::read_dir(path) {
        Err(error) if error.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) => read_far_dir(path),
        listed => listed,
    }
}

/// The same, piece by piece, each from the directory that the one before leads to.
fn read_far_dir(path: &Path) -> Result<ReadDir, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        piece.push(part);
        let next = parts.peek().map_or(LONGEST, |next| next.as_os_str().len());
        if piece.as_os_str().len() + next >= LONGEST {
            let from = at.as_ref().map_or(CWD, AsFd::as_fd);
            at = Some(openat(from, &piece, flags, Mode::empty())?);
            piece.clear();
        }
    }
    match at {
        Some(directory) => std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())),
        None => std::fs::read_dir(path),
    }
}

struct Walk<'a> {
    mounts: &'a Mounts,
    progress: &'a Progress,
    device: u64,
    usage: Usage,
    linked: HashSet<(u64, u64)>,
}

impl Walk<'_> {
    fn below(&mut self, real: &Path) -> Result<(), (PathBuf, Error)> {
        let mut levels = Vec::new();
        levels.extend(self.open(real.to_owned(), 0)?);
        while let Some(level) = levels.last_mut() {
            let next = match &mut level.entries {
                Entries::Directories(left) => left.pop(),
                Entries::Open(entries) => match entries.next() {
                    Some(Ok(entry)) => {
                        let found = self.entry(&level.path, &entry);
                        let found = found.map_err(|error| (level.path.join(entry.file_name()), error))?;
                        match found {
                            Some(directory) => Some(directory),
                            None => continue,
                        }
                    }
                    Some(Err(error)) if is_gone(&error) => None,
                    Some(Err(error)) => return Err((level.path.clone(), error)),
                    None => None,
                },
            };
            match next {
                None => drop(levels.pop()),
                Some(directory) => {
                    let depth = levels.len();
                    levels.extend(self.open(directory, depth)?);
                }
            }
        }
        Ok(())
    }

    /// Begins with a directory; `None` if it is gone.
    fn open(&mut self, path: PathBuf, depth: usize) -> Result<Option<Level>, (PathBuf, Error)> {
        let entries = match self.progress.touch(&path).and_then(|()| read_dir(&path)) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) && depth > 0 => return Ok(None),
            Err(error) => return Err((path, error)),
        };
        if depth < OPEN {
            return Ok(Some(Level { path, entries: Entries::Open(entries) }));
        }
        let mut directories = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => {
                    let found = self.entry(&path, &entry);
                    directories.extend(found.map_err(|error| (path.join(entry.file_name()), error))?);
                }
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err((path, error)),
            }
        }
        Ok(Some(Level { path, entries: Entries::Directories(directories) }))
    }

    /// Counts an entry; returns it if it is a directory to be walked.
    fn entry(&mut self, dir: &Path, entry: &DirEntry) -> Result<Option<PathBuf>, Error> {
        self.progress.step();
        if self.progress.stopped() {
            return Err(Error::other("stopped before it was done"));
        }
        let listed_as_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = listed_as_directory.then(|| dir.join(entry.file_name()));
        if path.as_ref().is_some_and(|path| self.mounts.has(path)) {
            return Ok(None);
        }
        let about = match entry.metadata() {
            Ok(about) => about,
            // Deleted while we were on the way to it.
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if about.is_dir() && about.dev() != self.device {
            return Ok(None);
        }
        self.add(&about);
        Ok(path.filter(|_| about.is_dir()))
    }

    fn add(&mut self, about: &std::fs::Metadata) {
        if !about.is_dir() && about.nlink() > 1 && !self.linked.insert((about.dev(), about.ino())) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.bytes += u128::from(about.blocks()) * 512;
        if about.is_file() || about.is_symlink() {
            self.usage.apparent_bytes += u128::from(about.size());
        }
    }
}
