//! Reads what jobs used from SLURM's accounting database, through `sacct`: one call for all accounts and users of a
//! window, taken line by line as it comes.
//!
//! It takes whole records, never ones cut to the window (`--truncate`): a reading with the same identity replaces the
//! one before, so a cut one would take usage away. It reads no free text, so that no job's name can pass for a column.
//! It only asks; it changes nothing in SLURM.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::process::{Program, Remedies};
use super::{Batch, Collector, CollectorError, Offered, Plugin, Request, Running, blocking};
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::metering::reading::Kind;
use accounts::Accounts;
use checkpoint::Checkpoint;
use sacct::{Reader, Wishes};

mod accounts;
mod checkpoint;
mod sacct;
mod tres;

pub const PLUGIN: Plugin = Plugin { name: "slurm", about: "what SLURM jobs used, as sacct tells", build };

const OFFERS: &[Offered] = &[
    Offered { name: "cpu_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "memory_byte_seconds", kind: Kind::Delta, unit: "B*s" },
    Offered { name: "node_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "gpu_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "billing_seconds", kind: Kind::Delta, unit: "s" },
    Offered { name: "elapsed_seconds", kind: Kind::Delta, unit: "s" },
];

const LABELS: &[&str] = &["account", "user", "partition", "qos", "cluster", "state", "reservation"];
const LABELS_WITH_TOP: &[&str] =
    &["account", "user", "partition", "qos", "cluster", "state", "reservation", "top_account"];

const DEFAULT_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
const DEFAULT_OVERLAP: SignedDuration = SignedDuration::from_hours(3 * 24);
/// It is not held in memory; this only bounds a program gone wild. Some twenty million jobs.
const MAX_OUTPUT: u64 = 4 << 30;
/// What sacctmgr prints is held in memory.
const MAX_LISTING: u64 = 64 << 20;
/// Jobs asked for by number in one call.
const JOBS_A_CALL: usize = 1_000;
/// Variables that would make sacct answer another question.
const MISLEADING: [&str; 4] = ["SACCT_FEDERATION", "SACCT_FORMAT", "SACCT_LOCAL", "SLURM_CLUSTERS"];

const REMEDIES: Remedies = Remedies {
    output: "read less at once: a shorter `overlap`, a later `since`",
    time: "see whether slurmdbd answers (sacctmgr show configuration); for much history raise `timeout`",
};

/// A configured collector.
#[derive(Debug)]
struct Slurm {
    /// Where sacct and sacctmgr are; else they are looked for in PATH.
    programs: Option<PathBuf>,
    slurm_conf: Option<PathBuf>,
    /// Empty: the cluster of its own slurm.conf.
    clusters: Vec<String>,
    wishes: Arc<Wishes>,
    overlap: SignedDuration,
    timeout: SignedDuration,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        if path.is_absolute() { Ok(path) } else { Err(format!("`{text}` must be an absolute path")) }
    };
    let programs = section.parse_with("programs", absolute);
    let slurm_conf = section.parse_with("slurm_conf", absolute);
    let clusters = section.texts("clusters").unwrap_or_default();
    if let Some(odd) = clusters.iter().find(|name| !is_name(name)) {
        section.problem("clusters", format!("`{odd}` is not the name of a cluster"));
    }
    let requested = section.parse_with("tres", |text| match text {
        "allocated" => Ok(false),
        "requested" => Ok(true),
        other => Err(format!("`{other}` is neither `allocated` nor `requested`")),
    });
    let account_level = section.parse_with("account_level", |text| match text.parse::<usize>() {
        Ok(level @ 1..=50) => Ok(level),
        _ => Err(format!("`{text}` is no level: 1 is an account right below root, 2 one below that")),
    });
    let lower_case = section.flag("lower_case").unwrap_or(false);
    let overlap = section.parse_with("overlap", parse_duration);
    let timeout = section.parse_with("timeout", parse_duration);
    // Only what a meter wants is made: a month of a large site has millions of readings.
    let wanted: BTreeSet<String> =
        section.named_sections("meters").iter_mut().filter_map(|meter| meter.text("reading")).collect();
    Some(Box::new(Slurm {
        programs,
        slurm_conf,
        clusters,
        wishes: Arc::new(Wishes { wanted, requested: requested.unwrap_or(false), account_level, lower_case }),
        overlap: overlap.unwrap_or(DEFAULT_OVERLAP),
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
    }))
}

/// Whether it can stand in an argument list that commas divide.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

