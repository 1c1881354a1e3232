//! Reads what Waldur holds: the rows of components and the shares of users.
//!
//! A server that does not know a filter ignores it and answers with everything, of everybody's customers
//! (observed), so every filter is checked again here. It never writes.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use uuid::Uuid;

use super::client::Client;
use super::failure::Failure;
use super::pages::Row;
use super::types::{Listed, RawRow, Share, UsageRow, UserUsageRow};

pub(super) const USAGES: &str = "marketplace-component-usages/";
const USER_USAGES: &str = "marketplace-component-user-usages/";

/// What is read of a row, the names that people know it by left out.
const COMPARED: [&str; 13] = [
    "uuid",
    "resource_uuid",
    "offering_uuid",
    "type",
    "usage",
    "billing_period",
    "date",
    "created",
    "modified",
    "description",
    "recurring",
    "missing_usage_policy",
    "modified_by",
];

/// Which rows are wanted. All that are set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// The first day of the month; another day has no rows.
    pub billing_period: Option<Date>,
    pub billing_period_year: Option<i16>,
    pub billing_period_month: Option<i8>,
    pub customer: Option<Uuid>,
    pub offering: Option<Uuid>,
    pub project: Option<Uuid>,
    pub resource: Option<Uuid>,
    /// By the resource's address instead of its UUID: another filter of the server's with the same meaning.
    pub resource_address: Option<Uuid>,
    pub component: Option<String>,
    /// The days, by the server's clock, between which a row was last reported, both included.
    pub date_after: Option<Date>,
    pub date_before: Option<Date>,
    /// Names of fields to order by, the first the most important, `-` before a name for the other way.
    pub order: Vec<String>,
    /// Fields that are enough; all if empty. (Much cheaper for the server.)
    pub fields: Vec<String>,
}

/// What the filters ask about a row. What a row does not tell cannot be checked and is taken on trust.
struct Facts {
    billing_period: Option<Date>,
    date: Option<Timestamp>,
    customer: Option<Uuid>,
    offering: Option<Uuid>,
    project: Option<Uuid>,
    resource: Option<Uuid>,
    component: Option<String>,
}

impl From<&UsageRow> for Facts {
    fn from(row: &UsageRow) -> Self {
        Facts {
            billing_period: Some(row.billing_period),
            date: row.date,
            customer: row.customer_uuid,
            offering: row.offering_uuid,
            project: row.project_uuid,
            resource: Some(row.resource_uuid),
            component: Some(row.component.clone()),
        }
    }
}

impl From<&RawRow> for Facts {
    fn from(row: &RawRow) -> Self {
        let uuid = |field: &str| row.text(field)?.parse().ok();
        Facts {
            billing_period: row.text("billing_period").and_then(|text| text.parse().ok()),
            date: row.text("date").and_then(|text| text.parse().ok()),
            customer: uuid("customer_uuid"),
            offering: uuid("offering_uuid"),
            project: uuid("project_uuid"),
            resource: uuid("resource_uuid"),
            component: row.text("type"),
        }
    }
}

impl UsageFilter {
    /// The rows of one month.
    pub fn of_month(period: Date) -> Self {
        UsageFilter { billing_period: Some(period.first_of_month()), ..Default::default() }
    }

    /// The same rows with no more than what they are compared by: for the server, a whole row is many look-ups (observed).
    pub fn to_compare(self) -> Self {
        UsageFilter { fields: COMPARED.map(str::to_owned).to_vec(), ..self }
    }

    pub fn admits(&self, row: &UsageRow) -> bool {
        self.admits_facts(&row.into())
    }

    pub fn admits_raw(&self, row: &RawRow) -> bool {
        self.admits_facts(&row.into())
    }

