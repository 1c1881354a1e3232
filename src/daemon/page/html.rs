//! The page's HTML. Every text of others goes through maud, which escapes it; there is no script, and no style but the
//! stylesheet's.

use maud::{DOCTYPE, Markup, html};
use rust_decimal::Decimal;

use super::view::{Explained, Number, Overview, ROWS_PER_PAGE, ResourceDetail, Row, moment};
use crate::metering::exact::Exact;
use crate::metering::period::BillingPeriod;
use crate::submitter::pause::Cause;
use crate::submitter::reason::Reason;

/// Calls and troubles that are shown.
const SHOWN: usize = 50;

fn frame(title: &str, main: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
            }
            body {
                a class="skip" href="#main" { "To the content" }
                (main)
                footer { p { "waldur-usage-agent " (env!("CARGO_PKG_VERSION")) ". Read only." } }
            }
        }
    }
}

pub(super) fn overview(view: &Overview) -> Markup {
    let title = format!("Usage in {}", view.period);
    let main = html! {
        header {
            h1 { (title) }
            (months(view.period, view.running, "/"))
        }
        main id="main" {
            section aria-labelledby="server" { h2 id="server" { "Server" } (server(view)) }
            section aria-labelledby="wrong" { h2 id="wrong" { "What is wrong" } (wrong(view)) }
            section aria-labelledby="resources" {
                h2 id="resources" { "Resources" }
                @if view.resources.is_empty() { p { "There is nothing of this month." } }
                @for row in &view.resources { (card(row, view.period)) }
                (pages(view))
            }
        }
    };
    frame(&format!("{title} - waldur-usage-agent"), main)
}

/// The month before, this one, and the one after.
fn months(period: BillingPeriod, running: BillingPeriod, path: &str) -> Markup {
    html! {
        nav aria-label="Months" {
            a href=(format!("{path}?period={}", period.previous())) { (period.previous()) }
            " "
            strong aria-current="page" { (period) }
            " "
            @if period < running { a href=(format!("{path}?period={}", period.next())) { (period.next()) } }
        }
    }
}

fn server(view: &Overview) -> Markup {
    html! {
        p { (view.api) }
        @if view.shadow { p class="note" { "report: shadow: nothing is posted." } }
        @if let Some(other) = &view.server.other {
            p class="bad" { strong { "Nothing is sent" } ": " (other.words()) "." }
            p { (Cause::OtherServer.remedy()) }
        }
        @match &view.server.paused {
            Some(paused) => {
                p class="bad" {
                    strong { "Left alone" } " until " (moment(paused.retry.next)) ": " (paused.cause.words()) ". "
                    (paused.retry.words)
                }
                p { (paused.cause.remedy()) }
            }
            None => {
                @match view.server.answered {
                    Some(at) if !view.server.is_refused() && view.server.other.is_none() => {
                        p class="good" { "Answered at " (moment(at)) "." }
                    }
                    Some(at) => { p { "Answered at " (moment(at)) "." } }
                    None => { p { "Not asked yet." } }
                }
            }
        }
        p { "Now: " (moment(view.now)) ". Statements pending: " (view.pending) "." }
    }
}

