//! Reads the configuration file as a tree, so that every mistake in it is told at once, each with its line.
//!
//! A `Section` is one mapping of the file. Whoever owns the mapping takes the keys it knows; what is left over
//! when it calls `finish` is unknown and becomes a problem that names the nearest known key. Nothing here knows
//! what any key means, and no value of a key ever appears in a problem unless its reader put it there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use serde_yaml::{Mapping, Value};

use super::{written, yaml};

/// One mistake: where in the file (`collectors.cluster.meters.cpu_hours.factor`) and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// The text of the file and the problems found in it so far. Shared by all its sections.
#[derive(Debug)]
struct Document {
    text: String,
    problems: RefCell<Vec<Problem>>,
    /// It is not even YAML.
    broken: bool,
}

impl Document {
    fn break_off(&mut self, line: Option<usize>, message: String) {
        self.broken = true;
        self.problems.get_mut().push(Problem { path: String::new(), line, message });
    }
}

/// One mapping of the file.
#[derive(Debug)]
pub struct Section {
    document: Rc<Document>,
    path: Vec<String>,
    values: Mapping,
    known: BTreeSet<String>,
}

/// The problems of a document, kept apart so that they outlive its sections.
#[derive(Debug, Clone)]
pub struct Problems(Rc<Document>);

impl Problems {
    /// All problems in the order of the lines they stand in.
    pub fn list(&self) -> Vec<Problem> {
        let mut list = self.0.problems.borrow().clone();
        list.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        list
    }

    /// Records a problem with what stands at `path`.
    pub fn add(&self, path: &[String], message: impl Into<String>) {
        let line = written::line(&self.0.text, path);
        let problem = Problem { path: path.join("."), line, message: message.into() };
        let mut problems = self.0.problems.borrow_mut();
        // Two may read the same key.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

impl Section {
    /// Parses a whole file. A file that is not even YAML, or not a mapping, has one problem and an empty section.
    pub fn parse(text: &str) -> (Section, Problems) {
        // What some editors put before everything else.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut document = Document { text: text.to_owned(), problems: RefCell::default(), broken: false };
        let mut values = Mapping::new();
        let mut merged = Vec::new();
        match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Mapping(mut read)) => {
                take_merge_keys(&mut read, &mut Vec::new(), &mut merged);
                values = read;
            }
            Ok(Value::Null) => {}
            Ok(_) => {
                let message = "the file must be a mapping of keys, such as `waldur:` and `collectors:`";
                document.break_off(None, message.to_owned());
            }
            Err(error) => {
                let (line, message) = yaml::mistake(text, &error);
                document.break_off(line, message);
            }
        }
        let document = Rc::new(document);
        let problems = Problems(document.clone());
        for path in merged {
            problems.add(&path, "`<<` (merge keys) is not read: write the keys out where they belong");
        }
        (Section { document, path: Vec::new(), values, known: BTreeSet::new() }, problems)
    }

    /// Whether the file could not be read at all: then nothing that is missing in it is worth a word.
    pub fn is_broken(&self) -> bool {
        self.document.broken
    }

    /// The keys that lead here.
    pub fn path(&self) -> &[String] {
        &self.path
    }

    /// The last key that leads here: the name of a collector or of a meter.
    pub fn name(&self) -> &str {
        self.path.last().map(String::as_str).unwrap_or_default()
    }

    pub fn has(&self, key: &str) -> bool {
        self.values.get(key).is_some()
    }

    /// Whether there is a key here that is probably this one, which is absent.
    pub fn is_misspelt(&self, key: &str) -> bool {
        let near = |other: String| strsim::damerau_levenshtein(&other, key) <= 2;
        !self.has(key) && self.values.keys().filter_map(|other| scalar(other).ok()).any(near)
    }

