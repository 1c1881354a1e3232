//! Reads the 400s of the server's own validation: what exactly it would not take.
//!
//! The shape of these bodies differs from check to check and from one server to the next (a list of sentences, a
//! field with sentences, a list with one object an item), so a sentence is known by its words wherever it stands.
//! What is not the server's JSON is not a refusal at all: something on the way made it up.

use std::fmt;

use serde_json::{Map, Value};

use crate::wire::words::{clean, of_body};

/// Why the server would not take a report. Nothing of the call was written, but see `may_be_half_applied`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The offering has no such components, or they are not billed by use. The whole call was refused.
    InvalidComponents(Vec<String>),
    /// Single items (of the list that the caller gave, counted from 0) and what is wrong with each, led by the name
    /// of the component or user.
    Items(Vec<(usize, String)>),
    /// The resource is being created, has erred or is terminated.
    ResourceState(String),
    /// No such resource, or none that this token may see.
    UnknownResource(String),
    /// A limit of the offering's component. Items that stood before it in the call may have been written.
    LimitExceeded(String),
    /// The month or the plan period can no longer be reported by this token.
    PeriodClosed(String),
    /// The `date` lies in the server's future.
    FutureDate(String),
    /// The resource has no plan, so nothing of it can be billed.
    NoPlan(String),
    /// The user's own limit.
    UserLimit(String),
    /// A field of the call.
    Field { field: String, words: String },
    /// Anything else, in the server's words.
    Other(String),
}

impl Refusal {
    /// The name by which logs and metrics call it.
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::InvalidComponents(_) => "invalid_components",
            Refusal::Items(_) => "items",
            Refusal::ResourceState(_) => "resource_state",
            Refusal::UnknownResource(_) => "unknown_resource",
            Refusal::LimitExceeded(_) => "limit_exceeded",
            Refusal::PeriodClosed(_) => "period_closed",
            Refusal::FutureDate(_) => "future_date",
            Refusal::NoPlan(_) => "no_plan",
            Refusal::UserLimit(_) => "user_limit",
            Refusal::Field { .. } => "field",
            Refusal::Other(_) => "other",
        }
    }

    /// Whether part of the call may have been written all the same. Validation comes before anything is written,
    /// but the limits are checked item by item while writing, and that 400 is not rolled back (observed: the
    /// items before the offending one stay, in the order sent). What we do not know may be such a check too.
    pub fn may_be_half_applied(&self) -> bool {
        matches!(self, Refusal::LimitExceeded(_) | Refusal::Other(_))
    }

    /// Reads the body of a 400; `None` if it is not the server's.
    pub fn parse(body: &[u8]) -> Option<Refusal> {
        let json: Value = serde_json::from_slice(body).ok()?;
        if !is_the_servers(&json) {
            return None;
        }
        let mut sentences = Vec::new();
        collect(&json, &mut Vec::new(), &mut sentences);
        if let Some(known) = sentences.iter().find_map(|s| known(s, json.is_array())) {
            return Some(known);
        }
        if let Some(items) = items_of(&json) {
            return Some(Refusal::Items(items));
        }
        Some(match sentences.first() {
            Some(Sentence { field: Some(field), .. }) => {
                let of_field = sentences.iter().filter(|s| s.field.as_ref() == Some(field));
                let words: Vec<_> = of_field.map(|s| s.text.as_str()).collect();
                Refusal::Field { field: clean(field), words: clean(&words.join(" ")) }
            }
            _ => Refusal::Other(of_body(body)),
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::InvalidComponents(names) => {
                write!(f, "These components are invalid: {}.", names.join(", "))
            }
            Refusal::Items(items) => {
                let words: Vec<_> = items.iter().map(|(_, words)| words.as_str()).collect();
                f.write_str(&words.join("; "))
            }
            Refusal::Field { field, words } => write!(f, "{field}: {words}"),
            Refusal::ResourceState(words)
            | Refusal::UnknownResource(words)
            | Refusal::LimitExceeded(words)
            | Refusal::PeriodClosed(words)
            | Refusal::FutureDate(words)
            | Refusal::NoPlan(words)
            | Refusal::UserLimit(words)
            | Refusal::Other(words) => f.write_str(words),
        }
    }
}

