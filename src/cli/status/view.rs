//! All that `status` knows, read once.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::amount_state::AmountState;
use super::collector::Collector;
use super::of_hosts::OfHosts;
use crate::cli::exit::{Exit, Failed};
use crate::cli::explain::find;
use crate::cli::setup::Setup;
use crate::cli::standing;
use crate::cli::text::name_or;
use crate::daemon::health::free;
use crate::daemon::instance::{self, Running};
use crate::ledger::Ledger;
use crate::ledger::books::catalog::KnownResource;
use crate::ledger::db::error::is_read_only;
use crate::ledger::db::event::Event;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::blocked::Blocked;
use crate::ledger::sent::server::Retry;
use crate::ledger::views::agents::AgentReport;
use crate::metering::period::BillingPeriod;
use crate::submitter::closing::Closing;
use crate::submitter::left::Outstanding;
use crate::submitter::next_try::NextTry;
use crate::submitter::pause;
use crate::submitter::reason::waits;
use crate::submitter::writer::OwnNames;

#[derive(Debug)]
pub(super) struct View {
    pub(super) now: Timestamp,
    pub(super) exit: Exit,
    /// Nothing is ever posted.
    pub(super) shadow: bool,
    /// How what the daemon works by is not what the file says.
    pub(super) differs: Option<String>,
    pub(super) ledger: String,
    /// Free bytes on its disk.
    pub(super) free: Option<i64>,
    /// Why it can't be written, and since when where the daemon tells.
    pub(super) failing: Option<(Option<Timestamp>, String)>,
    pub(super) daemon: Option<Running>,
    pub(super) url: String,
    pub(super) server: pause::ServerStatus,
    /// What rows call this token's user.
    pub(super) own: OwnNames,
    pub(super) collectors: Vec<Collector>,
    /// The hosts of a shared ledger.
    pub(super) agents: Vec<AgentReport>,
    pub(super) of_hosts: OfHosts,
    pub(super) left: Outstanding,
    pub(super) next: NextTry,
    pub(super) held_readings: Vec<Event>,
    pub(super) closing: Closing,
    /// Worst first, then by name.
    pub(super) resources: Vec<Resource>,
}

/// A resource with the months that matter.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    pub(super) backend_id: String,
    pub(super) customer: String,
    /// Waldur has ended it: it takes no more reports.
    pub(super) terminated: bool,
    pub(super) state: AmountState,
    pub(super) months: Vec<Month>,
    pub(super) put_off: Option<Retry>,
}

/// A plan period's part of a month.
#[derive(Debug)]
pub(super) struct Month {
    pub(super) key: StatementKey,
    pub(super) state: AmountState,
    pub(super) pending: bool,
    pub(super) blocks: Vec<Blocked>,
}

impl Month {
    fn of(key: StatementKey, otherwise: AmountState, blocks: Vec<Blocked>) -> Month {
        let blocked =
            blocks.iter().filter(|at| waits(&at.block)).map(|at| AmountState::of_block(&at.block.state));
        let pending = otherwise == AmountState::Pending;
        Month { key, state: blocked.min().unwrap_or(otherwise).min(otherwise), pending, blocks }
    }

    fn is(&self, state: AmountState) -> bool {
        self.state == state
            || state == AmountState::Pending && self.pending
            || self.blocks.iter().any(|at| AmountState::of_block(&at.block.state) == state)
    }
}

impl View {
    pub(super) fn of(ledger: &Ledger, setup: &Setup, period: Option<BillingPeriod>) -> Result<View, Failed> {
        let now = setup.clock.now();
        let current = ledger.in_force().zone.period_of(now);
        let mut collectors = Vec::new();
        for definition in setup.definitions.iter() {
            collectors.push(Collector::of(ledger, setup, definition)?);
        }
        collectors.sort_by_key(Collector::severity);
        let agents = ledger.agents()?;
        let of_hosts = OfHosts::of(ledger, setup)?;
        let left = Outstanding::of(ledger, &setup.collectors())?;
        let server =
            pause::ServerStatus::of(ledger, setup.settings.api().filter(|_| setup.settings.submits))?;
        let free = ledger.place().file().and_then(free);
        let daemon = instance::running(&setup.settings.first_place());
        let told = daemon.as_ref().and_then(|daemon| daemon.told.as_ref()?.ledger_failing.clone());
        let told = told.map(|(since, words)| (Some(since), words));
        // A daemon can't write there what it has to tell.
        let read_only = || {
            let path = ledger.place().file().filter(|path| is_read_only(path))?;
            Some((None, format!("the file system of {} is read-only", path.display())))
        };
        let failing = told.or_else(read_only);
        let reload_refused =
            daemon.as_ref().and_then(|daemon| daemon.told.as_ref()?.reload_refused.as_ref()).is_some();
        // Nothing can be recorded there, or it is not what the file says that is done.
        let exit = if free == Some(0) || failing.is_some() || reload_refused || server.other.is_some() {
            Exit::Config
        } else if server.is_refused() {
            Exit::Token
        } else if collectors.iter().any(Collector::fails)
            || agents.iter().any(|agent| agent.is_away(now) || agent.fails())
        {
            Exit::Collector
        } else {
            let exit = standing::exit(&left, &server);
            if of_hosts.is_not_billed { exit.min(Exit::Stuck) } else { exit }
        };
        let of_daemon = daemon.as_ref().and_then(|daemon| daemon.told.as_ref());
        // What the daemon was told last counts, not what stands in the file meanwhile.
        let shadow = of_daemon.and_then(|told| told.shadow).unwrap_or(setup.is_shadow());
        // Of a daemon on another machine, or in another container, the file that it reads is not known here.
        let is_here = daemon.as_ref().is_some_and(|daemon| daemon.pid.is_some());
        let differs =
            of_daemon.filter(|_| is_here).and_then(|told| told.differs_from(setup.settings.file.as_ref()));
        Ok(View {
            now,
            exit,
            shadow,
            differs,
            ledger: ledger.place().to_string(),
            free,
            failing,
            daemon,
            url: setup.settings.waldur.as_ref().map_or_else(String::new, |waldur| waldur.api.to_string()),
            server,
            own: OwnNames::of(ledger)?,
            collectors,
            agents,
            of_hosts,
            left,
            next: NextTry::of(ledger, now)?,
            held_readings: ledger.held_readings()?,
            closing: Closing::of(ledger, now)?,
            resources: resources(ledger, period, current)?,
        })
    }

