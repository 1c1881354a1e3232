//! What meters make of quantities: the exact amounts of many components at once, by part of their month. It rounds nothing,
//! and knows no statement.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::adjustment::Openings;
use super::cuts::Timelines;
use super::lines::Place;
use super::quantities::counted;
use super::sourced_meters::{SourcedMeter, SourcedMeters};
use super::targets;
use crate::ledger::db::columns::{instant, micros, period_column};
use crate::ledger::db::rules::{InForce, Version};
use crate::ledger::db::sql::{self, Connection, ToSql};
use crate::metering::adjustment::{Onward, Shares, can_be_carried, onward};
use crate::metering::exact::{Exact, Rounding};
use crate::metering::measure::{Measure, Quantity};
use crate::metering::period::{BillingPeriod, Timeline};
use crate::metering::statement::Amounts;

/// A component of a resource's month, and what makes it.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) place: Place<'a>,
    pub(super) month: BillingPeriod,
    pub(super) version: &'a Version,
    pub(super) makers: &'a SourcedMeters<'a>,
    pub(super) timeline: &'a Timeline,
}

/// Its amounts, by the part of the month.
pub(super) type Parts = BTreeMap<i64, Made>;

/// The exact amounts of each of these, in their order; `openings`: their opening balances.
pub(super) fn made(
    connection: &Connection,
    in_force: &InForce,
    wanted: &[Wanted<'_>],
    openings: &[Openings],
) -> sql::Result<Vec<Parts>> {
    let mut timelines = Timelines::new(connection, in_force);
    let mut all: Vec<Parts> = wanted.iter().map(|_| Parts::new()).collect();
    let mut weighed = Weighing { wanted, openings, timelines: &mut timelines, found: Vec::new() };
    weighed.look_up(connection, &mut all)?;
    let Weighing { mut found, .. } = weighed;
    // Quantities of one series in one part are put together first, in order: a mean is of all its time.
    found.sort_unstable_by_key(|found| (found.of, found.part, found.series, found.segment, found.month));
    let mut found = found.into_iter().peekable();
    while let Some(mut one) = found.next() {
        let same = |next: &Found| (next.of, next.part, next.series) == (one.of, one.part, one.series);
        while let Some(next) = found.next_if(same) {
            one.quantity.absorb(next.quantity);
        }
        let (of, maker) = one.of;
        let (Some(wanted), Some(parts)) = (wanted.get(of), all.get_mut(of)) else { continue };
        let Some(maker) = wanted.makers.meters.get(maker) else { continue };
        let Some(value) = one.quantity.value(maker.measure) else { continue };
        let mut amount = value * maker.meter.factor.clone();
        if let Some(weight) = one.weight {
            amount = amount * weight;
        }
        // A level or a mean is of the whole month: under each plan, and while the target was this resource, it counts for
        // that share of it.
        if !can_be_carried([maker.measure]) {
            let zone = wanted.timeline.zone();
            let (start, end) = (zone.start(wanted.month), zone.end(wanted.month));
            let month = i128::from(micros(end)) - i128::from(micros(start));
            let segment = wanted.timeline.segment_at(instant(one.part));
            let mappings = timelines.mappings(one.target)?;
            let time = targets::time_as(&mappings, wanted.place.resource, (segment.start, segment.end));
            if time < month {
                amount = amount * Exact::ratio(time, month).unwrap_or_else(Exact::one);
            }
        }
        let made = parts.entry(one.part).or_insert_with(Made::nothing);
        made.is_made_by(one.of.1, maker.meter.rounding);
        let amounts = &mut made.amounts;
        amounts.total += amount.clone();
        amounts.additive &= maker.measure.adds_up();
        if let Some(user) = one.user {
            *amounts.users.entry(user).or_insert_with(Exact::zero) += amount;
        }
    }
    for ((wanted, openings), parts) in wanted.iter().zip(openings).zip(&mut all) {
        if openings.is_empty() {
            continue;
        }
        let makers = wanted.makers.of(connection, wanted.place.resource)?;
        let rounding = makers.first().map_or_else(Rounding::default, |maker| maker.meter.rounding);
        for (part, (_, opening)) in openings {
            let made = parts.entry(*part).or_insert_with(Made::nothing);
            made.is_made_by(usize::MAX, rounding);
            made.open(&makers, opening);
        }
    }
    Ok(all)
}

/// What a series has in a segment, and what it counts there.
struct Found {
    /// Which of those that are wanted, and which of its meters.
    of: (usize, usize),
    part: i64,
    series: i64,
    segment: i64,
    /// Of the readings.
    month: BillingPeriod,
    target: i64,
    user: Option<String>,
    /// `None`: it counts as it is.
    weight: Option<Exact>,
    quantity: Quantity,
}

/// Quantities as they are found, until all are.
struct Weighing<'w, 'a> {
    wanted: &'w [Wanted<'w>],
    openings: &'w [Openings],
    timelines: &'w mut Timelines<'a>,
    found: Vec<Found>,
}