impl Slurm {
    async fn run(&self, request: Request) -> Result<Batch, CollectorError> {
        let scope = self.scope();
        let before = request.checkpoint.as_deref().and_then(|text| Checkpoint::parse(text, &scope));
        let (from, start) = match &before {
            Some(Checkpoint { from, read_to, .. }) => {
                // One that is wanted from earlier than before is read from there.
                let earlier = from.is_some_and(|from| request.since < from);
                let from = if earlier { Some(request.since) } else { *from };
                let again = read_to.saturating_sub(self.overlap).unwrap_or(request.since);
                let start = if earlier { request.since } else { again };
                (from, from.map_or(start, |from| start.max(from)))
            }
            None => (Some(request.since), request.since),
        };
        if start >= request.now {
            let note = format!("nothing is read before {start}, which lies ahead");
            return Ok(Batch { notes: vec![note], ..Batch::default() });
        }
        let call = Call { of: self, withhold: withheld(&request) };
        let mut notes = Vec::new();
        if before.is_none() {
            notes.extend(call.private_data().await);
        }
        if !self.clusters.is_empty() {
            call.know_clusters().await?;
        }
        let accounts = match self.wishes.account_level {
            Some(_) => call.accounts().await?,
            None => Accounts::default(),
        };
        let open = before.map(|before| before.running).unwrap_or_default();
        let mut reader = Reader::new(self.wishes.clone(), accounts, request.now, open);
        reader.batch.notes = notes;
        let window = [format!("--starttime={}", utc(start)), format!("--endtime={}", utc(request.now))];
        let own = [String::new()];
        let clusters = if self.clusters.is_empty() { own.as_slice() } else { self.clusters.as_slice() };
        for cluster in clusters {
            reader = call.sacct(cluster, &window, reader).await?;
        }
        reader = call.unseen(reader).await?;
        let (mut batch, running) = reader.done();
        batch.checkpoint = Some(Checkpoint { from, read_to: request.now, running }.text(&scope));
        Ok(batch)
    }
}

/// The calls of one run.
struct Call<'a> {
    of: &'a Slurm,
    withhold: Vec<String>,
}

fn withheld(request: &Request) -> Vec<String> {
    request.withhold.iter().cloned().chain(MISLEADING.map(str::to_owned)).collect()
}

/// An instant as sacct takes it, with TZ=UTC.
fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

