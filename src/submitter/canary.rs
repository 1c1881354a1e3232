//! The first report near a month's boundary is sent alone and read back, before any other follows.
//!
//! Which months a server bills by is only certain from a row that it made (observed: UTC on the oldest, its own time
//! zone on later ones). Where `billing_timezone` is wrong, one report shows it; a whole cycle of them would each
//! overwrite another month's bill. Far from the boundary every time zone agrees, and nothing needs to be shown.

use jiff::{SignedDuration, Timestamp};

use super::guard::ServerTime;
use super::trouble::Reason;
use super::{Cycle, CycleError};
use crate::ledger::outbox::{Statement, StatementKey};
use crate::metering::period::BillingZone;

/// Time zones lie at most so far apart (UTC+14 and UTC-12).
const ZONES_APART: SignedDuration = SignedDuration::from_hours(26);
const PROVEN: &str = "month_proven";

impl Cycle {
    /// Makes sure that reports land in the month that is meant. False: one did not, and nothing else is sent.
    pub(super) async fn month_is_right(&self, due: &[StatementKey]) -> Result<bool, CycleError> {
        let zone = &self.of.rulebook.zone;
        let server = self.of.server_time().await?;
        let Some(boundary) = boundary(zone, &server) else { return Ok(true) };
        let misfiled = self.ledger(|ledger| ledger.resources_in_trouble(Reason::WrongMonth.name())).await?;
        if let Some(resource) = misfiled.first() {
            self.note(format!(
                "nothing is sent near the end of the month: Waldur filed a report of resource {resource} in another month \
                 than meant. What to do: {}",
                Reason::WrongMonth.remedy()
            ));
            return Ok(false);
        }
        let proven = self.ledger(|ledger| ledger.server_fact(PROVEN)).await?;
        if proven.is_some_and(|(known, _)| known == boundary) {
            return Ok(true);
        }
        let period = zone.period_of(server.now);
        let began = self.of.clock.now();
        for &key in due.iter().filter(|key| key.period == period) {
            self.send_totals(key).await?;
            if self.stopped() {
                return Ok(false);
            }
            let Some(sent) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
            if !reported_since(&sent, began) {
                continue;
            }
            if !self.read_and_settle(&[key]).await?.is_empty() {
                return Ok(false);
            }
            return self.judge(key, &sent, boundary).await;
        }
        Ok(true)
    }

    /// Compares what was accepted with what the row of the month meant now holds.
    async fn judge(&self, key: StatementKey, sent: &Statement, boundary: String) -> Result<bool, CycleError> {
        let Some(read) = self.ledger(move |ledger| ledger.statement(key)).await? else { return Ok(true) };
        let held = read.components.values().find_map(|entry| entry.trouble.clone());
        let Some(trouble) = held else {
            let now = self.of.clock.now();
            self.ledger(move |ledger| ledger.put_server_fact(PROVEN, &boundary, now)).await?;
            return Ok(true);
        };
        // Near the end of a month the row was there already, and what the server holds of it is not what it accepted.
        if trouble.reason == Reason::Conflict.name() {
            let words = format!(
                "Waldur accepted a report for {}, and its row of that month does not show it: {}",
                key.period, trouble.words
            );
            for (component, entry) in sent.components.iter().filter(|(_, entry)| entry.acknowledged.is_some())
            {
                self.trouble(key, component, Reason::WrongMonth, words.clone(), entry.posted).await?;
            }
        }
        Ok(false)
    }
}

/// Which boundary is so near that time zones disagree on the month, named so that it is proven once: the month, which
/// end of it, and the zone that is believed.
fn boundary(zone: &BillingZone, server: &ServerTime) -> Option<String> {
    let period = zone.period_of(server.now);
    let since_start = server.now.duration_since(zone.start(period));
    let until_end = zone.end(period).duration_since(server.now);
    let end = match (since_start < ZONES_APART, until_end < ZONES_APART) {
        (true, _) => "begins",
        (_, true) => "ends",
        _ => return None,
    };
    Some(format!("{period} {end} {}", zone.name()))
}

/// Whether the server has accepted something of it since then.
fn reported_since(statement: &Statement, began: Timestamp) -> bool {
    let mut acknowledged = statement.components.values().filter_map(|entry| entry.acknowledged.as_ref());
    acknowledged.any(|acknowledged| acknowledged.how == "accepted" && acknowledged.at >= began)
}
