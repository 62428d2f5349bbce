//! `formic completions`: for bash, zsh, fish, elvish and PowerShell.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::Outcome;
use crate::output;

pub(crate) fn run(shell: clap_complete::Shell) -> Outcome {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "formic", &mut out);
    output::data(&String::from_utf8_lossy(&out));
    Ok(())
}
