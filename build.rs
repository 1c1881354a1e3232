//! Tells the program which commit it is built of: from git, or as the source archive says, or as whoever builds it does
//! (WALDUR_USAGE_AGENT_COMMIT). Never a reason not to build.

use std::process::Command;

/// `git archive` writes the commit here (.gitattributes).
const ARCHIVED: &str = "$Format:%h$";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WALDUR_USAGE_AGENT_COMMIT");
    let named = std::env::var("WALDUR_USAGE_AGENT_COMMIT").ok();
    let archived = (!ARCHIVED.starts_with('$')).then(|| ARCHIVED.to_owned());
    let commit = named.or(archived).or_else(of_git).filter(|commit| {
        !commit.is_empty() && commit.len() <= 40 && commit.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    let commit = commit.map_or("commit unknown".to_owned(), |commit| format!("commit {commit}"));
    println!("cargo::rustc-env=WALDUR_USAGE_AGENT_COMMIT={commit}");
}

/// Of this directory's own repository: a source archive that lies in another one is none of its commits.
fn of_git() -> Option<String> {
    if !std::path::Path::new(".git").exists() {
        return None;
    }
    // Built anew when the commit changes.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=10", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let done = Command::new("git").args(arguments).output().ok().filter(|done| done.status.success())?;
    String::from_utf8(done.stdout).ok().map(|text| text.trim().to_owned())
}
