//! `status`: what is wrong, worst first, and what is agreed. It only reads the ledger and what the daemon tells beside it,
//! so it works beside a daemon, without the token and without the network.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::exit::{Exit, Failed};
use super::setup::Setup;
use super::text::fold_all;
use crate::config::clock::process_clock;
use crate::config::place::Place;
use crate::daemon::instance;
use crate::metering::period::BillingPeriod;

use amount_state::AmountState;
use view::View;

mod amount_state;
mod brief;
mod collector;
pub(super) mod entry;
mod host;
mod json;
mod rows;
mod trouble;
mod view;

/// Show what is wrong, and what Waldur holds.
///
/// It begins with the daemon, the server and whatever fails; then come resources with trouble, worst first, and how many
/// are agreed. Amounts are shown with --all, for RESOURCEs, or of a --state. docs/status.md has the fields of --json. The
/// exit code is about the whole ledger.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show these resources: UUID in any form, backend id or unique name.
    #[arg(value_name = "RESOURCE")]
    resources: Vec<String>,
    /// Show every amount.
    #[arg(long)]
    all: bool,
    /// Show the amounts of what is held, parked, stranded, pending, agreed, unused or shadow.
    #[arg(long, value_enum, value_name = "STATE", hide_possible_values = true)]
    state: Option<AmountState>,
    /// A billing period such as 2026-11; otherwise the current one, and older ones with something left.
    #[arg(long, value_name = "YYYY-MM")]
    period: Option<BillingPeriod>,
    /// Show every amount, and the users' shares too.
    #[arg(long)]
    users: bool,
    /// Look again every two seconds.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let in_place = self.watch && super::text::colours(std::io::stdout().is_terminal());
        loop {
            let ledger = match setup.ledger_to_read() {
                Ok(ledger) => ledger,
                // A role that appends sees what its host has sent.
                Err(failed) => match host::status(setup, self.json, out)? {
                    Some(exit) => return Ok(exit),
                    None => return Err(failed),
                },
            };
            let view = View::of(&ledger, setup, self.period)?;
            let chosen = view.choose(&ledger, &self.resources, self.state)?;
            let mut shown = Vec::new();
            let target: &mut dyn Write = if in_place { &mut shown } else { out };
            if self.json {
                json::write(target, &ledger, &view, &chosen)?;
            } else if self.all || self.users || self.state.is_some() || !self.resources.is_empty() {
                rows::write(target, &ledger, &view, &chosen, self.users)?;
            } else {
                brief::write(target, &ledger, &view)?;
            }
            if in_place {
                redraw(out, &shown)?;
            }
            out.flush()?;
            if !self.watch {
                return Ok(view.exit);
            }
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    }
}

impl Status {
    /// Where the file has mistakes: they are told first, and then what is known of the daemon without it, which goes on with
    /// what it read before.
    pub(super) fn despite(
        &self,
        failed: Failed,
        first_place: Option<Place>,
        out: &mut dyn Write,
    ) -> Result<Exit, Failed> {
        let Some(place) = first_place else { return Err(failed) };
        let daemon = instance::running(&place);
        if self.json {
            let (daemon, exit) = (json::daemon(daemon.as_ref()), failed.exit);
            let shown =
                serde_json::json!({ "mistakes": failed.message, "daemon": daemon, "exit": exit.code() });
            writeln!(out, "{shown:#}")?;
            return Ok(exit);
        }
        writeln!(out, "{}", fold_all(&failed.message, 4))?;
        match daemon {
            Some(daemon) => brief::running(out, &daemon, process_clock().now())?,
            None => writeln!(out, "Daemon: none is running.")?,
        }
        Ok(failed.exit)
    }
}

/// Draws over what was shown before, line by line, so that nothing flickers.
fn redraw(out: &mut dyn Write, shown: &[u8]) -> std::io::Result<()> {
    out.write_all(b"\x1b[H")?;
    for line in shown.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        out.write_all(text)?;
        out.write_all(b"\x1b[K\n")?;
    }
    out.write_all(b"\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_before_is_drawn_over() {
        let mut out = Vec::new();
        redraw(&mut out, b"one\ntwo\n").unwrap();
        assert_eq!(out, b"\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J");
    }
}
