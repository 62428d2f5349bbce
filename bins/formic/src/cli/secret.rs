//! The arguments of `formic secret`.

use std::path::PathBuf;

use clap::Subcommand;

use super::Listing;

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Set a secret to what standard input or a file holds
    Set {
        /// Its name: a-z, A-Z, 0-9, `-`, `_` and `.`
        name: String,
        /// Take the value from this file, as it is
        #[arg(long)]
        file: Option<PathBuf>,
        #[command(flatten)]
        listing: Listing,
    },
    /// List the secrets: names and versions
    List(Listing),
    /// Remove a secret with all its versions
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        listing: Listing,
    },
}
