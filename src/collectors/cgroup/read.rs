//! Reads the files of one group into readings.
//!
//! Each number has one place where it is looked for first, and one or two that stand in for it on other hosts. A
//! file that is not there is a controller that is off; a group that goes away while it is read is gone, and what was
//! read of it until then counts. Anything else that goes wrong is a problem with the path in it, never a zero, and costs
//! nothing but the readings of that file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::errno::Errno;
use rust_decimal::Decimal;

use super::hierarchy::Group;
use super::host::Host;
use super::parse::{self, Devices, Transfers, Wrong};
use crate::collectors::{Batch, Bearing};
use crate::metering::reading::{Epoch, Kind, Labels, Reading};

/// More than the kernel ever writes into one of these files.
const MAX_FILE: usize = 16 * 1024 * 1024;
/// Most of them fit.
const SMALL_FILE: usize = 16 * 1024;

/// What is looked for in a group, and what to say of a host that does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Cpu,
    Memory,
    Io,
    Tasks,
    Processes,
}

/// Every source, with the readings that are made of it.
const SOURCES: [(Source, &[&str]); 5] = [
    (Source::Cpu, &["cpu_seconds", "cpu_user_seconds", "cpu_system_seconds"]),
    (Source::Memory, &["memory_bytes", WORKING_SET]),
    (Source::Io, &["io_read_bytes", "io_write_bytes", "io_read_ops", "io_write_ops"]),
    (Source::Tasks, &["tasks"]),
    (Source::Processes, &["processes"]),
];

const WORKING_SET: &str = "memory_working_set_bytes";

impl Source {
    /// For a note: what is missing, and how to turn it on.
    pub(super) fn absent(self) -> &'static str {
        match self {
            Source::Cpu => "no cpu.stat (cpuacct.usage in version 1): set CPUAccounting=yes for their units",
            Source::Memory => {
                "no memory.current (memory.usage_in_bytes in version 1): set MemoryAccounting=yes for their units"
            }
            Source::Io => {
                "no io.stat (blkio.throttle.io_service_bytes_recursive in version 1): set IOAccounting=yes for \
                 their units"
            }
            Source::Tasks => "no pids.current: set TasksAccounting=yes for their units",
            Source::Processes => "no cgroup.procs",
        }
    }

    /// The file of it that a group lacks though the kernel keeps it there: it is away for a moment, or the group is odd.
    /// `None` where its controller is off.
    fn missing_of(self, group: &Group) -> Option<PathBuf> {
        let (v2, v1) = match self {
            Source::Cpu => (("", "cpu.stat"), Some(("cpuacct", "cpuacct.usage"))),
            Source::Memory => (("memory", "memory.current"), Some(("memory", "memory.usage_in_bytes"))),
            // In version 1 it depends on the scheduler of its devices.
            Source::Io => (("io", "io.stat"), None),
            Source::Tasks => (("pids", "pids.current"), Some(("pids", "pids.current"))),
            Source::Processes => (("", "cgroup.procs"), None),
        };
        let dir = group.v2.as_ref();
        // The root of all groups has only some of them.
        let is_root = |dir: &Path| [".", "self"].contains(&&*group.path) && !dir.join("cgroup.type").exists();
        if let Some(dir) = dir.filter(|dir| !is_root(dir) && is_on(dir, v2.0)) {
            return Some(dir.join(v2.1));
        }
        let (controller, file) = v1?;
        let dir = group.v1.get(controller).filter(|_| ![".", "self"].contains(&&*group.path))?;
        Some(dir.join(file))
    }
}

/// Whether a controller of version 2 keeps its files in a group; what has no controller always does.
fn is_on(dir: &Path, controller: &str) -> bool {
    let listed = dir.ancestors().find_map(|dir| std::fs::read_to_string(dir.join("cgroup.controllers")).ok());
    dir.is_dir()
        && (controller.is_empty()
            || listed.is_some_and(|listed| listed.split_ascii_whitespace().any(|on| on == controller)))
}

