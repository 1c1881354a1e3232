//! The tutorial, followed word for word in an empty directory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod docs_commands;

#[test]
fn the_tutorial_leads_to_a_reported_number() {
    let directory = tempfile::tempdir().unwrap();
    let port = docs_commands::free_port().to_string();
    docs_commands::run("tutorial.md", directory.path(), &[("8099", &port)], "");
}
