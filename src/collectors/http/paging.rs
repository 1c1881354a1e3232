//! From one page to the next, and how to know that there is none.

use serde_json::Value as Json;

use super::expression::{Document, Expr, Scope, Value};
use super::fill::Fill;
use super::page::Seen;
use super::settings::Paging;
use crate::collectors::CollectorError;
use crate::collectors::web::{Answer, Url};
use crate::wire::link::next_link;

/// Where the next page is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Onward {
    Done,
    At(Url),
    /// Where the request's own templates lead, filled in anew.
    Filled,
}

impl Paging {
    /// Looks in an answer for what leads on.
    pub(super) fn look(&self, document: &Document, scope: &Scope, seen: &mut Seen) -> Result<(), String> {
        let word = |expr: &Expr| match document.value(expr, scope)? {
            Value::Nothing | Value::Flag(false) => Ok(None),
            Value::Text(text) if text.is_empty() => Ok(None),
            Value::Text(text) | Value::Number(text) => Ok(Some(text)),
            _ => Err(format!("`{}` yields no way to the next page", expr.as_str())),
        };
        match self {
            Paging::Next(expr) | Paging::Cursor(expr) => seen.next = word(expr)?,
            Paging::Page { more: Some(more), .. } | Paging::Offset { more: Some(more), .. } => {
                seen.more = match document.value(more, scope)? {
                    Value::Flag(more) => Some(more),
                    _ => return Err(format!("`{}` yields neither true nor false", more.as_str())),
                };
            }
            _ => {}
        }
        Ok(())
    }

    /// Decides after a page.
    pub(super) fn onward(
        &self,
        answer: &Answer,
        seen: &Seen,
        fill: &mut Fill,
    ) -> Result<Onward, CollectorError> {
        let is_last = !seen.more.unwrap_or(seen.rows > 0);
        match self {
            Paging::None => Ok(Onward::Done),
            Paging::Link => {
                let mut wrong = None;
                for header in answer.all_headers("link") {
                    match next_link(&header) {
                        Ok(Some(link)) => return to(answer, &link),
                        Ok(None) => {}
                        Err(why) => wrong = Some(why),
                    }
                }
                match wrong {
                    Some(why) => Err(CollectorError(format!("{}: {why}", answer.name()))),
                    None => Ok(Onward::Done),
                }
            }
            Paging::Next(_) => match &seen.next {
                Some(link) => to(answer, link),
                None => Ok(Onward::Done),
            },
            Paging::Cursor(_) => match &seen.next {
                None => Ok(Onward::Done),
                Some(cursor) if *cursor == fill.cursor => {
                    Err(CollectorError(format!("{}: the next page is the same page", answer.name())))
                }
                Some(cursor) => {
                    fill.cursor.clone_from(cursor);
                    Ok(Onward::Filled)
                }
            },
            Paging::Page { .. } | Paging::Offset { .. } if is_last => Ok(Onward::Done),
            Paging::Page { .. } => {
                fill.page += 1;
                Ok(Onward::Filled)
            }
            Paging::Offset { by, .. } => {
                fill.offset = fill.offset.saturating_add(*by);
                Ok(Onward::Filled)
            }
        }
    }
}

/// The address that a server names, on the server that was asked: behind a proxy servers often name themselves by
/// another scheme or port, and nobody else is to get the login.
fn to(answer: &Answer, link: &str) -> Result<Onward, CollectorError> {
    let url = &answer.url;
    let wrong = |why: &str| CollectorError(format!("{}: the next page {why}", answer.name()));
    let named = url.join(link).map_err(|_| wrong("has no address that can be read"))?;
    if named.host_str() != url.host_str() {
        return Err(wrong(&format!(
            "is on another server, {}, which is not asked",
            named.host_str().unwrap_or("?")
        )));
    }
    let mut next = url.clone();
    next.set_path(named.path());
    next.set_query(named.query());
    if next == *url {
        return Err(wrong("is the same page"));
    }
    Ok(Onward::At(next))
}

/// A posted body with its texts filled in.
pub(super) fn body(body: &Json, fill: &Fill) -> Result<Vec<u8>, CollectorError> {
    fn filled(json: &Json, fill: &Fill) -> Result<Json, String> {
        Ok(match json {
            Json::String(text) => Json::String(fill.fill(&text.parse()?)?),
            Json::Array(items) => {
                Json::Array(items.iter().map(|item| filled(item, fill)).collect::<Result<_, _>>()?)
            }
            Json::Object(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| Ok((key.clone(), filled(value, fill)?)));
                Json::Object(pairs.collect::<Result<_, String>>()?)
            }
            other => other.clone(),
        })
    }
    let body = filled(body, fill).map_err(CollectorError)?;
    serde_json::to_vec(&body).map_err(|error| CollectorError(error.to_string()))
}
