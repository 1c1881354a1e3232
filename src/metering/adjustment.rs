//! What enters an amount beside its readings: an opening balance, which stands for what was used before it, and what is
//! carried forward from a month that is over to one that is not.
//!
//! Both are recorded facts, so an amount stays a function of what is recorded (law 3). Nothing here decides whether an
//! adjustment is made; it only says what one does to an amount, and how a rest is shared out when it is carried.

use std::collections::BTreeMap;

use super::exact::Exact;
use super::measure::Measure;
use super::statement::Amounts;

/// A total, and the users' parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    pub total: Exact,
    pub users: BTreeMap<String, Exact>,
}

impl Default for Shares {
    fn default() -> Self {
        Shares { total: Exact::zero(), users: BTreeMap::new() }
    }
}

impl Shares {
    /// Adds to one user's part, or ('') to the total.
    pub fn add(&mut self, user: &str, amount: Exact) {
        match user {
            "" => self.total += amount,
            user => *self.users.entry(user.to_owned()).or_insert_with(Exact::zero) += amount,
        }
    }

    /// What is left of these when others are taken away.
    pub fn less(mut self, others: &Shares) -> Shares {
        self.total -= others.total.clone();
        for (user, amount) in &others.users {
            *self.users.entry(user.clone()).or_insert_with(Exact::zero) -= amount.clone();
        }
        self
    }

    fn attributed(&self) -> Exact {
        self.users.values().cloned().sum()
    }

    /// Every user's part times `part / whole`.
    fn scale_users(&mut self, part: &Exact, whole: &Exact) {
        let share = part.checked_div(whole).unwrap_or_else(Exact::zero);
        for amount in self.users.values_mut() {
            *amount = amount.clone() * share.clone();
        }
    }
}

/// How an amount goes on from an opening balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// What is used after it is added.
    Adds,
    /// The higher of the two stands.
    Highest,
    /// It stands until something is read after it.
    Latest,
}

/// How a component that is made by these measures goes on from an opening balance; why it can't, for people, if it can't.
pub fn onward(measures: impl IntoIterator<Item = Measure>) -> Result<Onward, &'static str> {
    let mut all = None;
    for measure in measures {
        let one = match measure {
            Measure::Increase(_) | Measure::Sum(_) | Measure::Integral(..) => Onward::Adds,
            Measure::Max(_) => Onward::Highest,
            Measure::Level => Onward::Latest,
            Measure::Mean(_) => {
                return Err(
                    "it is a mean, and Waldur does not tell over which time it holds one, so that the two can't \
                            be put together",
                );
            }
            Measure::Total(_) => {
                return Err(
                    "its source states the sum of the month by itself, what was used before included, so that \
                            nothing need be adopted",
                );
            }
        };
        if all.is_some_and(|all| all != one) {
            return Err("its meters count in different ways, so that it isn't known how it goes on");
        }
        all = Some(one);
    }
    all.ok_or("no meter makes it")
}

/// Whether a rest of it may be added to another month: a level or a mean is of its own month.
pub fn can_be_carried(measures: impl IntoIterator<Item = Measure>) -> bool {
    measures.into_iter().all(|measure| {
        matches!(measure, Measure::Increase(_) | Measure::Sum(_) | Measure::Integral(..) | Measure::Total(_))
    })
}

impl Amounts {
    /// Puts an opening balance before what was measured since; `since`: whether anything was.
    pub fn open(&mut self, onward: Onward, opening: &Shares, since: bool) {
        match onward {
            Onward::Adds => self.shift(opening),
            Onward::Highest => {
                self.total = self.total.clone().max(opening.total.clone());
                for (user, amount) in &opening.users {
                    let share = self.users.entry(user.clone()).or_insert_with(Exact::zero);
                    *share = share.clone().max(amount.clone());
                }
            }
            Onward::Latest if since => {}
            Onward::Latest => {
                self.total = opening.total.clone();
                self.users.clone_from(&opening.users);
            }
        }
    }

    /// Adds what was carried here (or, where it is negative, takes away what was carried from here).
    pub fn shift(&mut self, by: &Shares) {
        self.total += by.total.clone();
        for (user, amount) in &by.users {
            *self.users.entry(user.clone()).or_insert_with(Exact::zero) += amount.clone();
        }
    }
}

/// What is to be carried out of a month of which the server holds less than was used, so that what stays is what it
/// holds; `None` if it holds all of it or more.
///
/// Each user keeps what the server holds of theirs, or what they used if that is less. No part is ever negative, and
/// neither what stays nor what is carried gives the users more than its total: where keeping to the cents that the
/// server holds would, the users' parts are cut down alike.
pub fn carried(used: &Shares, held: &Shares) -> Option<Shares> {
    let rest = used.total.clone() - held.total.clone();
    if rest.is_zero() || rest.is_negative() {
        return None;
    }
    let none = Exact::zero();
    let mut stays = Shares { total: held.total.clone(), users: BTreeMap::new() };
    for (user, used) in &used.users {
        let held = held.users.get(user).unwrap_or(&none);
        stays.users.insert(user.clone(), used.clone().min(held.clone()).max(Exact::zero()));
    }
    let attributed = stays.attributed();
    if attributed > stays.total {
        let total = stays.total.clone();
        stays.scale_users(&total, &attributed);
    }
    let mut carried = used.clone().less(&stays);
    let attributed = carried.attributed();
    if attributed > rest {
        carried.scale_users(&rest, &attributed);
    }
    carried.users.retain(|_, amount| !amount.is_zero());
    Some(carried)
}
