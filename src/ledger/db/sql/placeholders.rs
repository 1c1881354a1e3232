//! Placeholders: from SQLite's way of writing them to PostgreSQL's.
//!
//! `?3` is the third parameter, and a `?` alone is the one after the largest that was named so far. That is SQLite's rule
//! for both; only `$3` would be something else there: a name, numbered by where it first stands.

/// The statement with `$1`, `$2` for its placeholders. Texts, names in quotes and comments stay as they are.
pub(super) fn numbered(sql: &str) -> String {
    let mut numbered = String::with_capacity(sql.len() + 8);
    let mut largest = 0;
    let mut rest = sql;
    while let Some(next) = rest.find(['?', '\'', '"', '-']) {
        let (before, from) = rest.split_at(next);
        numbered.push_str(before);
        let length = match from.as_bytes() {
            [b'?', digits @ ..] => {
                let length = digits.iter().take_while(|digit| digit.is_ascii_digit()).count();
                let number = from[1..=length].parse().unwrap_or(largest + 1);
                largest = largest.max(number);
                numbered.push_str(&format!("${number}"));
                rest = &from[1 + length..];
                continue;
            }
            [quote @ (b'\'' | b'"'), text @ ..] => {
                // A quote within is written twice, which here is the end of one text and the beginning of the next.
                2 + text.iter().position(|byte| byte == quote).unwrap_or(text.len().saturating_sub(1))
            }
            [b'-', b'-', ..] => from.find('\n').unwrap_or(from.len()),
            _ => 1,
        };
        let (kept, after) = from.split_at(length.min(from.len()));
        numbered.push_str(kept);
        rest = after;
    }
    numbered.push_str(rest);
    numbered
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn placeholders_are_numbered_as_sqlite_numbers_them() {
        for (sqlite, postgres) in [
            ("SELECT a FROM t WHERE b = ? AND c = ?", "SELECT a FROM t WHERE b = $1 AND c = $2"),
            ("WHERE b = ?2 AND c = ?1 AND d = ?2", "WHERE b = $2 AND c = $1 AND d = $2"),
            ("WHERE b = ?3 AND c = ?", "WHERE b = $3 AND c = $4"),
            ("WHERE b = ? AND c = ?1 AND d = ?", "WHERE b = $1 AND c = $1 AND d = $2"),
            ("VALUES (?10, ?11)", "VALUES ($10, $11)"),
            (
                "SELECT '?', \"?\", 'it''s ?' WHERE a - ? > -1",
                "SELECT '?', \"?\", 'it''s ?' WHERE a - $1 > -1",
            ),
            ("a -- the source's ?\n AND b = ?", "a -- the source's ?\n AND b = $1"),
            ("b = '", "b = '"),
            ("b -- ?", "b -- ?"),
        ] {
            assert_eq!(numbered(sqlite), postgres);
        }
    }
}
