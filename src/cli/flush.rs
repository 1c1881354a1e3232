//! `flush`: one-shot submission, for cron, a timer, or a person in a hurry; safe beside a running daemon.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;

use super::exit::{Exit, Failed};
use super::setup::{Setup, count};
use super::table::table;
use crate::config::duration::parse_duration;
use crate::daemon::sample::sample;
use crate::ledger::SharedLedger;
use crate::submitter::reason::Reason;
use crate::submitter::{CycleOptions, Sent};
use crate::waldur::failure::Failure;

/// Report what is pending now, and wait for the outcome.
///
/// With --collect every collector is run first. It may run beside a daemon on the same ledger: whoever submits holds
/// a lock, the other waits. An earlier failure's backoff is not waited for; a Retry-After is, within the deadline.
#[derive(Debug, Args)]
pub(super) struct Flush {
    /// Run every collector first.
    #[arg(long)]
    collect: bool,
    /// How long to go on trying.
    #[arg(long, default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    deadline: SignedDuration,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Flush {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let client = Arc::new(setup.client()?);
        let ledger = SharedLedger::new(setup.ledger()?);
        let mut exit = Exit::Ok;
        let mut failed = Vec::new();
        if self.collect {
            for definition in setup.definitions.iter() {
                let since = definition.since.unwrap_or_else(|| setup.period_start());
                let recorded = sample(definition, &ledger, &setup.clock, since, setup.withhold()).await?;
                for bad in recorded.quarantined.iter().take(5) {
                    failed.push(format!(
                        "collector {}: quarantined, not billed: {}: {}",
                        definition.name, bad.reason, bad.what
                    ));
                }
                if recorded.is_failure() {
                    exit = exit.min(Exit::Collector);
                    let problems = recorded.failed.into_iter().chain(recorded.problems);
                    failed
                        .extend(problems.map(|problem| format!("collector {}: {problem}", definition.name)));
                }
            }
        }
        let submitter = setup.submitter(client, ledger.clone());
        let end = tokio::time::Instant::now() + Duration::try_from(self.deadline).unwrap_or_default();
        let mut sent: Vec<Sent> = Vec::new();
        let mut notes: Vec<String> = Vec::new();
        let mut requests = 0;
        let mut paused: Option<Failure>;
        let mut busy;
        let mut busy_with;
        let mut rounds = 0;
        let mut no_role = false;
        loop {
            rounds += 1;
            let report = submitter.cycle(CycleOptions { ignore_backoff: rounds == 1 }).await?;
            requests += report.requests;
            no_role |= report.no_role;
            let progress = !report.sent.is_empty();
            sent.extend(report.sent);
            for note in report.notes {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            (paused, busy, busy_with) = (report.paused, report.busy, report.busy_with);
            let refused = matches!(
                &paused,
                Some(
                    Failure::Token { .. }
                        | Failure::Forbidden { .. }
                        | Failure::Certificate { .. }
                        | Failure::Redirected { .. }
                        | Failure::Endpoint { .. }
                )
            );
            let now = setup.clock.now();
            let waiting = ledger.with(move |ledger| ledger.pending(now)).await?.len();
            if refused || waiting == 0 && !busy {
                break;
            }
            let rest = match &paused {
                Some(failure) => {
                    failure.retry_after().and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(RETRY)
                }
                None if progress && rounds < ROUNDS => Duration::ZERO,
                None => RETRY,
            };
            if tokio::time::Instant::now() + rest >= end {
                break;
            }
            tokio::time::sleep(rest).await;
        }
        let left = standing(&ledger, setup.clock.now()).await?;
        exit = exit.min(left.exit());
        if no_role || matches!(&paused, Some(Failure::Token { .. } | Failure::Forbidden { .. })) {
            exit = exit.min(Exit::Token);
        } else if paused.is_some() || busy {
            exit = exit.min(Exit::Pending);
        }
        if self.json {
            let sent: Vec<_> = sent.iter().map(sent_json).collect();
            writeln!(
                out,
                "{:#}",
                json!({
                    "sent": sent, "requests": requests, "pending": left.pending, "held": left.held,
                    "parked": left.parked, "stranded": left.stranded, "unmatched": left.unmatched,
                    "quarantined": left.quarantined, "closing_rest": left.rest,
                    "collector_failures": failed, "notes": notes,
                    "paused": paused.as_ref().map(Failure::to_string), "busy": busy,
                    "busy_with": busy.then_some(&busy_with), "exit": exit.code(),
                })
            )?;
            return Ok(exit);
        }
        for line in failed {
            writeln!(out, "{line}")?;
        }
        show_sent(out, &sent)?;
        if let Some(failure) = &paused {
            writeln!(out, "Waldur is left alone for now: {failure}")?;
        }
        if busy {
            writeln!(
                out,
                "Nothing could be submitted before the deadline: {busy_with} is submitting for this ledger."
            )?;
        }
        left.show(out)?;
        Ok(exit)
    }
}

