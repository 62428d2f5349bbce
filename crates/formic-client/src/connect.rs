//! How a byte stream to an endpoint is opened: TCP, or a unix socket with a path of any length.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use formic_core::Endpoint;
use formic_rpc::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The system's limit is 104 bytes on macOS and 108 on Linux, the final zero included.
const MAX_UNIX_PATH: usize = 100;

/// Opens byte streams to endpoints in another way than by sockets of the system: through a tunnel, or
/// through memory in a test.
pub trait Connect: Send + Sync + 'static {
    /// Connects; the client bounds the time.
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<BoxIo>>;
}

/// What bytes go through, both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for S {}

/// A byte stream of any kind.
pub type BoxIo = Box<dyn Duplex>;

/// A connection to an endpoint.
pub enum Io {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
    /// As a [`Connect`] made it.
    Other(BoxIo),
}

impl std::fmt::Debug for Io {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Io(tcp)",
            Self::Unix(_) => "Io(unix)",
            Self::Other(_) => "Io(other)",
        })
    }
}

/// Connects; the caller bounds the time.
///
/// # Errors
/// What the system says.
pub async fn open(connector: Option<&dyn Connect>, endpoint: &Endpoint) -> io::Result<Io> {
    if let Some(connector) = connector {
        return Ok(Io::Other(connector.connect(endpoint).await?));
    }
    match endpoint {
        Endpoint::Tcp(addr) => {
            let stream = TcpStream::connect(addr).await?;
            // A request is one write: waiting for more only adds latency.
            stream.set_nodelay(true)?;
            Ok(Io::Tcp(stream))
        }
        Endpoint::Unix(path) if path.as_os_str().len() > MAX_UNIX_PATH => {
            Ok(Io::Unix(open_long(path).await?))
        }
        Endpoint::Unix(path) => Ok(Io::Unix(UnixStream::connect(path).await?)),
    }
}

/// A path that is too long for the system is reached through its open folder.
#[cfg(target_os = "linux")]
async fn open_long(path: &Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd;

    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no socket"));
    };
    let folder = std::fs::File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    let stream = UnixStream::connect(&short).await;
    drop(folder);
    stream
}

#[cfg(not(target_os = "linux"))]
async fn open_long(path: &Path) -> io::Result<UnixStream> {
    let text = format!(
        "the path of a unix socket must have at most {MAX_UNIX_PATH} bytes on this system: {}",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

// === impl Io ===

macro_rules! either {
    ($self:ident, $stream:ident => $poll:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $poll,
            Self::Unix($stream) => $poll,
            Self::Other($stream) => $poll,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Other(stream) => stream.is_write_vectored(),
        }
    }
}
