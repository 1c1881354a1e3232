//! What Waldur holds under a plan period that has ended in the month that runs: it can't be changed there any more. What is too
//! much is taken away under the plan that the month goes on with; the rest is stranded.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::part::Part;
use super::reason::Reason;
use super::totals::PLAN_ENDED;
use super::{Cycle, CycleError};
use crate::ledger::Ledger;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::statement::Statement;

impl Cycle {
    /// What Waldur holds too much of under a plan period that has ended in the month that runs is taken away under the one
    /// that the month goes on with, as far as there is something: the same level is billed once, whatever the plan. Returns
    /// whether anything was to be: then other statements may be due.
    pub(super) async fn settle_ended_parts(&self, due: &[StatementKey]) -> Result<bool, CycleError> {
        let (now, month) = (self.submitter.clock.now(), self.running_month().await?);
        let server = self.submitter.server_time().await?;
        let due: Vec<StatementKey> = due.iter().filter(|key| key.period == month).copied().collect();
        let ended: Vec<StatementKey> = self
            .ledger(move |ledger| {
                let mut keys: BTreeSet<_> = ledger.moved_within(month)?.into_iter().chain(due).collect();
                // What did not fit may fit by now.
                keys.extend(ledger.blocked_for(Reason::PlanEnded.name())?);
                let mut ended = Vec::new();
                for key in keys.into_iter().filter(|key| key.period == month) {
                    if Part::of(ledger, key)?.has_ended(server.now)
                        && ledger.totals(key)?.is_some_and(|totals| totals.was_reported())
                    {
                        ended.push(key);
                    }
                }
                Ok(ended)
            })
            .await?;
        let mut any = false;
        for key in ended {
            let Some(later) = self.later_part(key, server.now).await? else { continue };
            let of_key = move |write| {
                move |ledger: &mut Ledger| ledger.move_to_later_part(key, later.part, (false, write), now)
            };
            if self.ledger(of_key(false)).await?.is_empty() {
                continue;
            }
            any = true;
            if !self.read_and_settle(&[key]).await?.is_empty() {
                continue;
            }
            // It is an event, and told as such.
            self.ledger(of_key(true)).await?;
        }
        Ok(any)
    }

    /// Strands what a plan period that has ended can't take any more. What is too much there, and can be taken away under the
    /// plan that the month goes on with as soon as something is measured under that, waits.
    pub(super) async fn strand_ended(&self, statement: &Statement, now: Timestamp) -> Result<(), CycleError> {
        let later = self.later_part(statement.key, now).await?;
        let under_later = match later {
            Some(later) => self.ledger(move |ledger| ledger.totals(later)).await?,
            None => None,
        };
        let is_measured = |component: &String| {
            under_later.as_ref().is_some_and(|later| later.components.contains_key(component))
        };
        let mut ended = statement.clone();
        ended.components.retain(|component, entry| {
            let too_much = entry.posted.is_some_and(|posted| posted < entry.held());
            !(too_much && later.is_some() && !is_measured(component))
        });
        self.strand_for(&ended, Reason::PlanEnded, PLAN_ENDED.to_owned()).await
    }
}
