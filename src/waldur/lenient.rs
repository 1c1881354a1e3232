//! Reads single fields of the server's rows, which differ between versions: a number or a string, with or without
//! dashes, an id or an address, null, or not there at all.
//!
//! A field that money or identity hangs on is strict: it is there and readable, or the row is an error. All others
//! become `None` rather than break a list. Amounts are taken from the text as it came over the wire: no float is
//! ever made of them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

/// A value as text: of a string what it holds, of a number or boolean how it was written; null is `None`, and so
/// are lists and objects.
pub(super) fn raw_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    match json.as_bytes().first()? {
        b'"' if json.contains('\\') => serde_json::from_str(json).ok().map(Cow::Owned),
        b'"' => json.get(1..json.len() - 1).map(Cow::Borrowed),
        b'n' | b'[' | b'{' => None,
        _ => Some(Cow::Borrowed(json)),
    }
}

/// Borrowed from the answer: most of what is read becomes a number, a UUID or an instant.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(raw_text)
}

pub(super) fn opt_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(text(deserializer)?.map(Cow::into_owned))
}

/// Text, empty if there is none.
pub(super) fn any_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(opt_text(deserializer)?.unwrap_or_default())
}

pub(super) fn opt_uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Uuid>, D::Error> {
    Ok(text(deserializer)?.and_then(|text| text.parse().ok()))
}

pub(super) fn strict_uuid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
    let text = text(deserializer)?.ok_or_else(|| D::Error::custom("a UUID is missing"))?;
    text.parse().map_err(|_| D::Error::custom(format!("`{text}` is no UUID")))
}

pub(super) fn opt_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(text(deserializer)?.and_then(|text| text.parse().ok()))
}

/// An instant that may be absent (a period that has not ended) but, if it is there, must be readable.
pub(super) fn strict_opt_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    match text(deserializer)? {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| D::Error::custom(format!("`{text}` is no time"))),
    }
}

pub(super) fn opt_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Date>, D::Error> {
    Ok(text(deserializer)?.and_then(|text| text.parse().ok()))
}

pub(super) fn strict_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Date, D::Error> {
    let text = text(deserializer)?.ok_or_else(|| D::Error::custom("a date is missing"))?;
    text.parse().map_err(|_| D::Error::custom(format!("`{text}` is no date")))
}

/// An amount as the server writes it: digits with decimals, or (of a number) with an exponent. It keeps 18 digits before the
/// point; what has more is none of its amounts, and could not be summed.
pub(super) fn decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    let amount = Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text)).ok()?;
    (amount.trunc().abs() < Decimal::from(1_000_000_000_000_000_000_i64)).then_some(amount)
}

pub(super) fn opt_decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Decimal>, D::Error> {
    Ok(text(deserializer)?.and_then(|text| decimal(&text)))
}

pub(super) fn strict_decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    let text = text(deserializer)?.ok_or_else(|| D::Error::custom("an amount is missing"))?;
    decimal(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is no amount")))
}

pub(super) fn opt_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(text(deserializer)?.and_then(|text| match text.as_ref() {
        "true" | "True" | "1" => Some(true),
        "false" | "False" | "0" => Some(false),
        _ => None,
    }))
}

/// True only if the server says so.
pub(super) fn any_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    opt_bool(deserializer).map(|flag| flag == Some(true))
}

pub(super) fn opt_i64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(text(deserializer)?.and_then(|text| text.parse().ok()))
}

/// Amounts by component; null is none, and what is no amount is left out.
pub(super) fn amounts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Decimal>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    let map: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).unwrap_or_default();
    let read = |(name, raw): (String, Box<RawValue>)| Some((name, decimal(&raw_text(&raw)?)?));
    Ok(map.into_iter().filter_map(read).collect())
}

/// A list whose unreadable items (and which itself, if it is no list) are left out.
pub(super) fn list<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let raw = Box::<RawValue>::deserialize(deserializer)?;
    let items: Vec<Box<RawValue>> = serde_json::from_str(raw.get()).unwrap_or_default();
    Ok(items.iter().filter_map(|item| serde_json::from_str(item.get()).ok()).collect())
}
