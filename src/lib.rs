//! placeholder
pub mod cli;
pub mod collectors;
pub mod config;
pub mod ledger;
pub mod metering;
pub mod waldur;
