//! What one look of the collectors of a host costs: 12,000 control groups, and directories with many files beside `du` over
//! the same ones; in seconds of the processor, at 1x, 10x and 100x. Run with `cargo bench --bench collectors`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use waldur_usage_agent::collectors::{Batch, PLUGINS, Request};
use waldur_usage_agent::config::section::Section;

mod cpu;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    // `cargo test --benches` only asks whether it still runs.
    let (groups, files) = if cfg!(debug_assertions) {
        (vec![20], vec![100])
    } else {
        (vec![120, 1_200, 12_000], vec![10_000, 100_000, 1_000_000])
    };
    println!("{:>24} {:>9} {:>12} {:>8} {:>8}", "", "CPU s", "us a thing", "of du's", "peak MB");
    let of_whom =
        [("services", "system.slice/", ".service"), ("unknown users", "user.slice/user-", ".slice")];
    for (count, (what, before, after)) in groups.into_iter().flat_map(|count| of_whom.map(|of| (count, of))) {
        let folder = tempfile::tempdir()?;
        for group in 0..count {
            let dir = folder.path().join(format!("{before}{}{after}", 100_000 + group));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("cpu.stat"), "usage_usec 1000000\nuser_usec 600000\nsystem_usec 400000\n")?;
            fs::write(dir.join("io.stat"), "8:0 rbytes=7 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n")?;
        }
        fs::write(folder.path().join("cgroup.controllers"), "cpu io memory pids\n")?;
        let yaml = format!(
            "plugin: cgroup\nroot: {}\nslices: '{before}*{after}'\nmeters:\n  a: {{ reading: cpu_seconds }}\n  \
             b: {{ reading: io_read_bytes }}\n",
            folder.path().display()
        );
        let (batch, took) = look("cgroup", &yaml)?;
        assert_eq!(batch.readings.len() + batch.more.len(), 2 * count);
        tell(&format!("{count} {what}"), took, count, None)?;
    }
    for count in files {
        let folder = tempfile::tempdir()?;
        for directory in 0..count / 100 {
            let dir = folder.path().join(format!("homes/u{}/d{directory}", directory % 10));
            fs::create_dir_all(&dir)?;
            for file in 0..100 {
                fs::write(dir.join(format!("f{file}")), "")?;
            }
        }
        let homes = folder.path().join("homes");
        let yaml = format!("plugin: filesystem\ndirectories: {}/*\n", homes.display());
        // Once before, so that the caches are warm for both.
        du(&homes)?;
        let plain = du(&homes)?;
        let (batch, took) = look("filesystem", &yaml)?;
        assert_eq!(batch.readings.len(), 3 * (count / 100).min(10));
        tell(&format!("{count} files"), took, count, Some(plain))?;
    }
    Ok(())
}

fn look(plugin: &str, yaml: &str) -> Outcome<(Batch, Duration)> {
    let (mut section, problems) = Section::parse(yaml);
    let plugin = PLUGINS.iter().find(|known| known.name == plugin).ok_or("no such plugin")?;
    let collector = (plugin.build)(&mut section).ok_or_else(|| format!("{:?}", problems.list()))?;
    let now = "2026-11-05T10:00:00Z".parse()?;
    let request = Request { now, since: now, checkpoint: None, withhold: Vec::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let began = cpu::of_process("self")?;
    let batch = runtime.block_on(collector.collect(request))?;
    Ok((batch, cpu::of_process("self")? - began))
}

/// What `du` takes, which ends before it is asked: the children's times, which this process has been told.
fn du(folder: &Path) -> Outcome<Duration> {
    let began = cpu::of_children()?;
    Command::new("du").arg("-s").arg(folder).output()?;
    Ok(cpu::of_children()? - began)
}

fn tell(what: &str, took: Duration, things: usize, plain: Option<Duration>) -> Outcome {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    println!(
        "{what:>24} {:>9.2} {:>12.2} {:>8} {:>8.1}",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / things as f64,
        plain.map_or_else(String::new, |plain| format!("{:.2}", took.as_secs_f64() / plain.as_secs_f64())),
        peak / 1000.0
    );
    Ok(())
}
