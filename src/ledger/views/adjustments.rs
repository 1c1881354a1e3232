//! What enters a month's amounts beside readings, for people: opening balances, and differences moved between months.

use jiff::Timestamp;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

/// What kind of adjustment it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of this instant; what was used before is not counted again.
    Opening(Timestamp),
    /// Carried to this month from that one.
    CarriedFrom(BillingPeriod),
    /// Carried from this month to that one.
    CarriedTo(BillingPeriod),
    /// Of this month, and reported under its later plan.
    LaterPlan,
    /// Given up by a person.
    GivenUp,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Opening(_) => "opening balance",
            Kind::CarriedFrom(_) | Kind::CarriedTo(_) => "carried forward",
            Kind::LaterPlan => "under a later plan",
            Kind::GivenUp => "given up",
        }
    }
}

/// An adjustment, as `status` and `explain` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    pub component: String,
    /// '' is the total.
    pub user: String,
    /// What it adds to the month: negative for what was taken out of it.
    pub amount: Decimal,
    pub kind: Kind,
    /// Where it comes from.
    pub words: String,
    pub recorded: Timestamp,
}

impl Ledger {
    /// The adjustments of a resource's month, by component.
    pub fn adjustments(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Adjustment>, LedgerError> {
        let mut all: Vec<Adjustment> = self
            .openings(resource, period)?
            .into_iter()
            .map(|opening| Adjustment {
                component: opening.component,
                user: opening.user,
                amount: opening.amount,
                kind: Kind::Opening(opening.at),
                words: opening.words,
                recorded: opening.recorded,
            })
            .collect();
        for moved in self.moved(resource, period)? {
            let amount = moved.amount;
            let (kind, amount, words) = match moved.to {
                Some(to) if to == moved.from => {
                    let words = format!(
                        "{amount:.2} of it is reported under the plan that the month ended with, because the plan period \
                         that it was used in has ended"
                    );
                    (Kind::LaterPlan, Decimal::ZERO, words)
                }
                Some(to) if to == period => {
                    let words = format!("used in {} and not reported before it was over", moved.from);
                    (Kind::CarriedFrom(moved.from), amount, words)
                }
                Some(to) => {
                    (Kind::CarriedTo(to), -amount, "not reported before the month was over".to_owned())
                }
                None => (Kind::GivenUp, -amount, "a person gave it up".to_owned()),
            };
            let (component, user, recorded) = (moved.component, moved.user, moved.recorded);
            all.push(Adjustment { component, user, amount, kind, words, recorded });
        }
        all.sort_by(|a, b| (&a.component, a.recorded, &a.user).cmp(&(&b.component, b.recorded, &b.user)));
        Ok(all)
    }
}
