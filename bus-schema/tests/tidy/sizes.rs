//! Sizes that the rules of CONTRIBUTING.md limit: a function fits on a screen, a file can be read at once.

use crate::sources::{code, rust};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;
/// Without `self`.
const MAX_ARGUMENTS: usize = 5;

/// A function as rustfmt writes it: it ends with a `}` that is indented like its first line.
struct Function<'a> {
    name: &'a str,
    indent: usize,
    lines: &'a [&'a str],
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn functions<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = Function<'a>> {
    lines.iter().enumerate().filter_map(|(at, line)| {
        let name = function_name(line)?;
        let indent = indent(line);
        let length = lines[at..]
            .iter()
            .position(|it| it.trim_end() == format!("{:indent$}}}", ""));
        // A declaration without a body ends before any other function's `}`.
        let ends_at_once = lines[at..]
            .iter()
            .take_while(|it| !it.contains('{'))
            .any(|it| it.ends_with(';'));
        let lines = &lines[at..=at + length?];
        (!ends_at_once).then_some(Function {
            name,
            indent,
            lines,
        })
    })
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let words = before.split_whitespace();
    let is_head = words.into_iter().all(|word| {
        word.starts_with("pub") || matches!(word, "async" | "const" | "unsafe" | "extern" | "\"C\"")
    });
    let name = after
        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .next()?;
    (is_head && !name.is_empty()).then_some(name)
}

impl Function<'_> {
    /// Whether the body is one `match`, whose arms are a table.
    fn is_one_match(&self) -> bool {
        let body = self
            .lines
            .iter()
            .skip_while(|line| !line.ends_with('{'))
            .skip(1);
        let own =
            body.filter(|line| indent(line) == self.indent + 4 && !line.trim().starts_with("//"));
        let own: Vec<&str> = own.map(|line| line.trim()).collect();
        matches!(own.as_slice(), [first, "}"] if first.starts_with("match "))
    }

    /// The parameters without `self`.
    fn arguments(&self) -> usize {
        let text: String = self.lines.iter().map(|line| code(line)).collect();
        // `->` closes no bracket.
        let text = text.replace("->", "");
        let after_name = text.split_once(self.name).map_or("", |(_, after)| after);
        let (mut depth, mut parameters, mut current) = (0_isize, Vec::new(), String::new());
        for c in after_name.chars() {
            match c {
                '(' | '[' | '<' | '{' => depth += 1,
                ')' | ']' | '>' | '}' => depth -= 1,
                _ => {}
            }
            match c {
                // Generic parameters came before.
                '(' if depth == 1 => current.clear(),
                ')' if depth == 0 => break,
                ',' if depth == 1 => parameters.push(std::mem::take(&mut current)),
                c => current.push(c),
            }
        }
        parameters.push(current);
        let is_argument = |it: &&String| {
            let name = it.split(':').next().unwrap_or_default().trim();
            !name.is_empty() && !name.ends_with("self")
        };
        parameters.iter().filter(is_argument).count()
    }
}

#[test]
fn files_are_short() {
    let files = rust().map(|(name, text)| (name, text.lines().count()));
    let long: Vec<String> = files
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    assert!(
        long.is_empty(),
        "split these at {MAX_FILE_LINES} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn functions_fit_on_a_screen() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for (file, text) in rust() {
        let lines: Vec<&str> = text.lines().collect();
        for function in functions(&lines) {
            seen += 1;
            let length = function.lines.len();
            if length > MAX_FUNCTION_LINES && !function.is_one_match() {
                wrong.push(format!("{file}: {} has {length} lines", function.name));
            }
            let arguments = function.arguments();
            if arguments > MAX_ARGUMENTS {
                wrong.push(format!(
                    "{file}: {} has {arguments} arguments",
                    function.name
                ));
            }
        }
    }
    assert!(seen > 4_000, "only {seen} functions were found");
    assert!(wrong.is_empty(), "split these:\n{}", wrong.join("\n"));
}

#[test]
fn rules_of_sizes_find_what_they_forbid() {
    let text = "    pub(crate) async fn asks<F: Fn(u8) -> u8>(&self, a: (u8, u8), b: BTreeMap<u8, u8>) -> u8 {\n        match a {\n            _ => 1,\n        }\n    }";
    let lines: Vec<&str> = text.lines().collect();
    let found: Vec<Function> = functions(&lines).collect();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name, found[0].lines.len()), ("asks", 5));
    assert!(found[0].is_one_match());
    assert_eq!(found[0].arguments(), 2);
    let two = [
        "fn f(a: u8) {",
        "    let x = match a {",
        "        _ => 1,",
        "    };",
        "    go(x);",
        "}",
    ];
    assert!(!functions(&two).next().expect("a function").is_one_match());
}
