//! What every server has beside its services: health, metrics, reflection, and answers to strangers.

use buffa_descriptor::generated::descriptor::FileDescriptorProto;
use formic_core::Code;
use formic_probe::Action;
use formic_rpc::rt::buffa::Message;
use formic_server::proto::health::v1 as health;
use formic_server::proto::health::v1::health_check_response::ServingStatus;
use formic_server::proto::reflection::{v1, v1alpha};
use formic_server::{Config, Serving};

use crate::raw::{get, one, post, two};
use crate::suite::{order, told};
use crate::ways::{everywhere, within};

#[tokio::test]
async fn health_by_call_and_by_page() {
    let server = everywhere(Config::default()).await;
    for way in server.ways() {
        let (client, name) = (health::HealthClient::new(way.channel.clone()), &way.name);
        server.running.health().set(Serving::Ready);
        let ask =
            |service: &str| health::HealthCheckRequest { service: service.into(), ..Default::default() };
        for service in ["", "probe.v1.Probe", "probe.v1.Plain"] {
            let answer = client.check(ask(service)).await.unwrap();
            assert_eq!(answer.status.as_known(), Some(ServingStatus::SERVING), "{name} {service}");
        }
        let error = client.check(ask("probe.v1.Nope")).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound, "{name}");

        let mut watch = client.watch(ask("")).await.unwrap().into_message();
        let mut unknown = client.watch(ask("nope")).await.unwrap().into_message();
        let mut next = async |status: ServingStatus| {
            let answer = within(name, watch.message()).await.unwrap().unwrap();
            assert_eq!(answer.status.as_known(), Some(status), "{name}");
        };
        next(ServingStatus::SERVING).await;
        server.running.health().set(Serving::Starting);
        next(ServingStatus::NOT_SERVING).await;
        server.running.health().set(Serving::Ready);
        next(ServingStatus::SERVING).await;
        let answer = within(name, unknown.message()).await.unwrap().unwrap();
        assert_eq!(answer.status.as_known(), Some(ServingStatus::SERVICE_UNKNOWN), "{name}");
    }
    for (state, ready) in [(Serving::Starting, 503), (Serving::Ready, 200), (Serving::Draining, 503)] {
        server.running.health().set(state);
        assert_eq!(one(server.addr, get(server.addr, "/healthz")).await.status(), 200);
        assert_eq!(one(server.addr, get(server.addr, "/readyz")).await.status(), ready, "{state:?}");
        assert_eq!(two(server.addr, get(server.addr, "/readyz")).await.unwrap().status(), ready);
    }
}

#[tokio::test]
async fn metrics_count_calls_by_method_and_code() {
    let server = everywhere(Config::default()).await;
    let probe = formic_probe::ProbeClient::new(server.tcp());
    for _ in 0..3 {
        probe.say(order("x")).await.unwrap();
    }
    probe.say(told(Action::ACTION_FAIL, 5)).await.unwrap_err();
    // Callers who wait longer than they say, so that it is the server that ends the calls.
    let mut late = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let body = r#"{"action":"ACTION_HANG"}"#;
        let mut request = post(server.addr, "/probe.v1.Probe/Say", "application/json", body);
        request.headers_mut().insert("connect-timeout-ms", http::HeaderValue::from_static("20"));
        late.spawn(one(server.addr, request));
    }
    for response in late.join_all().await {
        assert_eq!(response.status(), 504);
    }
    let text = one(server.addr, get(server.addr, "/metrics")).await;
    assert!(text.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = String::from_utf8(text.body().to_vec()).unwrap();
    let line = |parts: &[&str]| {
        text.lines()
            .find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
            .unwrap_or_else(|| panic!("no line with {parts:?} in\n{text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(line(&["requests", "Say", "\"ok\""]), "3");
    assert_eq!(line(&["requests", "Say", "\"not_found\""]), "1");
    assert_eq!(line(&["requests", "Say", "\"deadline_exceeded\""]), "20");
    assert!(text.contains("# EOF"), "{text}");
}

fn file_names(files: &[impl AsRef<[u8]>]) -> Vec<String> {
    let name = |file: &[u8]| FileDescriptorProto::decode_from_slice(file).unwrap().name.unwrap_or_default();
    files.iter().map(|file| name(file.as_ref())).collect()
}

