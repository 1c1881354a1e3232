//! Lines for systemd's journal by its native protocol (one datagram an entry), which takes fields beside the message: the
//! line's priority, and the collector, resource, component and period that it is about. `journalctl COLLECTOR=name` finds
//! them. It decides nothing about what is logged.

use std::borrow::Cow;
use std::fmt::{Debug, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::cli::text::shown;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// As syslog(3) has it.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// The journal, and what is done with a line that it does not take.
#[derive(Debug)]
pub(super) struct Native {
    socket: UnixDatagram,
    otherwise: fn(u8, &str),
}

impl Native {
    /// `None`: nobody listens there.
    pub(super) fn connect(path: &Path, otherwise: fn(u8, &str)) -> Option<Native> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(path).ok()?;
        Some(Native { socket, otherwise })
    }
}

impl<S: Subscriber> Layer<S> for Native {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let priority = priority(*event.metadata().level());
        let mut entry = Entry::default();
        event.record(&mut entry);
        if self.socket.send(&entry.datagram(priority)).is_err() {
            (self.otherwise)(priority, &entry.message);
        }
    }
}

/// What a line says, and what it is about.
#[derive(Debug, Default)]
struct Entry {
    message: String,
    fields: Vec<(String, String)>,
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}"); // Into a String nothing fails.
        // The journal shows a value with controls in it as a blob.
        if let Cow::Owned(plain) = shown(&text) {
            text = plain;
        }
        match field.name() {
            "message" => self.message = text,
            name => self.fields.push((name.to_owned(), text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

impl Entry {
    fn datagram(&self, priority: u8) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.message.len() + 128);
        put(&mut out, "MESSAGE", &self.message);
        put(&mut out, "PRIORITY", &priority.to_string());
        put(&mut out, "SYSLOG_IDENTIFIER", env!("CARGO_PKG_NAME"));
        for (name, value) in &self.fields {
            // Names have capitals, digits and underscores there.
            let name: String = name
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                .collect();
            put(&mut out, &name, value);
        }
        out
    }
}

/// A value of several lines has its length before it.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend(name.bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value.bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn a_line_arrives_with_its_priority_and_what_it_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Native::connect(&path, |_, _| ()).is_none(), "nobody listens");
        let journal = UnixDatagram::bind(&path).unwrap();
        let native = Native::connect(&path, |_, _| ()).unwrap();
        let subscriber = tracing_subscriber::registry().with(native);
        tracing::subscriber::with_default(subscriber, || {
            let resource: Option<&str> = None;
            tracing::warn!(collector = %"cluster", component = "cpu", resource, "Collector {}:\nfails", "cluster");
        });
        let mut entry = [0; 1000];
        let length = journal.recv(&mut entry).unwrap();
        // 25 bytes of message, by hand.
        let wanted = b"MESSAGE\n\x18\0\0\0\0\0\0\0Collector cluster:\nfails\nPRIORITY=4\nSYSLOG_IDENTIFIER=waldur-usage-agent\n\
                       COLLECTOR=cluster\nCOMPONENT=cpu\n";
        assert_eq!(String::from_utf8_lossy(&entry[..length]), String::from_utf8_lossy(wanted));
    }
}
