//! What generated code calls. Not for people: names here follow the code generator.

use buffa::view::HasMessageView;
use buffa::{DecodeOptions, Message};
use bytes::Bytes;
use connectrpc::CodecFormat;
use connectrpc::dispatcher::codegen as wire;
use formic_core::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::decoding::Decoding;
use crate::encoding::Encoding;
use crate::wire_error::from_connect;
use crate::{Answer, Body, BoxFuture, ByteStream, Codec, Response};

pub use crate::channel::{StreamCall, UnaryCall};
pub use crate::handle::describe;
pub use crate::{Call, Channel, Context, Handle, Inbound, Reply, Request, Streaming};
pub use formic_core::{Kind, Method, RpcService};
pub use futures::Stream;
// Crates that generated code names; a user's crate depends on none of them.
pub use {buffa, buffa_types, connectrpc, serde};

/// A message of generated code: protobuf and JSON, owned and as a view.
pub trait Msg: Message + HasMessageView + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<M: Message + HasMessageView + Serialize + DeserializeOwned + Send + Sync + 'static> Msg for M {}

/// The answer of a generated server.
pub type Answering = BoxFuture<'static, Result<Answer, Error>>;

/// The codec in connectrpc's words.
#[must_use]
pub fn format(codec: Codec) -> CodecFormat {
    match codec {
        Codec::Proto => CodecFormat::Proto,
        Codec::Json => CodecFormat::Json,
    }
}

/// Bounds what a small message may inflate to in memory.
fn decode_options() -> DecodeOptions {
    connectrpc::Limits::default().decode_options()
}

/// Encodes a message.
pub fn encode<M: Msg>(message: &M, codec: Codec) -> Result<Bytes, Error> {
    match codec {
        Codec::Proto => message
            .try_encode_to_bytes()
            .map_err(|error| Error::internal("cannot encode the message").with_source(error)),
        Codec::Json => serde_json::to_vec(message)
            .map(Bytes::from)
            .map_err(|error| Error::internal("cannot encode the message as JSON").with_source(error)),
    }
}

/// Decodes an owned message.
pub fn decode<M: Msg>(bytes: &[u8], codec: Codec) -> Result<M, Error> {
    match codec {
        Codec::Proto => decode_options()
            .decode_from_slice(bytes)
            .map_err(|error| Error::invalid_argument(format!("the message does not decode: {error}"))),
        Codec::Json => serde_json::from_slice(bytes).map_err(|error| {
            Error::invalid_argument(format!("the message is not the expected JSON: {error}"))
        }),
    }
}

/// A request of one message, as protobuf bytes whatever the caller's codec.
pub fn unary<M: Msg>(call: Call) -> Result<(Context, Codec, Bytes), Error> {
    let (context, codec, body) = Context::split(call);
    let bytes = body.into_message()?;
    let bytes = match codec {
        Codec::Proto => bytes,
        Codec::Json => decode::<M>(&bytes, codec)?.encode_to_bytes(),
    };
    Ok((context, codec, bytes))
}

/// The view that a handler reads.
pub fn view<M: Msg>(bytes: &Bytes) -> Result<M::View<'_>, Error> {
    wire::decode_borrowed_request_view(bytes, &decode_options()).map_err(|error| from_connect(&error))
}

/// A request of many messages.
pub fn streaming<M: Msg>(call: Call) -> (Context, Codec, Inbound<M>) {
    let (context, codec, body) = Context::split(call);
    (context, codec, decode_stream(body, codec))
}

pub(crate) fn decode_stream<M: Msg>(body: Body, codec: Codec) -> Streaming<M> {
    Streaming::new(Decoding::new(body.into_stream(), codec))
}

pub(crate) fn encode_stream<M: Msg>(
    stream: impl futures::Stream<Item = Result<M, Error>> + Send + 'static,
    codec: Codec,
) -> Body {
    Body::Stream(ByteStream::of_runs(Encoding::new(stream, codec)))
}

/// The answer of a handler that sends one message.
pub fn answer<M: Msg>(response: Response<M>, codec: Codec) -> Result<Answer, Error> {
    let body = Body::Message(encode(&response.message, codec)?);
    Ok(Answer { metadata: response.metadata, trailers: response.trailers, ..Answer::new(body) })
}

/// The answer of a handler that streams.
pub fn stream_answer<M: Msg>(response: Response<Streaming<M>>, codec: Codec) -> Result<Answer, Error> {
    let body = encode_stream(response.message, codec);
    Ok(Answer { metadata: response.metadata, trailers: response.trailers, ..Answer::new(body) })
}

/// The answer to a method that is not there.
pub fn unimplemented(method: &Method) -> Answering {
    let error = Error::unimplemented(format!("no method {}", method.path()));
    Box::pin(std::future::ready(Err(error)))
}

/// Lets `Service::serve` take any implementation of a generated trait; `Marker` says of which.
pub trait IntoHandle<Marker> {
    /// The generated server around the implementation.
    fn into_handle(self) -> std::sync::Arc<dyn Handle>;
}
