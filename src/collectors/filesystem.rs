//! Reads how full file systems are, and how much lies in each of many directories (one a user, or one a project).
//!
//! It only looks. It follows no symbolic link and enters no other mount, and a directory that it can't read through
//! gives no reading at all: a sum that is too small would be billed as if it were the truth. A path that does not answer
//! costs itself.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use rust_decimal::Decimal;

use super::blocking::{self, Stop};
use super::find::{Globbed, is_gone};
use super::names::Names;
use super::{Batch, Bearing, Collector, CollectorError, Offered, Plugin, Request, Running};
use crate::config::section::Section;
use crate::metering::reading::{Kind, Labels, Reading};
use mounts::Mounts;
use walk::Walked;
use workers::{Hanging, Outcome, Progress, Workers};

mod bearing;
mod mounts;
mod walk;
mod workers;

pub const PLUGIN: Plugin = Plugin {
    name: "filesystem",
    about: "bytes and inodes, by mount and by directory",
    is_shared: false,
    build,
};

const OFFERS: &[Offered] = &[
    Offered { name: "mount_used_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "mount_total_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "mount_used_inodes", kind: Kind::Gauge, unit: "1" },
    Offered { name: "directory_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "directory_apparent_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "directory_inodes", kind: Kind::Gauge, unit: "1" },
];

const LABELS: &[&str] = &["path", "name", "owner", "group", "mount"];

/// A configured collector.
#[derive(Debug)]
struct Filesystem {
    sight: Arc<Sight>,
}

/// Everything a run needs on its blocking thread.
#[derive(Debug)]
struct Sight {
    mounts: BTreeSet<PathBuf>,
    /// Globs, by what is written.
    directories: BTreeMap<String, Globbed>,
    names: Names,
    workers: Workers,
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
    let mut directories = BTreeMap::new();
    for text in section.texts("directories").unwrap_or_default() {
        let checked = absolute(&text).and_then(|path| {
            let pattern = path.to_str().ok_or_else(|| format!("`{text}` is not UTF-8"))?.to_owned();
            // As in a shell, `*` does not match a name that begins with a dot (`.snapshots`).
            Ok((pattern.clone(), Globbed::new(&pattern, false)?))
        });
        match checked {
            Ok((pattern, glob)) => drop(directories.insert(pattern, glob)),
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
    let sight = Sight { mounts, directories, names: Names::default(), workers: Workers::new() };
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

    fn hanging(&self) -> Vec<(PathBuf, Timestamp)> {
        self.sight.workers.all_hanging()
    }

    fn scope(&self) -> String {
        let mounts = self.sight.mounts.iter().map(|path| format!("mount:{}", path.display()));
        let directories = self.sight.directories.keys().map(|pattern| format!("directory:{pattern}"));
        mounts.chain(directories).collect::<Vec<_>>().join(" ")
    }

    fn collect(&self, request: Request) -> Running<'_> {
        let sight = self.sight.clone();
        Box::pin(blocking::run(move |stop| sight.look(request.now, stop)))
    }
}

/// A path without links, and whose it is.
#[derive(Debug)]
struct Place {
    real: PathBuf,
    uid: u32,
    gid: u32,
}

/// What a file system says of itself.
#[derive(Debug)]
struct Sizes {
    unit: u128,
    blocks: u128,
    free_blocks: u128,
    inodes: u128,
    free_inodes: u128,
}

impl Sight {
    fn look(self: &Arc<Self>, now: Timestamp, stop: &Stop) -> Result<Batch, CollectorError> {
        let mut look = Look {
            sight: self,
            mounted: Arc::new(Mounts::now().map_err(CollectorError)?),
            now,
            stop,
            batch: Batch { lists_everything: true, ..Batch::default() },
        };
        let unmounted = look.mounts()?;
        // What lies at an empty mount point is not what is meant; it has been told.
        let mut paths = look.matches()?;
        paths.retain(|path| !unmounted.iter().any(|mount| path.starts_with(mount)));
        look.directories(paths)?;
        Ok(look.batch)
    }
}

/// One run.
struct Look<'a> {
    sight: &'a Arc<Sight>,
    mounted: Arc<Mounts>,
    now: Timestamp,
    stop: &'a Stop,
    batch: Batch,
}

