//! What reading many jobs costs: the slurm collector against the plainest possible reader of the same bytes, and a run
//! as a whole, into the ledger; in microseconds of the processor a line, and the highest memory of the process. Each figure is taken in a
//! process of its own. Run with `cargo bench --bench slurm` (and numbers of jobs after `--`, if not the usual ones).

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use waldur_usage_agent::collectors::{Batch, Request, slurm};
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::meter::Rules;
use waldur_usage_agent::metering::period::BillingZone;

mod cpu;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const KEYS: &str = "    resource: { offering: 91ab0000-0000-4000-8000-000000000001, backend_id: '{account}' }\n    \
                    user: '{user}'\n    timeout: 10m\n    meters:\n      cpu_hours: { reading: cpu_seconds, factor: 1/3600 }\n      \
                    gpu_hours: { reading: gpu_seconds, factor: 1/3600 }\n";
/// When the last of the generated jobs has ended.
const NOW: &str = "2026-10-31T12:00:00Z";
/// The last reads the same once more, of which a hundredth has changed, with what the first look left behind.
const WAYS: [&str; 4] = ["plain", "collector", "ledger", "again"];

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with('-')).collect();
    if let [way, folder] = arguments.as_slice()
        && WAYS.contains(&way.as_str())
    {
        return measure(way, Path::new(folder));
    }
    let mut sizes: Vec<usize> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    if sizes.is_empty() {
        // `cargo test --benches` only asks whether it still runs.
        sizes = if cfg!(debug_assertions) { vec![1_000] } else { vec![10_000, 100_000, 1_000_000] };
    }
    println!("{:>10} {:>12} {:>14} {:>14} {:>12}", "jobs", "way", "seconds", "us a line", "peak MB");
    for jobs in sizes {
        let folder = tempfile::tempdir()?;
        let generate = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/generate.sh");
        let file = fs::File::create(folder.path().join("lines"))?;
        Command::new(generate).arg(jobs.to_string()).stdout(file).status()?;
        let sacct = folder.path().join("sacct");
        fs::write(&sacct, format!("#!/bin/sh\nexec cat {}\n", folder.path().join("lines").display()))?;
        fs::set_permissions(&sacct, fs::Permissions::from_mode(0o755))?;
        for way in WAYS {
            let mut again = Command::new(std::env::current_exe()?);
            let output = again.args([way.as_ref(), folder.path()]).stderr(Stdio::inherit()).output()?;
            let text = String::from_utf8(output.stdout)?;
            let Some((micros, peak)) = text.trim().split_once(' ') else {
                return Err(format!("{way} of {jobs} gave no figures: {text}").into());
            };
            let (micros, peak): (u64, u64) = (micros.parse()?, peak.parse()?);
            let a_line = micros * 100 / jobs as u64;
            println!(
                "{jobs:>10} {way:>12} {:>11}.{:02} {:>11}.{:02} {:>9}.{:01}",
                micros / 1_000_000,
                micros / 10_000 % 100,
                a_line / 100,
                a_line % 100,
                peak / 1000,
                peak / 100 % 10
            );
        }
    }
    Ok(())
}

/// Prints how many microseconds it took and the highest kilobytes.
fn measure(way: &str, folder: &Path) -> Outcome {
    let begun = match way {
        "plain" => {
            plain(folder)?;
            Duration::ZERO
        }
        _ => whole(way, folder)?,
    };
    let took = (cpu::of_process("self")? - begun).as_micros();
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    println!("{took} {}", peak.trim().trim_end_matches(" kB"));
    Ok(())
}

/// Lines from the same pipe, cut into columns; two of them multiplied and added up.
fn plain(folder: &Path) -> Outcome {
    let mut child = Command::new(folder.join("sacct")).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?);
    let (mut line, mut sum) = (String::new(), 0_u64);
    while lines.read_line(&mut line)? > 0 {
        let fields: Vec<&str> = line.trim_end().split('|').collect();
        let cpus = fields[12].split(',').find_map(|part| part.strip_prefix("cpu="));
        let of = |text: &str| text.parse::<u64>().unwrap_or(0);
        sum += of(fields[4]) * cpus.map_or(0, of);
        line.clear();
    }
    child.wait()?;
    assert!(sum > 0);
    Ok(())
}

/// The processor time that had been used when that began which is measured.
fn whole(way: &str, folder: &Path) -> Outcome<Duration> {
    let mut begun = Duration::ZERO;
    let yaml = format!("collectors:\n  c:\n    programs: {}\n{KEYS}", folder.display());
    let (mut root, problems) = Section::parse(&yaml);
    let mut section = root.named_sections("collectors").remove(0);
    let rules = Rules::from_section(&mut section).ok_or("no rules")?;
    let collector = (slurm::PLUGIN.build)(&mut section).ok_or("no collector")?;
    section.finish();
    assert_eq!(problems.list(), []);
    let now = NOW.parse()?;
    let mut request =
        Request { now, since: "2026-10-01T00:00:00Z".parse()?, checkpoint: None, withhold: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Batch { readings, mut more, quarantined, problems, checkpoint, .. } =
        runtime.block_on(collector.collect(request.clone()))?;
    assert!(quarantined.is_empty() && more.trouble().is_none());
    if way == "again" {
        let lines = fs::read_to_string(folder.join("lines"))?;
        let changed = lines.lines().enumerate().map(|(n, line)| match n % 100 {
            7 => line.replace(",mem=", ",mem=1") + "\n",
            _ => line.to_owned() + "\n",
        });
        fs::write(folder.join("lines"), changed.collect::<String>())?;
        request.checkpoint = checkpoint;
        begun = cpu::of_process("self")?;
        let batch = runtime.block_on(collector.collect(request))?;
        assert!(batch.known as usize > lines.lines().count() * 97 / 100);
        return Ok(begun);
    }
    if way == "ledger" {
        let rulebook = Rulebook { zone: BillingZone::utc(), rules: vec![rules] };
        let mut ledger = Ledger::open(&folder.join("ledger.db"), rulebook)?;
        ledger.apply_rules(now)?;
        let outcome =
            RunOutcome::Seen(Seen { readings, quarantined, problems, checkpoint, ..Seen::default() });
        let run = Run { collector: "c".to_owned(), at: now, finished: now, scope: String::new(), outcome };
        let recorded = ledger.record_all(run, &mut more)?;
        assert!(recorded.quarantined.is_empty() && recorded.new > 0);
    }
    Ok(begun)
}
