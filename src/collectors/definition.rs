//! One collector of the configuration file, with all that belongs to it: its plugin, its schedule, its rules.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::{Collector, PLUGINS, Plugin};
use crate::config::schedule::Schedule;
use crate::config::section::Section;
use crate::config::settings::time_zone;
use crate::metering::meter::Rules;

/// A collector that can be run.
#[derive(Debug)]
pub struct Definition {
    pub name: String,
    pub plugin: &'static Plugin,
    pub schedule: Schedule,
    /// Where reading starts in a source with history, if not at the start of the billing period.
    pub since: Option<Timestamp>,
    /// Whether it may rightly see nothing at all, all of a sudden.
    pub allow_empty: bool,
    /// Of a shared ledger: whether any of several agents may run it, one at a time, because all reach the same source.
    pub once: bool,
    /// It reads what other hosts reach, too, and nothing is said about whether they do.
    pub may_be_shared: bool,
    /// Of a shared ledger: whether only other agents run it, and this one has the rules for what they measure.
    pub elsewhere: bool,
    pub rules: Rules,
    pub collector: Box<dyn Collector>,
}

impl Definition {
    /// Reads a collector's section to its end. Every mistake in it is recorded, not only the first.
    pub fn from_section(mut section: Section, billing_zone: &TimeZone) -> Option<Definition> {
        let name = section.name().to_owned();
        let plugin = section.require_with("plugin", "which kind of collector it is", |text| {
            PLUGINS.iter().find(|plugin| plugin.name == text).ok_or_else(|| {
                let known: Vec<_> = PLUGINS.iter().map(|plugin| plugin.name).collect();
                format!("there is no plugin `{text}`; known: {}", known.join(", "))
            })
        });
        let zone = time_zone(&mut section).unwrap_or_else(|| billing_zone.clone());
        let schedule =
            section.require_with("schedule", "when to look, such as \"*/5 * * * *\" or every 30s", |text| {
                Schedule::parse(text, zone)
            });
        let schedule = match schedule {
            Some(schedule) => Some(schedule.with_jitter(&mut section, &name)),
            None => {
                // Taken, so that it is no unknown key beside a schedule that is mistaken.
                section.text("jitter");
                None
            }
        };
        let since = section.parse_with("since", |text| {
            text.parse::<Timestamp>()
                .map_err(|_| format!("`{text}` is not an instant such as 2026-11-01T00:00:00Z"))
        });
        let allow_empty = section.flag("allow_empty").unwrap_or(false);
        let stated_once = section.flag("once");
        let once = stated_once.unwrap_or(false);
        let elsewhere = section.flag("elsewhere").unwrap_or(false);
        let rules = Rules::from_section(&mut section);
        let Some(plugin) = plugin else {
            // Its other keys are unknown only because the plugin is; one mistake is enough.
            return None;
        };
        let collector = (plugin.build)(&mut section);
        if let (Some(collector), Some(rules)) = (&collector, &rules) {
            check_rules(&section, collector.as_ref(), rules);
        }
        section.finish();
        let (mut rules, schedule) = (rules?, schedule?);
        let collector = collector?;
        rules.default_max_gap =
            Some(schedule.usual_distance().max(collector.distance().unwrap_or_default()) * 3);
        let may_be_shared = plugin.is_shared && stated_once.is_none();
        Some(Definition {
            name,
            plugin,
            schedule,
            since,
            allow_empty,
            once,
            may_be_shared,
            elsewhere,
            rules,
            collector,
        })
    }
}

impl Definition {
    /// The readings that its meters want.
    pub fn metered(&self) -> BTreeSet<&str> {
        self.rules.meters.iter().map(|meter| meter.reading.as_str()).collect()
    }
}

/// The longest gap that is usual between two looks of one collector which this host runs as itself.
pub fn longest_gap(definitions: &[Definition]) -> SignedDuration {
    let own = definitions.iter().filter(|definition| !definition.once && !definition.elsewhere);
    own.filter_map(|definition| definition.rules.default_max_gap).max().unwrap_or_default()
}

/// Environment variables that hold a secret of the agent's (`token`) or of a collector's. No program that a collector
/// starts gets them.
pub fn secret_env(token: Option<&str>, definitions: &[Definition]) -> Vec<String> {
    let of_collectors = definitions.iter().flat_map(|definition| definition.collector.secret_env());
    token.map(str::to_owned).into_iter().chain(of_collectors).collect()
}

/// Checks what can be known before the collector has run: that the readings and labels that the rules speak of exist.
fn check_rules(section: &Section, collector: &dyn Collector, rules: &Rules) {
    let offers = collector.offers().iter().map(|offered| offered.name);
    let known: Vec<_> = offers.chain(collector.named().into_iter().map(|(name, _)| name)).collect();
    for meter in &rules.meters {
        let Some(kind) = collector.kind_of(&meter.reading) else {
            if !known.is_empty() {
                section.problem(
                    "meters",
                    format!(
                        "the meter {} wants a reading `{}`, which this collector does not make; it makes {}",
                        meter.component,
                        meter.reading,
                        known.join(", ")
                    ),
                );
            }
            continue;
        };
        if let Err(why) = meter.measure(kind) {
            section.problem("meters", why);
        }
    }
    let labels = collector.labels();
    for meter in &rules.meters {
        for label in meter.weighing.labels() {
            if !labels.is_empty() && !labels.contains(&label) {
                section.problem(
                    "meters",
                    format!(
                        "the meter {} looks at a label `{label}`, which is none of this collector's readings; they carry {}",
                        meter.component,
                        labels.join(", ")
                    ),
                );
            }
        }
    }
    for label in rules.labels() {
        if !labels.is_empty() && !labels.contains(&label) {
            section.problem(
                "",
                format!(
                    "`{{{label}}}` is no label of this collector's readings; they carry {}",
                    labels.join(", ")
                ),
            );
        }
    }
}
