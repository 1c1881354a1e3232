//! Works out what is carried out of one month of a resource, by component, part and user (law 7).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Carried, LEFT_OVER, PLAN_ENDED};
use crate::ledger::books::adjustment::part_of;
use crate::ledger::books::cuts::plans;
use crate::ledger::books::sourced_meters::{SourcedMeter, meters_of};
use crate::ledger::books::unstated::changed_components;
use crate::ledger::db::columns::{decimal, decimal_column, instant, micros, period_column, two_decimals};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::sent::amount::{StatementKey, key};
use crate::ledger::sent::known::{Known, Scope, known};
use crate::metering::adjustment::{by_part, can_be_carried, fit};
use crate::metering::period::BillingPeriod;

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
pub(super) struct Carrying<'a> {
    pub(super) connection: &'a Connection,
    pub(super) in_force: &'a InForce,
    pub(super) resource: Uuid,
    pub(super) from: BillingPeriod,
    pub(super) to: Timestamp,
    /// Whether a component stays where it is of which something was read of another writer, or adopted.
    pub(super) only_ours: bool,
    pub(super) turn: Turn,
}

/// In which turn a difference is worked out: what adds to the total comes first, because shares go as far as there is a total.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Added,
    /// Shares of users came to something else, and the total did not come to less than was accepted.
    Shifted,
    /// The total came to less than was accepted.
    TakenBack,
}

impl Turn {
    pub(super) const ALL: [Turn; 3] = [Turn::Added, Turn::Shifted, Turn::TakenBack];

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
pub(super) type Settled = BTreeSet<(Uuid, BillingPeriod, String)>;

impl Carrying<'_> {
    pub(super) fn work_out(
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
            let mut rest = used.get(component).cloned().unwrap_or_default();
            for (of, amount) in held.iter().chain(&fixed) {
                *rest.entry(of.clone()).or_default() -= amount;
            }
            if self.turn != Turn::of(&rest) {
                continue;
            }
            // What was carried stays, and nothing more is.
            if terminated {
                continue;
            }
            // What there is in the month that it goes to, by the total and each user: no more can be taken away.
            let mut room = there.get(component).map(by_user).unwrap_or_default();
            for (user, amount) in others {
                *room.entry(user).or_default() += amount;
            }
            let after = by_part(&fit(&by_user(&rest), &room), &rest);
            settled.insert((self.resource, self.from, component.clone()));
            // What was carried may become less, and nothing more is carried.
            let is_more = before.is_empty() || total(&after) > total(&before);
            if after == before || (is_more && !new) {
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
        let since: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT min(since) FROM moved WHERE resource = ?1 AND component = ?2 AND from_period = ?3 AND to_period = ?4
                 AND to_part = ?5",
            )?
            .query_row(params![resource, component, from, to, part], |row| row.get(0))?;
        let since = since.unwrap_or(micros(now));
        self.connection.execute(
            "DELETE FROM moved WHERE resource = ?1 AND component = ?2 AND from_period = ?3 AND to_period = ?4 AND to_part = ?5",
            params![resource, component, from, to, part],
        )?;
        for ((from_part, user), amount) in after {
            self.connection
                .prepare_cached(
                    "INSERT INTO moved (resource, component, username, from_period, from_part, to_period, to_part, amount,
                                        recorded, since)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
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
                    micros(now),
                    since
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
