//! What is judged of every run alike, whatever its collector, before it is recorded: times that can't be, two values of one
//! reading, a run of which nothing could be read, and what nobody meters.
//!
//! It never looks at what was known before: that a reading was corrected since is the ledger's to see.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use super::spool::identity_hash;
use super::{Batch, Bearing, CollectorError, MOST_QUARANTINED, texts};
use crate::metering::reading::{Labels, Reading, Span};

/// A reading from further ahead than this is a clock gone wrong.
pub(super) const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Nobody sold computing through Waldur before; a machine that boots in 1970 did not measure anything then.
pub(super) const EARLIEST_SECOND: i64 = 1_262_304_000; // 2010-01-01T00:00:00Z

/// Names that a note lists.
const NAMED: usize = 10;

impl Batch {
    /// Judges a run when it is done. `now`: when it ended; `metered`: the readings that a meter wants, all if there are
    /// none. An error says why it has failed as a whole.
    pub fn finish(&mut self, now: Timestamp, metered: &BTreeSet<&str>) -> Result<(), CollectorError> {
        self.set_implausible_aside(now)?;
        self.set_contradictions_aside()?;
        self.note_unmetered(metered);
        let is_metered = |name: &str| metered.is_empty() || metered.contains(name);
        let problems = self.problems.iter_mut().map(|problem| &mut problem.bears_on);
        for bears_on in problems.chain(self.quarantined.iter_mut().map(|bad| &mut bad.bears_on)) {
            if let Bearing::Some(filters) = bears_on {
                // What nobody meters withholds nothing.
                filters.retain(|filter| filter.name.as_deref().is_none_or(is_metered));
            }
        }
        self.has_read_something(is_metered)
    }

    /// What is odd about readings that nobody meters is a note: it is no sign of anything that is billed.
    fn note_unmetered(&mut self, metered: &BTreeSet<&str>) {
        let mut words = Vec::new();
        self.problems.retain(|problem| {
            let is_unmetered = problem.bears_on.is_unmetered(metered);
            words.extend(is_unmetered.then(|| problem.text.clone()));
            !is_unmetered
        });
        let rest = self.quarantined.get(MOST_QUARANTINED);
        if rest.is_some_and(|rest| rest.bears_on.is_unmetered(metered)) {
            // The one that sums up what is not kept one by one.
            self.unshown = 0;
        }
        self.quarantined.retain(|bad| {
            let is_unmetered = bad.bears_on.is_unmetered(metered);
            words.extend(is_unmetered.then(|| match bad.what.as_str() {
                "" => bad.reason.clone(),
                what => format!("{}: {what}", bad.reason),
            }));
            !is_unmetered
        });
        let more = words.len().saturating_sub(NAMED);
        let some = words.into_iter().take(NAMED);
        self.notes.extend(some.map(|words| format!("no meter wants what this is about: {words}")));
        if more > 0 {
            self.notes.push(format!("and {more} more such things that no meter wants"));
        }
    }

    /// Says which readings nobody meters, where the operator chose what there is to read.
    pub fn note_unwanted(&mut self, metered: &BTreeSet<&str>) {
        let names = self.kinds().map(|(name, _)| name);
        let unwanted: BTreeSet<&str> = names.filter(|name| !metered.contains(name)).collect();
        if !unwanted.is_empty() {
            let some = unwanted.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
            let more = match unwanted.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            self.notes.push(format!("no meter wants {some}{more}: what they say is billed to nobody"));
        }
    }

    /// A run that had something of what is wanted and could read none of it has failed; one that found nothing has not.
    fn has_read_something(&self, is_metered: impl Fn(&str) -> bool) -> Result<(), CollectorError> {
        let mut bad = self.quarantined.iter().filter(|bad| bad.bears_on != Bearing::nothing());
        let Some(first) = bad.next() else { return Ok(()) };
        let has_read = self.known > 0
            || !self.more.is_empty()
            || self.readings.iter().any(|reading| is_metered(&reading.name));
        if has_read {
            return Ok(());
        }
        let count = match self.unshown {
            0 => 1 + bad.count() as u64,
            // The last one sums up the others.
            unshown => bad.count() as u64 + unshown,
        };
        let mut words = match count {
            1 => format!("the one line or value that it found could not be read: {}", first.reason),
            count => {
                format!("none of its {count} lines or values could be read; the first: {}", first.reason)
            }
        };
        if !first.what.is_empty() {
            words = format!("{words}: {}", first.what);
        }
        words += ". Nothing of it counts; has its source changed?";
        if !self.problems.is_empty() {
            words = format!("{words} Also: {}", texts(&self.problems));
        }
        Err(CollectorError(words))
    }

    /// Sets aside what can't have been when it says.
    fn set_implausible_aside(&mut self, now: Timestamp) -> Result<(), CollectorError> {
        let mut bad = Vec::new();
        let mut judge = |reading: &Reading| match implausible(reading, now) {
            None => true,
            Some(reason) => {
                bad.push((reading.clone(), reason));
                false
            }
        };
        self.readings.retain(&mut judge);
        if self.more.times().is_some_and(|(earliest, latest)| wrong_time(earliest, latest, now).is_some()) {
            self.more.retain(judge).map_err(lost)?;
        }
        for (reading, reason) in bad {
            self.set_aside(&reading, reason);
        }
        Ok(())
    }