fn wrong(view: &Overview) -> Markup {
    let failing: Vec<_> = view
        .collectors
        .iter()
        .filter_map(|one| Some((one, one.last.as_ref().filter(|last| last.outcome != "ok")?)))
        .collect();
    let undone = view.server.undone.resources.len();
    html! {
        @if failing.is_empty() && view.blocked.is_empty() && view.server.paused.is_none()
            && view.server.other.is_none() && !view.server.is_refused() && view.troubles.is_empty() && undone == 0
        {
            p class="good" { "Nothing." }
        }
        ul class="troubles" {
            @for one in &view.server.without_role {
                li { "The token has no role for offering " (one.words()) ". " (Cause::Role.remedy()) }
            }
            @if let Some((since, words)) = &view.server.reports_refused {
                li { "Waldur refuses every report since " (moment(*since)) ": " (words) " " (Cause::Role.remedy()) }
            }
            @if undone > 0 {
                li { "`resolve overwrite` of " (undone) " resources is not carried out yet: " (view.server.undone.words) }
            }
            @for words in &view.troubles { li { (words) } }
            @for (collector, last) in failing {
                li {
                    strong { "Collector " (collector.name) } ": " (last.outcome) " at " (moment(last.at))
                    @if let Some(message) = &last.message { ": " (message) }
                }
            }
            @for (name, at) in view.blocked.iter().take(SHOWN) {
                li {
                    a href=(format!("/resource/{}?period={}", at.resource, at.period)) { (name) }
                    ", " (at.period) ", "
                    @if at.component.is_empty() { "all of it" } @else { (at.component) }
                    @if !at.user.is_empty() { " of " (at.user) }
                    ": " strong { (at.block.state) } ": " (at.block.words)
                    @if let Some(reason) = Reason::named(&at.block.reason) { br; (reason.remedy()) }
                }
            }
            @if view.blocked.len() > SHOWN { li { "and " (view.blocked.len() - SHOWN) " more" } }
        }
    }
}

fn card(row: &Row, period: BillingPeriod) -> Markup {
    html! {
        article {
            h3 { a href=(format!("/resource/{}?period={period}", row.uuid)) { (row.name) } }
            p class="whose" { (row.customer) @if !row.project.is_empty() { " / " (row.project) } }
            @for number in &row.numbers { (figure(number, "small")) }
        }
    }
}

/// A component's curve with its total and what Waldur holds.
fn figure(number: &Number, size: &str) -> Markup {
    let unit = &number.unit;
    let (posted, holds) = (amount(number.posted), amount(number.holds));
    let words = format!("{} so far: {posted} {unit}; Waldur holds {holds}", number.component);
    let state = match number.state.as_str() {
        "agreed" => "good",
        "pending" | "shadow" | "unused" => "note",
        _ => "bad",
    };
    html! {
        figure class=(size) {
            (number.curve.svg(&words))
            figcaption {
                span class="component" { (number.component) } " "
                strong { (posted) } " " (unit) ", Waldur holds " strong { (holds) } ", "
                span class=(state) { (number.state) }
            }
        }
    }
}

fn pages(view: &Overview) -> Markup {
    let link = |from: usize| format!("/?period={}&from={from}", view.period);
    html! {
        @if view.total > ROWS_PER_PAGE || view.from > 0 {
            nav aria-label="Pages" {
                @if view.from > 0 { a href=(link(view.from.saturating_sub(ROWS_PER_PAGE))) { "Before" } " " }
                span { (view.from + 1) " to " (view.from + view.resources.len()) " of " (view.total) } " "
                @if view.from + ROWS_PER_PAGE < view.total { a href=(link(view.from + ROWS_PER_PAGE)) { "After" } }
            }
        }
    }
}

pub(super) fn resource(view: &ResourceDetail) -> Markup {
    let row = &view.row;
    let main = html! {
        header {
            p { a href=(format!("/?period={}", view.period)) { "All resources" } }
            h1 { (row.name) }
            p class="whose" { (row.customer) @if !row.project.is_empty() { " / " (row.project) } }
            (months(view.period, view.running, &format!("/resource/{}", row.uuid)))
        }
        main id="main" {
            @if let Some(known) = &view.known {
                p { "UUID " (row.uuid) ", backend id " (known.backend_id) ", " (known.state) ". Now: " (moment(view.now)) "." }
            }
            @if view.components.is_empty() { p { "There is nothing of this month." } }
            @for one in &view.components {
                @if let Some(number) = row.numbers.get(one.number) { (component(number, one)) }
            }
            (calls(view))
        }
    };
    frame(&format!("{} in {} - waldur-usage-agent", row.name, view.period), main)
}

