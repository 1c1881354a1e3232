//! From a page of metrics to readings: which samples are wanted, of which kind they are, and when their counters began.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use glob::Pattern;
use jiff::Timestamp;

use super::exposition::{self, Exposition, Format, Sample, Type};
use crate::collectors::finish::EARLIEST_SECOND;
use crate::collectors::numbers;
use crate::collectors::{Batch, Bearing};
use crate::metering::reading::{Epoch, Kind, Labels, Reading};

/// What the operator wants of the page.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Those whose type the page tells.
    pub(super) metrics: Vec<Pattern>,
    /// Those that the operator says are counters, or gauges, because the page tells no type or a wrong one.
    pub(super) counters: Vec<Pattern>,
    pub(super) gauges: Vec<Pattern>,
    pub(super) epoch: Start,
    /// Whether times that stand on the page are those of the readings.
    pub(super) timestamps: bool,
}

/// Where the page tells when a counter began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    /// In the `_created` beside each counter, if there is one.
    Created,
    /// There, else in this metric of the whole process.
    Metric(String),
    /// Nowhere that can be believed.
    Nowhere,
}

impl Wanted {
    fn lists(&self) -> impl Iterator<Item = &Pattern> {
        self.metrics.iter().chain(&self.counters).chain(&self.gauges)
    }

    fn wants(&self, name: &str) -> bool {
        self.lists().any(|pattern| pattern.matches(name))
    }

    /// Whether a sample is needed to tell when others began.
    fn tells_start(&self, name: &str) -> bool {
        match &self.epoch {
            Start::Nowhere => false,
            Start::Created => name.ends_with("_created"),
            Start::Metric(metric) => name.ends_with("_created") || name == metric,
        }
    }

    pub(super) fn read(&self, page: &[u8], format: Format, now: Timestamp) -> Result<Batch, String> {
        let page = exposition::parse(page, format, &|name| self.wants(name) || self.tells_start(name))?;
        let mut batch = Batch {
            // Where every counter begins with its process, one that was not there before has begun since.
            lists_everything: matches!(self.epoch, Start::Metric(_)),
            ..Batch::default()
        };
        for bad in &page.bad {
            batch.quarantine_of(bad.text, format!("line {}: {}", bad.line, bad.reason), bad.bears_on.clone());
        }
        let began = self.beginnings(&page, &mut batch);
        let one_time = self.one_time(&page, now);
        let mut untyped = BTreeSet::new();
        let mut overruled = BTreeMap::new();
        for sample in page.samples.iter().filter(|sample| self.wants(&sample.name)) {
            let Some(kind) = self.kind(&page, sample, &mut overruled) else {
                untyped.insert(&*sample.name);
                continue;
            };
            let value = match numbers::value(sample.value) {
                Ok(value) => value,
                Err(reason) => {
                    let what = format!("{} {} {:?}", sample.name, sample.value, sample.labels);
                    let bears_on = Bearing::series(&sample.name, &sample.labels);
                    batch.quarantine_of(&what, format!("line {}: {reason}", sample.line), bears_on);
                    continue;
                }
            };
            let one_time = one_time.get(&(&*sample.name, &sample.labels)).copied();
            let at = one_time.or(sample.at.filter(|_| self.timestamps));
            let mut reading = Reading::new(&sample.name, kind, value, at.unwrap_or(now));
            reading.unit = unit(&page, &sample.name);
            reading.labels = sample.labels.clone();
            if kind == Kind::Counter {
                reading.epoch = began.of(&page, sample);
            }
            batch.push(reading);
        }
        for name in untyped {
            let text = format!(
                "the page does not tell the type of {name}: list it under `counters` (it only rises, but for restarts) \
                 or under `gauges` (a level)"
            );
            batch.problem_of(text, Bearing::readings([name]));
        }
        for (name, (told, taken)) in overruled {
            batch
                .notes
                .push(format!("{name} is a {told} on the page; it is read as a {taken}, as configured"));
        }
        for pattern in self.lists() {
            if !page.samples.iter().any(|sample| pattern.matches(&sample.name)) {
                batch.notes.push(format!("`{pattern}` is not on the page now"));
            }
        }
        // A page may tell several points of one series; they count in the order of time.
        batch.readings.sort_by_key(|reading| reading.span.end());
        Ok(batch)
    }

