//! The floors of the house: arrows between our crates only look down.
//!
//! `ARCHITECTURE.md` says what each floor knows. A crate that is not in the table fails, so that whoever adds one decides
//! where it stands. An arrow within a floor is allowed only where the table says so.

use std::collections::BTreeMap;

use super::Finding;
use super::tree::{Source, dependency_line};
use crate::workspace::{Dependency, Metadata, Package};

const HERE: &str = "xtask/src/tidy/floors.rs";

/// Where a crate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On a numbered floor; it may also look at the named crates beside it.
    Floor(u8, &'static [&'static str]),
    /// One backend for a plug point: it sees floors 0 and 1.
    Plugin,
    /// A program of ours that may see every floor and every plugin.
    Binary,
    /// What a user of Formic writes: it sees the facade.
    Example,
    /// Test code: it sees everything.
    Testing,
    /// The gate: it sees the code generator.
    Gate,
}

const CRATES: &[(&str, Place)] = &[
    // 0: words and calls
    ("formic-core", Place::Floor(0, &[])),
    ("formic-handed", Place::Floor(0, &[])),
    ("formic-macros", Place::Floor(0, &[])),
    ("formic-rpc", Place::Floor(0, &["formic-core"])),
    // 1: plug points
    ("formic-registry", Place::Floor(1, &[])),
    ("formic-settings", Place::Floor(1, &[])),
    // 2: engines
    ("formic-balance", Place::Floor(2, &[])),
    ("formic-telemetry", Place::Floor(2, &[])),
    ("formic-mux", Place::Floor(2, &[])),
    ("formic-client", Place::Floor(2, &["formic-balance", "formic-mux", "formic-telemetry"])),
    ("formic-server", Place::Floor(2, &["formic-mux", "formic-telemetry"])),
    ("formic-spec", Place::Floor(2, &["formic-balance"])),
    ("formic-plan", Place::Floor(2, &["formic-spec"])),
    ("formic-state", Place::Floor(2, &["formic-plan", "formic-spec"])),
    ("formic-supervise", Place::Floor(2, &[])),
    (
        "formic-reconcile",
        Place::Floor(2, &["formic-client", "formic-plan", "formic-spec", "formic-state", "formic-supervise"]),
    ),
    // 3: contracts
    ("formic-api", Place::Floor(3, &[])),
    ("formic-build", Place::Floor(3, &[])),
    // 4: faces
    ("formic", Place::Floor(4, &[])),
    ("formic-gateway", Place::Floor(4, &[])),
];

/// Places by folder, for crates that come and go without changing the house.
const FOLDERS: &[(&str, Place)] = &[
    ("plugins/", Place::Plugin),
    ("bins/", Place::Binary),
    ("bench/", Place::Binary),
    ("examples/", Place::Example),
    ("testing/", Place::Testing),
    ("xtask/", Place::Gate),
];

/// Beside the plug points, a plugin can be switched on by the crates of this floor and above.
const FACES: u8 = 4;

pub(crate) fn check(sources: &[Source], metadata: &Metadata) -> Vec<Finding> {
    let members = metadata.members();
    let mut places = BTreeMap::new();
    let mut findings = Vec::new();
    for (&name, package) in &members {
        match place(package) {
            Some(place) => {
                places.insert(name, place);
            }
            None => {
                let what = format!("`{name}` stands on no floor");
                findings.push(Finding::new(
                    &package.manifest_path,
                    1,
                    what,
                    format!("give it a place in the table in {HERE}"),
                ));
            }
        }
    }
    for (&name, package) in &members {
        let Some(&from) = places.get(name) else { continue };
        for dependency in &package.dependencies {
            let Some(&to) = places.get(dependency.name.as_str()) else { continue };
            if let Err(reason) = arrow(from, to, dependency) {
                let line = dependency_line(sources, &package.manifest_path, &dependency.name);
                let what = format!("`{name}` depends on `{}`: {reason}", dependency.name);
                let remedy = format!(
                    "move the code to the lower of the two; if the house itself changes, change {HERE} and ARCHITECTURE.md"
                );
                findings.push(Finding::new(&package.manifest_path, line, what, remedy));
            }
        }
    }
    for (name, _) in CRATES {
        if !members.contains_key(name) {
            findings.push(Finding::new(
                HERE,
                1,
                format!("the table has `{name}`, and the workspace has not"),
                "take it out of the table",
            ));
        }
    }
    findings
}

fn place(package: &Package) -> Option<Place> {
    let by_name = CRATES.iter().find(|(name, _)| *name == package.name);
    let by_folder = || FOLDERS.iter().find(|(folder, _)| package.manifest_path.starts_with(folder));
    by_name.or_else(by_folder).map(|(_, place)| *place)
}

