//! Readings that would be too many for memory, in a temporary file that has no name and is gone when it is closed.
//!
//! Readings that follow each other and differ in name and value only (those of one job) share the rest in the file. What
//! can't be written or read is never passed over: the run has failed.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::metering::reading::{Epoch, Kind, Labels, Reading, Span};

/// A pile of readings, taken in the order in which they were put.
#[derive(Debug, Default)]
pub struct Spool {
    file: Option<BufWriter<File>>,
    len: usize,
    /// Bytes of the file that are in use.
    bytes: u64,
    /// What makes each reading the same one when it is seen again, as a hash.
    identities: Vec<u64>,
    /// The earliest and the latest time of any reading.
    times: Option<(Timestamp, Timestamp)>,
    /// The names of all that was put, with the kind of the first of each.
    kinds: BTreeMap<String, Kind>,
    /// The last one put, but for its name, unit and value.
    last: Option<Reading>,
    /// Why it is not whole.
    trouble: Option<String>,
}

/// How far a pile had grown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Height {
    len: usize,
    bytes: u64,
    times: Option<(Timestamp, Timestamp)>,
}

/// What makes a reading the same one when it is seen again, as a hash: its name with its id, or with its series and times.
pub(super) fn identity_hash(reading: &Reading) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&reading.name, &reading.id).hash(&mut hasher);
    if reading.id.is_none() {
        (&reading.labels, reading.span.start(), reading.span.end()).hash(&mut hasher);
    }
    hasher.finish()
}

/// A reading as a line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    name: String,
    value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// `None`: as in the line before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rest: Option<Rest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Rest {
    kind: String,
    /// In microseconds, as readings have them.
    start: Option<i64>,
    at: i64,
    labels: Labels,
    id: Option<String>,
    epoch: Option<String>,
    began: Option<i64>,
    #[serde(default)]
    shared: bool,
}

impl Spool {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Why some of what was put is not there. Then nothing of it must be used.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Of each reading what makes it the same one, in the order in which they were put.
    pub(super) fn identities(&self) -> &[u64] {
        &self.identities
    }

    /// The names of the readings, with their kinds.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.kinds.iter().map(|(name, kind)| (name.as_str(), *kind))
    }

    /// The earliest time of any reading or its counter's life, and the latest.
    pub(super) fn times(&self) -> Option<(Timestamp, Timestamp)> {
        self.times
    }

    pub(super) fn height(&self) -> Height {
        Height { len: self.len, bytes: self.bytes, times: self.times }
    }

    /// Takes away what was put since.
    pub(super) fn back_to(&mut self, height: Height) -> std::io::Result<()> {
        if height.len >= self.len {
            return Ok(());
        }
        if let Some(file) = &mut self.file {
            file.flush()?;
            let file = file.get_mut();
            file.set_len(height.bytes)?;
            file.seek(SeekFrom::Start(height.bytes))?;
        }
        (self.len, self.bytes, self.times) = (height.len, height.bytes, height.times);
        self.identities.truncate(height.len);
        self.last = None;
        Ok(())
    }

    /// Keeps those that are wanted.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&Reading) -> bool) -> std::io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut kept = Spool::default();
        for reading in self.read()? {
            let reading = reading?;
            if wanted(&reading) {
                kept.push(&reading);
            }
        }
        *self = kept;
        Ok(())
    }

    pub fn push(&mut self, reading: &Reading) {
        if self.trouble.is_some() {
            return;
        }
        if let Err(error) = self.write(reading) {
            let place = std::env::temp_dir();
            self.trouble = Some(format!(
                "its readings are too many for memory, and could not be kept in a temporary file in {}: {error}; make \
                 room there, or set TMPDIR to where there is some",
                place.display()
            ));
        }
    }

    fn write(&mut self, reading: &Reading) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::with_capacity(64 * 1024, tempfile::tempfile()?)),
        };
        let shared = self.last.as_ref().is_some_and(|last| {
            last.kind == reading.kind
                && last.span == reading.span
                && last.id == reading.id
                && last.epoch == reading.epoch
                && last.labels == reading.labels
        });
        let line = Line {
            name: reading.name.clone(),
            value: reading.value.to_string(),
            unit: reading.unit.clone(),
            rest: (!shared).then(|| Rest::of(reading)),
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        file.write_all(&text)?;
        self.len += 1;
        self.bytes += text.len() as u64;
        self.identities.push(identity_hash(reading));
        if !self.kinds.contains_key(&reading.name) {
            self.kinds.insert(reading.name.clone(), reading.kind);
        }
        let start = reading.span.start();
        let start = reading.epoch.began.map_or(start, |began| began.min(start));
        let (earliest, latest) = self.times.unwrap_or((start, reading.span.end()));
        self.times = Some((earliest.min(start), latest.max(reading.span.end())));
        if !shared {
            self.last = Some(reading.clone());
        }
        Ok(())
    }

    /// Goes through all of it, from the first; may be done again.
    pub fn read(&mut self) -> std::io::Result<impl Iterator<Item = std::io::Result<Reading>> + use<>> {
        let file = match &mut self.file {
            None => None,
            Some(file) => {
                file.flush()?;
                let mut file = file.get_ref().try_clone()?;
                file.rewind()?;
                Some(BufReader::with_capacity(64 * 1024, file))
            }
        };
        Ok(Lines { file, left: self.len, text: String::new(), last: None })
    }
}

struct Lines {
    file: Option<BufReader<File>>,
    left: usize,
    text: String,
    last: Option<Reading>,
}

