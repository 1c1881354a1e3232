//! A reading: one observation by a collector. Everything that is ever billed is made of these.
//!
//! A `Reading` can only be made valid: `Reading::checked` refuses what can never be metered, with words for the
//! person whose program printed it. It never looks at a clock: whether a time is plausible is the ledger's check.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::fmt::serde::timestamp::microsecond as micros;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Changes when the counter starts anew, even if its value did not fall: a boot id, a container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When this life began.
    #[serde(with = "micros::optional", default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// Whether it is told of all that the source shows at once (the start of a process), and not of this very series. Then
    /// a new life is told when it changes, but not the same one when it does not: a process may replace one counter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
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
/// Series are found by their labels, and an index of PostgreSQL's takes no longer ones.
const MAX_LABELS: usize = 2000;

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

    /// The reading if it can be metered, else why not. Its times are cut to microseconds, as the ledger keeps them: what
    /// is counted now must be what a recount finds.
    pub fn checked(mut self) -> Result<Self, String> {
        self.span = match self.span {
            Span::At(at) => Span::At(to_micros(at)),
            Span::Interval { start, end } => Span::Interval { start: to_micros(start), end: to_micros(end) },
        };
        self.epoch.began = self.epoch.began.map(to_micros);
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
        if is_too_long(&self.labels) {
            return Err(format!("its labels have more than {MAX_LABELS} bytes together, as JSON"));
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

/// Whether labels are too long as they are kept.
fn is_too_long(labels: &Labels) -> bool {
    // With quotes, a colon and a comma; what is escaped takes six bytes at most.
    let plain: usize = labels.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    let kept = || serde_json::to_string(labels).map_or(usize::MAX, |text| text.len());
    plain.saturating_mul(6) > MAX_LABELS && kept() > MAX_LABELS
}

fn to_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn reading(kind: Kind, value: &str) -> Reading {
        Reading::new("r", kind, value.parse().unwrap(), at("2026-01-10T10:00:00Z"))
    }

    fn refused(reading: Reading) -> String {
        reading.checked().unwrap_err()
    }

    #[test]
    fn what_can_be_metered_passes_unchanged() {
        let start = at("2026-01-10T09:00:00Z");
        let end = at("2026-01-10T10:00:00Z");
        for kind in [Kind::Counter, Kind::Gauge, Kind::Delta, Kind::Total] {
            let whole = reading(kind, "12.000000000001").label("user", "alice").unit("s");
            assert_eq!(whole.clone().checked(), Ok(whole));
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for kind in [Kind::Delta, Kind::Total] {
            for start in [start, end] {
                let over = Reading { span: Span::Interval { start, end }, ..reading(kind, "-1") };
                assert_eq!((over.span.start(), over.span.end()), (start, end));
                assert_eq!(over.clone().checked(), Ok(over));
            }
        }
        for value in ["0", "-0", "79228162514264337593543950335", "1.0000000000000000000000"] {
            assert!(reading(Kind::Counter, value).checked().is_ok(), "{value}");
        }
        assert!(reading(Kind::Gauge, "-3").checked().is_ok());
        let at = reading(Kind::Gauge, "1").span;
        assert_eq!(at.start(), at.end());
    }

    #[test]
    fn what_can_never_be_metered_is_refused_in_words() {
        assert_eq!(refused(reading(Kind::Counter, "-0.5")), "a counter can't be negative (-0.5)");
        assert_eq!(
            refused(reading(Kind::Gauge, "0.0000000000001")),
            "0.0000000000001 has more than 12 digits after the point"
        );
        let backwards = Span::Interval { start: at("2026-01-10T10:00:00Z"), end: at("2026-01-10T09:00:00Z") };
        assert_eq!(
            refused(Reading { span: backwards, ..reading(Kind::Delta, "1") }),
            "it ends at 2026-01-10T09:00:00Z, before it starts at 2026-01-10T10:00:00Z"
        );
        let over = Span::Interval { start: at("2026-01-10T09:00:00Z"), end: at("2026-01-10T10:00:00Z") };
        for kind in [Kind::Counter, Kind::Gauge] {
            let text = format!("a {kind} is read at an instant (`at`), not over an interval");
            assert_eq!(refused(Reading { span: over, ..reading(kind, "1") }), text);
        }
        let over_and_small = Reading { span: over, ..reading(Kind::Delta, "0.0000000000001") };
        assert!(over_and_small.checked().is_err());
        assert_eq!(refused(Reading { name: String::new(), ..reading(Kind::Gauge, "1") }), "it has no name");
    }

    #[test]
    fn no_text_is_longer_than_500_bytes_or_has_a_nul() {
        let with = |text: &str| {
            let plain = || reading(Kind::Gauge, "1");
            let epoch = Epoch { id: Some(text.to_owned()), ..Epoch::default() };
            [
                Reading { name: text.to_owned(), ..plain() },
                plain().label("l", text),
                plain().label(text, "v"),
                plain().unit(text),
                Reading { id: Some(text.to_owned()), ..plain() },
                Reading { epoch, ..plain() },
            ]
        };
        for reading in with(&"x".repeat(500)) {
            assert!(reading.checked().is_ok());
        }
        for reading in with(&"x".repeat(501)) {
            assert_eq!(refused(reading), "a name, label, unit or id has more than 500 bytes");
        }
        for reading in with("a\0b") {
            assert_eq!(refused(reading), "a name, label, unit or id contains a NUL character");
        }
    }

    /// `{"a":"..."}` of as many characters as fit; a quote takes two bytes, a control character six.
    #[test]
    fn labels_are_counted_as_they_are_kept() {
        let with = |texts: [&str; 5]| {
            let labels = ["a", "b", "c", "d", "e"].into_iter().zip(texts);
            labels
                .fold(reading(Kind::Gauge, "1"), |reading, (name, text)| reading.label(name, text))
                .checked()
        };
        // Five times `"a":"",`, with braces and one comma less: 36 bytes.
        let (long, rest) = ("x".repeat(491), "x".repeat(1964 - 4 * 491));
        assert!(with([&long, &long, &long, &long, &rest]).is_ok());
        let refused = Err("its labels have more than 2000 bytes together, as JSON".to_owned());
        assert_eq!(with([&long, &long, &long, &long, "x"]), refused);
        assert_eq!(with([&"\"".repeat(491), &"\"".repeat(492), "", "", ""]), refused);
        assert!(with([&"\"".repeat(491), &"\"".repeat(491), "", "", ""]).is_ok());
        assert!(with([&"\u{1}".repeat(327), "", "", "", ""]).is_ok());
        assert_eq!(with([&"\u{1}".repeat(328), "", "", "", ""]), refused);
    }

    /// Beyond the years that billing periods are made for there is no month to bill, and arithmetic on them has no end.
    #[test]
    fn a_time_out_of_all_months_is_refused() {
        let seen = |at: Timestamp| Reading { span: Span::At(at), ..reading(Kind::Delta, "1") }.checked();
        for good in ["1970-01-02T00:00:00Z", "9998-12-30T00:00:00Z"] {
            assert!(seen(at(good)).is_ok(), "{good}");
        }
        for bad in
            ["1970-01-01T23:59:59Z", "0001-01-01T00:00:00Z", "9998-12-30T00:00:01Z", "9999-12-30T00:00:00Z"]
        {
            assert_eq!(seen(at(bad)).unwrap_err(), format!("its time {bad} is not between 1970 and 9998"));
        }
        let interval = Span::Interval { start: Timestamp::MIN, end: at("2026-01-01T00:00:00Z") };
        assert!(Reading { span: interval, ..reading(Kind::Delta, "1") }.checked().is_err());
    }

    /// What is counted from a reading that just came in was counted with nanoseconds, and a recount without.
    #[test]
    fn times_are_cut_to_what_the_ledger_keeps() {
        let fine = at("2026-01-10T10:00:00.123456789Z");
        let cut = at("2026-01-10T10:00:00.123456Z");
        let epoch = Epoch { began: Some(fine), ..Epoch::default() };
        let counter =
            Reading { span: Span::At(fine), epoch, ..reading(Kind::Counter, "1") }.checked().unwrap();
        assert_eq!((counter.span, counter.epoch.began), (Span::At(cut), Some(cut)));
        let over = Span::Interval { start: fine, end: fine };
        let delta = Reading { span: over, ..reading(Kind::Delta, "1") }.checked().unwrap();
        assert_eq!(delta.span, Span::Interval { start: cut, end: cut });
    }

    #[test]
    fn values_are_read_without_a_float_and_never_rounded() {
        for (text, value) in
            [("12", "12"), ("12.50", "12.5"), ("1.5e3", "1500"), ("-1e-12", "-0.000000000001")]
        {
            assert_eq!(parse_value(text).unwrap().to_string(), value);
        }
        for text in ["", "x", "1/2", "12 s", "1/0", "NaN"] {
            assert_eq!(parse_value(text), Err(format!("`{text}` is not a decimal number")));
        }
        let long = "9234567890123456789012345678.9";
        assert_eq!(parse_value(long), Err(format!("`{long}` has more digits than can be kept exactly (28)")));
    }

    #[test]
    fn an_unknown_kind_is_refused_with_the_known_ones() {
        let message = "`histogram` is no kind; known: counter, gauge, delta, total";
        assert_eq!("histogram".parse::<Kind>(), Err(message.to_owned()));
    }
}
