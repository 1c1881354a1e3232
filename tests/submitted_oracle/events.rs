//! What each event does to agent and server, and to the account.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;
use waldur_usage_agent::ledger::books::ingest::Run;
use waldur_usage_agent::metering::reading::{Kind, Reading, Span};

use crate::account::{COMPONENTS, Job, PLACES, Place, USERS, before};
use crate::bench::{Bench, RESOURCES};
use crate::case::{Event, Fault, What};
use crate::faults::Faults;
use crate::marketplace;
use crate::request::Request;
use crate::specs::RowSpec;
use crate::world::UserRow;

const READINGS: [&str; 2] = ["cpu", "ram"];

impl Bench {
    pub(crate) async fn take(&mut self, event: &Event) -> Result<(), String> {
        match *event {
            Event::Used { place, user, cents, ago } => self.used(PLACES[place], user, cents, ago).await,
            Event::Corrected { job, cents } => self.corrected(job, cents).await,
            Event::Reassigned { job, user } => self.reassigned(job, user).await,
            Event::Across { place, user, cents } => self.across(PLACES[place], user, cents).await,
            Event::Slow { times, minutes, cycle } => self.slow(times, minutes, cycle).await?,
            Event::Restart => self.start(),
            Event::Copied => self.copy_ledger(),
            Event::Restored => self.restored().await,
            Event::Switch { resource } => {
                self.set(self.now + SignedDuration::from_secs(1));
                self.change(resource, json!({ "switch_plan": true }));
            }
            Event::Passes { minutes } => self.pass(minutes),
            Event::ToMonthEnd { minutes } => {
                let at = self.account.end(self.month()) + SignedDuration::from_mins(minutes);
                if at > self.now {
                    self.set(at);
                }
            }
            Event::Cycle { fault } => {
                self.fail(fault);
                self.cycle().await?;
                self.fail(None);
            }
            Event::Another { place, cents, months } => self.another(PLACES[place], cents, months),
            Event::AnotherShare { place, user, cents } => {
                self.another_share(PLACES[place], USERS[user], cents)
            }
            Event::Decide { resource, decision } => self.decide(resource, decision).await,
            Event::Drop { resource } => self.drop_blocked(resource).await,
            Event::Retry { resource } => self.retry(resource).await,
            Event::Factor { component, factor } => {
                self.set(self.now + SignedDuration::from_secs(1));
                self.configured.factors[component] = factor;
                self.account.factors.push((self.now, self.configured.factors));
                self.start();
            }
            Event::Renamed => {
                let next = format!("{}x", self.configured.collector);
                self.configured.continues = Some(std::mem::replace(&mut self.configured.collector, next));
                self.start();
            }
            Event::Terminated { resource, yes } => {
                self.account.terminated[resource] = yes;
                self.change(resource, json!({ "state": if yes { "Terminated" } else { "OK" } }));
            }
            Event::Rest => self.rest().await?,
        }
        Ok(())
    }

    async fn used(&mut self, place: Place, user: usize, cents: i64, ago: i64) {
        self.set(self.now + SignedDuration::from_secs(1));
        let at = self.now - SignedDuration::from_mins(ago);
        self.account.jobs.push(Job { place, user, cents, at, across: false });
        self.record(self.account.jobs.len() - 1).await;
    }

    /// Where a plan began within the hour, nothing: how much of the job is whose would be no whole number.
    async fn across(&mut self, place: Place, user: usize, cents: i64) {
        let at = self.account.end(before(self.month()));
        let near =
            |(_, start): (Uuid, Timestamp)| at.duration_since(start).abs() < SignedDuration::from_mins(31);
        let is_cut = self.plans(place.0).into_iter().any(near);
        if self.now - SignedDuration::from_mins(31) > at && !is_cut {
            self.set(self.now + SignedDuration::from_secs(1));
            self.account.jobs.push(Job { place, user, cents, at, across: true });
            self.record(self.account.jobs.len() - 1).await;
        }
    }

    async fn reassigned(&mut self, job: usize, user: usize) {
        let count = self.account.jobs.len();
        if count > 0 {
            self.set(self.now + SignedDuration::from_secs(1));
            self.account.jobs[job % count].user = user;
            self.record(job % count).await;
        }
    }

    /// A call of a cycle arrives when its sender has given it up; never in another month, which a server without dates would
    /// file it under.
    async fn slow(&mut self, times: u64, minutes: i64, cycle: bool) -> Result<(), String> {
        if self.account.end(self.month()) - SignedDuration::from_mins(15) < self.now {
            return Ok(());
        }
        self.order(json!([{ "match": { "method": "POST", "path": "/set_usage/" }, "when": "late",
                            "action": { "status": 504 }, "times": times }]));
        self.cycle().await?;
        self.fail(None);
        self.pass(minutes);
        if cycle {
            self.cycle().await?;
        }
        self.app.process_late();
        Ok(())
    }

    /// Waldur's side of a resource changes.
    fn change(&self, resource: usize, what: Value) {
        let request = Request {
            method: "POST".to_owned(),
            path: format!("/sandbox/resources/{}", RESOURCES[resource]),
            query: String::new(),
            host: "localhost".to_owned(),
            authorization: None,
            accept: None,
            accept_language: None,
            content_type: None,
            has_length: true,
            body: what.to_string().into_bytes(),
        };
        let answer = crate::admin::serve(&self.app, &request);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    }

