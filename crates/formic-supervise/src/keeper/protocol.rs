//! What brain and keeper say to each other: one packet a message, each a JSON text, descriptors beside it.
//!
//! Frozen: a keeper may be older or newer than its brain by any number of releases. What is said here may
//! be added to, and never change its meaning; what a keeper does not know it refuses, and a brain that asks
//! for more than its keeper knows must do without.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::ExitStatus;
use crate::identity::Identity;
use crate::passing;

/// The number of this protocol.
pub const PROTOCOL: u32 = 1;

/// The largest packet. Program and arguments of a brain must fit.
pub(super) const PACKET: usize = 64 * 1024;

/// From the brain. Each is answered by one [`Reply`] of the same number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) seq: u64,
    #[serde(flatten)]
    pub(super) ask: Ask,
}

/// See [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Ask {
    /// Who are you? A brain may not act before this is answered: by then it is on disk who it is, so that the
    /// next keeper can end it.
    Hello,
    /// The brain is up: it is not taken back to the one that it replaced.
    Ready,
    /// How did this process end?
    ExitOf { identity: Identity },
    /// Keep the socket that comes with this, under a name: 1 to 255 characters of printable ASCII without blank
    /// and colon. One of that name is replaced.
    Hold { name: String },
    /// Hand out a socket that is held; it stays held too.
    Take { name: String },
    /// Close a socket that is held.
    Release { name: String },
    /// Which sockets are held?
    Names,
    /// When the brain ends, start this command in its place.
    ReplaceBrain { command: Command },
    /// Execute this program in the keeper's own place.
    ReplaceKeeper { program: String },
    /// When the brain ends, end too. Instances are left running.
    Stop,
    /// The brain goes on. One that has said so once is killed, and followed by another, if it does not say so again for long.
    Alive,
    /// Is the keeper to end with this brain? Done if it is; there is none of that if another brain follows.
    Ending,
}

/// From the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) seq: u64,
    #[serde(flatten)]
    pub(super) tell: Tell,
}

/// See [`Reply`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
pub(super) enum Tell {
    Hello {
        protocol: u32,
        generation: u64,
        pid: u32,
    },
    /// So it was done.
    Done,
    /// There is none: no such exit is known, no such socket is held.
    None,
    Exit {
        status: ExitStatus,
        ended_at_ms: u64,
    },
    /// The socket comes with this.
    Socket,
    Names {
        names: Vec<String>,
    },
    Refused {
        reason: String,
    },
}

/// How a brain is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) program: String,
    pub(super) args: Vec<String>,
}

/// Sends one packet.
pub(super) fn send(socket: impl AsFd, what: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let packet = serde_json::to_vec(what)?;
    if packet.len() > PACKET {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    passing::send(socket, &packet, fds).map(|_| ())
}

/// A packet that was received.
pub(super) enum Packet<T> {
    Message(T, Vec<OwnedFd>),
    /// It came whole and says nothing that is known here; its number, if it has one.
    Unknown {
        seq: u64,
        why: String,
    },
    End,
}

/// Receives one packet; it must be there, or the socket have a timeout.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Packet<T>> {
    let mut packet = vec![0; PACKET];
    let (length, fds) = passing::receive(socket, &mut packet)?;
    if length == 0 {
        return Ok(Packet::End);
    }
    let value: serde_json::Value = serde_json::from_slice(&packet[..length])?;
    let seq = value.get("seq").and_then(serde_json::Value::as_u64).unwrap_or_default();
    Ok(match serde_json::from_value(value) {
        Ok(message) => Packet::Message(message, fds),
        Err(error) => Packet::Unknown { seq, why: error.to_string() },
    })
}

/// Waits until one of these can be read or has ended, and says which; at most `limit`, or for ever.
pub(super) fn readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    limit: Option<std::time::Duration>,
) -> io::Result<[bool; N]> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    match poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut states = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && states.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    /// The words on the wire, which other releases rely on. A change of this test is a break.
    #[test]
    fn the_words_are_frozen() {
        let identity = Identity { boot_id: "b".into(), pid: 7, pidfs_id: Some(8), start_time: 9 };
        let command = Command { program: "/p".into(), args: vec!["a".into()] };
        let asks = [
            (Ask::Hello, r#"{"seq":1,"ask":"hello"}"#),
            (Ask::Ready, r#"{"seq":1,"ask":"ready"}"#),
            (
                Ask::ExitOf { identity },
                r#"{"seq":1,"ask":"exit_of","identity":{"boot_id":"b","pid":7,"pidfs_id":8,"start_time":9}}"#,
            ),
            (Ask::Hold { name: "n".into() }, r#"{"seq":1,"ask":"hold","name":"n"}"#),
            (Ask::Take { name: "n".into() }, r#"{"seq":1,"ask":"take","name":"n"}"#),
            (Ask::Release { name: "n".into() }, r#"{"seq":1,"ask":"release","name":"n"}"#),
            (Ask::Names, r#"{"seq":1,"ask":"names"}"#),
            (
                Ask::ReplaceBrain { command },
                r#"{"seq":1,"ask":"replace_brain","command":{"program":"/p","args":["a"]}}"#,
            ),
            (
                Ask::ReplaceKeeper { program: "/p".into() },
                r#"{"seq":1,"ask":"replace_keeper","program":"/p"}"#,
            ),
            (Ask::Stop, r#"{"seq":1,"ask":"stop"}"#),
            (Ask::Alive, r#"{"seq":1,"ask":"alive"}"#),
            (Ask::Ending, r#"{"seq":1,"ask":"ending"}"#),
        ];
        for (ask, text) in asks {
            assert_eq!(serde_json::to_string(&Request { seq: 1, ask }).unwrap(), text);
            assert!(serde_json::from_str::<Request>(text).is_ok(), "{text}");
        }
        let tells = [
            (
                Tell::Hello { protocol: 1, generation: 2, pid: 3 },
                r#"{"seq":1,"tell":"hello","protocol":1,"generation":2,"pid":3}"#,
            ),
            (Tell::Done, r#"{"seq":1,"tell":"done"}"#),
            (Tell::None, r#"{"seq":1,"tell":"none"}"#),
            (
                Tell::Exit { status: ExitStatus::Code(3), ended_at_ms: 4 },
                r#"{"seq":1,"tell":"exit","status":{"code":3},"ended_at_ms":4}"#,
            ),
            (Tell::Socket, r#"{"seq":1,"tell":"socket"}"#),
            (Tell::Names { names: vec![] }, r#"{"seq":1,"tell":"names","names":[]}"#),
            (Tell::Refused { reason: "r".into() }, r#"{"seq":1,"tell":"refused","reason":"r"}"#),
        ];
        for (tell, text) in tells {
            assert_eq!(serde_json::to_string(&Reply { seq: 1, tell }).unwrap(), text);
            assert!(serde_json::from_str::<Reply>(text).is_ok(), "{text}");
        }
    }
}
