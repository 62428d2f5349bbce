//! The order service as a process; everything it does is in the library beside it.

use formic::prelude::*;
use shop_order::{Channels, Orders};
use shop_token::Verifier;

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("order");
    let channels = Channels {
        product: service.client("product"),
        payment: service.client("payment"),
        shipping: service.client("shipping"),
    };
    let verifier = Verifier::from_service(&service);
    let (orders, worker) = Orders::open(&service.data_dir()?, service.config()?, verifier, channels).await?;
    let work = |stopping: Stopping| worker.run(async move { stopping.wait().await });
    service.serve(orders).background("sagas", work).run().await
}
