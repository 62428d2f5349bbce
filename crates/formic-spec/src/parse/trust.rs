//! Whom the gateway believes what they say of callers, and whom it tells its numbers.

use super::section::{Notes, Section};
use crate::fault::quote;
use crate::manifest::{Gateway, Scrapers};

const SCRAPERS: [(&str, Scrapers); 3] =
    [("local", Scrapers::Local), ("all", Scrapers::All), ("none", Scrapers::None)];

pub(super) fn read(section: &mut Section<'_, '_>, gateway: &mut Gateway, notes: &mut Notes<'_>) {
    for (text, span) in section.distinct("trusted_proxies", notes) {
        match text.parse() {
            Ok(network) => gateway.trusted_proxies.push(network),
            Err(_) => {
                let message = format!("{} is neither an IP address nor a network", quote(&text));
                let help = "write it like \"127.0.0.1\" or \"10.0.0.0/8\"";
                notes.invalid(section, "trusted_proxies", &span, message, help);
            }
        }
    }
    gateway.metrics = section.word("metrics", &SCRAPERS, notes).unwrap_or_default();
}
