//! What was used, by a plain account of the events: no code of the agent's is in it. Amounts are whole cents.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub(crate) type Month = (i16, i8);
/// Resource and component, by their numbers.
pub(crate) type Place = (usize, usize);

/// Of the last nothing is ever measured.
pub(crate) const USERS: [&str; 4] = ["", "alice", "bob", "carol"];
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

#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) zone: TimeZone,
    pub(crate) jobs: Vec<Job>,
    /// When something was measured first.
    pub(crate) since: Option<Timestamp>,
    /// Where somebody else wrote, and nothing was decided since.
    pub(crate) disturbed: BTreeSet<(Place, Month)>,
    /// The same of shares.
    pub(crate) shares_disturbed: BTreeSet<(Place, Month)>,
    /// What somebody else wrote of a month that ran.
    pub(crate) theirs: BTreeMap<(Place, Month), i64>,
    /// From when on which factors of the components hold.
    pub(crate) factors: Vec<(Timestamp, [i64; 2])>,
    pub(crate) given_up: BTreeMap<(Place, Month), Amounts>,
    /// What was adopted, and when: what was used until then is in it.
    pub(crate) openings: BTreeMap<(Place, Month), (Timestamp, Amounts)>,
    /// What is to be adopted with the next cycle.
    pub(crate) to_adopt: BTreeMap<(Place, Month), (Timestamp, Amounts)>,
    pub(crate) terminated: [bool; 2],
}

impl Account {
    pub(crate) fn new(zone: TimeZone) -> Account {
        Account {
            zone,
            jobs: Vec::new(),
            since: None,
            disturbed: BTreeSet::new(),
            shares_disturbed: BTreeSet::new(),
            theirs: BTreeMap::new(),
            factors: vec![(Timestamp::UNIX_EPOCH, [1, 1])],
            given_up: BTreeMap::new(),
            openings: BTreeMap::new(),
            to_adopt: BTreeMap::new(),
            terminated: [false, false],
        }
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

    /// What the rules that hold in a month make of it.
    fn factor(&self, component: usize, month: Month) -> i64 {
        let end = self.end(month);
        self.factors.iter().rfind(|(since, _)| *since < end).unwrap().1[component]
    }

    /// What Waldur should hold of a month, but for what is carried.
    pub(crate) fn used(&self, place: Place, month: Month) -> Amounts {
        let opening = self.openings.get(&(place, month));
        let since = |at: Timestamp| opening.is_none_or(|(opened, _)| at > *opened);
        let mut amounts = self.used_when(place, |at| self.month(at) == month && since(at));
        if let Some((_, opening)) = opening {
            amounts.add(opening, 1);
        }
        if let Some(given_up) = self.given_up.get(&(place, month)) {
            amounts.add(given_up, -1);
        }
        amounts
    }

    /// Whether it is only what was measured.
    pub(crate) fn is_plain(&self, place: Place, month: Month) -> bool {
        !self.openings.contains_key(&(place, month)) && !self.given_up.contains_key(&(place, month))
    }

    pub(crate) fn used_when(&self, place: Place, when: impl Fn(Timestamp) -> bool) -> Amounts {
        let mut amounts = Amounts::default();
        for job in self.jobs.iter().filter(|job| job.place == place) {
            for (at, cents) in job.parts().into_iter().filter(|(at, _)| when(*at)) {
                let cents = cents * self.factor(place.1, self.month(at));
                amounts.total += cents;
                if job.user > 0 {
                    *amounts.users.entry(USERS[job.user].to_owned()).or_default() += cents;
                }
            }
        }
        amounts.users.retain(|_, cents| *cents != 0);
        amounts
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
