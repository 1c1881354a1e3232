//! Reads a page of metrics: the Prometheus text format 0.0.4 and OpenMetrics 1.0.
//!
//! The parsers that are to be had make binary floats of the values; here a value stays the text that it is. A line that
//! is none is set aside with its number and the reason, and the others count. A page that was cut off is refused as a
//! whole, where that can be told: half an answer is no answer.

use std::collections::HashMap;

use jiff::Timestamp;

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
    pub(super) name: &'a str,
    pub(super) labels: Labels,
    pub(super) value: &'a str,
    pub(super) at: Option<Timestamp>,
}

/// A page that was read.
#[derive(Debug, Default)]
pub(super) struct Exposition<'a> {
    pub(super) samples: Vec<Sample<'a>>,
    /// Lines that are none: their number, their text, and why.
    pub(super) bad: Vec<(usize, &'a str, String)>,
    types: HashMap<&'a str, Type>,
    units: HashMap<&'a str, &'a str>,
}

impl<'a> Exposition<'a> {
    /// The family that a sample belongs to, with its type and the end of the sample's name that is not the family's.
    pub(super) fn family(&self, sample: &'a str) -> Option<(&'a str, Type, &'a str)> {
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

/// Reads the samples whose names are wanted. The lines of others are not looked into.
pub(super) fn parse<'a>(
    page: &'a str,
    format: Format,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Exposition<'a>, String> {
    let mut read = Exposition::default();
    let mut understood = false;
    let mut ended = false;
    for (index, line) in page.split('\n').enumerate() {
        if ended && !line.is_empty() {
            return Err(format!("line {}: there is more after `# EOF`", index + 1));
        }
        if format == Format::OpenMetrics && line == "# EOF" {
            ended = true;
            continue;
        }
        match read.line(index + 1, line.trim(), format, wanted) {
            Ok(known) => understood |= known,
            Err(reason) => read.bad.push((index + 1, line, reason)),
        }
    }
    if format == Format::OpenMetrics && !ended {
        return Err("the page is cut off: its last line is not `# EOF`".to_owned());
    }
    if let (Some((line, text, reason)), false) = (read.bad.first(), understood) {
        return Err(format!("the answer is no page of metrics: line {line}: {reason}: {}", short(text)));
    }
    if format == Format::Text && !page.is_empty() && !page.ends_with('\n') {
        return Err("the page is cut off: its last line has no end".to_owned());
    }
    Ok(read)
}

impl<'a> Exposition<'a> {
    /// Whether the line is surely one of a page of metrics.
    fn line(
        &mut self,
        number: usize,
        line: &'a str,
        format: Format,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<bool, String> {
        if line.is_empty() {
            return Ok(false);
        }
        if let Some(comment) = line.strip_prefix('#') {
            return self.comment(comment.trim_start());
        }
        let mut rest = Rest(line);
        let name = rest.name().ok_or("it does not begin with the name of a metric")?;
        if !wanted(name) {
            // Something that looks like a value must be there all the same, so that prose is not taken for metrics.
            let looks_right =
                rest.0.starts_with(['{', ' ', '\t']) && rest.0.contains(|c: char| c.is_ascii_digit());
            return Ok(looks_right);
        }
        let labels = rest.labels()?;
        let value = rest.word().ok_or("it has no value")?;
        let at = match rest.word_unless('#') {
            None => None,
            Some(text) if format == Format::OpenMetrics => Some(seconds(text)),
            Some(text) => Some(milliseconds(text)),
        };
        let at = at.transpose().map_err(|why| format!("its time: {why}"))?;
        match rest.0.trim_start() {
            "" => {}
            exemplar if exemplar.starts_with("# {") && format == Format::OpenMetrics => {}
            more => return Err(format!("there is more behind it: `{}`", short(more))),
        }
        self.samples.push(Sample { line: number, name, labels, value, at });
        Ok(true)
    }

    fn comment(&mut self, comment: &'a str) -> Result<bool, String> {
        let mut words = comment.split_ascii_whitespace();
        let (keyword, family, what) = (words.next(), words.next(), words.next());
        match (keyword, family) {
            (Some("TYPE"), Some(family)) => {
                let what = what.unwrap_or_default();
                let kind =
                    Type::named(what).ok_or_else(|| format!("`{}` is no type of metrics", short(what)))?;
                match self.types.insert(family, kind) {
                    Some(earlier) if earlier != kind => {
                        // Which of the two is meant can't be known, so neither is.
                        self.types.insert(family, Type::Unknown);
                        Err(format!("`{}` has another type before", short(family)))
                    }
                    _ => Ok(true),
                }
            }
            (Some("UNIT"), Some(family)) => {
                if let Some(unit) = what {
                    self.units.insert(family, unit);
                }
                Ok(true)
            }
            (Some("HELP"), Some(_)) => Ok(true),
            _ => Ok(false),
        }
    }
}

/// What is left of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    fn name(&mut self) -> Option<&'a str> {
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        let name = self.take(end.unwrap_or(self.0.len()));
        let is_name = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
        is_name.then_some(name)
    }

    fn word(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        let end = self.0.find([' ', '\t']).unwrap_or(self.0.len());
        Some(self.take(end)).filter(|word| !word.is_empty())
    }

    fn word_unless(&mut self, start: char) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        if self.0.starts_with(start) { None } else { self.word() }
    }

    /// `{a="b",c="d"}`, or nothing. A label without a value is no label, as everywhere with Prometheus.
    fn labels(&mut self) -> Result<Labels, String> {
        let mut labels = Labels::new();
        let inside = self.0.trim_start_matches([' ', '\t']);
        let Some(inside) = inside.strip_prefix('{') else {
            if !self.0.starts_with([' ', '\t']) {
                return Err("its name is not followed by a blank or labels".to_owned());
            }
            return Ok(labels);
        };
        self.0 = inside;
        loop {
            self.0 = self.0.trim_start_matches([' ', '\t']);
            if let Some(rest) = self.0.strip_prefix('}') {
                self.0 = rest;
                labels.retain(|_, value| !value.is_empty());
                return Ok(labels);
            }
            let name = self.name().filter(|name| !name.contains(':')).ok_or("a label has no name")?;
            self.0 = self.0.trim_start_matches([' ', '\t']);
            self.0 =
                self.0.strip_prefix('=').ok_or_else(|| format!("the label {} has no `=`", short(name)))?;
            self.0 = self.0.trim_start_matches([' ', '\t']);
            self.0 = self
                .0
                .strip_prefix('"')
                .ok_or_else(|| format!("the value of the label {} is not in quotes", short(name)))?;
            let value = self.quoted().map_err(|why| format!("the label {}: {why}", short(name)))?;
            if labels.insert(name.to_owned(), value).is_some() {
                return Err(format!("the label {} is there twice", short(name)));
            }
            self.0 = self.0.trim_start_matches([' ', '\t']);
            match self.0.strip_prefix(',') {
                Some(rest) => self.0 = rest,
                None if self.0.starts_with('}') => {}
                None => return Err(format!("behind the label {} is neither `,` nor `}}`", short(name))),
            }
        }
    }

    /// Up to the closing quote, which is taken too.
    fn quoted(&mut self) -> Result<String, String> {
        let mut value = String::new();
        let mut characters = self.0.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => {
                    self.take(at + 1);
                    return Ok(value);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => value.push(c),
                    _ => return Err("a `\\` is followed by neither `\\`, `\"` nor `n`".to_owned()),
                },
                c => value.push(c),
            }
        }
        Err("its value has no closing quote".to_owned())
    }
}

#[cfg(test)]
mod tests;
