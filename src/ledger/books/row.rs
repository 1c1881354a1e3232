//! A reading as a row of the ledger.

use crate::ledger::db::columns::instant;
use crate::ledger::db::sql;
use crate::metering::measure::{Point, RunFacts};
use crate::metering::reading::Epoch;

/// A reading as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) at: i64,
    pub(super) start: i64,
    pub(super) id: String,
    pub(super) value: Option<String>,
    pub(super) epoch: Option<String>,
    pub(super) began: Option<i64>,
    pub(super) shared: bool,
}

impl Row {
    /// Of columns at, start, id, value, epoch, began, shared.
    pub(super) fn of(row: &sql::Row<'_>, first: usize) -> sql::Result<Row> {
        Ok(Row {
            at: row.get(first)?,
            start: row.get(first + 1)?,
            id: row.get(first + 2)?,
            value: row.get(first + 3)?,
            epoch: row.get(first + 4)?,
            began: row.get(first + 5)?,
            shared: row.get(first + 6)?,
        })
    }

    /// The row as metering sees it, with what is known of the run that brought it.
    pub(super) fn point(&self, run: RunFacts) -> Point {
        Point {
            at: instant(self.at),
            start: Some(self.start).filter(|start| *start != 0).map(instant),
            value: self.value.as_ref().and_then(|text| text.parse().ok()),
            epoch: Epoch { id: self.epoch.clone(), began: self.began.map(instant), shared: self.shared },
            run,
        }
    }
}
