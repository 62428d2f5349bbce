//! The public sockets: opened once, handed to each generation of a service, closed when nobody wants them.
//!
//! ```text
//! here already ─▶ held by the keeper ─▶ bound anew ─▶ taken back from an instance that was handed it
//! ```
//!
//! The same open socket goes to each instance, never another of the same address (`SO_REUSEPORT` would lose what
//! waits in the queue of one that ends). Under a keeper it outlives the brain; when both were killed, an
//! instance that was taken over still has it, and it is taken back at once, before that one can end as well.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use formic_core::ServiceName;
use formic_supervise::{Socket, Supervisor, keeper, listens_on};

use crate::start::Listen;

/// The addresses to listen on, and the services they are for.
pub(crate) type Wanted = BTreeMap<SocketAddr, String>;

/// Begins the names of the sockets that the keeper holds for this.
const HELD: &str = "listen+";

/// The sockets of an engine. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Sockets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    supervisor: Supervisor,
    keeper: Option<keeper::Client>,
    /// Never held for long: what is opened under it is local.
    open: tokio::sync::Mutex<BTreeMap<SocketAddr, Arc<OwnedFd>>>,
    /// The latest word on what is wanted; nothing until there was one.
    wanted: Mutex<Option<Wanted>>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("listen on {0}")]
    Bind(SocketAddr, #[source] io::Error),
    #[error("{0} is in use by another process; stop it or choose another address")]
    InUse(SocketAddr),
    #[error(
        "{0} is still held by {1}, which an engine before this one started, and the system does not let this \
         one take the socket from it; stop that instance first"
    )]
    Held(SocketAddr, String),
    #[error("have the keeper hold {0}")]
    Keeper(SocketAddr, #[source] keeper::ClientError),
}

impl Sockets {
    pub(crate) fn new(supervisor: Supervisor, keeper: Option<keeper::Client>) -> Self {
        let (open, wanted) = (tokio::sync::Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { supervisor, keeper, open, wanted }))
    }

    /// The sockets of these addresses, opened if they are not.
    pub(crate) async fn open(&self, service: &ServiceName, listen: &[Listen]) -> Result<Vec<Socket>, Error> {
        let mut sockets = Vec::with_capacity(listen.len());
        for Listen { name, address } in listen {
            let fd = self.one(service, *address).await?;
            sockets.push(Socket { name: name.clone(), fd });
        }
        Ok(sockets)
    }

    async fn one(&self, service: &ServiceName, address: SocketAddr) -> Result<Arc<OwnedFd>, Error> {
        let mut open = self.0.open.lock().await;
        if let Some(fd) = open.get(&address) {
            return Ok(Arc::clone(fd));
        }
        let fd = match self.held(address).await? {
            Some(fd) => fd,
            None => {
                let fd = match TcpListener::bind(address) {
                    Ok(listener) => OwnedFd::from(listener),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                        self.take_back(service.as_str(), address)?.ok_or(Error::InUse(address))?
                    }
                    Err(error) => return Err(Error::Bind(address, error)),
                };
                self.hold(address, &fd).await?;
                fd
            }
        };
        let fd = Arc::new(fd);
        open.insert(address, Arc::clone(&fd));
        Ok(fd)
    }

    /// By the keeper.
    async fn held(&self, address: SocketAddr) -> Result<Option<OwnedFd>, Error> {
        let Some(keeper) = &self.0.keeper else { return Ok(None) };
        let held = keeper.take(held_name(address)).await.map_err(|error| Error::Keeper(address, error))?;
        Ok(held.filter(|fd| listens_on(fd, address)))
    }

    async fn hold(&self, address: SocketAddr, fd: &OwnedFd) -> Result<(), Error> {
        let Some(keeper) = &self.0.keeper else { return Ok(()) };
        let copy = fd.try_clone().map_err(|error| Error::Bind(address, error))?;
        keeper.hold(held_name(address), copy).await.map_err(|error| Error::Keeper(address, error))
    }

    /// From an instance of the service that was handed it by an engine that is no more.
    fn take_back(&self, service: &str, address: SocketAddr) -> Result<Option<OwnedFd>, Error> {
        let mut refused = None;
        for process in
            self.0.supervisor.processes().iter().filter(|process| process.service().as_str() == service)
        {
            match process.listener(address) {
                Ok(Some(fd)) => return Ok(Some(fd)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    refused = Some(process.id().to_string());
                }
                _ => {}
            }
        }
        refused.map_or(Ok(None), |id| Err(Error::Held(address, id)))
    }

    /// What is wanted and still open somewhere, and neither here nor with the keeper.
    async fn recover(&self, service: &str, address: SocketAddr) -> Result<Option<OwnedFd>, Error> {
        if self.held(address).await?.is_some() {
            return Ok(None);
        }
        let Some(fd) = self.take_back(service, address)? else { return Ok(None) };
        self.hold(address, &fd).await?;
        Ok(Some(fd))
    }

    /// Closes all sockets but these, and takes back what instances have of them, in a task of its own: of several
    /// the latest word counts.
    pub(crate) fn keep(&self, wanted: Wanted) -> impl Future<Output = ()> + Send + 'static {
        *self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
        let this = self.clone();
        async move {
            let mut open = this.0.open.lock().await;
            let Some(wanted) = this.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
                return;
            };
            open.retain(|address, _| wanted.contains_key(address));
            for (address, service) in &wanted {
                if open.contains_key(address) {
                    continue;
                }
                match this.recover(service, *address).await {
                    Ok(Some(fd)) => drop(open.insert(*address, Arc::new(fd))),
                    Ok(None) => {}
                    // Whoever starts the next instance is told as well.
                    Err(error) => {
                        tracing::warn!(%service, error = &error as &dyn std::error::Error, "a socket is not taken back");
                    }
                }
            }
            let Some(keeper) = &this.0.keeper else { return };
            let names: BTreeSet<String> = wanted.into_keys().map(held_name).collect();
            let held = keeper.names().await.unwrap_or_default();
            for name in held.into_iter().filter(|name| name.starts_with(HELD) && !names.contains(name)) {
                if let Err(error) = keeper.release(name.as_str()).await {
                    tracing::warn!(%name, error = &error as &dyn std::error::Error, "a socket stays open");
                }
            }
        }
    }
}

