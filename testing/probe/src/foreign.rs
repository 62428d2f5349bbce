//! Clients that are not ours: connectrpc's own, over HTTP/1.1 and HTTP/2 in every protocol, as handles,
//! so that typed clients run over them.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{
    CallOptions, ClientConfig, ClientTransport, Http2Connection, HttpClient, SharedHttp2Connection,
    call_bidi_stream, call_client_stream, call_server_stream, call_unary,
};
use connectrpc::{ConnectError, Protocol, Spec, StreamType};
use formic_core::{Error, Kind, Metadata, Method};
use formic_rpc::raw::{Raw, RawView};
use formic_rpc::wire_error::from_connect;
use formic_rpc::{Answer, Body, BoxFuture, Call, Channel, Codec, Handle, Trailing};
use futures::StreamExt;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2 without upgrade.
    Two,
}

/// A channel over connectrpc's client.
///
/// # Panics
/// If the address makes no URI.
#[must_use]
pub fn channel(addr: std::net::SocketAddr, http: Http, protocol: Protocol, codec: Codec) -> Channel {
    let uri: http::Uri = match format!("http://{addr}").parse() {
        Ok(uri) => uri,
        Err(error) => panic!("{addr}: {error}"),
    };
    let config = ClientConfig::new(uri.clone()).with_protocol(protocol);
    let config = if codec == Codec::Json { config.json() } else { config };
    let handle: Arc<dyn Handle> = match http {
        Http::One => Arc::new(Foreign { config, transport: HttpClient::plaintext() }),
        Http::Two => {
            let transport = Http2Connection::lazy_plaintext(uri).shared(64);
            Arc::new(Foreign::<SharedHttp2Connection> { config, transport })
        }
    };
    Channel::new(handle).with_codec(codec)
}

struct Foreign<T> {
    config: ClientConfig,
    transport: T,
}

impl<T> Handle for Foreign<T>
where
    T: ClientTransport,
    T::ResponseBody: Unpin,
    <T::ResponseBody as http_body::Body>::Error: std::fmt::Display,
{
    fn method(&self, _: &str) -> Option<Method> {
        None
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let (config, transport) = (self.config.clone(), self.transport.clone());
        Box::pin(async move { send(&transport, &config, call).await.map_err(|error| from_connect(&error)) })
    }
}

async fn send<T>(transport: &T, config: &ClientConfig, call: Call) -> Result<Answer, ConnectError>
where
    T: ClientTransport,
    T::ResponseBody: Unpin,
    <T::ResponseBody as http_body::Body>::Error: std::fmt::Display,
{
    let Some(path) = call.method.static_path() else {
        return Err(ConnectError::internal("connectrpc takes only paths that it knew before"));
    };
    let mut options = CallOptions::default();
    for (name, value) in call.metadata.as_headers() {
        options = options.with_header(name.clone(), value.clone());
    }
    if let Some(deadline) = call.deadline {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        options = options.with_timeout(left.max(Duration::from_millis(1)));
    }
    let to_connect = |error: Error| formic_rpc::wire_error::to_connect(&error);
    match call.method.kind {
        Kind::Unary => {
            let request = Raw(call.body.into_message().map_err(to_connect)?);
            let spec = Spec::client(path, StreamType::Unary);
            let response =
                call_unary::<_, Raw, RawView<'static>>(transport, config, spec, request, options).await?;
            let (headers, message, trailers) = response.into_parts();
            Ok(one(headers, message.into_bytes(), trailers))
        }
        Kind::ClientStream => {
            let mut requests = call.body.into_stream();
            let mut all = Vec::new();
            while let Some(message) = requests.next().await {
                all.push(Raw(message.map_err(to_connect)?));
            }
            let (requests, spec) = (futures::stream::iter(all), Spec::client(path, StreamType::ClientStream));
            let response =
                call_client_stream::<_, Raw, RawView<'static>>(transport, config, spec, requests, options)
                    .await?;
            let (headers, message, trailers) = response.into_parts();
            Ok(one(headers, message.into_bytes(), trailers))
        }
        Kind::ServerStream => {
            let request = Raw(call.body.into_message().map_err(to_connect)?);
            let spec = Spec::client(path, StreamType::ServerStream);
            let stream =
                call_server_stream::<_, Raw, RawView<'static>>(transport, config, spec, request, options)
                    .await?;
            let metadata = Metadata::from(stream.headers().clone());
            let late = Trailing::default();
            let messages = futures::stream::unfold(Some((stream, late.clone())), |state| async move {
                let (mut stream, late) = state?;
                match stream.message::<Raw>().await {
                    Ok(Some(message)) => Some((Ok(message.as_ref().bytes().clone()), Some((stream, late)))),
                    Ok(None) => {
                        late.set(stream.trailers().cloned().unwrap_or_default().into());
                        None
                    }
                    Err(error) => Some((Err(from_connect(&error)), None)),
                }
            });
            Ok(Answer { metadata, late: Some(late), ..Answer::new(Body::stream(messages)) })
        }
        Kind::BidiStream => {
            let spec = Spec::client(path, StreamType::BidiStream);
            let mut requests = call.body.into_stream();
            let stream =
                call_bidi_stream::<_, Raw, RawView<'static>>(transport, config, spec, options).await?;
            let (mut sending, receiving) = stream.into_split();
            // Ends with the requests, or when the call is gone.
            let mut sender = tokio::task::JoinSet::new();
            sender.spawn(async move {
                while let Some(Ok(message)) = requests.next().await {
                    if sending.send(Raw(message)).await.is_err() {
                        return;
                    }
                }
                sending.close_send();
            });
            let state = Some((receiving, sender));
            let messages = futures::stream::unfold(state, |state| async move {
                let (mut receiving, sender) = state?;
                match receiving.message::<Raw>().await {
                    Ok(Some(message)) => {
                        Some((Ok(message.as_ref().bytes().clone()), Some((receiving, sender))))
                    }
                    Ok(None) => None,
                    Err(error) => Some((Err(from_connect(&error)), None)),
                }
            });
            Ok(Answer::new(Body::stream(messages)))
        }
    }
}

fn one(headers: http::HeaderMap, message: bytes::Bytes, trailers: http::HeaderMap) -> Answer {
    let (metadata, trailers) = (Metadata::from(headers), Metadata::from(trailers));
    Answer { metadata, trailers, ..Answer::new(Body::Message(message)) }
}