    fn admits_facts(&self, row: &Facts) -> bool {
        fn same<T: PartialEq>(wanted: &Option<T>, told: &Option<T>) -> bool {
            match (wanted, told) {
                (Some(wanted), Some(told)) => wanted == told,
                _ => true,
            }
        }
        // The days of `date_after` and `date_before` are those of the server's TIME_ZONE, which we are not told: a
        // row is out only if it is in every zone (from 12 hours behind UTC to 14 ahead).
        let day = |hours: i64| {
            let at = row.date?.checked_add(SignedDuration::from_hours(hours)).ok()?;
            Some(at.to_zoned(TimeZone::UTC).date())
        };
        let not_before = self.date_after.is_none_or(|first| day(14).is_none_or(|day| day >= first));
        let not_after = self.date_before.is_none_or(|last| day(-12).is_none_or(|day| day <= last));
        same(&self.billing_period, &row.billing_period)
            && same(&self.billing_period_year, &row.billing_period.map(Date::year))
            && same(&self.billing_period_month, &row.billing_period.map(Date::month))
            && same(&self.customer, &row.customer)
            && same(&self.offering, &row.offering)
            && same(&self.project, &row.project)
            && same(&self.resource, &row.resource)
            && same(&self.resource_address, &row.resource)
            && same(&self.component, &row.component)
            && not_before
            && not_after
    }

    fn query(&self, client: &Client) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        let mut add = |key, value: Option<String>| query.extend(value.map(|value| (key, value)));
        let hex = |uuid: Uuid| uuid.as_simple().to_string();
        // Year and month together are the first of that month, which is the one filter that all versions know.
        let of_parts = match (self.billing_period_year, self.billing_period_month) {
            (Some(year), Some(month)) => Date::new(year, month, 1).ok(),
            _ => None,
        };
        add("billing_period", self.billing_period.or(of_parts).map(|date| date.to_string()));
        add("billing_period_year", self.billing_period_year.map(|year| year.to_string()));
        add("billing_period_month", self.billing_period_month.map(|month| month.to_string()));
        add("customer_uuid", self.customer.map(hex));
        add("offering_uuid", self.offering.map(hex));
        add("project_uuid", self.project.map(hex));
        add("resource_uuid", self.resource.map(hex));
        // The consumers' address is the one that works here; the providers' finds nothing (observed).
        let address = |uuid| format!("{}marketplace-resources/{}/", client.api(), hex(uuid));
        add("resource", self.resource_address.map(address));
        add("type", self.component.clone());
        add("date_after", self.date_after.map(|date| date.to_string()));
        add("date_before", self.date_before.map(|date| date.to_string()));
        // One name a parameter: `field=a,b` makes empty rows (observed).
        query.extend(self.order.iter().map(|order| ("o", order.clone())));
        query.extend(self.fields.iter().map(|field| ("field", field.clone())));
        query
    }
}

/// A row that can't be read as one: told, and of no bearing on the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRow {
    /// As far as it says.
    pub resource: Option<Uuid>,
    pub component: Option<String>,
    /// What is wrong with it.
    pub words: String,
}

/// What a listing has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub rows: Vec<UsageRow>,
    pub odd: Vec<UnreadableRow>,
}

impl Client {
    /// All rows that the filter admits: whole ones, or those of `to_compare`.
    pub async fn list_usages(&self, filter: &UsageFilter) -> Result<Listing, Failure> {
        let rows: Vec<Listed> = self.walk("GET component usages", USAGES, &filter.query(self)).await?;
        let mut odd = Vec::new();
        // In the memory of the list: of an offering's month there may be very many.
        let admitted = rows.into_iter().filter_map(|row| match row {
            Listed::Row(row) => Some(row).filter(|row| filter.admits(row)),
            Listed::Odd(row, words) => {
                odd.extend(filter.admits_raw(&row).then(|| UnreadableRow {
                    resource: row.text("resource_uuid").and_then(|text| text.parse().ok()),
                    component: row.text("type"),
                    words,
                }));
                None
            }
        });
        Ok(Listing { rows: admitted.collect(), odd })
    }

