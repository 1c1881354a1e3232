//! Real directories and mounts through the filesystem collector.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

mod skip;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use skip::skip;
use waldur_usage_agent::collectors::{Batch, Collector, CollectorError, Request, filesystem};
use waldur_usage_agent::config::section::Section;

fn collector(keys: &str) -> Box<dyn Collector> {
    let (mut section, problems) = Section::parse(keys);
    let collector = (filesystem::PLUGIN.build)(&mut section);
    section.finish();
    assert_eq!(problems.list(), vec![], "{keys}");
    collector.unwrap()
}

async fn look(keys: &str) -> Result<Batch, CollectorError> {
    let now = "2026-11-05T10:00:00Z".parse().unwrap();
    collector(keys).collect(Request { now, since: now, checkpoint: None, withhold: Vec::new() }).await
}

fn value(batch: &Batch, name: &str, path: &Path) -> String {
    let found: Vec<_> = batch
        .readings
        .iter()
        .filter(|reading| reading.name == name && reading.labels["path"] == path.to_str().unwrap())
        .collect();
    assert_eq!(found.len(), 1, "{name} of {path:?}: {batch:?}");
    found[0].value.to_string()
}

fn paths(batch: &Batch) -> BTreeSet<&str> {
    batch.readings.iter().map(|reading| reading.labels["path"].as_str()).collect()
}

fn problems(batch: &Batch) -> Vec<&str> {
    batch.problems.iter().map(|problem| problem.text.as_str()).collect()
}

/// Runs a test of this file that is ignored otherwise, by way of a program that changes what a process may do. If the
/// program can't, the test is skipped by name, or fails where nothing may be skipped.
fn run_inner(test: &str, by_way_of: &[&str]) {
    let able = Command::new(by_way_of[0]).args(&by_way_of[1..]).arg("true").output();
    if !able.as_ref().is_ok_and(|output| output.status.success()) {
        let missing = format!("`{}` does not work here: {able:?}", by_way_of.join(" "));
        return skip(test, &missing);
    }
    // A copy where everybody may read it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(by_way_of[0])
        .args(&by_way_of[1..])
        .arg(&copy)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let ran = output.status.success() && told.contains("1 passed");
    assert!(ran, "{told}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_directory_is_added_up_with_links_counted_once_and_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let alice = dir.path().join("alice");
    fs::create_dir_all(alice.join("deep/er")).unwrap();
    fs::write(alice.join("ten"), "0123456789").unwrap();
    fs::write(alice.join("deep/er/.hidden"), "abc").unwrap();
    fs::hard_link(alice.join("ten"), alice.join("deep/ten again")).unwrap();
    // 1 MiB long, and nothing of it on disk.
    fs::File::create(alice.join("sparse")).unwrap().set_len(1 << 20).unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("large"), vec![1; 1 << 20]).unwrap();
    symlink(&outside, alice.join("way out")).unwrap();
    symlink("..", alice.join("round and round")).unwrap();

    let batch = look(&format!("directories: {}/a*", dir.path().display())).await.unwrap();
    assert_eq!((batch.problems.len(), batch.notes.len(), batch.quarantined.len()), (0, 0, 0), "{batch:?}");
    assert!(batch.lists_everything);
    // alice, deep, er; ten, .hidden, sparse; two links.
    assert_eq!(value(&batch, "directory_inodes", &alice), "8");
    let way_out = outside.as_os_str().len();
    assert_eq!(
        value(&batch, "directory_apparent_bytes", &alice),
        (10 + 3 + 1_048_576 + way_out + 2).to_string()
    );
    let bytes: u64 = value(&batch, "directory_bytes", &alice).parse().unwrap();
    assert!((8..1 << 20).contains(&bytes), "{bytes}");
    let labels = &batch.readings[0].labels;
    assert_eq!(labels["name"], "alice");
    let owner = Command::new("stat").args(["-c", "%U %G %m"]).arg(&alice).output().unwrap();
    let told = format!("{} {} {}", labels["owner"], labels["group"], labels["mount"]);
    assert_eq!(told, String::from_utf8(owner.stdout).unwrap().trim());
}

