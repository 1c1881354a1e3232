//! Exact numbers: rationals of any size, so that no amount is ever a float, overflows or loses a digit.
//!
//! An amount is rounded once, by `round`, when it is posted. Nothing here knows what a number means.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};
use std::str::FromStr;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};
use rust_decimal::Decimal;

/// An exact rational number. Written as a plain decimal where it has an end (`0.25`), else as `n/d` (`1/3600`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exact(BigRational);

/// How the one rounding to the server's 2 decimals is done. Half-even unless a meter says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    #[default]
    HalfEven,
    HalfUp,
    Down,
    Up,
}

impl Rounding {
    pub const NAMES: [&str; 4] = ["half_even", "half_up", "down", "up"];

    pub fn name(self) -> &'static str {
        match self {
            Rounding::HalfEven => "half_even",
            Rounding::HalfUp => "half_up",
            Rounding::Down => "down",
            Rounding::Up => "up",
        }
    }
}

impl FromStr for Rounding {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "half_even" => Ok(Rounding::HalfEven),
            "half_up" => Ok(Rounding::HalfUp),
            "down" => Ok(Rounding::Down),
            "up" => Ok(Rounding::Up),
            other => Err(format!("`{other}` is no rounding; known: {}", Rounding::NAMES.join(", "))),
        }
    }
}

impl Exact {
    pub fn zero() -> Self {
        Exact(BigRational::zero())
    }

    pub fn one() -> Self {
        Exact(BigRational::one())
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    pub fn is_negative(&self) -> bool {
        self.0.is_negative()
    }

    /// `numerator / denominator`; `None` for a zero denominator.
    pub fn ratio(numerator: i128, denominator: i128) -> Option<Self> {
        (denominator != 0).then(|| Exact(BigRational::new(numerator.into(), denominator.into())))
    }

    /// `self / divisor`; `None` for a zero divisor.
    pub fn checked_div(&self, divisor: &Exact) -> Option<Exact> {
        (!divisor.0.is_zero()).then(|| Exact(&self.0 / &divisor.0))
    }

    /// The largest multiple of 10^-`places` that is not above `self`.
    pub fn floor_to(&self, places: u32) -> Exact {
        let scale = power_of_ten(places);
        Exact(BigRational::new((&self.0 * &scale).floor().to_integer(), scale))
    }

    /// Rounds to a whole number of 10^-`places`. The result counts those (for 2 places: cents).
    pub fn round(&self, places: u32, rounding: Rounding) -> BigInt {
        let scaled = &self.0 * power_of_ten(places);
        let floor = scaled.floor().to_integer();
        let rest = &scaled - BigRational::from_integer(floor.clone());
        let half = BigRational::new(1.into(), 2.into());
        let up = match rounding {
            Rounding::Down => false,
            Rounding::Up => !rest.is_zero(),
            Rounding::HalfUp => rest >= half,
            Rounding::HalfEven => rest > half || (rest == half && &floor % BigInt::from(2) != BigInt::zero()),
        };
        if up { floor + 1 } else { floor }
    }

    /// The number as a decimal, if it has one that fits 28 digits.
    pub fn to_decimal(&self) -> Option<Decimal> {
        let text = self.to_string();
        Decimal::from_str_exact(&text).ok()
    }

    /// Rounded to `places` decimals for a person to read; never for a bill.
    pub fn approximate(&self, places: u32) -> String {
        Exact(BigRational::new(self.round(places, Rounding::HalfEven), power_of_ten(places))).to_string()
    }
}

fn power_of_ten(places: u32) -> BigInt {
    BigInt::from(10).pow(places)
}

impl From<Decimal> for Exact {
    fn from(value: Decimal) -> Self {
        Exact(BigRational::new(value.mantissa().into(), power_of_ten(value.scale())))
    }
}

impl From<i64> for Exact {
    fn from(value: i64) -> Self {
        Exact(BigRational::from_integer(value.into()))
    }
}

/// Reads `-12.5`, `1e-3`, `1/3600` and `2.5/3`, of at most 100 characters.
impl FromStr for Exact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let not_a_number = || format!("`{text}` is not a number such as 12, 0.25, 1e-3 or 1/3600");
        if text.len() > 100 {
            return Err("a number may have at most 100 characters".to_owned());
        }
        let number = match text.split_once('/') {
            None => decimal(text).ok_or_else(not_a_number)?,
            Some((numerator, denominator)) => {
                let numerator = decimal(numerator).ok_or_else(not_a_number)?;
                let denominator = decimal(denominator).ok_or_else(not_a_number)?;
                if denominator.is_zero() {
                    return Err(format!("`{text}` divides by zero"));
                }
                numerator / denominator
            }
        };
        Ok(Exact(number))
    }
}

const MAX_EXPONENT: u32 = 999;

