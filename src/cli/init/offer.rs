//! Which reading makes which component, as far as names and units say so, and with which factor. Pure. What is not plain is
//! left to a person, in a comment: a wrong factor is a wrong bill.

use crate::cli::units;
use crate::metering::measure::{Hold, Measure};
use crate::waldur::types::Component;

use super::draft::Line;

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    Cpu,
    Gpu,
    Memory,
    Node,
}

/// A reading that a source has of a quantity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered {
    pub(super) of: Quantity,
    pub(super) reading: &'static str,
    pub(super) unit: &'static str,
    /// Whether it is a level over time, and not used up.
    pub(super) level: bool,
}

pub(super) const SLURM: [Offered; 4] = [
    Offered { of: Quantity::Cpu, reading: "cpu_seconds", unit: "s", level: false },
    Offered { of: Quantity::Gpu, reading: "gpu_seconds", unit: "s", level: false },
    Offered { of: Quantity::Memory, reading: "memory_byte_seconds", unit: "B*s", level: false },
    Offered { of: Quantity::Node, reading: "node_seconds", unit: "s", level: false },
];
pub(super) const CGROUP: [Offered; 2] = [
    Offered { of: Quantity::Cpu, reading: "cpu_seconds", unit: "s", level: false },
    Offered { of: Quantity::Memory, reading: "memory_working_set_bytes", unit: "B", level: true },
];
/// The names are those of the queries that go with it.
pub(super) const PROMETHEUS: [Offered; 2] = [
    Offered { of: Quantity::Cpu, reading: "cpu_seconds", unit: "s", level: false },
    Offered { of: Quantity::Memory, reading: "memory_bytes", unit: "B", level: true },
];

/// What is known of one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) line: Line,
    /// For the list that is shown.
    pub(super) words: String,
}

/// The meter of one component, or why there is none.
pub(super) fn propose(component: &Component, source: &[Offered]) -> Proposal {
    let (name, unit) = (&component.component, &component.measured_unit);
    let billed = &component.billing_type;
    let left = |words: String| Proposal {
        line: Line::Comment(match unit.is_empty() {
            true => format!("{name} (without a unit, billed by {billed}): {words}"),
            false => format!("{name} (in {unit}, billed by {billed}): {words}"),
        }),
        words,
    };
    if !["usage", "limit"].contains(&billed.as_str()) {
        return left("Waldur takes no usage of it".to_owned());
    }
    let Some(quantity) = quantity(component) else {
        return left("its name does not say what it is of; choose a reading".to_owned());
    };
    let Some(offered) = source.iter().find(|offered| offered.of == quantity) else {
        return left("this source does not measure it".to_owned());
    };
    let theirs = match quantity {
        Quantity::Memory => bytes_not_bits(unit),
        _ => unit.clone(),
    };
    let measure = if offered.level { Measure::Integral(Hold::default(), None) } else { Measure::Sum(None) };
    let key = super::draft::quoted(name);
    let aggregate = if offered.level { ", aggregate: integral" } else { "" };
    let reading = offered.reading;
    match units::factor(offered.unit, measure, &theirs) {
        Some(factor) => {
            let meter = format!("{key}: {{ reading: {reading}{aggregate}, factor: {factor} }}");
            match billed.as_str() {
                "usage" => Proposal {
                    line: Line::Meter(meter),
                    words: format!("{reading}{} x {factor}", if offered.level { " over time" } else { "" }),
                },
                _ => Proposal {
                    line: Line::Comment(meter),
                    words: "billed by its limit: left out, but for a comment".to_owned(),
                },
            }
        }
        None if offered.level && units::factor(offered.unit, Measure::Level, &theirs).is_some() => {
            let factor = units::factor(offered.unit, Measure::Level, &theirs).unwrap_or_default();
            Proposal {
                line: Line::Comment(format!(
                    "{key}: {{ reading: {reading}, aggregate: mean, factor: {factor} }} (or max, or last: {unit} is a \
                     level, and which of a month is billed is for your contract to say)"
                )),
                words: "a level: mean, max or last of a month? Left out, but for a comment".to_owned(),
            }
        }
        None => left(format!("`{unit}` is no unit of {reading} that is known; choose a factor")),
    }
}

