//! Readings that would be too many for memory, in a temporary file that has no name and is gone when it is closed.
//!
//! Readings that follow each other and differ in name and value only (those of one job) share the rest in the file. What
//! can't be written or read is never passed over: the run has failed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use jiff::Timestamp;
use rust_decimal::Decimal;
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
    /// Why it is not whole.
    trouble: Option<String>,
    /// The `Rest` of the last one put, and what the parts of the next are written into.
    rest: Vec<u8>,
    own: Vec<u8>,
    next: Vec<u8>,
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

/// What is a reading's own. In the file it follows its length in bytes, and so does its `Rest`, which has none where it is as
/// before.
#[derive(Debug, Serialize, Deserialize)]
struct Own<'a> {
    name: &'a str,
    value: [u8; 16],
    unit: Option<&'a str>,
}

/// What the readings of one job share.
#[derive(Debug, Serialize, Deserialize)]
struct Rest<'a> {
    kind: &'a str,
    /// In microseconds, as readings have them.
    start: Option<i64>,
    at: i64,
    labels: Cow<'a, Labels>,
    id: Option<&'a str>,
    epoch: Option<&'a str>,
    began: Option<i64>,
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
        self.rest.clear();
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
        let Reading { name, value, unit, .. } = reading;
        self.own = encode(&Own { name, value: value.serialize(), unit: unit.as_deref() }, &mut self.own)?;
        self.next = encode(&Rest::of(reading), &mut self.next)?;
        let rest = if self.next == self.rest { [].as_slice() } else { self.next.as_slice() };
        for part in [&self.own, rest] {
            file.write_all(&(part.len() as u32).to_le_bytes())?;
            file.write_all(part)?;
        }
        self.len += 1;
        self.bytes += (2 * size_of::<u32>() + self.own.len() + rest.len()) as u64;
        std::mem::swap(&mut self.rest, &mut self.next);
        self.identities.push(identity_hash(reading));
        if !self.kinds.contains_key(&reading.name) {
            self.kinds.insert(reading.name.clone(), reading.kind);
        }
        let start = reading.span.start();
        let start = reading.epoch.began.map_or(start, |began| began.min(start));
        let (earliest, latest) = self.times.unwrap_or((start, reading.span.end()));
        self.times = Some((earliest.min(start), latest.max(reading.span.end())));
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
        Ok(Entries { file, left: self.len, own: Vec::new(), rest: Vec::new() })
    }
}

/// A value as bytes, in the memory of an earlier one.
fn encode(value: &impl Serialize, bytes: &mut Vec<u8>) -> std::io::Result<Vec<u8>> {
    bytes.clear();
    postcard::to_extend(value, std::mem::take(bytes)).map_err(std::io::Error::other)
}

struct Entries {
    file: Option<BufReader<File>>,
    left: usize,
    own: Vec<u8>,
    rest: Vec<u8>,
}

impl Iterator for Entries {
    type Item = std::io::Result<Reading>;

    fn next(&mut self) -> Option<Self::Item> {
        let file = self.file.as_mut().filter(|_| self.left > 0)?;
        self.left -= 1;
        Some(entry(file, &mut self.own, &mut self.rest))
    }
}

fn length(file: &mut impl Read) -> std::io::Result<usize> {
    let mut bytes = [0; size_of::<u32>()];
    file.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes) as usize)
}

fn entry(file: &mut impl Read, own: &mut Vec<u8>, rest: &mut Vec<u8>) -> std::io::Result<Reading> {
    own.resize(length(file)?, 0);
    file.read_exact(own)?;
    let new = length(file)?;
    if new > 0 {
        rest.resize(new, 0);
        file.read_exact(rest)?;
    }
    let Own { name, value, unit } = postcard::from_bytes(own).map_err(std::io::Error::other)?;
    let rest: Rest<'_> = postcard::from_bytes(rest).map_err(std::io::Error::other)?;
    let mut reading = rest.reading().ok_or_else(|| std::io::Error::other("it is not what was written"))?;
    name.clone_into(&mut reading.name);
    reading.value = Decimal::deserialize(value);
    reading.unit = unit.map(str::to_owned);
    Ok(reading)
}

impl<'a> Rest<'a> {
    fn of(reading: &'a Reading) -> Rest<'a> {
        Rest {
            kind: reading.kind.name(),
            start: match reading.span {
                Span::At(_) => None,
                Span::Interval { start, .. } => Some(start.as_microsecond()),
            },
            at: reading.span.end().as_microsecond(),
            labels: Cow::Borrowed(&reading.labels),
            id: reading.id.as_deref(),
            epoch: reading.epoch.id.as_deref(),
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
        reading.labels = self.labels.into_owned();
        reading.id = self.id.map(str::to_owned);
        let (id, began) = (self.epoch.map(str::to_owned), self.began.and_then(instant));
        reading.epoch = Epoch { id, began, shared: self.shared };
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
