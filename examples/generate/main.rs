//! Makes what is installed beside the program from the program's own types: a man page of each command, and completions
//! of bash, zsh and fish. It is an example, so that nothing of it is in the agent.
//!
//!     cargo run --example generate -- target/assets
//!
//! And, into a second directory that is named, what is kept in docs/: the reference of keys and the JSON Schema.
//!
//!     cargo run --example generate -- target/assets docs

use std::io::Error;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use waldur_usage_agent::cli::Cli;

mod reference;

const NAME: &str = "waldur-usage-agent";

fn main() -> Result<(), Error> {
    let directory = std::env::args_os().nth(1).ok_or_else(|| Error::other("into which directory?"))?;
    let directory = Path::new(&directory);
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    for made in [&man, &completions] {
        if made.exists() {
            std::fs::remove_dir_all(made)?;
        }
        std::fs::create_dir_all(made)?;
    }
    // The version in the pages is the release's: the same sources make the same pages whatever the commit.
    let command = Cli::command().version(env!("CARGO_PKG_VERSION"));
    clap_mangen::generate_to(command.clone(), &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command.clone(), NAME, &completions)?;
    }
    println!("{}", directory.display());
    if let Some(docs) = std::env::args_os().nth(2) {
        let docs = Path::new(&docs);
        let table = std::fs::read_to_string(docs.join("keys.yaml"))?;
        let sections = reference::read(&table).map_err(Error::other)?;
        let schema = format!("{:#}\n", reference::schema(&sections));
        std::fs::write(docs.join("agent.schema.json"), schema)?;
        std::fs::write(docs.join("configuration.md"), reference::page(&sections))?;
        println!("{}", docs.display());
    }
    Ok(())
}
