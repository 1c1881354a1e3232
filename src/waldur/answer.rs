//! Decides what an answer means: the one place where a status and a body become a success or a `Failure`.
//!
//! It is pure: it opens no connection and asks no clock.

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, LINK, LOCATION, RETRY_AFTER};
use serde_json::Value;

use super::failure::Failure;
use super::refusal::Refusal;
use crate::wire::link::next_link;
use crate::wire::words::{clean, of_body};

/// No server means to be left alone for longer, and a garbled header must not silence the agent.
const LONGEST_REST: SignedDuration = SignedDuration::from_hours(24);

static DATE_PARSER: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What a call hopes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// 200 and JSON.
    Read,
    /// 201, nothing else: a proxy's 200 or 202 says nothing of what the server did.
    Created,
    /// 200 or 201, and JSON: what became of what was written.
    Written,
}

impl Answer {
    /// The server's clock when it answered.
    pub(super) fn date(&self) -> Option<Timestamp> {
        http_date(self.header(DATE.as_str())?)
    }

    /// How many rows the whole list has (observed: `X-Result-Count`).
    pub(super) fn count(&self) -> Option<usize> {
        self.header("x-result-count")?.trim().parse().ok()
    }

    /// Whether the server says that another page follows; `None` if it does not say.
    pub(super) fn has_next(&self) -> Option<bool> {
        let mut links = self.headers.get_all(LINK).iter().peekable();
        links.peek()?;
        // One that speaks of a next page and can't be read is no sign that there is none.
        Some(links.any(|link| next_link(&String::from_utf8_lossy(link.as_bytes())) != Ok(None)))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn is_json(&self) -> bool {
        self.header(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.contains("json"))
    }

    /// The answer itself if it is what was wanted, or else what went wrong.
    pub(super) fn judge(self, call: &str, wanted: Wanted, now: Timestamp) -> Result<Answer, Failure> {
        let call = call.to_owned();
        let words = || of_body(&self.body);
        match self.status.as_u16() {
            200 if wanted == Wanted::Read && self.is_json() => Ok(self),
            200 | 201 if wanted == Wanted::Written && self.is_json() => Ok(self),
            201 if wanted == Wanted::Created && (self.body.is_empty() || self.is_json()) => Ok(self),
            300..=399 => Err(Failure::Redirected { call, words: self.pointed_to() }),
            400 if self.is_json() => match Refusal::parse(&self.body) {
                Some(refusal) => Err(Failure::Refused { call, refusal }),
                None => Err(self.unknown(call, now)),
            },
            401 => Err(Failure::Token { call, words: words() }),
            403 => Err(Failure::Forbidden { call, words: words() }),
            404 if self.is_of_an_object() => Err(Failure::Missing { call, words: words() }),
            404 | 405 => Err(Failure::Endpoint { call, words: words() }),
            _ => Err(self.unknown(call, now)),
        }
    }

    fn unknown(&self, call: String, now: Timestamp) -> Failure {
        let status = self.status;
        let words = match of_body(&self.body) {
            words if words.is_empty() => status.canonical_reason().unwrap_or_default().to_owned(),
            words => words,
        };
        Failure::Unknown { call, status: Some(status.as_u16()), words, retry_after: self.retry_after(now) }
    }

    /// A 404 of an object names what it did not find (observed: `No Resource matches the given query.`); that of
    /// an address is a page, or the bare `Not found.`
    fn is_of_an_object(&self) -> bool {
        match serde_json::from_slice::<Value>(&self.body) {
            Ok(Value::Object(fields)) => fields
                .get("detail")
                .and_then(Value::as_str)
                .is_some_and(|detail| !matches!(detail.trim(), "" | "Not found" | "Not found.")),
            _ => false,
        }
    }

    /// How long to wait, from `Retry-After`: seconds, or a date that is judged by the server's own clock.
    fn retry_after(&self, now: Timestamp) -> Option<SignedDuration> {
        let text = self.header(RETRY_AFTER.as_str())?.trim();
        let rest = match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            true => SignedDuration::from_secs(text.parse().unwrap_or(i64::MAX)),
            false => http_date(text)?.duration_since(self.date().unwrap_or(now)),
        };
        Some(rest.clamp(SignedDuration::ZERO, LONGEST_REST))
    }

