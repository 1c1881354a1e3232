//! The tables of the ledger, and how an older file becomes a newer one.
//!
//! Typed columns throughout, so that a person can read a bill with the sqlite3 shell: instants are microseconds
//! since 1970 UTC, numbers are exact text (`0.25`, `1/3`), UUIDs have dashes. Nothing here reads or writes rows.

use rusqlite::Connection;

/// Marks a SQLite file as a ledger of this agent ("WUAG").
pub(super) const APPLICATION_ID: i32 = 0x5755_4147;

/// One step a version: `MIGRATIONS[n]` makes version n+1 of version n. Steps are only ever added.
const MIGRATIONS: &[&str] = &[V1];

/// The version that this program writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// Brings the file to `VERSION` in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < VERSION {
        for step in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

const V1: &str = "
-- What was last known of a collector.
CREATE TABLE collector (
    name TEXT PRIMARY KEY,
    placement TEXT NOT NULL,      -- the rules by which its series were placed
    measures TEXT NOT NULL,       -- what is counted over its series
    checkpoint TEXT,
    since INTEGER                 -- from where it was first read; what was used in months before is another's to report
) WITHOUT ROWID;

-- Each run of a collector, and what was known when it came in, because that decides amounts.
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
    previous INTEGER,             -- the last successful run before it
    listed INTEGER,               -- that run, if it listed everything of the same scope
    max_gap INTEGER               -- microseconds
);
CREATE INDEX run_of_collector ON run (collector, at);

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

-- Whom usage belongs to, as the rules say it; `resource` once Waldur knows one.
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    offering TEXT NOT NULL,       -- '' where the rules name a resource
    backend_id TEXT NOT NULL,     -- or the resource's UUID
    resource TEXT,
    unmatched_since INTEGER,
    UNIQUE (offering, backend_id)
);
CREATE INDEX target_of_resource ON target (resource);

CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL REFERENCES source,
    labels TEXT NOT NULL,         -- JSON, keys sorted
    target INTEGER REFERENCES target,
    user TEXT,
    nowhere TEXT,                 -- why it has no target; '' if it is to be ignored
    live INTEGER NOT NULL DEFAULT 1,  -- whether the last complete run saw it
    compacted INTEGER,            -- its readings before this instant are daily subtotals now
    UNIQUE (source, labels)
);
CREATE INDEX series_of_target ON series (target, source, user);
CREATE INDEX series_live ON series (source) WHERE live = 1;

CREATE TABLE reading (
    series INTEGER NOT NULL REFERENCES series,
    at INTEGER NOT NULL,
    id TEXT NOT NULL,             -- '' where series and time are the identity
    start INTEGER,
    value TEXT,                   -- NULL: a complete run at that time did not see the series
    epoch TEXT,
    began INTEGER,
    run INTEGER NOT NULL REFERENCES run,
    PRIMARY KEY (series, at, id)
) WITHOUT ROWID;

-- Where a reading with an id of its own is, whatever its labels and times have become.
CREATE TABLE identity (
    source INTEGER NOT NULL REFERENCES source,
    id TEXT NOT NULL,
    series INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (source, id)
) WITHOUT ROWID;

-- What readings of long past months added, a day each: what is left of them to explain the bill.
CREATE TABLE subtotal (
    series INTEGER NOT NULL REFERENCES series,
    measure TEXT NOT NULL,
    segment INTEGER NOT NULL,
    day TEXT NOT NULL,            -- of the readings, in the billing time zone
    period TEXT NOT NULL,
    sum TEXT NOT NULL,
    max TEXT,
    last TEXT,
    covered INTEGER NOT NULL,
    missed INTEGER NOT NULL,
    gaps INTEGER NOT NULL,
    resets INTEGER NOT NULL,
    readings INTEGER NOT NULL,
    PRIMARY KEY (series, measure, segment, day)
) WITHOUT ROWID;

-- Identities of readings that are no longer kept, so that history read again never counts twice. Those with an id of
-- their own by its hash:
CREATE TABLE spent_id (
    identity BLOB PRIMARY KEY,
    value TEXT NOT NULL,
    print BLOB NOT NULL,          -- of the value and the times
    period TEXT NOT NULL
) WITHOUT ROWID;

-- and those that are known by series and time:
CREATE TABLE spent_sample (
    series INTEGER NOT NULL,
    at INTEGER NOT NULL,
    start INTEGER,
    value TEXT NOT NULL,
    PRIMARY KEY (series, at)
) WITHOUT ROWID;

-- Readings that came for a compacted month: recorded, and not counted.
CREATE TABLE late_correction (
    series INTEGER NOT NULL REFERENCES series,
    at INTEGER NOT NULL,
    id TEXT NOT NULL,
    start INTEGER,
    value TEXT NOT NULL,
    earlier TEXT,                 -- the value that was counted, if one was
    run INTEGER NOT NULL REFERENCES run,
    PRIMARY KEY (series, at, id)
) WITHOUT ROWID;

