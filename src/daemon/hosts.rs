//! Before a month closes, the agent that submits waits for what each collector of each host of its shared ledger sees then:
//! one that looks often says nothing of another. It waits only as long as it would have time for anyway: a host that does not
//! answer costs no other its bill.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Part;
use crate::ledger::views::agents::LastRun;
use crate::submitter::closing::Closing;

/// The last call of a month comes a minute before nothing is sent any more: that leaves a quarter of it for the calls.
const FOR_HOSTS: SignedDuration = SignedDuration::from_secs(45);
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);

impl Part {
    /// Waits until the hosts have looked that look at a fixed time before the month's end, and says whom it goes without.
    /// `waited`: for which of those times it has been waited already.
    pub(super) async fn wait_for_hosts(&self, waited: &mut Timestamp) {
        if self.agent.settings.ledger.file().is_some() {
            return;
        }
        let now = self.agent.clock.now();
        // As hosts see it: they know nothing of the server.
        let closing = Closing::usual(&self.agent.rulebook.zone, now);
        let looks =
            [closing.begins, closing.last_call].into_iter().filter(|at| *at <= now && now < closing.ends);
        let Some(at) = looks.max().filter(|at| at > waited) else { return };
        *waited = at;
        let until = Instant::now() + FOR_HOSTS.unsigned_abs();
        let limit = at.saturating_add(FOR_HOSTS).unwrap_or(at);
        let mut told = false;
        let begins = self.agent.rulebook.zone.start(closing.period);
        let missed = loop {
            let clock = self.agent.clock.clone();
            let asked = self.ledger.with(move |ledger| {
                let more = ledger.count_some()?;
                ledger.measure_database_clock(&clock)?;
                Ok((more, ledger.looks()?))
            });
            let (more, looks) = match asked.await {
                Ok(asked) => asked,
                Err(error) => {
                    tracing::warn!("The closing of {} does not wait for hosts: {error}", closing.period);
                    return;
                }
            };
            // What a host measured by another name, or another host once, is not of this month.
            let of_month: Vec<LastRun> = looks.into_iter().filter(|look| look.until >= begins).collect();
            let missed = |look: &&LastRun| look.until < at;
            let awaited: Vec<LastRun> =
                of_month.iter().filter(missed).filter(|look| !look.is_away(at)).cloned().collect();
            let is_over = Instant::now() >= until || self.agent.clock.now() >= limit;
            if awaited.is_empty() || is_over || *self.stopped.borrow() {
                break of_month.into_iter().filter(|look| missed(&look)).collect::<Vec<_>>();
            }
            self.stats.tick();
            if more {
                continue;
            }
            if !told {
                told = true;
                tracing::info!("The closing of {} waits for {}.", closing.period, named(&awaited));
            }
            tokio::time::sleep(LOOKED_AT_EVERY).await;
        };
        if !missed.is_empty() {
            let period = closing.period;
            tracing::warn!(
                "The closing of {period} goes without {}: what was used there since is late usage when it comes.",
                named(&missed)
            );
        }
    }
}

/// So many are named.
const NAMED: usize = 10;

fn named(looks: &[LastRun]) -> String {
    let each = looks
        .iter()
        .take(NAMED)
        .map(|look| format!("{} of {} (nothing since {})", look.collector, look.agent, look.until));
    let more = looks.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", each.collect::<Vec<_>>().join(", "))
}
