//! Asks an HTTP API for JSON and turns the answer into readings, with expressions (JMESPath) of the operator's.
//!
//! It never turns an error into zero: an answer that is no success, is not JSON, is not as expected or is a page short
//! fails its request, and a row without a value is quarantined; other requests and rows count. What its source could not say
//! of a step is asked for again. No number goes through a float.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::again::{Look, Unread};
use super::web::{Ask, Session, Url, Web};
use super::{Batch, Bearing, Collector, CollectorError, Offered, Plugin, Request, Running, blocking, texts};
use crate::config::section::Section;
use crate::metering::reading::{Kind, Labels};
use fill::Fill;
use page::Taken;
use settings::{Paging, Source};

mod expression;
mod fill;
mod page;
mod paging;
mod settings;

pub const PLUGIN: Plugin =
    Plugin { name: "http", about: "a JSON API, read with expressions", is_shared: true, build };

/// Pages of one request. A server that never says that it is done must not be asked for ever.
const MOST_PAGES: usize = 1_000;

/// Steps that one run asks for; the next goes on. More than an `overlap` may reach back.
const MOST_STEPS: usize = 1_000;

/// In seconds.
const DAY: i64 = 86_400;

/// A configured collector.
#[derive(Debug)]
struct Http {
    web: Web,
    sources: Vec<Arc<Source>>,
    /// The readings that meters ask for; all where nobody says.
    metered: BTreeSet<String>,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let web = Web::from_section(section);
    let sources = settings::read(section);
    let metered = section.peek_each("meters", "reading").into_iter().collect();
    Some(Box::new(Http { web: web?, sources: sources?, metered }))
}

/// How far each request with a `step` has come.
type Checkpoint = BTreeMap<String, Read>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Read {
    /// Where its history begins for us: nothing before is asked for, however far the overlap reaches back.
    from: Timestamp,
    /// All steps before it are over and were read.
    to: Timestamp,
    /// How long its steps were, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<i64>,
    /// Steps with rows that could not be read.
    #[serde(default, skip_serializing_if = "Unread::is_empty")]
    again: Unread,
}

/// From where to where one question reaches.
type Window = (Timestamp, Timestamp);

impl Http {
    async fn run(&self, request: Request) -> Result<Batch, CollectorError> {
        let session = self.web.open()?;
        // One that can't be read is as none: what is asked for again counts once.
        let before =
            request.checkpoint.as_deref().and_then(|text| serde_json::from_str::<Checkpoint>(text).ok());
        let before = before.unwrap_or_default();
        let mut after = Checkpoint::new();
        let mut batch = Batch::default();
        let mut answered = false;
        for source in &self.sources {
            let done = before.get(&source.name);
            let (windows, again) = windows(source, &request, done)?;
            let mut looks = Vec::new();
            let mut over = done.map(|done| done.to);
            for (at, (start, end)) in windows.iter().chain(&again).copied().enumerate() {
                let fill = Fill { now: request.now, start, end, page: 0, offset: 0, cursor: String::new() };
                let taken = match self.pages(&session, source, fill).await {
                    Ok(taken) => taken,
                    Err(CollectorError(why)) => {
                        batch.problem_of(
                            format!("request {}: {why}", source.name),
                            source.bears_on(&Labels::new()),
                        );
                        break;
                    }
                };
                answered = true;
                looks.push(Look { from: start, to: end, whole: taken.is_whole(&self.metered) });
                for name in source.names_of_history() {
                    let read = batch.history.entry(name.to_owned()).or_default();
                    let is_whole = taken.is_whole(&self.metered)
                        && source.asks_for_windows()
                        && self.is_named_once(name);
                    read.extend(is_whole.then_some((start, end)));
                }
                if at >= windows.len() || done.is_some_and(|done| end <= done.to) {
                    // It was told when it was asked for first, and does not make the run one that read nothing.
                    batch.known += taken.bad();
                }
                taken.add_to(&mut batch);
                if let Some(step) = source.step
                    && at < windows.len()
                {
                    over = Some(aligned(end, step.length.as_secs())?);
                }
            }
            if source.step.is_some() {
                let from = done.map_or(request.since, |done| done.from.min(request.since));
                let mut unread = done.map(|done| done.again.clone()).unwrap_or_default();
                unread.looked(&looks, request.now);
                for (start, end) in unread.give_up(request.now) {
                    let text = format!(
                        "request {}: between {start} and {end} there are rows that could not be read; they were asked for again for \
                         14 days and are given up. If they are mended, read them with `collect --since {start}`",
                        source.name
                    );
                    batch.problem_of(text, Bearing::nothing());
                }
                let read = Read {
                    from,
                    to: over.unwrap_or(from),
                    step: source.step.map(|step| step.length.as_secs()),
                    again: unread,
                };
                after.insert(source.name.clone(), read);
            }
        }
        if !answered && !batch.problems.is_empty() {
            return Err(CollectorError(texts(&batch.problems)));
        }
        if !after.is_empty() {
            let text = serde_json::to_string(&after).map_err(|error| CollectorError(error.to_string()))?;
            batch.checkpoint = Some(text);
        }
        Ok(batch)
    }

