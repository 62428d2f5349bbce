//! The arguments of `formic server`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Listing;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Server {
    #[command(subcommand)]
    pub(crate) verb: Option<ServerVerb>,
    /// Folder with a formic.toml, or the file itself
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Go on in the background; return when it answers
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// `formic apply` builds with the dev profile [default: the profile that this binary was built with]
    #[arg(long, conflicts_with = "release")]
    pub(crate) debug: bool,
    /// `formic apply` builds with the release profile
    #[arg(long)]
    pub(crate) release: bool,
    /// Keep a damaged state under another name and begin an empty one; what runs goes on
    #[arg(long = "set-aside-state")]
    pub(crate) set_aside: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerVerb {
    /// End the server; what runs goes on
    Stop(Detached),
    /// Have another program take over, first as brain, then as keeper, while everything goes on
    Upgrade(Upgrade),
    /// Write a unit for systemd that starts the server with the machine
    Install(Install),
    /// The part of a server that decides; its keeper starts it
    #[command(hide = true)]
    Brain {
        /// Folder of the manifest
        folder: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Detached {
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Upgrade {
    /// The program [default: this one]
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Install {
    /// Folder with a formic.toml, or the file itself
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// A unit of this user, and not of the machine
    #[arg(long)]
    pub(crate) user: bool,
    /// Print the unit and write nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Replace one that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Release {
    /// Id of the instance, as `formic status` shows it
    pub(crate) instance: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}
