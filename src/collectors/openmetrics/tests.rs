//! From pages to readings. What servers do wrong: tests/collectors_metrics.rs.

use jiff::Timestamp;

use super::*;
use crate::metering::reading::Reading;

const NOW: &str = "2026-11-10T10:00:00Z";

fn problems(text: &str) -> Vec<String> {
    let (mut section, problems) = Section::parse(text);
    build(&mut section);
    section.finish();
    problems.list().iter().map(ToString::to_string).collect()
}

fn read(keys: &str, page: &str) -> Batch {
    let (mut section, problems) = Section::parse(keys);
    let [metrics, counters, gauges] =
        ["metrics", "counters", "gauges"].map(|key| patterns(&mut section, key).unwrap());
    let epoch = match section.text("epoch").as_deref() {
        None => Start::Created,
        Some("none") => Start::Nowhere,
        Some(name) => Start::Metric(name.to_owned()),
    };
    let timestamps = section.flag("timestamps").unwrap_or(true);
    section.finish();
    assert_eq!(problems.list(), []);
    let format = if page.contains("# EOF") { Format::OpenMetrics } else { Format::Text };
    let wanted = Wanted { metrics, counters, gauges, epoch, timestamps };
    let mut batch = wanted.read(page.as_bytes(), format, NOW.parse().unwrap()).unwrap();
    let _ = batch.finish(NOW.parse().unwrap(), &Default::default());
    batch
}

/// `name{labels} kind value unit at began` of each reading.
fn readings(batch: &Batch) -> Vec<String> {
    let text = |reading: &Reading| {
        let labels: Vec<_> = reading.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let time = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| at.to_string());
        format!(
            "{}{{{}}} {} {} {} {} {}",
            reading.name,
            labels.join(","),
            reading.kind,
            reading.value.normalize(),
            reading.unit.as_deref().unwrap_or("-"),
            time(Some(reading.span.end())),
            time(reading.epoch.began)
        )
    };
    batch.readings.iter().map(text).collect()
}

const APPLICATION: &str = r#"# TYPE app_cpu_seconds counter
# UNIT app_cpu_seconds seconds
app_cpu_seconds_total{user="alice"} 4.20072246e+06
app_cpu_seconds_created{user="alice"} 1605281325.5
app_cpu_seconds_total{user="bob"} 0.1
# TYPE app_sessions gauge
app_sessions 69
# TYPE app_request_bytes histogram
app_request_bytes_bucket{le="100"} 3
app_request_bytes_bucket{le="+Inf"} 4
app_request_bytes_count 4
app_request_bytes_sum 512.5
app_request_bytes_created 1605281000
# TYPE app_build info
app_build_info{version="1"} 1
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1605280000.25
# EOF
"#;

#[test]
fn counters_begin_when_the_page_says_that_they_were_created() {
    let batch = read("metrics: [app_cpu_*, app_sessions, \"app_request_bytes_*\"]", APPLICATION);
    assert_eq!(
        readings(&batch),
        [
            "app_cpu_seconds_total{user=alice} counter 4200722.46 s 2026-11-10T10:00:00Z 2020-11-13T15:28:45.5Z",
            "app_cpu_seconds_created{user=alice} gauge 1605281325.5 s 2026-11-10T10:00:00Z -",
            "app_cpu_seconds_total{user=bob} counter 0.1 s 2026-11-10T10:00:00Z -",
            "app_sessions{} gauge 69 - 2026-11-10T10:00:00Z -",
            "app_request_bytes_bucket{le=100} counter 3 - 2026-11-10T10:00:00Z 2020-11-13T15:23:20Z",
            "app_request_bytes_bucket{le=+Inf} counter 4 - 2026-11-10T10:00:00Z 2020-11-13T15:23:20Z",
            "app_request_bytes_count{} counter 4 - 2026-11-10T10:00:00Z 2020-11-13T15:23:20Z",
            "app_request_bytes_sum{} counter 512.5 B 2026-11-10T10:00:00Z 2020-11-13T15:23:20Z",
            "app_request_bytes_created{} gauge 1605281000 B 2026-11-10T10:00:00Z -",
        ]
    );
    assert!(!batch.lists_everything && batch.problems.is_empty() && batch.notes.is_empty());
}

