//! The user service: accounts, log-in and signed tokens.

use formic::prelude::*;
use shop_user::{UserConfig, Users};

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("user");
    let config: UserConfig = service.config()?;
    let users = Users::open(&service.data_dir()?, &config).await?;
    service.serve(users).run().await
}
