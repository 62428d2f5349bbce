//! What becomes of a handler's stream that panics as it is dropped.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use formic_core::{Code, Kind};
use formic_rpc::Codec;
use futures::StreamExt;

use super::*;

const COUNT: Method = Method::new("/test.Service/Count", Kind::ServerStream);

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as it is dropped");
    }
}

/// Answers with one message.
struct Counts;

impl Handle for Counts {
    fn method(&self, path: &str) -> Option<Method> {
        (path == COUNT.path()).then_some(COUNT)
    }

    fn services(&self) -> Vec<RpcService> {
        vec![formic_rpc::handle::describe("test.Service", &[COUNT])]
    }

    fn call(&self, _: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let bomb = Bomb;
        let one = futures::stream::iter([Ok(Bytes::from("one"))]).inspect(move |_| {
            let _kept = &bomb;
        });
        Box::pin(std::future::ready(Ok(Answer::new(Body::Stream(Box::pin(one))))))
    }
}

#[tokio::test]
async fn a_panic_as_the_answers_are_dropped_is_the_handlers() {
    let pipeline = Pipeline::new(Arc::new(Counts), &Metrics::new(), &Config::default());
    let call = || pipeline.call(Call::new(COUNT, Codec::Proto, Body::Message(Bytes::new())));
    let mut answers = call().await.unwrap().body.into_stream();
    assert_eq!(answers.next().await.unwrap().unwrap(), "one");
    let error = answers.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Internal, "the handler panicked"));
    assert!(answers.next().await.is_none());
    drop(answers);
    // One that nobody listens to any more takes nobody with it.
    drop(call().await.unwrap());
    assert_eq!(pipeline.in_flight(), 0);
}
