//! `usages list` and `usages show`: what Waldur holds, as the API tells it.
//!
//! It only reads. What it is asked to leave out is left out here too, whether or not the server knows the filter.

use std::cmp::Ordering;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use jiff::civil::Date;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::waldur::client::Client;
use crate::waldur::failure::Failure;
use crate::waldur::types::{RawRow, uuid_of_address};
use crate::waldur::usages::UsageFilter;
use crate::wire::words::printable;

use super::text::{WIDTH, seconds, shorten};
use super::values::day;

/// Amounts: shown as strings in JSON, whatever the server's version made of them, so that no reader makes a float
/// of them.
const AMOUNTS: [&str; 1] = ["usage"];

/// List or show what Waldur holds.
#[derive(Debug, Args)]
pub struct Usages {
    #[command(subcommand)]
    command: UsagesCommand,
}

#[derive(Debug, Subcommand)]
enum UsagesCommand {
    /// List component usages, newest report first.
    List(Box<ListArgs>),
    /// Show one component usage.
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only this month (YYYY-MM, or its first day).
    #[arg(long, alias = "billing_period", value_name = "MONTH", value_parser = month)]
    billing_period: Option<Date>,
    /// Only months of this number, of whatever year.
    #[arg(long, alias = "billing_period_month", value_name = "1-12", value_parser = clap::value_parser!(i8).range(1..=12))]
    billing_period_month: Option<i8>,
    /// Only months of this year.
    #[arg(long, alias = "billing_period_year", value_name = "YEAR", value_parser = clap::value_parser!(i16).range(1..=9999))]
    billing_period_year: Option<i16>,
    /// Only what resources of this customer used.
    #[arg(long, alias = "customer_uuid", value_name = "UUID")]
    customer_uuid: Option<Uuid>,
    /// Only what was last reported on this day or later.
    #[arg(long, alias = "date_after", value_name = "YYYY-MM-DD", value_parser = day)]
    date_after: Option<Date>,
    /// Only what was last reported on this day or before.
    #[arg(long, alias = "date_before", value_name = "YYYY-MM-DD", value_parser = day)]
    date_before: Option<Date>,
    /// Show only this field; repeat for more.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    field: Vec<String>,
    /// Order by this field (`usage`, `billing_period` ...), the other way with a `-` before it; repeat for more.
    #[arg(long, value_name = "FIELD", value_delimiter = ',', allow_hyphen_values = true)]
    o: Vec<String>,
    /// Only what resources of this offering used.
    #[arg(long, alias = "offering_uuid", value_name = "UUID")]
    offering_uuid: Option<Uuid>,
    /// Only this page of the server's list; else all pages.
    #[arg(long, value_name = "NUMBER", value_parser = page)]
    page: Option<String>,
    /// Only one page, of this many rows (at most 300).
    #[arg(long, alias = "page_size", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=300))]
    page_size: Option<u32>,
    /// Only what resources of this project used.
    #[arg(long, alias = "project_uuid", value_name = "UUID")]
    project_uuid: Option<Uuid>,
    /// Only this resource, by its address in the API (or by its UUID).
    #[arg(long, value_name = "URL", value_parser = address)]
    resource: Option<Uuid>,
    /// Only what this resource used.
    #[arg(long, alias = "resource_uuid", value_name = "UUID")]
    resource_uuid: Option<Uuid>,
    /// Only this component.
    #[arg(long = "type", value_name = "COMPONENT")]
    component: Option<String>,
    /// Print an array of objects, with every field that the server gave.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The UUID of the component usage, as `usages list` has it.
    #[arg(value_name = "UUID")]
    uuid: Uuid,
    /// Print an object, with every field that the server gave.
    #[arg(long)]
    json: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum UsagesError {
    #[error(transparent)]
    Waldur(#[from] Failure),
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
    #[error("there is no field `{name}`; there are: {known}")]
    NoField { name: String, known: String },
}

impl Usages {
    pub async fn run(self, client: &Client, out: &mut dyn Write) -> Result<(), UsagesError> {
        match self.command {
            UsagesCommand::List(args) => args.run(client, out).await,
            UsagesCommand::Show(args) => args.run(client, out).await,
        }
    }
}

impl ListArgs {
    async fn run(self, client: &Client, out: &mut dyn Write) -> Result<(), UsagesError> {
        let filter = self.filter();
        let one_page = self.page.is_some() || self.page_size.is_some();
        let mut rows = match one_page {
            true => client.page_of_raw_usages(&filter, self.page.as_deref(), self.page_size).await?,
            false => client.list_raw_usages(&filter).await?,
        };
        self.refuse_unknown(client, &rows).await?;
        if !self.o.is_empty() {
            // Ordered here whether or not the server did: a classic one ignores it (observed).
            rows.sort_by(|a, b| by_fields(&self.o, a, b));
        }
        match self.json {
            true => write_json(out, &rows, &self.field)?,
            false => write_table(out, &rows, &self.field)?,
        }
        Ok(())
    }

    /// A field that no row has, to be shown or to order by, is a mistake: the server says nothing of it. Which there are
    /// depends on its version, so that a row tells.
    async fn refuse_unknown(&self, client: &Client, rows: &[RawRow]) -> Result<(), UsagesError> {
        let ordered = self.o.iter().map(|order| order.trim_start_matches('-'));
        let mut named = self.field.iter().map(String::as_str).chain(ordered);
        let unknown = |field: &&str| rows.iter().all(|row| row.get(field).is_none());
        let Some(name) = named.find(unknown).filter(|_| !rows.is_empty()) else { return Ok(()) };
        let whole = client.page_of_raw_usages(&UsageFilter::default(), None, Some(1)).await?;
        let fields =
            whole.first().map(|row| row.0.iter().map(|(name, _)| printable(name)).collect::<Vec<_>>());
        Err(UsagesError::NoField { name: name.to_owned(), known: fields.unwrap_or_default().join(", ") })
    }

    fn filter(&self) -> UsageFilter {
        let mut fields = self.field.clone();
        if !fields.is_empty() {
            // What filters, order and pages go by is asked for too, and not shown.
            let mut also = vec!["uuid"];
            let mut need = |needed: bool, field: &'static str| also.extend(needed.then_some(field));
            need(self.billing_period.is_some(), "billing_period");
            need(self.billing_period_month.is_some(), "billing_period");
            need(self.billing_period_year.is_some(), "billing_period");
            need(self.customer_uuid.is_some(), "customer_uuid");
            need(self.date_after.is_some() || self.date_before.is_some(), "date");
            need(self.offering_uuid.is_some(), "offering_uuid");
            need(self.project_uuid.is_some(), "project_uuid");
            need(self.resource.is_some() || self.resource_uuid.is_some(), "resource_uuid");
            need(self.component.is_some(), "type");
            also.extend(self.o.iter().map(|order| order.trim_start_matches('-')));
            for field in also {
                if !fields.iter().any(|named| named == field) {
                    fields.push(field.to_owned());
                }
            }
        }
        UsageFilter {
            billing_period: self.billing_period,
            billing_period_year: self.billing_period_year,
            billing_period_month: self.billing_period_month,
            customer: self.customer_uuid,
            offering: self.offering_uuid,
            project: self.project_uuid,
            resource: self.resource_uuid,
            resource_address: self.resource,
            component: self.component.clone(),
            date_after: self.date_after,
            date_before: self.date_before,
            order: self.o.clone(),
            fields,
        }
    }
}

impl ShowArgs {
    async fn run(self, client: &Client, out: &mut dyn Write) -> Result<(), UsagesError> {
        let row = client.get_raw_usage(self.uuid).await?;
        if self.json {
            writeln!(out, "{}", object(&row, &[]))?;
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (field, _) in &row.0 {
            table.add_row([printable(field), printable(&row.text(field).unwrap_or_default())]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        Ok(())
    }
}

fn month(text: &str) -> Result<Date, String> {
    let whole = if text.len() == 7 { format!("{text}-01") } else { text.to_owned() };
    whole.parse().map_err(|_| "must be a month such as 2026-11".to_owned())
}

fn page(text: &str) -> Result<String, String> {
    match text.parse::<u32>() {
        Ok(number) if number > 0 => Ok(number.to_string()),
        _ if text == "last" => Ok(text.to_owned()),
        _ => Err("must be a number from 1, or `last`".to_owned()),
    }
}

fn address(text: &str) -> Result<Uuid, String> {
    uuid_of_address(text)
        .ok_or_else(|| "must be the address of a resource, which ends in its UUID".to_owned())
}

/// Compares by each field in turn: amounts as amounts, everything else as text, what is not there first.
fn by_fields(order: &[String], a: &RawRow, b: &RawRow) -> Ordering {
    let compare = |order: &String| {
        let field = order.trim_start_matches('-');
        let (left, right) = (a.text(field), b.text(field));
        let amount = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<Decimal>().ok());
        let ordering = match (AMOUNTS.contains(&field), amount(&left), amount(&right)) {
            (true, Some(left), Some(right)) => left.cmp(&right),
            _ => left.cmp(&right),
        };
        if order.starts_with('-') { ordering.reverse() } else { ordering }
    };
    order.iter().map(compare).find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
}

fn write_table(out: &mut dyn Write, rows: &[RawRow], fields: &[String]) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "No component usage matches.");
    }
    if fields.is_empty() {
        return rows.iter().try_for_each(|row| write_row(out, row));
    }
    let columns: Vec<&str> = fields.iter().map(String::as_str).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH as u16);
    table.set_header(columns.iter().map(|column| Cell::new(printable(column))));
    for row in rows {
        table.add_row(columns.iter().map(|column| {
            let cell = Cell::new(printable(&row.text(column).unwrap_or_default()));
            if AMOUNTS.contains(column) { cell.set_alignment(CellAlignment::Right) } else { cell }
        }));
    }
    writeln!(out, "{}", table.trim_fmt())
}

