//! Reads the page of metrics (`/metrics`) of an exporter or of an application itself: Prometheus text and OpenMetrics.
//!
//! It looks at the moment and keeps no history; where a Prometheus server does, read that instead (`prometheus`). It never
//! guesses whether a number is a counter, and never believes the start of a process to be that of a counter unless told.

use glob::Pattern;

use super::{Batch, Collector, CollectorError, Offered, Plugin, Request, Running, blocking, web};
use crate::config::section::Section;
use exposition::Format;
use page::{Start, Wanted};
use std::sync::Arc;

mod exposition;
mod page;

pub const PLUGIN: Plugin =
    Plugin { name: "openmetrics", about: "the /metrics page of an exporter or an application", build };
