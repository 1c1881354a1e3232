//! The rows of statements: what each says now, and what differs from what was made anew.
//!
//! Statements are held while many are made anew, because most of the cost of a small one is in finding it. It never knows
//! how an amount came about.

use jiff::Timestamp;

use crate::ledger::db::columns::micros;
use crate::ledger::db::sql::{self, Connection, Statement, params};

/// A component of a resource in a period.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger) struct Place<'a> {
    pub(in crate::ledger) resource: &'a str,
    pub(in crate::ledger) period: &'a str,
    pub(in crate::ledger) component: &'a str,
}

/// One line of a statement, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) exact: String,
    pub(super) used: Option<String>,
    pub(super) posted: Option<String>,
    pub(super) problem: Option<String>,
    pub(super) held: Option<String>,
    pub(super) held_words: Option<String>,
}

impl Line {
    pub(super) fn zero() -> Line {
        let zero = || Some("0.00".to_owned());
        let (used, posted) = (zero(), zero());
        Line { exact: "0".to_owned(), used, posted, problem: None, held: None, held_words: None }
    }
}

/// By part and user, in order; '' is the total.
pub(super) type Lines = std::collections::BTreeMap<(i64, String), Line>;

pub(super) struct LineRows<'a> {
    lines: Statement<'a>,
    sent: Statement<'a>,
    put: Statement<'a>,
    remove: Statement<'a>,
    note: Statement<'a>,
}

impl<'a> LineRows<'a> {
    pub(super) fn of(connection: &'a Connection) -> sql::Result<Self> {
        Ok(LineRows {
            lines: connection.prepare_cached(
                "SELECT part, username, exact, used, posted, problem, held, held_words FROM line
                 WHERE resource = ?1 AND period = ?2 AND component = ?3",
            )?,
            sent: connection.prepare_cached(
                "SELECT DISTINCT part, username FROM sent WHERE resource = ?1 AND period = ?2 AND component = ?3
                 AND current = 1 AND outcome <> 'planned'",
            )?,
            put: connection.prepare_cached(
                "INSERT INTO line (resource, period, part, component, username, exact, used, posted, problem, held, held_words)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                 ON CONFLICT (resource, period, part, component, username) DO UPDATE SET exact = ?6, used = ?7, posted = ?8,
                    problem = ?9, held = ?10, held_words = ?11",
            )?,
            remove: connection.prepare_cached(
                "DELETE FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ?5",
            )?,
            note: connection.prepare_cached(
                "INSERT INTO statement (resource, period, part, changed, counted)
                 SELECT ?1, ?2, ?3, ?4, coalesce(
                    (SELECT min(id) - 1 FROM run WHERE counted = 0), (SELECT max(id) FROM run), 0)
                 WHERE true
                 ON CONFLICT (resource, period, part)
                 DO UPDATE SET changed = excluded.changed, closed = NULL, counted = excluded.counted",
            )?,
        })
    }

    pub(super) fn read(&mut self, place: Place<'_>) -> sql::Result<Lines> {
        let rows = self.lines.query_map(params![place.resource, place.period, place.component], |row| {
            let line = Line {
                exact: row.get(2)?,
                used: row.get(3)?,
                posted: row.get(4)?,
                problem: row.get(5)?,
                held: row.get(6)?,
                held_words: row.get(7)?,
            };
            Ok(((row.get(0)?, row.get(1)?), line))
        })?;
        rows.collect()
    }

    /// The lines that the server was told of, or was about to be.
    pub(super) fn were_sent(&mut self, place: Place<'_>) -> sql::Result<Vec<(i64, String)>> {
        let rows = self.sent.query_map(params![place.resource, place.period, place.component], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        rows.collect()
    }

    /// Writes what differs; returns whether anything did.
    pub(super) fn store(
        &mut self,
        place: Place<'_>,
        before: &Lines,
        after: &Lines,
        now: Timestamp,
    ) -> sql::Result<bool> {
        let Place { resource, period, component } = place;
        let mut changed = std::collections::BTreeSet::new();
        for (part, user) in before.keys().filter(|key| !after.contains_key(key)) {
            self.remove.execute(params![resource, period, part, component, user])?;
            changed.insert(*part);
        }
        for (key, line) in after.iter().filter(|(key, line)| before.get(key) != Some(line)) {
            let (part, user) = key;
            let Line { exact, used, posted, problem, held, held_words } = line;
            self.put.execute(params![
                resource, period, part, component, user, exact, used, posted, problem, held, held_words
            ])?;
            changed.insert(*part);
        }
        for part in &changed {
            self.note.execute(params![resource, period, part, micros(now)])?;
        }
        Ok(!changed.is_empty())
    }
}
