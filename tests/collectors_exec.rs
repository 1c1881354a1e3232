//! Real programs through the exec collector: what counts, what does not, and that nothing is left running.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use waldur_usage_agent::collectors::{Batch, Collector, CollectorError, Request, exec};
use waldur_usage_agent::config::section::Section;

/// Longer than anything here takes, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(30);

fn collector(keys: &str) -> Box<dyn Collector> {
    let (mut section, problems) = Section::parse(keys);
    let collector = (exec::PLUGIN.build)(&mut section);
    section.finish();
    assert_eq!(problems.list(), vec![], "{keys}");
    collector.unwrap()
}

/// A collector that runs a line of bash.
fn bash(script: &str, keys: &str) -> Box<dyn Collector> {
    collector(&format!("command: [bash, -c, {}]\n{keys}", serde_json::to_string(script).unwrap()))
}

fn request() -> Request {
    Request {
        now: "2026-11-05T10:00:00Z".parse().unwrap(),
        since: "2026-11-01T00:00:00Z".parse().unwrap(),
        checkpoint: None,
        withhold: Vec::new(),
    }
}

async fn run(script: &str, keys: &str) -> Result<Batch, CollectorError> {
    let started = Instant::now();
    let result = bash(script, keys).collect(request()).await;
    assert!(started.elapsed() < PATIENCE, "it hung for {:?}", started.elapsed());
    result
}

fn values(batch: &Batch) -> Vec<String> {
    batch.readings.iter().map(|reading| format!("{} {}", reading.name, reading.value)).collect()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs: it exists and is not merely a name that its parent has not read the end of.
fn runs(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    !matches!(state, None | Some('Z' | 'X'))
}

/// The pid that a script wrote to a file.
async fn pid_in(file: &Path) -> String {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    until("the script writes its pid", || read().ends_with('\n')).await;
    read().trim().to_owned()
}

#[tokio::test]
async fn lines_become_readings() {
    let script = r#"echo '{"name":"seats","kind":"gauge","value":"12"}'; echo nonsense >&2; echo nonsense
        printf '{"name":"seats","kind":"gauge","value":0.10,"labels":{"project":"p1"}}'"#;
    let batch = run(script, "").await.unwrap();
    assert_eq!(values(&batch), ["seats 12", "seats 0.1"]);
    assert_eq!(batch.quarantined.len(), 1);
    assert_eq!((batch.problems.len(), batch.lists_everything), (0, false));
    // What it says beside its answer is shown, and no failure.
    assert_eq!(batch.notes, ["it said on stderr: nonsense"]);
}

#[tokio::test]
async fn a_program_learns_the_time_the_start_and_its_own_checkpoint() {
    let script = r#"cat; printf '{"checkpoint":"%s after %s|%s|%s|%s"}\n' "$WALDUR_USAGE_NOW" "$WALDUR_USAGE_SINCE" \
        "${WALDUR_USAGE_CHECKPOINT-none}" "$SERVER" "$#""#;
    let first = bash(script, "env: [SERVER=27000@licence.example.com]").collect(request()).await.unwrap();
    let checkpoint = first.checkpoint.unwrap();
    assert_eq!(
        checkpoint,
        "2026-11-05T10:00:00Z after 2026-11-01T00:00:00Z|none|27000@licence.example.com|0"
    );
    let next = Request { checkpoint: Some("job 7; ö".to_owned()), ..request() };
    let second = bash(script, "").collect(next).await.unwrap();
    assert_eq!(second.checkpoint.unwrap(), "2026-11-05T10:00:00Z after 2026-11-01T00:00:00Z|job 7; ö||0");
}

/// A program with history that prints jobs behind its checkpoint. One of them can't be read until somebody mends it: it is
/// asked for again once a day, with the checkpoint of then, and counts when it is mended.
#[tokio::test]
async fn a_line_of_history_that_could_not_be_read_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (jobs, asked) = (dir.path().join("jobs"), dir.path().join("asked"));
    let write = |value: &str| std::fs::write(&jobs, format!("1 5\n2 {value}\n3 7\n")).unwrap();
    let script = format!(
        r#"from=${{WALDUR_USAGE_CHECKPOINT-0}}; echo "$from" >> {}
        while read -r n v; do if [ "$n" -gt "$from" ]; then
            echo "{{\"name\":\"used\",\"kind\":\"delta\",\"id\":$n,\"value\":\"$v\",\"at\":\"2026-11-04T00:00:00Z\"}}"
        fi; done < {}
        echo '{{"checkpoint":"3"}}'"#,
        asked.display(),
        jobs.display()
    );
    let collector = bash(&script, "");
    let mut checkpoint = None;
    let mut look = async |now: &str| {
        let request = Request { now: now.parse().unwrap(), checkpoint: checkpoint.take(), ..request() };
        let batch = collector.collect(request).await.unwrap();
        checkpoint.clone_from(&batch.checkpoint);
        let from = std::fs::read_to_string(&asked).unwrap().lines().last().unwrap().to_owned();
        (from, values(&batch).join(", "), batch.quarantined.len(), batch.problems.len())
    };
    let text = |from: &str, read: &str, bad, problems| (from.to_owned(), read.to_owned(), bad, problems);
    write("many");
    assert_eq!(look("2026-11-05T10:00:00Z").await, text("0", "used 5, used 7", 1, 0));
    assert_eq!(look("2026-11-05T11:00:00Z").await, text("3", "", 0, 0));
    assert_eq!(look("2026-11-06T10:00:00Z").await, text("0", "used 5, used 7", 1, 0));
    assert_eq!(look("2026-11-06T11:00:00Z").await, text("3", "", 0, 0));
    write("6");
    assert_eq!(look("2026-11-10T10:00:00Z").await, text("0", "used 5, used 6, used 7", 0, 0));
    assert_eq!(look("2026-11-12T10:00:00Z").await, text("3", "", 0, 0));
    // And not for ever.
    write("many");
    checkpoint = None;
    let mut look = async |now: &str| {
        let request = Request { now: now.parse().unwrap(), checkpoint: checkpoint.take(), ..request() };
        let batch = collector.collect(request).await.unwrap();
        checkpoint.clone_from(&batch.checkpoint);
        (batch.quarantined.len(), batch.problems.len())
    };
    assert_eq!(look("2026-11-05T10:00:00Z").await, (1, 0));
    assert_eq!(look("2026-11-19T09:00:00Z").await, (1, 0));
    assert_eq!(look("2026-11-20T09:00:00Z").await, (1, 1));
    assert_eq!(look("2026-11-21T09:00:00Z").await, (0, 0));
    assert_eq!(checkpoint.as_deref(), Some("3"));
}

