//! The tables of the ledger, and how an older file becomes a newer one.
//!
//! Typed columns throughout, so that a person can read a bill with the sqlite3 shell: instants are microseconds
//! since 1970 UTC, numbers are exact text (`0.25`, `1/3`), UUIDs have dashes. Nothing here reads or writes rows.
use super::sql::{self, Connection};

/// Marks a SQLite file as a ledger of this agent ("WUAG").
pub(super) const APPLICATION_ID: i32 = 0x5755_4147;

/// One step a version: `MIGRATIONS[n]` makes version n+1 of version n. Steps are only ever added.
const MIGRATIONS: &[&str] = &[V1, V2];

/// The version that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the file to `VERSION` in one transaction.
pub(super) fn migrate(connection: &Connection) -> sql::Result<()> {
    let transaction = connection.transaction()?;
    let sqlite = transaction.sqlite();
    let version: i64 = sqlite.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < VERSION {
        for step in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(step)?;
        }
        sqlite.pragma_update(None, "application_id", APPLICATION_ID)?;
        sqlite.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

const V1: &str = "
-- What was last known of a collector.
CREATE TABLE collector (
    name TEXT PRIMARY KEY,
    checkpoint TEXT,
    since INTEGER                 -- from where it was first read; what was used in months before is another's to report
) WITHOUT ROWID;

-- The rules in force: the metering part of the configuration as it was recorded, and the first month that it holds in.
-- Of several for one month the last holds.
CREATE TABLE rules (
    id INTEGER PRIMARY KEY,
    period TEXT NOT NULL,         -- '' for the first: all months before it was recorded, too
    recorded INTEGER NOT NULL,
    rules TEXT NOT NULL           -- JSON, a list of collectors' rules
);

-- The billing time zone, likewise.
CREATE TABLE zone (
    id INTEGER PRIMARY KEY,
    period TEXT NOT NULL,
    recorded INTEGER NOT NULL,
    name TEXT NOT NULL
);

-- Each run of a collector, as it came, and what was known when it was counted, because that decides amounts.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    collector TEXT NOT NULL,
    at INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('ok', 'partial', 'failed')),
    message TEXT,
    readings INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    quarantined INTEGER NOT NULL,
    lists_everything INTEGER NOT NULL,
    scope TEXT NOT NULL,
    withheld TEXT NOT NULL,       -- JSON: of which series nothing is concluded; '[]' of none
    counted INTEGER NOT NULL,     -- whether it has left the queue
    previous INTEGER,             -- the last run before it that did not fail
    listed INTEGER,               -- that run, if it listed everything of the same scope
    doubtful TEXT NOT NULL,       -- of which series that run concluded nothing: for them, what follows
    previous_complete INTEGER,    -- the last run before it that was complete
    listed_complete INTEGER,
    max_gap INTEGER               -- microseconds
);
CREATE INDEX run_of_collector ON run (collector, at);
CREATE INDEX run_queued ON run (id) WHERE counted = 0;

-- The queue: readings of runs that are not counted yet.
CREATE TABLE queued (
    run INTEGER NOT NULL REFERENCES run,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    unit TEXT,
    start INTEGER NOT NULL,       -- 0: an instant
    at INTEGER NOT NULL,
    labels TEXT NOT NULL,
    id TEXT NOT NULL,
    epoch TEXT,
    began INTEGER,
    shared INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;

-- And the ends of gauges that those runs tell.
CREATE TABLE queued_end (
    run INTEGER NOT NULL REFERENCES run,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (run, name, labels, at)
) WITHOUT ROWID;

CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY,
    collector TEXT NOT NULL,
    at INTEGER NOT NULL,
    what TEXT NOT NULL,
    reason TEXT NOT NULL
);

-- What is measured: the readings of one collector that share a name.
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    collector TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    unit TEXT,
    UNIQUE (collector, name)
);

-- Readings of two collectors that carry the same names and ids: they may be the same usage.
CREATE TABLE same_ids (
    source INTEGER NOT NULL REFERENCES source,
    other INTEGER NOT NULL REFERENCES source,
    id TEXT NOT NULL,             -- the first that was seen
    PRIMARY KEY (source, other)
) WITHOUT ROWID;

