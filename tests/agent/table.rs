//! A table of faults, each with what an operator sees of it: all of `status` and its exit code, a metric, a line of the log and
//! what `/ready` answers; that what was measured before is kept; and that it goes on when the fault is gone.

use super::*;

/// Another hour, used up on the 9th.
pub fn hours(id: &str, seconds: &str) -> Value {
    job("cpu_seconds", id, "2026-11-09T00:00:00Z", "2026-11-09T02:00:00Z", seconds, &[])
}

/// A daemon that looks and submits every ten seconds and has reported 1.50 hours.
pub struct At {
    /// Ends before its folder goes.
    pub daemon: Daemon,
    pub world: World,
    pub address: String,
}

/// What is seen while something is wrong.
pub struct Seen<'a> {
    pub exit: i32,
    pub status: &'a [&'a str],
    /// With their values; ` n` is one or more.
    pub metrics: &'a [&'a str],
    pub log: &'a str,
    /// What `/ready` answers.
    pub ready: (u16, &'a str),
}

pub fn begin(collector: &str) -> At {
    begin_with(collector, &[hours("1", "5400")])
}

/// From the first run on it sees these.
pub fn begin_with(collector: &str, lines: &[Value]) -> At {
    let world = table_world(collector);
    world.readings(lines);
    start(world)
}

/// What `start` begins with.
pub fn table_world(collector: &str) -> World {
    let world = World::new(CURRENT);
    world.write(
        "agent.yaml",
        &format!(
            "{}listen: 127.0.0.1:0\npage: {{ listen: \"unix:FOLDER/page.sock\" }}\nsubmit: {{ schedule: every 10s \
             }}\ncollectors:\n{collector}",
            world.head("")
        )
        .replace("FOLDER", world.folder.path().to_str().unwrap()),
    );
    world.write("script", &format!("cat {}", world.path("readings").display()));
    world
}

pub fn start(world: World) -> At {
    let daemon = world.daemon(&[], &[]);
    daemon.until_it_says("Ready: ");
    let log = daemon.log();
    let address = log.split("Health and metrics at http://").nth(1).unwrap().split('/').next().unwrap();
    let address = address.to_owned();
    At { daemon, world, address }
}

/// A script that may be exchanged, and prints the file of readings to begin with.
pub fn script(meters: &str) -> String {
    format!(
        "  source:\n    plugin: exec\n    schedule: every 10s\n    command: [sh, FOLDER/script]\n    timeout: 60s\n    resource: {A}\n    \
         meters: {meters}\n    since: {LONG_AGO}\n"
    )
}

pub fn cpu() -> String {
    script("{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }")
}

impl At {
    pub fn reported(self) -> At {
        self.world.in_time("the first report", || self.world.rows(A) == ["cpu_hours 2026-11 1.50"]);
        // Read back, too, and noted: what happens next does not happen in the middle of it.
        self.world.in_time("its end", || self.daemon.log().contains("Reported "));
        self
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(&self.address, path)
    }

    pub fn number(&self, metric: &str) -> u64 {
        let page = self.get("/metrics").1;
        let found = page.lines().find_map(|line| line.strip_prefix(&format!("waldur_usage_agent_{metric} ")));
        found.unwrap_or_else(|| panic!("no {metric}: {page}")).parse().unwrap()
    }

    pub fn failures(&self, collector: &str) -> u64 {
        self.number(&format!("collector_failures_since_success{{collector=\"{collector}\"}}"))
    }

    pub fn posted(&self) -> Value {
        self.world.agent(&["status", "--json"]).json()["statements"][0]["components"][0]["posted"].clone()
    }

    /// All that is to be seen comes to be seen, and what was measured is kept.
    #[track_caller]
    pub fn shows(&self, seen: &Seen<'_>) {
        let metric = |line: &&str| match line.strip_suffix(" n") {
            Some(name) => self.number(name) >= 1,
            None => self.get("/metrics").1.contains(&format!("waldur_usage_agent_{line}\n")),
        };
        for line in seen.metrics {
            self.world.in_time(line, || metric(line));
        }
        self.world.in_time(seen.log, || self.daemon.log().contains(seen.log));
        self.world.in_time(seen.status[0], || {
            self.world
                .agent(&["status"])
                .out
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(seen.status[0])
        });
        let mut status = self.world.agent(&["status"]).exits(seen.exit);
        for words in seen.status {
            status = status.says(words);
        }
        assert!(
            status.out.lines().all(|line| line.chars().count() <= 80 || !line.trim().contains(' ')),
            "{status:#?}"
        );
        self.comes_to_be_as_kept(Some(seen));
        let (code, words) = self.get("/ready");
        assert!(code == seen.ready.0 && words.contains(seen.ready.1), "{code} {words}");
        assert_eq!(self.get("/health").0, 200);
        self.world.agent(&["recount"]).exits(0);
        assert!(self.posted().as_str().unwrap() >= "1.50", "what was measured is kept");
    }

