//! Metadata: the headers and trailers of a call, on every transport.

use std::fmt;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::Error;

/// Names and values that travel beside a message. Names are lower-case; values are printable ASCII,
/// or bytes for names that end in `-bin`.
///
/// Most messages travel with none, and calls and answers are handed on by value from layer to layer: what there is stands in a
/// box, and that there is none takes no room.
#[derive(Clone, Default)]
pub struct Metadata(Option<Box<HeaderMap>>);

static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

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
    #[inline]
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name)?.to_str().ok()
    }

    /// Every text value of this name.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.as_headers().get_all(name).into_iter().filter_map(|value| value.to_str().ok())
    }

    /// Sets the name to one value.
    ///
    /// # Errors
    /// If the name or the value cannot travel as a header.
    pub fn insert(&mut self, name: &str, value: &str) -> Result<(), InvalidMetadata> {
        let (name, value) = parse(name, value)?;
        self.as_headers_mut().insert(name, value);
        Ok(())
    }

    /// Adds a value beside those that are there.
    ///
    /// # Errors
    /// If the name or the value cannot travel as a header.
    pub fn append(&mut self, name: &str, value: &str) -> Result<(), InvalidMetadata> {
        let (name, value) = parse(name, value)?;
        self.as_headers_mut().append(name, value);
        Ok(())
    }

    /// Removes every value of this name.
    pub fn remove(&mut self, name: &str) {
        if let Some(headers) = &mut self.0 {
            headers.remove(name);
        }
    }

    /// Names and text values, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.as_headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|headers| headers.is_empty())
    }

    /// The header map underneath.
    #[inline]
    #[must_use]
    pub fn as_headers(&self) -> &HeaderMap {
        self.0.as_deref().unwrap_or(&NONE)
    }

    /// The header map underneath, to change.
    pub fn as_headers_mut(&mut self) -> &mut HeaderMap {
        self.0.get_or_insert_default()
    }

    /// The header map underneath, taken.
    #[must_use]
    pub fn into_headers(self) -> HeaderMap {
        self.0.map(|headers| *headers).unwrap_or_default()
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
        Self((!headers.is_empty()).then(|| Box::new(headers)))
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.as_headers() == other.as_headers()
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.as_headers().iter().map(|(name, value)| {
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
    fn none_is_none_however_it_came_to_be() {
        let mut emptied = Metadata::new();
        emptied.insert("x-user", "ada").expect("valid");
        assert_eq!(emptied.clone().into_headers().len(), 1);
        emptied.remove("x-user");
        let mut touched = Metadata::new();
        assert!(touched.as_headers_mut().is_empty());
        for none in [Metadata::new(), Metadata::from(HeaderMap::new()), emptied, touched] {
            assert!(none.is_empty() && none.as_headers().is_empty() && none.iter().next().is_none());
            assert!(none.get("x-user").is_none() && none.get_all("x-user").next().is_none());
            assert_eq!(none, Metadata::new());
            assert!(none.into_headers().is_empty());
        }
        assert_eq!(size_of::<Metadata>(), size_of::<usize>(), "it is handed on with each call");
    }

    #[test]
    fn what_cannot_travel_is_refused() {
        let mut metadata = Metadata::new();
        assert!(metadata.insert("bad name", "x").is_err());
        assert!(metadata.insert("x", "line\nbreak").is_err());
        assert!(metadata.is_empty());
    }
}
