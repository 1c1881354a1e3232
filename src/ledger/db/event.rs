//! Events: what changed a bill beside readings, or may surprise its reader (law 13). They are kept for `explain`, and told
//! once in the log by the process that lives through them.

use jiff::Timestamp;
use uuid::Uuid;

use super::columns::{instant, micros};
use super::sql::{self, Connection, OptionalExtension, Row, params};
use super::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// What kind of event it is: a closed list, the same words in the ledger, in the log and in the docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Rules or the billing time zone were recorded anew.
    Rules,
    /// A backend id belongs to another resource.
    Resource,
    /// A plan was switched.
    Plan,
    /// A counter was reset, or fell without a reset.
    Counter,
    /// A reading is held: it tells of more than can be believed.
    Held,
    /// An amount fell, or jumped.
    Amount,
    /// Readings look like earlier ones, were replaced by what was read again, or are of months whose rules do not know them.
    Readings,
    /// Hosts of a shared ledger are not as they should be: what they measure may be counted twice.
    Hosts,
    /// What a host has measured is not billed.
    Lost,
    /// Another writer, or a person's decision.
    Writer,
    /// The server holds something beside what was reported.
    Stray,
    /// Usage was carried to another month, or given up.
    Moved,
    /// A month was closed.
    Closed,
}

impl EventKind {
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Rules => "rules",
            EventKind::Resource => "resource",
            EventKind::Plan => "plan",
            EventKind::Counter => "counter",
            EventKind::Held => "held",
            EventKind::Amount => "amount",
            EventKind::Readings => "readings",
            EventKind::Hosts => "hosts",
            EventKind::Lost => "lost",
            EventKind::Writer => "writer",
            EventKind::Stray => "stray",
            EventKind::Moved => "moved",
            EventKind::Closed => "closed",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Timestamp,
    /// Empty where it is of no one resource, month or component.
    pub resource: String,
    pub period: String,
    pub component: String,
    pub kind: String,
    pub words: String,
}

impl Event {
    /// The resource, component and period that it is about, where it is about one.
    pub fn about(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        (some(&self.resource), some(&self.component), some(&self.period))
    }

    /// Whether somebody should look: rules and readings that change or hold back what is billed, and hosts that are not as they
    /// should be.
    pub fn is_warning(&self) -> bool {
        [EventKind::Rules, EventKind::Held, EventKind::Hosts, EventKind::Lost, EventKind::Stray]
            .iter()
            .any(|kind| kind.name() == self.kind)
    }

    /// As one line of a log; `name`: the resource's.
    pub fn sentence(&self, name: Option<&str>) -> String {
        let resource = match name.filter(|name| !name.is_empty()) {
            Some(name) => format!("{name} ({})", self.resource),
            None => self.resource.clone(),
        };
        let place = [resource.as_str(), &self.component, &self.period];
        let place: Vec<&str> = place.into_iter().filter(|text| !text.is_empty()).collect();
        match place.as_slice() {
            [] => self.words.clone(),
            place => format!("{}: {}", place.join(", "), self.words),
        }
    }
}

/// Of what something is told.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::ledger) struct About<'a> {
    pub(in crate::ledger) resource: &'a str,
    pub(in crate::ledger) period: &'a str,
    pub(in crate::ledger) component: &'a str,
}

pub(in crate::ledger) fn tell(
    connection: &Connection,
    about: About<'_>,
    kind: EventKind,
    words: &str,
    now: Timestamp,
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO event (at, resource, period, component, kind, words) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![micros(now), about.resource, about.period, about.component, kind.name(), words])?;
    Ok(())
}

