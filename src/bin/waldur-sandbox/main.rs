//! `waldur-sandbox`: a strict stand-in for Waldur's usage API, in memory, to try a configuration without touching
//! a bill, and for the agent's tests to talk to.
//!
//! This file reads the command line and starts the rest: `marketplace` builds the `world`; requests come in by
//! `wire` and `server`, find their rules through `api` (`set_usage`, `user_usage`, `usage_lists`, `discovery`), and
//! `admin` lets tests drive it. It shares no type and no constant with the agent: two readings of one
//! specification that agree are worth more than one that agrees with itself.

mod admin;
mod amount;
mod answer;
mod api;
mod app;
mod billing;
mod clock;
mod discovery;
mod faults;
mod fields;
mod json;
mod lists;
mod marketplace;
mod report;
mod request;
mod server;
mod set_usage;
mod specs;
mod usage_lists;
mod user_usage;
mod wire;
mod world;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use jiff::Timestamp;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::app::App;
use crate::marketplace::Overrides;
use crate::wire::{Cut, Wire};
use crate::world::Api;

/// A strict, in-memory stand-in for Waldur's usage API.
#[derive(Debug, Parser)]
#[command(name = "waldur-sandbox", version)]
struct Options {
    /// What it holds: a YAML file (docs/sandbox.md). Without it: a small built-in marketplace.
    #[arg(long, value_name = "FILE")]
    marketplace: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8099", value_name = "ADDRESS")]
    listen: String,
    /// Which generation of the server to be; the file's `api` otherwise, else current.
    #[arg(long)]
    api: Option<Api>,
    /// The server's TIME_ZONE; the file's `timezone` otherwise, else UTC.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Where its clock starts, e.g. 2026-11-10T12:00:00Z; it runs on from there. Otherwise the real time.
    #[arg(long, value_name = "RFC3339")]
    now: Option<Timestamp>,
}

const BUILT_IN: &str = include_str!("../../../config/sandbox.yaml");

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waldur-sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    // Nothing is kept, so there is nothing to put in order: a signal ends it at once.
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            std::process::exit(0);
        }
    });
    let yaml = match &options.marketplace {
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
        }
        None => BUILT_IN.to_owned(),
    };
    let overrides = Overrides { api: options.api, timezone: options.timezone, now: options.now };
    let world = marketplace::build(&yaml, overrides)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(listen(&options.listen, App::new(world)))
}

async fn listen(address: &str, app: App) -> Result<(), String> {
    let listener =
        tokio::net::TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
    let bound = listener.local_addr().map_err(|error| error.to_string())?;
    let router = axum::Router::new().fallback(server::handle).with_state(Arc::new(app));
    // The one line on stdout, which whoever started us waits for; the listener queues what comes before `serve`.
    let mut stdout = std::io::stdout();
    let told = writeln!(stdout, "listening on http://{bound}").and_then(|()| stdout.flush());
    told.map_err(|error| error.to_string())?;
    let service = router.into_make_service_with_connect_info::<Cut>();
    axum::serve(Wire(listener), service).await.map_err(|error| error.to_string())
}
