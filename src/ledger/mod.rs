//! The ledger: every reading, what they amount to, and what Waldur is known to hold of it, in one SQLite file or in a database of
//! PostgreSQL's. It is the only state of the agent.
//!
//! Data goes one way through it: `queue` takes runs as they come, `books` counts them and states what they amount to by the
//! rules in force, `sent` keeps what was sent of that and what is known of the server, `views` show all of it. A file
//! imports only what stands above it in this list, and inside a folder no two import each other. It never talks to the
//! network but that database, and never asks for the time: callers pass instants in.

pub mod books;
pub mod db;
pub mod queue;
pub mod sent;
pub mod views;

pub use db::{InForce, Ledger, LedgerError, LedgerErrorKind, Rulebook, SharedLedger};

#[cfg(test)]
mod tests;
