//! What a Prometheus server answers, as text and times: no value of it goes through a float.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::collectors::numbers;
use crate::metering::reading::Labels;

/// One series with its samples in the order of time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Series<'a> {
    pub(super) labels: Labels,
    pub(super) samples: Vec<(Timestamp, Cow<'a, str>)>,
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) series: Vec<Series<'a>>,
    /// Why the server thinks that it may not be all.
    pub(super) warnings: Vec<String>,
    /// What it says of the query besides.
    pub(super) infos: Vec<String>,
    /// Series that have native histograms, which are no numbers.
    pub(super) histograms: usize,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    status: String,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    infos: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    result_type: String,
    #[serde(borrow)]
    result: &'a RawValue,
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(default)]
    metric: BTreeMap<String, String>,
    #[serde(borrow, default)]
    values: Vec<Point<'a>>,
    #[serde(borrow)]
    value: Option<Point<'a>>,
    #[serde(borrow)]
    histograms: Option<&'a RawValue>,
    #[serde(borrow)]
    histogram: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Point<'a>(#[serde(borrow)] &'a RawValue, #[serde(borrow)] Cow<'a, str>);

impl<'a> Point<'a> {
    fn read(self) -> Result<(Timestamp, Cow<'a, str>), String> {
        Ok((numbers::seconds(self.0.get())?, self.1))
    }
}

/// Reads the body of an answer; `wanted` is the type of result that was asked for.
pub(super) fn read<'a>(body: &'a [u8], wanted: &str) -> Result<Answer<'a>, String> {
    let not_whole = |error: serde_json::Error| match error.is_eof() {
        true => format!("the answer is cut off ({error})"),
        false => format!("the answer is not that of a Prometheus server ({error})"),
    };
    let text = std::str::from_utf8(body).map_err(|error| format!("the answer is not text ({error})"))?;
    let envelope: Envelope<'a> = serde_json::from_str(text).map_err(not_whole)?;
    if envelope.status != "success" {
        return Err(format!("the server says: {}", envelope.error.unwrap_or(envelope.status)));
    }
    let data = envelope.data.ok_or("the answer has no data")?;
    if data.result_type != wanted {
        return Err(format!(
            "the result is a {}, not a {wanted}: {}",
            data.result_type, "only series of numbers can be billed"
        ));
    }
    let found: Vec<Found<'a>> = serde_json::from_str(data.result.get()).map_err(not_whole)?;
    let mut answer =
        Answer { series: Vec::new(), warnings: envelope.warnings, infos: envelope.infos, histograms: 0 };
    for found in found {
        if found.histograms.is_some() || found.histogram.is_some() {
            answer.histograms += 1;
        }
        let points = found.values.into_iter().chain(found.value);
        let mut samples = points.map(Point::read).collect::<Result<Vec<_>, _>>()?;
        samples.sort_by_key(|(at, _)| *at);
        if !samples.is_empty() {
            // A label without a value is no label, as everywhere with Prometheus.
            let labels = found.metric.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            answer.series.push(Series { labels, samples });
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// As a server of version 2.42 answered.
    #[test]
    fn values_and_times_are_read_from_their_text() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"x","user":"al\"ice","empty":""},
             "values":[[1795394001.124,"12345.678"],[1795394002,"1e+21"],[1.795394003124e9,"NaN"]]}]}}"#;
        let answer = read(body.as_bytes(), "matrix").unwrap();
        let labels = [("__name__", "x"), ("user", "al\"ice")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let samples = vec![
            (at("2026-11-23T00:33:21.124Z"), "12345.678".into()),
            (at("2026-11-23T00:33:22Z"), "1e+21".into()),
            (at("2026-11-23T00:33:23.124Z"), "NaN".into()),
        ];
        assert_eq!(answer.series, [Series { labels: labels.into(), samples }]);
        assert!(answer.warnings.is_empty() && answer.histograms == 0);
    }

    #[test]
    fn an_instant_has_one_value_a_series() {
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"a":"b"},"value":[1795394001,"7"]}]},"infos":["fine"],"warnings":["a store is away"]}"#;
        let answer = read(body.as_bytes(), "vector").unwrap();
        assert_eq!(answer.series[0].samples, [(at("2026-11-23T00:33:21Z"), "7".into())]);
        assert_eq!((answer.warnings.len(), answer.infos.len()), (1, 1));
    }

    #[test]
    fn nothing_is_a_valid_answer() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert_eq!(read(body, "matrix").unwrap().series, []);
    }

    #[test]
    fn native_histograms_are_counted_and_left_out() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{},"histograms":[[1795394001,{"count":"1","sum":"2"}]]}]}}"#;
        let answer = read(body, "matrix").unwrap();
        assert_eq!((answer.series.len(), answer.histograms), (0, 1));
    }

    #[test]
    fn what_is_no_answer_is_told_for_what_it_is() {
        let refused = |body: &str| read(body.as_bytes(), "matrix").unwrap_err();
        assert!(
            refused("<html><title>Log in</title></html>")
                .starts_with("the answer is not that of a Prometheus server")
        );
        assert!(
            refused(r#"{"status":"success","data":{"resultType":"matrix","resu"#)
                .starts_with("the answer is cut off")
        );
        assert_eq!(
            refused(r#"{"status":"error","errorType":"execution","error":"many-to-many matching"}"#),
            "the server says: many-to-many matching"
        );
        assert_eq!(
            refused(r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}"#),
            "the result is a scalar, not a matrix: only series of numbers can be billed"
        );
        assert_eq!(refused(r#"{"status":"success"}"#), "the answer has no data");
        let bad_time =
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"values":[[null,"1"]]}]}}"#;
        assert_eq!(refused(bad_time), "`null` is not a decimal number");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in any::<Vec<u8>>(), time in "[-0-9.eE\"n]{0,12}", value in ".{0,12}") {
            let _ = read(&body, "matrix");
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"values":[[{time},"{value}"]]}}]}}}}"#
            );
            let _ = read(body.as_bytes(), "matrix");
        }
    }
}
