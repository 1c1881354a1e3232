//! What stands outside the collectors in the configuration file: the server, the ledger, when to submit, where to
//! listen. And where the file itself is found.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::digest::sha256;
use super::duration::parse_duration;
use super::hosts::{self, QueueSettings};
use super::page::PageSettings;
use super::place::{Database, Place};
use super::schedule::Schedule;
use super::section::{Problems, Section};
use super::waldur::{WaldurSettings, read_zone};
use super::yaml;

/// Where the file is looked for when nobody says.
pub const DEFAULT_PATH: &str = "/etc/waldur-usage-agent/agent.yaml";
const DEFAULT_LEDGER: &str = "/var/lib/waldur-usage-agent/ledger.db";
const DEFAULT_SUBMIT: &str = "*/15 * * * *";
const DEFAULT_RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);
const SHORTEST_RETENTION: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What to do where Waldur holds a number that this agent did not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Nothing, until a person has decided.
    #[default]
    Hold,
    /// It is replaced by the ledger's.
    Overwrite,
    /// It becomes the opening balance, once a month, as long as this agent has reported nothing of it.
    Adopt,
}

/// What to do with usage that is left over when its month is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Late {
    /// It is stranded: visible, counted, not billed.
    #[default]
    Hold,
    /// It is reported into its own month, where the server and the token allow that.
    Backfill,
    /// It is added to the month that runs, and the bill says so.
    CarryForward,
}

/// Whether amounts are reported at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Report {
    #[default]
    Live,
    /// They are only compared with what Waldur holds: nothing is ever posted.
    Shadow,
}

/// Everything outside the collectors.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server; an agent of a shared ledger may do without, and only collects.
    pub waldur: Option<WaldurSettings>,
    /// The zone whose calendar months the server bills by.
    pub billing_timezone: TimeZone,
    pub ledger: Place,
    /// The agent's name, where the file says it.
    pub agent: Option<String>,
    /// Of an agent of a shared ledger.
    pub queue: QueueSettings,
    /// Whether it reports to the server.
    pub submits: bool,
    pub submit: Schedule,
    pub on_conflict: OnConflict,
    pub late: Late,
    pub report: Report,
    /// Where health and metrics are served.
    pub listen: Option<SocketAddr>,
    /// Whether metrics have each resource's amounts.
    pub metrics_amounts: bool,
    /// Where the page for people is served.
    pub page: Option<PageSettings>,
    /// How long after a month's end its readings are kept; then only what they added to the month.
    pub retention: SignedDuration,
    /// The file that says so.
    pub file: Option<ConfigFile>,
}

/// A configuration file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// SHA-256 of its text.
    pub digest: String,
}

impl ConfigFile {
    fn of(path: &Path, text: &str) -> ConfigFile {
        let digest = sha256(text.as_bytes());
        ConfigFile { path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), digest }
    }
}

impl Settings {
    /// Where Waldur is, of an agent that knows.
    pub fn api(&self) -> Option<&reqwest::Url> {
        self.waldur.as_ref().map(|waldur| &waldur.api)
    }

    /// What the agent is called in a shared ledger. The error is for the operator.
    pub fn agent_name(&self) -> Result<String, String> {
        hosts::agent_name(self.agent.as_deref())
    }

    /// Where collectors' runs are recorded first: the ledger, or on a host of a shared one a file of its own.
    pub fn first_place(&self) -> Place {
        first_place(&self.ledger, &self.queue)
    }

    /// The environment variable that may hold the token.
    pub fn token_env(&self) -> Option<&str> {
        self.waldur.as_ref()?.token.env_name()
    }
}

/// A file that was read: what it says, and what is wrong with it.
#[derive(Debug)]
pub struct Loaded {
    /// What the operator would call it.
    pub origin: String,
    pub settings: Option<Settings>,
    /// Where collectors' runs are recorded first, also where something else in the file is wrong.
    pub first_place: Option<Place>,
    /// The collectors' sections, for the rooms that understand them.
    pub collectors: Vec<Section>,
    pub problems: Problems,
}

impl Loaded {
    /// Reads the text of a configuration file. It may be JSON too, which is YAML.
    pub fn parse(origin: &str, text: &str) -> Loaded {
        let (mut root, problems) = Section::parse(text);
        if root.is_broken() {
            // What is missing in what could not be read is not worth a word.
            let first_place = place_in(text);
            let origin = origin.to_owned();
            return Loaded { origin, settings: None, first_place, collectors: Vec::new(), problems };
        }
        let collectors = root.named_sections("collectors");
        if collectors.is_empty() && problems.list().is_empty() && !root.is_misspelt("collectors") {
            root.problem("", "`collectors` is missing or empty: without one nothing is measured");
        }
        let names: Vec<&str> = collectors.iter().map(Section::name).collect();
        for collector in &collectors {
            if let Some(old) = collector.peek("continues").filter(|old| names.contains(&old.as_str())) {
                let message =
                    format!("the collector `{old}` is still there, so that nothing can go on in its place");
                collector.problem("continues", message);
            }
        }
        let (settings, first_place) = settings(&mut root);
        root.finish();
        Loaded { origin: origin.to_owned(), settings, first_place, collectors, problems }
    }

