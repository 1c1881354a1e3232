//! Finds cgroup hierarchies under a root, and the groups in them that the configuration asks for.
//!
//! A host has one of three shapes: version 2 alone (`<root>/cgroup.controllers`), version 1 (one directory a
//! controller), or both (`<root>/unified` beside them). Here a group is a relative path, and the directories that it
//! has in each hierarchy. Nothing is read from a group here.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::host::Host;
use super::parse;
use crate::collectors::find::Globbed;
use crate::collectors::{Bearing, CollectorError, Problem, SeriesFilter};
use crate::metering::reading::Labels;

/// The version 1 controllers that measure something.
const CONTROLLERS: [&str; 4] = ["cpuacct", "memory", "blkio", "pids"];

/// The hierarchy in which systemd keeps every unit on a version 1 host, accounted or not.
const SYSTEMD: &str = "systemd";

/// Which groups to read: one entry of `slices`.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// The root itself (`.`).
    Root,
    /// The agent's own group (`self`).
    Own,
    /// A glob of relative paths, and how it is written.
    Glob(String, Globbed),
}

impl Wanted {
    /// Reads an entry of `slices`.
    pub(super) fn parse(text: &str) -> Result<Wanted, String> {
        let pattern = text.trim_end_matches('/');
        match pattern {
            "." => return Ok(Wanted::Root),
            "self" => return Ok(Wanted::Own),
            "" => return Err("is empty: write a glob such as user.slice/user-*.slice, or `.`".to_owned()),
            _ => {}
        }
        let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
        if !Path::new(pattern).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(format!("`{text}` must be relative to `root`, without a leading / and without .."));
        }
        let glob = Globbed::new(pattern, true)?;
        Ok(Wanted::Glob(pattern.to_owned(), glob))
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Wanted::Root => ".",
            Wanted::Own => "self",
            Wanted::Glob(pattern, _) => pattern,
        }
    }
}

/// The hierarchies under one root.
#[derive(Debug)]
pub(super) struct Hierarchies {
    v2: Option<PathBuf>,
    /// By controller, and by `systemd`.
    v1: BTreeMap<&'static str, PathBuf>,
}

/// One group, and where it is in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Group {
    /// The path relative to the root, exactly as the file system has it; `.` and `self` stand for themselves.
    pub(super) path: String,
    pub(super) v2: Option<PathBuf>,
    pub(super) v1: BTreeMap<&'static str, PathBuf>,
}

impl Group {
    /// Whether version 2 keeps its processor time (the root's own it keeps only in newer kernels).
    pub(super) fn v2_counts_cpu(&self) -> bool {
        self.v2.as_ref().is_some_and(|dir| dir.join("cpu.stat").exists())
    }
}

/// The groups found, and what there is to say about the search.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

