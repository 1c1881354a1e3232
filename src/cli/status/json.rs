//! `status --json`: everything that `status` knows, under names that docs/status.md lists and that do not change.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::amount_state::AmountState;
use super::collector::Collector;
use super::entry::{adjustment_json, entry_json};
use super::view::{Month, Resource, View};
use crate::cli::agents::agent_json;
use crate::cli::exit::Failed;
use crate::ledger::Ledger;
use crate::ledger::sent::statement::Statement;

pub(super) fn write(
    out: &mut dyn Write,
    ledger: &Ledger,
    view: &View,
    chosen: &[(&Resource, Vec<&Month>)],
) -> Result<(), Failed> {
    let mut statements = Vec::new();
    for (resource, months) in chosen {
        for month in months {
            if let Some(one) = ledger.statement(month.key)? {
                statements.push(statement(ledger, view, resource, month.state, &one)?);
            }
        }
    }
    let counts = view.summary();
    let summary: Map<String, Value> = AmountState::ALL
        .into_iter()
        .map(|state| (state.name().to_owned(), counts.get(&state).copied().unwrap_or(0).into()))
        .collect();
    let told = view.daemon.as_ref().and_then(|daemon| daemon.told.as_ref());
    let paused = view.server.paused.as_ref();
    let unmatched = view.left.strays.iter().map(|one| {
        json!({
            "collector": one.collector, "backend_id": one.backend_id, "offering": one.offering,
            "series": one.series, "since": one.since.map(|at| at.to_string()), "kind": one.why.name(), "why": one.why.words(),
        })
    });
    let held_readings = view.held_readings.iter().map(|event| {
        json!({
            "at": event.at.to_string(), "resource": event.resource, "period": event.period,
            "component": event.component, "words": event.words,
        })
    });
    let whole = json!({
        "report": if view.shadow { "shadow" } else { "live" },
        "daemon": {
            "running": view.daemon.is_some(), "pid": view.daemon.as_ref().and_then(|daemon| daemon.pid),
            "since": told.map(|told| told.since.to_string()),
            "reload_refused": told.and_then(|told| told.reload_refused.as_ref()).map(|(at, words)| {
                json!({ "at": at.to_string(), "words": words })
            }),
        },
        "server": {
            "url": view.url,
            "answered_at": view.server.answered.map(|at| at.to_string()),
            "paused_until": paused.map(|paused| paused.retry.next.to_string()),
            "paused_since": paused.and_then(|paused| paused.since).map(|at| at.to_string()),
            "paused_reason": paused.map(|paused| paused.cause.name()),
            "failures": paused.map_or(0, |paused| paused.retry.failures),
            "words": paused.map(|paused| &paused.retry.words),
            "clock_skew_microseconds": view.server.skew,
            "offerings_without_role": view.server.without_role.iter().map(|(offering, since)| {
                json!({ "offering": offering, "since": since.to_string() })
            }).collect::<Vec<_>>(),
        },
        "ledger": view.ledger, "ledger_free_bytes": view.free,
        "ledger_failing": view.failing.as_ref().map(|(since, words)| {
            json!({ "since": since.map(|at| at.to_string()), "words": words })
        }),
        "collectors": view.collectors.iter().map(collector).collect::<Vec<_>>(),
        "agents": view.agents.iter().map(|agent| agent_json(agent, view.now)).collect::<Vec<_>>(),
        "held_readings": held_readings.collect::<Vec<_>>(),
        "ambiguous_backend_ids": view.left.several.iter().map(|(id, names)| {
            json!({ "backend_id": id, "resources": names })
        }).collect::<Vec<_>>(),
        "unmatched": unmatched.collect::<Vec<_>>(),
        "summary": summary, "statements": statements, "exit": view.exit.code(),
    });
    writeln!(out, "{whole:#}")?;
    Ok(())
}

fn collector(one: &Collector) -> Value {
    let last = one.report.last.as_ref();
    json!({
        "name": one.report.name, "schedule": one.schedule,
        "last_run": last.map(|last| last.at.to_string()), "outcome": last.map(|last| &last.outcome),
        "message": last.and_then(|last| last.message.as_ref()),
        "readings": last.map(|last| last.readings), "quarantined": last.map(|last| last.quarantined),
        "last_success": one.report.last_success.map(|at| at.to_string()),
        "failures_since_success": one.report.failures_since,
        "retry_after": one.retry.map(|at| at.to_string()),
        "missed": one.missed.map(|(runs, from, to)| {
            json!({ "runs": runs, "from": from.to_string(), "to": to.to_string() })
        }),
        "overdue": one.overdue,
    })
}

fn statement(
    ledger: &Ledger,
    view: &View,
    resource: &Resource,
    state: AmountState,
    statement: &Statement,
) -> Result<Value, Failed> {
    let put_off = resource.put_off.as_ref();
    let period = statement.key.period;
    let waits = match (view.next.not_begun.contains_key(&period), put_off) {
        (true, _) => Some(format!("{period} has not begun at Waldur")),
        (false, Some(retry)) => Some(format!("tried again after {}: {}", retry.next, retry.words)),
        (false, None) => None,
    };
    let waits = waits.as_deref();
    let writers = ledger.writers(statement.key)?;
    let adjustments = ledger.adjustments(statement.key.resource, statement.key.period)?;
    let component = |component: &String| {
        let users = statement.users.iter().filter(|((of, _), _)| of == component);
        let users: Vec<Value> =
            users.map(|((_, user), entry)| entry_json("user", user, entry, waits)).collect();
        let of_component = adjustments.iter().filter(|one| &one.component == component);
        (users, of_component.map(adjustment_json).collect::<Vec<_>>())
    };
    let components = statement.components.iter().map(|(name, entry)| {
        let (users, adjustments) = component(name);
        let mut shown = entry_json("component", name, entry, waits);
        (shown["users"], shown["adjustments"]) = (users.into(), adjustments.into());
        let writer = writers.get(name);
        shown["written_by"] = json!(writer.and_then(|writer| writer.by.as_ref()));
        shown["written_at"] = json!(writer.and_then(|writer| writer.at).map(|at| at.to_string()));
        shown
    });
    Ok(json!({
        "resource": statement.key.resource, "name": resource.name, "backend_id": resource.backend_id,
        "customer": resource.customer, "period": statement.key.period.to_string(),
        "period_state": view.closing.state_of(statement, view.now).name(),
        "closed": statement.closed.map(|at| at.to_string()),
        "plan_period_start": statement.key.part.to_string(), "state": state.name(),
        "components": components.collect::<Vec<_>>(),
        "retry_after": put_off.map(|retry| retry.next.to_string()),
    }))
}
