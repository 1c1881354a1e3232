//! Trees of files as the kernel writes them, for the shapes that the machine at hand does not have.

use std::fs;
use std::path::Path;

use super::*;
use crate::metering::reading::Reading;

const BOOT: &str = "752311d1-854b-4071-bc6a-8d3a6cd591d8";

struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Tree {
        let tree = Tree { dir: tempfile::tempdir().unwrap() };
        tree.file("boot_id", &format!("{BOOT}\n"));
        tree.file("self_cgroup", "0::/\n");
        fs::create_dir_all(tree.path().join("cg")).unwrap();
        tree
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A version 2 group with every controller on.
    fn v2_group(&self, path: &str, usage_usec: u64) {
        let dir = format!("cg/{path}");
        self.file(&format!("{dir}/cgroup.controllers"), "cpu io memory pids\n");
        self.file(&format!("{dir}/cgroup.procs"), "");
        self.file(
            &format!("{dir}/cpu.stat"),
            &format!("usage_usec {usage_usec}\nuser_usec 3\nsystem_usec 1\n"),
        );
        self.file(&format!("{dir}/memory.current"), "1048576\n");
        self.file(&format!("{dir}/memory.stat"), "anon 1\ninactive_file 48576\n");
        self.file(&format!("{dir}/io.stat"), "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n");
        self.file(&format!("{dir}/pids.current"), "7\n");
    }

    fn collector(&self, slices: &[&str]) -> Cgroup {
        let host = Host {
            boot_id: self.path().join("boot_id"),
            proc_self_cgroup: self.path().join("self_cgroup"),
            sys_dev_block: self.path().join("block"),
        };
        let wanted = slices.iter().map(|text| Wanted::parse(text).unwrap()).collect();
        Cgroup::new(self.path().join("cg"), wanted, host, None)
    }

    async fn collect(&self, slices: &[&str]) -> Batch {
        self.collector(slices).collect(request()).await.unwrap()
    }
}

fn request() -> Request {
    let now = "2026-11-05T10:00:00Z".parse().unwrap();
    Request { now, since: now, checkpoint: None, withhold: Vec::new() }
}

fn find<'a>(batch: &'a Batch, name: &str, path: &str) -> Vec<&'a Reading> {
    batch.readings.iter().filter(|r| r.name == name && r.labels["path"] == path).collect()
}

fn value(batch: &Batch, name: &str, path: &str) -> String {
    let found = find(batch, name, path);
    assert_eq!(found.len(), 1, "{name} of {path}: {found:?}");
    found[0].value.to_string()
}

#[tokio::test]
async fn a_version_2_group_gives_every_reading_exactly() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("user.slice/user-0.slice", 297_267_932);
    tree.file("cg/user.slice/user-0.slice/cgroup.procs", "12\n");
    tree.file("cg/user.slice/user-0.slice/session-1.scope/cgroup.procs", "34\n56\n");
    let batch = tree.collect(&["user.slice/user-*.slice"]).await;

    let path = "user.slice/user-0.slice";
    let seen: Vec<(&str, Kind, String, &str)> = batch
        .readings
        .iter()
        .map(|r| (r.name.as_str(), r.kind, r.value.to_string(), r.unit.as_deref().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            ("cpu_seconds", Kind::Counter, "297.267932".to_owned(), "s"),
            ("cpu_user_seconds", Kind::Counter, "0.000003".to_owned(), "s"),
            ("cpu_system_seconds", Kind::Counter, "0.000001".to_owned(), "s"),
            ("memory_bytes", Kind::Gauge, "1048576".to_owned(), "B"),
            ("memory_working_set_bytes", Kind::Gauge, "1000000".to_owned(), "B"),
            ("io_read_bytes", Kind::Counter, "10".to_owned(), "B"),
            ("io_write_bytes", Kind::Counter, "20".to_owned(), "B"),
            ("io_read_ops", Kind::Counter, "1".to_owned(), "1"),
            ("io_write_ops", Kind::Counter, "2".to_owned(), "1"),
            ("tasks", Kind::Gauge, "7".to_owned(), "1"),
            ("processes", Kind::Gauge, "3".to_owned(), "1"),
        ]
    );
    let cpu = find(&batch, "cpu_seconds", path)[0];
    let labels: Vec<_> = cpu.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        labels,
        ["path=user.slice/user-0.slice", "slice=user-0.slice", "uid=0", "unit=user-0.slice", "user=root"]
    );
    assert!(cpu.epoch.id.as_ref().unwrap().starts_with(&format!("{BOOT}/")));
    assert_eq!(find(&batch, "memory_bytes", path)[0].epoch.id, None);
    assert_eq!(find(&batch, "io_read_bytes", path)[0].labels["device"], "8:0");
    assert!(batch.lists_everything);
    assert_eq!((batch.problems.len(), batch.notes, batch.quarantined), (0, vec![], vec![]));
}

