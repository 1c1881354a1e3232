//! One customer's books before the world around them changes: October's 12 h are closed, November has 5 h, and it is the
//! 9th. What a test then changes is told to the binary as an operator would tell it: in the file, and in Waldur.

use std::cell::RefCell;

use super::{A, B, CLASSIC, CURRENT, Done, OFFERING, Request, Setting, TOKEN, World};
use serde_json::{Value, json};

pub const C: &str = "5e2f0000-0000-4000-8000-000000000003";

/// The day of the change, and that of October's late hour.
pub const CHANGE: &str = "2026-11-10T12:00:00Z";
pub const LATER: &str = "2026-11-12T12:00:00Z";

/// Each way to deal with late usage, on the servers that have it.
pub const LATE: [(&str, &str); 5] = [
    (CLASSIC, "hold"),
    (CURRENT, "hold"),
    (CLASSIC, "carry_forward"),
    (CURRENT, "carry_forward"),
    (CURRENT, "backfill"),
];

/// By the hour.
pub const CPU: &str = "cpu: { reading: sec, factor: 1/3600 }";

pub fn market() -> String {
    format!(
        r#"
tokens:
  - {{ token: {TOKEN}, username: provider, offerings: ["*"] }}
  - {{ token: staff-token, username: staff, offerings: [], staff: true }}
  - {{ token: stranger-token, username: stranger, offerings: [] }}
offerings:
  - uuid: {OFFERING}
    name: Cluster
    components:
      - {{ type: cpu, measured_unit: h, billing_type: usage }}
      - {{ type: cpu2, measured_unit: h, billing_type: usage }}
      - {{ type: disk, measured_unit: GB, billing_type: usage }}
      - {{ type: ram, measured_unit: GB*h, billing_type: usage }}
      - {{ type: monthly, billing_type: usage, limit_amount: 100, limit_period: month }}
      - {{ type: annual, billing_type: usage, limit_amount: 100, limit_period: annual }}
      - {{ type: total, billing_type: usage, limit_amount: 100, limit_period: total }}
    users: [{{ username: alice, uuid: a11ce000-0000-4000-8000-000000000001 }}]
resources:
  - {{ uuid: {A}, name: Project A, backend_id: project-a, offering: Cluster }}
  - {{ uuid: {B}, name: Project B, backend_id: project-b, offering: Cluster }}
  - {{ uuid: {C}, name: Project C, backend_id: project-c, offering: Cluster }}
"#
    )
}

/// A world of these books, with nothing in them yet.
pub fn world(api: &str, now: &str) -> World {
    World::of(Setting { api, now, zone: "UTC", marketplace: market() })
}

/// The same with one collector of jobs, `source`, and a token that may report into the past where `late` asks for it.
pub fn metered(api: &str, now: &str, late: &str) -> World {
    let world = world(api, now);
    if late == "backfill" {
        world.write("token", "staff-token");
    }
    configure(&world, &format!("late: {late}"), "", &[("source", keys(CPU))]);
    world
}

/// Project A's plan changes at Waldur: `switch_plan`, `renew_plan` or `end_plan`.
pub fn change_plan(world: &World, now: &str, what: &str) {
    world.now(now);
    let mut body = json!({});
    body[what] = json!(true);
    world.post(&format!("resources/{A}"), body);
}

/// What a collector of jobs is told: whose they are, and how they are metered.
pub fn keys(meters: &str) -> String {
    targeted("{project}", "{user}", meters)
}

pub fn targeted(backend_id: &str, user: &str, meters: &str) -> String {
    format!(
        "    resource: {{ offering: {OFFERING}, backend_id: \"{backend_id}\" }}\n    user: \"{user}\"\n    meters:\n      {meters}\n"
    )
}

/// The file: these collectors, each printing the file of its name; `submit` and more keys of `waldur:`.
pub fn configure(world: &World, submit: &str, waldur: &str, collectors: &[(&str, String)]) {
    let each = collectors.iter().map(|(name, keys)| world.collector(name, &format!("{name}.lines"), keys));
    let text =
        format!("{}submit: {{ {submit} }}\ncollectors:\n{}", world.head(waldur), each.collect::<String>());
    world.write("agent.yaml", &text);
}

/// What a collector prints from now on.
pub fn lines(world: &World, collector: &str, lines: &[Value]) {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    world.write(&format!("{collector}.lines"), &(text.join("\n") + "\n"));
}

/// Some hours of alice's on project A, used between these instants (`11-05T00:00`, of 2026).
pub fn hours(id: &str, start: &str, end: &str, hours: &str) -> Value {
    on("project-a", "alice", id, start, end, hours)
}

