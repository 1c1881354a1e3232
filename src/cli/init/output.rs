//! What `init` says and writes: lines of 80 columns, and files that are whole or not there.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::draft::folded;
use crate::cli::exit::{Exit, Failed};

/// A line for people, folded.
pub(super) fn tell(out: &mut dyn Write, before: &str, text: &str) -> Result<(), Failed> {
    for line in folded(&format!("{before}{text}"), "") {
        writeln!(out, "{line}")?;
    }
    Ok(())
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
