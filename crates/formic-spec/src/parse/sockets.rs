//! `sockets`: public addresses that the engine listens on for a service.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};

/// As many as `LISTEN_FDS` is used for by anybody.
const MOST: usize = 16;

/// The sockets by name, and where each stands.
pub(super) fn read(
    section: &mut Section<'_, '_>,
    notes: &mut Notes<'_>,
) -> (BTreeMap<String, SocketAddr>, Vec<Range<usize>>) {
    let mut read = BTreeMap::new();
    let Some(inner) = section.section("sockets", notes) else { return (BTreeMap::new(), Vec::new()) };
    let (whole, label) = (inner.span(), inner.path().to_owned());
    for (key, value) in inner.entries() {
        let name = key.get_ref().to_string();
        let path: String = format!("{label}.{name}").chars().take(200).collect();
        // What systemd allows in LISTEN_FDNAMES.
        let fits = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        if !fits {
            let message = format!("{} cannot be the name of a socket", quote(&name));
            let help = "letters, digits and signs, without a colon".to_owned();
            notes.push(&key.span(), FaultKind::InvalidName, &path, message, Some(help));
        }
        let help = || Some("write it like \"127.0.0.1:9000\" or \"[::1]:9000\"".to_owned());
        let address = value.get_ref().as_str().and_then(|text| text.parse::<SocketAddr>().ok());
        match address {
            Some(address) if address.port() != 0 => {
                read.insert(name, (address, value.span()));
            }
            Some(_) => {
                let message = format!("the socket {} needs a port of its own", quote(&name));
                notes.push(&value.span(), FaultKind::InvalidValue, &path, message, help());
            }
            None => {
                let message = format!("the socket {} is not an address with a port", quote(&name));
                notes.push(&value.span(), FaultKind::InvalidValue, &path, message, help());
            }
        }
    }
    if read.len() > MOST {
        let message = format!("{} sockets, where {MOST} are the most", read.len());
        notes.push(&whole, FaultKind::InvalidValue, &label, message, None);
    }
    read.into_iter().map(|(name, (address, span))| ((name, address), span)).unzip()
}
