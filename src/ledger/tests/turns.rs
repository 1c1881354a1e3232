//! Two who submit for one ledger: what the one whose turn is over may still do.

use super::super::LedgerErrorKind;
use super::super::sent::opening::Opening;
use super::super::views::calls::Since;
use super::*;

const START: &str = "2026-11-10T00:00:00Z";
const LATER: &str = "2026-11-10T02:00:00Z";

/// A ledger with two hours to be reported.
fn two_hours_used(folder: &tempfile::TempDir) -> (Ledger, StatementKey) {
    let mut ledger = open(folder, cpu());
    for (time, seconds) in [(at(START), 0), (at(LATER), 7200)] {
        ledger.record(seen(time, vec![counter("alice", seconds, time)])).unwrap();
    }
    let key = ledger.pending(at(LATER)).unwrap()[0];
    (ledger, key)
}

#[test]
fn what_a_holder_of_an_older_turn_learns_is_a_doubt_and_what_it_means_to_send_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut old, key) = two_hours_used(&folder);
    let (start, later) = (at(START), at(LATER));
    let total = |amount: &str| [total("cpu_hours", amount)];
    old.take_turn(start).unwrap();
    let first = old.intend(totals(key, &total("1.00")), start).unwrap();
    let mut new = open(&folder, cpu());
    assert_eq!(new.take_turn(later).unwrap(), Some(start));
    let entry = |ledger: &Ledger| ledger.statement(key).unwrap().unwrap().components["cpu_hours"].clone();
    let open_ids = |ledger: &Ledger| -> Vec<i64> { entry(ledger).open.iter().map(|open| open.id).collect() };
    // It has read that the first call did not happen, and sends the newer number.
    new.close_open(&open_ids(&new), None, later).unwrap();
    let second = new.intend(totals(key, &total("2.00")), later).unwrap();
    for refused in [
        old.note_read(key, &total("1.00"), "", later),
        old.close_open(&open_ids(&old), None, later),
        old.intend(totals(key, &total("1.50")), later).map(drop),
    ] {
        assert_eq!(refused.unwrap_err().kind, LedgerErrorKind::Superseded);
    }
    let known = |ledger: &Ledger| {
        let entry = entry(ledger);
        let open: Vec<String> = entry.open.iter().map(|open| open.amount.to_string()).collect();
        (entry.acknowledged.map(|known| known.amount.to_string()), open)
    };
    assert_eq!(known(&new), (None, vec!["2.00".to_owned()]));
    // The old call was accepted after all, while the newer one was on its way: that remains to be read.
    old.conclude(&first, Outcome::Accepted, "", later).unwrap_err();
    new.conclude(&second, Outcome::Accepted, "", later).unwrap();
    assert_eq!(known(&new), (Some("2.00".to_owned()), vec!["1.00".to_owned()]));
    assert_eq!(new.pending(later).unwrap(), [key]);
    new.close_open(&open_ids(&new), open_ids(&new).first().copied(), later).unwrap();
    assert_eq!(known(&new), (Some("1.00".to_owned()), vec![]));
    assert_eq!(new.pending(later).unwrap(), [key]);
}

/// It is asked for often, and looked up again only where something was written.
#[test]
fn what_another_process_writes_is_no_longer_pending_here_and_what_is_taken_back_is_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut here, key) = two_hours_used(&folder);
    let later = at(LATER);
    assert_eq!(here.pending_as_stated().unwrap(), [key]);
    let mut other = open(&folder, cpu());
    let alice = Amount { user: "alice".to_owned(), ..total("cpu_hours", "2.00") };
    accept(&mut other, key, &[total("cpu_hours", "2.00"), alice], later);
    assert_eq!(here.pending_as_stated().unwrap(), []);
    // A total that is on its way is to be looked for, as long as that stands.
    let meanwhile = here.rehearse(|ledger| {
        ledger.intend(totals(key, &[total("cpu_hours", "3.00")]), later)?;
        ledger.pending_as_stated()
    });
    assert_eq!(meanwhile.unwrap(), [key]);
    assert_eq!(here.pending_as_stated().unwrap(), []);
    // And of months before this one: none.
    assert_eq!(here.pending_before("2026-11".parse().unwrap(), later).unwrap(), []);
    here.intend(totals(key, &[total("cpu_hours", "3.00")]), later).unwrap();
    assert_eq!(here.pending_before("2026-12".parse().unwrap(), later).unwrap(), [key]);
    assert_eq!(here.pending_before("2026-11".parse().unwrap(), later).unwrap(), []);
}

