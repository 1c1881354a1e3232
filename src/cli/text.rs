//! Text for people in 80 columns: folded lines, names cut in the middle, instants and numbers as people read them. It knows
//! nothing of what it shows.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::metering::exact::Exact;
pub(super) use crate::wire::numbers::thousands;
use crate::wire::words::unseen;

/// What everything is made for.
pub(super) const WIDTH: usize = 80;

/// Whether what is shown may have colours or move the cursor: only at a terminal that knows how, and if nobody minds
/// (https://no-color.org).
pub(super) fn colours(terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Folds at blanks; all lines but the first begin with so many of them. What has no blanks stays in one piece.
pub(super) fn fold(text: &str, indent: usize) -> String {
    let text = &*shown(text);
    let mut folded = String::new();
    let mut column = 0;
    // What a line begins with stays as it is.
    let start = text.len() - text.trim_start_matches(' ').len();
    for (index, word) in text[start..].split(' ').enumerate() {
        let length = width(word);
        if index == 0 {
            folded.push_str(&text[..start]);
            column = start;
        } else if column + 1 + length > WIDTH && column > indent {
            folded.push('\n');
            folded.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            folded.push(' ');
            column += 1;
        }
        folded.push_str(word);
        column += length;
    }
    folded
}

/// Text of others without what would drive the terminal: controls, and marks that turn the direction of writing, are spelt
/// out. Line breaks stay.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    let is_odd = |c: char| unseen(c) && c != '\n';
    if !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_odd(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A name that others chose, on one line: in quotes where blanks or what can't be seen belong to it.
pub(super) fn name(text: &str) -> Cow<'_, str> {
    let is_odd = |c: char| unseen(c) || c.is_whitespace();
    if text.is_empty() || !text.contains(is_odd) {
        return Cow::Borrowed(text);
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        if c == ' ' || !(is_odd(c) || c == '"') { out.push(c) } else { out.extend(c.escape_default()) }
    }
    out.push('"');
    Cow::Owned(out)
}

/// Folds each of several lines.
pub(super) fn fold_all(text: &str, indent: usize) -> String {
    text.split('\n').map(|line| fold(line, indent)).collect::<Vec<_>>().join("\n")
}

/// How many columns a text takes: some characters take two.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// With blanks up to so many columns.
pub(super) fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// A name in at most so many columns: its middle is left out, because names differ at their ends.
pub(super) fn shorten(name: &str, most: usize) -> String {
    if width(name) <= most {
        return name.to_owned();
    }
    let kept = most.saturating_sub(1);
    let (head, tail) = (kept - kept / 2, kept / 2);
    let head = fitting(name.chars(), head);
    let tail: String = fitting(name.chars().rev(), tail).chars().rev().collect();
    format!("{head}…{tail}")
}

/// As many of these characters as fit into so many columns.
fn fitting(characters: impl Iterator<Item = char>, most: usize) -> String {
    let mut taken = 0;
    let fits = characters.take_while(|c| {
        taken += c.width().unwrap_or(0);
        taken <= most
    });
    fits.collect()
}

/// A sentence in at most so many characters.
pub(super) fn cut(words: &str, most: usize) -> String {
    match words.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", words[..end].trim_end()),
        None => words.to_owned(),
    }
}

/// `12:03Z` of today, `2026-11-09 12:03Z` of another day.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> String {
    let (at, now) = (at.to_zoned(TimeZone::UTC), now.to_zoned(TimeZone::UTC));
    let time = format!("{:02}:{:02}Z", at.hour(), at.minute());
    if at.date() == now.date() { time } else { format!("{} {time}", at.date()) }
}

/// The same, with seconds where it is so near that they matter.
pub(super) fn soon(at: Timestamp, now: Timestamp) -> String {
    let near = at.duration_since(now).abs() < SignedDuration::from_mins(2);
    match near.then(|| seconds(at)) {
        Some(text) => text.split_once(' ').map_or(text.clone(), |(_, time)| time.to_owned()),
        None => moment(at, now),
    }
}

/// A time in the largest units that tell it: `45 s`, `12 min`, `26 h`, `3 days`.
pub(super) fn span(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `2026-11-09 12:03:05Z`
pub(super) fn seconds(at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::UTC);
    format!("{} {:02}:{:02}:{:02}Z", at.date(), at.hour(), at.minute(), at.second())
}

