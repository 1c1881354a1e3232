//! The calls that write: totals of a resource, and the users' shares of a row.
//!
//! What the server is known to choke on, or what would bill somebody wrongly, is refused here and never sent. A
//! success says only that the server took the call: which month it landed in, the row read back tells.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use uuid::Uuid;

use super::client::Client;
use super::failure::Failure;
use super::refusal::Refusal;
use super::usages::USAGES;

/// More makes the server fail for good, with nothing but a 500 (observed).
const LONGEST_DESCRIPTION: usize = 2000;
const LONGEST_USERNAME: usize = 100;

/// The totals of one resource in one month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUsage {
    pub resource: Uuid,
    /// Files the totals under this plan period; without it, under the one that is valid at the server's now (or at
    /// `date`, where that is honoured).
    pub plan_period: Option<Uuid>,
    /// An instant in the month meant. A classic server ignores it.
    pub date: Option<Timestamp>,
    /// Every component that is reported of the resource: the server forgets the current usage of any other.
    pub usages: Vec<ComponentAmount>,
}

/// The total of one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentAmount {
    pub component: String,
    /// At most 2 decimals; not negative.
    pub amount: Decimal,
    /// Absent, it clears what the server holds.
    pub description: Option<String>,
    /// Only if the operator asked for it: the server then repeats the amount next month by itself.
    pub recurring: Option<bool>,
    pub missing_usage_policy: Option<String>,
}

/// One user's share of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAmount {
    pub username: String,
    /// At most 2 decimals; not negative.
    pub amount: Decimal,
    /// The address of the offering's user; taken only when the share is first made.
    pub user_url: Option<String>,
    pub date: Option<Timestamp>,
}

#[derive(Serialize)]
struct SetUsageBody<'a> {
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_period: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
    usages: Vec<ItemBody<'a>>,
}

#[derive(Serialize)]
struct ItemBody<'a> {
    #[serde(rename = "type")]
    component: &'a str,
    amount: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recurring: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_usage_policy: Option<&'a str>,
}

#[derive(Serialize)]
struct UserBody<'a> {
    username: &'a str,
    // Always there: without it a new user gets 0.00 and a known one breaks the server (observed).
    usage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
}

#[derive(Serialize)]
struct UsersBody<'a> {
    usages: Vec<UserBody<'a>>,
}

impl Client {
    /// Sets the totals of a resource, which replace those that the server holds. The components are sent in the
    /// order of their names: two writers with different orders lock each other out (observed: 500). `Items` of a
    /// refusal count in the order of `usages` as it was given.
    pub async fn set_usage(&self, report: &SetUsage) -> Result<(), Failure> {
        let what = format!("POST set_usage for resource {}", report.resource.as_simple());
        let mut order: Vec<usize> = (0..report.usages.len()).collect();
        order.sort_by_key(|at| report.usages.get(*at).map(|item| &item.component));
        let body = set_usage_body(report, &order)
            .map_err(|refusal| Failure::Refused { call: what.clone(), refusal })?;
        self.post(&what, &format!("{USAGES}set_usage/"), &body).await.map_err(|failure| {
            named(failure, |at| {
                let given = order.get(at).copied().unwrap_or(at);
                (given, report.usages.get(given).map(|item| item.component.as_str()))
            })
        })
    }

    /// Sets one user's share of a row.
    pub async fn set_user_usage(&self, row: Uuid, user: &UserAmount) -> Result<(), Failure> {
        let row = row.as_simple();
        let what =
            format!("POST set_user_usage of {} for component usage {row}", user.username.escape_debug());
        let body = user_body(user).map_err(|words| refused(&what, vec![(0, words)]))?;
        self.post(&what, &format!("{USAGES}{row}/set_user_usage/"), &body).await
    }

    /// Sets the shares of several users at once, all or none. `Endpoint` on a server that cannot.
    pub async fn set_user_usages(&self, row: Uuid, users: &[UserAmount]) -> Result<(), Failure> {
        let row = row.as_simple();
        let what = format!("POST set_user_usages of {} users for component usage {row}", users.len());
        if users.is_empty() {
            return Err(refused(&what, Vec::new()));
        }
        let (mut usages, mut bad) = (Vec::new(), Vec::new());
        for (at, user) in users.iter().enumerate() {
            match user_body(user) {
                Ok(body) => usages.push(body),
                Err(words) => bad.push((at, format!("{}: {words}", user.username.escape_debug()))),
            }
        }
        if !bad.is_empty() {
            return Err(refused(&what, bad));
        }
        let path = format!("{USAGES}{row}/set_user_usages/");
        let name = |at: usize| (at, users.get(at).map(|user| user.username.as_str()));
        self.post(&what, &path, &UsersBody { usages }).await.map_err(|failure| named(failure, name))
    }
}

/// The failure with each of its items under the place and name that the caller knows it by.
fn named<'a>(failure: Failure, name: impl Fn(usize) -> (usize, Option<&'a str>)) -> Failure {
    match failure {
        Failure::Refused { call, refusal: Refusal::Items(items) } => {
            let items = items.into_iter().map(|(at, words)| match name(at) {
                (at, Some(name)) => (at, format!("{}: {words}", name.escape_debug())),
                (at, None) => (at, words),
            });
            Failure::Refused { call, refusal: Refusal::Items(items.collect()) }
        }
        failure => failure,
    }
}

fn refused(call: &str, items: Vec<(usize, String)>) -> Failure {
    let refusal = match items.is_empty() {
        true => Refusal::Field { field: "usages".to_owned(), words: "nothing to report".to_owned() },
        false => Refusal::Items(items),
    };
    Failure::Refused { call: call.to_owned(), refusal }
}

