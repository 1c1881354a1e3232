//! `check`: every problem at once, each with its remedy: the file, the plugins, the ledger, the token, what Waldur has,
//! and whether the clocks agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;

use super::exit::{Exit, Failed};
use super::setup::{Read, Setup, count, read};
use crate::collectors::definition::Definition;
use crate::config::settings::DEFAULT_PATH;
use crate::config::waldur::{TokenOrigin, WaldurSettings};
use crate::daemon::sample::{Said, Since, ask};
use crate::ledger::ingest::RunOutcome;
use crate::ledger::{Ledger, SharedLedger};
use crate::metering::meter::{Place, Target};
use crate::metering::reading::{Kind, Reading};
use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::waldur::types::{Me, Offering, Plan, Resource};
use crate::waldur::usages::UsageFilter;

use reports::{Reports, Tried};

mod reports;

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

/// What was found, in the order in which it was looked for.
#[derive(Debug, Default)]
struct Findings {
    lines: Vec<(Mark, String)>,
    exit: Option<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Warning,
    Problem,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Mark::Good => "ok",
            Mark::Warning => "warning",
            Mark::Problem => "problem",
        }
    }
}

impl Findings {
    fn good(&mut self, line: impl Into<String>) {
        self.lines.push((Mark::Good, line.into()));
    }

    fn warning(&mut self, line: impl Into<String>) {
        self.lines.push((Mark::Warning, line.into()));
    }

    fn problem(&mut self, exit: Exit, line: impl Into<String>) {
        self.lines.push((Mark::Problem, line.into()));
        self.exit = Some(self.exit.map_or(exit, |known| known.min(exit)));
    }
}

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
            if self.as_service {
                use_token_of_service(&mut settings.waldur, path, &mut found);
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
                .map(|(mark, line)| json!({ "result": mark.name(), "message": line }))
                .collect();
            writeln!(out, "{:#}", json!({ "findings": lines, "exit": exit.code() }))?;
            return Ok(exit);
        }
        for (mark, line) in &found.lines {
            writeln!(out, "{:8} {}", mark.name(), line.replace('\n', "\n         "))?;
        }
        let bad = found.lines.iter().filter(|(mark, _)| *mark == Mark::Problem).count();
        if bad > 0 {
            writeln!(out, "{}.", count(bad, "problem"))?;
        }
        Ok(exit)
    }
}

/// Finds the token as the service does, and tells what the service can't read.
fn use_token_of_service(waldur: &mut WaldurSettings, path: Option<&Path>, found: &mut Findings) {
    match &waldur.token {
        TokenOrigin::Usual => {
            let file = path.unwrap_or(Path::new(DEFAULT_PATH)).with_file_name("token");
            found.good(format!("token: {}, which the service gets as a credential", file.display()));
            waldur.token = TokenOrigin::File(file);
        }
        TokenOrigin::Env(name) => found.warning(format!(
            "token: the service has {name} only if a drop-in of its unit sets it; better leave `token_env` out and put the token \
             into {}",
            path.unwrap_or(Path::new(DEFAULT_PATH)).with_file_name("token").display()
        )),
        TokenOrigin::File(file) => {
            let mode = std::fs::metadata(file).map(|data| data.permissions().mode());
            if mode.is_ok_and(|mode| mode & 0o044 == 0) {
                found.warning(format!(
                    "token: {} is for its owner alone, and the service has a user of its own: leave `token_file` out, and the \
                     unit hands the file `token` beside the configuration over as a credential",
                    file.display()
                ));
            }
        }
    }
}

/// A token that others can read is everybody's.
fn check_token_file(setup: &Setup, found: &mut Findings) {
    let TokenOrigin::File(file) = &setup.settings.waldur.token else { return };
    let Ok(data) = std::fs::metadata(file) else { return };
    if data.permissions().mode() & 0o004 != 0 {
        found.warning(format!(
            "token: every user of this machine can read {}; `chmod o-r` it, and take another token if somebody may have",
            file.display()
        ));
    }
}

async fn online(setup: &Setup, as_service: bool, found: &mut Findings) -> Result<(), Failed> {
    check_ledger(setup, as_service, found);
    check_token_file(setup, found);
    let mut reports = check_collectors(setup, found).await?;
    let client = match setup.client() {
        Ok(client) => client,
        Err(failed) => {
            found.problem(failed.exit, failed.message);
            return Ok(());
        }
    };
    let me = match client.me().await {
        Ok(me) => me,
        Err(failure) => {
            tell_failure(found, &failure);
            return Ok(());
        }
    };
    check_token(&me, found);
    check_clock(setup, &client, found);
    check_offerings(setup, &client, &me, &mut reports, found).await;
    check_resources(setup, &client, &mut reports, found).await;
    reports.tell(found);
    check_time_zone(setup, &client, found).await;
    Ok(())
}

