//! `status --json`: everything that `status` knows, under names that docs/status.md lists and that do not change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde_json::{Map, Serializer, Value, json};

use super::amount_state::AmountState;
use super::collector::Collector;
use super::entry::{adjustment_json, entry_json};
use super::view::{Month, Resource, View};
use crate::cli::agents::agent_json;
use crate::cli::exit::Failed;
use crate::daemon::instance::{DaemonState, Running};
use crate::ledger::Ledger;
use crate::ledger::sent::record::StatementKey;
use crate::ledger::sent::statement::Statement;
use crate::submitter::guard::TOO_LATE;

pub(super) fn write(
    out: &mut dyn Write,
    ledger: &Ledger,
    view: &View,
    chosen: &[(&Resource, Vec<&Month>)],
) -> Result<(), Failed> {
    let counts = view.summary();
    let summary: Map<String, Value> = AmountState::ALL
        .into_iter()
        .map(|state| (state.name().to_owned(), counts.get(&state).copied().unwrap_or(0).into()))
        .collect();
    let paused = view.server.paused.as_ref();
    let unmatched = view.left.unassigned.iter().map(|one| {
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
        "daemon": daemon(view.daemon.as_ref()), "file_differs": view.differs,
        "server": {
            "url": view.url,
            "answered_at": view.server.answered.map(|at| at.to_string()),
            "paused_until": paused.map(|paused| paused.retry.next.to_string()),
            "paused_since": paused.and_then(|paused| paused.since).map(|at| at.to_string()),
            "paused_reason": paused.map(|paused| paused.cause.name()),
            "failures": paused.map_or(0, |paused| paused.retry.failures),
            "words": paused.map(|paused| &paused.retry.words),
            "clock_skew_microseconds": view.server.skew,
            "reports_refused": view.server.reports_refused.as_ref().map(|(since, words)| {
                json!({ "since": since.to_string(), "words": words })
            }),
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
        "summary": summary, "exit": view.exit.code(),
    });
    let months = chosen.iter().flat_map(|(resource, months)| months.iter().map(|month| (*resource, *month)));
    let statements = Statements { ledger, view, months: months.collect(), failed: RefCell::new(None) };
    let mut writer = Serializer::pretty(&mut *out);
    let written = Whole { others: whole.as_object(), statements: &statements }.serialize(&mut writer);
    if let Some(failed) = statements.failed.take() {
        return Err(failed);
    }
    written.map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

pub(super) fn daemon(running: Option<&Running>) -> Value {
    let told = running.and_then(|daemon| daemon.told.as_ref());
    json!({
        "running": running.is_some(), "pid": running.and_then(|daemon| daemon.pid),
        "since": told.map(|told| told.since.to_string()),
        "reload_refused": told.and_then(DaemonState::refusal).map(|(at, words)| {
            json!({ "at": at.to_string(), "words": words })
        }),
    })
}

/// All that is written, in the order of its names.
struct Whole<'a> {
    others: Option<&'a Map<String, Value>>,
    statements: &'a Statements<'a>,
}

impl Serialize for Whole<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const STATEMENTS: &str = "statements";
        let mut map = serializer.serialize_map(None)?;
        let others = || self.others.into_iter().flatten();
        for (name, value) in others().filter(|(name, _)| name.as_str() < STATEMENTS) {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry(STATEMENTS, self.statements)?;
        for (name, value) in others().filter(|(name, _)| name.as_str() > STATEMENTS) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The statements, read while they are written: of all at once there may be more than memory should hold.
struct Statements<'a> {
    ledger: &'a Ledger,
    view: &'a View,
    months: Vec<(&'a Resource, &'a Month)>,
    /// Why they could not be read.
    failed: RefCell<Option<Failed>>,
}

/// Statements that are in memory at once.
const READ_TOGETHER: usize = 64;

impl Statements<'_> {
    fn read(&self, some: &[(&Resource, &Month)]) -> Result<Vec<Value>, Failed> {
        let keys: Vec<StatementKey> = some.iter().map(|(_, month)| month.key).collect();
        let statements = self.ledger.statements_of(&keys)?;
        let of: BTreeMap<StatementKey, _> = some.iter().map(|one| (one.1.key, one)).collect();
        let of = |one: &Statement| of.get(&one.key).copied();
        let with = statements.iter().filter_map(|one| Some((of(one)?, one)));
        with.map(|((resource, month), one)| statement(self.ledger, self.view, resource, month.state, one))
            .collect()
    }
}

impl Serialize for Statements<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for some in self.months.chunks(READ_TOGETHER) {
            let read = self.read(some).map_err(|failed| {
                *self.failed.borrow_mut() = Some(failed);
                S::Error::custom("the ledger can't be read")
            })?;
            for one in &read {
                list.serialize_element(one)?;
            }
        }
        list.end()
    }
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
        "quarantined_lines": one.quarantined.iter().map(|bad| {
            json!({ "at": bad.at.to_string(), "what": bad.what, "reason": bad.reason })
        }).collect::<Vec<_>>(),
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
        (false, None) if view.next.too_late.contains_key(&period) => {
            Some(format!("{period}: nothing more of it is sent: {TOO_LATE}"))
        }
        (false, Some(retry)) => Some(format!("tried again after {}: {}", retry.next, retry.words)),
        (false, None) => None,
    };
    let waits = waits.as_deref();
    let rows = ledger.rows_read(statement.key)?;
    let adjustments = ledger.adjustments(statement.key.resource, statement.key.period)?;
    let component = |component: &String| {
        let users = statement.users.iter().filter(|((of, _), _)| of == component);
        let users: Vec<Value> =
            users.map(|((_, user), entry)| entry_json(("user", user), entry, None, waits)).collect();
        let of_component = adjustments.iter().filter(|one| &one.component == component);
        (users, of_component.map(adjustment_json).collect::<Vec<_>>())
    };
    let components = statement.components.iter().map(|(name, entry)| {
        let (users, adjustments) = component(name);
        let row = rows.get(name);
        let mut shown = entry_json(("component", name), entry, row, waits);
        (shown["users"], shown["adjustments"]) = (users.into(), adjustments.into());
        let writer = row.map(|row| &row.writer);
        shown["written_by"] = json!(writer.and_then(|writer| writer.by.as_ref()));
        shown["written_at"] = json!(writer.and_then(|writer| writer.at).map(|at| at.to_string()));
        shown["dated"] = json!(writer.and_then(|writer| writer.dated).map(|at| at.to_string()));
        shown["written_by_us"] = json!(writer.map(|writer| view.own.wrote(writer)));
        shown
    });
    Ok(json!({
        "resource": statement.key.resource, "name": resource.name, "backend_id": resource.backend_id,
        "customer": resource.customer, "terminated": resource.terminated, "period": statement.key.period.to_string(),
        "period_state": view.closing.state_of(statement, view.now).name(),
        "closed": statement.closed.map(|at| at.to_string()),
        "plan_period_start": statement.key.part.to_string(), "state": state.name(),
        "components": components.collect::<Vec<_>>(),
        "retry_after": put_off.map(|retry| retry.next.to_string()),
    }))
}
