//! Two who submit for one ledger: what the one whose turn is over may still do.

use super::*;

const START: &str = "2026-11-10T00:00:00Z";
const LATER: &str = "2026-11-10T02:00:00Z";

/// A ledger with two hours to be reported.
fn two_hours_used(folder: &tempfile::TempDir) -> (Ledger, StatementKey) {
    let mut ledger = open(folder, cpu());
    for (time, seconds) in [(at(START), 0), (at(LATER), 7200)] {
        ledger.record(seen(time, vec![counter("alice", seconds, time)])).unwrap();
    }
    let key = ledger.pending().unwrap()[0];
    (ledger, key)
}

#[test]
fn what_a_holder_of_an_older_turn_learns_is_a_doubt_and_what_it_means_to_send_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut old, key) = two_hours_used(&folder);
    let (start, later) = (at(START), at(LATER));
    let total = |amount: &str| {
        let (component, user) = ("cpu_hours".to_owned(), String::new());
        vec![super::super::outbox::Amount { component, user, amount: amount.parse().unwrap() }]
    };
    old.take_turn(start).unwrap();
    old.intend(key, total("1.00"), start).unwrap();
    let mut new = open(&folder, cpu());
    assert_eq!(new.take_turn(later).unwrap(), Some(start));
    // It has read that the first call did not happen, and sends the newer number.
    new.take_back(key, total("1.00")).unwrap();
    new.intend(key, total("2.00"), later).unwrap();
    for refused in [
        old.acknowledge(key, total("1.00"), "read back", later),
        old.take_back(key, total("2.00")),
        old.intend(key, total("1.50"), later),
    ] {
        assert_eq!(refused.unwrap_err().kind, super::super::LedgerTrouble::Superseded);
    }
    let known = |ledger: &Ledger| {
        let entry = ledger.statement(key).unwrap().unwrap().components["cpu_hours"].clone();
        (entry.acknowledged.map(|known| known.amount.to_string()), entry.intended.map(|it| it.to_string()))
    };
    assert_eq!(known(&new), (None, Some("2.00".to_owned())));
    // The old call was accepted after all, while the newer one was on its way: that remains to be read.
    old.acknowledge(key, total("1.00"), "accepted", later).unwrap_err();
    new.acknowledge(key, total("2.00"), "accepted", later).unwrap();
    assert_eq!(known(&new), (Some("2.00".to_owned()), Some("1.00".to_owned())));
    assert_eq!(new.pending().unwrap(), [key]);
    new.acknowledge(key, total("1.00"), "read back", later).unwrap();
    assert_eq!(known(&new), (Some("1.00".to_owned()), None));
    assert_eq!(new.pending().unwrap(), [key]);
}

#[test]
fn a_holder_of_an_older_turn_adopts_nothing_and_closes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut old, key) = two_hours_used(&folder);
    let (start, later) = (at(START), at(LATER));
    old.take_turn(start).unwrap();
    let mut new = open(&folder, cpu());
    new.take_turn(later).unwrap();
    let (component, user) = ("cpu_hours".to_owned(), String::new());
    let total = vec![super::super::outbox::Amount { component, user, amount: "2.00".parse().unwrap() }];
    new.intend(key, total, later).unwrap();
    // What it had read before it was paused is no longer so, and the newer call is on its way.
    let opening = super::super::adjustment::Opening {
        component: "cpu_hours".to_owned(),
        at: start,
        total: "40.00".parse().unwrap(),
        users: BTreeMap::new(),
        words: String::new(),
    };
    for refused in [old.adopt(key, opening, later), old.close(key, later)] {
        assert_eq!(refused.unwrap_err().kind, super::super::LedgerTrouble::Superseded);
    }
    let known = new.statement(key).unwrap().unwrap();
    let entry = known.components["cpu_hours"].clone();
    assert_eq!((entry.exact.as_str(), entry.acknowledged, known.closed), ("2", None, None));
    assert_eq!(entry.intended, Some("2.00".parse().unwrap()));
}
