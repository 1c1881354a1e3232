//! What of a waldur-site-agent's configuration a reporting agent needs: offerings, components, factors, accounts, the time
//! zone. Nothing is left out without a word. Pure but for the text that it is given; the token is handed on, never shown.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;
use serde_yaml::Value;
use uuid::Uuid;

use super::draft::{Collector, Line, name_of, quoted};
use super::sources::of_account;
use crate::metering::exact::Exact;

/// What was made of the file.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) url: String,
    /// As it stands in their file; it goes into a file of its own.
    pub(super) token: Option<SecretString>,
    pub(super) billing_timezone: String,
    pub(super) collectors: Vec<Collector>,
    /// What could not be taken over, and what to do about it.
    pub(super) left: Vec<String>,
}

/// Keys of an offering that are of no use to a reporting agent: ordering, membership, events.
const NOT_REPORTING: [&str; 18] = [
    "name",
    "waldur_api_url",
    "waldur_api_token",
    "waldur_offering_uuid",
    "backend_type",
    "backend_settings",
    "backend_components",
    "reporting_backend",
    "order_processing_backend",
    "membership_sync_backend",
    "username_management_backend",
    "resource_import_enabled",
    "username_reconciliation_enabled",
    "preserve_unmanaged_backend_users",
    "mqtt_enabled",
    "stomp_enabled",
    "stomp_membership_sync_enabled",
    "websocket_use_tls",
];

/// Keys of `backend_settings` that are taken over, or of no use to a reporting agent: accounts, their quality of service, homes.
const SETTINGS: [&str; 13] = [
    "cluster_name",
    "usage_tres_source",
    "slurm_bin_path",
    "default_account",
    "customer_prefix",
    "project_prefix",
    "allocation_prefix",
    "qos_default",
    "qos_downscaled",
    "qos_paused",
    "enable_user_homedir_account_creation",
    "default_homedir_umask",
    "homedir_umask",
];

/// The same of a component: what it is called, and what orders may ask for.
const COMPONENT: [&str; 14] = [
    "measured_unit",
    "unit_factor",
    "target_components",
    "accounting_type",
    "label",
    "type",
    "limit",
    "description",
    "min_value",
    "max_value",
    "max_available_limit",
    "default_limit",
    "limit_period",
    "article_code",
];

/// Reads their file; of several Waldurs in it, only that of the offering named `only` can be taken.
pub(super) fn read(text: &str, only: Option<&str>) -> Result<Taken, String> {
    let file: Value = serde_yaml::from_str(text).map_err(|error| format!("it is not valid YAML: {error}"))?;
    let offerings = file.get("offerings").and_then(Value::as_sequence).cloned().unwrap_or_default();
    if offerings.is_empty() {
        return Err("it has no `offerings`: is it a waldur-site-agent's configuration?".to_owned());
    }
    let called = |offering: &Value| text_of(offering, "name").unwrap_or_default();
    let chosen: Vec<&Value> =
        offerings.iter().filter(|offering| only.is_none_or(|only| called(offering) == only)).collect();
    let names =
        || offerings.iter().map(|offering| format!("`{}`", called(offering))).collect::<Vec<_>>().join(", ");
    let Some(first) = chosen.first() else {
        return Err(format!("it has no offering of that name; there are {}", names()));
    };
    let server = |offering: &Value| {
        let token = text_of(offering, "waldur_api_token").unwrap_or_default();
        (text_of(offering, "waldur_api_url").unwrap_or_default(), token)
    };
    if chosen.iter().any(|offering| server(offering) != server(first)) {
        return Err(format!(
            "its offerings have several Waldurs or tokens, and one agent reports to one with one: name the offering to take \
             over with --offering, and make a file (and a service) for each. There are {}",
            names()
        ));
    }
    let (url, token) = server(first);
    if url.is_empty() {
        return Err("its offerings have no `waldur_api_url`".to_owned());
    }
    let mut left = root_keys(&file);
    let mut taken = BTreeSet::new();
    let mut collectors = Vec::new();
    for offering in chosen {
        collectors.extend(self::offering(offering, &mut taken, &mut left));
    }
    if token.is_empty() {
        left.push(
            "OIDC client credentials: this agent needs a token; make one for the user and keep it in `token_file`".to_owned(),
        );
    }
    Ok(Taken {
        url,
        token: (!token.is_empty()).then(|| SecretString::from(token)),
        billing_timezone: text_of(&file, "timezone")
            .filter(|zone| !zone.is_empty())
            .unwrap_or_else(|| "UTC".to_owned()),
        collectors,
        left,
    })
}

fn root_keys(file: &Value) -> Vec<String> {
    let mut left = Vec::new();
    let keys = file.as_mapping().into_iter().flat_map(|keys| keys.iter());
    for (key, value) in keys {
        let set = !matches!(value, Value::Null) && value.as_str() != Some("");
        match key.as_str().unwrap_or_default() {
            "offerings" | "timezone" => {}
            "reporting_periods" => left.push(
                "reporting_periods: a month that is over is settled here; what comes late is dealt with as `submit: { late: \
                 ... }` says"
                    .to_owned(),
            ),
            "global_proxy" if set => left.push(
                "global_proxy: set HTTPS_PROXY in the service's environment instead (systemctl edit waldur-usage-agent)"
                    .to_owned(),
            ),
            other if set => left.push(format!("{other}: there is nothing like it here")),
            _ => {}
        }
    }
    left
}

