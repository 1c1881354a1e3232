//! Runs a program for a collector and takes what it prints.
//!
//! The program gets a process group of its own, so that everything it started can be ended with it: when it takes too
//! long, when it prints too much, when it leaves something behind, and when nobody waits for its answer any more.
//! It never sees a secret of the agent's in its environment, and no output of a program that failed is ever returned:
//! half an answer is none. Whoever takes the output as it comes ([`Program::stream`]) throws away what it made of it when
//! the program then fails.

use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use jiff::SignedDuration;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Variables of the agent that are nobody else's business, beside everything that starts with `WALDUR_`: how systemd
/// reaches it, and where its secrets are.
const WITHHELD: [&str; 9] = [
    "CREDENTIALS_DIRECTORY",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "WATCHDOG_SIGNAL",
];

/// How long a program may take to end after it was asked to, and what it left behind to finish after its end.
const GRACE: Duration = Duration::from_secs(2);

/// Pieces of output that may wait to be taken; beyond that the program waits.
const CHUNKS: usize = 8;

/// How much of what a program said on stderr is shown: its last characters.
const STDERR_SHOWN: usize = 2_000;

/// What to run, and its bounds.
#[derive(Debug, Clone)]
pub(super) struct Program<'a> {
    /// The program and its arguments; never empty.
    pub(super) argv: &'a [String],
    /// Variables to set, on top of the agent's environment.
    pub(super) env: Vec<(String, String)>,
    /// Variables to withhold, beside those that always are.
    pub(super) withhold: &'a [String],
    pub(super) time_limit: SignedDuration,
    /// Bytes of stdout.
    pub(super) max_output: u64,
    /// What to do about a program that prints more than that, or takes longer: the operator's levers.
    pub(super) remedies: Remedies,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Remedies {
    pub(super) output: &'static str,
    pub(super) time: &'static str,
}

/// The whole answer of a program that ended well.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    /// What was odd about the run.
    pub(super) notes: Vec<String>,
    /// The end of what it said on stderr.
    pub(super) stderr: String,
}

/// Why a program gave no answer. The words are for the operator.
#[derive(Debug)]
pub(super) enum Failure {
    /// It took too long.
    Slow(String),
    /// It printed too much.
    Long(String),
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Slow(words) | Failure::Long(words) | Failure::Other(words)) = self;
        f.write_str(words)
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Failure {
        Failure::Other(words)
    }
}

/// What remains to be said of a program that ended well and whose output was taken as it came.
#[derive(Debug, Default)]
pub(super) struct Streamed {
    /// What was odd about the run.
    pub(super) notes: Vec<String>,
    /// The end of what it said on stderr.
    pub(super) stderr: String,
}

