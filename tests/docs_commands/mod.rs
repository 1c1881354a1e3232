//! Runs the commands of a page: those in fences of `sh`, those that are indented, and in fences of `console` those after `$ `,
//! whose answers are compared with what is shown. All of a page runs in one shell and one empty directory, in the order of
//! the page. What needs more than that (another host, root, minutes) stands in `ELSEWHERE`, with where it is run.

#![allow(dead_code, reason = "each test program uses its part of it")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

pub(crate) mod elsewhere;

use std::path::Path;
use std::process::{Command, Stdio};

/// A command, and what it should answer if anything is shown.
struct Step {
    command: String,
    shown: Option<Vec<String>>,
}

/// The blocks of a page that are commands, or may be: the language (`` where they are indented) and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks: Vec<(String, String)> = Vec::new();
    let (mut fence, mut before) = (None::<String>, "");
    for line in page.lines() {
        match (&fence, line.strip_prefix("```"), line.strip_prefix("    ")) {
            (None, Some(language), _) => {
                fence = Some(language.to_owned());
                blocks.push((language.to_owned(), String::new()));
            }
            (Some(_), Some(_), _) => fence = None,
            (Some(_), None, _) => blocks.last_mut().unwrap().1 += &format!("{line}\n"),
            (None, None, Some(text)) => {
                if !before.starts_with("    ") {
                    blocks.push((String::new(), String::new()));
                }
                blocks.last_mut().unwrap().1 += &format!("{text}\n");
            }
            (None, None, None) => {}
        }
        before = line;
    }
    blocks.retain(|(language, _)| ["", "sh", "console"].contains(&language.as_str()));
    blocks
}

fn steps(name: &str, page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for (language, block) in blocks(page) {
        if elsewhere::of(name, &block).is_some() {
            continue;
        }
        match language.as_str() {
            "" if block.starts_with("CREATE ") => {
                let command = format!("psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 <<'SQL'\n{block}SQL");
                steps.push(Step { command, shown: None });
            }
            "" | "sh" => steps.push(Step { command: block, shown: None }),
            "console" => {
                for part in format!("\n{block}").split("\n$ ").skip(1) {
                    let (command, shown) = part.split_once('\n').unwrap_or((part, ""));
                    let shown = Some(shown.lines().map(str::to_owned).collect());
                    steps.push(Step { command: command.to_owned(), shown });
                }
            }
            _ => {}
        }
    }
    steps
}

/// Whether a line is as shown; `[...]` in it stands for anything.
fn line_is(line: &str, shown: &str) -> bool {
    let mut parts = shown.split("[...]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether an answer is as shown; a line `[...]` stands for any lines, and none.
fn answer_is(answer: &[&str], shown: &[String]) -> bool {
    match shown.split_first() {
        None => answer.is_empty(),
        Some((any, rest)) if any == "[...]" => {
            (0..=answer.len()).any(|skip| answer_is(&answer[skip..], rest))
        }
        Some((line, rest)) => answer
            .split_first()
            .is_some_and(|(first, others)| line_is(first, line) && answer_is(others, rest)),
    }
}

/// Runs a page in `directory`. `replace` is done to commands and answers: a port that may be taken, a place of the system's.
pub(crate) fn run(page: &str, directory: &Path, replace: &[(&str, &str)], before: &str) {
    const MARK: &str = "@@@ next @@@";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = if page == "README.md" { root.to_owned() } else { root.join("docs") };
    let text = std::fs::read_to_string(beside.join(page)).unwrap();
    let mut steps = steps(page, &text);
    for (from, to) in replace {
        for step in &mut steps {
            step.command = step.command.replace(from, to);
            step.shown.iter_mut().flatten().for_each(|line| *line = line.replace(from, to));
        }
    }
    assert!(!steps.is_empty(), "{page} has no commands");
    let mut script = format!("set -eu\n{before}\n");
    for step in &steps {
        script += &format!("echo '{MARK}'\n{}\n", step.command);
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_waldur-usage-agent")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(programs.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    std::fs::write(directory.join(".script"), script).unwrap();
    let log = std::fs::File::create(directory.join(".log")).unwrap();
    // With job control, as a person's shell has it: `kill %1`.
    let status = Command::new("bash")
        .args(["-m", ".script"])
        .current_dir(directory)
        .env_clear()
        .env("PATH", path.unwrap())
        .env("HOME", directory)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .status()
        .unwrap();
    let said = std::fs::read_to_string(directory.join(".log")).unwrap();
    let answers: Vec<&str> = said.split(&format!("{MARK}\n")).skip(1).collect();
    for (step, answer) in steps.iter().zip(&answers) {
        let lines: Vec<&str> = answer.lines().collect();
        if let Some(shown) = &step.shown {
            let shown: Vec<String> = shown.iter().filter(|line| !line.is_empty()).cloned().collect();
            let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            assert!(
                answer_is(&lines, &shown),
                "{page}: `{}` is shown to answer\n{}\nand answers\n{answer}",
                step.command,
                shown.join("\n")
            );
        }
    }
    assert!(status.success() && answers.len() == steps.len(), "{page}: {status}, in the end:\n{said}");
}

/// A port that nobody listens at just now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
