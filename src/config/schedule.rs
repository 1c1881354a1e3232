//! When something is due: crontab(5) rules in a time zone, or `every 5m`.
//!
//! The rules are those of crontab(5) and no others: five fields, Sunday is 0 or 7, day of month OR day of week. The
//! crate that knows the pattern is asked about civil times only; what a civil time means on the two odd nights of the
//! year is decided here, for every schedule alike: one that names its hours and minutes runs once just after a gap
//! that swallows it, and once in an overlap. One with a `*` there follows the clock as it goes. With `jitter` all times of
//! a schedule are put off alike, by as much as the host's and the schedule's names say, so that a hundred hosts with one
//! configuration don't call at once and the distances stay even. Nothing here looks at a clock of its own.

use std::collections::BTreeMap;
use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use uuid::Uuid;

use super::duration::parse_duration;
use super::section::Section;

/// Firings that tell what is usual for a schedule.
const SAMPLE: usize = 64;

/// A time from which every schedule is looked at once, so that the answer never depends on the day it is asked.
const SAMPLE_FROM: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// Stable over versions of this program.
const NAMESPACE: Uuid = Uuid::from_u128(0x3d0c_5b1a_9f64_4f0e_b7a2_61d8_2c94_e5f7);

/// What tells this host from others: its machine id, and its name, because machines are cloned and containers have none.
fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    format!("{} {}", read("/etc/machine-id"), read("/proc/sys/kernel/hostname"))
}

/// Times at which something is due.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    zone: TimeZone,
    rule: Rule,
    usual: SignedDuration,
    /// By how much each of its times is put off.
    shift: SignedDuration,
}

#[derive(Clone, PartialEq, Eq)]
enum Rule {
    /// Multiples of this since 1970, so that a restart does not move them.
    Every(SignedDuration),
    /// `by_clock`: there is a `*` in minute or hour.
    Crontab { pattern: Box<cron::Cron>, by_clock: bool },
}

impl Schedule {
    /// Reads `*/5 * * * *`, `@hourly` or `every 30s`. Crontab rules are meant in `zone`. What never comes is refused.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Schedule, String> {
        let text = text.trim();
        let rule = match text.strip_prefix("every ") {
            Some(length) => Rule::Every(parse_duration(length.trim())?),
            None => crontab(text)?,
        };
        let none = SignedDuration::ZERO;
        let mut schedule = Schedule { text: text.to_owned(), zone, rule, usual: none, shift: none };
        schedule.usual =
            schedule.sample().ok_or_else(|| format!("`{text}` never comes: there is no such day"))?;
        Ok(schedule)
    }

    /// Takes the key `jitter` from the section that the schedule stands in. `name` tells the schedule from others of
    /// this host.
    pub fn with_jitter(self, section: &mut Section, name: &str) -> Schedule {
        let usual = self.usual;
        let jitter = section.parse_with("jitter", |text| match parse_duration(text)? {
            long if long > usual => {
                Err(format!("must not be longer than the schedule's usual distance ({usual:#})"))
            }
            jitter => Ok(jitter),
        });
        match jitter {
            Some(jitter) => self.spread(jitter, &format!("{} {name}", host())),
            None => self,
        }
    }

    /// The same times, each later by a part of `jitter` that only `identity` decides: a restart does not move them.
    fn spread(mut self, jitter: SignedDuration, identity: &str) -> Schedule {
        let chance = Uuid::new_v5(&NAMESPACE, identity.as_bytes()).as_u64_pair().0;
        let millis = u64::try_from(jitter.as_millis()).unwrap_or(0).max(1);
        self.shift = SignedDuration::from_millis(i64::try_from(chance % millis).unwrap_or(0));
        self
    }

    /// The first time after `after` (never `after` itself). `None` only beyond the end of the calendar.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let plain = self.plain_after(after.checked_sub(self.shift).ok()?)?;
        plain.checked_add(self.shift).ok()
    }

    /// How many of its times lie after `from` and not after `to`; no more than `most` are looked for.
    pub fn times_between(&self, from: Timestamp, to: Timestamp, most: usize) -> usize {
        let times = std::iter::successors(self.next_after(from), |time| self.next_after(*time));
        times.take_while(|time| *time <= to).take(most).count()
    }

    fn plain_after(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(length) => {
                let length = Some(length.as_nanos()).filter(|length| *length > 0)?;
                let past = after.as_nanosecond().div_euclid(length);
                Timestamp::from_nanosecond((past + 1) * length).ok()
            }
            Rule::Crontab { pattern, by_clock: true } => {
                let next = pattern.find_next_occurrence(&after.to_zoned(self.zone.clone()), false);
                next.ok().map(|next| next.timestamp())
            }
            Rule::Crontab { pattern, by_clock: false } => {
                let mut civil = self.zone.to_datetime(after);
                loop {
                    civil = pattern.find_next_occurrence(&civil, false).ok()?;
                    // In the second half of an overlap, the times of the first are over.
                    if let Some(instant) = self.instant_of(civil).filter(|instant| *instant > after) {
                        return Some(instant);
                    }
                }
            }
        }
    }

    /// How far apart its times usually are: the commonest distance, and of equally common ones the longest.
    pub fn usual_distance(&self) -> SignedDuration {
        self.usual
    }

    /// The schedule as it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When a civil time comes: once, even if the clock shows it twice, and at the end of the gap if never.
    fn instant_of(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // With the later offset a time in the gap lies before the change, which is thus the next one.
                let before_the_change = after.to_timestamp(civil).ok()?;
                self.zone.following(before_the_change).next().map(|change| change.timestamp())
            }
        }
    }

    fn sample(&self) -> Option<SignedDuration> {
        if let Rule::Every(length) = self.rule {
            return Some(length);
        }
        let mut distances: BTreeMap<SignedDuration, usize> = BTreeMap::new();
        let mut last = self.plain_after(SAMPLE_FROM)?;
        for _ in 0..SAMPLE {
            let Some(next) = self.plain_after(last) else { break };
            *distances.entry(next.duration_since(last)).or_default() += 1;
            last = next;
        }
        // Of equal counts, the last and so the longest.
        distances
            .into_iter()
            .max_by_key(|(distance, count)| (*count, *distance))
            .map(|(distance, _)| distance)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?} in {})", self.text, self.zone.iana_name().unwrap_or("a zone of its own"))
    }
}

