//! `check`: every problem at once, each with its remedy: the file, the plugins, the ledger, the token, what Waldur has,
//! and whether the clocks agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;

use super::exit::{Exit, Failed};
use super::progress::Progress;
use super::rehearsal::DryRun;
use super::setup::{Read, Setup, count, read};
use super::text::{fold_all, span};
use crate::collectors::definition::Definition;
use crate::config;
use crate::daemon::health::{LOW_DISK_BYTES, free};
use crate::daemon::sample::{CollectedRun, Since, collect_once};
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::books::ingest::{RunOutcome, Seen};
use crate::ledger::{Ledger, SharedLedger};
use crate::metering::meter::Place;
use crate::metering::reading::{Kind, Reading};
use crate::submitter::other_server::OtherServer;
use crate::waldur::client::Client;

use findings::{Findings, Mark, tell_failure};
use hosts::{check_connection, check_hosts, check_name, check_rights};
use marketplace::{check_offerings, check_resources, check_time_zone};
use reports::{MeterSample, Reports};
use token::{check_token, check_token_files, use_token_of_service};

mod changes;
mod doubles;
mod findings;
mod hosts;
mod marketplace;
mod reports;
mod token;

/// Find every problem at once, each with its remedy.
///
/// The file, the ledger, the collectors, the token, offerings and resources, the clock.
///
/// Collectors are tried, and what they would report is shown; nothing is recorded or sent. With --offline only what
/// needs neither the network nor the collectors' sources is checked.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Check the file alone.
    #[arg(long)]
    offline: bool,
    /// With the token that the service gets: the file `token` beside the configuration file, which the unit hands over
    /// as a credential.
    #[arg(long)]
    as_service: bool,
    /// For machines.
    #[arg(long)]
    json: bool,
}

/// What the unit has made for the service (`StateDirectory=`).
const STATE_DIRECTORY: &str = "/var/lib/waldur-usage-agent";

impl Check {
    pub(super) fn of(offline: bool, as_service: bool) -> Check {
        Check { offline, as_service, json: false }
    }

    pub(super) async fn run(self, path: Option<&Path>, out: &mut dyn Write) -> Result<Exit, Failed> {
        let Read { origin, settings, definitions, problems } = read(path)?;
        let mut found = Findings::default();
        for problem in &problems {
            found.problem(Exit::Config, format!("{origin}: {problem}"));
        }
        if problems.is_empty() {
            let meters: usize = definitions.iter().map(|definition| definition.rules.meters.len()).sum();
            let (collectors, meters) = (count(definitions.len(), "collector"), count(meters, "meter"));
            found.good(format!("{origin}: {collectors}, {meters}, no mistakes"));
        }
        if let Some(mut settings) = settings {
            for double in definitions.iter().flat_map(|definition| doubles::meters(&definition.rules)) {
                found.warning(double);
            }
            if let Some(waldur) = settings.waldur.as_mut().filter(|_| self.as_service) {
                use_token_of_service(waldur, path, &mut found);
            }
            if settings.ledger.file().is_none()
                && let Err(why) = settings.agent_name()
            {
                found.problem(Exit::Config, format!("{origin}: {why}"));
            }
            let setup = Setup::of(settings, definitions);
            if !self.offline {
                online(&setup, self.as_service, &mut found).await?;
            }
        }
        let exit = found.exit.unwrap_or(Exit::Ok);
        if self.json {
            let lines: Vec<_> = found
                .lines
                .iter()
                .map(|one| json!({ "result": one.mark.name(), "message": one.text }))
                .collect();
            writeln!(out, "{:#}", json!({ "findings": lines, "exit": exit.code() }))?;
            return Ok(exit);
        }
        for (mark, line) in found.summed_up() {
            writeln!(
                out,
                "{}",
                fold_all(&format!("{:8} {}", mark.name(), line.replace('\n', "\n         ")), 11)
            )?;
        }
        let bad = found.lines.iter().filter(|one| one.mark == Mark::Problem).count();
        if bad > 0 {
            writeln!(out, "{}.", count(bad, "problem"))?;
        }
        Ok(exit)
    }
}