    /// Records a problem with `key` of this section (or, with an empty key, with the section itself).
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        Problems(self.document.clone()).add(&self.key_path(key), message);
    }

    /// The value of `key` as text: a string, number or boolean as it is written.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let value = self.take(key)?;
        self.told(key, self.scalar(key, None, &value))
    }

    /// The text of `key`, for another than its owner.
    pub fn peek(&self, key: &str) -> Option<String> {
        self.values.get(key).and_then(|value| self.scalar(key, None, value).ok())
    }

    fn told<T>(&self, key: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.problem(key, message)).ok()
    }

    /// A value of `key` as it is written: `1.10` stays `1.10`, although YAML hands it over as a number. `place`: which of
    /// a list it is.
    fn scalar(&self, key: &str, place: Option<usize>, value: &Value) -> Result<String, String> {
        match value {
            Value::Number(_) | Value::Bool(_) => {
                let written = written::find(&self.document.text, &self.key_path(key), place);
                let other = scalar(value)?;
                written.ok_or_else(|| format!("write `{other}` in quotes, exactly as it is meant"))
            }
            // Some editors make them of straight ones.
            Value::String(text) if text.starts_with(TYPOGRAPHIC) && text.ends_with(TYPOGRAPHIC) => {
                let meant = text.trim_matches(TYPOGRAPHIC);
                Err(format!(
                    "stands in typographic quotes, which YAML takes for a part of the text: write \"{meant}\""
                ))
            }
            other => scalar(other),
        }
    }

    /// The text of `inner` in each of the mappings under `key`, for another than its owner.
    pub fn peek_each(&self, key: &str, inner: &str) -> Vec<String> {
        let Some(Value::Mapping(mappings)) = self.values.get(key) else { return Vec::new() };
        let texts = mappings.values().filter_map(|value| value.get(inner));
        texts.filter_map(|text| scalar(text).ok()).collect()
    }

    /// The value of `key`, understood by `read`; its error becomes a problem.
    pub fn parse_with<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        self.told(key, read(&text))
    }

    /// Like `parse_with`, and it is a problem if the key is absent; `why` says what the key is for.
    pub fn require_with<T>(
        &mut self,
        key: &str,
        why: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.known.insert(key.to_owned());
            self.problem("", format!("`{key}` is missing: {why}"));
            return None;
        }
        self.parse_with(key, read)
    }

    pub fn flag(&mut self, key: &str) -> Option<bool> {
        self.parse_with(key, |text| match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            other => Err(format!("must be true or false, not `{other}`")),
        })
    }

    /// The value of `key` as a list of texts; one text alone is a list of one.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        if let Value::Mapping(values) = &value
            && !values.values().all(Value::is_null)
        {
            return self.told(key, Err("must be a list of single values, not a mapping".to_owned()));
        }
        let is_list = matches!(value, Value::Sequence(_));
        let items = match value {
            Value::Sequence(items) => items,
            other => vec![other],
        };
        let texts = items.iter().enumerate().map(|(place, item)| {
            let place = is_list.then_some(place);
            self.scalar(key, place, item)
        });
        self.told(key, texts.collect::<Result<Vec<_>, _>>())
    }

    /// The mapping under `key`, whose keys are names that the operator chose and whose values are texts, in the order
    /// of the file.
    pub fn named_texts(&mut self, key: &str) -> Vec<(String, String)> {
        let Some(mut inner) = self.section(key) else { return Vec::new() };
        let names: Vec<_> = inner.values.keys().filter_map(|name| scalar(name).ok()).collect();
        let texts = names.into_iter().filter_map(|name| Some((name.clone(), inner.text(&name)?))).collect();
        inner.finish();
        texts
    }

    /// The value of `key` whatever it is, for what is passed on and not understood here.
    pub fn value(&mut self, key: &str) -> Option<Value> {
        self.take(key)
    }

    /// The mapping under `key`.
    pub fn section(&mut self, key: &str) -> Option<Section> {
        let is_empty = self.path.is_empty() && self.values.get(key).is_some_and(Value::is_null);
        let value = match is_empty {
            // All that stood under a heading of the file is commented out.
            true => {
                self.known.insert(key.to_owned());
                Value::Mapping(Mapping::new())
            }
            false => self.take(key)?,
        };
        let path = self.key_path(key);
        self.child(path, value)
    }

    /// The mapping under `key`, whose keys are names that the operator chose, as (name, value) sections in the
    /// order of the file.
    pub fn named_sections(&mut self, key: &str) -> Vec<Section> {
        let Some(outer) = self.section(key) else { return Vec::new() };
        let mut sections = Vec::new();
        for (name, value) in outer.values.clone() {
            match scalar(&name) {
                Ok(name) => {
                    let mut path = outer.path.clone();
                    path.push(name);
                    sections.extend(self.child(path, value));
                }
                Err(message) => outer.problem("", message),
            }
        }
        sections
    }

    /// The keys of this section, where the operator chooses them.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for key in self.values.keys() {
            match (key, scalar(key)) {
                (Value::String(name), _) => names.push(name.clone()),
                (_, Ok(other)) => self.problem("", format!("`{other}` must be in quotes")),
                (_, Err(_)) => self.problem("", "a key must be a plain word"),
            }
        }
        names
    }

    /// Ends the reading of this section: what nobody took is an unknown key.
    pub fn finish(self) {
        for key in self.values.keys() {
            let Ok(key) = scalar(key) else {
                self.problem("", "a key must be a plain word");
                continue;
            };
            if self.known.contains(&key) {
                continue;
            }
            if let Some(words) = self.decimal_comma(&key) {
                self.problem(&key, words);
                continue;
            }
            let nearest = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &key), known))
                .min()
                .filter(|(distance, known)| *distance <= known.len().max(key.len()) / 2);
            let hint = match nearest {
                Some((_, known)) => format!("; did you mean `{known}`?"),
                None if self.known.is_empty() => String::new(),
                None => {
                    let known: Vec<_> = self.known.iter().map(|k| format!("`{k}`")).collect();
                    format!("; known here: {}", known.join(", "))
                }
            };
            self.problem(&key, format!("unknown key `{key}`{hint}"));
        }
    }

    /// What to say of a key that is the rest of a number with a comma: `{ factor: 1,5 }` is read as two keys.
    fn decimal_comma(&self, key: &str) -> Option<String> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let place =
            self.values.iter().position(|(other, _)| scalar(other).is_ok_and(|other| other == key))?;
        let (_, value) = self.values.iter().nth(place)?;
        let (before, whole) = self.values.iter().nth(place.checked_sub(1)?)?;
        let (before, whole) = (scalar(before).ok()?, scalar(whole).ok()?);
        let is_rest = value.is_null() && is_number(key) && is_number(&whole);
        is_rest.then(|| {
            format!(
                "`{before}: {whole},{key}` is read as two keys, `{before}: {whole}` and `{key}`: a decimal has a point, \
                 `{whole}.{key}`"
            )
        })
    }

    fn child(&self, path: Vec<String>, value: Value) -> Option<Section> {
        let document = self.document.clone();
        match value {
            Value::Mapping(values) => Some(Section { document, path, values, known: BTreeSet::new() }),
            other => {
                let words = if other.is_null() { EMPTY } else { "must be a mapping of keys" };
                Problems(document).add(&path, words);
                None
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.insert(key.to_owned());
        match self.values.get(key)? {
            // Taken for a key that is not there, it would be another configuration than the one that was meant.
            Value::Null => {
                self.problem(key, EMPTY);
                None
            }
            value => Some(value.clone()),
        }
    }

    /// Whether the value of `key` is itself a mapping (such as `resource: { offering, backend_id }`).
    pub fn is_section(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Mapping(_)))
    }

    /// Whether there is nothing under `key`, which is there.
    pub fn holds_nothing(&mut self, key: &str) -> bool {
        self.known.insert(key.to_owned());
        self.values.get(key).is_some_and(|value| match value {
            Value::Mapping(values) => values.is_empty(),
            value => value.is_null(),
        })
    }

    fn key_path(&self, key: &str) -> Vec<String> {
        let mut path = self.path.clone();
        if !key.is_empty() {
            path.push(key.to_owned());
        }
        path
    }
}

