//! Tables for people: plain, without colour, readable when piped.

use comfy_table::{ContentArrangement, Table, presets};

pub(super) fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.map(str::to_uppercase));
    table
}
