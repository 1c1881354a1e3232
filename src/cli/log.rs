//! Logs on stderr: for a person at a terminal, for a file, or for systemd's journal, which gets each line's priority.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::progress::AboveProgress;
use super::text::colours;

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

pub(super) fn to_stderr(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    // The journal has its own clock, needs no colour, and shows the level where it filters by it.
    let done = match (format, journal()) {
        (LogFormat::Json, true) => log.json().with_writer(Journal).try_init(),
        (LogFormat::Json, false) => log.json().with_writer(|| AboveProgress).try_init(),
        (LogFormat::Text, true) => {
            log.without_time().with_level(false).with_ansi(false).with_writer(Journal).try_init()
        }
        (LogFormat::Text, false) => {
            log.with_ansi(colours(std::io::stderr().is_terminal())).with_writer(|| AboveProgress).try_init()
        }
    };
    drop(done);
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
        let priority = match *event.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        Event { priority, text: Vec::new() }
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
