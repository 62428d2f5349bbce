//! The shipping service as a process; everything it does is in the library beside it.

use formic::prelude::*;
use shop_shipping::Shipments;

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("shipping");
    let shipments = Shipments::open(&service.data_dir()?, service.config()?)?;
    service.serve(shipments).run().await
}
