//! Compares what the server holds with what the ledger believes it holds. Pure.
//!
//! The question is always whose hand wrote a number: ours (acknowledged, or meant to be sent before a crash), the
//! server's own (recurring, `reuse`), or another's. Only the last is a conflict (law 8).

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use crate::ledger::outbox::{Acknowledged, Entry, Statement};

/// A number that the server holds, of a component or of a user of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub amount: Decimal,
    /// Made by the server itself from last month's value.
    pub by_server: bool,
    /// Who wrote it and when, for a person to judge.
    pub evidence: String,
}

/// What follows for one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The server holds this, by our own hand or just as ours would be.
    Known { component: String, amount: Decimal },
    /// What was meant to be sent did not happen.
    NotSent { component: String, amount: Decimal },
    /// Another hand wrote it.
    Conflict { component: String, words: String },
}

/// Compares the components of a statement with the server's rows. Where `overwrite` says so of a component, another's hand
/// is no obstacle.
pub fn reconcile(
    statement: &Statement,
    rows: &BTreeMap<String, Held>,
    overwrite: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (component, entry) in &statement.components {
        let held = rows.get(component);
        findings.extend(of_component(component, entry, held, overwrite(component)));
    }
    findings
}

fn of_component(component: &str, entry: &Entry, held: Option<&Held>, overwrite: bool) -> Vec<Finding> {
    let component = component.to_owned();
    let amount = held.map_or(Decimal::ZERO, |held| held.amount);
    let known = |amount| Finding::Known { component: component.clone(), amount };
    let mut findings = Vec::new();
    if let Some(intended) = entry.intended {
        if held.is_some() && amount == intended {
            return vec![known(amount)];
        }
        findings.push(Finding::NotSent { component: component.clone(), amount: intended });
    }
    let believed = entry.acknowledged.as_ref().map(|Acknowledged { amount, .. }| *amount);
    let Some(held) = held.filter(|held| !held.amount.is_zero()) else {
        // A zero row, or none, is nobody's claim. If we had sent more, it is gone and is to be sent again.
        if believed.is_some_and(|believed| !believed.is_zero()) {
            findings.push(known(Decimal::ZERO));
        }
        return findings;
    };
    if believed == Some(held.amount) {
        return findings;
    }
    if entry.posted == Some(held.amount) || overwrite {
        findings.push(known(held.amount));
        return findings;
    }
    if believed.is_none() && held.by_server {
        findings.push(known(held.amount));
        return findings;
    }
    let ours = match believed {
        Some(believed) => format!("this agent last sent {believed}"),
        None => "this agent has sent nothing for this month".to_owned(),
    };
    findings.push(Finding::Conflict {
        component,
        words: format!("Waldur holds {} {} ({}), but {ours}", held.amount, "of another hand", held.evidence),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(posted: &str, acknowledged: Option<&str>, intended: Option<&str>) -> Entry {
        Entry {
            posted: posted.parse().ok(),
            acknowledged: acknowledged.map(|amount| Acknowledged {
                amount: amount.parse().unwrap(),
                how: "accepted".to_owned(),
                at: jiff::Timestamp::UNIX_EPOCH,
            }),
            intended: intended.map(|amount| amount.parse().unwrap()),
            ..Entry::default()
        }
    }

    fn held(amount: &str, by_server: bool) -> Option<Held> {
        Some(Held { amount: amount.parse().unwrap(), by_server, evidence: "by 28".to_owned() })
    }

    fn find(entry: Entry, held: Option<Held>) -> Vec<String> {
        let findings = of_component("cpu", &entry, held.as_ref(), false);
        findings
            .into_iter()
            .map(|finding| match finding {
                Finding::Known { amount, .. } => format!("known {amount}"),
                Finding::NotSent { amount, .. } => format!("not sent {amount}"),
                Finding::Conflict { .. } => "conflict".to_owned(),
            })
            .collect()
    }

    #[test]
    fn what_was_meant_before_a_crash_is_our_own_hand() {
        assert_eq!(find(entry("5.00", Some("3.00"), Some("5.00")), held("5.00", false)), ["known 5.00"]);
        assert_eq!(find(entry("5.00", Some("3.00"), Some("5.00")), held("3.00", false)), ["not sent 5.00"]);
        assert_eq!(find(entry("5.00", None, Some("5.00")), None), ["not sent 5.00"]);
        assert_eq!(
            find(entry("5.00", None, Some("5.00")), held("7.00", false)),
            ["not sent 5.00", "conflict"]
        );
        // The number meant then is known even if more has come since.
        assert_eq!(find(entry("9.00", None, Some("5.00")), held("5.00", false)), ["known 5.00"]);
    }

    #[test]
    fn another_hand_is_a_conflict_but_equal_zero_and_the_servers_own_rows_are_not() {
        assert_eq!(find(entry("5.00", None, None), held("7.00", false)), ["conflict"]);
        assert_eq!(find(entry("5.00", Some("3.00"), None), held("4.00", false)), ["conflict"]);
        assert_eq!(find(entry("5.00", None, None), held("5.00", false)), ["known 5.00"]);
        assert_eq!(find(entry("5.00", None, None), held("0.00", false)), [""; 0]);
        assert_eq!(find(entry("5.00", None, None), held("61.00", true)), ["known 61.00"]);
        assert_eq!(find(entry("5.00", Some("3.00"), None), held("3.00", false)), [""; 0]);
        assert_eq!(find(entry("5.00", Some("3.00"), None), None), ["known 0"]);
    }
}
