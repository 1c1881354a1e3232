//! A turn at something that one process of many does at a time, as a row in the shared database: who has it, its number,
//! and until when, by the database's clock.
//!
//! Whoever has it renews it; whoever does not may take it when its time is over, or at once where the holder was a process
//! of the same machine that is gone. Each holder gets the next number, so that an older one can be told from a newer one. It
//! never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::error::LedgerError;
use super::process::Process;
use super::server::{self, NOW, Use};
use super::sql::{Connection, Error, OptionalExtension, Result, params};
use crate::config::place::{Database, Place};

/// How long a turn lasts when nobody renews it, in microseconds: a holder that died is followed within this and the time
/// that another takes to look.
const LASTS: i64 = 6_000_000;
/// A holder that misses two of these is still in time.
const RENEWED_EVERY: Duration = Duration::from_millis(1500);

/// A database that does not answer for so long can't be told from one that another writes meanwhile.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(2);

/// A turn that this process has; given back when it is dropped.
#[derive(Debug)]
pub(in crate::ledger) struct Lease {
    number: i64,
    lost: Arc<AtomicBool>,
    /// Dropped first: it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    /// Closed when the thread has ended.
    ended: mpsc::Receiver<()>,
}

impl Lease {
    /// The turn of this name, if nobody has it.
    pub(in crate::ledger) fn try_take(
        database: &Database,
        name: &str,
    ) -> std::result::Result<Option<Lease>, LedgerError> {
        let wrap = |error| LedgerError::from_sql(&Place::Database(database.clone()), error);
        let connection = server::connect(database, Use::Write).map_err(wrap)?;
        let Some(number) = take(&connection, name).map_err(wrap)? else { return Ok(None) };
        connection.set_answer_timeout(ANSWERED_WITHIN);
        let (stop, stopped) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let lost = Arc::new(AtomicBool::new(false));
        let noted = lost.clone();
        let name = name.to_owned();
        std::thread::spawn(move || {
            let _ends = ends;
            let mut renewed = Instant::now();
            while stopped.recv_timeout(RENEWED_EVERY) == Err(RecvTimeoutError::Timeout) {
                let asked = Instant::now();
                // What can't be renewed now is tried again; meanwhile its time may run out, which others see for themselves.
                match renew(&connection, &name, number, LASTS) {
                    Ok(true) => renewed = asked,
                    Ok(false) => noted.store(true, Ordering::Relaxed),
                    Err(Error::NoAnswer(_)) if micros(renewed.elapsed()) > LASTS => {
                        noted.store(true, Ordering::Relaxed);
                    }
                    Err(_) => {}
                }
            }
            drop(renew(&connection, &name, number, 0));
        });
        Ok(Some(Lease { number, lost, stop: Some(stop), ended }))
    }

    pub(in crate::ledger) fn number(&self) -> i64 {
        self.number
    }

    /// Whether another has taken it since, or may have without our knowing.
    pub(in crate::ledger) fn lost(&self) -> Arc<AtomicBool> {
        self.lost.clone()
    }

    /// Who has it, for people.
    pub(in crate::ledger) fn holder(database: &Database, name: &str) -> String {
        let holder = server::connect(database, Use::Read).and_then(|connection| {
            connection
                .query_row("SELECT holder FROM lease WHERE name = ?", [name], |row| row.get(0))
                .optional()
        });
        holder.ok().flatten().unwrap_or_else(|| "another process".to_owned())
    }
}

/// The row that says that agents report from this ledger; its holder is the last that began to.
pub(in crate::ledger) const REPORTS: &str = "report: live";
/// The row that says that an agent would submit and stands by; it lasts for seconds.
pub(in crate::ledger) const WAITS: &str = "waits";

/// How long one is believed to wait that said so.
const WAITS_FOR: i64 = 10_000_000;

/// Says this of itself.
pub(in crate::ledger) fn note(database: &Database, what: &str) -> Result<()> {
    server::connect(database, Use::Write)?
        .prepare(&format!(
            "INSERT INTO lease (name, holder, process, number, until) VALUES (?1, ?2, '', 0, {NOW} + ?3)
             ON CONFLICT (name) DO UPDATE SET holder = ?2, until = {NOW} + ?3"
        ))?
        .execute(params![what, own_name(), WAITS_FOR])
        .map(drop)
}

/// Who was the last to say this of itself, and whether that was just now.
pub(in crate::ledger) fn who(database: &Database, what: &str) -> Result<Option<(String, bool)>> {
    server::connect(database, Use::Read)?
        .prepare(&format!("SELECT holder, until > {NOW} FROM lease WHERE name = ?"))?
        .query_row([what], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A database that does not answer sees for itself that its time is over.
        let _ = self.ended.recv_timeout(GIVEN_BACK_WITHIN);
    }
}

/// The number is the time, so that it comes once also where a server takes over that had not heard of the last one. Nobody can
/// have longer left than a turn lasts: where it looks so, the database's clock was set back.
fn take(connection: &Connection, name: &str) -> Result<Option<i64>> {
    let own = Process::own();
    let gone = match &own {
        Some(own) => gone(connection, name, own)?,
        None => None,
    };
    let process = own.map(|own| own.to_string()).unwrap_or_default();
    connection
        .prepare(&format!(
            "INSERT INTO lease (name, holder, process, number, until) VALUES (?1, ?2, ?3, {NOW}, {NOW} + ?4)
             ON CONFLICT (name) DO UPDATE SET holder = ?2, process = ?3, number = greatest(lease.number + 1, {NOW}),
                 until = {NOW} + ?4
             WHERE lease.until < {NOW} OR lease.until > {NOW} + 2 * ?4 OR lease.number = ?5
             RETURNING number"
        ))?
        .query_row(params![name, own_name(), process, LASTS, gone], |row| row.get(0))
        .optional()
}

/// The number of the turn whose holder is known to be gone, if that is the last one.
fn gone(connection: &Connection, name: &str, own: &Process) -> Result<Option<i64>> {
    let last: Option<(String, i64)> = connection
        .prepare("SELECT process, number FROM lease WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(last.and_then(|(holder, number)| own.is_known_dead(&holder.parse().ok()?).then_some(number)))
}

/// Makes it last so much longer, if it is still this one; returns whether it is.
fn renew(connection: &Connection, name: &str, number: i64, lasts: i64) -> Result<bool> {
    let changed = connection
        .prepare(&format!("UPDATE lease SET until = {NOW} + ?3 WHERE name = ?1 AND number = ?2"))?
        .execute(params![name, number, lasts])?;
    Ok(changed > 0)
}

/// Whether nobody has taken a later turn of this name.
pub(in crate::ledger) fn is_current(connection: &Connection, name: &str, number: i64) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM lease WHERE name = ?1 AND number = ?2")?
        .exists(params![name, number])
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// This process, for people.
pub(in crate::ledger) fn own_name() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
    format!("process {} on {host}", std::process::id())
}