fn offering(offering: &Value, taken: &mut BTreeSet<String>, left: &mut Vec<String>) -> Option<Collector> {
    let name = text_of(offering, "name").unwrap_or_default();
    let shown = if name.is_empty() { "an offering without a name" } else { &name };
    for (key, value) in offering.as_mapping().into_iter().flat_map(|keys| keys.iter()) {
        match key.as_str().unwrap_or_default() {
            "verify_ssl" if value.as_bool() == Some(false) => left.push(format!(
                "{shown}: verify_ssl: false; certificates are always checked here: name the authority in `waldur.ca_file`"
            )),
            "omit_anomalous_usage_components" => left.push(format!(
                "{shown}: omit_anomalous_usage_components; a total that falls is posted here, component by component, and told"
            )),
            "timezone" => left.push(format!(
                "{shown}: timezone: it stands beside `offerings:` there, and is `waldur.billing_timezone` here; look at what was \
                 written"
            )),
            "verify_ssl" | "oidc_token_url" | "oidc_client_id" | "oidc_client_secret" => {}
            key if NOT_REPORTING.contains(&key) || key.starts_with("stomp_") => {}
            other => left.push(format!("{shown}: {other}: there is nothing like it here")),
        }
    }
    let backend = text_of(offering, "reporting_backend").unwrap_or_default().to_lowercase();
    if backend.is_empty() {
        left.push(format!("{shown}: it has no `reporting_backend`, so it does not report today either"));
        return None;
    }
    if backend != "slurm" {
        left.push(format!("{shown}: reporting_backend {backend}: {}", instead_of(&backend)));
        return None;
    }
    let uuid = text_of(offering, "waldur_offering_uuid").unwrap_or_default();
    if uuid.parse::<Uuid>().is_err() {
        left.push(format!("{shown}: `{uuid}` is no UUID of an offering"));
        return None;
    }
    Some(slurm(offering, shown, &uuid, name_of(&name, taken), left))
}

/// Which way of ours reads what one of their other backends reads.
fn instead_of(backend: &str) -> &'static str {
    match backend {
        "harbor" => "begin with config/http-harbor.yaml (plugin http)",
        "nextcloud" => "begin with config/http-nextcloud.yaml (plugin http)",
        "litellm" | "litellm-usage" => "begin with config/http-litellm.yaml (plugin http)",
        "ceph_s3" | "ceph-s3" | "croit" => "begin with config/http-ceph-rgw.yaml (plugin http)",
        "okd" | "rancher" => "begin with config/prometheus.yaml (plugin prometheus)",
        "opennebula" | "azure" | "mup" | "waldur" | "envoy-usage" | "cscs-dwdi" | "cscs-dwdi-compute" => {
            "begin with docs/collectors/http.md (plugin http)"
        }
        _ => "there is no plugin for it; plugin exec runs a program of yours: docs/collectors/exec.md",
    }
}

fn slurm(offering: &Value, shown: &str, uuid: &str, name: String, left: &mut Vec<String>) -> Collector {
    let settings = offering.get("backend_settings").cloned().unwrap_or_default();
    unknown_keys(&settings, &SETTINGS, &format!("{shown}: backend_settings"), left);
    let setting = |key: &str| text_of(&settings, key).filter(|text| !text.is_empty());
    let mut keys = vec!["plugin: slurm".to_owned(), "schedule: \"*/10 * * * *\"".to_owned()];
    if let Some(cluster) = setting("cluster_name") {
        keys.push(format!("clusters: {}", quoted(&cluster)));
    }
    match setting("usage_tres_source").as_deref() {
        Some("allocated") => keys.push("tres: allocated".to_owned()),
        _ => {
            keys.push("# As before: what jobs asked for. `allocated` is what they were given:".to_owned());
            keys.push("# more where a job has whole nodes.".to_owned());
            keys.push("tres: requested".to_owned());
        }
    }
    if let Some(path) = setting("slurm_bin_path") {
        keys.push(format!("programs: {}", quoted(&path)));
    }
    keys.push("# An account of SLURM is the backend id of a resource; SLURM keeps".to_owned());
    keys.push("# accounts in small letters.".to_owned());
    keys.extend(of_account(uuid));
    keys.push("user: \"{user}\"".to_owned());
    let root = setting("default_account").unwrap_or_else(|| "root".to_owned());
    let ignored: BTreeSet<String> = ["root".to_owned(), root].into();
    keys.push(format!("ignore: [{}]", ignored.iter().map(|id| quoted(id)).collect::<Vec<_>>().join(", ")));
    let mut about =
        vec![format!("{shown}: what jobs used, from sacct. The numbers of waldur-site-agent, exact.")];
    let prefix = |key: &str| setting(key).map(|prefix| format!("{key} {prefix}"));
    let prefixes: Vec<_> =
        ["customer_prefix", "project_prefix", "allocation_prefix"].into_iter().filter_map(prefix).collect();
    if !prefixes.is_empty() {
        about.push(format!(
            "Resources' backend ids have their prefix already ({}); jobs of accounts that are no resource's are listed as \
             unmatched, and billed to nobody.",
            prefixes.join(", ")
        ));
    }
    Collector { about, name, keys, meters: meters(offering, shown, left) }
}