#[tokio::test]
async fn it_agrees_with_du() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let batch = look(&format!("directories: {}", dir.display())).await.unwrap();
    for (name, flags) in [("directory_bytes", "-sxB1"), ("directory_inodes", "--inodes")] {
        let du = Command::new("du").args([flags, "-s"]).arg(&dir).output().unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        assert_eq!(value(&batch, name, &dir), du.split('\t').next().unwrap(), "{name}");
    }
}

#[tokio::test]
async fn files_links_and_dot_directories_are_not_somebodys_directory() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["alice", "bob", ".snapshots"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("README"), "").unwrap();
    symlink("alice", dir.path().join("alias")).unwrap();
    let base = dir.path().display();
    let batch = look(&format!("directories: [{base}/*, {base}/bob/, {base}/nobody*]")).await.unwrap();
    let (alice, bob) = (format!("{base}/alice"), format!("{base}/bob"));
    assert_eq!(paths(&batch), BTreeSet::from([alice.as_str(), bob.as_str()]));
    assert_eq!(
        batch.notes,
        [
            format!("`{base}/*` matches 2 files or links, which are left out"),
            format!("`{base}/nobody*` matches no directory now"),
        ]
    );
    let nested = look(&format!("directories: [{base}, {base}/a*]")).await.unwrap();
    assert!(
        nested
            .notes
            .last()
            .unwrap()
            .starts_with(&format!("{base}/alice is listed beside {base}, which holds it"))
    );
}

#[tokio::test]
async fn a_directory_whose_place_is_not_there_makes_the_run_incomplete() {
    let batch = look("directories: [/nonexistent/home/*]").await.unwrap();
    assert_eq!(
        problems(&batch),
        ["`/nonexistent/home/*`: /nonexistent/home is not there; mount it, or correct the path"]
    );
    // It says nothing of what lies elsewhere.
    let covers = |path: &str| {
        let labels = [("path".to_owned(), path.to_owned())].into();
        batch.problems[0].bears_on.covers("directory_bytes", &labels)
    };
    assert!(covers("/nonexistent/home/alice") && !covers("/home/alice"));
}

#[tokio::test]
async fn a_mount_tells_its_size_as_df_does() {
    let batch = look("mounts: /").await.unwrap();
    let df = Command::new("df").args(["-B1", "--output=size,itotal", "/"]).output().unwrap();
    let df = String::from_utf8(df.stdout).unwrap();
    let sizes: Vec<&str> = df.lines().last().unwrap().split_whitespace().collect();
    let root = Path::new("/");
    assert_eq!(value(&batch, "mount_total_bytes", root), sizes[0]);
    let number = |name| value(&batch, name, root).parse::<u64>().unwrap();
    assert!((1..number("mount_total_bytes")).contains(&number("mount_used_bytes")));
    // A file system without a fixed number of inodes says 0 or a dash; this one may.
    if let Ok(total @ 1..) = sizes[1].parse::<u64>() {
        assert!((1..total).contains(&number("mount_used_inodes")));
    }
    assert_eq!(batch.readings[0].labels["mount"], "/");
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_a_problem_and_not_the_disk_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = dir.path().join("scratch");
    fs::create_dir_all(scratch.join("alice")).unwrap();
    let scratch = scratch.display();
    let keys = format!("mounts: [{scratch}, /nonexistent, /proc]\ndirectories: {scratch}/*\n");
    let batch = look(&keys).await.unwrap();
    assert!(batch.readings.is_empty(), "{batch:?}");
    assert_eq!(batch.problems.len(), 3, "{:?}", batch.problems);
    assert!(problems(&batch)[0].starts_with("/nonexistent does not exist; mount it"));
    assert!(problems(&batch)[1].starts_with("/proc has no size"));
    assert!(problems(&batch)[2].starts_with(&format!("nothing is mounted at {scratch}; mount it")));
}

#[test]
fn what_is_mounted_below_is_left_out() {
    run_inner("inner_mounts", &["unshare", "--mount", "--propagation", "private"]);
}

