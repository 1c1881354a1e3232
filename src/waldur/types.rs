//! The rows that Waldur answers with, as far as the agent needs them.
//!
//! Tolerant on purpose: unknown fields are ignored, missing ones have a default, enumerations are text, UUIDs come
//! with or without dashes, amounts as numbers or strings. Only what money or identity hangs on is required.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::lenient::{
    amounts, any_bool, any_text, list, opt_date, opt_decimal, opt_i64, opt_text, opt_time, opt_uuid,
    raw_text, strict_date, strict_decimal, strict_opt_time, strict_uuid,
};

/// What Waldur holds of one component of one resource in one billing period and plan period. (The plan period is
/// not told here: after a plan switch one component has two rows that look alike; see `PlanPeriod`.)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct UsageRow {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    #[serde(rename = "type")]
    pub component: String,
    #[serde(deserialize_with = "strict_decimal")]
    pub usage: Decimal,
    #[serde(deserialize_with = "strict_uuid")]
    pub resource_uuid: Uuid,
    /// The first day of the month that the row is billed in: the only proof of where a report landed.
    #[serde(deserialize_with = "strict_date")]
    pub billing_period: Date,
    /// When it was last reported, or, where the server honours it, the `date` that was sent.
    #[serde(default, deserialize_with = "opt_time")]
    pub date: Option<Timestamp>,
    #[serde(default, deserialize_with = "opt_time")]
    pub created: Option<Timestamp>,
    #[serde(default, deserialize_with = "any_text")]
    pub description: String,
    #[serde(default, deserialize_with = "any_bool")]
    pub recurring: bool,
    #[serde(default, deserialize_with = "opt_text")]
    pub missing_usage_policy: Option<String>,
    #[serde(default, deserialize_with = "any_text")]
    pub resource_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub offering_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub project_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub customer_uuid: Option<Uuid>,
    /// Who wrote it last: a number, a text or an address, depending on the version.
    #[serde(default, deserialize_with = "opt_text")]
    pub modified_by: Option<String>,
    /// When that was; servers that were looked at don't tell.
    #[serde(default, deserialize_with = "opt_time")]
    pub modified: Option<Timestamp>,
}

/// What Waldur holds of one user's share of a `UsageRow`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct UserUsageRow {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    pub username: String,
    #[serde(deserialize_with = "strict_decimal")]
    pub usage: Decimal,
    #[serde(default, deserialize_with = "any_text")]
    pub component_type: String,
    /// The address of the `UsageRow` that this is a share of; see `row`.
    #[serde(default, deserialize_with = "opt_text")]
    pub component_usage: Option<String>,
    /// The address of the offering's user, if one was given when the row was made.
    #[serde(default, deserialize_with = "opt_text")]
    pub user: Option<String>,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub resource_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub resource_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub offering_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub measured_unit: String,
    #[serde(default, deserialize_with = "any_text")]
    pub description: String,
    #[serde(default, deserialize_with = "any_text")]
    pub backend_id: String,
    #[serde(default, deserialize_with = "opt_time")]
    pub date: Option<Timestamp>,
    #[serde(default, deserialize_with = "opt_time")]
    pub created: Option<Timestamp>,
    #[serde(default, deserialize_with = "opt_time")]
    pub modified: Option<Timestamp>,
}

impl UserUsageRow {
    /// The UUID of the `UsageRow` that this is a share of.
    pub fn row(&self) -> Option<Uuid> {
        uuid_of_address(self.component_usage.as_deref()?)
    }
}

/// A user's share as it is compared with what was reported: small, because a large site has hundreds of thousands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "UserUsageRow")]
pub struct Share {
    pub uuid: Uuid,
    pub offering: Option<Uuid>,
    /// The `UsageRow` that it is a share of.
    pub row: Option<Uuid>,
    pub username: Arc<str>,
    pub usage: Decimal,
}

impl From<UserUsageRow> for Share {
    fn from(share: UserUsageRow) -> Share {
        let (row, username) = (share.row(), share.username.as_str().into());
        Share { uuid: share.uuid, offering: share.offering_uuid, row, username, usage: share.usage }
    }
}

