//! Where reading begins: what a job used in the months before is only a part of what was used then, and the whole of it is
//! another's to report. Unless a person has those months read, too.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod agent;

use agent::*;
use serde_json::json;

const DECEMBER: &str = "2026-12-10T06:00:00Z";

/// A world that begins in December, in which another has reported 500 h of November, and this agent may change it.
fn beginning(api: &str) -> World {
    let world = World::of(Setting { api, now: "2026-11-30T12:00:00Z", ..Setting::default() });
    world.post(
        "rows",
        json!({ "resource": A, "type": "cpu_hours", "usage": "500.00", "modified_by": 77,
                "date": "2026-11-30T11:00:00Z" }),
    );
    world.now(DECEMBER);
    world.write("token", "staff-token");
    let collector = world.collector("source", "readings", &cpu_hours_by_user());
    let collector = collector.replace(&format!("    since: {LONG_AGO}\n"), "");
    assert!(!collector.contains("since"));
    let head = world.head("");
    world.write(
        "agent.yaml",
        &format!("{head}submit: {{ late: backfill, on_conflict: overwrite }}\ncollectors:\n{collector}"),
    );
    // Four hours, of which three were November's; and an hour of December.
    let user = [("user", "alice")];
    world.readings(&[
        job("cpu_seconds", "over", "2026-11-30T21:00:00Z", "2026-12-01T01:00:00Z", "14400", &user),
        job("cpu_seconds", "dec", "2026-12-02T00:00:00Z", "2026-12-02T01:00:00Z", "3600", &user),
    ]);
    world
}

#[test]
fn a_month_before_reading_began_is_not_stated_by_what_reaches_back_into_it() {
    for api in BOTH {
        let world = beginning(api);
        for _ in 0..2 {
            world.flush().exits(0);
            assert_eq!(world.rows(A), ["cpu_hours 2026-11 500.00", "cpu_hours 2026-12 2.00"], "{api}");
        }
        world.agent(&["recount"]).exits(0);
        world.agent(&["status", "--all"]).exits(0).says_not("2026-11 ");
    }
}

/// With its whole history read, the month is the agent's to state: three hours, where 500 are held.
#[test]
fn read_from_an_earlier_month_on_that_is_stated_too() {
    let world = beginning(CURRENT);
    world.flush().exits(0);
    world.agent(&["collect", "--since", "2026-11-01T00:00:00Z"]).exits(0);
    world.agent(&["recount"]).exits(0);
    // In a month that is over no rule overwrites what another wrote, but a person may (law 7).
    world.flush().exits(65).says("Waldur holds 500.00").says("3.00");
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 500.00", "cpu_hours 2026-12 2.00"]);
    world.agent(&["resolve", A, "overwrite"]).exits(0).says("500.00 becomes 3.00");
    world.flush().exits(0);
    assert_eq!(world.rows(A), ["cpu_hours 2026-11 3.00", "cpu_hours 2026-12 2.00"]);
}
