//! The real binary, killed with SIGKILL hundreds of times: at random moments and at every fail point, alone and two at one
//! ledger, stopped meanwhile (SIGSTOP) or not, while its source grows by known sums over a month's end and the sandbox
//! fails, hangs, applies and does not answer, and answers half. In the end the sandbox holds exactly what the source says,
//! by component, user and month.
//!
//!     cargo test --test crashes                            # 500 kills
//!     CRASHES=10000 cargo test --test crashes              # the long version
//!     CRASHES=80 SEED=123 cargo test --test crashes        # one ledger again; a failure tells its seed
//!
//! One ledger and one sandbox live through 80 kills; several live side by side. Half of them are left in peace for one
//! submission before the month's end, and their whole month must have arrived. The others are killed over midnight as
//! ever: of their old month the sandbox holds an amount that was right once, and the ledger has all of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::*;
use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const KILLS_A_LEDGER: usize = 80;
const RESOURCES: [&str; 3] = ["project-a", "project-b", "project-c"];
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// A turn lasts six seconds when nobody renews it; whoever stands by looks every second.
const FOLLOWED: Duration = Duration::from_secs(9);
/// A hundredth of an hour.
const CENT: i64 = 36;

/// Resource, component, user ('' is the total) and month.
type Place = (String, String, String, String);

/// What is measured, and what it amounts to in hundredths of an hour: summed as it is made, by nothing but additions.
struct Source {
    chance: fastrand::Rng,
    now: Timestamp,
    counters: BTreeMap<(&'static str, &'static str), i64>,
    /// When each was told last, and its fastest rise: so many cents in so many seconds.
    told: BTreeMap<(&'static str, &'static str), (Timestamp, i64, i64)>,
    /// From which level each fell when it started anew, and when that was told.
    fell: BTreeMap<(&'static str, &'static str), (Timestamp, i64)>,
    levels: BTreeMap<&'static str, i64>,
    work: Vec<Value>,
    jobs: Vec<usize>,
    seats: Vec<Value>,
    sums: BTreeMap<Place, i64>,
    /// Every sum that a place ever had.
    once: BTreeMap<Place, BTreeSet<i64>>,
}

impl Source {
    fn new(seed: u64, now: Timestamp) -> Source {
        let mut source = Source {
            chance: fastrand::Rng::with_seed(seed),
            now,
            counters: BTreeMap::new(),
            told: BTreeMap::new(),
            fell: BTreeMap::new(),
            levels: BTreeMap::new(),
            work: Vec::new(),
            jobs: Vec::new(),
            seats: Vec::new(),
            sums: BTreeMap::new(),
            once: BTreeMap::new(),
        };
        for resource in RESOURCES {
            for user in USERS {
                source.counters.insert((resource, user), 0);
                source.tell_counter(resource, user);
            }
            source.levels.insert(resource, 0);
        }
        source
    }

    fn tell_counter(&mut self, resource: &'static str, user: &'static str) {
        let value = self.counters[&(resource, user)].to_string();
        let told = self.told.entry((resource, user)).or_insert((self.now, 0, 1));
        told.0 = self.now;
        let labels = [("account", resource), ("user", user)];
        self.work.push(reading("cpu_seconds", "counter", &self.now.to_string(), &value, &labels));
    }

    fn add(&mut self, resource: &str, component: &str, user: &str, cents: i64) {
        let month = self.now.to_string()[..7].to_owned();
        let users: &[&str] = if user.is_empty() { &[""] } else { &["", user] };
        for user in users {
            let place = (resource.to_owned(), component.to_owned(), (*user).to_owned(), month.clone());
            let sum = self.sums.entry(place.clone()).or_default();
            *sum += cents;
            self.once.entry(place).or_default().insert(*sum);
        }
    }

