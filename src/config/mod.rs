//! placeholder
pub mod clock;
pub mod duration;
pub mod schedule;
pub mod section;
