//! What must hold whenever the agent has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;
use waldur_usage_agent::ledger::sent::blocked::Blocked;
use waldur_usage_agent::metering::period::BillingPeriod;
use waldur_usage_agent::submitter::Late;

use crate::account::{Amounts, COMPONENTS, Month, PLACES, Place, before};
use crate::bench::{Bench, RESOURCES};

/// What Waldur holds: by place, month and plan period.
pub(crate) type Seen = BTreeMap<(Place, Month, Option<Uuid>), Amounts>;

pub(crate) fn to_cents(amount: Decimal) -> i64 {
    let cents = amount * Decimal::ONE_HUNDRED;
    assert!(cents.fract().is_zero(), "{amount}");
    i64::try_from(cents).unwrap()
}

fn period((year, month): Month) -> BillingPeriod {
    format!("{year}-{month:02}").parse().unwrap()
}

/// What the agent tells of a component's month.
#[derive(Debug, Default)]
struct Told {
    blocks: Vec<Blocked>,
    /// Moved out of it to other months, less what was moved into it; by user, '' is the total.
    carried: BTreeMap<String, i64>,
    events: Vec<String>,
    /// The server is known to honour dates.
    dated: bool,
    /// Something went to a later plan of the month.
    within: bool,
    /// Something of it is pending still.
    waits: bool,
    /// The agent has asked for the resource: it does where there is something to report of it.
    is_known: bool,
}

impl Told {
    fn has(&self, reason: &str) -> bool {
        self.blocks.iter().any(|at| at.block.reason == reason)
    }

    fn stranded(&self) -> i64 {
        let rests = ["period_ended", "closing_rest", "plan_ended", "too_much"];
        let blocks = self.blocks.iter();
        let rests = blocks.filter(|at| at.user.is_empty() && rests.contains(&at.block.reason.as_str()));
        rests.map(|at| to_cents(at.amount.unwrap_or_default())).sum()
    }
}

impl Bench {
    pub(crate) fn seen(&self) -> Seen {
        let mut seen = Seen::new();
        let world = self.app.world();
        for place in PLACES {
            let uuid: Uuid = RESOURCES[place.0].parse().unwrap();
            let resource = world.resources.iter().find(|one| one.uuid == uuid).unwrap();
            for row in resource.rows.iter().filter(|row| row.kind == COMPONENTS[place.1]) {
                let key = (place, (row.month.year(), row.month.month()), row.plan_period);
                let users = row.users.iter().map(|user| (user.username.clone(), to_cents(user.usage)));
                let users = users.filter(|(_, cents)| *cents != 0).collect();
                let there = seen.insert(key, Amounts { total: to_cents(row.usage), users });
                assert_eq!(there, None, "twin rows of {key:?}");
            }
        }
        seen
    }

    /// Row by row: month, resource, component, total, and the users' shares.
    pub(crate) fn held_in_words(&self) -> Vec<String> {
        let hours = |cents: i64| Decimal::new(cents, 2).to_string();
        let words = self.seen().into_iter().map(|((place, (year, month), _), amounts)| {
            let users = amounts.users.iter().map(|(user, cents)| format!(", {user} {}", hours(*cents)));
            let users: String = users.collect();
            let (resource, component) = (["a", "b"][place.0], COMPONENTS[place.1]);
            format!("{year}-{month:02} {resource} {component} {}{users}", hours(amounts.total))
        });
        words.collect()
    }

    /// All parts of a month.
    pub(crate) fn held(seen: &Seen, place: Place, month: Month) -> Amounts {
        let mut sum = Amounts::default();
        for (_, amounts) in seen.iter().filter(|(key, _)| key.0 == place && key.1 == month) {
            sum.add(amounts, 1);
        }
        sum
    }

    pub(crate) fn same(&self, before: &Seen, words: &str) -> Result<(), String> {
        let now = self.seen();
        if now == *before { Ok(()) } else { Err(format!("{words}: {before:#?} became {now:#?}")) }
    }

    /// Law 4: no call says what one before it said.
    pub(crate) fn sent_once(&self, calls: &[Value]) -> Result<(), String> {
        let mut said = BTreeSet::new();
        for call in calls {
            let mut body: Value = serde_json::from_str(call["body"].as_str().unwrap()).unwrap();
            // Of the date only its month says what is meant.
            if let Some(date) = body.get_mut("date") {
                *date = date.as_str().unwrap()[..7].into();
            }
            for usage in body["usages"].as_array_mut().into_iter().flatten() {
                usage.as_object_mut().unwrap().remove("description");
            }
            if !said.insert(format!("{} {body}", call["path"])) {
                return Err(format!("said twice: {call:#}"));
            }
        }
        Ok(())
    }

