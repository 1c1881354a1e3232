//! Reads how full file systems are, and how much lies in each of many directories (one a user, or one a project).
//!
//! It only looks. It follows no symbolic link and enters no other mount, and a directory that it can't read through
//! gives no reading at all: a sum that is too small would be billed as if it were the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use glob::MatchOptions;
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use rust_decimal::Decimal;

use super::blocking::{self, Stop};
use super::names::Names;
use super::{Batch, Collector, CollectorError, Offered, Plugin, Request, Running};
use crate::config::section::Section;
use crate::metering::reading::{Kind, Labels, Reading};
use mounts::Mounts;
use walk::Walked;

mod mounts;
mod walk;

pub const PLUGIN: Plugin =
    Plugin { name: "filesystem", about: "bytes and inodes, by mount and by directory", build };

const OFFERS: &[Offered] = &[
    Offered { name: "mount_used_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "mount_total_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "mount_used_inodes", kind: Kind::Gauge, unit: "1" },
    Offered { name: "directory_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "directory_apparent_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "directory_inodes", kind: Kind::Gauge, unit: "1" },
];

const LABELS: &[&str] = &["path", "name", "owner", "group", "mount"];

/// `*` does not match a name that begins with a dot (`.snapshots`).
const AS_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// A configured collector.
#[derive(Debug)]
struct Filesystem {
    sight: Arc<Sight>,
}

/// Everything a run needs on its blocking thread.
#[derive(Debug)]
struct Sight {
    mounts: BTreeSet<PathBuf>,
    directories: BTreeSet<String>,
    names: Names,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let missing = !section.has("mounts") && !section.has("directories");
    let mut mounts = BTreeSet::new();
    for text in section.texts("mounts").unwrap_or_default() {
        match absolute(&text) {
            Ok(path) => drop(mounts.insert(path)),
            Err(why) => section.problem("mounts", why),
        }
    }
    let mut directories = BTreeSet::new();
    for text in section.texts("directories").unwrap_or_default() {
        let checked = absolute(&text).and_then(|path| {
            glob::Pattern::new(&text).map_err(|error| format!("`{text}` is not a glob: {error}"))?;
            path.to_str().map(str::to_owned).ok_or_else(|| format!("`{text}` is not UTF-8"))
        });
        match checked {
            Ok(pattern) => drop(directories.insert(pattern)),
            Err(why) => section.problem("directories", why),
        }
    }
    if missing {
        section.problem(
            "",
            "`mounts` or `directories` is missing: what to look at, such as `directories: /home/*`",
        );
        return None;
    }
    let sight = Sight { mounts, directories, names: Names::default() };
    Some(Box::new(Filesystem { sight: Arc::new(sight) }))
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    // Put together from its parts, which drops doubled and final slashes.
    let path: PathBuf = Path::new(text).components().collect();
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && is_plain {
        Ok(path)
    } else {
        Err(format!("`{text}` must be an absolute path, without .."))
    }
}

impl Collector for Filesystem {
    fn offers(&self) -> &[Offered] {
        OFFERS
    }

    fn labels(&self) -> &[&'static str] {
        LABELS
    }

    fn scope(&self) -> String {
        let mounts = self.sight.mounts.iter().map(|path| format!("mount:{}", path.display()));
        let directories = self.sight.directories.iter().map(|pattern| format!("directory:{pattern}"));
        mounts.chain(directories).collect::<Vec<_>>().join(" ")
    }

    fn collect(&self, request: Request) -> Running<'_> {
        let sight = self.sight.clone();
        Box::pin(blocking::run(move |stop| sight.look(request.now, stop)))
    }
}

/// A path to be read, and what it is called.
struct Place {
    real: PathBuf,
    labels: Labels,
}

impl Sight {
    fn look(&self, now: Timestamp, stop: &Stop) -> Result<Batch, CollectorError> {
        let mounted = Mounts::now().map_err(CollectorError)?;
        let mut batch = Batch { lists_everything: true, ..Batch::default() };
        let mut unmounted = Vec::new();
        for path in &self.mounts {
            stop.check()?;
            if let Err(problem) = self.mount(path, &mounted, now, &mut batch) {
                batch.problem(problem);
                unmounted.push(path);
            }
        }
        for path in self.matches(&mut batch) {
            stop.check()?;
            // What lies at an empty mount point is not what is meant; it has been told above.
            if unmounted.iter().any(|mount| path.starts_with(mount)) {
                continue;
            }
            match self.place(&path, &mounted) {
                Ok(Some(place)) => match walk::measure(&place.real, &mounted, stop)? {
                    Walked::Whole(usage) => {
                        let mut gauge =
                            |name, unit, value| gauge(&mut batch, name, unit, value, now, &place.labels);
                        gauge("directory_bytes", "B", usage.bytes);
                        gauge("directory_apparent_bytes", "B", usage.apparent_bytes);
                        gauge("directory_inodes", "1", usage.inodes.into());
                    }
                    Walked::Gone => {}
                    Walked::Broken(why) => {
                        batch.problem(format!("{} is left out as a whole: {why}", path.display()));
                    }
                },
                Ok(None) => {}
                Err(problem) => batch.problem(problem),
            }
        }
        Ok(batch)
    }

