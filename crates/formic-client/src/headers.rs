//! Which headers are metadata and which are the wire's own.
//!
//! A proxy hands on the headers that it got, and those hold what belongs to one hop only: a content
//! type, a length, somebody else's timeout. They are kept off both ways.

use formic_core::Metadata;
use http::{HeaderMap, HeaderName};

/// Whether a header belongs to the wire, so that metadata of this name does not travel.
pub(crate) fn is_wire(name: &HeaderName) -> bool {
    let text = name.as_str();
    matches!(
        text,
        "content-type"
            | "content-length"
            | "content-encoding"
            | "accept"
            | "accept-encoding"
            | "host"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "date"
            | "formic-attempt"
    ) || text.starts_with("connect-")
        || text.starts_with("grpc-")
}

/// Metadata of another hop without what belongs to that.
pub(crate) fn own(metadata: Metadata) -> Metadata {
    match metadata.as_headers().keys().any(is_wire) {
        true => self::metadata(metadata.into_headers()),
        false => metadata,
    }
}

/// The metadata of a response.
pub(crate) fn metadata(mut headers: HeaderMap) -> Metadata {
    // The usual answer has nothing else, and taking headers out one by one costs more than a look.
    if headers.keys().all(is_wire) {
        return Metadata::new();
    }
    if headers.keys().any(is_wire) {
        let names: Vec<_> = headers.keys().filter(|name| is_wire(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
    Metadata::from(headers)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_wires_own_headers_are_no_metadata() {
        let mut headers = HeaderMap::new();
        for name in ["content-type", "date", "content-length", "connect-timeout-ms", "grpc-status"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        headers.append("x-user", HeaderValue::from_static("ada"));
        headers.append("x-user", HeaderValue::from_static("eve"));
        let metadata = metadata(headers);
        assert_eq!(metadata.iter().collect::<Vec<_>>(), [("x-user", "ada"), ("x-user", "eve")]);
    }
}
