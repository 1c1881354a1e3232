//! What `sacct --parsable2` prints: a header line with the names of the columns, then one job a line. Lines become
//! readings as they come.
//!
//! A line stands for itself: one that can't be understood is quarantined with its number, and the others count. An
//! answer without the header that was asked for, or that ends in the middle of a line, is none.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::accounts::Accounts;
use super::tres;
use crate::collectors::{Batch, Bearing, Quarantined};
use crate::metering::reading::{Kind, Labels, Reading, Span};

/// What the operator wants of each job.
#[derive(Debug)]
pub(super) struct Wishes {
    /// Names of readings; none: all.
    pub(super) wanted: BTreeSet<String>,
    /// What was asked for instead of what was given.
    pub(super) requested: bool,
    /// Says of each job also which account lies above it at this level.
    pub(super) account_level: Option<usize>,
    /// Account names in lower case.
    pub(super) lower_case: bool,
}

/// The columns, but for the last, which is one or the other of two. None holds free text.
const COLUMNS: [&str; 12] = [
    "JobIDRaw",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "State",
    "Account",
    "User",
    "Partition",
    "QOS",
    "Cluster",
    "Reservation",
];

impl Wishes {
    pub(super) fn columns(&self) -> [&'static str; 13] {
        let mut columns = ["ReqTRES"; 13];
        columns[..12].copy_from_slice(&COLUMNS);
        if !self.requested {
            columns[12] = "AllocTRES";
        }
        columns
    }

    /// All that decides which readings are made of a job.
    pub(super) fn text(&self) -> String {
        let wanted: Vec<&str> = self.wanted.iter().map(String::as_str).collect();
        let Wishes { requested, account_level, lower_case, .. } = self;
        let level = account_level.map_or(String::new(), |level| level.to_string());
        format!("{} requested={requested} level={level} lower={lower_case}", wanted.join(","))
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.contains(name)
    }
}

/// Bytes of one line.
const MAX_LINE: usize = 64 * 1024;
/// Bad lines that are shown one by one.
const MAX_SHOWN: usize = 1_000;

/// Takes the answers of one run, piece by piece.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) batch: Batch,
    /// Jobs that ran at the last look and have not been listed yet.
    pub(super) open: HashSet<String>,
    /// Only those are taken.
    pub(super) only_open: bool,
    wishes: Arc<Wishes>,
    accounts: Accounts,
    now: Timestamp,
    running: HashSet<String>,
    /// The line that has not ended yet.
    rest: Vec<u8>,
    /// Of this answer.
    lines: u64,
    unshown: u64,
}

impl Reader {
    pub(super) fn new(
        wishes: Arc<Wishes>,
        accounts: Accounts,
        now: Timestamp,
        open: HashSet<String>,
    ) -> Reader {
        Reader {
            batch: Batch::default(),
            open,
            only_open: false,
            wishes,
            accounts,
            now,
            running: HashSet::new(),
            rest: Vec::new(),
            lines: 0,
            unshown: 0,
        }
    }

    /// To be called before each answer.
    pub(super) fn begin(&mut self) {
        self.rest.clear();
        self.lines = 0;
    }

