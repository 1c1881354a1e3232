//! The rules of one collector: which resource and user its readings belong to, and the meters that turn its series
//! into components' amounts.
//!
//! Rules are read from the collector's section of the configuration file and checked there; they hold no state.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::exact::{Exact, Rounding};
use super::measure::{AtMost, Hold, Interpolation, Measure, OnGap, is_default};
use super::reading::{Kind, Labels};
use super::weighing::Weighing;
use crate::config::duration::parse_duration;
use crate::config::section::Section;
use crate::config::template::Template;

/// How the series of a meter become a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Increase,
    Sum,
    Integral,
    Mean,
    Max,
    Last,
}

impl FromStr for Aggregate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "increase" => Ok(Aggregate::Increase),
            "sum" => Ok(Aggregate::Sum),
            "integral" => Ok(Aggregate::Integral),
            "mean" => Ok(Aggregate::Mean),
            "max" => Ok(Aggregate::Max),
            "last" => Ok(Aggregate::Last),
            other => {
                Err(format!("`{other}` is no aggregate; known: increase, sum, integral, mean, max, last"))
            }
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aggregate::Increase => "increase",
            Aggregate::Sum => "sum",
            Aggregate::Integral => "integral",
            Aggregate::Mean => "mean",
            Aggregate::Max => "max",
            Aggregate::Last => "last",
        })
    }
}

/// The rule that turns the series of one reading into one component's amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// The component's type in Waldur.
    pub component: String,
    /// The name of the readings that it meters.
    pub reading: String,
    /// `None`: what is natural for the kind; a gauge has nothing natural.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    #[serde(flatten)]
    pub hold: Hold,
    /// Multiplies the quantity; 1/3600 makes hours of seconds.
    pub factor: Exact,
    /// The same as the file has it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_factor: Option<String>,
    /// The most of the component that one reading may add for each hour of its interval; more is held as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Exact>,
    /// Which series it counts, and how much.
    #[serde(flatten)]
    pub weighing: Weighing,
    #[serde(default, skip_serializing_if = "is_default")]
    pub rounding: Rounding,
    /// Sent with each report if set; the server clears it otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recurring: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_usage_policy: Option<String>,
}

impl Meter {
    /// What is counted over a series of this kind; an error for people if this meter can't meter it.
    pub fn measure(&self, kind: Kind) -> Result<Measure, String> {
        let hold = self.hold.as_counted();
        let at_most = self.limit();
        match (kind, self.aggregate) {
            (Kind::Counter, None | Some(Aggregate::Increase)) => Ok(Measure::Increase(at_most)),
            (Kind::Delta, None | Some(Aggregate::Sum)) => Ok(Measure::Sum(at_most)),
            (Kind::Total, None | Some(Aggregate::Last)) => Ok(Measure::Total(at_most)),
            (Kind::Gauge, Some(Aggregate::Integral)) => Ok(Measure::Integral(hold, at_most)),
            (Kind::Gauge, Some(Aggregate::Mean)) => Ok(Measure::Mean(hold)),
            (Kind::Gauge, Some(Aggregate::Max)) => Ok(Measure::Max(hold)),
            (Kind::Gauge, Some(Aggregate::Last)) if self.at_most.is_some() => Err(format!(
                "the meter {} can't take `at_most`: it bounds what adds up, and the last level of {} does not",
                self.component, self.reading
            )),
            (Kind::Gauge, Some(Aggregate::Last)) => Ok(Measure::Level),
            (Kind::Gauge, None) => Err(format!(
                "the meter {} must say how the gauge {} is to be billed: `aggregate: integral`, `mean`, `max` or `last`",
                self.component, self.reading
            )),
            (kind, Some(aggregate)) => Err(format!(
                "the meter {} can't take `aggregate: {aggregate}` of {}, which is a {kind}; it fits {}",
                self.component,
                self.reading,
                match kind {
                    Kind::Counter => "`increase`",
                    Kind::Delta => "`sum`",
                    Kind::Total => "`last`",
                    Kind::Gauge => "`integral`, `mean`, `max` or `last`",
                }
            )),
        }
    }

