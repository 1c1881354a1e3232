//! Reads a collector's requests from its section.

use std::sync::Arc;

use jiff::SignedDuration;

use super::expression::Expr;
use super::fill;
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::config::template::Template;
use crate::metering::reading::{Kind, VALUE_PLACES};

const DAY: i64 = 86_400;

/// Steps that are asked for again; a run must come further than they reach back.
const MOST_OVERLAP: i64 = 500;

/// One request of a run, with all its pages and windows, and what is read from its answers.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) path: Template,
    pub(super) query: Vec<(String, Template)>,
    /// What is posted; its texts are templates.
    pub(super) body: Option<serde_json::Value>,
    pub(super) paging: Paging,
    /// How many rows there are on all pages, as an answer says.
    pub(super) total: Option<Expr>,
    /// Must be true of each answer.
    pub(super) expect: Option<Expr>,
    /// Lists within each other, from the outermost: the name of an item, and where the list is.
    pub(super) each: Vec<(String, Expr)>,
    pub(super) labels: Vec<(String, Expr)>,
    pub(super) when: When,
    pub(super) id: Option<Expr>,
    /// One request for each such part of time.
    pub(super) step: Option<Step>,
    pub(super) repeats: Repeats,
    pub(super) readings: Vec<Wanted>,
}

impl Source {
    /// Readings of intervals, which are the same ones by where they begin: what is read of a time stands for that time.
    pub(super) fn names_of_history(&self) -> impl Iterator<Item = &str> {
        let is_of_intervals = match self.when {
            When::Default => self.step.is_some(),
            When::At(_) => false,
            When::Between(..) | When::From(..) => true,
        };
        let names_itself = self.id.is_some() && self.step.is_none();
        let of = move |wanted: &&Wanted| {
            is_of_intervals && !names_itself && matches!(wanted.kind, Kind::Delta | Kind::Total)
        };
        self.readings.iter().filter(of).map(|wanted| wanted.name.as_str())
    }

    /// Whether the server is asked for what lies between two instants, and for no more.
    pub(super) fn asks_for_windows(&self) -> bool {
        let is_start = |text: &Template| text.labels().any(|name| name.split(':').next() == Some("start"));
        let in_body = || self.body.as_ref().is_some_and(|body| body.to_string().contains("{start"));
        self.step.is_some()
            || is_start(&self.path)
            || self.query.iter().any(|(_, text)| is_start(text))
            || in_body()
    }
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) value: Expr,
    pub(super) unit: Option<String>,
    /// Digits after the point that are kept.
    pub(super) round: Option<u32>,
}

/// The time of a row's readings.
#[derive(Debug)]
pub(super) enum When {
    /// That of the run, or the step's.
    Default,
    At(Expr),
    Between(Expr, Expr),
    From(Expr, SignedDuration),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) length: SignedDuration,
    pub(super) overlap: SignedDuration,
}

/// What two rows mean that would be the same reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    /// A mistake, unless they say the same.
    Refused,
    /// Parts of one.
    Added,
}

#[derive(Debug)]
pub(super) enum Paging {
    None,
    /// The `Link` header's `rel="next"`.
    Link,
    /// The address of the next page; nothing at the end.
    Next(Expr),
    /// Fills in `{cursor}` of the next page; nothing at the end.
    Cursor(Expr),
    /// Counts `{page}` from `first` until a page has no rows, or `more` is false.
    Page {
        first: u64,
        more: Option<Expr>,
    },
    /// Counts `{offset}` in steps of `by`, likewise.
    Offset {
        by: u64,
        more: Option<Expr>,
    },
}

pub(super) fn read(section: &mut Section) -> Option<Vec<Arc<Source>>> {
    if !section.has("requests") {
        section.text("requests");
        section.problem(
            "",
            "`requests` is missing: what to ask and what to read from the answer, each by a name",
        );
        return None;
    }
    let sections = section.named_sections("requests");
    let sources: Vec<_> = sections.into_iter().map(|keys| Some(Arc::new(source(keys)?))).collect();
    let sources: Vec<_> = sources.into_iter().collect::<Option<_>>()?;
    if sources.is_empty() {
        section.problem("requests", "is empty");
        return None;
    }
    Some(sources)
}

