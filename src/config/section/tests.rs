//! How a file is read: values as they are written, and each mistake once, with its line and what to write instead.

use super::super::yaml::text_of;
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

/// Taken for absent, an empty `factor` would be 1, and an empty `schedule` no collector.
#[test]
fn an_empty_value_is_a_mistake_and_an_empty_heading_of_the_file_is_none() {
    for empty in ["", " ~", " null"] {
        let text = format!("submit:\ncollector:\n  factor:{empty}\n  only_if:{empty}\n  items:{empty}\n");
        let (mut root, problems) = Section::parse(&text);
        assert!(root.section("submit").is_some());
        let mut collector = root.section("collector").unwrap();
        assert_eq!(collector.text("factor"), None);
        assert!(collector.section("only_if").is_none());
        assert_eq!(collector.texts("items"), None);
        collector.finish();
        let is_empty = "is empty: give it a value, or take the line away";
        assert_eq!(
            lines(&problems),
            [
                format!("line 3: collector.factor: {is_empty}"),
                format!("line 4: collector.only_if: {is_empty}"),
                format!("line 5: collector.items: {is_empty}"),
            ]
        );
    }
}

#[test]
fn a_number_with_more_digits_than_binary_keeps_is_taken_as_it_is_written() {
    let (mut root, problems) = Section::parse("a: 0.25\nb: 0.12345678901234567\nc: '0.12345678901234567'\n");
    assert_eq!(root.text("a").as_deref(), Some("0.25"));
    assert_eq!(root.text("b").as_deref(), Some("0.12345678901234567"));
    assert_eq!(root.text("c").as_deref(), Some("0.12345678901234567"));
    assert_eq!(lines(&problems), [""; 0]);
}

#[test]
fn broken_yaml_is_one_problem_with_its_line() {
    let (_, problems) = Section::parse("a: [1, 2\nb: }\n");
    assert_eq!(problems.list().len(), 1);
    assert_eq!(problems.list()[0].line, Some(2));
}

/// What YAML takes for a number, a flag or nothing, and what a person meant.
#[test]
fn a_value_is_what_is_written() {
    for written in [
        "1030e0",
        "1.10",
        "0x1F",
        "0o17",
        "0b11",
        "+5",
        ".5",
        "-0",
        "007",
        "1_000",
        "1e400",
        "12e3",
        "no",
        "yes",
        "on",
        "true",
        "True",
        "FALSE",
        ".inf",
        ".nan",
        "-.INF",
        "12:30:00",
        "2026-11-05",
        "1.0",
        "1.",
        "0123456789",
        "91234567890123456789012345678e12",
        "18446744073709551615",
        "5e2f00004000800000000000000000e3",
    ] {
        let text = format!(
            "a: {written}\nb: [x, {written}, '{written}']\nc: {{ d: {written} }}\ne: &x {written}\nf: *x\n"
        );
        let (mut root, problems) = Section::parse(&text);
        assert_eq!(root.text("a").as_deref(), Some(written));
        assert_eq!(root.texts("b").unwrap(), ["x", written, written]);
        assert_eq!(root.texts("a").unwrap(), [written]);
        assert_eq!(root.named_texts("c"), [("d".to_owned(), written.to_owned())]);
        assert_eq!((root.text("e").as_deref(), root.text("f").as_deref()), (Some(written), Some(written)));
        assert_eq!(lines(&problems), [""; 0], "{written}");
    }
    for (value, message) in [
        ("[a, null]", "line 1: a: is empty: YAML takes `null` and `~` for nothing; a name must be in quotes"),
        ("[~]", "line 1: a: is empty: YAML takes `null` and `~` for nothing; a name must be in quotes"),
        ("{user}", "line 1: a: must be in quotes: \"{user}\""),
        ("[{user}]", "line 1: a: must be in quotes: \"{user}\""),
        ("!x y", "line 1: a: must be a plain value, without a `!tag`"),
        ("{ b: c }", "line 1: a: must be a list of single values, not a mapping"),
        ("[[b]]", "line 1: a: must be a single value, not a list or a mapping"),
    ] {
        let (mut root, problems) = Section::parse(&format!("a: {value}\n"));
        assert_eq!(root.texts("a"), None);
        assert_eq!(lines(&problems), [message]);
    }
    // Under a key that is a number, it is not known how a number is written.
    let (mut root, problems) = Section::parse("0x1F: { b: 1.10 }\n");
    assert_eq!(root.named_sections("x").len(), 0);
    let mut inner = root.section("31");
    assert!(inner.as_mut().is_none_or(|inner| inner.text("b").is_none()));
    assert!(lines(&problems).len() <= 1);
}