-- Whom usage belongs to, as the rules say it.
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    offering TEXT NOT NULL,       -- '' where the rules name a resource
    backend_id TEXT NOT NULL,     -- or the resource's UUID
    ignore_case INTEGER NOT NULL,
    unmatched_since INTEGER,
    several TEXT,                 -- the resources that live and have this backend id, where they are several
    UNIQUE (offering, backend_id, ignore_case)
);

-- Which resource a target is, and from when on: Waldur may give a backend id to another resource.
CREATE TABLE target_resource (
    target INTEGER NOT NULL REFERENCES target,
    since INTEGER NOT NULL,       -- the first one: from the beginning of time
    resource TEXT NOT NULL,
    provisional INTEGER NOT NULL, -- until the resource's plan periods say since when it is
    PRIMARY KEY (target, since)
) WITHOUT ROWID;
CREATE INDEX target_of_resource ON target_resource (resource);

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES source,
    labels TEXT NOT NULL,         -- JSON, keys sorted
    live INTEGER NOT NULL DEFAULT 1,  -- whether the last complete run saw it
    compacted INTEGER,            -- its readings before this instant are no longer kept
    last INTEGER,                 -- the instant of its last reading
    state TEXT,                   -- how far it was counted (metering's `Trail`); none of a delta
    UNIQUE (source, labels)
);
CREATE INDEX series_live ON series (source) WHERE live = 1;

-- How far a series had been counted before the first of its readings of a month: where counting that month begins.
CREATE TABLE month_state (
    series INTEGER NOT NULL REFERENCES series,
    month TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (series, month)
) WITHOUT ROWID;

-- Where the rules of a version place a series.
CREATE TABLE placed (
    rules INTEGER NOT NULL REFERENCES rules,
    series INTEGER NOT NULL REFERENCES series,
    source INTEGER NOT NULL,      -- the series'
    target INTEGER REFERENCES target,
    username TEXT,
    nowhere TEXT,                 -- why it has no target; '' if it is to be ignored
    PRIMARY KEY (rules, series)
) WITHOUT ROWID;
CREATE INDEX placed_at_target ON placed (target, rules, source, username);

CREATE TABLE reading (
    series INTEGER NOT NULL REFERENCES series,
    at INTEGER NOT NULL,
    start INTEGER NOT NULL,       -- 0: an instant, not an interval
    id TEXT NOT NULL,             -- '' where series and times are the identity
    value TEXT,                   -- NULL: a complete run at that time did not see the series
    epoch TEXT,
    began INTEGER,
    shared INTEGER NOT NULL,      -- whether `began` is that of a whole page, not of this series
    run INTEGER NOT NULL REFERENCES run,
    PRIMARY KEY (series, at, start, id)
) WITHOUT ROWID;

-- Where a reading with an id of its own is, whatever its labels and times have become.
CREATE TABLE identity (
    source INTEGER NOT NULL REFERENCES source,
    id TEXT NOT NULL,
    series INTEGER NOT NULL,
    at INTEGER NOT NULL,
    start INTEGER NOT NULL,
    PRIMARY KEY (source, id)
) WITHOUT ROWID;

