//! The calling half: a channel by the name of a service, or to one endpoint.
//!
//! A call goes down one file after the other:
//!
//! ```text
//! stack    deadline (mandatory, shrinking) → trace → interceptors
//! dispatch → retry, hedge (one budget) → balance → in-flight guard
//! remote   → a connection of the endpoint's pool        local → a handle of this process
//! wire     → connectrpc over HTTP/2                      mux   → the multiplexed wire
//! unary    → the short way for one message each way
//! ```
//!
//! # Deadlines
//!
//! Every call has one: the earliest of the call's own, that of the call being served by this task, and,
//! when neither is given, [`Config::timeout`]. For a call that is answered with one message it covers
//! the whole call. For a call that is answered with a stream a given or inherited deadline covers the
//! whole stream, while the default covers only the time until the stream begins, because nobody can
//! guess how long a stream is meant to live. An endpoint that has not begun it by then has not answered.
//!
//! # Retries
//!
//! A call that surely reached no handler is made elsewhere, whatever its method. A call whose method is
//! idempotent is repeated once on `unavailable`, marked on the wire so that what it causes is not
//! repeated again; where the policy asks for it, a second attempt begins beside one that takes longer than
//! most. All of them draw on one budget per service. Requests that stream are not replayed once they
//! have begun, nor answers that stream after their first message. See [`retry`].
//!
//! # Traffic
//!
//! [`Traffic`] is the policy of all this as plain data, for all services or for one, and is replaced while
//! calls run ([`Client::set_traffic`]). [`Client::traffic`] shows what it does.
//!
//! # In this process
//!
//! A service that is served by this process ([`Client::add_local`]) is always called directly, even when
//! the registry knows other instances of it.
#![warn(missing_docs)]

mod allowance;
mod client;
mod config;
mod deadline;
mod dispatch;
mod flight;
mod headers;
mod hedge;
mod http2;
mod local;
mod mux;
mod observe;
mod outgoing;
mod progress;
mod remote;
mod service;
mod stack;
mod trace;
mod unary;
mod view;
mod watched;
mod way;
mod wire;

pub mod budget;
pub mod connect;
pub mod retry;

pub use allowance::Allowance;
pub use client::Client;
pub use config::{Config, Protocol, Transport};
pub use connect::{BoxIo, Connect, Duplex};
pub use formic_balance::{Algorithm, BackendView, State, Traffic, policy, traffic};
pub use formic_mux::capture::Recording;
pub use formic_rpc::context::REPEATED;
pub use observe::{Happening, Observer, Report};
pub use outgoing::Seen;
pub use view::{InvalidTraffic, TrafficView};

/// The header that marks a call as a repetition, or as caused by one. Its value is the number of the
/// attempt; servers look only whether it is there.
pub const ATTEMPT: &str = "formic-attempt";
