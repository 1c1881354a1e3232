//! What another writer has put on a bill beside the rows of this agent's statements is told, once an amount, and never counted
//! as its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::books::*;
use agent::*;

const TOLD: &str = "of it beside what this agent's statement is in";

/// Another reported 500.00 until the plan was switched; under the new one this agent reports 2.00.
#[test]
fn another_writers_number_under_a_plan_that_nothing_was_measured_under_is_told_once() {
    for api in BOTH {
        let world = metered(api, NOON, "hold");
        another_reports(&world, A, "cpu", "500.00");
        change_plan(&world, "2026-11-10T13:00:00Z", "switch_plan");
        let two = hours("1", "11-10T14:00", "11-10T16:00", "2");
        let all = std::slice::from_ref(&two);
        let done = jobs(&world, "2026-11-10T17:00:00Z", all).exits(0);
        done.line_with(&["WARN", "Project A", "cpu, 2026-11", "also holds 500.00", TOLD]);
        assert_eq!(world.rows(A), ["cpu 2026-11 2.00", "cpu 2026-11 500.00"], "{api}");
        jobs(&world, "2026-11-10T19:00:00Z", all).exits(0).says_not(TOLD);
        world.agent(&["explain", A, "cpu"]).exits(0).tells(&["500.00"]);
        // Another amount is news.
        another_reports(&world, A, "cpu", "501.00");
        jobs(&world, "2026-11-10T21:00:00Z", all).exits(0).line_with(&["also holds 501.00"]);
        assert_eq!(world.rows(A), ["cpu 2026-11 2.00", "cpu 2026-11 501.00"], "{api}");
    }
}
