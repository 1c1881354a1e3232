//! `status`: per resource and component the amount, what Waldur holds, when, what waits and why. It only reads the
//! ledger, so it works beside a daemon, without the token and without the network.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::setup::{Setup, count};
use super::table::table;
use crate::ledger::Ledger;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::views::adjustments::{Adjustment, Kind};
use crate::metering::exact::Exact;
use crate::metering::period::BillingPeriod;
use crate::submitter::closing::Closing;
use crate::submitter::reason::Reason;

use collector::Collector;

mod collector;

/// Show each amount, what Waldur holds, and what waits and why.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// A billing period such as 2026-11; otherwise the current one, and older ones with something left.
    #[arg(long, value_name = "YYYY-MM")]
    period: Option<BillingPeriod>,
    /// Show the users' shares too.
    #[arg(long)]
    users: bool,
    /// Look again every two seconds.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        loop {
            let ledger = setup.ledger_to_read()?;
            let view = View::of(&ledger, setup, self.period)?;
            if self.json {
                writeln!(out, "{:#}", view.json())?;
                return Ok(view.exit);
            }
            if self.watch && super::log::colours(std::io::stdout().is_terminal()) {
                write!(out, "\x1b[2J\x1b[H")?;
            }
            view.show(out, self.users)?;
            out.flush()?;
            if !self.watch {
                return Ok(view.exit);
            }
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    }
}

/// All that is shown.
#[derive(Debug)]
struct View {
    exit: Exit,
    ledger: String,
    statements: Vec<(Statement, Named)>,
    /// By resource and month.
    adjustments: BTreeMap<(Uuid, BillingPeriod), Vec<Adjustment>>,
    collectors: Vec<Collector>,
    unmatched: Vec<crate::ledger::views::report::Unmatched>,
    resting: Option<crate::ledger::sent::server::Retry>,
    skew: Option<String>,
    closing: Closing,
    now: jiff::Timestamp,
}

/// Fewer may be due, and the daemon just about to look.
const OVERDUE: usize = 3;

/// What a resource is called.
#[derive(Debug, Default)]
struct Named {
    name: String,
    backend_id: String,
    customer: String,
    retry: Option<crate::ledger::sent::server::Retry>,
}

impl View {
    fn of(ledger: &Ledger, setup: &Setup, period: Option<BillingPeriod>) -> Result<View, Failed> {
        let now = setup.clock.now();
        let current = ledger.in_force().zone.period_of(now);
        let closing = Closing::of(ledger, now)?;
        let mut statements = Vec::new();
        for statement in ledger.statements(period)? {
            let left = statement.components.values().chain(statement.users.values()).any(Entry::differs);
            if period.is_none() && statement.key.period != current && !left {
                continue;
            }
            let known = ledger.resource(statement.key.resource)?;
            let retry = ledger.retry(Some(statement.key.resource))?;
            let named = known.map_or_else(Named::default, |known| Named {
                name: known.name,
                backend_id: known.backend_id,
                customer: known.customer,
                retry: None,
            });
            statements.push((statement, Named { retry, ..named }));
        }
        let mut adjustments = BTreeMap::new();
        for (statement, _) in &statements {
            let (resource, period) = (statement.key.resource, statement.key.period);
            adjustments.insert((resource, period), ledger.adjustments(resource, period)?);
        }
        let mut collectors = Vec::new();
        for definition in setup.definitions.iter() {
            collectors.push(Collector::of(ledger, setup, definition)?);
        }
        let failing =
            collectors.iter().any(|c| c.report.last.as_ref().is_some_and(|last| last.outcome != "ok"));
        let entries = || statements.iter().flat_map(|(s, _)| s.components.values().chain(s.users.values()));
        let exit = if failing {
            Exit::Collector
        } else if entries().any(Entry::to_send) {
            Exit::Pending
        } else if entries().any(waits)
            || ledger.has_quarantined()?
            || !ledger.held_readings()?.is_empty()
            || !ledger.several_resources()?.is_empty()
            || ledger.is_wholly_unmatched()?
        {
            Exit::Stuck
        } else {
            Exit::Ok
        };
        Ok(View {
            exit,
            ledger: ledger.path().display().to_string(),
            statements,
            adjustments,
            collectors,
            unmatched: ledger.unmatched()?,
            resting: ledger.retry(None)?,
            skew: ledger.server_fact("skew_us")?.map(|(micros, _)| micros),
            closing,
            now,
        })
    }

