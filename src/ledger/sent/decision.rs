//! What a person, or `on_conflict`, decided about what another writer or earlier rules have put on the bill. It is carried out
//! by the submitter; nothing here talks to the server.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::amount::{StatementKey, key};
use crate::ledger::books::freed::free;
use crate::ledger::books::unstated::all_of_month;
use crate::ledger::db::columns::{decimal, decimal_column, instant, micros, two_decimals, unreadable};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, Row, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// A person's decision about what another writer, or earlier rules, have put on the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Waldur is to agree with the ledger.
    Overwrite,
    /// What Waldur holds is the opening balance: of this instant, or of the row's own.
    Adopt { at: Option<Timestamp> },
}

/// A decision about one component of one month, in the part that one plan period covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub period: BillingPeriod,
    pub component: String,
    pub decision: Decision,
    pub about: Subject,
    /// What the server held when it was made.
    pub held: Decimal,
    pub at: Timestamp,
    /// Made by `on_conflict`.
    pub by_itself: bool,
}

/// What a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Another writer's total.
    Total,
    /// Users' shares that another writer put beside a total of ours.
    Shares,
    /// A limit that counts what is on the bill already.
    Limit,
    /// What earlier rules have put on the bill.
    Rules,
}

impl Subject {
    const ALL: [Subject; 4] = [Subject::Total, Subject::Shares, Subject::Limit, Subject::Rules];

    fn name(self) -> &'static str {
        match self {
            Subject::Total => "total",
            Subject::Shares => "shares",
            Subject::Limit => "limit",
            Subject::Rules => "rules",
        }
    }

    /// By the reason of a block (submitter/reason.rs); those that the books hold have no block.
    fn of_block(reason: &str) -> Option<Subject> {
        match reason {
            CONFLICT | UNADOPTABLE => Some(Subject::Total),
            SHARES => Some(Subject::Shares),
            LIMIT => Some(Subject::Limit),
            _ => None,
        }
    }
}

const CONFLICT: &str = "conflict";
const UNADOPTABLE: &str = "conflict_overwrite";
const SHARES: &str = "conflict_shares";
const LIMIT: &str = "limit";

impl Ledger {
    /// A person decided what is to become of the components of a resource that are in conflict, or that changed rules have
    /// left on the bill. Only another writer's total can be adopted; all else stays as it is then. Returns the components
    /// and months, each with what the server holds.
    pub fn decide(
        &mut self,
        resource: Uuid,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Vec<Decided>, LedgerError> {
        self.transact(|connection, _| decide(connection, resource, decision, now))
    }

    /// What was decided of a component's month.
    pub fn decided(&self, key: StatementKey, component: &str) -> Result<Option<Decided>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT decision, balance_at, at, held, by_itself, about FROM decision
                     WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4",
                )?
                .query_row(
                    params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
                    |row| {
                        let decision = match row.get_ref(0)?.as_str()? {
                            "adopt" => Decision::Adopt { at: row.get::<_, Option<i64>>(1)?.map(instant) },
                            _ => Decision::Overwrite,
                        };
                        Ok(Decided {
                            period: key.period,
                            component: component.to_owned(),
                            decision,
                            about: subject(row, 5)?,
                            held: decimal_column(row, 3)?,
                            at: instant(row.get(2)?),
                            by_itself: row.get(4)?,
                        })
                    },
                )
                .optional()
        })
    }

    /// What the server was known to hold of a component's total since an instant, in order.
    pub fn held_since(
        &self,
        key: StatementKey,
        component: &str,
        since: Timestamp,
    ) -> Result<Vec<Decimal>, LedgerError> {
        self.look(|connection| {
            let amounts: Vec<String> = connection
                .prepare_cached(
                    "SELECT amount FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
                     AND username = '' AND outcome IN ('accepted', 'read') AND at >= ?5 ORDER BY id",
                )?
                .query_map(
                    params![
                        key.resource.to_string(),
                        key.period.to_string(),
                        micros(key.part),
                        component,
                        micros(since)
                    ],
                    |row| row.get(0),
                )?
                .collect::<sql::Result<_>>()?;
            Ok(amounts.into_iter().filter_map(|amount| decimal(Some(amount))).collect())
        })
    }

    /// When a person last decided about something of a month.
    pub fn last_decided(&self, period: BillingPeriod) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            let at: Option<i64> = connection
                .prepare_cached("SELECT max(at) FROM decision WHERE period = ?1 AND by_itself = 0")?
                .query_row([period.to_string()], |row| row.get(0))?;
            Ok(at.map(instant))
        })
    }

    /// Notes that `on_conflict` has decided by itself.
    pub fn decided_by_itself(
        &mut self,
        key: StatementKey,
        component: &str,
        held: Decimal,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            let (period, component) = (key.period, component.to_owned());
            let (decision, about) = (Decision::Overwrite, Subject::Total);
            insert(
                connection,
                key,
                &Decided { period, component, decision, about, held, at: now, by_itself: true },
            )
        })
    }
}

