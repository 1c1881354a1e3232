//! A query as the operator wrote it, and whether its result can be billed at all.
//!
//! It reads no more of PromQL than its words: what is a function, what is a plain selector. Whether the rest makes sense is
//! the server's to say.

use jiff::SignedDuration;

use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::metering::reading::Kind;

/// How far apart readings of one series are, unless the query says.
const DEFAULT_STEP: SignedDuration = SignedDuration::from_mins(5);
const LONGEST_STEP: SignedDuration = SignedDuration::from_hours(24);

/// How a query is put to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The samples as they were scraped, with their own times. For counters: nothing between two of them is missed.
    Samples,
    /// Evaluated at each multiple of the step. The server itself says where a series is there and where it is not.
    Range,
    /// Evaluated at the instant of the run; history is not read.
    Instant,
}

/// One query of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Query {
    /// The name of its readings.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    pub(super) step: SignedDuration,
    pub(super) unit: Option<String>,
}

impl Query {
    /// Takes all keys of the section; mistakes go to it.
    pub(super) fn from_section(mut section: Section) -> Option<Query> {
        let text = section.require_with("query", "what to ask, in PromQL", |text| match text.trim() {
            "" => Err("must not be empty".to_owned()),
            text => Ok(text.to_owned()),
        });
        let kind = section.require_with(
            "kind",
            "counter (it only rises, but for restarts) or gauge (a level)",
            |text| match text.parse()? {
                kind @ (Kind::Counter | Kind::Gauge) => Ok(kind),
                other => Err(format!("Prometheus knows no {other}: it is a counter or a gauge")),
            },
        );
        let mode = section.parse_with("mode", |text| match text {
            "samples" => Ok(Mode::Samples),
            "range" => Ok(Mode::Range),
            "instant" => Ok(Mode::Instant),
            other => Err(format!("`{other}` is no mode; known: samples, range, instant")),
        });
        let step = section.parse_with("step", |text| match parse_duration(text)? {
            long if long > LONGEST_STEP => Err("must be at most 1d".to_owned()),
            step => Ok(step),
        });
        let unit = section.text("unit");
        let (text, kind) = match (text, kind) {
            (Some(text), Some(kind)) => (text, kind),
            _ => {
                section.finish();
                return None;
            }
        };
        let words = words(&text);
        let selector = is_selector(&text);
        if let Err(why) = billable(&words, kind) {
            section.problem("query", why);
        } else if ends_with_range(&text) {
            section.problem(
                "query",
                "write it without the range at its end: the agent says which time it reads",
            );
        } else if mode == Some(Mode::Samples) && (kind != Kind::Counter || !selector) {
            section.problem(
                "mode",
                "`samples` are those of a counter's plain selector, such as cpu_seconds_total{job=\"x\"}; use `range`",
            );
        }
        if mode == Some(Mode::Instant) && section.has("step") {
            section.problem("step", "an `instant` query has no step: it is asked once a run");
        }
        let mode = mode.unwrap_or(match kind == Kind::Counter && selector {
            true => Mode::Samples,
            false => Mode::Range,
        });
        let name = section.name().to_owned();
        section.finish();
        Some(Query { name, text, kind, mode, step: step.unwrap_or(DEFAULT_STEP), unit })
    }

    /// What it was when its history was read: another one is read from the start.
    pub(super) fn identity(&self) -> String {
        format!("{:?} {} {}s {}", self.mode, self.kind, self.step.as_secs(), self.text)
    }
}

/// A word of a query, and whether something is called or aggregated by it.
type Word<'a> = (&'a str, bool);

/// The words of a query outside of its texts and comments.
fn words(query: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word<'_>> = Vec::new();
    for (part, is_text) in parts(query) {
        if is_text {
            continue;
        }
        let mut rest = part;
        while let Some(start) = rest.find(is_word_part) {
            rest = &rest[start..];
            let end = rest.find(|c| !is_word_part(c)).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            let next = behind.trim_start();
            // `sum by (user) (x)` and `sum(x)`; but not `by (sum)`, and not a metric `sum{...}`.
            let next_word = next.split(|c| !is_word_part(c)).next().unwrap_or_default();
            let grouped = ["by", "without"].contains(&next_word.to_ascii_lowercase().as_str());
            words.push((word, next.starts_with('(') || grouped));
            rest = behind;
        }
    }
    words
}

