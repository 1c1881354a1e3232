//! Taking over from another writer: what the server holds becomes the opening balance, and the month goes on from there
//! (law 8). And whose hand it looks like, for the person who has to decide.
//!
//! By itself (`on_conflict: adopt`) the agent adopts a number once a month, and only where it has reported nothing of it
//! yet: two agents that adopted each other's numbers in turn would bill everything twice.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::part::Part;
use super::reconcile::Row;
use super::writer::{OWN_WRITER, OwnNames};
use super::{Cycle, CycleError, OnConflict, guard};
use crate::ledger::db::event::EventKind;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::decision::Decision;
use crate::ledger::sent::opening::Opening;
use crate::ledger::sent::statement::Statement;
use crate::ledger::{Ledger, LedgerError};
use crate::metering::period::BillingZone;
use crate::waldur::failure::Failure;
use crate::waldur::types::UsageRow;

/// The instant that an opening balance would be of if it were adopted now: `named` by a person, or else as the row's date tells.
pub fn opening_instant(
    ledger: &Ledger,
    key: StatementKey,
    (named, dated): (Option<Timestamp>, Option<Timestamp>),
    now: Timestamp,
) -> Result<Timestamp, LedgerError> {
    let end = Part::of(ledger, key)?.end;
    let of_row = || instant_of(&ledger.in_force().zone, key, end, dated, now).0;
    Ok(named.map_or_else(of_row, |at| at.max(key.part)))
}

/// What came of an attempt to adopt: it was done, or it can't be, and why.
type Adopted = Result<(), String>;

impl Cycle {
    /// Whether this number is to be adopted, and of which instant a person said that it is (else it is the row's own).
    pub(super) async fn may_adopt(
        &self,
        statement: &Statement,
        component: &str,
        row: &Row,
        decided: Option<Decision>,
    ) -> Result<Option<Option<Timestamp>>, CycleError> {
        let (key, of_component) = (statement.key, component.to_owned());
        let opened = self.ledger(move |ledger| ledger.opened(key, &of_component)).await?;
        let reported = statement.components.get(component).and_then(|entry| entry.acknowledged.as_ref());
        if let Some(Decision::Adopt { at }) = decided {
            return Ok(Some(at));
        }
        let by_itself =
            self.submitter.on_conflict == OnConflict::Adopt && opened.is_none() && reported.is_none();
        Ok((by_itself && !self.is_of_the_month_before(key, component, row).await?).then_some(None))
    }

    /// Whether the number is what was sent for the month before, with an outcome that was in doubt: a server that decides
    /// the month itself may have taken it up after its midnight. Adopted, that month would be billed twice.
    async fn is_of_the_month_before(
        &self,
        key: StatementKey,
        component: &str,
        row: &Row,
    ) -> Result<bool, CycleError> {
        let before = StatementKey { period: key.period.previous(), ..key };
        let (component, amount) = (component.to_owned(), row.held.amount);
        Ok(self.ledger(move |ledger| ledger.was_in_doubt(before, &component, amount)).await?)
    }

    /// Makes the row's amount the opening balance of its component.
    pub(super) async fn adopt(
        &self,
        key: StatementKey,
        component: &str,
        row: &Row,
        at: Option<Timestamp>,
    ) -> Result<Result<Adopted, Failure>, CycleError> {
        let (of_component, now) = (component.to_owned(), self.submitter.clock.now());
        if let Err(why) = self.ledger(move |ledger| ledger.can_open(key, &of_component)).await? {
            return Ok(Ok(Err(why.to_owned())));
        }
        let shares =
            self.submitter.client.list_user_usages(key.resource, component, key.period.first_day()).await;
        let shares = match shares {
            Ok(shares) => shares,
            Err(failure) => return Ok(Err(failure)),
        };
        let of_row = shares.into_iter().filter(|share| share.row().is_none_or(|of| of == row.uuid));
        let users: BTreeMap<String, Decimal> = of_row
            .filter(|share| !share.usage.is_zero() && !share.username.is_empty())
            .map(|share| (share.username, share.usage))
            .collect();
        let total = row.held.amount;
        let of_component = component.to_owned();
        let sums = self.ledger(move |ledger| ledger.adds_up(key, &of_component)).await?;
        let sum: Decimal = users.values().sum();
        if total.is_sign_negative() || users.values().any(Decimal::is_sign_negative) {
            return Ok(Ok(Err("what Waldur holds is negative".to_owned())));
        }
        if sums && sum > total {
            return Ok(Ok(Err(format!(
                "Waldur holds {sum:.2} of its users, which is more than the total of {total:.2}"
            ))));
        }
        let part_end = self.part_of(key).await?.end;
        let (instant, how) = match at {
            Some(at) => (at.max(key.part), "as a person said"),
            None => instant_of(&self.submitter.zone().await?, key, part_end, row.writer.dated, now),
        };
        let words = format!("what Waldur held then ({}); the instant: {how}", row.held.evidence);
        let told = format!("{total:.2} is the opening balance of {instant}: {words}");
        let ours = self.own_names().await?.wrote(&row.writer);
        let opening = Opening { component: component.to_owned(), at: instant, total, users, words, ours };
        self.ledger(move |ledger| {
            ledger.tell(key.resource, key.period, &opening.component, EventKind::Writer, &told, now)?;
            ledger.adopt(key, opening, now)
        })
        .await?;
        crate::fail_point("after an opening balance is recorded");
        Ok(Ok(Ok(())))
    }

