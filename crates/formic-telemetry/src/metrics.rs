//! Prometheus metrics: requests, errors, latency and calls in flight, per method.
//!
//! A method's handles are made once and kept, so that a call costs a few atomics and no formatting.
//! Only methods that exist get series of their own: a caller cannot make new ones by guessing.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use formic_core::{Code, Error};
use formic_rpc::table::Table;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::travelled::{First, Travelled};
use crate::{Happening, Overload, traffic};

/// 0.1 ms to 30 s, about ×2.5 a step: loopback calls and slow external ones fall into different buckets.
const BUCKETS: [f64; 15] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The end of a text of metrics.
const EOF: &str = "# EOF";

/// Which half of a call is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Calls answered here.
    Server,
    /// Calls made from here.
    Client,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct MethodLabels {
    service: Arc<str>,
    method: Arc<str>,
    code: Option<&'static str>,
}

impl EncodeLabelSet for MethodLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        ("service", &*self.service).encode(encoder.encode_label())?;
        ("method", &*self.method).encode(encoder.encode_label())?;
        match self.code {
            Some(code) => ("code", code).encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

type Latency = Family<MethodLabels, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

struct Families {
    requests: Family<MethodLabels, Counter>,
    latency: Latency,
    in_flight: Family<MethodLabels, Gauge>,
}

impl Families {
    fn new(registry: &mut Registry, side: Side) -> Self {
        let (prefix, in_flight) = match side {
            Side::Server => ("server", "Calls that are being answered"),
            Side::Client => ("client", "Calls that were made and are not over"),
        };
        let families = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(histogram as fn() -> Histogram),
            in_flight: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix(prefix);
        registry.register("requests", "Calls that ended, by status code", families.requests.clone());
        registry.register_with_unit(
            "latency",
            "Time from a call's first byte to its answer's last",
            Unit::Seconds,
            families.latency.clone(),
        );
        registry.register("in_flight", in_flight, families.in_flight.clone());
        families
    }
}

/// The metrics of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

/// Replaced when a method is added, so that to look one up writes to no memory that threads share.
type Methods = ArcSwap<Table<Arc<MethodMetrics>>>;

struct Inner {
    registry: RwLock<Registry>,
    server: Families,
    client: Families,
    server_methods: Methods,
    client_methods: Methods,
    /// Calls that were made, by what they travelled over.
    travelled: Arc<Travelled>,
    /// What happened to calls that were made, besides that they ended.
    traffic: traffic::Families,
    arrived: [(&'static str, Arrivals); 2],
    /// Only processes that serve have it.
    overload: OnceLock<Arc<Overload>>,
    /// Who else has something to say, asked each time.
    sources: RwLock<Vec<Source>>,
}

/// Metrics as text, made when they are asked for.
type Source = Box<dyn Fn() -> String + Send + Sync>;

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty set of metrics.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("formic");
        let server = Families::new(&mut registry, Side::Server);
        let client = Families::new(&mut registry, Side::Client);
        let (server_methods, client_methods) = (Methods::default(), Methods::default());
        let travelled = Arc::new(Travelled::register(&mut registry));
        let traffic = traffic::Families::register(&mut registry);
        let arrived = Arrivals::register(&mut registry);
        let registry = RwLock::new(registry);
        let overload = OnceLock::new();
        Self(Arc::new(Inner {
            registry,
            server,
            client,
            server_methods,
            client_methods,
            travelled,
            traffic,
            arrived,
            overload,
            sources: RwLock::default(),
        }))
    }

    /// Counts what happened to the calls to a service. Call it with services that exist only.
    pub fn happened(&self, service: &str, what: Happening) {
        self.0.traffic.count(service, what);
    }

    /// What arrives over a transport: `multiplexed`, or else `http`.
    #[must_use]
    pub fn arrivals(&self, transport: &str) -> Arrivals {
        let [(name, first), (_, second)] = &self.0.arrived;
        if *name == transport { first.clone() } else { second.clone() }
    }

    /// The handles of the server's overload control.
    #[must_use]
    pub fn overload(&self) -> Arc<Overload> {
        let register = || {
            let mut registry = self.0.registry.write().unwrap_or_else(PoisonError::into_inner);
            Overload::register(&mut registry)
        };
        Arc::clone(self.0.overload.get_or_init(register))
    }

    /// The handles of a method, `/package.Service/Method`. Call it with methods that exist only.
    #[must_use]
    pub fn method(&self, side: Side, path: &str) -> Arc<MethodMetrics> {
        self.with_method(side, path, Arc::clone)
    }

    /// The same for a moment: clients ask twice a call, from all threads, and so do not count who has the handles.
    pub fn with_method<R>(&self, side: Side, path: &str, then: impl FnOnce(&Arc<MethodMetrics>) -> R) -> R {
        let methods = self.families(side).1;
        match methods.load().get(path) {
            Some(found) => then(found),
            None => then(&self.add(side, path)),
        }
    }

    fn families(&self, side: Side) -> (&Families, &Methods) {
        match side {
            Side::Server => (&self.0.server, &self.0.server_methods),
            Side::Client => (&self.0.client, &self.0.client_methods),
        }
    }

    fn add(&self, side: Side, path: &str) -> Arc<MethodMetrics> {
        let (families, methods) = self.families(side);
        let (service, method) = formic_core::method::split(path);
        let labels = MethodLabels { service: service.into(), method: method.into(), code: None };
        let metrics = Arc::new(MethodMetrics {
            latency: families.latency.get_or_create_owned(&labels),
            in_flight: families.in_flight.get_or_create_owned(&labels),
            requests: families.requests.clone(),
            by_code: std::array::from_fn(|_| OnceLock::new()),
            travelled: Arc::clone(&self.0.travelled),
            first: First::default(),
            labels,
        });
        let mut added = Arc::clone(&metrics);
        methods.rcu(|known| {
            let mut known = Table::clone(known);
            // Somebody else may have been sooner.
            added = Arc::clone(known.entry(path.to_owned()).or_insert_with(|| Arc::clone(&metrics)));
            known
        });
        added
    }

    /// Adds metrics of the author's own, or of another crate.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.0.registry.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds metrics that somebody else makes at each scrape: whole families in the OpenMetrics format, without
    /// its last line.
    pub fn add_source(&self, source: impl Fn() -> String + Send + Sync + 'static) {
        self.0.sources.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(source));
    }

    /// The text that `/metrics` answers, in the OpenMetrics format that Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut out, &self.0.registry.read().unwrap_or_else(PoisonError::into_inner));
        // The last line says that it is the last.
        out.truncate(out.trim_end().strip_suffix(EOF).map_or(out.len(), str::len));
        for source in self.0.sources.read().unwrap_or_else(PoisonError::into_inner).iter() {
            out.push_str(&source());
        }
        out.push_str(EOF);
        out.push('\n');
        out
    }
}