#[test]
fn merge_keys_are_told_once_and_taken_out() {
    let text = "x: &x { a: 1 }\nwaldur:\n  <<: *x\n  url: y\n";
    let (mut root, problems) = Section::parse(text);
    let mut waldur = root.section("waldur").unwrap();
    assert_eq!(waldur.text("url").as_deref(), Some("y"));
    waldur.finish();
    assert_eq!(
        lines(&problems),
        ["line 3: waldur.<<: `<<` (merge keys) is not read: write the keys out where they belong"]
    );
}

/// The problems of a file, each with its line.
fn broken(text: &str) -> Vec<String> {
    let (root, problems) = Section::parse(text);
    assert!(root.is_broken());
    problems.list().iter().map(Problem::to_string).collect()
}

#[test]
fn the_usual_mistakes_are_told_with_what_to_write() {
    let star = "a value that begins with `*` must be in quotes: \"*/5 * * * *\"";
    for (text, told) in [
        ("a: 1\nb: 2\na: 3\n", "line 3: `a` is written twice in one mapping: keep one of them"),
        ("x:\n  b: 2\n  b: 3\n", "line 3: `b` is written twice in one mapping: keep one of them"),
        ("a:\n\tb: 1\n", "line 2: a tab before the first word: YAML wants blanks there"),
        ("a:\n  b: 1\n\tc: 2\n", "line 3: a tab before the first word: YAML wants blanks there"),
        ("a: 1\nschedule: */5 * * * *\n", &format!("line 2: {star}")),
        ("a: { schedule: */5 * * * *}\n", &format!("line 1: {star}")),
        ("a:\n  - */5 * * * *\n", &format!("line 2: {star}")),
        ("schedule: @hourly\n", "line 1: a value that begins with `@` must be in quotes: \"@hourly\""),
        ("a: %x\n", "line 1: a value that begins with `%` must be in quotes: \"%x\""),
        ("slices: [*.slice]\n", "line 1: a value that begins with `*` must be in quotes: \"*.slice\""),
        (
            "a: 1\noffering: 12345678901234567890123456789012\n",
            "line 2: `12345678901234567890123456789012` is too long for a number: put it in quotes",
        ),
        ("a: 1\n---\nb: 2\n", "`---` begins a second document: write one file for each agent"),
    ] {
        assert_eq!(broken(text), [told], "{text}");
    }
    assert!(broken("a: [1, 2\nb: }\n")[0].starts_with("line 2: not valid YAML: "));
    assert_eq!(broken("- a\n"), ["the file must be a mapping of keys, such as `waldur:` and `collectors:`"]);
}

#[test]
fn typographic_quotes_and_decimal_commas_are_told_with_what_to_write() {
    let problems = |text: &str| {
        let (mut root, problems) = Section::parse(text);
        let _ = (root.text("a"), root.texts("b"), root.text("factor"));
        root.finish();
        problems.list().iter().map(Problem::to_string).collect::<Vec<_>>()
    };
    let quotes = |path: &str, meant: &str| {
        format!(
            "line 1: {path}: stands in typographic quotes, which YAML takes for a part of the text: write \"{meant}\""
        )
    };
    assert_eq!(problems("a: “{user}”\n"), [quotes("a", "{user}")]);
    assert_eq!(problems("a: ‘x y’\n"), [quotes("a", "x y")]);
    assert_eq!(problems("b: [x, „y“]\n"), [quotes("b", "y")]);
    // A word in them is a part of the text.
    assert_eq!(problems("a: the “big” one\n"), Vec::<String>::new());
    assert_eq!(
        problems("{ a: x, factor: 1,5 }\n"),
        ["line 1: 5: `factor: 1,5` is read as two keys, `factor: 1` and `5`: a decimal has a point, `1.5`"]
    );
}

#[test]
fn other_encodings_are_told_by_their_names() {
    assert_eq!(text_of(b"a: 1\n".to_vec()).unwrap(), "a: 1\n");
    for bytes in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a", b"a\0:\0", b"\0a\0:"] {
        assert_eq!(text_of(bytes.to_vec()).unwrap_err(), "is UTF-16: save it as UTF-8");
    }
    assert_eq!(
        text_of(b"a: 1\nb: J\xf6rg\n".to_vec()).unwrap_err(),
        "line 2 has a character that is not UTF-8 (is it Latin-1?): save it as UTF-8"
    );
    let (mut root, problems) = Section::parse("\u{feff}a: 1\n");
    assert_eq!((root.text("a").as_deref(), problems.list().len()), (Some("1"), 0));
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(text in r"([a-c]: |[*@&!%{}\[\],'#-]|[0-9]{1,40}|[\t \n]|---|<<: |\PC)*") {
        let (mut root, _) = Section::parse(&text);
        let _ = (root.text("a"), root.texts("b"), root.named_texts("c"), root.flag("a"));
        let _ = text_of(text.into_bytes());
    }
}
