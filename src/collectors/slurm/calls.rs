//! The calls of one run: what sacct and sacctmgr are asked, and what a call that gave no answer means.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::accounts::Accounts;
use super::checkpoint::Number;
use super::job::Options;
use super::reader::{Reader, Which};
use crate::collectors::process::{Failure, Program, Remedies};
use crate::collectors::{CollectorError, Request, blocking};

/// It is not held in memory; this only bounds a program gone wild. Some twenty million jobs.
const MAX_OUTPUT: u64 = 4 << 30;
/// What sacctmgr prints is held in memory.
const MAX_LISTING: u64 = 64 << 20;
/// Jobs asked for by number in one call.
const JOBS_A_CALL: usize = 1_000;
/// Variables that would make sacct answer another question.
const MISLEADING: [&str; 4] = ["SACCT_FEDERATION", "SACCT_FORMAT", "SACCT_LOCAL", "SLURM_CLUSTERS"];
/// How slurmdbd refuses a window that is too wide for it, in small letters.
const TOO_WIDE: [&str; 2] = ["too wide of a date range", "query result exceeds size limit"];

const REMEDIES: Remedies = Remedies {
    output: "read less at once: a shorter `overlap`, a later `since`",
    time: "see whether slurmdbd answers (sacctmgr show configuration); for much history raise `timeout`",
};

/// Where SLURM's programs are, and what they are asked about.
#[derive(Debug)]
pub(super) struct Source {
    /// Where sacct and sacctmgr are; else they are looked for in PATH.
    pub(super) programs: Option<PathBuf>,
    pub(super) slurm_conf: Option<PathBuf>,
    /// Empty: the cluster of its own slurm.conf.
    pub(super) clusters: Vec<String>,
    pub(super) options: Arc<Options>,
    pub(super) timeout: SignedDuration,
}

pub(super) struct Calls<'a> {
    of: &'a Source,
    withhold: Vec<String>,
}

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An answer may come if less is asked for at a time: `slow`, where each try takes as long as there is patience.
    TooMuch {
        words: String,
        slow: bool,
    },
    Other(String),
}

impl Refusal {
    pub(super) fn words(self) -> String {
        match self {
            Refusal::TooMuch { words, .. } | Refusal::Other(words) => words,
        }
    }
}

/// An instant as sacct takes it, with TZ=UTC.
fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

