//! A process as another on its machine can tell whether it still runs: so that a turn in a shared database need not wait for
//! its end where its holder is known to be gone.
//!
//! It never guesses. Of a process of another machine or of another pid namespace nothing is known, nor where something
//! can't be read; and a process that is stopped is there.

use std::fmt;
use std::str::FromStr;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::config::clock::boot_id;

/// What tells a process from every other that ever was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Another each time a machine starts.
    boot: String,
    /// The pid namespace that its number is of.
    namespace: String,
    pid: i32,
    /// When it began, in the kernel's ticks since the machine started.
    began: u64,
}

impl Process {
    /// This process; `None` where the system does not tell all of it.
    pub(super) fn own() -> Option<Process> {
        let boot = boot_id()?;
        let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?.into_os_string().into_string().ok()?;
        let pid = i32::try_from(std::process::id()).ok()?;
        Some(Process { boot, namespace, pid, began: began(pid)? })
    }

    /// Whether that process is certain to have ended, as this one sees it.
    pub(super) fn is_known_dead(&self, other: &Process) -> bool {
        if (&self.boot, &self.namespace) != (&other.boot, &other.namespace) {
            return false;
        }
        // Signal 0 only asks. It also finds a process that /proc hides (`hidepid`, `ProtectProc=`).
        match kill(Pid::from_raw(other.pid), None) {
            Err(Errno::ESRCH) => true,
            // Its number may have been given to another since.
            _ => began(other.pid).is_some_and(|began| began != other.began),
        }
    }
}

/// When the process that has this number now began.
fn began(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, but ends with the last bracket; what follows begins with the third field.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// As the database keeps it: four words.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { boot, namespace, pid, began } = self;
        write!(f, "{boot} {namespace} {pid} {began}")
    }
}

impl FromStr for Process {
    type Err = ();

    fn from_str(text: &str) -> Result<Process, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [boot, namespace, pid, began] = words[..] else { return Err(()) };
        // 0 and less are groups of processes.
        let pid = pid.parse().ok().filter(|pid| *pid > 0).ok_or(())?;
        let began = began.parse().map_err(|_| ())?;
        Ok(Process { boot: boot.to_owned(), namespace: namespace.to_owned(), pid, began })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn of(child: u32) -> Process {
        let pid = i32::try_from(child).unwrap();
        Process { pid, began: began(pid).unwrap(), ..Process::own().unwrap() }
    }

    #[test]
    fn only_a_process_of_this_machine_and_namespace_that_ended_is_known_to_be_gone() {
        let own = Process::own().unwrap();
        assert!(!own.is_known_dead(&own));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let there = of(child.id());
        assert!(!own.is_known_dead(&there));
        // Another has its number since.
        assert!(own.is_known_dead(&Process { began: there.began - 1, ..there.clone() }));
        kill(Pid::from_raw(there.pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert!(!own.is_known_dead(&there), "one that is stopped is there");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own.is_known_dead(&there));
        for elsewhere in [
            Process { boot: "another".to_owned(), ..there.clone() },
            Process { namespace: "pid:[1]".to_owned(), ..there.clone() },
        ] {
            assert!(!own.is_known_dead(&elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_is() {
        let own = Process::own().unwrap();
        assert_eq!(own.to_string().parse(), Ok(own));
        for bad in
            ["", "boot pid:[1] 7", "boot pid:[1] -1 5", "boot pid:[1] 0 5", "boot pid:[1] 7 x", "a b 1 2 3"]
        {
            assert_eq!(bad.parse::<Process>(), Err(()), "{bad}");
        }
    }
}
