//! Statements: what Waldur should hold of each resource, made anew when somebody asks after something under them changed.
//!
//! A statement is a function of quantities, the rules of its month, opening balances and what was moved between months. It
//! looks at what was sent only to know which lines Waldur has heard of, and which amounts changed rules have left behind.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::adjustment::{Moved, moved, openings};
use super::claims::{Verdict, claim};
use super::cuts::{Timelines, plans};
use super::freed::free;
use super::lines::{Line, LineRows, Lines, Place};
use super::quantities::quantity;
use super::sourced_meters::{SourcedMeter, SourcedMeters, meters_of};
use super::targets;
use crate::ledger::db::columns::{decimal, from_cents, instant, micros, to_cents, two_decimals};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::{InForce, Version, of_component};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::adjustment::{Onward, Shares, can_be_carried, onward};
use crate::metering::exact::{Exact, Rounding};
use crate::metering::measure::{Measure, Quantity};
use crate::metering::period::{BillingPeriod, Timeline};
use crate::metering::statement::Amounts;

impl Ledger {
    /// States anew whatever changed since it was last stated; returns how many components that were.
    pub fn state(&mut self, now: Timestamp) -> Result<usize, LedgerError> {
        let waiting =
            self.look(|connection| connection.prepare_cached("SELECT 1 FROM unstated LIMIT 1")?.exists([]))?;
        if !waiting {
            return Ok(0);
        }
        self.transact(|connection, in_force| state_all(connection, in_force, now))
    }
}

/// States anew whatever is noted to be.
pub(in crate::ledger) fn state_all(
    connection: &Connection,
    in_force: &InForce,
    now: Timestamp,
) -> sql::Result<usize> {
    let noted: Vec<(String, String, String)> = connection
        .prepare_cached("SELECT resource, period, component FROM unstated")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    let mut makers: HashMap<(i64, &str), SourcedMeters<'_>> = HashMap::new();
    let mut rows = LineRows::of(connection)?;
    let mut timelines = Timelines::new(connection, in_force);
    for (resource, period, component) in &noted {
        let Ok(month) = period.parse::<BillingPeriod>() else { continue };
        let version = in_force.in_month(month);
        let makers = match makers.entry((version.id, component)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(meters_of(connection, version, component)?),
        };
        let place = Place { resource, period, component };
        let stating = Stating { connection, in_force, version, makers, place, month };
        stating.state(&mut rows, &mut timelines, now)?;
    }
    drop(rows);
    connection.prepare_cached("DELETE FROM unstated")?.execute([])?;
    Ok(noted.len())
}

/// A component of a resource's month that is stated anew.
struct Stating<'a> {
    connection: &'a Connection,
    in_force: &'a InForce,
    version: &'a Version,
    makers: &'a SourcedMeters<'a>,
    place: Place<'a>,
    month: BillingPeriod,
}

