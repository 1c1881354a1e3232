//! What people decide about what is kept back, and what the account makes of it.

use uuid::Uuid;
use waldur_usage_agent::ledger::sent::blocked::Dropped;
use waldur_usage_agent::ledger::sent::decision::Decision;
use waldur_usage_agent::metering::period::BillingPeriod;
use waldur_usage_agent::submitter::reason::Reason;

use crate::account::{COMPONENTS, Month, Place};
use crate::bench::{Bench, RESOURCES};
use crate::case::Decides;
use crate::laws::to_cents;

/// The reasons that are for `resolve`, not for `parked`.
const FOR_RESOLVE: [Reason; 6] = [
    Reason::Conflict,
    Reason::Unadoptable,
    Reason::Shares,
    Reason::RulesChanged,
    Reason::SameIds,
    Reason::SeveralResources,
];

fn for_parked() -> Vec<&'static str> {
    Reason::ALL.into_iter().filter(|reason| !FOR_RESOLVE.contains(reason)).map(Reason::name).collect()
}

fn month(period: BillingPeriod) -> Month {
    let first = period.first_day();
    (first.year(), first.month())
}

fn component(name: &str) -> usize {
    COMPONENTS.iter().position(|one| *one == name).unwrap()
}

impl Bench {
    pub(crate) async fn decide(&mut self, number: usize, decides: Decides) {
        let (resource, now, running): (Uuid, _, _) =
            (RESOURCES[number].parse().unwrap(), self.now, self.month());
        let blocks = self.ledger().with(|ledger| ledger.blocks()).await.unwrap();
        let is_cut = self.plans(number).into_iter().any(|(_, start)| self.account.month(start) == running);
        let mut concerned = blocks.iter().filter(|at| at.resource == resource);
        let over = concerned.any(|at| {
            FOR_RESOLVE.iter().any(|reason| reason.name() == at.block.reason) && month(at.period) != running
        });
        if matches!(decides, Decides::Adopt) && (is_cut || over) {
            return;
        }
        let decision = match decides {
            Decides::Overwrite => Decision::Overwrite,
            Decides::Adopt => Decision::Adopt { at: Some(now) },
        };
        let decided = self.ledger().with(move |ledger| ledger.decide(resource, decision, now)).await.unwrap();
        let seen = self.seen();
        for one in decided {
            let of: (Place, Month) = ((number, component(&one.component)), month(one.period));
            let held = Bench::held(&seen, of.0, of.1);
            // What another wrote since is not what the person saw.
            if of.1 != running || to_cents(one.held) != held.total && !is_cut {
                self.account.disturbed.insert(of);
                continue;
            }
            match decides {
                Decides::Adopt => drop(self.account.to_adopt.insert(of, (now, held))),
                Decides::Overwrite if is_cut => drop(self.account.theirs.remove(&of)),
                Decides::Overwrite => {
                    self.account.theirs.remove(&of);
                    self.account.disturbed.remove(&of);
                    self.account.shares_disturbed.remove(&of);
                }
            }
        }
    }

    /// What was adopted since is part of what Waldur should hold.
    pub(crate) async fn adopted(&mut self) {
        let blocks = self.ledger().with(|ledger| ledger.blocks()).await.unwrap();
        for (of, opening) in std::mem::take(&mut self.account.to_adopt) {
            let resource: Uuid = RESOURCES[of.0.0].parse().unwrap();
            let refused = blocks.iter().any(|at| {
                at.resource == resource
                    && at.component == COMPONENTS[of.0.1]
                    && month(at.period) == of.1
                    && at.block.state == "held"
            });
            if refused || of.1 != self.month() {
                self.account.disturbed.insert(of);
                continue;
            }
            self.account.disturbed.remove(&of);
            self.account.shares_disturbed.remove(&of);
            self.account.theirs.remove(&of);
            self.account.openings.insert(of, opening);
        }
    }

    pub(crate) async fn drop_blocked(&mut self, number: usize) {
        let now = self.now;
        let resource: Uuid = RESOURCES[number].parse().unwrap();
        let all = Dropped { resource, period: None, component: None, user: None };
        let done =
            self.ledger().with(move |ledger| ledger.drop_blocked(&all, &for_parked(), now)).await.unwrap();
        for one in done {
            let of = ((number, component(&one.component)), month(one.period));
            let given_up = self.account.given_up.entry(of).or_default();
            match one.user.as_str() {
                "" => given_up.total += to_cents(one.amount),
                user => *given_up.users.entry(user.to_owned()).or_default() += to_cents(one.amount),
            }
        }
    }

    pub(crate) async fn retry(&mut self, number: usize) {
        let resource: Uuid = RESOURCES[number].parse().unwrap();
        self.ledger()
            .with(move |ledger| {
                ledger.clear_blocks(Some(resource), &for_parked())?;
                ledger.pick_up_dropped(resource)
            })
            .await
            .unwrap();
        self.account.given_up.retain(|((of, _), _), _| *of != number);
    }
}
