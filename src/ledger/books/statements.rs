//! Statements: what Waldur should hold of each resource, made anew when somebody asks after something under them changed.
//!
//! A statement is a function of quantities, the rules of its month, opening balances and what was moved between months. It
//! looks at what was sent only to know which lines Waldur has heard of, and which amounts changed rules have left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::adjustment::{Moved, moved_of_all, openings_of_all};
use super::claims::{Doubts, Verdict, claim};
use super::cuts::plans_of_all;
use super::freed::free;
use super::lines::{Kept, Line, Lines, Place, STAYS_ON_THE_BILL, kept, store};
use super::made::{Made, Wanted, made};
use super::sourced_meters::{SourcedMeters, may_be_made, meters_of};
use crate::ledger::db::columns::{decimal, micros, two_decimals};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::{InForce, Version, are_stated, first_unstated, of_component};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::exact::Exact;
use crate::metering::period::BillingPeriod;

impl Ledger {
    /// States anew whatever changed since it was last stated; returns how many components that were.
    pub fn state(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        let waiting =
            self.look(|connection| connection.prepare_cached("SELECT 1 FROM unstated LIMIT 1")?.exists([]))?;
        if !waiting {
            return Ok(0);
        }
        let stated = self.transact(|connection, in_force| state_all(connection, in_force, now))?;
        if !self.follow_renamed(now)? {
            return Ok(stated);
        }
        Ok(stated + self.transact(|connection, in_force| state_all(connection, in_force, now))?)
    }
}

/// States anew whatever is noted to be; returns how many components that were.
pub(in crate::ledger) fn state_all(
    connection: &Connection,
    in_force: &InForce,
    now: Timestamp,
) -> sql::Result<usize> {
    let counted = connection
        .prepare_cached(
            "SELECT coalesce((SELECT min(id) - 1 FROM run WHERE counted = 0), (SELECT max(id) FROM run), 0)",
        )?
        .query_row([], |row| row.get(0))?;
    let new_rules = first_unstated(connection)?;
    // By version of the rules, and component.
    let mut makers: HashMap<i64, HashMap<String, SourcedMeters<'_>>> = HashMap::new();
    let (mut last, mut asked, mut stated) = (Noted::default(), 16, 0);
    loop {
        let months = months_after(connection, &last, asked)?;
        let Some(first) = months.first() else { break };
        let mut series = 0;
        let fit = months.iter().take_while(|month| {
            series += month.series;
            series <= SERIES_TOGETHER
        });
        let taken = fit.count().max(1);
        // One that is too large by itself is stated component by component.
        let is_large = first.series > SERIES_TOGETHER;
        // What is looked at is no more than can soon be taken.
        asked = i64::try_from((2 * taken).min(MONTHS_TOGETHER)).unwrap_or(1);
        let Some(end) = months.get(taken - 1) else { break };
        let noted = noted_in(connection, (&last, end))?;
        (last.resource, last.period) = (end.resource.clone(), end.period.clone());
        for Noted { period, component, .. } in &noted {
            let Ok(month) = period.parse() else { continue };
            let version = in_force.in_month(month);
            let of_version = makers.entry(version.id).or_default();
            if !of_version.contains_key(component) {
                of_version.insert(component.clone(), meters_of(connection, version, component)?);
            }
        }
        let places: Vec<Stating<'_>> = noted
            .iter()
            .filter_map(|Noted { resource, period, component }| {
                let month = period.parse().ok()?;
                let version = in_force.in_month(month);
                let makers = makers.get(&version.id)?.get(component)?;
                let place = Place { resource, period, component };
                Some(Stating { connection, in_force, version, makers, place, month, new_rules })
            })
            .collect();
        let together = if is_large { 1 } else { places.len().max(1) };
        let mut before = None;
        for some in places.chunks(together) {
            state_some(some, &mut before, counted, now)?;
        }
        stated += noted.len();
    }
    connection.prepare_cached("DELETE FROM unstated")?.execute([])?;
    if new_rules.is_some() {
        are_stated(connection)?;
    }
    Ok(stated)
}

/// A component that is noted to be stated anew.
#[derive(Debug, Default)]
struct Noted {
    resource: String,
    period: String,
    component: String,
}

/// A resource's month of which some is.
#[derive(Debug)]
struct NotedMonth {
    resource: String,
    period: String,
    /// How many series its resource has, in all months: that many lines a component may have.
    series: i64,
}

