//! The server's API over TCP: for whoever has a token, or a certificate of the right authority, and for nobody else.
//!
//! ```text
//! listener ─ room for so many, half of it for each address ─ TLS handshake ─ guard: token, name ─ API without what needs this machine
//! ```
//!
//! The socket in the folder of state stays as it is, for this user alone. What is tried in vain is answered slowly and
//! told in the log, without what was tried; who has the right token never waits for that.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use formic_client::{BoxIo, Duplex};
use formic_rpc::{Answer, BoxFuture, Call, Next, Peer};
use formic_server::{Denied, Guard, Running, Serving};
use futures::Stream;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::shares::{Share, Shares};
use super::wary::Wary;
use crate::engine::api;
use crate::engine::control::Control;
use crate::exit::{Failure, Outcome};
use crate::tls;
use crate::token::{self, Tokens};

/// Connections at a time: people, a pipeline or two, and a page that watches.
pub(super) const CONNECTIONS: usize = 128;
/// A handshake takes two ways; whoever is slower holds a place for so long.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The pause after a failed accept: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where it is, and who is let in. Paths are absolute, for each brain reads them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Door {
    pub(crate) listen: SocketAddr,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) tls: Option<Certificate>,
}

/// The server's own certificate, and who signs those of its callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// All that was read for it.
struct Parts {
    tokens: Option<Tokens>,
    tls: Option<TlsAcceptor>,
}

// === impl Door ===

impl Door {
    /// Reads and judges everything; nothing listens yet.
    fn read(&self) -> Outcome<Parts> {
        let is_mutual = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if self.token_file.is_none() && !is_mutual {
            let failure =
                Failure::user(format!("an API on {} would be open to anybody who reaches it", self.listen));
            return Err(failure.help(
                "ask for a token: --token-file FILE (`formic server token FILE` makes one), or for a certificate: \
                 --tls-cert FILE --tls-key FILE --tls-client-ca FILE",
            ));
        }
        if self.tls.is_none() && !self.listen.ip().is_loopback() {
            let failure = Failure::user(format!(
                "a token would cross the network to {} for everybody to read",
                self.listen
            ));
            return Err(failure.help(
                "add TLS: --tls-cert FILE --tls-key FILE; or listen on 127.0.0.1 and reach it by a tunnel, such as ssh -L",
            ));
        }
        let tokens = self.token_file.as_deref().map(Tokens::open).transpose()?;
        let tls =
            self.tls.as_ref().map(|tls| tls::server(&tls.certificate, &tls.key, tls.client_ca.as_deref()));
        Ok(Parts { tokens, tls: tls.transpose()?.map(|config| TlsAcceptor::from(Arc::new(config))) })
    }

    /// Whether it can be opened, before anything is started that would have to.
    pub(crate) fn check(&self) -> Outcome {
        drop(self.read()?);
        Ok(())
    }

    /// Serves the API to those who are let in.
    pub(crate) async fn open(&self, control: &Control, listener: TcpListener) -> Outcome<Running> {
        let Parts { tokens, tls } = self.read()?;
        let control = Control { from_afar: true, ..control.clone() };
        let limits = formic_server::Config {
            max_headers: 8 << 10,
            max_concurrent_streams: 64,
            max_in_flight: 256,
            header_timeout: HANDSHAKE,
            body_timeout: HANDSHAKE,
            ..formic_server::Config::default()
        };
        let failed = |error: formic_core::Error| Failure::bug(error.to_string());
        let keeper = Keeper { tokens, wary: Wary::default() };
        let mut running = api(&control, limits)?
            .guard(Arc::new(Gate(Arc::new(keeper))))
            .intercept(Arc::new(told))
            .build()
            .map_err(failed)?;
        running.listen_with(connections(listener, tls));
        running.health().set(Serving::Ready);
        Ok(running)
    }

    /// As the command line has it, for a unit of a service manager.
    pub(crate) fn arguments(&self) -> Vec<(&'static str, PathBuf)> {
        let mut arguments = vec![("--listen", PathBuf::from(self.listen.to_string()))];
        arguments.extend(self.token_file.iter().map(|file| ("--token-file", file.clone())));
        if let Some(tls) = &self.tls {
            arguments.push(("--tls-cert", tls.certificate.clone()));
            arguments.push(("--tls-key", tls.key.clone()));
            arguments.extend(tls.client_ca.iter().map(|file| ("--tls-client-ca", file.clone())));
        }
        arguments
    }
}

/// Tells in the log what is done from afar, and by whom; the answer is the caller's.
async fn told(call: Call, next: Next) -> Result<Answer, formic_core::Error> {
    if !call.method.safe {
        let by = call.peer.as_ref().map_or("", |peer| &*peer.0);
        tracing::info!(method = call.method.path(), by, "asked over TCP");
    }
    next.run(call).await
}

/// Who decides at the door.
struct Keeper {
    tokens: Option<Tokens>,
    wary: Wary,
}

struct Gate(Arc<Keeper>);

