//! The payment service as a process; everything it does is in the library beside it.

use formic::prelude::*;
use shop_payment::Payments;

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("payment");
    let payments = Payments::open(&service.data_dir()?, service.config()?)?;
    service.serve(payments).run().await
}
