//! `flush`: one-shot submission, for cron, a timer, or a person in a hurry; safe beside a running daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::json;
use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::progress::Progress;
use super::recorder::{Recorder, ledger_or_keep};
use super::setup::{Setup, count};
use super::standing;
use super::text::{WIDTH, fold, fold_all, name_or, pad, shorten, thousands};
use crate::config::duration::parse_duration;
use crate::daemon::sample::sample;
use crate::ledger::views::calls::{Sent, Since};
use crate::ledger::{Ledger, LedgerError, SharedLedger};
use crate::submitter::CycleOptions;
use crate::submitter::left::Outstanding;
use crate::submitter::next_try::NextTry;
use crate::submitter::other_server::OtherServer;
use crate::submitter::pause::{self, Cause};
use crate::submitter::progress::Progress as Stages;
use crate::submitter::told::{AsBefore, tell_events};
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::wire::numbers::count_many;

/// Report what is pending now, and wait for the outcome.
///
/// With --collect every collector is run first. It may run beside a daemon on the same ledger: whoever submits holds
/// a lock, the other waits. An earlier failure's backoff is not waited for; a Retry-After is, within the deadline. What
/// can't be measured or sent within the deadline is not waited for: a collector or a server that hangs is given 10 s more.
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

/// Ends the process at last, whatever hangs in a place that nobody else watches: a secret on a dead mount, a disk.
fn end_by(limit: Duration) {
    std::thread::spawn(move || {
        // Nobody ends this wait but the end of the process.
        let (_open, ended) = std::sync::mpsc::channel::<()>();
        let _ = ended.recv_timeout(limit);
        let words = format!(
            "waldur-usage-agent: something hangs that can't be waited for (a file that a path of the configuration names, or the \
             disk): ended after {} s. What was recorded is kept, and what was sent is looked up by the next `flush`.",
            limit.as_secs()
        );
        eprintln!("{}", fold_all(&words, 4));
        std::process::exit(Exit::Pending.code().into());
    });
}

