//! From readings to amounts: where the money is. Pure: no I/O, no clock of its own, no async, no float.
//!
//! A [`reading::Reading`] is an observation. The readings of one series, in the order of time, are counted by a
//! [`series_state::SeriesState`], as a [`measure::Measure`] says, into quantities, one a [`period::Segment`]. A [`meter::Meter`]'s factor makes them amounts of a
//! component; [`adjustment`] puts opening balances and what is carried forward beside it, and [`statement`] rounds the
//! sum, once, to what is posted. All arithmetic is [`exact::Exact`].
//! The formulas, with worked examples, are in docs/metering.md; tests/ holds an independent oracle for them.
//!
//! Mutations that no test notices, because they change no number: whatever only decides in which form an `Exact` stands
//! (`aligned` that gives up, `neg` that always makes fractions, a multiplication by 10^0 in `decimal`, the whole seconds
//! in `series_state::seconds`).

#![deny(clippy::float_arithmetic, clippy::float_cmp)]

pub mod adjustment;
mod counter;
pub mod exact;
pub mod measure;
pub mod meter;
pub mod period;
pub mod reading;
pub mod series_state;
pub mod statement;
mod text;
pub mod weighing;
