//! The source tree's own rules: which crate may know which, what lies at the top, what every file
//! owes its reader. They read the tree and need nothing but a checkout.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cairn_hwtests::program;

/// Which crate of the workspace may depend on which, for any purpose. Nothing else may.
const ARROWS: &[(&str, &[&str])] = &[
    ("cairn-blockdev", &[]),
    ("cairn-raid", &["cairn-blockdev"]),
    ("cairn-replication", &["cairn-blockdev"]),
    ("cairn-api", &[]),
    (
        "cairnd",
        &[
            "cairn-blockdev",
            "cairn-raid",
            "cairn-replication",
            "cairn-api",
        ],
    ),
    ("cairn-tools", &["cairn-api"]),
    (
        "cairn-hwtests",
        &[
            "cairn-blockdev",
            "cairn-raid",
            "cairn-replication",
            "cairn-api",
            "cairnd",
            "cairn-tools",
        ],
    ),
];

/// What may lie at the top beside dotfiles; `target` is a build's and never committed.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "blockdev",
    "daemon",
    "hwtests",
    "raid",
    "replication",
    "target",
    "tools",
];

/// Longer files say at their top why.
const LINES_MAX: usize = 800;
/// Where "at their top" ends.
const HEAD_LINES: usize = 30;

/// Crates whose decisions run on a clock and a spawner that are handed in.
const SANS_IO: &[&str] = &["raid/src", "replication/src"];
/// What such a crate doesn't touch.
const NOT_SANS_IO: &[&str] = &[
    "tokio::time",
    "tokio::spawn",
    "tokio::task",
    "tokio::net",
    "tokio::fs",
    "Instant::now",
    "SystemTime::now",
    "thread::spawn",
    "thread::sleep",
];

fn toml(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap();
    text.parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// (name, manifest) of every crate in the workspace.
fn crates() -> Vec<(String, toml::Table)> {
    let tree = program::tree();
    let workspace = toml(&tree.join("Cargo.toml"));
    let members = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .clone();
    members
        .iter()
        .map(|member| {
            let manifest = toml(&tree.join(member.as_str().unwrap()).join("Cargo.toml"));
            (
                manifest["package"]["name"].as_str().unwrap().to_owned(),
                manifest,
            )
        })
        .collect()
}

/// Every dependency that a manifest names, for whatever purpose or target.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let mut tables: Vec<&toml::Table> = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut names = BTreeSet::new();
    for table in tables {
        for kind in KINDS {
            let Some(entries) = table.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, entry) in entries {
                let renamed = entry.get("package").and_then(toml::Value::as_str);
                names.insert(renamed.unwrap_or(name).to_owned());
            }
        }
    }
    names
}

/// Committed or about to be: every file below `dir` that isn't a build's.
fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files(&path, out);
        } else {
            out.push(path);
        }
    }
}

/// (path from the top, text) of all Rust sources.
fn sources() -> Vec<(String, String)> {
    let tree = program::tree();
    let mut all = Vec::new();
    files(&tree, &mut all);
    let rust = all
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"));
    let mut sources: Vec<_> = rust
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let shown = path.strip_prefix(&tree).unwrap().display().to_string();
            (shown, text)
        })
        .collect();
    sources.sort();
    assert!(sources.len() > 50, "the tree isn't where it was looked for");
    sources
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let crates = crates();
    let ours: BTreeSet<&str> = crates.iter().map(|(name, _)| name.as_str()).collect();
    let known: BTreeSet<&str> = allowed.keys().copied().collect();
    assert_eq!(ours, known, "a crate came or went: draw its arrows here");
    let mut wrong = Vec::new();
    for (name, manifest) in &crates {
        for dependency in dependencies(manifest) {
            let is_ours = ours.contains(dependency.as_str());
            if is_ours && !allowed[name.as_str()].contains(&dependency.as_str()) {
                wrong.push(format!("{name} → {dependency}"));
            }
        }
    }
    none("arrows that must not be", &wrong);
}

