//! placeholder
pub mod collectors;
pub mod config;
pub mod ledger;
pub mod metering;