    async fn told(&self, place: Place, month: Month) -> Told {
        let (resource, of): (Uuid, _) = (RESOURCES[place.0].parse().unwrap(), period(month));
        let component = COMPONENTS[place.1];
        let (blocks, moved, events, (dated, is_known)) = self
            .ledger()
            .with(move |ledger| {
                let dated = ledger.server_fact("dated")?.is_some_and(|(value, _)| value == "yes");
                let known = (dated, ledger.resource(resource)?.is_some());
                Ok((ledger.blocks()?, ledger.moved(resource, of)?, ledger.events_of(resource, of)?, known))
            })
            .await
            .unwrap();
        let is_of = |at: &Blocked| {
            at.resource == resource && at.period == of && ["", component].contains(&at.component.as_str())
        };
        let mut carried: BTreeMap<String, i64> = BTreeMap::new();
        let mut within = false;
        for one in moved.into_iter().filter(|one| one.component == component && one.to.is_some()) {
            within |= one.to == Some(one.from);
            let sign = i64::from(one.from == of) - i64::from(one.to == Some(of));
            *carried.entry(one.user).or_default() += sign * to_cents(one.amount);
        }
        let events = events.into_iter().filter(|event| event.component == component);
        Told {
            blocks: blocks.into_iter().filter(is_of).collect(),
            carried,
            events: events.map(|event| event.words).collect(),
            dated,
            within,
            waits: self.waiting.iter().any(|key| key.resource == resource && key.period == of),
            is_known,
        }
    }

    pub(crate) async fn laws(&mut self) -> Result<(), String> {
        let (seen, running) = (self.seen(), self.month());
        let mut months = self.account.months();
        months.extend(seen.keys().map(|key| key.1));
        months.insert(running);
        for place in PLACES {
            let carries = self.setting.late == Late::CarryForward;
            let touched = |month: &Month| *month == running || carries && *month < running;
            let is_touched = |(of, month): &(Place, Month)| *of == place && touched(month);
            let disturbed = self.account.disturbed.iter().any(is_touched)
                || carries && self.account.shares_disturbed.iter().any(is_touched);
            let (anybody, terminated) = (
                self.account
                    .disturbed
                    .iter()
                    .chain(&self.account.shares_disturbed)
                    .any(|(of, _)| *of == place),
                self.account.terminated[place.0],
            );
            // What was not accepted of months that are over, by the account alone.
            let (mut left, mut carried_too_much) = (Amounts::default(), false);
            for month in months.iter().copied().filter(|month| *month <= running) {
                let used = self.account.used(place, month);
                let held = Bench::held(&seen, place, month);
                let told = self.told(place, month).await;
                let about = format!("{} of {}, {month:?}", COMPONENTS[place.1], RESOURCES[place.0]);
                let shares: i64 = held.users.values().sum();
                let is_disturbed = self.account.disturbed.contains(&(place, month))
                    || self.account.shares_disturbed.contains(&(place, month)) && told.has("conflict_shares");
                let theirs = self.account.theirs.get(&(place, month)).filter(|_| month == running);
                if let Some(theirs) = theirs
                    && !told.waits
                    && self.plans(place.0).len() == 1
                    && ![*theirs, used.total].contains(&held.total)
                {
                    return Err(format!("{about}: another's {theirs} became {held:?}, {told:#?}"));
                }
                // Carried, a total and each share are nothing at least, each by itself: then they may be apart.
                let is_carried = self.setting.late == Late::CarryForward;
                if shares > held.total && !is_disturbed && !is_carried && told.blocks.is_empty() {
                    return Err(format!("{about}: the shares are more than the total: {held:?}, {told:#?}"));
                }
                let words =
                    || format!("{about}: used {used:?}, left {left:?}, Waldur holds {held:?}, {told:#?}");
                if is_disturbed {
                    // Where nothing was used nobody looks.
                    let parts = self.parts(&seen, place, month);
                    let is_elsewhere = parts.iter().any(|(used, held)| used.total == 0 && held.total != 0);
                    let is_read = month >= before(running) && told.is_known && !is_elsewhere;
                    let right = held.total == used.total || !is_read;
                    let is_told =
                        told.waits || terminated || !told.blocks.is_empty() || !told.events.is_empty();
                    if !right && !is_told && told.carried.is_empty() {
                        return Err(format!("another writer's number is not told: {}", words()));
                    }
                    continue;
                }
                if told.blocks.iter().any(|at| at.block.reason.starts_with("conflict")) && !anybody {
                    return Err(format!("nobody else wrote: {}", words()));
                }
                if month == running {
                    if !disturbed && !terminated {
                        // Where it can't be taken away from what an ended plan has of the month, it stays, and was told.
                        let is_told = carried_too_much && held.total > used.total + left.total;
                        let several = self
                            .parts(&seen, place, month)
                            .iter()
                            .filter(|(used, held)| used.total + held.total > 0)
                            .count()
                            > 1;
                        let judged = self.running(&used, &left, (&held, several), &told);
                        judged
                            .or_else(|why| if is_told { Ok(()) } else { Err(why) })
                            .map_err(|why| format!("{why}: {}", words()))?;
                        let parts = self.parts(&seen, place, month);
                        let is_plain = self.account.is_plain(place, month)
                            && told.blocks.is_empty()
                            && !told.within
                            && !told.waits
                            && told.carried.is_empty();
                        let differ = parts.iter().any(|(used, held)| used != held);
                        if is_plain && left == Amounts::default() && differ {
                            return Err(format!("not under the plan of its time: {parts:?}: {}", words()));
                        }
                    }
                } else {
                    self.ended(&used, &held, &told).map_err(|why| format!("{why}: {}", words()))?;
                    carried_too_much |= told.events.iter().any(|words| words.contains("more of it was"))
                        || told.stranded() < 0 && self.plans(place.0).len() > 1;
                    // What was measured only after its month is nobody's to carry.
                    if self.account.measured_in(month) && !told.has("terminated") {
                        left.add(&used, 1);
                        left.add(&held, -1);
                    }
                }
            }
        }
        // What is as ours would be is ours.
        let account = &self.account;
        let theirs = account
            .theirs
            .iter()
            .filter(|((place, month), cents)| account.used(*place, *month).total != **cents);
        self.account.theirs = theirs.map(|(of, cents)| (*of, *cents)).collect();
        self.settled(&seen, running)?;
        self.rested = Some((seen, running));
        Ok(())
    }

