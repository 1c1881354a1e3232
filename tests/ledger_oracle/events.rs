//! The world around the readings changes: rules, collectors, plans, backend ids, time zones, writers, ledgers. Each may come
//! between any others. After every step each line of every month is what the oracle makes of the facts, what was used in
//! all months is what is posted in all months, nothing has changed in a month that is over but by late readings, and what
//! has changed was told.
//!
//! `LEDGER_EVENTS=20000 cargo test --test ledger_oracle events` looks at so many cases; `LEDGER_EVENT=4711` at one, step by
//! step.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;
use waldur_usage_agent::collectors::Batch;
use waldur_usage_agent::ledger::books::catalog::{KnownPlanPeriod, KnownResource};
use waldur_usage_agent::ledger::books::ingest::{Run, RunOutcome, Seen};
use waldur_usage_agent::ledger::sent::amount::{Amount, StatementKey};
use waldur_usage_agent::ledger::sent::blocked::Block;
use waldur_usage_agent::ledger::sent::decision::Decision;
use waldur_usage_agent::ledger::sent::record::{Intent, Outcome};
use waldur_usage_agent::ledger::sent::statement::Statement;
use waldur_usage_agent::ledger::{Ledger, Rulebook};
use waldur_usage_agent::metering::period::BillingZone;
use waldur_usage_agent::metering::reading::{Kind, Reading, Span};

use super::case::{OFFERING, resource};
use super::oracle::events::{Facts, Hour, Job, Key, Month, Zone, next};
use super::{engine, folder, rules};

/// 1 August 2026.
const BASE: Hour = 495_984;
const MINUTE: i64 = 60_000_000;
const COMPONENTS: [&str; 3] = ["cpu", "cpu2", "ram"];
const USERS: [&str; 3] = ["", "alice", "bob"];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Late {
    Hold,
    Carry,
    Backfill,
}

/// What the configuration says.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    collector: u8,
    continues: Option<u8>,
    components: Vec<(&'static str, i64)>,
    users: bool,
    zone: Zone,
}

impl Config {
    fn rulebook(&self) -> Rulebook {
        let mut yaml = format!(
            "collectors:\n  c{}:\n    resource: {{ offering: {OFFERING}, backend_id: '{{account}}' }}\n",
            self.collector
        );
        if let Some(old) = self.continues {
            yaml += &format!("    continues: c{old}\n");
        }
        if self.users {
            yaml += "    user: '{user}'\n";
        }
        yaml += "    meters:\n";
        for (component, factor) in &self.components {
            yaml += &format!("      {component}: {{ reading: seconds, factor: {factor}/3600 }}\n");
        }
        let zone = match self.zone {
            Zone::Utc => BillingZone::utc(),
            Zone::Tallinn => BillingZone::named("Europe/Tallinn").expect("a zone"),
        };
        rules::rulebook(&yaml, zone)
    }
}

/// The lines of all months: used and posted, in cents.
type Lines = BTreeMap<Key, (i64, i64)>;

/// A copy of the ledger's file, and what was known when it was made.
struct Copy {
    path: PathBuf,
    facts: Facts,
}

struct World {
    random: fastrand::Rng,
    ledger: Ledger,
    folder: Option<tempfile::TempDir>,
    config: Config,
    facts: Facts,
    late: Late,
    now: Hour,
    /// What Waldur holds, in cents.
    waldur: BTreeMap<Key, i64>,
    /// When each number was written, in minutes.
    posts: Vec<(Key, i64, i64)>,
    /// Resources by number: backend id and whether it is terminated.
    resources: Vec<(&'static str, bool)>,
    listed: Hour,
    copy: Option<Copy>,
    plans: u128,
    told: Vec<String>,
    log: Vec<String>,
    before: Lines,
}

fn at(hour: Hour, minute: i64) -> Timestamp {
    Timestamp::from_microsecond((hour * 60 + minute) * MINUTE).expect("in range")
}

fn hour_of(at: Timestamp) -> Hour {
    at.as_microsecond().div_euclid(60 * MINUTE)
}

fn cents(amount: Decimal) -> i64 {
    i64::try_from((amount * Decimal::ONE_HUNDRED).trunc()).expect("a small number")
}

fn component_of(name: &str) -> &'static str {
    COMPONENTS.into_iter().find(|component| *component == name).expect("one of ours")
}

