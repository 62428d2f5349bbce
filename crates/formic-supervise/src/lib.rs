//! Starting, watching and stopping the processes of instances on Linux.
//!
//! The engine decides *what* should run; this crate makes processes of it and knows nothing of
//! manifests, services' readiness or restarts. Its promises, and the windows that each one closes:
//!
//! - **Nothing runs unrecorded.** A process is started behind a gate ([`trampoline`]): its record is on
//!   disk before its first instruction runs, and if the engine dies first, it never runs.
//! - **Nothing is signalled unproven.** Signals go through pidfds only, after the identity
//!   ([`Identity`]) was compared; a process number alone is never trusted.
//! - **Stop means gone.** [`Process::stop`] returns when the whole tree is gone, not when its leader is.
//! - **Limits are enforced or told.** A controller that is not there is an [`Unenforced`], never silence.
//! - **Output needs no reader.** stdout and stderr are append-only files that the instance holds.
//!
//! Refused here: a reader process per instance, `PR_SET_PDEATHSIG` (it fires when the *thread* that
//! forked ends, which under tokio is a retiring worker), `pre_exec` hooks for instances (unsafe between fork
//! and exec, and `spawn` waits for the exec that the hook would be waiting for), and signalling by number.

#[cfg(not(target_os = "linux"))]
compile_error!("formic-supervise is for Linux; the crates of a service build elsewhere");

mod account;
mod adopt;
mod adrift;
mod beside;
mod birth;
mod cgroup;
mod disk;
mod exit;
pub mod failpoint;
mod features;
mod gate;
mod handed;
mod home;
mod identity;
mod judge;
pub mod keeper;
mod kin;
mod launch;
mod lock;
mod logs;
mod passing;
mod pidfd;
mod pidfs;
mod place;
mod privileges;
mod process;
mod procfs;
mod record;
mod snapshot;
mod spawn_error;
mod stop_signal;
pub mod subreaper;
mod supervisor;
mod sweep;
mod times;
pub mod trampoline;
mod tree;
mod usage;

pub use account::{Account, NoAccount, sees_others};
pub use adopt::{Adopted, Fate};
pub use beside::{Answer, Beside};
pub use cgroup::{Cgroups, Controller, Limits, Unenforced};
pub use disk::{DiskFull, FileError, disk_free, replace as write_file};
pub use exit::ExitStatus;
pub use features::{Containment, FEATURES_OFF_ENV, Feature, Features, UnknownFeatures, Unsupported};
pub use handed::listens_on;
pub use home::{Home, HomeId};
pub use identity::{Identity, boot_id};
pub use launch::{InvalidLaunch, Launch, Socket, Start};
pub use lock::{Lock, LockError};
pub use logs::{LogLimits, Trimmed, log_begins, trim_log};
pub use place::Place;
pub use privileges::{Bounds, Privileges, Ulimits, raise_files};
pub use process::{Process, Rights, StopError, Stopped};
pub use procfs::is_running;
pub use record::{Record, State, boottime_ms};
pub use spawn_error::SpawnError;
pub use stop_signal::StopSignal;
pub use supervisor::{Config, Supervisor};
pub use sweep::{Outcome, Swept, sweep};
pub use times::{BUCKETS, Counted, Times};
pub use trampoline::{Step, Trampoline};
pub use usage::{Pressure, Usage};

/// The variable that names the instance in the environment of every process of its tree.
pub const INSTANCE_ENV: &str = "FORMIC_INSTANCE";

/// The variable that names the run directory, so that two engines with equal instance ids never meet.
pub const RUN_DIR_ENV: &str = "FORMIC_RUN_DIR";

/// The variable that says which directory that was ([`HomeId`]): one that was moved is the same, and its copy is not.
pub const RUN_ID_ENV: &str = "FORMIC_RUN_ID";