/// A plain decimal of any length, with an optional exponent of at most 3 digits.
fn decimal(text: &str) -> Option<BigRational> {
    let text = text.trim();
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            (number, exponent.parse::<i32>().ok().filter(|e| e.unsigned_abs() <= MAX_EXPONENT)?)
        }
        None => (text, 0),
    };
    let unsigned = number.strip_prefix(['-', '+']).unwrap_or(number);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut value = BigRational::new(digits.parse().ok()?, power_of_ten(fraction.len() as u32));
    let shift = BigRational::from_integer(power_of_ten(exponent.unsigned_abs()));
    value = if exponent < 0 { value / shift } else { value * shift };
    Some(if number.starts_with('-') { -value } else { value })
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (numerator, denominator) = (self.0.numer(), self.0.denom());
        let Some(places) = decimal_places(denominator) else { return write!(f, "{numerator}/{denominator}") };
        let scaled = (numerator.abs() * power_of_ten(places) / denominator).to_string();
        let places = places as usize;
        let padded = format!("{scaled:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        let sign = if numerator.is_negative() { "-" } else { "" };
        if places == 0 { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{fraction}") }
    }
}

/// How many decimals a fraction with this denominator has; `None` if they never end.
fn decimal_places(denominator: &BigInt) -> Option<u32> {
    let (two, five) = (BigInt::from(2), BigInt::from(5));
    let mut rest = denominator.clone();
    let mut twos = 0;
    while (&rest % &two).is_zero() {
        rest /= &two;
        twos += 1;
    }
    let mut fives = 0;
    while (&rest % &five).is_zero() {
        rest /= &five;
        fives += 1;
    }
    rest.is_one().then_some(twos.max(fives))
}

impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Add for Exact {
    type Output = Exact;
    fn add(self, other: Exact) -> Exact {
        Exact(self.0 + other.0)
    }
}

impl AddAssign for Exact {
    fn add_assign(&mut self, other: Exact) {
        self.0 += other.0;
    }
}

impl Sub for Exact {
    type Output = Exact;
    fn sub(self, other: Exact) -> Exact {
        Exact(self.0 - other.0)
    }
}

impl SubAssign for Exact {
    fn sub_assign(&mut self, other: Exact) {
        self.0 -= other.0;
    }
}

impl Mul for Exact {
    type Output = Exact;
    fn mul(self, other: Exact) -> Exact {
        Exact(self.0 * other.0)
    }
}

impl Neg for Exact {
    type Output = Exact;
    fn neg(self) -> Exact {
        Exact(-self.0)
    }
}

impl Sum for Exact {
    fn sum<I: Iterator<Item = Exact>>(numbers: I) -> Exact {
        numbers.fold(Exact::zero(), Add::add)
    }
}