#[tokio::test]
#[ignore = "run by what_is_mounted_below_is_left_out, in a mount namespace of its own"]
async fn inner_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home with a blank");
    for name in ["tmpfs", "bound", "data"] {
        fs::create_dir_all(home.join(name)).unwrap();
    }
    fs::write(home.join("data/five"), "12345").unwrap();
    let mount = |arguments: &[&str], at: &Path| {
        assert!(Command::new("mount").args(arguments).arg(at).status().unwrap().success());
    };
    mount(&["-t", "tmpfs", "-o", "size=1m", "none"], &home.join("tmpfs"));
    fs::write(home.join("tmpfs/file"), "1234567").unwrap();
    // The same file system once more: only the list of mounts tells.
    mount(&["--bind", home.join("data").to_str().unwrap()], &home.join("bound"));
    let keys = format!("directories: '{0}'\nmounts: '{0}/tmpfs'\n", home.display());
    let batch = look(&keys).await.unwrap();
    assert_eq!(problems(&batch), Vec::<&str>::new());
    // The home and its file in data; the mount points themselves belong to what is mounted.
    assert_eq!(value(&batch, "directory_inodes", &home), "3");
    assert_eq!(value(&batch, "directory_apparent_bytes", &home), "5");
    assert_eq!(value(&batch, "mount_total_bytes", &home.join("tmpfs")), "1048576");
    // One page, of whatever size pages are here.
    let page = String::from_utf8(Command::new("getconf").arg("PAGESIZE").output().unwrap().stdout).unwrap();
    assert_eq!(value(&batch, "mount_used_bytes", &home.join("tmpfs")), page.trim());
    assert_eq!(value(&batch, "mount_used_inodes", &home.join("tmpfs")), "2");
    for name in ["tmpfs", "bound"] {
        assert!(Command::new("umount").arg(home.join(name)).status().unwrap().success());
    }
}

/// Whoever may make a directory must not be able to stop the collector.
#[tokio::test]
async fn a_name_of_any_bytes_stops_nobody() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let names: [&[u8]; 5] = [b"alice", b"j\xf6rg", b".j\xf6rg", b"new\nline", b"quote\"'`*["];
    for name in names {
        fs::create_dir(dir.path().join(OsStr::from_bytes(name))).unwrap();
        fs::write(dir.path().join(OsStr::from_bytes(name)).join(OsStr::from_bytes(b"f\xff")), "12345")
            .unwrap();
    }
    let base = dir.path().display();
    let batch = look(&format!("directories: {base}/*")).await.unwrap();
    let told = problems(&batch);
    assert_eq!(told, [format!("{base}/j\u{fffd}rg is left out: its name is not UTF-8; rename it")]);
    let bears_on = &batch.problems[0].bears_on;
    for name in ["alice", "new\nline", "quote\"'`*["] {
        let path = dir.path().join(name);
        assert_eq!(value(&batch, "directory_apparent_bytes", &path), "5", "{name}");
        let labels = [("path".to_owned(), path.to_str().unwrap().to_owned())].into();
        assert!(!bears_on.covers("directory_bytes", &labels));
    }
    assert_eq!(paths(&batch).len(), 3);
}

/// Deeper than listings are kept open, wide, and with a link in two places.
#[tokio::test]
async fn a_deep_and_wide_tree_agrees_with_du() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let deep: std::path::PathBuf = std::iter::repeat_n("d", 80).collect();
    fs::create_dir_all(home.join(&deep)).unwrap();
    for (number, level) in home.join(&deep).ancestors().take(80).enumerate() {
        fs::write(level.join("file"), vec![b'x'; number]).unwrap();
        fs::create_dir(level.join("beside")).unwrap();
    }
    fs::hard_link(home.join("d/d/file"), home.join(&deep).join("again")).unwrap();
    let batch = look(&format!("directories: {}", home.display())).await.unwrap();
    // 81 directories in a row, and 80 beside; 80 files.
    assert_eq!(value(&batch, "directory_inodes", &home), "241");
    // 0 + 1 + ... + 79
    assert_eq!(value(&batch, "directory_apparent_bytes", &home), "3160");
    let du = Command::new("du").args(["-sxB1"]).arg(&home).output().unwrap();
    let du = String::from_utf8(du.stdout).unwrap();
    assert_eq!(value(&batch, "directory_bytes", &home), du.split('\t').next().unwrap());
}