macro_rules! reflects {
    ($name:ident, $version:ident) => {
        #[tokio::test]
        async fn $name() {
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;
            let server = everywhere(Config::default()).await;
            for way in server.ways() {
                let name = &way.name;
                if way.http == Some(formic_probe::foreign::Http::One) {
                    continue;
                }
                let client = $version::ServerReflectionClient::new(way.channel.clone());
                let (sender, requests) = futures::channel::mpsc::unbounded();
                let mut answers = client.server_reflection_info(requests).await.unwrap().into_message();
                let mut ask = async |request: MessageRequest| {
                    let request = $version::ServerReflectionRequest {
                        host: "h".into(),
                        message_request: Some(request),
                        ..Default::default()
                    };
                    sender.unbounded_send(request).unwrap();
                    let answer = within(name, answers.message()).await.unwrap().unwrap();
                    assert_eq!(answer.valid_host, "h");
                    answer.message_response.unwrap()
                };
                let MessageResponse::ListServicesResponse(list) =
                    ask(MessageRequest::ListServices("*".into())).await
                else {
                    panic!("{name}")
                };
                let mut names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
                names.sort_unstable();
                assert_eq!(
                    names,
                    [
                        "grpc.health.v1.Health",
                        "grpc.reflection.v1.ServerReflection",
                        "grpc.reflection.v1alpha.ServerReflection",
                        "probe.v1.Plain",
                        "probe.v1.Probe"
                    ],
                    "{name}"
                );
                for symbol in ["probe.v1.Probe", "probe.v1.Probe.Say", "probe.v1.Order", "probe.v1.Action"] {
                    let MessageResponse::FileDescriptorResponse(files) =
                        ask(MessageRequest::FileContainingSymbol(symbol.into())).await
                    else {
                        panic!("{name} {symbol}")
                    };
                    assert_eq!(file_names(&files.file_descriptor_proto)[0], "probe/v1/probe.proto");
                }
                // Every service that is listed can be described.
                for service in &names {
                    let answer = ask(MessageRequest::FileContainingSymbol((*service).into())).await;
                    assert!(
                        matches!(answer, MessageResponse::FileDescriptorResponse(_)),
                        "{name}: {service} is listed and not described"
                    );
                }
                let MessageResponse::FileDescriptorResponse(files) =
                    ask(MessageRequest::FileByFilename("probe/v1/probe.proto".into())).await
                else {
                    panic!("{name}")
                };
                assert_eq!(file_names(&files.file_descriptor_proto), ["probe/v1/probe.proto"]);
                let MessageResponse::ErrorResponse(error) =
                    ask(MessageRequest::FileContainingSymbol("probe.v1.Nope".into())).await
                else {
                    panic!("{name}")
                };
                assert_eq!(error.error_code, 5, "{name}");
            }
        }
    };
}

reflects!(reflection_v1, v1);
reflects!(reflection_v1alpha, v1alpha);

#[tokio::test]
async fn strangers_get_a_clear_answer() {
    let server = everywhere(Config::default()).await;
    let addr = server.addr;
    let json = "application/json";
    let text =
        |response: &http::Response<bytes::Bytes>| String::from_utf8_lossy(response.body()).into_owned();

    let said = one(addr, post(addr, "/probe.v1.Probe/Say", json, r#"{"text":"hi"}"#)).await;
    assert_eq!(said.status(), 200);
    assert!(text(&said).contains(r#""text":"hi""#), "{}", text(&said));

    let bad = one(addr, post(addr, "/probe.v1.Probe/Say", json, "{nope")).await;
    assert_eq!(bad.status(), 400);
    assert!(text(&bad).contains("invalid_argument") && text(&bad).contains("JSON"), "{}", text(&bad));

    let wrong = one(addr, post(addr, "/probe.v1.Probe/Say", json, r#"{"text":7}"#)).await;
    assert_eq!(wrong.status(), 400);

    let none = one(addr, post(addr, "/probe.v1.Probe/Nope", json, "{}")).await;
    assert_eq!(none.status(), 404, "{}", text(&none));
    let words = ["unimplemented", "probe.v1.Probe/Nope"];
    assert!(words.iter().all(|word| text(&none).contains(word)), "{}", text(&none));

    // A method without effect answers GET too, the others do not.
    let path = "/probe.v1.Probe/Get?connect=v1&encoding=json&message=%7B%22text%22%3A%22hi%22%7D";
    let got = one(addr, get(addr, path)).await;
    assert_eq!(got.status(), 200, "{}", text(&got));
    assert_eq!(one(addr, get(addr, "/probe.v1.Probe/Say")).await.status(), 405);
    assert_eq!(one(addr, post(addr, "/probe.v1.Probe/Say", "text/plain", "x")).await.status(), 415);

    let page = one(addr, get(addr, "/nothing")).await;
    assert_eq!(page.status(), 404);
    assert!(text(&page).contains("/package.Service/Method"), "{}", text(&page));
    let posted = one(addr, post(addr, "/nothing", "text/plain", "x")).await;
    assert_eq!(posted.status(), 404);
}