#[test]
fn or_with_the_process_where_the_operator_says_so() {
    let batch = read("metrics: app_cpu_seconds_total\nepoch: process_start_time_seconds", APPLICATION);
    let began: Vec<_> =
        batch.readings.iter().map(|reading| reading.epoch.began.unwrap().to_string()).collect();
    assert_eq!(began, ["2020-11-13T15:28:45.5Z", "2020-11-13T15:06:40.25Z"]);
    // What was not there before has then begun since.
    assert!(batch.lists_everything);
    let batch = read("metrics: app_cpu_seconds_total\nepoch: none", APPLICATION);
    assert!(batch.readings.iter().all(|reading| reading.epoch.began.is_none()));
    // A start that can't be one is a problem where it was asked for, and no start where it was not.
    let page = "# TYPE a_total counter\na_total 1\na_created 0\nprocess_start_time_seconds 0\n";
    let batch = read("metrics: a_total\nepoch: process_start_time_seconds", page);
    assert_eq!(
        crate::collectors::tests_texts(&batch),
        [
            "`epoch`: the page does not tell one time since 2010 as process_start_time_seconds, so restarts can't be told"
        ]
    );
    assert_eq!(readings(&read("metrics: a_total", page)), ["a_total{} counter 1 - 2026-11-10T10:00:00Z -"]);
}

/// As the Python library writes the text format: the family of a counter is its name with `_total`.
#[test]
fn the_text_format_tells_beginnings_too() {
    let page = "# TYPE a_total counter\na_total{u=\"x\"} 7\n# TYPE a_created gauge\na_created{u=\"x\"} 1.6052813255e+09\n";
    assert_eq!(
        readings(&read("metrics: a_total", page)),
        ["a_total{u=x} counter 7 - 2026-11-10T10:00:00Z 2020-11-13T15:28:45.5Z"]
    );
}

/// Which of two starts is meant can't be known, in whichever order they stand: falls alone tell then, and it is told.
#[test]
fn a_start_that_is_there_twice_is_none() {
    let page = |first: &str, second: &str| {
        format!(
            "# TYPE a counter\na_total{{u=\"x\"}} 7\na_created{{u=\"x\"}} {first}\na_created{{u=\"x\"}} {second}\n\
             a_total{{u=\"y\"}} 8\na_created{{u=\"y\"}} 1605281000\na_created{{u=\"y\"}} 1.605281e+09\nstart 1605280000\n# EOF\n"
        )
    };
    let (one, two) = ("1605281000", "1605281001.5");
    for (first, second) in [(one, two), (two, one)] {
        for epoch in ["", "\nepoch: start"] {
            let batch = read(&format!("metrics: a_total{epoch}"), &page(first, second));
            assert_eq!(
                readings(&batch),
                [
                    "a_total{u=x} counter 7 - 2026-11-10T10:00:00Z -",
                    "a_total{u=y} counter 8 - 2026-11-10T10:00:00Z 2020-11-13T15:23:20Z",
                ]
            );
            assert!(!batch.readings[0].epoch.shared);
            let [bad] = batch.quarantined.as_slice() else { panic!("{batch:?}") };
            assert_eq!(bad.what, "a_created {\"u\": \"x\"}");
            assert!(
                bad.reason.starts_with("line 4: the page tells two times at which this began, "),
                "{bad:?}"
            );
            assert!(bad.bears_on.covers("a_total", &batch.readings[0].labels));
            assert!(!bad.bears_on.covers("a_total", &batch.readings[1].labels));
        }
    }
    // What nobody wants is nobody's concern.
    assert_eq!(read("metrics: b_total", &page(one, two)).quarantined, []);
}