    /// What was used and what is held under each plan of a month.
    fn parts(&self, seen: &Seen, place: Place, month: Month) -> Vec<(Amounts, Amounts)> {
        let plans = self.plans(place.0);
        let mut parts = Vec::new();
        for (number, (plan, start)) in plans.iter().enumerate() {
            let next = plans.get(number + 1).map(|(_, start)| *start);
            let when = |at: Timestamp| {
                let begun = number == 0 || at >= *start;
                begun && next.is_none_or(|next| at < next) && self.account.month(at) == month
            };
            let held = seen.get(&(place, month, Some(*plan))).cloned().unwrap_or_default();
            parts.push((self.account.used_when(place, when), held));
        }
        parts
    }

    fn running(
        &self,
        used: &Amounts,
        left: &Amounts,
        (held, several): (&Amounts, bool),
        told: &Told,
    ) -> Result<(), &'static str> {
        if told.blocks.iter().any(|at| at.block.reason != "plan_ended") {
            return Err("nothing should be held of the running month");
        }
        let mut right = used.clone();
        if self.setting.late == Late::CarryForward {
            right.add(left, 1);
        }
        if told.waits && held.total > right.total {
            return Ok(());
        }
        let stranded = told.stranded();
        if held.total != (right.total - stranded).max(0) {
            return Err("the total is wrong");
        }
        // Of a month of several plans a share can be more than its total under one of them.
        if told.has("plan_ended") || told.within || several && left != &Amounts::default() {
            return Ok(());
        }
        let fits = right.total >= right.users.values().sum() && right.users.values().all(|cents| *cents >= 0);
        // Of what is added to a share no more than fits into the total.
        let only_less = left.users.values().all(|cents| *cents <= 0);
        right.users.retain(|_, cents| *cents > 0);
        // A total of nothing has no shares.
        if right.total <= 0 {
            right.users.clear();
        }
        if (only_less || fits && right.total >= 0) && held.users != right.users {
            return Err("shares are wrong");
        }
        Ok(())
    }

    fn ended(&self, used: &Amounts, held: &Amounts, told: &Told) -> Result<(), &'static str> {
        let rest = used.total - held.total;
        let carried = told.carried.get("").copied().unwrap_or(0);
        let late = told.has("late_refused") || told.has("terminated");
        if rest - carried != told.stranded() && !late {
            return Err("used is not accepted, carried and stranded");
        }
        if self.setting.late == Late::Backfill
            && !told.has("terminated")
            && self.setting.staff
            && told.dated
            && rest != 0
            && !told.has("plan_ended")
        {
            return Err("it could be reported into its month");
        }
        Ok(())
    }

    /// Law 7: what was over when the agent last rested is as it was.
    fn settled(&self, seen: &Seen, running: Month) -> Result<(), String> {
        let Some((before, month)) = &self.rested else { return Ok(()) };
        if self.setting.late == Late::Backfill {
            return Ok(());
        }
        let over = |key: &(Place, Month, Option<Uuid>)| {
            key.1 < *month && !self.account.disturbed.contains(&(key.0, key.1))
        };
        let keys: BTreeSet<_> = before.keys().chain(seen.keys()).filter(|key| over(key)).collect();
        for key in keys {
            if before.get(key) != seen.get(key) {
                return Err(format!(
                    "a month that was over has changed: {key:?} from {:?} to {:?}, in {running:?}",
                    before.get(key),
                    seen.get(key)
                ));
            }
        }
        Ok(())
    }
}
