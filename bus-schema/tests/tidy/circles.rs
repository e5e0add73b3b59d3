//! Files of different folders don't depend on each other in a circle.
//!
//! Reads the paths that a file names (`crate::…`, `super::…`, `self::…` and its own modules), without
//! `#[cfg(test)]` items. A `pub use` is no dependency of its file: paths go through it to the target.
//! A file `x.rs` beside a folder `x` belongs to that folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::sources::{root, rust};

/// `a::b::c` as its segments.
type Segments = Vec<String>;

/// A module with its file, the modules declared in it, and what its `use`s name.
#[derive(Debug, Default)]
struct Module {
    file: PathBuf,
    children: BTreeSet<String>,
    uses: BTreeMap<String, Segments>,
}

/// The modules of one crate root, and the paths that each file names.
#[derive(Debug, Default)]
struct Crate {
    modules: BTreeMap<Segments, Module>,
    named: Vec<(Segments, Segments)>,
}

impl Crate {
    /// The file that a path of module `from` leads to; `None`: it leads out of the crate.
    fn target(&self, from: &Segments, path: &[String], depth: u8) -> Option<&Path> {
        let (mut at, mut rest) = (from.clone(), path);
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Segments::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {}
            child if self.modules[from].children.contains(child) => {}
            _ => return None,
        }
        while rest.first().is_some_and(|it| it == "super") {
            at.pop()?;
            rest = &rest[1..];
        }
        while let Some((next, after)) = rest.split_first() {
            let module = self.modules.get(&at)?;
            if module.children.contains(next) {
                at.push(next.clone());
                rest = after;
                continue;
            }
            match module.uses.get(next) {
                Some(used) if depth > 0 => {
                    let through = used.iter().chain(after).cloned().collect::<Segments>();
                    return self.target(&at, &through, depth - 1);
                }
                _ => break,
            }
        }
        Some(&self.modules.get(&at)?.file)
    }

    /// Which file depends on which.
    fn dependencies(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut all: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (from, path) in &self.named {
            let file = self.modules[from].file.as_path();
            let target = self.target(from, path, 8).filter(|it| *it != file);
            all.entry(file).or_default().extend(target);
        }
        all
    }

    fn read(&mut self, module: &Segments, file: &Path, folder: &Path) {
        let text = fs::read_to_string(file).unwrap_or_else(|_| panic!("read {}", file.display()));
        let tokens: TokenStream = text.parse().expect("tokens of Rust");
        self.enter(module, file, folder, tokens);
    }

    /// `folder`: where the files of the modules lie that are declared here.
    fn enter(&mut self, module: &Segments, file: &Path, folder: &Path, tokens: TokenStream) {
        let tokens = without_tests(tokens);
        let new = self.modules.entry(module.clone()).or_default();
        file.clone_into(&mut new.file);
        let mut declared = Vec::new();
        for window in tokens.windows(3) {
            if let [TokenTree::Ident(word), TokenTree::Ident(name), body] = window
                && *word == "mod"
            {
                new.children.insert(name.to_string());
                declared.push((name.to_string(), body.clone()));
            }
        }
        for (name, body) in declared {
            let inner = [module.as_slice(), std::slice::from_ref(&name)].concat();
            let below = folder.join(&name);
            match body {
                TokenTree::Group(body) => self.enter(&inner, file, &below, body.stream()),
                _ if below.join("mod.rs").exists() => {
                    self.read(&inner, &below.join("mod.rs"), &below);
                }
                _ => self.read(&inner, &folder.join(format!("{name}.rs")), &below),
            }
        }
        self.paths(module, &tokens);
    }

    /// Takes in the `use`s and the paths of a module's tokens.
    fn paths(&mut self, module: &Segments, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            let is_use = matches!(&tokens[at], TokenTree::Ident(word) if *word == "use");
            if is_use {
                let mut names = Vec::new();
                let end = tokens[at..].iter().position(|it| is(it, ';'));
                let end = at + end.unwrap_or(tokens.len() - at);
                tree(&tokens[at + 1..end], &[], &mut names);
                let before = at.checked_sub(1).map(|it| &tokens[it]);
                self.used(module, names, before.is_some_and(is_visibility));
                at = end;
                continue;
            }
            match &tokens[at] {
                TokenTree::Group(group) if !is_other_scope(&tokens[..at]) => {
                    self.paths(module, &without_tests(group.stream()));
                    at += 1;
                }
                TokenTree::Ident(_) => {
                    let (path, after) = path(tokens, at);
                    if path.len() > 1 {
                        self.named.push((module.clone(), path));
                    }
                    at = after;
                }
                _ => at += 1,
            }
        }
    }

    fn used(&mut self, module: &Segments, names: Vec<(String, Segments)>, public: bool) {
        for (name, path) in names {
            let is_glob = name == "*";
            if is_glob || !public {
                self.named.push((module.clone(), path.clone()));
            }
            // A name that is its own module's is no detour.
            if let Some(module) = self.modules.get_mut(module)
                && !is_glob
                && path.first() != Some(&name)
            {
                module.uses.insert(name, path);
            }
        }
    }
}

fn is(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(it) if it.as_char() == wanted)
}

