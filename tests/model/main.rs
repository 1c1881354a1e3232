//! A model test of how totals and shares reach Waldur. The agent's side is the real code: ledger, submitter and client.
//! Around it everything is a small state machine, and a schedule chosen at random (and shrunk, if it fails) drives it:
//!
//! - the network loses a request, loses an answer, delivers a request long after its sender gave up, or twice;
//! - the server fails before it has applied a call or after, and answers half;
//! - another writes to the same rows, now and then before the agent has looked at what it wrote itself;
//! - the agent is cut off before or after any request and comes back with what its ledger holds;
//! - usage grows, is corrected downwards, the clock goes on, the month ends; the server's clock is askew.
//!
//! What must hold, always:
//!
//! 1. *Never in the wrong month.* Whatever the server files in a month was once that month's amount.
//! 2. *Never over another's number.* What another wrote and the agent has read, or could have read for five minutes, stays.
//! 3. *At most one own value in doubt.* After an unclear outcome nothing is reported of that resource until its rows
//!    have been read.
//! 4. *Nothing is said twice.* No report of amounts that all are known to be there.
//! 5. *Final agreement.* Once the faults are over the server holds what the ledger says, or another's number, which shows
//!    as a conflict; and the ledger says exactly what was used.
//!
//! What the model leaves out, because no client can do anything about it: a report to a server that ignores dates which
//! arrives after midnight although it was sent a minute before; a late arrival that nothing is ever sent after; and one that
//! arrives more than ten minutes after its sender gave up, which looks like another writer's and is held as a conflict.
//! A duplicate is of a call whose answer was lost: nothing on the way repeats a call that was answered.
//!
//!     cargo test --test model                       # 700 schedules, always the same, against either kind of server
//!     MODEL_CASES=20000 cargo test --test model     # the long version: others each time
//!
//! Schedules that once failed have tests of their own, below; what fails next is kept in tests/corpus/model.txt until then.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod bench;
#[path = "../agent/engine.rs"]
mod engine;
#[path = "../agent/in_process.rs"]
mod in_process;
mod server;

use bench::{Bench, PLACES, Step};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner};
use server::Fate;

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Passes),
        2 => Just(Fate::NeverArrives),
        2 => Just(Fate::AnswerIsLost),
        2 => Just(Fate::ArrivesLate),
        1 => Just(Fate::ArrivesTwice),
        1 => Just(Fate::Fails),
        2 => Just(Fate::FailsAfterwards),
        1 => Just(Fate::HalfAnAnswer),
        1 => Just(Fate::AnotherIsQuicker),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let cut = prop_oneof![2 => Just(None), 1 => (0..9_u8, any::<bool>()).prop_map(Some)];
    let cycle = (prop::collection::vec(fate(), 0..9), cut);
    prop_oneof![
        6 => (0..PLACES, 1..40_i64).prop_map(|(place, cents)| Step::Used { place, cents }),
        1 => (0..PLACES, 1..40_i64).prop_map(|(place, cents)| Step::Corrected { place, cents }),
        8 => cycle.prop_map(|(fates, cut)| Step::Cycle { fates, cut }),
        2 => Just(Step::Arrival),
        1 => (0..PLACES, 1..5_000_i64).prop_map(|(place, cents)| Step::AnotherWrites { place, cents }),
        2 => (1..600_i64).prop_map(Step::Minutes),
        1 => Just(Step::MonthEnds),
    ]
}

fn explore(dated: bool) {
    let wanted = std::env::var("MODEL_CASES").ok().and_then(|text| text.parse().ok());
    let (cases, rng_seed) = match wanted {
        Some(cases) => (cases, RngSeed::Random),
        None => (700, RngSeed::Fixed(2026)),
    };
    let corpus = FileFailurePersistence::Direct("tests/corpus/model.txt");
    let config = Config {
        cases,
        max_shrink_iters: 2_000,
        rng_seed,
        failure_persistence: Some(Box::new(corpus)),
        ..Config::default()
    };
    let bench = Bench::new();
    let schedules = (prop::collection::vec(step(), 1..40), -90..=90_i64);
    let begun = std::time::Instant::now();
    let result = TestRunner::new(config)
        .run(&schedules, |(steps, skew)| bench.run(dated, skew, &steps).map_err(TestCaseError::fail));
    eprintln!("{cases} schedules in {:?}", begun.elapsed());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (steps, skew))) => {
            panic!("{why}\ndated {dated}, skew {skew}, after:\n{steps:#?}")
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn against_a_server_that_honours_dates() {
    explore(true);
}

#[test]
fn against_a_server_that_ignores_dates() {
    explore(false);
}

fn plays(steps: &[Step]) {
    let bench = Bench::new();
    for dated in [true, false] {
        if let Err(why) = bench.run(dated, 0, steps) {
            panic!("{why}\ndated {dated}");
        }
    }
}

fn used(place: usize) -> Step {
    Step::Used { place, cents: 1 }
}

fn cycle(fates: &[Fate]) -> Step {
    Step::Cycle { fates: fates.to_vec(), cut: None }
}

#[test]
fn a_late_arrival_of_a_number_that_was_corrected_since() {
    plays(&[
        used(2),
        used(1),
        cycle(&[]),
        Step::Corrected { place: 2, cents: 1 },
        cycle(&[Fate::ArrivesLate, Fate::NeverArrives]),
        used(0),
        Step::Cycle { fates: Vec::new(), cut: Some((2, false)) },
    ]);
}

/// The first report of a month is in a conflict: it says nothing about the month, and stops nothing but itself.
#[test]
fn a_resource_in_conflict_is_no_canary() {
    plays(&[
        Step::MonthEnds,
        cycle(&[Fate::Fails]),
        used(1),
        used(0),
        Step::Cycle { fates: Vec::new(), cut: Some((7, false)) },
        Step::AnotherWrites { place: 0, cents: 1 },
        cycle(&[]),
    ]);
}

#[test]
fn a_canary_that_another_hand_wrote_over_at_once_leaves_the_word_to_the_next() {
    for place in 0..12 {
        let mut fates = vec![Fate::Passes; place];
        fates.push(Fate::AnotherIsQuicker);
        plays(&[Step::MonthEnds, used(0), used(2), cycle(&fates)]);
    }
}

/// What could not be read of the month before is no reason to send the first report of this one twice.
#[test]
fn a_canary_of_a_resource_that_was_put_off_waits_when_its_outcome_is_not_known() {
    let [fine, lost] = [Fate::Passes, Fate::NeverArrives];
    plays(&[
        used(2),
        used(0),
        cycle(&[fine, fine, lost, lost, lost]),
        Step::MonthEnds,
        cycle(&[]),
        Step::Minutes(10),
        used(0),
        cycle(&[Fate::Fails]),
        cycle(&[fine, fine, lost, fine, lost, lost]),
    ]);
}
