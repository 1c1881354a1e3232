//! A configuration file before it is written: what stands in it, and its text with comments. Pure.

use std::collections::BTreeSet;

/// Whose token is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenLine {
    File(String),
    Env(String),
    /// The credential of the service, or the environment's WALDUR_TOKEN.
    Usual,
}

#[derive(Debug)]
pub(super) struct Draft {
    /// What the file is, for whoever opens it.
    pub(super) about: Vec<String>,
    pub(super) url: String,
    pub(super) token: TokenLine,
    pub(super) allow_http: bool,
    pub(super) ca_file: Option<String>,
    pub(super) billing_timezone: String,
    /// The lines below `submit:`, if there are any.
    pub(super) submit: Vec<String>,
    pub(super) collectors: Vec<Collector>,
}

#[derive(Debug, Default)]
pub(super) struct Collector {
    pub(super) about: Vec<String>,
    pub(super) name: String,
    /// The plugin's own keys, as they stand in the file.
    pub(super) keys: Vec<String>,
    pub(super) meters: Vec<Line>,
}

/// One line below `meters:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Meter(String),
    /// Something that is left to a person.
    Comment(String),
}

impl Collector {
    /// Whether it would measure anything.
    pub(super) fn works(&self) -> bool {
        self.meters.iter().any(|line| matches!(line, Line::Meter(_)))
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("  {}:", self.name)];
        lines.extend(self.keys.iter().map(|key| format!("    {key}")));
        lines.push("    meters:".to_owned());
        for line in &self.meters {
            match line {
                Line::Meter(text) => lines.extend(meter(text)),
                Line::Comment(text) => lines.extend(folded(text, "      # ")),
            }
        }
        lines
    }
}

impl Draft {
    /// How many collectors and meters are at work in it.
    pub(super) fn counts(&self) -> (usize, usize) {
        let meters = |collector: &&Collector| {
            collector.meters.iter().filter(|line| matches!(line, Line::Meter(_))).count()
        };
        let working = self.collectors.iter().filter(|collector| collector.works());
        (working.clone().count(), working.map(|collector| meters(&collector)).sum())
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let mut lines: Vec<String> = self.about.iter().flat_map(|text| folded(text, "# ")).collect();
        lines.push("waldur:".to_owned());
        lines.push(format!("  url: {}", quoted(&self.url)));
        match &self.token {
            TokenLine::File(path) => lines.push(format!("  token_file: {}", quoted(path))),
            TokenLine::Env(name) => lines.push(format!("  token_env: {name}")),
            TokenLine::Usual => lines.push(
                "  # No token_file: the service has it as a credential (`check --as-service`).".to_owned(),
            ),
        }
        if self.allow_http {
            lines.push("  allow_http: true".to_owned());
        }
        if let Some(file) = &self.ca_file {
            lines.push(format!("  ca_file: {}", quoted(file)));
        }
        lines.push("  # Whose months Waldur bills by: its TIME_ZONE; UTC on older servers.".to_owned());
        lines.push(format!("  billing_timezone: {}", quoted(&self.billing_timezone)));
        if !self.submit.is_empty() {
            lines.push(String::new());
            lines.push("submit:".to_owned());
            lines.extend(self.submit.iter().map(|line| format!("  {line}")));
        }
        lines.push(String::new());
        lines.push("collectors:".to_owned());
        let mut names = BTreeSet::new();
        for (index, collector) in self.collectors.iter().enumerate() {
            if index > 0 {
                lines.push(String::new());
            }
            names.insert(&collector.name);
            lines.extend(collector.about.iter().flat_map(|text| folded(text, "  # ")));
            match collector.works() {
                true => lines.extend(collector.lines()),
                // Without a meter it would be a mistake; as a comment it is a beginning.
                false => lines.extend(collector.lines().iter().map(|line| {
                    let rest = line.trim_start();
                    let indent = line.len() - rest.len();
                    match rest.strip_prefix("# ") {
                        Some(comment) => format!("  # {:indent$}# {comment}", "", indent = indent - 2),
                        None => format!("  # {:indent$}{rest}", "", indent = indent - 2),
                    }
                })),
            }
        }
        lines.push(String::new());
        lines.push("# Health and metrics, for this machine alone: docs/metrics.md.".to_owned());
        lines.push("# listen: 127.0.0.1:9464".to_owned());
        lines.join("\n") + "\n"
    }
}

/// One meter on a line of its own, or where that is too long on three: the name, what it reads, and the factor.
fn meter(text: &str) -> Vec<String> {
    const INDENT: &str = "      ";
    let parts = || {
        let name = text.find(": { reading: ").or_else(|| text.find(": { component: "))?;
        let factor = text.rfind(", factor: ").filter(|at| *at > name)?;
        Some((&text[..name], &text[name + 2..factor], &text[factor + 2..]))
    };
    match parts().filter(|_| INDENT.len() + text.chars().count() > 80) {
        None => vec![format!("{INDENT}{text}")],
        Some((name, reads, factor)) => {
            vec![format!("{INDENT}{name}:"), format!("{INDENT}  {reads},"), format!("{INDENT}    {factor}")]
        }
    }
}

/// A text as one value: as it is where that is safe, else in quotes. What another machine says stays one value.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let number_like = text.parse::<f64>().is_ok() || text.starts_with(['-', '.']);
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];
    match !text.is_empty()
        && text.chars().all(plain)
        && !number_like
        && !word.contains(&text.to_lowercase().as_str())
    {
        true => text.to_owned(),
        // JSON strings are YAML strings.
        false => serde_json::to_string(text).unwrap_or_default(),
    }
}

/// A name for a collector, of a name for people: `SLURM Cluster` is `slurm-cluster`.
pub(super) fn name_of(text: &str, taken: &mut BTreeSet<String>) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(letter).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    let name = match words.join("-") {
        name if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("offering-{name}")
        }
        name => name,
    };
    let name = name.trim_end_matches('-').to_owned();
    let mut chosen = name.clone();
    let mut number = 2;
    while !taken.insert(chosen.clone()) {
        chosen = format!("{name}-{number}");
        number += 1;
    }
    chosen
}

/// A text in lines of 80 columns, each with this before it. Line breaks from elsewhere are blanks here.
pub(super) fn folded(text: &str, before: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && before.len() + line.chars().count() + 1 + word.chars().count() > 80 {
            lines.push(format!("{before}{line}"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(format!("{before}{line}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_that_a_collector_can_have() {
        let mut taken = BTreeSet::new();
        for (text, wanted) in [
            ("SLURM Cluster", "slurm-cluster"),
            ("slurm/cluster", "slurm-cluster-2"),
            ("Rõuge: HPC", "r-uge-hpc"),
            ("", "offering"),
            ("2nd", "offering-2nd"),
        ] {
            assert_eq!(name_of(text, &mut taken), wanted);
        }
    }

    #[test]
    fn what_another_machine_says_stays_one_value() {
        for (text, wanted) in [
            ("UTC", "UTC"),
            ("Europe/Tallinn", "Europe/Tallinn"),
            ("12", "\"12\""),
            ("1e3", "\"1e3\""),
            ("yes", "\"yes\""),
            ("", "\"\""),
            ("a: b\n# c", "\"a: b\\n# c\""),
        ] {
            assert_eq!(quoted(text), wanted);
            let value: serde_yaml::Value = serde_yaml::from_str(wanted).unwrap();
            assert_eq!(value.as_str(), Some(text), "{wanted}");
        }
        assert_eq!(folded("one\ntwo: three", "# "), ["# one two: three"]);
    }
}