/// Fifty directories with names of 200 bytes, one in the other, and beside the deepest a file: no path of 4096 bytes leads there.
#[tokio::test]
async fn what_lies_deeper_than_a_path_can_say_counts() {
    use rustix::fs::{Mode, OFlags, mkdirat, open, openat};
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = open(&home, flags, Mode::empty()).unwrap();
    for _ in 0..50 {
        let name = "d".repeat(200);
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        let file = openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        rustix::fs::ftruncate(&file, 10).unwrap();
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let batch = look(&format!("directories: {}", home.display())).await.unwrap();
    assert_eq!(problems(&batch), Vec::<&str>::new());
    assert_eq!(value(&batch, "directory_inodes", &home), "101");
    assert_eq!(value(&batch, "directory_apparent_bytes", &home), "500");
}

#[test]
fn the_files_of_an_overlay_count() {
    run_inner("inner_overlay", &["unshare", "--mount", "--propagation", "private"]);
}

/// Layers on two file systems: the files are of another device than their directory.
#[tokio::test]
#[ignore = "run by the_files_of_an_overlay_count, in a mount namespace of its own"]
async fn inner_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str], at: &Path| {
        assert!(Command::new("mount").args(arguments).arg(at).status().unwrap().success());
    };
    for name in ["lower", "upper", "merged"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    mount(&["-t", "tmpfs", "-o", "size=4m", "none"], &dir.path().join("lower"));
    mount(&["-t", "tmpfs", "-o", "size=4m", "none"], &dir.path().join("upper"));
    fs::create_dir_all(dir.path().join("lower/alice/sub")).unwrap();
    fs::write(dir.path().join("lower/alice/big"), vec![b'x'; 100_000]).unwrap();
    fs::write(dir.path().join("lower/alice/sub/f"), vec![b'y'; 50_000]).unwrap();
    for name in ["upper/u", "upper/w"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let at = dir.path().display();
    let layers = format!("lowerdir={at}/lower,upperdir={at}/upper/u,workdir={at}/upper/w");
    mount(&["-t", "overlay", "overlay", "-o", &layers], &dir.path().join("merged"));
    let alice = dir.path().join("merged/alice");
    fs::write(alice.join("new"), vec![b'z'; 30_000]).unwrap();
    // A file that something is mounted on is a file.
    fs::write(dir.path().join("other"), "1234567").unwrap();
    mount(&["--bind", dir.path().join("other").to_str().unwrap()], &alice.join("new"));
    let batch = look(&format!("directories: {}/*", dir.path().join("merged").display())).await.unwrap();
    assert_eq!(problems(&batch), Vec::<&str>::new());
    // 100,000 and 50,000 of the lower layer, and the 7 bytes that are seen in place of 30,000.
    assert_eq!(value(&batch, "directory_apparent_bytes", &alice), "150007");
    assert_eq!(value(&batch, "directory_inodes", &alice), "5");
    for name in ["merged/alice/new", "merged", "upper", "lower"] {
        assert!(Command::new("umount").arg(dir.path().join(name)).status().unwrap().success());
    }
}

#[test]
fn a_mount_that_does_not_answer_costs_itself() {
    let have = Command::new("bindfs").arg("--version").output().is_ok_and(|output| output.status.success());
    if !have {
        return skip("a_mount_that_does_not_answer_costs_itself", "no bindfs");
    }
    run_inner("inner_dead_mount", &["unshare", "--mount", "--propagation", "private"]);
}

/// A FUSE server that is stopped is the double of a dead NFS server.
#[tokio::test]
#[ignore = "run by a_mount_that_does_not_answer_costs_itself, in a mount namespace of its own"]
async fn inner_dead_mount() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["src/alice", "src/bob", "dead", "here/carol"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("here/carol/f"), "123").unwrap();
    let (dead, here) = (dir.path().join("dead"), dir.path().join("here"));
    symlink(&dead, dir.path().join("here/link")).unwrap();
    let mut server = Command::new("bindfs")
        .args(["-f", "-o", "attr_timeout=0,entry_timeout=0"])
        .args([&dir.path().join("src"), &dead])
        .spawn()
        .unwrap();
    while !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(dead.to_str().unwrap()) {
        std::thread::yield_now();
    }
    let keys = format!("directories: [{0}/*, {1}/*]\nmounts: {0}\n", dead.display(), here.display());
    let collector = collector(&keys);
    let now = "2026-11-05T10:00:00Z".parse().unwrap();
    let request = || Request { now, since: now, checkpoint: None, withhold: Vec::new() };
    let all = collector.collect(request()).await.unwrap();
    assert_eq!(problems(&all), Vec::<&str>::new());
    assert_eq!(value(&all, "directory_inodes", &dead.join("bob")), "1");
    let signal = |name: &str| {
        let pid = server.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    };
    signal("STOP");
    let walkers = |wanted: usize| {
        let started = std::time::Instant::now();
        let count = || {
            let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
            let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
            names.filter(|name| name.trim() == "walker").count()
        };
        while count() != wanted {
            if started.elapsed() > std::time::Duration::from_secs(20) {
                signal("CONT");
                panic!("{} threads, not {wanted}", count());
            }
            std::thread::yield_now();
        }
    };
    for _ in 0..3 {
        let batch = collector.collect(request()).await.unwrap();
        let told = problems(&batch);
        let hangs = format!("{0} does not answer: {0} hangs since 2026-11-05T10:00:00Z", dead.display());
        assert!(told.len() == 2 && told[0].contains(&hangs) && told[1].contains(&hangs), "{told:?}");
        // What `/health` and the metric tell.
        assert_eq!(collector.hanging(), [(dead.clone(), "2026-11-05T10:00:00Z".parse().unwrap())]);
        assert_eq!(value(&batch, "directory_apparent_bytes", &here.join("carol")), "3");
        assert!(batch.problems.iter().all(|problem| {
            let covers = |path: &Path| {
                let labels = [("path".to_owned(), path.to_str().unwrap().to_owned())].into();
                problem.bears_on.covers("directory_bytes", &labels)
            };
            covers(&dead.join("bob")) && !covers(&here.join("carol"))
        }));
        // One thread hangs, and no other is started behind it.
        walkers(1);
    }
    signal("CONT");
    walkers(0);
    assert_eq!(collector.hanging(), []);
    let again = collector.collect(request()).await.unwrap();
    assert_eq!(problems(&again), Vec::<&str>::new());
    assert_eq!(value(&again, "directory_inodes", &dead.join("bob")), "1");
    assert!(Command::new("umount").arg(&dead).status().unwrap().success());
    server.wait().unwrap();
}