    fn show(&self, out: &mut dyn Write, users: bool) -> Result<(), Failed> {
        let mut rows = table(["collector", "schedule", "last run", "outcome", "readings", "last success"]);
        for Collector { report: collector, schedule, .. } in &self.collectors {
            let instant = |at: Option<jiff::Timestamp>| at.map_or("never".to_owned(), seconds);
            let last = collector.last.as_ref();
            rows.add_row([
                collector.name.clone(),
                schedule.clone(),
                instant(last.map(|last| last.at)),
                last.map_or("-".to_owned(), |last| last.outcome.clone()),
                last.map_or("-".to_owned(), |last| last.readings.to_string()),
                instant(collector.last_success),
            ]);
        }
        writeln!(out, "{rows}")?;
        for Collector { report: collector, retry, missed, overdue, .. } in &self.collectors {
            if let Some(message) = collector.last.as_ref().and_then(|last| last.message.as_ref()) {
                let times = count(collector.failures_since as usize, "run");
                writeln!(out, "  {}: {message} ({times} since it last succeeded)", collector.name)?;
            }
            if let Some(last) = collector.last.as_ref().filter(|last| last.quarantined > 0) {
                writeln!(out, "  {}: {} quarantined in the last run", collector.name, last.quarantined)?;
            }
            if let Some(retry) = retry {
                writeln!(out, "  {}: the daemon tries it again at {}", collector.name, seconds(*retry))?;
            }
            if let Some((runs, from, to)) = missed {
                let (runs, from, to) = (count(*runs, "run"), seconds(*from), seconds(*to));
                writeln!(out, "  {}: missed {runs} between {from} and {to}", collector.name)?;
            }
            if *overdue >= OVERDUE {
                writeln!(out, "  {}: {overdue} runs were due since; is the daemon at work?", collector.name)?;
            }
        }
        writeln!(out)?;
        if self.statements.is_empty() {
            writeln!(out, "No amounts yet.")?;
        } else {
            let mut rows = table([
                "resource",
                "period",
                "component",
                "user",
                "amount",
                "to post",
                "Waldur holds",
                "since",
                "state",
            ]);
            for (statement, named) in &self.statements {
                let shown = if named.name.is_empty() {
                    statement.key.resource.to_string()
                } else {
                    named.name.clone()
                };
                for ((component, user), entry) in entries(statement, users) {
                    let acknowledged = entry.acknowledged.as_ref();
                    rows.add_row([
                        shown.clone(),
                        format!("{} {}", statement.key.period, self.period_state(statement)),
                        component.clone(),
                        user.clone(),
                        approximately(&entry.exact),
                        entry.posted.map_or("-".to_owned(), |posted| format!("{posted:.2}")),
                        acknowledged.map_or("-".to_owned(), |a| format!("{:.2}", a.amount)),
                        acknowledged.map_or("-".to_owned(), |a| seconds(a.at)),
                        state(entry, named).0,
                    ]);
                }
            }
            writeln!(out, "{rows}")?;
            for ((resource, period), adjustments) in &self.adjustments {
                for one in adjustments {
                    let whose = if one.user.is_empty() { String::new() } else { format!(" of {}", one.user) };
                    if users || one.user.is_empty() {
                        writeln!(out, "  {resource} {}{whose}, {period}: {}", one.component, told(one))?;
                    }
                }
            }
            for (statement, named) in &self.statements {
                for ((component, user), entry) in entries(statement, true) {
                    if let Some(block) = &entry.block {
                        let whose = if user.is_empty() { String::new() } else { format!(" of {user}") };
                        let remedy = Reason::named(&block.reason);
                        let remedy = remedy.map_or("", |reason| reason.remedy());
                        writeln!(
                            out,
                            "  {} {component}{whose}, {}: {}{}: {}\n    {remedy}",
                            statement.key.resource,
                            statement.key.period,
                            entry.stranded().map_or(String::new(), |left| format!("{left:.2} ")),
                            block.state,
                            block.words
                        )?;
                    }
                }
                if let Some(retry) = &named.retry {
                    let next = seconds(retry.next);
                    writeln!(out, "  {}: tried again after {next}: {}", statement.key.resource, retry.words)?;
                }
            }
        }
        if let Some(resting) = &self.resting {
            writeln!(out, "\nWaldur is left alone until {}: {}", seconds(resting.next), resting.words)?;
        }
        if !self.unmatched.is_empty() {
            writeln!(out, "\nUnmatched (kept, and reported once Waldur has a resource for them):")?;
            let mut rows = table(["collector", "backend id", "offering", "series", "why"]);
            for one in &self.unmatched {
                rows.add_row([
                    &one.collector,
                    &one.backend_id,
                    &one.offering,
                    &one.series.to_string(),
                    &one.why,
                ]);
            }
            writeln!(out, "{rows}")?;
        }
        Ok(())
    }

