//! placeholder
pub mod clock;
pub mod section;
