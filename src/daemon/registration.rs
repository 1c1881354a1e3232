//! Has the agent registered with Waldur, where the server keeps a list of agents. It waits for nothing and nothing waits for
//! it: a server that knows no agents, or does not want this one, is reported to all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::Agent;
use crate::config::settings::Report;
use crate::waldur::agents::Registration;
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::wire::numbers::count;

/// Between two tries where the server can't be reached.
const AGAIN: Duration = Duration::from_secs(3600);

/// Tries until it is done, or the server has said that it will not.
pub(super) async fn register(agent: Agent) {
    if agent.settings.report == Report::Shadow {
        return; // It would be written.
    }
    loop {
        // Its own: a call that hangs here is in nobody's way, and what becomes of it says nothing of the server's health.
        let Some(waldur) = agent.settings.waldur.as_ref().filter(|_| agent.client.is_some()) else { return };
        let registered = match Client::new(waldur, agent.clock.clone()) {
            Ok(client) => once(&agent, &client).await,
            Err(error) => Err(Failure::NotSent { call: "registration".to_owned(), words: error.to_string() }),
        };
        match registered {
            Ok(0) => return,
            Ok(offerings) => {
                let offerings = count(offerings, "offering");
                return tracing::info!("Registered with Waldur as {} for {offerings}.", name());
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
async fn once(agent: &Agent, client: &Client) -> Result<usize, Failure> {
    let mut offerings: BTreeSet<Uuid> =
        agent.rulebook.rules.iter().filter_map(|rules| rules.offering()).collect();
    let fixed: BTreeSet<Uuid> =
        agent.rulebook.rules.iter().filter_map(|rules| rules.fixed_resource()).collect();
    for resource in fixed {
        // One that is not there is the submitter's to tell of.
        if let Ok(known) = client.resource(resource).await {
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
        client.register(&registration).await?;
    }
    Ok(offerings.len())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::http::{Method, StatusCode, Uri};
    use axum::routing::any;
    use serde_json::json;

    use super::*;
    use crate::collectors::definition::Definition;
    use crate::config::clock::process_clock;
    use crate::config::settings::Loaded;
    use crate::ledger::Rulebook;
    use crate::metering::period::BillingZone;

    const OFFERINGS: [&str; 2] = ["91ab0000000040008000000000000001", "91ab0000000040008000000000000002"];
    const ANY: &str = "1de00000000040008000000000000001";

    /// An agent that reports for one offering by backend id, and for a resource of another one by its UUID.
    fn agent(port: u16, token: &std::path::Path) -> Agent {
        let meters = "meters: { c: { reading: r, aggregate: last } }";
        let text = format!(
            "waldur: {{ url: 'http://127.0.0.1:{port}', token_file: {} }}\ncollectors:\n  a: {{ plugin: exec, command: x, \
             schedule: '@hourly', resource: {{ offering: {}, backend_id: '{{id}}' }}, {meters} }}\n  b: {{ plugin: exec, \
             command: x, schedule: '@hourly', resource: {ANY}, {meters} }}\n",
            token.display(),
            OFFERINGS[0]
        );
        let loaded = Loaded::parse("a test", &text);
        let settings = loaded.settings.unwrap();
        let zone = jiff::tz::TimeZone::UTC;
        let definitions: Vec<Definition> = loaded
            .collectors
            .into_iter()
            .filter_map(|section| Definition::from_section(section, &zone))
            .collect();
        let rules = definitions.iter().map(|definition| definition.rules.clone()).collect();
        Agent {
            name: String::new(),
            client: settings
                .waldur
                .as_ref()
                .map(|waldur| Arc::new(Client::new(waldur, process_clock()).unwrap())),
            settings: Arc::new(settings),
            definitions: Arc::new(definitions),
            rulebook: Arc::new(Rulebook { zone: BillingZone::of(zone), rules }),
            clock: process_clock(),
        }
    }

    #[tokio::test]
    async fn it_is_registered_for_each_offering_that_it_reports_for() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let answer = move |method: Method, uri: Uri, body: String| {
            let path = uri.path().to_owned();
            noted.lock().unwrap().push(format!("{method} {path} {body}"));
            let answer = match path.as_str() {
                path if path.contains("provider-resources") => {
                    json!({ "uuid": ANY, "name": "r", "state": "OK", "offering_uuid": OFFERINGS[1] })
                }
                "/api/marketplace-site-agent-identities/" if method == Method::GET => json!([]),
                _ => json!({ "uuid": ANY }),
            };
            async move { (StatusCode::OK, axum::Json(answer)) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/{*path}", any(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "token").unwrap();
        let agent = agent(port, &token);
        assert_eq!(once(&agent, agent.client.as_ref().unwrap()).await, Ok(2));
        let asked = asked.lock().unwrap();
        let made =
            asked.iter().filter(|call| call.starts_with("POST /api/marketplace-site-agent-identities/ "));
        let made: Vec<&String> = made.collect();
        assert_eq!(made.len(), 2, "{asked:#?}");
        for (call, offering) in made.into_iter().zip(OFFERINGS) {
            let offering: Uuid = offering.parse().unwrap();
            assert!(call.contains(&offering.to_string()) && call.contains("waldur-usage-agent@"), "{call}");
        }
    }
}