    /// Asks for every page of a request. All must come, or none counts.
    async fn pages(
        &self,
        session: &Session<'_>,
        source: &Arc<Source>,
        mut fill: Fill,
    ) -> Result<Taken, CollectorError> {
        let mut taken = Taken::default();
        if let Paging::Page { first, .. } = source.paging {
            fill.page = first;
        }
        let mut url = self.address(source, &fill)?;
        let (mut rows, mut previous) = (0, Vec::new());
        let mut asked = HashSet::new();
        for number in 1..=MOST_PAGES {
            let ask = match &source.body {
                Some(body) => Ask::post_json(url.clone(), paging::body(body, &fill)?),
                None => Ask::get(url.clone()),
            };
            if !asked.insert(ask.identity()) {
                return Err(CollectorError(format!(
                    "{}: page {number} is one that was read before: its pages go round in a circle; nothing of them is used",
                    ask.name()
                )));
            }
            let answer = session.ask(&ask).await?;
            if !matches!(source.paging, Paging::None) && answer.body == previous {
                return Err(CollectorError(format!(
                    "{}: page {number} is the same as the one before: does it know the key that `paging` fills in?",
                    answer.name()
                )));
            }
            let (answer, seen) = {
                let (source, fill) = (source.clone(), fill.clone());
                let (answer, seen, with_it) = blocking::run(move |_| {
                    let seen = source.read(&answer, &fill, &mut taken)?;
                    Ok((answer, seen, taken))
                })
                .await?;
                taken = with_it;
                (answer, seen)
            };
            rows += seen.rows;
            match source.paging.onward(&answer, &seen, &mut fill)? {
                paging::Onward::Done => {
                    return match seen.total {
                        Some(total) if total != rows => Err(CollectorError(format!(
                            "{}: {rows} rows came where the server speaks of {total}; nothing of them is used",
                            answer.name()
                        ))),
                        _ => Ok(taken),
                    };
                }
                paging::Onward::Filled => url = self.address(source, &fill)?,
                paging::Onward::At(next) => url = next,
            }
            previous = answer.body;
        }
        Err(CollectorError(format!("it goes on after {MOST_PAGES} pages; ask for larger ones")))
    }

    /// Whether one request alone makes these readings.
    fn is_named_once(&self, name: &str) -> bool {
        self.named().into_iter().filter(|(known, _)| *known == name).count() == 1
    }

    fn address(&self, source: &Source, fill: &Fill) -> Result<Url, CollectorError> {
        let path = fill.fill(&source.path).map_err(CollectorError)?;
        let mut query = Vec::new();
        for (name, template) in &source.query {
            let value = fill.fill(template).map_err(CollectorError)?;
            // A cursor is empty at first, and is not sent then.
            if !value.is_empty() {
                query.push((name.as_str(), value));
            }
        }
        Ok(self.web.at(&path, query.iter().map(|(name, value)| (*name, value.as_str()))))
    }
}