async fn online(setup: &Setup, as_service: bool, found: &mut Findings) -> Result<(), Failed> {
    let progress = Progress::of(&format!("Reading the ledger {}", setup.settings.ledger));
    let mut is_readable = check_ledger(setup, as_service, found);
    let opened = Ledger::open_to_read(&setup.settings.ledger, (*setup.rulebook).clone());
    if setup.settings.submits
        && let Some(other) =
            opened.ok().and_then(|ledger| OtherServer::of(&ledger, setup.settings.api()).ok().flatten())
    {
        found.problem(Exit::Config, other.words_and_remedy());
        // What another server says would be tried on it.
        is_readable = false;
    }
    check_token_files(setup, found);
    if !setup.settings.submits {
        check_collectors(setup, &mut None, &progress, found).await?;
        return Ok(());
    }
    // What is wrong with a ledger was just said.
    let tried = match is_readable {
        true => DryRun::of(&setup.settings.ledger, &setup.rulebook, setup.clock.now()),
        false => Ok(None),
    };
    let mut rehearsal = tried.unwrap_or_else(|failed| {
        let why = failed.message;
        found.warning(format!(
            "what the file would change on the bill can't be tried on a copy of the ledger: {why}"
        ));
        None
    });
    let mut reports = check_collectors(setup, &mut rehearsal, &progress, found).await?;
    if let Some(waldur) = &setup.settings.waldur {
        progress.at(&format!("Waiting for {}", waldur.api), 0, 0);
    }
    let resources = check_server(setup, &mut reports, found).await;
    if let Some(mut rehearsal) = rehearsal {
        progress.at("Trying the file on a copy of the ledger", 0, 0);
        rehearsal.resources(resources)?;
        changes::tell(rehearsal, found)?;
    }
    Ok(())
}

/// What Waldur knows and takes. Returns the resources that were seen.
async fn check_server(setup: &Setup, reports: &mut Reports, found: &mut Findings) -> Vec<KnownResource> {
    let client = match setup.client() {
        Ok(client) => client,
        Err(failed) => {
            found.problem(failed.exit, failed.message);
            return Vec::new();
        }
    };
    let me = match client.me().await {
        Ok(me) => me,
        Err(failure) => {
            tell_failure(found, &failure);
            return Vec::new();
        }
    };
    check_token(&me, found);
    check_clock(setup, &client, found);
    let mut resources = check_offerings(setup, &client, &me, reports, found).await;
    resources.extend(check_resources(setup, &client, &me, reports, found).await);
    reports.tell(found);
    check_time_zone(setup, &client, found).await;
    resources
}

/// Whether the ledger can be read, if it is there.
fn check_ledger(setup: &Setup, as_service: bool, found: &mut Findings) -> bool {
    let place = &setup.settings.ledger;
    if let config::place::Place::Database(database) = place {
        check_connection(database, found);
        check_name(setup, database, found);
        check_rights(setup, database, found);
        if !setup.settings.submits {
            return true;
        }
    }
    if let Some(path) = place.file().filter(|path| path.is_relative()) {
        found.warning(format!(
            "ledger: {} is relative to where a command is started, and the service is started elsewhere: write the whole path",
            path.display()
        ));
    }
    if let Some(path) = place.file().filter(|path| !path.exists()) {
        let parent = path.parent().unwrap_or(Path::new("/"));
        if as_service && parent == Path::new(STATE_DIRECTORY) {
            found.good(format!("ledger {}: not there yet; the service makes it", path.display()));
            return true;
        }
        match parent.is_dir() {
            true => {
                found.good(format!("ledger {}: not there yet; the first run makes it", path.display()));
                check_room(path, found);
            }
            false => found.problem(
                Exit::Config,
                format!("ledger {}: its directory is not there; create {}", path.display(), parent.display()),
            ),
        }
        return true;
    }
    if let Some(path) = place.file() {
        check_room(path, found);
    }
    let verified = Ledger::open_to_read(place, (*setup.rulebook).clone()).and_then(|ledger| ledger.verify());
    let is_readable = verified.is_ok();
    match verified {
        Ok(()) => found.good(format!("ledger {place}: whole")),
        Err(error) => found.problem(Exit::Config, error.to_string()),
    }
    if place.file().is_none()
        && let Ok(ledger) = Ledger::open_to_read(place, (*setup.rulebook).clone())
    {
        check_hosts(setup, &ledger, found);
    }
    is_readable
}

/// Whether something can be recorded on the ledger's disk, and goes on to be.
fn check_room(ledger: &Path, found: &mut Findings) {
    match free(ledger) {
        Some(0) => found.problem(
            Exit::Config,
            format!(
                "no space left on the disk of the ledger {}: nothing can be recorded; free some space",
                ledger.display()
            ),
        ),
        Some(free) if free < LOW_DISK_BYTES => found.warning(format!(
            "only {} MB are free on the disk of the ledger {}: without room nothing can be recorded",
            free / 1_000_000,
            ledger.display()
        )),
        _ => {}
    }
}