/// Whether a crate at `from` may depend on one at `to`; the error says why not.
fn arrow(from: Place, to: Place, dependency: &Dependency) -> Result<(), &'static str> {
    // Tests look where they like: cargo builds them after everything that the crate is part of.
    if dependency.is_dev() {
        return Ok(());
    }
    match (from, to) {
        (Place::Testing, _) => Ok(()),
        (_, Place::Testing) => Err("test code is a dev-dependency only"),
        (Place::Binary | Place::Gate | Place::Plugin, Place::Example) => Err("nothing depends on an example"),
        (_, Place::Gate) => Err("nothing depends on the gate"),
        (_, Place::Binary) => Err("nothing depends on a program"),
        (Place::Binary, _) => Ok(()),
        (Place::Example, Place::Example) => Ok(()),
        (Place::Example, Place::Floor(..)) => match dependency.name.as_str() {
            "formic" => Ok(()),
            "formic-build" if dependency.is_build() => Ok(()),
            _ => Err("an example sees only `formic`, and `formic-build` in its build script"),
        },
        (Place::Gate, Place::Floor(..)) if dependency.name == "formic-build" => Ok(()),
        (Place::Gate, _) => Err("the gate sees only `formic-build`"),
        (Place::Plugin, Place::Floor(0 | 1, _)) => Ok(()),
        (Place::Plugin, _) => Err("a plugin sees floors 0 and 1"),
        (Place::Floor(floor, _), Place::Plugin) if floor >= FACES => Ok(()),
        (_, Place::Plugin) => Err("a plugin is switched on by a face or a program"),
        (Place::Floor(above, _), Place::Floor(below, _)) if below < above => Ok(()),
        (Place::Floor(one, beside), Place::Floor(other, _))
            if one == other && beside.contains(&dependency.name.as_str()) =>
        {
            Ok(())
        }
        (Place::Floor(one, _), Place::Floor(other, _)) if one == other => Err("they stand on the same floor"),
        (Place::Floor(..), Place::Floor(..)) => Err("that floor is above"),
        (Place::Floor(..), Place::Example) => Err("nothing depends on an example"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Option<&str> = None;
    const DEV: Option<&str> = Some("dev");
    const BUILD: Option<&str> = Some("build");

    fn may(from: Place, to: Place, name: &str, kind: Option<&str>) -> bool {
        let dependency = Dependency { name: name.to_owned(), kind: kind.map(str::to_owned), optional: false };
        arrow(from, to, &dependency).is_ok()
    }

    #[test]
    fn arrows_look_down() {
        let (low, high) = (Place::Floor(0, &[]), Place::Floor(2, &[]));
        assert!(may(high, low, "formic-core", NORMAL));
        assert!(!may(low, high, "formic-client", NORMAL));
        assert!(!may(low, high, "formic-client", BUILD));
        assert!(may(low, high, "formic-client", DEV));
    }

    #[test]
    fn an_arrow_within_a_floor_is_named() {
        let from = Place::Floor(2, &["formic-spec"]);
        assert!(may(from, Place::Floor(2, &[]), "formic-spec", NORMAL));
        assert!(!may(from, Place::Floor(2, &[]), "formic-server", NORMAL));
    }

    #[test]
    fn plugins_see_the_plug_points() {
        assert!(may(Place::Plugin, Place::Floor(1, &[]), "formic-registry", NORMAL));
        assert!(!may(Place::Plugin, Place::Floor(2, &[]), "formic-client", NORMAL));
        assert!(!may(Place::Floor(2, &[]), Place::Plugin, "formic-registry-mdns", NORMAL));
        assert!(may(Place::Floor(4, &[]), Place::Plugin, "formic-registry-mdns", NORMAL));
        assert!(may(Place::Binary, Place::Plugin, "formic-registry-mdns", NORMAL));
    }

    #[test]
    fn test_code_is_for_tests() {
        assert!(!may(Place::Floor(4, &[]), Place::Testing, "formic-testing", NORMAL));
        assert!(!may(Place::Binary, Place::Testing, "formic-testing", NORMAL));
        assert!(may(Place::Example, Place::Testing, "formic-testing", DEV));
        assert!(may(Place::Testing, Place::Testing, "formic-testing", NORMAL));
    }

    #[test]
    fn an_example_is_what_a_user_writes() {
        assert!(may(Place::Example, Place::Floor(4, &[]), "formic", NORMAL));
        assert!(may(Place::Example, Place::Floor(3, &[]), "formic-build", BUILD));
        assert!(!may(Place::Example, Place::Floor(0, &[]), "formic-core", NORMAL));
        assert!(may(Place::Example, Place::Example, "shop-token", NORMAL));
        assert!(!may(Place::Binary, Place::Example, "shop-token", NORMAL));
    }

    #[test]
    fn an_unknown_crate_says_where_to_add_it() {
        let package = Package {
            id: "x".to_owned(),
            name: "formic-new".to_owned(),
            manifest_path: "crates/formic-new/Cargo.toml".to_owned(),
            ..Package::default()
        };
        let metadata = Metadata { workspace_members: ["x".to_owned()].into(), packages: vec![package] };
        let findings = check(&[], &metadata);
        let finding = &findings[0];
        assert!(finding.what.contains("formic-new") && finding.remedy.contains(HERE), "{finding}");
    }
}
