//! Listeners: TCP and unix sockets, bound before anything starts so that a port in use is an error
//! of the start and not a surprise later.

use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use formic_core::Endpoint;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "{0} is in use by another process; stop it or choose another address (port 0 takes any free one)"
    )]
    InUse(Endpoint),
    /// The system refused.
    #[error("cannot listen on {0}")]
    Io(Endpoint, #[source] io::Error),
}

/// A socket that is bound and listens.
#[derive(Debug)]
pub struct Bound {
    kind: Kind,
    endpoint: Endpoint,
    /// Others listen on the same socket, or will.
    shared: bool,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: RemoveOnDrop },
}

#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // Gone already is fine, and there is nobody left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A connection of either kind.
pub(crate) enum Accepted {
    Tcp(TcpStream, std::net::SocketAddr),
    Unix(UnixStream),
}

impl Bound {
    /// Binds and listens.
    ///
    /// # Errors
    /// If the address is taken or the system refuses.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, ListenError> {
        match endpoint {
            Endpoint::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await.map_err(|error| fault(endpoint, error))?;
                Self::tcp(listener).map_err(|error| fault(endpoint, error))
            }
            Endpoint::Unix(path) => Self::unix(path).await.map_err(|error| fault(endpoint, error)),
        }
    }

    /// Takes a TCP socket that listens already.
    ///
    /// # Errors
    /// If it has no local address.
    pub fn tcp(listener: TcpListener) -> io::Result<Self> {
        let endpoint = Endpoint::Tcp(listener.local_addr()?);
        Ok(Self { kind: Kind::Tcp(listener), endpoint, shared: false })
    }

    /// Takes a TCP socket that was handed over open, and that others will go on with: a drain leaves the
    /// connections that wait in its queue to them.
    ///
    /// # Errors
    /// If it is no such socket.
    pub fn handed(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { shared: true, ..Self::tcp(TcpListener::from_std(listener)?)? })
    }

    async fn unix(path: &Path) -> io::Result<Self> {
        // A socket file outlives its process. If it is refused there, it is a leftover; what is no socket is somebody's.
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "what is there is no socket"));
            }
            match UnixStream::connect(path).await {
                // Invalid is a path too long to be asked in one piece.
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::InvalidInput) =>
                {
                    std::fs::remove_file(path)?;
                }
                // Somebody listens, or may and does not talk to us.
                _ => return Err(io::ErrorKind::AddrInUse.into()),
            }
        }
        let listener = bind_unix(path)?;
        private(path)?;
        Ok(Self {
            kind: Kind::Unix { listener, _file: RemoveOnDrop(path.into()) },
            endpoint: Endpoint::Unix(path.into()),
            shared: false,
        })
    }

    /// Where it listens; a port of 0 has become a real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether others listen on the same socket, or will.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        match &self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Small answers must not wait for the next packet.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, peer))
            }
            Kind::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

/// The kernel takes about a hundred bytes of path. A longer one is reached through its folder's
/// descriptor, which `/proc` shows under a short name.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    const LONGEST: usize = 100;
    #[cfg(target_os = "linux")]
    if path.as_os_str().len() > LONGEST
        && let (Some(folder), Some(name)) = (path.parent(), path.file_name())
    {
        use std::os::fd::AsRawFd;
        let folder = std::fs::File::open(folder)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        return UnixListener::bind(short);
    }
    if path.as_os_str().len() > LONGEST {
        let text =
            format!("the path of a unix socket may have {LONGEST} bytes here; {} has more", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    UnixListener::bind(path)
}

fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

fn fault(endpoint: &Endpoint, error: io::Error) -> ListenError {
    if error.kind() == io::ErrorKind::AddrInUse {
        ListenError::InUse(endpoint.clone())
    } else {
        ListenError::Io(endpoint.clone(), error)
    }
}