-- Identities of readings that are no longer kept, so that history read again never counts twice, and a correction
-- replaces what was counted. Those with an id of their own by its hash:
CREATE TABLE spent_id (
    identity BLOB PRIMARY KEY,
    series INTEGER NOT NULL,
    at INTEGER NOT NULL,
    start INTEGER NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- and those that are known by series and times:
CREATE TABLE spent_sample (
    series INTEGER NOT NULL,
    at INTEGER NOT NULL,
    start INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (series, at, start)
) WITHOUT ROWID;

-- Readings of counters, gauges and totals that came for a compacted month, whose neighbours are gone: recorded, and not
-- counted.
CREATE TABLE late_correction (
    series INTEGER NOT NULL REFERENCES series,
    at INTEGER NOT NULL,
    start INTEGER NOT NULL,
    id TEXT NOT NULL,
    value TEXT NOT NULL,
    earlier TEXT,                 -- the value that was counted, if one was
    run INTEGER NOT NULL REFERENCES run,
    PRIMARY KEY (series, at, start, id)
) WITHOUT ROWID;

-- A cache of what the readings amount to (`recount` proves it). What readings of one month add to one segment is kept
-- apart from what readings of other months add there, so that a month can be counted again by itself.
CREATE TABLE quantity (
    series INTEGER NOT NULL REFERENCES series,
    measure TEXT NOT NULL,
    segment INTEGER NOT NULL,     -- its first instant
    month TEXT NOT NULL,          -- of the readings
    period TEXT NOT NULL,         -- of the segment
    sum TEXT NOT NULL,
    max TEXT,
    last TEXT,
    covered INTEGER NOT NULL,
    missed INTEGER NOT NULL,
    gaps INTEGER NOT NULL,
    resets INTEGER NOT NULL,
    held TEXT NOT NULL,           -- implausible, and not counted
    holds INTEGER NOT NULL,
    dips INTEGER NOT NULL,
    PRIMARY KEY (series, measure, segment, month)
) WITHOUT ROWID;

-- Components of which something has changed since they were last stated.
CREATE TABLE unstated (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    component TEXT NOT NULL,
    PRIMARY KEY (resource, period, component)
) WITHOUT ROWID;

-- The parts of a resource's billing period that there are statements of: one for each plan period in it.
CREATE TABLE statement (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,        -- the first instant of the part
    changed INTEGER NOT NULL,
    closed INTEGER,               -- when, after its month, what was posted last had been read back equal
    PRIMARY KEY (resource, period, part)
) WITHOUT ROWID;
CREATE INDEX statement_unclosed ON statement (period) WHERE closed IS NULL;

-- What Waldur should hold: a cache, made of quantities, rules, opening balances and what was moved between months.
CREATE TABLE line (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    username TEXT NOT NULL,       -- '' is the total
    exact TEXT NOT NULL,          -- used
    used TEXT,                    -- rounded; NULL if it can't be posted
    posted TEXT,                  -- with what was moved from and to other months
    problem TEXT,                 -- why it can't be posted
    held TEXT,                    -- of a total that is not sent for what the books say: the reason,
    held_words TEXT,              -- and what happened, for people
    PRIMARY KEY (resource, period, part, component, username)
) WITHOUT ROWID;

-- What the server held at an instant, where the agent took over from another writer: usage before it is not counted.
CREATE TABLE opening (
    resource TEXT NOT NULL,
    component TEXT NOT NULL,
    username TEXT NOT NULL,       -- '' is the total
    period TEXT NOT NULL,
    at INTEGER NOT NULL,
    amount TEXT NOT NULL,         -- two decimals
    words TEXT NOT NULL,          -- where it comes from
    recorded INTEGER NOT NULL,
    PRIMARY KEY (resource, component, username, period, at)
) WITHOUT ROWID;

-- Differences of months that are over, in posted cents: carried to another month, or given up by a person.
CREATE TABLE moved (
    resource TEXT NOT NULL,
    component TEXT NOT NULL,
    username TEXT NOT NULL,       -- '' is the total
    from_period TEXT NOT NULL,
    to_period TEXT NOT NULL,      -- '' is given up
    to_part INTEGER NOT NULL,     -- in which part of that month
    cents INTEGER NOT NULL,
    recorded INTEGER NOT NULL,
    PRIMARY KEY (resource, component, username, from_period, to_period, to_part)
) WITHOUT ROWID;
CREATE INDEX moved_to ON moved (to_period);

-- What was sent, of what the server holds, and how that is known. One row a number, from the intent to its outcome.
CREATE TABLE sent (
    id INTEGER PRIMARY KEY,
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    username TEXT NOT NULL,       -- '' is the total
    amount TEXT NOT NULL,
    call TEXT NOT NULL,           -- set_usage, set_user_usage(s); 'read' for what was found in the server's rows
    at INTEGER NOT NULL,
    turn INTEGER NOT NULL,        -- in which it was sent (lock.rs)
    outcome TEXT NOT NULL CHECK (outcome IN ('planned', 'open', 'accepted', 'read', 'refused', 'not there')),
    words TEXT NOT NULL,
    current INTEGER NOT NULL      -- whether it is what the server holds, or may be; 0 once another row took its place
);
CREATE INDEX sent_current ON sent (resource, period, part, component, username) WHERE current = 1;
CREATE INDEX sent_of_resource ON sent (resource, period);

-- What is not sent, and why: held and stranded (component and user '' for all of the part), and parked.
CREATE TABLE blocked (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    username TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'parked', 'stranded')),
    reason TEXT NOT NULL,         -- a closed list: submitter/reason.rs
    words TEXT NOT NULL,
    amount TEXT,                  -- what was refused, or what the server holds
    since INTEGER NOT NULL,
    PRIMARY KEY (resource, period, part, component, username)
) WITHOUT ROWID;

