//! `export`: a month's statements for an accountant, as CSV or JSON. It only reads the ledger, and holds one statement in
//! memory at a time.

use std::borrow::Cow;
use std::io::{BufWriter, Write};

use clap::Args;
use serde::Serializer;

use super::exit::{Exit, Failed};
use super::progress::Progress;
use super::setup::{Setup, count};
use crate::ledger::sent::statement::Entry;
use crate::ledger::views::export::{Exported, ExportedAmount};
use crate::metering::exact::Exact;
use crate::metering::period::BillingPeriod;
use crate::submitter::reason::Reason;

/// Export a month's statements for an accountant, as CSV or JSON.
///
/// One row a component and user; where the user is empty, the row is the total, of which the users' rows are parts.
/// docs/export.md tells what each column is. It only reads the ledger.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The billing period, such as 2026-11.
    #[arg(long, value_name = "YYYY-MM")]
    period: BillingPeriod,
    /// As CSV (RFC 4180), which is also what is written where neither is asked for.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// As JSON: an array with an object a row, each on a line of its own.
    #[arg(long)]
    json: bool,
}

/// The columns, in their order; docs/export.md tells what they are.
const COLUMNS: [&str; 22] = [
    "period",
    "customer",
    "project",
    "resource",
    "resource_uuid",
    "backend_id",
    "component",
    "component_name",
    "unit",
    "user",
    "used",
    "used_exactly",
    "used_rounded",
    "carried",
    "posted",
    "waldur_holds",
    "stranded",
    "state",
    "plan_period_uuid",
    "plan_period_start",
    "reported_at",
    "call",
];

/// Of amounts that have no end as a decimal.
const PLACES: u32 = 12;

impl Export {
    pub(super) async fn run(self, setup: &Setup, out: &mut dyn Write) -> Result<Exit, Failed> {
        let ledger = setup.ledger_to_read()?;
        let out = BufWriter::new(out);
        let mut rows = if self.json { Rows::json(out) } else { Rows::csv(out) };
        let (mut left, mut done) = (Left::default(), 0);
        let total = ledger.statements_in(self.period)?.try_into().unwrap_or(0);
        let progress = Progress::beside_output("Exporting");
        rows.begin()?;
        ledger.export(self.period, |statement| {
            let shared = Shared::of(&statement);
            for amount in &statement.amounts {
                left.note(&amount.entry);
                rows.write(&cells(&statement, &shared, amount))?;
            }
            done += 1;
            if let Some(progress) = &progress {
                progress.at("Exporting statements", done, total);
            }
            Ok::<_, Failed>(())
        })?;
        rows.end()?;
        drop(progress);
        left.tell(self.period);
        Ok(left.exit())
    }
}

/// What keeps the month from being settled.
#[derive(Debug, Default)]
struct Left {
    rows: usize,
    pending: usize,
    stuck: usize,
}

impl Left {
    fn note(&mut self, entry: &Entry) {
        let rest = entry.is_blocked_for(Reason::ClosingRest.name());
        self.rows += 1;
        match entry.state() {
            "agreed" | "shadow" => {}
            "pending" => self.pending += 1,
            // What only the closing of a month left is no alarm.
            _ if rest => {}
            _ => self.stuck += 1,
        }
    }

    fn exit(&self) -> Exit {
        match (self.pending, self.stuck) {
            (0, 0) => Exit::Ok,
            (0, _) => Exit::Stuck,
            _ => Exit::Pending,
        }
    }

    /// For whoever wonders about the exit code; not among the rows.
    fn tell(&self, period: BillingPeriod) {
        if self.rows == 0 {
            eprintln!("{period}: the ledger has no amounts.");
        }
        if self.pending > 0 {
            eprintln!("{period}: {} pending.", count(self.pending, "amount"));
        }
        if self.stuck > 0 {
            eprintln!("{period}: {} held, parked or stranded.", count(self.stuck, "amount"));
        }
    }
}

