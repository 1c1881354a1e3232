//! What sacct really prints, and what is right then: each kind of odd line, refusal and silence, with the readings worked
//! out by hand.

use std::collections::BTreeSet;

use waldur_usage_agent::collectors::{Batch, Bearing, Request};

use super::site::*;

const METERS: &str = "meters: { c: { reading: cpu_seconds }, g: { reading: gpu_seconds } }\n";
const DAY: i64 = 86_400;

/// A finished job of an hour that ended so many seconds before NOW, with two CPUs.
fn job(number: u32, ago: i64) -> String {
    with(number, ago, "3600", "cpu=2,mem=1M,node=1")
}

fn with(number: u32, ago: i64, elapsed: &str, tres: &str) -> String {
    let end = NOW - ago;
    let start = end - 3_600;
    format!("{number}|{start}|{start}|{end}|{elapsed}|COMPLETED|acc|u|p|q|alpha||{tres}\n")
}

/// A run as the agent makes it: what the collector says, judged.
async fn look(site: &Site, checkpoint: Option<String>, second: i64) -> Result<Batch, String> {
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    let request = Request { since, checkpoint, ..at(second) };
    let now = request.now;
    let mut batch = site.collector_with_meters(METERS).collect(request).await.map_err(|error| error.0)?;
    let metered = BTreeSet::from(["cpu_seconds", "gpu_seconds"]);
    batch.finish(now, &metered).map_err(|error| error.0)?;
    Ok(batch)
}

/// `number reading value` of each reading.
fn used(batch: &Batch) -> Vec<String> {
    let mut used: Vec<String> = batch
        .readings
        .iter()
        .map(|reading| {
            let number = reading.id.as_deref().unwrap().split('/').nth(1).unwrap();
            format!("{number} {} {}", reading.name, reading.value.normalize())
        })
        .collect();
    used.sort();
    used
}

/// Whether any job was asked for by its number.
fn by_number(asked: &[String]) -> bool {
    asked.iter().any(|line| line.contains("--jobs="))
}

fn reasons(batch: &Batch) -> Vec<&str> {
    batch.quarantined.iter().map(|bad| bad.reason.as_str()).collect()
}

