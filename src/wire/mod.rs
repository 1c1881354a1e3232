//! What every HTTP call of the agent needs, whoever makes it: secrets read where they are kept, whom to trust and what
//! to show over TLS, and what went wrong in words and numbers for people.
//!
//! It never makes a call, never decides what is asked of whom, and no message of it holds a secret.

pub mod link;
pub mod numbers;
pub mod secret;
pub mod tls;
pub mod words;
