//! The brain's side of the keeper's socket.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{RecvFlags, SocketType, sockopt};

use super::GENERATION_ENV;
use super::protocol::{Ask, Command, Packet, Reply, Request, Tell, receive, send};
use crate::exit::ExitStatus;
use crate::identity::Identity;
use crate::passing;

/// How long a keeper may take to answer. It answers at once, save when it makes sure of its successor.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// How long an answer may lie unread before it is looked behind.
const BEHIND_AN_ANSWER: Duration = Duration::from_millis(20);

/// A brain's line to its keeper. Clones are the same line.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    line: Mutex<Line>,
    generation: u64,
    protocol: u32,
    keeper: u32,
}

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    seq: u64,
}

/// The keeper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The keeper is gone, and so is this brain's right to act.
    #[error("ask the keeper: it is gone")]
    Closed,
    /// It answered no.
    #[error("ask the keeper: {0}")]
    Refused(String),
    /// It answered something else than was asked, or not in time.
    #[error("ask the keeper: {0}")]
    Answer(&'static str),
    /// The socket failed.
    #[error("ask the keeper")]
    Socket(#[from] io::Error),
}

// === impl Client ===

impl Client {
    /// The line to the keeper that started this process; `None` if none did. To be called once, before
    /// anything reads standard input, which is the line and becomes empty.
    ///
    /// # Errors
    /// If the keeper does not answer.
    pub fn from_env() -> Result<Option<Self>, ClientError> {
        if std::env::var_os(GENERATION_ENV).is_none() {
            return Ok(None);
        }
        let stdin = io::stdin();
        // A child of a brain inherits the variable, and not the socket.
        if !matches!(sockopt::socket_type(&stdin), Ok(SocketType::SEQPACKET)) {
            return Ok(None);
        }
        let socket = stdin.as_fd().try_clone_to_owned()?;
        crate::trampoline::null_stdin()?;
        Self::connect(socket).map(Some)
    }

    fn connect(socket: OwnedFd) -> Result<Self, ClientError> {
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&socket, direction, Some(ANSWER_LIMIT)).map_err(io::Error::from)?;
        }
        let mut line = Line { socket, seq: 0 };
        let (Tell::Hello { protocol, generation, pid }, None) = line.ask(Ask::Hello, None)? else {
            return Err(ClientError::Answer("it does not say who it is"));
        };
        Ok(Self(Arc::new(Inner { line: Mutex::new(line), generation, protocol, keeper: pid })))
    }

    /// The generation of this brain: what an earlier one has written is older than what this one writes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// The number of the protocol that the keeper speaks, which may be another than [`super::PROTOCOL`].
    #[must_use]
    pub fn protocol(&self) -> u32 {
        self.0.protocol
    }

    /// The number of the keeper's process, to be shown.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.0.keeper
    }

    /// Tells the keeper that this brain is up. One that ends before is taken back to the one it replaced.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub async fn ready(&self) -> Result<(), ClientError> {
        self.done(Ask::Ready, None).await
    }

    /// How a process ended that the keeper has reaped. `None` if it did not, or too long ago.
    ///
    /// # Errors
    /// If the keeper cannot be asked.
    pub async fn exit_of(&self, identity: &Identity) -> Result<Option<ExitStatus>, ClientError> {
        match self.call(Ask::ExitOf { identity: identity.clone() }, None).await? {
            (Tell::Exit { status, .. }, None) => Ok(Some(status)),
            (Tell::None, None) => Ok(None),
            _ => Err(ClientError::Answer("it does not say how a process ended")),
        }
    }

    /// Has a socket held under a name, in place of one that was. It stays open until it is released,
    /// whatever becomes of the brain.
    ///
    /// # Errors
    /// If the keeper refuses.
    pub async fn hold(&self, name: impl Into<String>, socket: OwnedFd) -> Result<(), ClientError> {
        self.done(Ask::Hold { name: name.into() }, Some(socket)).await
    }

    /// A socket that is held, which stays held; `None` if there is none of that name.
    ///
    /// # Errors
    /// If the keeper cannot be asked.
    pub async fn take(&self, name: impl Into<String>) -> Result<Option<OwnedFd>, ClientError> {
        match self.call(Ask::Take { name: name.into() }, None).await? {
            (Tell::Socket, Some(socket)) => Ok(Some(socket)),
            (Tell::None, None) => Ok(None),
            _ => Err(ClientError::Answer("it does not hand the socket out")),
        }
    }

    /// Has a socket closed that is held; `false` if there is none of that name.
    ///
    /// # Errors
    /// If the keeper cannot be asked.
    pub async fn release(&self, name: impl Into<String>) -> Result<bool, ClientError> {
        match self.call(Ask::Release { name: name.into() }, None).await? {
            (Tell::Done, None) => Ok(true),
            (Tell::None, None) => Ok(false),
            _ => Err(ClientError::Answer("it does not say that the socket is closed")),
        }
    }

    /// The names of the sockets that are held, in order.
    ///
    /// # Errors
    /// If the keeper cannot be asked.
    pub async fn names(&self) -> Result<Vec<String>, ClientError> {
        match self.call(Ask::Names, None).await? {
            (Tell::Names { names }, None) => Ok(names),
            _ => Err(ClientError::Answer("it does not say what it holds")),
        }
    }

    /// Has this command started as the next brain, at once when this one ends. If that one ends before it is
    /// ready, the present command comes back.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub async fn replace_brain(
        &self,
        program: impl Into<String>,
        args: Vec<String>,
    ) -> Result<(), ClientError> {
        self.done(Ask::ReplaceBrain { command: Command { program: program.into(), args } }, None).await
    }

    /// Has the keeper replaced by this program, in place. When this returns, the new one has answered.
    ///
    /// # Errors
    /// If the program is no keeper that can go on there; then the present one goes on.
    pub async fn replace_keeper(&self, program: impl Into<String>) -> Result<(), ClientError> {
        self.done(Ask::ReplaceKeeper { program: program.into() }, None).await
    }

    /// Has the keeper end when this brain does, soon. Instances are left running.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub async fn stop(&self) -> Result<(), ClientError> {
        self.done(Ask::Stop, None).await
    }

    /// Whether the keeper is to end with this brain; else another one follows it.
    ///
    /// # Errors
    /// If the keeper cannot be asked, or is too old to know that.
    pub async fn is_ending(&self) -> Result<bool, ClientError> {
        match self.call(Ask::Ending, None).await? {
            (Tell::Done, None) => Ok(true),
            (Tell::None, None) => Ok(false),
            _ => Err(ClientError::Answer("it does not say whether it is to end")),
        }
    }

    /// Tells the keeper that this brain goes on. From the first time on the keeper takes it for stuck, kills it, and starts
    /// another if it does not hear of it for [`super::watchdog`].
    ///
    /// # Errors
    /// If the keeper cannot be told, or is too old to listen to that.
    pub async fn alive(&self) -> Result<(), ClientError> {
        self.done(Ask::Alive, None).await
    }

    /// Waits until the keeper is gone or has given up this brain: what it does from then on, another may be
    /// doing too, so it must end. Cancel safe.
    ///
    /// # Errors
    /// If the socket cannot be watched.
    pub async fn closed(&self) -> io::Result<()> {
        let socket = self.lock().socket.try_clone()?;
        let socket = passing::watch(socket)?;
        loop {
            let mut guard = socket.readable().await?;
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match rustix::net::recv(socket.get_ref(), &mut [0_u8; 1], flags) {
                Ok((_, 0)) => return Ok(()),
                // An answer, which another is about to read, and perhaps the end right behind it.
                Ok(_) => tokio::time::sleep(BEHIND_AN_ANSWER).await,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => guard.clear_ready(),
                Err(_) => return Ok(()),
            }
        }
    }

    async fn done(&self, ask: Ask, fd: Option<OwnedFd>) -> Result<(), ClientError> {
        match self.call(ask, fd).await? {
            (Tell::Done, None) => Ok(()),
            _ => Err(ClientError::Answer("it does not say that it was done")),
        }
    }

    async fn call(&self, ask: Ask, fd: Option<OwnedFd>) -> Result<(Tell, Option<OwnedFd>), ClientError> {
        let client = self.clone();
        let called = tokio::task::spawn_blocking(move || client.lock().ask(ask, fd)).await;
        called.map_err(|error| ClientError::Socket(error.into()))?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Line> {
        // A line that was left in the middle finds its place again by the numbers.
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn ask(&mut self, ask: Ask, fd: Option<OwnedFd>) -> Result<(Tell, Option<OwnedFd>), ClientError> {
        self.seq += 1;
        let seq = self.seq;
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        send(&self.socket, &Request { seq, ask }, &fds).map_err(lost)?;
        loop {
            match receive::<Reply>(&self.socket).map_err(lost)? {
                Packet::Message(Reply { tell: Tell::Refused { reason }, seq: of }, _) if of == seq => {
                    return Err(ClientError::Refused(reason));
                }
                Packet::Message(Reply { tell, seq: of }, mut fds) if of == seq => {
                    return Ok((tell, fds.pop()));
                }
                Packet::Unknown { seq: of, .. } if of == seq => {
                    return Err(ClientError::Answer("this brain does not know its answer"));
                }
                // To a question that was given up.
                Packet::Message(..) | Packet::Unknown { .. } => {}
                Packet::End => return Err(ClientError::Closed),
            }
        }
    }
}

fn lost(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            ClientError::Answer("it does not answer in time")
        }
        _ => ClientError::Socket(error),
    }
}
