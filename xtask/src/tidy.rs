//! `cargo xtask tidy`: the rules of the house that can be checked by reading.
//!
//! Each check is a function from what it reads (sources, manifests, `cargo metadata`) to its findings, and is unit-tested on
//! strings. What the compiler or clippy can check is theirs.

use std::fmt;

use anyhow::Result;

use crate::workspace::Workspace;

mod bans;
mod calls;
mod code;
mod deny;
mod facade;
mod floors;
mod licences;
mod locks;
mod manifests;
mod platform;
mod sizes;
mod tree;
mod vendors;
mod words;

use tree::Tree;

/// One fault: where, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.what, self.remedy)
    }
}

/// Runs every check and prints what it found; `Ok(true)` when that is nothing.
pub(crate) fn run(workspace: &Workspace) -> Result<bool> {
    let tree = Tree::read(&workspace.root)?;
    let metadata = workspace.metadata()?;
    let mut findings = Vec::new();
    findings.extend(words::check(&tree.sources));
    findings.extend(sizes::check(&tree.sources));
    findings.extend(calls::check(&tree.sources));
    findings.extend(platform::check(&tree.sources));
    findings.extend(manifests::check(&tree.sources, &metadata));
    findings.extend(floors::check(&tree.sources, &metadata));
    findings.extend(vendors::check(&tree.sources, &metadata));
    findings.extend(licences::check(&metadata));
    findings.extend(bans::check(&metadata));
    findings.extend(deny::check(&tree.sources));
    findings.extend(locks::check(&tree.sources, &metadata));
    findings.extend(tree.lock_file(&workspace.root)?);
    findings.extend(facade::check(&facade::packages(workspace)?));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => println!(
            "tidy: {} files and {} packages are in order",
            tree.sources.len(),
            metadata.packages.len()
        ),
        1 => println!("tidy: 1 finding"),
        many => println!("tidy: {many} findings"),
    }
    Ok(findings.is_empty())
}
