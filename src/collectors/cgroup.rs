//! Reads what groups of processes use (users' slices, services, a container) from the files that the kernel keeps
//! about control groups: processor time, memory, input and output, processes. Version 2, version 1, and both at once.
//!
//! It only reads. It never makes, moves or limits a group, and what a host does not measure it does not make up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::blocking::{self, Stop};
use super::names::{Names, OfRun};
use super::{Batch, Bearing, Collector, CollectorError, Offered, Plugin, Request, Running};
use crate::config::section::Section;
use crate::metering::reading::{Kind, Labels};
use hierarchy::{Group, Hierarchies, Wanted};
use host::Host;
use read::Reader;

mod hierarchy;
mod host;
mod parse;
mod read;

pub const PLUGIN: Plugin = Plugin {
    name: "cgroup",
    about: "processor time, memory, I/O and processes of slices, services or the own container",
    is_shared: false,
    build,
};

const OFFERS: &[Offered] = &[
    Offered { name: "cpu_seconds", kind: Kind::Counter, unit: "s" },
    Offered { name: "cpu_user_seconds", kind: Kind::Counter, unit: "s" },
    Offered { name: "cpu_system_seconds", kind: Kind::Counter, unit: "s" },
    Offered { name: "memory_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "memory_working_set_bytes", kind: Kind::Gauge, unit: "B" },
    Offered { name: "io_read_bytes", kind: Kind::Counter, unit: "B" },
    Offered { name: "io_write_bytes", kind: Kind::Counter, unit: "B" },
    Offered { name: "io_read_ops", kind: Kind::Counter, unit: "1" },
    Offered { name: "io_write_ops", kind: Kind::Counter, unit: "1" },
    Offered { name: "tasks", kind: Kind::Gauge, unit: "1" },
    Offered { name: "processes", kind: Kind::Gauge, unit: "1" },
];

const LABELS: &[&str] = &["path", "slice", "unit", "uid", "user"];

/// A configured collector.
#[derive(Debug)]
struct Cgroup {
    sight: Arc<Sight>,
}

/// Everything a run needs on its blocking thread.
#[derive(Debug)]
struct Sight {
    root: PathBuf,
    wanted: Vec<Wanted>,
    host: Host,
    names: Names,
    /// The readings that meters ask for; nothing else is read. Everything is where nobody says.
    metered: Option<BTreeSet<String>>,
    /// Groups whose processor time was taken from version 2 while they were there. While both versions know a
    /// group, it is removed from one before the other; the other's count must not then pass for a new life.
    cpu_in_v2: Mutex<BTreeSet<String>>,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let root = section.parse_with("root", |text| {
        let root = PathBuf::from(text);
        if root.is_absolute() { Ok(root) } else { Err(format!("`{text}` must be an absolute path")) }
    });
    let slices = section.texts("slices");
    if slices.as_ref().is_none_or(|slices| slices.is_empty()) {
        section.problem(
            "",
            "`slices` is missing: which groups to read, such as user.slice/user-*.slice, or `.` for a container's own",
        );
        return None;
    }
    let mut wanted = Vec::new();
    for text in slices.unwrap_or_default() {
        match Wanted::parse(&text) {
            Ok(one) => wanted.push(one),
            Err(why) => section.problem("slices", why),
        }
    }
    let root = root.unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"));
    let metered: BTreeSet<String> = section.peek_each("meters", "reading").into_iter().collect();
    let metered = Some(metered).filter(|metered| !metered.is_empty());
    Some(Box::new(Cgroup::new(root, wanted, Host::default(), metered)))
}

impl Cgroup {
    fn new(root: PathBuf, wanted: Vec<Wanted>, host: Host, metered: Option<BTreeSet<String>>) -> Self {
        let (names, cpu_in_v2) = (Names::default(), Mutex::default());
        let sight = Sight { root, wanted, host, names, metered, cpu_in_v2 };
        Cgroup { sight: Arc::new(sight) }
    }
}

impl Collector for Cgroup {
    fn offers(&self) -> &[Offered] {
        OFFERS
    }

    fn labels(&self) -> &[&'static str] {
        LABELS
    }

    fn scope(&self) -> String {
        let wanted: BTreeSet<&str> = self.sight.wanted.iter().map(Wanted::text).collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        // A reading that nobody asked for before is no new life where it is first seen.
        let metered = self.sight.metered.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        format!("{} {} {metered}", self.sight.root.display(), wanted.join(" "))
    }

    fn collect(&self, request: Request) -> Running<'_> {
        let sight = self.sight.clone();
        Box::pin(blocking::run(move |stop| sight.look(&request, stop)))
    }
}

