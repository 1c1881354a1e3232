//! Logs on stderr: for a person at a terminal, for a file, or for systemd's journal, which gets each line's priority, and of
//! the daemon the fields that a line is about.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::progress::AboveProgress;
use super::text::{colours, shown};
use native::{Native, priority};
use person::ForPerson;

mod native;
mod person;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(super) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What lines are about; their words name it, too.
const FIELDS: [&str; 4] = ["collector", "resource", "component", "period"];

/// `lasts`: it is a daemon. The journal knows what unit an entry is of by asking for its process, so that of a command that
/// is gone by then it would not be found among the unit's.
pub(super) fn to_stderr(level: LogLevel, format: LogFormat, lasts: bool) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let journal = journal();
    if journal && lasts && format == LogFormat::Text {
        let lines = |priority, text: &str| drop(Event { priority, text: format!("{text}\n").into() });
        if let Some(native) = Native::connect(Path::new(native::SOCKET), lines) {
            let log = tracing_subscriber::registry().with(LevelFilter::from_level(level)).with(native);
            drop(log.try_init());
            return;
        }
    }
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    // The journal has its own clock, needs no colour, and shows the level where it filters by it.
    let done = match (format, journal) {
        (LogFormat::Json, true) => log.json().with_writer(Journal).try_init(),
        (LogFormat::Json, false) => log.json().with_writer(|| AboveProgress).try_init(),
        (LogFormat::Text, true) => {
            let log = log.without_time().with_level(false).with_ansi(false).fmt_fields(words());
            log.with_writer(Journal).try_init()
        }
        (LogFormat::Text, false) if !lasts && std::io::stderr().is_terminal() => {
            let log = log.fmt_fields(words()).event_format(ForPerson { colours: colours(true) });
            log.with_writer(|| AboveProgress).try_init()
        }
        (LogFormat::Text, false) => {
            let log = log.with_ansi(colours(std::io::stderr().is_terminal())).fmt_fields(words());
            log.with_writer(|| AboveProgress).try_init()
        }
    };
    drop(done);
}

/// For people, who read in the words what a line is about.
fn words() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|out, field, value| match field.name() {
        "message" => write!(out, "{}", shown(&format!("{value:?}"))),
        name if FIELDS.contains(&name) => Ok(()),
        name => write!(out, " {name}={value:?}"),
    })
}

/// Whether stderr is what systemd connected to the journal: it names that file in JOURNAL_STREAM. A program whose stderr
/// goes elsewhere inherits the variable, too.
fn journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::io::stderr();
    nix::sys::stat::fstat(stderr.as_fd())
        .is_ok_and(|file| named == format!("{}:{}", file.st_dev, file.st_ino))
}

/// Stderr with each line's priority before it, as sd-daemon(3) has it.
#[derive(Debug)]
struct Journal;

/// One event on its way to the journal.
struct Event {
    priority: u8,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event { priority: 6, text: Vec::new() }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Event {
        Event { priority: priority(*event.level()), text: Vec::new() }
    }
}

impl Event {
    /// The journal makes an entry of each line, and would take the second for one of no importance.
    fn lines(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 8);
        for line in self.text.split_inclusive(|byte| *byte == b'\n') {
            out.extend(format!("<{}>", self.priority).bytes());
            out.extend(line);
        }
        out
    }
}

impl Write for Event {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // In one piece, so that lines of two threads don't mix. Nobody is left to be told if it fails.
        let _ = std::io::stderr().lock().write_all(&self.lines());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        let event = Event { priority: 4, text: b"The ledger is full.\n  what to do: make room\n".to_vec() };
        assert_eq!(event.lines(), b"<4>The ledger is full.\n<4>  what to do: make room\n");
    }
}