    /// All of `status` comes to be as it is kept for this test in tests/golden/told/, with its exit code, and the metrics, the line
    /// of the log and what `/ready` answers where those are given; but for times, how often something was tried, and how it is
    /// folded. `UPDATE_GOLDEN=1 cargo test --test agent_told --test agent_told_machine` writes them anew, to be looked at.
    #[track_caller]
    pub fn comes_to_be_as_kept(&self, seen: Option<&Seen<'_>>) {
        let case = std::thread::current().name().unwrap().to_owned();
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/told").join(case);
        let unfolded = |text: &str| {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            // Whichever call met it first, and once or more often.
            let calls = [
                "GET component usages:",
                "GET users/me:",
                "GET resource 5e2f0000000040008000000000000001:",
                "GET resources of offering 91ab0000000040008000000000000001:",
            ];
            let text = calls.iter().fold(text, |text, call| text.replace(call, "GET ...:"));
            text.replace("(n try)", "(n tries)").replace("(n run ", "(n runs ").replace("(n run)", "(n runs)")
        };
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, self.told_on_any_day(seen)).unwrap();
        }
        let kept = unfolded(&std::fs::read_to_string(&file).unwrap_or_default());
        // At once where it is so already: what is told may pass by itself.
        if unfolded(&self.told_on_any_day(seen)) == kept {
            return;
        }
        let begun = std::time::Instant::now();
        self.world.in_time("what is told as it is kept", || {
            let said = self.told_on_any_day(seen);
            let is_so = unfolded(&said) == kept;
            assert!(
                is_so || begun.elapsed() < PATIENCE / 2,
                "{}: it says\n{said}\nand is kept as\n{kept}",
                file.display()
            );
            is_so
        });
    }

    fn told_on_any_day(&self, seen: Option<&Seen<'_>>) -> String {
        let status = self.world.agent(&["status"]);
        let mut told = format!("$ waldur-usage-agent status\n{}[exit code {}]\n", status.out, status.code);
        if let Some(seen) = seen {
            for metric in seen.metrics {
                told += &format!("metric: {metric}\n");
            }
            let log = self.daemon.log();
            let line = log.lines().rfind(|line| line.contains(seen.log)).unwrap_or_default();
            let (_, line) = line.split_once(' ').unwrap_or_default();
            told += &format!("log: {}\n", line.trim());
            let (code, words) = self.get("/ready");
            told += &format!("/ready: {code} {}\n", words.trim());
        }
        self.of_any_day(&told)
    }

    fn of_any_day(&self, text: &str) -> String {
        let folder = self.world.folder.path().to_str().unwrap();
        let process = format!("process {},", self.daemon.id());
        let text = text.replace(&self.world.address, "WALDUR").replace(folder, "FOLDER");
        let text = text.replace(&process, "process n,");
        let plain = |word: &str| {
            let bare = word.trim_matches(['(', ',', '=']);
            let is_number = bare.len() > bare.matches(',').count()
                && bare.chars().all(|c| c.is_ascii_digit() || c == ',');
            // `12:08Z`, `2026-11-10T12:08:16Z`: the minute is of the day.
            let time = word.rfind('T').map_or(word.len() - word.trim_start_matches('(').len(), |at| at + 1);
            let is_time = word.get(time + 2..=time + 2) == Some(":") && word[time..].contains('Z');
            match word.find('Z').filter(|_| is_time) {
                Some(end) => format!("{}:mm{}", &word[..time + 2], &word[end..]),
                // Processes, and how often something was tried or missed.
                None if is_number && (bare.len() > 3 || word.starts_with('(')) => word.replace(bare, "n"),
                None => word.to_owned(),
            }
        };
        let line = |line: &str| line.split(' ').map(plain).collect::<Vec<_>>().join(" ");
        text.lines().map(|text| line(text) + "\n").collect()
    }

    /// And it goes on by itself.
    #[track_caller]
    pub fn goes_on(&self, rows: &[&str]) {
        self.world.in_time("it goes on", || self.world.rows(A) == rows);
        self.world.in_time("it is ready", || self.get("/ready").0 == 200);
        self.world.in_time("nothing is wrong", || self.world.agent(&["status"]).code == 0);
        self.world
            .agent(&["status"])
            .says("1 resource: 1 agreed.")
            .says_not("left alone")
            .says_not("Collector");
    }
}