/// (what sacct prints of job 1, what is billed of it, why not). Job 2 is sound, and always counts.
#[tokio::test]
async fn each_odd_line_is_worth_what_it_is_worth() {
    let hour = "3600";
    let cases: [(String, &[&str], Option<&str>); 19] = [
        // What nobody meters costs nothing, in whatever unit or words.
        (
            with(1, 60, hour, "billing=4,cpu=4,gres/gpu=1,gres/gpumem=20480M,mem=16G,node=1"),
            &["1 cpu_seconds 14400", "1 gpu_seconds 3600"],
            None,
        ),
        (
            with(1, 60, hour, "billing=1.5e,cpu=2,mem=512,node=,bb/x=1T,fs,vmem=?"),
            &["1 cpu_seconds 7200"],
            None,
        ),
        (
            with(1, 60, hour, "cpu=9,gres/cpu=9,gres/gpu:a100_3g.20gb=1,gres/gpu=1"),
            &["1 cpu_seconds 32400", "1 gpu_seconds 3600"],
            None,
        ),
        // Windows' ends of lines, and no time at all.
        (job(1, 60).replace('\n', "\r\n"), &["1 cpu_seconds 7200"], None),
        (with(1, 60, "0", "cpu=2"), &["1 cpu_seconds 0"], None),
        // Suspended for most of it.
        (with(1, 60, "600", "cpu=2"), &["1 cpu_seconds 1200"], None),
        // More time than there was: 2^32 - 1200, as of a counter that went below zero; or a second.
        (
            with(1, 60, "4294966096", "cpu=2"),
            &[],
            Some(
                "line 2: its ElapsedRaw says 4294966096 s, which is more than the 3600 s between its Start and its End",
            ),
        ),
        (
            with(1, 60, "3601", "cpu=2"),
            &[],
            Some(
                "line 2: its ElapsedRaw says 3601 s, which is more than the 3600 s between its Start and its End",
            ),
        ),
        // What is metered and can't be read.
        (with(1, 60, hour, "cpu=many"), &[], Some("line 2: `cpu=many` has no plain count")),
        (with(1, 60, hour, "cpu=2,gres/gpu=2K"), &[], Some("line 2: `gres/gpu=2K` has no plain count")),
        (
            with(1, 60, hour, ""),
            &[],
            Some("line 2: it ran for 3600 s, but its AllocTRES says nothing of what it had"),
        ),
        (
            with(1, -600, hour, "cpu=2"),
            &[],
            Some(
                "line 2: its time 2026-11-05T10:10:00Z lies in the future (now is 2026-11-05T10:00:00Z); is a clock wrong?",
            ),
        ),
        // SLURM's number for "not known" costs itself alone; what every job has and this one lacks, the job.
        (
            with(1, 60, hour, "cpu=2,gres/gpu=4294967294"),
            &["1 cpu_seconds 7200"],
            Some("line 2: `gres/gpu=4294967294` is SLURM's number for what is not known or has no end"),
        ),
        (
            with(1, 60, hour, "cpu=18446744073709551614,gres/gpu=1"),
            &["1 gpu_seconds 3600"],
            Some("line 2: `cpu=18446744073709551614` is SLURM's number for what is not known or has no end"),
        ),
        (
            with(1, 60, hour, "billing=4,gres/gpu=1,mem=16G,node=1"),
            &[],
            Some("line 2: its AllocTRES names no cpu, which every job that ran had"),
        ),
        (
            with(1, 60, hour, "cpu=2,gres/gpu:a=1,gres/gpu:a=2"),
            &[],
            Some("line 2: `gres/gpu:a` is there twice"),
        ),
        // A line beyond all measure is that line's trouble.
        (
            with(1, 60, hour, &format!("cpu=2,{}", "x".repeat(70_000))),
            &[],
            Some("line 2: it has more than 65536 bytes"),
        ),
        (job(1, 60).replace("|acc|", "|a|cc|"), &[], Some("line 2: it has 14 columns instead of 13")),
        (
            job(1, 60) + &with(1, 60, hour, "cpu=3"),
            &[],
            Some("which is meant can't be known, so none counts"),
        ),
    ];
    for (lines, billed, why) in cases {
        let site = Site::new(&format!("{HEADER}{lines}{}", job(2, 120)));
        let batch = look(&site, None, NOW).await.unwrap();
        let mut right: Vec<String> = billed.iter().map(|text| (*text).to_owned()).collect();
        right.push("2 cpu_seconds 7200".to_owned());
        assert_eq!(used(&batch), right, "{lines}");
        match (reasons(&batch).as_slice(), why) {
            ([], None) => {}
            ([told], Some(why)) => assert!(*told == why || told.contains(why), "{told}"),
            (told, why) => panic!("{lines}: {told:?}, not {why:?}"),
        }
        // It is asked for again until it is mended; then it counts, and nobody asks any more.
        site.write("answer", &format!("{HEADER}{}", job(2, 120)));
        site.write("jobs", &format!("{HEADER}{}", job(1, 60)));
        site.asked();
        let later = look(&site, batch.checkpoint, NOW + 5 * DAY).await.unwrap();
        let asked = site.asked();
        match why {
            None => assert!(!by_number(&asked), "{lines}"),
            Some(_) => {
                assert!(asked.iter().any(|line| line.contains("--jobs=1 ")), "{asked:?}");
                assert_eq!(used(&later)[0], "1 cpu_seconds 7200", "{lines}");
                let done = look(&site, later.checkpoint, NOW + 6 * DAY).await.unwrap();
                assert!(!by_number(&site.asked()) && done.readings.is_empty(), "{lines}");
            }
        }
    }
}

/// Empty lines, a byte order mark, steps beside their jobs, and a job that waits: nothing that anybody need be told of.
#[tokio::test]
async fn what_stands_beside_jobs_is_no_job() {
    let waiting = "3|1793870000|Unknown|Unknown||PENDING|acc|u|p|q|alpha||\n";
    let step = job(2, 120).replacen("2|", "2.batch|", 1);
    let lines = format!("\u{feff}{HEADER}\n{}{step} \r\n{waiting}\n", job(2, 120));
    let batch = look(&Site::new(&lines), None, NOW).await.unwrap();
    assert_eq!(used(&batch), ["2 cpu_seconds 7200"]);
    assert_eq!(reasons(&batch), Vec::<&str>::new());
    assert_eq!(
        batch.notes,
        [
            "1 lines of steps are left out: their jobs' own lines say all. Does something between drop `--allocations`?"
        ]
    );
    let batch = look(&Site::new(&format!("\n{HEADER}{}", job(2, 120))), None, NOW).await.unwrap();
    assert_eq!(used(&batch), ["2 cpu_seconds 7200"]);
    // Steps alone would bill nobody, without a word.
    let said = look(&Site::new(&format!("{HEADER}{step}")), None, NOW).await.unwrap_err();
    assert!(said.contains("it lists steps and not the jobs they belong to"), "{said}");
    for empty in ["", "\n\n"] {
        let said = look(&Site::new(empty), None, NOW).await.unwrap_err();
        assert!(said.contains("it printed nothing, not even the names of the columns"), "{said}");
    }
}

