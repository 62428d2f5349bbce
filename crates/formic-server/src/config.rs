//! The server's limits. Every one has a default with its reason, and none can be switched off.

use std::time::Duration;

use crate::overload;

/// How much a server takes from strangers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest message, in bytes: gRPC's own default of 4 MiB.
    pub max_message: usize,
    /// Largest header block, in bytes; hyper's HTTP/1 minimum is 8 KiB.
    pub max_headers: u32,
    /// Calls in progress on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Connections at a time; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// Calls in progress in the whole server; more are refused with `resource_exhausted`.
    pub max_in_flight: usize,
    /// How the server defends itself below that.
    pub overload: overload::Config,
    /// How long a client may take to send its first request or a request's headers.
    pub header_timeout: Duration,
    /// How long nothing of a request may arrive while the rest of it is waited for. Requests that stream may
    /// pause for as long as their call may take.
    pub body_timeout: Duration,
    /// How long a connection may take nothing of what is written to it.
    pub write_timeout: Duration,
    /// An HTTP/2 peer that answers no ping for interval + timeout is gone.
    pub keep_alive_interval: Duration,
    /// See [`keep_alive_interval`](Self::keep_alive_interval).
    pub keep_alive_timeout: Duration,
    /// Deadline of a call that brought none.
    pub default_deadline: Duration,
    /// The longest deadline that a caller may ask for.
    pub max_deadline: Duration,
    /// What all multiplexed connections together may hold, in bytes: requests that are not complete or are worked on, and answers that
    /// are not written. The first 16 KiB of each connection are not counted.
    pub max_held: usize,
    /// A multiplexed connection without a call for so long is closed, with a word.
    pub idle_timeout: Duration,
    /// How long streams of answers may go on once the server finishes its calls; those that are quiet end
    /// after a fifth of it.
    pub drain_streams: Duration,
    /// Whether the multiplexed wire is answered beside HTTP, on the same port. A server with layers of its author answers
    /// HTTP alone: they stand around HTTP.
    pub multiplexed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_message: 4 << 20,
            max_headers: 16 << 10,
            // A multiple of what one balanced client keeps in flight.
            max_concurrent_streams: 1024,
            max_connections: 10_000,
            max_in_flight: 16_384,
            overload: overload::Config::default(),
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            // A person who pauses `curl | less` reads on within this; what nginx allows.
            write_timeout: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
            default_deadline: Duration::from_secs(30),
            max_deadline: Duration::from_secs(3600),
            // Sixty-four of the largest messages on one connection.
            max_held: 512 << 20,
            // Callers that are there but quiet cost little; this is for those that are forgotten.
            idle_timeout: Duration::from_secs(3600),
            // A download ends within; who watches for changes has nothing to lose but the connection.
            drain_streams: Duration::from_secs(5),
            multiplexed: true,
        }
    }
}
