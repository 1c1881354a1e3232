//! Compares what the server's row holds with what the ledger knows. Pure.
//!
//! The question is always who wrote a number: this agent (accepted, or sent with an outcome that is still open), the server
//! itself (recurring, `reuse`, `zero`), or another writer. Only the last is a conflict (law 8).

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::ledger::sent::server::Writer;
use crate::ledger::sent::statement::Entry;

/// A number that the server holds, of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub amount: Decimal,
    /// Made by the server itself from last month's value.
    pub by_server: bool,
    /// Who wrote it and when, for a person to judge.
    pub evidence: String,
}

/// A row of the server, as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) uuid: Uuid,
    /// Its amount is that of several rows together, none of which is the statement's alone.
    pub(super) one_of_several: bool,
    pub(super) writer: Writer,
    pub(super) held: Held,
}

/// What follows for one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It holds what was accepted last.
    Same,
    /// It holds this, by our own doing or just as that would be.
    Known(Decimal),
    /// Another writer wrote it.
    Conflict(String),
}

/// Compares one line with the server's row, if there is one.
pub fn reconcile(entry: &Entry, held: Option<&Held>) -> Finding {
    let amount = held.map_or(Decimal::ZERO, |held| held.amount);
    let accepted = entry.acknowledged.as_ref().map(|known| known.amount);
    if held.is_some() && entry.open.iter().any(|open| open.amount == amount) {
        return Finding::Known(amount);
    }
    if accepted.unwrap_or_default() == amount {
        return Finding::Same;
    }
    let Some(held) = held else {
        // No row is nobody's claim; what was there is gone, and is sent again.
        return Finding::Known(Decimal::ZERO);
    };
    if entry.posted == Some(amount) || held.by_server && (accepted.is_none() || amount.is_zero()) {
        return Finding::Known(amount);
    }
    let ours = match accepted {
        Some(accepted) => format!("this agent last reported {accepted:.2}"),
        None => "this agent has reported nothing of it in this month".to_owned(),
    };
    let to_post = entry.posted.map(|posted| format!(" (the ledger has {posted:.2})")).unwrap_or_default();
    Finding::Conflict(format!(
        "Waldur holds {amount:.2}, written by another ({}), but {ours}{to_post}",
        held.evidence
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sent::known::{Acknowledged, Open};

    fn entry(posted: &str, accepted: Option<&str>, open: &[&str]) -> Entry {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Entry {
            posted: posted.parse().ok(),
            acknowledged: accepted.map(|amount| Acknowledged {
                counted: 0,
                id: 0,
                amount: amount.parse().unwrap(),
                how: "accepted",
                call: "set_usage",
                at,
            }),
            open: open.iter().map(|amount| Open { id: 1, amount: amount.parse().unwrap(), at }).collect(),
            ..Entry::default()
        }
    }

    fn find(entry: Entry, held: Option<(&str, bool)>) -> String {
        let held = held.map(|(amount, by_server)| Held {
            amount: amount.parse().unwrap(),
            by_server,
            evidence: "by 28".to_owned(),
        });
        match reconcile(&entry, held.as_ref()) {
            Finding::Same => "same".to_owned(),
            Finding::Known(amount) => format!("known {amount}"),
            Finding::Conflict(_) => "conflict".to_owned(),
        }
    }

    #[test]
    fn what_was_sent_before_a_crash_is_our_own_number() {
        assert_eq!(find(entry("5.00", Some("3.00"), &["5.00"]), Some(("5.00", false))), "known 5.00");
        assert_eq!(find(entry("5.00", Some("3.00"), &["5.00"]), Some(("3.00", false))), "same");
        assert_eq!(find(entry("5.00", None, &["5.00"]), None), "same");
        assert_eq!(find(entry("5.00", None, &["5.00"]), Some(("7.00", false))), "conflict");
        // The number sent then is known even if more has come since.
        assert_eq!(find(entry("9.00", None, &["5.00", "8.00"]), Some(("5.00", false))), "known 5.00");
    }

    #[test]
    fn another_writer_is_a_conflict_but_equal_zero_and_the_servers_own_rows_are_not() {
        assert_eq!(find(entry("5.00", None, &[]), Some(("7.00", false))), "conflict");
        assert_eq!(find(entry("5.00", Some("3.00"), &[]), Some(("4.00", false))), "conflict");
        assert_eq!(find(entry("5.00", None, &[]), Some(("5.00", false))), "known 5.00");
        assert_eq!(find(entry("5.00", None, &[]), Some(("0.00", false))), "same");
        assert_eq!(find(entry("5.00", None, &[]), Some(("61.00", true))), "known 61.00");
        assert_eq!(find(entry("5.00", Some("3.00"), &[]), Some(("3.00", false))), "same");
        assert_eq!(find(entry("5.00", Some("3.00"), &[]), None), "known 0");
        // Somebody set it to nothing: that is a number like any other.
        assert_eq!(find(entry("5.00", Some("3.00"), &[]), Some(("0.00", false))), "conflict");
        assert_eq!(find(entry("5.00", Some("3.00"), &[]), Some(("0.00", true))), "known 0.00");
    }
}
