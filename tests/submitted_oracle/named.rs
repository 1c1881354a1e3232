//! What was once wrong, as the random test found it. All laws hold on the way, and in the end Waldur holds these numbers.

use waldur_usage_agent::submitter::Late;

use crate::bench;
use crate::case::Event::*;
use crate::case::{Case, Decides, Event, Fault, Setting, What};

fn holds(setting: Setting, events: Vec<Event>, expected: &[&str]) {
    let mut held = bench::run(&Case { number: 0, setting, events });
    // Rows of one component are in the order of their plans' UUIDs, which is any.
    held.iter_mut().for_each(|rows| rows.sort());
    assert_eq!(held.as_ref().map(|rows| rows.iter().map(String::as_str).collect()), Ok(expected.to_vec()));
}

#[test]
fn shares_of_a_month_that_is_over_stay_with_a_total_that_can_not_go_to_nothing_any_more() {
    holds(
        Setting { classic: true, staff: false, late: Late::CarryForward },
        vec![
            Used { place: 0, user: 2, cents: 37_035, ago: 0 },
            Rest,
            ToMonthEnd { minutes: 60 },
            Rest,
            Corrected { job: 0, cents: 0 },
            Rest,
        ],
        &["2026-11 a cpu_hours 370.35, bob 370.35"],
    );
}

#[test]
fn the_shares_of_a_row_that_a_late_report_made_in_a_month_cut_by_a_switch_of_plan_are_sent() {
    holds(
        Setting { classic: false, staff: true, late: Late::Backfill },
        vec![
            Switch { resource: 0 },
            Used { place: 0, user: 2, cents: 3, ago: 4_359 },
            Rest,
            ToMonthEnd { minutes: -300 },
            Used { place: 1, user: 1, cents: 250, ago: 0 },
            ToMonthEnd { minutes: 1_200 },
            Rest,
        ],
        &["2026-11 a cpu_hours 0.03, bob 0.03", "2026-11 a ram_gb_hours 2.50, alice 2.50"],
    );
}

/// The law: what was used (20.43) is what Waldur holds and what is told to be stranded (20.39).
#[test]
fn what_a_plan_that_has_ended_left_is_told_anew_where_it_changes() {
    holds(
        Setting { classic: true, staff: false, late: Late::Hold },
        vec![
            Used { place: 1, user: 2, cents: 4, ago: 0 },
            Rest,
            Used { place: 1, user: 2, cents: 2_000, ago: 70 },
            Switch { resource: 0 },
            Rest,
            Corrected { job: 1, cents: 2_039 },
            Rest,
        ],
        &["2026-11 a ram_gb_hours 0.04, bob 0.04"],
    );
}

#[test]
fn what_is_taken_back_is_taken_from_the_plan_that_runs_where_the_first_of_the_month_has_nothing() {
    holds(
        Setting { classic: true, staff: false, late: Late::CarryForward },
        vec![
            Used { place: 1, user: 0, cents: 12_345, ago: 0 },
            Rest,
            ToMonthEnd { minutes: 120 },
            Switch { resource: 0 },
            Corrected { job: 0, cents: 10_345 },
            Used { place: 1, user: 0, cents: 3_000, ago: 0 },
            Rest,
        ],
        &["2026-11 a ram_gb_hours 123.45", "2026-12 a ram_gb_hours 10.00"],
    );
}

#[test]
fn a_share_that_is_taken_back_is_taken_from_what_another_month_brings() {
    holds(
        Setting { classic: false, staff: false, late: Late::CarryForward },
        vec![
            Used { place: 1, user: 1, cents: 3, ago: 0 },
            Rest,
            ToMonthEnd { minutes: 1_500 },
            Reassigned { job: 0, user: 0 },
            Used { place: 1, user: 1, cents: 1_000, ago: 0 },
            ToMonthEnd { minutes: 1_500 },
            Rest,
        ],
        &["2026-11 a ram_gb_hours 0.03, alice 0.03", "2027-01 a ram_gb_hours 10.00, alice 9.97"],
    );
}

/// The law: what became of the call that arrived late is found out, and the 7.50 that are billed twice are told.
#[test]
fn what_became_of_a_call_is_found_out_also_where_its_plan_ended_and_its_month_is_over() {
    holds(
        Setting { classic: false, staff: true, late: Late::CarryForward },
        vec![
            Used { place: 2, user: 0, cents: 37_035, ago: 0 },
            Cycle { fault: None },
            Switch { resource: 1 },
            Used { place: 2, user: 0, cents: 750, ago: 0 },
            Slow { times: 1, minutes: 8, cycle: true },
            ToMonthEnd { minutes: -4 },
            Rest,
        ],
        &["2026-11 b cpu_hours 377.85", "2026-11 b cpu_hours 7.50"],
    );
}

