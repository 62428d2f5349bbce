//! An instance as DNS-SD carries it: TXT keys, bounded in size.
//!
//! | key | value |
//! |---|---|
//! | `txtvers` | `1` |
//! | `service` | the service's name |
//! | `version` | the version, absent when empty |
//! | `addr` | the address if it is `::1`, which many systems cannot announce (loopback without IPv6 multicast) |
//! | `rpc`, `rpc1`, … | names of RPC services, comma-separated, as many keys as needed |
//! | `m.<key>` | metadata |
//!
//! Methods do not travel: ask the instance by reflection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use formic_core::{Endpoint, Instance, InstanceId, RpcService, ServiceName};
use formic_registry::Error;
use mdns_sd::{ResolvedService, ScopedIp};

use crate::SERVICE_TYPE;

/// RFC 6763 §6.2: a TXT record should fit one Ethernet frame together with the rest.
pub const MAX_BYTES: usize = 1300;

/// One string of a TXT record holds at most this: its length is one byte.
const MAX_STRING: usize = 255;

/// The TXT pairs of an instance, and what did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// In the order of importance.
    pub pairs: Vec<(String, String)>,
    /// Metadata keys and RPC names that were left out, and why is in the log.
    pub dropped: Vec<String>,
}

/// Writes an instance.
///
/// # Errors
/// `Invalid` if what callers cannot do without does not fit.
pub fn encode(instance: &Instance) -> Result<Encoded, Error> {
    let mut out = Encoded { pairs: Vec::new(), dropped: Vec::new() };
    let mut left = MAX_BYTES;
    let mut push = |pairs: &mut Vec<(String, String)>, key: &str, value: &str| {
        let bytes = key.len() + 1 + value.len();
        // One byte more on the wire: the length.
        let fits = bytes <= MAX_STRING && bytes < left;
        if fits {
            left -= bytes + 1;
            pairs.push((key.into(), value.into()));
        }
        fits
    };
    push(&mut out.pairs, "txtvers", "1");
    push(&mut out.pairs, "service", instance.service.as_str());
    if !instance.version.is_empty() && !push(&mut out.pairs, "version", &instance.version) {
        return Err(Error::Invalid(format!("the version of {} is too long for DNS-SD", instance.id)));
    }
    if let Some(address) = hidden(&instance.endpoint) {
        push(&mut out.pairs, "addr", &address.to_string());
    }
    for (index, line) in lines(&instance.rpc).into_iter().enumerate() {
        let key = if index == 0 { "rpc".into() } else { format!("rpc{index}") };
        if !push(&mut out.pairs, &key, &line) {
            out.dropped.push(line);
        }
    }
    let mut taken = BTreeSet::new();
    for (key, value) in &instance.metadata {
        // Keys are printable ASCII without `=`, and do not differ by case alone (RFC 6763 §6.4).
        let valid = key.bytes().all(|byte| matches!(byte, 0x20..=0x7e) && byte != b'=');
        let fits = valid
            && taken.insert(key.to_ascii_lowercase())
            && push(&mut out.pairs, &format!("m.{key}"), value);
        if !fits {
            out.dropped.push(key.clone());
        }
    }
    Ok(out)
}

/// The address of an instance on the IPv6 loopback; it is announced as 127.0.0.1, with this in TXT.
pub(crate) fn hidden(endpoint: &Endpoint) -> Option<IpAddr> {
    match endpoint {
        Endpoint::Tcp(SocketAddr::V6(addr)) if addr.ip().is_loopback() => Some(IpAddr::V6(*addr.ip())),
        _ => None,
    }
}

/// RPC names in lines that fit one string each.
fn lines(rpc: &[RpcService]) -> Vec<String> {
    const MAX_LINE: usize = 240;
    let mut lines: Vec<String> = Vec::new();
    for RpcService { name, .. } in rpc {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + name.len() <= MAX_LINE => {
                line.push(',');
                line.push_str(name);
            }
            _ => lines.push(name.clone()),
        }
    }
    lines
}

/// Reads an instance that somebody announced; `None` if it is not one of ours.
pub(crate) fn decode(found: &ResolvedService) -> Option<Instance> {
    let label = found.fullname.strip_suffix(SERVICE_TYPE)?.strip_suffix('.')?;
    let pairs = found.txt_properties.iter().filter_map(|property| {
        let value = std::str::from_utf8(property.val().unwrap_or_default()).ok()?;
        Some((property.key().to_owned(), value.to_owned()))
    });
    read(unescape(label), address(found)?, pairs)
}

