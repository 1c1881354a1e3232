//! A switch of plan that was noticed only after something had been reported: what is known of the old part of the month
//! is set right, so that the same usage is not billed under both plans. It changes no amount.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Rulebook, micros};

/// A call may be under way for so long that it is processed after what it was sent before.
const UNDER_WAY: SignedDuration = SignedDuration::from_mins(5);

/// A plan was switched before we knew of it: what was reported since then, as a total of the whole part, the server has
/// filed under the new plan period. It is our own hand, to be corrected there (even if nothing was used since), and says
/// nothing of the old one. Under which of the two it is filed, of a report of that time, only the rows tell.
pub(super) fn file_under_new_part(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    cut: Timestamp,
    known: &BTreeSet<Timestamp>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let period = rulebook.zone.period_of(cut);
    let start = rulebook.zone.start(period);
    if cut == start {
        return Ok(());
    }
    let old = known.range(start..cut).next_back().copied().unwrap_or(start);
    // The cut is of the server's clock, what was noted when is of ours.
    let skew: Option<String> = connection
        .query_row("SELECT value FROM server WHERE key = 'skew_us'", [], |row| row.get(0))
        .optional()?;
    let skew = SignedDuration::from_micros(skew.and_then(|text| text.parse().ok()).unwrap_or(0));
    let since = cut.saturating_sub(skew).unwrap_or(cut);
    let doubtful = since.saturating_sub(UNDER_WAY).unwrap_or(since);
    // Of a month that is over nothing is sent any more, and its rows no longer say which part they are of.
    let over = now.saturating_add(skew).unwrap_or(now) >= rulebook.zone.end(period);
    let (period, old, new) = (period.to_string(), micros(old), micros(cut));
    // Sent again, a share replaces what is there, so only the totals need to be told apart.
    for table in ["acknowledgement", "intent"] {
        connection.execute(
            &format!(
                "UPDATE OR REPLACE {table} SET part = ?4
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND (user <> '' OR ?6)"
            ),
            params![resource, period, old, new, micros(since), over],
        )?;
    }
    if over {
        return Ok(());
    }
    let reported =
        "FROM acknowledgement WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?4 AND user = ''";
    connection.execute(
        &format!(
            "INSERT OR IGNORE INTO intent (resource, period, part, component, user, amount, at, turn)
             SELECT resource, period, part, component, '', amount, at, 0 {reported}"
        ),
        params![resource, period, old, micros(doubtful)],
    )?;
    connection.execute(&format!("DELETE {reported}"), params![resource, period, old, micros(doubtful)])?;
    let meant = "FROM intent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?4 AND user = ''";
    for copied in [
        "INSERT OR IGNORE INTO statement (resource, period, part, revision, agreed, changed)
         SELECT DISTINCT resource, period, ?5, 1, 0, at",
        "INSERT OR IGNORE INTO line (resource, period, part, component, user, exact, posted)
         SELECT resource, period, ?5, component, '', '0', '0.00'",
        "INSERT OR IGNORE INTO intent (resource, period, part, component, user, amount, at, turn)
         SELECT resource, period, ?5, component, '', amount, at, turn",
    ] {
        connection
            .execute(&format!("{copied} {meant}"), params![resource, period, old, micros(doubtful), new])?;
    }
    connection.execute(
        "UPDATE statement SET agreed = min(agreed, revision - 1)
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND EXISTS (SELECT 1 FROM intent
            WHERE intent.resource = statement.resource AND intent.period = statement.period
            AND intent.part = statement.part)",
        params![resource, period, old],
    )?;
    connection
        .execute("DELETE FROM usage_row WHERE resource = ?1 AND period = ?2", params![resource, period])?;
    Ok(())
}
