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

/// Why a count is none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrong {
    /// Nothing of the list is believed.
    Odd(String),
    /// SLURM's number for "not known" or "without end", which says nothing of the other counts.
    NoValue(String),
}

/// What a job had of what is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) used: Vec<Used>,
    /// Readings whose count is not known, and why.
    pub(super) unknown: Vec<(String, String)>,
}

/// What a job had of what is wanted. Whatever else the list says, and however oddly (a unit or a word where a count should
/// be), is not looked into. What is no count (`energy`), or nothing to bill by the second, is left out.
pub(super) fn parse(text: &str, wants: impl Fn(&str) -> bool) -> Result<List, String> {
    let mut all: Vec<(String, &'static str, Result<Decimal, Wrong>)> = Vec::new();
    // Things of which only typed counts are told.
    let mut sums: Vec<(&str, Result<Decimal, Wrong>)> = Vec::new();
    let (mut untyped, mut typed): (Vec<&str>, Vec<&str>) = Default::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, text) = part.split_once('=').unwrap_or((part, ""));
        let Some((name, unit)) = reading(key) else { continue };
        let count = || match key {
            _ if !part.contains('=') => Err(Wrong::Odd(format!("`{part}` is no KEY=COUNT"))),
            "mem" => bytes(text),
            _ => number(key, text),
        };
        if let Some(thing) = key.strip_prefix("gres/").map(|_| key.split(':').next().unwrap_or(key)) {
            if thing == key {
                untyped.push(key);
            } else if wants(&gres(thing)) {
                // Which of the two is meant can't be known.
                let count = || match typed.contains(&key) {
                    true => Err(Wrong::Odd(format!("`{key}` is there twice"))),
                    false => count(),
                };
                match sums.iter_mut().find(|(known, _)| *known == thing) {
                    Some((_, sum)) => {
                        let added = sum
                            .clone()
                            .and_then(|sum| sum.checked_add(count()?).ok_or_else(|| too_large(key)));
                        *sum = added;
                    }
                    None => sums.push((thing, count())),
                }
                typed.push(key);
            }
        }
        if !wants(&name) {
            continue;
        }
        if all.iter().any(|(known, ..)| *known == name) {
            return Err(format!("`{key}` is there twice"));
        }
        all.push((name, unit, count()));
    }
    // A cluster may account for types alone (AccountingStorageTRES=gres/gpu:a100).
    let sums = sums.into_iter().filter(|(thing, _)| !untyped.contains(thing));
    let mut list = List::default();
    for (name, unit, count) in all.into_iter().chain(sums.map(|(thing, sum)| (gres(thing), "s", sum))) {
        match count {
            Ok(count) => list.used.push(Used { name, unit, count }),
            Err(Wrong::NoValue(why)) => list.unknown.push((name, why)),
            Err(Wrong::Odd(why)) => return Err(why),
        }
    }
    Ok(list)
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

fn too_large(key: &str) -> Wrong {
    Wrong::Odd(format!("`{key}` is more than can be counted"))
}

fn number(key: &str, text: &str) -> Result<Decimal, Wrong> {
    match parse_value(text) {
        Ok(count) if is_no_value(count) => Err(no_value(key, text)),
        Ok(count) if !count.is_sign_negative() => Ok(count),
        _ => Err(Wrong::Odd(format!("`{key}={text}` has no plain count"))),
    }
}

fn no_value(key: &str, text: &str) -> Wrong {
    Wrong::NoValue(format!(
        "`{key}={text}` is SLURM's number for what is not known or has no end (NO_VAL, INFINITE), and no count"
    ))
}

/// Whether it is NO_VAL or INFINITE, of 32 bits or of 64 (slurm.h), or has the uppermost bit of 64, which SLURM uses as a flag.
fn is_no_value(count: Decimal) -> bool {
    const OF_32_BITS: [u64; 2] = [0xffff_fffe, 0xffff_ffff];
    OF_32_BITS.map(Decimal::from).contains(&count) || count >= Decimal::from(1_u64 << 63)
}