pub fn on(project: &str, user: &str, id: &str, start: &str, end: &str, hours: &str) -> Value {
    let seconds: rust_decimal::Decimal = hours.parse().unwrap();
    let seconds = (seconds * rust_decimal::Decimal::from(3600)).normalize().to_string();
    let instant = |text: &str| format!("2026-{text}:00Z");
    json!({
        "name": "sec", "kind": "delta", "id": id, "start": instant(start), "end": instant(end), "value": seconds,
        "labels": { "project": project, "user": user, "moved": "project-b", "team": "blue", "part": "x" },
    })
}

/// Two observations of one counter or level of project A, as a source without history tells them: one a run.
pub fn seen(kind: &str, value: &str) -> Value {
    json!({ "name": "sec", "kind": kind, "value": value, "labels": { "project": "project-a", "user": "alice" } })
}

/// The late hour of October, of alice's.
pub fn late_hour() -> Value {
    hours("late", "10-20T00:00", "10-20T01:00", "1")
}

impl World {
    /// What a command said, and what `status` and `parked list` say after it: somewhere there a thing is told.
    pub fn with_status(&self, done: Done) -> Done {
        let (status, parked) =
            (self.agent(&["status", "--users"]).all(), self.agent(&["parked", "list"]).all());
        Done { code: done.code, out: format!("{}{status}{parked}", done.out), err: done.err }
    }
}

impl Done {
    /// All of these words are told, wherever.
    #[track_caller]
    pub fn tells(self, words: &[&str]) -> Done {
        for word in words {
            assert!(self.contains(word), "expected `{word}` in {self:#?}");
        }
        self
    }

    /// It names project A, by whichever of its names.
    #[track_caller]
    pub fn names_a(self) -> Done {
        let names = ["Project A", "project-a", A];
        assert!(names.iter().any(|name| self.all().contains(name)), "project A is not named in {self:#?}");
        self
    }

    /// Some line has all of these words.
    #[track_caller]
    pub fn line_with(self, words: &[&str]) -> Done {
        let all = self.all();
        assert!(
            all.lines().any(|line| words.iter().all(|word| line.contains(word))),
            "no line with all of {words:?} in {self:#?}"
        );
        self
    }
}

pub struct Books {
    pub world: World,
    pub api: &'static str,
    pub late: &'static str,
    jobs: RefCell<Vec<Value>>,
}

impl Books {
    /// October closed with 12.00, November with 5.00 so far, metered by these keys; it is 9 November.
    pub fn of(api: &'static str, late: &'static str, keys: &str) -> Books {
        Books::with(api, late, keys, &[])
    }

    /// The same, with more jobs that are known from the 9th on.
    pub fn with(api: &'static str, late: &'static str, keys: &str, more: &[Value]) -> Books {
        let world = world(api, "2026-10-15T12:00:00Z");
        if late == "backfill" {
            world.write("token", "staff-token");
        }
        let books = Books { world, api, late, jobs: RefCell::default() };
        books.rules(&[("source", keys.to_owned())]);
        let october =
            [hours("o1", "10-10T00:00", "10-10T10:00", "10"), hours("o2", "10-31T21:30", "10-31T23:30", "2")];
        books.at("2026-10-15T12:00:00Z", &october[..1]).exits(0);
        books.at("2026-10-31T23:40:00Z", &october[1..]).exits(0);
        books.at("2026-11-01T00:10:00Z", &[]).exits(0);
        let november = [&[hours("n1", "11-05T00:00", "11-05T05:00", "5")], more].concat();
        books.at("2026-11-09T12:00:00Z", &november).exits(0);
        let held = books.world.rows(A);
        assert!(held.contains(&"cpu 2026-10 12.00".to_owned()), "{held:?}");
        assert!(held.contains(&"cpu 2026-11 5.00".to_owned()), "{held:?}");
        books
    }

    /// The collectors from now on, and how each is metered.
    pub fn rules(&self, collectors: &[(&str, String)]) {
        self.rules_with("", collectors);
    }

    /// With more keys of `waldur:`.
    pub fn rules_with(&self, waldur: &str, collectors: &[(&str, String)]) {
        configure(&self.world, &format!("late: {}", self.late), waldur, collectors);
        for (name, _) in collectors {
            lines(&self.world, name, &self.jobs.borrow());
        }
    }

    /// More jobs become known to every collector, and it is so late: collects and submits.
    pub fn at(&self, now: &str, more: &[Value]) -> Done {
        self.know(more);
        self.world.now(now);
        self.world.flush()
    }

    pub fn know(&self, more: &[Value]) {
        self.jobs.borrow_mut().extend_from_slice(more);
        for name in ["source", "second", "renamed"] {
            lines(&self.world, name, &self.jobs.borrow());
        }
    }