fn check_ledger(setup: &Setup, as_service: bool, found: &mut Findings) {
    let path = &setup.settings.ledger;
    if !path.exists() {
        let parent = path.parent().unwrap_or(Path::new("/"));
        if as_service && parent == Path::new(STATE_DIRECTORY) {
            found.good(format!("ledger {}: not there yet; the service makes it", path.display()));
            return;
        }
        match parent.is_dir() {
            true => found.good(format!("ledger {}: not there yet; the first run makes it", path.display())),
            false => found.problem(
                Exit::Config,
                format!("ledger {}: its directory is not there; create {}", path.display(), parent.display()),
            ),
        }
        return;
    }
    let verified = Ledger::open_to_read(path, (*setup.rulebook).clone()).and_then(|ledger| ledger.verify());
    match verified {
        Ok(()) => found.good(format!("ledger {}: whole", path.display())),
        Err(error) => found.problem(Exit::Config, error.to_string()),
    }
}

/// Tries each collector without recording anything. Returns what each would report.
async fn check_collectors(setup: &Setup, found: &mut Findings) -> Result<Reports, Failed> {
    let mut reports = Reports::default();
    // A ledger in memory: checkpoints are not consulted, and the real one is left alone.
    let ledger = SharedLedger::new(Ledger::in_memory((*setup.rulebook).clone())?);
    for definition in setup.definitions.iter() {
        let since = definition.since.unwrap_or_else(|| setup.period_start());
        let since = Since::Checkpoint(since);
        let Said { run, readings, mut more, notes } =
            ask(definition, &ledger, &setup.clock, since, setup.withhold()).await?;
        let name = &definition.name;
        match run.outcome {
            RunOutcome::Failed(error) => {
                found.problem(Exit::Collector, format!("collector {name}: {error}"));
                continue;
            }
            RunOutcome::Seen { problems, quarantined, .. } => {
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
    }
    Ok(reports)
}

/// What each meter makes of the readings, and which of them belong nowhere.
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
    let mut tried: Vec<Tried> = meters.iter().map(|_| Tried::default()).collect();
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
        found.warning(format!("collector {name}: some readings belong nowhere: {why}"));
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
                let factor = &meter.factor;
                let only = match meter.weighing.to_string() {
                    rule if rule.is_empty() => rule,
                    rule => format!(", {rule}"),
                };
                let line = format!(
                    "collector {name}: {series} of {} ({kind}, {unit}) make {} by {} x {factor}{only}",
                    meter.reading,
                    meter.component,
                    measure.name()
                );
                if tried.counted == 0 {
                    found
                        .warning(format!("{line}: none of {readings} counts; is a label or value misspelt?"));
                } else {
                    found.good(line);
                    reports.add(name, meter, measure, unit, tried);
                }
            }
            Err(why) => found.problem(Exit::Config, format!("collector {name}: {why}")),
        }
    }
}

fn check_token(me: &Me, found: &mut Findings) {
    let who = &me.username;
    match me.token_lifetime {
        None => found.good(format!("token: of user {who}; it does not expire")),
        Some(seconds) => found.warning(format!(
            "token: of user {who}; it dies after {seconds} s without a call. The daemon keeps it alive; for `flush` from \
             cron, use a token without a lifetime"
        )),
    }
    let reports =
        me.permissions.iter().any(|p| ["OFFERING.MANAGER", "CUSTOMER.OWNER"].contains(&p.role_name.as_str()));
    if !me.is_staff && !reports {
        found.problem(
            Exit::Token,
            format!("user {who} has no role that may report usage: make it manager of the offering (OFFERING.MANAGER)"),
        );
    }
}

fn check_clock(setup: &Setup, client: &Client, found: &mut Findings) {
    let Some(skew) = client.skew() else {
        found.warning("the server does not tell its time (no Date header): near midnight of the last day of a month nothing will be sent");
        return;
    };
    let line = format!("clock: the server is {} s ahead of this machine", skew.as_secs());
    if skew.abs() > SignedDuration::from_secs(30) {
        found.warning(format!(
            "{line}; synchronise them (chrony, systemd-timesyncd): readings carry this machine's time"
        ));
    } else {
        found.good(line);
    }
    found.good(format!("months: those of {}", setup.rulebook.zone.name()));
}