impl Stating<'_> {
    fn state(
        &self,
        rows: &mut LineRows<'_>,
        timelines: &mut Timelines<'_>,
        now: Timestamp,
    ) -> sql::Result<()> {
        let before = rows.read(self.place)?;
        if before.is_empty() && self.makers.began_after(self.in_force.zone.end(self.month)) {
            return Ok(());
        }
        let timeline = plans(self.connection, &self.in_force.zone, self.place.resource)?;
        let mut after = Lines::new();
        for (part, made) in self.amounts(&timeline, timelines)? {
            after.extend(lines(made).into_iter().map(|(user, line)| ((part, user), line)));
        }
        // What stood there and has no readings any more is a line of zero; what was never sent is nobody's loss.
        for key in rows.were_sent(self.place)? {
            after.entry((key.0, String::new())).or_insert_with(Line::zero);
            after.entry(key).or_insert_with(Line::zero);
        }
        let moved = moved(self.connection, &timeline, self.place, self.month)?;
        apply(&moved, &mut after);
        self.hold(&mut after, now)?;
        self.tell_changes(&before, &after, now)?;
        rows.store(self.place, &before, &after, now)?;
        Ok(())
    }

    /// Marks what changed rules have left in doubt.
    fn hold(&self, lines: &mut Lines, now: Timestamp) -> sql::Result<()> {
        let totals = || lines.iter().filter(|((_, user), _)| user.is_empty());
        let posted: Decimal = totals().filter_map(|(_, line)| decimal(line.posted.clone())).sum();
        let place = (self.place.resource, self.place.period, self.place.component);
        let claim = match claim(self.connection, self.in_force, place, (posted, self.makers))? {
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

    /// Tells of totals that fall or jump, in months that run.
    fn tell_changes(&self, before: &Lines, after: &Lines, now: Timestamp) -> sql::Result<()> {
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
            let by_rules = self.rules_changed_since(key)?;
            let times = |n: Decimal| !was.is_zero() && was.checked_mul(n).is_some_and(|limit| is >= limit);
            let jumps = times(Decimal::TEN) && was > Decimal::ONE;
            let doubled = !jumps && times(Decimal::TWO) && self.looked_known_since(key)?;
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

    /// Whether rules that make the component otherwise were recorded after the part was last stated. Others make no
    /// difference to it.
    fn rules_changed_since(&self, (part, _): &(i64, String)) -> sql::Result<bool> {
        let stated: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT changed FROM statement WHERE resource = ?1 AND period = ?2 AND part = ?3",
            )?
            .query_row(params![self.place.resource, self.place.period, part], |row| row.get(0))
            .optional()?;
        let before = stated.and_then(|stated| self.in_force.before_since(self.month, instant(stated)));
        let Some(before) = before else { return Ok(false) };
        let of = |version| of_component(version, self.place.component);
        Ok(of(before)? != of(self.version)?)
    }

    /// Whether readings that look like earlier ones came after the part was last stated.
    fn looked_known_since(&self, (part, _): &(i64, String)) -> sql::Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM statement JOIN event ON event.kind = ?4 AND event.at >= statement.changed
                 WHERE statement.resource = ?1 AND statement.period = ?2 AND part = ?3",
            )?
            .exists(params![self.place.resource, self.place.period, part, EventKind::Readings.name()])
    }

    /// The exact amounts of the component, by part of the month.
    fn amounts(
        &self,
        timeline: &Timeline,
        timelines: &mut Timelines<'_>,
    ) -> sql::Result<BTreeMap<i64, Made>> {
        let (connection, place) = (self.connection, self.place);
        let mut parts: BTreeMap<i64, Made> = BTreeMap::new();
        let openings = openings(connection, timeline, place, self.month)?;
        let opened = |part: i64| openings.get(&part).map(|(at, _)| *at);
        let mut query = connection.prepare_cached(
            "SELECT series.id, placed.username, placed.target, quantity.segment, CASE WHEN ?6 = 1 THEN series.labels END,
                    quantity.sum, quantity.max, quantity.last, quantity.covered, quantity.missed, quantity.gaps,
                    quantity.resets, quantity.held, quantity.holds, quantity.dips
             FROM placed CROSS JOIN series CROSS JOIN quantity
             WHERE series.id = placed.series
               AND quantity.series = series.id AND quantity.measure = ?4 AND quantity.period = ?5
               AND placed.rules = ?1 AND placed.source = ?2
               AND placed.target IN (SELECT target FROM target_resource WHERE resource = ?3)
               -- What a host read later reaches back to is a part of what was used there: the whole is another's to report.
               AND (?7 = 0 OR NOT EXISTS (SELECT 1 FROM collector
                    WHERE collector.name = ?8 AND collector.agent = series.agent AND collector.since >= ?9))
             ORDER BY placed.target, placed.username, series.id, quantity.segment, quantity.month",
        )?;
        let zone = timeline.zone();
        let end = zone.end(self.month);
        let some_began_after = self.makers.some_began_after(end);
        let month = i128::from(micros(zone.end(self.month))) - i128::from(micros(zone.start(self.month)));
        for maker in &self.makers.meters {
            // Quantities of one series in one part are put together first: a mean is of all its time.
            let mut by_series: BTreeMap<(i64, i64), Weighed> = BTreeMap::new();
            let (measure, weighs) = (maker.measure.name(), !maker.meter.weighing.is_even());
            let mut rows = query.query(params![
                self.version.id,
                maker.source,
                place.resource,
                measure,
                place.period,
                weighs,
                some_began_after,
                maker.rules.collector,
                micros(end)
            ])?;
            while let Some(row) = rows.next()? {
                let (target, segment): (i64, i64) = (row.get(2)?, row.get(3)?);
                let mappings = timelines.mappings(target)?;
                if targets::at(&mappings, instant(segment)) != Some(place.resource) {
                    continue;
                }
                let mut weight = None;
                if weighs {
                    let labels = serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default();
                    weight = maker.meter.weighing.weigh(&labels);
                    if weight.is_none() {
                        continue;
                    }
                }
                let part = micros(timeline.segment_at(instant(segment)).start);
                if let Some(at) = opened(part) {
                    if segment >= at {
                        parts.entry(part).or_insert_with(|| Made::new(maker.meter.rounding)).since = true;
                    } else if maker.measure != Measure::Level {
                        continue; // It is in the opening balance.
                    }
                }
                let entry = by_series.entry((part, row.get(0)?)).or_default();
                entry.quantity.absorb(quantity(&row, 5)?);
                (entry.target, entry.user, entry.weight) = (target, row.get(1)?, weight);
            }
            for ((part, _), Weighed { target, quantity, user, weight }) in by_series {
                let Some(value) = quantity.value(maker.measure) else { continue };
                let mut amount = value * maker.meter.factor.clone();
                if let Some(weight) = weight {
                    amount = amount * weight;
                }
                // A level or a mean is of the whole month: under each plan, and while the target was this resource, it counts
                // for that share of it.
                if !can_be_carried([maker.measure]) {
                    let segment = timeline.segment_at(instant(part));
                    let mappings = timelines.mappings(target)?;
                    let time = targets::time_as(&mappings, place.resource, (segment.start, segment.end));
                    if time < month {
                        amount = amount * Exact::ratio(time, month).unwrap_or_else(Exact::one);
                    }
                }
                let amounts =
                    &mut parts.entry(part).or_insert_with(|| Made::new(maker.meter.rounding)).amounts;
                amounts.total += amount.clone();
                amounts.additive &= maker.measure.adds_up();
                if let Some(user) = user {
                    *amounts.users.entry(user).or_insert_with(Exact::zero) += amount;
                }
            }
        }
        if !openings.is_empty() {
            let makers = self.makers.of(connection, place.resource)?;
            let rounding = makers.first().map_or_else(Rounding::default, |maker| maker.meter.rounding);
            for (part, (_, opening)) in &openings {
                parts.entry(*part).or_insert_with(|| Made::new(rounding)).open(&makers, opening);
            }
        }
        Ok(parts)
    }
}

