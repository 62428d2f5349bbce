//! What clients of tests call over.

use formic_client::Transport;

/// The multiplexed wire, to every endpoint that answers it; what `FORMIC_TRANSPORT` says, where it is set. So tests of calls
/// run over either, unchanged.
#[must_use]
pub fn transport() -> Transport {
    std::env::var("FORMIC_TRANSPORT")
        .ok()
        .and_then(|name| Transport::named(&name))
        .unwrap_or(Transport::Multiplexed)
}
