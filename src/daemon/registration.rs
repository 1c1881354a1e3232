//! Has the agent registered with Waldur, where the server keeps a list of agents. It waits for nothing and nothing waits for
//! it: a server that knows no agents, or does not want this one, is reported to all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::Agent;
use crate::waldur::agents::Registration;
use crate::waldur::failure::Failure;

/// Between two tries where the server can't be reached.
const AGAIN: Duration = Duration::from_secs(3600);

/// Tries until it is done, or the server has said that it will not.
pub(super) async fn register(agent: Agent) {
    loop {
        match once(&agent).await {
            Ok(0) => return,
            Ok(offerings) => {
                return tracing::info!("Registered with Waldur as {} for {offerings} offerings.", name());
            }
            Err(Failure::Endpoint { .. } | Failure::Missing { .. }) => {
                return tracing::debug!("This Waldur keeps no list of agents.");
            }
            Err(failure @ (Failure::Refused { .. } | Failure::Forbidden { .. })) => {
                return tracing::info!(
                    "Waldur does not list this agent, which changes nothing else: {failure}"
                );
            }
            Err(failure) => tracing::debug!("Not registered with Waldur yet: {failure}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One name a host: the entry of an agent that was installed anew is the old one.
fn name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("waldur-usage-agent@{}", host.trim())
}

/// How many offerings it is registered for now.
async fn once(agent: &Agent) -> Result<usize, Failure> {
    let mut offerings: BTreeSet<Uuid> =
        agent.rulebook.rules.iter().filter_map(|rules| rules.offering()).collect();
    let fixed: BTreeSet<Uuid> =
        agent.rulebook.rules.iter().filter_map(|rules| rules.fixed_resource()).collect();
    for resource in fixed {
        // One that is not there is the submitter's to tell of.
        if let Ok(known) = agent.client.resource(resource).await {
            offerings.extend(known.offering_uuid);
        }
    }
    let plugins: BTreeSet<&'static str> =
        agent.definitions.iter().map(|definition| definition.plugin.name).collect();
    for offering in &offerings {
        let registration = Registration {
            offering: *offering,
            name: name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: agent.clock.now(),
            plugins: plugins.clone(),
        };
        agent.client.register(&registration).await?;
    }
    Ok(offerings.len())
}