/// The share went to nothing in the row of the old plan, the total under the new one: that is no other writer's doing.
#[test]
fn a_share_that_was_sent_after_a_switch_that_nobody_had_seen_is_of_the_row_that_it_was_sent_to() {
    holds(
        Setting { classic: false, staff: false, late: Late::CarryForward },
        vec![
            Used { place: 1, user: 0, cents: 150, ago: 0 },
            Slow { times: 2, minutes: 8, cycle: false },
            ToMonthEnd { minutes: 120 },
            Used { place: 1, user: 1, cents: 250, ago: 4_830 },
            Rest,
            Switch { resource: 0 },
            Used { place: 2, user: 1, cents: 50, ago: 0 },
            Corrected { job: 1, cents: 0 },
            Rest,
        ],
        &[
            "2026-11 a ram_gb_hours 1.50",
            "2026-12 a ram_gb_hours 2.50, alice 2.50",
            "2026-12 b cpu_hours 0.50, alice 0.50",
        ],
    );
}

#[test]
fn a_switch_of_plan_that_nobody_saw_in_its_month_is_looked_for_before_that_month_is_reported_late() {
    holds(
        Setting { classic: false, staff: true, late: Late::Backfill },
        vec![
            Used { place: 1, user: 1, cents: 300, ago: 0 },
            Rest,
            Passes { minutes: 30 },
            Switch { resource: 0 },
            Used { place: 1, user: 0, cents: 24_690, ago: 4_833 },
            ToMonthEnd { minutes: -1 },
            Rest,
        ],
        &["2026-11 a ram_gb_hours 246.90", "2026-11 a ram_gb_hours 3.00, alice 3.00"],
    );
}

/// The share of an earlier total, the outcome of which was not known, would have made the total what it was (a newer server
/// makes a total of nothing the sum of its users).
#[test]
fn a_share_of_an_earlier_total_is_not_sent_after_the_total_went_to_nothing() {
    holds(
        Setting { classic: false, staff: true, late: Late::Backfill },
        vec![
            Used { place: 3, user: 2, cents: 100, ago: 0 },
            Rest,
            Used { place: 1, user: 1, cents: 100, ago: 0 },
            ToMonthEnd { minutes: 0 },
            Cycle { fault: Some(Fault { what: What::Shares, after: false, times: 1 }) },
            Corrected { job: 1, cents: 0 },
            Rest,
        ],
        &["2026-11 a ram_gb_hours 0.00", "2026-11 b ram_gb_hours 1.00, bob 1.00"],
    );
}

#[test]
fn a_share_that_a_month_brings_goes_with_the_total_that_another_month_brings() {
    holds(
        Setting { classic: false, staff: false, late: Late::CarryForward },
        vec![
            Used { place: 1, user: 0, cents: 2, ago: 0 },
            Rest,
            ToMonthEnd { minutes: 60 },
            Used { place: 1, user: 0, cents: 250, ago: 0 },
            Reassigned { job: 0, user: 1 },
            ToMonthEnd { minutes: 60 },
            Rest,
        ],
        &["2026-11 a ram_gb_hours 0.02", "2027-01 a ram_gb_hours 2.50, alice 0.02"],
    );
}

#[test]
fn what_a_person_has_overwritten_goes_to_nothing_where_nothing_is_left_of_what_was_measured() {
    holds(
        Setting { classic: true, staff: false, late: Late::Hold },
        vec![
            Used { place: 0, user: 2, cents: 1, ago: 0 },
            Another { place: 0, cents: 7, months: 0 },
            Rest,
            Decide { resource: 0, decision: Decides::Overwrite },
            Corrected { job: 0, cents: 0 },
            Rest,
        ],
        &["2026-11 a cpu_hours 0.00"],
    );
}

/// The law: what is told to be stranded, and is billed by hand then, is not on the bill already.
#[test]
fn a_total_that_arrived_in_a_month_cut_by_a_switch_of_plan_is_found_when_that_month_is_over() {
    holds(
        Setting { classic: true, staff: false, late: Late::Hold },
        vec![
            Switch { resource: 0 },
            Used { place: 0, user: 0, cents: 12_345, ago: 0 },
            ToMonthEnd { minutes: -300 },
            Slow { times: 1, minutes: 0, cycle: false },
            Another { place: 1, cents: 0, months: 1 },
            Rest,
        ],
        &["2026-10 a ram_gb_hours 0.00", "2026-11 a cpu_hours 123.45"],
    );
}

/// What was carried away and back again comes to nothing, and nothing waits.
#[test]
fn what_was_carried_away_and_taken_back_from_a_later_month_leaves_nothing_pending() {
    holds(
        Setting { classic: true, staff: false, late: Late::CarryForward },
        vec![
            Used { place: 0, user: 1, cents: 1000, ago: 2_342 },
            ToMonthEnd { minutes: 1_500 },
            Rest,
            Corrected { job: 0, cents: 0 },
            ToMonthEnd { minutes: 1_500 },
            Used { place: 0, user: 2, cents: 3000, ago: 0 },
            Rest,
        ],
        &["2026-12 a cpu_hours 10.00, alice 10.00", "2027-01 a cpu_hours 20.00, bob 30.00"],
    );
}