-- A person's decision about a component, and what the server held then.
CREATE TABLE decision (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    component TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('overwrite', 'adopt', 'agreed')),
    held TEXT,                    -- the number that it is about
    at INTEGER NOT NULL,
    balance_at INTEGER,           -- adopt: the instant that the opening balance speaks of, if the person said it
    by_itself INTEGER NOT NULL,   -- made by `on_conflict`, which does it once a period
    for_limit INTEGER NOT NULL,   -- it is about a limit
    PRIMARY KEY (resource, period, component)
) WITHOUT ROWID;

-- What changed the bill beside readings, or may surprise: told in the log, in `explain`, and by `flush`.
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    resource TEXT NOT NULL,       -- '' where it is of no one resource
    period TEXT NOT NULL,         -- '' likewise
    component TEXT NOT NULL,
    kind TEXT NOT NULL,           -- a closed list: db/event.rs
    words TEXT NOT NULL
);
CREATE INDEX event_of_resource ON event (resource, period);

-- When a resource may be tried again, by cause.
CREATE TABLE retry (
    resource TEXT NOT NULL,       -- '' is the server
    cause TEXT NOT NULL,
    failures INTEGER NOT NULL,
    next INTEGER NOT NULL,
    words TEXT NOT NULL,
    asked INTEGER NOT NULL,       -- whether the server asked for it
    PRIMARY KEY (resource)
) WITHOUT ROWID;

-- What was learnt of the server.
CREATE TABLE server (key TEXT PRIMARY KEY, value TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE offering (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    refreshed INTEGER NOT NULL,          -- its components
    resources_refreshed INTEGER,
    users_refreshed INTEGER
) WITHOUT ROWID;

CREATE TABLE component (
    offering TEXT NOT NULL,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    billing_type TEXT NOT NULL,
    measured_unit TEXT NOT NULL,
    limit_period TEXT,
    limit_amount TEXT,
    PRIMARY KEY (offering, type)
) WITHOUT ROWID;

CREATE TABLE resource (
    uuid TEXT PRIMARY KEY,
    offering TEXT NOT NULL,
    name TEXT NOT NULL,
    backend_id TEXT NOT NULL,
    state TEXT NOT NULL,
    plan TEXT,
    customer TEXT NOT NULL,
    project TEXT NOT NULL,
    refreshed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX resource_of_offering ON resource (offering, backend_id);

CREATE TABLE offering_user (
    offering TEXT NOT NULL,
    username TEXT NOT NULL,
    url TEXT NOT NULL,
    PRIMARY KEY (offering, username)
) WITHOUT ROWID;

CREATE TABLE plan_period (
    uuid TEXT PRIMARY KEY,
    resource TEXT NOT NULL,
    start INTEGER NOT NULL,
    until INTEGER,
    noticed INTEGER NOT NULL      -- a switch that is noticed after its month cuts nothing any more
) WITHOUT ROWID;
CREATE INDEX plan_period_of_resource ON plan_period (resource);

-- When a resource's plan periods were last looked up, for which month and plan.
CREATE TABLE plan_look (resource TEXT PRIMARY KEY, period TEXT NOT NULL, plan TEXT NOT NULL, at INTEGER NOT NULL, found INTEGER NOT NULL) WITHOUT ROWID;

-- The server's rows as they were last read: their UUIDs are where users' amounts go.
CREATE TABLE usage_row (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    uuid TEXT NOT NULL,
    read INTEGER NOT NULL,
    words TEXT NOT NULL,          -- who wrote it, and when
    PRIMARY KEY (resource, period, part, component)
) WITHOUT ROWID;
";

const V2: &str = "
-- Months in which the agent only compares (`report: shadow`), or did when they ended: what Waldur holds of them is another
-- writer's, and nothing of them is ever sent, stranded or carried.
CREATE TABLE shadow (period TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
";
