//! `status --json`: everything that `status` knows, under names that docs/status.md lists and that do not change.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use serde::Serialize;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde_json::{Map, Serializer, Value, json};

use super::amount_state::AmountState;
use super::collector::Collector;
use super::entry::{ComponentJson, EntryJson, Whose, adjustment_json};
use super::view::{Month, Resource, View};
use crate::cli::agents::agent_json;
use crate::cli::exit::Failed;
use crate::daemon::instance::{DaemonState, Running};
use crate::ledger::Ledger;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::server::RowRead;
use crate::ledger::sent::statement::Statement;
use crate::ledger::views::adjustments::Adjustment;
use crate::metering::period::BillingPeriod;
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
            "other_server": view.server.other.as_ref().map(|other| {
                json!({ "of_ledger": other.of_ledger, "since": other.since.to_string(), "words": other.words() })
            }),
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
            "overwrite_waits": view.server.undone.resources.iter().collect::<Vec<_>>(),
            "overwrite_waits_for": Some(&view.server.undone.words).filter(|words| !words.is_empty()),
            "offerings_without_role": view.server.without_role.iter().map(|one| {
                let name = Some(&one.name).filter(|name| !name.is_empty());
                json!({ "offering": one.offering, "name": name, "since": one.since.to_string() })
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
        "hosts_told": view.of_hosts.json(), "hosts_not_billed": view.of_hosts.is_not_billed,
        "not_begun": by_period(&view.next.not_begun), "too_late": by_period(&view.next.too_late),
        "summary": summary, "also_pending": view.also_pending(), "closing_rests": view.left.rest, "exit": view.exit.code(),
    });
    let months = chosen.iter().flat_map(|(resource, months)| months.iter().map(|month| (*resource, *month)));
    let statements = Statements { ledger, view, months: months.collect(), failed: RefCell::new(None) };
    let mut out = BufWriter::new(out);
    let mut writer = Serializer::pretty(&mut out);
    let written = Whole { others: whole.as_object(), statements: &statements }.serialize(&mut writer);
    if let Some(failed) = statements.failed.take() {
        return Err(failed);
    }
    written.map_err(std::io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

fn by_period(statements: &BTreeMap<BillingPeriod, usize>) -> Vec<Value> {
    let one = |(period, number): (&BillingPeriod, &usize)| json!({ "period": period.to_string(), "statements": number });
    statements.iter().map(one).collect()
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

impl<'a> Statements<'a> {
    fn read(&self, some: &[(&'a Resource, &'a Month)]) -> Result<Vec<StatementJson<'a>>, Failed> {
        let keys: Vec<StatementKey> = some.iter().map(|(_, month)| month.key).collect();
        let statements = self.ledger.statements_of(&keys)?;
        let of: BTreeMap<StatementKey, _> = some.iter().map(|one| (one.1.key, *one)).collect();
        let mut read = Vec::with_capacity(statements.len());
        for statement in statements {
            let key = statement.key;
            let Some((resource, month)) = of.get(&key).copied() else { continue };
            read.push(StatementJson {
                view: self.view,
                resource,
                state: month.state,
                rows: self.ledger.rows_read(key)?,
                adjustments: self.ledger.adjustments(key.resource, key.period)?,
                statement,
            });
        }
        Ok(read)
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
        "overdue": one.overdue, "silent_since": one.silent.map(|at| at.to_string()),
        "quarantined_lines": one.quarantined.iter().map(|bad| {
            json!({ "at": bad.at.to_string(), "what": bad.what, "reason": bad.reason })
        }).collect::<Vec<_>>(),
    })
}

/// A statement, and what is known beside it.
struct StatementJson<'a> {
    view: &'a View,
    resource: &'a Resource,
    state: AmountState,
    statement: Statement,
    rows: BTreeMap<String, RowRead>,
    adjustments: Vec<Adjustment>,
}

impl Serialize for StatementJson<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let StatementJson { view, resource, state, statement, rows, adjustments } = self;
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
        let components = statement.components.iter().map(|(name, entry)| {
            let users = statement.users.iter().filter(|((of, _), _)| of == name);
            let users = users.map(|((_, user), entry)| EntryJson { entry, waits, whose: Whose::User(user) });
            let row = rows.get(name);
            let component = ComponentJson {
                name,
                row,
                written_by_us: row.map(|row| view.own.wrote(&row.writer)),
                adjustments: adjustments
                    .iter()
                    .filter(|one| one.component == *name)
                    .map(adjustment_json)
                    .collect(),
                users: users.collect(),
            };
            EntryJson { entry, waits, whose: Whose::Component(component) }
        });
        let components: Vec<EntryJson<'_>> = components.collect();
        // In the order of names, as everywhere else.
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("backend_id", &resource.backend_id)?;
        map.serialize_entry("closed", &statement.closed.map(|at| at.to_string()))?;
        map.serialize_entry("components", &components)?;
        map.serialize_entry("customer", &resource.customer)?;
        map.serialize_entry("name", &resource.name)?;
        map.serialize_entry("period", &period.to_string())?;
        map.serialize_entry("period_state", view.closing.state_of(statement, view.now).name())?;
        map.serialize_entry("plan_period_start", &statement.key.part.to_string())?;
        map.serialize_entry("resource", &statement.key.resource)?;
        map.serialize_entry("retry_after", &put_off.map(|retry| retry.next.to_string()))?;
        map.serialize_entry("state", state.name())?;
        map.serialize_entry("terminated", &resource.terminated)?;
        map.end()
    }
}
