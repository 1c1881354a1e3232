//! The agent's binary: parses the command line, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(waldur_usage_agent::cli::Cli::main())
}