/// A line with a user's name that is not UTF-8 is that job's trouble alone.
#[tokio::test]
async fn a_name_that_is_not_utf8_costs_its_job_alone_until_it_is_mended() {
    let site = Site::new(HEADER);
    let mut bytes = HEADER.as_bytes().to_vec();
    bytes.extend_from_slice(
        b"1|1793868000|1793868000|1793871600|3600|COMPLETED|acc|\xff\xfe|p|q|alpha||cpu=2\n",
    );
    bytes.extend_from_slice(job(2, 60).as_bytes());
    std::fs::write(site.path("answer"), bytes).unwrap();
    let batch = look(&site, None, NOW).await.unwrap();
    assert_eq!(used(&batch), ["2 cpu_seconds 7200"]);
    assert!(reasons(&batch)[0].starts_with("line 2: it is not UTF-8"), "{:?}", reasons(&batch));
    site.write("jobs", &format!("{HEADER}{}", job(1, 60)));
    site.write("answer", HEADER);
    let later = look(&site, batch.checkpoint, NOW + DAY).await.unwrap();
    assert_eq!(used(&later), ["1 cpu_seconds 7200"]);
}

#[tokio::test]
async fn what_a_job_line_bears_on_is_its_account() {
    let site = Site::new(&format!("{HEADER}{}nonsense\n{}", with(1, 60, "3600", "cpu=x"), job(2, 60)));
    let batch = look(&site, None, NOW).await.unwrap();
    assert_eq!(batch.quarantined[0].bears_on, Bearing::label("account", "acc"));
    assert_eq!(batch.quarantined[1].bears_on, Bearing::All);
}

/// Nothing was understood, whatever the exit code: that is no success, and the place from which is read does not move.
#[tokio::test]
async fn a_run_that_understood_nothing_has_failed() {
    let iso = job(1, 60).replace(&(NOW - 60).to_string(), "2026-11-05T09:59:00");
    for answer in [iso, "nonsense\n".repeat(20), with(1, -86_400, "3600", "cpu=1"), with(1, 60, "x", "cpu=2")]
    {
        let site = Site::new(&format!("{HEADER}{answer}"));
        let said = look(&site, None, NOW).await.unwrap_err();
        assert!(said.contains(" be read") && said.contains("Nothing of it counts"), "{said}");
    }
    // Nothing there is another thing.
    let site = Site::new(HEADER);
    assert!(look(&site, None, NOW).await.unwrap().readings.is_empty());
    // And a bad line that is known, beside nothing new, is no news.
    let site = Site::new(&format!("{HEADER}{}{}", with(1, 60, "3600", "cpu=x"), job(2, 60)));
    let first = look(&site, None, NOW).await.unwrap();
    site.write("answer", &format!("{HEADER}{}", with(1, 60, "3600", "cpu=x")));
    let second = look(&site, first.checkpoint, NOW + 600).await.unwrap();
    assert_eq!((second.readings.len(), second.quarantined.len()), (0, 1));
}

#[tokio::test]
async fn an_error_on_stderr_without_a_job_is_no_empty_answer() {
    let site = Site::new(HEADER);
    site.program("sacct", "cat answer; echo 'sacct: error: slurmdbd: DBD_GET_JOBS_COND failure' >&2");
    let said = look(&site, None, NOW).await.unwrap_err();
    assert!(
        said.ends_with(
            "it lists no job, but says on stderr: sacct: error: slurmdbd: DBD_GET_JOBS_COND failure"
        ),
        "{said}"
    );
    // Beside jobs it is shown, and a warning is none.
    site.write("answer", &format!("{HEADER}{}", job(1, 60)));
    let batch = look(&site, None, NOW).await.unwrap();
    assert_eq!(batch.notes, ["sacct says: sacct: error: slurmdbd: DBD_GET_JOBS_COND failure"]);
    site.program("sacct", &format!("printf '%s' '{HEADER}'; echo 'sacct: warning: x' >&2"));
    assert_eq!(look(&site, None, NOW).await.unwrap().notes, ["sacct says: sacct: warning: x"]);
}

