//! placeholder
pub mod clock;
pub mod duration;
pub mod section;
pub mod template;
