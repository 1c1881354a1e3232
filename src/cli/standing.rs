//! What is not agreed, in numbers: one rule for `status`, `flush`, `parked` and their exit codes. It only reads.

use std::io::Write;

use super::exit::{Exit, Failed};
use super::setup::count;
use crate::ledger::{Ledger, LedgerError};
use crate::submitter::reason::waits;

/// What is left.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Statements; the others are amounts.
    pub(super) pending: usize,
    pub(super) held: usize,
    pub(super) parked: usize,
    pub(super) stranded: usize,
    pub(super) unmatched: usize,
    /// All that some collector measured is unmatched.
    pub(super) wholly_unmatched: bool,
    pub(super) unmatched_ids: Vec<String>,
    /// Backend ids of several resources that live, with their names.
    pub(super) several: Vec<(String, String)>,
    /// Readings that are not believed.
    pub(super) implausible: usize,
    /// Lines that the last runs of collectors quarantined.
    pub(super) quarantined: usize,
    /// What only the closing of a month left: no alarm.
    pub(super) rest: usize,
}

impl Standing {
    /// As last stated; `collectors`: those that are configured.
    pub(super) fn of(ledger: &Ledger, collectors: &[String]) -> Result<Standing, LedgerError> {
        let mut standing = Standing { pending: ledger.pending_as_stated()?.len(), ..Standing::default() };
        for one in ledger.blocks()? {
            match one.block.state.as_str() {
                _ if !waits(&one.block) => standing.rest += 1,
                "held" => standing.held += 1,
                "parked" => standing.parked += 1,
                _ => standing.stranded += 1,
            }
        }
        let unmatched = ledger.unmatched()?;
        standing.unmatched = unmatched.len();
        standing.wholly_unmatched = ledger.is_wholly_unmatched()?;
        standing.quarantined = ledger.quarantined_lately(collectors)?;
        standing.implausible = ledger.held_readings()?.len();
        standing.several = ledger.several_resources()?;
        let ids = unmatched.into_iter().map(|one| one.backend_id).filter(|id| !id.is_empty());
        standing.unmatched_ids = ids.take(5).collect();
        Ok(standing)
    }

    pub(super) fn exit(&self) -> Exit {
        if self.pending > 0 {
            Exit::Pending
        } else if self.held + self.parked + self.stranded + self.quarantined + self.implausible > 0
            || self.wholly_unmatched
            || !self.several.is_empty()
        {
            Exit::Stuck
        } else {
            Exit::Ok
        }
    }

    pub(super) fn show(&self, out: &mut dyn Write) -> Result<(), Failed> {
        let counts = [
            (self.pending, "statement", "still pending (`status` says why)"),
            (self.held, "amount", "held (`status` says why)"),
            (self.parked, "amount", "parked: Waldur refused them (`parked list`)"),
            (self.stranded, "amount", "stranded: their month can't be reported any more"),
            (self.rest, "amount", "left by the closing of a month (`status` says how much)"),
            (self.unmatched, "backend id", "unmatched: Waldur knows no such resource"),
            (self.implausible, "reading", "held: more than can be believed (`parked list` says which)"),
            (self.quarantined, "line", "quarantined in the last run, not billed (`status` says where)"),
        ];
        for (number, what, how) in counts.into_iter().filter(|(number, _, _)| *number > 0) {
            writeln!(out, "{}: {how}", count(number, what))?;
        }
        if self.wholly_unmatched && !self.unmatched_ids.is_empty() {
            writeln!(
                out,
                "All that a collector measured is unmatched, such as {}.",
                self.unmatched_ids.join(", ")
            )?;
        }
        for (backend_id, names) in &self.several {
            writeln!(
                out,
                "held: the backend id {backend_id} is that of several resources that live: {names}"
            )?;
        }
        Ok(())
    }
}