/// slurmdbd.conf's MaxQueryTimeRange: the month is read in windows that it takes, from its beginning.
#[tokio::test]
async fn a_window_that_is_refused_is_halved() {
    let site = Site::honest(&format!("{HEADER}{}{}{}", job(1, 4 * DAY), job(2, 2 * DAY), job(3, 60)));
    site.write("widest", &DAY.to_string());
    let batch = look(&site, None, NOW).await.unwrap();
    assert_eq!(used(&batch), ["1 cpu_seconds 7200", "2 cpu_seconds 7200", "3 cpu_seconds 7200"]);
    assert_eq!((batch.problems.as_slice(), batch.quarantined.as_slice()), (&[][..], &[][..]));
    // 4 days and 10 hours are refused, and so are their halves; then there are eight windows of 13 hours and a quarter.
    let asked = site.asked();
    assert_eq!(asked.len(), 3 + 8, "{asked:?}");
    assert!(asked[3].ends_with("--starttime=2026-11-01T00:00:00 --endtime=2026-11-01T13:15:00"), "{asked:?}");
    assert!(
        asked[10].ends_with("--starttime=2026-11-04T20:45:00 --endtime=2026-11-05T10:00:00"),
        "{asked:?}"
    );
    // A job that runs through all of them is one, and is not asked for by its number.
    let runs = "9|1793491200|1793491200|Unknown|381600|RUNNING|acc|u|p|q|alpha||cpu=1\n";
    let site = Site::honest(&format!("{HEADER}{runs}"));
    site.write("widest", &DAY.to_string());
    let batch = look(&site, None, NOW).await.unwrap();
    assert_eq!((used(&batch), batch.quarantined.len()), (vec!["9 cpu_seconds 381600".to_owned()], 0));
}

/// slurmdbd's own limit of how much it answers with, in the words that it has for it.
#[tokio::test]
async fn a_window_with_more_than_the_database_answers_with_is_halved() {
    let site = Site::honest(&format!("{HEADER}{}{}{}", job(1, 4 * DAY), job(2, 2 * DAY), job(3, 60)));
    site.write("widest", &(2 * DAY).to_string());
    site.write("size", "");
    let batch = look(&site, None, NOW).await.unwrap();
    assert_eq!(used(&batch), ["1 cpu_seconds 7200", "2 cpu_seconds 7200", "3 cpu_seconds 7200"]);
    assert_eq!((batch.problems.as_slice(), batch.quarantined.as_slice()), (&[][..], &[][..]));
    // 4 days and 10 hours are refused, and so are 2 days and 5 hours; then there are four windows of 26 hours and a half.
    assert_eq!(site.asked().len(), 2 + 4, "{:?}", site.asked());
}

/// A database that takes too long for a wide window: sacct is stopped, what it had printed by then counts not, and the month is
/// read by less.
#[tokio::test]
async fn a_window_that_does_not_come_in_time_is_halved() {
    let site = Site::honest(&format!("{HEADER}{}{}{}", job(1, 4 * DAY), job(2, 2 * DAY), job(3, 60)));
    // 4 days and 10 hours take too long, and so do 2 days and 5 hours; then there are four windows of 26 hours and a half.
    site.write("widest", &(2 * DAY).to_string());
    site.write("hangs", "");
    let request = Request { since: "2026-11-01T00:00:00Z".parse().unwrap(), ..at(NOW) };
    let batch = site.run("timeout: 5s\n", request).await.unwrap();
    let cpu: Vec<String> = used(&batch).into_iter().filter(|line| line.contains("cpu_seconds")).collect();
    assert_eq!(cpu, ["1 cpu_seconds 7200", "2 cpu_seconds 7200", "3 cpu_seconds 7200"]);
    assert_eq!((batch.problems.as_slice(), batch.quarantined.as_slice()), (&[][..], &[][..]));
    let asked = site.asked();
    assert_eq!(asked.len(), 2 + 4, "{asked:?}");
    assert!(asked[1].ends_with("--starttime=2026-11-01T00:00:00 --endtime=2026-11-03T05:00:00"), "{asked:?}");
    assert!(asked[2].ends_with("--starttime=2026-11-01T00:00:00 --endtime=2026-11-02T02:30:00"), "{asked:?}");
    assert!(asked[5].ends_with("--starttime=2026-11-04T07:30:00 --endtime=2026-11-05T10:00:00"), "{asked:?}");
}

