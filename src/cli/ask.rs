//! Questions to a person at a terminal. Where there is none, nothing is asked and nothing is guessed.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use secrecy::SecretString;

use crate::cli::exit::{Exit, Failed};
use crate::cli::text::fold;

/// Whether there is somebody to ask.
pub(super) fn somebody() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// One line; an empty answer is the default, if there is one.
pub(super) fn line(question: &str, default: Option<&str>) -> Result<String, Failed> {
    let shown = default.map(|default| format!(" [{default}]")).unwrap_or_default();
    loop {
        eprint!("{} ", fold(&format!("{question}{shown}:"), 2));
        let answer = read()?;
        match (answer.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

/// One line that is not shown while it is typed.
pub(super) fn secret(question: &str) -> Result<SecretString, Failed> {
    let stdin = std::io::stdin();
    let before = tcgetattr(stdin.as_fd()).map_err(no_terminal)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    // First silent, then asked: whoever answers at once is not shown either.
    tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &silent).map_err(no_terminal)?;
    eprint!("{} ", fold(&format!("{question}:"), 2));
    let answer = read();
    let restored = tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &before);
    eprintln!();
    restored.map_err(no_terminal)?;
    Ok(SecretString::from(answer?.trim().to_owned()))
}

fn read() -> Result<String, Failed> {
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(0) => Err(Failed::new(Exit::Usage, "there is no answer: nothing was written")),
        Ok(_) => Ok(line),
        Err(error) => Err(Failed::new(Exit::Usage, format!("the answer can't be read: {error}"))),
    }
}

fn no_terminal(error: nix::errno::Errno) -> Failed {
    Failed::new(Exit::Usage, format!("the terminal can't be used: {error}"))
}
