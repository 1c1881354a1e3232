//! One number of a statement as `status` shows it: how it stands and why, and what was adjusted; as text and as JSON.

use serde_json::{Value, json};

use super::amount_state::AmountState;
use crate::ledger::sent::server::RowRead;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::views::adjustments::{Adjustment, Kind};

/// How a number stands, and why. `waits`: why what is to be sent is not sent yet, where that is known.
pub(super) fn state(entry: &Entry, waits: Option<&str>) -> (AmountState, Option<String>) {
    if let Some(block) = entry.block.as_ref().filter(|block| entry.differs() || block.state == "held") {
        return (AmountState::of_block(&block.state), Some(format!("{}: {}", block.reason, block.words)));
    }
    if entry.shadow {
        return (AmountState::Shadow, None);
    }
    if let Some(problem) = &entry.problem {
        return (AmountState::Held, Some(problem.clone()));
    }
    if entry.to_send() {
        return (AmountState::Pending, waits.map(ToOwned::to_owned));
    }
    (if entry.acknowledged.is_some() { AmountState::Agreed } else { AmountState::Unused }, None)
}

/// Components, and after each its users if wanted.
pub(super) fn entries(statement: &Statement, users: bool) -> Vec<(&str, &str, &Entry)> {
    let mut all = Vec::new();
    for (component, entry) in &statement.components {
        all.push((component.as_str(), "", entry));
        let of_component = statement.users.iter().filter(|((of, _), _)| users && of == component);
        all.extend(of_component.map(|((_, user), entry)| (component.as_str(), user.as_str(), entry)));
    }
    all
}

/// `row`: Waldur's, as it was last read; shares have none.
pub(super) fn entry_json(
    (kind, name): (&str, &str),
    entry: &Entry,
    row: Option<&RowRead>,
    waits: Option<&str>,
) -> Value {
    let (state, why) = state(entry, waits);
    let holds = entry.holds(row);
    let acknowledged = entry.acknowledged.as_ref();
    json!({
        kind: name, "amount": entry.exact, "posted": entry.posted.map(|posted| format!("{posted:.2}")),
        "waldur_holds": holds.as_ref().map(|holds| format!("{:.2}", holds.amount)),
        "waldur_holds_at": holds.as_ref().map(|holds| holds.at.to_string()),
        "acknowledged": acknowledged.map(|a| format!("{:.2}", a.amount)),
        "acknowledged_at": acknowledged.map(|a| a.at.to_string()),
        "acknowledged_how": acknowledged.map(|a| &a.how),
        "stranded": entry.stranded().map(|stranded| format!("{stranded:.2}")),
        "state": state.name(), "reason": why,
    })
}

/// An adjustment in words, as the month sees it that it is shown in.
pub(crate) fn told(one: &Adjustment) -> String {
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
pub(crate) fn adjustment_json(one: &Adjustment) -> Value {
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
