//! What happens to every request at the door, before it is known to be a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;

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

/// Refuses a body that is too large with the status that says so, whether its length was told or is found
/// out on the way; the protocols' own answer would be the one for a quota. gRPC has a length in each message
/// and a status of its own, so its requests go on.
pub(crate) async fn too_large(State(limit): State<usize>, request: Request, next: Next) -> Response {
    match told(&request, limit) {
        Told::Fits => next.run(request).await,
        Told::Exceeds(length) => {
            read_on(request.into_body().into_data_stream()).await;
            refused(&format!("the request has {length} bytes, and this gateway takes {limit}"))
        }
        Told::Nothing => {
            let over = Arc::new(AtomicBool::new(false));
            let counted = Arc::clone(&over);
            let response = next.run(request.map(|body| count(body, limit, counted))).await;
            if !over.load(Ordering::Relaxed) {
                return response;
            }
            refused(&format!("the request has more bytes than the {limit} that this gateway takes"))
        }
    }
}

/// What the head of a request says of its length.
enum Told {
    /// It is small enough, or not to be judged here.
    Fits,
    Exceeds(u64),
    Nothing,
}

fn told(request: &Request, limit: usize) -> Told {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = header(header::CONTENT_TYPE).unwrap_or_default();
    if kind.starts_with("application/grpc")
        || kind.starts_with("application/connect+")
        || request.body().is_end_stream()
    {
        return Told::Fits;
    }
    match header(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if usize::try_from(length).is_ok_and(|length| length <= limit) => Told::Fits,
        Some(length) => Told::Exceeds(length),
        None => Told::Nothing,
    }
}

fn refused(message: &str) -> Response {
    let body = serde_json::json!({ "code": "resource_exhausted", "message": message });
    (StatusCode::PAYLOAD_TOO_LARGE, axum::Json(body)).into_response()
}

/// Reads what is still sent, for a while. Whether it came to its end makes no difference.
async fn read_on(mut body: BodyDataStream) {
    let reading = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

/// The same body, which breaks off where it gets too large, and says so in `over`.
fn count(body: Body, limit: usize, over: Arc<AtomicBool>) -> Body {
    let state = Some((body.into_data_stream(), 0_usize, over));
    Body::from_stream(futures::stream::unfold(state, move |state| async move {
        let (mut body, seen, over) = state?;
        let data = match body.next().await? {
            Ok(data) => data,
            Err(error) => return Some((Err(error), None)),
        };
        let seen = seen.saturating_add(data.len());
        if seen <= limit {
            return Some((Ok(data), Some((body, seen, over))));
        }
        over.store(true, Ordering::Relaxed);
        read_on(body).await;
        Some((Err(axum::Error::new(TooLarge)), None))
    }))
}

/// A body is larger than it may be.
#[derive(Debug, thiserror::Error)]
#[error("the request is too large")]
struct TooLarge;
