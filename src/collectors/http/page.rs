//! From one answer to readings. A row that can't be read is quarantined with the reason, and the others count; an answer that
//! is not what it should be fails its request. Nothing that is missing is ever taken for zero.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jmespath::Rcvar;
use rust_decimal::Decimal;

use super::expression::{Document, Expr, Scope, Value, object, text};
use super::fill::Fill;
use super::settings::{Repeats, Source, Wanted, When};
use crate::collectors::characters::NO_CHARACTER;
use crate::collectors::exec::protocol::instant;
use crate::collectors::web::Answer;
use crate::collectors::{Batch, Bearing, CollectorError};
use crate::metering::exact::{Exact, Rounding};
use crate::metering::reading::{Labels, Reading, Span, parse_value};
use crate::wire::words::of_body;

/// Bytes of a number or a time, beyond which a text is none and is not repeated in a message.
const LONGEST: usize = 100;

/// What a request has read so far.
#[derive(Debug, Default)]
pub(super) struct Taken {
    batch: Batch,
    /// Where in the batch a reading is, by what makes it the same one.
    places: HashMap<(String, String), usize>,
}

/// What an answer says of itself.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) rows: u64,
    /// Rows on all pages.
    pub(super) total: Option<u64>,
    /// What the expression of the paging yielded.
    pub(super) next: Option<String>,
    pub(super) more: Option<bool>,
}

/// What all readings of a row have in common.
struct Row {
    labels: Labels,
    span: Span,
    id: Option<String>,
}

impl Taken {
    /// Whether every row could be read, as far as a meter wants it.
    pub(super) fn is_whole(&self, metered: &BTreeSet<String>) -> bool {
        self.batch.quarantined.iter().all(|bad| bad.bears_on.is_unmetered(metered))
    }

    /// How much could not be read.
    pub(super) fn bad(&self) -> u64 {
        self.batch.quarantined.len() as u64
    }

    /// Hands over what was read, when all of it has come.
    pub(super) fn add_to(self, batch: &mut Batch) {
        for reading in self.batch.readings {
            batch.keep(reading);
        }
        for bad in self.batch.quarantined {
            batch.quarantine_of(&bad.what, bad.reason, bad.bears_on);
        }
    }

    /// Keeps a reading, or makes it one with the same one of before, where rows are parts of one. Where they are not, two of one
    /// are set aside when the run is done.
    fn keep(&mut self, reading: Reading, repeats: Repeats) -> Result<(), String> {
        if repeats == Repeats::Refused {
            self.batch.readings.push(reading);
            return Ok(());
        }
        let same = match &reading.id {
            Some(id) => format!("id {id}"),
            None => format!("{:?} {:?}", reading.labels, reading.span),
        };
        let key = (reading.name.clone(), same);
        let Some(known) = self.places.get(&key).and_then(|place| self.batch.readings.get_mut(*place)) else {
            self.places.insert(key, self.batch.readings.len());
            self.batch.readings.push(reading);
            return Ok(());
        };
        let sum = known.value.checked_add(reading.value);
        known.value = sum.ok_or_else(|| format!("the sum of {} is too large", reading.name))?;
        Ok(())
    }
}

/// A row, or why it is none.
type Found = Result<Scope, String>;

impl Source {
    /// Reads one answer. The error fails the request.
    pub(super) fn read(
        &self,
        answer: &Answer,
        fill: &Fill,
        taken: &mut Taken,
    ) -> Result<Seen, CollectorError> {
        let document =
            Document::parse(&answer.body).map_err(|error| answer.garbage("JSON", &error.to_string()))?;
        let scope = Scope::default()
            .with("answer", document.root())
            .with("headers", object(answer.headers()))
            .with("now", text(&fill.now.to_string()))
            .with("start", text(&fill.start.to_string()))
            .with("end", text(&fill.end.to_string()));
        self.read_from(&document, &scope, fill, taken).map_err(|why| {
            let words: String = of_body(&answer.body).chars().take(200).collect();
            CollectorError(format!("{}: {why}; it says: {words}", answer.name()))
        })
    }

    fn read_from(
        &self,
        document: &Document,
        scope: &Scope,
        fill: &Fill,
        taken: &mut Taken,
    ) -> Result<Seen, String> {
        if let Some(expect) = &self.expect {
            match document.value(expect, scope)? {
                Value::Flag(true) => {}
                Value::Nothing | Value::Flag(false) => {
                    return Err(format!("the answer is not as expected (`{}`)", expect.as_str()));
                }
                _ => return Err(format!("`{}` yields neither true nor false", expect.as_str())),
            }
        }
        let rows = self.rows(document, scope, &self.each)?;
        for (found, item) in rows.all {
            let what = || {
                let shown = item.as_ref().map(ToString::to_string).unwrap_or_default();
                shown.replace(NO_CHARACTER, "\u{fffd}")
            };
            let row = found.map_err(|why| (why, Labels::new()));
            let row = row.and_then(|scope| Ok((self.row(document, &scope, fill)?, scope)));
            let (row, scope) = match row {
                Ok(row) => row,
                Err((why, labels)) => {
                    taken.batch.quarantine_of(&what(), why, self.bears_on(&labels));
                    continue;
                }
            };
            for wanted in &self.readings {
                let reading = self.reading(document, &scope, wanted, &row, fill);
                if let Err(why) = reading.and_then(|reading| taken.keep(reading, self.repeats)) {
                    let bears_on = Bearing::series(&wanted.name, &row.labels);
                    taken.batch.quarantine_of(&what(), format!("{}: {why}", wanted.name), bears_on);
                }
            }
        }
        let total = self.total.as_ref().map(|expr| self.total(document, scope, expr)).transpose()?;
        let mut seen = Seen { rows: rows.outermost, total, ..Seen::default() };
        self.paging.look(document, scope, &mut seen)?;
        Ok(seen)
    }