/// `pub`, or the `(crate)` behind it.
fn is_visibility(token: &TokenTree) -> bool {
    match token {
        TokenTree::Ident(word) => *word == "pub",
        TokenTree::Group(group) => group.delimiter() == Delimiter::Parenthesis,
        _ => false,
    }
}

/// Whether the next group is the body of `mod x`, which is a module of its own, or the `(…)` of `pub`.
fn is_other_scope(before: &[TokenTree]) -> bool {
    match before {
        [.., TokenTree::Ident(word), TokenTree::Ident(_)] if *word == "mod" => true,
        [.., TokenTree::Ident(word)] => *word == "pub",
        _ => false,
    }
}

fn is_test(attribute: &TokenTree) -> bool {
    let text = attribute.to_string().replace(' ', "");
    text.starts_with("[cfg(") && text.contains("test") && !text.contains("not(test")
}

/// The tokens of one level, without the items that only tests have.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if !(is(&token, '#') && tokens.peek().is_some_and(is_test)) {
            kept.push(token);
            continue;
        }
        tokens.next();
        for skipped in tokens.by_ref() {
            let is_body =
                matches!(&skipped, TokenTree::Group(it) if it.delimiter() == Delimiter::Brace);
            if is_body || is(&skipped, ';') {
                break;
            }
        }
    }
    kept
}

/// Whether `::` stands at a place.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    tokens[at.min(tokens.len())..]
        .iter()
        .take(2)
        .filter(|it| is(it, ':'))
        .count()
        == 2
}

/// The path that begins with the word at `at`, and the place behind it.
fn path(tokens: &[TokenTree], mut at: usize) -> (Segments, usize) {
    let mut path = Segments::new();
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        path.push(word.to_string());
        at += 1;
        if !is_separator(tokens, at) {
            break;
        }
        at += 2;
    }
    (path, at)
}

/// The names that a `use` brings, each with its path.
fn tree(tokens: &[TokenTree], before: &[String], names: &mut Vec<(String, Segments)>) {
    for part in tokens.split(|it| is(it, ',')).filter(|it| !it.is_empty()) {
        let (own, at) = path(part, 0);
        let mut whole = [before, own.as_slice()].concat();
        match part.get(at) {
            Some(TokenTree::Group(group)) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                tree(&inner, &whole, names);
            }
            Some(star) if is(star, '*') => names.push(("*".to_owned(), whole)),
            _ => {
                let renamed = part
                    .last()
                    .filter(|_| part.len() > at)
                    .map(ToString::to_string);
                if whole.last().is_some_and(|it| it == "self") && whole.len() > 1 {
                    whole.pop();
                }
                let name = renamed.or_else(|| whole.last().cloned());
                names.extend(name.map(|name| (name, whole)));
            }
        }
    }
}

/// The folder that a file belongs to.
fn folder(file: &Path) -> PathBuf {
    let beside = file.with_extension("");
    let parent = file.parent().unwrap_or(Path::new("")).to_owned();
    if beside.is_dir() { beside } else { parent }
}

/// All that a file depends on, also by others.
fn reached<'a>(from: &'a Path, all: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        let direct = all.get(file).into_iter().flatten();
        next.extend(direct.filter(|it| reached.insert(**it)));
    }
    reached
}

/// The circles through files of different folders, each as its files.
fn circles(all: &BTreeMap<&Path, BTreeSet<&Path>>) -> BTreeSet<Vec<PathBuf>> {
    let reached: BTreeMap<&Path, BTreeSet<&Path>> =
        all.keys().map(|file| (*file, reached(file, all))).collect();
    let circle = |file: &Path| -> Vec<PathBuf> {
        let back = |it: &&Path| reached.get(it).is_some_and(|it| it.contains(file));
        let others = reached[file].iter().copied().filter(back);
        others.map(Path::to_owned).collect()
    };
    let circles = all.keys().map(|file| circle(file));
    let is_wide = |files: &Vec<PathBuf>| {
        files
            .iter()
            .map(|it| folder(it))
            .collect::<BTreeSet<_>>()
            .len()
            > 1
    };
    circles.filter(is_wide).collect()
}

/// The files at which the crates of the workspace begin.
fn crate_roots() -> impl Iterator<Item = PathBuf> {
    let is_root = |file: &String| file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
    let files = rust().map(|(file, _)| file);
    files.filter(is_root).map(|file| root().join(file))
}

#[test]
fn files_of_different_folders_depend_on_each_other_in_no_circle() {
    let root = root();
    let mut wrong = Vec::new();
    let mut files = 0;
    for root_file in crate_roots() {
        let mut all = Crate::default();
        let src = root_file.parent().expect("the folder `src`");
        all.read(&Segments::new(), &root_file, src);
        let dependencies = all.dependencies();
        files += dependencies.len();
        for circle in circles(&dependencies) {
            let shown = circle
                .iter()
                .map(|it| it.strip_prefix(&root).unwrap_or(it).display());
            wrong.push(shown.map(|it| it.to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    assert!(files > 200, "only {files} files were read");
    assert!(wrong.is_empty(), "circles:\n{wrong:#?}");
}
