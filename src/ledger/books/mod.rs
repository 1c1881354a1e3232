//! The books: queued runs are counted into them, by the rules in force, and statements are made of them.
//!
//! In the order of the list below, each file imports only what stands above it. Nothing here knows how usage is sent.

mod row;
mod spent;
pub(in crate::ledger) mod quantities;
pub(in crate::ledger) mod targets;
mod place;
pub(in crate::ledger) mod cuts;
pub(in crate::ledger) mod count;
mod identity;
pub(in crate::ledger) mod unstated;
pub mod ingest;
pub(in crate::ledger) mod lines;
pub(in crate::ledger) mod adjustment;
pub mod makers;
mod claims;
pub mod statements;
pub mod change;
pub mod catalog;
pub mod future;
pub mod compact;
pub mod recount;