/// What could be read before a window that can't stays read, and the next run goes on from there.
#[tokio::test]
async fn what_was_read_before_a_refusal_stays_read() {
    let site = Site::honest(&format!("{HEADER}{}{}", job(1, 4 * DAY), job(2, 60)));
    let honest = std::fs::read_to_string(site.path("sacct")).unwrap();
    let body = honest.lines().skip(2).collect::<Vec<_>>().join("\n");
    site.write("widest", &(3 * DAY).to_string());
    site.program(
        "sacct",
        &format!("case \"$*\" in *endtime=2026-11-05*) echo 'no route' >&2; exit 1 ;; esac\n{body}"),
    );
    // The whole is refused for another reason than its width: nothing was read.
    assert!(look(&site, None, NOW).await.unwrap_err().contains("no route"));
    site.program(
        "sacct",
        &format!(
            "case \"$*\" in *starttime=2026-11-01*endtime=2026-11-05*) ;; *endtime=2026-11-05*) echo 'no route' >&2; exit 1 ;; esac\n{body}"
        ),
    );
    let first = look(&site, None, NOW).await.unwrap();
    assert_eq!(used(&first), ["1 cpu_seconds 7200"]);
    let text = &first.problems[0].text;
    assert!(text.contains("no route") && text.contains("behind 2026-11-03T05:00:00Z"), "{text}");
    site.program("sacct", &body);
    site.asked();
    let second = look(&site, first.checkpoint, NOW + 600).await.unwrap();
    assert_eq!(used(&second), ["2 cpu_seconds 7200"]);
    let asked = site.asked();
    assert!(asked[0].contains("--starttime=2026-11-03T04:00:00 "), "{asked:?}");
}

/// A line that does not even tell which job's it is: its window is read again once a day, and after two weeks it is told.
#[tokio::test]
async fn a_window_with_a_line_of_nobody_is_read_again_for_two_weeks() {
    let torn = "x86|1793500000|1793500000|1793503600|3600|COMPLETED\n";
    let site = Site::honest(&format!("{HEADER}{torn}{}", job(2, 60)));
    let first = look(&site, None, NOW).await.unwrap();
    assert_eq!(reasons(&first), ["line 2: it has 6 columns instead of 13"]);
    site.asked();
    let mut checkpoint = first.checkpoint.clone();
    for day in 1..14 {
        let batch = look(&site, checkpoint, NOW + day * DAY).await.unwrap();
        assert_eq!((batch.quarantined.is_empty(), batch.problems.len()), (false, 0), "{day}");
        checkpoint = batch.checkpoint;
        let asked = site.asked();
        let is_part = |line: &String| line.contains("--starttime=2026-11-01T00:00:00 --endtime=2026-11-02");
        assert!(asked.iter().any(is_part), "{day}: {asked:?}");
    }
    let last = look(&site, checkpoint, NOW + 14 * DAY).await.unwrap();
    assert!(
        last.problems[0].text.contains("were read again for 14 days and are given up"),
        "{:?}",
        last.problems
    );
    site.asked();
    look(&site, last.checkpoint, NOW + 15 * DAY).await.unwrap();
    assert!(!site.asked().iter().any(|line| line.contains("--starttime=2026-11-01")));
    // Mended in time, it counts.
    let whole = "86|1793500000|1793500000|1793503600|3600|COMPLETED|acc|u|p|q|alpha||cpu=2\n";
    site.write("answer", &format!("{HEADER}{whole}{}", job(2, 60)));
    let mended = look(&site, first.checkpoint, NOW + 5 * DAY).await.unwrap();
    assert_eq!(used(&mended), ["86 cpu_seconds 7200"]);
    site.asked();
    look(&site, mended.checkpoint, NOW + 6 * DAY).await.unwrap();
    assert!(!site.asked().iter().any(|line| line.contains("--starttime=2026-11-01")));
}

