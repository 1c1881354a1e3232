//! What was used, by a plain account of the events: no code of the agent's is in it. Amounts are whole cents.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub(crate) type Month = (i16, i8);
/// Resource and component, by their numbers.
pub(crate) type Place = (usize, usize);

pub(crate) const USERS: [&str; 3] = ["", "alice", "bob"];
pub(crate) const COMPONENTS: [&str; 2] = ["cpu_hours", "ram_gb_hours"];
pub(crate) const PLACES: [Place; 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) place: Place,
    pub(crate) user: usize,
    pub(crate) cents: i64,
    pub(crate) at: Timestamp,
    /// It ran for half an hour before and after that.
    pub(crate) across: bool,
}

impl Job {
    /// When it used how much.
    fn parts(&self) -> Vec<(Timestamp, i64)> {
        match self.across {
            true => {
                vec![(self.at - SignedDuration::from_mins(30), self.cents / 2), (self.at, self.cents / 2)]
            }
            false => vec![(self.at, self.cents)],
        }
    }
}

/// A total and its users' shares, in cents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) total: i64,
    pub(crate) users: BTreeMap<String, i64>,
}

impl Amounts {
    pub(crate) fn add(&mut self, other: &Amounts, sign: i64) {
        self.total += sign * other.total;
        for (user, cents) in &other.users {
            *self.users.entry(user.clone()).or_default() += sign * cents;
        }
        self.users.retain(|_, cents| *cents != 0);
    }
}

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) zone: TimeZone,
    pub(crate) jobs: Vec<Job>,
    /// When something was measured first.
    pub(crate) since: Option<Timestamp>,
    /// Where somebody else wrote, and when we last decided of it.
    pub(crate) disturbed: BTreeSet<(Place, Month)>,
}

impl Account {
    pub(crate) fn new(zone: TimeZone) -> Account {
        Account { zone, jobs: Vec::new(), since: None, disturbed: BTreeSet::new() }
    }

    pub(crate) fn month(&self, at: Timestamp) -> Month {
        let date = self.zone.to_datetime(at).date();
        (date.year(), date.month())
    }

    /// The first instant after a month.
    pub(crate) fn end(&self, (year, month): Month) -> Timestamp {
        let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        self.zone.to_timestamp(jiff::civil::date(year, month, 1).at(0, 0, 0, 0)).unwrap()
    }

    pub(crate) fn used(&self, place: Place, month: Month) -> Amounts {
        self.used_when(place, |at| self.month(at) == month)
    }

    pub(crate) fn used_when(&self, place: Place, when: impl Fn(Timestamp) -> bool) -> Amounts {
        let mut amounts = Amounts::default();
        for job in self.jobs.iter().filter(|job| job.place == place) {
            for (_, cents) in job.parts().into_iter().filter(|(at, _)| when(*at)) {
                amounts.total += cents;
                if job.user > 0 {
                    *amounts.users.entry(USERS[job.user].to_owned()).or_default() += cents;
                }
            }
        }
        amounts.users.retain(|_, cents| *cents != 0);
        amounts
    }

    pub(crate) fn knows(&self, place: Place, month: Month) -> bool {
        let of_place = self.jobs.iter().filter(|job| job.place == place);
        of_place.flat_map(Job::parts).any(|(at, _)| self.month(at) == month)
    }

    /// Whether anything was measured before the month was over.
    pub(crate) fn measured_in(&self, month: Month) -> bool {
        self.since.is_some_and(|since| since < self.end(month))
    }

    pub(crate) fn months(&self) -> BTreeSet<Month> {
        self.jobs.iter().flat_map(Job::parts).map(|(at, _)| self.month(at)).collect()
    }
}

/// Cents of an amount as it is written.
pub(crate) fn cents(text: &str) -> i64 {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    assert!(rest.len() <= 2, "{text}");
    sign * (whole.parse::<i64>().unwrap() * 100 + format!("{rest:0<2}").parse::<i64>().unwrap())
}

pub(crate) fn before((year, month): Month) -> Month {
    if month == 1 { (year - 1, 12) } else { (year, month - 1) }
}
