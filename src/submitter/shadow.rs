//! The cycle of `report: shadow`: it gets to know the server and its resources, reads what Waldur holds, and tells how much of
//! it the ledger agrees with. Nothing is sent, held, stranded, carried or closed; `Client::read_only` makes sure of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::compare::{Compare, Comparison, compare};
use super::rows::COMPARED_EVERY;
use super::{About, Cycle, CycleError, CycleOptions, Report};
use crate::ledger::sent::amount::StatementKey;
use crate::metering::period::BillingPeriod;

/// The server fact that has the last comparison: the month, how many resources there are, and of how many something differs.
const COMPARED: &str = "shadow_compared";

impl Cycle {
    pub(super) fn is_shadow(&self) -> bool {
        self.submitter.report == Report::Shadow
    }

    pub(super) async fn only_compare(self: &Arc<Self>, options: CycleOptions) -> Result<(), CycleError> {
        if !self.check_clock_and_token(false).await? {
            return Ok(());
        }
        self.mark_months().await?;
        let (now, period) = (self.submitter.clock.now(), self.running_month().await?);
        if !self.discover().await? {
            return Ok(());
        }
        let keys = self.running().await?;
        if !self.look_at_plans(&keys, options).await? {
            return Ok(());
        }
        let last = self.ledger(|ledger| ledger.server_fact(COMPARED)).await?;
        let is_due = last.as_ref().is_none_or(|(of, at)| {
            now.duration_since(*at).abs() >= COMPARED_EVERY || !of.starts_with(&period.to_string())
        });
        if keys.is_empty() || !is_due && !options.ignore_backoff {
            return self.conclude_cycle().await;
        }
        let wanted = Compare { period, only: BTreeSet::new(), shares: false };
        match compare(&self.submitter.client, &self.submitter.ledger, wanted).await? {
            Ok(found) => {
                self.tell_what_is_not_read(period, &found).await?;
                self.tell(period.to_string(), &found, last.map(|(text, _)| text)).await?;
                self.conclude_cycle().await
            }
            Err(failure) => self.pause(failure).await,
        }
    }

    async fn tell_what_is_not_read(
        &self,
        period: BillingPeriod,
        found: &Comparison,
    ) -> Result<(), CycleError> {
        for (offering, why) in &found.unlisted {
            self.note(format!(
                "Shadow: {period} of offering {offering} could not be listed whole, so that only resources that the ledger \
                 knows are compared: {why}"
            ));
        }
        for (resource, why) in &found.unread {
            let about = About { period: Some(period), ..About::resource(*resource) };
            let words = format!("could not be read and is not compared (shadow): {why}");
            self.note_of(about, words).await?;
        }
        Ok(())
    }

    /// One line a change.
    async fn tell(&self, period: String, found: &Comparison, last: Option<String>) -> Result<(), CycleError> {
        let (all, differ) = found.resources();
        let fact = format!("{period} {all} {differ}");
        if last.as_ref() != Some(&fact) {
            tracing::info!(
                "Shadow: different from what Waldur holds of {period}: {differ} of {all} resources (`diff` says how)."
            );
        }
        self.state().report.compared = Some((all, differ));
        let now = self.submitter.clock.now();
        Ok(self.ledger(move |ledger| ledger.put_server_fact(COMPARED, &fact, now)).await?)
    }

    /// The statements of the month that runs.
    async fn running(&self) -> Result<Vec<StatementKey>, CycleError> {
        let (now, period) = (self.submitter.clock.now(), self.running_month().await?);
        // What was matched just now is stated, too.
        Ok(self
            .ledger(move |ledger| {
                ledger.state(now)?;
                ledger.keys_of_known_resources(period)
            })
            .await?)
    }

    /// The resources that a cycle is about.
    pub(super) async fn concerned(&self) -> Result<BTreeSet<Uuid>, CycleError> {
        let now = self.submitter.clock.now();
        let keys = match self.is_shadow() {
            true => self.running().await?,
            false => {
                let mut keys = self.ledger(move |ledger| ledger.pending(now)).await?;
                // What does not change may have another plan, or its id another resource: whenever it is compared, that is asked.
                keys.extend(self.due_to_compare().await?.into_iter().flat_map(|(_, _, keys)| keys));
                keys
            }
        };
        Ok(keys.into_iter().map(|key| key.resource).collect())
    }

    /// Marks the month that runs, by either clock: what comes of it is not ours to report.
    pub(super) async fn mark_months(&self) -> Result<(), CycleError> {
        let now = self.submitter.clock.now();
        for period in self.months_by_both_clocks().await? {
            self.ledger(move |ledger| ledger.note_shadow(period, now)).await?;
        }
        Ok(())
    }

    /// Whether the month that runs was only compared until now.
    pub(super) async fn was_shadow(&self) -> Result<bool, CycleError> {
        let [one, other] = self.months_by_both_clocks().await?;
        Ok(self.ledger(move |ledger| Ok(ledger.is_shadow(one)? || ledger.is_shadow(other)?)).await?)
    }

    /// From the month that runs on it is reported. One that is over by either clock is not: the server's was just measured.
    pub(super) async fn go_live(&self) -> Result<(), CycleError> {
        let (now, [one, other]) = (self.submitter.clock.now(), self.months_by_both_clocks().await?);
        Ok(self.ledger(move |ledger| ledger.note_live(one.max(other), now)).await?)
    }

    /// The month that runs by our clock, and by the server's.
    async fn months_by_both_clocks(&self) -> Result<[BillingPeriod; 2], CycleError> {
        let (zone, server) = (self.submitter.zone().await?, self.submitter.server_time().await?);
        Ok([zone.period_of(self.submitter.clock.now()), zone.period_of(server.now)])
    }
}
