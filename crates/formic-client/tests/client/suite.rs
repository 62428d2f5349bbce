//! What holds over every transport alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use formic_client::{Client, Config, Protocol, Transport};
use formic_core::{Code, Error, Kind, Method, ServiceName};
use formic_registry::Memory;
use formic_rpc::context::Scope;
use formic_rpc::rt::buffa_types::google::protobuf::StringValue;
use formic_rpc::trace::TRACEPARENT;
use formic_rpc::{Answer, Body, Call, Channel, Codec, Next, Streaming, rt};
use futures::StreamExt;
use tokio::time::Instant;

use crate::server::*;

const MS: Duration = Duration::from_millis(1);

/// The transports that the suite runs over.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Connect,
    Grpc,
    Unix,
    Memory,
    Mux,
    MuxUnix,
}

/// A service and a channel to it.
struct Rig {
    channel: Channel,
    echo: Arc<Echo>,
    _client: Client,
    _server: Option<Server>,
    _folder: Option<Folder>,
}

async fn rig(over: Over) -> Rig {
    rig_with(over, Config::default()).await
}

async fn rig_with(over: Over, mut config: Config) -> Rig {
    // A busy machine may be long over a greeting.
    config.connect_timeout = Duration::from_secs(10);
    let echo = Echo::new();
    let name = ServiceName::new("echo").unwrap();
    if over == Over::Grpc {
        config.protocol = Protocol::Grpc;
    }
    if over == Over::Memory {
        let handle = Arc::new(Service(Arc::clone(&echo)));
        let client = Client::without_registry(config).with_local(&name, handle);
        return Rig { channel: client.of("echo"), echo, _client: client, _server: None, _folder: None };
    }
    if over == Over::Unix || over == Over::MuxUnix {
        let folder = Folder::new(&format!("suite-{}", fastrand::u64(..)));
        let server = Server::start_unix(&echo, &folder.0.join("echo.sock"), over == Over::MuxUnix);
        if over == Over::MuxUnix {
            // Nobody announces a fixed endpoint.
            config.transport = Transport::Multiplexed;
        }
        let client = Client::without_registry(config);
        let channel = client.at(server.endpoint.clone());
        return Rig { channel, echo, _client: client, _server: Some(server), _folder: Some(folder) };
    }
    let registry = Memory::new();
    let server = if over == Over::Mux {
        let server = Server::start_mux(&echo).await;
        register_mux(&registry, "one", &server.endpoint).await;
        server
    } else {
        let server = Server::start(&echo).await;
        register(&registry, "one", &server.endpoint).await;
        server
    };
    let client = Client::new(Arc::new(registry), config);
    Rig { channel: client.of("echo"), echo, _client: client, _server: Some(server), _folder: None }
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        suite!(@ over_connect Connect $($test)*);
        suite!(@ over_grpc Grpc $($test)*);
        suite!(@ over_a_unix_socket Unix $($test)*);
        suite!(@ in_memory Memory $($test)*);
        suite!(@ multiplexed Mux $($test)*);
        suite!(@ multiplexed_over_a_unix_socket MuxUnix $($test)*);
    };
    (@ $module:ident $over:ident $($test:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Over::$over).await;
            })*
        }
    };
}

suite! {
    one_message_each_way,
    errors_arrive_typed,
    an_answer_that_streams,
    a_request_that_streams,
    both_stream_in_turn,
    json_travels_as_json,
    a_method_learnt_at_run_time,
    a_missing_method_is_unimplemented,
    a_late_answer_is_given_up_and_the_handler_with_it,
    an_expired_deadline_sends_nothing,
    the_default_deadline_bounds_a_call,
    the_default_deadline_lets_a_stream_live,
    a_given_deadline_ends_a_stream,
    dropping_a_call_drops_its_handler,
    dropping_a_stream_drops_the_servers,
    deadline_and_trace_go_down_two_hops,
    an_error_in_a_request_stream_is_the_calls,
    interceptors_see_and_answer,
    many_at_once,
    short_messages_keep_their_order_whatever_ends_them,
    short_messages_go_there_and_back_with_long_ones_between,
    a_stream_dropped_among_its_messages_drops_the_servers,
    short_messages_that_are_ready_together_come_together,
    an_interceptor_may_see_each_message_of_a_stream,
    short_messages_that_are_not_read_end_no_other_call,
}

