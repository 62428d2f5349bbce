//! Manifests: lints and versions are said once, in the root.

use super::Finding;
use super::tree::Source;
use crate::workspace::Metadata;

const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(crate) fn check(sources: &[Source], metadata: &Metadata) -> Vec<Finding> {
    let members = metadata.members();
    let mut findings = Vec::new();
    for package in members.values() {
        match sources.iter().find(|source| source.path == package.manifest_path) {
            Some(manifest) => findings.extend(check_one(manifest)),
            None => findings.push(Finding::new(
                &package.manifest_path,
                1,
                "a member of the workspace that is not in the repository",
                "add it to git, or take it out of `members`",
            )),
        }
    }
    findings
}

fn check_one(manifest: &Source) -> Vec<Finding> {
    let table: toml::Table = match manifest.text.parse() {
        Ok(table) => table,
        Err(error) => {
            let what = format!("not a manifest: {}", error.to_string().trim().replace('\n', " "));
            return vec![Finding::new(&manifest.path, 1, what, "mend it")];
        }
    };
    let mut findings = Vec::new();
    let from_workspace = |value: Option<&toml::Value>| {
        value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
    };
    if !from_workspace(table.get("lints")) {
        let line = manifest.line_of("[lints");
        findings.push(Finding::new(
            &manifest.path,
            line,
            "the lints of the workspace are not used",
            "add `[lints] workspace = true`",
        ));
    }
    let platforms = table.get("target").and_then(toml::Value::as_table).into_iter().flatten();
    let places = platforms.filter_map(|(_, place)| place.as_table()).chain([&table]);
    let own_name = table.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    for (name, value) in places.flat_map(dependencies) {
        // A crate that names itself, to test with a feature on, has the version it has.
        if !from_workspace(Some(value)) && own_name != Some(name) {
            let what = format!("the version of `{name}` is not the one of the workspace");
            let line = manifest.line_of(name);
            findings.push(Finding::new(
                &manifest.path,
                line,
                what,
                "list it in [workspace.dependencies] and write `workspace = true`",
            ));
        }
    }
    findings
}

fn dependencies(place: &toml::Table) -> impl Iterator<Item = (&String, &toml::Value)> {
    TABLES.into_iter().filter_map(|name| place.get(name)).filter_map(toml::Value::as_table).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    fn faults(text: &str) -> Vec<usize> {
        check_one(&Source::new("a/Cargo.toml", text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn lints_come_from_the_workspace() {
        assert!(faults("[package]\nname = \"a\"\n[lints]\nworkspace = true\n").is_empty());
        assert_eq!(faults("[package]\nname = \"a\"\n"), [1]);
        assert_eq!(faults("[package]\n[lints.rust]\nunsafe_code = \"allow\"\n"), [2]);
    }

    #[test]
    fn versions_come_from_the_workspace() {
        let text = "[dependencies]\nserde.workspace = true\ntokio = { workspace = true, features = [\"rt\"] }\nlibc = \"0.2\"\n[lints]\nworkspace = true\n";
        assert_eq!(faults(text), [4]);
        let text =
            "[lints]\nworkspace = true\n[target.'cfg(unix)'.dev-dependencies]\nnix = { version = \"1\" }\n";
        assert_eq!(faults(text), [4]);
    }

    #[test]
    fn a_crate_may_name_itself() {
        let text =
            "[package]\nname = \"a\"\n[dev-dependencies]\na = { path = \".\" }\n[lints]\nworkspace = true\n";
        assert!(faults(text).is_empty());
    }

    #[test]
    fn nonsense_is_a_finding() {
        assert_eq!(faults("not a manifest").len(), 1);
    }

    #[test]
    fn a_member_that_git_does_not_know_is_a_finding() {
        let package =
            Package { id: "a".to_owned(), manifest_path: "a/Cargo.toml".to_owned(), ..Package::default() };
        let metadata = Metadata { workspace_members: ["a".to_owned()].into(), packages: vec![package] };
        assert_eq!(check(&[], &metadata).len(), 1);
    }
}