#[test]
fn every_dependency_is_the_workspaces_and_has_its_reason() {
    let text = std::fs::read_to_string(program::tree().join("Cargo.toml")).unwrap();
    let section = text.split("[workspace.dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let without_reason: Vec<String> = section
        .lines()
        .filter(|line| line.contains('=') && !line.trim_start().starts_with('#'))
        .filter(|line| !line.contains("path =") && !line.contains(" # "))
        .map(str::to_owned)
        .collect();
    none("dependencies without a reason beside them", &without_reason);
    let mut own = Vec::new();
    for (name, manifest) in crates() {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(entries) = manifest.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            let strays = entries
                .iter()
                .filter(|(_, entry)| entry.get("workspace").is_none());
            own.extend(strays.map(|(entry, _)| format!("{name}: {entry}")));
        }
    }
    none("dependencies with a version of their own", &own);
}

#[test]
fn every_crate_is_under_the_workspaces_lints() {
    let strays: Vec<String> = crates()
        .into_iter()
        .filter(|(_, manifest)| {
            let workspace = manifest
                .get("lints")
                .and_then(|lints| lints.get("workspace"));
            workspace.and_then(toml::Value::as_bool) != Some(true)
        })
        .map(|(name, _)| name)
        .collect();
    none("crates without the workspace's lints", &strays);
}

#[test]
fn nothing_lies_at_the_top_that_was_not_agreed() {
    let entries = std::fs::read_dir(program::tree()).unwrap().flatten();
    let strays: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| {
            !name.starts_with('.') && !name.starts_with("LICENSE") && !TOP.contains(&name.as_str())
        })
        .collect();
    none("at the top of the tree", &strays);
}

#[test]
fn a_long_file_says_why() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .filter(|(_, text)| {
            let mut head = text.lines().take(HEAD_LINES);
            !head.any(|line| line.starts_with("//!") && line.contains("long"))
        })
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    none(
        "files that should be two, or say at their top why they are long",
        &long,
    );
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.trim_start().starts_with("//!"))
        .map(|(path, _)| path)
        .filter(|path| !path.contains("/tests/") && !path.ends_with("/tests.rs"))
        .collect();
    none("modules without a head", &silent);
}

#[test]
fn nothing_is_left_to_do_ignored_or_silenced() {
    // Put together here, so that this file isn't found.
    let words = ["todo", "unimplemented"].map(|word| format!("{word}!("));
    let marks = [
        "#[ig".to_owned() + "nore",
        "FIX".to_owned() + "ME",
        "XX".to_owned() + "X:",
    ];
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().chain(&marks).any(|word| line.contains(word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("left to do or ignored", &found);
}

#[test]
fn the_cores_take_time_tasks_and_sockets_from_outside() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
        if is_test || !SANS_IO.iter().any(|dir| path.starts_with(dir)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            if NOT_SANS_IO.iter().any(|word| code.contains(word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("a clock, a task or a socket that wasn't handed in", &found);
}

/// Rust compiles an `async fn` wherever it is polled: with one at its surface, the whole engine would be
/// compiled once more in every program and every test that uses it.
#[test]
fn the_engine_is_compiled_once() {
    let open: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("raid/src/"))
        .flat_map(|(path, text)| {
            let is_open = |line: &&str| {
                let line = line.trim_start();
                line.starts_with("pub async fn")
                    || line.starts_with("pub fn") && line.contains("-> impl Future")
            };
            let lines: Vec<String> = text.lines().filter(is_open).map(str::to_owned).collect();
            lines
                .into_iter()
                .map(move |line| format!("{path}: {}", line.trim()))
        })
        .collect();
    none("public and async, not boxed", &open);
}

#[test]
fn nothing_needs_more_than_rust_and_a_c_compiler_to_build() {
    let lock = toml(&program::tree().join("Cargo.lock"));
    let packages = lock["package"].as_array().unwrap();
    let names: BTreeSet<&str> = packages
        .iter()
        .map(|p| p["name"].as_str().unwrap())
        .collect();
    let unwanted = [
        "bindgen",
        "clang-sys",
        "prost-build",
        "protobuf-src",
        "libudev-sys",
        "libublk",
    ];
    let found: Vec<String> = unwanted
        .into_iter()
        .filter(|name| names.contains(name))
        .map(str::to_owned)
        .collect();
    none("packages that want libclang, protoc or libudev", &found);
}