impl Weighing<'_, '_> {
    /// Looks up all quantities that enter these amounts. What is measured after an opening balance is noted in `parts`.
    fn look_up(&mut self, connection: &Connection, parts: &mut [Parts]) -> sql::Result<()> {
        struct Asked<'w> {
            number: i64,
            target: i64,
            /// The first and the last name of what it counts.
            measures: (Cow<'static, str>, Cow<'static, str>),
            weighs: bool,
            /// Where it may be that some hosts were first read after the month: when it ended.
            end: i64,
            maker: &'w SourcedMeter<'w>,
            wanted: &'w Wanted<'w>,
        }
        let targets = targets_of(connection, self.wanted)?;
        self.timelines.look_up_mappings(targets.values().flatten().copied().collect())?;
        let (mut asked, mut makers) = (Vec::new(), Vec::new());
        for (place, wanted) in self.wanted.iter().enumerate() {
            let end = wanted.timeline.zone().end(wanted.month);
            let end = if wanted.makers.some_began_after(end) { micros(end) } else { i64::MAX };
            let targets = targets.get(wanted.place.resource).map(Vec::as_slice).unwrap_or_default();
            for (maker_number, maker) in wanted.makers.meters.iter().enumerate() {
                let weighs = !maker.meter.weighing.is_even();
                let name = || (maker.measure.name(), maker.measure.name());
                let measures = if weighs { maker.measure.names_by_weight() } else { name() };
                let number = i64::try_from(makers.len()).unwrap_or(i64::MAX);
                makers.push((place, maker_number));
                for &target in targets {
                    asked.push(Asked {
                        number,
                        target,
                        measures: measures.clone(),
                        weighs,
                        end,
                        maker,
                        wanted,
                    });
                }
            }
        }
        let (looked_into, plain): (Vec<&Asked<'_>>, Vec<&Asked<'_>>) =
            asked.iter().partition(|asked| asked.weighs || asked.end < i64::MAX);
        let rows: Vec<[&dyn ToSql; 6]> = plain
            .iter()
            .map(|asked| {
                let Asked { number, target, measures: (measure, _), maker, wanted, .. } = asked;
                [
                    number as &dyn ToSql,
                    target,
                    &wanted.version.id,
                    &maker.source,
                    measure,
                    &wanted.place.period,
                ]
            })
            .collect();
        connection.query_rows(
            "SELECT v.column1, placed.series, placed.username, placed.target, quantity.segment, quantity.month,
                    quantity.sum, quantity.max, quantity.last, quantity.covered
             FROM (VALUES {rows}) v CROSS JOIN placed CROSS JOIN quantity
             WHERE placed.target = v.column2 AND placed.rules = v.column3 AND placed.source = v.column4
               AND quantity.series = placed.series AND quantity.measure = v.column5 AND quantity.period = v.column6",
            &rows,
            |row| self.take(row, None, &makers, parts),
        )?;
        let rows: Vec<[&dyn ToSql; 10]> = looked_into
            .iter()
            .map(|asked| {
                let Asked { number, target, measures: (first, last), weighs, end, maker, wanted } = asked;
                let (version, period, collector) =
                    (&wanted.version.id, &wanted.place.period, &maker.rules.collector);
                [
                    number as &dyn ToSql,
                    target,
                    version,
                    &maker.source,
                    first,
                    period,
                    weighs,
                    collector,
                    end,
                    last,
                ]
            })
            .collect();
        connection.query_rows(
            "SELECT v.column1, placed.series, placed.username, placed.target, quantity.segment, quantity.month,
                    quantity.sum, quantity.max, quantity.last, quantity.covered,
                    CASE WHEN v.column7 = 1 THEN series.labels END, quantity.measure
             FROM (VALUES {rows}) v CROSS JOIN placed CROSS JOIN series CROSS JOIN quantity
             WHERE placed.target = v.column2 AND placed.rules = v.column3 AND placed.source = v.column4
               AND series.id = placed.series
               AND quantity.series = placed.series AND quantity.measure BETWEEN v.column5 AND v.column10
               AND quantity.period = v.column6
               -- What a host read later reaches back to is a part of what was used there: the whole is another's to report.
               AND NOT EXISTS (SELECT 1 FROM collector WHERE collector.name = v.column8
                    AND collector.agent = series.agent AND collector.since >= v.column9)",
            &rows,
            |row| {
                let labels = row.get_ref(10)?.as_str_or_null()?.map(|labels| (labels, 11));
                self.take(row, labels, &makers, parts)
            },
        )
    }

    /// Takes a quantity, unless it is of another resource, or counts nothing; `labels`: where its meter weighs by them, with
    /// the column of what was counted, which the weight decides, too.
    fn take(
        &mut self,
        row: &sql::Row<'_>,
        labels: Option<(&str, usize)>,
        makers: &[(usize, usize)],
        parts: &mut [Parts],
    ) -> sql::Result<()> {
        let number = usize::try_from(row.get::<_, i64>(0)?).ok();
        let Some(&of) = number.and_then(|number| makers.get(number)) else { return Ok(()) };
        let (Some(wanted), Some(openings)) = (self.wanted.get(of.0), self.openings.get(of.0)) else {
            return Ok(());
        };
        let (Some(maker), Some(parts)) = (wanted.makers.meters.get(of.1), parts.get_mut(of.0)) else {
            return Ok(());
        };
        let (target, segment): (i64, i64) = (row.get(3)?, row.get(4)?);
        let at = instant(segment);
        if targets::at(&self.timelines.mappings(target)?, at) != Some(wanted.place.resource) {
            return Ok(());
        }
        let weight = match labels {
            None => None,
            Some((labels, measure)) => {
                let labels = serde_json::from_str(labels).unwrap_or_default();
                let Some(weight) = maker.meter.weighing.weigh(&labels) else { return Ok(()) };
                if row.get_ref(measure)?.as_str()? != maker.measure.weighed(&weight).name() {
                    return Ok(()); // Another meter's, of the same readings.
                }
                Some(weight)
            }
        };
        let part = micros(wanted.timeline.segment_at(at).start);
        if let Some((opened, _)) = openings.get(&part) {
            if segment >= *opened {
                let made = parts.entry(part).or_insert_with(Made::nothing);
                made.is_made_by(of.1, maker.meter.rounding);
                made.since = true;
            } else if maker.measure != Measure::Level {
                return Ok(()); // It is in the opening balance.
            }
        }
        let (series, user, month) = (row.get(1)?, row.get(2)?, period_column(row, 5)?);
        let quantity = counted(row, 6)?;
        self.found.push(Found { of, part, series, segment, month, target, user, weight, quantity });
        Ok(())
    }
}

