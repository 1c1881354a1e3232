//! Exact numbers: rationals of any size, so that no amount is ever a float, overflows or loses a digit.
//!
//! An amount is rounded once, by `round`, when it is posted. Nothing here knows what a number means.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};
use std::str::FromStr;

use num_bigint::BigInt;
use num_integer::Integer;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};
use rust_decimal::Decimal;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An exact rational number. Written as a plain decimal where it has an end (`0.25`), else as `n/d` (`1/3600`).
#[derive(Clone)]
pub struct Exact(Number);

/// The same number may stand in either form; which one is nobody's business but this file's.
#[derive(Clone)]
enum Number {
    /// Not reduced, `denominator` > 0. Readings, their sums and their multiples by a factor are such, mostly with the
    /// same denominator, and need no search for a common divisor; whatever does not fit goes on as a fraction.
    Small {
        numerator: i128,
        denominator: i128,
    },
    Fraction(BigRational),
}

use Number::{Fraction, Small};

/// The largest power of ten that 128 bits hold.
const MAX_PLACES: u32 = 38;

/// How the one rounding to the server's 2 decimals is done. Half-even unless a meter says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

    /// Whether a whole number with such a rest above it is rounded up.
    fn is_up(self, rest: &Exact, is_odd: bool) -> bool {
        match self {
            Rounding::Down => false,
            Rounding::Up => !rest.is_zero(),
            Rounding::HalfUp => *rest >= Exact::half(),
            Rounding::HalfEven => match rest.cmp(&Exact::half()) {
                Ordering::Equal => is_odd,
                order => order.is_gt(),
            },
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

    fn half() -> Self {
        Exact(Small { numerator: 1, denominator: 2 })
    }

    pub fn is_zero(&self) -> bool {
        match &self.0 {
            Small { numerator, .. } => *numerator == 0,
            Fraction(number) => number.is_zero(),
        }
    }

    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Small { numerator, .. } => *numerator < 0,
            Fraction(number) => number.is_negative(),
        }
    }

    /// `mantissa / 10^places`.
    pub(super) fn short(mantissa: i128, places: u32) -> Self {
        if places <= MAX_PLACES {
            Exact(Small { numerator: mantissa, denominator: 10_i128.pow(places) })
        } else {
            Exact::of(BigRational::new(mantissa.into(), power_of_ten(places)))
        }
    }

    /// `numerator / denominator`; `None` for a zero denominator.
    pub fn ratio(numerator: i128, denominator: i128) -> Option<Self> {
        match denominator {
            0 => None,
            1.. => Some(Exact(Small { numerator, denominator })),
            _ => Some(Exact::of(BigRational::new(numerator.into(), denominator.into()))),
        }
    }

    /// Numerator and denominator in lowest terms, where 128 bits hold both.
    pub(super) fn parts(&self) -> Option<(i128, i128)> {
        match &self.0 {
            Small { numerator, denominator } => {
                let shared = numerator.gcd(denominator);
                Some((numerator / shared, denominator / shared))
            }
            Fraction(number) => Some((number.numer().to_i128()?, number.denom().to_i128()?)),
        }
    }

    /// The small form wherever it fits.
    fn of(number: BigRational) -> Self {
        match (number.numer().to_i128(), number.denom().to_i128()) {
            (Some(numerator), Some(denominator)) => Exact(Small { numerator, denominator }),
            _ => Exact(Fraction(number)),
        }
    }

    /// `self / divisor`; `None` for a zero divisor.
    pub fn checked_div(&self, divisor: &Exact) -> Option<Exact> {
        match &divisor.0 {
            _ if divisor.is_zero() => None,
            Small { numerator, denominator } if *numerator > 0 => {
                Some(self.clone() * Exact(Small { numerator: *denominator, denominator: *numerator }))
            }
            _ => Some(Exact::of(self.fraction() / divisor.fraction())),
        }
    }

    /// The largest multiple of 10^-`places` that is not above `self`.
    pub fn floor_to(&self, places: u32) -> Exact {
        match self.split_small(places) {
            Some((floor, _)) => Exact::short(floor, places),
            None => Exact::of(BigRational::new(self.split_large(places).0, power_of_ten(places))),
        }
    }

    /// Rounds to a whole number of 10^-`places`, and counts those (for 2 places: cents). `None` where 128 bits don't hold
    /// that.
    pub fn round(&self, places: u32, rounding: Rounding) -> Option<i128> {
        match self.split_small(places) {
            Some((floor, rest)) if rounding.is_up(&rest, floor % 2 != 0) => floor.checked_add(1),
            Some((floor, _)) => Some(floor),
            None => self.round_large(places, rounding).to_i128(),
        }
    }

    fn round_large(&self, places: u32, rounding: Rounding) -> BigInt {
        let (floor, rest) = self.split_large(places);
        if rounding.is_up(&rest, floor.is_odd()) { floor + 1 } else { floor }
    }

    /// `self` x 10^`places`: the whole number below it, if 128 bits hold that, and how far it is above.
    pub(super) fn split(&self, places: u32) -> Option<(i128, Exact)> {
        self.split_small(places).or_else(|| {
            let (floor, rest) = self.split_large(places);
            Some((floor.to_i128()?, rest))
        })
    }

    /// The same without large numbers on the way; `None` where it takes some.
    fn split_small(&self, places: u32) -> Option<(i128, Exact)> {
        let Small { numerator, denominator } = self.0 else { return None };
        let scaled = numerator.checked_mul(10_i128.checked_pow(places)?)?;
        let (floor, rest) = scaled.div_mod_floor(&denominator);
        Some((floor, Exact(Small { numerator: rest, denominator })))
    }

    /// The same of any size.
    fn split_large(&self, places: u32) -> (BigInt, Exact) {
        let scaled = self.fraction() * power_of_ten(places);
        let (floor, rest) = scaled.numer().div_mod_floor(scaled.denom());
        (floor, Exact::of(BigRational::new(rest, scaled.denom().clone())))
    }

    /// The number as a decimal, if it has one that fits 28 digits.
    pub fn to_decimal(&self) -> Option<Decimal> {
        let text = self.to_string();
        Decimal::from_str_exact(&text).ok()
    }

    /// Rounded to `places` decimals for a person to read; never for a bill.
    pub fn approximate(&self, places: u32) -> String {
        match self.round(places, Rounding::HalfEven) {
            Some(rounded) => Exact::short(rounded, places),
            None => {
                let rounded = self.round_large(places, Rounding::HalfEven);
                Exact::of(BigRational::new(rounded, power_of_ten(places)))
            }
        }
        .to_string()
    }

    fn fraction(&self) -> BigRational {
        match &self.0 {
            Small { numerator, denominator } => BigRational::new((*numerator).into(), (*denominator).into()),
            Fraction(number) => number.clone(),
        }
    }

    /// The numerators of both over a common denominator, and that; `None` if they don't fit.
    fn aligned(&self, other: &Exact) -> Option<(i128, i128, i128)> {
        let (Small { numerator: one, denominator: first }, Small { numerator: two, denominator: second }) =
            (&self.0, &other.0)
        else {
            return None;
        };
        if first == second {
            return Some((*one, *two, *first));
        }
        let shared = first.gcd(second);
        let (to_one, to_two) = (second / shared, first / shared);
        Some((one.checked_mul(to_one)?, two.checked_mul(to_two)?, first.checked_mul(to_one)?))
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
        if text.len() > 100 {
            return Err("a number may have at most 100 characters".to_owned());
        }
        Exact::read(text)
    }
}