    /// Reads the file, or, where there is none at the default place, what the environment says.
    pub fn find(path: Option<&Path>) -> Result<Loaded, String> {
        let named = path.map(Path::to_owned);
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        match std::fs::read(&path) {
            Ok(bytes) => match yaml::text_of(bytes) {
                Ok(text) => {
                    let mut loaded = Loaded::parse(&path.display().to_string(), &text);
                    if let Some(settings) = &mut loaded.settings {
                        settings.file = Some(ConfigFile::of(&path, &text));
                    }
                    Ok(loaded)
                }
                Err(why) => Err(format!("the configuration file {} {why}", path.display())),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                match from_environment(|name| std::env::var(name).ok()) {
                    Some(text) => Ok(Loaded::parse("the environment", &text)),
                    None => Err(format!(
                        "there is no configuration file at {DEFAULT_PATH}. Name one with --config FILE, or set \
                         WALDUR_URL, WALDUR_RESOURCE and WALDUR_METERS in the environment"
                    )),
                }
            }
            Err(error) => Err(format!("can't read the configuration file {}: {error}", path.display())),
        }
    }
}

/// The ledger of a file that is no YAML, if its line can be read.
fn place_in(text: &str) -> Option<Place> {
    let line = text.lines().find_map(|line| line.strip_prefix("ledger:"))?;
    let place = Place::parse_for(&serde_yaml::from_str::<String>(line).ok()?, None).ok()?;
    Some(place).filter(|place| place.file().is_some())
}

/// What the file says, if all of it that is needed is right, and where runs are recorded first, if that is. Everything is read
/// whatever is wrong before it: what nobody reads would be an unknown key.
fn settings(root: &mut Section) -> (Option<Settings>, Option<Place>) {
    let agent = root.parse_with("agent", hosts::read_name);
    // A host's role is called as its agent is.
    let role = hosts::agent_name(agent.as_deref()).ok();
    let read = ledger(root, role.as_deref());
    let is_known = read.is_some() || !root.has("ledger");
    let ledger = read.unwrap_or_else(|| Place::File(DEFAULT_LEDGER.into()));
    let is_shared = ledger.file().is_none();
    let (waldur, zone) = match root.section("waldur") {
        Some(mut section) if is_shared && !section.has("url") => {
            let zone = section.parse_with("billing_timezone", read_zone).unwrap_or(TimeZone::UTC);
            section.finish();
            (Some(None), zone)
        }
        Some(mut section) => {
            let settings = WaldurSettings::from_section(&mut section);
            section.finish();
            let zone = settings.as_ref().map(|settings| settings.billing_timezone.clone());
            (settings.map(Some), zone.unwrap_or(TimeZone::UTC))
        }
        None if is_shared => (Some(None), TimeZone::UTC),
        None => {
            if !root.has("waldur") && !root.is_misspelt("waldur") {
                root.problem("", "`waldur` is missing: say at least `waldur: { url: https://... }`");
            }
            (None, TimeZone::UTC)
        }
    };
    let queue = root.section("queue").map(|mut section| {
        let queue = QueueSettings::from_section(&mut section);
        section.finish();
        queue
    });
    let listen = root.parse_with("listen", |text| {
        text.parse::<SocketAddr>().map_err(|_| format!("`{text}` is not an address such as 127.0.0.1:9464"))
    });
    let metrics_amounts = root.section("metrics").and_then(|mut section| {
        let amounts = section.flag("amounts");
        section.finish();
        amounts
    });
    let page = root.section("page").and_then(|mut section| {
        let page = PageSettings::from_section(&mut section);
        section.finish();
        page
    });
    let retention = root.parse_with("retention", |text| match parse_duration(text)? {
        short if short < SHORTEST_RETENTION => Err("must be at least 7d: readings come late".to_owned()),
        retention => Ok(retention),
    });
    let billing_timezone = zone.clone();
    let mut schedule = Schedule::parse(DEFAULT_SUBMIT, zone.clone()).ok();
    let (mut on_conflict, mut late, mut report) = (None, None, None);
    let submits = matches!(waldur, Some(Some(_))) && (!is_shared || root.has("submit"));
    if let Some(mut submit) = root.section("submit") {
        let zone = time_zone(&mut submit).unwrap_or(zone);
        if submit.has("schedule") {
            schedule = submit.parse_with("schedule", |text| Schedule::parse(text, zone));
        }
        schedule = schedule.map(|schedule| schedule.with_jitter(&mut submit, "submit"));
        on_conflict = submit.parse_with("on_conflict", |text| match text {
            "hold" => Ok(OnConflict::Hold),
            "overwrite" => Ok(OnConflict::Overwrite),
            "adopt" => Ok(OnConflict::Adopt),
            other => Err(format!("`{other}` is no way to treat a conflict; known: hold, overwrite, adopt")),
        });
        late = submit.parse_with("late", |text| match text {
            "hold" => Ok(Late::Hold),
            "backfill" => Ok(Late::Backfill),
            "carry_forward" => Ok(Late::CarryForward),
            other => {
                Err(format!("`{other}` is no way to treat late usage; known: hold, backfill, carry_forward"))
            }
        });
        report = submit.parse_with("report", |text| match text {
            "live" => Ok(Report::Live),
            "shadow" => Ok(Report::Shadow),
            other => Err(format!("`{other}` is no way to report; known: live, shadow")),
        });
        submit.finish();
    }
    let queue = queue.unwrap_or_default();
    let first_place = first_place(&ledger, &queue);
    let settings = waldur.zip(schedule).map(|(waldur, submit)| Settings {
        waldur,
        billing_timezone,
        ledger,
        agent,
        queue,
        submits,
        submit,
        on_conflict: on_conflict.unwrap_or_default(),
        late: late.unwrap_or_default(),
        report: report.unwrap_or_default(),
        listen,
        metrics_amounts: metrics_amounts.unwrap_or(false),
        page,
        retention: retention.unwrap_or(DEFAULT_RETENTION),
        file: None,
    });
    (settings, is_known.then_some(first_place))
}

