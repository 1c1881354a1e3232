//! One line of sacct's answer: a job, and the readings that it makes. Only what a meter wants is looked into.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::accounts::Accounts;
use super::tres;
use crate::collectors::finish::{AHEAD, implausible};
use crate::metering::reading::{Kind, Labels, Reading, Span};

/// What the operator wants of each job.
#[derive(Debug, Default)]
pub(super) struct Options {
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

impl Options {
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
        let Options { requested, account_level, lower_case, .. } = self;
        let level = account_level.map_or(String::new(), |level| level.to_string());
        format!("{} requested={requested} level={level} lower={lower_case}", wanted.join(","))
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.contains(name)
    }

    /// Whether a meter asks for processors, which SLURM counts for every job.
    fn must_have_cpus(&self) -> bool {
        self.wanted.contains("cpu_seconds")
    }

    /// Whether anything is wanted that stands in the list of resources.
    fn wants_resources(&self) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|name| name != "elapsed_seconds")
    }

    /// Whether an answer begins with the names of the columns that were asked for.
    pub(super) fn check_header(&self, bytes: &[u8]) -> Result<(), String> {
        let asked = self.columns().join("|");
        // Some wrappers write a byte order mark before all else.
        let got = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
        if got.eq_ignore_ascii_case(&asked) {
            return Ok(());
        }
        let has = |column: &&str| got.split('|').any(|name| name.eq_ignore_ascii_case(column));
        let missing: Vec<&str> = self.columns().into_iter().filter(|column| !has(column)).collect();
        let got: String = got.chars().take(400).collect();
        Err(match missing.as_slice() {
            [] => format!("its columns are not those that it was asked for, `{asked}`, but `{got}`"),
            missing => format!("its answer lacks the columns {}: it begins with `{got}`", missing.join(", ")),
        })
    }
}

/// Whether the line of a job stays as it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Yes,
    No,
}

/// What a line came to.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) readings: Vec<Reading>,
    /// When it ended, if it has.
    pub(super) end: Option<Timestamp>,
    pub(super) runs: bool,
    /// What of it is not known: the names of readings, and why.
    pub(super) unknown: Vec<(String, String)>,
}

/// The columns of a line.
#[derive(Debug)]
pub(super) struct Job<'a> {
    raw: &'a str,
    submit: &'a str,
    start: &'a str,
    end: &'a str,
    elapsed: &'a str,
    state: &'a str,
    account: &'a str,
    user: &'a str,
    partition: &'a str,
    qos: &'a str,
    cluster: &'a str,
    reservation: &'a str,
    tres: &'a str,
}

