//! The keys of a prometheus collector. What it does with servers: tests/collectors_metrics.rs, and with a real one:
//! tests/collectors_prometheus.rs.

use super::*;

fn problems(text: &str) -> Vec<String> {
    let (mut section, problems) = Section::parse(text);
    build(&mut section);
    section.finish();
    problems.list().iter().map(ToString::to_string).collect()
}

#[test]
fn mistakes_are_told_all_at_once() {
    let text = "url: prometheus\noverlap: 5\nqueries:\n  a: { query: 'rate(x[5m])', kind: counter }\n  b: { query: x }\nquery: x\n";
    let told = problems(text);
    let lines: Vec<_> = told.iter().map(|line| line.split("; ").next().unwrap()).collect();
    assert_eq!(lines[0], "line 1: url: not an address (relative URL without a base)");
    assert_eq!(lines[1], "line 2: overlap: `5` needs a unit: 5s for seconds, 5m for minutes");
    assert!(lines[2].starts_with("line 4: queries.a.query: `rate` is an estimate"), "{told:?}");
    assert!(lines[3].starts_with("line 5: queries.b: `kind` is missing"), "{told:?}");
    assert_eq!(told[4], "line 6: query: unknown key `query`; did you mean `queries`?");
    assert!(problems("url: http://localhost:9090")[0].starts_with("`queries` is missing"));
}

#[test]
fn the_names_of_queries_are_those_of_the_readings() {
    let text = "url: http://localhost:9090\nqueries:\n  a: { query: x, kind: counter }\n  b: { query: y, kind: gauge, step: 1h }\n";
    let (mut section, _) = Section::parse(text);
    let collector = build(&mut section).unwrap();
    assert_eq!(collector.named(), [("a", Kind::Counter), ("b", Kind::Gauge)]);
    assert_eq!(collector.distance(), Some(SignedDuration::from_hours(1)));
}