impl Guard for Gate {
    fn admit(
        &self,
        peer: Option<Peer>,
        authorization: Option<&[u8]>,
    ) -> BoxFuture<'static, Result<Option<Peer>, Denied>> {
        let (address, certificate) = peer.as_ref().map(|peer| split(&peer.0)).unwrap_or_default();
        let Some(tokens) = &self.0.tokens else {
            // The handshake let nobody through without a certificate.
            return Box::pin(std::future::ready(Ok(certificate.map(|name| Peer(name.into())))));
        };
        let secret = authorization.and_then(bearer);
        if let Some(token) = secret.and_then(|secret| tokens.name_of(secret)) {
            let who = match certificate {
                Some(certificate) => format!("token {token}, {certificate}"),
                None => format!("token {token}"),
            };
            return Box::pin(std::future::ready(Ok(Some(Peer(who.into())))));
        }
        let (keeper, address, given) = (Arc::clone(&self.0), address.to_owned(), secret.is_some());
        Box::pin(async move {
            if !keeper.wary.slowed(&address, given).await {
                return Err(Denied {
                    busy: true,
                    message: "too many requests without a right token; wait".into(),
                });
            }
            let message =
                if given { "the token is not one of this server's" } else { "this API needs a token" };
            Err(Denied { busy: false, message: message.into() })
        })
    }
}

/// The token in a header.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, secret) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| secret.trim_ascii())
}

/// The address of a peer, and its certificate as it is told.
fn split(peer: &str) -> (&str, Option<String>) {
    match peer.split_once(' ') {
        Some((address, name)) => (address, Some(format!("certificate {name}"))),
        None => (peer, None),
    }
}

/// Connections whose other end is known as far as a handshake can tell. Ends never; dropped with all that is in it.
fn connections(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
) -> impl Stream<Item = (Held, Option<Peer>)> + Send + Unpin + 'static {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let entrance = Entrance { listener, tls, room, shares: Shares::default(), handshakes: JoinSet::new() };
    Box::pin(futures::stream::unfold(entrance, |mut entrance| async move {
        let next = entrance.next().await;
        Some((next, entrance))
    }))
}

struct Entrance {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    shares: Shares,
    handshakes: JoinSet<Option<(Held, Peer)>>,
}

impl Entrance {
    /// Cancel safe: a handshake goes on in its task, and what was accepted is in one.
    async fn next(&mut self) -> (Held, Option<Peer>) {
        loop {
            let room = Arc::clone(&self.room);
            let accepted = tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Some((held, peer))) => return (held, Some(peer)),
                    _ => continue,
                },
                accepted = async {
                    // The semaphore is never closed.
                    let permit = room.acquire_owned().await;
                    (self.listener.accept().await, permit)
                } => accepted,
            };
            match accepted {
                (Ok((stream, address)), Ok(permit)) => match self.shares.take(address.ip()) {
                    Some(share) => {
                        let place = Place { _permit: permit, _share: share };
                        drop(self.handshakes.spawn(shake(stream, address, self.tls.clone(), place)));
                    }
                    // It is closed at once: the places are others' too.
                    None => tracing::debug!(%address, "an address has as many connections as it may"),
                },
                (Err(error), _) => {
                    tracing::warn!(%error, "cannot accept a connection to the API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                (_, Err(_)) => {}
            }
        }
    }
}

/// Finds out who is there, in time.
async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    place: Place,
) -> Option<(Held, Peer)> {
    stream.set_nodelay(true).ok()?;
    let Some(tls) = tls else {
        let held = Held { io: Box::new(stream), _place: place };
        return Some((held, Peer(address.to_string().into())));
    };
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let (_, session) = stream.get_ref();
            let certificate = session.peer_certificates().and_then(<[_]>::first).map(tls::name_in);
            let peer = certificate.map_or_else(|| address.to_string(), |name| format!("{address} {name}"));
            Some((Held { io: Box::new(stream), _place: place }, Peer(peer.into())))
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// One of all places, and of those of an address.
struct Place {
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

/// A connection with the place that it takes.
struct Held {
    io: BoxIo,
    _place: Place,
}

impl Held {
    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Duplex> {
        Pin::new(&mut *self.get_mut().io)
    }
}

impl AsyncRead for Held {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

/// `formic server token`: a new token, in the server's file and on standard output, once.
pub(crate) fn make_token(file: &Path, name: &str) -> Outcome {
    let made = token::add(file, name)?;
    crate::output::line(&made.secret);
    crate::output::talk(&format!(
        "{name} is in {}; whoever is to have it puts it into a file of mode 0600 and names that with --token-file or FORMIC_TOKEN_FILE",
        file.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn refused(listen: &str, token_file: Option<&str>, tls: Option<Certificate>) -> String {
        let door = Door { listen: listen.parse().unwrap(), token_file: token_file.map(PathBuf::from), tls };
        door.check().unwrap_err().to_string()
    }

    #[test]
    fn no_door_is_open_to_anybody() {
        let tls = |client_ca: Option<&str>| {
            Some(Certificate {
                certificate: "/none".into(),
                key: "/none".into(),
                client_ca: client_ca.map(PathBuf::from),
            })
        };
        assert!(refused("127.0.0.1:0", None, None).contains("open to anybody"));
        assert!(refused("0.0.0.0:0", None, tls(None)).contains("open to anybody"));
        for everywhere in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0"] {
            let text = refused(everywhere, Some("/none"), None);
            assert!(text.contains("for everybody to read") && text.contains("--tls-cert"), "{text}");
        }
        // From here on it is only the files that are missing.
        assert!(refused("[::1]:0", Some("/no-such"), None).contains("cannot read the token file /no-such"));
        assert!(refused("0.0.0.0:0", None, tls(Some("/no-such"))).contains("/no-such"));
    }

    #[test]
    fn a_header_has_a_token_and_a_peer_may_have_a_name() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for none in [&b""[..], b"abc", b"Basic abcdef", b"Bearer"] {
            assert_eq!(bearer(none), None);
        }
        assert_eq!(split("127.0.0.1:7"), ("127.0.0.1:7", None));
        assert_eq!(split("127.0.0.1:7 anna b"), ("127.0.0.1:7", Some("certificate anna b".into())));
    }
}
