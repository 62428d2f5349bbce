//! A revision: one hash over everything that makes an instance what it is.
//!
//! In it: what is run (with the digest of the artifact), arguments, environment, config, settings, working
//! directory, port, limits, user, health, stop and restart rules, and whether the gateway exposes it. So a
//! rollback to a revision brings all of it back. Not in it: `replicas`, `depends_on` and `update`, which
//! describe the set and not its members; they change in place. Nor how services are called, of which whoever calls is told
//! while it runs, and a `proxy`, which is a process of its own.
//!
//! A second hash covers only what a running process cannot take up. Where it is the same, a change of
//! revision is made in place: limits are written anew, and no process ends for it.
//!
//! The hash is BLAKE3 over JSON with sorted keys and no spaces, so the order in which a table is
//! written makes no difference.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::manifest::{FORMAT, Service};
use crate::privileges::Privileges;

/// An immutable hash. `Display` shows the first 12 hexadecimal digits, which is what people see;
/// equality and serde use all 64.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

/// A text is no revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hexadecimal digits")]
pub struct InvalidRevision;

// === impl Revision ===

/// The variable that tells an instance how services are called, when it starts.
pub(crate) const CALLS: &str = "FORMIC_CLIENT";

/// The settings that an instance keeps for as long as it runs.
fn lasting(settings: &BTreeMap<String, String>) -> BTreeMap<&String, &String> {
    settings.iter().filter(|(name, _)| *name != CALLS).collect()
}

/// A service that says nothing of them has the revision that it had before there was anything to say.
fn with_privileges(mut of: Value, privileges: &Privileges) -> Value {
    if let Some(fields) = of.as_object_mut().filter(|_| !privileges.is_default()) {
        fields.insert("privileges".into(), json!(privileges));
    }
    of
}

impl Revision {
    /// The hash of any JSON value in its canonical form.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        let mut text = String::new();
        canonical(value, &mut text);
        Self(blake3::hash(text.as_bytes()).to_hex().as_str().into())
    }

    pub(crate) fn of_service(service: &Service, exposed: bool, artifact_digest: &str) -> Self {
        // Taken apart, so that a new field must be considered here.
        let Service {
            name,
            source,
            args,
            replicas: _,
            depends_on: _,
            conditions: _,
            env,
            secrets,
            config,
            settings,
            port,
            sockets,
            proxy: _,
            health,
            resources,
            privileges,
            stop,
            restart,
            update: _,
            job: _,
            cron: _,
            cwd,
        } = service;
        let revision = json!({
            "format": FORMAT,
            "name": name,
            "source": source,
            "artifact": artifact_digest,
            "args": args,
            "env": env,
            "secrets": secrets,
            "config": config,
            "settings": lasting(settings),
            "cwd": cwd,
            "limits": resources,
            "health": health,
            "stop": stop,
            "restart": restart,
            "routing": { "port": port, "sockets": sockets, "exposed": exposed },
        });
        Self::of(&with_privileges(revision, privileges))
    }

    pub(crate) fn of_process(service: &Service, artifact_digest: &str) -> Self {
        let Service {
            name,
            source,
            args,
            replicas: _,
            depends_on: _,
            conditions: _,
            env,
            secrets,
            config,
            settings,
            port,
            sockets,
            proxy: _,
            health,
            resources,
            privileges,
            stop: _,
            restart: _,
            update: _,
            job: _,
            cron: _,
            cwd,
        } = service;
        let process = json!({
            "process": FORMAT,
            "name": name,
            "source": source,
            "artifact": artifact_digest,
            "args": args,
            "env": env,
            "secrets": secrets,
            "config": config,
            "settings": lasting(settings),
            "cwd": cwd,
            "health": health,
            "port": port,
            "sockets": sockets,
            // Given to a process before it starts.
            "limits": resources,
        });
        Self::of(&with_privileges(process, privileges))
    }

    /// With the versions of the secrets that the service is given: a new version is a new revision. Those
    /// of other secrets make no difference.
    pub(crate) fn with_secrets(self, service: &Service, versions: &BTreeMap<String, u64>) -> Self {
        let used = |name: &String| service.secrets.values().any(|of| of.secret == *name);
        let versions: BTreeMap<_, _> = versions.iter().filter(|(name, _)| used(name)).collect();
        if versions.is_empty() {
            return self;
        }
        Self::of(&json!({ "of": self.as_str(), "secrets": versions }))
    }

    /// All 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 hexadecimal digits.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.short())
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({})", self.short())
    }
}

impl FromStr for Revision {
    type Err = InvalidRevision;