    /// The factor as the file has it: `1/3600`, `0.001`, `1e-9`.
    pub fn factor_as_written(&self) -> String {
        self.written_factor.clone().unwrap_or_else(|| self.factor.to_string())
    }

    /// Whether both make the same of the same readings and report it alike, however their factors are written.
    pub fn is_same_rule(&self, other: &Meter) -> bool {
        let plain = |meter: &Meter| Meter { written_factor: None, ..meter.clone() };
        plain(self) == plain(other)
    }

    /// What `at_most` is in the unit of what is counted. A factor of 0 makes nothing of anything.
    fn limit(&self) -> Option<AtMost> {
        AtMost::new(&self.at_most.as_ref()?.checked_div(&self.factor)?)
    }

    fn from_section(mut section: Section) -> Option<Meter> {
        let component = section.text("component").unwrap_or_else(|| section.name().to_owned());
        let reading = section.require_with("reading", "the name of the readings to meter", |text| {
            if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
        });
        let aggregate = section.parse_with("aggregate", Aggregate::from_str);
        let factor = section.parse_with("factor", |text| {
            let factor: Exact = text.parse()?;
            let as_written = (factor.to_string() != text).then(|| text.to_owned());
            match factor.is_negative() {
                true => Err("must not be negative".to_owned()),
                false => Ok((factor, as_written)),
            }
        });
        let (factor, written_factor) = factor.unzip();
        let at_most = section.parse_with("at_most", |text| {
            let at_most: Exact = text.parse()?;
            if at_most.is_negative() || at_most.is_zero() {
                return Err("must be more than 0".to_owned());
            }
            let of = factor.as_ref().filter(|factor| !factor.is_zero());
            let in_unit = of.map_or(Some(at_most.clone()), |factor| at_most.checked_div(factor));
            match in_unit.as_ref().and_then(AtMost::new) {
                Some(_) => Ok(at_most),
                None => Err("has too many digits".to_owned()),
            }
        });
        if let (true, Some(aggregate @ (Aggregate::Mean | Aggregate::Max))) = (at_most.is_some(), aggregate) {
            let message = format!("`at_most` bounds what adds up, and a `{aggregate}` does not");
            section.problem("at_most", message);
        }
        let weighing = Weighing::from_section(&mut section);
        let rounding = section.parse_with("rounding", Rounding::from_str);
        let interpolation = section.parse_with("interpolation", |text| match text {
            "step" => Ok(Interpolation::Step),
            "linear" => Ok(Interpolation::Linear),
            other => Err(format!("`{other}` is no interpolation; known: step, linear")),
        });
        let max_gap = section.parse_with("max_gap", parse_duration);
        let on_gap = section.parse_with("on_gap", |text| match text {
            "leave_out" => Ok(OnGap::LeaveOut),
            "hold" => Ok(OnGap::Hold),
            other => Err(format!("`{other}` is no way to treat a gap; known: leave_out, hold")),
        });
        let description = section.parse_with("description", |text| {
            // The server answers a longer one with a permanent 500 (observed).
            if text.chars().count() > 2000 {
                return Err("must have at most 2,000 characters".to_owned());
            }
            if text.contains('\0') {
                Err("must not contain a NUL character".to_owned())
            } else {
                Ok(text.to_owned())
            }
        });
        let recurring = section.flag("recurring");
        let missing_usage_policy = section.parse_with("missing_usage_policy", |text| match text {
            "none" | "reuse" | "zero" => Ok(text.to_owned()),
            other => Err(format!("`{other}` is no policy; known: none, reuse, zero")),
        });
        let gauge_only = ["interpolation", "max_gap", "on_gap"].into_iter().find(|key| section.has(key));
        if let (Some(key), Some(Aggregate::Increase | Aggregate::Sum | Aggregate::Last)) =
            (gauge_only, aggregate)
        {
            section.problem(key, format!("`{key}` is only for the aggregates integral, mean and max"));
        }
        if interpolation.is_some() && aggregate == Some(Aggregate::Max) {
            section.problem("interpolation", "a `max` takes each level to hold until the next reading");
        }
        section.finish();
        Some(Meter {
            component,
            reading: reading?,
            aggregate,
            hold: Hold {
                interpolation: interpolation.unwrap_or_default(),
                max_gap,
                on_gap: on_gap.unwrap_or_default(),
            },
            factor: factor.unwrap_or_else(Exact::one),
            written_factor: written_factor.flatten(),
            at_most,
            weighing,
            rounding: rounding.unwrap_or_default(),
            description,
            recurring,
            missing_usage_policy,
        })
    }
}

