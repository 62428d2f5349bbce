//! The arguments of the verbs that look at instances from nearby.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::{Listing, Target, unoffered};

#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Print it once and end, instead of every second until `q`
    #[arg(long)]
    pub(crate) once: bool,
    /// By what the rows are sorted; `s` goes on to the next
    #[arg(long, value_enum, default_value_t)]
    pub(crate) sort: Sort,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// What rows of `formic top` are sorted by: names up, numbers down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    #[default]
    Name,
    Cpu,
    Memory,
    Restarts,
    Probe,
}

#[derive(Args, Debug)]
pub(crate) struct Metrics {
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
#[command(mut_args(unoffered))]
pub(crate) struct Exec {
    /// A service, one of its slots (order/1), or the id of an instance
    #[arg(value_name = "SERVICE[/SLOT]")]
    pub(crate) instance: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    // Last, as its flags begin a part of the help of their own.
    #[command(flatten)]
    pub(crate) target: Target,
}