#[test]
fn of_several_numbers_of_one_line_that_are_noted_together_the_last_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ledger, key) = two_hours_used(&folder);
    let later = at(LATER);
    let share = |amount: &str| Amount { user: "alice".to_owned(), ..total("cpu_hours", amount) };
    let mut ids = Vec::new();
    for amount in ["1.00", "2.00"] {
        ids.extend(ledger.intend(totals(key, &[total("cpu_hours", amount), share(amount)]), later).unwrap());
    }
    ledger.conclude(&ids, Outcome::Accepted, "", later).unwrap();
    let statement = ledger.statement(key).unwrap().unwrap();
    let share = &statement.users[&("cpu_hours".to_owned(), "alice".to_owned())];
    for entry in [&statement.components["cpu_hours"], share] {
        assert_eq!(entry.held().to_string(), "2.00");
        assert_eq!(entry.open, []);
    }
    assert!(ledger.pending(later).unwrap().is_empty());
    let sent: Vec<(String, String, Option<String>)> = ledger
        .accepted(&Since { after: 0, turns: [0].into() }, None)
        .unwrap()
        .into_iter()
        .map(|one| (one.user, one.amount.to_string(), one.was.map(|was| was.to_string())))
        .collect();
    let number = |user: &str, amount: &str, was: Option<&str>| {
        (user.to_owned(), amount.to_owned(), was.map(str::to_owned))
    };
    assert_eq!(
        sent,
        [
            number("", "1.00", None),
            number("alice", "1.00", None),
            number("", "2.00", Some("1.00")),
            number("alice", "2.00", Some("1.00")),
        ]
    );
}

#[test]
fn a_holder_of_an_older_turn_adopts_nothing_and_closes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut old, key) = two_hours_used(&folder);
    let (start, later) = (at(START), at(LATER));
    old.take_turn(start).unwrap();
    let mut new = open(&folder, cpu());
    new.take_turn(later).unwrap();
    new.intend(totals(key, &[total("cpu_hours", "2.00")]), later).unwrap();
    // What it had read before it was paused is no longer so, and the newer call is on its way.
    let opening = Opening {
        component: "cpu_hours".to_owned(),
        at: start,
        total: "40.00".parse().unwrap(),
        users: BTreeMap::new(),
        words: String::new(),
        ours: false,
    };
    for refused in [old.adopt(key, opening, later), old.close(key, later)] {
        assert_eq!(refused.unwrap_err().kind, LedgerErrorKind::Superseded);
    }
    let known = new.statement(key).unwrap().unwrap();
    let entry = known.components["cpu_hours"].clone();
    assert_eq!((entry.exact.as_str(), entry.acknowledged, known.closed), ("2", None, None));
    assert_eq!(entry.open.iter().map(|open| open.amount.to_string()).collect::<Vec<_>>(), ["2.00"]);
}

#[test]
fn work_that_panics_in_the_middle_of_a_transaction_leaves_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let shared = crate::ledger::SharedLedger::new(open(&folder, cpu()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let told = |ledger: &mut Ledger| ledger.put_offering(uuid::Uuid::nil(), "half", Vec::new(), at(START));
    let broken: Result<(), _> = runtime.block_on(shared.with(move |ledger| {
        ledger.together(|ledger| {
            told(ledger)?;
            panic!("in the middle")
        })
    }));
    assert!(broken.is_err());
    let left = runtime.block_on(shared.with(|ledger| {
        Ok((ledger.connection.is_autocommit(), ledger.freshness(uuid::Uuid::nil())?.components))
    }));
    assert_eq!(left.unwrap(), (true, None));
}

/// One run that can't be counted costs no other.
#[test]
fn a_run_that_can_not_be_counted_is_set_aside_and_told() {
    // SQLite keeps what it is given; a column of PostgreSQL's would refuse it.
    let mut ledger = Ledger::in_memory(cpu()).unwrap();
    ledger.apply_rules(at(START)).unwrap();
    ledger.only_appends = true;
    for (hour, value) in [(1, 0), (2, 3600), (3, 7200)] {
        let time = at(&format!("2026-11-10T0{hour}:00:00Z"));
        ledger.record(seen(time, vec![counter("alice", value, time)])).unwrap();
    }
    ledger.only_appends = false;
    // A row that was damaged.
    ledger
        .transact(|connection, _| {
            connection
                .execute(
                    "UPDATE queued SET readings = replace(readings, '\"3600\",', '\"3600\"') WHERE run = 2",
                    [],
                )
                .map(drop)
        })
        .unwrap();
    ledger.count_queued().unwrap();
    ledger.state(at("2026-11-10T04:00:00Z")).unwrap();
    let statements = ledger.statements(None).unwrap();
    assert_eq!(statements[0].components["cpu_hours"].exact, "2");
    let told: (String, String) = ledger
        .look(|connection| {
            connection.query_row("SELECT outcome, message FROM run WHERE id = 2", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
        })
        .unwrap();
    assert_eq!(told.0, "failed");
    assert!(told.1.contains("can't be counted and is set aside"), "{}", told.1);
}
