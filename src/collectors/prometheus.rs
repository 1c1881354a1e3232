//! Asks a Prometheus server, or one that answers like it (Thanos, Mimir, VictoriaMetrics), in PromQL.
//!
//! Counters are read as they were scraped and metered here; `rate()` and `increase()` only estimate, and a query with them
//! is refused. What the server kept while the agent was away is read afterwards, piece by piece. It never takes an answer
//! that the server calls partial for a whole one, and never asks for more at a time than fits into memory.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::{
    Batch, Bearing, Collector, CollectorError, Offered, Plugin, Request, Running, blocking, texts, web,
};
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::metering::reading::Kind;
use history::Reader;
use progress::Progress;
use query::{Mode, Query};

mod answer;
mod history;
mod piece;
mod progress;
mod query;
mod series;

pub const PLUGIN: Plugin = Plugin {
    name: "prometheus",
    about: "PromQL queries to a Prometheus-compatible server",
    is_shared: true,
    build,
};

/// How far behind the last run samples may still come in.
const DEFAULT_OVERLAP: SignedDuration = SignedDuration::from_mins(5);

/// One run reads no more readings than about so many, however much history waits; the next ones go on.
const MAX_READINGS: usize = 50_000;

/// A configured collector.
#[derive(Debug)]
struct Prometheus {
    web: web::Web,
    queries: Vec<Query>,
    overlap: SignedDuration,
    /// How long the server keeps its history.
    history: Option<SignedDuration>,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let web = web::Web::from_section(section);
    let overlap = section.parse_with("overlap", parse_duration);
    let history = section.parse_with("history", parse_duration);
    let named = section.named_sections("queries");
    if named.is_empty() {
        let example = "cpu_seconds: { query: node_cpu_seconds_total, kind: counter }";
        section.problem(
            "",
            format!("`queries` is missing: what to ask, by the name of the readings, such as {example}"),
        );
    }
    let asked = named.len();
    let queries: Vec<Query> = named.into_iter().filter_map(Query::from_section).collect();
    if queries.is_empty() || queries.len() < asked {
        return None;
    }
    Some(Box::new(Prometheus { web: web?, queries, overlap: overlap.unwrap_or(DEFAULT_OVERLAP), history }))
}

impl Prometheus {
    async fn run(&self, request: Request) -> Result<Batch, CollectorError> {
        // The server counts in milliseconds.
        let now = Timestamp::from_millisecond(request.now.as_millisecond()).unwrap_or(request.now);
        let session = self.web.open()?;
        let mut run =
            Run { web: &self.web, session, now, batch: Batch::default(), answered: false, gone: false };
        let known = Progress::of(request.checkpoint.as_deref());
        let earliest = self.history.and_then(|history| now.checked_sub(history).ok());
        let mut readers = Vec::new();
        for query in self.queries.iter().filter(|query| query.mode != Mode::Instant) {
            let mut read = known.start(query, request.since);
            if let Some(earliest) = earliest.filter(|earliest| *earliest > read.resume) {
                run.batch.notes.push(format!(
                    "query `{}`: the server keeps no more than `history` says, so what lies between {} and {earliest} \
                     is not read",
                    query.name, read.resume
                ));
                read.from = read.from.max(earliest);
                read.resume = earliest;
            }
            run.batch.ended.insert(query.name.clone(), Vec::new());
            run.batch.history.insert(query.name.clone(), Vec::new());
            readers.push(Reader::new(query, read, now));
        }
        run.histories(&mut readers).await?;
        let mut again = Vec::new();
        for reader in readers.iter().filter(|reader| !reader.failed) {
            let due = reader.read.again.due(now).into_iter();
            // Where its history begins, or is kept, there is nothing before.
            let due = due.map(|(from, to)| (from.max(reader.read.from), to)).filter(|(from, to)| from < to);
            again.extend(due.map(|part| Reader::again(reader.query, reader.read.clone(), part)));
        }
        run.histories(&mut again).await?;
        for query in self.queries.iter().filter(|query| query.mode == Mode::Instant) {
            if !run.gone {
                run.instant(query, request.now).await?;
            }
        }
        let mut progress = Progress::default();
        for reader in &again {
            let told = run.batch.quarantined.len();
            reader.finish(&mut run.batch);
            // What was told when it was read first does not make the run one that read nothing.
            run.batch.known += (run.batch.quarantined.len() - told) as u64;
        }
        for mut reader in readers {
            reader.finish(&mut run.batch);
            let of_query = again.iter().filter(|again| again.query.name == reader.query.name);
            let looks: Vec<_> =
                of_query.flat_map(|again| &again.looks).chain(&reader.looks).copied().collect();
            reader.read.again.looked(&looks, now);
            for (from, to) in reader.read.again.give_up(now) {
                let text = format!(
                    "query `{}`: what the server has between {from} and {to} was not whole, or has samples that can't be read; it was \
                     asked for again for 14 days and is given up. Once that is mended, read it with `collect --since {from}`",
                    reader.query.name
                );
                run.batch.problem_of(text, Bearing::nothing());
            }
            progress.set(reader.query, reader.read.clone().advanced(reader.at, now, self.overlap));
        }
        if !run.answered && !run.batch.problems.is_empty() {
            return Err(CollectorError(texts(&run.batch.problems)));
        }
        run.batch.checkpoint = progress.text();
        Ok(run.batch)
    }
}

