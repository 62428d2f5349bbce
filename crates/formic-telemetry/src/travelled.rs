//! Over what calls travel, by called service.
//!
//! A service's series are made once and kept, and a method remembers those of the service that it was first called of: a
//! call costs one comparison of names and one atomic.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// What calls travel over; the last is for those that stay in the process or get nowhere.
const TRANSPORTS: [&str; 3] = ["multiplexed", "http", "none"];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels {
    service: Arc<str>,
    transport: &'static str,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        ("service", &*self.service).encode(encoder.encode_label())?;
        ("transport", self.transport).encode(encoder.encode_label())
    }
}

/// A service's counters, in the order of [`TRANSPORTS`].
type Series = Arc<[Counter; TRANSPORTS.len()]>;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Travelled {
    family: Family<Labels, Counter>,
    services: RwLock<HashMap<Arc<str>, Series>>,
}

/// Those of the service that a method was first called of; mostly it is of no other.
#[derive(Debug, Default)]
pub(crate) struct First(OnceLock<(Box<str>, Series)>);

// === impl Travelled ===

impl Travelled {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        let help = "Calls made from here, by called service and by what they travelled over";
        registry.sub_registry_with_prefix("client").register("transport", help, all.family.clone());
        all
    }

    /// Counts a call of a method.
    pub(crate) fn count(&self, first: &First, service: &str, transport: &str) {
        let Some(at) = TRANSPORTS.iter().position(|name| *name == transport) else { return };
        let (name, series) = first.0.get_or_init(|| (service.into(), self.of(service)));
        if **name == *service {
            series[at].inc();
        } else {
            self.of(service)[at].inc();
        }
    }

    fn of(&self, service: &str) -> Series {
        // A fixed address is no service. Instances have ever other ones, and series are for good.
        let service = if service.contains(':') { "" } else { service };
        if let Some(found) = self.services.read().unwrap_or_else(PoisonError::into_inner).get(service) {
            return Arc::clone(found);
        }
        let service: Arc<str> = service.into();
        let counter =
            |transport| self.family.get_or_create_owned(&Labels { service: Arc::clone(&service), transport });
        let series = Arc::new(TRANSPORTS.map(counter));
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(services.entry(Arc::clone(&service)).or_insert(series))
    }
}

#[cfg(test)]
mod tests {
    use crate::{Metrics, Side};

    #[test]
    fn a_call_says_whom_it_went_to_and_over_what() {
        let metrics = Metrics::new();
        let health = metrics.method(Side::Client, "/grpc.health.v1.Health/Check");
        health.travelled("order", "multiplexed");
        health.travelled("payment", "http");
        health.travelled("payment", "http");
        metrics.method(Side::Client, "/a.B/C").travelled("payment", "none");
        let text = metrics.render();
        for (service, [multiplexed, http, none]) in [("order", [1, 0, 0]), ("payment", [0, 2, 1])] {
            for (transport, calls) in [("multiplexed", multiplexed), ("http", http), ("none", none)] {
                let name = "formic_client_transport_total";
                let line = format!("{name}{{service=\"{service}\",transport=\"{transport}\"}} {calls}\n");
                assert!(text.contains(&line), "{line} in {text}");
            }
        }
    }

    #[test]
    fn addresses_make_no_series() {
        let metrics = Metrics::new();
        let method = metrics.method(Side::Client, "/a.B/C");
        for port in 1..100 {
            method.travelled(&format!("127.0.0.1:{port}"), "http");
        }
        method.travelled("unix:/run/a", "http");
        let text = metrics.render();
        assert!(text.contains(r#"formic_client_transport_total{service="",transport="http"} 100"#), "{text}");
        assert_eq!(text.matches("\nformic_client_transport_total").count(), 3, "{text}");
    }
}