    /// The one time of each series that is on the page more than once without being several points of it: those have a time
    /// each, in order, and a counter does not fall from one to the next. So two values of it are seen to contradict each other.
    fn one_time<'a>(
        &self,
        page: &'a Exposition<'_>,
        now: Timestamp,
    ) -> HashMap<(&'a str, &'a Labels), Timestamp> {
        if !self.timestamps || page.samples.iter().all(|sample| sample.at.is_none()) {
            return HashMap::new();
        }
        let mut alike: HashMap<(&str, &Labels), Vec<&Sample<'_>>> = HashMap::new();
        for sample in &page.samples {
            alike.entry((&*sample.name, &sample.labels)).or_default().push(sample);
        }
        alike.retain(|_, samples| samples.len() > 1 && !self.are_points(page, samples));
        let latest = |samples: Vec<&Sample<'_>>| samples.iter().filter_map(|sample| sample.at).max();
        alike.into_iter().map(|(series, samples)| (series, latest(samples).unwrap_or(now))).collect()
    }

    fn are_points(&self, page: &Exposition<'_>, samples: &[&Sample<'_>]) -> bool {
        let timed = samples.iter().map(|sample| Some((sample.at?, numbers::value(sample.value).ok()?)));
        let Some(timed) = timed.collect::<Option<Vec<_>>>() else { return false };
        // As OpenMetrics demands, and as Prometheus takes them: what comes later on the page is of a later time.
        if !timed.windows(2).all(|two| two[0].0 < two[1].0) {
            return false;
        }
        let first = samples.first().and_then(|sample| self.kind(page, sample, &mut BTreeMap::new()));
        first != Some(Kind::Counter) || timed.windows(2).all(|two| two[0].1 <= two[1].1)
    }

    /// What a sample is, as far as the page or the operator tells.
    fn kind<'a>(
        &self,
        page: &Exposition<'_>,
        sample: &'a Sample<'_>,
        overruled: &mut BTreeMap<&'a str, (Kind, Kind)>,
    ) -> Option<Kind> {
        let told = match page.family(&sample.name) {
            None | Some((_, Type::Unknown, _)) => None,
            Some((_, Type::Counter, "_created")) => Some(Kind::Gauge),
            Some((_, Type::Counter, _)) => Some(Kind::Counter),
            Some((_, Type::Histogram | Type::Summary, "_bucket" | "_count" | "_sum")) => Some(Kind::Counter),
            Some(_) => Some(Kind::Gauge),
        };
        let listed = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&sample.name));
        let stated = match (listed(&self.counters), listed(&self.gauges)) {
            (true, _) => Some(Kind::Counter),
            (false, true) => Some(Kind::Gauge),
            (false, false) => None,
        };
        if let (Some(told), Some(stated)) = (told, stated)
            && told != stated
        {
            overruled.insert(&sample.name, (told, stated));
        }
        stated.or(told)
    }

    fn beginnings(&self, page: &Exposition<'_>, batch: &mut Batch) -> Beginnings {
        let mut beginnings = Beginnings::default();
        if self.epoch == Start::Nowhere {
            return beginnings;
        }
        for sample in &page.samples {
            if let Some(base) = sample.name.strip_suffix("_created")
                && let Some(began) = instant(sample.value)
            {
                let known = beginnings.each.entry((base.to_owned(), sample.labels.clone()));
                let known = known.or_insert(Some(began));
                if *known == Some(began) || !exposition::names_of(base).any(|name| self.wants(&name)) {
                    continue;
                }
                if let Some(other) = known.take() {
                    let names: Vec<String> = exposition::names_of(base).collect();
                    let bears_on = Bearing::labelled(names.iter().map(String::as_str), &sample.labels);
                    let reason = format!(
                        "line {}: the page tells two times at which this began, {other} and {began}: which is meant can't be \
                         known, so falls alone tell of its restarts",
                        sample.line
                    );
                    batch.quarantine_of(&format!("{} {:?}", sample.name, sample.labels), reason, bears_on);
                }
            }
        }
        if let Start::Metric(metric) = &self.epoch {
            let mut told = page.samples.iter().filter(|sample| sample.name == *metric);
            beginnings.all = match (told.next(), told.next()) {
                (Some(one), None) => instant(one.value),
                _ => None,
            };
            if beginnings.all.is_none() {
                batch.problem(format!(
                    "`epoch`: the page does not tell one time since 2010 as {metric}, so restarts can't be told"
                ));
            }
        }
        beginnings
    }
}

/// When counters began.
#[derive(Debug, Default)]
struct Beginnings {
    /// None where the page tells two.
    each: HashMap<(String, Labels), Option<Timestamp>>,
    all: Option<Timestamp>,
}

impl Beginnings {
    /// The life of a counter. What began with the process is told of all series at once.
    fn of(&self, page: &Exposition<'_>, sample: &Sample<'_>) -> Epoch {
        match self.own(page, sample) {
            Some(began) => Epoch { began, ..Epoch::default() },
            None => Epoch { began: self.all, shared: self.all.is_some(), ..Epoch::default() },
        }
    }

    fn own(&self, page: &Exposition<'_>, sample: &Sample<'_>) -> Option<Option<Timestamp>> {
        if self.each.is_empty() {
            return None;
        }
        let family = page.family(&sample.name).map_or(&*sample.name, |(family, _, _)| family);
        // In the text format the family of a counter has its `_total`, its `_created` does not.
        let family = family.strip_suffix("_total").unwrap_or(family).to_owned();
        let mut labels = sample.labels.clone();
        if sample.name.ends_with("_bucket") {
            labels.remove("le");
        }
        self.each.get(&(family, labels)).copied()
    }
}

/// When counters began. None began so early: some libraries write 0 for what they don't know.
fn instant(seconds: &str) -> Option<Timestamp> {
    numbers::seconds(seconds).ok().filter(|began| began.as_second() >= EARLIEST_SECOND)
}

/// For people: what `# UNIT` says, else what the name ends with, as the conventions have it.
fn unit(page: &Exposition<'_>, name: &str) -> Option<String> {
    let family = page.family(name).map_or(name, |(family, _, _)| family);
    if name.ends_with("_count") || name.ends_with("_bucket") {
        return None;
    }
    let base = family.strip_suffix("_total").unwrap_or(family);
    let told = page.unit(family).or_else(|| base.rsplit('_').next().filter(|_| base.contains('_')))?;
    Some(match told {
        "seconds" => "s".to_owned(),
        "bytes" => "B".to_owned(),
        other => page.unit(family).filter(|told| *told == other)?.to_owned(),
    })
}