/// The next of them, in order.
fn months_after(connection: &Connection, last: &Noted, most: i64) -> sql::Result<Vec<NotedMonth>> {
    connection
        .prepare_cached(
            "SELECT month.resource, month.period, (SELECT count(*) FROM target_resource CROSS JOIN placed
                 WHERE target_resource.resource = month.resource AND placed.target = target_resource.target)
             FROM (SELECT DISTINCT resource, period FROM unstated WHERE (resource, period) > (?1, ?2)
                   ORDER BY resource, period LIMIT ?3) month
             ORDER BY month.resource, month.period",
        )?
        .query_map(params![last.resource, last.period, most], |row| {
            Ok(NotedMonth { resource: row.get(0)?, period: row.get(1)?, series: row.get(2)? })
        })?
        .collect()
}

/// What is noted after one month, up to another, in order.
fn noted_in(connection: &Connection, (last, end): (&Noted, &NotedMonth)) -> sql::Result<Vec<Noted>> {
    connection
        .prepare_cached(
            "SELECT resource, period, component FROM unstated
             WHERE (resource, period) > (?1, ?2) AND (resource, period) <= (?3, ?4)
             ORDER BY resource, period, component",
        )?
        .query_map(params![last.resource, last.period, end.resource, end.period], |row| {
            Ok(Noted { resource: row.get(0)?, period: row.get(1)?, component: row.get(2)? })
        })?
        .collect()
}

/// Resources' months that are stated together,
const MONTHS_TOGETHER: usize = 256;
/// as long as they have no more series than memory should hold the lines of.
const SERIES_TOGETHER: i64 = if cfg!(test) { 8 } else { 4096 };

