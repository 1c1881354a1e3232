//! Keeps the token: reads it where it is kept, reads it again when that changes, and shows it to nobody.
//!
//! It never writes a token, and no message of it holds one.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use crate::config::waldur::{TokenOrigin, check_token};

/// A token is 40 characters; a file larger than this is not a token's.
const LONGEST: u64 = 4096;

/// Where the token really is, once the environment has been asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Env(String),
}

/// The token and where it comes from.
pub struct TokenSource {
    place: Place,
    held: Mutex<Held>,
}

struct Held {
    token: Arc<SecretString>,
    stamp: Option<Stamp>,
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

/// Why there is no token to send. Names the place, never the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoToken(String);

impl TokenSource {
    /// Finds the token and reads it for the first time.
    pub fn open(origin: &TokenOrigin) -> Result<TokenSource, NoToken> {
        Self::open_with(origin, |name| std::env::var_os(name))
    }

    fn open_with(origin: &TokenOrigin, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, NoToken> {
        let place = locate(origin, &env)?;
        let (token, stamp) = match &place {
            Place::File(path) => read_file(path)?,
            Place::Env(name) => (read_env(name, env(name))?, None),
        };
        Ok(TokenSource { place, held: Mutex::new(Held { token: Arc::new(token), stamp }) })
    }

    /// Where it is kept, for people.
    pub fn place(&self) -> String {
        match &self.place {
            Place::File(path) => format!("the file {}", path.display()),
            Place::Env(name) => format!("the environment's {name}"),
        }
    }

    /// The token to send now. A file is looked at each time, and read if it has changed. One that has become
    /// unreadable leaves the last good token in use: somebody may be in the middle of replacing it, and a token
    /// that is no longer valid is the server's to refuse.
    pub fn current(&self) -> Arc<SecretString> {
        let Place::File(path) = &self.place else { return self.lock().token.clone() };
        let stamp = Stamp::of(path).ok();
        if stamp.is_some() && stamp == self.lock().stamp {
            return self.lock().token.clone();
        }
        self.reread(path)
    }

    /// The token after it was refused: read again whatever the file's stamp says. `None` if it is still the
    /// refused one, so that asking again is of no use.
    pub fn after_refusal(&self, refused: &SecretString) -> Option<Arc<SecretString>> {
        let Place::File(path) = &self.place else { return None };
        let token = self.reread(path);
        (token.expose_secret() != refused.expose_secret()).then_some(token)
    }

    fn reread(&self, path: &Path) -> Arc<SecretString> {
        let read = read_file(path);
        let mut held = self.lock();
        match read {
            Ok((token, stamp)) => {
                held.stamp = stamp;
                if token.expose_secret() != held.token.expose_secret() {
                    held.token = Arc::new(token);
                }
            }
            Err(problem) => {
                // Told once, and not before each call: the stamp that was seen is kept.
                let stamp = Stamp::of(path).ok();
                if held.stamp != stamp {
                    warn!(%problem, "The token cannot be read again; the last good one stays in use.");
                    held.stamp = stamp;
                }
            }
        }
        held.token.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").field("place", &self.place).finish_non_exhaustive()
    }
}

fn locate(origin: &TokenOrigin, env: impl Fn(&str) -> Option<OsString>) -> Result<Place, NoToken> {
    match origin {
        TokenOrigin::File(path) => Ok(Place::File(path.clone())),
        TokenOrigin::Env(name) => Ok(Place::Env(name.clone())),
        TokenOrigin::Usual => {
            // systemd sets the directory for any credential of the unit, so only a `token` in it counts.
            let credential = env("CREDENTIALS_DIRECTORY").map(|d| PathBuf::from(d).join("token"));
            match credential.filter(|path| path.exists()) {
                Some(path) => Ok(Place::File(path)),
                None if env(TokenOrigin::USUAL_ENV).is_some() => {
                    Ok(Place::Env(TokenOrigin::USUAL_ENV.into()))
                }
                None => Err(NoToken(format!(
                    "no token: set waldur.token_file or waldur.token_env, give the unit a credential named \
                     `token`, or set {} in the environment",
                    TokenOrigin::USUAL_ENV
                ))),
            }
        }
    }
}

fn read_env(name: &str, value: Option<OsString>) -> Result<SecretString, NoToken> {
    let value =
        value.ok_or_else(|| NoToken(format!("the environment has no variable {name} with a token")))?;
    let value = value.into_string().map_err(|_| NoToken(format!("the token in {name} is not text")))?;
    checked(&value, || format!("the token in the environment's {name}"))
}

fn read_file(path: &Path) -> Result<(SecretString, Option<Stamp>), NoToken> {
    let named = || format!("the token file {}", path.display());
    let cannot = |error: std::io::Error| NoToken(format!("{} cannot be read: {error}", named()));
    // The stamp is taken first: a change while reading is then seen as one next time.
    let stamp = Stamp::of(path).map_err(cannot)?;
    let mut text = String::new();
    let file = fs::File::open(path).map_err(cannot)?;
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(cannot)?;
    if text.len() as u64 > LONGEST {
        return Err(NoToken(format!("{} is too long for a token", named())));
    }
    Ok((checked(&text, named)?, Some(stamp)))
}

fn checked(text: &str, named: impl Fn() -> String) -> Result<SecretString, NoToken> {
    let token = text.trim();
    check_token(token).map_err(|problem| NoToken(format!("{} {problem}", named())))?;
    Ok(SecretString::from(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(token: &SecretString) -> &str {
        token.expose_secret()
    }

    #[test]
    fn a_token_is_trimmed_and_never_shown() {
        let env = |name: &str| (name == "T").then(|| OsString::from(" s3cret\n"));
        let source = TokenSource::open_with(&TokenOrigin::Env("T".into()), env).unwrap();
        assert_eq!(shown(&source.current()), "s3cret");
        assert!(!format!("{source:?} {:?}", source.current()).contains("s3cret"));
    }

    #[test]
    fn a_bad_token_is_named_by_its_place_alone() {
        for bad in ["", "  \n", "top secret", "top\0secret"] {
            let env = |_: &str| Some(OsString::from(bad));
            let problem = TokenSource::open_with(&TokenOrigin::Env("T".into()), env).unwrap_err().to_string();
            assert!(problem.contains("environment's T") && !problem.contains("top"), "{problem}");
        }
    }

    #[test]
    fn a_rotated_file_is_read_again_and_a_broken_one_keeps_the_last_good_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "first\n").unwrap();
        let source = TokenSource::open(&TokenOrigin::File(path.clone())).unwrap();
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

    #[test]
    fn the_usual_place_is_the_credential_then_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().as_os_str().to_owned();
        let env = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" => Some(directory.clone()),
            "WALDUR_TOKEN" => Some("from-env".into()),
            _ => None,
        };
        let open = || TokenSource::open_with(&TokenOrigin::Usual, env).unwrap();
        assert_eq!(shown(&open().current()), "from-env");
        fs::write(folder.path().join("token"), "from-systemd").unwrap();
        assert_eq!(shown(&open().current()), "from-systemd");
        let problem = TokenSource::open_with(&TokenOrigin::Usual, |_| None).unwrap_err();
        assert!(problem.to_string().contains("token_file"), "{problem}");
    }
}