#[tokio::test]
async fn a_job_that_is_never_mended_is_given_up_after_sixty_days_and_told() {
    let bad = with(1, 60, "3600", "cpu=x");
    let site = Site::new(&format!("{HEADER}{bad}{}", job(2, 60)));
    site.write("jobs", &format!("{HEADER}{bad}"));
    let first = look(&site, None, NOW).await.unwrap();
    site.write("answer", HEADER);
    let young = look(&site, first.checkpoint, NOW + 59 * DAY).await.unwrap();
    assert_eq!((young.quarantined.len(), young.problems.len()), (1, 0));
    let old = look(&site, young.checkpoint.clone(), NOW + 60 * DAY).await.unwrap();
    assert!(
        old.problems[0].text.starts_with("jobs that could not be read are given up and not billed: 1."),
        "{old:?}"
    );
    site.asked();
    look(&site, old.checkpoint, NOW + 61 * DAY).await.unwrap();
    assert!(!by_number(&site.asked()));
    // One that slurmdbd has forgotten is given up at once.
    site.write("jobs", HEADER);
    let gone = look(&site, young.checkpoint, NOW + 60 * DAY).await.unwrap();
    assert!(gone.problems[0].text.contains("slurmdbd no longer knows them"), "{gone:?}");
}

/// So many are remembered; those with the lowest numbers make room.
#[tokio::test]
async fn more_jobs_than_are_remembered_are_given_up_and_told() {
    let bad = |numbers: std::ops::RangeInclusive<u32>| -> String {
        numbers.map(|number| with(number, 60, "3600", "cpu=x")).collect()
    };
    let site = Site::new(&format!("{HEADER}{}{}", job(1, 60), bad(2..=10_001)));
    let full = look(&site, None, NOW).await.unwrap();
    assert_eq!(used(&full), ["1 cpu_seconds 7200"]);
    // A thousand are shown, and how many more there are.
    assert!(reasons(&full)[1000].contains("9000"), "{:?}", full.quarantined.last());
    assert_eq!(full.problems, []);
    let site = Site::new(&format!("{HEADER}{}{}", job(1, 60), bad(2..=10_003)));
    let over = look(&site, None, NOW).await.unwrap();
    assert_eq!(used(&over), ["1 cpu_seconds 7200"]);
    let told: Vec<&str> = over.problems.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("jobs that could not be read are given up and not billed: 2, 3."),
        "{told:?}"
    );
    assert!(told[0].contains("or there were more than 10000;"), "{told:?}");
}

/// What ended before the agent took over is another's to bill, whatever number it has.
#[tokio::test]
async fn a_number_that_was_given_out_before_brings_nothing_old() {
    let site = Site::new(&format!("{HEADER}{}{}", with(1, 60, "3600", "cpu=x"), job(2, 60)));
    let first = look(&site, None, NOW).await.unwrap();
    site.write("answer", HEADER);
    site.write("jobs", &format!("{HEADER}{}{}", job(1, 60), job(1, 400 * DAY)));
    let second = look(&site, first.checkpoint, NOW + 600).await.unwrap();
    assert_eq!(used(&second), ["1 cpu_seconds 7200"]);
}

/// Unchanged lines cost a hash: they make no reading again, and they are no reason to fail.
#[tokio::test]
async fn a_line_that_is_the_same_as_at_the_last_look_makes_no_reading_again() {
    let answer: String = (1..=1_000).map(|number| job(number, i64::from(number))).collect();
    let site = Site::new(&format!("{HEADER}{answer}"));
    let first = look(&site, None, NOW).await.unwrap();
    assert_eq!((first.readings.len(), first.known), (1_000, 0));
    // Ten of them change, one of them for the worse, and one runs.
    let runs = "2000|1793870000|1793870000|Unknown|2800|RUNNING|acc|u|p|q|alpha||cpu=1\n";
    let changed: String = (1..=1_000)
        .map(|number| match number % 100 {
            0 if number == 500 => with(number, i64::from(number), "3600", "cpu=x,node=1"),
            0 => with(number, i64::from(number), "3600", "cpu=4,node=1"),
            _ => job(number, i64::from(number)),
        })
        .collect();
    site.write("answer", &format!("{HEADER}{changed}{runs}"));
    let second = look(&site, first.checkpoint, NOW + 600).await.unwrap();
    assert_eq!((second.readings.len(), second.known, second.quarantined.len()), (9 + 1, 990, 1));
    // What could not be read is looked into again, and so is what runs, though its line be the same.
    let third = look(&site, second.checkpoint, NOW + 1_200).await.unwrap();
    let counts = (third.readings.len(), third.known, third.quarantined.len());
    assert_eq!(counts, (1, 999 + 1, 1));
    assert_eq!(third.readings[0].span.end(), at(NOW + 1_200).now);
    // Other readings, or another tree of accounts, are other lines.
    let request = Request { checkpoint: third.checkpoint, ..at(NOW + 1_800) };
    let batch = site
        .collector_with_meters("meters: { c: { reading: node_seconds } }\n")
        .collect(request)
        .await
        .unwrap();
    assert_eq!((batch.readings.len(), batch.known), (1_000, 0));
}

