//! The rows of the record: how one is written, what its outcome makes of it, and which of a line's stands.
//!
//! Each works within a transaction of somebody else's; whose turn it is is not looked at here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::amount::{Amount, StatementKey, key};
use crate::ledger::books::unstated::changed_components;
use crate::ledger::db::columns::{micros, two_decimals};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, ToSql, params};

/// New rows of the record.
pub(super) struct New<'a> {
    pub(super) key: StatementKey,
    pub(super) amounts: &'a [Amount],
    pub(super) call: &'a str,
    pub(super) at: Timestamp,
    pub(super) turn: i64,
    pub(super) outcome: &'a str,
    pub(super) words: &'a str,
    pub(super) counted: i64,
}

/// Returns their numbers.
pub(super) fn insert(connection: &Connection, new: New<'_>) -> sql::Result<Vec<i64>> {
    let New { key, amounts, call, at, turn, outcome, words, counted } = new;
    let (resource, period, part, at) =
        (key.resource.to_string(), key.period.to_string(), micros(key.part), micros(at));
    let texts: Vec<String> = amounts.iter().map(|amount| two_decimals(amount.amount)).collect();
    let rows: Vec<[&dyn ToSql; 13]> = amounts
        .iter()
        .zip(&texts)
        .map(|(Amount { component, user, .. }, amount)| {
            let place: [&dyn ToSql; 5] = [&resource, &period, &part, component, user];
            let [resource, period, part, component, user] = place;
            [
                resource, period, part, component, user, amount, &call, &at, &turn, &outcome, &words, &true,
                &counted,
            ]
        })
        .collect();
    let mut ids = Vec::with_capacity(amounts.len());
    connection.query_rows(
        "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words, current,
                           counted)
         VALUES {rows} RETURNING id",
        &rows,
        |row| {
            ids.push(row.get(0)?);
            Ok(())
        },
    )?;
    Ok(ids)
}

/// Makes a row the last of the record.
pub(super) fn put_last(connection: &Connection, id: i64) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO sent (resource, period, part, component, username, amount, call, at, turn, outcome, words,
                current, counted)
             SELECT resource, period, part, component, username, amount, call, at, turn, outcome, words, current, counted
             FROM sent WHERE id = ?",
        )?
        .execute([id])?;
    connection.prepare_cached("DELETE FROM sent WHERE id = ?")?.execute([id])?;
    Ok(())
}

/// What is written beside a share that was read to be overwritten.
pub(super) const OVERWRITTEN: &str = "overwritten";

/// Shares that belong to the total that the server holds, in place of what was planned of their lines.
pub(super) fn plan(
    connection: &Connection,
    (key, turn): (StatementKey, i64),
    shares: &[Amount],
    now: Timestamp,
) -> sql::Result<()> {
    for Amount { component, user, .. } in shares {
        unplan(connection, key, (component, Some(user)))?;
    }
    let (call, outcome) = ("set_user_usages", "planned");
    insert(connection, New { key, amounts: shares, call, at: now, turn, outcome, words: "", counted: 0 })?;
    Ok(())
}

/// Notes what another writer put there: totals, in these words, and shares. The statement is looked at again.
pub(super) fn note_theirs(
    connection: &Connection,
    key: StatementKey,
    amounts: &[Amount],
    (words, turn): (&str, i64),
    now: Timestamp,
) -> sql::Result<()> {
    let mut places = BTreeSet::new();
    for amount in amounts {
        let words = if amount.user.is_empty() { words } else { OVERWRITTEN };
        note_read(connection, key, amount, (words, turn), now)?;
        places.insert((key.resource.to_string(), key.period.to_string(), amount.component.clone()));
    }
    // Who was only another writer's user has a line from now on.
    changed_components(connection, places)?;
    reopen(connection, key)
}

/// The shares that were planned with a total of this component (all, or that of one user) are not any more.
pub(super) fn unplan(
    connection: &Connection,
    key: StatementKey,
    (component, user): (&str, Option<&str>),
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND (?5 IS NULL OR username = ?5) AND current = 1 AND outcome = 'planned'",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            user
        ])?;
    Ok(())
}