/// Tries each collector without recording anything. Returns what each would report.
async fn check_collectors(
    setup: &Setup,
    rehearsal: &mut Option<DryRun>,
    progress: &Progress,
    found: &mut Findings,
) -> Result<Reports, Failed> {
    let mut reports = Reports::default();
    // A ledger in memory: checkpoints are not consulted, and the real one is left alone.
    let ledger = SharedLedger::new(Ledger::in_memory((*setup.rulebook).clone())?);
    for definition in setup.definitions.iter().filter(|definition| !definition.elsewhere) {
        let since = setup.since(definition);
        let since = Since::Checkpoint(since);
        progress.at(&format!("Waiting for collector {}", definition.name), 0, 0);
        let CollectedRun { run, readings, mut more, notes, .. } =
            collect_once(definition, &ledger, &setup.clock, since, setup.withhold()).await?;
        let name = &definition.name;
        match &run.outcome {
            RunOutcome::Failed(error) => {
                found.problem(Exit::Collector, format!("collector {name}: {error}"));
                continue;
            }
            RunOutcome::Seen(Seen { problems, quarantined, .. }) => {
                for problem in problems {
                    found.problem(Exit::Collector, format!("collector {name}: {}", problem.text));
                }
                for bad in quarantined.iter().take(5) {
                    found.warning(format!("collector {name}: quarantined: {}: {}", bad.reason, bad.what));
                }
            }
        }
        for note in notes {
            found.warning(format!("collector {name}: {note}"));
        }
        let others = more
            .read()
            .map_err(|error| Failed::new(Exit::Collector, format!("collector {name}: {error}")))?;
        let all = readings.into_iter().chain(others.map_while(Result::ok));
        describe(definition, all, &mut reports, found);
        if let Some(rehearsal) = rehearsal {
            rehearsal.run(run, &mut more)?;
        }
    }
    Ok(reports)
}

/// What each meter makes of the readings, and which of them match no resource.
fn describe(
    definition: &Definition,
    readings: impl Iterator<Item = Reading>,
    reports: &mut Reports,
    found: &mut Findings,
) {
    let name = &definition.name;
    let mut nowhere = BTreeSet::new();
    // How many there are of each name, and their kind and unit.
    let mut names: BTreeMap<String, (usize, Kind, String)> = BTreeMap::new();
    let meters = &definition.rules.meters;
    // What each meter counts.
    let mut tried: Vec<MeterSample> = meters.iter().map(|_| MeterSample::default()).collect();
    for reading in readings {
        let place = definition.rules.place(&reading.labels);
        for (meter, tried) in meters.iter().zip(&mut tried) {
            if meter.reading == reading.name && meter.weighing.weigh(&reading.labels).is_some() {
                tried.add(&reading, &place);
            }
        }
        let unit = reading.unit.unwrap_or_default();
        names.entry(reading.name).or_insert((0, reading.kind, unit)).0 += 1;
        if let Place::Nowhere(why) = place {
            nowhere.insert(why);
        }
    }
    for why in nowhere {
        found.warning(format!("collector {name}: some readings match no resource: {why}"));
    }
    for (meter, tried) in meters.iter().zip(tried) {
        let Some((readings, kind, unit)) = names.get(&meter.reading) else {
            found.warning(format!(
                "collector {name}: no reading `{}` now, so nothing for {}",
                meter.reading, meter.component
            ));
            continue;
        };
        match meter.measure(*kind) {
            Ok(measure) => {
                let series = count(tried.counted, "reading");
                let factor = meter.factor_as_written();
                let only = match meter.weighing.to_string() {
                    rule if rule.is_empty() => rule,
                    rule => format!(", {rule}"),
                };
                let of = if unit.is_empty() { String::new() } else { format!(", {unit}") };
                let line = format!(
                    "collector {name}: {series} of {} ({kind}{of}) make {} by {} x {factor}{only}",
                    meter.reading,
                    meter.component,
                    measure.name()
                );
                if tried.counted == 0 {
                    found
                        .warning(format!("{line}: none of {readings} counts; is a label or value misspelt?"));
                } else {
                    found.good_of_many("meters that were tried", line);
                    reports.add(name, meter, measure, unit, tried);
                }
            }
            Err(why) => found.problem(Exit::Config, format!("collector {name}: {why}")),
        }
    }
}

fn check_clock(setup: &Setup, client: &Client, found: &mut Findings) {
    let Some(skew) = client.skew() else {
        found.warning("the server does not tell its time (no Date header): the end of a month is judged by this machine's clock; keep it right");
        return;
    };
    let way = if skew.is_negative() { "behind" } else { "ahead of" };
    let line = format!("clock: the server is {} {way} this machine", span(skew.abs().as_secs()));
    if skew.abs() > SignedDuration::from_secs(30) {
        found.warning(format!(
            "{line}; synchronise them (chrony, systemd-timesyncd): readings carry this machine's time"
        ));
    } else {
        found.good(line);
    }
    found.good(format!("billing months: by the time zone {}", setup.rulebook.zone.name()));
}
