//! Waldur's API as it is: what is sent, what comes back, and what a failure means for the caller.
//!
//! Two generations of it are in the field; nothing here decides which one it talks to, and nothing here retries,
//! waits or remembers. The rows that come back are the only proof of what was done.

pub mod agents;
mod answer;
pub mod client;
pub mod discovery;
pub mod failure;
mod lenient;
mod pace;
mod pages;
pub mod refusal;
pub mod report;
pub mod skew;
pub mod tally;
mod token;
pub mod types;
pub mod usages;