/// Where collectors' runs are recorded first.
fn first_place(ledger: &Place, queue: &QueueSettings) -> Place {
    match ledger {
        Place::File(path) => Place::File(path.clone()),
        Place::Database(_) => Place::File(queue.file.clone()),
    }
}

/// Where the ledger is, and for a database where its password is kept.
fn ledger(root: &mut Section, role: Option<&str>) -> Option<Place> {
    let place = root.parse_with("ledger", |text| Place::parse_for(text, role));
    let password_file = root.parse_with("ledger_password_file", |text| match &place {
        Some(Place::Database(_)) if Path::new(text).is_absolute() => Ok(PathBuf::from(text)),
        Some(Place::Database(_)) => Err(format!("`{text}` must be an absolute path")),
        _ => Err("only a ledger at postgresql://... has a password".to_owned()),
    });
    match place {
        Some(Place::Database(database)) => Some(Place::Database(Database { password_file, ..database })),
        place => place,
    }
}

/// The time zone of a schedule, from the key `timezone` beside it.
pub fn time_zone(section: &mut Section) -> Option<TimeZone> {
    section.parse_with("timezone", |text| {
        TimeZone::get(text).map_err(|_| format!("`{text}` is not a time zone such as UTC or Europe/Tallinn"))
    })
}