/// What arrives at a server over one transport. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Arrivals {
    connections: Counter,
    calls: Counter,
}

impl Arrivals {
    fn register(registry: &mut Registry) -> [(&'static str, Self); 2] {
        type Counters = Family<[(&'static str, &'static str); 1], Counter>;
        let (connections, calls) = (Counters::default(), Counters::default());
        let registry = registry.sub_registry_with_prefix("server");
        let help = "Connections that said something, by what is spoken on them";
        registry.register("connections", help, connections.clone());
        registry.register("transport", "Calls that arrived, by what they travelled over", calls.clone());
        ["multiplexed", "http"].map(|name| {
            let labels = [("transport", name)];
            let connections = connections.get_or_create_owned(&labels);
            (name, Self { connections, calls: calls.get_or_create_owned(&labels) })
        })
    }

    /// Counts a connection.
    pub fn connection(&self) {
        self.connections.inc();
    }

    /// Counts a call.
    pub fn call(&self) {
        self.calls.inc();
    }
}

/// The handles of one method.
#[derive(Debug)]
pub struct MethodMetrics {
    labels: MethodLabels,
    requests: Family<MethodLabels, Counter>,
    by_code: [OnceLock<Counter>; 17],
    latency: Histogram,
    in_flight: Gauge,
    travelled: Arc<Travelled>,
    first: First,
}

impl MethodMetrics {
    /// Counts a call as begun; it ends when the guard is finished or dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.inc();
        InFlight { metrics: Arc::clone(self), started: Instant::now(), code: Some(Code::Canceled) }
    }

