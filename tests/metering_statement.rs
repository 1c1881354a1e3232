//! What is posted, whatever the amounts: users + unattributed = total, nobody is off by a cent, nothing depends on order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rust_decimal::Decimal;
use waldur_usage_agent::metering::adjustment::fit;
use waldur_usage_agent::metering::exact::{Exact, Rounding};
use waldur_usage_agent::metering::statement::{Amounts, Unpostable};

fn rounding() -> impl Strategy<Value = Rounding> {
    prop::sample::select(vec![Rounding::HalfEven, Rounding::HalfUp, Rounding::Down, Rounding::Up])
}

/// Amounts with many ties: halves and thirds of cents, whole cents, and anything.
fn share() -> impl Strategy<Value = Exact> {
    prop_oneof![
        (0..2000_i128, prop::sample::select(vec![1000_i128, 200, 300, 100, 3600])),
        (any::<u64>().prop_map(i128::from), 1..1_000_000_000_i128),
    ]
    .prop_map(|(n, d)| Exact::ratio(n, d).expect("no zero"))
}

fn cent() -> Exact {
    Exact::ratio(1, 100).expect("no zero")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_sum_to_the_total_and_nobody_is_off_by_a_cent(
        users in prop::collection::vec(share(), 0..8),
        unattributed in prop_oneof![Just(Exact::zero()), share()],
        rounding in rounding(),
    ) {
        let total = users.iter().cloned().sum::<Exact>() + unattributed.clone();
        let users: BTreeMap<String, Exact> =
            users.into_iter().enumerate().map(|(i, share)| (format!("user{i}"), share)).collect();
        let amounts = Amounts { total: total.clone(), users: users.clone(), additive: true, rounding };
        let posted = amounts.posted().expect("nothing is too large");
        let close = |posted: Decimal, exact: &Exact| {
            let off = Exact::from(posted) - exact.clone();
            off < cent() && -off < cent()
        };
        prop_assert!(close(posted.total, &total));
        prop_assert_eq!(posted.total.scale(), 2);
        let mut rest = posted.total;
        for (user, amount) in &posted.users {
            prop_assert!(close(*amount, &users[user]), "{} {}", amount, users[user]);
            prop_assert_eq!(amount.scale(), 2);
            rest -= amount;
        }
        prop_assert_eq!(posted.users.len(), users.len());
        prop_assert!(close(rest, &unattributed) && rest >= Decimal::ZERO);
        prop_assert_eq!(Exact::from(posted.total), rounded(&total, rounding));
    }

    /// Series are added up in whatever order they come; who is called what decides ties and nothing else.
    #[test]
    fn neither_order_nor_names_decide_the_bill(
        (shares, shuffled) in prop::collection::vec(share(), 1..8)
            .prop_flat_map(|shares| (Just(shares.clone()), Just(shares).prop_shuffle())),
        rounding in rounding(),
    ) {
        let post = |shares: &[Exact]| {
            let total = shares.iter().cloned().sum::<Exact>();
            let users = shares.iter().enumerate().map(|(i, share)| (i.to_string(), share.clone())).collect();
            let written = total.to_string();
            let posted = Amounts { total, users, additive: true, rounding }.posted().expect("nothing is too large");
            let mut each: Vec<(Exact, Decimal)> =
                posted.users.iter().map(|(i, posted)| (shares[i.parse::<usize>().expect("a number")].clone(), *posted)).collect();
            each.sort();
            (written, posted.total, each)
        };
        let (one, other) = (post(&shares), post(&shuffled));
        prop_assert_eq!(&one.0, &other.0);
        prop_assert_eq!(one.1, other.1);
        // Equal remainders of different amounts may trade a cent; otherwise each share is posted the same.
        let remainder = |exact: &Exact| exact.clone() - exact.floor_to(2);
        for (a, b) in one.2.iter().zip(&other.2) {
            let ties = shares.iter().filter(|s| remainder(s) == remainder(&a.0)).count();
            prop_assert!(a == b || ties > 1, "{:?} {:?}", a, b);
        }
    }

    /// Nobody pays more because of whom he shares the resource with, in the order of the remainders.
    #[test]
    fn a_larger_remainder_never_gets_less(users in prop::collection::vec(share(), 2..8)) {
        let total = users.iter().cloned().sum::<Exact>();
        let named: BTreeMap<String, Exact> =
            users.into_iter().enumerate().map(|(i, share)| (format!("user{i}"), share)).collect();
        let rounding = Rounding::HalfEven;
        let amounts = Amounts { total, users: named.clone(), additive: true, rounding };
        let posted = amounts.posted().expect("nothing is too large");
        let remainder = |user: &String| named[user].clone() - named[user].floor_to(2);
        let raised = |user: &String| Exact::from(posted.users[user]) > named[user].floor_to(2);
        for a in named.keys() {
            for b in named.keys() {
                if remainder(a) > remainder(b) || (remainder(a) == remainder(b) && a < b) {
                    prop_assert!(raised(a) || !raised(b), "{} before {}", a, b);
                }
            }
        }
    }
}