/// What a series has in one part of a month, and what it counts there.
#[derive(Default)]
struct Weighed {
    target: i64,
    quantity: Quantity,
    user: Option<String>,
    /// `None`: it counts as it is.
    weight: Option<Exact>,
}

/// The exact amounts of a component in one part of the month.
struct Made {
    amounts: Amounts,
    /// Whether something was measured after the opening balance.
    since: bool,
    /// Why they can't be put together with what was adopted.
    problem: Option<String>,
}

impl Made {
    fn new(rounding: Rounding) -> Made {
        let (total, users) = (Exact::zero(), BTreeMap::new());
        let amounts = Amounts { total, users, additive: true, rounding };
        Made { amounts, since: false, problem: None }
    }

    /// Puts an opening balance before what was measured since.
    fn open(&mut self, makers: &[SourcedMeter<'_>], opening: &Shares) {
        self.amounts.additive &= makers.iter().all(|maker| maker.measure.adds_up());
        // Before the first reading nothing says how it goes on, and nothing needs to.
        let how = if makers.is_empty() {
            Ok(Onward::Adds)
        } else {
            onward(makers.iter().map(|maker| maker.measure))
        };
        match how {
            Ok(how) => self.amounts.open(how, opening, self.since),
            Err(why) => {
                let amount = &opening.total;
                self.problem = Some(format!("it goes on from an opening balance of {amount}, but {why}"));
            }
        }
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
    let line = |exact: &Exact, used: Option<Decimal>| Line {
        exact: exact.to_string(),
        used: used.map(two_decimals),
        posted: used.map(two_decimals),
        problem: problem.clone(),
        held: None,
        held_words: None,
    };
    let mut lines = vec![(String::new(), line(&amounts.total, posted.as_ref().map(|posted| posted.total)))];
    lines.extend(amounts.users.iter().map(|(user, exact)| {
        let share = posted.as_ref().and_then(|posted| posted.users.get(user).copied());
        (user.clone(), line(exact, share))
    }));
    lines
}

/// Adds what was carried to the month, and takes away what was carried out of it: from its last part first, and what went
/// to a part of the same month from those before.
fn apply(moved: &Moved, lines: &mut Lines) {
    for (user, to) in &moved.to {
        for (part, cents) in to {
            lines.entry((*part, String::new())).or_insert_with(Line::zero);
            let line = lines.entry((*part, user.clone())).or_insert_with(Line::zero);
            shift(line, *cents);
        }
    }
    let out = moved.from.iter().flat_map(|(user, from)| from.iter().map(move |one| (user, one)));
    for (user, &(before, mut rest)) in out {
        let of_user = lines.keys().filter(|(part, of)| of == user && *part < before);
        let parts: Vec<i64> = of_user.map(|(part, _)| *part).rev().collect();
        for part in parts {
            let Some(line) = lines.get_mut(&(part, user.clone())) else { continue };
            let Some(posted) = decimal(line.posted.clone()) else { continue };
            let taken = if rest > 0 { rest.min(to_cents(posted).max(0)) } else { rest };
            shift(line, -taken);
            rest -= taken;
        }
    }
    for line in lines.values_mut() {
        let negative = decimal(line.posted.clone()).is_some_and(|posted| posted.is_sign_negative());
        if negative {
            line.posted = Some("0.00".to_owned());
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

fn shift(line: &mut Line, cents: i64) {
    if let Some(posted) = decimal(line.posted.clone()) {
        line.posted = Some(two_decimals(posted.saturating_add(from_cents(cents))));
    }
}
