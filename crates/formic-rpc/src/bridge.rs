//! A handle as connectrpc's dispatcher: the server's edge to Connect, gRPC and gRPC-Web over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::dispatcher::codegen::{StreamingResult, UnaryResult};
use connectrpc::dispatcher::{MethodDescriptor, RequestStream};
use connectrpc::{CodecFormat, Dispatcher, EncodedBody, MethodKind, Payload, RequestContext};
use formic_core::{Error, Kind, Metadata, Method};
use futures::StreamExt;
use http::HeaderName;
use tokio::time::Instant;

use crate::wire_error::{from_connect, to_connect};
use crate::{Answer, Body, Call, Codec, Handle, Peer};

/// How much earlier our deadline is than connectrpc's, whose timer counts in milliseconds.
const AHEAD: Duration = Duration::from_millis(1);

/// Paths of methods are seldom longer.
const SHORT: usize = 128;

const CONNECT_TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Presents a [`Handle`] to `connectrpc::ConnectRpcService`.
pub struct Bridge(pub Arc<dyn Handle>);

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}

impl Bridge {
    fn call(
        &self,
        path: &str,
        mut ctx: RequestContext,
        body: Body,
        format: CodecFormat,
    ) -> Result<crate::BoxFuture<'static, Result<Answer, Error>>, Error> {
        let missing = || Error::unimplemented(format!("no method /{path}"));
        let method = self.method(path).ok_or_else(missing)?;
        let codec = if format == CodecFormat::Json { Codec::Json } else { Codec::Proto };
        let mut call = Call::new(method, codec, body);
        // The wire's deadline is of the real clock, ours is tokio's, which tests may pause.
        // The server's own default bounds the time to a stream's first answer (connectrpc sees to
        // that); only a deadline that the caller asked for bounds the whole stream.
        let asked = || ctx.header(CONNECT_TIMEOUT).is_some() || ctx.header(GRPC_TIMEOUT).is_some();
        if !call.method.kind.server_streams() || asked() {
            // connectrpc keeps the same deadline. Ours comes first, for it knows what it ends and counts it.
            let ours = |remaining: Duration| Instant::now() + remaining.saturating_sub(AHEAD);
            call.deadline = ctx.time_remaining().map(ours);
        }
        call.metadata = Metadata::from(std::mem::take(ctx.headers_mut()));
        call.extensions = std::mem::take(ctx.extensions_mut());
        call.peer = call.extensions.get::<Peer>().cloned();
        Ok(self.0.call(call))
    }

    /// connectrpc takes the first slash off. It is put back on the stack, for this is done twice a call.
    fn method(&self, path: &str) -> Option<Method> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut room = [b'/'; SHORT];
        match room.get_mut(1..=path.len()) {
            Some(rest) => {
                rest.copy_from_slice(path.as_bytes());
                self.0.method(std::str::from_utf8(&room[..=path.len()]).ok()?)
            }
            None => self.0.method(&format!("/{path}")),
        }
    }

    fn one(&self, path: &str, ctx: RequestContext, body: Body, format: CodecFormat) -> UnaryResult {
        let answering = self.call(path, ctx, body, format);
        Box::pin(async move {
            let answer = match answering {
                Ok(answering) => answering.await,
                Err(error) => Err(error),
            };
            let answer = answer.map_err(|error| to_connect(&error))?;
            let body = answer.body.into_message().map_err(|error| to_connect(&error))?;
            Ok(response(EncodedBody::from(body), answer.metadata, answer.trailers))
        })
    }

    fn many(&self, path: &str, ctx: RequestContext, body: Body, format: CodecFormat) -> StreamingResult {
        let answering = self.call(path, ctx, body, format);
        Box::pin(async move {
            let answer = match answering {
                Ok(answering) => answering.await,
                Err(error) => Err(error),
            };
            // A failure before the first message goes out as the end of an empty stream: connectrpc's
            // short form of it for gRPC has the status in the headers, where details have no place.
            let answer = answer.unwrap_or_else(|error| {
                Answer::new(Body::stream(futures::stream::once(std::future::ready(Err(error)))))
            });
            let stream = answer
                .body
                .into_stream()
                .map(|item| item.map(EncodedBody::from).map_err(|error| to_connect(&error)));
            let stream: connectrpc::EncodedStream = Box::pin(stream);
            Ok(response(stream, answer.metadata, answer.trailers))
        })
    }
}

fn response<B>(body: B, metadata: Metadata, trailers: Metadata) -> connectrpc::Response<B> {
    let mut response = connectrpc::Response::new(body);
    for (name, value) in metadata.as_headers() {
        response = response.with_header(name.clone(), value.clone());
    }
    for (name, value) in trailers.as_headers() {
        response = response.with_trailer(name.clone(), value.clone());
    }
    response
}

fn incoming(requests: RequestStream) -> Body {
    Body::stream(requests.map(|item| item.map_err(|error| from_connect(&error))))
}

impl Dispatcher for Bridge {
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        let method = self.method(path)?;
        let kind = match method.kind {
            Kind::Unary => MethodKind::Unary,
            Kind::ServerStream => MethodKind::ServerStreaming,
            Kind::ClientStream => MethodKind::ClientStreaming,
            Kind::BidiStream => MethodKind::BidiStreaming,
        };
        // "Idempotent" is what lets connectrpc accept HTTP GET, so only safe methods get it.
        Some(MethodDescriptor::from_kind(kind).with_idempotent(method.safe))
    }

    fn call_unary(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> UnaryResult {
        match request.encoded() {
            Ok(bytes) => self.one(path, ctx, Body::Message(bytes), format),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn call_server_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Bytes,
        format: CodecFormat,
    ) -> StreamingResult {
        self.many(path, ctx, Body::Message(request), format)
    }

    fn call_client_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> UnaryResult {
        self.one(path, ctx, incoming(requests), format)
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> StreamingResult {
        self.many(path, ctx, incoming(requests), format)
    }
}
