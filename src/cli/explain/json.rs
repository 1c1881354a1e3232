//! `explain --json`: everything, and nothing rounded.

use serde_json::{Value, json};

use super::Shown;
use crate::cli::status::entry::adjustment_json;
use crate::ledger::sent::decision::Decision;
use crate::ledger::sent::statement::Holds;

impl Shown {
    pub(super) fn json(&self) -> Value {
        let readings: Vec<Value> = self
            .parts
            .iter()
            .flat_map(|part| {
                part.readings.iter().map(move |reading| {
                    json!({
                        "collector": part.collector, "name": part.reading, "kind": part.kind.name(), "labels": part.labels,
                        "user": part.user, "at": reading.at.to_string(),
                        "start": reading.start.map(|start| start.to_string()),
                        "id": if reading.id.is_empty() { None } else { Some(&reading.id) },
                        "value": reading.value, "adds": reading.added.to_string(),
                        "adds_to_other_periods": reading.added_elsewhere.to_string(),
                        "reset": reading.reset, "held": reading.held.to_string(), "gap_microseconds": reading.missed,
                        "in_opening_balance": reading.opened,
                    })
                })
            })
            .collect();
        let hosts = self.parts.iter().any(|part| part.agent != self.parts[0].agent);
        let series: Vec<Value> = self
            .parts
            .iter()
            .map(|part| {
                json!({
                    "collector": part.collector, "reading": part.reading, "kind": part.kind.name(), "unit": part.unit,
                    "labels": part.labels, "user": part.user, "measure": part.measure,
                    "agent": Some(&part.agent).filter(|_| hosts),
                    "quantity": part.quantity.to_string(), "factor": part.factor.to_string(), "factor_as_written": part.factor_as_written,
                    "weight": part.weight.as_ref().map(ToString::to_string), "weighing": part.weighing,
                    "amount": part.amount.to_string(), "resets": part.counted.resets, "gaps": part.counted.gaps,
                    "covered_microseconds": part.counted.covered, "missed_microseconds": part.counted.missed,
                })
            })
            .collect();
        let calls: Vec<Value> = self
            .calls
            .iter()
            .map(|call| {
                json!({
                    "at": call.at.to_string(), "call": call.call, "amounts": call.amounts, "outcome": call.outcome,
                    "words": call.words,
                })
            })
            .collect();
        let shares: Vec<Value> = self
            .shares
            .iter()
            .map(|share| {
                let posted = share.posted.map(|posted| format!("{posted:.2}"));
                json!({
                    "user": share.user, "amount": share.exact.to_string(), "rounded_alone": share.alone,
                    "adjusted": posted.as_ref() != Some(&share.alone), "posted": posted,
                })
            })
            .collect();
        let first = self.parts.first();
        let held: Vec<_> = self.entries.iter().filter_map(|entry| entry.acknowledged.as_ref()).collect();
        let shown =
            |of: &dyn Fn(&Holds) -> String| -> Vec<String> { self.holds.iter().flatten().map(of).collect() };
        json!({
            "resource": self.resource, "component": self.of.component, "period": self.period.to_string(),
            "user": self.of.user, "amount": self.amount().to_string(), "posted": self.posted(), "unit": self.unit,
            "factor": first.map(|part| part.factor.to_string()),
            "factor_as_written": first.map(|part| &part.factor_as_written),
            "rounding": first.map_or("half_even", |part| part.rounding.name()),
            "waldur_holds": shown(&|holds| format!("{:.2}", holds.amount)),
            "waldur_holds_at": shown(&|holds| holds.at.to_string()),
            "acknowledged": held.iter().map(|held| format!("{:.2}", held.amount)).collect::<Vec<_>>(),
            "decisions": self.decisions.iter().map(|decided| json!({
                "decision": name_of(decided.decision), "replaced": format!("{:.2}", decided.held),
                "at": decided.at.to_string(), "by_itself": decided.by_itself,
            })).collect::<Vec<_>>(),
            "adjustments": self.adjustments.iter().map(adjustment_json).collect::<Vec<_>>(),
            "shares": shares, "series": series, "readings": readings, "calls": calls,
            "events": self.events.iter().map(|event| json!({
                "at": event.at.to_string(), "kind": event.kind, "component": event.component, "words": event.words,
            })).collect::<Vec<_>>(),
        })
    }
}

fn name_of(decision: Decision) -> &'static str {
    match decision {
        Decision::Overwrite => "overwrite",
        Decision::Adopt { .. } => "adopt",
    }
}