/// Which resource a series belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Resource(Uuid),
    /// The resource of this offering that has this backend id, once Waldur knows one.
    BackendId {
        offering: Uuid,
        backend_id: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Resource(uuid) => write!(f, "resource {uuid}"),
            Target::BackendId { offering, backend_id } => {
                write!(f, "backend id {backend_id} of offering {offering}")
            }
        }
    }
}

/// How a target is made of labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum TargetRule {
    Resource(Template),
    BackendId {
        offering: Uuid,
        backend_id: Template,
        /// Whether `Proj-A` and `proj-a` are one.
        #[serde(default, skip_serializing_if = "is_default")]
        ignore_case: bool,
    },
}

/// The rules of one collector. As JSON they read as the file does, and what was recorded is read back equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    pub collector: String,
    /// The collector whose series go on under this one's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<String>,
    #[serde(rename = "resource")]
    target: TargetRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<Template>,
    pub meters: Vec<Meter>,
    /// Backend ids that are nobody's (a cluster's root account): not even unmatched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ignore: Vec<String>,
    /// Where nothing is said and few runs are known: three times the schedule's usual distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_max_gap: Option<SignedDuration>,
}

/// Where a series belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    At {
        target: Target,
        user: Option<String>,
    },
    Ignored,
    /// It carries no label that says where it belongs: shown as unmatched, with the reason.
    Nowhere(String),
}

impl Rules {
    /// Takes `resource`, `user`, `meters`, `ignore` and `continues` from a collector's section.
    pub fn from_section(section: &mut Section) -> Option<Rules> {
        let target = target_rule(section);
        let user = section.parse_with("user", Template::from_str);
        let ignore = section.texts("ignore").unwrap_or_default();
        let collector = section.name().to_owned();
        let continues = section.parse_with("continues", |text| match text {
            "" => Err("must not be empty: name the collector whose series go on under this name".to_owned()),
            own if own == collector => {
                Err("is this collector itself: name the one that it was before".to_owned())
            }
            old => Ok(old.to_owned()),
        });
        let holds_nothing = section.holds_nothing("meters");
        let named = if holds_nothing { Vec::new() } else { section.named_sections("meters") };
        if !section.has("meters") {
            section.problem("", "`meters` is missing: name each component and the reading that makes it");
        } else if holds_nothing {
            section.problem("meters", "is empty: name each component and the reading that makes it");
        }
        let meters: Vec<Meter> = named.into_iter().filter_map(Meter::from_section).collect();
        Some(Rules { collector, continues, target: target?, user, meters, ignore, default_max_gap: None })
    }

