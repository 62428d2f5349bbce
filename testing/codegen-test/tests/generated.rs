//! Generated services called over a channel in memory: every kind, name and type that may go wrong.
#![deny(warnings)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use codegen_test::codegen::keywords::r#type::r#match as keywords;
use codegen_test::codegen::shared::v1::outer::Inner;
use codegen_test::codegen::shared::v1::{Colour, Outer};
use codegen_test::codegen::v1::say_request::Nested;
use codegen_test::codegen::v1::{self, *};
use formic_core::{Code, Error, Kind};
use formic_rpc::rt::buffa::MessageField;
use formic_rpc::rt::buffa_types::google::protobuf::{Empty, Timestamp};
use formic_rpc::rt::{Handle, IntoHandle};
use formic_rpc::{Channel, Codec, Context, Inbound, Reply, Request, Streaming, reply};

struct Parrot;

fn said(text: impl Into<std::string::String>, number: u32) -> SayResponse {
    SayResponse { text: text.into(), number, ..SayResponse::default() }
}

fn say(text: &str) -> SayRequest {
    SayRequest { text: text.into(), ..SayRequest::default() }
}

impl Echo for Parrot {
    async fn say(&self, ctx: Context, request: Request<'_, SayRequest>) -> Reply<SayResponse> {
        // The view lives across an await: the future must still be `Send`.
        tokio::task::yield_now().await;
        match request.text {
            "" => Err(Error::invalid_argument("nothing to say").with_field("text", "must not be empty")),
            "method" => reply(said(ctx.method(), 0)),
            "whole" => {
                let whole = request.to_owned_message();
                reply(said(whole.outer.inner.text.as_str(), whole.inner.len().try_into().unwrap()))
            }
            text => reply(said(text, 1)),
        }
    }

    async fn count(&self, _: Context, request: Request<'_, SayRequest>) -> Reply<Streaming<SayResponse>> {
        let text = request.text.to_owned();
        reply(Streaming::from_iter((0..3).map(move |number| said(text.clone(), number))))
    }

    async fn join(&self, _: Context, mut requests: Inbound<SayRequest>) -> Reply<SayResponse> {
        let mut words = std::vec::Vec::new();
        while let Some(request) = requests.message().await? {
            words.push(request.text);
        }
        reply(said(words.join(" "), words.len().try_into().unwrap()))
    }

    async fn chat(&self, _: Context, mut requests: Inbound<SayRequest>) -> Reply<Streaming<SayResponse>> {
        let (sender, out) = Streaming::channel(1);
        tokio::spawn(async move {
            let mut number = 0;
            while let Ok(std::option::Option::Some(request)) = requests.message().await {
                number += 1;
                if sender.send(Ok(said(request.text, number))).await.is_err() {
                    return;
                }
            }
            let _ = sender.send(Err(Error::aborted("enough"))).await;
        });
        reply(out)
    }

    async fn swap(&self, _: Context, request: Request<'_, Inner>) -> Reply<Outer> {
        reply(Outer { inner: MessageField::some(request.to_owned_message()), ..Outer::default() })
    }

    async fn when(&self, _: Context, _: Request<'_, Empty>) -> Reply<Timestamp> {
        reply(Timestamp { seconds: 7, ..Timestamp::default() })
    }
}

fn clients() -> [EchoClient; 2] {
    let channel = Channel::new(Arc::new(EchoServer::new(Parrot)));
    [EchoClient::new(channel.clone()), EchoClient::new(channel.with_codec(Codec::Json))]
}