fn user_of(name: &str) -> &'static str {
    USERS.into_iter().find(|user| *user == name).expect("one of ours")
}

fn place(key: StatementKey, component: &str, user: &str) -> Key {
    let number = (0..20).find(|number| resource(*number) == key.resource).expect("one of ours");
    let day = key.period.first_day();
    (number, (day.year(), day.month()), hour_of(key.part), component_of(component), user_of(user))
}

fn amount(component: &str, user: &str, amount: Decimal) -> Amount {
    Amount { component: component.to_owned(), user: user.to_owned(), amount }
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let config = Config {
            collector: 0,
            continues: None,
            components: vec![("cpu", 1)],
            users: true,
            zone: if random.bool() { Zone::Utc } else { Zone::Tallinn },
        };
        let facts = Facts {
            jobs: BTreeMap::new(),
            rules: Vec::new(),
            zones: vec![((1970, 1), config.zone)],
            owners: BTreeMap::from([("a0", vec![(0, 0)]), ("a1", vec![(0, 1)])]),
            switches: Vec::new(),
        };
        let in_a_file = random.u8(0..4) == 0;
        let folder = (in_a_file || engine::is_shared()).then(folder);
        let rulebook = config.rulebook();
        let ledger = match &folder {
            Some(folder) => Ledger::open(engine::place(folder.path()), rulebook),
            None => Ledger::in_memory(rulebook),
        };
        let now = BASE + 12 + random.i64(0..600);
        let late = [Late::Hold, Late::Carry, Late::Backfill][random.usize(0..3)];
        let mut world = World {
            random,
            ledger: ledger.expect("a ledger"),
            folder,
            config,
            facts,
            late,
            now,
            waldur: BTreeMap::new(),
            posts: Vec::new(),
            resources: vec![("a0", false), ("a1", false)],
            listed: now,
            copy: None,
            plans: 0,
            told: Vec::new(),
            log: Vec::new(),
            before: Lines::new(),
        };
        world.facts.rules.push(world.rules(None));
        world.list();
        for number in 0..2 {
            world.plan(number, BASE - 1000, 0);
        }
        // The first run: from here on this ledger reports, and has met both backend ids.
        for (id, account) in [(20, "a0"), (21, "a1")] {
            let job = Job { account, start: BASE, hours: 1, cents: 0, ..world.draw(id) };
            world.facts.jobs.insert((job.collector.clone(), id), job.clone());
            world.run(vec![job]);
        }
        world
    }

    fn rules(&self, from: Option<Month>) -> super::oracle::events::Rules {
        super::oracle::events::Rules {
            from,
            collector: format!("c{}", self.config.collector),
            components: self.config.components.clone(),
            users: self.config.users,
        }
    }

    fn month(&self) -> Month {
        self.facts.month_of(self.now)
    }

    fn is_over(&self, month: Month) -> bool {
        self.facts.end(month) <= self.now
    }

    fn play(&mut self) {
        for _ in 0..self.random.usize(4..16) {
            self.now += match self.random.u8(0..8) {
                0 => self.facts.end(self.month()) - self.now + self.random.i64(0..30),
                1 => self.random.i64(100..700),
                _ => self.random.i64(1..60),
            };
            self.before = self.lines();
            let (told, facts) = (self.told.len(), self.facts.clone());
            let step = self.random.u8(0..20);
            let reads = matches!(step, 0..=6);
            let name = match step {
                0..=5 => self.jobs(),
                6 => self.twice(),
                7..=11 => self.flush(true),
                12 => self.flush(false),
                13 => self.change_rules(),
                14 => self.rename_collector(),
                15 => self.switch_plan(),
                16 => self.move_backend_id(),
                17 => self.another_writer(),
                18 => self.change_zone(),
                _ => match self.random.u8(0..3) {
                    0 => self.copy(),
                    1 => self.restore(),
                    _ => self.decide(),
                },
            };
            self.log.push(format!("{} {name}", at(self.now, 0)));
            self.hear();
            self.check((reads, name), told, &facts);
        }
        self.now += 1;
        self.flush(true);
        self.hear();
        let differences = self.ledger.recount_rehearsal(None, at(self.now, 40)).expect("a recount");
        assert_eq!(differences, [], "a recount agrees");
    }

    fn hear(&mut self) {
        self.ledger.state(at(self.now, 35)).expect("it is stated");
        let told = self.ledger.untold().expect("events").into_iter();
        let told: Vec<String> = told.map(|(event, name)| event.sentence(name.as_deref())).collect();
        self.log.extend(told.iter().map(|words| format!("    {words}")));
        self.told.extend(told);
    }

    /// The lines as the ledger has them.
    fn lines(&mut self) -> Lines {
        self.ledger.state(at(self.now, 35)).expect("it is stated");
        let mut lines = Lines::new();
        for statement in self.ledger.statements(None).expect("statements") {
            let totals = statement.components.iter().map(|(c, entry)| ((c.as_str(), ""), entry));
            let users = statement.users.iter().map(|((c, u), entry)| ((c.as_str(), u.as_str()), entry));
            for ((component, user), entry) in totals.chain(users) {
                assert_eq!(entry.problem, None);
                let (Some(used), Some(posted)) = (entry.used, entry.posted) else { continue };
                lines.insert(place(statement.key, component, user), (cents(used), cents(posted)));
            }
        }
        lines
    }

    fn check(&mut self, (reads, name): (bool, &str), told: usize, before: &Facts) {
        let moves = matches!(name, "flush" | "restored");
        let (lines, used) = (self.lines(), self.facts.used());
        for key in lines.keys().chain(used.keys()) {
            let found = lines.get(key).map_or(0, |line| line.0);
            let wanted = used.get(key).copied().unwrap_or(0);
            assert_eq!(found, wanted, "used, in cents; left the ledger, right the oracle: {key:?}");
        }
        for (key, (used, posted)) in &lines {
            assert!(self.late == Late::Carry || used == posted, "{key:?} is moved without being carried");
        }
        if name == "flush" {
            self.nothing_is_lost(&lines);
        }
        let has_told = self.told.len() > told;
        for (key, line) in &self.before {
            let now = lines.get(key).copied().unwrap_or_default();
            let was_over = before.end(key.1) <= self.now;
            assert!(
                !was_over || reads || moves || now.0 == line.0,
                "a month that is over has changed: {key:?}"
            );
            assert!(
                !was_over || reads || moves || now.1 == line.1,
                "a month that is over has changed: {key:?}"
            );
            // An old copy knows nothing of what came after it; what Waldur holds of that is told when it is read.
            let has_told = has_told || name == "restored";
            assert!(has_told || !key.4.is_empty() || now.1 >= line.1, "it fell in silence: {key:?}");
            let jumps = line.1 > 100 && now.1 >= 10 * line.1;
            assert!(has_told || !key.4.is_empty() || !jumps, "it jumped in silence: {key:?}");
        }
    }

    /// What was used in all months is posted in all months. More is only where a month that is over came to less than was
    /// accepted in it, and the running one has nothing left that it could be taken from, or something else keeps it.
    fn nothing_is_lost(&self, lines: &Lines) {
        let mut sums: BTreeMap<(u8, &str), (i64, i64)> = BTreeMap::new();
        for (key, (used, posted)) in lines.iter().filter(|(key, _)| key.4.is_empty()) {
            let sum = sums.entry((key.0, key.3)).or_default();
            *sum = (sum.0 + used, sum.1 + posted);
        }
        let month = self.month();
        for ((number, component), (used, posted)) in sums {
            let running = lines
                .iter()
                .filter(|(key, _)| (key.0, key.1, key.3, key.4) == (number, month, component, ""));
            let nothing_left = running.map(|(_, (_, posted))| posted).all(|posted| *posted == 0);
            let of_it = |statement: &Statement| statement.key.resource == resource(number);
            let kept = self.statements().iter().filter(|s| of_it(s)).any(|statement| {
                statement.components.get(component).is_some_and(|entry| entry.block.is_some())
            });
            // What was carried to a plan period that has ended since stays there.
            let switched = self
                .facts
                .switches
                .iter()
                .any(|(of, cut, _)| *of == number && self.facts.month_of(*cut) == month);
            let excused = nothing_left || kept || switched || self.resources[usize::from(number)].1;
            let excused = posted > used && excused;
            assert!(
                used == posted || excused,
                "used {used}, posted {posted} in all months: {number} {component}"
            );
        }
    }

    fn run(&mut self, jobs: Vec<Job>) {
        let readings = jobs.iter().map(|job| {
            let span = Span::Interval { start: at(job.start, 0), end: at(job.start + job.hours, 0) };
            let reading =
                Reading::new("seconds", Kind::Delta, (job.hours * job.cents * 36).into(), at(self.now, 0));
            Reading { id: Some(job.id.to_string()), span, ..reading }
                .label("account", job.account)
                .label("user", job.user)
        });
        let now = at(self.now, 20);
        let mut batch = Batch { readings: readings.collect(), ..Batch::default() };
        let outcome = match batch.finish(now, &Default::default()) {
            Err(error) => RunOutcome::Failed(error.to_string()),
            Ok(()) => RunOutcome::Seen(Seen {
                readings: batch.readings,
                quarantined: batch.quarantined,
                problems: batch.problems,
                ended: batch.ended,
                history: batch.history,
                ..Seen::default()
            }),
        };
        let (collector, scope) = (format!("c{}", self.config.collector), String::new());
        self.ledger.record(Run { collector, at: now, finished: now, scope, outcome }).expect("a run");
    }

    fn draw(&mut self, id: u8) -> Job {
        let hours = self.random.i64(1..40);
        let back = match self.random.u8(0..4) {
            0 => self.random.i64(0..1000),
            _ => self.random.i64(0..60),
        };
        Job {
            collector: format!("c{}", self.config.collector),
            id,
            account: ["a0", "a1"][self.random.usize(0..2)],
            user: ["alice", "bob"][self.random.usize(0..2)],
            start: (self.now - hours - back).max(BASE),
            hours,
            cents: self.random.i64(0..200),
        }
    }

    /// Jobs, new and corrected, up and down, of this month and of those before.
    fn jobs(&mut self) -> &'static str {
        let mut jobs: Vec<Job> = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            let id = self.random.u8(0..12);
            if !jobs.iter().any(|job| job.id == id) {
                let mut job = self.draw(id);
                job.hours = job.hours.min(self.now - job.start).max(1);
                jobs.push(job);
            }
        }
        for job in &jobs {
            self.facts.jobs.insert((job.collector.clone(), job.id), job.clone());
        }
        self.log.push(format!("    {jobs:?}"));
        self.run(jobs);
        "jobs"
    }

    /// One identity, two values: neither counts, an earlier one stands, and it is told.
    fn twice(&mut self) -> &'static str {
        let (mut one, mut other, mut good) = (self.draw(3), self.draw(3), self.draw(4));
        other.cents = one.cents + 1;
        // None of them ends after the run.
        for job in [&mut one, &mut other, &mut good] {
            job.hours = job.hours.min(self.now - job.start).max(1);
        }
        self.facts.jobs.insert((good.collector.clone(), good.id), good.clone());
        let collector = [good.collector.clone()];
        self.run(vec![one, good, other]);
        assert!(self.ledger.quarantined_lately(&collector).expect("a count") >= 1, "it is told");
        "twice"
    }

    fn apply(&mut self, config: Config) -> Vec<String> {
        self.copy = None;
        self.config = config;
        let rulebook = self.config.rulebook();
        self.ledger.change_rules(rulebook, at(self.now, 0)).expect("new rules")
    }

    fn change_rules(&mut self) -> &'static str {
        let mut config = Config { continues: None, ..self.config.clone() };
        match self.random.u8(0..5) {
            0 => config.components[0].1 = 3 - config.components[0].1,
            1 => config.components[0].0 = if config.components[0].0 == "cpu" { "cpu2" } else { "cpu" },
            2 if config.components.len() == 1 => config.components.push(("ram", 1)),
            2 | 3 => config.components.truncate(1),
            _ => config.users = !config.users,
        }
        if config.components == self.config.components && config.users == self.config.users {
            return "nothing";
        }
        let month = self.month();
        let before = self.of_month(month);
        let changes = self.apply(config);
        assert!(!changes.is_empty(), "it is told");
        let rules = self.rules(Some(month));
        self.facts.rules.push(rules);
        self.held_where_waldur_holds_what_no_rule_makes(&before);
        "rules changed"
    }

    /// What Waldur holds of a component of the running month that no rule makes any more is held, for a person to decide; but
    /// where readings had made it nothing before the rules were changed, it is nothing.
    fn held_where_waldur_holds_what_no_rule_makes(&mut self, before: &Amounts) {
        let month = self.month();
        let made: Vec<&str> = self.config.components.iter().map(|(component, _)| *component).collect();
        for (key, (held, posted, blocked)) in self.of_month(month) {
            assert!(
                made.contains(&key.1)
                    || held == 0
                    || held == posted
                    || blocked
                    || before.get(&key).is_some_and(|(_, posted, _)| *posted == 0),
                "no rule makes it: {key:?}"
            );
        }
    }

    /// Of each resource and component of a month: what Waldur is known to hold, what it should, and whether it is held.
    fn of_month(&mut self, month: Month) -> Amounts {
        let mut found = Amounts::new();
        self.ledger.state(at(self.now, 5)).expect("it is stated");
        for statement in self.statements() {
            for (component, entry) in &statement.components {
                let key = place(statement.key, component, "");
                if key.1 == month {
                    let of_it = found.entry((key.0, key.3)).or_default();
                    of_it.0 += cents(entry.held());
                    of_it.1 += cents(entry.posted.unwrap_or_default());
                    of_it.2 |= entry.block.is_some();
                }
            }
        }
        found
    }

    fn rename_collector(&mut self) -> &'static str {
        let (old, continues) = (self.config.collector, self.random.bool());
        let new = old + 1;
        let config = Config { collector: new, continues: continues.then_some(old), ..self.config.clone() };
        let (month, before) = (self.month(), self.lines());
        let was = self.of_month(month);
        let changes = self.apply(config);
        assert!(!changes.is_empty(), "it is told");
        let (old, new) = (format!("c{old}"), format!("c{new}"));
        if continues {
            for rules in self.facts.rules.iter_mut().filter(|rules| rules.collector == old) {
                rules.collector.clone_from(&new);
            }
            let jobs = std::mem::take(&mut self.facts.jobs);
            self.facts.jobs = jobs
                .into_iter()
                .map(|((of, id), mut job)| {
                    if of == old {
                        job.collector.clone_from(&new);
                    }
                    ((job.collector.clone(), id), job)
                })
                .collect();
        }
        let rules = self.rules(Some(month));
        self.facts.rules.push(rules);
        if continues {
            // It goes on without a break.
            let mut after = self.lines();
            // A line of nothing that was never sent is none.
            after.retain(|key, line| before.contains_key(key) || *line != (0, 0));
            assert_eq!(before, after);
            return "collector renamed, continues";
        }
        for (key, (held, posted, blocked)) in self.of_month(month) {
            // What its readings had made of it before stands in any case.
            let same = was.get(&key).is_some_and(|(_, before, _)| *before == posted);
            assert!(held == 0 || held == posted || blocked || same, "its collector is gone: {key:?}");
        }
        "collector renamed"
    }

    fn change_zone(&mut self) -> &'static str {
        let zone = if self.config.zone == Zone::Utc { Zone::Tallinn } else { Zone::Utc };
        let month = next(self.month());
        let changes = self.apply(Config { zone, ..self.config.clone() });
        assert!(changes.iter().any(|words| words.contains("billing_timezone")), "it is told: {changes:?}");
        self.facts.zones.push((month, zone));
        "time zone"
    }

    fn plan(&mut self, number: u8, start: Hour, minute: i64) {
        self.plans += 1;
        let period = KnownPlanPeriod { uuid: Uuid::from_u128(self.plans), start: at(start, 0), end: None };
        self.ledger
            .put_plan_periods(resource(number), &[period], ("", ""), at(self.now, minute))
            .expect("it is taken");
    }

    /// A plan was switched in the running month, or, noticed only now, in the one before.
    fn switch_plan(&mut self) -> &'static str {
        // One of those that were there first: their first plan period began long ago.
        let number = self.random.u8(0..2);
        let month = self.month();
        let late = self.random.u8(0..3) == 0;
        let (from, to) = match late {
            true => (self.facts.start(month) - 400, self.facts.start(month) - 1),
            false => (self.facts.start(month) + 1, self.now),
        };
        if from >= to || from <= BASE {
            return "nothing";
        }
        let cut = self.random.i64(from..to);
        let same = |(of, start, _): &(u8, Hour, Hour)| *of == number && *start == cut;
        if self.facts.switches.iter().any(same) {
            return "nothing";
        }
        self.copy = None;
        let told = self.told.len();
        let old = self.facts.part(number, cut);
        self.plan(number, cut, 0);
        self.facts.switches.push((number, cut, self.now));
        if !late {
            self.file_under_new_part((number, month), (old, cut));
        }
        self.hear();
        assert!(self.told[told..].iter().any(|words| words.contains("plan was switched")), "it is told");
        if late { "plan switched, noticed late" } else { "plan switched" }
    }

    /// What was reported since the plan was switched, Waldur has filed under the new one.
    fn file_under_new_part(&mut self, (number, month): (u8, Month), (old, new): (Hour, Hour)) {
        for (component, user) in COMPONENTS.into_iter().flat_map(|c| USERS.into_iter().map(move |u| (c, u))) {
            let (was, is) = ((number, month, old, component, user), (number, month, new, component, user));
            let last = |after: bool| {
                let mut of_it = self.posts.iter().filter(|(key, ..)| *key == was);
                of_it.rfind(|(_, minute, _)| (*minute > new * 60) == after).map(|post| post.2)
            };
            let (before, since) = (last(false), last(true));
            self.waldur.remove(&was);
            self.waldur.extend(before.map(|cents| (was, cents)));
            self.waldur.extend(since.map(|cents| (is, cents)));
            for post in self.posts.iter_mut().filter(|(key, minute, _)| *key == was && *minute > new * 60) {
                post.0 = is;
            }
        }
    }

    fn list(&mut self) {
        let offering: Uuid = OFFERING.parse().expect("a UUID");
        let known = self.resources.iter().zip(0..).map(|((backend_id, terminated), number)| KnownResource {
            uuid: resource(number),
            offering,
            name: format!("resource {number}"),
            backend_id: (*backend_id).to_owned(),
            state: if *terminated { "Terminated" } else { "OK" }.to_owned(),
            plan: None,
            customer: String::new(),
            project: String::new(),
        });
        self.ledger.put_resources(known.collect(), Some(offering), at(self.now, 0)).expect("it is taken");
        self.listed = self.now;
    }

    /// A backend id goes to a new resource, or two swap theirs.
    fn move_backend_id(&mut self) -> &'static str {
        self.copy = None;
        let told = self.told.len();
        let start = self.facts.start(self.month());
        let owner = |account: &str| self.facts.owners[account][self.facts.owners[account].len() - 1];
        let (a0, a1) = (owner("a0"), owner("a1"));
        let since = |(since, _): (Hour, u8)| self.listed.max(start).max(since);
        let (since0, since1) = (since(a0), since(a1));
        if since0 >= self.now || since1 >= self.now {
            return "nothing";
        }
        let name = if self.random.bool() && since0 > a0.0 && since1 > a1.0 {
            self.resources[usize::from(a0.1)].0 = "a1";
            self.resources[usize::from(a1.1)].0 = "a0";
            self.list();
            self.facts.owners.entry("a0").or_default().push((since0, a1.1));
            self.facts.owners.entry("a1").or_default().push((since1, a0.1));
            "backend ids swapped"
        } else {
            let began = start.max(a0.0 + 1).min(self.now - 1);
            if since0 <= a0.0 {
                return "nothing";
            }
            let began = self.random.i64(began..self.now).max(began);
            self.resources[usize::from(a0.1)].1 = true;
            self.resources.push(("a0", false));
            let new = self.resources.len() as u8 - 1;
            self.list();
            self.plan(new, began, 1);
            // What was used while the last listing still had it otherwise stays.
            self.facts.owners.entry("a0").or_default().push((began.max(since0), new));
            "backend id moved"
        };
        self.hear();
        assert!(self.told[told..].iter().any(|words| words.contains("backend id")), "it is told");
        name
    }

    fn another_writer(&mut self) -> &'static str {
        let keys: Vec<Key> = self.waldur.keys().filter(|key| key.4.is_empty()).copied().collect();
        if keys.is_empty() {
            return "nothing";
        }
        let key = keys[self.random.usize(0..keys.len())];
        let cents = self.random.i64(0..100_000);
        self.write(key, cents, 25);
        "another writer"
    }

    fn write(&mut self, key: Key, cents: i64, minute: i64) {
        self.waldur.insert(key, cents);
        self.posts.push((key, self.now * 60 + minute, cents));
    }

    fn copy(&mut self) -> &'static str {
        // What a server's copies are is its administrator's.
        let Some(folder) = self.folder.as_ref().filter(|_| !engine::is_shared()) else { return "nothing" };
        let (path, from) = (folder.path().join("copy.db"), folder.path().join("ledger.db"));
        self.close();
        std::fs::copy(from, &path).expect("a copy");
        self.copy = Some(Copy { path, facts: self.facts.clone() });
        self.open();
        "copied"
    }

    fn restore(&mut self) -> &'static str {
        let (Some(folder), Some(copy)) = (&self.folder, self.copy.take()) else { return "nothing" };
        let to = folder.path().join("ledger.db");
        self.close();
        std::fs::copy(&copy.path, to).expect("a copy");
        self.facts = copy.facts;
        self.open();
        "restored"
    }

    fn close(&mut self) {
        let gone = Ledger::in_memory(self.config.rulebook()).expect("a ledger");
        drop(std::mem::replace(&mut self.ledger, gone));
    }

    fn open(&mut self) {
        let Some(folder) = &self.folder else { return };
        self.ledger =
            Ledger::open(engine::place(folder.path()), self.config.rulebook()).expect("the same ledger");
        let changes = self.ledger.apply_rules(at(self.now, 0)).expect("rules");
        assert_eq!(changes, [""; 0]);
    }

    fn decide(&mut self) -> &'static str {
        let number = self.random.u8(0..self.resources.len() as u8);
        self.ledger.decide(resource(number), Decision::Overwrite, at(self.now, 10)).expect("a decision");
        "decided"
    }

    fn block(&mut self, key: StatementKey, component: &str, reason: (&str, &str), cents: i64) {
        let words = "for a person".to_owned();
        let since = at(self.now, 30);
        let block = Block { state: reason.0.to_owned(), reason: reason.1.to_owned(), words, since };
        self.ledger.set_block(key, component, "", block, Some(Decimal::new(cents, 2))).expect("a block");
    }

    /// Whether a person has decided to overwrite just what Waldur holds.
    fn is_decided(&self, key: StatementKey, component: &str, row: i64) -> bool {
        let decided = self.ledger.decided(key, component).expect("a decision");
        decided.is_some_and(|decided| decided.decision == Decision::Overwrite && cents(decided.held) == row)
    }

    fn statements(&self) -> Vec<Statement> {
        self.ledger.statements(None).expect("statements")
    }

    /// What a submitter does: reads, compares, deals with months that are over, sends, and completes shares.
    fn flush(&mut self, shares: bool) -> &'static str {
        let now = at(self.now, 30);
        self.ledger.state(now).expect("it is stated");
        self.ledger.lift_what_passed().expect("blocks");
        for statement in self.statements() {
            for (component, entry) in &statement.components {
                let place = place(statement.key, component, "");
                let row = self.waldur.get(&place).copied().unwrap_or(0);
                let ours = row == cents(entry.held()) || self.is_decided(statement.key, component, row);
                if !ours && !entry.is_blocked_for("conflict") {
                    self.block(statement.key, component, ("held", "conflict"), row);
                } else if ours {
                    self.ledger.clear_block(statement.key, component, "conflict").expect("a block");
                }
            }
        }
        if self.late == Late::Carry {
            // What makes room for another is carried first in one cycle, and the other in the next.
            let mut done = false;
            for _ in 0..6 {
                let carried = self.ledger.carry_forward(now, (true, true), now).expect("it is carried");
                done |= carried.is_empty();
                if !done {
                    self.log.push(format!("    {carried:?}"));
                }
            }
            assert!(done, "carrying comes to an end");
        }
        for statement in self.statements() {
            self.send(&statement, now);
        }
        for statement in self.statements() {
            for ((component, user), entry) in &statement.users {
                let place = place(statement.key, component, user);
                let Some(share) = entry.to_complete().filter(|_| shares && !entry.is_blocked_for("conflict"))
                else {
                    continue;
                };
                self.accept(statement.key, &[amount(component, user, share)], &[], now);
                self.write(place, cents(share), 30);
            }
        }
        for statement in self.statements() {
            let entries = || statement.components.values().chain(statement.users.values());
            let done = entries()
                .all(|entry| entry.block.is_none() && !entry.differs() && entry.to_complete().is_none());
            let month = place(statement.key, "cpu", "").1;
            if done && statement.closed.is_none() && self.is_over(month) {
                self.ledger.close(statement.key, now).expect("it is closed");
            }
        }
        self.agrees();
        "flush"
    }

    fn send(&mut self, statement: &Statement, now: Timestamp) {
        let key = statement.key;
        let over = self.is_over(place(key, "cpu", "").1);
        let (mut totals, mut planned) = (Vec::new(), Vec::new());
        for (component, entry) in statement.components.iter().filter(|(_, entry)| entry.block.is_none()) {
            let of_component = || statement.users.iter().filter(|((of, _), _)| of == component);
            let row = self.waldur.get(&place(key, component, "")).copied().unwrap_or(0);
            let Some(posted) = entry.posted else {
                panic!("it can't be posted: {key:?} {component} {entry:?}")
            };
            let differs =
                entry.differs() || row != cents(posted) || of_component().any(|(_, share)| share.differs());
            if !differs {
                continue;
            }
            if over && self.late != Late::Backfill {
                if cents(posted) != row {
                    self.block(key, component, ("stranded", "period_ended"), cents(posted));
                }
                continue;
            }
            totals.push(amount(component, "", posted));
            planned.extend(
                of_component().filter_map(|((_, user), share)| Some(amount(component, user, share.posted?))),
            );
        }
        if totals.is_empty() {
            return;
        }
        self.accept(key, &totals, &planned, now);
        for total in totals {
            self.write(place(key, &total.component, ""), cents(total.amount), 30);
        }
    }

    fn accept(&mut self, key: StatementKey, amounts: &[Amount], planned: &[Amount], now: Timestamp) {
        let ids = self
            .ledger
            .intend(Intent { key, call: "set_usage", amounts, planned, counted: 0 }, now)
            .expect("it is meant");
        self.ledger.conclude(&ids, Outcome::Accepted, "", now).expect("it is noted");
    }

    /// What nothing keeps back is at Waldur.
    fn agrees(&self) {
        for statement in self.statements() {
            for (component, entry) in &statement.components {
                let place = place(statement.key, component, "");
                let row = self.waldur.get(&place).copied().unwrap_or(0);
                let posted = entry.posted.map(cents);
                assert!(
                    entry.block.is_some() || posted == Some(row),
                    "{place:?} is {row}, should be {posted:?}"
                );
            }
        }
    }
}

fn play(seed: u64) {
    let mut world = World::new(seed);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.play()));
    if let Err(why) = done {
        eprintln!("seed {seed}, late: {:?}\n{}", world.late, world.log.join("\n"));
        std::panic::resume_unwind(why);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// By resource and component: what Waldur is known to hold, what it should, and whether it is held.
type Amounts = BTreeMap<(u8, &'static str), (i64, i64, bool)>;

const CASES: u64 = 20_000;

#[test]
fn whatever_changes_around_the_readings_months_and_bills_are_the_oracles() {
    if let Some(seed) = number("LEDGER_EVENT") {
        return play(seed);
    }
    let (next, cases) = (AtomicU64::new(0), number("LEDGER_EVENTS").unwrap_or(CASES));
    let work = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < cases) {
            play(seed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
}
