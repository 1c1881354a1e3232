//! Exact numbers: rationals of any size, so that no amount is ever a float, overflows or loses a digit.
//!
//! An amount is rounded once, by `round`, when it is posted. Nothing here knows what a number means.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};
use std::str::FromStr;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};
use rust_decimal::Decimal;

/// An exact rational number. Written as a plain decimal where it has an end (`0.25`), else as `n/d` (`1/3600`).
#[derive(Clone)]
pub struct Exact(Number);

/// The same number may stand in either form; which one is nobody's business but this file's.
#[derive(Clone)]
enum Number {
    /// `mantissa / 10^places`. Readings, their differences and their sums are such, and need no search for a common
    /// divisor; whatever does not fit goes on as a fraction.
    Decimal {
        mantissa: i128,
        places: u32,
    },
    Fraction(BigRational),
}

use Number::{Decimal as Short, Fraction};

/// The largest power of ten that 128 bits hold.
const MAX_PLACES: u32 = 38;

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
        Exact::from(0)
    }

    pub fn one() -> Self {
        Exact::from(1)
    }

    pub fn is_zero(&self) -> bool {
        match &self.0 {
            Short { mantissa, .. } => *mantissa == 0,
            Fraction(number) => number.is_zero(),
        }
    }

    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Short { mantissa, .. } => *mantissa < 0,
            Fraction(number) => number.is_negative(),
        }
    }

    /// `mantissa / 10^places`.
    pub(super) fn short(mantissa: i128, places: u32) -> Self {
        if places <= MAX_PLACES {
            Exact(Short { mantissa, places })
        } else {
            Exact(Fraction(BigRational::new(mantissa.into(), power_of_ten(places))))
        }
    }

    /// `numerator / denominator`; `None` for a zero denominator.
    pub fn ratio(numerator: i128, denominator: i128) -> Option<Self> {
        (denominator != 0).then(|| Exact(Fraction(BigRational::new(numerator.into(), denominator.into()))))
    }

    /// `self / divisor`; `None` for a zero divisor.
    pub fn checked_div(&self, divisor: &Exact) -> Option<Exact> {
        (!divisor.is_zero()).then(|| Exact(Fraction(self.fraction() / divisor.fraction())))
    }

    /// The largest multiple of 10^-`places` that is not above `self`.
    pub fn floor_to(&self, places: u32) -> Exact {
        match self.0 {
            Short { places: own, .. } if own <= places => self.clone(),
            Short { mantissa, places: own } => {
                Exact::short(mantissa.div_euclid(10_i128.pow(own - places)), places)
            }
            Fraction(ref number) => {
                let scale = power_of_ten(places);
                let floor = (number * &scale).floor().to_integer();
                match floor.to_i128() {
                    Some(mantissa) => Exact::short(mantissa, places),
                    None => Exact(Fraction(BigRational::new(floor, scale))),
                }
            }
        }
    }

    /// Rounds to a whole number of 10^-`places`. The result counts those (for 2 places: cents).
    pub fn round(&self, places: u32, rounding: Rounding) -> BigInt {
        let scaled = self.fraction() * power_of_ten(places);
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
        let number = BigRational::new(self.round(places, Rounding::HalfEven), power_of_ten(places));
        Exact(Fraction(number)).to_string()
    }

    fn fraction(&self) -> BigRational {
        match &self.0 {
            Short { mantissa, places } => BigRational::new((*mantissa).into(), power_of_ten(*places)),
            Fraction(number) => number.clone(),
        }
    }

    /// The mantissas of both, brought to the same number of places, and that number; `None` if they don't fit.
    fn aligned(&self, other: &Exact) -> Option<(i128, i128, u32)> {
        let (Short { mantissa, places }, Short { mantissa: others, places: its }) = (&self.0, &other.0)
        else {
            return None;
        };
        let most = *places.max(its);
        let to_most = |mantissa: i128, places: u32| mantissa.checked_mul(10_i128.pow(most - places));
        Some((to_most(*mantissa, *places)?, to_most(*others, *its)?, most))
    }
}

fn power_of_ten(places: u32) -> BigInt {
    BigInt::from(10).pow(places)
}

