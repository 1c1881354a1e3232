//! One number of a statement as `status` shows it: how it stands and why, and what was adjusted; as text and as JSON.

use std::fmt::{self, Display};

use rust_decimal::Decimal;
use serde::ser::{Serialize, SerializeMap, Serializer};
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

/// A number for machines, written as it goes: there may be hundreds of thousands, and a tree of each would take longer than
/// reading them. Names are in their order, as everywhere else.
pub(super) struct EntryJson<'a> {
    pub(super) entry: &'a Entry,
    /// Why what is to be sent is not sent yet, where that is known.
    pub(super) waits: Option<&'a str>,
    pub(super) whose: Whose<'a>,
}

/// What a number is of.
pub(super) enum Whose<'a> {
    User(&'a str),
    Component(ComponentJson<'a>),
}

/// What is said of a component beside its number.
pub(super) struct ComponentJson<'a> {
    pub(super) name: &'a str,
    /// Waldur's row, as it was last read; shares have none.
    pub(super) row: Option<&'a RowRead>,
    pub(super) written_by_us: Option<bool>,
    pub(super) adjustments: Vec<Value>,
    pub(super) users: Vec<EntryJson<'a>>,
}

impl Serialize for EntryJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = self.entry;
        let component = match &self.whose {
            Whose::Component(component) => Some(component),
            Whose::User(_) => None,
        };
        let (state, why) = state(entry, self.waits);
        let row = component.and_then(|component| component.row);
        let (holds, acknowledged) = (entry.holds(row), entry.acknowledged.as_ref());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("acknowledged", &cents(acknowledged.map(|known| known.amount)))?;
        map.serialize_entry("acknowledged_at", &shown(acknowledged.map(|known| known.at)))?;
        map.serialize_entry("acknowledged_how", &acknowledged.map(|known| known.how))?;
        if let Some(ComponentJson { adjustments, .. }) = component {
            map.serialize_entry("adjustments", adjustments)?;
        }
        map.serialize_entry("amount", &entry.exact)?;
        if let Some(ComponentJson { name, row, .. }) = component {
            map.serialize_entry("component", name)?;
            map.serialize_entry("dated", &shown(row.and_then(|row| row.writer.dated)))?;
        }
        map.serialize_entry("posted", &cents(entry.posted))?;
        map.serialize_entry("reason", &why)?;
        map.serialize_entry("state", state.name())?;
        map.serialize_entry("stranded", &cents(entry.stranded()))?;
        match &self.whose {
            Whose::Component(component) => map.serialize_entry("users", &component.users)?,
            Whose::User(user) => map.serialize_entry("user", user)?,
        }
        map.serialize_entry("waldur_holds", &cents(holds.as_ref().map(|holds| holds.amount)))?;
        map.serialize_entry("waldur_holds_at", &shown(holds.as_ref().map(|holds| holds.at)))?;
        if let Some(ComponentJson { row, written_by_us, .. }) = component {
            map.serialize_entry("written_at", &shown(row.and_then(|row| row.writer.at)))?;
            map.serialize_entry("written_by", &row.and_then(|row| row.writer.by.as_ref()))?;
            map.serialize_entry("written_by_us", written_by_us)?;
        }
        map.end()
    }
}

/// A text that is made while it is written.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn shown<T: Display>(what: Option<T>) -> Option<Shown<T>> {
    what.map(Shown)
}

/// With two decimals.
fn cents(amount: Option<Decimal>) -> Option<Shown<Cents>> {
    amount.map(Cents).map(Shown)
}

struct Cents(Decimal);

impl Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
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
