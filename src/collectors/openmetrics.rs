//! Reads the page of metrics (`/metrics`) of an exporter or of an application itself: Prometheus text and OpenMetrics.
//!
//! It looks at the moment and keeps no history; where a Prometheus server does, read that instead (`prometheus`). It never
//! guesses whether a number is a counter, and never believes the start of a process to be that of a counter unless told.

use std::sync::Arc;

use glob::Pattern;

use super::{Batch, Collector, CollectorError, Offered, Plugin, Request, Running, blocking, web};
use crate::config::section::Section;
use exposition::Format;
use page::{Start, Wanted};

mod exposition;
mod line;
mod page;

pub const PLUGIN: Plugin = Plugin {
    name: "openmetrics",
    about: "the /metrics page of an exporter or an application",
    is_shared: false,
    build,
};

/// What is taken of servers that write both: OpenMetrics tells when a counter began, and where the page ends.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// A configured collector.
#[derive(Debug)]
struct OpenMetrics {
    web: web::Web,
    wanted: Arc<Wanted>,
}

fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let web = web::Web::from_section(section);
    let [metrics, counters, gauges] = ["metrics", "counters", "gauges"].map(|key| patterns(section, key));
    let epoch = section.parse_with("epoch", |text| match text {
        "created" => Ok(Start::Created),
        "none" => Ok(Start::Nowhere),
        name if is_name(name) => Ok(Start::Metric(name.to_owned())),
        other => Err(format!(
            "`{other}` must be created, none, or the name of a metric such as process_start_time_seconds"
        )),
    });
    let timestamps = section.flag("timestamps");
    if [&metrics, &counters, &gauges].iter().all(|list| list.as_ref().is_some_and(Vec::is_empty)) {
        section
            .problem("", "`metrics` is missing: the names to read, such as [http_requests_total, \"app_*\"]");
        return None;
    }
    let wanted = Wanted {
        metrics: metrics?,
        counters: counters?,
        gauges: gauges?,
        epoch: epoch.unwrap_or(Start::Created),
        timestamps: timestamps.unwrap_or(true),
    };
    Some(Box::new(OpenMetrics { web: web?, wanted: Arc::new(wanted) }))
}

/// Names or globs; `None` if one of them is none.
fn patterns(section: &mut Section, key: &str) -> Option<Vec<Pattern>> {
    if !section.has(key) {
        section.texts(key);
        return Some(Vec::new());
    }
    // Newer exporters have names with dots, and whatever else.
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || "{}\"'\\".contains(c);
    let read = section.texts(key)?.into_iter().map(|text| {
        let is_pattern = !text.is_empty() && !text.contains(is_odd);
        let pattern = Pattern::new(&text).ok().filter(|_| is_pattern);
        pattern.ok_or_else(|| format!("`{text}` is no name of a metric, nor a glob such as app_*_total"))
    });
    match read.collect() {
        Ok(patterns) => Some(patterns),
        Err(why) => {
            section.problem(key, why);
            None
        }
    }
}

fn is_name_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_name_part) && !text.starts_with(|c: char| c.is_ascii_digit())
}

impl OpenMetrics {
    async fn run(&self, request: Request) -> Result<Batch, CollectorError> {
        let asked = web::Ask::get(self.web.url().clone()).accept(ACCEPT);
        let answer = self.web.open()?.ask(&asked).await?;
        let wanted = self.wanted.clone();
        blocking::run(move |_| {
            let format = Format::of(answer.header("content-type").unwrap_or_default());
            let read = format.and_then(|format| wanted.read(&answer.body, format, request.now));
            read.map_err(|why| CollectorError(format!("{}: {why}", shown(&answer.url))))
        })
        .await
    }
}

/// An address without its query, which may hold a key.
fn shown(url: &web::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

impl Collector for OpenMetrics {
    fn offers(&self) -> &[Offered] {
        &[]
    }

    fn labels(&self) -> &[&'static str] {
        &[]
    }

    fn scope(&self) -> String {
        let lists = [&self.wanted.metrics, &self.wanted.counters, &self.wanted.gauges];
        let list =
            |patterns: &Vec<Pattern>| patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(",");
        format!("{} {}", shown(self.web.url()), lists.map(list).join(" "))
    }

    fn secret_env(&self) -> Vec<String> {
        self.web.secret_env()
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(self.run(request))
    }
}

#[cfg(test)]
mod tests;
