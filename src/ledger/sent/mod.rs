//! What was sent of the books, what is known of the server, and what is not sent and why.
//!
//! In the order of the list below, each file imports only what stands above it, and of `books` what states and moves
//! amounts. It decides nothing about what to send.

pub mod blocked;
pub mod lock;
pub mod moved;
pub mod opening;
pub mod periods;
mod plans;
pub mod record;
pub mod server;
pub mod statement;
