//! What is made of every request before anything else looks at it: it has one host and one spelling of its path, and says
//! nothing of where it came by that only a proxy may say.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use formic_rpc::Peer;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What all the others begin with: `-for`, `-host`, `-proto`, `-prefix`, `-port` and what servers make of more.
const X_FORWARDED: &str = "x-forwarded-";

/// The gateway's own numbers.
const METRICS: &str = "/metrics";

/// A network: an address of it, and how many of its bits all others share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// An address in it.
    pub address: IpAddr,
    /// How many bits count.
    pub bits: u8,
}

/// Who is answered at `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scrapers {
    /// Whoever asks from this machine, and by no proxy that says so.
    #[default]
    Local,
    /// Everybody.
    All,
    /// Nobody.
    None,
}

/// What requests are held to. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Entry(Arc<(Vec<Network>, Scrapers)>);

/// Why a request does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    TwoHosts,
    NoTarget,
    NotTold,
}

/// The outermost layer.
pub(crate) async fn enter(State(entry): State<Entry>, mut request: Request, next: Next) -> Response {
    match entry.admit(&mut request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

// === impl Scrapers ===

impl Scrapers {
    /// What nobody has changed makes no other gateway.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Entry ===

impl Entry {
    pub(crate) fn new(trusted: Vec<Network>, scrapers: Scrapers) -> Self {
        Self(Arc::new((trusted, scrapers)))
    }

    fn admit<B>(&self, request: &mut http::Request<B>) -> Result<(), Refusal> {
        // Which of them counts would be another's to say than ours.
        if request.headers().get_all(header::HOST).iter().count() > 1 {
            return Err(Refusal::TwoHosts);
        }
        // HTTP/2 has another place for it, which counts where there are both, for routes as for rules.
        if let Some(host) =
            request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let peer = request.extensions().get::<Peer>();
        let peer =
            peer.and_then(|peer| peer.0.parse::<SocketAddr>().ok()).map(|peer| peer.ip().to_canonical());
        let came_by_proxy = request.headers().keys().any(says_of_callers);
        let (trusted, scrapers) = &*self.0;
        if !peer.is_some_and(|peer| trusted.iter().any(|network| network.has(peer))) {
            take_out(request.headers_mut());
        }
        if let Some(path) = plain(request.uri().path()) {
            *request.uri_mut() = with_path(request.uri(), &path).ok_or(Refusal::NoTarget)?;
        }
        let asks = request.method() == Method::GET || request.method() == Method::HEAD;
        if asks && request.uri().path() == METRICS {
            let near = peer.is_none_or(|peer| peer.is_loopback()) && !came_by_proxy;
            let told = match scrapers {
                Scrapers::Local => near,
                Scrapers::All => true,
                Scrapers::None => false,
            };
            return if told { Ok(()) } else { Err(Refusal::NotTold) };
        }
        Ok(())
    }
}

impl Network {
    fn has(self, address: IpAddr) -> bool {
        let same = |own: u128, its: u128, all: u32| {
            let rest = all.saturating_sub(u32::from(self.bits));
            own.checked_shr(rest).unwrap_or_default() == its.checked_shr(rest).unwrap_or_default()
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(its)) => same(own.to_bits().into(), its.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(its)) => same(own.to_bits(), its.to_bits(), 128),
            _ => false,
        }
    }
}

/// Whether a header says whose request it was before it came here.
fn says_of_callers(name: &HeaderName) -> bool {
    name.as_str().starts_with(X_FORWARDED) || *name == FORWARDED || *name == REAL_IP || *name == header::VIA
}

/// Takes out what would be taken for the gateway's own word.
fn take_out(headers: &mut HeaderMap) {
    let said: Vec<HeaderName> =
        headers.keys().filter(|name| says_of_callers(name) && **name != header::VIA).cloned().collect();
    for name in said {
        headers.remove(name);
    }
}

/// A path in the spelling that routes are written in: `%61` is `a`, as RFC 3986 has it for whatever needs no escape. Nothing if
/// it is that already.
fn plain(path: &str) -> Option<String> {
    let mut rest = path;
    let mut out = String::new();
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let code = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(char::from);
        match code.filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')) {
            Some(c) => {
                out.push(c);
                rest = &after[2..];
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    (out != path).then_some(out)
}

/// The same target with another path.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

// === impl Refusal ===

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Self::TwoHosts => (StatusCode::BAD_REQUEST, "invalid_argument", "a request has one Host"),
            Self::NoTarget => (StatusCode::BAD_REQUEST, "invalid_argument", "the path cannot be read"),
            Self::NotTold => (StatusCode::NOT_FOUND, "not_found", "there are no metrics here for you"),
        };
        (status, axum::Json(serde_json::json!({ "code": code, "message": message }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn request(peer: &str, path: &str, headers: &[(&str, &str)]) -> http::Request<()> {
        let mut request = http::Request::get(path).extension(Peer(peer.into()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_strangers_word_is_taken_out_and_a_trusted_proxys_is_not() {
        let entry = Entry::new(
            vec![
                Network { address: [10, 0, 0, 0].into(), bits: 8 },
                Network { address: std::net::Ipv6Addr::LOCALHOST.into(), bits: 128 },
            ],
            Scrapers::Local,
        );
        let said = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "spoof"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("via", "1.1 x"),
            ("cookie", "a=b"),
        ];
        for (peer, left) in [
            ("127.0.0.1:5", 2),
            ("11.0.0.1:5", 2),
            ("10.9.8.7:5", 8),
            ("[::ffff:10.1.1.1]:5", 8),
            ("[::1]:5", 8),
            ("[::2]:5", 2),
            ("/run/a.sock", 2),
        ] {
            let mut request = request(peer, "/", &said);
            entry.admit(&mut request).unwrap();
            assert_eq!(request.headers().len(), left, "{peer}: {:?}", request.headers());
        }
    }

    #[test]
    fn one_host_and_one_spelling() {
        let entry = Entry::new(Vec::new(), Scrapers::Local);
        let mut two = request("1.1.1.1:5", "/", &[("host", "a"), ("host", "b")]);
        assert_eq!(entry.admit(&mut two), Err(Refusal::TwoHosts));
        for (path, expected) in [
            ("/%61dmin/%7Euser?q=%61", "/admin/~user?q=%61"),
            ("/%2e%2E/x", "/../x"),
            ("/a%20b%2Fc%25", "/a%20b%2Fc%25"),
            ("/%2561", "/%2561"),
            ("/%zz%4", "/%zz%4"),
            ("/plain", "/plain"),
        ] {
            let mut request = request("1.1.1.1:5", path, &[]);
            entry.admit(&mut request).unwrap();
            assert_eq!(request.uri().to_string(), expected, "{path}");
        }
    }

    #[test]
    fn metrics_are_for_those_of_this_machine_unless_said_otherwise() {
        let told = |scrapers, peer: &str, path: &str, headers: &[(&str, &str)]| {
            Entry::new(Vec::new(), scrapers).admit(&mut request(peer, path, headers)).is_ok()
        };
        use Scrapers::{All, Local, None};
        let forwarded = [("x-forwarded-for", "1.2.3.4")];
        assert!(told(Local, "127.0.0.1:5", METRICS, &[]) && told(Local, "[::1]:5", METRICS, &[]));
        assert!(!told(Local, "127.0.0.1:5", METRICS, &forwarded), "a proxy of this machine brings strangers");
        assert!(!told(Local, "10.0.0.1:5", METRICS, &[]) && !told(Local, "10.0.0.1:5", "/%6Detrics", &[]));
        assert!(told(Local, "10.0.0.1:5", "/metrics/x", &[]), "that is another's");
        assert!(told(All, "10.0.0.1:5", METRICS, &[]) && !told(None, "127.0.0.1:5", METRICS, &[]));
    }
}
