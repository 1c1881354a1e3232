//! What the collectors would report: of which readings, for which resources and components, with what it is measured in
//! beside what Waldur measures it in. Filled while the collectors are tried and Waldur is asked, and told at the end.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::Findings;
use super::units::{Verdict, judge, made};
use crate::cli::setup::count;
use crate::metering::measure::Measure;
use crate::metering::meter::{Meter, Target};
use crate::metering::reading::Reading;
use crate::waldur::types::Offering;

/// How many resources, and how many readings, are named.
const NAMED: usize = 3;

/// One meter of a collector that was tried.
#[derive(Debug)]
struct Would {
    collector: String,
    meter: Meter,
    measure: Measure,
    unit: String,
    /// Some of the readings, for people.
    examples: Vec<String>,
    series: usize,
    targets: BTreeSet<Target>,
}

#[derive(Debug, Default)]
pub(super) struct Reports {
    would: Vec<Would>,
    /// The resources that Waldur has: name and offering.
    resources: BTreeMap<Target, (String, Uuid)>,
    /// What Waldur measures each component of an offering in.
    units: BTreeMap<(Uuid, String), String>,
}

impl Reports {
    /// Notes what a meter makes of a collector's readings, each with where it belongs.
    pub(super) fn add(
        &mut self,
        collector: &str,
        meter: &Meter,
        measure: Measure,
        readings: &[(&Reading, Target)],
    ) {
        let unit = readings.iter().find_map(|(reading, _)| reading.unit.clone()).unwrap_or_default();
        let example = |(reading, target): &(&Reading, Target)| {
            let user = reading.labels.get("user").map(|user| format!(" of {user}")).unwrap_or_default();
            format!("{} {unit}{user} for {target}", reading.value).replace("  ", " ")
        };
        self.would.push(Would {
            collector: collector.to_owned(),
            meter: meter.clone(),
            measure,
            examples: readings.iter().take(NAMED).map(example).collect(),
            unit,
            series: readings.len(),
            targets: readings.iter().map(|(_, target)| target.clone()).collect(),
        });
    }

    /// The backend ids that were seen, by offering.
    pub(super) fn backend_ids(&self) -> BTreeSet<(Uuid, String)> {
        let targets = self.would.iter().flat_map(|would| &would.targets);
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

    /// One line a meter and offering.
    pub(super) fn tell(&self, found: &mut Findings) {
        for would in &self.would {
            let mut offerings: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
            for (name, offering) in would.targets.iter().filter_map(|target| self.resources.get(target)) {
                offerings.entry(*offering).or_default().push(name);
            }
            for (offering, names) in offerings {
                self.tell_one(would, offering, &names, found);
            }
        }
    }

    fn tell_one(&self, would: &Would, offering: Uuid, names: &[&str], found: &mut Findings) {
        let Would { collector, meter, measure, unit, series, .. } = would;
        let component = &meter.component;
        let theirs = self.units.get(&(offering, component.clone())).map_or("", String::as_str);
        let more = names.len().saturating_sub(NAMED);
        let and = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ") + &and;
        let shown =
            |unit: &str| if unit.trim().is_empty() { "no unit".to_owned() } else { format!("`{unit}`") };
        let ours = format!("{} x {}", shown(&made(unit, *measure)), meter.factor);
        found.good(format!(
            "collector {collector}: would report {component} for {names}, of {} ({}); in {ours}, beside Waldur's {}",
            count(*series, "reading"),
            would.examples.join(", "),
            shown(theirs)
        ));
        if let Verdict::Differ(why) = judge(unit, *measure, &meter.factor, theirs) {
            found.warning(format!(
                "collector {collector}: what it would report of {component} is in {ours}, and Waldur measures it in \
                 `{theirs}`: {why}"
            ));
        }
    }
}