impl<'a> Calls<'a> {
    pub(super) fn new(of: &'a Source, request: &Request) -> Calls<'a> {
        let withhold = request.withhold.iter().cloned().chain(MISLEADING.map(str::to_owned)).collect();
        Calls { of, withhold }
    }

    /// Asks for all jobs of a window.
    pub(super) async fn window(
        &self,
        cluster: &str,
        (from, to): (Timestamp, Timestamp),
        reader: Reader,
    ) -> Result<(Reader, Result<bool, Refusal>), CollectorError> {
        let window = [format!("--starttime={}", utc(from)), format!("--endtime={}", utc(to))];
        self.sacct(cluster, &window, Which::Window(from, to), reader).await
    }

    /// Asks for jobs by their numbers: those that ran at the last look and that no window lists (they ended before it, as was
    /// found out later: a runaway job that was repaired, a cluster that was cut off for days), and those whose lines could
    /// not be read. Returns why it could not be asked for all.
    pub(super) async fn numbers(
        &self,
        numbers: &BTreeSet<Number>,
        mut reader: Reader,
    ) -> Result<(Reader, Option<String>), CollectorError> {
        let clusters: BTreeSet<&str> = numbers.iter().map(|number| number.cluster.as_str()).collect();
        for cluster in clusters {
            let of_it: Vec<u64> =
                numbers.iter().filter(|number| number.cluster == cluster).map(|number| number.raw).collect();
            for some in of_it.chunks(JOBS_A_CALL) {
                let list = some.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
                let which = [format!("--jobs={list}"), "--starttime=2010-01-01T00:00:00".to_owned()];
                let asked: HashSet<u64> = some.iter().copied().collect();
                let (with, answered) = self.sacct(cluster, &which, Which::Numbers(asked), reader).await?;
                reader = with;
                if let Err(refusal) = answered {
                    return Ok((reader, Some(refusal.words())));
                }
            }
        }
        Ok((reader, None))
    }

    /// One call of sacct, its answer taken as it comes. Tells whether it has lines that don't tell which job's they are; what
    /// came of an answer that is none is taken back.
    async fn sacct(
        &self,
        cluster: &str,
        which: &[String],
        takes: Which,
        mut reader: Reader,
    ) -> Result<(Reader, Result<bool, Refusal>), CollectorError> {
        let mut argv = vec![self.path("sacct")];
        argv.extend(
            ["--parsable2", "--noconvert", "--duplicates", "--allocations", "--allusers"].map(str::to_owned),
        );
        argv.push(format!("--format={}", self.of.options.columns().join(",")));
        argv.push(match cluster {
            "" => "--local".to_owned(),
            cluster => format!("--clusters={cluster}"),
        });
        argv.extend_from_slice(which);
        let program = self.program(&argv, MAX_OUTPUT);
        let (sink, mut chunks) = mpsc::channel::<Vec<u8>>(16);
        reader.begin(cluster, takes);
        let reading = blocking::run(move |stop| {
            let mut wrong = None;
            while let Some(chunk) = chunks.blocking_recv() {
                stop.check()?;
                if let Err(why) = reader.take(&chunk) {
                    // Nobody takes the rest, which ends sacct.
                    wrong = Some(why);
                    break;
                }
            }
            Ok((reader, wrong))
        });
        let (streamed, read) = tokio::join!(program.stream(sink), reading);
        let (mut reader, wrong) = read?;
        let answer = match (wrong, streamed) {
            (Some(why), _) => Err(Refusal::Other(why)),
            (None, Err(failure)) => Err(refusal(failure)),
            (None, Ok(streamed)) => match reader.check() {
                Err(why) => Err(Refusal::Other(why)),
                // Older ones, and wrappers, hide the exit code.
                Ok(false) if streamed.stderr.contains("error:") => {
                    Err(in_words(format!("it lists no job, but says on stderr: {}", streamed.stderr)))
                }
                Ok(_) => Ok(streamed),
            },
        };
        let whose = match cluster {
            "" => String::new(),
            cluster => format!(" for the cluster {cluster}"),
        };
        let named = |words: String| format!("`{}`{whose}: {words}", argv[0]);
        match answer {
            Ok(streamed) => {
                let nameless = reader.end();
                reader.batch.notes.extend(streamed.notes);
                if !streamed.stderr.is_empty() {
                    reader.batch.notes.push(format!("sacct says: {}", streamed.stderr));
                }
                Ok((reader, Ok(nameless)))
            }
            Err(refusal) => {
                reader.take_back()?;
                let refusal = match refusal {
                    Refusal::TooMuch { words, slow } => Refusal::TooMuch { words: named(words), slow },
                    Refusal::Other(words) => Refusal::Other(named(words)),
                };
                Ok((reader, Err(refusal)))
            }
        }
    }

    /// sacct answers for a cluster that it does not know as for one without jobs.
    pub(super) async fn know_clusters(&self) -> Result<(), CollectorError> {
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
    pub(super) async fn accounts(&self) -> Result<Accounts, CollectorError> {
        let format = "format=cluster,account,parentname,user";
        let mut accounts = Accounts::default();
        accounts.add(&self.sacctmgr(&["show", "assoc", "withdeleted", format]).await?);
        accounts.add(&self.sacctmgr(&["show", "assoc", format]).await?);
        Ok(accounts)
    }

    /// Whether slurmdbd may hide others' jobs from the agent: nothing in sacct's answer would tell. What can't be found
    /// out is no trouble of the run.
    pub(super) async fn private_data(&self) -> Option<String> {
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

    /// Whether the cluster counts the generic resources that a meter wants: a job's line does not say what is not counted.
    pub(super) async fn uncounted(&self) -> Option<String> {
        let wants = |name: &&String| name.starts_with("gpu") || name.starts_with("gres/");
        let wanted: Vec<&String> = self.of.options.wanted.iter().filter(wants).collect();
        if wanted.is_empty() {
            return None;
        }
        let shown = self.sacctmgr(&["show", "tres", "format=type,name"]).await.ok()?;
        let known: Vec<&str> = shown.lines().filter_map(|line| line.trim().strip_prefix("gres|")).collect();
        // An answer that is none tells nothing.
        let is_answer = shown.lines().any(|line| line.trim().starts_with("cpu|"));
        let of = |name: &str| name.trim_end_matches("_seconds").trim_start_matches("gres/").to_owned();
        let is_counted = |name: &String| {
            let thing = of(name);
            known.iter().any(|known| {
                *known == thing || known.strip_prefix(&thing).is_some_and(|rest| rest.starts_with(':'))
            })
        };
        let missing: Vec<String> =
            wanted.into_iter().filter(|name| !is_counted(name)).map(|name| of(name)).collect();
        (is_answer && !missing.is_empty()).then(|| {
            let tres = missing.iter().map(|thing| format!("gres/{thing}")).collect::<Vec<_>>().join(",");
            format!(
                "slurmdbd counts no {tres}, so no job will have any: set AccountingStorageTRES={tres} in slurm.conf \
                 (sacctmgr show tres lists what is counted)"
            )
        })
    }

    async fn sacctmgr(&self, arguments: &[&str]) -> Result<String, CollectorError> {
        let mut argv = vec![self.path("sacctmgr"), "--noheader".to_owned(), "--parsable2".to_owned()];
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let failed = |why: Failure| CollectorError(format!("`{}`: {why}", argv[0]));
        let output = self.program(&argv, MAX_LISTING).run().await.map_err(failed)?;
        // A name that is not UTF-8 is nobody's but its own trouble.
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Slow(words) => Refusal::TooMuch { words, slow: true },
        Failure::Long(words) => Refusal::TooMuch { words, slow: false },
        Failure::Other(words) => in_words(words),
    }
}

/// What slurmdbd says is all that tells why it refused.
fn in_words(words: String) -> Refusal {
    let said = words.to_lowercase();
    match TOO_WIDE.iter().any(|refused| said.contains(refused)) {
        true => Refusal::TooMuch { words, slow: false },
        false => Refusal::Other(words),
    }
}