    async fn corrected(&mut self, job: usize, cents: i64) {
        let count = self.account.jobs.len();
        if count > 0 {
            self.set(self.now + SignedDuration::from_secs(1));
            let number = job % count;
            let job = &mut self.account.jobs[number];
            job.cents = if job.across { cents / 2 * 2 } else { cents };
            self.record(number).await;
        }
    }

    async fn record(&mut self, number: usize) {
        self.account.since.get_or_insert(self.now);
        let job = self.account.jobs[number].clone();
        let (resource, component) = job.place;
        let mut reading = Reading::new(READINGS[component], Kind::Delta, job.cents.into(), job.at)
            .label("r", RESOURCES[resource]);
        if job.user > 0 {
            reading = reading.label("user", USERS[job.user]);
        }
        if job.across {
            let half = SignedDuration::from_mins(30);
            reading.span = Span::Interval { start: job.at - half, end: job.at + half };
        }
        reading.id = Some(format!("job-{number}"));
        let run = Run::seen(&self.configured.collector, self.now, vec![reading]);
        self.ledger().with(move |ledger| ledger.record(run)).await.unwrap();
    }

    /// What the ledger lost is read again of the source; what was accepted and decided since is not. All that Waldur holds may
    /// be another's by now.
    async fn restored(&mut self) {
        self.set(self.now + SignedDuration::from_secs(1));
        let (seen, running) = (self.seen(), self.month());
        let Some(then) = self.restore_ledger() else { return };
        let account = &mut self.account;
        (account.given_up, account.openings, account.factors) = (then.given_up, then.openings, then.factors);
        account.factors.push((self.now, self.configured.factors));
        account.to_adopt.clear();
        let mut months = account.months();
        months.extend(seen.keys().map(|key| key.1));
        for of in PLACES.into_iter().flat_map(|place| months.iter().map(move |month| (place, *month))) {
            account.disturbed.insert(of);
            account.shares_disturbed.insert(of);
            let held = Bench::held(&seen, of.0, of.1).total;
            if of.1 == running && held > 0 {
                account.theirs.insert(of, held);
            }
        }
        for number in 0..self.account.jobs.len() {
            self.record(number).await;
        }
    }

    fn fail(&self, fault: Option<Fault>) {
        let faults = fault.map(|Fault { what, after, times }| {
            let (method, path) = match what {
                What::Totals => ("POST", "/set_usage/"),
                What::Shares => ("POST", "/set_user_usage"),
                What::Rows => ("GET", "/marketplace-component-usages/"),
                What::UserRows => ("GET", "/marketplace-component-user-usages/"),
                What::Resources => ("GET", "/marketplace-provider-resources/"),
                What::Plans => ("GET", "/plan_periods/"),
            };
            let when = if after { "after" } else { "before" };
            json!([{ "match": { "method": method, "path": path }, "when": when, "action": { "status": 504 },
                     "times": times }])
        });
        self.order(faults.unwrap_or(json!([])));
    }

    fn order(&self, faults: Value) {
        let faults: Faults = serde_json::from_value(json!({ "faults": faults })).unwrap();
        self.app.set_faults(faults.build().unwrap());
    }

    fn another(&mut self, place: Place, cents: i64, months: i64) {
        let (year, month) = self.month();
        self.wrote_into_the_past |= months > 0;
        let first = jiff::civil::date(year, month, 1) - jiff::Span::new().months(months);
        let of = (place, (first.year(), first.month()));
        self.account.disturbed.insert(of);
        if months == 0 {
            self.account.theirs.insert(of, cents);
            self.account.theirs.retain(|_, cents| *cents > 0);
        }
        let spec: RowSpec = serde_json::from_value(json!({
            "resource": RESOURCES[place.0], "type": COMPONENTS[place.1], "billing_period": first.to_string(),
            "usage": Decimal::new(cents, 2).to_string(),
        }))
        .unwrap();
        marketplace::put_row(&mut self.app.world(), spec).unwrap();
    }

    fn another_share(&mut self, place: Place, user: &str, cents: i64) {
        let (month, now) = (self.month(), self.now);
        let mut world = self.app.world();
        let uuid: Uuid = RESOURCES[place.0].parse().unwrap();
        let resource = world.resources.iter_mut().find(|one| one.uuid == uuid).unwrap();
        let row = resource
            .rows
            .iter_mut()
            .rfind(|row| row.kind == COMPONENTS[place.1] && (row.month.year(), row.month.month()) == month);
        // Of a component without shares of ours nobody looks for others'.
        let Some(row) = row.filter(|row| !row.users.is_empty()) else { return };
        let usage = Decimal::new(cents, 2);
        match row.users.iter_mut().find(|share| share.username == user) {
            Some(share) => share.usage = usage,
            None => row.users.push(UserRow {
                uuid: Uuid::new_v4(),
                username: user.to_owned(),
                user: None,
                usage,
                created: now,
                modified: now,
            }),
        }
        drop(world);
        self.account.shares_disturbed.insert((place, month));
    }
}
