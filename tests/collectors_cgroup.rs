//! The cgroup collector on the machine at hand, whichever version it has. What needs a controller or a right that is
//! not here is skipped by name; with CI_REQUIRE_REAL set it fails instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

mod skip;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skip::skip;
use waldur_usage_agent::collectors::{Batch, Collector, Request, cgroup};
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::metering::reading::Reading;

const ROOT: &str = "/sys/fs/cgroup";
const PATIENCE: Duration = Duration::from_secs(30);

fn collector(slices: &str) -> Box<dyn Collector> {
    let (mut section, problems) = Section::parse(&format!("slices: {slices}\n"));
    let collector = (cgroup::PLUGIN.build)(&mut section);
    section.finish();
    assert_eq!(problems.list(), vec![]);
    collector.unwrap()
}

async fn look(collector: &dyn Collector) -> Batch {
    let now = "2026-11-05T10:00:00Z".parse().unwrap();
    collector.collect(Request { now, since: now, checkpoint: None, withhold: Vec::new() }).await.unwrap()
}

fn find<'a>(batch: &'a Batch, name: &str) -> Option<&'a Reading> {
    batch.readings.iter().find(|reading| reading.name == name)
}

/// A group of our own in every hierarchy that lets us make one. Removed at the end, with what runs in it.
struct Group {
    name: String,
    dirs: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Group {
    fn make(test: &str) -> Option<Group> {
        let name = format!("waldur-usage-test-{}-{test}.scope", std::process::id());
        let below = ["unified", "cpuacct", "memory", "blkio", "pids"].map(|part| Path::new(ROOT).join(part));
        let bases = std::iter::once(PathBuf::from(ROOT)).chain(below);
        let bases = bases.filter(|base| base.join("cgroup.procs").exists());
        let dirs = bases.map(|base| base.join(&name)).filter(|dir| fs::create_dir(dir).is_ok());
        let group = Group { dirs: dirs.collect(), name, children: Vec::new() };
        if group.dirs.is_empty() {
            skip(test, &format!("no cgroup can be made under {ROOT} (needs root and a writable mount)"));
            return None;
        }
        Some(group)
    }

    /// Starts a program that ends when its stdin does, and moves it into the group before it begins.
    fn start(&mut self, script: &str) -> u32 {
        let script = format!("read -r go; {script}");
        let mut command = Command::new("bash");
        let mut child = command.args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        for dir in &self.dirs {
            fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let id = child.id();
        self.children.push(child);
        id
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

#[tokio::test]
async fn processor_time_grows_while_it_is_burnt_and_never_falls() {
    let Some(mut group) = Group::make("cpu") else { return };
    let collector = collector(&group.name);
    group.start("while :; do :; done");
    let started = Instant::now();
    let mut last: Option<Reading> = None;
    loop {
        let batch = look(&*collector).await;
        assert_eq!(batch.problems, vec![]);
        let cpu = find(&batch, "cpu_seconds").expect("every kernel counts processor time").clone();
        if let Some(last) = &last {
            assert!(cpu.value >= last.value, "{} fell to {}", last.value, cpu.value);
            assert_eq!((&cpu.labels, &cpu.epoch), (&last.labels, &last.epoch));
        }
        assert_eq!(cpu.labels["path"], group.name);
        if cpu.value > "0.2".parse().unwrap() {
            break;
        }
        last = Some(cpu);
        assert!(started.elapsed() < PATIENCE, "no processor time was counted");
    }
}

#[tokio::test]
async fn processes_are_counted_while_they_are_there() {
    let Some(mut group) = Group::make("processes") else { return };
    let collector = collector(&group.name);
    assert_eq!(find(&look(&*collector).await, "processes").unwrap().value.to_string(), "0");
    group.start("read -r end");
    group.start("read -r end");
    let batch = look(&*collector).await;
    assert_eq!(find(&batch, "processes").unwrap().value.to_string(), "2");
    match find(&batch, "tasks") {
        Some(tasks) => assert_eq!(tasks.value.to_string(), "2"),
        None => skip("tasks", "no pids controller"),
    }
    match find(&batch, "memory_bytes") {
        Some(memory) => {
            assert!(memory.value.is_sign_positive());
            assert!(find(&batch, "memory_working_set_bytes").unwrap().value <= memory.value);
        }
        None => skip("memory", "no memory controller"),
    }
}

#[tokio::test]
async fn a_group_that_is_made_again_is_another_life() {
    let Some(group) = Group::make("again") else { return };
    let collector = collector(&group.name);
    let first = look(&*collector).await;
    let first = find(&first, "cpu_seconds").unwrap().clone();
    let name = group.name.clone();
    for dir in &group.dirs {
        fs::remove_dir(dir).unwrap();
    }
    let between = look(&*collector).await;
    assert!(between.readings.is_empty() && between.problems.is_empty(), "{between:?}");
    assert!(between.notes[0].contains("matches no group now"), "{:?}", between.notes);
    for dir in &group.dirs {
        fs::create_dir(dir).unwrap();
    }
    let second = look(&*collector).await;
    let second = find(&second, "cpu_seconds").unwrap();
    assert_eq!(second.labels["path"], name);
    assert_eq!(second.labels, first.labels);
    assert_ne!(second.epoch, first.epoch);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(second.epoch.id.as_ref().unwrap().starts_with(boot.trim()));
}

#[tokio::test]
async fn the_root_and_the_own_group_can_be_read() {
    if !Path::new(ROOT).join("cgroup.procs").exists() && !Path::new(ROOT).join("cpuacct").exists() {
        return skip("the root", &format!("no cgroup file system at {ROOT}"));
    }
    let batch = look(&*collector("[., self]")).await;
    assert_eq!(batch.problems, vec![]);
    for path in [".", "self"] {
        let cpu = batch.readings.iter().find(|r| r.name == "cpu_seconds" && r.labels["path"] == path);
        match cpu {
            Some(cpu) => assert!(cpu.value > "0".parse().unwrap(), "{cpu:?}"),
            None => skip(path, "this kernel has no cpu.stat in the root group"),
        }
    }
}
