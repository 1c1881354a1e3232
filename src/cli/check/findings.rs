//! What `check` found, in the order in which it was looked for, and the exit code that it comes to.

use crate::cli::exit::Exit;
use crate::waldur::failure::{Failure, NO_TLS};

/// What was found, in the order in which it was looked for.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) lines: Vec<(Mark, String)>,
    pub(super) exit: Option<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Good,
    Warning,
    Problem,
}

impl Mark {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mark::Good => "ok",
            Mark::Warning => "warning",
            Mark::Problem => "problem",
        }
    }
}

impl Findings {
    pub(super) fn good(&mut self, line: impl Into<String>) {
        self.lines.push((Mark::Good, line.into()));
    }

    pub(super) fn warning(&mut self, line: impl Into<String>) {
        self.lines.push((Mark::Warning, line.into()));
    }

    pub(super) fn problem(&mut self, exit: Exit, line: impl Into<String>) {
        self.lines.push((Mark::Problem, line.into()));
        self.exit = Some(self.exit.map_or(exit, |known| known.min(exit)));
    }
}

pub(super) fn tell_failure(found: &mut Findings, failure: &Failure) {
    let (exit, remedy) = match failure {
        Failure::Token { .. } => (Exit::Token, "put a valid token where the configuration says it is"),
        Failure::Forbidden { .. } => {
            (Exit::Token, "give the token's user the role OFFERING.MANAGER on the offering")
        }
        Failure::Certificate { words, .. } if words == NO_TLS => {
            (Exit::Pending, "write http:// in `waldur.url`, or the port where the server speaks TLS")
        }
        Failure::Certificate { .. } => {
            (Exit::Pending, "name the server's authority in `waldur.ca_file`, or mend its certificate")
        }
        Failure::NotSent { .. } => {
            (Exit::Pending, "check `waldur.url`, the name service, the network and the proxy")
        }
        Failure::Redirected { .. } | Failure::Endpoint { .. } => {
            (Exit::Config, "check `waldur.url`: is a Waldur there?")
        }
        _ => (Exit::Pending, "try again; if it stays, look at the server"),
    };
    found.problem(exit, format!("{failure}\nwhat to do: {remedy}"));
}
