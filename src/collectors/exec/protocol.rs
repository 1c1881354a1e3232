//! What a program prints for `exec`: one JSON object a line, each a reading. The protocol is docs/collectors/exec.md.
//!
//! A line stands for itself: one that can't be a reading is quarantined with its number and the reason, and the others
//! count. Numbers are taken from their text as it is printed, so that no digit goes through a float.

use std::fmt;

use jiff::Timestamp;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::collectors::{Batch, Bearing};
use crate::metering::reading::{Kind, Labels, Reading, Span, parse_value};

/// Every key that a line may have.
pub(super) const KEYS: [&str; 12] =
    ["name", "kind", "value", "unit", "at", "start", "end", "labels", "id", "epoch", "began", "checkpoint"];

/// Bytes of one line.
pub(super) const MAX_LINE: usize = 64 * 1024;

/// Bytes of a checkpoint: it is handed to the next run in its environment.
pub(super) const MAX_CHECKPOINT: usize = 16 * 1024;

/// Reads everything that a program printed into `batch`. `now` is the time of readings that tell none.
pub(super) fn read(output: &[u8], now: Timestamp, batch: &mut Batch) {
    for (index, bytes) in output.split(|byte| *byte == b'\n').enumerate() {
        let Err(Bad { reason, bears_on }) = line(bytes, now, batch) else { continue };
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(1_000)]);
        batch.quarantine_of(&what, format!("line {}: {reason}", index + 1), bears_on);
    }
}

/// Why a line is no reading, and whose it may have been.
struct Bad {
    reason: String,
    bears_on: Bearing,
}

impl Bad {
    /// Of a line that may have been anybody's.
    fn any(reason: String) -> Bad {
        Bad { reason, bears_on: Bearing::All }
    }
}

