//! Does jobs one after the other on a thread of their own, and goes on without it when a call to the system does not come
//! back: a dead NFS server costs what lies on its mount, and nothing else.
//!
//! A thread that hangs can't be stopped; it is left alone, and as long as it hangs nothing more is asked of that place,
//! so that there is never a second one behind it.

use std::collections::VecDeque;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::mounts::Mounts;
use crate::collectors::CollectorError;
use crate::collectors::blocking::{Stop, broke_off};

/// How long a single call may take. A server that fails over, or disks that spin up, take less.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether anything got on.
const LOOK: Duration = Duration::from_millis(200);

/// What hangs, for as long as the process lives.
#[derive(Debug, Clone)]
pub(super) struct Workers {
    hanging: Arc<Mutex<Vec<Hanging>>>,
    patience: Duration,
}

/// A place that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hanging {
    /// The mount point, or what else it is that was asked.
    pub(super) place: PathBuf,
    /// The run that found out.
    pub(super) since: Timestamp,
    thread: u64,
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome<R> {
    Done(R),
    Hangs(Hanging),
}

/// What a job tells of its progress, and asks before each step.
#[derive(Debug)]
pub(super) struct Progress {
    steps: AtomicU64,
    at: Mutex<PathBuf>,
    mounts: Arc<Mounts>,
    hanging: Arc<Mutex<Vec<Hanging>>>,
    stop: Stop,
    /// Whether its thread has ended; set while `hanging` is locked.
    ended: AtomicBool,
}

impl Progress {
    /// Before a path (free of links but for its last part) is looked at. An error if it lies where something hangs, or
    /// nobody waits for the answer.
    pub(super) fn touch(&self, path: &Path) -> Result<(), Error> {
        if self.stop.asked() {
            return Err(Error::other("stopped before it was done"));
        }
        let place = self.place(path);
        if locked(&self.hanging).iter().any(|hanging| hanging.place == place) {
            return Err(Error::other(Hangs(place.to_owned())));
        }
        path.clone_into(&mut locked(&self.at));
        self.step();
        Ok(())
    }

    /// Whether what was touched last goes on being looked at; cheap.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.asked()
    }

    fn place<'a>(&'a self, path: &'a Path) -> &'a Path {
        self.mounts.of(path).unwrap_or(path)
    }
}

/// The error of a step that was not done because its place hangs.
#[derive(Debug, thiserror::Error)]
#[error("{} does not answer", .0.display())]
struct Hangs(PathBuf);

/// The place that hangs, if a step was not done because of that.
pub(super) fn place_of(error: &Error) -> Option<PathBuf> {
    error.get_ref()?.downcast_ref::<Hangs>().map(|hangs| hangs.0.clone())
}

type Done<J, R> = (J, R);

impl Workers {
    pub(super) fn new() -> Workers {
        Workers { hanging: Arc::default(), patience: PATIENCE }
    }

