//! Runs a program of the operator's and reads what it prints: one JSON object a line, each a reading. Whatever can be
//! measured with a script becomes a collector this way.
//!
//! It never runs a shell of its own, never hands the token on, and never takes a part of an answer: a program that
//! fails, takes too long or prints too much has said nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;

use super::process::{Program, Remedies};
use super::{Batch, Collector, CollectorError, Offered, Plugin, Request, Running, blocking};
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use history::History;

mod history;
pub(super) mod protocol;

pub const PLUGIN: Plugin = Plugin {
    name: "exec",
    about: "a program of yours that prints one JSON object a line",
    is_shared: false,
    build,
};

const DEFAULT_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
const DEFAULT_MAX_OUTPUT: u64 = 16 * 1024 * 1024;

/// A configured collector.
#[derive(Debug)]
struct Exec {
    command: Vec<String>,
    env: Vec<(String, String)>,
    timeout: SignedDuration,
    max_output: u64,
    /// The readings that meters ask for; all where nobody says.
    metered: Arc<BTreeSet<String>>,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let timeout = section.parse_with("timeout", parse_duration);
    let max_output = section.parse_with("max_output", parse_size);
    let mut env = Vec::new();
    for text in section.texts("env").unwrap_or_default() {
        match variable(&text) {
            Ok(variable) => env.push(variable),
            Err(why) => section.problem("env", why),
        }
    }
    let had_command = section.has("command");
    let command = section.texts("command");
    match &command {
        Some(argv) if argv.first().is_none_or(|program| program.is_empty()) => {
            section.problem(
                "command",
                "is empty: write the program and its arguments, such as [/path/to/program, --all]",
            );
            return None;
        }
        Some(argv) if argv.iter().any(|argument| argument.contains('\0')) => {
            section.problem("command", "contains a NUL character");
            return None;
        }
        None if !had_command => section.problem(
            "",
            "`command` is missing: the program to run and its arguments, such as [/path/to/program, --all]",
        ),
        _ => {}
    }
    Some(Box::new(Exec {
        command: command?,
        env,
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
        max_output: max_output.unwrap_or(DEFAULT_MAX_OUTPUT),
        metered: Arc::new(section.peek_each("meters", "reading").into_iter().collect()),
    }))
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("`{text}` must be NAME=value")),
    }
}

/// Reads a number of bytes: `1048576`, `64KiB`, `16MiB` or `1GiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(format!("`{text}` is not a number of bytes such as 1048576, 64KiB or 16MiB")),
    };
    let bytes = count.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift));
    match bytes {
        // All of it is held in memory.
        Some(bytes) if (1..=1 << 30).contains(&bytes) => Ok(bytes),
        _ => Err(format!("`{text}` must be at least 1 byte and at most 1GiB")),
    }
}

impl Exec {
    async fn run(&self, request: Request) -> Result<Batch, CollectorError> {
        let mut history = History::read(request.checkpoint.as_deref());
        let given = history.give(request.since, request.now);
        let mut env = vec![
            ("WALDUR_USAGE_NOW".to_owned(), request.now.to_string()),
            ("WALDUR_USAGE_SINCE".to_owned(), given.since.to_string()),
        ];
        env.extend(given.checkpoint.clone().map(|text| ("WALDUR_USAGE_CHECKPOINT".to_owned(), text)));
        env.extend(self.env.iter().cloned());
        let program = Program {
            argv: &self.command,
            env,
            withhold: &request.withhold,
            time_limit: self.timeout,
            max_output: self.max_output,
            remedies: Remedies {
                output: "print less, or raise `max_output`",
                time: "make it quicker, or raise `timeout`",
            },
        };
        let output = program.run().await.map_err(|why| {
            let name = self.command.first().map(String::as_str).unwrap_or_default();
            CollectorError(format!("`{name}`: {why}"))
        })?;
        let metered = self.metered.clone();
        // Reading many lines takes a while.
        blocking::run(move |_| {
            let mut batch = Batch { notes: output.notes, ..Batch::default() };
            if !output.stderr.is_empty() {
                batch.notes.push(format!("it said on stderr: {}", output.stderr));
            }
            protocol::read(&output.stdout, request.now, &mut batch);
            history.take(given, request.now, &mut batch, &metered);
            Ok(batch)
        })
        .await
    }
}

impl Collector for Exec {
    fn offers(&self) -> &[Offered] {
        &[]
    }

    fn labels(&self) -> &[&'static str] {
        &[]
    }

    fn scope(&self) -> String {
        self.command.join(" ")
    }

    fn may_fall_silent(&self) -> bool {
        true
    }

    fn carry_over(&self, old: &str, new: String) -> String {
        let mut history = History::read(Some(&new));
        history.add(History::read(Some(old)));
        history.text().unwrap_or(new)
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(self.run(request))
    }
}

#[cfg(test)]
mod tests;