/// One sentence and the field it was said of, if any.
struct Sentence {
    field: Option<String>,
    text: String,
}

/// A validation error is a list, or an object of lists and objects, or `{"detail": sentence}`; a proxy's own JSON
/// (`{"message": "..."}`, `{"error": 400}`) is none of these.
fn is_the_servers(json: &Value) -> bool {
    match json {
        Value::Array(items) => {
            !items.is_empty() && (items.iter().all(Value::is_string) || items.iter().all(Value::is_object))
        }
        Value::Object(fields) => {
            !fields.is_empty()
                && fields.iter().all(|(key, value)| match value {
                    Value::Array(_) | Value::Object(_) => true,
                    Value::String(_) => key == "detail",
                    _ => false,
                })
        }
        _ => false,
    }
}

fn collect(json: &Value, path: &mut Vec<String>, found: &mut Vec<Sentence>) {
    match json {
        Value::String(text) => {
            let field = path.iter().rev().find(|key| *key != "non_field_errors" && *key != "detail");
            found.push(Sentence { field: field.cloned(), text: text.clone() });
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, path, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                path.push(key.clone());
                collect(value, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// The refusals that are known by their words. (All observed in English, which is asked for.)
fn known(sentence: &Sentence, in_top_list: bool) -> Option<Refusal> {
    let text = sentence.text.trim();
    let words = || clean(text);
    let says = |part: &str| text.contains(part);
    if let Some(names) = text.strip_prefix("These components are invalid:") {
        let names = names.trim().trim_end_matches('.').split(',');
        return Some(Refusal::InvalidComponents(names.map(clean).filter(|n| !n.is_empty()).collect()));
    }
    if says("is not in valid state") {
        return Some(Refusal::ResourceState(words()));
    }
    if says("Usage limit exceeded") {
        return Some(Refusal::UserLimit(words()));
    }
    if says("Billing period is closed") || says("can only specify date") || says("can specify date") {
        return Some(Refusal::PeriodClosed(words()));
    }
    if says("exceeds limit") || (in_top_list && says("limit")) {
        return Some(Refusal::LimitExceeded(words()));
    }
    if says("future date") {
        return Some(Refusal::FutureDate(words()));
    }
    if says("must have a plan") {
        return Some(Refusal::NoPlan(words()));
    }
    let of_resource = sentence.field.as_deref() == Some("resource");
    if of_resource && (says("does not exist") || says("may not be null") || says("is required")) {
        return Some(Refusal::UnknownResource(words()));
    }
    None
}

/// The items of `{"usages": [{}, {...}]}`, of the list alone, or of an object with the indexes as keys.
fn items_of(json: &Value) -> Option<Vec<(usize, String)>> {
    let list = match json {
        Value::Object(fields) => fields.get("usages")?,
        list => list,
    };
    let numbered: Vec<(usize, &Map<String, Value>)> = match list {
        Value::Array(items) => {
            items.iter().enumerate().map(|(at, item)| Some((at, item.as_object()?))).collect::<Option<_>>()?
        }
        Value::Object(items) => items
            .iter()
            .map(|(at, item)| Some((at.parse().ok()?, item.as_object()?)))
            .collect::<Option<_>>()?,
        _ => return None,
    };
    let items: Vec<_> = numbered
        .into_iter()
        .filter(|(_, item)| !item.is_empty())
        .map(|(at, item)| (at, of_body(Value::Object(item.clone()).to_string().as_bytes())))
        .collect();
    (!items.is_empty()).then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(body: &str) -> Refusal {
        Refusal::parse(body.as_bytes()).unwrap_or_else(|| panic!("not a refusal: {body}"))
    }

    #[test]
    fn unknown_components_are_named() {
        let body = r#"{"non_field_errors":["These components are invalid: abc, nope."]}"#;
        assert_eq!(parse(body), Refusal::InvalidComponents(vec!["abc".into(), "nope".into()]));
    }

    #[test]
    fn items_keep_their_place_in_the_call() {
        let body = r#"{"usages":[{},{"amount":["Ensure that there are no more than 2 decimal places."]}]}"#;
        let words = "amount: Ensure that there are no more than 2 decimal places.".to_owned();
        assert_eq!(parse(body), Refusal::Items(vec![(1, words)]));
        let body =
            r#"{"usages":[{"non_field_errors":["Invalid data. Expected a dictionary, but got str."]}]}"#;
        assert_eq!(
            parse(body),
            Refusal::Items(vec![(0, "Invalid data. Expected a dictionary, but got str.".into())])
        );
        let body = r#"[{},{"username":["This field may not be blank."]}]"#;
        assert_eq!(parse(body), Refusal::Items(vec![(1, "username: This field may not be blank.".into())]));
        let body = r#"{"usages":{"3":{"amount":["A valid number is required."]}}}"#;
        assert_eq!(parse(body), Refusal::Items(vec![(3, "amount: A valid number is required.".into())]));
    }

    #[test]
    fn a_list_that_is_no_list_is_a_field() {
        let words = "This field is required.".to_owned();
        let field = Refusal::Field { field: "usages".into(), words };
        assert_eq!(parse(r#"{"usages":["This field is required."]}"#), field);
        let body = r#"{"usages":{"non_field_errors":["Expected a list of items but got type \"dict\"."]}}"#;
        let words = "Expected a list of items but got type \"dict\".".to_owned();
        assert_eq!(parse(body), Refusal::Field { field: "usages".into(), words });
    }

    #[test]
    fn every_refusal_is_known_by_its_words() {
        for (body, name) in [
            (r#"{"resource":["Resource is not in valid state."]}"#, "resource_state"),
            (r#"{"resource":["Object with uuid=not-a-uuid does not exist."]}"#, "unknown_resource"),
            (r#"{"plan_period":["Billing period is closed."]}"#, "period_closed"),
            (r#"{"plan_period":["Object with uuid=not-a-uuid does not exist."]}"#, "field"),
            (r#"["Total amount exceeds limit. Total amount: 120.00, limit: 100."]"#, "limit_exceeded"),
            (r#"{"date":["Cannot submit usage for future dates"]}"#, "future_date"),
            (r#"["Cannot submit usage for future dates"]"#, "future_date"),
            (
                r#"{"non_field_errors":["Service providers can only specify date for limit-based or prepaid billing components when backfilling past billing periods"]}"#,
                "period_closed",
            ),
            (
                r#"["Only staff users and service providers can specify date for backfilling"]"#,
                "period_closed",
            ),
            (r#"{"resource":["Resource must have a plan to report usage"]}"#, "no_plan"),
            (r#"{"non_field_errors":["Usage limit exceeded for user u1. Limit: 5."]}"#, "user_limit"),
            (r#"["Usage limit exceeded"]"#, "user_limit"),
            (r#"{"non_field_errors":["Either plan_period or resource should be provided."]}"#, "other"),
            (r#"{"detail":"JSON parse error - Expecting value: line 1 column 1 (char 0)"}"#, "other"),
            (r#"{"user":["Invalid hyperlink - Object does not exist."]}"#, "field"),
            (r#"{"billing_period":["Enter a valid date."]}"#, "field"),
            (r#"["Something new."]"#, "other"),
        ] {
            assert_eq!(parse(body).name(), name, "{body}");
        }
        assert!(parse(r#"["Total amount exceeds limit."]"#).may_be_half_applied());
        assert!(!parse(r#"{"plan_period":["Billing period is closed."]}"#).may_be_half_applied());
    }

    #[test]
    fn what_is_not_the_servers_json_is_no_refusal() {
        for body in [
            "",
            "<html><title>400 Bad Request</title>",
            "Bad Request",
            "null",
            "{}",
            "[]",
            r#"{"message":"no route"}"#,
            r#"{"error":400}"#,
            r#"{"resource":["cut off"#,
            "[1,2]",
        ] {
            assert_eq!(Refusal::parse(body.as_bytes()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Refusal::parse(&body);
        }

        #[test]
        fn any_json_like_text_is_read_without_a_panic(body in r#"[\[\]{}:,"a-z0-9 ]{0,60}"#) {
            let _ = Refusal::parse(body.as_bytes()).map(|r| r.to_string());
        }
    }
}
