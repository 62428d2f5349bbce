//! Code generation for `build.rs`, floor 3: `.proto` files to messages, service traits, servers and
//! clients, without `protoc`.
//!
//! The whole of a `build.rs`'s `main` is
//!
//! ```no_run
//! formic_build::compile(&["proto/greeter/v1/greeter.proto"]);
//! ```
//!
//! and of the crate's share `formic::include_protos!();` in the crate. Everything lands in one file, `formic.rs`, with a
//! module per proto package and the descriptor set beside it (`descriptors.bin`), so that committed
//! code ([`Config::out_dir`]) and code of a build are the same.
//!
//! Messages, their zero-copy views, enums and JSON come from `buffa-codegen`; services are ours
//! (`service`), plain text over [a runtime module](#the-runtime-module). connectrpc's own
//! generator was refused: its server and client traits carry its types into every handler, and
//! turned off it does nothing but call `buffa-codegen`.
//!
//! What is generated for `service Greeter` of `package greeter.v1`, in `greeter::v1`:
//!
//! | item | what for |
//! |---|---|
//! | `trait Greeter` | implemented by the author; one `async fn` per method, `snake_case` |
//! | `GreeterServer<T>` | a `Handle` around an implementation |
//! | `GreeterClient` | a typed stub over a `Channel` |
//! | `GreeterMarker` | lets `Service::serve` infer which service an implementation is of |
//! | `greeter_methods::HELLO` | a `Method` per method, with its kind and idempotency |
//! | `GREETER_NAME` | `"greeter.v1.Greeter"` |
//!
//! A derived name that the package already uses gets `Rpc` put in (`GreeterRpcServer`); methods
//! named `New` or `Clone` become `new_` and `clone_`, since every client has those; keywords become
//! raw (`r#type`). Imported files are generated too, except the well-known types, which are
//! `buffa_types`; so every package of a service's imports is in the module tree.
//!
//! # The runtime module
//!
//! Generated code names one path outside itself, [`Config::runtime`] (default `::formic::__rt`), and
//! needs this from it, all of which `formic_rpc::rt` has: the crates `buffa`, `buffa_types`, `serde`;
//! the types `Answering`, `Call`, `Channel`, `Context`, `Inbound`, `Kind`, `Method`, `Reply`,
//! `Request`, `RpcService`, `StreamCall`, `Streaming`, `UnaryCall`; the traits `Handle`,
//! `IntoHandle`, `Stream`; the functions `answer`, `describe`, `stream_answer`, `streaming`, `unary`,
//! `unimplemented`, `view`.

mod config;
mod diagnose;
mod fault;
mod messages;
mod output;
mod schema;
mod service;
mod suggest;

#[cfg(test)]
mod tests;

pub use config::{Config, compile};
pub use fault::{Error, Fault, Place};
