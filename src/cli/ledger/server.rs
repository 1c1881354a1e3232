//! `ledger server`: which Waldur a ledger reports to, and a person's word that it has another address now.

use std::io::Write;

use crate::cli::ask;
use crate::cli::exit::{Exit, Failed};
use crate::cli::setup::{Setup, count};
use crate::cli::text::{fold, moment};
use crate::ledger::Ledger;
use crate::submitter::other_server::{OtherServer, REMEDY, rename as rename_in, server_of};
use crate::waldur::failure::Failure;

/// So many of the ledger's resources are asked for.
const ASKED_FOR: usize = 20;

pub(super) fn show(setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
    let ledger = Ledger::open_to_read(&setup.settings.ledger, (*setup.rulebook).clone())?;
    let Some((address, since)) = server_of(&ledger)? else {
        writeln!(out, "The ledger has reported to no Waldur yet.")?;
        return Ok(Exit::Ok);
    };
    let since = moment(since, setup.clock.now());
    writeln!(out, "{}", fold(&format!("The ledger reports to {address}, since {since}."), 2))?;
    let Some(other) = OtherServer::of(&ledger, setup.settings.api())? else { return Ok(Exit::Ok) };
    let words = format!("`waldur.url` names {}: nothing is sent there.", other.configured);
    writeln!(out, "{}", fold(&words, 2))?;
    writeln!(out, "{}", fold(&format!("  What to do: {REMEDY}."), 2))?;
    Ok(Exit::Config)
}

pub(super) async fn rename(setup: &Setup, yes: bool, out: &mut dyn Write) -> Result<Exit, Failed> {
    let client = setup.client()?;
    let ledger = Ledger::open_to_read(&setup.settings.ledger, (*setup.rulebook).clone())?;
    let Some(other) = OtherServer::of(&ledger, Some(client.api()))? else {
        writeln!(out, "{}", fold(&format!("The ledger reports to {} already.", client.api()), 2))?;
        return Ok(Exit::Ok);
    };
    client.me().await?;
    let known = ledger.resources()?;
    drop(ledger);
    let (mut found, mut asked) = (0, 0);
    for resource in known.iter().take(ASKED_FOR) {
        asked += 1;
        match client.resource(resource.uuid).await {
            Ok(_) => found += 1,
            Err(Failure::Missing { .. } | Failure::Forbidden { .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    let (of, at) = (count(asked, "resource"), &other.configured);
    if asked > 0 && found == 0 {
        let words = format!(
            "{at} knows none of {of} that this ledger reports for: that is another Waldur, or its token may not see them. Nothing \
             was changed. What to do: name a new ledger in `ledger:`, or put `waldur.url` and the token right"
        );
        return Err(Failed::new(Exit::Config, words));
    }
    writeln!(out, "{}", fold(&format!("Until now: {}", other.of_ledger), 2))?;
    writeln!(
        out,
        "{}",
        fold(&format!("From now on: {at}, which knows {found} of {of} of the ledger's."), 2)
    )?;
    let copies = "A copy of the server knows them, too (a staging system, a restored backup): bills are made by one of them.";
    writeln!(out, "{}", fold(copies, 2))?;
    if !yes && ask::somebody() {
        out.flush()?;
        let answer = ask::line("Is this the server that bills by this ledger? (yes or no)", Some("no"))?;
        if !["y", "yes"].contains(&answer.to_lowercase().as_str()) {
            writeln!(out, "Nothing was changed.")?;
            return Ok(Exit::Ok);
        }
    }
    let mut ledger = Ledger::open(&setup.settings.ledger, (*setup.rulebook).clone())?;
    rename_in(&mut ledger, client.api(), setup.clock.now())?;
    let words = "Done. The next submission goes there; what it holds that this ledger did not report is held, as ever.";
    writeln!(out, "{}", fold(words, 2))?;
    Ok(Exit::Ok)
}
