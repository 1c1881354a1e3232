//! Pages of metrics, whole and broken.

use proptest::prelude::*;

use super::*;

/// Reads a page that is UTF-8.
fn parse<'a>(page: &'a str, format: Format, wanted: &dyn Fn(&str) -> bool) -> Result<Exposition<'a>, String> {
    super::parse(page.as_bytes(), format, wanted)
}

fn all(page: &str, format: Format) -> Exposition<'_> {
    let read = parse(page, format, &|_| true).unwrap();
    assert_eq!(read.bad, []);
    read
}

/// `name{labels} value at` of each sample.
fn lines(read: &Exposition<'_>) -> Vec<String> {
    let line = |sample: &Sample<'_>| {
        let labels: Vec<_> = sample.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let at = sample.at.map(|at| format!(" {at}")).unwrap_or_default();
        format!("{}{{{}}} {}{at}", sample.name, labels.join(","), sample.value)
    };
    read.samples.iter().map(line).collect()
}

/// The example of the text format's own documentation.
#[test]
fn the_documented_example_of_the_text_format() {
    let page = r#"# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9

# Minimalistic line:
metric_without_timestamp_and_labels 12.47

# A weird metric from before the epoch:
something_weird{problem="division by zero"} +Inf -3982045

# A histogram, which has a pretty complex representation in the text format:
# HELP http_request_duration_seconds A histogram of the request duration.
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.05"} 24054
http_request_duration_seconds_bucket{le="+Inf"} 144320
http_request_duration_seconds_sum 53423
http_request_duration_seconds_count 144320

# Finally a summary, which has a complex representation, too:
# HELP rpc_duration_seconds A summary of the RPC duration in seconds.
# TYPE rpc_duration_seconds summary
rpc_duration_seconds{quantile="0.99"} 76656
rpc_duration_seconds_sum 1.7560473e+07
rpc_duration_seconds_count 2693
"#;
    let read = all(page, Format::Text);
    assert_eq!(
        lines(&read),
        [
            r#"http_requests_total{code="200",method="post"} 1027 2014-03-17T14:26:03Z"#,
            r#"http_requests_total{code="400",method="post"} 3 2014-03-17T14:26:03Z"#,
            r#"msdos_file_access_time_seconds{error="Cannot find file:\n\"FILE.TXT\"",path="C:\\DIR\\FILE.TXT"} 1.458255915e9"#,
            "metric_without_timestamp_and_labels{} 12.47",
            r#"something_weird{problem="division by zero"} +Inf 1969-12-31T22:53:37.955Z"#,
            r#"http_request_duration_seconds_bucket{le="0.05"} 24054"#,
            r#"http_request_duration_seconds_bucket{le="+Inf"} 144320"#,
            "http_request_duration_seconds_sum{} 53423",
            "http_request_duration_seconds_count{} 144320",
            r#"rpc_duration_seconds{quantile="0.99"} 76656"#,
            "rpc_duration_seconds_sum{} 1.7560473e+07",
            "rpc_duration_seconds_count{} 2693",
        ]
    );
    assert_eq!(read.family("http_requests_total"), Some(("http_requests_total", Type::Counter, "")));
    let histogram = "http_request_duration_seconds";
    assert_eq!(read.family("http_request_duration_seconds_sum"), Some((histogram, Type::Histogram, "_sum")));
    assert_eq!(read.family("something_weird"), None);
}

/// The examples of the OpenMetrics specification: counters, histograms with exemplars, and a whole page.
#[test]
fn the_specified_examples_of_openmetrics() {
    let page = r#"# TYPE foo counter
foo_total 17.0 1520879607.789
foo_created 1520430000.123 1520879607.789
# TYPE bar histogram
bar_bucket{le="0.1"} 8 # {} 0.054
bar_bucket{le="1"} 11 # {trace_id="KOO5S4vxi0o"} 0.67
bar_bucket{le="10"} 17 1520879607.7 # {trace_id="oHg5SJYRHA0"} 9.8 1520879607.789
bar_count 17
bar_sum 324789.3
# TYPE acme_http_router_request_seconds summary
# UNIT acme_http_router_request_seconds seconds
# HELP acme_http_router_request_seconds Latency though all of ACME's HTTP request router.
acme_http_router_request_seconds_sum{path="/api/v1",method="GET"} 9036.32
acme_http_router_request_seconds_count{path="/api/v1",method="GET"} 807283.0
acme_http_router_request_seconds_created{path="/api/v1",method="GET"} 1605281325.0
# TYPE go_goroutines gauge
# HELP go_goroutines Number of goroutines that currently exist.
go_goroutines 69
# TYPE process_cpu_seconds counter
# UNIT process_cpu_seconds seconds
# HELP process_cpu_seconds Total user and system CPU time spent in seconds.
process_cpu_seconds_total 4.20072246e+06
# EOF
"#;
    let read = all(page, Format::OpenMetrics);
    assert_eq!(
        lines(&read),
        [
            "foo_total{} 17.0 2018-03-12T18:33:27.789Z",
            "foo_created{} 1520430000.123 2018-03-12T18:33:27.789Z",
            r#"bar_bucket{le="0.1"} 8"#,
            r#"bar_bucket{le="1"} 11"#,
            r#"bar_bucket{le="10"} 17 2018-03-12T18:33:27.7Z"#,
            "bar_count{} 17",
            "bar_sum{} 324789.3",
            r#"acme_http_router_request_seconds_sum{method="GET",path="/api/v1"} 9036.32"#,
            r#"acme_http_router_request_seconds_count{method="GET",path="/api/v1"} 807283.0"#,
            r#"acme_http_router_request_seconds_created{method="GET",path="/api/v1"} 1605281325.0"#,
            "go_goroutines{} 69",
            "process_cpu_seconds_total{} 4.20072246e+06",
        ]
    );
    assert_eq!(read.family("foo_total"), Some(("foo", Type::Counter, "_total")));
    assert_eq!(read.unit("process_cpu_seconds"), Some("seconds"));
}

