//! The product service: catalogue, stock and carts.

use formic::prelude::*;
use shop_product::{ProductConfig, Products};
use shop_token::Verifier;

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("product");
    let config: ProductConfig = service.config()?;
    let products = Products::open(&service.data_dir()?, &config, Verifier::from_service(&service)).await?;
    service.serve(products).run().await
}
