//! Reads a whole list, page by page, and knows whether it did.
//!
//! Rows move to the front when they are reported anew, so pages shift while they are read, and where many rows tie
//! in the server's order the same row is shown on two pages and another on none (both observed). So rows are told
//! apart by their UUID, and a walk that did not see as many as the server counts is made again. A list that is
//! known to be incomplete is never handed out.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::answer::Answer;
use super::client::Client;
use super::failure::Failure;
use super::types::{Listed, Offering, OfferingUser, RawRow, Resource, Share, UserUsageRow};

/// The most that the server gives at once.
pub(super) const PAGE_SIZE: usize = 300;
/// A shifting list is given up after so many walks in a row that show no row which none before has shown.
const IN_VAIN: u8 = 3;
/// But no more often than this it is read: a list that grows faster than it is read never comes out whole.
const MOST_WALKS: u8 = 20;
/// Each walk's pages are so much shorter than those before: where rows tie, a server may leave out the same ones each time,
/// at the same borders of pages.
const SHORTER: usize = 7;

/// What tells a row from another.
pub(super) trait Row: DeserializeOwned {
    fn key(&self) -> Option<Uuid>;

    /// Of a text that many rows have, one is enough.
    fn unify(&mut self, _: &mut HashSet<Arc<str>>) {}
}

impl Row for Share {
    fn key(&self) -> Option<Uuid> {
        Some(self.uuid)
    }

    fn unify(&mut self, names: &mut HashSet<Arc<str>>) {
        match names.get(&self.username) {
            Some(known) => self.username = known.clone(),
            None => drop(names.insert(self.username.clone())),
        }
    }
}

impl Row for RawRow {
    fn key(&self) -> Option<Uuid> {
        self.text("uuid")?.parse().ok()
    }
}

impl Row for Listed {
    fn key(&self) -> Option<Uuid> {
        match self {
            Listed::Row(row) => Some(row.uuid),
            Listed::Odd(row, _) => row.key(),
        }
    }
}

macro_rules! keyed_by_uuid {
    ($($row:ty),*) => { $(impl Row for $row {
        fn key(&self) -> Option<Uuid> {
            Some(self.uuid)
        }
    })* };
}
keyed_by_uuid!(UserUsageRow, Resource, Offering, OfferingUser);

/// Rows of all walks by their UUID, in the order in which they were first seen; a row seen again replaces its older self.
struct Seen<T> {
    rows: Vec<T>,
    /// In which walk each was last seen.
    walks: Vec<u8>,
    places: HashMap<Uuid, usize>,
    texts: HashSet<Arc<str>>,
    /// Which walk this is, and the places of the rows that it has seen, in its order.
    walk: u8,
    order: Vec<usize>,
}

impl<T: Row> Seen<T> {
    fn new() -> Self {
        Seen {
            rows: Vec::new(),
            walks: Vec::new(),
            places: HashMap::new(),
            texts: HashSet::new(),
            walk: 0,
            order: Vec::new(),
        }
    }

    fn begin(&mut self, walk: u8) {
        self.walk = walk;
        self.order.clear();
    }

    /// Whether the row was new to this walk; `None` if it has no UUID.
    fn add(&mut self, mut row: T) -> Option<bool> {
        let key = row.key()?;
        row.unify(&mut self.texts);
        let place = match self.places.entry(key) {
            Entry::Occupied(known) => {
                let place = *known.get();
                let (old, walk) = (self.rows.get_mut(place)?, self.walks.get_mut(place)?);
                *old = row;
                if std::mem::replace(walk, self.walk) == self.walk {
                    return Some(false);
                }
                place
            }
            Entry::Vacant(new) => {
                let place = *new.insert(self.rows.len());
                self.rows.push(row);
                self.walks.push(self.walk);
                place
            }
        };
        self.order.push(place);
        Some(true)
    }

    /// Those that this walk has seen, in its order.
    fn of_walk(self) -> Vec<T> {
        if self.walk == 1 {
            return self.rows;
        }
        let mut rows: Vec<Option<T>> = self.rows.into_iter().map(Some).collect();
        self.order.into_iter().filter_map(|place| rows.get_mut(place)?.take()).collect()
    }
}

impl Client {
    /// All rows of a list.
    pub(super) async fn walk<T: Row>(
        &self,
        what: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Vec<T>, Failure> {
        let mut seen = Seen::new();
        let (mut counted, mut in_vain) = (0, 0);
        for walk in 1..=MOST_WALKS {
            let before = seen.rows.len();
            seen.begin(walk);
            let page_size = PAGE_SIZE.saturating_sub(SHORTER * usize::from(walk - 1));
            let count = self.walk_once(what, path, (query, page_size), &mut seen).await?;
            let Some(count) = count else { return Ok(seen.of_walk()) };
            if seen.order.len() == count {
                return Ok(seen.of_walk());
            }
            counted = count;
            if seen.rows.len() == count {
                return Ok(seen.rows);
            }
            in_vain = if seen.rows.len() == before { in_vain + 1 } else { 0 };
            if in_vain == IN_VAIN {
                break;
            }
        }
        Err(Failure::unreadable(
            what,
            format!("the list changes while it is read: {} of {counted} rows seen", seen.rows.len()),
        ))
    }

    async fn walk_once<T: Row>(
        &self,
        what: &str,
        path: &str,
        (query, page_size): (&[(&str, String)], usize),
        seen: &mut Seen<T>,
    ) -> Result<Option<usize>, Failure> {
        let (mut count, mut given, mut first, mut page) = (None, 0, 0, 1);
        loop {
            // Where it is known how many pages there are, as many are asked for at once as calls may be under way.
            let left = match count {
                Some(count) if first > 0 => usize::saturating_sub(count, given).div_ceil(first),
                _ => 1,
            };
            let pages = page..page + left.clamp(1, self.calls_at_once());
            page = pages.end;
            let asked = pages.clone().map(|page| self.page(what, path, (query, page_size), page));
            for (page, answer) in pages.zip(join_all(asked).await) {
                let answer = match answer {
                    // "Invalid page.": the list has become shorter meanwhile.
                    Err(Failure::Missing { .. }) if page > 1 => return Ok(count),
                    answer => answer?,
                };
                count = answer.count().or(count);
                let rows: Vec<T> = self.decode(what, &answer)?;
                let on_page = rows.len();
                if page == 1 {
                    first = on_page;
                }
                given += on_page;
                let mut any_new = false;
                for row in rows {
                    any_new |= seen.add(row).ok_or_else(|| {
                        Failure::unreadable(what, "the answer is not as expected: a row has no uuid")
                    })?;
                }
                let more = match (answer.has_next(), count) {
                    (Some(next), _) => next,
                    (None, Some(count)) => given < count,
                    (None, None) => on_page >= page_size,
                };
                // A page with nothing new on it would be followed by others for ever on a server that ignores `page`.
                if !more || !any_new {
                    return Ok(count);
                }
            }
        }
    }

    /// The page numbers are ours: a `Link` is only asked whether there is more, and never followed, so that no answer can
    /// send the token to another place.
    async fn page(
        &self,
        what: &str,
        path: &str,
        (query, page_size): (&[(&str, String)], usize),
        page: usize,
    ) -> Result<Answer, Failure> {
        let mut query = query.to_vec();
        query.push(("page_size", page_size.to_string()));
        if page > 1 {
            query.push(("page", page.to_string()));
        }
        self.get(what, path, &query).await
    }
}
