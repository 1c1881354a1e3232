//! Differences of months that are over: what was used by the rules of a month, less what was accepted from us, in posted
//! cents (law 7). Carried forward, one is a row for both months: taken away in the part of the one that it was used in, added
//! in the other.
//!
//! It is worked out anew while the month that it goes to runs, and fixed when that ends. In that month never less than
//! nothing is posted, for the total and each user; what does not fit stays where it was. Whether anything is carried at all,
//! the submitter says.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::record::{Known, Scope, StatementKey, key, known};
use crate::ledger::books::adjustment::part_of;
use crate::ledger::books::cuts::plans;
use crate::ledger::books::sourced_meters::{SourcedMeter, meters_of};
use crate::ledger::books::statements::state_all;
use crate::ledger::books::unstated::changed_components;
use crate::ledger::db::columns::{decimal, decimal_column, instant, micros, period_column, two_decimals};
use crate::ledger::db::event::{About, EventKind, tell, tell_if_new};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::adjustment::{by_part, can_be_carried, fit};
use crate::metering::period::BillingPeriod;

/// What is carried out of a component's month, and was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    pub resource: Uuid,
    pub from: BillingPeriod,
    pub component: String,
    pub before: Decimal,
    pub after: Decimal,
}

/// A difference that was moved between months, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub component: String,
    /// '' is the total.
    pub user: String,
    pub from: BillingPeriod,
    /// `None`: a person gave it up.
    pub to: Option<BillingPeriod>,
    pub amount: Decimal,
    pub recorded: Timestamp,
}

/// The reasons of what was left over when its month ended, of what the server refused after that, of what only the closing
/// itself left, and of what can't be changed any more where it was reported, because its plan period has ended
/// (submitter/reason.rs).
const LEFT_OVER: [&str; 5] = ["period_ended", "late_refused", "closing_rest", "late_share", PLAN_ENDED];
const PLAN_ENDED: &str = "plan_ended";

/// What is told of a month that gave away more than it has.
const CARRIED_TOO_MUCH: &str = "of it was carried to other months than its readings make by now";

