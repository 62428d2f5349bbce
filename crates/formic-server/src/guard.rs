//! Who may come in at all, decided on the head of each request: before anything else of it is read, and for pages
//! as for calls. An interceptor would not do: it sees only the author's calls, and neither metrics nor reflection.

use formic_rpc::{BoxFuture, Peer};
use http::{HeaderValue, Response, StatusCode, header};

/// Decides about every request of a server; see [`Server::guard`](crate::Server::guard).
pub trait Guard: Send + Sync + 'static {
    /// Lets a request in, as of the peer that comes back, or not. `peer` is what the connection knows,
    /// `authorization` the header of this name.
    fn admit(
        &self,
        peer: Option<Peer>,
        authorization: Option<&[u8]>,
    ) -> BoxFuture<'static, Result<Option<Peer>, Denied>>;
}

/// A request that is not let in. Its connection is closed after the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Too many came, so that this one was not even looked at; else it did not say who it is.
    pub busy: bool,
    /// What the caller is told.
    pub message: String,
}

impl Denied {
    /// The answer: JSON as Connect has it for errors, which is read by people, too.
    pub(crate) fn response<B>(&self, body: impl FnOnce(String) -> B) -> Response<B> {
        let (status, code) = if self.busy {
            (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted")
        } else {
            (StatusCode::UNAUTHORIZED, "unauthenticated")
        };
        let text: String =
            self.message.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
        let mut response = Response::new(body(format!("{{\"code\":\"{code}\",\"message\":\"{text}\"}}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !self.busy {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_json_whatever_is_said() {
        let denied = Denied { busy: false, message: "no \"token\"\n".into() };
        let response = denied.response(|body| body);
        assert_eq!(response.status(), 401);
        assert_eq!(response.body(), "{\"code\":\"unauthenticated\",\"message\":\"no token\"}\n");
        let busy = Denied { busy: true, message: String::new() };
        assert_eq!(busy.response(|body| body).status(), 429);
    }
}