const TYPOGRAPHIC: [char; 8] = ['“', '”', '„', '‟', '‘', '’', '‚', '‛'];

/// Of a key without a value.
const EMPTY: &str = "is empty: give it a value, or take the line away";

/// The text of a scalar, as YAML understands it.
fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => {
            Err("is empty: YAML takes `null` and `~` for nothing; a name must be in quotes".to_owned())
        }
        Value::Tagged(_) => Err("must be a plain value, without a `!tag`".to_owned()),
        // `{user}`, which is what people write who mean "{user}".
        Value::Mapping(values) if values.len() == 1 && values.values().all(Value::is_null) => {
            let label = values.keys().filter_map(|key| scalar(key).ok()).next().unwrap_or_default();
            Err(format!("must be in quotes: \"{{{label}}}\""))
        }
        _ => Err("must be a single value, not a list or a mapping".to_owned()),
    }
}

/// Takes all merge keys out, and says where they stood.
fn take_merge_keys(values: &mut Mapping, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if values.remove("<<").is_some() {
        found.push(path.iter().cloned().chain(["<<".to_owned()]).collect());
    }
    for (key, value) in values.iter_mut() {
        if let (Ok(key), Value::Mapping(inner)) = (scalar(key), value) {
            path.push(key);
            take_merge_keys(inner, path, found);
            path.pop();
        }
    }
}

#[cfg(test)]
mod tests;
