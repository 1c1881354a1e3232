//! `recount`: proves on a real ledger that its amounts are what its readings make, and repairs them if not.

use std::io::Write;

use clap::Args;

use super::exit::{Exit, Failed};
use super::progress::Progress;
use super::setup::{Setup, count};
use super::table::table;
use crate::ledger::Ledger;
use crate::metering::period::BillingPeriod;

/// Count everything again: 0 if the ledger agrees, 1 if not.
#[derive(Debug, Args)]
pub(super) struct Recount {
    /// Show only this billing period, such as 2026-11.
    #[arg(long, value_name = "YYYY-MM")]
    period: Option<BillingPeriod>,
    /// Keep the recounted amounts.
    #[arg(long)]
    write: bool,
}

impl Recount {
    pub(super) fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let mut ledger = Ledger::open(&setup.settings.ledger, (*setup.rulebook).clone())?;
        let now = setup.clock.now();
        let progress = Progress::of("Counting all readings again");
        let mut differences =
            if self.write { ledger.recount_all(None, now)? } else { ledger.recount_rehearsal(None, now)? };
        drop(progress);
        if let Some(period) = self.period {
            differences.retain(|difference| difference.period == period.to_string());
        }
        if differences.is_empty() {
            writeln!(out, "The ledger agrees with its readings.")?;
            return Ok(Exit::Ok);
        }
        let mut rows = table(["resource", "period", "component", "user", "kept", "recounted"]);
        for difference in &differences {
            let shown = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
            rows.add_row([
                &difference.resource,
                &difference.period,
                &difference.component,
                &difference.user,
                &shown(&difference.kept),
                &shown(&difference.recounted),
            ]);
        }
        let what = if self.write { "were repaired" } else { "differ; --write repairs them" };
        writeln!(out, "{rows}\n{}: they {what}.", count(differences.len(), "amount"))?;
        Ok(Exit::Differs)
    }
}