/// Rounding, told another way: compare twice the remainder with a cent.
fn rounded(exact: &Exact, rounding: Rounding) -> Exact {
    let floor = exact.floor_to(2);
    let twice = (exact.clone() - floor.clone()) * Exact::from(2);
    let even = (floor.clone() * Exact::from(50)).floor_to(0) == floor.clone() * Exact::from(50);
    let up = match rounding {
        Rounding::Down => false,
        Rounding::Up => !twice.is_zero(),
        Rounding::HalfUp => twice >= cent(),
        Rounding::HalfEven => twice > cent() || (twice == cent() && !even),
    };
    if up { floor + cent() } else { floor }
}

fn amounts(total: &str, users: &[(&str, &str)], additive: bool) -> Amounts {
    let users = users.iter().map(|(user, share)| ((*user).to_owned(), share.parse().unwrap())).collect();
    Amounts { total: total.parse().unwrap(), users, additive, rounding: Rounding::HalfEven }
}

#[test]
fn highest_and_last_levels_are_rounded_each_by_itself() {
    let posted = amounts("7.555", &[("a", "7.555"), ("b", "4.445")], false).posted().unwrap();
    assert_eq!(posted.total.to_string(), "7.56");
    assert_eq!(posted.users["a"].to_string(), "7.56");
    assert_eq!(posted.users["b"].to_string(), "4.44");
}

#[test]
fn one_level_that_can_not_be_posted_is_refused_where_users_do_not_sum() {
    let refused = amounts("7", &[("a", "-0.5")], false).posted();
    assert_eq!(refused, Err(Unpostable::Negative("-0.5".to_owned())));
    let refused = amounts("7", &[("a", "1e18")], false).posted();
    assert_eq!(refused, Err(Unpostable::TooLarge("1000000000000000000".to_owned())));
}

#[test]
fn users_that_have_more_than_the_total_are_refused() {
    // Only a mistake can make it so; nobody is paid back by way of rounding.
    let refused = amounts("1", &[("a", "3")], true).posted();
    assert_eq!(refused, Err(Unpostable::Negative("-2".to_owned())));
}

#[test]
fn a_tiny_negative_total_is_not_rounded_away() {
    for additive in [true, false] {
        let refused = amounts("-0.001", &[], additive).posted();
        assert_eq!(refused, Err(Unpostable::Negative("-0.001".to_owned())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is left over and whatever there is in the month that it goes to: nothing is made, nothing there falls below
    /// zero, the users there have no more than the total, and what has room goes as a whole.
    #[test]
    fn what_is_carried_forward_fits_into_its_month(
        there in prop::collection::vec(0..2000_i64, 0..5),
        nobodys in 0..2000_i64,
        rest in prop::collection::vec(-3000..3000_i64, 0..5),
        rest_total in -9000..9000_i64,
    ) {
        let named = |all: &[i64], total: i64| -> BTreeMap<String, i64> {
            let users = all.iter().enumerate().map(|(index, cents)| (format!("user{index}"), *cents));
            users.chain([(String::new(), total)]).collect()
        };
        let room = named(&there, there.iter().sum::<i64>() + nobodys);
        let rest = named(&rest, rest_total);
        let amounts = |cents: &BTreeMap<String, i64>| -> BTreeMap<String, Decimal> {
            cents.iter().map(|(user, cents)| (user.clone(), Decimal::new(*cents, 2))).collect()
        };
        let moved = fit(&amounts(&rest), &amounts(&room));
        let moved: BTreeMap<String, i64> = moved
            .into_iter()
            .map(|(user, amount)| (user, i64::try_from(amount * Decimal::ONE_HUNDRED).unwrap()))
            .collect();
        let of = |rows: &BTreeMap<String, i64>, user: &str| rows.get(user).copied().unwrap_or(0);
        for (user, cents) in &moved {
            let left = of(&rest, user);
            prop_assert!(*cents != 0 && cents.signum() == left.signum() && cents.abs() <= left.abs(), "{}", user);
        }
        let after = |user: &str| of(&room, user) + of(&moved, user);
        let users: std::collections::BTreeSet<&String> =
            room.keys().chain(rest.keys()).filter(|user| !user.is_empty()).collect();
        for user in &users {
            prop_assert!(after(user) >= 0, "{}", user);
        }
        prop_assert_eq!(after(""), (of(&room, "") + rest_total).max(0));
        let shares: i64 = users.iter().map(|user| after(user)).sum();
        // Less is taken from a total than from its users only where others have more there than what is left of it.
        let fixed: i64 = users.iter().map(|user| (of(&room, user) + of(&rest, user).min(0)).max(0)).sum();
        prop_assert!(shares <= after("").max(fixed), "{:?}", moved);
    }
}
