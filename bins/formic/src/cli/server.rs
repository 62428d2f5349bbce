//! The arguments of `formic server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::{Listing, unoffered};

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
    #[command(flatten)]
    pub(crate) doors: Doors,
    /// Keep a damaged state, and a key that does not fit, under other names and begin an empty one; what runs goes on
    #[arg(long = "set-aside-state")]
    pub(crate) set_aside: bool,
}

/// What a server answers at ports, besides its socket.
#[derive(Args, Clone, Debug, Default)]
#[command(group = ArgGroup::new("way_in").multiple(true))]
pub(crate) struct Doors {
    /// Serve the API at this address too, to whoever has a token or a certificate
    #[arg(long, value_name = "ADDRESS", requires = "way_in")]
    pub(crate) listen: Option<SocketAddr>,
    /// Who may use it: a file of names and tokens, of mode 0600; without TLS on loopback alone
    #[arg(long, value_name = "FILE", requires = "listen", group = "way_in")]
    pub(crate) token_file: Option<PathBuf>,
    /// The server's certificate, with those between it and its authority
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of the certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The authority of the callers' certificates: only who has one may use the API
    #[arg(long, value_name = "FILE", requires = "tls_cert", group = "way_in")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Answer Prometheus at this address, such as 127.0.0.1:9090; `formic metrics` needs none
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
}

#[derive(Args, Debug)]
pub(crate) struct NewToken {
    /// The server's file of tokens; made if there is none
    pub(crate) file: PathBuf,
    /// Whose it is: the history calls what is done with it by this name
    #[arg(long, default_value = "default")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServerVerb {
    /// End the server; what runs goes on
    Stop(Detached),
    /// Have another program take over, first as brain, then as keeper, while everything goes on
    Upgrade(Upgrade),
    /// Write a unit for systemd that starts the server with the machine
    Install(Install),
    /// Add a token to a server's file of tokens, and print it
    Token(NewToken),
    /// The part of a server that decides; its keeper starts it
    #[command(hide = true)]
    Brain {
        /// Folder of the manifest
        folder: PathBuf,
    },
}

#[derive(Args, Debug)]
#[command(mut_args(unoffered))]
pub(crate) struct Detached {
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(mut_args(unoffered))]
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
    #[command(flatten)]
    pub(crate) doors: Doors,
}

#[derive(Args, Debug)]
pub(crate) struct Release {
    /// Id of the instance, as `formic status` shows it
    pub(crate) instance: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}
