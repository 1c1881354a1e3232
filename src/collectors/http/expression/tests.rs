//! Every digit survives, and whatever would round says so.

use proptest::prelude::*;

use super::*;

fn document(json: &str) -> (Document, Scope) {
    let document = Document::parse(json.as_bytes()).unwrap();
    let scope = Scope::default().with("answer", document.root());
    (document, scope)
}

fn value(json: &str, expr: &str) -> Result<Value, String> {
    let (document, scope) = document(json);
    document.value(&Expr::parse(expr).unwrap(), &scope)
}

fn number(text: &str) -> Result<Value, String> {
    Ok(Value::Number(text.to_owned()))
}

/// Each of these goes through a float with another result, or is written otherwise by one.
#[test]
fn a_number_is_as_the_answer_wrote_it() {
    for text in [
        "0.1",
        "0.10",
        "1.0",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "123456789012345678901234567890",
        "-9223372036854775808",
        "-9223372036854775809",
        "0.123456789012345678",
        "1234567890.123456789012345678",
        "1e3",
        "1E-12",
        "-0",
        "0",
        "0.30000000000000004",
    ] {
        let json = format!(r#"{{"rows":[{{"a":{text},"b":"x"}},{{"a":1,"b":"y"}}]}}"#);
        for expr in [
            "answer.rows[0].a",
            "answer.rows[?b=='x'] | [0].a",
            "answer.rows[*].a | [0]",
            "answer.rows[0].{c: a}.c",
            "answer.rows[0].[b, a][1]",
            "not_null(answer.nothing, answer.rows[0].a)",
            "items(answer.rows[0])[0][1]",
            "reverse(answer.rows)[1].a",
            "map(&a, answer.rows)[0]",
            "sort_by(answer.rows, &b)[0].a",
            "values(answer.rows[0])[0]",
        ] {
            assert_eq!(value(&json, expr), number(text), "{expr}");
        }
    }
}

#[test]
fn what_would_round_is_refused() {
    let json = r#"{"a":[0.1,0.2],"b":0.30000000000000004}"#;
    for name in ROUNDING {
        let argument = if ["sum", "avg"].contains(&name) { "answer.a" } else { "answer.b" };
        let said = value(json, &format!("{name}({argument})")).unwrap_err();
        assert!(said.contains(&format!("`{name}` would round: let the meter compute")), "{said}");
    }
    let said = value(json, "to_string(answer.b)").unwrap_err();
    assert!(said.contains("`to_string` of a fraction would round"), "{said}");
    assert_eq!(value(json, "to_string(length(answer.a))"), Ok(Value::Text("2".to_owned())));
    // A number of the expression itself has no text in the answer.
    let said = value(json, "`0.5`").unwrap_err();
    assert_eq!(said, "``0.5`` yields 0.5, which is not in the answer as it is");
    assert_eq!(value(json, "`5`"), number("5"));
    // The extremes are parts of the answer.
    assert_eq!(value(json, "max(answer.a)"), number("0.2"));
}

#[test]
fn what_is_no_number_is_told_apart() {
    let json = r#"{"t":"0.1","f":true,"n":null,"l":[],"o":{},"u":"gr\u00fcn"}"#;
    assert_eq!(value(json, "answer.t"), Ok(Value::Text("0.1".to_owned())));
    assert_eq!(value(json, "answer.f"), Ok(Value::Flag(true)));
    assert_eq!(value(json, "answer.n"), Ok(Value::Nothing));
    assert_eq!(value(json, "answer.missing.far"), Ok(Value::Nothing));
    assert_eq!(value(json, "answer.l"), Ok(Value::Other("a list")));
    assert_eq!(value(json, "answer.o"), Ok(Value::Other("an object")));
    assert_eq!(value(json, "answer.u"), Ok(Value::Text("grün".to_owned())));
    let (document, scope) = document(json);
    let list = |expr| document.list(&Expr::parse(expr).unwrap(), &scope).map(|items| items.len());
    assert_eq!(list("answer.l"), Ok(0));
    let said = "`answer.missing` yields nothing where a list was expected".to_owned();
    assert_eq!(list("answer.missing"), Err(said));
    let said = "`answer.t` yields a value (string) where a list was expected".to_owned();
    assert_eq!(list("answer.t"), Err(said));
}

#[test]
fn mistakes_are_told_with_their_place() {
    let said = Expr::parse("answer.rows[").unwrap_err();
    assert!(said.starts_with("`answer.rows[` at character 13: "), "{said}");
    let said = value("{}", "nonsense(answer)").unwrap_err();
    assert!(said.contains("nonsense"), "{said}");
}

/// Whatever stands in an answer beside what is read stops nobody's bill; to read it is an error, and never nothing or zero.
#[test]
fn what_no_expression_reads_may_be_as_odd_as_it_likes() {
    let deep = format!(r#"{{"n":1,"odd":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    for json in [
        r#"{"n":1,"odd":"x\ud83d"}"#,
        r#"{"n":1,"\udc00":2}"#,
        r#"{"n":1,"odd":1e400}"#,
        r#"{"n":1,"odd":-1e999999}"#,
        r#"{"n":1,"odd":{"a":1,"a":2}}"#,
        r#"{"n":1,"odd":1,"odd":2}"#,
        r#"{"odd":[0.1,0.2],"odd":3,"more":[0.3,7,8,9],"n":1}"#,
        &deep,
    ] {
        assert_eq!(value(json, "answer.n"), number("1"), "{json}");
    }
    let document = Document::parse(b"{\"n\":1,\"odd\":\"\xff\xfe\"}").unwrap();
    let scope = Scope::default().with("answer", document.root());
    assert_eq!(document.value(&Expr::parse("answer.n").unwrap(), &scope), number("1"));

    for expr in ["answer.a", "not_null(answer.a, `0`)", "answer.b.a"] {
        let said = value(r#"{"a":0.1,"a":0.1,"b":{"a":7,"a":8}}"#, expr).unwrap_err();
        assert_eq!(said, format!("`{expr}` yields what can't be read: key `a` is there twice"));
    }
    assert_eq!(value(r#"{"a":1e400}"#, "answer.a"), number("1e400"));
    // A whole emoji and an escaped backslash are what they are, and so is the mark that others leave for what they lost.
    for (json, text) in [
        (r#""\ud83d\ude00""#, "\u{1f600}"),
        (r#""\\ud83d""#, r"\ud83d"),
        (r#""x\ufffd""#, "x\u{fffd}"),
        (r#""é\\""#, "é\\"),
    ] {
        assert_eq!(
            value(&format!(r#"{{"a":{json}}}"#), "answer.a"),
            Ok(Value::Text(text.to_owned())),
            "{json}"
        );
    }
}

/// Two users whose names differ in what is no character must not become one.
#[test]
fn a_text_with_what_is_no_character_is_an_error_to_whoever_reads_it() {
    let refused = |expr: &str| {
        let words = "yields a text with what is no character in it (half a surrogate pair, or bytes that are not UTF-8)";
        Err(format!("`{expr}` {words}"))
    };
    for json in [
        r#""x\ud83d""#,
        r#""\ud83d\ud83d\ude00""#,
        r#""\ud83d\ude00\ude00""#,
        r#""\\\ud83d""#,
        r#""é\ud83dé""#,
    ] {
        let json = format!(r#"{{"a":{json},"b":"c"}}"#);
        for expr in
            ["answer.a", "not_null(answer.a, 'x')", "join('-', [answer.a, answer.b])", "to_string(answer)"]
        {
            assert_eq!(value(&json, expr), refused(expr), "{json}");
        }
        assert_eq!(value(&json, "answer.b"), Ok(Value::Text("c".to_owned())));
    }
    // What stands for something unreadable is not read as a part of a text either.
    let twice = value(r#"{"a":"x","a":"y"}"#, "join('-', [answer.a])");
    assert_eq!(twice, refused("join('-', [answer.a])"));
    let names = value(r#"{"a\udc00":1}"#, "keys(answer)[0]");
    assert_eq!(names, refused("keys(answer)[0]"));
    let document = Document::parse(b"{\"a\":\"al\xffice\"}").unwrap();
    let scope = Scope::default().with("answer", document.root());
    assert_eq!(document.value(&Expr::parse("answer.a").unwrap(), &scope), refused("answer.a"));
}

#[test]
fn an_answer_that_is_broken_or_all_odd_is_refused() {
    for broken in ["", "[1,", "{\"a\":}", "nul", "[1] 2", "{\"a\" 1}"] {
        assert!(Document::parse(broken.as_bytes()).is_err(), "{broken}");
    }
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(Document::parse(deep.as_bytes()).is_ok(), "it has an end");
    assert!(value(&deep, &format!("answer{}", "[0]".repeat(64))).unwrap_err().contains("more than 64 deep"));
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), like in r#"[\[\]{}:,"a0-9.eE\- ]{0,60}"#) {
        for body in [bytes.as_slice(), like.as_bytes()] {
            let Ok(document) = Document::parse(body) else { continue };
            let scope = Scope::default().with("answer", document.root());
            for expr in ["answer", "answer.a", "answer[0]", "items(answer)[0][1]", "answer[?a > `0`].a | [0]"] {
                let expr = Expr::parse(expr).unwrap();
                let _ = (document.value(&expr, &scope), document.list(&expr, &scope));
            }
        }
    }

    /// Every whole number and every decimal comes out as it went in.
    #[test]
    fn any_number_is_as_the_answer_wrote_it(text in "-?(0|[1-9][0-9]{0,27})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?") {
        let body = format!("{{\"a\":[{text}]}}");
        prop_assert_eq!(value(&body, "answer.a[0]"), number(&text));
    }
}
