//! For tests of services: several of them wired together in memory, with no port and a clock that
//! may be paused; or one of them on a real loopback port; faults to order, counted; and waiting that says
//! what it waited for.
//!
//! ```ignore
//! let network = Network::new();
//! network.serve("user", Users::in_memory());
//! network.serve("order", Orders::new(UserServiceClient::new(network.client("user"))));
//! let order = OrderServiceClient::new(network.client("order"));
//! ```
//!
//! Calls in the network take the whole way of a real one but for the socket: deadlines, metadata,
//! traces, interceptors, panics. A panic of a test's own making is the one thing not softened here.

mod fabric;
pub mod faults;
mod network;
mod skip;
mod transient;
mod transport;
mod wait;

pub use fabric::Fabric;
pub use faults::{Fault, Faults, Relay};
pub use network::Network;
pub use skip::skipped;
pub use transient::Transient;
pub use transport::transport;
pub use wait::{in_time, wait_for, wait_until};