#[tokio::test(start_paused = true)]
async fn one_for_one() {
    for echo in clients() {
        assert_eq!(*echo.say(say("hello")).timeout(Duration::from_secs(1)).await.unwrap(), said("hello", 1));
        let method = echo.say(say("method")).metadata("x-trace", "1").await.unwrap();
        assert_eq!(method.text, "/codegen.v1.Echo/Say");
        let error = echo.say(say("")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert_eq!(error.fields()[0].field, "text");
    }
}

#[tokio::test(start_paused = true)]
async fn every_shape_of_field_travels() {
    let text = || Inner { text: "deep".into(), ..Inner::default() };
    let outer = || Outer { inner: MessageField::some(text()), ..Outer::default() };
    let mut request = say("whole");
    request.inner = vec![text(), text()];
    request.outer = MessageField::some(outer());
    request.mood = Mood::Loud.into();
    request.colour = Colour::Red.into();
    request.choice = std::option::Option::Some(Nested::default().into());
    request.at = MessageField::some(Timestamp { seconds: 1, ..Timestamp::default() });
    request.again = MessageField::some(say("within"));
    request.r#type = "keyword".into();
    request.data = vec![0, 255];
    request.big = std::option::Option::Some(i64::MAX);
    let _ = request.by_name.insert("one".into(), outer());
    let _ = request.blobs.insert(-1, vec![1]);
    for echo in clients() {
        assert_eq!(*echo.say(request.clone()).await.unwrap(), said("deep", 2));
    }
    let json = serde_json::to_value(&request).unwrap();
    assert_eq!(json["big"], "9223372036854775807");
    assert_eq!(json["at"], "1970-01-01T00:00:01Z");
    assert_eq!(json["byName"]["one"]["inner"]["text"], "deep");
    assert_eq!(serde_json::from_value::<SayRequest>(json).unwrap(), request);
}

#[tokio::test(start_paused = true)]
async fn one_for_many() {
    for echo in clients() {
        let mut stream = echo.count(say("x")).await.unwrap().into_message();
        let mut numbers = std::vec::Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            assert_eq!(message.text, "x");
            numbers.push(message.number);
        }
        assert_eq!(numbers, [0, 1, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn many_for_one() {
    for echo in clients() {
        let words = futures::stream::iter(["a", "b", "c"].map(say));
        assert_eq!(*echo.join(words).await.unwrap(), said("a b c", 3));
    }
}

#[tokio::test(start_paused = true)]
async fn many_for_many() {
    for echo in clients() {
        let (sender, words) = Streaming::channel(1);
        let words = futures::StreamExt::filter_map(words, |word: std::result::Result<_, Error>| {
            std::future::ready(word.ok())
        });
        let mut answers = echo.chat(words).await.unwrap().into_message();
        for (word, number) in [("ping", 1), ("pong", 2)] {
            // Each answer comes before the next request is sent.
            sender.send(Ok(say(word))).await.unwrap();
            assert_eq!(answers.message().await.unwrap().unwrap(), said(word, number));
        }
        drop(sender);
        assert_eq!(answers.message().await.unwrap_err().code(), Code::Aborted);
    }
}

#[tokio::test(start_paused = true)]
async fn types_of_elsewhere() {
    for echo in clients() {
        let inner = Inner { text: "i".into(), ..Inner::default() };
        assert_eq!(echo.swap(inner.clone()).await.unwrap().inner.text, "i");
        assert_eq!(echo.when(Empty::default()).await.unwrap().seconds, 7);
    }
}

#[test]
fn methods_know_their_kind_and_whether_they_may_be_repeated() {
    use v1::echo_methods::{CHAT, COUNT, JOIN, SAY};
    let server = EchoServer::from_arc(Arc::new(Parrot));
    assert_eq!(server.method("/codegen.v1.Echo/Say"), std::option::Option::Some(SAY));
    assert_eq!(server.method("/codegen.v1.Echo/Nothing"), None);
    assert_eq!((SAY.kind, SAY.safe, SAY.idempotent), (Kind::Unary, true, true));
    assert_eq!((COUNT.kind, COUNT.safe, COUNT.idempotent), (Kind::ServerStream, false, true));
    assert_eq!((JOIN.kind, JOIN.idempotent), (Kind::ClientStream, false));
    assert_eq!(CHAT.kind, Kind::BidiStream);
    let services = server.services();
    assert_eq!(services[0].name, ECHO_NAME);
    assert_eq!(services[0].methods.len(), 6);
    assert_eq!(codegen_test::elsewhere::name(), ECHO_NAME);
}

#[test]
fn the_descriptors_hold_all_imports_and_no_comments() {
    let server = EchoServer::new(Parrot);
    let descriptors = server.descriptors();
    let text = std::string::String::from_utf8_lossy(descriptors[0]);
    for name in ["codegen/v1/echo.proto", "codegen/shared/v1/shared.proto", "google/protobuf/timestamp.proto"]
    {
        assert!(text.contains(name), "{name}");
    }
    assert!(!text.contains("Says things back"));
}

#[tokio::test(start_paused = true)]
async fn a_method_that_is_not_there() {
    let channel = Channel::new(Arc::new(EchoServer::new(Parrot)));
    let missing = ClashRpcClientProbe::call(&channel).await;
    assert_eq!(missing.code(), Code::Unimplemented);
}

/// Calls a method of another service over the channel of this one.
struct ClashRpcClientProbe;

impl ClashRpcClientProbe {
    async fn call(channel: &Channel) -> Error {
        keywords::ImplClient::new(channel.clone()).r#async(keywords::Fn::default()).await.unwrap_err()
    }
}

struct Clashing;

impl Clash for Clashing {
    async fn clone_(&self, _: Context, _: Request<'_, v1::Clone>) -> Reply<v1::Option> {
        reply(v1::Option { value: "cloned".into(), ..v1::Option::default() })
    }

    async fn new_(&self, _: Context, request: Request<'_, v1::Option>) -> Reply<v1::Result> {
        let option = MessageField::some(request.to_owned_message());
        reply(v1::Result { option, ..v1::Result::default() })
    }

    async fn r#type(&self, _: Context, _: Request<'_, v1::Send>) -> Reply<Streaming<v1::Vec>> {
        reply(Streaming::from_iter([v1::Vec::default()]))
    }

    async fn self_(&self, _: Context, _: Inbound<v1::Box>) -> Reply<v1::String> {
        reply(v1::String::default())
    }

    async fn r#move(&self, _: Context, _: Request<'_, clash_methods::In>) -> Reply<ClashServer> {
        reply(ClashServer::default())
    }

    async fn fmt(&self, _: Context, _: Request<'_, v1::Future>) -> Reply<v1::Error> {
        reply(v1::Error::default())
    }

    async fn call(&self, _: Context, _: Request<'_, v1::Context>) -> Reply<v1::Handle> {
        reply(v1::Handle::default())
    }

    async fn http_get(&self, _: Context, _: Request<'_, v1::Ok>) -> Reply<v1::Some> {
        reply(v1::Some::default())
    }

    async fn http_get_(&self, _: Context, _: Request<'_, v1::Ok>) -> Reply<v1::Some> {
        reply(v1::Some::default())
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_clash_give_way() {
    let handle = IntoHandle::<ClashRpcMarker>::into_handle(Arc::new(Clashing));
    let clash = ClashRpcClient::new(Channel::new(handle)).clone();
    assert_eq!(clash.clone_(v1::Clone::default()).await.unwrap().value, "cloned");
    let option = v1::Option { value: "v".into(), ..v1::Option::default() };
    assert_eq!(clash.new_(option).await.unwrap().option.value, "v");
    let mut stream = clash.r#type(v1::Send::default()).await.unwrap().into_message();
    assert!(stream.message().await.unwrap().is_some());
    let _ = clash.self_(futures::stream::iter([v1::Box::default()])).await.unwrap();
    let _ = clash.r#move(clash_methods::In::default()).await.unwrap();
    let _ = clash.http_get_(v1::Ok::default()).await.unwrap();
    assert_eq!(clash_rpc_methods::HTTP_GET.path(), "/codegen.v1.Clash/HTTPGet");
    assert_eq!(clash_rpc_methods::HTTP_GET_.path(), "/codegen.v1.Clash/http_get");
}

#[tokio::test(start_paused = true)]
async fn packages_and_messages_may_be_keywords() {
    struct Mute;
    impl keywords::Impl for Mute {
        async fn r#async(&self, _: Context, request: Request<'_, keywords::Fn>) -> Reply<v1::Option> {
            reply(v1::Option { value: request.r#fn.into(), ..v1::Option::default() })
        }
    }
    let client = keywords::ImplClient::new(Channel::new(Arc::new(keywords::ImplServer::new(Mute))));
    let request = keywords::Fn { r#fn: "f".into(), ..keywords::Fn::default() };
    assert_eq!(client.r#async(request).await.unwrap().value, "f");
}

#[tokio::test(start_paused = true)]
async fn a_file_may_be_without_a_package() {
    struct Root;
    impl codegen_test::Unpackaged for Root {
        async fn get(&self, _: Context, request: Request<'_, codegen_test::Loose>) -> Reply<SayResponse> {
            reply(request.to_owned_message().said.into_option().unwrap_or_default())
        }
    }
    let handle = codegen_test::UnpackagedServer::new(Root);
    assert_eq!(handle.services()[0].name, "Unpackaged");
    let client = codegen_test::UnpackagedClient::new(Channel::new(Arc::new(handle)));
    let request =
        codegen_test::Loose { said: MessageField::some(said("s", 3)), ..codegen_test::Loose::default() };
    assert_eq!(*client.get(request).await.unwrap(), said("s", 3));
}

#[tokio::test(start_paused = true)]
async fn committed_code_works_alike() {
    use codegen_test::committed::codegen::keywords::r#type::r#match::{Fn, Impl, ImplClient, ImplServer};
    use codegen_test::committed::codegen::v1::Option;
    struct Mute;
    impl Impl for Mute {
        async fn r#async(&self, _: Context, request: Request<'_, Fn>) -> Reply<Option> {
            reply(Option { value: request.self_.into(), ..Option::default() })
        }
    }
    let client = ImplClient::new(Channel::new(Arc::new(ImplServer::new(Mute))));
    let answer = client.r#async(Fn { self_: "s".into(), ..Fn::default() }).await;
    assert_eq!(answer.unwrap().value, "s");
}
