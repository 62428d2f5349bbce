//! One file a verb.

mod call;
mod check;
mod completions;
mod describe;
mod gateway;
mod logs;
mod new;
mod services;
mod status;
mod stop;
mod up;

use crate::cli::{Cli, Verb};
use crate::exit::Outcome;

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Outcome {
    match cli.verb {
        Verb::Up(args) => Box::pin(up::run(args)).await,
        Verb::Status(args) => status::run(args).await,
        Verb::Services(args) => services::run(args).await,
        Verb::Describe(args) => describe::run(args).await,
        Verb::Call(args) => Box::pin(call::run(args)).await,
        Verb::Logs(args) => logs::run(args).await,
        Verb::Stop(args) => stop::run(args).await,
        Verb::New(args) => new::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Completions { shell } => completions::run(shell),
        Verb::Gateway => gateway::run().await,
    }
}
