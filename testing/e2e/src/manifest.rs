//! Manifests for tests: the shop's own, changed in as little as possible.

use std::path::Path;

use crate::programs::{repository, service_program};

/// The text of a manifest.
#[derive(Debug, Clone)]
pub struct Manifest(String);

impl Manifest {
    /// Any manifest.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// One service that is any program, named like its application and ready as soon as it runs.
    #[must_use]
    pub fn program(name: &str, command: &[&str]) -> Self {
        Self(format!(
            "[app]\nname = \"{name}\"\n[service.{name}]\ncommand = {command:?}\nhealth = {{ ready = \"none\" }}\n"
        ))
    }

    /// One that does nothing for ten minutes.
    #[must_use]
    pub fn sleeper() -> Self {
        Self::program("sleeper", &["sleep", "600"])
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The shop's, with services that are built already in place of Cargo packages.
    ///
    /// # Panics
    /// If it cannot be read or a service is not built.
    #[must_use]
    pub fn shop() -> Self {
        let text = std::fs::read_to_string(repository().join("examples/shop/formic.toml")).unwrap();
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            let package = line.strip_prefix("cargo = \"shop-").and_then(|rest| rest.strip_suffix('"'));
            lines.push(match package {
                Some(service) => format!("command = [{:?}]", service_program(service).display().to_string()),
                None => line.to_owned(),
            });
        }
        Self(lines.join("\n") + "\n")
    }

    /// The shop's for clients that are not ours: an order takes so long that its states can be followed, and the slow card
    /// longer than anybody waits.
    #[must_use]
    pub fn foreign() -> Self {
        let slow = Self::shop().set("service.order.config.step_delay", "before_book", "3000");
        slow.set("service.payment.config", "slow_card_delay_ms", "60000")
    }

    /// Sets a key of a table; the value is TOML.
    #[must_use]
    pub fn set(self, table: &str, key: &str, value: &str) -> Self {
        let header = format!("[{table}]");
        let entry = format!("{key} = {value}");
        let mut lines: Vec<&str> = self.0.lines().collect();
        match lines.iter().position(|line| line.trim() == header) {
            None => Self(format!("{}\n{header}\n{entry}\n", self.0)),
            Some(at) => {
                let is_key = |line: &&str| line.split('=').next().is_some_and(|name| name.trim() == key);
                let end = lines[at + 1..]
                    .iter()
                    .position(|line| line.starts_with('['))
                    .map_or(lines.len(), |n| at + 1 + n);
                match lines[at + 1..end].iter().position(is_key) {
                    Some(present) => lines[at + 1 + present] = &entry,
                    None => lines.insert(at + 1, &entry),
                }
                Self(lines.join("\n") + "\n")
            }
        }
    }

    /// Whether there is a gateway.
    pub(crate) fn has_gateway(&self) -> bool {
        self.0.lines().any(|line| line.trim() == "[gateway]")
    }

    /// Writes it into a folder.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("formic.toml"), &self.0).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_replaced_added_and_given_a_table() {
        let text = "[app]\nname = \"a\"\n\n[gateway]\nlisten = \"x\"\n";
        let manifest =
            Manifest::of(text).set("app", "name", "\"b\"").set("app", "x", "1").set("new.one", "y", "2");
        assert_eq!(
            manifest.0,
            "[app]\nx = 1\nname = \"b\"\n\n[gateway]\nlisten = \"x\"\n\n[new.one]\ny = 2\n"
        );
    }
}