/// One run over the groups.
pub(super) struct Reader<'a> {
    pub(super) host: &'a Host,
    pub(super) boot: &'a str,
    pub(super) now: Timestamp,
    pub(super) batch: &'a mut Batch,
    /// The readings that are wanted; all if nobody says.
    pub(super) metered: Option<&'a BTreeSet<String>>,
    /// How many groups lack a source that is wanted.
    pub(super) absent: BTreeMap<Source, usize>,
    /// Rows of `io.stat` that are of no device that has a number.
    pub(super) unnumbered: usize,
    /// What a file is read into.
    pub(super) buffer: Vec<u8>,
    /// Devices that were looked at, and whether they rest on others.
    pub(super) resting: BTreeMap<String, bool>,
}

/// What is being read.
struct Of<'a> {
    /// What is made of it.
    readings: &'a [&'static str],
    labels: &'a Labels,
}

impl Of<'_> {
    /// What is wrong with it bears on nothing else.
    fn bears_on(&self, device: Option<&str>) -> Bearing {
        let path = self.labels.get("path").cloned().unwrap_or_default();
        let mut labels = Labels::from([("path".to_owned(), path)]);
        labels.extend(device.map(|device| ("device".to_owned(), device.to_owned())));
        Bearing::labelled(self.readings.iter().copied(), &labels)
    }
}

/// What became of one file.
enum File {
    Text(String),
    /// The controller is off, or this kernel has no such file.
    Missing,
    /// The whole group is gone.
    Gone,
    /// A problem of the run, already told.
    Failed,
}