/// The few keys of a sidecar, from the environment, as the file that they stand for. `None` without WALDUR_URL.
fn from_environment(get: impl Fn(&str) -> Option<String>) -> Option<String> {
    let url = get("WALDUR_URL")?;
    // JSON strings are YAML strings: whatever stands in a variable stays one value.
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let mut file = format!("waldur:\n  url: {}\n", quoted(&url));
    for (name, key) in [
        ("WALDUR_TOKEN_FILE", "token_file"),
        ("WALDUR_BILLING_TIMEZONE", "billing_timezone"),
        ("WALDUR_ALLOW_HTTP", "allow_http"),
        ("WALDUR_CA_FILE", "ca_file"),
    ] {
        if let Some(value) = get(name) {
            let value = if key == "allow_http" { value } else { quoted(&value) };
            file += &format!("  {key}: {value}\n");
        }
    }
    for (name, key) in [
        ("WALDUR_LEDGER", "ledger"),
        ("WALDUR_LEDGER_PASSWORD_FILE", "ledger_password_file"),
        (hosts::NAME, "agent"),
        ("WALDUR_LISTEN", "listen"),
    ] {
        if let Some(value) = get(name) {
            file += &format!("{key}: {}\n", quoted(&value));
        }
    }
    if let Some(value) = get("WALDUR_SUBMIT_SCHEDULE") {
        file += &format!("submit: {{ schedule: {} }}\n", quoted(&value));
    }
    let metrics = get("WALDUR_METRICS_URL");
    // A pod's group, by its uid, as the kubelet names it with either of its cgroup drivers.
    let slices = match (get("WALDUR_SLICES"), get("WALDUR_POD_UID")) {
        (Some(glob), _) => quoted(&glob),
        (None, Some(uid)) => {
            let uid: String = uid.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            format!(r#"["**/*pod{uid}", "**/*pod{}.slice"]"#, uid.replace('-', "_"))
        }
        (None, None) => "self".to_owned(),
    };
    match &metrics {
        // What the application counts itself, in place of what its container takes.
        Some(url) => {
            file +=
                &format!("collectors:\n  application:\n    plugin: openmetrics\n    url: {}\n", quoted(url));
            for (name, key) in [("WALDUR_METRICS", "metrics"), ("WALDUR_METRICS_EPOCH", "epoch")] {
                if let Some(value) = get(name) {
                    file += &format!("    {key}: {value}\n");
                }
            }
        }
        None => file += &format!("collectors:\n  container:\n    plugin: cgroup\n    slices: {slices}\n"),
    }
    let schedule = get("WALDUR_SCHEDULE").unwrap_or_else(|| "every 1m".to_owned());
    file += &format!("    schedule: {}\n", quoted(&schedule));
    if let (Some(value), None) = (get("WALDUR_CGROUP_ROOT"), &metrics) {
        file += &format!("    root: {}\n", quoted(&value));
    }
    if let Some(value) = get("WALDUR_RESOURCE") {
        file += &format!("    resource: {}\n", quoted(&value));
    }
    if let Some(value) = get("WALDUR_USER") {
        file += &format!("    user: {}\n", quoted(&value));
    }
    if let Some(value) = get("WALDUR_METERS") {
        file += &format!("    meters: {value}\n");
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_is_a_mistake_and_the_ledger_is_known_all_the_same() {
        let rest =
            "submit: { late: hold }\nlisten: 127.0.0.1:0\nledger: /data/ledger.db\ncollectors: { a: {} }\n";
        let of = |first: &str| {
            let loaded = Loaded::parse("f", &format!("{first}{rest}"));
            let mistakes: Vec<String> = loaded.problems.list().iter().map(ToString::to_string).collect();
            (mistakes, loaded.first_place.map(|place| place.to_string()))
        };
        let (mistakes, place) = of("waldur: { url: nowhere, token_file: /t }\n");
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].starts_with("line 1: waldur.url: "), "{mistakes:?}");
        assert_eq!(place.as_deref(), Some("/data/ledger.db"));
        let (mistakes, place) = of("waldr: { url: https://w.example.com, token_file: /t }\n");
        assert_eq!(mistakes, ["line 1: waldr: unknown key `waldr`; did you mean `waldur`?"]);
        assert_eq!(place.as_deref(), Some("/data/ledger.db"));
        let (mistakes, place) = of("waldur: { url: https://w.example.com\n");
        assert_eq!((mistakes.len(), place.as_deref()), (1, Some("/data/ledger.db")), "{mistakes:?}");
        let (mistakes, _) = of("");
        assert_eq!(mistakes, ["`waldur` is missing: say at least `waldur: { url: https://... }`"]);
    }

    #[test]
    fn a_sidecar_needs_no_file() {
        let variables = [
            ("WALDUR_URL", "https://waldur.example.com"),
            ("WALDUR_RESOURCE", "5e2f0000-0000-4000-8000-000000000003"),
            ("WALDUR_METERS", "{ cpu_hours: { reading: cpu_seconds, factor: 1/3600 } }"),
            ("WALDUR_LEDGER", "/data/ledger.db"),
        ];
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let loaded = Loaded::parse("the environment", &from_environment(get).unwrap());
        assert_eq!(loaded.problems.list(), []);
        assert_eq!(loaded.settings.unwrap().ledger, Place::from(Path::new("/data/ledger.db")));
        assert_eq!(loaded.collectors.len(), 1);
        let metrics = [
            ("WALDUR_METRICS_URL", "http://127.0.0.1:8080/metrics?a=b: c"),
            ("WALDUR_METRICS", "[app_cpu_seconds_total, app_*]"),
            ("WALDUR_METRICS_EPOCH", "process_start_time_seconds"),
            ("WALDUR_USER", "{user}"),
        ];
        let get = |name: &str| {
            variables.iter().chain(&metrics).find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        };
        let mut loaded = Loaded::parse("the environment", &from_environment(get).unwrap());
        assert_eq!(loaded.problems.list(), []);
        let mut application = loaded.collectors.pop().unwrap();
        assert_eq!(application.text("plugin").as_deref(), Some("openmetrics"));
        assert_eq!(application.text("url").as_deref(), Some("http://127.0.0.1:8080/metrics?a=b: c"));
        assert_eq!(application.texts("metrics").unwrap(), ["app_cpu_seconds_total", "app_*"]);
        assert_eq!(application.text("epoch").as_deref(), Some("process_start_time_seconds"));
        assert_eq!(application.text("user").as_deref(), Some("{user}"));
    }
}
