//! `diff`: the ledger beside what Waldur holds, read now; or beside what another configuration would make of it. It records
//! nothing and sends nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::explain::find;
use super::rehearsal::{Billed, Change, DryRun};
use super::setup::{Setup, count};
use super::text::{WIDTH, fold, moment, pad, shorten};
use crate::ledger::{Ledger, SharedLedger};
use crate::metering::period::BillingPeriod;
use crate::submitter::compare::{Compare, Comparison, compare};
use crate::submitter::discover::known_resource;
use crate::submitter::other_server::OtherServer;
use crate::submitter::pause::ServerStatus;

/// Show where the ledger and Waldur differ.
///
/// What Waldur holds is read now; nothing is recorded or sent. Only amounts that differ are shown, and a line that sums
/// up. It ends with 65 where something differs, with 75 where Waldur can't be read, even in part, and with 77 where the
/// token is refused.
///
/// With --config NEW it shows instead what the configuration file NEW would make of the month, before it is switched on:
/// each amount now and then, and what would be held and why. It is tried on a copy of the ledger.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// Resources: UUIDs in any form, backend ids, or names; all if none is named.
    #[arg(value_name = "RESOURCE")]
    resources: Vec<String>,
    /// The billing period, such as 2026-11; otherwise the current one.
    #[arg(long, value_name = "YYYY-MM")]
    period: Option<BillingPeriod>,
    /// Beside what this configuration file would make of it.
    #[arg(id = "new", long = "config", value_name = "NEW")]
    new: Option<PathBuf>,
    /// The configuration file; before `diff` it is --config, too.
    // It has the id of the option of all commands, which finds its value there; `--config` is another one here.
    #[arg(id = "config", short = 'c', value_name = "FILE", display_order = 90)]
    #[allow(dead_code, reason = "read as the option of all commands")]
    file: Option<PathBuf>,
    /// What is equal, too.
    #[arg(long)]
    all: bool,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        match &self.new {
            None => self.beside_waldur(setup, out).await,
            Some(new) => self.beside_another(setup, new, out).await,
        }
    }

    async fn beside_waldur(&self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let client = setup.client()?.read_only();
        let ledger = setup.ledger_to_read()?;
        let period = self.period.unwrap_or_else(|| ledger.in_force().zone.period_of(setup.clock.now()));
        let mut only = BTreeSet::new();
        for resource in &self.resources {
            only.insert(find(&ledger, resource)?.0);
        }
        refuse_another_server(&ledger, setup)?;
        let mut blind = ServerStatus::of(&ledger, setup.settings.api())?.without_role;
        if !only.is_empty() {
            let mut asked_about = BTreeSet::new();
            for resource in &only {
                asked_about.extend(ledger.resource(*resource)?.map(|known| known.offering));
            }
            blind.retain(|one| asked_about.contains(&one.offering));
        }
        let ledger = SharedLedger::new(ledger);
        let found = compare(&client, &ledger, Compare { period, only, shares: true }).await??;
        let exit = if !blind.is_empty() {
            Exit::Token
        } else if !found.is_whole() {
            Exit::Pending
        } else if found.differing().next().is_some() {
            Exit::Stuck
        } else {
            Exit::Ok
        };
        if self.json {
            writeln!(out, "{:#}", as_json(period, &found, exit))?;
        } else {
            self.show(period, &found, setup.clock.now(), out)?;
            for one in &blind {
                let offering = one.words();
                let words = format!(
                    "The token has no role for offering {offering}: what Waldur holds of it can't be seen."
                );
                writeln!(out, "{}", fold(&words, 2))?;
            }
        }
        Ok(exit)
    }

    fn show(
        &self,
        period: BillingPeriod,
        found: &Comparison,
        now: Timestamp,
        out: &mut dyn Write,
    ) -> Result<(), Failed> {
        let mut lines = Lines::new(["LEDGER", "WALDUR", "DIFFERENCE"]);
        let shown_sides = found.sides.iter().filter(|(_, sides)| self.all || sides.differ());
        let mut by_name: Vec<_> = shown_sides
            .map(|(place, sides)| (named(place.0, found.names.get(&place.0)), place, sides))
            .collect();
        by_name.sort_by(|(a, of, _), (b, other, _)| (a, of).cmp(&(b, other)));
        for (name, (_, component, user), sides) in by_name {
            let state = Some(sides.state.clone()).filter(|state| !["agreed", ""].contains(&state.as_str()));
            let written = sides.writer.words(sides.written_by_us, |at| moment(at, now));
            let written = written.filter(|_| sides.differ());
            let note = state.into_iter().chain(written).collect::<Vec<_>>().join("; ");
            let (ledger, waldur) = (sides.ledger, sides.waldur);
            let difference = ledger.unwrap_or_default().checked_sub(waldur.unwrap_or_default());
            lines.add(&name, component, user, [shown(ledger), shown(waldur), signed(difference)], &note);
        }
        lines.write(out)?;
        for (resource, why) in &found.unread {
            let name = named(*resource, found.names.get(resource));
            writeln!(out, "{}", fold(&format!("{name}: can't be read: {why}"), 4))?;
        }
        for (offering, why) in &found.unlisted {
            let words = format!(
                "Offering {offering} could not be listed whole: {why}. Resources that the ledger knows were read one by one; \
                 what Waldur holds of others is not seen."
            );
            writeln!(out, "{}", fold(&words, 4))?;
        }
        let (all, differ) = found.resources();
        let so_far = if found.is_whole() { "" } else { ", as far as it was read" };
        let (amounts, of) = (found.differing().count(), count(found.sides.len(), "amount"));
        if found.sides.is_empty() {
            writeln!(out, "{period}: there is nothing to compare{so_far}.")?;
        } else if amounts == 0 {
            writeln!(out, "{period}: equal{so_far}: {}, {of}.", count(all, "resource"))?;
        } else {
            writeln!(out, "{period}: different: {differ} of {}, {amounts} of {of}.", count(all, "resource"))?;
        }
        if !found.unread.is_empty() {
            writeln!(out, "Not read: {}.", count(found.unread.len(), "resource"))?;
        }
        if found.not_ours > 0 {
            writeln!(out, "Rows of Waldur whose component no meter makes: {}.", found.not_ours)?;
        }
        Ok(())
    }

    async fn beside_another(&self, setup: &Setup, new: &Path, out: &mut dyn Write) -> Result<Exit, Failed> {
        let new = Setup::load(Some(new))?;
        let (ledger, now) = (&setup.settings.ledger, setup.clock.now());
        let Some(mut rehearsal) = DryRun::of(ledger, &new.rulebook, now)? else {
            // Why there is none that can be read is told by whoever opens it.
            setup.ledger_to_read()?;
            return Err(Failed::new(Exit::Config, format!("there is no ledger {ledger} to try it on")));
        };
        let mut only = BTreeSet::new();
        let known = setup.ledger_to_read()?;
        refuse_another_server(&known, &new)?;
        for resource in &self.resources {
            only.insert(find(&known, resource)?.0);
        }
        let period = self.period.unwrap_or_else(|| known.in_force().zone.period_of(now));
        let unknown = look_up(setup, &new, &mut rehearsal).await?;
        let notes: Vec<&String> = unknown.iter().map(|(words, _)| words).collect();
        let mut outcome = rehearsal.play()?;
        outcome.changes.retain(|change| {
            change.place.period == period && (only.is_empty() || only.contains(&change.place.resource))
        });
        let changed = if outcome.changes.is_empty() { Exit::Ok } else { Exit::Stuck };
        // Of what could not be looked up nothing is known to change.
        let exit = unknown.iter().map(|(_, exit)| *exit).chain([changed]).min().unwrap_or(changed);
        if self.json {
            let changes: Vec<Value> = outcome.changes.iter().map(change_json).collect();
            let shown = json!({
                "period": period.to_string(), "changes": changes, "rules": outcome.rules, "notes": notes,
                "exit": exit.code(),
            });
            writeln!(out, "{shown:#}")?;
            return Ok(exit);
        }
        let mut lines = Lines::new(["NOW", "THEN", "DIFFERENCE"]);
        for Change { place, name, was, is } in &outcome.changes {
            let name = named(place.resource, name.as_ref());
            let difference = is.amount.checked_sub(was.amount);
            let numbers = [shown(Some(was.amount)), shown(Some(is.amount)), signed(difference)];
            let held = is.held.as_ref().filter(|_| is.held != was.held);
            let note = held.map_or(String::new(), |why| format!("held: {why}"));
            lines.add(&name, &place.component, &place.user, numbers, &note);
        }
        lines.write(out)?;
        for rule in &outcome.rules {
            writeln!(out, "{}", fold(&format!("rules: {rule}"), 4))?;
        }
        for note in notes {
            writeln!(out, "{}", fold(note, 4))?;
        }
        match outcome.changes.len() {
            0 => writeln!(out, "{period}: nothing changes.")?,
            changed => {
                writeln!(out, "{period}: {} of {} would change.", changed, count(outcome.amounts, "amount"))?
            }
        }
        Ok(exit)
    }
}