impl Exact {
    /// The same of any length, for what was written by `Display`.
    fn read(text: &str) -> Result<Self, String> {
        let not_a_number = || {
            let words = format!("`{text}` is not a number such as 12, 0.25, 1e-3 or 1/3600");
            let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            match text.split_once(',') {
                Some((whole, part)) if is_digits(whole) && is_digits(part) => {
                    format!("{words}: a decimal has a point, `{whole}.{part}`, and thousands have no mark")
                }
                _ => words,
            }
        };
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
    if let Some(plain) = plain_decimal(text) {
        return Some(plain);
    }
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
        Err(_) => Exact::of(BigRational::new(digits.parse().ok()?, power_of_ten(places))),
    };
    let shift = Exact::of(BigRational::from_integer(power_of_ten(exponent.unsigned_abs())));
    let value = match exponent {
        0 => value,
        1.. => value * shift,
        _ => value.checked_div(&shift)?,
    };
    Some(if number.starts_with('-') { -value } else { value })
}

/// The same of digits with a point at most, as long as 128 bits surely hold them: nearly all that is read is such.
fn plain_decimal(text: &str) -> Option<Exact> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mut mantissa, mut digits, mut point) = (0_i128, 0_usize, None);
    for (place, byte) in unsigned.bytes().enumerate() {
        match byte {
            b'0'..=b'9' if digits < MAX_PLACES as usize => {
                mantissa = mantissa * 10 + i128::from(byte - b'0');
                digits += 1;
            }
            b'.' if point.is_none() => point = Some(place),
            _ => return None,
        }
    }
    if digits == 0 {
        return None;
    }
    let places = point.map_or(0, |point| digits - point);
    let signed = if unsigned.len() < text.len() { -mantissa } else { mantissa };
    Some(Exact::short(signed, u32::try_from(places).ok()?))
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Small { numerator, denominator } if is_power_of_ten(*denominator) => {
                write_decimal(f, *numerator < 0, numerator.unsigned_abs(), denominator.ilog10())
            }
            Small { numerator, denominator } => {
                let shared = numerator.gcd(denominator);
                write_fraction(f, &(numerator / shared), &(denominator / shared))
            }
            Fraction(number) => write_fraction(f, number.numer(), number.denom()),
        }
    }
}

