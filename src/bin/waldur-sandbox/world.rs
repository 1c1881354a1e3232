//! What the sandbox holds: tokens, offerings, resources, plan periods, usage rows and a small invoice.
//!
//! Only data and look-ups; the rules are in `set_usage`, `user_usage` and `billing`. Nothing is ever written
//! to disk: the world begins with the marketplace file and ends with the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::clock::{self, Clock};

/// The two generations of the real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Api {
    /// October 2024: no `date`, no bulk, months in UTC.
    Classic,
    /// 2025 and 2026.
    Current,
}

impl Api {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Current => "current",
        }
    }
}

/// How the month of a given `date` is taken; which one real servers do is not certain (B1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DateMonth {
    Utc,
    #[default]
    Timezone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Billing {
    Usage,
    Limit,
    Fixed,
    One,
    Few,
}

impl Billing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Limit => "limit",
            Self::Fixed => "fixed",
            Self::One => "one",
            Self::Few => "few",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LimitPeriod {
    Month,
    Quarterly,
    Annual,
    Total,
}

impl LimitPeriod {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Quarterly => "quarterly",
            Self::Annual => "annual",
            Self::Total => "total",
        }
    }
}

/// What is recorded when a later month passes without a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Missing {
    #[default]
    None,
    Reuse,
    Zero,
}

impl Missing {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reuse => "reuse",
            Self::Zero => "zero",
        }
    }
}

/// A customer or a project.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
}

#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) id: i64,
    pub(crate) username: String,
    /// The offerings it manages.
    pub(crate) offerings: BTreeSet<Uuid>,
    /// It manages those that come later, too.
    pub(crate) everything: bool,
    /// The customers that it is an owner of: as the provider of an offering, or as anybody else (A §8).
    pub(crate) owns: BTreeSet<Uuid>,
    pub(crate) staff: bool,
    pub(crate) active: bool,
    /// Seconds without a call after which it is dead (A §9).
    pub(crate) lifetime: Option<i64>,
    pub(crate) last_used: Timestamp,
    /// A real server serves one call at a time a token (A §11); others serve several.
    pub(crate) turn: Arc<tokio::sync::Semaphore>,
}

impl Token {
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            id: self.id,
            staff: self.staff,
            everything: self.everything,
            offerings: self.offerings.clone(),
            owns: self.owns.clone(),
        }
    }
}

/// Who calls: what of a token the rules ask for.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) id: i64,
    pub(crate) staff: bool,
    pub(crate) everything: bool,
    pub(crate) offerings: BTreeSet<Uuid>,
    pub(crate) owns: BTreeSet<Uuid>,
}

impl Caller {
    /// Whether it has a role in the offering, its own or by its provider; staff need none.
    pub(crate) fn provides(&self, offering: &Offering) -> bool {
        self.everything
            || self.offerings.contains(&offering.uuid)
            || self.owns.contains(&offering.customer.uuid)
    }

    /// Whether it may set usage of the offering's resources.
    pub(crate) fn manages(&self, offering: &Offering) -> bool {
        self.staff || self.provides(offering)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub(crate) uuid: Uuid,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) billing: Billing,
    pub(crate) limit_amount: Option<i64>,
    pub(crate) limit_period: Option<LimitPeriod>,
}

#[derive(Clone, Debug)]
pub(crate) struct OfferingUser {
    pub(crate) uuid: Uuid,
    pub(crate) username: String,
}

#[derive(Debug)]
pub(crate) struct Offering {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    /// The service provider.
    pub(crate) customer: Named,
    pub(crate) components: Vec<Component>,
    pub(crate) users: Vec<OfferingUser>,
    pub(crate) created: Timestamp,
}

