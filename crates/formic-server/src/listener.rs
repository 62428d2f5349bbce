//! Listeners: TCP and unix sockets, bound before anything starts so that a port in use is an error
//! of the start and not a surprise later.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use formic_core::Endpoint;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How long a listener may take to take a connection, before it counts as one that lives and is busy.
const ANSWER: Duration = Duration::from_secs(1);

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

    /// Whether a socket could be bound there, without binding one: for who wants to know before it starts what binds.
    ///
    /// # Errors
    /// If something is in the way. Nothing is removed.
    pub async fn is_free(endpoint: &Endpoint) -> Result<(), ListenError> {
        match endpoint {
            Endpoint::Tcp(_) => Self::bind(endpoint).await.map(drop),
            Endpoint::Unix(path) => found(path).await.map(drop).map_err(|error| fault(endpoint, error)),
        }
    }

    async fn unix(path: &Path) -> io::Result<Self> {
        if found(path).await? == Found::Leftover {
            std::fs::remove_file(path)?;
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

/// What is where a socket is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket file outlives its process.
    Leftover,
}

/// Tells a leftover from what must stay. Only that nobody listens proves one: a listener that does not accept, or whose
/// queue is full, lives; and what is no socket, or another user's, was never ours.
async fn found(path: &Path) -> io::Result<Found> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let stays = |what: &str| {
        let text = format!("{} is {what}, which is not removed; move it away", path.display());
        Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
    };
    if !there.file_type().is_socket() {
        return stays(if there.is_dir() { "a folder" } else { "no socket" });
    }
    let near = short(path)?;
    match tokio::time::timeout(ANSWER, UnixStream::connect(near.path())).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        _ => return Err(io::ErrorKind::AddrInUse.into()),
    }
    let (one, _other) = UnixStream::pair()?;
    if there.uid() != one.peer_cred()?.uid() {
        return stays("a socket of another user");
    }
    Ok(Found::Leftover)
}

/// A path that the kernel takes for a socket, for as long as this is there.
struct Near {
    path: PathBuf,
    _folder: Option<std::fs::File>,
}

impl Near {
    fn path(&self) -> &Path {
        &self.path
    }
}

/// The kernel takes about a hundred bytes of path. A longer one is reached through its folder's
/// descriptor, which `/proc` shows under a short name.
fn short(path: &Path) -> io::Result<Near> {
    const LONGEST: usize = 100;
    if path.as_os_str().len() <= LONGEST {
        return Ok(Near { path: path.into(), _folder: None });
    }
    #[cfg(target_os = "linux")]
    if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
        use std::os::fd::AsRawFd;
        let folder = std::fs::File::open(folder)?;
        let near = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        return Ok(Near { path: near, _folder: Some(folder) });
    }
    let text =
        format!("the path of a unix socket may have {LONGEST} bytes here; {} has more", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    UnixListener::bind(short(path)?.path())
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::net::{UnixListener as Listener, UnixStream as Stream};

    use super::*;

    /// A folder of its own, with a path for a socket.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("formic-listener-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn socket(&self) -> Endpoint {
            Endpoint::Unix(self.0.join("s"))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let place = Place::new("file");
        let path = place.0.join("s");
        let refuses = async |what: &str| {
            for refused in
                [Bound::is_free(&place.socket()).await, Bound::bind(&place.socket()).await.map(drop)]
            {
                let Err(ListenError::Io(_, cause)) = refused else { panic!("{refused:?}") };
                assert!(cause.to_string().contains(what), "{cause}");
            }
        };
        std::fs::write(&path, "kept").unwrap();
        refuses("is no socket").await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refuses("is a folder").await;
        assert!(path.is_dir());
        // Nor what a link leads to.
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        refuses("is no socket").await;
        assert!(path.is_symlink());
    }

    #[tokio::test]
    async fn a_listener_that_does_not_accept_lives_and_one_that_ended_is_replaced() {
        let place = Place::new("full");
        let path = place.0.join("s");
        let listener = Listener::bind(&path).unwrap();
        // Until its queue is full, and nobody gets in.
        let mut waiting: Vec<Stream> = Vec::new();
        let full = loop {
            let stream = tokio::time::timeout(Duration::from_millis(200), UnixStream::connect(&path)).await;
            match stream {
                Ok(Ok(stream)) => waiting.push(stream.into_std().unwrap()),
                _ => break true,
            }
            if waiting.len() > 10_000 {
                break false;
            }
        };
        assert!(full, "the queue has no end");
        for refused in [Bound::is_free(&place.socket()).await, Bound::bind(&place.socket()).await.map(drop)] {
            assert!(matches!(refused, Err(ListenError::InUse(_))), "{refused:?}");
        }
        assert!(path.exists());
        drop((listener, waiting));
        Bound::is_free(&place.socket()).await.unwrap();
        assert!(path.exists(), "a look removes nothing");
        let bound = Bound::bind(&place.socket()).await.unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_long_path_is_told_from_a_leftover_too() {
        if cfg!(not(target_os = "linux")) {
            formic_testing::skipped(
                "a_long_path_is_told_from_a_leftover_too",
                "the kernel takes no such path",
            );
            return;
        }
        let place = Place::new(&"l".repeat(120));
        let first = Bound::bind(&place.socket()).await.unwrap();
        let second = Bound::bind(&place.socket()).await;
        assert!(matches!(second, Err(ListenError::InUse(_))), "{second:?}");
        drop(first);
    }
}