/// After so many rounds that each got on, there is a rest between them all the same.
const ROUNDS: u32 = 10;
/// How long to wait before trying again where the server did not say.
const RETRY: Duration = Duration::from_secs(1);

fn show_sent(out: &mut dyn Write, sent: &[Sent]) -> Result<(), Failed> {
    if sent.is_empty() {
        writeln!(out, "Nothing was sent.")?;
        return Ok(());
    }
    let mut rows = table(["resource", "period", "component", "user", "amount"]);
    for one in sent {
        let user = if one.user.is_empty() { "(total)".to_owned() } else { one.user.clone() };
        rows.add_row([
            one.resource.to_string(),
            one.period.to_string(),
            one.component.clone(),
            user,
            format!("{:.2}", one.amount),
        ]);
    }
    writeln!(out, "{rows}\nSent {}.", count(sent.len(), "amount"))?;
    Ok(())
}

fn sent_json(sent: &Sent) -> serde_json::Value {
    json!({
        "resource": sent.resource, "period": sent.period.to_string(), "component": sent.component,
        "user": if sent.user.is_empty() { None } else { Some(&sent.user) }, "amount": format!("{:.2}", sent.amount),
    })
}

/// What is left after submitting.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub pending: usize,
    pub held: usize,
    pub parked: usize,
    pub stranded: usize,
    pub unmatched: usize,
    /// All that some collector measured is unmatched.
    pub wholly_unmatched: bool,
    pub unmatched_ids: Vec<String>,
    /// Backend ids of several resources that live, with their names.
    pub several: Vec<(String, String)>,
    /// Readings that are not believed.
    pub implausible: usize,
    /// Lines that the last runs of collectors quarantined.
    pub quarantined: usize,
    /// What only the closing of a month left: no alarm.
    pub rest: usize,
}

impl Standing {
    pub(super) fn exit(&self) -> Exit {
        if self.pending > 0 {
            Exit::Pending
        } else if self.held + self.parked + self.stranded + self.quarantined + self.implausible > 0
            || self.wholly_unmatched
            || !self.several.is_empty()
        {
            Exit::Stuck
        } else {
            Exit::Ok
        }
    }

    fn show(&self, out: &mut dyn Write) -> Result<(), Failed> {
        let counts = [
            (self.pending, "statement", "still pending (`status` says why)"),
            (self.held, "amount", "held (`status` says why)"),
            (self.parked, "amount", "parked: Waldur refused them (`parked list`)"),
            (self.stranded, "amount", "stranded: their month can't be reported any more"),
            (self.rest, "amount", "left by the closing of a month (`status` says how much)"),
            (self.unmatched, "backend id", "unmatched: Waldur knows no such resource"),
            (self.implausible, "reading", "held: more than can be believed (`parked list` says which)"),
            (
                self.quarantined,
                "line",
                "quarantined in the last run, not billed (`status` says which collector)",
            ),
        ];
        for (number, what, how) in counts.into_iter().filter(|(number, _, _)| *number > 0) {
            writeln!(out, "{}: {how}", count(number, what))?;
        }
        if !self.unmatched_ids.is_empty() {
            writeln!(
                out,
                "All that a collector measured is unmatched, such as {}.",
                self.unmatched_ids.join(", ")
            )?;
        }
        for (backend_id, names) in &self.several {
            writeln!(
                out,
                "held: the backend id {backend_id} is that of several resources that live: {names}"
            )?;
        }
        Ok(())
    }
}

/// Counts what is left.
pub(super) async fn standing(ledger: &SharedLedger, now: jiff::Timestamp) -> Result<Standing, Failed> {
    let standing = ledger
        .with(move |ledger| {
            let mut standing = Standing { pending: ledger.pending(now)?.len(), ..Standing::default() };
            for one in ledger.blocks()? {
                match one.block.state.as_str() {
                    _ if one.block.reason == Reason::ClosingRest.name() => standing.rest += 1,
                    "held" => standing.held += 1,
                    "parked" => standing.parked += 1,
                    "stranded" => standing.stranded += 1,
                    // Nobody is waited for.
                    _ => {}
                }
            }
            standing.unmatched = ledger.unmatched()?.len();
            standing.wholly_unmatched = ledger.is_wholly_unmatched()?;
            standing.quarantined = ledger.quarantined_lately()?;
            standing.implausible = ledger.held_readings()?.len();
            standing.several = ledger.several_resources()?;
            if standing.wholly_unmatched {
                let ids =
                    ledger.unmatched()?.into_iter().map(|one| one.backend_id).filter(|id| !id.is_empty());
                standing.unmatched_ids = ids.take(5).collect();
            }
            Ok(standing)
        })
        .await?;
    Ok(standing)
}
