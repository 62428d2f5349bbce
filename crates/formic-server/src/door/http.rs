//! The door over HTTP. HTTP/2 tells a client that was turned away to stop, and the connection goes on. HTTP/1.1 has no word for it:
//! the answer says that the connection ends with it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use formic_core::{Error, Method};
use formic_rpc::wire_error::to_connect;
use formic_rpc::{BoxFuture, Peer};
use http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::{Door, Entrance, Held};
use crate::http::EdgeBody;
use crate::overload::Head;
use crate::unary::asked;

/// So much comes with the head, or costs no more to read than a refusal costs to write: a frame of HTTP/2, and what is read of
/// HTTP/1 at once.
const SMALL: u64 = 16 << 10;

/// What becomes of a request.
pub(crate) enum Answer<B> {
    /// It is let in.
    Open(Request<Arriving<B>>),
    /// It may be, in a moment.
    Wait(BoxFuture<'static, Result<Request<Arriving<B>>, Response<EdgeBody>>>),
    /// It is turned away.
    Closed(Response<EdgeBody>),
}

/// Whether a request asks on its head. One that streams always does, and so does one without a message.
pub(crate) fn is_for<B: Body>(request: &Request<B>, method: &Method) -> bool {
    !method.kind.client_streams()
        && request.method() == http::Method::POST
        && request.body().size_hint().exact().is_none_or(|length| length > SMALL)
}

impl Door {
    /// Asks for a call whose message is to come.
    pub(crate) fn ask<B>(&self, request: Request<B>, peer: Option<&Peer>) -> Answer<B>
    where
        B: Body + Send + 'static,
    {
        let limit = self.bounds.max_message();
        if request.body().size_hint().lower() > limit as u64 {
            self.arrivals.call();
            let text = format!("request body size exceeds limit {limit}");
            return Answer::Closed(refusal(&request, &Error::resource_exhausted(text)));
        }
        let head = Head { path: request.uri().path(), headers: request.headers(), peer };
        let left = asked(request.headers());
        let deadline = Instant::now() + self.bounds.timeout(left);
        let waiting = match self.enter(&head, left, deadline) {
            Entrance::Open(held) => return Answer::Open(arriving(request, held)),
            Entrance::Wait(waiting) => waiting,
            Entrance::Closed(error) => return Answer::Closed(refusal(&request, &error)),
        };
        Answer::Wait(Box::pin(async move {
            match waiting.await {
                Ok(held) => {
                    let mut request = arriving(request, held);
                    if left.is_some() {
                        shorten(request.headers_mut(), deadline.saturating_duration_since(Instant::now()));
                    }
                    Ok(request)
                }
                Err(error) => Err(refusal(&request, &error)),
            }
        }))
    }
}

/// The refusal of a request whose message was not read, as its protocol has it.
fn refusal<B>(request: &Request<B>, error: &Error) -> Response<EdgeBody> {
    let mut response = to_connect(error).into_http_response(request.headers()).map(EdgeBody::Rpc);
    if request.version() < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn arriving<B>(mut request: Request<B>, held: Held) -> Request<Arriving<B>> {
    request.extensions_mut().insert(held.pass.clone());
    request.map(|body| Arriving { body, held: Some(held), sleep: None })
}

/// The caller has waited already; what is left of its patience counts from now on.
fn shorten(headers: &mut HeaderMap, left: Duration) {
    let millis = left.as_millis();
    for (name, text) in
        [("connect-timeout-ms", millis.to_string()), ("grpc-timeout", format!("{}m", millis.min(99_999_999)))]
    {
        if let Some(value) = headers.get_mut(name)
            && let Ok(text) = HeaderValue::try_from(text)
        {
            *value = text;
        }
    }
}

/// The body of a request that was let in; it loses its place if it is long in coming.
pub(crate) struct Arriving<B> {
    body: B,
    held: Option<Held>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<B> Arriving<B> {
    fn let_go(&mut self) -> Option<Held> {
        self.sleep = None;
        self.held.take()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Arriving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(_)) => {}
            // What comes next is the work, whose place it is.
            Poll::Ready(None) => drop(this.let_go()),
            Poll::Pending => {
                if let Some(Held { until, .. }) = &this.held {
                    let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(*until)));
                    if sleep.as_mut().poll(cx).is_ready()
                        && let Some(held) = this.let_go()
                    {
                        held.pass.give_up();
                    }
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
