//! placeholder
pub mod clock;
pub mod section;
pub mod waldur;
