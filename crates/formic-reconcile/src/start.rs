//! What the executor needs to start an instance of a service; the planner carries it unread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use formic_spec::{Health, Port, Privileges, Restart, StopSignal};
use formic_supervise::Limits;
use serde::{Deserialize, Serialize};

use crate::secrets::Given;

/// How a service's instances are started and probed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables over the allow-list; what tells instances apart is added at each start.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// The port of a program that knows nothing of Formic.
    pub port: Option<Port>,
    /// The sockets that the engine listens on for it, in the order in which they are handed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen: Vec<Listen>,
    /// When it is ready.
    pub health: Health,
    /// When it is started again.
    pub restart: Restart,
    /// What it is sent when it is to end.
    #[serde(default, skip_serializing_if = "StopSignal::is_default")]
    pub stop_signal: StopSignal,
    /// The secrets that it is given, by the names of their files.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Given>,
    /// As whom it runs, and what one process of it may have.
    #[serde(default, skip_serializing_if = "Privileges::is_default")]
    pub privileges: Privileges,
    /// Part of Formic, and not of the manifest.
    pub system: bool,
    /// What an instance may use, as far as this machine can see to it.
    #[serde(default)]
    pub limits: Limits,
    /// What tells this build of the program from another.
    #[serde(default)]
    pub artifact: String,
    /// What tells the files that the program is made of from others, by their places in the application's folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// A public address that is the engine's own: each generation of a service is handed the same open socket, so that
/// one that takes the place of another misses no connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listen {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Variables of the engine that instances get: what programs need to find programs, their user and
/// their language, and nothing that may be a secret. The transport is the whole application's: with
/// `FORMIC_TRANSPORT=http formic up` no call of it is multiplexed.
const ALLOWED: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "RUST_BACKTRACE",
    "NO_COLOR",
    "FORMIC_TRANSPORT",
    "FORMIC_CLIENT_TRANSPORT",
];

/// The allow-listed part of the engine's own environment.
pub(crate) fn inherited() -> BTreeMap<String, std::ffi::OsString> {
    ALLOWED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?))).collect()
}
