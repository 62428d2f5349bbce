//! A vendor crate is known to the one crate that wraps it, so that replacing it changes one crate.

use super::Finding;
use super::tree::{Source, dependency_line};
use crate::workspace::Metadata;

const HERE: &str = "xtask/src/tidy/vendors.rs";

/// Vendor crates, and the packages (or, with a closing `/`, the folders) that may name them outside tests.
const HOMES: &[(&[&str], &[&str])] = &[
    // The wire. Generated code of the control plane names it too.
    (&["connectrpc"], &["formic-rpc", "formic-client", "formic-server", "formic-api"]),
    (&["connectrpc-health"], &["formic-server"]),
    (&["buffa-codegen", "connectrpc-build", "miette", "protox"], &["formic-build"]),
    (&["hyper", "hyper-util"], &["formic-server", "formic-gateway"]),
    (&["h2"], &["formic-client"]),
    (&["axum"], &["formic-server", "formic-gateway", "formic"]),
    // The system.
    (&["libc", "nix", "rustix"], &["formic-supervise", "formic-reconcile", "formic-cli"]),
    (&["mdns-sd"], &["formic-registry-mdns"]),
    // TLS.
    (&["rustls", "rustls-webpki", "tokio-rustls"], &["formic-cli"]),
    // Schedules.
    (&["croner", "jiff"], &["formic-spec"]),
    // State.
    (&["chacha20poly1305", "redb"], &["formic-state"]),
    // Telemetry.
    (&["prometheus-client", "tracing-subscriber"], &["formic-telemetry"]),
    // Faces.
    (&["clap", "clap_complete"], &["formic-cli"]),
    // The shop.
    (&["rusqlite", "argon2", "ed25519-dalek"], &["examples/shop/"]),
];

/// These measure or test, and may name what they measure.
const EXEMPT: &[&str] = &["bench/", "testing/"];

pub(crate) fn check(sources: &[Source], metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, package) in metadata.members() {
        let path = package.manifest_path.as_str();
        if EXEMPT.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        for dependency in package.dependencies.iter().filter(|dependency| !dependency.is_dev()) {
            let vendor = dependency.name.as_str();
            let Some((_, homes)) = HOMES.iter().find(|(vendors, _)| vendors.contains(&vendor)) else {
                continue;
            };
            let at_home = homes
                .iter()
                .any(|home| if home.ends_with('/') { path.starts_with(home) } else { *home == name });
            if !at_home {
                let what = format!("`{name}` names `{vendor}`, which only {} may", homes.join(", "));
                let remedy = format!("use what those crates offer; if a new home is right, add it in {HERE}");
                findings.push(Finding::new(path, dependency_line(sources, path, vendor), what, remedy));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Package};

    fn faults(name: &str, path: &str, vendor: &str, kind: Option<&str>) -> usize {
        let package = Package {
            id: "x".to_owned(),
            name: name.to_owned(),
            manifest_path: path.to_owned(),
            dependencies: vec![Dependency {
                name: vendor.to_owned(),
                kind: kind.map(str::to_owned),
                optional: false,
            }],
            ..Package::default()
        };
        check(&[], &Metadata { workspace_members: ["x".to_owned()].into(), packages: vec![package] }).len()
    }

    #[test]
    fn vendors_stay_at_home() {
        assert_eq!(faults("formic-rpc", "crates/formic-rpc/Cargo.toml", "connectrpc", None), 0);
        assert_eq!(faults("formic-gateway", "crates/formic-gateway/Cargo.toml", "connectrpc", None), 1);
        assert_eq!(faults("shop-order", "examples/shop/order/Cargo.toml", "rusqlite", None), 0);
        assert_eq!(faults("formic-registry", "crates/formic-registry/Cargo.toml", "rusqlite", None), 1);
        assert_eq!(faults("formic-registry", "crates/formic-registry/Cargo.toml", "serde", None), 0);
    }

    #[test]
    fn tests_and_benches_may_name_them() {
        assert_eq!(
            faults("formic-gateway", "crates/formic-gateway/Cargo.toml", "connectrpc", Some("dev")),
            0
        );
        assert_eq!(faults("formic-gateway", "crates/formic-gateway/Cargo.toml", "protox", Some("build")), 1);
        assert_eq!(faults("formic-bench", "bench/Cargo.toml", "hyper", None), 0);
    }
}
