//! `status`: what is wrong, worst first, and what is agreed. It only reads the ledger and what the daemon tells beside it,
//! so it works beside a daemon, without the token and without the network.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Args;

use super::exit::{Exit, Failed};
use super::setup::{self, Setup, count};
use super::text::fold_all;
use crate::config::clock::process_clock;
use crate::daemon::instance;
use crate::ledger::Ledger;
use crate::metering::period::BillingPeriod;

use amount_state::AmountState;
use view::View;

mod amount_state;
mod brief;
mod collector;
pub(super) mod entry;
mod host;
mod json;
mod of_hosts;
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
                    None if self.json => return without_ledger(setup, &failed, out),
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
                redraw(out, &shown, rows())?;
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
    /// Where the file has mistakes: they are told first, and then what is known without it: the daemon, which goes on with what
    /// it read before, and what is in the ledger.
    pub(super) fn despite(
        &self,
        failed: Failed,
        path: Option<&Path>,
        out: &mut dyn Write,
    ) -> Result<Exit, Failed> {
        let Some(place) = setup::first_place(path) else { return Err(failed) };
        let daemon = instance::running(&place);
        if self.json {
            let (daemon, exit) = (json::daemon(daemon.as_ref()), failed.exit);
            let shown =
                serde_json::json!({ "mistakes": failed.message, "daemon": daemon, "exit": exit.code() });
            writeln!(out, "{shown:#}")?;
            return Ok(exit);
        }
        writeln!(out, "{}", fold_all(&failed.message, 4))?;
        // Nothing is stated or written by a file that is not right.
        let to_look = setup::to_look(path);
        let ledger = to_look
            .as_ref()
            .and_then(|setup| Ledger::open_to_read(&setup.settings.ledger, (*setup.rulebook).clone()).ok());
        if let Some((setup, ledger)) = to_look.as_ref().zip(ledger)
            && let Ok(view) = View::of(&ledger, setup, self.period)
        {
            brief::write(out, &ledger, &View { differs: None, ..view })?;
            return Ok(failed.exit);
        }
        match daemon {
            Some(daemon) => brief::running(out, &daemon, process_clock().now())?,
            None => writeln!(out, "Daemon: none is running.")?,
        }
        Ok(failed.exit)
    }
}

/// For machines, what is known where the ledger can't be read.
fn without_ledger(setup: &Setup, failed: &Failed, out: &mut dyn Write) -> Result<Exit, Failed> {
    let daemon = instance::running(&setup.settings.first_place());
    let shown = serde_json::json!({
        "daemon": json::daemon(daemon.as_ref()), "ledger": setup.settings.ledger.to_string(),
        "ledger_failing": { "since": null, "words": failed.message }, "exit": failed.exit.code(),
    });
    writeln!(out, "{shown:#}")?;
    Ok(failed.exit)
}

/// How many rows the screen has, where that is known.
fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_row)).filter(|rows| *rows > 0)
}

/// Draws over what was shown before, line by line, so that nothing flickers. What is worst comes first, and what the screen has
/// no room for is counted: it would scroll the worst away.
fn redraw(out: &mut dyn Write, shown: &[u8], rows: Option<usize>) -> std::io::Result<()> {
    let lines: Vec<&[u8]> = shown.split_inclusive(|byte| *byte == b'\n').collect();
    // The cursor stands in the row after the last.
    let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(1).max(1));
    let fitting = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    out.write_all(b"\x1b[H")?;
    for line in &lines[..fitting] {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        out.write_all(text)?;
        out.write_all(b"\x1b[K\n")?;
    }
    if fitting < lines.len() {
        writeln!(out, "and {} (`status --all`)\x1b[K", count(lines.len() - fitting, "more line"))?;
    }
    out.write_all(b"\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_before_is_drawn_over() {
        let mut out = Vec::new();
        redraw(&mut out, b"one\ntwo\n", None).unwrap();
        assert_eq!(out, b"\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J");
    }

    #[test]
    fn what_the_screen_has_no_room_for_is_counted() {
        let shown = |rows| {
            let mut out = Vec::new();
            redraw(&mut out, b"one\ntwo\nthree\nfour\n", Some(rows)).unwrap();
            String::from_utf8(out).unwrap().replace("\x1b[K", "")
        };
        assert_eq!(shown(5), "\x1b[Hone\ntwo\nthree\nfour\n\x1b[J");
        assert_eq!(shown(4), "\x1b[Hone\ntwo\nand 2 more lines (`status --all`)\n\x1b[J");
        assert_eq!(shown(2), "\x1b[Hand 4 more lines (`status --all`)\n\x1b[J");
    }
}
