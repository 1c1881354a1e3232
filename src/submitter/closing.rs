//! The end of a month: when its closing begins, in which order it is sent, and how it is closed afterwards (laws 6
//! and 9). What is decided here is when; which month a call may land in is the guard's alone.
//!
//! Closing begins early enough for a call for every resource, by the time that calls were measured to take. The largest
//! unreported amounts go last, because they grow the fastest and each call takes the newest number along; unless the
//! time is too short for all: then they go first, and the least is left over. After the month's end the rows are read
//! back once, and what is found as it was posted is closed: only `rows` still compares it, once a day for a month.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::call_time::{CallTime, guard_of};
use super::guard::{self, ServerTime};
use super::{CHECKED_FOR, Cycle, CycleError, Late};
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::periods::PeriodState;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::{BillingPeriod, BillingZone};

/// Closing begins at least so long before the month's end.
const AT_LEAST: SignedDuration = SignedDuration::from_mins(5);
/// The last call of a month, for what was measured or failed since, comes so long before nothing is sent any more.
const LAST_CALL: SignedDuration = SignedDuration::from_mins(1);
/// What the first report of a customer's month takes beyond the usual (observed: 20 to 40 s). Where little was used, it
/// may be the closing one.
const FIRST_OF_MONTH: SignedDuration = SignedDuration::from_secs(40);
/// Closing never begins earlier: what is sent long before the end is not the end's.
const AT_MOST: SignedDuration = SignedDuration::from_hours(12);

/// The end of the month that runs at the server, by our own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub period: BillingPeriod,
    /// From here on everything that changed is sent.
    pub begins: Timestamp,
    pub last_call: Timestamp,
    pub ends: Timestamp,
}

impl Closing {
    /// Of a server of which nothing is known.
    pub fn usual(zone: &BillingZone, now: Timestamp) -> Closing {
        plan(zone, now, SignedDuration::ZERO, guard::GUARD, CallTime::default(), 0)
    }

    /// As far as the ledger knows the server.
    pub fn of(ledger: &Ledger, now: Timestamp) -> Result<Closing, LedgerError> {
        let skew = ledger.server_fact("skew_us")?.and_then(|(text, _)| text.parse().ok());
        let skew = skew.map(SignedDuration::from_micros).unwrap_or_default();
        let dated = ledger.server_fact("dated")?.is_some_and(|(value, _)| value == "yes");
        let call = CallTime::of(ledger)?;
        let zone = &ledger.in_force().zone;
        let resources = ledger.resources_in(zone.period_of(shift(now, skew)))?;
        Ok(plan(zone, now, skew, guard_of(call, dated), call, resources))
    }

    /// How far a statement has come.
    pub fn state_of(&self, statement: &Statement, now: Timestamp) -> PeriodState {
        let closes = match statement.key.period.cmp(&self.period) {
            std::cmp::Ordering::Less => Timestamp::MIN,
            std::cmp::Ordering::Equal => self.begins,
            std::cmp::Ordering::Greater => Timestamp::MAX,
        };
        statement.period_state(closes, now)
    }
}

fn plan(
    zone: &BillingZone,
    now: Timestamp,
    skew: SignedDuration,
    guard: SignedDuration,
    call: CallTime,
    resources: u32,
) -> Closing {
    let period = zone.period_of(shift(now, skew));
    let ends = whole_seconds(shift(zone.end(period), -skew));
    // Twice what it took lately, because everybody reports at the end of a month.
    let calls = SignedDuration::from_millis(call.mean.saturating_mul(2).saturating_mul(resources.into()));
    let lead = guard.saturating_add(FIRST_OF_MONTH).saturating_add(calls).clamp(AT_LEAST, AT_MOST);
    let last_call = guard.saturating_add(LAST_CALL).min(lead);
    Closing { period, begins: shift(ends, -lead), last_call: shift(ends, -last_call), ends }
}

/// The order in which a closing month is sent: the largest unreported amounts last, or, where the time may not do for
/// all, first.
fn in_order(mut unreported: Vec<(Decimal, StatementKey)>, time_for_all: bool) -> Vec<StatementKey> {
    unreported.sort();
    if !time_for_all {
        unreported.reverse();
    }
    unreported.into_iter().map(|(_, key)| key).collect()
}

