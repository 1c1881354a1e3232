//! Real directories and mounts through the filesystem collector.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use waldur_usage_agent::collectors::{Batch, Collector, CollectorError, Request, filesystem, texts};
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

/// Runs a test of this file that is ignored otherwise, by way of a program that changes what a process may do. If the
/// program can't, the test is skipped by name, or fails where nothing may be skipped.
fn run_inner(test: &str, by_way_of: &[&str]) {
    let able = Command::new(by_way_of[0]).args(&by_way_of[1..]).arg("true").output();
    if !able.as_ref().is_ok_and(|output| output.status.success()) {
        let missing = format!("`{}` does not work here: {able:?}", by_way_of.join(" "));
        assert!(std::env::var_os("CI_REQUIRE_REAL").is_none(), "{missing}");
        eprintln!("SKIPPED {test}: {missing}");
        // ./test says at its end what was left out.
        if let Some(list) = std::env::var_os("NEED_LEFT_OUT") {
            let mut list = fs::File::options().append(true).open(list).unwrap();
            writeln!(list, "{test} ({missing})").unwrap();
        }
        return;
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
        texts(&batch.problems),
        "`/nonexistent/home/*`: /nonexistent/home is not there; mount it, or correct the path"
    );
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
    assert!(batch.problems[0].text.starts_with("/nonexistent does not exist; mount it"));
    assert!(batch.problems[1].text.starts_with("/proc has no size"));
    assert!(batch.problems[2].text.starts_with(&format!("nothing is mounted at {scratch}; mount it")));
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
    assert_eq!(batch.problems, []);
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
        batch.problems[0].text,
        format!(
            "{base}/alice is left out as a whole: {base}/alice/secret can't be read: Permission denied (os error 13); \
             give the agent CAP_DAC_READ_SEARCH"
        )
    );
    assert!(batch.problems[1].text.starts_with(&format!("{base}/carol is left out as a whole: ")));
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
