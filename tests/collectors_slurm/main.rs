//! The slurm collector against recorded answers of sacct: what becomes of them, what it asks, and what the operator reads
//! when it fails. A real cluster is in tests/slurm.sh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]
#![allow(unreachable_pub, reason = "modules of one test program")]

mod odd;
mod site;

use std::fs;
use std::path::Path;

use waldur_usage_agent::collectors::{Batch, IN_MEMORY, Request, slurm};
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::metering::reading::{Kind, Reading};

use site::*;

/// A reading as tests/slurm/oracle.py prints it.
fn line(reading: &Reading) -> String {
    assert_eq!(reading.kind, Kind::Delta);
    let label = |name: &str| reading.labels.get(name).map_or("", String::as_str);
    let labels = ["account", "user", "partition", "qos", "cluster", "state", "reservation"].map(label);
    format!(
        "{}|{}|{}|{}|{}|{}",
        reading.name,
        reading.id.as_deref().unwrap(),
        reading.span.start().as_second(),
        reading.span.end().as_second(),
        reading.value.normalize(),
        labels.join("|")
    )
}

fn lines(batch: &Batch) -> Vec<String> {
    let mut lines: Vec<String> = batch.readings.iter().map(line).collect();
    lines.sort();
    lines
}

/// `name value` of each reading.
fn values(batch: &Batch) -> Vec<String> {
    let value = |reading: &Reading| format!("{} {}", reading.name, reading.value.normalize());
    batch.readings.iter().map(value).collect()
}

/// 22.05 is a real cluster's answer; the others follow what their versions do differently. What is expected stands beside
/// each, reckoned by tests/slurm/oracle.py, which shares no code with the collector.
#[tokio::test]
async fn the_answers_of_several_versions_become_the_readings_that_were_worked_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/golden");
    for (version, now) in [
        ("20.11", 1_604_300_000),
        ("21.08", 1_635_001_000),
        ("22.05.8", 1_795_415_186),
        ("23.11", 1_700_100_000),
        ("24.05", 1_717_200_130),
    ] {
        let read = |kind: &str| fs::read_to_string(folder.join(format!("{version}.{kind}"))).unwrap();
        let site = Site::new(&read("sacct"));
        let batch = site.run("", at(now)).await.unwrap();
        assert_eq!(batch.quarantined, vec![], "{version}");
        let expected = read("readings");
        assert_eq!(lines(&batch), expected.lines().collect::<Vec<_>>(), "{version}");
    }
}

#[tokio::test]
async fn one_call_asks_for_whole_records_of_everybody_in_utc() {
    let site = Site::new(HEADER);
    let request = Request { since: "2026-11-01T00:00:00Z".parse().unwrap(), ..at(NOW) };
    let batch = site.run("", request).await.unwrap();
    let asked = site.asked();
    assert_eq!(
        asked,
        [
            "TZ=UTC SLURM_TIME_FORMAT=%s CLUSTERS=none --parsable2 --noconvert --duplicates --allocations --allusers \
          --format=JobIDRaw,Submit,Start,End,ElapsedRaw,State,Account,User,Partition,QOS,Cluster,Reservation,AllocTRES \
          --local --starttime=2026-11-01T00:00:00 --endtime=2026-11-05T10:00:00"
        ]
    );
    assert!(batch.readings.is_empty() && batch.quarantined.is_empty() && batch.problems.is_empty());
    assert!(!batch.lists_everything);
}

#[tokio::test]
async fn what_was_requested_is_read_by_choice() {
    let site = Site::new(&HEADER.replace("AllocTRES", "ReqTRES"));
    site.run("tres: requested\n", at(NOW)).await.unwrap();
    assert!(site.asked()[0].contains(",Reservation,ReqTRES "));
}

