//! Secrets: encrypted at rest, each value a version that stays what it is.
//!
//! A desired state names the versions that its services were given, so going back to it brings the old values
//! back; versions that a kept state names are kept with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use redb::{ReadableTable, TableError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::history::Generation;
use crate::schema::{self, GENERATIONS, SECRETS};
use crate::state::{State, Write};

/// So many versions of each secret are kept, and beside them those that a kept desired state names.
pub const KEPT_VERSIONS: usize = 10;

/// A value that shows itself to nobody who does not ask: not in `Debug`, not as text, not as JSON. It is
/// wiped from memory in the end.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// What can be told of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// The versions that are kept, ascending; the last is the present one.
    pub versions: Vec<u64>,
    /// When the present one was set, in milliseconds since 1970.
    pub at_unix_ms: u64,
}

/// A value as it is kept: nonce and ciphertext in hexadecimal digits.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sealed {
    at_unix_ms: u64,
    #[serde(with = "hex")]
    sealed: Vec<u8>,
}

// === impl Secret ===

impl Secret {
    /// Takes a value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

// === reading and writing ===

impl State {
    /// A secret with its version: the one that is asked for, else the present one. Nothing if there is none.
    ///
    /// # Errors
    /// It does not open, or the database refuses.
    pub fn secret(&self, name: &str, version: Option<u64>) -> Result<Option<(u64, Secret)>, Error> {
        let read = self.reading()?;
        let table = read.open_table(SECRETS)?;
        let range = match version {
            Some(version) => table.range((name, version)..=(name, version))?,
            None => table.range((name, 0)..=(name, u64::MAX))?,
        };
        let Some(entry) = range.last() else { return Ok(None) };
        let (key, value) = entry?;
        let version = key.value().1;
        let sealed = schema::decode("secrets", format!("{name} {version}"), value.value())?;
        let secret = unseal(&self.folder.key, &self.folder.identity, name, version, &sealed)?;
        Ok(Some((version, secret)))
    }

    /// What can be told of each secret, by name.
    ///
    /// # Errors
    /// The database refuses.
    pub fn secrets(&self) -> Result<Vec<SecretInfo>, Error> {
        let read = self.reading()?;
        let mut found: BTreeMap<String, SecretInfo> = BTreeMap::new();
        for entry in read.open_table(SECRETS)?.iter()? {
            let (key, value) = entry?;
            let (name, version) = key.value();
            let sealed: Sealed = schema::decode("secrets", format!("{name} {version}"), value.value())?;
            let info = found.entry(name.to_owned()).or_insert_with(|| SecretInfo {
                name: name.to_owned(),
                versions: Vec::new(),
                at_unix_ms: 0,
            });
            info.versions.push(version);
            info.at_unix_ms = sealed.at_unix_ms;
        }
        Ok(found.into_values().collect())
    }
}

/// Whether a secret can have this name.
///
/// # Errors
/// It cannot; says what a name is.
pub fn check_secret_name(name: &str) -> Result<(), Error> {
    let sign = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 63 || name.starts_with('.') || !name.bytes().all(sign) {
        return Err(Error::SecretName(name.chars().take(80).collect()));
    }
    Ok(())
}

impl Write<'_> {
    /// Sets a secret, and gives its version. The same value again is the same version.
    ///
    /// # Errors
    /// The name is none, there are no random numbers, or the database refuses.
    pub fn set_secret(&mut self, name: &str, secret: &Secret, at_unix_ms: u64) -> Result<u64, Error> {
        check_secret_name(name)?;
        let mut table = self.transaction.open_table(SECRETS)?;
        let mut versions = Vec::new();
        for entry in table.range((name, 0)..=(name, u64::MAX))? {
            versions.push(entry?.0.value().1);
        }
        if let Some(last) = versions.last()
            && let Some(value) = table.get((name, *last))?
        {
            let sealed = schema::decode("secrets", format!("{name} {last}"), value.value())?;
            if unseal(self.key, self.identity, name, *last, &sealed)? == *secret {
                return Ok(*last);
            }
        }
        let version = versions.last().map_or(1, |last| last + 1);
        let sealed =
            self.key.seal(&context(self.identity, name, version), secret.expose()).ok_or(Error::Random)?;
        let value = schema::encode(&Sealed { at_unix_ms, sealed });
        table.insert((name, version), value.as_slice())?;
        versions.push(version);
        if versions.len() > KEPT_VERSIONS {
            let named = self.named(name)?;
            let old = &versions[..versions.len() - KEPT_VERSIONS];
            for version in old.iter().filter(|version| !named.contains(version)) {
                table.remove((name, *version))?;
            }
        }
        Ok(version)
    }

    /// Removes a secret with all its versions; says whether there was one. States that name it cannot be gone
    /// back to any more.
    ///
    /// # Errors
    /// The database refuses.
    pub fn remove_secret(&mut self, name: &str) -> Result<bool, Error> {
        let mut table = self.transaction.open_table(SECRETS)?;
        let mut found = false;
        table.retain_in((name, 0)..=(name, u64::MAX), |_, _| {
            found = true;
            false
        })?;
        Ok(found)
    }

    /// The versions of a secret that kept desired states name.
    fn named(&self, name: &str) -> Result<BTreeSet<u64>, Error> {
        let table = match self.transaction.open_table(GENERATIONS) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error.into()),
        };
        let mut named = BTreeSet::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            let index = key.value().to_string();
            let generation: Generation = schema::decode("generations", index, value.value())?;
            named.extend(generation.secrets.get(name).into_iter().flatten());
        }
        Ok(named)
    }
}

/// What a value belongs to: copied under another name or version it does not open.
fn context(identity: &str, name: &str, version: u64) -> Vec<u8> {
    format!("{identity} {name} {version}").into_bytes()
}

fn unseal(
    key: &crate::key::Key,
    identity: &str,
    name: &str,
    version: u64,
    sealed: &Sealed,
) -> Result<Secret, Error> {
    let open = key.open(&context(identity, name, version), &sealed.sealed);
    open.map(Secret).ok_or_else(|| Error::Sealed { name: name.to_owned(), version })
}

/// Bytes as text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}", Digits(bytes)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let digit = |of: u8| char::from(of).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
        bytes.ok_or_else(|| serde::de::Error::custom("these are no pairs of hexadecimal digits"))
    }

    struct Digits<'a>(&'a [u8]);

    impl std::fmt::Display for Digits<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }
}