#[tokio::test]
async fn half_an_answer_of_a_program_that_fails_is_none() {
    let script = r#"echo '{"name":"seats","kind":"gauge","value":"12"}'
        for i in $(seq 5000); do echo "row $i"; done >&2; echo 'no licence server' >&2; exit 3"#;
    let error = run(script, "").await.unwrap_err().0;
    assert!(error.starts_with("`bash`: it failed with exit code 3; stderr: "), "{error}");
    assert!(error.ends_with("row 5000\nno licence server"), "{error}");
    let shown = error.split_once("stderr: ").unwrap().1;
    assert_eq!(shown.chars().count(), 2_000);

    let error = run("kill -SEGV $$", "").await.unwrap_err().0;
    assert_eq!(error, "`bash`: it was ended by SIGSEGV; it said nothing on stderr");
}

#[tokio::test]
async fn a_program_that_can_not_be_started_is_told_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "#!/bin/sh\n").unwrap();
    let plain = plain.display();
    for (command, reason) in [
        ("[/nonexistent/licences.py]".to_owned(), "No such file or directory (os error 2); install it"),
        (
            "/bin/echo --all".to_owned(),
            "No such file or directory (os error 2); write a program with arguments as",
        ),
        (format!("[{plain}]"), "Permission denied (os error 13); make it executable"),
    ] {
        let error = collector(&format!("command: {command}")).collect(request()).await.unwrap_err().0;
        assert!(error.contains(&format!("could not be started: {reason}")), "{error}");
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    // Neither ends when it is asked to.
    let script = format!(
        "trap '' TERM; echo $$ > {}; bash -c \"trap '' TERM; while :; do sleep 1000; done\" & echo $! > {}
         echo '{{\"name\":\"a\",\"kind\":\"gauge\",\"value\":1}}'; echo busy >&2; while :; do wait; done",
        parent.display(),
        child.display()
    );
    let error = run(&script, "timeout: 1s").await.unwrap_err().0;
    assert!(error.starts_with("`bash`: it did not end within 1s and was stopped;"), "{error}");
    assert!(error.ends_with("stderr: busy"), "{error}");
    for file in [&parent, &child] {
        let pid = pid_in(file).await;
        until("the process is gone", || !runs(&pid)).await;
    }
}

#[tokio::test]
async fn a_program_that_nobody_waits_for_any_more_is_ended_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, child) = (dir.path().join("parent"), dir.path().join("child"));
    let script = format!(
        "bash -c \"trap '' TERM; while :; do sleep 1000; done\" & echo $! > {}; echo $$ > {}; wait",
        child.display(),
        parent.display()
    );
    let collector = bash(&script, "");
    let running = tokio::spawn(async move { collector.collect(request()).await.map(|_| ()) });
    let (child, parent) = (pid_in(&child).await, pid_in(&parent).await);
    assert!(runs(&child) && runs(&parent));
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    until("the child is gone", || !runs(&child)).await;
    until("the parent is gone", || !runs(&parent)).await;
}

