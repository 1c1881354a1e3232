//! The command line: one file a command. Each makes the parts it needs, does its work, and says how it ended.

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod agents;
mod ask;
mod check;
mod collect;
mod diff;
pub mod exit;
mod explain;
mod export;
mod flush;
mod init;
mod ledger;
mod log;
mod parked;
mod progress;
mod recorder;
mod recount;
mod rehearsal;
mod resolve;
mod run;
pub mod setup;
mod standing;
mod status;
mod table;
mod text;
mod units;
pub mod usages;
mod values;

use exit::{Exit, Failed};
use log::{LogFormat, LogLevel};
use setup::Setup;
use usages::UsagesError;

use crate::waldur::failure::Failure;

/// Measures what customers use, and makes Waldur's bill agree with it.
///
/// Collectors measure on their schedules; readings are kept in a local ledger; statements are reported to Waldur as
/// totals of the billing period. Start with `init` or a file of your own, then `check`, then `collect --dry-run`, then
/// `flush --collect`, then `run`.
#[derive(Debug, Parser)]
#[command(
    name = "waldur-usage-agent",
    version = crate::VERSION,
    max_term_width = 80,
    help_template = TEMPLATE,
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// The configuration file [default: /etc/waldur-usage-agent/agent.yaml].
    ///
    /// YAML or JSON. The variable WALDUR_USAGE_AGENT_CONFIG names it, too.
    // Read by ourselves: clap would put `--config <FILE>` into usage lines where the variable is set.
    #[arg(long, short, global = true, value_name = "FILE", display_order = 90)]
    config: Option<PathBuf>,
    /// How much is logged to stderr: error, warn, info, debug or trace.
    ///
    /// The variable WALDUR_USAGE_AGENT_LOG says it, too.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        value_enum,
        default_value_t,
        env = "WALDUR_USAGE_AGENT_LOG",
        hide_env = true,
        hide_possible_values = true,
        hide_default_value = true,
        display_order = 91
    )]
    log: LogLevel,
    /// How it is logged: text or json.
    ///
    /// The variable WALDUR_USAGE_AGENT_LOG_FORMAT says it, too.
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        env = "WALDUR_USAGE_AGENT_LOG_FORMAT",
        hide_env = true,
        hide_possible_values = true,
        hide_default_value = true,
        display_order = 92
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// What there is to do comes first.
const TEMPLATE: &str = "\
{about-with-newline}
Commands:
{subcommands}

{usage-heading} {usage}

Options:
{options}{after-help}";

const EXIT_CODES: &str = "\
Exit codes; of several, the first that applies:
  78  the configuration, or the ledger, can't be used
  77  the token was refused, or may not report
  69  a collector failed
  75  something is still pending, or Waldur is left alone after a failure
  65  something is parked, held, stranded, quarantined or wholly unmatched
  64  the command line can't be carried out as it stands
   1  `recount` found a difference, or a copied ledger differs
   0  none of these";

/// In the order in which they are needed.
#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Check(check::Check),
    Collect(collect::Collect),
    Flush(flush::Flush),
    Run(run::Run),
    Status(status::Status),
    Explain(explain::Explain),
    Diff(diff::Diff),
    Export(export::Export),
    Resolve(resolve::Resolve),
    Parked(parked::Parked),
    Usages(usages::Usages),
    Recount(recount::Recount),
    Ledger(ledger::Ledger),
    Agents(agents::Agents),
}

impl Cli {
    /// Runs the command and says how it ended, as an exit code.
    pub fn main() -> u8 {
        let cli = match Cli::try_parse() {
            Ok(cli) => cli,
            Err(error) => {
                if !error.use_stderr() {
                    let _ = error.print();
                    return Exit::Ok.code();
                }
                eprintln!("{}", text::fold_all(error.render().to_string().trim_end(), 4));
                return Exit::Usage.code();
            }
        };
        log::to_stderr(cli.log, cli.log_format, matches!(cli.command, Command::Run(_)));
        // A core would hold the token. Where the kernel will not have it, everything else is as it was.
        let _ = nix::sys::prctl::set_dumpable(false);
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("waldur-usage-agent: can't start: {error}");
                return Exit::Pending.code();
            }
        };
        let ended = runtime.block_on(cli.execute());
        // Nothing that still runs on another thread holds anything that is not in the ledger.
        runtime.shutdown_background();
        match ended {
            Ok(exit) => exit.code(),
            Err(failed) => {
                eprintln!("{}", text::fold_all(&format!("waldur-usage-agent: {}", failed.message), 4));
                failed.exit.code()
            }
        }
    }

    async fn execute(self) -> Result<Exit, Failed> {
        let of_environment = || {
            std::env::var_os("WALDUR_USAGE_AGENT_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from)
        };
        let path = self.config.or_else(of_environment);
        let path = path.as_deref();
        let mut out = std::io::stdout();
        let out: &mut dyn Write = &mut out;
        let ended = match self.command {
            Command::Check(command) => command.run(path, out).await,
            Command::Init(command) => command.run(path, out).await,
            Command::Run(command) => command.run(path).await,
            Command::Flush(command) => command.run(&Setup::load(path)?, out).await,
            Command::Collect(command) => command.run(&Setup::load(path)?, out).await,
            Command::Status(command) => match Setup::load(path) {
                Ok(setup) => command.run(&setup, out).await,
                Err(failed) => command.despite(failed, path, out),
            },
            Command::Explain(command) => command.run(&Setup::load(path)?, out).await,
            Command::Diff(command) => command.run(&Setup::load(path)?, out).await,
            Command::Export(command) => command.run(&Setup::load(path)?, out).await,
            Command::Recount(command) => command.run(&Setup::load(path)?, out),
            Command::Parked(command) => command.run(&Setup::load(path)?, out),
            Command::Agents(command) => command.run(&Setup::load(path)?, out),
            Command::Ledger(command) => command.run(&Setup::load(path)?, out).await,
            Command::Resolve(command) => command.run(&Setup::load(path)?, out),
            Command::Usages(command) => {
                let client = Setup::load(path)?.client()?;
                command.run(&client, out).await.map(|()| Exit::Ok).map_err(Failed::from)
            }
        };
        // `status | head` closes the pipe: that is no failure.
        match ended {
            Err(failed) if failed.broken_pipe => Ok(Exit::Ok),
            ended => ended,
        }
    }
}

impl From<UsagesError> for Failed {
    fn from(error: UsagesError) -> Self {
        match error {
            UsagesError::Output(error) => error.into(),
            // Whatever is refused of a question was asked wrongly.
            UsagesError::Waldur(failure @ Failure::Refused { .. }) => {
                Failed::new(Exit::Usage, failure.to_string())
            }
            UsagesError::Waldur(failure) => failure.into(),
            unknown @ UsagesError::NoField { .. } => Failed::new(Exit::Usage, unknown.to_string()),
        }
    }
}
