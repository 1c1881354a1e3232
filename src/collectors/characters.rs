//! What stands in JSON and is no character: half a surrogate pair (`\ud83d` alone), and bytes that are not UTF-8. It is marked,
//! so that what nobody reads stops nobody's bill, and what is read is refused: two names that differ in it alone must not become one.

use std::borrow::Cow;

/// What takes the place of what is no character: a code point that Unicode keeps free of characters for good, so that no text
/// that means something has it.
pub(super) const NO_CHARACTER: char = '\u{fdd0}';

/// JSON as text, with a mark for each thing in it that is no character.
pub(super) fn text_of(body: &[u8]) -> Cow<'_, str> {
    match without_lone_surrogates(body) {
        Cow::Borrowed(body) => {
            std::str::from_utf8(body).map_or_else(|_| Cow::Owned(marked(body)), Cow::Borrowed)
        }
        Cow::Owned(body) => Cow::Owned(marked(&body)),
    }
}

fn marked(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend((!chunk.invalid().is_empty()).then_some(NO_CHARACTER));
    }
    text
}

/// Half a surrogate pair (`\ud83d` alone) is no character; the mark takes its place, of the same length.
fn without_lone_surrogates(body: &[u8]) -> Cow<'_, [u8]> {
    const NONE: &[u8] = b"fdd0";
    let unit = |at: usize| {
        let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut mended = Cow::Borrowed(body);
    let mut at = 0;
    while let Some(found) = body.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += found;
        match unit(at) {
            // Both halves of one.
            Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                if let Some(digits) = mended.to_mut().get_mut(at + 2..at + 6) {
                    digits.copy_from_slice(NONE);
                }
                at += 6;
            }
            // An escaped `\\` is no beginning of another.
            _ => at += 2,
        }
    }
    mended
}