impl Call<'_> {
    /// One call of sacct, its answer taken as it comes.
    async fn sacct(&self, cluster: &str, which: &[String], reader: Reader) -> Result<Reader, CollectorError> {
        let mut argv = vec![self.path("sacct")];
        argv.extend(
            ["--parsable2", "--noconvert", "--duplicates", "--allocations", "--allusers"].map(str::to_owned),
        );
        argv.push(format!("--format={}", self.of.wishes.columns().join(",")));
        argv.push(match cluster {
            "" => "--local".to_owned(),
            cluster => format!("--clusters={cluster}"),
        });
        argv.extend_from_slice(which);
        let whose = match cluster {
            "" => String::new(),
            cluster => format!(" for the cluster {cluster}"),
        };
        let failed = |why: String| CollectorError(format!("`{}`{whose}: {why}", argv[0]));
        let program = self.program(&argv, MAX_OUTPUT);
        let (sink, mut chunks) = mpsc::channel::<Vec<u8>>(16);
        let reading = blocking::run(move |stop| {
            let mut reader = reader;
            reader.begin();
            while let Some(chunk) = chunks.blocking_recv() {
                stop.check()?;
                reader.take(&chunk).map_err(CollectorError)?;
            }
            Ok(reader)
        });
        let (streamed, reader) = tokio::join!(program.stream(sink), reading);
        // Where the reader gave up first, sacct was ended for that.
        let mut reader = reader.map_err(|error| failed(error.0))?;
        let streamed = streamed.map_err(failed)?;
        reader.end().map_err(failed)?;
        reader.batch.notes.extend(streamed.notes);
        if !streamed.stderr.is_empty() {
            reader.batch.notes.push(format!("sacct says: {}", streamed.stderr));
        }
        Ok(reader)
    }

    /// Asks again, by their numbers, for jobs that ran at the last look and that the window does not list: they ended
    /// before it, as was found out later (a runaway job that was repaired, a cluster that was cut off for days).
    async fn unseen(&self, mut reader: Reader) -> Result<Reader, CollectorError> {
        let mut by_cluster: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in &reader.open {
            let mut parts = id.split('/');
            if let (Some(cluster), Some(number)) = (parts.next(), parts.next()) {
                by_cluster.entry(cluster.to_owned()).or_default().push(number.to_owned());
            }
        }
        reader.only_open = true;
        for (cluster, mut numbers) in by_cluster {
            numbers.sort_unstable();
            numbers.dedup();
            let cluster = if self.of.clusters.is_empty() { "" } else { &cluster };
            for some in numbers.chunks(JOBS_A_CALL) {
                let which =
                    [format!("--jobs={}", some.join(",")), "--starttime=2010-01-01T00:00:00".to_owned()];
                reader = self.sacct(cluster, &which, reader).await?;
            }
        }
        let mut gone: Vec<String> = reader.open.drain().collect();
        gone.sort_unstable();
        for id in gone {
            let reason = "it ran at the last look, and slurmdbd no longer knows it; what was counted until then stands";
            reader.batch.quarantine(&id, reason);
        }
        Ok(reader)
    }

    /// sacct answers for a cluster that it does not know as for one without jobs.
    async fn know_clusters(&self) -> Result<(), CollectorError> {
        let known = self.sacctmgr(&["list", "cluster", "format=cluster"]).await?;
        let known: Vec<&str> = known.lines().map(str::trim).filter(|name| !name.is_empty()).collect();
        let unknown: Vec<&String> =
            self.of.clusters.iter().filter(|name| !known.contains(&name.as_str())).collect();
        match unknown.first() {
            None => Ok(()),
            Some(name) => Err(CollectorError(format!(
                "slurmdbd has no cluster `{name}`; it has {}. Correct `clusters`",
                known.join(", ")
            ))),
        }
    }

    /// The tree of accounts. What is deleted still has jobs; what is there now goes before what was.
    async fn accounts(&self) -> Result<Accounts, CollectorError> {
        let format = "format=cluster,account,parentname,user";
        let mut accounts = Accounts::default();
        accounts.add(&self.sacctmgr(&["show", "assoc", "withdeleted", format]).await?);
        accounts.add(&self.sacctmgr(&["show", "assoc", format]).await?);
        Ok(accounts)
    }

    /// Whether slurmdbd may hide others' jobs from the agent: nothing in sacct's answer would tell. What can't be found
    /// out is no trouble of the run.
    async fn private_data(&self) -> Option<String> {
        let own = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(own).ok().flatten().map(|user| user.name)?;
        let shown = self.sacctmgr(&["show", "configuration"]).await.ok()?;
        // Of slurm.conf and of slurmdbd.conf; the latter is what sacct is under.
        let private = shown.lines().rev().find_map(|line| line.trim_start().strip_prefix("PrivateData"))?;
        let private = private.trim_start_matches([' ', '=']).trim();
        if own.is_root() || !private.split(',').any(|what| ["jobs", "all"].contains(&what.trim())) {
            return None;
        }
        let level = self.sacctmgr(&["show", "user", &user, "format=adminlevel"]).await.ok()?;
        match level.trim().to_lowercase().as_str() {
            "" | "none" => Some(format!(
                "slurmdbd keeps jobs private (PrivateData={private}), and the user {user} is no operator: jobs of others \
                 may be hidden, and nothing tells which. Run: sacctmgr modify user {user} set adminlevel=operator"
            )),
            _ => None,
        }
    }

    async fn sacctmgr(&self, arguments: &[&str]) -> Result<String, CollectorError> {
        let mut argv = vec![self.path("sacctmgr"), "--noheader".to_owned(), "--parsable2".to_owned()];
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let failed = |why: String| CollectorError(format!("`{}`: {why}", argv[0]));
        let output = self.program(&argv, MAX_LISTING).run().await.map_err(failed)?;
        String::from_utf8(output.stdout).map_err(|_| failed("it printed what is not UTF-8".to_owned()))
    }

    fn path(&self, name: &str) -> String {
        match &self.of.programs {
            Some(directory) => directory.join(name).display().to_string(),
            None => name.to_owned(),
        }
    }

    fn program<'b>(&'b self, argv: &'b [String], max_output: u64) -> Program<'b> {
        let mut env = vec![
            // Else times are local ones, without their offset.
            ("TZ".to_owned(), "UTC".to_owned()),
            ("SLURM_TIME_FORMAT".to_owned(), "%s".to_owned()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
        ];
        if let Some(file) = &self.of.slurm_conf {
            env.push(("SLURM_CONF".to_owned(), file.display().to_string()));
        }
        Program {
            argv,
            env,
            withhold: &self.withhold,
            time_limit: self.of.timeout,
            max_output,
            remedies: REMEDIES,
        }
    }
}

impl Collector for Slurm {
    fn offers(&self) -> &[Offered] {
        OFFERS
    }

    fn kind_of(&self, reading: &str) -> Option<Kind> {
        let fixed = OFFERS.iter().any(|offered| offered.name == reading);
        (fixed || tres::is_reading(reading)).then_some(Kind::Delta)
    }

    fn labels(&self) -> &[&'static str] {
        if self.wishes.account_level.is_some() { LABELS_WITH_TOP } else { LABELS }
    }

    fn scope(&self) -> String {
        format!("{} {}", self.clusters.join(","), self.wishes.text())
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(self.run(request))
    }
}
