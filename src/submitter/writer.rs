//! Who wrote a row of the server's, when, and whether that was this agent's own user. It decides nothing.

use jiff::Timestamp;
use uuid::Uuid;

use crate::ledger::sent::server::Writer;
use crate::ledger::{Ledger, LedgerError};
use crate::waldur::types::{UsageRow, uuid_of_address};

/// The server facts that say under which names rows carry this token's own user.
pub(super) const OWN_USER: &str = "own_user";
pub(super) const OWN_WRITER: &str = "own_writer";

/// The names under which rows carry this token's own user, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct OwnNames(pub(super) Vec<String>);

impl OwnNames {
    pub fn of(ledger: &Ledger) -> Result<OwnNames, LedgerError> {
        let facts = [ledger.server_fact(OWN_USER)?, ledger.server_fact(OWN_WRITER)?];
        let names = facts.iter().flatten().flat_map(|(text, _)| text.split('\n'));
        Ok(OwnNames(names.map(str::to_owned).collect()))
    }

    /// Whether this token's user wrote it.
    pub fn wrote(&self, writer: &Writer) -> bool {
        writer.by.as_ref().is_some_and(|by| self.has(by))
    }

    pub(super) fn has(&self, by: &str) -> bool {
        self.0.iter().any(|own| same_name(own, by))
    }
}

/// Who wrote a row last, and when. The date of a row that was made in that very second was not chosen by anybody.
pub(super) fn writer(row: &UsageRow) -> Writer {
    let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
    let made_then = row.date.filter(|_| second(row.date) == second(row.created));
    Writer { by: row.modified_by.clone(), at: row.modified.or(made_then), dated: row.date }
}

/// Whether the server made the row itself, of last month's value: it names nobody then. What a person or another program
/// wrote may ask for the same of later months, and is theirs all the same.
pub(super) fn by_server(row: &UsageRow) -> bool {
    let repeats = |policy: &str| ["reuse", "zero"].contains(&policy);
    row.modified_by.is_none() && (row.recurring || row.missing_usage_policy.as_deref().is_some_and(repeats))
}

/// Names are numbers, texts or addresses, depending on the server's version.
fn same_name(own: &str, by: &str) -> bool {
    let uuid = |text: &str| text.parse::<Uuid>().ok().or_else(|| uuid_of_address(text));
    !own.is_empty() && (own == by || uuid(own).is_some_and(|own| Some(own) == uuid(by)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(date: &str, created: &str, modified: Option<&str>) -> UsageRow {
        let row = serde_json::json!({
            "uuid": Uuid::nil(), "type": "cpu", "usage": "1", "resource_uuid": Uuid::nil(),
            "billing_period": "2026-11-01", "date": date, "created": created, "modified": modified, "modified_by": 99,
        });
        serde_json::from_str(&row.to_string()).unwrap()
    }

    #[test]
    fn a_date_that_was_chosen_is_not_when_a_row_was_written() {
        let words = |row: &UsageRow, ours| writer(row).words(ours, |at| at.to_string()).unwrap();
        let made = row("2026-11-10T12:00:00.2Z", "2026-11-10T12:00:00Z", None);
        assert_eq!(words(&made, false), "written 2026-11-10T12:00:00.2Z by user 99");
        assert_eq!(words(&made, true), "written 2026-11-10T12:00:00.2Z by this agent's user");
        // The date that an agent like this one sends, of a row that was there before.
        let dated = row("2026-11-29T22:00:00Z", "2026-11-01T08:00:00Z", None);
        assert_eq!(words(&dated, false), "dated 2026-11-29T22:00:00Z, by user 99");
        let told = row("2026-11-29T22:00:00Z", "2026-11-01T08:00:00Z", Some("2026-11-30T01:00:00Z"));
        assert_eq!(words(&told, false), "written 2026-11-30T01:00:00Z by user 99");
    }
}
