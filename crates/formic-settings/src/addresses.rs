//! Where services are that the registry `static` knows: services with their addresses.
//!
//! Two shapes: a table, `addresses = { order = ["127.0.0.1:7001"] }`, and one text for a flag or a
//! variable, `static:order=127.0.0.1:7001,127.0.0.1:7002,user=unix:/run/user.sock`.

use std::collections::BTreeMap;

use formic_core::{Endpoint, ServiceName};
use serde_json::Value;

/// Services with their addresses.
pub type Addresses = BTreeMap<ServiceName, Vec<Endpoint>>;

/// What begins the text.
pub const PREFIX: &str = "static:";

/// How it is written, for messages.
pub(crate) const SHAPE: &str = "static:order=127.0.0.1:7001,127.0.0.1:7002,user=unix:/path";

/// Reads the text behind `static:`. An item without a name is another address of the service before it.
///
/// # Errors
/// What is wrong, as a fragment of a sentence.
pub fn parse(text: &str) -> Result<Addresses, String> {
    let mut addresses = Addresses::new();
    let mut current: Option<ServiceName> = None;
    for item in text.split(',') {
        let address = match item.split_once('=') {
            // A path may hold the sign too.
            Some((name, address)) if !name.contains([':', '/']) => {
                current = Some(ServiceName::new(name.trim()).map_err(|error| error.to_string())?);
                address
            }
            _ => item,
        };
        let Some(service) = &current else {
            return Err(format!("{item:?} names no service"));
        };
        let endpoint: Endpoint = address.trim().parse().map_err(|error| format!("{service}: {error}"))?;
        addresses.entry(service.clone()).or_default().push(endpoint);
    }
    Ok(addresses)
}

/// One entry of the table: a service, and its address or the list of them.
///
/// # Errors
/// What is wrong, as a fragment of a sentence.
pub fn entry(name: &str, value: &Value) -> Result<(ServiceName, Vec<Endpoint>), String> {
    let name = ServiceName::new(name).map_err(|error| error.to_string())?;
    let address = |value: &Value| match value {
        Value::String(text) => text.parse::<Endpoint>().map_err(|error| error.to_string()),
        other => {
            Err(format!("expected an address such as \"127.0.0.1:7001\" or \"unix:/path\", got {other}"))
        }
    };
    let endpoints = match value {
        Value::Array(list) => list.iter().map(address).collect::<Result<Vec<_>, _>>()?,
        one => vec![address(one)?],
    };
    if endpoints.is_empty() {
        return Err("expected one address at least, got none".into());
    }
    Ok((name, endpoints))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_read() {
        let read = parse("order=127.0.0.1:7001,127.0.0.1:7002,user=unix:/run/a=b.sock").expect("valid");
        let shown: Vec<(String, Vec<String>)> = read
            .into_iter()
            .map(|(name, list)| (name.to_string(), list.iter().map(ToString::to_string).collect()))
            .collect();
        let expected = [
            ("order".to_owned(), vec!["127.0.0.1:7001".to_owned(), "127.0.0.1:7002".to_owned()]),
            ("user".to_owned(), vec!["unix:/run/a=b.sock".to_owned()]),
        ];
        assert_eq!(shown, expected);
        for (bad, word) in [
            ("", "names no service"),
            ("127.0.0.1:7001", "names no service"),
            ("Order=127.0.0.1:7001", "Order"),
            ("order=", "order: \"\""),
            ("order=somewhere:80", "somewhere:80"),
            ("order=127.0.0.1:7001,", "\"\""),
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
