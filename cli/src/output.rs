//! Results as a table for people or as JSON for programs.

use std::io::{self, Write};
use std::time::SystemTime;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table};
use loden_proto::text::escaped;
use serde::Serialize;

/// How results are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// One JSON value, with stable names
    Json,
}

/// Something that is shown. Its serialised form is the JSON that programs
/// rely on.
pub(crate) trait View: Serialize {
    /// Headings of the table.
    const COLUMNS: &'static [&'static str];

    /// Its lines in the table, times relative to `now`.
    fn rows(&self, now: SystemTime) -> Vec<Vec<String>>;
}

impl Output {
    /// Prints a list: one array, or one table.
    pub(crate) fn list<V: View>(self, views: &[V]) -> io::Result<()> {
        match self {
            Self::Table => print(&table(views, SystemTime::now())),
            Self::Json => print(&json(views)?),
        }
    }

    /// Prints one thing: one object, or a table of it.
    pub(crate) fn one<V: View>(self, view: &V) -> io::Result<()> {
        match self {
            Self::Table => print(&table(std::slice::from_ref(view), SystemTime::now())),
            Self::Json => print(&json(view)?),
        }
    }

    /// Says what was done to `name`: a sentence, or an object with that verb.
    pub(crate) fn done(self, verb: &str, name: &str) -> io::Result<()> {
        match self {
            Self::Table => print(&format!("{name} {verb}")),
            Self::Json => print(&serde_json::json!({ verb: name }).to_string()),
        }
    }
}

/// One line or more to standard output, at once.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", lines(text))?;
    out.flush()
}

/// Lines of which nothing steers the terminal, whoever has said it.
pub(crate) fn lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// A value for programs, over several lines.
pub(crate) fn json(value: &(impl Serialize + ?Sized)) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

/// A table without borders.
pub(crate) fn table<V: View>(views: &[V], now: SystemTime) -> String {
    grid(V::COLUMNS, views.iter().flat_map(|view| view.rows(now)))
}

/// Columns without borders, a heading above them.
pub(crate) fn grid(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(columns.to_vec())
        // A line break would make a row of its own.
        .add_rows(
            rows.into_iter().map(|row| row.iter().map(|cell| escaped(cell).into_owned()).collect::<Vec<_>>()),
        );
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Shown where there is nothing.
pub(crate) fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_no_borders() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "2".to_owned()]];
        assert_eq!(grid(&["NAME", "VNI"], rows), "NAME    VNI\na       1\nlonger  2");
    }

    #[test]
    fn an_empty_list_still_has_its_heading() {
        assert_eq!(grid(&["NAME", "VNI"], []), "NAME  VNI");
    }

    #[test]
    fn what_others_have_said_steers_no_terminal_and_makes_no_rows() {
        let row = vec!["a\nb".to_owned(), "\u{1b}[2J\u{9b}1m".to_owned()];
        let table = grid(&["NODE", "WHY"], [row]);
        assert_eq!(table, "NODE  WHY\na\\nb  \\u{1b}[2J\\u{9b}1m");
        assert_eq!(lines("Store: \u{1b}c\nNodes: 1"), "Store: \\u{1b}c\nNodes: 1");
    }
}
