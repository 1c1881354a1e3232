//! One file a command.
pub mod usages;
