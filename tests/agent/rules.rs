//! The rules that a file's `collectors` make, for tests that open a ledger themselves.
#![allow(unreachable_pub, reason = "not every test needs all of it")]

use waldur_usage_agent::config::section::Section;
use waldur_usage_agent::ledger::Rulebook;
use waldur_usage_agent::metering::meter::Rules;
use waldur_usage_agent::metering::period::BillingZone;

pub fn rulebook(text: &str, zone: BillingZone) -> Rulebook {
    let (mut root, problems) = Section::parse(text);
    let mut rules: Vec<Rules> = Vec::new();
    for mut section in root.named_sections("collectors") {
        rules.extend(Rules::from_section(&mut section));
        section.finish();
    }
    root.finish();
    assert_eq!(problems.list(), []);
    Rulebook { zone, rules }
}
