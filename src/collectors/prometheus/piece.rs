//! From one answer to readings.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::answer::{self, Answer, Series};
use super::progress::Window;
use super::query::{Mode, Query};
use super::series::{ends, enough};
use crate::collectors::characters::text_of;
use crate::collectors::numbers;
use crate::metering::reading::{Labels, Reading};

/// How Prometheus 2.48 and later begin what newer ones put into `infos`.
const REMARK: &str = "PromQL info:";

/// What one answer came to.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) readings: Vec<Reading>,
    pub(super) ended: Vec<(Labels, Timestamp)>,
    /// By the labels of the series.
    pub(super) bad: BTreeMap<String, Bad>,
    pub(super) series: usize,
    pub(super) warnings: Vec<String>,
    pub(super) infos: Vec<String>,
}

/// Samples of one series that can't be readings.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) labels: Labels,
    pub(super) reason: String,
    pub(super) count: usize,
}

/// Reads the answer for a window; samples up to `after` have been taken already.
pub(super) fn digest(
    query: &Query,
    body: &[u8],
    window: &Window,
    after: Option<Timestamp>,
) -> Result<Piece, String> {
    let text = text_of(body);
    let (mut piece, found) = begin(answer::read(&text, "matrix")?);
    for Series { labels, samples, timeless } in found {
        // Where it was is not known then, and so not where it ended.
        let may_end = timeless.is_empty();
        timeless.into_iter().for_each(|why| piece.is_bad(&labels, why));
        let samples: Vec<_> =
            samples.into_iter().filter(|(at, _)| (window.first..=window.last).contains(at)).collect();
        if query.mode == Mode::Range && may_end {
            let present: Vec<Timestamp> = samples.iter().map(|(at, _)| *at).collect();
            let ends = ends(&present, query.step, window.last).into_iter();
            piece.ended.extend(ends.map(|at| (labels.clone(), at)));
        }
        let is_new = |at: Timestamp| after.is_none_or(|after| at > after);
        let mut good = Vec::with_capacity(samples.len());
        for (at, text) in samples {
            // One that was taken already still tells whether the next is a fall.
            match text.and_then(|text| numbers::value(&text)) {
                Ok(value) => good.push((at, value)),
                Err(reason) if is_new(at) => piece.is_bad(&labels, reason),
                Err(_) => {}
            }
        }
        let kept: Vec<(Timestamp, Decimal)> = match query.mode {
            Mode::Samples => enough(&good, |value| *value, query.step).copied().collect(),
            _ => good,
        };
        for (at, value) in kept.into_iter().filter(|(at, _)| is_new(*at)) {
            piece.push(query, &labels, value, at);
        }
    }
    Ok(piece)
}

/// Reads the answer for the present moment.
pub(super) fn digest_instant(query: &Query, body: &[u8], now: Timestamp) -> Result<Piece, String> {
    let text = text_of(body);
    let (mut piece, found) = begin(answer::read(&text, "vector")?);
    for Series { labels, samples, timeless } in found {
        timeless.into_iter().for_each(|why| piece.is_bad(&labels, why));
        for (_, text) in samples {
            match text.and_then(|text| numbers::value(&text)) {
                Ok(value) => piece.push(query, &labels, value, now),
                Err(reason) => piece.is_bad(&labels, reason),
            }
        }
    }
    Ok(piece)
}

fn begin(answer: Answer<'_>) -> (Piece, Vec<Series<'_>>) {
    let Answer { series, warnings, mut infos, histograms, odd } = answer;
    // What some servers call a warning is a remark on the query; the answer is whole.
    let (remarks, warnings): (Vec<String>, Vec<String>) =
        warnings.into_iter().partition(|words| words.trim_start().starts_with(REMARK));
    infos.extend(remarks);
    if histograms > 0 {
        infos.push(format!(
            "{histograms} series have native histograms, which are not read: ask for their sum or count"
        ));
    }
    let mut piece = Piece { series: series.len() + odd.len(), warnings, infos, ..Piece::default() };
    for (labels, why) in odd {
        piece.is_bad(&labels, why);
    }
    (piece, series)
}

impl Piece {
    fn push(&mut self, query: &Query, labels: &Labels, value: Decimal, at: Timestamp) {
        let mut reading = Reading::new(&query.name, query.kind, value, at);
        reading.unit.clone_from(&query.unit);
        reading.labels = labels.clone();
        match reading.checked() {
            Ok(reading) => self.readings.push(reading),
            Err(reason) => self.is_bad(labels, reason),
        }
    }

    fn is_bad(&mut self, labels: &Labels, reason: String) {
        let bad = self.bad.entry(format!("{labels:?}")).or_insert_with(|| Bad {
            labels: labels.clone(),
            reason,
            count: 0,
        });
        bad.count += 1;
    }
}
