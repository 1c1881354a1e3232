//! What enters an amount beside its readings: an opening balance, which stands for what was used before it, and, in posted
//! cents, what is carried forward from a month that is over to one that is not.
//!
//! Both are recorded facts, so an amount stays a function of what is recorded (law 3). Nothing here decides whether an
//! adjustment is made; it only says what one does to an amount, and how much of a difference fits into another month.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::exact::Exact;
use super::measure::Measure;
use super::statement::Amounts;

/// A total, and the users' parts of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shares {
    pub total: Exact,
    pub users: BTreeMap<String, Exact>,
}

impl Shares {
    /// Adds to one user's part, or ('') to the total.
    pub fn add(&mut self, user: &str, amount: Exact) {
        match user {
            "" => self.total += amount,
            user => *self.users.entry(user.to_owned()).or_insert_with(Exact::zero) += amount,
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

    /// Adds an opening balance.
    fn shift(&mut self, by: &Shares) {
        self.total += by.total.clone();
        for (user, amount) in &by.users {
            *self.users.entry(user.clone()).or_insert_with(Exact::zero) += amount.clone();
        }
    }
}

/// What of a month's difference can go to another month: by the total ('') and each user. `rest` is the difference, `room`
/// what there is in the month that it goes to, so that nothing there is less than nothing, and nothing is added to its users that
/// would be more than its total. What does not fit is left out. What is too much is taken from the total also where its user has
/// nothing that it could be taken from: the total is what is billed.
pub fn fit(rest: &BTreeMap<String, Decimal>, room: &BTreeMap<String, Decimal>) -> BTreeMap<String, Decimal> {
    let zero = Decimal::ZERO;
    let of = |rows: &BTreeMap<String, Decimal>, user: &str| rows.get(user).copied().unwrap_or_default();
    let fits = |user: &str| of(rest, user).max(-of(room, user).max(zero));
    let total = fits("");
    let users: Vec<&String> = rest.keys().filter(|user| !user.is_empty()).collect();
    let mut moved: BTreeMap<String, Decimal> = BTreeMap::from([(String::new(), total)]);
    for user in users.iter().filter(|user| of(rest, user) < zero) {
        moved.insert((*user).clone(), fits(user));
    }
    let there: Decimal = room.iter().filter(|(user, _)| !user.is_empty()).map(|(_, amount)| amount).sum();
    let taken: Decimal = moved.iter().filter(|(user, _)| !user.is_empty()).map(|(_, amount)| amount).sum();
    let mut left = of(room, "") + total - there - taken;
    for user in users.iter().filter(|user| of(rest, user) > zero) {
        let more = of(rest, user).min(left.max(zero));
        left -= more;
        moved.insert((*user).clone(), more);
    }
    moved.retain(|_, amount| !amount.is_zero());
    moved
}

/// The same by the part of the month that it is taken from, too: `rest` is the difference of each part. Where all of it fits,
/// all parts are settled, also one by another; else only those with a rest of its sign, the first first.
pub fn by_part(
    moved: &BTreeMap<String, Decimal>,
    rest: &BTreeMap<(i64, String), Decimal>,
) -> BTreeMap<(i64, String), Decimal> {
    let mut left = moved.clone();
    let mut parts = rest.clone();
    let mut whole: BTreeMap<String, Decimal> = BTreeMap::new();
    for ((_, user), amount) in rest {
        *whole.entry(user.clone()).or_default() += amount;
    }
    whole.retain(|_, amount| !amount.is_zero());
    if whole != left {
        for ((_, user), amount) in &mut parts {
            let left = left.entry(user.clone()).or_default();
            let fits = match *left > Decimal::ZERO {
                true => (*amount).clamp(Decimal::ZERO, *left),
                false => (*amount).clamp(*left, Decimal::ZERO),
            };
            *left -= fits;
            *amount = fits;
        }
    }
    parts.retain(|_, amount| !amount.is_zero());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, i64)]) -> BTreeMap<String, Decimal> {
        rows.iter().map(|(user, cents)| ((*user).to_owned(), Decimal::new(*cents, 2))).collect()
    }

    #[test]
    fn what_is_carried_is_taken_from_the_part_that_it_was_used_in() {
        let parts = |rows: &[(i64, i64)]| -> BTreeMap<(i64, String), Decimal> {
            rows.iter().map(|(part, cents)| ((*part, String::new()), Decimal::new(*cents, 2))).collect()
        };
        let of = |moved: i64, rest: &[(i64, i64)]| {
            let moved = if moved == 0 { rows(&[]) } else { rows(&[("", moved)]) };
            by_part(&moved, &parts(rest))
        };
        assert_eq!(of(100, &[(1, 100), (2, 0)]), parts(&[(1, 100)]));
        // All of it goes, with either sign, and where it comes to nothing, too.
        assert_eq!(of(150, &[(1, 200), (2, -50)]), parts(&[(1, 200), (2, -50)]));
        assert_eq!(by_part(&rows(&[]), &parts(&[(1, 100), (2, -100)])), parts(&[(1, 100), (2, -100)]));
        // Not all of it fits: what there is too much of stays beside what there is too little of.
        assert_eq!(of(-100, &[(1, -300), (2, -200), (3, 100)]), parts(&[(1, -100)]));
        assert_eq!(of(-350, &[(1, -300), (2, -200), (3, 100)]), parts(&[(1, -300), (2, -50)]));
        assert_eq!(of(0, &[(1, 200), (2, -300)]), parts(&[]));
    }

    #[test]
    fn what_is_carried_never_leaves_less_than_nothing_and_gives_users_no_more_than_the_total() {
        // One hour of alice, late.
        let late = rows(&[("", 100), ("alice", 100)]);
        assert_eq!(fit(&late, &rows(&[("", 500), ("bob", 500)])), late);
        assert_eq!(fit(&late, &rows(&[])), late);
        // Two hours too many, of which one fits.
        let too_many = rows(&[("", -200), ("alice", -200)]);
        assert_eq!(fit(&too_many, &rows(&[("", 100), ("alice", 100)])), rows(&[("", -100), ("alice", -100)]));
        assert_eq!(fit(&too_many, &rows(&[("", 300), ("bob", 300)])), rows(&[("", -200)]));
        // From alice to bob: as much of bob's as the total has.
        let shifted = rows(&[("alice", -300), ("bob", 300)]);
        assert_eq!(
            fit(&shifted, &rows(&[("", 200), ("alice", 200)])),
            rows(&[("alice", -200), ("bob", 200)])
        );
        assert_eq!(fit(&rows(&[("", 0)]), &rows(&[("", 5)])), rows(&[]));
    }
}