    /// Takes a piece of an answer, which may end anywhere.
    pub(super) fn take(&mut self, mut chunk: &[u8]) -> Result<(), String> {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let (line, next) = chunk.split_at(end);
            chunk = next.get(1..).unwrap_or_default();
            if self.rest.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole)?;
                whole.clear();
                self.rest = whole;
            }
        }
        self.rest.extend_from_slice(chunk);
        if self.rest.len() > MAX_LINE {
            return Err(format!("line {} has more than {MAX_LINE} bytes", self.lines + 1));
        }
        Ok(())
    }

    /// To be called after each answer.
    pub(super) fn end(&self) -> Result<(), String> {
        if !self.rest.is_empty() {
            let cut = String::from_utf8_lossy(&self.rest);
            let cut: String = cut.chars().take(200).collect();
            return Err(format!("its answer breaks off in the middle of line {}: {cut}", self.lines + 1));
        }
        if self.lines == 0 {
            return Err("it printed nothing, not even the names of the columns".to_owned());
        }
        Ok(())
    }

    /// What was read, and the ids of the jobs that have not ended.
    pub(super) fn done(mut self) -> (Batch, HashSet<String>) {
        if self.unshown > 0 {
            let (what, reason) = (String::new(), format!("and {} more lines", self.unshown));
            self.batch.quarantined.push(Quarantined { what, reason, bears_on: Bearing::All });
        }
        (self.batch, self.running)
    }

    fn line(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.lines += 1;
        if self.lines == 1 {
            return self.header(bytes);
        }
        let read = match std::str::from_utf8(bytes) {
            Ok(text) => self.job(text),
            Err(error) => Err(format!("it is not UTF-8: {error}")),
        };
        if let Err(reason) = read {
            if self.batch.quarantined.len() >= MAX_SHOWN {
                self.unshown += 1;
            } else {
                let what = String::from_utf8_lossy(&bytes[..bytes.len().min(1_000)]);
                let reason: String = reason.chars().take(400).collect();
                self.batch.quarantine(&what, format!("line {}: {reason}", self.lines));
            }
        }
        Ok(())
    }

    fn header(&self, bytes: &[u8]) -> Result<(), String> {
        let asked = self.wishes.columns().join("|");
        let got = String::from_utf8_lossy(bytes);
        if got.eq_ignore_ascii_case(&asked) {
            return Ok(());
        }
        let has = |column: &&str| got.split('|').any(|name| name.eq_ignore_ascii_case(column));
        let missing: Vec<&str> = self.wishes.columns().into_iter().filter(|column| !has(column)).collect();
        let got: String = got.chars().take(400).collect();
        Err(match missing.as_slice() {
            [] => format!("its columns are not those that it was asked for, `{asked}`, but `{got}`"),
            missing => format!("its answer lacks the columns {}: it begins with `{got}`", missing.join(", ")),
        })
    }

    fn job(&mut self, text: &str) -> Result<(), String> {
        let mut fields = [""; 13];
        let mut count = 0;
        for field in text.split('|') {
            if let Some(place) = fields.get_mut(count) {
                *place = field;
            }
            count += 1;
        }
        if count != fields.len() {
            return Err(format!("it has {count} columns instead of {}", fields.len()));
        }
        let [
            raw,
            submit,
            start,
            end,
            elapsed,
            state,
            account,
            user,
            partition,
            qos,
            cluster,
            reservation,
            tres,
        ] = fields;
        if raw.is_empty() || cluster.is_empty() || submit.parse::<i64>().is_err() {
            return Err("it has no number, time of submission or cluster".to_owned());
        }
        // A job that is requeued keeps its number and is submitted anew.
        let id = format!("{cluster}/{raw}/{submit}");
        let was_open = self.open.remove(&id);
        if self.only_open && !was_open {
            return Ok(());
        }
        let seconds: u64 =
            elapsed.parse().map_err(|_| format!("its ElapsedRaw `{elapsed}` is no number of seconds"))?;
        let start = match start {
            // It waits, or was cancelled while it did.
            "Unknown" | "None" | "" => return Ok(()),
            start => instant("Start", start)?,
        };
        let end = match end {
            "Unknown" => {
                self.running.insert(id.clone());
                self.now.max(start)
            }
            "None" | "" if seconds == 0 => return Ok(()),
            end => instant("End", end)?,
        };
        if seconds == 0 && end < start {
            return Ok(());
        }
        match seconds {
            // Older versions give what was cancelled while it waited a start.
            0 if tres.is_empty() => return Ok(()),
            1.. if tres.is_empty() => {
                let column = self.wishes.columns()[12];
                return Err(format!("it ran for {seconds} s, but its {column} says nothing of what it had"));
            }
            _ => {}
        }
        let labels = self.labels(state, account, user, partition, qos, cluster, reservation)?;
        let whole = Decimal::from(seconds);
        let mut reading = Reading::new("elapsed_seconds", Kind::Delta, whole, end).unit("s");
        reading.span = Span::Interval { start, end };
        reading.labels = labels;
        reading.id = Some(id);
        let mut readings = Vec::new();
        if self.wishes.wants(&reading.name) {
            readings.push(reading.clone());
        }
        for used in tres::parse(tres)?.into_iter().filter(|used| self.wishes.wants(&used.name)) {
            let value = used.count.checked_mul(whole).ok_or("it is more than can be counted")?;
            let (name, unit) = (used.name, Some(used.unit.to_owned()));
            readings.push(Reading { name, unit, value, ..reading.clone() });
        }
        // All of a job's or none.
        let readings = readings.into_iter().map(Reading::checked).collect::<Result<Vec<_>, _>>()?;
        for reading in readings {
            self.batch.keep(reading);
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one a column")]
    fn labels(
        &self,
        state: &str,
        account: &str,
        user: &str,
        partition: &str,
        qos: &str,
        cluster: &str,
        reservation: &str,
    ) -> Result<Labels, String> {
        let top = match self.wishes.account_level {
            None => None,
            Some(level) => Some(
                self.accounts
                    .top(cluster, account, level)
                    .ok_or_else(|| format!("sacctmgr knows no account `{account}` in {cluster}"))?,
            ),
        };
        let cased = |account: &str| {
            if self.wishes.lower_case { account.to_lowercase() } else { account.to_owned() }
        };
        // `CANCELLED by 1001`: by whom is nothing to sort usage by.
        let state = state.split(' ').next().unwrap_or_default();
        let texts = [
            ("account", cased(account)),
            ("user", user.to_owned()),
            ("partition", partition.to_owned()),
            ("qos", qos.to_owned()),
            ("cluster", cluster.to_owned()),
            ("state", state.to_owned()),
            ("reservation", reservation.to_owned()),
            ("top_account", top.map(cased).unwrap_or_default()),
        ];
        let there = texts.into_iter().filter(|(_, text)| !text.is_empty());
        Ok(there.map(|(name, text)| (name.to_owned(), text)).collect())
    }
}

fn instant(column: &str, text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse::<i64>().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.ok_or_else(|| {
        format!("its {column} `{text}` is no number of seconds since 1970: sacct does not heed SLURM_TIME_FORMAT=%s")
    })
}
