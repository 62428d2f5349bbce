//! What an operator may set, with defaults that are safe.

use serde::Deserialize;

/// Half a day: one visit to a shop, and not much longer for whoever finds a forgotten token.
const TOKEN_LIFETIME_SECONDS: u64 = 12 * 60 * 60;

/// A month: a token cannot be called back.
const MAX_TOKEN_LIFETIME_SECONDS: u64 = 31 * 24 * 60 * 60;

/// The first choice of OWASP's cheat sheet for argon2id: 19 MiB, two passes, one lane.
const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
const ARGON2_PASSES: u32 = 2;

/// Hashes that are computed at once. Each takes a core and the memory above.
const HASHES_AT_ONCE: usize = 2;

/// Requests that may wait for a hash. At 20 ms each, the last one is answered within a second.
const HASHES_WAITING: usize = 64;

/// The table `[service.user.config]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// How long a token is valid: 12 hours.
    pub token_lifetime_seconds: u64,
    /// Memory of one password hash in KiB: 19456. Raise it as machines grow; stored hashes keep what they were made with.
    pub argon2_memory_kib: u32,
    /// Passes over that memory: 2.
    pub argon2_passes: u32,
    /// Password hashes computed at the same time: 2.
    pub hashes_at_once: usize,
    /// Requests that may wait for one; those beyond are answered `resource_exhausted`: 64.
    pub hashes_waiting: usize,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ConfigError(pub(crate) Vec<String>);

impl Default for UserConfig {
    fn default() -> Self {
        Self {
            token_lifetime_seconds: TOKEN_LIFETIME_SECONDS,
            argon2_memory_kib: ARGON2_MEMORY_KIB,
            argon2_passes: ARGON2_PASSES,
            hashes_at_once: HASHES_AT_ONCE,
            hashes_waiting: HASHES_WAITING,
        }
    }
}

impl UserConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// All faults at once.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut faults = Vec::new();
        let mut within = |name: &str, value: u64, low: u64, high: u64| {
            if !(low..=high).contains(&value) {
                faults.push(format!("{name} is {value}, which is not within {low} to {high}"));
            }
        };
        within("token_lifetime_seconds", self.token_lifetime_seconds, 1, MAX_TOKEN_LIFETIME_SECONDS);
        within("argon2_memory_kib", self.argon2_memory_kib.into(), 8, 4 << 20);
        within("argon2_passes", self.argon2_passes.into(), 1, 100);
        within("hashes_at_once", self.hashes_at_once as u64, 1, 1024);
        within("hashes_waiting", self.hashes_waiting as u64, 1, 1 << 20);
        if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_default_is_valid_and_every_fault_is_named() {
        UserConfig::default().validate().unwrap();
        let faulty = UserConfig { token_lifetime_seconds: 0, hashes_at_once: 0, ..UserConfig::default() };
        assert_eq!(faulty.validate().unwrap_err().0.len(), 2);
    }
}