impl Look<'_> {
    fn all<J, R>(
        &self,
        jobs: impl IntoIterator<Item = J>,
        work: impl Fn(&J, &Progress) -> R + Send + Sync + 'static,
    ) -> Result<Vec<(J, Outcome<R>)>, CollectorError>
    where
        J: Clone + Send + 'static,
        R: Send + 'static,
    {
        self.sight.workers.all(jobs, &self.mounted, self.now, self.stop, work)
    }

    /// Reads the mounts, and returns those of which nothing is known.
    fn mounts(&mut self) -> Result<Vec<PathBuf>, CollectorError> {
        let mut unmounted = Vec::new();
        let seen = self.all(self.sight.mounts.clone(), |path, progress| {
            let place = place(path, progress)?;
            // Without this, an unmounted /scratch would be billed as the disk of the operating system.
            if !progress.mounts().has(&place.real) {
                return Ok::<_, Error>((place, None));
            }
            progress.touch(&place.real)?;
            let about = statvfs(&place.real)?;
            let sizes = Sizes {
                unit: about.fragment_size().into(),
                blocks: about.blocks().into(),
                free_blocks: about.blocks_free().into(),
                inodes: about.files().into(),
                free_inodes: about.files_free().into(),
            };
            Ok((place, Some(sizes)))
        })?;
        let places = seen.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Done(Ok((place, _))) => Some(place),
            _ => None,
        });
        let names = self.names(places)?;
        for (path, outcome) in seen {
            let problem = match outcome {
                Outcome::Done(Ok((place, Some(sizes)))) => match self.mount(&path, &place, &sizes, &names) {
                    Ok(()) => continue,
                    Err(problem) => problem,
                },
                Outcome::Done(Ok((_, None))) => format!(
                    "nothing is mounted at {}; mount it, or write the mount point it lies on in `mounts`",
                    path.display()
                ),
                Outcome::Done(Err(error)) if error.kind() == ErrorKind::NotFound => {
                    format!("{} does not exist; mount it, or take it from `mounts`", path.display())
                }
                Outcome::Done(Err(error)) => match self.hanging_behind(&path, &error) {
                    Some(problem) => problem,
                    None => format!("{} can't be asked: {error}", path.display()),
                },
                Outcome::Hangs(hanging) => hangs(&path, &hanging),
            };
            let mut bears_on = bearing::at(&bearing::MOUNTS, &path);
            bears_on.join(bearing::below(&path));
            self.batch.problem_of(problem, bears_on);
            unmounted.push(path);
        }
        Ok(unmounted)
    }

    fn mount(&mut self, path: &Path, place: &Place, sizes: &Sizes, names: &Named) -> Result<(), String> {
        if sizes.blocks == 0 {
            return Err(format!(
                "{} has no size: it is not a file system with space of its own, or is not mounted yet (autofs)",
                path.display()
            ));
        }
        let labels = self.labels(path, place, names)?;
        if sizes.inodes == 0 {
            self.batch.notes.push(format!("{} does not count its inodes", path.display()));
        }
        let used = sizes.blocks.saturating_sub(sizes.free_blocks) * sizes.unit;
        self.gauge("mount_used_bytes", "B", used, &labels);
        self.gauge("mount_total_bytes", "B", sizes.blocks * sizes.unit, &labels);
        if sizes.inodes > 0 {
            let used = sizes.inodes.saturating_sub(sizes.free_inodes);
            self.gauge("mount_used_inodes", "1", used, &labels);
        }
        Ok(())
    }

    /// The directories that the globs match, each once. Links to directories are not directories.
    fn matches(&mut self) -> Result<BTreeSet<PathBuf>, CollectorError> {
        let mut found = BTreeSet::new();
        let seen = self.all(self.sight.directories.clone(), |(_, glob), progress| {
            resolve(glob.base(), progress)?;
            progress.touch(glob.base())?;
            if !std::fs::metadata(glob.base())?.is_dir() {
                return Err(Error::from(ErrorKind::NotADirectory));
            }
            // With all links followed, so that it is known where it hangs if it does.
            Ok(glob.find(Path::new("/"), &mut |path| resolve(path, progress).map(drop)))
        })?;
        for ((pattern, glob), outcome) in seen {
            let base = glob.base();
            let matches = match outcome {
                Outcome::Done(Ok(matches)) => matches,
                Outcome::Done(Err(error)) => {
                    let problem = match self.hanging_behind(base, &error) {
                        Some(problem) => problem,
                        None if is_gone(&error) => {
                            format!("{} is not there; mount it, or correct the path", base.display())
                        }
                        None => format!("{} can't be searched: {error}", base.display()),
                    };
                    self.batch.problem_of(format!("`{pattern}`: {problem}"), bearing::below(base));
                    continue;
                }
                Outcome::Hangs(hanging) => {
                    let problem = format!("`{pattern}`: {}", hangs(base, &hanging));
                    self.batch.problem_of(problem, bearing::below(base));
                    continue;
                }
            };
            for (path, error) in &matches.failed {
                let problem = self.hanging_behind(path, error).unwrap_or_else(|| {
                    format!("{} can't be searched: {error}; let the agent's user read it", path.display())
                });
                self.batch.problem_of(problem, bearing::below(path));
            }
            for path in &matches.odd {
                let problem = format!("{} is left out: its name is not UTF-8; rename it", path.display());
                self.batch.problem_of(problem, Bearing::nothing());
            }
            if matches.directories.is_empty() {
                self.batch.notes.push(format!("`{pattern}` matches no directory now"));
            }
            if matches.others > 0 {
                let others = matches.others;
                let note = format!("`{pattern}` matches {others} files or links, which are left out");
                self.batch.notes.push(note);
            }
            found.extend(matches.directories);
        }
        let nested = found.iter().find_map(|inner| {
            let outer = inner.ancestors().skip(1).find(|outer| found.contains(*outer))?;
            Some((outer, inner))
        });
        if let Some((outer, inner)) = nested {
            self.batch.notes.push(format!(
                "{} is listed beside {}, which holds it: it is counted twice wherever both are added up",
                inner.display(),
                outer.display()
            ));
        }
        Ok(found)
    }

    /// Adds up each of the directories.
    fn directories(&mut self, paths: BTreeSet<PathBuf>) -> Result<(), CollectorError> {
        let seen = self.all(paths, |path, progress| {
            let place = place(path, progress)?;
            let walked = walk::measure(&place.real, progress.mounts(), progress);
            Ok::<_, Error>((place, walked))
        })?;
        self.stop.check()?;
        let places = seen.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Done(Ok((place, _))) => Some(place),
            _ => None,
        });
        let names = self.names(places)?;
        for (path, outcome) in seen {
            let problem = match outcome {
                Outcome::Done(Ok((_, Walked::Gone))) => continue,
                Outcome::Done(Ok((place, Walked::Whole(usage)))) => {
                    match self.labels(&path, &place, &names) {
                        Ok(labels) => {
                            self.gauge("directory_bytes", "B", usage.bytes, &labels);
                            self.gauge("directory_apparent_bytes", "B", usage.apparent_bytes, &labels);
                            self.gauge("directory_inodes", "1", usage.inodes.into(), &labels);
                            continue;
                        }
                        Err(problem) => problem,
                    }
                }
                Outcome::Done(Ok((_, Walked::Broken(at, error)))) => {
                    let why = self.hanging_behind(&at, &error).unwrap_or_else(|| unreadable(&at, &error));
                    format!("{} is left out as a whole: {why}", path.display())
                }
                Outcome::Done(Err(error)) if is_gone(&error) => continue,
                Outcome::Done(Err(error)) => {
                    let why = self.hanging_behind(&path, &error).unwrap_or_else(|| unreadable(&path, &error));
                    format!("{} is left out as a whole: {why}", path.display())
                }
                Outcome::Hangs(hanging) => {
                    format!("{} is left out as a whole: {}", path.display(), hangs(&path, &hanging))
                }
            };
            self.batch.problem_of(problem, bearing::at(&bearing::DIRECTORIES, &path));
        }
        Ok(())
    }

    /// The names of whom the places belong to. A directory server may hang as any other.
    fn names<'p>(&self, places: impl Iterator<Item = &'p Place>) -> Result<Named, CollectorError> {
        let ids = places.flat_map(|place| [Id::User(place.uid), Id::Group(place.gid)]);
        let ids: BTreeSet<Id> = ids.collect();
        let sight = self.sight.clone();
        let names = self.all(ids, move |id, progress| {
            // Not a path; it only must be its own.
            progress.touch(Path::new("names")).map_err(|_| DIRECTORY_SERVER.to_owned())?;
            match id {
                Id::User(uid) => sight.names.user(*uid),
                Id::Group(gid) => sight.names.group(*gid),
            }
        })?;
        let known = names.into_iter().map(|(id, outcome)| match outcome {
            Outcome::Done(name) => (id, name),
            Outcome::Hangs(_) => (id, Err(DIRECTORY_SERVER.to_owned())),
        });
        Ok(known.collect())
    }

    fn labels(&self, path: &Path, place: &Place, names: &Named) -> Result<Labels, String> {
        let text = path.to_str().ok_or_else(|| format!("{} has a name that is not UTF-8", path.display()))?;
        let name = |id| match names.get(&id) {
            Some(Ok(name)) => Ok(name.clone()),
            Some(Err(problem)) => Err(format!("{text}: {problem}")),
            None => Err(format!("{text}: {DIRECTORY_SERVER}")),
        };
        let mut labels: Labels = [
            ("path", text.to_owned()),
            ("name", path.file_name().and_then(|name| name.to_str()).unwrap_or("/").to_owned()),
            ("owner", name(Id::User(place.uid))?),
            ("group", name(Id::Group(place.gid))?),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(mount) = self.mounted.of(&place.real) {
            labels.insert("mount".to_owned(), mount.to_string_lossy().into_owned());
        }
        Ok(labels)
    }

    /// What to say of a path that was not looked at, because something hangs there.
    fn hanging_behind(&self, path: &Path, error: &Error) -> Option<String> {
        let place = workers::place_of(error)?;
        let hanging = self.sight.workers.hanging(&place);
        Some(
            hanging
                .map_or_else(|| format!("{} does not answer", path.display()), |found| hangs(path, &found)),
        )
    }

    fn gauge(&mut self, name: &str, unit: &str, value: u128, labels: &Labels) {
        gauge(&mut self.batch, name, unit, value, self.now, labels);
    }
}