#[tokio::test]
async fn what_a_host_does_not_measure_is_a_note_and_never_a_zero() {
    let tree = Tree::new();
    tree.file("cg/cgroup.controllers", "\n");
    for user in ["user-0.slice", "user-1.slice"] {
        tree.file(&format!("cg/user.slice/{user}/cpu.stat"), "usage_usec 5\n");
        tree.file(&format!("cg/user.slice/{user}/cgroup.procs"), "");
    }
    let batch = tree.collect(&["user.slice/user-*.slice", "machine.slice"]).await;
    let names: BTreeSet<&str> = batch.readings.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["cpu_seconds", "processes"]));
    assert!(batch.problems.is_empty(), "{:?}", batch.problems);
    assert_eq!(batch.notes.len(), 4);
    assert!(batch.notes[0].starts_with("`machine.slice` matches no group now"), "{:?}", batch.notes);
    assert!(batch.notes[1].starts_with("2 of 2 groups have no memory.current"), "{:?}", batch.notes);
    assert!(batch.notes[2].starts_with("2 of 2 groups have no io.stat"), "{:?}", batch.notes);
    assert!(batch.notes[3].starts_with("2 of 2 groups have no pids.current"), "{:?}", batch.notes);
}

#[tokio::test]
async fn text_where_a_number_belongs_is_a_problem_with_its_path() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("a.slice", 1);
    tree.file("cg/a.slice/memory.current", "lots\n");
    let batch = tree.collect(&["a.slice"]).await;
    assert_eq!(batch.problems.len(), 1);
    assert!(
        batch.problems[0].text.contains("cg/a.slice/memory.current: `lots` is not a whole number"),
        "{:?}",
        batch.problems
    );
    assert_eq!(value(&batch, "cpu_seconds", "a.slice"), "0.000001");
    assert!(find(&batch, "memory_bytes", "a.slice").is_empty());
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_a_problem_of_the_run() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("a.slice", 1);
    // A directory in the file's place fails for root as well.
    fs::remove_file(tree.path().join("cg/a.slice/cpu.stat")).unwrap();
    fs::create_dir(tree.path().join("cg/a.slice/cpu.stat")).unwrap();
    let batch = tree.collect(&["a.slice"]).await;
    assert_eq!(batch.problems.len(), 1, "{:?}", batch.problems);
    assert!(batch.problems[0].text.contains("cg/a.slice/cpu.stat can't be read"), "{:?}", batch.problems);
    assert!(find(&batch, "cpu_seconds", "a.slice").is_empty());
    assert_eq!(value(&batch, "memory_bytes", "a.slice"), "1048576");
}

fn v1_group(tree: &Tree, path: &str) {
    for controller in ["cpu,cpuacct", "memory", "blkio", "pids", "systemd"] {
        tree.file(&format!("cg/{controller}/cgroup.procs"), "");
        tree.file(&format!("cg/{controller}/{path}/cgroup.procs"), "4\n5\n");
    }
    tree.file(&format!("cg/cpu,cpuacct/{path}/cpuacct.usage"), "302440068727\n");
    tree.file(&format!("cg/cpu,cpuacct/{path}/cpuacct.usage_user"), "256256668927\n");
    tree.file(&format!("cg/cpu,cpuacct/{path}/cpuacct.usage_sys"), "41015260139\n");
    tree.file(&format!("cg/memory/{path}/memory.usage_in_bytes"), "5000\n");
    tree.file(&format!("cg/memory/{path}/memory.stat"), "inactive_file 7\ntotal_inactive_file 2000\n");
    let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n";
    tree.file(&format!("cg/blkio/{path}/blkio.throttle.io_service_bytes_recursive"), bytes);
    tree.file(
        &format!("cg/blkio/{path}/blkio.throttle.io_serviced_recursive"),
        "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
    );
    tree.file(&format!("cg/pids/{path}/pids.current"), "9\n");
}