/// One cell of a row.
enum Cell<'a> {
    /// A number, an instant, a UUID, or a word of ours.
    Plain(Cow<'a, str>),
    /// What somebody else has written.
    Words(&'a str),
    /// A fraction, which spreadsheets take for a date.
    Fraction(&'a str),
    Nothing,
}

/// What all rows of a statement say, as text: there may be very many.
struct Shared {
    period: String,
    resource: String,
    plan_period: Option<String>,
    part: String,
}

impl Shared {
    fn of(statement: &Exported) -> Shared {
        Shared {
            period: statement.key.period.to_string(),
            resource: statement.key.resource.to_string(),
            plan_period: statement.plan_period.map(|uuid| uuid.to_string()),
            part: statement.key.part.to_string(),
        }
    }
}

/// In the order of `COLUMNS`.
fn cells<'a>(of: &'a Exported, shared: &'a Shared, amount: &'a ExportedAmount) -> [Cell<'a>; COLUMNS.len()] {
    let ExportedAmount { component, user, entry, holds, call } = amount;
    let (resource, known) = (of.resource.as_ref(), of.components.get(component));
    let words = |text: Option<&'a String>| text.map_or(Cell::Nothing, |text| Cell::Words(text));
    let plain = |text: Option<&'a String>| text.map_or(Cell::Nothing, |text| Cell::Plain(text.into()));
    let made = |text: Option<String>| text.map_or(Cell::Nothing, |text| Cell::Plain(text.into()));
    let cents = |amount: Option<rust_decimal::Decimal>| made(amount.map(|amount| format!("{amount:.2}")));
    let exact = match entry.exact.as_str() {
        "" => Cell::Nothing,
        fraction if fraction.contains('/') => Cell::Fraction(fraction),
        decimal => Cell::Plain(decimal.into()),
    };
    [
        Cell::Plain(shared.period.as_str().into()),
        words(resource.map(|known| &known.customer)),
        words(resource.map(|known| &known.project)),
        words(resource.map(|known| &known.name)),
        Cell::Plain(shared.resource.as_str().into()),
        words(resource.map(|known| &known.backend_id)),
        Cell::Words(component),
        words(known.map(|known| &known.name)),
        words(known.map(|known| &known.measured_unit)),
        Cell::Words(user),
        as_decimal(&entry.exact).map_or(Cell::Nothing, Cell::Plain),
        exact,
        cents(entry.used),
        cents(entry.carried()),
        cents(entry.posted),
        cents(holds.as_ref().map(|holds| holds.amount)),
        cents(entry.stranded()),
        Cell::Plain(entry.state().into()),
        plain(shared.plan_period.as_ref()),
        Cell::Plain(shared.part.as_str().into()),
        made(holds.as_ref().map(|holds| holds.at.to_string())),
        call.map_or(Cell::Nothing, |call| Cell::Plain(call.into())),
    ]
}

/// As it is or, where it has no end, with twelve decimals.
fn as_decimal(exact: &str) -> Option<Cow<'_, str>> {
    match exact.contains('/') {
        true => Some(exact.parse::<Exact>().ok()?.approximate(PLACES).into()),
        false => Some(exact.into()).filter(|_| !exact.is_empty()),
    }
}

/// Where rows go.
enum Rows<W: Write> {
    Csv(Box<csv::Writer<W>>),
    Json { out: W, first: bool },
}

impl<W: Write> Rows<W> {
    fn csv(out: W) -> Self {
        let writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
        Rows::Csv(Box::new(writer))
    }

    fn json(out: W) -> Self {
        Rows::Json { out, first: true }
    }

    fn begin(&mut self) -> Result<(), Failed> {
        match self {
            Rows::Csv(writer) => writer.write_record(COLUMNS).map_err(written)?,
            Rows::Json { out, .. } => write!(out, "[")?,
        }
        Ok(())
    }

    fn write(&mut self, cells: &[Cell<'_>; COLUMNS.len()]) -> Result<(), Failed> {
        match self {
            Rows::Csv(writer) => {
                for cell in cells {
                    writer.write_field(cell.in_a_spreadsheet().as_bytes()).map_err(written)?;
                }
                writer.write_record(None::<&[u8]>).map_err(written)?;
            }
            Rows::Json { out, first } => {
                out.write_all(if *first { b"\n" } else { b",\n" })?;
                let object = COLUMNS.iter().zip(cells.iter().map(Cell::json));
                serde_json::Serializer::new(out).collect_map(object).map_err(std::io::Error::from)?;
                *first = false;
            }
        }
        Ok(())
    }

    fn end(self) -> Result<(), Failed> {
        match self {
            Rows::Csv(mut writer) => writer.flush()?,
            Rows::Json { mut out, .. } => {
                writeln!(out, "\n]")?;
                out.flush()?;
            }
        }
        Ok(())
    }
}

fn written(error: csv::Error) -> Failed {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error.into(),
        other => std::io::Error::other(format!("{other:?}")).into(),
    }
}

impl Cell<'_> {
    /// Spreadsheets run what begins like a formula, and make a date of a fraction: such a cell gets an apostrophe, by which
    /// they take it for text.
    fn in_a_spreadsheet(&self) -> Cow<'_, str> {
        match self {
            Cell::Plain(text) => text.as_ref().into(),
            Cell::Words(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'']) => {
                format!("'{text}").into()
            }
            Cell::Words(text) => (*text).into(),
            Cell::Fraction(text) => format!("'{text}").into(),
            Cell::Nothing => "".into(),
        }
    }

    fn json(&self) -> Option<&str> {
        match self {
            Cell::Plain(text) => Some(text),
            Cell::Words(text) | Cell::Fraction(text) => Some(text),
            Cell::Nothing => None,
        }
    }
}
