//! What a Prometheus server answers, as text and times: no value of it goes through a float.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::collectors::characters::NO_CHARACTER;
use crate::collectors::numbers;
use crate::metering::reading::Labels;

/// One series with its samples in the order of time; of one whose value is no text, why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Series<'a> {
    pub(super) labels: Labels,
    pub(super) samples: Vec<(Timestamp, Result<Cow<'a, str>, String>)>,
    /// Samples without a time that can be read: when it was there can't be told.
    pub(super) timeless: Vec<String>,
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
    /// Series whose labels can't be read: those that can, and why.
    pub(super) odd: Vec<(Labels, String)>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    status: String,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    error: Option<String>,
    warnings: Option<Vec<String>>,
    infos: Option<Vec<String>>,
    /// How VictoriaMetrics says that a part of its storage did not answer.
    #[serde(borrow, rename = "isPartial")]
    is_partial: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    result_type: String,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Found<'a> {
    #[serde(borrow)]
    metric: Option<BTreeMap<String, &'a RawValue>>,
    #[serde(borrow)]
    values: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    histograms: Option<&'a RawValue>,
    #[serde(borrow)]
    histogram: Option<&'a RawValue>,
}

/// The time of a sample, and its value, if that is a text.
type Point<'a> = (Timestamp, Result<Cow<'a, str>, String>);

/// Takes a sample such as `[1795394001.124,"7"]` apart; an error has no time.
fn point(sample: &RawValue) -> Result<Point<'_>, String> {
    let (time, value): (&RawValue, &RawValue) = serde_json::from_str(sample.get())
        .map_err(|_| format!("`{}` is no sample of a time and a value", numbers::short(sample.get())))?;
    let at = numbers::seconds(time.get()).map_err(|why| format!("the time of a sample: {why}"))?;
    let text: Result<Text<'_>, _> = serde_json::from_str(value.get());
    let no_text = |_| format!("its value {} is no text that can be read", numbers::short(value.get()));
    Ok((at, text.map(|text| text.0).map_err(no_text)))
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads an answer, which has a mark where something is no character; `wanted` is the type of result that was asked for.
pub(super) fn read<'a>(text: &'a str, wanted: &str) -> Result<Answer<'a>, String> {
    let not_whole = |error: serde_json::Error| match error.is_eof() {
        true => format!("the answer is cut off ({error})"),
        false => format!("the answer is not that of a Prometheus server ({error})"),
    };
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
    // What a server in Go writes for a list that has nothing in it.
    let found: Option<Vec<&'a RawValue>> =
        data.result.map(|result| serde_json::from_str(result.get()).map_err(not_whole)).transpose()?;
    let mut warnings = envelope.warnings.unwrap_or_default();
    if envelope.is_partial.is_some_and(|is_partial| is_partial.get() != "false") {
        warnings.push("isPartial: a part of its storage did not answer".to_owned());
    }
    let infos = envelope.infos.unwrap_or_default();
    let mut answer = Answer { series: Vec::new(), warnings, infos, histograms: 0, odd: Vec::new() };
    for found in found.into_iter().flatten() {
        let found: Found<'a> = match serde_json::from_str(found.get()) {
            Ok(found) => found,
            Err(error) => {
                // Whose it is can't be told.
                let why = format!("`{}` is no series ({error})", numbers::short(found.get()));
                answer.odd.push((Labels::new(), why));
                continue;
            }
        };
        if found.histograms.is_some() || found.histogram.is_some() {
            answer.histograms += 1;
        }
        let (mut samples, mut timeless) = (Vec::new(), Vec::new());
        for sample in found.values.into_iter().flatten().chain(found.value) {
            match point(sample) {
                Ok(point) => samples.push(point),
                Err(why) => timeless.push(why),
            }
        }
        samples.sort_by_key(|(at, _)| *at);
        if samples.is_empty() && timeless.is_empty() {
            continue;
        }
        match labels_of(found.metric.unwrap_or_default()) {
            (labels, None) => answer.series.push(Series { labels, samples, timeless }),
            (labels, Some(why)) => answer.odd.push((labels, why)),
        }
    }
    Ok(answer)
}

