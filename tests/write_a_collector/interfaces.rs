//! Bytes that network interfaces have sent and received: two counters each, whose life is the machine's boot.

use rust_decimal::Decimal;
use waldur_usage_agent::collectors::{
    Batch, Bearing, Collector, CollectorError, Offered, Plugin, Request, Running,
};
use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::metering::reading::{Kind, Reading, parse_value};

pub const PLUGIN: Plugin =
    Plugin { name: "interfaces", about: "bytes, by network interface", is_shared: false, build };

const OFFERS: &[Offered] = &[
    Offered { name: "sent_bytes", kind: Kind::Counter, unit: "B" },
    Offered { name: "received_bytes", kind: Kind::Counter, unit: "B" },
];

#[derive(Debug)]
struct Interfaces {
    names: Vec<String>,
    /// Where /proc and /sys are, for tests.
    root: String,
}

/// Takes this plugin's own keys; what is left over is told as unknown by the caller.
fn build(section: &mut Section) -> Option<Box<dyn Collector>> {
    let names = section.texts("interfaces");
    let root = section.text("root").unwrap_or_default();
    if names.is_none() {
        section.problem("", "`interfaces` is missing: whose bytes to count, such as [eth0]");
    }
    Some(Box::new(Interfaces { names: names?, root }))
}

impl Collector for Interfaces {
    fn offers(&self) -> &[Offered] {
        OFFERS
    }

    fn labels(&self) -> &[&'static str] {
        &["interface"]
    }

    /// While this is the same, what was not there before has begun since.
    fn scope(&self) -> String {
        self.names.join(" ")
    }

    fn collect(&self, request: Request) -> Running<'_> {
        Box::pin(async move {
            // Without it no counter can be told from the one before the boot: then nothing was seen.
            let boot = self.read("/proc/sys/kernel/random/boot_id").await.map_err(CollectorError)?;
            let mut batch = Batch { lists_everything: true, ..Batch::default() };
            for name in &self.names {
                for (reading, file) in [("sent_bytes", "tx_bytes"), ("received_bytes", "rx_bytes")] {
                    match self.counter(name, file).await {
                        Ok(value) => {
                            let mut seen = Reading::new(reading, Kind::Counter, value, request.now)
                                .unit("B")
                                .label("interface", name);
                            seen.epoch.id = Some(boot.clone());
                            batch.push(seen);
                        }
                        // Never zero: a problem of this reading, and its last known amounts stand.
                        Err(why) => batch.problem_of(why, Bearing::label("interface", name)),
                    }
                }
            }
            Ok(batch)
        })
    }
}

impl Interfaces {
    async fn counter(&self, name: &str, file: &str) -> Result<Decimal, String> {
        parse_value(&self.read(&format!("/sys/class/net/{name}/statistics/{file}")).await?)
    }

    async fn read(&self, path: &str) -> Result<String, String> {
        let text = tokio::fs::read_to_string(format!("{}{path}", self.root)).await;
        text.map(|text| text.trim().to_owned()).map_err(|error| format!("can't read {path}: {error}"))
    }
}
