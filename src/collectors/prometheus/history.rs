//! Reads the history of one query piece by piece: which window is asked for next, how long it may be, and what is told of
//! the whole when it is done.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::piece::{Bad, Piece};
use super::progress::{Progress, Read, Window};
use super::query::{Mode, Query};
use super::series::{QUARTER, aligned};
use crate::collectors::again::Look;
use crate::collectors::{Batch, Bearing};

const FIRST_PIECE: SignedDuration = SignedDuration::from_hours(1);
const LONGEST_PIECE: SignedDuration = SignedDuration::from_hours(24);
const SHORTEST_PIECE: SignedDuration = SignedDuration::from_mins(1);
/// Prometheus refuses more than 11,000 steps at a time.
const MOST_STEPS: i32 = 10_000;
/// An answer smaller than this (bytes, readings) lets the next piece be longer.
const SMALL: (usize, usize) = (1 << 20, 5_000);

/// How far one query has been read in this run.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) query: &'a Query,
    pub(super) read: Read,
    /// All before this has been read.
    pub(super) at: Timestamp,
    /// Where it ends.
    pub(super) until: Timestamp,
    /// The windows that were answered, and whether the server called the answer whole and all of it could be read.
    pub(super) looks: Vec<Look>,
    /// The last instant whose samples were taken in this run.
    pub(super) pushed: Option<Timestamp>,
    pub(super) failed: bool,
    is_again: bool,
    piece: SignedDuration,
    longest: SignedDuration,
    series: usize,
    began: Timestamp,
    bad: BTreeMap<String, Bad>,
    words: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(query: &'a Query, read: Read, until: Timestamp) -> Self {
        // What was kept of a window does not hang on where it began, if that is where samples are kept anyway.
        let at = match query.mode {
            Mode::Samples => aligned(read.resume, QUARTER).max(read.from),
            _ => read.resume,
        };
        Reader { at, until, longest: longest(query), ..Reader::empty(query, read, at) }
    }

    /// For a part of the history that was not whole when it was read.
    pub(super) fn again(query: &'a Query, read: Read, (from, until): (Timestamp, Timestamp)) -> Self {
        Reader { until, longest: longest(query), is_again: true, ..Reader::empty(query, read, from) }
    }

    /// For a query that reads no history.
    pub(super) fn at_once(query: &'a Query, now: Timestamp) -> Self {
        Reader::empty(query, Progress::default().start(query, now), now)
    }

    fn empty(query: &'a Query, read: Read, at: Timestamp) -> Self {
        Reader {
            query,
            read,
            at,
            until: at,
            looks: Vec::new(),
            pushed: None,
            failed: false,
            is_again: false,
            piece: FIRST_PIECE,
            longest: FIRST_PIECE,
            series: 0,
            began: at,
            bad: BTreeMap::new(),
            words: BTreeSet::new(),
        }
    }

    /// Whether what is left may wait for the next run: this one has come further than the last. A part that is read again is
    /// read whole or not at all.
    pub(super) fn may_wait(&self) -> bool {
        if self.is_again { self.at == self.began } else { self.at > self.read.resume }
    }

    /// What to ask for next. `None`: there is nothing up to its end yet, and reading is done.
    pub(super) fn window(&mut self) -> Option<Window> {
        let now = self.until;
        let longest = self.at.checked_add(self.length()).unwrap_or(now).min(now);
        let end =
            self.read.until.filter(|until| self.at < *until).map_or(longest, |until| until.min(longest));
        if self.query.mode != Mode::Range {
            return Some(Window { first: self.at, last: end, end });
        }
        // The step before is asked for again: what was there then and is not now has ended.
        let step = self.query.step;
        let mut first = aligned(self.at, step);
        if first < self.read.from {
            first = first.saturating_add(step).unwrap_or(first);
        }
        let last = aligned(end, step);
        if first > last {
            self.looks.push(Look { from: self.at, to: end, whole: true });
            self.at = end;
            return None;
        }
        let end = if end == now { now } else { last };
        Some(Window { first, last, end })
    }

    fn length(&self) -> SignedDuration {
        let piece = self.piece.min(self.longest);
        if self.query.mode == Mode::Range { piece.max(self.query.step) } else { piece }
    }

    /// The path and the parameters of the question.
    pub(super) fn question(&self, window: &Window) -> (&'static str, Vec<(&'static str, String)>) {
        let text = &self.query.text;
        if self.query.mode == Mode::Range {
            let asked = vec![
                ("query", text.clone()),
                ("start", seconds(window.first)),
                ("end", seconds(window.last)),
                ("step", self.query.step.as_secs().to_string()),
            ];
            return ("api/v1/query_range", asked);
        }
        // One millisecond more: newer servers leave out what lies exactly at the beginning.
        let range = window.last.as_millisecond() - window.first.as_millisecond() + 1;
        let asked = vec![("query", format!("{text}[{range}ms]")), ("time", seconds(window.last))];
        ("api/v1/query", asked)
    }

    /// Makes the next piece shorter; false if it is as short as can be.
    pub(super) fn ask_for_less(&mut self, than: &Window) -> bool {
        let shortest = if self.query.mode == Mode::Range { self.query.step } else { SHORTEST_PIECE };
        let half = than.last.duration_since(than.first) / 2;
        if half < shortest {
            return false;
        }
        (self.piece, self.longest) = (half, half);
        true
    }

    /// Takes what was answered for a window, and goes on behind it.
    pub(super) fn take(&mut self, piece: Piece, window: &Window, size: usize, batch: &mut Batch) {
        if size < SMALL.0 && piece.readings.len() < SMALL.1 {
            self.piece = (self.length() * 2).min(self.longest);
        }
        let whole = piece.warnings.is_empty() && piece.bad.is_empty();
        self.looks.push(Look { from: self.at.min(window.first), to: window.end, whole });
        self.at = window.end;
        self.pushed = Some(window.last);
        self.absorb(piece, batch);
    }

    /// Takes readings and ends, and keeps what is to be told.
    pub(super) fn absorb(&mut self, piece: Piece, batch: &mut Batch) {
        self.series = self.series.max(piece.series);
        let name = &self.query.name;
        if piece.warnings.is_empty() {
            if let Some(ended) = batch.ended.get_mut(name) {
                ended.extend(piece.ended);
            }
        } else {
            let words = piece.warnings.join("; ");
            let problem = format!("query `{name}`: the server says that its answer may not be all: {words}");
            if !batch.problems.iter().any(|known| known.text == problem) {
                batch.problem_of(problem, Bearing::readings([name.as_str()]));
            }
        }
        piece.readings.into_iter().for_each(|reading| batch.keep(reading));
        self.words.extend(piece.infos);
        for (what, bad) in piece.bad {
            self.bad.entry(what).and_modify(|known| known.count += bad.count).or_insert(bad);
        }
    }

    /// Tells what is to be told of the whole.
    pub(super) fn finish(&self, batch: &mut Batch) {
        let name = &self.query.name;
        for (what, bad) in &self.bad {
            let more = match bad.count {
                1 => String::new(),
                count => format!(" (and {} more samples of this series)", count - 1),
            };
            let bears_on = Bearing::series(name, &bad.labels);
            batch.quarantine_of(&format!("{name} {what}"), format!("{}{more}", bad.reason), bears_on);
        }
        batch.notes.extend(self.words.iter().map(|words| format!("query `{name}`: {words}")));
        if self.series == 0 && !self.failed {
            batch.notes.push(match self.query.mode {
                Mode::Instant => format!("query `{name}` has no result now"),
                _ => format!("query `{name}` has no result between {} and {}", self.began, self.at),
            });
        }
    }
}

/// The longest piece that is asked for at once.
fn longest(query: &Query) -> SignedDuration {
    match query.mode {
        Mode::Range => LONGEST_PIECE.max(query.step).min(query.step * MOST_STEPS),
        _ => LONGEST_PIECE,
    }
}

/// An instant as the server takes it.
pub(super) fn seconds(at: Timestamp) -> String {
    let milliseconds = at.as_millisecond();
    format!("{}.{:03}", milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000))
}