/// The targets that each of their resources was at some time.
fn targets_of(connection: &Connection, wanted: &[Wanted<'_>]) -> sql::Result<HashMap<String, Vec<i64>>> {
    let resources: BTreeSet<&str> = wanted.iter().map(|wanted| wanted.place.resource).collect();
    let rows: Vec<[&dyn ToSql; 1]> = resources.iter().map(|resource| [resource as &dyn ToSql]).collect();
    let mut targets: HashMap<String, Vec<i64>> = HashMap::new();
    connection.query_rows(
        "SELECT DISTINCT target_resource.resource, target_resource.target
         FROM (VALUES {rows}) v CROSS JOIN target_resource WHERE target_resource.resource = v.column1",
        &rows,
        |row| {
            targets.entry(row.get(0)?).or_default().push(row.get(1)?);
            Ok(())
        },
    )?;
    Ok(targets)
}

/// The exact amounts of a component in one part of the month.
pub(super) struct Made {
    pub(super) amounts: Amounts,
    /// The first of its meters that has anything here, by which it is rounded.
    by: Option<usize>,
    /// Whether something was measured after the opening balance.
    since: bool,
    /// Why they can't be put together with what was adopted.
    pub(super) problem: Option<String>,
}

impl Made {
    fn nothing() -> Made {
        let (total, users) = (Exact::zero(), BTreeMap::new());
        let amounts = Amounts { total, users, additive: true, rounding: Rounding::default() };
        Made { amounts, by: None, since: false, problem: None }
    }

    /// This one of its meters has something here: rows come in any order.
    fn is_made_by(&mut self, maker: usize, rounding: Rounding) {
        if self.by.is_none_or(|by| maker < by) {
            (self.by, self.amounts.rounding) = (Some(maker), rounding);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_rounded_by_the_first_of_its_meters_in_whatever_order_they_are_met() {
        let meters = [(0, Rounding::Up), (1, Rounding::HalfEven), (usize::MAX, Rounding::Down)];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut made = Made::nothing();
            for number in order {
                made.is_made_by(meters[number].0, meters[number].1);
            }
            assert_eq!(made.amounts.rounding, Rounding::Up);
        }
    }
}
