//! placeholder
pub mod collectors;
pub mod config;
pub mod metering;
