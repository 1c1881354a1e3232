//! The `Link` header (RFC 8288): where the next page is. It asks nobody, and trusts no address.

/// The address with `rel="next"` in a `Link` header (RFC 8288), in whatever form it is written: blanks anywhere, `;`, `,` and
/// `>` within quotes, several addresses and several relations.
pub fn next_link(header: &str) -> Option<String> {
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