#[test]
fn a_bad_line_stops_only_itself_and_says_why() {
    let page = "good 1\n\
                no_value\n\
                bad{a=\"b\" 1\n\
                bad{a=b} 1\n\
                bad{a=\"b\",a=\"c\"} 1\n\
                bad{a=\"\\x\"} 1\n\
                bad{a=\"b} 1\n\
                bad{=\"b\"} 1\n\
                bad{a} 1\n\
                bad 1 2 3\n\
                bad 1 soon\n\
                bad 1 # {a=\"b\"} 1\n\
                7up 1\n\
                # TYPE bad meter\n\
                # TYPE twice counter\n\
                # TYPE twice gauge\n\
                also_good{a=\"b\",empty=\"\",} 2\n";
    let read = parse(page, Format::Text, &|_| true).unwrap();
    assert_eq!(lines(&read), ["good{} 1", r#"also_good{a="b"} 2"#]);
    let bad: Vec<_> = read.bad.iter().map(|bad| format!("{}: {}", bad.line, bad.reason)).collect();
    assert_eq!(
        bad,
        [
            "2: its name is not followed by a blank or labels",
            "3: behind the label a is neither `,` nor `}`",
            "4: the value of the label a is not in quotes",
            "5: the label a is there twice",
            "6: the label a: a `\\` is followed by neither `\\`, `\"` nor `n`",
            "7: the label a: its value has no closing quote",
            "8: a label has no name",
            "9: the label a has no `=`",
            "10: there is more behind it: `3`",
            "11: its time: `soon` is not a decimal number",
            "12: there is more behind it: `# {a=\"b\"} 1`",
            "13: it does not begin with the name of a metric",
            "14: `meter` is no type of metrics",
            "16: `twice` has another type before",
        ]
    );
    assert_eq!(read.family("twice"), Some(("twice", Type::Unknown, "")));
}

#[test]
fn lines_of_others_are_not_looked_into() {
    let read = parse("wanted 1\nother{a=b} 0x1p-2 #?\n", Format::Text, &|name| name == "wanted").unwrap();
    assert_eq!((lines(&read), read.bad.len()), (vec!["wanted{} 1".to_owned()], 0));
}

#[test]
fn half_a_page_is_no_page() {
    let whole = "# TYPE a counter\na_total 17\n# EOF";
    assert!(parse(whole, Format::OpenMetrics, &|_| true).is_ok());
    assert!(parse(&format!("{whole}\n"), Format::OpenMetrics, &|_| true).is_ok());
    // Wherever it is cut off.
    for end in 0..whole.len() {
        let error = parse(&whole[..end], Format::OpenMetrics, &|_| true).unwrap_err();
        assert_eq!(error, "the page is cut off: its last line is not `# EOF`", "{end}");
    }
    let error = parse("a 17\na 1", Format::Text, &|_| true).unwrap_err();
    assert_eq!(error, "the page is cut off: its last line has no end");
    let error = parse("a 1\n# EOF\nb 2\n", Format::OpenMetrics, &|_| true).unwrap_err();
    assert_eq!(error, "line 3: there is more after `# EOF`");
    let error = parse("", Format::Text, &|_| true).unwrap_err();
    assert_eq!(error, "the page is empty, not even a comment stands on it: nothing is concluded from it");
    assert!(parse("# idle\n", Format::Text, &|_| true).unwrap().samples.is_empty());
}

#[test]
fn something_else_altogether_is_told_for_what_it_is() {
    let error = parse("<!DOCTYPE html>\n<title>Log in</title>\n", Format::Text, &|_| true).unwrap_err();
    assert_eq!(
        error,
        "the answer is no page of metrics: line 1: it does not begin with the name of a metric: <!DOCTYPE html>"
    );
    assert!(
        parse("Not found\n", Format::Text, &|name| name == "a").is_ok_and(|read| read.samples.is_empty())
    );
    assert_eq!(
        Format::of("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        Ok(Format::OpenMetrics)
    );
    assert_eq!(Format::of("text/plain; version=0.0.4"), Ok(Format::Text));
    assert_eq!(Format::of(""), Ok(Format::Text));
    assert_eq!(
        Format::of("text/html; charset=utf-8"),
        Err("the answer is text/html, not metrics; is the address that of a /metrics page?".to_owned())
    );
}

proptest! {
    #[test]
    fn no_page_makes_it_panic(page in any::<String>(), like in "([a-z_]{0,5}[{]?[a-z\"=,\\\\é}#]{0,12} ?[-+.0-9eE]{0,6}\n){0,6}") {
        for page in [page, like] {
            for format in [Format::Text, Format::OpenMetrics] {
                let _ = parse(&page, format, &|_| true);
                let _ = parse(&page, format, &|name| name.len() > 3);
            }
        }
    }

    #[test]
    fn what_is_written_by_the_rules_is_read_back(
        labels in prop::collection::btree_map("[a-zA-Z_][a-zA-Z0-9_]{0,8}", ".{1,12}", 0..5), value in "-?[0-9]{1,9}[.][0-9]{1,9}"
    ) {
        let escape = |text: &String| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let inside: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let page = format!("a_total{{{}}} {value}\n", inside.join(","));
        let read = parse(&page, Format::Text, &|_| true).unwrap();
        prop_assert_eq!(&read.bad, &[]);
        prop_assert_eq!(&read.samples[0].labels, &labels);
        prop_assert_eq!(read.samples[0].value, value);
    }
}
