//! What to start: everything a process needs, decided by the caller.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use formic_core::{InstanceId, ServiceName};

use crate::account::Account;
use crate::cgroup::Limits;
use crate::home::Home;
use crate::passing;
use crate::privileges::Privileges;
use crate::stop_signal::StopSignal;
use crate::{INSTANCE_ENV, RUN_DIR_ENV, RUN_ID_ENV};

/// One process to start.
#[derive(Clone)]
pub struct Launch {
    /// The id of the new instance: 1 to 128 of `a-z A-Z 0-9 - _ .`, not starting with a dot. It names files.
    pub id: InstanceId,
    /// The service it is an instance of.
    pub service: ServiceName,
    /// Which of the service's places it takes.
    pub slot: u32,
    /// The revision it runs.
    pub revision: String,
    /// The program; without a slash it is looked up in `PATH` of `env`.
    pub program: OsString,
    /// Its arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The whole environment; nothing is inherited. Three variables are added: [`INSTANCE_ENV`], [`RUN_DIR_ENV`] and
    /// [`RUN_ID_ENV`]; and for another user `HOME`, `USER` and `LOGNAME`, where they are not here.
    pub env: BTreeMap<String, OsString>,
    /// The directory it starts in.
    pub cwd: PathBuf,
    /// The file that its standard output is appended to.
    pub stdout: PathBuf,
    /// The file that its standard error is appended to; may be the same.
    pub stderr: PathBuf,
}

/// A launch with what not every one needs. `launch.with_limits(…)` is one, and a bare [`Launch`] is too.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Start {
    /// What to start.
    pub launch: Launch,
    /// What it may use. What of it is not enforced here, [`crate::Supervisor::unenforced`] says.
    pub limits: Limits,
    /// The open sockets that it is handed, in this order from descriptor 3 on. Its variables `LISTEN_FDS`,
    /// `LISTEN_FDNAMES` and `LISTEN_PID` tell of them, as systemd's would.
    pub sockets: Vec<Socket>,
    /// Kept with its record, for the engine that adopts it.
    pub note: serde_json::Value,
    /// The port that was chosen for it, kept in its record for those who adopt it. It is not passed on: the
    /// environment tells the program.
    pub port: Option<u16>,
    /// What it is sent when it is to end; kept in its record.
    pub stop_signal: StopSignal,
    /// As whom it runs, and what it gives up. Its log files are that user's too; the account is kept in its record.
    pub privileges: Privileges,
}

/// An open socket that an instance is handed: the same one, not another of the same address, so that what
/// waits in its queue is lost to nobody.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its name in `LISTEN_FDNAMES`: 1 to 255 characters, none of them a colon or a control character.
    pub name: String,
    /// The socket, which the caller keeps too.
    pub fd: Arc<OwnedFd>,
}

impl Socket {
    /// A socket of this name.
    pub fn new(name: impl Into<String>, fd: impl Into<OwnedFd>) -> Self {
        Self { name: name.into(), fd: Arc::new(fd.into()) }
    }
}

impl From<Launch> for Start {
    fn from(launch: Launch) -> Self {
        Self {
            launch,
            limits: Limits::default(),
            sockets: Vec::new(),
            note: serde_json::Value::Null,
            port: None,
            stop_signal: StopSignal::default(),
            privileges: Privileges::default(),
        }
    }
}

impl Start {
    /// With these limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// With these sockets.
    #[must_use]
    pub fn with_sockets(self, sockets: Vec<Socket>) -> Self {
        Self { sockets, ..self }
    }

    /// With this kept beside its record.
    #[must_use]
    pub fn with_note(self, note: serde_json::Value) -> Self {
        Self { note, ..self }
    }

    /// With a port that was chosen for it.
    #[must_use]
    pub fn with_port(self, port: Option<u16>) -> Self {
        Self { port, ..self }
    }

    /// With another signal to end it by.
    #[must_use]
    pub fn with_stop_signal(self, stop_signal: StopSignal) -> Self {
        Self { stop_signal, ..self }
    }

    /// As another user, or with other limits.
    #[must_use]
    pub fn with_privileges(self, privileges: Privileges) -> Self {
        Self { privileges, ..self }
    }

    /// Finds what no machine could do.
    ///
    /// # Errors
    /// The first fault.
    pub fn validate(&self) -> Result<(), InvalidLaunch> {
        self.launch.validate()?;
        if self.sockets.len() > passing::MOST {
            return Err(InvalidLaunch::Sockets(self.sockets.len()));
        }
        for Socket { name, .. } in &self.sockets {
            if !(1..=255).contains(&name.len()) || name.contains(|c: char| c == ':' || c.is_control()) {
                return Err(InvalidLaunch::SocketName(name.chars().take(260).collect()));
            }
        }
        Ok(())
    }
}