#[tokio::test]
async fn only_what_a_meter_wants_is_made() {
    let job = "7|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|alpha||billing=9,cpu=2,gres/gpu:a100=1,gres/gpu=1,mem=1M,node=1\n";
    let site = Site::new(&format!("{HEADER}{job}"));
    let meters = "meters: { g: { reading: 'gpu:a100_seconds' }, c: { reading: cpu_seconds } }\n";
    let (mut section, _) = Section::parse(&format!("programs: {}\n{meters}", site.folder.path().display()));
    let collector = (slurm::PLUGIN.build)(&mut section).unwrap();
    assert_eq!(values(&collector.collect(at(NOW)).await.unwrap()), ["cpu_seconds 20", "gpu:a100_seconds 10"]);
    assert_eq!(collector.kind_of("gpu:a100_seconds"), Some(Kind::Delta));
    assert_eq!(collector.kind_of("cpus_seconds"), None);
}

/// SLURM is asked for an hour that was read before, and once a day for three days.
#[tokio::test]
async fn an_hour_is_read_again_each_time_and_days_once_a_day() {
    let site = Site::new(HEADER);
    let mut checkpoint = None;
    let day = 86_400;
    for (second, keys, windows) in [
        (0, "", vec!["2020-01-01T00:00:00 2026-11-05T10:00:00"]),
        (600, "", vec!["2026-11-05T09:00:00 2026-11-05T10:10:00"]),
        (1_200, "", vec!["2026-11-05T09:10:00 2026-11-05T10:20:00"]),
        (1_800, "overlap: 6h\n", vec!["2026-11-05T04:20:00 2026-11-05T10:30:00"]),
        (day - 1, "", vec!["2026-11-05T09:30:00 2026-11-06T09:59:59"]),
        // What is new comes first.
        (day, "", vec!["2026-11-06T08:59:59 2026-11-06T10:00:00", "2026-11-03T09:59:59 2026-11-06T08:59:59"]),
        (day + 600, "", vec!["2026-11-06T09:00:00 2026-11-06T10:10:00"]),
        (2 * day - 1, "overlap: 5d\n", vec!["2026-11-01T10:10:00 2026-11-07T09:59:59"]),
        (
            2 * day,
            "",
            vec!["2026-11-07T08:59:59 2026-11-07T10:00:00", "2026-11-04T09:59:59 2026-11-07T08:59:59"],
        ),
        (2 * day + 600, "", vec!["2026-11-07T09:00:00 2026-11-07T10:10:00"]),
    ] {
        let batch = site.run(keys, Request { checkpoint, ..at(NOW + second) }).await.unwrap();
        checkpoint = batch.checkpoint;
        let asked = site.asked();
        let asked =
            asked.iter().map(|line| line.split_once("--starttime=").unwrap().1.replace("--endtime=", ""));
        assert_eq!(asked.collect::<Vec<_>>(), windows, "{second}");
    }
}

#[tokio::test]
async fn the_next_window_begins_an_overlap_before_the_last_one_ended() {
    let site = Site::new(HEADER);
    let first = site.run("", at(NOW)).await.unwrap();
    site.asked();
    // The agent was away for nine days.
    let next = Request { checkpoint: first.checkpoint.clone(), ..at(NOW + 9 * 86_400) };
    site.run("", next.clone()).await.unwrap();
    let asked = site.asked();
    assert!(asked[0].ends_with("--starttime=2026-11-05T09:00:00 --endtime=2026-11-14T10:00:00"), "{asked:?}");
    assert!(asked[1].ends_with("--starttime=2026-11-02T10:00:00 --endtime=2026-11-05T09:00:00"), "{asked:?}");
    site.run("overlap: 5d\n", next.clone()).await.unwrap();
    assert!(site.asked()[0].ends_with("--starttime=2026-10-31T10:00:00 --endtime=2026-11-14T10:00:00"));
    // Other readings than those of then have not been read up to anywhere.
    site.run("lower_case: true\n", next).await.unwrap();
    assert!(site.asked()[0].ends_with("--starttime=2020-01-01T00:00:00 --endtime=2026-11-14T10:00:00"));
}

