//! What happens to every request at the door, before it is known to be a call.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderName, HeaderValue, StatusCode, header};

/// The header that names a request in every log on its way.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes the caller's request id if it is a sane one, makes one otherwise, and answers with it.
pub(crate) async fn request_id(mut request: Request, next: Next) -> Response {
    let sane = |id: &&HeaderValue| !id.is_empty() && id.len() <= 128 && id.to_str().is_ok();
    let id = request.headers().get(REQUEST_ID).filter(sane).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&format!("{:032x}", fastrand::u128(..))).ok());
    if let Some(id) = &id {
        request.headers_mut().insert(REQUEST_ID, id.clone());
    }
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// What says how much a call matters.
const PRIORITY: HeaderName = HeaderName::from_static(formic_core::priority::HEADER);

/// Takes out what callers from outside may not say.
pub(crate) async fn nobody_special(mut request: Request, next: Next) -> Response {
    request.headers_mut().remove(PRIORITY);
    next.run(request).await
}

/// How long a body that is too large is read on, so that a client which sends it all before it reads
/// gets to see why it was refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// Refuses a body whose length says already that it is too large, with the status that says so; the
/// protocols' own answer, for bodies that do not tell their length, is the one for a quota. gRPC has a
/// length in each message and a status of its own, so its requests go on.
pub(crate) async fn too_large(State(limit): State<usize>, request: Request, next: Next) -> Response {
    let Some(length) = excess(&request, limit) else { return next.run(request).await };
    let mut body = request.into_body().into_data_stream();
    let reading = async { while let Some(Ok(_)) = body.next().await {} };
    // Whether it came to its end makes no difference.
    let _ = tokio::time::timeout(PATIENCE, reading).await;
    let message = format!("the request has {length} bytes, and this gateway takes {limit}");
    let body = serde_json::json!({ "code": "resource_exhausted", "message": message });
    (StatusCode::PAYLOAD_TOO_LARGE, axum::Json(body)).into_response()
}

/// The length of a body that is too large.
fn excess(request: &Request, limit: usize) -> Option<u64> {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = header(header::CONTENT_TYPE).unwrap_or_default();
    if kind.starts_with("application/grpc") || kind.starts_with("application/connect+") {
        return None;
    }
    let length: u64 = header(header::CONTENT_LENGTH)?.parse().ok()?;
    usize::try_from(length).map_or(true, |length| length > limit).then_some(length)
}