/// What a component is of: its type says it, or else its name, or its unit.
fn quantity(component: &Component) -> Option<Quantity> {
    [&component.component, &component.name, &component.measured_unit].into_iter().find_map(|text| {
        let text = text.to_lowercase();
        let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphabetic()).collect();
        let says = |known: &[&str]| words.iter().any(|word| known.contains(word));
        match () {
            () if says(&["gpu", "gpus", "gpuh"]) => Some(Quantity::Gpu),
            () if says(&["ram", "mem", "memory"]) => Some(Quantity::Memory),
            () if says(&["node", "nodes", "nodeh"]) => Some(Quantity::Node),
            () if says(&["cpu", "cpus", "vcpu", "vcpus", "core", "cores", "cpuh"]) => Some(Quantity::Cpu),
            () => None,
        }
    })
}

/// Memory is not measured in bits, however it is spelt: `gb-Hours` is `GB-Hours`.
fn bytes_not_bits(unit: &str) -> String {
    let word = |word: &str| match word.to_lowercase().as_str() {
        small @ ("b" | "kb" | "mb" | "gb" | "tb" | "pb") => match small.len() {
            1 => "B".to_owned(),
            _ => format!("{}B", small[..1].replace('k', "K").to_uppercase()),
        },
        small @ ("kib" | "mib" | "gib" | "tib" | "pib") => format!("{}iB", small[..1].to_uppercase()),
        _ => word.to_owned(),
    };
    let mut text = String::new();
    let mut rest = unit;
    while let Some(at) = rest.find(|c: char| !c.is_ascii_alphabetic()) {
        text += &word(&rest[..at]);
        let after = rest[at..].chars().next().map_or(0, char::len_utf8);
        text += &rest[at..at + after];
        rest = &rest[at + after..];
    }
    text + &word(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(component: &str, unit: &str, billing_type: &str) -> Component {
        let text = format!(
            r#"{{"type":"{component}","name":"","measured_unit":"{unit}","billing_type":"{billing_type}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn proposed(name: &str, unit: &str, source: &[Offered]) -> Line {
        propose(&component(name, unit, "usage"), source).line
    }

    #[test]
    fn a_plain_unit_makes_a_meter_with_its_factor() {
        for (name, unit, source, wanted) in [
            ("cpu_hours", "h", &SLURM[..], "cpu_hours: { reading: cpu_seconds, factor: 1/3600 }"),
            ("cpu", "k-Hours", &SLURM, "cpu: { reading: cpu_seconds, factor: 1/3600000 }"),
            ("mem", "gb-Hours", &SLURM, "mem: { reading: memory_byte_seconds, factor: 1/3865470566400 }"),
            ("node_hours", "node-hours", &SLURM, "node_hours: { reading: node_seconds, factor: 1/3600 }"),
            ("gpu_hours", "h", &SLURM, "gpu_hours: { reading: gpu_seconds, factor: 1/3600 }"),
            (
                "ram_gb_hours",
                "GB*h",
                &CGROUP,
                "ram_gb_hours: { reading: memory_working_set_bytes, aggregate: integral, factor: 1/1073741824 }",
            ),
            (
                "ram",
                "GiB-hours",
                &PROMETHEUS,
                "ram: { reading: memory_bytes, aggregate: integral, factor: 1/1073741824 }",
            ),
        ] {
            assert_eq!(proposed(name, unit, source), Line::Meter(wanted.to_owned()), "{name} in {unit}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_a_person() {
        for (name, unit, billing, source, words) in [
            ("cpu", "credits", "usage", &SLURM[..], "`credits` is no unit of cpu_seconds"),
            ("seats", "pcs", "usage", &SLURM, "does not say what it is of"),
            ("gpu_hours", "h", "usage", &CGROUP, "does not measure it"),
            ("fee", "pcs", "fixed", &SLURM, "takes no usage"),
            ("ram", "GB", "usage", &CGROUP, "aggregate: mean"),
            ("cpu_hours", "h", "limit", &SLURM, "factor: 1/3600"),
        ] {
            let proposal = propose(&component(name, unit, billing), source);
            let Line::Comment(text) = &proposal.line else { panic!("{proposal:?}") };
            assert!(text.contains(words), "{text}");
        }
    }
}
