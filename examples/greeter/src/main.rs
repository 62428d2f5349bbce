//! A whole service: it listens, announces itself, answers health checks, reflects its schema, and
//! drains when it is told to stop.

use formic::prelude::*;
use greeter::v1::{Greeter, HelloRequest, HelloResponse};

formic::include_protos!();

struct Hello;

impl Greeter for Hello {
    async fn hello(&self, _ctx: Context, request: Request<'_, HelloRequest>) -> Reply<HelloResponse> {
        reply(HelloResponse { text: format!("hello, {}", request.name), ..Default::default() })
    }
}

#[formic::main]
async fn main() -> formic::Result {
    Service::new("greeter").serve(Hello).run().await
}

#[cfg(test)]
mod tests;
