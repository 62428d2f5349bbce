//! `proxy`: a public address in front of a program that knows nothing of sockets that are handed to it.

use std::net::SocketAddr;
use std::ops::Range;

use toml::de::DeValue;

use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};
use crate::manifest::Proxy;

const HELP: &str = "write it like \"127.0.0.1:5432\" or \"[::1]:5432\"";

/// The proxy and where its address stands. `is_job` is of what runs to an end.
pub(super) fn read(
    section: &mut Section<'_, '_>,
    has_port: bool,
    is_job: bool,
    notes: &mut Notes<'_>,
) -> Option<(Proxy, Range<usize>)> {
    let (key, value) = section.get("proxy")?;
    let path = section.path_of("proxy");
    if is_job {
        let message = "what runs to an end has no public address".to_owned();
        notes.push(&key.span(), FaultKind::Conflict, &path, message, Some("take one of them out".into()));
    } else if !has_port {
        let message = "`proxy` has no port to lead to".to_owned();
        let help =
            "add `port = \"auto\"`, on which the program listens; a Formic service takes `sockets` instead";
        notes.push(&key.span(), FaultKind::Missing, &path, message, Some(help.into()));
    }
    let (listen, span, mut proxy) = match value.get_ref() {
        DeValue::String(text) => (text.to_string(), value.span(), Proxy::at(unset())),
        DeValue::Table(_) => {
            let mut inner = section.section("proxy", notes)?;
            let mut proxy = Proxy::at(unset());
            let listen = inner.string("listen", notes);
            proxy.connect_timeout = inner
                .duration("connect_timeout", "a duration such as \"10s\"", notes)
                .unwrap_or(proxy.connect_timeout);
            proxy.max_connections = inner
                .integer("max_connections", 1..1_000_001, notes)
                .map_or(proxy.max_connections, |(number, _)| number);
            if listen.is_none() && !inner.has("listen") {
                notes.missing(&inner, inner.span(), "`proxy` does not say where it listens", HELP);
            }
            inner.finish(notes);
            let (listen, span) = listen?;
            (listen, span, proxy)
        }
        _ => {
            notes.wrong_type(section, "proxy", value, "an address or a table", Some(HELP.into()));
            return None;
        }
    };
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => proxy.listen = address,
        Ok(_) => {
            let message = "a proxy needs a port of its own".to_owned();
            notes.push(&span, FaultKind::InvalidValue, &path, message, Some(HELP.into()));
        }
        Err(_) => {
            let message = format!("{} is not an address with a port", quote(&listen));
            notes.push(&span, FaultKind::InvalidValue, &path, message, Some(HELP.into()));
        }
    }
    Some((proxy, span))
}

/// Stands where a fault was noted.
fn unset() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