/// One of the five fields: its name, its bounds, and the names that stand for numbers from `base` on.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    names: &'static [&'static str],
    base: u32,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[], base: 0 },
    Field { name: "hour", low: 0, high: 23, names: &[], base: 0 },
    Field { name: "day of month", low: 1, high: 31, names: &[], base: 0 },
    Field {
        name: "month",
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        base: 1,
    },
    Field {
        name: "day of week",
        low: 0,
        high: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        base: 0,
    },
];

fn crontab(text: &str) -> Result<Rule, String> {
    let fields = match text.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        "@reboot" => return Err("`@reboot` is no time; the agent does what is due when it starts".to_owned()),
        nickname if nickname.starts_with('@') => {
            return Err(format!("`{text}` is unknown; known: @hourly, @daily, @weekly, @monthly, @yearly"));
        }
        _ => text,
    };
    let words: Vec<&str> = fields.split_whitespace().collect();
    if words.len() != FIELDS.len() {
        let hint = match words.len() {
            6 | 7 => ": without seconds and years; `every 30s` is for less than a minute",
            _ => ", or @hourly, or `every 5m`",
        };
        return Err(format!(
            "`{text}` has {} fields; a schedule has five (minute, hour, day of month, month, day of week){hint}",
            words.len()
        ));
    }
    let mut plain = Vec::with_capacity(FIELDS.len());
    for (field, word) in FIELDS.iter().zip(&words) {
        plain.push(field.plain(word).map_err(|why| format!("`{text}`: {} `{word}` {why}", field.name))?);
    }
    // crontab(5): both days count, either of them, only if neither field starts with `*`.
    let both_days = words[2].starts_with('*') || words[4].starts_with('*');
    let pattern = cron::parser::CronParser::builder()
        .seconds(cron::parser::Seconds::Disallowed)
        .year(cron::parser::Year::Disallowed)
        .dom_and_dow(both_days)
        .build()
        .parse(&plain.join(" "))
        .map_err(|error| format!("`{text}`: {error}"))?;
    let by_clock = words[0].contains('*') || words[1].contains('*');
    Ok(Rule::Crontab { pattern: Box::new(pattern), by_clock })
}

impl Field {
    /// The field with numbers for names, and nothing in it that crontab(5) does not know.
    fn plain(&self, word: &str) -> Result<String, String> {
        let items: Result<Vec<String>, String> = word.split(',').map(|item| self.item(item)).collect();
        items.map(|items| items.join(","))
    }

    fn item(&self, item: &str) -> Result<String, String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        let plain = match range.split_once('-') {
            _ if range == "*" => "*".to_owned(),
            Some((from, to)) => {
                let (from, mut to) = (self.number(from)?, self.number(to)?);
                if self.high == 7 && to == 0 && from > 0 {
                    to = 7;
                }
                if from > to {
                    let (low, high) = (self.low, self.high);
                    return Err(format!("runs backwards; write {from}-{high},{low}-{to}"));
                }
                format!("{from}-{to}")
            }
            None if step.is_some() => {
                let high = self.high;
                return Err(format!(
                    "has a step without a range; write {range}-{high}/{}",
                    step.unwrap_or_default()
                ));
            }
            None => self.number(range)?.to_string(),
        };
        match step.map(|step| step.parse::<u32>()) {
            None => Ok(plain),
            Some(Ok(step)) if (1..=self.high).contains(&step) => Ok(format!("{plain}/{step}")),
            Some(_) => Err(format!("has a step that is not between 1 and {}", self.high)),
        }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().zip(self.base..).find(|(name, _)| name.eq_ignore_ascii_case(text));
        let is_number = !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
        match (named, text.parse::<u32>()) {
            (Some((_, number)), _) => Ok(number),
            (None, Ok(number)) if is_number && (self.low..=self.high).contains(&number) => Ok(number),
            _ => Err(format!("must be *, or numbers between {} and {}", self.low, self.high)),
        }
    }
}

#[cfg(test)]
mod tests;
