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
use crate::ledger::sent::statement::{Entry, Statement};

/// Why what is too much under a plan that has ended stays there for now.
const TAKEN_AWAY_LATER: &str = "its plan period has ended, so that it can't be changed there; it is taken away by itself as \
                                soon as there is as much under the plan that the month goes on with";

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

    /// Strands what a plan period that has ended can't take any more, and what is too much there until that is taken away under
    /// the plan that the month goes on with (`settle_ended_parts`).
    pub(super) async fn strand_ended(&self, statement: &Statement, now: Timestamp) -> Result<(), CycleError> {
        let too_much = |entry: &Entry| entry.posted.is_some_and(|posted| posted < entry.held());
        let goes_on = self.later_part(statement.key, now).await?.is_some();
        for is_too_much in [false, true] {
            let mut some = statement.clone();
            some.components.retain(|_, entry| too_much(entry) == is_too_much);
            let words = if is_too_much && goes_on { TAKEN_AWAY_LATER } else { PLAN_ENDED };
            self.strand_for(&some, Reason::PlanEnded, words.to_owned()).await?;
        }
        Ok(())
    }
}