/// One run against the server.
struct Run<'a> {
    web: &'a web::Web,
    session: web::Session<'a>,
    now: Timestamp,
    batch: Batch,
    /// Whether any query has been answered.
    answered: bool,
    /// The server can't be asked any more.
    gone: bool,
}

impl Run<'_> {
    /// Reads what waits of each query's history, always of that which is furthest behind.
    async fn histories(&mut self, readers: &mut [Reader<'_>]) -> Result<(), CollectorError> {
        loop {
            if self.gone {
                return Ok(());
            }
            let waiting = readers.iter_mut().filter(|reader| reader.at < reader.until && !reader.failed);
            let Some(reader) = waiting.min_by_key(|reader| reader.at) else { return Ok(()) };
            if self.batch.readings.len() + self.batch.more.len() >= MAX_READINGS && reader.may_wait() {
                self.batch.notes.push(format!(
                    "the history is read up to {}; the next runs go on from there, {MAX_READINGS} readings each",
                    reader.at
                ));
                return Ok(());
            }
            let Some(window) = reader.window() else { continue };
            let asked = reader.question(&window);
            let trouble = match self.ask(asked).await {
                Ok(answer) => {
                    let size = answer.len();
                    let (query, after) = (reader.query.clone(), reader.pushed);
                    let piece =
                        blocking::run(move |_| Ok(piece::digest(&query, &answer, &window, after))).await?;
                    match piece {
                        Ok(piece) => {
                            self.answered = true;
                            reader.take(piece, &window, size, &mut self.batch);
                            continue;
                        }
                        Err(why) => why,
                    }
                }
                Err(trouble) if is_too_much(&trouble) && reader.ask_for_less(&window) => continue,
                Err(trouble) if !is_about_the_query(&trouble) => return self.gave_up(trouble),
                Err(trouble) => trouble.to_string(),
            };
            reader.failed = true;
            self.batch.problem_of(
                format!("query `{}`: {trouble}", reader.query.name),
                Bearing::readings([reader.query.name.as_str()]),
            );
        }
    }

    /// Asks for the present moment only.
    async fn instant(&mut self, query: &Query, now: Timestamp) -> Result<(), CollectorError> {
        let asked = vec![("query", query.text.clone()), ("time", history::seconds(self.now))];
        let answer = match self.ask(("api/v1/query", asked)).await {
            Ok(answer) => answer,
            Err(trouble) if !is_about_the_query(&trouble) => return self.gave_up(trouble),
            Err(trouble) => {
                let bears_on = Bearing::readings([query.name.as_str()]);
                self.batch.problem_of(format!("query `{}`: {trouble}", query.name), bears_on);
                return Ok(());
            }
        };
        match piece::digest_instant(query, &answer, now) {
            Ok(piece) => {
                self.answered = true;
                let mut reader = Reader::at_once(query, now);
                reader.absorb(piece, &mut self.batch);
                reader.finish(&mut self.batch);
            }
            Err(why) => {
                let bears_on = Bearing::readings([query.name.as_str()]);
                self.batch.problem_of(format!("query `{}`: {why}", query.name), bears_on);
            }
        }
        Ok(())
    }

    async fn ask(&self, (path, pairs): (&str, Vec<(&str, String)>)) -> Result<Vec<u8>, web::Trouble> {
        let pairs = || pairs.iter().map(|(name, value)| (*name, value.as_str()));
        // Proxies cut long addresses off.
        let ask = match pairs().map(|(_, value)| value.len()).sum::<usize>() {
            0..1_000 => web::Ask::get(self.web.at(path, pairs())),
            _ => web::Ask::post_form(self.web.at(path, []), pairs()),
        };
        Ok(self.session.ask(&ask).await?.body)
    }

    /// The server can't be asked at all: other queries would fare no better.
    fn gave_up(&mut self, trouble: web::Trouble) -> Result<(), CollectorError> {
        if !self.answered {
            return Err(trouble.into());
        }
        self.gone = true;
        self.batch.problem(trouble.to_string());
        Ok(())
    }
}