fn source(mut keys: Section) -> Option<Source> {
    let name = keys.name().to_owned();
    let path = or(&mut keys, "path", Template::default(), |text| match text.contains('?') {
        true => Err("must not have a `?`: use `query`".to_owned()),
        false => template(text),
    });
    let query = named(&mut keys, "query", template);
    let body = body(&mut keys);
    let paging = paging(&mut keys);
    let total = expr(&mut keys, "total");
    let expect = expr(&mut keys, "expect");
    let each = named(&mut keys, "each", Expr::parse);
    let labels = named(&mut keys, "labels", Expr::parse);
    let id = expr(&mut keys, "id");
    let step = step(&mut keys);
    let when = when(&mut keys, matches!(step, Some(Some(_))));
    let repeats = or(&mut keys, "repeats", Repeats::Refused, |text| match text {
        "refuse" => Ok(Repeats::Refused),
        "add" => Ok(Repeats::Added),
        other => Err(format!(
            "`{other}` is no way to treat rows of the same name, labels and time; known: refuse, add"
        )),
    });
    if !keys.has("readings") {
        keys.text("readings");
        keys.problem("", "`readings` is missing: what to read from each row, by name");
    }
    let wanted: Vec<_> = keys.named_sections("readings").into_iter().map(reading).collect();
    let readings: Option<Vec<_>> = wanted.into_iter().collect();
    let timed = matches!(step, Some(Some(_))) || !matches!(when, Some(When::Default));
    for reading in readings.iter().flatten() {
        if reading.kind == Kind::Delta && !timed {
            keys.problem(
                "readings",
                format!(
                    "{} is a delta, so it must be said of when, or each run would count it again: `step`, `start` with \
                     `end` or `lasts`, or `at`",
                    reading.name
                ),
            );
        }
        if matches!(step, Some(Some(_))) && reading.kind != Kind::Delta {
            keys.problem(
                "step",
                format!(
                    "asks for what was used up in each part of time, and {} is a {}",
                    reading.name, reading.kind
                ),
            );
        }
    }
    keys.finish();
    Some(Source {
        name,
        path: path?,
        query: query?,
        body: body?,
        paging: paging?,
        total: total?,
        expect: expect?,
        each: each?,
        labels: labels?,
        when: when?,
        id: id?,
        step: step?,
        repeats: repeats?,
        readings: readings?,
    })
}

fn template(text: &str) -> Result<Template, String> {
    let template: Template = text.parse()?;
    fill::check(&template)?;
    Ok(template)
}

/// The value of an optional key; `None` only if it is there and wrong.
fn or<T>(
    keys: &mut Section,
    key: &str,
    default: T,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    if keys.has(key) { keys.parse_with(key, read) } else { keys.text(key).map_or(Some(default), |_| None) }
}

/// The same for an expression: `None` if it is wrong, `Some(None)` if it is not there.
fn expr(keys: &mut Section, key: &str) -> Option<Option<Expr>> {
    or(keys, key, None, |text| Expr::parse(text).map(Some))
}

