//! The collectors in docs/write-a-collector.md work as they stand there: the programs are run by the exec collector, and
//! the Rust file is a part of this test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]
#![allow(unreachable_pub, reason = "the example is written as it would stand among the collectors")]

mod interfaces;
#[path = "../skip/mod.rs"]
mod skip;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use skip::skip;
use waldur_usage_agent::collectors::{Batch, Collector, CollectorError, Plugin, Request, exec};
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::metering::reading::{Kind, Reading};

/// The one block of this language in the page.
fn block(language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/write-a-collector.md");
    let text = std::fs::read_to_string(path).unwrap();
    let fence = format!("```{language}\n");
    let mut blocks = text.split(&fence).skip(1);
    let block = blocks.next().expect("a block").split("```").next().unwrap().to_owned();
    assert!(blocks.next().is_none(), "one block of {language}");
    block
}

/// The program in the page, as a file.
fn program(folder: &tempfile::TempDir, language: &str) -> PathBuf {
    let file = folder.path().join(language);
    std::fs::write(&file, block(language)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

fn collector(plugin: &Plugin, keys: &str) -> Box<dyn Collector> {
    let (mut section, problems) = Section::parse(keys);
    let collector = (plugin.build)(&mut section);
    section.finish();
    assert_eq!(problems.list(), vec![], "{keys}");
    collector.unwrap()
}

async fn look(collector: &dyn Collector, checkpoint: Option<&str>) -> Result<Batch, CollectorError> {
    let now = "2026-11-05T10:00:00Z".parse().unwrap();
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    let checkpoint = checkpoint.map(str::to_owned);
    collector.collect(Request { now, since, checkpoint, withhold: Vec::new() }).await
}

fn shown(readings: &[Reading]) -> Vec<String> {
    let show = |r: &Reading| {
        let labels: Vec<String> = r.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{} {} {} {}", r.name, r.kind, r.value, labels.join(" "))
    };
    readings.iter().map(show).collect()
}

/// /proc and /sys of a machine with one interface.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/sys/kernel/random/boot_id", "8f4c0d52-boot\n");
    write("sys/class/net/eth0/statistics/tx_bytes", "18446744073709551615\n");
    write("sys/class/net/eth0/statistics/rx_bytes", "4096\n");
    root
}

#[tokio::test]
async fn the_shell_program_counts_and_fails_as_a_whole() {
    let (folder, root) = (tempfile::tempdir().unwrap(), machine());
    let file = program(&folder, "bash");
    let run = |interface: &str| {
        let keys =
            format!("command: [{}, {interface}]\nenv: [ROOT={}]", file.display(), root.path().display());
        collector(&exec::PLUGIN, &keys)
    };
    let batch = look(&*run("eth0"), None).await.unwrap();
    assert_eq!(batch.quarantined, []);
    assert_eq!(shown(&batch.readings), ["sent_bytes counter 18446744073709551615 interface=eth0"]);
    assert_eq!(batch.readings[0].epoch.id.as_deref(), Some("8f4c0d52-boot"));
    let error = look(&*run("eth9"), None).await.unwrap_err().0;
    assert!(error.contains("eth9") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn the_python_program_reads_on_where_it_stopped() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        return skip("the_python_program_reads_on_where_it_stopped", "python3 is missing");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = program(&folder, "python");
    let log = folder.path().join("jobs.csv");
    let keys = format!("command: [{}]\nenv: [JOB_LOG={}]", file.display(), log.display());
    let python = collector(&exec::PLUGIN, &keys);
    let header = "id,project,user,start,end,cores\n";
    let jobs = [
        // Ended last month; two days ago; and shortly before now.
        "6,p1,alice,2026-10-30T00:00:00Z,2026-10-31T00:00:00Z,1\n",
        "7,p1,alice,2026-11-03T10:00:00Z,2026-11-03T11:00:00Z,0.5\n",
        "8,p2,bob,2026-11-05T08:00:00Z,2026-11-05T09:30:00Z,4\n",
    ];
    std::fs::write(&log, header.to_owned() + &jobs.concat()).unwrap();
    let first = look(&*python, None).await.unwrap();
    assert_eq!((first.quarantined.len(), first.checkpoint.as_deref()), (0, Some("2026-11-05T10:00:00Z")));
    // 3600 s x 0.5 and 5400 s x 4.
    let both =
        ["core_seconds delta 1800 project=p1 user=alice", "core_seconds delta 21600 project=p2 user=bob"];
    assert_eq!(shown(&first.readings), both);
    assert_eq!(first.readings[0].id.as_deref(), Some("7"));
    assert_eq!(first.readings[0].span.start().to_string(), "2026-11-03T10:00:00Z");
    // The day before the checkpoint is read again: a job that reached the log late is found, and an identity counts once.
    let again = look(&*python, first.checkpoint.as_deref()).await.unwrap();
    assert_eq!(shown(&again.readings), both[1..]);
    // A log that can't be read is no empty one.
    std::fs::remove_file(&log).unwrap();
    let error = look(&*python, None).await.unwrap_err().0;
    assert!(error.contains("FileNotFoundError"), "{error}");
}

#[tokio::test]
async fn the_rust_file_is_this_one_and_works() {
    assert_eq!(block("rust"), include_str!("interfaces.rs"), "the page shows the file as it is");
    let root = machine();
    let rust = |names: &str| {
        collector(&interfaces::PLUGIN, &format!("interfaces: {names}\nroot: {}", root.path().display()))
    };
    let batch = look(&*rust("[eth0]"), None).await.unwrap();
    assert_eq!(
        shown(&batch.readings),
        [
            "sent_bytes counter 18446744073709551615 interface=eth0",
            "received_bytes counter 4096 interface=eth0"
        ]
    );
    assert_eq!(batch.problems, vec![]);
    // What is not there is a problem, and the rest counts.
    let part = look(&*rust("[eth9, eth0]"), None).await.unwrap();
    assert_eq!((part.readings.len(), part.problems.len()), (2, 2));
    assert!(
        part.problems[0].text.starts_with("can't read /sys/class/net/eth9/statistics/tx_bytes: No such file")
    );
    // Its readings are those that it offers.
    let kinds: Vec<(&str, Kind)> =
        batch.readings.iter().map(|reading| (reading.name.as_str(), reading.kind)).collect();
    let offered: Vec<(&str, Kind)> = rust("[eth0]").offers().iter().map(|one| (one.name, one.kind)).collect();
    assert_eq!(kinds, offered);
    // A mistake in the file is told with its remedy.
    let (mut section, problems) = Section::parse("{}");
    assert!((interfaces::PLUGIN.build)(&mut section).is_none());
    assert!(problems.list()[0].to_string().contains("`interfaces` is missing"));
}
