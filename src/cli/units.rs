//! Whether what a meter makes is in the unit that Waldur measures the component in. A unit is free text on both sides, so
//! only what is plain on both is compared, and only what is plainly wrong is told of: a weight of 2 is none of its business,
//! hours that are seconds are. It never changes a number.

use crate::metering::exact::Exact;
use crate::metering::measure::Measure;

/// What two units are to each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Agree,
    /// At least one of them says nothing that is known.
    Unknown,
    /// What is wrong, for the operator.
    Differ(String),
}

/// A unit as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    /// In seconds and bytes. Two where people mean either by it: a GB is 10^9 or 2^30 bytes.
    scales: Vec<Exact>,
    /// How often time and bytes are in it: core-hours 1 and 0, bytes 0 and 1.
    time: usize,
    bytes: usize,
}

/// Less than this is a weight or a taste; the usual mistakes are 60, 1000, 3600 and more.
const PLAIN: i64 = 30;

/// The unit of what a meter makes, before its factor.
pub(super) fn made(unit: &str, measure: Measure) -> String {
    match measure {
        Measure::Integral(..) if ["", "1"].contains(&unit) => "h".to_owned(),
        Measure::Integral(..) => format!("{unit} h"),
        _ => unit.to_owned(),
    }
}

/// Whether a meter of readings in `unit` makes what Waldur measures in `theirs`.
pub(super) fn judge(unit: &str, measure: Measure, factor: &Exact, theirs: &str) -> Verdict {
    let (Some(ours), Some(wanted)) = (parse(&made(unit, measure)), parse(theirs)) else {
        return Verdict::Unknown;
    };
    if unit.trim().is_empty() || factor.is_zero() {
        return Verdict::Unknown;
    }
    if ours.bytes != wanted.bytes {
        return Verdict::Differ(format!("`{}` is no measure of `{theirs}`", made(unit, measure)));
    }
    if ours.time < wanted.time {
        let what =
            "a level at an instant, or a plain count; `aggregate: integral` makes unit-hours of a gauge";
        return Verdict::Differ(format!(
            "`{theirs}` is by time, and `{}` is not: it is {what}",
            made(unit, measure)
        ));
    }
    if ours.time > wanted.time {
        // With a factor that divides by a month's hours it is an average; without, it is not.
        let level = parse(unit)
            .is_some_and(|level| level.time == wanted.time && fits(&level, &wanted, factor).is_ok());
        return match (measure, level) {
            (Measure::Integral(..), true) => Verdict::Differ(format!(
                "`aggregate: integral` makes unit-hours, and `{theirs}` is not by time; `mean`, `max` or `last` make a level"
            )),
            _ => Verdict::Unknown,
        };
    }
    match fits(&ours, &wanted, factor) {
        Ok(()) => Verdict::Agree,
        Err((times, right)) => Verdict::Differ(format!(
            "it looks {times}; `factor: {right}` makes {theirs} of {}",
            made(unit, measure)
        )),
    }
}

/// Whether the factor is about the one that makes the one unit of the other; if not, how far off it is, and which does.
fn fits(ours: &Unit, wanted: &Unit, factor: &Exact) -> Result<(), (String, String)> {
    let mut wrong = None;
    for our in &ours.scales {
        for their in &wanted.scales {
            let Some(right) = our.checked_div(their) else { continue };
            let Some(ratio) = factor.checked_div(&right) else { continue };
            let Some(inverse) = right.checked_div(factor) else { continue };
            if ratio < Exact::from(PLAIN) && inverse < Exact::from(PLAIN) {
                return Ok(());
            }
            let times = match ratio > Exact::one() {
                true => format!("{} times too much", ratio.approximate(0)),
                false => format!("{} times too little", inverse.approximate(0)),
            };
            wrong = wrong.or(Some((times, written(&right))));
        }
    }
    wrong.map_or(Ok(()), Err)
}

/// The factor that makes `theirs` of readings in `unit`; `None` if either unit says nothing that is known, or if no
/// factor does. Where a unit is ambiguous (a GB), the binary one is taken.
pub(super) fn factor(unit: &str, measure: Measure, theirs: &str) -> Option<String> {
    let (ours, wanted) = (parse(&made(unit, measure))?, parse(theirs)?);
    if (ours.bytes, ours.time) != (wanted.bytes, wanted.time) {
        return None;
    }
    ours.scales.first()?.checked_div(wanted.scales.first()?).map(|right| written(&right))
}

