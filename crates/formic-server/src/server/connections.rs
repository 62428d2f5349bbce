//! What becomes of a connection: accepted while there is room, served over the wire that it speaks, and drained.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use formic_rpc::Peer;
use formic_telemetry::Arrivals;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::batch::Batch;
use crate::farewell::Talk;
use crate::http::{Edge, PerConnection};
use crate::listener::{Accepted, Bound};
use crate::mux::Begun;
use crate::patience::Reader;
use crate::seldom::Seldom;

/// What the accept loop hands to each connection.
pub(super) struct Connections {
    pub(super) edge: Edge,
    pub(super) mux: Option<Arc<formic_mux::Accept>>,
    /// Over the multiplexed wire, and over HTTP.
    pub(super) arrivals: [Arrivals; 2],
    pub(super) config: Arc<Config>,
    pub(super) accepting: CancellationToken,
    pub(super) draining: CancellationToken,
}

/// The pause after a failed accept (out of file descriptors): trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that has not asked for anything yet may take to do so once the drain has begun.
const FIRST_WORDS: Duration = Duration::from_millis(100);

/// How long whoever was not let in may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);

impl Connections {
    /// Owns the listener and its connections; ends when the last of them has.
    pub(super) async fn accept_from(self, bound: Bound) {
        let room = Arc::new(Semaphore::new(self.config.max_connections));
        let (mut tasks, mut failures) = (JoinSet::new(), Seldom::default());
        loop {
            while tasks.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = self.accepting.cancelled() => break,
                accepted = async {
                    // The semaphore is never closed.
                    let permit = Arc::clone(&room).acquire_owned().await;
                    (bound.accept().await, permit)
                } => accepted,
            };
            match accepted {
                (Ok(accepted), permit) => {
                    tasks.spawn(self.serve(accepted, permit.ok()));
                }
                (Err(error), _) => {
                    if let Some(times) = failures.note(std::time::Instant::now()) {
                        tracing::warn!(%error, times, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Whom the system has connected already may have sent a request; the end of the listener would be
        // an answer that does not say whether it was begun. Of a shared one it is no end.
        while !bound.is_shared() {
            tokio::select! {
                biased;
                Ok(accepted) = bound.accept() => {
                    let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { break };
                    tasks.spawn(self.serve(accepted, Some(permit)));
                }
                () = std::future::ready(()) => break,
            }
        }
        drop(bound);
        while tasks.join_next().await.is_some() {}
    }

    fn serve(
        &self,
        accepted: Accepted,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> formic_rpc::BoxFuture<'static, ()> {
        match accepted {
            Accepted::Tcp(stream, peer) => {
                let peer = Peer(peer.to_string().into());
                Box::pin(self.connection(stream, Some(peer), permit))
            }
            Accepted::Unix(stream) => {
                // Who connected, as the system vouches for it.
                let peer = stream
                    .peer_cred()
                    .map_or_else(|_| "unix".into(), |peer| format!("unix uid {}", peer.uid()));
                Box::pin(self.connection(stream, Some(Peer(peer.into())), permit))
            }
        }
    }

    pub(super) fn connection<S>(
        &self,
        stream: S,
        peer: Option<Peer>,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (config, edge) = (Arc::clone(&self.config), self.edge.clone());
        let (draining, mux) = (self.draining.clone(), self.mux.clone());
        let [over_mux, over_http] = self.arrivals.clone();
        async move {
            let _permit = permit;
            // A client that connects and says nothing holds a slot for so long and no longer.
            let silent_until = tokio::time::Instant::now() + config.header_timeout;
            let mut stream = Begun::unread(stream);
            if let Some(accept) = mux {
                let silence = async {
                    tokio::select! {
                        () = tokio::time::sleep_until(silent_until) => {}
                        () = draining.cancelled() => tokio::time::sleep(FIRST_WORDS).await,
                    }
                };
                let multiplexed = tokio::select! {
                    biased;
                    multiplexed = stream.is_multiplexed() => multiplexed,
                    // Nothing was asked, so nothing is owed.
                    () = silence => return,
                };
                match multiplexed {
                    Ok(true) => {
                        over_mux.connection();
                        let (stream, read) = stream.into_parts();
                        let stream = Reader::new(stream, config.write_timeout);
                        // In boxes, for a connection is either, and most are idle.
                        return Box::pin(formic_mux::serve(stream, &read, accept, peer, draining)).await;
                    }
                    Ok(false) => {}
                    Err(_) => return,
                }
            }
            over_http.connection();
            Box::pin(http(stream, edge, peer, &config, &draining, silent_until)).await;
        }
    }
}

/// Serves a connection over HTTP to its end.
async fn http<S>(
    stream: Begun<S>,
    edge: Edge,
    peer: Option<Peer>,
    config: &Config,
    draining: &CancellationToken,
    silent_until: tokio::time::Instant,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (talk, denied) = (Talk::new(), Arc::new(Notify::new()));
    let batch = Batch::default();
    let builder = builder(config, batch.clone());
    let (talking, telling, asked) = (Arc::clone(&talk), Arc::clone(&denied), batch.clone());
    let service = PerConnection { edge, peer, talk: talking, denied: telling, batch: asked };
    let stream = TokioIo::new(Reader::new(stream, config.write_timeout));
    let connection = builder.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    let mut silence = Some(Box::pin(tokio::time::sleep_until(silent_until)));
    let mut drained = false;
    let mut cut = None;
    loop {
        tokio::select! {
            result = poll_fn(|cx| batch.poll(connection.as_mut(), cx)) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended badly");
                }
                return;
            }
            () = draining.cancelled(), if !drained => {
                drained = true;
                // Told now, hyper would hang up on whoever has asked and was not read yet.
                let pause = if talk.is_used() { Duration::ZERO } else { FIRST_WORDS };
                silence = Some(Box::pin(tokio::time::sleep(pause)));
            }
            // Whoever is not let in gets the answer and no second try on this connection.
            () = denied.notified(), if cut.is_none() => {
                connection.as_mut().graceful_shutdown();
                cut = Some(Box::pin(tokio::time::sleep(FAREWELL)));
            }
            () = async { if let Some(sleep) = &mut cut { sleep.await } }, if cut.is_some() => return,
            () = async { if let Some(sleep) = &mut silence { sleep.await } }, if silence.is_some() => {
                silence = None;
                if !talk.is_used() {
                    // Nothing was asked, so nothing is owed.
                    return;
                }
                if drained {
                    match talk.leave() {
                        None => connection.as_mut().graceful_shutdown(),
                        Some(pause) => silence = Some(Box::pin(tokio::time::sleep(pause))),
                    }
                }
            }
        }
    }
}

/// What may come unread of a call, so little that one that is refused has not sent much by then, and of all calls of a connection. h2
/// counts what each unread frame lacks to 256 bytes, and ends the connection, with all of its calls, where that is more than half of the
/// connection's window: no call does that alone, of whatever messages, nor do forty of messages of a hundred bytes. A window that begins
/// small and grows with what goes through has it happen after two hundred of these that a handler has not read.
const CALL_WINDOW: u32 = 192 << 10;
const CONNECTION_WINDOW: u32 = 24 << 20;

fn builder(config: &Config, batch: Batch) -> auto::Builder<Batch> {
    let mut builder = auto::Builder::new(batch);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(config.max_headers.max(8 << 10) as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(config.max_headers)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout);
    builder
}
