//! Tables that a person can add up: what a meter made of its series, by day and by series. Pure: parts in, rows out.

use std::collections::BTreeMap;

use jiff::civil::Date;

use crate::ledger::views::explain::{ReadingPart, SeriesPart};
use crate::metering::exact::Exact;
use crate::metering::measure::Measure;
use crate::metering::period::{BillingPeriod, BillingZone};

/// The series that one meter counts in the same way.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) parts: Vec<&'a SeriesPart>,
}

/// One line of a table.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) name: String,
    /// In the unit that the factor applies to, at the series' weights.
    pub(super) adds: Option<Exact>,
    pub(super) amount: Option<Exact>,
    pub(super) readings: usize,
    pub(super) notes: Vec<String>,
}

/// Series that are shown by themselves; what is less is put together.
const SHOWN: usize = 20;

pub(super) fn groups(parts: &[SeriesPart]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for part in parts {
        let same = |group: &&mut Group<'_>| {
            let first = group.parts[0];
            let of =
                |part: &'_ SeriesPart| (part.collector.clone(), part.reading.clone(), part.measure.clone());
            of(first) == of(part) && first.factor == part.factor && first.weighing == part.weighing
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.parts.push(part),
            None => groups.push(Group { parts: vec![part] }),
        }
    }
    groups
}

impl Group<'_> {
    pub(super) fn amount(&self) -> Exact {
        self.parts.iter().map(|part| part.amount.clone()).sum()
    }

    /// What the factor makes the amount of.
    pub(super) fn adds(&self) -> Exact {
        self.parts.iter().filter_map(|part| weighed(part, part.quantity.clone())).sum()
    }

    /// The unit of what is added: that of the readings, but for an integral, which is of levels over hours.
    pub(super) fn unit(&self) -> String {
        let unit = self.parts[0].unit.clone().unwrap_or_default();
        match self.parts[0].counting {
            Measure::Integral(..) if !unit.is_empty() => format!("{unit}*h"),
            _ => unit,
        }
    }

    /// Labels that all series have alike.
    pub(super) fn common(&self) -> Vec<String> {
        let labels = self.parts[0].labels.iter();
        let common = labels.filter(|(name, value)| {
            self.parts.iter().all(|part| part.labels.get(name.as_str()) == Some(value))
        });
        common.map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// By the day on which a reading ended; empty where what is counted can't be added up by days (a mean, a level).
    pub(super) fn days(&self, period: BillingPeriod, zone: &BillingZone) -> Vec<Line> {
        let scale = match self.parts[0].counting {
            Measure::Increase(_) | Measure::Sum(_) | Measure::Total(_) => Exact::one(),
            // Of unit-seconds.
            Measure::Integral(..) => Exact::ratio(1, 3600).unwrap_or_else(Exact::one),
            _ => return Vec::new(),
        };
        let mut days: BTreeMap<Date, (Exact, usize, Happened)> = BTreeMap::new();
        for part in &self.parts {
            for reading in &part.readings {
                let day = days.entry(zone.day_in(period, reading.at));
                let nothing = || (Exact::zero(), 0, Happened::default());
                let (adds, readings, happened) = day.or_insert_with(nothing);
                let added = reading.added.clone() * scale.clone();
                *adds += weighed(part, added).unwrap_or_else(Exact::zero);
                *readings += 1;
                happened.note(reading, &scale);
            }
        }
        let factor = &self.parts[0].factor;
        let lines = days.into_iter().map(|(date, (adds, readings, happened))| Line {
            name: date.to_string(),
            amount: Some(adds.clone() * factor.clone()),
            adds: Some(adds),
            readings,
            notes: happened.words(&self.unit()),
        });
        lines.collect()
    }

    /// By series, the largest first; those beyond what is shown are put together, so that it still adds up.
    pub(super) fn series(&self) -> Vec<Line> {
        let common = self.common();
        let hosts = self.parts.iter().any(|part| part.agent != self.parts[0].agent);
        let mut parts = self.parts.clone();
        parts.sort_by(|a, b| b.amount.cmp(&a.amount));
        let line = |part: &SeriesPart| {
            let labels = part.labels.iter().map(|(name, value)| format!("{name}={value}"));
            let own: Vec<String> = labels.filter(|label| !common.contains(label)).collect();
            let mut happened = Happened::default();
            let scale = match part.counting {
                Measure::Integral(..) => Exact::ratio(1, 3600).unwrap_or_else(Exact::one),
                _ => Exact::one(),
            };
            part.readings.iter().for_each(|reading| happened.note(reading, &scale));
            let mut notes = happened.words(&self.unit());
            match &part.weight {
                None => notes.insert(0, "does not count".to_owned()),
                Some(weight) if *weight != Exact::one() => {
                    notes.insert(0, format!("{} x weight {weight}", part.quantity.approximate(6)));
                }
                Some(_) => {}
            }
            let name = match (own.is_empty(), common.is_empty()) {
                (false, _) => own.join(", "),
                // It is the only one, or another host's of the same labels.
                (true, false) => common.join(", "),
                (true, true) => "(no labels)".to_owned(),
            };
            let name = match part.agent.as_str() {
                agent if hosts && !agent.is_empty() => format!("{name} on {agent}"),
                _ => name,
            };
            Line {
                name,
                adds: weighed(part, part.quantity.clone()),
                amount: part.weight.as_ref().map(|_| part.amount.clone()),
                readings: part.readings.len(),
                notes,
            }
        };
        let mut lines: Vec<Line> = parts.iter().take(SHOWN).map(|part| line(part)).collect();
        let rest = parts.get(SHOWN..).unwrap_or_default();
        if !rest.is_empty() {
            lines.push(Line {
                name: format!("({} more)", rest.len()),
                adds: Some(rest.iter().filter_map(|part| weighed(part, part.quantity.clone())).sum()),
                amount: Some(rest.iter().map(|part| part.amount.clone()).sum()),
                readings: rest.iter().map(|part| part.readings.len()).sum(),
                notes: Vec::new(),
            });
        }
        lines
    }
}

