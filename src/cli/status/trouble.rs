//! A resource's trouble in few lines: what Waldur holds, what the ledger has, and what to do.

use super::amount_state::AmountState;
use super::view::{Resource, View};
use crate::cli::exit::Failed;
use crate::cli::text::{cut, moment, shorten, soon, thousands};
use crate::ledger::Ledger;
use crate::ledger::sent::amount::StatementKey;
use crate::ledger::sent::blocked::Blocked;
use crate::ledger::sent::server::Retry;
use crate::ledger::sent::statement::{Entry, Statement};
use crate::submitter::pause::Cause;
use crate::submitter::reason::{Reason, State, waits};

/// So many components are named.
const NAMED: usize = 4;

/// The trouble of a resource, the worst of it first: a sentence, and what to do about it.
pub(super) fn trouble(
    ledger: &Ledger,
    view: &View,
    resource: &Resource,
) -> Result<Option<(String, String)>, Failed> {
    let ended = if resource.terminated { " (terminated)" } else { "" };
    let name = format!("{}{ended}", shorten(&resource.name, 40));
    let blocks = resource.months.iter().flat_map(|month| &month.blocks).filter(|at| waits(&at.block));
    let mut groups: Vec<(AmountState, StatementKey, &str, Vec<&Blocked>)> = Vec::new();
    for at in blocks {
        let key = at.key();
        let reason = at.block.reason.as_str();
        match groups.iter_mut().find(|(_, of, why, _)| *of == key && *why == reason) {
            Some((.., group)) => group.push(at),
            None => groups.push((AmountState::of_block(&at.block.state), key, reason, vec![at])),
        }
    }
    groups.sort_by_key(|(state, ..)| *state);
    let Some((state, key, reason, group)) = groups.first() else {
        return Ok(None);
    };
    let Some(statement) = ledger.statement(*key)? else { return Ok(None) };
    let said = match Reason::named(reason) {
        Some(Reason::Conflict | Reason::Unadoptable) => disputed(ledger, view, &statement, group)?,
        Some(Reason::RulesChanged) => {
            format!("the rules were changed: {}", both_sides(&statement, group, |_| None))
        }
        Some(Reason::SameIds) => {
            format!("the same readings are counted twice: {}", both_sides(&statement, group, |_| None))
        }
        _ => kept_back(&statement, group),
    };
    let more = match groups.len() {
        1 => String::new(),
        number => format!(" And {} more: `status {}`", number - 1, resource.handle(ledger)?),
    };
    let handle = resource.handle(ledger)?;
    let remedy = Reason::named(reason).map_or(String::new(), |reason| reason.in_short(&handle));
    Ok(Some((format!("{name}, {}, {}: {said}{more}", key.period, state.name()), remedy)))
}

/// What is put off, a sentence a cause: the first of its resources, how many more there are, and when it is tried again. What is
/// put off for what the server is left alone for is told as that.
pub(super) fn put_off(view: &View) -> Vec<String> {
    let paused = view.server.paused.as_ref().map(|paused| paused.retry.cause.as_str());
    let refused = view.server.reports_refused.as_ref().map(|_| Cause::Role);
    let mut causes: Vec<(&Retry, Vec<&Resource>)> = Vec::new();
    // Also of what agrees as far as is known: it could not be compared.
    let is_blocked = |one: &&Resource| {
        [AmountState::Held, AmountState::Parked, AmountState::Stranded].contains(&one.state)
    };
    for resource in view.resources.iter().filter(|one| !is_blocked(one)) {
        let Some(retry) = &resource.put_off else { continue };
        if paused == Some(&retry.cause) || refused == Some(Cause::of(retry)) {
            continue;
        }
        match causes.iter_mut().find(|(one, _)| one.words == retry.words) {
            Some((first, resources)) => {
                resources.push(resource);
                if retry.next < first.next {
                    *first = retry;
                }
            }
            None => causes.push((retry, vec![resource])),
        }
    }
    let sentence = |(retry, resources): (&Retry, Vec<&Resource>)| {
        let name = resources.first().map_or("", |first| first.name.as_str());
        let (name, more) = (shorten(name, 40), resources.len().saturating_sub(1));
        let name = if more == 0 { name } else { format!("{name} and {} more", thousands(more)) };
        format!("{name}, pending: tried again at {}: {}", soon(retry.next, view.now), cut(&retry.words, 120))
    };
    causes.into_iter().map(sentence).collect()
}

impl Resource {
    /// The shortest name that commands take: the backend id, or else the UUID.
    pub(super) fn handle(&self, ledger: &Ledger) -> Result<String, Failed> {
        let id = &self.backend_id;
        let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@+".contains(c));
        if plain && !id.starts_with('-') && ledger.find_resources(id)?.len() == 1 {
            return Ok(id.clone());
        }
        Ok(self.uuid.to_string())
    }
}