    pub(super) async fn own_names(&self) -> Result<OwnNames, CycleError> {
        Ok(self.ledger(|ledger| OwnNames::of(ledger)).await?)
    }

    /// Remembers who is said to have written a row that is known to be ours.
    pub(super) async fn learn_own_writer(
        &self,
        statement: &Statement,
        rows: &[UsageRow],
    ) -> Result<(), CycleError> {
        let ours = rows.iter().find(|row| {
            let entry = statement.components.get(&row.component);
            let known = entry.and_then(|entry| entry.acknowledged.as_ref());
            !row.usage.is_zero() && known.is_some_and(|k| k.how == "accepted" && k.amount == row.usage)
        });
        let Some(name) = ours.and_then(|row| row.modified_by.clone()) else { return Ok(()) };
        let now = self.submitter.clock.now();
        Ok(self
            .ledger(move |ledger| match ledger.server_fact(OWN_WRITER)? {
                Some((known, _)) if known == name => Ok(()),
                _ => ledger.put_server_fact(OWN_WRITER, &name, now),
            })
            .await?)
    }
}

/// Who wrote a row and when, and whose hand that looks like.
pub(super) fn evidence(row: &UsageRow, rows: &[&UsageRow], own: &OwnNames) -> String {
    let by = row.modified_by.as_deref().unwrap_or("nobody named");
    let at = row.date.map(|date| date.to_string()).unwrap_or_default();
    let mut words = vec![format!("modified by {by}, {at}")];
    if !row.description.is_empty() {
        words.push(format!("described as `{}`", row.description.chars().take(80).collect::<String>()));
    }
    let together = rows
        .iter()
        .filter(|other| row.date.is_some() && second(other.date) == second(row.date))
        .filter(|other| other.modified_by == row.modified_by)
        .count();
    if row.modified_by.as_ref().is_some_and(|by| own.has(by)) {
        words.push(
            "this token's own user: an earlier installation of this agent, or a program with the same token"
                .to_owned(),
        );
    } else if together > 1 {
        words.push(format!("looks like another agent: {together} components in the same second"));
    } else {
        let mut hand = "a person or another agent: nothing else was written in that second".to_owned();
        // Some servers name users by numbers, which a token is told by its first accepted report.
        let number = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        if row.modified_by.as_deref().is_some_and(number) && !own.0.iter().any(|own| number(own)) {
            hand += "; or, after a lost ledger, this token's own user, whose number is not known yet";
        }
        words.push(hand);
    }
    words.join("; ")
}

fn second(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_second)
}

