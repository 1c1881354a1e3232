//! What is left of a ledger that is not agreed, in numbers: one truth for `status`, `flush`, metrics, the page and exit codes.
//! It only reads, and judges nothing.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::reason::waits;
use crate::ledger::views::report::{UnassignedSeries, Why};
use crate::ledger::{Ledger, LedgerError};

/// What to do about backend ids that Waldur does not know.
pub const UNMATCHED_REMEDY: &str = "give their resources these backend ids in Waldur, or name them in the collector's `ignore` where they are nobody's";

/// What is left.
#[derive(Debug, Default)]
pub struct Outstanding {
    /// Statements; the others are amounts.
    pub pending: usize,
    /// Resources of which nothing is to be sent, and something could not be read.
    pub unread: usize,
    pub held: usize,
    pub parked: usize,
    pub stranded: usize,
    /// What only the closing of a month left: no alarm.
    pub rest: usize,
    /// What belongs to no resource.
    pub unassigned: Vec<UnassignedSeries>,
    /// Nothing that some collector measured has a resource.
    pub wholly_unmatched: bool,
    /// Backend ids of several resources that live, with their names.
    pub several: Vec<(String, String)>,
    /// Readings that are not believed.
    pub implausible: usize,
    /// Lines that the last runs of collectors quarantined.
    pub quarantined: usize,
}

impl Outstanding {
    /// As last stated; `collectors`: those that are configured.
    pub fn of(ledger: &Ledger, collectors: &[String]) -> Result<Outstanding, LedgerError> {
        let pending = ledger.pending_as_stated()?;
        let waiting: BTreeSet<Uuid> = pending.iter().map(|key| key.resource).collect();
        let put_off = ledger.put_off()?;
        let mut left = Outstanding {
            pending: pending.len(),
            unread: put_off
                .iter()
                .filter(|(resource, retry)| retry.unread && !waiting.contains(resource))
                .count(),
            unassigned: ledger.unassigned()?,
            wholly_unmatched: ledger.is_wholly_unmatched()?,
            several: ledger.several_resources()?,
            implausible: ledger.held_readings()?.len(),
            quarantined: ledger.quarantined_lately(collectors)?,
            ..Outstanding::default()
        };
        for one in ledger.blocks()? {
            match one.block.state.as_str() {
                _ if !waits(&one.block) => left.rest += 1,
                "held" => left.held += 1,
                "parked" => left.parked += 1,
                _ => left.stranded += 1,
            }
        }
        Ok(left)
    }

    /// Backend ids that Waldur was asked for and does not know, each once however many collectors saw it; `of`: those of one
    /// collector.
    pub fn unmatched(&self, of: Option<&str>) -> Vec<&str> {
        self.ids(of, &Why::Unmatched)
    }

    /// Backend ids that Waldur was not asked for yet.
    pub fn not_asked(&self) -> Vec<&str> {
        self.ids(None, &Why::NotAsked)
    }

    fn ids(&self, of: Option<&str>, why: &Why) -> Vec<&str> {
        let unassigned = self.unassigned.iter().filter(|one| one.why == *why);
        let unassigned = unassigned.filter(|one| of.is_none_or(|of| of == one.collector));
        let ids: BTreeSet<(&str, &str)> =
            unassigned.map(|one| (one.backend_id.as_str(), one.offering.as_str())).collect();
        ids.into_iter().map(|(id, _)| id).collect()
    }

    /// The collectors that saw those.
    pub fn collectors_of_unmatched(&self) -> Vec<&str> {
        let unmatched = self.unassigned.iter().filter(|one| one.why == Why::Unmatched);
        unmatched.map(|one| one.collector.as_str()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Those whose readings don't say whose they are; `of`: those of one collector.
    pub fn unplaced(&self, of: Option<&str>) -> impl Iterator<Item = &UnassignedSeries> {
        let unplaced = |one: &&UnassignedSeries| matches!(one.why, Why::Unplaced(_));
        self.unassigned.iter().filter(unplaced).filter(move |one| of.is_none_or(|of| of == one.collector))
    }

    /// How many series those are.
    pub fn unplaced_series(&self, of: Option<&str>) -> i64 {
        self.unplaced(of).map(|one| one.series).sum()
    }
}