    /// Time goes on, and with it usage. Quiet: nothing is used, so that nothing lies across the month's end. Whole: all
    /// that is measured grows.
    fn goes_on(&mut self, by: SignedDuration, usage: Usage) {
        let before = self.now;
        self.now += by;
        for resource in RESOURCES {
            let held = self.levels[resource] * by.as_secs() / CENT;
            self.add(resource, "ram_gb_hours", "", held);
            let level = if usage == Usage::Ends { 0 } else { self.chance.i64(0..20) };
            self.levels.insert(resource, level);
            let (at, level) = (self.now.to_string(), level.to_string());
            self.seats.push(reading("seats", "gauge", &at, &level, &[("account", resource)]));
            for user in USERS {
                if usage == Usage::None {
                    self.tell_counter(resource, user);
                    continue;
                }
                if usage == Usage::Some && self.chance.u8(0..3) == 0 {
                    continue;
                }
                let rise = self.chance.i64(1..50);
                let (before, most, over) = self.told[&(resource, user)];
                let seconds = self.now.duration_since(before).as_secs();
                let counter = self.counters.entry((resource, user)).or_default();
                // A machine starts anew: what it shows is what it has used since. A smaller fall would be noise, and a
                // level that takes more than ten times its fastest rise is not believed (law 14).
                let is_clear = *counter > 2 * rise * CENT && rise * over <= 10 * most * seconds;
                let reset = is_clear && self.chance.u8(0..12) == 0;
                // A new life that leaps to where the old one would be is taken for that: so none does here.
                if let Some((at, high)) = self.fell.get(&(resource, user)) {
                    let is_back = *counter + rise * CENT >= *high;
                    if is_back && 5 * most * seconds < rise * over {
                        continue;
                    }
                    if is_back || self.now.duration_since(*at).as_secs() > 2 * 86_400 {
                        self.fell.remove(&(resource, user));
                    }
                }
                if reset {
                    self.fell.insert((resource, user), (before, *counter));
                }
                // What a machine has used since it started anew is no rise that was seen.
                if !reset && rise * over > most * seconds {
                    self.told.insert((resource, user), (before, rise, seconds));
                }
                *counter = if reset { rise * CENT } else { *counter + rise * CENT };
                self.tell_counter(resource, user);
                self.add(resource, "cpu_hours", user, rise);
            }
            if usage == Usage::None {
                continue;
            }
            let (user, used) = (USERS[self.chance.usize(0..3)], self.chance.i64(1..90));
            let labels = [("account", resource), ("user", user)];
            let id = format!("job-{}", self.jobs.len());
            let (start, end) = (before.to_string(), self.now.to_string());
            self.jobs.push(self.work.len());
            self.work.push(job("gpu_seconds", &id, &start, &end, &(used * CENT).to_string(), &labels));
            self.add(resource, "gpu_hours", user, used);
            self.corrects_a_job();
        }
    }

    /// A job of this month turns out to have used more, or less.
    fn corrects_a_job(&mut self) {
        let (month, cents) = (self.now.to_string()[..7].to_owned(), self.chance.i64(1..90));
        let line = self.jobs[self.chance.usize(..self.jobs.len())];
        let one = &mut self.work[line];
        let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
        if text(one, "start")[..7] != month {
            return;
        }
        let earlier: i64 = text(one, "value").parse().unwrap();
        one["value"] = json!((cents * CENT).to_string());
        let (account, user) = (text(&one["labels"], "account"), text(&one["labels"], "user"));
        self.add(&account, "gpu_hours", &user, cents - earlier / CENT);
    }