#[test]
fn nothing_is_left_running_when_the_runtime_ends() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 1000; done", file.display());
    let pid = runtime.block_on(async {
        let collector = bash(&script, "");
        tokio::spawn(async move { collector.collect(request()).await.map(|_| ()) });
        pid_in(&file).await
    });
    drop(runtime);
    let started = Instant::now();
    while runs(&pid) {
        assert!(started.elapsed() < PATIENCE, "it still runs");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_does_not_hold_up_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let script = format!(
        "sleep 1000 & echo $! > {}; echo '{{\"name\":\"a\",\"kind\":\"gauge\",\"value\":1}}'",
        file.display()
    );
    let batch = run(&script, "").await.unwrap();
    assert_eq!(values(&batch), ["a 1"]);
    assert_eq!(batch.notes, ["it left processes behind when it ended, which were stopped"]);
    let pid = pid_in(&file).await;
    until("the process is gone", || !runs(&pid)).await;
}

#[tokio::test]
async fn what_a_program_leaves_behind_may_finish_a_line() {
    let script = r#"(read -t 0.3 < <(:); echo '{"name":"late","kind":"gauge","value":1}') & exit 0"#;
    let batch = run(script, "").await.unwrap();
    assert_eq!((values(&batch), batch.notes.len()), (vec!["late 1".to_owned()], 0));
}

#[tokio::test]
async fn even_what_has_left_the_process_group_does_not_hold_up_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let script = format!(
        "setsid bash -c 'echo $$ > {}; exec sleep 1000' & echo '{{\"name\":\"a\",\"kind\":\"gauge\",\"value\":1}}'
         until [ -s {} ]; do :; done",
        file.display(),
        file.display()
    );
    let batch = run(&script, "").await.unwrap();
    let pid = pid_in(&file).await;
    Command::new("kill").arg(&pid).status().unwrap();
    assert_eq!(values(&batch), ["a 1"]);
    assert_eq!(batch.notes.len(), 1);
}

#[tokio::test]
async fn a_program_that_prints_without_end_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let error =
        run(&format!("echo $$ > {}; exec yes '#'", file.display()), "max_output: 64KiB").await.unwrap_err().0;
    assert!(error.starts_with("`bash`: it printed more than 65536 bytes and was stopped"), "{error}");
    let pid = pid_in(&file).await;
    until("the process is gone", || !runs(&pid)).await;
    // Exactly the bound is still an answer.
    let full = "head -c 65535 /dev/zero | tr '\\0' '#'; echo";
    assert_eq!(run(full, "max_output: 64KiB").await.unwrap().quarantined, vec![]);
    // Complaints have no bound: only their end is kept.
    let loud = "head -c 50000000 /dev/zero | tr '\\0' 'x' >&2; exit 1";
    assert!(run(loud, "").await.unwrap_err().0.len() < 2_200);
}

const SECRETS: [(&str, &str); 6] = [
    ("WALDUR_TOKEN", "s3cr3t"),
    ("MY_OWN_TOKEN", "s3cr3t"),
    ("CREDENTIALS_DIRECTORY", "/run/credentials/s3cr3t"),
    ("NOTIFY_SOCKET", "/run/s3cr3t"),
    ("WATCHDOG_USEC", "30000000"),
    ("LISTEN_FDS", "3"),
];

#[test]
fn the_token_stays_with_the_agent() {
    // The environment can only be set for a new process: this test, once more.
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "inner_environment_of_a_program", "--ignored", "--nocapture"]);
    again.envs(SECRETS).env("OTHER", "kept");
    let output = again.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{output:?}");
}

#[tokio::test]
#[ignore = "run by the_token_stays_with_the_agent"]
async fn inner_environment_of_a_program() {
    assert_eq!(std::env::var("WALDUR_TOKEN").as_deref(), Ok("s3cr3t"), "run by another test");
    let script = r#"env | grep -E '^(WALDUR_TOKEN|MY_OWN_TOKEN|CREDENTIALS|NOTIFY|WATCHDOG|LISTEN)|s3cr3t' && exit 9
        printf '{"checkpoint":"%s %s"}' "$OTHER" "${PATH:+path}""#;
    let request = Request { withhold: vec!["MY_OWN_TOKEN".to_owned()], ..request() };
    let batch = bash(script, "").collect(request).await.unwrap();
    assert_eq!(batch.checkpoint.as_deref(), Some("kept path"));
}

/// Every example that is shipped prints lines that are read without a complaint.
#[tokio::test]
async fn the_shipped_examples_print_valid_lines() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/exec");
    let mut examples: Vec<PathBuf> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.sort();
    assert!(examples.len() >= 2, "{examples:?}");
    for example in examples {
        let keys = format!("command: {}\nenv: [EXAMPLE_DIRECTORY={}]", example.display(), dir.display());
        let batch = collector(&keys).collect(request()).await.unwrap();
        assert!(!batch.readings.is_empty(), "{example:?} printed nothing");
        assert_eq!((batch.quarantined, batch.notes), (vec![], vec![]), "{example:?}");
    }
}