#[tokio::test]
async fn a_version_1_group_is_put_together_from_its_hierarchies() {
    let tree = Tree::new();
    let path = "user.slice/user-0.slice";
    v1_group(&tree, path);
    // As on RHEL 8: links with the single names beside the shared hierarchy.
    std::os::unix::fs::symlink("cpu,cpuacct", tree.path().join("cg/cpuacct")).unwrap();
    std::os::unix::fs::symlink("cpu,cpuacct", tree.path().join("cg/cpu")).unwrap();
    let batch = tree.collect(&["user.slice/user-*.slice"]).await;
    let seen: Vec<String> = batch.readings.iter().map(|r| format!("{} {}", r.name, r.value)).collect();
    assert_eq!(
        seen,
        [
            "cpu_seconds 302.440068727",
            "cpu_user_seconds 256.256668927",
            "cpu_system_seconds 41.015260139",
            "memory_bytes 5000",
            "memory_working_set_bytes 3000",
            "io_read_bytes 4096",
            "io_write_bytes 8192",
            "io_read_ops 1",
            "io_write_ops 2",
            "tasks 9",
            "processes 2",
        ]
    );
    assert_eq!((batch.problems.len(), batch.notes), (0, vec![]));
}

#[tokio::test]
async fn without_a_recursive_file_only_a_group_that_holds_no_other_tells_its_transfers() {
    let tree = Tree::new();
    v1_group(&tree, "a.slice");
    let dir = tree.path().join("cg/blkio/a.slice");
    for file in ["blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"] {
        fs::rename(dir.join(format!("{file}_recursive")), dir.join(file)).unwrap();
    }
    assert_eq!(value(&tree.collect(&["a.slice"]).await, "io_read_bytes", "a.slice"), "4096");
    fs::create_dir(dir.join("inner.scope")).unwrap();
    let batch = tree.collect(&["a.slice"]).await;
    assert!(find(&batch, "io_read_bytes", "a.slice").is_empty());
    assert!(batch.notes[0].starts_with("1 of 1 groups have no io.stat"), "{:?}", batch.notes);
}

/// A hybrid host: version 1 controllers, and version 2 at `unified`, both knowing the group.
fn hybrid(tree: &Tree, path: &str) {
    v1_group(tree, path);
    tree.file("cg/unified/cgroup.controllers", "\n");
    tree.file(&format!("cg/unified/{path}/cpu.stat"), "usage_usec 44000000\nuser_usec 1\nsystem_usec 1\n");
}

#[tokio::test]
async fn on_a_hybrid_host_version_2_is_preferred_where_it_counts() {
    let tree = Tree::new();
    hybrid(&tree, "a.slice");
    let batch = tree.collect(&["a.slice"]).await;
    assert_eq!(value(&batch, "cpu_seconds", "a.slice"), "44.000000");
    assert_eq!(value(&batch, "memory_bytes", "a.slice"), "5000");
    assert_eq!(batch.notes, Vec::<String>::new());
}

#[tokio::test]
async fn a_group_known_to_version_1_alone_is_read_there() {
    let tree = Tree::new();
    hybrid(&tree, "a.slice");
    v1_group(&tree, "docker/ab");
    let batch = tree.collect(&["docker/*"]).await;
    assert_eq!(value(&batch, "cpu_seconds", "docker/ab"), "302.440068727");
}

#[tokio::test]
async fn a_group_that_leaves_version_2_first_does_not_come_back_as_another_life() {
    let tree = Tree::new();
    hybrid(&tree, "a.slice");
    let collector = tree.collector(&["a.slice"]);
    let before = collector.collect(request()).await.unwrap();
    assert_eq!(value(&before, "cpu_seconds", "a.slice"), "44.000000");
    fs::remove_dir_all(tree.path().join("cg/unified/a.slice")).unwrap();
    let after = collector.collect(request()).await.unwrap();
    assert!(find(&after, "cpu_seconds", "a.slice").is_empty(), "{:?}", after.readings);
}