/// Odd ends of a page, as servers write them; and those that are none.
#[test]
fn the_end_of_a_page_is_known_in_all_its_forms() {
    let wanted = |page: &str, format| {
        let patterns = vec![Pattern::new("a").unwrap()];
        let [metrics, counters, gauges] = [patterns, Vec::new(), Vec::new()];
        let wanted = Wanted { metrics, counters, gauges, epoch: Start::Created, timestamps: true };
        wanted.read(page.as_bytes(), format, NOW.parse().unwrap())
    };
    for end in ["# EOF", "# EOF\n", "# EOF\r\n", "# EOF \t\n", "# EOF\n\n", "# EOF\r\n\r\n \n"] {
        for line in ["\n", "\r\n"] {
            let page = format!("# TYPE a gauge{line}a 1{line}{end}");
            let batch = wanted(&page, Format::OpenMetrics).unwrap();
            assert_eq!(
                (readings(&batch), batch.quarantined),
                (vec![format!("a{{}} gauge 1 - {NOW} -")], vec![]),
                "{page:?}"
            );
        }
    }
    for (page, format, why) in [
        (
            "# TYPE a gauge\na 1\n#EOF\n",
            Format::OpenMetrics,
            "the page is cut off: its last line is not `# EOF`",
        ),
        ("# TYPE a gauge\na 1\n# EOF\na 2\n", Format::OpenMetrics, "line 4: there is more after `# EOF`"),
        ("# TYPE a gauge\na 1", Format::Text, "the page is cut off: its last line has no end"),
        (
            "",
            Format::Text,
            "the page is empty, not even a comment stands on it: nothing is concluded from it",
        ),
        (
            "\u{feff}",
            Format::Text,
            "the page is empty, not even a comment stands on it: nothing is concluded from it",
        ),
    ] {
        assert_eq!(wanted(page, format).unwrap_err(), why, "{page:?}");
    }
    // An idle one says so by its comments, or by others' metrics.
    for page in ["# nothing yet\n", "\n", "other 7\n"] {
        assert!(wanted(page, Format::Text).is_ok(), "{page:?}");
    }
}

#[test]
fn what_has_no_type_must_be_stated() {
    let page = "old_hits 12\nold_level 3.5\n# TYPE odd gauge\nodd 9\n";
    let batch = read("metrics: old_*", page);
    assert_eq!(batch.readings, []);
    assert_eq!(
        crate::collectors::tests_texts(&batch),
        [
            "the page does not tell the type of old_hits: list it under `counters` (it only rises, but for restarts) or \
             under `gauges` (a level)",
            "the page does not tell the type of old_level: list it under `counters` (it only rises, but for restarts) or \
             under `gauges` (a level)",
        ]
    );
    let batch = read("counters: [old_hits, odd]\ngauges: [\"*_level\"]", page);
    assert_eq!(
        readings(&batch),
        [
            "old_hits{} counter 12 - 2026-11-10T10:00:00Z -",
            "old_level{} gauge 3.5 - 2026-11-10T10:00:00Z -",
            "odd{} counter 9 - 2026-11-10T10:00:00Z -",
        ]
    );
    assert_eq!(batch.notes, ["odd is a gauge on the page; it is read as a counter, as configured"]);
}

#[test]
fn times_on_the_page_are_those_of_the_readings_unless_told_otherwise() {
    let page = "# TYPE a counter\na_total 16 1762768700\na_total 17.0 1762768800.789\n# EOF\n";
    assert_eq!(
        readings(&read("metrics: a_total", page)),
        [
            "a_total{} counter 16 - 2025-11-10T09:58:20Z -",
            "a_total{} counter 17 - 2025-11-10T10:00:00.789Z -"
        ]
    );
    let batch = read("metrics: a_total\ntimestamps: false", page);
    // Without them, two values of one series are none.
    assert_eq!(readings(&batch), Vec::<String>::new());
    assert!(
        batch.quarantined[0].reason.contains("2 times in one run, with the values 16 and 17"),
        "{batch:?}"
    );
}