-- A cache of what the readings amount to (`recount` proves it).
CREATE TABLE quantity (
    series INTEGER NOT NULL REFERENCES series,
    measure TEXT NOT NULL,
    segment INTEGER NOT NULL,     -- its first instant
    period TEXT NOT NULL,
    sum TEXT NOT NULL,
    max TEXT,
    last TEXT,
    covered INTEGER NOT NULL,
    missed INTEGER NOT NULL,
    gaps INTEGER NOT NULL,
    resets INTEGER NOT NULL,
    PRIMARY KEY (series, measure, segment)
) WITHOUT ROWID;

-- What Waldur should hold of one resource in one billing period, or in the part of it that one plan period covers.
CREATE TABLE statement (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,        -- the first instant of the part
    revision INTEGER NOT NULL,    -- grows with each change
    agreed INTEGER NOT NULL,      -- the revision that the server was last known to hold
    changed INTEGER NOT NULL,
    closed INTEGER,               -- when, after its month, what was posted last had been read back equal
    PRIMARY KEY (resource, period, part)
) WITHOUT ROWID;
CREATE INDEX statement_pending ON statement (resource) WHERE revision > agreed;
CREATE INDEX statement_unclosed ON statement (period) WHERE closed IS NULL;

CREATE TABLE line (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    user TEXT NOT NULL,           -- '' is the total
    exact TEXT NOT NULL,
    posted TEXT,                  -- two decimals; NULL if it can't be posted
    problem TEXT,                 -- why not
    PRIMARY KEY (resource, period, part, component, user)
) WITHOUT ROWID;

-- What enters amounts beside readings: opening balances, and what is carried forward. A recount counts it again.
CREATE TABLE adjustment (
    resource TEXT NOT NULL,
    component TEXT NOT NULL,
    user TEXT NOT NULL,           -- '' is the total
    amount TEXT NOT NULL,         -- exact
    period TEXT NOT NULL,         -- the month that it is part of
    at INTEGER NOT NULL,          -- an opening balance: usage before it is not counted again; else: in which part it lies
    from_period TEXT NOT NULL,    -- '' is an opening balance; else the month that it is taken out of
    from_at INTEGER NOT NULL,     -- in which part of that
    words TEXT NOT NULL,          -- where it comes from
    recorded INTEGER NOT NULL,
    PRIMARY KEY (resource, component, user, period, at, from_period, from_at)
) WITHOUT ROWID;

-- What the server was last known to hold, and how that is known.
CREATE TABLE acknowledgement (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    user TEXT NOT NULL,
    amount TEXT NOT NULL,
    how TEXT NOT NULL CHECK (how IN ('accepted', 'read back')),
    at INTEGER NOT NULL,
    PRIMARY KEY (resource, period, part, component, user)
) WITHOUT ROWID;

-- What was about to be sent, written before it is sent: after a crash the agent knows its own hand.
CREATE TABLE intent (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    user TEXT NOT NULL,
    amount TEXT NOT NULL,
    at INTEGER NOT NULL,
    turn INTEGER NOT NULL,        -- of the submission lock (ledger/lock.rs), in which it was to be sent
    PRIMARY KEY (resource, period, part, component, user, turn)
) WITHOUT ROWID;

-- What is not sent, and why: held and stranded (component and user '' for all of the part), parked, and what a person
-- dropped.
CREATE TABLE trouble (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    user TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'parked', 'stranded', 'dropped')),
    reason TEXT NOT NULL,         -- a closed list: submitter/trouble.rs
    words TEXT NOT NULL,
    amount TEXT,                  -- what was refused
    since INTEGER NOT NULL,
    PRIMARY KEY (resource, period, part, component, user)
) WITHOUT ROWID;

-- A person's decision about a conflict.
CREATE TABLE decision (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('overwrite', 'adopt')),
    at INTEGER NOT NULL,
    balance_at INTEGER,           -- adopt: the instant that the opening balance speaks of, if the person said it
    PRIMARY KEY (resource, period)
) WITHOUT ROWID;

-- When a resource may be tried again.
CREATE TABLE retry (
    resource TEXT PRIMARY KEY,    -- '' is the server
    failures INTEGER NOT NULL,
    next INTEGER NOT NULL,
    words TEXT NOT NULL
) WITHOUT ROWID;

-- The calls that changed, or tried to change, what Waldur holds.
CREATE TABLE call (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    call TEXT NOT NULL,
    amounts TEXT NOT NULL,
    outcome TEXT NOT NULL,
    words TEXT NOT NULL
);
CREATE INDEX call_of_resource ON call (resource, period);

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
    end INTEGER
) WITHOUT ROWID;
CREATE INDEX plan_period_of_resource ON plan_period (resource);

-- When a resource's plan periods were last looked up, for which month and plan.
CREATE TABLE plan_look (resource TEXT PRIMARY KEY, period TEXT NOT NULL, plan TEXT NOT NULL) WITHOUT ROWID;

-- The server's rows: their UUIDs are where users' amounts go.
CREATE TABLE usage_row (
    resource TEXT NOT NULL,
    period TEXT NOT NULL,
    part INTEGER NOT NULL,
    component TEXT NOT NULL,
    uuid TEXT NOT NULL,
    PRIMARY KEY (resource, period, part, component)
) WITHOUT ROWID;
";