impl From<Decimal> for Exact {
    fn from(value: Decimal) -> Self {
        Exact::short(value.mantissa(), value.scale())
    }
}

impl From<i64> for Exact {
    fn from(value: i64) -> Self {
        Exact::short(value.into(), 0)
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
        let Some((numerator, denominator)) = text.split_once('/') else {
            return decimal(text).ok_or_else(not_a_number);
        };
        let numerator = decimal(numerator).ok_or_else(not_a_number)?;
        let denominator = decimal(denominator).ok_or_else(not_a_number)?;
        numerator.checked_div(&denominator).ok_or_else(|| format!("`{text}` divides by zero"))
    }
}

const MAX_EXPONENT: u32 = 999;

/// A plain decimal of any length, with an optional exponent of at most 3 digits.
fn decimal(text: &str) -> Option<Exact> {
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
    let places = fraction.len() as u32;
    let value = match digits.parse() {
        Ok(mantissa) => Exact::short(mantissa, places),
        // More digits than 128 bits hold.
        Err(_) => Exact(Fraction(BigRational::new(digits.parse().ok()?, power_of_ten(places)))),
    };
    let shift = Exact(Fraction(BigRational::from_integer(power_of_ten(exponent.unsigned_abs()))));
    let value = match exponent {
        0 => value,
        1.. => value * shift,
        _ => value.checked_div(&shift)?,
    };
    Some(if number.starts_with('-') { -value } else { value })
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match &self.0 {
            Short { mantissa, places } => {
                return write_decimal(f, *mantissa < 0, mantissa.unsigned_abs(), *places);
            }
            Fraction(number) => number,
        };
        let (numerator, denominator) = (number.numer(), number.denom());
        let Some(places) = decimal_places(denominator) else { return write!(f, "{numerator}/{denominator}") };
        write_decimal(
            f,
            numerator.is_negative(),
            numerator.abs() * power_of_ten(places) / denominator,
            places,
        )
    }
}

fn write_decimal(
    f: &mut fmt::Formatter<'_>,
    negative: bool,
    digits: impl fmt::Display,
    places: u32,
) -> fmt::Result {
    let places = places as usize;
    let padded = format!("{digits:0>width$}", width = places + 1, digits = digits.to_string());
    let (whole, fraction) = padded.split_at(padded.len() - places);
    let fraction = fraction.trim_end_matches('0');
    let sign = if negative { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    write!(f, "{sign}{whole}{point}{fraction}")
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

impl PartialEq for Exact {
    fn eq(&self, other: &Exact) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Exact {}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Exact) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Exact {
    fn cmp(&self, other: &Exact) -> Ordering {
        match self.aligned(other) {
            Some((one, two, _)) => one.cmp(&two),
            None => self.fraction().cmp(&other.fraction()),
        }
    }
}

impl Add for Exact {
    type Output = Exact;
    fn add(self, other: Exact) -> Exact {
        let short = self.aligned(&other).and_then(|(one, two, places)| Some((one.checked_add(two)?, places)));
        match short {
            Some((mantissa, places)) => Exact::short(mantissa, places),
            None => Exact(Fraction(self.fraction() + other.fraction())),
        }
    }
}

impl AddAssign for Exact {
    fn add_assign(&mut self, other: Exact) {
        *self = std::mem::replace(self, Exact::zero()) + other;
    }
}

impl Sub for Exact {
    type Output = Exact;
    fn sub(self, other: Exact) -> Exact {
        self + -other
    }
}

impl SubAssign for Exact {
    fn sub_assign(&mut self, other: Exact) {
        *self += -other;
    }
}

impl Mul for Exact {
    type Output = Exact;
    fn mul(self, other: Exact) -> Exact {
        if let (Short { mantissa, places }, Short { mantissa: others, places: its }) = (&self.0, &other.0)
            && let Some(product) = mantissa.checked_mul(*others)
        {
            return Exact::short(product, places + its);
        }
        Exact(Fraction(self.fraction() * other.fraction()))
    }
}

impl Neg for Exact {
    type Output = Exact;
    fn neg(self) -> Exact {
        match self.0 {
            Short { mantissa, places } if mantissa != i128::MIN => Exact::short(-mantissa, places),
            _ => Exact(Fraction(-self.fraction())),
        }
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
mod tests;