    fn from_str(text: &str) -> Result<Self, InvalidRevision> {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 64 && hex { Ok(Self(text.into())) } else { Err(InvalidRevision) }
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// JSON with sorted keys. Written out, because whether `serde_json` sorts depends on a feature that any
/// crate of the tree can switch.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Manifest;

    fn revision(service: &str) -> Revision {
        let source = format!("[app]\nname = 'a'\n[service.s]\n{service}\n[service.other]\ncargo = 'o'\n");
        let manifest = Manifest::parse(&source, "formic.toml").unwrap_or_else(|faults| panic!("{faults}"));
        manifest.revision("s", "digest").unwrap()
    }

    #[test]
    fn the_order_of_keys_makes_no_difference() {
        let (a, b) = (
            json!({"b": [1, {"d": 1.5, "c": null}], "a": "é\n"}),
            r#"{"a":"é\n","b":[1,{"c":null,"d":1.5}]}"#,
        );
        let mut text = String::new();
        canonical(&a, &mut text);
        assert_eq!(text, b);
        assert_eq!(
            revision("cargo = 's'\nconfig = { a = 1, b = 2 }\nenv = { X = 'x', A = 'a' }"),
            revision("env = { A = 'a', X = 'x' }\nconfig = { b = 2, a = 1 }\ncargo = 's'"),
        );
    }

    #[test]
    fn what_makes_an_instance_changes_it_and_the_size_of_the_set_does_not() {
        let base = revision("cargo = 's'");
        assert_eq!(base, revision("cargo = 's'\nreplicas = 5\ndepends_on = ['other']"));
        assert_eq!(base, revision("cargo = 's'\nreplicas = 1\nhealth = { interval = '1000ms' }"));
        assert_eq!(base, revision("cargo = 's'\nstop = { signal = 'TERM' }"));
        let port = "cargo = 's'\nport = 'auto'";
        assert_eq!(revision(port), revision(&format!("{port}\nproxy = '127.0.0.1:5432'")));
        assert_eq!(base, revision("cargo = 's'\nno_new_privileges = true\nulimits = {}"));
        let all = [
            "cargo = 't'",
            "command = ['s']",
            "cargo = 's'\nargs = ['-v']",
            "cargo = 's'\nenv = { A = 'a' }",
            "cargo = 's'\nconfig = { a = 1 }",
            "cargo = 's'\nconfig = { a = '1' }",
            "cargo = 's'\ncwd = 'x'",
            "cargo = 's'\nport = 9000\nhealth = { ready = 'grpc' }",
            "cargo = 's'\nhealth = { timeout = '2s' }",
            "cargo = 's'\nresources = { memory = '1MiB' }",
            "cargo = 's'\nuser = 'www'",
            "cargo = 's'\nuser = 'www'\ngroup = 'www'",
            "cargo = 's'\nno_new_privileges = false",
            "cargo = 's'\nulimits = { nofile = 1024 }",
            "cargo = 's'\nstop = { grace = '1s' }",
            "cargo = 's'\nstop = { signal = 'QUIT' }",
            "cargo = 's'\nrestart = { policy = 'never' }",
            "cargo = 's'\nsecrets = { a = 'a' }",
            "cargo = 's'\nsecrets = { a = { secret = 'a', env = 'A' } }",
        ]
        .map(revision);
        for (i, revision) in all.iter().enumerate() {
            assert_ne!(*revision, base, "number {i}");
            assert!(!all[..i].contains(revision), "number {i}");
        }
    }

    #[test]
    fn what_is_changed_in_place_leaves_the_process_alone() {
        let process = |service: &str, digest: &str| {
            let source = format!("[app]\nname = 'a'\n[gateway]\nexpose = ['s']\n[service.s]\n{service}\n");
            let manifest = Manifest::parse(&source, "f").unwrap_or_else(|faults| panic!("{faults}"));
            manifest.process("s", digest).unwrap()
        };
        let base = process("cargo = 's'", "1");
        for same in [
            "replicas = 3",
            "stop = { grace = '1s', signal = 'QUIT' }",
            "restart = { policy = 'never' }",
            "update = { surge = 2 }",
        ] {
            assert_eq!(base, process(&format!("cargo = 's'\n{same}"), "1"), "{same}");
        }
        assert_ne!(base, process("cargo = 's'", "2"));
        assert_ne!(base, process("cargo = 's'\nenv = { A = 'a' }", "1"));
        assert_ne!(base, process("cargo = 's'\nhealth = { timeout = '2s' }", "1"));
        assert_ne!(base, process("cargo = 's'\nresources = { memory = '1MiB' }", "1"));
        assert_ne!(base, process("cargo = 's'\nuser = 'www'", "1"));
    }

    #[test]
    fn the_artifact_and_exposure_change_it() {
        let text = |gateway: &str| format!("[app]\nname = 'a'\n{gateway}\n[service.s]\ncargo = 's'\n");
        let of = |gateway: &str, digest: &str| {
            Manifest::parse(&text(gateway), "f").unwrap().revision("s", digest).unwrap()
        };
        assert_ne!(of("", "1"), of("", "2"));
        assert_ne!(of("", "1"), of("[gateway]\nexpose = ['s']", "1"));
        assert_eq!(of("", "1"), of("[gateway]\nlisten = '127.0.0.1:1'", "1"));
    }

    #[test]
    fn a_new_version_of_a_secret_that_is_used_changes_it() {
        let source = "[app]\nname = 'a'\n[service.s]\ncargo = 's'\nsecrets = { db = 'password' }\n";
        let manifest = Manifest::parse(source, "f").unwrap();
        let of = |name: &str, version: u64| {
            let versions = BTreeMap::from([(name.to_owned(), version)]);
            let whole = manifest.revision_with("s", "1", &versions).unwrap();
            (whole, manifest.process_with("s", "1", &versions).unwrap())
        };
        let (one, two, other) = (of("password", 1), of("password", 2), of("token", 1));
        assert!(one.0 != two.0 && one.1 != two.1);
        assert_eq!(other.0, manifest.revision("s", "1").unwrap(), "it has nothing to do with it");
    }

    #[test]
    fn shown_short_and_kept_whole() {
        let revision = Revision::of(&json!(1));
        assert_eq!(revision.to_string().len(), 12);
        assert_eq!(revision.as_str().parse(), Ok(revision.clone()));
        assert_eq!(revision.to_string().parse::<Revision>(), Err(InvalidRevision));
        let text = serde_json::to_string(&revision).unwrap();
        assert_eq!(serde_json::from_str::<Revision>(&text).unwrap(), revision);
        // Fixed for ever: a change here would roll every running instance.
        assert_eq!(Revision::of(&json!({"a": 1})).short(), "d59b6562d7c9");
    }
}
