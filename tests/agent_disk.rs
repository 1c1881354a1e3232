//! What disks do: a power cut that takes every write that was not synced, a torn or damaged WAL, a ledger that a backup
//! holds, one that became read-only, a slow one, and under a running daemon a full one, one that fails, one that is damaged or
//! locked. What was recorded is there, the true cause is told, and the agent goes on by itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::disk::*;
use agent::*;

/// Loaded before libc: keeps a copy of each ledger file as of its last sync, so that a test can take away what was not
/// synced; makes each sync slow if it is told to; and lets no write to the ledger through while there is a file `FAILING`.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void keep(int fd) {
    char link[64], path[PATH_MAX], part[PATH_MAX + 16], durable[PATH_MAX + 16], bytes[65536];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1), got;
    if (length <= 0) return;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    if (!name || strncmp(name, "/ledger.db", 10)) return;
    snprintf(part, sizeof part, "%s.part", path);
    snprintf(durable, sizeof durable, "%s.durable", path);
    int out = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    off_t at = 0;
    while ((got = pread(fd, bytes, sizeof bytes, at)) > 0) {
        if (write(out, bytes, got) != got) abort();
        at += got;
    }
    close(out);
    rename(part, durable);
}

static int fails(int fd) {
    char link[64], path[PATH_MAX];
    const char *failing = getenv("FAILING");
    if (!failing || access(failing, F_OK)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && !strcmp(name, "/ledger.db-wal");
}
ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (fails(fd)) { errno = EIO; return -1; }
    return real(fd, bytes, count);
}
static ssize_t pwrite_with(const char *name, int fd, const void *bytes, size_t count, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, name);
    if (fails(fd)) { errno = EIO; return -1; }
    return real(fd, bytes, count, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite_with("pwrite", fd, bytes, count, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) { return pwrite_with("pwrite64", fd, bytes, count, at); }

static int sync_with(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *slow = getenv("SLOW_SYNC_MS");
    if (slow) usleep(1000 * atoi(slow));
    int done = real(fd);
    if (!done && !slow) keep(fd);
    return done;
}
int unlink(const char *path) {
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    char durable[PATH_MAX + 16];
    int done = real(path);
    snprintf(durable, sizeof durable, "%s.durable", path);
    if (!done) real(durable);
    return done;
}
int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
"#;

/// The library, or `None` where there is no compiler.
fn shim(world: &World, test: &str) -> Option<PathBuf> {
    let (source, library) = (world.path("shim.c"), world.path("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .stderr(Stdio::null())
        .status();
    if done.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    skip(test, "a C compiler (cc)");
    None
}

const FILES: [&str; 3] = ["ledger.db", "ledger.db-wal", "ledger.db-journal"];

/// The power fails: of each file of the ledger there is what was synced last.
fn power_cut(world: &World) {
    for name in FILES {
        let (file, durable) = (world.path(name), world.path(&format!("{name}.durable")));
        if !file.exists() {
            continue;
        }
        match durable.exists() {
            true => drop(std::fs::copy(&durable, &file).unwrap()),
            false => std::fs::remove_file(&file).unwrap(),
        }
    }
    let _ = std::fs::remove_file(world.path("ledger.db-shm"));
}

/// What an agent without the library wrote is there for good.
fn all_is_synced(world: &World) {
    for name in FILES {
        let (file, durable) = (world.path(name), world.path(&format!("{name}.durable")));
        let _ = std::fs::remove_file(&durable);
        if file.exists() {
            std::fs::copy(file, durable).unwrap();
        }
    }
}

fn hour_of(id: usize) -> serde_json::Value {
    let (start, end) = ("2026-11-03T00:00:00Z", "2026-11-03T01:00:00Z");
    job("cpu_seconds", &format!("job-{id}"), start, end, "3600", &[])
}

/// Every job is told once. A run that was recorded is recorded, whatever the power does; the report of it is not lost,
/// nor made twice.
#[test]
fn a_power_cut_takes_nothing_that_was_recorded() {
    const TEST: &str = "a_power_cut_takes_nothing_that_was_recorded";
    let points = [
        ("after a run is committed", true),
        ("before totals are intended", true),
        ("before set_usage", true),
        ("after set_usage", true),
        ("before totals are acknowledged", true),
        ("after totals are acknowledged", true),
        ("before a run is committed", false),
    ];
    for api in BOTH {
        let world = World::new(api);
        let Some(library) = shim(&world, TEST) else { return };
        world.configure(&cpu_hours_of_a());
        let flush = |point: &str| -> Done {
            let mut command = world.command(&["flush", "--collect", "--deadline", "1s"]);
            command.env("LD_PRELOAD", &library).env("WALDUR_USAGE_AGENT_FAIL_POINT", point);
            command.output().unwrap().into()
        };
        let mut recorded = 0;
        for round in 0..21 {
            let (point, is_kept) = points[round % points.len()];
            world.readings(&[hour_of(round)]);
            flush(point).exits(137);
            recorded += usize::from(is_kept);
            power_cut(&world);
            world.agent(&["recount"]).exits(0);
            all_is_synced(&world);
        }
        world.readings(&[]);
        assert_eq!(flush("").code, 0, "{api}");
        power_cut(&world);
        assert_eq!(world.rows(A), [format!("cpu_hours 2026-11 {recorded}.00")], "{api}");
        assert_eq!(world.billed(A), world.rows(A), "{api}");
        world.flush().exits(0).says("Nothing was sent.");
    }
}

/// How many readings a copy of the ledger has, with so much of its WAL, as the agent itself opens it.
fn readings_with(world: &World, copy: &Path, wal: &[u8]) -> i64 {
    let _ = std::fs::remove_dir_all(copy);
    std::fs::create_dir(copy).unwrap();
    std::fs::copy(world.path("ledger.db"), copy.join("ledger.db")).unwrap();
    std::fs::write(copy.join("ledger.db-wal"), wal).unwrap();
    let config = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let config = config.replace(
        &world.path("ledger.db").display().to_string(),
        &copy.join("ledger.db").display().to_string(),
    );
    std::fs::write(copy.join("agent.yaml"), config).unwrap();
    let done = world.agent(&["--config", copy.join("agent.yaml").to_str().unwrap(), "recount"]);
    assert_eq!(done.code, 0, "{done:#?}");
    let ledger = rusqlite::Connection::open(copy.join("ledger.db")).unwrap();
    ledger.query_row("SELECT count(*) FROM reading", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_torn_or_damaged_wal_leaves_whole_runs() {
    const RUNS: i64 = 3;
    const A_RUN: i64 = 7;
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.agent(&["collect"]).exits(0);
    for run in 0..RUNS {
        let jobs: Vec<_> =
            (A_RUN * run..A_RUN * (run + 1)).map(|id| hour_of(usize::try_from(id).unwrap())).collect();
        world.readings(&jobs);
        world.flush_killed_at("after a run is committed").exits(137);
    }
    let wal = std::fs::read(world.path("ledger.db-wal")).unwrap();
    let page = u32::from_be_bytes(wal[8..12].try_into().unwrap()) as usize;
    let frames = (wal.len() - 32) / (24 + page);
    assert!(frames > 10, "{frames} frames");
    let copy = world.path("copy");
    assert_eq!(readings_with(&world, &copy, &wal), RUNS * A_RUN);
    let (mut last, mut seen) = (0, std::collections::BTreeSet::new());
    for frame in 0..=frames {
        let begin = 32 + frame * (24 + page);
        // At the boundary, within the frame's header, in the middle of its page, and a byte short of the next.
        for cut in [begin, begin + 9, begin + 24 + page / 2, begin + 23 + page] {
            let held = readings_with(&world, &copy, &wal[..cut.min(wal.len())]);
            assert!(held % A_RUN == 0 && held >= last, "{held} readings of a WAL cut at {cut}");
            (last, _) = (held, seen.insert(held));
        }
        if frame < frames {
            let mut damaged = wal.clone();
            damaged[begin + 24 + page / 3] ^= 0x40;
            let held = readings_with(&world, &copy, &damaged);
            assert!(held % A_RUN == 0 && held <= last, "{held} readings of a WAL damaged in frame {frame}");
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 7, 14, 21]);
}

#[test]
fn a_ledger_that_a_backup_holds_is_waited_for_and_told() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    world.readings(&[hour_of(1)]);
    world.flush().exits(0);
    // One that reads stops nobody.
    let backup = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    backup.execute_batch("BEGIN; SELECT count(*) FROM reading;").unwrap();
    world.readings(&[hour_of(2)]);
    world.flush().exits(0);
    backup.execute_batch("COMMIT; BEGIN EXCLUSIVE;").unwrap();
    world.readings(&[hour_of(3)]);
    let begun = Instant::now();
    let done = world.flush();
    assert_eq!(done.code, 75, "{done:#?}");
    done.says("is locked by another program");
    assert!(begun.elapsed() >= Duration::from_secs(10));
    backup.execute_batch("COMMIT").unwrap();
    // It begins while a collector is asked, and ends once there is something to record.
    let (asked, go, told) = (world.path("asked"), world.path("go"), world.path("told"));
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let file = world.path("readings").display().to_string();
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.01; done; cat {file}; touch {}",
        asked.display(),
        go.display(),
        told.display()
    );
    world.write("agent.yaml", &text.replace(&format!("[cat, {file}]"), &format!("[sh, -c, \"{script}\"]")));
    let waits =
        world.command(&["flush", "--collect"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the collector to be asked", || asked.exists());
    backup.execute_batch("BEGIN EXCLUSIVE").unwrap();
    std::fs::write(&go, "").unwrap();
    until("the collector to have told", || told.exists());
    backup.execute_batch("COMMIT").unwrap();
    let done: Done = waits.wait_with_output().unwrap().into();
    assert_eq!(done.code, 0, "{done:#?}");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00"]);
}

#[test]
fn a_ledger_that_became_read_only_is_told_and_goes_on_when_it_can_be_written() {
    const TEST: &str = "a_ledger_that_became_read_only_is_told_and_goes_on_when_it_can_be_written";
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let Some(disk) = small_disk(&world, TEST) else { return };
    world.readings(&[hour_of(1)]);
    world.flush().exits(0);
    assert!(mount(&["-o", "remount,ro", disk.0.to_str().unwrap()]));
    world.readings(&[hour_of(2)]);
    let done = world.flush();
    assert!([75, 78].contains(&done.code), "{done:#?}");
    done.says("read-only");
    // Nothing runs that could tell, and what was recorded is shown.
    let status = world.agent(&["status"]).exits(78);
    status
        .says("Ledger: it can't be written, so nothing is recorded or reported: the file system of")
        .says("is read-only")
        .says("1 resource: 1 agreed.");
    let failing = world.agent(&["status", "--json"]).exits(78).json()["ledger_failing"].clone();
    assert!(
        failing["since"].is_null() && failing["words"].as_str().unwrap().ends_with("is read-only"),
        "{failing}"
    );
    world.agent(&["run"]).exits(78).says("Read-only file system");
    assert!(mount(&["-o", "remount,rw", disk.0.to_str().unwrap()]));
    world.agent(&["status"]).exits(0).says_not("can't be written");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 2.00"]);
}

/// A daemon with its collector and submitter every second.
fn busy(world: &World) {
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let text = text.replace("schedule: \"@hourly\"", "schedule: every 1s");
    world.write("agent.yaml", &format!("submit: {{ schedule: every 1s }}\n{text}"));
}

#[test]
fn a_daemon_on_a_disk_that_is_full_goes_on_by_itself_when_there_is_room() {
    const TEST: &str = "a_daemon_on_a_disk_that_is_full_goes_on_by_itself_when_there_is_room";
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    busy(&world);
    let Some(disk) = small_disk(&world, TEST) else { return };
    // The clock moves two seconds at a time: no run is missed by that.
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let text = text.replace("    schedule: every 1s", "    schedule: every 10s");
    world.write("agent.yaml", &text);
    world.readings(&[hour_of(1)]);
    let (daemon, address) = served(&world, &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    // A disk of a megabyte is little from the beginning.
    assert!(get_from_socket(&world.path("page.sock"), "/").contains("0 MB are free on the disk of"));
    disk.fill();
    let jobs: Vec<_> = (0..500).map(hour_of).collect();
    world.readings(&jobs);
    world.in_time("the daemon to say so", || daemon.log().contains("no space left on the disk"));
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    is_told(&world, &address, "full", "no space left on the disk");
    // One fault is one line: no second one of the room, and none of runs that could not be recorded.
    let status = world.agent(&["status"]).exits(78).says("so nothing is recorded or reported");
    status.says_not("MB are free").says_not("were due since");
    assert_eq!(world.agent(&["status", "--json"]).json()["ledger_free_bytes"], 0);
    let room = get(&address, "/metrics").1;
    assert!(room.contains("waldur_usage_agent_ledger_free_bytes 0\n"), "{room}");
    // A full disk is no clock that was set.
    world.in_time("what was missed", || daemon.log().contains(" missed since "));
    let log = daemon.log();
    assert!(log.contains("because they could not be recorded") && !log.contains("clock was set"), "{log}");
    disk.make_room();
    world.in_time("the second report", || world.rows(A) == ["cpu_hours 2026-11 500.00"]);
    world.in_time("it is ready", || get(&address, "/ready").0 == 200);
    world.agent(&["recount"]).exits(0);
}

#[test]
fn a_full_disk_is_told_where_nothing_runs() {
    const TEST: &str = "a_full_disk_is_told_where_nothing_runs";
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    let Some(disk) = small_disk(&world, TEST) else { return };
    world.readings(&[hour_of(1)]);
    world.flush().exits(0);
    world.agent(&["check"]).exits(0).says("MB are free on the disk of the ledger");
    let is_told = || {
        let status = world.agent(&["status"]).exits(78);
        status.says("Ledger: 0 MB are free on the disk of").says("1 resource: 1 agreed.");
        world.agent(&["check"]).exits(78).says("no space left on the disk of the ledger");
        world.flush_once().exits(75).says("nothing can be recorded or reported").says("Free some space");
    };
    disk.fill();
    is_told();
    // A process that was killed has left a log, and nothing beside it says what is in there.
    disk.make_room();
    world.readings(&[hour_of(1)]);
    world.flush_killed_at("after a run is committed").exits(137);
    std::fs::remove_file(disk.0.join("ledger.db-shm")).unwrap();
    assert!(std::fs::metadata(disk.0.join("ledger.db-wal")).unwrap().len() > 0);
    disk.fill();
    is_told();
    disk.make_room();
    world.agent(&["recount"]).exits(0);
    world.agent(&["status"]).exits(0);
}

/// A daemon with health, metrics and the page, and where the first two are.
fn served(world: &World, environment: &[(&str, &str)]) -> (Daemon, String) {
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let page = format!("page: {{ listen: \"unix:{}\" }}", world.path("page.sock").display());
    world.write("agent.yaml", &format!("listen: 127.0.0.1:0\n{page}\n{text}"));
    let daemon = world.daemon(&[], environment);
    daemon.until_it_says("Ready");
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    (daemon, address.to_owned())
}

/// What keeps the ledger from being written is on the page of metrics, in `/ready`, in `status` and on the page for people.
#[track_caller]
fn is_told(world: &World, address: &str, reason: &str, words: &str) {
    let (code, ready) = get(address, "/ready");
    assert!(code == 503 && ready.contains(words), "{code} {ready}");
    let metrics = get(address, "/metrics").1;
    for line in ["ledger_failing 1".to_owned(), format!("ledger_failing_reason{{reason=\"{reason}\"}} 1")] {
        assert!(metrics.contains(&format!("waldur_usage_agent_{line}\n")), "{line}: {metrics}");
    }
    let reasons = metrics.lines().filter(|line| line.contains("ledger_failing_reason{"));
    assert_eq!(reasons.filter(|line| line.ends_with(" 0")).count(), 6, "{metrics}");
    world.agent(&["status"]).exits(78).says("Ledger: it can't be written since 12:").says(words);
    let page = get_from_socket(&world.path("page.sock"), "/");
    assert!(
        page.contains("The ledger can&#39;t be written: ") || page.contains("The ledger can't be written: "),
        "{page}"
    );
    assert!(page.contains(words), "{page}");
}

/// The disk fails under the ledger for a while, and another program locks it for longer than is waited for.
#[test]
fn a_ledger_that_can_not_be_written_for_a_while_is_told_with_its_cause() {
    const TEST: &str = "a_ledger_that_can_not_be_written_for_a_while_is_told_with_its_cause";
    let world = World::new(CURRENT);
    let Some(library) = shim(&world, TEST) else { return };
    world.configure(&cpu_hours_of_a());
    busy(&world);
    world.readings(&[hour_of(1)]);
    let (library, failing) = (library.display().to_string(), world.path("FAILING"));
    let environment =
        [("LD_PRELOAD", &*library), ("FAILING", failing.to_str().unwrap()), ("SLOW_SYNC_MS", "0")];
    let (daemon, address) = served(&world, &environment);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    let told = |reason: &str, words: &str| {
        world.in_time(words, || daemon.log().contains(words));
        world
            .in_time("status", || world.agent(&["status"]).out.contains("Ledger: it can't be written since"));
        is_told(&world, &address, reason, words);
    };
    std::fs::write(&failing, "").unwrap();
    world.readings(&[hour_of(1), hour_of(2)]);
    told("disk", "the disk failed under the ledger");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    std::fs::remove_file(&failing).unwrap();
    world.in_time("the second report", || world.rows(A) == ["cpu_hours 2026-11 2.00"]);
    world.in_time("it is ready", || get(&address, "/ready").0 == 200);
    world.in_time("status", || world.agent(&["status"]).code == 0);
    assert!(get(&address, "/metrics").1.contains("waldur_usage_agent_ledger_failing 0\n"));
    let other = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    world.readings(&[hour_of(1), hour_of(2), hour_of(3)]);
    told("locked", "is locked by another program");
    other.execute_batch("COMMIT").unwrap();
    world.in_time("the third report", || world.rows(A) == ["cpu_hours 2026-11 3.00"]);
    world.in_time("status", || world.agent(&["status"]).code == 0);
    world.agent(&["recount"]).exits(0);
}

/// What is in the file is no longer what was written, under a running daemon.
#[test]
fn a_ledger_that_is_damaged_under_a_daemon_is_told_and_nothing_more_is_sent() {
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_of_a());
    busy(&world);
    world.readings(&[hour_of(1)]);
    let (daemon, address) = served(&world, &[]);
    world.in_time("the first report", || world.rows(A) == ["cpu_hours 2026-11 1.00"]);
    // Another program's write, so that the daemon reads the file again; then a bad block over all of it.
    let other = rusqlite::Connection::open(world.path("ledger.db")).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); UPDATE server SET at = at").unwrap();
    for name in ["ledger.db", "ledger.db-wal"] {
        let path = world.path(name);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        // That it is a ledger can still be seen.
        let kept = if name == "ledger.db" { 4096 } else { 0 };
        let rest = usize::try_from(length).unwrap().saturating_sub(kept);
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; rest], kept as u64).unwrap();
    }
    world.readings(&[hour_of(1), hour_of(2)]);
    world.in_time("the log", || daemon.log().contains("is damaged"));
    world.in_time("the metric", || {
        get(&address, "/metrics")
            .1
            .contains("waldur_usage_agent_ledger_failing_reason{reason=\"damaged\"} 1\n")
    });
    let (code, ready) = get(&address, "/ready");
    assert!(
        code == 503 && ready.contains("is damaged") && ready.contains("To go on: stop the agent"),
        "{code} {ready}"
    );
    world.agent(&["status"]).exits(78).says("is damaged").says("To go on: stop the agent");
    let page = get_from_socket(&world.path("page.sock"), "/");
    assert!(page.contains(" 503 ") && page.contains("is damaged"), "{page}");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 1.00"]);
    world.agent(&["run"]).exits(78);
    // One line a change of state, not one a try.
    assert_eq!(daemon.log().matches("Submission failed").count(), 1, "{}", daemon.log());
}

/// Each sync takes a fifth of a second: everything is slower, and right. Health is answered meanwhile.
#[test]
fn a_slow_disk_only_makes_it_slower() {
    const TEST: &str = "a_slow_disk_only_makes_it_slower";
    let world = World::new(CURRENT);
    world.configure(&cpu_hours_by_user());
    busy(&world);
    let Some(library) = shim(&world, TEST) else { return };
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    world.write("agent.yaml", &format!("listen: 127.0.0.1:0\n{text}"));
    world.readings(&alice_and_bob());
    let library = library.to_str().unwrap();
    let mut daemon = world.daemon(&[], &[("LD_PRELOAD", library), ("SLOW_SYNC_MS", "200")]);
    world.in_time("the report", || world.shares(A).len() == 2);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 0.03"]);
    daemon.signal("TERM");
    assert_eq!(daemon.ends(), 0);
}