#[tokio::test]
async fn a_group_beside_the_one_that_holds_it_is_warned_about() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("user.slice/user-0.slice", 1);
    tree.v2_group("user.slice/user-0.slice/session-1.scope", 1);
    tree.v2_group("user.slice2", 1);
    tree.v2_group("user.slice", 1);
    let batch = tree.collect(&["user.slice*", "user.slice/**/*"]).await;
    assert_eq!(
        batch.notes,
        [
            "`user.slice/user-0.slice` is listed beside `user.slice`, which holds it (and 1 more like it): its usage is \
          counted twice wherever both are added up; narrow the glob, or tell them apart by `path`"
        ]
    );
    let root = tree.collect(&[".", "user.slice2"]).await;
    assert!(root.notes[0].starts_with("`user.slice2` is listed beside `.`"), "{:?}", root.notes);
}

#[tokio::test]
async fn a_group_matched_by_two_globs_is_read_once() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("a.slice", 1);
    let batch = tree.collect(&["a.slice", "./*.slice/"]).await;
    assert_eq!(find(&batch, "cpu_seconds", "a.slice").len(), 1);
}

#[tokio::test]
async fn paths_tell_groups_apart_whose_unescaped_names_are_equal() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group(r"my-app.scope", 1_000_000);
    tree.v2_group(r"my\x2dapp.scope", 2_000_000);
    let batch = tree.collect(&["my*.scope"]).await;
    assert_eq!(value(&batch, "cpu_seconds", r"my-app.scope"), "1.000000");
    assert_eq!(value(&batch, "cpu_seconds", r"my\x2dapp.scope"), "2.000000");
    assert!(find(&batch, "cpu_seconds", r"my\x2dapp.scope")[0].labels["unit"] == "my-app.scope");
}

#[tokio::test]
async fn the_own_group_is_what_proc_says_or_inside_a_container_the_root() {
    let tree = Tree::new();
    tree.v2_group("", 1_000_000);
    tree.v2_group("system.slice/agent.service", 2_000_000);
    assert_eq!(value(&tree.collect(&["self"]).await, "cpu_seconds", "self"), "1.000000");
    tree.file("self_cgroup", "0::/system.slice/agent.service\n");
    assert_eq!(value(&tree.collect(&["self"]).await, "cpu_seconds", "self"), "2.000000");
    tree.file("self_cgroup", "0::/system.slice/docker-ab.scope\n");
    assert_eq!(value(&tree.collect(&["self"]).await, "cpu_seconds", "self"), "1.000000");
    assert_eq!(value(&tree.collect(&["."]).await, "cpu_seconds", "."), "1.000000");
    tree.file("self_cgroup", "0::/../other.slice\n");
    let outside = tree.collect(&["self"]).await;
    assert!(
        outside.readings.is_empty() && outside.problems[0].text.contains("outside of what is mounted here")
    );
}

#[tokio::test]
async fn a_device_that_hands_its_transfers_on_is_not_counted_beside_them() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("a.slice", 0);
    tree.file("cg/a.slice/io.stat", "8:0 rbytes=10\n8:16 rbytes=5\n253:0 rbytes=10\n7:0 rbytes=10\n");
    tree.file("block/8:0/size", "1");
    fs::create_dir_all(tree.path().join("block/8:0/slaves")).unwrap();
    tree.file("block/253:0/slaves/sda/size", "1");
    tree.file("block/7:0/loop/backing_file", "/x");
    let batch = tree.collect(&["a.slice"]).await;
    let devices: Vec<String> = find(&batch, "io_read_bytes", "a.slice")
        .iter()
        .map(|r| format!("{} {}", r.labels["device"], r.value))
        .collect();
    assert_eq!(devices, ["8:0 10", "8:16 5"]);
}

#[tokio::test]
async fn a_root_that_is_no_cgroup_file_system_is_an_error_with_a_remedy() {
    let tree = Tree::new();
    let error = tree.collector(&["."]).collect(request()).await.unwrap_err();
    assert!(error.0.contains("is no cgroup file system") && error.0.contains("`root`"), "{error}");
    fs::remove_dir(tree.path().join("cg")).unwrap();
    let error = tree.collector(&["."]).collect(request()).await.unwrap_err();
    assert!(error.0.contains("can't be read: No such file") && error.0.contains("mount"), "{error}");
}