fn set_usage_body<'a>(report: &'a SetUsage, order: &[usize]) -> Result<SetUsageBody<'a>, Refusal> {
    if report.usages.is_empty() {
        // It would be taken, and would wipe the resource's current usages (observed).
        let words = "nothing to report".to_owned();
        return Err(Refusal::Field { field: "usages".to_owned(), words });
    }
    let (mut usages, mut bad) = (Vec::new(), Vec::new());
    let mut before = None;
    for (at, item) in order.iter().filter_map(|at| Some((*at, report.usages.get(*at)?))) {
        // The server would take the last of the two without a word (observed).
        if before.replace(&item.component) == Some(&item.component) {
            bad.push((at, format!("{}: is there twice", item.component)));
            continue;
        }
        match item_body(item) {
            Ok(body) => usages.push(body),
            Err(words) => bad.push((at, format!("{}: {words}", item.component))),
        }
    }
    if !bad.is_empty() {
        bad.sort();
        return Err(Refusal::Items(bad));
    }
    Ok(SetUsageBody {
        resource: report.resource.as_simple().to_string(),
        plan_period: report.plan_period.map(|uuid| uuid.as_simple().to_string()),
        date: report.date.map(|date| date.to_string()),
        usages,
    })
}

fn item_body(item: &ComponentAmount) -> Result<ItemBody<'_>, String> {
    let description = item.description.as_deref();
    if description.is_some_and(|text| text.chars().count() > LONGEST_DESCRIPTION) {
        return Err(format!("description: more than {LONGEST_DESCRIPTION} characters"));
    }
    Ok(ItemBody {
        component: &item.component,
        amount: two_places(item.amount).map_err(|words| format!("amount: {words}"))?,
        description,
        recurring: item.recurring,
        missing_usage_policy: item.missing_usage_policy.as_deref(),
    })
}

fn user_body(user: &UserAmount) -> Result<UserBody<'_>, String> {
    if user.username.trim().is_empty() || user.username.chars().count() > LONGEST_USERNAME {
        return Err(format!("username: must have 1 to {LONGEST_USERNAME} characters"));
    }
    Ok(UserBody {
        username: &user.username,
        usage: two_places(user.amount).map_err(|words| format!("usage: {words}"))?,
        user: user.user_url.as_deref(),
        date: user.date.map(|date| date.to_string()),
    })
}

/// The amount as it is sent: a string with exactly 2 decimals. Rounding is not done here; it was done once, where
/// the amount was made.
fn two_places(amount: Decimal) -> Result<String, String> {
    if amount.is_zero() {
        return Ok("0.00".to_owned());
    }
    if amount.is_sign_negative() {
        // The server would take it and bill it (observed).
        return Err(format!("{amount} is negative"));
    }
    let mut amount = amount.normalize();
    if amount.scale() > 2 {
        return Err(format!("{amount} has more than 2 decimals"));
    }
    if amount.trunc().mantissa() >= 1_000_000_000_000_000_000 {
        return Err(format!("{amount} has more than 18 digits"));
    }
    amount.rescale(2);
    Ok(amount.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(component: &str, amount: &str) -> ComponentAmount {
        ComponentAmount {
            component: component.to_owned(),
            amount: amount.parse().unwrap(),
            description: None,
            recurring: None,
            missing_usage_policy: None,
        }
    }

    fn report(usages: Vec<ComponentAmount>) -> SetUsage {
        SetUsage { resource: Uuid::from_u128(0x5e2f), plan_period: None, date: None, usages }
    }

    fn body(report: &SetUsage) -> Result<String, Refusal> {
        let mut order: Vec<usize> = (0..report.usages.len()).collect();
        order.sort_by_key(|at| &report.usages[*at].component);
        set_usage_body(report, &order).map(|body| serde_json::to_string(&body).unwrap())
    }

    #[test]
    fn components_go_sorted_as_strings_with_two_decimals() {
        let mut both = report(vec![item("ram", "7"), item("cpu", "12.3")]);
        both.usages[1].description = Some("CPU".into());
        assert_eq!(
            body(&both).unwrap(),
            r#"{"resource":"00000000000000000000000000005e2f","usages":[{"type":"cpu","amount":"12.30","description":"CPU"},{"type":"ram","amount":"7.00"}]}"#
        );
        both.date = Some("2026-11-30T23:59:30.123456Z".parse().unwrap());
        both.plan_period = Some(Uuid::from_u128(1));
        let sent = body(&both).unwrap();
        assert!(sent.contains(
            r#""plan_period":"00000000000000000000000000000001","date":"2026-11-30T23:59:30.123456Z""#
        ));
    }

    #[test]
    fn what_would_harm_is_not_sent() {
        assert_eq!(body(&report(Vec::new())).unwrap_err().name(), "field");
        let wrong = [item("b", "-1"), item("a", "0.005"), item("c", "1"), item("c", "2")];
        let Err(Refusal::Items(items)) = body(&report(wrong.to_vec())) else { panic!("sent") };
        assert_eq!(items.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 3]);
        let mut long = item("a", "1");
        long.description = Some("x".repeat(2001));
        assert!(body(&report(vec![long])).is_err());
    }

    #[test]
    fn amounts_keep_their_value() {
        for (amount, sent) in [
            ("0", "0.00"),
            ("-0.00", "0.00"),
            ("1.100", "1.10"),
            ("1000", "1000.00"),
            ("999999999999999999.99", "999999999999999999.99"),
        ] {
            assert_eq!(two_places(amount.parse().unwrap()).unwrap(), sent);
        }
        assert!(two_places("1000000000000000000".parse().unwrap()).is_err());
        assert!(two_places(Decimal::MAX).is_err());
    }
}
