//! Rows of runs go with the readings that they brought, and change nothing by it.

use super::*;

#[test]
fn runs_of_compacted_months_go_but_for_the_first_and_what_is_still_asked_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder, cpu());
    let mut value = 0;
    let mut look = |ledger: &mut Ledger, time: Timestamp| {
        value += 3600;
        ledger.record(seen(time, vec![counter("alice", value, time)])).unwrap();
    };
    for hour in 0..30 {
        look(&mut ledger, at("2026-09-10T00:00:00Z") + SignedDuration::from_hours(hour));
    }
    for day in 0..50 {
        look(&mut ledger, at("2026-10-01T12:00:00Z") + SignedDuration::from_hours(24 * day));
    }
    let now = at("2026-11-20T00:00:00Z");
    let before = amounts(&mut ledger);
    close_all(&mut ledger, now);
    let runs = |ledger: &Ledger, before: &str| {
        let count = |connection: &crate::ledger::db::sql::Connection| {
            connection.query_row(
                "SELECT count(*) FROM run WHERE at < ?",
                [at(before).as_microsecond()],
                |row| row.get::<_, i64>(0),
            )
        };
        ledger.look(count).unwrap()
    };
    let keep = SignedDuration::from_hours(24 * 10);
    assert_eq!(ledger.compact(now, keep).unwrap().readings, 30);
    assert_eq!(runs(&ledger, "2026-10-01T00:00:00Z"), 30, "those of the month before are still looked at");
    assert_eq!(ledger.compact(now, keep).unwrap().readings, 31);
    assert_eq!(runs(&ledger, "2026-10-01T00:00:00Z"), 1, "the first stays");
    assert_eq!(runs(&ledger, "2026-12-01T00:00:00Z"), 51);
    assert_eq!(amounts(&mut ledger), before);
    assert_eq!(ledger.recount_rehearsal(None, now).unwrap(), []);
    look(&mut ledger, at("2026-11-20T12:00:00Z"));
    assert_eq!(ledger.recount_rehearsal(None, now).unwrap(), []);
}