#[test]
fn mistakes_in_the_configuration_are_told_with_their_line() {
    let (mut section, problems) = Section::parse("root: sys\nslices: [/user.slice, ../a, 'user[.slice']\n");
    assert!(build(&mut section).is_some());
    section.finish();
    let told: Vec<String> = problems.list().iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], "line 1: root: `sys` must be an absolute path");
    assert_eq!(
        told[1],
        "line 2: slices: `/user.slice` must be relative to `root`, without a leading / and without .."
    );
    let (mut section, problems) = Section::parse("root: /sys/fs/cgroup\n");
    assert!(build(&mut section).is_none());
    assert!(problems.list()[0].message.starts_with("`slices` is missing"));
}

#[test]
fn the_scope_changes_only_with_what_is_looked_at() {
    let tree = Tree::new();
    let scope = tree.collector(&["b/*", "a"]).scope();
    assert_eq!(scope, tree.collector(&["a", "b/*"]).scope());
    assert_ne!(scope, tree.collector(&["a", "b"]).scope());
}

/// What a bearing of the run's problems covers of these readings of these groups.
fn covered(batch: &Batch, readings: &[(&str, &str, Option<&str>)]) -> Vec<bool> {
    let labels = |path: &str, device: Option<&str>| {
        let mut labels = Labels::from([("path".to_owned(), path.to_owned())]);
        labels.extend(device.map(|device| ("device".to_owned(), device.to_owned())));
        labels
    };
    let covers = |(name, path, device): &(&str, &str, Option<&str>)| {
        batch.problems.iter().any(|problem| problem.bears_on.covers(name, &labels(path, *device)))
    };
    readings.iter().map(covers).collect()
}

/// Each odd thing, and what it bears on: the CPU of `a`, the transfers of its device 8:0, those of 8:16, the CPU of `b`.
#[tokio::test]
async fn an_odd_thing_withholds_only_what_it_could_bear_on() {
    let io = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n";
    for (file, text, notes, problem, bears_on) in [
        ("io.stat", format!("(unknown) rbytes=7\n{io}"), 1, "", [false; 4]),
        ("io.stat", format!("{io}8:16 "), 0, "", [false; 4]),
        (
            "io.stat",
            format!("{io}8:16 rbytes=x\n"),
            0,
            "8:16 `rbytes`: `x` is not a whole",
            [false, false, true, false],
        ),
        (
            "io.stat",
            format!("{io}sda rbytes=1\n"),
            0,
            "`sda` is no device number",
            [false, true, true, false],
        ),
        ("cpu.stat", "usage_usec\n".to_owned(), 0, "`usage_usec` has no number", [true, false, false, false]),
        ("memory.current", "lots\n".to_owned(), 0, "`lots` is not a whole number", [false; 4]),
        ("pids.current", "-1\n".to_owned(), 0, "`-1` is not a whole number", [false; 4]),
    ] {
        let tree = Tree::new();
        for path in ["", "a.slice", "b.slice"] {
            tree.v2_group(path, 1_000_000);
        }
        tree.file(&format!("cg/a.slice/{file}"), &text);
        let batch = tree.collect(&["*.slice"]).await;
        assert_eq!(value(&batch, "cpu_seconds", "b.slice"), "1.000000", "{text}");
        assert_eq!(batch.notes.len(), notes, "{:?}", batch.notes);
        let told: Vec<&str> = batch.problems.iter().map(|problem| problem.text.as_str()).collect();
        match problem {
            "" => assert!(told.is_empty(), "{told:?}"),
            problem => assert!(told.len() == 1 && told[0].contains(problem), "{told:?}"),
        }
        let of = [
            ("cpu_seconds", "a.slice", None),
            ("io_read_bytes", "a.slice", Some("8:0")),
            ("io_read_bytes", "a.slice", Some("8:16")),
            ("cpu_seconds", "b.slice", None),
        ];
        assert_eq!(covered(&batch, &of), bears_on, "{text}");
        if file == "io.stat" {
            assert_eq!(value(&batch, "io_read_bytes", "a.slice"), "10", "{text}");
        }
    }
}