/// Another row takes the place of what was known of a line.
fn supersede(connection: &Connection, key: StatementKey, component: &str, user: &str) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND username = ?5 AND current = 1 AND outcome IN ('accepted', 'read')",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            component,
            user
        ])?;
    Ok(())
}

/// Numbers of which it is noted together that they were accepted: of a large site there are very many.
const ACCEPTED_TOGETHER: usize = if cfg!(test) { 3 } else { 512 };

/// Notes that these numbers were accepted. Of several of one line, the last one stands.
pub(super) fn accept(connection: &Connection, ids: &[i64], words: &str, now: Timestamp) -> sql::Result<()> {
    ids.chunks(ACCEPTED_TOGETHER).try_for_each(|some| accept_some(connection, some, words, now))
}

fn accept_some(connection: &Connection, ids: &[i64], words: &str, now: Timestamp) -> sql::Result<()> {
    let mut places: HashMap<i64, Line> = HashMap::with_capacity(ids.len());
    let sought: Vec<[&dyn ToSql; 1]> = ids.iter().map(|id| [id as &dyn ToSql]).collect();
    connection.query_rows(
        "SELECT sent.id, resource, period, part, component, username FROM (VALUES {rows}) v CROSS JOIN sent
         WHERE sent.id = v.column1",
        &sought,
        |row| {
            places.insert(row.get(0)?, (key(row, 1)?, row.get(4)?, row.get(5)?));
            Ok(())
        },
    )?;
    let mut last: BTreeMap<Line, i64> = BTreeMap::new();
    for id in ids {
        last.extend(places.remove(id).map(|line| (line, *id)));
    }
    let columns: Vec<(String, String, i64)> = last
        .keys()
        .map(|(key, ..)| (key.resource.to_string(), key.period.to_string(), micros(key.part)))
        .collect();
    let lines: Vec<[&dyn ToSql; 6]> = last
        .iter()
        .zip(&columns)
        .map(|(((_, component, user), id), (resource, period, part))| {
            [resource as &dyn ToSql, period, part, component, user, id]
        })
        .collect();
    // A share is replaced by name, so that one is as good as another; and what was planned is done. Of totals that are
    // under way it is not known which the server takes last.
    connection.execute_rows(
        "UPDATE sent SET current = 0 FROM (VALUES {rows}) v
         WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.part = v.column3
           AND sent.component = v.column4 AND sent.username = v.column5 AND sent.current = 1 AND sent.id <> v.column6
           AND (sent.username <> '' OR sent.outcome IN ('accepted', 'read'))",
        &lines,
    )?;
    let at = micros(now);
    let standing: BTreeSet<i64> = last.values().copied().collect();
    let rows: Vec<[&dyn ToSql; 4]> = ids
        .iter()
        .map(|id| {
            let current: &dyn ToSql = if standing.contains(id) { &true } else { &false };
            [id as &dyn ToSql, &words, current, &at]
        })
        .collect();
    connection.execute_rows(
        "UPDATE sent SET outcome = 'accepted', words = v.column2, current = v.column3, at = v.column4
         FROM (VALUES {rows}) v WHERE sent.id = v.column1",
        &rows,
    )?;
    let keys: BTreeSet<StatementKey> = last.into_keys().map(|(key, ..)| key).collect();
    keys.into_iter().try_for_each(|key| reopen(connection, key))
}

/// Notes that these numbers were certainly not applied.
pub(super) fn refuse(connection: &Connection, ids: &[i64], words: &str) -> sql::Result<()> {
    for &id in ids {
        let (key, component, user) = line_of(connection, id)?;
        if user.is_empty() {
            plan_as_before(connection, key, &component, id)?;
        }
    }
    note_outcome(connection, ids, ("refused", words, false))
}

