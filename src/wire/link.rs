//! The `Link` header (RFC 8288): where the next page is. It asks nobody, and trusts no address.

/// The address with `rel="next"` in a `Link` header (RFC 8288), in whatever form it is written: blanks anywhere, `;`, `,` and
/// `>` within quotes, several addresses and several relations, single quotes, the relation as an address of IANA's. A header
/// that speaks of a next page and can't be read is an error: to take it for the last one would lose the rest.
pub fn next_link(header: &str) -> Result<Option<String>, String> {
    let mut rest = header;
    let mut is_odd = false;
    while let Some((before, after)) = rest.split_once('<') {
        is_odd |= !is_between(before);
        let Some((address, after)) = after.split_once('>') else { break };
        let Parameters { all, behind, is_closed } = parameters(after);
        rest = behind;
        is_odd |= !is_closed;
        if is_next(&all) {
            return Ok(Some(address.trim().to_owned()));
        }
    }
    is_odd |= !is_between(rest);
    let says_next =
        || header.to_ascii_lowercase().split(|c: char| !c.is_alphanumeric()).any(|word| word == "next");
    match is_odd && says_next() {
        true => Err(format!("its `Link` header speaks of a next page and can't be read: {}", short(header))),
        false => Ok(None),
    }
}

fn is_between(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || c == ',')
}

fn short(header: &str) -> String {
    header.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Of several relations of one address the first counts. `rel*` is the same in an encoded form (RFC 8187).
fn is_next(parameters: &[(String, String)]) -> bool {
    let named = |name: &str| parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let words = match (named("rel"), named("rel*")) {
        (Some((_, words)), _) => words.trim_matches('\''),
        (None, Some((_, words))) => words.rsplit('\'').next().unwrap_or_default(),
        (None, None) => return false,
    };
    words.split_whitespace().any(|word| {
        let word = word.to_ascii_lowercase();
        let (place, name) = word.rsplit_once(['/', '#']).unwrap_or(("", &word));
        name == "next" && (place.is_empty() || place.contains("//www.iana.org/assignments/"))
    })
}

/// The parameters of one address.
struct Parameters<'a> {
    all: Vec<(String, String)>,
    /// What stands behind the comma that ends them.
    behind: &'a str,
    /// Whether every quote is closed.
    is_closed: bool,
}

fn parameters(text: &str) -> Parameters<'_> {
    let mut parameters = Vec::new();
    let (mut name, mut value) = (String::new(), None::<String>);
    let mut characters = text.char_indices();
    let mut end = text.len();
    let mut is_closed = true;
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => {
                let value = value.get_or_insert_default();
                is_closed = false;
                while let Some((_, c)) = characters.next() {
                    match c {
                        '"' => {
                            is_closed = true;
                            break;
                        }
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
    Parameters { all: trimmed.collect(), behind: text.get(end..).unwrap_or_default(), is_closed }
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
            ("</a>; rel='next'", Some("/a")),
            ("</a>; rel='prefetch next', </b>; rel=last", Some("/a")),
            ("</a>; rel*=UTF-8''next", Some("/a")),
            ("</a>; rel=last; rel*=UTF-8''next", None),
            (r#"</a>; rel="http://www.iana.org/assignments/relation/next""#, Some("/a")),
            (r#"</a>; rel="https://www.iana.org/assignments/link-relations#next""#, Some("/a")),
            (r#"</a>; rel="https://example.com/rels/next""#, None),
            (r#", </a>; rel="last"; title="next" ,"#, None),
            ("/a; rel=last", None),
            ("", None),
            ("nonsense < more", None),
            ("</a>", None),
        ] {
            assert_eq!(next_link(header), Ok(next.map(str::to_owned)), "{header}");
        }
    }

    /// What would be "no next page" without a word.
    #[test]
    fn a_header_that_speaks_of_a_next_page_and_can_not_be_read_is_an_error() {
        for header in [
            "/a?page=2; rel=\"next\"",
            "</a?page=2; rel=next",
            "</b>; rel=last, /a?page=2; rel=next",
            r#"</a>; title="no end; rel=next"#,
            "next",
        ] {
            let said = next_link(header).unwrap_err();
            assert_eq!(said, format!("its `Link` header speaks of a next page and can't be read: {header}"));
        }
    }
}
