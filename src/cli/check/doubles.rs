//! What would be billed twice: two meters, or two collectors, that count one thing into one component. Only what is
//! certain is told: the same readings, or a group beside the one that holds it.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::metering::meter::{Meter, Rules};
use crate::metering::reading::Reading;

/// What a meter counted, as far as it tells doubles.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// What makes each reading the same one when it is seen again.
    identities: HashSet<u64>,
    /// Groups or directories.
    paths: BTreeSet<String>,
}

impl Counted {
    pub(super) fn add(&mut self, reading: &Reading) {
        let mut hasher = DefaultHasher::new();
        reading.name.hash(&mut hasher);
        match &reading.id {
            Some(id) => id.hash(&mut hasher),
            None => (&reading.labels, reading.span.start(), reading.epoch.id.as_ref()).hash(&mut hasher),
        }
        self.identities.insert(hasher.finish());
        if let Some(path) = reading.labels.get("path") {
            self.paths.insert(path.clone());
        }
    }

    /// Why two that are added up count something twice, if they do.
    pub(super) fn beside(&self, other: &Counted) -> Option<String> {
        let same = self.identities.intersection(&other.identities).count();
        if same > 0 {
            let readings = if same == 1 { "reading" } else { "readings" };
            return Some(format!("{same} {readings} the same"));
        }
        let within = |inner: &Counted, outer: &Counted| {
            inner.paths.iter().find_map(|path| {
                let above = path.match_indices('/').map(|(at, _)| &path[..at]);
                let above =
                    above.filter(|above| !above.is_empty()).find(|above| outer.paths.contains(*above));
                above.map(|above| format!("`{path}` is part of `{above}`"))
            })
        };
        within(self, other).or_else(|| within(other, self))
    }
}

/// Meters of one collector that make one component of the same series.
pub(super) fn meters(rules: &Rules) -> Vec<String> {
    let mut told = Vec::new();
    for (place, one) in rules.meters.iter().enumerate() {
        let twice = |other: &&Meter| {
            other.component == one.component
                && other.reading == one.reading
                && !one.weighing.excludes(&other.weighing)
        };
        if rules.meters[place + 1..].iter().any(|other| twice(&other)) {
            told.push(format!(
                "collector {}: two meters count `{}` into {}, and may count the same series: what both count is billed \
                 twice; tell them apart with `only_if` and `not_if`",
                rules.collector, one.reading, one.component
            ));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::section::Section;
    use crate::metering::reading::Kind;

    fn rules(meters: &str) -> Rules {
        let text = format!("c:\n  resource: 5e2f0f7e-1111-4222-8333-444455556666\n  meters:\n{meters}");
        let (mut root, problems) = Section::parse(&text);
        let rules = Rules::from_section(&mut root.section("c").unwrap()).unwrap();
        assert_eq!(problems.list(), []);
        rules
    }

    #[test]
    fn two_meters_over_the_same_series_are_told_and_others_are_not() {
        let of = |one: &str, other: &str| {
            meters(&rules(&format!("    a: {{ component: x, {one} }}\n    b: {{ component: x, {other} }}\n")))
                .len()
        };
        for (one, other, doubles) in [
            ("reading: r", "reading: r", 1),
            ("reading: r", "reading: s", 0),
            ("reading: r", "reading: r, only_if: { p: gpu }", 1),
            ("reading: r, only_if: { p: cpu }", "reading: r, only_if: { p: [gpu, cpu] }", 1),
            ("reading: r, only_if: { p: cpu }", "reading: r, only_if: { p: gpu }", 0),
            ("reading: r, not_if: { p: [gpu, x] }", "reading: r, only_if: { p: gpu }", 0),
            ("reading: r, only_if: { p: gpu }", "reading: r, not_if: { p: [gpu, x] }", 0),
            ("reading: r, not_if: { p: x }", "reading: r, only_if: { p: gpu }", 1),
        ] {
            assert_eq!(of(one, other), doubles, "{one} beside {other}");
        }
        let two = rules("    a: { reading: r }\n    b: { reading: r }\n");
        assert!(meters(&two).is_empty());
        assert_eq!(
            meters(&rules("    a: { component: x, reading: r }\n    b: { component: x, reading: r }\n")),
            [
                "collector c: two meters count `r` into x, and may count the same series: what both count is billed twice; \
                 tell them apart with `only_if` and `not_if`"
            ]
        );
    }

    #[test]
    fn the_same_jobs_and_a_group_beside_its_child_are_doubles() {
        let reading = |id: Option<&str>, path: Option<&str>| {
            let mut reading =
                Reading::new("r", Kind::Gauge, 1.into(), "2026-11-05T10:00:00Z".parse().unwrap());
            reading.id = id.map(str::to_owned);
            reading.labels.extend(path.map(|path| ("path".to_owned(), path.to_owned())));
            reading
        };
        let counted = |readings: &[Reading]| {
            let mut counted = Counted::default();
            readings.iter().for_each(|reading| counted.add(reading));
            counted
        };
        let path = |path| counted(&[reading(None, Some(path))]);
        let jobs = |ids: &[&str]| counted(&ids.iter().map(|id| reading(Some(id), None)).collect::<Vec<_>>());
        for (one, other, why) in [
            (jobs(&["1", "2"]), jobs(&["2", "3"]), Some("1 reading the same")),
            (jobs(&["1", "2"]), jobs(&["2", "1"]), Some("2 readings the same")),
            (jobs(&["1"]), jobs(&["2"]), None),
            (path("user.slice"), path("user.slice/a"), Some("`user.slice/a` is part of `user.slice`")),
            (path("/home/a/b"), path("/home"), Some("`/home/a/b` is part of `/home`")),
            (path("user.slice"), path("user.slice2"), None),
            (path("user.slice"), path("user.slice"), Some("1 reading the same")),
        ] {
            assert_eq!(one.beside(&other).as_deref(), why);
        }
    }
}
