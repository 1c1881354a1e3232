//! `check` of the token: whose it is, whether it lives, whether it is kept where the service finds it and nobody else does.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::findings::Findings;
use crate::cli::exit::Exit;
use crate::cli::setup::Setup;
use crate::config::page::PageSettings;
use crate::config::settings::DEFAULT_PATH;
use crate::config::waldur::{TokenOrigin, WaldurSettings};
use crate::waldur::types::Me;
use crate::wire::secret;

/// Finds the token as the service does, and tells what the service can't read.
pub(super) fn use_token_of_service(waldur: &mut WaldurSettings, path: Option<&Path>, found: &mut Findings) {
    match &waldur.token {
        TokenOrigin::Usual => {
            let file = path.unwrap_or(Path::new(DEFAULT_PATH)).with_file_name("token");
            found.good(format!("token: {}, which the service gets as a credential", file.display()));
            waldur.token = TokenOrigin::File(file);
        }
        TokenOrigin::Env(name) => found.warning(format!(
            "token: the service has {name} only if a drop-in of its unit sets it; better leave `token_env` out and put the token \
             into {}",
            path.unwrap_or(Path::new(DEFAULT_PATH)).with_file_name("token").display()
        )),
        TokenOrigin::File(file) => {
            let mode = secret::metadata(file).map(|data| data.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o044 == 0) {
                found.warning(format!(
                    "token: {} is for its owner alone, and the service has a user of its own: leave `token_file` out, and the \
                     unit hands the file `token` beside the configuration over as a credential",
                    file.display()
                ));
            }
        }
    }
}

/// A token that others can read is everybody's.
pub(super) fn check_token_files(setup: &Setup, found: &mut Findings) {
    let mut files = Vec::new();
    if let Some(TokenOrigin::File(file)) = setup.settings.waldur.as_ref().map(|waldur| &waldur.token) {
        files.push(("token", file));
    }
    if let Some(PageSettings::Address(_, file)) = &setup.settings.page {
        files.push(("page", file));
    }
    for (what, file) in &files {
        if file.is_relative() {
            found.warning(format!(
                "{what}: {} is relative to where a command is started, and the service is started elsewhere: write the whole path",
                file.display()
            ));
        }
    }
    for (what, file) in files {
        let Ok(data) = secret::metadata(file) else { continue };
        if data.permissions().mode() & 0o004 != 0 {
            found.warning(format!(
                "{what}: every user of this machine can read {}; `chmod o-r` it, and take another token if somebody may have",
                file.display()
            ));
        }
    }
}

pub(super) fn check_token(me: &Me, found: &mut Findings) {
    let who = &me.username;
    match me.token_lifetime {
        None => found.good(format!("token: of user {who}; it does not expire")),
        Some(seconds) => found.warning(format!(
            "token: of user {who}; it expires after {seconds} s without a request. The daemon keeps it alive; for `flush` from \
             cron, use a token without a lifetime"
        )),
    }
    // Which role reports which offering is told with the offering.
    if !me.is_staff && me.permissions.is_empty() {
        found.problem(
            Exit::Token,
            format!("user {who} has no role anywhere: make it manager of the offering (OFFERING.MANAGER)"),
        );
    }
}
