//! Metrics of a client's traffic: ejections, further attempts, and what the budget refused.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What happens to the calls to a service, besides that they end. All of it is rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happening {
    /// An instance is left out for its failures.
    Ejection,
    /// An instance that was left out gets calls again.
    Return,
    /// A call is made again after a failed attempt.
    Retry,
    /// A second attempt begins beside a slow first one.
    Hedge,
    /// Another attempt is not made, for the budget is used up.
    Exhausted,
    /// So few instances are in from now on that ejections are ignored.
    Panic,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Service(Arc<str>);

impl EncodeLabelSet for Service {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        ("service", &*self.0).encode(encoder.encode_label())
    }
}

/// A family for each happening, in the order of the enum.
#[derive(Debug)]
pub(crate) struct Families([Family<Service, Counter>; 6]);

impl Families {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("client");
        let texts = [
            ("ejections", "Instances left out for their failures, by called service"),
            ("returns", "Instances that get calls again after an ejection, by called service"),
            ("retries", "Attempts after a failed one, by called service"),
            ("hedges", "Attempts beside a slow one, by called service"),
            ("budget_exhausted", "Attempts not made because the budget was used up, by called service"),
            (
                "panics",
                "Times that too few instances were left in, so that ejections were ignored, by called service",
            ),
        ];
        Self(texts.map(|(name, help)| {
            let family = Family::<Service, Counter>::default();
            registry.register(name, help, family.clone());
            family
        }))
    }

    pub(crate) fn count(&self, service: &str, what: Happening) {
        self.0[what as usize].get_or_create_owned(&Service(service.into())).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_happening_has_its_own_counter() {
        let metrics = crate::Metrics::new();
        let all = [
            (Happening::Ejection, "ejections"),
            (Happening::Return, "returns"),
            (Happening::Retry, "retries"),
            (Happening::Hedge, "hedges"),
            (Happening::Exhausted, "budget_exhausted"),
            (Happening::Panic, "panics"),
        ];
        for (times, (what, _)) in all.iter().enumerate() {
            (0..=times).for_each(|_| metrics.happened("order", *what));
        }
        let text = metrics.render();
        for (times, (_, name)) in all.iter().enumerate() {
            let line = format!("formic_client_{name}_total{{service=\"order\"}} {}", times + 1);
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
