//! A switch of plan that was noticed only after something had been reported: what is known of the old part of the month is
//! set right with it, so that the same usage is not billed under both plans.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::ledger::books::adjustment::part_of;
use crate::ledger::books::catalog::{self, KnownPlanPeriod};
use crate::ledger::books::cuts::{plan_cuts, plans};
use crate::ledger::books::unstated::all_of_month;
use crate::ledger::db::clock::skew;
use crate::ledger::db::columns::micros;
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};

/// A call may be under way for so long that it is processed after what it was sent before.
pub const UNDER_WAY: SignedDuration = SignedDuration::from_mins(5);
/// Two clocks are not known to be nearer than this.
const NEAR: SignedDuration = SignedDuration::from_secs(2);

impl Ledger {
    /// Takes over a look at a resource's plan periods. `look`: for which month and plan they were looked at.
    pub fn put_plan_periods(
        &mut self,
        resource: Uuid,
        periods: &[KnownPlanPeriod],
        look: (&str, &str),
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, in_force| {
            let uuid = resource.to_string();
            let before = plan_cuts(connection, &in_force.zone, &uuid)?;
            let switched = catalog::put_plan_periods(connection, in_force, resource, periods, look, now)?;
            for cut in switched {
                let period = in_force.zone.period_of(cut);
                let timeline = plans(connection, &in_force.zone, &uuid)?;
                let just_before = cut.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(cut);
                if in_force.zone.period_of(just_before) != period {
                    continue; // It begins with the month.
                }
                let old = part_of(&timeline, period, just_before);
                let (start, end) = (in_force.zone.start(period), in_force.zone.end(period));
                if before.iter().any(|known| start < *known && *known < end) {
                    // The month was split before: each report named its plan period, and is filed under that.
                    all_of_month(connection, Some(&uuid), &period.to_string())?;
                    continue;
                }
                // The cut is of the server's clock, what was noted when is of ours.
                let skew = skew(connection)?.map_or(SignedDuration::ZERO, |(skew, _)| skew);
                let since = cut.saturating_sub(skew).unwrap_or(cut);
                let doubtful = since.saturating_sub(UNDER_WAY).unwrap_or(since);
                let since = since.saturating_add(NEAR).unwrap_or(since);
                let parts = (old, micros(cut));
                file_under_new_part(
                    connection,
                    &uuid,
                    &period.to_string(),
                    parts,
                    (micros(doubtful), micros(since)),
                )?;
                // Also where nothing was used in the month: what was filed there is to be taken back.
                all_of_month(connection, Some(&uuid), &period.to_string())?;
            }
            Ok(())
        })
    }
}

/// A plan was switched before it was known: what was reported since then, as a total of the whole part, the server has filed
/// under the new plan period. It is our own number, to be corrected there, and says nothing of the old one. Where it was
/// filed of a report that was under way then (`doubtful` to `since`), only the rows tell.
fn file_under_new_part(
    connection: &Connection,
    resource: &str,
    period: &str,
    (old, new): (i64, i64),
    (doubtful, since): (i64, i64),
) -> sql::Result<()> {
    connection.execute(
        "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
            current, counted)
         SELECT resource, period, ?4, component, username, amount, call, at, turn, 'open', words, 1, counted FROM sent
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND at <= ?6 AND username = ''
           AND outcome IN ('open', 'accepted')",
        params![resource, period, old, new, doubtful, since],
    )?;
    connection.execute(
        "UPDATE sent SET outcome = 'open', current = 1
         WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?4 AND at <= ?5 AND username = ''
           AND outcome = 'accepted'",
        params![resource, period, old, doubtful, since],
    )?;
    // Shares go by the row that was known: the old one, until a total had made the new one.
    connection.execute(
        "UPDATE sent SET part = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND username <> ''
           AND (outcome = 'planned' OR EXISTS (SELECT 1 FROM sent total WHERE total.resource = sent.resource
                AND total.period = sent.period AND total.part = sent.part AND total.component = sent.component
                AND total.username = '' AND total.at > ?5 AND total.id < sent.id AND total.outcome <> 'refused'))",
        params![resource, period, old, new, since],
    )?;
    connection.execute(
        "UPDATE sent SET part = ?4 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND at > ?5 AND username = ''",
        params![resource, period, old, new, since],
    )?;
    // What is left of the old part is what was known of it before.
    connection.execute(
        "UPDATE sent SET current = 1 WHERE id IN (
            SELECT max(id) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND outcome IN ('accepted', 'read')
            GROUP BY component, username)",
        params![resource, period, old],
    )?;
    connection.execute(
        "INSERT INTO statement (resource, period, part, changed) VALUES (?1, ?2, ?3, ?3)
         ON CONFLICT (resource, period, part) DO NOTHING",
        params![resource, period, new],
    )?;
    // Its row is the new part's, or was.
    connection.execute(
        "DELETE FROM usage_row WHERE resource = ?1 AND period = ?2 AND part IN (?3, ?4)",
        params![resource, period, old, new],
    )?;
    Ok(())
}