/// What the keeper calls it: a name of descriptors has no colon.
fn held_name(address: SocketAddr) -> String {
    format!("{HELD}{}", address.to_string().replace(':', "_"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use formic_supervise::{Config, Features};

    use super::*;

    fn sockets(name: &str) -> (Sockets, std::path::PathBuf) {
        let dir = std::env::temp_dir().join(format!("formic-sockets-{name}-{}", std::process::id()));
        let supervisor = Supervisor::new(Config::new(dir.clone(), Features::detect().unwrap())).unwrap();
        (Sockets::new(supervisor, None), dir)
    }

    fn listen(address: SocketAddr) -> Vec<Listen> {
        vec![Listen { name: "public".into(), address }]
    }

    #[tokio::test]
    async fn a_socket_is_opened_once_and_closed_when_nobody_wants_it() {
        let (sockets, dir) = sockets("once");
        let service = ServiceName::new("gateway").unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let first = sockets.open(&service, &listen(free)).await.unwrap();
        let second = sockets.open(&service, &listen(free)).await.unwrap();
        assert!(Arc::ptr_eq(&first[0].fd, &second[0].fd));
        let wanted = || Wanted::from([(free, service.to_string())]);
        sockets.keep(wanted()).await;
        assert!(std::net::TcpStream::connect(free).is_ok());
        // An older word that is carried out late closes nothing that a newer one wants.
        let late = sockets.keep(Wanted::new());
        sockets.keep(wanted()).await;
        late.await;
        drop((first, second));
        assert!(std::net::TcpStream::connect(free).is_ok());
        sockets.keep(Wanted::new()).await;
        assert!(std::net::TcpStream::connect(free).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn an_address_of_others_is_theirs() {
        let (sockets, dir) = sockets("theirs");
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let service = ServiceName::new("gateway").unwrap();
        let error = sockets.open(&service, &listen(address)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{address} is in use by another process; stop it or choose another address")
        );
        assert!(listens_on(&OwnedFd::from(other.try_clone().unwrap()), address));
        assert!(!listens_on(&OwnedFd::from(other), "127.0.0.1:1".parse().unwrap()));
        let connected = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(!listens_on(&connected, address), "it does not listen");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn names_are_names_of_descriptors() {
        let name = |text: &str| held_name(text.parse().unwrap());
        assert_eq!(name("127.0.0.1:80"), "listen+127.0.0.1_80");
        assert_eq!(name("[::1]:80"), "listen+[__1]_80");
    }
}