#[test]
fn a_directory_that_can_not_be_read_through_gives_no_reading() {
    let own = fs::metadata("/proc/self").unwrap().uid();
    if own == 0 {
        run_inner("inner_permissions", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    } else {
        run_inner("inner_permissions", &["env"]);
    }
}

#[tokio::test]
#[ignore = "run by a_directory_that_can_not_be_read_through_gives_no_reading, not as root"]
async fn inner_permissions() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["alice/secret", "bob/open", "carol"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let close = |name: &str, mode| {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap()
    };
    close("alice/secret", 0o000);
    close("carol", 0o000);
    let batch = look(&format!("directories: {}/*", dir.path().display())).await.unwrap();
    let bob = format!("{}/bob", dir.path().display());
    assert_eq!(paths(&batch), BTreeSet::from([bob.as_str()]));
    assert_eq!(batch.problems.len(), 2, "{:?}", batch.problems);
    let base = dir.path().display();
    assert_eq!(
        problems(&batch)[0],
        format!(
            "{base}/alice is left out as a whole: {base}/alice/secret can't be read: Permission denied (os error 13); \
             give the agent CAP_DAC_READ_SEARCH"
        )
    );
    assert!(problems(&batch)[1].starts_with(&format!("{base}/carol is left out as a whole: ")));
    close("alice/secret", 0o700);
    close("carol", 0o700);
}

#[test]
fn mistakes_in_the_configuration_are_told() {
    let told = |text: &str| {
        let (mut section, problems) = Section::parse(text);
        (filesystem::PLUGIN.build)(&mut section);
        section.finish();
        problems.list().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(told("{}")[0].starts_with("`mounts` or `directories` is missing"));
    assert_eq!(
        told("mounts: scratch\ndirectories: [/home/../x, '/home/[']\nmount: /\n"),
        [
            "line 1: mounts: `scratch` must be an absolute path, without ..",
            "line 2: directories: `/home/../x` must be an absolute path, without ..",
            "line 2: directories: `/home/[` is not a glob: Pattern syntax error near position 6: invalid range pattern",
            "line 3: mount: unknown key `mount`; did you mean `mounts`?",
        ]
    );
}
