//! The measured service: what anybody would write, on the facade and with everything on that is on by
//! default. It only ends with the bench too.

use bench::v1::{EchoRequest, EchoResponse, EchoService};
use formic::prelude::*;

formic::include_protos!();

struct Echo;

impl EchoService for Echo {
    async fn echo(&self, _ctx: Context, request: Request<'_, EchoRequest>) -> Reply<EchoResponse> {
        reply(EchoResponse { payload: request.payload.to_vec(), ..Default::default() })
    }
}

#[formic::main]
async fn main() -> formic::Result {
    Service::new("echo").serve(Echo).run_until(formic_bench::load::parent_gone()).await
}