impl Program<'_> {
    /// Runs the program to its end. Errors say what happened and what to do, with the end of what it said on stderr.
    /// Dropping the future ends the program and all that it started.
    pub(super) async fn run(&self) -> Result<Output, Failure> {
        let (sink, mut chunks) = mpsc::channel::<Vec<u8>>(CHUNKS);
        let all = async {
            let mut stdout = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                stdout.extend_from_slice(&chunk);
            }
            stdout
        };
        let (streamed, stdout) = tokio::join!(self.stream(sink), all);
        let Streamed { notes, stderr } = streamed?;
        Ok(Output { stdout, notes, stderr })
    }

    /// Like `run`, but hands its output over as it comes, in pieces that end anywhere, and keeps none of it. Until this
    /// has returned, the output may turn out to be half an answer. A sink that is closed ends the program.
    pub(super) async fn stream(&self, sink: mpsc::Sender<Vec<u8>>) -> Result<Streamed, Failure> {
        let mut child = self.command().spawn().map_err(|error| self.not_started(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut group = Group::of(child)?;
        let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
            return Err(Failure::Other("its output could not be taken".to_owned()));
        };
        let mut out = Pipe::default();
        let mut printed: u64 = 0;
        let mut err = Pipe::default();
        let mut notes = Vec::new();
        let mut ended: Option<ExitStatus> = None;
        let mut until = Instant::now() + self.time_limit.unsigned_abs();
        let latest = until + GRACE;
        let mut left_behind = false;
        let status = loop {
            if let (Some(status), true, true) = (ended, out.closed, err.closed) {
                break status;
            }
            tokio::select! {
                read = stdout.read(&mut out.chunk), if !out.closed => {
                    out.take(read);
                    let chunk = std::mem::take(&mut out.text);
                    printed += chunk.len() as u64;
                    if printed > self.max_output {
                        group.end().await;
                        let remedy = self.remedies.output;
                        return Err(Failure::Long(format!(
                            "it printed more than {} bytes and was stopped: {remedy}",
                            self.max_output
                        )));
                    }
                    if !chunk.is_empty() && sink.send(chunk).await.is_err() {
                        group.end().await;
                        return Err(Failure::Other("nobody reads its output any more".to_owned()));
                    }
                    if ended.is_some() && !left_behind {
                        // Whoever takes the output may be slower than the program was: what is still in the pipe counts.
                        until = (Instant::now() + GRACE).min(latest);
                    }
                }
                read = stderr.read(&mut err.chunk), if !err.closed => {
                    err.take(read);
                    err.keep_end();
                }
                status = group.wait(), if ended.is_none() => {
                    ended = Some(status?);
                    until = Instant::now() + GRACE;
                }
                () = sleep_until(until) => match ended {
                    None => {
                        group.end().await;
                        let (limit, remedy) = (self.time_limit, self.remedies.time);
                        return Err(Failure::Slow(format!(
                            "it did not end within {limit:#} and was stopped; {remedy}{}",
                            err.quoted()
                        )));
                    }
                    // Something that it started still holds the pipe. If ending the group does not close it,
                    // it has left the group as well, and there is no more to do.
                    Some(_) if !left_behind => {
                        left_behind = true;
                        group.kill();
                        until = Instant::now() + GRACE;
                        notes.push("it left processes behind when it ended, which were stopped".to_owned());
                    }
                    Some(status) => break status,
                },
            }
        };
        group.kill();
        group.over = true;
        if !status.success() {
            return Err(Failure::Other(format!("{}{}", failure(status), err.quoted())));
        }
        Ok(Streamed { notes, stderr: err.end() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.argv.first().map(String::as_str).unwrap_or_default());
        command.args(self.argv.iter().skip(1));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        for (name, _) in std::env::vars_os().filter(|(name, _)| self.is_withheld(name)) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn is_withheld(&self, name: &OsStr) -> bool {
        name.as_encoded_bytes().starts_with(b"WALDUR_")
            || WITHHELD.iter().any(|withheld| name == OsStr::new(withheld))
            || self.withhold.iter().any(|withheld| name == OsStr::new(withheld))
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        let program = self.argv.first().map(String::as_str).unwrap_or_default();
        let remedy = match error.kind() {
            ErrorKind::NotFound if self.argv.len() == 1 && program.contains(' ') => {
                "write a program with arguments as a list: [/path/to/program, --argument]"
            }
            ErrorKind::NotFound => {
                "install it, or correct its path (or that of the interpreter in its first line)"
            }
            ErrorKind::PermissionDenied => {
                "make it executable (chmod +x) by the agent's user, on a file system that is not mounted noexec"
            }
            ErrorKind::ArgumentListTooLong => "its arguments and environment are too long",
            _ if error.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32) => {
                "a script must begin with a line such as #!/bin/sh"
            }
            _ => "try it by hand as the agent's user",
        };
        format!("it could not be started: {error}; {remedy}")
    }
}

/// One of the program's two outputs.
struct Pipe {
    chunk: Vec<u8>,
    text: Vec<u8>,
    closed: bool,
}

impl Default for Pipe {
    fn default() -> Self {
        Pipe { chunk: vec![0; 16 * 1024], text: Vec::new(), closed: false }
    }
}

impl Pipe {
    fn take(&mut self, read: std::io::Result<usize>) {
        match read {
            // A pipe can't fail but by being closed.
            Ok(0) | Err(_) => self.closed = true,
            Ok(bytes) => self.text.extend_from_slice(&self.chunk[..bytes]),
        }
    }

    /// Forgets all but the end, which holds the characters that are shown (4 bytes each at most).
    fn keep_end(&mut self) {
        let keep = 4 * STDERR_SHOWN;
        if self.text.len() > 2 * keep {
            self.text.drain(..self.text.len() - keep);
        }
    }

    fn end(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        let text = text.trim();
        let skip = text.chars().count().saturating_sub(STDERR_SHOWN);
        text.chars().skip(skip).collect()
    }

    fn quoted(&self) -> String {
        let end = self.end();
        if end.is_empty() { "; it said nothing on stderr".to_owned() } else { format!("; stderr: {end}") }
    }
}

fn failure(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it failed with exit code {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map(|signal| signal.as_str().to_owned());
            format!("it was ended by {}", name.unwrap_or_else(|_| format!("signal {number}")))
        }
        (None, None) => "it failed".to_owned(),
    }
}

/// The program and everything that it started and that did not leave its process group.
struct Group {
    id: Pid,
    child: Option<Child>,
    /// Nothing is left to be ended.
    over: bool,
}

impl Group {
    fn of(child: Child) -> Result<Group, String> {
        let id =
            child.id().and_then(|id| i32::try_from(id).ok()).ok_or("it ended before it could be watched")?;
        Ok(Group { id: Pid::from_raw(id), child: Some(child), over: false })
    }

    async fn wait(&mut self) -> Result<ExitStatus, String> {
        match &mut self.child {
            Some(child) => {
                child.wait().await.map_err(|error| format!("its end could not be waited for: {error}"))
            }
            None => Err("its end was waited for already".to_owned()),
        }
    }

    /// The number of a group is not given out again while a process of it is left, so this reaches none but ours:
    /// the program itself has not been waited for, or something that it started still runs, or it is a moment ago.
    fn kill(&self) {
        let _ = killpg(self.id, Signal::SIGKILL);
    }

    /// Asks everything to end, then makes it.
    async fn end(&mut self) {
        let _ = killpg(self.id, Signal::SIGTERM);
        let in_time = timeout(GRACE, self.wait()).await.is_ok();
        self.kill();
        if !in_time {
            let _ = self.wait().await;
        }
        self.over = true;
    }
}

impl Drop for Group {
    /// Nobody waits for the answer any more. The program is asked to end at once, and made to after the grace; if the
    /// runtime goes away before that, then with it.
    fn drop(&mut self) {
        let (false, Some(child)) = (self.over, self.child.take()) else { return };
        let _ = killpg(self.id, Signal::SIGTERM);
        let mut rest = Rest(Group { id: self.id, child: Some(child), over: true });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(GRACE, rest.0.wait()).await;
                drop(rest);
            });
        }
    }
}

/// Kills the group when it goes away, however it does.
struct Rest(Group);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.kill();
    }
}