/// The labels of a series that can be read, and what is wrong with one of the others.
fn labels_of(metric: BTreeMap<String, &RawValue>) -> (Labels, Option<String>) {
    let mut labels = Labels::new();
    let mut wrong = None;
    for (name, value) in metric {
        let is_text = |text: &String| !text.contains(NO_CHARACTER) && !name.contains(NO_CHARACTER);
        match serde_json::from_str::<String>(value.get()).ok().filter(is_text) {
            // A label without a value is no label, as everywhere with Prometheus.
            Some(value) if value.is_empty() => {}
            Some(value) => {
                labels.insert(name, value);
            }
            None => {
                let name = name.replace(NO_CHARACTER, "\u{fffd}");
                wrong.get_or_insert(format!(
                    "its label {} is no text that can be read",
                    numbers::short(&name)
                ));
            }
        }
    }
    (labels, wrong)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::collectors::characters::text_of;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// As a server of version 2.42 answered.
    #[test]
    fn values_and_times_are_read_from_their_text() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"x","user":"al\"ice","empty":""},
             "values":[[1795394001.124,"12345.678"],[1795394002,"1e+21"],[1.795394003124e9,"NaN"]]}]}}"#;
        let answer = read(body, "matrix").unwrap();
        let labels = [("__name__", "x"), ("user", "al\"ice")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let samples = vec![
            (at("2026-11-23T00:33:21.124Z"), Ok("12345.678".into())),
            (at("2026-11-23T00:33:22Z"), Ok("1e+21".into())),
            (at("2026-11-23T00:33:23.124Z"), Ok("NaN".into())),
        ];
        assert_eq!(answer.series, [Series { labels: labels.into(), samples, timeless: vec![] }]);
        assert!(answer.warnings.is_empty() && answer.histograms == 0);
    }

    #[test]
    fn an_instant_has_one_value_a_series() {
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"a":"b"},"value":[1795394001,"7"]}]},"infos":["fine"],"warnings":["a store is away"]}"#;
        let answer = read(body, "vector").unwrap();
        assert_eq!(answer.series[0].samples, [(at("2026-11-23T00:33:21Z"), Ok("7".into()))]);
        assert_eq!((answer.warnings.len(), answer.infos.len()), (1, 1));
    }

    #[test]
    fn nothing_is_a_valid_answer() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert_eq!(read(body, "matrix").unwrap().series, []);
    }

    #[test]
    fn native_histograms_are_counted_and_left_out() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{},"histograms":[[1795394001,{"count":"1","sum":"2"}]]}]}}"#;
        let answer = read(body, "matrix").unwrap();
        assert_eq!((answer.series.len(), answer.histograms), (0, 1));
    }

    #[test]
    fn what_is_no_answer_is_told_for_what_it_is() {
        let refused = |body: &str| read(body, "matrix").unwrap_err();
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
    }

    #[test]
    fn a_sample_that_can_not_be_read_costs_itself() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"p":"a"},"values":[[null,"1"],[1795394001,"2"],[1795394002,3],["x"],7,[1795394003,"4",5]]},
            {"metric":{"p":"b"},"values":[[1795394001,"5"]]}]}}"#;
        let answer = read(body, "matrix").unwrap();
        assert_eq!(
            answer.series[0].samples,
            [
                (at("2026-11-23T00:33:21Z"), Ok("2".into())),
                (at("2026-11-23T00:33:22Z"), Err("its value 3 is no text that can be read".to_owned())),
            ]
        );
        assert_eq!(
            answer.series[0].timeless,
            [
                "the time of a sample: `null` is not a decimal number",
                "`[\"x\"]` is no sample of a time and a value",
                "`7` is no sample of a time and a value",
                "`[1795394003,\"4\",5]` is no sample of a time and a value",
            ]
        );
        assert_eq!(answer.series[1].samples, [(at("2026-11-23T00:33:21Z"), Ok("5".into()))]);
    }

    #[test]
    fn what_is_no_series_costs_no_other() {
        let body = r#"{"status":"success","data":{"resultType":"matrix","result":[
            "x", {"metric":{"p":"a"},"values":null}, {"metric":{"p":"b"},"values":7}, null,
            {"metric":null,"values":[[1795394001,"5"]]}, {"metric":{"p":"c"},"values":[[1795394001,"6"]]}]}}"#;
        let answer = read(body, "matrix").unwrap();
        let values: Vec<_> = answer.series.iter().map(|one| (one.labels.len(), &one.samples[0].1)).collect();
        assert_eq!(values, [(0, &Ok("5".into())), (1, &Ok("6".into()))]);
        assert_eq!(answer.odd.len(), 3);
        assert!(answer.odd[0].1.starts_with("`\"x\"` is no series (invalid type"), "{:?}", answer.odd);
    }

    #[test]
    fn a_label_that_can_not_be_read_costs_its_series() {
        let body = br#"{"status":"success","data":{"resultType":"vector","result":[
            {"metric":{"user":"x\ud83d","p":"a"},"value":[1795394001,"1"]},
            {"metric":{"user":7,"p":"b"},"value":[1795394001,"2"]},
            {"metric":{"user":"~"},"value":[1795394001,"3"]},
            {"metric":{"user":"y","p":"c"},"value":[1795394001,"4"]}]}}"#;
        let body: Vec<u8> = body.split(|byte| *byte == b'~').collect::<Vec<_>>().join(&0xff);
        let text = text_of(&body);
        let answer = read(&text, "vector").unwrap();
        assert_eq!(answer.series.len(), 1);
        assert_eq!(answer.series[0].samples[0].1, Ok("4".into()));
        let odd = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Labels>();
            (labels, "its label user is no text that can be read".to_owned())
        };
        assert_eq!(answer.odd, [odd(&[("p", "a")]), odd(&[("p", "b")]), odd(&[])]);
    }

    #[test]
    fn null_is_nothing_and_a_part_is_a_warning() {
        let body = |more: &str| {
            format!(r#"{{"status":"success",{more}"data":{{"resultType":"matrix","result":null}}}}"#)
        };
        for (more, warnings) in [
            ("", vec![]),
            (r#""warnings":null,"infos":null,"isPartial":false,"#, vec![]),
            (r#""isPartial":null,"#, vec![]),
            (r#""isPartial":true,"#, vec!["isPartial: a part of its storage did not answer"]),
            (
                r#""isPartial":true,"warnings":["away"],"#,
                vec!["away", "isPartial: a part of its storage did not answer"],
            ),
        ] {
            let body = body(more);
            let answer = read(&body, "matrix").unwrap();
            assert_eq!(
                (answer.series.len(), answer.warnings),
                (0, warnings.iter().map(|w| (*w).to_owned()).collect())
            );
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in any::<Vec<u8>>(), time in "[-0-9.eE\"n]{0,12}", value in ".{0,12}") {
            let _ = read(&text_of(&body), "matrix");
            let body = format!(
                r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"values":[[{time},"{value}"]]}}]}}}}"#
            );
            let _ = read(&body, "matrix");
        }
    }
}
