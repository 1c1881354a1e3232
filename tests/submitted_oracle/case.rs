//! A case: how server and agent are set up, and what happens. Each event means something whatever was before it, so that any
//! of them can be left out.

use fastrand::Rng;
use waldur_usage_agent::submitter::Late;

#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) classic: bool,
    /// The token may report into months that are over.
    pub(crate) staff: bool,
    pub(crate) late: Late,
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) number: u64,
    pub(crate) setting: Setting,
    pub(crate) events: Vec<Event>,
}

/// Amounts are in cents of an hour, times in minutes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A job ended so long ago.
    Used {
        place: usize,
        user: usize,
        cents: i64,
        ago: i64,
    },
    /// A job that is known turns out to have used this much.
    Corrected {
        job: usize,
        cents: i64,
    },
    /// A job turns out to be of another user.
    Reassigned {
        job: usize,
        user: usize,
    },
    /// A job that ran for half an hour before and after the last month's end.
    Across {
        place: usize,
        user: usize,
        cents: i64,
    },
    Passes {
        minutes: i64,
    },
    /// To so many minutes before the month's end (or after it).
    ToMonthEnd {
        minutes: i64,
    },
    /// One cycle, in which some calls fail.
    Cycle {
        fault: Option<Fault>,
    },
    /// One cycle, the totals of which arrive after that: minutes later, perhaps when others were sent.
    Slow {
        times: u64,
        minutes: i64,
        cycle: bool,
    },
    /// The agent is started anew, with its ledger.
    Restart,
    /// The ledger is copied,
    Copied,
    /// and the agent goes on from the copy. Its source has history, and is read again.
    Restored,
    /// A resource gets another plan.
    Switch {
        resource: usize,
    },
    /// Another writer sets a total of the running month or, of `months` ago, of one that is over.
    Another {
        place: usize,
        cents: i64,
        months: i64,
    },
    /// Another writer sets a share of a row of the running month, if there is one.
    AnotherShare {
        place: usize,
        user: usize,
        cents: i64,
    },
    /// A person decides about what is in conflict.
    Decide {
        resource: usize,
        decision: Decides,
    },
    /// A person gives up what is kept back.
    Drop {
        resource: usize,
    },
    /// A person has it tried again.
    Retry {
        resource: usize,
    },
    /// A meter's factor is another from now on.
    Factor {
        component: usize,
        factor: i64,
    },
    /// The collector gets another name, which continues the old one.
    Renamed,
    /// A resource is terminated, or lives again.
    Terminated {
        resource: usize,
        yes: bool,
    },
    /// The agent runs until nothing is left to do, and the laws are looked at.
    Rest,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) what: What,
    /// The call was carried out all the same.
    pub(crate) after: bool,
    pub(crate) times: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Decides {
    Overwrite,
    Adopt,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Totals,
    Shares,
    Rows,
    UserRows,
    Resources,
    Plans,
}

fn one_of<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

impl Case {
    pub(crate) fn drawn(number: u64) -> Case {
        let mut rng = Rng::with_seed(number);
        let setting = Setting {
            classic: rng.bool(),
            staff: rng.bool(),
            late: one_of(&mut rng, &[Late::Hold, Late::CarryForward, Late::Backfill]),
        };
        let mut events: Vec<Event> = (0..rng.usize(8..28)).map(|_| Event::drawn(&mut rng)).collect();
        events.push(Event::Rest);
        Case { number, setting, events }
    }
}

impl Event {
    fn drawn(rng: &mut Rng) -> Event {
        match rng.u8(..100) {
            0..30 => {
                let ago = match rng.u8(..4) {
                    0 => rng.i64(0..5 * 24 * 60),
                    1 => rng.i64(0..600),
                    _ => 0,
                };
                let cents = one_of(rng, &[1, 50, 100, 250, 1000, 12_345]) * rng.i64(1..4);
                Event::Used { place: rng.usize(..4), user: rng.usize(..3), cents, ago }
            }
            30..42 => Event::Corrected {
                job: rng.usize(..64),
                cents: one_of(rng, &[0, 0, 1, 40, 300, 2000, 20_000]),
            },
            42..44 => Event::Reassigned { job: rng.usize(..64), user: rng.usize(..3) },
            44..46 => {
                Event::Across { place: rng.usize(..4), user: rng.usize(..3), cents: 2 * rng.i64(1..500) }
            }
            46..55 => Event::Passes { minutes: one_of(rng, &[1, 7, 30, 90, 600, 3000]) },
            55..63 => Event::ToMonthEnd { minutes: one_of(rng, &[-300, -4, -1, 0, 1, 15, 120, 1500]) },
            63..65 => {
                Event::Slow { times: rng.u64(1..3), minutes: one_of(rng, &[0, 1, 8]), cycle: rng.bool() }
            }
            65 => one_of(rng, &[Event::Restart, Event::Copied, Event::Restored]),
            66..70 => Event::Switch { resource: rng.usize(..2) },
            70..76 => Event::Cycle { fault: rng.bool().then(|| Fault::drawn(rng)) },
            76..81 => Event::Another {
                place: rng.usize(..4),
                cents: one_of(rng, &[0, 7, 777, 50_007]),
                months: one_of(rng, &[0, 0, 1]),
            },
            81 | 82 => Event::AnotherShare {
                place: rng.usize(..4),
                user: rng.usize(1..4),
                cents: one_of(rng, &[0, 3, 333]),
            },
            83 | 84 => Event::Decide {
                resource: rng.usize(..2),
                decision: if rng.u8(..3) == 0 { Decides::Adopt } else { Decides::Overwrite },
            },
            85 => Event::Drop { resource: rng.usize(..2) },
            86 => Event::Retry { resource: rng.usize(..2) },
            87 => Event::Factor { component: rng.usize(..2), factor: rng.i64(1..4) },
            88 if rng.bool() => Event::Renamed,
            88 => Event::Terminated { resource: rng.usize(..2), yes: rng.bool() },
            _ => Event::Rest,
        }
    }
}

impl Fault {
    fn drawn(rng: &mut Rng) -> Fault {
        let what = [What::Totals, What::Totals, What::Shares, What::Rows, What::UserRows];
        let more = [What::Resources, What::Plans];
        let what = if rng.u8(..6) == 0 { one_of(rng, &more) } else { one_of(rng, &what) };
        Fault { what, after: rng.bool(), times: rng.u64(1..4) }
    }
}
