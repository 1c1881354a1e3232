//! Which month a call would land in, and the date that keeps it there (law 6). Pure: it is told both clocks.
//!
//! An older server books a report in the month of its own clock when it processes the call; a dated one in the month
//! of the `date` that the call carries. Nothing here ever moves usage to another month.

use jiff::{SignedDuration, Timestamp};

use crate::metering::period::{BillingPeriod, BillingZone};

/// What is known of the server's clock and of what it honours.
#[derive(Debug, Clone)]
pub struct ServerTime {
    /// The server's clock, as its `Date` header tells it.
    pub now: Timestamp,
    /// Whether it is proven to honour `date`.
    pub dated: Option<bool>,
    /// How long before its midnight an undated call is no longer sent: `GUARD`, or more where calls take longer.
    pub guard: SignedDuration,
    /// The same where dates are honoured: a call that is carried out after midnight is one into the past, and refused.
    pub dated_guard: SignedDuration,
}

/// Whether a statement may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendWindow {
    /// It lands in the month meant. `date` goes along: where it is honoured it keeps the call
    /// there, where that is unknown it is a probe.
    Open { date: Timestamp },
    /// The month has not begun at the server.
    NotYet,
    /// So close to midnight that an undated call might be processed after it.
    TooLate,
    /// The month is over at the server.
    Ended,
}

/// At least so long before the server's midnight an undated call is no longer sent: a call may take 40 s (observed for
/// the first of a month), and the month is decided when it is processed.
pub const GUARD: SignedDuration = SignedDuration::from_secs(60);

/// A `date` lies this much before the server's now: its clock is only known to the second, and the future is refused.
const BEHIND: SignedDuration = SignedDuration::from_secs(5);

/// Why nothing of a month is sent any more though it runs, and what becomes of it.
pub const TOO_LATE: &str = "it is about to end at Waldur, and a report could land in the next month. What is left over \
    then is shown, and dealt with as `submit: { late: ... }` says";

/// Whether a statement of this period, whose plan period began at `part` and ends at `part_end`, may be sent now.
pub fn send_window(
    zone: &BillingZone,
    period: BillingPeriod,
    part: Timestamp,
    part_end: Option<Timestamp>,
    server: &ServerTime,
) -> SendWindow {
    // Where another zone holds from this month or from the next one on, only while both agree that this one runs.
    let (start, sure) = (zone.surely_from(period), zone.surely_until(period));
    if server.now >= zone.end(period) {
        return SendWindow::Ended;
    }
    if server.now < start {
        return SendWindow::NotYet;
    }
    let guard = if server.dated == Some(true) { server.dated_guard } else { server.guard };
    if shift(server.now, guard) >= sure {
        return SendWindow::TooLate;
    }
    SendWindow::Open { date: date_inside(start, sure, part, part_end, server.now) }
}

/// An instant of the month that no time zone can take out of it, as soon as there is one: zones reach from UTC+14 to
/// UTC-12. Within the plan period meant, and never in the server's future.
fn date_inside(
    start: Timestamp,
    end: Timestamp,
    part: Timestamp,
    part_end: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let everywhere_until = everywhere_until(end);
    let mut latest = shift(now, -BEHIND).min(shift(end, -SignedDuration::from_secs(1)));
    if let Some(part_end) = part_end {
        latest = latest.min(shift(part_end, -SignedDuration::from_secs(1)));
    }
    let earliest = part.max(start);
    let everywhere_from = shift(start, SignedDuration::from_hours(26)).max(earliest);
    if everywhere_from <= everywhere_until.min(latest) {
        everywhere_until.min(latest)
    } else {
        latest.max(earliest)
    }
}

/// Whether the dates of reports stay behind the server's clock, because its month is about to end somewhere: a plan period that
/// began since is not the one that they lie in.
pub fn dates_stay_behind(zone: &BillingZone, server: &ServerTime) -> bool {
    let period = zone.period_of(server.now);
    server.dated == Some(true) && server.now > everywhere_until(zone.surely_until(period))
}

/// Up to here a month runs in every time zone.
fn everywhere_until(end: Timestamp) -> Timestamp {
    shift(end, SignedDuration::from_hours(-26))
}

/// The date of a report that shows whether the server honours dates: with microseconds that no other has. `None` in the
/// month's first second, which would be another month's with them taken away.
pub fn probe(zone: &BillingZone, period: BillingPeriod, date: Timestamp) -> Option<Timestamp> {
    let whole = date.as_microsecond() - date.as_microsecond().rem_euclid(1_000_000);
    let probe = Timestamp::from_microsecond(whole + fastrand::i64(1..1_000_000)).ok()?;
    (whole > zone.surely_from(period).as_microsecond()).then_some(probe)
}