/// What ended before the agent took over is another's to bill, though the overlap is longer than the agent is old.
#[tokio::test]
async fn no_overlap_reaches_back_behind_where_history_was_wanted_from() {
    let site = Site::new(HEADER);
    let since = |text: &str| text.parse().unwrap();
    let first = site.run("", Request { since: since("2026-11-04T00:00:00Z"), ..at(NOW) }).await.unwrap();
    site.asked();
    let next = |wanted: &str, checkpoint: &Option<String>, now: i64| Request {
        since: since(wanted),
        checkpoint: checkpoint.clone(),
        ..at(now)
    };
    let second = site.run("", next("2026-11-04T00:00:00Z", &first.checkpoint, NOW + 600)).await.unwrap();
    assert!(site.asked()[0].ends_with("--starttime=2026-11-05T09:00:00 --endtime=2026-11-05T10:10:00"));
    // A month later three days are read again, into the month before, but still not behind the beginning.
    let later = NOW + 26 * 86_400;
    let third = site.run("", next("2026-12-01T00:00:00Z", &second.checkpoint, later)).await.unwrap();
    let asked = site.asked();
    assert!(asked[0].ends_with("--starttime=2026-11-05T09:10:00 --endtime=2026-12-01T10:00:00"), "{asked:?}");
    assert!(asked[1].ends_with("--starttime=2026-11-04T00:00:00 --endtime=2026-11-05T09:10:00"), "{asked:?}");
    let fourth = site.run("", next("2026-12-01T00:00:00Z", &third.checkpoint, later + 600)).await.unwrap();
    assert!(site.asked()[0].ends_with("--starttime=2026-12-01T09:00:00 --endtime=2026-12-01T10:10:00"));
    // Unless it is wanted from earlier.
    site.run("", next("2026-10-01T00:00:00Z", &fourth.checkpoint, later + 1200)).await.unwrap();
    assert!(site.asked()[0].ends_with("--starttime=2026-10-01T00:00:00 --endtime=2026-12-01T10:20:00"));
}

#[tokio::test]
async fn a_running_job_grows_under_the_same_id_and_a_requeued_one_keeps_what_it_used() {
    let cpu = |batch: &Batch| -> Vec<String> {
        lines(batch).into_iter().filter(|line| line.starts_with("cpu_seconds")).collect()
    };
    let running = "21|1793870000|1793872000|Unknown|800|RUNNING|a|u|p|q|alpha||cpu=4,mem=1M,node=1\n";
    let site = Site::new(&format!("{HEADER}{running}"));
    let first = site.run("", at(NOW)).await.unwrap();
    assert_eq!(
        cpu(&first),
        ["cpu_seconds|alpha/21/1793870000|1793872000|1793872800|3200|a|u|p|q|alpha|RUNNING|"]
    );
    let ended = "21|1793870000|1793872000|1793872900|900|REQUEUED|a|u|p|q|alpha||cpu=4,mem=1M,node=1\n\
                 21|1793872905|1793872910|1793872920|10|COMPLETED|a|u|p|q|alpha||cpu=2,mem=1M,node=1\n";
    site.write("answer", &format!("{HEADER}{ended}"));
    let next = Request { checkpoint: first.checkpoint, ..at(NOW + 600) };
    let second = site.run("", next).await.unwrap();
    assert_eq!(
        cpu(&second),
        [
            "cpu_seconds|alpha/21/1793870000|1793872000|1793872900|3600|a|u|p|q|alpha|REQUEUED|",
            "cpu_seconds|alpha/21/1793872905|1793872910|1793872920|20|a|u|p|q|alpha|COMPLETED|",
        ]
    );
}