    /// Counts a call as begun, for somebody who cannot keep the guard of [`begin`](Self::begin): exactly
    /// one [`ended`](Self::ended) follows.
    pub fn began(&self) {
        self.in_flight.inc();
    }

    /// Counts a call as over that was counted by [`began`](Self::began).
    pub fn ended(&self, code: Option<Code>, took: Duration) {
        self.in_flight.dec();
        self.observe(code, took);
    }

    /// Counts what a call from here to a service travelled over: `multiplexed`, `http`, or `none` within the process. Call it
    /// with services that exist only, or with a fixed address.
    pub fn travelled(&self, service: &str, transport: &str) {
        self.travelled.count(&self.first, service, transport);
    }

    fn observe(&self, code: Option<Code>, took: Duration) {
        self.latency.observe(took.as_secs_f64());
        let index = code.map_or(0, Code::number) as usize;
        self.by_code[index]
            .get_or_init(|| {
                let code = Some(code.map_or("ok", Code::as_str));
                self.requests.get_or_create_owned(&MethodLabels { code, ..self.labels.clone() })
            })
            .inc();
    }
}

/// A call in flight. Dropped without an outcome it counts as `canceled`.
#[derive(Debug)]
pub struct InFlight {
    metrics: Arc<MethodMetrics>,
    started: Instant,
    code: Option<Code>,
}

impl InFlight {
    /// Notes the outcome; it is counted when the guard is dropped.
    pub fn outcome<T>(&mut self, result: &Result<T, Error>) {
        self.code = result.as_ref().err().map(Error::code);
    }

    /// How long the call has taken so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.ended(self.code, self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_calls_came_over() {
        let metrics = Metrics::new();
        metrics.arrivals("multiplexed").connection();
        metrics.arrivals("http").call();
        let text = metrics.render();
        for line in [
            r#"formic_server_connections_total{transport="multiplexed"} 1"#,
            r#"formic_server_connections_total{transport="http"} 0"#,
            r#"formic_server_transport_total{transport="multiplexed"} 0"#,
            r#"formic_server_transport_total{transport="http"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn what_others_say_comes_before_the_end() {
        let metrics = Metrics::new();
        let bare = metrics.render();
        metrics.add_source(|| "# TYPE other gauge\nother 1\n".into());
        let text = metrics.render();
        assert!(bare.ends_with("\n# EOF\n") && bare.matches("# EOF").count() == 1, "{bare}");
        assert_eq!(text, bare.replace("# EOF", "# TYPE other gauge\nother 1\n# EOF"));
    }

    #[test]
    fn a_call_shows_up_once_it_ended() {
        let metrics = Metrics::new();
        let method = metrics.method(Side::Server, "/a.B/C");
        let mut call = method.begin();
        assert!(metrics.render().contains(r#"formic_server_in_flight{service="a.B",method="C"} 1"#));
        call.outcome(&Ok::<_, Error>(()));
        drop(call);
        drop(metrics.method(Side::Server, "/a.B/C").begin());
        let text = metrics.render();
        assert!(
            text.contains(r#"formic_server_requests_total{service="a.B",method="C",code="ok"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"code="canceled"} 1"#), "{text}");
        assert!(
            text.contains(r#"formic_server_latency_seconds_count{service="a.B",method="C"} 2"#),
            "{text}"
        );
        assert!(text.contains(r#"formic_server_in_flight{service="a.B",method="C"} 0"#), "{text}");
    }
}
