//! The shapes of the marketplace file, key by key; the admin API takes the same in JSON.
//!
//! Everything has a default and nothing refers to anything yet: that is `marketplace`'s part.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::Deserialize;
use uuid::Uuid;

use crate::json::Json;
use crate::world::{Api, Billing, DateMonth, LimitPeriod};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    pub(crate) api: Option<Api>,
    pub(crate) timezone: Option<String>,
    pub(crate) date_month: DateMonth,
    pub(crate) now: Option<Timestamp>,
    pub(crate) tokens: Vec<TokenSpec>,
    pub(crate) customers: Vec<CustomerSpec>,
    pub(crate) offerings: Vec<OfferingSpec>,
    pub(crate) resources: Vec<ResourceSpec>,
    pub(crate) rows: Vec<RowSpec>,
    pub(crate) latency_ms: u64,
    pub(crate) first_of_month_ms: u64,
    pub(crate) calls_at_once: Option<usize>,
}

/// In the admin API a token given again keeps what is not mentioned.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenSpec {
    pub(crate) token: String,
    pub(crate) username: Option<String>,
    pub(crate) offerings: Option<Vec<String>>,
    /// Customers by name.
    pub(crate) owner_of: Option<Vec<String>>,
    pub(crate) staff: Option<bool>,
    #[serde(deserialize_with = "mentioned")]
    pub(crate) lifetime: Option<Option<i64>>,
    pub(crate) active: Option<bool>,
}

/// Tells `lifetime: null` (never dies) from no `lifetime` (unchanged).
fn mentioned<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::<i64>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
pub(crate) struct CustomerSpec {
    pub(crate) name: String,
    pub(crate) uuid: Option<Uuid>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct OfferingSpec {
    pub(crate) uuid: Option<Uuid>,
    pub(crate) name: String,
    pub(crate) customer: Option<String>,
    pub(crate) components: Vec<ComponentSpec>,
    pub(crate) users: Vec<UserSpec>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ComponentSpec {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) name: Option<String>,
    pub(crate) measured_unit: Option<String>,
    pub(crate) billing_type: Option<Billing>,
    pub(crate) limit_amount: Option<i64>,
    pub(crate) limit_period: Option<LimitPeriod>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum UserSpec {
    Name(String),
    Full { username: String, uuid: Option<Uuid> },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResourceSpec {
    pub(crate) uuid: Option<Uuid>,
    pub(crate) name: Option<String>,
    pub(crate) backend_id: Option<String>,
    pub(crate) offering: String,
    pub(crate) state: Option<String>,
    pub(crate) plan: Option<bool>,
    pub(crate) project: Option<String>,
    pub(crate) customer: Option<String>,
    pub(crate) plan_periods: Option<Vec<PeriodSpec>>,
    pub(crate) limits: BTreeMap<String, Amount>,
    pub(crate) user_limits: Vec<UserLimitSpec>,
    pub(crate) created: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PeriodSpec {
    pub(crate) uuid: Option<Uuid>,
    pub(crate) start: Timestamp,
    pub(crate) end: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct UserLimitSpec {
    pub(crate) username: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) limit: Amount,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RowSpec {
    pub(crate) resource: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) usage: Amount,
    pub(crate) billing_period: Option<Date>,
    pub(crate) description: Option<String>,
    pub(crate) modified_by: Option<i64>,
    pub(crate) date: Option<Timestamp>,
    #[serde(default)]
    pub(crate) recurring: bool,
    pub(crate) missing_usage_policy: Option<String>,
    #[serde(default)]
    pub(crate) users: BTreeMap<String, Amount>,
    /// Of several in the month; otherwise the one that holds the date.
    pub(crate) plan_period: Option<Uuid>,
    #[serde(default)]
    pub(crate) as_read: serde_json::Map<String, serde_json::Value>,
}

/// An amount, as text or number; judged like one that comes over HTTP.
#[derive(Debug)]
pub(crate) struct Amount(pub(crate) Decimal);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Number(serde_json::Number),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        };
        crate::amount::read(&Json::text(text)).map(Amount).map_err(serde::de::Error::custom)
    }
}

/// A typing error should be seen, but not stop anybody.
pub(crate) fn warn_of_unknown_keys(yaml: &str) {
    const KNOWN: [&str; 12] = [
        "api",
        "timezone",
        "date_month",
        "now",
        "tokens",
        "customers",
        "offerings",
        "resources",
        "rows",
        "latency_ms",
        "first_of_month_ms",
        "calls_at_once",
    ];
    let Ok(serde_yaml::Value::Mapping(fields)) = serde_yaml::from_str(yaml) else { return };
    for key in fields.keys().filter_map(serde_yaml::Value::as_str).filter(|key| !KNOWN.contains(key)) {
        eprintln!("marketplace: unknown key {key}, ignored");
    }
}
