//! Output: tables for people, JSON and YAML for scripts, notes on stderr.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::failure::Failure;
use crate::people;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Table,
    /// A table with more columns
    Wide,
    Json,
    Yaml,
}

impl Format {
    /// Text for people.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// Whether anything was written to stdout.
static HAS_PRINTED: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_printed() -> bool {
    HAS_PRINTED.load(Ordering::Relaxed)
}

/// Writes a text to stdout. It ends with a newline or is empty.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    HAS_PRINTED.store(true, Ordering::Relaxed);
    let mut out = std::io::stdout().lock();
    out.write_all(printable_lines(text).as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Local(format!("can't write the output: {error}")),
        })
}

/// Writes a line to stderr. A closed stderr is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(text));
}

pub(crate) fn document(value: &Value, format: Format) -> Result<String, Failure> {
    let unprintable = |reason: String| Failure::Local(format!("can't print the answer: {reason}"));
    match format {
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(|e| unprintable(e.to_string())),
        Format::Table | Format::Wide => Ok(people::text(value, format)),
        Format::Json => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|e| unprintable(e.to_string())),
    }
}

/// A table with a heading. Columns after the first `narrow` ones appear in wide tables only.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<String>,
    narrow: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(narrow: &[&'static str], wide: &[&'static str]) -> Self {
        Self {
            heading: narrow.iter().chain(wide).map(ToString::to_string).collect(),
            narrow: narrow.len(),
            rows: Vec::new(),
        }
    }

    /// A table of which all columns appear.
    pub(crate) fn of(heading: Vec<String>) -> Self {
        Self {
            narrow: heading.len(),
            heading,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self, format: Format) -> String {
        let columns = match format {
            Format::Wide => self.heading.len(),
            Format::Table | Format::Json | Format::Yaml => self.narrow,
        };
        let rule: Vec<String> = self
            .heading
            .iter()
            .map(|h| "-".repeat(h.chars().count()))
            .collect();
        let lines: Vec<&Vec<String>> = [&self.heading, &rule]
            .into_iter()
            .chain(&self.rows)
            .collect();
        let widths: Vec<usize> = (0..columns)
            .map(|c| lines.iter().map(|l| cell(l, c).chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for line in lines {
            let mut row = String::new();
            for (column, width) in widths.iter().enumerate() {
                row += &format!("{:width$}  ", cell(line, column));
            }
            text += row.trim_end();
            text.push('\n');
        }
        text
    }
}

fn cell(line: &[String], column: usize) -> String {
    line.get(column)
        .map(|text| printable(text))
        .unwrap_or_default()
}

/// As [`printable`], but keeps the ends of lines.
pub(crate) fn printable_lines(text: &str) -> String {
    let shown = |c: char| if c == '\n' { c } else { shown(c) };
    text.chars().map(shown).collect()
}

/// Replaces control characters: foreign text, such as a container's name, must not move the cursor or
/// break the line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(shown).collect()
}

fn shown(c: char) -> char {
    if c.is_control() { '\u{fffd}' } else { c }
}

/// Adds the keys of the object `more`.
pub(crate) fn extend(value: &mut Value, more: &Value) {
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
}

/// The JSON of an object in `ls -o json`: the keys of its Config, as in Contiv, and its Oper as one
/// more key.
pub(crate) fn flattened(inspected: &Value) -> Value {
    let mut flat = inspected["Config"].clone();
    flat["Oper"] = inspected["Oper"].clone();
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_hide_wide_columns() {
        let mut table = Table::new(&["Tenant", "Network"], &["Blocks"]);
        table.row(vec!["default".into(), "contiv-net".into(), "3".into()]);
        table.row(vec!["b".into(), String::new(), "0".into()]);
        assert_eq!(
            table.render(Format::Table),
            "Tenant   Network\n------   -------\ndefault  contiv-net\nb\n"
        );
        assert_eq!(
            table.render(Format::Wide),
            "Tenant   Network     Blocks\n------   -------     ------\ndefault  contiv-net  3\nb                    0\n"
        );
    }

    #[test]
    fn foreign_text_stays_in_its_cell() {
        let mut table = Table::new(&["Name"], &[]);
        table.row(vec!["a\nb\u{1b}[2J".into()]);
        assert_eq!(table.render(Format::Table).lines().count(), 3);
    }
}