/// A factor as people write it: 1/3600.
pub(super) fn written(factor: &Exact) -> String {
    let inverse = Exact::one().checked_div(factor).map(|inverse| inverse.to_string());
    let whole = inverse.filter(|text| text != "1" && text.bytes().all(|b| b.is_ascii_digit()));
    whole.map_or(factor.to_string(), |text| format!("1/{text}"))
}

/// `core-hours`, `GB*h`, `kB`; `None` if any part of it is not known.
fn parse(text: &str) -> Option<Unit> {
    let separates = |c: char| c.is_whitespace() || "-*·×⋅._()".contains(c);
    let mut unit = Unit { scales: vec![Exact::one()], time: 0, bytes: 0 };
    let mut words = text.split(separates).filter(|word| !word.is_empty()).peekable();
    words.peek()?;
    for word in words {
        let scales: Vec<i64> = match word.to_lowercase().as_str() {
            "s" | "sec" | "secs" | "second" | "seconds" => time(&mut unit, 1),
            "min" | "mins" | "minute" | "minutes" => time(&mut unit, 60),
            "h" | "hr" | "hrs" | "hour" | "hours" => time(&mut unit, 3_600),
            "d" | "day" | "days" => time(&mut unit, 86_400),
            "k" | "kilo" | "thousand" => vec![1_000],
            "1" | "cpu" | "cpus" | "vcpu" | "vcpus" | "core" | "cores" | "gpu" | "gpus" | "node"
            | "nodes" | "ram" | "memory" | "storage" | "disk" | "seat" | "seats" | "licence" | "licences"
            | "license" | "licenses" | "process" | "processes" | "task" | "tasks" | "file" | "files"
            | "user" | "users" => vec![1],
            small => {
                unit.bytes += 1;
                bytes(small, word)?
            }
        };
        let each =
            |scale: &Exact| scales.iter().map(|more| scale.clone() * Exact::from(*more)).collect::<Vec<_>>();
        unit.scales = unit.scales.iter().flat_map(each).collect();
    }
    Some(unit)
}

fn time(unit: &mut Unit, seconds: i64) -> Vec<i64> {
    unit.time += 1;
    vec![seconds]
}

