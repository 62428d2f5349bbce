//! One file a verb.

mod apply;
mod call;
mod check;
mod completions;
mod describe;
mod events;
mod exec;
mod gateway;
mod history;
mod intent;
mod logs;
mod metrics;
mod new;
mod plan;
mod proxy;
mod release;
mod restart;
mod rollback;
mod run;
mod scale;
mod secret;
pub(crate) mod server;
mod services;
mod status;
mod stop;
mod system;
mod top;
mod traffic;
pub(crate) mod up;
mod why;
mod wire;

use crate::cli::{Cli, Verb};
use crate::exit::Outcome;

/// Runs the command.
pub(crate) async fn run(cli: Cli) -> Outcome {
    match cli.verb {
        Verb::Up(args) => Box::pin(up::run(args)).await,
        Verb::Server(args) => Box::pin(server::run(args)).await,
        Verb::Status(args) => status::run(args).await,
        Verb::Services(args) => services::run(args).await,
        Verb::Describe(args) => describe::run(args).await,
        Verb::Call(args) => Box::pin(call::run(args)).await,
        Verb::Logs(args) => logs::run(args).await,
        Verb::Stop(args) => stop::run(args).await,
        Verb::Start(args) => intent::start(args).await,
        Verb::Rm(args) => intent::rm(args).await,
        Verb::Down(args) => stop::down(args).await,
        Verb::Pause(args) => intent::pause(args, false).await,
        Verb::Resume(args) => intent::pause(args, true).await,
        Verb::Top(args) => Box::pin(top::run(args)).await,
        Verb::Metrics(args) => metrics::run(args).await,
        Verb::Exec(args) => exec::run(args).await,
        Verb::Plan(args) => Box::pin(plan::run(args)).await,
        Verb::Apply(args) => Box::pin(apply::run(args)).await,
        Verb::Scale(args) => scale::run(args).await,
        Verb::Restart(args) => restart::run(args).await,
        Verb::Run(args) => run::run(args).await,
        Verb::Runs(args) => run::list(args).await,
        Verb::Rollback(args) => rollback::run(args).await,
        Verb::History(args) => history::run(args).await,
        Verb::Events(args) => events::run(args).await,
        Verb::Why(args) => why::run(args).await,
        Verb::Secret(args) => secret::run(args).await,
        Verb::Release(args) => release::run(args).await,
        Verb::Traffic(args) => traffic::run(args).await,
        Verb::New(args) => new::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Completions { shell } => completions::run(shell),
        Verb::Names(target) => completions::names(&target).await,
        Verb::Wire(args) => wire::run(&args),
        Verb::Gateway => gateway::run().await,
        Verb::Proxy => proxy::run().await,
    }
}