pub(super) fn note_outcome(
    connection: &Connection,
    ids: &[i64],
    (outcome, words, current): (&str, &str, bool),
) -> sql::Result<()> {
    let mut update =
        connection.prepare_cached("UPDATE sent SET outcome = ?2, words = ?3, current = ?4 WHERE id = ?1")?;
    ids.iter().try_for_each(|id| update.execute(params![id, outcome, words, current]).map(drop))
}

/// One number that can be sent: of a component, or of a user of it.
pub(super) type Line = (StatementKey, String, String);

pub(super) fn line_of(connection: &Connection, id: i64) -> sql::Result<Line> {
    connection
        .prepare_cached("SELECT resource, period, part, component, username FROM sent WHERE id = ?")?
        .query_row([id], |row| Ok((key(row, 0)?, row.get(3)?, row.get(4)?)))
}

/// A total was not taken: the shares that belong to it are not planned, and those of the total that was accepted before are
/// again, as far as they are not there yet.
pub(super) fn plan_as_before(
    connection: &Connection,
    key: StatementKey,
    component: &str,
    refused: i64,
) -> sql::Result<()> {
    let (resource, period, part) = (key.resource.to_string(), key.period.to_string(), micros(key.part));
    connection
        .prepare_cached(
            "UPDATE sent SET current = 0 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND outcome = 'planned' AND current = 1 AND id < ?5",
        )?
        .execute(params![resource, period, part, component, refused])?;
    let accepted: Option<i64> = connection
        .prepare_cached(
            "SELECT max(id) FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ''
             AND outcome = 'accepted'",
        )?
        .query_row(params![resource, period, part, component], |row| row.get(0))?;
    let Some(accepted) = accepted.filter(|accepted| *accepted < refused) else { return Ok(()) };
    connection
        .prepare_cached(
            "UPDATE sent SET current = 1 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND outcome = 'planned' AND id < ?5
             AND id > (SELECT coalesce(max(id), 0) FROM sent before WHERE before.resource = ?1 AND before.period = ?2
                AND before.part = ?3 AND before.component = ?4 AND before.username = '' AND before.id < ?5)
             AND NOT EXISTS (SELECT 1 FROM sent done WHERE done.resource = ?1 AND done.period = ?2 AND done.part = ?3
                AND done.component = ?4 AND done.username = sent.username AND done.outcome = 'accepted' AND done.id > sent.id)",
        )?
        .execute(params![resource, period, part, component, accepted])?;
    Ok(())
}

pub(super) fn note_read(
    connection: &Connection,
    key: StatementKey,
    amount: &Amount,
    (words, turn): (&str, i64),
    now: Timestamp,
) -> sql::Result<()> {
    supersede(connection, key, &amount.component, &amount.user)?;
    if amount.user.is_empty() {
        // They belong to another total.
        unplan(connection, key, (&amount.component, None))?;
    }
    // Where it is what is stated, it has what that has.
    let counted = connection
        .prepare_cached(
            "SELECT statement.counted FROM statement JOIN line ON line.resource = statement.resource
                AND line.period = statement.period AND line.part = statement.part
             WHERE statement.resource = ?1 AND statement.period = ?2 AND statement.part = ?3 AND line.component = ?4
                AND line.username = ?5 AND line.posted = ?6",
        )?
        .query_row(
            params![
                key.resource.to_string(),
                key.period.to_string(),
                micros(key.part),
                amount.component,
                amount.user,
                two_decimals(amount.amount)
            ],
            |row| row.get(0),
        )
        .optional()?
        .unwrap_or(0);
    let amounts = std::slice::from_ref(amount);
    insert(connection, New { key, amounts, call: "read", at: now, turn, outcome: "read", words, counted })?;
    Ok(())
}

/// Something was posted again, so it is to be read back again.
pub(super) fn reopen(connection: &Connection, key: StatementKey) -> sql::Result<()> {
    connection
        .prepare_cached(
            "UPDATE statement SET closed = NULL
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND closed IS NOT NULL",
        )?
        .execute(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])?;
    Ok(())
}