impl Sight {
    fn look(&self, request: &Request, stop: &Stop) -> Result<Batch, CollectorError> {
        let hierarchies = Hierarchies::at(&self.root)?;
        let found = hierarchies.find(&self.wanted, &self.host);
        let mut batch = Batch {
            problems: found.problems,
            notes: found.notes,
            lists_everything: true,
            ..Batch::default()
        };
        // Without a boot id (a test's tree), the inode alone tells lives apart.
        let boot = std::fs::read_to_string(&self.host.boot_id).unwrap_or_default();
        let cpu_in_v2 = hierarchies.both_count_cpu().then(|| self.choose_cpu(&found.groups));
        let mut reader = Reader {
            host: &self.host,
            boot: boot.trim(),
            now: request.now,
            batch: &mut batch,
            metered: self.metered.as_ref(),
            absent: BTreeMap::new(),
            unnumbered: 0,
            buffer: Vec::new(),
            resting: BTreeMap::new(),
        };
        let names = self.names.of_run();
        for group in found.groups.values() {
            stop.check()?;
            match labels_of(group, &names) {
                Ok(labels) => {
                    let in_v2 =
                        cpu_in_v2.as_ref().map_or(group.v2.is_some(), |paths| paths.contains(&group.path));
                    reader.group(group, &labels, in_v2);
                }
                Err(problem) => {
                    let bears_on = Bearing::label("path", &group.path);
                    reader.batch.problem_of(format!("{}: {problem}", group.path), bears_on);
                }
            }
        }
        let (absent, unnumbered) = (std::mem::take(&mut reader.absent), reader.unnumbered);
        if unnumbered > 0 {
            batch.notes.push(format!(
                "io.stat has {unnumbered} rows of devices without a number, which are left out: what goes through a \
                 hidden path of a multipath device is counted at the device"
            ));
        }
        for (source, count) in absent {
            batch.notes.push(format!("{count} of {} groups have {}", found.groups.len(), source.absent()));
        }
        Ok(batch)
    }

    /// Which groups have their processor time read from version 2: those that are there, and those that were.
    fn choose_cpu(&self, groups: &BTreeMap<String, Group>) -> BTreeSet<String> {
        let mut before = self.cpu_in_v2.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let chosen: BTreeSet<String> = groups
            .values()
            .filter(|group| group.v2_counts_cpu() || before.contains(&group.path))
            .map(|group| group.path.clone())
            .collect();
        *before = chosen.clone();
        chosen
    }
}

/// `path` is exactly what the file system says, because it must tell any two groups apart; `slice` and `unit` are for
/// people, without systemd's escapes.
fn labels_of(group: &Group, names: &OfRun<'_>) -> Result<Labels, String> {
    let mut labels = Labels::new();
    let path = &group.path;
    let unit = path.rsplit('/').next().unwrap_or(path);
    labels.insert("path".to_owned(), path.clone());
    labels.insert("unit".to_owned(), parse::unescape(unit));
    if let Some(slice) = path.split('/').rfind(|part| part.ends_with(".slice")) {
        labels.insert("slice".to_owned(), parse::unescape(slice));
    }
    if let Some(uid) = parse::uid_in(path) {
        labels.insert("uid".to_owned(), uid.to_string());
        labels.insert("user".to_owned(), names.user(uid)?);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests;
