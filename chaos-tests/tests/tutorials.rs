//! A user types the command blocks of README.md and of the tutorials in `docs/`, page after page in
//! one shell, after `make demo`.
//!
//! Blocks that begin with ```` ```sh ```` are typed, all others are only read. `# exit code N` at the
//! end of a command is its exit code (else 0), and `#> TEXT` below it is a part of its output.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lab::Lab;

/// In the order in which they are typed.
const TUTORIALS: [&str; 6] = [
    "README.md",
    "docs/policies.md",
    "docs/names.md",
    "docs/docker.md",
    "docs/operate.md",
    "docs/swarm.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))
}

/// Every page that a reader may open, README.md first.
fn pages() -> Result<Vec<String>> {
    let mut pages = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    .map(str::to_owned)
    .to_vec();
    for entry in fs::read_dir(root().join("docs"))? {
        pages.push(format!("docs/{}", entry?.file_name().to_string_lossy()));
    }
    Ok(pages)
}

/// A command of a page.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    command: String,
    exit_code: i32,
    /// Parts of its output.
    shown: Vec<String>,
}

fn typed(page: &str) -> Vec<Typed> {
    let blocks = page.split("\n```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| Some(rest.split_once("\n```")?.0));
    let mut all: Vec<Typed> = Vec::new();
    for line in blocks.flat_map(str::lines) {
        if let Some(text) = line.strip_prefix("#> ") {
            let last = all.last_mut();
            last.expect("a command above its output")
                .shown
                .push(text.to_owned());
        } else if !line.is_empty() {
            let promised = line
                .rsplit_once("# exit code ")
                .map(|(_, code)| code.parse());
            all.push(Typed {
                command: line.to_owned(),
                exit_code: promised.map_or(0, |code| code.expect("an exit code")),
                shown: Vec::new(),
            });
        }
    }
    all
}

/// A cluster of `lab demo`, which ends with this value.
struct Demo(String);

impl Drop for Demo {
    fn drop(&mut self) {
        // A failure to remove it shows in the next `lab list`, and must not hide the test's own.
        let _ = Lab::remove(&self.0);
    }
}

impl Demo {
    /// The pages say `make demo`, whose cluster a person may have up on this machine.
    fn renamed(&self, command: &str) -> String {
        match command {
            "make demo" => format!("lab --lab {} demo", self.0),
            other => other.replace("--lab demo", &format!("--lab {}", self.0)),
        }
    }

    /// The output of a shell for all of it: each command's part, with its exit code.
    fn run(&self, commands: &[Typed]) -> Result<Vec<(String, i32)>> {
        const END: &str = "\u{1}";
        let folder = tempfile::tempdir()?;
        let lines = commands.iter().map(|it| self.renamed(&it.command));
        let lines = lines.map(|line| format!("{line}\nprintf '{END}%d{END}' $?\n"));
        let script = folder.path().join("typed.sh");
        fs::write(&script, format!("exec 2>&1\n{}", lines.collect::<String>()))?;
        let programs = std::env::current_exe()?;
        let programs = programs.ancestors().nth(2).context("target/<profile>")?;
        let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
        let output = Command::new("bash")
            .arg(&script)
            .current_dir(root())
            .env("PATH", path)
            .env("HOME", folder.path())
            .env_remove("XDG_STATE_HOME")
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let parts: Vec<&str> = text.split(END).collect();
        let parts = parts.chunks_exact(2);
        parts
            .map(|it| Ok((it[0].to_owned(), it[1].parse()?)))
            .collect()
    }
}

#[test]
fn tutorials_do_what_they_say() -> Result<()> {
    let mut commands = Vec::new();
    for path in TUTORIALS {
        commands.extend(typed(&page(path)?));
    }
    let demo = Demo(format!("u{}", std::process::id()));
    let results = demo.run(&commands)?;
    ensure!(
        results.len() == commands.len(),
        "the shell ended: {results:#?}"
    );
    for (typed, (output, code)) in commands.iter().zip(results) {
        let command = &typed.command;
        ensure!(
            code == typed.exit_code,
            "`{command}` exits with {code}: {output}"
        );
        for text in &typed.shown {
            ensure!(
                output.contains(text),
                "`{command}` doesn't show `{text}`: {output}"
            );
        }
    }
    Ok(())
}

#[test]
fn tutorials_are_all_pages_with_typed_blocks() -> Result<()> {
    let mut found = BTreeSet::new();
    for path in pages()? {
        if !typed(&page(&path)?).is_empty() {
            found.insert(path);
        }
    }
    assert_eq!(found, TUTORIALS.map(str::to_owned).into());
    Ok(())
}

#[test]
fn links_of_pages_lead_somewhere() -> Result<()> {
    for path in pages()? {
        let text = page(&path)?;
        let here = Path::new(&path).parent().unwrap_or(Path::new(""));
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let to = if file.is_empty() {
                path.clone().into()
            } else {
                here.join(file)
            };
            let to = root().join(to);
            ensure!(to.exists(), "{path} links to {link}");
            ensure!(
                heading.is_empty() || anchors(&fs::read_to_string(to)?).contains(heading),
                "{path} links to {link}, and no heading there has that name"
            );
        }
    }
    Ok(())
}

/// Pages quote many files; a renamed one must be renamed there, too.
#[test]
fn files_that_pages_name_exist() -> Result<()> {
    let in_a_path = |it: char| it.is_ascii_alphanumeric() || "/_.-".contains(it);
    let mut missing = Vec::new();
    for path in pages()? {
        let text = page(&path)?;
        for word in text.split('`').skip(1).step_by(2) {
            let (folder, rest) = word.split_once('/').unwrap_or((word, ""));
            let is_path = !folder.is_empty() && !rest.is_empty() && word.chars().all(in_a_path);
            if is_path
                && root().join(folder).join("Cargo.toml").exists()
                && !root().join(word).exists()
            {
                missing.push(format!("{path}: {word}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    Ok(())
}

/// The names that GitHub gives the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|it| it.is_alphanumeric() || " -_".contains(*it));
        kept.collect::<String>().replace(' ', "-")
    };
    headings.map(name).collect()
}