/// A runaway job that an administrator repaired ended before any window, and would be billed to this day.
#[tokio::test]
async fn a_job_that_ran_and_is_not_listed_any_more_is_asked_for_by_its_number() {
    let running = |number: u32, submit: i64| {
        format!("{number}|{submit}|1793440000|Unknown|432800|RUNNING|a|u|p|q|alpha||cpu=1,mem=1M,node=1\n")
    };
    let site = Site::new(&format!("{HEADER}{}{}", running(21, 1_793_430_000), running(22, 1_793_430_001)));
    let first = site.run("", at(NOW)).await.unwrap();
    site.asked();
    site.write("answer", HEADER);
    // Its record of now, one of another life of that number, and nothing of number 22.
    let repaired = "21|1793430000|1793440000|1793440100|100|COMPLETED|a|u|p|q|alpha||cpu=1,mem=1M,node=1\n\
                    21|1793420000|1793420001|1793420002|1|REQUEUED|a|u|p|q|alpha||cpu=1,mem=1M,node=1\n";
    site.write("jobs", &format!("{HEADER}{repaired}"));
    let next = Request { checkpoint: first.checkpoint, ..at(NOW + 600) };
    let second = site.run("", next).await.unwrap();
    let asked = site.asked();
    assert!(asked[1].ends_with("--local --jobs=21,22 --starttime=2010-01-01T00:00:00"), "{asked:?}");
    assert_eq!(
        lines(&second).into_iter().filter(|line| line.starts_with("cpu")).collect::<Vec<_>>(),
        ["cpu_seconds|alpha/21/1793430000|1793440000|1793440100|100|a|u|p|q|alpha|COMPLETED|"]
    );
    assert_eq!(second.quarantined.len(), 1);
    assert_eq!(second.quarantined[0].what, "alpha/22/1793430001");
    assert!(second.quarantined[0].reason.contains("slurmdbd no longer knows it"), "{:?}", second.quarantined);
    // Said once.
    let third = Request { checkpoint: second.checkpoint, ..at(NOW + 1_200) };
    assert_eq!(site.run("", third).await.unwrap().quarantined, vec![]);
    assert_eq!(site.asked().len(), 1);
}

#[tokio::test]
async fn a_bad_line_is_quarantined_and_the_others_count() {
    let good = |number| {
        format!("{number}|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|alpha||cpu=2,mem=1M,node=1\n")
    };
    let bad = [
        ("nonsense\n", "line 3: it has 1 columns instead of 13"),
        (
            "7|1793870000|1793870000|1793870010|10|COMPLETED|a|b|ug|p|q|alpha||cpu=2\n",
            "line 4: it has 14 columns instead of 13",
        ),
        (
            "8|1793870000|2026-11-05T09:00:00|1793870010|10|COMPLETED|a|u|p|q|alpha||cpu=2\n",
            "line 5: its Start `2026-11-05T09:00:00` is no number of seconds since 1970: sacct does not heed SLURM_TIME_FORMAT=%s",
        ),
        (
            "9|1793870000|1793870000|1793870010|ten|COMPLETED|a|u|p|q|alpha||cpu=2\n",
            "line 6: its ElapsedRaw `ten` is no number of seconds",
        ),
        (
            "10|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|alpha||cpu=x\n",
            "line 7: `cpu=x` has no plain count",
        ),
        (
            "11|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|alpha||\n",
            "line 8: it ran for 10 s, but its AllocTRES says nothing of what it had",
        ),
        (
            "12|1793870010|1793870010|1793870000|10|COMPLETED|a|u|p|q|alpha||cpu=1\n",
            "line 9: it ends at 2026-11-05T09:13:20Z, before it starts at 2026-11-05T09:13:30Z",
        ),
        (
            "|1793870010|1|2|10|COMPLETED|a|u|p|q|alpha||cpu=1\n",
            "line 10: it has no number, time of submission or cluster",
        ),
    ];
    let text: String = bad.iter().map(|(line, _)| *line).collect();
    let site = Site::new(&format!("{HEADER}{}{text}{}", good(1), good(2)));
    let batch = site.run("", at(NOW)).await.unwrap();
    let reasons: Vec<&str> = batch.quarantined.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(reasons, bad.map(|(_, reason)| reason));
    assert_eq!(batch.quarantined[0].what, "nonsense");
    let cpu = values(&batch).into_iter().filter(|line| line.starts_with("cpu")).collect::<Vec<_>>();
    assert_eq!(cpu, ["cpu_seconds 20", "cpu_seconds 20"]);
    assert!(batch.problems.is_empty(), "the run is whole");

    // A sacct that prints something else altogether does not fill the memory.
    let site = Site::new(&format!("{HEADER}{}", "nonsense\n".repeat(5_000)));
    let batch = site.run("", at(NOW)).await.unwrap();
    assert_eq!((batch.quarantined.len(), batch.quarantined[1_000].reason.as_str()), (1_001, "and 4000 more"));
}

