//! What becomes of a handler's stream: messages that are ready together stay together, and a panic, also as it is dropped, is the
//! handler's.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use formic_core::{Code, Kind};
use formic_rpc::rt::buffa_types::google::protobuf::StringValue;
use formic_rpc::{Codec, Response, Streaming, rt};
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
        Box::pin(std::future::ready(Ok(Answer::new(Body::stream(one)))))
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

/// Counts to ten and panics.
struct Breaks;

impl Handle for Breaks {
    fn method(&self, path: &str) -> Option<Method> {
        Counts.method(path)
    }

    fn services(&self) -> Vec<RpcService> {
        Counts.services()
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let numbers = futures::stream::iter(0..).map(|n| match n {
            10 => panic!("as asked"),
            n => Ok(StringValue { value: n.to_string(), ..StringValue::default() }),
        });
        Box::pin(async move { rt::stream_answer(Response::new(Streaming::new(numbers)), call.codec) })
    }
}

/// Answers with messages that take so long each.
struct Slow(Duration, usize, Arc<AtomicUsize>);

impl Handle for Slow {
    fn method(&self, path: &str) -> Option<Method> {
        Counts.method(path)
    }

    fn services(&self) -> Vec<RpcService> {
        Counts.services()
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let Self(long, count, made) = self;
        let (long, made) = (*long, Arc::clone(made));
        let messages = futures::stream::iter(0..*count).map(move |_| {
            std::thread::sleep(long);
            made.fetch_add(1, Ordering::SeqCst);
            Ok(StringValue::default())
        });
        Box::pin(async move { rt::stream_answer(Response::new(Streaming::new(messages)), call.codec) })
    }
}

#[tokio::test]
async fn what_takes_long_to_make_is_not_waited_for_by_what_came_before() {
    for codec in [Codec::Proto, Codec::Json] {
        let made = Arc::new(AtomicUsize::new(0));
        let slow = Slow(Duration::from_millis(2), 6, Arc::clone(&made));
        let pipeline = Pipeline::new(Arc::new(slow), &Metrics::new(), &Config::default());
        let answer = pipeline.call(Call::new(COUNT, codec, Body::Message(Bytes::new()))).await.unwrap();
        let (mut answers, mut given) = (answer.body.into_stream(), 0);
        while let Some(message) = answers.next().await {
            message.unwrap();
            given += 1;
            let made = made.load(Ordering::SeqCst);
            assert!(made <= given + 1, "{codec:?}: {made} were made before {given} were passed on");
        }
        assert_eq!(given, 6);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_has_ended_in_time_is_not_late_for_who_reads_slowly() {
    for codec in [Codec::Proto, Codec::Json] {
        let pipeline = Pipeline::new(
            Arc::new(Slow(Duration::ZERO, 3, Arc::default())),
            &Metrics::new(),
            &Config::default(),
        );
        let mut call = Call::new(COUNT, codec, Body::Message(Bytes::new()));
        call.deadline = Some(Instant::now() + Duration::from_secs(1));
        let mut answers = pipeline.call(call).await.unwrap().body.into_stream();
        assert!(answers.next().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(2)).await;
        let rest: Vec<_> = answers.collect().await;
        assert!(rest.len() == 2 && rest.iter().all(Result::is_ok), "{codec:?}: {rest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_stay_together_and_come_before_the_panic_after_them() {
    let pipeline = Pipeline::new(Arc::new(Breaks), &Metrics::new(), &Config::default());
    for codec in [Codec::Proto, Codec::Json] {
        let answer = pipeline.call(Call::new(COUNT, codec, Body::Message(Bytes::new()))).await.unwrap();
        let (mut answers, mut lengths) = (answer.body.into_stream(), Vec::new());
        let error = loop {
            match std::future::poll_fn(|cx| answers.poll_run(cx, 32)).await.unwrap() {
                Ok(run) => lengths.push(run.len()),
                Err(error) => break error,
            }
        };
        assert_eq!((error.code(), error.message()), (Code::Internal, "the handler panicked"));
        assert_eq!(lengths, if codec == Codec::Proto { vec![10] } else { vec![1; 10] });
        assert!(answers.next().await.is_none());
    }
    assert_eq!(pipeline.in_flight(), 0);
}
