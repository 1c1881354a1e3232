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