fn line(bytes: &[u8], now: Timestamp, batch: &mut Batch) -> Result<(), Bad> {
    if bytes.len() > MAX_LINE {
        return Err(Bad::any(format!("it has more than {MAX_LINE} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| Bad::any(format!("it is not UTF-8: {error}")))?;
    // Some write a byte order mark before all else.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(());
    }
    let object: Object = serde_json::from_str(text)
        .map_err(|error| Bad::any(format!("it is not one JSON object: {error}")))?;
    let mut line = Line::default();
    let mut wrong = None;
    // To its end, so that it is known whose line it is.
    for (key, value) in &object.0 {
        if let Err(reason) = line.set(key, value.get()) {
            line.labels_unsure |= !KEYS.contains(&key.as_str());
            wrong.get_or_insert(reason);
        }
    }
    let is_checkpoint = object.0.iter().any(|(key, _)| key == "checkpoint");
    let bears_on = if is_checkpoint { Bearing::nothing() } else { line.bears_on() };
    let bad = |reason: String| Bad { reason, bears_on };
    if let Some(reason) = wrong {
        return Err(bad(reason));
    }
    match line.checkpoint.take() {
        Some(_) if object.0.len() > 1 => Err(bad("a `checkpoint` stands in a line of its own".to_owned())),
        Some(checkpoint) => {
            batch.checkpoint = Some(checkpoint);
            Ok(())
        }
        None => match line.reading(now).and_then(Reading::checked) {
            Ok(reading) => {
                batch.keep(reading);
                Ok(())
            }
            Err(reason) => Err(bad(reason)),
        },
    }
}

/// The keys of a line that were there.
#[derive(Debug, Default)]
struct Line {
    name: Option<String>,
    kind: Option<Kind>,
    value: Option<Decimal>,
    unit: Option<String>,
    at: Option<Timestamp>,
    start: Option<Timestamp>,
    end: Option<Timestamp>,
    labels: Labels,
    id: Option<String>,
    epoch: Option<String>,
    began: Option<Timestamp>,
    checkpoint: Option<String>,
    /// It may have other labels than those that could be read.
    labels_unsure: bool,
}

impl Line {
    /// Which series it is about, as far as it can be read.
    fn bears_on(&self) -> Bearing {
        match &self.name {
            None => Bearing::All,
            Some(name) if self.labels_unsure => Bearing::readings([name.as_str()]),
            Some(name) => Bearing::series(name, &self.labels),
        }
    }

    /// `json`: the value as it is printed.
    fn set(&mut self, key: &str, json: &str) -> Result<(), String> {
        if !KEYS.contains(&key) {
            return Err(unknown(key));
        }
        // What many programs print for "I don't know"; what is required is then missed below.
        if json == "null" {
            return Ok(());
        }
        let wrong = |why: String| format!("`{key}`: {why}");
        match key {
            "name" => self.name = Some(string(json).map_err(wrong)?),
            "kind" => self.kind = Some(string(json).and_then(|kind| kind.parse()).map_err(wrong)?),
            "value" => self.value = Some(number(json).map_err(wrong)?),
            "unit" => self.unit = Some(string(json).map_err(wrong)?),
            "at" => self.at = Some(time(json).map_err(wrong)?),
            "start" => self.start = Some(time(json).map_err(wrong)?),
            "end" => self.end = Some(time(json).map_err(wrong)?),
            "labels" => self.set_labels(json).map_err(wrong)?,
            "id" => self.id = Some(scalar(json).map_err(wrong)?),
            // An empty one tells of no life.
            "epoch" => self.epoch = Some(scalar(json).map_err(wrong)?).filter(|epoch| !epoch.is_empty()),
            "began" => self.began = Some(time(json).map_err(wrong)?),
            _ => self.checkpoint = Some(checkpoint(json).map_err(wrong)?),
        }
        Ok(())
    }

    /// Takes the labels that can be read, to the last, so that it is known whose line it is.
    fn set_labels(&mut self, json: &str) -> Result<(), String> {
        let object: Object = serde_json::from_str(json).map_err(|error| {
            self.labels_unsure = true;
            format!("must be an object: {error}")
        })?;
        let mut wrong = None;
        for (name, value) in object.0 {
            let text = match value.get() {
                flag @ ("true" | "false") => Ok(flag.to_owned()),
                json => scalar(json),
            };
            match text {
                Ok(text) => {
                    self.labels.insert(name, text);
                }
                Err(_) => {
                    wrong.get_or_insert(format!("`{name}` must be a string, a number, true or false"));
                    // A line of nobody is no line of somebody who is missed.
                    match value.get() {
                        "null" => drop(self.labels.insert(name, String::new())),
                        _ => self.labels_unsure = true,
                    }
                }
            }
        }
        wrong.map_or(Ok(()), Err)
    }

    fn reading(self, now: Timestamp) -> Result<Reading, String> {
        let name = self.name.ok_or("`name` is missing")?;
        let kind = self.kind.ok_or("`kind` is missing: counter, gauge, delta or total")?;
        let value = self.value.ok_or("`value` is missing")?;
        let span = match (self.at, self.start, self.end) {
            (at, None, None) => Span::At(at.unwrap_or(now)),
            (None, Some(start), Some(end)) => Span::Interval { start, end },
            (Some(_), _, _) => {
                return Err("it has both `at` and `start` or `end`: an instant or an interval".to_owned());
            }
            (None, _, _) => return Err("an interval needs both `start` and `end`".to_owned()),
        };
        let mut reading = Reading::new(&name, kind, value, now);
        reading.unit = self.unit;
        reading.span = span;
        reading.labels = self.labels;
        reading.id = self.id;
        reading.epoch.id = self.epoch;
        reading.epoch.began = self.began;
        Ok(reading)
    }
}

fn unknown(key: &str) -> String {
    let nearest = KEYS.iter().map(|known| (strsim::damerau_levenshtein(known, key), known)).min();
    let short: String = key.chars().take(60).collect();
    match nearest {
        Some((distance, known)) if distance <= known.len().max(key.len()) / 2 => {
            format!("unknown key `{short}`; did you mean `{known}`?")
        }
        _ => format!(
            "unknown key `{short}`; known: {}; put what describes a reading into `labels`",
            KEYS.join(", ")
        ),
    }
}

fn is_string(json: &str) -> bool {
    json.starts_with('"')
}

fn is_number(json: &str) -> bool {
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

fn string(json: &str) -> Result<String, String> {
    if !is_string(json) {
        return Err("must be a string".to_owned());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// A string, or a number as it is printed.
fn scalar(json: &str) -> Result<String, String> {
    if is_number(json) {
        return Ok(json.to_owned());
    }
    string(json).map_err(|_| "must be a string or a number".to_owned())
}

fn number(json: &str) -> Result<Decimal, String> {
    let text = scalar(json).map_err(|_| "must be a number, or a string that holds one")?;
    parse_value(&text)
}

/// RFC 3339, or seconds since the epoch as a number or a string.
fn time(json: &str) -> Result<Timestamp, String> {
    let text =
        scalar(json).map_err(|_| "must be a time such as \"2026-11-05T10:00:00Z\", or seconds since 1970")?;
    instant(&text)
}

/// The same from its text.
pub(in crate::collectors) fn instant(text: &str) -> Result<Timestamp, String> {
    let Ok(seconds) = parse_value(text) else {
        return text
            .parse()
            .map_err(|error| format!("`{text}` is no time such as 2026-11-05T10:00:00Z: {error}"));
    };
    let too_fine = || format!("`{text}` is finer than a nanosecond");
    let out_of_range = || format!("`{text}` seconds since 1970 is no date (are they milliseconds?)");
    let nanoseconds = (seconds.fract() * Decimal::from(1_000_000_000)).normalize();
    if nanoseconds.scale() > 0 {
        return Err(too_fine());
    }
    let whole = seconds.trunc().to_i64().ok_or_else(out_of_range)?;
    let nanoseconds = nanoseconds.to_i32().ok_or_else(too_fine)?;
    Timestamp::new(whole, nanoseconds).map_err(|_| out_of_range())
}

fn checkpoint(json: &str) -> Result<String, String> {
    let text = string(json)?;
    if text.len() > MAX_CHECKPOINT {
        return Err(format!("has more than {MAX_CHECKPOINT} bytes"));
    }
    if text.contains('\0') {
        return Err("contains a NUL character".to_owned());
    }
    Ok(text)
}

/// A JSON object whose values are left as they are printed. The same key twice is an error: which one would be meant?
struct Object(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut entries: Vec<(String, Box<RawValue>)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("key `{key}` is there twice")));
            }
            entries.push((key, map.next_value()?));
        }
        Ok(Object(entries))
    }
}

#[cfg(test)]
mod tests;
