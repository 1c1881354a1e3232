//! Components under a limit that older servers count twice: what they hold already counts against it, too (observed), so that an
//! amount above half of it can't be reported again. A person decides that it is lowered to nothing, read back, and raised.

use rust_decimal::Decimal;

use super::{Cycle, CycleError};
use crate::ledger::books::catalog::KnownComponent;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::decision::Subject;
use crate::ledger::sent::statement::Entry;

impl Cycle {
    /// Whether a person decided that a component is to be lowered to nothing before it is reported: an older server counts
    /// what it holds against the limit, too (observed).
    pub(super) async fn lowers_first(
        &self,
        key: StatementKey,
        component: &str,
        entry: &Entry,
    ) -> Result<bool, CycleError> {
        let Some(accepted) = entry.acknowledged.as_ref().filter(|known| !known.amount.is_zero()) else {
            return Ok(false);
        };
        let (accepted_at, of_component) = (accepted.at, component.to_owned());
        let decided = self.ledger(move |ledger| ledger.decided(key, &of_component)).await?;
        Ok(decided.is_some_and(|decided| decided.about == Subject::Limit && decided.at >= accepted_at))
    }

    /// What was lowered for its limit is raised only when its row shows that it is: one that can't be read waits.
    pub(super) async fn read_lowered(&self, due: &mut Vec<StatementKey>) -> Result<(), CycleError> {
        let lowered = std::mem::take(&mut self.state().lowered);
        let lowered: Vec<StatementKey> = due.iter().filter(|key| lowered.contains(key)).copied().collect();
        let unread = self.read_and_settle(&lowered).await?;
        due.retain(|key| !unread.contains(key));
        Ok(())
    }

    /// What the server held of a component before it was lowered to nothing for its limit, if nothing else was accepted
    /// since.
    pub(super) async fn lowered_from(
        &self,
        key: StatementKey,
        component: &str,
    ) -> Result<Option<Decimal>, CycleError> {
        let component = component.to_owned();
        Ok(self
            .ledger(move |ledger| {
                let Some(decided) =
                    ledger.decided(key, &component)?.filter(|decided| decided.about == Subject::Limit)
                else {
                    return Ok(None);
                };
                let since = ledger.held_since(key, &component, decided.at)?;
                let is_lowered = !since.is_empty() && since.iter().all(Decimal::is_zero);
                Ok(Some(decided.held).filter(|before| is_lowered && !before.is_zero()))
            })
            .await?)
    }

    /// What a component was lowered from for a limit that then refused its new amount, and the refusal.
    pub(super) fn put_back(&self, key: StatementKey, component: &str) -> Option<(Decimal, String)> {
        self.state().put_back.get(&(key, component.to_owned())).cloned()
    }
}

pub(super) fn is_limited(component: &KnownComponent) -> bool {
    let amount = component.limit_amount.as_deref().and_then(|text| text.parse::<Decimal>().ok());
    component.billing_type == "usage"
        && component.limit_period.is_some()
        && amount.is_some_and(|amount| !amount.is_zero())
}
