//! What `init` says and writes: lines of 80 columns, and files that are whole or not there.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::exit::{Exit, Failed};
use crate::cli::text::fold;

/// A line for people, folded.
pub(super) fn tell(out: &mut dyn Write, before: &str, text: &str) -> Result<(), Failed> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    writeln!(out, "{}", fold(&format!("{before}{text}"), if before.is_empty() { 0 } else { 2 }))?;
    Ok(())
}

/// Whether a file can be written there, before anybody has answered anything.
pub(super) fn try_writing(path: &Path) -> Result<(), Failed> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let tried = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    tried
        .and_then(|_| std::fs::remove_file(&new))
        .map_err(|error| Failed::new(Exit::Config, format!("can't write {}: {error}", path.display())))
}

/// Writes a whole file or none: what was there stays until the new one is complete.
pub(super) fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), Failed> {
    let write = || {
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error: std::io::Error| {
        Failed::new(Exit::Config, format!("can't write {}: {error}", path.display()))
    })
}
