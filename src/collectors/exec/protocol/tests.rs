//! Lines as programs print them, good and bad.

use proptest::prelude::*;

use super::*;

const NOW: &str = "2026-11-05T10:00:00Z";

fn read_text(text: impl AsRef<[u8]>) -> Batch {
    let mut batch = Batch::default();
    read(text.as_ref(), NOW.parse().unwrap(), &mut batch);
    batch
}

fn one(text: &str) -> Reading {
    let mut batch = read_text(text);
    assert_eq!(batch.quarantined, vec![], "{text}");
    assert_eq!(batch.readings.len(), 1, "{text}");
    batch.readings.remove(0)
}

fn refused(text: &str) -> String {
    let mut batch = read_text(text);
    assert_eq!(batch.readings, vec![], "{text}");
    assert_eq!(batch.quarantined.len(), 1, "{text}");
    batch.quarantined.remove(0).reason
}

#[test]
fn the_least_line_is_a_reading_of_now() {
    let reading = one(r#"{"name":"seats","kind":"gauge","value":"12"}"#);
    assert_eq!(reading, Reading::new("seats", Kind::Gauge, Decimal::from(12), NOW.parse().unwrap()));
}

#[test]
fn every_key_is_taken() {
    let reading = one(
        r#" {"name":"cpu_seconds","kind":"delta","value":3600.50,"unit":"s","start":"2026-11-05T11:00:00+02:00",
"end":1793872800,"labels":{"project":"p1","user":"ö","node":7,"gpu":true,"load":1.50},"id":421,"epoch":"boot-1",
"began":"1793872799.25"}"#
            .replace('\n', "")
            .as_str(),
    );
    assert_eq!(reading.value.to_string(), "3600.5");
    assert_eq!(reading.unit.as_deref(), Some("s"));
    let (start, end) = ("2026-11-05T09:00:00Z", "2026-11-05T10:00:00Z");
    assert_eq!(reading.span, Span::Interval { start: start.parse().unwrap(), end: end.parse().unwrap() });
    let labels: Vec<String> = reading.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(labels, ["gpu=true", "load=1.50", "node=7", "project=p1", "user=ö"]);
    assert_eq!(reading.id.as_deref(), Some("421"));
    assert_eq!(reading.epoch.id.as_deref(), Some("boot-1"));
    assert_eq!(reading.epoch.began, Some("2026-11-05T09:59:59.25Z".parse().unwrap()));
}