#[tokio::test]
async fn a_change_in_the_tree_of_accounts_is_read_into_every_job() {
    let site = Site::new(&format!("{HEADER}{}", job(1, 60)));
    site.write("deleted", "");
    site.write("assoc", "alpha|root||\nalpha|a|root|\nalpha|acc|a|\n");
    let keys = "account_level: 1\nmeters: { c: { reading: cpu_seconds } }\n";
    let collector = site.collector_with_meters(keys);
    let first = collector.collect(at(NOW)).await.unwrap();
    assert_eq!(first.readings[0].labels["top_account"], "a");
    let next = |checkpoint: &Option<String>| Request { checkpoint: checkpoint.clone(), ..at(NOW + 600) };
    assert_eq!(collector.collect(next(&first.checkpoint)).await.unwrap().readings, vec![]);
    site.write("assoc", "alpha|root||\nalpha|b|root|\nalpha|acc|b|\n");
    let moved = collector.collect(next(&first.checkpoint)).await.unwrap();
    assert_eq!(moved.readings[0].labels["top_account"], "b");
}

/// A clock that was ahead has read nothing of what was to come.
#[tokio::test]
async fn a_checkpoint_that_lies_ahead_is_none() {
    let site = Site::new(HEADER);
    let ahead = look(&site, None, NOW + 30 * DAY).await.unwrap();
    site.asked();
    look(&site, ahead.checkpoint, NOW).await.unwrap();
    assert!(site.asked()[0].ends_with("--starttime=2026-11-01T00:00:00 --endtime=2026-11-05T10:00:00"));
}

/// A GPU that the cluster does not count is in no line, and nothing in an answer tells.
#[tokio::test]
async fn what_slurmdbd_does_not_count_is_told_once() {
    let site = Site::new(HEADER);
    let tres = |list: &str| {
        site.program("sacctmgr", &format!("case \"$*\" in *'show tres'*) printf '{list}' ;; esac"))
    };
    for (list, told) in [
        ("cpu|\\nmem|\\nenergy|\\n", true),
        ("cpu|\\ngres|gpu\\n", false),
        ("cpu|\\ngres|gpu:a100\\n", false),
        ("cpu|\\ngres|gpumem\\n", true),
        ("", false),
    ] {
        tres(list);
        let batch = look(&site, None, NOW).await.unwrap();
        let said =
            batch.notes.iter().any(|note| note.contains("set AccountingStorageTRES=gres/gpu in slurm.conf"));
        assert_eq!(said, told, "{list}: {:?}", batch.notes);
        let again = look(&site, batch.checkpoint, NOW + 600).await.unwrap();
        assert_eq!(again.notes, Vec::<String>::new());
    }
}

/// A person who reads a month again makes nothing forgotten that lies before it.
#[tokio::test]
async fn what_could_not_be_read_is_carried_over_when_history_is_read_again() {
    let runs = "9|1793491200|1793491200|Unknown|381600|RUNNING|acc|u|p|q|alpha||cpu=1\n";
    let site = Site::new(&format!("{HEADER}{}{runs}", with(1, 60, "3600", "cpu=x")));
    let first = look(&site, None, NOW).await.unwrap();
    // `collect --since` of this morning lists neither.
    site.write("answer", HEADER);
    let again = look(&site, None, NOW + 600).await.unwrap();
    let collector = site.collector_with_meters(METERS);
    let kept = collector.carry_over(&first.checkpoint.unwrap(), again.checkpoint.unwrap());
    let ended = "9|1793491200|1793491200|1793872900|381700|COMPLETED|acc|u|p|q|alpha||cpu=1\n";
    site.write("jobs", &format!("{HEADER}{}{ended}", job(1, 60)));
    let third = look(&site, Some(kept), NOW + 1_200).await.unwrap();
    assert_eq!(used(&third), ["1 cpu_seconds 7200", "9 cpu_seconds 381700"]);
}
