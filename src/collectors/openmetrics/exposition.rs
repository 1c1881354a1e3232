//! Reads a page of metrics: the Prometheus text format 0.0.4 and OpenMetrics 1.0.
//!
//! The parsers that are to be had make binary floats of the values; here a value stays the text that it is. A line that
//! is none is set aside with its number and the reason, and the others count. A page that was cut off is refused as a
//! whole, where that can be told: half an answer is no answer.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;

use super::line::Rest;
use crate::collectors::Bearing;
use crate::collectors::numbers::{milliseconds, seconds, short};
use crate::metering::reading::Labels;

/// How the page is written, as its Content-Type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text 0.0.4.
    Text,
    OpenMetrics,
}

impl Format {
    /// By the Content-Type; many small exporters send none or a bare `text/plain`.
    pub(super) fn of(content_type: &str) -> Result<Format, String> {
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "application/openmetrics-text" => Ok(Format::OpenMetrics),
            "text/plain" | "" => Ok(Format::Text),
            other => Err(format!(
                "the answer is {}, not metrics; is the address that of a /metrics page?",
                short(other)
            )),
        }
    }
}

/// What the page says of a family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
    Unknown,
}

impl Type {
    fn named(name: &str) -> Option<Type> {
        Some(match name {
            "counter" => Type::Counter,
            "gauge" => Type::Gauge,
            "histogram" => Type::Histogram,
            "gaugehistogram" => Type::GaugeHistogram,
            "summary" => Type::Summary,
            "info" => Type::Info,
            "stateset" => Type::StateSet,
            "unknown" | "untyped" => Type::Unknown,
            _ => return None,
        })
    }

    /// What its samples end with, besides nothing at all.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Type::Counter => &["_total", "_created"],
            Type::Histogram => &["_bucket", "_count", "_sum", "_created"],
            Type::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
            Type::Summary => &["_count", "_sum", "_created"],
            Type::Info => &["_info"],
            Type::Gauge | Type::StateSet | Type::Unknown => &[],
        }
    }
}

/// One line with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample<'a> {
    pub(super) line: usize,
    pub(super) name: Cow<'a, str>,
    pub(super) labels: Labels,
    pub(super) value: &'a str,
    pub(super) at: Option<Timestamp>,
}

/// A line that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad<'a> {
    pub(super) line: usize,
    pub(super) text: &'a str,
    pub(super) reason: String,
    pub(super) bears_on: Bearing,
}

/// Why, and which series it may have been.
type Why = (String, Bearing);

/// A page that was read.
#[derive(Debug, Default)]
pub(super) struct Exposition<'a> {
    pub(super) samples: Vec<Sample<'a>>,
    /// Lines that are none, though what is wanted may stand in them.
    pub(super) bad: Vec<Bad<'a>>,
    types: HashMap<Cow<'a, str>, Type>,
    units: HashMap<Cow<'a, str>, &'a str>,
}

impl<'a> Exposition<'a> {
    /// The family that a sample belongs to, with its type and the end of the sample's name that is not the family's.
    pub(super) fn family<'b>(&self, sample: &'b str) -> Option<(&'b str, Type, &'b str)> {
        if let Some(kind) = self.types.get(sample) {
            return Some((sample, *kind, ""));
        }
        let (end, _) = sample.rmatch_indices('_').next()?;
        let (family, suffix) = sample.split_at(end);
        let kind = *self.types.get(family)?;
        kind.suffixes().contains(&suffix).then_some((family, kind, suffix))
    }

    /// What `# UNIT` says of a family.
    pub(super) fn unit(&self, family: &str) -> Option<&'a str> {
        self.units.get(family).copied()
    }
}

/// Reads the samples whose names are wanted. The lines of others are not looked into, and whatever is odd about them costs
/// nobody anything.
pub(super) fn parse<'a>(
    page: &'a [u8],
    format: Format,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Exposition<'a>, String> {
    let page = page.strip_prefix(b"\xef\xbb\xbf").unwrap_or(page);
    let mut read = Exposition::default();
    let mut understood = false;
    let mut first_odd = None;
    let mut ended = false;
    for (index, line) in page.split(|byte| *byte == b'\n').enumerate() {
        if ended && !line.trim_ascii().is_empty() {
            return Err(format!("line {}: there is more after `# EOF`", index + 1));
        }
        // Of a line that is not UTF-8 the beginning tells whose it is.
        let (line, cut) = match std::str::from_utf8(line) {
            Ok(line) => (line, None),
            Err(error) => {
                let good = line.get(..error.valid_up_to()).unwrap_or_default();
                (std::str::from_utf8(good).unwrap_or_default(), Some(error))
            }
        };
        if format == Format::OpenMetrics && line.trim_end() == "# EOF" && cut.is_none() {
            ended = true;
            continue;
        }
        let known = match cut {
            None => read.line(index + 1, line.trim(), format, wanted),
            Some(error) => {
                not_utf8(line.trim_start(), wanted).map_err(|on| (format!("it is not UTF-8: {error}"), on))
            }
        };
        match known {
            Ok(Some(known)) => understood |= known,
            Ok(None) => {}
            Err((reason, bears_on)) => {
                first_odd.get_or_insert((index + 1, line, reason.clone()));
                read.bad.push(Bad { line: index + 1, text: line, reason, bears_on });
            }
        }
    }
    if format == Format::OpenMetrics && !ended {
        return Err("the page is cut off: its last line is not `# EOF`".to_owned());
    }
    if let (Some((line, text, reason)), false) = (first_odd, understood) {
        return Err(format!("the answer is no page of metrics: line {line}: {reason}: {}", short(text)));
    }
    if page.is_empty() {
        return Err(
            "the page is empty, not even a comment stands on it: nothing is concluded from it".to_owned()
        );
    }
    if format == Format::Text && !page.ends_with(b"\n") {
        // The format wants it, and of a number without it nothing tells how it would have gone on.
        return Err("the page is cut off: its last line has no end".to_owned());
    }
    Ok(read)
}

