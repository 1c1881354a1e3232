//! Readings that may be of one thing twice: under another id, of another collector, or read by another host.

use rust_decimal::Decimal;

use super::{Source, Store};
use crate::ledger::books::count::KnownSeries;
use crate::ledger::books::row::Row;
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, OptionalExtension, params};

impl Store<'_> {
    /// Whether another agent has read the very same: both reach one source. Of one that is gone for good, less of it may be the
    /// same: it has run on since.
    pub(super) fn look_for_other_agents(
        &mut self,
        source: &Source,
        met: &KnownSeries,
        row: &Row,
    ) -> sql::Result<()> {
        // Hosts that have nothing to do say the same in good faith.
        if row
            .value
            .as_deref()
            .and_then(|value| value.parse().ok())
            .is_none_or(|value: Decimal| value.is_zero())
        {
            return Ok(());
        }
        let twin: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT identity.agent FROM identity JOIN reading ON reading.series = identity.series
                    AND reading.at = identity.at AND reading.start = identity.start AND reading.id = identity.id
                 JOIN series ON series.id = identity.series
                    AND series.labels = (SELECT labels FROM series own WHERE own.id = ?7)
                 WHERE identity.source = ?1 AND identity.id = ?2 AND identity.agent <> ?3 AND identity.start = ?5
                    AND (identity.at = ?4 AND reading.value = ?6
                        OR identity.at < ?4 AND ?5 > 0 AND identity.agent IN (
                            SELECT name FROM agent GROUP BY name HAVING count(*) = count(retired)))
                 ORDER BY 1 LIMIT 1",
            )?
            .query_row(
                params![source.id, row.id, self.run.agent, row.at, row.start, row.value, met.id],
                |row| row.get(0),
            )
            .optional()?;
        let Some(other) = twin else { return Ok(()) };
        let new = self
            .connection
            .prepare_cached(
                "INSERT INTO same_ids (source, other, id) VALUES (?1, ?1, ?2) ON CONFLICT (source, other) DO NOTHING",
            )?
            .execute(params![source.id, row.id])?;
        if new > 0 {
            let named = |agent: &str| match agent {
                "" => "whoever holds its lock (`once`)".to_owned(),
                agent => agent.to_owned(),
            };
            let words = format!(
                "the collector {} reads the same on {} and on {} (such as `{}`): what one source has is counted twice. \
                 Under a new name with `once: true` one of them reads it",
                self.run.collector,
                named(&other),
                named(&self.run.agent),
                row.id
            );
            tell(self.connection, About::default(), EventKind::Hosts, &words, self.run.finished)?;
        }
        Ok(())
    }

    /// Whether a new reading may be one that is known under another id, of this collector or of another.
    pub(super) fn note_same_ids(&mut self, source: &Source, met: &KnownSeries, row: &Row) -> sql::Result<()> {
        let says_the_same =
            |other: &Row, run: i64| run != self.run.id && row.value.is_some() && other.value == row.value;
        let place = (met.id, row.at, row.start);
        let alike = self.known.rows_at(place).any(|(other, run)| says_the_same(other, *run));
        self.alike += usize::from(alike);
        if self.known.is_elsewhere(source.id, &row.id) {
            self.look_for_other_agents(source, met, row)?;
        }
        for other in source.others.iter() {
            if self.known.is_elsewhere(*other, &row.id) {
                self.connection
                    .prepare_cached(
                        "INSERT INTO same_ids (source, other, id) VALUES (?1, ?2, ?3)
                         ON CONFLICT (source, other) DO NOTHING",
                    )?
                    .execute(params![source.id, other, row.id])?;
            }
        }
        Ok(())
    }
}
