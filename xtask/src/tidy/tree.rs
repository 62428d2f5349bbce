//! The text files of the repository, read once for all checks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::Finding;
use crate::workspace::capture;

/// A text file: its path from the root with `/` between its parts, and what it holds.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Written by a program: `src/gen/` or `*.gen.rs`.
    pub(crate) fn is_generated(&self) -> bool {
        self.path.contains("/src/gen/") || self.path.ends_with(".gen.rs")
    }

    /// Test code by its place: a `tests` folder or file, or a crate under `testing/`.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("testing/") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// The line on which `needle` first begins a line, for a finding that knows what but not where.
    pub(crate) fn line_of(&self, needle: &str) -> usize {
        self.text.lines().position(|line| line.starts_with(needle)).map_or(1, |index| index + 1)
    }
}

/// The line of a dependency in the manifest at `path`, or 1.
pub(crate) fn dependency_line(sources: &[Source], path: &str, dependency: &str) -> usize {
    let manifest = sources.iter().find(|source| source.path == path);
    manifest.map_or(1, |manifest| match manifest.line_of(&format!("{dependency}.")) {
        1 => manifest.line_of(&format!("{dependency} ")),
        line => line,
    })
}

/// What is in the repository, or would be after `git add`.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) sources: Vec<Source>,
    /// A checkout knows what is committed; an unpacked archive does not.
    is_checkout: bool,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let is_checkout = root.join(".git").exists();
        let paths = if is_checkout { listed_by_git(root)? } else { walked(root)? };
        let mut sources = Vec::new();
        for path in paths {
            let full = root.join(&path);
            // Listed and deleted, a link, or not text: nothing to read here.
            if !full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            let bytes = std::fs::read(&full).with_context(|| format!("read {}", full.display()))?;
            if let Ok(text) = String::from_utf8(bytes) {
                sources.push(Source { path, text });
            }
        }
        Ok(Self { sources, is_checkout })
    }

    /// A build that is to be the same everywhere needs its lock file in the repository.
    pub(crate) fn lock_file(&self, root: &Path) -> Result<Option<Finding>> {
        let remedy = "commit it, so that every build takes the same versions";
        if !root.join("Cargo.lock").exists() {
            return Ok(Some(Finding::new("Cargo.lock", 1, "the lock file is missing", remedy)));
        }
        if !self.is_checkout {
            return Ok(None);
        }
        let tracked = capture(Command::new("git").args(["ls-files", "--", "Cargo.lock"]).current_dir(root))?;
        let absent = tracked.trim().is_empty();
        Ok(absent.then(|| Finding::new("Cargo.lock", 1, "the lock file is not in the repository", remedy)))
    }
}

/// Committed files, and new ones that git does not ignore.
fn listed_by_git(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listing = capture(git.current_dir(root).stdin(Stdio::null()))?;
    let mut paths: Vec<String> =
        listing.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Without git: everything but hidden folders and the usual output folders.
fn walked(root: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = root.join(&folder);
        for entry in std::fs::read_dir(&full).with_context(|| format!("list {}", full.display()))? {
            let entry = entry.with_context(|| format!("list {}", full.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let relative = folder.join(&name);
            let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
            if kind.is_file() {
                paths.push(relative.to_string_lossy().replace('\\', "/"));
            } else if kind.is_dir() && is_source_folder(&name) {
                folders.push(relative);
            }
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_source_folder(name: &str) -> bool {
    let output = ["target", "node_modules", "__pycache__"];
    matches!(name, ".ci" | ".cargo") || !(name.starts_with('.') || output.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_and_test_files_are_known_by_their_place() {
        assert!(Source::new("crates/formic-api/src/gen/a.rs", "").is_generated());
        assert!(Source::new("crates/a/src/table.gen.rs", "").is_generated());
        assert!(!Source::new("crates/a/src/generate.rs", "").is_generated());
        assert!(Source::new("crates/a/src/foo/tests.rs", "").is_test());
        assert!(Source::new("testing/e2e/src/lib.rs", "").is_test());
        assert!(!Source::new("crates/a/src/testing.rs", "").is_test());
    }

    #[test]
    fn a_dependency_is_found_in_its_manifest() {
        let manifest = "[package]\nname = \"a\"\n\n[dependencies]\nformic-core.workspace = true\nlibc = { workspace = true }\n";
        let sources = [Source::new("a/Cargo.toml", manifest)];
        assert_eq!(dependency_line(&sources, "a/Cargo.toml", "formic-core"), 5);
        assert_eq!(dependency_line(&sources, "a/Cargo.toml", "libc"), 6);
        assert_eq!(dependency_line(&sources, "a/Cargo.toml", "nix"), 1);
        assert_eq!(dependency_line(&sources, "b/Cargo.toml", "nix"), 1);
    }

    #[test]
    fn output_folders_are_not_sources() {
        assert!(is_source_folder("crates") && is_source_folder(".ci"));
        assert!(!is_source_folder("target") && !is_source_folder(".git") && !is_source_folder(".formic"));
    }
}