/// What a line that is not UTF-8 bears on, if it is one of a wanted metric.
fn not_utf8(beginning: &str, wanted: &dyn Fn(&str) -> bool) -> Result<Option<bool>, Bearing> {
    if beginning.starts_with('#') {
        return Ok(None);
    }
    match Rest(beginning).sample_name() {
        Some((name, _)) if wanted(&name) => Err(Bearing::readings([&*name])),
        Some(_) => Ok(Some(true)),
        // Whose it is stands behind what can't be read.
        None => Err(Bearing::All),
    }
}

/// The names that samples of a family may have.
pub(super) fn names_of(family: &str) -> impl Iterator<Item = String> {
    const ENDS: [&str; 8] = ["", "_total", "_bucket", "_count", "_sum", "_gcount", "_gsum", "_info"];
    ENDS.iter().map(move |end| format!("{family}{end}"))
}

impl<'a> Exposition<'a> {
    /// Whether the line is surely one of a page of metrics; `None` if it is empty.
    fn line(
        &mut self,
        number: usize,
        line: &'a str,
        format: Format,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Option<bool>, Why> {
        if line.is_empty() {
            return Ok(None);
        }
        if let Some(comment) = line.strip_prefix('#') {
            return self.comment(comment.trim_start(), wanted).map(Some);
        }
        let mut rest = Rest(line);
        let Some((name, in_braces)) = rest.sample_name() else {
            return Err(("it does not begin with the name of a metric".to_owned(), Bearing::All));
        };
        if !wanted(&name) {
            // Something that looks like a value must be there all the same, so that prose is not taken for metrics.
            let begins = in_braces || rest.0.starts_with(['{', ' ', '\t']);
            return Ok(Some(begins && rest.0.contains(|c: char| c.is_ascii_digit())));
        }
        let of_name = |why: String| (why, Bearing::readings([&*name]));
        let labels = if in_braces { rest.more_labels() } else { rest.labels() };
        let labels = labels.map_err(of_name)?;
        let of_series = |why: String| (why, Bearing::series(&name, &labels));
        let value = rest.word().ok_or_else(|| of_series("it has no value".to_owned()))?;
        let at = match rest.word_unless('#') {
            None => None,
            Some(text) if format == Format::OpenMetrics => Some(seconds(text)),
            Some(text) => Some(milliseconds(text)),
        };
        let at = at.transpose().map_err(|why| of_series(format!("its time: {why}")))?;
        match rest.0.trim_start() {
            "" => {}
            exemplar if exemplar.starts_with("# {") && format == Format::OpenMetrics => {}
            more => return Err(of_series(format!("there is more behind it: `{}`", short(more)))),
        }
        self.samples.push(Sample { line: number, name, labels, value, at });
        Ok(Some(true))
    }

    fn comment(&mut self, comment: &'a str, wanted: &dyn Fn(&str) -> bool) -> Result<bool, Why> {
        let (keyword, rest) = comment.split_once([' ', '\t']).unwrap_or((comment, ""));
        if !["TYPE", "UNIT", "HELP"].contains(&keyword) {
            return Ok(false);
        }
        let mut rest = Rest(rest.trim_start_matches([' ', '\t']));
        let family = match rest.0.strip_prefix('"') {
            // Newer ones put a name in quotes that has more in it than letters, digits and `_`.
            Some(quoted) => {
                rest.0 = quoted;
                match rest.quoted() {
                    Ok(family) => Cow::Owned(family),
                    Err(_) => return Ok(true),
                }
            }
            None => match rest.word() {
                Some(family) => Cow::Borrowed(family),
                None => return Ok(false),
            },
        };
        let what = rest.word();
        match keyword {
            "TYPE" if names_of(&family).any(|name| wanted(&name)) => {
                self.has_type(family, what.unwrap_or_default())
            }
            "UNIT" => {
                self.units.extend(what.map(|unit| (family, unit)));
                Ok(true)
            }
            _ => Ok(true),
        }
    }

    fn has_type(&mut self, family: Cow<'a, str>, what: &str) -> Result<bool, Why> {
        let bears_on = |family: &str| {
            let names: Vec<String> = names_of(family).collect();
            Bearing::readings(names.iter().map(String::as_str))
        };
        let Some(kind) = Type::named(what) else {
            return Err((format!("`{}` is no type of metrics", short(what)), bears_on(&family)));
        };
        match self.types.get(&family) {
            // It may be said before each series.
            Some(earlier) if *earlier == kind => Ok(true),
            Some(_) => {
                // Which of the two is meant can't be known, so neither is.
                let why = format!("`{}` has another type before", short(&family));
                let bears_on = bears_on(&family);
                self.types.insert(family, Type::Unknown);
                Err((why, bears_on))
            }
            None => {
                self.types.insert(family, kind);
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests;