/// A decimal, rounded where it never ends or is too long to be read.
pub(super) fn number(exact: &Exact) -> String {
    let text = exact.to_string();
    if text.contains('/') || text.len() > 16 { exact.approximate(6) } else { text }
}

/// The same, with the fraction where the decimal is not exact.
pub(super) fn exactly(exact: &Exact) -> String {
    let (short, text) = (number(exact), exact.to_string());
    if short == text { short } else { format!("{short} (exactly {text})") }
}

/// What somebody may have meant, of what there is: a third of it may be otherwise.
pub(super) fn nearest<'a>(wanted: &str, there: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = (wanted.chars().count() / 3).max(1);
    let by_distance =
        there.map(|one| (strsim::damerau_levenshtein(&wanted.to_lowercase(), &one.to_lowercase()), one));
    by_distance.filter(|(distance, _)| *distance <= far).min().map(|(_, one)| one)
}

/// A resource for people: its name, and if it has none its UUID.
pub(super) fn name_or(name: &str, uuid: uuid::Uuid) -> String {
    if name.is_empty() { uuid.to_string() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folded_at_blanks() {
        let text = format!("  {} ends", "word ".repeat(15).trim_end());
        assert_eq!(fold(&text, 4), format!("  {}\n    ends", "word ".repeat(15).trim_end()));
        let long = "x".repeat(90);
        assert_eq!(fold(&format!("see {long} there"), 2), format!("see\n  {long}\n  there"));
        assert_eq!(fold("", 2), "");
    }

    #[test]
    fn what_others_wrote_does_not_drive_the_terminal() {
        assert_eq!(shown("plain é 計\nnext"), "plain é 計\nnext");
        assert_eq!(
            shown("a\u{1b}[31mb\u{9b}c\rd\te\u{202e}f\u{7}"),
            r"a\u{1b}[31mb\u{9b}c\rd\te\u{202e}f\u{7}"
        );
        assert_eq!(fold("  x\u{1b}[2J", 2), r"  x\u{1b}[2J");
        assert_eq!([name("proj-é"), name("")], ["proj-é", ""]);
        assert_eq!(name(" proj a "), "\" proj a \"");
        assert_eq!(name("pro\u{1b}j\n\"x\""), r#""pro\u{1b}j\n\"x\"""#);
        assert_eq!(name("a\u{a0}b\u{200b}"), r#""a\u{a0}b\u{200b}""#);
    }

    #[test]
    fn a_name_is_cut_in_the_middle_and_a_sentence_at_its_end() {
        assert_eq!(shorten("proj-a", 6), "proj-a");
        assert_eq!(shorten("project-of-the-north", 9), "proj…orth");
        // Each of these takes two columns.
        assert_eq!(shorten("計算資源甲", 9), "計算…源甲");
        assert_eq!((width("計算"), pad("計算", 6).as_str()), (4, "計算  "));
        assert_eq!(cut("a b c", 3), "a b…");
        assert_eq!(cut("a b c", 5), "a b c");
    }

    #[test]
    fn numbers_and_instants_are_as_people_read_them() {
        assert_eq!([1, 999, 1000, 1_234_567].map(thousands), ["1", "999", "1,000", "1,234,567"]);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-10T12:00:00Z");
        assert_eq!(moment(at("2026-11-10T04:54:59.9Z"), now), "04:54Z");
        assert_eq!(moment(at("2026-11-09T23:59:00Z"), now), "2026-11-09 23:59Z");
        assert_eq!(seconds(at("2026-11-09T23:59:01.5Z")), "2026-11-09 23:59:01Z");
        assert_eq!(soon(at("2026-11-10T12:00:07.5Z"), now), "12:00:07Z");
        assert_eq!(soon(at("2026-11-10T12:10:07Z"), now), "12:10Z");
        assert_eq!(
            [45, 119, 120, 7_199, 7_200, 93_600, 400_000].map(span),
            ["45 s", "119 s", "2 min", "119 min", "2 h", "26 h", "4 days"]
        );
        let of = |text: &str| text.parse::<Exact>().unwrap();
        assert_eq!(exactly(&of("55/36")), "1.527778 (exactly 55/36)");
        assert_eq!(exactly(&of("1.5")), "1.5");
        assert_eq!(number(&of("1/3")), "0.333333");
    }
}
