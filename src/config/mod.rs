//! The configuration file: its types and their checks, and the few things that every room shares.
//!
//! What a key of a collector means is the business of the room that owns it (meters, plugins); here is how the file is
//! read, and what stands outside the collectors. Nothing in this room touches the network or the ledger.

pub mod clock;
pub mod digest;
pub mod duration;
pub mod hosts;
pub mod page;
pub mod place;
pub mod schedule;
pub mod section;
pub mod settings;
pub mod template;
pub mod waldur;
mod written;
mod yaml;