fn is_power_of_ten(number: i128) -> bool {
    10_i128.checked_pow(number.ilog10()) == Some(number)
}

/// A fraction in lowest terms: as a decimal where it has an end.
fn write_fraction<N>(f: &mut fmt::Formatter<'_>, numerator: &N, denominator: &N) -> fmt::Result
where
    N: Integer + Clone + Into<BigInt> + From<u8> + fmt::Display,
{
    match decimal_places(denominator.clone()) {
        None => write!(f, "{numerator}/{denominator}"),
        Some(places) => {
            let (numerator, denominator): (BigInt, BigInt) =
                (numerator.clone().into(), denominator.clone().into());
            let digits = numerator.abs() * power_of_ten(places) / denominator;
            write_decimal(f, numerator.is_negative(), digits, places)
        }
    }
}

fn write_decimal(
    f: &mut fmt::Formatter<'_>,
    negative: bool,
    digits: impl fmt::Display,
    places: u32,
) -> fmt::Result {
    let (digits, places) = (digits.to_string(), places as usize);
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(places));
    f.write_str(if negative { "-" } else { "" })?;
    f.write_str(if whole.is_empty() { "0" } else { whole })?;
    let zeros = places - fraction.len();
    match fraction.trim_end_matches('0') {
        "" => Ok(()),
        fraction => write!(f, ".{:0>zeros$}{fraction}", ""),
    }
}

/// How many decimals a fraction with this denominator has; `None` if they never end.
fn decimal_places<N: Integer + Clone + From<u8>>(denominator: N) -> Option<u32> {
    let mut rest = denominator;
    let mut strip = |factor: N| {
        let mut times = 0;
        while (rest.clone() % factor.clone()).is_zero() {
            rest = rest.clone() / factor.clone();
            times += 1;
        }
        times
    };
    let (twos, fives): (u32, u32) = (strip(N::from(2)), strip(N::from(5)));
    rest.is_one().then_some(twos.max(fives))
}

/// As it is written: `0.25`, `1/3600`.
impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Exact::read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
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

impl Default for Exact {
    fn default() -> Self {
        Exact::zero()
    }
}

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
        let small = self.aligned(&other).and_then(|(one, two, over)| Some((one.checked_add(two)?, over)));
        match small {
            Some((numerator, denominator)) => Exact(Small { numerator, denominator }),
            None => Exact::of(self.fraction() + other.fraction()),
        }
    }
}

impl AddAssign for Exact {
    fn add_assign(&mut self, other: Exact) {
        *self = std::mem::take(self) + other;
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
        if let (Small { numerator, denominator }, Small { numerator: others, denominator: its }) =
            (&self.0, &other.0)
            && let Some(numerator) = numerator.checked_mul(*others)
            && let Some(denominator) = denominator.checked_mul(*its)
        {
            return Exact(Small { numerator, denominator });
        }
        Exact::of(self.fraction() * other.fraction())
    }
}

impl Neg for Exact {
    type Output = Exact;
    fn neg(self) -> Exact {
        match self.0 {
            Small { numerator, denominator } if numerator != i128::MIN => {
                Exact(Small { numerator: -numerator, denominator })
            }
            _ => Exact::of(-self.fraction()),
        }
    }
}

impl Sum for Exact {
    fn sum<I: Iterator<Item = Exact>>(numbers: I) -> Exact {
        numbers.fold(Exact::zero(), Add::add)
    }
}

/// Cents as the decimal that the server takes, with its 2 places. `None` above what 28 digits hold.
pub fn cents_to_decimal(cents: i128) -> Option<Decimal> {
    Decimal::try_from_i128_with_scale(cents, 2).ok()
}

#[cfg(test)]
mod tests;
