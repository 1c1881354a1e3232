//! What there is to report on: offerings, resources, plan periods, accounts, and whose token it is.
//!
//! It never concludes: an empty list may mean that there is nothing, or that the token has lost its role (observed:
//! 200 and no rows, not 403), and only the caller knows what was there before.

use uuid::Uuid;

use super::client::Client;
use super::failure::Failure;
use super::types::{Me, Offering, OfferingUser, PlanPeriod, Resource};

/// The providers' view. The consumers' (`marketplace-resources/`) is empty for a provider's token (observed).
const RESOURCES: &str = "marketplace-provider-resources/";
const OFFERINGS: &str = "marketplace-provider-offerings/";
const PUBLIC_OFFERINGS: &str = "marketplace-public-offerings/";
const OFFERING_USERS: &str = "marketplace-offering-users/";

/// What is read of a resource: naming the fields makes the list several times cheaper for the server.
const RESOURCE_FIELDS: [&str; 18] = [
    "uuid",
    "name",
    "slug",
    "backend_id",
    "effective_id",
    "state",
    "plan_uuid",
    "plan_name",
    "offering_uuid",
    "offering_name",
    "customer_uuid",
    "customer_name",
    "project_uuid",
    "project_name",
    "current_usages",
    "is_usage_based",
    "is_limit_based",
    "end_date",
];
const OFFERING_FIELDS: [&str; 7] =
    ["uuid", "name", "state", "type", "customer_uuid", "customer_name", "components"];
const OFFERING_USER_FIELDS: [&str; 7] =
    ["uuid", "url", "username", "user_uuid", "user_username", "offering_uuid", "state"];

impl Client {
    /// All resources of an offering, in whatever state.
    pub async fn resources(&self, offering: Uuid) -> Result<Vec<Resource>, Failure> {
        let what = format!("GET resources of offering {}", offering.as_simple());
        let query = of_offering(offering, &RESOURCE_FIELDS);
        let rows: Vec<Resource> = self.walk(&what, RESOURCES, &query).await?;
        Ok(rows.into_iter().filter(|row| row.offering_uuid.is_none_or(|uuid| uuid == offering)).collect())
    }

    /// The resources of an offering that share a backend id: none, one, or several (it need not be unique).
    pub async fn resources_by_backend_id(
        &self,
        offering: Uuid,
        backend_id: &str,
    ) -> Result<Vec<Resource>, Failure> {
        // An empty one would be ignored by the server, which would answer with every resource (observed).
        if backend_id.is_empty() {
            return Ok(Vec::new());
        }
        let what = format!("GET resources of offering {} by backend id", offering.as_simple());
        let mut query = of_offering(offering, &RESOURCE_FIELDS);
        query.push(("backend_id", backend_id.to_owned()));
        let rows: Vec<Resource> = self.walk(&what, RESOURCES, &query).await?;
        let meant = |row: &Resource| {
            row.backend_id == backend_id && row.offering_uuid.is_none_or(|uuid| uuid == offering)
        };
        Ok(rows.into_iter().filter(meant).collect())
    }

    pub async fn resource(&self, resource: Uuid) -> Result<Resource, Failure> {
        let resource = resource.as_simple();
        self.read(&format!("GET resource {resource}"), &format!("{RESOURCES}{resource}/")).await
    }

    /// The plan periods that reach into the current month, with what is held of each.
    pub async fn plan_periods(&self, resource: Uuid) -> Result<Vec<PlanPeriod>, Failure> {
        let resource = resource.as_simple();
        let what = format!("GET plan periods of resource {resource}");
        self.read(&what, &format!("{RESOURCES}{resource}/plan_periods/")).await
    }

    /// The offerings that the token's owner manages.
    pub async fn offerings(&self) -> Result<Vec<Offering>, Failure> {
        self.walk("GET offerings", OFFERINGS, &fields(&OFFERING_FIELDS)).await
    }

    /// One offering. Without a role in it the provider's view hides it; its components are public.
    pub async fn offering(&self, offering: Uuid) -> Result<Offering, Failure> {
        let uuid = offering.as_simple();
        match self.read(&format!("GET offering {uuid}"), &format!("{OFFERINGS}{uuid}/")).await {
            Err(Failure::Missing { .. } | Failure::Forbidden { .. }) => self.public_offering(offering).await,
            known => known,
        }
    }

    /// One offering as anybody sees it: tells a missing role from a wrong UUID.
    pub async fn public_offering(&self, offering: Uuid) -> Result<Offering, Failure> {
        let offering = offering.as_simple();
        self.read(&format!("GET public offering {offering}"), &format!("{PUBLIC_OFFERINGS}{offering}/")).await
    }

    pub async fn offering_users(&self, offering: Uuid) -> Result<Vec<OfferingUser>, Failure> {
        let what = format!("GET users of offering {}", offering.as_simple());
        let query = of_offering(offering, &OFFERING_USER_FIELDS);
        let rows: Vec<OfferingUser> = self.walk(&what, OFFERING_USERS, &query).await?;
        Ok(rows.into_iter().filter(|row| row.offering_uuid.is_none_or(|uuid| uuid == offering)).collect())
    }

    /// Whose token it is. Also the cheapest call that keeps a token with a lifetime alive.
    pub async fn me(&self) -> Result<Me, Failure> {
        self.read("GET users/me", "users/me/").await
    }
}

fn fields(names: &[&str]) -> Vec<(&'static str, String)> {
    names.iter().map(|name| ("field", (*name).to_owned())).collect()
}

fn of_offering(offering: Uuid, names: &[&str]) -> Vec<(&'static str, String)> {
    let mut query = vec![("offering_uuid", offering.as_simple().to_string())];
    query.extend(fields(names));
    query
}