impl Offering {
    pub(crate) fn component(&self, kind: &str) -> Option<&Component> {
        self.components.iter().find(|c| c.kind == kind)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PlanPeriod {
    pub(crate) uuid: Uuid,
    pub(crate) plan: Named,
    pub(crate) start: Timestamp,
    pub(crate) end: Option<Timestamp>,
}

impl PlanPeriod {
    pub(crate) fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && self.end.is_none_or(|end| at < end)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct UserRow {
    pub(crate) uuid: Uuid,
    pub(crate) username: String,
    /// An offering user's.
    pub(crate) user: Option<Uuid>,
    pub(crate) usage: Decimal,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

/// One component's usage in one month; its key in the resource: component, plan period, month (A §1).
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) uuid: Uuid,
    pub(crate) kind: String,
    pub(crate) plan_period: Option<Uuid>,
    pub(crate) month: Date,
    pub(crate) usage: Decimal,
    pub(crate) description: String,
    pub(crate) date: Timestamp,
    pub(crate) created: Timestamp,
    pub(crate) modified_by: Option<i64>,
    pub(crate) missing: Missing,
    pub(crate) users: Vec<UserRow>,
    /// Fields that are read back otherwise than they are, until the row is written again.
    pub(crate) as_read: serde_json::Map<String, serde_json::Value>,
}

/// A line of the month's invoice, as far as a test must see double billing.
#[derive(Clone, Debug)]
pub(crate) struct InvoiceItem {
    pub(crate) kind: String,
    pub(crate) month: Date,
    pub(crate) plan_period: Uuid,
    pub(crate) quantity: Decimal,
    /// Made because the period had ended: the item beside it is billed as well (A §4).
    pub(crate) after_end: bool,
}

/// The limit of one user's usage of one component (B2).
#[derive(Clone, Debug)]
pub(crate) struct UserLimit {
    pub(crate) username: String,
    pub(crate) kind: String,
    pub(crate) limit: Decimal,
}

#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) backend_id: String,
    pub(crate) state: String,
    /// An index into the world's offerings.
    pub(crate) offering: usize,
    pub(crate) project: Named,
    pub(crate) customer: Named,
    pub(crate) plan: Option<Named>,
    pub(crate) plan_periods: Vec<PlanPeriod>,
    pub(crate) limits: BTreeMap<String, Decimal>,
    pub(crate) user_limits: Vec<UserLimit>,
    pub(crate) current_usages: BTreeMap<String, String>,
    pub(crate) rows: Vec<Row>,
    pub(crate) items: Vec<InvoiceItem>,
    /// Components that the server can no longer bill in a month (A §4, recurring): every changed report is a 500.
    pub(crate) broken: BTreeSet<(String, Date)>,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
}

impl Resource {
    pub(crate) fn row_mut(&mut self, uuid: Uuid) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.uuid == uuid)
    }

    pub(crate) fn period(&self, uuid: Uuid) -> Option<&PlanPeriod> {
        self.plan_periods.iter().find(|period| period.uuid == uuid)
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) zone: TimeZone,
    pub(crate) zone_name: String,
    pub(crate) date_month: DateMonth,
    pub(crate) clock: Clock,
    pub(crate) latency_ms: u64,
    pub(crate) first_of_month_ms: u64,
    /// How many calls of one token are served at once.
    pub(crate) calls_at_once: usize,
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) customers: Vec<Named>,
    pub(crate) offerings: Vec<Offering>,
    pub(crate) resources: Vec<Resource>,
    /// (customer, month) whose invoice exists.
    pub(crate) invoices: BTreeSet<(Uuid, Date)>,
    /// Which resource holds a row.
    pub(crate) row_home: HashMap<Uuid, usize>,
    pub(crate) resource_home: HashMap<Uuid, usize>,
}

impl World {
    /// The zone by which this generation counts months (A §4: UTC whatever TIME_ZONE says; B1: TIME_ZONE).
    pub(crate) fn month_zone(&self) -> TimeZone {
        match self.api {
            Api::Classic => TimeZone::UTC,
            Api::Current => self.zone.clone(),
        }
    }

    /// The month that a call without `date` is filed under.
    pub(crate) fn month_now(&self) -> Date {
        clock::month_of(self.clock.now(), &self.month_zone())
    }

    /// The month of a given `date`.
    pub(crate) fn month_of_date(&self, at: Timestamp) -> Date {
        match self.date_month {
            DateMonth::Utc => clock::month_of(at, &TimeZone::UTC),
            DateMonth::Timezone => clock::month_of(at, &self.month_zone()),
        }
    }

    pub(crate) fn resource_at(&self, uuid: Uuid) -> Option<usize> {
        self.resource_home.get(&uuid).copied()
    }

    pub(crate) fn offering_of(&self, resource: &Resource) -> Option<&Offering> {
        self.offerings.get(resource.offering)
    }

    pub(crate) fn offering_at(&self, uuid: Uuid) -> Option<usize> {
        self.offerings.iter().position(|offering| offering.uuid == uuid)
    }

    /// The resource that owns a plan period.
    pub(crate) fn plan_period_home(&self, uuid: Uuid) -> Option<usize> {
        self.resources.iter().position(|resource| resource.period(uuid).is_some())
    }

    /// The row and the index of its resource.
    pub(crate) fn row(&self, uuid: Uuid) -> Option<(usize, &Row)> {
        let home = *self.row_home.get(&uuid)?;
        let row = self.resources.get(home)?.rows.iter().find(|row| row.uuid == uuid)?;
        Some((home, row))
    }

    /// Makes the look-ups agree with a resource whose rows have changed.
    pub(crate) fn index(&mut self, home: usize) {
        let Some(resource) = self.resources.get(home) else { return };
        self.resource_home.insert(resource.uuid, home);
        for row in &resource.rows {
            self.row_home.insert(row.uuid, home);
        }
    }
}

/// A UUID that is the same at every start, for what the marketplace file names without one.
pub(crate) fn derived_uuid(kind: &str, name: &str) -> Uuid {
    let mut state: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in kind.bytes().chain([0]).chain(name.bytes()) {
        state ^= u128::from(byte);
        state = state.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    uuid::Builder::from_random_bytes(state.to_be_bytes()).into_uuid()
}

/// A UUID as this API writes it: 32 hexadecimal digits.
pub(crate) fn hex(uuid: Uuid) -> String {
    uuid.simple().to_string()
}