    /// Where a series with these labels belongs.
    pub fn place(&self, labels: &Labels) -> Place {
        let missing = |label: String| Place::Nowhere(format!("its readings carry no label `{label}`"));
        let target = match &self.target {
            TargetRule::Resource(template) => match template.render(labels) {
                Ok(text) => match Uuid::parse_str(&text) {
                    Ok(uuid) => Target::Resource(uuid),
                    Err(_) => return Place::Nowhere(format!("`{text}` is not a resource's UUID")),
                },
                Err(label) => return missing(label),
            },
            TargetRule::BackendId { offering, backend_id, .. } => match backend_id.render(labels) {
                // The server takes an empty backend id for no filter at all; so does nobody's usage become everybody's.
                Ok(text) if text.trim().is_empty() => {
                    return Place::Nowhere("its backend id is empty".to_owned());
                }
                Ok(text) if self.ignore.iter().any(|ignored| self.fold(ignored) == self.fold(&text)) => {
                    return Place::Ignored;
                }
                Ok(text) => Target::BackendId { offering: *offering, backend_id: self.fold(&text) },
                Err(label) => return missing(label),
            },
        };
        let user = self.user.as_ref().and_then(|template| template.render(labels).ok());
        let user = user.map(|user| user.trim().to_owned()).filter(|user| !user.is_empty());
        Place::At { target, user }
    }

    /// A backend id as its targets have it: in lower case where case makes no difference.
    pub fn fold(&self, backend_id: &str) -> String {
        if self.ignores_case() { backend_id.to_lowercase() } else { backend_id.to_owned() }
    }

    pub fn ignores_case(&self) -> bool {
        matches!(self.target, TargetRule::BackendId { ignore_case: true, .. })
    }

    /// The labels that its templates need, for `check`.
    pub fn labels(&self) -> Vec<&str> {
        let target = match &self.target {
            TargetRule::Resource(template) => template,
            TargetRule::BackendId { backend_id, .. } => backend_id,
        };
        target.labels().chain(self.user.iter().flat_map(Template::labels)).collect()
    }

    /// The offering whose resources are found by backend id; `None` where the rules name resources by UUID.
    pub fn offering(&self) -> Option<Uuid> {
        match &self.target {
            TargetRule::Resource(_) => None,
            TargetRule::BackendId { offering, .. } => Some(*offering),
        }
    }

    /// The resource, where the file names one outright.
    pub fn fixed_resource(&self) -> Option<Uuid> {
        match &self.target {
            TargetRule::Resource(template) => Uuid::parse_str(template.as_str()).ok(),
            TargetRule::BackendId { .. } => None,
        }
    }

    /// Whether its series may belong to this resource, as far as the rules tell. `offering` is the resource's, if known.
    pub fn may_bill(&self, resource: Uuid, offering: Option<Uuid>) -> bool {
        match (self.offering(), self.fixed_resource()) {
            (Some(of), _) => offering.is_none_or(|offering| offering == of),
            (None, Some(fixed)) => fixed == resource,
            (None, None) => true,
        }
    }

    /// What decides where series belong, as text: when it changes, the ledger places them anew.
    pub fn placement(&self) -> String {
        format!("{:?} {:?} {:?}", self.target, self.user.as_ref().map(Template::as_str), self.ignore)
    }
}

fn target_rule(section: &mut Section) -> Option<TargetRule> {
    if section.is_section("resource") {
        let mut resource = section.section("resource")?;
        let offering = resource.require_with("offering", "the UUID of the offering", uuid);
        let backend_id = resource.require_with(
            "backend_id",
            "the resource's backend id, such as \"{account}\"",
            Template::from_str,
        );
        let ignore_case = resource.flag("ignore_case").unwrap_or(false);
        resource.finish();
        return Some(TargetRule::BackendId { offering: offering?, backend_id: backend_id?, ignore_case });
    }
    let why = "the UUID of the resource to bill, or { offering: UUID, backend_id: \"{label}\" }";
    let template = section.require_with("resource", why, |text| {
        let template: Template = text.parse()?;
        if template.labels().next().is_none() {
            uuid(text)?;
        }
        Ok(template)
    })?;
    Some(TargetRule::Resource(template))
}

fn uuid(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|_| format!("`{text}` is not a UUID"))
}

#[cfg(test)]
mod tests;