/// At the series' weight; nothing where it does not count.
fn weighed(part: &SeriesPart, quantity: Exact) -> Option<Exact> {
    part.weight.as_ref().map(|weight| quantity * weight.clone())
}

/// What happened beside what was added.
#[derive(Debug, Default)]
struct Happened {
    resets: usize,
    ended: usize,
    opened: usize,
    missed: i64,
    held: Option<Exact>,
    elsewhere: Option<Exact>,
}

impl Happened {
    fn note(&mut self, reading: &ReadingPart, scale: &Exact) {
        let sum = |sum: &mut Option<Exact>, more: &Exact| {
            if !more.is_zero() {
                *sum.get_or_insert_with(Exact::zero) += more.clone() * scale.clone();
            }
        };
        self.resets += usize::from(reading.reset);
        self.ended += usize::from(reading.value.is_none());
        self.opened += usize::from(reading.opened);
        self.missed = self.missed.saturating_add(reading.missed);
        sum(&mut self.held, &reading.held);
        sum(&mut self.elsewhere, &reading.added_elsewhere);
    }

    fn words(&self, unit: &str) -> Vec<String> {
        let mut words = Vec::new();
        match self.resets {
            0 => {}
            1 => words.push("a reset: counted from zero".to_owned()),
            number => words.push(format!("{number} resets: counted from zero")),
        }
        if self.missed > 0 {
            let missed = jiff::SignedDuration::from_micros(self.missed);
            let missed = jiff::SignedDuration::from_secs(missed.as_secs());
            words.push(format!("gaps of {missed:#} left out"));
        }
        if let Some(held) = &self.held {
            words.push(format!("{} {unit} held: more than can be believed", held.approximate(6)));
        }
        if self.opened > 0 {
            words.push("what the opening balance has is not counted".to_owned());
        }
        if self.ended > 0 {
            words.push("seen to be gone".to_owned());
        }
        if let Some(elsewhere) = &self.elsewhere {
            words.push(format!("{} {unit} more in other months", elsewhere.approximate(6)));
        }
        words
    }
}