/// What servers say that refuse a question for its length, in small letters: Prometheus, Thanos, Mimir and Cortex,
/// VictoriaMetrics, and the proxies before them.
const TOO_MUCH: [&str; 9] = [
    "errortype: timeout",
    "timed out",
    "exceeded maximum resolution",
    "exceeded the maximum",
    "cannot exceed",
    "too many samples",
    "too many points",
    "limit",
    "cannot select more than",
];

/// What they say that are asked too often, which asking in smaller pieces would make worse.
const TOO_OFTEN: [&str; 3] = ["rate limit", "rate-limit", "ratelimit"];

/// Whether a shorter piece of history may be answered.
fn is_too_much(trouble: &web::Trouble) -> bool {
    let says_so = || {
        let words = trouble.to_string().to_lowercase();
        let says = |any: &[&str]| any.iter().any(|some| words.contains(some));
        says(&TOO_MUCH) && !says(&TOO_OFTEN)
    };
    match trouble.status {
        _ if trouble.too_much => true,
        // A proxy in between says 502 or 504 when it has lost its patience, as the server would 503.
        Some(413 | 422 | 502 | 504) => true,
        Some(400 | 429 | 500 | 503) => says_so(),
        _ => false,
    }
}

/// Whether the server refused this query, and would answer another.
fn is_about_the_query(trouble: &web::Trouble) -> bool {
    trouble.too_much || matches!(trouble.status, Some(400 | 413 | 422))
}

impl Collector for Prometheus {
    fn offers(&self) -> &[Offered] {
        &[]
    }

    fn named(&self) -> Vec<(&str, Kind)> {
        self.queries.iter().map(|query| (query.name.as_str(), query.kind)).collect()
    }

    fn labels(&self) -> &[&'static str] {
        &[]
    }

    fn scope(&self) -> String {
        let queries: BTreeSet<&str> = self.queries.iter().map(|query| query.text.as_str()).collect();
        let mut url = self.web.url().clone();
        url.set_query(None);
        format!("{url} {}", queries.into_iter().collect::<Vec<_>>().join("; "))
    }

    fn carry_over(&self, old: &str, new: String) -> String {
        let mut progress = Progress::of(Some(&new));
        progress.add(&Progress::of(Some(old)));
        progress.text().unwrap_or(new)
    }

    fn secret_env(&self) -> Vec<String> {
        self.web.secret_env()
    }

    fn distance(&self) -> Option<SignedDuration> {
        self.queries.iter().filter(|query| query.mode == Mode::Range).map(|query| query.step).max()
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(self.run(request))
    }
}

#[cfg(test)]
mod tests;
