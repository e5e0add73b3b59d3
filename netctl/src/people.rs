//! The text of a JSON document for people, for `inspect -o table` and `-o wide`: one line for each
//! value, and a table for each list of objects. Pure.
//!
//! `-o table` leaves out empty values and empty columns.

use serde_json::Value;

use crate::output::{Format, Table};

/// The parts of Contiv's documents whose names say nothing to people.
const UNNAMED_PARTS: [&str; 2] = ["Config", "Oper"];

/// Writes an object; a list is one table, any other value one line.
pub(crate) fn text(value: &Value, format: Format) -> String {
    let mut lines = Lines {
        with_empty: format == Format::Wide,
        fields: Vec::new(),
        lists: Vec::new(),
    };
    lines.add("", value);
    lines.text()
}

#[derive(Debug)]
struct Lines<'a> {
    with_empty: bool,
    fields: Vec<(String, String)>,
    lists: Vec<(String, &'a [Value])>,
}

impl<'a> Lines<'a> {
    /// Adds a value with the label `of`.
    fn add(&mut self, of: &str, value: &'a Value) {
        match value {
            Value::Object(keys) => {
                for (key, value) in keys {
                    match UNNAMED_PARTS.contains(&key.as_str()) {
                        true => self.add(of, value),
                        false => self.add(&joined(of, &label(key)), value),
                    }
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                self.lists.push((of.to_owned(), items));
            }
            _ => {
                let field = (of.to_owned(), cell(value));
                let is_wanted = self.with_empty || !field.1.is_empty();
                // Config and Oper have some values in common.
                if is_wanted && !self.fields.contains(&field) {
                    self.fields.push(field);
                }
            }
        }
    }

    fn text(&self) -> String {
        let width = self.fields.iter().map(|(label, _)| label.chars().count());
        let width = width.max().unwrap_or_default();
        let mut text = String::new();
        for (label, value) in &self.fields {
            text += format!("{label:width$}  {value}").trim_end();
            text.push('\n');
        }
        for (label, items) in &self.lists {
            if !text.is_empty() {
                text.push('\n');
            }
            if !label.is_empty() {
                text += &format!("{label}:\n");
            }
            text += &self.table(items).render(Format::Table);
        }
        text
    }

    fn table(&self, items: &[Value]) -> Table {
        let mut columns: Vec<&String> = Vec::new();
        for (key, value) in items.iter().filter_map(Value::as_object).flatten() {
            let is_wanted = self.with_empty || !cell(value).is_empty();
            if is_wanted && !columns.contains(&key) {
                columns.push(key);
            }
        }
        let mut table = Table::of(columns.iter().map(|key| label(key)).collect());
        for item in items {
            table.row(columns.iter().map(|key| cell(&item[*key])).collect());
        }
        table
    }
}

fn joined(of: &str, label: &str) -> String {
    match of.is_empty() {
        true => label.to_owned(),
        false => format!("{of}, {}", lower_first(label)),
    }
}

/// The words of a key: `numEndpoints` is "Num endpoints", `vtepIP` is "Vtep IP".
fn label(key: &str) -> String {
    let letters: Vec<char> = key.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (index, letter) in letters.iter().enumerate() {
        let is_lower = |at: Option<usize>| {
            let letter = at.and_then(|at| letters.get(at));
            letter.is_some_and(|it| it.is_lowercase() || it.is_numeric())
        };
        // The plural of an abbreviation, such as EPGs, is one word.
        let is_plural = letters.get(index + 1..) == Some(&['s']);
        let starts = letter.is_uppercase()
            && (is_lower(index.checked_sub(1)) || is_lower(index.checked_add(1)) && !is_plural);
        match words.last_mut() {
            Some(word) if !starts => word.push(*letter),
            _ => words.push(letter.to_string()),
        }
    }
    let words: Vec<String> = words.iter().map(|word| lower_first(word)).collect();
    let text = words.join(" ");
    let mut letters = text.chars();
    let first = letters.next().map(|it| it.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Abbreviations (`IP`) stay as they are.
fn lower_first(word: &str) -> String {
    let mut letters = word.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => word.to_owned(),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(keys) => {
            let texts = keys.iter().map(|(key, it)| format!("{key}={}", cell(it)));
            texts.collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_has_the_words_of_the_key() {
        for (key, expected) in [
            ("numEndpoints", "Num endpoints"),
            ("availableIPAddresses", "Available IP addresses"),
            ("vtepIP", "Vtep IP"),
            ("key", "Key"),
            ("ipv6Subnet", "Ipv6 subnet"),
            ("totalEPGs", "Total EPGs"),
        ] {
            assert_eq!(label(key), expected);
        }
    }

    #[test]
    fn table_leaves_out_empty_values_and_wide_has_all() {
        let value = json!({
            "Config": { "key": "default:web", "cfgdTag": "" },
            "Oper": {
                "key": "default:web",
                "closing": false,
                "status": { "applied": 7 },
                "endpoints": [
                    { "name": "web-1", "group": null },
                    { "name": "web\u{1b}[2J", "group": null },
                ],
            },
        });
        let table = text(&value, Format::Table);
        assert_eq!(
            table,
            "\
Key              default:web
Closing          no
Status, applied  7

Endpoints:
Name
----
web-1
web\u{fffd}[2J
"
        );
        let wide = text(&value, Format::Wide);
        assert!(wide.contains("Cfgd tag\n"), "{wide}");
        assert!(wide.contains("Group  Name"), "{wide}");
    }
}
