//! placeholder
pub mod exact;
pub mod reading;