    /// Does all jobs, in order, and says what became of each. `work` must touch each path before it looks at it.
    pub(super) fn all<J, R>(
        &self,
        jobs: impl IntoIterator<Item = J>,
        mounts: &Arc<Mounts>,
        now: Timestamp,
        stop: &Stop,
        work: impl Fn(&J, &Progress) -> R + Send + Sync + 'static,
    ) -> Result<Vec<(J, Outcome<R>)>, CollectorError>
    where
        J: Clone + Send + 'static,
        R: Send + 'static,
    {
        let work = Arc::new(work);
        let mut left: VecDeque<J> = jobs.into_iter().collect();
        let mut outcomes = Vec::with_capacity(left.len());
        while !left.is_empty() {
            stop.check()?;
            // Asked to stop when it is given up, too: should it come back, it must not go on.
            let given_up = Stop::default();
            let progress = Arc::new(Progress {
                steps: AtomicU64::new(0),
                at: Mutex::default(),
                mounts: mounts.clone(),
                hanging: self.hanging.clone(),
                stop: given_up.clone(),
                ended: AtomicBool::new(false),
            });
            let (sender, done) = channel();
            let thread = self.start(left.clone(), work.clone(), progress.clone(), sender)?;
            let mut seen = (0, Instant::now());
            while !left.is_empty() {
                match done.recv_timeout(LOOK) {
                    Ok(Ok((job, result))) => {
                        left.pop_front();
                        outcomes.push((job, Outcome::Done(result)));
                    }
                    Ok(Err(panicked)) => return Err(CollectorError(panicked)),
                    Err(RecvTimeoutError::Disconnected) => return Err(CollectorError(broke_off(None))),
                    Err(RecvTimeoutError::Timeout) => {
                        if stop.asked() {
                            given_up.ask();
                            stop.check()?;
                        }
                        let steps = progress.steps.load(Ordering::Relaxed);
                        if steps != seen.0 {
                            seen = (steps, Instant::now());
                        } else if seen.1.elapsed() >= self.patience {
                            given_up.ask();
                            let place = progress.place(&locked(&progress.at)).to_owned();
                            let hanging = Hanging { place, since: now, thread };
                            let mut all = locked(&self.hanging);
                            if !progress.ended.load(Ordering::Relaxed) {
                                all.push(hanging.clone());
                            }
                            drop(all);
                            outcomes.extend(left.pop_front().map(|job| (job, Outcome::Hangs(hanging))));
                            break;
                        }
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// What is known of a place that hangs.
    pub(super) fn hanging(&self, place: &Path) -> Option<Hanging> {
        locked(&self.hanging).iter().find(|hanging| hanging.place == place).cloned()
    }

    /// All places that hang.
    pub(super) fn all_hanging(&self) -> Vec<(PathBuf, Timestamp)> {
        locked(&self.hanging).iter().map(|hanging| (hanging.place.clone(), hanging.since)).collect()
    }

    fn start<J, R>(
        &self,
        jobs: VecDeque<J>,
        work: Arc<impl Fn(&J, &Progress) -> R + Send + Sync + 'static>,
        progress: Arc<Progress>,
        sender: Sender<Result<Done<J, R>, String>>,
    ) -> Result<u64, CollectorError>
    where
        J: Send + 'static,
        R: Send + 'static,
    {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        let id = THREADS.fetch_add(1, Ordering::Relaxed);
        let hanging = self.hanging.clone();
        std::thread::Builder::new()
            .name("walker".to_owned())
            .spawn(move || {
                // Least of all in the way of others: the kernel takes the priority of I/O from this one. Where it is not
                // allowed, it is done at the usual one.
                let _ = rustix::process::setpriority_process(None, 19);
                for job in jobs {
                    if progress.stopped() {
                        break;
                    }
                    let result =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&job, &progress)));
                    let done = result.map(|result| (job, result)).map_err(|why| broke_off(Some(why)));
                    let broken = done.is_err();
                    if sender.send(done).is_err() || broken {
                        break;
                    }
                }
                // It came back after all.
                let mut hanging = locked(&hanging);
                progress.ended.store(true, Ordering::Relaxed);
                hanging.retain(|hanging| hanging.thread != id);
            })
            .map_err(|error| CollectorError(format!("no thread can be started: {error}")))?;
        Ok(id)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn workers() -> Workers {
        Workers { patience: Duration::from_millis(300), ..Workers::new() }
    }

    fn mounts() -> Arc<Mounts> {
        Arc::new(Mounts::parse(b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /dead rw - nfs4 b rw\n"))
    }

    fn now() -> Timestamp {
        "2026-11-05T10:00:00Z".parse().unwrap()
    }

    fn told(outcomes: &[(&'static str, Outcome<Result<u32, Error>>)]) -> Vec<String> {
        let tell = |(path, outcome): &(&str, Outcome<Result<u32, Error>>)| match outcome {
            Outcome::Done(Ok(number)) => format!("{path} {number}"),
            Outcome::Done(Err(error)) if place_of(error).is_some() => format!("{path} not asked"),
            Outcome::Done(Err(error)) => format!("{path} {error}"),
            Outcome::Hangs(hanging) => format!("{path} hangs at {}", hanging.place.display()),
        };
        outcomes.iter().map(tell).collect()
    }

    /// The double of a dead server: a call that comes back when it is let go.
    #[test]
    fn a_place_that_hangs_costs_itself_and_no_second_thread() {
        let workers = workers();
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let jobs = ["/a", "/dead/b", "/dead/c", "/d"];
        let asked = Arc::new(Mutex::new(Vec::new()));
        let work = {
            let (asked, wait) = (asked.clone(), wait.clone());
            move |path: &&'static str, progress: &Progress| {
                progress.touch(Path::new(path))?;
                asked.lock().unwrap().push(*path);
                if path.starts_with("/dead") {
                    let _ = wait.lock().unwrap().recv();
                }
                Ok(path.len() as u32)
            }
        };
        let first = workers.all(jobs, &mounts(), now(), &Stop::default(), work.clone()).unwrap();
        assert_eq!(told(&first), ["/a 2", "/dead/b hangs at /dead", "/dead/c not asked", "/d 2"]);
        let second = workers.all(jobs, &mounts(), now(), &Stop::default(), work.clone()).unwrap();
        assert_eq!(told(&second), ["/a 2", "/dead/b not asked", "/dead/c not asked", "/d 2"]);
        assert_eq!(*asked.lock().unwrap(), ["/a", "/dead/b", "/d", "/a", "/d"]);
        assert_eq!(workers.hanging(Path::new("/dead")).unwrap().since, now());
        // The server is there again.
        drop(release);
        while workers.hanging(Path::new("/dead")).is_some() {
            std::thread::yield_now();
        }
        let third = workers.all(jobs, &mounts(), now(), &Stop::default(), work).unwrap();
        assert_eq!(told(&third), ["/a 2", "/dead/b 7", "/dead/c 7", "/d 2"]);
    }

    #[test]
    fn what_gets_on_may_take_its_time() {
        let work = |steps: &&'static str, progress: &Progress| {
            for _ in 0..steps.len() {
                progress.touch(Path::new("/a"))?;
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(100) {
                    std::thread::yield_now();
                }
            }
            Ok(steps.len() as u32)
        };
        let done = workers().all(["1234567890"], &mounts(), now(), &Stop::default(), work).unwrap();
        assert_eq!(told(&done), ["1234567890 10"]);
    }

    #[test]
    fn jobs_that_nobody_waits_for_are_not_begun_and_one_that_panics_is_an_error() {
        let stop = Stop::default();
        stop.ask();
        let never = |_: &&'static str, _: &Progress| -> Result<u32, Error> { panic!("of a test") };
        assert!(workers().all(["/a"], &mounts(), now(), &stop, never).is_err());
        let error = workers().all(["/a"], &mounts(), now(), &Stop::default(), never).unwrap_err();
        assert_eq!(error.0, "the collector broke off: of a test; please report this");
    }
}
