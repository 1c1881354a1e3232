//! Takes what `sacct --parsable2` prints: a header line with the names of the columns, then one job a line. Lines become
//! readings as they come.
//!
//! A line stands for itself: one that can't be understood is quarantined with its number, and the others count. An
//! answer without the header that was asked for, or that ends in the middle of a line, is none: whatever had come of it
//! is taken back.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::accounts::Accounts;
use super::checkpoint::Number;
use super::job::{Ended, Fate, Job, Options};
use super::known::{self, Known};
use crate::collectors::{Batch, Bearing, CollectorError, Mark};
use crate::metering::reading::Labels;

/// Bytes of one line.
const MAX_LINE: usize = 64 * 1024;

/// What is known before a run asks.
#[derive(Debug, Default)]
pub(super) struct Setting {
    pub(super) options: Arc<Options>,
    pub(super) accounts: Accounts,
    pub(super) now: Timestamp,
    /// Nothing that ended before is wanted of jobs that are asked for by their number alone.
    pub(super) from: Option<Timestamp>,
    /// Lines that were read at the last look.
    pub(super) known: Known,
    /// Jobs whose lines could not be read.
    pub(super) unread: HashSet<Number>,
    /// Whether it is the cluster of its own slurm.conf that is asked about.
    pub(super) is_local: bool,
}

/// What sacct is asked for.
#[derive(Debug)]
pub(super) enum Which {
    /// All that was there between two instants.
    Window(Timestamp, Timestamp),
    /// Those that ran at the last look or could not be read, of the jobs with these numbers.
    Numbers(HashSet<u64>),
}

impl Default for Which {
    fn default() -> Self {
        Which::Numbers(HashSet::new())
    }
}

/// Takes the answers of one run, piece by piece.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) batch: Batch,
    /// Jobs that ran at the last look and have not been listed yet.
    pub(super) open: HashSet<String>,
    /// Ids of jobs that have not ended.
    pub(super) running: HashSet<String>,
    /// Of lines that need not be read again while they stay the same.
    pub(super) hashes: Vec<u128>,
    /// Jobs with a line that could not be read.
    pub(super) bad: BTreeSet<Number>,
    /// Jobs that are read now, and could not be before.
    pub(super) mended: BTreeSet<Number>,
    /// Jobs that were there beyond their window, so that other windows list them once more.
    reaching_out: HashSet<String>,
    setting: Setting,
    seed: u64,
    call: Call,
}

/// What one answer has brought, until it is whole.
#[derive(Debug, Default)]
struct Call {
    cluster: String,
    which: Which,
    /// The line that has not ended yet.
    rest: Vec<u8>,
    lines: u64,
    has_header: bool,
    jobs: u64,
    /// Lines of steps, which say again what their jobs' lines say.
    steps: u64,
    /// What there was before it.
    mark: Mark,
    hashes: usize,
    listed: Vec<String>,
    running: Vec<String>,
    reaching_out: Vec<String>,
    bad: Vec<Number>,
    mended: Vec<Number>,
    nameless: bool,
}

impl Reader {
    pub(super) fn new(setting: Setting, open: HashSet<String>) -> Reader {
        Reader {
            batch: Batch::default(),
            open,
            running: HashSet::new(),
            hashes: Vec::new(),
            bad: BTreeSet::new(),
            mended: BTreeSet::new(),
            reaching_out: HashSet::new(),
            seed: setting.accounts.hash(),
            setting,
            call: Call::default(),
        }
    }

    /// To be called before each answer.
    pub(super) fn begin(&mut self, cluster: &str, which: Which) {
        let (mark, hashes) = (self.batch.mark(), self.hashes.len());
        self.call = Call { cluster: cluster.to_owned(), which, mark, hashes, ..Call::default() };
    }

