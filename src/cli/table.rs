//! Tables for people: plain, without colour, readable when piped; what is wider than 80 columns is folded in its cells.

use std::fmt;

use comfy_table::{CellAlignment, ContentArrangement, Row, Table, presets};

use super::text::{WIDTH, shown};
use crate::wire::words::unseen;

/// A table without blanks at the ends of its lines.
pub(super) struct Rows(Table);

pub(super) fn table<const N: usize>(headings: [&str; N]) -> Rows {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH as u16);
    table.set_header(headings.map(heading));
    Rows(table)
}

/// In capitals, but for a unit in brackets.
fn heading(text: &str) -> String {
    match text.split_once('(') {
        Some((name, unit)) => format!("{}({unit}", name.to_uppercase()),
        None => text.to_uppercase(),
    }
}

impl Rows {
    /// What would drive the terminal, or break a line, is spelt out.
    pub(super) fn add_row<T: Into<Row>>(&mut self, row: T) {
        let row: Row = row.into();
        if row.cell_iter().any(|cell| cell.content().contains(unseen)) {
            let plain = row.cell_iter().map(|cell| shown(&cell.content()).replace('\n', "\\n"));
            self.0.add_row(plain.collect::<Vec<_>>());
        } else {
            self.0.add_row(row);
        }
    }

    /// Numbers of these columns stand under each other.
    pub(super) fn numbers(mut self, columns: &[usize]) -> Rows {
        for column in columns {
            if let Some(column) = self.0.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.trim_fmt())
    }
}