    fn total(&self, document: &Document, scope: &Scope, expr: &Expr) -> Result<u64, String> {
        match document.value(expr, scope)? {
            Value::Number(text) | Value::Text(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| format!("`{}` yields no number of rows", expr.as_str()))
    }

    /// The series that a row may be about of which these labels are known.
    pub(super) fn bears_on(&self, labels: &Labels) -> Bearing {
        Bearing::labelled(self.readings.iter().map(|wanted| wanted.name.as_str()), labels)
    }

    /// Every innermost item, with all that is around it. Where the outermost list is none, there is no answer; where one
    /// within an item is none, that item is no row.
    fn rows(&self, document: &Document, scope: &Scope, each: &[(String, Expr)]) -> Result<Rows, String> {
        let Some(((name, expr), inner)) = each.split_first() else {
            return Ok(Rows { outermost: 1, all: vec![(Ok(scope.clone()), None)] });
        };
        let items = document.list(expr, scope)?;
        let mut rows = Rows { outermost: items.len() as u64, all: Vec::new() };
        for item in items {
            let scope = scope.with(name, item.clone());
            if inner.is_empty() {
                rows.all.push((Ok(scope), Some(item)));
                continue;
            }
            match self.rows(document, &scope, inner) {
                Ok(inner) => rows.all.extend(inner.all),
                Err(why) => rows.all.push((Err(why), Some(item))),
            }
        }
        Ok(rows)
    }

    /// What a row's readings have in common, or why that can't be had and which labels are known.
    fn row(&self, document: &Document, scope: &Scope, fill: &Fill) -> Result<Row, (String, Labels)> {
        let mut labels = Labels::new();
        let mut wrong = None;
        for (name, expr) in &self.labels {
            match worded(document, scope, expr) {
                Ok(value) => {
                    labels.insert(name.clone(), value);
                }
                Err(why) => {
                    // A row of nobody is no row of somebody who is missed.
                    if document.value(expr, scope) == Ok(Value::Nothing) {
                        labels.insert(name.clone(), String::new());
                    }
                    wrong.get_or_insert_with(|| format!("label {name}: {why}"));
                }
            }
        }
        if let Some(why) = wrong {
            return Err((why, labels));
        }
        match self.span_and_id(document, scope, fill, &labels) {
            Ok((span, id)) => Ok(Row { labels, span, id }),
            Err(why) => Err((why, labels)),
        }
    }

    fn span_and_id(
        &self,
        document: &Document,
        scope: &Scope,
        fill: &Fill,
        labels: &Labels,
    ) -> Result<(Span, Option<String>), String> {
        let time = |expr: &Expr| {
            let words = worded(document, scope, expr)?;
            time(&words)
        };
        let span = match &self.when {
            When::Default if self.step.is_some() => Span::Interval { start: fill.start, end: fill.end },
            When::Default => Span::At(fill.now),
            When::At(at) => Span::At(time(at)?),
            When::Between(start, end) => Span::Interval { start: time(start)?, end: time(end)? },
            When::From(start, lasts) => {
                let start = time(start)?;
                let end = start.checked_add(*lasts).map_err(|error| error.to_string())?;
                Span::Interval { start, end: end.min(fill.now).max(start) }
            }
        };
        let given = self.id.as_ref().map(|expr| worded(document, scope, expr)).transpose()?;
        // What is not over yet is asked for again, and is the same reading, grown: where it ends is no part of what it is.
        let id = match (span, given) {
            (Span::Interval { start, .. }, None) => {
                let labels = serde_json::to_string(labels).map_err(|error| error.to_string())?;
                Some(format!("{start} {} {labels}", self.name))
            }
            (_, Some(id)) if self.step.is_some() => Some(format!("{} {id}", fill.start)),
            (_, given) => given,
        };
        Ok((span, id))
    }

    fn reading(
        &self,
        document: &Document,
        scope: &Scope,
        wanted: &Wanted,
        row: &Row,
        fill: &Fill,
    ) -> Result<Reading, String> {
        let value = match document.value(&wanted.value, scope)? {
            Value::Number(text) | Value::Text(text) => number(&text, wanted.round)?,
            Value::Nothing => return Err(format!("`{}` yields nothing", wanted.value.as_str())),
            Value::Flag(_) => return Err(format!("`{}` yields true or false", wanted.value.as_str())),
            Value::Other(what) => return Err(format!("`{}` yields {what}", wanted.value.as_str())),
        };
        let mut reading = Reading::new(&wanted.name, wanted.kind, value, fill.now);
        reading.unit = wanted.unit.clone();
        reading.labels = row.labels.clone();
        reading.span = row.span;
        reading.id = row.id.clone();
        reading.checked()
    }
}

struct Rows {
    /// Items of the outermost list: what a server counts.
    outermost: u64,
    all: Vec<(Found, Option<Rcvar>)>,
}

/// A label, an id or a time: what people and programs write into one.
fn worded(document: &Document, scope: &Scope, expr: &Expr) -> Result<String, String> {
    match document.value(expr, scope)? {
        Value::Number(text) | Value::Text(text) => Ok(text),
        Value::Flag(flag) => Ok(flag.to_string()),
        Value::Nothing => {
            Err(format!("`{}` yields nothing (`... || 'none'` gives it a name)", expr.as_str()))
        }
        Value::Other(what) => Err(format!("`{}` yields {what}", expr.as_str())),
    }
}

fn number(text: &str, round: Option<u32>) -> Result<Decimal, String> {
    if text.len() > LONGEST {
        return Err(format!("a text of {} bytes is not a decimal number", text.len()));
    }
    let Some(places) = round else {
        let value = parse_value(text.trim())?;
        return match value.normalize().scale() > crate::metering::reading::VALUE_PLACES {
            true => Err(format!(
                "{text} has more digits after the point than are kept; if its source computes in floats, say \
                 `round: 12`"
            )),
            false => Ok(value),
        };
    };
    let exact: Option<Exact> = text.trim().parse().ok().filter(|_| !text.contains('/'));
    let exact = exact.ok_or_else(|| format!("`{text}` is not a decimal number"))?;
    let units = exact.round(places, Rounding::HalfEven);
    units
        .and_then(|units| Decimal::try_from_i128_with_scale(units, places).ok())
        .ok_or_else(|| format!("`{text}` has more digits than can be kept exactly (28)"))
}

/// RFC 3339, seconds since 1970, or a date (with a time) without an offset, which is one of UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    if text.len() > LONGEST {
        return Err(format!("a text of {} bytes is no time", text.len()));
    }
    instant(text).or_else(|why| match text.trim().parse::<DateTime>() {
        Ok(civil) => {
            civil.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).map_err(|error| error.to_string())
        }
        Err(_) => Err(why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_only_where_it_is_said_and_half_to_even() {
        for (text, round, value) in [
            ("0.1", None, "0.1"),
            (" 12.50 ", None, "12.5"),
            ("9007199254740993", None, "9007199254740993"),
            ("123456789012345.123456789012", None, "123456789012345.123456789012"),
            ("47.99999999999997", Some(9), "48.000000000"),
            ("1e-05", Some(12), "0.000010000000"),
            ("0.0000000000005", Some(12), "0.000000000000"),
            ("0.0000000000015", Some(12), "0.000000000002"),
            ("1.2345678901234567e-20", Some(12), "0.000000000000"),
            ("-2.5", Some(0), "-2"),
        ] {
            assert_eq!(number(text, round).map(|value| value.to_string()), Ok(value.to_owned()), "{text}");
        }
        for (text, round) in
            [("1/2", None), ("1/2", Some(2)), ("n/a", Some(2)), ("", None), ("1e9999", Some(2))]
        {
            assert_eq!(number(text, round), Err(format!("`{text}` is not a decimal number")));
        }
        assert!(number("0.1234567890123", None).unwrap_err().contains("`round: 12`"));
        assert!(number("12345678901234567890123456789", Some(2)).unwrap_err().contains("(28)"));
        assert_eq!(
            number(&"9".repeat(101), None).unwrap_err(),
            "a text of 101 bytes is not a decimal number"
        );
    }

    #[test]
    fn a_time_without_an_offset_is_one_of_utc() {
        for (text, instant) in [
            ("2026-11-05T10:00:00Z", "2026-11-05T10:00:00Z"),
            ("2026-11-05T12:00:00+02:00", "2026-11-05T10:00:00Z"),
            ("1793872800", "2026-11-05T10:00:00Z"),
            ("1793872800.5", "2026-11-05T10:00:00.5Z"),
            ("2012-10-08T20:10:44.587336", "2012-10-08T20:10:44.587336Z"),
            ("2026-11-05 10:00:00", "2026-11-05T10:00:00Z"),
            ("2026-11-05", "2026-11-05T00:00:00Z"),
        ] {
            assert_eq!(time(text).map(|time| time.to_string()), Ok(instant.to_owned()), "{text}");
        }
        assert!(time("1793872800000").unwrap_err().contains("are they milliseconds?"));
        assert!(time("yesterday").unwrap_err().contains("`yesterday` is no time"));
    }
}
