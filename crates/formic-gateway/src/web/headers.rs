//! Headers on their way through: what belongs to one hop is taken out, what the instance should know of the
//! caller is put in.

use std::net::IpAddr;

use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{Peer, TraceContext};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};

use super::table::WebRoute;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers of one hop, beside those that `Connection` names.
const HOP: [HeaderName; 9] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The host that is asked for, in lower case and without its port; empty if nobody said.
pub(crate) fn host(uri: &Uri, headers: &HeaderMap) -> String {
    let authority = authority(uri, headers).unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// HTTP/2 has it in the URI, HTTP/1 in a header.
fn authority<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    let header = || headers.get(header::HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(http::uri::Authority::as_str).or_else(header)
}

/// Whether a path leads out of where it seems to lead; clients that mean well have resolved it. It has its plain spelling, in which
/// a point is a point.
pub(crate) fn is_devious(path: &str) -> bool {
    let plain = with_plain_slashes(path);
    let climbs = plain.as_deref().unwrap_or(path).split('/').any(|segment| segment == "." || segment == "..");
    climbs || path.contains('\\') || path.contains("%00")
}

/// The path as a program sees it that takes escaped slashes, backslashes and several in a row for one slash; nothing if it has
/// none of these.
pub(crate) fn with_plain_slashes(path: &str) -> Option<String> {
    if !path.contains('%') && !path.contains("//") {
        return None;
    }
    let slashes = ["%2f", "%2F", "%5c", "%5C"].into_iter();
    let plain = slashes.fold(path.to_owned(), |path, escaped| path.replace(escaped, "/"));
    let mut out = String::with_capacity(plain.len());
    for c in plain.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    (out != path).then_some(out)
}

/// The protocol that a request asks to go over to, such as `websocket`.
pub(crate) fn upgrade(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    (version == Version::HTTP_11 && asks).then(|| headers.get(header::UPGRADE).cloned()).flatten()
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Takes out what belongs to one hop.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Says that the connection goes over to another protocol.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Makes of a request as it came the one that the instance gets.
pub(crate) fn rewrite(parts: &mut Parts, route: &WebRoute, peer: Option<&Peer>) -> Result<(), http::Error> {
    let protocol = upgrade(parts.version, &parts.headers);
    let authority = authority(&parts.uri, &parts.headers).and_then(|host| HeaderValue::from_str(host).ok());
    let headers = &mut parts.headers;
    strip(headers);
    // Answered by the gateway itself, when the instance begins to read.
    headers.remove(header::EXPECT);
    if let Some(protocol) = protocol {
        set_upgrade(headers, protocol);
    }
    let address: Option<IpAddr> =
        peer.and_then(|peer| peer.0.parse::<std::net::SocketAddr>().ok()).map(|peer| peer.ip());
    // What is there is the word of a proxy that is trusted: others' was taken out at the door.
    if !headers.contains_key(PROTO) {
        headers.insert(PROTO, HeaderValue::from_static("http"));
    }
    if let Some(host) = authority {
        if !headers.contains_key(HOST) {
            headers.insert(HOST, host.clone());
        }
        headers.insert(header::HOST, host);
    }
    if let Some(address) = address.and_then(|address| HeaderValue::from_str(&address.to_string()).ok()) {
        headers.append(FOR, address);
    }
    headers.insert(TRACEPARENT, trace(headers).to_header());

    let (path, prefix) = route.rewritten(parts.uri.path());
    headers.remove(PREFIX);
    if let Some(prefix) = prefix {
        headers.insert(PREFIX, HeaderValue::from_str(prefix)?);
    }
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    parts.uri = Uri::builder().path_and_query(target).build()?;
    parts.version = Version::HTTP_11;
    Ok(())
}

/// A step further in the caller's trace, or the beginning of one.
fn trace(headers: &HeaderMap) -> TraceContext {
    let random = || fastrand::u64(1..);
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    match given.and_then(|text| text.parse::<TraceContext>().ok()) {
        Some(parent) => parent.child(random()),
        None => TraceContext { trace_id: fastrand::u128(1..), span_id: random(), sampled: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    #[test]
    fn hosts_are_read_with_and_without_ports() {
        for (host, expected) in [
            ("Shop.Example:8080", "shop.example"),
            ("shop.example.", "shop.example"),
            ("[::1]:80", "::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("", ""),
        ] {
            assert_eq!(self::host(&Uri::from_static("/x"), &map(&[("host", host)])), expected);
        }
        assert_eq!(self::host(&Uri::from_static("http://a.b/x"), &map(&[("host", "c.d")])), "a.b");
    }

    #[test]
    fn what_belongs_to_one_hop_is_taken_out() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("connection", "upgrade"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("upgrade", "websocket"),
            ("content-length", "3"),
        ]);
        assert_eq!(upgrade(Version::HTTP_11, &headers), Some(HeaderValue::from_static("websocket")));
        assert_eq!(upgrade(Version::HTTP_10, &headers), None);
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-other"]);
    }

    #[test]
    fn paths_that_lead_elsewhere() {
        for bad in
            ["/reports/../admin", "/reports/..%2fadmin", "/./x", "/a/..", "/a\\b", "/a/..%5Cb", "/a%00"]
        {
            assert!(is_devious(bad), "{bad}");
        }
        for good in ["/", "/a..b/.well-known", "/...", "/a//b", "/@a%2fb"] {
            assert!(!is_devious(good), "{good}");
        }
        assert_eq!(with_plain_slashes("/a%2F%2fb//c%5cd%20"), Some("/a/b/c/d%20".to_owned()));
        assert_eq!(with_plain_slashes("/a/b%20"), None);
    }
}
