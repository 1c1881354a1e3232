//! The rows of statements: what each says now, what was sent of it, and what differs from what was made anew; of many
//! components at once. It never knows how an amount came about.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;

use crate::ledger::db::columns::{decimal, instant, micros};
use crate::ledger::db::sql::{self, Connection, Row, ToSql, params};

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
    /// What was moved out of it, or was to be taken from it, beyond what it has.
    pub(super) too_much: Option<String>,
}

/// What is told of that, after the amount.
pub(in crate::ledger) const STAYS_ON_THE_BILL: &str = "too much stays on the bill: it was billed in another month or under another plan of it, and nothing is left there that it could be taken from";

impl Line {
    pub(super) fn zero() -> Line {
        let zero = || Some("0.00".to_owned());
        let (used, posted) = (zero(), zero());
        Line {
            exact: "0".to_owned(),
            used,
            posted,
            problem: None,
            held: None,
            held_words: None,
            too_much: None,
        }
    }
}

/// By part and user, in order; '' is the total.
pub(super) type Lines = BTreeMap<(i64, String), Line>;

/// What is kept of a component's month.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) lines: Lines,
    /// The lines that the server was told of, or was about to be, and totals that another writer put a number beside.
    pub(super) sent: BTreeSet<(i64, String)>,
    /// What the server accepted of it, all parts together.
    pub(super) accepted: Option<Decimal>,
    /// When each part of the month was last stated.
    pub(super) stated: BTreeMap<i64, Timestamp>,
}

/// What is current of all that was sent of some months.
pub(in crate::ledger) const SENT: &str =
    "SELECT v.column3, component, part, username, amount, outcome FROM (VALUES {rows}) v CROSS JOIN sent
     WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.current = 1 AND sent.outcome <> 'planned'
       -- Always so: SQLite finds what is current by it, and does not go through all that was ever sent of the month.
       AND sent.part > -9000000000000000000";

/// Where another writer's number is held, or was decided upon: it is compared with ours, also where ours is nothing.
const DISPUTED: [(&str, &str); 2] = [
    (
        "decision",
        "SELECT v.column3, component, part FROM (VALUES {rows}) v CROSS JOIN decision
         WHERE decision.resource = v.column1 AND decision.period = v.column2",
    ),
    (
        "blocked",
        "SELECT v.column3, component, part FROM (VALUES {rows}) v CROSS JOIN blocked
         WHERE blocked.resource = v.column1 AND blocked.period = v.column2 AND blocked.reason = 'conflict'",
    ),
];

/// What is kept of each of these, in their order. Those of one resource's month stand together.
pub(super) fn kept(connection: &Connection, places: &[Place<'_>]) -> sql::Result<Vec<Kept>> {
    let mut kept: Vec<Kept> = places.iter().map(|_| Kept::default()).collect();
    look_up_lines(connection, places, &mut kept)?;
    let mut months: Vec<((&str, &str), Vec<usize>)> = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let month = (place.resource, place.period);
        match months.last_mut().filter(|(last, _)| *last == month) {
            Some((_, of_month)) => of_month.push(number),
            None => months.push((month, vec![number])),
        }
    }
    let numbers: Vec<i64> = (0..).take(months.len()).collect();
    let rows: Vec<[&dyn ToSql; 3]> = months
        .iter()
        .zip(&numbers)
        .map(|(((resource, period), _), number)| [resource as &dyn ToSql, period, number])
        .collect();
    let of_month = |row: &Row<'_>| -> sql::Result<&[usize]> {
        let month = usize::try_from(row.get::<_, i64>(0)?).ok().and_then(|number| months.get(number));
        Ok(month.map(|(_, of_month)| of_month.as_slice()).unwrap_or_default())
    };
    // Which of the components that are stated a row is of.
    let place_of = |row: &Row<'_>| -> sql::Result<Option<usize>> {
        let component = row.get_ref(1)?.as_str()?;
        let is_of = |number: &&usize| places.get(**number).is_some_and(|place| place.component == component);
        Ok(of_month(row)?.iter().find(is_of).copied())
    };
    connection.query_rows(SENT, &rows, |row| {
        let Some(kept) = place_of(row)?.and_then(|number| kept.get_mut(number)) else { return Ok(()) };
        let user: String = row.get(3)?;
        if user.is_empty()
            && ["accepted", "read"].contains(&row.get_ref(5)?.as_str()?)
            && let Some(amount) = decimal(row.get(4)?)
        {
            kept.accepted = Some(kept.accepted.unwrap_or_default() + amount);
        }
        kept.sent.insert((row.get(2)?, user));
        Ok(())
    })?;
    for (table, disputed) in DISPUTED {
        connection.query_rows_of(table, disputed, &rows, |row| {
            if let Some(kept) = place_of(row)?.and_then(|number| kept.get_mut(number)) {
                kept.sent.insert((row.get(2)?, String::new()));
            }
            Ok(())
        })?;
    }
    connection.query_rows(
        "SELECT v.column3, part, changed FROM (VALUES {rows}) v CROSS JOIN statement
         WHERE statement.resource = v.column1 AND statement.period = v.column2",
        &rows,
        |row| {
            for number in of_month(row)? {
                if let Some(kept) = kept.get_mut(*number) {
                    kept.stated.insert(row.get(1)?, instant(row.get(2)?));
                }
            }
            Ok(())
        },
    )?;
    Ok(kept)
}

