//! What stands after an option, read in words that say what is meant. Nothing here knows what it is for.

use jiff::Timestamp;
use jiff::civil::Date;

pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is not an instant such as 2026-11-10T12:00:00Z"))
}

pub(super) fn day(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| format!("`{text}` is not a day such as 2026-11-10"))
}