    fn period_state(&self, statement: &Statement) -> &'static str {
        self.closing.state_of(statement, self.now).name()
    }

    fn json(&self) -> Value {
        let statements: Vec<Value> = self
            .statements
            .iter()
            .map(|(statement, named)| {
                let component = |component: &String, entry: &Entry| {
                    let users: Vec<Value> = statement
                        .users
                        .iter()
                        .filter(|((of, _), _)| of == component)
                        .map(|((_, user), entry)| entry_json("user", user, entry, named))
                        .collect();
                    let mut shown = entry_json("component", component, entry, named);
                    shown["users"] = users.into();
                    let place = (statement.key.resource, statement.key.period);
                    let adjustments = self.adjustments.get(&place).map(Vec::as_slice).unwrap_or_default();
                    let of_component = adjustments.iter().filter(|one| &one.component == component);
                    shown["adjustments"] = of_component.map(adjustment_json).collect();
                    shown
                };
                let components: Vec<Value> =
                    statement.components.iter().map(|(c, e)| component(c, e)).collect();
                json!({
                    "resource": statement.key.resource, "name": named.name, "backend_id": named.backend_id,
                    "customer": named.customer, "period": statement.key.period.to_string(),
                    "period_state": self.period_state(statement), "closed": statement.closed.map(|at| at.to_string()),
                    "plan_period_start": statement.key.part.to_string(), "state": whole_state(statement),
                    "components": components,
                    "retry_after": named.retry.as_ref().map(|retry| retry.next.to_string()),
                })
            })
            .collect();
        let collectors: Vec<Value> = self
            .collectors
            .iter()
            .map(|Collector { report: collector, schedule, retry, missed, overdue }| {
                let last = collector.last.as_ref();
                json!({
                    "name": collector.name, "schedule": schedule,
                    "last_run": last.map(|last| last.at.to_string()), "outcome": last.map(|last| &last.outcome),
                    "message": last.and_then(|last| last.message.as_ref()),
                    "readings": last.map(|last| last.readings), "quarantined": last.map(|last| last.quarantined),
                    "last_success": collector.last_success.map(|at| at.to_string()),
                    "failures_since_success": collector.failures_since,
                    "retry_after": retry.map(|at| at.to_string()),
                    "missed": missed.map(|(runs, from, to)| {
                        json!({ "runs": runs, "from": from.to_string(), "to": to.to_string() })
                    }),
                    "overdue": overdue,
                })
            })
            .collect();
        let unmatched: Vec<Value> = self
            .unmatched
            .iter()
            .map(|one| {
                json!({
                    "collector": one.collector, "backend_id": one.backend_id, "offering": one.offering,
                    "series": one.series, "since": one.since.map(|at| at.to_string()), "why": one.why,
                })
            })
            .collect();
        json!({
            "ledger": self.ledger, "collectors": collectors, "statements": statements, "unmatched": unmatched,
            "server": {
                "paused_until": self.resting.as_ref().map(|retry| retry.next.to_string()),
                "words": self.resting.as_ref().map(|retry| &retry.words),
                "clock_skew_microseconds": self.skew.as_ref().and_then(|text| text.parse::<i64>().ok()),
            },
            "exit": self.exit.code(),
        })
    }
}

