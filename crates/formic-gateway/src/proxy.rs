//! The proxy: a call comes in, the same call goes out to the service that the route names.

use std::sync::Arc;

use formic_client::{Client, Seen};
use formic_core::{Error, Metadata, Method, priority, shed};
use formic_rpc::{Answer, Body, BoxFuture, Call, Codec, Handle};
use http::header::{self, HeaderName};

use crate::routes::Routes;

/// Forwards calls without knowing their types.
#[derive(Clone, Debug)]
pub struct Proxy {
    routes: Routes,
    client: Client,
    /// Callers may say how much a call matters.
    priority: bool,
}

/// What belongs to one hop and is made anew for the next.
const HOP: [HeaderName; 12] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::TRANSFER_ENCODING,
    header::TE,
    header::UPGRADE,
    header::ORIGIN,
    header::USER_AGENT,
];

/// Names that the wire owns, on the way in and out.
fn wire_owns(name: &str) -> bool {
    name.starts_with("grpc-")
        || name.starts_with("connect-")
        || name.starts_with("sec-")
        || name.starts_with("formic-")
        || name == "keep-alive"
        || name == "date"
        || name.starts_with("access-control-")
}

/// The metadata of one hop without what only that hop is about.
fn forwarded(metadata: Metadata) -> Metadata {
    let mut headers = metadata.into_headers();
    for name in &HOP {
        headers.remove(name);
    }
    let owned: Vec<_> = headers.keys().filter(|name| wire_owns(name.as_str())).cloned().collect();
    for name in owned {
        headers.remove(name);
    }
    headers.into()
}

/// The same of an error. When to come again is for whoever asked, however many stand between.
fn of_an_error(metadata: Metadata) -> Metadata {
    let pushback = metadata.as_headers().get(shed::PUSHBACK).cloned();
    let mut metadata = forwarded(metadata);
    if let Some(pushback) = pushback {
        metadata.as_headers_mut().insert(shed::PUSHBACK, pushback);
    }
    metadata
}

impl Proxy {
    /// Over a live table and a client that finds the services.
    #[must_use]
    pub fn new(routes: Routes, client: Client) -> Self {
        Self { routes, client, priority: false }
    }

    /// Believes callers who say how much a call matters.
    #[must_use]
    pub fn with_priority(self, priority: bool) -> Self {
        Self { priority, ..self }
    }

    /// The handle for the server.
    #[must_use]
    pub fn handle(self) -> Arc<dyn Handle> {
        Arc::new(self)
    }
}

/// JSON is looked at once, so that a request which is none gets the gateway's clear answer.
fn check(call: &Call) -> Result<(), Error> {
    match (&call.body, call.codec) {
        (Body::Message(bytes), Codec::Json) => serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
            .map(|_| ())
            .map_err(|error| Error::invalid_argument(format!("the request is not JSON: {error}"))),
        _ => Ok(()),
    }
}

impl Handle for Proxy {
    fn method(&self, path: &str) -> Option<Method> {
        self.routes.now().find(path).map(|route| route.method.clone())
    }

    fn call(&self, call: Call) -> BoxFuture<'static, Result<Answer, Error>> {
        let Some(service) = self.routes.now().find(call.method.path()).map(|route| route.service.clone())
        else {
            let error = Error::not_found(format!("no method {}", call.method.path()));
            return Box::pin(std::future::ready(Err(error)));
        };
        if let Err(error) = check(&call) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut out = Call::new(call.method, call.codec, call.body);
        let (channel, by_metadata) = self.client.of_passed_on(&service);
        if by_metadata {
            // What was said to this hop alone, such as a host, is no less a reason to choose an instance.
            out.extensions.insert(Seen(Arc::new(call.metadata.as_headers().clone())));
        }
        let header = HeaderName::from_static(priority::HEADER);
        let priority = self.priority.then(|| call.metadata.as_headers().get(&header).cloned()).flatten();
        out.metadata = forwarded(call.metadata);
        if let Some(priority) = priority {
            out.metadata.as_headers_mut().insert(header, priority);
        }
        out.deadline = call.deadline;
        if let Some(peer) = &call.peer {
            // Appended: who called from outside. Services refuse some methods to calls that carry it, so it
            // is set for every call that came by TCP, and never removed on the way.
            let _ =
                out.metadata.append("x-forwarded-for", peer.0.rsplit_once(':').map_or(&peer.0, |(ip, _)| ip));
        }
        let answering = channel.call(out);
        Box::pin(async move {
            match answering.await {
                Ok(mut answer) => {
                    answer.metadata = forwarded(answer.metadata);
                    answer.trailers = forwarded(answer.trailers);
                    Ok(answer)
                }
                Err(mut error) => {
                    *error.metadata_mut() = of_an_error(std::mem::take(error.metadata_mut()));
                    Err(error)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn an_error_goes_on_with_when_to_come_again_and_without_what_the_wire_owns() {
        let mut metadata = Metadata::default();
        for name in [shed::PUSHBACK, "grpc-status", "formic-repeated", "x-failed"] {
            metadata.insert(name, "250").unwrap();
        }
        let metadata = of_an_error(metadata);
        let mut names: Vec<_> = metadata.as_headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, [shed::PUSHBACK, "x-failed"]);
    }
}