/// States these anew. `before`: when the parts of their month were stated before, where some of its components have been just
/// now.
fn state_some(
    places: &[Stating<'_>],
    before: &mut Option<BTreeMap<i64, Timestamp>>,
    counted: i64,
    now: Timestamp,
) -> sql::Result<()> {
    let Some(Stating { connection, in_force, .. }) = places.first() else { return Ok(()) };
    let all: Vec<Place<'_>> = places.iter().map(|stating| stating.place).collect();
    let mut kept = kept(connection, &all)?;
    match before {
        Some(before) => kept.iter_mut().for_each(|kept| kept.stated.clone_from(before)),
        None => *before = kept.first().map(|kept| kept.stated.clone()),
    }
    let began_after = |stating: &Stating<'_>| stating.makers.began_after(in_force.zone.end(stating.month));
    let places: Vec<(&Stating<'_>, Kept)> = places
        .iter()
        .zip(kept)
        .filter(|(stating, kept)| !kept.lines.is_empty() || !began_after(stating))
        .collect();
    let resources = places.iter().map(|(stating, _)| stating.place.resource).collect();
    let timelines = plans_of_all(connection, &in_force.zone, resources)?;
    let wanted: Vec<Wanted<'_>> = places
        .iter()
        .filter_map(|(Stating { version, makers, place, month, .. }, _)| {
            let timeline = timelines.get(place.resource)?;
            Some(Wanted { place: *place, month: *month, version, makers, timeline })
        })
        .collect();
    let with_timelines: Vec<_> =
        wanted.iter().map(|wanted| (wanted.place, wanted.month, wanted.timeline)).collect();
    let mut openings = openings_of_all(connection, &with_timelines)?;
    for (wanted, openings) in wanted.iter().zip(&mut openings).filter(|(_, openings)| !openings.is_empty()) {
        // What goes on from it is another component's by now, or another resource's.
        if !may_be_made(connection, wanted.version, wanted.place)? {
            openings.clear();
        }
    }
    let moved = moved_of_all(connection, &with_timelines)?;
    let made = made(connection, in_force, &wanted, &openings)?;
    let doubts = Doubts::of_all(connection, wanted.iter().map(|wanted| (wanted.place, wanted.version)))?;
    let mut stated = Vec::with_capacity(places.len());
    for (number, (((stating, kept), made), moved)) in places.into_iter().zip(made).zip(moved).enumerate() {
        let mut after = Lines::new();
        for (part, made) in made {
            after.extend(lines(made).into_iter().map(|(user, line)| ((part, user), line)));
        }
        // What stood there and has no readings any more is a line of zero; what was never sent is nobody's loss.
        for key in &kept.sent {
            after.entry((key.0, String::new())).or_insert_with(Line::zero);
            after.entry(key.clone()).or_insert_with(Line::zero);
        }
        apply(&moved, &mut after);
        stating.tell_too_much(&kept.lines, &after, now)?;
        stating.hold(&mut after, (&doubts, number, kept.accepted), now)?;
        stating.tell_changes(&kept, &after, now)?;
        stated.push((stating.place, kept.lines, after));
    }
    store(connection, &stated, counted, now)
}

/// A component of a resource's month that is stated anew.
struct Stating<'a> {
    connection: &'a Connection,
    in_force: &'a InForce,
    version: &'a Version,
    makers: &'a SourcedMeters<'a>,
    place: Place<'a>,
    month: BillingPeriod,
    /// The first rules by which nothing was stated yet.
    new_rules: Option<i64>,
}

impl Stating<'_> {
    /// Marks what changed rules have left in doubt.
    fn hold(
        &self,
        lines: &mut Lines,
        (doubts, number, accepted): (&Doubts, usize, Option<Decimal>),
        now: Timestamp,
    ) -> sql::Result<()> {
        let totals = || lines.iter().filter(|((_, user), _)| user.is_empty());
        let posted: Decimal = totals().filter_map(|(_, line)| decimal(line.posted.clone())).sum();
        let place = (self.place.resource, self.place.period, self.place.component);
        let known = (doubts, number, accepted);
        let claim = match claim(self.connection, self.in_force, place, (posted, self.makers), known)? {
            Verdict::Free => return Ok(()),
            Verdict::Agreed(reason) => return free(self.connection, place, reason, now),
            Verdict::Held(claim) => claim,
        };
        for ((_, user), line) in lines.iter_mut() {
            if user.is_empty() {
                line.held = Some(claim.reason.to_owned());
                line.held_words = Some(claim.words.clone());
            }
        }
        Ok(())
    }

    /// Tells of what is too much on the bill of a month that is over, where no other line shows it.
    fn tell_too_much(&self, before: &Lines, after: &Lines, now: Timestamp) -> sql::Result<()> {
        if now < self.in_force.zone.end(self.month) {
            return Ok(());
        }
        let about = About {
            resource: self.place.resource,
            period: self.place.period,
            component: self.place.component,
        };
        let of = |lines: &Lines, key| lines.get(key).and_then(|line: &Line| line.too_much.clone());
        for (key, line) in after.iter().filter(|((_, user), _)| user.is_empty()) {
            let Some(amount) = line.too_much.as_deref().filter(|_| of(before, key) != line.too_much) else {
                continue;
            };
            tell(self.connection, about, EventKind::Moved, &format!("{amount} {STAYS_ON_THE_BILL}"), now)?;
        }
        Ok(())
    }

    /// Tells of totals that fall or jump, in months that run.
    fn tell_changes(&self, kept: &Kept, after: &Lines, now: Timestamp) -> sql::Result<()> {
        let before = &kept.lines;
        let by_rules = self.by_other_rules()?;
        let about = About {
            resource: self.place.resource,
            period: self.place.period,
            component: self.place.component,
        };
        for (key, old) in before.iter().filter(|((_, user), _)| user.is_empty()) {
            let new = after.get(key);
            let amount =
                |line: Option<&Line>| line.and_then(|line| decimal(line.posted.clone())).unwrap_or_default();
            let (was, is) = (amount(Some(old)), amount(new));
            if new.is_some_and(|new| new.posted.is_none()) || old.posted.is_none() {
                continue;
            }
            let stated = kept.stated.get(&key.0).copied();
            let times = |n: Decimal| !was.is_zero() && was.checked_mul(n).is_some_and(|limit| is >= limit);
            let jumps = times(Decimal::TEN) && was > Decimal::ONE;
            let doubled = !jumps
                && times(Decimal::TWO)
                && stated.map_or(Ok(false), |stated| self.looked_known_since(stated))?;
            if by_rules && is != was {
                let words = format!("{was:.2} becomes {is:.2}, because the rules were changed");
                tell(self.connection, about, EventKind::Rules, &words, now)?;
            } else if is < was {
                tell(
                    self.connection,
                    about,
                    EventKind::Amount,
                    &format!("falls from {was:.2} to {is:.2}"),
                    now,
                )?;
            } else if jumps {
                tell(
                    self.connection,
                    about,
                    EventKind::Amount,
                    &format!("jumps from {was:.2} to {is:.2}"),
                    now,
                )?;
            } else if doubled {
                let words = format!(
                    "grows from {was:.2} to {is:.2}, after something was told of its readings (see the events before)"
                );
                tell(self.connection, about, EventKind::Amount, &words, now)?;
            }
        }
        if let Some(held) = after.values().find(|line| line.held.is_some())
            && !before.values().any(|line| line.held == held.held)
        {
            let words = format!("held: {}", held.held_words.as_deref().unwrap_or_default());
            tell(self.connection, about, EventKind::Rules, &words, now)?;
        }
        Ok(())
    }

    /// Whether new rules make the component otherwise than those by which it was stated last.
    fn by_other_rules(&self) -> sql::Result<bool> {
        let before = self.new_rules.and_then(|version| self.in_force.before(self.month, version));
        let Some(before) = before else { return Ok(false) };
        let of = |version| of_component(version, self.place.component);
        Ok(of(before)? != of(self.version)?)
    }

    /// Whether readings that look like earlier ones came after a part was last stated.
    fn looked_known_since(&self, stated: Timestamp) -> sql::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM event WHERE kind = ?1 AND at >= ?2")?
            .exists(params![EventKind::Readings.name(), micros(stated)])
    }
}

