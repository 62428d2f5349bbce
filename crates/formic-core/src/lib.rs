//! The words of Formic, floor 0: names, ids, instances, metadata, codes and errors.
//!
//! Everything above talks in these words, so nothing here starts a task, opens a socket or knows a
//! wire. Refused here: an async runtime, protobuf, anything that a plug-in author would not need.

pub mod code;
pub mod detail;
pub mod error;
pub mod instance;
pub mod members;
pub mod metadata;
pub mod method;
pub mod name;
pub mod priority;
pub mod shed;
pub mod stop_signal;

pub use code::Code;
pub use error::Error;
pub use instance::{Endpoint, Instance, InstanceId, RpcMethod, RpcService};
pub use members::Members;
pub use metadata::Metadata;
pub use method::{Kind, Method};
pub use name::{InvalidName, ServiceName};
pub use priority::Priority;
pub use shed::Shed;
pub use stop_signal::StopSignal;