    /// Takes a piece of an answer, which may end anywhere.
    pub(super) fn take(&mut self, mut chunk: &[u8]) -> Result<(), String> {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (line, next) = chunk.split_at(end);
            chunk = next.get(1..).unwrap_or_default();
            if self.call.rest.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.call.rest);
                whole.extend_from_slice(line);
                self.line(&whole)?;
                whole.clear();
                self.call.rest = whole;
            }
        }
        // Of a line that is too long its beginning is enough, which tells whose it is.
        let room = (MAX_LINE + 1).saturating_sub(self.call.rest.len());
        self.call.rest.extend_from_slice(&chunk[..chunk.len().min(room)]);
        Ok(())
    }

    /// Whether an answer is whole, and lists any job.
    pub(super) fn check(&self) -> Result<bool, String> {
        let Call { rest, lines, has_header, jobs, steps, .. } = &self.call;
        if !rest.is_empty() {
            let cut = String::from_utf8_lossy(rest);
            let cut: String = cut.chars().take(200).collect();
            return Err(format!("its answer breaks off in the middle of line {}: {cut}", lines + 1));
        }
        match (has_header, jobs, steps) {
            (false, ..) => Err("it printed nothing, not even the names of the columns".to_owned()),
            (true, 0, 1..) => {
                Err("it lists steps and not the jobs they belong to: does something between drop \
                                   `--allocations`?"
                    .to_owned())
            }
            (true, jobs, _) => Ok(*jobs > 0),
        }
    }

    /// To be called after an answer that is whole. Tells whether there were lines that don't even tell which job's they are.
    pub(super) fn end(&mut self) -> bool {
        let call = std::mem::take(&mut self.call);
        self.running.extend(call.running);
        self.reaching_out.extend(call.reaching_out);
        self.bad.extend(call.bad);
        self.mended.extend(call.mended);
        if call.steps > 0 {
            self.batch.notes.push(format!(
                "{} lines of steps are left out: their jobs' own lines say all. Does something between drop `--allocations`?",
                call.steps
            ));
        }
        call.nameless
    }

    /// To be called after an answer that is none.
    pub(super) fn take_back(&mut self) -> Result<(), CollectorError> {
        let call = std::mem::take(&mut self.call);
        self.open.extend(call.listed);
        self.hashes.truncate(call.hashes);
        self.batch.back_to(call.mark)
    }

    /// To be called after the last answer: two lines of one job that say different things are none.
    pub(super) fn contradictions(&mut self) -> Result<(), CollectorError> {
        let all = self.batch.set_contradictions_aside()?;
        if !all.is_empty() {
            // Which lines those were is not known any more.
            self.hashes.clear();
        }
        for reading in all {
            let id = reading.id.as_deref().unwrap_or_default();
            if let Some(number) = Number::of_id(id, self.setting.is_local) {
                self.is_bad(number);
            }
        }
        for number in std::mem::take(&mut self.call.bad) {
            self.bad.insert(number);
        }
        Ok(())
    }

    fn line(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.call.lines += 1;
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        if !self.call.has_header {
            self.call.has_header = true;
            return self.setting.options.check_header(bytes);
        }
        if Job::is_step(bytes) {
            self.call.steps += 1;
            return Ok(());
        }
        self.call.jobs += 1;
        let hash = known::hash(self.seed, bytes);
        if self.setting.known.has(hash) {
            self.batch.known += 1;
            self.hashes.push(hash);
            return Ok(());
        }
        let number = number(bytes);
        let read = match std::str::from_utf8(bytes) {
            _ if bytes.len() > MAX_LINE => Err((format!("it has more than {MAX_LINE} bytes"), Bearing::All)),
            Ok(text) => self.job(text, number),
            Err(error) => Err((format!("it is not UTF-8: {error}"), Bearing::All)),
        };
        let (reason, bears_on) = match read {
            Ok(Ended::Yes) => {
                self.hashes.push(hash);
                return Ok(());
            }
            Ok(Ended::No) => return Ok(()),
            Err(bad) => bad,
        };
        match (number, &self.call.which) {
            // Not one of those that were asked for.
            (number, Which::Numbers(asked)) if number.is_none_or(|number| !asked.contains(&number)) => {
                return Ok(());
            }
            (Some(raw), _) => self.is_bad(Number { cluster: self.call.cluster.clone(), raw }),
            (None, _) => self.call.nameless = true,
        }
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(1_000)]);
        self.batch.quarantine_of(&what, format!("line {}: {reason}", self.call.lines), bears_on);
        Ok(())
    }

    fn is_bad(&mut self, number: Number) {
        if self.setting.unread.contains(&number) {
            // It was told when it was found, and does not make the run one that read nothing.
            self.batch.known += 1;
        }
        self.call.bad.push(number);
    }

    fn job(&mut self, text: &str, number: Option<u64>) -> Result<Ended, (String, Bearing)> {
        let Setting { options, accounts, now, from, unread, .. } = &self.setting;
        let job = Job::read(text).map_err(|why| (why, Bearing::All))?;
        let id = job.id();
        let number = number.map(|raw| Number { cluster: self.call.cluster.clone(), raw });
        let was_unread = number.as_ref().is_some_and(|number| unread.contains(number));
        let is_open = self.open.contains(&id);
        let is_other = match &self.call.which {
            Which::Numbers(_) => {
                let was_asked_for = was_unread && from.is_none_or(|from| job.ends_after(from));
                !(is_open || was_asked_for)
            }
            Which::Window(..) => self.reaching_out.contains(&id),
        };
        if is_other {
            return Ok(Ended::No);
        }
        if is_open && self.open.remove(&id) {
            self.call.listed.push(id.clone());
        }
        let Fate { readings, end, runs, unknown } = match job.readings(options, accounts, *now) {
            Ok(fate) => fate,
            Err(why) => {
                if is_open {
                    // It may still run.
                    self.call.running.push(id);
                }
                let account = job.account(options);
                let bears_on =
                    if account.is_empty() { Bearing::All } else { Bearing::label("account", &account) };
                return Err((why, bears_on));
            }
        };
        self.call.mended.extend(number.filter(|_| was_unread && unknown.is_empty()));
        if let Which::Window(from, to) = self.call.which
            && (runs || end.is_some_and(|end| end >= to) || job.starts_before(from))
        {
            self.call.reaching_out.push(id.clone());
        }
        if runs {
            self.call.running.push(id);
        }
        for reading in readings {
            self.batch.keep(reading);
        }
        if let Some((_, why)) = unknown.first() {
            // The rest of it counts; it is asked for again like one of which nothing could be read.
            let account = Labels::from([("account".to_owned(), job.account(options))]);
            let names = unknown.iter().map(|(name, _)| name.as_str());
            return Err((why.clone(), Bearing::labelled(names, &account)));
        }
        Ok(if end.is_some() { Ended::Yes } else { Ended::No })
    }
}

/// A job's number, which its line begins with, as far as that can be read at all.
fn number(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b'|').next()?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|_| line.contains(&b'|'))
}
