//! An endpoint for people: what `formic traffic` and the API show.

use std::time::Duration;

use formic_core::Instance;
use serde::{Deserialize, Serialize};

use super::zone;
use crate::Backend;
use crate::backend::PROBING;
use crate::traffic::span;

/// Whether an endpoint gets calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It gets its share.
    Ready,
    /// It is new or just back, and its share grows.
    Warming,
    /// It failed lately; it gets calls, and the next ones decide.
    Suspect,
    /// It gets none for its failures.
    Ejected,
    /// A call is finding out whether it is well again.
    Probing,
    /// It cannot be reached.
    Down,
    /// It left, and finishes the calls that are on their way to it.
    Draining,
}

impl State {
    /// As people and programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Warming => "warming",
            Self::Suspect => "suspect",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Down => "down",
            Self::Draining => "draining",
        }
    }
}

/// An endpoint as of a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    /// The instance.
    pub instance: String,
    /// Its address.
    pub endpoint: String,
    /// Its zone; may be empty.
    pub zone: String,
    /// Its version; may be empty.
    pub version: String,
    /// Its weight.
    pub weight: f32,
    /// Calls on their way to it.
    pub in_flight: u32,
    /// What an answer took lately as of the last one, in milliseconds; 0 where there was none within a minute.
    pub latency_ms: f64,
    /// Calls of the last ten seconds.
    pub calls: u64,
    /// The share of these that succeeded; none of no calls.
    pub success_rate: Option<f64>,
    /// Whether it gets calls.
    pub state: State,
    /// Why it does not, with the evidence.
    pub reason: Option<String>,
    /// When it is probed next, from now; zero when the next call does.
    pub probe_in: Option<String>,
    /// How many times in a row it was ejected.
    pub ejections: u32,
    /// What calls to it travel over, where whoever holds the connections says so.
    pub transport: String,
}

pub(crate) fn of(instance: &Instance, backend: &Backend, now: Duration) -> BackendView {
    let ejected = backend.ejected();
    let (success_rate, calls) = backend.success_rate(now);
    let state = match &ejected {
        _ if backend.is_down() => State::Down,
        Some(_) if backend.state() == PROBING => State::Probing,
        Some(_) => State::Ejected,
        None if backend.is_suspect() => State::Suspect,
        None if backend.warmth(now) < 1.0 => State::Warming,
        None => State::Ready,
    };
    let probe_in = ejected.as_ref().map(|ejected| {
        // Whole milliseconds: nobody reads more.
        let left = ejected.probe_at.saturating_sub(now).as_millis();
        span::show(Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX)))
    });
    BackendView {
        instance: instance.id.to_string(),
        endpoint: instance.endpoint.to_string(),
        zone: zone(instance).unwrap_or_default().to_owned(),
        version: instance.version.clone(),
        weight: backend.weight(),
        in_flight: backend.in_flight(),
        latency_ms: backend.last(now).unwrap_or_default().as_secs_f64() * 1_000.0,
        calls,
        success_rate,
        state,
        reason: ejected.as_ref().map(|ejected| ejected.reason.to_string()),
        probe_in,
        ejections: ejected.map_or(0, |ejected| ejected.times),
        transport: String::new(),
    }
}
