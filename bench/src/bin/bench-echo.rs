//! The measured service: what anybody would write, on the facade and with everything on that is on by
//! default. It only ends with the bench too.

use bench::v1::{EchoRequest, EchoResponse, EchoService, LaterService, SendRequest, StreamService};
use formic::prelude::*;

formic::include_protos!();

struct Echo;

impl EchoService for Echo {
    async fn echo(&self, _ctx: Context, request: Request<'_, EchoRequest>) -> Reply<EchoResponse> {
        reply(EchoResponse { payload: request.payload.to_vec(), ..Default::default() })
    }
}

struct Later;

impl LaterService for Later {
    async fn echo(&self, _ctx: Context, request: Request<'_, EchoRequest>) -> Reply<EchoResponse> {
        let payload = request.payload.to_vec();
        tokio::task::yield_now().await;
        reply(EchoResponse { payload, ..Default::default() })
    }
}

struct Stream;

impl StreamService for Stream {
    async fn send(&self, _ctx: Context, request: Request<'_, SendRequest>) -> Reply<Streaming<EchoResponse>> {
        let item = EchoResponse { payload: vec![7; request.size as usize], ..Default::default() };
        if !request.one_by_one {
            return reply(Streaming::new(formic::futures::stream::repeat_with(move || Ok(item.clone()))));
        }
        // Somebody else makes them, and each is waited for.
        let (sender, mut items) = tokio::sync::mpsc::channel(1);
        let mut maker = tokio::task::JoinSet::new();
        maker.spawn(async move { while sender.send(Ok(item.clone())).await.is_ok() {} });
        reply(Streaming::new(formic::futures::stream::poll_fn(move |cx| {
            let _as_long_as_the_stream = &maker;
            items.poll_recv(cx)
        })))
    }
}

#[formic::main]
async fn main() -> formic::Result {
    Service::new("echo")
        .serve(Echo)
        .serve(Later)
        .serve(Stream)
        .run_until(formic_bench::load::parent_gone())
        .await
}