impl Ledger {
    /// What was moved from or to a resource's month.
    pub fn moved(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Moved>, LedgerError> {
        let rows: Vec<Moved> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT component, username, from_period, to_period, amount, recorded FROM moved
                     WHERE resource = ?1 AND (from_period = ?2 OR to_period = ?2)
                     ORDER BY component, from_period, to_period, username",
                )?
                .query_map(params![resource.to_string(), period.to_string()], |row| {
                    Ok(Moved {
                        component: row.get(0)?,
                        user: row.get(1)?,
                        from: period_column(row, 2)?,
                        to: row.get::<_, String>(3)?.parse().ok(),
                        amount: decimal_column(row, 4)?,
                        recorded: instant(row.get(5)?),
                    })
                })?
                .collect()
        })?;
        // Of the parts of a month together.
        let mut moved: Vec<Moved> = Vec::new();
        for row in rows {
            let of = |one: &Moved| (one.component.clone(), one.user.clone(), one.from, one.to);
            match moved.last_mut().filter(|last| of(last) == of(&row)) {
                Some(last) => {
                    last.amount += row.amount;
                    last.recorded = last.recorded.max(row.recorded);
                }
                None => moved.push(row),
            }
        }
        moved.retain(|moved| !moved.amount.is_zero());
        Ok(moved)
    }

    /// The parts of a month of which something was moved to a later one.
    pub fn moved_within(&self, period: BillingPeriod) -> Result<Vec<StatementKey>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT resource, from_period, from_part FROM moved WHERE to_period = ?1 AND from_period = ?1",
                )?
                .query_map([period.to_string()], |row| key(row, 0))?
                .collect()
        })
    }

    /// Works out anew what is carried from months that are over to the part of the running month that holds `to`. With
    /// `new` unset, only what is carried already changes. Returns what changed, and keeps it if `write` is set.
    pub fn carry_forward(
        &mut self,
        to: Timestamp,
        how: (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.carry_forward_but(&BTreeSet::new(), to, how, now)
    }

    /// The same of all resources but these.
    pub fn carry_forward_but(
        &mut self,
        but: &BTreeSet<Uuid>,
        to: Timestamp,
        (new, write): (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.state(now)?;
        self.transact(|connection, in_force| {
            let mut changes = Vec::new();
            let mut candidates = candidates(connection, in_force.zone.period_of(to))?;
            candidates.retain(|(resource, _)| !but.contains(resource));
            let mut settled = BTreeSet::new();
            // What is taken back is taken last, from all that there is then; so the same facts always give the same rows.
            for turn in Turn::ALL {
                for &(resource, from) in &candidates {
                    let only_ours = false;
                    let carrying = Carrying { connection, in_force, resource, from, to, only_ours, turn };
                    changes.extend(carrying.work_out(&mut settled, (new, write), now)?);
                }
            }
            if write && !changes.is_empty() {
                state_all(connection, in_force, now)?;
            }
            Ok(changes)
        })
    }

    /// Moves what the parts of a month before this one came to since they were reported to this one, which a later plan
    /// period begins; with `new` unset, what is moved already, and what Waldur holds too much of. Returns what changed, and
    /// keeps it if `write` is set.
    pub fn move_to_later_part(
        &mut self,
        key: StatementKey,
        later: Timestamp,
        (new, write): (bool, bool),
        now: Timestamp,
    ) -> Result<Vec<Carried>, LedgerError> {
        self.state(now)?;
        self.transact(|connection, in_force| {
            let mut changes = Vec::new();
            for turn in Turn::ALL {
                let (resource, from) = (key.resource, key.period);
                let (to, only_ours) = (later, !new);
                let carrying = Carrying { connection, in_force, resource, from, to, only_ours, turn };
                let how = (new || turn == Turn::TakenBack, write);
                changes.extend(carrying.work_out(&mut Settled::new(), how, now)?);
            }
            if write && !changes.is_empty() {
                state_all(connection, in_force, now)?;
            }
            Ok(changes)
        })
    }
}

/// Months that are over and of which something is left over, or was carried: what has become too much since is taken back,
/// as soon as there is something that it can be taken from.
fn candidates(connection: &Connection, running: BillingPeriod) -> sql::Result<Vec<(Uuid, BillingPeriod)>> {
    let month = running.to_string();
    let mut found: Vec<(Uuid, BillingPeriod)> = connection
        .prepare_cached(
            "SELECT resource, from_period FROM moved WHERE from_period < ?1 AND to_period <> ''
             UNION SELECT resource, period FROM blocked WHERE period < ?1 AND reason IN (?2, ?3, ?4, ?5, ?6)
             UNION SELECT resource, period FROM statement WHERE period < ?1 AND closed IS NULL
                AND EXISTS (SELECT 1 FROM line WHERE line.resource = statement.resource
                    AND line.period = statement.period AND line.part = statement.part)",
        )?
        .query_map(
            params![month, LEFT_OVER[0], LEFT_OVER[1], LEFT_OVER[2], LEFT_OVER[3], LEFT_OVER[4]],
            |row| {
                let resource: String = row.get(0)?;
                Ok((Uuid::parse_str(&resource).unwrap_or_default(), period_column(row, 1)?))
            },
        )?
        .collect::<sql::Result<_>>()?;
    // In order here: asked for in order, all that was ever stated would be gone through.
    found.sort_unstable();
    Ok(found)
}

/// By user; '' is the total.
type Amounts = BTreeMap<String, Decimal>;
/// By part of the month and user.
type Parts = BTreeMap<(i64, String), Decimal>;

fn by_user(parts: &Parts) -> Amounts {
    let mut amounts = Amounts::new();
    for ((_, user), amount) in parts {
        *amounts.entry(user.clone()).or_default() += amount;
    }
    amounts
}

fn total(parts: &Parts) -> Decimal {
    parts.iter().filter(|((_, user), _)| user.is_empty()).map(|(_, amount)| amount).sum()
}

/// A month of a resource that is over, and the instant of the month that its differences go to: one of the running month, or
/// where a later plan period began in the same month.
struct Carrying<'a> {
    connection: &'a Connection,
    in_force: &'a InForce,
    resource: Uuid,
    from: BillingPeriod,
    to: Timestamp,
    /// Whether a component stays where it is of which something was read of another writer, or adopted.
    only_ours: bool,
    turn: Turn,
}

