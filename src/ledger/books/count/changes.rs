//! What a run did to the readings of series, as far as it takes to bring their quantities up to date.

use std::collections::{BTreeMap, btree_map};
use std::rc::Rc;

use jiff::Timestamp;

use crate::metering::measure::Point;
use crate::metering::reading::Kind;

/// A series as it was met while a run was counted.
#[derive(Debug, Clone)]
pub(in crate::ledger::books) struct KnownSeries {
    pub(in crate::ledger::books) id: i64,
    pub(in crate::ledger::books) source: i64,
    pub(in crate::ledger::books) kind: Kind,
    pub(in crate::ledger::books) compacted: Option<Timestamp>,
    /// The instant of its last reading before the run.
    pub(in crate::ledger::books) last: Option<Timestamp>,
    /// How far it was counted.
    pub(in crate::ledger::books) state: Option<Rc<str>>,
}

/// What a run did to the readings of each series.
#[derive(Debug, Default)]
pub(in crate::ledger::books) struct SeriesChanges(pub(super) BTreeMap<i64, Change>);

/// What a run did to the readings of one series.
#[derive(Debug)]
pub(in crate::ledger::books) struct Change {
    pub(super) met: KnownSeries,
    pub(super) last: Option<Timestamp>,
    /// Whether all that happened is that readings came in behind all others, each behind the one before.
    pub(super) in_order: bool,
    /// The earliest instant of a reading that came or went.
    pub(super) from: Timestamp,
    pub(super) added: Vec<Point>,
    pub(super) removed: Vec<Point>,
}

impl SeriesChanges {
    /// What has become of a series since the run began.
    pub(in crate::ledger::books) fn meet(&mut self, met: &KnownSeries) -> &mut Change {
        match self.0.entry(met.id) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(new) => new.insert(Change {
                met: met.clone(),
                last: met.last,
                in_order: true,
                from: Timestamp::MAX,
                // Most series have one reading a run, and there may be very many.
                added: Vec::with_capacity(1),
                removed: Vec::new(),
            }),
        }
    }
}

impl Change {
    /// Whether an instant lies behind all readings of the series.
    pub(in crate::ledger::books) fn is_behind(&self, at: Timestamp) -> bool {
        self.last.is_none_or(|last| last < at)
    }

    pub(in crate::ledger::books) fn added(&mut self, point: Point) {
        self.in_order &= self.is_behind(point.at);
        self.last = self.last.max(Some(point.at));
        self.from = self.from.min(point.at);
        self.added.push(point);
    }

    pub(in crate::ledger::books) fn removed(&mut self, point: Point) {
        self.in_order = false;
        self.from = self.from.min(point.at);
        self.removed.push(point);
    }
}
