//! What every list of the API shares: query parameters, pages, `field=`, and the headers of the count (A §5).
//!
//! Which filters a list has is its own business; here is only how one is read, and that an unknown one is
//! silently ignored.

use jiff::civil::Date;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::answer::Answer;

/// A request's query, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    /// `http://host/path`, for the links to other pages.
    pub(crate) address: String,
}

impl Query {
    pub(crate) fn parse(query: &str, address: String) -> Self {
        Self { pairs: decode_form(query), address }
    }

    /// Of a parameter given twice the last counts; an empty one is as good as none.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    pub(crate) fn uuid(&self, name: &str) -> Result<Option<Uuid>, Answer> {
        self.read(name, "Enter a valid UUID.", |text| text.parse().ok())
    }

    pub(crate) fn date(&self, name: &str) -> Result<Option<Date>, Answer> {
        let day = |text: &str| (text.len() == 10).then(|| text.parse().ok()).flatten();
        self.read(name, "Enter a valid date.", day)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Answer> {
        // The official client sends months as floats: 11.0.
        self.read(name, "Enter a number.", |text| text.strip_suffix(".0").unwrap_or(text).parse().ok())
    }

    fn read<T>(
        &self,
        name: &str,
        error: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Answer> {
        match self.last(name) {
            None => Ok(None),
            Some(text) => parse(text.trim()).map(Some).ok_or_else(|| Answer::field(name, error)),
        }
    }

    /// The values of an ordering or choice filter, each of which must be one of those known.
    pub(crate) fn choices(&self, name: &str, known: &[&str]) -> Result<Vec<String>, Answer> {
        let values: Vec<String> = self.all(name).flat_map(|v| v.split(',')).map(str::to_owned).collect();
        match values.iter().find(|v| !known.contains(&v.as_str())) {
            None => Ok(values),
            Some(bad) => {
                let text = format!("Select a valid choice. {bad} is not one of the available choices.");
                Err(Answer::field(name, &text))
            }
        }
    }

    /// `resource=`: an address or path under /api/marketplace-resources/. `Some(None)` matches nothing.
    pub(crate) fn resource_link(&self) -> Option<Option<Uuid>> {
        let link = self.last("resource")?;
        let path =
            link.split_once("://").map_or(link, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
        let uuid = path.strip_prefix("/api/marketplace-resources/").and_then(|p| p.strip_suffix('/'));
        Some(uuid.and_then(|uuid| uuid.parse().ok()))
    }

    /// The address of another page; the first has no `page`.
    fn page_link(&self, page: usize) -> String {
        let mut pairs: Vec<_> = self.pairs.iter().filter(|(k, _)| k != "page").cloned().collect();
        if page > 1 {
            pairs.push(("page".into(), page.to_string()));
        }
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let query: Vec<_> = pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.address, query.join("&"))
    }
}

/// The window of a list that a query asks for.
pub(crate) struct Page {
    number: usize,
    size: usize,
    count: usize,
}

const DEFAULT_SIZE: usize = 10;
const LARGEST_SIZE: usize = 300;

impl Page {
    pub(crate) fn of(query: &Query, count: usize) -> Result<Self, Answer> {
        let asked = query.last("page_size").and_then(|text| text.trim().parse().ok()).filter(|n| *n > 0);
        let size = asked.unwrap_or(DEFAULT_SIZE).min(LARGEST_SIZE);
        let pages = count.div_ceil(size).max(1);
        let number = match query.last("page") {
            None => 1,
            Some("last") => pages,
            Some(text) => text
                .trim()
                .parse()
                .ok()
                .filter(|n| (1..=pages).contains(n))
                .ok_or_else(|| Answer::detail(404, "Invalid page."))?,
        };
        Ok(Self { number, size, count })
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Cuts the window out of all there is.
    pub(crate) fn cut<T>(&self, all: Vec<T>) -> Vec<T> {
        all.into_iter().skip((self.number - 1) * self.size).take(self.size).collect()
    }

    /// The answer with its rows, count and links.
    pub(crate) fn answer(&self, query: &Query, rows: Vec<Value>) -> Answer {
        let fields: Vec<&str> = query.all("field").collect();
        let rows = rows.into_iter().map(|row| only(row, &fields)).collect();
        let last = self.count.div_ceil(self.size).max(1);
        let mut links = vec![(1, "first")];
        if self.number > 1 {
            links.push((self.number - 1, "prev"));
        }
        if self.number < last {
            links.push((self.number + 1, "next"));
        }
        links.push((last, "last"));
        let links: Vec<_> = links
            .into_iter()
            .map(|(page, rel)| format!("<{}>; rel=\"{rel}\"", query.page_link(page)))
            .collect();
        Answer::json(200, &Value::Array(rows))
            .header("X-Result-Count", self.count.to_string())
            .header("Link", links.join(", "))
    }
}

/// `field=a&field=b`: only those keys; an unknown one leaves nothing (A §5).
pub(crate) fn only(row: Value, fields: &[&str]) -> Value {
    match row {
        Value::Object(all) if !fields.is_empty() => Value::Object(
            all.into_iter().filter(|(key, _)| fields.contains(&key.as_str())).collect::<Map<_, _>>(),
        ),
        row => row,
    }
}

/// `a=1&b=%20`: queries and form bodies.
pub(crate) fn decode_form(form: &str) -> Vec<(String, String)> {
    let pairs = form.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let (bytes, mut at) = (text.as_bytes(), 0);
    let mut out = Vec::with_capacity(bytes.len());
    while let Some(byte) = bytes.get(at) {
        let escaped =
            text.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        match escaped {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            b' ' => "+".into(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
