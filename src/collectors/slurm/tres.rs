//! Trackable resources as sacct prints them: `billing=22,cpu=2,gres/gpu:a100=2,gres/gpu=2,mem=1500M,node=1`. Each becomes
//! a reading: so many of it, times the seconds for which the job had them.
//!
//! Order is not a contract, and typed and untyped counts of one thing stand side by side: they never become the same
//! reading, or they would be billed twice.

use rust_decimal::Decimal;

use crate::metering::reading::parse_value;

/// One resource of a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// The reading's name.
    pub(super) name: String,
    pub(super) unit: &'static str,
    /// In the reading's unit, a second: CPUs, bytes, nodes, GPUs.
    pub(super) count: Decimal,
}

/// What a job had of what is wanted. Whatever else the list says, and however oddly (a unit or a word where a count should
/// be), is not looked into. What is no count (`energy`), or nothing to bill by the second, is left out.
pub(super) fn parse(text: &str, wants: impl Fn(&str) -> bool) -> Result<Vec<Used>, String> {
    let mut all: Vec<Used> = Vec::new();
    // Things of which only typed counts are told.
    let mut sums: Vec<(&str, Result<Decimal, String>)> = Vec::new();
    let mut untyped: Vec<&str> = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, text) = part.split_once('=').unwrap_or((part, ""));
        let Some((name, unit)) = reading(key) else { continue };
        let count = || match key {
            _ if !part.contains('=') => Err(format!("`{part}` is no KEY=COUNT")),
            "mem" => bytes(text),
            _ => number(key, text),
        };
        if let Some(thing) = key.strip_prefix("gres/").map(|_| key.split(':').next().unwrap_or(key)) {
            if thing == key {
                untyped.push(key);
            } else if wants(&gres(thing)) {
                match sums.iter_mut().find(|(known, _)| *known == thing) {
                    Some((_, sum)) => {
                        let added = sum
                            .clone()
                            .and_then(|sum| sum.checked_add(count()?).ok_or_else(|| too_large(key)));
                        *sum = added;
                    }
                    None => sums.push((thing, count())),
                }
            }
        }
        if !wants(&name) {
            continue;
        }
        if all.iter().any(|used| used.name == name) {
            return Err(format!("`{key}` is there twice"));
        }
        all.push(Used { name, unit, count: count()? });
    }
    // A cluster may account for types alone (AccountingStorageTRES=gres/gpu:a100).
    for (thing, sum) in sums.into_iter().filter(|(thing, _)| !untyped.contains(thing)) {
        all.push(Used { name: gres(thing), unit: "s", count: sum? });
    }
    Ok(all)
}

/// The reading that a resource becomes, if any, and its unit.
fn reading(key: &str) -> Option<(String, &'static str)> {
    match key {
        "cpu" | "node" | "billing" => Some((format!("{key}_seconds"), "s")),
        "mem" => Some(("memory_byte_seconds".to_owned(), "B*s")),
        _ if key.starts_with("gres/") => Some((gres(key), "s")),
        _ if key.starts_with("license/") => Some((format!("{key}_seconds"), "s")),
        _ => None,
    }
}

/// `gpu_seconds` for gres/gpu, `gpu:a100_seconds` for gres/gpu:a100, `gres/shard_seconds` for what has no short name.
fn gres(key: &str) -> String {
    let thing = key.strip_prefix("gres/").unwrap_or(key);
    if thing == "gpu" || thing.starts_with("gpu:") {
        format!("{thing}_seconds")
    } else {
        format!("{key}_seconds")
    }
}

/// Whether a reading of that name could be made of some site's resources, beside those that every site has.
pub(super) fn is_reading(name: &str) -> bool {
    let Some(thing) = name.strip_suffix("_seconds") else { return false };
    let named = |prefix| thing.strip_prefix(prefix).is_some_and(|rest: &str| !rest.is_empty());
    named("gpu:") || named("license/") || (named("gres/") && gres(thing) == name)
}

fn too_large(key: &str) -> String {
    format!("`{key}` is more than can be counted")
}

fn number(key: &str, text: &str) -> Result<Decimal, String> {
    match parse_value(text) {
        Ok(count) if !count.is_sign_negative() => Ok(count),
        _ => Err(format!("`{key}={text}` has no plain count")),
    }
}