/// A page shows one moment: without a time of its own each, two values of a series are none, in whichever order they stand.
/// The same value twice is one.
#[test]
fn a_series_that_is_there_twice_has_no_value() {
    let page = |first: &str, second: &str| {
        format!(
            "# TYPE a counter\na_total{{u=\"x\"}} {first}\na_total{{u=\"x\"}} {second}\na_total{{u=\"y\"}} 7\n# EOF\n"
        )
    };
    // 10:00:00 is 1794304800.
    let (now, before) = ("1794304800", "1794304770");
    let good = "a_total{u=y} counter 7 - 2026-11-10T10:00:00Z -".to_owned();
    for (one, other) in [
        ("10".to_owned(), "12".to_owned()),
        ("10".to_owned(), format!("12 {before}")),
        (format!("10 {before}"), "12".to_owned()),
        (format!("10 {now}"), format!("12 {before}")),
    ] {
        for (first, second) in [(&one, &other), (&other, &one)] {
            let batch = read("metrics: a_total", &page(first, second));
            assert_eq!(readings(&batch), std::slice::from_ref(&good), "{first}, {second}");
            assert_eq!(batch.quarantined.len(), 1, "{batch:?}");
            assert!(batch.quarantined[0].reason.contains("2 times in one run, with the values"), "{batch:?}");
        }
    }
    for (first, second) in [("10", format!("10.0 {before}")), ("10", "1e1".to_owned())] {
        let batch = read("metrics: a_total", &page(first, &second));
        assert_eq!((batch.readings.len(), batch.quarantined.len()), (2, 0), "{second}");
    }
    // With a time each, in order, and no fall between them, they are two points of it; a gauge may fall.
    let points = |first: &str, second: &str| {
        let page = page(&format!("{first} {before}"), &format!("{second} {now}"));
        readings(&read("metrics: a_total", &page))
    };
    let y = "a_total{u=y} counter 7 - 2026-11-10T10:00:00Z -";
    let at = [
        "a_total{u=x} counter 10 - 2026-11-10T09:59:30Z -",
        "a_total{u=x} counter 12 - 2026-11-10T10:00:00Z -",
    ];
    assert_eq!(points("10", "12"), [at[0], at[1], y]);
    let gauge = page(&format!("12 {before}"), &format!("10 {now}")).replace("a counter", "a_total gauge");
    assert_eq!(read("metrics: a_total", &gauge).readings.len(), 3);
    // Points that go back in time are none (OpenMetrics 1.0; Prometheus takes the first and refuses the second), nor are two of
    // one instant; and a gauge's are no better.
    for (first, second) in
        [(format!("12 {now}"), format!("10 {before}")), (format!("10 {now}"), format!("12 {now}"))]
    {
        for page in [page(&first, &second), page(&first, &second).replace("a counter", "a_total gauge")] {
            let batch = read("metrics: a_total", &page);
            assert_eq!((batch.readings.len(), batch.quarantined.len()), (1, 1), "{page}");
            assert!(batch.quarantined[0].reason.contains("with the values"), "{batch:?}");
        }
    }
}

#[test]
fn what_is_no_number_is_quarantined_and_the_rest_counts() {
    let page = "# TYPE a gauge\na{x=\"1\"} NaN\na{x=\"2\"} +Inf\na{x=\"3\"} 1.7e308\na{x=\"4\"} 0.30000000000000004\n\
                # TYPE b counter\nb -1\nbroken{\n";
    let batch = read("metrics: [a, b]", page);
    assert_eq!(readings(&batch), ["a{x=4} gauge 0.3 - 2026-11-10T10:00:00Z -"]);
    let reasons: Vec<_> = batch.quarantined.iter().map(|bad| bad.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "line 2: its value is NaN, which is no number",
            "line 3: its value is +Inf, which is without end",
            "line 4: `1.7e308` has more digits than can be kept exactly (28)",
            "a counter can't be negative (-1)",
        ]
    );
    let batch = read("metrics: [a, missing]", "# TYPE a gauge\na 1\na{x=y} 2\n");
    assert_eq!(batch.notes, ["`missing` is not on the page now"]);
    assert_eq!(batch.quarantined[0].reason, "line 3: the value of the label x is not in quotes");
    assert_eq!(batch.quarantined[0].what, "a{x=y} 2");
}

#[test]
fn mistakes_are_told_all_at_once() {
    assert_eq!(
        problems(
            "url: http://127.0.0.1:9100/metrics\nmetrics: ['a b', c]\nepoch: at start\ntimestamp: false"
        ),
        [
            "line 2: metrics: `a b` is no name of a metric, nor a glob such as app_*_total",
            "line 3: epoch: `at start` must be created, none, or the name of a metric such as process_start_time_seconds",
            "line 4: timestamp: unknown key `timestamp`; did you mean `timestamps`?",
        ]
    );
    assert!(problems("url: http://127.0.0.1:9100/metrics")[0].starts_with("`metrics` is missing"));
    assert!(problems("metrics: a")[0].starts_with("`url` is missing"));
}