/// The `date` of a report into a month that is over: inside it, and in the plan period meant.
pub fn within_past(
    zone: &BillingZone,
    period: BillingPeriod,
    part: Timestamp,
    part_end: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    date_inside(zone.start(period), zone.end(period), part, part_end, now)
}

/// Whether a date is the one that an agent like this sends while the month ends (`end`): it tells no time. A probe has
/// microseconds added to it.
pub fn is_month_end_date(end: Timestamp, of: Timestamp) -> bool {
    let date = everywhere_until(end);
    (date..shift(date, SignedDuration::from_secs(1))).contains(&of)
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

    fn pass(zone: &str, now: &str, dated: Option<bool>) -> SendWindow {
        pass_in(&BillingZone::named(zone).unwrap(), now, dated)
    }

    fn pass_in(zone: &BillingZone, now: &str, dated: Option<bool>) -> SendWindow {
        let period: BillingPeriod = "2026-11".parse().unwrap();
        send_window(
            zone,
            period,
            zone.start(period),
            None,
            &ServerTime { now: at(now), dated, guard: GUARD, dated_guard: SignedDuration::from_secs(2) },
        )
    }

    #[test]
    fn an_undated_call_stops_a_minute_before_the_servers_midnight() {
        assert!(matches!(pass("UTC", "2026-11-30T23:58:59Z", Some(false)), SendWindow::Open { .. }));
        assert_eq!(pass("UTC", "2026-11-30T23:59:00Z", Some(false)), SendWindow::TooLate);
        assert_eq!(pass("UTC", "2026-11-30T23:59:00Z", None), SendWindow::TooLate);
        assert!(matches!(pass("UTC", "2026-11-30T23:59:57Z", Some(true)), SendWindow::Open { .. }));
        assert_eq!(pass("UTC", "2026-11-30T23:59:58Z", Some(true)), SendWindow::TooLate);
        assert_eq!(pass("UTC", "2026-12-01T00:00:00Z", Some(true)), SendWindow::Ended);
        assert_eq!(pass("UTC", "2026-10-31T23:59:59Z", Some(true)), SendWindow::NotYet);
        // Tallinn's November ends two hours before UTC's.
        assert_eq!(pass("Europe/Tallinn", "2026-11-30T22:00:00Z", Some(true)), SendWindow::Ended);
    }

    /// From November on the server's months are UTC's: October ended when Tallinn's did, and UTC's goes on for two hours.
    #[test]
    fn a_month_that_begins_in_another_zone_waits_until_both_agree_that_it_has_begun() {
        let november = "2026-11".parse().unwrap();
        let tallinn = BillingZone::named("Europe/Tallinn").unwrap();
        let zone = tallinn.changed_from(november, &BillingZone::utc());
        assert_eq!(zone.start(november), at("2026-10-31T22:00:00Z"));
        assert_eq!(pass_in(&zone, "2026-10-31T22:00:10Z", Some(true)), SendWindow::NotYet);
        assert_eq!(pass_in(&zone, "2026-10-31T23:59:59Z", Some(false)), SendWindow::NotYet);
        let open = SendWindow::Open { date: at("2026-11-01T00:00:00Z") };
        assert_eq!(pass_in(&zone, "2026-11-01T00:00:02Z", Some(true)), open);
    }

    #[test]
    fn the_date_lies_in_the_month_in_every_zone_as_soon_as_it_can() {
        let date = |zone, now| match pass(zone, now, Some(true)) {
            SendWindow::Open { date } => date,
            other => panic!("{other:?}"),
        };
        assert_eq!(date("UTC", "2026-11-10T12:00:00Z"), at("2026-11-10T11:59:55Z"));
        // At the end of the month in UTC, it is already December at UTC+14: the date stays behind.
        assert_eq!(date("UTC", "2026-11-30T23:59:00Z"), at("2026-11-29T22:00:00Z"));
        assert_eq!(date("Europe/Tallinn", "2026-11-30T21:59:00Z"), at("2026-11-29T20:00:00Z"));
        // In the first hours there is no such instant yet.
        assert_eq!(date("UTC", "2026-11-01T00:00:30Z"), at("2026-11-01T00:00:25Z"));
        assert_eq!(date("UTC", "2026-11-01T00:00:03Z"), at("2026-11-01T00:00:00Z"));
        assert_eq!(date("UTC", "2026-11-02T02:00:05Z"), at("2026-11-02T02:00:00Z"));
    }
}