#[tokio::test]
async fn no_part_of_half_an_answer_counts() {
    let job = "7|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|alpha||cpu=2,mem=1M,node=1\n";
    let site = Site::new(&format!("{HEADER}{job}{}", &job[..40]));
    let error = site.fails("").await;
    assert!(
        error.ends_with(
            "/sacct`: its answer breaks off in the middle of line 3: 7|1793870000|1793870000|1793870010|10|CO"
        ),
        "{error}"
    );
    site.write("answer", "");
    assert!(site.fails("").await.ends_with("it printed nothing, not even the names of the columns"));
    site.write("answer", &HEADER.replace("|QOS", ""));
    let error = site.fails("").await;
    assert!(error.contains("its answer lacks the columns QOS: it begins with `JobIDRaw|Submit|"), "{error}");
    site.write("answer", &HEADER.replace("Submit|Start", "Start|Submit"));
    assert!(site.fails("").await.contains("its columns are not those that it was asked for"));
    site.write("answer", &format!("{HEADER}{job}"));
    site.program("sacct", "cat answer; kill -SEGV $$");
    assert!(site.fails("").await.ends_with("it was ended by SIGSEGV; it said nothing on stderr"));
}

#[tokio::test]
async fn each_failure_is_told_in_the_words_of_who_failed() {
    let site = Site::new(HEADER);
    // As recorded of 22.05.8.
    let down = "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to \
                host:127.0.0.1:16819: Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n\
                sacct: error: Problem talking to the database: Connection refused";
    site.program("sacct", &format!("echo '{down}' >&2; exit 1"));
    let error = site.fails("").await;
    assert!(
        error.contains("/sacct`: it failed with exit code 1; stderr: sacct: error: slurm_persist_conn"),
        "{error}"
    );
    assert!(error.ends_with("Problem talking to the database: Connection refused"), "{error}");

    site.program("sacct", "echo 'sacct: error: Invalid field requested: \"Reservation\"' >&2; exit 1");
    assert!(site.fails("").await.ends_with("stderr: sacct: error: Invalid field requested: \"Reservation\""));

    site.program("sacct", "trap '' TERM; cat answer; while :; do sleep 1000; done");
    // An hour, and then half of one, which is not halved again.
    let request = Request { since: at(NOW - 3_600).now, ..at(NOW) };
    let error = site.run("timeout: 1s\n", request).await.unwrap_err().0;
    assert!(
        error.contains("it did not end within 1s and was stopped; see whether slurmdbd answers (sacctmgr show configuration)"),
        "{error}"
    );

    let missing = "programs: /nonexistent\n";
    let (mut section, _) = Section::parse(missing);
    let error = (slurm::PLUGIN.build)(&mut section).unwrap().collect(at(NOW)).await.unwrap_err().0;
    assert!(
        error.starts_with("`/nonexistent/sacct`: it could not be started: No such file or directory (os error 2); install it"),
        "{error}"
    );
}

#[tokio::test]
async fn several_clusters_are_asked_one_by_one_and_an_unknown_one_is_no_empty_one() {
    let job = "7|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|CLUSTER||cpu=2\n";
    let site = Site::new("");
    site.program(
        "sacct",
        &format!(
            "echo \"$@\" >> asked\ncase \"$*\" in *clusters=alpha*) c=alpha ;; *) c=beta ;; esac\n\
             printf '%s' '{HEADER}{job}' | sed s/CLUSTER/$c/"
        ),
    );
    let batch = site.run("clusters: [alpha, beta]\n", at(NOW)).await.unwrap();
    let ids: Vec<_> = lines(&batch).into_iter().filter(|line| line.starts_with("cpu")).collect();
    assert_eq!(
        ids,
        [
            "cpu_seconds|alpha/7/1793870000|1793870000|1793870010|20|a|u|p|q|alpha|COMPLETED|",
            "cpu_seconds|beta/7/1793870000|1793870000|1793870010|20|a|u|p|q|beta|COMPLETED|",
        ]
    );
    assert_eq!(site.asked().len(), 2);
    let error = site.fails("clusters: [alpha, gamma]\n").await;
    assert_eq!(error, "slurmdbd has no cluster `gamma`; it has alpha, beta. Correct `clusters`");
    assert!(site.asked().is_empty());
    site.program("sacct", "echo 'no route' >&2; exit 1");
    let error = site.fails("clusters: [beta]\n").await;
    assert!(
        error.contains("/sacct` for the cluster beta: it failed with exit code 1; stderr: no route"),
        "{error}"
    );
}

