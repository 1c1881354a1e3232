//! One statement for many rows: a server is asked once and not once a row, and a file finds its way down a table once.
//!
//! Where a statement says `{rows}`, so many rows of placeholders stand. It is cut into few sizes, so that of each statement
//! there are few texts, each of which is prepared once.

use super::{Connection, Result, Row, ToSql};

/// How many rows a statement may have, largest first: each keeps memory for all of its rows as long as it is prepared.
const SIZES: [usize; 5] = [50, 20, 5, 2, 1];

/// What stands for the rows in a statement.
const ROWS: &str = "{rows}";

impl Connection {
    /// Carries out a statement for all these rows: `INSERT ... VALUES {rows} ...`, or one that has them in `FROM (VALUES
    /// {rows}) v`, where their columns are `column1`, `column2` and so on.
    pub(in crate::ledger) fn execute_rows<const N: usize>(
        &self,
        sql: &str,
        rows: &[[&dyn ToSql; N]],
    ) -> Result<()> {
        each(sql, rows, |sql, params| self.prepare_cached(sql)?.execute(params).map(drop))
    }

    /// Hands over what a query finds for these rows, which it has in `FROM (VALUES {rows}) v`, in no order.
    pub(in crate::ledger) fn query_rows<const N: usize>(
        &self,
        sql: &str,
        rows: &[[&dyn ToSql; N]],
        mut take: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        each(sql, rows, |sql, params| {
            let mut query = self.prepare_cached(sql)?;
            let mut found = query.query(params)?;
            while let Some(row) = found.next()? {
                take(&row)?;
            }
            Ok(())
        })
    }

    /// The same of a table that most ledgers have no rows in: where it has none, none is looked for.
    pub(in crate::ledger) fn query_rows_of<const N: usize>(
        &self,
        table: &str,
        sql: &str,
        rows: &[[&dyn ToSql; N]],
        take: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let has_rows =
            !rows.is_empty() && self.prepare_cached(&format!("SELECT 1 FROM {table} LIMIT 1"))?.exists([])?;
        if has_rows { self.query_rows(sql, rows, take) } else { Ok(()) }
    }
}

/// Hands over statements for all rows, with their parameters.
fn each<const N: usize>(
    sql: &str,
    rows: &[[&dyn ToSql; N]],
    mut take: impl FnMut(&str, &[&dyn ToSql]) -> Result<()>,
) -> Result<()> {
    let row = format!("({})", ["?"; N].join(", "));
    let mut left = rows;
    for size in SIZES {
        if left.len() < size {
            continue;
        }
        let text = sql.replace(ROWS, &vec![row.as_str(); size].join(", "));
        while let Some((some, rest)) = left.split_at_checked(size) {
            take(&text, some.as_flattened())?;
            left = rest;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_few_sizes() {
        let numbers: Vec<i64> = (0..173).collect();
        let rows: Vec<[&dyn ToSql; 2]> = numbers.iter().map(|n| [n as &dyn ToSql, n]).collect();
        let mut sizes = Vec::new();
        each("VALUES {rows}", &rows, |sql, params| {
            assert_eq!(sql.matches("(?, ?)").count() * 2, params.len());
            sizes.push(params.len() / 2);
            Ok(())
        })
        .unwrap();
        assert_eq!(sizes, [50, 50, 50, 20, 2, 1]);
    }
}
