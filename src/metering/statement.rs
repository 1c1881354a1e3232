//! From exact amounts to the numbers that are posted: the one rounding, and who bears it.
//!
//! It never changes an exact amount, and never posts a negative one or one that the server would choke on.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::exact::{Exact, Rounding, cents_to_decimal};

/// Decimals that the server keeps of an amount.
pub const POSTED_PLACES: u32 = 2;

/// One component of a statement, exact: the users' shares and what carries no user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amounts {
    pub total: Exact,
    pub users: BTreeMap<String, Exact>,
    /// Whether users + unattributed = total (not so for `max` and `last`).
    pub additive: bool,
    pub rounding: Rounding,
}

/// The same, as Waldur should hold it: two decimals each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    pub total: Decimal,
    pub users: BTreeMap<String, Decimal>,
}

/// Why an amount can't be posted. The caller knows which resource, component and user it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpostable {
    #[error("the amount is negative ({0}); a negative amount is never posted")]
    Negative(String),
    #[error(
        "the amount {0} has more than 18 digits before the point, which the server refuses; is the meter's factor right?"
    )]
    TooLarge(String),
}

impl Amounts {
    /// Rounds the total once, and shares it out so that the users' posted amounts and the unattributed rest sum to
    /// it (largest remainder; at equal remainders the unattributed rest first, then by the users' names).
    pub fn posted(&self) -> Result<Posted, Unpostable> {
        let users = if self.additive { self.share_out()? } else { self.round_each()? };
        Ok(Posted { total: self.rounded(&self.total)?, users })
    }

    fn share_out(&self) -> Result<BTreeMap<String, Decimal>, Unpostable> {
        let attributed: Exact = self.users.values().cloned().sum();
        let unattributed = self.total.clone() - attributed;
        let shares =
            std::iter::once((None, &unattributed)).chain(self.users.iter().map(|(u, e)| (Some(u), e)));
        let mut floors = Vec::with_capacity(1 + self.users.len());
        for (user, exact) in shares {
            if exact.is_negative() {
                return Err(Unpostable::Negative(exact.to_string()));
            }
            let (floor, rest) = exact.split(POSTED_PLACES).ok_or_else(|| too_large(exact))?;
            floors.push((user, exact, floor, rest));
        }
        // Stable: equal rests stay in the order unattributed, then users by name.
        floors.sort_by(|(.., one), (.., other)| other.cmp(one));
        let floored: Option<i128> =
            floors.iter().try_fold(0_i128, |sum, (_, _, floor, _)| sum.checked_add(*floor));
        let total = self.total.round(POSTED_PLACES, self.rounding);
        let extra = total.zip(floored).map(|(total, floored)| total - floored);
        let extra = extra.ok_or_else(|| too_large(&self.total))?;
        let mut users = BTreeMap::new();
        for (rank, (user, exact, floor, _)) in (0..).zip(floors) {
            let Some(user) = user else { continue };
            let cents = if rank < extra { floor + 1 } else { floor };
            users.insert(user.clone(), postable(cents, exact)?);
        }
        Ok(users)
    }

    fn round_each(&self) -> Result<BTreeMap<String, Decimal>, Unpostable> {
        let rounded = self.users.iter().map(|(user, exact)| Ok((user.clone(), self.rounded(exact)?)));
        rounded.collect()
    }

    fn rounded(&self, exact: &Exact) -> Result<Decimal, Unpostable> {
        postable(exact.round(POSTED_PLACES, self.rounding).ok_or_else(|| too_large(exact))?, exact)
    }
}

/// The server takes at most 18 digits before the point (observed). That a usage-billed component already breaks its
/// invoice at 1e12 is the submitter's to know: how a component is billed is Waldur's word, not metering's.
const CENTS_LIMIT: i128 = 100_000_000_000_000_000_000;

fn postable(cents: i128, exact: &Exact) -> Result<Decimal, Unpostable> {
    // The exact amount decides: -0.001 is not 0.00 but a sign that something is wrong.
    if exact.is_negative() {
        return Err(Unpostable::Negative(exact.to_string()));
    }
    cents_to_decimal(cents).filter(|_| cents < CENTS_LIMIT).ok_or_else(|| too_large(exact))
}

fn too_large(exact: &Exact) -> Unpostable {
    Unpostable::TooLarge(exact.approximate(2))
}
