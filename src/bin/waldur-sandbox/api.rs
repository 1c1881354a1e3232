//! From an address to an answer: routes, the slash, languages of the wire, authentication, and who is asked.
//!
//! The order is the real server's: address (404, 301), `Accept` (406), token (401), method (405), body (415,
//! 400), then the endpoint's own rules.

use crate::answer::Answer;
use crate::discovery;

use crate::json::{self, Json};
use crate::lists::{Query, decode_form};
use crate::report;
use crate::request::Request;
use crate::set_usage;
use crate::usage_lists;
use crate::user_usage;
use crate::world::{Api, Caller, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    SetUsage,
    Usages,
    Usage(&'a str),
    SetUserUsage(&'a str),
    SetUserUsages(&'a str),
    UserUsages,
    UserUsage(&'a str),
    Resources,
    Resource(&'a str),
    PlanPeriods(&'a str),
    SetBackendId(&'a str),
    ConsumerResources,
    ConsumerResource,
    Offerings,
    Offering(&'a str),
    PublicOffering(&'a str),
    OfferingUsers,
    Me,
    Version,
    Configuration,
}

impl Route<'_> {
    fn posts(self) -> bool {
        matches!(
            self,
            Self::SetUsage | Self::SetUserUsage(_) | Self::SetUserUsages(_) | Self::SetBackendId(_)
        )
    }

    /// Anonymous callers are served.
    fn open(self) -> bool {
        matches!(self, Self::Configuration | Self::PublicOffering(_))
    }
}

fn route(path: &str, api: Api) -> Option<Route<'_>> {
    let parts: Vec<&str> = path.strip_prefix("/api/")?.split('/').collect();
    Some(match parts.as_slice() {
        ["marketplace-component-usages", ""] => Route::Usages,
        ["marketplace-component-usages", "set_usage", ""] => Route::SetUsage,
        ["marketplace-component-usages", uuid, ""] => Route::Usage(uuid),
        ["marketplace-component-usages", uuid, "set_user_usage", ""] => Route::SetUserUsage(uuid),
        ["marketplace-component-usages", uuid, "set_user_usages", ""] if api == Api::Current => {
            Route::SetUserUsages(uuid)
        }
        ["marketplace-component-user-usages", ""] => Route::UserUsages,
        ["marketplace-component-user-usages", uuid, ""] => Route::UserUsage(uuid),
        ["marketplace-provider-resources", ""] => Route::Resources,
        ["marketplace-provider-resources", uuid, ""] => Route::Resource(uuid),
        ["marketplace-provider-resources", uuid, "plan_periods", ""] => Route::PlanPeriods(uuid),
        ["marketplace-provider-resources", uuid, "set_backend_id", ""] => Route::SetBackendId(uuid),
        ["marketplace-resources", ""] => Route::ConsumerResources,
        ["marketplace-resources", _, ""] | ["marketplace-resources", _, "plan_periods", ""] => {
            Route::ConsumerResource
        }
        ["marketplace-provider-offerings", ""] => Route::Offerings,
        ["marketplace-provider-offerings", uuid, ""] => Route::Offering(uuid),
        ["marketplace-public-offerings", uuid, ""] => Route::PublicOffering(uuid),
        ["marketplace-offering-users", ""] => Route::OfferingUsers,
        ["users", "me", ""] => Route::Me,
        ["version", ""] => Route::Version,
        ["configuration", ""] => Route::Configuration,
        _ => return None,
    })
}

pub(crate) fn answer(world: &mut World, request: &Request) -> Answer {
    let Some(route) = route(&request.path, world.api) else {
        // Without its slash an address that exists is a 301, whatever the method (A §1).
        let slashed = format!("{}/", request.path);
        if crate::api::route(&slashed, world.api).is_none() {
            return Answer::no_page();
        }
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        return Answer::moved(format!("{slashed}{query}"));
    };
    if !accepts_json(request.accept.as_deref()) {
        return Answer::detail(406, "Could not satisfy the request Accept header.");
    }
    let caller = match authenticate(world, request) {
        Ok(caller) => Some(caller),
        Err(refusal) if !route.open() || request.authorization.is_some() => return refusal,
        Err(_) => None,
    };
    let allowed = if route.posts() {
        request.method == "POST"
    } else {
        matches!(request.method.as_str(), "GET" | "HEAD")
    };
    if !allowed {
        let methods = if route.posts() { "POST, OPTIONS" } else { "GET, HEAD, OPTIONS" };
        return Answer::detail(405, &format!("Method \"{}\" not allowed.", request.method))
            .header("Allow", methods);
    }
    let query = Query::parse(&request.query, format!("http://{}{}", request.host, request.path));
    match caller {
        Some(caller) if route.posts() => post(world, &caller, route, request),
        Some(caller) => read(world, &caller, route, request, &query).unwrap_or_else(|refusal| refusal),
        None => match route {
            Route::PublicOffering(uuid) => discovery::one_offering(world, None, &query, uuid),
            _ => discovery::configuration(),
        },
    }
}

fn post(world: &mut World, caller: &Caller, route: Route<'_>, request: &Request) -> Answer {
    let body = match body(request) {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    match route {
        Route::SetUsage => set_usage::set_usage(world, caller, &body),
        Route::SetUserUsage(row) => user_usage::set_one(world, caller, row, &body),
        Route::SetUserUsages(row) => user_usage::set_many(world, caller, row, &body),
        Route::SetBackendId(uuid) => discovery::set_backend_id(world, caller, uuid, &body),
        _ => Answer::no_page(),
    }
}

fn read(
    world: &World,
    caller: &Caller,
    route: Route<'_>,
    request: &Request,
    query: &Query,
) -> Result<Answer, Answer> {
    Ok(match route {
        Route::Usages => usage_lists::usages(world, query)?,
        Route::Usage(uuid) => usage_lists::one_usage(world, query, uuid),
        Route::UserUsages => usage_lists::user_usages(world, query)?,
        Route::UserUsage(uuid) => usage_lists::one_user_usage(world, query, uuid),
        Route::Resources => discovery::resources(world, caller, query)?,
        Route::Resource(uuid) => discovery::one_resource(world, caller, query, uuid),
        Route::PlanPeriods(uuid) => discovery::plan_periods(world, caller, uuid),
        // The consumer's view: empty for a provider (A §8), everything for staff.
        Route::ConsumerResources if caller.staff => discovery::resources(world, caller, query)?,
        Route::ConsumerResources => crate::lists::Page::of(query, 0)?.answer(query, Vec::new()),
        Route::ConsumerResource => Answer::detail(404, "No Resource matches the given query."),
        Route::Offerings => discovery::offerings(world, caller, query)?,
        Route::Offering(uuid) => discovery::one_offering(world, Some(caller), query, uuid),
        Route::PublicOffering(uuid) => discovery::one_offering(world, None, query, uuid),
        Route::OfferingUsers => discovery::offering_users(world, caller, query)?,
        Route::Me => match token_of(request).and_then(|key| Some((key, world.tokens.get(key)?))) {
            Some((key, token)) => discovery::me(world, key, token, query),
            None => Answer::unauthorized("Invalid token."),
        },
        Route::Version => discovery::version(caller),
        Route::Configuration => discovery::configuration(),
        Route::SetUsage | Route::SetUserUsage(_) | Route::SetUserUsages(_) | Route::SetBackendId(_) => {
            Answer::no_page()
        }
    })
}

/// Whether a call would be the first `set_usage` of the month for its customer.
pub(crate) fn is_first_of_month(world: &World, request: &Request) -> bool {
    request.method == "POST"
        && route(&request.path, world.api) == Some(Route::SetUsage)
        && body(request).is_ok_and(|body| report::is_first_of_month(world, &body))
}

/// The token that a request carries, if it carries one in the right form.
pub(crate) fn token_of(request: &Request) -> Option<&str> {
    let mut words = request.authorization.as_deref()?.split_whitespace();
    let scheme = words.next()?;
    let token = words.next()?;
    (scheme.eq_ignore_ascii_case("token") && words.next().is_none()).then_some(token)
}

fn authenticate(world: &mut World, request: &Request) -> Result<Caller, Answer> {
    let now = world.clock.now();
    let words: Vec<&str> = request.authorization.as_deref().unwrap_or_default().split_whitespace().collect();
    let key = match words.as_slice() {
        [scheme, rest @ ..] if scheme.eq_ignore_ascii_case("token") => match rest {
            [] => return Err(Answer::unauthorized("Invalid token. No credentials provided.")),
            [key] => *key,
            _ => return Err(Answer::unauthorized("Invalid token. Token string should not contain spaces.")),
        },
        _ => return Err(Answer::unauthorized("Authentication credentials were not provided.")),
    };
    let Some(token) = world.tokens.get_mut(key) else { return Err(Answer::unauthorized("Invalid token.")) };
    if !token.active {
        return Err(Answer::unauthorized("User inactive or deleted."));
    }
    let idle = now.duration_since(token.last_used).as_secs();
    if token.lifetime.is_some_and(|lifetime| idle > lifetime) {
        return Err(Answer::unauthorized("Token has expired."));
    }
    // Sliding: every authenticated request begins it anew (A §9).
    token.last_used = now;
    Ok(token.caller())
}

fn accepts_json(accept: Option<&str>) -> bool {
    let ranges =
        accept.unwrap_or("*/*").split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    let mut ranges = ranges.filter(|range| !range.is_empty()).peekable();
    ranges.peek().is_none()
        || ranges.any(|range| matches!(range, "*/*" | "application/*" | "application/json"))
}

fn body(request: &Request) -> Result<Json, Answer> {
    let nothing = Json::Object(Vec::new());
    // A chunked body has no length, and what has no length is not read (A §1).
    if !request.has_length || request.body.is_empty() {
        return Ok(nothing);
    }
    let written = request.content_type.as_deref().unwrap_or_default();
    match written.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => json::parse(&request.body)
            .map_err(|error| Answer::detail(400, &format!("JSON parse error - {error}"))),
        "application/x-www-form-urlencoded" => Ok(form(&String::from_utf8_lossy(&request.body))),
        _ => Err(Answer::detail(415, &format!("Unsupported media type \"{written}\" in request."))),
    }
}

/// `usages[0]type=cpu_hours&usages[0]amount=5` (A §1).
fn form(text: &str) -> Json {
    let mut fields: Vec<(String, Json)> = Vec::new();
    let mut items: std::collections::BTreeMap<usize, Vec<(String, Json)>> = std::collections::BTreeMap::new();
    for (key, value) in decode_form(text) {
        let inner = key.strip_prefix("usages[").and_then(|rest| rest.split_once(']'));
        match inner.and_then(|(number, name)| Some((number.parse().ok()?, name))) {
            Some((number, name)) => {
                let name = name.trim_start_matches(['.', '[']).trim_end_matches(']').to_owned();
                items.entry(number).or_default().push((name, Json::text(value)));
            }
            None => fields.push((key, Json::text(value))),
        }
    }
    if !items.is_empty() {
        fields.push(("usages".into(), Json::List(items.into_values().map(Json::Object).collect())));
    }
    Json::Object(fields)
}
