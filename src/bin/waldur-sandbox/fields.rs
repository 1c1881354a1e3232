//! The field rules that the API's bodies share: what each kind of field takes, and its words when it does not.
//!
//! Errors are JSON values, because the server nests them by position (A §1). Nothing here knows an endpoint.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::json::{Json, Text};

pub(crate) const REQUIRED: &str = "This field is required.";
pub(crate) const NULL: &str = "This field may not be null.";

/// A field's value, or its errors.
pub(crate) type Field<T> = Result<T, Value>;

pub(crate) fn refuse<T>(text: impl Into<String>) -> Field<T> {
    Err(json!([text.into()]))
}

/// What a text field allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wording {
    pub(crate) blank: bool,
    pub(crate) longest: Option<usize>,
}

/// A text; blanks around it are trimmed, numbers become texts.
pub(crate) fn text(value: &Json, wording: Wording) -> Field<String> {
    let text = match value {
        Json::Null => return refuse(NULL),
        Json::Number(literal) => Text { value: literal.clone(), surrogate: None },
        Json::Text(text) => text.clone(),
        Json::Bool(_) | Json::List(_) | Json::Object(_) => return refuse("Not a valid string."),
    };
    let trimmed = text.value.trim();
    if trimmed.is_empty() && !wording.blank {
        return refuse("This field may not be blank.");
    }
    let mut errors = Vec::new();
    if let Some(longest) = wording.longest.filter(|longest| trimmed.chars().count() > *longest) {
        errors.push(format!("Ensure this field has no more than {longest} characters."));
    }
    if trimmed.contains('\0') {
        errors.push("Null characters are not allowed.".into());
    }
    if let Some(code) = text.surrogate {
        errors.push(format!("Surrogate characters are not allowed: U+{code:X}."));
    }
    if errors.is_empty() { Ok(trimmed.to_owned()) } else { Err(json!(errors)) }
}

pub(crate) fn required<'a>(object: &'a Json, key: &str) -> Field<&'a Json> {
    object.get(key).map_or_else(|| refuse(REQUIRED), Ok)
}

pub(crate) fn amount(value: &Json) -> Field<Decimal> {
    crate::amount::read(value).or_else(refuse)
}

pub(crate) fn boolean(value: &Json) -> Field<bool> {
    let word = match value {
        Json::Null => return refuse(NULL),
        Json::Bool(value) => return Ok(*value),
        Json::Number(literal) => literal.clone(),
        Json::Text(text) => text.value.trim().to_ascii_lowercase(),
        Json::List(_) | Json::Object(_) => String::new(),
    };
    match word.as_str() {
        "t" | "y" | "yes" | "true" | "on" | "1" => Ok(true),
        "f" | "n" | "no" | "false" | "off" | "0" => Ok(false),
        _ => refuse("Must be a valid boolean."),
    }
}

/// An ISO 8601 date-time; one without an offset is meant in the server's zone.
pub(crate) fn instant(value: &Json, zone: &TimeZone) -> Field<Timestamp> {
    let parsed = match value {
        Json::Null => return refuse(NULL),
        Json::Text(text) => parse_instant(text.value.trim(), zone),
        _ => None,
    };
    let formats = "YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].";
    let wrong = || refuse(format!("Datetime has wrong format. Use one of these formats instead: {formats}"));
    // Stored to the microsecond.
    parsed.and_then(|at| Timestamp::from_microsecond(at.as_microsecond()).ok()).map_or_else(wrong, Ok)
}

pub(crate) fn parse_instant(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    // `+02`, `+0200` and no offset at all.
    let time_from = text.find(['T', ' ']).unwrap_or(text.len());
    let sign = text.get(time_from..)?.find(['+', '-']).map(|at| at + time_from);
    let civil = |text: &str| text.trim().parse::<DateTime>().ok();
    let Some(sign) = sign else { return zone.to_timestamp(civil(text)?).ok() };
    let (day, offset) = (text.get(..sign)?, text.get(sign..)?);
    let digits: String = offset.chars().filter(char::is_ascii_digit).collect();
    let hours: i32 = digits.get(..2)?.parse().ok()?;
    let minutes: i32 = digits.get(2..4).unwrap_or("0").parse().ok()?;
    let seconds = (hours * 60 + minutes) * 60;
    let offset = Offset::from_seconds(if offset.starts_with('-') { -seconds } else { seconds }).ok()?;
    offset.to_timestamp(civil(day)?).ok()
}
