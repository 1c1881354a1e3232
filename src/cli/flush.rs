//! `flush`: one-shot submission, for cron, a timer, or a person in a hurry; safe beside a running daemon.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;

use super::exit::{Exit, Failed};
use super::setup::{Setup, count};
use super::standing::Standing;
use super::table::table;
use crate::config::duration::parse_duration;
use crate::daemon::sample::sample;
use crate::ledger::SharedLedger;
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
        let (now, collectors) = (setup.clock.now(), setup.collectors());
        let left = ledger
            .with(move |ledger| {
                ledger.state(now)?;
                Standing::of(ledger, &collectors)
            })
            .await?;
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
