//! Plain HTTP through the gateway: requests that are no calls go to ready instances of the service that a
//! route names, as they came.
//!
//! ```text
//! table    which route, which instance         headers  what belongs to one hop, what the instance is told
//! forward  attempts, limits, time              body     both bodies as they stream by
//! backend  connections of one instance         tunnel   WebSockets and what else takes the connection over
//! ```
//!
//! It is asked before the calls' own checks, because its limits are the routes'. hyper's pooling client was
//! refused: it takes the request away before it connects, and so could not go on to another instance.

mod backend;
mod body;
mod forward;
mod headers;
mod table;
mod tunnel;

pub(crate) use forward::{Web, pass_on};
pub(crate) use table::WebTable;