/// In which turn a difference is worked out: what adds to the total comes first, because shares go as far as there is a total.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Added,
    /// Shares of users came to something else, and the total did not come to less than was accepted.
    Shifted,
    /// The total came to less than was accepted.
    TakenBack,
}

impl Turn {
    const ALL: [Turn; 3] = [Turn::Added, Turn::Shifted, Turn::TakenBack];

    fn of(rest: &Parts) -> Turn {
        let (total, users) = (total(rest), by_user(rest));
        match total < Decimal::ZERO {
            true => Turn::TakenBack,
            false if total.is_zero() || users.values().any(|amount| *amount < Decimal::ZERO) => Turn::Shifted,
            false => Turn::Added,
        }
    }
}

/// What was worked out already: its rows are part of what there is in the month that they go to. Those of the others are
/// made anew after it.
type Settled = BTreeSet<(Uuid, BillingPeriod, String)>;

impl Carrying<'_> {
    fn work_out(
        &self,
        settled: &mut Settled,
        (new, write): (bool, bool),
        now: Timestamp,
    ) -> sql::Result<Vec<Carried>> {
        let (connection, resource) = (self.connection, self.resource.to_string());
        let mut changes = Vec::new();
        if self.was_compared()? {
            return Ok(changes);
        }
        let terminated = self.is_terminated()?;
        let target = self.in_force.zone.period_of(self.to);
        let within = self.is_within();
        let used = self.used(self.from, self.parts())?;
        let (held, disputed) = self.held()?;
        let timeline = plans(connection, &self.in_force.zone, &resource)?;
        let running = part_of(&timeline, target, self.to);
        let first = part_of(&timeline, target, self.in_force.zone.start(target));
        // Of what was carried before, nothing may be left in the month at all.
        let mut components: BTreeSet<String> = used.keys().cloned().collect();
        components.extend(self.carried_before()?);
        let mut places = Vec::new();
        for component in &components {
            let parts = self.parts_to(component, target, (first, running))?;
            places.extend(parts.into_iter().map(|part| (component, part)));
        }
        for (component, part) in places {
            let makers = meters_of(connection, self.in_force.in_month(self.from), component)?;
            let makers = makers.of(connection, &resource)?;
            if !self.was_measured(&makers)?
                || disputed.contains(component)
                || (!within && !can_be_carried(makers.iter().map(|maker| maker.measure)))
            {
                continue;
            }
            let there = self.used(target, part..=part)?;
            let (mut fixed, mut before, mut others) = (Parts::new(), Parts::new(), Amounts::new());
            self.moved_rows(settled, component, (target, part), (&mut fixed, &mut before, &mut others))?;
            let none = Parts::new();
            let held = held.get(component).unwrap_or(&none);
            let used_of = used.get(component).cloned().unwrap_or_default();
            let mut rest = used_of.clone();
            for (of, amount) in held.iter().chain(&fixed) {
                *rest.entry(of.clone()).or_default() -= amount;
            }
            if self.turn != Turn::of(&rest) {
                continue;
            }
            if terminated {
                // What was carried stays, and nothing more is.
                self.tell_of_too_much(component, total(&fixed) + total(&before) - total(&used_of), now)?;
                continue;
            }
            // What there is in the month that it goes to, by the total and each user: no more can be taken away.
            let mut room = there.get(component).map(by_user).unwrap_or_default();
            for (user, amount) in others {
                *room.entry(user).or_default() += amount;
            }
            let after = by_part(&fit(&by_user(&rest), &room), &rest);
            self.tell_of_too_much(component, total(&fixed) + total(&after) - total(&used_of), now)?;
            settled.insert((self.resource, self.from, component.clone()));
            if after == before || (before.is_empty() && !new) {
                continue;
            }
            let change = Carried {
                resource: self.resource,
                from: self.from,
                component: component.clone(),
                before: total(&before),
                after: total(&after),
            };
            if write {
                self.write(component, (target, part), &after, now)?;
                let about = About { resource: &resource, period: &self.from.to_string(), component };
                let whereto = if within {
                    format!("reported under the plan period that began at {}", self.to)
                } else {
                    format!("carried forward to {target}")
                };
                let words = format!("{:.2} of it is {whereto} (before: {:.2})", change.after, change.before);
                tell(connection, about, EventKind::Moved, &words, now)?;
            }
            changes.push(change);
        }
        Ok(changes)
    }

    /// More was carried out of a month than its readings make by now, and there is nothing that it could be taken back from:
    /// it is billed too much. Its line shows nothing of that, because less than nothing is never posted; so it is told, once.
    fn tell_of_too_much(&self, component: &str, amount: Decimal, now: Timestamp) -> sql::Result<()> {
        let (resource, period) = (self.resource.to_string(), self.from.to_string());
        if amount <= Decimal::ZERO || self.is_within() {
            return Ok(());
        }
        let words = format!(
            "{amount:.2} more {CARRIED_TOO_MUCH}; it is taken back where there is something that it can be taken from"
        );
        let about = About { resource: &resource, period: &period, component };
        tell_if_new(self.connection, about, (EventKind::Moved, CARRIED_TOO_MUCH), &words, now)
    }

    /// The parts of the month that a difference goes to. It was used under the plan that the month began with, and is billed by
    /// it as long as that was not reported: what has ended can't be reported again. What is taken back, and is more than there
    /// is under that, is taken from what there is under the plan that runs.
    fn parts_to(
        &self,
        component: &str,
        target: BillingPeriod,
        (first, running): (i64, i64),
    ) -> sql::Result<Vec<i64>> {
        if self.is_within() {
            return Ok(vec![micros(self.to)]);
        }
        if first == running {
            return Ok(vec![first]);
        }
        let key = StatementKey { resource: self.resource, period: target, part: instant(first) };
        let known = known(self.connection, key, Scope::Totals)?;
        let total = known.get(&(component.to_owned(), String::new()));
        Ok(match total.is_some_and(|total| total.acknowledged.is_some()) {
            true => vec![running],
            false if self.turn == Turn::TakenBack => vec![first, running],
            false => vec![first],
        })
    }

    /// Whether it stays in its month, and only goes to a later part.
    fn is_within(&self) -> bool {
        self.in_force.zone.period_of(self.to) == self.from
    }

    /// The parts of the month that the difference is of.
    fn parts(&self) -> RangeInclusive<i64> {
        i64::MIN..=if self.is_within() { micros(self.to) - 1 } else { i64::MAX }
    }

    /// Components of which something was moved out of the month.
    fn carried_before(&self) -> sql::Result<Vec<String>> {
        self.connection
            .prepare_cached("SELECT DISTINCT component FROM moved WHERE resource = ?1 AND from_period = ?2")?
            .query_map([self.resource.to_string(), self.from.to_string()], |row| row.get(0))?
            .collect()
    }

    /// Whether this ledger was there only to compare while the month ran: then it was another's to report.
    fn was_compared(&self) -> sql::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM shadow WHERE period = ?1")?
            .exists([self.from.to_string()])
    }

    /// Whether one of the hosts on which this was measured ran the collector while the month ran: only then it was this
    /// ledger's to report.
    fn was_measured(&self, makers: &[SourcedMeter<'_>]) -> sql::Result<bool> {
        let mut query = self.connection.prepare_cached(
            "SELECT 1 FROM run WHERE collector = ?1 AND finished < ?2 AND agent IN (
                SELECT series.agent FROM placed JOIN series ON series.id = placed.series
                WHERE placed.source = ?3 AND placed.target IN (SELECT target FROM target_resource WHERE resource = ?4))
             LIMIT 1",
        )?;
        let (end, resource) = (micros(self.in_force.zone.end(self.from)), self.resource.to_string());
        for maker in makers {
            if query.exists(params![maker.rules.collector, end, maker.source, resource])? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_terminated(&self) -> sql::Result<bool> {
        let state: Option<String> = self
            .connection
            .prepare_cached("SELECT state FROM resource WHERE uuid = ?")?
            .query_row([self.resource.to_string()], |row| row.get(0))
            .optional()?;
        Ok(state.is_some_and(|state| state == "Terminated"))
    }

    /// What was used in some parts of a month, as it is posted, by component.
    fn used(
        &self,
        period: BillingPeriod,
        parts: RangeInclusive<i64>,
    ) -> sql::Result<BTreeMap<String, Parts>> {
        let mut found: BTreeMap<String, Parts> = BTreeMap::new();
        let mut query = self.connection.prepare_cached(
            "SELECT component, part, username, used FROM line
             WHERE resource = ?1 AND period = ?2 AND part BETWEEN ?3 AND ?4",
        )?;
        let (resource, period) = (self.resource.to_string(), period.to_string());
        let mut rows = query.query(params![resource, period, parts.start(), parts.end()])?;
        while let Some(row) = rows.next()? {
            let Some(amount) = decimal(row.get(3)?) else { continue };
            found.entry(row.get(0)?).or_default().insert((row.get(1)?, row.get(2)?), amount);
        }
        Ok(found)
    }

    /// What was accepted from us in the month, and the components of which that is disputed or not known.
    fn held(&self) -> sql::Result<(BTreeMap<String, Parts>, Vec<String>)> {
        let mut held: BTreeMap<String, Parts> = BTreeMap::new();
        let mut disputed = Vec::new();
        let mut read: BTreeSet<(String, i64)> = BTreeSet::new();
        let keys: Vec<StatementKey> = self
            .connection
            .prepare_cached(
                "SELECT resource, period, part FROM statement WHERE resource = ?1 AND period = ?2",
            )?
            .query_map([self.resource.to_string(), self.from.to_string()], |row| key(row, 0))?
            .collect::<sql::Result<_>>()?;
        let parts = self.parts();
        for key in keys.into_iter().filter(|key| parts.contains(&micros(key.part))) {
            for ((component, user), of_line) in known(self.connection, key, Scope::Whole)? {
                if user.is_empty() && !of_line.open.is_empty() {
                    disputed.push(component.clone());
                }
                if user.is_empty() && of_line.acknowledged.as_ref().is_some_and(|known| known.how == "read") {
                    read.insert((component.clone(), micros(key.part)));
                }
                held.entry(component).or_default().insert((micros(key.part), user), Known::held(&of_line));
            }
        }
        let mut query = self.connection.prepare_cached(
            "SELECT component, reason, part FROM blocked WHERE resource = ?1 AND period = ?2 AND username = ''
             UNION ALL SELECT component, held, part FROM line WHERE resource = ?1 AND period = ?2 AND held IS NOT NULL
             UNION ALL SELECT component, '', part FROM line WHERE resource = ?1 AND period = ?2 AND problem IS NOT NULL",
        )?;
        let mut rows = query.query([self.resource.to_string(), self.from.to_string()])?;
        while let Some(row) = rows.next()? {
            let reason = row.get_ref(1)?.as_str()?;
            // What another writer put there while its plan ended is told, and never made up for (law 7).
            let is_anothers = reason == PLAN_ENDED && read.contains(&(row.get(0)?, row.get(2)?));
            if LEFT_OVER.contains(&reason) && !is_anothers {
                continue;
            }
            match row.get_ref(0)?.as_str()? {
                "" => disputed.extend(held.keys().cloned()),
                component => disputed.push(component.to_owned()),
            }
        }
        if self.only_ours {
            disputed.extend(read.into_iter().map(|(component, _)| component));
        }
        Ok((held, disputed))
    }

    /// What was moved out of the month elsewhere, less what was moved into it (`fixed`), what of it goes to the running part
    /// now (`before`), and what others carry there (`others`): of other months only those that were worked out already.
    fn moved_rows(
        &self,
        settled: &Settled,
        component: &str,
        (target, part): (BillingPeriod, i64),
        (fixed, before, others): (&mut Parts, &mut Parts, &mut Amounts),
    ) -> sql::Result<()> {
        let timeline = plans(self.connection, &self.in_force.zone, &self.resource.to_string())?;
        let (from, to) = (self.from.to_string(), target.to_string());
        let mut query = self.connection.prepare_cached(
            "SELECT username, from_period, from_part, to_period, to_part, amount FROM moved
             WHERE resource = ?1 AND component = ?2 AND (from_period = ?3 OR to_period IN (?3, ?4))",
        )?;
        let mut rows = query.query(params![self.resource.to_string(), component, from, to])?;
        while let Some(row) = rows.next()? {
            let (user, amount): (String, Decimal) = (row.get(0)?, decimal_column(&row, 5)?);
            let (from_part, to_part): (i64, i64) = (row.get(2)?, row.get(4)?);
            let (own, into) = (row.get_ref(1)?.as_str()? == from, row.get_ref(3)?.as_str()? == from);
            let here = row.get_ref(3)?.as_str()? == to && to_part == part;
            if own && self.parts().contains(&from_part) {
                let rows = if here { &mut *before } else { &mut *fixed };
                *rows.entry((from_part, user.clone())).or_default() += amount;
            }
            if into && !here {
                // It was moved into the part, and so is of what was accepted there, but was not used in it.
                let part = if own { to_part } else { part_of(&timeline, self.from, instant(to_part)) };
                if self.parts().contains(&part) {
                    *fixed.entry((part, user)).or_default() -= amount;
                }
            } else if here && !own {
                let month = period_column(&row, 1)?;
                let counts = self.is_within() || month == target;
                if counts || settled.contains(&(self.resource, month, component.to_owned())) {
                    *others.entry(user).or_default() += amount;
                }
            }
        }
        Ok(())
    }

    fn write(
        &self,
        component: &str,
        (target, part): (BillingPeriod, i64),
        after: &Parts,
        now: Timestamp,
    ) -> sql::Result<()> {
        let (resource, from, to) = (self.resource.to_string(), self.from.to_string(), target.to_string());
        self.connection.execute(
            "DELETE FROM moved WHERE resource = ?1 AND component = ?2 AND from_period = ?3 AND to_period = ?4 AND to_part = ?5",
            params![resource, component, from, to, part],
        )?;
        for ((from_part, user), amount) in after {
            self.connection
                .prepare_cached(
                    "INSERT INTO moved (resource, component, username, from_period, from_part, to_period, to_part, amount,
                                        recorded)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    resource,
                    component,
                    user,
                    from,
                    from_part,
                    to,
                    part,
                    two_decimals(*amount),
                    micros(now)
                ])?;
        }
        // What was closed as it was left over is looked at again with what is left now.
        self.connection.execute(
            "UPDATE statement SET closed = NULL WHERE resource = ?1 AND period = ?2 AND closed IS NOT NULL AND EXISTS (
                SELECT 1 FROM blocked WHERE blocked.resource = statement.resource AND blocked.period = statement.period
                AND blocked.part = statement.part AND component = ?3 AND state = 'stranded')",
            params![resource, from, component],
        )?;
        for reason in LEFT_OVER {
            self.connection.execute(
                "DELETE FROM blocked WHERE resource = ?1 AND period = ?2 AND component = ?3 AND reason = ?4",
                params![resource, from, component, reason],
            )?;
        }
        let places = [from, to].map(|period| (resource.clone(), period, component.to_owned()));
        changed_components(self.connection, places.into_iter().collect())?;
        Ok(())
    }
}