/// By user; '' is the total.
fn lines(made: Made) -> Vec<(String, Line)> {
    let Made { amounts, problem, .. } = made;
    let (posted, problem) = match (amounts.posted(), problem) {
        (_, Some(problem)) => (None, Some(problem)),
        (Ok(posted), None) => (Some(posted), None),
        (Err(why), None) => {
            let whose = amounts.users.iter().find(|(_, exact)| exact.is_negative());
            let whose = whose.map(|(user, _)| format!("of {user}, ")).unwrap_or_default();
            (None, Some(format!("{whose}{why}")))
        }
    };
    let line = |exact: &Exact, used: Option<Decimal>| {
        let (exact, used) = (exact.to_string(), used.map(two_decimals));
        let problem = problem.clone();
        Line { exact, posted: used.clone(), used, problem, held: None, held_words: None, too_much: None }
    };
    let mut lines = vec![(String::new(), line(&amounts.total, posted.as_ref().map(|posted| posted.total)))];
    lines.extend(amounts.users.iter().map(|(user, exact)| {
        let share = posted.as_ref().and_then(|posted| posted.users.get(user).copied());
        (user.clone(), line(exact, share))
    }));
    lines
}

/// Adds what was moved to the month, and takes away what was moved out of it. Less than nothing is never posted: what of it can't
/// be taken away is on the bill elsewhere.
fn apply(moved: &Moved, lines: &mut Lines) {
    for (key, amount) in &moved.to {
        lines.entry((key.0, String::new())).or_insert_with(Line::zero);
        shift(lines.entry(key.clone()).or_insert_with(Line::zero), *amount);
    }
    for (key, amount) in &moved.from {
        shift(lines.entry(key.clone()).or_insert_with(Line::zero), -*amount);
    }
    for (key, line) in lines.iter_mut() {
        let posted = decimal(line.posted.clone());
        let Some(posted) = posted.filter(Decimal::is_sign_negative) else { continue };
        line.posted = Some("0.00".to_owned());
        // What a person gave up may be more than there is by now; it was not billed.
        let given_up = moved.given_up.get(key).copied().unwrap_or_default().max(Decimal::ZERO);
        let too_much = -(posted + given_up);
        if too_much > Decimal::ZERO {
            line.too_much = Some(two_decimals(too_much));
        }
    }
    shares_of_nothing(lines);
}

/// Of a total of nothing nobody has a share, whatever was carried: where there is no row there is no place for it, and where
/// there is one a newer server makes the total of its shares.
fn shares_of_nothing(lines: &mut Lines) {
    let is_nothing = |line: &Line| decimal(line.posted.clone()).is_some_and(|posted| posted.is_zero());
    let of_total = lines.iter().filter(|((_, user), total)| user.is_empty() && is_nothing(total));
    let parts: BTreeSet<i64> = of_total.map(|((part, _), _)| *part).collect();
    for (_, share) in lines.iter_mut().filter(|((part, user), _)| !user.is_empty() && parts.contains(part)) {
        if share.posted.is_some() {
            share.posted = Some("0.00".to_owned());
        }
    }
}

fn shift(line: &mut Line, by: Decimal) {
    if let Some(posted) = decimal(line.posted.clone()) {
        line.posted = Some(two_decimals(posted + by));
    }
}
