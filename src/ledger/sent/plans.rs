//! A switch of plan that was noticed only after something had been reported: what is known of the old part of the month is
//! set right with it, so that the same usage is not billed under both plans.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::record::file_under_new_part;
use crate::ledger::books::adjustment::part_of;
use crate::ledger::books::catalog::{self, KnownPlanPeriod};
use crate::ledger::books::cuts::plans;
use crate::ledger::books::unstated::all_of_month;
use crate::ledger::db::clock::skew;
use crate::ledger::db::columns::micros;
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
            let switched = catalog::put_plan_periods(connection, in_force, resource, periods, look, now)?;
            let uuid = resource.to_string();
            for cut in switched {
                let period = in_force.zone.period_of(cut);
                let timeline = plans(connection, &in_force.zone, &uuid)?;
                let just_before = cut.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(cut);
                if in_force.zone.period_of(just_before) != period {
                    continue; // It begins with the month.
                }
                let old = part_of(&timeline, period, just_before);
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
