//! Amounts as the server's decimal field takes them: at most 18 digits before the point and 2 behind it.
//!
//! No float is ever made of an amount, and nothing is rounded: what has too many decimals is refused (A §1).

use rust_decimal::Decimal;

use crate::json::Json;

/// The field: 20 digits in total, 2 of them behind the point.
const TOTAL_DIGITS: i64 = 20;
const PLACES: i64 = 2;
const WHOLE_DIGITS: i64 = 18;
/// Longer texts are not even looked at.
const LONGEST: usize = 1000;

const INVALID: &str = "A valid number is required.";

/// Reads an amount, or says why not in the server's words.
pub(crate) fn read(value: &Json) -> Result<Decimal, String> {
    let text = match value {
        Json::Null => return Err("This field may not be null.".into()),
        Json::Number(literal) => literal.clone(),
        Json::Text(text) => text.value.trim().to_owned(),
        Json::Bool(_) | Json::List(_) | Json::Object(_) => return Err(INVALID.into()),
    };
    if text.chars().count() > LONGEST {
        return Err("String value too large.".into());
    }
    let number = Scientific::parse(&text).ok_or(INVALID)?;
    number.check()?;
    number.decimal().ok_or_else(|| INVALID.into())
}

/// Two decimals, as every amount is shown.
pub(crate) fn show(amount: Decimal) -> String {
    format!("{amount:.2}")
}

/// A decimal number in its written form: the digits without a point, and the power of ten they stand at.
struct Scientific {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Scientific {
    /// The forms that the server's language takes: `5`, `+5.`, `.5`, `1e3`, `1_000`, and digits of any script
    /// (A §1: "٣" is accepted).
    fn parse(text: &str) -> Option<Self> {
        let plain: String = text.chars().filter(|c| *c != '_').map(ascii_digit).collect();
        let (negative, unsigned) = match plain.as_bytes().first()? {
            b'-' => (true, plain.get(1..)?),
            b'+' => (false, plain.get(1..)?),
            _ => (false, plain.as_str()),
        };
        let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
            Some(at) => {
                let written = unsigned.get(at + 1..)?;
                let digits = written.strip_prefix(['+', '-']).unwrap_or(written);
                if digits.is_empty() || digits.len() > 9 || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                (unsigned.get(..at)?, written.parse::<i64>().ok()?)
            }
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let behind = i64::try_from(fraction.len()).ok()?;
        let significant = digits.trim_start_matches('0');
        let digits = if significant.is_empty() { "0".to_owned() } else { significant.to_owned() };
        Some(Self { negative, digits, exponent: exponent - behind })
    }

    /// The server's three checks in its order: digits in total, decimals, digits before the point.
    fn check(&self) -> Result<(), String> {
        let written = i64::try_from(self.digits.len()).unwrap_or(i64::MAX);
        let (total, whole, places) = if self.exponent >= 0 {
            (written + self.exponent, written + self.exponent, 0)
        } else if written > -self.exponent {
            (written, written + self.exponent, -self.exponent)
        } else {
            (-self.exponent, 0, -self.exponent)
        };
        if total > TOTAL_DIGITS {
            return Err(format!("Ensure that there are no more than {TOTAL_DIGITS} digits in total."));
        }
        if places > PLACES {
            return Err(format!("Ensure that there are no more than {PLACES} decimal places."));
        }
        if whole > WHOLE_DIGITS {
            return Err(format!(
                "Ensure that there are no more than {WHOLE_DIGITS} digits before the decimal point."
            ));
        }
        Ok(())
    }

    /// Only after `check`, which bounds every exponent to what fits.
    fn decimal(&self) -> Option<Decimal> {
        let zeros = usize::try_from(self.exponent.max(0)).ok()?;
        let mantissa: i128 = format!("{}{}", self.digits, "0".repeat(zeros)).parse().ok()?;
        let scale = u32::try_from((-self.exponent).max(0)).ok()?;
        let signed = if self.negative { -mantissa } else { mantissa };
        let mut amount = Decimal::try_from_i128_with_scale(signed, scale).ok()?;
        amount.rescale(2);
        Some(amount)
    }
}

/// Maps the decimal digits of the other scripts that are met in practice to ASCII.
fn ascii_digit(c: char) -> char {
    /// The zero of each script: Arabic-Indic, its Persian form, Devanagari, Bengali, Thai, full width.
    const ZEROS: [u32; 6] = [0x0660, 0x06f0, 0x0966, 0x09e6, 0x0e50, 0xff10];
    let code = u32::from(c);
    ZEROS
        .iter()
        .find(|zero| (**zero..**zero + 10).contains(&code))
        .and_then(|zero| char::from_digit(code - zero, 10))
        .unwrap_or(c)
}
