//! The daemon of a ledger: there is at most one. It holds a lock on a file beside the ledger, which dies with its process,
//! and tells in that file since when it runs, whether it goes on with an older configuration, and why it can't write the
//! ledger if it can't. So `status` knows of it without asking it. On a host of a shared ledger it is the daemon of the file
//! in which that host's runs wait. Nothing here ends another daemon.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType, fcntl_getlk};
use serde::{Deserialize, Serialize};

use crate::config::place::Place;
use crate::config::settings::{ConfigFile, Report, Settings};
use crate::ledger::LedgerError;
use crate::ledger::sent::lock::{give_to_owner, process_named};

/// What a daemon tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonState {
    pub since: Timestamp,
    /// When a new configuration was last refused, and why.
    pub reload_refused: Option<(Timestamp, String)>,
    /// Since when the ledger can't be written, and why.
    #[serde(default)]
    pub ledger_failing: Option<(Timestamp, String)>,
    /// The file that it works by, as it was when it was read.
    #[serde(default)]
    pub config: Option<ConfigFile>,
    /// Whether it never posts.
    #[serde(default)]
    pub shadow: Option<bool>,
}

/// A daemon that runs.
#[derive(Debug, Clone)]
pub struct Running {
    /// `None` where it runs on another machine, or in another container.
    pub pid: Option<u32>,
    pub told: Option<DaemonState>,
}

impl Running {
    /// `process 4711`, for people.
    pub fn name(&self) -> String {
        self.pid.map_or_else(|| "a process that is not seen from here".to_owned(), process_named)
    }
}

impl DaemonState {
    /// Whether its file says something else by now, or `ours`, another one, is not what it works by; in words.
    pub fn differs_from(&self, ours: Option<&ConfigFile>) -> Option<String> {
        let (its, ours) = self.config.as_ref().zip(ours)?;
        if its.digest == ours.digest {
            return None;
        }
        Some(match its.path == ours.path {
            true => {
                "the file was changed since it was read: reload with SIGHUP (`systemctl reload`)".to_owned()
            }
            false => format!("it works by another file, {}", its.path.display()),
        })
    }

    /// When a reload was last refused, and why, in one line.
    pub fn refusal(&self) -> Option<(Timestamp, String)> {
        self.reload_refused.as_ref().map(|(at, words)| (*at, in_one_line(words)))
    }
}

/// Several lines in one: what a heading says goes on with what stands under it.
pub(super) fn in_one_line(words: &str) -> String {
    let mut line = String::new();
    for part in words.lines().map(str::trim).filter(|part| !part.is_empty()) {
        line += match line.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        };
        line += part;
    }
    line
}

/// This process, as the one daemon of its ledger.
#[derive(Debug)]
pub(super) struct Instance {
    /// A lock of POSIX: it goes with the process, no child inherits it, and the kernel says who holds it. It would go, too,
    /// if this process opened the file once more and closed it.
    file: File,
    told: DaemonState,
}

impl Instance {
    /// Becomes the daemon of this ledger; the error is for the operator.
    pub(super) fn start(ledger: &Path, settings: &Settings, now: Timestamp) -> Result<Instance, String> {
        let told = DaemonState {
            since: now,
            reload_refused: None,
            ledger_failing: None,
            config: settings.file.clone(),
            shadow: Some(settings.report == Report::Shadow),
        };
        let path = file_of(ledger);
        let failed = |error: std::io::Error| format!("can't lock {}: {error}", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        give_to_owner(&file, ledger);
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                let other = holder(&file).map_or_else(|| "another process".to_owned(), |other| other.name());
                return Err(format!(
                    "a daemon is at work on the ledger {} already: {other}. One ledger has one daemon; `status` shows it, \
                     and `flush` is safe beside it",
                    ledger.display()
                ));
            }
            Err(error) => return Err(failed(error.into())),
        }
        let mut instance = Instance { file, told };
        instance.write();
        Ok(instance)
    }

    /// Tells what it works by from now on.
    pub(super) fn note_settings(&mut self, settings: &Settings) {
        self.told.config.clone_from(&settings.file);
        self.told.shadow = Some(settings.report == Report::Shadow);
    }

    /// Tells how the last reload went.
    pub(super) fn note_reload(&mut self, refused: Option<(Timestamp, String)>) {
        self.told.reload_refused = refused;
        self.write();
    }

    /// Tells whether the ledger can be written.
    pub(super) fn note_ledger(&mut self, error: Option<LedgerError>, now: Timestamp) {
        let since = self.told.ledger_failing.as_ref().map_or(now, |(since, _)| *since);
        let failing = error.map(|error| (since, error.to_string()));
        if failing != self.told.ledger_failing {
            self.told.ledger_failing = failing;
            self.write();
        }
    }

    /// For people only, so that a full disk does not matter.
    fn write(&mut self) {
        let file = &mut self.file;
        let text = serde_json::to_vec(&self.told).unwrap_or_default();
        let done =
            file.rewind().and_then(|()| file.write_all(&text)).and_then(|()| file.set_len(text.len() as u64));
        if let Err(error) = done {
            tracing::debug!("The daemon's file was not written: {error}");
        }
    }
}

/// The daemon that is at work on a ledger, if there is one. Not to be asked by the daemon itself.
pub fn running(ledger: &Place) -> Option<Running> {
    let path = file_of(ledger.file()?);
    let mut running = holder(&File::open(&path).ok()?)?;
    running.told = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    Some(running)
}

fn holder(file: &File) -> Option<Running> {
    let lock = fcntl_getlk(file, &Flock::from(FlockType::WriteLock)).ok()??;
    let pid = lock.pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    Some(Running { pid, told: None })
}

fn file_of(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".daemon");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_in_one_line() {
        let words = "not used: a.yaml has 2 mistakes:\n  line 3: one\n  line 4: two";
        assert_eq!(in_one_line(words), "not used: a.yaml has 2 mistakes: line 3: one; line 4: two");
    }
}
