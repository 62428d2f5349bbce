//! Metrics of a server's overload control: the limit, what is worked on, what waits, what was refused.

use std::fmt;
use std::sync::Arc;

use formic_core::{Priority, Shed};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Labels(Shed, Priority);

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        ("reason", self.0.as_str()).encode(encoder.encode_label())?;
        ("priority", self.1.as_str()).encode(encoder.encode_label())
    }
}

/// The handles; servers that share their metrics share these too.
#[derive(Debug)]
pub struct Overload {
    limit: Gauge,
    working: Gauge,
    queued: Gauge,
    held: Gauge,
    shed: [[Counter; Priority::ALL.len()]; Shed::ALL.len()],
}

impl Overload {
    pub(crate) fn register(registry: &mut Registry) -> Arc<Self> {
        let family = Family::<Labels, Counter>::default();
        let counter = |reason, priority| family.get_or_create_owned(&Labels(reason, priority));
        let shed = Shed::ALL.map(|reason| Priority::ALL.map(|priority| counter(reason, priority)));
        let [limit, working, queued, held] = std::array::from_fn(|_| Gauge::default());
        let overload = Self { limit, working, queued, held, shed };
        let registry = registry.sub_registry_with_prefix("server");
        registry.register("limit", "Calls that may be worked on at a time", overload.limit.clone());
        registry.register("working", "Calls that count against the limit now", overload.working.clone());
        registry.register("queued", "Calls that wait for their turn", overload.queued.clone());
        registry.register(
            "held_bytes",
            "Bytes of requests and answers that multiplexed connections hold",
            overload.held.clone(),
        );
        registry.register("shed", "Calls refused before any work, by reason and priority", family);
        Arc::new(overload)
    }

    /// The limit of now.
    pub fn limit(&self, calls: usize) {
        self.limit.set(i64::try_from(calls).unwrap_or(i64::MAX));
    }

    /// One more is worked on.
    pub fn began(&self) {
        self.working.inc();
    }

    /// One less is worked on.
    pub fn ended(&self) {
        self.working.dec();
    }

    /// So many wait.
    pub fn queued(&self, calls: usize) {
        self.queued.set(i64::try_from(calls).unwrap_or(i64::MAX));
    }

    /// So many bytes more are held, or less.
    pub fn held(&self, bytes: i64) {
        self.held.inc_by(bytes);
    }

    /// One of this priority was refused.
    pub fn shed(&self, reason: Shed, priority: Priority) {
        self.shed[reason as usize][priority as usize].inc();
    }
}
