//! Folders with a lock file of their own (the fuzzer, the peers of the bench) take crates of ours in, and their lock files
//! name what those need. One that was forgotten fails where such a folder is built, which is last of all and on
//! some machines never.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::tree::Source;
use crate::workspace::{Metadata, Package};

pub(crate) fn check(sources: &[Source], metadata: &Metadata) -> Vec<Finding> {
    let members = metadata.members();
    let apart = sources.iter().filter(|source| source.path.ends_with("/Cargo.lock"));
    apart.flat_map(|source| findings(source, &members)).collect()
}

fn findings(source: &Source, members: &BTreeMap<&str, &Package>) -> Vec<Finding> {
    let folder = source.path.trim_end_matches("/Cargo.lock");
    let remedy = format!(
        "run `cargo metadata --manifest-path {folder}/Cargo.toml >/dev/null` and commit what changes"
    );
    let table: toml::Table = match source.text.parse() {
        Ok(table) => table,
        Err(error) => {
            return vec![Finding::new(&source.path, 1, format!("not TOML: {}", error.message()), remedy)];
        }
    };
    let packages = table.get("package").and_then(toml::Value::as_array);
    let ours = packages.into_iter().flatten().filter(|package| package.get("source").is_none());
    let mut findings = Vec::new();
    for package in ours {
        let name = package.get("name").and_then(toml::Value::as_str).unwrap_or_default();
        let Some(member) = members.get(name) else { continue };
        let locked: BTreeSet<&str> = locked(package);
        let of_builds = member.dependencies.iter().filter(|dependency| !dependency.is_dev());
        let all: BTreeSet<&str> = of_builds.clone().map(|dependency| dependency.name.as_str()).collect();
        let needed = of_builds.filter(|dependency| !dependency.optional);
        let missing = needed.map(|dependency| dependency.name.as_str()).filter(|name| !locked.contains(name));
        let mut tell = |what| {
            let line = source.line_of(&format!("name = \"{name}\""));
            findings.push(Finding::new(&source.path, line, what, &remedy));
        };
        missing.for_each(|needs| tell(format!("`{name}` needs `{needs}`, which is not locked")));
        locked.difference(&all).for_each(|needs| tell(format!("`{name}` does not need `{needs}` any more")));
    }
    findings
}

/// The names of what a package depends on: an entry may go on with a version.
fn locked(package: &toml::Value) -> BTreeSet<&str> {
    let entries = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
    entries.filter_map(|entry| entry.as_str()?.split(' ').next()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_crate_of_ours_needs_is_locked_and_nothing_else() {
        let json = r#"{"packages":[{"id":"a 1","name":"a","version":"0.1.0","license":null,"manifest_path":"crates/a/Cargo.toml",
            "dependencies":[{"name":"new","kind":null},{"name":"kept","kind":"build"},{"name":"test","kind":"dev"},
                            {"name":"extra","kind":null,"optional":true}]}],
            "workspace_members":["a 1"],"version":1}"#;
        let metadata: Metadata = serde_json::from_str(json).unwrap();
        let found = |dependencies: &str| -> Vec<String> {
            let text = format!(
                "[[package]]\nname = \"a\"\ndependencies = [{dependencies}]\n\n[[package]]\nname = \"b\"\nsource = \"registry\"\n"
            );
            let sources = [Source::new("fuzz/Cargo.lock", &text), Source::new("Cargo.lock", "not ours")];
            check(&sources, &metadata)
                .iter()
                .map(|finding| format!("{}: {}", finding.line, finding.what))
                .collect()
        };
        assert_eq!(found(r#""kept", "new 1.0.0""#), [""; 0]);
        assert_eq!(found(r#""extra", "kept", "new""#), [""; 0]);
        assert_eq!(found(r#""kept""#), ["2: `a` needs `new`, which is not locked"]);
        assert_eq!(found(r#""kept", "new", "old""#), ["2: `a` does not need `old` any more"]);
    }
}