/// Tells it, unless these were the last words with this mark that were told of it.
pub(in crate::ledger) fn tell_if_new(
    connection: &Connection,
    about: About<'_>,
    (kind, mark): (EventKind, &str),
    words: &str,
    now: Timestamp,
) -> sql::Result<()> {
    let last: Option<String> = connection
        .prepare_cached(
            "SELECT words FROM event WHERE resource = ?1 AND period = ?2 AND component = ?3 AND kind = ?4
             AND words LIKE ?5 ORDER BY id DESC LIMIT 1",
        )?
        .query_row(
            params![about.resource, about.period, about.component, kind.name(), format!("%{mark}%")],
            |row| row.get(0),
        )
        .optional()?;
    if last.as_deref() == Some(words) { Ok(()) } else { tell(connection, about, kind, words, now) }
}

impl Ledger {
    pub fn tell(
        &mut self,
        resource: Uuid,
        period: BillingPeriod,
        component: &str,
        kind: EventKind,
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.tell_of((resource, period, component), |connection, about| {
            tell(connection, about, kind, words, now)
        })
    }

    /// The same, unless these were the last words with this mark that were told of it.
    pub fn tell_once(
        &mut self,
        of: (Uuid, BillingPeriod, &str),
        kind: (EventKind, &str),
        words: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.tell_of(of, |connection, about| tell_if_new(connection, about, kind, words, now))
    }

    fn tell_of(
        &mut self,
        (resource, period, component): (Uuid, BillingPeriod, &str),
        tell: impl FnOnce(&Connection, About<'_>) -> sql::Result<()>,
    ) -> Result<(), LedgerError> {
        let (resource, period) = (resource.to_string(), period.to_string());
        self.transact(|connection, _| {
            tell(connection, About { resource: &resource, period: &period, component })
        })
    }

    /// Events since the ledger was opened or this was asked last, with the resource's name, the oldest first.
    pub fn untold(&mut self) -> Result<Vec<(Event, Option<String>)>, LedgerError> {
        let events: Vec<(i64, Event, Option<String>)> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT at, event.resource, period, component, kind, words, id, resource.name
                     FROM event LEFT JOIN resource ON resource.uuid = event.resource WHERE id > ? ORDER BY id",
                )?
                .query_map([self.told], |row| Ok((row.get(6)?, event(row)?, row.get(7)?)))?
                .collect()
        })?;
        if let Some((last, ..)) = events.last() {
            self.told = *last;
        }
        Ok(events.into_iter().map(|(_, event, name)| (event, name)).collect())
    }

    /// Readings that are held, until the month is closed in which they were.
    pub fn held_readings(&self) -> Result<Vec<Event>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT at, resource, period, component, kind, words FROM event
                     WHERE kind = 'held' AND (period NOT IN (SELECT period FROM statement)
                        OR period IN (SELECT period FROM statement WHERE closed IS NULL)) ORDER BY id",
                )?
                .query_map([], event)?
                .collect()
        })
    }

    /// What was told of hosts since then, the latest first, and whether something of it is not billed.
    pub fn told_of_hosts(&self, since: Timestamp) -> Result<(Vec<Event>, bool), LedgerError> {
        let events: Vec<Event> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT at, resource, period, component, kind, words FROM event
                     WHERE kind IN ('hosts', 'lost') AND at >= ? ORDER BY id DESC",
                )?
                .query_map([micros(since)], event)?
                .collect()
        })?;
        let is_lost = events.iter().any(|event| event.kind == EventKind::Lost.name());
        Ok((events, is_lost))
    }

    /// What happened to a resource's month. What is of all resources is among it; what is of nobody's readings is not:
    /// they are no customer's.
    pub fn events_of(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Event>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT at, resource, period, component, kind, words FROM event
                     WHERE (resource = ?1 OR resource = '' AND component = '') AND period = ?2 ORDER BY id",
                )?
                .query_map([resource.to_string(), period.to_string()], event)?
                .collect()
        })
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn event(row: &Row<'_>) -> sql::Result<Event> {
    Ok(Event {
        at: instant(row.get(0)?),
        resource: row.get(1)?,
        period: row.get(2)?,
        component: row.get(3)?,
        kind: row.get(4)?,
        words: row.get(5)?,
    })
}