async fn one_message_each_way(over: Over) {
    let rig = rig(over).await;
    let mut call = call_of(SAY, "hi");
    call.metadata.insert("x-user", "ada").unwrap();
    // What a proxy would hand on of its own hop.
    call.metadata.insert("content-type", "text/html").unwrap();
    call.metadata.insert("connect-timeout-ms", "1").unwrap();
    let answer = rig.channel.call(call).await.unwrap();
    assert_eq!(answer.metadata.get("x-greeting"), Some("hello ada"));
    assert_eq!(answer.trailers.get("x-farewell"), Some("bye ada"));
    assert!(answer.metadata.get("content-type").is_none(), "{:?}", answer.metadata);
    assert_eq!(text(answer), "hi");
    let empty = rig.channel.call(call_of(SAY, "")).await.unwrap();
    assert_eq!(text(empty), "");
}

async fn errors_arrive_typed(over: Over) {
    let rig = rig(over).await;
    for code in Code::ALL {
        let error = rig.channel.call(call_of(FAIL, vec![code.number()])).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, "as asked"));
        assert_eq!(error.info().unwrap().metadata, [("number".into(), code.number().to_string())]);
        assert_eq!(error.fields()[0].field, "number");
        assert!(!error.is_unsent());
    }
}

async fn an_answer_that_streams(over: Over) {
    let rig = rig(over).await;
    let mut call = call_of(REPEAT, "la");
    call.metadata.insert("x-user", "ada").unwrap();
    let answer = rig.channel.call(call).await.unwrap();
    assert_eq!(answer.metadata.get("x-greeting"), Some("hello ada"));
    let mut stream = answer.body.into_stream();
    for _ in 0..3 {
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "la");
    }
    assert!(next(&mut stream).await.is_none());
}

async fn a_request_that_streams(over: Over) {
    let rig = rig(over).await;
    let messages = Streaming::from_iter(["a", "bc", "", "d"].map(|text| Bytes::from_static(text.as_bytes())));
    let answer = rig.channel.call(stream_call(COLLECT, messages)).await.unwrap();
    assert_eq!(text(answer), "abcd");
}

async fn both_stream_in_turn(over: Over) {
    let rig = rig(over).await;
    let (sender, messages) = Streaming::channel(1);
    let mut stream = rig.channel.call(stream_call(CHAT, messages)).await.unwrap().body.into_stream();
    for text in ["one", "two", "three"] {
        sender.send(Ok(Bytes::from_static(text.as_bytes()))).await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), format!("re: {text}"));
    }
    drop(sender);
    assert!(next(&mut stream).await.is_none());
}

async fn json_travels_as_json(over: Over) {
    let rig = rig(over).await;
    let json = r#"{"text":"é","n":[1,2.5,null]}"#;
    let call = |method| Call::new(method, Codec::Json, Body::Message(json.into()));
    assert_eq!(text(rig.channel.call(call(SAY)).await.unwrap()), json);
    let mut stream = rig.channel.call(call(REPEAT)).await.unwrap().body.into_stream();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), json);
}

