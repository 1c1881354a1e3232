//! Before a month closes, the agent that submits waits for what the hosts of its shared ledger see then. It waits only as long
//! as it would have time for anyway: a host that does not answer costs no other its bill.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::Part;
use crate::ledger::views::agents::AgentReport;
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
        let missed = loop {
            let asked = self.ledger.with(|ledger| {
                ledger.count_some()?;
                ledger.agents()
            });
            let agents = match asked.await {
                Ok(agents) => agents,
                Err(error) => {
                    tracing::warn!("The closing of {} does not wait for hosts: {error}", closing.period);
                    return;
                }
            };
            let missed: Vec<AgentReport> =
                agents.into_iter().filter(|agent| agent.retired.is_none() && agent.looked < at).collect();
            let awaited: Vec<AgentReport> =
                missed.iter().filter(|agent| !agent.is_away(at)).cloned().collect();
            let is_over = Instant::now() >= until || self.agent.clock.now() >= limit;
            if awaited.is_empty() || is_over || *self.stopped.borrow() {
                break missed;
            }
            if !told {
                told = true;
                tracing::info!("The closing of {} waits for {}.", closing.period, named(&awaited));
            }
            self.pulse.beat();
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

/// So many hosts are named.
const NAMED: usize = 10;

fn named(agents: &[AgentReport]) -> String {
    let each =
        agents.iter().take(NAMED).map(|agent| format!("{} (nothing since {})", agent.name, agent.looked));
    let more = agents.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", each.collect::<Vec<_>>().join(", "))
}
