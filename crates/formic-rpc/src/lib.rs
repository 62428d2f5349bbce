//! A call that knows no transport, floor 1.
//!
//! A [`Call`] is a method, metadata, a deadline and bytes; an [`Answer`] is metadata and bytes. A
//! [`Handle`] turns the one into the other. Servers wrap handles, clients are handles, interceptors
//! stand between two of them, and the same call goes over HTTP, a socket of our own or a function
//! call. This is also the one crate that translates between these words and connectrpc's
//! ([`bridge`], [`raw`]); no other crate's public API names its types.
//!
//! What was refused: tower's `Service<http::Request>` as the common shape. It makes every transport
//! pretend to be HTTP and costs twenty times what a dispatch does.

pub mod bridge;
pub mod call;
pub mod channel;
pub mod context;
mod decoding;
pub mod drain;
mod encoding;
pub mod handle;
pub mod intercept;
pub mod message;
pub mod raw;
pub mod rt;
pub mod run;
pub mod table;
pub mod trace;
pub mod wire_error;

pub use call::{Answer, Body, Call, Codec, Peer, Trailing};
pub use channel::{Channel, Sent, StreamCall, UnaryCall};
pub use context::Context;
pub use drain::Drain;
pub use handle::{BoxFuture, Handle, Routes};
pub use intercept::{Intercepted, Interceptor, Next};
pub use message::{Inbound, Reply, Request, Response, Sender, Streaming, reply};
pub use run::{ByteStream, Run, Runs};
pub use trace::TraceContext;