/// A stretch of time in which a resource had one plan. Ended ones are told only until their month has passed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PlanPeriod {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    #[serde(default, deserialize_with = "any_text")]
    pub plan_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub plan_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "strict_opt_time")]
    pub start: Option<Timestamp>,
    /// `None` while it lasts.
    #[serde(default, deserialize_with = "strict_opt_time")]
    pub end: Option<Timestamp>,
    /// What is held of this plan period in the current month.
    #[serde(default)]
    pub components: Vec<PeriodUsage>,
}

/// A row as its plan period tells it: the only place where a row and its plan period are seen together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PeriodUsage {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    #[serde(rename = "type")]
    pub component: String,
    /// For people; what counts is read from the row itself.
    #[serde(default, deserialize_with = "opt_decimal")]
    pub usage: Option<Decimal>,
    #[serde(default, deserialize_with = "opt_time")]
    pub date: Option<Timestamp>,
    #[serde(default, deserialize_with = "any_text")]
    pub description: String,
    #[serde(default, deserialize_with = "any_bool")]
    pub recurring: bool,
}

/// Whether a resource has a plan. Without one a report is refused (or breaks a classic server for good).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plan {
    /// This version did not say.
    #[default]
    NotTold,
    None,
    Is(Uuid),
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Ok(match raw_text(&raw) {
            Some(text) => text.parse().map_or(Plan::NotTold, Plan::Is),
            None if raw.get() == "null" => Plan::None,
            None => Plan::NotTold,
        })
    }
}

/// What a customer bought.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Resource {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    #[serde(default, deserialize_with = "any_text")]
    pub name: String,
    #[serde(default, deserialize_with = "any_text")]
    pub slug: String,
    /// May be empty, and need not be unique.
    #[serde(default, deserialize_with = "any_text")]
    pub backend_id: String,
    #[serde(default, deserialize_with = "any_text")]
    pub effective_id: String,
    /// `OK`, `Updating`, `Terminating` take reports; `Creating`, `Erred`, `Terminated` do not; there may be more.
    #[serde(default, deserialize_with = "any_text")]
    pub state: String,
    #[serde(default, rename = "plan_uuid")]
    pub plan: Plan,
    #[serde(default, deserialize_with = "any_text")]
    pub plan_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub offering_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub offering_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub customer_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub customer_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub project_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub project_name: String,
    /// Exactly what the last report carried, of whichever month: a hint, not a statement.
    #[serde(default, deserialize_with = "amounts")]
    pub current_usages: BTreeMap<String, Decimal>,
    #[serde(default, deserialize_with = "any_bool")]
    pub is_usage_based: bool,
    #[serde(default, deserialize_with = "any_bool")]
    pub is_limit_based: bool,
    #[serde(default, deserialize_with = "opt_date")]
    pub end_date: Option<Date>,
}

/// What a provider sells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Offering {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    #[serde(default, deserialize_with = "any_text")]
    pub name: String,
    #[serde(default, deserialize_with = "any_text")]
    pub state: String,
    #[serde(default, rename = "type", deserialize_with = "any_text")]
    pub kind: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub customer_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub customer_name: String,
    #[serde(default, deserialize_with = "list")]
    pub components: Vec<Component>,
}

/// What an offering counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Component {
    /// The name that reports use; case matters.
    #[serde(rename = "type")]
    pub component: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub name: String,
    #[serde(default, deserialize_with = "any_text")]
    pub measured_unit: String,
    /// `usage`, `limit`, `fixed`, `one`, `few`; there may be more.
    #[serde(default, deserialize_with = "any_text")]
    pub billing_type: String,
    /// `month`, `annual`, `total`.
    #[serde(default, deserialize_with = "opt_text")]
    pub limit_period: Option<String>,
    #[serde(default, deserialize_with = "opt_decimal")]
    pub limit_amount: Option<Decimal>,
    #[serde(default, deserialize_with = "opt_decimal")]
    pub factor: Option<Decimal>,
    #[serde(default, deserialize_with = "any_bool")]
    pub is_builtin: bool,
}