/// The largest amount of a statement that the server is not known to hold.
fn unreported(statement: &Statement) -> Decimal {
    let entries = statement.components.values().filter(|entry| entry.to_send());
    let missing = entries.filter_map(|entry| Some(entry.posted?.checked_sub(entry.held())?.abs()));
    missing.max().unwrap_or_default()
}

impl Cycle {
    /// While a month closes, its statements in the order in which they are best sent.
    pub(super) async fn order(&self, due: Vec<StatementKey>) -> Result<Vec<StatementKey>, CycleError> {
        let now = self.submitter.clock.now();
        let (closing, call, dated) = self
            .ledger(move |ledger| {
                let dated = ledger.server_fact("dated")?.is_some_and(|(value, _)| value == "yes");
                Ok((Closing::of(ledger, now)?, CallTime::of(ledger)?, dated))
            })
            .await?;
        if now < closing.begins {
            return Ok(due);
        }
        let (closes, others): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|key| key.period == closing.period);
        let mut amounts = Vec::new();
        for key in closes {
            let Some(statement) = self.ledger(move |ledger| ledger.totals(key)).await? else { continue };
            amounts.push((unreported(&statement), key));
        }
        let left = closing.ends.duration_since(now).saturating_sub(guard_of(call, dated));
        let calls = call.mean.saturating_mul(i64::try_from(amounts.len()).unwrap_or(i64::MAX));
        let mut ordered = in_order(amounts, SignedDuration::from_millis(calls) <= left);
        ordered.extend(others);
        Ok(ordered)
    }

    /// What has changed of a closed period can't be reported any more, and nothing needs to be asked to know that; unless
    /// the operator chose otherwise for what comes late.
    pub(super) async fn strand_what_is_over(&self) -> Result<(), CycleError> {
        if self.submitter.late != Late::Hold {
            return Ok(());
        }
        // By a clock that was not compared with the server's lately nothing is over: it may have been set since.
        let (now, fact) =
            (self.submitter.clock.now(), self.ledger(|ledger| ledger.server_fact("skew_us")).await?);
        if fact.is_none_or(|(_, at)| now.duration_since(at).abs() > CHECKED_FOR) {
            return Ok(());
        }
        let (now, server, zone) =
            (self.submitter.clock.now(), self.submitter.server_time().await?, self.submitter.zone().await?);
        let month = zone.period_of(server.now);
        let over = self.ledger(move |ledger| ledger.pending_before(month, now)).await?;
        for key in over {
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
            let is_left = |entry: &Entry| entry.to_send() && !entry.is_unclear();
            if statement.components.values().any(is_left) || statement.late_shares().next().is_some() {
                self.over(&statement, &server).await?;
            }
        }
        Ok(())
    }

    /// Periods that are over at the server and only wait for being read back. What another writer wrote waits for a person,
    /// and of what can't be told apart nothing would be learnt.
    pub(super) async fn to_close(&self) -> Result<Vec<StatementKey>, CycleError> {
        let period = self.submitter.zone().await?.period_of(self.submitter.server_time().await?.now);
        let mut keys = Vec::new();
        for key in self.ledger(move |ledger| ledger.unclosed(period)).await? {
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
            if !statement.shadow
                && agrees(&statement)
                && statement.was_reported()
                && self.is_traceable(&statement).await?
            {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// Whether the rows of a past month can be told to be this statement's. Where the month was cut by a switch of plan
    /// they are known by their UUIDs alone.
    pub(super) async fn is_traceable(&self, statement: &Statement) -> Result<bool, CycleError> {
        let key = statement.key;
        if !self.part_of(key).await?.split {
            return Ok(true);
        }
        for (component, entry) in &statement.components {
            let component = component.clone();
            if !entry.held().is_zero()
                && self.ledger(move |ledger| ledger.usage_row(key, &component)).await?.is_none()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads back the periods that are over, and closes those of which the server holds what was posted last: the totals,
    /// and the users' shares.
    pub(super) async fn close_what_ended(&self) -> Result<(), CycleError> {
        let keys = if self.stopped() { Vec::new() } else { self.to_close().await? };
        let unread: Vec<StatementKey> = {
            let state = self.state();
            keys.iter().filter(|key| !state.read_back.contains(key)).copied().collect()
        };
        self.read_and_settle(&unread).await?;
        let now = self.submitter.clock.now();
        let keys: Vec<StatementKey> =
            keys.into_iter().filter(|key| self.state().read_back.contains(key)).collect();
        let differ = self.compare_shares(&keys).await?;
        self.end_put_off(&keys).await?;
        if !keys.is_empty() {
            // What was left over by what was known before is not what is.
            self.ledger(|ledger| ledger.lift_what_passed()).await?;
        }
        for key in keys.into_iter().filter(|key| !differ.contains(key)) {
            // What was found otherwise is stranded in the next cycle, and read once more.
            let Some(statement) = self.ledger(move |ledger| ledger.statement(key)).await? else { continue };
            if agrees(&statement) {
                self.ledger(move |ledger| ledger.close(key, now)).await?;
            }
        }
        Ok(())
    }
}

/// Whether the server is believed to hold what was posted: nothing is open, to be sent or completed, or kept back but as
/// stranded. What is held waits for a person, or for what held it to pass.
fn agrees(statement: &Statement) -> bool {
    let is_settled = |entry: &Entry| match entry.block.as_ref().map(|block| block.state.as_str()) {
        None => !entry.differs(),
        Some("stranded") => !entry.is_unclear(),
        Some("parked") => !entry.differs(),
        Some(_) => false,
    };
    let of_users = |entry: &Entry| entry.to_complete().is_none() && is_settled(entry);
    statement.components.values().all(is_settled) && statement.users.values().all(of_users)
}

/// Whether the month is over at the server.
pub(super) fn has_ended(zone: &BillingZone, period: BillingPeriod, server: &ServerTime) -> bool {
    server.now >= zone.end(period)
}

/// The server's clock is not known better; when to send is planned by it, and whether by the guard.
fn whole_seconds(at: Timestamp) -> Timestamp {
    let up = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second().saturating_add(up)).unwrap_or(at)
}

fn shift(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn planned(skew: i64, guard: i64, mean: i64, resources: u32) -> [String; 3] {
        let call = CallTime { mean, slowest: mean };
        let (skew, guard) = (SignedDuration::from_secs(skew), SignedDuration::from_secs(guard));
        let closing = plan(&BillingZone::utc(), at("2026-11-30T12:00:00Z"), skew, guard, call, resources);
        [closing.begins, closing.last_call, closing.ends].map(|at| at.to_string())
    }

    #[test]
    fn closing_begins_early_enough_for_the_calls_that_it_takes() {
        // Nothing is known, or little is to do: five minutes, and the last call a minute before the guard.
        let usual = ["2026-11-30T23:55:00Z", "2026-11-30T23:58:00Z", "2026-12-01T00:00:00Z"];
        assert_eq!(planned(0, 60, 0, 0), usual);
        assert_eq!(planned(0, 60, 1_000, 100), usual);
        // A server that is fenced by dates takes calls up to its midnight.
        assert_eq!(planned(0, 0, 1_000, 100)[1], "2026-11-30T23:59:00Z");
        // 1,000 calls of 1.5 s, twice: 50 minutes, 40 s for the first of a month, and the guard of a minute.
        assert_eq!(planned(0, 60, 1_500, 1_000)[0], "2026-11-30T23:08:20Z");
        assert_eq!(planned(0, 60, 60_000, 100_000)[0], "2026-11-30T12:00:00Z");
        // A server whose clock is 90 s ahead ends its month 90 s earlier.
        let ahead = ["2026-11-30T23:53:30Z", "2026-11-30T23:56:30Z", "2026-11-30T23:58:30Z"];
        assert_eq!(planned(90, 60, 0, 0), ahead);
        assert_eq!(planned(-90, 60, 0, 0)[2], "2026-12-01T00:01:30Z");
    }

    #[test]
    fn the_largest_go_last_if_there_is_time_for_all_and_first_if_not() {
        let key = |n: u128| StatementKey {
            resource: uuid::Uuid::from_u128(n),
            period: "2026-11".parse().unwrap(),
            part: at("2026-11-01T00:00:00Z"),
        };
        let amounts = vec![(Decimal::from(5), key(1)), (Decimal::from(900), key(2)), (Decimal::ONE, key(3))];
        assert_eq!(in_order(amounts.clone(), true), [key(3), key(1), key(2)]);
        assert_eq!(in_order(amounts, false), [key(2), key(1), key(3)]);
    }
}
