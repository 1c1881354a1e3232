//! What `check` says of a shared ledger: whether this host and its role may do there what its file wants, and what hosts say that
//! does not fit.

use super::findings::Findings;
use crate::cli::exit::Exit;
use crate::cli::setup::Setup;
use crate::cli::text::span;
use crate::config::place::Database;
use crate::ledger::db::clock::CLOCKS_AGREE;
use crate::ledger::queue::outbox::Outbox;
use crate::ledger::sent::lock::refuse_shadow;
use crate::ledger::{Ledger, LedgerErrorKind};

/// What hosts say that does not fit: other rules, or the same readings.
pub(super) fn check_hosts(setup: &Setup, ledger: &Ledger, found: &mut Findings) {
    for (collector, hosts) in ledger.other_rules().into_iter().flatten() {
        let named = hosts.iter().take(HOSTS_NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = hosts.len().saturating_sub(HOSTS_NAMED);
        let hosts = if more > 0 { format!("{named} and {more} more") } else { named };
        found.warning(match setup.rulebook.of(&collector) {
            Some(_) => format!(
                "collector {collector}: the file of {hosts} has other rules (`resource`, `user`, `meters`, `ignore`) than this \
                 one; these count"
            ),
            None => format!(
                "collector {collector} of {hosts} counts nothing: this file does not know it (its rules, with `elsewhere: true`)"
            ),
        });
    }
    for words in ledger.same_ids().into_iter().flatten() {
        found.problem(Exit::Stuck, words);
    }
    for twice in ledger.duplicate_series(setup.clock.now()).into_iter().flatten() {
        found.warning(twice.to_string());
    }
    for moved in ledger.lingering(setup.clock.now()).into_iter().flatten() {
        found.warning(moved.to_string());
    }
}

/// So many hosts are named.
const HOSTS_NAMED: usize = 5;
/// So many tables are named.
const TABLES_NAMED: usize = 5;

/// Whether a connection to the database is one.
pub(super) fn check_connection(database: &Database, found: &mut Findings) {
    if let Err(error) = Ledger::refuse_lent_connections(database)
        && error.kind == LedgerErrorKind::Unusable
    {
        found.problem(Exit::Config, error.to_string());
    }
}

/// Whether this host may append to the shared ledger, under its own name.
pub(super) fn check_name(setup: &Setup, database: &Database, found: &mut Findings) {
    // What has no name is told with the file's mistakes.
    let Ok(agent) = setup.settings.agent_name() else { return };
    let collects = setup.definitions.iter().any(|definition| !definition.elsewhere);
    let asked = Outbox::connect(database, &agent, || setup.clock.now()).and_then(|outbox| {
        match collects {
            true => outbox.try_to_append()?,
            false => drop(outbox.last("")?),
        }
        Ok(outbox.skew)
    });
    match asked {
        Ok(skew) => {
            let does = if collects { "appends to" } else { "measures nothing for" };
            found.good(format!("agent {agent}: {does} the ledger {}", setup.settings.ledger));
            if skew.abs() > CLOCKS_AGREE {
                let apart = span(skew.abs().as_secs());
                found.warning(format!(
                    "agent {agent}: the database's clock is {apart} from this host's: set the clock right"
                ));
            }
        }
        Err(error) => found.problem(Exit::Config, error.to_string()),
    }
}

/// Whether the role of an agent that submits, or that runs a collector for all hosts, may write what that takes.
pub(super) fn check_rights(setup: &Setup, database: &Database, found: &mut Findings) {
    let once = setup.definitions.iter().find(|definition| definition.once && !definition.elsewhere);
    let why = match once {
        _ if setup.settings.submits => "this agent submits".to_owned(),
        Some(one) => format!(
            "collector {} is `once: true`, so that its checkpoint is in the shared ledger, and its runs are no agent's",
            one.name
        ),
        None => return,
    };
    match Ledger::may_not_write(database) {
        Ok(tables) if tables.is_empty() => {}
        Ok(tables) => {
            let named = tables.iter().take(TABLES_NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = tables.len().saturating_sub(TABLES_NAMED);
            let tables = if more > 0 { format!("{named} and {more} more") } else { named };
            found.problem(
                Exit::Config,
                format!(
                    "ledger {}: the role `{}` may not write {tables}, and {why}: grant it all that `waldur-usage-agent ledger \
                     init` prints for a role that submits (again after an upgrade that made tables)",
                    setup.settings.ledger, database.role
                ),
            );
        }
        // Told by what was tried before.
        Err(_) => {}
    }
    if setup.settings.submits
        && setup.is_shadow()
        && let Err(error) = refuse_shadow(database)
    {
        found.problem(Exit::Config, error.to_string());
    }
}
