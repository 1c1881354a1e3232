//! A run on its way from a host's queue to the shared ledger: what it was, and its readings in parts, as JSON. So a host
//! sends rows of one table, and needs a right to no other.
//!
//! What comes in may have been made by anybody who has a host's role: it is checked as a whole, and believed in nothing but
//! what that host's readings are.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Head, Queued, QueuedEnd};
use crate::metering::reading::Labels;

/// Readings in one part.
pub(super) const READINGS_AT_ONCE: usize = 1000;

/// What a run was; the first part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cover {
    pub(super) head: Head,
    /// Lines that were no readings, and why.
    pub(super) quarantined: Vec<(String, String)>,
    pub(super) ends: Vec<QueuedEnd>,
    /// From where its collector was first read there.
    pub(super) since: Option<i64>,
    /// How many parts with readings follow.
    pub(super) parts: i64,
}

/// A run, packed.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// The number of the run in the file that it waited in.
    pub(super) number: i64,
    /// When it looked.
    pub(super) at: i64,
    /// Part by part, the cover first.
    pub(super) bodies: Vec<String>,
}

impl Parcel {
    pub fn number(&self) -> i64 {
        self.number
    }
}

/// Nothing that an instant of a reading may be is beyond this: the years 1970 to 9999, in microseconds.
const INSTANTS: std::ops::Range<i64> = 0..253_370_764_800_000_000;

impl Cover {
    pub(super) fn read(body: &str) -> Result<Cover, String> {
        let cover: Cover = serde_json::from_str(body).map_err(|error| error.to_string())?;
        let Head { at, finished, outcome, withheld, .. } = &cover.head;
        let instants = cover.ends.iter().map(|(_, _, at)| at).chain(&cover.since).chain([at, finished]);
        check_instants(instants)?;
        if !["ok", "partial", super::FAILED].contains(&outcome.as_str()) {
            return Err(format!("`{outcome}` is no outcome of a run"));
        }
        serde_json::from_str::<Vec<crate::collectors::Bearing>>(withheld)
            .map_err(|error| error.to_string())?;
        Ok(cover)
    }
}

/// The readings of a part.
pub(super) fn readings(body: &str) -> Result<Vec<Queued>, String> {
    let readings: Vec<Queued> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    for Queued { value, labels, start, at, began, .. } in &readings {
        check_instants([start, at].into_iter().chain(began))?;
        value.parse::<Decimal>().map_err(|error| format!("the value `{value}`: {error}"))?;
        serde_json::from_str::<Labels>(labels).map_err(|error| format!("the labels `{labels}`: {error}"))?;
    }
    Ok(readings)
}

fn check_instants<'a>(instants: impl IntoIterator<Item = &'a i64>) -> Result<(), String> {
    match instants.into_iter().find(|at| !INSTANTS.contains(at)) {
        Some(at) => Err(format!("{at} is no instant")),
        None => Ok(()),
    }
}
