//! What people and machines may want to see of the ledger. It only reads.

pub mod adjustments;
pub mod agents;
pub mod calls;
pub mod curve;
pub mod explain;
pub mod export;
pub mod report;
