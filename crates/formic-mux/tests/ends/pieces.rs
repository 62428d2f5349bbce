//! A socket of which a test says what each read gives, and sees each write.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use formic_mux::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket on which each read gives one piece, and all that is written is taken, and kept write by write.
#[derive(Clone, Default)]
pub(crate) struct Pieces(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<Vec<u8>>,
    reader: Option<Waker>,
    written: Vec<Vec<u8>>,
}

impl Pieces {
    /// One on which a client has greeted.
    pub(crate) fn greeted() -> Self {
        let pieces = Self::default();
        let mut greeting = Vec::new();
        Limits::default().write(&mut greeting);
        pieces.add([greeting]);
        pieces
    }

    pub(crate) fn add(&self, pieces: impl IntoIterator<Item = Vec<u8>>) {
        let mut state = self.0.lock().unwrap();
        state.pieces.extend(pieces);
        state.reader.take().into_iter().for_each(Waker::wake);
    }

    /// What was written since this was asked last, each write for itself.
    pub(crate) fn written(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.lock().unwrap().written)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        let Some(piece) = state.pieces.pop_front() else {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().written.push(bytes.to_vec());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