fn component(number: &Number, one: &Explained) -> Markup {
    let id = format!("component-{}", one.number);
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (number.component) }
            (figure(number, "large"))
            p { "Used exactly: " (number.used) " " (number.unit) "." }
            @if let Some(written) = &number.written { p { "Waldur's number: " (written) "." } }
            @if let Some(why) = &number.why { p class="bad" { strong { (number.state) } ": " (why) } }
            (by_day(number, one))
            (series(number, one))
            (users(number, one))
        }
    }
}

fn by_day(number: &Number, one: &Explained) -> Markup {
    let mut so_far = Exact::zero();
    let rows: Vec<_> = one
        .days
        .iter()
        .map(|(date, day)| {
            so_far += day.added.clone();
            (date, day, so_far.approximate(6))
        })
        .collect();
    html! {
        (table(&format!("{} by day", number.component), &["Day", "Used", "So far", "Readings", "Note"], html! {
            @for (date, day, so_far) in rows {
                tr {
                    th scope="row" { (date) }
                    td { (day.added.approximate(6)) }
                    td { (so_far) }
                    td { (day.readings) }
                    td {
                        @if day.resets > 0 { (day.resets) " reset(s) " }
                        @if day.gaps > 0 { (day.gaps) " gap(s) left out " }
                        @if day.held > 0 { (day.held) " held " }
                    }
                }
            }
            @if !one.whole.is_zero() {
                tr {
                    th scope="row" { "Of the whole month" }
                    td { (one.whole.approximate(6)) }
                    td {} td {} td { "a level or a mean" }
                }
            }
        }))
    }
}

fn series(number: &Number, one: &Explained) -> Markup {
    html! {
        (table(&format!("{}: what was measured", number.component),
            &["From", "Labels", "User", "Measured", "Factor", "Amount"], html! {
            @for part in &one.series {
                tr {
                    th scope="row" { (part.collector) ", " (part.kind.name()) " " (part.reading) }
                    td { @for (label, value) in &part.labels { (label) "=" (value) " " } }
                    td { (part.user.as_deref().unwrap_or("")) }
                    td { (part.measure.split(' ').next().unwrap_or_default()) " " (part.quantity.approximate(6)) " "
                        (part.unit.as_deref().unwrap_or("")) }
                    td {
                        (part.factor_as_written)
                        @if let Some(weight) = part.weight.as_ref().filter(|_| !part.weighing.is_empty()) { " x " (weight) }
                        @if part.weight.is_none() { " (does not count: " (part.weighing) ")" }
                    }
                    td { (part.amount.approximate(6)) }
                }
            }
        }))
    }
}

fn users(number: &Number, one: &Explained) -> Markup {
    html! {
        @if !one.users.is_empty() {
            (table(&format!("{} by user", number.component), &["User", "To post", "Waldur holds"], html! {
                @for (user, (posted, holds)) in &one.users {
                    tr { th scope="row" { (user) } td { (amount(*posted)) } td { (amount(*holds)) } }
                }
            }))
        }
    }
}

fn calls(view: &ResourceDetail) -> Markup {
    let skipped = view.calls.len().saturating_sub(SHOWN);
    html! {
        @if !view.calls.is_empty() {
            section aria-labelledby="calls" {
                h2 id="calls" { "Reported" }
                @if skipped > 0 { p { (skipped) " earlier calls are not shown." } }
                (table("Calls, the latest last", &["At", "Call", "Amounts", "Outcome"], html! {
                    @for call in view.calls.iter().skip(skipped) {
                        tr {
                            th scope="row" { (moment(call.at)) }
                            td { (call.call) } td { (call.amounts) } td { (call.outcome) }
                        }
                    }
                }))
            }
        }
    }
}

/// A table that is scrolled by itself where it is too wide, by keyboard too.
fn table(caption: &str, headings: &[&str], rows: Markup) -> Markup {
    html! {
        div class="scroll" role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody { (rows) }
            }
        }
    }
}

fn amount(amount: Option<Decimal>) -> String {
    amount.map_or("-".to_owned(), |amount| format!("{amount:.2}"))
}