/// `2048M`, `1.50G`. SLURM's units are powers of 1024, whatever its letters say. A number without one would be a guess.
fn bytes(text: &str) -> Result<Decimal, Wrong> {
    if text == "0" {
        return Ok(Decimal::ZERO);
    }
    let unit = match text.chars().next_back() {
        Some('K') => 1_u64 << 10,
        Some('M') => 1 << 20,
        Some('G') => 1 << 30,
        Some('T') => 1 << 40,
        Some('P') => 1 << 50,
        _ => return Err(Wrong::Odd(format!("`mem={text}` has no unit (K, M, G, T or P)"))),
    };
    let count = number("mem", &text[..text.len() - 1]).map_err(|wrong| match wrong {
        Wrong::NoValue(_) => no_value("mem", text),
        Wrong::Odd(_) => Wrong::Odd(format!("`mem={text}` has no plain count")),
    })?;
    let bytes = count.checked_mul(unit.into()).ok_or_else(|| too_large("mem"))?;
    // SLURM counts in MiB, whatever it prints.
    match is_no_value(bytes / Decimal::from(1_u64 << 20)) {
        true => Err(no_value("mem", text)),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        let used = parse(text, |_| true).unwrap().used;
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
            ("gres/gpu:a=1,gres/gpu:a=1", "`gres/gpu:a` is there twice"),
            ("mem=9223372036854775807P", "`mem` is more than can be counted"),
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
            let used = parse(text, |name| wanted.contains(&name)).unwrap().used;
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
        assert_eq!(
            gpu("gres/gpu:a=1,gres/gpu:b=2,gres/gpu:a=1"),
            Err("`gres/gpu:a` is there twice".to_owned())
        );
        // What is not wanted may be there as often as it likes.
        assert_eq!(gpu("gres/gpu=1,gres/gpu:a=1,gres/gpu:a=1").map(|list| list.used.len()), Ok(1));
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

    /// slurm.h: NO_VAL and INFINITE, of 32 bits and of 64.
    #[test]
    fn slurms_numbers_for_no_number_are_none_and_cost_themselves_alone() {
        for count in [
            "4294967294",
            "4294967295",
            "9223372036854775808",
            "18446744073709551614",
            "18446744073709551615",
        ] {
            let List { used, unknown } = parse(&format!("billing={count},cpu=2"), |_| true).unwrap();
            assert_eq!((used.len(), used[0].count), (1, 2.into()), "{count}");
            let why = format!(
                "`billing={count}` is SLURM's number for what is not known or has no end (NO_VAL, INFINITE), and no count"
            );
            assert_eq!(unknown, [("billing_seconds".to_owned(), why)]);
        }
        // A sum with such a number is none either.
        let List { used, unknown } =
            parse("gres/gpu:a=1,gres/gpu:b=4294967294", |name| name == "gpu_seconds").unwrap();
        assert_eq!((used.len(), unknown.len(), unknown[0].0.as_str()), (0, 1, "gpu_seconds"));
        // Memory is counted in MiB: 2^64 - 2 of them, rounded, are 2^34 PiB.
        for mem in [
            "4294967294M",
            "18446744073709551614M",
            "17179869184P",
            "9223372036854779904M",
            "18446744073709551615K",
        ] {
            let List { used, unknown } = parse(&format!("mem={mem},cpu=2"), |_| true).unwrap();
            assert_eq!((used.len(), unknown.len()), (1, 1), "{mem}");
            assert!(unknown[0].1.starts_with(&format!("`mem={mem}` is SLURM's number")), "{unknown:?}");
        }
        assert_eq!(parsed("cpu=4294967293,mem=4294967293M").len(), 2);
        assert_eq!(parsed("mem=4P"), ["memory_byte_seconds=4503599627370496"]);
    }
}