/// The parts of time to ask for: the steps since the last run, the last of them up to now, or all of it at once; and those
/// steps that are to be asked for again.
fn windows(
    source: &Source,
    request: &Request,
    done: Option<&Read>,
) -> Result<(Vec<Window>, Vec<Window>), CollectorError> {
    let now = aligned(request.now, 1)?;
    let Some(step) = source.step else { return Ok((vec![(request.since, now)], Vec::new())) };
    let length = step.length.as_secs();
    let late = |error: jiff::Error| CollectorError(error.to_string());
    let start = match done {
        // Steps of any length begin with the day.
        Some(done) if done.from <= request.since && done.step.is_some_and(|known| known != length) => {
            aligned(done.to, DAY)?.max(done.from)
        }
        Some(done) if done.from <= request.since => {
            done.to.checked_sub(step.overlap).map_err(late)?.max(done.from)
        }
        // It is new, or wanted from earlier than before.
        _ => request.since,
    };
    let steps = |start: Timestamp, end: Timestamp, most: usize| {
        let mut start = aligned(start, length)?;
        let mut windows: Vec<Window> = Vec::new();
        while start < end && windows.len() < most {
            let next = start.checked_add(step.length).map_err(late)?;
            windows.push((start, next.min(now)));
            start = next;
        }
        Ok::<_, CollectorError>(windows)
    };
    let windows = steps(start, now, MOST_STEPS)?;
    let mut again: Vec<Window> = Vec::new();
    for (from, to) in done.map(|done| done.again.due(request.now)).unwrap_or_default() {
        let left = MOST_STEPS.saturating_sub(windows.len() + again.len());
        for window in steps(from, to.min(now), left)? {
            if !windows.contains(&window) && !again.contains(&window) {
                again.push(window);
            }
        }
    }
    Ok((windows, again))
}

/// The last multiple of `seconds` since 1970, which is a boundary of days in UTC.
fn aligned(instant: Timestamp, seconds: i64) -> Result<Timestamp, CollectorError> {
    let second = instant.as_second().div_euclid(seconds) * seconds;
    Timestamp::from_second(second).map_err(|error| CollectorError(error.to_string()))
}

impl Collector for Http {
    fn offers(&self) -> &[Offered] {
        &[]
    }

    fn named(&self) -> Vec<(&str, Kind)> {
        let wanted = self.sources.iter().flat_map(|source| &source.readings);
        wanted.map(|wanted| (wanted.name.as_str(), wanted.kind)).collect()
    }

    fn labels(&self) -> &[&'static str] {
        &[]
    }

    fn scope(&self) -> String {
        let asked = |source: &Arc<Source>| {
            format!(
                "{} {} {:?} {:?} {:?} {:?}",
                source.name,
                source.path,
                source.query,
                source.each,
                source.labels,
                source.step.map(|step| step.length)
            )
        };
        // Its query may hold a key.
        let url = self.web.url();
        format!(
            "{}{} {}",
            url.authority(),
            url.path(),
            self.sources.iter().map(asked).collect::<Vec<_>>().join("; ")
        )
    }

    fn secret_env(&self) -> Vec<String> {
        self.web.secret_env()
    }

    fn may_fall_silent(&self) -> bool {
        true
    }

    fn carry_over(&self, old: &str, new: String) -> String {
        let read = |text: &str| serde_json::from_str::<Checkpoint>(text);
        let (Ok(old), Ok(mut left)) = (read(old), read(&new)) else { return new };
        for (name, read) in &mut left {
            read.again.add(&old.get(name).map(|old| old.again.clone()).unwrap_or_default());
        }
        serde_json::to_string(&left).unwrap_or(new)
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(self.run(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// What was used before the agent took over is another's to bill, though the overlap is longer than the agent is old.
    #[test]
    fn no_overlap_reaches_back_behind_where_history_was_wanted_from() {
        let text = "requests:\n  r:\n    step: 1d\n    query: { from: '{start}' }\n    \
                    readings: { used: { kind: delta, value: answer.used } }\n";
        let (mut section, problems) = Section::parse(text);
        let source = settings::read(&mut section).unwrap().remove(0);
        assert_eq!(problems.list(), vec![]);
        let first = |done: Option<(&str, &str)>, since: &str, now: &str| {
            let request = Request { now: at(now), since: at(since), checkpoint: None, withhold: Vec::new() };
            let done = done.map(|(from, to)| Read {
                from: at(from),
                to: at(to),
                step: None,
                again: Unread::default(),
            });
            windows(&source, &request, done.as_ref()).unwrap().0[0].0.to_string()
        };
        let (october, november) = ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z");
        assert_eq!(first(None, november, "2026-11-01T05:00:00Z"), november);
        assert_eq!(first(Some((november, november)), november, "2026-11-01T06:00:00Z"), november);
        // One that is older reaches back into the month before; one that is wanted from earlier is read from there.
        let old = Some((october, november));
        assert_eq!(first(old, november, "2026-11-01T06:00:00Z"), "2026-10-31T00:00:00Z");
        assert_eq!(first(Some((november, november)), october, "2026-11-01T06:00:00Z"), october);
    }
}