/// Bytes of `B`, `kB`, `GiB`, ...; a small `b` may be bits.
fn bytes(small: &str, word: &str) -> Option<Vec<i64>> {
    if ["byte", "bytes"].contains(&small) {
        return Some(vec![1]);
    }
    let prefix = word.strip_suffix('B')?;
    let power = |letters: &str| match letters {
        "" => Some(0),
        "k" | "K" => Some(1),
        "M" => Some(2),
        "G" => Some(3),
        "T" => Some(4),
        "P" => Some(5),
        _ => None,
    };
    match prefix.strip_suffix('i') {
        Some(letter) => power(letter).filter(|power| *power > 0).map(|power| vec![1_i64 << (10 * power)]),
        None => power(prefix).map(|power| match power {
            0 => vec![1],
            power => vec![1_i64 << (10 * power), 1_000_i64.pow(power)],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::measure::Hold;

    const HOURS: Measure = Measure::Integral(
        Hold {
            interpolation: crate::metering::measure::Interpolation::Step,
            max_gap: None,
            on_gap: crate::metering::measure::OnGap::LeaveOut,
        },
        None,
    );

    fn told(unit: &str, measure: Measure, factor: &str, theirs: &str) -> Verdict {
        judge(unit, measure, &factor.parse().unwrap(), theirs)
    }

    #[test]
    fn what_fits_is_left_in_peace() {
        for (unit, measure, factor, theirs) in [
            ("s", Measure::Increase(None), "1/3600", "h"),
            ("s", Measure::Increase(None), "1/3600", "CPU hours"),
            ("seconds", Measure::Sum(None), "1/3600", "core-hours"),
            ("s", Measure::Sum(None), "1/3600000", "K core-hours"),
            ("s", Measure::Sum(None), "1/86400", "node-days"),
            // A weight is the provider's own affair.
            ("s", Measure::Sum(None), "1.5/3600", "GPU-h"),
            ("s", Measure::Sum(None), "1", "seconds"),
            ("B", HOURS, "1/1073741824", "GB*h"),
            ("B", HOURS, "1/1000000000", "GB hours"),
            ("B", HOURS, "1/1073741824", "GiB-h"),
            ("B", Measure::Level, "1/1000000000000", "TB"),
            ("kB", Measure::Level, "1/1000000", "GB"),
            ("seats", HOURS, "1", "seat-hours"),
            ("1", HOURS, "1", "h"),
        ] {
            assert_eq!(told(unit, measure, factor, theirs), Verdict::Agree, "{unit} x {factor} in {theirs}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        for (unit, measure, factor, theirs) in [
            ("", Measure::Increase(None), "1", "h"),
            ("s", Measure::Increase(None), "1", ""),
            ("s", Measure::Increase(None), "1", "credits"),
            ("s", Measure::Increase(None), "1", "unit"),
            ("req", Measure::Sum(None), "1", "h"),
            ("s", Measure::Sum(None), "1", "h/month"),
            ("GBh", Measure::Sum(None), "1", "h"),
            // Bits or bytes?
            ("B", Measure::Sum(None), "1", "Gb"),
            // An average over a month of 720 hours.
            ("B", HOURS, "1/773094113280", "GB"),
            ("s", Measure::Increase(None), "1/86400", "cores"),
            ("s", Measure::Increase(None), "0", "h"),
        ] {
            assert_eq!(
                told(unit, measure, factor, theirs),
                Verdict::Unknown,
                "{unit} x {factor} in {theirs}"
            );
        }
    }

    #[test]
    fn what_is_plainly_wrong_is_told_with_what_would_be_right() {
        for (unit, measure, factor, theirs, words) in [
            (
                "s",
                Measure::Increase(None),
                "1",
                "hours",
                "it looks 3600 times too much; `factor: 1/3600` makes hours of s",
            ),
            (
                "s",
                Measure::Sum(None),
                "1/60",
                "h",
                "it looks 60 times too much; `factor: 1/3600` makes h of s",
            ),
            (
                "s",
                Measure::Sum(None),
                "1/3600",
                "s",
                "it looks 3600 times too little; `factor: 1` makes s of s",
            ),
            (
                "B",
                HOURS,
                "1",
                "GB*h",
                "it looks 1073741824 times too much; `factor: 1/1073741824` makes GB*h of B h",
            ),
            ("B", Measure::Level, "1/1000000000", "h", "`B` is no measure of `h`"),
            ("s", Measure::Increase(None), "1/3600", "GB", "`s` is no measure of `GB`"),
            (
                "B",
                Measure::Level,
                "1/1000000000",
                "GB*h",
                "`GB*h` is by time, and `B` is not: it is a level at an instant, or a plain count; `aggregate: integral` makes \
                 unit-hours of a gauge",
            ),
            (
                "B",
                HOURS,
                "1/1000000000",
                "GB",
                "`aggregate: integral` makes unit-hours, and `GB` is not by time; `mean`, `max` or `last` make a level",
            ),
        ] {
            assert_eq!(told(unit, measure, factor, theirs), Verdict::Differ(words.to_owned()));
        }
    }

    #[test]
    fn the_factor_that_makes_a_unit_is_named_where_there_is_one() {
        for (unit, measure, theirs, wanted) in [
            ("s", Measure::Increase(None), "h", Some("1/3600")),
            ("s", Measure::Sum(None), "k-Hours", Some("1/3600000")),
            ("s", Measure::Sum(None), "minutes", Some("1/60")),
            ("s", Measure::Sum(None), "s", Some("1")),
            ("B", HOURS, "GB*h", Some("1/1073741824")),
            ("B*s", Measure::Sum(None), "GiB hours", Some("1/3865470566400")),
            ("B", Measure::Level, "TB", Some("1/1099511627776")),
            ("B", HOURS, "GB", None),
            ("s", Measure::Sum(None), "GB*h", None),
            ("s", Measure::Sum(None), "credits", None),
        ] {
            assert_eq!(factor(unit, measure, theirs).as_deref(), wanted, "{unit} in {theirs}");
        }
    }
}
