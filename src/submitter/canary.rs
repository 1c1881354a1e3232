//! The first report near a month's boundary is sent alone and read back, before any other follows.
//!
//! Which months a server bills by is only certain from a row that it made (observed: UTC on the oldest, its own time
//! zone on later ones). Where `billing_timezone` is wrong, one report shows it; a whole cycle of them would each
//! overwrite another month's bill. Far from the boundary every time zone agrees, and nothing needs to be shown.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::guard::ServerTime;
use super::reason::Reason;
use super::{About, Cycle, CycleError};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::statement::Entry;
use crate::metering::period::BillingZone;
use crate::waldur::failure::Failure;
use crate::waldur::usages::UsageFilter;

/// Time zones lie at most so far apart (UTC+14 and UTC-12).
const ZONES_APART: SignedDuration = SignedDuration::from_hours(26);
const PROVEN: &str = "month_proven";
/// How exactly the server's clock is known: its `Date` counts whole seconds.
const CLOCK_KNOWN_TO: SignedDuration = SignedDuration::from_secs(2);

impl Cycle {
    /// Makes sure that reports land in the month that is meant. False: one did not, and nothing else is sent.
    pub(super) async fn month_is_right(self: &Arc<Self>, due: &[StatementKey]) -> Result<bool, CycleError> {
        let zone = &self.submitter.zone().await?;
        let server = self.submitter.server_time().await?;
        let Some(boundary) = boundary(zone, &server) else { return Ok(true) };
        let period = zone.period_of(server.now);
        // A verdict belongs to one boundary: what was found at an earlier one says nothing of this.
        let misfiled = self.ledger(|ledger| ledger.blocked_since(Reason::WrongMonth.name())).await?;
        if let Some((key, _)) = misfiled.iter().find(|(_, since)| boundary.is_near(*since)) {
            let words = format!(
                "Waldur filed a report of it in another month: near the month's boundary nothing is sent. What to do: {}",
                Reason::WrongMonth.remedy()
            );
            self.note_of(About::of(*key, None), words).await?;
            return Ok(false);
        }
        let proven = self.ledger(|ledger| ledger.server_fact(PROVEN)).await?;
        if proven.is_some_and(|(known, _)| known == boundary.name) {
            return Ok(true);
        }
        for &key in due.iter().filter(|key| key.period == period) {
            let since = self.ledger(|ledger| ledger.from_here()).await?;
            self.clone().send_totals(vec![key]).await?;
            if self.stopped() {
                return Ok(false);
            }
            let sent = self.ledger(move |ledger| ledger.accepted(&since, None)).await?;
            let accepted: BTreeSet<String> = sent.into_iter().map(|sent| sent.component).collect();
            if accepted.is_empty() {
                continue;
            }
            if !self.read_and_settle(&[key]).await?.is_empty() {
                return Ok(false);
            }
            match self.verdict(key, &accepted, server.now).await? {
                Verdict::Right => {
                    let now = self.submitter.clock.now();
                    self.ledger(move |ledger| ledger.put_server_fact(PROVEN, &boundary.name, now)).await?;
                    return Ok(true);
                }
                Verdict::Wrong => return Ok(false),
                // The next one tells: a resource in trouble of its own stops only itself.
                Verdict::Unclear => {}
            }
        }
        Ok(!self.stopped())
    }

    /// What the row of the month meant tells about components that were accepted since `began`, by the server's clock.
    async fn verdict(
        &self,
        key: StatementKey,
        accepted: &BTreeSet<String>,
        began: Timestamp,
    ) -> Result<Verdict, CycleError> {
        let Some(read) = self.ledger(move |ledger| ledger.statement(key)).await? else {
            return Ok(Verdict::Unclear);
        };
        let entries = || read.components.iter().filter(|(component, _)| accepted.contains(*component));
        let is = |entry: &Entry, reason: Reason| entry.is_blocked_for(reason.name());
        if entries().any(|(_, entry)| is(entry, Reason::WrongMonth)) {
            return Ok(Verdict::Wrong);
        }
        if entries().any(|(_, entry)| entry.block.is_none()) {
            return Ok(Verdict::Right);
        }
        let disputed = entries().find(|(_, entry)| is(entry, Reason::Conflict));
        let Some(words) = disputed.and_then(|(_, entry)| Some(entry.block.as_ref()?.words.clone())) else {
            return Ok(Verdict::Unclear);
        };
        match self.was_written_since(key, began).await {
            Ok(false) => {}
            Ok(true) => return Ok(Verdict::Unclear),
            Err(failure) => {
                self.pause(failure).await?;
                return Ok(Verdict::Unclear);
            }
        }
        // Near the end of a month the row was there already. Nobody has touched it, and it does not show what the server
        // accepted: that went elsewhere.
        let words = format!(
            "Waldur accepted a report for {}, and its row of that month does not show it: {words}",
            key.period
        );
        for (component, entry) in entries() {
            self.block(key, component, Reason::WrongMonth, words.clone(), entry.posted).await?;
        }
        Ok(Verdict::Wrong)
    }

    /// Whether a row of this month was written at `began` or later: then another writer wrote before we read.
    async fn was_written_since(&self, key: StatementKey, began: Timestamp) -> Result<bool, Failure> {
        let filter =
            UsageFilter { resource: Some(key.resource), ..UsageFilter::of_month(key.period.first_day()) };
        let listing = self.submitter.client.list_usages(&filter).await?;
        let began = began.saturating_sub(CLOCK_KNOWN_TO).unwrap_or(began);
        Ok(listing.rows.iter().any(|row| row.date.is_some_and(|date| date >= began)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Right,
    Wrong,
    Unclear,
}

/// The end of a month, so near that time zones disagree on which month it is.
#[derive(Debug)]
struct Boundary {
    at: Timestamp,
    /// The month that runs, which end of it, and the zone that is believed: what is proven once.
    name: String,
}

impl Boundary {
    fn is_near(&self, at: Timestamp) -> bool {
        self.at.duration_since(at).abs() < ZONES_APART
    }
}

fn boundary(zone: &BillingZone, server: &ServerTime) -> Option<Boundary> {
    let period = zone.period_of(server.now);
    [(zone.surely_from(period), "begins"), (zone.end(period), "ends")]
        .map(|(at, end)| Boundary { at, name: format!("{period} {end} {}", zone.name()) })
        .into_iter()
        .find(|boundary| boundary.is_near(server.now))
}