#[test]
fn a_number_keeps_every_digit_that_is_printed() {
    for (printed, value) in [
        ("0.1", "0.1"),
        ("9007199254740993", "9007199254740993"),
        ("1234567890123456.123456789012", "1234567890123456.123456789012"),
        ("1.5e3", "1500"),
        ("25E-2", "0.25"),
        ("\"0.30\"", "0.30"),
    ] {
        let reading = one(&format!(r#"{{"name":"a","kind":"counter","value":{printed}}}"#));
        assert_eq!(reading.value, value.parse::<Decimal>().unwrap(), "{printed}");
    }
}

#[test]
fn one_bad_line_stops_only_itself() {
    let text = b"# a comment\n\n{\"name\":\"a\",\"kind\":\"gauge\",\"value\":1}\r\nnonsense\n\xff\xfe\n\
        {\"name\":\"b\",\"kind\":\"counter\",\"value\":-1}\n   \n{\"name\":\"c\",\"kind\":\"gauge\",\"value\":2}";
    let batch = read_text(text);
    let names: Vec<&str> = batch.readings.iter().map(|reading| reading.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    let told: Vec<(&str, &str)> =
        batch.quarantined.iter().map(|bad| (bad.what.as_str(), bad.reason.as_str())).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0].0, "nonsense");
    assert!(told[0].1.starts_with("line 4: it is not one JSON object: expected ident"), "{told:?}");
    assert!(told[1].1.starts_with("line 5: it is not UTF-8: "), "{told:?}");
    assert_eq!(told[2].1, "line 6: a counter can't be negative (-1)");
}

#[test]
fn what_is_wrong_is_told_in_words() {
    for (line, reason) in [
        (r#"{"nam":"a","kind":"gauge","value":1}"#, "unknown key `nam`; did you mean `name`?"),
        (
            r#"{"name":"a","kind":"gauge","value":1,"lables":{}}"#,
            "unknown key `lables`; did you mean `labels`?",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1,"project":"p"}"#,
            "unknown key `project`; known: name, kind,",
        ),
        (r#"{"kind":"gauge","value":1}"#, "`name` is missing"),
        (r#"{"name":"","kind":"gauge","value":1}"#, "it has no name"),
        (r#"{"name":"a","value":1}"#, "`kind` is missing: counter, gauge, delta or total"),
        (
            r#"{"name":"a","kind":"gage","value":1}"#,
            "`kind`: `gage` is no kind; known: counter, gauge, delta, total",
        ),
        (r#"{"name":"a","kind":"gauge"}"#, "`value` is missing"),
        (r#"{"name":"a","kind":"gauge","value":null}"#, "`value` is missing"),
        (r#"{"name":"a","kind":"gauge","value":"1/2"}"#, "`value`: `1/2` is not a decimal number"),
        (r#"{"name":"a","kind":"gauge","value":"NaN"}"#, "`value`: `NaN` is not a decimal number"),
        (
            r#"{"name":"a","kind":"gauge","value":true}"#,
            "`value`: must be a number, or a string that holds one",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":0.1234567890123}"#,
            "0.1234567890123 has more than 12 digits after",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1e400}"#,
            "`value`: `1e400` has more digits than can be kept exactly",
        ),
        (r#"{"name":7,"kind":"gauge","value":1}"#, "`name`: must be a string"),
        (r#"{"name":"a","kind":"gauge","value":1,"at":"yesterday"}"#, "`at`: `yesterday` is no time such as"),
        (
            r#"{"name":"a","kind":"gauge","value":1,"at":"2026-11-05T10:00:00"}"#,
            "`at`: `2026-11-05T10:00:00` is no",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1,"at":1793872800000}"#,
            "`at`: `1793872800000` seconds since 1970 is",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1,"at":1.0123456789}"#,
            "`at`: `1.0123456789` is finer than a nano",
        ),
        (r#"{"name":"a","kind":"delta","value":1,"start":1}"#, "an interval needs both `start` and `end`"),
        (
            r#"{"name":"a","kind":"delta","value":1,"start":1,"at":2}"#,
            "it has both `at` and `start` or `end`",
        ),
        (
            r#"{"name":"a","kind":"delta","value":1,"start":1793872802,"end":1793872801}"#,
            "it ends at 2026-11-05T10:00:01Z, before it",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1,"start":1793872801,"end":1793872802}"#,
            "a gauge is read at an instant",
        ),
        (r#"{"name":"a","kind":"gauge","value":1,"labels":["x"]}"#, "`labels`: must be an object: "),
        (
            r#"{"name":"a","kind":"gauge","value":1,"labels":{"x":{}}}"#,
            "`labels`: `x` must be a string, a number,",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1,"labels":{"x":null}}"#,
            "`labels`: `x` must be a string, a number",
        ),
        (
            r#"{"name":"a","kind":"gauge","value":1,"value":2}"#,
            "it is not one JSON object: key `value` is there twice",
        ),
        (r#"{"name":"a","kind":"gauge","value":1} {}"#, "it is not one JSON object: trailing characters"),
        (r#"[{"name":"a","kind":"gauge","value":1}]"#, "it is not one JSON object: invalid type: sequence"),
        (r#"{"checkpoint":7}"#, "`checkpoint`: must be a string"),
        (r#"{"checkpoint":"x","name":"a"}"#, "a `checkpoint` stands in a line of its own"),
        (r#"{"checkpoint":"a\u0000b"}"#, "`checkpoint`: contains a NUL character"),
    ] {
        let told = refused(line);
        assert!(told.starts_with(&format!("line 1: {reason}")), "{line}\n  {told}");
    }
}

#[test]
fn times_are_read_exactly_and_kept_to_the_microsecond() {
    for (at, instant) in [
        ("1793872800", "2026-11-05T10:00:00Z"),
        ("\"1793872800.5\"", "2026-11-05T10:00:00.5Z"),
        ("1793872800.123456789", "2026-11-05T10:00:00.123456Z"),
        ("\"2026-11-05T12:00:00+02:00\"", "2026-11-05T10:00:00Z"),
        ("null", NOW),
    ] {
        let reading = one(&format!(r#"{{"name":"a","kind":"gauge","value":1,"at":{at}}}"#));
        assert_eq!(reading.span, Span::At(instant.parse().unwrap()), "{at}");
    }
}

/// A bad line withholds only what it could have been about.
#[test]
fn a_bad_line_bears_on_as_little_as_it_tells() {
    let alice = Labels::from([("user".to_owned(), "alice".to_owned())]);
    for (line, bears_on) in [
        ("nonsense", Bearing::All),
        (r#"{"name":"a","name":"b"}"#, Bearing::All),
        (r#"{"kind":"gauge","value":1}"#, Bearing::All),
        (r#"{"name":"a","kind":"gage","labels":{"user":"alice"}}"#, Bearing::series("a", &alice)),
        (r#"{"value":"x","labels":{"user":"alice"},"name":"a"}"#, Bearing::series("a", &alice)),
        (r#"{"name":"a","kind":"gauge","value":1,"labels":{"user":{}}}"#, Bearing::readings(["a"])),
        (r#"{"name":"a","kind":"gauge","value":1,"labels":["user"]}"#, Bearing::readings(["a"])),
        // A line of nobody keeps nobody's usage alive.
        (
            r#"{"name":"a","kind":"gauge","value":1,"labels":{"user":null}}"#,
            Bearing::series("a", &Labels::from([("user".to_owned(), String::new())])),
        ),
        (r#"{"name":"a","kind":"gauge","value":1,"lables":{"user":"alice"}}"#, Bearing::readings(["a"])),
        (r#"{"checkpoint":7}"#, Bearing::nothing()),
    ] {
        let batch = read_text(line);
        assert_eq!(batch.quarantined.len(), 1, "{line}");
        assert_eq!(batch.quarantined[0].bears_on, bears_on, "{line}");
    }
    // And many of them no more than all together.
    let mut lines = r#"{"name":"a","kind":"gauge","labels":{"user":"alice"}}"#.to_owned() + "\n";
    lines = lines.repeat(1_000);
    lines += r#"{"name":"b","kind":"gauge","labels":{"user":"bob"}}"#;
    let batch = read_text(&lines);
    let bob = Labels::from([("user".to_owned(), "bob".to_owned())]);
    assert_eq!(batch.quarantined[1_000].bears_on, Bearing::series("b", &bob));
    let garbage = read_text(format!("{lines}\nnonsense"));
    assert_eq!(garbage.quarantined[1_000].bears_on, Bearing::All);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    one("\u{feff}{\"name\":\"a\",\"kind\":\"gauge\",\"value\":1}");
}

#[test]
fn the_last_checkpoint_is_kept() {
    let batch = read_text("{\"checkpoint\":\"one\"}\n{\"checkpoint\":\"two ö\"}\n");
    assert_eq!(batch.checkpoint.as_deref(), Some("two ö"));
    assert_eq!((batch.readings, batch.quarantined), (vec![], vec![]));
}

#[test]
fn lines_may_be_long_but_not_endless() {
    let line = |length: usize| {
        let head = r#"{"name":"a","kind":"gauge","value":1}"#;
        format!("{head}{}", " ".repeat(length - head.len()))
    };
    one(&line(MAX_LINE));
    assert_eq!(refused(&line(MAX_LINE + 1)), "line 1: it has more than 65536 bytes");
    let digits = "1".repeat(10_000);
    let told = refused(&format!(r#"{{"name":"a","kind":"gauge","value":{digits}}}"#));
    assert!(told.len() < 500, "{told}");
}

#[test]
fn endless_nonsense_is_counted_but_not_kept() {
    let batch = read_text("x\n".repeat(1_500));
    assert_eq!(batch.quarantined.len(), 1_001);
    assert_eq!(batch.quarantined[999].reason.split(':').next(), Some("line 1000"));
    assert_eq!(batch.quarantined[1_000].reason, "and 500 more");
}

#[test]
fn the_published_schema_knows_the_same_keys() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/collectors/exec.schema.json");
    let schema: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut known: Vec<&str> = Vec::new();
    for one in schema["oneOf"].as_array().unwrap() {
        assert_eq!(one["additionalProperties"], false);
        known.extend(one["properties"].as_object().unwrap().keys().map(String::as_str));
    }
    known.sort_unstable();
    let mut keys = KEYS.to_vec();
    keys.sort_unstable();
    assert_eq!(known, keys);
    assert_eq!(schema["oneOf"][0]["required"], serde_json::json!(["name", "kind", "value"]));
    let kinds = &schema["oneOf"][0]["properties"]["kind"]["enum"];
    assert_eq!(*kinds, serde_json::json!(["counter", "gauge", "delta", "total"]));
    assert_eq!(schema["oneOf"][1]["properties"]["checkpoint"]["maxLength"], MAX_CHECKPOINT);
}

proptest! {
    #[test]
    fn no_output_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_text(bytes);
    }

    #[test]
    fn no_json_makes_it_panic_and_every_line_is_either_a_reading_or_told(
        key in prop::sample::select(&KEYS[..11]),
        value in r#"(-?[0-9]{0,30}(\.[0-9]{0,20})?(e-?[0-9]{0,4})?|"[^"\\\n]{0,20}"|null|true|\[1\]|\{"a":1\})"#,
    ) {
        let line = format!(r#"{{"name":"a","kind":"total","value":1,"{key}":{value}}}"#);
        let line = if ["name", "kind", "value"].contains(&key) { format!(r#"{{"{key}":{value}}}"#) } else { line };
        let batch = read_text(&line);
        prop_assert_eq!(batch.readings.len() + batch.quarantined.len(), 1);
    }
}
