//! What an agent of a shared ledger needs of its own host: its name, and the file in which its runs wait.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use super::duration::parse_duration;
use super::section::Section;

const DEFAULT_FILE: &str = "/var/lib/waldur-usage-agent/queue.db";
const DEFAULT_JITTER: SignedDuration = SignedDuration::from_secs(10);
const DEFAULT_KEEP: SignedDuration = SignedDuration::from_hours(7 * 24);
const LONGEST_JITTER: SignedDuration = SignedDuration::from_secs(30);
const SHORTEST_KEEP: SignedDuration = SignedDuration::from_hours(1);

/// The longest name: PostgreSQL's roles have no longer ones.
const LONGEST: usize = 63;

/// The variable that names the agent where the file does not: in a container, its node.
pub(super) const NAME: &str = "WALDUR_AGENT";

/// Where runs wait until the shared ledger has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSettings {
    pub file: PathBuf,
    /// What has been read is sent on within this, at a moment that is each host's own.
    pub jitter: SignedDuration,
    /// How long after it was read it is kept.
    pub keep: SignedDuration,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings { file: DEFAULT_FILE.into(), jitter: DEFAULT_JITTER, keep: DEFAULT_KEEP }
    }
}

impl QueueSettings {
    /// Takes the keys of the section `queue`.
    pub(super) fn from_section(section: &mut Section) -> QueueSettings {
        let usual = QueueSettings::default();
        let file = section.parse_with("file", |text| match Path::new(text).is_absolute() {
            true => Ok(PathBuf::from(text)),
            false => Err(format!("`{text}` must be an absolute path")),
        });
        let jitter = section.parse_with("jitter", |text| match parse_duration(text) {
            Err(_) if text == "none" => Ok(SignedDuration::ZERO),
            Ok(long) if long > LONGEST_JITTER => {
                Err("must be at most 30s: a month's end waits little longer".to_owned())
            }
            jitter => jitter,
        });
        let keep = section.parse_with("keep", |text| match parse_duration(text)? {
            short if short < SHORTEST_KEEP => {
                Err("must be at least 1h: the database may lose what it took lately".to_owned())
            }
            keep => Ok(keep),
        });
        QueueSettings {
            file: file.unwrap_or(usual.file),
            jitter: jitter.unwrap_or(usual.jitter),
            keep: keep.unwrap_or(usual.keep),
        }
    }
}

/// The key `agent`.
pub(super) fn read_name(text: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text {
        "" => Err("must not be empty".to_owned()),
        long if long.len() > LONGEST => Err(format!("must have at most {LONGEST} characters")),
        name if name.chars().all(fine) => Ok(name.to_owned()),
        _ => Err("must be made of letters, digits, dots, dashes and underscores".to_owned()),
    }
}

/// What an agent is called: as it is configured, as the environment says, or as its host is.
pub(super) fn agent_name(configured: Option<&str>) -> Result<String, String> {
    if let Some(name) = configured {
        return Ok(name.to_owned());
    }
    if let Ok(name) = std::env::var(NAME) {
        return read_name(&name).map_err(|why| format!("{NAME} {why}"));
    }
    if is_in_container() {
        return Err(format!(
            "`agent` is missing: in a container the host's name is another each time, and the agent's name is a part of what \
             it measures. Name it after the node, with `agent:` or {NAME}"
        ));
    }
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let host = host.ok_or("`agent` is missing, and the host has no name to take instead")?;
    read_name(&host).map_err(|why| format!("`agent` is missing, and the host's name, {host}, {why}"))
}

fn is_in_container() -> bool {
    let marks = ["/.dockerenv", "/run/.containerenv"];
    marks.iter().any(|mark| Path::new(mark).exists())
        || ["container", "KUBERNETES_SERVICE_HOST"].iter().any(|name| std::env::var_os(name).is_some())
}
