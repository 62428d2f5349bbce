//! The binary `formic`: command line, engine and gateway.

mod app;
mod cli;
mod engine;
mod exit;
mod output;
mod reflect;
mod remote;
mod signals;
mod tls;
mod token;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

fn main() -> ExitCode {
    // The trampoline of an instance and the keeper are this binary too, and must not parse anything of people's.
    match std::env::args_os().nth(1) {
        Some(arg) if arg == formic_supervise::trampoline::ARGUMENT => formic_supervise::trampoline::main(),
        Some(arg) if arg == formic_supervise::keeper::ARGUMENT => formic_supervise::keeper::main(),
        _ => {}
    }
    pass_over_findings();
    let parsed = cli::Cli::command().try_get_matches();
    let parsed = parsed.and_then(|found| Ok((cli::wants_json(&found), cli::Cli::from_arg_matches(&found)?)));
    let (json, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return exit::misused(&error, cli::asks_for_json(std::env::args_os())),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(verbs::run(cli));
            // A read of standard input cannot be cancelled, and must not hold up the end.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(exit::Failure::user("the system gives no threads or event queue").because(error)),
    };
    exit::finish(outcome, json)
}

/// What is damaged may make its reader panic, which is told as damage: the backtrace of a fault of ours would mislead.
fn pass_over_findings() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some(formic_state::READER) {
            others(panic);
        }
    }));
}
