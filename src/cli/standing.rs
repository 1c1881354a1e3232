//! What is not agreed, as `status`, `flush` and `parked` tell it, and the exit code that it gives.

use std::io::Write;

use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::setup::count;
use super::text::{cut, fold, name, name_or};
use crate::ledger::{Ledger, LedgerError};
use crate::submitter::guard::TOO_LATE;
use crate::submitter::left::Outstanding;
use crate::submitter::next_try::NextTry;
use crate::submitter::pause;

/// While the server is left alone after a failure, what it holds can't be compared with what it should: that is pending, too.
/// And so is what could not be read, and what a person decided and could not be carried out yet.
pub(super) fn exit(left: &Outstanding, server: &pause::ServerStatus) -> Exit {
    if server.other.is_some() {
        Exit::Config
    } else if left.pending > 0
        || server.paused.is_some()
        || left.unread > 0
        || !server.undone.resources.is_empty()
    {
        Exit::Pending
    } else if left.held + left.parked + left.stranded + left.quarantined + left.implausible > 0
        || left.wholly_unmatched
        || !left.several.is_empty()
    {
        Exit::Stuck
    } else {
        Exit::Ok
    }
}

pub(super) fn show(left: &Outstanding, out: &mut dyn Write) -> Result<(), Failed> {
    let (unmatched, not_asked) = (left.unmatched(None), left.not_asked());
    let unplaced = usize::try_from(left.unplaced_series(None)).unwrap_or(0);
    let counts = [
        (left.pending, "statement", "still pending (`status` says why)"),
        (left.unread, "resource", "not compared: it could not be read (`status` says why)"),
        (left.held, "amount", "held (`status` says why)"),
        (left.parked, "amount", "parked: Waldur refused them (`parked list`)"),
        (left.stranded, "amount", "stranded: they can't be reported any more (`parked list` says why)"),
        (left.rest, "amount", "left by the closing of a month (`status` says how much)"),
        (unmatched.len(), "backend id", "unmatched: Waldur knows no such resource"),
        (not_asked.len(), "backend id", "Waldur was not asked for yet"),
        (unplaced, "series", "of no resource: their labels don't identify a resource (`status --all`)"),
        (left.implausible, "reading", "held: more than can be believed (`parked list` says which)"),
        (left.quarantined, "line", "quarantined in the last run, not billed (`status` says where)"),
    ];
    for (number, what, how) in counts.into_iter().filter(|(number, _, _)| *number > 0) {
        let number = if what == "series" { format!("{number} {what}") } else { count(number, what) };
        writeln!(out, "{}", fold(&format!("{number}: {how}"), 2))?;
    }
    if left.wholly_unmatched {
        let ids: Vec<_> = unmatched.into_iter().take(5).map(name).collect();
        let such = if ids.is_empty() { String::new() } else { format!(", such as {}", ids.join(", ")) };
        let words = format!("All that a collector measured is of no resource that Waldur knows{such}.");
        writeln!(out, "{}", fold(&words, 2))?;
    }
    for (backend_id, names) in &left.several {
        let words = format!(
            "held: the backend id {} is that of several resources that live: {names}",
            name(backend_id)
        );
        writeln!(out, "{}", fold(&words, 2))?;
    }
    Ok(())
}

/// What a person decided and could not be carried out yet.
pub(super) fn show_undone(
    undone: &pause::Undone,
    names: &[String],
    out: &mut dyn Write,
) -> Result<(), Failed> {
    if undone.resources.is_empty() {
        return Ok(());
    }
    let named = names.join(", ");
    let more = if names.len() < undone.resources.len() { " ..." } else { "" };
    let words = format!(
        "`resolve overwrite` of {} is not carried out yet ({named}{more}): users' shares can't be read; tried again with the next \
         cycle: {}",
        count(undone.resources.len(), "resource"),
        cut(&undone.words, 250)
    );
    writeln!(out, "{}", fold(&words, 2))?;
    Ok(())
}

/// The names of the first of them.
pub(super) fn names_of_undone(undone: &pause::Undone, ledger: &Ledger) -> Result<Vec<String>, LedgerError> {
    let first = undone.resources.iter().take(3);
    let name = |uuid: &Uuid| {
        let known = ledger.resource(*uuid)?.map(|known| known.name).unwrap_or_default();
        Ok(name_or(&known, *uuid))
    };
    first.map(name).collect()
}

/// What waits for a month to begin, which is a matter of the clocks, or comes too late for the one that runs.
pub(super) fn show_by_the_clock(next: &NextTry, out: &mut dyn Write) -> Result<(), Failed> {
    for (period, number) in &next.too_late {
        let words =
            format!("{period}: {} of it is not sent any more: {TOO_LATE}.", count(*number, "statement"));
        writeln!(out, "{}", fold(&words, 2))?;
    }
    for (period, number) in &next.not_begun {
        let words = format!(
            "{period} has not begun at Waldur: {} of it waits until then. Is this machine's clock right, or was it ahead?",
            count(*number, "statement")
        );
        writeln!(out, "{}", fold(&words, 2))?;
    }
    Ok(())
}