impl Hierarchies {
    /// Looks at what is mounted at `root`.
    pub(super) fn at(root: &Path) -> Result<Hierarchies, CollectorError> {
        let entries = std::fs::read_dir(root).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::NotFound => "mount the cgroup file system there, or say in `root` where it is",
                ErrorKind::PermissionDenied => "let the agent's user read it",
                _ => "`root` must be the directory at which the cgroup file system is mounted",
            };
            CollectorError(format!("{} can't be read: {error}; {remedy}", root.display()))
        })?;
        if root.join("cgroup.controllers").exists() {
            return Ok(Hierarchies { v2: Some(root.to_owned()), v1: BTreeMap::new() });
        }
        // Two controllers may share a hierarchy (`cpu,cpuacct`), often with links from their single names to it.
        // A directory that has exactly the name comes first, so that the choice never depends on their order.
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (name.contains(','), name.clone()));
        let hierarchy = |wanted: &str| {
            let holds = |name: &&String| name.split(',').any(|controller| controller == wanted);
            let is_cgroup = |dir: &PathBuf| dir.join("cgroup.procs").exists();
            names.iter().filter(holds).map(|name| root.join(name)).find(is_cgroup)
        };
        let v1: BTreeMap<_, _> = CONTROLLERS
            .into_iter()
            .chain([SYSTEMD])
            .filter_map(|controller| Some((controller, hierarchy(controller)?)))
            .collect();
        let unified = root.join("unified");
        let v2 = unified.join("cgroup.controllers").exists().then_some(unified);
        if v2.is_none() && v1.is_empty() {
            return Err(CollectorError(format!(
                "{} is no cgroup file system: it has neither cgroup.controllers (version 2) nor a directory such as \
                 cpuacct or memory (version 1); say in `root` where it is mounted",
                root.display()
            )));
        }
        Ok(Hierarchies { v2, v1 })
    }

    /// Whether both versions may keep the processor time of a group.
    pub(super) fn both_count_cpu(&self) -> bool {
        self.v2.is_some() && self.v1.contains_key("cpuacct")
    }

    /// Every hierarchy that can list groups: `None` is version 2.
    fn each(&self) -> impl Iterator<Item = (Option<&'static str>, &PathBuf)> {
        let v1 = self.v1.iter().map(|(controller, dir)| (Some(*controller), dir));
        self.v2.iter().map(|dir| (None, dir)).chain(v1)
    }

    /// The groups that `wanted` asks for, each once.
    pub(super) fn find(&self, wanted: &[Wanted], host: &Host) -> Found {
        let mut found = Found::default();
        for one in wanted {
            match one {
                Wanted::Root => {
                    let root = self.group(".", |_, dir| Some(dir.to_owned()));
                    found.groups.insert(root.path.clone(), root);
                }
                Wanted::Own => match self.own(host) {
                    Ok(own) => drop(found.groups.insert(own.path.clone(), own)),
                    Err(text) => {
                        let bears_on = Bearing::label("path", one.text());
                        found.problems.push(Problem { text, bears_on });
                    }
                },
                Wanted::Glob(pattern, glob) => self.find_glob(pattern, glob, &mut found),
            }
        }
        found.notes.extend(nested(&found.groups));
        found
    }

    fn find_glob(&self, pattern: &str, glob: &Globbed, found: &mut Found) {
        let mut none = true;
        for (controller, dir) in self.each() {
            let matches = glob.find(dir, &mut |_| Ok(()));
            for place in matches.directories {
                let Some(path) = place.strip_prefix(dir).ok().and_then(Path::to_str) else { continue };
                let group = found.groups.entry(path.to_owned()).or_default();
                path.clone_into(&mut group.path);
                none = false;
                match controller {
                    None => group.v2 = Some(place),
                    Some(controller) => drop(group.v1.insert(controller, place)),
                }
            }
            for path in matches.odd {
                let text = format!("{} is left out: its name is not UTF-8; rename it", path.display());
                found.problems.push(Problem { text, bears_on: Bearing::nothing() });
            }
            for (path, error) in matches.failed {
                let text =
                    format!("{} can't be searched: {error}; let the agent's user read it", path.display());
                let relative = path.strip_prefix(dir).ok().and_then(Path::to_str).unwrap_or_default();
                found.problems.push(Problem { text, bears_on: below(relative) });
            }
        }
        if none {
            found.notes.push(format!(
                "`{pattern}` matches no group now: nobody is there, or the name is another (systemd-cgls shows them)"
            ));
        }
    }

    /// The agent's own group. Inside a container the hierarchy's root is that group, whatever path the host has
    /// for it; so a path that is not there means the root.
    fn own(&self, host: &Host) -> Result<Group, String> {
        let text = std::fs::read_to_string(&host.proc_self_cgroup)
            .map_err(|error| format!("{} can't be read: {error}", host.proc_self_cgroup.display()))?;
        let outside = text
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .any(|path| Path::new(path).components().any(|part| part == Component::ParentDir));
        if outside {
            return Err(format!(
                "`self`: {} names a group outside of what is mounted here; name the group in `slices`, and mount \
                 the host's cgroup file system at `root`",
                host.proc_self_cgroup.display()
            ));
        }
        Ok(self.group("self", |controller, dir| {
            let controller = controller.map(|name| if name == SYSTEMD { "name=systemd" } else { name });
            let path = parse::own_group(&text, controller)?;
            let own = dir.join(path.trim_start_matches('/'));
            Some(if own.is_dir() { own } else { dir.to_owned() })
        }))
    }

    fn group(&self, path: &str, place: impl Fn(Option<&'static str>, &Path) -> Option<PathBuf>) -> Group {
        let mut group = Group { path: path.to_owned(), ..Group::default() };
        for (controller, dir) in self.each() {
            let Some(dir) = place(controller, dir).filter(|dir| dir.is_dir()) else { continue };
            match controller {
                None => group.v2 = Some(dir),
                Some(controller) => drop(group.v1.insert(controller, dir)),
            }
        }
        group
    }
}

/// The groups below a path, and at it.
fn below(path: &str) -> Bearing {
    if path.is_empty() {
        return Bearing::All;
    }
    let at = SeriesFilter {
        labels: Labels::from([("path".to_owned(), path.to_owned())]),
        ..SeriesFilter::default()
    };
    let prefixes = Labels::from([("path".to_owned(), format!("{path}/"))]);
    Bearing::Some(vec![at, SeriesFilter { prefixes, ..SeriesFilter::default() }])
}

/// A note if a group is listed beside one that holds it: the outer one's numbers contain the inner one's.
fn nested(groups: &BTreeMap<String, Group>) -> Option<String> {
    let mut pairs = groups.keys().filter_map(|inner| {
        let above = Path::new(inner).ancestors().skip(1).filter_map(Path::to_str);
        // The path of the root is `.`; the last of the ancestors is empty.
        let outer = above.map(|outer| if outer.is_empty() { "." } else { outer });
        let outer = outer.filter(|outer| outer != inner && groups.contains_key(*outer)).last()?;
        Some((outer.to_owned(), inner))
    });
    let (outer, inner) = pairs.next()?;
    let more = match pairs.count() {
        0 => String::new(),
        more => format!(" (and {more} more like it)"),
    };
    Some(format!(
        "`{inner}` is listed beside `{outer}`, which holds it{more}: its usage is counted twice wherever both are \
         added up; narrow the glob, or tell them apart by `path`"
    ))
}