/// What another server holds says nothing of what this ledger reports.
fn refuse_another_server(ledger: &Ledger, setup: &Setup) -> Result<(), Failed> {
    match OtherServer::of(ledger, setup.settings.api())? {
        Some(other) => Err(Failed::new(Exit::Config, other.words_and_remedy())),
        None => Ok(()),
    }
}

/// Finds the resources of offerings that only the new file names. Where Waldur does not tell, what the ledger knows serves;
/// which that is and why is returned, with the exit code of the cause.
async fn look_up(setup: &Setup, new: &Setup, rehearsal: &mut DryRun) -> Result<Vec<(String, Exit)>, Failed> {
    let offerings = |setup: &Setup| -> BTreeSet<Uuid> {
        setup.rulebook.rules.iter().filter_map(|rules| rules.offering()).collect()
    };
    let known = offerings(setup);
    let unknown: Vec<Uuid> =
        offerings(new).into_iter().filter(|offering| !known.contains(offering)).collect();
    let mut notes = Vec::new();
    if unknown.is_empty() {
        return Ok(notes);
    }
    let client = Arc::new(new.client()?.read_only());
    for offering in unknown {
        match client.resources(offering).await {
            Ok(listed) => {
                rehearsal.resources(listed.into_iter().map(|one| known_resource(one, offering)).collect())?
            }
            Err(failure) => {
                let words = format!("The resources of offering {offering} are not known: {failure}");
                notes.push((words, Failed::from(failure).exit));
            }
        }
    }
    Ok(notes)
}

