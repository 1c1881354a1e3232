//! The parts of a month that switches of plan make: under which plan period each is filed, and where what can't be reported
//! in its own part any more still can be. It never asks the server; plan periods are those last looked at.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Cycle, CycleError};
use crate::ledger::books::catalog::KnownPlanPeriod;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::plans::UNDER_WAY;
use crate::ledger::sent::statement::Entry;
use crate::ledger::{Ledger, LedgerError};

#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub plan_period: Option<Uuid>,
    pub end: Option<Timestamp>,
    pub split: bool,
}

impl Part {
    /// The plan period that a part is filed under. What was used before the first one is filed under it, too.
    fn covering(periods: &[KnownPlanPeriod], key: StatementKey) -> Option<&KnownPlanPeriod> {
        let covers = |p: &&KnownPlanPeriod| p.start <= key.part && p.end.is_none_or(|end| end > key.part);
        periods.iter().rfind(covers).or(periods.first())
    }

    pub(super) fn of(ledger: &Ledger, key: StatementKey) -> Result<Part, LedgerError> {
        let (periods, cut) = (ledger.plan_periods(key.resource)?, ledger.is_cut(key.resource, key.period)?);
        let covering = Part::covering(&periods, key);
        // A plan period ends where the next begins, whatever the server writes into its end.
        let began = covering.map_or(key.part, |period| period.start.max(key.part));
        let next = periods.iter().map(|period| period.start).find(|start| *start > began);
        let ends = covering.and_then(|period| period.end).into_iter().chain(next).min();
        Ok(Part { plan_period: covering.map(|period| period.uuid), end: ends, split: cut })
    }

    /// Whether a switch of plan that cuts the month ended it: what was reported of it can't be reported again.
    pub(super) fn has_ended(&self, now: Timestamp) -> bool {
        self.split && self.end.is_some_and(|end| end <= now)
    }
}

impl Cycle {
    /// Where the statement's part lies: the plan period that covers it, when that ends, and whether the month is split.
    pub(super) async fn part_of(&self, key: StatementKey) -> Result<Part, CycleError> {
        Ok(self.ledger(move |ledger| Part::of(ledger, key)).await?)
    }

    /// The last part of the statement's month that began later, if its total can still be changed there: under a plan period
    /// that has not ended, or that nothing was reported under yet.
    pub(super) async fn later_part(
        &self,
        key: StatementKey,
        now: Timestamp,
    ) -> Result<Option<StatementKey>, CycleError> {
        let end = self.submitter.zone().await?.end(key.period);
        let periods = self.ledger(move |ledger| ledger.plan_periods(key.resource)).await?;
        // What covers this part is not later than it, also where it began within the month.
        let began = Part::covering(&periods, key).map_or(key.part, |period| period.start.max(key.part));
        let starts = periods.iter().map(|period| period.start);
        let Some(start) = starts.filter(|start| *start > began && *start < end).max() else {
            return Ok(None);
        };
        let later = StatementKey { part: start, ..key };
        let (before, after) =
            self.ledger(move |ledger| Ok((ledger.totals(key)?, ledger.totals(later)?))).await?;
        // A report after a switch that nobody had seen is filed under the later plan already: its row is this part's.
        let sent_after =
            |entry: &Entry| entry.acknowledged.as_ref().is_some_and(|known| known.at >= start - UNDER_WAY);
        if after.is_none() && before.is_some_and(|before| before.components.values().any(sent_after)) {
            return Ok(None);
        }
        let open = self.part_of(later).await?.end.is_none_or(|end| end > now);
        Ok((open || !after.is_some_and(|statement| statement.was_reported())).then_some(later))
    }
}
