//! The configuration in each collector's page is one that its plugin takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests, too")]

use std::path::Path;

use waldur_usage_agent::collectors::PLUGINS;
use waldur_usage_agent::config::schedule::Schedule;
use waldur_usage_agent::config::section::Section;

/// The one YAML block of a page.
fn example(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/collectors").join(format!("{page}.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, rest) = text.split_once("```yaml\n").expect("a YAML block");
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn every_plugin_has_a_page_whose_example_it_takes() {
    for plugin in PLUGINS {
        let (mut root, problems) = Section::parse(&example(plugin.name));
        let sections = root.named_sections("collectors");
        assert_eq!(sections.len(), 1, "{}", plugin.name);
        for mut section in sections {
            assert_eq!(section.text("plugin").as_deref(), Some(plugin.name));
            section.require_with("schedule", "", |text| Schedule::parse(text, jiff::tz::TimeZone::UTC));
            let collector = (plugin.build)(&mut section).unwrap();
            for mut meter in section.named_sections("meters") {
                let reading = meter.text("reading").unwrap();
                let offers = collector.offers();
                assert!(
                    offers.is_empty() || offers.iter().any(|offered| offered.name == reading),
                    "{reading}"
                );
            }
            section.texts("ignore");
            for key in ["resource", "user"] {
                if section.is_section(key) {
                    section.section(key);
                } else {
                    section.text(key);
                }
            }
            section.finish();
        }
        assert_eq!(problems.list(), vec![], "{}", plugin.name);
    }
}

#[test]
fn every_reading_that_is_offered_is_on_the_page() {
    for plugin in PLUGINS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/collectors/{}.md", plugin.name));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{path:?} is missing"));
        let (mut section, _) = Section::parse("slices: x\nmounts: /\ncommand: x\n");
        let Some(collector) = (plugin.build)(&mut section) else { continue };
        for offered in collector.offers() {
            assert!(text.contains(&format!("`{}`", offered.name)), "{}: {}", plugin.name, offered.name);
        }
        for label in collector.labels() {
            assert!(text.contains(&format!("`{label}`")), "{}: {label}", plugin.name);
        }
    }
}

#[test]
fn every_page_says_what_is_done_with_odd_input() {
    for plugin in PLUGINS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/collectors/{}.md", plugin.name));
        let text = std::fs::read_to_string(path).unwrap();
        let (_, odd) =
            text.split_once("\n## Odd ").unwrap_or_else(|| panic!("{}: no such section", plugin.name));
        let odd = odd.split("\n## ").next().unwrap();
        let rule = "One odd thing costs only what it could bear on.";
        assert!(odd.contains(rule), "{}", plugin.name);
        assert!(odd.lines().filter(|line| line.starts_with("| ")).count() > 4, "{}", plugin.name);
    }
}
