//! The books: queued runs are counted into them, by the rules in force, and statements are made of them.
//!
//! No two files import each other in a circle (tests/house.rs). Nothing here knows how usage is sent.

pub(in crate::ledger) mod adjustment;
mod before;
pub mod catalog;
pub mod change;
mod changed;
mod claims;
pub mod compact;
pub(in crate::ledger) mod count;
pub(in crate::ledger) mod cuts;
pub(in crate::ledger) mod freed;
pub mod future;
mod identity;
pub mod ingest;
mod known;
pub(in crate::ledger) mod lines;
pub mod lingering;
mod made;
mod place;
pub(in crate::ledger) mod quantities;
mod reach;
pub mod recount;
mod renamed;
mod row;
pub mod sourced_meters;
mod spent;
pub mod statements;
pub mod targets;
pub mod twice;
pub(in crate::ledger) mod unstated;