/// Two lines a row: what is billed, and below it whose it is, when it was written, and the UUID that `show` takes.
fn write_row(out: &mut dyn Write, row: &RawRow) -> io::Result<()> {
    let text = |field: &str| printable(&row.text(field).unwrap_or_default());
    let month = text("billing_period").chars().take(7).collect::<String>();
    let (resource, component) = (shorten(&text("resource_name"), 30), shorten(&text("type"), 20));
    writeln!(
        out,
        "{month:<7}  {resource:<30} {component:<20} {:>10} {}",
        text("usage"),
        text("measured_unit")
    )?;
    let date = text("date").parse().map_or_else(|_| text("date"), seconds);
    writeln!(out, "         {}, {date}, {}", shorten(&text("customer_name"), 14), text("uuid"))
}

fn write_json(out: &mut dyn Write, rows: &[RawRow], fields: &[String]) -> io::Result<()> {
    out.write_all(b"[")?;
    for (at, row) in rows.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(out, "{comma}\n  {}", object(row, fields))?;
    }
    out.write_all(if rows.is_empty() { b"]\n" } else { b"\n]\n" })
}

/// A row as JSON: its fields as the server wrote them (those asked for, in that order), but amounts as strings.
fn object(row: &RawRow, fields: &[String]) -> String {
    let names: Vec<&str> = match fields.is_empty() {
        true => row.0.iter().map(|(name, _)| name.as_str()).collect(),
        false => fields.iter().map(String::as_str).collect(),
    };
    let pairs = names.into_iter().filter_map(|name| {
        let raw = row.get(name)?.get();
        let quote = AMOUNTS.contains(&name) && raw.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let value = if quote { format!("\"{raw}\"") } else { raw.to_owned() };
        Some(format!("{}: {value}", serde_json::Value::from(name)))
    });
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        usages: Usages,
    }

    fn list(arguments: &str) -> ListArgs {
        let words = ["x", "list"].into_iter().chain(arguments.split_whitespace());
        match Command::try_parse_from(words).unwrap().usages.command {
            UsagesCommand::List(args) => *args,
            UsagesCommand::Show(_) => panic!("not a list"),
        }
    }

    fn rows(text: &str) -> Vec<RawRow> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_filter_of_the_page_is_an_option_in_both_spellings() {
        let uuid = "5e2f0000000000000000000000000001";
        let dashed = list(&format!(
            "--billing-period 2026-11-01 --billing-period-month 11 --billing-period-year 2026 --customer-uuid {uuid} \
             --date-after 2026-11-02 --date-before 2026-11-03 --field usage --field uuid --o -usage \
             --offering-uuid {uuid} --page 2 --page-size 50 --project-uuid {uuid} \
             --resource https://w.example.com/api/marketplace-resources/{uuid}/ --resource-uuid {uuid} --type cpu --json"
        ));
        let underscored = list(&format!(
            "--billing_period 2026-11 --billing_period_month 11 --billing_period_year 2026 --customer_uuid {uuid} \
             --date_after 2026-11-02 --date_before 2026-11-03 --field usage,uuid --o=-usage \
             --offering_uuid {uuid} --page 2 --page_size 50 --project_uuid {uuid} \
             --resource {uuid} --resource_uuid {uuid} --type cpu --json"
        ));
        assert_eq!(dashed.filter(), underscored.filter());
        assert_eq!((dashed.page, dashed.page_size, dashed.json), (Some("2".into()), Some(50), true));
        for wrong in ["--billing-period soon", "--page 0", "--resource-uuid x", "--resource x", "--foo"] {
            let words = ["x", "list"].into_iter().chain(wrong.split(' '));
            assert!(Command::try_parse_from(words).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_fields_that_filters_need_are_asked_for_too() {
        let args = list("--field usage --type cpu --o -date");
        assert_eq!(args.filter().fields, ["usage", "uuid", "type", "date"]);
        assert_eq!(list("--type cpu").filter().fields, [""; 0]);
    }

    #[test]
    fn amounts_are_ordered_as_amounts_and_printed_as_strings() {
        let mut rows = rows(r#"[{"usage":"9.00","a":1},{"usage":10.50,"a":2},{"usage":"9.00","a":0}]"#);
        rows.sort_by(|a, b| by_fields(&["-usage".to_owned(), "a".to_owned()], a, b));
        let mut out = Vec::new();
        write_json(&mut out, &rows, &[]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[\n  {\"usage\": \"10.50\", \"a\": 2},\n  {\"usage\": \"9.00\", \"a\": 0},\n  {\"usage\": \"9.00\", \"a\": 1}\n]\n"
        );
    }

    #[test]
    fn a_table_has_the_columns_asked_for_and_drives_no_terminal() {
        let rows = rows(r#"[{"usage":"9.00","resource_name":"a\u001b[31mb\nc","type":null}]"#);
        let mut out = Vec::new();
        write_table(&mut out, &rows, &["resource_name".into(), "type".into(), "usage".into()]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("9.00"), "{text}");
    }
}
