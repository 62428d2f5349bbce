//! What an operator may set.

use std::time::Duration;

use serde::Deserialize;

/// Longer than a service's usual step towards this one waits, so that the slow card shows what an unseen answer does.
const SLOW_CARD_MS: u64 = 3_000;

/// The table `[service.payment.config]`; times are in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long the processor thinks about any card.
    pub processor_delay_ms: u64,
    /// How long it thinks about the slow one, 4000 0000 0000 0077.
    pub slow_card_delay_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { processor_delay_ms: 0, slow_card_delay_ms: SLOW_CARD_MS }
    }
}

impl Config {
    pub(crate) fn processor_delay(&self) -> Duration {
        Duration::from_millis(self.processor_delay_ms)
    }

    pub(crate) fn slow_card_delay(&self) -> Duration {
        Duration::from_millis(self.slow_card_delay_ms)
    }
}
