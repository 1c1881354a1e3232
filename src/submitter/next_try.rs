//! When something of what is pending may next be sent, as far as that is known, and what waits for a month to begin. It only
//! reads what the ledger keeps: `flush` does not wait for what can't become due, and `status` says why it is pending.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::guard::{self, SendWindow, ServerTime};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::server::Retry;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// What is known of the next try.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NextTry {
    /// By our clock. `None`: nothing that is pending is sent without somebody's doing.
    pub at: Option<Timestamp>,
    /// How many statements are of months that have not begun at the server: one of the clocks is, or was, wrong.
    pub not_begun: BTreeMap<BillingPeriod, usize>,
    /// How many are of the month that is about to end: what is sent now could land in the next one.
    pub too_late: BTreeMap<BillingPeriod, usize>,
}

impl NextTry {
    /// Of what was last stated.
    pub fn of(ledger: &Ledger, now: Timestamp) -> Result<NextTry, LedgerError> {
        NextTry::of_these(ledger, &ledger.pending_as_stated()?, now)
    }

    /// Of what is known to be pending.
    pub fn of_these(
        ledger: &Ledger,
        pending: &[StatementKey],
        now: Timestamp,
    ) -> Result<NextTry, LedgerError> {
        if pending.is_empty() {
            return Ok(NextTry::default());
        }
        let server = ServerTime::of(ledger, None, now)?;
        let zone = &ledger.in_force().zone;
        let put_off: BTreeMap<Uuid, Retry> = ledger.put_off()?.into_iter().collect();
        let without_role: BTreeSet<Uuid> =
            ledger.without_role()?.into_iter().map(|one| one.offering).collect();
        let mut next = NextTry::default();
        for key in pending {
            if guard::send_window(zone, key.period, key.part, None, &server) == SendWindow::TooLate {
                *next.too_late.entry(key.period).or_default() += 1;
            }
            let begins_in = zone.surely_from(key.period).duration_since(server.now);
            let mut at = now;
            if begins_in.is_positive() {
                *next.not_begun.entry(key.period).or_default() += 1;
                at = now.saturating_add(begins_in).unwrap_or(Timestamp::MAX);
            }
            if let Some(retry) = put_off.get(&key.resource) {
                at = at.max(retry.next);
            }
            if !without_role.is_empty()
                && let Some(known) = ledger.resource(key.resource)?
                && without_role.contains(&known.offering)
            {
                continue;
            }
            next.at = Some(next.at.map_or(at, |known| known.min(at)));
        }
        if let Some(paused) = ledger.retry(None)? {
            next.at = next.at.map(|at| at.max(paused.next));
        }
        Ok(next)
    }
}