    fn show(&self, world: &World) {
        for (file, lines) in [("readings", &self.work), ("seats", &self.seats)] {
            let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
            world.write(file, &(lines.join("\n") + "\n"));
        }
        world.now(&self.now.to_string());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usage {
    Some,
    /// All that is measured grows.
    All,
    /// The same, and levels fall to zero.
    Ends,
    None,
}

/// What is killed: a one-shot flush, or a daemon that is hurried.
struct Victim {
    child: Child,
    log: PathBuf,
    /// How much of the log is of others before it.
    said: u64,
    hurried: bool,
    stopped: bool,
    ended: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    /// At its fail point.
    Died,
    Killed,
}

impl Victim {
    /// By the configuration of this name.
    fn start(world: &World, name: &str, daemon: bool, point: Option<&str>) -> Victim {
        let arguments: &[&str] = if daemon { &["run"] } else { &["flush", "--collect", "--deadline", "1s"] };
        let mut command = world.command(arguments);
        command.env("WALDUR_USAGE_AGENT_CONFIG", world.path(&format!("{name}.yaml")));
        if let Some(point) = point {
            command.env("WALDUR_USAGE_AGENT_FAIL_POINT", point);
        }
        let path = world.path(&format!("{name}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let said = log.metadata().unwrap().len();
        let child =
            command.stdout(Stdio::from(log.try_clone().unwrap())).stderr(Stdio::from(log)).spawn().unwrap();
        Victim { child, log: path, said, hurried: !daemon, stopped: false, ended: None }
    }

    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Whether it has ended.
    fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            let ended = self.child.try_wait().unwrap();
            self.ended = ended.map(|status| if status.signal() == Some(9) { End::Died } else { End::Done });
        }
        self.ended.is_some()
    }

    /// The daemon is told to hurry once it says something: that it is ready, and listens to signals.
    fn hurry(&mut self) {
        if !self.hurried && std::fs::metadata(&self.log).unwrap().len() > self.said {
            self.signal(Signal::SIGUSR1);
            self.hurried = true;
        }
    }

    fn stop(&mut self, stopped: bool) {
        if self.stopped != stopped {
            self.signal(if stopped { Signal::SIGSTOP } else { Signal::SIGCONT });
            self.stopped = stopped;
        }
    }
}

/// Lets them live for so long at the same ledger, each once it has begun; the first is stopped meanwhile from one moment to
/// another. Returns how many were killed.
fn live(victims: &mut [Victim], life: Duration, stopped: &Range<Duration>) -> usize {
    let begun = Instant::now();
    loop {
        let lived = begun.elapsed();
        let left = victims.iter_mut().filter_map(|victim| (!victim.has_ended()).then_some(())).count();
        if left == 0 {
            break;
        }
        if lived >= life {
            for victim in victims.iter_mut().filter(|victim| victim.ended.is_none()) {
                // It may have ended by itself just now.
                victim.child.kill().unwrap();
                let killed = victim.child.wait().unwrap().signal() == Some(9);
                victim.ended = Some(if killed { End::Killed } else { End::Done });
            }
            break;
        }
        victims[0].stop(stopped.contains(&lived));
        victims.iter_mut().for_each(Victim::hurry);
        pause(Duration::from_millis(1));
    }
    victims.iter().filter(|victim| victim.ended != Some(End::Done)).count()
}

/// What goes wrong at the server for a while.
fn faults(chance: &mut fastrand::Rng) -> Value {
    let mut faults = Vec::new();
    for _ in 0..chance.usize(0..3) {
        let action = match chance.u8(0..8) {
            0 => json!("drop"),
            1 => json!("truncate"),
            2 | 3 => json!({ "hang": 3_600_000 }),
            4 => json!({ "status": 500, "body": "<h1>Server Error (500)</h1>" }),
            5 => json!({ "status": 502, "body": "<html><h1>Bad Gateway</h1></html>" }),
            6 => json!({ "status": 503, "headers": { "Retry-After": "1" } }),
            _ => json!({ "status": 429, "headers": { "Retry-After": "2" } }),
        };
        let when = ["before", "after", "after"][chance.usize(0..3)];
        let path = ["/set_usage/", "/set_usage/", "/set_user_usage", "/api/"][chance.usize(0..4)];
        let times = chance.u8(1..4);
        faults.push(json!({ "match": { "path": path }, "when": when, "action": action, "times": times }));
    }
    json!({ "faults": faults })
}

/// The server is well again, and has done with every call that was under way.
fn peace(world: &World) {
    world.no_faults();
    let mut unanswered = usize::MAX;
    until("the calls under way to end", || {
        let now = world.requests_since(0).iter().filter(|request| request.status == 0).count();
        std::mem::replace(&mut unanswered, now) == now
    });
}

/// What the sandbox holds, in hundredths.
fn held(world: &World) -> BTreeMap<Place, i64> {
    let cents = |value: &Value| {
        let text = value.as_str().unwrap();
        let (whole, part) = text.split_once('.').unwrap();
        assert_eq!(part.len(), 2, "{text}");
        format!("{whole}{part}").parse::<i64>().unwrap()
    };
    let mut held: BTreeMap<Place, i64> = BTreeMap::new();
    for resource in RESOURCES {
        for row in world.held(resource)["rows"].as_array().unwrap() {
            let (component, month) =
                (row["type"].as_str().unwrap(), &row["billing_period"].as_str().unwrap()[..7]);
            let place =
                |user: &str| (resource.to_owned(), component.to_owned(), user.to_owned(), month.to_owned());
            *held.entry(place("")).or_default() += cents(&row["usage"]);
            for (user, share) in row["users"].as_object().unwrap() {
                *held.entry(place(user)).or_default() += cents(&share["usage"]);
            }
        }
    }
    held.retain(|_, cents| *cents != 0);
    held
}

/// What the ledger says is to be held.
fn stated(world: &World) -> BTreeMap<Place, i64> {
    let rows = engine::rows(
        world.folder.path(),
        "SELECT resource.backend_id, component, username, period, posted FROM line
         JOIN resource ON resource.uuid = line.resource",
    );
    let rows = rows.into_iter().map(|row| {
        let [backend_id, component, user, period, posted] = <[String; 5]>::try_from(row).unwrap();
        let cents: i64 = posted.replace('.', "").parse().unwrap();
        ((backend_id, component, user, period), cents)
    });
    rows.filter(|(_, cents)| *cents != 0).collect()
}

fn blocks(world: &World) -> Vec<String> {
    let blocked = "SELECT period, component, reason, words FROM blocked";
    engine::rows(world.folder.path(), blocked).into_iter().map(|row| row.join(" ")).collect()
}

fn configure(world: &World) {
    let of = format!("    resource: {{ offering: {OFFERING}, backend_id: \"{{account}}\" }}\n");
    let work = format!(
        "{of}    user: \"{{user}}\"\n    meters:\n      cpu_hours: {{ reading: cpu_seconds, factor: 1/3600 }}\n      \
         gpu_hours: {{ reading: gpu_seconds, factor: 1/3600 }}\n"
    );
    let seats = format!(
        "{of}    meters:\n      ram_gb_hours: {{ reading: seats, aggregate: integral, max_gap: 90d }}\n"
    );
    let collectors = world.collector("work", "readings", &work) + &world.collector("seats", "seats", &seats);
    let head = world.head("timeout: 1s");
    world.write("agent.yaml", &format!("{head}collectors:\n{collectors}"));
    // Another that submits, on another host where the ledger is a database. It has the rules, and no source.
    let head = head.replace("agent: host1\n", "agent: host2\n").replace("host1.queue.db", "host2.queue.db");
    let collectors = collectors.replace("    plugin: exec\n", "    plugin: exec\n    elsewhere: true\n");
    world.write("second.yaml", &format!("{head}collectors:\n{collectors}"));
}

/// The fail points at which an agent was killed.
type Points = Mutex<BTreeSet<&'static str>>;

/// A world that has been submitted to once.
fn begin(seed: u64, api: &str) -> (World, Source) {
    let more = "  - { name: Project C, backend_id: project-c, offering: Cluster }\n";
    let begin: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
    let world = World::of(Setting {
        api,
        now: "2026-11-29T12:00:00Z",
        marketplace: marketplace() + more,
        ..Setting::default()
    });
    configure(&world);
    let source = Source::new(seed, begin);
    source.show(&world);
    world.flush().exits(0);
    (world, source)
}

/// One ledger's life. Returns how often it was killed.
fn story(seed: u64, killed_at: &Points) -> usize {
    let api = BOTH[usize::from(seed % 2 == 1)];
    let left_in_peace = (seed / 2).is_multiple_of(2);
    let told = format!("CRASHES={KILLS_A_LEDGER} SEED={seed}, {api}");
    let (world, mut source) = begin(seed, api);
    let mut chance = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let points = [&POINTS[..], &CLASSIC_POINTS[..]].concat();
    let (mut kills, mut lives) = (0, 0);
    // The month's last minutes come once half of the kills are done; in them every life takes half a minute.
    let closing: Timestamp = "2026-11-30T23:55:12Z".parse().unwrap();
    let last = if left_in_peace { "2026-11-30T23:57:36Z" } else { "2026-11-30T23:59:24Z" };
    let last: Timestamp = last.parse().unwrap();
    let (mut crossed, mut followed) = (false, false);
    while kills < KILLS_A_LEDGER {
        lives += 1;
        assert!(lives < 20 * KILLS_A_LEDGER, "{told}: it is hardly ever killed");
        if !crossed && source.now >= last {
            if left_in_peace {
                peace(&world);
                // What the server asked for is over.
                world.now(&(source.now + SignedDuration::from_secs(5)).to_string());
                world.flush();
                world.flush().exits(0);
                assert_eq!(held(&world), positive(&source), "{told}: before the month's end");
            }
            peace(&world);
            source.goes_on(SignedDuration::from_secs(5 * CENT), Usage::None);
            crossed = true;
        } else if !crossed && kills >= KILLS_A_LEDGER / 2 && source.now < closing {
            // Once in peace, so that Waldur holds something of the old month, however short every life is.
            peace(&world);
            world.now(&(source.now + SignedDuration::from_secs(5)).to_string());
            world.flush();
            world.flush().exits(0);
            assert_eq!(held(&world), positive(&source), "{told}: in the middle of the month");
            source.goes_on(closing.duration_since(source.now), Usage::Some);
        } else {
            let step = if !crossed && source.now >= closing { 1 } else { chance.i64(1..20) };
            let by = SignedDuration::from_secs(CENT * step);
            let ends = !crossed && source.now + by >= last;
            let ahead = last.duration_since(source.now).as_secs() / CENT * CENT;
            let by = if ends { SignedDuration::from_secs(ahead.max(CENT)) } else { by };
            source.goes_on(by, if ends { Usage::Ends } else { Usage::Some });
        }
        source.show(&world);
        world.post("faults", faults(&mut chance));
        let point = (chance.u8(0..4) == 0).then(|| {
            // First those that nobody was killed at yet.
            let killed_at = killed_at.lock().unwrap();
            let left: Vec<_> = points.iter().copied().filter(|point| !killed_at.contains(point)).collect();
            let from = if left.is_empty() { &points } else { &left };
            from[chance.usize(..from.len())]
        });
        let life = match point {
            Some(_) => Duration::from_secs(4),
            // A database takes longer to be reached than a file.
            None => Duration::from_millis(chance.u64(0..if engine::is_shared() { 500 } else { 200 })),
        };
        let mut victims = vec![Victim::start(&world, "agent", chance.u8(0..3) == 0, point)];
        // Now and then another is at the same ledger, which reads nothing of the source itself.
        let stands_by = chance.bool();
        if point.is_none() && chance.u8(0..3) == 0 {
            victims.push(Victim::start(&world, "second", stands_by, None));
        }
        // And now and then the first is stopped for a while, and goes on: once after the other has taken over.
        let stopped = match chance.u8(0..8) {
            _ if !followed && engine::is_shared() && stands_by && victims.len() > 1 => {
                followed = true;
                Duration::from_millis(100)..FOLLOWED
            }
            0 => life / 4..life / 2,
            _ => Duration::ZERO..Duration::ZERO,
        };
        let life = life.max(stopped.end.saturating_add(Duration::from_millis(100)));
        kills += live(&mut victims, life, &stopped);
        if victims[0].ended == Some(End::Died) {
            killed_at.lock().unwrap().extend(point);
        }
    }
    peace(&world);
    // The faults are over: all that is measured goes on a little, longer than any call may be open.
    for _ in 0..2 {
        source.goes_on(SignedDuration::from_hours(1), Usage::All);
        source.show(&world);
        for _ in 0..2 {
            world.flush();
        }
    }
    let done = world.flush();
    let (holds, states) = (held(&world), stated(&world));
    let all = positive(&source);
    assert_eq!(states, all, "{told}: the ledger is not what was used");
    let of = |amounts: &BTreeMap<Place, i64>, month: &str| {
        amounts.iter().filter(|(place, _)| place.3 == month).map(|(p, c)| (p.clone(), *c)).collect::<Vec<_>>()
    };
    let blocks = blocks(&world);
    assert_eq!(of(&holds, "2026-12"), of(&all, "2026-12"), "{told}: {blocks:#?}\n{done:#?}");
    assert_eq!(holds.keys().map(|place| place.3.as_str()).collect::<BTreeSet<_>>().len(), 2, "{told}");
    if left_in_peace {
        assert_eq!(of(&holds, "2026-11"), of(&all, "2026-11"), "{told}: {blocks:#?}");
        assert_eq!(blocks, [""; 0], "{told}");
    } else {
        for (place, cents) in of(&holds, "2026-11") {
            assert!(source.once[&place].contains(&cents), "{told}: {place:?} never was {cents}");
        }
        // Left over are months that ended, by much or by what was used while they closed.
        let rests = [" period_ended ", " closing_rest ", " late_share "];
        let left_over = |block: &String| rests.iter().any(|rest| block.contains(rest));
        assert!(blocks.iter().all(left_over), "{told}: {blocks:#?}");
    }
    world.agent(&["recount"]).exits(0);
    kills
}

fn positive(source: &Source) -> BTreeMap<Place, i64> {
    source
        .sums
        .iter()
        .filter(|(_, cents)| **cents != 0)
        .map(|(place, cents)| (place.clone(), *cents))
        .collect()
}

#[test]
fn killed_hundreds_of_times_waldur_ends_with_exactly_what_was_used() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let crashes = usize::try_from(number("CRASHES").unwrap_or(500)).unwrap();
    let ledgers = crashes.div_ceil(KILLS_A_LEDGER);
    // Other moments each time; what happened can be had again by its seed (but for the moments of the kills).
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(0..1_000_000_000));
    eprintln!("SEED={seed}, {ledgers} ledgers");
    let (next, kills, killed_at) = (AtomicUsize::new(0), AtomicUsize::new(0), Points::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= ledgers {
                        break;
                    }
                    kills.fetch_add(story(seed + turn as u64, &killed_at), Ordering::Relaxed);
                }
            });
        }
    });
    let kills = kills.into_inner();
    assert!(kills >= crashes, "{kills} kills");
    if ledgers >= 5 {
        let killed_at = killed_at.into_inner().unwrap();
        // A slow machine does not get to all of them by chance.
        let left = POINTS.into_iter().chain(CLASSIC_POINTS).filter(|point| !killed_at.contains(point));
        left.for_each(|point| killed_at_one_point(seed, point));
    }
}

/// One kill in peace, with all the time that it takes to get there.
fn killed_at_one_point(seed: u64, point: &str) {
    let killed = BOTH.into_iter().any(|api| {
        let (world, mut source) = begin(seed, api);
        source.goes_on(SignedDuration::from_hours(1), Usage::All);
        source.show(&world);
        let mut command = world.command(&["flush", "--collect", "--deadline", "60s"]);
        let done = command.env("WALDUR_USAGE_AGENT_FAIL_POINT", point).output().unwrap();
        until("all that was used", || {
            world.flush();
            held(&world) == positive(&source)
        });
        done.status.signal() == Some(9)
    });
    assert!(killed, "SEED={seed}: not killed {point}");
}
