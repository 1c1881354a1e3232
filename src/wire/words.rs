//! Makes what a server said fit to be shown, logged and kept: short, one line, without control characters.
//!
//! It never decides what the words mean.

use serde_json::Value;

/// How much of a server's own words is kept.
pub const LONGEST: usize = 500;

/// At most `LONGEST` characters, blanks run together, control characters gone (a server's text must not be able
/// to drive an operator's terminal).
pub fn clean(text: &str) -> String {
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || unseen(c)).filter(|w| !w.is_empty()) {
        let blank = if words.is_empty() { "" } else { " " };
        words.extend([blank, word]);
        // One that is far too long is not put together to its end.
        if words.len() > LONGEST * 4 {
            break;
        }
    }
    match words.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

/// Characters that change how others are shown: controls, and the marks that turn the direction of writing.
pub fn unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One cell of a table: whatever a server put there, on one line.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if unseen(c) { ' ' } else { c }).collect()
}

/// What a body says, whatever it is made of: the sentences of the server's JSON, the title of a page, or the text.
pub fn of_body(body: &[u8]) -> String {
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        return clean(&sentences(&json).join("; "));
    }
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') {
        return clean(&of_page(&text));
    }
    clean(&text)
}

/// Every text of a JSON value, each led by the keys above it, but for the keys that say nothing.
fn sentences(json: &Value) -> Vec<String> {
    fn walk(json: &Value, path: &str, found: &mut Vec<String>) {
        match json {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = match key.as_str() {
                        "detail" | "non_field_errors" => path.to_owned(),
                        key if path.is_empty() => key.to_owned(),
                        key => format!("{path}.{key}"),
                    };
                    walk(value, &path, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, path, found)),
            Value::Null => {}
            Value::String(text) if path.is_empty() => found.push(text.clone()),
            Value::String(text) => found.push(format!("{path}: {text}")),
            other => found.push(format!("{path}: {other}")),
        }
    }
    let mut found = Vec::new();
    walk(json, "", &mut found);
    found
}

/// The title of an HTML page, or else its text without the tags.
fn of_page(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    if let Some(start) = lower.find("<title>").map(|at| at + "<title>".len())
        && let Some(length) = lower[start..].find("</title")
        && !page[start..start + length].trim().is_empty()
    {
        return page[start..start + length].to_owned();
    }
    let mut text = String::new();
    let mut in_tag = false;
    for c in page.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            c if !in_tag => text.push(c),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_taken_from_json_pages_and_text() {
        for (body, words) in [
            (r#"{"detail":"Invalid token."}"#, "Invalid token."),
            (
                r#"{"resource":["Resource is not in valid state."]}"#,
                "resource: Resource is not in valid state.",
            ),
            (r#"{"usages":[{},{"amount":["Too big."]}]}"#, "usages.amount: Too big."),
            (r#"["Total amount exceeds limit."]"#, "Total amount exceeds limit."),
            (
                "\n<!doctype html><html><head><title>Server Error (500)</title></head><body>x</body>",
                "Server Error (500)",
            ),
            ("<html><h1>Bad   Gateway</h1><p>nginx</p>", "Bad Gateway nginx"),
            ("upstream timed\u{1b}[31m out\n", "upstream timed [31m out"),
            ("", ""),
        ] {
            assert_eq!(of_body(body.as_bytes()), words);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_become_one_short_line(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let words = of_body(&body);
            prop_assert!(words.chars().count() <= LONGEST + 1);
            prop_assert!(!words.chars().any(char::is_control));
        }

        #[test]
        fn any_page_becomes_one_short_line(body in "<(title>|/title>|[a-zİ<>é ]){0,40}") {
            prop_assert!(of_body(body.as_bytes()).chars().count() <= LONGEST + 1);
        }
    }
}
