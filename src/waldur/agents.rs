//! Tells a server that keeps a list of agents that this one is there, what it measures with, and which version it is: best
//! effort, for whoever looks at the list. Nothing here is a condition of reporting, and nothing of the configuration is sent.

use std::collections::BTreeSet;

use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::Client;
use super::failure::Failure;
use super::lenient::{any_text, opt_uuid};

const IDENTITIES: &str = "marketplace-site-agent-identities/";
const SERVICES: &str = "marketplace-site-agent-services/";
/// What agents of this kind do, in the words of the server's other agents.
const MODE: &str = "report";

/// An agent as the server is told of it.
#[derive(Debug, Clone)]
pub struct Registration {
    pub offering: Uuid,
    /// One name an agent and offering.
    pub name: String,
    pub version: String,
    pub started: Timestamp,
    /// What it measures with.
    pub plugins: BTreeSet<&'static str>,
}

#[derive(Debug, Serialize)]
struct Identity<'a> {
    offering: Uuid,
    name: &'a str,
    version: &'a str,
    last_restarted: String,
    dependencies: [&'static str; 0],
    /// Asked for by some versions; what stands in the file is nobody's business.
    config_file_path: &'static str,
    config_file_content: &'static str,
}

#[derive(Debug, Serialize)]
struct Service {
    name: &'static str,
    mode: &'static str,
}

#[derive(Debug, Serialize)]
struct Processor<'a> {
    name: &'a str,
    backend_type: &'a str,
    backend_version: &'a str,
}

/// What of an answer matters; the rest differs between versions.
#[derive(Debug, Deserialize)]
struct Known {
    uuid: Uuid,
    #[serde(default, deserialize_with = "any_text")]
    name: String,
    #[serde(default, deserialize_with = "opt_uuid")]
    offering: Option<Uuid>,
}

impl Client {
    /// Makes the agent's entry or brings it up to date, with one service and a processor for each plugin.
    pub async fn register(&self, agent: &Registration) -> Result<(), Failure> {
        let what = format!("registration of {} with offering {}", agent.name, agent.offering.as_simple());
        let answer = self.get(&what, IDENTITIES, &[("name", agent.name.clone())]).await?;
        let known: Vec<Known> = self.decode(&what, &answer)?;
        // A server that ignores the filter lists the others' entries, too.
        let ours = known
            .into_iter()
            .find(|one| one.name == agent.name && one.offering.is_none_or(|of| of == agent.offering));
        let body = Identity {
            offering: agent.offering,
            name: &agent.name,
            version: &agent.version,
            last_restarted: agent.started.to_string(),
            dependencies: [],
            config_file_path: "",
            config_file_content: "",
        };
        let identity: Known = match ours {
            Some(known) => {
                let path = format!("{IDENTITIES}{}/", known.uuid.as_simple());
                self.write(&what, Method::PUT, &path, &body).await?
            }
            None => self.write(&what, Method::POST, IDENTITIES, &body).await?,
        };
        let path = format!("{IDENTITIES}{}/register_service/", identity.uuid.as_simple());
        let service = Service { name: MODE, mode: MODE };
        let service: Known = self.write(&what, Method::POST, &path, &service).await?;
        let path = format!("{SERVICES}{}/register_processor/", service.uuid.as_simple());
        for plugin in &agent.plugins {
            let processor = Processor { name: plugin, backend_type: plugin, backend_version: &agent.version };
            let _: serde_json::Value = self.write(&what, Method::POST, &path, &processor).await?;
        }
        Ok(())
    }
}