fn is_word_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The query in pieces: what stands in quotes or behind `#` (true), and the rest.
fn parts(query: &str) -> Vec<(&str, bool)> {
    let mut parts = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(['"', '\'', '`', '#']) {
        let (before, from) = rest.split_at(at);
        parts.push((before, false));
        let quote = from.chars().next().unwrap_or('"');
        let mut escaped = false;
        let end = from.char_indices().skip(1).find(|(_, c)| {
            let is_end = !escaped && if quote == '#' { *c == '\n' } else { *c == quote };
            escaped = !escaped && *c == '\\' && quote != '`' && quote != '#';
            is_end
        });
        let end = end.map_or(from.len(), |(at, c)| at + c.len_utf8());
        let (text, behind) = from.split_at(end);
        parts.push((text, true));
        rest = behind;
    }
    parts.push((rest, false));
    parts
}

/// Whether the query is nothing but `name`, `name{...}` or `{...}`.
fn is_selector(query: &str) -> bool {
    let bare: String =
        parts(query).into_iter().map(|(part, is_text)| if is_text { "\"\"" } else { part }).collect();
    let bare = bare.trim();
    let end = bare.find(|c| !is_word_part(c)).unwrap_or(bare.len());
    let (name, matchers) = bare.split_at(end);
    let matchers = matchers.trim();
    let is_braced = matchers.starts_with('{') && matchers.find('}') == Some(matchers.len().saturating_sub(1));
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit());
    is_name && (is_braced || (matchers.is_empty() && !name.is_empty()))
}

fn ends_with_range(query: &str) -> bool {
    parts(query).last().is_some_and(|(part, is_text)| !is_text && part.trim_end().ends_with(']'))
}