    fn mount(&self, path: &Path, mounted: &Mounts, now: Timestamp, batch: &mut Batch) -> Result<(), String> {
        let gone = || format!("{} does not exist; mount it, or take it from `mounts`", path.display());
        let place = self.place(path, mounted)?.ok_or_else(gone)?;
        // Without this, an unmounted /scratch would be billed as the disk of the operating system.
        if !mounted.has(&place.real) {
            return Err(format!(
                "nothing is mounted at {}; mount it, or write the mount point it lies on in `mounts`",
                path.display()
            ));
        }
        let about =
            statvfs(&place.real).map_err(|error| format!("{} can't be asked: {error}", path.display()))?;
        let unit = u128::from(about.fragment_size());
        let (total, free) = (u128::from(about.blocks()), u128::from(about.blocks_free()));
        if total == 0 {
            return Err(format!(
                "{} has no size: it is not a file system with space of its own, or is not mounted yet (autofs)",
                path.display()
            ));
        }
        let (inodes, free_inodes) = (u128::from(about.files()), u128::from(about.files_free()));
        if inodes == 0 {
            batch.notes.push(format!("{} does not count its inodes", path.display()));
        }
        let mut gauge = |name, unit, value| gauge(batch, name, unit, value, now, &place.labels);
        gauge("mount_used_bytes", "B", total.saturating_sub(free) * unit);
        gauge("mount_total_bytes", "B", total * unit);
        if inodes > 0 {
            gauge("mount_used_inodes", "1", inodes.saturating_sub(free_inodes));
        }
        Ok(())
    }

    /// The directories that the globs match, each once. Links to directories are not directories.
    fn matches(&self, batch: &mut Batch) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for pattern in &self.directories {
            let base = fixed_part(pattern);
            if !base.is_dir() {
                batch.problem(format!(
                    "`{pattern}`: {} is not there; mount it, or correct the path",
                    base.display()
                ));
                continue;
            }
            let (mut here, mut others) = (0, 0);
            // `build` has tried the pattern already, so it is one.
            for path in glob::glob_with(pattern, AS_A_SHELL).into_iter().flatten() {
                match path {
                    Ok(path) if path.is_symlink() || !path.is_dir() => others += 1,
                    Ok(path) => {
                        here += 1;
                        found.insert(path);
                    }
                    Err(error) if error.error().kind() == ErrorKind::NotFound => {}
                    Err(error) => batch.problem(format!(
                        "{} can't be searched: {}; let the agent's user read it",
                        error.path().display(),
                        error.error()
                    )),
                }
            }
            if here == 0 {
                batch.notes.push(format!("`{pattern}` matches no directory now"));
            }
            if others > 0 {
                batch.notes.push(format!("`{pattern}` matches {others} files or links, which are left out"));
            }
        }
        if let Some((outer, inner)) = found.iter().find_map(|inner| {
            let outer = inner.ancestors().skip(1).find(|outer| found.contains(*outer))?;
            Some((outer, inner))
        }) {
            batch.notes.push(format!(
                "{} is listed beside {}, which holds it: it is counted twice wherever both are added up",
                inner.display(),
                outer.display()
            ));
        }
        found
    }

    /// `None` if it is gone.
    fn place(&self, path: &Path, mounted: &Mounts) -> Result<Option<Place>, String> {
        let real = std::fs::canonicalize(path);
        let (real, about) = match real.and_then(|real| std::fs::metadata(&real).map(|about| (real, about))) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{} can't be read: {error}", path.display())),
        };
        let text = path.to_str().ok_or_else(|| format!("{} has a name that is not UTF-8", path.display()))?;
        let named = |problem: String| format!("{text}: {problem}");
        let mut labels: BTreeMap<String, String> = [
            ("path", text.to_owned()),
            ("name", path.file_name().and_then(|name| name.to_str()).unwrap_or("/").to_owned()),
            ("owner", self.names.user(about.uid()).map_err(named)?),
            ("group", self.names.group(about.gid()).map_err(named)?),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(mount) = mounted.of(&real) {
            labels.insert("mount".to_owned(), mount.to_string_lossy().into_owned());
        }
        Ok(Some(Place { real, labels }))
    }
}

fn gauge(batch: &mut Batch, name: &str, unit: &str, value: u128, now: Timestamp, labels: &Labels) {
    let whole = i128::try_from(value).ok().and_then(|value| Decimal::try_from_i128_with_scale(value, 0).ok());
    // Beyond 28 digits no decimal holds it; no file system has so much.
    let Some(value) = whole else {
        return batch.quarantine(&format!("{name} {value}"), "it has more than 28 digits");
    };
    let mut reading = Reading::new(name, Kind::Gauge, value, now).unit(unit);
    reading.labels = labels.clone();
    batch.push(reading);
}

/// The part of a glob before its first part with a wildcard.
fn fixed_part(pattern: &str) -> PathBuf {
    let is_fixed = |part: &Component| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    Path::new(pattern).components().take_while(is_fixed).collect()
}
