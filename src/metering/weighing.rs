//! Which series a meter counts, and at which weight, by their labels: a GPU partition at one and a half, failed jobs for
//! free. It changes what a quantity is worth, never the quantity; so a rule that changes is carried out on what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::exact::Exact;
use super::reading::Labels;
use crate::config::section::Section;

/// A label's values.
type Values = BTreeMap<String, BTreeSet<String>>;

/// The keys `only_if`, `not_if` and `weights` of a meter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Weighing {
    /// Every label named must have one of its values; a label that is not there has the value ''.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    only_if: Values,
    /// No label named may have one of its values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    not_if: Values,
    /// What a series counts by a value of a label; those of several labels are multiplied. What is not named counts 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    weights: BTreeMap<String, BTreeMap<String, Exact>>,
}

impl Weighing {
    pub(super) fn from_section(section: &mut Section) -> Weighing {
        let mut weighing = Weighing {
            only_if: values(section, "only_if"),
            not_if: values(section, "not_if"),
            weights: BTreeMap::new(),
        };
        let Some(mut weights) = section.section("weights") else { return weighing };
        for label in weights.names() {
            let Some(mut of_label) = weights.section(&label) else { continue };
            let mut known = BTreeMap::new();
            for value in of_label.names() {
                let weight = of_label.parse_with(&value, |text| {
                    let weight: Exact = text.parse()?;
                    if weight.is_negative() { Err("must not be negative".to_owned()) } else { Ok(weight) }
                });
                known.extend(weight.map(|weight| (value, weight)));
            }
            weighing.weights.insert(label, known);
        }
        weighing
    }

    /// Whether it treats all series alike.
    pub fn is_even(&self) -> bool {
        *self == Weighing::default()
    }

    /// Whether no series counts by both, whatever its labels: one asks for values that the other leaves out.
    pub fn excludes(&self, other: &Weighing) -> bool {
        let one_way = |wants: &Weighing, leaves: &Weighing| {
            wants.only_if.iter().any(|(label, wanted)| {
                let apart = leaves.only_if.get(label).is_some_and(|also| wanted.is_disjoint(also));
                apart || leaves.not_if.get(label).is_some_and(|never| wanted.is_subset(never))
            })
        };
        one_way(self, other) || one_way(other, self)
    }

    /// The labels that it looks at.
    pub fn labels(&self) -> BTreeSet<&str> {
        self.only_if.keys().chain(self.not_if.keys()).chain(self.weights.keys()).map(String::as_str).collect()
    }

    /// What a series with these labels counts; `None` if it does not at all.
    pub fn weigh(&self, labels: &Labels) -> Option<Exact> {
        let of = |label: &String| labels.get(label).map_or("", String::as_str);
        let counts = self.only_if.iter().all(|(label, values)| values.contains(of(label)))
            && !self.not_if.iter().any(|(label, values)| values.contains(of(label)));
        if !counts {
            return None;
        }
        let weights = self.weights.iter().filter_map(|(label, weights)| weights.get(of(label)));
        Some(weights.fold(Exact::one(), |product, weight| product * weight.clone()))
    }
}

fn values(section: &mut Section, key: &str) -> Values {
    let Some(mut outer) = section.section(key) else { return Values::new() };
    let mut values = Values::new();
    for label in outer.names() {
        match outer.texts(&label) {
            Some(texts) if texts.is_empty() => outer.problem(&label, "is empty: name the values that count"),
            Some(texts) => {
                values.insert(label, texts.into_iter().collect());
            }
            None if outer.has(&label) => outer.problem(&label, "needs a value, or a list of values"),
            None => {}
        }
    }
    values
}

