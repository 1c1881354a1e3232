//! Undoes what a body is compressed as. The client library would stop behind the first of several gzip members (RFC 1952 2.2,
//! as servers and proxies write that compress piece by piece), and a part of an answer is none.

use std::io::{ErrorKind, Read};

use flate2::bufread::GzDecoder;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// What is asked for.
pub(super) const UNDERSTOOD: &str = "gzip";

/// Why a body can't be had from its compressed form.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It has more bytes than are allowed.
    TooLarge,
    BrokenOff,
    /// In the library's words.
    Broken(String),
}

/// How often a body is compressed with gzip; the error is the name of another coding.
pub(super) fn layers(headers: &HeaderMap) -> Result<usize, String> {
    let mut layers = 0;
    for value in headers.get_all(CONTENT_ENCODING) {
        for coding in String::from_utf8_lossy(value.as_bytes()).split(',') {
            match coding.trim().to_lowercase().as_str() {
                "" | "identity" => {}
                // The older name of the same (RFC 9110 8.4.1.3).
                UNDERSTOOD | "x-gzip" => layers += 1,
                other => return Err(other.to_owned()),
            }
        }
    }
    Ok(layers)
}

/// The body, and what is wrong with it: then it is the beginning.
pub(super) fn undo(layers: usize, mut body: Vec<u8>, limit: u64) -> (Vec<u8>, Option<Wrong>) {
    for _ in 0..layers {
        let mut plain = Vec::new();
        let undone = gunzip(&body, limit, &mut plain);
        body = plain;
        if let Err(wrong) = undone {
            return (body, Some(wrong));
        }
    }
    (body, None)
}

/// Every member, one after the other.
fn gunzip(packed: &[u8], limit: u64, plain: &mut Vec<u8>) -> Result<(), Wrong> {
    let mut rest = packed;
    // Behind the last one there may be zeros, as gzip(1) has it; anything else is more of the answer, or none.
    while !rest.is_empty() && (rest.len() == packed.len() || rest.iter().any(|byte| *byte != 0)) {
        let mut member = GzDecoder::new(rest);
        let room = limit.saturating_sub(plain.len() as u64).saturating_add(1);
        (&mut member).take(room).read_to_end(plain).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Wrong::BrokenOff,
            _ => Wrong::Broken(error.to_string()),
        })?;
        if plain.len() as u64 > limit {
            return Err(Wrong::TooLarge);
        }
        rest = member.into_inner();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_member_is_read_and_nothing_is_left_over() {
        let two = [gzip(b"a 5\n"), gzip(b""), gzip(b"b 5\n")].concat();
        assert_eq!(undo(1, two.clone(), 8), (b"a 5\nb 5\n".to_vec(), None));
        assert_eq!(undo(1, [&two[..], &[0; 512]].concat(), 8), (b"a 5\nb 5\n".to_vec(), None));
        assert_eq!(undo(2, gzip(&two), 1_000), (b"a 5\nb 5\n".to_vec(), None));
        assert_eq!(undo(1, Vec::new(), 8), (Vec::new(), None));
        assert_eq!(undo(1, two.clone(), 7), (b"a 5\nb 5\n".to_vec(), Some(Wrong::TooLarge)));
        for cut in 1..two.len() {
            let (_, wrong) = undo(1, two[..cut].to_vec(), 8);
            // Where a member ends, nothing tells that there was another.
            let is_end = [gzip(b"a 5\n").len(), two.len() - gzip(b"b 5\n").len()].contains(&cut);
            assert_eq!(wrong, (!is_end).then_some(Wrong::BrokenOff), "{cut}");
        }
        for behind in [&b"b 5\n"[..], b"\0\0b"] {
            let (_, wrong) = undo(1, [&gzip(b"a 5\n")[..], behind].concat(), 100);
            assert!(wrong.is_some(), "{behind:?}");
        }
        let mut torn = gzip(b"a 5\n");
        let crc = torn.len() - 8;
        torn[crc] ^= 1;
        assert!(matches!(undo(1, torn, 8).1, Some(Wrong::Broken(_))));
        assert!(matches!(undo(1, b"a 5\n and more".to_vec(), 100).1, Some(Wrong::Broken(_))));
    }

    #[test]
    fn codings_are_named_in_any_case() {
        let layers = |values: &[&'static str]| {
            let values = values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value)));
            layers(&values.collect::<HeaderMap>())
        };
        assert_eq!(layers(&[]), Ok(0));
        assert_eq!(layers(&["", "Identity"]), Ok(0));
        assert_eq!(layers(&["GZip"]), Ok(1));
        assert_eq!(layers(&["identity, X-GZIP"]), Ok(1));
        assert_eq!(layers(&["gzip, gzip"]), Ok(2));
        assert_eq!(layers(&["gzip, BR"]), Err("br".to_owned()));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(any in any::<Vec<u8>>(), cut in 0..40usize, limit in 0..9u64) {
            let _ = undo(1, any.clone(), limit);
            let mut packed = gzip(b"a 5\n");
            packed.extend(any);
            packed.truncate(cut);
            let (plain, _) = undo(2, packed, limit);
            prop_assert!(plain.len() as u64 <= limit + 1);
        }
    }
}