impl<'a> Job<'a> {
    pub(super) fn read(text: &'a str) -> Result<Job<'a>, String> {
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
        let has_number = raw.starts_with(|c: char| c.is_ascii_digit());
        if !has_number || cluster.is_empty() || submit.parse::<i64>().is_err() {
            return Err("it has no number, time of submission or cluster".to_owned());
        }
        Ok(Job {
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
        })
    }

    /// Whose numbers they are: `71.batch` is a step of job 71, whose own line has the same time and resources. Of arrays and
    /// of jobs in several parts steps are called `12_3.0`, `12+1.extern`, `12_[1-5].0`.
    pub(super) fn is_step(line: &[u8]) -> bool {
        let mut columns = line.split(|byte| *byte == b'|');
        let (Some(raw), Some(_)) = (columns.next(), columns.next()) else { return false };
        let Some(dot) = raw.iter().position(|byte| *byte == b'.') else { return false };
        let is_of_number = |byte: &u8| byte.is_ascii_digit() || b"_+[]-,%".contains(byte);
        let job = &raw[..dot];
        job.first().is_some_and(u8::is_ascii_digit) && job.iter().all(is_of_number) && dot + 1 < raw.len()
    }

    /// A job that is requeued keeps its number and is submitted anew.
    pub(super) fn id(&self) -> String {
        format!("{}/{}/{}", self.cluster, self.raw, self.submit)
    }

    pub(super) fn has_started(&self) -> bool {
        !matches!(self.start, "Unknown" | "None" | "")
    }

    /// Whether it has not ended before an instant, as far as that can be told.
    pub(super) fn ends_after(&self, instant: Timestamp) -> bool {
        self.end.parse::<i64>().ok().is_none_or(|end| end >= instant.as_second())
    }

    pub(super) fn starts_before(&self, instant: Timestamp) -> bool {
        self.start.parse::<i64>().is_ok_and(|start| start < instant.as_second())
    }

    /// The label of its account.
    pub(super) fn account(&self, options: &Options) -> String {
        cased(self.account, options)
    }

    /// All that is wanted of it, or why that can't be had: all of a job's or none.
    pub(super) fn readings(
        &self,
        options: &Options,
        accounts: &Accounts,
        now: Timestamp,
    ) -> Result<Fate, String> {
        let nothing = |end| Ok(Fate { readings: Vec::new(), end, runs: false, unknown: Vec::new() });
        if !self.has_started() {
            // It waits, or was cancelled while it did.
            return nothing(None);
        }
        let seconds: u64 = self
            .elapsed
            .parse()
            .map_err(|_| format!("its ElapsedRaw `{}` is no number of seconds", self.elapsed))?;
        let start = instant("Start", self.start)?;
        let end = match self.end {
            "Unknown" => None,
            "None" | "" if seconds == 0 => return nothing(None),
            end => Some(instant("End", end)?),
        };
        if seconds == 0 && end.is_some_and(|end| end < start) {
            return nothing(end);
        }
        if self.tres.is_empty() {
            // Older versions give what was cancelled while it waited a start.
            if seconds == 0 {
                return nothing(end);
            }
            if options.wants_resources() {
                let column = options.columns()[12];
                return Err(format!("it ran for {seconds} s, but its {column} says nothing of what it had"));
            }
        }
        let until = end.unwrap_or(now.max(start));
        check_elapsed(seconds, start, until, end.is_some())?;
        let whole = Decimal::from(seconds);
        let mut reading = Reading::new("elapsed_seconds", Kind::Delta, whole, until).unit("s");
        reading.span = Span::Interval { start, end: until };
        reading.labels = self.labels(options, accounts)?;
        reading.id = Some(self.id());
        if let Some(why) = implausible(&reading, now) {
            return Err(why);
        }
        let mut readings = Vec::new();
        let tres::List { used, unknown } = tres::parse(self.tres, |name| options.wants(name))?;
        if seconds > 0
            && options.must_have_cpus()
            && !self.tres.is_empty()
            && !self.tres.split(',').any(|part| part.starts_with("cpu="))
        {
            return Err(format!("its {} names no cpu, which every job that ran had", options.columns()[12]));
        }
        if options.wants(&reading.name) {
            readings.push(reading.clone());
        }
        // All but the last are copies.
        let alike = std::iter::repeat_n(reading, used.len());
        for (used, mut reading) in used.into_iter().zip(alike) {
            reading.value = used.count.checked_mul(whole).ok_or("it is more than can be counted")?;
            (reading.name, reading.unit) = (used.name, Some(used.unit.to_owned()));
            readings.push(reading);
        }
        let readings = readings.into_iter().map(Reading::checked).collect::<Result<Vec<_>, _>>()?;
        Ok(Fate { readings, end, runs: end.is_none(), unknown })
    }

    fn labels(&self, options: &Options, accounts: &Accounts) -> Result<Labels, String> {
        let top = match options.account_level {
            None => None,
            Some(level) => {
                let (cluster, account) = (self.cluster, self.account);
                let top = accounts.top(cluster, account, level);
                Some(top.ok_or_else(|| format!("sacctmgr knows no account `{account}` in {cluster}"))?)
            }
        };
        // `CANCELLED by 1001`: by whom is nothing to sort usage by.
        let state = self.state.split(' ').next().unwrap_or_default();
        let texts = [
            ("account", cased(self.account, options)),
            ("user", self.user.to_owned()),
            ("partition", self.partition.to_owned()),
            ("qos", self.qos.to_owned()),
            ("cluster", self.cluster.to_owned()),
            ("state", state.to_owned()),
            ("reservation", self.reservation.to_owned()),
            ("top_account", top.map(|top| cased(top, options)).unwrap_or_default()),
        ];
        let there = texts.into_iter().filter(|(_, text)| !text.is_empty());
        Ok(there.map(|(name, text)| (name.to_owned(), text)).collect())
    }
}

fn cased(account: &str, options: &Options) -> String {
    if options.lower_case { account.to_lowercase() } else { account.to_owned() }
}

/// More time than there is between its start and its end was used by no job. Of one that runs, the cluster's clock may be a
/// little ahead.
fn check_elapsed(seconds: u64, start: Timestamp, until: Timestamp, ended: bool) -> Result<(), String> {
    let span = until.duration_since(start);
    let slack = if ended { 0 } else { AHEAD.as_secs() };
    let most = u64::try_from(span.as_secs() + slack).unwrap_or(0);
    if span.is_negative() || seconds <= most {
        // That it ends before it starts is told by itself.
        return Ok(());
    }
    let what = if ended { "between its Start and its End" } else { "since its Start" };
    Err(format!("its ElapsedRaw says {seconds} s, which is more than the {} s {what}", span.as_secs()))
}

fn instant(column: &str, text: &str) -> Result<Timestamp, String> {
    let seconds = text.parse::<i64>().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds.ok_or_else(|| {
        format!("its {column} `{text}` is no number of seconds since 1970: sacct does not heed SLURM_TIME_FORMAT=%s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_named_after_a_job() {
        for step in [
            "71.batch|x",
            "71.0|",
            "71.extern|x",
            "12_3.0|x",
            "12+1.interactive|x",
            "12_[1-5].0|x",
            "12_[1,3-5%2].0|x",
        ] {
            assert!(Job::is_step(step.as_bytes()), "{step}");
        }
        // Not even a line, no number, no step of it.
        for other in
            ["71|1.5", "71.batch", "a.b|x", ".batch|x", "71.|x", "7x1.0|x", "sacct: error.|x", "", "|"]
        {
            assert!(!Job::is_step(other.as_bytes()), "{other}");
        }
    }
}