fn named<T>(
    keys: &mut Section,
    key: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<(String, T)>> {
    let mut all = Some(Vec::new());
    for (name, text) in keys.named_texts(key) {
        match read(&text) {
            Ok(value) => {
                if let Some(all) = &mut all {
                    all.push((name, value));
                }
            }
            Err(why) => {
                keys.problem(key, format!("{name}: {why}"));
                all = None;
            }
        }
    }
    all
}

fn body(keys: &mut Section) -> Option<Option<serde_json::Value>> {
    let Some(value) = keys.value("body") else { return Some(None) };
    let checked = serde_json::to_value(value)
        .map_err(|error| format!("can't be written as JSON: {error}"))
        .and_then(|body| check_texts(&body).map(|()| body));
    match checked {
        Ok(body) => Some(Some(body)),
        Err(why) => {
            keys.problem("body", why);
            None
        }
    }
}

fn check_texts(body: &serde_json::Value) -> Result<(), String> {
    match body {
        serde_json::Value::String(text) => template(text).map(drop),
        serde_json::Value::Array(items) => items.iter().try_for_each(check_texts),
        serde_json::Value::Object(pairs) => pairs.values().try_for_each(check_texts),
        _ => Ok(()),
    }
}

fn paging(keys: &mut Section) -> Option<Paging> {
    let Some(mut paging) = keys.section("paging") else {
        return (!keys.has("paging")).then_some(Paging::None);
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a whole number"));
    let mut ways = Vec::new();
    if paging.flag("link") == Some(true) {
        ways.push(Some(Paging::Link));
    }
    if let Some(next) = paging.parse_with("next", Expr::parse) {
        ways.push(Some(Paging::Next(next)));
    }
    if let Some(cursor) = paging.parse_with("cursor", Expr::parse) {
        ways.push(Some(Paging::Cursor(cursor)));
    }
    let (page, offset) = (paging.parse_with("page", number), paging.parse_with("offset", number));
    let more = expr(&mut paging, "more");
    match (page, offset) {
        (Some(first), None) => ways.push(more.map(|more| Paging::Page { first, more })),
        (None, Some(0)) => {
            paging.problem("offset", "is by how much `{offset}` grows from page to page: not 0")
        }
        (None, Some(by)) => ways.push(more.map(|more| Paging::Offset { by, more })),
        (None, None) if matches!(more, Some(Some(_))) => {
            paging.problem("more", "goes with `page` or `offset`");
        }
        _ => {}
    }
    let one = ways.len() == 1;
    if !one {
        paging
            .problem("", "say one way to the next page: `link: true`, `next`, `cursor`, `page` or `offset`");
    }
    paging.finish();
    ways.pop().flatten().filter(|_| one)
}

fn step(keys: &mut Section) -> Option<Option<Step>> {
    let length = or(keys, "step", None, |text| match parse_duration(text)? {
        length if DAY % length.as_secs() != 0 => Err("must be a part of a day, such as 1h or 1d".to_owned()),
        length => Ok(Some(length)),
    });
    let overlap = or(keys, "overlap", None, |text| parse_duration(text).map(Some));
    match (length?, overlap?) {
        (Some(length), Some(overlap)) if overlap.as_secs() / length.as_secs() > MOST_OVERLAP => {
            keys.problem("overlap", format!("is more than {MOST_OVERLAP} steps: choose a longer `step`"));
            None
        }
        (Some(length), overlap) => Some(Some(Step { length, overlap: overlap.unwrap_or(length) })),
        (None, None) => Some(None),
        (None, Some(_)) => {
            keys.problem("overlap", "is how far back a `step` is asked for again");
            None
        }
    }
}

fn when(keys: &mut Section, has_step: bool) -> Option<When> {
    let (at, start, end) = (expr(keys, "at")?, expr(keys, "start")?, expr(keys, "end")?);
    let lasts = or(keys, "lasts", None, |text| parse_duration(text).map(Some))?;
    match (at, start, end, lasts) {
        (None, None, None, None) => Some(When::Default),
        _ if has_step => {
            keys.problem("step", "says the time of the readings: without `at`, `start`, `end` and `lasts`");
            None
        }
        (Some(at), None, None, None) => Some(When::At(at)),
        (None, Some(start), Some(end), None) => Some(When::Between(start, end)),
        (None, Some(start), None, Some(lasts)) => Some(When::From(start, lasts)),
        _ => {
            keys.problem("", "say the time with `at`, with `start` and `end`, or with `start` and `lasts`");
            None
        }
    }
}

fn reading(mut keys: Section) -> Option<Wanted> {
    let name = keys.name().to_owned();
    let kind = keys.require_with("kind", "counter, gauge, delta or total", str::parse::<Kind>);
    let value = keys.require_with("value", "an expression", Expr::parse);
    let unit = keys.text("unit");
    let round = or(&mut keys, "round", None, |text| match text.parse::<u32>() {
        Ok(places) if places <= VALUE_PLACES => Ok(Some(places)),
        _ => Err(format!("`{text}` is not a number of digits after the point, 0 to {VALUE_PLACES}")),
    });
    keys.finish();
    Some(Wanted { name, kind: kind?, value: value?, unit, round: round? })
}
