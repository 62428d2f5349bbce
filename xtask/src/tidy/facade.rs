//! What a service author pays for `formic`: the number of crates in its default tree.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use crate::workspace::{Workspace, capture};

/// Packages, the facade itself and our own crates included.
const LIMIT: usize = 160;

/// Every package that `formic` with its default features needs to run, as `name version`.
pub(crate) fn packages(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let mut command =
        workspace.cargo(["tree", "--package", "formic", "--edges", "normal", "--prefix", "none", "--locked"]);
    Ok(unique(&capture(&mut command)?))
}

/// `cargo tree` repeats a package with ` (*)` behind it, and puts a path or `(proc-macro)` behind others.
fn unique(listing: &str) -> BTreeSet<String> {
    listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some(format!("{} {}", words.next()?, words.next()?))
        })
        .collect()
}

pub(crate) fn check(packages: &BTreeSet<String>) -> Option<Finding> {
    (packages.len() > LIMIT).then(|| {
        let what = format!("`formic` needs {} crates, where {LIMIT} is the limit", packages.len());
        Finding::new(
            "crates/formic/Cargo.toml",
            1,
            what,
            "put what is heavy behind a feature that is off by default",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_once() {
        let listing = "formic v0.1.0 (crates/formic)\nbytes v1.12.0\nserde_derive v1.0.229 (proc-macro)\nbytes v1.12.0 (*)\nbytes v0.5.0\n\n";
        assert_eq!(unique(listing).len(), 4);
    }

    #[test]
    fn the_limit_is_the_last_that_passes() {
        let tree =
            |size: usize| (0..size).map(|index| format!("crate-{index} v1.0.0")).collect::<BTreeSet<_>>();
        assert_eq!(check(&tree(LIMIT)), None);
        assert!(check(&tree(LIMIT + 1)).is_some());
    }
}
