//! Keeps a secret: reads it where it is kept, reads it again when that changes, and shows it to nobody.
//!
//! It never writes one, and no message of it holds one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use crate::config::waldur::check_token;

/// A token is 40 characters to a few thousand; a larger file is something else.
const LONGEST: u64 = 16 * 1024;

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    Env(String),
}

/// What kind of secret it is: which texts can be one, and how messages call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Sent in a header as it is: without blanks around or inside.
    Token,
    /// Any text but an empty one; the line break that editors leave at its end is none of it.
    Password,
}

impl Sort {
    fn name(self) -> &'static str {
        match self {
            Sort::Token => "token",
            Sort::Password => "password",
        }
    }
}

/// The secret and where it comes from.
pub struct Secret {
    sort: Sort,
    place: Place,
    held: Mutex<Held>,
}

struct Held {
    secret: Arc<SecretString>,
    stamp: Option<Stamp>,
}

/// How long one look at a file may take. A server that fails over takes less; the deadlines of commands are longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks that did not come back in time, by the file, and whether they have by now: as long as one hangs, nothing more is
/// asked of that file, so that threads don't pile up behind a dead server.
static HANGING: Mutex<BTreeMap<PathBuf, Arc<AtomicBool>>> = Mutex::new(BTreeMap::new());

/// Looks at a file on a thread of its own, because a dead NFS server answers no call.
fn look<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let hanging = || HANGING.lock().unwrap_or_else(PoisonError::into_inner);
    let no_answer = || {
        let words = "its file system does not answer (a dead NFS server?)";
        std::io::Error::new(std::io::ErrorKind::TimedOut, words)
    };
    if hanging().get(path).is_some_and(|is_back| !is_back.load(Ordering::Acquire)) {
        return Err(no_answer());
    }
    let (done, is_done) = std::sync::mpsc::channel();
    let is_back = Arc::new(AtomicBool::new(false));
    let (place, ended) = (path.to_owned(), is_back.clone());
    std::thread::Builder::new().name("secret".to_owned()).spawn(move || {
        let result = work(&place);
        ended.store(true, Ordering::Release);
        // Nobody waits for it any more if it took too long.
        let _ = done.send(result);
    })?;
    is_done.recv_timeout(patience).unwrap_or_else(|_| {
        hanging().insert(path.to_owned(), is_back);
        Err(no_answer())
    })
}

/// What the system knows of a file that holds a secret.
pub fn metadata(path: &Path) -> std::io::Result<fs::Metadata> {
    look(path, PATIENCE, |path| fs::metadata(path))
}

