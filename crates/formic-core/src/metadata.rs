//! Metadata: the headers and trailers of a call, on every transport.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Error;

/// Names and values that travel beside a message. Names are lower-case; values are printable ASCII,
/// or bytes for names that end in `-bin`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(HeaderMap);

/// A name or a value that cannot travel as a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata {0:?} is not a valid name or value: names are lower-case tokens, values printable ASCII")]
pub struct InvalidMetadata(pub String);

/// What never shows in logs or in debug output.
const SECRET: [&str; 4] = ["authorization", "cookie", "set-cookie", "proxy-authorization"];

impl Metadata {
    /// Empty metadata.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of this name, if it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    /// Every text value of this name.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// Sets the name to one value.
    ///
    /// # Errors
    /// If the name or the value cannot travel as a header.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), InvalidMetadata> {
        let (name, value) = parse(name, value)?;
        self.0.insert(name, value);
        Ok(())
    }

    /// Adds a value beside those that are there.
    ///
    /// # Errors
    /// If the name or the value cannot travel as a header.
    pub fn append(&mut self, name: &str, value: &str) -> Result<(), InvalidMetadata> {
        let (name, value) = parse(name, value)?;
        self.0.append(name, value);
        Ok(())
    }

    /// Removes every value of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Names and text values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The header map underneath.
    #[must_use]
    pub fn as_headers(&self) -> &HeaderMap {
        &self.0
    }

    /// The header map underneath, to change.
    pub fn as_headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0
    }

    /// The header map underneath, taken.
    #[must_use]
    pub fn into_headers(self) -> HeaderMap {
        self.0
    }
}

fn parse(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), InvalidMetadata> {
    let parsed = name.parse().map_err(|_| InvalidMetadata(name.into()))?;
    let mut value = HeaderValue::from_str(value).map_err(|_| InvalidMetadata(name.into()))?;
    value.set_sensitive(SECRET.contains(&name));
    Ok((parsed, value))
}

/// What a handler says of itself, so it is not the caller's fault.
impl From<InvalidMetadata> for Error {
    fn from(invalid: InvalidMetadata) -> Self {
        Self::internal(invalid.to_string())
    }
}

impl From<HeaderMap> for Metadata {
    fn from(headers: HeaderMap) -> Self {
        Self(headers)
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| {
                let hidden = SECRET.contains(&name.as_str());
                (name.as_str(), if hidden { "***" } else { value.to_str().unwrap_or("<bytes>") })
            }))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let mut metadata = Metadata::new();
        metadata.insert("authorization", "Bearer abc").expect("valid");
        metadata.insert("x-user", "ada").expect("valid");
        let shown = format!("{metadata:?}");
        assert!(shown.contains("ada") && !shown.contains("abc"), "{shown}");
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let mut metadata = Metadata::new();
        assert!(metadata.insert("bad name", "x").is_err());
        assert!(metadata.insert("x", "line\nbreak").is_err());
        assert!(metadata.is_empty());
    }
}