/// As people read it: `only if partition is gpu or gpu-long, not if state is FAILED, weighed by qos (high 2)`.
impl fmt::Display for Weighing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        for (word, values) in [("only if", &self.only_if), ("not if", &self.not_if)] {
            for (label, values) in values {
                let values: Vec<&str> =
                    values.iter().map(|value| if value.is_empty() { "''" } else { value }).collect();
                parts.push(format!("{word} {label} is {}", values.join(" or ")));
            }
        }
        for (label, weights) in &self.weights {
            let weights: Vec<String> =
                weights.iter().map(|(value, weight)| format!("{value} {weight}")).collect();
            parts.push(format!("weighed by {label} ({})", weights.join(", ")));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighing(text: &str) -> (Weighing, Vec<String>) {
        let (mut section, problems) = Section::parse(text);
        let weighing = Weighing::from_section(&mut section);
        section.finish();
        (weighing, problems.list().iter().map(ToString::to_string).collect())
    }

    fn weigh(text: &str, labels: &[(&str, &str)]) -> Option<String> {
        let (weighing, problems) = weighing(text);
        assert_eq!(problems, Vec::<String>::new());
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        weighing.weigh(&labels).map(|weight| weight.to_string())
    }

    #[test]
    fn labels_decide_whether_and_how_much_a_series_counts() {
        let rules = "only_if: { partition: [gpu, gpu-long] }\nnot_if: { qos: [free, ''] }\n\
                     weights: { partition: { gpu: 1.5 }, state: { FAILED: 0, TIMEOUT: 1/3 } }\n";
        for (partition, qos, state, weight) in [
            ("gpu", "normal", "COMPLETED", Some("1.5")),
            ("gpu-long", "normal", "COMPLETED", Some("1")),
            ("gpu", "normal", "TIMEOUT", Some("0.5")),
            ("gpu-long", "normal", "TIMEOUT", Some("1/3")),
            ("gpu", "normal", "FAILED", Some("0")),
            ("main", "normal", "COMPLETED", None),
            ("gpu", "free", "COMPLETED", None),
            ("gpu", "", "COMPLETED", None),
        ] {
            let labels = [("partition", partition), ("qos", qos), ("state", state)];
            assert_eq!(weigh(rules, &labels).as_deref(), weight, "{labels:?}");
        }
        // What is not there has no value.
        assert_eq!(weigh(rules, &[("partition", "gpu"), ("qos", "x")]).as_deref(), Some("1.5"));
        assert_eq!(weigh(rules, &[("partition", "gpu")]), None);
        assert_eq!(weigh(rules, &[("qos", "x")]), None);
        assert_eq!(weigh("only_if: { reservation: '' }", &[]).as_deref(), Some("1"));
        assert_eq!(weigh("", &[("a", "b")]).as_deref(), Some("1"));
    }

    #[test]
    fn it_is_told_in_words() {
        let (rules, _) = weighing(
            "only_if: { partition: [gpu-long, gpu] }\nnot_if: { state: FAILED, user: '' }\nweights: { qos: { high: 2, low: 1/2 } }\n",
        );
        assert_eq!(
            rules.to_string(),
            "only if partition is gpu or gpu-long, not if state is FAILED, not if user is '', weighed by qos (high 2, low 0.5)"
        );
        assert_eq!(rules.labels().into_iter().collect::<Vec<_>>(), ["partition", "qos", "state", "user"]);
        assert!(!rules.is_even() && weighing("").0.is_even());
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        let text = "only_if: { partition: [] }\nnot_if: gpu\nweights:\n  state: { FAILED: -1, TIMEOUT: x }\n  qos: 2\n  \
                    partition: { 1: 2 }\n";
        assert_eq!(
            weighing(text).1,
            [
                "line 1: only_if.partition: is empty: name the values that count",
                "line 2: not_if: must be a mapping of keys",
                "line 4: weights.state.FAILED: must not be negative",
                "line 4: weights.state.TIMEOUT: `x` is not a number such as 12, 0.25, 1e-3 or 1/3600",
                "line 5: weights.qos: must be a mapping of keys",
                "line 6: weights.partition: `1` must be in quotes",
            ]
        );
    }
}