/// One meter a component, or one for each component that a component is made of.
fn meters(offering: &Value, shown: &str, left: &mut Vec<String>) -> Vec<Line> {
    let components: BTreeMap<String, Value> = offering
        .get("backend_components")
        .and_then(Value::as_mapping)
        .into_iter()
        .flat_map(|components| components.iter())
        .filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value.clone())))
        .collect();
    // With any mapping in it, their agent applies `unit_factor` to none of them, and rounds to whole numbers.
    let mapped = components.values().any(|value| !targets(value).is_empty());
    if mapped {
        left.push(format!(
            "{shown}: target_components: amounts are exact here; waldur-site-agent rounds them to whole numbers"
        ));
    }
    let mut lines = Vec::new();
    for (component, value) in &components {
        unknown_keys(value, &COMPONENT, &format!("{shown}: {component}"), left);
        if let Some(unit) = text_of(value, "measured_unit") {
            lines.push(Line::Comment(format!("{component}, in {unit}")));
        }
        let of = match (targets(value), mapped) {
            (targets, true) if targets.is_empty() => vec![(component.clone(), "1".to_owned())],
            (targets, true) => targets,
            _ => vec![(component.clone(), text_of(value, "unit_factor").unwrap_or_else(|| "1".to_owned()))],
        };
        let several = of.len() > 1;
        for (tres, divisor) in of {
            match meter(component, &tres, &divisor, several) {
                Ok(line) => lines.push(Line::Meter(line)),
                Err(why) => {
                    left.push(format!("{shown}: {component}: {why}"));
                    lines.push(Line::Comment(format!("{component} is left out: {why}")));
                }
            }
        }
    }
    lines
}

/// Tells of the keys of a mapping that are none of these.
fn unknown_keys(value: &Value, known: &[&str], shown: &str, left: &mut Vec<String>) {
    let keys = value.as_mapping().into_iter().flat_map(|keys| keys.keys());
    for key in keys.filter_map(Value::as_str).filter(|key| !known.contains(key)) {
        left.push(format!("{shown}: {key}: there is nothing like it here"));
    }
}

/// What of SLURM a component is made of, and what each is divided by.
fn targets(component: &Value) -> Vec<(String, String)> {
    let targets = component.get("target_components").and_then(Value::as_mapping);
    let each = targets.into_iter().flat_map(|targets| targets.iter());
    each.filter_map(|(name, value)| {
        Some((name.as_str()?.to_owned(), text_of(value, "factor").unwrap_or_else(|| "1".to_owned())))
    })
    .collect()
}

/// They count minutes of a TRES, memory in MiB, and divide by `divisor`; our readings are seconds and bytes.
fn meter(component: &str, tres: &str, divisor: &str, several: bool) -> Result<String, String> {
    let (reading, per_minute) = match tres {
        "cpu" => ("cpu_seconds".to_owned(), 60),
        "mem" => ("memory_byte_seconds".to_owned(), 60 * 1_048_576),
        "node" => ("node_seconds".to_owned(), 60),
        "billing" => ("billing_seconds".to_owned(), 60),
        "gres/gpu" | "gpu" => ("gpu_seconds".to_owned(), 60),
        other => match other.split_once('/') {
            Some(("gres", kind)) if kind.starts_with("gpu:") => (format!("{kind}_seconds"), 60),
            Some(("gres" | "license", _)) => (format!("{other}_seconds"), 60),
            _ => return Err(format!("SLURM has no `{other}` that is known here")),
        },
    };
    let wrong = || format!("its factor `{divisor}` can't be used");
    let divisor: Exact = plain_number(divisor).parse().map_err(|_| wrong())?;
    let whole = divisor * Exact::from(per_minute);
    let factor = Exact::one().checked_div(&whole).filter(|factor| !factor.is_negative()).ok_or_else(wrong)?;
    let factor = crate::cli::units::written(&factor);
    let reading = quoted(&reading);
    Ok(match several {
        true => format!(
            "{}: {{ component: {}, reading: {reading}, factor: {factor} }}",
            quoted(&format!("{component}-{}", tres.replace(['/', ':'], "-"))),
            quoted(component)
        ),
        false => format!("{}: {{ reading: {reading}, factor: {factor} }}", quoted(component)),
    })
}

/// `61440.0` is 61440.
fn plain_number(text: &str) -> &str {
    text.strip_suffix(".0").unwrap_or(text)
}

/// A value as text, as it is written.
fn text_of(value: &Value, key: &str) -> Option<String> {
    match value.get(key)? {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
