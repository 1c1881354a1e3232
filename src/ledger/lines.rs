//! The rows of statements: what each says now, what differs from what was made anew, and the revision that grows.
//!
//! Statements are held while many are made anew, because most of the cost of a small one is in finding it. It never knows
//! how an amount came about.

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, params};

use super::micros;

/// A component of a resource in a period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) resource: &'a str,
    pub(super) period: &'a str,
    pub(super) component: &'a str,
}

/// What a statement says of one component in one part of the month.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) place: Place<'a>,
    /// Its first instant.
    pub(super) part: i64,
}

/// One line of a statement, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) exact: String,
    pub(super) posted: Option<String>,
    pub(super) problem: Option<String>,
}

impl Line {
    pub(super) fn zero() -> Line {
        Line { exact: "0".to_owned(), posted: Some("0.00".to_owned()), problem: None }
    }
}

/// By user, in order; '' is the total.
pub(super) type Lines = Vec<(String, Line)>;

/// What differs from the rows that are there.
#[derive(Debug, Default)]
pub(super) struct Changes {
    put: Lines,
    /// Rows that have no line any more.
    left: Lines,
    pub(super) removed: Vec<String>,
    /// Whether a posted number is another.
    posted: bool,
}

impl Changes {
    /// Puts a line in the place of `old`.
    pub(super) fn put(&mut self, user: String, old: Option<&Line>, line: Line) {
        if old == Some(&line) {
            return;
        }
        self.posted |= old.is_none_or(|old| old.posted != line.posted || old.problem != line.problem);
        self.put.push((user, line));
    }

    pub(super) fn take_left(&mut self) -> Lines {
        std::mem::take(&mut self.left)
    }
}

pub(super) struct StatementRows<'a> {
    parts: CachedStatement<'a>,
    lines: CachedStatement<'a>,
    sent: CachedStatement<'a>,
    put: CachedStatement<'a>,
    remove: CachedStatement<'a>,
    revise: CachedStatement<'a>,
    untrouble: CachedStatement<'a>,
}

impl<'a> StatementRows<'a> {
    pub(super) fn of(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(StatementRows {
            parts: connection
                .prepare_cached("SELECT part FROM statement WHERE resource = ?1 AND period = ?2")?,
            lines: connection.prepare_cached(
                "SELECT user, exact, posted, problem FROM line
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 ORDER BY user",
            )?,
            sent: connection.prepare_cached(
                "SELECT 1 FROM acknowledgement
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5
                 UNION ALL SELECT 1 FROM intent
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5 LIMIT 1",
            )?,
            put: connection.prepare_cached(
                "INSERT OR REPLACE INTO line (resource, period, part, component, user, exact, posted, problem)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?,
            remove: connection.prepare_cached(
                "DELETE FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5",
            )?,
            revise: connection.prepare_cached(
                "INSERT INTO statement (resource, period, part, revision, agreed, changed)
                 VALUES (?1, ?2, ?3, ?4, 0, ?5)
                 ON CONFLICT (resource, period, part) DO UPDATE SET revision = revision + ?4, changed = ?5",
            )?,
            untrouble: connection.prepare_cached(
                "DELETE FROM trouble WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                 AND reason = 'amount'",
            )?,
        })
    }

    /// The parts of the month that there are statements of.
    pub(super) fn parts(&mut self, Place { resource, period, .. }: Place<'_>) -> rusqlite::Result<Vec<i64>> {
        self.parts.query_map(params![resource, period], |row| row.get(0))?.collect()
    }

    /// Whether the server was told of this line, or was about to be.
    pub(super) fn was_sent(&mut self, Part { place, part }: Part<'_>, user: &str) -> rusqlite::Result<bool> {
        self.sent.exists(params![place.resource, place.period, part, place.component, user])
    }

    /// Finds what differs. A row is only copied where it is needed.
    pub(super) fn compare(&mut self, of: Part<'_>, lines: Lines) -> rusqlite::Result<Changes> {
        let Place { resource, period, component } = of.place;
        let mut rows = self.lines.query(params![resource, period, of.part, component])?;
        let mut changes = Changes::default();
        let mut lines = lines.into_iter().peekable();
        while let Some(row) = rows.next()? {
            let user = row.get_ref(0)?.as_str()?;
            while let Some((new, line)) = lines.next_if(|(new, _)| new.as_str() < user) {
                changes.put(new, None, line);
            }
            let Some((user, line)) = lines.next_if(|(new, _)| new == user) else {
                let line = Line { exact: row.get(1)?, posted: row.get(2)?, problem: row.get(3)? };
                changes.left.push((user.to_owned(), line));
                continue;
            };
            let same_number = row.get_ref(2)?.as_str_or_null()? == line.posted.as_deref()
                && row.get_ref(3)?.as_str_or_null()? == line.problem.as_deref();
            if !same_number || row.get_ref(1)?.as_str()? != line.exact {
                changes.posted |= !same_number;
                changes.put.push((user, line));
            }
        }
        for (new, line) in lines {
            changes.put(new, None, line);
        }
        Ok(changes)
    }

    /// Writes what differs; the revision grows only if a posted number changed. Returns whether it did.
    pub(super) fn store(
        &mut self,
        of: Part<'_>,
        changes: &Changes,
        now: Timestamp,
    ) -> rusqlite::Result<bool> {
        if changes.put.is_empty() && changes.removed.is_empty() {
            return Ok(false);
        }
        let (Place { resource, period, component }, part) = (of.place, of.part);
        for user in &changes.removed {
            self.remove.execute(params![resource, period, part, component, user])?;
        }
        for (user, Line { exact, posted, problem }) in &changes.put {
            self.put.execute(params![resource, period, part, component, user, exact, posted, problem])?;
        }
        self.revise.execute(params![resource, period, part, i64::from(changes.posted), micros(now)])?;
        if changes.posted {
            // What was refused for the number's own sake is another number now, and is tried again by itself.
            self.untrouble.execute(params![resource, period, part, component])?;
        }
        Ok(changes.posted)
    }
}
