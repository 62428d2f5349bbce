//! The executor: carries out what the planner says, and observes what came of it.
//!
//! ```text
//! commands ─┐         core: decides, pure                          executor: does
//! exits ────┼─▶ Event ─▶ note ─▶ plan(desired, observed, now) ─▶ Effect ─▶ processes, probes, registry
//! probes ───┤                                                         └─▶ notices, answers
//! timer ────┘            └─▶ view (watch)
//! ```
//!
//! One loop owns the receivers and decides nothing. The core makes effects, as data, of events; it is
//! tested without a runtime. Everything slow (a spawn with its fsyncs, a stop with its grace, a probe) is
//! a task of the executor's own set that reports back as an event. The rules are not here: restarts are
//! `formic_plan::Instance`'s, the order is `formic_plan::plan`'s, and what a stop means is
//! `formic_supervise`'s.

pub mod account;
mod announce;
mod clock;
mod diff;
mod engine;
mod gated;
mod journal;
mod logs;
mod measures;
mod ports;
mod probe;
mod secrets;
mod shelf;
mod shown;
mod sockets;
mod start;
mod view;

pub use diff::{ChangeKind, FieldChange, HIDDEN_CHANGED, ServiceChange, diff};
pub use engine::{
    Applied, Busy, Change, Command, Config, Engine, Generation, Handle, Notice, Preview, Refused, Restarted,
    ResumeError, Slot, Stopped, Takeover, WayBack,
};
pub use journal::{Entry, Journal, Kind};
pub use logs::{Line, LogFile, LogPlace, Logs, ToldBy, Which, tail};
pub use measures::{Instance as InstanceMeasures, Measured, Probed};
pub use secrets::{Given, Secrets};
pub use shown::{on_terminal, plain, without_passwords};
pub use start::{Listen, Start};
pub use view::{CronView, InstanceView, ServiceView, View};
