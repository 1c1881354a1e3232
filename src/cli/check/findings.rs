//! What `check` found, in the order in which it was looked for, and the exit code that it comes to.

use std::collections::BTreeMap;

use crate::cli::exit::Exit;
use crate::cli::text::thousands;
use crate::waldur::failure::{Failure, NO_TLS};

/// What was found, in the order in which it was looked for.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) lines: Vec<Finding>,
    pub(super) exit: Option<Exit>,
}

#[derive(Debug)]
pub(super) struct Finding {
    pub(super) mark: Mark,
    pub(super) text: String,
    /// Of what there may be very many: what it is called, in the plural. For people they are summed up.
    pub(super) of_many: Option<&'static str>,
}

/// So many of one kind are shown to people one by one.
const SHOWN: usize = 8;

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
    fn push(&mut self, mark: Mark, text: String, of_many: Option<&'static str>) {
        self.lines.push(Finding { mark, text, of_many });
    }

    pub(super) fn good(&mut self, line: impl Into<String>) {
        self.push(Mark::Good, line.into(), None);
    }

    /// One of `kind`, which is a plural, where all is well.
    pub(super) fn good_of_many(&mut self, kind: &'static str, line: impl Into<String>) {
        self.push(Mark::Good, line.into(), Some(kind));
    }

    pub(super) fn warning(&mut self, line: impl Into<String>) {
        self.push(Mark::Warning, line.into(), None);
    }

    /// One of `kind`, which is a plural.
    pub(super) fn warning_of_many(&mut self, kind: &'static str, line: impl Into<String>) {
        self.push(Mark::Warning, line.into(), Some(kind));
    }

    pub(super) fn problem(&mut self, exit: Exit, line: impl Into<String>) {
        self.push(Mark::Problem, line.into(), None);
        self.exit = Some(self.exit.map_or(exit, |known| known.min(exit)));
    }

    /// What is shown to people: of a kind that there are very many of the first ones, and how many more.
    pub(super) fn summed_up(&self) -> Vec<(Mark, String)> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut shown = Vec::new();
        for one in &self.lines {
            if let Some(kind) = one.of_many {
                let number = seen.entry(kind).or_default();
                *number += 1;
                if *number > SHOWN {
                    if *number == SHOWN + 1 {
                        let all = self.lines.iter().filter(|other| other.of_many == Some(kind)).count();
                        let left = thousands(all - SHOWN);
                        shown.push((one.mark, format!("and {left} more {kind} (`check --json` has all)")));
                    }
                    continue;
                }
            }
            shown.push((one.mark, one.text.clone()));
        }
        shown
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
            (Exit::Pending, "name the server's authority in `waldur.ca_file`, or fix its certificate")
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