    /// The same with every field that the server gave, for showing. If `fields` are named, `uuid` and those that
    /// the filter looks at must be among them.
    pub async fn list_raw_usages(&self, filter: &UsageFilter) -> Result<Vec<RawRow>, Failure> {
        let rows = self.walk("GET component usages", USAGES, &filter.query(self)).await?;
        Ok(rows.into_iter().filter(|row| filter.admits_raw(row)).collect())
    }

    /// One page as the server cuts it, then filtered; the server's own defaults where there is no number.
    pub async fn page_of_raw_usages(
        &self,
        filter: &UsageFilter,
        page: Option<&str>,
        page_size: Option<u32>,
    ) -> Result<Vec<RawRow>, Failure> {
        let mut query = filter.query(self);
        query.extend(page.map(|page| ("page", page.to_owned())));
        query.extend(page_size.map(|size| ("page_size", size.to_string())));
        let what = "GET a page of component usages";
        let answer = self.get(what, USAGES, &query).await?;
        let rows: Vec<RawRow> = self.decode(what, &answer)?;
        Ok(rows.into_iter().filter(|row| filter.admits_raw(row)).collect())
    }

    pub async fn get_usage(&self, row: Uuid) -> Result<UsageRow, Failure> {
        let row = row.as_simple();
        self.read(&format!("GET component usage {row}"), &format!("{USAGES}{row}/")).await
    }

    pub async fn get_raw_usage(&self, row: Uuid) -> Result<RawRow, Failure> {
        let row = row.as_simple();
        self.read(&format!("GET component usage {row}"), &format!("{USAGES}{row}/")).await
    }

    /// The users' shares of all components of an offering's resources in one month. As below, the month can't be checked.
    pub async fn list_user_usages_of(
        &self,
        offering: Uuid,
        period: Date,
    ) -> Result<Vec<UserUsageRow>, Failure> {
        let mut rows: Vec<UserUsageRow> = self.walk_shares(offering, period).await?;
        rows.retain(|row| row.offering_uuid.is_none_or(|uuid| uuid == offering));
        Ok(rows)
    }

    /// The same, and no more of each than what it is compared by.
    pub async fn list_shares_of(&self, offering: Uuid, period: Date) -> Result<Vec<Share>, Failure> {
        let mut rows: Vec<Share> = self.walk_shares(offering, period).await?;
        rows.retain(|row| row.offering.is_none_or(|uuid| uuid == offering));
        Ok(rows)
    }

    async fn walk_shares<T: Row>(&self, offering: Uuid, period: Date) -> Result<Vec<T>, Failure> {
        let query = [
            ("offering_uuid", offering.as_simple().to_string()),
            ("component_usage__billing_period", period.first_of_month().to_string()),
        ];
        self.walk("GET user usages", USER_USAGES, &query).await
    }

    /// The users' shares of one component of one resource in one month. After a plan switch they are of two rows:
    /// `UserUsageRow::row` tells them apart. The month is the one filter that cannot be checked again (a share
    /// does not tell it), so a share whose `row` is not the one meant must be passed over by the caller.
    pub async fn list_user_usages(
        &self,
        resource: Uuid,
        component: &str,
        period: Date,
    ) -> Result<Vec<UserUsageRow>, Failure> {
        let what = format!("GET user usages of {component} of resource {}", resource.as_simple());
        let query = [
            ("resource_uuid", resource.as_simple().to_string()),
            ("type", component.to_owned()),
            ("component_usage__billing_period", period.first_of_month().to_string()),
        ];
        let rows: Vec<UserUsageRow> = self.walk(&what, USER_USAGES, &query).await?;
        let of_both = |row: &UserUsageRow| {
            row.resource_uuid.is_none_or(|uuid| uuid == resource)
                && (row.component_type.is_empty() || row.component_type == component)
        };
        Ok(rows.into_iter().filter(of_both).collect())
    }
}