/// An account that a person has in an offering.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OfferingUser {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    /// Its address: what a user's usage refers to.
    #[serde(default, deserialize_with = "any_text")]
    pub url: String,
    /// The account's name on the provider's machines; empty until it is made.
    #[serde(default, deserialize_with = "any_text")]
    pub username: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub user_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub user_username: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub offering_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub state: String,
}

/// Whose token it is. The answer also holds the token, which is never taken from it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Me {
    #[serde(deserialize_with = "strict_uuid")]
    pub uuid: Uuid,
    #[serde(default, deserialize_with = "any_text")]
    pub username: String,
    /// Seconds without a call after which the token dies; `None` if it never does.
    #[serde(default, deserialize_with = "opt_i64")]
    pub token_lifetime: Option<i64>,
    #[serde(default, deserialize_with = "any_bool")]
    pub is_staff: bool,
    #[serde(default, deserialize_with = "any_bool")]
    pub is_support: bool,
    #[serde(default, deserialize_with = "list")]
    pub permissions: Vec<Permission>,
}

impl Me {
    /// Whether the roles allow to report an offering; `None` where they don't tell, because its organisation is not known.
    pub fn may_report(&self, offering: Uuid, customer: Option<Uuid>) -> Option<bool> {
        if self.is_staff || self.permissions.iter().any(|permission| permission.is_of_offering(offering)) {
            return Some(true);
        }
        // An owner of the offering's organisation may, too. Its managers may not, and whoever manages one of its offerings is
        // made one (observed).
        let may = |permission: &Permission| {
            !["CUSTOMER.MANAGER", "CUSTOMER.SUPPORT"].contains(&permission.role_name.as_str())
        };
        let owns = |customer| {
            self.permissions.iter().any(|permission| permission.is_of_customer(customer) && may(permission))
        };
        customer.map(owns)
    }
}

impl Permission {
    pub fn is_of_offering(&self, offering: Uuid) -> bool {
        self.scope_type == "offering" && self.scope_uuid == Some(offering)
    }

    /// Whether it is a role in this organisation.
    pub fn is_of_customer(&self, customer: Uuid) -> bool {
        self.scope_type == "customer" && self.scope_uuid == Some(customer)
    }
}

/// A role that the token's owner has. Staff need none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Permission {
    #[serde(default, deserialize_with = "any_text")]
    pub role_name: String,
    #[serde(default, deserialize_with = "any_text")]
    pub scope_type: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub scope_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "any_text")]
    pub scope_name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    pub customer_uuid: Option<Uuid>,
    #[serde(default, deserialize_with = "opt_time")]
    pub expiration_time: Option<Timestamp>,
}

/// The UUID at the end of an address such as `https://…/api/marketplace-component-usages/5e2f…/`.
pub fn uuid_of_address(address: &str) -> Option<Uuid> {
    address.split(['?', '#']).next()?.trim_end_matches('/').rsplit('/').next()?.parse().ok()
}

/// A row as the server gave it: every field, in its order, each value as it came over the wire.
#[derive(Debug, Clone)]
pub struct RawRow(pub Vec<(String, Box<RawValue>)>);

impl RawRow {
    /// A field as text; `None` if it is absent, null, a list or an object.
    pub fn text(&self, field: &str) -> Option<String> {
        self.get(field).and_then(raw_text).map(Cow::into_owned)
    }

    pub fn get(&self, field: &str) -> Option<&RawValue> {
        self.0.iter().find(|(name, _)| name == field).map(|(_, value)| &**value)
    }
}

/// A row of a list of usages: one that can't be read is told, and of no bearing on the others.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are rows, and a list of them is handed on as it is"
)]
pub(super) enum Listed {
    Row(UsageRow),
    Odd(RawRow, String),
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        match serde_json::from_str(text) {
            Ok(row) => Ok(Listed::Row(row)),
            Err(error) => match serde_json::from_str(text) {
                Ok(odd) => Ok(Listed::Odd(odd, error.to_string())),
                Err(error) => Err(D::Error::custom(error)),
            },
        }
    }
}

impl<'de> Deserialize<'de> for RawRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = RawRow;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawRow, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawRow(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}