    /// Two values of one reading in one run: which is meant can't be known, so neither counts. Returns one of each such. The
    /// same value twice is one.
    pub(super) fn set_contradictions_aside(&mut self) -> Result<Vec<Reading>, CollectorError> {
        let mut hashes: Vec<u64> = self.readings.iter().map(identity_hash).collect();
        hashes.extend_from_slice(self.more.identities());
        hashes.sort_unstable();
        let twice: HashSet<u64> =
            hashes.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
        drop(hashes);
        if twice.is_empty() {
            return Ok(Vec::new());
        }
        let mut told: HashMap<Identity, Told> = HashMap::new();
        let mut hear = |reading: &Reading| {
            if twice.contains(&identity_hash(reading)) {
                told.entry(Identity::of(reading))
                    .and_modify(|told| told.again(reading))
                    .or_insert_with(|| Told::first(reading));
            }
        };
        self.readings.iter().for_each(&mut hear);
        for reading in self.more.read().map_err(lost)? {
            hear(&reading.map_err(lost)?);
        }
        let mut keep = |reading: &Reading| match told.get_mut(&Identity::of(reading)) {
            None => true,
            Some(told) => !std::mem::replace(&mut told.taken, true) && !told.contradicts,
        };
        self.readings.retain(&mut keep);
        self.more.retain(keep).map_err(lost)?;
        let mut bad: Vec<Told> = told.into_values().filter(|told| told.contradicts).collect();
        bad.sort_by(|one, other| {
            let order = |told: &Told| {
                (told.reading.name.clone(), told.reading.id.clone(), told.reading.labels.clone())
            };
            order(one).cmp(&order(other))
        });
        for told in &bad {
            self.quarantine_of(&told.what(), told.reason(), told.bears_on.clone());
        }
        Ok(bad.into_iter().map(|told| told.reading).collect())
    }
}

fn lost(error: std::io::Error) -> CollectorError {
    CollectorError(format!(
        "its readings are too many for memory, and can't be read back from their file: {error}"
    ))
}

/// Why a reading can't have been when it says, if it can't.
pub(super) fn implausible(reading: &Reading, now: Timestamp) -> Option<String> {
    let (start, end) = (reading.span.start(), reading.span.end());
    wrong_time(reading.epoch.began.map_or(start, |began| began.min(start)), end, now)
}

fn wrong_time(earliest: Timestamp, latest: Timestamp, now: Timestamp) -> Option<String> {
    if latest > now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX) {
        return Some(format!("its time {latest} lies in the future (now is {now}); is a clock wrong?"));
    }
    if earliest.as_second() < EARLIEST_SECOND {
        return Some(format!("its time {earliest} lies before 2010; is a clock wrong?"));
    }
    None
}

/// What makes a reading the same one when it is seen again.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Identity {
    Id(String, String),
    Series(String, Labels, Timestamp, Timestamp),
}

impl Identity {
    fn of(reading: &Reading) -> Identity {
        let name = reading.name.clone();
        match &reading.id {
            Some(id) => Identity::Id(name, id.clone()),
            None => Identity::Series(name, reading.labels.clone(), reading.span.start(), reading.span.end()),
        }
    }
}

/// What was said of one reading.
#[derive(Debug)]
struct Told {
    reading: Reading,
    count: usize,
    contradicts: bool,
    taken: bool,
    /// Some of the values.
    values: Vec<String>,
    bears_on: Bearing,
}

impl Told {
    fn first(reading: &Reading) -> Told {
        Told {
            values: vec![reading.value.normalize().to_string()],
            bears_on: Bearing::series(&reading.name, &reading.labels),
            reading: reading.clone(),
            count: 1,
            contradicts: false,
            taken: false,
        }
    }

    fn again(&mut self, reading: &Reading) {
        self.count += 1;
        let first = &self.reading;
        let same = first.value == reading.value
            && first.kind == reading.kind
            && first.span == reading.span
            && first.labels == reading.labels
            && first.epoch == reading.epoch;
        if same {
            return;
        }
        self.contradicts = true;
        let value = reading.value.normalize().to_string();
        if self.values.len() < 3 && !self.values.contains(&value) {
            self.values.push(value);
        }
        if first.labels != reading.labels {
            self.bears_on.join(Bearing::series(&reading.name, &reading.labels));
        }
    }

    fn what(&self) -> String {
        let Reading { name, labels, id, span, .. } = &self.reading;
        match (id, span) {
            (Some(id), _) => format!("{name} {id} {labels:?}"),
            (None, Span::At(_)) => format!("{name} {labels:?}"),
            (None, Span::Interval { start, end }) => format!("{name} {start}/{end} {labels:?}"),
        }
    }

    fn reason(&self) -> String {
        let (count, values) = (self.count, self.values.join(" and "));
        match self.values.as_slice() {
            [_] => format!(
                "this reading is there {count} times in one run, with other times or labels: which is meant can't be known, \
                 so none counts"
            ),
            _ => format!(
                "this reading is there {count} times in one run, with the values {values}: which is meant can't be known, so \
                 none counts; what are different things need labels or an id that tell them apart"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