async fn check_offerings(
    setup: &Setup,
    client: &Client,
    me: &Me,
    reports: &mut Reports,
    found: &mut Findings,
) {
    let seen = reports.backend_ids();
    let offerings: BTreeSet<Uuid> =
        setup.rulebook.rules.iter().filter_map(|rules| rules.offering()).collect();
    for offering in offerings {
        let known = match client.offering(offering).await {
            Err(Failure::Missing { .. }) => client.public_offering(offering).await,
            known => known,
        };
        let known = match known {
            Ok(known) => known,
            Err(Failure::Missing { .. }) => {
                found.problem(
                    Exit::Stuck,
                    format!(
                        "offering {offering}: Waldur has none with this UUID, or user {} may not see it",
                        me.username
                    ),
                );
                continue;
            }
            Err(failure) => {
                tell_failure(found, &failure);
                continue;
            }
        };
        let meters = setup.rulebook.rules.iter().filter(|rules| rules.offering() == Some(offering));
        let folding = meters.clone().find(|rules| rules.ignores_case());
        let fold = |id: &str| folding.map_or_else(|| id.to_owned(), |rules| rules.fold(id));
        let components: BTreeSet<&str> =
            meters.flat_map(|rules| rules.meters.iter().map(|meter| meter.component.as_str())).collect();
        check_components(&known, &components, found);
        reports.offering(&known);
        match client.resources(offering).await {
            Ok(resources) => {
                if resources.is_empty() {
                    found.warning(format!(
                        "offering {} lists no resources: it has none, or the token has no role on it",
                        known.name
                    ));
                } else {
                    found.good(format!("offering {}: {}", known.name, count(resources.len(), "resource")));
                }
                for resource in &resources {
                    let target = Target::BackendId { offering, backend_id: fold(&resource.backend_id) };
                    reports.resource(target, &resource.name, offering);
                }
                let mut ids: BTreeMap<String, Vec<&Resource>> = BTreeMap::new();
                for resource in &resources {
                    ids.entry(fold(&resource.backend_id)).or_default().push(resource);
                }
                for (_, backend_id) in seen.iter().filter(|(of, _)| *of == offering) {
                    if let Some(found_here) = ids.get(&fold(backend_id)) {
                        check_backend_id(&known.name, backend_id, found_here, found);
                    }
                }
                for (_, backend_id) in
                    seen.iter().filter(|(of, id)| *of == offering && !ids.contains_key(&fold(id)))
                {
                    found.warning(format!(
                        "offering {}: no resource has the backend id {backend_id}: unmatched",
                        known.name
                    ));
                }
            }
            Err(failure) => tell_failure(found, &failure),
        }
    }
}

/// Whether Waldur would take and bill a report for the resource that a backend id stands for.
fn check_backend_id(offering: &str, backend_id: &str, resources: &[&Resource], found: &mut Findings) {
    let lives = |resource: &&&Resource| ["OK", "Updating", "Terminating"].contains(&resource.state.as_str());
    let named = |resource: &Resource| format!("{} ({})", resource.name, resource.uuid);
    let head = format!("offering {offering}, backend id {backend_id}");
    let living: Vec<&&Resource> = resources.iter().filter(lives).collect();
    match living.as_slice() {
        [] => {
            let states =
                resources.iter().map(|resource| format!("{} is {}", named(resource), resource.state));
            let states: Vec<String> = states.collect();
            found.problem(
                Exit::Stuck,
                format!("{head}: {}: Waldur refuses reports for it", states.join(", ")),
            );
        }
        [one] if one.plan == Plan::None => found.problem(
            Exit::Stuck,
            format!("{head}: {} has no plan: Waldur can't bill it; give it one", named(one)),
        ),
        [_] => {}
        several => {
            let names: Vec<String> = several.iter().map(|resource| named(resource)).collect();
            found.problem(
                Exit::Stuck,
                format!(
                    "{head}: it is that of {}, and nobody can say which is meant: change all but one in Waldur",
                    names.join(" and of ")
                ),
            );
        }
    }
}

