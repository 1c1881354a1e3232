//! Lengths of time as people write them in the configuration file: `30s`, `5m`, `1h30m`, `2d`.
//!
//! Whole seconds only, and never a float: every length that the agent acts on is exact.

use jiff::SignedDuration;

/// The longest length of time that can be configured: 366 days.
const MAX_SECONDS: i64 = 366 * 86_400;

/// Reads a length of time: whole numbers with `s`, `m`, `h` or `d`, the larger unit first. A day is 24 hours. Zero
/// is refused, because nothing that is configured with it makes sense of none at all.
pub fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let example = || format!("`{text}` is not a length of time such as 30s, 5m, 1h30m or 2d");
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return Err(format!("`{text}` needs a unit: {text}s for seconds, {text}m for minutes"));
    }
    let mut seconds: i64 = 0;
    let mut last_unit = i64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(example)?;
        let count: i64 = rest[..digits].parse().map_err(|_| example())?;
        let unit = match rest.as_bytes().get(digits) {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 3_600,
            Some(b'd') => 86_400,
            _ => return Err(example()),
        };
        if unit >= last_unit {
            return Err(example());
        }
        last_unit = unit;
        seconds = count
            .checked_mul(unit)
            .and_then(|more| seconds.checked_add(more))
            .filter(|seconds| *seconds <= MAX_SECONDS)
            .ok_or_else(|| format!("`{text}` is longer than 366 days"))?;
        rest = &rest[digits + 1..];
    }
    match seconds {
        0 if text.is_empty() => Err(example()),
        0 => Err(format!("`{text}` is no time at all")),
        seconds => Ok(SignedDuration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_read_exactly() {
        for (text, seconds) in
            [("30s", 30), ("5m", 300), ("1h30m", 5_400), ("2d", 172_800), ("1d1h1m1s", 90_061)]
        {
            assert_eq!(parse_duration(text), Ok(SignedDuration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused_with_an_example() {
        for text in ["", "s", "5", "m5", "5 m", "30m1h", "1h1h", "1.5h", "-5m", "5m3", "5M", "١s", "5ms"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration("60").unwrap_err(), "`60` needs a unit: 60s for seconds, 60m for minutes");
        assert_eq!(parse_duration("0s").unwrap_err(), "`0s` is no time at all");
        assert_eq!(parse_duration("367d").unwrap_err(), "`367d` is longer than 366 days");
        assert!(parse_duration("99999999999999999999s").is_err());
        assert!(parse_duration("9223372036854775807d").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), like in "[0-9smhd]{0,30}") {
            let _ = (parse_duration(&text), parse_duration(&like));
        }
    }
}