fn read(
    id: String,
    mut address: SocketAddr,
    pairs: impl Iterator<Item = (String, String)>,
) -> Option<Instance> {
    let (mut service, mut version, mut rpc) = (None, String::new(), BTreeMap::new());
    let mut metadata = BTreeMap::new();
    for (key, value) in pairs {
        match key.as_str() {
            "service" => service = Some(ServiceName::new(value).ok()?),
            "version" => version = value,
            // Believed only about this machine: nobody may send callers elsewhere than it answers from.
            "addr" => match value.parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() && address.ip().is_loopback() => address.set_ip(ip),
                _ => return None,
            },
            key => {
                if let Some(key) = key.strip_prefix("m.") {
                    metadata.insert(key.to_owned(), value);
                } else if let Some(index) = key.strip_prefix("rpc") {
                    rpc.insert(index.parse().unwrap_or(0_u16), value);
                }
            }
        }
    }
    let names = rpc.values().flat_map(|line| line.split(',')).filter(|name| !name.is_empty());
    let rpc = names.map(|name| RpcService { name: name.to_owned(), methods: Vec::new() }).collect();
    Some(Instance {
        id: InstanceId::new(id),
        service: service?,
        version,
        endpoint: Endpoint::Tcp(address),
        metadata,
        rpc,
    })
}

/// The address to call: IPv4 first, as every machine has it; the same choice at every look.
fn address(found: &ResolvedService) -> Option<SocketAddr> {
    let best = found.addresses.iter().min_by_key(|ip| (!ip.is_ipv4(), ip.to_ip_addr()))?;
    let mut address = SocketAddr::new(best.to_ip_addr(), found.port);
    if let (SocketAddr::V6(v6), ScopedIp::V6(scoped)) = (&mut address, best)
        && v6.ip().is_unicast_link_local()
    {
        v6.set_scope_id(scoped.scope_id().index);
    }
    Some(address)
}

/// Undoes the escapes of an instance name (RFC 6763 §4.3).
fn unescape(label: &str) -> String {
    let mut out = String::with_capacity(label.len());
    let mut chars = label.chars();
    while let Some(char) = chars.next() {
        out.extend(if char == '\\' { chars.next() } else { Some(char) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance {
            id: InstanceId::new("order-1"),
            service: ServiceName::new("order").expect("valid"),
            version: "v1".into(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], 80).into()),
            metadata: BTreeMap::from([("zone".into(), "eu=1".into()), ("empty".into(), String::new())]),
            rpc: Vec::new(),
        }
    }

    fn back(instance: &Instance, encoded: Encoded) -> Instance {
        let Endpoint::Tcp(address) = instance.endpoint else { panic!("tcp") };
        read(instance.id.to_string(), address, encoded.pairs.into_iter()).expect("readable")
    }

    #[test]
    fn what_is_written_is_read() {
        let mut instance = instance();
        instance.rpc = (0..20)
            .map(|n| RpcService { name: format!("shop.order.v1.OrderService{n}"), methods: Vec::new() })
            .collect();
        let encoded = encode(&instance).expect("fits");
        assert!(encoded.dropped.is_empty());
        assert_eq!(back(&instance, encoded), instance);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_said() {
        let mut instance = instance();
        instance.metadata = (0..20).map(|n| (format!("key{n:02}"), "x".repeat(100))).collect();
        instance.metadata.insert("a-long-one".into(), "x".repeat(300));
        instance.metadata.insert("k=v".into(), "x".into());
        instance.metadata.insert("KEY00".into(), "x".into());
        let encoded = encode(&instance).expect("the rest fits");
        let bytes: usize = encoded.pairs.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        assert!(bytes <= MAX_BYTES, "{bytes}");
        for dropped in ["a-long-one", "k=v", "key00", "key19"] {
            assert!(encoded.dropped.iter().any(|key| key == dropped), "{dropped} in {:?}", encoded.dropped);
        }
        assert_eq!(
            encoded.pairs.iter().filter(|(key, _)| key.starts_with("m.")).count() + encoded.dropped.len(),
            23
        );
    }

    #[test]
    fn names_with_dots_come_back() {
        assert_eq!(unescape(r"a\.b\\c"), r"a.b\c");
    }

    #[test]
    fn strangers_are_ignored() {
        let address = ([127, 0, 0, 1], 80).into();
        assert!(read("x".into(), address, std::iter::empty()).is_none());
        let bad = [("service".to_owned(), "Not A Name".to_owned())];
        assert!(read("x".into(), address, bad.into_iter()).is_none());
    }
}
