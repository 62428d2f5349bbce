//! What a running service tells about itself: structured logs and Prometheus metrics.
//!
//! Trace context is part of the call (`formic_rpc::TraceContext`); here it is written beside every
//! log line of the call. It is read from the call's scope when a line is written, so a call that
//! logs nothing pays nothing for it; a tracing span per call was refused for that reason.

pub mod logs;
pub mod metrics;
pub mod overload;
pub mod traffic;
mod travelled;

pub use logs::LogFormat;
pub use metrics::{Arrivals, InFlight, MethodMetrics, Metrics, Side};
pub use overload::Overload;
pub use traffic::Happening;