/// A launch that cannot be carried out whatever the machine says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLaunch {
    /// The id cannot name a file.
    #[error(
        "instance id {0:?} is not 1 to 128 of a-z, A-Z, 0-9, '-', '_' and '.', starting with none of '.'"
    )]
    Id(String),
    /// An empty program name.
    #[error("the program is empty")]
    Program,
    /// A variable whose name is empty or holds `=` or NUL.
    #[error("{0:?} cannot be the name of an environment variable")]
    Variable(String),
    /// More sockets than one message carries.
    #[error("{0} sockets are handed over, and {most} are the most", most = passing::MOST)]
    Sockets(usize),
    /// A name of a socket that cannot stand in a list.
    #[error("{0:?} cannot be the name of a socket")]
    SocketName(String),
    /// A NUL byte, which no argument, variable or path can hold.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
}

// Not derived: the environment holds secrets.
impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("id", &self.id)
            .field("service", &self.service)
            .field("slot", &self.slot)
            .field("revision", &self.revision)
            .field("program", &self.program)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

impl Launch {
    /// With these limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Start {
        Start::from(self).with_limits(limits)
    }

    /// With these sockets.
    #[must_use]
    pub fn with_sockets(self, sockets: Vec<Socket>) -> Start {
        Start::from(self).with_sockets(sockets)
    }

    /// Finds what no machine could do.
    ///
    /// # Errors
    /// The first fault.
    pub fn validate(&self) -> Result<(), InvalidLaunch> {
        if !is_file_name(self.id.as_str()) {
            return Err(InvalidLaunch::Id(self.id.as_str().chars().take(140).collect()));
        }
        if self.program.is_empty() {
            return Err(InvalidLaunch::Program);
        }
        let nul = |text: &OsString| text.as_encoded_bytes().contains(&0);
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(InvalidLaunch::Variable(name.clone()));
            }
            if nul(value) {
                return Err(InvalidLaunch::Nul("an environment variable"));
            }
        }
        if nul(&self.program) {
            return Err(InvalidLaunch::Nul("the program"));
        }
        if self.args.iter().any(nul) {
            return Err(InvalidLaunch::Nul("an argument"));
        }
        if nul(&self.cwd.clone().into_os_string()) {
            return Err(InvalidLaunch::Nul("the working directory"));
        }
        Ok(())
    }

    /// The environment with the marker, and with what there is to say of its user.
    pub(crate) fn whole_env(&self, home: &Home, user: Option<&Account>) -> BTreeMap<String, OsString> {
        let mut env = user.map(Account::variables).unwrap_or_default();
        env.extend(self.env.clone());
        env.extend(marker(&self.id, home));
        env
    }
}

/// The variables by which the processes of an instance are known.
pub(crate) fn marker(id: &InstanceId, home: &Home) -> [(String, OsString); 3] {
    [
        (INSTANCE_ENV.to_owned(), id.as_str().into()),
        (RUN_DIR_ENV.to_owned(), home.dir.clone().into()),
        (RUN_ID_ENV.to_owned(), home.id.to_string().into()),
    ]
}

/// Whether an id can be the stem of a file's name.
pub(crate) fn is_file_name(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn launch() -> Launch {
        Launch {
            id: InstanceId::new("user-1"),
            service: ServiceName::new("user").unwrap(),
            slot: 0,
            revision: "abc".into(),
            program: "true".into(),
            args: vec![],
            env: BTreeMap::from([("TOKEN".to_owned(), "hunter2".into())]),
            cwd: "/".into(),
            stdout: "/dev/null".into(),
            stderr: "/dev/null".into(),
        }
    }

    #[test]
    fn faults_are_found_before_anything_is_started() {
        assert_eq!(launch().validate(), Ok(()));
        let bad = |id: &str| Launch { id: InstanceId::new(id), ..launch() }.validate();
        assert!(
            bad("../x").is_err() && bad("").is_err() && bad(".x").is_err() && bad(&"a".repeat(129)).is_err()
        );
        assert_eq!(Launch { program: OsString::new(), ..launch() }.validate(), Err(InvalidLaunch::Program));
        let args = vec![OsString::from("a\0b")];
        assert_eq!(Launch { args, ..launch() }.validate(), Err(InvalidLaunch::Nul("an argument")));
        let env = BTreeMap::from([("A=B".to_owned(), OsString::new())]);
        assert_eq!(Launch { env, ..launch() }.validate(), Err(InvalidLaunch::Variable("A=B".into())));
    }

    #[test]
    fn sockets_are_named_so_that_a_list_can_hold_them() {
        let named = |name: &str| {
            let null = std::fs::File::open("/dev/null").unwrap();
            launch().with_sockets(vec![Socket::new(name, null)]).validate()
        };
        assert_eq!(named("http"), Ok(()));
        assert!(named("").is_err() && named("a:b").is_err() && named("a\nb").is_err());
        let many = vec![Socket::new("a", std::fs::File::open("/dev/null").unwrap()); passing::MOST + 1];
        assert!(matches!(launch().with_sockets(many).validate(), Err(InvalidLaunch::Sockets(_))));
    }

    #[test]
    fn debug_output_keeps_secrets() {
        let text = format!("{:?}", launch());
        assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
    }
}
