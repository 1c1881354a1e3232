//! The sandbox from outside: started as a program, asked over HTTP, compared with what the real server was seen
//! to answer. Every expected text stands here in full, so that this file can be read beside the specification.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on should stop, and one that talks to another process may wait for it"
)]

#[path = "sandbox/faults.rs"]
mod faults;
#[path = "sandbox/lists.rs"]
mod lists;
#[path = "sandbox/months.rs"]
mod months;
#[path = "sandbox/server.rs"]
mod server;
#[path = "sandbox/set_usage.rs"]
mod set_usage;
#[path = "sandbox/surroundings.rs"]
mod surroundings;
#[path = "sandbox/users.rs"]
mod users;