/// Components, and after each its users if wanted.
fn entries(statement: &Statement, users: bool) -> Vec<((String, String), &Entry)> {
    let mut all = Vec::new();
    for (component, entry) in &statement.components {
        all.push(((component.clone(), String::new()), entry));
        let of_component = statement.users.iter().filter(|((of, _), _)| users && of == component);
        all.extend(of_component.map(|(key, entry)| (key.clone(), entry)));
    }
    all
}

/// One word for how a number stands, and why.
fn state(entry: &Entry, named: &Named) -> (String, Option<String>) {
    if let Some(block) = entry.block.as_ref().filter(|block| entry.differs() || block.state == "held") {
        return (block.state.clone(), Some(format!("{}: {}", block.reason, block.words)));
    }
    if let Some(problem) = &entry.problem {
        return ("held".to_owned(), Some(problem.clone()));
    }
    if entry.to_send() {
        let why =
            named.retry.as_ref().map(|retry| format!("tried again after {}: {}", retry.next, retry.words));
        return ("pending".to_owned(), why);
    }
    ("agreed".to_owned(), None)
}

/// Whether it waits for a person. What only the closing of a month left does not.
pub(super) fn waits(entry: &Entry) -> bool {
    entry.block.as_ref().is_some_and(|block| block.reason != Reason::ClosingRest.name())
}

/// One word for a whole statement: pending while anything is to be sent, else what keeps something back, else agreed.
fn whole_state(statement: &Statement) -> &str {
    let entries = || statement.components.values().chain(statement.users.values());
    if entries().any(Entry::to_send) {
        return "pending";
    }
    let kept_back =
        entries().find_map(|entry| entry.block.as_ref().filter(|_| entry.differs() || waits(entry)));
    kept_back.map_or("agreed", |block| &block.state)
}

fn entry_json(kind: &str, name: &str, entry: &Entry, named: &Named) -> Value {
    let (state, why) = state(entry, named);
    let acknowledged = entry.acknowledged.as_ref();
    json!({
        kind: name, "amount": entry.exact, "posted": entry.posted.map(|posted| format!("{posted:.2}")),
        "acknowledged": acknowledged.map(|a| format!("{:.2}", a.amount)),
        "acknowledged_at": acknowledged.map(|a| a.at.to_string()),
        "acknowledged_how": acknowledged.map(|a| &a.how),
        "stranded": entry.stranded().map(|stranded| format!("{stranded:.2}")),
        "state": state, "reason": why,
    })
}

/// An adjustment in words, as the month sees it that it is shown in.
pub(super) fn told(one: &Adjustment) -> String {
    let amount = one.amount.abs();
    match one.kind {
        Kind::Opening(at) => format!("opening balance {amount:.2} of {at}: {}", one.words),
        Kind::CarriedTo(to) => format!("{amount:.2} carried forward to {to}"),
        Kind::CarriedFrom(from) => format!("{:.2} carried forward from {from}: {}", one.amount, one.words),
        Kind::LaterPlan => one.words.clone(),
        Kind::GivenUp => format!("{amount:.2} given up: {}", one.words),
    }
}

/// The same for machines. What is taken out of a month is negative there.
pub(super) fn adjustment_json(one: &Adjustment) -> Value {
    let (at, from, to) = match one.kind {
        Kind::Opening(at) => (Some(at.to_string()), None, None),
        Kind::CarriedFrom(from) => (None, Some(from.to_string()), None),
        Kind::CarriedTo(to) => (None, None, Some(to.to_string())),
        Kind::LaterPlan | Kind::GivenUp => (None, None, None),
    };
    json!({
        "kind": one.kind.name(), "user": if one.user.is_empty() { None } else { Some(&one.user) },
        "amount": one.amount.normalize().to_string(), "at": at, "from": from, "to": to,
        "words": one.words, "recorded": one.recorded.to_string(),
    })
}

fn seconds(at: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn approximately(exact: &str) -> String {
    exact.parse::<Exact>().map_or_else(|_| exact.to_owned(), |exact| exact.approximate(6))
}
