//! What is wrong with a file that is no YAML, for people: one mistake, its line, and what to write instead.
//!
//! The usual ones are told by what stands on the line; of all others the parser's own words are passed on.

use serde_yaml::Error;

/// The line and the words of a mistake.
pub(super) fn mistake(text: &str, error: &Error) -> (Option<usize>, String) {
    let said = error.to_string();
    let line = error.location().map(|location| location.line());
    let about = |number: usize| text.lines().nth(number.saturating_sub(1)).unwrap_or_default();
    // The parser may notice a line or two later, so the ones before it are looked at as well.
    let near = |test: &dyn Fn(&str) -> Option<String>| {
        let last = line?;
        (last.saturating_sub(2).max(1)..=last).rev().find_map(|number| Some((number, test(about(number))?)))
    };
    if let Some(key) = said.split_once("duplicate entry with key ").map(|(_, key)| key) {
        let key = key.split(" at line").next().unwrap_or(key).trim_matches('"');
        let line = line.map(|first| second_of(text, key, first).unwrap_or(first));
        return (line, format!("`{key}` is written twice in one mapping: keep one of them"));
    }
    if said.contains("more than one document") {
        return (line, "`---` begins a second document: write one file for each agent".to_owned());
    }
    if said.contains("as u128") || said.contains("as i128") {
        let long = near(&|line| long_number(line).map(str::to_owned));
        let (line, number) =
            long.map_or((line, "it".to_owned()), |(at, number)| (Some(at), format!("`{number}`")));
        return (line, format!("{number} is too long for a number: put it in quotes"));
    }
    if let Some((line, message)) = near(&|line| {
        let indent = line.len() - line.trim_start().len();
        line[..indent]
            .contains('\t')
            .then(|| "a tab before the first word: YAML wants blanks there".to_owned())
    }) {
        return (Some(line), message);
    }
    // A good alias or anchor further up is not what is wrong.
    let of_these =
        ["alias", "anchor", "tag", "cannot start any token"].iter().any(|word| said.contains(word));
    if let Some((line, message)) = near(&unquoted).filter(|_| of_these) {
        return (Some(line), message);
    }
    (line, format!("not valid YAML: {said}"))
}

/// A value that begins with what has a meaning of its own.
fn unquoted(line: &str) -> Option<String> {
    // Where a value may begin: behind a key, or in a list.
    let starts = [": ", "[", "{", ", ", "- "]
        .into_iter()
        .flat_map(|mark| line.match_indices(mark).map(move |(at, mark)| at + mark.len()));
    let special = |start: &usize| line[*start..].trim_start().starts_with(['*', '@', '`', '%', '&', '!']);
    let value = line[starts.filter(special).min()?..].trim_start();
    let first = value.chars().next()?;
    let value: String = value.chars().take(40).collect();
    let value = value.split(" #").next().unwrap_or(&value).trim_end_matches([']', '}', ',']).trim_end();
    Some(format!("a value that begins with `{first}` must be in quotes: \"{value}\""))
}

/// A number of more digits than a number may have.
fn long_number(line: &str) -> Option<&str> {
    let mut words = line.split(|c: char| c.is_whitespace() || "[]{},:".contains(c));
    words.find(|word| word.len() > 19 && word.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The line on which a key stands the second time, from where its mapping begins.
fn second_of(text: &str, key: &str, from: usize) -> Option<usize> {
    let lines = text.lines().enumerate().skip(from.saturating_sub(1));
    let begins = |line: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'))
    };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let found: Vec<(usize, usize)> =
        lines.filter(|(_, line)| begins(line)).map(|(number, line)| (number + 1, indent(line))).collect();
    let (_, level) = found.first()?;
    found.iter().skip(1).find(|(_, indent)| indent == level).map(|(number, _)| *number)
}

/// The text of a file, or why it has none.
pub(super) fn text_of(bytes: Vec<u8>) -> Result<String, String> {
    let utf_16 = "is UTF-16: save it as UTF-8";
    match bytes.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(utf_16.to_owned()),
        [0, _, ..] | [_, 0, ..] => return Err(utf_16.to_owned()),
        _ => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} has a character that is not UTF-8 (is it Latin-1?): save it as UTF-8")
    })
}