/// Finds meters for components that Waldur would refuse, before the first night does.
fn check_components(offering: &Offering, meters: &BTreeSet<&str>, found: &mut Findings) {
    for meter in meters {
        match offering.components.iter().find(|component| component.component == *meter) {
            None => {
                let known: Vec<_> = offering.components.iter().map(|c| c.component.as_str()).collect();
                found.problem(
                    Exit::Stuck,
                    format!(
                        "offering {} has no component `{meter}`; it has {}",
                        offering.name,
                        known.join(", ")
                    ),
                );
            }
            Some(component) if ["usage", "limit"].contains(&component.billing_type.as_str()) => {
                let unit = &component.measured_unit;
                found.good(format!(
                    "component {meter} of {}: billed by {}, in {unit}",
                    offering.name, component.billing_type
                ));
            }
            Some(component) if component.billing_type == "one" => found.warning(format!(
                "component {meter} of {} is a one-time one: only newer servers take reports for it",
                offering.name
            )),
            Some(component) => found.problem(
                Exit::Stuck,
                format!(
                    "component {meter} of {} is billed as `{}`: Waldur refuses usage reports for it",
                    offering.name, component.billing_type
                ),
            ),
        }
    }
}

async fn check_resources(setup: &Setup, client: &Client, reports: &mut Reports, found: &mut Findings) {
    let resources: BTreeSet<Uuid> =
        setup.rulebook.rules.iter().filter_map(|rules| rules.fixed_resource()).collect();
    for uuid in resources {
        match client.resource(uuid).await {
            Ok(resource) => {
                let name = format!("resource {} ({uuid})", resource.name);
                if resource.plan == Plan::None {
                    found.problem(Exit::Stuck, format!("{name} has no plan: Waldur can't bill it; give it one"));
                }
                match resource.state.as_str() {
                    "OK" | "Updating" | "Terminating" => found.good(format!("{name}: {}", resource.state)),
                    state => found.problem(Exit::Stuck, format!("{name} is {state}: Waldur refuses reports for it")),
                }
                if let Some(offering) = resource.offering_uuid
                    && let Ok(known) = client.public_offering(offering).await
                {
                    let meters = setup.rulebook.rules.iter().filter(|rules| rules.fixed_resource() == Some(uuid));
                    let components: BTreeSet<&str> =
                        meters.flat_map(|rules| rules.meters.iter().map(|meter| meter.component.as_str())).collect();
                    check_components(&known, &components, found);
                    reports.offering(&known);
                    reports.resource(Target::Resource(uuid), &resource.name, offering);
                }
            }
            Err(Failure::Missing { .. }) => found.problem(
                Exit::Stuck,
                format!("resource {uuid}: Waldur has none with this UUID, or the token has no role on its offering"),
            ),
            Err(failure) => tell_failure(found, &failure),
        }
    }
}

/// A row of this month that was written today tells whose months the server bills by.
async fn check_time_zone(setup: &Setup, client: &Client, found: &mut Findings) {
    let zone = &setup.rulebook.zone;
    let now = setup.clock.now();
    for rules in &setup.rulebook.rules {
        let filter = match (rules.fixed_resource(), rules.offering()) {
            (Some(resource), _) => UsageFilter { resource: Some(resource), ..UsageFilter::default() },
            (None, Some(offering)) => UsageFilter {
                offering: Some(offering),
                ..UsageFilter::of_month(zone.period_of(now).first_day())
            },
            (None, None) => continue,
        };
        let Ok(rows) = client.list_usages(&filter).await else { return };
        for row in rows {
            let Some(date) = row.date else { continue };
            let meant = zone.period_of(date).first_day();
            // A dated report may carry a date at the very edge; only a whole month apart is a wrong zone.
            if meant != row.billing_period {
                found.warning(format!(
                    "a row of {} that was written at {date} is in {}: `billing_timezone: {}` may not be the server's time zone",
                    row.resource_name,
                    row.billing_period,
                    zone.name()
                ));
                return;
            }
        }
    }
}

fn tell_failure(found: &mut Findings, failure: &Failure) {
    let (exit, remedy) = match failure {
        Failure::Token { .. } => (Exit::Token, "put a valid token where the configuration says it is"),
        Failure::Forbidden { .. } => {
            (Exit::Token, "give the token's user the role OFFERING.MANAGER on the offering")
        }
        Failure::Certificate { .. } => {
            (Exit::Pending, "name the server's authority in `waldur.ca_file`, or mend its certificate")
        }
        Failure::NotSent { .. } => {
            (Exit::Pending, "check `waldur.url`, the name service, the network and the proxy")
        }
        Failure::Redirected { .. } | Failure::Endpoint { .. } => {
            (Exit::Config, "check `waldur.url`: is a Waldur there?")
        }
        _ => (Exit::Pending, "try again; if it stays, look at the server"),
    };
    found.problem(exit, format!("{failure}\nwhat to do: {remedy}"));
}
