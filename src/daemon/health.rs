//! What `/health` and `/ready` answer: whether the process lives, whether anything can be recorded and reported, and what
//! hangs. It only reads.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::Agent;
use super::stats::Stats;
use crate::ledger::{LedgerError, SharedLedger};
use crate::submitter::pause::{Cause, ServerStatus};

/// Less room on the ledger's disk is told, in bytes: the alert fires there, too.
pub const LOW_DISK_BYTES: i64 = 200_000_000;

/// What an answer is made of.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) agent: Agent,
    pub(super) ledger: SharedLedger,
    pub(super) stats: Arc<Stats>,
}

impl Shared {
    /// The ledger, as far as this agent has it: on a host that only collects, or stands by, what waits there.
    pub(super) fn books(&self) -> SharedLedger {
        self.stats.books().unwrap_or_else(|| self.ledger.clone())
    }
}

/// Paths that don't answer, of which collector, and since when that is known.
pub(super) fn hanging(agent: &Agent) -> Vec<(String, String, Timestamp)> {
    let definitions = agent.definitions.iter();
    let paths = definitions.flat_map(|definition| {
        let hanging = definition.collector.hanging().into_iter();
        hanging.map(|(path, since)| (definition.name.clone(), path.display().to_string(), since))
    });
    paths.collect()
}

/// The process answers; what hangs is said beside it, because it costs that path alone.
pub(super) fn health(shared: &Shared) -> String {
    let hanging = hanging(&shared.agent).into_iter();
    let told = hanging.map(|(collector, path, since)| {
        format!("collector {collector}: {path} does not answer since {since}\n")
    });
    format!("ok\n{}", told.collect::<String>())
}

/// How many statements are pending; or why nothing can be recorded or reported.
pub(super) async fn readiness(shared: &Shared) -> Result<usize, Vec<String>> {
    let books = shared.books();
    let api = shared.agent.settings.api().cloned();
    let asked = books.with(move |ledger| {
        Ok::<_, LedgerError>((ledger.pending_as_stated()?.len(), ServerStatus::of(ledger, api.as_ref())?))
    });
    let (pending, server) = asked.await.map_err(|error| vec![error.to_string()])?;
    let mut reasons: Vec<String> = shared.stats.ledger_error().iter().map(ToString::to_string).collect();
    let place = &shared.agent.settings.ledger;
    if reasons.is_empty() && place.file().and_then(free) == Some(0) {
        reasons.push(format!("no space left on the disk of the ledger {place}"));
    }
    if let Some(other) = &server.other {
        reasons.push(format!("Waldur: {}", other.words()));
    } else if let Some(paused) = server.paused.as_ref().filter(|paused| paused.cause != Cause::Throttled) {
        let since = paused.since.map_or(String::new(), |since| format!(" since {since:.0}"));
        let (cause, words) = (paused.cause.words(), &paused.retry.words);
        reasons.push(format!("Waldur: {cause}{since}, tried again at {:.0}: {words}", paused.retry.next));
    } else if let Some((since, words)) = &server.reports_refused {
        reasons.push(format!("Waldur: all that is posted is refused since {since:.0}: {words}"));
    } else if server.no_role_at_all {
        reasons.push(format!("Waldur: the token has no role: {}", Cause::Role.remedy()));
    }
    if reasons.is_empty() { Ok(pending) } else { Err(reasons) }
}

/// What this user may still write where the ledger lies.
pub fn free(ledger: &Path) -> Option<i64> {
    let about = nix::sys::statvfs::statvfs(ledger.parent().unwrap_or(Path::new("/"))).ok()?;
    let free = u128::from(about.blocks_available()) * u128::from(about.fragment_size());
    Some(i64::try_from(free).unwrap_or(i64::MAX))
}
