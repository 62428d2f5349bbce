//! The shop's shipping: parcels that are booked, carried by a made-up carrier, and tracked.
//!
//! A shipment is named by its caller and every method may be repeated. A cancellation leaves a tombstone even where nothing
//! was booked: a booking that was delayed on the way can then no longer take effect behind the back of a caller who gave up.
//!
//! Nothing here ticks. The moments at which a parcel will be picked, sent and delivered are fixed when it is booked, and
//! its state is a function of them and of the clock; so it survives any crash, and a restart with other speeds changes
//! no parcel's past.

mod config;
mod parcel;
mod service;
mod shipments;

pub use config::Config;
pub use service::Shipments;

/// The generated contract: messages, the trait, server and client of `shop.shipping.v1`.
pub mod proto {
    formic::include_protos!();
    pub use self::shop::shipping::v1::*;
}
