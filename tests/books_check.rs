//! `check` says before a changed file is used what it would change on the bill: the resource, the component, what Waldur
//! holds and what it would be. It changes nothing itself, and what is told is told again when it happens.
//! October of project A is closed with 12 h, November has 5 h of alice's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;

/// What is said of a changed file on the 10th, and that nothing came of it.
#[track_caller]
fn told(waldur: &str, collectors: &[(&str, String)]) -> Done {
    let books = Books::of(CURRENT, "hold", &keys(CPU));
    books.world.now(CHANGE);
    let before = books.world.agent(&["check"]);
    books.rules_with(waldur, collectors);
    let mark = books.world.mark();
    let after = books.world.agent(&["check"]);
    assert_eq!(books.world.posts_since(mark).len(), 0);
    books.november(A, &["cpu 5.00"]);
    books.october_stands("12.00");
    // Asking does not make it known: it says the same again.
    assert_eq!(books.world.agent(&["check"]).out, after.out);
    assert_ne!(before.out, after.out);
    after
}

fn one(meters: &str) -> [(&'static str, String); 1] {
    [("source", keys(meters))]
}

#[test]
fn the_same_file_changes_nothing_and_holds_nothing() {
    let books = Books::of(CURRENT, "hold", &keys(CPU));
    books.world.now(CHANGE);
    books.world.agent(&["check"]).exits(0).says_not("held");
}

#[test]
fn another_factor_is_told_with_both_numbers() {
    told("", &one("cpu: { reading: sec, factor: 1/1800 }")).names_a().tells(&["cpu", "5.00", "10.00"]);
}

#[test]
fn a_component_that_is_added_is_told_with_its_number() {
    let both = format!("{CPU}\n      cpu2: {{ reading: sec, factor: 1/3600 }}");
    told("", &one(&both)).names_a().tells(&["cpu2", "5.00"]);
}

#[test]
fn a_component_that_is_renamed_is_told_as_held_under_both_names() {
    let renamed = "cpu2: { reading: sec, factor: 1/3600 }";
    let said = told("", &one(renamed)).names_a().tells(&["cpu2", "5.00", "held"]);
    assert!(said.out.replace("cpu2", "").contains("cpu"), "the old name, too: {said:#?}");
}

#[test]
fn a_component_that_is_dropped_is_told_as_held() {
    let other = "ram: { reading: mem, factor: 1/3600 }";
    told("", &one(other)).names_a().tells(&["cpu", "5.00", "held"]);
}

#[test]
fn another_resource_is_told_with_both() {
    let fixed = format!("    resource: {B}\n    user: \"{{user}}\"\n    meters:\n      {CPU}\n");
    told("", &[("source", fixed)]).tells(&["Project A", "Project B", "cpu", "5.00", "held"]);
    let template = targeted("{moved}", "{user}", CPU);
    told("", &[("source", template)]).tells(&["Project A", "Project B", "cpu", "5.00", "held"]);
}

#[test]
fn a_filter_that_leaves_everything_out_is_told_with_both_numbers() {
    let filtered = "cpu: { reading: sec, factor: 1/3600, not_if: { part: x } }";
    told("", &one(filtered)).names_a().tells(&["cpu", "5.00", "0.00"]);
}

#[test]
fn another_time_zone_is_told_with_the_month_from_which_it_holds() {
    let zone = "billing_timezone: Europe/Tallinn";
    told(zone, &one(CPU)).tells(&["Europe/Tallinn", "UTC", "2026-12"]);
}

#[test]
fn another_user_template_is_told_with_the_shares() {
    told("", &[("source", targeted("{project}", "{team}", CPU))]).tells(&["alice", "blue", "5.00"]);
}

#[test]
fn a_renamed_collector_is_told_with_the_remedy() {
    told("", &[("renamed", keys(CPU))]).tells(&["source", "renamed", "continues"]);
}

#[test]
fn a_second_collector_over_the_same_jobs_is_told_and_both_are_named() {
    told("", &[("source", keys(CPU)), ("second", keys(CPU))]).line_with(&["source", "second"]);
}

#[test]
fn a_second_collector_of_other_identities_is_told_and_both_are_named() {
    let books = Books::of(CURRENT, "hold", &keys(CPU));
    books.world.now(CHANGE);
    books.rules(&[("source", keys(CPU)), ("other", keys(CPU))]);
    lines(&books.world, "other", &[hours("x1", "11-05T00:00", "11-05T05:00", "5")]);
    books.world.agent(&["check"]).line_with(&["source", "other"]);
}