/// The instant that an opening balance speaks of, and how it is known. It is the row's `date`, if that is one: rows may
/// carry a day only, the first of the month, or a date that was chosen to be inside the month. Then it is the latest
/// instant at which the number may have been written, because nothing may be counted twice.
fn instant_of(
    zone: &BillingZone,
    key: StatementKey,
    part_end: Option<Timestamp>,
    date: Option<Timestamp>,
    now: Timestamp,
) -> (Timestamp, &'static str) {
    let (start, end) = (zone.start(key.period), zone.end(key.period));
    let (from, to) = (key.part.max(start), part_end.unwrap_or(end).min(end));
    let read = now.clamp(from, to);
    let Some(date) = date.filter(|date| (from..to).contains(date)) else {
        return (read, "when it was read, because its date lies outside");
    };
    let day = |zone: &BillingZone| zone.date_of(date);
    let utc = BillingZone::utc();
    let midnight = [zone, &utc].into_iter().any(|zone| {
        let before = date.saturating_sub(SignedDuration::from_micros(1)).unwrap_or(date);
        zone.date_of(before) != day(zone)
    });
    if guard::is_month_end_date(end, date) {
        return (read, "when it was read, because its date only names the month");
    }
    if !midnight {
        return (date, "the date of the row");
    }
    if day(zone).day() == 1 || day(&utc).day() == 1 {
        return (read, "when it was read, because its date only names the month");
    }
    let whole_day = date.saturating_add(SignedDuration::from_hours(24)).unwrap_or(date);
    (whole_day.min(read), "the end of the day that its date names")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn instant(zone: &str, part: &str, date: &str, now: &str) -> String {
        let zone = BillingZone::named(zone).unwrap();
        let period = "2026-11".parse().unwrap();
        let part = if part.is_empty() { zone.start(period) } else { at(part) };
        let key = StatementKey { resource: Uuid::nil(), period, part };
        instant_of(&zone, key, None, (!date.is_empty()).then(|| at(date)), at(now)).0.to_string()
    }

    #[test]
    fn an_opening_balance_is_of_the_rows_date_if_that_tells_an_instant() {
        let now = "2026-11-23T10:00:00Z";
        assert_eq!(instant("UTC", "", "2026-11-20T18:30:00.25Z", now), "2026-11-20T18:30:00.25Z");
        // A day: until its end.
        assert_eq!(instant("UTC", "", "2026-11-20T00:00:00Z", now), "2026-11-21T00:00:00Z");
        assert_eq!(instant("Europe/Tallinn", "", "2026-11-19T22:00:00Z", now), "2026-11-20T22:00:00Z");
        // Today: until now.
        assert_eq!(instant("UTC", "", "2026-11-23T00:00:00Z", now), now);
        // Only the month, or none: until now.
        assert_eq!(instant("UTC", "", "2026-11-01T00:00:00Z", now), now);
        assert_eq!(instant("Europe/Tallinn", "", "2026-10-31T22:00:00Z", now), now);
        assert_eq!(instant("UTC", "", "", now), now);
        assert_eq!(instant("UTC", "", "2026-10-31T12:00:00Z", now), now);
        // The date that an agent like this one sends while the month ends says nothing of the time.
        let late = "2026-11-30T20:00:00Z";
        assert_eq!(instant("UTC", "", "2026-11-29T22:00:00Z", late), late);
        // With the microseconds of a probe, too.
        assert_eq!(instant("UTC", "", "2026-11-29T22:00:00.123456Z", late), late);
        // A month that is over is adopted whole.
        assert_eq!(
            instant("UTC", "", "2026-11-01T00:00:00Z", "2026-12-05T00:00:00Z"),
            "2026-12-01T00:00:00Z"
        );
        // Of a part of the month, nothing before it.
        assert_eq!(instant("UTC", "2026-11-16T00:00:00Z", "2026-11-10T08:00:00Z", now), now);
    }

    fn row(component: &str, by: &str, date: &str) -> UsageRow {
        let row = serde_json::json!({
            "uuid": Uuid::nil(), "type": component, "usage": "1", "resource_uuid": Uuid::nil(),
            "billing_period": "2026-11-01", "date": date, "modified_by": by,
        });
        serde_json::from_str(&row.to_string()).unwrap()
    }

    #[test]
    fn evidence_says_whose_hand_it_looks_like() {
        let (cpu, gpu) =
            (row("cpu", "77", "2026-11-10T12:00:00.1Z"), row("gpu", "77", "2026-11-10T12:00:00.9Z"));
        let alone = row("ram", "77", "2026-11-10T12:00:01Z");
        let rows = [&cpu, &gpu, &alone];
        let own = OwnNames(vec!["provider".to_owned(), "5e2f0000-0000-4000-8000-000000000001".to_owned()]);
        assert!(
            evidence(&cpu, &rows, &own).contains("looks like another agent: 2 components in the same second")
        );
        assert!(evidence(&alone, &rows, &own).contains("a person or another agent"));
        for by in ["provider", "https://w/api/users/5e2f0000000040008000000000000001/"] {
            assert!(
                evidence(&row("cpu", by, "2026-11-10T12:00:00Z"), &rows, &own).contains("own user"),
                "{by}"
            );
        }
    }
}