/// `2048M`, `1.50G`. SLURM's units are powers of 1024, whatever its letters say. A number without one would be a guess.
fn bytes(text: &str) -> Result<Decimal, String> {
    if text == "0" {
        return Ok(Decimal::ZERO);
    }
    let unit = match text.chars().next_back() {
        Some('K') => 1_u64 << 10,
        Some('M') => 1 << 20,
        Some('G') => 1 << 30,
        Some('T') => 1 << 40,
        Some('P') => 1 << 50,
        _ => return Err(format!("`mem={text}` has no unit (K, M, G, T or P)")),
    };
    let count =
        number("mem", &text[..text.len() - 1]).map_err(|_| format!("`mem={text}` has no plain count"))?;
    count.checked_mul(unit.into()).ok_or_else(|| too_large("mem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        let used = parse(text, |_| true).unwrap();
        used.iter().map(|used| format!("{}={}", used.name, used.count.normalize())).collect()
    }

    #[test]
    fn each_resource_becomes_a_reading_of_its_own() {
        assert_eq!(
            parsed("billing=22,cpu=2,gres/gpu:a100=2,gres/gpu=2,mem=1500M,node=1"),
            [
                "billing_seconds=22",
                "cpu_seconds=2",
                "gpu:a100_seconds=2",
                "gpu_seconds=2",
                "memory_byte_seconds=1572864000",
                "node_seconds=1"
            ]
        );
        // Another order, and what is nothing to bill by the second.
        assert_eq!(
            parsed("node=2,energy=17,fs/disk=4,gres/shard=3,gres/shard:t4=3,license/matlab=2,vmem=1,cpu=64"),
            [
                "node_seconds=2",
                "gres/shard_seconds=3",
                "gres/shard:t4_seconds=3",
                "license/matlab_seconds=2",
                "cpu_seconds=64"
            ]
        );
        assert_eq!(parsed(""), Vec::<String>::new());
    }

    #[test]
    fn of_types_alone_the_sum_is_what_the_job_had() {
        assert_eq!(
            parsed("gres/gpu:a100=2,gres/gpu:v100=1"),
            ["gpu:a100_seconds=2", "gpu:v100_seconds=1", "gpu_seconds=3"]
        );
        // The untyped count may be larger (a GPU without a type), and goes before the sum.
        assert_eq!(parsed("gres/gpu=4,gres/gpu:a100=2"), ["gpu_seconds=4", "gpu:a100_seconds=2"]);
    }

    #[test]
    fn memory_is_exact_bytes() {
        for (text, count) in [
            ("0", "0"),
            ("1K", "1024"),
            ("512M", "536870912"),
            ("1.50G", "1610612736"),
            ("0.75T", "824633720832"),
            ("2P", "2251799813685248"),
        ] {
            assert_eq!(parsed(&format!("mem={text}")), [format!("memory_byte_seconds={count}")]);
        }
    }

    #[test]
    fn what_is_no_count_is_refused_in_words() {
        for (text, why) in [
            ("cpu", "`cpu` is no KEY=COUNT"),
            ("gres/gpu=two", "`gres/gpu=two` has no plain count"),
            ("gres/gpu:a=1,gres/gpu:b=x", "`gres/gpu:b=x` has no plain count"),
            ("cpu=", "`cpu=` has no plain count"),
            ("cpu=-1", "`cpu=-1` has no plain count"),
            ("cpu=2K", "`cpu=2K` has no plain count"),
            ("mem=512", "`mem=512` has no unit (K, M, G, T or P)"),
            ("mem=M", "`mem=M` has no plain count"),
            ("mem=ö", "`mem=ö` has no unit (K, M, G, T or P)"),
            ("cpu=1,cpu=2", "`cpu` is there twice"),
            ("mem=79228162514264337593543950335P", "`mem` is more than can be counted"),
        ] {
            assert_eq!(parse(text, |_| true), Err(why.to_owned()), "{text}");
        }
    }

    /// Whatever a site counts besides, in whatever words, costs no job its hours.
    #[test]
    fn only_what_is_wanted_is_parsed_strictly() {
        for (text, cpu, gpu) in [
            ("billing=4,cpu=4,gres/gpu=1,gres/gpumem=20480M,mem=16G,node=1", Some("4"), Some("1")),
            ("billing=many,cpu=4,energy=,mem=512,node,vmem=1X,bb/datawarp=2G,=,x=y=z", Some("4"), None),
            ("cpu=2,gres/gpu:a100=1,gres/gpu:v100=2,gres/craynetwork=four", Some("2"), Some("3")),
            ("cpu=2,gres/gpu:a100=x,gres/gpu=1", Some("2"), Some("1")),
            ("gres/cpu=9,cpu=1,license/a:b=?,mem=1M,mem=2M", Some("1"), None),
            ("billing=64,cpu=9,gres/gpu:a100_3g.20gb=1,gres/gpu=1", Some("9"), Some("1")),
        ] {
            let wanted = ["cpu_seconds", "gpu_seconds"];
            let used = parse(text, |name| wanted.contains(&name)).unwrap();
            let found = |name: &str| {
                let mut found = used.iter().filter(|used| used.name == name);
                let count = found.next().map(|used| used.count.normalize().to_string());
                assert!(found.next().is_none(), "{text}");
                count
            };
            assert_eq!(
                (found("cpu_seconds").as_deref(), found("gpu_seconds").as_deref()),
                (cpu, gpu),
                "{text}"
            );
            assert_eq!(used.len(), usize::from(cpu.is_some()) + usize::from(gpu.is_some()), "{text}");
        }
        // What is wanted and odd is refused; a sum of types that lacks one is none.
        let gpu = |text| parse(text, |name| name == "gpu_seconds");
        assert_eq!(gpu("gres/gpu=2K"), Err("`gres/gpu=2K` has no plain count".to_owned()));
        assert_eq!(gpu("gres/gpu:a=1,gres/gpu:b=x"), Err("`gres/gpu:b=x` has no plain count".to_owned()));
    }

    #[test]
    fn a_misspelt_name_is_no_reading() {
        for name in
            ["gpu:a100_seconds", "gres/shard_seconds", "gres/shard:t4_seconds", "license/matlab_seconds"]
        {
            assert!(is_reading(name), "{name}");
        }
        for name in [
            "cpus_seconds",
            "gpu:a100",
            "gres/gpu_seconds",
            "gres/gpu:a100_seconds",
            "gpu:_seconds",
            "gres/_seconds",
        ] {
            assert!(!is_reading(name), "{name}");
        }
    }
}
