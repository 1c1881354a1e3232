//! The fields of what is for machines: those that an answer has, and those that docs/status.md lists. A path is
//! `statements[].components[].amount`.

use std::collections::BTreeSet;

use super::Value;

/// Every field that is there.
pub fn fields(value: &Value) -> BTreeSet<String> {
    fn look(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    look(value, &path, found);
                    found.insert(path);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| look(item, &format!("{path}[]"), found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    look(value, "", &mut found);
    found
}

/// What docs/status.md lists below `## For machines`: in a table's first column every word in backticks is a field, in the second
/// those that are below one.
pub fn documented() -> BTreeSet<String> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.md");
    let page = std::fs::read_to_string(page).unwrap();
    let machines = page.split("\n## For machines\n").nth(1).unwrap();
    let mut listed = BTreeSet::new();
    for row in machines.lines().filter(|line| line.starts_with("| `")) {
        let (first, second) = row.trim_start_matches("| ").split_once(" | ").unwrap();
        let words = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        listed.extend(words(first));
        let is_field = |word: &String| {
            word.contains('.') && word.chars().all(|c| c.is_ascii_lowercase() || "_.[]".contains(c))
        };
        listed.extend(words(second).into_iter().filter(is_field));
    }
    listed
}