/// A user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    User(u32),
    Group(u32),
}

type Named = BTreeMap<Id, Result<String, String>>;

const DIRECTORY_SERVER: &str = "its owner's name can't be looked up, because the directory server does not answer: check `getent passwd`";

fn hangs(path: &Path, hanging: &Hanging) -> String {
    format!(
        "{} does not answer: {} hangs since {}; bring its server back, or unmount it (`umount -l`). It is asked again \
         once it answers",
        path.display(),
        hanging.place.display(),
        hanging.since
    )
}

/// Characters of a path in a message.
const PATH_SHOWN: usize = 300;

fn unreadable(path: &Path, error: &Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "; give the agent CAP_DAC_READ_SEARCH",
        ErrorKind::InvalidFilename => {
            "; directories lie within each other deeper than a path can say (4096 bytes): move them up"
        }
        _ => "",
    };
    let shown = path.display().to_string();
    let shown = match shown.char_indices().nth(PATH_SHOWN) {
        Some((end, _)) => format!("{}... (a path of {} bytes)", &shown[..end], shown.len()),
        None => shown,
    };
    format!("{shown} can't be read: {error}{remedy}")
}

fn place(path: &Path, progress: &Progress) -> Result<Place, Error> {
    let real = resolve(path, progress)?;
    let about = std::fs::symlink_metadata(&real)?;
    Ok(Place { real, uid: about.uid(), gid: about.gid() })
}

/// The path without links, as `canonicalize` has it; each step is touched before it is looked at, so that it is known
/// where it hangs.
fn resolve(path: &Path, progress: &Progress) -> Result<PathBuf, Error> {
    let mut real = PathBuf::from("/");
    let mut left: Vec<OsString> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => real = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(real.pop()),
            Some(Component::Normal(name)) => {
                let next = real.join(name);
                progress.touch(&next)?;
                if std::fs::symlink_metadata(&next)?.is_symlink() {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::other("too many links"));
                    }
                    let to = std::fs::read_link(&next)?;
                    left.extend(to.components().rev().map(|part| part.as_os_str().to_owned()));
                } else {
                    real = next;
                }
            }
            _ => {}
        }
    }
    Ok(real)
}

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

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
