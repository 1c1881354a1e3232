//! What the collectors would report: of which readings, for which resources and components, with what it is measured in
//! beside what Waldur measures it in. Filled while the collectors are tried and Waldur is asked, and told at the end.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::doubles;
use super::findings::Findings;
use crate::cli::exit::Exit;
use crate::cli::setup::count;
use crate::cli::text::shorten;
use crate::cli::units::{Verdict, judge, made};
use crate::metering::measure::Measure;
use crate::metering::meter::{Meter, Place, Target};
use crate::metering::reading::Reading;
use crate::waldur::types::Offering;

/// How many resources, and how many readings, are named.
const NAMED: usize = 3;
/// So long is a name, at most.
const NAME: usize = 30;

/// What a meter counts of a collector's readings.
#[derive(Debug, Default)]
pub(super) struct MeterSample {
    pub(super) counted: usize,
    /// Some of the readings, for people, and whose they are.
    examples: Vec<(String, Target)>,
    targets: BTreeSet<Target>,
    doubles: doubles::Counted,
}

impl MeterSample {
    pub(super) fn add(&mut self, reading: &Reading, place: &Place) {
        self.counted += 1;
        self.doubles.add(reading);
        let Place::At { target, user } = place else { return };
        if self.examples.len() < NAMED {
            let unit = reading.unit.iter().filter(|unit| !unit.is_empty()).map(|unit| format!(" {unit}"));
            let unit: String = unit.collect();
            let of = user.as_ref().map(|user| format!(" of {}", shorten(user, NAME))).unwrap_or_default();
            self.examples.push((format!("{}{unit}{of}", reading.value), target.clone()));
        }
        if !self.targets.contains(target) {
            self.targets.insert(target.clone());
        }
    }
}

/// One meter of a collector that was tried.
#[derive(Debug)]
struct Would {
    collector: String,
    meter: Meter,
    measure: Measure,
    unit: String,
    tried: MeterSample,
}

#[derive(Debug, Default)]
pub(super) struct Reports {
    would: Vec<Would>,
    /// The resources that Waldur has: name and offering.
    resources: BTreeMap<Target, (String, Uuid)>,
    /// What Waldur measures each component of an offering in.
    units: BTreeMap<(Uuid, String), String>,
    /// Offerings whose resources are known.
    listed: BTreeSet<Uuid>,
}

impl Reports {
    /// Notes what a meter makes of a collector's readings, which are in `unit`.
    pub(super) fn add(
        &mut self,
        collector: &str,
        meter: &Meter,
        measure: Measure,
        unit: &str,
        tried: MeterSample,
    ) {
        let (collector, unit) = (collector.to_owned(), unit.to_owned());
        self.would.push(Would { collector, meter: meter.clone(), measure, unit, tried });
    }

    /// The backend ids that were seen, by offering.
    pub(super) fn backend_ids(&self) -> BTreeSet<(Uuid, String)> {
        let targets = self.would.iter().flat_map(|would| &would.tried.targets);
        let id = |target: &Target| match target {
            Target::BackendId { offering, backend_id } => Some((*offering, backend_id.clone())),
            Target::Resource(_) => None,
        };
        targets.filter_map(id).collect()
    }

    pub(super) fn offering(&mut self, offering: &Offering) {
        for component in &offering.components {
            let key = (offering.uuid, component.component.clone());
            self.units.insert(key, component.measured_unit.clone());
        }
    }

    pub(super) fn resource(&mut self, target: Target, name: &str, offering: Uuid) {
        self.resources.insert(target, (name.to_owned(), offering));
    }

    pub(super) fn listed(&mut self, offering: Uuid) {
        self.listed.insert(offering);
    }

    /// Collectors none of whose ids is a resource's: a template or an offering is mistaken.
    fn tell_unmatched(&self, found: &mut Findings) {
        let mut collectors: BTreeMap<&str, BTreeSet<&Target>> = BTreeMap::new();
        for would in &self.would {
            collectors.entry(&would.collector).or_default().extend(&would.tried.targets);
        }
        for (collector, targets) in collectors {
            let asked = |target: &Target| match target {
                Target::BackendId { offering, .. } => self.listed.contains(offering),
                Target::Resource(_) => false,
            };
            let none = targets.iter().all(|target| asked(target) && !self.resources.contains_key(*target));
            let Some(Target::BackendId { backend_id, .. }) = targets.first().filter(|_| none) else {
                continue;
            };
            found.problem(
                Exit::Stuck,
                format!(
                    "collector {collector}: none of its {} is a resource's ({backend_id} and so on), so that nothing is \
                     billed; is `backend_id` what Waldur has, and the offering the right one?",
                    count(targets.len(), "backend id")
                ),
            );
        }
    }

    /// Meters that count the same things into one component of a resource.
    fn tell_doubles(&self, found: &mut Findings) {
        for (place, one) in self.would.iter().enumerate() {
            for other in &self.would[place + 1..] {
                let added_up = one.meter.component == other.meter.component
                    && one.collector != other.collector
                    && !one.tried.targets.is_disjoint(&other.tried.targets);
                if !added_up {
                    continue;
                }
                let same_name = one.meter.reading == other.meter.reading;
                let why = one.tried.doubles.beside(&other.tried.doubles).filter(|_| same_name);
                let both = format!("collectors {} and {}", one.collector, other.collector);
                let (reading, component) = (&one.meter.reading, &one.meter.component);
                match why {
                    Some(why) => found.warning(format!(
                        "{both} both count `{reading}` into {component} of the same resources, and count the same twice: {why}"
                    )),
                    None => found.good(format!(
                        "{both} both make {component} of the same resources: what they tell is added up"
                    )),
                }
            }
        }
    }

    /// One line a meter and offering.
    pub(super) fn tell(&self, found: &mut Findings) {
        self.tell_unmatched(found);
        self.tell_doubles(found);
        for would in &self.would {
            let mut offerings: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
            for (name, offering) in would.tried.targets.iter().filter_map(|target| self.resources.get(target))
            {
                offerings.entry(*offering).or_default().push(name);
            }
            for (offering, names) in offerings {
                self.tell_one(would, offering, &names, found);
            }
        }
    }

    fn tell_one(&self, would: &Would, offering: Uuid, names: &[&str], found: &mut Findings) {
        let Would { collector, meter, measure, unit, tried } = would;
        let component = &meter.component;
        let theirs = self.units.get(&(offering, component.clone())).map_or("", String::as_str);
        let more = names.len().saturating_sub(NAMED);
        let and = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names =
            names.iter().take(NAMED).map(|name| shorten(name, NAME)).collect::<Vec<_>>().join(", ") + &and;
        let shown =
            |unit: &str| if unit.trim().is_empty() { "no unit".to_owned() } else { format!("`{unit}`") };
        let ours = format!("{} x {}", shown(&made(unit, *measure)), meter.factor_as_written());
        let mut words = format!(
            "collector {collector}: would report {component} for {names}, of {}, in {ours}, beside Waldur's {}",
            count(tried.counted, "reading"),
            shown(theirs)
        );
        for (reading, target) in &tried.examples {
            if let Some((name, _)) = self.resources.get(target).filter(|(_, of)| *of == offering) {
                words.push_str(&format!("\n  {}: {reading}", shorten(name, NAME)));
            }
        }
        found.good_of_many("meters that would report", words);
        if let Verdict::Differ(why) = judge(unit, *measure, &meter.factor, theirs) {
            found.warning(format!(
                "collector {collector}: what it would report of {component} is in {ours}, and Waldur measures it in \
                 `{theirs}`: {why}"
            ));
        }
    }
}