impl Iterator for Lines {
    type Item = std::io::Result<Reading>;

    fn next(&mut self) -> Option<Self::Item> {
        let file = self.file.as_mut().filter(|_| self.left > 0)?;
        self.left -= 1;
        self.text.clear();
        let read = file.read_line(&mut self.text).and_then(|_| {
            let line: Line = serde_json::from_str(&self.text)?;
            line.reading(self.last.as_ref())
                .ok_or_else(|| std::io::Error::other("it is not what was written"))
        });
        if let Ok(reading) = &read {
            self.last = Some(reading.clone());
        }
        Some(read)
    }
}

impl Line {
    fn reading(self, last: Option<&Reading>) -> Option<Reading> {
        let mut reading = match self.rest {
            Some(rest) => rest.reading()?,
            None => last?.clone(),
        };
        reading.name = self.name;
        reading.value = self.value.parse().ok()?;
        reading.unit = self.unit;
        Some(reading)
    }
}

impl Rest {
    fn of(reading: &Reading) -> Rest {
        Rest {
            kind: reading.kind.name().to_owned(),
            start: match reading.span {
                Span::At(_) => None,
                Span::Interval { start, .. } => Some(start.as_microsecond()),
            },
            at: reading.span.end().as_microsecond(),
            labels: reading.labels.clone(),
            id: reading.id.clone(),
            epoch: reading.epoch.id.clone(),
            began: reading.epoch.began.map(Timestamp::as_microsecond),
            shared: reading.epoch.shared,
        }
    }

    fn reading(self) -> Option<Reading> {
        let instant = |micros| Timestamp::from_microsecond(micros).ok();
        let at = instant(self.at)?;
        let mut reading = Reading::new("", self.kind.parse::<Kind>().ok()?, 0.into(), at);
        if let Some(start) = self.start {
            reading.span = Span::Interval { start: instant(start)?, end: at };
        }
        reading.labels = self.labels;
        reading.id = self.id;
        reading.epoch = Epoch { id: self.epoch, began: self.began.and_then(instant), shared: self.shared };
        Some(reading)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(spool: &mut Spool) -> Vec<Reading> {
        spool.read().unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Readings of every kind, some of which share much with the one before.
    fn any_readings() -> impl Strategy<Value = Vec<Reading>> {
        let label = || "\\PC{0,12}";
        let one = (
            (0..4usize, "\\PC{1,8}", -1_000_000_000..1_000_000_000i64, 0..=12u32),
            proptest::option::of(label()),
            proptest::collection::btree_map(label(), label(), 0..3),
            proptest::option::of(label()),
            (proptest::option::of(label()), proptest::option::of(100_000_000_000i64..2_000_000_000_000_000)),
            (100_000_000_000i64..2_000_000_000_000_000, 0..1_000_000i64),
        );
        let made =
            one.prop_map(|((kind, name, digits, scale), unit, labels, id, (epoch, began), (at, long))| {
                let kind = [Kind::Counter, Kind::Gauge, Kind::Delta, Kind::Total][kind];
                let instant = |micros| Timestamp::from_microsecond(micros).unwrap();
                let value = rust_decimal::Decimal::new(digits, scale);
                let mut reading = Reading::new(&name, kind, value, instant(at));
                if kind == Kind::Delta {
                    reading.span = Span::Interval { start: instant(at - long), end: instant(at) };
                }
                reading.unit = unit;
                reading.labels = labels;
                reading.id = id;
                reading.epoch = Epoch { id: epoch, began: began.map(instant), shared: at % 2 == 0 };
                reading
            });
        proptest::collection::vec((made, 0..3usize), 0..20).prop_map(|readings| {
            let twins = readings.into_iter().flat_map(|(reading, twins)| {
                (0..=twins).map(move |n| Reading { name: format!("{} {n}", reading.name), ..reading.clone() })
            });
            twins.collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_put_is_taken_in_order_and_unchanged(readings in any_readings()) {
            let mut spool = Spool::default();
            for reading in &readings {
                spool.push(reading);
            }
            prop_assert_eq!(spool.len(), readings.len());
            prop_assert_eq!(&all(&mut spool), &readings);
            prop_assert_eq!(&all(&mut spool), &readings, "a second time");
        }

        #[test]
        fn what_was_put_since_can_be_taken_away(readings in any_readings(), more in any_readings(), half in any::<bool>()) {
            let mut spool = Spool::default();
            readings.iter().for_each(|reading| spool.push(reading));
            let (height, identities) = (spool.height(), spool.identities().to_vec());
            more.iter().for_each(|reading| spool.push(reading));
            spool.back_to(height).unwrap();
            prop_assert_eq!(spool.identities(), &identities);
            prop_assert_eq!(&all(&mut spool), &readings);
            // And it goes on from there.
            more.iter().for_each(|reading| spool.push(reading));
            let both = [readings, more].concat();
            prop_assert_eq!(&all(&mut spool), &both);
            let mut count = 0;
            spool.retain(|_| { count += 1; half || count % 2 == 0 }).unwrap();
            let kept: Vec<Reading> =
                both.into_iter().enumerate().filter(|(n, _)| half || n % 2 == 1).map(|(_, one)| one).collect();
            prop_assert_eq!(&all(&mut spool), &kept);
        }
    }

    #[test]
    fn an_empty_one_has_no_file_and_nothing_in_it() {
        let mut spool = Spool::default();
        assert_eq!((all(&mut spool), spool.is_empty(), spool.trouble()), (vec![], true, None));
    }
}
