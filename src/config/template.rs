//! Texts with `{label}` in them: how a reading's labels become a backend id, a user name or a description.
//!
//! It never guesses: a label that is not there is an error with its name, and `{{` is a brace.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Label(String),
}

impl Template {
    /// The text with each `{label}` replaced; the error is the name of the first label that is missing.
    pub fn render(&self, labels: &BTreeMap<String, String>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Label(label) => text.push_str(labels.get(label).ok_or_else(|| label.clone())?),
            }
        }
        Ok(text)
    }

    /// The labels it needs.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Label(label) => Some(label.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// As it is written in the file.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> String {
        template.text
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    literal.push(c);
                    rest.next();
                }
                '}' => return Err(format!("`{text}` has a `}}` without a `{{`")),
                '{' => {
                    let mut closed = false;
                    let until_closed = |c: &char| {
                        closed = *c == '}';
                        !closed
                    };
                    let label: String = rest.by_ref().take_while(until_closed).collect();
                    if !closed || label.is_empty() || label.contains(|c: char| c == '{' || c.is_whitespace())
                    {
                        return Err(format!("`{text}` has a `{{` that is not followed by a label and `}}`"));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Label(label));
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Template { text: text.to_owned(), parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let labels = [("user", "alice"), ("a}", "odd"), ("project.id", "p-1"), ("empty", "")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        template.parse::<Template>().unwrap().render(&labels)
    }

    #[test]
    fn labels_are_put_in_where_they_are_named() {
        for (template, text) in [
            ("", ""),
            ("plain", "plain"),
            ("{user}", "alice"),
            ("u-{user}@{project.id}!", "u-alice@p-1!"),
            ("{user}{user}", "alicealice"),
            ("{empty}", ""),
            ("{{user}}", "{user}"),
            ("{{{user}}}", "{alice}"),
            ("ü{user}ß", "üaliceß"),
        ] {
            assert_eq!(render(template), Ok(text.to_owned()), "{template}");
            assert_eq!(template.parse::<Template>().unwrap().to_string(), template);
        }
        assert_eq!(render("{user}-{nobody}-{none}"), Err("nobody".to_owned()));
        let template: Template = "{user}-{project.id}".parse().unwrap();
        assert_eq!(template.labels().collect::<Vec<_>>(), ["user", "project.id"]);
        assert_eq!(template.as_str(), "{user}-{project.id}");
    }

    #[test]
    fn a_brace_that_does_not_fit_is_refused() {
        // The last but two: a label that is never closed behind a brace that is.
        for text in
            ["{", "{user", "a{", "{}", "{a b}", "{a\tb}", "{a{b}", "}}{user", "{user}{project", "a{{{b"]
        {
            let message = format!("`{text}` has a `{{` that is not followed by a label and `}}`");
            assert_eq!(text.parse::<Template>(), Err(message));
        }
        for text in ["}", "user}", "{user}}", "a}b"] {
            let message = format!("`{text}` has a `}}` without a `{{`");
            assert_eq!(text.parse::<Template>(), Err(message));
        }
    }
}
