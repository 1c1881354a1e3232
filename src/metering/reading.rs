//! A reading: one observation by a collector. Everything that is ever billed is made of these.
//!
//! A `Reading` can only be made valid: `Reading::checked` refuses what can never be metered, with words for the
//! person whose program printed it. It never looks at a clock: whether a time is plausible is the ledger's check.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rust_decimal::Decimal;

/// What a value means over time (design, section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Cumulative since some start; may reset. CPU seconds of a cgroup.
    Counter,
    /// A level at an instant. Bytes of memory.
    Gauge,
    /// Used up in an interval. The CPU seconds of one job.
    Delta,
    /// Already the sum of the billing period so far, as the source counts it.
    Total,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Delta => "delta",
            Kind::Total => "total",
        }
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "counter" => Ok(Kind::Counter),
            "gauge" => Ok(Kind::Gauge),
            "delta" => Ok(Kind::Delta),
            "total" => Ok(Kind::Total),
            other => Err(format!("`{other}` is no kind; known: counter, gauge, delta, total")),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a reading holds: at an instant, or over `start..end` (end exclusive, start <= end).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    At(Timestamp),
    Interval { start: Timestamp, end: Timestamp },
}

impl Span {
    /// The instant that orders readings of a series: the end of an interval.
    pub fn end(self) -> Timestamp {
        match self {
            Span::At(at) => at,
            Span::Interval { end, .. } => end,
        }
    }

    pub fn start(self) -> Timestamp {
        match self {
            Span::At(at) => at,
            Span::Interval { start, .. } => start,
        }
    }
}

pub type Labels = BTreeMap<String, String>;

/// Which life of a counter a value belongs to, as far as the source tells: a new life starts from zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Epoch {
    /// Changes when the counter starts anew, even if its value did not fall: a boot id, a container id.
    pub id: Option<String>,
    /// When this life began.
    pub began: Option<Timestamp>,
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What was measured: `cpu_seconds`. With the labels it names the series.
    pub name: String,
    pub kind: Kind,
    /// At most 28 digits, at most 12 of them after the point, in `unit`.
    pub value: Decimal,
    /// For people only; no arithmetic looks at it.
    pub unit: Option<String>,
    pub span: Span,
    pub labels: Labels,
    /// What makes the reading the same one when it is seen again (a job's id). Without it: series and time.
    pub id: Option<String>,
    pub epoch: Epoch,
}

/// Digits after the decimal point that a reading may have (law 5 counts in 1e-12 of its unit).
pub const VALUE_PLACES: u32 = 12;

/// Times, in seconds since 1970, that lie in a billing period in every time zone.
const EARLIEST: i64 = 86_400;
const LATEST: i64 = 253_370_592_000;

const MAX_TEXT: usize = 500;

impl Reading {
    /// A reading at an instant, without labels; the fields are public to fill in the rest.
    pub fn new(name: &str, kind: Kind, value: Decimal, at: Timestamp) -> Self {
        Reading {
            name: name.to_owned(),
            kind,
            value,
            unit: None,
            span: Span::At(at),
            labels: Labels::new(),
            id: None,
            epoch: Epoch::default(),
        }
    }

    pub fn unit(mut self, unit: &str) -> Self {
        self.unit = Some(unit.to_owned());
        self
    }

    pub fn label(mut self, name: &str, value: impl Into<String>) -> Self {
        self.labels.insert(name.to_owned(), value.into());
        self
    }

    /// The reading if it can be metered, else why not.
    pub fn checked(self) -> Result<Self, String> {
        for time in [self.span.start(), self.span.end()] {
            if !(EARLIEST..=LATEST).contains(&time.as_second()) {
                return Err(format!("its time {time} is not between 1970 and 9998"));
            }
        }
        let Span::Interval { start, end } = self.span else { return self.checked_value() };
        if end < start {
            return Err(format!("it ends at {end}, before it starts at {start}"));
        }
        if matches!(self.kind, Kind::Counter | Kind::Gauge) {
            return Err(format!("a {} is read at an instant (`at`), not over an interval", self.kind));
        }
        self.checked_value()
    }

    fn checked_value(self) -> Result<Self, String> {
        let texts = self.labels.iter().flat_map(|(k, v)| [k, v]).chain([&self.name]);
        let texts = texts.chain(&self.id).chain(&self.unit).chain(&self.epoch.id);
        for text in texts {
            if text.len() > MAX_TEXT {
                return Err(format!("a name, label, unit or id has more than {MAX_TEXT} bytes"));
            }
            if text.contains('\0') {
                return Err("a name, label, unit or id contains a NUL character".to_owned());
            }
        }
        if self.name.is_empty() {
            return Err("it has no name".to_owned());
        }
        if self.kind == Kind::Counter && self.value.is_sign_negative() && !self.value.is_zero() {
            return Err(format!("a counter can't be negative ({})", self.value));
        }
        if self.value.normalize().scale() > VALUE_PLACES {
            return Err(format!("{} has more than {VALUE_PLACES} digits after the point", self.value));
        }
        Ok(self)
    }
}

/// Reads a value such as `12`, `12.50` or `1.5e3` without ever going through a float; more than 28 digits are
/// refused, not rounded.
pub fn parse_value(text: &str) -> Result<Decimal, String> {
    let exact: super::exact::Exact = text.parse().map_err(|_| format!("`{text}` is not a decimal number"))?;
    if text.contains('/') {
        return Err(format!("`{text}` is not a decimal number"));
    }
    exact.to_decimal().ok_or_else(|| format!("`{text}` has more digits than can be kept exactly (28)"))
}