    /// Where a redirect points, without what could be secret in it.
    fn pointed_to(&self) -> String {
        let Some(text) = self.header(LOCATION.as_str()) else { return "nowhere".to_owned() };
        match reqwest::Url::parse(text) {
            Ok(mut url) => {
                // These cannot fail for an address with a host; for one without there is nothing to remove.
                let _ = url.set_username("");
                let _ = url.set_password(None);
                url.set_query(None);
                url.set_fragment(None);
                clean(url.as_str())
            }
            Err(_) => clean(text.split(['?', '#']).next().unwrap_or_default()),
        }
    }
}

/// A date as HTTP writes it, also in the two forms that are obsolete and that every client is asked to read (RFC 9110).
fn http_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = DATE_PARSER.parse_timestamp(text) {
        return Some(at);
    }
    // `Thursday, 05-Nov-26 10:00:08 GMT`, or `Thu Nov  5 10:00:08 2026`. The day of the week says nothing.
    let (form, date) = match text.split_once(',') {
        Some((_, date)) => ("%d-%b-%y %H:%M:%S", date.trim().strip_suffix("GMT")?),
        None => ("%b %d %H:%M:%S %Y", text.split_once(' ')?.1),
    };
    let date = date.split_whitespace().collect::<Vec<_>>().join(" ");
    let civil = jiff::civil::DateTime::strptime(form, &date).ok()?;
    civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: &str = "<html><head><title>Not Found</title></head></html>";

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap()));
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: headers.collect(), body: body.as_bytes().to_vec() }
    }

    fn json(status: u16, body: &str) -> Answer {
        answer(status, &[("content-type", "application/json")], body)
    }

    fn failed(answer: Answer) -> Failure {
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        answer.judge("POST x", Wanted::Created, now).unwrap_err()
    }

    #[test]
    fn each_status_means_one_thing() {
        for (answer, name) in [
            (json(401, r#"{"detail":"Token has expired."}"#), "token"),
            (json(403, r#"{"detail":"You do not have permission to perform this action."}"#), "forbidden"),
            (json(404, r#"{"detail":"No ComponentUsage matches the given query."}"#), "missing"),
            (json(404, r#"{"detail":"Invalid page."}"#), "missing"),
            (json(404, r#"{"detail":"Not found."}"#), "endpoint"),
            (answer(404, &[("content-type", "text/html")], PAGE), "endpoint"),
            (json(405, r#"{"detail":"Method \"GET\" not allowed."}"#), "endpoint"),
            (json(400, r#"{"plan_period":["Billing period is closed."]}"#), "refused"),
            (json(400, r#"{"message":"bad upstream"}"#), "unknown"),
            (answer(400, &[("content-type", "text/html")], "<title>Bad Request (400)</title>"), "unknown"),
            (json(406, r#"{"detail":"Could not satisfy the request Accept header."}"#), "unknown"),
            (answer(200, &[], ""), "unknown"),
            (answer(202, &[], ""), "unknown"),
            (answer(201, &[("content-type", "text/html")], "<p>Welcome"), "unknown"),
            (answer(408, &[], ""), "unknown"),
            (answer(429, &[], ""), "unknown"),
            (answer(500, &[("content-type", "text/html")], "<title>Server Error (500)</title>"), "unknown"),
            (answer(504, &[], ""), "unknown"),
            (answer(301, &[("location", "https://x.example.com/api/?token=1#y")], ""), "redirected"),
        ] {
            let shown = format!("{answer:?}");
            assert_eq!(failed(answer).name(), name, "{shown}");
        }
    }

    #[test]
    fn success_is_what_was_asked_for() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(answer(201, &[("content-length", "0")], "").judge("", Wanted::Created, now).is_ok());
        assert!(json(200, "[]").judge("", Wanted::Read, now).is_ok());
        assert!(answer(200, &[("content-type", "text/html")], PAGE).judge("", Wanted::Read, now).is_err());
    }

    #[test]
    fn a_redirect_tells_where_to_without_secrets() {
        let to = "https://me:pw@x.example.com/api/?token=1#y";
        assert_eq!(failed(answer(301, &[("location", to)], "")).words(), "https://x.example.com/api/");
        assert_eq!(failed(answer(302, &[("location", "/login?t=1")], "")).words(), "/login");
    }

    #[test]
    fn retry_after_is_read_in_all_forms_and_bounded() {
        let rest = |headers: &[(&'static str, &str)]| failed(answer(503, headers, "")).retry_after();
        assert_eq!(rest(&[("retry-after", "120")]), Some(SignedDuration::from_secs(120)));
        let until = ("retry-after", "Mon, 23 Nov 2026 00:02:00 GMT");
        assert_eq!(rest(&[until]), Some(SignedDuration::from_secs(120)));
        for date in
            ["Mon Nov 23 00:02:00 2026", "Monday, 23-Nov-26 00:02:00 GMT", "Thu, 23-Nov-26 00:02:00 GMT"]
        {
            assert_eq!(rest(&[("retry-after", date)]), Some(SignedDuration::from_secs(120)), "{date}");
        }
        // A day of one digit has a blank before it.
        assert_eq!(http_date("Thu Nov  5 10:00:08 2026"), "2026-11-05T10:00:08Z".parse().ok());
        assert_eq!(http_date("Sunday, 06-Nov-94 08:49:37 GMT"), "1994-11-06T08:49:37Z".parse().ok());
        for nonsense in ["Thursday, 05-Nov-26 10:00:08 CET", "Thu Nov 31 10:00:08 2026", "Thu", ",", "Nov 5"]
        {
            assert_eq!(rest(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        let by_its_clock = ("date", "Mon, 23 Nov 2026 00:01:30 GMT");
        assert_eq!(rest(&[until, by_its_clock]), Some(SignedDuration::from_secs(30)));
        let past = ("date", "Mon, 23 Nov 2026 01:00:00 GMT");
        assert_eq!(rest(&[until, past]), Some(SignedDuration::ZERO));
        assert_eq!(rest(&[("retry-after", "99999999999999999999999")]), Some(LONGEST_REST));
        assert_eq!(rest(&[("retry-after", "soon")]), None);
        assert_eq!(rest(&[("retry-after", "")]), None);
        assert_eq!(rest(&[]), None);
    }

    #[test]
    fn a_links_next_is_seen() {
        let first = "<http://x/?page_size=5>; rel=\"first\", <http://x/?page=2>; rel=\"next\"";
        assert_eq!(answer(200, &[("link", first)], "").has_next(), Some(true));
        assert_eq!(answer(200, &[("link", "<http://x/>; rel=\"first\"")], "").has_next(), Some(false));
        assert_eq!(answer(200, &[], "").has_next(), None);
        let title = "<http://x/>; rel=last; title=\"rel=next\"";
        assert_eq!(answer(200, &[("link", title)], "").has_next(), Some(false));
        assert_eq!(answer(200, &[("x-result-count", "108")], "").count(), Some(108));
    }

    proptest! {
        #[test]
        fn any_answer_is_judged_without_a_panic(
            status in 200u16..600,
            body in proptest::collection::vec(any::<u8>(), 0..200),
            value in "[ -~]{0,40}",
        ) {
            let headers = [("content-type", "application/json"), ("retry-after", &value), ("date", &value),
                ("location", &value), ("link", &value)];
            let mut answer = answer(status, &headers, "");
            answer.body = body;
            let _ = (answer.date(), answer.count(), answer.has_next());
            let _ = answer.judge("x", Wanted::Read, Timestamp::UNIX_EPOCH).map_err(|f| f.to_string());
        }
    }
}