/// The lines of each of these, in their order: where one of many components is stated, those of the others are not looked at.
fn look_up_lines(connection: &Connection, places: &[Place<'_>], kept: &mut [Kept]) -> sql::Result<()> {
    let numbers: Vec<i64> = (0..).take(places.len()).collect();
    let rows: Vec<[&dyn ToSql; 4]> = places
        .iter()
        .zip(&numbers)
        .map(|(Place { resource, period, component }, number)| {
            [resource as &dyn ToSql, period, component, number]
        })
        .collect();
    connection.query_rows(
        "SELECT v.column4, part, username, exact, used, posted, problem, held, held_words, too_much
         FROM (VALUES {rows}) v CROSS JOIN line
         WHERE line.resource = v.column1 AND line.period = v.column2 AND line.component = v.column3",
        &rows,
        |row| {
            let number = usize::try_from(row.get::<_, i64>(0)?).ok();
            let Some(kept) = number.and_then(|number| kept.get_mut(number)) else { return Ok(()) };
            let line = Line {
                exact: row.get(3)?,
                used: row.get(4)?,
                posted: row.get(5)?,
                problem: row.get(6)?,
                held: row.get(7)?,
                held_words: row.get(8)?,
                too_much: row.get(9)?,
            };
            kept.lines.insert((row.get(1)?, row.get(2)?), line);
            Ok(())
        },
    )
}

/// Writes what differs of components that were stated: what stood there, and what is to. `counted`: the last run that is
/// counted in it.
pub(super) fn store(
    connection: &Connection,
    stated: &[(Place<'_>, Lines, Lines)],
    counted: i64,
    now: Timestamp,
) -> sql::Result<()> {
    let mut changed: BTreeSet<(&str, &str, i64)> = BTreeSet::new();
    let mut rows: Vec<[&dyn ToSql; 12]> = Vec::new();
    for (Place { resource, period, component }, before, after) in stated {
        for (part, user) in before.keys().filter(|key| !after.contains_key(key)) {
            connection
                .prepare_cached(
                    "DELETE FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ?5",
                )?
                .execute(params![resource, period, part, component, user])?;
            changed.insert((resource, period, *part));
        }
        for (key, line) in after.iter().filter(|(key, line)| before.get(key) != Some(line)) {
            let (part, user) = key;
            let Line { exact, used, posted, problem, held, held_words, too_much } = line;
            rows.push([
                resource, period, part, component, user, exact, used, posted, problem, held, held_words,
                too_much,
            ]);
            changed.insert((resource, period, *part));
        }
    }
    connection.execute_rows(
        "INSERT INTO line (resource, period, part, component, username, exact, used, posted, problem, held, held_words,
            too_much)
         VALUES {rows}
         ON CONFLICT (resource, period, part, component, username) DO UPDATE SET exact = excluded.exact,
            used = excluded.used, posted = excluded.posted, problem = excluded.problem, held = excluded.held,
            held_words = excluded.held_words, too_much = excluded.too_much",
        &rows,
    )?;
    let at = micros(now);
    let notes: Vec<[&dyn ToSql; 5]> = changed
        .iter()
        .map(|(resource, period, part)| [resource as &dyn ToSql, period, part, &at, &counted])
        .collect();
    connection.execute_rows(
        "INSERT INTO statement (resource, period, part, changed, counted) VALUES {rows}
         ON CONFLICT (resource, period, part)
         DO UPDATE SET changed = excluded.changed, closed = NULL, counted = excluded.counted",
        &notes,
    )
}
