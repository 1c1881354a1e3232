//! What was once wrong, as the random test found it. All laws hold on the way, and in the end Waldur holds these numbers.

use waldur_usage_agent::submitter::Late;

use crate::bench;
use crate::case::Event::*;
use crate::case::{Case, Event, Setting};

fn holds(setting: Setting, events: Vec<Event>, expected: &[&str]) {
    let held = bench::run(&Case { number: 0, setting, events });
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