/// Whether the words of a query allow it to be billed as this kind.
fn billable(words: &[Word<'_>], kind: Kind) -> Result<(), String> {
    const ESTIMATES: [&str; 9] =
        ["rate", "irate", "increase", "delta", "idelta", "deriv", "xrate", "xincrease", "xdelta"];
    const MERGES: [&str; 9] =
        ["sum", "avg", "count", "group", "quantile", "stddev", "stdvar", "topk", "bottomk"];
    let called = || words.iter().filter(|(_, called)| *called).map(|(word, _)| *word);
    // Also those that other servers have besides: increase_pure, rollup_rate.
    let estimate =
        called().find(|word| word.to_ascii_lowercase().split('_').any(|part| ESTIMATES.contains(&part)));
    if let Some(word) = estimate {
        return Err(format!(
            "`{word}` is an estimate: it extrapolates, and misses what a restart hides. Ask for the counter itself, with \
             `kind: counter`; the agent meters its rises exactly"
        ));
    }
    let merges = |word: &str| MERGES.contains(&word) || word.ends_with("_over_time");
    let merge = called().find(|word| kind == Kind::Counter && merges(&word.to_ascii_lowercase()));
    if let Some(word) = merge {
        return Err(format!(
            "`{word}` merges counters: when one of them goes, the result falls, which looks like a restart. Ask for the \
             counters one by one; the agent adds them up"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(keys: &str) -> (Option<Query>, Vec<String>) {
        let (mut root, problems) = Section::parse(&format!("q:\n  {}\n", keys.replace('\n', "\n  ")));
        let query = Query::from_section(root.section("q").unwrap());
        (query, problems.list().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_counters_selector_is_read_as_samples_and_all_else_at_steps() {
        for (query, kind, mode) in [
            ("cpu_seconds_total", "counter", Mode::Samples),
            (r#"cpu_seconds_total{job="a}b", x=~'c"'} # of all"#, "counter", Mode::Range),
            (r#"cpu_seconds_total{job="a}b", x=~'c"'}"#, "counter", Mode::Samples),
            (r#"{__name__=~"cpu_.*"}"#, "counter", Mode::Samples),
            ("job:rate{a=\"b\"}", "counter", Mode::Samples),
            ("cpu_seconds_total offset 5m", "counter", Mode::Range),
            ("cpu_seconds_total * on (pod) group_left (project) pods", "counter", Mode::Range),
            ("max without (replica) (cpu_seconds_total)", "counter", Mode::Range),
            ("memory_bytes", "gauge", Mode::Range),
            ("sum by (project) (memory_bytes)", "gauge", Mode::Range),
        ] {
            let (read, problems) = read(&format!("query: |-\n  {query}\nkind: {kind}"));
            assert_eq!(problems, Vec::<String>::new(), "{query}");
            let read = read.unwrap();
            assert_eq!((read.mode, read.step.as_secs(), read.text.as_str()), (mode, 300, query));
        }
    }

    #[test]
    fn what_only_estimates_a_counter_is_refused() {
        for query in [
            "rate(x[5m])",
            "sum by (user) (increase(x[1h]))",
            "IRATE (x[5m])",
            "max(idelta(x[5m])) by (a)",
            "delta(x[5m])",
            "increase_pure(x[5m])",
            "rollup_rate(x[5m])",
            "deriv(x[5m]) # a comment",
        ] {
            for kind in ["counter", "gauge"] {
                let (_, problems) = read(&format!("query: '{query}'\nkind: {kind}"));
                assert_eq!(problems.len(), 1, "{query}");
                assert!(problems[0].contains("is an estimate: it extrapolates"), "{problems:?}");
                assert!(problems[0].starts_with("line 2: q.query: "), "{problems:?}");
            }
        }
        // The names are only names where nothing is called by them.
        for query in ["increase", "rate{a='b'}", "x{a='rate(x[5m])'}", "max by (rate) (x)"] {
            let (_, problems) = read(&format!("query: |-\n  {query}\nkind: counter"));
            assert_eq!(problems, Vec::<String>::new(), "{query}");
        }
    }

    #[test]
    fn a_merged_counter_is_refused_and_a_merged_gauge_is_fine() {
        for query in ["sum(x)", "sum by (a) (x)", "avg without(a)(x)", "max_over_time(x[5m:])", "count (x)"] {
            let (_, problems) = read(&format!("query: '{query}'\nkind: counter"));
            assert!(problems.len() == 1 && problems[0].contains("merges counters"), "{query}: {problems:?}");
            assert_eq!(read(&format!("query: '{query}'\nkind: gauge")).1, Vec::<String>::new());
        }
    }

    #[test]
    fn mistakes_are_told_at_once() {
        let (query, problems) = read("qery: x\nkind: delta\nmode: now\nstep: 5");
        assert!(query.is_none());
        assert_eq!(
            problems,
            [
                "line 1: q: `query` is missing: what to ask, in PromQL",
                "line 2: q.qery: unknown key `qery`; did you mean `query`?",
                "line 3: q.kind: Prometheus knows no delta: it is a counter or a gauge",
                "line 4: q.mode: `now` is no mode; known: samples, range, instant",
                "line 5: q.step: `5` needs a unit: 5s for seconds, 5m for minutes",
            ]
        );
        for (keys, words) in [
            ("query: 'x[5m]'\nkind: counter", "without the range at its end"),
            ("query: 'x + y'\nkind: counter\nmode: samples", "plain selector"),
            ("query: x\nkind: gauge\nmode: samples", "plain selector"),
            ("query: x\nkind: gauge\nmode: instant\nstep: 1m", "has no step"),
            ("query: x\nkind: gauge\nstep: 2d", "at most 1d"),
        ] {
            let (_, problems) = read(keys);
            assert!(problems.len() == 1 && problems[0].contains(words), "{keys}: {problems:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(any in any::<String>(), like in "[a-z_(){}\\[\\]\"'`#\\\\ \n=~,é]{0,60}") {
            for text in [any, like] {
                let found = words(&text);
                let _ = (billable(&found, Kind::Counter), is_selector(&text), ends_with_range(&text));
                let pieces: String = parts(&text).into_iter().map(|(part, _)| part).collect();
                prop_assert_eq!(pieces, text);
            }
        }
    }
}
