//! Reads the configuration file as a tree, so that every mistake in it is told at once, each with its line.
//!
//! A `Section` is one mapping of the file. Whoever owns the mapping takes the keys it knows; what is left over
//! when it calls `finish` is unknown and becomes a problem that names the nearest known key. Nothing here knows
//! what any key means, and no value of a key ever appears in a problem unless its reader put it there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

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
        let line = line_of(&self.0.text, path);
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
        let document = Rc::new(Document { text: text.to_owned(), problems: RefCell::default() });
        let problems = Problems(document.clone());
        let values = match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Mapping(values)) => values,
            Ok(Value::Null) => Mapping::new(),
            Ok(_) => {
                problems.add(&[], "the file must be a mapping of keys, such as `waldur:` and `collectors:`");
                Mapping::new()
            }
            Err(error) => {
                let line = error.location().map(|l| l.line());
                let message = format!("not valid YAML: {error}");
                document.problems.borrow_mut().push(Problem { path: String::new(), line, message });
                Mapping::new()
            }
        };
        (Section { document, path: Vec::new(), values, known: BTreeSet::new() }, problems)
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

    /// Records a problem with `key` of this section (or, with an empty key, with the section itself).
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        Problems(self.document.clone()).add(&self.key_path(key), message);
    }

    /// The value of `key` as text: a string, number or boolean as it is written. Absent and null are `None`.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let value = self.take(key)?;
        match scalar(&value) {
            Ok(text) => Some(text),
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
    }

    /// The text of `key`, for another than its owner.
    pub fn peek(&self, key: &str) -> Option<String> {
        self.values.get(key).and_then(|value| scalar(value).ok())
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
        match read(&text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
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
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("must be true or false, not `{other}`")),
        })
    }

    /// The value of `key` as a list of texts; one text alone is a list of one.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let items = match value {
            Value::Sequence(items) => items,
            other => vec![other],
        };
        match items.iter().map(scalar).collect::<Result<Vec<_>, _>>() {
            Ok(texts) => Some(texts),
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
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
        let value = self.take(key)?;
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

    fn child(&self, path: Vec<String>, value: Value) -> Option<Section> {
        let document = self.document.clone();
        match value {
            Value::Mapping(values) => Some(Section { document, path, values, known: BTreeSet::new() }),
            _ => {
                Problems(document).add(&path, "must be a mapping of keys");
                None
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.insert(key.to_owned());
        match self.values.get(key) {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.clone()),
        }
    }

    /// Whether the value of `key` is itself a mapping (such as `resource: { offering, backend_id }`).
    pub fn is_section(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Mapping(_)))
    }

    fn key_path(&self, key: &str) -> Vec<String> {
        let mut path = self.path.clone();
        if !key.is_empty() {
            path.push(key.to_owned());
        }
        path
    }
}

/// The text of a scalar. A number is taken as it is written: YAML hands it over as binary, whose shortest
/// decimal is what was typed unless it has more digits than binary holds; then it must be quoted.
fn scalar(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => {
            let text = number.to_string();
            if number.is_f64() && text.chars().filter(char::is_ascii_digit).count() > 15 {
                return Err(format!(
                    "write {text} in quotes: it has more digits than a bare YAML number keeps"
                ));
            }
            Ok(text)
        }
        _ => Err("must be a single value, not a list or a mapping".to_owned()),
    }
}

/// The line on which the key at `path` stands. It is found by reading the text once more and failing on purpose
/// at that key, so that the parser itself says where it is: flow style, comments and quotes are all its business.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    if path.is_empty() {
        return None;
    }
    let seek = Seek { path };
    match seek.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Err(error) => error.location().map(|location| location.line()),
        Ok(()) => None,
    }
}

struct Seek<'a> {
    path: &'a [String],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(SeekKey { path: self.path })? {
            if found {
                map.next_value_seed(Seek { path: &self.path[1..] })?
            } else {
                map.next_value::<IgnoredAny>().map(drop)?
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Reads one key; fails on purpose when it is the last of the path, and tells whether it leads towards it.
struct SeekKey<'a> {
    path: &'a [String],
}

impl<'de> DeserializeSeed<'de> for SeekKey<'_> {
    type Value = bool;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for SeekKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match self.path {
            [last] if last == key => Err(E::custom("here")),
            [first, ..] => Ok(first == key),
            [] => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(problems: &Problems) -> Vec<String> {
        problems.list().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_unknown_key_is_told_with_its_line_and_the_nearest_known_one() {
        let text = "waldur:\n  url: x\n  tokn_file: y\nlegder: z\nflow: { a: 1,\n  factr: 2 }\n";
        let (mut root, problems) = Section::parse(text);
        let mut waldur = root.section("waldur").unwrap();
        assert_eq!(waldur.text("url").as_deref(), Some("x"));
        assert_eq!(waldur.text("token_file"), None);
        waldur.finish();
        let mut flow = root.section("flow").unwrap();
        flow.text("a");
        flow.text("factor");
        flow.finish();
        root.text("ledger");
        root.finish();
        assert_eq!(
            lines(&problems),
            [
                "line 3: waldur.tokn_file: unknown key `tokn_file`; did you mean `token_file`?",
                "line 4: legder: unknown key `legder`; did you mean `ledger`?",
                "line 6: flow.factr: unknown key `factr`; did you mean `factor`?",
            ]
        );
    }

    #[test]
    fn a_number_with_more_digits_than_binary_keeps_must_be_quoted() {
        let (mut root, problems) =
            Section::parse("a: 0.25\nb: 0.12345678901234567\nc: '0.12345678901234567'\n");
        assert_eq!(root.text("a").as_deref(), Some("0.25"));
        assert_eq!(root.text("b"), None);
        assert_eq!(root.text("c").as_deref(), Some("0.12345678901234567"));
        assert!(lines(&problems)[0].starts_with("line 2: b: write 0.1234567890123456"));
    }

    #[test]
    fn broken_yaml_is_one_problem_with_its_line() {
        let (_, problems) = Section::parse("a: [1, 2\nb: }\n");
        assert_eq!(problems.list().len(), 1);
        assert_eq!(problems.list()[0].line, Some(2));
    }

    #[test]
    fn a_key_written_twice_is_refused() {
        let (_, problems) = Section::parse("a: 1\nb: 2\na: 3\n");
        assert!(lines(&problems)[0].contains("duplicate"), "{:?}", lines(&problems));
    }
}