/// `Waldur holds cpu 32.00, mem 3.00 (written 04:54Z by user 99); the ledger has 0.09, 0.05.`
fn disputed(
    ledger: &Ledger,
    view: &View,
    statement: &Statement,
    group: &[&Blocked],
) -> Result<String, Failed> {
    let rows = ledger.rows_read(statement.key)?;
    let written = |at: &Blocked| {
        let writer = &rows.get(&at.component)?.writer;
        writer.words(view.own.wrote(writer), |instant| moment(instant, view.now))
    };
    Ok(both_sides(statement, group, written))
}

/// What Waldur holds of each component, and what the ledger has; `written`: who wrote Waldur's.
fn both_sides(
    statement: &Statement,
    group: &[&Blocked],
    written: impl Fn(&Blocked) -> Option<String>,
) -> String {
    let (mut holds, mut has) = (Vec::new(), Vec::new());
    for (index, at) in group.iter().take(NAMED).enumerate() {
        let entry = statement.entry(&at.component, &at.user);
        let held = at.amount.or_else(|| entry.map(Entry::held)).unwrap_or_default();
        // What one hand wrote at once is said once.
        let next = group.get(index + 1).filter(|_| index + 1 < NAMED).map(|next| written(next));
        let by = written(at).filter(|by| next.is_none_or(|next| next.as_ref() != Some(by)));
        let by = by.map_or_else(String::new, |by| format!(" ({by})"));
        holds.push(format!("{} {held:.2}{by}", place(at)));
        let posted = entry.and_then(|entry| entry.posted);
        has.push(posted.map_or_else(|| "nothing".to_owned(), |posted| format!("{posted:.2}")));
    }
    let more = group.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("Waldur holds {}{more}; the ledger has {}.", holds.join(", "), has.join(", "))
}

/// `cpu_hours 32.00, mem 3.00: These components are invalid`
fn kept_back(statement: &Statement, group: &[&Blocked]) -> String {
    let words = group.first().map_or("", |at| at.block.words.as_str());
    let are_the_same = group.iter().all(|at| at.block.words == words);
    let named = group.iter().take(NAMED).map(|at| {
        let entry = statement.entry(&at.component, &at.user);
        // Of what is stranded, what is left of it.
        let left = if at.block.state == State::Stranded.name() { at.amount } else { None };
        let left = left.or_else(|| entry.and_then(Entry::stranded));
        let amount = left.or_else(|| entry.and_then(|entry| entry.posted)).or(at.amount);
        let place = amount.map_or_else(|| place(at), |amount| format!("{} {amount:.2}", place(at)));
        if are_the_same { place } else { format!("{place}: {}", cut(&at.block.words, 140)) }
    });
    let named = named.collect::<Vec<_>>();
    if !are_the_same {
        let more = group.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        return format!("{}{more}", named.join("; "));
    }
    let named = named.join(", ");
    let more = group.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{named}{more}: {}", cut(words, 140))
}

fn place(at: &Blocked) -> String {
    match (at.component.as_str(), at.user.as_str()) {
        ("", _) => "all of it".to_owned(),
        (component, "") => component.to_owned(),
        (component, user) => format!("{component} of {user}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ledger::sent::blocked::Block;

    #[test]
    fn components_have_each_its_own_words() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let key = StatementKey { resource: uuid::Uuid::nil(), period: "2026-10".parse().unwrap(), part: at };
        let stranded = |component: &str, amount: &str, words: &str| Blocked {
            resource: key.resource,
            period: key.period,
            part: at,
            component: component.to_owned(),
            user: String::new(),
            amount: amount.parse().ok(),
            block: Block {
                state: State::Stranded.name().to_owned(),
                reason: "late".to_owned(),
                words: words.to_owned(),
                since: at,
            },
        };
        let statement = Statement {
            key,
            changed: at,
            closed: None,
            counted: 0,
            shadow: false,
            components: BTreeMap::new(),
            users: BTreeMap::new(),
        };
        let (cpu, mem) =
            (stranded("cpu", "1.00", "used 5.00 of 4.00"), stranded("mem", "2.50", "used 7.50 of 5.00"));
        assert_eq!(
            kept_back(&statement, &[&cpu, &mem]),
            "cpu 1.00: used 5.00 of 4.00; mem 2.50: used 7.50 of 5.00"
        );
        let mem = stranded("mem", "2.50", "used 5.00 of 4.00");
        assert_eq!(kept_back(&statement, &[&cpu, &mem]), "cpu 1.00, mem 2.50: used 5.00 of 4.00");
    }
}
