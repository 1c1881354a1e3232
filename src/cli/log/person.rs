//! Log lines of a command for the person who waits for it at a terminal: folded as everything else is, and without the time,
//! which is now.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::text::fold_all;

#[derive(Debug)]
pub(super) struct ForPerson {
    pub(super) colours: bool,
}

impl<S, N> FormatEvent<S, N> for ForPerson
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut words = String::new();
        context.format_fields(Writer::new(&mut words), event)?;
        let level = event.metadata().level();
        // Colours come after folding: they take no column.
        let text = fold_all(&format!("{level} {words}"), 2);
        let rest = text.strip_prefix(level.as_str()).filter(|_| self.colours);
        match rest {
            Some(rest) => writeln!(out, "\u{1b}[{}m{level}\u{1b}[0m{rest}", colour(*level)),
            None => writeln!(out, "{text}"),
        }
    }
}

/// Red, yellow, green, blue and magenta, as tracing has them.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    }
}
