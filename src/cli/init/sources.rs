//! What the token may report on, and the collectors that one source makes for it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use uuid::Uuid;

use super::draft::{Collector, name_of, quoted};
use super::offer::{CGROUP, Offered, PROMETHEUS, SLURM, propose};
use crate::cli::exit::{Exit, Failed};
use crate::waldur::client::Client;
use crate::waldur::types::{Offering, Resource};

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Where its programs are, if the service would not find them.
    Slurm(Option<PathBuf>),
    Cgroup,
    /// By the server's address.
    Prometheus(String),
}

impl Choice {
    fn offered(&self) -> &'static [Offered] {
        match self {
            Choice::Slurm(_) => &SLURM,
            Choice::Cgroup => &CGROUP,
            Choice::Prometheus(_) => &PROMETHEUS,
        }
    }
}

/// The offerings that the token may report on, with their resources.
#[derive(Debug)]
pub(super) struct Marketplace {
    pub(super) offerings: Vec<(Offering, Vec<Resource>)>,
}

/// How many names of resources are shown.
const SHOWN: usize = 5;

impl Marketplace {
    /// Of those named by UUID or name, or of all.
    pub(super) async fn read(client: &Client, only: &[String]) -> Result<Marketplace, Failed> {
        let all = client.offerings().await?;
        let named = |offering: &Offering, wanted: &String| {
            offering.name == *wanted || wanted.parse::<Uuid>() == Ok(offering.uuid)
        };
        for wanted in only {
            if !all.iter().any(|offering| named(offering, wanted)) {
                let names: Vec<&str> = all.iter().map(|offering| offering.name.as_str()).collect();
                return Err(Failed::new(
                    Exit::Usage,
                    format!(
                        "the token may report on no offering `{wanted}`; there are: {}",
                        names.join(", ")
                    ),
                ));
            }
        }
        let mut offerings = Vec::new();
        for offering in all {
            if only.is_empty() || only.iter().any(|wanted| named(&offering, wanted)) {
                let resources = client.resources(offering.uuid).await?;
                offerings.push((offering, resources));
            }
        }
        Ok(Marketplace { offerings })
    }

    /// Shows it, with what would make each component.
    pub(super) fn show(&self, choice: &Choice, out: &mut dyn Write) -> Result<(), Failed> {
        for (offering, resources) in &self.offerings {
            writeln!(out, "\nOffering {} ({})", offering.name, offering.uuid)?;
            for component in &offering.components {
                let words = propose(component, choice.offered()).words;
                let said = [component.measured_unit.as_str(), component.billing_type.as_str()];
                let what = said.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
                let head = format!("  {:<20} {:<18} ", component.component, what);
                let lines = super::draft::folded(&words, &" ".repeat(head.len()));
                for (index, line) in lines.iter().enumerate() {
                    match index {
                        0 => writeln!(out, "{head}{}", line.trim_start())?,
                        _ => writeln!(out, "{line}")?,
                    }
                }
            }
            let names: Vec<&str> =
                resources.iter().take(SHOWN).map(|resource| resource.name.as_str()).collect();
            let more = resources.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            for line in super::draft::folded(&format!("Resources: {}{more}", names.join(", ")), "  ") {
                writeln!(out, "{line}")?;
            }
        }
        writeln!(out)?;
        Ok(())
    }
}

/// Whose the jobs of an account of SLURM are, as keys.
pub(super) fn of_account(offering: &str) -> [String; 4] {
    [
        "resource:".to_owned(),
        format!("  offering: {offering}"),
        "  backend_id: \"{account}\"".to_owned(),
        "  ignore_case: true".to_owned(),
    ]
}

/// The collectors of a source: one an offering, but control groups, which are one resource's.
pub(super) fn collectors(
    marketplace: &Marketplace,
    choice: &Choice,
    which: impl FnOnce(&[(Uuid, String)]) -> Result<Uuid, Failed>,
) -> Result<Vec<Collector>, Failed> {
    let mut taken = BTreeSet::new();
    let meters = |offering: &Offering| {
        offering.components.iter().map(|component| propose(component, choice.offered()).line).collect()
    };
    if *choice == Choice::Cgroup {
        let resources = marketplace.offerings.iter().flat_map(|(_, resources)| resources);
        let listed: Vec<(Uuid, String)> =
            resources.map(|resource| (resource.uuid, resource.name.clone())).collect();
        let chosen = which(&listed)?;
        let found = marketplace.offerings.iter().find_map(|(offering, resources)| {
            resources.iter().find(|resource| resource.uuid == chosen).map(|resource| (offering, resource))
        });
        let Some((offering, resource)) = found else { return Ok(Vec::new()) };
        return Ok(vec![Collector {
            about: vec![format!(
                "What the users of this host take, as the resource {} of {}, with a share for each user.",
                resource.name, offering.name
            )],
            name: name_of(&resource.name, &mut taken),
            keys: vec![
                "plugin: cgroup".to_owned(),
                "schedule: every 1m".to_owned(),
                "slices: user.slice/user-*.slice".to_owned(),
                format!("resource: {chosen}"),
                "user: \"{user}\"".to_owned(),
            ],
            meters: meters(offering),
        }]);
    }
    let each = marketplace.offerings.iter().map(|(offering, _)| {
        let (about, mut keys) = match choice {
            Choice::Prometheus(url) => (
                "What the containers of each namespace took, from a Prometheus server. The backend id of a resource is the \
                 name of its namespace.",
                vec![
                    "plugin: prometheus".to_owned(),
                    "schedule: \"*/5 * * * *\"".to_owned(),
                    format!("url: {}", quoted(url)),
                    "queries:".to_owned(),
                    "  cpu_seconds:".to_owned(),
                    "    query: 'container_cpu_usage_seconds_total{container!=\"\"}'".to_owned(),
                    "    kind: counter".to_owned(),
                    "    unit: s".to_owned(),
                    "  memory_bytes:".to_owned(),
                    "    query: 'sum by (namespace) (container_memory_working_set_bytes{container!=\"\"})'".to_owned(),
                    "    kind: gauge".to_owned(),
                    "    step: 1m".to_owned(),
                    "    unit: B".to_owned(),
                ],
            ),
            Choice::Cgroup | Choice::Slurm(_) => (
                "What the jobs of each account used, from sacct. The backend id of a resource is the name of its account; SLURM \
                 keeps them in small letters.",
                slurm(choice),
            ),
        };
        let uuid = offering.uuid;
        match choice {
            Choice::Prometheus(_) => {
                keys.push("resource:".to_owned());
                keys.push(format!("  offering: {uuid}"));
                keys.push("  backend_id: \"{namespace}\"".to_owned());
            }
            _ => {
                keys.extend(of_account(&uuid.to_string()));
                keys.push("user: \"{user}\"".to_owned());
            }
        }
        Collector {
            about: vec![format!("{}: {about}", offering.name)],
            name: name_of(&offering.name, &mut taken),
            keys,
            meters: meters(offering),
        }
    });
    Ok(each.collect())
}

fn slurm(choice: &Choice) -> Vec<String> {
    let mut keys = vec!["plugin: slurm".to_owned(), "schedule: \"*/10 * * * *\"".to_owned()];
    if let Choice::Slurm(Some(directory)) = choice {
        keys.push(format!("programs: {}", quoted(&directory.display().to_string())));
    }
    keys.push("ignore: [root]".to_owned());
    keys
}
