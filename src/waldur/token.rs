//! Finds the token of the configuration: which file or variable it is kept in.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::waldur::TokenOrigin;
use crate::wire::secret::{NoSecret, Place, Secret, Sort};

/// Finds the token and reads it for the first time.
pub(super) fn open(origin: &TokenOrigin) -> Result<Secret, NoSecret> {
    open_with(origin, |name| std::env::var_os(name))
}

fn open_with(origin: &TokenOrigin, env: impl Fn(&str) -> Option<OsString>) -> Result<Secret, NoSecret> {
    Secret::open_with(locate(origin, &env)?, Sort::Token, env)
}

fn locate(origin: &TokenOrigin, env: impl Fn(&str) -> Option<OsString>) -> Result<Place, NoSecret> {
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
                None => Err(NoSecret::Unusable(format!(
                    "no token: set waldur.token_file or waldur.token_env, give the unit a credential named \
                     `token`, or set {} in the environment",
                    TokenOrigin::USUAL_ENV
                ))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_usual_place_is_the_credential_then_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().as_os_str().to_owned();
        let env = |name: &str| match name {
            "CREDENTIALS_DIRECTORY" => Some(directory.clone()),
            "WALDUR_TOKEN" => Some("from-env".into()),
            _ => None,
        };
        let shown = || {
            let source = open_with(&TokenOrigin::Usual, env).unwrap();
            source.current().expose_secret().to_owned()
        };
        assert_eq!(shown(), "from-env");
        fs::write(folder.path().join("token"), "from-systemd").unwrap();
        assert_eq!(shown(), "from-systemd");
        let problem = open_with(&TokenOrigin::Usual, |_| None).unwrap_err();
        assert!(problem.to_string().contains("token_file"), "{problem}");
    }
}