async fn a_method_learnt_at_run_time(over: Over) {
    let rig = rig(over).await;
    let method = Method::dynamic(String::from("/test.Echo/Say"), Kind::Unary);
    assert_eq!(text(rig.channel.call(call_of(method, "hi")).await.unwrap()), "hi");
    let method = Method::dynamic("/test.Echo/Repeat", Kind::ServerStream);
    let mut stream = rig.channel.call(call_of(method, "hi")).await.unwrap().body.into_stream();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "hi");
    if over != Over::Memory {
        let error = rig.channel.call(call_of(Method::dynamic("/a b/c", Kind::Unary), "")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}

async fn a_missing_method_is_unimplemented(over: Over) {
    let rig = rig(over).await;
    let error = rig.channel.call(call_of(Method::new("/test.Echo/None", Kind::Unary), "")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
}

async fn a_late_answer_is_given_up_and_the_handler_with_it(over: Over) {
    let rig = rig(over).await;
    // It is connected, so that the time is the handler's.
    rig.channel.call(call_of(SAY, "x")).await.unwrap();
    let mut call = call_of(HANG, "");
    let began = Instant::now();
    call.deadline = Some(began + 1_000 * MS);
    let error = rig.channel.call(call).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= 995 * MS && began.elapsed() < 5_000 * MS, "{:?}", began.elapsed());
    until("the handler to be dropped", || rig.echo.dropped() == 1).await;
}

async fn an_expired_deadline_sends_nothing(over: Over) {
    let rig = rig(over).await;
    let mut call = call_of(SAY, "");
    call.deadline = Some(Instant::now());
    assert_eq!(rig.channel.call(call).await.unwrap_err().code(), Code::DeadlineExceeded);
    let scope = Scope { deadline: Some(Instant::now() - MS), ..Scope::default() };
    let inherited = scope.run(async { rig.channel.call(call_of(SAY, "")).await }).await;
    assert_eq!(inherited.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(rig.echo.calls(), 0);
}

async fn the_default_deadline_bounds_a_call(over: Over) {
    let rig = rig_with(over, Config { timeout: 300 * MS, ..Config::default() }).await;
    let error = within("the default deadline", rig.channel.call(call_of(HANG, ""))).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

async fn the_default_deadline_lets_a_stream_live(over: Over) {
    let rig = rig_with(over, Config { timeout: 1_500 * MS, ..Config::default() }).await;
    let mut stream = rig.channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    let began = Instant::now();
    while began.elapsed() < 1_700 * MS {
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    }
}

async fn a_given_deadline_ends_a_stream(over: Over) {
    let rig = rig(over).await;
    let mut call = call_of(TICK, "");
    call.deadline = Some(Instant::now() + 1_500 * MS);
    let mut stream = rig.channel.call(call).await.unwrap().body.into_stream();
    assert_eq!(next(&mut stream).await.unwrap().unwrap(), "tick");
    let error = loop {
        match next(&mut stream).await.unwrap() {
            Ok(text) => assert_eq!(text, "tick"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(next(&mut stream).await.is_none());
    until("the server's stream to be dropped", || rig.echo.dropped() == 1).await;
}

async fn dropping_a_call_drops_its_handler(over: Over) {
    let rig = rig(over).await;
    let call = rig.channel.call(call_of(HANG, ""));
    let given_up = async { until("the handler to begin", || rig.echo.calls() == 1).await };
    tokio::select! {
        _ = call => panic!("the handler answered"),
        () = given_up => {}
    }
    until("the handler to be dropped", || rig.echo.dropped() == 1).await;
}

async fn dropping_a_stream_drops_the_servers(over: Over) {
    let rig = rig(over).await;
    let mut stream = rig.channel.call(call_of(TICK, "")).await.unwrap().body.into_stream();
    assert!(next(&mut stream).await.unwrap().is_ok());
    assert_eq!(rig.echo.dropped(), 0);
    drop(stream);
    until("the server's stream to be dropped", || rig.echo.dropped() == 1).await;
}

async fn deadline_and_trace_go_down_two_hops(over: Over) {
    let (first, second) = (rig(over).await, rig(over).await);
    *first.echo.next.lock().unwrap() = Some(second.channel.clone());
    let mut call = call_of(RELAY, "");
    call.metadata.insert(TRACEPARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    call.deadline = Some(Instant::now() + 60_000 * MS);
    let said = text(first.channel.call(call).await.unwrap());
    assert_eq!((first.echo.calls(), second.echo.calls()), (1, 1));
    let (left, trace) = said.split_once(' ').unwrap();
    let left: u64 = left.parse().unwrap();
    assert!((10_000..60_000).contains(&left), "the second hop has {left} ms of 60000, not the default 5000");
    assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
    assert!(!trace.contains("00f067aa0ba902b7"), "the second hop is a span of its own: {trace}");
}

async fn an_error_in_a_request_stream_is_the_calls(over: Over) {
    let rig = rig(over).await;
    let (sender, messages) = Streaming::channel(4);
    sender.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
    sender.send(Err(Error::aborted("changed my mind"))).await.unwrap();
    let error =
        within("the call to end", rig.channel.call(stream_call(COLLECT, messages))).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Aborted, "changed my mind"));
}

async fn interceptors_see_and_answer(over: Over) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let interceptor = move |mut call: Call, next: Next| {
        let count = Arc::clone(&count);
        async move {
            assert!(call.deadline.is_some() && call.metadata.get(TRACEPARENT).is_some());
            count.fetch_add(1, Ordering::SeqCst);
            if call.metadata.get("x-cached").is_some() {
                return Ok(Answer::new(Body::Message("cached".into())));
            }
            call.metadata.insert("x-user", "intercepted").unwrap();
            next.run(call).await
        }
    };
    let config = Config { interceptors: vec![Arc::new(interceptor)], ..Config::default() };
    let rig = rig_with(over, config).await;
    let answer = rig.channel.call(call_of(SAY, "")).await.unwrap();
    assert_eq!(answer.metadata.get("x-greeting"), Some("hello intercepted"));
    let mut call = call_of(SAY, "");
    call.metadata.insert("x-cached", "1").unwrap();
    assert_eq!(text(rig.channel.call(call).await.unwrap()), "cached");
    assert_eq!((seen.load(Ordering::SeqCst), rig.echo.calls()), (2, 1));
}

async fn many_at_once(over: Over) {
    let rig = rig(over).await;
    let calls = (0..500).map(|n| {
        let channel = rig.channel.clone();
        async move {
            let sent = format!("{n} {}", "x".repeat(n * 40));
            assert_eq!(text(channel.call(call_of(SAY, sent.clone())).await.unwrap()), sent);
        }
    });
    within("500 calls", futures::future::join_all(calls)).await;
}

/// A typed stream of numbers.
async fn count(rig: &Rig, how: &str, timeout: Duration) -> Streaming<StringValue> {
    count_by(&rig.channel, how, timeout).await
}

async fn count_by(channel: &Channel, how: &str, timeout: Duration) -> Streaming<StringValue> {
    let call = channel.server_stream::<_, StringValue>(COUNT, &string(how)).timeout(timeout);
    within("the stream to begin", call.into_future()).await.unwrap().into_message()
}

async fn message(stream: &mut Streaming<StringValue>) -> Result<Option<String>, Error> {
    let message = within("the next message", stream.message()).await?;
    Ok(message.map(|message| message.value))
}

async fn short_messages_keep_their_order_whatever_ends_them(over: Over) {
    let rig = rig(over).await;
    let json = rig.channel.clone().with_codec(Codec::Json);
    for (how, channel) in [("end", &rig.channel), ("error", &rig.channel), ("end", &json), ("error", &json)] {
        let mut stream = count_by(channel, how, 20_000 * MS).await;
        for n in 0..COUNTED {
            assert_eq!(message(&mut stream).await.unwrap().unwrap(), n.to_string());
        }
        if how == "error" {
            let error = message(&mut stream).await.unwrap_err();
            assert_eq!((error.code(), error.message()), (Code::Aborted, "counted"));
        }
        assert_eq!(message(&mut stream).await.unwrap(), None);
    }
    let before = rig.echo.dropped();
    let mut stream = count(&rig, "never", 2_000 * MS).await;
    let mut n = 0;
    let error = loop {
        match message(&mut stream).await {
            Ok(number) => assert_eq!(number.unwrap(), n.to_string()),
            Err(error) => break error,
        }
        n += 1;
    };
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(n > 0);
    assert_eq!(message(&mut stream).await.unwrap(), None);
    until("the server's stream to be dropped", || rig.echo.dropped() > before).await;
}

async fn short_messages_go_there_and_back_with_long_ones_between(over: Over) {
    let rig = rig(over).await;
    let lengths = (0..600).map(|n| match n {
        200 => 1_025,
        300 | 301 => 70_000,
        n if n % 50 == 0 => 0,
        n => n % 120,
    });
    let sent: Vec<StringValue> = lengths.map(|length| string("x".repeat(length))).collect();
    let requests = futures::stream::iter(sent.clone());
    let call = rig.channel.bidi_stream::<_, StringValue>(RETURN, requests).into_future();
    let mut stream = within("the stream to begin", call).await.unwrap().into_message();
    for (n, sent) in sent.into_iter().enumerate() {
        assert!(message(&mut stream).await.unwrap().unwrap() == sent.value, "message {n}");
    }
    assert_eq!(message(&mut stream).await.unwrap(), None);
}

async fn a_stream_dropped_among_its_messages_drops_the_servers(over: Over) {
    let rig = rig(over).await;
    let mut stream = count(&rig, "never", 20_000 * MS).await;
    for n in 0..100 {
        assert_eq!(message(&mut stream).await.unwrap().unwrap(), n.to_string());
    }
    assert_eq!(rig.echo.dropped(), 0);
    drop(stream);
    until("the server's stream to be dropped", || rig.echo.dropped() == 1).await;
    // What of it was on its way is in nobody's way.
    let mut stream = count(&rig, "end", 20_000 * MS).await;
    assert_eq!(message(&mut stream).await.unwrap().unwrap(), "0");
}

/// All that stands between passes them as one; over HTTP they are put together where they are read. In memory there is no wire on
/// which they would come together.
async fn short_messages_that_are_ready_together_come_together(over: Over) {
    let rig = rig(over).await;
    for (timeout, codec) in [(None, Codec::Proto), (Some(20_000 * MS), Codec::Proto), (None, Codec::Json)] {
        let how = rt::encode(&string("end"), codec).unwrap();
        let mut call = Call::new(COUNT, codec, Body::Message(how));
        call.deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut stream = rig.channel.call(call).await.unwrap().body.into_stream();
        let (mut all, mut most) = (0, 0);
        while let Some(run) = within("messages", std::future::poll_fn(|cx| stream.poll_run(cx, 32))).await {
            let run = run.unwrap();
            (all, most) = (all + run.len(), most.max(run.len()));
        }
        assert_eq!(all, COUNTED);
        assert_eq!(most > 10, !matches!(over, Over::Memory), "{most} of {codec:?} together");
    }
}

/// Each has a frame of its own, as many as may come before one is read.
async fn short_messages_that_are_not_read_end_no_other_call(over: Over) {
    let rig = rig(over).await;
    let mut stream = count(&rig, "apart", 60_000 * MS).await;
    let mut made = 0;
    within("the server to wait", async {
        while rig.echo.counted.load(Ordering::SeqCst) > made {
            made = rig.echo.counted.load(Ordering::SeqCst);
            tokio::time::sleep(500 * MS).await;
        }
    })
    .await;
    let said = within("another call", rig.channel.call(call_of(SAY, "hi"))).await.unwrap();
    assert_eq!(text(said), "hi");
    for n in 0..APART {
        assert_eq!(message(&mut stream).await.unwrap().unwrap(), format!("{n:0100}"), "{made} were made");
    }
    assert_eq!(message(&mut stream).await.unwrap(), None);
}

async fn an_interceptor_may_see_each_message_of_a_stream(over: Over) {
    let seen = Arc::new(AtomicUsize::new(0));
    let count_in = Arc::clone(&seen);
    let interceptor = move |call: Call, next: Next| {
        let seen = Arc::clone(&count_in);
        async move {
            let mut answer = next.run(call).await?;
            let messages = answer.body.into_stream().inspect(move |message| {
                seen.fetch_add(usize::from(message.is_ok()), Ordering::SeqCst);
            });
            answer.body = Body::stream(messages);
            Ok(answer)
        }
    };
    let config = Config { interceptors: vec![Arc::new(interceptor)], ..Config::default() };
    let rig = rig_with(over, config).await;
    let mut stream = count(&rig, "end", 20_000 * MS).await;
    for n in 0..COUNTED {
        assert_eq!(message(&mut stream).await.unwrap().unwrap(), n.to_string());
    }
    assert_eq!(message(&mut stream).await.unwrap(), None);
    assert_eq!(seen.load(Ordering::SeqCst), COUNTED);
}