/// A table of amounts in 80 columns: names are cut, and a note has lines of its own.
struct Lines {
    headings: [&'static str; 3],
    rows: Vec<(String, String, String, [String; 3], String)>,
}

/// What the three numbers leave of 80 columns is the names'.
const NAMES: [usize; 3] = [24, 16, 12];

impl Lines {
    fn new(headings: [&'static str; 3]) -> Lines {
        Lines { headings, rows: Vec::new() }
    }

    fn add(&mut self, name: &str, component: &str, user: &str, numbers: [String; 3], note: &str) {
        let user = if user.is_empty() { "(total)" } else { user };
        let row = (name.to_owned(), component.to_owned(), user.to_owned(), numbers, note.to_owned());
        self.rows.push(row);
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), Failed> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let widths: [usize; 3] = std::array::from_fn(|of| {
            let numbers = self.rows.iter().map(|(.., numbers, _)| numbers[of].len());
            numbers.chain([self.headings[of].len()]).max().unwrap_or(0)
        });
        let numbers_take: usize = widths.iter().map(|width| width + 2).sum();
        // Long numbers are whole, and names give way.
        let room = WIDTH.saturating_sub(numbers_take).max(24);
        let all: usize = NAMES.iter().sum::<usize>() + 2;
        let names =
            NAMES.map(|width| if room < all { (width * room / all).saturating_sub(1).max(6) } else { width });
        let line = |names_of: [&str; 3], numbers: [&str; 3]| {
            let cells: Vec<String> =
                names_of.iter().zip(names).map(|(text, width)| pad(&shorten(text, width), width)).collect();
            let numbers: Vec<String> =
                numbers.iter().zip(widths).map(|(text, width)| format!("{text:>width$}")).collect();
            format!("{}  {}", cells.join(" "), numbers.join("  "))
        };
        writeln!(out, "{}", line(["RESOURCE", "COMPONENT", "USER"], self.headings))?;
        for (name, component, user, numbers, note) in &self.rows {
            let [one, two, three] = numbers;
            writeln!(out, "{}", line([name, component, user], [one, two, three]))?;
            if !note.is_empty() {
                writeln!(out, "{}", fold(&format!("    {note}"), 6))?;
            }
        }
        Ok(())
    }
}

fn named(resource: Uuid, name: Option<&String>) -> String {
    name.filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| resource.to_string())
}

fn shown(amount: Option<Decimal>) -> String {
    amount.map_or("-".to_owned(), |amount| format!("{amount:.2}"))
}

fn signed(amount: Option<Decimal>) -> String {
    amount.map_or("-".to_owned(), |amount| format!("{amount:+.2}"))
}

fn as_json(period: BillingPeriod, found: &Comparison, exit: Exit) -> Value {
    let amount = |amount: Option<Decimal>| amount.map(|amount| format!("{amount:.2}"));
    let user = |user: &String| if user.is_empty() { None } else { Some(user.clone()) };
    let differences: Vec<Value> = found
        .sides
        .iter()
        .map(|((resource, component, of), sides)| {
            json!({
                "resource": resource, "name": found.names.get(resource), "component": component, "user": user(of),
                "ledger": amount(sides.ledger), "waldur": amount(sides.waldur), "state": sides.state,
                "differs": sides.differ(), "written_by": sides.writer.by,
                "written_at": sides.writer.at.map(|at| at.to_string()),
                "dated": sides.writer.dated.map(|at| at.to_string()), "written_by_us": sides.written_by_us,
            })
        })
        .collect();
    let unread: Vec<Value> =
        found.unread.iter().map(|(resource, why)| json!({ "resource": resource, "why": why })).collect();
    let unlisted: Vec<Value> =
        found.unlisted.iter().map(|(offering, why)| json!({ "offering": offering, "why": why })).collect();
    let (resources, differ) = found.resources();
    json!({
        "period": period.to_string(), "amounts": differences, "unread": unread, "unlisted": unlisted,
        "resources": resources,
        "resources_that_differ": differ, "rows_without_meter": found.not_ours, "exit": exit.code(),
    })
}

fn change_json(change: &Change) -> Value {
    let Change { place, name, was, is } = change;
    let billed = |billed: &Billed| format!("{:.2}", billed.amount);
    let user = if place.user.is_empty() { None } else { Some(&place.user) };
    json!({
        "resource": place.resource, "name": name, "component": place.component, "user": user,
        "now": billed(was), "then": billed(is), "held": is.held,
    })
}