    /// The resources that are asked for, with the months that are.
    pub(super) fn choose<'a>(
        &'a self,
        ledger: &Ledger,
        wanted: &[String],
        state: Option<AmountState>,
    ) -> Result<Vec<(&'a Resource, Vec<&'a Month>)>, Failed> {
        let wanted = wanted
            .iter()
            .map(|wanted| Ok(find(ledger, wanted)?.0))
            .collect::<Result<BTreeSet<Uuid>, Failed>>()?;
        let resources = self.resources.iter().filter(|one| wanted.is_empty() || wanted.contains(&one.uuid));
        let chosen = resources.map(|one| {
            let months = one.months.iter().filter(|month| state.is_none_or(|state| month.is(state)));
            (one, months.collect::<Vec<_>>())
        });
        Ok(chosen.filter(|(_, months)| !months.is_empty()).collect())
    }

    /// How many resources stand worse than pending, and have something to be sent as well.
    pub(super) fn also_pending(&self) -> usize {
        let worse = self.resources.iter().filter(|one| one.state < AmountState::Pending);
        worse.filter(|one| one.months.iter().any(|month| month.pending)).count()
    }

    /// How many resources stand how.
    pub(super) fn summary(&self) -> BTreeMap<AmountState, usize> {
        let mut counts = BTreeMap::new();
        for resource in &self.resources {
            *counts.entry(resource.state).or_default() += 1;
        }
        counts
    }
}

fn resources(
    ledger: &Ledger,
    period: Option<BillingPeriod>,
    current: BillingPeriod,
) -> Result<Vec<Resource>, Failed> {
    let pending: BTreeSet<StatementKey> = ledger.pending_as_stated()?.into_iter().collect();
    let shadow = ledger.shadow_months()?;
    let mut put_off: BTreeMap<Uuid, Retry> = ledger.put_off()?.into_iter().collect();
    let mut blocks: BTreeMap<StatementKey, Vec<Blocked>> = BTreeMap::new();
    for at in ledger.blocks()? {
        let key = at.key();
        blocks.entry(key).or_default().push(at);
    }
    let mut months: BTreeMap<Uuid, Vec<Month>> = BTreeMap::new();
    for (key, accepted) in ledger.unsettled(period, current)? {
        let otherwise = match (pending.contains(&key), accepted) {
            _ if shadow.contains(&key.period) => AmountState::Shadow,
            (true, _) => AmountState::Pending,
            (false, true) => AmountState::Agreed,
            (false, false) => AmountState::Unused,
        };
        let month = Month::of(key, otherwise, blocks.remove(&key).unwrap_or_default());
        // Of an earlier month that nothing is left of, nothing is to be said.
        let left = period.is_some()
            || key.period >= current
            || month.state < AmountState::Agreed
            || put_off.contains_key(&key.resource);
        if left || !month.blocks.is_empty() {
            months.entry(key.resource).or_default().push(month);
        }
    }
    let mut known: BTreeMap<Uuid, KnownResource> =
        ledger.resources()?.into_iter().map(|known| (known.uuid, known)).collect();
    let mut resources = Vec::with_capacity(months.len());
    for (uuid, months) in months {
        let known = known.remove(&uuid);
        let (name, backend_id, customer, terminated) = known
            .map(|KnownResource { name, backend_id, customer, state, .. }| {
                (name, backend_id, customer, state == "Terminated")
            })
            .unwrap_or_default();
        let state = months.iter().map(|month| month.state).min().unwrap_or(AmountState::Unused);
        resources.push(Resource {
            uuid,
            name: name_or(&name, uuid),
            backend_id,
            customer,
            terminated,
            state,
            months,
            put_off: put_off.remove(&uuid),
        });
    }
    resources.sort_by(|a, b| (a.state, &a.name, a.uuid).cmp(&(b.state, &b.name, b.uuid)));
    Ok(resources)
}