impl Reader<'_> {
    /// Reads everything there is of one group. `cpu_in_v2`: where its processor time is to be taken from.
    pub(super) fn group(&mut self, group: &Group, labels: &Labels, cpu_in_v2: bool) {
        let v1 = |controller: &str| group.v1.get(controller).map(|dir| dir.as_path());
        let v2 = group.v2.as_deref();
        for (source, readings) in SOURCES {
            if !readings.iter().any(|reading| self.wants(reading)) {
                continue;
            }
            let of = Of { readings, labels };
            let there = match (source, cpu_in_v2, v2) {
                (Source::Cpu, true, Some(dir)) => self.cpu_v2(dir, &of),
                // Version 2 had it, and has let go of it: the group is on its way out.
                (Source::Cpu, true, None) => true,
                (Source::Cpu, false, _) => v1("cpuacct").is_some_and(|dir| self.cpu_v1(dir, &of)),
                (Source::Memory, ..) => {
                    v2.is_some_and(|dir| self.memory(dir, ["memory.current", "inactive_file"], &of))
                        || v1("memory").is_some_and(|dir| {
                            self.memory(dir, ["memory.usage_in_bytes", "total_inactive_file"], &of)
                        })
                }
                (Source::Io, ..) => {
                    v2.is_some_and(|dir| self.io_v2(dir, &of))
                        || v1("blkio").is_some_and(|dir| self.io_v1(dir, &of))
                }
                (Source::Tasks, ..) => {
                    v2.is_some_and(|dir| self.tasks(dir, &of))
                        || v1("pids").is_some_and(|dir| self.tasks(dir, &of))
                }
                (Source::Processes, ..) => {
                    let listed = v2.or_else(|| v1("pids"));
                    let listed = listed.or_else(|| group.v1.values().next().map(|dir| dir.as_path()));
                    listed.is_none_or(|dir| self.processes(dir, &of))
                }
            };
            if there {
                continue;
            }
            match source.missing_of(group) {
                Some(path) => {
                    let text = format!(
                        "{} is missing, though its group is there and the kernel keeps it for that group: nothing is \
                         concluded, and its last amount stands",
                        path.display()
                    );
                    self.problem(text, &of, None);
                }
                None => *self.absent.entry(source).or_default() += 1,
            }
        }
    }

    fn wants(&self, reading: &str) -> bool {
        self.metered.is_none_or(|metered| metered.contains(reading))
    }

    /// A problem with what is being read: it bears on nothing else.
    fn problem(&mut self, text: String, of: &Of<'_>, device: Option<&str>) {
        self.batch.problem_of(text, of.bears_on(device));
    }

    /// `true` if the source is there, even if it could not be read: then no other may stand in for it, whose numbers
    /// would be another life of the same series.
    fn cpu_v2(&mut self, dir: &Path, of: &Of<'_>) -> bool {
        let text = match self.file(dir, "cpu.stat", of) {
            File::Text(text) => text,
            File::Missing => return false,
            File::Gone | File::Failed => return true,
        };
        let epoch = self.epoch(dir);
        for (key, name) in [
            ("usage_usec", "cpu_seconds"),
            ("user_usec", "cpu_user_seconds"),
            ("system_usec", "cpu_system_seconds"),
        ] {
            if !self.wants(name) {
                continue;
            }
            match parse::keyed(&text, key) {
                Ok(Some(count)) => self.counter(name, parse::seconds(count, 6), "s", of.labels, &epoch),
                Ok(None) => {}
                Err(wrong) => {
                    let of = Of { readings: &[name], labels: of.labels };
                    self.wrong(dir, "cpu.stat", wrong, &of, None);
                }
            }
        }
        true
    }

    fn cpu_v1(&mut self, dir: &Path, of: &Of<'_>) -> bool {
        let epoch = self.epoch(dir);
        let mut there = false;
        for (file, name) in [
            ("cpuacct.usage", "cpu_seconds"),
            ("cpuacct.usage_user", "cpu_user_seconds"),
            ("cpuacct.usage_sys", "cpu_system_seconds"),
        ] {
            there |= self.number(dir, file, of, |reader, count| {
                reader.counter(name, parse::seconds(count, 9), "s", of.labels, &epoch);
            });
        }
        there
    }

    /// Memory, and the working set as Kubernetes and cAdvisor count it: without the file cache that can be dropped.
    fn memory(&mut self, dir: &Path, [file, cache_key]: [&str; 2], of: &Of<'_>) -> bool {
        let mut used = None;
        let there = self.number(dir, file, of, |reader, bytes| {
            used = Some(bytes);
            reader.gauge("memory_bytes", bytes, "B", of.labels);
        });
        let Some(used) = used.filter(|_| self.wants(WORKING_SET)) else { return there };
        let of = Of { readings: &[WORKING_SET], labels: of.labels };
        match self.file(dir, "memory.stat", &of) {
            File::Text(text) => match parse::keyed(&text, cache_key) {
                // The two files are read one after the other, so the cache may look larger than the whole.
                Ok(Some(cache)) => self.gauge(WORKING_SET, used.saturating_sub(cache), "B", of.labels),
                Ok(None) if self.metered.is_some() => {
                    let why = format!("it has no `{cache_key}`, which {WORKING_SET} needs");
                    self.wrong(dir, "memory.stat", Wrong::Malformed(why), &of, None);
                }
                Ok(None) => {}
                Err(wrong) => self.wrong(dir, "memory.stat", wrong, &of, None),
            },
            File::Missing if self.metered.is_some() => {
                let text =
                    format!("{} is missing, which {WORKING_SET} needs", dir.join("memory.stat").display());
                self.problem(text, &of, None);
            }
            File::Missing | File::Gone | File::Failed => {}
        }
        there
    }

    fn io_v2(&mut self, dir: &Path, of: &Of<'_>) -> bool {
        let text = match self.file(dir, "io.stat", of) {
            File::Text(text) => text,
            File::Missing => return false,
            File::Gone | File::Failed => return true,
        };
        let devices = self.devices(dir, "io.stat", parse::io_stat(&text), of);
        self.transfers(dir, devices, of);
        true
    }

    /// Tells what is odd in a file about devices.
    fn devices(&mut self, dir: &Path, file: &str, stat: parse::IoStat, of: &Of<'_>) -> Devices {
        self.unnumbered += stat.unnumbered;
        for (device, wrong) in stat.odd {
            self.wrong(dir, file, wrong, of, device.as_deref());
        }
        stat.devices
    }

    fn io_v1(&mut self, dir: &Path, of: &Of<'_>) -> bool {
        let mut devices = Devices::new();
        let mut there = false;
        for (file, is_bytes) in
            [("blkio.throttle.io_service_bytes", true), ("blkio.throttle.io_serviced", false)]
        {
            let mut name = format!("{file}_recursive");
            let mut text = self.file(dir, &name, of);
            // Without the recursive file, the plain one is the whole truth only of a group that holds no other.
            if matches!(text, File::Missing) && !has_children(dir) {
                name = file.to_owned();
                text = self.file(dir, &name, of);
            }
            let counts = match text {
                File::Text(text) => parse::blkio(&text, is_bytes),
                File::Missing => continue,
                File::Gone | File::Failed => {
                    there = true;
                    continue;
                }
            };
            there = true;
            for (device, transfers) in self.devices(dir, &name, counts, of) {
                devices.entry(device).or_default().join(transfers);
            }
        }
        self.transfers(dir, devices, of);
        there
    }

    /// A series a device. Their sum would fall when a device is taken away, which looks like a counter that started
    /// anew, and would be billed again.
    fn transfers(&mut self, dir: &Path, devices: Devices, of: &Of<'_>) {
        if devices.is_empty() {
            return;
        }
        let epoch = self.epoch(dir);
        for (device, transfers) in devices {
            if self.rests_on_others(&device) {
                continue;
            }
            let mut labels = of.labels.clone();
            labels.insert("device".to_owned(), device);
            let Transfers { read_bytes, write_bytes, read_ops, write_ops } = transfers;
            for (name, unit, count) in [
                ("io_read_bytes", "B", read_bytes),
                ("io_write_bytes", "B", write_bytes),
                ("io_read_ops", "1", read_ops),
                ("io_write_ops", "1", write_ops),
            ] {
                if let Some(count) = count {
                    self.counter(name, Decimal::from(count), unit, &labels, &epoch);
                }
            }
        }
    }

    /// Whether a device hands its transfers on to others (LVM, RAID, encryption, loop): they are counted there.
    fn rests_on_others(&mut self, device: &str) -> bool {
        if let Some(known) = self.resting.get(device) {
            return *known;
        }
        let about = self.host.sys_dev_block.join(device);
        let rests = about.join("loop").exists()
            || std::fs::read_dir(about.join("slaves")).is_ok_and(|mut below| below.next().is_some());
        self.resting.insert(device.to_owned(), rests);
        rests
    }

    fn tasks(&mut self, dir: &Path, of: &Of<'_>) -> bool {
        self.number(dir, "pids.current", of, |reader, count| reader.gauge("tasks", count, "1", of.labels))
    }

    /// Processes of the group and of all groups in it, each once.
    fn processes(&mut self, dir: &Path, of: &Of<'_>) -> bool {
        let mut pids = BTreeSet::new();
        for entry in walkdir::WalkDir::new(dir) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if error.io_error().is_some_and(is_gone) => continue,
                Err(error) => {
                    let text = format!("{error}; let the agent's user read {}", dir.display());
                    self.problem(text, of, None);
                    return true;
                }
            };
            if !entry.file_type().is_dir() {
                continue;
            }
            match self.file(entry.path(), "cgroup.procs", of) {
                File::Text(text) => pids.extend(text.lines().map(str::to_owned)),
                // A threaded group has the file, which does not list what the group above does.
                File::Missing if entry.depth() == 0 => return entry.path().join("cgroup.procs").exists(),
                File::Gone if entry.depth() == 0 => return true,
                File::Missing | File::Gone => {}
                File::Failed => return true,
            }
        }
        // A process may have moved while the groups were read; a set of their ids still has each only once.
        self.gauge("processes", pids.len() as u64, "1", of.labels);
        true
    }

    fn number(&mut self, dir: &Path, file: &str, of: &Of<'_>, then: impl FnOnce(&mut Self, u64)) -> bool {
        match self.file(dir, file, of) {
            File::Text(text) => match parse::number(&text) {
                Ok(number) => then(self, number),
                Err(wrong) => self.wrong(dir, file, wrong, of, None),
            },
            File::Missing => return false,
            File::Gone | File::Failed => {}
        }
        true
    }

    fn file(&mut self, dir: &Path, name: &str, of: &Of<'_>) -> File {
        let path = dir.join(name);
        match self.text_of(&path) {
            Ok(text) => File::Text(text),
            Err(error) if is_gone(&error) => {
                if dir.is_dir() {
                    File::Missing
                } else {
                    File::Gone
                }
            }
            // What a threaded group answers to being asked for its processes.
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => File::Missing,
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::PermissionDenied => {
                        "; let the agent's user read it (a security module may forbid it)"
                    }
                    _ => "",
                };
                self.problem(format!("{} can't be read: {error}{remedy}", path.display()), of, None);
                File::Failed
            }
        }
    }

    /// The whole of a small file. It is read in one go: what the kernel writes would be another thing a moment later.
    fn text_of(&mut self, path: &Path) -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                if filled >= MAX_FILE {
                    return Err(std::io::Error::other("it is longer than 16 MiB"));
                }
                self.buffer.resize((2 * filled).max(SMALL_FILE), 0);
            }
            match file.read(&mut self.buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        match std::str::from_utf8(&self.buffer[..filled]) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(std::io::Error::new(ErrorKind::InvalidData, error)),
        }
    }

    /// Tells of a number that is none: one that can't be is quarantined, as a line of another source would be.
    fn wrong(&mut self, dir: &Path, file: &str, wrong: Wrong, of: &Of<'_>, device: Option<&str>) {
        let path = dir.join(file);
        match wrong {
            Wrong::Malformed(why) => {
                self.problem(format!("{}: {why}; please report this", path.display()), of, device);
            }
            Wrong::Impossible(why) => {
                let bears_on = of.bears_on(device);
                self.batch.quarantine_of(&path.display().to_string(), why, bears_on);
            }
        }
    }

    /// Which life of a group a counter belongs to. The kernel gives each group an inode number of its own, and starts
    /// over at boot.
    fn epoch(&self, dir: &Path) -> Epoch {
        let inode = std::fs::metadata(dir).map(|about| about.ino());
        Epoch { id: inode.ok().map(|inode| format!("{}/{inode}", self.boot)), ..Epoch::default() }
    }

    fn counter(&mut self, name: &str, value: Decimal, unit: &str, labels: &Labels, epoch: &Epoch) {
        if !self.wants(name) {
            return;
        }
        let mut reading = Reading::new(name, Kind::Counter, value, self.now).unit(unit);
        reading.labels = labels.clone();
        reading.epoch = epoch.clone();
        self.batch.push(reading);
    }

    fn gauge(&mut self, name: &str, value: u64, unit: &str, labels: &Labels) {
        if !self.wants(name) {
            return;
        }
        let mut reading = Reading::new(name, Kind::Gauge, Decimal::from(value), self.now).unit(unit);
        reading.labels = labels.clone();
        self.batch.push(reading);
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

fn has_children(dir: &Path) -> bool {
    // A directory that can't be listed may well hold others: what it says of itself is then not enough.
    let Ok(mut entries) = std::fs::read_dir(dir) else { return true };
    entries.any(|entry| entry.and_then(|entry| entry.file_type()).is_ok_and(|kind| kind.is_dir()))
}