    /// Its rows of a month, as `cpu 5.00`.
    pub fn month(&self, resource: &str, month: &str) -> Vec<String> {
        let rows = self.world.rows(resource).into_iter().filter(|row| row.contains(month));
        rows.map(|row| row.replace(&format!(" {month}"), "")).collect()
    }

    /// The same of users' shares, as `alice cpu 5.00`.
    pub fn shares(&self, resource: &str, month: &str) -> Vec<String> {
        let shares = self.world.shares(resource).into_iter().filter(|share| share.contains(month));
        shares.map(|share| share.replace(&format!(" {month}"), "")).collect()
    }

    /// October of project A as it was closed, and nothing billed twice.
    #[track_caller]
    pub fn october_stands(&self, amount: &str) {
        let case = format!("{} {}", self.api, self.late);
        assert_eq!(self.month(A, "2026-10"), [format!("cpu {amount}")], "{case}");
        assert_eq!(self.shares(A, "2026-10"), [format!("alice cpu {amount}")], "{case}");
        assert_eq!(self.world.billed(A), self.world.rows(A), "{case}");
    }

    #[track_caller]
    pub fn november(&self, resource: &str, rows: &[&str]) {
        assert_eq!(self.month(resource, "2026-11"), rows, "{} {}", self.api, self.late);
    }

    #[track_caller]
    pub fn november_shares(&self, resource: &str, shares: &[&str]) {
        assert_eq!(self.shares(resource, "2026-11"), shares, "{} {}", self.api, self.late);
    }

    /// October's late hour comes: stranded, or in November (`carried` are its rows then), or in October.
    #[track_caller]
    pub fn the_late_hour_is_one_hour(&self, november: &[&str], carried: &[&str]) {
        let done = self.at(LATER, &[late_hour()]);
        match self.late {
            "hold" => {
                done.exits(65);
                self.october_stands("12.00");
                self.november(A, november);
                let parked = self.world.agent(&["parked", "list"]);
                parked.tells(&["cpu", "2026-10", "1.00", "stranded"]).names_a();
            }
            "carry_forward" => {
                done.exits(0);
                self.october_stands("12.00");
                self.november(A, carried);
                self.world.agent(&["explain", A, "cpu"]).exits(0).tells(&["1", "carried", "2026-10"]);
            }
            _ => {
                done.exits(0);
                self.october_stands("13.00");
                self.november(A, november);
            }
        }
    }
}

/// These are what the source has at this instant, and are reported.
pub fn jobs(world: &World, now: &str, jobs: &[Value]) -> Done {
    lines(world, "source", jobs);
    world.now(now);
    world.flush()
}

/// October's plan was switched on the 20th: each plan period has a row, of 10.00 and of 3.00, and it is closed.
pub fn october_of_two_plans(api: &str, submit: &str) -> (World, Vec<Value>) {
    let world = world(api, "2026-10-10T12:00:00Z");
    configure(&world, submit, "", &[("source", keys(CPU))]);
    let first = hours("1", "10-10T02:00", "10-10T12:00", "10");
    jobs(&world, "2026-10-10T13:00:00Z", std::slice::from_ref(&first)).exits(0);
    world.now("2026-10-20T00:00:00Z");
    world.post(&format!("resources/{A}"), json!({ "switch_plan": true }));
    let both = vec![first, hours("2", "10-20T02:00", "10-20T05:00", "3")];
    jobs(&world, "2026-10-31T20:00:00Z", &both).exits(0);
    jobs(&world, "2026-11-01T12:00:00Z", &both).exits(0);
    assert_eq!(world.rows(A), ["cpu 2026-10 10.00", "cpu 2026-10 3.00"], "{api}");
    (world, both)
}

/// Another writer reports a total of a resource.
pub fn another_reports(world: &World, resource: &str, component: &str, amount: &str) {
    let period = &world.held(resource)["plan_periods"][0]["uuid"];
    let usages = json!([{ "type": component, "amount": amount }]);
    let body = json!({ "plan_period": period, "resource": resource, "usages": usages });
    let (status, answer) = world.send_as(
        "staff-token",
        "POST",
        "/api/marketplace-component-usages/set_usage/",
        &body.to_string(),
    );
    assert_eq!(status, 201, "{answer}");
}

/// Five hours of alice's in project A.
pub fn five() -> Value {
    hours("1", "11-05T00:00", "11-05T05:00", "5")
}

/// The `set_usage` calls for a resource since then.
pub fn totals(world: &World, resource: &str, since: u64) -> Vec<Request> {
    let of = |call: &Request| {
        let named = call.body["resource"].as_str().unwrap_or_default().replace('-', "");
        call.path.ends_with("/set_usage/") && named == resource.replace('-', "")
    };
    world.posts_since(since).into_iter().filter(of).collect()
}