#[tokio::test]
async fn usage_of_sub_accounts_carries_the_account_above_them() {
    let job = |number: u32, account: &str| {
        format!("{number}|1793870000|1793870000|1793870010|10|COMPLETED|{account}|u|p|q|alpha||cpu=2\n")
    };
    let all = ["Proj-A", "sub-a", "gone", "top", "stranger"];
    let text: String = all.iter().zip(1..).map(|(account, number)| job(number, account)).collect();
    let site = Site::new(&format!("{HEADER}{text}"));
    site.write("assoc", "alpha|root||\nalpha|root||root\nalpha|top|root|\nalpha|Proj-A|top|\nalpha|Proj-A||u\nalpha|sub-a|Proj-A|\n");
    site.write("deleted", "alpha|gone|Proj-A|\nalpha|sub-a|top|\n");
    let accounts = |batch: &Batch| -> Vec<String> {
        let cpu = batch.readings.iter().filter(|reading| reading.name == "cpu_seconds");
        cpu.map(|reading| format!("{} {}", reading.labels["account"], reading.labels["top_account"]))
            .collect()
    };
    let batch = site.run("account_level: 2\n", at(NOW)).await.unwrap();
    assert_eq!(accounts(&batch), ["Proj-A Proj-A", "sub-a Proj-A", "gone Proj-A", "top top"]);
    assert_eq!(batch.quarantined.len(), 1);
    assert_eq!(batch.quarantined[0].reason, "line 6: sacctmgr knows no account `stranger` in alpha");
    let batch = site.run("account_level: 2\nlower_case: true\n", at(NOW)).await.unwrap();
    assert_eq!(accounts(&batch), ["proj-a proj-a", "sub-a proj-a", "gone proj-a", "top top"]);
    // Without a level there is no such label, and so no meter is led to believe that there is one.
    assert!(!site.collector("").labels().contains(&"top_account"));
    assert!(site.collector("account_level: 1\n").labels().contains(&"top_account"));
}

#[tokio::test]
async fn more_than_memory_should_hold_lies_outside_of_it() {
    let mut text = HEADER.to_owned();
    for number in 0..5_000 {
        text += &format!("{number}|1793870000|1793870000|1793870010|10|COMPLETED|a|u|p|q|alpha||cpu=2\n");
    }
    let site = Site::new(&text);
    let mut batch = site.run("", at(NOW)).await.unwrap();
    assert_eq!((batch.readings.len(), batch.more.len()), (IN_MEMORY, 10_000 - IN_MEMORY));
    let all =
        std::mem::take(&mut batch.readings).into_iter().chain(batch.more.read().unwrap().map(Result::unwrap));
    let ids: Vec<String> =
        all.filter(|reading| reading.name == "cpu_seconds").map(|reading| reading.id.unwrap()).collect();
    assert_eq!(ids, (0..5_000).map(|number| format!("alpha/{number}/1793870000")).collect::<Vec<_>>());
}

#[test]
fn mistakes_are_told_all_at_once() {
    let keys = "programs: bin\nslurm_conf: x\nclusters: [alpha, 'a,b']\ntres: both\naccount_level: 0\nlower_case: 2\n\
                overlap: 3\ntimeout: 1\nclustres: x\n";
    let (mut section, problems) = Section::parse(keys);
    (slurm::PLUGIN.build)(&mut section);
    section.finish();
    let told: Vec<String> = problems.list().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "line 1: programs: `bin` must be an absolute path",
            "line 2: slurm_conf: `x` must be an absolute path",
            "line 3: clusters: `a,b` is not the name of a cluster",
            "line 4: tres: `both` is neither `allocated` nor `requested`",
            "line 5: account_level: `0` is no level: 1 is an account right below root, 2 one below that",
            "line 6: lower_case: must be true or false, not `2`",
            "line 7: overlap: `3` needs a unit: 3s for seconds, 3m for minutes",
            "line 8: timeout: `1` needs a unit: 1s for seconds, 1m for minutes",
            "line 9: clustres: unknown key `clustres`; did you mean `clusters`?",
        ]
    );
}