/// Cents as the decimal that the server takes, with its 2 places. `None` above what 28 digits hold.
pub fn cents_to_decimal(cents: &BigInt) -> Option<Decimal> {
    Decimal::try_from_i128_with_scale(cents.to_i128()?, 2).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> Exact {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_read_as_people_write_them_and_written_back_in_lowest_terms() {
        let same =
            ["0", "1", "-1", "0.25", "-12.5", "1/3600", "-1/3", "1234567890123456789012345678901234567890"];
        for text in same {
            assert_eq!(exact(text).to_string(), text);
        }
        let read = [
            ("1.500", "1.5"),
            ("+7", "7"),
            ("007", "7"),
            ("-0", "0"),
            ("-0.0", "0"),
            (".5", "0.5"),
            ("-.5", "-0.5"),
            ("5.", "5"),
            ("1e3", "1000"),
            ("1E+3", "1000"),
            ("1.5e-3", "0.0015"),
            ("-2e-1", "-0.2"),
            (" 1 / 4 ", "0.25"),
            ("2.5/3", "5/6"),
            ("1/-3600", "-1/3600"),
            ("1/0.5", "2"),
            ("10/4", "2.5"),
            ("7/14", "0.5"),
            ("1/1073741824", "0.000000000931322574615478515625"),
        ];
        for (text, written) in read {
            assert_eq!(exact(text).to_string(), written, "{text}");
        }
        assert_eq!(format!("{:?}", exact("1/3")), "1/3");
    }

    #[test]
    fn what_is_no_number_is_refused_in_words() {
        let bad = [
            "",
            " ",
            ".",
            "-",
            "+",
            "--1",
            "+-1",
            "1e",
            "e3",
            "1e1000",
            "1e-1000",
            "1e99999999999",
            "1e1.5",
            "0x10",
            "1_000",
            "1,5",
            "NaN",
            "inf",
            "1/",
            "/1",
            "1/2/3",
            "1 000",
            "½",
        ];
        for text in bad {
            let message = format!("`{text}` is not a number such as 12, 0.25, 1e-3 or 1/3600");
            assert_eq!(text.parse::<Exact>(), Err(message), "{text}");
        }
        assert_eq!("3/0.0".parse::<Exact>(), Err("`3/0.0` divides by zero".to_owned()));
        let long = "1".repeat(101);
        assert_eq!(long.parse::<Exact>(), Err("a number may have at most 100 characters".to_owned()));
        assert_eq!(exact(&"1".repeat(100)).to_string(), "1".repeat(100));
        assert_eq!(exact("1e999").to_string().len(), 1000);
    }

    #[test]
    fn rounding_in_each_mode() {
        let cases = [
            // exact, half_even, half_up, down, up
            ("0", [0, 0, 0, 0]),
            ("0.004999", [0, 0, 0, 1]),
            ("0.005", [0, 1, 0, 1]),
            ("0.005000000000001", [1, 1, 0, 1]),
            ("0.015", [2, 2, 1, 2]),
            ("0.025", [2, 3, 2, 3]),
            ("1.115", [112, 112, 111, 112]),
            ("1.125", [112, 113, 112, 113]),
            ("1/3", [33, 33, 33, 34]),
            ("2/3", [67, 67, 66, 67]),
            ("7.01", [701, 701, 701, 701]),
            ("-0.005", [0, 0, -1, 0]),
            ("-0.015", [-2, -1, -2, -1]),
        ];
        let modes = [Rounding::HalfEven, Rounding::HalfUp, Rounding::Down, Rounding::Up];
        for (number, cents) in cases {
            for (mode, cents) in modes.into_iter().zip(cents) {
                assert_eq!(exact(number).round(2, mode), BigInt::from(cents), "{number} {mode:?}");
            }
        }
        for mode in modes {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert!(Rounding::NAMES.contains(&mode.name()));
        }
        let message = "`up_down` is no rounding; known: half_even, half_up, down, up";
        assert_eq!("up_down".parse::<Rounding>(), Err(message.to_owned()));
        assert_eq!(Rounding::default(), Rounding::HalfEven);
    }

    #[test]
    fn parts_are_cut_towards_minus_infinity() {
        assert_eq!(exact("10/3").floor_to(12).to_string(), "3.333333333333");
        assert_eq!(exact("-10/3").floor_to(12).to_string(), "-3.333333333334");
        assert_eq!(exact("2.5").floor_to(12), exact("2.5"));
        assert_eq!(exact("2.5").floor_to(0), exact("2"));
        assert_eq!(exact("2/3").approximate(4), "0.6667");
    }

    #[test]
    fn arithmetic_is_exact() {
        let third = exact("1/3");
        assert_eq!(third.clone() + third.clone() + third.clone(), Exact::one());
        assert_eq!(third.clone() * exact("3"), Exact::one());
        assert_eq!(exact("0.1") + exact("0.2"), exact("0.3"));
        assert_eq!(exact("1") - third.clone(), exact("2/3"));
        assert_eq!(-third.clone(), exact("-1/3"));
        assert_eq!([exact("0.1"), exact("1/6")].into_iter().sum::<Exact>(), exact("4/15"));
        let mut number = exact("5");
        number -= exact("7");
        assert!(number.is_negative() && !number.is_zero());
        number += exact("2");
        assert!(number.is_zero() && !number.is_negative());
        assert_eq!(Exact::ratio(6, -8), Some(exact("-0.75")));
        assert_eq!(Exact::ratio(1, 0), None);
        assert_eq!(exact("1").checked_div(&exact("3600")), Some(exact("1/3600")));
        assert_eq!(exact("1").checked_div(&Exact::zero()), None);
        assert!(exact("1/3") < exact("0.3333333333333333333333333333333334"));
    }

    #[test]
    fn decimals_go_in_exactly_and_come_out_if_they_fit() {
        let largest = "9999999999999999999999999999";
        assert_eq!(exact(largest).to_decimal().unwrap().to_string(), largest);
        assert_eq!(Exact::from(exact(largest).to_decimal().unwrap()), exact(largest));
        let small: Decimal = "-0.000000000001".parse().unwrap();
        assert_eq!(Exact::from(small), exact("-1e-12"));
        assert_eq!(exact("1e29").to_decimal(), None);
        assert_eq!(exact("1/3").to_decimal(), None);
        assert_eq!(
            exact("1234567890123456.78901234567890").to_decimal().unwrap().to_string(),
            "1234567890123456.7890123456789"
        );
        assert_eq!(exact("9999999999999999.99999999999999").to_decimal(), None);
        assert_eq!(cents_to_decimal(&BigInt::from(5)).unwrap().to_string(), "0.05");
        assert_eq!(cents_to_decimal(&BigInt::from(10).pow(30)), None);
        assert_eq!(cents_to_decimal(&BigInt::from(10).pow(60)), None);
    }
}