/// What tells one content of a file from another without reading it: a rotation renames a new file over the old
/// one (another inode) or rewrites it (another time or length).
#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> std::io::Result<Stamp> {
        let data = fs::metadata(path)?;
        Ok(Stamp {
            device: data.dev(),
            inode: data.ino(),
            length: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// Why there is no secret to send. Names the place, never the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub enum NoSecret {
    /// It is not there, or none.
    Unusable(String),
    /// Its file system does not answer, which may pass.
    NoAnswer(String),
}

impl Secret {
    /// Reads it for the first time.
    pub fn open(place: Place, sort: Sort) -> Result<Secret, NoSecret> {
        Self::open_with(place, sort, |name| std::env::var_os(name))
    }

    /// The same with another environment.
    pub fn open_with(
        place: Place,
        sort: Sort,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Secret, NoSecret> {
        let (secret, stamp) = match &place {
            Place::File(path) => read_file(path, sort)?,
            Place::Env(name) => (read_env(name, sort, env(name))?, None),
        };
        Ok(Secret { sort, place, held: Mutex::new(Held { secret: Arc::new(secret), stamp }) })
    }

    /// Where it is kept, for people.
    pub fn place(&self) -> String {
        match &self.place {
            Place::File(path) => format!("the file {}", path.display()),
            Place::Env(name) => format!("the environment's {name}"),
        }
    }

    /// The secret to send now. A file is looked at each time, and read if it has changed. One that has become
    /// unreadable leaves the last good secret in use: somebody may be in the middle of replacing it, and one
    /// that is no longer valid is the server's to refuse.
    pub fn current(&self) -> Arc<SecretString> {
        let Place::File(path) = &self.place else { return self.lock().secret.clone() };
        let stamp = look(path, PATIENCE, Stamp::of).ok();
        if stamp.is_some() && stamp == self.lock().stamp {
            return self.lock().secret.clone();
        }
        self.reread(path)
    }

    /// The secret after it was refused: read again whatever the file's stamp says. `None` if it is still the
    /// refused one, so that asking again is of no use.
    pub fn after_refusal(&self, refused: &SecretString) -> Option<Arc<SecretString>> {
        let Place::File(path) = &self.place else { return None };
        let secret = self.reread(path);
        (secret.expose_secret() != refused.expose_secret()).then_some(secret)
    }

    fn reread(&self, path: &Path) -> Arc<SecretString> {
        let read = read_file(path, self.sort);
        let mut held = self.lock();
        match read {
            Ok((secret, stamp)) => {
                held.stamp = stamp;
                if secret.expose_secret() != held.secret.expose_secret() {
                    held.secret = Arc::new(secret);
                }
            }
            Err(problem) => {
                // Told once, and not before each call: the stamp that was seen is kept.
                let stamp = look(path, PATIENCE, Stamp::of).ok();
                if held.stamp != stamp {
                    let name = self.sort.name();
                    warn!(%problem, "The {name} cannot be read again; the last good one stays in use.");
                    held.stamp = stamp;
                }
            }
        }
        held.secret.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("place", &self.place).finish_non_exhaustive()
    }
}

fn read_env(name: &str, sort: Sort, value: Option<OsString>) -> Result<SecretString, NoSecret> {
    let what = sort.name();
    let value = value
        .ok_or_else(|| NoSecret::Unusable(format!("the environment has no variable {name} with a {what}")))?;
    let value =
        value.into_string().map_err(|_| NoSecret::Unusable(format!("the {what} in {name} is not text")))?;
    checked(&value, sort, || format!("the {what} in the environment's {name}"))
}

fn read_file(path: &Path, sort: Sort) -> Result<(SecretString, Option<Stamp>), NoSecret> {
    let what = sort.name();
    let named = || format!("the {what} file {}", path.display());
    let read = look(path, PATIENCE, |path| {
        // The stamp is taken first: a change while reading is then seen as one next time.
        let stamp = Stamp::of(path)?;
        if !fs::metadata(path)?.is_file() {
            // A pipe would wait for its writer for ever, and be empty the next time.
            return Ok(None);
        }
        let mut text = String::new();
        fs::File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
        Ok(Some((text, stamp)))
    });
    let read = read.map_err(|error| {
        let words = format!("{} cannot be read: {error}", named());
        match error.kind() {
            std::io::ErrorKind::TimedOut => NoSecret::NoAnswer(words),
            _ => NoSecret::Unusable(words),
        }
    })?;
    let Some((text, stamp)) = read else {
        return Err(NoSecret::Unusable(format!("{} is no regular file", named())));
    };
    if text.len() as u64 > LONGEST {
        return Err(NoSecret::Unusable(format!("{} is too long for a {what}", named())));
    }
    Ok((checked(&text, sort, named)?, Some(stamp)))
}

fn checked(text: &str, sort: Sort, named: impl Fn() -> String) -> Result<SecretString, NoSecret> {
    let (text, verdict) = match sort {
        Sort::Token => (text.trim(), check_token(text.trim())),
        Sort::Password => {
            let text = text.trim_end_matches(['\r', '\n']);
            (text, if text.is_empty() { Err("is empty") } else { Ok(()) })
        }
    };
    verdict.map_err(|problem| NoSecret::Unusable(format!("{} {problem}", named())))?;
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secret: &SecretString) -> &str {
        secret.expose_secret()
    }

    fn env(value: &'static str) -> impl Fn(&str) -> Option<OsString> {
        move |name| (name == "T").then(|| OsString::from(value))
    }

    #[test]
    fn a_secret_is_trimmed_and_never_shown() {
        let place = || Place::Env("T".into());
        let token = Secret::open_with(place(), Sort::Token, env(" s3cret\n")).unwrap();
        assert_eq!(shown(&token.current()), "s3cret");
        assert!(!format!("{token:?} {:?}", token.current()).contains("s3cret"));
        let password = Secret::open_with(place(), Sort::Password, env(" grün & 3 \r\n")).unwrap();
        assert_eq!(shown(&password.current()), " grün & 3 ");
    }

    #[test]
    fn a_bad_token_is_named_by_its_place_alone() {
        for bad in ["", "  \n", "top secret", "top\0secret"] {
            let problem = Secret::open_with(Place::Env("T".into()), Sort::Token, env(bad)).unwrap_err();
            let problem = problem.to_string();
            assert!(problem.contains("environment's T") && !problem.contains("top"), "{problem}");
        }
        let problem = Secret::open_with(Place::Env("T".into()), Sort::Password, env("\n")).unwrap_err();
        assert_eq!(problem.to_string(), "the password in the environment's T is empty");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("token");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for place in [pipe, folder.path().to_owned()] {
            let problem = Secret::open(Place::File(place), Sort::Token).unwrap_err().to_string();
            assert!(problem.ends_with(" is no regular file"), "{problem}");
        }
    }

    /// A dead server: the look ends, the file is named, and no second thread waits behind the first.
    #[test]
    fn a_file_that_hangs_is_not_waited_for() {
        let path = PathBuf::from("/nowhere/token that hangs");
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let patience = Duration::from_millis(20);
        let hung = look(&path, patience, move |_| Ok(wait.recv().is_err()));
        assert_eq!(hung.unwrap_err().to_string(), "its file system does not answer (a dead NFS server?)");
        assert!(look(&path, Duration::from_secs(60), |_| Ok(())).is_err());
        drop(release);
        while look(&path, Duration::from_secs(60), |_| Ok(())).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_rotated_file_is_read_again_and_a_broken_one_keeps_the_last_good_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let source = Secret::open(Place::File(path.clone()), Sort::Token).unwrap();
        assert_eq!(shown(&source.current()), "first");

        fs::write(folder.path().join("new"), "secnd\n").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(shown(&source.current()), "secnd");

        fs::write(&path, "").unwrap();
        assert_eq!(shown(&source.current()), "secnd");
        fs::remove_file(&path).unwrap();
        assert_eq!(shown(&source.current()), "secnd");
        fs::write(&path, "third").unwrap();
        assert_eq!(shown(&source.current()), "third");
        assert!(source.after_refusal(&SecretString::from("third")).is_none());
        assert!(source.after_refusal(&SecretString::from("secnd")).is_some());
    }
}
