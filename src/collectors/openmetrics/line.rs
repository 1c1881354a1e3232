//! Takes a line of a page of metrics apart, from its beginning: names with or without quotes, labels, words. It decides nothing.

use std::borrow::Cow;

use crate::collectors::numbers::short;
use crate::metering::reading::Labels;

/// What is left of a line.
pub(super) struct Rest<'a>(pub(super) &'a str);

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

    /// The name of a sample, and whether it stands in braces, as newer exporters write names that have dots in them:
    /// `{"http.requests",code="200"} 7`. What follows it is not looked into.
    pub(super) fn sample_name(&mut self) -> Option<(Cow<'a, str>, bool)> {
        if let Some(name) = Rest(self.0).name() {
            self.take(name.len());
            return Some((Cow::Borrowed(name), false));
        }
        let inside = self.0.strip_prefix('{')?.trim_start_matches([' ', '\t']);
        self.0 = inside.strip_prefix('"')?;
        let name = self.quoted().ok().filter(|name| !name.is_empty())?;
        let behind = self.0.trim_start_matches([' ', '\t']);
        // A label in quotes stands before its value.
        behind.starts_with([',', '}']).then_some((Cow::Owned(name), true))
    }

    pub(super) fn word(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        let end = self.0.find([' ', '\t']).unwrap_or(self.0.len());
        Some(self.take(end)).filter(|word| !word.is_empty())
    }

    pub(super) fn word_unless(&mut self, start: char) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        if self.0.starts_with(start) { None } else { self.word() }
    }

    /// `{a="b","c.d"="e"}`, or nothing. A label without a value is no label, as everywhere with Prometheus.
    pub(super) fn labels(&mut self) -> Result<Labels, String> {
        let inside = self.0.trim_start_matches([' ', '\t']);
        let Some(inside) = inside.strip_prefix('{') else {
            if !self.0.starts_with([' ', '\t']) {
                return Err("its name is not followed by a blank or labels".to_owned());
            }
            return Ok(Labels::new());
        };
        self.0 = inside;
        self.labels_inside(Labels::new())
    }

    /// What stands in braces behind a name that does, too.
    pub(super) fn more_labels(&mut self) -> Result<Labels, String> {
        self.0 = self.0.trim_start_matches([' ', '\t']);
        self.0 = self.0.strip_prefix(',').unwrap_or(self.0);
        self.labels_inside(Labels::new())
    }

    fn labels_inside(&mut self, mut labels: Labels) -> Result<Labels, String> {
        loop {
            self.0 = self.0.trim_start_matches([' ', '\t']);
            if let Some(rest) = self.0.strip_prefix('}') {
                self.0 = rest;
                labels.retain(|_, value| !value.is_empty());
                return Ok(labels);
            }
            let name = self.label_name()?;
            self.0 = self.0.trim_start_matches([' ', '\t']);
            self.0 =
                self.0.strip_prefix('=').ok_or_else(|| format!("the label {} has no `=`", short(&name)))?;
            self.0 = self.0.trim_start_matches([' ', '\t']);
            self.0 = self
                .0
                .strip_prefix('"')
                .ok_or_else(|| format!("the value of the label {} is not in quotes", short(&name)))?;
            let value = self.quoted().map_err(|why| format!("the label {}: {why}", short(&name)))?;
            if labels.insert(name.to_string(), value).is_some() {
                return Err(format!("the label {} is there twice", short(&name)));
            }
            self.0 = self.0.trim_start_matches([' ', '\t']);
            match self.0.strip_prefix(',') {
                Some(rest) => self.0 = rest,
                None if self.0.starts_with('}') => {}
                None => return Err(format!("behind the label {} is neither `,` nor `}}`", short(&name))),
            }
        }
    }

    fn label_name(&mut self) -> Result<Cow<'a, str>, String> {
        if let Some(quoted) = self.0.strip_prefix('"') {
            self.0 = quoted;
            return match self.quoted() {
                Ok(name) if !name.is_empty() => Ok(Cow::Owned(name)),
                _ => Err("a label has no name".to_owned()),
            };
        }
        let name = self.name().filter(|name| !name.contains(':')).ok_or("a label has no name")?;
        Ok(Cow::Borrowed(name))
    }

    /// Up to the closing quote, which is taken too.
    pub(super) fn quoted(&mut self) -> Result<String, String> {
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