impl Flush {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let collectors = u32::try_from(setup.definitions.len()).unwrap_or(u32::MAX);
        end_by(
            Duration::try_from(self.deadline).unwrap_or_default()
                + GRACE.saturating_mul(collectors)
                + 6 * GRACE,
        );
        let progress = Arc::new(Progress::of("Opening the ledger"));
        if setup.settings.waldur.is_none() || !self.collect {
            setup.client()?;
        }
        let end = tokio::time::Instant::now() + Duration::try_from(self.deadline).unwrap_or_default();
        let measured: Vec<_> = setup.definitions.iter().filter(|_| self.collect).collect();
        let ledger = SharedLedger::new(ledger_or_keep(setup, &measured, Some(end + GRACE)).await?);
        let mut exit = Exit::Ok;
        let mut failed = Vec::new();
        if self.collect {
            let recorder = Recorder::of(setup, Some(&ledger))?;
            for definition in setup.definitions.iter().filter(|definition| !definition.elsewhere) {
                progress.at(&format!("Collector {}: measuring", definition.name), 0, 0);
                let since = setup.since(definition);
                let recording = match recorder.at(setup, definition)? {
                    Ok(recording) => recording,
                    Err(other) => {
                        tracing::info!("Collector {}: run by {other}.", definition.name);
                        continue;
                    }
                };
                let ledger = &recording.ledger;
                let run = sample(definition, ledger, &setup.clock, since, setup.withhold());
                // After one that hangs the others have their time, too.
                let by = end.max(tokio::time::Instant::now()) + GRACE;
                let Ok(recorded) = tokio::time::timeout_at(by, run).await else {
                    exit = exit.min(Exit::Collector);
                    failed.push(format!(
                        "collector {}: not done by the deadline of {:#}: this run is not recorded, what was before it is \
                         kept; what it measures is reported with the next (`--deadline` gives it longer)",
                        definition.name, self.deadline
                    ));
                    continue;
                };
                let recorded = recorded?;
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
            recorder.send().await?;
        }
        // Whatever is the matter with the token: what is measured is recorded by now.
        let client = match setup.client() {
            Ok(client) => Arc::new(client),
            Err(why) => {
                for line in failed {
                    match self.json {
                        true => eprintln!("{}", fold_all(&line, 2)),
                        false => writeln!(out, "{}", fold_all(&line, 2))?,
                    }
                }
                let words =
                    format!("{}. What was measured is kept, and reported once it can be", why.message);
                return Err(Failed::new(exit.min(why.exit), words));
            }
        };
        let mut submitter = setup.submitter(client.clone(), ledger.clone());
        let shown = progress.clone();
        submitter.progress = Stages::to(move |what, done, total| shown.at(what, done, total));
        progress.at("Asking Waldur", 0, 0);
        let mut sent = ledger.with(|ledger| ledger.from_here()).await?;
        let mut as_before = Some(ledger.with(|ledger| AsBefore::of(ledger)).await?);
        let mut notes: Vec<String> = Vec::new();
        let mut requests = 0;
        let mut paused: Option<Failure> = None;
        let mut busy = false;
        let mut busy_with = String::new();
        let mut hung = false;
        let mut rounds = 0;
        let mut no_role = false;
        let mut compared = None;
        loop {
            rounds += 1;
            let report = tokio::select! {
                report = submitter.cycle(CycleOptions { ignore_backoff: rounds == 1 }) => Some(report?),
                () = hangs(&client, end) => None,
            };
            sent.turns.insert(ledger.with(|ledger| Ok(ledger.own_turn())).await?);
            let Some(report) = report else {
                // What is cut off is read back before it is believed, as after a crash.
                hung = true;
                break;
            };
            if let Some(as_before) = as_before.take_if(|_| !report.busy) {
                ledger.with(|ledger| as_before.tell(ledger)).await?;
            }
            requests += report.requests;
            no_role |= report.no_role;
            compared = report.compared.or(compared);
            for note in report.notes {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            (paused, busy, busy_with) = (report.paused.or(report.refused), report.busy, report.busy_with);
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
            let (waiting, next) = ledger
                .with(move |ledger| {
                    let pending = ledger.pending(now)?;
                    Ok((pending.len(), NextTry::of_these(ledger, &pending, now)?))
                })
                .await?;
            if refused || report.other_server.is_some() || waiting == 0 && !busy {
                break;
            }
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let last = now.saturating_add(left).unwrap_or(Timestamp::MAX);
            if !busy && next.at.is_none_or(|at| at > last) {
                break;
            }
            let rest = match &paused {
                Some(failure) => {
                    failure.retry_after().and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(RETRY)
                }
                None if report.sent > 0 && rounds < ROUNDS => Duration::ZERO,
                None => RETRY,
            };
            if tokio::time::Instant::now() + rest >= end {
                break;
            }
            tokio::time::sleep(rest).await;
        }
        if !busy {
            let now = setup.clock.now();
            let told = ledger.with(move |ledger| {
                ledger.log_lingering(now)?;
                ledger.log_unknown(now)?;
                tell_events(ledger)
            });
            told.await?;
        }
        drop((submitter, progress));
        let (now, collectors) = (setup.clock.now(), setup.collectors());
        let api = setup.settings.api().cloned();
        let (left, server, next, undone) = ledger
            .with(move |ledger| {
                ledger.state(now)?;
                let left = Outstanding::of(ledger, &collectors)?;
                let next = if left.pending == 0 { NextTry::default() } else { NextTry::of(ledger, now)? };
                let server = pause::ServerStatus::of(ledger, api.as_ref())?;
                let undone = standing::names_of_undone(&server.undone, ledger)?;
                Ok((left, server, next, undone))
            })
            .await?;
        exit = exit.min(standing::exit(&left, &server));
        // A later round that left the server alone has no failure of its own: then it is still the last one.
        let still = server.paused.as_ref().filter(|_| paused.is_none());
        let refused = matches!(&paused, Some(Failure::Token { .. } | Failure::Forbidden { .. }));
        let cause = server.paused.as_ref().map(|paused| paused.cause);
        let cause = cause.or(server.is_paused_for(Cause::Role).then_some(Cause::Role));
        let paused = paused.map(|failure| failure.to_string()).or(still.map(|one| one.retry.words.clone()));
        if no_role || refused || server.is_refused() {
            exit = exit.min(Exit::Token);
        } else if paused.is_some() || busy || hung {
            exit = exit.min(Exit::Pending);
        }
        if self.json {
            let (accepted, _) = ledger.with(move |ledger| sent_by_name(ledger, &sent)).await?;
            let sent: Vec<_> = accepted.iter().map(sent_json).collect();
            writeln!(
                out,
                "{:#}",
                json!({
                    "sent": sent, "requests": requests, "pending": left.pending, "held": left.held,
                    "parked": left.parked, "stranded": left.stranded, "unmatched": left.unmatched(None).len(),
                    "not_asked": left.not_asked().len(), "unplaced_series": left.unplaced_series(None),
                    "quarantined": left.quarantined, "closing_rest": left.rest,
                    "not_begun": next.not_begun.iter().map(|(period, statements)| {
                        json!({ "period": period.to_string(), "statements": statements })
                    }).collect::<Vec<_>>(),
                    "collector_failures": failed, "notes": notes,
                    "other_server": server.other.as_ref().map(OtherServer::words),
                    "paused": paused, "hung": hung, "busy": busy,
                    "busy_with": busy.then_some(&busy_with), "exit": exit.code(),
                    "report": if setup.is_shadow() { "shadow" } else { "live" },
                    "compared": compared.map(|(all, differ)| json!({ "resources": all, "differ": differ })),
                })
            )?;
            return Ok(exit);
        }
        for line in failed {
            writeln!(out, "{}", fold_all(&line, 2))?;
        }
        if setup.is_shadow() {
            show_comparison(out, compared)?;
        } else {
            show_sent(out, &ledger, sent).await?;
        }
        if let Some(other) = &server.other {
            writeln!(out, "{}", fold(&format!("Waldur: {}", other.words_and_remedy()), 2))?;
        }
        if let Some(failure) = &paused {
            let what = match server.paused {
                Some(_) => "Waldur is left alone for now",
                None => "Waldur did not take it",
            };
            writeln!(out, "{}", fold_all(&format!("{what}: {failure}"), 2))?;
            if let Some(cause @ (Cause::Token | Cause::Role)) = cause {
                writeln!(out, "{}", fold(&format!("  {}", cause.remedy()), 2))?;
            }
        }
        if hung {
            let words = "Waldur did not answer within the deadline: what was under way is read back before it is believed.";
            writeln!(out, "{}", fold(words, 2))?;
        }
        if busy {
            let words = format!(
                "Nothing could be submitted before the deadline: {busy_with} is submitting for this ledger."
            );
            writeln!(out, "{}", fold(&words, 2))?;
        }
        standing::show(&left, out)?;
        standing::show_undone(&server.undone, &undone, out)?;
        standing::show_by_the_clock(&next, out)?;
        Ok(exit)
    }
}

/// A call, or a collector, that is under way at the deadline may take so long.
const GRACE: Duration = Duration::from_secs(10);

/// Until the deadline is over and no further call has begun for a while: what still gets on is not cut off.
async fn hangs(client: &Client, deadline: tokio::time::Instant) {
    tokio::time::sleep_until(deadline).await;
    loop {
        let before = client.requests();
        tokio::time::sleep(GRACE).await;
        if client.requests() == before {
            return;
        }
    }
}

/// After so many rounds that each got on, there is a rest between them all the same.
const ROUNDS: u32 = 10;
/// How long to wait before trying again where the server did not say.
const RETRY: Duration = Duration::from_secs(1);

/// Amounts that are shown one by one.
const SHOWN: usize = 40;

/// What was sent and is known to have arrived, in the order of names, as everywhere else; and the names.
fn sent_by_name(ledger: &Ledger, since: &Since) -> Result<(Vec<Sent>, BTreeMap<Uuid, String>), LedgerError> {
    let mut sent = ledger.accepted(since, None)?;
    let resources: BTreeSet<Uuid> = sent.iter().map(|one| one.resource).collect();
    let name = |uuid| {
        Ok((uuid, name_or(&ledger.resource(uuid)?.map_or_else(String::new, |known| known.name), uuid)))
    };
    let names = resources.into_iter().map(name).collect::<Result<BTreeMap<_, _>, LedgerError>>()?;
    sent.sort_by(|one, other| {
        let key = |of: &Sent| (names.get(&of.resource).cloned(), of.resource, of.period);
        let what = |of: &Sent| (of.component.clone(), of.user.clone());
        key(one).cmp(&key(other)).then_with(|| what(one).cmp(&what(other)))
    });
    Ok((sent, names))
}

/// Shows what was sent and is known to have arrived, be it by what was read back.
async fn show_sent(out: &mut dyn Write, ledger: &SharedLedger, since: Since) -> Result<(), Failed> {
    let (sent, names, (numbers_sent, resources)) = ledger
        .with(move |ledger| {
            let (mut sent, names) = sent_by_name(ledger, &since)?;
            sent.truncate(SHOWN);
            Ok((sent, names, ledger.count_accepted(&since)?))
        })
        .await?;
    if sent.is_empty() {
        return Ok(writeln!(out, "Nothing was sent.")?);
    }
    let amount = |amount: Decimal| format!("{amount:.2}");
    let numbers = |one: &Sent| (one.was.map_or("-".to_owned(), amount), amount(one.amount));
    let width = sent.iter().map(|one| numbers(one).1.len().max(numbers(one).0.len())).max();
    let width = width.unwrap_or(0).max(6);
    // What the numbers leave.
    let room = WIDTH.saturating_sub(2 * (width + 1) + 8 + 3).max(24);
    let (name, component, user) = (room * 2 / 5, room * 3 / 10, room * 3 / 10);
    let line = |one: [&str; 4], was: &str, is: &str| {
        let [resource, month, of, whose] = one;
        format!(
            "{} {month:7} {} {} {was:>width$} {is:>width$}",
            pad(&shorten(resource, name), name),
            pad(&shorten(of, component), component),
            pad(&shorten(whose, user), user)
        )
    };
    writeln!(out, "{}", line(["RESOURCE", "PERIOD", "COMPONENT", "USER"], "WAS", "IS NOW"))?;
    for one in &sent {
        let resource = names.get(&one.resource).map_or("", String::as_str);
        let user = if one.user.is_empty() { "(total)" } else { &one.user };
        let (was, is) = numbers(one);
        writeln!(out, "{}", line([resource, &one.period.to_string(), &one.component, user], &was, &is))?;
    }
    if numbers_sent > sent.len() {
        writeln!(out, "... and {} more (--json has all)", thousands(numbers_sent - sent.len()))?;
    }
    writeln!(out, "Sent {} of {}.", count_many(numbers_sent, "amount"), count_many(resources, "resource"))?;
    Ok(())
}

/// In shadow there is nothing to tell of but this.
fn show_comparison(out: &mut dyn Write, compared: Option<(usize, usize)>) -> Result<(), Failed> {
    writeln!(out, "report: shadow: nothing is posted.")?;
    match compared {
        Some((all, 0)) => writeln!(out, "As Waldur holds it: {}.", count(all, "resource"))?,
        Some((all, differ)) => {
            let of = count(all, "resource");
            writeln!(out, "Different from what Waldur holds: {differ} of {of} (`diff` says how).")?;
        }
        None => {}
    }
    Ok(())
}

fn sent_json(sent: &Sent) -> serde_json::Value {
    json!({
        "resource": sent.resource, "period": sent.period.to_string(), "component": sent.component,
        "user": if sent.user.is_empty() { None } else { Some(&sent.user) }, "amount": format!("{:.2}", sent.amount),
        "was": sent.was.map(|was| format!("{was:.2}")),
    })
}
