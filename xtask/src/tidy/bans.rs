//! Crates that must not enter the graph, not even through another crate.

use super::Finding;
use crate::workspace::Metadata;

/// Each with its reason. `deny.toml` says the same; `tidy` compares the two.
pub(crate) const BANNED: &[(&str, &str)] = &[
    ("bincode", "it is unmaintained (RUSTSEC-2025-0141)"),
    ("git2", "it brings a large C library, and nothing here reads repositories"),
    ("native-tls", "the one TLS provider is rustls with aws-lc-rs"),
    ("openssl", "the one TLS provider is rustls with aws-lc-rs"),
    ("openssl-sys", "the one TLS provider is rustls with aws-lc-rs"),
    ("ring", "two providers in one process make rustls panic; aws-lc-rs is the one"),
    ("serde_yaml", "it is archived"),
    ("tonic", "its maintainers halted it; the wire is connectrpc"),
];

pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &metadata.packages {
        if let Some((name, reason)) = BANNED.iter().find(|(name, _)| *name == package.name) {
            let what = format!("`{name}` {} is in the graph: {reason}", package.version);
            let remedy = format!("see who brings it with `cargo tree --invert {name}` and turn that off");
            findings.push(Finding::new("Cargo.lock", 1, what, remedy));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    #[test]
    fn a_banned_crate_is_found_by_its_whole_name() {
        let package = |name: &str| Package { name: name.to_owned(), ..Package::default() };
        let packages = vec![package("ring"), package("string"), package("tonic-lite"), package("tonic")];
        let findings = check(&Metadata { packages, ..Metadata::default() });
        assert_eq!(findings.len(), 2);
        assert!(findings[0].remedy.contains("--invert ring"));
    }
}
