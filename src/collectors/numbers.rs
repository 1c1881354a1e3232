//! Numbers and times as Prometheus and all that speak like it write them: text made of binary floats.
//!
//! No float is made of them here. A value keeps every digit that its text has, down to the last place that a reading has
//! (1e-12 of its unit); what is written beyond it is the noise of the float at the source, and cut off.

use jiff::Timestamp;
use rust_decimal::Decimal;

use crate::metering::exact::Exact;
use crate::metering::reading::VALUE_PLACES;

/// Reads a value such as `17`, `1.234e+09` or `0.30000000000000004`. What is no number is refused in words.
pub(super) fn value(text: &str) -> Result<Decimal, String> {
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if word == "nan" {
        return Err("its value is NaN, which is no number".to_owned());
    }
    if word == "inf" || word == "infinity" {
        return Err(format!("its value is {text}, which is without end"));
    }
    decimal(text)?
        .floor_to(VALUE_PLACES)
        .to_decimal()
        .ok_or_else(|| format!("`{}` has more digits than can be kept exactly (28)", short(text)))
}

/// Reads an instant in seconds since 1970, such as `1520879607.789` or `1.520879607789e9`.
pub(super) fn seconds(text: &str) -> Result<Timestamp, String> {
    instant(text, 1_000_000)
}

/// Reads an instant in milliseconds since 1970.
pub(super) fn milliseconds(text: &str) -> Result<Timestamp, String> {
    instant(text, 1_000)
}

fn instant(text: &str, micros: i64) -> Result<Timestamp, String> {
    let scaled = decimal(text)? * Exact::from(micros);
    let micros = scaled.floor_to(0).to_decimal().and_then(|whole| i64::try_from(whole).ok());
    micros
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .ok_or_else(|| format!("`{}` is no time since 1970", short(text)))
}

fn decimal(text: &str) -> Result<Exact, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let number = text.parse().ok().filter(|_| is_plain);
    number.ok_or_else(|| format!("`{}` is not a decimal number", short(text)))
}

/// Enough of a text to know it again.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_digit_is_kept_down_to_the_last_place_of_a_reading() {
        for (text, exact) in [
            ("17", "17"),
            ("+17.50", "17.5"),
            ("-0.25", "-0.25"),
            ("1.234e+09", "1234000000"),
            ("1e+21", "1000000000000000000000"),
            ("9007199254740993", "9007199254740993"),
            ("12345.678", "12345.678"),
            (".5", "0.5"),
            ("4.2e-08", "0.000000042"),
            // 0.1 + 0.2, as a float has it.
            ("0.30000000000000004", "0.3"),
            ("0.1234567890129", "0.123456789012"),
            ("1e-13", "0"),
            ("5e-324", "0"),
        ] {
            assert_eq!(
                value(text).map(|value| value.normalize().to_string()),
                Ok(exact.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_number_is_refused_in_words() {
        for text in ["NaN", "nan", "-NaN"] {
            assert_eq!(value(text), Err("its value is NaN, which is no number".to_owned()));
        }
        assert_eq!(value("+Inf"), Err("its value is +Inf, which is without end".to_owned()));
        assert_eq!(value("-Infinity"), Err("its value is -Infinity, which is without end".to_owned()));
        assert_eq!(value("1/3"), Err("`1/3` is not a decimal number".to_owned()));
        assert_eq!(value("0x1p-2"), Err("`0x1p-2` is not a decimal number".to_owned()));
        assert_eq!(value(""), Err("`` is not a decimal number".to_owned()));
        assert_eq!(
            value("1.7e+308"),
            Err("`1.7e+308` has more digits than can be kept exactly (28)".to_owned())
        );
    }

    #[test]
    fn times_are_read_without_a_float() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(seconds("1520879607.789"), Ok(at("2018-03-12T18:33:27.789Z")));
        assert_eq!(seconds("1.520879607789e9"), Ok(at("2018-03-12T18:33:27.789Z")));
        assert_eq!(seconds("1795394001"), Ok(at("2026-11-23T00:33:21Z")));
        assert_eq!(milliseconds("1395066363000"), Ok(at("2014-03-17T14:26:03Z")));
        assert_eq!(seconds("1e30"), Err("`1e30` is no time since 1970".to_owned()));
        assert_eq!(seconds("NaN"), Err("`NaN` is not a decimal number".to_owned()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), like in "[-+]?[0-9]{0,30}[.]?[0-9]{0,30}(e[-+]?[0-9]{1,9})?") {
            for text in [text, like] {
                let _ = (value(&text), seconds(&text), milliseconds(&text));
            }
        }

        #[test]
        fn the_shortest_text_of_any_float_is_the_float(number in -1e12f64..1e12) {
            let exact = value(&format!("{number:?}")).unwrap();
            // Cut down by less than the last place, and read back as the float that is nearest to that.
            let back: f64 = exact.to_string().parse().unwrap();
            prop_assert!((back - number).abs() <= 1e-12 + number.abs() * 2e-16, "{number:?} {exact}");
        }
    }
}