fn decide(
    connection: &Connection,
    resource: Uuid,
    decision: Decision,
    now: Timestamp,
) -> sql::Result<Vec<Decided>> {
    let resource = resource.to_string();
    let mut decided = Vec::new();
    for (key, component, about, amount) in undecided(connection, &resource, decision)? {
        // What the books hold, and what a limit does, is about what was accepted.
        let shown = amount.filter(|_| matches!(about, Subject::Total | Subject::Shares));
        let held = shown.map_or_else(|| accepted(connection, key, &component), Ok)?;
        let period = key.period.to_string();
        let by_itself = false;
        let this = Decided { period: key.period, component, decision, about, held, at: now, by_itself };
        let component = &this.component;
        insert(connection, key, &this)?;
        if decision == Decision::Overwrite {
            free_held(connection, (&resource, &period, component), now)?;
        }
        let name = match decision {
            Decision::Overwrite => "is to be overwritten",
            Decision::Adopt { .. } => "is to be adopted",
        };
        let words = format!("a person decided: Waldur's {held:.2} {name}");
        let about = About { resource: &resource, period: &period, component };
        tell(connection, about, EventKind::Writer, &words, now)?;
        connection.execute(
            "DELETE FROM blocked WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4
             AND reason IN (?5, ?6, ?7, ?8)",
            params![resource, period, micros(key.part), component, CONFLICT, LIMIT, UNADOPTABLE, SHARES],
        )?;
        // Also of a month that was closed: it is looked at again, whichever it is, and the decision carried out.
        connection
            .prepare_cached(
                "UPDATE statement SET closed = NULL WHERE resource = ?1 AND period = ?2 AND closed IS NOT NULL
                 AND EXISTS (SELECT 1 FROM line WHERE line.resource = statement.resource AND line.period = statement.period
                    AND line.part = statement.part AND line.component = ?3)",
            )?
            .execute(params![resource, period, component])?;
        // What was held because of this component may be another resource's, too.
        all_of_month(connection, None, &period)?;
        decided.push(this);
    }
    Ok(decided)
}

/// A component that is to be decided about: where it is, why, and what the server holds of it, or a limit refused.
type Undecided = (StatementKey, String, Subject, Option<Decimal>);

/// The components of a resource that such a decision is about. Each part of a month has a number of its own.
fn undecided(connection: &Connection, resource: &str, decision: Decision) -> sql::Result<Vec<Undecided>> {
    let mut found = Vec::new();
    let mut query = connection.prepare_cached(
        "SELECT resource, period, part, component, reason, amount FROM blocked WHERE resource = ?1 AND username = ''
         UNION ALL SELECT resource, period, part, component, NULL, NULL FROM line
         WHERE resource = ?1 AND held IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM blocked WHERE blocked.resource = line.resource AND blocked.period = line.period
            AND blocked.part = line.part AND blocked.component = line.component AND blocked.username = ''
            AND blocked.reason IN (?2, ?3, ?4, ?5))
         ORDER BY 2, 3, 4",
    )?;
    let mut rows = query.query(params![resource, CONFLICT, LIMIT, UNADOPTABLE, SHARES])?;
    while let Some(row) = rows.next()? {
        let reason: Option<String> = row.get(4)?;
        let about = match &reason {
            Some(reason) => Subject::of_block(reason),
            None => Some(Subject::Rules),
        };
        let is_choice = decision == Decision::Overwrite || reason.as_deref() == Some(CONFLICT);
        if let Some(about) = about.filter(|_| is_choice) {
            found.push((key(&row, 0)?, row.get(3)?, about, decimal(row.get(5)?)));
        }
    }
    Ok(found)
}

/// What changed rules hold of a component is decided, for just the reasons that it is held for.
fn free_held(connection: &Connection, of: (&str, &str, &str), now: Timestamp) -> sql::Result<()> {
    let reasons: Vec<String> = connection
        .prepare_cached(
            "SELECT DISTINCT held FROM line
             WHERE resource = ?1 AND period = ?2 AND component = ?3 AND held IS NOT NULL",
        )?
        .query_map([of.0, of.1, of.2], |row| row.get(0))?
        .collect::<sql::Result<_>>()?;
    reasons.iter().try_for_each(|reason| free(connection, of, reason, now))
}

/// What the server accepted last of a component, or was found to hold; nothing, if there is none.
fn accepted(connection: &Connection, key: StatementKey, component: &str) -> sql::Result<Decimal> {
    let amount: Option<String> = connection
        .prepare_cached(
            "SELECT amount FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND username = ''
             AND current = 1 AND outcome IN ('accepted', 'read') ORDER BY id DESC LIMIT 1",
        )?
        .query_row(
            params![key.resource.to_string(), key.period.to_string(), micros(key.part), component],
            |row| row.get(0),
        )
        .optional()?;
    Ok(decimal(amount).unwrap_or_default())
}

fn subject(row: &Row<'_>, column: usize) -> sql::Result<Subject> {
    let name: String = row.get(column)?;
    let known = Subject::ALL.into_iter().find(|subject| subject.name() == name);
    known.ok_or_else(|| unreadable(column, format!("`{name}` is nothing to decide about")))
}

/// Records a decision, in place of an earlier one.
fn insert(connection: &Connection, key: StatementKey, decided: &Decided) -> sql::Result<()> {
    let (name, balance_at) = match decided.decision {
        Decision::Overwrite => ("overwrite", None),
        Decision::Adopt { at } => ("adopt", at.map(micros)),
    };
    connection
        .prepare_cached(
            "INSERT INTO decision (resource, period, part, component, decision, held, at, balance_at, by_itself, about)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (resource, period, part, component) DO UPDATE SET decision = ?5, held = ?6, at = ?7,
                balance_at = ?8, by_itself = ?9, about = ?10",
        )?
        .execute(params![
            key.resource.to_string(),
            key.period.to_string(),
            micros(key.part),
            decided.component,
            name,
            two_decimals(decided.held),
            micros(decided.at),
            balance_at,
            decided.by_itself,
            decided.about.name()
        ])?;
    Ok(())
}
