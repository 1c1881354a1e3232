//! What was sent of the books, what is known of the server, and what is not sent and why.
//!
//! No two files import each other in a circle (tests/house.rs), and of `books` only what states and moves amounts is known
//! here. It decides nothing about what to send.

pub mod amount;
pub mod blocked;
pub mod decision;
pub mod known;
pub mod lock;
pub mod moved;
pub mod opening;
pub mod periods;
pub mod plans;
pub mod record;
mod rows;
pub mod server;
pub mod shadow;
pub mod statement;
