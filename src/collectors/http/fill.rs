//! What a request's texts are filled in with: the window that is asked for, and the page.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::template::Template;
use crate::metering::reading::Labels;

/// What one request is about.
#[derive(Debug, Clone)]
pub(super) struct Fill {
    pub(super) now: Timestamp,
    /// What is asked for: `start..end`.
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    /// Counts pages from the first number that the paging names.
    pub(super) page: u64,
    pub(super) offset: u64,
    /// Empty for the first page.
    pub(super) cursor: String,
}

const INSTANTS: [&str; 3] = ["now", "start", "end"];
const PAGING: [&str; 3] = ["page", "offset", "cursor"];
const FORMS: [&str; 4] = ["date", "time", "unix", "unix_ms"];

/// Whether all that a text wants to be filled in with is known.
pub(super) fn check(template: &Template) -> Result<(), String> {
    for name in template.labels() {
        let (instant, form) =
            name.split_once(':').map_or((name, None), |(instant, form)| (instant, Some(form)));
        let fine = match form {
            None => INSTANTS.contains(&instant) || PAGING.contains(&instant),
            Some(form) => INSTANTS.contains(&instant) && (FORMS.contains(&form) || form.contains('%')),
        };
        if !fine {
            return Err(format!(
                "`{{{name}}}` is nothing that can be filled in; known: {{start}}, {{end}} and {{now}}, each also as \
                 {{start:date}}, {{start:time}}, {{start:unix}}, {{start:unix_ms}} or {{start:%Y-%m-%dT%H:%M:%S}}, and \
                 {{page}}, {{offset}}, {{cursor}} (a brace itself is written twice)"
            ));
        }
    }
    Ok(())
}

impl Fill {
    pub(super) fn fill(&self, template: &Template) -> Result<String, String> {
        let mut values = Labels::new();
        for name in template.labels() {
            let value = match name.split_once(':') {
                None => self.plain(name),
                Some((instant, form)) => in_form(self.instant(instant), form)?,
            };
            values.insert(name.to_owned(), value);
        }
        template.render(&values).map_err(|name| format!("`{{{name}}}` is nothing that can be filled in"))
    }

    fn plain(&self, name: &str) -> String {
        match name {
            "page" => self.page.to_string(),
            "offset" => self.offset.to_string(),
            "cursor" => self.cursor.clone(),
            instant => in_whole_seconds(self.instant(instant)).to_string(),
        }
    }

    fn instant(&self, name: &str) -> Timestamp {
        match name {
            "start" => self.start,
            "end" => self.end,
            _ => self.now,
        }
    }
}

/// Fractions of a second are more than most servers read.
fn in_whole_seconds(instant: Timestamp) -> Timestamp {
    Timestamp::from_second(instant.as_second()).unwrap_or(instant)
}

/// In UTC, as servers count.
fn in_form(instant: Timestamp, form: &str) -> Result<String, String> {
    let form = match form {
        "unix" => return Ok(instant.as_second().to_string()),
        "unix_ms" => return Ok(instant.as_millisecond().to_string()),
        "date" => "%Y-%m-%d",
        "time" => "%H:%M:%S",
        form => form,
    };
    jiff::fmt::strtime::format(form, &instant.to_zoned(TimeZone::UTC))
        .map_err(|error| format!("`{form}` is no form for a time: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_the_form_that_is_asked_for() {
        let fill = Fill {
            now: "2026-11-05T10:11:12.75Z".parse().unwrap(),
            start: "2026-11-01T00:00:00Z".parse().unwrap(),
            end: "2026-11-05T10:00:00Z".parse().unwrap(),
            page: 3,
            offset: 200,
            cursor: "a+b".to_owned(),
        };
        for (text, filled) in [
            ("{start}/{end}", "2026-11-01T00:00:00Z/2026-11-05T10:00:00Z"),
            ("{now}", "2026-11-05T10:11:12Z"),
            ("{start:date} {end:time}", "2026-11-01 10:00:00"),
            ("{end:unix} {end:unix_ms}", "1793872800 1793872800000"),
            ("{end:%Y-%m-%dT%H:%M:%S}", "2026-11-05T10:00:00"),
            ("{page}, {offset}, {cursor}, {{x}}", "3, 200, a+b, {x}"),
        ] {
            let template: Template = text.parse().unwrap();
            assert_eq!(check(&template), Ok(()), "{text}");
            assert_eq!(fill.fill(&template), Ok(filled.to_owned()));
        }
        for wrong in ["{begin}", "{start:iso}", "{page:date}"] {
            let said = check(&wrong.parse().unwrap()).unwrap_err();
            assert!(
                said.starts_with(&format!("`{wrong}` is nothing that can be filled in; known: ")),
                "{said}"
            );
        }
    }
}
