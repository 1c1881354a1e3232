//! What a bill should be when the world around the readings changes, naively: a list of facts, from which every number of
//! every month is made anew. Jobs have whole hours and each hour of one is worth whole cents, so that nothing is ever
//! rounded and each sum can be done by hand. It shares no code with src/.

use std::collections::BTreeMap;

/// Hours since 1970, UTC.
pub type Hour = i64;
/// Year and month.
pub type Month = (i16, i8);

/// What a collector read of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub collector: String,
    pub id: u8,
    pub account: &'static str,
    pub user: &'static str,
    pub start: Hour,
    pub hours: i64,
    /// What each hour of it is worth, by a factor of 1.
    pub cents: i64,
}

/// Rules, and the month from which they hold (`None`: always).
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub from: Option<Month>,
    pub collector: String,
    pub components: Vec<(&'static str, i64)>,
    pub users: bool,
}

/// Resource, month, first hour of the part, component, user ('' is the total).
pub type Key = (u8, Month, Hour, &'static str, &'static str);

/// The facts.
#[derive(Debug, Clone)]
pub struct Facts {
    /// By collector and id, as they were read last.
    pub jobs: BTreeMap<(String, u8), Job>,
    /// In the order in which they were recorded.
    pub rules: Vec<Rules>,
    /// The offset of local time in each month from this one on; months begin in that of the month before.
    pub zones: Vec<(Month, Zone)>,
    /// Which resource a backend id is, from when on.
    pub owners: BTreeMap<&'static str, Vec<(Hour, u8)>>,
    /// Where the plan of a resource was switched, and when that was noticed.
    pub switches: Vec<(u8, Hour, Hour)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Zone {
    Utc,
    /// Two hours ahead, three from April to October (no month of these tests begins in the days between).
    Tallinn,
}

pub fn next((year, month): Month) -> Month {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}

fn before((year, month): Month) -> Month {
    if month == 1 { (year - 1, 12) } else { (year, month - 1) }
}

/// Midnight of a month's first day in UTC, by counting days.
fn utc_start((year, month): Month) -> Hour {
    let mut days = 20_454; // 1 January 2026
    for y in 2026..year {
        days += if leap(y) { 366 } else { 365 };
    }
    for m in 1..month {
        days += match m {
            2 if leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
    }
    days * 24
}

fn leap(year: i16) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

impl Facts {
    fn zone_of(&self, month: Month) -> Zone {
        self.zones.iter().rfind(|(from, _)| *from <= month).map_or(Zone::Utc, |(_, zone)| *zone)
    }

    pub fn start(&self, month: Month) -> Hour {
        let ahead = match self.zone_of(before(month)) {
            Zone::Utc => 0,
            Zone::Tallinn if (4..=10).contains(&month.1) => 3,
            Zone::Tallinn => 2,
        };
        utc_start(month) - ahead
    }

    pub fn end(&self, month: Month) -> Hour {
        self.start(next(month))
    }

    /// The month of the hour that begins here.
    pub fn month_of(&self, hour: Hour) -> Month {
        let mut month = (2026, 1);
        while self.end(month) <= hour {
            month = next(month);
        }
        month
    }

    /// The rules that hold in a month: of those that hold from the latest month on, the last that were recorded.
    pub fn in_month(&self, month: Month) -> &Rules {
        let mut found = &self.rules[0];
        for rules in self.rules.iter().filter(|rules| rules.from.is_none_or(|from| from <= month)) {
            if rules.from >= found.from {
                found = rules;
            }
        }
        found
    }

    /// The first hour of the part of a resource's month that this hour is in.
    pub fn part(&self, resource: u8, hour: Hour) -> Hour {
        let month = self.month_of(hour);
        let cuts = self.switches.iter().filter(|(of, start, noticed)| {
            *of == resource && *start <= hour && self.month_of(*start) == month && *noticed < self.end(month)
        });
        cuts.map(|(_, start, _)| *start).fold(self.start(month), i64::max)
    }

    fn owner(&self, account: &str, hour: Hour) -> Option<u8> {
        let owners = self.owners.get(account)?;
        owners.iter().rfind(|(since, _)| *since <= hour).map(|(_, resource)| *resource)
    }

    /// What was used, hour by hour, by the rules of each month, in cents.
    pub fn used(&self) -> BTreeMap<Key, i64> {
        let mut used: BTreeMap<Key, i64> = BTreeMap::new();
        let mut months: BTreeMap<Hour, Month> = BTreeMap::new();
        for job in self.jobs.values() {
            for hour in job.start..job.start + job.hours {
                let Some(resource) = self.owner(job.account, hour) else { continue };
                let month = *months.entry(hour).or_insert_with(|| self.month_of(hour));
                let rules = self.in_month(month);
                if rules.collector != job.collector {
                    continue;
                }
                for (component, factor) in &rules.components {
                    let key = |user| (resource, month, self.part(resource, hour), *component, user);
                    *used.entry(key("")).or_default() += job.cents * factor;
                    if rules.users {
                        *used.entry(key(job.user)).or_default() += job.cents * factor;
                    }
                }
            }
        }
        used.retain(|_, cents| *cents != 0);
        used
    }
}