/// A file that is away while its group stands ends nothing: it is told, and only of that group. One whose controller is off
/// is a note.
#[tokio::test]
async fn a_file_that_is_missing_is_a_problem_of_its_group_where_its_controller_is_on() {
    for (file, reading) in [
        ("memory.current", "memory_bytes"),
        ("cpu.stat", "cpu_seconds"),
        ("io.stat", "io_read_bytes"),
        ("pids.current", "tasks"),
        ("cgroup.procs", "processes"),
    ] {
        let tree = Tree::new();
        for path in ["", "a.slice", "b.slice"] {
            tree.v2_group(path, 1_000_000);
        }
        fs::remove_file(tree.path().join("cg/a.slice").join(file)).unwrap();
        let batch = tree.collect(&["*.slice"]).await;
        let told: Vec<&str> = batch.problems.iter().map(|problem| problem.text.as_str()).collect();
        let words = format!("cg/a.slice/{file} is missing, though its group is there");
        assert!(told.len() == 1 && told[0].contains(&words), "{told:?}");
        assert_eq!(
            covered(&batch, &[(reading, "a.slice", None), (reading, "b.slice", None)]),
            [true, false],
            "{file}"
        );
        assert!(batch.notes.is_empty(), "{:?}", batch.notes);
        // The same without its controller; processor time and processes have none.
        tree.file("cg/a.slice/cgroup.controllers", "cpu\n");
        let batch = tree.collect(&["*.slice"]).await;
        let has_none = ["cpu.stat", "cgroup.procs"].contains(&file);
        assert_eq!(
            (batch.problems.len(), batch.notes.len()),
            if has_none { (1, 0) } else { (0, 1) },
            "{file}"
        );
    }
}

/// The root of all groups has no memory of its own to tell; that of a container has.
#[tokio::test]
async fn the_root_lacks_what_the_kernel_does_not_keep_there() {
    let tree = Tree::new();
    tree.v2_group("", 1_000_000);
    fs::remove_file(tree.path().join("cg/memory.current")).unwrap();
    let batch = tree.collect(&["."]).await;
    assert_eq!((batch.problems.len(), batch.notes.len()), (0, 1));
    tree.file("cg/cgroup.type", "domain\n");
    let batch = tree.collect(&["."]).await;
    assert_eq!((batch.problems.len(), batch.notes.len()), (1, 0));
}

/// Made by mkdir; systemd names none so.
#[tokio::test]
async fn a_group_whose_name_is_not_utf_8_is_told_and_the_others_count() {
    use std::os::unix::ffi::OsStrExt;
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("user.slice/user-1000.slice", 3_000_000);
    let odd = tree.path().join("cg/user.slice").join(std::ffi::OsStr::from_bytes(b"user-\xff.slice"));
    fs::create_dir(odd).unwrap();
    let batch = tree.collect(&["user.slice/user-*.slice"]).await;
    assert_eq!(value(&batch, "cpu_seconds", "user.slice/user-1000.slice"), "3.000000");
    assert!(batch.problems[0].text.ends_with("is left out: its name is not UTF-8; rename it"), "{batch:?}");
    assert_eq!(covered(&batch, &[("cpu_seconds", "user.slice/user-1000.slice", None)]), [false]);
}

/// What no meter asks for is not read, and can't cost anything.
#[tokio::test]
async fn only_what_is_metered_is_read() {
    let tree = Tree::new();
    tree.v2_group("", 0);
    tree.v2_group("a.slice", 2_000_000);
    tree.file("cg/a.slice/io.stat", "(unknown) rbytes=7\nrbytes=x\n");
    tree.file("cg/a.slice/memory.stat", "inactive_file many\n");
    fs::remove_file(tree.path().join("cg/a.slice/pids.current")).unwrap();
    let meters = "slices: a.slice\nmeters: { a: { reading: cpu_seconds }, b: { reading: memory_bytes } }\n";
    let (mut section, _) = Section::parse(meters);
    let metered: BTreeSet<String> = section.peek_each("meters", "reading").into_iter().collect();
    assert!(build(&mut section).is_some());
    let host = tree.collector(&["a.slice"]).sight.host.clone();
    let wanted = vec![Wanted::parse("a.slice").unwrap()];
    let collector = Cgroup::new(tree.path().join("cg"), wanted, host, Some(metered));
    let batch = collector.collect(request()).await.unwrap();
    let seen: Vec<String> = batch.readings.iter().map(|r| format!("{} {}", r.name, r.value)).collect();
    assert_eq!(seen, ["cpu_seconds 2.000000", "memory_bytes 1048576"]);
    assert_eq!((batch.problems.len(), batch.notes.len()), (0, 0));
    // Another reading is asked for: what is seen of it for the first time has not begun since.
    assert_ne!(collector.scope(), tree.collector(&["a.slice"]).scope());
}
