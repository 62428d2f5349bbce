//! The caller's side: a channel to a service, and calls under construction.

use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use formic_core::{Error, Metadata, Method};
use futures::Stream;
use tokio::time::Instant;

use crate::rt::{self, Msg};
use crate::{Answer, Body, BoxFuture, Call, Codec, Handle, Response, Streaming};

/// A way to one service. Cheap to clone; knows no transport.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<dyn Handle>,
    codec: Codec,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({:?})", self.codec)
    }
}

impl Channel {
    /// A channel over anything that answers: a client's transport stack, or a server in this
    /// process, which is then called without a network in between.
    pub fn new(handle: Arc<dyn Handle>) -> Self {
        Self { handle, codec: Codec::Proto }
    }

    /// The same channel with another encoding of messages.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Makes a call as it stands; typed stubs do this for you.
    pub fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        self.handle.call(call)
    }

    /// The handle underneath.
    #[must_use]
    pub fn handle(&self) -> &Arc<dyn Handle> {
        &self.handle
    }

    /// A call with one request and one response.
    pub fn unary<Req: Msg, Res: Msg>(&self, method: Method, request: &Req) -> UnaryCall<Res> {
        UnaryCall::new(self, method, rt::encode(request, self.codec).map(Body::Message))
    }

    /// A call with many requests and one response.
    pub fn client_stream<Req: Msg, Res: Msg>(
        &self,
        method: Method,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> UnaryCall<Res> {
        UnaryCall::new(self, method, Ok(self.outgoing(requests)))
    }

    /// A call with one request and many responses.
    pub fn server_stream<Req: Msg, Res: Msg>(&self, method: Method, request: &Req) -> StreamCall<Res> {
        StreamCall::new(self, method, rt::encode(request, self.codec).map(Body::Message))
    }

    /// A call with many of both.
    pub fn bidi_stream<Req: Msg, Res: Msg>(
        &self,
        method: Method,
        requests: impl Stream<Item = Req> + Send + 'static,
    ) -> StreamCall<Res> {
        StreamCall::new(self, method, Ok(self.outgoing(requests)))
    }

    fn outgoing<Req: Msg>(&self, requests: impl Stream<Item = Req> + Send + 'static) -> Body {
        rt::encode_stream(futures::StreamExt::map(requests, Ok), self.codec)
    }
}

/// The part that both kinds of calls under construction share.
#[derive(Debug)]
struct Draft {
    channel: Channel,
    method: Method,
    body: Result<Body, Error>,
    metadata: Result<Metadata, Error>,
    deadline: Option<Instant>,
}

impl Draft {
    fn set_metadata(&mut self, name: &str, value: &str) {
        if let Ok(metadata) = &mut self.metadata
            && let Err(error) = metadata.append(name, value)
        {
            self.metadata = Err(Error::invalid_argument(error.to_string()));
        }
    }

    fn send(self) -> Result<BoxFuture<'static, Result<Answer, Error>>, Error> {
        let mut call = Call::new(self.method, self.channel.codec, self.body?);
        call.metadata = self.metadata?;
        call.deadline = self.deadline;
        Ok(self.channel.call(call))
    }
}

/// A call that was made, and what makes a response of its answer. Dropping it cancels the call.
#[must_use = "a call does nothing until it is awaited"]
pub struct Sent<T> {
    /// An error is given out once.
    answer: Result<BoxFuture<'static, Result<Answer, Error>>, Option<Error>>,
    codec: Codec,
    finish: fn(Answer, Codec) -> Result<Response<T>, Error>,
}

impl<T> std::fmt::Debug for Sent<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sent({:?})", self.codec)
    }
}

impl<T> Future for Sent<T> {
    type Output = Result<Response<T>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Poll::Ready(match &mut this.answer {
            Ok(answer) => match ready!(answer.as_mut().poll(cx)) {
                Ok(answer) => (this.finish)(answer, this.codec),
                Err(error) => Err(error),
            },
            Err(error) => Err(error.take().unwrap_or_else(|| Error::internal("the call is over"))),
        })
    }
}

macro_rules! draft {
    ($(#[$doc:meta])* $name:ident => $output:ty, $finish:expr) => {
        $(#[$doc])*
        #[must_use = "a call does nothing until it is awaited"]
        #[derive(Debug)]
        pub struct $name<Res> {
            draft: Draft,
            response: PhantomData<fn() -> Res>,
        }

        impl<Res: Msg> $name<Res> {
            fn new(channel: &Channel, method: Method, body: Result<Body, Error>) -> Self {
                let channel = channel.clone();
                let draft = Draft { channel, method, body, metadata: Ok(Metadata::new()), deadline: None };
                Self { draft, response: PhantomData }
            }

            /// Waits at most this long; the deadline of the call being served applies too.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.draft.deadline = Some(Instant::now() + timeout);
                self
            }

            /// Waits until then at the latest.
            pub fn deadline(mut self, deadline: Instant) -> Self {
                self.draft.deadline = Some(deadline);
                self
            }

            /// Sends metadata along; an invalid name or value fails the call.
            pub fn metadata(mut self, name: &str, value: &str) -> Self {
                self.draft.set_metadata(name, value);
                self
            }
        }

        impl<Res: Msg> IntoFuture for $name<Res> {
            type Output = Result<Response<$output>, Error>;
            type IntoFuture = Sent<$output>;

            fn into_future(self) -> Self::IntoFuture {
                let codec = self.draft.channel.codec;
                Sent { answer: self.draft.send().map_err(Some), codec, finish: $finish }
            }
        }
    };
}

draft! {
    /// A call that is answered with one message, under construction; `.await` makes it.
    UnaryCall => Res, |answer: Answer, codec| {
        let message = rt::decode::<Res>(&answer.body.into_message()?, codec).map_err(garbled)?;
        Ok(Response::from_parts(message, answer.metadata, answer.trailers))
    }
}

draft! {
    /// A call that is answered with a stream, under construction; `.await` makes it.
    StreamCall => Streaming<Res>, |answer: Answer, codec| {
        let messages = rt::decode_stream::<Res>(answer.body, codec);
        let messages = messages.with_trailers(answer.trailers, answer.late);
        Ok(Response::from_parts(messages, answer.metadata, Metadata::new()))
    }
}

/// A response that does not decode is the server's fault, not the request's.
fn garbled(error: Error) -> Error {
    Error::internal(format!("the response does not decode: {}", error.message()))
}
