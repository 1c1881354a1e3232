//! From one page to the next, and how to know that there is none.

use serde_json::Value as Json;

use super::expression::{Document, Expr, Scope, Value};
use super::fill::Fill;
use super::page::Seen;
use super::settings::Paging;
use crate::collectors::CollectorError;
use crate::collectors::web::{Answer, Url};

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
            Paging::Link => match answer.all_headers("link").find_map(|header| next_link(&header)) {
                Some(link) => to(answer, &link),
                None => Ok(Onward::Done),
            },
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

/// The address with `rel="next"` in a `Link` header (RFC 8288), in whatever form it is written: blanks anywhere, `;`, `,` and
/// `>` within quotes, several addresses and several relations.
fn next_link(header: &str) -> Option<String> {
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (address, after) = after.split_once('>')?;
        let (parameters, behind) = parameters(after);
        rest = behind;
        // Of several relations of one address the first counts.
        let relation = parameters.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("rel"));
        let is_next = relation
            .is_some_and(|(_, words)| words.split_whitespace().any(|word| word.eq_ignore_ascii_case("next")));
        if is_next {
            return Some(address.trim().to_owned());
        }
    }
}

/// The parameters of one address, and what stands behind the comma that ends them.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut parameters = Vec::new();
    let (mut name, mut value) = (String::new(), None::<String>);
    let mut characters = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => {
                let value = value.get_or_insert_default();
                while let Some((_, c)) = characters.next() {
                    match c {
                        '"' => break,
                        '\\' => value.extend(characters.next().map(|(_, c)| c)),
                        c => value.push(c),
                    }
                }
            }
            ';' | ',' => {
                parameters.push((std::mem::take(&mut name), value.take().unwrap_or_default()));
                if c == ',' {
                    end = at + 1;
                    break;
                }
            }
            '=' if value.is_none() => value = Some(String::new()),
            c => match &mut value {
                Some(value) => value.push(c),
                None => name.push(c),
            },
        }
    }
    parameters.push((name, value.unwrap_or_default()));
    let trimmed =
        parameters.into_iter().map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
    (trimmed.collect(), text.get(end..).unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::next_link;

    proptest! {
        #[test]
        fn no_header_makes_it_panic(any in any::<String>(), like in "[<>;,=\"\\\\ a-z/é]{0,60}") {
            let _ = (next_link(&any), next_link(&like));
        }
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        for (header, next) in [
            (
                r#"</api/v2.0/quotas?page=2&page_size=1>; rel="next""#,
                Some("/api/v2.0/quotas?page=2&page_size=1"),
            ),
            (r#"</a?page=1>; rel="prev" , </a?page=3>; rel="next""#, Some("/a?page=3")),
            (r#"<https://h/a,b?x>; title="a; b", <https://h/c>; rel=next"#, Some("https://h/c")),
            (r#"</a>; rel="last",</b>; rel="prefetch next""#, Some("/b")),
            ("</a>;rel=prev,\t </b>\t;\tREL = next ;title=x", Some("/b")),
            (r#"</a>; title="x, <y>; rel=next"; rel=last,   <  /b >; rel="NEXT""#, Some("/b")),
            (r#"</a>; title="a \"quoted\" , <c>; rel=next", </b>; rel=next"#, Some("/b")),
            (r#"</a>; rel=last; rel=next, </b>; rel='x'; rel=next"#, None),
            (r#"</a>; hreflang; rel=next"#, Some("/a")),
            (r#"</a>; anchor="x"; rel="first", </b?q=<x>; rel=next"#, Some("/b?q=<x")),
            (r#"</a>; rel="last""#, None),
            (r#"</a>; title="no end; rel=next"#, None),
            ("", None),
            ("nonsense < more", None),
            ("</a>", None),
        ] {
            assert_eq!(next_link(header).as_deref(), next, "{header}");
        }
    }
}
